"""FLUX.1: a pooled state of CLIP's, hidden states of T5's, a transformer with joint attention, a rectified flow.

What a store must know of the family is `FAMILY`, which needs no torch; a loaded model is a `JointBackbone`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptctl.errors import StoreDamaged
from conceptctl.families import sd3
from conceptctl.store.manifest import Family

if TYPE_CHECKING:
    import torch

    from conceptctl.diffusion.joint_backbone import JointBackbone
    from conceptctl.learning.backbone import TextSide

FAMILY = Family(
    name="flux",
    components=("transformer", "text_encoder", "text_encoder_2", "vae"),
    # Those of blocks with two streams. In blocks with one, prompt and picture share their projections: see
    # docs/explanation/joint-attention.md.
    targets=(
        "transformer/transformer_blocks.*.attn.add_k_proj.weight",
        "transformer/transformer_blocks.*.attn.add_v_proj.weight",
    ),
    token_tables={
        "text_encoder": "text_encoder/*embeddings.token_embedding.weight",
        "text_encoder_2": "text_encoder_2/shared.weight",
    },
)
T5_LENGTH = 512
"""How many tokens diffusers lets T5 read."""
CLOSED_FORM = False
REGIONS = False
SIDE_STEP = sd3.SIDE_STEP
NEGATIVE_PROMPTS = False
SAMPLERS = False
UNSUPPORTED = sd3.UNSUPPORTED
_HINT = "FLUX.1 dev or schnell as a diffusers folder, that draws from text alone"


def check(folder: Path) -> None:
    """Refuse what is not FLUX.1, and what of it nothing could be learned on.

    Raises:
        ImportRefused: It is another kind of model, or takes more than latents.
    """
    sd3.check_transformer(folder, "FluxTransformer2DModel", 4, _HINT)


def family_in(folder: Path) -> Family:
    """The facts of one folder: the same for all."""
    return FAMILY


def picture_side(configs: Mapping[str, Any]) -> int:
    """The side of the pictures that a base draws, in pixels, which its autoencoder says.

    Raises:
        StoreDamaged: It does not.
    """
    try:
        return int(configs["vae/config.json"]["sample_size"])
    except (KeyError, TypeError, ValueError):
        raise StoreDamaged("the base's configurations do not say how large its pictures are") from None


def longest_side(configs: Mapping[str, Any]) -> int | None:
    """None: any number of places will do."""
    return None


def load(
    folder: Path, device: torch.device, *, dtype: torch.dtype | None = None, family: Family = FAMILY
) -> JointBackbone:
    """Load a diffusers folder, its weights in `dtype` (see `models.drawing_dtype`); its targets are those of `family`.

    Raises:
        NotFound: It is another kind of pipeline.
    """
    from conceptctl.diffusion.joint_backbone import JointBackbone
    from conceptctl.diffusion.joint_networks import PackedNetwork
    from conceptctl.diffusion.joint_text import JointLayout
    from conceptctl.diffusion.models import load_joint_pipeline

    pipeline = load_joint_pipeline("FluxPipeline", folder, device, dtype=dtype)
    layout = JointLayout(("text_encoder",), "text_encoder_2", T5_LENGTH, sequence=False)
    return JointBackbone(PackedNetwork(pipeline), family, layout)


def load_tokenizer(folder: Path) -> Any:
    """Load CLIP's tokenizer of a diffusers folder alone; see `sd.load_tokenizer`."""
    return sd3.load_tokenizer(folder)


def load_text_side(folder: Path, device: torch.device) -> TextSide:
    """Refused; see `sd3.load_text_side`.

    Raises:
        UsageError: Always.
    """
    return sd3.load_text_side(folder, device)
