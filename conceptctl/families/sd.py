"""Stable Diffusion 1.x and 2.x, and the bundled base: one text encoder, a U-Net with cross-attention, an autoencoder.

What a store must know of the family is `FAMILY`, which needs no torch; what training and drawing do with a loaded model
is `SdBackbone`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptctl.errors import ImportRefused, StoreDamaged
from conceptctl.store.manifest import Family

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor, nn

    from conceptctl.diffusion.conditioning import PromptStates
    from conceptctl.diffusion.noise import DenoisingObjective
    from conceptctl.learning.backbone import Noising, Sampler, Watch
    from conceptctl.learning.weights import TokenRows

FAMILY = Family(
    name="sd",
    components=("unet", "text_encoder", "vae"),
    targets=("unet/*.attn2.to_k.weight", "unet/*.attn2.to_v.weight"),
    token_tables={"text_encoder": "text_encoder/*embeddings.token_embedding.weight"},
)
_TABLE = "text_encoder"
REFERENCE_PROMPTS = 256
"""Prompts of random words that stand for whatever may be asked for."""
_CHANNELS = 4
"""Of the latents of every Stable Diffusion 1.x and 2.x model that draws from text alone."""
_HINT = "a base is a Stable Diffusion 1.x or 2.x model that draws from text alone"


def check(folder: Path) -> None:
    """Refuse models that lie in such a folder too, and that nothing could be learned on.

    Raises:
        ImportRefused: It is one.
    """
    if (folder / "text_encoder_2").exists():
        raise ImportRefused(f"{folder}: it has two text encoders, as SDXL has", hint=_HINT)
    if (folder / "transformer").exists():
        raise ImportRefused(f"{folder}: it has a transformer in the place of a U-Net, as SD3 and Flux have", hint=_HINT)
    try:
        channels = json.loads((folder / "unet" / "config.json").read_bytes()).get("in_channels", _CHANNELS)
    except (FileNotFoundError, ValueError, AttributeError):
        # What is missing or damaged is said by what needs it.
        return
    if channels != _CHANNELS:
        raise ImportRefused(
            f"{folder}: its U-Net takes {channels} channels, as models for inpainting, depth and editing do", hint=_HINT
        )


def picture_side(configs: Mapping[str, Any]) -> int:
    """The side of the pictures that a base draws, in pixels.

    Args:
        configs: Its configurations, by their place in the folder.

    Raises:
        StoreDamaged: They do not say.
    """
    try:
        unet, vae = configs["unet/config.json"], configs["vae/config.json"]
        return int(unet["sample_size"]) << (len(vae["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError):
        raise StoreDamaged("the base's configurations do not say how large its pictures are") from None


def load(folder: Path, device: torch.device, *, in_full: bool = False, family: Family = FAMILY) -> SdBackbone:
    """Load a diffusers folder: fp32 on a CPU, bf16 on CUDA unless `in_full`; its targets are those of `family`.

    Raises:
        NotFound: It is not a pipeline with one text encoder and a cross-attention U-Net.
    """
    from conceptctl.diffusion.models import load_pipeline

    return SdBackbone(load_pipeline(folder, device, in_full=in_full), family)


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a diffusers folder alone.

    Raises:
        NotFound: It is not there.
    """
    from conceptctl.diffusion.models import load_tokenizer

    return load_tokenizer(folder)


def load_text_side(folder: Path, device: torch.device) -> SdText:
    """Load the tokenizer and the text encoder of a diffusers folder alone, in fp32.

    Raises:
        NotFound: They are not there.
    """
    from conceptctl.diffusion.models import load_text_encoder

    return SdText(*load_text_encoder(folder, device))


class SdText:
    """A tokenizer and its text encoder; see `learning.backbone.TextSide`."""

    def __init__(self, tokenizer: Any, encoder: Any) -> None:
        """Take a `CLIPTokenizer` and a `CLIPTextModel`."""
        self._tokenizer, self._encoder = tokenizer, encoder
        self.device: torch.device = encoder.device

    def token_tables(self) -> dict[str, nn.Embedding]:
        """The text encoder's token table."""
        return {_TABLE: self._encoder.get_input_embeddings()}

    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self._tokenizer

    def add_token(self, name: str, rows: TokenRows) -> int:
        """Give the model one concept's token: a word in its tokenizer, a row in its token table.

        Raises:
            AlreadyExists: The tokenizer has this token already.
        """
        from conceptctl.diffusion.prompts import add_token

        token_id = add_token(self._tokenizer, name)
        if token_id >= self._encoder.get_input_embeddings().num_embeddings:
            self._encoder.resize_token_embeddings(token_id + 1, mean_resizing=False)
        self.set_token(token_id, rows)
        return token_id

    def set_token(self, token_id: int, rows: TokenRows) -> None:
        """Replace one row of the token table."""
        import torch

        with torch.no_grad():
            self.token_tables()[_TABLE].weight[token_id].copy_(rows[_TABLE][0])

    def token_start(self, class_word: str) -> TokenRows:
        """Where a token begins, (1, D)."""
        from conceptctl.diffusion.conditioning import token_start

        return {_TABLE: token_start(self._tokenizer, self._encoder, class_word)}

    def hidden_states(self, texts: Sequence[str], token_ids: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """The hidden states of prompts (N, T, D), and which of them are at a token or behind it (N, T)."""
        from conceptctl.diffusion.conditioning import hidden_states

        return hidden_states(self._tokenizer, self._encoder, texts, token_ids)

    def reference_moment(
        self, texts: Sequence[str], *, without: Sequence[int] = (), count: int = REFERENCE_PROMPTS
    ) -> Tensor:
        """The second moment (D, D) of whatever may be asked for."""
        from conceptctl.diffusion.conditioning import reference_moment

        return reference_moment(self._tokenizer, self._encoder, texts, without=without, count=count)

    def reference_factor(self, texts: Sequence[str], *, without: Sequence[int] = ()) -> Tensor:
        """The second-moment factor (D, k) of whatever may be asked for."""
        from conceptctl.diffusion.conditioning import reference_factor

        return reference_factor(self._tokenizer, self._encoder, texts, without=without)

    def with_prompts(self, factor: Tensor, groups: Sequence[Sequence[str]]) -> Tensor:
        """Add the states of prompts that are to stay as they are."""
        from conceptctl.diffusion.conditioning import with_prompts

        return with_prompts(self._tokenizer, self._encoder, factor, groups)


class SdBackbone(SdText):
    """A loaded pipeline, as the loop and the methods see it; see `learning.backbone.Backbone`."""

    def __init__(self, pipeline: Any, family: Family = FAMILY) -> None:
        """Take a `diffusers.StableDiffusionPipeline`, and which of its weights are targets."""
        super().__init__(pipeline.tokenizer, pipeline.text_encoder)
        self.pipeline, self.family = pipeline, family

    def targets(self) -> dict[str, nn.Linear]:
        """Keys and values of the U-Net's cross-attention, by parameter path."""
        from torch import nn

        named = {f"unet/{name}.weight": module for name, module in self.pipeline.unet.named_modules()}
        linear = {path: module for path, module in named.items() if isinstance(module, nn.Linear)}
        return {path: module for path, module in linear.items() if self.family.is_target(path)}

    def scheduler_name(self) -> str:
        """What the sampler is called, as A1111 shortens diffusers' names."""
        return type(self.pipeline.scheduler).__name__.removesuffix("Scheduler")

    def freeze(self) -> None:
        """Let nothing of the model train."""
        for module in (self.pipeline.unet, self.pipeline.text_encoder, self.pipeline.vae):
            module.eval().requires_grad_(False)

    def checkpoint_gradients(self) -> None:
        """Trade time for memory."""
        self.pipeline.unet.enable_gradient_checkpointing()

    def training_attention(self, autocast: bool) -> AbstractContextManager[None]:
        """Plain products where they are faster in bf16."""
        from conceptctl.diffusion.models import plain_attention

        return plain_attention(self.pipeline.unet) if autocast else nullcontext()

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures of one size as scaled latents (N, C, H, W), fp32."""
        from conceptctl.diffusion.latents import encode

        return encode(self.pipeline, pictures)

    def conditions(self, prompts: Sequence[str], token_ids: Sequence[int]) -> PromptStates:
        """Prepare prompts, one for each example."""
        from conceptctl.diffusion.conditioning import PromptStates

        return PromptStates(self.pipeline.tokenizer, self.pipeline.text_encoder, prompts, token_ids)

    def objective(
        self, noising: Noising, *, autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> DenoisingObjective:
        """The denoising loss."""
        from conceptctl.diffusion.noise import DenoisingObjective

        return DenoisingObjective(
            self.pipeline.unet,
            self.pipeline.scheduler.config,
            self.device,
            snr_gamma=noising.snr_gamma,
            p2_gamma=noising.p2_gamma,
            autocast=autocast,
        )

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace weights, by parameter path."""
        import torch

        with torch.no_grad():
            for path, weight in weights.items():
                component, _, name = path.partition("/")
                getattr(self.pipeline, component).get_parameter(name).copy_(weight)

    def sampler(
        self, prompt: Any, *, steps: int, guidance: float, negative: str = "", watch: Watch = lambda share: None
    ) -> Sampler:
        """Prepare to draw pictures of a prompt."""
        from conceptctl.diffusion.sampling import pipeline_sampler

        return pipeline_sampler(self.pipeline, prompt, steps=steps, guidance=guidance, negative=negative, watch=watch)
