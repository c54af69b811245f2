"""Low-rank adapters, and the coordinates that they may train in."""

import numpy as np
import pytest
import torch

from conceptctl.parts.adapters.low_rank import LowRank, preconditioner

SHAPES = {"a": (5, 7), "b": (6, 7), "c": (5, 7)}


def states():
    # Nearly all of them lie in one direction, as a text encoder's do.
    found = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    found[:, 0] *= 30
    return found


def adapters(coordinates, rank=3):
    generator = torch.Generator().manual_seed(1)
    return LowRank(SHAPES, rank, 1e-3, generator=generator, init_std=1.0, preconditioner=coordinates)


def test_coordinates_are_the_inverse_root_of_the_damped_moment():
    moment = states().double().numpy() @ states().double().numpy().T
    mean = np.trace(moment) / 7
    found = preconditioner(states(), 2.0).double().numpy()
    assert np.linalg.inv(found @ found) == pytest.approx(np.eye(7) + 2.0 * moment / mean, rel=1e-3, abs=1e-3)
    assert preconditioner(states(), 0.0) == pytest.approx(torch.eye(7), abs=1e-5)


@pytest.mark.parametrize("rank", [3, 6])
def test_what_is_multiplied_is_a_and_b_in_those_coordinates(rank):
    coordinates = preconditioner(states(), 2.0)
    # No rank is larger than its matrix allows: 5 and 6 of 6.
    made = adapters(coordinates, rank)
    factors = {
        place: (up[index], down[index])
        for places, up, down in zip(made.shapes, made.up, made.down, strict=True)
        for index, place in enumerate(places)
    }
    assert set(factors) == set(SHAPES) == set(made.folded())
    for place, (up, down) in factors.items():
        assert made.folded()[place].shape == SHAPES[place]
        assert torch.allclose(made.folded()[place], up @ down @ coordinates)


def test_they_change_less_for_other_prompts():
    def change(coordinates):
        deltas = adapters(coordinates).folded()
        size = sum(delta.square().sum() for delta in deltas.values())
        return (sum((delta @ states()).square().sum() for delta in deltas.values()) / size).item()

    assert change(preconditioner(states(), 10.0)) < 0.5 * change(preconditioner(states(), 1.0)) < 0.25 * change(None)


def test_coordinates_are_no_part_of_the_state():
    assert not any("preconditioner" in name for name in adapters(preconditioner(states(), 1.0)).state_dict())
