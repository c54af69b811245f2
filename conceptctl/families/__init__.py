"""Model families: all that knows how a kind of model is laid out, one file each.

A family's file has its facts (`FAMILY`), for which no torch is needed, `check(folder)`, `picture_side(configs)`, and
`load(folder, device)`, which gives a `learning.backbone.Backbone`; `load_text_side` loads of it what prompts need.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from conceptctl.errors import ImportRefused, StoreTooNew

if TYPE_CHECKING:
    import torch

    from conceptctl.learning.backbone import Backbone, TextSide
    from conceptctl.store.manifest import Base, Family

FAMILIES = ("sd", "sdxl")
"""Every family, by its module; a folder is of the first that does not refuse it."""
UNSAID = "sd"
"""The family of bases whose stores do not say: they were made when there was one."""


class FamilyModule(Protocol):
    """What the module of a family has."""

    FAMILY: Family

    def check(self, folder: Path) -> None:
        """Refuse models that lie in such a folder too, and that nothing could be learned on.

        Raises:
            ImportRefused: It is one.
        """

    def picture_side(self, configs: Mapping[str, Any]) -> int:
        """The side of the pictures that a base draws, in pixels, from its configurations by place.

        Raises:
            StoreDamaged: They do not say.
        """

    def load(
        self, folder: Path, device: torch.device, *, dtype: torch.dtype | None = None, family: Family = ...
    ) -> Backbone:
        """Load a base; its targets are those that its store recorded.

        Args:
            folder: A diffusers folder.
            device: Where to.
            dtype: Of the weights; None for what the device draws in: fp32 on a CPU, bf16 or fp16 on a GPU.
            family: The family's facts, as the store has them.

        Raises:
            NotFound: It is another kind of model.
        """

    def load_tokenizer(self, folder: Path) -> Any:
        """Load what counts prompts and cuts them off, and nothing that needs a device.

        Raises:
            NotFound: It is another kind of model.
        """

    def load_text_side(self, folder: Path, device: torch.device) -> TextSide:
        """Load what turns prompts into hidden states, and nothing else of a base; fp32.

        Raises:
            NotFound: It is another kind of model.
        """


def find_family(name: str) -> FamilyModule:
    """Return a family's module.

    Raises:
        StoreTooNew: This program knows no such family.
    """
    if name not in FAMILIES:
        raise StoreTooNew(f"the base is of the family {name!r}, which this program does not know")
    module: Any = import_module(f"conceptctl.families.{name}")
    found: FamilyModule = module
    return found


def family_of(base: Base) -> FamilyModule:
    """Return the module of a base's family."""
    return find_family(base.family.name if base.family else UNSAID)


def facts_of(base: Base) -> Family:
    """Return what a store knows of its base's family."""
    return base.family or find_family(UNSAID).FAMILY


def recognized(folder: Path) -> FamilyModule:
    """Return the family of a model in a folder: the first that does not refuse it.

    Args:
        folder: A diffusers folder; of one that is still to come from a hub, the `*.json` files alone.

    Raises:
        ImportRefused: It is of none; each family says why.
    """
    refusals = []
    for name in FAMILIES:
        try:
            find_family(name).check(folder)
        except ImportRefused as refused:
            refusals.append(refused)
        else:
            return find_family(name)
    raise ImportRefused(
        "; ".join(map(str, refusals)),
        hint="a base is Stable Diffusion 1.x, 2.x or SDXL's base model, as a diffusers folder or one file",
    )
