"""What a diffusion model is trained on: latents made noisy, and what was done to them (Ho et al. 2020, eq. 14)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from conceptctl.diffusion.text_encoders import States
from conceptctl.errors import DeviceFailed, NotFound

TIMESTEP_SAMPLINGS = ("uniform", "importance")
"""How a sample's time is drawn: any alike, or those more often where errors are large, which then count less."""
_GRID = 16
"""Times at which errors are measured for `DenoisingObjective.importance_sample`."""
_EVERYWHERE = 0.1
"""The share of samples whose time is any, whatever was measured."""


@dataclass(frozen=True)
class NoisedLatents:
    """Clean latents made noisy, one noise and one time each; see `learning.backbone.Noised`."""

    inputs: Tensor
    timesteps: Tensor
    target: Tensor


class DenoisingObjective:
    """The denoising loss of a noise-predicting network, whether it predicts noise or velocity."""

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, States], Any],
        scheduler_config: Any,
        device: torch.device,
        *,
        snr_gamma: float = 0.0,
        p2_gamma: float = 0.0,
        autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Take over a noise schedule.

        Args:
            network: Called with noisy latents, timesteps and states; what it returns has a `sample`.
            scheduler_config: The configuration of the schedule that it was trained with.
            device: Where it is.
            snr_gamma: The signal-to-noise ratio from which on a sample's error counts less, so that no sample's clean
                picture counts more than that (Hang et al. 2023, "Efficient diffusion training via min-SNR weighting
                strategy", section 3.4); 0 for none.
            p2_gamma: The power of 1 / (1 + the signal-to-noise ratio) with which errors count as well, scaled so that
                the mean over all times stays: what a picture shows is decided where there is much noise (Choi et al.
                2022, "Perception prioritized training of diffusion models", eq. 8 with k = 1); 0 for none.
            autocast: Entered around the network.

        Raises:
            NotFound: The network predicts something else.
        """
        from diffusers import DDPMScheduler

        self.scheduler = DDPMScheduler.from_config(scheduler_config)
        predicts = self.scheduler.config.prediction_type
        if predicts not in ("epsilon", "v_prediction"):
            raise NotFound(f"a base that predicts {predicts!r} cannot be learned on", hint="epsilon or v_prediction")
        self.network, self.autocast = network, autocast
        self.times: int = self.scheduler.config.num_train_timesteps
        weighted = snr_gamma or p2_gamma
        self.weights = self._weights(snr_gamma, p2_gamma).to(device) if weighted else None
        self.probabilities: Tensor | None = None
        """How often each time is drawn, (times,), on the CPU; None for all alike."""

    def _weights(self, snr_gamma: float, p2_gamma: float) -> Tensor:
        """What an error counts at each time, (times,)."""
        clean = self.scheduler.alphas_cumprod.double()
        ratio = clean / (1 - clean)
        weights: Tensor = torch.ones_like(ratio)
        if snr_gamma:
            # The error of a velocity is that of the clean picture times (ratio + 1), and that of noise, times ratio.
            velocity = self.scheduler.config.prediction_type == "v_prediction"
            weights = ratio.clamp(max=snr_gamma) / (ratio + 1 if velocity else ratio)
        before = weights.mean()
        weights = weights / (1 + ratio).pow(p2_gamma)
        return weights.mul(before / weights.mean()).float()

    @torch.no_grad()
    def importance_sample(self, latents: Tensor, states: States, portion: int) -> None:
        """From now on draw the times where errors are large more often, and let their errors count as much less.

        What is trained stays the same in the mean, and gradients vary less (Nichol & Dhariwal 2021, "Improved denoising
        diffusion probabilistic models", section 3.3, eq. 18). Errors are measured once, before the training, on a grid
        of times.

        Args:
            latents: Clean latents (B, C, H, W), fp32.
            states: Those of what stands for their prompts.
            portion: How many of them go through the model together.

        Raises:
            DeviceFailed: The errors are no numbers.
        """
        assert self.probabilities is None, "what was measured once is in the weights"
        generator = torch.Generator().manual_seed(0)
        grid = torch.linspace(0, self.times - 1, _GRID).round().long()
        weights = torch.ones(self.times) if self.weights is None else self.weights.cpu()
        found = []
        for time in grid:
            noise, _ = self._draw(latents, generator)
            timesteps = time.to(latents.device).expand(len(latents))
            portions = zip(*(each.split(portion) for each in (latents, noise, timesteps, states)), strict=True)
            errors = [self._loss_at(*each) for each in portions]
            found.append(torch.cat(errors).square().mean().sqrt())
        sizes = torch.stack(found).cpu().double().clamp(min=1e-12).log()
        if not sizes.isfinite().all():
            raise DeviceFailed(
                "the loss of the untrained model is no number", hint="conceptctl verify, or --device cpu"
            )
        # Between two times of the grid, along a line in the logarithm.
        times = torch.arange(self.times, dtype=torch.float64)
        after = torch.bucketize(times, grid.double()).clamp(min=1)
        left, right = grid[after - 1].double(), grid[after].double()
        share = (times - left) / (right - left)
        probabilities = torch.lerp(sizes[after - 1], sizes[after], share).exp()
        # Some of all times stay in, for what was measured before the training changes in it.
        probabilities = (1 - _EVERYWHERE) * probabilities / probabilities.sum() + _EVERYWHERE / self.times
        self.probabilities = probabilities
        self.weights = (weights / (self.times * probabilities)).float().to(latents.device)

    def _loss_at(self, latents: Tensor, noise: Tensor, timesteps: Tensor, states: States) -> Tensor:
        noised = self._noised(latents, noise, timesteps)
        return self.loss(self.predict(noised, states), noised)

    def corrupt(self, clean: Tensor, generator: torch.Generator) -> NoisedLatents:
        """Draw noise and a time for each of a batch of latents (B, C, H, W), fp32, on the CPU."""
        noise, timesteps = self._draw(clean, generator)
        return self._noised(clean, noise, timesteps)

    def _noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> NoisedLatents:
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(clean, noise, timesteps)
        return NoisedLatents(self.scheduler.add_noise(clean, noise, timesteps), timesteps, target)

    def part_of(self, noised: NoisedLatents, part: slice) -> NoisedLatents:
        """Some of a batch's samples."""
        return NoisedLatents(noised.inputs[part], noised.timesteps[part], noised.target[part])

    def predict(self, noised: NoisedLatents, condition: States) -> Tensor:
        """Denoise once: what the network predicts, (B, C, H, W), fp32, given states of B prompts."""
        with self.autocast():
            predicted: Tensor = self.network(noised.inputs.to(condition.dtype), noised.timesteps, condition).sample
        return predicted.float()

    def errors(self, predicted: Tensor, noised: NoisedLatents) -> Tensor:
        """The mean squared error of each sample, (B,), fp32."""
        return functional.mse_loss(predicted, noised.target, reduction="none").mean(dim=(1, 2, 3))

    def loss(self, predicted: Tensor, noised: NoisedLatents) -> Tensor:
        """The errors, weighted if so asked, (B,), fp32."""
        errors = self.errors(predicted, noised)
        return errors if self.weights is None else errors * self.weights[noised.timesteps]

    def _draw(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw noise and a time for each of a batch of latents, on the CPU, so that every device draws the same."""
        noise = torch.randn(latents.shape, generator=generator).to(latents.device, non_blocking=True)
        if self.probabilities is None:
            timesteps = torch.randint(0, self.times, (len(latents),), generator=generator)
        else:
            # One from each of as many equal parts: each alone is drawn as its probability says, and every batch has
            # little noise and much (stratified, as low-discrepancy times are in Kingma et al. 2021, "Variational
            # diffusion models", appendix I.1).
            count = len(latents)
            places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
            places = places[torch.randperm(count, generator=generator)].double()
            timesteps = torch.searchsorted(self.probabilities.cumsum(0), places).clamp(max=self.times - 1)
        return noise, timesteps.to(latents.device, non_blocking=True)
