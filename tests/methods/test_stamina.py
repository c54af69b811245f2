"""STAMINA: what its masks and penalties do to what is learned."""

import dataclasses

import numpy as np
import pytest
import torch

from conceptctl.errors import UsageError
from conceptctl.learning.loop import Listener
from conceptctl.methods import stamina_anchored as anchored
from conceptctl.methods.stamina import Stamina
from conceptctl.methods.stamina_anchored import StaminaAnchored
from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.masks import FORMS
from conceptctl.parts.stack_and_mask import Config
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

    assert overlap(1e4) < 0.5 * overlap(1e-9)


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


@pytest.mark.parametrize("setting", ["mask", "masking", "embedding"])
def test_an_unknown_word_is_refused(setting):
    with pytest.raises(UsageError, match="checkers"):
        Stamina(dataclasses.replace(CONFIG, **{setting: "checkers"}))


def test_the_ablation_without_a_mask_is_a_low_rank_adapter_that_pays_for_what_is_changed_again(folder):
    bench = learned(folder, mask="none")
    assert isinstance(bench.adapter, LowRank)
    assert set(losses_of(folder, mask="none")) == {"loss", "denoising", "forgetting"}
    assert density(bench) == 1


def test_the_ablation_with_a_sigmoid_keeps_what_it_trains(folder):
    """No noise, no argmax: the product with values between 0 and 1, in training and afterwards."""
    bench = learned(folder, masking="sigmoid", mask_logit_std=1.0)
    generator = torch.Generator().manual_seed(0)
    stepped, kept = bench.trainable.deltas(generator), bench.trainable.folded()
    products = bench.adapter.low_rank.products()
    for (paths, product), form in zip(products.items(), bench.adapter.masks, strict=True):
        wanted = product.detach().numpy() / (1 + np.exp(-form().detach().numpy()))
        np.testing.assert_allclose(kept.stacks[paths].detach().numpy(), wanted, rtol=1e-5, atol=1e-7)
        assert torch.equal(stepped.stacks[paths], kept.stacks[paths])
    loose, tight = (
        torch.cat(
            [form().flatten() for form in learned(folder, masking="sigmoid", sparsity_weight=weight).adapter.masks]
        )
        for weight in (0.0, 10.0)
    )
    assert tight.mean() < loose.mean()


def test_the_ablation_of_the_tokens_mlp_trains_the_row_alone(folder):
    bench = learned(folder, embedding="row")
    assert [each.shape for each in bench.trainable.token.parameters()] == [(1, 16)]


def test_the_ablation_of_sparsity_is_a_weight_of_nothing(folder):
    assert all(value == 0 for value in losses_of(folder, sparsity_weight=0.0)["sparsity"])


def test_masks_are_open_until_their_start_and_then_by_size(folder):
    """Nothing is masked in the first steps; what is masked afterwards is small in the deltas of that moment."""
    found = {}
    bench = Bench(folder, Stamina(dataclasses.replace(CONFIG, mask_start=0.5, sparsity_weight=0.0)))

    def seen(done):
        masks = [form().detach() for form in bench.adapter.masks]
        found[done] = (masks, [product.detach() for product in bench.adapter.low_rank.products().values()])

    bench.train(listener=Listener(step=seen))
    for done in range(1, 15):
        assert all((form == found[1][0][index]).all() for index, form in enumerate(found[done][0]))
    assert min(form.min() for form in found[15][0]) > 30
    closed = torch.cat([(form <= 0).flatten() for form in found[16][0]])
    sizes = torch.cat([product.abs().flatten() for product in found[15][1]])
    assert sizes[closed].mean() < 0.5 * sizes[~closed].mean()


def test_masks_begin_after_a_step_at_least(folder):
    """Before the first one A B is nothing everywhere, and no entry larger than another."""
    method = Stamina(dataclasses.replace(CONFIG, mask_start=1e-3))
    bench = Bench(folder, method)
    assert list(method.training(bench.task, bench.trainable).before) == [1]


def test_masks_begin_before_the_last_step(folder):
    method = Stamina(dataclasses.replace(CONFIG, mask_start=0.999))
    bench = Bench(folder, method)
    assert list(method.training(bench.task, bench.trainable).before) == [CONFIG.steps - 1]


def test_what_is_added_to_stamina_keeps_other_prompts_nearer_to_what_they_were(folder):
    def moved(method):
        bench = Bench(folder, method)
        bench.train()
        deltas, factor = bench.trainable.folded(), bench.task.reference_factor
        return sum((deltas[path] @ factor).square().sum().item() / bench.task.output_energy[path] for path in deltas)

    settings = {name: getattr(CONFIG, name) for name in ("steps", "batch_size", "auxiliary_batch", "rank")}
    settings |= {"learning_rate": 1e-2, "mask": "none", "forgetting_weight": 0.0}
    free, held = (
        moved(StaminaAnchored(anchored.Config(**settings, preservation_weight=weight))) for weight in (1e-9, 1e3)
    )
    assert held < 0.5 * free


def losses_of(folder, **changes):
    """Every loss, by name, over a few steps."""
    bench = Bench(folder, Stamina(dataclasses.replace(CONFIG, steps=3, **changes)))
    found = []
    bench.train(listener=Listener(report=lambda report: found.append(report.losses), report_steps=1))
    return {name: [each[name] for each in found] for name in found[0]}
