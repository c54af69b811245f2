"""Composable guidance: what a prompt says beside its concept, made to count.

A concept is tied to the few prompts that it was learned under, and what it never was in its pictures ("with a rainbow")
is easily not seen in a longer one. The model knows what such words look like on others of its class: at every step the
difference that they make to them is added to what is predicted for the prompt, as scores of several prompts are added
in Liu et al. 2022, "Compositional visual generation with composable diffusion models", eq. 11.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conceptctl.diffusion.networks import both, unet_arguments
from conceptctl.diffusion.text_encoders import States


@dataclass(frozen=True)
class GuidedPrompt:
    """A prompt that names one concept and says something beside."""

    prompt: str
    """ "a photo of a V*alice in the snow"."""
    with_words: str
    """The same of others of its class: "a photo of a person in the snow"."""
    without_words: str
    """Without what is said beside: "a photo of a person"."""


@contextmanager
def composable_guidance(
    unet: nn.Module, with_words: States, without_words: States, scale: float, count: int
) -> Iterator[None]:
    """Add to what a U-Net predicts what some words change.

    Args:
        unet: A conditional U-Net.
        with_words: The states of the class with the words, of one sample.
        without_words: Those without.
        scale: How much of the difference is added.
        count: To how many samples, the last of those that it is called with; the others, if any, are for guidance.
    """

    def add(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: tuple[Tensor]) -> tuple[Tensor]:
        samples, *rest = args
        added = kwargs.get("added_cond_kwargs") or {}
        sizes = torch.cat([added["time_ids"][-count:]] * 2) if "time_ids" in added else None
        condition = kwargs.get("timestep_cond")
        twice = {
            **kwargs,
            **unet_arguments(both(with_words, without_words, count), sizes),
            "timestep_cond": None if condition is None else torch.cat([condition[-count:]] * 2),
        }
        # Not as a call, which would come here again.
        seen, unseen = module.forward(torch.cat([samples[-count:]] * 2), *rest, **twice)[0].chunk(2)
        predicted = output[0].clone()
        predicted[-count:] += scale * (seen - unseen)
        return (predicted,)

    hook = unet.register_forward_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
