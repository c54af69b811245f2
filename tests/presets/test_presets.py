"""Presets: the right one for a base, another over it, files that are none."""

import dataclasses
import json
from pathlib import Path

import pytest

from conceptctl.config import TrainConfig
from conceptctl.errors import NotFound, UsageError
from conceptctl.families import FAMILIES
from conceptctl.methods import CLASSIFIERS, METHODS, find_classifier, find_method
from conceptctl.presets import named_preset, preset_of, shipped
from conceptctl.store.manifest import Base, BlobRef, Family
from conceptctl.workflows.learn.request import Request, make_method

FAMILY = Family("sd", (), (), {})


def base(name, family=FAMILY):
    return Base(name, "0" * 64, {}, BlobRef("0" * 64, 0), family)


def test_a_base_has_the_preset_that_names_it_or_that_of_its_family():
    assert preset_of(base("pocket")).name == "pocket"
    assert preset_of(base("pocket", None)).name == "pocket"
    assert preset_of(base("owner/name")).name == "sd"
    assert preset_of(base("local folder", None)).name == "sd"


def test_every_family_has_a_preset_of_its_own():
    for family in FAMILIES:
        assert any(each.family == family and not each.base for each in shipped().values())


@pytest.mark.parametrize("name", shipped())
def test_what_a_preset_sets_are_settings_of_its_methods(name):
    preset = shipped()[name]
    # Classes are learned in epochs, and by other methods.
    among, find = (CLASSIFIERS, find_classifier) if preset.learn.epochs else (METHODS, find_method)
    assert set(preset.methods) <= {*among, "all"}
    for method in among:
        found = find(method)
        known = {each.name: each for each in dataclasses.fields(found.configuration)}
        settings = preset.settings(method)
        assert set(settings) <= set(known)
        assert all(type(value) is type(known[key].default) for key, value in settings.items())
        found(found.configuration(**settings))


def test_the_papers_values_are_the_defaults_but_for_the_other_papers_steps():
    of_003 = {"steps": 1000, "batch_size": 1, "auxiliary_batch": 1, "accumulation": 8}
    of_000 = {"stamina", "ti", "ti++", "cd", "cd-merged", "cd-ewc", "c-lora", "lora-orthogonal"}
    # What is ours has no paper's values.
    ours = {"stamina-anchored", "lora-anchored"}
    for method in METHODS:
        assert shipped()["paper"].settings(method) == ({} if method in of_000 | ours else of_003)


def test_another_preset_over_a_bases_own_leaves_how_it_draws(tmp_path):
    own, other = shipped()["pocket"], shipped()["sd"]
    both = own.under(other)
    assert (both.name, both.sampling, both.methods) == ("sd", own.sampling, other.methods)
    assert (both.learn.auxiliary, both.learn.reference_samples) == (128, 32)
    assert both.learn.feature_extractor == own.learn.feature_extractor
    # What the other one does not say stays.
    file = tmp_path / "mine.toml"
    file.write_text('[methods.stamina]\nrank = 8\n[methods."ti++"]\nsteps = 3\n')
    mine = own.under(named_preset(str(file)))
    assert (mine.name, mine.learn) == ("mine", own.learn)
    assert (mine.settings("stamina"), mine.settings("ti++")) == ({"rank": 8}, {"steps": 3})


def test_the_method_is_the_users_or_that_of_the_preset_which_holds(tmp_path):
    def taken(preset, method=None):
        return make_method(Request(Path(), "x", "thing", train=TrainConfig(method=method)), preset).name

    pocket, paper = shipped()["pocket"], shipped()["paper"]
    assert taken(pocket) == "stamina-anchored"
    assert {taken(shipped()[name]) for name in ("sd", "sdxl", "sd3", "flux")} == {"stamina"}
    assert taken(pocket.under(paper)) == "stamina"
    assert taken(pocket, "lora") == "lora"
    file = tmp_path / "mine.toml"
    file.write_text('[learn]\nmethod = "ti"\n')
    assert taken(pocket.under(named_preset(str(file)))) == "ti"


def test_what_a_dry_run_says_is_a_preset(tmp_path):
    file = tmp_path / "plan.json"
    preset = {"name": "pocket", "learn": {"auxiliary": 3}, "methods": {"lora": {"rank": 5}}}
    file.write_text(json.dumps({"plan": {"name": "alice", "preset": preset}}))
    found = named_preset(str(file))
    assert (found.settings("lora"), found.learn.auxiliary) == ({"rank": 5}, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("methods = 3", "methods"),
        ("[methods]\nlora = 3", "methods"),
        ("[sampling]\nstep = 3", "step"),
        ("[sampling]\nsteps = true", "steps"),
        ("[learn]\nauxiliary = -1", "auxiliary"),
        ('[learn]\nauxiliary = "many"', "auxiliary"),
        ("learn = 3", "learn"),
        ("[lesson]\nsteps = 3", "lesson"),
        ("[methods.lora", "neither TOML nor JSON"),
        ('{"methods": ', "neither TOML nor JSON"),
        ("description = 3", "description"),
    ],
)
def test_a_file_that_is_no_preset_is_refused(tmp_path, text, said):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        named_preset(str(file))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a preset"):
        named_preset(str(file))


def test_a_preset_that_is_not_there_is_not_found_with_those_that_are(tmp_path):
    for named in ("nobody", str(tmp_path), str(tmp_path / "none.toml")):
        with pytest.raises(NotFound) as caught:
            named_preset(named)
        assert "pocket" in caught.value.hint


def test_what_a_bases_size_asks_for_stays_under_another_preset(tmp_path):
    large, paper = shipped()["sdxl"], shipped()["paper"]
    assert large.settings("stamina")["mask"] == "low-rank"
    assert large.under(paper).settings("stamina") == {"mask": "low-rank"}
    assert large.under(paper).settings("ewc") == paper.settings("ewc")
    for said in ("stamina", "all"):
        file = tmp_path / f"{said}.toml"
        file.write_text(f'[methods.{said}]\nmask = "none"\n')
        assert large.under(named_preset(str(file))).settings("stamina") == {"mask": "none"}
