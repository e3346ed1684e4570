"""``genflow new-plugin``: a distribution of one's own, written from the templates that ship.

The templates are in ``templates/``: what all kinds share in ``common``, texts that several of them contain in
``parts``, the rest in a folder a kind. Rewards have one more, ``reward-ENVIRONMENT`` or ``reward-other``. In
the names of files and in their text ``$name`` and its like are replaced, as `string.Template` does.
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
from genflow.registry import registry
from genflow.schema import brief, reward_field
from genflow.storage.files import TEMPORARY_SUFFIX, told_in_one_line
from genflow.structure import Structure
from genflow.structure_fields import parse_fields

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
        "more": "",  # fields of the structures that several kinds train on
        "cls": "".join(part[:1].upper() + part[1:] for part in name.split("_")),
    }
    _require_free_name(values, kind, env)
    folders = ["common", kind]
    if kind == "reward":
        assert env is not None  # see `_require_rewards`
        own = f"reward-{env}"
        folders.append(own if own in _templates() and not structures else "reward-other")
        values |= {"env": env} | _structures_of(name, env, structures)
    elif env is not None or structures:
        raise GenflowError(f"--env and --structure are for rewards, not for the kind {kind}; leave them out")
    target = Path(folder) if folder is not None else Path(values["dist"])
    with told_in_one_line():
        if os.path.lexists(target):
            raise GenflowError(f"{target} exists already; give another folder with --out")
        parts = _filled(_templates()["parts"], values)
        values |= {f"part_{part.partition('.')[0]}": text.rstrip() for part, text in parts.items()}
        recipe = _templates()[folders[-1]].joinpath(f"recipe.toml{SUFFIX}").read_text(encoding="utf-8")
        values["tried"] = tomllib.loads(Template(recipe).substitute(values))["structures"][0]  # by the tests
        files: dict[str, str] = {}
        for each in folders:
            files |= _filled(_templates()[each], values)
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
    for each in given:
        fields = parse_fields(env, each)[0]
        if key in fields:
            raise GenflowError(
                f"--structure {brief(each)} names a reward; leave {key} out, it is the new one"
            )
        Structure.parse(env, each)
    *trained, held_out = (f"{each},{key}={name}" for each in named)
    return {
        "more": f",{key}={name}",
        "structures": "\n".join(f'  "{each}",' for each in trained),
        "held_out": held_out,
    }


def _templates() -> dict[str, Traversable]:
    return {each.name: each for each in resources.files("genflow").joinpath("templates").iterdir()}


def _filled(folder: Traversable, values: Mapping[str, str], prefix: str = "") -> dict[str, str]:
    """The files of a template, {path: text}, with the values put in."""
    files: dict[str, str] = {}
    for each in folder.iterdir():
        path = prefix + Template(each.name.removesuffix(SUFFIX)).substitute(values)
        if each.is_dir():
            files |= _filled(each, values, f"{path}/")
        else:
            files[path] = Template(each.read_text(encoding="utf-8")).substitute(values)
    return files


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
