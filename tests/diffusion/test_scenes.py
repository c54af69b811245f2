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
from conceptctl.diffusion.latents import decode, encode
from conceptctl.diffusion.objective import Objective
from conceptctl.diffusion.scenes import Cast, learned_from, scenes, side_by_side
from tests.tiny_pipeline import write_tiny_pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    loaded = models.load_pipeline(write_tiny_pipeline(tmp_path_factory.mktemp("base")), torch.device("cpu"))
    loaded.number = models.add_concept(loaded, "alice", starting_row(loaded, "cat"))
    return loaded


def plain(colour, side=64):
    return Image.new("RGB", (side, side), colour)


@pytest.mark.parametrize("side", [16, 63, 64, 512])
def test_each_picture_fills_its_half(side):
    scene = np.asarray(side_by_side(plain("red", side), plain("blue", side)))
    assert scene.shape == (side, side, 3)
    assert (scene[:, : side // 2] == (255, 0, 0)).all()
    assert (scene[:, side // 2 :] == (0, 0, 255)).all()


def test_the_middle_of_a_picture_stands_at_the_bottom_of_its_half():
    marked = plain("white")
    marked.paste("black", (24, 40, 40, 64))
    dark = np.asarray(side_by_side(marked, plain("white")).convert("L")) < 128
    rows, columns = np.nonzero(dark)
    assert (rows.min(), rows.max()) == (pytest.approx(64 - 16, abs=1), 63)
    assert columns.mean() == pytest.approx(15.5, abs=1)
    # What is above goes on upwards as it was.
    striped = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    above = np.asarray(side_by_side(striped, striped))[:22]
    assert (above == above[:1]).all()


def test_what_is_learned_from_shows_a_picture():
    black = plain("black")
    lower = black.copy()
    lower.paste("white", (0, 1, 64, 64))
    changed = np.asarray(side_by_side(lower, black)) != np.asarray(side_by_side(black, black))
    seen = learned_from(16, 16)[0].bool().numpy().repeat(4, axis=0).repeat(4, axis=1)
    left, right = seen[:, :32], seen[:, 32:]
    assert left.any()
    assert (left == right[:, ::-1]).all()
    assert changed.all(axis=2)[:, :32][left].all()
    assert not seen[:, 28:36].any()
    assert learned_from(8, 8).sum() > 0


def test_prompts_name_the_left_subject_first():
    own = Cast(("a V*alice", "V*alice"), [plain("red")])
    others = [
        [Cast(("a cat",), [plain("blue")]), Cast(("a dog",), [plain("blue")])],
        [],
        [Cast(("a V*bob",), [plain("lime")])],
    ]
    named = Counter()
    for picture, prompt in scenes(own, others, 400, random.Random(0)):
        left_is_own = picture.getpixel((5, 60)) == (255, 0, 0)
        first, relation, second = prompt.removeprefix("a photo of ").partition(
            " next to " if " next to " in prompt else " and "
        )
        assert relation
        mine, other = (first, second) if left_is_own else (second, first)
        assert mine in own.names
        assert picture.getpixel((60, 60) if left_is_own else (5, 60)) == (
            (0, 255, 0) if "bob" in other else (0, 0, 255)
        )
        named[left_is_own] += 1
        named[other] += 1
    assert 150 < named[True] < 250
    # Groups are there alike, and so is each in its group.
    assert 150 < named["a V*bob"] < 250
    assert 60 < named["a cat"] < 140
    assert 60 < named["a dog"] < 140


def test_a_step_draws_scenes_beside_the_rest():
    examples = Examples(torch.zeros(10, 4, 8, 8), [""] * 10, 4, 3, torch.zeros(1, 8, 8))
    drawn = [examples.choose(2, 1, 2, torch.Generator().manual_seed(seed)) for seed in range(200)]
    parts = zip(*(each.split([2, 1, 2]) for each in drawn), strict=True)
    assert [torch.cat(part).unique().tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    alone = Examples(torch.zeros(4, 4, 8, 8), [""] * 4, 4)
    assert len(alone.choose(2, 1, 2, torch.Generator())) == 2
    assert alone.counted(torch.tensor([0, 3])) is None


def test_of_a_scene_only_what_counts_is_learned_from(pipeline):
    seen = torch.zeros(1, 8, 8)
    seen[:, 4:] = 1
    examples = Examples(torch.zeros(4, 4, 8, 8), [""] * 4, 2, 2, seen)
    counted = examples.counted(torch.tensor([0, 3]))
    assert torch.equal(counted, torch.stack([torch.ones(1, 8, 8), seen]))
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
