"""A training that ends when the concept is learned: the rule on curves, and the loop under it."""

import dataclasses
import math
import random

import pytest
import torch

from conceptctl.errors import DeviceFailed
from conceptctl.learning import stopping
from conceptctl.learning.backbone import Noising
from conceptctl.learning.loop import Listener, denoising_loss
from conceptctl.learning.stopping import FixedSet, FixedSets, Look, StoppingRule
from conceptctl.methods.ewc import Ewc
from conceptctl.methods.lora import Lora
from tests.methods.bench import Bench, made
from tests.tiny_pipeline import write_tiny_pipeline

MOST, BETWEEN = 2000, 20


def curve(loss, noise=0.0, seed=0):
    """Looks at a loss that is a function of the step, with noise of its own."""
    drawn = random.Random(seed)
    return [Look(step, loss(step) + noise * drawn.gauss(0, 1)) for step in range(0, MOST + 1, BETWEEN)]


def followed(looks, most=MOST):
    """A rule after it has ended a curve."""
    rule = StoppingRule(most)
    for look in looks:
        if look.step <= rule.length:
            rule.observe(look)
    return rule


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.0, 0.002, 0.01])
@pytest.mark.parametrize("constant", [50, 100, 200])
def test_a_curve_that_settles_ends_the_training_when_most_is_learned(constant, noise, seed):
    rule = followed(curve(lambda step: 0.7 + 0.3 * math.exp(-step / constant), noise, seed))
    assert rule.settled
    outcome = rule.outcome()
    assert outcome.reason == "learned"
    # 95 % of what there is to learn is learned when the end begins, and nothing is waited for in vain.
    assert math.exp(-rule.decay_begins / constant) < 0.05
    assert rule.decay_begins < max(10 * constant, 15 * BETWEEN)
    assert rule.length == math.ceil(1.25 * rule.decay_begins) < MOST


@pytest.mark.parametrize(
    ("what", "loss"),
    [
        ("a line", lambda step: 1 - 0.3 * step / MOST),
        ("slow", lambda step: 0.5 + 0.5 * math.exp(-step / MOST)),
        ("late", lambda step: 1 - 0.5 / (1 + math.exp(-(step - 0.6 * MOST) / 100))),
    ],
)
def test_a_curve_that_still_falls_goes_on_to_the_bound(what, loss):
    rule = followed(curve(loss, noise=0.002))
    assert not rule.settled
    assert (rule.length, rule.decay_begins) == (MOST, 1600)
    assert rule.outcome().reason == "bound"


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.01])
def test_a_curve_that_hardly_falls_says_that_nothing_was_learned(noise):
    rule = followed(curve(lambda step: 1 - 0.015 * min(1, step / 200), noise))
    assert rule.outcome().reason == "nothing"
    # What is slow to begin was given time.
    assert rule.length > MOST / 2


def test_learning_rates_fall_along_a_line_to_nothing():
    rule = StoppingRule(100)
    assert [rule.factor(step) for step in (0, 79, 80, 90, 99)] == [1, 1, 1, 0.5, 0.05]
    assert rule.length == 100
    settled = followed(curve(lambda step: 0.7 + 0.3 * math.exp(-step / 50)))
    begins, length = settled.decay_begins, settled.length
    falling = [settled.factor(step) for step in range(begins, length)]
    assert falling == pytest.approx([1 - index / len(falling) for index in range(len(falling))])


def test_a_rule_goes_on_from_what_it_saved():
    looks = curve(lambda step: 0.7 + 0.3 * math.exp(-step / 100), 0.005)
    whole = followed(looks)
    for count in (0, 5, len(whole.looks) - 3, len(whole.looks)):
        begun = StoppingRule(MOST)
        for look in whole.looks[:count]:
            begun.observe(look)
        rest = StoppingRule.restored(begun.state())
        for look in whole.looks[count:]:
            rest.observe(look)
        assert vars(rest) == vars(whole)


def test_what_was_better_by_more_than_noise_is_kept():
    falling = [Look(step, 1 - step / 200, 1.0) for step in range(0, 80, 5)]
    for last, kept in ((0.66, 75), (0.64, 100), (0.5, 100)):
        rule = followed([*falling, Look(100, last, 1.0)], most=100)
        assert rule.outcome().kept.step == kept


def test_nothing_is_decided_before_what_trains_is_what_is_kept():
    """Masks that begin at a step make the loss higher: what was there without them is no state to keep."""
    rule = StoppingRule(MOST, since=600)
    for look in curve(
        lambda step: 0.5 + 0.5 * math.exp(-step / 50) + (0.2 * math.exp(-(step - 600) / 200) if step > 600 else 0)
    ):
        if look.step <= rule.length:
            rule.observe(look)
    assert rule.settled
    assert rule.decay_begins > 600
    assert rule.outcome().kept.step > 600
    assert StoppingRule.restored(rule.state()).kept == rule.kept


@pytest.mark.parametrize(
    ("looked_at", "samples", "most", "between"),
    [(24, 8, 1000, 30), (24, 16, 500, 15), (24, 1, 1000, 50), (24, 8, 6, 1)],
)
def test_looking_takes_a_twentieth_of_the_time(looked_at, samples, most, between):
    assert stopping.steps_between(looked_at, samples, most) == between


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("base"))


SETTINGS = {"steps": 60, "stopping": "auto", "batch_size": 2, "auxiliary_batch": 1, "rank": 4, "learning_rate": 1e-2}


def bench(base_folder, method=Lora, **settings):
    return Bench(base_folder, made(method, **{**SETTINGS, **settings}))


def parameters(trained):
    return {name: value.clone() for name, value in trained.trainable.state_dict().items()}


def is_same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], value) for name, value in second.items())


def test_a_fixed_set_is_the_same_each_time_and_has_all_times(base_folder):
    trained = bench(base_folder)
    objective = trained.backbone.objective(Noising())
    first, second = (FixedSet.of(objective, torch.arange(4), trained.examples.latents[:4], 16) for _ in range(2))
    assert torch.equal(first.noised.inputs, second.noised.inputs)
    assert first.indices.tolist() == [0, 1, 2, 3] * 4
    # Every picture has early times and late ones, and all together lie evenly.
    times = first.noised.timesteps
    assert (times.reshape(4, 4).diff(dim=0) > 0).all()
    assert (times - (torch.arange(16) + 0.5) / 16 * objective.times).abs().max() < 0.2 * objective.times
    # Noise and time belong together as the objective says.
    clean = trained.examples.latents[first.indices]
    assert torch.allclose(objective.scheduler.add_noise(clean, first.noised.target, times), first.noised.inputs)


def test_looking_changes_nothing_of_what_is_learned(base_folder):
    """Until rates begin to fall, the same steps are taken as without it."""
    reached = {}

    def keep(state):
        reached[state.step] = state

    looked = bench(base_folder)
    looked.train(listener=Listener(save=keep, save_seconds=0))
    begins = StoppingRule.restored(max(reached.items())[1].stopping).decay_begins
    steps = min(begins, 12)
    fixed = bench(base_folder, steps=steps, stopping="fixed")
    state = fixed.train()
    assert state.stopping is None
    assert not any(name.startswith("best/") for name in state.tensors)
    same = {name: value for name, value in reached[steps].tensors.items() if not name.startswith(("best/", "sum/"))}
    assert is_same({name: each for name, each in state.tensors.items() if not name.startswith("sum/")}, same)


@pytest.fixture(scope="module")
def whole(base_folder):
    """A training that ends by itself, with the state after every step; the loss is not its own, so that it settles."""
    states = {}
    trained = bench(base_folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stopping, "SETTLED", 10.0)
        patched.setattr(stopping, "LEAST_PATIENCE", 0.0)
        trained.train(listener=Listener(save=lambda state: states.update({state.step: state}), save_seconds=0))
    return parameters(trained), states


def test_a_training_ends_by_itself_and_goes_on_to_the_bit(base_folder, whole, monkeypatch):
    monkeypatch.setattr(stopping, "SETTLED", 10.0)
    monkeypatch.setattr(stopping, "LEAST_PATIENCE", 0.0)
    wanted, states = whole
    last = max(states)
    rule = StoppingRule.restored(states[last].stopping)
    assert rule.settled
    assert last == rule.length < SETTINGS["steps"]
    begins = rule.decay_begins
    for step in (3, begins - 1, begins, begins + 1, last - 1, last):
        again, told = bench(base_folder), []
        end = again.train(state=states[step], listener=Listener(ending=told.append))
        assert is_same(parameters(again), wanted), step
        assert end.stopping == states[last].stopping
        assert end.step == last
        # The end is told when it begins, or as the phase's length.
        assert told == ([last] if step < begins else [])


def test_the_bound_ends_it_with_rates_at_nothing(base_folder, monkeypatch):
    monkeypatch.setattr(stopping, "SETTLED", -math.inf)
    trained = bench(base_folder, steps=20)
    state = trained.train()
    assert state.step == 20
    rule = StoppingRule.restored(state.stopping)
    assert not rule.settled
    assert [look.step for look in rule.looks] == [*range(21)]
    assert rule.looks[0].class_loss > 0


def test_the_best_state_is_what_is_left_where_the_last_is_worse(base_folder, monkeypatch):
    best = 7
    monkeypatch.setattr(FixedSets, "losses", lambda self, *_: (losses.pop(0), None))
    losses = [1 - 0.01 * step for step in range(best)] + [0.5] + [0.9] * 13
    states = {}
    trained = bench(base_folder, steps=20)
    trained.train(listener=Listener(save=lambda state: states.update({state.step: state}), save_seconds=0))
    of_best = {name.removeprefix("parameter/"): value for name, value in states[best].tensors.items()}
    assert all(torch.equal(value, of_best[name]) for name, value in parameters(trained).items())
    end = max(states)
    before = {name.removeprefix("parameter/"): value for name, value in states[end - 1].tensors.items()}
    assert not any(torch.equal(value, before[name]) for name, value in parameters(trained).items())
    assert StoppingRule.restored(states[end].stopping).outcome().kept.step == best


def test_a_loss_that_is_no_number_ends_the_training(base_folder, monkeypatch):
    monkeypatch.setattr(FixedSets, "losses", lambda self, *_: (math.nan, None))
    with pytest.raises(DeviceFailed, match="nothing is committed"):
        bench(base_folder).train()


def test_what_follows_is_a_share_of_the_steps_that_were_taken(base_folder, monkeypatch):
    monkeypatch.setattr(stopping, "SETTLED", 10.0)
    monkeypatch.setattr(stopping, "LEAST_PATIENCE", 0.0)
    states = {}

    def trained(state=None):
        """A training, the phases that it told of, and its end."""
        phases, one = [], bench(base_folder, Ewc, consolidation_share=0.5)
        listener = Listener(
            phase=lambda *each: phases.append(each),
            save=lambda state: states.setdefault(state.step, state),
            save_seconds=0,
        )
        return one, phases, one.train(state=state, listener=listener)

    whole, phases, end = trained()
    taken = StoppingRule.restored(end.stopping).length
    assert taken < SETTINGS["steps"]
    measured = max(1, round(30 * taken / 60))
    # The end of the first is known when it begins to end.
    assert phases == [("learning", 60, 0), ("measuring importance", measured, 0)]
    assert end.step == taken + measured
    for step in (taken, taken + 2):
        again, told, _ = trained(states[step])
        assert told == [("measuring importance", measured, step - taken)]
        assert is_same(parameters(again), parameters(whole))


def test_the_loss_with_masks_is_measured_as_ever(base_folder):
    trained = bench(base_folder, steps=4)
    trained.train()
    schedules = (trained.schedule(), dataclasses.replace(trained.schedule(), stopping="fixed"))
    found = [
        denoising_loss(
            trained.backbone,
            trained.token_ids,
            trained.trainable,
            trained.examples,
            schedule,
            accelerator=trained.accelerator,
            batches=2,
            deltas=trained.trainable.folded(),
        )
        for schedule in schedules
    ]
    assert found[0] == found[1]
