"""STAMINA: what its masks and penalties do to what is learned."""

import dataclasses

import pytest
import torch

from conceptctl.errors import UsageError
from conceptctl.methods.stamina import Config, Stamina
from conceptctl.parts.masks import FORMS
from tests.methods.bench import Bench
from tests.tiny_pipeline import write_tiny_pipeline

CONFIG = Config(steps=30, batch_size=3, auxiliary_batch=0, learning_rate=1e-2, mask_learning_rate=5e-2, rank=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("base"))


def learned(folder, **changes):
    bench = Bench(folder, Stamina(dataclasses.replace(CONFIG, **changes)))
    bench.train()
    return bench


def density(bench):
    deltas = bench.trainable.folded().values()
    return (sum((delta != 0).sum() for delta in deltas) / sum(delta.numel() for delta in deltas)).item()


@pytest.mark.parametrize("form", FORMS)
def test_sparsity_closes_masks_of_every_form(folder, form):
    loose, tight = (density(learned(folder, mask=form, sparsity_weight=weight)) for weight in (0.0, 10.0))
    assert tight < loose


def test_forgetting_keeps_off_what_earlier_concepts_changed(folder):
    def overlap(weight):
        bench = learned(folder, forgetting_weight=weight)
        deltas = bench.trainable.folded()
        return sum((bench.task.change[path] * deltas[path]).square().sum().item() for path in deltas)

    assert overlap(1e4) < 0.5 * overlap(0.0)


def test_density_is_the_share_of_entries_that_the_fold_changes(folder):
    bench = learned(folder)
    assert bench.adapter.measures()["density"].item() == pytest.approx(density(bench), abs=1e-3)


def test_every_key_and_value_projection_of_the_cross_attention_is_adapted(folder):
    bench = Bench(folder, Stamina(CONFIG))
    names = [name for name, _ in bench.backbone.pipeline.unet.named_parameters()]
    wanted = {f"unet/{name}" for name in names if "attn2.to_k" in name or "attn2.to_v" in name}
    assert wanted
    assert set(bench.backbone.targets()) == wanted
    assert set(bench.trainable.folded()) == wanted


def test_training_starts_at_the_class_word(folder):
    bench = Bench(folder, Stamina(CONFIG))
    started = bench.trainable.tokens()
    assert started.keys() == bench.task.token_start.keys()
    assert all(torch.equal(started[table], row) for table, row in bench.task.token_start.items())


def test_an_unknown_mask_is_refused():
    with pytest.raises(UsageError, match="checkers"):
        Stamina(dataclasses.replace(CONFIG, mask="checkers"))
