"""What a rectified flow is trained on: pictures on straight lines to noise, and which way those lines go.

x_t = (1 - t) x_0 + t eps, and the network predicts the velocity eps - x_0 (Esser et al. 2024, "Scaling rectified flow
transformers for high-resolution image synthesis", section 3; Liu et al. 2022, "Flow straight and fast").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from conceptctl.diffusion.noise import NoisedLatents
from conceptctl.errors import NotFound, UsageError

if TYPE_CHECKING:
    from conceptctl.diffusion.text_encoders import States
    from conceptctl.learning.backbone import Noising


def time_shift(scheduler_config: Any, tokens: int) -> float:
    """By how much times are moved towards noise, for pictures of so many tokens: alpha of Esser et al., section 5.3.2.

    What is larger needs more noise to be hidden. A base's own scheduler says by how much: always as much, or along a
    line in the number of tokens, in the logarithm.

    Args:
        scheduler_config: Of a `FlowMatchEulerDiscreteScheduler`.
        tokens: Patches of one picture.

    Raises:
        NotFound: The schedule is another.
    """
    config = scheduler_config
    if not config.get("use_dynamic_shifting", False):
        return float(config.get("shift", 1.0))
    if config.get("time_shift_type", "exponential") != "exponential":
        raise NotFound("a base with a linear time shift cannot be learned on", hint="an exponential one, or none")
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return math.exp(least + (tokens - few) * (most - least) / (many - few))


class FlowObjective:
    """The loss of conditional flow matching; see `learning.backbone.Objective`.

    Times are drawn from the logit-normal distribution with mean 0 and deviation 1, the best of those that Esser et al.
    2024 compare (section 3.1, table 1), and moved as the base's sampler moves them (section 5.3.2). Errors count
    alike, which is their weighting with it.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, States], Tensor],
        scheduler_config: Any,
        patch: int,
        noising: Noising,
        *,
        autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Take over a schedule.

        Args:
            network: Called with noisy latents (B, C, H, W), times (B,) from 0 to 1 and states; returns the velocity.
            scheduler_config: Of the base's `FlowMatchEulerDiscreteScheduler`.
            patch: The side of a token, in latents.
            noising: Nothing but the default: its settings are those of a diffusion's signal-to-noise ratio.
            autocast: Entered around the network.

        Raises:
            NotFound: The schedule is of another kind.
            UsageError: Errors are to be weighted.
        """
        if noising.snr_gamma or noising.p2_gamma:
            raise UsageError("a rectified flow weights no errors by a signal-to-noise ratio", hint="snr_gamma=0")
        time_shift(scheduler_config, 1)
        self.network, self.scheduler_config, self.patch, self.autocast = network, scheduler_config, patch, autocast

    def importance_sample(self, latents: Tensor, states: States, portion: int) -> None:
        """Refused: times are drawn from a distribution of their own.

        Raises:
            UsageError: Always.
        """
        raise UsageError("times of a rectified flow are drawn from their own distribution", hint="uniform")

    def corrupt(self, clean: Tensor, generator: torch.Generator) -> NoisedLatents:
        """Draw noise and a time for each of a batch of latents (B, C, H, W), fp32, on the CPU."""
        noise = torch.randn(clean.shape, generator=generator).to(clean.device, non_blocking=True)
        times = torch.randn(len(clean), generator=generator).sigmoid()
        shift = time_shift(self.scheduler_config, clean.shape[-2] * clean.shape[-1] // self.patch**2)
        times = (shift * times / (1 + (shift - 1) * times)).to(clean.device, non_blocking=True)
        return NoisedLatents(torch.lerp(clean, noise, times[:, None, None, None]), times, noise - clean)

    def part_of(self, noised: NoisedLatents, part: slice) -> NoisedLatents:
        """Some of a batch's samples."""
        return NoisedLatents(noised.inputs[part], noised.timesteps[part], noised.target[part])

    def predict(self, noised: NoisedLatents, condition: States) -> Tensor:
        """Predict the velocity once, (B, C, H, W), fp32, given states of B prompts."""
        with self.autocast():
            predicted = self.network(noised.inputs.to(condition.dtype), noised.timesteps, condition)
        return predicted.float()

    def errors(self, predicted: Tensor, noised: NoisedLatents) -> Tensor:
        """The mean squared error of each sample, (B,), fp32."""
        return functional.mse_loss(predicted, noised.target, reduction="none").mean(dim=(1, 2, 3))

    def loss(self, predicted: Tensor, noised: NoisedLatents) -> Tensor:
        """The errors, (B,), fp32."""
        return self.errors(predicted, noised)
