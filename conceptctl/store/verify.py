"""Looking for damage: the chain, the anchor, sizes and headers; every byte when asked."""

import dataclasses
from collections.abc import Iterator

from conceptctl.errors import ConceptctlError, ImportRefused, StoreDamaged, StoreTooNew
from conceptctl.store import blobs, index, tensorfile
from conceptctl.store.index import LOST, LogRow
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import BlobRef, Generation, decode, kept
from conceptctl.wording import count


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: The file, from the store's root.
        what: What is wrong with it.
    """

    where: str
    what: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What a look at a store found.

    Attributes:
        problems: Everything that is wrong.
        notes: What is unusual and harms nothing.
        generations: How many manifests were looked at.
        blobs: How many blobs.
        bytes_read: How many of their bytes were compared.
    """

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    generations: int
    blobs: int
    bytes_read: int


def verify(layout: Layout, *, read_data: bool = False) -> Report:
    """Look at a whole store.

    Raises:
        StoreTooNew: A newer program wrote it, and what is right there is not known.
        NotFound: There is no store.
    """
    problems: list[Problem] = []
    try:
        layout.check_format()
    except StoreTooNew:
        raise
    except StoreDamaged as error:
        problems.append(Problem("FORMAT", str(error)))
    rows = []
    try:
        problems += [
            Problem("index.db", what) for what in (index.integrity(layout.index), index.check_seal(layout)) if what
        ]
        rows = index.rows(layout.index)
    except ConceptctlError as error:
        problems.append(Problem("index.db", str(error)))
    generations: list[Generation] = []
    for row in rows:
        found = _check_generation(layout, row, generations)
        if isinstance(found, Problem):
            problems.append(found)
        elif found is not None:
            generations.append(found)
    if 0 < layout.format_number() < max((each.least_format for each in generations), default=1):
        problems.append(Problem("FORMAT", "it names an earlier format than the generations need"))
    if rows:
        problems += _check_anchor(layout, rows)
    refs = wanted(generations, _floor(layout))
    problems += _check_blobs(layout, refs, read_data)
    return Report(
        tuple(problems),
        tuple(_notes(layout, rows, refs)),
        len(generations),
        len(refs),
        sum(ref.size for ref in refs) if read_data else 0,
    )


def _floor(layout: Layout) -> int | None:
    """The earliest generation whose blobs are kept, as the index has it; None where that is unreadable."""
    try:
        anchor = index.anchor(layout.index)
        return decode(anchor.manifest, anchor.head).floor
    except ConceptctlError:
        return None


def wanted(generations: list[Generation], floor: int | None = None) -> dict[BlobRef, str]:
    """Return every blob that must be there, and what it is."""
    refs = {ref: what for past in kept(generations, floor) for ref, what in past.blobs().items()} if generations else {}
    if generations and (weights := generations[-1].folded):
        refs.setdefault(weights, "folded weights")
    return refs


def _check_generation(layout: Layout, row: LogRow, before: list[Generation]) -> Generation | Problem | None:
    if row.verb == LOST:
        return None
    path = layout.manifest(row.seq, row.id)
    where = path.relative_to(layout.root).as_posix()
    try:
        generation = decode(path.read_bytes(), row.id)
    except FileNotFoundError:
        return Problem(where, "missing")
    except StoreDamaged as error:
        return Problem(where, str(error))
    if index.row_of(generation) != row:
        return Problem("index.db", f"what it says about generation {row.seq} is not what was committed")
    parent = next((past.identity for past in reversed(before) if past.seq == row.seq - 1), None)
    if parent is not None and generation.parent != parent:
        return Problem(where, "it does not follow the generation before it")
    return generation


def _check_anchor(layout: Layout, rows: list[LogRow]) -> Iterator[Problem]:
    try:
        anchor = index.anchor(layout.index)
        if [row.seq for row in rows] != list(range(anchor.count)) or rows[-1].id != anchor.head:
            yield Problem("index.db", "the head is not the end of history")
        decode(anchor.manifest, anchor.head)
    except ConceptctlError as error:
        yield Problem("index.db", str(error))


def _check_blobs(layout: Layout, refs: dict[BlobRef, str], read_data: bool) -> Iterator[Problem]:
    for ref, what in refs.items():
        where = layout.blob(ref.sha256).relative_to(layout.root).as_posix()
        found = blobs.problem(layout, ref, read=read_data)
        if not found:
            try:
                tensorfile.read_header(layout.blob(ref.sha256))
            except ImportRefused as error:
                found = str(error)
        if found:
            yield Problem(where, f"{what}: {found}")


def _notes(layout: Layout, rows: list[LogRow], refs: dict[BlobRef, str]) -> Iterator[str]:
    for row in rows:
        if row.verb == LOST:
            yield f"generation {row.seq} was lost before a repair; it cannot be undone to"
    names = {ref.sha256 for ref in refs}
    if loose := sum(1 for path in layout.blobs.glob("*/*") if path.name not in names):
        yield f"{count(loose, 'blob is', 'blobs are')} not needed (conceptctl gc)"
    if kept := sum(1 for _ in layout.damaged.iterdir()):
        yield f"{count(kept, 'file')} in damaged/"
