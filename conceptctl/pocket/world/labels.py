"""A subject as numbers: what classifiers of the world's pictures are trained on and answer in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from conceptctl.pocket.world.kinds import KINDS, NONE, Attribute, Subject

UNKNOWN = -1
"""The label of what a subject does not have, what is not said of it, or what lies between two answers."""

_GROUPS: Mapping[str, str] = {
    "person": "person",
    "waterfall": "waterfall",
    **dict.fromkeys(("mug", "teapot", "backpack"), "object"),
    **dict.fromkeys(("cat", "dog", "duck"), "animal"),
}


@dataclass(frozen=True)
class Head:
    """One question about a subject, and its possible answers."""

    group: str
    """The group of kinds that the question is for; "any" for the kind itself."""
    name: str
    values: tuple[str, ...]


def _heads() -> tuple[Head, ...]:
    heads = [Head("any", "kind", (NONE, *KINDS))]
    seen = set()
    for kind, attributes in KINDS.items():
        if (group := _GROUPS[kind]) not in seen:
            seen.add(group)
            heads += [Head(group, attribute.name, _answers(attribute)) for attribute in attributes]
    return tuple(heads)


def _answers(attribute: Attribute) -> tuple[str, ...]:
    # A colour that stands for a missing detail is never asked about: the detail's own head says that it is missing.
    return tuple(value for value in attribute.values if value != NONE or not attribute.needs)


HEADS = _heads()
"""All questions; the answers about one subject are a number for each, in this order."""

SIZES = tuple(len(head.values) for head in HEADS)

SIZES_SAID = tuple(size + 1 for size in SIZES)
"""The same for captions, where silence is the last answer to every question."""


def encode(subject: Subject | None, known: Mapping[str, str] | None = None) -> list[int]:
    """Turn a subject into labels.

    Args:
        subject: The subject; None where there is none, which is an answer too.
        known: The attributes that are known of it; all that show by default.

    Returns:
        A label for each of `HEADS`, `UNKNOWN` where there is nothing to say.
    """
    if subject is None:
        return [0] + [UNKNOWN] * (len(HEADS) - 1)
    values = subject.shown() if known is None else known
    labels = [HEADS[0].values.index(subject.kind)]
    for head in HEADS[1:]:
        value = values.get(head.name) if head.group == _GROUPS[subject.kind] else None
        labels.append(head.values.index(value) if value in head.values else UNKNOWN)
    return labels


def encode_said(subject: Subject, mentions: Mapping[str, str]) -> list[int]:
    """Label what a caption says of a subject, in `SIZES_SAID`.

    Silence has to be an answer: as long as it is none, "a beard" is right whatever the caption, and red may always be
    said of hat, hair and shirt together. A text tower that is asked no more hardly tells glasses from a beard.

    Args:
        subject: The subject.
        mentions: The attributes that are named; one with another word than its values, like "hat", is not asked about.
    """
    labels = encode(subject, mentions)
    for index, head in enumerate(HEADS):
        if head.group == _GROUPS[subject.kind] and head.name not in mentions:
            labels[index] = len(head.values)
    return labels


def decode(labels: list[int]) -> Subject | None:
    """Turn labels back into a subject; an attribute without a label takes its first value, or is missing."""
    kind = HEADS[0].values[labels[0]]
    if kind == NONE:
        return None
    group = _GROUPS[kind]
    values = {}
    for head, label in zip(HEADS[1:], labels[1:], strict=True):
        if head.group == group:
            values[head.name] = head.values[max(label, 0)]
    for attribute in KINDS[kind]:
        if any(values[name] == NONE for name in attribute.needs) and NONE in attribute.common:
            values[attribute.name] = NONE
    return Subject(kind, values)
