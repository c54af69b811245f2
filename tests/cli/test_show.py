"""What `show` says for people: names, dates, and what was set otherwise than the preset has it."""

import pytest

from conceptctl.cli.app import run
from conceptctl.cli.show import date_text
from tests import synthetic


@pytest.fixture
def store(tmp_path, monkeypatch):
    made = synthetic.make_store(tmp_path / "store", synthetic.write_base(tmp_path / "base"))
    monkeypatch.setenv("CONCEPTCTL_STORE", str(made.layout.root))
    return made


def shown(capsys, name):
    assert run(["show", name]) == 0
    return dict(line.split("\t") for line in capsys.readouterr().out.splitlines())


def test_times_are_for_people():
    assert date_text("2026-11-28T21:34:20Z") == "2026-11-28 21:34 UTC"
    assert date_text("once") == "once"


def test_what_it_goes_on_from_has_a_name(store, capsys):
    first = synthetic.learn(store, "alice").concepts[0].uid
    synthetic.learn(store, "bob", seed=1, contains=(first,))
    assert shown(capsys, "bob")["goes on from"] == "alice"
    assert "goes on from" not in shown(capsys, "alice")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "sd", "differs": ["rank", "steps"], "rank": 4}, "sd, but rank=4, steps=500"),
        ({"preset": "sd", "differs": []}, "sd"),
        # As earlier versions wrote it.
        ({"preset": "pocket", "batch_size": 3, "optimizer": "muon"}, "pocket, but batch_size=3"),
        ({}, None),
    ],
)
def test_only_what_differs_from_the_preset_is_said(store, capsys, settings, said):
    synthetic.learn(store, "alice", settings=settings)
    found = shown(capsys, "alice").get("preset")
    assert (found or "").startswith(said or "")
    assert (found is None) == (said is None)
    assert said is None or "batch_size" in said or found == said
