"""A loaded latent diffusion pipeline, as the loop and the methods see it; see `learning.backbone`.

What Stable Diffusion 1, 2 and XL share: CLIP text encoders, a U-Net with cross-attention, an autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conceptctl.config import Drawing
from conceptctl.diffusion import conditioning
from conceptctl.diffusion.conditioning import REFERENCE_PROMPTS, PromptStates
from conceptctl.diffusion.latents import encode
from conceptctl.diffusion.memory import text_training_peak, unet_training_peak
from conceptctl.diffusion.models import plain_attention
from conceptctl.diffusion.networks import Network, text_encoders_of
from conceptctl.diffusion.noise import DenoisingObjective
from conceptctl.diffusion.samplers import title_of
from conceptctl.diffusion.sampling import pipeline_sampler
from conceptctl.diffusion.text_encoders import TextEncoders

if TYPE_CHECKING:
    from PIL import Image

    from conceptctl.diffusion.flow import FlowObjective
    from conceptctl.learning.backbone import Crop, Noising, Sampler, Watch
    from conceptctl.learning.weights import TableNumbers, TokenRows
    from conceptctl.store.manifest import Family


class ClipText:
    """Tokenizers and their text encoders; see `learning.backbone.TextSide`."""

    def __init__(self, text: TextEncoders) -> None:
        self.text = text
        self.device: torch.device = text.device

    def token_tables(self) -> dict[str, nn.Embedding]:
        """Each text encoder's token table."""
        return self.text.tables()

    def tokenizer(self) -> Any:
        """The first tokenizer: CLIP's, which reads least."""
        return self.text.tokenizer

    def add_token(self, name: str, rows: TokenRows) -> int:
        """Give the model one concept's token: a word in its tokenizers, a row in its token tables.

        Raises:
            AlreadyExists: A tokenizer has this token already.
        """
        return self.text.add_token(name, rows)

    def token_numbers(self, token_ids: Sequence[int]) -> TableNumbers:
        """The rows of some tokens in each token table."""
        return self.text.token_numbers(token_ids)

    def set_token(self, token_id: int, rows: TokenRows) -> None:
        """Replace one row of each token table."""
        self.text.set_token(token_id, rows)

    def token_start(self, class_word: str) -> TokenRows:
        """Where a token begins, (1, D) by table."""
        return self.text.token_start(class_word)

    def hidden_states(self, texts: Sequence[str], token_ids: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """The hidden states of prompts (N, T, D), and which of them are at a token or behind it (N, T)."""
        return conditioning.hidden_states(self.text, texts, token_ids)

    def reference_moment(
        self, texts: Sequence[str], *, without: Sequence[int] = (), count: int = REFERENCE_PROMPTS
    ) -> Tensor:
        """The second moment (D, D) of whatever may be asked for."""
        return conditioning.reference_moment(self.text, texts, without=without, count=count)

    def reference_factor(self, texts: Sequence[str], *, without: Sequence[int] = ()) -> Tensor:
        """The second-moment factor (D, k) of whatever may be asked for."""
        return conditioning.reference_factor(self.text, texts, without=without)

    def with_prompts(self, factor: Tensor, groups: Sequence[Sequence[str]]) -> Tensor:
        """Add the states of prompts that are to stay as they are."""
        return conditioning.with_prompts(self.text, factor, groups)


class LatentBackbone(ClipText):
    """A loaded pipeline, as the loop and the methods see it; see `learning.backbone.Backbone`."""

    denoiser_name = "unet"
    """The component that denoises."""

    def __init__(self, pipeline: Any, family: Family, text: TextEncoders | None = None) -> None:
        """Take a diffusers pipeline, which of its weights are targets, and its text encoders: CLIP's by default."""
        super().__init__(text or text_encoders_of(pipeline))
        self.pipeline, self.family = pipeline, family

    @property
    def denoiser(self) -> Any:
        """The network that denoises."""
        return getattr(self.pipeline, self.denoiser_name)

    def targets(self) -> dict[str, nn.Linear]:
        """What turns hidden states of prompts into keys and values, by parameter path."""
        named = {f"{self.denoiser_name}/{name}.weight": module for name, module in self.denoiser.named_modules()}
        linear = {path: module for path, module in named.items() if isinstance(module, nn.Linear)}
        return {path: module for path, module in linear.items() if self.family.is_target(path)}

    def scheduler_name(self) -> str:
        """What the base's own sampler is called, as A1111 calls it."""
        return title_of(self.pipeline.scheduler)

    def freeze(self) -> None:
        """Let nothing of the model train."""
        for module in (self.denoiser, self.pipeline.vae, *self.text.encoders.values()):
            module.eval().requires_grad_(False)

    def checkpoint_gradients(self) -> None:
        """Trade time for memory."""
        self.denoiser.enable_gradient_checkpointing()

    def training_peak(self, shape: tuple[int, ...], micro_batch: int, *, checkpointing: bool) -> int | None:
        """Bytes that a step holds at most beside weights and adapters, of the U-Net and of the text encoders."""
        tokens = int(self.tokenizer().model_max_length)
        encoders = self.text.encoders.values()
        return unet_training_peak(
            self.pipeline.unet.config,
            tuple(path.partition("/")[2] for path in self.targets()),
            shape=tuple(shape),
            micro_batch=micro_batch,
            tokens=tokens,
            dtype=self.pipeline.unet.dtype,
            checkpointing=checkpointing,
        ) + sum(text_training_peak(encoder, micro_batch, tokens) for encoder in encoders)

    def set_aside(self) -> None:
        """Take the autoencoder off the device; the text encoders stay, for tokens are learned through them."""
        self.pipeline.vae.to("cpu")

    def training_attention(self, autocast: bool) -> AbstractContextManager[None]:
        """Plain products where they are faster in bf16."""
        return plain_attention(self.denoiser) if autocast else nullcontext()

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures of one size as scaled latents (N, C, H, W), fp32."""
        vae = self.pipeline.vae.to(self.device)
        # SDXL's own autoencoder has numbers too large for fp16.
        upcast = vae.dtype == torch.float16 and vae.config.force_upcast
        if upcast:
            vae.float()
        try:
            return encode(self.pipeline, pictures)
        finally:
            if upcast:
                vae.half()

    def conditions(self, prompts: Sequence[str], token_ids: Sequence[int], crops: Sequence[Crop] = ()) -> PromptStates:
        """Prepare prompts, one for each example."""
        return PromptStates(self.text, prompts, token_ids, crops)

    def objective(
        self, noising: Noising, *, autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> DenoisingObjective | FlowObjective:
        """The denoising loss."""
        return DenoisingObjective(
            Network(self.pipeline),
            self.pipeline.scheduler.config,
            self.device,
            snr_gamma=noising.snr_gamma,
            p2_gamma=noising.p2_gamma,
            autocast=autocast,
        )

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace weights, by parameter path."""
        with torch.no_grad():
            for path, weight in weights.items():
                component, _, name = path.partition("/")
                getattr(self.pipeline, component).get_parameter(name).copy_(weight)

    def sampler(
        self,
        prompt: Any,
        how: Drawing,
        *,
        watch: Watch = lambda share: None,
    ) -> Sampler:
        """Prepare to draw pictures of a prompt."""
        sample = pipeline_sampler(self.pipeline, prompt, how, watch=watch)
        return self._with_autoencoder(sample)

    def _with_autoencoder(self, sample: Sampler) -> Sampler:
        """Bring the autoencoder back before anything is drawn."""

        def drawn(seeds: Sequence[int]) -> list[Image.Image]:
            self.pipeline.vae.to(self.device)
            return sample(seeds)

        return drawn
