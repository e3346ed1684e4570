"""The stage that samples objects: drawn by all workers, counted, described, filtered and summarised.

Shapes: M policies, B trajectories each.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genflow.errors import GenflowError, did_you_mean
from genflow.interfaces.gallery import Gallery
from genflow.population import Population
from genflow.precision import float32_default
from genflow.progress import Progress
from genflow.rollouts import sample
from genflow.schema import brief
from genflow.stages.common import map_with_progress
from genflow.stages.conditions import Condition
from genflow.stages.objects import fault_of, read_objects
from genflow.storage.files import StrPath
from genflow.storage.tables import OBJECT, as_html, check_table_path, write_table
from genflow.value_text import count_of

#: trajectories that are drawn together. It decides what is drawn, so it must not depend on the machine
CHUNK = 256
#: the most objects of which every two are compared
MAX_COMPARED = 2000
#: columns of every table, after those that tell the object
COLUMNS = ("score", "log_reward", "policy", "count")

#: column -> its values
Columns = dict[str, list[Any]]


class Filtered(NamedTuple):
    """What a condition dropped.

    Attributes:
        condition: its text.
        rows: how many.
        ranges: least and greatest value of each of its columns, in all rows that it was asked of.
    """

    condition: str
    rows: int
    ranges: dict[str, tuple[float, float]]

    def __str__(self) -> str:
        ranges = ", ".join(f"{name} {low:.4g} to {high:.4g}" for name, (low, high) in self.ranges.items())
        rows = count_of(self.rows, "row is", "rows are")
        return f"{rows} dropped by --filter {brief(self.condition)!r} ({ranges})"


@dataclass(repr=False)
class Objects:
    """Sampled objects, a row each.

    Attributes:
        table: column -> values.
        summary: figures of the set.
        name_kind: what the objects' names are, e.g. ``"smiles"``.
        warnings: what should be said of the files that were read.
        dropped: what each of the conditions dropped, in the order in which they were asked.
    """

    table: Columns
    summary: dict[str, Any]
    name_kind: str
    warnings: list[str] = field(default_factory=list)
    dropped: list[Filtered] = field(default_factory=list)

    def require_some(self) -> None:
        """Refuse a table without a row.

        Raises:
            GenflowError: it has none; the message says what each condition dropped.
        """
        if self.table[OBJECT]:
            return
        sampled, invalid = self.summary["sampled"], self.summary["invalid"]
        why = [f"{invalid:,} must not be shown"] if invalid else []
        why += [str(each) for each in self.dropped if each.rows]
        todo = "; ask for less, or sample more with --num" if self.dropped else ""
        raise GenflowError(
            f"nothing is kept, so no table is made: of {sampled:,} sampled {', '.join(why)}{todo}"
        )

    def __repr__(self) -> str:
        return f"Objects({count_of(len(self.table[OBJECT]), 'row')} of {', '.join(self.table)})"

    def _repr_html_(self) -> str:
        return as_html(self.table)

    def save(self, path: StrPath) -> None:
        """Write the table as .csv, .jsonl, .smi or .parquet.

        Raises:
            GenflowError: the suffix is another one, or the file cannot be written.
        """
        check_table_path(Path(path), self.name_kind)
        write_table(Path(path), self.table)


class Share(NamedTuple):
    """A part of the trajectories: policies of a slice, and how many trajectories each of them draws."""

    number: int
    members: slice
    each: int


class Drawn(NamedTuple):
    """A sampled object: its name, the policy's index, its state as nested lists, score and log reward."""

    name: str
    policy: int
    state: Any
    score: float
    log_reward: float


@float32_default()
def sample_objects(
    population: Population,
    num: int = 1000,
    *,
    seed: int = 0,
    unique: bool = False,
    top: int | None = None,
    filters: Sequence[str] = (),
    columns: Sequence[str] = (),
    novel_to: StrPath | None = None,
) -> Objects:
    """Sample objects with all policies in turn; those that diverged in training draw none.

    The result depends on the seed, and not on the number of workers.

    Args:
        population: the policies.
        num: trajectories of all policies together.
        seed: of all random numbers.
        unique: keep each object once.
        top: keep so many with the highest scores, the best first; None: all, in the order of sampling.
        filters: conditions such as ``"score>0.5 and mw<450"``, all of which a row must meet.
        columns: descriptors that are added to the table.
        novel_to: a file of known objects; the summary says what share of the different rows is new.

    Raises:
        GenflowError: a filter or column is unknown, a file is unusable, or no policy is sound.
    """
    if num < 1:
        raise GenflowError(f"num is {num}; sample 1 trajectory at least")
    gallery, start = population.structure.gallery, population.structure.transitions().initial_state
    known = [*gallery.columns(start[None]), *COLUMNS, *gallery.descriptors]
    conditions = [Condition.parse(text, known) for text in filters]
    for name in columns:
        if name not in gallery.descriptors:
            raise GenflowError(f"--column {name!r} is unknown{did_you_mean(name, gallery.descriptors)}")
    lines = read_objects(Path(novel_to), gallery) if novel_to is not None else []
    sound, indices = population.without_diverged(), population.sound
    shares = _shares(len(sound), num)
    parts = map_with_progress(shares, lambda share: _draw(sound, share, seed), Progress.current(), "sample")
    drawn = [Drawn(name, indices[policy], *rest) for part in parts for name, policy, *rest in part][:num]
    valid = [each for each in drawn if each.name]
    counts = Counter(each.name for each in valid)
    rows = list({each.name: each for each in reversed(valid)}.values())[::-1] if unique else valid

    def states(rows: Sequence[Drawn]) -> Tensor:
        return torch.tensor([each.state for each in rows], dtype=start.dtype).reshape(-1, *start.shape)

    table = {
        OBJECT: [each.name for each in rows],
        **gallery.columns(states(rows)),
        **{name: [getattr(each, name) for each in rows] for name in COLUMNS[:-1]},
        "count": [counts[each.name] for each in rows],
    }
    table, dropped = _kept(gallery, table, conditions, top)
    for name in columns:
        _describe(gallery, table, name)
    first = {each.name: each for each in reversed(valid)}
    different = [first[name] for name in dict.fromkeys(table[OBJECT])]
    summary: dict[str, Any] = {
        "sampled": len(drawn),
        "invalid": len(drawn) - len(valid),
        "unique": len(counts),
        "mean_score": _mean([each.score for each in valid]),
        "rows": len(table[OBJECT]),
        "rows_unique": len(different),
        "rows_mean_score": _mean(table["score"]),
        "best_score": max(table["score"], default=None),
        "diversity": gallery.diversity(states(different[:MAX_COMPARED])) if len(different) > 1 else None,
    }
    if novel_to is not None:
        old = {line.name for line in lines}
        summary["novelty"] = _mean([float(each.name not in old) for each in different])
    faults = [fault_of(Path(novel_to), line) for line in lines if line.fault] if novel_to is not None else []
    return Objects(table, summary, gallery.name_kind, faults, dropped)


def _shares(members: int, num: int) -> list[Share]:
    """Shares of at most `CHUNK` trajectories, so that all policies have drawn when `num` are reached."""
    rounds, each = -(-num // members), max(1, CHUNK // members)
    places = [(first, start) for first in range(0, rounds, each) for start in range(0, members, CHUNK)]
    return [
        Share(number, slice(start, min(start + CHUNK, members)), min(each, rounds - first))
        for number, (first, start) in enumerate(places)
        if first * members + start < num
    ]


def _draw(population: Population, share: Share, seed: int) -> list[list[Any]]:
    """The objects of a share, the policies in turn, as `Drawn` in JSON's types."""
    structure, part = population.structure, population[share.members]
    text = f"{seed}/{share.number}".encode()
    rng = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:7], "big"))
    final = sample(structure.transitions(), part.trace, (len(part), share.each), 0.0, rng).final
    states = final.transpose(0, 1).flatten(0, 1)
    gallery = structure.gallery
    names = gallery.names(states)
    first = {name: place for place, name in reversed(list(enumerate(names))) if name}
    ones = states[list(first.values())]
    scores = gallery.scores(ones).tolist() if first else []
    rewards = structure.transitions().log_reward(ones).tolist() if first else []
    worths = dict(zip(first, zip(ones.tolist(), scores, rewards, strict=True), strict=True))
    return [
        [name, share.members.start + place % len(part), *worths.get(name, (None, 0.0, 0.0))]
        for place, name in enumerate(names)
    ]


def _kept(
    gallery: Gallery, table: Columns, conditions: Sequence[Condition], top: int | None
) -> tuple[Columns, list[Filtered]]:
    """The rows that meet all conditions, or the best of them; and what was dropped."""
    dropped = []

    def take(places: Sequence[int]) -> Columns:
        return {name: [column[place] for place in places] for name, column in table.items()}

    # descriptors last, so that they are computed of as few objects as possible
    for condition in sorted(conditions, key=lambda each: not table.keys() >= set(each.columns)):
        for name in condition.columns:
            _describe(gallery, table, name)
        read = {name: table[name] for name in condition.columns}
        places = range(len(table[OBJECT]))
        met = [i for i in places if condition.holds({name: read[name][i] for name in read})]
        ranges = {name: (min(column), max(column)) for name, column in read.items() if column}
        dropped.append(Filtered(condition.text, len(places) - len(met), ranges))
        table = take(met)
    if top is not None:
        scores = table["score"]
        table = take(sorted(range(len(scores)), key=lambda place: -scores[place])[:top])
    return table, dropped


def _describe(gallery: Gallery, table: Columns, name: str) -> None:
    """Add a descriptor to a table unless it is there."""
    if name not in table:
        different = list(dict.fromkeys(table[OBJECT]))
        found = dict(zip(different, gallery.describe(different, name), strict=True))
        table[name] = [found[each] for each in table[OBJECT]]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
