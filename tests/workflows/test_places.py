"""Places that files are to be written to, and those that they cannot be written to."""

import os
from pathlib import Path

import pytest

from conceptctl.cli.app import run
from conceptctl.errors import UsageError
from conceptctl.workflows.places import check_name, check_writable, shortened, writable
from tests import synthetic
from tests.tiny_pipeline import WIDTH, key_value_shapes, write_tiny_pipeline

LONG = "a" * 300
DEEP = "a/" * 2200


@pytest.fixture
def impossible(tmp_path, monkeypatch):
    """Paths that cannot be, by what is wrong with them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    return {
        "too long": LONG,
        "too deep": DEEP,
        "below a file": "file/x",
        "a loop of links": "loop/x",
        "below a link to nothing": "dangling/x",
        "not for people": "/proc/x",
    }


WRONG = ("too long", "too deep", "below a file", "a loop of links", "below a link to nothing", "not for people")


@pytest.mark.parametrize("wrong", WRONG)
def test_places_that_cannot_be_are_told_from_those_that_can(wrong, impossible, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match="cannot write into"):
        check_writable(tmp_path / impossible[wrong])
    assert sorted(tmp_path.iterdir()) == before


def test_what_was_made_in_vain_goes_again(tmp_path):
    with pytest.raises(ZeroDivisionError), writable(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with writable(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "picture").touch()
    with writable(tmp_path / "a"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b", "picture"]


def test_a_disk_that_is_full_is_no_bad_place(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space"):
        check_writable(tmp_path)


def test_names_are_checked_without_making_anything(tmp_path):
    check_name(tmp_path / "none.png")
    with pytest.raises(UsageError, match="too long"):
        check_name(tmp_path / LONG)
    assert len(shortened("x" * 5000)) < 210
    assert shortened("x") == "x"


COMMANDS = (
    "generate x --steps 1 -o PATH",
    "generate x --steps 1 -o out --grid PATH/g.png",
    "list --store PATH",
    "info --store PATH",
    "export alice -o PATH",
    "export alice --to diffusers -o PATH",
    "import PATH",
    "bench data PATH --concepts 1",
    "init --store PATH",
    "init --store new --base PATH",
    "eval PATH --report PATH",
    "learn PATH --token q --class dog",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    base = write_tiny_pipeline(folder / "base")
    made = synthetic.make_store(folder / "store", base)
    synthetic.learn(made, "alice", shapes=key_value_shapes(base), width=WIDTH)
    return str(folder / "store")


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_path_that_cannot_be_is_said_in_one_line(
    command, wrong, impossible, store, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("CONCEPTCTL_STORE", store)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("conceptctl.workflows.generate.prepared.load", None)
    before = sorted(Path().iterdir())
    code = run([word.replace("PATH", impossible[wrong]) for word in command.split()])
    said = capsys.readouterr().err
    assert code in (2, 3, 5), said
    assert code != 3 or command.startswith(("learn", "eval"))
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1
    assert sorted(Path().iterdir()) == before
