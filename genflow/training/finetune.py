"""Fine-tuning of a population, and the same training from a random start for comparison.

Source: the paper's Fig. 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from genflow.errors import GenflowError
from genflow.layout import tensor_difference
from genflow.population import Population
from genflow.progress import Progress
from genflow.reward_calls import RewardCalls
from genflow.rollouts import sample
from genflow.schema import brief
from genflow.storage.populations import TRAININGS
from genflow.storage.score_files import FOLDER, Row
from genflow.structure import Structure
from genflow.training.options import PolicyOptions
from genflow.training.policies import first_trajectories, train_population
from genflow.training.replay import ReplayBuffer


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
    start: Literal["auto", "population", "random"] = Field(
        default="auto",
        description="What is trained: the population, untrained policies, or by a short comparison the better"
        " of both, where something else is paid than the population was made for and `compare` is off.",
    )
    replay_ratio: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Fraction of the trajectories of a step that lead to the best objects so far, drawn"
        " backwards from them with P_B; 0 replays none.",
    )
    replay_capacity: int = Field(
        default=1000, ge=1, le=1_000_000, description="How many of the best objects are replayed."
    )
    replay_sampling: Literal["rank", "uniform"] = Field(
        default="rank",
        description="How replayed objects are drawn: in proportion to 1 / (N / 100 + rank) among N, or all"
        " alike.",
    )

    def trainings(self) -> list[str]:
        """The names of the trainings that are run, of `TRAININGS`."""
        return list(TRAININGS) if self.compare and self.start != "random" else ["finetuned"]


def transfer(population: Population, structure: Structure) -> Population:
    """Take the weights as policies of another structure, for a training to start from.

    Args:
        population: any.
        structure: a task of the same states and actions, for which something else is paid; any task of the
            environment where the architecture reads units.

    Raises:
        GenflowError: more than what is paid differs; names it.
    """
    before, now = population.structure, structure
    if before == now:
        return population
    free = before.paid_fields() | now.paid_fields()
    if before.arch.reads_units:
        free |= before.known_fields() - set(type(before.arch.config).model_fields)
    old, new = ({"env": s.env, "policy": s.policy, **s.filled()} for s in (before, now))
    odd = [key for key in {**old, **new} if old.get(key) != new.get(key) and key not in free]
    tensors = tensor_difference(now.layout.shapes, before.layout.shapes)
    if odd or tensors:
        differ = "; ".join(f"{key} {_short(old, key)}, not {_short(new, key)}" for key in odd)
        raise GenflowError(
            f"policies of {before.name} cannot be trained on {now.name}: they are of"
            f" {brief(differ or 'other parameters', 400)}; only"
            f" {'the task' if before.arch.reads_units else 'what is paid'} may differ"
            + (f" (tensors: {tensors})" if tensors else "")
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
    described: Path | Sequence[Row] = (),
    paid: Sequence[Path] = (),
) -> Population:
    """Train a population further, or untrained policies of its structure with the same budget.

    Where reward calls are limited, all workers train together and share the scoring.

    Args:
        population: the starting point of "finetuned", of another structure after `transfer`.
        name: one of `TRAININGS`.
        options: the options of the training.
        seed: seed of all random numbers.
        folder: the folder for checkpoints.
        progress: the progress reporter, by default the one in use.
        device: the torch device.
        described: the reward calls that generating the population took, or a file of them, if there is one.
        paid: files of other scores that were paid for. They count when they are asked for, and are not asked
            for again.

    Returns:
        The trained policies, with their learning curves in ``provenance["history"]``, and in
        ``"started_from"`` and ``"started_from_structure"`` what they started from.

    Raises:
        GenflowError: the loss is not finite, or the objective does not fit the task.
    """
    structure, progress = population.structure, progress or Progress.current()
    replay = None
    if options.replay_ratio:
        if options.objective == "distill":
            raise GenflowError("distillation samples no trajectories; leave out finetune.replay_ratio")
        replay = ReplayBuffer(
            structure.transitions(device),
            options.replay_ratio,
            options.replay_capacity,
            options.replay_sampling,
        )
    with _counted(options, name, folder, described, paid, progress):
        start = Population.initialised(structure, len(population), seed)
        if name == "finetuned" and options.start != "random":
            start = _start(population, start, options, seed, device, progress)
        trained = train_population(
            structure,
            options,
            start=start.weights,
            seed=seed,
            folder=folder,
            progress=progress,
            device=device,
            replay=replay,
        )
    spent = trained.provenance["budget"]
    if (
        options.reward_calls
        and spent["steps"] == options.steps
        and spent["reward_calls"] < options.reward_calls
    ):
        progress.note(
            f"{name}: its {spent['steps']:,} steps took {spent['reward_calls']:,} of {options.reward_calls:,}"
            " reward calls; finetune.steps=N takes more"
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


@contextmanager
def _counted(
    options: FinetuneOptions,
    name: str,
    folder: Path,
    described: Path | Sequence[Row],
    paid: Sequence[Path],
    progress: Progress,
) -> Iterator[None]:
    """Count the reward calls of a training, and show them, if they are limited."""
    if options.reward_calls is None:
        yield
        return
    # beside the folder, which holds a population in the end
    file = folder.parent / FOLDER / f"{folder.name}.sqlite"
    own = [described] if isinstance(described, Path) else list(described)
    # a random start needs no description
    before = own if name == "finetuned" and options.start != "random" else []
    known = [*own, *paid, *sorted(file.parent.glob("*.sqlite"))]
    calls = RewardCalls(file, options.reward_calls, before, known)
    # the bar of the steps tells the time left
    bar = progress.bar("reward calls", options.reward_calls, len(calls), timed=False)
    with calls.as_current(), bar as calls.bar:
        yield


def _start(
    population: Population,
    random: Population,
    options: FinetuneOptions,
    seed: int,
    device: str,
    progress: Progress,
) -> Population:
    """Choose what a training starts from, see `FinetuneOptions.start`.

    The criterion is the mean log reward of the better half of some trajectories.
    """
    if options.start == "population" or options.compare or "transferred_from" not in population.provenance:
        return population
    structure = population.structure
    transitions, module = structure.transitions(device), structure.module().to(device)
    number, figures = first_trajectories(len(population)), []
    for each in (population, random):
        weights = structure.layout.unflatten(each.weights.float().to(device))
        trace = structure.forward_with_cache(module, weights)
        rng = torch.Generator(device=device).manual_seed(seed)
        rollouts = sample(transitions, trace, (len(each), number), 0.0, rng)
        ordered = rollouts.log_reward.flatten().sort(descending=True).values
        figures.append(float(ordered[: -(-len(ordered) // 2)].mean()))
    ours, theirs = figures
    better = population if ours >= theirs else random
    progress.note(
        f"{population.source} and random policies compared by the mean log reward of the better half of"
        f" {number * len(population):,} trajectories each: {ours:.2f} and {theirs:.2f};"
        f" the training starts from the {better.source} ones"
    )
    return better
