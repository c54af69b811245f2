"""STAMINA: masked low-rank adapters and an MLP token (Smith et al. 2024, "Continual diffusion with STAMINA")."""

from __future__ import annotations

from conceptctl.parts.stack_and_mask import StackAndMask


class Stamina(StackAndMask):
    """The paper's losses and nothing else: denoising, sparsity of the masks (eq. 7), forgetting (eqs. 3 and 8)."""

    name = "stamina"
    paper = "Smith et al. 2024, STAMINA"
