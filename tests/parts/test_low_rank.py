"""Low-rank adapters: what their factors make."""

import pytest
import torch

from conceptctl.parts.adapters.low_rank import LowRank

SHAPES = {"a": (5, 7), "b": (6, 7), "c": (5, 7)}


@pytest.mark.parametrize("rank", [3, 6])
def test_a_delta_is_the_product_of_its_factors(rank):
    # No rank is larger than its matrix allows: 5 and 6 of 6.
    made = LowRank(SHAPES, rank, 1e-3, generator=torch.Generator().manual_seed(1), init_std=1.0)
    factors = {
        place: (up[index], down[index])
        for places, up, down in zip(made.shapes, made.up, made.down, strict=True)
        for index, place in enumerate(places)
    }
    assert set(factors) == set(SHAPES) == set(made.folded())
    for place, (up, down) in factors.items():
        assert made.folded()[place].shape == SHAPES[place]
        assert torch.allclose(made.folded()[place], up @ down)
    kept = made.factors_by_path("up", "down")
    assert all(torch.equal(kept[f"up/{place}"], up) for place, (up, _) in factors.items())


def test_the_first_delta_is_nothing_unless_it_is_asked_for():
    made = LowRank(SHAPES, 3, 1e-3, generator=torch.Generator().manual_seed(1))
    assert not any(delta.any() for delta in made.folded().values())
