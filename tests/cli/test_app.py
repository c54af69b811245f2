"""The frame every verb stands in: exit codes, errors in JSON, signals."""

import errno
import json
import os
import signal

import pytest

import conceptctl.errors
from conceptctl.cli import app
from conceptctl.cli.options import EXIT_STATUS


def fail_with(error, monkeypatch):
    def verb(**_):
        raise error

    monkeypatch.setattr(app, "build", lambda completion: verb)


def test_help_lists_the_exit_codes(capsys):
    assert app.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "EXIT STATUS" in shown
    assert "EXAMPLES" in shown


def test_every_verb_is_there_alone_and_among_all(capsys):
    assert app.run(["--help"]) == 0
    listed = capsys.readouterr().out
    for verb in app.VERBS:
        assert (f"  {verb} " in listed) == (verb not in app.ALIASES)
        assert app.run([verb, "--help"]) == 0
        assert f"Usage: conceptctl {verb}" in capsys.readouterr().out


def test_shell_completion_knows_every_verb(monkeypatch, capsys):
    monkeypatch.setenv("_CONCEPTCTL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "conceptctl re")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        app.run([])
    assert "repair" in capsys.readouterr().out


def test_usage_errors_are_2_and_json_when_asked(capsys):
    assert app.run(["nonsense", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == 2


def test_every_error_has_a_documented_code():
    for kind in vars(conceptctl.errors).values():
        if isinstance(kind, type) and issubclass(kind, conceptctl.errors.ConceptctlError):
            assert kind.exit_code in EXIT_STATUS
            assert kind.__doc__


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (conceptctl.errors.StoreDamaged("x"), 4),
        (OSError(errno.ENOSPC, "full"), 7),
        (OSError(errno.EIO, "broken"), 9),
        (OSError(errno.EMFILE, "too many"), 9),
        (OSError(errno.EFBIG, "too large"), 7),
        (OSError(errno.ENAMETOOLONG, "too long", "x" * 5000), 2),
        (OSError(errno.ENOTDIR, "no folder", "a/b"), 2),
        (OSError(errno.ELOOP, "links", "a"), 2),
        (OSError(errno.EROFS, "read-only", "a"), 2),
        (OSError(errno.ENOENT, "a bug, where nobody foresaw it"), 1),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), 2),
        (UnicodeEncodeError("ascii", "\u00e9", 0, 1, "ordinal not in range"), 1),
        (ValueError("embedded null byte"), 2),
        (ValueError("a bug"), 1),
        (MemoryError(), 9),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_errors_become_exit_codes(error, code, monkeypatch, capsys):
    fail_with(error, monkeypatch)
    assert app.run(["--json"]) == code
    problem = json.loads(capsys.readouterr().out)["error"]
    assert problem["code"] == code
    assert set(problem) == {"code", "kind", "message", "hint"}
    assert len(problem["message"]) < 250
    assert "Errno" not in problem["message"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_with_128_plus_their_number(number, monkeypatch, capsys):
    def verb(**_):
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            return 130  # what typer makes of it
        raise AssertionError("not interrupted")

    monkeypatch.setattr(app, "build", lambda completion: verb)
    assert app.run(["--json"]) == 128 + number
    assert json.loads(capsys.readouterr().out)["error"]["code"] == 128 + number
