"""A loaded pipeline with joint attention and a rectified flow, as the loop and the methods see it.

Its targets are what turns the prompt's stream into keys and values, which the picture's attention reads: what
cross-attention's keys and values are elsewhere (docs/explanation/joint-attention.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from conceptctl.config import Drawing
from conceptctl.diffusion.backbone import LatentBackbone
from conceptctl.diffusion.flow import FlowObjective
from conceptctl.diffusion.joint_networks import JointNetwork
from conceptctl.diffusion.joint_sampling import joint_sampler
from conceptctl.diffusion.joint_text import JointLayout, JointText, JointTextEncoders, encoders_of

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from conceptctl.learning.backbone import Noising, Sampler, Watch
    from conceptctl.store.manifest import Family


@contextmanager
def _mixed_norms() -> Iterator[None]:
    """Let norms of queries and keys be of fp32 weights and bf16 inputs, as autocast makes them, without a warning.

    On a CPU that takes another kernel; on CUDA the weights are bf16 too.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        yield


class JointBackbone(JointText, LatentBackbone):
    """A loaded pipeline with joint attention; see `learning.backbone.Backbone`."""

    denoiser_name = "transformer"
    text: JointTextEncoders

    def __init__(self, network: JointNetwork, family: Family, layout: JointLayout) -> None:
        """Take a network with its pipeline, which of its weights are targets, and which text encoder gives what."""
        super().__init__(network.pipeline, family, encoders_of(network.pipeline, layout))
        self.network = network

    def training_peak(self, shape: tuple[int, ...], micro_batch: int, *, checkpointing: bool) -> None:
        """Not counted for transformers: a step takes what it is told to."""

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures of one size as scaled latents (N, C, H, W), fp32.

        Raises:
            UsageError: They are larger than the network takes.
        """
        self.network.check_size(pictures[0].size)
        return super().encode(pictures)

    def training_attention(self, autocast: bool) -> AbstractContextManager[None]:
        """The attention that it is loaded with."""
        return _mixed_norms() if autocast else nullcontext()

    def objective(
        self, noising: Noising, *, autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> FlowObjective:
        """The loss of its velocities."""
        return FlowObjective(
            self.network, self.pipeline.scheduler.config, self.network.patch, noising, autocast=autocast
        )

    def sampler(
        self,
        prompt: Any,
        how: Drawing,
        *,
        watch: Watch = lambda share: None,
    ) -> Sampler:
        """Prepare to draw pictures of a prompt."""
        sample = joint_sampler(self.network, self.text, prompt, how, watch=watch)
        return self._with_autoencoder(sample)
