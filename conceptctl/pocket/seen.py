"""What the judge sees of a concept in drawn pictures, and what it misses, by what the held-out pictures agree on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptctl.pocket.judge import Judge, Reading
from conceptctl.pocket.world.kinds import NONE

if TYPE_CHECKING:
    from PIL import Image

AGREED = 0.6
"""The share of held-out pictures that must show something for it to be one of the concept's."""
SEEN = 0.5
"""The share of drawn pictures that must show it, over that of the held-out ones, where things are overlooked too."""
_COLOUR = "_colour"
_PHRASES: Mapping[str, str] = {
    "hair": "{} hair",
    "skin": "{} skin",
    "cliff": "{} cliff",
    "streams": "{} streams",
    "shirt_pattern": "{} shirt",
    "pattern": "{} pattern",
    "colour": "{} colour",
}
"""How an attribute is spelled whose value does not say what has it."""


@dataclass(frozen=True)
class Seen:
    """What the judge says of a concept's drawn pictures.

    Attributes:
        kind: The kind of subject that the held-out pictures show.
        kinds: The share of drawn pictures that show this kind at all.
        shares: For each attribute that the held-out pictures agree on, in words: the share of drawn pictures in which
            it is seen, over the share of held-out ones; 1 at most.
        missing: Those that are not seen in most pictures, but for the colour of what is missing itself.
    """

    kind: str
    kinds: float
    shares: Mapping[str, float]
    missing: tuple[str, ...]


def look(judge: Judge, heldout: Sequence[Image.Image], drawn: Sequence[Image.Image]) -> Seen | None:
    """Compare what drawn pictures show with what the held-out ones agree on.

    Args:
        judge: Reads pictures.
        heldout: Real pictures of the concept, RGB, 64 x 64 pixels.
        drawn: Pictures of it that a model drew, of the same size.

    Returns:
        None where the held-out pictures agree on no subject that the judge knows, as photographs may not.
    """
    real, made = _read(judge, heldout), _read(judge, drawn)
    kinds = Counter(kind for reading in real for kind in {subject.kind for subject in reading.subjects})
    kind, count = kinds.most_common(1)[0] if kinds else ("", 0)
    if count < AGREED * len(real):
        return None
    theirs, ours = ([_attributes(reading, kind) for reading in readings] for readings in (real, made))
    agreed = dict(_agreed(theirs))
    shares = {name: _share(ours, name, value) / _share(theirs, name, value) for name, value in agreed.items()}
    gone = {name for name, share in shares.items() if share < SEEN}
    words = {name: _words(name, value, agreed) for name, value in agreed.items()}
    return Seen(
        kind,
        sum(map(bool, ours)) / len(ours),
        {words[name]: min(share, 1.0) for name, share in shares.items()},
        tuple(words[name] for name in agreed if name in gone and name.removesuffix(_COLOUR) not in gone - {name}),
    )


def _read(judge: Judge, pictures: Sequence[Image.Image]) -> list[Reading]:
    import torch

    from conceptctl.pocket.train.data import to_signed, to_tensor

    return judge.read(to_signed(to_tensor([each.convert("RGB") for each in pictures]), torch.device("cpu")))


def _attributes(reading: Reading, kind: str) -> dict[str, str]:
    """What is read of the first subject of a kind; nothing where there is none."""
    return next((subject.shown() for subject in reading.subjects if subject.kind == kind), {})


def _agreed(readings: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """What most pictures show, and not what they lack."""
    for name in dict.fromkeys(name for reading in readings for name in reading):
        value, count = Counter(reading.get(name, NONE) for reading in readings).most_common(1)[0]
        if value != NONE and count >= AGREED * len(readings):
            yield name, value


def _share(readings: Sequence[Mapping[str, str]], name: str, value: str) -> float:
    return sum(reading.get(name) == value for reading in readings) / len(readings)


def _words(name: str, value: str, agreed: Mapping[str, str]) -> str:
    """Spell an attribute: "striped shirt", "elf ears", "teal cheek spot"."""
    if name in _PHRASES:
        return _PHRASES[name].format(value)
    if name.endswith(_COLOUR):
        part = name.removesuffix(_COLOUR)
        # Of a shirt or of hair the value says how it is and not what; of a hat or a mark, what it is.
        return f"{value} {part if part in _PHRASES else agreed.get(part, part)}"
    return value
