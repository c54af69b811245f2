"""Masks: what passes, and which gradient they give."""

import pytest
import torch

from conceptctl.parts.masks import (
    ALL,
    FORMS,
    OPEN,
    PER_ENTRY,
    Collapsed,
    Literal,
    noise_table,
    soft_mask,
    start_logits,
)

SHAPE = (24, 16)


def made(form, logit_mean=1.0, logit_std=1.0, seed=0):
    return FORMS[form](1, SHAPE, 8, logit_mean, logit_std, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_a_difference_for_each_entry_and_trains_all_it_has(form):
    mask = made(form)
    differences = mask()
    assert differences.shape == (1, *SHAPE)
    (differences * torch.randn(SHAPE)).sum().backward()
    assert all(parameter.grad is not None for parameter in mask.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_how_open_a_mask_starts_is_what_was_asked_for(form):
    tight, wide = (made(form, logit_mean=by)().mean().item() for by in (-2.0, 2.0))
    assert wide - tight == pytest.approx(4.0, abs=0.6)


@pytest.mark.parametrize("form", FORMS)
def test_how_far_apart_entries_start_is_what_was_asked_for(form):
    assert made(form, logit_std=5.0)().std().item() == pytest.approx(5.0, rel=0.25)


@pytest.mark.parametrize("form", FORMS)
def test_matrices_of_one_stack_have_nothing_to_do_with_each_other(form):
    mask = FORMS[form](3, SHAPE, 8, 1.0, 1.0, torch.Generator().manual_seed(0))
    before = mask().detach()
    assert before.shape == (3, *SHAPE)
    assert (before[0] - before[1]).abs().mean() > 0.1
    mask()[1].square().sum().backward()
    with torch.no_grad():
        for parameter in mask.parameters():
            assert parameter.grad is not None
            assert not parameter.grad[[0, 2]].any()
            parameter -= parameter.grad
    after = mask().detach()
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("form", FORMS)
def test_the_same_generator_gives_the_same_mask(form):
    assert torch.equal(made(form)(), made(form)())
    assert not torch.equal(made(form)(), made(form, seed=1)())


def test_entries_pass_as_often_as_their_logit_says():
    uniform = torch.rand(1, 400, 500, generator=torch.Generator().manual_seed(0))
    for difference in (-1.5, 0.0, 0.7):
        soft = soft_mask(torch.full_like(uniform, difference), uniform.logit() / 0.5, 0.5)
        assert torch.allclose(soft, ((difference + uniform.logit()) / 0.5).sigmoid(), atol=1e-6)
        assert (soft > 0.5).float().mean().item() == pytest.approx(torch.tensor(difference).sigmoid().item(), abs=0.005)


@pytest.mark.parametrize("form", FORMS)
def test_some_rows_are_those_of_the_whole_and_gradients_are_autograds(form):
    mask = FORMS[form](2, SHAPE, 8, 1.0, 1.0, torch.Generator().manual_seed(0)).double()
    parts = [part.detach().requires_grad_(part.requires_grad) for part in mask.parts()]
    whole = mask.differences(ALL, *parts)
    blocks = [mask.differences(slice(first, first + 10), *parts) for first in range(0, SHAPE[0], 10)]
    assert torch.allclose(torch.cat(blocks, dim=1), whole)
    # Whoever gets them writes over them.
    assert all(whole.data_ptr() != part.data_ptr() for part in parts)
    weights = torch.randn(whole.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    trained = [part for part in parts if part.requires_grad]
    wanted = iter(torch.autograd.grad(whole, trained, weights))
    for part, found in zip(parts, mask.gradients(weights, *parts), strict=True):
        assert (found is None) == (not part.requires_grad)
        assert found is None or torch.allclose(found, next(wanted))


def test_the_sample_is_that_of_a_two_way_gumbel_softmax():
    # Two Gumbel samples, as eq. 4 has them, against the one logistic sample that their difference is.
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.3, -0.4])
    gumbels = -torch.log(-torch.log(torch.rand(400_000, 2, generator=generator)))
    passed = ((logits + gumbels) / 0.5).softmax(dim=1)[:, 0]
    uniform = torch.rand(400_000, generator=generator)
    soft = ((logits[0] - logits[1] + torch.logit(uniform)) / 0.5).sigmoid()
    shares = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    assert torch.allclose(passed.quantile(shares), soft.quantile(shares), atol=0.01)


def test_the_noise_is_logistic_over_the_temperature():
    table = noise_table(400_000, 0.5, torch.Generator().manual_seed(0))
    shares = torch.tensor([0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
    assert torch.allclose(table.quantile(shares), 2 * shares.logit(), atol=0.06)
    assert table.isfinite().all()


def test_the_collapsed_table_moves_about_as_fast_as_the_literal_mlps_output():
    # Under Adam, with the same gradient in every step; the hypothesis that its speed is built on.
    moved = {}
    for form in (Literal, Collapsed):
        mask = form(2, SHAPE, 16, 0.0, 0.0, torch.Generator().manual_seed(0))
        before = mask().detach()
        optimizer = torch.optim.Adam(mask.parameters(), lr=1e-4, eps=1e-15)
        for _ in range(10):
            optimizer.zero_grad()
            mask().sum().backward()
            optimizer.step()
        moved[form] = (mask().detach() - before).abs().mean().item()
    assert moved[Collapsed] == pytest.approx(moved[Literal], rel=0.5)


def test_the_literal_form_has_the_weights_of_appendix_d():
    assert sum(parameter.numel() for parameter in made("literal").parameters()) == (8 * 8 + 8 + (8 + 1) * 24 * 16 * 2)


@pytest.mark.parametrize("form", sorted(PER_ENTRY))
def test_a_form_with_a_logit_an_entry_begins_at_any_numbers(form):
    mask = FORMS[form](2, SHAPE, 8, 1.0, 1.0, torch.Generator().manual_seed(0))
    wanted = 5 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    mask.begin(wanted)
    assert torch.allclose(mask(), wanted, atol=1e-4)


def test_an_entry_that_waits_passes_whatever_the_noise_and_has_no_gradient():
    noise = noise_table(100_000, 0.5, torch.Generator().manual_seed(0))
    noise[0] = noise.new_tensor(1e-7).logit() / 0.5
    soft = soft_mask(torch.full_like(noise, OPEN), noise, 0.5)
    assert (soft == 1).all()
    assert not torch.ops.aten.sigmoid_backward(torch.ones_like(soft), soft).any()


def test_masks_begin_by_how_large_an_entry_is_with_one_threshold_over_all_matrices():
    generator = torch.Generator().manual_seed(0)
    small, large = torch.randn(3, 40, 50, generator=generator), 10 * torch.randn(1, 30, 50, generator=generator)
    logits = start_logits([small, large])
    sizes = torch.cat([small.flatten(), large.flatten()]).abs()
    wanted = 2 * (sizes / sizes.median()).log()
    assert torch.allclose(torch.cat([each.flatten() for each in logits]), wanted.clamp(-4, 4), atol=1e-4)
    assert (logits[1] > 0).float().mean() > 0.8 > 0.5 > (logits[0] > 0).float().mean()


def test_masks_of_nothing_at_all_begin_half_open():
    assert not torch.cat([each.flatten() for each in start_logits([torch.zeros(1, 3, 4)])]).any()
