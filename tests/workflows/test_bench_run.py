"""`bench run`: every cell once, whatever interrupts it; and what it refuses before anything runs."""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from conceptctl.errors import DeviceFailed, PicturesRefused
from conceptctl.methods import METHODS
from conceptctl.store.store import Store
from conceptctl.workflows.bench import concept_run, engines, run, sequences
from conceptctl.workflows.bench.cell import chosen
from conceptctl.workflows.bench.cells import make_cells
from conceptctl.workflows.bench.find import find_spec
from conceptctl.workflows.bench.spec import Data
from tests.tiny_clip import write_tiny_clip
from tests.workflows.small_bench import CONCEPTS, cli, learned, write_small_bench


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As processes of several cells at once have: figures depend on it in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    write_small_bench(folder)
    return folder


@pytest.fixture(scope="module")
def whole(home):
    """The output folder of a run that nothing interrupted."""
    code, said = cli("bench", "run", home / "tiny.toml", "-o", home / "whole", "--device", "cpu", "--at-once", 1)
    assert code == 0, said
    return home / "whole", said


def results(output):
    return {path.parent.name: json.loads(path.read_text()) for path in output.glob("cells/*/results.json")}


def cell_of(output, method):
    """The results of a method's cell in which all concepts are learned one after the other, in the first spec."""
    found = (each for each in results(output).values() if each["cell"]["method"] == method)
    return next(each for each in found if not each["cell"]["alone"] and each["cell"]["config"]["rank"] != 3)


LASTING = {"seconds", "seconds_a_step", "peak_memory"}


def without_times(found):
    """Results but for what another run of the same would have otherwise."""
    tasks = [{k: v for k, v in task.items() if k not in LASTING} for task in found["tasks"]]
    return {**found, "tasks": tasks, "finished": "", "starts": 0}


def test_every_cell_has_learned_every_concept_once(whole):
    output, said = whole
    assert [cell["name"] for cell in said["cells"]] == ["lora/0", "ti++/0", "bound/0"]
    for cell in said["cells"][:2]:
        store = Store(output / "cells" / cell["path"].rpartition("/")[2] / "store")
        assert len(learned(store)) == CONCEPTS == len(store.head().concepts)


def test_each_alone_is_one_store_a_concept(whole):
    output, said = whole
    cell = output / "cells" / said["cells"][2]["path"].rpartition("/")[2]
    stores = [Store(path) for path in sorted((cell / "stores").iterdir())]
    assert [learned(store) for store in stores] == [["thing-0"], ["thing-1"], ["thing-2"]]
    found = json.loads((cell / "results.json").read_text())
    assert found["evaluations"] == [] and all(each["F_mmd"] == 0 for each in found["learned"])


def test_results_hold_what_the_report_needs(whole):
    found = cell_of(whole[0], "lora")
    assert [each["after"] for each in found["evaluations"]] == [2, 3]
    assert [len(each["figures"]) for each in found["evaluations"]] == [2, 3]
    first, _, last = found["evaluations"][-1]["figures"]
    assert first["F_mmd"] > 0 and last["F_mmd"] == 0
    # To the digits that are kept.
    assert first["BwT_mmd"] == pytest.approx(first["P_mmd"] - first["A_mmd"], abs=1e-7 * first["A_mmd"])
    # Of photographs no judge knows what they show.
    assert first["success"] is None
    distances = [task["distance"] for task in found["tasks"]]
    assert distances[0] > 0 and all(task["n_param_stored"] > 0 for task in found["tasks"])
    assert found["pairs"]["A_mmd"] > 0


def test_a_method_that_changes_no_weight_forgets_nothing(whole):
    found = cell_of(whole[0], "ti++")
    assert [each["F_mmd"] for each in found["evaluations"][-1]["figures"]] == [0, 0, 0]


def test_what_is_finished_is_not_run_again(whole, home):
    output, _ = whole
    before = {path: path.stat().st_mtime_ns for path in output.glob("cells/*/*")}
    code, said = cli("bench", "run", home / "tiny.toml", "-o", output, "--device", "cpu")
    assert code == 0 and all(cell["finished_before"] for cell in said["cells"])
    assert {path: path.stat().st_mtime_ns for path in output.glob("cells/*/*")} == before


def test_damaged_results_are_said_before_anything_runs_and_kept(whole, home):
    output, _ = whole
    path = next(output.glob("cells/tipp*/results.json"))
    text = path.read_text()
    path.write_text(text[:-100])
    code, said = cli("bench", "run", home / "tiny.toml", "-o", output, "--device", "cpu")
    assert code == 4 and str(path) in said["error"]["message"] and "take it away" in said["error"]["hint"]
    assert path.read_text() == text[:-100]
    # As the hint says: what is learned and drawn is still there.
    path.unlink()
    code, said = cli("bench", "run", home / "tiny.toml", "-o", output, "--device", "cpu")
    assert code == 0 and without_times(json.loads(path.read_text())) == without_times(json.loads(text))


def test_a_cell_is_another_one_when_anything_that_decides_it_is(whole, home):
    text = (home / "tiny.toml").read_text()
    other = home / "other.toml"
    other.write_text(
        text.replace("rank = 2", "rank = 3").replace('[methods."ti++"]', '[methods.words]\nmethod = "ti++"')
    )
    code, said = cli("bench", "run", other, "-o", whole[0], "--device", "cpu")
    assert code == 0
    # A row may be called as one likes; another rank is another cell.
    assert {cell["name"]: cell["finished_before"] for cell in said["cells"]} == {
        "lora/0": False,
        "words/0": True,
        "bound/0": True,
    }


def test_what_stands_in_one_table_is_of_one_spec(home, tmp_path):
    """Of two specs of one name rows go on belonging to it that are the same; other pictures make another table."""

    def noted(spec, *cells):
        made = [SimpleNamespace(name=name, key=key) for name, key in cells]
        run._note(spec, made, tmp_path)
        files = {path.name: json.loads(path.read_text())["cells"] for path in (tmp_path / "runs").glob("*.json")}
        return files[min(files, key=len)], files

    spec = find_spec(str(home / "tiny.toml"))
    assert noted(spec, ("lora/0", "first"), ("bound/0", "alone"))[0] == {"lora/0": "first", "bound/0": "alone"}
    assert noted(spec, ("ti++/0", "words"))[0] == {"lora/0": "first", "ti++/0": "words", "bound/0": "alone"}
    lora, *others = spec.entries
    other = dataclasses.replace(spec, entries=(dataclasses.replace(lora, settings={"rank": 3}), *others))
    assert noted(other)[0] == {"ti++/0": "words", "bound/0": "alone"}
    for where in ({"base": "pocket"}, {"data": Data(concepts=2)}):
        elsewhere = dataclasses.replace(other, **where)
        before = noted(other)[1]
        found = noted(elsewhere, ("lora/0", "elsewhere"))[1]
        assert {name: found[name] for name in before} == before
        (new,) = set(found) - set(before)
        assert found[new] == {"lora/0": "elsewhere"} and new.startswith("tiny-own-")
        assert noted(elsewhere, ("ti++/0", "more"))[1][new] == {"lora/0": "elsewhere", "ti++/0": "more"}


def test_a_base_and_an_extractor_are_what_they_are_from_wherever_they_are_named(home, tmp_path, monkeypatch):
    text = (home / "tiny.toml").read_text()
    here = text.replace(f"{home}/", "").replace('folder = "concepts"', f'folder = "{home}/concepts"')
    (tmp_path / "tiny.toml").write_text(here)
    keys = []
    for folder, path in ((tmp_path, home / "tiny.toml"), (home, tmp_path / "tiny.toml")):
        monkeypatch.chdir(folder)
        spec = find_spec(str(path))
        rows = chosen(spec.name, spec.entries, spec.seeds, ["lora"], METHODS)
        (cell,) = make_cells(spec, rows, tmp_path / "out")
        assert cell.feature_extractor == str(home / "clip")
        keys.append(cell.key)
    assert keys[0] == keys[1] and len(list((tmp_path / "out/bases").glob("*/FORMAT"))) == 1
    # What makes the features is another one when its weights are.
    write_tiny_clip(tmp_path / "clip", seed=5)
    spec = dataclasses.replace(spec, feature_extractor=str(tmp_path / "clip"))
    (cell,) = make_cells(spec, rows, tmp_path / "out")
    assert cell.key != keys[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_run_of_two_cells_at_once_that_is_ended_goes_on_and_finds_what_one_after_the_other_finds(whole, home, number):
    output = home / f"ended-{number}"
    command = [sys.executable, "-m", "conceptctl", "bench", "run", str(home / "tiny.toml"), "-o", str(output)]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--at-once", "2"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not list(output.glob("cells/*/drawn/*-learned.json")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, number)
    said = process.communicate()[1]
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert "Traceback" not in said
    first = starts_of(output)
    # What it began ends with it, and soon: their locks must be free.
    assert wait_until(lambda: not any(is_running(each["pid"]) for each in first))
    assert len(results(output)) < 3
    code, said = cli("bench", "run", home / "tiny.toml", "-o", output, "--device", "cpu", "--at-once", 2)
    assert code == 0, said
    found = results(output)
    assert {key: without_times(each) for key, each in found.items()} == {
        key: without_times(each) for key, each in results(whole[0]).items() if key in found
    }
    assert max(each["starts"] for each in found.values()) == 2
    assert len({each["pid"] for each in starts_of(output)}) == len(starts_of(output)) >= 4
    for key in (key for key, each in found.items() if not each["cell"]["alone"]):
        assert len(learned(Store(output / "cells" / key / "store"))) == CONCEPTS


def starts_of(output):
    return [json.loads(line) for path in output.glob("cells/*/starts.jsonl") for line in path.read_text().splitlines()]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def test_another_base_of_the_same_name_makes_other_cells(home, tmp_path):
    shutil.copytree(home / "base", tmp_path / "base")
    spec = dataclasses.replace(find_spec(str(home / "tiny.toml")), base=str(tmp_path / "base"))
    rows = chosen(spec.name, spec.entries, spec.seeds, ["lora"], METHODS)
    keys = [make_cells(spec, rows, tmp_path / "out")[0].key]
    (path,) = (tmp_path / "base/unet").glob("*.safetensors")
    save_file({name: 2 * tensor for name, tensor in load_file(path).items()}, path)
    keys += [make_cells(spec, rows, tmp_path / "out")[0].key for _ in range(2)]
    assert keys[0] != keys[1] == keys[2]
    assert len(list((tmp_path / "out/bases").glob("*/FORMAT"))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("rank = 2", "rank = -1"), "rank"),
        (lambda text: text.replace("rank = 2", "rnk = 2"), "rnk"),
        (lambda text: text.replace('folder = "concepts"', 'folder = "base"'), "concepts.json"),
        (lambda text: text.replace("/clip", "/concepts"), "the feature extractor is no CLIP model"),
        (lambda text: re.sub('base = ".*"', 'base = "pocket-vit"', text), "tells classes apart"),
    ],
)
def test_what_is_refused_leaves_no_base_behind(home, change, message):
    (home / "odd.toml").write_text(change((home / "tiny.toml").read_text()))
    code, said = cli("bench", "run", home / "odd.toml", "-o", home / "odd", "--device", "cpu")
    assert code in (2, 3, 5) and message in said["error"]["message"]
    assert not list((home / "odd").rglob("*.safetensors")) and not list((home / "odd").rglob("FORMAT"))


@pytest.mark.parametrize("name", ["runs", "bases"])
def test_a_file_where_a_folder_should_be_is_named(home, tmp_path, name):
    (tmp_path / name).write_text("")
    code, said = cli("bench", "run", home / "tiny.toml", "-o", tmp_path, "--device", "cpu", "--cells", "ti++")
    assert code == 2 and str(tmp_path / name) in said["error"]["message"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train/000.txt", "no place for it", "{token}"),
        ("concepts.json", '{"concepts": [{"name": "thing-0", "class": "V*x"}]}', "cannot be a class"),
        ("concepts.json", "[" * 100_000, "names no concepts"),
    ],
)
def test_words_are_looked_at_before_anything_runs(home, tmp_path, name, text, message):
    shutil.copytree(home / "concepts", tmp_path / "concepts")
    picture = min((tmp_path / "concepts/thing-0/train").iterdir())
    path = picture.with_suffix(".txt") if name.endswith(".txt") else tmp_path / "concepts" / name
    path.write_text(text)
    code, said = cli(
        "bench", "run", home / "tiny.toml", "--data", tmp_path / "concepts", "-o", tmp_path / "out", "--device", "cpu"
    )
    assert code in (2, 3) and message in said["error"]["message"] and "--skip" not in said["error"]["hint"]
    assert not list(tmp_path.glob("out/cells/*"))


def test_a_damaged_file_of_a_cell_is_named_and_the_others_go_on(whole, home, tmp_path):
    output = tmp_path / "damaged"
    shutil.copytree(whole[0], output)
    for path in output.glob("cells/*/results.json"):
        path.unlink()
    cell = next(output.glob("cells/tipp-*"))
    # A power cut leaves half a line.
    with (cell / "starts.jsonl").open("a") as stream:
        stream.write('{"pid": 1, "ho')
    damaged = cell / "drawn/thing-0-learned.json"
    text = damaged.read_text()
    damaged.write_text(text[:5])
    asked = ("bench", "run", home / "tiny.toml", "-o", output, "--device", "cpu", "--at-once", 1)
    code, said = cli(*asked, "--cells", "ti++", "--cells", "lora")
    assert code == 4 and str(damaged) in said["error"]["message"] and "take the file away" in said["error"]["hint"]
    assert "the others are finished" in said["error"]["hint"]
    assert [each["cell"]["method"] for each in results(output).values()] == ["lora"]
    damaged.write_text(text)
    features = damaged.with_suffix(".safetensors")
    features.write_bytes(features.read_bytes()[:50])
    code, said = cli(*asked, "--cells", "ti++")
    assert code == 4 and str(features) in said["error"]["message"]
    damaged.unlink()
    assert cli(*asked, "--cells", "ti++")[0] == 0


def test_results_of_another_cell_are_not_taken_for_its_own(whole, home, tmp_path):
    output = tmp_path / "swapped"
    shutil.copytree(whole[0], output)
    lora, words = (next(output.glob(f"cells/{name}-*/results.json")) for name in ("lora", "tipp"))
    shutil.copy(lora, words)
    code, said = cli("bench", "report", output)
    assert code == 4 and str(words) in said["error"]["message"] and lora.parent.name in said["error"]["message"]


def test_a_full_disk_is_said_as_one(home, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("conceptctl.workflows.bench.concept_run.copy_store", full)
    asked = ("bench", "run", home / "tiny.toml", "-o", home / "full", "--device", "cpu", "--at-once", 1)
    code, said = cli(*asked)
    assert (
        code == 7 and "3 of 3 cells failed" in said["error"]["message"] and "free some space" in said["error"]["hint"]
    )


def test_only_the_cells_that_are_asked_for(home):
    output = home / "few"
    code, said = cli("bench", "run", home / "tiny.toml", "-o", output, "--cells", "ti*/0", "--device", "cpu")
    assert code == 0 and [cell["name"] for cell in said["cells"]] == ["ti++/0"]
    code, said = cli("bench", "report", output)
    assert code == 0 and said["benches"][0]["missing"] == ["lora/0", "bound/0"]


def test_a_cell_that_fails_does_not_stop_the_others(home, monkeypatch):
    really = concept_run.learn

    def learn(store, request, **how):
        if request.train.method == "lora":
            raise DeviceFailed("the loss became nan")
        return really(store, request, **how)

    monkeypatch.setattr(concept_run, "learn", learn)
    output = home / "failing"
    code, said = cli("bench", "run", home / "tiny.toml", "-o", output, "--device", "cpu", "--at-once", 1)
    assert code == 9 and "2 of 3 cells failed; lora/0: the loss became nan" in said["error"]["message"]
    assert [each["cell"]["method"] for each in results(output).values()] == ["ti++"]
    monkeypatch.undo()
    code, said = cli("bench", "report", output)
    assert code == 0 and said["benches"][0]["failed"] == dict.fromkeys(("lora/0", "bound/0"), "the loss became nan")


def test_of_a_training_that_was_taken_up_nobody_knows_how_long_it_took(home, monkeypatch):
    really = concept_run.learn
    taken_up = []

    def learn(store, request, **how):
        made = really(store, request, **how)
        assert made.resumed is False and made.seconds > 0
        taken_up.append(request.name)
        return dataclasses.replace(made, resumed=request.name == "thing-1")

    monkeypatch.setattr(concept_run, "learn", learn)
    output = home / "taken-up"
    command = ("bench", "run", home / "tiny.toml", "-o", output, "--device", "cpu", "--at-once", 1, "--cells", "ti++")
    assert cli(*command)[0] == 0 and len(taken_up) == CONCEPTS
    (found,) = results(output).values()
    assert [task["seconds"] is None for task in found["tasks"]] == [False, True, False]


def test_two_runs_at_once_do_not_share_a_cell(home):
    from filelock import FileLock

    output = home / "busy"
    command = ("bench", "run", home / "tiny.toml", "-o", output, "--device", "cpu", "--at-once", 1, "--cells")
    assert cli(*command, "ti++")[0] == 0
    (cell,) = (output / "cells").iterdir()
    (cell / "results.json").unlink()
    with FileLock(cell / "lock"):
        code, said = cli(*command, "ti++", "--cells", "lora")
        assert code == 6 and "another run has 1 of 2 cells: ti++/0" in said["error"]["message"]
        assert said["error"]["hint"] and not (cell / "failed.json").exists()
    # The other one is finished, and this one too as soon as nobody else has it.
    code, said = cli(*command, "ti++", "--cells", "lora")
    assert code == 0 and [each["finished_before"] for each in said["cells"]] == [True, False]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (("[methods.lora]", "[methods.nonesuch]"), 5, "there is no method 'nonesuch'"),
        (("rank = 2", "rang = 2"), 5, "has no setting 'rang'"),
        (("rank = 2", "rank = 0"), 2, "rank must be more than 0"),
        (('folder = "concepts"', 'folder = "nowhere"'), 3, "nowhere has no concepts.json"),
        (('folder = "concepts"', "concepts = 2\nkinds = ['dragon']"), 2, "the world has no 'dragon'"),
        (('/base"', '/nobase"'), 5, "no base"),
        (('/clip"', '/noclip"'), 5, "no CLIP model"),
        (('precision = "no"', 'precision = "fp8"'), 2, "no precision 'fp8'"),
        (('precision = "no"', 'precision = "fp16"'), 2, "a CPU does not learn in fp16"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_runs(home, tmp_path, change, code, message):
    text = (home / "tiny.toml").read_text().replace('folder = "concepts"', f'folder = "{home}/concepts"')
    change = (change[0].replace("concepts", f"{home}/concepts", 1) if "folder" in change[0] else change[0], change[1])
    assert change[0] in text
    spec = tmp_path / "spec.toml"
    text = text.replace("[paper.values.lora]\nA_mmd = 3.25", "")
    spec.write_text(text.replace(*change))
    found, said = cli("bench", "run", spec, "-o", tmp_path / "out", "--device", "cpu")
    assert (found, message in said["error"]["message"]) == (code, True), said
    assert not list(tmp_path.glob("out/cells/*/results.json"))


def test_one_held_out_picture_is_too_few(home, tmp_path):
    shutil.copytree(home / "concepts", tmp_path / "concepts")
    _, *others = sorted((tmp_path / "concepts/thing-1/heldout").iterdir())
    for path in others:
        path.unlink()
    command = ("bench", "run", home / "tiny.toml", "-o", tmp_path / "out", "--data", tmp_path / "concepts")
    code, said = cli(*command)
    assert code == 3 and "thing-1/heldout has 1 picture, and needs 2 or more" in said["error"]["message"], said


def test_what_every_cell_needs_is_looked_at_once_before_any_begins(home, tmp_path, monkeypatch):
    output = tmp_path / "out"
    command = ("bench", "run", home / "tiny.toml", "-o", output, "--device", "cpu", "--cells", "ti++")
    monkeypatch.setattr(run, "run_cells", lambda *how: {})
    assert cli(*command)[0] == 0
    (blob,) = sorted(output.glob("bases/*/blobs/sha256/*/*"), key=lambda path: -path.stat().st_size)[:1]
    blob.unlink()
    code, said = cli(*command)
    assert code == 4 and "missing" in said["error"]["message"]
    assert said["error"]["hint"].startswith(f"take {next(output.glob('bases/*/FORMAT')).parent} away")
    assert not (output / "cells").exists()


def test_pictures_of_the_bundled_world_that_are_gone_are_said(tmp_path):
    folder = sequences.write_world(Data(concepts=1, train=2, heldout=3), 0, tmp_path)
    next(folder.glob("*/heldout/*")).unlink()
    with pytest.raises(PicturesRefused, match="heldout has 2 pictures, not 3") as caught:
        sequences.write_world(Data(concepts=1, train=2, heldout=3), 0, tmp_path)
    assert f"take {folder} away" in caught.value.hint


def test_no_engine_and_no_cell_of_that_name(home, tmp_path):
    code, said = cli("bench", "run", home / "tiny.toml", "-o", tmp_path / "out", "--engine", "slurm")
    assert code == 2 and "no engine 'slurm'" in said["error"]["message"]
    for wrong in (["--at-once", 0], ["--at-once", 2, "--engine", "ray"]):
        code, said = cli("bench", "run", home / "tiny.toml", "-o", tmp_path / "out", *wrong)
        assert code == 2 and "--at-once" in said["error"]["message"]
    code, said = cli("bench", "run", home / "tiny.toml", "-o", tmp_path / "out", "--cells", "stamina")
    assert code == 5 and "'stamina'" in said["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_a_process_that_is_killed_stops_no_other_cell(home, whole, monkeypatch):
    """As where memory runs out: the process of the first cell is killed as soon as it has begun."""
    spec, output = find_spec(str(home / "tiny.toml")), home / "one-killed"
    output.mkdir()
    cells = make_cells(spec, chosen(spec.name, spec.entries, spec.seeds, ["lora", "ti++"], METHODS), output)
    told = []

    def progress(what, done):
        told.append(done)
        if starts := [*cells[0].home(output).glob("starts.jsonl")]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(json.loads(starts[0].read_text())["pid"], signal.SIGKILL)

    monkeypatch.setattr(engines, "_POLL", 0.02)
    failed = engines._side_by_side(cells, output, "cpu", [{"OMP_NUM_THREADS": "1"}] * 2, progress)
    assert list(failed) == ["lora/0"] and "ended with -9; memory may have run out" in str(failed["lora/0"])
    (found,) = results(output).items()
    assert without_times(found[1]) == without_times(results(whole[0])[found[0]])
    assert told[-1] >= CONCEPTS


def test_on_a_cpu_there_is_a_process_a_core_with_one_thread_as_far_as_memory_goes(home, monkeypatch):
    spec = find_spec(str(home / "tiny.toml"))
    cells = make_cells(spec, chosen(spec.name, spec.entries, spec.seeds, (), METHODS), home / "places")
    weights = engines._weights(cells[0].base)
    assert weights > 1000
    monkeypatch.setattr(engines, "_cores", lambda: 8)
    monkeypatch.setattr(engines, "_free_memory", lambda: 1 << 50)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert engines._on_cpu(cells) == [{"OMP_NUM_THREADS": "1"}] * 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(engines, "_cores", lambda: 2)
    assert engines._on_cpu(cells) == [{"OMP_NUM_THREADS": "2"}] * 2
    monkeypatch.setattr(engines, "_free_memory", lambda: (1 << 30) + 3 * weights)
    assert len(engines._on_cpu(cells)) == 1
    monkeypatch.setattr(engines, "_free_memory", lambda: 0)
    assert len(engines._on_cpu(cells)) == 1


def test_one_place_runs_cells_in_this_process_and_cards_are_shared_where_more_are_asked_for(home, monkeypatch):
    spec = find_spec(str(home / "tiny.toml"))
    cells = make_cells(spec, chosen(spec.name, spec.entries, spec.seeds, (), METHODS), home / "places")
    asked = []
    monkeypatch.setattr(engines, "_on_cpu", lambda cells: [{"A": "1"}, {"A": "2"}])
    monkeypatch.setattr(engines, "_side_by_side", lambda *how: asked.append(how[3]) or {})
    monkeypatch.setattr(engines, "_in_turn", lambda *how: asked.append("in turn") or {})
    for at_once in (None, 1, 3, 9):
        engines.run_cells("local", cells, home, "cpu", lambda what, done: None, at_once)
    two = [{"A": "1"}, {"A": "2"}]
    assert asked == [two, "in turn", [*two, {"A": "1"}], [*two, {"A": "1"}]]
