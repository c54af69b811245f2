"""Hard Gumbel masks over weight matrices, in four forms (STAMINA section 4, eqs. 4 and 6).

A mask passes an entry or blocks it. The two logits that eq. 4 gives each entry matter only by their difference d, and
the difference of two Gumbel samples is one logistic sample, so that an entry passes when d plus logistic noise is
positive. Every form makes d for matrices of one shape; they differ in what d is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from conceptctl.learning.weights import Shape


class MaskForm(nn.Module):
    """Makes the logit differences of n matrices: a call without arguments gives d, (n, D1, D2).

    Where d is positive, an entry passes.
    """


class Direct(MaskForm):
    """A table of differences, trained at the rate of everything else: STAMINA's ablation without the MLP."""

    def __init__(
        self, count: int, shape: Shape, rank: int, logit_mean: float, logit_std: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.table = nn.Parameter(logit_mean + logit_std * torch.randn(count, *shape, generator=generator))

    def forward(self) -> Tensor:
        """The table."""
        return self.table * 1.0


class Collapsed(MaskForm):
    """A table that moves as fast as the literal MLP's output does under Adam, at 1/(2r) of its memory.

    The MLP's input never changes, so neither does its hidden layer h but for its own training; every live column of
    the last layer and its bias then move each of the two logits by about the learning rate in each step, together
    2 (|h|_1 + 1) times the rate. |h|_1 is that of a freshly drawn first layer. Adam moves the table itself by the rate,
    whatever its gradient, so that it is multiplied by that.
    """

    speed: Tensor

    def __init__(
        self, count: int, shape: Shape, rank: int, logit_mean: float, logit_std: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        hidden = _First(count, rank, generator)().detach()
        # It follows from the seed, and is no state of the training.
        self.register_buffer("speed", 2 * (hidden.sum(dim=1) + 1)[:, None, None], persistent=False)
        self.table = nn.Parameter(
            (logit_mean + logit_std * torch.randn(count, *shape, generator=generator)) / self.speed
        )

    def forward(self) -> Tensor:
        """The table, times its speed."""
        return self.table * self.speed


class Literal(MaskForm):
    """Appendix D to the letter: r x r and r x (D1 D2 2) linear layers with ReLU between, on ones."""

    def __init__(
        self, count: int, shape: Shape, rank: int, logit_mean: float, logit_std: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.shape = shape
        self.first = _First(count, rank, generator)
        entries = shape[0] * shape[1]
        self.weight = nn.Parameter(_uniform((count, entries * 2, rank), rank, generator))
        self.bias = nn.Parameter(_uniform((count, entries * 2), rank, generator))
        with torch.no_grad():
            # The first index is "pass".
            self.bias[:, 0::2] += logit_mean + logit_std * torch.randn(count, entries, generator=generator)

    def forward(self) -> Tensor:
        """The first logit of each entry minus its second."""
        logits = torch.baddbmm(self.bias[..., None], self.weight, self.first()[..., None])
        differences: Tensor = logits.view(-1, *self.shape, 2).diff(dim=-1).squeeze(-1).neg()
        return differences


class LowRankMask(MaskForm):
    """d = U diag(h) V plus one number, with h = ReLU(W 1 + b): the factored form that fits the paper's N_param.

    Differs from the paper: appendix D's last layer alone would be 76 % of Stable Diffusion's U-Net, where the paper's
    table 2 has 0.19 % for everything.
    """

    def __init__(
        self, count: int, shape: Shape, rank: int, logit_mean: float, logit_std: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        rank = min(rank, *shape)
        self.first = _First(count, rank, generator)
        with torch.no_grad():
            # A hidden number that ReLU stops never trains, and its column of U and row of V with it.
            self.first.bias.copy_(1 - self.first.weight.sum(dim=2))
        self.rows = nn.Parameter(torch.randn(count, shape[0], rank, generator=generator) * rank**-0.5)
        self.columns = nn.Parameter(logit_std * torch.randn(count, rank, shape[1], generator=generator))
        self.offset = nn.Parameter(torch.full((count, 1, 1), logit_mean))

    def forward(self) -> Tensor:
        """U diag(h) V + offset."""
        return torch.baddbmm(self.offset, self.rows * self.first()[:, None], self.columns)


FORMS: Mapping[str, Callable[[int, Shape, int, float, float, torch.Generator], MaskForm]] = {
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
        # First the hard mask, then what it lets pass, in the same memory: what is touched fewer times is done sooner.
        passed = soft.round()
        shares = passed.mean(dim=(-2, -1))
        return passed.mul_(values), shares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values, soft = ctx.saved_tensors
        passed, shares = gradients
        of_share = (shares / (soft[0].numel() * ctx.temperature))[:, None, None]
        of_mask = torch.addcmul(of_share, passed, values, value=1 / ctx.temperature)
        torch.ops.aten.sigmoid_backward.grad_input(of_mask, soft, grad_input=of_mask)
        return soft.round().mul_(passed), of_mask, None, None


def masked(values: Tensor, differences: Tensor, noise: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Let some entries pass through a freshly drawn hard mask (STAMINA eqs. 5 and 6).

    Args:
        values: What is masked, (n, D1, D2).
        differences: Logit differences d, of the same shape and type.
        noise: Logistic noise over the temperature, of the same shape; see `noise_table`.
        temperature: tau; smaller lets gradients through nearer to a change of mind only.

    Returns:
        The values where entries pass and 0 where not, and the share of each matrix that passes, (n,); both with the
        soft mask's gradient.
    """
    passed, shares = _Masked.apply(values, differences, noise, temperature)  # type: ignore[no-untyped-call]
    return passed, shares


def noise_table(count: int, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw logistic numbers over a temperature, (count,), on the generator's device.

    Any window of a larger table is noise as good as freshly drawn (Salimans et al. 2017, "Evolution strategies as a
    scalable alternative to reinforcement learning", section 2.1).
    """
    uniform = torch.rand(count, generator=generator, device=generator.device)
    return uniform.logit_(eps=1e-6).div_(temperature)


class _First(nn.Module):
    """The first layer of n MLPs, r x r, with ReLU, on ones: a call gives h, (n, r)."""

    def __init__(self, count: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(_uniform((count, rank, rank), rank, generator))
        self.bias = nn.Parameter(_uniform((count, rank), rank, generator))

    def forward(self) -> Tensor:
        return torch.relu(self.weight.sum(dim=2) + self.bias)


def _uniform(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> Tensor:
    """What torch begins a linear layer of so many inputs with."""
    unit = torch.rand(shape, generator=generator)
    return (2 * unit - 1) / math.sqrt(inputs)
