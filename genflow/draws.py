"""Random actions by Gumbel noise.

Shapes: M policies, R trajectories under way, A actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY, LOWEST = 1e-30, -1e30


def sample_actions(scores: Tensor, gumbel: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Draw actions (M, R) by logits and Gumbel noise (M, R, A), and tell where no action is allowed, (M, R).

    The argmax of both is a draw from the softmax of the logits (Maddison et al. 2014). A policy whose logits
    are NaN takes some action, and the training loop then reports its loss of NaN.
    """
    # the clamp keeps logits of -infinity above those of forbidden actions
    best, actions = (scores.clamp(min=LOWEST) + gumbel).masked_fill_(~masks, -torch.inf).max(-1)
    return actions, best.isneginf()


def gumbel_noise(uniform: Tensor) -> Tensor:
    """Turn uniform numbers (..., A+1) into Gumbel noise (..., A); the last of each is for exploration."""
    # a draw of exactly 0 would give an allowed action noise of -infinity
    return uniform[..., :-1].clamp(min=TINY).log_().neg_().log_().neg_()
