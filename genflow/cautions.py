"""Which requests deserve a word of caution: far from what was trained on, or measured to be poor.

Cautions speak of the fields that a user sets. They quote only measurements that are comparable: of the same
names (such as the reward), and of tasks at least about as large in every size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from statistics import median
from typing import Any

import torch

from genflow.coverage import Quality, numbers_of
from genflow.errors import GenflowError
from genflow.interfaces.metric import Metric
from genflow.measure import all_metrics
from genflow.schema import brief, role_of
from genflow.structure import Structure

#: a structure lies at the edge if fewer training structures than this are as extreme as it is
FEW = 3
#: the share of each size of a request that a measured structure must have to be comparable
COMPARABLE = 0.9
#: stands for 0 where numbers are compared by their logarithms
TINY = 1e-6

Fields = Mapping[str, Any]


def caution(
    structure: Structure,
    training: Sequence[Fields],
    quality: Sequence[Quality],
    built: Callable[[], Sequence[Structure]] | None = None,
) -> str | None:
    """Return a warning for a structure beyond what a generator learned well, or None.

    It is outside if a number of its own is outside the range of the training structures, and at the edge if
    few of them are as extreme in one, or as large in all sizes at once. It is also warned of where what was
    measured nearest to it is poor, see `Metric.poor`, or no better than untrained policies.

    Args:
        structure: the requested structure.
        training: the fields of every training structure.
        quality: the measurements on the model card.
        built: returns the training structures, to look at the conditions that follow from fields as well;
            None leaves that out, which is much faster for a task whose description takes long.
    """
    own, fixed = structure.fields(), structure.fixed_fields()
    alike = [other for other in training if all(other.get(key) == fixed[key] for key in fixed)]
    if not alike or any(all(key in o and o[key] == own[key] for key in own) for o in alike):
        return None
    where = _by_fields(structure, alike) or (_by_conditions(structure, built()) if built else None)
    named = [entry for entry in quality if _same_names(structure, entry)]
    comparable = _nearest(structure, [entry for entry in named if _as_large(structure, entry.structure)])
    if _poor(named):
        # what was never learned is worth more words than the nearest measurement
        names = [f"{key}={own[key]}" for key in own.keys() - fixed.keys() if isinstance(own[key], str)]
        said = f"{_figures(named)}, which is poor" + (f", for {brief(', '.join(names))}" if names else "")
    elif comparable:
        said = _figures(comparable) + (", which is poor" if _poor(comparable) else _untrained(comparable))
    else:
        said = "nothing comparable was measured"
    if where:
        return f"{structure.name} is {where}; {said}"
    if _poor(named) or _poor(comparable) or _untrained(comparable):
        return f"{structure.name}: expect poor policies; {said}"
    return None


def sizes_of(structure: Structure) -> dict[str, float]:
    """Return the numbers among the sizes of the task, without those of the architecture."""
    config = structure.environment.config
    sizes = [key for key in type(config).model_fields if role_of(type(config), key) == "size"]
    return {key: getattr(config, key) for key in sizes if isinstance(getattr(config, key), int | float)}


def _scalars(fields: Fields) -> dict[str, list[float]]:
    """The fields that are a number, or a list of floats; whole numbers in lists may be names."""
    found = {}
    for key, value in fields.items():
        scalar = isinstance(value, int | float) and not isinstance(value, bool)
        floats = isinstance(value, list | tuple) and all(isinstance(each, float) for each in value)
        if (value and (scalar or floats)) or (value == 0 and scalar):
            found[key] = numbers_of(value)
    return found


def _by_fields(structure: Structure, training: Sequence[Fields]) -> str | None:
    """Say where a structure lies by the fields that the user set, sizes first."""
    few, roles = _few(training), structure.roles()
    known = [_scalars(other) for other in training]
    outside: list[str] = []
    edge: list[str] = []
    own = {key: values for key, values in _scalars(structure.fields()).items() if roles[key] != "fixed"}
    for key in sorted(own, key=lambda key: roles[key] != "size"):
        for place, value in enumerate(own[key]):
            others = [each[key][place] for each in known if len(each.get(key, ())) > place]
            tight = 1e-6 * abs(value)
            as_far = min(
                sum(other >= value - tight for other in others),
                sum(other <= value + tight for other in others),
            )
            if others and as_far < few:
                low, high = min(others), max(others)
                ends = f"{low:g} to {high:g}" if low < high else f"{low:g}"
                (edge if as_far else outside).append(f"{key} {value:g}, trained on {ends}")
    if outside:
        return f"outside what this generator was trained on: {brief('; '.join(outside), 400)}"
    sizes = sizes_of(structure)
    as_large = sum(all(other.get(key, 0) >= value for key, value in sizes.items()) for other in training)
    if not edge and as_large < few:
        edge.append(f"{as_large or 'none'} of its training structures as large in {' and '.join(sizes)}")
    return f"at the edge of this generator's training: {brief('; '.join(edge), 400)}" if edge else None


def _by_conditions(structure: Structure, training: Sequence[Structure]) -> str | None:
    """Say which fields lie at the edge by a condition that follows from them."""
    training = [other for other in training if other.fixed_fields() == structure.fixed_fields()]
    own, all_NC = structure.condition(), torch.stack([other.condition() for other in training])
    tight = 1e-6 * own.abs()
    as_far = torch.minimum((all_NC >= own - tight).sum(0), (all_NC <= own + tight).sum(0))
    names = {**structure.environment.condition(), **structure.arch.condition()}
    derived = torch.tensor([name not in structure.fields() for name in names])
    odd = (as_far < _few(training)) & derived
    if not odd.any():
        return None
    place = int(torch.where(odd, as_far, len(training)).argmin())
    causes = [key for key in structure.roles() if _moves(structure, training, key, place)]
    count = int(as_far[place])
    what = " and ".join(causes) or list(names)[place]
    return (
        f"at the edge of this generator's training: {count or 'none'} of its {len(training)} training"
        f" structures as unusual in {what}"
    )


def _moves(structure: Structure, training: Sequence[Structure], key: str, place: int) -> bool:
    """Return whether a field decides a number of the condition, by values that training structures have."""
    fields, own = structure.fields(), structure.condition()[place]
    values = (
        f[key] for f in (other.fields() for other in training) if key in f and f[key] != fields.get(key)
    )
    for value in islice(values, 3):
        try:
            other = Structure.restore(structure.env, {**fields, key: value}, structure.policy)
        except GenflowError:  # fields that do not go together
            continue
        if other.condition()[place] != own:
            return True
    return False


def _few(training: Sequence[Any]) -> int:
    return min(FEW, max(1, len(training) // 3))


def _same_names(structure: Structure, entry: Quality) -> bool:
    roles, fields = structure.roles(), structure.fields()
    told = {k: v for k, v in fields.items() if roles[k] == "fixed" or isinstance(v, str)}
    return all(entry.structure.get(key) == value for key, value in told.items())


def _as_large(structure: Structure, other: Fields) -> bool:
    sizes = sizes_of(structure)
    found = {key: other.get(key) for key in sizes}
    return all(isinstance(v, int | float) and v >= COMPARABLE * sizes[key] for key, v in found.items())


def _nearest(structure: Structure, entries: Sequence[Quality]) -> list[Quality]:
    """Return the entries whose numbers are nearest in logarithm; several if only their names differ."""
    own = _scalars(structure.fields())

    def distance(entry: Quality) -> float:
        other = _scalars(entry.structure)
        pairs = [pair for key in own for pair in zip(own[key], other.get(key, ()), strict=False)]
        return sum((math.log(abs(a) + TINY) - math.log(abs(b) + TINY)) ** 2 for a, b in pairs)

    distances = [distance(entry) for entry in entries]
    return [e for e, far in zip(entries, distances, strict=True) if far <= min(distances) + 1e-9]


def _values(entries: Sequence[Quality]) -> dict[str, list[float]]:
    """The values of each metric, of those entries that have them."""
    names = dict.fromkeys(name for entry in entries for name in entry.metrics)
    values = {n: [v for e in entries if (v := e.metrics.get(n)) is not None] for n in names}
    return {name: each for name, each in values.items() if each}


def _poor(entries: Sequence[Quality]) -> bool:
    """Return whether the median of a metric is poor."""
    known: dict[str, Metric] = all_metrics() if entries else {}
    for name, values in _values(entries).items():
        limit = known[name].poor if name in known else None
        if limit is not None:
            sign = 1 if known[name].better == "lower" else -1
            if sign * median(values) >= sign * limit:
                return True
    return False


def _untrained(entries: Sequence[Quality]) -> str:
    """Say that untrained policies are as good as the generated ones, or nothing."""
    known: dict[str, Metric] = all_metrics() if entries else {}
    for entry in entries:
        for name, value in entry.metrics.items():
            base = entry.untrained.get(name)
            if name not in known or value is None or base is None:
                continue
            if (value >= base) if known[name].better == "lower" else (value <= base):
                return f", no better than untrained policies ({name} {base:.2g})"
    return ""


def _figures(entries: Sequence[Quality]) -> str:
    """Quote the metrics of one entry, or the range over several."""
    figures = []
    for name, values in _values(entries).items():
        low, high = f"{min(values):.2g}", f"{max(values):.2g}"
        figures.append(f"{name} {low}" if low == high else f"{name} {low} to {high}")
    at = entries[0].name if len(entries) == 1 else f"{len(entries)} structures"
    return f"measured at {at}: {brief(', '.join(figures), 400)}"
