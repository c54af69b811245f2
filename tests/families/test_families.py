"""Families: what a store must know of each, and that a model answers to it."""

import pytest
import torch

from conceptctl import families
from conceptctl.errors import ImportRefused, StoreTooNew
from conceptctl.store.manifest import Base, BlobRef, Family
from tests.tiny_pipeline import key_value_shapes, write_tiny_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("name", families.FAMILIES)
def test_the_facts_are_those_of_the_module(name):
    family = families.find_family(name).FAMILY
    assert family.name == name
    assert family.targets
    assert family.token_tables
    assert {pattern.partition("/")[0] for pattern in family.targets} <= set(family.components)


def test_a_loaded_model_has_the_targets_and_token_tables_that_the_facts_say(folder):
    family = families.recognized(folder)
    backbone = family.load(folder, torch.device("cpu"))
    shapes = {f"unet/{name}": shape for name, shape in key_value_shapes(folder).items()}
    assert {path: tuple(module.weight.shape) for path, module in backbone.targets().items()} == shapes
    assert all(family.FAMILY.is_target(path) for path in shapes)
    assert backbone.token_tables().keys() == family.FAMILY.token_tables.keys()
    start = backbone.token_start("cat")
    token_id = backbone.add_token("alice", start)
    for name, table in backbone.token_tables().items():
        assert torch.equal(table.weight[token_id], start[name][0])


def test_a_base_of_a_family_that_is_not_known_asks_for_a_newer_program():
    base = Base("x", "0" * 64, {}, BlobRef("0" * 64, 0), Family("later", (), (), {}))
    with pytest.raises(StoreTooNew, match="later"):
        families.family_of(base)


def test_what_no_family_knows_is_refused(folder, tmp_path):
    (tmp_path / "text_encoder_2").mkdir()
    with pytest.raises(ImportRefused):
        families.recognized(tmp_path)
