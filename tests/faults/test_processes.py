"""T6: many processes change one store at once, and others read it all the while."""

import contextlib
import itertools
import json
import multiprocessing
import random
import time
from unittest import mock

import pytest

from conceptctl.errors import AlreadyExists, Busy, ConceptctlError, NotFound
from conceptctl.store import locks
from conceptctl.store.store import Store, Writer
from conceptctl.store.verify import verify
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.undo import plan_undo, undo
from tests import synthetic


def mutate(root, worker, mutations, reports):
    """Change the store again and again; report what was acknowledged."""
    store = Store(root)
    rng = random.Random(worker)
    done, mine = [], []
    try:
        while len(done) < mutations:
            verb = rng.choice(("learn", "learn", "learn", "fold", "undo", "forget"))
            # Somebody else got in between, or took it away: that is an answer, and not a mutation.
            with contextlib.suppress(Busy, NotFound, AlreadyExists):
                if verb == "learn":
                    name = f"c{worker}-{len(mine)}"
                    mine.append(name)
                    head = synthetic.learn(store, name, seed=worker * 1000 + len(mine))
                elif verb == "fold":
                    result = fold(store, wait=True)
                    if not result.names:
                        continue
                    head = result.head
                elif verb == "undo":
                    head = undo(store, plan_undo(store), wait=True)
                else:
                    head = forget(store, plan_forget(store, rng.choice(mine or ["none"])), wait=True)
                done.append((head.seq, head.action.verb))
        reports.put((worker, done, ""))
    except BaseException as error:
        reports.put((worker, done, repr(error)))


def read(root, stop, reports):
    """Read until told to stop; report errors."""
    store = Store(root)
    looks = 0
    try:
        while not stop.is_set():
            with store.reading() as head:
                for concept in head.concepts:
                    store.blob(concept)
                assert store.log()[head.seq].id == head.identity
            looks += 1
            # Readers look often, and leave the processors to the writers in between.
            time.sleep(0.005)
        reports.put(("reader", looks, ""))
    except BaseException as error:
        reports.put(("reader", looks, repr(error)))


def run_together(store, processes, mutations, readers=2):
    """Return what was acknowledged, and every error."""
    spawn = multiprocessing.get_context("fork")
    reports, stop = spawn.Queue(), spawn.Event()
    root = store.layout.root
    workers = [spawn.Process(target=mutate, args=(root, n, mutations, reports)) for n in range(processes)]
    lookers = [spawn.Process(target=read, args=(root, stop, reports)) for _ in range(readers)]
    for each in (*workers, *lookers):
        each.start()
    found = [reports.get(timeout=3000) for _ in workers]
    stop.set()
    found += [reports.get(timeout=60) for _ in lookers]
    for each in (*workers, *lookers):
        each.join()
    acknowledged = [item for who, done, _ in found if who != "reader" for item in done]
    return acknowledged, [problem for _, _, problem in found if problem]


def check_serial(store, acknowledged):
    """Make sure that history is one order in which every acknowledged change happened, each on the one before."""
    history = [store.generation(row.seq) for row in store.log()]
    assert sorted(acknowledged) == [(past.seq, past.action.verb) for past in history[1:]]
    for before, after in itertools.pairwise(history):
        names = [concept.name for concept in before.concepts]
        then = [concept.name for concept in after.concepts]
        if after.action.verb == "learn":
            assert then == [*names, *after.action.names]
        elif after.action.verb == "forget":
            assert then == [name for name in names if name not in after.action.names]
            assert all(concept.folded and concept.consolidated for concept in after.concepts)
            assert after.folded == after.consolidated
        elif after.action.verb == "fold":
            assert then == names
            assert all(concept.folded for concept in after.concepts)
            assert after.consolidated == before.consolidated
        else:
            goal = history[after.restores]
            assert (after.concepts, after.folded, after.consolidated) == (
                goal.concepts,
                goal.folded,
                goal.consolidated,
            )
    assert verify(store.layout, read_data=True).problems == ()


def test_processes_take_turns(store):
    acknowledged, errors = run_together(store, processes=4, mutations=8)
    assert errors == []
    assert len(acknowledged) == 32
    check_serial(store, acknowledged)


def test_without_the_lock_they_do_not(store):
    """The mutant: everybody may write."""

    @contextlib.contextmanager
    def nobody_asks(layout, *, verb, wait=False):
        yield

    commit = Writer.commit

    def commit_late(writer, generation):
        # On a busy machine they could take turns by chance: so each one's head is old by the time it commits.
        time.sleep(0.05)
        return commit(writer, generation)

    with mock.patch.object(locks, "writer", nobody_asks), mock.patch.object(Writer, "commit", commit_late):
        acknowledged, errors = run_together(store, processes=4, mutations=8)
    with pytest.raises((AssertionError, ConceptctlError)):
        assert errors == []
        check_serial(store, acknowledged)


@pytest.mark.long
def test_sixteen_processes_with_fifty_mutations_each(store):
    started = time.monotonic()
    acknowledged, errors = run_together(store, processes=16, mutations=50)
    print(json.dumps({"T6": len(acknowledged), "errors": errors, "seconds": round(time.monotonic() - started)}))
    assert errors == []
    assert len(acknowledged) == 800
    check_serial(store, acknowledged)
