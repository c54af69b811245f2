"""What the fault tests run: every command that changes a store, from a known state to a known state.

A drill runs a command on a copy of a prepared store. Whatever happens to it on the way, the store must then be
sound and be in the state before or the state after, and running the command once more must end in the state after.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conceptctl.cli.app import run
from conceptctl.store import base, tensorfile
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import Concept
from conceptctl.store.store import Store
from conceptctl.store.verify import verify
from tests import synthetic

SECRET = "zyxsecret"
"""The name that a purge must remove; it is part of no other word."""


def cli(*arguments: str) -> int:
    """Run one command line in this process; what it prints goes nowhere."""
    with contextlib.redirect_stdout(io.StringIO()):
        return run([*arguments, "--json"])


@dataclass(frozen=True)
class Drill:
    """One command, and what it starts from."""

    name: str
    prepare: Callable[[Path], None]
    arguments: tuple[str, ...]
    trains: bool = False
    """Whether it makes a concept itself: under another uid each time, with the same numbers."""

    def command(self, work: Path) -> list[str]:
        return [*(part.format(work=work) for part in self.arguments), "--store", str(work / "store")]


def _files(work: Path) -> None:
    """Make what a user has: a base, and concept files."""
    folder = synthetic.write_base(work / "base")
    scratch = synthetic.make_store(work / "scratch", folder)
    for seed, name in enumerate(("alice", "bob", SECRET)):
        (work / f"{name}.safetensors").write_bytes(synthetic.concept_bytes(scratch, name, seed))
    shutil.rmtree(work / "scratch")


def _with_store(work: Path) -> None:
    _files(work)
    synthetic.make_store(work / "store", work / "base")


def _with_concepts(work: Path) -> None:
    _with_store(work)
    for name in ("alice", SECRET):
        assert cli("import", str(work / f"{name}.safetensors"), "--store", str(work / "store")) == 0


def _with_folded(work: Path) -> None:
    _with_concepts(work)
    assert cli("fold", "--store", str(work / "store")) == 0


def _with_loose_blob(work: Path) -> None:
    _with_folded(work)
    with Store(work / "store").writing("test") as writer:
        writer.add_file(work / "bob.safetensors")
    (work / "store/trash/earlier").write_bytes(b"x")


def _with_damage(work: Path) -> None:
    _with_folded(work)
    store = Store(work / "store")
    weights = store.head().folded
    assert weights is not None
    for path in (store.layout.blob(weights.sha256), store.layout.manifest(3, store.head().identity)):
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    store.layout.index_sum.unlink()


DRILLS = (
    Drill("init", _files, ("init", "--base", "{work}/base")),
    Drill("import", _with_concepts, ("import", "{work}/bob.safetensors")),
    Drill("fold", _with_concepts, ("fold",)),
    Drill("undo", _with_folded, ("undo", "--yes")),
    Drill("undo-rebuild", _with_folded, ("undo", "2", "--yes")),
    Drill("rename", _with_folded, ("rename", "alice", "ally")),
    Drill("forget", _with_concepts, ("forget", SECRET, "--yes")),
    Drill("forget-folded", _with_folded, ("forget", SECRET, "--yes")),
    Drill("purge", _with_folded, ("forget", SECRET, "--purge", "--yes")),
    Drill("gc", _with_loose_blob, ("gc", "--yes")),
    Drill("compact", _with_folded, ("compact", "--yes")),
    Drill("repair", _with_damage, ("repair", "--yes")),
)


def _with_a_past(work: Path) -> None:
    _with_folded(work)
    root = str(work / "store")
    assert cli("forget", SECRET, "--yes", "--store", root) == 0
    assert cli("undo", "--yes", "--store", root) == 0
    assert cli("import", str(work / "bob.safetensors"), "--store", root) == 0


def _with_photos(work: Path) -> None:
    """Make what somebody has who learns a second concept."""
    import torch

    from tests.pictures import write_pictures
    from tests.tiny_pipeline import write_tiny_pipeline

    # A copy of this process has none of its threads, and would wait for them; and sums depend on how many there are.
    torch.set_num_threads(1)
    write_tiny_pipeline(work / "base")
    write_pictures(work / "photos", count=3, side=256)
    synthetic.make_store(work / "store", work / "base")
    assert cli("learn", str(work / "photos"), "--token", "alice", *_SHORT, "--store", str(work / "store")) == 0


_SHORT = ("--steps", "2", "--batch-size", "1", "--rank", "2", "--device", "cpu")


MORE_DRILLS = (
    Drill("learn", _with_photos, ("learn", "{work}/photos", "--token", "bob", *_SHORT), trains=True),
    Drill("import-as", _with_concepts, ("import", "{work}/bob.safetensors", "--as", "robert")),
    Drill("fold-again", _with_a_past, ("fold",)),
    Drill("undo-to", _with_a_past, ("undo", "--to", "4", "--yes")),
    Drill("forget-last", _with_a_past, ("forget", "bob", "--yes")),
    Drill("purge-past", _with_a_past, ("forget", SECRET, "--purge", "--yes")),
    Drill("purge-unfolded", _with_concepts, ("forget", SECRET, "--purge", "--yes")),
)
"""For the long forms."""


def fingerprint(root: Path, *, numbers_only: bool = False) -> str:
    """Return what a store holds, without times and ids; "none" when there is no store.

    Args:
        root: The store.
        numbers_only: Of concepts, their numbers count, and not the uid and the times that are kept with them.
    """
    if not (root / "FORMAT").exists():
        return "none"
    store = Store(root)
    head = store.head()

    def identity(concept: Concept) -> tuple[str, ...]:
        if not numbers_only:
            return concept.uid, concept.blob.sha256
        tensors, _ = tensorfile.read_tensors(store.blob(concept))
        numbers = [(name, each.dtype, each.shape, bytes(each.data).hex()) for name, each in sorted(tensors.items())]
        return (hashlib.sha256(repr(numbers).encode()).hexdigest(),)

    return json.dumps(
        {
            "concepts": [(each.name, *identity(each), each.folded, each.consolidated) for each in head.concepts],
            "folded": head.folded and head.folded.sha256,
            "consolidated": head.consolidated and head.consolidated.sha256,
            "history": [(row.seq, row.verb, row.subject, row.concepts) for row in store.log()],
        }
    )


class Field:
    """A prepared store that can be put back in a moment, and the two states it may be found in."""

    def __init__(self, drill: Drill, folder: Path) -> None:
        self.drill = drill
        self._template = folder / "template"
        self._template.mkdir()
        drill.prepare(self._template)
        self.work = folder / "work"
        self.before = self._found(self._template / "store")
        self.reset()
        assert self.run() == 0
        self.after = self._found(self.work / "store")
        self.check(acknowledged=True)
        self.reset()

    def _found(self, root: Path) -> str:
        return fingerprint(root, numbers_only=self.drill.trains)

    def reset(self) -> None:
        """Put everything back to the state before."""
        if self.work.exists():
            shutil.rmtree(self.work)
        shutil.copytree(self._template, self.work, symlinks=True)

    def run(self) -> int:
        """Run the command in this process."""
        return cli(*self.drill.command(self.work))

    def check(self, *, acknowledged: bool) -> str:
        """Look at the store after something happened, and return what state it was found in.

        Raises:
            AssertionError: Something was lost, changed, half-done or acknowledged and missing, or cannot be redone.
        """
        root = self.work / "store"
        # repair is run on a damaged store, so a store that is still damaged is the state before.
        if not (self.drill.name == "repair" and not acknowledged):
            _check_sound(root)
            found = self._found(root)
            assert found in (self.before, self.after), f"neither before nor after: {found}"
            if acknowledged:
                assert found == self.after, "acknowledged, and missing"
            if found == self.after and not (self.drill.name in ("gc", "repair") or found == self.before):
                self._check_purged(root)
                return "after"
        assert self.run() == 0, "running it again failed"
        _check_sound(root)
        assert self._found(root) == self.after, "running it again led elsewhere"
        self._check_purged(root)
        return "before"

    def _check_purged(self, root: Path) -> None:
        if not self.drill.name.startswith("purge"):
            return
        # A killed purge is finished by whoever writes next.
        with Store(root).writing("test"):
            pass
        files = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        held = {path.name for path, data in files.items() if SECRET.encode() in data or SECRET in path.name}
        assert not held, f"the name is still in {held}"
        secret = own_runs(self.work, SECRET)
        assert len(secret) > 64
        assert not [path for path, data in files.items() if not secret.isdisjoint(runs(data))]


def runs(data: bytes, length: int = 64) -> set[bytes]:
    """Return every run of that many bytes."""
    return {data[start : start + length] for start in range(len(data) - length + 1)}


def own_runs(work: Path, name: str) -> set[bytes]:
    """Return the runs of a concept's file that no other file of the drill has: its numbers, its uid, its name."""
    others = [path.read_bytes() for path in work.rglob("*.safetensors") if path.stem != name]
    return runs((work / f"{name}.safetensors").read_bytes()).difference(*map(runs, others))


def _check_sound(root: Path) -> None:
    if not (root / "FORMAT").exists():
        return
    report = verify(Layout(root), read_data=True)
    assert report.problems == (), report.problems
    store = Store(root)
    for row in store.log():
        store.generation(row.seq)
    base.tensors(store.layout, store.head().base, read=("unet",))


def quiet() -> None:
    """Send what a forked child prints nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    # Where pytest captures, this is another descriptor; what acknowledges must be seen on the first.
    sys.stdout = os.fdopen(1, "w", closefd=False)
