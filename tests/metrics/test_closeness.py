"""Closeness: where pictures lie between their class and the concept, and why A_mmd alone does not say it."""

import math

import pytest
import torch
from torch.nn import functional

from conceptctl.metrics.closeness import LIKE, like, nearest, scale_of
from conceptctl.metrics.mmd import mmd

WIDTH = 48


def around(centre, count, spread, seed):
    """Features that lie about a direction: unit norm, (count, WIDTH)."""
    noise = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(centre + spread * noise / math.sqrt(WIDTH), dim=1)


@pytest.fixture(scope="module")
def centres():
    return functional.normalize(torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)


@pytest.fixture(scope="module")
def scale(centres):
    return scale_of(around(centres[0], 24, 0.5, 1), around(centres[1], 8, 0.5, 2))


def test_it_is_what_numpy_says(centres):
    heldout, drawn, others = around(centres[0], 5, 0.5, 1), around(centres[0], 3, 0.6, 2), around(centres[1], 4, 1, 3)
    found = scale_of(heldout, others)
    real, made, rest = (part.double().numpy() for part in (heldout, drawn, others))
    low = (rest @ real.T).max(1).mean()
    among = [max(real[i] @ real[j] for j in range(5) if j != i) for i in range(5)]
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(sum(among) / 5)
    wanted = ((made @ real.T).max(1) - low) / (found.high - low)
    assert found.places(drawn).tolist() == pytest.approx(wanted.tolist())
    assert nearest(heldout, heldout).tolist() == pytest.approx([1] * 5)


def test_the_ends_are_the_class_and_the_concept(scale, centres):
    assert scale.tells_apart
    assert scale.places(around(centres[0], 24, 0.5, 3)).mean() == pytest.approx(1, abs=0.1)
    assert scale.places(around(centres[1], 24, 0.5, 4)).mean() == pytest.approx(0, abs=0.1)
    assert like(scale.places(around(centres[0], 24, 0.5, 3))) >= 20
    assert like(scale.places(around(centres[2], 24, 0.5, 5))) == 0
    assert like(torch.tensor([LIKE, LIKE - 0.01, 1.7])) == 2


def test_held_out_pictures_that_are_like_everything_tell_nothing(centres):
    """Photographs of many things, held out as if they were one: no more alike than the class's are to them."""
    same = around(centres[0], 12, 0.5, 1)
    assert not scale_of(same, around(centres[0], 8, 0.5, 2)).tells_apart
    assert not scale_of(torch.cat([around(centre, 1, 0.1, 3) for centre in centres]), same).tells_apart


def test_what_has_the_right_mean_and_the_wrong_pictures():
    """A_mmd takes shapeless pictures about the mean of four surroundings for better than good ones of one of them."""
    places = torch.eye(WIDTH)[:5]
    heldout = torch.cat([around(place, 6, 0.3, seed) for seed, place in enumerate(places[:4])])
    blobs = around(functional.normalize(places[:4].sum(0), dim=0), 24, 0.3, 5)
    good = torch.cat([around(places[0], 16, 0.3, 6), around(places[1], 8, 0.3, 7)])
    assert mmd(heldout, blobs) < mmd(heldout, good)
    found = scale_of(heldout, around(places[4], 8, 0.3, 8))
    assert like(found.places(good)) == 24
    assert like(found.places(blobs)) == 0
