"""What the stages trained, loaded from their checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from conceptctl.pocket.bundle import JUDGE_FILE, WEIGHTS, base_folder, clip_folder
from conceptctl.pocket.train import clip as clip_stage
from conceptctl.pocket.train import vae as vae_stage
from conceptctl.pocket.train.data import autoencoder_pictures, to_signed


def averaged_weights(workspace: Path, stage: str) -> dict[str, Tensor]:
    """Read the averaged weights from a stage's checkpoint."""
    with safe_open(workspace / f"{stage}.safetensors", framework="pt", device="cpu") as file:
        names = [name for name in file.keys() if name.startswith("average/")]  # noqa: SIM118 - not a mapping
        return {name.removeprefix("average/"): file.get_tensor(name) for name in names}


def bundled_weights(stage: str) -> dict[str, Tensor]:
    """Read a stage's weights from the bundled base, in single precision, to train them further.

    What helps to train a network and does not ship, such as CLIP's heads, is left out.
    """
    file = {
        "vae": base_folder() / "vae" / "diffusion_pytorch_model.safetensors",
        "clip": clip_folder() / "model.safetensors",
        "judge": WEIGHTS / JUDGE_FILE,
        "unet": base_folder() / "unet" / "diffusion_pytorch_model.safetensors",
    }[stage]
    prefix = "model." if stage == "clip" else ""
    return {prefix + name: value.float() for name, value in load_file(file).items()}


def trained_or_bundled_weights(workspace: Path, stage: str) -> dict[str, Tensor]:
    """Read the averaged weights from a stage's checkpoint, or those that ship where the workspace has none."""
    if (workspace / f"{stage}.safetensors").exists():
        return averaged_weights(workspace, stage)
    return bundled_weights(stage)


def load_frozen(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights into a network that is not trained any further."""
    network.load_state_dict(weights)
    network.eval().requires_grad_(False)


def trained_vae(workspace: Path) -> AutoencoderKL:
    """Load the trained autoencoder, its latents standardized, or the one that ships where the workspace has none.

    Raises:
        ValueError: The decoder was trained on latents of another encoder.
    """
    vae = vae_stage.build()
    weights = trained_or_bundled_weights(workspace, "vae")
    # The decoder's checkpoint holds the whole autoencoder, standardized before.
    if (workspace / "decoder.safetensors").exists():
        whole = averaged_weights(workspace, "decoder")
        encoder = {name: value for name, value in weights.items() if name.startswith("encoder.")}
        # What ships is in half precision.
        if not all(torch.equal(whole[name].half(), value.half()) for name, value in encoder.items()):
            raise ValueError(f"the encoder was trained on: delete {workspace / 'decoder.safetensors'}")
        load_frozen(vae, whole)
        return vae
    load_frozen(vae, weights)
    if (workspace / "vae.safetensors").exists():
        vae_stage.standardize(vae, to_signed(autoencoder_pictures(512, "vae:standard"), torch.device("cpu")))
    return vae


def tokenizer_folder(workspace: Path) -> Path:
    """Where the tokenizer's vocabulary is: the workspace's own, or the one that ships."""
    own = workspace / "tokenizer"
    return own if own.exists() else base_folder() / "tokenizer"


def trained_clip(workspace: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    """Load the trained CLIP model and its tokenizer, or those that ship where the workspace has none."""
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder(workspace))
    model = clip_stage.build(tokenizer)
    weights = trained_or_bundled_weights(workspace, "clip")
    load_frozen(
        model, {key.removeprefix("model."): value for key, value in weights.items() if key.startswith("model.")}
    )
    return model, tokenizer


def text_tower(clip: CLIPModel) -> CLIPTextModel:
    """The text tower alone, as the pipeline has it."""
    tower = CLIPTextModel(CLIPTextConfig(**clip.config.text_config.to_dict()))
    load_frozen(tower, clip.text_model.state_dict())
    return tower
