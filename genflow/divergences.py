"""Divergences between two distributions over the same S states; logarithms are natural.

Shapes: p and q are (..., S), broadcast against each other, and sum to 1 over S; results are (...).
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p || q) = sum_s p_s ln(p_s / q_s).

    0 ln 0 = 0; infinite where p > 0 = q. Kullback and Leibler, "On Information and Sufficiency", 1951.
    """
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


def js(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2.

    Between 0 and ln 2. Lin, "Divergence Measures Based on the Shannon Entropy", 1991.
    """
    m = (p + q) / 2
    return 0.5 * (kl(p, m) + kl(q, m))


def mean_l1(p: Tensor, q: Tensor) -> Tensor:
    """Mean over states of |p_s - q_s|, the "empirical L1 loss" of the GFlowNet literature.

    Bengio et al., "Flow Network based Generative Models for Non-Iterative Diverse Candidate Generation",
    2021.
    """
    return (p - q).abs().mean(-1)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Total variation distance, half of sum_s |p_s - q_s|.

    Between 0 and 1. Levin and Peres, "Markov Chains and Mixing Times", proposition 4.2.
    """
    return 0.5 * (p - q).abs().sum(-1)
