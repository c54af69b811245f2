"""What becomes of concepts when one leaves, travels or comes, on the bundled base and its text encoder."""

import json
import shutil

import numpy as np
import pytest
import torch

from conceptctl import pocket
from conceptctl.cli.app import run
from conceptctl.config import TrainConfig
from conceptctl.errors import NotFound, UsageError
from conceptctl.families.sd import FAMILY
from conceptctl.store import base, garbage, purge, tensorfile, weights
from conceptctl.store.concept import read_record
from conceptctl.store.layout import FORMAT_NUMBER
from conceptctl.store.store import Store
from conceptctl.store.verify import verify
from conceptctl.workflows.adding import add_concept
from conceptctl.workflows.compact import compact, plan_compact
from conceptctl.workflows.consolidation import Consolidation
from conceptctl.workflows.export import export_concepts, export_folder
from conceptctl.workflows.export_shared import export_shared
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.import_concept import import_concept
from conceptctl.workflows.learn.request import Request
from conceptctl.workflows.learn.run import learn as run_learn
from conceptctl.workflows.model import load, token_rows
from conceptctl.workflows.undo import plan_undo, undo
from tests import synthetic

NAMES, MORE = ("alice", "falls", "tom"), ("mia", "bob", "creek")
PROMPT = "a photo of a V*{}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of pictures for each name."""
    root = tmp_path_factory.mktemp("photos")
    concepts = pocket.sequence(len(NAMES) + 3, 3)
    list(pocket.write_folders(concepts, root))
    return {name: root / concept.name / "train" for name, concept in zip((*NAMES, *MORE), concepts, strict=True)}


def learn(store, photos, name):
    """Learn a concept for real, in few steps: its keys and values change, and so do those of the others.

    In fp32 and until two tokens of one class lie apart, so that every machine finds much the same.
    """
    request = Request(
        photos[name],
        name,
        "person",
        train=TrainConfig(method="stamina", steps=24, seed=2),
        settings={"batch_size": 2, "prompts": "plain"},
        auxiliary=0,
        reference_samples=0,
        mixed_precision="no",
    )
    return run_learn(store, request, device="cpu").generation


def add(store, blob):
    """Commit a concept's file as `learn` commits it."""
    with store.writing("learn") as writer:
        return add_concept(writer, "learn", read_record(blob), writer.add_file(blob))


def empty(root):
    return Store.create(root, base.inspect(pocket.base_folder(), FAMILY), "pocket")


@pytest.fixture(scope="module")
def three(tmp_path_factory, photos):
    store = empty(tmp_path_factory.mktemp("three") / "store")
    for name in NAMES:
        learn(store, photos, name)
    return store


@pytest.fixture(scope="module")
def others(tmp_path_factory, photos):
    """A store that has others."""
    store = empty(tmp_path_factory.mktemp("others") / "store")
    for name in ("bob", "creek"):
        learn(store, photos, name)
    return store


@pytest.fixture(scope="module")
def mia(three, tmp_path_factory, photos):
    """A concept's deltas, as a file: what is learned later."""
    copy = Store(shutil.copytree(three.layout.root, tmp_path_factory.mktemp("mia") / "store"))
    learn(copy, photos, "mia")
    return copy.blob(copy.concept("mia"))


@pytest.fixture
def store(three, tmp_path):
    return Store(shutil.copytree(three.layout.root, tmp_path / "store"))


def outputs(store, prompt, *, generation=None, token=None):
    """Keys and values of a prompt, all in one row.

    Args:
        store: The store.
        prompt: The prompt.
        generation: The head where it is left out.
        token: The name and the row of one that the model does not have any more; only what is behind it counts then.
    """
    backbone = load(store, generation or store.head(), "cpu")
    states, behind = backbone.hidden_states([prompt])
    if token:
        name, row = token
        known = backbone.tokenizer().convert_tokens_to_ids(f"v*{name}")
        ids = [
            known
            if name in [each.name for each in (generation or store.head()).concepts]
            else backbone.add_token(name, token_rows(backbone, row))
        ]
        states, behind = backbone.hidden_states([prompt], ids)
        states = states[behind]
    with torch.no_grad():
        return torch.cat([module(states).flatten() for module in backbone.targets().values()])


def change(before, after):
    return float((after - before).norm() / before.norm())


def usual(store, names):
    return {name: outputs(store, PROMPT.format(name)) for name in names}


@pytest.mark.parametrize("gone", NAMES)
def test_forgetting_one_keeps_the_others_keys_and_values(store, gone):
    before = usual(store, NAMES)
    row = weights.read_floats(store.blob(store.concept(gone)), "token")
    with_it = outputs(store, PROMPT.format(gone), token=(gone, row))
    of_base = outputs(store, PROMPT.format(gone), generation=store.generation(0), token=(gone, row))
    plan = plan_forget(store, gone)
    forget(store, plan)
    left = [name for name in NAMES if name != gone]
    assert [concept.name for concept in store.head().concepts] == left
    promised = {each.name: each.changed for each in plan.solved.kept}
    for name in left:
        found = change(before[name], outputs(store, PROMPT.format(name)))
        assert found < 0.03
        assert found < 4 * promised[name] + 1e-3
    by_old_token = outputs(store, PROMPT.format(gone), token=(gone, row))
    assert change(of_base, by_old_token) < 0.3 * change(of_base, with_it)


def test_a_plan_changes_nothing_and_says_what_it_costs(store, capsys):
    assert run(["forget", "falls", "--dry-run", "--store", str(store.layout.root)]) == 0
    said = capsys.readouterr().err
    assert "the others keep what they draw" in said
    assert "alice: " in said and "tom: " in said and " %" in said
    assert run(["forget", "falls", "--dry-run", "--json", "--store", str(store.layout.root)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["kept"]) == {"alice", "tom"} and max(found["kept"].values()) < 0.03
    assert not found["done"] and store.head().seq == len(NAMES)


def test_forgetting_is_one_generation_that_can_be_undone(store, mia):
    before = usual(store, NAMES)
    made = forget(store, plan_forget(store, "alice"))
    assert made.seq == len(NAMES) + 1
    assert made.consolidated == made.folded and all(each.consolidated for each in made.concepts)
    assert store.layout.format.read_bytes() == b"%d\n" % FORMAT_NUMBER
    assert not fold(store).names
    add(store, mia)
    fold(store)
    with store.writing("gc"):
        garbage.collect(store.layout)
    assert verify(store.layout, read_data=True).problems == ()
    undo(store, plan_undo(store, to=len(NAMES)))
    assert store.head().consolidated is None
    for name, was in before.items():
        assert torch.equal(outputs(store, PROMPT.format(name)), was)
    assert verify(store.layout, read_data=True).problems == ()


def test_what_is_learned_after_a_forget_is_added_to_what_it_left(store, mia):
    forget(store, plan_forget(store, "alice"))
    with_two = outputs(store, "a photo of a cat")
    add(store, mia)
    unfolded = outputs(store, "a photo of a cat")
    fold(store)
    assert torch.equal(outputs(store, "a photo of a cat"), unfolded)
    before = usual(store, ("falls", "tom", "mia"))
    forget(store, plan_forget(store, "falls"))
    assert change(before["tom"], outputs(store, PROMPT.format("tom"))) < 0.03
    assert change(before["mia"], outputs(store, PROMPT.format("mia"))) < 0.03
    assert not torch.equal(with_two, unfolded)


def test_forgetting_all_leaves_the_base(store):
    untouched = outputs(store, "a photo of a cat", generation=store.generation(0))
    for name in NAMES:
        forget(store, plan_forget(store, name))
    head = store.head()
    assert (head.concepts, head.consolidated, head.folded) == ((), None, None)
    assert torch.equal(outputs(store, "a photo of a cat"), untouched)


def test_a_purge_leaves_no_byte_of_its_file_and_keeps_the_others(store):
    before = usual(store, NAMES)
    forget(store, plan_forget(store, "tom"))
    gone = store.concept("alice")
    own = store.blob(gone).read_bytes()
    # Behind the header, which names what all concepts' files have.
    begin = 8 + int.from_bytes(own[:8], "little")
    plan = plan_forget(store, "alice", purge_it=True)
    forget(store, plan)
    for path in store.layout.root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b'"alice"' not in data and gone.uid.encode() not in data
            assert not any(own[start : start + 64] in data for start in range(begin, len(own) - 64, len(own) // 50))
    assert change(before["falls"], outputs(store, PROMPT.format("falls"))) < 0.05
    assert all(past.consolidated is None for past in purge.history(store.layout)[:-1])
    assert verify(store.layout, read_data=True).problems == ()


def test_a_token_alone_is_forgotten_without_a_change_of_weights(store):
    record = synthetic.record(store, "word", 7)
    with store.writing("learn") as writer:
        row = np.ones((1, 320), np.float32)
        add_concept(writer, "learn", record, writer.add_tensors(weights.concept_tensors({}, row), record.metadata()))
    before = usual(store, NAMES)
    fold(store)
    plan = plan_forget(store, "word")
    assert plan.solved is None and plan.rebuild
    forget(store, plan)
    assert store.head().consolidated is None
    for name, was in before.items():
        assert torch.equal(outputs(store, PROMPT.format(name)), was)


@pytest.mark.parametrize("name", NAMES)
def test_a_concept_that_travels_is_whole(store, tmp_path, name):
    before = outputs(store, PROMPT.format(name))
    (written,) = export_concepts(store, [name], tmp_path / "one.safetensors")
    assert written.stands_on == () and written.changed < 0.03
    assert read_record(tmp_path / "one.safetensors").stands_on == ()
    elsewhere = empty(tmp_path / "elsewhere")
    found = import_concept(elsewhere, tmp_path / "one.safetensors")
    assert (found.stands_on, found.bare, found.lacking) == ((), False, None)
    assert change(before, outputs(elsewhere, PROMPT.format(name))) < 0.03
    raw = empty(tmp_path / "raw")
    export_concepts(store, [name], tmp_path / "raw.safetensors", raw=True)
    import_concept(raw, tmp_path / "raw.safetensors")
    if name != "alice":
        assert change(before, outputs(raw, PROMPT.format(name))) > 0.1


@pytest.mark.parametrize("form", ["concept", "lora"])
def test_a_concept_that_comes_leaves_those_that_are_there_as_they_are(store, others, tmp_path, form):
    elsewhere = Store(shutil.copytree(others.layout.root, tmp_path / "elsewhere"))
    row = weights.read_floats(store.blob(store.concept("tom")), "token")
    there, ours = usual(elsewhere, ("bob", "creek")), outputs(store, PROMPT.format("tom"), token=("tom", row))
    if form == "concept":
        export_concepts(store, ["tom"], tmp_path / "tom.safetensors")
    else:
        export_shared(store, ["tom"], tmp_path / "tom.safetensors", form)
    found = import_concept(elsewhere, tmp_path / "tom.safetensors", "thomas")
    assert {each.name for each in found.kept} == {"bob", "creek"}
    assert found.lacking < 0.06 and max(each.changed for each in found.kept) < 0.03
    for name, was in there.items():
        assert change(was, outputs(elsewhere, PROMPT.format(name))) < 0.03
    assert change(ours, outputs(elsewhere, PROMPT.format("thomas"), token=("thomas", row))) < 0.06


def test_deltas_as_they_were_learned_make_the_same_store_again(store, tmp_path):
    written = export_concepts(store, [], tmp_path / "backup", raw=True)
    assert [each.stands_on for each in written] == [(), ("alice",), ("alice", "falls")]
    again = empty(tmp_path / "again")
    for each in written:
        assert import_concept(again, each.path).lacking is None
    assert [each.blob for each in again.head().concepts] == [each.blob for each in store.head().concepts]


def test_a_bare_delta_in_another_store_warns_of_what_it_lacks(store, tmp_path, capsys):
    export_concepts(store, ["tom"], tmp_path / "tom.safetensors", raw=True)
    elsewhere = empty(tmp_path / "elsewhere")
    root = str(elsewhere.layout.root)
    assert run(["import", str(tmp_path / "tom.safetensors"), "--json", "--store", root]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["missing"]) == 2 and "without --raw" in found["warnings"][0]
    # In the store that it comes from, what it lacks has a name, though it is forgotten.
    root = str(store.layout.root)
    forget(store, plan_forget(store, "tom"))
    forget(store, plan_forget(store, "alice"))
    assert run(["import", str(tmp_path / "tom.safetensors"), "--json", "--store", root]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["missing"], found["stands_on"], found["bare"]) == (["alice"], ["alice", "falls"], True)


def test_a_bare_delta_is_not_what_it_was_where_the_weights_changed(store, tmp_path):
    """All that it stands on is there, but a forget has given its own states the base's outputs."""
    export_concepts(store, ["tom"], tmp_path / "raw.safetensors", raw=True)
    export_concepts(store, ["tom"], tmp_path / "whole.safetensors")
    before = outputs(store, PROMPT.format("tom"))
    forget(store, plan_forget(store, "tom"))
    found = import_concept(store, tmp_path / "raw.safetensors")
    assert found.bare and found.missing == () and found.lacking is not None
    undo(store, plan_undo(store))
    assert not import_concept(store, tmp_path / "whole.safetensors").bare
    assert change(before, outputs(store, PROMPT.format("tom"))) < 0.06


def test_a_concept_beside_another_is_added_to_that_one(store, tmp_path):
    before = usual(store, ("falls", "tom"))
    export_concepts(store, ["falls"], tmp_path / "falls.safetensors")
    (written,) = export_concepts(store, ["tom"], tmp_path / "tom.safetensors", beside=["falls"])
    assert written.stands_on == ("falls",)
    elsewhere = empty(tmp_path / "elsewhere")
    import_concept(elsewhere, tmp_path / "falls.safetensors")
    found = import_concept(elsewhere, tmp_path / "tom.safetensors")
    assert found.missing == () and not found.bare and found.lacking < 0.06
    for name, was in before.items():
        assert change(was, outputs(elsewhere, PROMPT.format(name))) < 0.1
    with pytest.raises(UsageError, match="beside itself"):
        export_concepts(store, ["tom"], tmp_path / "x.safetensors", beside=["tom"])


def test_a_folder_of_some_draws_them_as_the_store_does(store, tmp_path):
    from conceptctl.families.sd import load as load_folder

    before = outputs(store, PROMPT.format("tom"))
    made = export_folder(store, ["tom"], tmp_path / "folder")
    assert made.changed["tom"] < 0.03
    backbone = load_folder(tmp_path / "folder", torch.device("cpu"))
    states, _ = backbone.hidden_states([PROMPT.format("tom")])
    with torch.no_grad():
        found = torch.cat([module(states).flatten() for module in backbone.targets().values()])
    assert change(before, found) < 0.03
    assert "made to draw what they draw" in (tmp_path / "folder/README.md").read_text(encoding="utf-8")


def test_compacting_draws_the_very_same_and_gives_up_the_past(store, mia, tmp_path):
    forget(store, plan_forget(store, "falls"))
    add(store, mia)
    left = usual(store, ("alice", "tom", "mia"))
    plan = plan_compact(store)
    assert plan.names == ("alice", "tom", "mia")
    made = compact(store, plan)
    assert made.floor == made.seq
    for name, was in left.items():
        assert torch.equal(outputs(store, PROMPT.format(name)), was)
    for concept in made.concepts:
        header = tensorfile.read_header(store.blob(concept))
        assert not weights.places(header) and "token" in header.tensors
        assert read_record(store.blob(concept)).uid == concept.uid
    assert garbage.plan(store.layout).trashed_bytes == plan.freed_bytes
    with store.writing("gc"):
        garbage.collect(store.layout)
    assert made.consolidated.size == pytest.approx(plan.added_bytes, rel=0.01)
    assert verify(store.layout, read_data=True).problems == ()
    with pytest.raises(NotFound, match="compaction"):
        plan_undo(store, to=2)
    with pytest.raises(UsageError, match="compaction"):
        export_concepts(store, ["mia"], tmp_path / "mia.safetensors", raw=True)
    with pytest.raises(NotFound, match="compaction"):
        export_folder(store, [], tmp_path / "folder", at=2)
    with pytest.raises(NotFound, match="nothing to compact"):
        plan_compact(store)
    forget(store, plan_forget(store, "mia"))
    assert change(left["tom"], outputs(store, PROMPT.format("tom"))) < 0.05
    undo(store, plan_undo(store))
    for name, was in left.items():
        assert torch.equal(outputs(store, PROMPT.format(name)), was)


def test_the_plan_measures_what_is_asked_of_every_prompt(store):
    """The share that is promised is that of all usual prompts, computed here one by one."""
    solver = Consolidation(store, store.head())
    gone = store.concept("falls")
    solved = solver.without({gone.uid})
    changed = asked = 0.0
    states, _ = solver.prompts.text.hidden_states([PROMPT.format("tom")])
    flat = states.reshape(-1, states.shape[-1]).double()
    for path, weight in solved.weights.items():
        before = flat @ torch.from_numpy(solver.current[path]).double().T
        after = flat @ torch.from_numpy(weight).double().T
        changed += float((after - before).square().sum())
        asked += float(before.square().sum())
    (promised,) = (each.changed for each in solved.kept if each.name == "tom")
    assert (changed / asked) ** 0.5 == pytest.approx(promised, rel=1)
