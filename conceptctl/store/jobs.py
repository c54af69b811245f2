"""Interrupted work that can go on: two slots, written in turn, of which the last whole one counts.

A slot is valid when its `state.json`, written last, has the digests of the files beside it. A kill while one slot
is written leaves the other.
"""

import hashlib
import json
import math
import secrets
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptctl.errors import ConceptctlError
from conceptctl.store import durable, tensorfile
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import canonical
from conceptctl.store.tensorfile import Tensor

SLOTS = ("a", "b")
TENSORS = "tensors.safetensors"


@dataclass(frozen=True)
class Slot:
    """What a job had reached.

    Attributes:
        step: How far it was; less than 0 in what comes before the training.
        tensors: Weights, optimizer and random state.
        state: Everything else.
    """

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


class Job:
    """One piece of work on one concept, found again by the settings it was started with."""

    def __init__(self, layout: Layout, folder: Path, settings: Mapping[str, Any], key: bytes) -> None:
        self.folder = folder
        self.settings = settings
        self._layout = layout
        self._key = key

    def digest(self, data: bytes) -> str:
        """Return a digest of a picture that means nothing outside this job.

        The key is random and goes away with the job, so nobody can look up whether a known picture was used.
        """
        return hashlib.blake2b(data, key=self._key, digest_size=32).hexdigest()

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write the slot that does not hold the last state. When this returns, it is on the disk."""
        steps = {name: self._step(name) for name in SLOTS}
        slot = self.folder / min(SLOTS, key=lambda name: steps[name])
        # A state file that outlives its tensors does no harm: their digest is in it.
        durable.remove_file(slot / "state.json")
        durable.remove_file(slot / TENSORS)
        pieces = tensorfile.encode(tensors, {})
        durable.ensure_space(slot, sum(memoryview(piece).nbytes for piece in pieces))
        sha256, size = durable.write_file(slot / TENSORS, pieces)
        summary = canonical({"step": step, "sha256": sha256, "size": size, "state": dict(state)})
        durable.replace_file(slot / "state.json", summary, slot)

    def load(self) -> Slot | None:
        """Return the last state that was written whole, or None."""
        slots = [slot for name in SLOTS if (slot := self._read(name)) is not None]
        return max(slots, key=lambda slot: slot.step, default=None)

    def _step(self, name: str) -> float:
        slot = self._read(name)
        return -math.inf if slot is None else slot.step

    def _read(self, name: str) -> Slot | None:
        slot = self.folder / name
        try:
            summary = json.loads((slot / "state.json").read_bytes())
            if durable.file_digest(slot / TENSORS) != summary["sha256"]:
                return None
            tensors, _ = tensorfile.read_tensors(slot / TENSORS)
            return Slot(summary["step"], tensors, summary["state"])
        except (FileNotFoundError, ValueError, KeyError, TypeError, ConceptctlError):
            return None

    def finish(self) -> None:
        """Remove the job: its work is committed, or not wanted any more."""
        durable.remove_tree(self.folder)


def start(layout: Layout, settings: Mapping[str, Any]) -> Job:
    """Return the job with these settings: the interrupted one, or a new one.

    Args:
        layout: The store, whose writer the caller is.
        settings: Everything that makes it the same work; has a `name`, the concept's.
    """
    for job in found(layout):
        if job.settings == settings:
            return job
    return begin(layout, settings)


def begin(layout: Layout, settings: Mapping[str, Any]) -> Job:
    """Make a new job, whatever others there are; see `start`."""
    folder = layout.jobs / secrets.token_hex(8)
    durable.make_folder(folder)
    for name in SLOTS:
        durable.make_folder(folder / name)
    key = secrets.token_bytes(32)
    text = canonical({"settings": dict(settings), "key": key.hex()})
    durable.replace_file(folder / "job.json", text, layout.tmp)
    return Job(layout, folder, settings, key)


def found(layout: Layout) -> Iterator[Job]:
    """Return every job that can go on."""
    for folder in sorted(layout.jobs.iterdir()):
        try:
            entry = json.loads((folder / "job.json").read_bytes())
            yield Job(layout, folder, entry["settings"], bytes.fromhex(entry["key"]))
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            continue


def tells_of(job: Job, name: str, uids: Collection[str] = ()) -> bool:
    """Return whether a job is a concept's own, or learned on top of it."""
    return job.settings.get("name") == name or not set(uids).isdisjoint(job.settings.get("after", ()))


def remove_for(layout: Layout, name: str, uids: Collection[str] = ()) -> None:
    """Remove a concept's jobs, and those that nobody can read any more.

    Args:
        layout: The store.
        name: The concept's name.
        uids: Concepts that no job may have learned on top of; what such a job holds has their weights in it.
    """
    readable = {job.folder: job for job in found(layout)}
    for folder in sorted(layout.jobs.iterdir()):
        job = readable.get(folder)
        if job is None:
            durable.remove_tree(folder)
        elif tells_of(job, name, uids):
            job.finish()
