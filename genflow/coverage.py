"""Which structures a generator can be asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from genflow.errors import GenflowError, did_you_mean
from genflow.schema import Name, Schema, StructureName, brief, reward_field
from genflow.structure import Structure
from genflow.structure_fields import MAX_VALUE, text_digest
from genflow.value_text import to_text

_WAY_OUT = "; generate for one of those, then `genflow finetune POPULATION --structure ...`"
#: the key of a coverage for the number of states of the task
N_STATES = "n_states"

Range = tuple[float, float]


def complete(structure: Structure, training: Sequence[Mapping[str, Any]]) -> Structure:
    """Return a structure in which fixed fields that were left open, None, are those of training.

    The other way round, a field that training left open is so here too where that is the same task.

    Args:
        structure: the requested structure.
        training: the fields of every training structure.
    """
    unwritten = structure.filled({})
    for key, value in structure.fixed_fields().items():
        known = [other.get(key, unwritten.get(key, value)) for other in training] or [value]
        if known[0] == value or any(each != known[0] for each in known) or None not in (value, known[0]):
            continue
        other = structure.varied({key: known[0]})
        if value is None or other.environment.backward == structure.environment.backward:
            structure = other
    return structure


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
            numbers, all of them must lie inside. A key may also be a number of the task's condition, such as
            the number of inputs, or "n_states".
        reads_units: `Encoder.reads_units`. True leaves texts and nested values to `Encoder.check`.

    Raises:
        GenflowError: a field is outside its range, or differs from every training structure and was not
            learned: its role is "fixed", it never varied, or it contains names.
    """
    fields, training = structure.filled(), [structure.filled(other) for other in training]
    for key, (low, high) in coverage.items():
        if key not in fields and any(key in other for other in training):
            continue  # a field of another reward
        if key not in fields and key in structure.known_fields():
            continue
        value = fields[key] if key in fields else _amount(structure, key)
        if not numbers_of(value):
            raise GenflowError(f"coverage names {key!r}, which is no number; leave it out")
        if any(not low <= each <= high for each in numbers_of(value)):
            ranges = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in coverage.items())
            sizes = [f"{name}={fields[name]}" for name, role in structure.roles().items() if role == "size"]
            said = f"{key}={_text(value)}" if key in fields else f"{key}={value:g} ({', '.join(sizes)})"
            raise GenflowError(f"{said} is outside what this generator covers: {brief(ranges, 400)}")
    roles = structure.roles()
    for key, value in fields.items():
        several = [other[key] for other in training if isinstance(other.get(key), list | tuple)]
        if roles[key] == "size" and isinstance(value, list | tuple) and training and not several:
            raise GenflowError(f"this generator was trained on one number for {key}, not on {_text(value)}")
    fixed = {key: value for key, value in fields.items() if roles[key] == "fixed"}
    for key in [key for key in fields if roles[key] == "described"]:
        value = fields[key]
        values = [other[key] for other in training if key in other]  # another reward lacks the field
        # unlike numbers, names cannot be interpolated
        if _named(value) and value not in values and (isinstance(value, str) or not reads_units):
            texts = sorted({_text(known) for known in values})
            paid = key in structure.paid_fields()
            raise GenflowError(
                f"this generator was trained on {key}={brief(', '.join(texts) or 'None', 400)}, not"
                f" {_text(value)}{_WAY_OUT if paid and texts else ''}"
            )
        # the effect of a value that never varied was not learned
        numbers = any(map(_holds_number, [value, *values]))
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
        said = (
            f"this generator was trained on {brief('; '.join(odd), 400)}, and has not learned the difference"
        )
        differing = {key for key in fixed if nearest[key] != fixed[key]}
        why, reward = structure.environment.untold(), reward_field(type(structure.environment.config))
        if why and reward and differing & structure.paid_fields():
            said += f": {fields[reward]} {why}"
        if differing <= structure.paid_fields():
            said += _WAY_OUT
        raise GenflowError(said)


def _amount(structure: Structure, key: str) -> float:
    """Return a number that follows from the fields: one of the condition, or the number of states.

    Raises:
        GenflowError: there is no such number.
    """
    numbers = structure.environment.condition()
    if key in numbers:
        return numbers[key]
    if key != N_STATES:
        possible = {*structure.known_fields(), *numbers, N_STATES}
        raise GenflowError(
            f"coverage names {key!r}, which is no field of a structure{did_you_mean(key, possible)}"
        )
    states = structure.solution.n_states
    if states is None:
        raise GenflowError(f"coverage names {key!r}, which is not known of {structure.env!r}; leave it out")
    return states


class Quality(Schema):
    """The entry of a model card for one structure: mean metrics of generated policies.

    Attributes:
        structure: fields of the structure.
        name: short name of the structure.
        role: whether the structure was used for selection, or for the final test only.
        num: number of policies that the metrics are averaged over.
        metrics: metric name -> mean; None where it is not finite.
        untrained: the same of untrained policies, to compare with; empty on older cards.
    """

    structure: dict[str, Any]
    name: StructureName
    role: Literal["selection", "test"]
    num: int
    metrics: dict[Name, float | None]
    untrained: dict[Name, float | None] = Field(default_factory=dict)


def distance(a: Structure, b: Structure) -> float:
    """Return the Euclidean distance between two conditions after log(1 + |x|)."""
    return float((a.condition().abs().log1p() - b.condition().abs().log1p()).norm())


def numbers_of(value: Any) -> list[float]:
    """Return the numbers that a field holds: itself, or those in its list, of any depth."""
    if isinstance(value, list | tuple):
        return [number for each in value for number in numbers_of(each)]
    return [value] if isinstance(value, int | float) else []


def _holds_number(value: Any) -> bool:
    """Return whether a value is a number or a list with one, which no encoder reads from units alone."""
    return any(isinstance(v, int | float) for v in (value if isinstance(value, list | tuple) else [value]))


def _named(value: Any) -> bool:
    """Return whether a value is or contains a text."""
    if isinstance(value, Mapping):
        return True
    return any(map(_named, value)) if isinstance(value, list | tuple) else isinstance(value, str)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple) and all(isinstance(each, int | float) for each in value):
        return brief("+".join(map(str, value[:10])))
    text = value if isinstance(value, str) else to_text(value)
    return brief(text) if len(text) <= MAX_VALUE else f"{brief(text, MAX_VALUE)} {text_digest(text)}"
