"""The switch: one small SQLite file that says which generation is the head.

`journal_mode=DELETE` with `synchronous=EXTRA` syncs the folder after the journal is gone, which is when a
commit is durable. Every operation opens its own connection, and none crosses a fork.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from conceptctl.errors import Busy, ConceptctlError, DeviceFailed, NoSpace, StoreDamaged
from conceptctl.store import durable
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import Generation, canonical

PATIENCE = 60.0
"""Seconds a connection waits while another one commits, which takes milliseconds."""

SETTINGS = ("journal_mode=DELETE", "synchronous=EXTRA", "secure_delete=ON", "temp_store=MEMORY")
"""What every connection asks for; EXTRA is what makes a commit outlive a power cut."""

LOST = "lost"
"""The verb of a generation whose manifest is gone; only `repair` writes it."""

SCHEMA = """
CREATE TABLE anchor (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    head TEXT NOT NULL,
    count INTEGER NOT NULL,
    purging INTEGER NOT NULL,
    manifest BLOB NOT NULL
) STRICT;
CREATE TABLE generations (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    time TEXT NOT NULL,
    verb TEXT NOT NULL,
    subject TEXT NOT NULL,
    concepts INTEGER NOT NULL,
    restores INTEGER NOT NULL
) STRICT;
"""


@dataclass(frozen=True)
class LogRow:
    """One line of `log`: a generation without its state."""

    seq: int
    id: str
    time: str
    verb: str
    subject: str
    concepts: int
    restores: int


@dataclass(frozen=True)
class Anchor:
    """Which generation is the head, how many there are, and the head's manifest once more.

    Attributes:
        purging: Whether a purge has committed but not yet removed everything.
    """

    head: str
    count: int
    purging: int
    manifest: bytes


def row_of(generation: Generation) -> LogRow:
    """Return what the index keeps about a generation."""
    return LogRow(
        generation.seq,
        generation.identity,
        generation.time,
        generation.action.verb,
        " ".join(generation.action.names),
        len(generation.concepts),
        generation.restores,
    )


@contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the index for one operation; SQLite's errors leave it as the project's.

    Raises:
        StoreDamaged: The file is not a database any more.
        NoSpace: The disk is full; the transaction was rolled back.
        DeviceFailed: The disk failed.
        Busy: Another process kept the index for a minute.
    """
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=PATIENCE, isolation_level=None)
        try:
            for setting in SETTINGS:
                connection.execute(f"PRAGMA {setting}")
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise _translated(path, error) from error
    except (UnicodeDecodeError, OverflowError) as error:
        # Flipped bits in names and texts come out of the driver as these.
        raise StoreDamaged(f"{path}: {error}") from error


def _translated(path: Path, error: sqlite3.Error) -> ConceptctlError:
    # The low byte is the primary code; the rest refines it.
    primary = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    if primary == sqlite3.SQLITE_FULL:
        return NoSpace(f"the disk is full: {path} was not changed")
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Busy("the index is in use")
    if primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY):
        return DeviceFailed(f"{path}: {error}")
    if primary == sqlite3.SQLITE_CANTOPEN and path.exists():
        return DeviceFailed(f"{path}: {error}")
    return StoreDamaged(f"{path}: {error}")


def create(path: Path, history: Iterable[LogRow], head: Generation, *, purging: bool = False) -> None:
    """Make an index of a whole history in one transaction."""
    # SQLite would make the file readable for everybody whom the umask lets; it gives its journal the file's own mode.
    durable.write_file(path, [])
    with connect(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, SCHEMA.split(";")):
            connection.execute(statement)
        _insert(connection, history)
        connection.execute(
            "INSERT INTO anchor VALUES (0, ?, ?, ?, ?)", (head.identity, head.seq + 1, purging, head.encoded)
        )
        connection.execute("COMMIT")


def _insert(connection: sqlite3.Connection, rows: Iterable[LogRow]) -> None:
    connection.executemany(
        "INSERT INTO generations VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(row.seq, row.id, row.time, row.verb, row.subject, row.concepts, row.restores) for row in rows],
    )


def anchor(path: Path) -> Anchor:
    """Read which generation is the head."""
    with connect(path) as connection:
        return _anchor(connection, path)


def _anchor(connection: sqlite3.Connection, path: Path) -> Anchor:
    row = connection.execute("SELECT head, count, purging, manifest FROM anchor WHERE only = 0").fetchone()
    if row is None:
        raise StoreDamaged(f"{path}: the index names no head")
    found = Anchor(*row)
    _check_types(found, path)
    return found


def rows(path: Path) -> list[LogRow]:
    """Read the whole history, oldest first."""
    query = "SELECT seq, id, time, verb, subject, concepts, restores FROM generations ORDER BY seq"
    with connect(path) as connection:
        found = [LogRow(*row) for row in connection.execute(query)]
    for row in found:
        _check_types(row, path)
    return found


def _check_types(row: "Anchor | LogRow", path: Path) -> None:
    """Make sure that a row has the types it was written with: SQLite checks them on writing only."""
    for name, kind in type(row).__annotations__.items():
        if type(getattr(row, name)) is not kind:
            raise StoreDamaged(f"{path}: a row's {name} is not what was committed")


def append(path: Path, generation: Generation) -> None:
    """Make a generation the head, if its parent still is.

    Raises:
        StoreDamaged: The head is another one, although the writer's lock was held.
    """
    with connect(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        current = _anchor(connection, path)
        if (current.head, current.count) != (generation.parent, generation.seq):
            connection.execute("ROLLBACK")
            raise StoreDamaged(f"{path}: the head moved while the writer's lock was held")
        _insert(connection, [row_of(generation)])
        connection.execute(
            "UPDATE anchor SET head = ?, count = ?, manifest = ?",
            (generation.identity, generation.seq + 1, generation.encoded),
        )
        connection.execute("COMMIT")


def rewrite(path: Path, history: Iterable[LogRow], head: Generation) -> None:
    """Put another history in the place of this one, and mark that a purge is not finished."""
    with connect(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM generations")
        _insert(connection, history)
        connection.execute(
            "UPDATE anchor SET head = ?, count = ?, manifest = ?, purging = 1",
            (head.identity, head.seq + 1, head.encoded),
        )
        connection.execute("COMMIT")


def purge_finished(path: Path) -> None:
    """Drop every trace of deleted rows, and the mark."""
    with connect(path) as connection:
        connection.execute("VACUUM")
        connection.execute("UPDATE anchor SET purging = 0")


def integrity(path: Path) -> str:
    """Return what SQLite itself finds wrong, or an empty string."""
    with connect(path) as connection:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
    return "" if found == ["ok"] else "; ".join(found[:3])


@dataclass(frozen=True)
class Seal:
    """The digest of the index's bytes, and the head and the number of generations it belongs to."""

    sha256: str
    head: str
    count: int


def seal(layout: Layout) -> None:
    """Write down the digest of the index's bytes.

    SQLite's own check misses most flips, and no reader can see those in unused bytes. The digest names the
    head it belongs to: after a kill between the commit and this, it is known to be old, not wrong.
    """
    current = anchor(layout.index)
    made = Seal(durable.file_digest(layout.index), current.head, current.count)
    durable.replace_file(layout.index_sum, canonical(asdict(made)), layout.tmp)


def read_seal(layout: Layout) -> Seal | None:
    """Return what the last finished commit wrote down, or None when that is unreadable."""
    try:
        return Seal(**json.loads(layout.index_sum.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def check_seal(layout: Layout) -> str:
    """Return what is wrong with the index's bytes, or an empty string."""
    sealed = read_seal(layout)
    if sealed is None:
        return "index.sum is missing or unreadable"
    if durable.file_digest(layout.index) == sealed.sha256:
        return ""
    current = anchor(layout.index)
    if current.head == sealed.head:
        return "its bytes changed after the last commit"
    return "" if current.count > sealed.count else "it is older than history"
