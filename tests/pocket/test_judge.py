"""The judge's rule: what counts as showing a concept, and which near misses do not."""

import random

import pytest

from conceptctl.pocket.judge import Reading, labels_of
from conceptctl.pocket.world.concepts import concept
from conceptctl.pocket.world.kinds import KINDS
from conceptctl.pocket.world.labels import HEADS


def another(subject, name):
    """The subject with one attribute changed."""
    attribute = next(item for item in KINDS[subject.kind] if item.name == name)
    value = next(value for value in attribute.values if value not in (subject[name], "none"))
    return subject.replaced(**{name: value})


@pytest.mark.parametrize("kind", KINDS)
def test_a_concept_is_accepted_and_its_near_misses_are_not(kind):
    for seed in range(20):
        item = concept(kind, seed)
        assert Reading((item.subject,)).shows(item.subject)
        assert not Reading((item.twin(),)).shows(item.subject)
        assert not Reading((item.twin("mark"),)).shows(item.subject)
        assert not Reading((item.twin("extra"),)).shows(item.subject)
        assert not Reading((another(item.subject, "mark_colour"),)).shows(item.subject)
        assert not Reading(()).shows(item.subject)


def test_one_slip_is_forgiven_and_two_are_not():
    subject = concept("person", 1).subject
    one = another(subject, "skin")
    assert Reading((one,)).shows(subject)
    assert not Reading((another(one, "shirt_pattern"),)).shows(subject)


def test_a_missing_hat_is_one_slip_though_its_colour_is_missing_too():
    subject = concept("person", 1).subject.replaced(hat="cap", hat_colour="lime")
    assert Reading((subject.replaced(hat="none"),)).shows(subject)


def test_two_identities_need_two_places():
    first, second = concept("person", 1).subject, concept("waterfall", 2).subject
    assert Reading((second, first)).shows_all([first, second])
    assert not Reading((first,)).shows_all([first, second])
    assert not Reading((first, first)).shows_all([first, second])
    assert Reading((first, first)).shows_all([first, first])
    assert not Reading((first,)).shows_all([first, first])


def test_agreement_takes_the_assignment_that_fits_best():
    red, blue = (concept("mug", 1).subject.replaced(colour=colour, pattern="plain") for colour in ("red", "blue"))
    reading = Reading((red, blue))
    assert reading.agreement([("mug", {"colour": "blue"}), ("mug", {"colour": "red"})]) == (True, 2, 2)
    assert reading.agreement([("mug", {"colour": "green"}), ("mug", {"colour": "red"})]) == (True, 1, 2)
    assert reading.agreement([("cat", {"colour": "black"}), ("mug", {"colour": "red"})]) == (False, 1, 2)
    assert Reading(()).agreement([("cat", {"colour": "black"})]) == (False, 0, 1)


def test_a_hat_of_any_kind_is_a_hat():
    person = concept("person", 1).subject
    assert Reading((person.replaced(hat="beanie"),)).agreement([("person", {"hat": "hat"})]) == (True, 1, 1)
    assert Reading((person.replaced(hat="none"),)).agreement([("person", {"hat": "hat"})]) == (True, 0, 1)


def test_labels_name_a_missing_second_subject():
    rows = labels_of([concept("cat", random.Random(0).randrange(9)).subject])
    assert len(rows) == 2
    assert all(len(row) == len(HEADS) for row in rows)
    assert rows[1][0] == 0
