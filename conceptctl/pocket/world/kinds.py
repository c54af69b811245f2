"""What exists in the world: kinds of subject, their attributes, and the colours of everything.

Each attribute lists the values that pre-training draws (`common`) and those that only concepts have (`unseen`).
The unseen ones are what makes a concept more than a sentence: no prompt of the base's can ask for them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from conceptctl.errors import UsageError

Colour = tuple[int, int, int]
"""Red, green, blue, each 0 to 255."""

COLOURS: Mapping[str, Colour] = MappingProxyType(
    {
        "red": (206, 40, 40),
        "orange": (242, 140, 34),
        "yellow": (248, 216, 56),
        "green": (44, 150, 62),
        "blue": (44, 86, 204),
        "purple": (120, 50, 160),
        "white": (242, 242, 240),
        "black": (34, 34, 38),
        "brown": (116, 72, 40),
        "blond": (232, 196, 104),
        "gray": (150, 150, 152),
        "light": (246, 214, 188),
        "tan": (208, 158, 112),
        "dark": (118, 78, 54),
        "teal": (0, 158, 152),
        "magenta": (232, 36, 158),
        "lime": (172, 240, 36),
        "lavender": (186, 162, 252),
    }
)
"""Every colour that an attribute can name."""

PAINT = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
UNSEEN_PAINT = ("teal", "magenta", "lime", "lavender")
MARK_PAINT = (*UNSEEN_PAINT, "red", "blue")

NONE = "none"
"""The value of an attribute that says that the subject lacks something."""


@dataclass(frozen=True)
class Attribute:
    """One thing that can be said of a subject."""

    name: str
    common: tuple[str, ...]
    """Values that pre-training draws."""
    unseen: tuple[str, ...] = ()
    """Values that only concepts have."""
    needs: tuple[str, ...] = ()
    """Names of attributes without which this one shows nothing: the colour of a hat needs a hat."""
    weights: tuple[float, ...] | None = None
    """How often each common value is drawn; equally often by default."""

    @property
    def values(self) -> tuple[str, ...]:
        """All values, common ones first."""
        return self.common + self.unseen


def _details(marks: tuple[str, ...], extras: tuple[str, ...]) -> tuple[Attribute, ...]:
    return (
        Attribute("mark", (NONE,), marks),
        Attribute("mark_colour", (NONE,), MARK_PAINT, needs=("mark",)),
        Attribute("extra", (NONE,), extras),
        Attribute("extra_colour", (NONE,), MARK_PAINT, needs=("extra",)),
    )


_PERSON = (
    Attribute("hair", ("bald", "short", "long", "curly"), weights=(0.1, 0.3, 0.3, 0.3)),
    Attribute("hair_colour", ("black", "brown", "blond", "red", "gray"), UNSEEN_PAINT, needs=("hair",)),
    Attribute("skin", ("light", "tan", "dark")),
    Attribute("glasses", (NONE, "glasses", "sunglasses"), weights=(0.5, 0.3, 0.2)),
    Attribute("hat", (NONE, "cap", "beanie"), weights=(0.5, 0.25, 0.25)),
    Attribute("hat_colour", PAINT, UNSEEN_PAINT, needs=("hat",)),
    Attribute("beard", (NONE, "beard"), weights=(0.7, 0.3)),
    Attribute("shirt_colour", PAINT, UNSEEN_PAINT),
    Attribute("shirt_pattern", ("plain", "striped", "dotted"), weights=(0.4, 0.3, 0.3)),
    *_details(("cheek spot", "nose stripe", "tears"), ("scarf", "elf ears")),
)
_WATERFALL = (
    Attribute("cliff", ("flat", "pointed", "stepped")),
    Attribute("rock_colour", ("gray", "brown", "red", "black"), UNSEEN_PAINT),
    Attribute("streams", ("one", "two", "three")),
    Attribute("plants", (NONE, "pines", "bushes"), weights=(0.4, 0.3, 0.3)),
    Attribute("bridge", (NONE, "bridge"), weights=(0.65, 0.35)),
    Attribute("rainbow", (NONE, "rainbow"), weights=(0.7, 0.3)),
    *_details(("tower", "arch", "boat"), ("moss", "flags")),
)
_OBJECT = (
    Attribute("colour", PAINT, UNSEEN_PAINT),
    Attribute("pattern", ("plain", "striped", "dotted"), weights=(0.4, 0.3, 0.3)),
    *_details(("star", "square", "ring"), ("band", "tag")),
)
_ANIMAL = (
    Attribute("colour", ("black", "brown", "white", "gray", "orange"), UNSEEN_PAINT),
    Attribute("pattern", ("plain", "spotted"), weights=(0.6, 0.4)),
    *_details(("eye patch", "blaze", "chest diamond"), ("bandana", "bow")),
)

KINDS: Mapping[str, tuple[Attribute, ...]] = MappingProxyType(
    {
        "person": _PERSON,
        "waterfall": _WATERFALL,
        "mug": _OBJECT,
        "teapot": _OBJECT,
        "backpack": _OBJECT,
        "cat": _ANIMAL,
        "dog": _ANIMAL,
        "duck": _ANIMAL,
    }
)
"""Every kind of subject, with its attributes in a fixed order."""

KIND_WEIGHTS = (0.38, 0.26, 0.06, 0.06, 0.06, 0.06, 0.06, 0.06)
"""How often pre-training draws each of `KINDS`: the paper's benchmark is people and waterfalls."""

DETAILS = ("mark", "extra")
"""The attributes of every kind that pre-training never draws."""


def attributes_of(kind: str) -> tuple[Attribute, ...]:
    """Look up the attributes of a kind.

    Args:
        kind: One of `KINDS`.

    Raises:
        UsageError: There is no such kind in the world.
    """
    try:
        return KINDS[kind]
    except KeyError:
        raise UsageError(f"The pocket world has no {kind!r}.", hint=f"It has: {', '.join(KINDS)}.") from None


@dataclass(frozen=True)
class Subject:
    """One thing that a picture shows."""

    kind: str
    attributes: Mapping[str, str]
    """A value for every attribute of the kind, shown or not."""

    def __getitem__(self, name: str) -> str:
        return self.attributes[name]

    def shown(self) -> dict[str, str]:
        """The attributes that can be seen: not the colour of a hat without a hat, nor hair under one.

        A beard has the colour of the hair, and shows what a hat covers.
        """
        covered = (
            self.attributes.get("hat", NONE) != NONE and self["hair"] in ("bald", "short") and self["beard"] == NONE
        )
        hidden = ("hair", "hair_colour") if covered else ()
        return {
            attribute.name: self[attribute.name]
            for attribute in KINDS[self.kind]
            if attribute.name not in hidden and all(self[name] not in (NONE, "bald") for name in attribute.needs)
        }

    def replaced(self, **values: str) -> Subject:
        """The same subject with some attributes changed."""
        return Subject(self.kind, MappingProxyType({**self.attributes, **values}))


_GROUNDS = {"mark": ("rock_colour", "colour", "skin"), "extra": ("rock_colour", "colour", "skin", "shirt_colour")}
"""What each of `DETAILS` is drawn on."""


def details_show(subject: Subject) -> bool:
    """Whether each of a subject's unseen details has another colour than what it is drawn on."""
    return all(
        subject[detail] == NONE or subject[f"{detail}_colour"] not in {subject.attributes.get(name) for name in grounds}
        for detail, grounds in _GROUNDS.items()
    )


def draw_subject(rng: random.Random, kind: str, *, unseen: float = 0.0, details: float = 0.0) -> Subject:
    """Draw a subject's attributes at random.

    Args:
        rng: The only source of randomness.
        kind: One of `KINDS`.
        unseen: The chance of each colour to be one that pre-training never draws.
        details: The chance of each of `DETAILS` to be there.

    Raises:
        UsageError: There is no such kind in the world.
    """
    values: dict[str, str] = {}
    for attribute in attributes_of(kind):
        chance = details if attribute.name in DETAILS else unseen
        if any(values[name] == NONE for name in attribute.needs) and NONE in attribute.common:
            chance = 0.0
        elif attribute.needs and NONE in attribute.common:
            chance = 1.0
        if attribute.unseen and rng.random() < chance:
            values[attribute.name] = rng.choice(attribute.unseen)
        else:
            values[attribute.name] = rng.choices(attribute.common, attribute.weights)[0]
    return Subject(kind, MappingProxyType(values))
