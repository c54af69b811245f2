"""T5: any sequence of commands, kills, flips and a second process, against a model of a few lines."""

import dataclasses
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from conceptctl.errors import NotFound
from conceptctl.store import garbage
from conceptctl.store.store import Store
from conceptctl.store.verify import verify
from conceptctl.workflows.compact import compact, plan_compact
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.undo import plan_undo, undo
from tests import synthetic
from tests.faults.syscalls import killed_at
from tests.faults.test_flips import flip

NAMES = ("ann", "bea", "cem", "dov")


@dataclasses.dataclass(frozen=True)
class Held:
    """What the model knows of a concept in a generation."""

    name: str
    folded: bool = False
    consolidated: bool = False


def held(generation):
    return tuple(Held(each.name, each.folded, each.consolidated) for each in generation.concepts)


def without(past, name):
    """A past generation after a purge; consolidated weights that the purged one was in are gone."""
    left = tuple(entry for entry in past if entry.name != name)
    if any(entry.consolidated for entry in past if entry.name == name):
        left = tuple(dataclasses.replace(entry, consolidated=False) for entry in left)
    return left


class StoreMachine(RuleBasedStateMachine):
    """The model: what each generation holds, and which concepts were purged."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="conceptctl-test-", dir=SHM))
        self.seed = 0

    def teardown(self):
        shutil.rmtree(self.folder)

    @initialize()
    def make(self):
        self.store = synthetic.make_store(self.folder / "store", synthetic.write_base(self.folder / "base"))
        self.history = [()]
        self.floor = 0

    def now(self):
        return [entry.name for entry in self.history[-1]]

    def grew(self, state):
        self.history.append(tuple(state))

    def grew_into_one(self, names):
        """All deltas are one increment now."""
        self.grew([Held(name, True, True) for name in names])

    @rule(name=st.sampled_from(NAMES))
    def learn(self, name):
        if name in self.now():
            return
        self.seed += 1
        # Every other one is kept as factors.
        synthetic.learn(self.store, name, self.seed, rank=self.seed % 2)
        self.grew([*self.history[-1], Held(name)])

    @rule()
    def fold(self):
        if fold(self.store).names:
            self.grew([dataclasses.replace(entry, folded=True) for entry in self.history[-1]])

    @precondition(lambda self: self.history[-1])
    @rule(data=st.data())
    def forget(self, data):
        name = data.draw(st.sampled_from(self.now()))
        forget(self.store, plan_forget(self.store, name))
        self.grew_into_one([each for each in self.now() if each != name])

    @precondition(lambda self: self.history[-1])
    @rule(data=st.data())
    def purge(self, data):
        name = data.draw(st.sampled_from(self.now()))
        forget(self.store, plan_forget(self.store, name, purge_it=True))
        self.history = [without(past, name) for past in self.history]
        self.grew_into_one(self.now())
        self.floor = len(self.history) - 1
        for path in self.store.layout.root.rglob("*"):
            assert not (path.is_file() and f'"{name}"'.encode() in path.read_bytes())

    @rule(data=st.data())
    def undo(self, data):
        target = data.draw(st.integers(self.floor, len(self.history) - 1))
        undo(self.store, plan_undo(self.store, to=target))
        self.grew(self.history[target])

    @rule()
    def compact(self):
        try:
            plan = plan_compact(self.store)
        except NotFound:
            # Nothing is to be had from it: all deltas are gone already.
            assert all(entry.consolidated for entry in self.history[-1])
            return
        compact(self.store, plan)
        self.grew_into_one(self.now())
        self.floor = len(self.history) - 1

    @rule()
    def collect(self):
        with self.store.writing("gc"):
            garbage.collect(self.store.layout)

    @rule(name=st.sampled_from(NAMES), point=st.integers(1, 40))
    def learn_and_be_killed(self, name, point):
        if name in self.now():
            return
        self.seed += 1
        code = killed_at(point, lambda: synthetic.learn(self.store, name, self.seed).seq * 0)
        if name in [concept.name for concept in self.store.head().concepts]:
            self.grew([*self.history[-1], Held(name)])
        else:
            assert code != 0, "acknowledged, and missing"

    @rule(name=st.sampled_from(NAMES))
    def learn_in_another_process(self, name):
        if name in self.now():
            return
        self.seed += 1
        assert killed_at(0, lambda: synthetic.learn(self.store, name, self.seed).seq * 0) == 0
        self.grew([*self.history[-1], Held(name)])

    @rule(data=st.data())
    def flip(self, data):
        root = self.store.layout.root
        files = [*sorted(path for path in (root / "gens").iterdir()), root / "index.db"]
        path = data.draw(st.sampled_from(files))
        position = data.draw(st.integers(0, path.stat().st_size - 1))
        flip(path, position, 3)
        found = verify(self.store.layout, read_data=True).problems
        flip(path, position, 3)
        # A commit that was killed before its seal leaves the bytes that no row uses unguarded until the next one.
        assert found or path.name == "index.db"

    @invariant()
    def the_store_is_as_the_model_says(self):
        if not hasattr(self, "store"):
            return
        assert verify(self.store.layout, read_data=True).problems == ()
        opened = Store(self.store.layout.root)
        assert held(opened.head()) == self.history[-1]
        assert len(opened.log()) == len(self.history)
        for seq in range(self.floor, len(self.history)):
            past = opened.generation(seq)
            assert held(past) == self.history[seq]
            assert (past.consolidated is not None) == any(entry.consolidated for entry in self.history[seq])


SHM = "/dev/shm" if Path("/dev/shm").is_dir() else None
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}

TestMachine = StoreMachine.TestCase
TestMachine.settings = settings(max_examples=8, stateful_step_count=12, derandomize=True, **QUIET)


class TestLongMachine(StoreMachine.TestCase):
    settings = settings(max_examples=150, stateful_step_count=30, **QUIET)


TestLongMachine = pytest.mark.long(TestLongMachine)
