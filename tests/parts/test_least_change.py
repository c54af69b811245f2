"""The closed form of least change, against plain numpy."""

import numpy as np
import pytest
import torch

from conceptctl.parts.consolidation.least_change import Constraint, LeastChange, energy, second_moment

D1, D = 5, 12


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def moment_of(states):
    return second_moment(torch.from_numpy(states))


def constraint(states, wanted, weight=1.0):
    return Constraint(moment_of(states), lambda path: torch.from_numpy(wanted), weight)


def solved(weight, constraints, everything_else, ridge):
    solver = LeastChange(constraints, moment_of(everything_else), ridge)
    return weight + solver.of("w", torch.from_numpy(weight)).numpy(), solver.missed


def test_it_is_the_constrained_merge_of_custom_diffusion_where_there_are_fewer_states_than_dimensions():
    """Kumari et al. 2023: W + v d with d = C (C_reg^T C_reg)^-1 and v = (V - W C^T) (d C^T)^-1, C's rows the states."""
    weight, learned = random(D1, D, seed=1), [random(D1, D, seed=2), random(D1, D, seed=3)]
    states = [random(3, D, seed=4), random(2, D, seed=5)]
    regularization = random(200, D, seed=6)
    rows = np.concatenate(states)
    outputs = np.concatenate([own @ part.T for own, part in zip(learned, states, strict=True)], axis=1)
    d = rows @ np.linalg.inv(regularization.T @ regularization)
    theirs = weight + (outputs - weight @ rows.T) @ np.linalg.inv(d @ rows.T).T @ d
    constraints = [constraint(part, own) for own, part in zip(learned, states, strict=True)]
    ours, missed = solved(weight, constraints, regularization, 1e-10)
    assert np.allclose(ours, theirs, atol=1e-4)
    assert np.allclose(ours @ rows.T, outputs, atol=1e-4)
    assert max(missed) < 1e-4


def test_it_is_a_weighted_least_squares_where_there_are_more():
    weight, wanted = random(D1, D, seed=1), random(D1, D, seed=2)
    held, moved, other = random(40, D, seed=3), random(30, D, seed=4), random(100, D, seed=5)
    ours, missed = solved(weight, [constraint(held, weight, 2.0), constraint(moved, wanted)], other, 0.3)
    parts = ((held, weight, 2.0), (moved, wanted, 1.0), (other, weight, 0.3))
    rows = np.concatenate([states * (share / len(states)) ** 0.5 for states, _, share in parts])
    outputs = np.concatenate([states @ to.T * (share / len(states)) ** 0.5 for states, to, share in parts])
    theirs = np.linalg.lstsq(rows, outputs, rcond=None)[0].T
    # The floor under the moment of everything else is in ours alone.
    assert np.allclose(ours, theirs, atol=1e-5)
    for (states, to, _), found in zip(parts, missed, strict=False):
        asked = np.linalg.norm(states @ to.T)
        assert found == pytest.approx(np.linalg.norm(states @ (ours - to).T) / asked, rel=1e-4)
    assert 0.05 < missed[1] < 2


def test_states_that_nobody_asks_for_are_changed_least():
    """Whatever else satisfies the constraint changes the outputs of everything else more."""
    weight, wanted = random(D1, D, seed=1), random(D1, D, seed=2)
    states, other = random(3, D, seed=3), random(50, D, seed=4) * np.linspace(0.1, 3, D)
    ours, _ = solved(weight, [constraint(states, wanted)], other, 1e-9)
    least = np.linalg.norm(other @ (ours - weight).T)
    free = np.linalg.svd(states)[2][3:]
    for seed in range(5):
        another = ours + 0.1 * random(D1, len(free), seed=seed) @ free
        assert np.allclose(another @ states.T, ours @ states.T, atol=1e-6)
        assert np.linalg.norm(other @ (another - weight).T) > least


@pytest.mark.parametrize("copies", [2, 50])
def test_states_that_say_the_same_twice_do_no_harm(copies):
    weight, wanted = random(D1, D, seed=1), random(D1, D, seed=2)
    states = np.repeat(random(2, D, seed=3), copies, axis=0)
    nearly = states + 1e-9 * random(*states.shape, seed=4)
    # Everything else lies in four directions: the others are free, and must not go astray.
    other = random(60, 4, seed=5) @ random(4, D, seed=6)
    ours, missed = solved(weight, [constraint(nearly, wanted)], other, 1e-6)
    assert np.abs(ours).max() < 100
    assert missed[0] < 1e-2


def test_nothing_to_do_changes_nothing():
    weight = random(D1, D, seed=1)
    ours, missed = solved(weight, [constraint(random(20, D, seed=2), weight)], random(30, D, seed=3), 0.1)
    assert np.array_equal(ours, weight)
    assert missed == [0.0]


def test_several_matrices_are_counted_together():
    states, other = random(20, D, seed=2), random(30, D, seed=3)
    weights = {name: torch.from_numpy(random(D1, D, seed=seed)) for seed, name in enumerate("ab")}
    wanted = {name: torch.from_numpy(random(D1, D, seed=seed + 9)) for seed, name in enumerate("ab")}
    solver = LeastChange([Constraint(moment_of(states), wanted.__getitem__)], moment_of(other), 10.0)
    lacking = asked = 0.0
    for name, weight in weights.items():
        after = weight + solver.of(name, weight)
        lacking += energy(after - wanted[name], moment_of(states))
        asked += energy(wanted[name], moment_of(states))
    assert solver.missed == [pytest.approx((lacking / asked) ** 0.5)]


def test_what_cannot_be_solved_is_refused():
    with pytest.raises(ValueError, match="constraint"):
        LeastChange([], moment_of(random(9, D)), 1.0)
    with pytest.raises(ValueError, match="ridge"):
        LeastChange([constraint(random(9, D), random(D1, D))], moment_of(random(9, D)), 0.0)
