"""The judge: reads off a picture which subjects it shows and with which attributes.

It stands in for the ground truth that photographs lack: whether a generated picture shows concept X, its unseen
details included, is a question with an answer. Benchmarks and tests use it; training never does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional

from conceptctl.pocket.world.kinds import DETAILS, NONE, Subject
from conceptctl.pocket.world.labels import HEADS, SIZES, UNKNOWN, decode, encode

SUBJECTS = 2
"""The most subjects that the judge sees in one picture."""

SLIP = 5.0
"""What an attribute counts that is read otherwise with certainty, in nats; doubts count less."""

PATIENCE = 6.0
"""How much all of a concept's attributes together may count against it: one slip, and a few doubts."""

DETAIL_DOUBT = 1.2
"""How much a detail of the concept's own may count against it: read with a chance of 0.3 at the least."""

GLANCES = ((0, 0), *((down, 0) for down in (-2, -1, 1, 2)), *((0, right) for right in (-2, -1, 1, 2)))
"""How far the picture is moved, in pixels down and right, each time that the judge looks at it."""

ODDS = {"beard": 4.0}
"""How many times likelier something must be than not, to be seen: what may be a beard is a chin in the shade to most
people, and one that is drawn wholly is far likelier than that."""


class JudgeNetwork(nn.Module):
    """A convolutional network from pictures to answers about the left and the right subject."""

    def __init__(self, widths: Sequence[int] = (32, 64, 96, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in widths:
            layers += [nn.Conv2d(inputs, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(_Residual(width))
            inputs = width
        self.trunk = nn.Sequential(*layers)
        self.hidden = nn.Linear(widths[-1] * 16, 512)
        self.answers = nn.Linear(512, SUBJECTS * sum(SIZES))

    def forward(self, pictures: Tensor) -> Tensor:
        """Answer for pictures (B, 3, 64, 64) in [-1, 1]: logits (B, 2, sum of `labels.SIZES`)."""
        features = self.trunk(pictures).flatten(1)
        answers: Tensor = self.answers(functional.relu(self.hidden(features)))
        return answers.view(len(pictures), SUBJECTS, sum(SIZES))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        restored: Tensor = self.body(features)
        return functional.relu(features + restored)


@dataclass(frozen=True)
class Sight:
    """One subject that the judge sees."""

    subject: Subject
    """Its likeliest reading."""
    chances: Tensor
    """The logarithm of the chance of each answer to each question, (sum of `labels.SIZES`,); see `Judge.chances`."""

    def is_(self, wanted: Subject) -> bool:
        """Whether this is a given identity: each of its details, and all of it but for one slip."""
        if self.subject.kind != wanted.kind:
            return False
        parts = self.chances.split(SIZES)
        against: dict[str, float] = {}
        for head, part, label in zip(HEADS, parts, encode(wanted), strict=True):
            if label != UNKNOWN:
                # A hat that is not seen has no colour either: one slip, not two.
                name = head.name.removesuffix("_colour") if head.name.startswith((*DETAILS, "hat")) else head.name
                against[name] = max(against.get(name, 0.0), min(-part[label].item(), SLIP))
        if any(amount > DETAIL_DOUBT for name, amount in against.items() if name in DETAILS):
            return False
        return sum(against.values()) <= PATIENCE


@dataclass(frozen=True)
class Reading:
    """What the judge reads off one picture."""

    sights: tuple[Sight, ...]
    """The subjects it sees, from left to right; at most two."""

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The likeliest reading of each subject."""
        return tuple(sight.subject for sight in self.sights)

    def shows(self, subject: Subject) -> bool:
        """Whether the picture shows this identity."""
        return any(sight.is_(subject) for sight in self.sights)

    def shows_all(self, subjects: Sequence[Subject]) -> bool:
        """Whether the picture shows each of several identities, each in a place of its own."""
        return any(
            all(sight.is_(wanted) for sight, wanted in zip(order, subjects, strict=True))
            for order in permutations(self.sights, len(subjects))
        )

    def agreement(self, wanted: Sequence[tuple[str, Mapping[str, str]]]) -> tuple[bool, int, int]:
        """Compare with what a prompt asked for.

        Args:
            wanted: A kind and the attributes asked for, for each subject of the prompt.

        Returns:
            Whether all kinds are there; how many attributes are right, for the assignment of subjects that fits
            best; how many were asked for. Attributes of a subject that is not there are wrong.
        """
        asked = sum(len(attributes) for _, attributes in wanted)
        best = (False, 0)
        seen = [*self.subjects, *[None] * (len(wanted) - len(self.subjects))]
        for order in permutations(seen, len(wanted)):
            there = [item is not None and item.kind == kind for item, (kind, _) in zip(order, wanted, strict=True)]
            right = sum(
                _follows(item, name, value)
                for item, ok, (_, attributes) in zip(order, there, wanted, strict=True)
                if ok and item is not None
                for name, value in attributes.items()
            )
            best = max(best, (all(there), right))
        return best[0], best[1], asked


def _follows(seen: Subject, name: str, value: str) -> bool:
    if name == "hat" and value == "hat":
        return seen["hat"] != "none"
    return seen[name] == value


class Judge:
    """Reads pictures with a trained network."""

    def __init__(self, network: JudgeNetwork) -> None:
        self.network = network.eval()

    @torch.no_grad()
    def read(self, pictures: Tensor) -> list[Reading]:
        """Read pictures (B, 3, 64, 64) in [-1, 1]."""
        chances = self.chances(pictures)
        labels = torch.stack([piece.argmax(dim=2) for piece in chances.split(SIZES, dim=2)], dim=2)
        readings = []
        for row, slots in zip(labels.tolist(), chances, strict=True):
            seen = [(decode(answers), slot) for answers, slot in zip(row, slots, strict=True)]
            readings.append(Reading(tuple(Sight(subject, slot) for subject, slot in seen if subject is not None)))
        return readings

    @torch.no_grad()
    def chances(self, pictures: Tensor) -> Tensor:
        """The logarithm of the chance of each answer: (B, 2, sum of `labels.SIZES`) for pictures as `read` takes them.

        It is the mean over several glances, each at the picture moved a little: what hangs on a pixel is no answer.
        Where `ODDS` asks for more than an even chance, the chance that there is nothing is raised by as much.
        """
        return torch.cat([self._chances(part) for part in pictures.split(256)])

    def _chances(self, pictures: Tensor) -> Tensor:
        height, width = pictures.shape[2:]
        reach = max(max(map(abs, glance)) for glance in GLANCES)
        padded = functional.pad(pictures, (reach,) * 4, mode="replicate")
        glances = []
        for down, right in GLANCES:
            top, left = reach - down, reach - right
            answers = self.network(padded[:, :, top : top + height, left : left + width]).float()
            glances.append(torch.cat([piece.log_softmax(dim=2) for piece in answers.split(SIZES, dim=2)], dim=2))
        # Up to a constant the logarithm of their mean.
        believed = torch.stack(glances).logsumexp(dim=0) + _NOTHING.to(pictures.device)
        return torch.cat([piece.log_softmax(dim=2) for piece in believed.split(SIZES, dim=2)], dim=2)


def labels_of(subjects: Sequence[Subject]) -> list[list[int]]:
    """Labels of a picture's subjects from left to right, as the network answers: two lists, one a subject.

    Hair that a hat covers is called short, unless a beard has its colour: nobody sees it, but long or curly hair would
    be seen. Without an answer a judge that learned of hats above long and curly hair alone saw curls below caps where
    there were none.
    """
    rows = [encode(subject, _answered(subject)) for subject in subjects]
    return rows + [encode(None) for _ in range(SUBJECTS - len(rows))]


def _answered(subject: Subject) -> dict[str, str]:
    shown = subject.shown()
    return {"hair": "short", **shown} if "hair" in subject.attributes else shown


_NOTHING = torch.tensor(
    [math.log(ODDS.get(head.name, 1.0)) if value == NONE else 0.0 for head in HEADS for value in head.values]
)
"""What `ODDS` adds to the logarithm of the chance of each answer."""

QUESTIONS = tuple(f"{head.group}.{head.name}" for head in HEADS)
"""Names of the questions that the judge answers about each subject."""
