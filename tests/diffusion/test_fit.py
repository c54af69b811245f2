"""The training loop's parts: learning rates, signals, the learned row, and what a step draws."""

import os
import signal

import pytest
import torch

from conceptctl.diffusion import models
from conceptctl.diffusion.conditioning import Prompts, known_states, learned_row, starting_row, with_kept
from conceptctl.diffusion.examples import Examples, _some
from conceptctl.diffusion.fit import Callbacks, Schedule, Trainable, fit
from conceptctl.diffusion.objective import Objective
from conceptctl.diffusion.projections import Stacks, adapted, cross_attention
from conceptctl.diffusion.shield import shielded
from conceptctl.errors import DeviceFailed
from conceptctl.parts.tokens import Row
from tests.tiny_pipeline import WIDTH, write_tiny_pipeline

CPU = torch.device("cpu")
true_has_fast_bf16 = models.has_fast_bf16
"""Tests are given another: see tests/conftest.py."""


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def pipeline(request, tmp_path_factory):
    loaded = models.load_pipeline(
        write_tiny_pipeline(tmp_path_factory.mktemp("base"), prediction_type=request.param), CPU
    )
    loaded.number = models.add_concept(loaded, "alice", starting_row(loaded, "cat"))
    return loaded


@pytest.mark.parametrize("name", ["mps", "meta", "cuda:99", "toaster"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(DeviceFailed):
        models.choose_device(name)


def test_learning_rates_rise_and_fall():
    constant = Schedule(100, 1, warmup=9)
    assert constant.share_of_rate(0) == pytest.approx(0.1)
    assert constant.share_of_rate(9) == constant.share_of_rate(99) == 1.0
    cosine = Schedule(100, 1, scheduler="cosine")
    assert cosine.share_of_rate(0) == 1.0
    assert cosine.share_of_rate(50) == pytest.approx(0.5)
    assert cosine.share_of_rate(99) < 0.001


def test_a_signal_waits_for_the_end_of_what_must_not_be_torn_apart():
    arrived = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: arrived.append(number))
    try:
        with shielded():
            os.kill(os.getpid(), signal.SIGTERM)
            assert arrived == []
        assert arrived == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_learned_row_stands_in_for_the_tables(pipeline):
    row = torch.randn(1, WIDTH, requires_grad=True)
    table = pipeline.text_encoder.get_input_embeddings().weight
    before = table.clone()
    prompts = Prompts(pipeline, ["a V*alice", "a cat"], pipeline.number)
    with learned_row(pipeline, pipeline.number) as slot:
        slot.row = row
        attached = prompts.hidden(torch.tensor([0, 1, 0]))
        attached.sum().backward()
    assert row.grad is not None
    models.set_row(pipeline, pipeline.number, row.detach())
    assert torch.equal(prompts.hidden(torch.tensor([0, 1, 0])), attached)
    others = torch.arange(len(table)) != pipeline.number
    assert torch.equal(table[others], before[others])


def test_prompts_are_encoded_as_the_pipeline_does(pipeline):
    texts = ["a photo of a cat", "V*alice in the snow", "a photo of a V*alice", "a photo of a cat"]
    prompts = Prompts(pipeline, texts, pipeline.number)
    hidden = prompts.hidden(torch.arange(4))
    for index, text in enumerate(texts):
        wanted, _ = pipeline.encode_prompt(text, CPU, 1, False)
        assert torch.allclose(hidden[index], wanted[0], atol=1e-6)
    assert prompts.learned == 2


def test_the_objective_is_what_the_scheduler_says(pipeline):
    objective = Objective(pipeline)
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    times = torch.tensor([0, 400, 999])
    hidden = pipeline.encode_prompt("a cat", CPU, 1, False)[0].expand(3, -1, -1)
    alphas = objective.scheduler.alphas_cumprod[times][:, None, None, None]
    noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
    target = noise
    if pipeline.scheduler.config.prediction_type == "v_prediction":
        target = alphas.sqrt() * noise - (1 - alphas).sqrt() * latents
    predicted = pipeline.unet(noisy, times, hidden).sample
    wanted = (predicted - target).square().mean(dim=(1, 2, 3))
    assert torch.allclose(objective.errors(latents, noise, times, hidden), wanted, rtol=1e-4)


def test_times_with_large_errors_are_drawn_more_often_and_count_less(pipeline):
    uniform, focused = Objective(pipeline, p2_gamma=1.0), Objective(pipeline, p2_gamma=1.0)
    latents, hidden = torch.randn(4, 4, 8, 8), pipeline.encode_prompt("a cat", CPU, 1, False)[0].expand(4, -1, -1)
    focused.focus(latents, hidden, 3)
    chances = focused.chances
    assert chances.sum().item() == pytest.approx(1.0)
    assert chances.min() >= 0.1 / len(chances)
    # Whatever the time, what it counts and how often it is drawn make what it counted before.
    assert torch.allclose((focused.weights * chances * len(chances)).float(), uniform.weights, rtol=1e-4)
    drawn = torch.cat([focused.draw(latents, torch.Generator().manual_seed(seed))[1] for seed in range(2000)])
    # One of a batch of four lies in each quarter of all that can be drawn.
    after = chances.cumsum(0)[drawn.view(-1, 4)].sort(dim=1).values
    quarters = torch.arange(5) / 4
    assert (after > quarters[:4]).all()
    assert (after - chances.max() < quarters[1:]).all()
    assert drawn.view(-1, 4).argmax(dim=1).unique().tolist() == [0, 1, 2, 3]
    times = torch.arange(len(chances))
    assert drawn.float().mean().item() == pytest.approx((times * chances).sum().item(), rel=0.03)
    # Samples then count about alike; those of any time at all keep it from being quite so.
    grid = torch.tensor([100, 200, 500, 900])
    noise = torch.randn(4, 4, 8, 8)

    def spread(objective):
        sizes = torch.stack([objective.errors(latents, noise, time.expand(4), hidden).mean() for time in grid])
        return (sizes.max() / sizes.min()).item()

    assert spread(uniform) > 5
    assert spread(focused) < 2


def test_errors_that_are_no_numbers_are_said(pipeline):
    hidden = pipeline.encode_prompt("a cat", CPU, 1, False)[0]
    with pytest.raises(DeviceFailed, match="no number"):
        Objective(pipeline).focus(torch.full((1, 4, 8, 8), torch.nan), hidden, 1)


def test_times_drawn_by_importance_leave_the_mean_loss_where_it_is(pipeline):
    uniform, focused = Objective(pipeline, p2_gamma=1.0), Objective(pipeline, p2_gamma=1.0)
    latents, hidden = torch.randn(50, 4, 8, 8), pipeline.encode_prompt("a cat", CPU, 1, False)[0].expand(50, -1, -1)
    focused.focus(latents[:4], hidden[:4], 4)

    def mean(objective):
        generator = torch.Generator().manual_seed(0)
        return torch.cat(
            [objective.errors(latents, *objective.draw(latents, generator), hidden) for _ in range(20)]
        ).mean()

    with torch.no_grad():
        assert mean(focused).item() == pytest.approx(mean(uniform).item(), rel=0.1)


def test_deltas_are_put_on_and_leave_no_trace(pipeline):
    projections = cross_attention(pipeline.unet)
    before = {place: module.weight.clone() for place, module in projections.items()}
    place = next(iter(projections))
    with adapted(projections) as projected:
        projected.put(Stacks.of({place: torch.ones_like(before[place])}))
        assert torch.equal(projections[place].weight, before[place] + 1)
        assert all(torch.equal(projections[other].weight, before[other]) for other in before if other != place)
        projected.put(Stacks.of({place: torch.ones_like(before[place])}), torch.bfloat16)
        assert torch.equal(projections[place].weight, (before[place] + 1).bfloat16())
        projected.put(Stacks())
        assert torch.equal(projections[place].weight, before[place])
    assert all(torch.equal(module.weight, before[place]) for place, module in projections.items())
    assert all(isinstance(module.weight, torch.nn.Parameter) for module in projections.values())


def test_gradient_checkpointing_changes_nothing_but_memory(pipeline):
    projections = cross_attention(pipeline.unet)
    objective = Objective(pipeline)
    hidden = pipeline.encode_prompt("a cat", CPU, 1, False)[0].detach()
    latents, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            pipeline.unet.enable_gradient_checkpointing()
        deltas = {
            place: torch.full(module.weight.shape, 0.01, requires_grad=True) for place, module in projections.items()
        }
        with adapted(projections) as projected:
            projected.put(Stacks.of(deltas))
            objective.errors(latents, noise, torch.tensor([300]), hidden).mean().backward()
        gradients.append({place: delta.grad for place, delta in deltas.items()})
    pipeline.unet.disable_gradient_checkpointing()
    assert all(gradients[0][place].abs().sum() > 0 for place in projections)
    assert all(torch.allclose(gradients[0][place], gradients[1][place], atol=1e-7) for place in projections)


def test_errors_are_weighted_so_that_no_clean_picture_counts_more_than_gamma(pipeline):
    # By the definition, on the error of the clean picture: weights min(ratio, gamma) on what `errors` is made of.
    gamma, times = 5.0, torch.tensor([5, 300, 900])
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    hidden = torch.randn(3, 8, WIDTH, generator=generator)
    plain = Objective(pipeline)
    kept = plain.scheduler.alphas_cumprod[times].double()[:, None, None, None]
    with torch.no_grad():
        noisy = plain.scheduler.add_noise(latents, noise, times)
        predicted = pipeline.unet(noisy, times, hidden).sample
        if plain.scheduler.config.prediction_type == "epsilon":
            clean = (noisy - (1 - kept).sqrt() * predicted) / kept.sqrt()
        else:
            clean = kept.sqrt() * noisy - (1 - kept).sqrt() * predicted
        ratio = (kept / (1 - kept)).flatten()
        wanted = (clean - latents).square().mean(dim=(1, 2, 3)) * ratio.clamp(max=gamma)
        weighted = Objective(pipeline, gamma).errors(latents, noise, times, hidden)
    assert torch.allclose(weighted.double(), wanted, rtol=1e-3)


@pytest.mark.parametrize("snr_gamma", [0.0, 5.0])
def test_errors_count_more_the_more_noise_there_is(pipeline, snr_gamma):
    before, after = Objective(pipeline, snr_gamma), Objective(pipeline, snr_gamma, p2_gamma=0.5)
    kept = before.scheduler.alphas_cumprod
    # 1 + the signal-to-noise ratio is 1 / (1 - kept).
    wanted = (torch.ones(before.times) if before.weights is None else before.weights) * (1 - kept).sqrt()
    assert torch.allclose(after.weights / after.weights[-1], wanted / wanted[-1], rtol=1e-4)
    mean = 1.0 if before.weights is None else before.weights.mean().item()
    assert after.weights.mean().item() == pytest.approx(mean, rel=1e-4)


def test_a_step_of_portions_takes_their_gradients_mean(pipeline):
    class Seen(torch.nn.Module):
        """An adapter that notes which gradient every portion gives."""

        def __init__(self):
            super().__init__()
            self.value = torch.nn.Parameter(torch.zeros(()))
            self.gradients = []

        def __call__(self, generator):
            fresh = self.value * 1.0
            fresh.register_hook(self.gradients.append)
            return Stacks.of({place: fresh.expand(module.weight.shape) for place, module in projections.items()})

        def groups(self):
            return [{"params": [self.value], "lr": 0.1}]

        def measures(self):
            return {}

    projections = {place: module for place, module in cross_attention(pipeline.unet).items() if "to_v" in place}
    examples = Examples(torch.randn(4, 4, 8, 8), ["a photo of a V*alice"] * 4, 4)
    adapter = Seen()
    trainable = Trainable(adapter, Row(starting_row(pipeline, "cat")), 0.0)
    state = fit(
        pipeline,
        pipeline.number,
        trainable,
        examples,
        Schedule(1, 2, accumulation=3),
        lambda deltas, share, generator: {},
    )
    assert len({gradient.item() for gradient in adapter.gradients}) == 3
    # Adam's first moment after one step is a tenth of the gradient.
    wanted = 0.1 * torch.stack(adapter.gradients).sum()
    assert torch.allclose(state.tensors["optimizer/adapter.value/exp_avg"], wanted, rtol=1e-4)


@pytest.mark.parametrize("count", [3, 5, 12])
def test_a_step_takes_no_picture_twice_unless_there_are_too_few(count):
    generator = torch.Generator().manual_seed(0)
    drawn = [_some(5, count, generator) for _ in range(100)]
    assert {len(each) for each in drawn} == {count}
    for each in drawn:
        times = each.bincount(minlength=5)
        assert times.max() - times.min() <= 1
    assert torch.cat(drawn).unique().tolist() == [0, 1, 2, 3, 4]


def test_a_step_draws_auxiliary_examples_beside_the_concepts():
    examples = Examples(torch.zeros(7, 4, 8, 8), [""] * 7, 4)
    drawn = [examples.choose(2, 1, torch.Generator().manual_seed(seed)) for seed in range(200)]
    parts = zip(*(each.split([2, 1]) for each in drawn), strict=True)
    assert [torch.cat(part).unique().tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6]]
    assert len(examples.choose(2, 0, torch.Generator())) == 2
    alone = Examples(torch.zeros(4, 4, 8, 8), [""] * 4, 4)
    assert len(alone.choose(2, 1, torch.Generator())) == 2


@pytest.fixture(params=["<|endoftext|>", "!"])
def padded(request, pipeline):
    # Stable Diffusion 2 pads with "!".
    usual = pipeline.tokenizer.pad_token
    pipeline.tokenizer.pad_token = request.param
    yield pipeline
    pipeline.tokenizer.pad_token = usual


def test_known_states_are_those_of_random_prompts_of_the_empty_one_and_of_what_is_named(padded):
    pipeline = padded

    def moment(texts):
        root = known_states(pipeline, texts)
        return root @ root.T

    def states(text):
        hidden, _ = pipeline.encode_prompt(text, CPU, 1, False)
        return hidden[0].T @ hidden[0] / len(hidden[0])

    # 256 prompts of random words, and 32 times each that is named, the empty one being always named.
    few, more = 288 * moment([]), 320 * moment(["a photo of a V*alice"])
    named = (more - few) / 32
    assert (named - states("a photo of a V*alice")).norm() < 0.02 * named.norm()
    assert torch.equal(known_states(pipeline, []), known_states(pipeline, []))
    without_empty = few - 32 * states("")
    assert torch.linalg.eigvalsh(without_empty).min() > -0.01 * without_empty.trace()


def test_each_kept_concept_weighs_half_however_many_prompts_and_concepts_there_are(pipeline):
    usual = known_states(pipeline, [])
    concepts = [["a photo of a cat", "cat"], ["a photo of a dog on a beach"], ["mug", "a mug", "the mug"]]
    root = with_kept(pipeline, usual, concepts)
    wanted = usual @ usual.T
    for texts in concepts:
        for text in texts:
            hidden = pipeline.encode_prompt(text, CPU, 1, False)[0][0]
            wanted = wanted + 0.5 / len(texts) * hidden.T @ hidden / len(hidden)
    assert (root @ root.T - wanted).norm() < 1e-3 * wanted.norm()
    assert root.shape[1] <= usual.shape[0]


def test_known_states_are_those_of_whole_words(pipeline, monkeypatch):
    tokenizer = pipeline.tokenizer
    asked = []
    monkeypatch.setattr(
        pipeline.text_encoder, "forward", lambda numbers: asked.append(numbers) or (torch.ones(*numbers.shape, 4),)
    )
    known_states(pipeline, ["a cat"], without=tokenizer.convert_tokens_to_ids("cat</w>"))
    usual = {*tokenizer.all_special_ids, *tokenizer("a photo of a").input_ids}
    random = {*torch.cat(asked)[:256].flatten().tolist()} - usual
    words = tokenizer.convert_ids_to_tokens(sorted(random))
    assert len(words) > 8
    assert all(word.endswith("</w>") and len(word) > len("x</w>") for word in words)
    assert all(word.removesuffix("</w>").isalpha() for word in words)
    assert "cat</w>" not in words


def bf16_fit(pipeline, autocast, report=lambda report: None):
    row = Row(torch.randn(1, WIDTH))
    start = row().detach().clone()
    fit(
        pipeline,
        pipeline.number,
        Trainable(None, row, 1e-2),
        Examples(torch.randn(2, 4, 8, 8), ["a photo of a V*alice"] * 2, 2),
        Schedule(2, 2),
        lambda deltas, share, generator: {},
        autocast=autocast,
        callbacks=Callbacks(report=report, report_steps=1),
    )
    assert row().dtype == torch.float32
    assert not torch.equal(row().detach(), start)


def test_in_bf16_the_unet_multiplies_in_it_and_is_left_as_it_was(pipeline):
    before = pipeline.unet.attn_processors
    seen = set()

    def look(module, inputs, output):
        processors = {type(each).__name__ for each in pipeline.unet.attn_processors.values()}
        seen.add((output.dtype, *processors))

    layers = {"conv_in": pipeline.unet.conv_in, **cross_attention(pipeline.unet)}
    hooks = [layer.register_forward_hook(look) for layer in layers.values()]
    try:
        bf16_fit(pipeline, True)
        assert seen == {(torch.bfloat16, "AttnProcessor")}
        assert pipeline.unet.attn_processors == before
        seen.clear()
        bf16_fit(pipeline, False)
        assert seen == {(torch.float32, "AttnProcessor2_0")}
    finally:
        for hook in hooks:
            hook.remove()


def test_attention_is_as_it_was_when_a_fit_fails(pipeline):
    before = pipeline.unet.attn_processors

    def fail(report):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bf16_fit(pipeline, True, fail)
    assert pipeline.unet.attn_processors == before


def test_attention_over_large_latents_stays_fused(pipeline):
    # Plain products would keep gigabytes for the backward pass.
    before = pipeline.unet.attn_processors
    with models.plain_attention(pipeline.unet):
        assert pipeline.unet.attn_processors != before
    side = pipeline.unet.config.sample_size
    pipeline.unet.register_to_config(sample_size=64)
    with models.plain_attention(pipeline.unet):
        assert pipeline.unet.attn_processors == before
    pipeline.unet.register_to_config(sample_size=side)


@pytest.mark.parametrize(
    ("abilities", "fast"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx512_f": True, "amx_bf16": False}, False)],
)
def test_a_cpu_is_fast_in_bf16_where_it_says_so(monkeypatch, abilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert true_has_fast_bf16(CPU) is fast
    assert true_has_fast_bf16(torch.device("cuda")) is True
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert true_has_fast_bf16(CPU) is False
