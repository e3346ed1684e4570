"""Assignment of fields to the components of a structure, and parsing of their values."""

from __future__ import annotations

from collections.abc import Mapping, Set
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from genflow.errors import GenflowError, did_you_mean
from genflow.registry import registry
from genflow.schema import brief, reward_field, validate
from genflow.value_text import from_text

#: the classes of environment, reward (or None) and policy architecture, followed by their options
Parts = tuple[Any, Any, Any, Any, Any, Any]
_SCALARS = {str, int, float, bool, NoneType, Literal}


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
    env_cls, arch_cls = registry().load("environment", env), registry().load("policy", policy)
    where, context = f"structure of {env!r}", {"read_files": read_files}
    models: dict[str, type[BaseModel]] = {
        f"environment {env!r}": env_cls.Config,
        f"policy {policy!r}": arch_cls.Config,
    }
    reward_cls, key = None, reward_field(env_cls.Config)
    if key is not None:
        name = fields.get(key, env_cls.Config.model_fields[key].default)
        if not isinstance(name, str):
            raise GenflowError(f"{where}: {key} must be the name of a reward, not {brief(name)}")
        reward_cls = registry().load("reward", name, environment=env)
        models[f"reward {name!r}"] = reward_cls.Config
        if saved:  # the first edition wrote the fields of all rewards
            foreign = reward_fields(env) - {each for model in models.values() for each in model.model_fields}
            fields = {each: value for each, value in fields.items() if each not in foreign}
    owners: dict[str, str] = {}
    for owner, model in models.items():
        for each in model.model_fields:
            if owners.setdefault(each, owner) != owner:
                raise GenflowError(f"{owners[each]} and {owner} share the key {each!r}")
    for each in fields:
        if each not in owners:
            each = brief(each)
            raise GenflowError(f"{where}: unknown key {each!r}{did_you_mean(each, owners)}")

    def configured(model: type[BaseModel]) -> Any:
        own = {key: fields[key] for key in model.model_fields if key in fields}
        typed = {key: _typed(model, key, own[key], where) for key in own if key in texts}
        return validate(model, own | typed, where, context)

    env_config, arch_config = configured(env_cls.Config), configured(arch_cls.Config)
    reward_config = configured(reward_cls.Config) if reward_cls else None
    return env_cls, reward_cls, arch_cls, env_config, reward_config, arch_config


def reward_fields(env: str) -> set[str]:
    """Return the fields of all registered rewards of an environment."""
    rewards = (registry().load("reward", name, environment=env) for name in registry().names("reward", env))
    return {key for reward in rewards for key in reward.Config.model_fields}


def _typed(model: type[BaseModel], key: str, text: str, where: str) -> Any:
    """Parse a text by the type of a field, as a list or table if the field accepts one."""
    kinds = _kinds(model.model_fields[key].annotation)
    try:
        return from_text(
            text,
            # a+b is a string if the field accepts strings
            sequence=bool(kinds & {tuple, list}) and str not in kinds,
            optional=NoneType in kinds,
            brackets=not kinds <= _SCALARS,
        )
    except GenflowError as error:
        raise GenflowError(f"{where}: {key}: {error}") from error


def _kinds(annotation: Any) -> set[Any]:
    """Return the classes of an annotation, e.g. {tuple, NoneType} for ``tuple[int, ...] | None``."""
    origin = get_origin(annotation) or annotation
    if origin in (Union, UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    return _kinds(get_args(annotation)[0]) if origin is Annotated else {origin}


def split_fields(text: str) -> list[str]:
    """Split a text at the commas that are not inside brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "[({") - (char in "])}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]
