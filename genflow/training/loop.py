"""The one training loop: resumable, deterministic, on one worker or many, with checkpoints and a progress bar.

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

#: fields of a schedule that decide nothing about what comes out, so that they may change when a run goes on
UPKEEP = {"checkpoint_seconds", "keep_checkpoints"}


class Schedule(Schema):
    """How long and how fast to learn.

    `warmup` and `decay` are fractions of the steps: the rate rises linearly over the first, and falls to
    `final_rate` of its peak over the last, as a cosine. A checkpoint is written every `checkpoint_seconds`,
    and the last `keep_checkpoints` are kept.
    """

    steps: int = Field(ge=1)
    lr: float = Field(gt=0, allow_inf_nan=False)
    warmup: float = Field(default=0.02, ge=0, le=1)
    decay: float = Field(default=1.0, ge=0, le=1)
    final_rate: float = Field(default=0.01, ge=0, le=1)
    clip: float | None = Field(default=None, gt=0)
    optimizer: Literal["adam", "adamw"] = "adam"
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    keep_checkpoints: int = Field(default=2, ge=1, le=1000)

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
    """A trainee whose gradients autograd finds; workers share out its batches."""

    @property
    def world(self) -> World:
        """All workers."""
        return world()

    @abstractmethod
    def loss(self, step: int, rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The scalar to minimise, and figures for the history: the part that comes from this worker's rows (`world.rows`) of the batch.

        All workers draw the numbers of the whole batch from `rng`; their parts add up to what one worker
        finds alone.
        """

    def backward(self, step: int, rng: torch.Generator) -> tuple[float, dict[str, float]]:
        """Of `loss`."""
        for group in self.groups():
            for parameter in group["params"]:
                parameter.grad = None
        loss, figures = self.loss(step, rng)
        loss.backward()
        return loss.item(), figures


class Average:
    """Exponential moving average of a module's state; early averages forget faster, so that the start does not linger."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    def update(self, module: torch.nn.Module, step: int) -> None:
        """Take in the state after a step (0-based)."""
        keep = min(self.decay, (step + 1) / (step + 10))
        state = module.state_dict()
        moving = [name for name, tensor in state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[name] for name in moving], [state[name].detach() for name in moving], 1 - keep
        )
        for name in state.keys() - set(moving):
            self.tensors[name].copy_(state[name])


class History:
    """Figures over the steps: name -> [(step, mean since the last point), ...]."""

    def __init__(self, every: int, points: dict[str, list[list[float]]] | None = None) -> None:
        self.every = every
        self.points = points or {}
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Record the figures of a step."""
        for name, value in figures.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)
        if (step + 1) % self.every == 0:
            for name, (total, count) in self._sums.items():
                self.points.setdefault(name, []).append([step + 1, total / count])
            self._sums = {}


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
        group["scale"] = group.pop("lr_scale", 1.0)
    optimizer_class = torch.optim.AdamW if schedule.optimizer == "adamw" else torch.optim.Adam
    optimizer = optimizer_class(
        groups, lr=schedule.lr, fused=True
    )  # several times faster than the default on a CPU
    history = History(every=max(1, schedule.steps // 200))
    costly = max(1, schedule.steps // 50)
    workers, checkpoints = trainee.world, Checkpoints(folder, schedule.keep_checkpoints)
    step, spent = _restore(checkpoints, workers, progress, trainee, optimizer, rng, history)
    began, last_saved = time.monotonic() - spent, time.monotonic()
    shown: dict[str, float] = {}
    with progress.bar(label, schedule.steps, step) as bar, graceful_stop() as stop:
        while step < schedule.steps:
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr * group["scale"] * schedule.rate(step)
            value, figures = trainee.backward(step, rng)
            due = workers.is_rank_zero and time.monotonic() - last_saved > schedule.checkpoint_seconds
            value, figures, stopping, due = _together(workers, optimizer, value, figures, stop.requested, due)
            if not math.isfinite(value):
                kept = (
                    f"the last checkpoint is {checkpoints.last}"
                    if checkpoints.last
                    else "no checkpoint was written yet"
                )
                raise GenflowError(
                    f"{label}: the loss became {value} at step {step + 1}; lower the learning rate ({kept})"
                )
            if schedule.clip is not None:
                trainee.clip(schedule.clip)
            optimizer.step()
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
                state = (step, time.monotonic() - began, trainee, optimizer, rng, history)
                workers.on_rank_zero(lambda: _save(checkpoints, *state))  # noqa: B023  called at once
                last_saved = time.monotonic()
            if stopping:
                progress.note(
                    f"{label}: stopped after step {step} of {schedule.steps}; run the same command again to continue"
                )
                raise KeyboardInterrupt
    return history.points, time.monotonic() - began


def _together(
    workers: World,
    optimizer: torch.optim.Optimizer,
    value: float,
    figures: dict[str, float],
    stopping: bool,
    due: bool,
) -> tuple[float, dict[str, float], bool, bool]:
    """Add up the gradients and figures of all workers, in one message; one that is asked to stop stops all."""
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
    """Turn the first Ctrl-C or SIGTERM into a request that is served between two steps; the second one acts at once."""
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


def _save(
    checkpoints: Checkpoints,
    step: int,
    seconds: float,
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
    history: History,
) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in trainee.tensors().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    tensors["rng"] = rng.get_state()
    checkpoints.save(step, tensors, {"seconds": seconds, "history": history.points, "sums": history._sums})


def _restore(
    checkpoints: Checkpoints,
    workers: World,
    progress: Progress,
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
    history: History,
) -> tuple[int, float]:
    """Take up the newest whole checkpoint: the step to go on with, and the seconds spent before."""
    # one worker looks, so that all take the same
    name, refused = workers.on_rank_zero(checkpoints.find)
    for line in refused:
        progress.warn(f"{line}; {f'going on from {name}, the one before it' if name else 'starting again'}")
    if name is None:
        return 0, 0.0
    try:
        tensors, facts = checkpoints.read(name)
        own = trainee.tensors()
        with torch.no_grad():
            for key, tensor in own.items():
                tensor.copy_(_fitting(tensors, f"model.{key}", tensor))
        params = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, index, slot = key.split(".")
                state.setdefault(int(index), {})[slot] = (
                    _fitting(tensors, key, params[int(index)]) if tensor.ndim else tensor
                )
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        rng.set_state(tensors["rng"].cpu())
        history.points = facts["history"]
        history._sums = {key: (total, count) for key, (total, count) in facts["sums"].items()}
        return int(facts["step"]), float(facts["seconds"])
    except (KeyError, IndexError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise GenflowError(
            f"the checkpoint {name} does not fit this run ({error}); remove it to start again"
        ) from error


def _fitting(tensors: dict[str, Tensor], name: str, like: Tensor) -> Tensor:
    # copy_ would broadcast, and a fused optimiser reads past the end of a shorter slot
    if tensors[name].shape != like.shape:
        raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(like.shape)}")
    return tensors[name]
