"""`Schema`, the base of all options, and validation that reports an invalid value in one line."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
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

#: the most keys of an object
MAX_KEYS = 200
#: the most characters of a name
MAX_NAME = 150
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100
_REPR.maxlevel = 3


def brief(value: Any, limit: int = 200) -> str:
    """Write a value for a message, shortened and without control characters."""
    text = value if isinstance(value, str) else _REPR.repr(value)
    text = "".join(char if char.isprintable() else " " for char in text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class Schema(BaseModel):
    """Base of all options, immutable and without unknown keys."""

    #: former name of a field -> its new dotted key, which the error for the former name mentions
    renamed: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _not_too_long(cls, values: Any) -> Any:
        # checked before the items, because pydantic creates an error for each invalid item of a file
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
        raise ValueError("must be a list of objects")  # one error, however many items are invalid
    return value


#: a name in a file, which is safe to print in a message
Name = Annotated[str, Field(max_length=MAX_NAME, pattern=r"^[\w .,:;=+*/%~()-]*$")]
#: the name of a structure, which may contain lists and tables
StructureName = Annotated[str, Field(max_length=MAX_NAME, pattern=r"^[\w .,:;=+*/%~()\[\]{}'-]*$")]
#: a list of any JSON objects
Objects = Annotated[list[dict[str, Any]], BeforeValidator(_objects)]


S = TypeVar("S", bound=BaseModel)

#: what pydantic names an alternative of a union, which is no key
_ALTERNATIVE = re.compile(r"(constrained-|function-|tuple\[|list\[|dict\[)|(int|float|str|bool)$")


def validate(
    model: type[S],
    values: Mapping[str, Any],
    where: str | Callable[[Sequence[str]], str],
    context: Mapping[str, Any] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> S:
    """Create an instance of a model from values.

    Args:
        model: the schema.
        values: key -> value.
        where: prefix of error messages, e.g. the name of a file, or a function that returns it for the place
            of the wrong value, as keys from the root.
        context: pydantic's context for validators. Its ``read_files`` says whether a value may name a file to
            read.
        renamed: former names that are not in any `Schema.renamed` of the model, likewise.

    Raises:
        GenflowError: reports the first invalid value and, for an unknown key, the nearest known one.
    """
    if not isinstance(values, Mapping):
        raise GenflowError(
            f"{where if isinstance(where, str) else where(())} must be an object, not {brief(values)}"
        )
    try:
        return model.model_validate(dict(values), context=context)
    except ValidationError as error:
        first = _telling(error.errors(include_url=False))
        place = [str(part) for part in first["loc"] if not _ALTERNATIVE.match(str(part))]
        where, key = where if isinstance(where, str) else where(place), brief(".".join(place))
        if first["type"] == "extra_forbidden":
            parent = _model_at(model, first["loc"][:-1])
            own = parent.renamed if parent is not None and issubclass(parent, Schema) else {}
            former = str(first["loc"][-1])
            now = {**(renamed or {}), **own}.get(former)
            if now is not None and now.rpartition(".")[2] != former:
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


def _telling(errors: list[Any]) -> Any:
    """The first error, or of one value that may be of several types the error that lies deepest in it."""
    loc = errors[0]["loc"]
    place = next((at for at, part in enumerate(loc) if _ALTERNATIVE.match(str(part))), None)
    same = [each for each in errors if place is not None and each["loc"][:place] == loc[:place]]
    return max(same, key=lambda each: len(each["loc"]), default=errors[0])


def _model_at(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel] | None:
    for part in path:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    return model


Role = Literal["size", "described", "told", "fixed"]


def size(default: Any = ..., **constraints: Any) -> Any:
    """Declare a field of an environment's `Config` that a generator extrapolates over, e.g. a grid's height.

    Args:
        default: as in pydantic's `Field`. Without a default, the field is required.
        constraints: as in pydantic's `Field`, e.g. ``ge=1``.
    """
    return _field(default, "size", constraints)


def described(
    default: Any = ..., *, reward_only: bool = False, added: bool = False, **constraints: Any
) -> Any:
    """Declare a field that the condition or unit descriptions express, so that a generator can learn it.

    Args:
        default: as for `size`.
        reward_only: whether it changes the reward and nothing else, as a reward's own fields do: states,
            inputs and actions stay, so that policies for one value can be trained further for another.
        added: whether the field came after structures had been saved. Its default is not written, so that
            these stay what they were.
        constraints: as for `size`.
    """
    return _field(default, "described", constraints, reward_only=reward_only, added=added)


def told(default: Any = ..., *, reward_only: bool = True, added: bool = False, **constraints: Any) -> Any:
    """Declare a field that unit descriptions tell completely, whatever its value, such as what is paid.

    Args:
        default: as for `size`.
        reward_only, added: as for `described`.
        constraints: as for `size`.
    """
    return _field(default, "told", constraints, reward_only=reward_only, added=added)


def fixed(default: Any = ..., *, reward_only: bool = False, added: bool = False, **constraints: Any) -> Any:
    """Declare a field that must have the same value as in training, which is the default role.

    Args:
        default: as for `size`.
        reward_only, added: as for `described`.
        constraints: as for `size`.
    """
    return _field(default, "fixed", constraints, reward_only=reward_only, added=added)


def reward_name(default: Any = ..., role: Role = "fixed", **constraints: Any) -> Any:
    """Declare the field that names an environment's reward, whose fields also belong to the structure.

    Args:
        default: name of a reward that is registered for this environment.
        role: "described" if units or the condition distinguish rewards, "told" if they say all there is to
            know of any reward and its fields, so that a generator takes rewards that it was not trained on.
        constraints: as for `size`.
    """
    return _field(default, role, constraints, reward=True, reward_only=True)


def role_of(model: type[BaseModel], key: str) -> Role:
    """Return the role that a field declares, by default "fixed"."""
    extra = model.model_fields[key].json_schema_extra
    return cast(Role, extra.get("role", "fixed")) if isinstance(extra, dict) else "fixed"


def is_reward_only(model: type[BaseModel], key: str) -> bool:
    """Return whether a field changes the reward and nothing else, see `described`."""
    return _marked(model, key, "reward_only")


def is_added(model: type[BaseModel], key: str) -> bool:
    """Return whether a field came after structures had been saved, see `described`."""
    return _marked(model, key, "added")


def _marked(model: type[BaseModel], key: str, mark: str) -> bool:
    extra = model.model_fields[key].json_schema_extra
    return isinstance(extra, dict) and bool(extra.get(mark))


def reward_field(model: type[BaseModel]) -> str | None:
    """Return the name of the field that `reward_name` declares, or None."""
    for key, info in model.model_fields.items():
        if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("reward"):
            return key
    return None


def _field(default: Any, role: Role, constraints: dict[str, Any], **marks: bool) -> Any:
    return Field(default, json_schema_extra={"role": role, **marks}, **constraints)


def require_may_read(info: ValidationInfo, path: str) -> None:
    """Raise an error unless a validator may read the file that a value names.

    Only values from the user may name a file. A saved structure, which may come from somebody else, contains
    the content instead.

    Raises:
        ValueError: the value comes from a saved structure.
    """
    if not (info.context or {}).get("read_files"):
        raise ValueError(
            f"names the file {brief(path)}, which is not read: a saved structure holds its content; if the"
            " first edition wrote it, `genflow convert OLD --out NEW` reads the file"
        )
