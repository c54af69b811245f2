"""Training data: rendered on the fly, the same for the same step, in this process or in workers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from conceptctl.pocket.world.practice import practice_picture, scribbled
from conceptctl.pocket.world.render import render
from conceptctl.pocket.world.scenes import draw_scene

BatchT = TypeVar("BatchT")

PRACTICE_SHARE = 0.25
"""The share of the autoencoder's pictures that are random shapes."""
SCRIBBLED_SHARE = 0.3
"""The share of its pictures of the world that small random shapes are drawn over."""

LATENT_NOISE = 0.15
"""The most noise that latents get where what is decoded is to look generated, in the latents' deviations."""


def to_tensor(pictures: list[Image.Image]) -> Tensor:
    """Stack RGB pictures of one size into a uint8 tensor (B, 3, H, W)."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


def to_signed(pictures: Tensor, device: torch.device) -> Tensor:
    """Scale uint8 pictures (B, 3, H, W) to floats in [-1, 1] on a device, channels last."""
    signed = pictures.to(device, non_blocking=True).float().div_(127.5).sub_(1)
    return signed.contiguous(memory_format=torch.channels_last)


class _Steps(Dataset[Any]):
    def __init__(self, make: Callable[[int], Any], first: int) -> None:
        self.make, self.first = make, first

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> Any:
        return self.make(self.first + index)


class Batches(Generic[BatchT]):
    """Calls `make(step)` for consecutive steps, ahead of time in worker processes when there are any."""

    def __init__(self, make: Callable[[int], BatchT], workers: int) -> None:
        self._make, self._workers = make, workers
        self._ahead: Iterator[BatchT] | None = None

    def __call__(self, step: int) -> BatchT:
        """The batch of a step; steps must be asked for in order."""
        if not self._workers:
            return self._make(step)
        if self._ahead is None:
            steps = _Steps(self._make, step)
            loader = DataLoader(
                steps, batch_size=None, sampler=range(len(steps)), num_workers=self._workers, prefetch_factor=4
            )
            self._ahead = iter(loader)
        return next(self._ahead)


def autoencoder_pictures(size: int, seed: str) -> Tensor:
    """Pictures for the autoencoder: world scenes in seen and unseen colours, and random shapes; uint8 (B, 3, 64, 64).

    Args:
        size: How many pictures.
        seed: Decides them all.
    """
    rng = random.Random(seed)
    pictures = []
    for _ in range(size):
        if rng.random() < PRACTICE_SHARE:
            pictures.append(practice_picture(rng))
        else:
            picture = render(draw_scene(rng, unseen=0.3), rng)
            pictures.append(scribbled(picture, rng) if rng.random() < SCRIBBLED_SHARE else picture)
    return to_tensor(pictures)


def spoil(pictures: Tensor) -> Tensor:
    """Blur some pictures a little, add a little grain, and shift their brightness: (B, 3, H, W) in [-1, 1]."""
    count = len(pictures)
    blurred = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(count, 1, 1, 1, device=pictures.device).mul(1.6).sub(0.6).clamp(min=0)
    grain = torch.randn_like(pictures) * (torch.rand(count, 1, 1, 1, device=pictures.device) * 0.08)
    shift = torch.randn(count, 3, 1, 1, device=pictures.device) * 0.03
    return torch.lerp(pictures, blurred, share) + grain + shift
