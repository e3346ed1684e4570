"""The exponential moving average (EMA) of a module's parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """Create an exponential moving average of a module's parameters and buffers.

    The n-th update uses a decay of min(`decay`, n / (n + 9)), so that the initial parameters are soon
    forgotten. Integer buffers, such as counts of batches, are copied.

    Args:
        module: the module, with whose current parameters the average starts.
        decay: the fraction of the average that an update keeps.
    """

    def update(averaged: list[Tensor], current: list[Tensor], _: Tensor | int) -> None:
        # the buffer is on the CPU, whereas reading the argument might wait for a device
        updates = int(average.n_averaged)
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - min(decay, updates / (updates + 9)))
        else:
            torch._foreach_copy_(averaged, current)

    average = AveragedModel(module, multi_avg_fn=update, use_buffers=True)  # type: ignore[arg-type]
    average.n_averaged.fill_(1)  # type: ignore[operator]  # the initial parameters count as the first update
    return average.requires_grad_(False)
