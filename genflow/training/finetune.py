"""Fine-tuning of a population, and the same training from a random start for comparison.

Source: the paper's Fig. 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from genflow.errors import GenflowError
from genflow.population import Population
from genflow.progress import Progress
from genflow.reward_calls import RewardCalls
from genflow.schema import brief
from genflow.structure import Structure
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
    reward_calls: int | None = Field(
        default=None,
        ge=1,
        description="Each training ends with the step in which it has asked for the scores of so many"
        " different objects, if the steps are not done before. May change when a run goes on.",
    )
    compare: bool = Field(
        default=True, description="Whether to train from a random start with the same budget, for comparison."
    )


def transfer(population: Population, structure: Structure) -> Population:
    """Take the weights as policies of another structure, for a training to start from.

    Args:
        population: any.
        structure: a task of the same states and actions, for which something else is paid.

    Raises:
        GenflowError: more than what is paid differs; names it.
    """
    before, now = population.structure, structure
    if before == now:
        return population
    paid = before.paid_fields() | now.paid_fields()
    old, new = ({"env": s.env, "policy": s.policy, **s.filled()} for s in (before, now))
    odd = [key for key in {**old, **new} if old.get(key) != new.get(key) and key not in paid]
    if odd or before.layout.shapes != now.layout.shapes:
        differ = "; ".join(f"{key} {_short(old, key)}, not {_short(new, key)}" for key in odd)
        raise GenflowError(
            f"policies of {before.name} cannot be trained on {now.name}: they are of"
            f" {brief(differ or 'layers of other sizes', 400)}; only what is paid may differ"
        )
    return replace(
        population, structure=now, provenance={**population.provenance, "transferred_from": before.fields()}
    )


def _short(fields: Mapping[str, Any], key: str) -> str:
    return brief(fields[key], 60) if key in fields else "none"


def finetune(
    population: Population,
    name: str,
    options: FinetuneOptions,
    *,
    seed: int,
    folder: Path,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Population:
    """Train a population further, or untrained policies of its structure with the same budget.

    Args:
        population: the starting point of "finetuned", of another structure after `transfer`.
        name: one of `TRAININGS`.
        options: the options of the training.
        seed: seed of all random numbers.
        folder: the folder for checkpoints.
        progress: the progress reporter, by default the one in use.
        device: the torch device.

    Returns:
        The trained policies, with their learning curves in ``provenance["history"]``, and in
        ``"started_from"`` and ``"started_from_structure"`` what they started from.

    Raises:
        GenflowError: the loss is not finite, or the objective does not fit the task.
    """
    structure = population.structure
    start = population if name == "finetuned" else Population.initialised(structure, len(population), seed)
    calls = None
    if options.reward_calls is not None:
        # beside the folder, which holds a population in the end
        calls = RewardCalls(folder.parent / "reward_calls" / f"{folder.name}.sqlite", options.reward_calls)
    with nullcontext() if calls is None else calls.as_current():
        trained = train_population(
            structure,
            options,
            start=start.weights,
            seed=seed,
            folder=folder,
            progress=progress or Progress.current(),
            device=device,
        )
    known = start.provenance.get("training_structures", [])
    provenance = {**trained.provenance, "source": name, "started_from": start.source}
    if "transferred_from" in start.provenance:
        provenance["started_from_structure"] = start.provenance["transferred_from"]
    provenance["training_structures"] = [
        *known,
        *(s for s in trained.provenance["training_structures"] if s not in known),
    ]
    return replace(trained, provenance=provenance)
