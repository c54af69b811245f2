"""The world: what is drawn, what is said of it, and what only concepts have."""

import random

import pytest

from conceptctl.errors import UsageError
from conceptctl.pocket.world import labels
from conceptctl.pocket.world.captions import caption, compose, draw_mentions, phrase
from conceptctl.pocket.world.kinds import DETAILS, KINDS, NONE, UNSEEN_PAINT, details_show, draw_subject
from conceptctl.pocket.world.practice import practice_picture
from conceptctl.pocket.world.render import render, render_with_layout
from conceptctl.pocket.world.scenes import RELATIONS, Scene, draw_scene, reading_order, scene_of


def scenes(count, **options):
    rng = random.Random("test")
    return [draw_scene(rng, **options) for _ in range(count)]


def test_the_same_seed_draws_the_same_picture():
    scene = scenes(1)[0]
    first, again = (render(scene, random.Random(3)) for _ in range(2))
    assert first.size == (64, 64)
    assert first.mode == "RGB"
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != render(scene, random.Random(4)).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_of_every_attribute_shows(kind):
    """A value that changed no pixel could neither be learned nor judged."""
    rng = random.Random(kind)
    for attribute in KINDS[kind]:
        subject = draw_subject(rng, kind, details=1.0)
        if attribute.name == "hair_colour":
            subject = subject.replaced(hair="short", hat=NONE)
        if attribute.name == "hat_colour":
            subject = subject.replaced(hat="cap")
        drawn = {
            value: render(scene_of(random.Random(1), subject.replaced(**{attribute.name: value})), random.Random(2))
            for value in attribute.values
            if value != NONE or not attribute.needs
        }
        assert len({picture.tobytes() for picture in drawn.values()}) == len(drawn), attribute.name


def test_pre_training_never_draws_what_only_concepts_have():
    for scene in scenes(2_000):
        for subject in scene.subjects:
            assert all(subject[name] == NONE for name in DETAILS)
            assert not set(subject.attributes.values()) & set(UNSEEN_PAINT)


def test_at_least_a_quarter_of_the_pictures_show_two_subjects_in_every_relation():
    drawn = scenes(2_000)
    pairs = [scene for scene in drawn if len(scene.subjects) == 2]
    assert len(pairs) >= len(drawn) / 4
    assert {scene.relation for scene in pairs} == set(RELATIONS)
    assert {subject.kind for scene in drawn for subject in scene.subjects} == set(KINDS)


def test_captions_run_from_the_bare_class_to_everything():
    rng = random.Random(5)
    said = [caption(scene, rng) for scene in scenes(2_000, pairs=0)]
    assert "a photo of a person" in said
    assert max(len(text.split()) for text in said) > 20


def test_captions_have_no_word_for_what_only_concepts_have():
    rng = random.Random(6)
    secret = {
        *UNSEEN_PAINT,
        *(value for item in KINDS.values() for a in item if a.name in DETAILS for value in a.unseen),
    }
    for scene in scenes(1_000, unseen=1.0, details=1.0):
        text = caption(scene, rng)
        assert not [word for word in secret if word in text.split()], text


def test_captions_only_say_what_shows():
    rng = random.Random(7)
    for scene in scenes(500):
        for subject in scene.subjects:
            said = draw_mentions(subject, rng, least=6)
            for name, value in said.items():
                assert subject.shown()[name] == value or (name, value) == ("hat", "hat")


def test_phrases():
    assert phrase("person", {}) == "a person"
    everything = {
        "hair": "short",
        "hair_colour": "red",
        "glasses": "glasses",
        "hat": "cap",
        "hat_colour": "orange",
        "shirt_pattern": "striped",
    }
    assert phrase("person", everything) == (
        "a person with short red hair and glasses wearing an orange cap and a striped shirt"
    )
    assert phrase("waterfall", {"streams": "one", "bridge": "bridge"}) == "a waterfall with one stream and a bridge"
    assert phrase("cat", {"colour": "orange"}) == "an orange cat"


def test_the_first_of_a_pair_stands_on_the_left_and_who_is_in_front_stands_lower():
    rng = random.Random(8)
    for scene in scenes(400, pairs=1.0):
        _, (first, second) = render_with_layout(scene, rng)
        if scene.relation in ("next to", "and"):
            assert first.x < second.x
            assert reading_order((first, second)) == (0, 1)
        else:
            assert (first.y > second.y) == (scene.relation == "in front of")
        assert abs(first.x - second.x) > 20


def test_a_pair_is_composed_in_the_order_of_the_words():
    scene = next(item for item in scenes(100, pairs=1.0) if item.relation == "behind")
    text = compose(scene, [{}, {}], name_place=False, name_light=False)
    assert text == f"a photo of a {scene.subjects[0].kind} behind a {scene.subjects[1].kind}"


def test_an_unknown_kind_is_a_usage_error_that_names_the_known_ones():
    with pytest.raises(UsageError) as error:
        draw_subject(random.Random(0), "unicorn")
    assert "unicorn" in str(error.value)
    assert "waterfall" in error.value.hint


@pytest.mark.parametrize("kind", KINDS)
def test_labels_keep_everything_that_shows(kind):
    rng = random.Random(kind)
    for _ in range(50):
        subject = draw_subject(rng, kind, unseen=0.5, details=0.7)
        assert labels.decode(labels.encode(subject)).shown() == subject.shown()
    assert labels.decode(labels.encode(None)) is None


def test_what_does_not_show_changes_no_pixel():
    rng = random.Random(3)
    hidden = 0
    for seed in range(120):
        subject = draw_subject(rng, "person", unseen=0.4, details=0.5)
        scene = Scene((subject,))
        plain = render(scene, random.Random(seed)).tobytes()
        for name in ("hair", "hair_colour", "hat_colour"):
            attribute = next(each for each in KINDS["person"] if each.name == name)
            # Long hair shows under any hat: what is hidden is one of the two that do not.
            values = ("bald", "short") if name == "hair" else attribute.values
            if name not in subject.shown():
                hidden += 1
                changed = Scene((subject.replaced(**{name: rng.choice(values)}),))
                assert render(changed, random.Random(seed)).tobytes() == plain, (name, dict(subject.attributes))
    assert hidden > 50


def test_details_are_drawn_in_another_colour_than_what_is_behind_them():
    rng = random.Random(0)
    subjects = [each for _ in range(300) for each in draw_scene(rng, unseen=0.5, details=1.0).subjects]
    assert all(details_show(each) for each in subjects)
    assert not all(details_show(draw_subject(rng, "mug", unseen=0.5, details=1.0)) for _ in range(300))


def test_silence_is_an_answer_for_captions():
    beard = draw_subject(random.Random(0), "person").replaced(beard="beard", hat="cap", hat_colour="red")
    answers = labels.encode_said(beard, {"beard": "beard", "hat": "hat", "hat_colour": "red"})
    said = dict(zip(labels.HEADS, answers, strict=True))
    of_people = {head.name: (head, label) for head, label in said.items() if head.group == "person"}
    for name, (head, label) in of_people.items():
        if name == "hat":
            # Neither a cap nor a beanie, and not silence.
            assert label == labels.UNKNOWN
        elif name in ("beard", "hat_colour"):
            assert head.values[label] == beard[name]
        else:
            assert label == len(head.values)
    assert {label for head, label in said.items() if head.group not in ("person", "any")} == {labels.UNKNOWN}
    assert [size - 1 for size in labels.SIZES_SAID] == list(labels.SIZES)


def test_practice_pictures_are_deterministic_and_varied():
    first, again = (practice_picture(random.Random(1)) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert len({practice_picture(random.Random(seed)).tobytes() for seed in range(20)}) == 20
