"""The styled stand-in: twenty tasks of two classes, the same every time, in styles that the base never saw."""

import random

import numpy as np
import pytest
from PIL import Image

from conceptctl.images.class_folders import classes_in, tasks_of
from conceptctl.pocket.world.kinds import KINDS, UNSEEN_PAINT, details_show
from conceptctl.pocket.world.render import render
from conceptctl.pocket.world.scenes import scene_of
from conceptctl.pocket.world.styles import CLASSES, STYLES, styled, styled_picture, write_styled


def pictures(count=12):
    for number, of in zip(range(count), CLASSES[::3], strict=False):
        rng = random.Random(number)
        yield render(scene_of(rng, of.subject(rng)), rng)


def test_there_are_twenty_tasks_of_two_classes_of_every_kind():
    assert len(CLASSES) == 40
    assert len({of.name for of in CLASSES}) == 40
    assert {of.kind for of in CLASSES} == set(KINDS)
    assert len({(of.kind, *sorted(of.fixed.items())) for of in CLASSES}) == 40


@pytest.mark.parametrize("of", CLASSES, ids=lambda of: of.name)
def test_what_makes_a_class_shows_in_each_of_it(of):
    rng = random.Random(of.name)
    drawn = [of.subject(rng) for _ in range(20)]
    for subject in drawn:
        shown = subject.shown()
        # A hat covers the hair: there it is the hat that makes the class.
        assert of.fixed.items() - {("hair", "short")} <= shown.items()
        assert details_show(subject)
        assert not set(shown.values()) & set(UNSEEN_PAINT)
    assert len({tuple(subject.attributes.items()) for subject in drawn}) > 3


def test_no_picture_is_of_two_classes():
    """Every two classes of a kind differ in a value of an attribute that both fix, or one has a mark."""
    for first in CLASSES:
        for second in CLASSES:
            if first is not second and first.kind == second.kind:
                both = first.fixed.keys() & second.fixed.keys()
                marked = ("mark" in first.fixed) != ("mark" in second.fixed)
                assert marked or any(first.fixed[name] != second.fixed[name] for name in both)


@pytest.mark.parametrize("style", STYLES)
def test_a_style_changes_much_of_a_picture_and_the_subject_stays(style):
    def blurred(picture):
        return np.asarray(picture.resize((8, 8), Image.Resampling.BOX), np.float64)

    plain = list(pictures())
    changed = [styled(picture, style, random.Random(number)) for number, picture in enumerate(plain)]
    for before, after in zip(plain, changed, strict=True):
        assert (after.size, after.mode) == ((64, 64), "RGB")
        assert np.abs(np.asarray(after, np.float64) - np.asarray(before, np.float64)).mean() > 4
        assert np.asarray(after).std() > 5
    # What is where still tells which picture it was: each is nearest to its own, by correlation up to its sign.
    rows = np.stack([blurred(each.convert("L")).ravel() for each in plain])
    others = np.stack([blurred(each.convert("L")).ravel() for each in changed])
    alike = np.abs(np.corrcoef(rows, others)[: len(plain), len(plain) :])
    assert (alike.argmax(1) == np.arange(len(plain))).mean() >= 0.5


def test_the_same_seed_draws_the_same_picture():
    of = CLASSES[0]
    assert styled_picture(of, "train", 3).tobytes() == styled_picture(of, "train", 3).tobytes()
    others = {styled_picture(of, purpose, 3, seed).tobytes() for purpose in ("train", "test") for seed in range(3)}
    assert len(others) == 6


def test_it_is_written_as_a_class_per_folder_tree(tmp_path):
    assert tuple(write_styled(tmp_path, train=2, test=1, seed=5)) == CLASSES
    classes = classes_in(tmp_path)
    assert [(of.name, len(of.train), len(of.test)) for of in classes] == [(of.name, 2, 1) for of in CLASSES]
    with Image.open(classes[7].train[1]) as picture:
        assert picture.tobytes() == styled_picture(CLASSES[7], "train", 1, 5).tobytes()
    assert [len(task) for task in tasks_of(classes, 20, 1)] == [2] * 20
