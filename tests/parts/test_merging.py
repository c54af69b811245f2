"""Merges and orthogonal starts, against plain numpy."""

import numpy as np
import pytest
import torch

from conceptctl.parts.adapters.orthogonal import orthogonal_rows
from conceptctl.parts.consolidation.least_change import second_moment
from conceptctl.parts.consolidation.merging import ConstrainedMerge

D1, D = 5, 24


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def merged(changes, words, everything_else, ridge=1e-6):
    moment = second_moment(torch.from_numpy(everything_else))
    merge = ConstrainedMerge([torch.from_numpy(each) for each in words], moment, ridge)
    outputs = [torch.from_numpy(change @ own.T) for change, own in zip(changes, words, strict=True)]
    return merge.of(outputs).numpy()


def test_it_is_custom_diffusions_closed_form():
    """Kumari et al. 2023: W + v d with d = C (C_reg^T C_reg)^-1 and v = (V - W C^T) (d C^T)^-1, C's rows the words."""
    changes = [random(D1, D, seed=seed) for seed in (1, 2, 3)]
    words = [random(count, D, seed=seed) for count, seed in ((3, 4), (2, 5), (5, 6))]
    regularization = random(300, D, seed=7)
    rows = np.concatenate(words)
    values = np.concatenate([change @ own.T for change, own in zip(changes, words, strict=True)], axis=1)
    d = rows @ np.linalg.inv(regularization.T @ regularization)
    theirs = values @ np.linalg.inv(d @ rows.T).T @ d
    ours = merged(changes, words, regularization)
    assert np.allclose(ours, theirs, atol=2e-3)
    for change, own in zip(changes, words, strict=True):
        assert np.allclose(ours @ own.T, change @ own.T, atol=1e-3)


def test_more_words_than_dimensions_are_met_as_well_as_can_be():
    """A hundred words in 24 dimensions: the least squares over concepts, each of which counts alike."""
    changes = [random(D1, D, seed=seed) for seed in range(10)]
    words = [random(4 + seed, D, seed=50 + seed) for seed in range(10)]
    rows = np.concatenate([own / len(own) ** 0.5 for own in words])
    values = np.concatenate([own @ change.T / len(own) ** 0.5 for change, own in zip(changes, words, strict=True)])
    theirs = np.linalg.lstsq(rows, values, rcond=None)[0].T
    assert np.allclose(merged(changes, words, random(300, D, seed=9)), theirs, atol=1e-4)


def test_words_that_are_nearly_alike_do_no_harm_where_other_prompts_count():
    changes = [random(D1, D, seed=1), random(D1, D, seed=2)]
    words = [random(3, D, seed=3)] * 2
    words = [words[0], words[1] + 1e-4 * random(3, D, seed=4)]
    wild, tame = (np.abs(merged(changes, words, random(300, D, seed=7), ridge)).max() for ridge in (1e-12, 1e-3))
    assert tame < 10 < 100 < wild


@pytest.mark.parametrize("used", [0, 3, 9])
def test_an_adapter_begins_where_no_earlier_one_has_been(used):
    change = torch.from_numpy(random(2, 6, used, seed=1) @ random(2, used, D, seed=2)).float()
    rows = orthogonal_rows(change, 4, torch.Generator().manual_seed(0))
    assert rows.shape == (2, 4, D)
    torch.testing.assert_close(rows @ rows.mT, torch.eye(4).expand(2, 4, 4) / 3)
    torch.testing.assert_close(change @ rows.mT, torch.zeros(2, 6, 4), atol=1e-5, rtol=0)
    again = orthogonal_rows(change, 4, torch.Generator().manual_seed(1))
    assert not torch.allclose(rows, again, atol=1e-2)


def test_where_every_direction_is_used_it_begins_in_those_that_are_used_least():
    sizes = torch.arange(1.0, 9.0)
    basis = torch.linalg.qr(torch.from_numpy(random(8, 8))).Q.float()
    change = (torch.diag(sizes) @ basis)[None]
    (rows,) = orthogonal_rows(change, 2, torch.Generator())
    within = rows @ basis[:2].T @ basis[:2]
    torch.testing.assert_close(within, rows, atol=1e-5, rtol=0)
