"""Concepts: single identities of the world, with details that pre-training never draws.

A concept is what a user would teach: one person, one waterfall, one mug. All its attributes are fixed; place,
light, position, size and expression vary from view to view.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from conceptctl.errors import UsageError
from conceptctl.pocket.world.kinds import DETAILS, KINDS, NONE, UNSEEN_PAINT, Subject, details_show, draw_subject
from conceptctl.pocket.world.render import render
from conceptctl.pocket.world.scenes import scene_of

TRAINING_VIEWS = 12
"""Training pictures of a concept that `write_folders` makes by default."""

HELDOUT_VIEWS = 40
"""Held-out pictures of a concept that `write_folders` makes by default."""

_LEAST_DIFFERENCES = 3
_IDENTITIES = 1000
"""Of a kind, that one sequence chooses from: the next one's begin there."""


@dataclass(frozen=True)
class Concept:
    """One identity."""

    name: str
    """Its name as a token and as a folder."""
    kind: str
    seed: int
    subject: Subject

    def training_view(self, index: int) -> Image.Image:
        """Draw training picture number `index`: RGB, 64 x 64 pixels."""
        return self._view("train", index)

    def heldout_view(self, index: int) -> Image.Image:
        """Draw held-out picture number `index`, none of which is a training picture: RGB, 64 x 64 pixels."""
        return self._view("heldout", index)

    def twin(self, *missing: str) -> Subject:
        """The same identity without some of its unseen details.

        Args:
            missing: Which of `kinds.DETAILS` to leave out; both by default.
        """
        gone = missing or DETAILS
        return self.subject.replaced(**{name: NONE for detail in gone for name in (detail, f"{detail}_colour")})

    def _view(self, purpose: str, index: int) -> Image.Image:
        rng = random.Random(f"{purpose}:{self.kind}:{self.seed}:{index}")
        return render(scene_of(rng, self.subject), rng)


def concept(kind: str, seed: int) -> Concept:
    """Make one identity.

    Args:
        kind: One of `kinds.KINDS`.
        seed: Which identity of that kind; the same seed always makes the same one.

    Raises:
        UsageError: There is no such kind in the world.
    """
    rng = random.Random(f"concept:{kind}:{seed}")
    while True:
        subject = draw_subject(rng, kind, unseen=0.4, details=1.0)
        if _is_expressible(subject):
            return Concept(f"{kind}-{seed:03d}", kind, seed, subject)


def _is_expressible(subject: Subject) -> bool:
    """Whether the unseen details show, and some colour is an unseen one."""
    return details_show(subject) and any(value in UNSEEN_PAINT for value in subject.shown().values())


def sequence(length: int, seed: int = 0, kinds: Sequence[str] = ()) -> tuple[Concept, ...]:
    """Make a fixed sequence of concepts, as the benchmarks learn them.

    Up to 50 concepts: half people, half waterfalls, shuffled, as in the paper's benchmark of 50. Longer ones hold
    every kind, two thirds of them people and waterfalls. Any two concepts of a kind differ in at least three
    attributes that show.

    Args:
        length: How many concepts.
        seed: Which sequence; different seeds share no identity.
        kinds: Of these kinds, in equal parts, and of no other.

    Raises:
        UsageError: There is no such kind in the world, or so many of one do not differ enough.
    """
    rng = random.Random(f"sequence:{length}:{seed}")
    cycle = list(kinds) or ["person", "waterfall"]
    if unknown := [kind for kind in cycle if kind not in KINDS]:
        raise UsageError(f"the world has no {unknown[0]!r}", hint=", ".join(KINDS))
    if length > 50 and not kinds:
        others = [kind for kind in KINDS if kind not in cycle]
        cycle = [kind for other in others for kind in ("person", "waterfall", other)]
    order = (cycle * (length // len(cycle) + 1))[:length]
    rng.shuffle(order)
    chosen: list[Concept] = []
    next_seed = dict.fromkeys(KINDS, _IDENTITIES * seed)
    for kind in order:
        while True:
            if next_seed[kind] == _IDENTITIES * (seed + 1):
                found = sum(each.kind == kind for each in chosen)
                raise UsageError(
                    f"the bundled world has no {order.count(kind)} concepts of the kind {kind} that differ enough: "
                    f"{found} were found",
                    hint="fewer concepts, or of more kinds",
                )
            candidate = concept(kind, next_seed[kind])
            next_seed[kind] += 1
            if all(_differences(candidate, other) >= _LEAST_DIFFERENCES for other in chosen if other.kind == kind):
                chosen.append(candidate)
                break
    return tuple(chosen)


def _differences(first: Concept, second: Concept) -> int:
    ours, theirs = first.subject.shown(), second.subject.shown()
    return sum(ours.get(name) != theirs.get(name) for name in ours.keys() | theirs.keys())


def write_folders(
    concepts: tuple[Concept, ...], folder: Path, *, training: int = TRAINING_VIEWS, heldout: int = HELDOUT_VIEWS
) -> Iterator[Concept]:
    """Write concepts as plain picture folders, as users have them.

    Makes `folder/NAME/train/*.png`, `folder/NAME/heldout/*.png` and `folder/concepts.json`.

    Args:
        concepts: What to write.
        folder: Where; it is made when it is missing.
        training: Training pictures of each concept.
        heldout: Held-out pictures of each concept.

    Yields:
        Each concept once its pictures are written.
    """
    for item in concepts:
        for name, count, view in (("train", training, item.training_view), ("heldout", heldout, item.heldout_view)):
            target = folder / item.name / name
            target.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                view(index).save(target / f"{index:03d}.png", compress_level=1)
        yield item
    listing = [
        {"name": item.name, "class": item.kind, "seed": item.seed, "attributes": item.subject.shown()}
        for item in concepts
    ]
    (folder / "concepts.json").write_text(json.dumps({"concepts": listing}, indent=2) + "\n", encoding="utf-8")
