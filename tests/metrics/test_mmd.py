"""MMD against an independent computation, and the properties that bars rely on."""

import numpy as np
import pytest
import torch

from conceptctl.metrics.diversity import diversity
from conceptctl.metrics.mmd import PolynomialKernel, RbfKernel, mmd, noise_floor


def features(count, seed, shift=0.0):
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)) + shift


def expected_mmd(first, second, kernel, biased):
    """The definition, pair by pair, in numpy's double precision."""
    first, second = (part.numpy().astype(np.float64) for part in (first, second))

    def mean(ours, theirs, same):
        values = [
            kernel(x, y) for i, x in enumerate(ours) for j, y in enumerate(theirs) if biased or not same or i != j
        ]
        return sum(values) / len(values)

    return 1000 * (mean(first, first, True) + mean(second, second, True) - 2 * mean(first, second, False))


def unit(vector):
    return vector / np.sqrt((vector**2).sum())


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("degree", "gamma", "offset", "unit_norm"), [(2, None, 1.0, True), (3, 0.5, 0.0, False)])
def test_polynomial_mmd_is_its_definition(degree, gamma, offset, unit_norm, biased):
    first, second = features(7, 0), features(9, 1, shift=0.3)
    kernel = PolynomialKernel(degree, gamma, offset, unit_norm, biased)

    def by_hand(x, y):
        if unit_norm:
            x, y = unit(x), unit(y)
        return ((gamma or 1 / 16) * float(x @ y) + offset) ** degree

    assert mmd(first, second, kernel) == pytest.approx(expected_mmd(first, second, by_hand, biased), rel=1e-9)


def test_rbf_mmd_is_its_definition():
    first, second = features(7, 0), features(9, 1, shift=0.3)

    def by_hand(x, y):
        return np.exp(-((unit(x) - unit(y)) ** 2).sum() / (2 * 10.0**2))

    assert mmd(first, second, RbfKernel()) == pytest.approx(expected_mmd(first, second, by_hand, True), rel=1e-6)


@pytest.mark.parametrize("kernel", [PolynomialKernel(), RbfKernel()])
def test_equal_sets_are_at_distance_zero_and_others_are_not(kernel):
    same = features(20, 0)
    assert mmd(same, same, kernel) == pytest.approx(0, abs=1e-9)
    assert mmd(same, features(20, 1, shift=1.0), kernel) > mmd(same, features(20, 1), kernel) > 0


def test_the_unbiased_estimator_is_negative_on_equal_sets():
    """The reason why the biased one is the default."""
    same = features(50, 0)
    assert mmd(same, same, PolynomialKernel(biased=False)) < 0


def test_scaling_features_changes_nothing_with_unit_norm_and_something_without():
    first, second = features(20, 0), features(20, 1, shift=0.5)
    assert mmd(3 * first, second) == pytest.approx(mmd(first, second))
    raw = PolynomialKernel(unit_norm=False)
    assert mmd(3 * first, second, raw) != pytest.approx(mmd(first, second, raw))


def test_the_noise_floor_is_small_repeatable_and_falls_with_the_size_of_the_set():
    small, large = features(20, 0), features(400, 0)
    assert noise_floor(small) == noise_floor(small)
    assert noise_floor(large) < noise_floor(small) < mmd(small, features(20, 1, shift=1.0))


def test_the_noise_floor_is_its_definition():
    whole = features(9, 0)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    halves = whole[order[:4]], whole[order[4:8]]

    def by_hand(x, y):
        return (float(unit(x) @ unit(y)) / 16 + 1) ** 2

    assert noise_floor(whole, seed=3) == pytest.approx(expected_mmd(*halves, by_hand, True), rel=1e-9)


def test_diversity_is_its_definition():
    def spread(part):
        rows = [unit(row) for row in part.numpy().astype(np.float64)]
        apart = [np.sqrt(((x - y) ** 2).sum()) for i, x in enumerate(rows) for y in rows[:i]]
        return sum(apart) / len(apart)

    ours, real = features(7, 0), features(9, 1, shift=0.5)
    assert diversity(ours, real) == pytest.approx(spread(ours) / spread(real), rel=1e-9)


def test_diversity_is_one_on_the_same_set_and_zero_on_copies():
    real = features(30, 0)
    assert diversity(real, real) == pytest.approx(1)
    assert diversity(real[:1].repeat(10, 1), real) == pytest.approx(0, abs=1e-6)
    assert 0 < diversity(real[:1] + 0.1 * features(30, 1), real) < 0.5
