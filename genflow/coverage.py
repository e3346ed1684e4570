"""Which structures a generator can be asked for: refused outside, with a word of caution at the edge.

Shapes: N training structures, C conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from genflow.errors import GenflowError, did_you_mean
from genflow.schema import Name, Schema, StructureName, brief, role_of
from genflow.structure import Structure

#: with fewer training structures as far out as the one asked for, it lies at the edge
FEW = 3

Range = tuple[float, float]


def check(structure: Structure, training: Sequence[Mapping[str, Any]], coverage: Mapping[str, Range]) -> None:
    """Refuse a structure that a generator cannot know.

    Args:
        structure: what is asked for.
        training: fields of every training structure.
        coverage: field -> lowest and highest value that the generator is meant for; both numbers of a pair
            must lie inside.

    Raises:
        GenflowError: a field is outside its range, or differs from every training structure and never varied
            among them.
    """
    fields = structure.fields()
    for key, (low, high) in coverage.items():
        if key not in fields and any(key in other for other in training):
            continue  # of another reward
        if key not in fields:
            possible = structure.known_fields()
            if key in possible:  # of another reward
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
        values = [other.get(key) for other in training]
        known = sorted({str(value) for value in values})
        # between two names there is nothing, as there is between two numbers
        if isinstance(fields[key], str) and known and fields[key] not in known:
            raise GenflowError(
                f"this generator was trained on {key}={brief(', '.join(known), 400)}, not"
                f" {_text(fields[key])}"
            )
        # a number that never varied was not learned; what a file holds is judged by the descriptions of its
        # units
        if _numbers(fields[key]) and len(known) == 1:
            fixed[key] = fields[key]
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
    """What a model card says of one structure: mean metrics of `num` generated policies.

    `role` is "selection" or "test".
    """

    structure: dict[str, Any]
    name: StructureName
    role: Literal["selection", "test"]
    num: int
    metrics: dict[Name, float | None]


def caution(structure: Structure, training: Sequence[Structure], quality: Sequence[Quality]) -> str | None:
    """Warn of a structure at the edge of the training structures, with the quality measured nearest.

    At the edge are structures with a condition that few training structures have to such a degree, and those
    for which few are at least as large in all sizes of the task at once.

    Args:
        structure: what is asked for.
        training: every training structure.
        quality: of the model card.
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
    # what the user set comes first, then the sizes together, then what follows from both
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
    """Euclidean distance of the logarithms of two conditions."""
    return float((a.condition().abs().log1p() - b.condition().abs().log1p()).norm())


def _sizes(structure: Structure) -> dict[str, float]:
    config = structure.environment.config
    sizes = [key for key in type(config).model_fields if role_of(type(config), key) == "size"]
    return {key: getattr(config, key) for key in sizes if isinstance(getattr(config, key), int | float)}


def _numbers(value: Any) -> list[float]:
    return [v for v in (value if isinstance(value, list | tuple) else [value]) if isinstance(v, int | float)]


def _text(value: Any) -> str:
    return brief("+".join(map(_text, value[:10])) if isinstance(value, list | tuple) else str(value))
