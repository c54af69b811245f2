"""LoRA files that other programs wrote, read as far as deltas can be made of them.

| written by | keys |
|---|---|
| sd-scripts (kohya), OneTrainer | `lora_unet_PATH.lora_up.weight`, `.lora_down.weight`, `.alpha` |
| the same, as full differences | `lora_unet_PATH.diff` |
| peft, diffusers | `unet.PATH.lora_B.weight`, `.lora_A.weight`; the scale stands in the metadata, or beside the file |
| older diffusers | `unet.PATH.lora.up.weight`, `unet.BLOCK.processor.to_k_lora.up.weight` |

PATH is as in `formats.lora`. A delta is scale x up x down, with scale alpha / rank; where a file names no alpha, 1.
LyCORIS's other products (LoHa, LoKr, OFT) and DoRA are told apart by their keys, and not read.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from conceptctl.formats.low_rank import Array

MOST_RANK = 4096
"""No adapter is thicker; what says so would only take memory."""
_MOST_ALPHA = 1e6
_TEXT = "text encoder"
_BROKEN = f"keys and values without a whole adapter of rank 1 to {MOST_RANK}"

_KOHYA = re.compile(r"lora_(?P<network>unet|te\d?|transformer)_(?P<name>[^.]+)\.(?P<part>.+)")
_DOTTED = re.compile(
    r"(?P<name>.+)\.(?P<part>lora_A|lora_B|lora_up|lora_down|lora\.up|lora\.down|lora_linear_layer\.up"
    r"|lora_linear_layer\.down|lora_magnitude_vector|alpha|diff|diff_b|dora_scale|lora_mid"
    r"|(?:hada|lokr|oft)_\w+)(?:\.default(?:_0)?)?(?:\.weight)?"
)
_PROCESSOR = re.compile(
    r"(?P<name>.+?)(?:\.processor)?\.(?P<which>to_[qkv]|to_out)_lora\.(?P<part>up|down)\.weight"
)  # fmt: skip
_PREFIX = re.compile(r"(?:base_model\.model\.)?(?:(?P<network>unet|transformer|text_encoder(?:_\d)?)\.)?")
_ORIGINAL_PREFIX = re.compile(r"(?:model\.)?diffusion_model\.")
_PARTS = {
    "lora_up": "up", "lora_B": "up", "lora.up": "up", "lora_linear_layer.up": "up",
    "lora_down": "down", "lora_A": "down", "lora.down": "down", "lora_linear_layer.down": "down",
}  # fmt: skip
_FORMS = (("hada_", "LoHa"), ("lokr_", "LoKr"), ("oft_", "OFT"), ("lora_mid", "Tucker"), ("dora_scale", "DoRA"),
          ("lora_magnitude_vector", "DoRA"), ("a1", "GLoRA"), ("w_norm", "norms"))  # fmt: skip
_PLACES = (
    ("attn1", "self-attention"),
    ("attn2", "cross-attention's queries and outputs"),
    ("_ff_", "feed-forward"),
    ("proj_in", "projections"),
    ("proj_out", "projections"),
    ("emb", "time embeddings"),
    ("norm", "norms"),
    ("conv", "convolutions"),
    ("_blocks_", "convolutions"),
)
"""Which layer a module is, by a part of its name; the first that fits."""
_PLAIN_PATTERN = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Read:
    """What could be made of a LoRA file.

    Attributes:
        deltas: What it adds to each target, by parameter path, fp32.
        factors: Of those that are products: (rows, r), the scale in it, and (r, columns).
        unused: How many of its modules could not be used, by what they are.
        misfits: Modules that a target's name fits and its place or shape does not: the name, and the shape of the
            delta; the shape is () where no delta could be made.
        unread: Keys that no known form has.
        share: How much of what the file changes is used: the sum of squares of the used deltas over that of all that
            could be measured; 1 for a file that changes nothing.
        rank: The highest rank of the factors that are used; 0 for full differences.
        scale: The largest scale of them, alpha / rank.
    """

    deltas: Mapping[str, Array]
    factors: Mapping[str, tuple[Array, Array]]
    unused: Mapping[str, int]
    misfits: tuple[tuple[str, tuple[int, ...]], ...]
    unread: tuple[str, ...]
    share: float
    rank: int
    scale: float

    @property
    def modules(self) -> int:
        """How many modules the file changes."""
        return len(self.deltas) + sum(self.unused.values())


@dataclass(frozen=True)
class _Key:
    """A tensor's name taken apart.

    Attributes:
        network: "" for the one that draws, else `_TEXT`.
        name: The module's, with `_` for every `.`.
        dotted: The module's as it is in the file.
        part: "up", "down", "alpha", "diff", or what else the file calls it.
    """

    network: str
    name: str
    dotted: str
    part: str


def is_lora(names: Iterable[str]) -> bool:
    """Whether one of a file's tensors is called as a part of an adapter is."""
    return any(_parsed(name) for name in names)


def read(
    arrays: Mapping[str, Array],
    targets: Mapping[str, tuple[int, ...]],
    *,
    named: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Read:
    """Read a LoRA that another program made; one module is in memory at a time, and the deltas.

    Args:
        arrays: All tensors of the file, as fp32.
        targets: The shapes of the weights that deltas go on, by parameter path.
        named: More names of targets than diffusers' own: parameter paths by name, with `_` for every `.`.
        config: Settings of the adapter, as peft writes them (`lora_alpha`, `alpha_pattern`, `use_rslora`).

    Raises:
        ValueError: The settings of the adapter cannot be read, or two modules are of one target.
    """
    scales = _Scales(config or {})
    paths = {flat_name(path): path for path in targets} | dict(named or {})
    endings = tuple({"_".join(name.split("_")[-3:]) for name in map(flat_name, targets)})
    modules, unread = _by_module(arrays)
    deltas: dict[str, Array] = {}
    factors: dict[str, tuple[Array, Array]] = {}
    unused: Counter[str] = Counter()
    misfits = []
    used_size = whole_size = 0.0
    rank, scale = 0, 0.0
    for key, names in modules.items():
        module = _module({part: arrays[name] for part, name in names.items()}, key, scales)
        size = module.size() if module else 0.0
        whole_size += size
        path = None if key.network else paths.get(key.name)
        if path and path in deltas:
            raise ValueError(f"{key.dotted} is in it twice, under two names")
        if module and path and module.shape == targets[path]:
            deltas[path] = module.delta()
            if found := module.factors():
                factors[path] = found
            used_size, rank, scale = used_size + size, max(rank, module.rank), max(scale, abs(module.scale))
            continue
        unused[_kind(key, names, is_target=path is not None)] += 1
        if not key.network and key.name.endswith(endings) and (module or not path):
            misfits.append((key.dotted, module.shape if module else ()))
    share = used_size / whole_size if whole_size else 1.0
    return Read(deltas, factors, dict(unused), tuple(misfits), unread, share, rank, scale)


def flat_name(path: str) -> str:
    """Return what a target's module is called in a LoRA file, given its parameter path."""
    return path.partition("/")[2].removesuffix(".weight").replace(".", "_")


def _by_module(names: Iterable[str]) -> tuple[dict[_Key, dict[str, str]], tuple[str, ...]]:
    """Sort tensors by module, of which the key has no part; and those that no form has."""
    modules: dict[_Key, dict[str, str]] = {}
    unread = []
    for name in names:
        if found := _parsed(name):
            modules.setdefault(_Key(found.network, found.name, found.dotted, ""), {})[found.part] = name
        else:
            unread.append(name)
    return modules, tuple(unread)


def _parsed(key: str) -> _Key | None:
    if found := _KOHYA.fullmatch(key):
        network = _TEXT if found["network"].startswith("te") else ""
        part = found["part"].removesuffix(".weight")
        return _Key(network, found["name"], found["name"], _PARTS.get(part, part))
    prefix = _PREFIX.match(key)
    network = _TEXT if prefix and (prefix["network"] or "").startswith("text_encoder") else ""
    rest = _ORIGINAL_PREFIX.sub("", key[prefix.end() :] if prefix else key, count=1)
    if found := _PROCESSOR.fullmatch(rest):
        name = f"{found['name']}.{found['which']}"
        return _Key(network, name.replace(".", "_"), name, found["part"])
    if found := _DOTTED.fullmatch(rest):
        return _Key(network, found["name"].replace(".", "_"), found["name"], _PARTS.get(found["part"], found["part"]))
    return None


@dataclass(frozen=True)
class _Module:
    """What a file adds to one weight: scale x up x down; `down` is None where `up` is all of it."""

    up: Array
    down: Array | None
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the delta, convolutions as matrices."""
        return self.up.shape if self.down is None else (self.up.shape[0], self.down.shape[1])

    @property
    def rank(self) -> int:
        """Of the product; 0 where there is none."""
        return 0 if self.down is None else len(self.down)

    def delta(self) -> Array:
        """The delta, fp32; not finite where its numbers are too large for that."""
        if self.down is None:
            return self.up
        with np.errstate(over="ignore", invalid="ignore"):
            found: Array = (self.scale * (self.up @ self.down)).astype(np.float32)
        return found

    def factors(self) -> tuple[Array, Array] | None:
        """What the delta is the product of; None for a full one, and where the scale makes a factor too large."""
        with np.errstate(over="ignore"):
            up = (self.scale * self.up).astype(np.float32)
        return None if self.down is None or not np.isfinite(up).all() else (up, self.down)

    def size(self) -> float:
        """The sum of squares of the delta; of a product from its factors' Gram matrices, which are small."""
        if self.down is None:
            return float(np.square(self.up, dtype=np.float64).sum())
        up, down = self.up.astype(np.float64), self.down.astype(np.float64)
        return float(self.scale**2 * ((up.T @ up) * (down @ down.T)).sum())


def _module(parts: Mapping[str, Array], key: _Key, scales: _Scales) -> _Module | None:
    """Return what a module's tensors add to its weight; None where they are no whole adapter of a known form."""
    if set(parts) - {"alpha"} == {"diff"} and parts["diff"].ndim >= 2:
        return _Module(np.ascontiguousarray(_matrix(parts["diff"])), None, 1.0)
    if set(parts) - {"alpha"} != {"up", "down"} or min(parts["up"].ndim, parts["down"].ndim) < 2:
        return None
    up, down = _matrix(parts["up"]), _matrix(parts["down"])
    if up.shape[1] != len(down) or not 0 < len(down) <= MOST_RANK:
        return None
    if "alpha" not in parts:
        scale = scales.of(key, len(down))
    elif parts["alpha"].size == 1:
        scale = float(parts["alpha"].reshape(())) / len(down)
    else:
        return None
    return _Module(up, down, scale) if math.isfinite(scale) else None


def _matrix(array: Array) -> Array:
    return array.reshape(len(array), -1) if array.size else array.reshape(len(array), 0)


class _Scales:
    """What scale peft gives a product whose file has no alpha (peft's `LoraConfig`)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._alpha = config.get("lora_alpha")
        self._rooted = config.get("use_rslora") is True
        self._patterns = config.get("alpha_pattern") or {}
        patterns = self._patterns if isinstance(self._patterns, dict) else {"": None}
        plain = all(_PLAIN_PATTERN.fullmatch(name) and _is_number(alpha) for name, alpha in patterns.items())
        if not plain or not (self._alpha is None or _is_number(self._alpha)):
            raise ValueError("lora_alpha or alpha_pattern of the adapter's settings cannot be read")

    def of(self, key: _Key, rank: int) -> float:
        """The scale of a module's product."""
        near = (a for name, a in self._patterns.items() if key.dotted == name or key.dotted.endswith(f".{name}"))
        alpha = next(near, self._alpha)
        if alpha is None:
            return 1.0
        return float(alpha) / (math.sqrt(rank) if self._rooted else rank)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _MOST_ALPHA


def _kind(key: _Key, parts: Iterable[str], *, is_target: bool) -> str:
    """Say in words what a module is."""
    if key.network:
        return key.network
    for begin, what in _FORMS:
        if any(part.startswith(begin) for part in parts):
            return what
    if set(parts) <= {"diff_b", "alpha"}:
        return "biases"
    if is_target:
        return _BROKEN
    name = f"_{key.name}_"
    return next((what for part, what in _PLACES if part in name), "other layers")
