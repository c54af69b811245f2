"""Sequential LoRA: each concept's adapter on top of the earlier ones, with nothing done against forgetting."""

from __future__ import annotations

from conceptctl.methods.base import Method


class Lora(Method):
    """The plain line that every other method is compared with."""

    name = "lora"
    paper = "Smith et al. 2024, C-LoRA, baseline; LoRA: Hu et al. 2022"
