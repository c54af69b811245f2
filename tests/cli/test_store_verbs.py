"""The store's verbs as a user meets them: what they print, and what they end with."""

import json

import pytest

from conceptctl.cli.app import VERBS, run
from conceptctl.store import jobs
from conceptctl.store.store import Store
from tests import synthetic

NAMES = ("alice", "bob")


@pytest.fixture(autouse=True)
def _without_prompts(monkeypatch):
    # These bases have no text encoder.
    synthetic.without_prompts(monkeypatch)


@pytest.fixture
def root(tmp_path, monkeypatch):
    base = synthetic.write_base(tmp_path / "base")
    path = tmp_path / "store"
    monkeypatch.setenv("CONCEPTCTL_STORE", str(path))
    assert run(["init", "--base", str(base), "--quiet"]) == 0
    store = Store(path)
    for seed, name in enumerate(NAMES):
        (tmp_path / f"{name}.safetensors").write_bytes(
            synthetic.concept_bytes(store, name, seed, license="CC-BY", consent="alice agreed on 2026-11-01")
        )
    return path


@pytest.fixture
def two(root, tmp_path, capsys):
    for name in NAMES:
        assert run(["import", str(tmp_path / f"{name}.safetensors")]) == 0
    capsys.readouterr()
    return root


def answer(capsys, *arguments, code=0):
    assert run([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_init_says_where_and_on_what(tmp_path, capsys):
    base = synthetic.write_base(tmp_path / "base")
    made = answer(capsys, "init", "--base", str(base), "--store", str(tmp_path / "s"))
    assert made["store"] == str(tmp_path / "s")
    assert made["base"]["name"] == "local folder"
    problem = answer(capsys, "init", "--base", str(base), "--store", str(tmp_path / "s"), code=5)["error"]
    assert problem["kind"] == "AlreadyExists"
    assert "one base" in problem["hint"]


@pytest.mark.parametrize(
    "arguments",
    [
        *(["list"], ["log"], ["info"], ["show", "x"], ["undo", "--yes"], ["fold"], ["gc"], ["compact"]),
        *(["verify"], ["repair"]),
    ],
)
def test_without_a_store_the_command_to_run_is_named(arguments, tmp_path, capsys):
    problem = answer(capsys, *arguments, "--store", str(tmp_path / "none"), code=5)["error"]
    assert "conceptctl init" in problem["hint"]
    assert not (tmp_path / "none").exists()


def test_on_the_default_path_plain_init_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CONCEPTCTL_STORE", raising=False)
    monkeypatch.setattr("conceptctl.store.layout.default_root", lambda: tmp_path / "default")
    assert answer(capsys, "list", code=5)["error"]["hint"] == "conceptctl init"
    named = answer(capsys, "list", "--store", str(tmp_path / "two words"), code=5)["error"]
    assert named["hint"] == f"conceptctl init --store '{tmp_path}/two words'"
    monkeypatch.setenv("CONCEPTCTL_STORE", str(tmp_path / "other"))
    assert answer(capsys, "list", code=5)["error"]["hint"] == f"conceptctl init --store {tmp_path}/other"
    # Here plain `init` would make the other one.
    problem = answer(capsys, "list", "--store", str(tmp_path / "default"), code=5)["error"]
    assert problem["hint"] == f"conceptctl init --store {tmp_path}/default"


@pytest.mark.parametrize(
    ("base", "code", "word"),
    [
        ("no such thing", 5, "--base takes"),
        ("./nowhere", 5, "--base takes"),
        ("../nowhere", 5, "--base takes"),
        ("models/two--dashes", 5, "--base takes"),
        ("model.ckpt", 8, ""),
        ("x.pt", 8, ""),
    ],
)
def test_bases_that_cannot_be_had(base, code, word, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problem = answer(capsys, "init", "--base", base, "--store", str(tmp_path / "s"), code=code)["error"]
    assert word in problem["hint"]
    assert not (tmp_path / "s").exists()


def test_a_hub_id_without_a_network(tmp_path, capsys, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("cannot reach the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    problem = answer(capsys, "init", "--base", "owner/model", "--store", str(tmp_path / "s"), code=5)["error"]
    assert "hf download owner/model --local-dir" in problem["hint"]
    assert not (tmp_path / "s").exists()


def test_a_hub_id_with_one(tmp_path, capsys, monkeypatch):
    import huggingface_hub

    folder = synthetic.write_base(tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    made = answer(capsys, "init", "--base", "owner/model", "--store", str(tmp_path / "s"))
    assert made["base"]["name"] == "owner/model"


def test_a_hub_id_of_another_kind_of_model_is_refused_before_its_weights_come(tmp_path, capsys, monkeypatch):
    import huggingface_hub

    folder = synthetic.write_base(tmp_path / "snapshot")
    (folder / "transformer").mkdir()
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, allow_patterns: asked.append(allow_patterns) or str(folder)
    )
    answer(capsys, "init", "--base", "owner/sd3", "--store", str(tmp_path / "s"), code=8)
    assert asked == [["*.json", "*.txt", "*.model"]]


def test_a_folder_with_pickles_only(tmp_path, capsys):
    folder = synthetic.write_base(tmp_path / "base")
    (folder / "vae/diffusion_pytorch_model.safetensors").rename(folder / "vae/diffusion_pytorch_model.bin")
    assert answer(capsys, "init", "--base", str(folder), "--store", str(tmp_path / "s"), code=8)


@pytest.mark.parametrize(
    ("place", "text", "reason"),
    [
        ("transformer/config.json", "{}", "a transformer in the place of a U-Net"),
        ("unet/config.json", '{"in_channels": 9}', "9 channels"),
    ],
)
def test_a_folder_with_another_kind_of_model(tmp_path, capsys, place, text, reason):
    folder = synthetic.write_base(tmp_path / "base")
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text(text)
    problem = answer(capsys, "init", "--base", str(folder), "--store", str(tmp_path / "s"), code=8)["error"]
    assert reason in problem["message"]
    assert not (tmp_path / "s").exists()


def test_list(two, capsys):
    listed = answer(capsys, "list")
    assert [each["name"] for each in listed["concepts"]] == ["alice", "bob"]
    assert set(listed["concepts"][0]) == {
        "name", "class", "method", "learned", "folded", "consolidated", "bytes", "damaged"
    }  # fmt: skip
    assert run(["ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("\t") == ["name", "class", "method", "learned", "weights", "size"]
    assert len(lines) == 3
    assert run(["list", "--quiet"]) == 0
    assert capsys.readouterr().out == "alice\nbob\n"


def test_list_shows_damage(two, capsys):
    store = Store(two)
    path = store.blob(store.concept("alice"))
    path.chmod(0o600)
    path.write_bytes(b"")
    assert [each["damaged"] for each in answer(capsys, "list")["concepts"]] == [True, False]


def test_show_tells_where_a_concept_came_from(two, capsys):
    shown = answer(capsys, "show", "alice")
    assert shown["license"] == "CC-BY"
    assert shown["consent"] == "alice agreed on 2026-11-01"
    assert shown["generation"] == 1
    assert (shown["steps"], shown["photos"], shown["seed"]) == (500, 12, 0)
    assert run(["show", "alice"]) == 0
    brief = capsys.readouterr().out
    assert "loss\t0.5 -> 0.125\n" in brief
    assert "from\t12 pictures\n" in brief
    assert "not folded yet" in brief
    assert shown["uid"] not in brief
    assert run(["show", "alice", "--full"]) == 0
    whole = capsys.readouterr().out
    assert whole.startswith(brief)
    assert f"uid\t{shown['uid']}\n" in whole
    assert "rank\t16\n" in whole
    assert "loss curve\t0.5, 0.25, 0.125\n" in whole
    problem = answer(capsys, "show", "alise", code=5)["error"]
    assert "alice" in problem["hint"]


def test_the_note_goes_with_an_export(two, tmp_path, capsys):
    answer(capsys, "export", "alice", "--raw", "-o", str(tmp_path / "out.safetensors"))
    answer(capsys, "forget", "alice", "--purge", "--yes")
    answer(capsys, "import", str(tmp_path / "out.safetensors"))
    assert answer(capsys, "show", "alice")["consent"] == "alice agreed on 2026-11-01"


def test_export(two, tmp_path, capsys):
    folder = tmp_path / "all"
    files = answer(capsys, "export", "--raw", "--output", str(folder))["files"]
    assert [(each["name"], each["whole"], each["stands_on"], each["changed"]) for each in files] == [
        ("alice", True, [], None),
        ("bob", False, ["alice"], None),
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["alice.safetensors", "bob.safetensors"]
    assert [each["bytes"] for each in files] == [(folder / f"{name}.safetensors").stat().st_size for name in NAMES]
    assert answer(capsys, "export", "alice", "-o", str(folder), code=5)["error"]["kind"] == "AlreadyExists"
    assert answer(capsys, "export", "none", "-o", str(tmp_path / "x"), code=5)
    assert answer(capsys, "export", "alice", "--to", "jpeg", code=2)
    assert answer(capsys, "export", "alice", "-o", str(tmp_path / "no/where"), code=5)
    # To make one whole takes what the text encoder makes of its prompts.
    problem = answer(capsys, "export", "alice", "-o", str(tmp_path / "x"), code=5)["error"]
    assert "no CLIP text encoder" in problem["message"]
    store = Store(two)
    path = store.blob(store.concept("alice"))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert answer(capsys, "export", "alice", "-o", str(tmp_path / "x"), code=4)
    assert answer(capsys, "export", "alice", "--raw", "-o", str(tmp_path / "x"), code=4)
    assert list(tmp_path.glob("*x*")) == []


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--with", "bob"], "conceptctl export NAME --with bob"),
        (["alice", "--raw", "--with", "bob"], "--raw, or --with"),
        (["alice", "--at", "1"], "leave out --at"),
        (["alice", "--with", "alice"], "--with names other concepts"),
    ],
)
def test_what_cannot_be_asked_of_an_export_together(options, word, two, tmp_path, capsys):
    problem = answer(capsys, "export", *options, "-o", str(tmp_path / "x"), code=2)["error"]
    assert word in problem["hint"]
    assert not (tmp_path / "x").exists()


def test_what_stands_on_others_is_said(two, tmp_path, capsys):
    assert run(["export", "bob", "--raw", "-o", str(tmp_path / "bob2.safetensors")]) == 0
    assert "bob: as it was learned, on top of alice, and other without them" in capsys.readouterr().err
    assert answer(capsys, "forget", "alice", "--yes")["kept"] == {}
    assert answer(capsys, "forget", "bob", "--yes")["left"] is None
    assert run(["import", str(tmp_path / "bob2.safetensors")]) == 0
    assert "bob was learned on top of alice, not here" in capsys.readouterr().err


def test_log_and_info(two, capsys):
    assert [each["verb"] for each in answer(capsys, "log")["generations"]] == ["import", "import", "init"]
    facts = answer(capsys, "info")
    assert (facts["concepts"], facts["folded"], facts["generation"]) == (2, 0, 2)
    assert facts["free"] > 0
    assert run(["info"]) == 0
    assert "a store has one base" in capsys.readouterr().out


def test_interrupted_lessons_are_shown_and_can_be_purged(two, capsys):
    store = Store(two)
    with store.writing("test"):
        jobs.start(store.layout, {"name": "carol"})
    assert answer(capsys, "info")["interrupted"] == ["carol"]
    assert run(["info"]) == 0
    assert "carol: begun and not finished" in capsys.readouterr().out
    assert "--purge" in answer(capsys, "forget", "carol", "--yes", code=5)["error"]["hint"]
    purged = answer(capsys, "forget", "carol", "--purge", "--yes")
    assert (purged["done"], purged["interrupted"], purged["generation"]) == (True, 1, 2)
    assert answer(capsys, "info")["interrupted"] == []


DESTRUCTIVE = [["undo"], ["forget", "alice"], ["forget", "alice", "--purge"], ["gc"], ["repair"], ["compact"]]


def something_to_do(root):
    """Leave a loose blob for gc, and an unsealed index for repair."""
    store = Store(root)
    with store.writing("test") as writer:
        writer.add_file(root.parent / "base/vae/diffusion_pytorch_model.safetensors")
        loose = synthetic.concept_bytes(store, "loose", 9)
        (root.parent / "loose").write_bytes(loose)
        writer.add_file(root.parent / "loose")
    store.layout.index_sum.unlink()


@pytest.mark.parametrize("arguments", DESTRUCTIVE, ids=" ".join)
def test_nothing_goes_without_being_asked(arguments, two, capsys):
    something_to_do(two)
    before = {path: path.read_bytes() for path in two.rglob("*") if path.is_file() and "locks" not in path.parts}
    assert answer(capsys, *arguments, code=2)["error"]["hint"] == "--yes, or --dry-run"
    planned = answer(capsys, *arguments, "--dry-run")
    assert planned["done"] is False
    after = {path: path.read_bytes() for path in two.rglob("*") if path.is_file() and "locks" not in path.parts}
    assert after == before
    assert answer(capsys, *arguments, "--yes")["done"] is True


def test_asking(two, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    assert run(["undo"]) == 0
    assert "undo generation 2 (import bob)\n  to a new generation equal to 1 (import alice)" in capsys.readouterr().err


def test_verify_is_not_ok_about_damage(two, capsys):
    assert answer(capsys, "verify")["ok"] is True
    store = Store(two)
    path = store.blob(store.concept("alice"))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert answer(capsys, "verify")["ok"] is True
    report = answer(capsys, "verify", "--read-data", code=4)
    assert "concept alice" in report["problems"][0]["what"]


def test_busy_says_who(two, capsys):
    with Store(two).writing("learn"):
        problem = answer(capsys, "fold", code=6)["error"]
    assert "learn" in problem["message"]
    assert "process" in problem["message"]


def test_fold(two, capsys):
    assert answer(capsys, "fold", "--dry-run")["folded"] == ["alice", "bob"]
    assert answer(capsys, "fold")["done"] is True
    assert answer(capsys, "fold")["done"] is False
    assert all(each["folded"] for each in answer(capsys, "list")["concepts"])


# A group has verbs of its own, and only these take options.
COMMANDS = [["bench", "data"] if verb == "bench" else [verb] for verb in VERBS]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_verb_has_examples_and_an_exit_status(command, capsys):
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    for part in ("EXAMPLES\n    conceptctl ", "EXIT STATUS\n    0   ok\n", " --json ", " --quiet "):
        assert part in shown
