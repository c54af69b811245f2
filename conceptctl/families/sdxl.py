"""SDXL: two text encoders, a U-Net with cross-attention that is told sizes and a pooled prompt, an autoencoder.

What a store must know of the family is `FAMILY`, which needs no torch; a loaded model is a `LatentBackbone`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptctl.errors import ImportRefused
from conceptctl.families import sd
from conceptctl.store.manifest import Family

if TYPE_CHECKING:
    import torch

    from conceptctl.diffusion.backbone import ClipText, LatentBackbone

FAMILY = Family(
    name="sdxl",
    components=("unet", "text_encoder", "text_encoder_2", "vae"),
    targets=("unet/*.attn2.to_k.weight", "unet/*.attn2.to_v.weight"),
    token_tables={
        "text_encoder": "text_encoder/*embeddings.token_embedding.weight",
        "text_encoder_2": "text_encoder_2/*embeddings.token_embedding.weight",
    },
)
CLOSED_FORM = True
REGIONS = True
SIDE_STEP = sd.SIDE_STEP
NEGATIVE_PROMPTS = True
SAMPLERS = True
UNSUPPORTED = sd.UNSUPPORTED
_HINT = "the base model of SDXL as a diffusers folder or one file; its refiner draws nothing from text alone"


def check(folder: Path) -> None:
    """Refuse what is not SDXL, and what of it nothing could be learned on.

    Raises:
        ImportRefused: It is no SDXL, its refiner, or a model for inpainting.
    """
    if not (folder / "text_encoder_2").exists() or not (folder / "unet").exists():
        raise ImportRefused(f"{folder}: it has no two text encoders and U-Net, as SDXL has", hint=_HINT)
    if not (folder / "text_encoder").exists():
        raise ImportRefused(f"{folder}: it has the second text encoder alone, as SDXL's refiner has", hint=_HINT)
    sd.check_channels(folder, _HINT)


def family_in(folder: Path) -> Family:
    """The facts of one folder: the same for all."""
    return FAMILY


def picture_side(configs: Mapping[str, Any]) -> int:
    """The side of the pictures that a base draws, in pixels; see `sd.picture_side`."""
    return sd.picture_side(configs)


def longest_side(configs: Mapping[str, Any]) -> int | None:
    """None: any number of places will do."""
    return None


def load(
    folder: Path, device: torch.device, *, dtype: torch.dtype | None = None, family: Family = FAMILY
) -> LatentBackbone:
    """Load a diffusers folder, its weights in `dtype` (see `models.drawing_dtype`); its targets are those of `family`.

    Raises:
        NotFound: It is another kind of pipeline.
    """
    from conceptctl.diffusion.backbone import LatentBackbone
    from conceptctl.diffusion.models import load_sdxl_pipeline

    return LatentBackbone(load_sdxl_pipeline(folder, device, dtype=dtype), family)


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a diffusers folder alone; see `sd.load_tokenizer`."""
    return sd.load_tokenizer(folder)


def load_text_side(folder: Path, device: torch.device) -> ClipText:
    """Load the tokenizers and the text encoders of a diffusers folder alone, in fp32.

    Raises:
        NotFound: They are not there.
    """
    from conceptctl.diffusion.backbone import ClipText
    from conceptctl.diffusion.models import load_text_encoders

    return ClipText(load_text_encoders(folder, list(FAMILY.token_tables), device))
