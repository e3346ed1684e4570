"""The one training loop: resumable, deterministic, on one worker or many, with checkpoints and a bar.

What is trained is a `Trainee`; how long, with which learning rate and where the checkpoints lie is the loop's
business.

Several workers draw the same random numbers and hold the same parameters; each computes the gradient of its
rows of the batch, and all take the step of the sum. So a checkpoint is the same for any number of workers.
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

#: fields of a schedule that decide nothing about what comes out, so that they may change when a run goes on
NON_IDENTITY_FIELDS = {"checkpoint_seconds", "keep_checkpoints"}


class Schedule(Schema):
    """How long and how fast to learn."""

    steps: int = Field(ge=1, description="How many steps of the optimiser to take.")
    lr: float = Field(gt=0, allow_inf_nan=False, description="The peak of the learning rate.")
    warmup: float = Field(
        default=0.02, ge=0, le=1, description="Fraction of the steps over which the rate rises linearly."
    )
    decay: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Fraction of the steps, the last, over which it falls as a cosine.",
    )
    final_rate: float = Field(
        default=0.01, ge=0, le=1, description="What it falls to, as a fraction of its peak."
    )
    clip: float | None = Field(
        default=None, gt=0, description="The largest norm of a gradient; a longer one is shortened to it."
    )
    optimizer: Literal["adam", "adamw"] = Field(
        default="adam", description="torch's optimiser: Adam, or AdamW with its default weight decay."
    )
    checkpoint_seconds: float = Field(
        default=60.0, gt=0, description="A checkpoint is written this often; may change when a run goes on."
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, le=1000, description="So many checkpoints are kept; may change when a run goes on."
    )

    def rate(self, step: int) -> float:
        """Learning rate of a step (0-based) as a fraction of the peak."""
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
    """Something that the loop can train, by default on one worker."""

    @property
    def world(self) -> World:
        """The workers that train it together."""
        return ALONE

    @abstractmethod
    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups; ``lr_scale`` multiplies the schedule's learning rate for its group."""

    @abstractmethod
    def backward(self, step: int, rng: torch.Generator) -> tuple[float, dict[str, float]]:
        """Put the gradients where the optimiser reads them; all randomness comes from `rng`.

        Returns:
            The loss, and figures for the history.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes while training, as tensors that a checkpoint may be copied into."""

    def clip(self, max_norm: float) -> None:
        """Scale the gradients down to a norm of at most `max_norm`."""
        torch.nn.utils.clip_grad_norm_([p for group in self.groups() for p in group["params"]], max_norm)

    def after_step(self, step: int) -> None:
        """Called after each optimiser step, e.g. for averages and snapshots."""

    def figures(self) -> dict[str, float]:
        """Figures that are too costly for every step; called some fifty times in a run."""
        return {}


class GraphTrainee(Trainee):
    """A trainee whose gradients are found by autograd, and whose batches are divided among the workers."""

    @property
    def world(self) -> World:
        """All workers."""
        return world()

    @abstractmethod
    def loss(self, step: int, rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The scalar to minimise, and figures for the history beside it.

        Both are the part that comes from this worker's rows (`world.rows`) of the batch. All workers draw the
        numbers of the whole batch from `rng`; their parts add up to what one worker finds alone.
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
    """Train until `schedule.steps`, from the newest whole checkpoint in `folder` if there is one.

    The caller removes the checkpoints.

    Returns:
        The history (figure -> [[step, value], ...]) and the seconds spent, interruptions left out.

    Raises:
        GenflowError: the loss is not finite, or a checkpoint does not fit or cannot be written. The last good
            one stays.
        KeyboardInterrupt: after a checkpoint was written.
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
            stopping = stopping or (workers.size == 1 and stop.requested)  # during this very step
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
    """Add up the gradients and figures of all workers in one all-reduce; one that is asked to stop stops all.

    Args:
        workers: who takes part.
        optimizer: whose parameters' gradients are added up in place.
        value: this worker's part of the loss.
        figures: its part of the figures.
        stopping: whether it was asked to stop.
        due: whether it wants a checkpoint.

    Returns:
        The last four, of all workers.
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
    *means, stopped, dued = sums[: len(figures) + 2]
    for p, part, used in zip(params, parts, sums[len(figures) + 2 :], strict=True):
        p.grad = part.view_as(p) if used else None  # the optimiser leaves alone what has no gradient
    return value, dict(zip(figures, means, strict=True)), bool(stopped), bool(dued)


@dataclass
class _Stop:
    requested: bool = False


@contextmanager
def graceful_stop() -> Iterator[_Stop]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop between two steps; the second acts at once."""
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
    """Take up the newest whole checkpoint: the step to go on with, and the seconds spent before."""
    # one worker looks, so that all take the same
    name, refused = workers.on_rank_zero(checkpoints.find)
    for line in refused:
        progress.warn(f"{line}; {f'going on from {name}, the one before it' if name else 'starting again'}")
    return (0, 0.0) if name is None else state.restore(checkpoints, name)
