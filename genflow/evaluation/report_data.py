"""Reads and checks the files of a folder that a report is made of."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from os.path import exists
from pathlib import Path
from typing import Annotated, Any, TypeGuard

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from genflow.errors import GenflowError
from genflow.generator import CARD
from genflow.interfaces.metric import Metric
from genflow.measure import all_metrics
from genflow.population import Population, source_of
from genflow.schema import Schema, validate
from genflow.storage.files import read_json
from genflow.storage.populations import FACTS, find_populations, inside, read_facts
from genflow.storage.runs import MANIFEST
from genflow.structure import Structure

#: the most table rows, metrics, points of a curve, and sources of policies of a structure
MAX_ENTRIES, MAX_METRICS, MAX_POINTS, MAX_SOURCES = 2000, 64, 100_000, 12
#: the most characters of a string
MAX_TEXT = 10_000
#: matplotlib cannot draw numbers that are smaller than this or larger than its inverse
MIN_DRAWN = 1e-30
EVALUATION = "evaluation.json"
AUTOENCODER = "autoencoder.json"

#: source of policies -> its explanation, in the order of display
SOURCES = {
    "trained": "trained from scratch on the structure itself",
    "generated": "made by the generator; no training on the structure afterwards",
    "pretrained": "made by the generator that ships; no training on the structure afterwards",
    "finetuned": "these policies, trained further",
    "from_random": "trained from a random start with the same budget",
    "random": "untrained",
    "uniform": "every allowed action is as likely",
    "mean": "the average of the trained weights",
    "nearest": "trained policies of the nearest other structure, carried over",
    "perturbed": "trained weights plus noise",
}


class _Lenient(Schema):
    """A schema of a file that ignores the keys which the report does not use."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class MetricSummary(_Lenient):
    """Mean, smallest and largest value of a metric over a population, None where it is not finite."""

    mean: float | None = None
    min: float | None = None
    max: float | None = None


def _drawable(value: float | None) -> TypeGuard[float]:
    """Whether a value is a finite number in the range that matplotlib can draw."""
    return (
        value is not None
        and math.isfinite(value)
        and (value == 0 or MIN_DRAWN <= abs(value) <= 1 / MIN_DRAWN)
    )


def _points(value: Any) -> Any:
    pairs = isinstance(value, list) and all(
        isinstance(point, list | tuple) and len(point) == 2 for point in value
    )
    if not pairs or not all(
        isinstance(step, int | float) and isinstance(figure, int | float | None) for step, figure in value
    ):
        raise ValueError("must be a list of [step, number]")  # one error, however many points are invalid
    return value


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise ValueError(f"is longer than {MAX_TEXT:,} characters")
    return value


#: the history of one quantity, as (step, value) pairs
Curve = Annotated[list[tuple[float, float | None]], BeforeValidator(_points), Field(max_length=MAX_POINTS)]
#: any string of a file. pydantic's own length limit would refuse half a surrogate pair
Text = Annotated[str, BeforeValidator(_short)]


class Entry(_Lenient):
    """The entry of one population or baseline in ``evaluation.json``."""

    env: Text
    name: Text
    source: Text
    folder: Text | None = None
    seen: bool
    num: int
    metrics: dict[Text, MetricSummary] = Field(max_length=MAX_METRICS)
    seconds: float | None = None

    def value(self, metric: str) -> float | None:
        """Return the mean of a metric, or None if it is missing or cannot be drawn."""
        mean = self.metrics.get(metric, MetricSummary()).mean
        return mean if _drawable(mean) else None


class Evaluation(_Lenient):
    """The content of ``evaluation.json``."""

    entries: tuple[Entry, ...] = Field(default=(), max_length=MAX_ENTRIES)
    config: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _a_table(self) -> Evaluation:
        if len({name for entry in self.entries for name in entry.metrics}) > MAX_METRICS:
            raise ValueError(f"there are more than {MAX_METRICS} metrics")
        return self

    def groups(self) -> dict[tuple[str, str], list[Entry]]:
        """Group the entries by (environment, structure name), in the order of the file."""
        grouped: dict[tuple[str, str], list[Entry]] = {}
        for entry in self.entries:
            grouped.setdefault((entry.env, entry.name), []).append(entry)
        return grouped

    def label(self, entry: Entry) -> str:
        """Return the source of an entry, with its folder where others of its structure have that source."""
        alike = [e for e in self.groups()[entry.env, entry.name] if e.source == entry.source]
        return f"{entry.source} in {entry.folder}" if len(alike) > 1 and entry.folder else entry.source


class Training(_Lenient):
    """The learning curves of a training run and its duration in seconds."""

    history: dict[Text, Curve] = Field(default_factory=dict)
    seconds: float | None = None

    def points(self, name: str) -> list[tuple[float, float]]:
        """Return the points of a curve that can be drawn."""
        return [
            (step, value)
            for step, value in self.history.get(name, [])
            if _drawable(step) and _drawable(value)
        ]


@dataclass(frozen=True)
class SavedPopulation:
    """A population on disk whose weights are read only when they are needed.

    Attributes:
        folder: where it is.
        place: the same, relative to the folder of the report.
        structure, provenance, training: as its file says.
    """

    folder: Path
    place: str
    structure: Structure
    provenance: Mapping[str, Any]
    training: Training

    @property
    def label(self) -> str:
        """The name of the policies' source in the report."""
        return source_of(self.provenance)

    @property
    def finetuned(self) -> bool:
        """Whether the population is a result of fine-tuning, or of the random start beside it."""
        return "started_from" in self.provenance

    @property
    def seen(self) -> bool:
        """Whether the policies' training, or that of their generator, included this structure."""
        return self.structure.fields() in self.provenance.get("training_structures", [])

    def load(self, limit: int) -> Population:
        """Load the first `limit` policies."""
        return Population.load(self.folder)[:limit]


Fits = Callable[[Structure, Mapping[str, SavedPopulation]], bool]


@dataclass(frozen=True)
class ReportData:
    """Everything in a folder that a report can show."""

    manifest: Mapping[str, Any]
    evaluation: Evaluation
    saved: Sequence[SavedPopulation]
    autoencoder: Training
    generator: Training
    metrics: Mapping[str, Metric]

    @property
    def seed(self) -> int | None:
        """The seed of the run, or None if it is not known."""
        seed = self.evaluation.config.get("seed", self.manifest.get("seed"))
        return seed if isinstance(seed, int) and 0 <= seed < 2**31 else None

    def populations(self) -> dict[Structure, dict[str, SavedPopulation]]:
        """Group the saved populations by structure and then by label, in the order of `SOURCES`."""
        order = list(SOURCES)
        grouped: dict[Structure, dict[str, SavedPopulation]] = {}
        for saved in sorted(
            self.saved, key=lambda s: (order.index(s.label) if s.label in order else len(order), s.label)
        ):
            labels = grouped.setdefault(saved.structure, {})
            if len(labels) < MAX_SOURCES:
                same = saved.label in labels
                labels[f"{saved.label} in {saved.place}" if same else saved.label] = saved
        return grouped

    def seen(self, structure: Structure) -> bool | None:
        """Whether the generator was trained on a structure, or None if the files do not say."""
        told = [e.seen for e in self.evaluation.entries if (e.env, e.name) == (structure.env, structure.name)]
        told += [s.seen for s in self.saved if s.structure == structure and s.label == "generated"]
        return told[0] if told else None

    def choose(self, limit: int, fits: Fits) -> list[tuple[Structure, dict[str, SavedPopulation]]]:
        """Choose at most `limit` of the structures that pass the filter `fits`.

        Unseen and other structures alternate, and those with generated policies come first.
        """
        fitting = sorted(
            (item for item in self.populations().items() if fits(*item)),
            key=lambda item: "generated" not in item[1],
        )
        unseen = [item for item in fitting if self.seen(item[0]) is False]
        others = [item for item in fitting if self.seen(item[0]) is not False]
        return [item for item in chain.from_iterable(zip_longest(unseen, others)) if item is not None][:limit]


def read_report_data(folder: Path) -> ReportData:
    """Read the folder of a run, a fine-tuning or a zoo, or any with populations or an evaluation.

    Raises:
        GenflowError: the folder has nothing to report, or a file is invalid.
    """
    saved = []
    for path in find_populations(folder):
        structure, facts = read_facts(path)
        provenance = facts["provenance"]
        saved.append(
            SavedPopulation(
                path,
                os.path.relpath(path, folder),
                structure,
                provenance,
                validate(Training, provenance, str(path / FACTS)),
            )
        )
    evaluation = validate(Evaluation, *_read(folder, EVALUATION))
    autoencoder = validate(Training, *_read(folder, AUTOENCODER, f"autoencoder/{AUTOENCODER}"))
    card, where = _read(folder, CARD, f"generator/{CARD}")
    generator = validate(Training, card.get("provenance") or {}, where)
    if not (saved or evaluation.entries or autoencoder.history or generator.history):
        raise GenflowError(
            f"{folder} holds no population and no {EVALUATION}: nothing to report; make a run with `genflow"
            " run --out DIR`"
        )
    return ReportData(_read(folder, MANIFEST)[0], evaluation, saved, autoencoder, generator, all_metrics())


def _read(folder: Path, *names: str) -> tuple[dict[str, Any], str]:
    """Read the first of the files that exists, and return its content and its path for error messages."""
    path = next((inside(folder, name) for name in names if exists(folder / name)), None)
    return (read_json(path), str(path)) if path else ({}, "")
