"""`export`: concepts as files for other stores, or the model with its concepts as a folder for other programs.

What leaves a store is whole: the concept draws what it draws in the store on the base alone, though its delta was
learned on top of others. `raw` gives the deltas as they were learned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.errors import AlreadyExists, NotFound, StoreDamaged, UsageError
from conceptctl.families import check_closed_form
from conceptctl.formats.diffusers_folder import Checkpoint, check_vacant, export_diffusers
from conceptctl.progress import Progress, ignore
from conceptctl.store import durable, tensorfile, weights
from conceptctl.store.concept import Record, read_record
from conceptctl.store.manifest import Concept, Generation
from conceptctl.store.store import Store, unknown_concept
from conceptctl.store.tensorfile import Tensor
from conceptctl.workflows.adding import names_of
from conceptctl.workflows.concept_log import came
from conceptctl.workflows.places import check_writable
from conceptctl.workflows.reference_samples import introduced_in

if TYPE_CHECKING:
    from conceptctl.store.weights import Array
    from conceptctl.workflows.consolidation import Consolidation


@dataclass(frozen=True)
class Exported:
    """One file that was written.

    Attributes:
        name: The concept.
        path: The file.
        size: Its bytes.
        stands_on: The names of the concepts that it is added on top of; none where it is whole on the base, None where
            history does not say it, as after a purge.
        changed: How far its prompts' keys and values are from what they are in the store, on that base:
            |difference| / |before|; None where its delta is as it was learned.
    """

    name: str
    path: Path
    size: int
    stands_on: tuple[str, ...] | None
    changed: float | None
    damaged: tuple[str, ...]
    """Concepts of the store that are damaged: what they draw, and others because of them, is not in the file."""


def export_concepts(
    store: Store,
    names: Sequence[str],
    output: Path,
    *,
    into_folder: bool = False,
    raw: bool = False,
    beside: Sequence[str] = (),
    progress: Progress = ignore,
) -> list[Exported]:
    """Write concepts as files.

    Args:
        store: The store.
        names: Which concepts; none means all.
        output: A file for one name; a folder for several, or when it is one already.
        into_folder: Whether it is a folder in any case; made where it is not there.
        raw: Whether their deltas are written as they were learned, on top of earlier ones.
        beside: Concepts that the base will have already where the files are used.
        progress: Told how many prompts are encoded.

    Raises:
        NotFound: There is no such concept.
        UsageError: A concept is to stand beside itself, or its own delta is not kept any more.
        AlreadyExists: A file is there already; nothing is overwritten.
        StoreDamaged: A concept's bytes are not the ones that were committed.
    """
    with store.reading() as head:
        chosen = [find(head, name) for name in dict.fromkeys(names)] or list(head.concepts)
        others = [find(head, name) for name in dict.fromkeys(beside)]
        if not chosen:
            raise NotFound("the store has no concepts yet", hint="conceptctl learn DIR --token NAME --class WORD")
        if twice := [each.name for each in chosen if each in others]:
            raise UsageError(f"{twice[0]!r} cannot stand beside itself", hint="--with names other concepts")
        into_folder = into_folder or len(set(names)) != 1 or output.is_dir()
        targets = [output / f"{each.name}.safetensors" if into_folder else output for each in chosen]
        if taken := [target for target in targets if target.exists()]:
            raise AlreadyExists(f"{taken[0]} is there already")
        if into_folder:
            _check_folder(output)
        elif not output.parent.is_dir():
            raise NotFound(f"no folder {output.parent}", hint="-o takes a file in a folder that is there, or FOLDER/")
        check_writable(output if into_folder else output.parent)
        made = _files(store, head, chosen, others, raw, progress)
        if into_folder:
            output.mkdir(parents=True, exist_ok=True)
        written = []
        for each, target, file in zip(chosen, targets, made, strict=True):
            size = _write(target, file.tensors, file.record)
            on = None if file.record.stands_on is None else names_of(store, file.record.stands_on)
            written.append(Exported(each.name, target, size, on, file.changed, file.damaged))
        return written


def _check_folder(output: Path) -> None:
    """Make sure that a folder is there or can be made.

    Raises:
        NotFound: A file is in its way.
    """
    there = next(each for each in (output.absolute(), *output.absolute().parents) if each.exists())
    if not there.is_dir():
        raise NotFound(f"{there} is a file, and no folder", hint="-o takes a new file, or FOLDER/")


def find(head: Generation, name: str) -> Concept:
    """Return a concept of a generation.

    Raises:
        NotFound: There is none of that name.
    """
    found = head.concept(name)
    if found is None:
        raise unknown_concept(name, head)
    return found


def find_then(store: Store, generation: Generation, name: str) -> Concept:
    """Return a concept of a generation; where it came later, or is called otherwise since, say when.

    Raises:
        NotFound: There is none of that name.
    """
    try:
        return find(generation, name)
    except NotFound:
        later = came(store.log(), name, generation.seq)
        if later is None:
            raise
        raise NotFound(
            f"generation {generation.seq} has no concept {name!r}: it came in generation {later}",
            hint=f"--at {later} or later",
        ) from None


@dataclass(frozen=True)
class _File:
    tensors: Mapping[str, Tensor]
    record: Record
    changed: float | None
    damaged: tuple[str, ...] = ()


def _files(
    store: Store,
    head: Generation,
    chosen: Sequence[Concept],
    others: Sequence[Concept],
    raw: bool,
    progress: Progress,
) -> Iterable[_File]:
    """Make the files, one after the other."""
    if raw:
        _check_raw(store, chosen)
    solver: Consolidation | None = None
    start_of: Callable[[str], Array] | None = None
    for each in chosen:
        path = store.blob(each, read=True)
        record = dataclasses.replace(read_record(path), name=each.name)
        before, start = None, ""
        if raw or (not others and head.concepts == (each,) and not each.consolidated):
            before, start = _learned_on(store, each)
        if raw or before == ():
            tensors, _ = tensorfile.read_tensors(path)
            yield _File(tensors, dataclasses.replace(record, stands_on=before, start=start), None)
            continue
        if solver is None:
            check_closed_form(
                head.base,
                "a concept that was learned beside others cannot be made whole by itself",
                "--raw, for a store with the same concepts in it; or all of them: --to diffusers",
            )
            from conceptctl.workflows.consolidation import Consolidation

            solver = Consolidation(store, head, progress=progress)
        start_of = start_of or _start(solver, others)
        yield _whole(path, record, solver, each, others, start_of)


def _check_raw(store: Store, chosen: Iterable[Concept]) -> None:
    """Refuse to write deltas that a compaction has given up."""
    for each in chosen:
        if each.consolidated and not weights.places(tensorfile.read_header(store.blob(each))):
            raise UsageError(
                f"{each.name!r}: its own delta is not kept: a compaction put one for all concepts in its place",
                hint="without --raw",
            )


def _learned_on(store: Store, concept: Concept) -> tuple[tuple[str, ...] | None, str]:
    """The uids of what was there when a concept came, None where history does not say; and the weights' digest."""
    try:
        at = introduced_in(store).get(concept.uid)
        if at is None or at < store.last_purge():
            # What it was learned on top of may have been purged.
            return None, ""
        then = store.generation(at)
    except StoreDamaged:
        return None, ""
    before = then.concepts[: [each.uid for each in then.concepts].index(concept.uid)]
    return tuple(each.uid for each in before), then.start(before)


def _start(solver: Consolidation, others: Sequence[Concept]) -> Callable[[str], Array]:
    """The weights that files stand on: the base's, or those with some concepts in them."""
    if others:
        return solver.whole({each.uid for each in others}).weights.__getitem__
    return lambda place: solver.base_weight(place).numpy()


def _whole(
    path: Path,
    record: Record,
    solver: Consolidation,
    concept: Concept,
    others: Sequence[Concept],
    start: Callable[[str], Array],
) -> _File:
    """A concept's file with a delta on the base, or on the base with others, with which it draws what it draws now."""
    solved = solver.whole({concept.uid, *(each.uid for each in others)})
    deltas = {place: weights.Delta.of(weight - start(place)) for place, weight in solved.weights.items()}
    tensors, _ = tensorfile.read_tensors(path)
    own = {name: tensor for name, tensor in tensors.items() if name in ("token", "features")}
    added = weights.delta_tensors(deltas)
    # Nothing can go on from what was solved for: what a method keeps belongs to the delta as it was learned.
    made = dataclasses.replace(record, contains=(), stands_on=tuple(each.uid for each in others), start="")
    (changed,) = (each.changed for each in solved.kept if each.name == concept.name)
    return _File({**own, **added}, made, changed, solved.damaged)


def _write(target: Path, tensors: Mapping[str, Tensor], record: Record) -> int:
    """Write one file where none is."""
    encoded = tensorfile.encode(tensors, record.metadata())
    try:
        durable.write_new(target, encoded, encoded.size)
    except FileExistsError:
        raise AlreadyExists(f"{target} is there already") from None
    return encoded.size


@dataclass(frozen=True)
class Folder:
    """A folder that was written, and how far its concepts are from what they are in the store.

    Attributes:
        checkpoint: The folder.
        changed: For each concept how far its prompts' keys and values are from those in the store; empty where the
            weights are the store's own, or sums of deltas as they were learned.
    """

    checkpoint: Checkpoint
    changed: Mapping[str, float]
    damaged: tuple[str, ...] = ()


def export_folder(
    store: Store,
    names: Sequence[str],
    target: Path,
    *,
    at: int | None = None,
    raw: bool = False,
    solving: Progress = ignore,
    writing: Progress = ignore,
) -> Folder:
    """Write the base with concepts in it as a diffusers folder: all of a generation's, or some, made whole.

    Args:
        store: The store; it is only read.
        names: Which concepts; none means all.
        target: A folder that is not there, or is empty.
        at: The generation; the newest by default.
        raw: Whether the deltas of some are added as they were learned.
        solving: Told how many prompts are encoded.
        writing: Told how many bytes are written.

    Raises:
        NotFound: There is no such concept or generation, or no folder to put the new one in.
        UsageError: A concept's own delta is not kept any more, or means nothing without others.
        AlreadyExists: Something is there already; nothing is overwritten.
        NoSpace: It does not fit.
        StoreDamaged: The base or a concept is not as it was committed.
    """
    with store.reading() as head:
        generation = head if at is None else store.drawable(at)
        uids = {find_then(store, generation, name).uid for name in names}
        solved = None
        check_writable(target.absolute().parent)
        if uids and not raw and uids != {each.uid for each in generation.concepts}:
            check_closed_form(
                generation.base,
                "some of the concepts cannot be made whole by themselves",
                "all of them: leave the names out; --at GENERATION for those that were learned up to then; or --raw",
            )
            from conceptctl.workflows.consolidation import Consolidation

            check_vacant(target.absolute())
            solved = Consolidation(store, generation, progress=solving).whole(uids)
        made = export_diffusers(
            store,
            tuple(names),
            target,
            generation,
            sums=solved.weights if solved else None,
            progress=writing,
        )
    if solved is None:
        return Folder(made, {})
    return Folder(made, {each.name: each.changed for each in solved.kept}, solved.damaged)
