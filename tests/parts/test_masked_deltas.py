"""Masked deltas that are made where they are used: against the same written out, and what of them is kept."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from conceptctl.learning.weights import Deltas, adapted
from conceptctl.parts.adapters import masked_deltas
from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.adapters.masked import Masked
from conceptctl.parts.masks import FORMS
from conceptctl.parts.penalties import Forgetting, Preservation

SHAPES = {"a": (10, 7), "b": (6, 7), "c": (10, 7)}
TEMPERATURE = 0.5


def values(seed, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return {path: torch.randn(shape, generator=generator, dtype=torch.float64) for path, shape in shapes.items()}


CHANGE = Deltas.of(values(1))
FACTOR = values(2, {"": (7, 4)})[""]
ENERGY = {path: torch.tensor(2.0 + number) for number, path in enumerate(SHAPES)}
PENALTIES = {
    "preservation": lambda generator: Preservation(FACTOR, ENERGY),
    "forgetting": lambda generator: Forgetting(CHANGE),
}


def made(form="low-rank", shapes=SHAPES, penalties=PENALTIES, rank=3):
    generator = torch.Generator().manual_seed(0)
    low_rank = LowRank(shapes, rank, 1e-3, generator=generator, init_std=1.0)
    return Masked(low_rank, form, rank, 1e-3, TEMPERATURE, 0.0, 1.0, generator=generator, penalties=penalties).double()


def network(shapes=SHAPES):
    weights = values(3, shapes)
    projections = {path: nn.Linear(*reversed(shape)).double().requires_grad_(False) for path, shape in shapes.items()}
    for path, module in projections.items():
        module.weight.copy_(weights[path])
    return projections


def loss_of(outputs, densities, preserved, forgotten):
    """Something that has a gradient for everything, and another for each."""
    factors = torch.arange(1.0, 4.0, dtype=torch.float64)
    parts = [(number + 1) * output.sin().sum() for number, output in enumerate(outputs)]
    return sum(parts) + (factors * densities).sum() + (factors * preserved).sum() + 0.1 * (factors * forgotten).sum()


def written_out(adapter, projections, inputs, drawn):
    """The same by autograd, from masks whose forward value is hard and whose gradient is soft."""
    deltas, densities = {}, {}
    noise = adapter._noise(torch.Generator().manual_seed(drawn))
    for (paths, product), form in zip(adapter.low_rank.products().items(), adapter.masks, strict=True):
        for path, values, difference in zip(paths, product, form(), strict=True):
            soft = (difference / TEMPERATURE + next(noise)()[0]).sigmoid()
            mask = soft.round().detach() + soft - soft.detach()
            deltas[path], densities[path] = values * mask, mask.mean()
    outputs = [nn.functional.linear(inputs, projections[p].weight + deltas[p], projections[p].bias) for p in SHAPES]
    order = list(deltas)
    preserved = torch.stack([(deltas[path] @ FACTOR).square().sum() / ENERGY[path] for path in order])
    forgotten = torch.stack([(deltas[path] * CHANGE[path]).square().sum() for path in order])
    return loss_of(outputs, torch.stack([densities[path] for path in order]), preserved, forgotten)


def ours(adapter, projections, inputs, drawn, *, used=True, checkpointed=False):
    deltas = adapter(torch.Generator().manual_seed(drawn))
    with adapted(projections) as attached:
        attached.put(deltas)
        if not used:
            outputs = [
                nn.functional.linear(inputs, projections[path].weight + deltas[path], projections[path].bias)
                for path in SHAPES
            ]
        elif checkpointed:
            outputs = [checkpoint(projections[path], inputs, use_reentrant=False) for path in SHAPES]
        else:
            outputs = [projections[path](inputs) for path in SHAPES]
        loss = loss_of(outputs, deltas.densities(), deltas.penalty("preservation"), deltas.penalty("forgetting"))
        return loss, torch.autograd.grad(loss, [inputs, *adapter.parameters()])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "how", [{}, {"used": False}, {"checkpointed": True}], ids=["attached", "asked for", "recomputed"]
)
def test_values_and_gradients_are_those_of_the_deltas_written_out(monkeypatch, form, how):
    # Blocks of three rows, of which the last is not full.
    monkeypatch.setattr(masked_deltas, "BLOCK", 3 * 7)
    adapter, projections = made(form), network()
    inputs = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).requires_grad_()
    loss, gradients = ours(adapter, projections, inputs, 6, **how)
    wanted = written_out(adapter, projections, inputs, 6)
    assert loss.item() == pytest.approx(wanted.item())
    for found, expected in zip(gradients, torch.autograd.grad(wanted, [inputs, *adapter.parameters()]), strict=True):
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)
        assert found.abs().sum() > 0


def test_every_use_of_a_step_finds_the_same_delta():
    adapter = made()
    deltas = adapter(torch.Generator().manual_seed(5))
    assert all(torch.equal(deltas[path], deltas[path]) for path in SHAPES)
    stacked = Deltas(deltas.stacks)
    assert list(stacked) == list(deltas)
    assert all(torch.equal(stacked[path], deltas[path]) for path in SHAPES)


def test_a_projection_in_bf16_gives_its_gradients_to_fp32():
    adapter, projections = made(penalties={}).float(), {path: each.float() for path, each in network().items()}
    inputs = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(4)).requires_grad_()
    found = []
    for dtype in (None, torch.bfloat16):
        deltas = adapter(torch.Generator().manual_seed(6))
        with adapted(projections) as attached, torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
            attached.put(deltas, dtype)
            outputs = [projections[path](inputs) for path in SHAPES]
        assert {output.dtype for output in outputs} == {dtype or torch.float32}
        loss = sum(output.float().square().mean() for output in outputs)
        gradients = torch.autograd.grad(loss, [inputs, *adapter.low_rank.parameters()])
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        found.append(gradients)
    for exact, rounded in zip(*found, strict=True):
        assert (exact - rounded).norm() < 0.05 * exact.norm()


def test_nothing_as_large_as_a_delta_is_kept_for_the_way_back():
    shapes = {f"{number}": (64, 48) for number in range(4)}
    adapter, projections = made(shapes=shapes, penalties={}, rank=2), network(shapes)
    weights = {module.weight.data_ptr() for module in projections.values()}
    kept = {}

    def keep(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    inputs = torch.randn(1, 5, 48, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), adapted(projections) as attached:
        deltas = adapter(torch.Generator().manual_seed(0))
        attached.put(deltas)
        outputs = [projections[path](inputs) for path in shapes]
        deltas.densities().sum().backward(retain_graph=True)
    assert all(output.requires_grad for output in outputs)
    assert kept
    assert max(kept.values()) < 64 * 48


def test_penalties_are_begun_in_every_step_after_the_noise_is_drawn():
    begun = []

    def begin(generator):
        begun.append(torch.randint(2**30, (), generator=generator).item())
        return Forgetting(CHANGE)

    adapter = made(penalties={"forgetting": begin})
    for seed in range(3):
        adapter(torch.Generator().manual_seed(seed))
    alone = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        # One number says which window of the table is the noise.
        torch.randint(sum(rows * columns for rows, columns in SHAPES.values()) + 1, (), generator=generator)
        alone.append(torch.randint(2**30, (), generator=generator).item())
    assert begun == alone
    assert all(one != other for one, other in itertools.pairwise(begun))
