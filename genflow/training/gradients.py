"""Gradients of workers that train together."""

from __future__ import annotations

import torch

from genflow.distributed.world import World


def all_reduce_step(
    workers: World,
    optimizer: torch.optim.Optimizer,
    value: float,
    figures: dict[str, float],
    stopping: bool,
    due: bool,
    seconds: float,
) -> tuple[float, dict[str, float], bool, bool, float]:
    """Sum the gradients of all workers in place, and the loss and the figures, in one all-reduce.

    Args:
        workers: those that train together.
        optimizer: of the parameters.
        value, figures: this worker's part of the loss and of the figures.
        stopping, due: whether this worker was asked to stop, and whether it asks for a checkpoint.
        seconds: this worker's clock.

    Returns:
        The sums of loss and figures, whether any worker must stop or asks for a checkpoint, and the clock of
        rank 0.
    """
    if workers.size == 1:
        return value, figures, stopping, due, seconds
    params = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [
        value,
        *figures.values(),
        float(stopping),
        float(due),
        seconds if workers.is_rank_zero else 0.0,
        *(float(p.grad is not None) for p in params),
    ]
    parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in params]
    total = workers.all_reduce(torch.cat([*parts, parts[0].new_tensor(numbers)]))
    *parts, rest = total.split([*(p.numel() for p in params), len(numbers)])
    value, *sums = rest.tolist()
    *means, any_stopping, any_due, clock = sums[: len(figures) + 3]
    for p, part, used in zip(params, parts, sums[len(figures) + 3 :], strict=True):
        p.grad = part.view_as(p) if used else None  # the optimiser skips parameters without a gradient
    return value, dict(zip(figures, means, strict=True)), bool(any_stopping), bool(any_due), clock
