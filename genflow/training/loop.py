"""The training loop, which is deterministic, resumes from checkpoints and runs on one worker or many.

A `Trainee` defines the parameters and their gradients. The loop applies the optimiser and the learning rate
schedule, and writes checkpoints.

All workers draw the same random numbers and hold the same parameters. Each computes the gradient of its rows
of the batch, and the gradients are summed. So a checkpoint does not depend on the number of workers.

A step reads the device once: figures stay tensors until the loss is there, and come back with it.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from genflow.distributed.world import ALONE, World, world
from genflow.errors import GenflowError
from genflow.progress import Progress
from genflow.schema import Schema
from genflow.tracking import Followed
from genflow.training.checkpoints import Checkpoints
from genflow.training.gradients import all_reduce_step
from genflow.training.signals import graceful_stop
from genflow.training.state import History, TrainingState, restore_newest
from genflow.value_text import count_of

#: fields of a schedule that are no part of the identity of a run, and may change when it resumes
NON_IDENTITY_FIELDS = {"checkpoint_seconds", "keep_checkpoints", "budget", "reward_calls"}


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
    budget: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Training ends after so many seconds if the steps are not done before; the learning rate"
        " then follows the clock. May change when a run goes on.",
    )

    def share(self, steps: int, seconds: float, spent: float = 0.0) -> float:
        """Return the largest used fraction of the steps, of the budget and of `Trainee.spent`."""
        return max(steps / self.steps, min(1.0, max(spent, seconds / self.budget if self.budget else 0.0)))

    def rate(self, step: int, seconds: float = 0.0, spent: float = 0.0) -> float:
        """Return the learning rate of a step (0-based), as a fraction of the peak; see `share`."""
        done = self.share(step + 1, seconds, spent)
        if done < self.warmup:
            return done / self.warmup
        start = 1 - self.decay
        if self.decay == 0 or done <= start:
            return 1.0
        return self.final_rate + (1 - self.final_rate) * 0.5 * (
            1 + math.cos(math.pi * (done - start) / self.decay)
        )


class Trainee(ABC):
    """A model that the loop can train, by default on one worker.

    Attributes:
        share: how much of the training is over, from 0 to 1, which the loop says before each step.
        least_steps: that are taken whatever the budget.
        shows_figures: whether the bar of the steps shows `figures`.
    """

    share: float = 0.0
    least_steps: int = 1
    shows_figures: bool = True

    @property
    def spent(self) -> float:
        """The used fraction of a budget of the trainee's own; from 1 on the training ends."""
        return 0.0

    @property
    def world(self) -> World:
        """The workers that train together."""
        return ALONE

    @property
    def random_device(self) -> torch.device | str:
        """The device on which random numbers are drawn, by default the CPU.

        Numbers that are drawn on the CPU are the same for every device that trains.
        """
        return "cpu"

    @abstractmethod
    def groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups, whose ``lr_scale`` multiplies the learning rate."""

    @abstractmethod
    def backward(self, step: int, rng: torch.Generator) -> tuple[float, dict[str, float]]:
        """Compute the gradients of a step, and store them in the ``grad`` of the parameters.

        Args:
            step: number of the step (0-based).
            rng: generator of all random numbers, on `random_device`.

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
    def loss(self, step: int, rng: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Compute the scalar loss, and further named figures for the history, as numbers or scalar tensors.

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
        tensors = {name: figure for name, figure in figures.items() if isinstance(figure, Tensor)}
        numbers = [loss.detach(), *(figure.detach().to(loss) for figure in tensors.values())]
        # one transfer from the device for all of them
        value, *rest = torch.stack(numbers).tolist()
        return value, {
            "loss": value,
            **cast(dict[str, float], figures),
            **dict(zip(tensors, rest, strict=True)),
        }


@dataclass(frozen=True)
class Trained:
    """The result of a training, beside the trainee.

    Attributes:
        history: figure -> [[step, value], ...].
        seconds: spent, interruptions left out.
        steps: that were taken.
        ended_after: the budget in seconds, if that ended it before all steps were done.
    """

    history: dict[str, list[list[float]]]
    seconds: float
    steps: int
    ended_after: float | None

    def extent(self) -> dict[str, Any]:
        """Return the steps, and the budget if that ended the training, as facts for a record."""
        ended = {} if self.ended_after is None else {"ended_after_seconds": self.ended_after}
        return {"steps": self.steps, **ended}

    def __str__(self) -> str:
        ended = "" if self.ended_after is None else f", ended by the budget of {self.ended_after:g} s"
        return f"{count_of(self.steps, 'step')} in {self.seconds:.1f} s{ended}"


def train(
    trainee: Trainee,
    schedule: Schedule,
    *,
    folder: Path,
    seed: int,
    progress: Progress,
    label: str,
) -> Trained:
    """Train until `schedule.steps` or `schedule.budget`, from the newest valid checkpoint in `folder` if any.

    Seconds that were spent before an interruption count. The caller removes the checkpoints.

    Raises:
        GenflowError: the loss is not finite, or a checkpoint does not fit or cannot be written. The last
            valid checkpoint is kept.
        KeyboardInterrupt: the training was interrupted, and a checkpoint was written.
    """
    rng = torch.Generator(device=trainee.random_device).manual_seed(seed)
    groups = trainee.groups()
    for group in groups:
        group["lr"] = group["initial_lr"] = schedule.lr * group.pop("lr_scale", 1.0)
    optimizer_class = torch.optim.AdamW if schedule.optimizer == "adamw" else torch.optim.Adam
    optimizer = optimizer_class(groups, fused=True)  # several times faster than the default on a CPU
    history = History(every=max(1, schedule.steps // 200))
    costly = max(1, schedule.steps // 50)
    workers, checkpoints = trainee.world, Checkpoints(folder, schedule.keep_checkpoints)
    state = TrainingState(trainee.tensors, optimizer, rng, history)
    step, spent = restore_newest(state, checkpoints, workers, progress)
    seconds = spent  # of the first worker's clock, the same on all
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda at: schedule.rate(at, seconds, trainee.spent), last_epoch=step - 1
    )

    def late() -> bool:
        return schedule.budget is not None and seconds >= schedule.budget

    def over() -> bool:
        return (late() or trainee.spent >= 1) and step >= trainee.least_steps

    began, last_saved = time.monotonic() - spent, time.monotonic()
    followed = Followed(folder, {"label": label, **schedule.model_dump(mode="json")}, progress)
    shown: dict[str, float] = {}
    with progress.bar(label, schedule.steps, step) as bar, graceful_stop() as stop, followed:
        bar.begin(schedule.share(step, seconds, trainee.spent))
        while step < schedule.steps and not over():
            if workers.is_rank_zero:  # what came with the last step, or before an interruption
                followed.tell(history.points)
            trainee.share = schedule.share(step, seconds, trainee.spent)
            value, figures = trainee.backward(step, rng)
            due = workers.is_rank_zero and time.monotonic() - last_saved > schedule.checkpoint_seconds
            seconds = time.monotonic() - began
            value, figures, stopping, due, seconds = all_reduce_step(
                workers, optimizer, value, figures, stop.requested, due, seconds
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
            if step % costly == 0 or step == schedule.steps or over():
                measured = trainee.figures()
                for name, figure in measured.items():
                    history.points.setdefault(name, []).append([step, figure])
                shown = measured if trainee.shows_figures else {}
            bar.share = schedule.share(step, seconds, trainee.spent)
            bar.advance(**{**figures, **shown})
            stopping = stopping or (workers.size == 1 and stop.requested)  # the signal came during this step
            if stopping or due:
                workers.on_rank_zero(lambda: state.save(checkpoints, step, seconds))  # noqa: B023  called at once
                last_saved = time.monotonic()
            if stopping:
                progress.note(
                    f"{label}: stopped after step {step} of {schedule.steps};"
                    " run the same command again to continue"
                )
                raise KeyboardInterrupt
        if step < schedule.steps:
            history.finish(step)
        if workers.is_rank_zero:
            followed.tell(history.points)
    ended_after = schedule.budget if step < schedule.steps and late() else None
    return Trained(history.points, time.monotonic() - began, step, ended_after)
