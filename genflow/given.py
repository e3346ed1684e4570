"""Structures as a user gives them in Python: themselves, as a text, or as their fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genflow.errors import GenflowError
from genflow.schema import brief
from genflow.structure import Structure

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
