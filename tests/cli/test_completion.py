"""What a shell offers: asked as shells ask, and in a real bash."""

import dataclasses
import os
import shutil
import subprocess
import sys

import pytest

from conceptctl.cli import app
from conceptctl.cli.method_settings import settings_of
from conceptctl.methods import METHODS, find_method
from conceptctl.store import jobs
from tests import synthetic


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    base = synthetic.write_base(folder / "base")
    store = synthetic.make_store(folder / "store", base)
    synthetic.make_store(folder / "empty", base)
    for seed, name in enumerate(("alice", "albert", "falls")):
        synthetic.learn(store, name, seed, class_word="person")
    with store.writing("test"):
        jobs.start(store.layout, {"name": "carol"})
    return folder


@pytest.fixture
def offered(stores, monkeypatch, capsys):
    """What is offered for the last word of a line."""
    monkeypatch.setenv("CONCEPTCTL_STORE", str(stores / "store"))

    def complete(*words, shell="bash"):
        monkeypatch.setenv("_CONCEPTCTL_COMPLETE", f"complete_{shell}")
        line = ["conceptctl", *words]
        monkeypatch.setenv("COMP_WORDS", "\n".join(line))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", " ".join(line))
        with pytest.raises(SystemExit) as ended:
            app.run([])
        said = capsys.readouterr()
        assert (ended.value.code, said.err) == (0, "")
        return said.out.split() if shell == "bash" else said.out

    return complete


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["re"], ["rename", "repair"]),
        (["show", "al"], ["alice", "albert"]),
        (["rm", "f"], ["falls"]),
        (["log", ""], ["alice", "albert", "falls"]),
        (["rename", "al"], ["alice", "albert"]),
        (["rename", "alice", ""], []),
        (["export", "alice", ""], ["albert", "falls"]),
        (["export", "--to", ""], ["concept", "diffusers", "single-file", "lora", "diff", "embedding"]),
        (["export", "alice", "--with", "f"], ["falls"]),
        (["export", "--at", "2"], ["2"]),
        (["generate", "x", "--at", ""], ["3", "2", "1", "0"]),
        (["undo", "--to", ""], ["3", "2", "1", "0"]),
        (["diff", "1", "2"], ["2"]),
        (["learn", "x", "--token", ""], ["carol"]),
        (["learn", "x", "--class", ""], ["person"]),
        (["learn", "x", "--method", "ewc"], ["ewc", "ewc-dc"]),
        (["learn", "x", "--device", ""], ["auto", "cpu", "cuda"]),
        (["learn", "x", "--preset", "pa"], ["paper"]),
        (["learn", "x", "--set", "mask_logit"], ["mask_logit_mean=", "mask_logit_std="]),
        (["learn", "x", "--method", "lora", "--set", "mask"], []),
        (["learn", "--gradient-c"], ["--gradient-checkpointing"]),
        (["eval", "x", "--images", "f"], ["falls="]),
        (["config", "train.ra"], ["train.rank"]),
        (["config", "train.method", "d"], ["dsc", "dsc-ewc", "dsc-ewc-dc"]),
        (["config", "train.rank", ""], []),
        (["init", "--base", ""], ["pocket", "pocket-vit"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_words_that_fit_are_offered(line, words, offered):
    assert offered(*line) == words


def test_the_store_that_the_line_names_is_asked(stores, offered):
    assert offered("show", "--store", str(stores / "empty"), "") == []
    assert offered("show", "--store", str(stores / "none"), "") == []


def test_zsh_is_told_what_words_mean(offered):
    assert offered("undo", "--to", "3", shell="zsh") == '_arguments \'*: :(("3":"learn falls"))\'\n'
    assert offered("show", "fa", shell="zsh") == '_arguments \'*: :(("falls":"person"))\'\n'
    # Files, where nothing else fits.
    assert offered("import", "a", shell="zsh") == "_files\n"


def test_nothing_is_said_of_a_damaged_store(stores, tmp_path, offered, monkeypatch):
    broken = shutil.copytree(stores / "store", tmp_path / "broken")
    (broken / "index.db").write_bytes(b"nonsense")
    monkeypatch.setenv("CONCEPTCTL_STORE", str(broken))
    assert offered("show", "") == []
    monkeypatch.setenv("CONCEPTCTL_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("[[[")
    assert offered("config", "") == []
    assert offered("learn", "x", "--set", "") == []


def test_nothing_is_said_where_a_shell_says_nothing(monkeypatch, capsys):
    monkeypatch.setenv("_CONCEPTCTL_COMPLETE", "complete_bash")
    monkeypatch.delenv("COMP_WORDS", raising=False)
    with pytest.raises(SystemExit) as ended:
        app.run([])
    assert ended.value.code == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("method", METHODS)
def test_settings_read_from_the_sources_are_those_of_the_method(method):
    assert list(settings_of(method)) == [each.name for each in dataclasses.fields(find_method(method).configuration)]
    assert all(settings_of(method).values())


def test_completing_loads_nothing_heavy(stores):
    code = (
        "import sys\nfrom conceptctl.cli.app import run\ntry:\n    run([])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'numpy', 'rich.console') if name in sys.modules], file=sys.stderr)"
    )
    for words, count in (("conceptctl learn x --set ", 4), ("conceptctl show a", 2)):
        told = {"_CONCEPTCTL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
        environment = {**os.environ, **told, "CONCEPTCTL_STORE": str(stores / "store")}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.strip()
        assert done.stderr == "[]\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash_completes(stores, tmp_path):
    program = tmp_path / "conceptctl"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m conceptctl "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(_CONCEPTCTL_COMPLETE=source_bash conceptctl)"\n'
        "COMP_WORDS=(conceptctl show al) COMP_CWORD=2\n"
        '_conceptctl_completion conceptctl\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CONCEPTCTL_STORE": str(stores / "store")}
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("alice\nalbert\n", "")
