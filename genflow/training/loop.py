"""The training loop, which is deterministic, resumes from checkpoints and runs on one worker or many.

A `Trainee` defines the parameters and their gradients. The loop applies the optimiser and the learning rate
schedule, and writes checkpoints.

All workers draw the same random numbers and hold the same parameters. Each computes the gradient of its rows
of the batch, and the gradients are summed. So a checkpoint does not depend on the number of workers.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from genflow.distributed.world import ALONE, World, world
from genflow.errors import GenflowError
from genflow.progress import Progress
from genflow.schema import Schema
from genflow.training.checkpoints import Checkpoints
from genflow.training.state import History, TrainingState

#: fields of a schedule that do not affect results, so that they may change when a run resumes
NON_IDENTITY_FIELDS = {"checkpoint_seconds", "keep_checkpoints"}


class Schedule(Schema):
    """The length, the learning rate and the optimiser of a training run."""

    steps: int = Field(ge=1, description="The number of optimiser steps.")
    lr: float = Field(gt=0, allow_inf_nan=False, description="The peak learning rate.")
    warmup: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Fraction of the steps in which the rate rises linearly to its peak.",
    )
    decay: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Fraction of the steps, at the end, in which the rate falls along a cosine.",
    )
    final_rate: float = Field(
        default=0.01, ge=0, le=1, description="The final learning rate as a fraction of its peak."
    )
    clip: float | None = Field(
        default=None, gt=0, description="The norm to which gradients are clipped; None does not clip them."
    )
    optimizer: Literal["adam", "adamw"] = Field(
        default="adam", description="The optimiser, Adam or AdamW with torch's default weight decay."
    )
    checkpoint_seconds: float = Field(
        default=60.0, gt=0, description="Seconds between checkpoints; may change when a run resumes."
    )
    keep_checkpoints: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="The number of checkpoints that are kept; may change when a run resumes.",
    )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step (0-based) as a fraction of the peak."""
        done = (step + 1) / self.steps
        if done < self.warmup:
            return done / self.warmup
        start = 1 - self.decay
        if self.decay == 0 or done <= start:
            return 1.0
        return self.final_rate + (1 - self.final_rate) * 0.5 * (
            1 + math.cos(math.pi * (done - start) / self.decay)
        )


class Trainee(ABC):
    """A model that the loop can train, by default on one worker."""

    @property
    def world(self) -> World:
        """The workers that train together."""
        return ALONE

    @abstractmethod
    def groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups, whose ``lr_scale`` multiplies the learning rate."""

    @abstractmethod
    def backward(self, step: int, rng: torch.Generator) -> tuple[float, dict[str, float]]:
        """Compute the gradients of a step, and store them in the ``grad`` of the parameters.

        Args:
            step: number of the step (0-based).
            rng: generator of all random numbers.

        Returns:
            The loss, and named figures for the history.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that change in training, into which a checkpoint can be copied."""

    def clip(self, max_norm: float) -> None:
        """Clip the gradients to a norm of at most `max_norm`."""
        torch.nn.utils.clip_grad_norm_([p for group in self.groups() for p in group["params"]], max_norm)

    def after_step(self, step: int) -> None:
        """Run after each optimiser step, e.g. to update an average."""

    def figures(self) -> dict[str, float]:
        """Return figures that are too expensive for every step, about fifty times in a run."""
        return {}


class GraphTrainee(Trainee):
    """A trainee whose gradients come from autograd, and whose batches are divided among the workers."""

    @property
    def world(self) -> World:
        """All workers."""
        return world()

    @abstractmethod
    def loss(self, step: int, rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Compute the scalar loss, and further named figures for the history.

        Both are sums over this worker's rows of the batch (`World.rows`). All workers draw the random numbers
        of the whole batch from `rng`, and their sums add up to the result of a single worker.
        """

    def backward(self, step: int, rng: torch.Generator) -> tuple[float, dict[str, float]]:
        """Back-propagate `loss`."""
        for group in self.groups():
            for parameter in group["params"]:
                parameter.grad = None
        loss, figures = self.loss(step, rng)
        loss.backward()
        value = loss.item()
        return value, {"loss": value, **figures}


def train(
    trainee: Trainee,
    schedule: Schedule,
    *,
    folder: Path,
    seed: int,
    progress: Progress,
    label: str,
    device: str | torch.device = "cpu",
) -> tuple[dict[str, list[list[float]]], float]:
    """Train for `schedule.steps` steps, starting from the newest valid checkpoint in `folder` if any.

    The caller removes the checkpoints.

    Returns:
        The history (figure -> [[step, value], ...]), and the seconds of training without interruptions.

    Raises:
        GenflowError: the loss is not finite, or a checkpoint does not fit or cannot be written. The last
            valid checkpoint is kept.
        KeyboardInterrupt: the training was interrupted, and a checkpoint was written.
    """
    rng = torch.Generator(device=device).manual_seed(seed)
    groups = trainee.groups()
    for group in groups:
        group["lr"] = group["initial_lr"] = schedule.lr * group.pop("lr_scale", 1.0)
    optimizer_class = torch.optim.AdamW if schedule.optimizer == "adamw" else torch.optim.Adam
    optimizer = optimizer_class(groups, fused=True)  # several times faster than the default on a CPU
    history = History(every=max(1, schedule.steps // 200))
    costly = max(1, schedule.steps // 50)
    workers, checkpoints = trainee.world, Checkpoints(folder, schedule.keep_checkpoints)
    state = TrainingState(trainee.tensors, optimizer, rng, history)
    step, spent = _restore(state, checkpoints, workers, progress)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate, last_epoch=step - 1)
    began, last_saved = time.monotonic() - spent, time.monotonic()
    shown: dict[str, float] = {}
    with progress.bar(label, schedule.steps, step) as bar, graceful_stop() as stop:
        while step < schedule.steps:
            value, figures = trainee.backward(step, rng)
            due = workers.is_rank_zero and time.monotonic() - last_saved > schedule.checkpoint_seconds
            value, figures, stopping, due = all_reduce_step(
                workers, optimizer, value, figures, stop.requested, due
            )
            if not math.isfinite(value):
                last = checkpoints.last
                saved = f"the last checkpoint is {last}" if last else "no checkpoint was written yet"
                raise GenflowError(
                    f"{label}: the loss became {value} at step {step + 1}; lower the learning rate ({saved})"
                )
            if schedule.clip is not None:
                trainee.clip(schedule.clip)
            optimizer.step()
            rates.step()
            trainee.after_step(step)
            history.add(step, figures)
            step += 1
            if step % costly == 0 or step == schedule.steps:
                shown = trainee.figures()
                for name, figure in shown.items():
                    history.points.setdefault(name, []).append([step, figure])
            bar.advance(**{**figures, **shown})
            stopping = stopping or (workers.size == 1 and stop.requested)  # the signal came during this step
            if stopping or due:
                seconds = time.monotonic() - began
                workers.on_rank_zero(lambda: state.save(checkpoints, step, seconds))  # noqa: B023  called at once
                last_saved = time.monotonic()
            if stopping:
                progress.note(
                    f"{label}: stopped after step {step} of {schedule.steps};"
                    " run the same command again to continue"
                )
                raise KeyboardInterrupt
    return history.points, time.monotonic() - began


def all_reduce_step(
    workers: World,
    optimizer: torch.optim.Optimizer,
    value: float,
    figures: dict[str, float],
    stopping: bool,
    due: bool,
) -> tuple[float, dict[str, float], bool, bool]:
    """Sum the gradients, the loss and the figures of all workers in one all-reduce.

    Args:
        workers: the workers that train together.
        optimizer: the optimiser of the parameters whose gradients are summed in place.
        value: this worker's part of the loss.
        figures: this worker's part of the figures.
        stopping: whether this worker was asked to stop.
        due: whether this worker asks for a checkpoint.

    Returns:
        The sums of loss and figures, and whether any worker must stop or asks for a checkpoint.
    """
    if workers.size == 1:
        return value, figures, stopping, due
    params = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [
        value,
        *figures.values(),
        float(stopping),
        float(due),
        *(float(p.grad is not None) for p in params),
    ]
    parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in params]
    total = workers.all_reduce(torch.cat([*parts, parts[0].new_tensor(numbers)]))
    *parts, rest = total.split([*(p.numel() for p in params), len(numbers)])
    value, *sums = rest.tolist()
    *means, any_stopping, any_due = sums[: len(figures) + 2]
    for p, part, used in zip(params, parts, sums[len(figures) + 2 :], strict=True):
        p.grad = part.view_as(p) if used else None  # the optimiser skips parameters without a gradient
    return value, dict(zip(figures, means, strict=True)), bool(any_stopping), bool(any_due)


@dataclass
class _Stop:
    requested: bool = False


@contextmanager
def graceful_stop() -> Iterator[_Stop]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop after the step, while a second acts at once."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(signum: int, frame: Any) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _restore(
    state: TrainingState, checkpoints: Checkpoints, workers: World, progress: Progress
) -> tuple[int, float]:
    """Restore the newest valid checkpoint, and return its step and the seconds spent before."""
    # rank 0 searches, so that all workers use the same checkpoint
    name, refused = workers.on_rank_zero(checkpoints.find)
    for line in refused:
        progress.warn(f"{line}; {f'going on from {name}, the one before it' if name else 'starting again'}")
    return (0, 0.0) if name is None else state.restore(checkpoints, name)
