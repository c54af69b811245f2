"""timm's plain vision transformers, as timm publishes them on the hub, turned into transformers' ViT.

Both compute the same (Dosovitskiy et al. 2021); timm has queries, keys and values in one matrix, and leaves the number
of heads to the architecture's name. timm itself is not needed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SUPPORTED = (
    "of timm: vit_tiny, vit_small, vit_base, vit_large, vit_huge, vit_giant and vit_gigantic, as "
    "vit_base_patch16_224: with a class token, and without registers, layer scale or other pooling"
)
_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16, "giant": 16, "gigantic": 16}
_ARCHITECTURE = re.compile(rf"vit_({'|'.join(_HEADS)})_patch(\d+)_(\d+)")
_HARMLESS = {"img_size", "in_chans", "num_classes", "global_pool"}
"""Arguments of a model that its tensors show, or that are looked at by themselves."""
_EPSILON = 1e-6
"""Of every layer norm of timm's."""
_ENDS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_LAYER = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_QKV = ("query", "key", "value")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")


def is_timm(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is timm's."""
    return "architecture" in config and "model_type" not in config


def convert(weights: Path, config: Mapping[str, Any], folder: Path) -> None:
    """Write a checkpoint as one of transformers' `ViTModel`.

    Args:
        weights: Its `model.safetensors`.
        config: Its `config.json`, with the `architecture` and, under `pretrained_cfg`, how pixels are scaled.
        folder: Where to; it is there.

    Raises:
        ValueError: It is no plain vision transformer of three-channel pictures; says why.
        OSError: It cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    heads = _heads(config)
    if not weights.is_file():
        raise ValueError(f"it has no {weights.name}")
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights.name} cannot be read: {error}") from None
    save_file(_renamed(tensors), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_configuration(tensors, heads)), encoding="utf-8")
    trained = config.get("pretrained_cfg")
    said = trained if isinstance(trained, Mapping) else config
    scaling = {ours: said[theirs] for ours, theirs in (("image_mean", "mean"), ("image_std", "std")) if theirs in said}
    (folder / "preprocessor_config.json").write_text(json.dumps(scaling), encoding="utf-8")


def _heads(config: Mapping[str, Any]) -> int:
    architecture = config["architecture"]
    match = _ARCHITECTURE.fullmatch(architecture) if isinstance(architecture, str) else None
    if match is None:
        raise ValueError(f"timm's {architecture!r} is not supported")
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"its model_args are no table: {arguments!r}")
    if unknown := sorted(set(arguments) - _HARMLESS):
        raise ValueError(f"timm's {architecture} with another {unknown[0]} is not supported")
    if (pooling := arguments.get("global_pool", config.get("global_pool", "token"))) != "token":
        raise ValueError(f"timm's {architecture} with the pooling {pooling!r} is not supported")
    return _HEADS[match[1]]


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by transformers' names, without the head.

    Raises:
        ValueError: One has no place in transformers' `ViTModel`.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in ("head.weight", "head.bias"):
            continue
        block = _BLOCK.fullmatch(name)
        if block and block[2] == "attn.qkv" and tensor.shape[0] % 3 == 0:
            place = f"encoder.layer.{block[1]}.attention.attention"
            for each, rows in zip(_QKV, tensor.chunk(3), strict=True):
                found[f"{place}.{each}.{block[3]}"] = rows.contiguous()
        elif block and block[2] in _LAYER:
            found[f"encoder.layer.{block[1]}.{_LAYER[block[2]]}.{block[3]}"] = tensor
        else:
            stem, _, part = name.rpartition(".")
            if name not in _ENDS and stem not in _ENDS:
                raise ValueError(f"it has {name}, so it is no plain vision transformer")
            found[_ENDS.get(name) or f"{_ENDS[stem]}.{part}"] = tensor
    return found


def _configuration(tensors: Mapping[str, Tensor], heads: int) -> dict[str, Any]:
    """A `ViTConfig`, by the shapes of the tensors."""
    try:
        width, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
        patches = tensors["pos_embed"].shape[1] - 1
        inner = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"it is no plain vision transformer: {error}") from None
    side = math.isqrt(max(patches, 0))
    if side < 1 or side * side != patches:
        raise ValueError(f"its {patches} patches are no square with a class token")
    if channels != 3:
        raise ValueError(f"its pictures have {channels} channels, not 3")
    return {
        "model_type": "vit",
        "hidden_size": width,
        "num_hidden_layers": len({match[1] for name in tensors if (match := _BLOCK.fullmatch(name))}),
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "image_size": side * patch,
        "patch_size": patch,
        "layer_norm_eps": _EPSILON,
        "hidden_act": "gelu",
        "qkv_bias": True,
    }
