"""Loads the model of a generation: its base, with everything in it that was learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from conceptctl import families
from conceptctl.store import base, folded, weights
from conceptctl.store.folded import Spare
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store

if TYPE_CHECKING:
    import torch

    from conceptctl.learning.backbone import Backbone, TextSide
    from conceptctl.learning.weights import TokenRows
    from conceptctl.store.weights import Array


def load(store: Store, generation: Generation, device: str = "auto", spare: Spare = folded.refuse) -> Backbone:
    """Load the base with everything that a generation knows, folded or not.

    Args:
        store: The store.
        generation: One of its generations.
        device: "auto", "cpu" or "cuda".
        spare: See `apply_concepts`.

    Raises:
        StoreDamaged: The base or a concept is damaged.
    """
    backbone = load_base(store, generation, device)
    apply_concepts(store, generation, backbone, spare)
    return backbone


def load_base(
    store: Store, generation: Generation, device: str = "auto", *, dtype: torch.dtype | None = None
) -> Backbone:
    """Load the base as it was before anything was learned.

    Args:
        store: The store.
        generation: One of its generations.
        device: "auto", "cpu" or "cuda".
        dtype: Of its weights; None for what the device draws in.

    Raises:
        StoreDamaged: The base is damaged.
    """
    from conceptctl.diffusion.models import choose_device

    with base.folder(store.layout, generation) as folder:
        load_family = families.family_of(generation.base).load
        family = families.facts_of(generation.base)
        return load_family(folder, choose_device(device), dtype=dtype, family=family)


def apply_concepts(
    store: Store, generation: Generation, backbone: Backbone, spare: Spare = folded.refuse
) -> Mapping[str, Array]:
    """Give the base's model everything that a generation knows.

    The deltas are added in fp32 in the order of learning, as folding adds them, so that a picture is the same before
    and after.

    Args:
        store: The store.
        generation: One of its generations.
        backbone: The base's.
        spare: What is done about concepts that are damaged and not in the stored weights.

    Returns:
        The weights of all targets, in fp32, by path in the order of the targets.

    Raises:
        StoreDamaged: A concept is damaged.
    """
    import torch

    sums, tokens = folded.read(store.layout, generation, spare)
    found = base.tensors(store.layout, generation.base)
    made = {path: sums[path] if path in sums else weights.read_floats(*found[path][:2]) for path in backbone.targets()}
    backbone.set_weights({path: torch.from_numpy(made[path]) for path in sums})
    for concept in generation.concepts:
        if concept.uid in tokens:
            backbone.add_token(concept.name, token_rows(backbone, tokens[concept.uid]))
    return made


def token_rows(text: TextSide, row: Array) -> TokenRows:
    """A token's stored row, (1, all widths), as the rows of the tables, (1, D) by table."""
    import torch

    widths = {name: table.embedding_dim for name, table in text.token_tables().items()}
    return {name: torch.from_numpy(part.copy()) for name, part in weights.rows_by_table(row, widths).items()}
