"""The methods, by name; nothing is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from conceptctl.errors import NotFound

if TYPE_CHECKING:
    from conceptctl.learning.method import Method

METHODS: Mapping[str, str] = MappingProxyType(
    {
        "stamina": "stamina:Stamina",
        "stamina-anchored": "stamina_anchored:StaminaAnchored",
        "ti": "ti:Ti",
        "ti++": "ti_plus_plus:TiPlusPlus",
        "cd": "cd:Cd",
        "cd-merged": "cd_merged:CdMerged",
        "cd-ewc": "cd_ewc:CdEwc",
        "lora": "lora:Lora",
        "lora-anchored": "lora_anchored:LoraAnchored",
        "lora-merge": "lora_merge:LoraMerge",
        "lora-orthogonal": "lora_orthogonal:LoraOrthogonal",
        "c-lora": "c_lora:CLora",
        "ewc": "ewc:Ewc",
        "ewc-dc": "ewc_dc:EwcDc",
        "dsc": "dsc:Dsc",
        "dsc-ewc": "dsc_ewc:DscEwc",
        "dsc-ewc-dc": "dsc_ewc_dc:DscEwcDc",
        "vera": "vera:Vera",
        "vera-ewc": "vera_ewc:VeraEwc",
        "vera-ewc-dc": "vera_ewc_dc:VeraEwcDc",
    }
)
"""Every method that learns to draw concepts, by the module in `methods/` and the class in it."""
CLASSIFIERS: Mapping[str, str] = MappingProxyType(
    {
        "stamina": METHODS["stamina"],
        "c-lora": METHODS["c-lora"],
        "lora": METHODS["lora"],
        "l2p": "l2p:L2p",
        "dual-prompt": "dual_prompt:DualPrompt",
        "coda-prompt": "coda_prompt:CodaPrompt",
        "fine-tuning": "fine_tuning:FineTuning",
        "linear-probe": "linear_probe:LinearProbe",
    }
)
"""Every method that learns to tell classes apart, likewise."""


def find_method(name: str) -> type[Method]:
    """Return a method's class.

    Raises:
        NotFound: There is no such method.
    """
    return _found(name, METHODS, CLASSIFIERS, "tells classes of pictures apart, and draws no concept")


def find_classifier(name: str) -> type[Method]:
    """Return the class of a method that tells classes apart.

    Raises:
        NotFound: There is no such method.
    """
    return _found(name, CLASSIFIERS, METHODS, "learns to draw concepts, and tells no classes apart")


def _found(name: str, among: Mapping[str, str], others: Mapping[str, str], otherwise: str) -> type[Method]:
    if name not in among:
        problem = f"the method {name!r} {otherwise}" if name in others else f"there is no method {name!r}"
        raise NotFound(problem, hint="methods: " + ", ".join(among))
    module, _, attribute = among[name].partition(":")
    found: type[Method] = getattr(import_module(f"conceptctl.methods.{module}"), attribute)
    return found
