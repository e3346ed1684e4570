"""Which structures a generator can be asked for, and which requests deserve a warning.

Shapes: N training structures, C conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from genflow.errors import GenflowError, did_you_mean
from genflow.schema import Name, Schema, StructureName, brief, role_of
from genflow.structure import MAX_VALUE, Structure, text_digest
from genflow.value_text import to_text

#: a structure lies at the edge if fewer training structures than this are as extreme as it is
FEW = 3

Range = tuple[float, float]


def check(
    structure: Structure,
    training: Sequence[Mapping[str, Any]],
    coverage: Mapping[str, Range],
    reads_units: bool = False,
) -> None:
    """Raise an error for a structure that a generator does not cover.

    Args:
        structure: the requested structure.
        training: the fields of every training structure.
        coverage: field -> lowest and highest value that the generator serves. Where a field holds several
            numbers, all of them must lie inside.
        reads_units: `Encoder.reads_units`. True leaves texts and nested values to `Encoder.check`.

    Raises:
        GenflowError: a field is outside its range, or differs from every training structure and was not
            learned: its role is "fixed", it never varied, or it contains names.
    """
    fields = structure.fields()
    for key, (low, high) in coverage.items():
        if key not in fields and any(key in other for other in training):
            continue  # a field of another reward
        if key not in fields:
            possible = structure.known_fields()
            if key in possible:  # a field of another reward
                continue
            raise GenflowError(
                f"coverage names {key!r}, which is no field of a structure{did_you_mean(key, possible)}"
            )
        if not _numbers(fields[key]):
            raise GenflowError(f"coverage names {key!r}, which is no number; leave it out")
        if any(not low <= value <= high for value in _numbers(fields[key])):
            ranges = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in coverage.items())
            raise GenflowError(
                f"{key}={_text(fields[key])} is outside what this generator covers: {brief(ranges, 400)}"
            )
    roles = structure.roles()
    fixed = {key: value for key, value in fields.items() if roles[key] == "fixed"}
    for key in [key for key in fields if roles[key] == "described"]:
        value = fields[key]
        values = [other[key] for other in training if key in other]  # another reward lacks the field
        # unlike numbers, names cannot be interpolated
        if _named(value) and value not in values and (isinstance(value, str) or not reads_units):
            texts = sorted({_text(known) for known in values})
            raise GenflowError(
                f"this generator was trained on {key}={brief(', '.join(texts) or 'None', 400)}, not"
                f" {_text(value)}"
            )
        # the effect of a value that never varied was not learned
        numbers = any(map(_numbers, [value, *values]))
        if (numbers or not reads_units) and all(known == values[0] for known in values):
            fixed[key] = value
    if not any(all(other.get(key) == value for key, value in fixed.items()) for other in training):
        others = [{key: other.get(key) for key in fixed} for other in training]
        nearest = min(
            others, key=lambda t: sum(t[key] != fixed[key] for key in fixed), default=dict.fromkeys(fixed)
        )
        odd = [
            f"{key}={_text(nearest[key])}, not {_text(fixed[key])}"
            for key in fixed
            if nearest[key] != fixed[key]
        ]
        raise GenflowError(
            f"this generator was trained on {brief('; '.join(odd), 400)}, and has not learned the difference"
        )


class Quality(Schema):
    """The entry of a model card for one structure: mean metrics of generated policies.

    Attributes:
        structure: fields of the structure.
        name: short name of the structure.
        role: whether the structure was used for selection, or for the final test only.
        num: number of policies that the metrics are averaged over.
        metrics: metric name -> mean; None where it is not finite.
    """

    structure: dict[str, Any]
    name: StructureName
    role: Literal["selection", "test"]
    num: int
    metrics: dict[Name, float | None]


def caution(structure: Structure, training: Sequence[Structure], quality: Sequence[Quality]) -> str | None:
    """Return a warning for a structure at the edge of the training structures, or None.

    A structure is at the edge if few training structures have a condition as extreme, or if few are at least
    as large in all sizes of the task at once. The warning quotes the quality of the nearest measured
    structure.

    Args:
        structure: the requested structure.
        training: every training structure.
        quality: the measurements on the model card.
    """
    training = [other for other in training if other.fixed_fields() == structure.fixed_fields()]
    if structure in training or not training:
        return None
    few = min(FEW, max(1, len(training) // 3))
    numbers = {**structure.environment.condition(), **structure.arch.condition()}
    own, all_NC = structure.condition(), torch.stack([other.condition() for other in training])
    tight = 1e-6 * own.abs()
    as_far = torch.minimum((all_NC >= own - tight).sum(0), (all_NC <= own + tight).sum(0)).tolist()
    sizes = _sizes(structure)
    as_large = sum(all(_sizes(other)[key] >= value for key, value in sizes.items()) for other in training)
    fields = structure.fields()
    # report a field that the user set before a condition that is derived from such fields
    set_by_user = [fields.get(name) == value for name, value in numbers.items()]
    place = min(range(len(as_far)), key=lambda i: (as_far[i] >= few, not set_by_user[i], as_far[i]))
    if as_far[place] < few and (set_by_user[place] or as_large >= few):
        low, high = float(all_NC[:, place].min()), float(all_NC[:, place].max())
        where = f"{list(numbers)[place]} {own[place]:g}, trained on {low:g} to {high:g}"
    elif as_large < few:
        where = f"{as_large or 'none'} of its training structures as large in {' and '.join(sizes)}"
    else:
        return None
    text = f"{structure.name} is at the edge of this generator's training: {where}"
    if quality:
        built = [Structure.restore(structure.env, entry.structure, structure.policy) for entry in quality]
        nearest = quality[min(range(len(built)), key=lambda i: distance(built[i], structure))]
        figures = [f"{name} {value:.2g}" for name, value in nearest.metrics.items() if value is not None]
        text += f"; measured at {nearest.name}: {brief(', '.join(figures), 400)}"
    return text


def distance(a: Structure, b: Structure) -> float:
    """Return the Euclidean distance between two conditions after log(1 + |x|)."""
    return float((a.condition().abs().log1p() - b.condition().abs().log1p()).norm())


def _sizes(structure: Structure) -> dict[str, float]:
    config = structure.environment.config
    sizes = [key for key in type(config).model_fields if role_of(type(config), key) == "size"]
    return {key: getattr(config, key) for key in sizes if isinstance(getattr(config, key), int | float)}


def _numbers(value: Any) -> list[float]:
    return [v for v in (value if isinstance(value, list | tuple) else [value]) if isinstance(v, int | float)]


def _named(value: Any) -> bool:
    """Return whether a value is or contains a text."""
    if isinstance(value, Mapping):
        return True
    return any(map(_named, value)) if isinstance(value, list | tuple) else isinstance(value, str)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) == len(_numbers(value)):
        return brief("+".join(map(str, value[:10])))
    text = value if isinstance(value, str) else to_text(value)
    return brief(text) if len(text) <= MAX_VALUE else f"{brief(text, MAX_VALUE)} {text_digest(text)}"
