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
"""Every method, by the module in `methods/` and the class in it."""


def find_method(name: str) -> type[Method]:
    """Return a method's class.

    Raises:
        NotFound: There is no such method.
    """
    try:
        module, _, attribute = METHODS[name].partition(":")
    except KeyError:
        raise NotFound(f"there is no method {name!r}", hint="methods: " + ", ".join(METHODS)) from None
    found: type[Method] = getattr(import_module(f"conceptctl.methods.{module}"), attribute)
    return found
