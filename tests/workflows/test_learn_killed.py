"""`learn` in a process of its own: killed, interrupted, and met by another one."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from conceptctl import presets
from conceptctl.cli.app import run
from conceptctl.learning import loop
from conceptctl.learning.run import Run
from conceptctl.store import durable, jobs, tensorfile
from conceptctl.store.concept import read_record
from conceptctl.store.store import Store
from conceptctl.store.verify import verify
from conceptctl.workflows.learn import training
from tests import synthetic
from tests.pictures import write_pictures
from tests.small_presets import shipped_but

# Loading torch takes longer than all that is learned here. One process loads it and trains nothing, so that its copies
# wait for no thread that only it has.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])
STEPS = 22
PATIENCE = 60
"""Seconds after which a process hangs."""
SMALL = shipped_but("sd", steps=2, smallest_side=0, auxiliary=3, reference_samples=0)
"""Little is drawn, and no feature extractor is looked for."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("photos"), count=3)


@pytest.fixture
def store(base_folder, tmp_path):
    return synthetic.make_store(tmp_path / "store", base_folder)


@pytest.fixture(scope="module")
def whole(base_folder, folder, tmp_path_factory):
    """What a run ends with that nothing happens to."""
    store = synthetic.make_store(tmp_path_factory.mktemp("whole") / "store", base_folder)
    assert end_of(*start(command(store, folder))) == (0, [*range(1, STEPS + 1)])
    return numbers_of(store)


def command(store, folder, name="alice", steps=STEPS):
    numbers = ["--steps", str(steps), "--batch-size", "2", "--rank", "4", "--device", "cpu", "--mixed-precision", "no"]
    return ["learn", str(folder), "--token", name, "--class", "cat", *numbers, "--store", str(store.layout.root)]


def start(arguments, *changes):
    """Run a command line in a process of its own that something is changed in, and that tells every step it took."""
    steps, telling = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=child, args=(arguments, telling, changes), daemon=True)
    process.start()
    telling.close()
    return process, steps


def child(arguments, telling, changes):
    # Sums depend on how many threads there are.
    torch.set_num_threads(1)
    presets.shipped = SMALL
    after_every_step(telling.send)
    for change in changes:
        change()
    sys.exit(run(arguments))


def after_every_step(act):
    plain = Run.update

    def update(self, losses):
        plain(self, losses)
        act(self.step)

    Run.update = update


def next_step(steps):
    assert steps.poll(PATIENCE), "it hangs"
    return steps.recv()


def end_of(process, steps):
    """Return what a process ended with, and the steps that it took."""
    taken = []
    with contextlib.suppress(EOFError):
        while True:
            taken.append(next_step(steps))
    process.join(PATIENCE)
    return process.exitcode, taken


def numbers_of(store):
    path = store.blob(store.concept("alice"))
    tensors, _ = tensorfile.read_tensors(path)
    numbers = {name: (each.dtype, each.shape, bytes(each.data)) for name, each in tensors.items()}
    return numbers, read_record(path).loss_curve


def last_slot(store):
    (job,) = jobs.found(store.layout)
    return job.load().step


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def save_after_every_step():
    training.Listener = partial(training.Listener, save_seconds=0)


def killed_before_the_slot_of(step):
    save_after_every_step()
    after_every_step(lambda reached: reached == step and kill())


def killed_in_the_slot_of(step):
    save_after_every_step()
    plain = jobs.Job.save

    def save(self, reached, tensors, state):
        if reached == step:
            # Its tensors are written, and what makes it a slot is not.
            durable.replace_file = lambda *_: kill()
        plain(self, reached, tensors, state)

    jobs.Job.save = save


def killed_after(step, seconds_a_step):
    """On a clock of its own, with slots as often as users get them."""
    begun = []
    plain = Run.gradients

    def gradients(self):
        # They are what a step takes its time for.
        begun.append(self.step)
        return plain(self)

    Run.gradients = gradients
    after_every_step(lambda reached: reached == step and kill())
    loop.time = SimpleNamespace(monotonic=lambda: len(begun) * seconds_a_step)


def test_a_run_that_is_killed_twenty_times_loses_a_step_each_time_and_ends_the_same(store, folder, whole):
    reached = 0
    for step in range(2, 21, 2):
        for killed in (killed_before_the_slot_of, killed_in_the_slot_of):
            code, taken = end_of(*start(command(store, folder), partial(killed, step)))
            assert (code, taken) == (-signal.SIGKILL, [*range(reached + 1, step + 1)])
            reached = last_slot(store)
            assert reached == step - 1
            assert store.head().seq == 0
    assert end_of(*start(command(store, folder))) == (0, [*range(reached + 1, STEPS + 1)])
    assert numbers_of(store) == whole
    assert list(store.layout.jobs.iterdir()) == []
    assert verify(store.layout, read_data=True).problems == ()


def test_a_kill_loses_at_most_the_minute_since_the_last_slot(store, folder, whole):
    # Slots after 75 and 150 seconds, and the kill after 200.
    code, taken = end_of(*start(command(store, folder), partial(killed_after, 8, 25.0)))
    assert (code, taken[-1]) == (-signal.SIGKILL, 8)
    assert last_slot(store) == 6
    assert end_of(*start(command(store, folder))) == (0, [*range(7, STEPS + 1)])
    assert numbers_of(store) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_within_five_seconds_and_leaves_a_slot(store, folder, number):
    process, steps = start(command(store, folder, steps=2000))
    while (reached := next_step(steps)) < 5:
        pass
    began = time.monotonic()
    os.kill(process.pid, number)
    code, taken = end_of(process, steps)
    assert time.monotonic() - began < 5
    assert code == 128 + number
    assert last_slot(store) == [reached, *taken][-1]
    assert store.head().seq == 0


def learns_until(gate):
    after_every_step(lambda reached: reached == 2 and gate.wait(PATIENCE))


def test_a_second_learn_is_refused_at_once_or_waits_for_the_first(store, folder, capsys, monkeypatch):
    monkeypatch.setattr(presets, "shipped", SMALL)
    gate = PROCESSES.Event()
    before = datetime.now(UTC).replace(microsecond=0)
    process, steps = start(command(store, folder), partial(learns_until, gate))
    assert next_step(steps) == 1
    second = [*command(store, folder, "bob", steps=1), "--json"]

    began = time.monotonic()
    assert run(second) == 6
    assert time.monotonic() - began < 1
    message = json.loads(capsys.readouterr().out)["error"]["message"]
    found = re.fullmatch(r"the store is being changed by `learn`, process (\d+), since (\S+)", message)
    assert int(found[1]) == process.pid
    assert before <= datetime.fromisoformat(found[2]) <= datetime.now(UTC)

    # Longer than one waits who was not told to.
    threading.Timer(1.5, gate.set).start()
    began = time.monotonic()
    assert run([*second, "--wait"]) == 0
    assert time.monotonic() - began > 1.5
    assert end_of(process, steps)[0] == 0
    assert [each.name for each in store.head().concepts] == ["alice", "bob"]
    assert Store(store.layout.root).head().seq == 2
