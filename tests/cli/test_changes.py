"""Verbs that change what there is, and what is said before and after: rename, undo, log, diff, stats, forget."""

import json

import pytest

from conceptctl.cli.app import run
from conceptctl.store import jobs, locks
from conceptctl.store.store import Store
from conceptctl.store.verify import verify
from conceptctl.workflows.evaluate import history
from tests import synthetic


@pytest.fixture(autouse=True)
def _without_prompts(monkeypatch):
    # These bases have no text encoder.
    synthetic.without_prompts(monkeypatch)


@pytest.fixture
def store(tmp_path, monkeypatch):
    made = synthetic.make_store(tmp_path / "store", synthetic.write_base(tmp_path / "base"))
    monkeypatch.setenv("CONCEPTCTL_STORE", str(tmp_path / "store"))
    return made


@pytest.fixture
def two(store):
    for seed, name in enumerate(("alice", "bob")):
        synthetic.learn(store, name, seed)
    return store


def answer(capsys, *arguments, code=0):
    assert run([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def said(capsys, *arguments, code=0):
    """What a verb says beside its result."""
    assert run(list(arguments)) == code
    return capsys.readouterr().err


def evaluate(store, *names):
    """Commit an evaluation of concepts, as `eval` does."""
    head = store.head()
    kept = history.Kept(
        run=history.new_run(), generation=head.seq, time="2026-11-01T00:00:00Z", last=False, drawn=4, heldout=4,
        prompt="a photo of a V*{}", steps=2, guidance=3.0, after_learning="",
        extractor={"name": "clip", "sha256": "0" * 64}, kernel={}, figures={"A_mmd": 0.5}, rbf={},
    )  # fmt: skip
    return history.commit(store, [(store.concept(name).uid, kept) for name in names])


def figures(store):
    return [uid for uid, _ in history.read_all(store.layout, store.head())]


# rename


def test_a_renamed_concept_keeps_its_weights_and_everything_about_it(two, capsys):
    assert run(["fold"]) == 0
    evaluate(two, "alice")
    before = two.head()
    capsys.readouterr()
    done = answer(capsys, "rename", "alice", "ally")
    after = two.head()
    assert done == {"generation": before.seq + 1, "from": "alice", "name": "ally", "token": "V*ally"}
    assert [each.name for each in after.concepts] == ["ally", "bob"]
    assert (after.folded, after.attachments) == (before.folded, before.attachments)
    assert [each.blob for each in after.concepts] == [each.blob for each in before.concepts]
    shown = answer(capsys, "show", "ally")
    assert (shown["token"], shown["generation"]) == ("V*ally", 1)
    assert verify(two.layout, read_data=True).problems == ()
    text = said(capsys, "undo", "--yes")
    assert "ally is called alice again" in text
    assert [each.name for each in two.head().concepts] == ["alice", "bob"]


@pytest.mark.parametrize(
    ("names", "code", "word"),
    [
        (("alise", "x"), 5, "did you mean alice"),
        (("alice", "bob"), 5, "another name"),
        (("alice", "taken"), 5, "take another name"),
        (("alice", "A B"), 2, "1 to 64"),
        (("alice", ""), 2, "1 to 64"),
        (("alice", "alice"), 2, "rename alice ANOTHER"),
    ],
)
def test_names_that_cannot_be_given(names, code, word, two, capsys):
    before = two.head()
    assert word in answer(capsys, "rename", *names, code=code)["error"]["hint"]
    assert two.head() == before


def test_a_name_under_which_something_is_half_learned_is_warned_of(two, capsys):
    with two.writing("test"):
        jobs.start(two.layout, {"name": "carol"})
    assert "a training of carol was interrupted" in answer(capsys, "rename", "alice", "carol")["warnings"][0]


def test_what_leaves_the_store_has_the_new_name(two, tmp_path, capsys):
    answer(capsys, "rename", "bob", "rob")
    answer(capsys, "export", "rob", "--raw", "-o", str(tmp_path / "rob.safetensors"))
    answer(capsys, "forget", "rob", "--yes")
    assert answer(capsys, "import", str(tmp_path / "rob.safetensors"), "--raw")["name"] == "rob"
    answer(capsys, "compact", "--yes")
    assert b"rob" in two.blob(two.concept("rob")).read_bytes()


def test_rm_is_forget(two, capsys):
    assert answer(capsys, "rm", "alice", "--yes")["concepts"] == ["alice"]
    assert [each.verb for each in two.log()][-1] == "forget"


# undo


def test_an_evaluation_is_passed_over_and_stays_with_its_concept(two, capsys):
    alice, bob = (each.uid for each in two.head().concepts)
    evaluate(two, "alice", "bob")
    planned = answer(capsys, "undo", "--dry-run")
    assert (planned["restores"], planned["undone"], planned["passed_over"]) == (1, [2], [3])
    assert (planned["leaving"], planned["evaluations_lost"]) == (["bob"], 1)
    text = said(capsys, "undo", "--yes")
    assert "undo generation 2 (learn bob)\n  to a new generation equal to 1 (learn alice)" in text
    assert "passes over generation 3 (eval alice and bob)" in text
    assert "1 evaluation not kept any more" in text
    assert "went back to generation 1; 1 concept in the store; conceptctl undo --to 3 takes that back" in text
    assert figures(two) == [alice]
    # And back: what had gone has come again, and nothing is kept twice.
    answer(capsys, "undo", "--to", "3", "--yes")
    assert sorted(figures(two)) == sorted([alice, bob])
    assert [each.name for each in two.head().concepts] == ["alice", "bob"]


def test_evaluations_alone_are_taken_back_where_a_generation_is_named(two, capsys):
    evaluate(two, "alice")
    assert answer(capsys, "undo", "--to", "2", "--yes")["evaluations_lost"] == 1
    assert figures(two) == []


def test_steps_are_counted_without_evaluations(two, capsys):
    evaluate(two, "alice")
    synthetic.learn(two, "carol", 5)
    evaluate(two, "carol")
    planned = answer(capsys, "undo", "2", "--dry-run")
    assert (planned["restores"], planned["undone"], planned["passed_over"]) == (1, [4, 2], [5, 3])
    problem = answer(capsys, "undo", "4", "--yes", code=5)["error"]
    assert problem["message"] == "history goes back 3 steps only"


def test_a_fold_is_undone_after_an_evaluation(two, capsys):
    assert run(["fold"]) == 0
    evaluate(two, "bob")
    capsys.readouterr()
    assert "the stored weights become those of then" in said(capsys, "undo", "--yes")
    assert [each.folded for each in two.head().concepts] == [False, False]
    assert figures(two) == [two.concept("bob").uid]


def test_to_go_where_one_is_changes_nothing(two, capsys):
    before = two.head()
    assert answer(capsys, "undo", "--to", "2", "--yes")["done"] is False
    assert "nothing to undo: the store is what it was in generation 2" in said(capsys, "undo", "--to", "2", "--yes")
    assert two.head() == before


@pytest.mark.parametrize("arguments", [["undo"], ["forget", "alice"], ["compact"]], ids=lambda value: value[0])
def test_a_plan_is_for_what_somebody_leaves_who_was_waited_for(arguments, two, capsys, monkeypatch):
    """Whoever held the lock commits before the plan is made."""
    taken, held = [], locks.writer

    def after_another(layout, *, verb, wait=False):
        if wait and not taken:
            taken.append(verb)
            synthetic.learn(two, "carol", 5)
        return held(layout, verb=verb, wait=wait)

    monkeypatch.setattr(locks, "writer", after_another)
    assert answer(capsys, *arguments, "--yes", "--wait")["done"] is True
    assert taken == [arguments[0]]


# log


def verbs_of(capsys, name):
    return [(each["verb"], each["effect"]) for each in answer(capsys, "log", name)["generations"]]


def test_the_log_of_a_concept_goes_on_after_an_undo(two, capsys):
    answer(capsys, "forget", "alice", "--yes")
    answer(capsys, "undo", "--yes")
    assert verbs_of(capsys, "alice") == [("undo", "alice came back"), ("forget", ""), ("learn", "")]
    # What a forget leaves of the others is in the stored weights.
    assert verbs_of(capsys, "bob")[:2] == [("undo", "bob is not folded any more"), ("forget", "bob is folded")]
    answer(capsys, "undo", "2", "--yes")
    assert verbs_of(capsys, "bob")[0] == ("undo", "bob went")
    assert run(["log", "alice"]) == 0
    assert "alice came back" in capsys.readouterr().out


def test_the_log_follows_a_concept_through_its_names(two, capsys):
    answer(capsys, "rename", "alice", "ally")
    evaluate(two, "ally", "bob")
    synthetic.learn(two, "alice", 9)
    assert [verb for verb, _ in verbs_of(capsys, "ally")] == ["eval", "rename", "learn"]
    assert [verb for verb, _ in verbs_of(capsys, "alice")] == ["learn", "eval", "rename", "learn"]
    answer(capsys, "undo", "--to", "2", "--yes")
    assert ("undo", "ally became alice again") in verbs_of(capsys, "ally")
    assert answer(capsys, "log", "ally")["generations"][1]["figures"]["A_mmd"] == 0.5


def test_the_log_says_when_a_concept_is_unfolded_and_loses_its_delta(two, capsys):
    answer(capsys, "fold")
    answer(capsys, "undo", "--yes")
    answer(capsys, "compact", "--yes")
    assert verbs_of(capsys, "bob") == [
        ("compact", "its delta is not kept any more"),
        ("undo", "bob is not folded any more"),
        ("fold", ""),
        ("learn", ""),
    ]
    assert "did you mean bob" in answer(capsys, "log", "bop", code=5)["error"]["hint"]


# diff


def test_a_diff_says_what_became_of_concepts_and_weights(two, capsys):
    answer(capsys, "rename", "alice", "ally")
    synthetic.learn(two, "carol", 5)
    answer(capsys, "forget", "bob", "--yes")
    synthetic.learn(two, "bob", 8)
    found = answer(capsys, "diff", "2")
    assert (found["from"]["generation"], found["to"]["generation"]) == (2, 6)
    assert (found["added"], found["removed"], found["relearned"]) == (["carol"], [], ["bob"])
    assert found["renamed"] == [{"from": "alice", "to": "ally"}]
    assert answer(capsys, "diff", "6", "3")["removed"] == ["carol"]
    assert run(["diff", "2"]) == 0
    shown = capsys.readouterr().out
    assert "learned anew: bob" in shown
    assert "renamed: alice is ally" in shown
    assert "in 2 matrices; most in" in shown


def test_the_distance_is_that_of_the_weights(two, capsys):
    import numpy as np

    from conceptctl.store import base, folded, weights

    found = base.tensors(two.layout, two.head().base)
    then, _ = folded.read(two.layout, two.generation(1))
    now, _ = folded.read(two.layout, two.generation(2))
    assert {weights.read_floats(*found[path][:2]).shape for path in now} == set(synthetic.TINY.values())
    whole = [np.concatenate([each[path].ravel() for path in sorted(now)]) for each in (then, now)]
    expected = np.linalg.norm(whole[1] - whole[0]) / np.linalg.norm(whole[0])
    told = answer(capsys, "diff", "1", "2")
    assert told["distance"] == pytest.approx(float(expected), rel=1e-5)
    assert list(told["distances"].values()) == sorted(told["distances"].values(), reverse=True)
    assert answer(capsys, "diff", "2", "2")["distance"] == 0
    assert run(["fold"]) == 0
    capsys.readouterr()
    assert answer(capsys, "diff", "2", "3")["distances"] == {}


def test_weights_that_are_gone_are_not_compared(two, capsys):
    answer(capsys, "compact", "--yes")
    found = answer(capsys, "diff", "1")
    assert found["distance"] is None
    assert "compaction" in found["not_compared"]
    assert found["added"] == ["bob"]
    assert answer(capsys, "diff", "9", code=5)
    assert answer(capsys, "diff", "x", code=2)


# stats


def test_stats_add_up_to_what_the_store_takes(two, capsys):
    answer(capsys, "fold")
    evaluate(two, "alice")
    answer(capsys, "forget", "bob", "--yes")
    with two.writing("test") as writer:
        writer.add_file(two.layout.root.parent / "base/vae/diffusion_pytorch_model.safetensors")
    found = answer(capsys, "stats")
    files = [path for path in two.layout.root.rglob("*") if path.is_file()]
    aside = {"FORMAT"} | {path.name for path in two.layout.locks.iterdir()}
    assert sum(found["bytes"].values()) == sum(path.stat().st_size for path in files if path.name not in aside)
    assert (found["concepts"], found["concepts_ever"], found["evaluations"]) == (1, 2, 1)
    assert found["actions"] == {"init": 1, "learn": 2, "fold": 1, "eval": 1, "forget": 1}
    assert {"base", "concepts", "concepts of the past", "evaluations", "consolidated weights"} <= set(found["bytes"])
    assert found["gc_frees"] == sum(found["bytes"].get(what, 0) for what in ("not needed", "trash"))


def test_stats_of_a_damaged_store_say_what_they_do_not_know(two, capsys):
    two.blob(two.concept("alice")).unlink()
    assert answer(capsys, "stats")["gc_frees"] is None
    assert run(["stats"]) == 0
    assert "not known: concept alice" in capsys.readouterr().out


# what is said afterwards


def test_changes_say_what_changed_and_what_next(two, tmp_path, capsys):
    text = said(capsys, "forget", "alice", "--yes")
    assert text.endswith("forgot V*alice; 1 concept left; conceptctl undo brings it back\n")
    assert "folded" not in said(capsys, "fold")
    assert "went back" in said(capsys, "undo", "--yes")
    assert "folded alice and bob: pictures stay the same" in said(capsys, "fold")
    path = tmp_path / "bob.safetensors"
    assert "exported 1 concept" in said(capsys, "export", "bob", "--raw", "-o", str(path))
    text = said(capsys, "forget", "bob", "--purge", "--yes")
    assert "removed V*bob for good; 1 concept left" in text
    assert "imported V*bob; 2 concepts in the store" in said(capsys, "import", str(path))
    text = said(capsys, "compact", "--yes")
    assert "compacted 2 concepts" in text and "the store is" in text
    assert "the next gc frees" in said(capsys, "gc", "--yes")
    assert "renamed V*bob to V*rob" in said(capsys, "rename", "bob", "rob")
    assert said(capsys, "forget", "rob", "--yes", "--quiet") == ""


@pytest.mark.parametrize("verb", ["list", "log", "info", "fold"])
def test_an_empty_store_says_what_to_do_next(verb, store, capsys):
    assert "conceptctl learn DIR --token NAME --class WORD" in said(capsys, verb)


@pytest.mark.parametrize("arguments", [["show", "x"], ["forget", "x", "--yes"], ["export", "--raw"], ["log", "x"]])
def test_in_an_empty_store_the_command_that_fills_it_is_named(arguments, store, capsys):
    problem = answer(capsys, *arguments, code=5)["error"]
    assert "conceptctl learn DIR" in problem["hint"]


def test_the_size_that_a_compaction_saves_is_said(two, capsys):
    planned = answer(capsys, "compact", "--dry-run")
    assert planned["net_bytes"] == planned["added_bytes"] - planned["freed_bytes"]


# export and import


def test_a_slash_makes_a_folder(two, tmp_path, capsys):
    files = answer(capsys, "export", "bob", "--raw", "-o", f"{tmp_path}/new/folder/")["files"]
    assert [each["path"] for each in files] == [str(tmp_path / "new/folder/bob.safetensors")]
    assert (tmp_path / "new/folder/bob.safetensors").is_file()


@pytest.mark.parametrize("below", ["", "below/", "below/it/"])
def test_a_file_in_the_way_of_a_folder_is_said_first(below, two, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    problem = answer(capsys, "export", "bob", "-o", f"{tmp_path}/file/{below}", code=5)["error"]
    assert problem["message"] == f"{tmp_path}/file is a file, and no folder"
    assert (tmp_path / "file").read_text() == "mine"


def test_a_concept_that_came_later_is_said_when(two, tmp_path, capsys):
    problem = answer(capsys, "export", "bob", "--to", "diffusers", "-o", str(tmp_path / "x"), "--at", "1", code=5)[
        "error"
    ]
    assert problem["message"] == "generation 1 has no concept 'bob': it came in generation 2"
    assert problem["hint"] == "--at 2 or later"
    problem = answer(capsys, "export", "x", "--to", "diffusers", "-o", str(tmp_path / "x"), "--at", "1", code=5)[
        "error"
    ]
    assert problem["message"] == "no concept 'x'"


@pytest.mark.parametrize("what", ["another", "nothing", "noise"])
def test_a_file_that_is_replaced_while_it_is_read_is_refused(what, two, tmp_path, capsys, monkeypatch):
    path = tmp_path / "carol.safetensors"
    path.write_bytes(synthetic.concept_bytes(two, "carol", 7))
    before, writing = two.head(), Store.writing

    def replaced(store, verb, *, wait=False):
        # After the first look, before the lock.
        if what == "nothing":
            path.unlink()
        else:
            path.write_bytes(b"noise" if what == "noise" else synthetic.concept_bytes(two, "dora", 8))
        return writing(store, verb, wait=wait)

    monkeypatch.setattr(Store, "writing", replaced)
    problem = answer(capsys, "import", str(path), code=5 if what == "nothing" else 8)["error"]
    assert "while it was read" in problem["message"]
    assert two.head() == before
    assert list(two.layout.tmp.iterdir()) == []


def test_concepts_that_the_store_never_knew_are_counted(two, tmp_path, capsys):
    other = synthetic.make_store(tmp_path / "other", tmp_path / "base")
    for seed, name in enumerate(("dora", "emil", "falls")):
        synthetic.learn(other, name, 20 + seed)
    path = tmp_path / "falls.safetensors"
    answer(capsys, "export", "falls", "--raw", "-o", str(path), "--store", str(other.layout.root))
    text = said(capsys, "import", str(path))
    assert "falls was learned on top of 2 concepts that this store never knew, not here" in text
