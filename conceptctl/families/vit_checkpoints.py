"""Vision transformers as they lie in folders: transformers' ViT and CLIP, timm's ViT, and a store's own copy of one.

A store keeps the tower alone, in the form in which transformers saves it. What its tensors are called there are the
parameter paths of a store, so that a release of transformers that calls its modules otherwise changes none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from conceptctl.errors import NotFound
from conceptctl.families import timm_vit

BUNDLED = "pocket-vit"
"""The image tower of the bundled CLIP model."""
SELF_QKV = ("q_proj", "k_proj", "v_proj", "query", "key", "value")
"""What the projections of self-attention are called: CLIP's, and those of ViT in later and in earlier releases."""
HINT = (
    "a folder, or a hub id in the cache, of a ViT or a CLIP model of transformers, or of a plain ViT of timm, in "
    f"safetensors; or {BUNDLED}"
)
_PLACE = re.compile(r"layers?\.(\d+)\..*\b([qkv])(?:_proj|uery|ey|alue)")
"""The layer and the projection that a module's, or a tensor's, name is of."""
_WEIGHTS, _CONFIG, _PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"


@dataclass(frozen=True)
class Tower:
    """A vision transformer that was read, in fp32."""

    model: Any
    """A `ViTModel` without a pooler, or a `CLIPVisionModel`."""
    scaling: tuple[Tensor, Tensor]
    """Mean and deviation of pixels, (3, 1, 1) each, as the model was trained with."""


def find(named: str) -> tuple[Path, str]:
    """Return the folder of a model that a user names, and what it is called: never a path of the user's.

    Raises:
        NotFound: There is neither a folder nor a hub model in the cache.
    """
    if named == BUNDLED:
        from conceptctl import pocket

        return pocket.clip_folder(), BUNDLED
    if Path(named).is_dir():
        return Path(named), "local folder"
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(named, local_files_only=True)), named
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        raise NotFound(f"there is no folder {named!r}, and no hub model of that name in the cache", hint=HINT) from None


def read(folder: Path, shown: str, attention: str) -> Tower:
    """Read the tower of a model.

    Args:
        folder: Where it lies.
        shown: What messages call it.
        attention: The name that its attention is registered by.

    Raises:
        NotFound: It is another kind of model, or not whole.
    """
    config = _json(folder / _CONFIG, shown)
    if not timm_vit.is_timm(config):
        return _from_transformers(folder, config, shown, attention)
    with TemporaryDirectory(prefix="conceptctl-") as made:
        try:
            timm_vit.convert(folder / _WEIGHTS, config, Path(made))
        except (ValueError, OSError) as error:
            raise NotFound(f"{shown}: {error}", hint=f"{timm_vit.SUPPORTED}; or {HINT}") from error
        return _from_transformers(Path(made), _json(Path(made) / _CONFIG, shown), shown, attention)


def _from_transformers(folder: Path, config: Mapping[str, Any], shown: str, attention: str) -> Tower:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import CLIPVisionModel, ViTModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    kind = config.get("model_type")
    classes = {"vit": ViTModel, "clip": CLIPVisionModel, "clip_vision_model": CLIPVisionModel}
    if not isinstance(kind, str) or kind not in classes:
        raise NotFound(f"{shown}: no vision transformer that is known here: its kind is {kind!r}", hint=HINT)
    try:
        model, info = classes[kind].from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            # They are named below; transformers itself logs which they are, and does not say it.
            ignore_mismatched_sizes=True,
            **({"add_pooling_layer": False} if kind == "vit" else {}),
        )
        if odd := sorted(info["mismatched_keys"]):
            name, found, wanted = odd[0]
            raise ValueError(f"its {name} has the shape {tuple(found)}, not {tuple(wanted)}")
        if absent := sorted(info["missing_keys"]):
            raise ValueError(f"it has no {absent[0]}")
        if not attentions(model):
            raise ValueError("it has no layers")
        if not isinstance(model.config.image_size, int) or model.config.image_size < 1:
            raise ValueError(f"its pictures of {model.config.image_size} are no squares")
        return Tower(model, _scaling(folder, shown))
    # Whatever the libraries make of numbers that cannot be meant, and of damaged files.
    except (
        ValueError, OSError, AttributeError, TypeError, LookupError, RuntimeError, ArithmeticError,
        SafetensorError, StrictDataclassError,
    ) as error:  # fmt: skip
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotFound(f"{shown}: no whole vision transformer: {reason}", hint=HINT) from error


def attentions(model: Any) -> list[Any]:
    """The modules of self-attention, layer by layer."""
    return [
        module
        for module in model.modules()
        if sum(isinstance(getattr(module, name, None), nn.Linear) for name in SELF_QKV) == 3
    ]


def write(tower: Tower, folder: Path) -> None:
    """Write a tower as a store keeps it: its weights in one file, its configuration, and how pixels are scaled."""
    tower.model.save_pretrained(folder, max_shard_size="1TB")
    mean, deviation = (each.flatten().tolist() for each in tower.scaling)
    (folder / _PROCESSOR).write_text(json.dumps({"image_mean": mean, "image_std": deviation}), encoding="utf-8")


def kept_names(folder: Path, modules: Sequence[str]) -> dict[str, str]:
    """What a written tower's file calls the weights of some projections, by what this release calls these modules.

    Raises:
        KeyError: The file has no such projection.
    """
    from safetensors import safe_open

    with safe_open(folder / _WEIGHTS, "pt") as stream:
        kept = {_place(name): name for name in stream.keys() if name.endswith(".weight")}  # noqa: SIM118
    return {name: kept[_place(name)].removesuffix(".weight") for name in modules}


def _place(name: str) -> tuple[str, ...] | None:
    found = _PLACE.search(name)
    return found.groups() if found else None


def _json(path: Path, shown: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise NotFound(f"{shown}: no vision transformer: {path.name} cannot be read: {error}", hint=HINT) from None
    return found if isinstance(found, dict) else {}


def _scaling(folder: Path, shown: str) -> tuple[Tensor, Tensor]:
    """Mean and deviation of pixels, as the model's image processor has them."""
    path = folder / _PROCESSOR
    config = _json(path, shown) if path.exists() else {}
    mean, deviation = (
        torch.tensor(config.get(key, [0.5, 0.5, 0.5])).float().view(3, 1, 1) for key in ("image_mean", "image_std")
    )
    if not (mean.isfinite().all() and deviation.isfinite().all() and (deviation > 0).all()):
        raise ValueError(f"{path.name}: image_mean and image_std cannot be meant")
    return mean, deviation


def digest_of(folder: Path) -> str:
    """The sha256 over the weights of a folder: of the digests of their files, in the order of their names."""
    digests = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
