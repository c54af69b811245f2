"""The training loop's parts: learning rates, signals, what a step draws, portions, precision."""

import os
import signal

import pytest
import torch

from conceptctl.diffusion import models
from conceptctl.errors import DeviceFailed
from conceptctl.families import sd
from conceptctl.learning.examples import Examples, _some
from conceptctl.learning.loop import Listener, train
from conceptctl.learning.method import Config, Method, Phase, Task, Trainable
from conceptctl.learning.optim import SCHEDULERS, make_optimizers, make_schedules
from conceptctl.learning.processes import make_accelerator
from conceptctl.learning.schedule import Schedule
from conceptctl.learning.signals import deferred_signals
from conceptctl.learning.weights import Deltas, adapted
from conceptctl.parts.tokens import TokenEmbedding
from tests.tiny_pipeline import write_tiny_pipeline

CPU = torch.device("cpu")
true_has_fast_bf16 = models.has_fast_bf16
"""Tests are given another: see tests/conftest.py."""


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def backbone(request, tmp_path_factory):
    folder = write_tiny_pipeline(tmp_path_factory.mktemp("base"), prediction_type=request.param)
    loaded = sd.load(folder, CPU)
    loaded.alice = loaded.add_token("alice", loaded.token_start("cat"))
    return loaded


class Plain(Method):
    """Nothing but the denoising loss."""

    name, paper = "plain", "-"

    def __init__(self, schedule):
        super().__init__(Config())
        self.schedule = schedule

    def phases(self, task, trainable):
        yield Phase("learning", self.schedule, lambda step: {"denoising": step.mean(step.loss())}, trainable.groups())


def trained(backbone, trainable, examples, schedule, precision="no", listener=None):
    return train(
        backbone,
        [backbone.alice],
        Plain(schedule),
        Task({}, backbone.token_start("cat")),
        trainable,
        examples,
        accelerator=make_accelerator(CPU, precision),
        listener=listener,
    )


@pytest.mark.parametrize("name", ["mps", "meta", "cuda:99", "toaster"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(DeviceFailed):
        models.choose_device(name)


def rates(schedule, done=0):
    """The share of the learning rate in each step, of a phase that is taken up after some."""
    optimizers = make_optimizers([{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": 2.0}], "adam")
    (found,) = make_schedules(optimizers, schedule, done)
    shares = []
    for _ in range(done, schedule.steps):
        shares.append(optimizers[0].param_groups[0]["lr"] / 2.0)
        optimizers[0].step()
        found.step()
    return shares


def test_learning_rates_rise_and_fall_and_go_on_where_they_were():
    constant = rates(Schedule(100, 1, warmup=10))
    assert constant[5] == pytest.approx(0.5)
    assert constant[10] == constant[99] == 1.0
    assert set(rates(Schedule(100, 1))) == {1.0}
    cosine = rates(Schedule(100, 1, scheduler="cosine"))
    assert cosine[0] == 1.0
    assert cosine[50] == pytest.approx(0.5)
    assert cosine[99] < 0.001
    for schedule in (Schedule(100, 1, scheduler="cosine"), Schedule(100, 1, warmup=10, scheduler="linear")):
        assert rates(schedule, 37) == rates(schedule)[37:]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_every_schedule_goes_with_every_optimizer(optimizer, scheduler):
    factors = {"params": [torch.nn.Parameter(torch.zeros(1, 4, 2))], "lr": 2.0, "factors": True}
    rest = {"params": [torch.nn.Parameter(torch.zeros(2))], "lr": 1e-3}
    optimizers = make_optimizers([factors, rest], optimizer)
    for each, schedule in zip(
        optimizers, make_schedules(optimizers, Schedule(4, 1, scheduler=scheduler), 0), strict=True
    ):
        begun = [group["lr"] for group in each.param_groups]
        each.step()
        schedule.step()
        assert all(0 < group["lr"] <= first for group, first in zip(each.param_groups, begun, strict=True))


def test_a_signal_waits_for_the_end_of_what_must_not_be_torn_apart():
    arrived = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: arrived.append(number))
    try:
        with deferred_signals() as waiting:
            os.kill(os.getpid(), signal.SIGTERM)
            assert (arrived, waiting) == ([], [signal.SIGTERM])
        assert arrived == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_deltas_are_put_on_and_leave_no_trace(backbone):
    projections = backbone.targets()
    before = {path: module.weight.clone() for path, module in projections.items()}
    path = next(iter(projections))
    ones = Deltas.of({path: torch.ones_like(before[path])})

    def seen(path):
        """The weight that a projection multiplies with."""
        return projections[path](torch.eye(before[path].shape[1])).T

    with adapted(projections) as projected:
        projected.put(ones)
        assert torch.allclose(seen(path), before[path] + 1)
        assert all(torch.allclose(seen(other), before[other]) for other in before if other != path)
        projected.put(ones, torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(seen(path), (before[path] + 1).bfloat16())
        projected.put(Deltas())
        assert torch.allclose(seen(path), before[path])
        assert all(torch.equal(module.weight, before[path]) for path, module in projections.items())
    assert torch.allclose(seen(path), before[path])
    assert all("forward" not in vars(module) for module in projections.values())


def test_gradient_checkpointing_changes_nothing_but_memory(backbone):
    projections, pipeline = backbone.targets(), backbone.pipeline
    objective = backbone.objective(Schedule(1, 1).noising())
    hidden = backbone.conditions(["a cat"], ()).of_prompt("a cat", torch.arange(1)).detach()
    noised = objective.corrupt(torch.randn(1, 4, 8, 8), torch.Generator().manual_seed(0))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            backbone.checkpoint_gradients()
        deltas = {
            path: torch.full(module.weight.shape, 0.01, requires_grad=True) for path, module in projections.items()
        }
        with adapted(projections) as projected:
            projected.put(Deltas.of(deltas))
            objective.loss(objective.predict(noised, hidden), noised).mean().backward()
        gradients.append({path: delta.grad for path, delta in deltas.items()})
    pipeline.unet.disable_gradient_checkpointing()
    assert all(gradients[0][path].abs().sum() > 0 for path in projections)
    assert all(torch.allclose(gradients[0][path], gradients[1][path], atol=1e-7) for path in projections)


def test_a_step_of_portions_takes_their_gradients_mean(backbone):
    class Seen(torch.nn.Module):
        """An adapter that notes which gradient every portion gives."""

        def __init__(self):
            super().__init__()
            self.value = torch.nn.Parameter(torch.zeros(()))
            self.gradients = []

        def __call__(self, generator):
            fresh = self.value * 1.0
            fresh.register_hook(self.gradients.append)
            return Deltas.of({path: fresh.expand(module.weight.shape) for path, module in projections.items()})

        def groups(self):
            return [{"params": [self.value], "lr": 0.1}]

        def measures(self):
            return {}

    projections = {path: module for path, module in backbone.targets().items() if "to_v" in path}
    examples = Examples(torch.randn(4, 4, 8, 8), ["a photo of a V*alice"] * 4, 4)
    adapter = Seen()
    trainable = Trainable(adapter, TokenEmbedding(backbone.token_start("cat")), 0.0)
    state = trained(backbone, trainable, examples, Schedule(1, 2, accumulation=3))
    assert len({gradient.item() for gradient in adapter.gradients}) == 3
    # Adam's first moment after one step is a tenth of the gradient.
    wanted = 0.1 * torch.stack(adapter.gradients).sum()
    assert torch.allclose(state.tensors["optimizer/adapter.value/exp_avg"], wanted, rtol=1e-4)


@pytest.mark.parametrize("count", [3, 5, 12])
def test_a_step_takes_no_picture_twice_unless_there_are_too_few(count):
    generator = torch.Generator().manual_seed(0)
    drawn = [_some(5, count, generator) for _ in range(100)]
    assert {len(each) for each in drawn} == {count}
    for each in drawn:
        times = each.bincount(minlength=5)
        assert times.max() - times.min() <= 1
    assert torch.cat(drawn).unique().tolist() == [0, 1, 2, 3, 4]


def test_a_step_draws_auxiliary_examples_beside_the_concepts():
    examples = Examples(torch.zeros(7, 4, 8, 8), [""] * 7, 4)
    drawn = [examples.choose(2, 1, torch.Generator().manual_seed(seed)) for seed in range(200)]
    parts = zip(*(each.split([2, 1]) for each in drawn), strict=True)
    assert [torch.cat(part).unique().tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6]]
    assert len(examples.choose(2, 0, torch.Generator())) == 2
    alone = Examples(torch.zeros(4, 4, 8, 8), [""] * 4, 4)
    assert len(alone.choose(2, 1, torch.Generator())) == 2


def bf16_fit(backbone, precision, report=lambda report: None):
    token = TokenEmbedding({"text_encoder": torch.randn_like(backbone.token_start("cat")["text_encoder"])})
    start = token()["text_encoder"].detach().clone()
    trained(
        backbone,
        Trainable(None, token, 1e-2),
        Examples(torch.randn(2, 4, 8, 8), ["a photo of a V*alice"] * 2, 2),
        Schedule(2, 2),
        precision,
        Listener(report=report, report_steps=1),
    )
    row = token()["text_encoder"]
    assert row.dtype == torch.float32
    assert not torch.equal(row.detach(), start)


def test_in_bf16_the_unet_multiplies_in_it_and_is_left_as_it_was(backbone):
    pipeline = backbone.pipeline
    before = pipeline.unet.attn_processors
    seen = set()

    def look(module, inputs, output):
        processors = {type(each).__name__ for each in pipeline.unet.attn_processors.values()}
        seen.add((output.dtype, *processors))

    layers = {"conv_in": pipeline.unet.conv_in, **backbone.targets()}
    hooks = [layer.register_forward_hook(look) for layer in layers.values()]
    try:
        bf16_fit(backbone, "bf16")
        assert seen == {(torch.bfloat16, "AttnProcessor")}
        assert pipeline.unet.attn_processors == before
        seen.clear()
        bf16_fit(backbone, "no")
        assert seen == {(torch.float32, "AttnProcessor2_0")}
    finally:
        for hook in hooks:
            hook.remove()


def test_attention_is_as_it_was_when_a_training_fails(backbone):
    pipeline = backbone.pipeline
    before = pipeline.unet.attn_processors

    def fail(report):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bf16_fit(backbone, "bf16", fail)
    assert pipeline.unet.attn_processors == before


def test_attention_over_large_latents_stays_fused(backbone):
    pipeline = backbone.pipeline
    # Plain products would keep gigabytes for the backward pass.
    before = pipeline.unet.attn_processors
    with models.plain_attention(pipeline.unet):
        assert pipeline.unet.attn_processors != before
    side = pipeline.unet.config.sample_size
    pipeline.unet.register_to_config(sample_size=64)
    with models.plain_attention(pipeline.unet):
        assert pipeline.unet.attn_processors == before
    pipeline.unet.register_to_config(sample_size=side)


@pytest.mark.parametrize(
    ("abilities", "fast"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx512_f": True, "amx_bf16": False}, False)],
)
def test_a_cpu_is_fast_in_bf16_where_it_says_so(monkeypatch, abilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert true_has_fast_bf16(CPU) is fast
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert true_has_fast_bf16(CPU) is False


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_a_gpu_without_bf16_gets_fp16(monkeypatch, capability, dtype):
    monkeypatch.setattr(models, "has_fast_bf16", true_has_fast_bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    cuda = torch.device("cuda")
    assert models.drawing_dtype(cuda) == dtype
    assert models.training_dtype(cuda, "fp16") == torch.float16
    assert models.training_dtype(cuda, "no") == models.training_dtype(CPU, "bf16") == torch.float32
