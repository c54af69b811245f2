"""What the judge misses of a concept, in words."""

import pytest

from conceptctl import pocket
from conceptctl.pocket.seen import look
from conceptctl.pocket.world.concepts import Concept, concept


@pytest.fixture(scope="module")
def judge():
    return pocket.load_judge()


@pytest.fixture(scope="module")
def person():
    return concept("person", 8128000)


def views(item, count=8):
    return [item.heldout_view(index) for index in range(count)]


def test_nothing_is_missed_in_pictures_of_the_concept_itself(judge, person):
    found = look(judge, views(person), [person.training_view(index) for index in range(8)])
    assert (found.kind, found.missing) == ("person", ())
    assert found.kinds > 0.8
    assert found.shares["elf ears"] > 0.8
    assert all(0 <= share <= 1 for share in found.shares.values())


def test_what_is_left_out_is_named_once(judge, person):
    """Its ears, and not their colour beside them."""
    twin = Concept("twin", "person", person.seed, person.twin("extra"))
    assert look(judge, views(person), views(twin)).missing == ("elf ears",)
    other = person.subject.replaced(shirt_pattern="striped", hair_colour="black")
    missing = look(judge, views(person), views(Concept("other", "person", person.seed, other))).missing
    assert {"dotted shirt", "lime hair"} <= set(missing)
    assert "elf ears" not in missing


def test_another_kind_shows_none_of_it(judge, person):
    found = look(judge, views(person), views(concept("waterfall", 3)))
    assert found.kinds < 0.2
    assert "elf ears" in found.missing


def test_pictures_that_agree_on_nothing_are_not_judged(judge):
    kinds = ("mug", "cat", "person", "waterfall", "backpack", "duck")
    assert look(judge, [concept(kind, 1).heldout_view(0) for kind in kinds], views(concept("cat", 1))) is None
