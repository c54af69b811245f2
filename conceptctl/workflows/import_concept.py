"""`import`: one concept from a file, of another store or another program, without harm to those that are there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl import families
from conceptctl.errors import ImportRefused, NotFound, UsageError
from conceptctl.progress import Progress, ignore
from conceptctl.store import base, durable, gate, tensorfile, weights
from conceptctl.store.concept import Record
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store, Writer
from conceptctl.wording import count
from conceptctl.workflows.adding import add_concept, check_free, names_of
from conceptctl.workflows.foreign_file import opened
from conceptctl.workflows.import_foreign import Elsewhere, Foreign, Offer, offer
from conceptctl.workflows.learn.coherence import KEPT
from conceptctl.workflows.reference_samples import recipe_of, word_of

if TYPE_CHECKING:
    from conceptctl.workflows.consolidation import Held


@dataclass(frozen=True)
class Imported:
    """A concept that was added.

    Attributes:
        generation: The one that has it.
        stands_on: What its delta stands on, by name where history knows one, else by uid; None where the file does not
            say, as those of earlier versions.
        missing: What of that is not here.
        bare: Whether its delta was learned on weights that are not those here: what it draws is not sure.
        kept: What became of those that were here; empty where its delta was added as it was.
        lacking: How far its prompts' keys and values are from what they were where it comes from, |difference| /
            |there|; None where its delta was added as it was.
        damaged: The names of those that were here and are damaged: nothing was done about them.
        foreign: What was made of the file where another program wrote it; else None.
    """

    generation: Generation
    stands_on: tuple[str, ...] | None
    missing: tuple[str, ...]
    bare: bool
    kept: tuple[Held, ...]
    lacking: float | None
    damaged: tuple[str, ...]
    foreign: Foreign | None


def import_concept(
    store: Store,
    path: Path,
    rename: str | None = None,
    elsewhere: Elsewhere | None = None,
    *,
    raw: bool = False,
    wait: bool = False,
    progress: Progress = ignore,
) -> Imported:
    """Add a concept from a file, as one generation, not folded.

    Those that are there keep what they draw, as they do when one is learned. The delta in the file is added as it is
    where nothing is there, or the weights are those that it was learned on.

    Args:
        store: The store.
        path: The file.
        rename: Another name for the concept.
        elsewhere: What the user says of a file that another program wrote; nothing by default.
        raw: Whether the delta is added as it is in any case, whatever that does to those that are there.
        wait: Wait while somebody else changes the store.
        progress: Told how many concepts' prompts are encoded.

    Raises:
        ImportRefused: The file breaks a rule of the gate, is for another base, or goes on from what is not there.
        AlreadyExists: A concept or a token has that name, or the concept is in the store under another.
        UsageError: The new name cannot be one; or something is said of a concept file, which says it itself.
        StoreDamaged: The base or the stored weights are damaged.
    """
    checked = _gate(store)
    made_of = _made_of(store, path, rename, elsewhere or Elsewhere())
    offered = made_of.record if made_of else checked(path)
    record = _as_kept(offered, rename)
    stands_on = _stands_on(offered)
    with store.writing("import", wait=wait) as writer, _held(writer, made_of or path, offered, checked) as held:
        check_free(writer.head, record, writer.layout)
        _check_complete(writer, record)
        tensors, _ = tensorfile.read_tensors(held)
        there = tuple(each.uid for each in writer.head.concepts)
        missing = tuple(uid for uid in stands_on or () if uid not in there)
        same = offered.start == writer.head.start(writer.head.concepts)
        solved = None
        if not (raw or same or not there):
            # What it was learned on top of is here, though perhaps not alone: the base is further from what it was.
            with_others = not set(there).isdisjoint(stands_on or ())
            solved = join_others(store, writer.head, record, held, with_others, progress)
            # Nothing can go on from what was solved for, as from what is exported whole.
            tensors = {name: each for name, each in tensors.items() if name in ("token", "features")}
            tensors |= weights.delta_tensors(solved.deltas)
            record = dataclasses.replace(record, contains=())
        ref = writer.add_tensors(tensors, record.metadata())
        # What was solved for is looked at like what comes from elsewhere.
        checked(store.layout.blob(ref.sha256))
        made = add_concept(writer, "import", record, ref)
    kept, lacking, damaged = (solved.kept, solved.lacking, solved.damaged) if solved else ((), None, ())
    bare = not same and (stands_on is None or bool(missing) or bool(stands_on and offered.start))
    names, foreign = (stands_on and names_of(store, stands_on)), (made_of.foreign if made_of else None)
    return Imported(made, names, names_of(store, missing), bare, kept, lacking, damaged, foreign)


def _made_of(store: Store, path: Path, name: str | None, elsewhere: Elsewhere) -> Offer | None:
    """Make a concept of a file that another program wrote; None for a concept file.

    Raises:
        UsageError: Something is said of a concept file, which says it itself.
    """
    file = opened(path)
    if file:
        return offer(store, file, name, elsewhere)
    # What is no regular file at all is said by the gate.
    if elsewhere != Elsewhere() and path.is_file() and not path.is_symlink():
        raise UsageError(
            f"{path.name} is no file of another program: a concept file says itself what it is",
            hint="only --as goes with it",
        )
    return None


@contextmanager
def _held(writer: Writer, given: Path | Offer, offered: Record, checked: Callable[[Path], Record]) -> Iterator[Path]:
    """Put a file that has been looked at where nobody replaces it while it is read once more.

    Args:
        writer: The right to change the store.
        given: The concept file, or what was made of another.
        offered: Its record.
        checked: The gate.

    Raises:
        ImportRefused: It has been replaced or cut since; or what was made of it breaks a rule.
        NotFound: It has been taken away since.
        NoSpace: The copy does not fit.
    """
    scratch = durable.scratch_path(writer.layout.tmp)
    try:
        if isinstance(given, Path):
            _copy(given, scratch)
            if not _is(scratch, offered, checked):
                raise ImportRefused(f"{given.name}: it changed while it was read", hint="run the same command again")
        else:
            encoded = tensorfile.encode(given.tensors, given.record.metadata())
            durable.ensure_space(scratch.parent, encoded.size)
            durable.write_file(scratch, encoded)
            checked(scratch)
        yield scratch
    finally:
        durable.remove_file(scratch)


def _copy(path: Path, scratch: Path) -> None:
    try:
        durable.ensure_space(scratch.parent, path.stat().st_size)
        with path.open("rb") as stream:
            durable.write_file(scratch, iter(lambda: stream.read(durable.CHUNK), b""))
    except FileNotFoundError:
        raise NotFound(f"{path}: it was taken away while it was read") from None


def _is(path: Path, offered: Record, checked: Callable[[Path], Record]) -> bool:
    try:
        return checked(path) == offered
    except ImportRefused:
        return False


def _gate(store: Store) -> Callable[[Path], Record]:
    """What looks at a concept file for a store's base, and returns its record."""
    head = store.head()
    found = base.tensors(store.layout, head.base)
    shapes = {place: info for place, (_, _, info) in found.items()}
    family = families.facts_of(head.base)
    width = sum(base.token_widths(found, family).values())

    def is_same(sha256: str) -> bool:
        return base.is_same(store.layout, head.base, family, sha256)

    return lambda path: gate.check_concept_file(path, head.base.sha256, shapes, family, width, is_same)


def _as_kept(offered: Record, rename: str | None) -> Record:
    """A record as it is in a store."""
    # What later concepts would be told by is measured here.
    settings = {name: value for name, value in offered.settings.items() if name != KEPT}
    name = offered.name if rename is None else rename
    # What a file stands on is said when it leaves a store; inside, history says it.
    return dataclasses.replace(offered, name=name, settings=settings, stands_on=None, start="")


def _stands_on(record: Record) -> tuple[str, ...] | None:
    """The uids of what a delta was learned on top of; None where nothing says it."""
    if record.stands_on is None and record.after == 0:
        # Learned when nothing had been.
        return ()
    return record.stands_on


@dataclass(frozen=True)
class Joined:
    """A delta on the head's weights, and what became of the others and of the new one."""

    deltas: Mapping[str, weights.Delta]
    kept: tuple[Held, ...]
    lacking: float
    damaged: tuple[str, ...]


def join_others(
    store: Store, head: Generation, record: Record, path: Path, with_others: bool, progress: Progress
) -> Joined:
    """Find the delta with which a concept draws what it drew, and those that are there what they draw.

    Args:
        store: The store.
        head: Its head.
        record: The new one's, by the name that it will have.
        path: Its file.
        with_others: Whether its delta is one on top of what is there; else it is one on the base.
        progress: Told how many concepts' prompts are encoded.

    Raises:
        UsageError: On this base that cannot be computed.
    """
    families.check_closed_form(
        head.base,
        "a concept from elsewhere cannot be joined with those that are there",
        "into a store of its own: conceptctl init --base ... --store DIR; or --raw, which changes what those draw",
    )
    import torch

    from conceptctl.workflows.consolidation import Consolidation

    solver = Consolidation(store, head, progress=progress)
    start = solver.current_weight if with_others else solver.base_weight
    header = tensorfile.read_header(path)
    given = frozenset(weights.places(header))

    def wanted(place: str) -> torch.Tensor:
        weight = start(place).numpy().copy()
        if place in given:
            weights.read_stored(path, header, place, weight.shape).add_to(weight)
        return torch.from_numpy(weight)

    prompt = recipe_of(record, head.base).prompt_for(record.name)
    row = weights.read_floats(path, "token")
    solved = solver.joined_by(record.name, prompt, row, word_of(record), wanted)
    deltas = {place: weights.Delta.of(weight - solver.current[place]) for place, weight in solved.weights.items()}
    return Joined(deltas, solved.kept, solved.left or 0.0, solved.damaged)


def _check_complete(writer: Writer, record: Record) -> None:
    """Make sure that a concept has what it goes on from.

    Raises:
        ImportRefused: It has not.
    """
    there = {each.uid for each in writer.head.concepts}
    if missing := [uid for uid in record.contains if uid not in there]:
        raise ImportRefused(
            f"{record.name!r} goes on from others in one adapter ({record.method}), and means nothing without them; "
            f"{count(len(missing), 'of them is', 'of them are')} not in this store",
            hint="export it without --raw, or import those first, in the order in which they were learned",
        )
