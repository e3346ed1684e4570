"""The options for training policies and zoos."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from genflow.errors import GenflowError
from genflow.structure import Structure
from genflow.training.loop import Schedule


class PolicyOptions(Schedule):
    """How policies are trained."""

    steps: int = Field(default=1000, ge=1, description="The number of optimiser steps.")
    lr: float = Field(default=5e-3, gt=0, allow_inf_nan=False, description="The peak learning rate.")
    decay: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Fraction of the steps, at the end, in which the learning rate falls.",
    )
    objective: Literal["tb", "db", "subtb", "distill"] = Field(
        default="tb",
        description="The loss, which is trajectory balance, detailed balance, sub-trajectory balance, or"
        " distillation of the exact optimal policy of an enumerable task.",
    )
    batch_size: int = Field(
        default=64,
        ge=1,
        le=1_000_000,
        description='Trajectories of each policy in a step, or states in a step for "distill".',
    )
    epsilon: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Initial probability of a random action, which falls linearly to 0.",
    )
    log_z_rate: float = Field(
        default=20.0, gt=0, description="Factor of the learning rate for log Z in trajectory balance."
    )
    log_z_start: Literal["zero", "estimate"] = Field(
        default="zero",
        description="The initial log Z, which is 0 or estimated from trajectories of the initial policies.",
    )
    flow_rate: float = Field(default=1.0, gt=0, description="Factor of the learning rate for state flows.")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="The numbers that the policies' products multiply; their sums, the weights, the losses"
        " and the optimiser are float32.",
    )
    cuda_graph: Literal["auto", "on", "off"] = Field(
        default="auto",
        description='Whether a step on CUDA is captured in a CUDA graph, which "auto" does where the task'
        " allows it and steps are short of work.",
    )


class ZooOptions(PolicyOptions):
    """How the policies of a zoo are trained.

    If `num` exceeds `seeds`, each run contributes several checkpoints of its last steps. The paper takes 200
    checkpoints of one run.
    """

    renamed: ClassVar[dict[str, str]] = {
        "init": "autoencoder.options.init",
        "init_noise": "autoencoder.options.init_noise",
        "style_size": "autoencoder.options.latent_size",
        "style_share": "autoencoder.options.style_variance",
    }

    num: int = Field(default=32, ge=1, le=100_000, description="The number of policies of each structure.")
    seeds: int = Field(default=8, ge=1, description="The most training runs of each structure.")
    checkpoint_every: int = Field(
        default=5, ge=1, description="Steps between the checkpoints of a run that are kept as policies."
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Threads that train a population on a CPU. They affect rounding, so a fixed number makes"
        " a zoo independent of the number of workers.",
    )

    def check(self, structure: Structure) -> None:
        """Raise an error for a structure that cannot be trained with these options.

        Raises:
            GenflowError: distillation on a task that is too large, too few steps for the checkpoints, or an
                impossible task.
        """
        if self.objective == "distill":
            structure.solution.require_expert()
        require_steps(self, self.split()[1], self.checkpoint_every)
        structure.transitions().env  # noqa: B018  building it raises the error

    def split(self) -> tuple[int, int]:
        """Return the number of runs and of checkpoints in each, whose product is at least `num`."""
        runs = min(self.num, self.seeds)
        return runs, -(-self.num // runs)


def require_steps(options: PolicyOptions, checkpoints: int, every: int) -> None:
    """Raise an error if a training run is too short for its checkpoints.

    Args:
        options: the options of the training.
        checkpoints: number of checkpoints of a run.
        every: steps between checkpoints.

    Raises:
        GenflowError: the first checkpoint would lie before the first step.
    """
    if (checkpoints - 1) * every >= options.steps:
        raise GenflowError(
            f"{checkpoints} checkpoints that are {every} steps apart need more than {options.steps} steps;"
            " raise zoo.steps"
        )
