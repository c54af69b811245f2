"""What a run will take is told before it: by what a concept of the store took, or not at all."""

# ruff: noqa: F811 - fixtures are asked for by the names that they are imported under

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch

from conceptctl.cli.app import run
from conceptctl.config import TrainConfig
from conceptctl.diffusion.backbone import LatentBackbone
from conceptctl.errors import DeviceFailed
from conceptctl.methods import find_method
from conceptctl.presets import shipped
from conceptctl.store.concept import read_record
from conceptctl.workflows.learn import cost
from conceptctl.workflows.learn.cost import stages_of, training_share
from conceptctl.workflows.learn.estimate import estimate, steps_a_picture
from conceptctl.workflows.learn.plan import plan
from conceptctl.workflows.learn.request import Watch
from tests import synthetic
from tests.small_learn import asked, base_folder, folder, small_pictures, store, teach  # noqa: F401

shipped_presets = shipped()
"""As they are; tests have a smaller one."""


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
    stages = {stage.name: stage.seconds for stage in found.stages}
    # Sixteen passes, each worth half a step of one sample, of which half a second holds two.
    aside = stages["encoding the pictures"] + stages["comparing the loss with masks"]
    assert aside == (planned.pictures + 16) * 0.5 / 4
    assert stages["learning"] == 50.0
    assert (found.like, found.seconds, found.memory) == ("alice", 50.0 + aside, 10**9)
    larger = dataclasses.replace(planned, config={**planned.config, "batch_size": 6}, reference_samples=9)
    # Three times the samples; and nine pictures are drawn in two whole batches.
    assert estimate(store, larger).seconds == 100 * 1.5 + 16 * 2.0 + (planned.pictures + 48) * 0.5 / 4
    # Nobody measured what so much takes.
    assert estimate(store, larger).memory is None
    beside = dataclasses.replace(planned, class_word="cat", auxiliary=3)
    assert (estimate(store, beside).to_draw, estimate(store, beside).seconds) == (3, 50 + 8 * 2.0 + aside)


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
    # The loss with masks is compared, on eight batches.
    assert 0 < told[told.index("learning") + 1] < 60
    assert "comparing the loss with masks" in told


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


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("method", ["stamina", "lora", "ti++", "ewc"])
def test_at_the_defaults_of_stable_diffusion_nearly_a_third_is_not_training_and_no_more(planned, name, method):
    preset = shipped_presets[name]
    made = find_method(method)
    config = dataclasses.asdict(made.configuration(**preset.settings(method)))
    pictures = {"auxiliary": preset.learn.auxiliary, "reference_samples": preset.learn.reference_samples}
    first = dataclasses.replace(planned, method=method, config=config, class_word="person", **pictures)
    stages = stages_of(first, preset.evaluations_a_picture, first.auxiliary)
    assert [stage.name for stage in stages][::len(stages) - 1] == [
        "drawing person pictures to learn beside", "drawing reference samples"
    ]  # fmt: skip
    learning = next(stage for stage in stages if stage.name == "learning")
    assert learning.evaluations == 500 * 16 * 2
    assert training_share(stages) >= 0.7
    # The next concept of the class finds the pictures there.
    assert training_share(stages_of(first, preset.evaluations_a_picture, 0)) > 0.9


def test_guidance_that_the_network_is_told_is_no_second_pass():
    assert shipped_presets["sd"].evaluations_a_picture == 2 * shipped_presets["sd"].drawing.steps
    assert shipped_presets["flux"].evaluations_a_picture == shipped_presets["flux"].drawing.steps


def test_what_a_reference_sample_took_in_other_steps_is_scaled(store, planned):
    measured(store, reference_steps=4)
    found = estimate(store, dataclasses.replace(planned, reference_samples=8))
    assert found.stages[-1].seconds == 8 * 2.0 * 2 / 4


def test_what_a_run_is_made_of_is_said_before_it(store, folder, capsys):
    teach(store, folder)
    options = ["--store", str(store.layout.root), "--device", "cpu", "--steps", "2", "--set", "batch_size=2"]
    assert run(["learn", str(folder), "--token", "bob", *options]) == 0
    said = capsys.readouterr().err
    assert "% training, in passes of a sample through the network: encoding the pictures" in said
    assert "learning 8 (" in said
    assert run(["learn", str(folder), "--token", "carol", *options, "--dry-run"]) == 0
    assert "  work      " in capsys.readouterr().out


def test_while_pictures_are_drawn_it_is_told_how_long_the_rest_takes(monkeypatch):
    told, clock = [], iter([10.0, 12.0, 14.0])
    monkeypatch.setattr(cost, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    watch = cost.telling_ahead(Watch(advance=told.append, ahead=told.append), a_picture=40, after=800)
    for done in (8, 4, 4):
        watch.advance(done)
    # Two seconds for four pictures of forty passes; eight of them were drawn before.
    assert told == [8, 4, 800 * 2 / 160, 4, 800 * 4 / 320]


def test_pictures_that_are_drawn_when_memory_runs_out_are_kept(store, folder, monkeypatch):
    from conceptctl.workflows.learn import auxiliary

    encode = LatentBackbone.encode
    batches = []

    def run_out(self, pictures):
        batches.append(len(pictures))
        if len(batches) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, pictures)

    monkeypatch.setattr(LatentBackbone, "encode", run_out)
    with pytest.raises(DeviceFailed):
        teach(store, folder, class_word="cat", auxiliary=10)
    drawn = []
    plain = auxiliary.draw
    monkeypatch.setattr(auxiliary, "draw", lambda *args, **how: drawn.append(len(how["begun"])) or plain(*args, **how))
    teach(store, folder, class_word="cat", auxiliary=10)
    assert drawn == [8]
    # For fewer of the same class nothing is drawn.
    teach(store, folder, "bob", class_word="cat", auxiliary=3)
    assert drawn == [8]
    assert (
        estimate(store, plan(store, asked(folder, "carol", class_word="cat", auxiliary=10), device="cpu")).to_draw == 0
    )
    assert (
        estimate(store, plan(store, asked(folder, "carol", class_word="cat", auxiliary=11), device="cpu")).to_draw == 11
    )
