"""Specs: what a TOML file may say, what the shipped ones say, and what they cost."""

import tomllib

import pytest

from conceptctl import presets
from conceptctl.errors import NotFound, StoreDamaged, UsageError
from conceptctl.methods import METHODS
from conceptctl.pocket.world.concepts import sequence
from conceptctl.workflows.bench.cell import chosen
from conceptctl.workflows.bench.cells import evaluation_times, resolved
from conceptctl.workflows.bench.classification.spec import shipped as shipped_of_classes
from conceptctl.workflows.bench.cost import cost_of
from conceptctl.workflows.bench.find import find_spec
from conceptctl.workflows.bench.noted import read_noted
from conceptctl.workflows.bench.sequences import world_sequence
from conceptctl.workflows.bench.spec import PROTOCOLS, parsed, shipped
from tests.workflows.small_bench import cli

LEAST = {"data": {"concepts": 2}, "methods": {"lora": {}}}


@pytest.mark.parametrize("spec", shipped().values(), ids=shipped())
def test_shipped_specs_say_what_they_are_and_ask_for_concepts_that_are_there(spec):
    assert spec.title != spec.name and spec.description
    assert set(spec.paper.values) <= {entry.label for entry in spec.entries}
    assert bool(spec.paper.values) == bool(spec.paper.source)
    cost = cost_of(spec)
    assert cost.cells == len(spec.entries) * len(spec.seeds) and cost.hours > 0
    if spec.data.concepts <= 50:
        names = [concept.name for concept in world_sequence(spec.data, spec.seeds[0])]
        assert len(set(names)) == spec.data.concepts


@pytest.mark.parametrize("spec", shipped().values(), ids=shipped())
def test_shipped_specs_name_methods_and_settings_that_there_are(spec):
    rows = chosen(spec.name, spec.entries, spec.seeds, (), METHODS)
    assert len(rows) == len(spec.entries) * len(spec.seeds)
    compared = []
    for entry in spec.entries:
        config = resolved(spec, entry, presets.shipped()[spec.base])
        assert entry.settings.items() <= config.items()
        # A row that says what is the default anyway compares nothing.
        assert (entry.method, entry.alone, entry.joint, config) not in compared
        compared.append((entry.method, entry.alone, entry.joint, config))


def test_different_seeds_of_a_spec_share_no_concept():
    spec = shipped()["table1-people"]
    every = [concept for seed in spec.seeds for concept in world_sequence(spec.data, seed)]
    assert len({concept.name for concept in every}) == len(every) == 60
    assert {concept.kind for concept in every} == {"person"}


def test_a_sequence_of_the_usual_kinds_is_what_it_was():
    assert [concept.name for concept in sequence(4, 3)] == [
        concept.name for concept in sequence(4, 3, ("person", "waterfall"))
    ]


def test_hours_are_of_each_rows_own_steps():
    def hours(settings):
        return cost_of(parsed("mine", {**LEAST, "methods": {"lora": {"settings": settings}}})).hours

    steps, batch = PROTOCOLS["quick"].steps, PROTOCOLS["quick"].batch_size
    base = hours({})
    assert hours({"steps": steps, "batch_size": batch}) == base
    # Of a larger batch the auxiliary picture stays one.
    assert hours({"steps": 3 * steps}) - base == pytest.approx(hours({"batch_size": 3 * batch + 2}) - base)


def test_another_protocol_checks_what_a_spec_is_there_to_check():
    spec = shipped()["dc-checks"]
    other = spec.with_(protocol="full").protocol
    assert (other.name, other.steps) == ("full", None)
    assert (other.classified, other.fisher) == (spec.protocol.classified, spec.protocol.fisher) != (0, 0)
    assert shipped()["two-concepts"].with_(protocol="quick").protocol.pairs > 0


def test_a_label_with_brackets_can_be_chosen():
    spec = parsed("mine", {**LEAST, "methods": {"rank[4]": {"method": "lora"}, "rank4": {"method": "lora"}}})
    for pattern in ("rank[4]", "rank[4]/0"):
        assert rank_labels(spec, pattern)[0] == "rank[4]"
    assert rank_labels(spec, "rank*") == ["rank[4]", "rank4"]


def rank_labels(spec, pattern):
    return [entry.label for entry, _ in chosen(spec.name, spec.entries, spec.seeds, [pattern], METHODS)]


def test_a_paper_s_figures_are_in_our_units():
    values = shipped()["dc-scores-6"].paper.values["ewc-dc"]
    # Published as 154.25 x 10^-5 and 73.41 x 10^-2.
    assert (values["kid"], values["clip_i2i"]) == (1.5425, 0.7341)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metods": {}}, "nothing is called 'metods'"),
        ({"methods": {}}, "compares no methods"),
        ({"methods": {"lora": {"setings": {}}}}, "nothing is called 'setings'"),
        ({"methods": {"a/b": {}}}, "no slash"),
        ({"methods": {"=HYPERLINK(1)": {}}}, "does not begin with"),
        ({"title": "of two\nlines"}, "title is no text of one line"),
        ({"protocol": {"sampling_steps": 1001}}, "from 1 to 1000"),
        ({"protocol": {"evaluations": 10**12}}, "from 1 to 10000"),
        ({"protocol": {"classified": 10**20}}, "from 0 to 100000"),
        ({"paper": {"values": {"lora": {"A_mmd": 10**400}}}}, "A_mmd"),
        ({"methods": {"lora": {"settings": {"rank": [1]}}}}, "settings.rank"),
        ({"data": {}}, "how many concepts"),
        ({"data": {"concepts": 0}}, "from 1 to 10000,"),
        ({"data": {"concepts": 2, "kinds": ["cat"], "folder": "x"}}, "and a folder"),
        ({"data": {"train": 4, "folder": "x"}}, "data has train"),
        ({"protocol": "slow"}, "no protocol 'slow'"),
        ({"protocol": {"like": ["quick"]}}, "no protocol"),
        ({"protocol": {"steps": 1.5}}, "steps is a whole number"),
        ({"protocol": {"pictures": 1}}, "from 2 to 100000"),
        ({"precision": 16}, "precision is no text"),
        ({"seeds": []}, "seeds is a list"),
        ({"seeds": [1, 1]}, "twice"),
        ({"reference": "ewc"}, "reference is 'ewc'"),
        ({"paper": {"values": {"ewc": {}}}}, "no method is called so"),
        ({"paper": {"values": {"lora": {"A_mmd": "2"}}}}, "A_mmd = '2'"),
        ({"settings": {"rank": {}}}, "settings.rank"),
    ],
)
def test_what_is_no_spec(change, message):
    with pytest.raises(UsageError, match=message):
        parsed("mine", {**LEAST, **change})


@pytest.mark.parametrize("name", ["keeping", "classification"])
def test_a_shipped_spec_is_shown_as_a_file_that_means_the_same(tmp_path, name):
    code, said = cli("bench", "show", name)
    path = tmp_path / f"{name}.toml"
    path.write_text(said["toml"])
    assert code == 0 and find_spec(str(path)) == find_spec(name)
    code, said = cli("bench", "show", "nowhere")
    assert code == 5 and "keeping" in said["error"]["hint"]


def test_a_file_s_folder_is_taken_from_where_the_file_is(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[data]\nfolder = "pictures"\n[methods.lora]\n')
    assert find_spec(str(path)).data.folder == str(tmp_path / "pictures")
    path.write_text("[data")
    with pytest.raises(UsageError, match="not a spec"):
        find_spec(str(path))
    with pytest.raises(NotFound, match="no spec 'nowhere'"):
        find_spec("nowhere")


def test_settings_of_all_rows_and_of_one():
    text = "settings = { rank = 4, warmup = 1 }\n[data]\nconcepts = 2\n"
    text += "[methods.lora]\n[methods.b]\nsettings = { rank = 8 }"
    one, other = parsed("mine", tomllib.loads(text)).entries
    assert (one.settings, other.settings) == ({"rank": 4, "warmup": 1}, {"rank": 8, "warmup": 1})


def test_another_protocol_base_and_folder():
    spec = shipped()["table1-people"].with_(protocol="full", base="./sd", folder="./faces")
    assert spec.protocol == PROTOCOLS["full"] and spec.base == "./sd"
    assert (spec.data.folder, spec.data.kinds, spec.data.concepts) == ("./faces", (), 20)
    with pytest.raises(UsageError, match="no protocol"):
        spec.with_(protocol="fast")


def test_unknown_methods_are_named_together_and_only_where_they_are_asked_for():
    spec = parsed("mine", {**LEAST, "methods": {"lora": {}, "x": {"method": "no-one"}, "y": {"method": "nobody"}}})
    with pytest.raises(NotFound, match="no method 'no-one', 'nobody'"):
        chosen(spec.name, spec.entries, spec.seeds, (), METHODS)
    assert [entry.label for entry, _ in chosen(spec.name, spec.entries, spec.seeds, ["lor*"], METHODS)] == ["lora"]
    with pytest.raises(NotFound, match="no cell of mine is called 'z'"):
        chosen(spec.name, spec.entries, spec.seeds, ["lora", "z"], METHODS)


def test_evaluations_are_spread_evenly_and_the_last_is_at_the_end():
    assert evaluation_times(20, 4) == (5, 10, 15, 20)
    assert evaluation_times(3, 4) == (1, 2, 3)
    assert evaluation_times(10, 1) == (10,)


def test_joint_training_has_as_many_steps_and_draws_everything_once():
    alone = parsed("mine", {**LEAST, "methods": {"lora": {}, "bound": {"method": "lora", "alone": True}}})
    joint = parsed("mine", {**LEAST, "methods": {"lora": {}, "bound": {"method": "lora", "joint": True}}})
    assert cost_of(joint) == cost_of(alone)
    assert cost_of(parsed("mine", LEAST)).learned == cost_of(joint).learned / 2


def test_bench_list_has_every_shipped_spec():
    code, said = cli("bench", "list")
    assert code == 0 and [each["name"] for each in said["specs"]] == [*shipped(), *shipped_of_classes()]
    one = next(each for each in said["specs"] if each["name"] == "table1-people")
    # Twenty concepts, learned by six methods with three seeds.
    assert (one["cells"], one["learned"]) == (18, 360)


def test_a_label_of_two_lines_is_said_on_one():
    with pytest.raises(UsageError, match=r"methods\.'a\\nb'"):
        parsed("mine", {**LEAST, "methods": {"a\nb": {"method": "lora"}}})


def test_an_empty_output_is_not_the_folder_that_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for verb in (["run", "smoke"], ["report", "."]):
        code, said = cli("bench", *verb, "--output", "")
        assert code == 2 and "--output is empty" in said["error"]["message"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["[]", '{"cells": ', "{}"])
def test_a_note_that_is_not_as_it_was_written(tmp_path, text):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/smoke-quick.json").write_text(text)
    code, said = cli("bench", "report", tmp_path)
    assert code == 4 and "smoke-quick.json" in said["error"]["message"] and said["error"]["hint"]
    with pytest.raises(StoreDamaged):
        read_noted(tmp_path / "runs/smoke-quick.json", "cells")
