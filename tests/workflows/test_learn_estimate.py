"""What a run will take is told before it: by what a concept of the store took, or not at all."""

# ruff: noqa: F811 - fixtures are asked for by the names that they are imported under

import dataclasses
import json

import pytest

from conceptctl.cli.app import run
from conceptctl.config import TrainConfig
from conceptctl.store.concept import read_record
from conceptctl.workflows.learn.estimate import estimate, steps_a_picture
from conceptctl.workflows.learn.plan import plan
from conceptctl.workflows.learn.request import Watch
from tests import synthetic
from tests.small_learn import asked, base_folder, folder, small_pictures, store, teach  # noqa: F401


@pytest.fixture
def planned(store, folder):
    return plan(store, asked(folder, "bob", train=TrainConfig(steps=100, batch_size=2, rank=4)), device="cpu")


def measured(store, name="alice", seed=0, **changes):
    """Commit a concept whose record says what it took."""
    settings = {
        "trained_on": "cpu", "precision": "no", "seconds_a_step": 0.5, "seconds_a_picture": 2.0, "batch_size": 2,
        "auxiliary_batch": 0, "accumulation": 1, "rank": 4, "peak_memory": 10**9,
    }  # fmt: skip
    return synthetic.learn(store, name, seed, settings={**settings, **changes}, method="stamina")


def test_what_learning_took_is_kept_with_the_concept(store, folder):
    teach(store, folder)
    said = read_record(store.blob(store.concept("alice"))).settings
    assert said["trained_on"] == "cpu"
    assert 0 < said["seconds_a_step"] < 60
    assert said["peak_memory"] > 10**8


def test_without_a_concept_nothing_is_invented(store, planned, folder, capsys):
    found = estimate(store, planned)
    assert (found.like, found.seconds, found.memory, found.size_like) == ("", None, None, "")
    assert found.least_memory > found.size > 0
    options = ["--store", str(store.layout.root), "--device", "cpu", "--dry-run"]
    assert run(["learn", str(folder), "--token", "bob", *options]) == 0
    shown = capsys.readouterr().out
    assert "time      not known: no concept here says what it took on cpu (hours)" in shown
    assert "memory    more than" in shown
    assert "store     grows by at most" in shown
    assert "settings" not in shown
    assert run(["learn", str(folder), "--token", "bob", *options, "--method", "ewc", "--full"]) == 0
    shown = capsys.readouterr().out
    assert "by how much is not known before the first concept of this method" in shown
    assert "settings  steps=" in shown


def test_time_and_memory_are_those_of_a_concept_before_scaled_to_the_run(store, planned, base_folder, tmp_path):
    measured(store)
    found = estimate(store, planned)
    assert (found.like, found.seconds, found.memory) == ("alice", 50.0, 10**9)
    larger = dataclasses.replace(planned, config={**planned.config, "batch_size": 6}, reference_samples=9)
    # Three times the samples; and nine pictures are drawn in two whole batches.
    assert estimate(store, larger).seconds == 100 * 1.5 + 16 * 2.0
    # Nobody measured what so much takes.
    assert estimate(store, larger).memory is None
    beside = dataclasses.replace(planned, class_word="cat", auxiliary=3)
    assert (estimate(store, beside).to_draw, estimate(store, beside).seconds) == (3, 50 + 8 * 2.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"trained_on": "cuda"}, {"precision": "bf16"}, {"seconds_a_step": "fast"}, {"seconds_a_step": float(10**15)},
        {"batch_size": None}, {"accumulation": 0},
    ],
)  # fmt: skip
def test_what_was_measured_otherwise_or_is_nonsense_tells_nothing(store, planned, changes):
    measured(store, **changes)
    assert estimate(store, planned).seconds is None


def test_a_concept_of_the_same_method_tells_more_than_a_newer_one(store, planned):
    measured(store, "alice", seconds_a_step=1.0)
    measured(store, "carol", seed=1, seconds_a_step=2.0)
    assert estimate(store, planned).like == "carol"
    synthetic.learn(
        store, "dora", 2, method="lora", settings={**read_record(store.blob(store.concept("alice"))).settings}
    )
    assert estimate(store, planned).like == "carol"
    assert estimate(store, dataclasses.replace(planned, method="lora")).like == "dora"
    assert estimate(store, planned).size_like == "carol"


def test_where_one_is_replaced_the_others_get_weights_of_their_own(store, planned):
    measured(store)
    alone = estimate(store, planned).size
    assert estimate(store, planned, replaces=True).size == alone
    measured(store, "carol", seed=1)
    assert estimate(store, planned, replaces=True).size > estimate(store, planned).size


def test_what_comes_after_the_training_is_told_in_its_last_phase(store, folder):
    told = []
    watch = Watch(stage=lambda what, total: told.append(what), ahead=lambda seconds: told.append(seconds))
    teach(store, folder, watch=watch, train=TrainConfig(method="ewc", steps=20, batch_size=2))
    learning, measuring = told.index("learning"), told.index("measuring importance")
    assert told[learning:measuring] == ["learning"]
    assert 0.0 in told[measuring:]
    told.clear()
    teach(store, folder, "bob", watch=watch)
    assert told[told.index("learning") + 1] == 0.0


def test_what_a_picture_is_worth_in_steps_is_what_it_was(store, planned):
    assert steps_a_picture(store, store.head(), planned) is None
    measured(store)
    assert steps_a_picture(store, store.head(), planned) == 4.0


def test_the_plan_as_json_has_it(store, folder, capsys):
    measured(store)
    options = ["--store", str(store.layout.root), "--device", "cpu", "--steps", "4", "--dry-run", "--json"]
    assert run(["learn", str(folder), "--token", "bob", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["estimate"]["like"] == "alice"
    assert found["plan"]["config"]["steps"] == 4
