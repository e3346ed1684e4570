"""Structures as a user gives them: themselves, as a text, or as their fields; whole, or beside another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genflow.errors import GenflowError
from genflow.schema import brief
from genflow.structure import Structure
from genflow.structure_fields import at_default, begins_with_preset, parse_fields, written

#: a structure, its text or its fields, and several of these
Given = Structure | str | Mapping[str, Any]
Several = list[Any] | tuple[Any, ...]


def read_structure(env: str, given: Given, policy: str | None = None) -> Structure:
    """Return the structure that is given as itself, as a text for `parse`, or as fields for `build`.

    Raises:
        GenflowError: the structure is of another environment or another type, or as for `build`.
    """
    if isinstance(given, Structure):
        if given.env != env:
            raise GenflowError(f"structure {given.name} is of environment {given.env!r}, not {env!r}")
        return given
    if isinstance(given, str):
        return Structure.parse(env, given, policy)
    if isinstance(given, Mapping):
        return Structure.build(env, given, policy)
    raise GenflowError(
        f"a structure is a Structure, a text such as 'key=value,...', or a dict of fields, not {brief(given)}"
    )


def read_beside(own: Structure, given: Given) -> tuple[Structure, list[str]]:
    """Return a structure of which only what differs from another one need be given.

    A text that begins with a preset and a `Structure` are whole, as is the name of a structure in use. The
    options of a reward go with it.

    Returns:
        The structure, and the fields that it has from the other one, those at their default left out.

    Raises:
        GenflowError: as for `read_structure`.
    """
    if isinstance(given, str):
        whole = begins_with_preset(given) or Structure.in_use(own.env, own.policy, given) is not None
    else:
        whole = not isinstance(given, Mapping)
    if whole:
        return read_structure(own.env, given, own.policy), []
    assert not isinstance(given, Structure)
    found = own.varied(given)
    said = parse_fields(own.env, given)[0] if isinstance(given, str) else given
    parts = (own.environment, own.environment.reward, own.arch)
    configs = [part.config for part in parts if part is not None]
    unusual = [key for config in configs for key in written(config) if not at_default(config, key)]
    before, now = own.fields(), found.fields()
    return found, [key for key in unusual if key not in said and key in now and now[key] == before[key]]
