"""Hard Gumbel masks over weight matrices, in four forms (STAMINA section 4, eqs. 4 and 6).

A mask passes an entry or blocks it. The two logits that eq. 4 gives each entry matter only by their difference d, and
the difference of two Gumbel samples is one logistic sample, so that an entry passes when d plus logistic noise is
positive. Every form makes d for matrices of one shape; they differ in what d is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from conceptctl.learning.weights import Shape

ALL = slice(None)
"""All rows of a matrix."""


class MaskForm(nn.Module):
    """Makes the logit differences of n matrices: a call without arguments gives d, (n, D1, D2).

    Where d is positive, an entry passes. Every form makes d of its parts, each of which begins with n: those of some
    of the matrices give d of these alone.
    """

    def forward(self) -> Tensor:
        """The differences of all matrices."""
        return self.differences(ALL, *self.parts())

    def parts(self) -> tuple[Tensor, ...]:
        """What d is made of, (n, ...) each, with its graph."""
        raise NotImplementedError

    def differences(self, rows: slice, *parts: Tensor) -> Tensor:
        """Some rows of d, (m, rows, D2), in memory of their own, from the parts of m matrices."""
        raise NotImplementedError

    def gradients(self, of_differences: Tensor, *parts: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients for the parts, given that for all of d."""
        raise NotImplementedError

    def begin(self, differences: Tensor) -> None:
        """Make d be (n, D1, D2) given numbers, where a form can be any: see `PER_ENTRY`."""
        raise NotImplementedError


class Direct(MaskForm):
    """A table of differences, trained at the rate of everything else: STAMINA's ablation without the MLP."""

    def __init__(
        self, count: int, shape: Shape, rank: int, logit_mean: float, logit_std: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.table = nn.Parameter(logit_mean + logit_std * torch.randn(count, *shape, generator=generator))

    def parts(self) -> tuple[Tensor, ...]:
        """The table."""
        return (self.table,)

    def differences(self, rows: slice, *parts: Tensor) -> Tensor:
        """The table as it is."""
        return parts[0][:, rows].clone()

    def gradients(self, of_differences: Tensor, *parts: Tensor) -> tuple[Tensor | None, ...]:
        """That for the table."""
        return (of_differences,)

    @torch.no_grad()
    def begin(self, differences: Tensor) -> None:
        """Put them in the table."""
        self.table.copy_(differences)


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

    def parts(self) -> tuple[Tensor, ...]:
        """The table and its speed."""
        return self.table, self.speed

    def differences(self, rows: slice, *parts: Tensor) -> Tensor:
        """The table, times its speed."""
        table, speed = parts
        return table[:, rows] * speed

    def gradients(self, of_differences: Tensor, *parts: Tensor) -> tuple[Tensor | None, ...]:
        """That for the table; its speed does not train."""
        return of_differences * parts[1], None

    @torch.no_grad()
    def begin(self, differences: Tensor) -> None:
        """Put them in the table, for its speed."""
        self.table.copy_(differences / self.speed)


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

    def parts(self) -> tuple[Tensor, ...]:
        """The last layer's bias and weight, and what that layer is given."""
        return self.bias, self.weight, self.first()

    def differences(self, rows: slice, *parts: Tensor) -> Tensor:
        """The first logit of each entry minus its second."""
        # Both logits of an entry are neighbours, and so are the entries of a row.
        first, last, _ = rows.indices(self.shape[0])
        chosen = slice(2 * first * self.shape[1], 2 * last * self.shape[1])
        bias, weight, hidden = parts
        logits = torch.baddbmm(bias[:, chosen, None], weight[:, chosen], hidden[..., None])
        differences: Tensor = logits.view(-1, last - first, self.shape[1], 2).diff(dim=-1).squeeze(-1).neg()
        return differences

    def gradients(self, of_differences: Tensor, *parts: Tensor) -> tuple[Tensor | None, ...]:
        """Those for the last layer and for what it is given."""
        _, weight, hidden = parts
        of_logits = torch.stack((of_differences, -of_differences), dim=-1).flatten(1)[..., None]
        return of_logits[..., 0], of_logits @ hidden[:, None], (weight.mT @ of_logits)[..., 0]

    @torch.no_grad()
    def begin(self, differences: Tensor) -> None:
        """Let the bias of the first logits make up for what is missing."""
        self.bias[:, 0::2] += (differences - self()).flatten(1)


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

    def parts(self) -> tuple[Tensor, ...]:
        """The offset, U diag(h) and V."""
        return self.offset, self.rows * self.first()[:, None], self.columns

    def differences(self, rows: slice, *parts: Tensor) -> Tensor:
        """U diag(h) V + offset."""
        offset, scaled, columns = parts
        return torch.baddbmm(offset, scaled[:, rows], columns)

    def gradients(self, of_differences: Tensor, *parts: Tensor) -> tuple[Tensor | None, ...]:
        """Those for the offset and both factors."""
        _, scaled, columns = parts
        of_offset = of_differences.sum(dim=(1, 2), keepdim=True)
        return of_offset, of_differences @ columns.mT, scaled.mT @ of_differences


FORMS: Mapping[str, Callable[[int, Shape, int, float, float, torch.Generator], MaskForm]] = {
    "low-rank": LowRankMask,
    "literal": Literal,
    "collapsed": Collapsed,
    "direct": Direct,
}

PER_ENTRY = frozenset({"literal", "collapsed", "direct"})
"""Forms in which every entry has a logit that can be anything: r numbers a row and a column cannot choose entries."""
OPEN = 40.0
"""A logit at which an entry passes whatever the noise, and has no gradient: in fp32 its chance to be blocked is 0."""
START_SHARPNESS, START_LIMIT = 2.0, 4.0
"""Logits begin at so many times the logarithm of an entry's size over the threshold, and no further from 0 than this:
what begins clearly open or closed can still change its mind."""


def start_logits(products: Sequence[Tensor]) -> list[Tensor]:
    """Logit differences by how large what they mask is: 0 at the median over all matrices, more for larger entries.

    Ours: the paper says nothing of where masks begin. One threshold for all matrices lets them differ in density.

    Args:
        products: What is masked, (n, D1, D2) each.

    Returns:
        2 log(|x| / median |x|) for each entry x, held between -4 and 4.
    """
    sizes = [product.abs().clamp_(min=torch.finfo(product.dtype).tiny) for product in products]
    threshold = torch.cat([size.flatten() for size in sizes]).median()
    return [size.div_(threshold).log_().mul_(START_SHARPNESS).clamp_(-START_LIMIT, START_LIMIT) for size in sizes]


def soft_mask(differences: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Draw the soft mask (STAMINA eq. 6); its entries above 1/2 are those that pass the hard one.

    Args:
        differences: Logit differences d, (n, D1, D2); overwritten.
        noise: Logistic noise over the temperature, of the same shape; see `noise_table`.
        temperature: tau; smaller lets gradients through nearer to a change of mind only.

    Returns:
        sigmoid((d + noise) / tau).
    """
    return torch.add(noise, differences, alpha=1 / temperature, out=differences).sigmoid_()


def mask_gradient(
    soft: Tensor, values: Tensor, of_passed: Tensor, of_share: Tensor, temperature: float, out: Tensor
) -> None:
    """The soft mask's gradient, for the logit differences (Jang et al. 2017, section 2.2).

    Args:
        soft: The soft mask.
        values: What is masked.
        of_passed: The gradient for what passes.
        of_share: That for the share of entries that pass, over their number and the temperature.
        temperature: tau.
        out: Where it goes.
    """
    torch.addcmul(of_share, of_passed, values, value=1 / temperature, out=out)
    torch.ops.aten.sigmoid_backward.grad_input(out, soft, grad_input=out)


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
