"""The layout of checkpoints in one file: that of the code that Stable Diffusion was published with.

Every parameter of a diffusers folder has a place in it: a key, for some only a part of its rows, for some transposed.
Text encoders are laid out as transformers' CLIP ("clip") or as OpenCLIP ("open-clip"), as each was published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNET, VAE = "model.diffusion_model.", "first_stage_model."

_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
_UNET = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
         "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
         "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0", "conv_out": "out.2",
         "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
         "mid_block.resnets.1": "middle_block.2"}  # fmt: skip
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
                  "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"}  # fmt: skip
"""With the names that older versions of diffusers gave."""
_OPEN_CLIP = {"embeddings.token_embedding.weight": "token_embedding.weight",
              "embeddings.position_embedding.weight": "positional_embedding",
              "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias"}  # fmt: skip
_OPEN_CLIP_LAYER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
                    "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
_THIRDS = ("q", "k", "v")


@dataclass(frozen=True)
class Place:
    """Where a parameter stands in a checkpoint in one file.

    Attributes:
        key: The tensor there.
        third: Which third of its rows, from 0; None for all.
        transposed: Whether rows and columns are exchanged.
    """

    key: str
    third: int | None = None
    transposed: bool = False


def unet_place(name: str, config: Mapping[str, Any]) -> Place:
    """Return the place of a parameter of the U-Net, given by its name in diffusers.

    Raises:
        KeyError: There is no such parameter in this layout.
    """
    layers = int(config["layers_per_block"])
    step = layers + 1
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if not found:
        start = next((start for start in _UNET if name.startswith(f"{start}.")), None)
        if start is None:
            raise KeyError(name)
        rest = name.removeprefix(f"{start}.")
        return Place(f"{UNET}{_UNET[start]}.{_renamed(rest, _RESNET) if 'resnets' in start else rest}")
    direction, level, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if direction == "down":
        if kind == "downsamplers":
            return Place(f"{UNET}input_blocks.{(level + 1) * step}.0.op.{rest.removeprefix('conv.')}")
        block = f"input_blocks.{1 + level * step + layer}"
    else:
        block = f"output_blocks.{level * step + layer}"
        if kind == "upsamplers":
            # It stands behind the last layer of its level, and behind that layer's attention where there is one.
            after = 2 if "CrossAttn" in config["up_block_types"][level] else 1
            return Place(f"{UNET}output_blocks.{level * step + layers}.{after}.{rest}")
    if kind == "attentions":
        return Place(f"{UNET}{block}.1.{rest}")
    return Place(f"{UNET}{block}.0.{_renamed(rest, _RESNET)}")


def vae_place(name: str, config: Mapping[str, Any]) -> Place:
    """Return the place of a parameter of the autoencoder, given by its name in diffusers."""
    levels = len(config["block_out_channels"])
    half, _, rest = name.partition(".")
    if half in ("quant_conv", "post_quant_conv"):
        return Place(f"{VAE}{name}")
    if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)", rest):
        direction, kind, layer, rest = found[1], found[3], found[4], found[5]
        # The decoder's levels are counted from the largest pictures on there.
        level = int(found[2]) if direction == "down" else levels - 1 - int(found[2])
        if kind != "resnets":
            return Place(f"{VAE}{half}.{direction}.{level}.{kind.removesuffix('rs')}.{rest}")
        rest = rest.replace("conv_shortcut", "nin_shortcut")
        return Place(f"{VAE}{half}.{direction}.{level}.block.{layer}.{rest}")
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", rest):
        if found[1] == "attentions":
            return Place(f"{VAE}{half}.mid.attn_1.{_renamed(found[3], _VAE_ATTENTION)}")
        return Place(f"{VAE}{half}.mid.block_{int(found[2]) + 1}.{found[3].replace('conv_shortcut', 'nin_shortcut')}")
    return Place(f"{VAE}{half}.{rest.replace('conv_norm_out', 'norm_out')}")


def clip_place(name: str, prefix: str) -> Place:
    """Return the place of a parameter of a text encoder that is laid out as transformers' CLIP."""
    return Place(f"{prefix}text_model.{name.removeprefix('text_model.')}")


def open_clip_place(name: str, prefix: str) -> Place:
    """Return the place of a parameter of a text encoder that is laid out as OpenCLIP.

    Raises:
        KeyError: There is no such parameter in this layout.
    """
    if name == "text_projection.weight":
        return Place(f"{prefix}text_projection", transposed=True)
    name = name.removeprefix("text_model.")
    if name in _OPEN_CLIP:
        return Place(f"{prefix}{_OPEN_CLIP[name]}")
    found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
    if not found:
        raise KeyError(name)
    block = f"{prefix}transformer.resblocks.{found[1]}"
    if attention := re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", found[2]):
        return Place(f"{block}.attn.in_proj_{attention[2]}", third=_THIRDS.index(attention[1]))
    return Place(f"{block}.{_renamed(found[2], _OPEN_CLIP_LAYER)}")


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for before, after in names.items():
        if name.startswith(f"{before}."):
            return after + name.removeprefix(before)
    raise KeyError(name)
