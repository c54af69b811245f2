"""How long phases train, in what portions, and what a step of them takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from conceptctl.learning.backbone import Noising


@dataclass(frozen=True)
class Schedule:
    """How long a phase trains, and in what portions."""

    steps: int
    """How many; the most where `stopping` is `auto`."""
    batch_size: int
    auxiliary_batch: int = 0
    """Auxiliary pictures in a step, beside the concept's."""
    seed: int = 0
    warmup: int = 0
    """Steps over which learning rates rise."""
    scheduler: str = "constant"
    """One of `optim.SCHEDULERS`; without a meaning where `stopping` is `auto`."""
    optimizer: str = "adam"
    """One of `optim.OPTIMIZERS`."""
    snr_gamma: float = 0.0
    p2_gamma: float = 0.0
    """The last two: see `Noising`."""
    timestep_sampling: str = "uniform"
    """How a sample's time is drawn: `uniform`, or `importance`: where errors are large more often, which then count
    less."""
    accumulation: int = 1
    """Portions in a step, one after the other: their gradients' mean is taken."""
    stopping: str = "fixed"
    """What ends it: `fixed`, or, in one phase of a training, `auto`; see `stopping.StoppingRule`."""

    def noising(self) -> Noising:
        """How samples are noised and weighted."""
        return Noising(self.snr_gamma, self.p2_gamma)

    def plain(self, steps: int) -> Schedule:
        """For a phase that the papers describe by the concept's pictures alone: all times drawn and counted alike."""
        return replace(
            self,
            steps=steps,
            auxiliary_batch=0,
            snr_gamma=0.0,
            p2_gamma=0.0,
            timestep_sampling="uniform",
            warmup=0,
            stopping="fixed",
        )


@dataclass(frozen=True)
class Later:
    """A phase that follows the learning, and what a step of it takes of the network."""

    name: str
    steps: int
    trained: int = 1
    """Predictions of each sample that the loss holds together, with what gradients need."""
    plain: int = 0
    """Predictions of each sample without gradients: teachers'."""
