"""T3, short form: the power goes at any moment, and everything that was not synced is there or not."""

import contextlib
import dataclasses
import random
import shutil
from unittest import mock

import pytest

from conceptctl.store import durable, jobs, tensorfile
from conceptctl.store.concept import read_record
from conceptctl.store.layout import Layout
from conceptctl.store.store import Store
from conceptctl.store.tensorfile import Tensor
from tests.faults.drills import DRILLS, Field, cli
from tests.faults.powerloss import lay_out, recorded

COMMITTING = [drill for drill in DRILLS if drill.name in ("init", "import", "undo-rebuild", "purge", "gc")]


class Storm:
    """Cuts the power after every step of a run, and looks at what is left."""

    def __init__(self, folder, extra=1):
        self._folder = folder
        self._extra = extra
        self.trees = []
        self._seen = set()
        self._rng = random.Random(0)

    def strike(self, disk):
        for tree in disk.states(self._rng, self._extra):
            key = hash(frozenset(tree.items()))
            if key not in self._seen:
                self._seen.add(key)
                self.trees.append(tree)

    def look(self, check, *, first=False):
        """Check every state that was found; return how many are bad, or 1 at the first that is."""
        bad = 0
        for tree in self.trees:
            target = self._folder / "after-the-storm"
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(target)
            lay_out(tree, target)
            try:
                check(target)
            except Exception:
                bad += 1
                if first:
                    break
        return bad


def bad_states(field, folder, extra=1, first=False):
    """Run a drill in a storm; return how many states there were, and how many were bad."""
    field.reset()
    during, after = Storm(folder, extra), Storm(folder, extra)
    with recorded(field.work, during.strike) as disk:
        assert field.run() == 0
    after.strike(disk)
    work = field.work

    def check(target, acknowledged):
        field.work = target
        try:
            field.check(acknowledged=acknowledged)
        finally:
            field.work = work

    bad = after.look(lambda target: check(target, True), first=first)
    if not (bad and first):
        bad += during.look(lambda target: check(target, False), first=first)
    return len(during.trees) + len(after.trees), bad


@pytest.mark.parametrize("drill", COMMITTING, ids=lambda drill: drill.name)
def test_a_power_cut_anywhere_loses_nothing(drill, tmp_path):
    states, bad = bad_states(Field(drill, tmp_path), tmp_path)
    assert states > 12 or drill.name == "gc"
    assert bad == 0


def without_sync(where):
    """Take one fsync out of the program: that of files, or that of folders asked for by one function."""
    import sys

    real = durable.sync_folder

    def sync_folder(folder):
        # The call is the mutant's, so who asked for it is two frames up.
        if sys._getframe(1).f_code.co_name != where:
            real(folder)

    if where == "write_file":
        return mock.patch.object(durable, "sync_file", lambda descriptor: None)
    return mock.patch.object(durable, "sync_folder", sync_folder)


SYNCS = [
    ("write_file", "import"),
    ("write_file", "init"),
    ("move", "import"),
    ("move", "undo-rebuild"),
    ("make_folder", "init"),
    ("create", "init"),
    ("replace_history", "purge"),
    ("_remove_unnamed", "purge"),
]


@pytest.mark.parametrize(("where", "name"), SYNCS)
def test_every_fsync_that_is_taken_out_is_missed(where, name, tmp_path):
    field = Field(next(drill for drill in DRILLS if drill.name == name), tmp_path)
    with without_sync(where):
        _, bad = bad_states(field, tmp_path, first=True)
    assert bad > 0


def again_after_a_kill(tmp_path):
    """Kill an import between a blob's rename and its folder's sync, run it again, and cut the power at the end."""
    field = Field(next(drill for drill in DRILLS if drill.name == "import"), tmp_path)
    field.reset()
    storm = Storm(tmp_path, extra=4)
    killed = []
    real = durable.sync_folder

    class Killed(BaseException):
        pass

    def kill_once(folder):
        if not killed and folder.parent.name == "sha256" and any(folder.iterdir()):
            killed.append(folder)
            raise Killed
        real(folder)

    with recorded(field.work, lambda disk: None) as disk:
        with mock.patch.object(durable, "sync_folder", kill_once), contextlib.suppress(Killed):
            field.run()
        assert killed
        assert field.run() == 0
    storm.strike(disk)
    work = field.work

    def check(target):
        field.work = target
        try:
            field.check(acknowledged=True)
        finally:
            field.work = work

    return storm.look(check)


def test_a_blob_that_is_there_is_made_durable_too(tmp_path):
    assert again_after_a_kill(tmp_path) == 0


def test_that_fsync_is_missed_as_well(tmp_path):
    with without_sync("add"):
        assert again_after_a_kill(tmp_path) > 0


def exported(tmp_path):
    field = Field(next(drill for drill in DRILLS if drill.name == "import"), tmp_path)
    storm = Storm(tmp_path)
    target = field.work / "out.safetensors"
    with recorded(field.work, lambda disk: None) as disk:
        assert cli("export", "alice", "--raw", "-o", str(target), "--store", str(field.work / "store")) == 0
    storm.strike(disk)
    tensors, _ = tensorfile.read_tensors(field.work / "alice.safetensors")
    start = Store(field.work / "store").generation(0).start(())
    record = dataclasses.replace(read_record(field.work / "alice.safetensors"), stands_on=(), start=start)
    wanted = b"".join(tensorfile.encode(tensors, record.metadata()))
    assert target.read_bytes() == wanted

    def check(state):
        assert (state / "out.safetensors").read_bytes() == wanted

    return storm.look(check)


def test_an_exported_file_outlives_a_power_cut(tmp_path):
    assert exported(tmp_path) == 0


@pytest.mark.parametrize("where", ["write_new", "write_file"])
def test_without_its_fsyncs_it_does_not(where, tmp_path):
    with without_sync(where):
        assert exported(tmp_path) > 0


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def exported_folder(tmp_path):
    """Export a checkpoint and cut the power after every step: it is there and whole when the command has ended."""
    field = Field(next(drill for drill in DRILLS if drill.name == "import"), tmp_path)
    during, after = Storm(tmp_path), Storm(tmp_path)
    target = field.work / "model"
    arguments = ["export", "--to", "diffusers", "--at", "0", "-o", str(target), "--store", str(field.work / "store")]
    with recorded(field.work, during.strike) as disk:
        assert cli(*arguments) == 0
    after.strike(disk)
    wanted = tree(target)
    assert len(wanted) > 5

    def whole(state):
        assert tree(state / "model") == wanted

    def whole_or_absent(state):
        if (state / "model").exists():
            whole(state)

    return after.look(whole) + during.look(whole_or_absent)


def test_an_exported_folder_is_whole_or_absent(tmp_path):
    assert exported_folder(tmp_path) == 0


@pytest.mark.parametrize("where", ["_write", "write_file", "move"])
def test_without_its_fsyncs_a_folder_is_not(where, tmp_path):
    with without_sync(where):
        assert exported_folder(tmp_path) > 0


def saved_slots(tmp_path, store):
    """Save four times, cut the power after every step, and look for a state that is older than was promised."""
    folder = store.layout.root
    promised, bad, states = [-1], 0, 0
    storms = []

    def strike(disk):
        storm = Storm(tmp_path)
        storm.strike(disk)
        storms.append((promised[0], storm))

    with recorded(folder, strike):
        job = jobs.start(store.layout, {"name": "alice"})
        for step in range(4):
            job.save(step, {"w": Tensor("U8", (200,), bytes([step]) * 200)}, {"step": step})
            promised[0] = step
    for least, storm in storms:

        def check(target, least=least):
            found = list(jobs.found(Layout(target)))
            slot = found[0].load() if found else None
            reached = -1 if slot is None else slot.step
            assert reached >= least
            if slot is not None:
                assert bytes(slot.tensors["w"].data) == bytes([slot.step]) * 200

        bad += storm.look(check)
        states += len(storm.trees)
    assert states > 50
    return bad


def test_a_saved_slot_outlives_a_power_cut(tmp_path, store):
    assert saved_slots(tmp_path, store) == 0


@pytest.mark.parametrize("where", ["write_file", "move", "make_folder"])
def test_without_its_fsyncs_a_slot_does_not(where, tmp_path, store):
    with without_sync(where):
        assert saved_slots(tmp_path, store) > 0
