"""Assignment of fields to the components of a structure, their content, and their values as text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Set
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from genflow.errors import GenflowError, did_you_mean
from genflow.registry import registry
from genflow.schema import MAX_NAME, brief, is_added, reward_field, validate
from genflow.value_text import from_text, to_text

#: the classes of environment, reward (or None) and policy architecture, followed by their options
Parts = tuple[Any, Any, Any, Any, Any, Any]
#: the name of a structure without fields
DEFAULT = "default"
#: the most characters of a field's value in a name. A longer value is replaced by its digest
MAX_VALUE = 60
# a digest in place of a value, and at the end of a name that is cut short
_DIGEST, CUT_SHORT = re.compile(r"~[0-9a-f]{16}"), re.compile(rf".{{{MAX_NAME - 17}}}-[0-9a-f]{{16}}")
_NUMBERS: frozenset[Any] = frozenset({int, float, bool})
_SCALARS = {str, *_NUMBERS, NoneType, Literal}
_EVERYTHING = {*_SCALARS, list, dict}
T = TypeVar("T")
#: what to do about a text that a shell has taken apart
QUOTING = (
    "; a value with commas or spaces stands in double quotation marks, and in a shell the whole text in"
    " single ones: --structure 'key=1,key=\"a; b, c\"'"
)


def resolve_fields(
    env: str,
    policy: str,
    fields: Mapping[str, Any],
    read_files: bool,
    texts: Set[str] = frozenset(),
    saved: bool = False,
) -> Parts:
    """Load the components of a structure, and build their options from one set of fields.

    Args:
        env: registered name of the environment.
        policy: registered name of the architecture.
        fields: the fields of environment, reward and architecture.
        read_files: whether a value may name a file to read.
        texts: keys of values that the user typed, which are parsed by the type of the field.
        saved: whether the fields come from a file, which may also hold those of other rewards.

    Raises:
        GenflowError: a name or key is unknown, or a value is invalid.
    """
    env_cls = registry().load("environment", env, saved=saved)
    arch_cls = registry().load("policy", policy, saved=saved)
    where, context = f"structure of {env!r}", {"read_files": read_files}
    models: dict[str, type[BaseModel]] = {
        f"environment {env!r}": env_cls.Config,
        f"policy {policy!r}": arch_cls.Config,
    }
    reward_cls, key = None, reward_field(env_cls.Config)
    if key is not None:
        name = fields.get(key, env_cls.Config.model_fields[key].default)
        name = _typed(env_cls.Config, key, name, where) if key in texts else name
        if not isinstance(name, str):
            raise GenflowError(f"{where}: {key} must be the name of a reward, not {brief(name)}")
        reward_cls = registry().load("reward", name, environment=env, saved=saved)
        models[f"reward {name!r}"] = reward_cls.Config
        if saved:  # the first edition wrote the fields of all rewards
            foreign = reward_fields(env) - {each for model in models.values() for each in model.model_fields}
            fields = {each: value for each, value in fields.items() if each not in foreign}
    owners: dict[str, str] = {}
    for owner, model in models.items():
        for each in model.model_fields:
            if owners.setdefault(each, owner) != owner:
                raise GenflowError(
                    f"{owners[each]} and {owner} share the key {each!r}; rename it in one of them"
                )
    for each in fields:
        if each not in owners:
            each = brief(each)
            raise GenflowError(f"{where}: unknown key {each!r}{did_you_mean(each, owners)}")

    def configured(model: type[BaseModel]) -> Any:
        own = {key: fields[key] for key in model.model_fields if key in fields}
        typed = {key: _typed(model, key, own[key], where) for key in own if key in texts}
        return in_order(validate(model, own | typed, where, context))

    env_config, arch_config = configured(env_cls.Config), configured(arch_cls.Config)
    reward_config = configured(reward_cls.Config) if reward_cls else None
    return env_cls, reward_cls, arch_cls, env_config, reward_config, arch_config


def reward_fields(env: str) -> set[str]:
    """Return the fields of all registered rewards of an environment."""
    rewards = (registry().load("reward", name, environment=env) for name in registry().names("reward", env))
    return {key for reward in rewards for key in reward.Config.model_fields}


def in_order(value: T, sets: bool = False) -> T:
    """Return a value with the keys of its tables sorted, since their order is no part of a task.

    Args:
        value: options, or a value within them. It is returned itself if nothing changes.
        sets: whether to replace sets by sorted lists.
    """
    new: Any = value
    if isinstance(value, BaseModel):
        own = {key: getattr(value, key) for key in type(value).model_fields}
        changed = {key: each for key in own if (each := in_order(own[key], sets)) is not own[key]}
        new = value.model_copy(update=changed) if changed else value
    elif isinstance(value, dict):
        keys = sorted(value, key=str)
        items = {key: in_order(value[key], sets) for key in keys}
        if keys != list(value) or any(items[key] is not value[key] for key in keys):
            new = items
    elif type(value) in (list, tuple):
        listed: Any = value
        members = [in_order(each, sets) for each in listed]
        if any(a is not b for a, b in zip(members, listed, strict=True)):
            new = type(listed)(members)
    elif sets and isinstance(value, set | frozenset):
        new = sorted((in_order(each, sets) for each in value), key=content)
    return new


def written(config: BaseModel) -> dict[str, Any]:
    """Return the fields of options, JSON-serialisable, in the same order for the same content.

    Fields that were added later are left out at their default.
    """
    fields = in_order(config, sets=True).model_dump(mode="json", warnings=False)
    return {
        key: value
        for key, value in fields.items()
        if not (is_added(type(config), key) and at_default(config, key))
    }


def at_default(config: BaseModel, key: str) -> bool:
    """Return whether a field has its default value."""
    info = type(config).model_fields[key]
    return not info.is_required() and content(getattr(config, key)) == content(info.default)


def added_defaults(models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """Return the defaults of the fields that were added later, JSON-serialisable."""
    return {key: value for model in models for key, value in _added_defaults_of(model).items()}


@cache  # it is asked for every training structure of a generator
def _added_defaults_of(model: type[BaseModel]) -> dict[str, Any]:
    return {
        key: to_jsonable_python(info.default)
        for key, info in model.model_fields.items()
        if is_added(model, key)
    }


def content(value: Any) -> str:
    """Return a value as canonical JSON. Two values are the same if these texts are."""
    plain = to_jsonable_python(in_order(value, sets=True), fallback=str)
    return json.dumps(_with_integers(plain), sort_keys=True)


def _with_integers(value: Any) -> Any:
    """Replace 1.0 by 1, because a field of floats may have the default 1."""
    if isinstance(value, dict):
        return {key: _with_integers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_integers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def field_text(model: type[BaseModel], key: str, value: Any) -> str:
    """Write the JSON-serialisable value of a field as the text that `Structure.parse` reads."""
    kinds = _kinds(model.model_fields[key].annotation)
    return to_text(value, _literals(kinds), flat=not any(map(_is_text, kinds)))


def name_of(configs: Iterable[BaseModel], always: Container[str]) -> str:
    """Write the fields that differ from their default, and those of `always`; else the first field."""
    parts, rest = [], []
    for config in configs:
        for key, value in written(config).items():
            text = field_text(type(config), key, value)
            said = f"{key}={text if len(text) <= MAX_VALUE else text_digest(text)}"
            if not at_default(config, key) or key in always:
                parts.append(said)
            elif len(text) <= MAX_VALUE:
                rest.append(said)
    name = ",".join(parts or rest[:1]) or DEFAULT
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 17] + "-" + text_digest(name)[1:]


def text_digest(text: str) -> str:
    """Return the digest that stands for a long text in a name."""
    return "~" + hashlib.sha256(text.encode()).hexdigest()[:16]


def _typed(model: type[BaseModel], key: str, text: str, where: str) -> Any:
    """Parse a text by the type of a field, as a list or table if the field accepts one."""
    annotation = model.model_fields[key].annotation
    kinds = _kinds(annotation)
    try:
        return from_text(
            text,
            # a+b is a string if the field accepts strings
            sequence=any(map(_is_list, kinds)) and not any(map(_is_text, kinds)),
            optional=NoneType in kinds,
            brackets=not kinds <= _SCALARS,
            literals=_literals(kinds),
            item_literals=_item_literals(annotation),
        )
    except GenflowError as error:
        raise GenflowError(f"{where}: {key}: {error}") from error


def _literals(kinds: Set[Any], also: Set[Any] = frozenset()) -> set[type]:
    """Return the scalar types that texts must be parsed as, none if pydantic parses them unambiguously."""
    found = set(kinds & (_NUMBERS | also))
    if len(found) < 2 and not any(map(_is_text, kinds)):
        return set()
    return found | {int} if float in found else found


def _item_literals(annotation: Any) -> set[type]:
    lists = [
        [_kinds(each) for each in get_args(one) if each is not ...] or [_EVERYTHING]
        for one in _alternatives(annotation)
        if _is_list(get_origin(one) or one)
    ]
    # the types of a tuple's items are known by position, those of a union of lists are not
    places = lists[0] if len(lists) == 1 else [set().union(*(kinds for each in lists for kinds in each))]
    return set().union(*(_literals(kinds, {NoneType}) for kinds in places))


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the types that a union, an alias or an annotated type stands for."""
    origin = get_origin(annotation) or annotation
    inner = getattr(annotation, "__value__", None) or getattr(annotation, "__supertype__", None)
    if origin in (Union, UnionType):
        for each in get_args(annotation):
            yield from _alternatives(each)
    elif origin is Annotated or inner:
        yield from _alternatives(inner or get_args(annotation)[0])
    else:
        yield annotation


def _kinds(annotation: Any) -> set[Any]:
    """Return the classes of an annotation, e.g. {tuple, NoneType} for ``tuple[int, ...] | None``."""
    kinds: set[Any] = set()
    for each in _alternatives(annotation):
        origin = get_origin(each) or each
        if origin in (Any, object):
            kinds |= _EVERYTHING
        elif origin is Literal or (isinstance(origin, type) and issubclass(origin, Enum)):
            values = get_args(each) or [member.value for member in cast(type[Enum], origin)]
            kinds |= {Literal, *(type(value) for value in values if not isinstance(value, str))}
        else:
            kinds.add(origin)
    return kinds


def _is_list(kind: Any) -> bool:
    no_list = (str, bytes, Mapping, BaseModel)
    return isinstance(kind, type) and issubclass(kind, Iterable) and not issubclass(kind, no_list)


def _is_text(kind: Any) -> bool:
    no_text = (int, float, NoneType, Mapping, BaseModel)
    return kind is Literal or not (isinstance(kind, type) and (issubclass(kind, no_text) or _is_list(kind)))


def parse_fields(env: str, text: str) -> tuple[dict[str, Any], set[str]]:
    """Parse ``PRESET``, ``key=value,...`` or ``PRESET,key=value,...``.

    Returns:
        The fields, and the keys of those that are still text.

    Raises:
        GenflowError: a preset is unknown, a key is given twice, or a digest stands in place of a value.
    """
    if CUT_SHORT.fullmatch(text):
        raise GenflowError(
            f"structure {text!r} is a name cut short, of a structure that is not in use; give its fields"
        )
    given: dict[str, Any] = {}
    preset: str | None = None
    for position, part in enumerate(split_fields(text)):
        key, equals, value = part.partition("=")
        if equals and key.strip() in given:
            raise GenflowError(f"structure {text!r}: {key.strip()!r} is given twice")
        if _DIGEST.fullmatch(value.strip()):
            raise GenflowError(
                f"{key.strip()}={value.strip()} stands for a value of a structure that is not in use;"
                " give the value itself or its file (a text that begins with ~ is written %7E)"
            )
        if equals:
            given[key.strip()] = value.strip()
        elif position == 0:
            preset = part
        else:
            raise GenflowError(f"structure {text!r}: {part!r} is not key=value{QUOTING * (' ' in text)}")
    environment = registry().load("environment", env)
    if preset is None or (preset == DEFAULT and preset not in environment.presets):
        return given, set(given)
    if preset not in environment.presets:
        near = did_you_mean(preset, environment.presets)
        raise GenflowError(f"environment {env!r} has no preset {preset!r}{near}")
    return {**environment.preset(preset, given), **given}, set(given)


def begins_with_preset(text: str) -> bool:
    """Return whether a text that `parse_fields` reads names a preset."""
    return "=" not in next(iter(split_fields(text)), "=")


def split_fields(text: str) -> list[str]:
    """Split a text at the commas that are not inside brackets or a value in quotation marks.

    Raises:
        GenflowError: a quotation mark is not closed.
    """
    parts, depth, quoted = [""], 0, False
    for char in text:
        if char == '"' and (quoted or (depth == 0 and parts[-1].rstrip().endswith("="))):
            quoted = not quoted
        if not quoted:
            depth += (char in "[({") - (char in "])}")
        if char == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += char
    if quoted:
        raise GenflowError(f"structure {brief(text)!r}: a quotation mark is not closed{QUOTING}")
    return [part.strip() for part in parts if part.strip()]
