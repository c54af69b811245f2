"""Draws pictures with a network with joint attention: one seed, one picture, whatever else is drawn beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from conceptctl.config import Drawing
from conceptctl.diffusion.composition.guidance import GuidedPrompt
from conceptctl.diffusion.composition.regions import Composition, Prompt
from conceptctl.diffusion.joint_networks import JointNetwork, told_of
from conceptctl.diffusion.memory_saving import for_little_memory, text_encoders_on_device
from conceptctl.diffusion.sampling import WORD_SCALE, step_watch
from conceptctl.diffusion.text_encoders import PooledStates
from conceptctl.errors import UsageError

if TYPE_CHECKING:
    from conceptctl.diffusion.joint_text import JointTextEncoders


def joint_sampler(
    network: JointNetwork,
    text: JointTextEncoders,
    prompt: Prompt,
    how: Drawing,
    *,
    watch: Callable[[float], None] = lambda share: None,
) -> Callable[[Sequence[int]], list[Image.Image]]:
    """Prepare to draw pictures of one prompt; see `sampling.pipeline_sampler`.

    Args:
        network: The network, with its pipeline.
        text: The pipeline's text encoders.
        prompt: What to draw.
        how: Steps, guidance, size and the like; its sampler is the base's own, "", for those of other bases step along
            other paths.
        watch: Told after every denoising step what share of the pictures is done.

    Raises:
        UsageError: The prompt names several concepts in regions of their own, the size is too large, or there is a
            sampler.
    """
    if isinstance(prompt, Composition):
        raise UsageError("this base cannot paint several concepts into a picture", hint="--prompt-only")
    if how.sampler:
        raise UsageError("this base is drawn with its own sampler only", hint="without --sampler")
    width, height = how.size or (network.side, network.side)
    network.check_size((width, height))
    guided = network.guided and how.guidance > 1
    scale = WORD_SCALE / (how.guidance if guided else 1.0)  # Guidance multiplies whatever is predicted for the prompt.
    with text_encoders_on_device(network.pipeline) if how.low_vram else nullcontext():
        told, beside = _encoded(text, prompt, how.negative if guided else None)
    pipeline = for_little_memory(network.pipeline) if how.low_vram else network.pipeline

    @torch.no_grad()
    def sample(seeds: Sequence[int]) -> list[Image.Image]:
        states = {name: each for prefix, part in told for name, each in told_of(part, len(seeds), prefix).items()}
        with joint_guidance(pipeline.transformer, beside, scale, len(seeds)):
            made: list[Image.Image] = pipeline(
                **states,
                num_inference_steps=how.steps,
                guidance_scale=how.guidance,
                # Noise made on the CPU is the same on every device.
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                width=width,
                height=height,
                callback_on_step_end=step_watch(watch),
            ).images
        return made

    return sample


def _encoded(
    text: JointTextEncoders, prompt: str | GuidedPrompt, negative: str | None
) -> tuple[list[tuple[str, PooledStates]], tuple[PooledStates, PooledStates] | None]:
    """What a pipeline is told, by the beginning of the names; and what words beside a concept change, if there are."""
    words = prompt if isinstance(prompt, str) else prompt.prompt
    told = [("", text.encode_prompt(words))]
    if negative is not None:
        told.append(("negative_", text.encode_prompt(negative)))
    if isinstance(prompt, str):
        return told, None
    return told, (text.encode_prompt(prompt.with_words), text.encode_prompt(prompt.without_words))


@contextmanager
def joint_guidance(
    transformer: nn.Module, beside: tuple[PooledStates, PooledStates] | None, scale: float, count: int
) -> Iterator[None]:
    """Add to what a network predicts what some words change; see `composition.guidance`.

    Velocities of straight lines are linear in the predicted noise, so what is added to one is added to the other.

    Args:
        transformer: A network that is called with names for all that it is told.
        beside: The states of the class with the words and without, of one sample each; None for no words.
        scale: How much of the difference is added.
        count: To how many samples, the last of those that it is called with.
    """
    if beside is None:
        yield
        return
    hidden = torch.cat([each.hidden.expand(count, -1, -1) for each in beside])
    pooled = torch.cat([each.pooled.expand(count, -1) for each in beside])

    def add(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: tuple[Tensor]) -> tuple[Tensor]:
        of_samples = ("hidden_states", "timestep", "guidance")
        twice = {name: torch.cat([kwargs[name][-count:]] * 2) for name in of_samples if kwargs.get(name) is not None}
        told = {**kwargs, **twice, "encoder_hidden_states": hidden, "pooled_projections": pooled}
        # Not as a call, which would come here again.
        seen, unseen = module.forward(**told)[0].chunk(2)
        predicted = output[0].clone()
        predicted[-count:] += scale * (seen - unseen)
        return (predicted,)

    hook = transformer.register_forward_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
