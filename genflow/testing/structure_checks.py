"""Checks of what structures say of themselves: descriptions of units, conditions and names.

Checks take one `TaskUnderTest`, or a list of those of an environment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from genflow.errors import GenflowError
from genflow.interfaces.environment import Environment, Units
from genflow.interfaces.validation import numbers_of
from genflow.layout import UnitDescriptions
from genflow.schema import brief
from genflow.structure import Structure
from genflow.structure_fields import content, parse_fields, resolve_fields
from genflow.testing.outcomes import Note, Skipped
from genflow.testing.tasks import TaskUnderTest

ALONE = "there is only one structure; give a second one of another size with --structure (or `structures`)"


def check_descriptions(task: TaskUnderTest) -> Iterator[str]:
    """Descriptions of units and the condition are finite, and the same each time."""
    task.require_use()
    first, again = task.environment.units(), _another(task.environment).units()
    for axis, one, other in zip(Units._fields, first, again, strict=True):
        if not _same(one, other):
            yield (
                f"{task.name}.units(): describes {axis} of one structure in two ways; compute descriptions"
                " from the options alone, and seed what is random"
            )
    if dict(numbers_of(task.environment)) != dict(numbers_of(_another(task.environment))):
        yield (
            f"{task.name}.condition(): gives one structure two conditions; compute it from the options alone,"
            " and seed what is random"
        )


def check_name(task: TaskUnderTest) -> Iterator[str]:
    """Name and saved fields of a structure are read back as the structure, so that no other has the same."""
    structure = task.structure
    texts = json.loads(json.dumps(structure.to_json()))
    if fault := _read_back(structure, texts["structure"]):
        yield (
            f"{task.name}.Config: {fault} after it was saved and read; model_dump(mode='json') must write"
            " what its validators take, without a loss"
        )
    try:
        fields, typed = parse_fields(structure.env, structure.name)
    except GenflowError as error:
        if "not in use" not in str(error):
            raise
        yield Note(f"{structure.name} is a name cut short; it is read only where the structure is in use")
        return
    if fault := _read_back(structure, fields, texts=typed):
        yield (
            f"{task.name}.Config: {fault} after its name {brief(structure.name)!r} was read; its validators"
            " must take what they made as it is"
        )


def _read_back(structure: Structure, fields: Mapping[str, Any], **how: Any) -> str | None:
    """What is wrong with a structure that is built of these fields, or None."""
    try:
        parts = resolve_fields(structure.env, structure.policy, fields, read_files=False, **how)
    except GenflowError as error:
        return f"it is refused ({error})"
    reward = structure.environment.reward
    own = (structure.environment.config, None if reward is None else reward.config, structure.arch.config)
    for mine, read in zip(own, parts[3:], strict=True):
        for key in type(mine).model_fields if mine is not None else ():
            if getattr(mine, key) != getattr(read, key):
                return f"{key}={brief(getattr(mine, key))} is {brief(getattr(read, key))}"
    return None


def check_columns(tasks: Sequence[TaskUnderTest]) -> Iterator[str]:
    """Structures with the same fixed fields describe units by the same columns and categories.

    Raises:
        Skipped: no two structures have the same fixed fields, so that no generator covers both.
    """
    _require_several(tasks)
    first: dict[str, tuple[TaskUnderTest, Units]] = {}
    for task in tasks:
        task.require_use()
        units = task.environment.units()
        known, of_known = first.setdefault(content(task.structure.fixed_fields()), (task, units))
        for axis, one, other in zip(Units._fields, of_known, units, strict=True):
            mend = f"{task.name}.units(): {axis} of {{}}; describe units by what means the same at every size"
            where = f"{known.structure.name} and of {task.structure.name}"
            if one.amounts.shape[1] != other.amounts.shape[1]:
                widths = f"{one.amounts.shape[1]} and {other.amounts.shape[1]} columns of amounts"
                yield mend.format(f"{where} have {widths}")
            if one.categories.keys() != other.categories.keys():
                names = [brief(", ".join(each.categories) or "none") for each in (one, other)]
                yield mend.format(f"{where} have the categories {names[0]} and {names[1]}")
    if len(first) == len(tasks):
        raise Skipped("no two structures have the same fixed fields; give a second one of another size")


def check_condition(tasks: Sequence[TaskUnderTest]) -> Iterator[str]:
    """All structures have the same names in their condition."""
    _require_several(tasks)
    first, *others = ((task, list(numbers_of(task.environment))) for task in tasks)
    for task, names in others:
        if names != first[1]:
            yield (
                f"{task.name}.condition(): gives {brief(', '.join(names))} for {task.structure.name} and"
                f" {brief(', '.join(first[1]))} for {first[0].structure.name}; return the same names in the"
                " same order for all, with a number, e.g. 0.0, where one says nothing"
            )


def _require_several(tasks: Sequence[TaskUnderTest]) -> None:
    if len(tasks) < 2:
        raise Skipped(ALONE)


def _another(environment: Environment) -> Environment:
    """The same task, built anew."""
    reward = environment.reward
    new = None if reward is None else type(reward)(reward.config, reward.task)
    return type(environment)(environment.config, new)


def _same(one: UnitDescriptions, other: UnitDescriptions) -> bool:
    return (
        torch.equal(one.amounts, other.amounts)
        and torch.equal(one.coordinates, other.coordinates)
        and one.categories.keys() == other.categories.keys()
        and all(torch.equal(one.categories[name], other.categories[name]) for name in one.categories)
    )
