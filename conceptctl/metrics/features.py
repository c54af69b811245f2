"""Features of pictures and prompts: a CLIP model's, unit norm, always fp32."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from conceptctl.errors import NotFound

BATCH = 16
"""How many pictures go through the model together, always: in a batch of another size the same picture gets slightly
different numbers, and forgetting must be 0 exactly where no picture has changed."""
HINT = "--feature-extractor FOLDER: a CLIP model in transformers' format, with its tokenizer and image processor"


class FeatureExtractor:
    """A CLIP model that turns pictures and prompts into features of one space.

    Attributes:
        name: What it is called: `pocket`, a hub id, or `local folder`; never a path of the user's.
        sha256: Digest of its weights. Features of extractors with different digests are not compared.
    """

    def __init__(self, model: Any, tokenizer: Any, processor: Any, *, name: str, sha256: str) -> None:
        self.name = name
        self.sha256 = sha256
        self._model = model
        self._tokenizer = tokenizer
        self._processor = processor

    @property
    def width(self) -> int:
        """How many numbers a feature has: D."""
        width: int = self._model.config.projection_dim
        return width

    @property
    def scale(self) -> float:
        """What cosines are multiplied with to be logits of how likely a text is (Radford et al. 2021, section 2.3)."""
        return float(self._model.logit_scale.detach().float().exp())

    @torch.no_grad()
    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Return features of pictures: (N, D) fp32, unit norm, on the CPU."""
        parts = []
        for first in range(0, len(pictures), BATCH):
            batch = [picture.convert("RGB") for picture in pictures[first : first + BATCH]]
            full = batch + batch[-1:] * (BATCH - len(batch))
            pixels = self._processor(full, return_tensors="pt").pixel_values.to(self._model.device)
            parts.append(_projected(self._model.get_image_features(pixel_values=pixels))[: len(batch)])
        if not parts:
            return torch.empty(0, self.width)
        return torch.cat(parts)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Return features of prompts: (N, D) fp32, unit norm, on the CPU."""
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self._model.device)
        found = self._model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return _projected(found)


def load_extractor(folder: Path, name: str, device: torch.device) -> FeatureExtractor:
    """Load a CLIP model, in fp32 on any device.

    Args:
        folder: A `CLIPModel` in safetensors with its tokenizer and its image processor.
        name: What to call it.
        device: Where to.

    Raises:
        NotFound: The folder holds no whole CLIP model.
    """
    # The one that needs no torchvision: the two scale pictures slightly differently, and figures must not depend on
    # what else is installed.
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    files = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if missing := _missing(folder, has_weights=bool(files)):
        raise NotFound(f"the feature extractor is no CLIP model: {missing}", hint=HINT)
    try:
        model, info = CLIPModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, AttributeError, TypeError, KeyError, RuntimeError) as error:
        raise NotFound(f"the feature extractor is no CLIP model: {_first_line(error)}", hint=HINT) from error
    # One tower alone loads too, with random numbers for the other.
    if absent := sorted(info["missing_keys"]):
        raise NotFound(f"the feature extractor is no whole CLIP model: it has no {absent[0]}", hint=HINT)
    return FeatureExtractor(model.eval().to(device), tokenizer, processor, name=name, sha256=_digest(files))


def _missing(folder: Path, *, has_weights: bool) -> str:
    """Say what a folder lacks, in words; without its own files the libraries would make up a tokenizer."""
    if not folder.is_dir():
        return "no such folder"
    wanted = {
        "config.json": (folder / "config.json").is_file(),
        "*.safetensors": has_weights,
        "tokenizer.json": any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")),
        "preprocessor_config.json": any(
            (folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")
        ),
    }
    return ", ".join(f"no {name}" for name, there in wanted.items() if not there)


def _digest(files: Sequence[Path]) -> str:
    """Return the sha256 of one weights file, or of the digests of several, in the order of their names."""
    digests = []
    for path in files:
        with path.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _projected(found: Any) -> Tensor:
    # Some versions of transformers give the projected features alone, others a record that holds them.
    features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return functional.normalize(features.float(), dim=1).cpu()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
