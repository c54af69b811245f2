"""Hard Gumbel masks over weight matrices, in four forms (STAMINA section 4, eqs. 4 and 6).

A mask passes an entry or blocks it. The two logits that eq. 4 gives each entry matter only by their difference d, and
the difference of two Gumbel samples is one logistic sample, so that an entry passes when d plus logistic noise is
positive. Every form makes d for one matrix; they differ in what d is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Shape = tuple[int, int]


class MaskForm(nn.Module):
    """Makes the logit differences of one matrix: a call without arguments gives d, (D1, D2).

    Where d is positive, an entry passes.
    """

    speed: float = 1.0
    """By how much the mask's own learning rate is multiplied."""


class Direct(MaskForm):
    """A table of differences, trained at the rate of everything else: STAMINA's ablation without the MLP."""

    def __init__(self, shape: Shape, rank: int, open_by: float, spread: float, generator: torch.Generator) -> None:
        super().__init__()
        self.table = nn.Parameter(open_by + spread * torch.randn(shape, generator=generator))

    def forward(self) -> Tensor:
        """The table."""
        return self.table * 1.0


class Collapsed(Direct):
    """A table that moves as fast as the literal MLP's output does under Adam, at 1/(2r) of its memory.

    The MLP's input never changes, so neither does its hidden layer h but for its own training; every live column of
    the last layer and its bias then move each of the two logits by about the learning rate in each step, together
    2 (|h|_1 + 1) times the rate. |h|_1 is that of a freshly drawn first layer.
    """

    def __init__(self, shape: Shape, rank: int, open_by: float, spread: float, generator: torch.Generator) -> None:
        super().__init__(shape, rank, open_by, spread, generator)
        hidden = torch.relu(_first_layer(rank, generator)(torch.ones(rank))).detach()
        self.speed = 2 * (float(hidden.sum()) + 1)


class Literal(MaskForm):
    """Appendix D to the letter: r x r and r x (D1 D2 2) linear layers with ReLU between, on ones."""

    def __init__(self, shape: Shape, rank: int, open_by: float, spread: float, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.first = _first_layer(rank, generator)
        self.last = nn.Linear(rank, shape[0] * shape[1] * 2)
        bound = rank**-0.5
        with torch.no_grad():
            self.last.weight.copy_(bound * (2 * torch.rand(self.last.weight.shape, generator=generator) - 1))
            self.last.bias.copy_(bound * (2 * torch.rand(self.last.bias.shape, generator=generator) - 1))
            # The first index is "pass".
            self.last.bias[0::2] += open_by + spread * torch.randn(shape[0] * shape[1], generator=generator)

    def forward(self) -> Tensor:
        """The first logit of each entry minus its second."""
        hidden = torch.relu(self.first(torch.ones_like(self.first.bias)))
        logits = self.last(hidden).view(*self.shape, 2)
        differences: Tensor = logits[..., 0] - logits[..., 1]
        return differences


class LowRankMask(MaskForm):
    """d = U diag(h) V plus one number, with h = ReLU(W 1 + b): the factored form that fits the paper's N_param.

    Differs from the paper: appendix D's last layer alone would be 76 % of Stable Diffusion's U-Net, where the paper's
    table 2 has 0.19 % for everything.
    """

    def __init__(self, shape: Shape, rank: int, open_by: float, spread: float, generator: torch.Generator) -> None:
        super().__init__()
        rank = min(rank, *shape)
        self.first = _first_layer(rank, generator)
        with torch.no_grad():
            # A hidden number that ReLU stops never trains, and its column of U and row of V with it.
            self.first.bias.copy_(1 - self.first.weight.sum(dim=1))
        self.rows = nn.Parameter(torch.randn(shape[0], rank, generator=generator) * rank**-0.5)
        self.columns = nn.Parameter(spread * torch.randn(rank, shape[1], generator=generator))
        self.offset = nn.Parameter(torch.full((), open_by))

    def forward(self) -> Tensor:
        """U diag(h) V + offset."""
        hidden = torch.relu(self.first(torch.ones_like(self.first.bias)))
        return torch.addmm(self.offset, self.rows * hidden, self.columns)


FORMS: Mapping[str, Callable[[Shape, int, float, float, torch.Generator], MaskForm]] = {
    "low-rank": LowRankMask,
    "literal": Literal,
    "collapsed": Collapsed,
    "direct": Direct,
}


class _Masked(torch.autograd.Function):
    """Forward, what a hard mask lets pass; backward, the gradient of the soft mask (Jang et al. 2017, section 2.2).

    In one piece, because a step spends more on touching a million entries once more than on the arithmetic.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, differences: Tensor, noise: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        soft = torch.add(noise, differences, alpha=1 / temperature).sigmoid_()
        # The hard mask is made anew in the backward pass: reading it from memory would take longer.
        ctx.save_for_backward(values, soft)
        ctx.temperature = temperature
        mask = soft.round()
        return values * mask, mask.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values, soft = ctx.saved_tensors
        passed, share = gradients
        of_mask = torch.addcmul(share / (soft.numel() * ctx.temperature), passed, values, value=1 / ctx.temperature)
        return soft.round().mul_(passed), torch.ops.aten.sigmoid_backward(of_mask, soft), None, None


def masked(values: Tensor, differences: Tensor, noise: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Let some entries pass through a freshly drawn hard mask (STAMINA eqs. 5 and 6).

    Args:
        values: What is masked, any shape.
        differences: Logit differences d, of the same shape and type.
        noise: Logistic noise over the temperature, of the same shape; see `noise_table`.
        temperature: tau; smaller lets gradients through nearer to a change of mind only.

    Returns:
        The values where entries pass and 0 where not, and the share that passes; both with the soft mask's gradient.
    """
    passed, share = _Masked.apply(values, differences, noise, temperature)  # type: ignore[no-untyped-call]
    return passed, share


def noise_table(count: int, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw logistic numbers over a temperature, (count,), on the generator's device.

    Any window of a larger table is noise as good as freshly drawn (Salimans et al. 2017, "Evolution strategies as a
    scalable alternative to reinforcement learning", section 2.1).
    """
    uniform = torch.rand(count, generator=generator, device=generator.device)
    return uniform.logit_(eps=1e-6).div_(temperature)


def _first_layer(rank: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(rank, rank)
    bound = rank**-0.5
    with torch.no_grad():
        layer.weight.copy_(bound * (2 * torch.rand(rank, rank, generator=generator) - 1))
        layer.bias.copy_(bound * (2 * torch.rand(rank, generator=generator) - 1))
    return layer
