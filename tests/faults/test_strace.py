"""T1, T2 and T3, long forms: every system call that changes the disk, SQLite's among them. Needs strace."""

import collections
import shutil

import pytest

from tests.faults import tracing
from tests.faults.drills import DRILLS, MORE_DRILLS, Field
from tests.faults.powerloss import FOLDER, Disk
from tests.faults.test_powerloss import Storm
from tests.faults.tracing import is_change

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

ERRORS = {
    "openat": ("EMFILE", "ENOSPC", "EIO"),
    "write": ("ENOSPC", "EIO"),
    "pwrite64": ("ENOSPC", "EIO"),
    "fsync": ("EIO", "ENOSPC"),
    "fdatasync": ("EIO", "ENOSPC"),
    "rename": ("EIO", "ENOSPC"),
    "mkdir": ("ENOSPC", "EIO"),
    "unlink": ("EIO",),
    "ftruncate": ("EIO",),
    "link": ("EIO",),
    "rmdir": ("EIO",),
}


@pytest.fixture(params=(*DRILLS, *MORE_DRILLS), ids=lambda drill: drill.name)
def field(request, tmp_path):
    return Field(request.param, tmp_path)


def points(field, log):
    """Return every call of a run that changes the disk, or tells the user that something is done."""
    field.reset()
    calls = tracing.trace(field.drill.command(field.work), log, fork=field.drill.trains)
    return [call for call in calls if is_change(call, field.work)]


def run(field, call, injection):
    """Run the drill's command with something done to one of its calls."""
    options = ("-e", f"trace={call.name}", "-e", injection)
    return tracing.run(field.drill.command(field.work), *options, fork=field.drill.trains)


def test_t1_sigkill_at_every_call(field, tmp_path):
    found = points(field, tmp_path / "log")
    states = collections.Counter()
    for call in found:
        field.reset()
        kill = f"inject={call.name}:signal=KILL:when={call.number}"
        code = run(field, call, kill)
        assert code in (-9, 137), (call, code)
        states[field.check(acknowledged=False)] += 1
    print(f"T1 {field.drill.name}: {len(found)} points, 0 lost, found {dict(states)}")


def test_t2_an_error_at_every_call(field, tmp_path):
    found = [call for call in points(field, tmp_path / "log") if call.descriptor != 1]
    codes = collections.Counter()
    for call in found:
        for error in ERRORS[call.name]:
            field.reset()
            fail = f"inject={call.name}:error={error}:when={call.number}"
            code = run(field, call, fail)
            assert code in (0, 7, 9), (call.name, call.paths, error, code)
            field.check(acknowledged=code == 0)
            codes[code] += 1
    print(f"T2 {field.drill.name}: {sum(codes.values())} points, 0 lost, exit codes {dict(codes)}")


def storm(field, tmp_path, before="", extra=2, first=False):
    """Cut the power after every call; return how many states there were, and how many were bad."""
    field.reset()
    disk = Disk(field.work)
    calls = tracing.trace(field.drill.command(field.work), tmp_path / "log", before, fork=field.drill.trains)
    storms = {False: Storm(tmp_path, extra), True: Storm(tmp_path, extra)}
    for told in tracing.replay(calls, disk):
        storms[told].strike(disk)
    assert storms[True].trees, "nobody was told"
    # The model is worth something only as long as it ends where the real disk does.
    assert disk.seen() == {
        path.relative_to(field.work).as_posix(): FOLDER if path.is_dir() else path.read_bytes()
        for path in field.work.rglob("*")
    }
    work = field.work
    bad = 0
    for told in (True, False):

        def check(target, told=told):
            field.work = target
            try:
                field.check(acknowledged=told)
            finally:
                field.work = work

        if not (bad and first):
            bad += storms[told].look(check, first=first)
    return sum(len(each.trees) for each in storms.values()), bad


def test_t3_a_power_cut_after_every_call(field, tmp_path):
    states, bad = storm(field, tmp_path)
    print(f"T3 {field.drill.name}: {states} states, {bad} bad")
    assert bad == 0


OFF = "import conceptctl.store.{module} as m; m.{name} = lambda *_: None"
WEAKER = (
    "import conceptctl.store.index as m; m.SETTINGS = ('journal_mode=DELETE', 'synchronous={level}', *m.SETTINGS[2:])"
)
MUTANTS = {
    "no fsync of files": OFF.format(module="durable", name="sync_file"),
    "no fsync of folders": OFF.format(module="durable", name="sync_folder"),
    "synchronous=FULL": WEAKER.format(level="FULL"),
    "synchronous=NORMAL": WEAKER.format(level="NORMAL"),
    "synchronous=OFF": WEAKER.format(level="OFF"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_t3_every_fsync_that_is_taken_out_is_missed(mutant, tmp_path):
    field = Field(next(drill for drill in DRILLS if drill.name == "import"), tmp_path)
    states, bad = storm(field, tmp_path, MUTANTS[mutant], extra=4, first=True)
    print(f"T3 mutant {mutant}: caught" if bad else f"T3 mutant {mutant}: NOT caught in {states} states")
    assert bad > 0
