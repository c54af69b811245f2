"""LoRA files, full differences and embeddings: what other programs add to a checkpoint that they have.

| form | keys | who reads it |
|---|---|---|
| `lora` | `lora_unet_PATH.lora_up.weight` (rows, r), `.lora_down.weight` (r, columns), `.alpha` = r | diffusers, ComfyUI, A1111, sd-scripts |
| `diff` | `lora_unet_PATH.diff` (rows, columns) | ComfyUI, A1111; diffusers refuses it |
| `lora` of a transformer | `transformer.PATH.lora_B.weight` (rows, r), `.lora_A.weight` (r, columns) | diffusers |
| `embedding` | `emb_params` (1, width); with several text encoders `clip_l`, `clip_g`, `t5xxl` | all |

PATH has `_` for every `.`: the module's name in diffusers, or with two text encoders the one of the original code, which
is what LoRA trainers write for SDXL.
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from conceptctl.formats import low_rank
from conceptctl.formats.low_rank import Array, Factors
from conceptctl.store.tensorfile import LazyTensor, Tensor

PREFIX = "lora_unet_"
DTYPES = {"fp16": "F16", "bf16": "BF16", "fp32": "F32"}


@dataclass(frozen=True)
class Written:
    """The tensors of a file, and how far they are from the deltas.

    Attributes:
        tensors: What the file holds.
        rank: The highest rank among the factors; 0 for full differences.
        error: |difference| / |deltas| over all weights together, rounding to the type of the file left out.
    """

    tensors: Mapping[str, Tensor | LazyTensor]
    rank: int
    error: float


def module_name(path: str) -> str:
    """Return what diffusers calls the module of a U-Net's weight, given its parameter path."""
    return path.removeprefix("unet/").removesuffix(".weight")


def lora(
    deltas: Mapping[str, Array],
    *,
    known: Mapping[str, Factors] = MappingProxyType({}),
    rank: int | None = None,
    dtype: str = "F32",
    named: Callable[[str], str] = module_name,
) -> Written:
    """Return a LoRA file's tensors: exact, or truncated to a rank.

    Args:
        deltas: What is added to each weight, (rows, columns), by parameter path.
        known: The factors of those that are known to be products; of the others they are looked for.
        rank: The highest rank; None for as high as it takes.
        dtype: The type of the factors, as safetensors calls it.
        named: What a module is called, given its parameter path.
    """
    made = _factored(deltas, known, rank)
    tensors: dict[str, Tensor | LazyTensor] = {}
    for path in deltas:
        key = PREFIX + named(path).replace(".", "_")
        tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"] = made.tensors(path, dtype)
        # The scale is alpha over the rank: one.
        tensors[f"{key}.alpha"] = as_tensor(np.array(made.rank, np.float32), dtype)
    return Written(tensors, made.rank, made.error)


def peft(
    deltas: Mapping[str, Array],
    *,
    known: Mapping[str, Factors] = MappingProxyType({}),
    rank: int | None = None,
    dtype: str = "F32",
) -> Written:
    """Return a LoRA file's tensors as peft names them, which diffusers reads for every pipeline; see `lora`.

    `COMPONENT.MODULE.lora_A.weight` (r, columns) and `.lora_B.weight` (rows, r), of scale 1.
    """
    made = _factored(deltas, known, rank)
    tensors: dict[str, Tensor | LazyTensor] = {}
    for path in deltas:
        module = path.removesuffix(".weight").replace("/", ".")
        tensors[f"{module}.lora_B.weight"], tensors[f"{module}.lora_A.weight"] = made.tensors(path, dtype)
    return Written(tensors, made.rank, made.error)


@dataclass(frozen=True)
class _Factored:
    """Deltas as products of one rank: diffusers takes one scale for a whole file, whatever each module's alpha says.

    Attributes:
        deltas: The deltas.
        shapes: Of each.
        thin: Factors of those whose rank is low or truncated; those of the others are made when they are written.
        below: Where the identity stands in those; see `low_rank.beside_identity`.
        rank: Of all products.
        error: |difference| / |deltas| of all together.
    """

    deltas: Mapping[str, Array]
    shapes: Mapping[str, tuple[int, ...]]
    thin: Mapping[str, Factors]
    below: bool
    rank: int
    error: float

    def tensors(self, path: str, dtype: str) -> tuple[LazyTensor, LazyTensor]:
        """The factors of one delta: (rows, r) and (r, columns)."""
        rows, columns = self.shapes[path]
        return (
            LazyTensor(dtype, (rows, self.rank), lambda: as_tensor(self._factors(path).up, dtype).data),
            LazyTensor(dtype, (self.rank, columns), lambda: as_tensor(self._factors(path).down, dtype).data),
        )

    def _factors(self, path: str) -> Factors:
        found = self.thin.get(path) or low_rank.beside_identity(self.deltas[path], below=self.below)
        return found.padded(self.rank)


def _factored(deltas: Mapping[str, Array], known: Mapping[str, Factors], rank: int | None) -> _Factored:
    """Find the factors of deltas, exact or truncated, one delta in memory at a time.

    Where ranks are not low, the identity stands on the side that makes the smaller file.
    """
    shapes, thin, sizes = {}, {}, {}
    for path, delta in deltas.items():
        shapes[path], sizes[path] = delta.shape, float(np.linalg.norm(delta)) ** 2
        found = known.get(path)
        if found is None or (rank is not None and found.rank > rank):
            found = low_rank.thin(delta) if rank is None else low_rank.truncated(delta, rank)
        if found:
            thin[path] = found
    highest = max((each.rank for each in thin.values()), default=0)
    # All products have one rank, so the file is as large as that, whichever shapes there are.
    full = [shape for path, shape in shapes.items() if path not in thin]
    of_rows, of_columns = (max((shape[side] for shape in full), default=0) for side in (0, 1))
    below = max(highest, of_columns) <= max(highest, of_rows)
    wrong = sum(sizes[path] * each.error**2 for path, each in thin.items())
    error = (wrong / (sum(sizes.values()) or 1)) ** 0.5
    return _Factored(deltas, shapes, thin, below, max(highest, of_columns if below else of_rows), error)


def diff(deltas: Mapping[str, Array], *, dtype: str = "F32", named: Callable[[str], str] = module_name) -> Written:
    """Return a file of full differences; see `lora`."""

    def tensor(path: str, shape: tuple[int, ...]) -> LazyTensor:
        return LazyTensor(dtype, shape, lambda: as_tensor(deltas[path], dtype).data)

    shapes = {path: delta.shape for path, delta in deltas.items()}
    keys = {path: PREFIX + named(path).replace(".", "_") for path in shapes}
    return Written({f"{keys[path]}.diff": tensor(path, shape) for path, shape in shapes.items()}, 0, 0.0)


EMBEDDING_KEYS: Mapping[int, tuple[str, ...]] = {1: ("emb_params",), 2: ("clip_l", "clip_g")}
"""What embeddings are called, by how many text encoders of CLIP's there are."""
T5_TABLE, T5_KEY = "/shared.weight", "t5xxl"
"""How the path of T5's token table ends, and what ComfyUI calls its rows in an embedding."""


def embedding_keys(tables: Mapping[str, str]) -> tuple[str, ...]:
    """Return what embeddings are called, in order, given the parameter path of each text encoder's token table."""
    if not any(path.endswith(T5_TABLE) for path in tables.values()):
        return EMBEDDING_KEYS[len(tables)]
    clip = iter(EMBEDDING_KEYS[2])
    return tuple(T5_KEY if path.endswith(T5_TABLE) else next(clip) for path in tables.values())


def embedding(rows: Mapping[str, Array], *, dtype: str = "F32", keys: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Return an embedding file's tensors.

    Args:
        rows: One concept's row of each token table, (1, width), in the order of the text encoders.
        dtype: The type of the file, as safetensors calls it.
        keys: What each is called; CLIP's by default, by how many there are.
    """
    keys = keys or EMBEDDING_KEYS[len(rows)]
    return {key: as_tensor(row, dtype) for key, row in zip(keys, rows.values(), strict=True)}


def as_tensor(array: Array, dtype: str) -> Tensor:
    """Return an fp32 array as a tensor of another type, rounded to nearest."""
    plain = np.ascontiguousarray(array, dtype="<f4")
    if dtype == "F16":
        return Tensor("F16", array.shape, plain.astype("<f2").tobytes())
    if dtype == "BF16":
        bits = plain.reshape(-1).view("<u4")
        # To nearest, ties to even, in the upper half; no finite number overflows.
        rounded = ((bits + (0x7FFF + ((bits >> 16) & 1)).astype("<u4")) >> 16).astype("<u2")
        return Tensor("BF16", array.shape, rounded.tobytes())
    return Tensor("F32", array.shape, plain.tobytes())
