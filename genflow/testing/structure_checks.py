"""Checks of what structures say of themselves: descriptions of units, conditions and names.

Checks take one `TaskUnderTest`, or a list of those of an environment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import torch

from genflow.errors import GenflowError
from genflow.interfaces.environment import Environment, Units
from genflow.interfaces.validation import numbers_of
from genflow.layout import UnitDescriptions
from genflow.schema import brief
from genflow.structure import Structure
from genflow.structure_fields import parse_fields, resolve_fields, written
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
    """The name of a structure is read back as the structure, and so are its fields in JSON."""
    structure = task.structure
    if Structure.from_json(json.loads(json.dumps(structure.to_json()))) != structure:
        yield (
            f"{task.name}.Config: a structure is another one after it was saved and read; its fields must be"
            " restored by pydantic from what model_dump(mode='json') writes"
        )
    try:
        fields, texts = parse_fields(structure.env, structure.name)
    except GenflowError as error:
        if "not in use" not in str(error):
            raise
        yield Note(f"{structure.name} is a name cut short; it is read only where the structure is in use")
        return
    try:
        parts = resolve_fields(structure.env, structure.policy, fields, read_files=False, texts=texts)
    except GenflowError as error:
        yield f"{task.name}.Config: its own name {brief(structure.name)!r} is refused: {error}"
        return
    read = {k: v for config in parts[3:] if config is not None for k, v in written(config).items()}
    if read != structure.fields():
        wrong = min(
            key for key in {*read, *structure.fields()} if read.get(key) != structure.fields().get(key)
        )
        yield (
            f"{task.name}.Config: the name {brief(structure.name)!r} is read back with another"
            f" {wrong!r}; its validator must leave a value alone that it made itself"
        )


def check_columns(tasks: Sequence[TaskUnderTest]) -> Iterator[str]:
    """All structures describe units by the same columns and categories."""
    _require_several(tasks)
    first, *others = ((task, task.environment.units()) for task in tasks)
    for task, units in others:
        for axis, one, other in zip(Units._fields, first[1], units, strict=True):
            mend = f"{task.name}.units(): {axis} of {{}}; describe units by what means the same at every size"
            where = f"{first[0].structure.name} and of {task.structure.name}"
            if one.amounts.shape[1] != other.amounts.shape[1]:
                widths = f"{one.amounts.shape[1]} and {other.amounts.shape[1]} columns of amounts"
                yield mend.format(f"{where} have {widths}")
            if one.categories.keys() != other.categories.keys():
                names = [brief(", ".join(each.categories) or "none") for each in (one, other)]
                yield mend.format(f"{where} have the categories {names[0]} and {names[1]}")


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


def check_names(tasks: Sequence[TaskUnderTest]) -> Iterator[str]:
    """Different structures have different names."""
    _require_several(tasks)
    known: dict[str, Structure] = {}
    for task in tasks:
        other = known.setdefault(task.structure.name, task.structure)
        if other != task.structure:
            yield (
                f"{task.name}: {brief(other.fields())} and {brief(task.structure.fields())} have the same"
                f" name {other.name!r}; a field's text must tell its values apart"
            )


def _require_several(tasks: Sequence[TaskUnderTest]) -> None:
    if len(tasks) < 2:
        raise Skipped(ALONE)
    for task in tasks:
        task.require_use()


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
