"""A, F, P, BwT, KID and the CLIP scores, against plain double-precision numpy."""

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from conceptctl.metrics.clip_scores import clip_i2i, clip_t2i
from conceptctl.metrics.continual import Sets, averaged, figures_of
from conceptctl.metrics.drift import WeightHistory
from conceptctl.metrics.kid import kid
from conceptctl.metrics.mmd import RbfKernel


def features(count, seed, shift=0.0):
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed)) + shift


def sets(seed):
    return Sets(
        features(9, seed, shift=0.5), features(7, seed + 100, shift=0.4), features(7, seed + 200, shift=0.1 * seed)
    )


def unit(array):
    array = array.numpy().astype(np.float64)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def squared_mmd(first, second, kernel, unbiased=False):
    within = []
    for part in (first, second):
        values = kernel(part, part)
        if unbiased:
            within.append((values.sum() - np.trace(values)) / (len(part) * (len(part) - 1)))
        else:
            within.append(values.mean())
    return 1000 * (sum(within) - 2 * kernel(first, second).mean())


def quadratic(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 2


def gaussian(x, y):
    return np.exp(-np.square(x[:, None] - y[None]).sum(-1) / 200)


@pytest.mark.parametrize(("kernel", "by_hand"), [(None, quadratic), (RbfKernel(), gaussian)])
def test_figures_are_their_definitions(kernel, by_hand):
    concepts = [sets(seed) for seed in range(4)]
    found = averaged([figures_of(each, kernel) for each in concepts], [False, False, False, True])
    real, then, now = ([unit(part) for part in parts] for parts in zip(*[vars(each).values() for each in concepts]))  # noqa: B905
    today = [squared_mmd(d, n, by_hand) for d, n in zip(real, now, strict=True)]
    learned = [squared_mmd(d, t, by_hand) for d, t in zip(real, then, strict=True)]
    forgotten = [squared_mmd(t, n, by_hand) for t, n in zip(then, now, strict=True)]
    assert found["A_mmd"] == pytest.approx(np.mean(today), rel=1e-6)
    assert found["P_mmd"] == pytest.approx(np.mean(learned), rel=1e-6)
    assert found["F_mmd"] == pytest.approx(np.mean(forgotten[:3]), rel=1e-6)
    assert found["BwT_mmd"] == pytest.approx(np.mean(np.subtract(learned, today)[:3]), rel=1e-6)


def test_nothing_is_forgotten_where_nothing_changed():
    then = features(32, 1)
    assert figures_of(Sets(features(9, 0), then, then.clone()))["F_mmd"] == 0
    assert figures_of(Sets(features(9, 0), then, then + 0.1 * features(32, 2)))["F_mmd"] > 0


def named(a, f, p, bwt):
    return {"A_mmd": a, "F_mmd": f, "P_mmd": p, "BwT_mmd": bwt}


def test_the_last_concept_counts_for_quality_and_not_for_forgetting():
    one, last = named(2.0, 1.0, 3.0, 1.0), named(4.0, 9.0, 5.0, 9.0)
    assert averaged([one, last], [False, True]) == named(3.0, 1.0, 4.0, 1.0)
    assert averaged([last], [True]) == named(4.0, None, 5.0, None)


def test_what_cannot_be_drawn_again_is_not_known_and_does_not_count():
    lost = figures_of(Sets(features(9, 0), None, features(7, 1)))
    assert lost["A_mmd"] > 0
    assert (lost["F_mmd"], lost["P_mmd"], lost["BwT_mmd"]) == (None, None, None)
    assert averaged([lost, named(2.0, 1.0, 3.0, 1.0)], [False, False])["F_mmd"] == 1.0


def test_backward_transfer_is_positive_when_pictures_come_closer():
    real = features(30, 0)
    closer = Sets(real, real + features(30, 1), real + 0.2 * features(30, 1))
    assert figures_of(closer)["BwT_mmd"] > 0


def test_kid_is_the_unbiased_cubic_mmd_on_features_of_length_sqrt_d():
    generated, real = features(8, 0), features(11, 1, shift=0.3)
    longer = [unit(part) * np.sqrt(12) for part in (generated, real)]

    def cubic(x, y):
        return (x @ y.T / 12 + 1) ** 3

    assert kid(generated, real) == pytest.approx(squared_mmd(*longer, cubic, unbiased=True), rel=1e-9)


def test_kid_is_what_torchmetrics_computes():
    generated, real = (torch.from_numpy(unit(part) * np.sqrt(12)) for part in (features(9, 0), features(9, 1)))
    assert kid(generated, real) == pytest.approx(1000 * poly_mmd(generated, real).item(), rel=1e-6)


def test_clip_scores_are_mean_cosines():
    generated, real, prompt = features(5, 0), features(7, 1), features(1, 2)
    assert clip_i2i(generated, real) == pytest.approx((unit(generated) @ unit(real).T).mean(), rel=1e-9)
    assert clip_t2i(generated, prompt) == pytest.approx((unit(generated) @ unit(prompt).T).mean(), rel=1e-9)
    assert clip_i2i(real[:1], real[:1]) == pytest.approx(1)


def test_drift_counts_what_is_changed_for_the_first_time_and_how_far_it_goes():
    history = WeightHistory()
    first = np.array([[True, True, False]]), np.array([3.0, 4.0], dtype=np.float32)
    second = np.array([[False, True, True]]), np.array([-4.0, 12.0], dtype=np.float32)
    assert vars(history.add([("k", *first)])) == {"changed": 2, "first_time": 1.0, "distance": 5.0}
    after = history.add([("k", *second), ("v", *first)])
    assert (after.changed, after.first_time) == (4, 0.75)
    assert after.distance == pytest.approx(np.sqrt(3**2 + 12**2 + 3**2 + 4**2))
    assert history.add([]).first_time is None
