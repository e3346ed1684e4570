"""The stage that scores objects of a file: whether policies can make them, their score and probability.

Shapes: M policies, K states that are one object.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genflow.ancestry import ancestry, sampled_log_probabilities
from genflow.errors import GenflowError
from genflow.population import Population
from genflow.precision import float32_default
from genflow.progress import Progress
from genflow.stages.common import map_with_progress
from genflow.stages.objects import fault_of, listed, read_objects
from genflow.storage.files import StrPath
from genflow.storage.tables import OBJECT, as_html

#: objects whose ancestors are found together
CHUNK = 16
#: what a probability can be, the surest first
EXACT, BOUND, ON_AVERAGE = "exact", "lower bound", "lower bound on average"
#: what is known of an object
FACTS = (
    "made",
    "score",
    "log_reward",
    "probability",
    "log_probability",
    "certainty",
    "states",
    "log_probabilities",
    "why_not",
    "changed",
)


#: what is shown where it is known of an object
OPTIONAL = ("name", "changed")


class Scored(NamedTuple):
    """What is known of the objects of a file.

    Attributes:
        rows: a dict an object, in the order of the file.
        policies: the indices of the policies that ``log_probabilities`` are of.
        faults: what is wrong with the lines that name no object.
    """

    rows: list[dict[str, Any]]
    policies: list[int]
    faults: list[str]

    def columns(self) -> list[str]:
        """The keys of rows that a table for people has."""
        empty = [key for key in OPTIONAL if all(row[key] is None for row in self.rows)]
        return [key for key in self.rows[0] if key not in ["log_probabilities", *empty]]

    def _repr_html_(self) -> str:
        return as_html({key: [row[key] for row in self.rows] for key in self.columns()})


@float32_default()
def score_objects(
    population: Population,
    objects: StrPath | Sequence[str],
    *,
    trajectories: int = 1000,
    seed: int = 0,
    score_all: bool = False,
) -> Scored:
    """Score the objects of a file or a list.

    The probability of an object is the sum over its states. That of a state is exact where its ancestors are
    few enough, or else estimated by `sampled_log_probabilities`.

    Args:
        population: the policies; those that diverged in training are left out.
        objects: a file, see `read_objects`, or a list of names such as SMILES.
        trajectories: of an estimate.
        seed: of the estimates, which do not depend on the number of workers.
        score_all: ask for the scores of objects that policies cannot make as well.

    Raises:
        GenflowError: the file is unusable, or no object can be read.
    """
    gallery, sound = population.structure.gallery, population.without_diverged()
    where: Path | None = None
    if isinstance(objects, str | os.PathLike):
        where = Path(objects)
        lines = read_objects(where, gallery)
    else:
        lines = listed(objects, gallery)
    names = list(dict.fromkeys(line.name for line in lines if line.name is not None))
    faults = [fault_of(where, line) for line in lines if line.fault]
    if not names:
        raise GenflowError(f"no line of {where or 'the list'} can be read; the first: {faults[0]}")
    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]

    def work(chunk: Sequence[str]) -> list[dict[str, Any]]:
        return _score(sound, chunk, trajectories, seed, score_all)

    parts = map_with_progress(chunks, work, Progress.current(), "score")
    known = dict(zip(names, [row for part in parts for row in part], strict=True))
    rows = [
        {
            "line": line.number,
            "name": line.title or None,
            OBJECT: line.name,
            **known[line.name],
            "changed": line.changed or None,
        }
        for line in lines
        if line.name is not None
    ]
    return Scored(rows, population.sound, faults)


def _score(
    population: Population, names: Sequence[str], trajectories: int, seed: int, score_all: bool
) -> list[dict[str, Any]]:
    gallery = population.structure.gallery
    found: dict[str, tuple[Tensor, bool]] = {}
    why_not: dict[str, str] = {}
    for name in names:
        try:
            found[name] = gallery.states_named(name)
        except GenflowError as error:
            why_not[name] = str(error)
    made = _probabilities(population, found, trajectories, seed)
    for name in [name for name, (log_probs, _) in made.items() if bool(log_probs.isneginf().all())]:
        why_not[name] = "no trajectory ends there"
        del made[name]
    rows: dict[str, dict[str, Any]] = {}
    firsts = torch.cat([found[name][0][:1] for name in made]) if made else None
    scores = [] if firsts is None else gallery.scores(firsts).tolist()  # a reward is asked for all at once
    log_rewards = [] if firsts is None else population.structure.transitions().log_reward(firsts).tolist()
    for (name, (log_probs, kind)), score, log_reward in zip(made.items(), scores, log_rewards, strict=True):
        states, complete = found[name]
        mean = float(log_probs.logsumexp(0)) - math.log(len(log_probs))
        rows[name] = {
            "made": True,
            "score": score,
            "log_reward": log_reward,
            "probability": math.exp(mean),
            "log_probability": mean,
            "certainty": kind if complete or kind != EXACT else BOUND,
            "states": len(states),
            "log_probabilities": log_probs.tolist(),
            "why_not": None,
            "changed": None,
        }
    # after those that can be made, which show that the reward works
    for name, why in why_not.items():
        own = gallery.score_named(name) if score_all else None
        rows[name] = {**dict.fromkeys(FACTS), "made": False, "score": own, "states": 0, "why_not": why}
    return [rows[name] for name in names]


def _probabilities(
    population: Population, found: dict[str, tuple[Tensor, bool]], trajectories: int, seed: int
) -> dict[str, tuple[Tensor, str]]:
    """The log probabilities (M,) of objects by their states (K, *state_shape), and what they are."""
    if not found:
        return {}
    transitions = population.structure.transitions()
    ancestors = ancestry(transitions, torch.cat([states for states, _ in found.values()]))
    if ancestors is not None:
        ends = population.ends_in(ancestors.graph)[:, ancestors.places].masked_fill(~ancestors.reached, 0.0)
        parts = ends.split([len(states) for states, _ in found.values()], dim=1)
        return {name: (part.sum(1).log(), EXACT) for name, part in zip(found, parts, strict=True)}
    if len(found) > 1:
        half, items = len(found) // 2, list(found.items())
        return {
            name: result
            for part in (items[:half], items[half:])
            for name, result in _probabilities(population, dict(part), trajectories, seed).items()
        }
    ((name, (states, complete)),) = found.items()
    if len(states) > 1:  # each alone may have few enough
        each = [
            _probabilities(population, {name: (state[None], complete)}, trajectories, seed)[name]
            for state in states
        ]
        kind = ON_AVERAGE if any(kind == ON_AVERAGE for _, kind in each) else EXACT
        return {name: (torch.stack([log_probs for log_probs, _ in each]).logsumexp(0), kind)}
    rng = torch.Generator().manual_seed(seed)
    estimate = sampled_log_probabilities(
        transitions, lambda states: population.trace(states)[0], states[0], trajectories, rng
    )
    return {name: (estimate, ON_AVERAGE)}
