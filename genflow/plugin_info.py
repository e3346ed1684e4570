"""What is known of a plugin and of the names that it registers, for ``genflow plugin-info``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from genflow.class_lines import line_of
from genflow.errors import GenflowError, did_you_mean
from genflow.pretrained import load_card, shipped
from genflow.registry import Plugin, registry
from genflow.schema import brief, role_of

#: kinds whose fields are keys of ``--structure``, and so have a role
STRUCTURAL = ("environment", "reward", "policy")
#: what the attributes of a metric say
METRIC = ("better", "exact", "joint", "reference")


def info(name: str) -> list[dict[str, Any]]:
    """Describe every name that a plugin provides, or everything that is registered under a name.

    Args:
        name: of a plugin; or a registered name of any kind, of a reward with or without its environment, as
            in ``hypergrid:original``.

    Returns:
        An entry for each, as JSON: its `kind`, `name`, `plugin`, `class` and `line`; the `fields` of its
        options; of an environment its `presets`, `default_structures`, `rewards` and `pretrained`
        generators; of a metric what its attributes say.

    Raises:
        GenflowError: nothing has this name, or what has it cannot be used.
    """
    found = [
        _entry(plugin, kind, registered, target)
        for plugin in registry().plugins
        for kind, names in (plugin.targets.items() if plugin.error is None else ())
        for registered, target in names.items()
        if name == plugin.name or name == registered or registered.endswith(f":{name}")
    ]
    if found:
        return found
    broken = next((plugin for plugin in registry().plugins if plugin.name == name and plugin.error), None)
    if broken is not None:
        raise GenflowError(f"plugin {name!r} cannot be used: {broken.error}")
    if any(plugin.name == name for plugin in registry().plugins):
        return []  # it adds commands alone
    known = {plugin.name for plugin in registry().plugins}
    known |= {each for plugin in registry().plugins for names in plugin.targets.values() for each in names}
    raise GenflowError(
        f"no plugin and nothing registered is called {brief(name)!r}{did_you_mean(name, known)}"
    )


def _entry(plugin: Plugin, kind: str, name: str, target: str) -> dict[str, Any]:
    environment, _, own = name.rpartition(":")
    cls = registry().load(kind, own, environment or None)
    entry: dict[str, Any] = {
        "kind": kind, "name": own, "plugin": plugin.name, "class": target, "line": line_of(target)
    }  # fmt: skip
    if kind == "reward":
        entry["environment"] = environment
    entry["fields"] = fields_of(cls.Config, roles=kind in STRUCTURAL)
    if kind == "environment":
        entry["presets"] = {preset: dict(fields) for preset, fields in cls.presets.items()}
        entry["default_structures"] = list(cls.default_structures)
        entry["rewards"] = registry().names("reward", name)
        entry["pretrained"] = [_generator(f"{name}/{folder.name}") for folder in shipped(name)]
    if kind == "metric":
        entry |= {key: getattr(cls, key, None) for key in METRIC}
    return to_jsonable_python(entry)


def _generator(name: str) -> dict[str, Any]:
    """What the model card of a generator that ships says of where it works."""
    card = load_card(name)[1]
    return {
        "name": name,
        "policy": card.policy,
        "encoder": card.encoder.name,
        "training_structures": len(card.training_structures),
        "coverage": card.coverage,
    }


def fields_of(model: type[BaseModel], roles: bool) -> list[dict[str, Any]]:
    """Describe the options of a class: name, type, default, limits, role and line of each field.

    Args:
        model: the class's `Config`.
        roles: whether the fields are keys of ``--structure``.
    """
    found = []
    for key, field in model.model_fields.items():
        entry = {
            "name": key,
            "type": type_text(field.annotation),
            "required": field.is_required(),
            "default": None if field.is_required() else field.get_default(call_default_factory=True),
            "limits": {
                name: limit
                for each in field.metadata
                for name in ("gt", "ge", "lt", "le", "min_length", "max_length")
                if (limit := getattr(each, name, None)) is not None
            },
            "line": field_line(model, key),
        }
        found.append(entry | ({"role": role_of(model, key)} if roles else {}))
    return found


def field_line(model: type[BaseModel], key: str) -> str:
    """Return the line on a field: its description, or what the docstring of its `Config` says after its name.

    A docstring says it as in ```length`: positions L.``, up to the next field or the end of the paragraph.
    """
    said = model.model_fields[key].description
    if said is None:
        names = "|".join(map(re.escape, model.model_fields))
        paragraph = rf"`{re.escape(key)}`: +(.*?)(?=`(?:{names})`:|\n\s*\n|\Z)"
        match = re.search(paragraph, model.__doc__ or "", re.DOTALL)
        said = match[1] if match else ""
    return " ".join(said.split())


def type_text(annotation: Any) -> str:
    """Write a type as a user may read it, e.g. ``int | list of float`` or ``"uniform" | "maxent"``."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(parts[0])
    if origin is Literal:
        return " | ".join(f'"{each}"' if isinstance(each, str) else str(each) for each in parts)
    if origin in (Union, UnionType):
        return " | ".join(map(type_text, parts))
    if annotation in (NoneType, None):
        return "none"
    if origin in (list, tuple, set, frozenset, Sequence):
        inner = list(dict.fromkeys(type_text(each) for each in parts if each is not Ellipsis))
        several = inner[0] if len(inner) == 1 else f"({', '.join(inner)})"
        return f"list of {f'({several})' if ' | ' in several else several}"
    if origin is dict:
        return f"table of {type_text(parts[1])}"
    return getattr(annotation, "__name__", str(annotation))
