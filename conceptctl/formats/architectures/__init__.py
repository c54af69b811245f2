"""The models that checkpoints in one file hold: configurations and vocabulary, which such files have not.

Every JSON file has the configurations of one architecture, by their place in a diffusers folder. Facts are those of the
published models (stable-diffusion-v1-5, stable-diffusion-2-1-base, stable-diffusion-2-1, stable-diffusion-xl-base-1.0).
"""

from __future__ import annotations

import copy
import gzip
import json
from functools import cache
from importlib import resources
from typing import Any

Configurations = dict[str, Any]
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def configurations(name: str) -> Configurations:
    """Return an architecture's configurations, by their place in a diffusers folder; a copy."""
    return copy.deepcopy(_read(name))


@cache
def _read(name: str) -> Configurations:
    found: Configurations = json.loads((resources.files(__name__) / f"{name}.json").read_text(encoding="utf-8"))
    return found


def vocabulary() -> dict[str, bytes]:
    """Return CLIP's vocabulary as the files of a tokenizer, by name (Radford et al. 2021).

    It is the bytes, the bytes that end a word, one entry for each merge of two, and two marks: 49,408 in all.
    """
    merges = gzip.decompress((resources.files(__name__) / "clip-merges.txt.gz").read_bytes())
    pairs = [line.split() for line in merges.decode("utf-8").splitlines()[1:]]
    letters = _letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in pairs), *_SPECIAL]
    table = {word: number for number, word in enumerate(words)}
    return {"vocab.json": json.dumps(table, ensure_ascii=False).encode(), "merges.txt": merges}


def _letters() -> list[str]:
    """Return the character that byte-level BPE writes for each byte: itself where it can be printed."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(plain)
    return [chr(number) for number in plain] + [chr(256 + number) for number in range(others)]
