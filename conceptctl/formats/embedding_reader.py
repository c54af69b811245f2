"""Textual-inversion embeddings that other programs wrote, in safetensors files of their own or within a LoRA's.

| written by | one text encoder | several |
|---|---|---|
| A1111, OneTrainer | `emb_params` (n, width) | `clip_l`, `clip_g`; with T5 `t5xxl` beside |
| diffusers | the token itself as the key | `clip_l`, `clip_g`, or `text_encoders_0`, `text_encoders_1` |
| LoRA files | `bundle_emb.NAME.string_to_param.*` | `bundle_emb.NAME.clip_l`, `.clip_g` |
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from conceptctl.errors import ImportRefused
from conceptctl.formats.low_rank import Array
from conceptctl.store.tensorfile import TensorInfo
from conceptctl.wording import count

_TABLES = (("clip_l", "clip_g", "t5xxl"), ("text_encoders_0", "text_encoders_1"))
"""What programs call the tables, each in its own order."""
_PLAIN = {"emb_params", *_TABLES[0], *_TABLES[1]}
"""Names of tables, which are no names of tokens."""
_BUNDLED = re.compile(r"bundle_emb\.(?P<name>[^.]+)\.(?P<table>.+)")
_ONE_TOKEN = "a concept here is one token, so train it with one vector"  # noqa: S105 - no password


def is_embedding(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether a file's tensors are those of an embedding: one of rows, whatever it is called, or tables by name."""
    if len(tensors) == 1:
        (only,) = tensors.values()
        return 1 <= len(only.shape) <= 2 and only.shape[-1] > 1
    return bool(tensors) and any(set(tensors) <= set(tables) for tables in _TABLES)


def token_named(names: Collection[str]) -> str:
    """Return the token that the file itself names, without the marks around it; "" where it names none."""
    (name, *more) = names
    return "" if more or name in _PLAIN else name.strip("<>")


def read(file: str, arrays: Mapping[str, Array], widths: Mapping[str, int], keys: Sequence[str]) -> dict[str, Array]:
    """Read an embedding of one vector for each text encoder.

    Args:
        file: What to call the file.
        arrays: Its tensors, as fp32.
        widths: Numbers in a row of each of the base's token tables, in the order of the text encoders.
        keys: What `formats.lora` calls these tables, in the same order.

    Returns:
        A row (1, width) of each token table.

    Raises:
        ImportRefused: It is for other text encoders, or has more vectors than one.
    """
    rows = {name: np.atleast_2d(array) for name, array in _in_order(arrays, keys).items()}
    shapes = [each.shape for each in rows.values()]
    found, wanted = [shape[-1] for shape in shapes], list(widths.values())
    if any(len(shape) != 2 for shape in shapes) or found != wanted:
        there, here = (" and ".join(map(str, sizes)) for sizes in (found, wanted))
        raise ImportRefused(
            f"{file}: an embedding of another base: it has {_vectors(len(shapes))} of {there} numbers, this store's "
            f"base takes {_vectors(len(wanted))} of {here}",
            hint="a store has one base; make another with conceptctl init --base ... --store DIR",
        )
    if several := [shape[0] for shape in shapes if shape[0] != 1]:
        raise ImportRefused(f"{file}: an embedding of {several[0]} vectors", hint=_ONE_TOKEN)
    return dict(zip(widths, rows.values(), strict=True))


def bundled(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the embeddings within a LoRA file: for each its tensors' names, by table."""
    found: dict[str, dict[str, str]] = {}
    for key in names:
        if match := _BUNDLED.fullmatch(key):
            found.setdefault(match["name"], {})[match["table"]] = key
    return found


def _in_order(arrays: Mapping[str, Array], keys: Sequence[str]) -> dict[str, Array]:
    """The tables in the order of the text encoders."""
    order: Sequence[str] = next((each for each in (keys, *_TABLES) if set(arrays) <= set(each)), list(arrays))
    return {name: arrays[name] for name in order if name in arrays}


def _vectors(tables: int) -> str:
    return "one vector" if tables == 1 else f"{count(tables, 'vector')}"
