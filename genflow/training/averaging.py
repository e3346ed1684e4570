"""The moving average of a module's parameters, which is what some trainings keep."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of a module's parameters and buffers.

    Early averages forget faster, so that the start does not linger: the n-th update keeps n / (n + 9), at
    most `decay`. Whole numbers, such as counts of batches, are taken over as they are.

    Args:
        module: what to average; the copy starts as it is.
        decay: how much of the average an update keeps.
    """

    def update(averaged: list[Tensor], current: list[Tensor], _: Tensor | int) -> None:
        # read from the buffer, which lies on the CPU: the argument may lie where reading it would wait
        updates = int(average.n_averaged)
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - min(decay, updates / (updates + 9)))
        else:
            torch._foreach_copy_(averaged, current)

    average = AveragedModel(module, multi_avg_fn=update, use_buffers=True)  # type: ignore[arg-type]
    average.n_averaged.fill_(1)  # type: ignore[operator]  # the start counts as the first
    return average.requires_grad_(False)
