"""Concepts: fixed identities, disjoint views, sequences, and the folders written from them."""

import json
from itertools import combinations

import pytest
from PIL import Image

from conceptctl.cli.app import run
from conceptctl.errors import UsageError
from conceptctl.pocket import concept, sequence
from conceptctl.pocket.world.kinds import DETAILS, KINDS, NONE, UNSEEN_PAINT


@pytest.mark.parametrize("kind", KINDS)
def test_a_concept_is_fixed_and_has_what_pre_training_never_draws(kind):
    for seed in range(20):
        subject = concept(kind, seed).subject
        assert subject.attributes == concept(kind, seed).subject.attributes
        assert all(subject[a.name] in a.unseen for a in KINDS[kind] if a.name in DETAILS)
        assert set(subject.shown().values()) & set(UNSEEN_PAINT)


def test_training_and_heldout_views_are_disjoint():
    item = concept("person", 3)
    training = {item.training_view(index).tobytes() for index in range(60)}
    heldout = {item.heldout_view(index).tobytes() for index in range(60)}
    assert len(training) == len(heldout) == 60
    assert not training & heldout


def test_a_twin_lacks_only_the_details():
    item = concept("waterfall", 5)
    twin, half = item.twin(), item.twin("mark")
    assert all(twin[name] == NONE for name in DETAILS)
    assert half["mark"] == NONE
    assert half["extra"] == item.subject["extra"]
    changed = {name for name in item.subject.attributes if twin[name] != item.subject[name]}
    assert changed <= {"mark", "mark_colour", "extra", "extra_colour"}


def test_an_unknown_kind_is_a_usage_error():
    with pytest.raises(UsageError):
        concept("unicorn", 0)


@pytest.mark.parametrize("length", [10, 20, 50])
def test_sequences_are_half_people_half_waterfalls_and_distinct(length):
    concepts = sequence(length)
    assert [item.name for item in concepts] == [item.name for item in sequence(length)]
    assert sorted({item.kind for item in concepts}) == ["person", "waterfall"]
    assert sum(item.kind == "person" for item in concepts) == length // 2
    assert len({item.name for item in concepts}) == length
    for first, second in combinations(concepts, 2):
        if first.kind == second.kind:
            ours, theirs = first.subject.shown(), second.subject.shown()
            assert sum(ours.get(name) != theirs.get(name) for name in ours.keys() | theirs.keys()) >= 3


def test_the_long_sequence_holds_every_kind():
    concepts = sequence(500)
    assert len({item.name for item in concepts}) == 500
    assert {item.kind for item in concepts} == set(KINDS)


def test_more_concepts_than_there_are_are_refused_and_not_looked_for_for_ever():
    with pytest.raises(UsageError, match=r"no 500 concepts of the kind duck that differ enough: \d\d were found"):
        sequence(500, kinds=["duck"])


def test_sequences_of_different_seeds_share_no_identity():
    names = [{item.name for item in sequence(20, seed)} for seed in range(3)]
    assert not any(first & second for first, second in combinations(names, 2))


def test_bench_data_writes_plain_folders(tmp_path, capsys):
    folder = tmp_path / "concepts"
    assert run(["bench", "data", str(folder), "--concepts", "4", "--train", "3", "--heldout", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    listing = json.loads((folder / "concepts.json").read_text())["concepts"]
    assert [entry["name"] for entry in listing] == answer["concepts"]
    for entry in listing:
        assert entry["class"] in KINDS
        for purpose, count in (("train", 3), ("heldout", 2)):
            pictures = sorted((folder / entry["name"] / purpose).iterdir())
            assert len(pictures) == count
            with Image.open(pictures[0]) as picture:
                assert (picture.size, picture.mode, picture.format) == ((64, 64), "RGB", "PNG")


def test_bench_data_never_writes_into_a_folder_with_something_in_it(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert run(["bench", "data", str(tmp_path), "--concepts", "2"]) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert "new folder" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [["--concepts", "0"], ["--train", "0"], ["--heldout", "-1"], ["--seed", "-1"]])
def test_bench_data_refuses_numbers_that_cannot_be_meant(tmp_path, bad):
    assert run(["bench", "data", str(tmp_path / "new"), *bad]) == 2
    assert not (tmp_path / "new").exists()
