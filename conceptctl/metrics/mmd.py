"""Maximum mean discrepancy between two sets of image features (Gretton et al. 2012, "A kernel two-sample test")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SCALE = 1000.0
"""The papers report MMD x 10^3."""


@dataclass(frozen=True)
class PolynomialKernel:
    """The kernel of A_mmd, F_mmd and P_mmd: (gamma x.y + offset) ^ degree.

    Both papers name a polynomial kernel and none of its settings (STAMINA: "polynomial", section 5; the
    diffusion-classifier paper: "quadratic"), so all five stand beside every figure.
    """

    degree: int = 2
    gamma: float | None = None
    """Factor of the inner product; 1 / D for features of D numbers when it is not given."""
    offset: float = 1.0
    unit_norm: bool = True
    """Whether features are scaled to length 1 first."""
    biased: bool = True
    """Whether a picture is compared with itself too (V-statistic). The unbiased estimator is negative on equal sets, so
    that a bar on forgetting, which compares pictures of the same seeds, would be passed by anything."""

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare every row of a set with every row of another: (N, D), (M, D) to (N, M), in double precision."""
        first, second = (_prepared(features, unit_norm=self.unit_norm) for features in (first, second))
        gamma = 1 / first.shape[1] if self.gamma is None else self.gamma
        similarity: Tensor = (gamma * first @ second.T + self.offset) ** self.degree
        return similarity


@dataclass(frozen=True)
class RbfKernel:
    """The kernel of CMMD (Jayasumana et al. 2024, "Rethinking FID").

    It sees spread as well as means, but little of it on unit-norm features, whose distances are small against sigma.
    """

    sigma: float = 10.0
    unit_norm: bool = True
    biased: bool = True

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare every row of a set with every row of another: (N, D), (M, D) to (N, M), in double precision."""
        first, second = (_prepared(features, unit_norm=self.unit_norm) for features in (first, second))
        squared = first.square().sum(1)[:, None] + second.square().sum(1)[None, :] - 2 * first @ second.T
        return torch.exp(-squared.clamp(min=0) / (2 * self.sigma**2))


Kernel = PolynomialKernel | RbfKernel


def mmd(first: Tensor, second: Tensor, kernel: Kernel | None = None) -> float:
    """Squared maximum mean discrepancy x 10^3 between two sets of features.

    Args:
        first: Features (N, D).
        second: Features (M, D); the sets may differ in size.
        kernel: What compares them; the papers' by default.

    Returns:
        0 for equal sets when the kernel is biased, and never less.
    """
    kernel = kernel or PolynomialKernel()
    within = _mean_within(first, kernel) + _mean_within(second, kernel)
    value = SCALE * (within - 2 * kernel(first, second).mean()).item()
    return max(value, 0.0) if kernel.biased else value


def noise_floor(features: Tensor, kernel: Kernel | None = None, *, seed: int = 0) -> float:
    """MMD x 10^3 between two random halves of one set: what no difference at all looks like.

    Args:
        features: Features (N, D), N at least 2.
        kernel: What compares them; the papers' by default.
        seed: Decides the halves.
    """
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).to(features.device)
    half = len(features) // 2
    return mmd(features[order[:half]], features[order[half : 2 * half]], kernel)


def _mean_within(features: Tensor, kernel: Kernel) -> Tensor:
    values = kernel(features, features)
    if kernel.biased:
        return values.mean()
    count = len(features)
    return (values.sum() - values.diagonal().sum()) / (count * (count - 1))


def _prepared(features: Tensor, *, unit_norm: bool) -> Tensor:
    features = features.double()
    return functional.normalize(features, dim=1) if unit_norm else features
