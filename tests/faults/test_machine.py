"""T5: any sequence of commands, kills, flips and a second process, against a model of a few lines."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from conceptctl.store import garbage
from conceptctl.store.store import Store
from conceptctl.store.verify import verify
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.undo import plan_undo, undo
from tests import synthetic
from tests.faults.syscalls import killed_at
from tests.faults.test_flips import flip

NAMES = ("ann", "bea", "cem", "dov")


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
        return [name for name, _ in self.history[-1]]

    def grew(self, state):
        self.history.append(tuple(state))

    @rule(name=st.sampled_from(NAMES))
    def learn(self, name):
        if name in self.now():
            return
        self.seed += 1
        synthetic.learn(self.store, name, self.seed)
        self.grew([*self.history[-1], (name, False)])

    @rule()
    def fold(self):
        if fold(self.store).names:
            self.grew([(name, True) for name in self.now()])

    @precondition(lambda self: self.history[-1])
    @rule(data=st.data())
    def forget(self, data):
        name = data.draw(st.sampled_from(self.now()))
        forget(self.store, plan_forget(self.store, name))
        self.grew([entry for entry in self.history[-1] if entry[0] != name])

    @precondition(lambda self: self.history[-1])
    @rule(data=st.data())
    def purge(self, data):
        name = data.draw(st.sampled_from(self.now()))
        forget(self.store, plan_forget(self.store, name, purge_it=True))
        self.history = [tuple(entry for entry in past if entry[0] != name) for past in self.history]
        self.grew(self.history[-1])
        self.floor = len(self.history) - 1
        for path in self.store.layout.root.rglob("*"):
            assert not (path.is_file() and f'"{name}"'.encode() in path.read_bytes())

    @rule(data=st.data())
    def undo(self, data):
        target = data.draw(st.integers(self.floor, len(self.history) - 1))
        undo(self.store, plan_undo(self.store, to=target))
        self.grew(self.history[target])

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
            self.grew([*self.history[-1], (name, False)])
        else:
            assert code != 0, "acknowledged, and missing"

    @rule(name=st.sampled_from(NAMES))
    def learn_in_another_process(self, name):
        if name in self.now():
            return
        self.seed += 1
        assert killed_at(0, lambda: synthetic.learn(self.store, name, self.seed).seq * 0) == 0
        self.grew([*self.history[-1], (name, False)])

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
        head = opened.head()
        assert tuple((concept.name, concept.folded) for concept in head.concepts) == self.history[-1]
        assert len(opened.log()) == len(self.history)
        for seq in range(self.floor, len(self.history)):
            past = opened.generation(seq)
            assert tuple((concept.name, concept.folded) for concept in past.concepts) == self.history[seq]


SHM = "/dev/shm" if Path("/dev/shm").is_dir() else None
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}

TestMachine = StoreMachine.TestCase
TestMachine.settings = settings(max_examples=8, stateful_step_count=12, derandomize=True, **QUIET)


class TestLongMachine(StoreMachine.TestCase):
    settings = settings(max_examples=150, stateful_step_count=30, **QUIET)


TestLongMachine = pytest.mark.long(TestLongMachine)
