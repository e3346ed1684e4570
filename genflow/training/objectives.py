"""torchgfn's losses for all policies of a population at once, and distillation of the optimal policy.

Each balance objective returns a loss for each policy, (M,), equal to torchgfn's loss for that policy alone on
the same trajectories and backward policy (mean reduction, squared residuals).

Shapes as in `rollouts`: M policies, B trajectories, T steps, K rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genflow.rollouts import Rollouts

#: objectives that learn a log flow of states
WITH_STATE_FLOW = ("db", "subtb")
SUBTB_LAMBDA = 0.9
#: fraction of the distilled states that is drawn uniformly, while the rest is drawn by visit probability
UNIFORM = 0.25


def trajectory_balance(rollouts: Rollouts, log_pf: Tensor, log_z: Tensor) -> Tensor:
    """Compute the trajectory balance loss of each policy (Malkin et al. 2022).

    It is the mean over trajectories of (log Z + log P_F - log P_B - log R)^2.

    Args:
        rollouts: the trajectories.
        log_pf: (M, K) log P_F of each step.
        log_z: (M,) learned log Z.
    """
    score = log_z[:, None] + rollouts.total(log_pf - rollouts.log_pb) - rollouts.log_reward
    return score.square().mean(1)


def detailed_balance(rollouts: Rollouts, log_pf: Tensor, log_flow: Tensor) -> Tensor:
    """Compute the detailed balance loss of each policy (Bengio et al. 2023).

    It is the mean over steps of (log F(s) + log P_F - log F(s') - log P_B)^2, with F(s') = R for an exit.

    Args:
        rollouts: the trajectories.
        log_pf: (M, K).
        log_flow: (M, K) learned log F of each row's state.
    """
    score = log_flow + log_pf - rollouts.log_pb - _next_log_flow(rollouts, log_flow)
    return score.masked_fill(~rollouts.valid, 0.0).square().sum(1) / rollouts.valid.sum(1)


def sub_trajectory_balance(rollouts: Rollouts, log_pf: Tensor, log_flow: Tensor) -> Tensor:
    """Compute the sub-trajectory balance loss of each policy (Madan et al. 2023).

    A sub-trajectory of k steps has a weight proportional to lambda^k within its trajectory, which torchgfn
    calls "geometric_within".

    Args:
        rollouts: the trajectories.
        log_pf: (M, K).
        log_flow: (M, K) learned log F of each row's state.
    """
    score_MBT = rollouts.pad(log_flow + log_pf - rollouts.log_pb - _next_log_flow(rollouts, log_flow))
    valid_MBT = rollouts.pad(rollouts.valid.to(log_pf.dtype))
    # flows of inner states cancel, so the residual of a sub-trajectory is the sum of its steps' residuals
    until = torch.nn.functional.pad(score_MBT.cumsum(-1), (1, 0))
    loss = torch.zeros_like(rollouts.log_reward)
    weight_sum = torch.zeros_like(rollouts.log_reward)
    for steps in range(1, rollouts.length + 1):
        weight = SUBTB_LAMBDA ** (steps - 1) * valid_MBT[..., steps - 1 :]
        loss = loss + (weight * (until[..., steps:] - until[..., :-steps]).square()).sum(-1)
        weight_sum = weight_sum + weight.sum(-1)
    return (loss / weight_sum).mean(1)


def _next_log_flow(rollouts: Rollouts, log_flow: Tensor) -> Tensor:
    """Return log F of each row's next state, which is log R where the row exits."""
    log_reward = rollouts.log_reward.gather(1, rollouts.places // rollouts.length)
    return torch.where(rollouts.exits, log_reward, log_flow.roll(-1, dims=1))


def distillation(logits: Tensor, masks: Tensor, optimal: Tensor) -> Tensor:
    """Compute the mean over states of KL(optimal policy || policy) for each policy.

    Args:
        logits: (M, B, A).
        masks: (B, A) allowed actions.
        optimal: (B, A) or (M, B, A) P_F of the exact flows, or of another reference.
    """
    log_probs = logits.masked_fill(~masks, -torch.inf).log_softmax(dim=-1).masked_fill(~masks, 0.0)
    return (torch.xlogy(optimal, optimal) - optimal * log_probs).sum(-1).mean(-1)
