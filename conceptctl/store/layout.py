"""Where everything in a store lives, and what makes a folder a store."""

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from conceptctl.config import at_home
from conceptctl.errors import NotFound, StoreDamaged, StoreTooNew

FORMAT_NUMBER = 5
"""The format of stores that this program makes."""
READABLE = (1, 2, 3, 4, FORMAT_NUMBER)
"""Formats that it works on. In 1 a manifest does not say what family its base is of; in 2 nothing is consolidated; in 3
no delta is kept as its factors; in 4 every base draws."""

PRIVATE = 0o700
"""What a store knows about people's pictures is nobody else's business."""


@dataclass(frozen=True)
class Layout:
    """The paths of one store."""

    root: Path

    @property
    def format(self) -> Path:
        """The format number; written last when a store is made, so it says that there is one."""
        return self.root / "FORMAT"

    @property
    def index(self) -> Path:
        """The database that says which generation is the head."""
        return self.root / "index.db"

    @property
    def index_sum(self) -> Path:
        """The digest of the index's bytes after the last commit."""
        return self.root / "index.sum"

    @cached_property
    def blobs(self) -> Path:
        """Immutable files named by their digest."""
        return self.root / "blobs" / "sha256"

    @property
    def generations(self) -> Path:
        """One manifest a generation."""
        return self.root / "gens"

    @property
    def jobs(self) -> Path:
        """Interrupted work that can go on."""
        return self.root / "jobs"

    @property
    def tmp(self) -> Path:
        """Files being written; whatever a killed process left is removed by the next writer."""
        return self.root / "tmp"

    @property
    def trash(self) -> Path:
        """What `gc` took out, until the next `gc`."""
        return self.root / "trash"

    @property
    def damaged(self) -> Path:
        """What `repair` took out, for as long as the user wants."""
        return self.root / "damaged"

    @property
    def locks(self) -> Path:
        """The files that locks are taken on."""
        return self.root / "locks"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder of a store, parents first."""
        return (
            self.root / "blobs",
            self.blobs,
            self.generations,
            self.jobs,
            self.tmp,
            self.trash,
            self.damaged,
            self.locks,
        )

    def blob(self, sha256: str) -> Path:
        """Return where the blob of that digest lives."""
        return self.blobs.joinpath(sha256[:2], sha256)

    def manifest(self, seq: int, identity: str) -> Path:
        """Return where the manifest of a generation lives."""
        return self.generations / f"{seq:06d}-{identity}.json"

    def format_number(self) -> int:
        """Return the format that the store says it has; 0 where that is unreadable."""
        with suppress(OSError, ValueError):
            return int(self.format.read_bytes())
        return 0

    def check_format(self) -> None:
        """Make sure that this is a store, and one that this program can read.

        Raises:
            NotFound: There is no store here.
            StoreTooNew: A newer program wrote it.
            StoreDamaged: The format number is unreadable.
        """
        try:
            text = self.format.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            if self.generations.is_dir() and len(list(self.generations.iterdir())) > 1:
                # An interrupted `init` leaves one generation at most; this was a store in use.
                raise StoreDamaged(f"{self.format}: missing", hint="conceptctl repair") from None
            raise NotFound(f"no store at {self.root}", hint=_init_command(self.root)) from None
        if text in [b"%d\n" % number for number in READABLE]:
            return
        try:
            number = int(text.decode("ascii"))
        except ValueError:
            raise StoreDamaged(f"{self.format}: not a format number") from None
        if number > FORMAT_NUMBER:
            raise StoreTooNew(f"the store has format {number}, this program reads {FORMAT_NUMBER} and older")
        raise StoreDamaged(f"{self.format}: there is no format {number}")


def _init_command(root: Path) -> str:
    """Return the shortest command that makes a store there."""
    with suppress(NotFound):
        if default_root().absolute() == root == chosen_root(None).absolute():
            return "conceptctl init"
    import shlex

    return f"conceptctl init --store {shlex.quote(str(root))}"


def default_root() -> Path:
    """Return where the store is when nobody says otherwise.

    Raises:
        NotFound: Nobody says where home is.
    """
    import platformdirs

    return at_home(platformdirs.user_data_path, "--store DIR, or CONCEPTCTL_STORE")


def chosen_root(option: Path | None) -> Path:
    """Return the store that an option or `CONCEPTCTL_STORE` names, or the default one."""
    named = option or os.environ.get("CONCEPTCTL_STORE")
    return Path(named) if named else default_root()
