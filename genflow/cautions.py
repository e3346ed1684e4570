"""Which requests deserve a word of caution: far from what was trained on, or measured to be poor.

Cautions speak of the fields that a user sets. They quote only measurements that are comparable: of the same
names (such as the reward), and of tasks at least about as large in every size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch

from genflow.coverage import Quality, numbers_of
from genflow.errors import GenflowError
from genflow.interfaces.metric import Metric
from genflow.measure import usable_metrics
from genflow.schema import brief, role_of
from genflow.structure import Structure

#: fewer training structures than this as extreme as a request are few
FEW = 3
#: how far out a number lies far out that no field says, or a count of names, in widths of the range that was
#: trained on: of a dozen numbers that follow from somebody's own names one lies a little out nearly always
FAR = 0.5
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
    blind: str | None = None,
) -> str | None:
    """Return a warning for a structure beyond what a generator learned well, or None.

    It is given where a number of the structure is outside the range of the training structures, where few of
    them are as extreme in one or as large in all sizes at once, where the structure has far more or fewer
    names, such as molecule blocks, or what follows from them lies far out, see `FAR`, and where what was
    measured nearest is poor, see `Metric.poor`, or no better than untrained policies. An encoder
    that reads no units is warned of with every structure that it was not trained on.

    Args:
        structure: the requested structure.
        training: the fields of every training structure.
        quality: the measurements on the model card.
        built: returns the training structures. It is called only if a field holds names, such as molecule
            blocks, of which nothing but the conditions that follow tells how unusual they are; None leaves
            that out, as building hundreds of molecules takes seconds.
        blind: the name of the generator's encoder if it does not read units, see `Encoder.reads_units`.
    """
    own, fixed = structure.filled(), structure.fixed_fields()
    training = [structure.filled(other) for other in training]
    quality = [e.model_copy(update={"structure": structure.filled(e.structure)}) for e in quality]
    alike = [other for other in training if all(other.get(key) == fixed[key] for key in fixed)]
    if not alike or any(all(key in o and o[key] == own[key] for key in own) for o in alike):
        return None
    where = _by_fields(structure, alike)
    if where is None and built is not None and _holds_names(structure):
        where = _by_conditions(structure, built())
    roles = structure.roles()
    names = {
        key: value
        for key, value in own.items()
        if key in fixed or (isinstance(value, str) and roles[key] != "told")
    }
    named = [entry for entry in quality if all(entry.structure.get(key) == names[key] for key in names)]
    sizes = sizes_of(structure)
    comparable = _nearest(own, [entry for entry in named if _as_large(entry.structure, sizes, COMPARABLE)])
    known = usable_metrics({name for entry in named for name in entry.metrics})
    poor, no_better = _mostly_poor(named, known), _untrained(comparable, known)
    if poor:
        # what was never learned is worth more words than the nearest measurement
        apart = [
            f"{key}={value}"
            for key, value in names.items()
            if isinstance(value, str) and any(entry.structure.get(key) != value for entry in quality)
        ]
        said = f"{_figures(named)}, which is poor" + (f", for {brief(', '.join(apart))}" if apart else "")
    elif comparable:
        poor = _mostly_poor(comparable, known)
        said = _figures(comparable) + (", which is poor" if poor else no_better)
    else:
        said = "nothing comparable was measured"
    text = f" {where}; {said}" if where else f": expect poor policies; {said}" if poor or no_better else ""
    if blind is not None:
        text = f"{text}; " if text else " is new to this generator: "
        text += f"its encoder {blind} has not been seen to carry over to structures it was not trained on;"
        text += " compare with `genflow evaluate`"
    return structure.name + text if text else None


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


def _holds_names(structure: Structure) -> bool:
    fields, roles = structure.fields(), structure.roles()
    told = _scalars(fields)
    return any(
        isinstance(value, list | tuple | dict) and len(value) and key not in told and roles[key] != "fixed"
        for key, value in fields.items()
    )


def _by_fields(structure: Structure, training: Sequence[Fields]) -> str | None:
    """Say where a structure lies by the fields that the user set, sizes first."""
    few, roles = _few(training), structure.roles()
    known = [_scalars(other) for other in training]
    outside: list[str] = []
    rare: list[str] = []
    outside += _counts_far_out(structure, training) + _told_far_out(structure, training)
    own = {key: values for key, values in _scalars(structure.fields()).items() if roles[key] != "fixed"}
    for key in sorted(own, key=lambda key: roles[key] != "size"):
        if roles[key] == "told" and isinstance(structure.fields()[key], list | tuple):
            continue  # what each unit of a task pays, which places of other tasks say nothing of
        for place, value in enumerate(own[key]):
            others = [each[key][place] for each in known if len(each.get(key, ())) > place]
            tight = 1e-6 * abs(value)
            above = sum(other >= value - tight for other in others)
            below = sum(other <= value + tight for other in others)
            as_far = min(above, below)
            if not others or as_far >= few:
                continue
            low, high = min(others), max(others)
            if as_far:
                rare.append(f"{as_far} with {key} {value:g} or {'more' if above == as_far else 'less'}")
            else:
                ends = f"{low:g} to {high:g}" if low < high else f"{low:g}"
                outside.append(f"{key} {value:g}, trained on {ends}")
    if outside:
        return f"is outside what this generator was trained on: {brief('; '.join(outside), 400)}"
    sizes = sizes_of(structure)
    as_large = sum(_as_large(other, sizes) for other in training)
    if not rare and as_large < few:
        rare.append(f"{as_large or 'none'} as large in {' and '.join(sizes)}")
    return _resembles_few(training, "; ".join(rare)) if rare else None


def _resembles_few(training: Sequence[Any], what: str) -> str:
    return f"resembles few of this generator's {len(training):,} training structures: {brief(what, 400)}"


def _by_conditions(structure: Structure, training: Sequence[Structure]) -> str | None:
    """Say which numbers of the condition, that follow from fields, lie far out, the farthest first."""
    training = [other for other in training if other.fixed_fields() == structure.fixed_fields()]
    own, all_NC = structure.condition().tolist(), torch.stack([other.condition() for other in training])
    names = {**structure.environment.condition(), **structure.arch.condition()}
    odd: list[tuple[float, int, str]] = []
    for place, (name, value) in enumerate(zip(names, own, strict=True)):
        low, high = float(all_NC[:, place].min()), float(all_NC[:, place].max())
        if name not in structure.fields() and (out := _far_out(value, low, high)):
            odd.append((-out, place, _said(name, value, low, high)))
    if not odd:
        return None
    odd.sort()
    causes = [key for key in structure.roles() if _moves(structure, training, key, odd[0][1])]
    where = f" in {' and '.join(causes)}" if causes else ""
    what = brief("; ".join(each for *_, each in odd), 400)
    return (
        f"is far outside what this generator was trained on{where}: {what}; compare with `genflow evaluate`"
    )


def _counts_far_out(structure: Structure, training: Sequence[Fields]) -> list[str]:
    """Say which fields hold, or stand for, far more or fewer names than those of the training structures."""
    found, fields, roles = [], structure.fields(), structure.roles()
    for key, value in fields.items():
        if roles[key] != "described":
            continue
        values = [value, *(other[key] for other in training if key in other)]
        counts = [_count(each) for each in values]
        if len(counts) == 1 or None in counts or not any(isinstance(each, list | tuple) for each in values):
            continue
        own, *others = (float(count) for count in counts if count is not None)
        if _far_out(own, min(others), max(others)):
            found.append(_said(key, own, min(others), max(others)))
    return found


def _told_far_out(structure: Structure, training: Sequence[Fields]) -> list[str]:
    """Say which told lists and tables hold a number far beyond all of training's, wherever it stands."""
    found, roles = [], structure.roles()
    for key, value in structure.fields().items():
        if roles[key] != "told" or not isinstance(value, list | tuple):
            continue
        others = [number for other in training for number in numbers_of(other.get(key))]
        for number in dict.fromkeys((min(own), max(own)) if others and (own := numbers_of(value)) else ()):
            if _far_out(number, min(others), max(others)):
                found.append(_said(key, number, min(others), max(others)))
    return found


def _count(value: Any) -> int | None:
    """How many names a field holds, or stands for if it is a whole number; None: it holds something else."""
    if isinstance(value, list | tuple):
        return None if any(isinstance(each, float) for each in value) else len(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _far_out(value: float, low: float, high: float) -> float:
    """By how much a number is farther outside of a range than `FAR` allows, in widths of the range; or 0."""
    out = max(low - value, value - high) - 1e-6 * abs(value)
    width = high - low
    return 0.0 if out <= FAR * width else out / max(width, TINY)


def _said(name: str, value: float, low: float, high: float) -> str:
    return f"{name} {value:.4g}, trained on {f'{low:.4g} to {high:.4g}' if low < high else f'{low:.4g}'}"


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


def _as_large(other: Fields, sizes: Mapping[str, float], share: float = 1.0) -> bool:
    found = {key: other.get(key) for key in sizes}
    return all(isinstance(v, int | float) and v >= share * sizes[key] for key, v in found.items())


def _nearest(fields: Fields, entries: Sequence[Quality]) -> list[Quality]:
    """Return the entries whose numbers are nearest in logarithm; several if only their names differ."""
    own = _scalars(fields)

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


def _mostly_poor(entries: Sequence[Quality], known: Mapping[str, Metric]) -> bool:
    """Return whether more than half of the entries are poor by some metric."""

    def poor(name: str, value: float | None) -> bool:
        limit = known[name].poor if name in known else None
        if limit is None or value is None:
            return False
        return value >= limit if known[name].better == "lower" else value <= limit

    count = sum(any(poor(name, value) for name, value in each.metrics.items()) for each in entries)
    return 2 * count > len(entries)


def _untrained(entries: Sequence[Quality], known: Mapping[str, Metric]) -> str:
    """Say that untrained policies are as good as the generated ones, or nothing."""
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
