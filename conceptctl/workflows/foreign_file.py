"""A file that another program wrote, and what it says of itself: names, words, settings, its base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conceptctl.diffusion.prompts import MARKER
from conceptctl.errors import ImportRefused, UsageError
from conceptctl.formats import embedding_reader, foreign, lora_reader
from conceptctl.store import concept, tensorfile
from conceptctl.store.concept import METADATA_KEY
from conceptctl.store.tensorfile import Header

LONGEST_TRIGGER = 200
"""Characters of trigger words: a prompt has not many more."""
_PEFT_METADATA, _PEFT_CONFIG = "lora_adapter_metadata", "adapter_config.json"
_MOST_CONFIG = 1 << 20
"""Bytes of a file of settings beside a LoRA."""


@dataclass(frozen=True)
class ForeignFile:
    """A file, and what it says of itself."""

    path: Path
    header: Header
    ours: Mapping[str, Any] = field(default_factory=dict)
    """What `export` wrote into it."""

    @property
    def names(self) -> list[str]:
        """What our export calls the concepts in it."""
        entries = self.ours.get("concepts")
        found = [each.get("name") for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []
        return [name for name in found if isinstance(name, str) and concept.NAME.fullmatch(name)]


def opened(path: Path) -> ForeignFile | None:
    """Look whether a file is one of another program's; None for a concept file of ours, and for what is neither.

    Raises:
        ImportRefused: It is a pickle or the like, or a whole checkpoint.
    """
    if not path.is_file() or path.is_symlink():
        # What names no regular file is said by the gate.
        return None
    foreign.refuse_others(path)
    header = tensorfile.read_header(path)
    if METADATA_KEY in header.metadata and "token" in header.tensors:
        return None
    if any(name.startswith("model.diffusion_model.") and "lora" not in name for name in header.tensors):
        raise ImportRefused(
            f"{path.name}: a whole checkpoint, no concept", hint=f"conceptctl init --base {path.name} --store DIR"
        )
    foreign.refuse_quantized(path, header)
    if not lora_reader.is_lora(header.tensors) and not embedding_reader.is_embedding(header.tensors):
        return None
    return ForeignFile(path, header, _json(header.metadata.get(METADATA_KEY, "{}")))


def peft_config(file: ForeignFile) -> Mapping[str, Any]:
    """Return peft's settings of the adapter of what draws: from the metadata, or from the file beside it."""
    said = _json(file.header.metadata.get(_PEFT_METADATA, "{}"))
    parts = ("unet.", "transformer.")
    if own := {key.split(".", 1)[1]: value for key, value in said.items() if key.startswith(parts)}:
        return own
    beside = file.path.with_name(_PEFT_CONFIG)
    if said or file.path.stem != "adapter_model" or not beside.is_file():
        return said
    if beside.stat().st_size > _MOST_CONFIG:
        raise ImportRefused(f"{beside.name}: {beside.stat().st_size} bytes are no settings of an adapter")
    return _json(beside.read_text(encoding="utf-8", errors="replace"))


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def trigger_words(file: ForeignFile, asked: str) -> str:
    """The words that a LoRA answers to: those that the user names, or its metadata.

    Raises:
        UsageError: They cannot stand in a prompt.
    """
    if asked:
        if not _is_plain(asked):
            raise UsageError(
                f"{asked[:40]!a} cannot be trigger words",
                hint=f"up to {LONGEST_TRIGGER} letters, without V* and braces",
            )
        return " ".join(asked.split())
    metadata = file.header.metadata
    words = [metadata.get("modelspec.trigger_phrase", ""), _most_frequent(_json(metadata.get("ss_tag_frequency", "")))]
    return next((" ".join(each.split()) for each in words if _is_plain(each)), "")


def _is_plain(text: str) -> bool:
    marked = MARKER in text.upper() or bool(set(text) & {"{", "}"})
    return bool(text.strip()) and text.isprintable() and not marked and len(text) <= LONGEST_TRIGGER


def _most_frequent(frequencies: Mapping[str, Any]) -> str:
    """The one tag that stands under more pictures than any other, as sd-scripts counts them by folder; "" for none."""
    counts: dict[str, int] = {}
    for tags in frequencies.values():
        for tag, number in tags.items() if isinstance(tags, dict) else ():
            if type(number) is int:
                counts[tag.strip()] = counts.get(tag.strip(), 0) + number
    ranked = sorted(counts.values(), reverse=True)[:2]
    return max(counts, key=counts.__getitem__) if len(set(ranked)) == len(ranked) > 0 else ""


def usual_name(file: ForeignFile) -> str:
    """What to call it where the user does not say.

    Raises:
        UsageError: Nothing in it can be a name.
    """
    token = "" if lora_reader.is_lora(file.header.tensors) else embedding_reader.token_named(file.header.tensors)
    for text in (*file.names, token, file.path.stem):
        name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text.lower()).strip("-")
        if concept.NAME.fullmatch(name[:64]):
            return name[:64]
    raise UsageError(f"{file.path.name}: nothing in its name can be a concept's", hint="--as NAME")


def said_base(file: ForeignFile) -> str:
    """What the metadata says of the base, for a message."""
    metadata = file.header.metadata
    found = metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version") or ""
    return f" ({found[:60]})" if found.isprintable() and found else ""
