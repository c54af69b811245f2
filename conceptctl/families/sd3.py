"""Stable Diffusion 3: CLIP's text encoders and perhaps T5's, a transformer with joint attention, a rectified flow.

What a store must know of the family is `FAMILY`, which needs no torch; a loaded model is a `JointBackbone`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from conceptctl.errors import ImportRefused, StoreDamaged
from conceptctl.families import sd
from conceptctl.store.manifest import Family

if TYPE_CHECKING:
    import torch

    from conceptctl.diffusion.joint_backbone import JointBackbone
    from conceptctl.learning.backbone import TextSide

FAMILY = Family(
    name="sd3",
    components=("transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"),
    # The prompt's stream alone: see docs/explanation/joint-attention.md.
    targets=(
        "transformer/transformer_blocks.*.attn.add_k_proj.weight",
        "transformer/transformer_blocks.*.attn.add_v_proj.weight",
    ),
    token_tables={
        "text_encoder": "text_encoder/*embeddings.token_embedding.weight",
        "text_encoder_2": "text_encoder_2/*embeddings.token_embedding.weight",
        "text_encoder_3": "text_encoder_3/shared.weight",
    },
)
T5, T5_LENGTH = "text_encoder_3", 256
"""The encoder that folders often leave out, and how many tokens diffusers lets it read."""
CLOSED_FORM = False
REGIONS = False
SIDE_STEP = 16
NEGATIVE_PROMPTS = True
SAMPLERS = False
_FLOW = "a rectified flow has no such signal-to-noise ratio"
UNSUPPORTED: Mapping[str, str] = MappingProxyType(
    {
        "snr_gamma": _FLOW,
        "p2_gamma": _FLOW,
        "timestep_sampling": "times of a rectified flow are drawn from a distribution of their own",
    }
)
_HINT = "Stable Diffusion 3 or 3.5 as a diffusers folder, that draws from text alone"


def check(folder: Path) -> None:
    """Refuse what is not Stable Diffusion 3, and what of it nothing could be learned on.

    Raises:
        ImportRefused: It is another kind of model, or takes more than latents.
    """
    check_transformer(folder, "SD3Transformer2DModel", 1, _HINT)


def check_transformer(folder: Path, kind: str, patch: int, hint: str) -> None:
    """Refuse a folder without a transformer of some kind, or with one that is given more than latents.

    Args:
        folder: The folder.
        kind: What its configuration calls it.
        patch: How many latents of each channel it is given as one token.
        hint: What would do.

    Raises:
        ImportRefused: It is.
    """
    try:
        transformer, vae = (json.loads((folder / part / "config.json").read_bytes()) for part in ("transformer", "vae"))
        found, channels = transformer.get("_class_name"), transformer.get("in_channels")
        wanted = patch * vae.get("latent_channels", 0)
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        found, channels, wanted = None, 0, 0
    if found != kind:
        raise ImportRefused(f"{folder}: it has no {kind}", hint=hint)
    if channels != wanted:
        raise ImportRefused(
            f"{folder}: its transformer takes {channels} channels for {wanted}, as models for inpainting, depth and "
            "editing do",
            hint=hint,
        )
    for encoder in ("text_encoder", "text_encoder_2"):
        if not (folder / encoder).exists():
            raise ImportRefused(f"{folder}: it has no {encoder}", hint=hint)


def family_in(folder: Path) -> Family:
    """The facts of one folder: those without T5 have a token table less."""
    if (folder / T5).exists():
        return FAMILY
    tables = {name: pattern for name, pattern in FAMILY.token_tables.items() if name != T5}
    components = tuple(each for each in FAMILY.components if each != T5)
    return dataclasses.replace(FAMILY, components=components, token_tables=tables)


def picture_side(configs: Mapping[str, Any]) -> int:
    """The side of the pictures that a base draws, in pixels.

    Args:
        configs: Its configurations, by their place in the folder.

    Raises:
        StoreDamaged: They do not say.
    """
    try:
        side: int = int(configs["transformer/config.json"]["sample_size"])
        return side << (len(configs["vae/config.json"]["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError):
        raise StoreDamaged("the base's configurations do not say how large its pictures are") from None


def longest_side(configs: Mapping[str, Any]) -> int | None:
    """The longest side that the table of places has patches for, in pixels.

    Raises:
        StoreDamaged: The configurations do not say.
    """
    try:
        transformer, vae = configs["transformer/config.json"], configs["vae/config.json"]
        patches, patch = int(transformer["pos_embed_max_size"]), int(transformer["patch_size"])
        return patches * patch << (len(vae["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError):
        raise StoreDamaged("the base's configurations do not say how large its pictures can be") from None


def load(
    folder: Path, device: torch.device, *, dtype: torch.dtype | None = None, family: Family = FAMILY
) -> JointBackbone:
    """Load a diffusers folder, its weights in `dtype` (see `models.drawing_dtype`); its targets are those of `family`.

    Raises:
        NotFound: It is another kind of pipeline.
    """
    from conceptctl.diffusion.joint_backbone import JointBackbone
    from conceptctl.diffusion.joint_networks import JointNetwork
    from conceptctl.diffusion.joint_text import JointLayout
    from conceptctl.diffusion.models import load_joint_pipeline

    left_out = () if (folder / T5).exists() else (T5, "tokenizer_3")
    pipeline = load_joint_pipeline("StableDiffusion3Pipeline", folder, device, dtype=dtype, without=left_out)
    layout = JointLayout(("text_encoder", "text_encoder_2"), T5, T5_LENGTH, sequence=True)
    return JointBackbone(JointNetwork(pipeline), family, layout)


def load_tokenizer(folder: Path) -> Any:
    """Load CLIP's tokenizer of a diffusers folder alone; see `sd.load_tokenizer`."""
    return sd.load_tokenizer(folder)


def load_text_side(folder: Path, device: torch.device) -> TextSide:
    """Refused: nothing can be computed from the text encoders alone.

    Raises:
        UsageError: Always.
    """
    from conceptctl.diffusion.joint_text import not_the_encoders_states

    raise not_the_encoders_states()
