"""What is said of a scene: from the bare class to every attribute that shows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from conceptctl.pocket.world.kinds import NONE, UNSEEN_PAINT, Subject
from conceptctl.pocket.world.scenes import Scene

Mentions = Mapping[str, str]
"""The attributes of one subject that a caption names, with their values."""

_PLACE_PHRASES = {"beach": "on a beach", "forest": "in a forest", "city": "in a city", "snow": "in the snow"}
_LIGHT_PHRASES = {"sunset": "at sunset", "night": "at night"}
_OPENINGS = ("a photo of", "a picture of", "")
_OPENING_WEIGHTS = (0.8, 0.1, 0.1)
_SECRET = ("mark", "mark_colour", "extra", "extra_colour")
_MOST_MENTIONS = {1: 6, 2: 3}


def caption(scene: Scene, rng: random.Random) -> str:
    """Describe a scene, more or less fully, as `rng` has it.

    Details that only concepts have are never named: there are no words for them.
    """
    most = _MOST_MENTIONS[len(scene.subjects)]
    mentions = [draw_mentions(subject, rng, most=most) for subject in scene.subjects]
    return compose(
        scene,
        mentions,
        opening=rng.choices(_OPENINGS, _OPENING_WEIGHTS)[0],
        name_place=rng.random() < 0.7,
        name_light=rng.random() < 0.7,
    )


def draw_mentions(subject: Subject, rng: random.Random, *, least: int = 0, most: int = 6) -> Mentions:
    """Choose which of a subject's attributes a caption names.

    Args:
        subject: The subject; only what shows can be named, and nothing is said of what it lacks.
        rng: The only source of randomness.
        least: The smallest number of attributes, as far as so many show.
        most: The largest number of attributes.
    """
    sayable = [
        name for name, value in subject.shown().items() if name not in _SECRET and value not in (NONE, *UNSEEN_PAINT)
    ]
    wanted = 0 if least == 0 and rng.random() < 0.22 else rng.randint(max(least, 1), most)
    chosen = set(rng.sample(sayable, min(wanted, len(sayable))))
    if "hat_colour" in chosen:
        chosen.add("hat")
    mentions = {name: subject[name] for name in sayable if name in chosen}
    if "hat" in mentions and rng.random() < 0.25:
        mentions["hat"] = "hat"
    return mentions


def compose(
    scene: Scene,
    mentions: Sequence[Mentions],
    *,
    opening: str = "a photo of",
    name_place: bool = True,
    name_light: bool = True,
) -> str:
    """Put a caption together.

    Args:
        scene: The scene; its relation, place and light are named.
        mentions: For each subject of the scene, the attributes to name.
        opening: The first words.
        name_place: Whether to say where it is.
        name_light: Whether to say what time of day it is.
    """
    phrases = [phrase(subject.kind, said) for subject, said in zip(scene.subjects, mentions, strict=True)]
    words = [opening, f" {scene.relation} ".join(phrases)]
    if name_place and scene.place in _PLACE_PHRASES:
        words.append(_PLACE_PHRASES[scene.place])
    if name_light and scene.light in _LIGHT_PHRASES:
        words.append(_LIGHT_PHRASES[scene.light])
    return " ".join(word for word in words if word)


def phrase(kind: str, mentions: Mentions) -> str:
    """Name one subject with the given attributes, such as "a person with short red hair and glasses"."""
    if kind == "person":
        return _person(mentions)
    if kind == "waterfall":
        return _waterfall(mentions)
    pattern, colour = mentions.get("pattern"), mentions.get("colour")
    return _article(" ".join(word for word in (pattern, colour, kind) if word))


def _person(mentions: Mentions) -> str:
    traits = []
    if "skin" in mentions:
        traits.append(f"{mentions['skin']} skin")
    if mentions.get("hair") == "bald":
        traits.append("a bald head")
    elif "hair" in mentions or "hair_colour" in mentions:
        traits.append(_words(mentions.get("hair"), mentions.get("hair_colour"), "hair"))
    if "glasses" in mentions:
        traits.append(mentions["glasses"])
    if "beard" in mentions:
        traits.append("a beard")
    worn = []
    if "hat" in mentions:
        worn.append(_article(_words(mentions.get("hat_colour"), mentions["hat"])))
    if "shirt_colour" in mentions or "shirt_pattern" in mentions:
        worn.append(_article(_words(mentions.get("shirt_pattern"), mentions.get("shirt_colour"), "shirt")))
    text = "a person"
    if traits:
        text += " with " + _list(traits)
    if worn:
        text += " wearing " + _list(worn)
    return text


def _waterfall(mentions: Mentions) -> str:
    parts = []
    if "streams" in mentions:
        parts.append(f"{mentions['streams']} stream" + ("" if mentions["streams"] == "one" else "s"))
    if "cliff" in mentions or "rock_colour" in mentions:
        parts.append(_article(_words(mentions.get("cliff"), mentions.get("rock_colour"), "cliff")))
    if "plants" in mentions:
        parts.append(mentions["plants"])
    parts += [_article(mentions[name]) for name in ("bridge", "rainbow") if name in mentions]
    return "a waterfall" + (" with " + _list(parts) if parts else "")


def _words(*words: str | None) -> str:
    return " ".join(word for word in words if word)


def _article(text: str) -> str:
    return ("an " if text[0] in "aeiou" else "a ") + text


def _list(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
