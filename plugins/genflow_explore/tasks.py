"""What the worker's process does for the pages, on the public names of `genflow` alone.

Shapes: S states, n dimensions, h positions of each.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import genflow

if TYPE_CHECKING:
    import numpy as np

#: states up to which distributions are computed at every move, in a second or so
MOST_STATES = 400_000
#: samples of a grid, trajectories of molecules, and molecules that are shown
DRAWS, TRAJECTORIES, SHOWN = 40, 200, 12
#: pixels of the picture of a block and of a molecule, before they are scaled to the page
BLOCK, MOLECULE = (120, 84), (220, 150)
#: a score below which nothing of the wish is met
UNMET = 0.01
#: columns of the table of molecules, each with the format that a card shows it in
DESCRIPTORS = {"logp": ".1f", "tpsa": ".0f", "mw": ".0f", "qed": ".2f"}

#: a structure's fields, hashable
Fields = tuple[tuple[str, Any], ...]


class Grid(NamedTuple):
    """What the page of hypergrids shows.

    Attributes:
        ndim, states: of the grid.
        js: exact, in nats.
        generating, comparing: seconds.
        target, generated: pictures.
        scale: of their colours.
        drawn: names of samples, in order.
        notes: cautions.
    """

    ndim: int
    states: int
    js: float
    generating: float
    comparing: float
    target: str
    generated: str
    scale: str
    drawn: list[str]
    notes: list[str]


class Molecule(NamedTuple):
    """One molecule: its SMILES, its score, its descriptors as text, and its picture."""

    smiles: str
    score: float
    facts: dict[str, str]
    picture: str


class Molecules(NamedTuple):
    """What the page of molecules shows.

    Attributes:
        best: the molecules with the highest scores.
        different: how many different ones were drawn.
        mean: the mean score of all that were drawn.
        calls: scores that describing the blocks took.
        making, drawing: seconds of the policy, and of its molecules.
        table: CSV of all different ones.
        notes: cautions.
    """

    best: list[Molecule]
    different: int
    mean: float
    calls: int
    making: float
    drawing: float
    table: bytes
    notes: list[str]


@contextmanager
def _cautions() -> Iterator[list[str]]:
    """The words of caution of what is done meanwhile."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", genflow.GenflowWarning)
        yield notes
    notes += dict.fromkeys(str(each.message) for each in caught)


def grid(fields: Fields, policy: int, draw: int) -> Grid:
    """Generate a policy for a hypergrid and compare it with the target, state by state.

    Args:
        fields: of the structure.
        policy: seed of the policy.
        draw: seed of the samples.

    Raises:
        GenflowError: no generator covers the structure, or it has too many states.
    """
    from .pictures import panel, scale

    given = dict(fields)
    height, ndim = given["height"], given["ndim"]
    if height**ndim > MOST_STATES:
        raise genflow.GenflowError(
            f"A grid of {height} to the power of {ndim} has {height**ndim:,} positions, and this page"
            f" compares up to {MOST_STATES:,}; move n or h down."
        )
    began = time.perf_counter()
    with _cautions() as notes:
        population = genflow.generate("hypergrid", given, num=1, seed=policy)
    made = time.perf_counter()
    target, own = population.structure.solution.target(), population.terminal_distribution()[0]
    js = float(genflow.js(target, own))
    compared = time.perf_counter()
    table = genflow.sample_objects(population, DRAWS, seed=draw).table
    places = list(zip(*(table[f"x{i}"] for i in range(ndim)), strict=True))
    wanted, found = (_marginal(each.reshape((height,) * ndim).numpy()) for each in (target, own))
    # a little above the target's peak, so that a policy that overshoots is seen
    highest = 1.1 * float(wanted.max())
    return Grid(
        ndim,
        height**ndim,
        js,
        made - began,
        compared - made,
        panel(wanted, highest, "The target's distribution"),
        panel(found, highest, "The generated policy's distribution", places),
        scale(highest, bars=ndim == 1),
        ["(" + ", ".join(map(str, place)) + ")" for place in places],
        notes,
    )


def _marginal(table: np.ndarray) -> np.ndarray:
    """Sum a distribution (h, .., h) over all dimensions but the first two."""
    return table.sum(axis=tuple(range(2, table.ndim)))


def blocks() -> list[tuple[str, str]]:
    """Return the SMILES and the picture of each block of the vocabulary that ships."""
    from .pictures import molecule

    structure = genflow.Structure.parse("molecule", "full")
    return [
        (each.smiles, molecule(each.smiles, BLOCK, each.attachments)) for each in structure.environment.blocks
    ]


def warm() -> None:
    """Do once what takes long the first time, so that no visitor's seconds have it."""
    molecules((("blocks", (0, 1)), ("max_blocks", 2)), 0)


@lru_cache(maxsize=16)
def _policy(
    fields: Fields, seed: int, refined: tuple[int, ...]
) -> tuple[genflow.Population, list[str], float]:
    """A policy, what was warned of when it was generated, and the seconds that the last step took."""
    if not refined:
        began = time.perf_counter()
        with _cautions() as notes:
            population = genflow.generate("molecule", dict(fields), num=1, seed=seed)
        return population, notes, time.perf_counter() - began
    start, notes, _ = _policy(fields, seed, refined[:-1])
    described = len(start.layout.reward_calls) if start.source == "generated" else 0
    began = time.perf_counter()
    population = genflow.finetune(start, reward_calls=described + refined[-1], seed=seed)
    return population, notes, time.perf_counter() - began


def molecules(fields: Fields, seed: int, refined: tuple[int, ...] = ()) -> Molecules:
    """Generate a policy for blocks and a profile, perhaps refine it, and draw molecules.

    Args:
        fields: of the structure.
        seed: of the policy and of what is drawn.
        refined: reward calls of each training of the policy, one after the other.

    Raises:
        GenflowError: the blocks cannot be joined, or the profile is malformed.
    """
    from .pictures import molecule

    population, notes, making = _policy(fields, seed, refined)
    began = time.perf_counter()
    objects = genflow.sample_objects(
        population, TRAJECTORIES, seed=seed, unique=True, top=TRAJECTORIES, columns=tuple(DESCRIPTORS)
    )
    objects.require_some()
    drawing = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "molecules.csv"
        objects.save(file)
        content = file.read_bytes()
    table, summary = objects.table, objects.summary
    best = [
        Molecule(
            table["object"][i],
            table["score"][i],
            {name: format(table[name][i], how) for name, how in DESCRIPTORS.items()},
            molecule(table["object"][i], MOLECULE),
        )
        for i in range(min(SHOWN, len(table["object"])))
    ]
    if summary["best_score"] < UNMET:
        notes = [*notes, "Nothing that was drawn comes near the wish; widen ranges, or tick other blocks."]
    generated = _policy(fields, seed, ())[0]
    return Molecules(
        best,
        summary["unique"],
        summary["mean_score"],
        len(generated.layout.reward_calls),
        making,
        drawing,
        content,
        notes,
    )


def profile(ranges: Mapping[str, tuple[float, ...]]) -> str:
    """Write a profile from ranges, name -> (low, high, least, most); one at its end is open there.

    Raises:
        GenflowError: all are open at both ends.
    """
    terms = []
    for name, (low, high, least, most) in ranges.items():
        if low > least and high < most:
            terms.append(f"{name}:{low:g}..{high:g}")
        elif low > least:
            terms.append(f"{name}:>={low:g}")
        elif high < most:
            terms.append(f"{name}:<={high:g}")
    if not terms:
        raise genflow.GenflowError(
            "Every range is as wide as it can be; narrow one, so that there is a wish."
        )
    return "; ".join(terms)
