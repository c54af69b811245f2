"""`learn --replace`: a concept learned anew, in the place of the one of its name, in one generation."""

# ruff: noqa: F811 - fixtures are asked for by the names that they are imported under
import json

import numpy as np
import pytest

from conceptctl.cli.app import run
from conceptctl.config import TrainConfig
from conceptctl.errors import DeviceFailed, NotFound, UsageError
from conceptctl.store import folded, jobs
from conceptctl.store.verify import verify
from conceptctl.workflows.export import export_concepts
from conceptctl.workflows.fold import fold
from conceptctl.workflows.learn.request import Watch
from conceptctl.workflows.undo import plan_undo, undo
from tests.small_learn import STEPS, base_folder, folder, small_pictures, store, teach  # noqa: F401

LONGER = TrainConfig(steps=25, batch_size=2, rank=4)


def uids(store):
    return {each.name: each.uid for each in store.head().concepts}


@pytest.mark.parametrize("is_folded", [False, True])
def test_the_new_one_takes_the_old_ones_place_in_one_generation_and_undo_brings_it_back(
    store, folder, tmp_path, is_folded
):
    teach(store, folder, "alice", class_word="cat", auxiliary=3)
    teach(store, folder, "falls")
    if is_folded:
        fold(store)
    before, head = uids(store), store.head()
    weights_before, _ = folded.read(store.layout, head)
    made = teach(store, folder, "alice", replace=True, train=TrainConfig(steps=STEPS, batch_size=2, seed=3))
    assert made.replaced
    assert made.generation.seq == head.seq + 1
    assert list(uids(store)) == ["falls", "alice"]
    assert uids(store)["falls"] == before["falls"]
    assert uids(store)["alice"] != before["alice"]
    # What the class's pictures cost to draw is kept.
    assert [each.kind for each in store.head().attachments] == ["auxiliary latents"]
    assert verify(store.layout, read_data=True).problems == ()
    # History says what the new one stands on.
    (file,) = export_concepts(store, ("alice",), tmp_path, raw=True)
    assert file.stands_on == ("falls",)
    undo(store, plan_undo(store))
    assert uids(store) == before
    weights_after, _ = folded.read(store.layout, store.head())
    assert all(np.array_equal(weights_after[path], weights_before[path]) for path in weights_before)
    assert verify(store.layout, read_data=True).problems == ()


def test_the_only_concept_is_replaced_as_if_it_had_never_been(store, folder):
    teach(store, folder, "alice", train=TrainConfig(steps=STEPS, batch_size=2, seed=7))
    first, _ = folded.read(store.layout, store.head())
    teach(store, folder, "alice", replace=True, train=TrainConfig(steps=STEPS, batch_size=2, seed=8))
    teach(store, folder, "alice", replace=True, train=TrainConfig(steps=STEPS, batch_size=2, seed=7))
    again, _ = folded.read(store.layout, store.head())
    assert all(np.array_equal(first[path], again[path]) for path in first)


def test_until_the_new_one_is_learned_the_old_one_is_there_and_the_same_command_goes_on(store, folder):
    teach(store, folder, "alice")
    teach(store, folder, "falls")
    head = store.head()

    def stop(report):
        if report.step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(store, folder, "alice", replace=True, train=LONGER, watch=Watch(report=stop))
    assert store.head() == head
    assert len(list(jobs.found(store.layout))) == 1
    seen = []
    teach(
        store, folder, "alice", replace=True, train=LONGER, watch=Watch(report=lambda report: seen.append(report.step))
    )
    assert seen == [20, 25]
    assert store.head().seq == head.seq + 1
    assert list(store.layout.jobs.iterdir()) == []


def test_a_failure_leaves_the_old_one(store, folder):
    teach(store, folder, "alice")
    teach(store, folder, "falls")
    head = store.head()
    with pytest.raises(DeviceFailed):
        teach(store, folder, "alice", replace=True, train=TrainConfig(steps=5, batch_size=2, learning_rate=1e30))
    assert store.head() == head
    assert verify(store.layout, read_data=True).problems == ()


def test_what_cannot_be_replaced_is_said_before_pictures_are_looked_at(store, folder, tmp_path, monkeypatch):
    chained = TrainConfig(method="ewc", steps=2, batch_size=2)
    for name in ("alice", "falls"):
        teach(store, folder, name, train=chained)
    with pytest.raises(NotFound, match="alicia"):
        teach(store, tmp_path / "nowhere", "alicia", replace=True)
    with pytest.raises(UsageError, match="falls goes on from it"):
        teach(store, tmp_path / "nowhere", "alice", replace=True)
    with monkeypatch.context() as patched, pytest.raises(UsageError, match="one process"):
        patched.setenv("WORLD_SIZE", "2")
        teach(store, tmp_path / "nowhere", "falls", replace=True)
    # The last one leaves, and the new one goes on from the first.
    teach(store, folder, "falls", replace=True, train=chained)
    assert [each.name for each in store.head().concepts] == ["alice", "falls"]


def test_the_command_says_so(store, folder, capsys):
    options = ["--store", str(store.layout.root), "--device", "cpu", "--steps", "2", "--batch-size", "2"]
    command = ["learn", str(folder), "--token", "alice", *options]
    assert run(command) == 0
    assert "the store's only concept; generation 1" in capsys.readouterr().out.replace("\n", "; ")
    assert run(command) == 5
    assert "--replace" in capsys.readouterr().err
    assert run([*command, "--replace", "--dry-run"]) == 0
    assert "in the place of the one that is there" in capsys.readouterr().out
    assert store.head().seq == 1
    assert run([*command, "--replace", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["replaced"]
    assert run([*command, "--replace"]) == 0
    assert "conceptctl undo brings the old one back" in capsys.readouterr().out
