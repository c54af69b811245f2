"""What the report says of changes of the model that are no learning."""

from types import SimpleNamespace

import pytest

from conceptctl.store.index import LogRow
from conceptctl.workflows.evaluate.events import Event, events, is_kept

NAMES = {"a" * 16: "alice", "b" * 16: "bob"}


def row(seq, verb, subject=""):
    return LogRow(seq, f"{seq:064x}", "2026-11-01T00:00:00Z", verb, subject, 2, seq)


def run(alice, bob, floor=2.0):
    found = {}
    for uid, forgetting in zip(NAMES, (alice, bob), strict=True):
        found[uid] = SimpleNamespace(figures={"F_mmd": forgetting, "noise_floor": floor})
    return found


@pytest.mark.parametrize(
    ("forgetting", "floor", "kept"), [(0.5, 2.0, True), (2.0, 2.0, True), (2.1, 2.0, False), (None, 2.0, None)]
)
def test_kept_is_what_differs_no_more_than_two_halves_of_one_set(forgetting, floor, kept):
    assert is_kept(SimpleNamespace(figures={"F_mmd": forgetting, "noise_floor": floor})) is kept


def test_each_change_is_judged_by_the_first_evaluation_of_what_it_made():
    log = [
        row(0, "init"),
        row(1, "learn", "alice"),
        row(2, "learn", "bob"),
        row(3, "learn", "carol"),
        row(4, "forget", "carol"),
        row(5, "eval", "alice bob"),
        row(6, "fold", "alice bob"),
        row(7, "import", "dora"),
        row(8, "compact"),
        row(9, "learn", "emil"),
        row(10, "forget", "emil"),
    ]
    # Newest first, as a store gives it: the order in the log decides nothing.
    runs = {4: run(0.1, 0.2), 6: run(9, 9), 8: run(3.0, None), 11: run(0, 0)}
    found = events(reversed(log), runs, NAMES)
    assert found == (
        Event(4, "forget carol", 4, ("alice", "bob"), (), ()),
        Event(7, "import dora", None, (), (), ()),
        Event(8, "compact", 8, (), ("alice",), ("bob",)),
        Event(10, "forget emil", 11, ("alice", "bob"), (), ()),
    )


def test_what_was_evaluated_before_a_change_says_nothing_of_it():
    log = [row(0, "init"), row(1, "learn", "alice"), row(2, "forget", "carol"), row(3, "undo")]
    (found,) = events(log, {1: run(0, 0), 3: run(0, 0)}, NAMES)
    assert found.measured is None
