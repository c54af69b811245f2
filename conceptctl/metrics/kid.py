"""KID: the kernel inception distance (Bińkowski et al. 2018, "Demystifying MMD GANs"), on CLIP features."""

from __future__ import annotations

from torch import Tensor

from conceptctl.metrics.mmd import PolynomialKernel, mmd

KID_KERNEL = PolynomialKernel(degree=3, gamma=1.0, offset=1.0, unit_norm=True, biased=False)
"""Differs from the paper: features are CLIP's, as in the other figures, and not an Inception network's. The factor is 1
on features of length 1, which is KID's own 1 / D on features of length sqrt(D)."""


def kid(generated: Tensor, real: Tensor) -> float:
    """KID x 10^3 over whole sets, which is what the mean over random subsets estimates.

    Args:
        generated: Features of generated pictures (N, D), N at least 2.
        real: Features of real pictures (M, D), M at least 2.

    Returns:
        Unbiased, and so negative for sets that differ less than chance makes them differ.
    """
    return mmd(generated, real, KID_KERNEL)
