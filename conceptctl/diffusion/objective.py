"""What a diffusion model is trained on: latents made noisy, and what was done to them (Ho et al. 2020, eq. 14)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from conceptctl.diffusion.models import Pipeline
from conceptctl.errors import DeviceFailed, NotFound

_GRID = 16
"""Times at which errors are measured for `Objective.focus`."""
_EVERYWHERE = 0.1
"""The share of samples whose time is any, whatever was measured."""


class Objective:
    """The denoising loss of a pipeline, whether it predicts noise or velocity."""

    def __init__(
        self, pipeline: Pipeline, snr_gamma: float = 0.0, p2_gamma: float = 0.0, *, autocast: bool = False
    ) -> None:
        """Take over the pipeline's noise schedule.

        Args:
            pipeline: The model.
            snr_gamma: The signal-to-noise ratio from which on a sample's error counts less, so that no sample's clean
                picture counts more than that (Hang et al. 2023, "Efficient diffusion training via min-SNR weighting
                strategy", section 3.4); 0 for none.
            p2_gamma: The power of 1 / (1 + the signal-to-noise ratio) with which errors count as well, scaled so that
                the mean over all times stays: what a picture shows is decided where there is much noise (Choi et al.
                2022, "Perception prioritized training of diffusion models", eq. 8 with k = 1); 0 for none.
            autocast: Let an fp32 U-Net multiply in bf16.

        Raises:
            NotFound: The pipeline predicts something else.
        """
        from diffusers import DDPMScheduler

        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        predicts = self.scheduler.config.prediction_type
        if predicts not in ("epsilon", "v_prediction"):
            raise NotFound(f"a base that predicts {predicts!r} cannot be learned on", hint="epsilon or v_prediction")
        self.unet = pipeline.unet
        self.autocast = autocast
        self.times: int = self.scheduler.config.num_train_timesteps
        weighted = snr_gamma or p2_gamma
        self.weights = self._weights(snr_gamma, p2_gamma).to(pipeline.device) if weighted else None
        self.chances: Tensor | None = None
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
    def focus(self, latents: Tensor, hidden: Tensor, portion: int) -> None:
        """From now on draw the times where errors are large more often, and let their errors count as much less.

        What is trained stays the same in the mean, and gradients vary less (Nichol & Dhariwal 2021, "Improved denoising
        diffusion probabilistic models", section 3.3, eq. 18). Errors are measured once, before the training, on a grid
        of times.

        Args:
            latents: Clean latents (B, C, H, W), fp32.
            hidden: Hidden states (B, T, D) of what stands for their prompts.
            portion: How many of them go through the model together.

        Raises:
            DeviceFailed: The errors are no numbers.
        """
        assert self.chances is None, "what was measured once is in the weights"
        generator = torch.Generator().manual_seed(0)
        grid = torch.linspace(0, self.times - 1, _GRID).round().long()
        weights = torch.ones(self.times) if self.weights is None else self.weights.cpu()
        found = []
        for time in grid:
            noise, _ = self.draw(latents, generator)
            timesteps = time.to(latents.device).expand(len(latents))
            portions = zip(*(each.split(portion) for each in (latents, noise, timesteps, hidden)), strict=True)
            found.append(torch.cat([self.errors(*each) for each in portions]).square().mean().sqrt())
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
        chances = torch.lerp(sizes[after - 1], sizes[after], share).exp()
        # Some of all times stay in, for what was measured before the training changes in it.
        chances = (1 - _EVERYWHERE) * chances / chances.sum() + _EVERYWHERE / self.times
        self.chances = chances
        self.weights = (weights / (self.times * chances)).float().to(latents.device)

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
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=self.autocast):
            predicted = self.unet(noisy.to(hidden.dtype), timesteps, hidden).sample.float()
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, timesteps)
        errors = functional.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3))
        return errors if self.weights is None else errors * self.weights[timesteps]

    def draw(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw noise and a time for each of a batch of latents, on the CPU, so that every device draws the same."""
        noise = torch.randn(latents.shape, generator=generator).to(latents.device, non_blocking=True)
        if self.chances is None:
            timesteps = torch.randint(0, self.times, (len(latents),), generator=generator)
        else:
            # One from each of as many equal parts: each alone is drawn as its chance says, and every batch has little
            # noise and much (stratified, as low-discrepancy times are in Kingma et al. 2021, "Variational diffusion
            # models", appendix I.1).
            count = len(latents)
            places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
            places = places[torch.randperm(count, generator=generator)].double()
            timesteps = torch.searchsorted(self.chances.cumsum(0), places).clamp(max=self.times - 1)
        return noise, timesteps.to(latents.device, non_blocking=True)
