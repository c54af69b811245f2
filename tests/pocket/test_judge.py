"""The judge's rule: what counts as showing a concept, and which near misses do not."""

import random

import pytest
import torch

from conceptctl.pocket.judge import GLANCES, Judge, JudgeNetwork, Reading, Sight, labels_of
from conceptctl.pocket.world.concepts import concept
from conceptctl.pocket.world.kinds import KINDS
from conceptctl.pocket.world.labels import HEADS, SIZES, UNKNOWN, encode


def seen(*subjects, chance=0.999):
    """What a judge reads that is as good as certain."""
    return Reading(tuple(Sight(subject, chances(subject, chance)) for subject in subjects))


def chances(subject, chance):
    parts = []
    for size, label in zip(SIZES, encode(subject), strict=True):
        part = torch.full((size,), (1 - chance) / max(1, size - 1))
        # Of what a subject does not have a judge may believe anything.
        part[max(label, 0)] = chance if label != UNKNOWN else 0.5
        parts.append(part.log())
    return torch.cat(parts)


def another(subject, name):
    """The subject with one attribute changed."""
    attribute = next(item for item in KINDS[subject.kind] if item.name == name)
    value = next(value for value in attribute.values if value not in (subject[name], "none"))
    return subject.replaced(**{name: value})


@pytest.mark.parametrize("kind", KINDS)
def test_a_concept_is_accepted_and_its_near_misses_are_not(kind):
    for seed in range(20):
        item = concept(kind, seed)
        assert seen(item.subject).shows(item.subject)
        assert not seen(item.twin()).shows(item.subject)
        assert not seen(item.twin("mark")).shows(item.subject)
        assert not seen(item.twin("extra")).shows(item.subject)
        assert not seen(another(item.subject, "mark_colour")).shows(item.subject)
        assert not seen().shows(item.subject)


def test_one_slip_is_forgiven_and_two_are_not():
    subject = concept("person", 1).subject
    one = another(subject, "skin")
    assert seen(one).shows(subject)
    assert not seen(another(one, "shirt_pattern")).shows(subject)


def test_doubts_add_up():
    subject = concept("person", 1).subject
    assert seen(subject, chance=0.7).shows(subject)
    assert not seen(subject, chance=0.4).shows(subject)


def test_a_missing_hat_is_one_slip_though_its_colour_is_missing_too():
    subject = concept("person", 1).subject.replaced(hat="cap", hat_colour="lime")
    assert seen(subject.replaced(hat="none")).shows(subject)


def test_two_identities_need_two_places():
    first, second = concept("person", 1).subject, concept("waterfall", 2).subject
    assert seen(second, first).shows_all([first, second])
    assert not seen(first).shows_all([first, second])
    assert not seen(first, first).shows_all([first, second])
    assert seen(first, first).shows_all([first, first])
    assert not seen(first).shows_all([first, first])


def test_agreement_takes_the_assignment_that_fits_best():
    red, blue = (concept("mug", 1).subject.replaced(colour=colour, pattern="plain") for colour in ("red", "blue"))
    reading = seen(red, blue)
    assert reading.agreement([("mug", {"colour": "blue"}), ("mug", {"colour": "red"})]) == (True, 2, 2)
    assert reading.agreement([("mug", {"colour": "green"}), ("mug", {"colour": "red"})]) == (True, 1, 2)
    assert reading.agreement([("cat", {"colour": "black"}), ("mug", {"colour": "red"})]) == (False, 1, 2)
    assert seen().agreement([("cat", {"colour": "black"})]) == (False, 0, 1)


def test_a_hat_of_any_kind_is_a_hat():
    person = concept("person", 1).subject
    assert seen(person.replaced(hat="beanie")).agreement([("person", {"hat": "hat"})]) == (True, 1, 1)
    assert seen(person.replaced(hat="none")).agreement([("person", {"hat": "hat"})]) == (True, 0, 1)


def test_labels_name_a_missing_second_subject():
    rows = labels_of([concept("cat", random.Random(0).randrange(9)).subject])
    assert len(rows) == 2
    assert all(len(row) == len(HEADS) for row in rows)
    assert rows[1][0] == 0


def test_hair_that_a_hat_covers_is_neither_long_nor_curly():
    hair = next(index for index, head in enumerate(HEADS) if head.name == "hair")
    person = concept("person", 1).subject.replaced(hat="cap", hat_colour="red", beard="none")
    labels = {value: labels_of([person.replaced(hair=value)])[0][hair] for value in ("bald", "short", "long", "curly")}
    assert {value: HEADS[hair].values[label] for value, label in labels.items()} == {
        "bald": "short",
        "short": "short",
        "long": "long",
        "curly": "curly",
    }
    # Nobody can see it, so it is not held against a picture either.
    assert encode(person.replaced(hair="bald"))[hair] == UNKNOWN


class Corner(JudgeNetwork):
    """Sees one subject, a person, where a picture's corner is bright, and a cat where it is not."""

    def forward(self, pictures):
        answers = torch.zeros(len(pictures), 2, sum(SIZES))
        person, cat = (encode(concept(kind, 0).subject)[0] for kind in ("person", "cat"))
        bright = pictures[:, :, 0, 0].amax(dim=1) > 0
        answers[:, 0, person] = torch.where(bright, 5.0, 0.0)
        answers[:, 0, cat] = torch.where(bright, 0.0, 5.0)
        answers[:, 1, 0] = 5.0
        return answers


def test_what_hangs_on_a_pixel_is_no_answer():
    judge = Judge(Corner())
    pictures = torch.full((2, 3, 64, 64), -1.0)
    # Moved down or right, its corner stays what it is; moved up or left, the pixel is gone.
    pictures[0, :, 0, 0] = 1.0
    pictures[1, :, :4, :4] = 1.0
    dot, patch = judge.read(pictures)
    assert [subject.kind for subject in patch.subjects] == ["person"]
    gone = sum(min(glance) < 0 for glance in GLANCES) / len(GLANCES)
    person = encode(concept("person", 0).subject)[0]
    certain = patch.sights[0].chances[person].exp()
    doubtful = dot.sights[0].chances[person].exp()
    assert certain > 0.9
    assert doubtful == pytest.approx((1 - gone) * certain.item(), abs=0.01)
    parts = judge.chances(pictures).exp().split(SIZES, dim=2)
    assert all(torch.allclose(part.sum(dim=2), torch.ones(2, 2), atol=1e-5) for part in parts)


class Doubtful(JudgeNetwork):
    """Sees a person, with a beard, a hat and glasses by the chance that a picture's brightness is."""

    def forward(self, pictures):
        answers = torch.full((len(pictures), 2, sum(SIZES)), -20.0)
        answers[:, 1, 0] = 0.0
        start = 0
        for head, label in zip(HEADS, encode(concept("person", 0).subject), strict=True):
            chance = pictures[:, 0, 0, 0]
            if head.name in ("beard", "hat", "glasses"):
                answers[:, 0, start] = (1 - chance).log()
                answers[:, 0, start + 1] = chance.log()
            else:
                answers[:, 0, start + max(label, 0)] = 0.0
            start += len(head.values)
        return answers


def test_a_beard_must_be_likelier_than_most_things():
    pictures = torch.tensor([0.4, 0.6, 0.7, 0.9]).view(4, 1, 1, 1).expand(4, 3, 64, 64)
    read = [reading.subjects[0] for reading in Judge(Doubtful()).read(pictures)]
    assert [person["glasses"] for person in read] == ["none", "glasses", "glasses", "glasses"]
    assert [person["hat"] for person in read] == ["none", "cap", "cap", "cap"]
    assert [person["beard"] for person in read] == ["none", "none", "none", "beard"]
    chances = Judge(Doubtful()).chances(pictures).exp().split(SIZES, dim=2)
    assert all(torch.allclose(part.sum(dim=2), torch.ones(4, 2), atol=1e-5) for part in chances)
