"""Scenes: which subjects a picture shows, where, in what light, and in what relation to each other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from conceptctl.pocket.world.kinds import KIND_WEIGHTS, KINDS, Subject, details_show, draw_subject

PLACES = ("studio", "beach", "forest", "city", "snow")
"""Backgrounds; "studio" is a plain wall and is never named in a caption. A waterfall brings its own."""

LIGHTS = ("day", "sunset", "night")
"""Times of day; "day" is never named in a caption."""

RELATIONS = ("next to", "and", "in front of", "behind")
"""How the first subject of a pair stands to the second."""

PAIR_SHARE = 0.32
"""The share of scenes that show two subjects, unless a recipe asks for another."""


@dataclass(frozen=True)
class Scene:
    """All that a caption can say of a picture."""

    subjects: tuple[Subject, ...]
    place: str = "studio"
    light: str = "day"
    relation: str | None = None
    """One of `RELATIONS` when there are two subjects."""


@dataclass(frozen=True)
class Spot:
    """Where a subject stands: its foot in pixels of the finished picture, and its size."""

    x: float
    y: float
    scale: float


def draw_scene(
    rng: random.Random,
    *,
    unseen: float = 0.0,
    details: float = 0.0,
    pairs: float = PAIR_SHARE,
    kind_weights: Sequence[float] = KIND_WEIGHTS,
) -> Scene:
    """Draw a scene at random, as pre-training does.

    Args:
        rng: The only source of randomness.
        unseen: The chance of each colour to be one that only concepts have; 0 in pre-training.
        details: The chance of each detail that only concepts have; 0 in pre-training.
        pairs: The share of scenes with two subjects.
        kind_weights: How often each of `KINDS` is drawn.
    """
    count = 2 if rng.random() < pairs else 1
    kinds = rng.choices(tuple(KINDS), kind_weights, k=count)
    subjects: list[Subject] = []
    while len(subjects) < count:
        # What is drawn in the colour of what is behind it cannot be seen, and nothing should be said of it.
        subject = draw_subject(rng, kinds[len(subjects)], unseen=unseen, details=details)
        if details_show(subject):
            subjects.append(subject)
    return scene_of(rng, *subjects)


def scene_of(rng: random.Random, *subjects: Subject) -> Scene:
    """Draw a place, a light and a relation for one or two given subjects."""
    wild = any(subject.kind == "waterfall" for subject in subjects)
    place = "studio" if wild or rng.random() < 0.4 else rng.choice(PLACES[1:])
    light = "day" if place == "studio" and not wild else rng.choices(LIGHTS, (0.6, 0.2, 0.2))[0]
    return Scene(subjects, place, light, rng.choice(RELATIONS) if len(subjects) == 2 else None)


def lay_out(rng: random.Random, scene: Scene) -> tuple[Spot, ...]:
    """Place the subjects of a scene, in the order of `scene.subjects`.

    The first of "next to" and "and" stands on the left; who is in front stands lower, larger, on either side.
    """
    if len(scene.subjects) == 1:
        return (Spot(32 + rng.uniform(-4, 4), 63 + rng.uniform(-2, 1), rng.uniform(0.84, 1.04)),)
    left, right = 17 + rng.uniform(-1.5, 1.5), 47 + rng.uniform(-1.5, 1.5)
    if scene.relation in ("next to", "and"):
        return tuple(Spot(x, 60 + rng.uniform(-3, 2), rng.uniform(0.60, 0.68)) for x in (left, right))
    near_x, far_x = (left + 2, right) if rng.random() < 0.5 else (right - 2, left)
    near = Spot(near_x, 62 + rng.uniform(-1, 1), rng.uniform(0.68, 0.74))
    far = Spot(far_x, 46 + rng.uniform(-2, 2), rng.uniform(0.54, 0.60))
    return (near, far) if scene.relation == "in front of" else (far, near)


def reading_order(spots: tuple[Spot, ...]) -> tuple[int, ...]:
    """Indices of the subjects from left to right: the order in which a judge names them."""
    return tuple(sorted(range(len(spots)), key=lambda index: spots[index].x))
