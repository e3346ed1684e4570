"""``genflow new-plugin``: a distribution of one's own, written from the templates that ship.

The templates are in ``templates/``: what all kinds share in ``common``, texts that several of them contain in
``parts``, the rest in a folder a kind. Rewards have one more, `Environment.reward_template` or
``reward-any``. What architectures, metrics and encoders are tried on is in ``defaults.toml``. In the names of
files and in their text ``$name`` and its like are replaced, as `string.Template` does.
"""

from __future__ import annotations

import importlib.util
import keyword
import os
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from genflow.errors import GenflowError, did_you_mean
from genflow.pretrained import packaged
from genflow.registry import defaults, registry
from genflow.schema import brief, reward_field
from genflow.storage.files import TEMPORARY_SUFFIX, told_in_one_line
from genflow.structure import Structure
from genflow.structure_fields import at_default, field_text, parse_fields, resolve_fields

SUFFIX = ".tmpl"
#: kinds with a template
KINDS = ("environment", "reward", "policy", "metric", "encoder")


def write_plugin(
    name: str, kind: str, folder: Path | None = None, env: str | None = None, structures: Sequence[str] = ()
) -> Path:
    """Write a plugin to start from, and return its folder; nothing is left behind where it fails.

    Args:
        name: of the plugin and of what it registers.
        kind: one of `KINDS`.
        folder: where to write, by default ``genflow-NAME``.
        env: of a reward: the registered name of its environment.
        structures: of a reward: at least two of the environment's structures, of which the last is held out;
            by default those that it names itself.

    Raises:
        GenflowError: the name or the folder cannot be had, or the environment takes no rewards.
    """
    package = f"genflow_{name}"
    values = {
        "name": name,
        "package": package,
        "dist": package.replace("_", "-"),
        "dot": ".",  # a file whose name begins with one would not be packaged
        "cls": "".join(part[:1].upper() + part[1:] for part in name.split("_")),
        **_tried_on("rewards" if kind == "encoder" else "sizes"),
    }
    _require_free_name(values, kind, env)
    templates = resources.files("genflow").joinpath("templates")
    folders = [templates.joinpath(each) for each in ("common", kind)]
    if kind == "reward":
        assert env is not None  # see `_require_rewards`
        own = registry().load("environment", env).reward_template
        if own is None or structures:
            folders.append(templates.joinpath("reward-any"))
            values |= _structures_of(name, env, structures)
        else:
            folders.append(packaged(own, f"environment {env!r} says that the template of its rewards is"))
        values["env"] = env
    elif env is not None or structures:
        raise GenflowError(f"--env and --structure are for rewards, not for the kind {kind}; leave them out")
    target = Path(folder) if folder is not None else Path(values["dist"])
    with told_in_one_line():
        if os.path.lexists(target):
            raise GenflowError(f"{target} exists already; give another folder with --out")
        parts = _filled(templates.joinpath("parts"), values)
        values |= {f"part_{part.partition('.')[0]}": text.rstrip() for part, text in parts.items()}
        values["tried"] = _first_structure(folders[-1].joinpath(f"recipe.toml{SUFFIX}"), values)
        files: dict[str, str] = {}
        for each in folders:
            files |= _filled(each, values)
        _write(target, files)
    return target


def _require_free_name(values: Mapping[str, str], kind: str, env: str | None) -> None:
    """Refuse a name that is no name, or is taken."""
    name, package = values["name"], values["package"]
    shown = brief(name, 60)
    if not (name.isascii() and name.isidentifier() and name.strip("_") == name):
        raise GenflowError(
            f"{shown!r} is no name for a plugin: letters, digits and underscores, as in spin_glass, beginning"
            " with a letter"
        )
    if any(keyword.iskeyword(each) for each in (name, values["cls"])):
        raise GenflowError(f"{shown!r} is a word of Python's; choose another name")
    if len(name) > 50:
        raise GenflowError(f"the name {shown!r} has {len(name)} characters, of at most 50")
    for plugin in registry().plugins:
        if plugin.name == name:
            raise GenflowError(f"the plugin {name!r} exists already; choose another name")
    if kind == "reward":
        _require_rewards(env)
    if name in registry().names(kind, env if kind == "reward" else None):
        raise GenflowError(f"the {kind} {name!r} exists already; choose another name")
    for module in (name, package):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None:  # else a folder that happens to be called so
            raise GenflowError(f"the module {module!r} exists already; choose another name")


def _require_rewards(env: str | None) -> None:
    """Refuse an environment that takes no rewards."""
    names = registry().names("environment")
    if env is None:
        raise GenflowError(
            f"a reward belongs to an environment; name it with --env, one of: {', '.join(names)}"
        )
    if env not in names:
        raise GenflowError(f"unknown environment {brief(env)!r}{did_you_mean(env, names)}")
    if reward_field(registry().load("environment", env).Config) is None:
        raise GenflowError(
            f"environment {env!r} takes no rewards: its Config has no field made by genflow.reward_name"
        )


def _tried_on(which: str) -> dict[str, str]:
    """What the templates say of environment and structures, where they are not the user's to choose."""
    table = defaults()["new_plugin"]
    return {"env": table["env"]} | {key: _listed(texts) for key, texts in table[which].items()}


def _structures_of(name: str, env: str, given: Sequence[str]) -> dict[str, str]:
    """What the templates of a reward say of structures: those trained on, and the last one, held out."""
    cls = registry().load("environment", env)
    named = given or (cls.default_structures if len(cls.default_structures) > 1 else tuple(cls.presets))
    if len(named) < 2:
        raise GenflowError(
            f"environment {env!r} names fewer than two structures; give some with --structure, of which the"
            " last is held out of training"
        )
    key = reward_field(cls.Config)
    texts = [_as_parsed(env, each, key) for each in named]
    *trained, held_out = (Structure.parse(env, text) for text in texts)
    if held_out in trained:
        raise GenflowError(
            f"--structure {brief(named[-1])} is the last one, held out; do not train on it too"
        )
    texts = [f"{text},{key}={name}".lstrip(",") for text in texts]
    return {"structures": _listed(texts[:-1]), "selected": _listed([]), "held_out": _listed(texts[-1:])}


def _as_parsed(env: str, text: str, key: str | None) -> str:
    """Write the fields of a structure but those of its reward, as text that needs no quotation marks."""
    shown = f"--structure {brief(text)}"
    fields, typed = parse_fields(env, text)
    if key in typed:
        raise GenflowError(f"{shown} names a reward; leave {key} out, it is the new one")
    structure = Structure.parse(env, text)
    reward = structure.environment.reward
    paid = set(type(reward.config).model_fields if reward is not None else ())
    if paid & typed:
        raise GenflowError(
            f"{shown} has options of another reward; leave {', '.join(sorted(paid & typed))} out"
        )
    try:
        resolve_fields(env, structure.policy, fields, read_files=False, texts=typed)
    except GenflowError:  # it was valid where files may be read
        raise GenflowError(
            f"{shown} names a file, which the plugin would not find where it is installed; leave it out"
        ) from None
    values, texts = structure.filled(), []
    for config in (structure.environment.config, structure.arch.config):
        for each in type(config).model_fields:
            # a validator may have filled in what was not given
            if each != key and (each in fields or not at_default(config, each)):
                texts.append(f"{each}={field_text(type(config), each, values[each])}")
    return ",".join(texts)


def _listed(texts: Sequence[str]) -> str:
    """Write texts without quotation marks as a list of TOML, one a line where there are several."""
    lines = [f'"{each}"' for each in texts]
    return f"[{''.join(lines)}]" if len(lines) < 2 else "[\n  " + ",\n  ".join(lines) + ",\n]"


def _filled(folder: Traversable, values: Mapping[str, str], prefix: str = "") -> dict[str, str]:
    """The files of a template, {path: text}, with the values put in."""
    files: dict[str, str] = {}
    for each in folder.iterdir():
        path = prefix + Template(each.name.removesuffix(SUFFIX)).substitute(values)
        if each.is_dir():
            files |= _filled(each, values, f"{path}/")
        else:
            files[path] = _fill(each, values)
    return files


def _first_structure(recipe: Traversable, values: Mapping[str, str]) -> str:
    """What the tests of a template try: the first structure that its recipe trains on."""
    try:
        return str(tomllib.loads(_fill(recipe, values))["structures"][0])
    except (LookupError, TypeError, tomllib.TOMLDecodeError) as error:
        raise GenflowError(f"template {recipe} is no recipe with structures: {brief(repr(error))}") from None


def _fill(file: Traversable, values: Mapping[str, str]) -> str:
    try:
        return Template(file.read_text(encoding="utf-8")).substitute(values)
    except (KeyError, ValueError) as error:  # what another distribution ships may be wrong
        raise GenflowError(f"template {file}: {brief(repr(error))}; is a $$ missing for a $?") from None


def _write(target: Path, files: Mapping[str, str]) -> None:
    """Write files into a new folder, all or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}{TEMPORARY_SUFFIX}{os.getpid()}")
    try:
        for name, text in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
