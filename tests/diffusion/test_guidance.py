"""What is said beside a concept: how much of it counts, for which samples, and that the U-Net is as it was."""

import diffusers
import numpy as np
import pytest
import torch

from conceptctl.diffusion import models, sampling
from conceptctl.diffusion.composition.guidance import GuidedPrompt, composable_guidance
from conceptctl.diffusion.composition.regions import Composition
from tests.diffusion.drawing import draw
from tests.tiny_pipeline import write_tiny_pipeline

CPU = torch.device("cpu")
SAID = GuidedPrompt("a cat", "a dog in the snow", "a dog")


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def pipeline(request, tmp_path_factory):
    return models.load_pipeline(
        write_tiny_pipeline(tmp_path_factory.mktemp("base"), prediction_type=request.param), CPU
    )


def pixels(pictures):
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


@torch.no_grad()
@pytest.mark.parametrize(("samples", "count"), [(2, 2), (4, 2), (2, 1)])
def test_the_difference_is_added_to_the_last_samples(pipeline, samples, count):
    unet = pipeline.unet
    size = unet.config.sample_size
    latents = torch.randn(samples, 4, size, size, generator=torch.Generator().manual_seed(0))
    texts = ("a cat", SAID.with_words, SAID.without_words)
    own, with_words, without_words = (pipeline.encode_prompt(text, CPU, 1, False)[0] for text in texts)
    time = torch.tensor(500)

    def predicted(states):
        return unet(latents, time, encoder_hidden_states=states.expand(samples, -1, -1), return_dict=False)[0]

    plain = predicted(own)
    difference = predicted(with_words) - predicted(without_words)
    with composable_guidance(unet, with_words, without_words, 2.0, count):
        found = predicted(own)
    assert torch.equal(found[: samples - count], plain[: samples - count])
    assert torch.allclose(found[-count:], (plain + 2 * difference)[-count:], atol=1e-5)
    assert difference[-count:].abs().max() > 1e-3
    assert torch.equal(predicted(own), plain)
    with pytest.raises(KeyError), composable_guidance(unet, with_words, without_words, 2.0, count):
        raise KeyError
    assert torch.equal(predicted(own), plain)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_what_is_said_changes_the_picture_and_what_is_not_said_does_not(pipeline, guidance):
    how = {"steps": 3, "guidance": guidance}
    plain, said = (pixels(draw(pipeline, each, [0], **how)) for each in ("a cat", SAID))
    assert (plain != said).any()
    nothing = pixels(draw(pipeline, GuidedPrompt("a cat", "a dog", "a dog"), [0], **how))
    assert np.array_equal(nothing, plain)
    assert np.array_equal(pixels(draw(pipeline, "a cat", [0], **how)), plain)


def test_guidance_does_not_multiply_it(pipeline, monkeypatch):
    """What is predicted for the prompt is multiplied by guidance, and this is not."""
    scales = []

    def seen(unet, with_words, without_words, scale, count):
        scales.append(scale)
        return composable_guidance(unet, with_words, without_words, scale, count)

    monkeypatch.setattr(sampling, "composable_guidance", seen)
    for guidance in (1.0, 4.0):
        list(draw(pipeline, SAID, [0], steps=1, guidance=guidance))
    assert scales == [sampling.WORD_SCALE, sampling.WORD_SCALE / 4]


def test_a_base_that_cannot_paint_over_lets_words_count(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline, "scheduler", diffusers.IPNDMScheduler())
    plain, said = (pixels(draw(pipeline, each, [0], steps=3, guidance=1.0)) for each in ("a cat", SAID))
    assert (plain != said).any()


def test_it_counts_in_regions_too(pipeline):
    how = {"steps": 3, "guidance": 4.0}
    plain, said = (
        pixels(draw(pipeline, Composition("a cat", (each, "a dog")), [0], **how)) for each in ("a cat", SAID)
    )
    assert (plain != said).any()


def test_a_picture_does_not_depend_on_how_many_are_drawn(pipeline):
    how = {"steps": 2, "guidance": 4.0}
    three, alone = (pixels(draw(pipeline, SAID, seeds, **how)) for seeds in ([0, 1, 2], [2]))
    assert np.array_equal(three[2:], alone)
