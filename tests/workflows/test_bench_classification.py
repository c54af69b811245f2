"""Comparisons of classifiers, through the command, on random weights in ImageNet-R's layout."""

import contextlib
import csv
import io
import json
from dataclasses import replace

import pytest

from conceptctl.cli.app import run
from conceptctl.errors import UsageError
from conceptctl.families import vit
from conceptctl.methods import CLASSIFIERS, find_classifier
from conceptctl.presets import preset_for
from conceptctl.workflows.bench.classification import cell_run, cells
from conceptctl.workflows.bench.classification.spec import parsed, shipped
from conceptctl.workflows.bench.find import find_spec
from conceptctl.workflows.bench.results import read_all
from tests.tiny_vit import write_classes, write_tiny_vit

METHODS = {"methods": {"lora": {}}}


def command(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["bench", *map(str, words)])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def home(tmp_path):
    write_tiny_vit(tmp_path / "vit")
    write_classes(tmp_path / "classes")
    return tmp_path


SPEC = """
kind = "classification"
base = "{home}/vit"
seeds = [1]
[data]
tasks = 2
folder = "classes"
[protocol]
epochs = 1
batch_size = 4
[methods.lora]
settings = {{ rank = 2 }}
[methods.coda-prompt]
[methods.bound]
method = "fine-tuning"
joint = true
"""


def test_a_benchmark_is_run_and_reported_and_nothing_is_run_twice(home):
    (home / "tiny.toml").write_text(SPEC.format(home=home))
    code, out, err = command("run", home / "tiny.toml", "-o", home / "out", "--device", "cpu", "--json")
    assert code == 0, err
    assert [cell["name"] for cell in json.loads(out)["cells"]] == ["lora/1", "coda-prompt/1", "bound/1"]
    (bench,) = read_all(home / "out")
    for row in bench.class_rows:
        (result,) = row.results
        assert [len(accuracies) for accuracies in result.matrix] == ([2] if result.joint else [1, 2])
        assert 0 <= result.summary()["A_N"] <= 1
        assert not (result.home / cells.STATE).exists()
    code, out, err = command("run", home / "tiny.toml", "-o", home / "out", "--device", "cpu", "--json")
    assert code == 0, err
    assert all(cell["finished_before"] for cell in json.loads(out)["cells"])
    code, out, err = command("report", home / "out", "--json")
    assert code == 0, err
    assert json.loads(out)["benches"][0]["rows"]["lora"]["1"]["forgetting"] is not None
    page = (home / "out" / "report" / "report.html").read_text()
    assert "Average accuracy over the tasks seen" in page
    assert "coda-prompt" in (home / "out" / "report" / "report.md").read_text()
    lines = list(csv.DictReader((home / "out" / "report" / "classification.csv").read_text().splitlines()))
    assert len(lines) == 3 + 3 + 2
    path = bench.class_rows[0].results[0].home / "results.json"
    text = path.read_text()
    for damaged in (
        text[:-9],
        text.replace('"answers"', '"answer"', 1),
        text.replace('"labels":["', '"labels":["x","', 1),
    ):
        path.write_text(damaged)
        for verb in (["run", home / "tiny.toml", "-o", home / "out", "--device", "cpu"], ["report", home / "out"]):
            code, _, err = command(*verb)
            assert code == 4 and path.name in err and "take it away" in err.replace("\n", " ")


def test_the_spec_of_imagenet_r_learns_a_task_of_two_epochs_on_random_weights(home):
    spec = shipped()["imagenet-r"].with_(base=str(home / "vit"), folder=str(home / "classes"), others={})
    spec = replace(
        spec,
        entries=spec.entries[:1],
        seeds=spec.seeds[:1],
        data=replace(spec.data, tasks=2, learned=1),
        protocol=replace(spec.protocol, epochs=2),
    )
    (cell,) = cells.make_cells(spec, [(spec.entries[0], spec.seeds[0])], home / "out")
    assert (cell.config["rank"], cell.config["batch_size"], cell.config["learning_rate"]) == (64, 128, 5e-4)
    place = cell.home(home / "out")
    place.mkdir(parents=True)
    cell_run.run_class_cell(cell, place, "cpu", lambda what, done: None)
    (task,) = json.loads((place / "results.json").read_text())["tasks"]
    # Eight pictures, all of them in each step.
    assert (task["steps"], len(task["labels"])) == (2, 2)


def test_a_cell_that_was_stopped_goes_on_after_its_last_task(home, monkeypatch):
    (home / "tiny.toml").write_text(SPEC.format(home=home))
    spec = find_spec(str(home / "tiny.toml"))
    (cell,) = cells.make_cells(spec, [(spec.entries[1], 1)], home / "out")
    whole, stopped = home / "whole", home / "stopped"
    told = []
    for place in (whole, stopped):
        place.mkdir()
    cell_run.run_class_cell(cell, whole, "cpu", lambda what, done: None)

    def stop(what, done):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cell_run.run_class_cell(cell, stopped, "cpu", stop)
    cell_run.run_class_cell(cell, stopped, "cpu", lambda what, done: told.append(done))
    assert told == [1]
    answers = [
        [task["answers"] for task in json.loads((place / "results.json").read_text())["tasks"]]
        for place in (whole, stopped)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("spec", shipped().values(), ids=shipped())
def test_shipped_specs_name_methods_that_there_are_and_presets_settings_that_they_have(spec):
    base = spec.base or vit.BUNDLED
    for entry in spec.entries:
        config = cells._config(entry, spec, preset_for(vit.NAME, base))
        assert isinstance(
            find_classifier(entry.method).configuration(**config), find_classifier(entry.method).configuration
        )
    assert {entry.method for entry in spec.entries} == set(CLASSIFIERS)
    tables = {seed for each in shipped().values() if each is not spec for seed in each.seeds}
    # Three seeds, or what settings are chosen on: a seed that no table uses.
    assert len(spec.seeds) == 3 or not tables & set(spec.seeds)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "compares no methods"),
        ({**METHODS, "metods": {}}, "metods"),
        ({**METHODS, "data": {"tasks": 0}}, "tasks"),
        ({**METHODS, "data": {"tasks": 2000}}, "tasks"),
        ({**METHODS, "data": {"tasks": 4, "learned": 5}}, "learned"),
        ({**METHODS, "data": {"folder": 3}}, "folder"),
        ({**METHODS, "protocol": {"steps": 3}}, "steps"),
        ({**METHODS, "reference": "ti"}, "reference"),
        ({"methods": {"lora": {"joint": 1}}}, "joint"),
        ({"methods": {"lora": {"alone": True}}}, "alone"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused(value, said):
    with pytest.raises(UsageError, match=said):
        parsed("mine", {"kind": "classification", **value})


@pytest.mark.parametrize(
    ("change", "said", "expected"),
    [
        (("rank = 2", "steps = 2"), "epochs", 2),
        (("rank = 2", "snr_gamma = 5.0"), "snr_gamma", 2),
        (("rank = 2", 'stopping = "auto"'), "epochs", 2),
        (("rank = 2", "rang = 2"), "rang", 5),
        (("[methods.lora]", "[methods.dsc]"), "dsc", 5),
        (("tasks = 2", "tasks = 9"), "tasks", 2),
        (('folder = "classes"', 'folder = "none"'), "none", 3),
        (('/vit"', '/none"'), "none", 5),
        (('/vit"', '/classes"'), "no vision transformer", 5),
        (('/vit"', '/cut"'), "no whole vision transformer", 5),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_learned(home, change, said, expected):
    (home / "tiny.toml").write_text(SPEC.format(home=home).replace(*change))
    cut = write_tiny_vit(home / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    code, _, err = command("run", home / "tiny.toml", "-o", home / "out", "--device", "cpu")
    assert code == expected
    assert said in err
    assert not (home / "out" / "cells").exists()


def test_options_of_drawn_concepts_are_refused(home):
    code, _, err = command("run", "classification", "-o", home / "out", "--protocol", "full")
    assert (code, "--protocol" in err) == (2, True)
