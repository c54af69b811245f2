"""`learn --batch`: several concepts from one file, judged before the first, and taken up where it stopped."""

# ruff: noqa: F811 - fixtures are asked for by the names that they are imported under

import json
import os
import shutil

import pytest

from conceptctl.cli.app import run
from conceptctl.cli.learn_display import Display
from conceptctl.errors import DeviceFailed
from conceptctl.store import jobs
from conceptctl.store.concept import read_record
from conceptctl.workflows.fold import fold
from tests.small_learn import base_folder, folder, small_pictures, store  # noqa: F401

FILE = """
[defaults]
steps = 3
batch_size = 2
device = "cpu"

[[concept]]
folder = "photos"
token = "alice"
class = "cat"
aux = 0
flip = true
set = {rank = 2}

[[concept]]
folder = "photos"
token = "falls"
method = "lora"
license = "CC0"
"""


@pytest.fixture
def batch(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "photos")
    (tmp_path / "runs.toml").write_text(FILE, encoding="utf-8")
    return tmp_path / "runs.toml"


@pytest.fixture
def learn(store, batch, capsys, monkeypatch, tmp_path):
    """Runs the command from elsewhere than the file's folder; returns its answer."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def command(*options, code=0, text=None):
        if text is not None:
            batch.write_text(text, encoding="utf-8")
        capsys.readouterr()
        assert run(["learn", "--batch", str(batch), "--store", str(store.layout.root), "--json", *options]) == code
        return json.loads(capsys.readouterr().out)

    return command


def test_all_are_learned_as_the_file_says_and_not_again(learn, store):
    shown = learn("--dry-run")["concepts"]
    assert [(each["name"], each["learned"], each["plan"]["config"]["steps"]) for each in shown] == [
        ("alice", False, 3), ("falls", False, 3)]  # fmt: skip
    assert store.head().seq == 0
    made = learn()
    assert [(each["done"], each["concept"]["name"]) for each in made["concepts"]] == [
        ("now", "alice"),
        ("now", "falls"),
    ]
    alice, falls = (read_record(store.blob(store.concept(name))) for name in ("alice", "falls"))
    assert (alice.method, alice.class_word, alice.steps, alice.settings["rank"]) == ("stamina", "cat", 3, 2)
    assert (falls.method, falls.license, alice.settings["flip"]) == ("lora", "CC0", True)
    fold(store)
    again = learn()
    assert [each["done"] for each in again["concepts"]] == ["before", "before"]
    assert again["generation"] == store.head().seq == 3


def test_a_table_sums_up(batch, store, capsys):
    assert run(["learn", "--batch", str(batch), "--store", str(store.layout.root)]) == 0
    said = capsys.readouterr()
    rows = [line.split("\t") for line in said.out.splitlines()]
    assert [row[:3] for row in rows] == [
        ["concept", "what", "pictures"],
        ["alice", "learned", "4"],
        ["falls", "learned", "4"],
    ]
    assert "V*falls: 2 of 2" in said.err
    assert "2 concepts learned, 0 learned before" in said.err


def test_what_stopped_goes_on_with_the_same_command(learn, store, capsys, monkeypatch, batch):
    longer = FILE.replace("steps = 3", "steps = 20")
    plain, seen = Display.report, []

    def interrupt(self, report):
        if store.head().seq == 1 and report.step == 10:
            raise KeyboardInterrupt
        plain(self, report)

    monkeypatch.setattr(Display, "report", interrupt)
    batch.write_text(longer, encoding="utf-8")
    # Ctrl-C: typer makes an exit of it.
    assert run(["learn", "--batch", str(batch), "--store", str(store.layout.root)]) == 130
    assert "learned: alice; not yet: falls; the same command goes on there" in capsys.readouterr().err
    assert [job.load().step for job in jobs.found(store.layout)] == [10]
    monkeypatch.setattr(Display, "report", lambda self, report: seen.append(report.step))
    assert [each["done"] for each in learn(text=longer)["concepts"]] == ["before", "now"]
    assert seen == [20]


def test_a_failure_ends_it_and_says_what_is_done(learn, store, monkeypatch):
    from conceptctl.workflows.learn import run as workflow

    plain = workflow.learn

    def fail(opened, request, **how):
        if request.name == "falls":
            raise DeviceFailed("out of memory", hint="--aux 0")
        return plain(opened, request, **how)

    monkeypatch.setattr(workflow, "learn", fail)
    error = learn(code=9)["error"]
    assert error["message"] == "out of memory (learned: alice; not yet: falls; the same command goes on there)"
    assert error["hint"] == "--aux 0"
    assert [each.name for each in store.head().concepts] == ["alice"]


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("rank = 2", "rnk = 2", 5, "rnk"),
        ("flip", "flop", 2, "concept 1 (alice): nothing is called 'flop'; did you mean flip"),
        ("flip = true", "flip = 1", 2, "flip is true or false, not 1"),
        ("steps = 3", "steps = true", 2, "steps is no switch"),
        ("steps = 3", 'steps = "three"', 2, "concept 1 (alice): Invalid value for '--steps'"),
        ("steps = 3", "json = true", 2, "nothing is called 'json'"),
        ("steps = 3", "steps = [3]", 2, "steps is one value"),
        ("steps = 3", "steps = {a = 1}", 2, "steps cannot be"),
        ('method = "lora"', 'method = "laura"', 5, "laura"),
        ('token = "falls"', 'token = "alice"', 2, "'alice' is the token of two entries"),
        ('token = "falls"', "", 2, "concept 2 (no token) has no token"),
        ('"photos"\ntoken = "falls"', '"nowhere"\ntoken = "falls"', 3, "nowhere"),
        ("[[concept]]", "[[concepts]]", 2, "nothing is called 'concepts'"),
        ("[[concept]]", "[concept]", 2, "not a TOML file"),
        ("[defaults]", "[defaults", 2, "not a TOML file"),
    ],
)
def test_a_file_that_cannot_be_meant_changes_nothing(learn, store, old, new, code, words):
    error = learn(code=code, text=FILE.replace(old, new))["error"]
    assert words in f"{error['message']}; {error['hint']}"
    assert store.head().seq == 0


def test_a_file_without_concepts_and_none_at_all(learn, batch):
    assert "no concepts" in learn(code=2, text="[defaults]\nsteps = 3\n")["error"]["message"]
    batch.unlink()
    assert "there is no file" in learn(code=5)["error"]["message"]


def test_what_stands_in_the_file_does_not_stand_beside_it(learn):
    error = learn("--steps", "3", code=2)["error"]
    assert "--steps does not go with --batch" in error["message"]


def test_what_was_learned_otherwise_is_said_before_anything(learn, store, tmp_path):
    learn()
    other = FILE.replace('license = "CC0"', 'license = "CC-BY"')
    error = learn(code=5, text=other)["error"]
    assert "license was 'CC0', not 'CC-BY'" in error["message"]
    # It may be replaced, once.
    again = other.replace('token = "falls"', 'token = "falls"\nreplace = true')
    assert [each["done"] for each in learn(text=again)["concepts"]] == ["before", "now"]
    assert [each["done"] for each in learn(text=again)["concepts"]] == ["before", "before"]
    # What was learned needs its pictures no more.
    shutil.rmtree(tmp_path / "photos")
    assert [each["done"] for each in learn(text=other)["concepts"]] == ["before", "before"]


def test_a_concept_or_a_file_is_needed(store, folder, capsys):
    root = ["--store", str(store.layout.root)]
    assert run(["learn", *root]) == 2
    assert "missing DIR" in capsys.readouterr().err
    assert run(["learn", str(folder), *root]) == 2
    assert "missing --token" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "not UTF-8"])
def test_what_is_no_file_of_text_is_refused_at_once(tmp_path, capsys, kind):
    path = tmp_path / "runs.toml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/full")
    else:
        path.write_bytes(b"\xff\xfe[[concept]]")
    assert run(["learn", "--batch", str(path), "--dry-run", "--store", str(tmp_path / "store")]) == 2
    assert "hint:" in capsys.readouterr().err
