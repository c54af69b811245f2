"""Evaluations that are kept: one small blob a concept and run, attached to the generation that `eval` commits.

The figures stand in the file's metadata, so that `show` reads them at once. No name stands in it: which concept it
tells about stands in the attachment, which a purge removes together with the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Protocol, TypeVar

from conceptctl.errors import ImportRefused, StoreDamaged
from conceptctl.store import blobs, tensorfile
from conceptctl.store.concept import METADATA_KEY
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import Action, Attachment, BlobRef, Generation, canonical
from conceptctl.store.store import Store, Writer

KIND = "evaluation"
FROM_FEATURES, REDRAWN = "reference samples", "redrawn"
"""Where the features of just after learning can come from."""


@dataclass(frozen=True)
class Kept:
    """One concept's figures in one run of `eval`."""

    run: str
    """The same for all concepts of a run, and random."""
    generation: int
    """With which the pictures were drawn."""
    time: str
    """When, UTC."""
    last: bool
    """Whether nothing had been learned after the concept, so that it does not count for forgetting."""
    drawn: int
    """Pictures drawn."""
    heldout: int
    """Real pictures that they were compared with."""
    prompt: str
    """What was drawn; `V*{}` stands for the concept."""
    steps: int
    guidance: float
    after_learning: str
    """Where the features of just after learning came from: `reference samples`, `redrawn`, or empty for nowhere."""
    extractor: Mapping[str, str]
    """`name` and `sha256` of the CLIP model."""
    kernel: Mapping[str, Any]
    """The five settings."""
    figures: Mapping[str, float | None]
    """A_mmd, F_mmd and so on; None for what cannot be said."""
    rbf: Mapping[str, float | None]
    """The four MMDs once more, with the kernel that also sees spread."""
    verdict: Mapping[str, Any] = field(default_factory=dict)
    """What `verdict.judge` said, as a dictionary; empty in evaluations of earlier versions."""


def new_run() -> str:
    """Return a name for a run that tells nothing about it."""
    return os.urandom(8).hex()


class OfGeneration(Protocol):
    """Figures of one concept that were found in some generation: a dataclass of plain data."""

    @property
    def generation(self) -> int:
        """With which they were found."""


Figures = TypeVar("Figures", bound=OfGeneration)


def commit(store: Store, measured: Sequence[tuple[str, Any]], *, wait: bool = False) -> Generation | None:
    """Keep figures as one generation.

    Args:
        store: The store; it may have changed since they were found.
        measured: The uid of each concept, and its figures: a dataclass of plain data.
        wait: Wait while somebody else changes the store.

    Returns:
        The new head; None when none of the concepts is there any more.

    Raises:
        Busy: Somebody else changes the store.
    """
    with store.writing("eval", wait=wait) as writer:
        names = {concept.uid: concept.name for concept in writer.head.concepts}
        there = [(uid, kept) for uid, kept in measured if uid in names]
        if not there:
            return None
        added = tuple(Attachment(KIND, uid, _add(writer, kept)) for uid, kept in there)
        action = Action("eval", tuple(names[uid] for uid, _ in there))
        return writer.commit(writer.head.after(action, attachments=(*writer.head.attachments, *added)))


def _add(writer: Writer, kept: Any) -> BlobRef:
    return writer.add_tensors({}, {METADATA_KEY: canonical({KIND: asdict(kept)}).decode()})


def read_all(
    layout: Layout,
    generation: Generation,
    uid: str | None = None,
    *,
    warn: Callable[[str], None] = lambda text: None,
) -> list[tuple[str, Kept]]:
    """Read the evaluations that a generation holds, oldest first.

    Args:
        layout: The store.
        generation: Usually the head.
        uid: Only those of this concept.
        warn: Called for each that is damaged, which then is left out: it stops nothing else.

    Returns:
        The uid of the concept, and its figures.
    """
    return attached(layout, generation, uid, _kept, warn=warn)


def attached(
    layout: Layout,
    generation: Generation,
    uid: str | None,
    parse: Callable[[Mapping[str, Any]], Figures],
    *,
    warn: Callable[[str], None] = lambda text: None,
) -> list[tuple[str, Figures]]:
    """Read the evaluations that a generation holds, whatever was measured; see `read_all`.

    Args:
        layout: The store.
        generation: Usually the head.
        uid: Only those of this concept; None for all.
        parse: Makes figures of what a file says; a KeyError, TypeError or ValueError means that it holds none.
        warn: As in `read_all`.
    """
    found = []
    for attachment in generation.attachments:
        if attachment.kind == KIND and uid in (None, attachment.concept):
            try:
                found.append((attachment.concept, parse(_entry(layout, attachment))))
            except (StoreDamaged, ImportRefused) as error:
                warn(f"left out: {error}")
            except (KeyError, TypeError, ValueError):
                warn(f"left out: {KIND}: blob {attachment.blob.sha256[:12]}: it holds no figures")
    return found


def by_generation(kept: Sequence[Figures], generations: Sequence[int]) -> dict[int, Figures]:
    """Find with which generation each evaluation was committed.

    Args:
        kept: Those of one concept that the head holds, oldest first.
        generations: The numbers of the generations that `eval` made, oldest first.

    Returns:
        The evaluations by the number of their generation: the first one after that with which pictures were drawn.
    """
    # What an undo has taken back is passed by: later pictures were drawn with a later generation.
    left = iter(generations)
    found = {}
    for each in kept:
        seq = next((number for number in left if number > each.generation), None)
        if seq is not None:
            found[seq] = each
    return found


def as_dict(kept: Kept) -> dict[str, Any]:
    """Return the figures of an evaluation with all that they depend on."""
    how = {"drawn": kept.drawn, "heldout": kept.heldout, "kernel": dict(kept.kernel), "extractor": dict(kept.extractor)}
    return {**how, **kept.figures, "verdict": dict(kept.verdict) or None}


def differences(kept: Kept, other: Kept) -> tuple[str, ...]:
    """Say in what two evaluations differ so that their figures cannot be compared; nothing where they can."""
    # The estimator is biased: how many pictures were compared counts as well.
    return tuple(
        what
        for what, ours, theirs in (
            ("kernel", kept.kernel, other.kernel),
            ("extractor", kept.extractor["sha256"], other.extractor["sha256"]),
            ("number of pictures", (kept.drawn, kept.heldout), (other.drawn, other.heldout)),
        )
        if ours != theirs
    )


def summary(kept: Kept, newest: Kept) -> str:
    """Say the figures of an evaluation in one line, and whether they can be compared with the newest ones."""
    shown = {name: kept.figures.get(name) for name in ("A_mmd", "F_mmd", "P_mmd")}
    line = ", ".join(f"{name} {'–' if value is None else f'{value:.4g}'}" for name, value in shown.items())
    if kept.verdict:
        line = f"{kept.verdict['text']}; {line}"
    if differs := differences(kept, newest):
        line += f" (not to be compared with the newest: another {', another '.join(differs)})"
    return line


def _entry(layout: Layout, attachment: Attachment) -> dict[str, Any]:
    path = blobs.checked(layout, attachment.blob, KIND, read=True)
    entry: dict[str, Any] = json.loads(tensorfile.read_header(path).metadata[METADATA_KEY])[KIND]
    return entry


def _kept(entry: Mapping[str, Any]) -> Kept:
    there = dict(entry)
    if "then" in there:
        # What earlier versions called it.
        there["after_learning"] = {"remembered": FROM_FEATURES}.get(there["then"], there["then"])
    # Fields that a later version adds are not this one's concern.
    optional = {each.name for each in fields(Kept) if each.default_factory is not MISSING}
    return Kept(**{each.name: there[each.name] for each in fields(Kept) if each.name not in optional - set(there)})
