"""The adapter that goes on from task to task: what it takes up, and what it does not."""

import pytest
import torch

from conceptctl.errors import UsageError
from conceptctl.parts.adapters.continued import ContinuedLowRank

SHAPES = {"a": (5, 7), "b": (6, 7), "c": (5, 7)}


def made(rank, state=None):
    return ContinuedLowRank(SHAPES, rank, 1e-3, generator=torch.Generator().manual_seed(0), state=state or {})


def left(rank):
    """The state of one that has trained."""
    adapter = made(rank)
    with torch.no_grad():
        for factor in adapter.factors:
            factor.normal_(generator=torch.Generator().manual_seed(1))
    return adapter.state(torch.arange(float(adapter.flat().numel())))


def test_it_takes_up_every_factor_and_what_each_entry_is_needed_for():
    state = left(3)
    adapter = made(3, state)
    for name, kept in adapter.state(adapter.fisher).items():
        assert torch.equal(kept, state[name]), name
    assert not any(delta.any() for delta in adapter.folded().values())
    assert not any(delta.any() for delta in adapter(torch.Generator()).values())


@pytest.mark.parametrize(("before", "now"), [(1, 3), (3, 1), (2, 3)])
def test_one_of_another_rank_is_refused_and_never_repeated(before, now):
    with pytest.raises(UsageError, match="another rank"):
        made(now, left(before))


@pytest.mark.parametrize("name", ["up/a", "down/b", "fisher_up/c"])
def test_a_part_that_is_missing_or_has_another_form_is_refused(name):
    state = left(3)
    with pytest.raises(UsageError, match="other weights"):
        made(3, {other: kept for other, kept in state.items() if other != name})
    with pytest.raises(UsageError, match="other weights"):
        made(3, {**state, name: state[name][0]})
