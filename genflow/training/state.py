"""The state of a training run, which is saved to checkpoints and restored from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genflow.distributed.world import World
from genflow.errors import GenflowError
from genflow.progress import Progress
from genflow.training.checkpoints import Checkpoints


class History:
    """Learning curves, as name -> [[step, mean since the last point], ...]."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.points: dict[str, list[list[float]]] = {}
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Record the figures of a step (0-based)."""
        for name, value in figures.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)
        if (step + 1) % self.every == 0:
            self.finish(step + 1)

    def finish(self, steps: int) -> None:
        """Record the mean of what came since the last point, after so many steps."""
        for name, (total, count) in self._sums.items():
            self.points.setdefault(name, []).append([steps, total / count])
        self._sums = {}

    def facts(self) -> dict[str, Any]:
        """Return the JSON-serialisable state that `restore` reads."""
        return {"history": self.points, "sums": self._sums}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Restore the state that `facts` returned."""
        self.points = facts["history"]
        self._sums = {name: (total, count) for name, (total, count) in facts["sums"].items()}


@dataclass(frozen=True)
class TrainingState:
    """Everything that a checkpoint contains.

    Attributes:
        tensors: returns the tensors of the trainee, into which a checkpoint is copied.
        optimizer: the optimiser with its state.
        rng: the generator of all random numbers.
        history: the learning curves so far.
    """

    tensors: Callable[[], Mapping[str, Tensor]]
    optimizer: torch.optim.Optimizer
    rng: torch.Generator
    history: History

    def save(self, checkpoints: Checkpoints, step: int, seconds: float) -> None:
        """Write a checkpoint.

        Args:
            checkpoints: the folder of checkpoints.
            step: number of steps so far.
            seconds: seconds of training so far.

        Raises:
            GenflowError: the checkpoint cannot be written.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self.tensors().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
        tensors["rng"] = self.rng.get_state()
        facts = {"seconds": seconds, "random_device": self.rng.device.type, **self.history.facts()}
        checkpoints.save(step, tensors, facts)

    def restore(self, checkpoints: Checkpoints, name: str) -> tuple[int, float]:
        """Restore the state of a checkpoint.

        Returns:
            The next step, and the seconds of training before it.

        Raises:
            GenflowError: the checkpoint is of another run, or of another type of device, whose random numbers
                differ.
        """
        tensors, facts = checkpoints.read(name)
        own = self.rng.device.type
        device = facts.get("random_device", own)
        if device != own:
            raise GenflowError(
                f"the checkpoint {name} is of random numbers drawn on {device!r}, and this run draws on"
                f" {own!r}, where they differ; go on with device={device}, or remove it to start again"
            )
        try:
            with torch.no_grad():
                for key, tensor in self.tensors().items():
                    tensor.copy_(_fitting(tensors, f"model.{key}", tensor))
            params = [p for group in self.optimizer.param_groups for p in group["params"]]
            slots: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                if key.startswith("optimizer."):
                    _, index, slot = key.split(".")
                    slots.setdefault(int(index), {})[slot] = (
                        _fitting(tensors, key, params[int(index)]) if tensor.ndim else tensor
                    )
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
            self.rng.set_state(tensors["rng"].cpu())
            self.history.restore(facts)
            return int(facts["step"]), float(facts["seconds"])
        except (KeyError, IndexError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise GenflowError(
                f"the checkpoint {name} does not fit this run ({error}); remove it to start again"
            ) from error


def _fitting(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    # copy_ would broadcast, and a fused optimiser would read beyond the end of a smaller tensor
    if tensors[name].shape != like.shape:
        raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(like.shape)}")
    return tensors[name]


def restore_newest(
    state: TrainingState, checkpoints: Checkpoints, workers: World, progress: Progress
) -> tuple[int, float]:
    """Restore the newest valid checkpoint, and return its step and the seconds spent before."""
    # rank 0 searches, so that all workers use the same checkpoint
    name, refused = workers.on_rank_zero(checkpoints.find)
    for line in refused:
        progress.warn(f"{line}; {f'going on from {name}, the one before it' if name else 'starting again'}")
    return (0, 0.0) if name is None else state.restore(checkpoints, name)
