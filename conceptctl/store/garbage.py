"""What nothing names any more: taken out to `trash/` first, and removed from there by the next `gc`."""

from dataclasses import dataclass
from pathlib import Path

from conceptctl.errors import StoreDamaged
from conceptctl.store import blobs, durable, locks, manifest, purge
from conceptctl.store.layout import Layout


@dataclass(frozen=True)
class GarbagePlan:
    """What a `gc` would do.

    Attributes:
        to_trash: Blobs that no generation needs.
        to_remove: What an earlier `gc` put into the trash.
    """

    to_trash: tuple[Path, ...]
    to_remove: tuple[Path, ...]

    @property
    def trashed_bytes(self) -> int:
        """Bytes that go to the trash."""
        return sum(path.stat().st_size for path in self.to_trash)

    @property
    def freed_bytes(self) -> int:
        """Bytes that the disk gets back."""
        return sum(path.stat().st_size for path in self.to_remove if path.is_file())


def plan(layout: Layout) -> GarbagePlan:
    """Return what is not needed.

    Raises:
        StoreDamaged: A manifest is unreadable, or a blob that one names is missing: what is needed is not known
            then, and a listing that failed must not look like an empty one.
    """
    generations = purge.history(layout)
    needed = {ref: what for past in manifest.kept(generations) for ref, what in past.blobs().items()}
    for ref, what in needed.items():
        if found := blobs.problem(layout, ref):
            raise StoreDamaged(f"{what}: blob {ref.sha256[:12]}: {found}; nothing was taken out")
    kept = {ref.sha256 for ref in needed}
    if generations[-1].folded:
        kept.add(generations[-1].folded.sha256)
    loose = tuple(sorted(path for path in layout.blobs.glob("*/*") if path.name not in kept))
    return GarbagePlan(loose, tuple(sorted(layout.trash.iterdir())))


def collect(layout: Layout) -> GarbagePlan:
    """Do what the plan says; the caller is the writer.

    Raises:
        Busy: Somebody is reading blobs.
        StoreDamaged: What is needed is not known.
    """
    with locks.blobs_may_go(layout):
        decided = plan(layout)
        durable.empty_folder(layout.trash)
        for path in decided.to_trash:
            durable.move(path, layout.trash / path.name)
    return decided
