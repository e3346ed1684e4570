"""How policies are trained, and how a zoo of them is collected: options, one sentence each."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from genflow.errors import GenflowError
from genflow.structure import Structure
from genflow.training.loop import Schedule


class PolicyOptions(Schedule):
    """How policies are trained."""

    steps: int = Field(default=1000, ge=1, description="How many steps of the optimiser to take.")
    lr: float = Field(default=5e-3, gt=0, allow_inf_nan=False, description="The peak of the learning rate.")
    decay: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Fraction of the steps, the last, over which it falls.",
    )
    objective: Literal["tb", "db", "subtb", "distill"] = Field(
        default="tb",
        description="Trajectory balance, detailed balance, sub-trajectory balance, or distillation of the"
        " exact optimal policy where the task is enumerable.",
    )
    batch_size: int = Field(
        default=64,
        ge=1,
        le=1_000_000,
        description='Trajectories a policy and step, or states a step for "distill".',
    )
    epsilon: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Fraction of random actions at the start, falling linearly to 0.",
    )
    log_z_rate: float = Field(
        default=20.0, gt=0, description="Multiplies the learning rate for log Z of trajectory balance."
    )
    log_z_start: Literal["zero", "estimate"] = Field(
        default="zero",
        description="log Z begins at 0, or at the best value for the starting policies, estimated from"
        " their own trajectories.",
    )
    flow_rate: float = Field(
        default=1.0, gt=0, description="Multiplies the learning rate for the flows of states."
    )


class ZooOptions(PolicyOptions):
    """How a zoo is collected.

    What `seeds` runs leave missing of `num` members is taken from dense checkpoints of their last steps (the
    paper's way: one seed, 200 checkpoints).
    """

    renamed: ClassVar[dict[str, str]] = {
        "init": "autoencoder.options.init",
        "init_noise": "autoencoder.options.init_noise",
        "style_size": "autoencoder.options.latent_size",
        "style_share": "autoencoder.options.style_variance",
    }

    num: int = Field(default=32, ge=1, le=100_000, description="Members a structure.")
    seeds: int = Field(default=8, ge=1, description="The most runs a structure that members come from.")
    checkpoint_every: int = Field(
        default=5, ge=1, description="Steps between the checkpoints of a run that become members."
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Threads that train a population on a CPU. Their number decides the last bits, so it is"
        " fixed, and a zoo is the same for any number of workers.",
    )

    def check(self, structure: Structure) -> None:
        """Refuse, before anything is trained, a structure that these options cannot train.

        Raises:
            GenflowError: exact flows of a task that is too large, too few steps for the checkpoints, or an
                impossible task.
        """
        if self.objective == "distill":
            structure.solution.require_expert()
        require_steps(self, self.split()[1], self.checkpoint_every)
        structure.transitions().env  # noqa: B018  builds it, which refuses what it cannot be

    def split(self) -> tuple[int, int]:
        """(runs, checkpoints a run); their product is at least `num`."""
        runs = min(self.num, self.seeds)
        return runs, -(-self.num // runs)


def require_steps(options: PolicyOptions, checkpoints: int, every: int) -> None:
    """Refuse so many checkpoints so many steps apart where the training is shorter.

    Raises:
        GenflowError: says so.
    """
    if (checkpoints - 1) * every >= options.steps:
        raise GenflowError(
            f"{checkpoints} checkpoints that are {every} steps apart need more than {options.steps} steps;"
            " raise zoo.steps"
        )
