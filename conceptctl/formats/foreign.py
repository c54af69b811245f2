"""Files of other programs: told apart before they are read, and read one tensor at a time.

Nothing in them is trusted: what is no safetensors file is never opened by anything that could run code from it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from conceptctl.errors import ImportRefused
from conceptctl.formats.low_rank import Array
from conceptctl.store import tensorfile, weights
from conceptctl.store.base import FLOATS, chosen_weights
from conceptctl.store.manifest import Family
from conceptctl.store.tensorfile import Header

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_CONVERT = "take the .safetensors of the same model, or convert it once: docs/how-to/use-elsewhere.md, 'A pickle'"
_UNQUANTIZED = "take the same in fp16, bf16 or fp32: numbers this coarse cannot be added to"
_STARTS = (
    (b"PK\x03\x04", "a pickle in an archive, as torch.save writes", _CONVERT),
    (b"\x80", "a pickle, as torch.save writes", _CONVERT),
    (b"GGUF", "a GGUF file, which is quantized for drawing alone", _UNQUANTIZED),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file that it points to", "git lfs pull"),
    (b"<", "a page of the web, not the file that was to be downloaded", "download it again, where need be signed in"),
)
"""How files begin that are often taken for safetensors ones: what they are, and what to do."""
NOT_FINITE = "it is damaged, or its training failed: take another save of it"
_PACKED = ("F8_E4M3", "F8_E5M2", "I8", "U8")
"""What quantized weights are stored as; nf4 and fp4 are packed two to a U8."""


def refuse_others(path: Path, name: str = "") -> None:
    """Say what a file is that is no safetensors file, as far as its first bytes or its name tell.

    Args:
        path: The file.
        name: What to call it; its own name by default.

    Raises:
        ImportRefused: It is a pickle, a GGUF file, or what a failed download leaves.
    """
    with path.open("rb") as stream:
        start = stream.read(64)
    for begin, what, hint in _STARTS:
        # The ninth byte of a safetensors file begins its header; a length may begin with any of these bytes.
        if start.startswith(begin) and start[8:9] != b"{":
            raise ImportRefused(f"{name or path.name}: not a safetensors file but {what}", hint=hint)
    if path.name.lower().endswith(PICKLES):
        refuse_pickle(path.name)


def refuse_pickle(name: str) -> None:
    """Refuse what is a pickle by its name.

    Raises:
        ImportRefused: Always.
    """
    raise ImportRefused(f"{name}: a pickle runs code when it is read: only safetensors", hint=_CONVERT)


def refuse_quantized(path: Path, header: Header, name: str = "") -> None:
    """Refuse a file of quantized weights.

    Args:
        path: The file.
        header: Its header.
        name: What to call it; its own name by default.

    Raises:
        ImportRefused: It is one.
    """
    called = name or path.name
    packed = {each.dtype for key, each in header.tensors.items() if key.endswith("weight") and len(each.shape) > 1}
    if any(".quant_state." in key or key.endswith(".absmax") for key in header.tensors):
        raise ImportRefused(f"{called}: quantized by bitsandbytes (nf4, fp4 or int8)", hint=_UNQUANTIZED)
    if found := sorted(packed & set(_PACKED)):
        raise ImportRefused(f"{called}: quantized: its weights are {found[0]}", hint=_UNQUANTIZED)


def refuse_folder(folder: Path, family: Family) -> None:
    """Refuse a diffusers folder with quantized weights, as its configurations or its files say, or without weights.

    Args:
        folder: The folder.
        family: What kind of model lies in it.

    Raises:
        ImportRefused: It is one, or a file is what a failed download leaves.
    """
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*")) if path.is_file()]
    for name in chosen_weights(names, family).values():
        refuse_others(folder / name, name)
        refuse_quantized(folder / name, tensorfile.read_header(folder / name), name)
    for component in family.components:
        try:
            config = json.loads((folder / component / "config.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            # What is missing or damaged is said by what needs it.
            continue
        if isinstance(config, dict) and (said := config.get("quantization_config")):
            how = said.get("quant_method") if isinstance(said, dict) else None
            raise ImportRefused(
                f"{folder.name}/{component}: quantized{f' by {how}' if isinstance(how, str) else ''}", hint=_UNQUANTIZED
            )


class Floats(Mapping[str, Array]):
    """The float tensors of a safetensors file, as fp32 arrays; each is read when it is asked for."""

    def __init__(self, path: Path, header: Header, names: Collection[str] | None = None) -> None:
        """Take a file whose header was read; of its tensors all, or some.

        Args:
            path: The file.
            header: Its header.
            names: Which tensors; all by default.
        """
        self._path = path
        self._tensors = {name: header.tensors[name] for name in (header.tensors if names is None else names)}
        self._view = tensorfile.numbers(path, header) if self._tensors else memoryview(b"")

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __getitem__(self, name: str) -> Array:
        """Read one.

        Raises:
            ImportRefused: It is not of floats, or not all of its numbers are finite.
        """
        info = self._tensors[name]
        if info.dtype not in FLOATS:
            raise ImportRefused(f"{self._path.name}: {name} is {info.dtype}, no floats", hint=_UNQUANTIZED)
        with np.errstate(over="ignore"):
            found = weights.to_array(info, self._view)
        if not np.isfinite(found).all():
            raise ImportRefused(f"{self._path.name}: {name}: not all numbers are finite", hint=NOT_FINITE)
        return found
