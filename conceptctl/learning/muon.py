"""Muon, with AdamW for what is no matrix: the optimizer of the bundled base's networks, and of adapters on it.

Muon orthogonalizes the momentum of each weight matrix (Jordan et al. 2024, "Muon: an optimizer for hidden layers in
neural networks"), here scaled to the size of AdamW's updates (Liu et al. 2025, "Muon is scalable for LLM training",
section 2.2), so that both share one learning rate. On the autoencoder it needs about half of AdamW's samples
(docs/lab/pocket-training.md).

torch.optim.Muon is the same on one matrix, but for rounding: it iterates in bfloat16. It is not used because it refuses
whatever has not two dimensions: stacks of matrices, which adapters' factors are, and convolutions, which count here as
matrices of outputs by inputs. It also takes one matrix at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
BETAS = (0.9, 0.98)
EPSILON = 1e-8
SMALLEST = 8
"""A matrix with fewer rows or columns is left to AdamW."""
LARGEST_SQUARE = 128
"""So is one with more rows and columns than this, unless it is four times as long as wide: orthogonalizing it costs the
cube of its width, which on a CPU takes a third of a training step of the U-Net."""
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon for matrices and convolutions, AdamW for everything else."""

    found_inf: Tensor | None = None
    """Where losses are scaled: 1 on the device for a step that is left out, which then changes no matrix; gradients
    are 0 in it. AdamW's part knows nothing of it."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        learning_rate: float,
        weight_decay: float = 0.0,
    ) -> None:
        """Take parameters, or groups of them.

        A group may have a learning rate of its own ("lr"), and "stacks": then its parameters are stacks of matrices
        (n, M, N), none of which is left to AdamW for its size.
        """
        super().__init__(parameters, {"lr": learning_rate, "weight_decay": weight_decay, "stacks": False})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            matrices: dict[tuple[int, int], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.ndim >= 2:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if group["stacks"]:
                    matrices.setdefault((parameter.shape[1], parameter.shape[2]), []).append(parameter)
                elif is_matrix(parameter):
                    matrices.setdefault((parameter.shape[0], parameter[0].numel()), []).append(parameter)
                else:
                    self._adam_step(parameter, group["lr"])
            self._orthogonal_steps(matrices, group["lr"])

    def _orthogonal_steps(self, matrices: dict[tuple[int, int], list[Tensor]], learning_rate: float) -> None:
        """Update matrices, by their shape."""
        updates = orthogonalized([self._ahead(alike, shape) for shape, alike in matrices.items()])
        for (shape, alike), update in zip(matrices.items(), updates, strict=True):
            parts = update.split([parameter.numel() // math.prod(shape) for parameter in alike])
            steps = [part.reshape(parameter.shape) for parameter, part in zip(alike, parts, strict=True)]
            if self.found_inf is not None:
                torch._foreach_mul_(steps, 1 - self.found_inf)
            torch._foreach_add_(alike, steps, alpha=-learning_rate * 0.2 * math.sqrt(max(shape)))

    def _ahead(self, parameters: list[Tensor], shape: tuple[int, int]) -> Tensor:
        """Nesterov's momentum of parameters that are matrices of one shape, or stacks of them, (n, M, N)."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        if self.found_inf is None:
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        else:
            share = (1 - MOMENTUM) * (1 - self.found_inf)
            torch._foreach_lerp_(momenta, gradients, [share] * len(momenta))
        return torch.cat([each.reshape(-1, *shape) for each in torch._foreach_lerp(gradients, momenta, MOMENTUM)])

    def _adam_step(self, parameter: Tensor, learning_rate: float) -> None:
        state = self.state[parameter]
        gradient: Tensor = parameter.grad  # type: ignore[assignment]
        if "step" not in state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        count = float(state["step"])
        state["mean"].lerp_(gradient, 1 - BETAS[0])
        state["square"].lerp_(gradient.square(), 1 - BETAS[1])
        size = (state["square"] / (1 - BETAS[1] ** count)).sqrt_().add_(EPSILON)
        parameter.addcdiv_(state["mean"], size, value=-learning_rate / (1 - BETAS[0] ** count))


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon is for this parameter: a matrix or a convolution, neither too small nor too large and square."""
    if parameter.ndim < 2:
        return False
    short, long = sorted((parameter.shape[0], parameter[0].numel()))
    return short >= SMALLEST and (short <= LARGEST_SQUARE or long >= 4 * short)


def orthogonalized(stacks: Sequence[Tensor]) -> list[Tensor]:
    """Push the singular values of matrices towards 1 by Newton-Schulz iterations.

    All factors of the iteration are polynomials of a matrix's Gram matrix and commute, so that they are multiplied up
    on the short side: the long one, nine times as long in a convolution, is touched twice instead of ten times. What
    has the same short side goes through the iteration together: adapters have dozens of small matrices, whose
    arithmetic is nothing beside what it costs to start it.

    Args:
        stacks: Matrices of one shape each, (n, M, N).
    """
    wide = [stack.mT if stack.shape[-2] > stack.shape[-1] else stack for stack in stacks]
    wide = [stack / (stack.norm(dim=(-2, -1), keepdim=True) + 1e-7) for stack in wide]
    of_side: dict[int, list[int]] = {}
    for index, stack in enumerate(wide):
        of_side.setdefault(stack.shape[-2], []).append(index)
    for indices in of_side.values():
        grams = torch.cat([wide[index] @ wide[index].mT for index in indices])
        for index, factor in zip(indices, _factors(grams).split([len(wide[index]) for index in indices]), strict=True):
            wide[index] = factor @ wide[index]
    return [each if each.shape == stack.shape else each.mT for each, stack in zip(wide, stacks, strict=True)]


def _factors(gram: Tensor) -> Tensor:
    """What all iterations together multiply matrices by, given their Gram matrices, (n, M, M)."""
    product = factor = _factor(gram)
    for _ in range(_ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    return product


def _factor(gram: Tensor) -> Tensor:
    """What one iteration multiplies matrices by."""
    linear, cubic, quintic = _COEFFICIENTS
    factor = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)
    factor.diagonal(dim1=-2, dim2=-1).add_(linear)
    return factor
