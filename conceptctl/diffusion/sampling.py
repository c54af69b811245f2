"""Draws pictures: one seed, one picture, whatever else is drawn beside it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from conceptctl.config import Drawing
from conceptctl.diffusion.composition.difference_masks import difference_masks
from conceptctl.diffusion.composition.guidance import GuidedPrompt, composable_guidance
from conceptctl.diffusion.composition.regions import Composition, Prompt, Region, parts_of
from conceptctl.diffusion.memory_saving import for_little_memory, text_encoders_on_device
from conceptctl.diffusion.models import Pipeline
from conceptctl.diffusion.networks import encode_prompt, pipeline_arguments, unwanted
from conceptctl.diffusion.samplers import make_scheduler
from conceptctl.diffusion.text_encoders import States
from conceptctl.errors import UsageError

STRENGTH = 0.9
"""How much of the noise a region is painted over from, as a share of the steps: nearly all, so that the concept has its
own shape and colours; what is left keeps the picture's light."""
WORD_SCALE = 4.0
"""How much of the difference that words make to others of the class is added for a concept, beside guidance."""


def pipeline_sampler(
    pipeline: Pipeline,
    prompt: Prompt,
    how: Drawing,
    *,
    watch: Callable[[float], None] = lambda share: None,
) -> Callable[[Sequence[int]], list[Image.Image]]:
    """Prepare to draw pictures of one prompt with a Stable Diffusion pipeline.

    Args:
        pipeline: The pipeline.
        prompt: What to draw.
        how: Steps, guidance, size and the like.
        watch: Told after every denoising step what share of the pictures is done. It is called while the device is at
            work, and must not wait for it.

    Returns:
        What draws one picture a seed, all of them together.

    Raises:
        UsageError: The prompt names several concepts, and parts of this base's pictures cannot be painted over; or the
            sampler cannot draw with this base.
    """
    if isinstance(prompt, Composition):
        check_paintable(pipeline)
    if how.sampler:
        pipeline = _with_scheduler(pipeline, make_scheduler(pipeline.scheduler, how.sampler, how.steps))
    with torch.no_grad(), text_encoders_on_device(pipeline) if how.low_vram else nullcontext():
        states = _states(pipeline, prompt, how.negative, how.guidance)
    if how.low_vram:
        pipeline = for_little_memory(pipeline)
    painter = _painter(pipeline) if isinstance(prompt, Composition) else None
    told: dict[str, Any] = {"num_inference_steps": how.steps, "guidance_scale": how.guidance}
    if how.size:
        told |= {"width": how.size[0], "height": how.size[1]}

    @torch.no_grad()
    def sample(seeds: Sequence[int]) -> list[Image.Image]:
        # Each part of a picture takes about as many steps as the whole.
        watches = [step_watch(watch, part, len(states)) for part in range(len(states))]
        return _drawn(pipeline, painter, list(zip(states, watches, strict=True)), seeds, told)

    return sample


def _drawn(
    pipeline: Pipeline,
    painter: Pipeline | None,
    parts: Sequence[tuple[_States, _StepWatch]],
    seeds: Sequence[int],
    how: Mapping[str, Any],
) -> list[Image.Image]:
    """Draw pictures of one prompt together."""
    count, steps, guidance = len(seeds), how["num_inference_steps"], how["guidance_scale"]
    # Noise made on the CPU is the same on every device. The regions' follows the whole picture's.
    how = {**how, "generator": [torch.Generator().manual_seed(seed) for seed in seeds]}
    (whole, watch), *regions = parts
    with whole.guided(pipeline.unet, guidance, count):
        pictures: list[Image.Image] = pipeline(**whole.expanded(count), **how, callback_on_step_end=watch).images
    if painter is None:
        return pictures
    width, height = pictures[0].size
    # Rounded up to whole steps; half of one more, since diffusers cuts off the decimals.
    strength = min(1.0, (math.ceil(STRENGTH * steps) + 0.5) / steps)
    for index, (own, watch) in enumerate(regions):
        region = Region(index, len(regions), width, height)
        with own.guided(pipeline.unet, guidance, count):
            painted = painter(
                **own.expanded(count),
                **{**how, "width": width, "height": height},
                image=[region.cut_out(picture) for picture in pictures],
                mask_image=[region.painted()] * count,
                strength=strength,
                callback_on_step_end=watch,
            ).images
        assert own.empty is not None
        found = difference_masks(pipeline, painted, own.wanted, own.empty)
        pictures = [region.put_back(*each) for each in zip(pictures, painted, found, strict=True)]
    return pictures


def _with_scheduler(pipeline: Pipeline, scheduler: Any) -> Pipeline:
    """The same networks with another scheduler; the pipeline itself, from which training is set up, keeps its own."""
    other = copy.copy(pipeline)
    other.scheduler = scheduler
    return other


_StepWatch = Callable[[Pipeline, int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
"""Called by a pipeline after a step: with itself, the step from 0, its time, what may be changed; returns changes."""


def step_watch(watch: Callable[[float], None], part: int = 0, parts: int = 1) -> _StepWatch:
    """Tell after each step of a part how much of the whole is done, all parts taking about as long."""

    def after_step(pipeline: Pipeline, step: int, time: Tensor, changeable: dict[str, Tensor]) -> dict[str, Tensor]:
        # Some schedulers take more steps than they are asked for, so the count is the pipeline's.
        watch((part + (step + 1) / pipeline.num_timesteps) / parts)
        return {}

    return after_step


class _States(NamedTuple):
    """What is told of what is wanted and, with guidance, of what is not, each for one sample."""

    wanted: States
    unwanted: States | None
    words: tuple[States, States] | None = None
    """Those of others of the class, with what is said beside the concept and without."""
    empty: States | None = None
    """What is told of an empty prompt, where it is compared with."""

    def guided(self, unet: nn.Module, guidance: float, count: int) -> AbstractContextManager[None]:
        """Let words count while so many pictures are drawn."""
        if self.words is None:
            return nullcontext()
        # Guidance multiplies whatever is predicted for the prompt, here or in the U-Net itself.
        return composable_guidance(unet, *self.words, WORD_SCALE / max(1.0, guidance), count)

    def expanded(self, count: int) -> dict[str, Tensor | None]:
        """What a pipeline is given to draw so many pictures."""
        return pipeline_arguments(self.wanted, self.unwanted, count)


def _states(pipeline: Pipeline, prompt: Prompt, negative: str, guidance: float) -> list[_States]:
    """Encode what the picture and each of its regions is drawn from, and with guidance what is not wanted."""
    # Some bases are told how closely to follow, and draw no second picture for it.
    guided = guidance > 1 and pipeline.unet.config.time_cond_proj_dim is None

    found = []
    for index, part in enumerate(parts_of(prompt)):
        text = part.prompt if isinstance(part, GuidedPrompt) else part
        wanted = encode_prompt(pipeline, text)
        words = None
        if isinstance(part, GuidedPrompt):
            words = encode_prompt(pipeline, part.with_words), encode_prompt(pipeline, part.without_words)
        not_wanted = unwanted(pipeline, negative, wanted) if guided else None
        found.append(_States(wanted, not_wanted, words, unwanted(pipeline, "", wanted) if index else None))
    return found


def check_paintable(pipeline: Pipeline) -> None:
    """Check that parts of a base's pictures can be painted over.

    Raises:
        UsageError: They cannot.
    """
    config = pipeline.unet.config
    square = isinstance(config.sample_size, int)
    if not square or config.in_channels != 4 or not hasattr(pipeline.scheduler, "add_noise"):
        raise UsageError("this base cannot paint several concepts into a picture", hint="--prompt-only")


def _painter(pipeline: Pipeline) -> Pipeline:
    """The pipeline that paints over parts of pictures, with the same networks and sampler."""
    from diffusers import (
        DDIMScheduler,
        PNDMScheduler,
        StableDiffusionInpaintPipeline,
        StableDiffusionXLInpaintPipeline,
    )

    # It adapts the scheduler's configuration to itself. Begun in the middle, PNDM leaves out the step that it doubles.
    kind = type(pipeline.scheduler)
    scheduler = (DDIMScheduler if kind is PNDMScheduler else kind).from_config(pipeline.scheduler.config)
    parts = {**pipeline.components, "scheduler": scheduler}
    if hasattr(pipeline, "text_encoder_2"):
        zeros = pipeline.config.force_zeros_for_empty_prompt
        painter = StableDiffusionXLInpaintPipeline(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
    else:
        painter = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    painter.set_progress_bar_config(disable=True)
    return painter
