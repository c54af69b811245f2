"""`bench run`: every cell once, whatever interrupts it; and what it refuses before anything runs."""

import json
import os
import queue
import signal
import subprocess
import sys
import time

import pytest

from conceptctl.errors import DeviceFailed
from conceptctl.methods import METHODS
from conceptctl.store.store import Store
from conceptctl.workflows.bench import concept_run, engines
from conceptctl.workflows.bench.cell import chosen
from conceptctl.workflows.bench.cells import make_cells
from conceptctl.workflows.bench.spec import named_spec
from tests.workflows.small_bench import CONCEPTS, cli, learned, write_small_bench


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    write_small_bench(folder)
    return folder


@pytest.fixture(scope="module")
def whole(home):
    """The output folder of a run that nothing interrupted."""
    code, said = cli("bench", "run", home / "tiny.toml", "-o", home / "whole", "--device", "cpu")
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
    assert first["BwT_mmd"] == pytest.approx(first["P_mmd"] - first["A_mmd"], abs=1e-6)
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


def test_a_killed_run_goes_on_and_finds_the_same(whole, home):
    output = home / "killed"
    command = [sys.executable, "-m", "conceptctl", "bench", "run", str(home / "tiny.toml"), "-o", str(output)]
    process = subprocess.Popen([*command, "--device", "cpu"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list(output.glob("cells/*/drawn/*-learned.json")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(results(output)) < 3
    assert cli("bench", "run", home / "tiny.toml", "-o", output, "--device", "cpu")[0] == 0
    found = results(output)
    assert {key: without_times(each) for key, each in found.items()} == {
        key: without_times(each) for key, each in results(whole[0]).items() if key in found
    }
    assert max(each["starts"] for each in found.values()) == 2
    for key in (key for key, each in found.items() if not each["cell"]["alone"]):
        assert len(learned(Store(output / "cells" / key / "store"))) == CONCEPTS


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
    code, said = cli("bench", "run", home / "tiny.toml", "-o", output, "--device", "cpu")
    assert code == 9 and "2 of 3 cells failed; lora/0: the loss became nan" in said["error"]["message"]
    assert [each["cell"]["method"] for each in results(output).values()] == ["ti++"]
    monkeypatch.undo()
    code, said = cli("bench", "report", output)
    assert code == 0 and said["benches"][0]["failed"] == dict.fromkeys(("lora/0", "bound/0"), "the loss became nan")


def test_two_runs_at_once_do_not_share_a_cell(home):
    from filelock import FileLock

    output = home / "busy"
    output.mkdir()
    assert cli("bench", "run", home / "tiny.toml", "-o", output, "--cells", "ti++", "--device", "cpu")[0] == 0
    (cell,) = (output / "cells").iterdir()
    (cell / "results.json").unlink()
    with FileLock(cell / "lock"):
        code, said = cli("bench", "run", home / "tiny.toml", "-o", output, "--cells", "ti++", "--device", "cpu")
    assert code == 9 and "is being run by another process" in said["error"]["message"]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (("[methods.lora]", "[methods.nonesuch]"), 5, "there is no method 'nonesuch'"),
        (("rank = 2", "rang = 2"), 5, "has no setting 'rang'"),
        (("rank = 2", "rank = 0"), 2, "rank must be more than 0"),
        (('folder = "concepts"', 'folder = "nowhere"'), 3, "nowhere has no concepts.json"),
        (('folder = "concepts"', "concepts = 2\nkinds = ['dragon']"), 2, "the world has no 'dragon'"),
        (('/base"', '/nobase"'), 5, "no base"),
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


def test_no_engine_and_no_cell_of_that_name(home, tmp_path):
    code, said = cli("bench", "run", home / "tiny.toml", "-o", tmp_path / "out", "--engine", "slurm")
    assert code == 2 and "no engine 'slurm'" in said["error"]["message"]
    code, said = cli("bench", "run", home / "tiny.toml", "-o", tmp_path / "out", "--cells", "stamina")
    assert code == 5 and "'stamina'" in said["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_two_processes_share_the_cells(home, whole):
    """As on two graphics cards, but that both are the CPU."""
    spec, output = named_spec(str(home / "tiny.toml")), home / "shared"
    output.mkdir()
    cells = make_cells(spec, chosen(spec.name, spec.entries, spec.seeds, ["lora", "ti++"], METHODS), output)
    told = []
    failed = engines._side_by_side(cells, output, "cpu", ["", ""], lambda what, done: told.append(done))
    assert failed == {} and told[-1] == 2 * CONCEPTS
    starts = [json.loads(path.read_text().splitlines()[0])["pid"] for path in output.glob("cells/*/starts.jsonl")]
    assert len(starts) == len(set(starts)) == 2
    found = {key: without_times(each) for key, each in results(output).items()}
    assert found == {key: without_times(each) for key, each in results(whole[0]).items() if key in found}


def test_a_process_that_ends_without_a_word_is_said():
    class Lost:
        exitcode = -9
        ended = False

        def terminate(self):
            self.ended = True

    worker = Lost()
    with pytest.raises(DeviceFailed, match="ended with -9"):
        engines._next_answer([worker], queue.Queue(), lambda: None)
    assert worker.ended
