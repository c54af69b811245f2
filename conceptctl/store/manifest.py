"""Generations: what the store held at one moment, in one canonical file, chained by digest.

A manifest's name is the sha256 of its bytes, and it names its parent's, so no byte of history can change
without every later name changing too.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import conceptctl
from conceptctl.errors import StoreDamaged


def canonical(value: Any) -> bytes:
    """Return the only spelling of a JSON value: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def now() -> str:
    """Return the time as manifests spell it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclasses.dataclass(frozen=True)
class BlobRef:
    """A file in `blobs/`, by its digest."""

    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class Family:
    """How models of one kind are laid out: all that a store must know to judge what fits its base.

    Attributes:
        name: What the family is called.
        components: The parts whose tensors make a base; a safety checker beside them changes nothing that a concept
            builds on.
        targets: Patterns (`fnmatch`) of the parameter paths that deltas go on.
        token_tables: The pattern of each text encoder's token table, by the encoder's name; none where models read no
            prompts, but tell classes of pictures apart.
    """

    name: str
    components: tuple[str, ...]
    targets: tuple[str, ...]
    token_tables: Mapping[str, str]

    @property
    def is_classifier(self) -> bool:
        """Whether its models tell classes apart: a concept is a task then, and its rows are the head's, one a class."""
        return not self.token_tables

    def is_target(self, path: str) -> bool:
        """Whether deltas go on a parameter."""
        return any(fnmatchcase(path, pattern) for pattern in self.targets)


@dataclasses.dataclass(frozen=True)
class Base:
    """The checkpoint a store starts from.

    Attributes:
        name: What a user calls it; never a path of the user's.
        sha256: Digest over its tensors, whatever files they are in.
        files: Its weights, by their place in a diffusers folder.
        texts: One blob with its configurations and vocabularies.
        family: What kind of model it is; None in stores that were made when there was one kind.
    """

    name: str
    sha256: str
    files: Mapping[str, BlobRef]
    texts: BlobRef
    family: Family | None = None

    @property
    def is_classifier(self) -> bool:
        """Whether it tells classes apart, and draws nothing: what is learned on it are tasks."""
        return self.family is not None and self.family.is_classifier

    @property
    def noun(self) -> str:
        """What the things that are learned on it are called."""
        return "task" if self.is_classifier else "concept"


@dataclasses.dataclass(frozen=True)
class Concept:
    """One concept in a generation; everything else about it is in its blob.

    Attributes:
        uid: What history and other blobs call it, so that its name stands in few places.
        folded: Whether the stored weights hold it already.
        consolidated: Whether the generation's consolidated weights hold it, so that its own delta is not added.
        factored: Whether its blob has deltas that are kept as their factors.
    """

    uid: str
    name: str
    class_word: str
    method: str
    learned: str
    folded: bool
    blob: BlobRef
    consolidated: bool = False
    factored: bool = False


@dataclasses.dataclass(frozen=True)
class Attachment:
    """A blob that a generation keeps besides its concepts: an evaluation, cached latents.

    Attributes:
        kind: What it is, for whoever wrote it.
        concept: The uid of the concept it tells about, or an empty string; a purge removes it.
        blob: The file.
    """

    kind: str
    concept: str
    blob: BlobRef


@dataclasses.dataclass(frozen=True)
class Action:
    """What made a generation: a verb, and the names of the concepts it was about."""

    verb: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.verb, *self.names))


@dataclasses.dataclass(frozen=True)
class Generation:
    """One committed state of the store.

    Attributes:
        seq: Its place in history, from 0.
        parent: The id of the generation before it; empty for the first.
        time: When it was committed, UTC.
        program: The version that committed it.
        purges: How often history was rewritten before it was; the same in all of a chain.
        action: What made it.
        restores: The generation that it equals, when an undo made it; else its own `seq`.
        base: What everything stands on.
        concepts: In the order they were learned.
        folded: The weights with every folded concept in them; None while nothing is folded. Kept for the
            head only: those of older generations are rebuilt, and have the same digest.
        attachments: What else is kept.
        consolidated: Weights and token rows in the place of the deltas of some concepts, which do not add up to them:
            what a forget, or a compaction, left. The deltas of the others are added to these. Unlike `folded` they
            cannot be made again.
        floor: The earliest generation whose blobs are kept; a compaction gives up what was before it.
    """

    seq: int
    parent: str
    time: str
    program: str
    purges: int
    action: Action
    restores: int
    base: Base
    concepts: tuple[Concept, ...] = ()
    folded: BlobRef | None = None
    attachments: tuple[Attachment, ...] = ()
    consolidated: BlobRef | None = None
    floor: int = 0

    @property
    def least_format(self) -> int:
        """The earliest format whose programs do not misread it."""
        if self.base.is_classifier:
            return 5
        if any(each.factored for each in self.concepts):
            return 4
        return 3 if self.consolidated is not None or self.floor > 0 else 1

    @cached_property
    def encoded(self) -> bytes:
        """The manifest's bytes."""
        value = dataclasses.asdict(self)
        # As it was written when there were no such fields: its digest is the generation's name.
        if self.base.family is None:
            del value["base"]["family"]
        for name in ("consolidated", "floor"):
            if not value[name]:
                del value[name]
        for entry in value["concepts"]:
            for name in ("consolidated", "factored"):
                if not entry[name]:
                    del entry[name]
        return canonical(value)

    @cached_property
    def identity(self) -> str:
        """The sha256 of the manifest's bytes."""
        return hashlib.sha256(self.encoded).hexdigest()

    def start(self, concepts: Sequence[Concept]) -> str:
        """The digest of all that the weights are made of with these of its concepts, the first ones."""
        mixed = self.consolidated.sha256 if self.consolidated else ""
        made_of = canonical([self.base.sha256, mixed, [each.blob.sha256 for each in concepts]])
        return hashlib.sha256(made_of).hexdigest()

    def after(self, action: Action, **changes: Any) -> "Generation":
        """Return the generation that follows this one."""
        return dataclasses.replace(
            self,
            seq=self.seq + 1,
            parent=self.identity,
            time=now(),
            program=conceptctl.__version__,
            action=action,
            **{"restores": self.seq + 1, **changes},
        )

    def concept(self, name: str) -> Concept | None:
        """Return the concept of that name, or None."""
        return next((concept for concept in self.concepts if concept.name == name), None)

    def blobs(self) -> dict[BlobRef, str]:
        """Return every blob that must be there for this generation, with what it is.

        The folded weights are not among them: they can be rebuilt from the others.
        """
        refs = {ref: f"base {self.base.name}: {path}" for path, ref in self.base.files.items()}
        refs[self.base.texts] = f"base {self.base.name}: configurations"
        refs |= {attachment.blob: attachment.kind for attachment in self.attachments}
        if self.consolidated:
            refs[self.consolidated] = "consolidated weights"
        return refs | {concept.blob: f"{self.base.noun} {concept.name}" for concept in self.concepts}


def kept(history: Sequence[Generation], floor: int | None = None) -> Sequence[Generation]:
    """Return those of a history, oldest first, whose blobs are kept: all since the last compaction.

    Args:
        history: What is readable of it.
        floor: The head's, where the head is not the last of them.
    """
    least = history[-1].floor if floor is None else floor
    return [past for past in history if past.seq >= least]


def decode(data: bytes, identity: str) -> Generation:
    """Read a manifest whose digest is known.

    Raises:
        StoreDamaged: The bytes are not the ones that were committed.
    """
    if hashlib.sha256(data).hexdigest() != identity:
        raise StoreDamaged(f"the manifest of generation {identity[:12]} was changed after it was committed")
    return parse(data)


def parse(data: bytes) -> Generation:
    """Read a manifest whose bytes have been checked."""
    value = json.loads(data)
    base = value["base"]
    return Generation(
        **{
            **value,
            "action": Action(value["action"]["verb"], tuple(value["action"]["names"])),
            "base": Base(
                base["name"],
                base["sha256"],
                {path: BlobRef(**ref) for path, ref in base["files"].items()},
                BlobRef(**base["texts"]),
                _family(base.get("family")),
            ),
            "concepts": tuple(Concept(**{**entry, "blob": BlobRef(**entry["blob"])}) for entry in value["concepts"]),
            "folded": BlobRef(**value["folded"]) if value["folded"] else None,
            "consolidated": BlobRef(**value["consolidated"]) if value.get("consolidated") else None,
            "attachments": tuple(
                Attachment(entry["kind"], entry["concept"], BlobRef(**entry["blob"])) for entry in value["attachments"]
            ),
        }
    )


def _family(entry: Mapping[str, Any] | None) -> Family | None:
    if entry is None:
        return None
    return Family(entry["name"], tuple(entry["components"]), tuple(entry["targets"]), entry["token_tables"])
