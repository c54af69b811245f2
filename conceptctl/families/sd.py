"""Stable Diffusion 1.x and 2.x, and the bundled base: one text encoder, a U-Net with cross-attention, an autoencoder.

What a store must know of the family is `FAMILY`, which needs no torch; a loaded model is a `LatentBackbone`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from conceptctl.errors import ImportRefused, StoreDamaged
from conceptctl.store.manifest import Family

if TYPE_CHECKING:
    import torch

    from conceptctl.diffusion.backbone import ClipText, LatentBackbone

FAMILY = Family(
    name="sd",
    components=("unet", "text_encoder", "vae"),
    targets=("unet/*.attn2.to_k.weight", "unet/*.attn2.to_v.weight"),
    token_tables={"text_encoder": "text_encoder/*embeddings.token_embedding.weight"},
)
CLOSED_FORM = True
REGIONS = True
SIDE_STEP = 8
NEGATIVE_PROMPTS = True
SAMPLERS = True
UNSUPPORTED: Mapping[str, str] = MappingProxyType({})
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
    check_channels(folder, _HINT)


def check_channels(folder: Path, hint: str) -> None:
    """Refuse a U-Net that is given more than latents.

    Raises:
        ImportRefused: It is.
    """
    try:
        channels = json.loads((folder / "unet" / "config.json").read_bytes()).get("in_channels", _CHANNELS)
    except (FileNotFoundError, ValueError, RecursionError, AttributeError):
        # What is missing or damaged is said by what needs it.
        return
    if channels != _CHANNELS:
        raise ImportRefused(
            f"{folder}: its U-Net takes {channels} channels, as models for inpainting, depth and editing do", hint=hint
        )


def family_in(folder: Path) -> Family:
    """The facts of one folder: the same for all."""
    return FAMILY


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


def longest_side(configs: Mapping[str, Any]) -> int | None:
    """None: any number of places will do."""
    return None


def load(
    folder: Path, device: torch.device, *, dtype: torch.dtype | None = None, family: Family = FAMILY
) -> LatentBackbone:
    """Load a diffusers folder, its weights in `dtype` (see `models.drawing_dtype`); its targets are those of `family`.

    Raises:
        NotFound: It is not a pipeline with one text encoder and a cross-attention U-Net.
    """
    from conceptctl.diffusion.backbone import LatentBackbone
    from conceptctl.diffusion.models import load_pipeline

    return LatentBackbone(load_pipeline(folder, device, dtype=dtype), family)


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a diffusers folder alone.

    Raises:
        NotFound: It is not there.
    """
    from conceptctl.diffusion.models import load_tokenizer

    return load_tokenizer(folder)


def load_text_side(folder: Path, device: torch.device) -> ClipText:
    """Load the tokenizer and the text encoder of a diffusers folder alone, in fp32.

    Raises:
        NotFound: They are not there.
    """
    from conceptctl.diffusion.backbone import ClipText
    from conceptctl.diffusion.models import load_text_encoders

    return ClipText(load_text_encoders(folder, ["text_encoder"], device))
