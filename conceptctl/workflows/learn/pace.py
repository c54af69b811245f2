"""What learning takes in time and memory: measured while it goes on, for what is left of it and for the next one."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from conceptctl.presets import preset_of
from conceptctl.workflows.drawing import BATCH

if TYPE_CHECKING:
    import torch

    from conceptctl.workflows.learn.prepared import Prepared

TRAINED_AS_DRAWN = 2
"""Passes through the network that training on a sample is worth: forward, and backward without the gradients of frozen
weights. By multiplications 2.08 for the U-Nets of Stable Diffusion 1.5 and XL, and 2.8 with gradient checkpointing."""


class Pace:
    """Measures steps; what else goes on between them is taken out."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)
        self._aside = 0.0

    def step(self, done: int) -> None:
        """So many steps are done."""
        self._last = (time.monotonic() - self._aside, done)
        # Much is made ready in the first one.
        self._first = self._first or self._last

    def aside(self, seconds: float) -> None:
        """So long went on something else."""
        self._aside += seconds

    @property
    def seconds_a_step(self) -> float | None:
        """Of all steps but the first; None before there are two."""
        if self._first is None or self._last[1] == self._first[1]:
            return None
        return (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])


def in_whole_batches(pictures: int) -> int:
    """How many pictures are drawn where so many are wanted."""
    return -(-pictures // BATCH) * BATCH


def steps_a_picture(prepared: Prepared) -> float:
    """About how many steps drawing a picture is worth, by how many passes through the network either needs."""
    schedule = prepared.method.config
    samples = (schedule.batch_size + schedule.auxiliary_batch) * schedule.accumulation
    return preset_of(prepared.head.base).evaluations_a_picture / (TRAINED_AS_DRAWN * samples)


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held, on a GPU or beside it; 0 where the system does not say."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return 0
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
