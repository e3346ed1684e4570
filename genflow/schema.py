"""Frozen, validated configurations: every set of options is a `Schema`, and every bad value is one line."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from annotated_types import MaxLen
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from genflow.errors import GenflowError, did_you_mean

#: keys of an object
MAX_KEYS = 200
#: characters of a name
MAX_NAME = 150
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100
_REPR.maxlevel = 3


def brief(value: Any, limit: int = 200) -> str:
    """Text, or how any value is written, for a message: short, with no character that a terminal obeys."""
    text = value if isinstance(value, str) else _REPR.repr(value)
    text = "".join(char if char.isprintable() else " " for char in text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class Schema(BaseModel):
    """Base of all configurations: immutable, unknown keys refused."""

    #: former name of a field -> where it is now, from the root of the configuration; refused with the new one
    renamed: ClassVar[Mapping[str, str]] = {}

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
#: the name of a structure, which may hold lists and tables
StructureName = Annotated[str, Field(max_length=MAX_NAME, pattern=r"^[\w .,:;=+*/%~()\[\]{}'-]*$")]
#: a list of any JSON objects
Objects = Annotated[list[dict[str, Any]], BeforeValidator(_objects)]


S = TypeVar("S", bound=BaseModel)


def validate(
    model: type[S], values: Mapping[str, Any], where: str, context: Mapping[str, Any] | None = None
) -> S:
    """Build `model` from `values`.

    Args:
        model: the configuration.
        values: by key.
        where: leads messages.
        context: what validators may ask for; ``read_files``: whether a value may name a file to read.

    Raises:
        GenflowError: the first bad value, naming `where` it stands and, for an unknown key, the nearest known
            one.
    """
    if not isinstance(values, Mapping):
        raise GenflowError(f"{where} must be an object, not {brief(values)}")
    try:
        return model.model_validate(dict(values), context=context)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = brief(".".join(str(part) for part in first["loc"]))
        if first["type"] == "extra_forbidden":
            parent = _model_at(model, first["loc"][:-1])
            former = str(first["loc"][-1])
            if parent is not None and issubclass(parent, Schema) and former in parent.renamed:
                now = parent.renamed[former]
                raise GenflowError(f"{where}: {key!r} has another name now: {now!r}") from None
            known = set(parent.model_fields) if parent else set()
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


def _model_at(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel] | None:
    for part in path:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    return model


Role = Literal["size", "described", "fixed"]


def size(default: Any = ..., **constraints: Any) -> Any:
    """A field of an environment's `Config` that a generator extrapolates over, such as the height of a grid.

    Args:
        default: as pydantic's `Field`; left out, the field must be given.
        constraints: as pydantic's `Field`, e.g. ``ge=1``.
    """
    return _field(default, "size", constraints)


def described(default: Any = ..., **constraints: Any) -> Any:
    """A field that condition or descriptions express, so that a generator learns it where it varied.

    Args:
        default: as for `size`.
        constraints: as for `size`.
    """
    return _field(default, "described", constraints)


def fixed(default: Any = ..., **constraints: Any) -> Any:
    """A field that nothing expresses, taken only as it was in training. The default role.

    Args:
        default: as for `size`.
        constraints: as for `size`.
    """
    return _field(default, "fixed", constraints)


def reward_name(default: Any = ..., role: Role = "fixed", **constraints: Any) -> Any:
    """The field that names an environment's registered reward, whose fields then belong to the structure.

    Args:
        default: name of a reward that is registered for this environment.
        role: "described" where units or the condition tell rewards apart.
        constraints: as for `size`.
    """
    return _field(default, role, constraints, reward=True)


def role_of(model: type[BaseModel], key: str) -> Role:
    """The role that a field declares, "fixed" for one that declares none."""
    extra = model.model_fields[key].json_schema_extra
    return cast(Role, extra.get("role", "fixed")) if isinstance(extra, dict) else "fixed"


def reward_field(model: type[BaseModel]) -> str | None:
    """The name of the field that `reward_name` declares, or None."""
    for key, info in model.model_fields.items():
        if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("reward"):
            return key
    return None


def _field(default: Any, role: Role, constraints: dict[str, Any], reward: bool = False) -> Any:
    return Field(default, json_schema_extra={"role": role, "reward": reward}, **constraints)


def require_may_read(info: ValidationInfo, path: str) -> None:
    """Refuse to read a file that is named not by the user, but by a file from somebody else.

    Raises:
        ValueError: says so; for validators of fields that stand for a file's content.
    """
    if not (info.context or {}).get("read_files"):
        raise ValueError(
            f"names the file {brief(path)}, which is not read: a saved structure holds its content"
        )
