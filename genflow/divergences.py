"""Divergences between two distributions over the same S states, in natural logarithms (nats).

Shapes: p and q are (..., S), broadcast against each other, and sum to 1 over S. Results are (...).
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p || q) = sum_s p_s ln(p_s / q_s), in nats.

    A state with p_s = 0 contributes 0, and one with p_s > 0 = q_s makes the divergence infinite.

    Source: Kullback and Leibler, "On Information and Sufficiency", Annals of Mathematical Statistics 22,
    1951.
    """
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


def js(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats.

    It lies between 0 and ln 2.

    Source: Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Transactions on Information Theory
    37(1), 1991, with equal weights.
    """
    m = (p + q) / 2
    return 0.5 * (kl(p, m) + kl(q, m))


def mean_l1(p: Tensor, q: Tensor) -> Tensor:
    """Mean over states of |p_s - q_s|, the L1 distance divided by the number of states.

    Bengio et al., "Flow Network based Generative Models for Non-Iterative Diverse Candidate Generation",
    2021, plot an empirical L1 error for hypergrids. Check the normalisation before comparing figures:
    ``l1_dist`` of torchgfn 2.4.1 is the sum over states, not the mean.
    """
    return (p - q).abs().mean(-1)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Total variation distance, (1/2) sum_s |p_s - q_s|.

    It lies between 0 and 1.

    Source: Levin and Peres, "Markov Chains and Mixing Times", proposition 4.2.
    """
    return 0.5 * (p - q).abs().sum(-1)
