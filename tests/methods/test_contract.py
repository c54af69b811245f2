"""What every method must keep to, on a tiny pipeline of random weights."""

import dataclasses
import re

import pytest
import torch

from conceptctl.diffusion import models
from conceptctl.diffusion.conditioning import starting_row
from conceptctl.diffusion.examples import Examples
from conceptctl.diffusion.fit import STATE_FORMAT, State, denoising_loss, fit
from conceptctl.diffusion.projections import Stacks, adapted, cross_attention, shapes_of
from conceptctl.errors import NotFound
from conceptctl.methods import METHODS, find_method
from conceptctl.methods.base import Task
from conceptctl.parts.masks import FORMS
from tests.tiny_pipeline import write_tiny_pipeline

CPU = torch.device("cpu")
STEPS = 4
_OURS = {
    "optimizer": "muon",
    "snr_gamma": 5.0,
    "p2_gamma": 1.0,
    "accumulation": 2,
    "preservation_weight": 0.1,
    "damping": 1.0,
    "timestep_sampling": "importance",
}


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("base"), prediction_type=request.param)


@pytest.fixture(params=[{}, _OURS], ids=["papers", "ours"])
def settings(request):
    return request.param


@pytest.fixture(params=METHODS)
def method(request, settings):
    found = find_method(request.param)
    config = found.configuration(steps=STEPS, batch_size=3, auxiliary_batch=1, learning_rate=1e-2, rank=4, **settings)
    return found(config)


def schedule_of(method, steps=STEPS):
    return dataclasses.replace(method.config, steps=steps).schedule(seed=0)


class Bench:
    """One concept on one fresh pipeline."""

    def __init__(self, folder, method, *, earlier=True):
        self.method = method
        self.pipeline = models.load_pipeline(folder, CPU)
        start = starting_row(self.pipeline, "cat")
        self.number = models.add_concept(self.pipeline, "alice", start)
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn(6, 4, 8, 8, generator=generator)
        token = method.prompt.format(token="V*alice", word="cat")
        self.examples = Examples(latents, [token] * 4 + ["a photo of a cat"] * 2, 4)
        shapes = shapes_of(cross_attention(self.pipeline.unet))
        known = {place: torch.rand(shape, generator=generator) for place, shape in shapes.items()} if earlier else {}
        states = torch.randn(start.shape[1], 3, generator=generator)
        ours = {"states": states, "sizes": {place: torch.tensor(2.0) for place in shapes}}
        self.task = Task(shapes, start, Stacks.of(known), **(ours if method.config.preservation_weight else {}))
        self.trainable = method.attach(self.task)
        # The papers' settings in fp32, ours as a CPU that is fast in bf16 has them.
        self.autocast = method.config.optimizer == "muon"

    def fit(self, *, steps=STEPS, state=None, callbacks=None):
        schedule = schedule_of(self.method, steps)
        return fit(
            self.pipeline,
            self.number,
            self.trainable,
            self.examples,
            schedule,
            lambda deltas, share, generator: self.method.penalty(self.trainable, deltas, self.task, share, generator),
            autocast=self.autocast,
            state=state,
            callbacks=callbacks,
        )

    def weights(self):
        parts = {"unet": self.pipeline.unet, "text": self.pipeline.text_encoder, "vae": self.pipeline.vae}
        return {f"{part}/{name}": value.clone() for part, m in parts.items() for name, value in m.state_dict().items()}


def test_the_name_is_the_files_and_the_papers_place_is_said(method):
    module = re.sub(r"\W+", "_", method.name.replace("+", "_plus")).strip("_")
    assert type(method).__module__ == f"conceptctl.methods.{module}"
    assert METHODS[method.name] == f"{module}:{type(method).__name__}"
    assert method.paper


def test_only_what_was_attached_changes(folder, method):
    bench = Bench(folder, method)
    before = bench.weights()
    start = {name: value.clone() for name, value in bench.trainable.state_dict().items()}
    bench.fit()
    after = bench.weights()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = [name for name, value in bench.trainable.state_dict().items() if not torch.equal(value, start[name])]
    assert any(name.startswith("token") for name in moved)
    assert (bench.trainable.adapter is None) or any(name.startswith("adapter") for name in moved)


def test_the_same_seed_gives_the_same_result(folder, method):
    ends = [Bench(folder, method).fit().tensors for _ in range(2)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_run_that_stops_and_goes_on_ends_where_a_whole_one_does(folder, method):
    whole = Bench(folder, method).fit()
    first = Bench(folder, method)
    schedule = schedule_of(method)
    kept = []

    def stop(report):
        raise KeyboardInterrupt

    from conceptctl.diffusion.fit import Callbacks

    with pytest.raises(KeyboardInterrupt):
        fit(
            first.pipeline,
            first.number,
            first.trainable,
            first.examples,
            schedule,
            lambda deltas, share, generator: method.penalty(first.trainable, deltas, first.task, share, generator),
            autocast=first.autocast,
            callbacks=Callbacks(report=stop, save=kept.append, report_steps=2),
        )
    assert [state.step for state in kept] == [2]
    again = Bench(folder, method).fit(state=kept[0])
    assert all(torch.equal(whole.tensors[name], again.tensors[name]) for name in whole.tensors if "sum/" not in name)


def test_what_is_attached_draws_as_what_is_folded(folder, method):
    bench = Bench(folder, method)
    bench.fit()
    token, deltas = bench.trainable.token().detach(), bench.trainable.folded()
    models.set_row(bench.pipeline, bench.number, token)
    latents, hidden = torch.randn(2, 4, 8, 8), bench.pipeline.text_encoder(torch.tensor([[1, bench.number]]))[0]
    hidden, times = hidden.expand(2, -1, -1), torch.tensor([10, 500])
    with torch.no_grad():
        with adapted(cross_attention(bench.pipeline.unet)) as projected:
            projected.put(deltas)
            attached = bench.pipeline.unet(latents, times, hidden).sample
        weights = bench.pipeline.unet.state_dict()
        models.set_weights(
            bench.pipeline, {place: weights[place.removeprefix("unet/")] + delta for place, delta in deltas.items()}
        )
        folded = bench.pipeline.unet(latents, times, hidden).sample
    assert torch.equal(attached, folded)


def test_the_penalty_is_finite_and_needs_no_earlier_concept(folder, method):
    for earlier in (True, False):
        bench = Bench(folder, method, earlier=earlier)
        generator = torch.Generator().manual_seed(0)
        deltas = bench.trainable.deltas(generator)
        for share in (0.0, 1.0):
            for value in method.penalty(bench.trainable, deltas, bench.task, share, generator).values():
                assert value.ndim == 0
                assert value.isfinite()


def test_the_loss_without_noise_is_that_of_what_is_kept(folder, method):
    bench = Bench(folder, method)
    bench.fit()
    schedule = schedule_of(method)
    losses = [
        denoising_loss(
            bench.pipeline,
            bench.number,
            bench.trainable,
            bench.examples,
            schedule,
            batches=2,
            sampled=sampled,
            autocast=bench.autocast,
        )
        for sampled in (False, False, True)
    ]
    assert losses[0] == losses[1]
    assert all(loss > 0 for loss in losses)


def test_what_a_state_holds_is_what_its_format_says(folder):
    # Whoever changes what is below has to raise STATE_FORMAT: interrupted lessons hold the tensors of before.
    factors = {"up": 3, "down": 3}
    first = {"first.weight": 3, "first.bias": 2}
    forms = {
        "low-rank": {**first, "rows": 3, "columns": 3, "offset": 3},
        "literal": {**first, "weight": 3, "bias": 2},
        "collapsed": {"table": 3},
        "direct": {"table": 3},
    }
    assert STATE_FORMAT == 2
    assert dimensions(folder, "lora", {}) == {"adapter": factors, "token": {"row": 2}}
    assert dimensions(folder, "ti++", {})["adapter"] == {}
    for form in FORMS:
        assert dimensions(folder, "stamina", {"mask": form})["adapter"] == {**factors, **forms[form]}


def dimensions(folder, name, settings):
    found = find_method(name)
    parameters = Bench(folder, found(found.configuration(steps=STEPS, **settings))).trainable.named_parameters()
    held = {"adapter": {}, "token": {}}
    for place, parameter in parameters:
        part, _, rest = place.partition(".")
        # Which of several stacks it is does not matter here.
        kept = [step for step in rest.split(".") if not step.isdigit() and step not in ("low_rank", "masks")]
        held[part][".".join(kept)] = parameter.ndim
    return held


def test_an_unknown_method_is_refused_with_those_that_exist():
    with pytest.raises(NotFound) as caught:
        find_method("dreambooth")
    assert "stamina" in caught.value.hint


def test_a_state_starts_empty():
    assert State() == State(0, {}, 0, [])
