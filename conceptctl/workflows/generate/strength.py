"""How strongly concepts are drawn: what learning changed, times a number.

At strength s a concept's increments and its token's distance from where it started count s times, so that the model
moves on the straight line between what it was without the concept, its token being its class's word, and what it is
with it. All other concepts stay as they are. Source: ours; for LoRA alone it is the usual scale of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from conceptctl.diffusion.prompts import MARKER, token_of
from conceptctl.errors import UsageError
from conceptctl.store import blobs, folded, tensorfile, weights
from conceptctl.store.manifest import Concept, Generation
from conceptctl.store.store import Store
from conceptctl.workflows.model import token_rows

if TYPE_CHECKING:
    from pathlib import Path

    from conceptctl.learning.backbone import Backbone
    from conceptctl.learning.weights import TokenRows
    from conceptctl.store.weights import Array


def check_strengths(generation: Generation, strengths: Mapping[str, float]) -> None:
    """Refuse strengths of concepts whose increments are not kept apart.

    Args:
        generation: Which knows the concepts.
        strengths: By name.

    Raises:
        UsageError: One was put together with others by `forget` or `compact`.
    """
    for concept in generation.concepts:
        if concept.consolidated and strengths.get(concept.name, 1.0) != 1.0:
            raise UsageError(
                f"{MARKER}{concept.name} has no strength: what it changed is no longer kept apart from others",
                hint=f"write {MARKER}{concept.name} alone; or --at a generation before the forget or compact (log)",
            )


class Strengths:
    """Sets how strongly the concepts of a loaded model are drawn."""

    def __init__(self, store: Store, generation: Generation, backbone: Backbone) -> None:
        """Take a model with a generation's concepts in it."""
        self._layout, self._generation, self._backbone = store.layout, generation, backbone
        self._concepts = {concept.name: concept for concept in generation.concepts}
        self._set: Mapping[str, float] = {}
        self._starts: dict[str, TokenRows] = {}

    def set(self, strengths: Mapping[str, float]) -> None:
        """Draw concepts with these strengths from now on, and all others with 1.

        Raises:
            StoreDamaged: The file of one of them is damaged.
        """
        wanted = {name: value for name, value in strengths.items() if value != 1.0}
        touched = [name for name in self._concepts if name in {*wanted, *self._set}]
        if wanted == self._set or not touched:
            return
        files = {name: self._file(self._concepts[name]) for name in touched}
        self._set_weights(files, wanted)
        for name, path in files.items():
            self._set_token(name, path, wanted.get(name, 1.0))
        self._set = wanted

    def _file(self, concept: Concept) -> Path:
        return blobs.checked(self._layout, concept.blob, f"concept {concept.name}", read=True)

    def _set_weights(self, files: Mapping[str, Path], wanted: Mapping[str, float]) -> None:
        import torch

        # Whoever is damaged was left out when the model was loaded, and said.
        sums, _ = folded.read(self._layout, self._generation, lambda concept, error: None)
        headers = {name: tensorfile.read_header(path) for name, path in files.items()}
        for place in sorted({place for header in headers.values() for place in weights.places(header)}):
            weight = sums[place]
            for name, header in headers.items():
                if name in wanted and place in weights.places(header):
                    delta = weights.read_delta(files[name], header, place, weight.shape)
                    weight[delta.mask] += (wanted[name] - 1) * delta.values
            self._backbone.set_weights({place: torch.from_numpy(weight)})

    def _set_token(self, name: str, path: Path, strength: float) -> None:
        row: Array = weights.read_floats(path, "token")
        rows = token_rows(self._backbone, row)
        if strength != 1.0:
            if name not in self._starts:
                word = self._concepts[name].class_word
                self._starts[name] = self._backbone.token_start(word)
            starts = {table: start.to(rows[table].device) for table, start in self._starts[name].items()}
            rows = {table: start + strength * (rows[table] - start) for table, start in starts.items()}
        tokenizer = self._backbone.tokenizer()
        self._backbone.set_token(tokenizer.convert_tokens_to_ids(token_of(tokenizer, name)), rows)
