"""Undo, forget, fold and purge: what comes back, comes back to the bit."""

import numpy as np
import pytest

from conceptctl.errors import Busy, NotFound, StoreDamaged
from conceptctl.store import base, folded, jobs, purge, tensorfile, weights
from conceptctl.store.concept import read_record
from conceptctl.store.repair import repair
from conceptctl.store.tensorfile import Tensor
from conceptctl.store.verify import verify
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.rename import rename
from conceptctl.workflows.undo import plan_undo, undo
from tests import synthetic


def folded_bytes(store):
    head = store.head()
    return store.layout.blob(head.folded.sha256).read_bytes() if head.folded else None


def learn_all(store, *names):
    for seed, name in enumerate(names):
        synthetic.learn(store, name, seed)


def names(store):
    return [concept.name for concept in store.head().concepts]


def test_fold_adds_deltas_in_order(store):
    learn_all(store, "alice", "bob")
    head = fold(store).head
    tensors = base.tensors(store.layout, head.base)
    folded, _ = tensorfile.read_tensors(store.layout.blob(head.folded.sha256))
    for place in ("unet/mid_block.attn2.to_k.weight", "unet/mid_block.attn2.to_v.weight"):
        path, name, info = tensors[place]
        expected = weights.read_floats(path, name).copy()
        for seed in (0, 1):
            delta = synthetic.deltas(synthetic.TINY, seed, 0.3)[place]
            dense = np.zeros(info.shape, np.float32)
            dense[delta.mask] = delta.values
            expected = expected + dense
        assert bytes(folded[f"weights/{place}"].data) == expected.tobytes()
    wanted = {f"tokens/{each.uid}": weights.read_floats(store.blob(each), "token").tobytes() for each in head.concepts}
    assert {name: bytes(each.data) for name, each in folded.items() if name.startswith("tokens/")} == wanted


def test_folding_nothing_is_no_generation(store):
    assert fold(store).names == ()
    learn_all(store, "alice")
    assert fold(store).names == ("alice",)
    assert fold(store).names == ()
    assert store.head().seq == 2


def test_the_base_may_have_half_precision(tmp_path):
    folder = synthetic.write_base(tmp_path / "base")
    half = np.arange(24 * 6, dtype="<f2").reshape(24, 6) / 7
    wide = np.linspace(-2, 2, 20 * 6, dtype="<f4").reshape(20, 6)
    upper = (wide.view("<u4") >> 16).astype("<u2")
    pieces = tensorfile.encode(
        {
            "mid_block.attn2.to_k.weight": Tensor("F16", half.shape, half.tobytes()),
            "mid_block.attn2.to_v.weight": Tensor("BF16", upper.shape, upper.tobytes()),
        },
        {},
    )
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"".join(pieces))
    store = synthetic.make_store(tmp_path / "store", folder)
    learn_all(store, "alice")
    folded, _ = tensorfile.read_tensors(store.layout.blob(fold(store).head.folded.sha256))
    starts = {"to_k": half.astype(np.float32), "to_v": (upper.astype("<u4") << 16).view("<f4")}
    for which, expected in starts.items():
        delta = synthetic.deltas(synthetic.TINY, 0, 0.3)[f"unet/mid_block.attn2.{which}.weight"]
        expected[delta.mask] += delta.values
        assert bytes(folded[f"weights/unet/mid_block.attn2.{which}.weight"].data) == expected.tobytes()


def test_undo_brings_weights_back_to_the_bit(store):
    learn_all(store, "alice", "bob")
    fold(store)
    both = folded_bytes(store)
    forgotten = forget(store, plan_forget(store, "alice"))
    one = folded_bytes(store)
    assert one != both
    undo(store, plan_undo(store))
    assert folded_bytes(store) == both
    assert store.head().consolidated is None
    undo(store, plan_undo(store, to=4))
    assert folded_bytes(store) == one
    assert store.head().consolidated == forgotten.consolidated
    assert verify(store.layout, read_data=True).problems == ()


def stored(store):
    """The numbers of the head's stored weights, by name."""
    tensors, _ = tensorfile.read_tensors(store.layout.blob(store.head().folded.sha256))
    return {name: bytes(tensor.data) for name, tensor in tensors.items()}


def as_stored(sums, *blobs):
    """What stored weights hold: weights, and the token rows of concepts' files."""
    rows = {f"tokens/{read_record(path).uid}": weights.read_floats(path, "token").tobytes() for path in blobs}
    return {f"weights/{place}": weight.tobytes() for place, weight in sums.items()} | rows


@pytest.mark.parametrize("folded", [False, True])
def test_forgetting_puts_weights_in_the_place_of_the_others_deltas(folded, store):
    learn_all(store, "alice", "bob", "carol")
    if folded:
        fold(store)
    before = store.head()
    plan = plan_forget(store, "bob")
    head = forget(store, plan)
    assert [(each.name, each.folded, each.consolidated) for each in head.concepts] == [
        ("alice", True, True),
        ("carol", True, True),
    ]
    # Their files stay what they are: a forget can be undone, and what they were learned as can be exported.
    assert [each.blob for each in head.concepts] == [before.concepts[0].blob, before.concepts[2].blob]
    assert head.folded == head.consolidated
    assert stored(store) == as_stored(plan.solved.weights, *map(store.blob, head.concepts))
    assert fold(store).names == ()
    assert verify(store.layout, read_data=True).problems == ()


def test_what_is_learned_after_a_forget_is_added_to_what_it_left(store):
    learn_all(store, "alice", "bob", "carol")
    plan = plan_forget(store, "bob")
    left = forget(store, plan)
    synthetic.learn(store, "dora", 7)
    head = fold(store).head
    assert head.consolidated == left.consolidated != head.folded
    assert [each.consolidated for each in head.concepts] == [True, True, False]
    expected = {place: weight.copy() for place, weight in plan.solved.weights.items()}
    for place, delta in synthetic.deltas(synthetic.TINY, 7, 0.3).items():
        expected[place][delta.mask] += delta.values
    assert stored(store) == as_stored(expected, *map(store.blob, head.concepts))
    assert store.layout.blob(left.consolidated.sha256).exists()
    store.layout.blob(head.folded.sha256).unlink()
    folded.ensure(store.layout, head)
    assert stored(store) == as_stored(expected, *map(store.blob, head.concepts))


def test_forgetting_a_token_alone_changes_no_weights(store):
    learn_all(store, "alice")
    synthetic.learn(store, "bob", 1, shapes={})
    fold(store)
    both = store.head().concepts
    before = stored(store)
    plan = plan_forget(store, "bob")
    assert plan.solved is None
    head = forget(store, plan)
    assert head.concepts == both[:1]
    assert head.consolidated is None
    assert stored(store) == {name: data for name, data in before.items() if name != f"tokens/{both[1].uid}"}


def test_forgetting_the_last_one_leaves_the_base(store):
    learn_all(store, "alice", "bob")
    for name in ("alice", "bob"):
        head = forget(store, plan_forget(store, name))
    assert (head.concepts, head.folded, head.consolidated) == ((), None, None)
    assert verify(store.layout, read_data=True).problems == ()


def test_undo_counts_what_was_done_and_not_undos(store):
    learn_all(store, "alice", "bob", "carol")
    undo(store, plan_undo(store))
    assert names(store) == ["alice", "bob"]
    undo(store, plan_undo(store))
    assert names(store) == ["alice"]
    synthetic.learn(store, "dora", 7)
    undo(store, plan_undo(store, 2))
    assert names(store) == []
    undo(store, plan_undo(store, to=3))
    assert names(store) == ["alice", "bob", "carol"]
    assert len(store.log()) == 9


@pytest.mark.parametrize("asked", [{"steps": 3}, {"to": 3}, {"to": -1}])
def test_undo_to_where_history_does_not_go(store, asked):
    learn_all(store, "alice", "bob")
    with pytest.raises(NotFound):
        plan_undo(store, **asked)


def test_a_plan_is_for_the_store_it_was_made_on(store):
    learn_all(store, "alice", "bob")
    back, away = plan_undo(store), plan_forget(store, "alice")
    synthetic.learn(store, "carol", 5)
    with pytest.raises(Busy):
        undo(store, back)
    with pytest.raises(Busy):
        forget(store, away)
    assert names(store) == ["alice", "bob", "carol"]


def test_forget_names_the_nearest(store):
    learn_all(store, "alice")
    with pytest.raises(NotFound) as caught:
        plan_forget(store, "alise")
    assert "alice" in caught.value.hint


def traces(store, *patterns):
    return {
        path.relative_to(store.layout.root).as_posix()
        for path in store.layout.root.rglob("*")
        if any(pattern in (path.read_bytes() if path.is_file() else b"") + path.name.encode() for pattern in patterns)
    }


def numbers(store, ref):
    """What stands in a blob, without its metadata."""
    tensors, _ = tensorfile.read_tensors(store.layout.blob(ref.sha256))
    return {name: (each.dtype, each.shape, bytes(each.data)) for name, each in tensors.items()}


def test_a_purge_leaves_nothing(store, tmp_path):
    learn_all(store, "alice", "zyxsecret", "carol")
    fold(store)
    concept = store.concept("zyxsecret")
    values = synthetic.deltas(synthetic.TINY, 1, 0.3)["unet/mid_block.attn2.to_k.weight"].values.tobytes()
    uid, digest = concept.uid.encode(), concept.blob.sha256.encode()
    # Everywhere it could hide: a job, the trash, the quarantine, a temporary file, an export in progress.
    with store.writing("test"):
        jobs.start(store.layout, {"name": "zyxsecret"}).save(1, {"w": Tensor("U8", (64,), values[:64])}, {})
        jobs.start(store.layout, {"name": "dave", "after": [concept.uid]})
        other = jobs.start(store.layout, {"name": "carol", "after": [store.concept("alice").uid]})
    for folder in (store.layout.trash, store.layout.damaged):
        (folder / "copy").write_bytes(store.blob(concept).read_bytes())
    before = traces(store, b"zyxsecret", values[:64], values[-64:], uid, digest)
    assert len(before) >= 7

    plan = plan_forget(store, "zyxsecret", purge_it=True)
    assert plan.interrupted == 2
    forget(store, plan)

    assert traces(store, b"zyxsecret", values[:64], values[-64:], uid, digest) == set()
    assert [job.settings["name"] for job in jobs.found(store.layout)] == ["carol"]
    assert other.folder.exists()
    assert verify(store.layout, read_data=True).problems == ()
    assert [row.subject for row in store.log()] == [
        "",
        "alice",
        "purged-1",
        "carol",
        "alice purged-1 carol",
        "purged-1",
    ]
    fresh = synthetic.make_store(tmp_path / "other", tmp_path / "base")
    synthetic.learn(fresh, "alice", 0)
    synthetic.learn(fresh, "carol", 2)
    # The others' deltas added up are what stands for the solution here, so nothing else may be in it.
    head = store.head()
    assert head.folded == head.consolidated
    assert numbers(store, head.folded) == numbers(fresh, fold(fresh).head.folded)
    assert [past.consolidated for past in purge.history(store.layout)[:-1]] == [None] * 5


def test_what_was_forgotten_can_still_be_purged(store):
    learn_all(store, "alice", "zyxsecret")
    forget(store, plan_forget(store, "zyxsecret"))
    assert traces(store, b"zyxsecret")
    forget(store, plan_forget(store, "zyxsecret", purge_it=True))
    assert traces(store, b"zyxsecret") == set()
    with pytest.raises(NotFound):
        plan_forget(store, "zyxsecret", purge_it=True)


def test_what_was_only_half_learned_can_be_purged(store, tmp_path):
    learn_all(store, "alice")
    with store.writing("test"):
        jobs.start(store.layout, {"name": "zyxsecret"}).save(1, {"w": Tensor("U8", (3,), b"abc")}, {})
        jobs.start(store.layout, {"name": "carol"})
    # As a kill leaves it between the concept's file and its commit.
    with store.writing("test") as writer:
        (tmp_path / "zyxsecret").write_bytes(synthetic.concept_bytes(store, "zyxsecret", 3))
        writer.add_file(tmp_path / "zyxsecret")
    (store.layout.trash / "manifest").write_text('{"names":["zyxsecret"]}')
    assert len(traces(store, b"zyxsecret")) == 3
    with pytest.raises(NotFound) as caught:
        plan_forget(store, "zyxsecret")
    assert caught.value.hint == "conceptctl forget zyxsecret --purge"
    head = store.head()
    assert forget(store, plan_forget(store, "zyxsecret", purge_it=True)) == head
    assert store.head() == head
    assert traces(store, b"zyxsecret") == set()
    assert [job.settings["name"] for job in jobs.found(store.layout)] == ["carol"]


def test_every_concept_that_had_the_name_is_purged(store):
    learn_all(store, "zyxsecret")
    first = store.concept("zyxsecret")
    forget(store, plan_forget(store, "zyxsecret"))
    synthetic.learn(store, "zyxsecret", 9)
    forget(store, plan_forget(store, "zyxsecret", purge_it=True))
    assert not store.layout.blob(first.blob.sha256).exists()


def renamed(store, old, new):
    rename(store, old, new)
    return store.concept(new).uid


def test_a_purge_finds_every_name_that_a_concept_had(store):
    learn_all(store, "alice", "zyxsecret")
    uid = renamed(store, "zyxsecret", "zyxother")
    renamed(store, "zyxother", "zyxlast")
    with store.writing("test"):
        jobs.start(store.layout, {"name": "zyxsecret"})
        jobs.start(store.layout, {"name": "alice"})
    assert len(traces(store, b"zyx")) >= 5
    with pytest.raises(NotFound, match="'zyxsecret' is called 'zyxlast'") as caught:
        plan_forget(store, "zyxsecret", purge_it=True)
    assert caught.value.hint == "conceptctl forget zyxlast --purge"
    plan = plan_forget(store, "zyxlast", purge_it=True)
    assert plan.names == ("zyxlast", "zyxother", "zyxsecret")
    assert plan.interrupted == 1
    forget(store, plan)
    assert traces(store, b"zyx", uid.encode()) == set()
    assert [job.settings["name"] for job in jobs.found(store.layout)] == ["alice"]
    assert [row.subject for row in store.log()] == [
        "", "alice", "purged-1", "purged-1 purged-1", "purged-1 purged-1", "purged-1",
    ]  # fmt: skip
    assert verify(store.layout, read_data=True).problems == ()


def test_a_purge_leaves_another_concept_the_name_that_one_had(store):
    learn_all(store, "bob")
    renamed(store, "bob", "zyxsecret")
    synthetic.learn(store, "bob", 7)
    with store.writing("test"):
        jobs.start(store.layout, {"name": "bob"})
    fold(store)
    forget(store, plan_forget(store, "zyxsecret", purge_it=True))
    assert traces(store, b"zyxsecret") == set()
    assert names(store) == ["bob"]
    # The first bob is the one that is purged, the others are not.
    assert [row.subject for row in store.log()] == [
        "", "purged-1", "purged-1 purged-1", "bob", "purged-1 bob", "purged-1",
    ]  # fmt: skip
    assert len(list(jobs.found(store.layout))) == 1


def test_the_one_that_has_the_name_now_is_purged_and_not_the_one_that_had_it(store):
    learn_all(store, "bob")
    first = renamed(store, "bob", "rob")
    synthetic.learn(store, "bob", 7)
    forget(store, plan_forget(store, "bob", purge_it=True))
    assert [(each.name, each.uid) for each in store.head().concepts] == [("rob", first)]
    assert [row.subject for row in store.log()] == ["", "bob", "bob rob", "purged-1", "purged-1"]


def test_a_rename_that_was_undone_is_purged_too(store):
    learn_all(store, "alice")
    renamed(store, "alice", "zyxsecret")
    undo(store, plan_undo(store))
    forget(store, plan_forget(store, "alice", purge_it=True))
    assert traces(store, b"zyxsecret", b'"alice"') == set()


def test_nothing_goes_back_to_before_a_purge(store):
    learn_all(store, "alice", "bob")
    forget(store, plan_forget(store, "bob", purge_it=True))
    with pytest.raises(NotFound, match="purge"):
        plan_undo(store)
    with pytest.raises(NotFound, match="purge"):
        plan_undo(store, to=1)
    synthetic.learn(store, "carol", 5)
    undo(store, plan_undo(store))
    assert names(store) == ["alice"]


def test_a_purge_waits_for_nobody_who_reads(store):
    learn_all(store, "alice")
    plan = plan_forget(store, "alice", purge_it=True)
    with store.reading(), pytest.raises(Busy):
        forget(store, plan)
    # The purge has happened, and is finished by whoever writes next.
    with store.writing("test"):
        pass
    assert traces(store, b'"alice"') == set()


def test_a_damaged_concept_is_named_and_the_others_work(store):
    learn_all(store, "alice", "bob")
    path = store.blob(store.concept("alice"))
    path.chmod(0o600)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StoreDamaged, match="alice"):
        fold(store)
    store.blob(store.concept("bob"), read=True)
    synthetic.learn(store, "carol", 5)
    plan = plan_forget(store, "alice")
    # Nothing draws with it any more, so nothing is held to what it did.
    assert plan.solved is None
    forget(store, plan)
    assert fold(store).names == ("bob", "carol")


def test_a_damaged_concept_that_is_folded_is_forgotten_like_any_other(store):
    learn_all(store, "alice", "bob")
    fold(store)
    path = store.blob(store.concept("alice"))
    path.chmod(0o600)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    plan = plan_forget(store, "alice")
    head = forget(store, plan)
    assert [(each.name, each.consolidated) for each in head.concepts] == [("bob", True)]
    assert stored(store) == as_stored(plan.solved.weights, store.blob(head.concepts[0]))


def test_an_earlier_format_than_the_generations_need_is_found_and_mended(store):
    learn_all(store, "alice", "bob")
    forget(store, plan_forget(store, "alice"))
    store.layout.format.write_bytes(b"2\n")
    (problem,) = verify(store.layout).problems
    assert problem.where == "FORMAT"
    assert repair(store.layout) == ["write FORMAT again: generations need it"]
    assert store.layout.format.read_bytes() == b"3\n"
    assert verify(store.layout, read_data=True).problems == ()


def test_weights_that_history_needs_are_not_removed_with_folded_ones(store):
    """The same numbers, once consolidated and once folded, are two blobs."""
    learn_all(store, "alice", "bob")
    forget(store, plan_forget(store, "bob"))
    undo(store, plan_undo(store, to=1))
    fold(store)
    learn_all(store, "carol")
    fold(store)
    assert verify(store.layout, read_data=True).problems == ()


def test_what_was_before_a_purge_is_not_drawn_any_more(store):
    learn_all(store, "alice", "bob", "carol")
    forget(store, plan_forget(store, "alice", purge_it=True))
    with pytest.raises(NotFound, match="generation 4 is a purge"):
        store.drawable(3)
    assert store.drawable(4) == store.head()


def test_consolidated_weights_that_are_damaged_are_not_said_to_be_mended(store):
    learn_all(store, "alice", "bob")
    forget(store, plan_forget(store, "alice"))
    path = store.layout.blob(store.head().consolidated.sha256)
    path.chmod(0o600)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (problem,) = verify(store.layout, read_data=True).problems
    assert problem.what.startswith("consolidated weights: ")
    done = repair(store.layout)
    assert len(done) == 2 and "cannot be made again: conceptctl undo --to" in done[1]
    undo(store, plan_undo(store, to=2))
    assert sorted(concept.name for concept in store.head().concepts) == ["alice", "bob"]


def test_a_plan_names_the_files_that_an_undo_would_miss(store):
    learn_all(store, "alice", "bob")
    path = store.blob(store.concept("bob"))
    path.chmod(0o600)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert plan_forget(store, "bob").damaged == ("bob",)
