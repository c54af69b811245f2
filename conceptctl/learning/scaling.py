"""Loss scaling: what lets a network train in fp16, without the loop ever waiting for the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

_FIRST = 2.0**16
_GROWTH, _BACKOFF, _INTERVAL = 2.0, 0.5, 2000


class LossScaler:
    """Multiplies losses so that gradients stay in fp16's range, and divides them out again.

    A step whose gradients are no numbers is left out and the scale halved; after 2000 steps in a row that were well it
    is doubled (Micikevicius et al. 2018, "Mixed precision training", section 3.2), all as torch's `GradScaler` does it.
    That one asks the device in every step whether an optimizer may go on. Here the answer stays on the device, where
    optimizers look at it: each has it as `found_inf`, as torch's fused ones know it.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(_FIRST, device=device)
        self.in_a_row = torch.zeros((), dtype=torch.int32, device=device)
        """Steps that were well since the scale last changed."""
        self.skipped = torch.zeros((), device=device)
        """Steps that were left out."""
        self.found_inf = torch.zeros((), device=device)
        """1 where the step's gradients are no numbers, else 0."""

    def scaled(self, loss: Tensor) -> Tensor:
        """What the backward pass begins with."""
        return loss * self.scale

    @torch.no_grad()
    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Divide the scale out of a step's gradients, fp32, in place; those of a step that is left out become 0."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.found_inf = torch.zeros_like(self.scale)
        if gradients:
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.found_inf, self.scale.reciprocal())
            for gradient in gradients:
                gradient.masked_fill_(self.found_inf > 0, 0.0)

    @torch.no_grad()
    def update(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Let optimizers know what was found, before they step, and find the next scale."""
        self.skipped = self.skipped + self.found_inf
        for optimizer in optimizers:
            optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]
        torch._amp_update_scale_(self.scale, self.in_a_row, self.found_inf, _GROWTH, _BACKOFF, _INTERVAL)

    def state(self) -> dict[str, Tensor]:
        """What a run that goes on needs."""
        return {"scale": self.scale, "in_a_row": self.in_a_row, "skipped": self.skipped}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        for name, tensor in self.state().items():
            if name in state:
                tensor.copy_(state[name])
