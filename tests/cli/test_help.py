"""What `--help` looks like at 80 columns, and how a command line that cannot be meant is explained."""

import importlib
import inspect
import json

import pytest
import typer

from conceptctl.cli import app
from conceptctl.cli import help as shown_help
from conceptctl.cli.options import epilog

SUMMARIES = {verb: text for group in app.GROUPS.values() for verb, text in group.items()}


def told(capsys, *arguments, code=0):
    assert app.run(list(arguments)) == code
    return capsys.readouterr().out


def sections(text):
    """What stands under each heading, by the heading."""
    found, heading = {}, ""
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            heading = line[:-1]
        found.setdefault(heading, []).append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def test_verbs_stand_in_groups(capsys):
    found = sections(told(capsys, "--help"))
    assert list(found)[1:] == ["Teach", "Look", "Keep", "Other", "Options"]
    assert "  learn " in found["Teach"]
    assert "  diff " in found["Look"]
    assert "  rename " in found["Keep"]
    assert "  gc " in found["Other"]


@pytest.mark.parametrize("verb", SUMMARIES)
def test_what_a_verb_does_is_said_in_a_line_as_its_own_help_begins(verb):
    module, _, name = app.VERBS[verb].partition(":")
    target = getattr(importlib.import_module(f"conceptctl.cli.{module}"), name)
    said = target.info.help if isinstance(target, typer.Typer) else inspect.getdoc(target)
    assert said.startswith(SUMMARIES[verb])
    assert len(f"  {max(SUMMARIES, key=len)}  {SUMMARIES[verb]}") <= 80


@pytest.mark.parametrize("verb", [*app.VERBS, ""])
def test_help_fits_into_80_columns_and_has_two_names(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = told(capsys, *([verb] if verb else []), "--help")
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "  -h, --help " in text
    assert told(capsys, *([verb] if verb else []), "-h") == text


def test_many_options_stand_in_groups_in_one_column(capsys):
    found = sections(told(capsys, "learn", "-h"))
    assert list(found)[1:] == ["Arguments", "Options", "Pictures", "Training", "Memory", "Store", "Output"]
    for option, panel in [
        ("--token", "Options"), ("--flip", "Pictures"), ("--steps", "Training"), ("--mixed-precision", "Memory"),
        ("--dry-run", "Store"), ("--json", "Output"), ("--help", "Output"),
    ]:  # fmt: skip
        assert f"  {option} " in found[panel] or f", {option} " in found[panel]
    columns = {
        line.index(text)
        for name, text in [
            ("Pictures", "Learn from the mirrored"),
            ("Training", "Optimizer steps"),
            ("Store", "Show the"),
        ]
        for line in found[name].splitlines()
        if text in line
    }
    assert len(columns) == 1


def test_few_options_stand_in_one_group(capsys):
    assert list(sections(told(capsys, "list", "-h")))[1:] == ["Options"]


def test_other_names_of_an_option_stand_behind_what_it_is(capsys):
    text = told(capsys, "learn", "-h")
    assert "  --batch-size N " in text
    # Broken where the line is full.
    assert "The concept's pictures in a step. [also --train-batch-size]" in " ".join(text.split())


def test_long_examples_are_broken_as_a_shell_reads_them():
    text = epilog("conceptctl learn ./photos --token alice " + " ".join(["--license 'all rights reserved'"] * 3))
    lines = text.splitlines()
    assert lines[2].endswith(" \\")
    assert all(len(line) <= 78 for line in lines)
    assert " ".join(" ".join(lines[2:4]).replace("\\", "").split()).count("--license") == 3


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["lst"], "there is no command 'lst'", "did you mean list? conceptctl --help"),
        (["delete"], "there is no command 'delete'", "did you mean forget? conceptctl --help"),
        (["train"], "there is no command 'train'", "did you mean learn? conceptctl --help"),
        (["qqqq"], "there is no command 'qqqq'", "conceptctl --help"),
        (
            ["learn", "--stps", "3"],
            "there is no option --stps",
            "did you mean --steps or --set? conceptctl learn --help",
        ),
        (["learn", "x", "--zzzz"], "there is no option --zzzz", "conceptctl learn --help"),
        (["show"], "NAME is missing", "conceptctl show --help"),
        (["learn", "x", "--token", "a", "--rank", "y"], "--rank: 'y' is no whole number", "conceptctl learn --help"),
        (
            ["learn", "x", "--token", "a", "--steps", "y"],
            "--steps: 'y' is neither a whole number nor auto",
            "conceptctl learn --help",
        ),
        (["undo", "0"], "STEPS: 0 is not in the range x>=1", "conceptctl undo --help"),
        (["list", "x"], "Got unexpected extra argument(s) (x)", "conceptctl list --help"),
        (["undo", "--to", "x"], "--to: 'x' is no whole number", "conceptctl undo --help"),
        (["bench", "data"], "DIR is missing", "conceptctl bench data --help"),
        (["bench", "dta"], "No such command 'dta'. Did you mean 'data'?", "conceptctl bench --help"),
    ],
)
def test_a_hint_names_the_verb_and_what_may_be_meant(arguments, message, hint, capsys):
    problem = json.loads(told(capsys, *arguments, "--json", code=2))["error"]
    assert (problem["message"], problem["hint"]) == (message, hint)


def test_what_other_programs_call_it_is_no_verb_here():
    assert not set(shown_help.MEANT) & set(app.VERBS)
    assert set(shown_help.MEANT.values()) <= set(SUMMARIES)
