"""A base with its concepts folded in, as a checkpoint in one file: the layout that every program reads.

The vocabulary stays the base's, since a grown one breaks other programs' loaders (diffusers#672); the concepts' rows go
into embedding files beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conceptctl.errors import UsageError
from conceptctl.formats.lora import as_tensor
from conceptctl.formats.original_layout import Place, clip_place, open_clip_place, unet_place, vae_place
from conceptctl.store import tensorfile
from conceptctl.store.base import FLOATS
from conceptctl.store.tensorfile import LazyTensor, TensorInfo
from conceptctl.store.weights import Array, to_array

_OPEN_CLIP_WIDTHS = {1024, 1280}
"""Of the text encoders that were published in OpenCLIP's layout: Stable Diffusion 2's, and SDXL's second."""
_THIRDS = 3


def tensors_of(
    found: Mapping[str, tuple[Path, str, TensorInfo]],
    configs: Mapping[str, Any],
    changed: Mapping[str, Array],
    dtype: str | None = None,
) -> dict[str, LazyTensor]:
    """Return the tensors of a checkpoint in one file; each is made when it is written.

    Args:
        found: The base's tensors, by parameter path; see `store.base.tensors`.
        configs: Its configurations, by their place in the folder.
        changed: The weights that concepts change, fp32, by parameter path.
        dtype: The type of all weights, as safetensors calls it; by default that of the base, and fp32 of what changed.

    Raises:
        UsageError: Something of the base has no place in that layout.
    """
    place_of = _places(configs)
    parts: dict[str, dict[int, _Part]] = {}
    for path, (file, name, info) in found.items():
        component, _, parameter = path.partition("/")
        if component not in place_of or info.dtype not in FLOATS:
            continue
        try:
            place = place_of[component](parameter)
        except KeyError:
            raise UsageError(
                f"{path} has no place in a checkpoint in one file", hint="--to diffusers writes a folder"
            ) from None
        parts.setdefault(place.key, {})[place.third or 0] = _Part(path, file, name, info, place)
    return {
        key: _tensor(key, [each for _, each in sorted(some.items())], changed, dtype) for key, some in parts.items()
    }


@dataclass(frozen=True)
class _Part:
    """A parameter that is a tensor of the file, or a third of one."""

    path: str
    file: Path
    name: str
    info: TensorInfo
    place: Place

    def array(self, changed: Mapping[str, Array]) -> Array:
        """Its numbers, as they stand in the file."""
        if self.path in changed:
            array = changed[self.path]
        else:
            array = to_array(self.info, tensorfile.numbers(self.file, tensorfile.read_header(self.file)))
        return np.ascontiguousarray(array.T) if self.place.transposed else array


def _tensor(key: str, parts: list[_Part], changed: Mapping[str, Array], dtype: str | None) -> LazyTensor:
    first = parts[0]
    learned = any(part.path in changed for part in parts)
    kind = dtype or ("F32" if learned else first.info.dtype)
    shape = first.info.shape[::-1] if first.place.transposed else first.info.shape
    if first.place.third is not None:
        shape = (_THIRDS * shape[0], *shape[1:])
    if ".attn_1." in key and key.endswith(".weight") and ".norm." not in key and len(shape) == 2:
        # There the autoencoder's attention is made of 1 x 1 convolutions.
        shape = (*shape, 1, 1)

    def make() -> bytes | memoryview:
        if len(parts) == 1 and not learned and not first.place.transposed and kind == first.info.dtype:
            view = tensorfile.numbers(first.file, tensorfile.read_header(first.file))
            return view[first.info.start : first.info.end]
        return as_tensor(np.concatenate([part.array(changed) for part in parts]), kind).data

    return LazyTensor(kind, shape, make)


def _places(configs: Mapping[str, Any]) -> dict[str, Callable[[str], Place]]:
    """Where parameters stand, for each component."""
    unet, vae = configs["unet/config.json"], configs["vae/config.json"]
    found: dict[str, Callable[[str], Place]] = {
        "unet": lambda name: unet_place(name, unet),
        "vae": lambda name: vae_place(name, vae),
    }
    return found | dict(_encoder_places(configs))


def _encoder_places(configs: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[str], Place]]]:
    encoders = [name for name in ("text_encoder", "text_encoder_2") if f"{name}/config.json" in configs]
    for index, name in enumerate(encoders):
        is_open = configs[f"{name}/config.json"]["hidden_size"] in _OPEN_CLIP_WIDTHS
        stem = f"conditioner.embedders.{index}" if len(encoders) > 1 else "cond_stage_model"
        prefix = f"{stem}.{'model' if is_open else 'transformer'}."
        yield name, _bound(open_clip_place if is_open else clip_place, prefix)


def _bound(place: Callable[[str, str], Place], prefix: str) -> Callable[[str], Place]:
    return lambda name: place(name, prefix)
