"""Masked adapters: the noise of a step."""

import itertools

import pytest
import torch

from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.adapters.masked import Masked
from conceptctl.parts.masks import FORMS, PER_ENTRY

SHAPES = {"a": (50, 70), "b": (60, 70), "c": (50, 70)}


def made(logit_mean=0.0, form="low-rank"):
    generator = torch.Generator().manual_seed(1)
    low_rank = LowRank(SHAPES, 3, 1e-3, generator=generator, init_std=1.0)
    with torch.no_grad():
        # A mask shows in what it lets pass only where there is something to pass.
        for parameter in low_rank.parameters():
            parameter.uniform_(1.0, 2.0, generator=generator)
    return Masked(low_rank, form, 4, 2e-3, 0.5, logit_mean, 0.0, generator=generator)


def passed(adapter, seed):
    deltas = adapter(torch.Generator().manual_seed(seed))
    return torch.cat([delta.flatten() for delta in deltas.values()]) != 0


def test_a_step_decides_what_passes_whatever_came_before():
    first, second = made(), made()
    passed(second, 3)
    passed(second, 4)
    assert torch.equal(passed(first, 5), passed(second, 5))


def test_what_passes_is_drawn_anew_in_every_step_and_for_every_matrix():
    adapter = made()
    steps = torch.stack([passed(adapter, seed) for seed in range(400)]).float()
    # A fair coin for each entry, and no step's like another's.
    assert steps.mean(dim=0).sub(0.5).abs().max() < 0.15
    assert steps.mean(dim=1).sub(0.5).abs().max() < 0.05
    agreement = (steps[:-1] == steps[1:]).float().mean(dim=1)
    assert agreement.sub(0.5).abs().max() < 0.05
    parts = steps.split([SHAPES[place][0] * SHAPES[place][1] for place in adapter.folded()], dim=1)
    for one, other in itertools.combinations(parts, 2):
        assert (one[:, :100] == other[:, :100]).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_noise_is_no_part_of_the_state():
    adapter = made()
    before = set(adapter.state_dict())
    passed(adapter, 0)
    assert set(adapter.state_dict()) == before


@pytest.mark.parametrize("form", FORMS)
def test_everything_trains_once_and_masks_at_their_own_rate(form):
    adapter = made(form=form)
    groups = adapter.groups()
    trained = [parameter for group in groups for parameter in group["params"]]
    assert len(trained) == len({id(parameter) for parameter in trained}) == len(list(adapter.parameters()))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert {rates[id(parameter)] for mask in adapter.masks for parameter in mask.parameters()} == {2e-3}


@pytest.mark.parametrize("form", sorted(PER_ENTRY))
def test_masks_that_wait_let_everything_pass_and_begin_where_the_deltas_are_large(form):
    adapter = made(form=form)
    adapter.wait()
    products = adapter.low_rank.products()
    for deltas in (adapter(torch.Generator().manual_seed(0)), adapter.folded()):
        for paths, product in products.items():
            assert torch.equal(deltas.stacks[paths], product)
    adapter.start()
    begun = {paths: form().clone() for paths, form in zip(products, adapter.masks, strict=True)}
    adapter.start()
    everything = torch.cat([product.flatten() for product in products.values()])
    for (paths, product), form in zip(products.items(), adapter.masks, strict=True):
        assert torch.allclose(form(), begun[paths], atol=1e-4)
        # A float32 of the literal form's sums is near, and not the same, where an entry is the median itself.
        sure = (product - everything.median()).abs() > 1e-3
        assert torch.equal(adapter.folded().stacks[paths][sure] != 0, (product > everything.median())[sure])
