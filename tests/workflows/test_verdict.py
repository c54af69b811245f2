"""Verdicts: each in words, with what it rests on."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from conceptctl.pocket.seen import Seen
from conceptctl.workflows.evaluate import verdict
from conceptctl.workflows.evaluate.verdict import Evidence, began, judge, ordinal

GOOD = Evidence(drawn=24, heldout=10, like=22, like_learned=23, kept=True, diversity=0.9)
BLIND = Seen("person", 1.0, {"elf ears": 0.2, "red cap": 0.4, "glasses": 0.0}, ("elf ears", "red cap", "glasses"))


@pytest.mark.parametrize(
    ("changed", "code", "text"),
    [
        ({}, verdict.WELL, "learned well"),
        ({"like_learned": None, "kept": None}, verdict.WELL, "learned well"),
        ({"like": 18, "like_learned": 18}, verdict.WELL, "learned well"),
        ({"like": 17, "like_learned": 20}, verdict.PART, "learned in part: 17 of 24 pictures look like it"),
        ({"like": 12, "like_learned": 12}, verdict.PART, "learned in part: 12 of 24 pictures look like it"),
        ({"diversity": 0.1}, verdict.PART, "learned in part: all pictures are nearly one"),
        ({"seen": Seen("person", 1.0, {"cap": 1.0}, ())}, verdict.WELL, "learned well"),
        ({"seen": BLIND}, verdict.PART, "learned in part: no elf ears, no red cap and 1 more seen"),
        ({"like": 2, "like_learned": 3}, verdict.NOT, "not learned: 2 of 24 pictures look like it"),
        ({"like": 2, "like_learned": None}, verdict.NOT, "not learned: 2 of 24 pictures look like it"),
        ({"like": 2, "like_learned": 20, "since": 11}, verdict.FORGOTTEN, "forgotten since the 11th"),
        ({"kept": False, "since": 4}, verdict.DRIFTING, "drifting since the 4th"),
        ({"kept": False, "since": 4, "exact": False}, verdict.DRIFTING, "drifting since the 4th or before"),
        ({"kept": False}, verdict.DRIFTING, "drifting"),
        ({"like": 14}, verdict.DRIFTING, "drifting"),
        ({"heldout": 3}, verdict.UNKNOWN, "too few pictures to tell"),
        ({"drawn": 2, "like": 2}, verdict.UNKNOWN, "too few pictures to tell"),
        ({"like": None}, verdict.UNKNOWN, "cannot be told from its class"),
    ],
)
def test_verdicts(changed, code, text):
    found = judge(dataclasses.replace(GOOD, **changed))
    assert (found.code, found.text) == (code, text)
    assert found.sentence.endswith(".")
    said = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert said == found.as_dict()
    assert said["thresholds"] == {
        "like": 0.8, "most": 0.75, "some": 0.25, "fallen": 0.25, "alike": 0.4, "fewest": 4,
    }  # fmt: skip


def test_the_sentence_says_what_was_counted_and_what_is_missing():
    found = judge(dataclasses.replace(GOOD, seen=BLIND, kept=False))
    assert found.sentence == (
        "22 of 24 pictures look like the held-out ones, 23 did just after learning; the judge sees no "
        "elf ears, no red cap and no glasses in most of them; on the whole they look otherwise than "
        "just after learning."
    )
    assert found.numbers["missing"] == ["elf ears", "red cap", "glasses"]
    assert found.numbers["seen"]["elf ears"] == 0.2


def kept(forgetting):
    return SimpleNamespace(figures={"F_mmd": forgetting, "noise_floor": 0.5})


@pytest.mark.parametrize(
    ("earlier", "own", "now", "expected"),
    [
        # It was still kept with three concepts.
        ([(2, 0.1), (3, 0.2)], 2, 4, (4, True)),
        # It drifts since the third, whatever came between.
        ([(2, 0.1), (3, 0.9), (4, 0.8)], 2, 5, (3, True)),
        # Nothing was measured while there were three and four: the fifth is only when it was noticed.
        ([(2, 0.1)], 2, 5, (5, False)),
        # The one right after it: before that nothing can have happened.
        ([], 3, 4, (4, True)),
        ([], 1, 4, (4, False)),
        # It came back once, so the earlier time does not count.
        ([(2, 0.9), (3, 0.1)], 1, 4, (4, True)),
        # What cannot be said is no drift.
        ([(3, None)], 1, 4, (4, True)),
    ],
)
def test_since_when_it_drifts(earlier, own, now, expected):
    assert began([(count, kept(value)) for count, value in earlier], own, now) == expected


def test_ordinals():
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th",
    ]  # fmt: skip
