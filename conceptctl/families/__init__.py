"""Model families: all that knows how a kind of model is laid out, one file each.

A family's file has its facts (`FAMILY`), for which no torch is needed, `check(folder)`, `picture_side(configs)`, and
`load(folder, device)`, which gives a `learning.backbone.Backbone`; `load_text_side` loads of it what prompts need.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from conceptctl.errors import ImportRefused, StoreDamaged, StoreTooNew, UsageError
from conceptctl.images.buckets import PictureSizes

if TYPE_CHECKING:
    import torch

    from conceptctl.learning.backbone import Backbone, TextSide
    from conceptctl.store.manifest import Base, Family

FAMILIES = ("sd", "sdxl", "sd3", "flux")
"""Every family that draws, by its module; a folder is of the first that does not refuse it."""
CLASSIFYING = ("vit",)
"""Every family that tells classes apart."""
UNSAID = "sd"
"""The family of bases whose stores do not say: they were made when there was one."""
_SMALLEST_SIDE = 256
"""Pixels: a base that draws smaller pictures learns from squares of that size alone."""
_LATENT_STEP = 4
"""Sides of latents are multiples of it. The U-Nets of SD 1 and 2 halve them three times, and that of SDXL twice; what
does not divide evenly they bring back to its size. In steps of 4, with autoencoders that make 8 pixels one, every
picture has a bucket that shows 95 % of it; in steps of 8 not at 512 pixels."""


class FamilyModule(Protocol):
    """What the module of a family has."""

    FAMILY: Family
    CLOSED_FORM: bool
    """Whether targets see the text encoders' states themselves, so that what a change of weights does to a prompt can
    be computed from those alone: what `forget`, `export` and `import` part and join concepts by."""
    REGIONS: bool
    """Whether parts of its pictures can be painted over, as several concepts in one picture are drawn."""
    SIDE_STEP: int
    """What the sides of pictures are multiples of, in pixels: one of the network's smallest pieces."""
    NEGATIVE_PROMPTS: bool
    """Whether its pictures are drawn with what is predicted for another prompt too."""
    SAMPLERS: bool
    """Whether its pictures can be drawn with another sampler than its own."""
    UNSUPPORTED: Mapping[str, str]
    """Methods' settings, by name, that mean nothing on its bases, and why."""

    def check(self, folder: Path) -> None:
        """Refuse models that lie in such a folder too, and that nothing could be learned on.

        Raises:
            ImportRefused: It is one.
        """

    def family_in(self, folder: Path) -> Family:
        """What a store must know of the model in a folder that was checked: `FAMILY`, or what of it is there."""

    def picture_side(self, configs: Mapping[str, Any]) -> int:
        """The side of the pictures that a base draws, in pixels, from its configurations by place.

        Raises:
            StoreDamaged: They do not say.
        """

    def longest_side(self, configs: Mapping[str, Any]) -> int | None:
        """The longest side of a picture that a base has places for, in pixels; None for any.

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
            UsageError: Nothing can be computed from those alone; see `CLOSED_FORM`.
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
    """Return the module of a base's family.

    Raises:
        UsageError: It draws nothing.
        StoreTooNew: This program knows no such family.
    """
    name = base.family.name if base.family else UNSAID
    if name in CLASSIFYING:
        check_draws(base)
    return find_family(name)


def check_draws(base: Base, instead: str = "conceptctl classify PICTURE; conceptctl eval DIR") -> None:
    """Refuse a base that draws nothing.

    Args:
        base: The base.
        instead: What does on it what was asked for, if anything; it becomes the hint.

    Raises:
        UsageError: It tells classes apart.
    """
    if base.is_classifier:
        raise UsageError(
            f"this store tells classes apart and draws nothing: its base is {base.name}, a vision transformer",
            hint=instead,
        )


def check_classifies(base: Base) -> None:
    """Refuse a base that tells no classes apart.

    Raises:
        UsageError: It draws.
    """
    if not base.is_classifier:
        raise UsageError(
            f"this store draws, and tells no classes apart: its base is {base.name}",
            hint="conceptctl init --base pocket-vit --store DIR makes one that does; conceptctl generate draws",
        )


def picture_sizes(base: Base, configs: Mapping[str, Any]) -> PictureSizes:
    """Return at what sizes pictures can be learned on a base.

    Args:
        base: The base.
        configs: Its configurations, by their place in the folder.

    Raises:
        StoreDamaged: They do not say.
    """
    family = family_of(base)
    side, longest = family.picture_side(configs), family.longest_side(configs)
    if side < _SMALLEST_SIDE:
        return PictureSizes(side)
    try:
        return PictureSizes(side, _LATENT_STEP << (len(configs["vae/config.json"]["block_out_channels"]) - 1), longest)
    except (KeyError, TypeError, ValueError):
        raise StoreDamaged("the base's configurations do not say how its pictures are encoded") from None


def facts_of(base: Base) -> Family:
    """Return what a store knows of its base's family."""
    return base.family or find_family(UNSAID).FAMILY


def check_settings(family: str, method: str, settings: Any) -> None:
    """Refuse a method's settings that mean nothing on the bases of a family, and a method that cannot be without them.

    Args:
        family: Its name.
        method: The method's.
        settings: Its configuration, a `learning.method.Config`.

    Raises:
        UsageError: One is set, or the method computes from prompts' states what holds on other bases alone.
    """
    check_unsupported(find_family(family).UNSUPPORTED, settings)
    if settings.needs_reference and not find_family(family).CLOSED_FORM:
        raise UsageError(
            f"{method} cannot be used on this base: its weights do not see the text encoders' states, from which "
            "that method is computed",
            hint="another --method: conceptctl learn --help",
        )


def check_unsupported(unsupported: Mapping[str, str], settings: Any) -> None:
    """Refuse settings that mean nothing somewhere.

    Args:
        unsupported: Those, by name, and why.
        settings: A method's configuration, a `learning.method.Config`.

    Raises:
        UsageError: One is set.
    """
    for each in dataclasses.fields(settings):
        if each.name in unsupported and getattr(settings, each.name) != each.default:
            raise UsageError(
                f"{each.name} cannot be set on this base: {unsupported[each.name]}",
                hint=f"--set {each.name}={each.default}, or a preset without it",
            )


def check_closed_form(base: Base, what: str, hint: str) -> None:
    """Refuse to part or to join concepts in closed form on a base where that is not known to hold.

    Args:
        base: The base.
        what: What cannot be done, said of the base.
        hint: What can.

    Raises:
        UsageError: It is such a base.
    """
    if not family_of(base).CLOSED_FORM:
        raise UsageError(
            f"on this base {what}: its joint attention mixes prompts and pictures in every layer, so what other "
            "weights do to a prompt cannot be computed",
            hint=hint,
        )


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
        hint="a base is Stable Diffusion 1.x, 2.x or SDXL's base model, as a diffusers folder or one file, or Stable "
        "Diffusion 3 or FLUX.1 as a diffusers folder",
    )
