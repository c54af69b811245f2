"""What stdout and stderr may be: closed, full, broken, or without a letter."""

import errno
import json
import os
import subprocess
import sys

import pytest

from conceptctl.cli import streams, system_errors
from tests import synthetic

NAME = "g\u00fc\u306e"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams") / NAME
    folder.mkdir()
    made = synthetic.make_store(folder / "store", synthetic.write_base(folder / "base"))
    synthetic.learn(made, "alice")
    return folder / "store"


def shell(command, **environment):
    """Run a line of shell in which `$C` is the program; return its exit code, and bytes of stdout and stderr."""
    environment = {**os.environ, "C": f"{sys.executable} -m conceptctl", **environment}
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["list", "list --json", "--help", "list --help", "--version"])
def test_a_full_stdout_is_a_7_in_one_line(command, store):
    code, _, said = shell(f"$C {command} >/dev/full", CONCEPTCTL_STORE=str(store))
    assert code == 7
    assert said.splitlines()[0].startswith(b"error: ")
    assert b"No space left on device" in said
    assert len(said.splitlines()) == 2


def test_an_error_is_said_where_json_has_no_place(store):
    code, _, said = shell("$C show nope --json >/dev/full", CONCEPTCTL_STORE=str(store))
    assert code == 5
    assert said.startswith(b"error: no concept 'nope'")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "2>/dev/full", ">&- 2>&-", "<&-", "<&- >&- 2>&-"])
def test_streams_that_nobody_wants_harm_nothing(redirection, store):
    found, out, said = shell(f"$C list {redirection}", CONCEPTCTL_STORE=str(store))
    assert (found, said) == (0, b"")
    assert (b"alice" in out) == (">&-" not in redirection.replace("2>&-", ""))
    found, out, _ = shell(f"$C show nope {redirection}", CONCEPTCTL_STORE=str(store))
    assert found == 5
    # What belongs on stderr never goes to stdout in its place.
    assert out == b""


@pytest.mark.parametrize("command", ["list", "log --json", "--help"])
def test_a_reader_who_goes_away_ends_it_quietly(command, store):
    _, out, said = shell(f"$C {command} | true; echo ${{PIPESTATUS[0]}}", CONCEPTCTL_STORE=str(store))
    assert (out, said) == (b"141\n", b"")


@pytest.mark.parametrize(
    "encoding", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_letters_that_an_encoding_lacks_are_escapes(encoding, store, tmp_path):
    place = f"CONCEPTCTL_STORE='{store}'"
    code, out, said = shell(f"{place} $C info", **encoding)
    assert (code, said) == (0, b"")
    assert b"store" in out
    code, out, _ = shell(f"{place} $C info --json", **encoding)
    assert code == 0
    assert os.fsencode(json.loads(out)["store"]) == os.fsencode(store) or NAME in json.loads(out)["store"]
    code, _, said = shell(f"$C list --store {tmp_path}/{NAME}", **encoding)
    assert code == 5
    assert said.startswith(b"error: no store at ")


def test_names_that_are_no_utf8_come_out_as_they_are(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff"
    synthetic.make_store(tmp_path / os.fsdecode(b"\xff"), synthetic.write_base(tmp_path / "base"))
    code, out, _ = shell(f"CONCEPTCTL_STORE={tmp_path}/$'\\xff' $C info")
    assert code == 0
    assert folder in out
    code, out, _ = shell(f"CONCEPTCTL_STORE={tmp_path}/$'\\xff' $C info --json")
    assert os.fsencode(json.loads(out)["store"]) == folder


def test_a_name_cannot_paint_on_the_terminal(tmp_path):
    code, _, said = shell(f"$C list --store {tmp_path}/$'\\e[31m'")
    assert code == 5
    assert b"\x1b" not in said


def test_without_a_home_the_program_says_what_is_needed(store, tmp_path):
    for home in ("/dev/null", "/proc"):
        environment = {"HOME": home, "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": ""}
        assert shell("$C config", **environment)[0] == 0
        assert shell(f"CONCEPTCTL_STORE='{store}' $C list", **environment)[0] == 0
        for command, expected in (("config sample.steps 3", 2), ("init", 2), ("list", 5)):
            code, _, said = shell(f"unset CONCEPTCTL_STORE CONCEPTCTL_CONFIG; $C {command}", **environment)
            assert code == expected, said
            assert b"Traceback" not in said


def test_a_limit_on_the_size_of_files_is_a_7(store, tmp_path):
    line = f"ulimit -f 1; exec $C export alice --raw -o {tmp_path}/e.safetensors"
    code, _, said = shell(line, CONCEPTCTL_STORE=str(store))
    assert code == 7, said
    assert b"ulimit -f" in said
    assert list(tmp_path.iterdir()) == []


def test_a_change_whose_message_is_lost_need_not_be_repeated():
    error = OSError(errno.ENOSPC, "No space left on device", streams.STDOUT)
    assert system_errors.code_of(error) == 7
    assert "needs no repeating" in system_errors.hint_of(error)
