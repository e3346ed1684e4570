"""Frozen, validated configurations: every set of options is a `Schema`, and every bad value is one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from genflow.errors import GenflowError, did_you_mean


class Schema(BaseModel):
    """Base of all configurations: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=BaseModel)


def validate(model: type[S], values: Mapping[str, Any], where: str) -> S:
    """Build `model` from `values`.

    Raises:
        GenflowError: the first bad value, naming `where` it stands and, for an unknown key, the nearest known one.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _fields_at(model, first["loc"][:-1])
            raise GenflowError(f"{where}: unknown key {key!r}{did_you_mean(str(first['loc'][-1]), known)}") from None
        if first["type"] == "missing":
            raise GenflowError(f"{where}: {key!r} is missing") from None
        reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        subject = f"{key} {reason}" if reason.startswith("must") else f"{key}: {reason}" if key else reason
        raise GenflowError(f"{where}: {subject} (got {first['input']!r})" if key else f"{where}: {subject}") from None


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> set[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return set()
        model = annotation
    return set(model.model_fields)
