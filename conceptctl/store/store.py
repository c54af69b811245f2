"""A store: read by anyone at any time, changed by one writer, one generation at a time."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import conceptctl
from conceptctl.errors import AlreadyExists, Busy, NotFound, StoreDamaged
from conceptctl.progress import Progress, ignore
from conceptctl.store import base, blobs, durable, folded, index, locks, purge
from conceptctl.store.index import LogRow
from conceptctl.store.layout import FORMAT_NUMBER, PRIVATE, Layout
from conceptctl.store.manifest import Action, BlobRef, Concept, Generation, decode, now
from conceptctl.store.tensorfile import Tensor


class Store:
    """One store on disk. It keeps nothing open between calls."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root.absolute())
        self.layout.check_format()

    @classmethod
    def create(cls, root: Path, source: base.Source, name: str, progress: Progress = ignore) -> "Store":
        """Make a store on a base. The format number is written last, so half a store is none.

        Args:
            root: A folder that is not there, is empty, or holds what an interrupted `create` left.
            source: The base, looked through.
            name: What to call the base.
            progress: Told how many bytes of it were copied.

        Raises:
            AlreadyExists: There is a store, or something else, in that folder.
            NoSpace: The base does not fit.
        """
        layout = Layout(root.absolute())
        check_vacant(layout)
        layout.root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        layout.root.chmod(PRIVATE)
        for folder in layout.folders:
            durable.make_folder(folder)
        with locks.writer(layout, verb="init"):
            check_vacant(layout)
            durable.empty_folder(layout.tmp)
            durable.empty_folder(layout.generations)
            for leftover in layout.root.glob("index.*"):
                durable.remove_file(leftover)
            durable.ensure_space(layout.root, base.size(source))
            first = Generation(
                seq=0,
                parent="",
                time=now(),
                program=conceptctl.__version__,
                purges=0,
                action=Action("init"),
                restores=0,
                base=base.ingest(layout, source, name, progress),
            )
            _write_manifest(layout, first)
            index.create(layout.index, [index.row_of(first)], first)
            index.seal(layout)
            durable.sync_folder(layout.root.parent)
            durable.replace_file(layout.format, b"%d\n" % FORMAT_NUMBER, layout.tmp)
        return cls(layout.root)

    def head(self) -> Generation:
        """Return the current generation.

        Raises:
            StoreDamaged: Neither the index nor the manifest has it as it was committed.
        """
        anchor = index.anchor(self.layout.index)
        try:
            return decode(anchor.manifest, anchor.head)
        except StoreDamaged:
            # It is kept twice for this.
            return self._manifest(anchor.count - 1, anchor.head)

    def log(self) -> list[LogRow]:
        """Return the history, oldest first."""
        return index.rows(self.layout.index)

    def generation(self, seq: int) -> Generation:
        """Return any generation.

        Raises:
            NotFound: History does not go there.
            StoreDamaged: Its manifest is not as it was committed.
        """
        history = self.log()
        if not 0 <= seq < len(history):
            raise NotFound(f"no generation {seq}", hint=f"conceptctl log: 0 to {len(history) - 1}")
        return self._manifest(seq, history[seq].id)

    def last_purge(self) -> int:
        """Return the generation of the last purge; 0 where there was none."""
        return max((row.seq for row in self.log() if row.verb == "purge"), default=0)

    def drawable(self, seq: int) -> Generation:
        """Return a generation whose weights can still be made.

        Raises:
            NotFound: History does not go there, or a compaction or a purge has taken away what it needs.
            StoreDamaged: Its manifest is not as it was committed.
        """
        found = self.generation(seq)
        floor, purged = self.head().floor, self.last_purge()
        if seq < max(floor, purged):
            what = "purge" if purged >= floor else "compaction"
            raise NotFound(
                f"generation {max(floor, purged)} is a {what}, and what was before it is gone for good",
                hint="conceptctl log",
            )
        return found

    def _manifest(self, seq: int, identity: str) -> Generation:
        try:
            return decode(self.layout.manifest(seq, identity).read_bytes(), identity)
        except FileNotFoundError:
            raise StoreDamaged(f"the manifest of generation {seq} is missing") from None

    def concept(self, name: str) -> Concept:
        """Return a concept of the head.

        Raises:
            NotFound: There is none of that name; names the nearest.
        """
        head = self.head()
        found = head.concept(name)
        if found is None:
            raise unknown_concept(name, head)
        return found

    def blob(self, concept: Concept, *, read: bool = False) -> Path:
        """Return where a concept's file is.

        Raises:
            StoreDamaged: It is missing or changed; names the concept.
        """
        return blobs.checked(self.layout, concept.blob, f"concept {concept.name}", read=read)

    @contextmanager
    def reading(self) -> Iterator[Generation]:
        """Hold the head's blobs in place; a writer may commit meanwhile."""
        with locks.blobs_stay(self.layout):
            yield self.head()

    @contextmanager
    def writing(self, verb: str, *, wait: bool = False) -> Iterator["Writer"]:
        """Hold the right to change the store, with what a killed writer left tidied away.

        Raises:
            Busy: Somebody else holds it.
            StoreDamaged: The store is not in a state to build on.
        """
        with locks.writer(self.layout, verb=verb, wait=wait):
            self.layout.check_format()
            if index.anchor(self.layout.index).purging:
                purge.finish(self.layout)
            durable.empty_folder(self.layout.tmp)
            writer = Writer(self)
            _tidy_manifests(self.layout, writer.head, self.log())
            yield writer


class Writer:
    """The right to change a store, and the head it starts from."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.layout = store.layout
        self.head = store.head()

    def add_tensors(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> BlobRef:
        """Write tensors as a blob that a later commit may name."""
        return blobs.add_tensors(self.layout, tensors, metadata)

    def add_file(self, path: Path) -> BlobRef:
        """Copy a safetensors file in as a blob that a later commit may name."""
        return blobs.add_file(self.layout, path)

    def say_format(self, generation: Generation) -> None:
        """Make sure that programs of an earlier format leave a generation alone that they would misread."""
        self.raise_format(generation.least_format)

    def raise_format(self, least: int) -> None:
        """Say that the store holds what programs of formats before this one do not know."""
        if self.layout.format_number() < least:
            durable.replace_file(self.layout.format, b"%d\n" % least, self.layout.tmp)

    def commit(self, generation: Generation) -> Generation:
        """Make a generation the head. When this returns, it is on the disk.

        Raises:
            StoreDamaged: A blob that drawing needs is not there.
        """
        # Attachments are no part of the model: one that is lost costs itself, and must not stop the rest.
        attached = {each.blob for each in generation.attachments}
        for ref, what in generation.blobs().items():
            if ref not in attached:
                blobs.checked(self.layout, ref, what)
        self.say_format(generation)
        folded.ensure(self.layout, generation)
        _write_manifest(self.layout, generation)
        index.append(self.layout.index, generation)
        index.seal(self.layout)
        superseded, history_needs = self.head.folded, self.head.consolidated
        self.head = generation
        if superseded and superseded not in (generation.folded, history_needs):
            # It can be made again; if somebody is reading it now, `gc` takes it later.
            with contextlib.suppress(Busy), locks.blobs_may_go(self.layout, patience=0):
                durable.remove_file(self.layout.blob(superseded.sha256))
        return generation


def unknown_concept(name: str, head: Generation) -> NotFound:
    """Return the error for a concept that is not there, with the nearest names."""
    import difflib

    noun = head.base.noun
    if not head.concepts:
        kind = "" if head.base.is_classifier else " --class WORD"
        return NotFound(
            f"no {noun} {name!r}: the store has none yet", hint=f"conceptctl learn DIR --token {name}{kind}"
        )
    near = difflib.get_close_matches(name, [concept.name for concept in head.concepts])
    return NotFound(
        f"no {noun} {name!r}",
        hint=f"did you mean {', '.join(near)}?" if near else "conceptctl list",
    )


def check_vacant(layout: Layout) -> None:
    """Make sure that a store can be made in a folder.

    Raises:
        AlreadyExists: There is a store, or something else.
        StoreDamaged: There is a store that lost its format number.
    """
    if not layout.root.exists():
        return
    if not layout.root.is_dir():
        raise AlreadyExists(f"{layout.root} is not a folder")
    if layout.format.exists():
        raise AlreadyExists(
            f"there is a store at {layout.root} already",
            hint="a store has one base; for another base make another store with --store DIR",
        )
    ours = {"blobs", "gens", "jobs", "tmp", "trash", "damaged", "locks", "index.db", "index.db-journal", "index.sum"}
    # Half a store may be made again, but a store that lost its format number holds concepts.
    with contextlib.suppress(NotFound):
        layout.check_format()
    if foreign := sorted(entry.name for entry in layout.root.iterdir() if entry.name not in ours):
        raise AlreadyExists(f"{layout.root} is not empty: it has {foreign[0]}")


def _write_manifest(layout: Layout, generation: Generation) -> None:
    target = layout.manifest(generation.seq, generation.identity)
    durable.replace_file(target, generation.encoded, layout.tmp, blobs.READ_ONLY)


def _tidy_manifests(layout: Layout, head: Generation, history: Iterable[LogRow]) -> None:
    """Take out the manifest of a generation that was never committed.

    Raises:
        StoreDamaged: History goes on beyond the head, as after putting back an old index.
    """
    known = {layout.manifest(row.seq, row.id).name for row in history}
    loose = [path for path in sorted(layout.generations.iterdir()) if path.name not in known]
    sealed = index.read_seal(layout)
    for path in loose:
        seq, _, identity = path.stem.partition("-")
        if int(seq) > head.seq + 1 or (sealed and identity == sealed.head):
            raise StoreDamaged(f"the index is older than history: gens/{path.name}", hint="conceptctl repair")
    for path in loose:
        durable.move(path, layout.trash / path.name)
