"""Penalties against the sums that they stand for, written out in numpy."""

import numpy as np
import pytest
import torch

from conceptctl.learning.weights import Deltas
from conceptctl.parts.penalties import (
    SKETCH,
    Forgetting,
    Preservation,
    forgetting,
    hutchinson_sketch,
    preservation,
    sparsity,
)


def test_forgetting_is_the_squared_norm_of_the_product_with_what_changed_before():
    generator = torch.Generator().manual_seed(0)
    # Two shapes, so two stacks.
    shapes = {"a": (5, 7), "b": (6, 7), "c": (5, 7)}
    deltas = {place: torch.randn(shape, generator=generator) for place, shape in shapes.items()}
    earlier = {place: torch.randn(shape, generator=generator).abs() for place, shape in shapes.items()}
    wanted = sum(
        np.linalg.norm(earlier[place].double().numpy() * deltas[place].double().numpy()) ** 2 for place in "abc"
    )
    assert forgetting(Deltas.of(deltas), Deltas.of(earlier)).item() == pytest.approx(wanted, rel=1e-5)


def test_forgettings_gradient_is_that_of_what_it_is():
    generator = torch.Generator().manual_seed(0)
    deltas, earlier = torch.randn(2, 5, 7, dtype=torch.float64, generator=generator).unbind()
    deltas.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda delta: forgetting(Deltas.of({"a": delta}), Deltas.of({"a": earlier})), (deltas,)
    )


def test_forgetting_asks_nothing_of_untouched_weights():
    earlier = Deltas.of({"a": torch.tensor([[0.0, 2.0]])})
    assert forgetting(Deltas.of({"a": torch.tensor([[9.0, 0.0]])}), earlier).item() == 0
    assert forgetting(Deltas.of({"a": torch.tensor([[9.0, 3.0]])}), earlier).item() == 36


def test_sparsity_is_the_share_of_all_entries_that_pass_whatever_matrix_they_are_in():
    masks = [torch.zeros(2, 3), torch.ones(20, 5)]
    densities, sizes = torch.stack([mask.mean() for mask in masks]), torch.tensor([6.0, 100.0])
    assert sparsity(densities, sizes).item() == pytest.approx(torch.cat([each.flatten() for each in masks]).mean())


def test_preservation_is_the_share_by_which_keys_and_values_of_other_prompts_change():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 7, generator=generator, dtype=torch.float64)
    shapes = {"a": (5, 7), "b": (6, 7), "c": (5, 7)}
    weights, deltas = (
        {place: torch.randn(shape, generator=generator, dtype=torch.float64) for place, shape in shapes.items()}
        for _ in range(2)
    )
    factor = torch.linalg.cholesky(hidden.T @ hidden / len(hidden))
    energy = {place: (weight @ factor).square().sum() for place, weight in weights.items()}
    shares = [
        np.square(hidden.numpy() @ deltas[place].numpy().T).sum()
        / np.square(hidden.numpy() @ weights[place].numpy().T).sum()
        for place in "abc"
    ]
    assert preservation(Deltas.of(deltas), factor, energy).item() == pytest.approx(np.mean(shares))


def test_a_sketch_stands_for_all_columns_in_the_mean():
    generator = torch.Generator().manual_seed(0)
    states, delta = torch.randn(12, 100, generator=generator), torch.randn(5, 12, generator=generator)
    exact = preservation(Deltas.of({"a": delta}), states, {"a": torch.tensor(1.0)}).item()
    drawn = [hutchinson_sketch(states, generator) for _ in range(400)]
    assert {each.shape for each in drawn} == {(12, SKETCH)}
    found = [preservation(Deltas.of({"a": delta}), each, {"a": torch.tensor(1.0)}).item() for each in drawn]
    assert np.mean(found) == pytest.approx(exact, rel=0.03)
    assert np.std(found) > 0
    few = states[:, :SKETCH]
    assert hutchinson_sketch(few, generator) is few


@pytest.mark.parametrize("name", ["preservation", "forgetting"])
def test_what_rows_add_is_the_penalty_of_all_and_has_its_gradient(name):
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (5, 7), "b": (6, 7), "c": (5, 7)}
    deltas, earlier = (
        Deltas.of(
            {path: torch.randn(shape, generator=generator, dtype=torch.float64) for path, shape in shapes.items()}
        )
        for _ in range(2)
    )
    factor = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    energy = {path: torch.tensor(float(number + 2)) for number, path in enumerate(shapes)}
    penalty = Preservation(factor, energy) if name == "preservation" else Forgetting(earlier)
    stacks = {paths: stack.clone().requires_grad_() for paths, stack in deltas.stacks.items()}
    whole = (
        preservation(Deltas(stacks), factor, energy) if name == "preservation" else forgetting(Deltas(stacks), earlier)
    )
    wanted = Deltas(dict(zip(stacks, torch.autograd.grad(whole, list(stacks.values())), strict=True)))
    # The one is a mean over projections, the other a sum.
    scale = torch.tensor([1 / 3 if name == "preservation" else 1.0], dtype=torch.float64)
    total = torch.zeros(1, dtype=torch.float64)
    for path, delta in deltas.items():
        for rows in (slice(0, 2), slice(2, None)):
            total += scale * penalty.value(path, delta[None, rows], rows)
            found = penalty.gradient(path, delta[None, rows], rows, scale)
            assert torch.allclose(found[0], wanted[path][rows])
    assert total.item() == pytest.approx(whole.item())
