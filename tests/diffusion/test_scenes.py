"""Scenes: two pictures in one, what is said of them, and what of them is learned from."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from conceptctl.diffusion import models
from conceptctl.diffusion.conditioning import starting_row
from conceptctl.diffusion.examples import Examples
from conceptctl.diffusion.fit import Schedule, Trainable, _step_seed, denoising_loss
from conceptctl.diffusion.latents import decode, encode
from conceptctl.diffusion.objective import Objective
from conceptctl.diffusion.regions import Composition, prompts_of, regions
from conceptctl.diffusion.scenes import Cast, Portrait, learned_from, scenes, side_by_side
from tests.tiny_pipeline import write_tiny_pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    loaded = models.load_pipeline(write_tiny_pipeline(tmp_path_factory.mktemp("base")), torch.device("cpu"))
    loaded.number = models.add_concept(loaded, "alice", starting_row(loaded, "cat"))
    return loaded


def plain(colour, side=64):
    return Image.new("RGB", (side, side), colour)


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("side", [16, 63, 64, 512])
def test_the_other_one_is_seen_behind_the_concept(side, column):
    scene = np.asarray(side_by_side(plain("red", side), plain("blue", side), column))
    assert scene.shape == (side, side, 3)
    red = (scene == (255, 0, 0)).all(axis=2)
    assert (red | (scene == (0, 0, 255)).all(axis=2)).all()
    assert (red == red[:1]).all()
    assert red[0].sum() == round(side * 5 / 8)
    assert red[0, 0 if column == 0 else -1]


@pytest.mark.parametrize(("column", "middle"), [(0, 17), (1, 47)])
def test_a_picture_stands_in_its_column_a_little_above_the_lower_edge(column, middle):
    marked = plain("white")
    marked.paste("black", (24, 40, 40, 64))
    dark = np.asarray(side_by_side(marked, plain("white"), column).convert("L")) < 128
    rows, columns = np.nonzero(dark)
    assert columns.mean() + 0.5 == pytest.approx(middle, abs=1)
    assert rows.min() == pytest.approx(64 - 3 - 0.7 * 24, abs=1)
    # What is below goes on downwards as it was, and what is above upwards.
    striped = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    drawn = np.asarray(side_by_side(striped, striped, column))
    assert (drawn == drawn[:1]).all()
    assert rows.max() == 63


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("side", [8, 15, 16, 64])
def test_what_is_learned_from_shows_the_concept(side, column):
    share = learned_from(side, side, column)[0]
    assert torch.equal(share, learned_from(side, side, 1 - column)[0].flip(1))
    assert (share == share[:1]).all()
    shown = (np.asarray(side_by_side(plain("red", side), plain("blue", side), column))[0] == (255, 0, 0)).all(axis=1)
    assert shown[share[0].bool().numpy()].all()
    assert side / 2 <= share[0].sum() < shown.sum()
    assert share[0, 0 if column == 0 else -1] == 1


def test_prompts_name_the_left_subject_first():
    portraits = [Portrait(plain("red"), "a photo of a V*alice", "at night"), Portrait(plain("lime"), "V*alice asleep")]
    own = Cast("a person", portraits)
    others = [Cast(f"a {word}", [Portrait(plain("blue"), f"a photo of a {word}")]) for word in ("cat", "dog")]
    counted = Counter()
    for scene in scenes(own, others, 400, random.Random(0)):
        ends = [scene.picture.getpixel(place) for place in ((5, 60), (60, 60))]
        left_is_own = ends[1] == (0, 0, 255)
        shown, behind = ends if left_is_own else ends[::-1]
        assert behind == (0, 0, 255)
        # What is around the concept is said of the whole scene.
        assert scene.prompt.whole.endswith(" at night") == (shown == (255, 0, 0))
        assert scene.column == (0 if left_is_own else 1)
        first, relation, second = (
            scene.prompt.whole.removeprefix("a photo of ")
            .removesuffix(" at night")
            .partition(" next to " if " next to " in scene.prompt.whole else " and ")
        )
        assert relation
        mine, other = (first, second) if left_is_own else (second, first)
        assert mine == "a person"
        columns = (portraits[shown != (255, 0, 0)].prompt, f"a photo of {other}")
        assert scene.prompt.columns == (columns if left_is_own else columns[::-1])
        counted[left_is_own] += 1
        counted[other] += 1
    assert 150 < counted[True] < 250
    assert 150 < counted["a cat"] < 250
    assert counted["a cat"] + counted["a dog"] == 400


def test_a_step_draws_scenes_beside_the_rest():
    examples = Examples(torch.zeros(10, 4, 8, 8), [""] * 10, 4, 3, torch.zeros(3, 1, 8, 8))
    drawn = [examples.choose(2, 1, 2, torch.Generator().manual_seed(seed)) for seed in range(200)]
    parts = zip(*(each.split([2, 1, 2]) for each in drawn), strict=True)
    assert [torch.cat(part).unique().tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    alone = Examples(torch.zeros(4, 4, 8, 8), [""] * 4, 4)
    assert len(alone.choose(2, 1, 2, torch.Generator())) == 2
    assert alone.counted(torch.tensor([0, 3])) is None


def test_of_a_scene_only_what_counts_is_learned_from(pipeline):
    upper, lower = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    upper[:, :4] = 1
    lower[:, 4:] = 1
    examples = Examples(torch.zeros(4, 4, 8, 8), [""] * 4, 2, 2, torch.stack([upper, lower]))
    assert torch.equal(examples.counted(torch.tensor([2, 1, 3])), torch.stack([upper, torch.ones(1, 8, 8), lower]))
    counted = examples.counted(torch.tensor([0, 3]))
    objective = Objective(pipeline)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    noise, times = objective.draw(latents, generator)
    hidden = pipeline.encode_prompt("a cat", torch.device("cpu"), 1, False)[0].expand(2, -1, -1)
    with torch.no_grad():
        noisy = objective.scheduler.add_noise(latents, noise, times)
        squared = (pipeline.unet(noisy, times, hidden).sample - noise).square()
        errors = objective.errors(latents, noise, times, hidden, counted)
    assert errors[0].item() == pytest.approx(squared[0].mean().item(), rel=1e-5)
    assert errors[1].item() == pytest.approx(squared[1, :, 4:].mean().item(), rel=1e-5)


def test_latents_are_decoded_as_the_pipeline_does(pipeline):
    latents = encode(pipeline, [plain(colour, 16) for colour in ("red", "blue", "white", "lime", "black")])
    raw = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample.detach()
    wanted = ((raw / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    for picture, pixels in zip(decode(pipeline, latents), wanted, strict=True):
        assert np.abs(np.asarray(picture).astype(float) - pixels).max() <= 1


def test_in_a_training_columns_see_their_own_prompts(pipeline):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    composed = Composition("a cat next to a dog", ("a photo of a V*alice", "a dog"))
    seen = learned_from(8, 8, 0)[None]
    examples = Examples(latents, ["a photo of a V*alice", composed], 1, 1, seen)
    schedule = Schedule(1, 1, scene_batch=1)
    row = starting_row(pipeline, "cat")

    class Token(torch.nn.Module):
        def forward(self):
            return row

    found = denoising_loss(
        pipeline, pipeline.number, Trainable(None, Token(), 0.0), examples, schedule, batches=1, sampled=False
    )
    objective = Objective(pipeline)

    def errors(mask):
        step = torch.Generator().manual_seed(_step_seed(schedule.seed, 1))
        chosen = examples.choose(1, 0, 1, step)
        noise, times = objective.draw(latents[chosen], step)
        hidden = [pipeline.encode_prompt(text, torch.device("cpu"), 1, False)[0] for text in prompts_of(composed)]
        alone = pipeline.encode_prompt("a photo of a V*alice", torch.device("cpu"), 1, False)[0]
        with torch.no_grad(), regions(pipeline.unet, 2) as shared:
            plain = objective.errors(latents[:1], noise[:1], times[:1], alone)
            shared.compose(torch.tensor([mask]))
            scene = objective.errors(latents[1:], noise[1:], times[1:], torch.cat(hidden, dim=1), seen)
        return torch.cat([plain, scene]).mean().item()

    assert found == pytest.approx(errors(mask=True), rel=1e-5)
    assert abs(errors(mask=True) - errors(mask=False)) > 3e-4 * found
