"""Methods that merge, in a store: what the weights have after learning, folding, forgetting and undoing."""

import json

import numpy as np
import pytest

from conceptctl import presets
from conceptctl.cli.app import run
from conceptctl.config import TrainConfig
from conceptctl.errors import UsageError
from conceptctl.store import base, folded, weights
from conceptctl.store.concept import read_record
from conceptctl.store.verify import verify
from conceptctl.workflows.fold import fold
from conceptctl.workflows.learn.request import Request
from conceptctl.workflows.learn.run import learn
from tests import synthetic
from tests.pictures import write_pictures
from tests.small_presets import shipped_but

SMALL = shipped_but("sd", steps=2, smallest_side=0, auxiliary=3, reference_samples=0)


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch):
    monkeypatch.setattr(presets, "shipped", SMALL)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def teach(base_folder, photos, tmp_path):
    store = synthetic.make_store(tmp_path / "store", base_folder)

    def one(name, method):
        train = TrainConfig(method=method, steps=4, batch_size=2, learning_rate=1e-2, rank=4)
        request = Request(photos, name, "cat", train, reference_samples=0, mixed_precision="no")
        learn(store, request, device="cpu")
        return store.concept(name).uid

    return store, one


def change(store):
    """What a store's weights have over the base, by path."""
    sums, _ = folded.read(store.layout, store.head())
    found = base.tensors(store.layout, store.head().base)
    return {path: sums[path] - weights.read_floats(*found[path][:2]) for path in sums}


def adapters(store, *names):
    """The product of each concept's kept factors, by path."""
    found = []
    for name in names:
        state = weights.read_state(store.blob(store.concept(name)))
        paths = [kept.partition("/")[2] for kept in state if kept.startswith("merged_up/")]
        found.append({path: state[f"merged_up/{path}"] @ state[f"merged_down/{path}"] for path in paths})
    return found


def answer(capsys, store, *arguments, code=0):
    capsys.readouterr()
    assert run([*arguments, "--json", "--store", str(store.layout.root)]) == code
    return json.loads(capsys.readouterr().out)


def assert_mean(store, *names):
    kept = adapters(store, *names)
    for path, found in change(store).items():
        wanted = np.mean([each[path] for each in kept], axis=0)
        assert wanted.any()
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_weights_are_the_merge_of_all_whatever_comes_and_goes(teach, capsys):
    store, one = teach
    alice = one("alice", "lora-merge")
    one("bob", "lora-merge")
    assert read_record(store.blob(store.concept("bob"))).contains == (alice,)
    assert_mean(store, "alice", "bob")
    before = change(store)
    fold(store)
    assert all(np.array_equal(before[path], each) for path, each in change(store).items())

    error = answer(capsys, store, "forget", "alice", "--yes", code=2)["error"]
    assert error["hint"].endswith("conceptctl forget bob")
    answer(capsys, store, "forget", "bob", "--yes")
    # What alice draws stays; the weights were solved for, and the next merge is of all that are there all the same.
    assert store.concept("alice").consolidated
    one("carol", "lora-merge")
    assert_mean(store, "alice", "carol")
    # What was there before the forget is there again, and goes on.
    answer(capsys, store, "undo", "--yes")
    answer(capsys, store, "undo", "--yes")
    assert [each.name for each in store.head().concepts] == ["alice", "bob"]
    assert all(np.array_equal(before[path], each) for path, each in change(store).items())
    one("dora", "lora-merge")
    assert_mean(store, "alice", "bob", "dora")
    assert verify(store.layout, read_data=True).problems == ()


def test_beside_other_methods_each_keeps_its_own_part(teach, capsys):
    store, one = teach
    one("alice", "lora-merge")
    one("falls", "lora")
    (merged,) = adapters(store, "alice")
    other = {path: each - merged[path] for path, each in change(store).items()}
    assert any(each.any() for each in other.values())
    one("bob", "lora-merge")
    kept = adapters(store, "alice", "bob")
    for path, found in change(store).items():
        np.testing.assert_allclose(found, other[path] + (kept[0][path] + kept[1][path]) / 2, atol=1e-6)
    answer(capsys, store, "forget", "bob", "--yes")
    # Solved for together, there is no telling what is whose.
    before = store.head()
    with pytest.raises(UsageError, match="merged anew") as caught:
        one("carol", "lora-merge")
    assert "undo" in caught.value.hint
    assert store.head() == before


@pytest.mark.parametrize("method", ["cd-merged", "cd-ewc", "vera-ewc-dc", "dsc-ewc-dc"])
def test_a_second_concept_goes_on_from_what_the_first_one_left(teach, method):
    store, one = teach
    first = one("alice", method)
    one("bob", method)
    contains = read_record(store.blob(store.concept("bob"))).contains
    assert contains == (() if method == "cd-ewc" else (first,))
    kept = [weights.read_state(store.blob(each)) for each in store.head().concepts]
    assert kept[0].keys() == kept[1].keys()
    assert all(np.isfinite(each).all() for state in kept for each in state.values())
    assert any(each.any() for each in change(store).values())
    assert verify(store.layout, read_data=True).problems == ()
