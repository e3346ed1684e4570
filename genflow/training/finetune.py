"""Fine-tuning: training that starts from a population, beside the same from a random start.

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

    steps: int = Field(default=200, ge=1, description="How many steps of the optimiser to take.")
    lr: float = Field(default=2e-3, gt=0, allow_inf_nan=False, description="The peak of the learning rate.")
    log_z_start: Literal["zero", "estimate"] = Field(
        default="estimate",
        description="log Z is estimated first: a good start is soon lost to one that is far off.",
    )
    compare: bool = Field(
        default=True, description="Whether to train from a random start, too, with the same budget."
    )


#: what is trained, by the name of its folder
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
        population: where "finetuned" starts.
        name: of STARTS.
        options: the training.
        seed: of everything random.
        folder: where checkpoints lie.
        progress: where to report to.
        device: to compute on.

    Returns:
        The trained policies; their curves are in ``provenance["history"]``.

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
