"""Frozen, validated configurations: every set of options is a `Schema`, and every bad value is one line."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from annotated_types import MaxLen
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from genflow.errors import GenflowError, did_you_mean

#: keys of an object
MAX_KEYS = 200
#: characters of a name
MAX_NAME = 150
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100
_REPR.maxlevel = 3


def brief(value: Any, limit: int = 200) -> str:
    """Text, or how any value is written, for a message: of bounded length, without characters that a terminal obeys."""
    text = value if isinstance(value, str) else _REPR.repr(value)
    text = "".join(char if char.isprintable() else " " for char in text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class Schema(BaseModel):
    """Base of all configurations: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _not_too_long(cls, values: Any) -> Any:
        # before items are looked at: each bad one is an error of its own, of which a file must not make
        # millions
        if isinstance(values, dict):
            if cls.model_config.get("extra") == "forbid" and len(values) > MAX_KEYS:
                raise ValueError(f"an object has more than {MAX_KEYS} keys")
            for name, info in cls.model_fields.items():
                value = values.get(name)
                most = [MAX_KEYS] * isinstance(value, dict) + [
                    each.max_length for each in info.metadata if isinstance(each, MaxLen)
                ]
                if most and isinstance(value, dict | list) and len(value) > most[-1]:
                    raise ValueError(f"{name} has more than {most[-1]:,} items")
        return values


def _objects(value: Any) -> Any:
    if isinstance(value, list) and not all(isinstance(each, dict) for each in value):
        raise ValueError("must be a list of objects")  # one error, however many are none
    return value


#: what names something, in a file and in a message
Name = Annotated[str, Field(max_length=MAX_NAME, pattern=r"^[\w .,:;=+*/%~()-]*$")]
#: a list of any JSON objects
Objects = Annotated[list[dict[str, Any]], BeforeValidator(_objects)]


S = TypeVar("S", bound=BaseModel)


def validate(model: type[S], values: Mapping[str, Any], where: str) -> S:
    """Build `model` from `values`.

    Raises:
        GenflowError: the first bad value, naming `where` it stands and, for an unknown key, the nearest known
            one.
    """
    if not isinstance(values, Mapping):
        raise GenflowError(f"{where} must be an object, not {brief(values)}")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = brief(".".join(str(part) for part in first["loc"]))
        if first["type"] == "extra_forbidden":
            known = _fields_at(model, first["loc"][:-1])
            raise GenflowError(
                f"{where}: unknown key {key!r}{did_you_mean(brief(str(first['loc'][-1])), known)}"
            ) from None
        if first["type"] == "missing":
            raise GenflowError(f"{where}: {key!r} is missing") from None
        reason = brief(first["msg"].removeprefix("Value error, ").replace("Input should be", "must be"), 400)
        subject = f"{key} {reason}" if reason.startswith("must") else f"{key}: {reason}" if key else reason
        raise GenflowError(
            f"{where}: {subject} (got {brief(_REPR.repr(first['input']))})" if key else f"{where}: {subject}"
        ) from None


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> set[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return set()
        model = annotation
    return set(model.model_fields)
