"""What a diffusion model is trained on: latents made noisy, and what was done to them (Ho et al. 2020, eq. 14)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from conceptctl.diffusion.models import Pipeline
from conceptctl.errors import NotFound


class Objective:
    """The denoising loss of a pipeline, whether it predicts noise or velocity."""

    def __init__(self, pipeline: Pipeline, snr_gamma: float = 0.0, p2_gamma: float = 0.0) -> None:
        """Take over the pipeline's noise schedule.

        Args:
            pipeline: The model.
            snr_gamma: The signal-to-noise ratio from which on a sample's error counts less, so that no sample's clean
                picture counts more than that (Hang et al. 2023, "Efficient diffusion training via min-SNR weighting
                strategy", section 3.4); 0 for none.
            p2_gamma: The power of 1 / (1 + the signal-to-noise ratio) with which errors count as well, scaled so that
                the mean over all times stays: what a picture shows is decided where there is much noise (Choi et al.
                2022, "Perception prioritized training of diffusion models", eq. 8 with k = 1); 0 for none.

        Raises:
            NotFound: The pipeline predicts something else.
        """
        from diffusers import DDPMScheduler

        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        predicts = self.scheduler.config.prediction_type
        if predicts not in ("epsilon", "v_prediction"):
            raise NotFound(f"a base that predicts {predicts!r} cannot be learned on", hint="epsilon or v_prediction")
        self.unet = pipeline.unet
        self.times: int = self.scheduler.config.num_train_timesteps
        weighted = snr_gamma or p2_gamma
        self.weights = self._weights(snr_gamma, p2_gamma).to(pipeline.device) if weighted else None

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

    def errors(self, latents: Tensor, noise: Tensor, timesteps: Tensor, hidden: Tensor) -> Tensor:
        """Denoise once and compare.

        Args:
            latents: Clean latents (B, C, H, W), fp32.
            noise: Their noise, of the same shape.
            timesteps: (B,), integers.
            hidden: The prompts' hidden states (B, T, D).

        Returns:
            The mean squared error of each sample, weighted if so asked, (B,), fp32.
        """
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        predicted = self.unet(noisy.to(hidden.dtype), timesteps, hidden).sample.float()
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, timesteps)
        errors = functional.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3))
        return errors if self.weights is None else errors * self.weights[timesteps]

    def draw(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw noise and a time for each of a batch of latents, on the CPU, so that every device draws the same."""
        noise = torch.randn(latents.shape, generator=generator).to(latents.device, non_blocking=True)
        timesteps = torch.randint(0, self.times, (len(latents),), generator=generator)
        return noise, timesteps.to(latents.device, non_blocking=True)
