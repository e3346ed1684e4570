"""Fine-tuning of a population, and the same training from a random start for comparison.

Source: the paper's Fig. 4.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from genflow.population import Population
from genflow.progress import Progress
from genflow.training.options import PolicyOptions
from genflow.training.policies import train_population


class FinetuneOptions(PolicyOptions):
    """How populations are fine-tuned."""

    steps: int = Field(default=200, ge=1, description="The number of optimiser steps.")
    lr: float = Field(default=2e-3, gt=0, allow_inf_nan=False, description="The peak learning rate.")
    log_z_start: Literal["zero", "estimate"] = Field(
        default="estimate",
        description="The initial log Z; an estimate keeps a wrong log Z from spoiling good policies.",
    )
    compare: bool = Field(
        default=True, description="Whether to train from a random start with the same budget, for comparison."
    )


#: names of the two trainings and of their folders
STARTS = ("finetuned", "from_random")


def finetune(
    population: Population,
    name: str,
    options: FinetuneOptions,
    *,
    seed: int,
    folder: Path,
    progress: Progress,
    device: str = "cpu",
) -> Population:
    """Train a population further, or untrained policies of its structure with the same budget.

    Args:
        population: the starting point of "finetuned".
        name: one of `STARTS`.
        options: the options of the training.
        seed: seed of all random numbers.
        folder: the folder for checkpoints.
        progress: the progress reporter.
        device: the torch device.

    Returns:
        The trained policies, with their learning curves in ``provenance["history"]``.

    Raises:
        GenflowError: the loss is not finite, or the objective does not fit the task.
    """
    structure = population.structure
    start = population if name == "finetuned" else Population.initialised(structure, len(population), seed)
    trained = train_population(
        structure, options, start=start.weights, seed=seed, folder=folder, progress=progress, device=device
    )
    known = start.provenance.get("training_structures", [])
    provenance = {**trained.provenance, "started_from": start.source}
    provenance["training_structures"] = [
        *known,
        *(s for s in trained.provenance["training_structures"] if s not in known),
    ]
    return replace(trained, provenance=provenance)
