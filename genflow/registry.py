"""The registry of plugins, which entry points of group ``genflow`` provide.

A plugin registers names with targets ``"module:Class"``, which are imported only when a name is used. So
listing plugins imports neither their classes nor torch. A plugin that cannot be loaded contributes nothing
and is listed with its error. Only a command that asks for one of its names fails.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any

import click
import pluggy

from genflow import hookspecs
from genflow.errors import GenflowError, did_you_mean

GROUP = "genflow"
DISABLE_VARIABLE = "GENFLOW_DISABLE_PLUGINS"
OWN_DISTRIBUTIONS = ("genflownet", "genflow")  # and its former name, which an environment may have yet

#: kind -> (hook that registers it, interface that its classes implement)
KINDS = {
    "environment": ("register_environments", "genflow.interfaces.environment:Environment"),
    "reward": ("register_rewards", "genflow.interfaces.reward:Reward"),
    "policy": ("register_policies", "genflow.interfaces.policy:PolicyArch"),
    "encoder": ("register_encoders", "genflow.interfaces.encoder:Encoder"),
    "denoiser": ("register_denoisers", "genflow.interfaces.denoiser:Denoiser"),
    "metric": ("register_metrics", "genflow.interfaces.metric:Metric"),
    "tracker": ("register_trackers", "genflow.interfaces.tracker:Tracker"),
}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass
class Plugin:
    """A plugin with the names that it provides, or the error for which it cannot be used."""

    name: str
    distribution: str | None
    version: str | None
    targets: dict[str, dict[str, str]] = field(default_factory=dict)
    error: str | None = None

    def provides(self) -> dict[str, list[str]]:
        """Return the names of each kind, or nothing for a plugin with an error."""
        return (
            {kind: sorted(names) for kind, names in self.targets.items() if names}
            if self.error is None
            else {}
        )

    def as_json(self) -> dict[str, Any]:
        """Return the entry that ``list-plugins --json`` prints."""
        return {
            "name": self.name,
            "version": self.version,
            "distribution": self.distribution,
            "provides": self.provides(),
            "error": self.error,
        }


class Registry:
    """All plugins and the names that they provide."""

    def __init__(self, points: list[EntryPoint], disabled: set[str]) -> None:
        self._hooks = pluggy.PluginManager(hookspecs.PROJECT)
        self._hooks.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        for point in _in_order(points):  # who wins a name does not depend on the order of installation
            plugin = Plugin(point.name, *_origin(point.dist))
            try:
                if point.name in disabled:
                    raise GenflowError(f"disabled by {DISABLE_VARIABLE}")
                with stdout_to_stderr():
                    self._load(point, plugin)
            except GenflowError as error:
                plugin.error = str(error)
            self.plugins.append(plugin)
        #: names in GENFLOW_DISABLE_PLUGINS that no plugin has
        self.unknown_disabled = sorted(disabled - {p.name for p in self.plugins})

    def add(self, name: str, module: Any, where: str) -> None:
        """Add a module as a plugin for this process, see `genflow.load_plugin`.

        Raises:
            GenflowError: it has no hooks, or an invalid one.
        """
        plugin = Plugin(name, None, None)
        with stdout_to_stderr():
            self._register(module, where, plugin)
        self.plugins.append(plugin)

    def has(self, module: Any) -> bool:
        """Return whether a module is a plugin."""
        return self._hooks.is_registered(module)

    def _load(self, point: EntryPoint, plugin: Plugin) -> None:
        earlier = next((p for p in self.plugins if p.name == plugin.name), None)
        if earlier is not None:
            there = f"a plugin named {plugin.name!r} is already installed by {earlier.distribution}"
            raise GenflowError(f"{there}; uninstall one of them")
        try:
            module = point.load()
        except (Exception, SystemExit) as error:  # a plugin's import may raise anything
            raise GenflowError(f"import of {point.value} failed: {type(error).__name__}: {error}") from error
        self._register(module, point.value, plugin)

    def _register(self, module: Any, where: str, plugin: Plugin) -> None:
        """Register the hooks of a module.

        Raises:
            GenflowError: the module has no hooks, or an invalid one. `where` names the module.
        """
        same = self._hooks.get_name(module)
        if same is not None:
            raise GenflowError(f"{where} is plugin {same!r} already; remove one of the two entry points")
        try:
            self._hooks.register(module, name=plugin.name)
            self._hooks.check_pending()
        except Exception as error:  # pluggy reports a bad hook in several ways
            self._hooks.unregister(name=plugin.name)
            raise GenflowError(self._bad_hook(module, error)) from error
        try:
            if not self._hooks.get_hookcallers(module):
                raise GenflowError(f"{where} implements no hook; mark its functions with @genflow.hookimpl")
            self._collect(module, plugin)
        except GenflowError:
            self._hooks.unregister(name=plugin.name)
            raise

    def _bad_hook(self, module: Any, error: Exception) -> str:
        known = {name for name in vars(hookspecs) if name.startswith("register_")}
        unknown = [n for n in vars(module) if n not in known and self._hooks.parse_hookimpl_opts(module, n)]
        if unknown:
            return f"unknown hook {unknown[0]!r}{did_you_mean(unknown[0], known)}"
        return f"bad hook: {error}"

    def _collect(self, module: Any, plugin: Plugin) -> None:
        for kind, (hook, _) in KINDS.items():
            names: dict[str, str] = {}
            plugin.targets[kind] = names

            def register(
                name: str, target: str, environment: str | None = None, kind: str = kind, hook: str = hook,
                names: dict[str, str] = names,
            ) -> None:  # fmt: skip
                if not (isinstance(name, str) and _NAME.fullmatch(name)):
                    raise GenflowError(f"{hook}: {name!r} is no valid name")
                if not (isinstance(target, str) and _TARGET.fullmatch(target)):
                    raise GenflowError(
                        f"{hook}: {kind} {name!r} must be given as 'module:Class', not {target!r}"
                    )
                if kind == "reward" and not (isinstance(environment, str) and _NAME.fullmatch(environment)):
                    raise GenflowError(
                        f"{hook}: reward {name!r} must say whose it is, e.g. register({name!r}, {target!r},"
                        f" environment='NAME'), not {environment!r}"
                    )
                if kind != "reward" and environment is not None:
                    raise GenflowError(f"{hook}: only rewards belong to an environment, not {kind} {name!r}")
                name = _key(name, environment)
                owner = next(
                    (p for p in self.plugins if p.error is None and name in p.targets.get(kind, {})), None
                )
                if owner is not None or name in names:
                    by = owner.name if owner else plugin.name
                    raise GenflowError(f"{hook}: {kind} {name!r} is already registered by plugin {by!r}")
                names[name] = target

            try:
                self._call(hook, module, register=register)
            except GenflowError:
                raise
            except (Exception, SystemExit) as error:  # a plugin's code may raise anything
                raise GenflowError(f"{hook} failed: {type(error).__name__}: {error}") from error

    def _call(self, hook: str, module: Any, **arguments: Any) -> None:
        """Call a hook of one plugin through pluggy, if the plugin implements it."""
        others = [other for other in self._hooks.get_plugins() if other is not module]
        self._hooks.subset_hook_caller(hook, others)(**arguments)

    def names(self, kind: str, environment: str | None = None) -> list[str]:
        """Return the usable names of a kind, sorted.

        Without an environment, the names of rewards are ``environment:name``.
        """
        usable = (plugin for plugin in self.plugins if plugin.error is None)
        found = sorted(name for plugin in usable for name in plugin.targets.get(kind, {}))
        prefix = _key("", environment)
        return [name.removeprefix(prefix) for name in found if name.startswith(prefix)]

    def load(self, kind: str, name: str, environment: str | None = None, saved: bool = False) -> type[Any]:
        """Import the class that is registered under a name.

        Args:
            kind: a key of `KINDS`.
            name: the name.
            environment: the environment of a reward.
            saved: whether a file names it, in which an unknown name is another plugin's, not misspelt.

        Raises:
            GenflowError: the name is unknown, its plugin cannot be used, its module cannot be imported, or
                the class does not implement the interface of its kind.
        """
        asked, name = name, _key(name, environment)
        broken = None
        for plugin in self.plugins:
            target = plugin.targets.get(kind, {}).get(name)
            if target and plugin.error is None:
                return _import_target(kind, name, plugin, target)
            if plugin.error is not None and (target or plugin.name == name):
                broken = plugin
        if broken is not None:
            raise GenflowError(
                f"{kind} {name!r} comes from plugin {broken.name!r}, which cannot be used: {broken.error}"
            )
        failed = [plugin.name for plugin in self.plugins if plugin.error is not None]
        hint = f" (not usable: {', '.join(failed)}; see `genflow list-plugins`)" if failed else ""
        whose = f" of environment {environment!r}" if environment is not None else ""
        from genflow.schema import brief  # imports pydantic, which listing plugins does not need

        asked = brief(asked)
        if saved:
            raise GenflowError(
                f"{kind} {asked!r}{whose} is of a plugin that is not loaded here: install it, or give its"
                f" file with `genflow --plugin FILE.py` or genflow.load_plugin{hint}"
            )
        known = did_you_mean(asked, self.names(kind, environment))
        own = "" if "did you mean" in known else "; for your own, genflow --plugin FILE.py COMMAND ..."
        raise GenflowError(f"unknown {kind} {asked!r}{whose}{known}{own}{hint}")

    def check(self) -> None:
        """Import every target, torch included, and record failures as the error of their plugin."""
        for plugin in self.plugins:
            for kind, names in plugin.targets.items() if plugin.error is None else ():
                for name, target in names.items():
                    try:
                        _import_target(kind, name, plugin, target)
                    except GenflowError as error:
                        plugin.error = str(error)

    def add_commands(self, cli: click.Group) -> None:
        """Let each plugin add its commands to the command line.

        A plugin that fails, or that replaces an existing command, gets an error and adds nothing.
        """
        for plugin in self.plugins:
            module = self._hooks.get_plugin(plugin.name) if plugin.error is None else None
            if module is None:
                continue
            before = dict(cli.commands)
            # built-in commands are loaded lazily, so they are not in cli.commands
            known = cli.list_commands(click.Context(cli))
            try:
                with stdout_to_stderr():
                    self._call("register_commands", module, cli=cli)
                taken = [name for name in known if cli.commands.get(name) is not before.get(name)]
                if taken:
                    raise GenflowError(f"register_commands: command {taken[0]!r} is already there")
            except (Exception, SystemExit) as error:  # a plugin's code may raise anything
                cli.commands.clear()
                cli.commands.update(before)
                plugin.error = (
                    str(error) if isinstance(error, GenflowError) else f"register_commands failed: {error!r}"
                )


def _key(name: str, environment: str | None) -> str:
    """Return the registry's key of a name, as two environments may have rewards of the same name."""
    return name if environment is None else f"{environment}:{name}"


@cache  # importlib.metadata parses the whole metadata file at every access
def _origin(distribution: Distribution | None) -> tuple[str | None, str | None]:
    """Return the name and the version of a distribution."""
    metadata = distribution.metadata if distribution else None
    return (metadata["Name"], metadata["Version"]) if metadata else (None, None)


def _in_order(points: list[EntryPoint]) -> list[EntryPoint]:
    """Sort our own plugins first, each once, and others by name."""
    names = [*OWN_DISTRIBUTIONS, None]
    rank = {id(p): names.index(name if (name := _origin(p.dist)[0]) in names else None) for p in points}
    kept: dict[Any, EntryPoint] = {}
    for point in sorted(points, key=lambda p: (rank[id(p)], p.name, p.value)):
        kept.setdefault((point.name, point.value) if names[rank[id(point)]] else id(point), point)
    return list(kept.values())


def stdout_to_stderr() -> contextlib.AbstractContextManager[object]:
    """Send what a plugin prints to standard error, because standard output is for a command's result."""
    return contextlib.redirect_stdout(sys.stderr)


def _import_target(kind: str, name: str, plugin: Plugin, target: str) -> type[Any]:
    module_name, _, class_name = target.partition(":")
    try:
        with stdout_to_stderr():
            cls = getattr(importlib.import_module(module_name), class_name)
    except (Exception, SystemExit) as error:  # a plugin's import may raise anything
        raise GenflowError(
            f"{kind} {name!r} of plugin {plugin.name!r}: cannot import {target}: {type(error).__name__}:"
            f" {error}"
        ) from error
    interface_module, _, interface_name = KINDS[kind][1].partition(":")
    interface = getattr(importlib.import_module(interface_module), interface_name)
    if not (isinstance(cls, type) and issubclass(cls, interface)):
        raise GenflowError(
            f"{kind} {name!r} of plugin {plugin.name!r}: {target} is not a subclass of"
            f" genflow.{interface.__name__}"
        )
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise GenflowError(
            f"{kind} {name!r} of plugin {plugin.name!r}: {target} does not implement {', '.join(missing)}"
        )
    return cls


@cache
def default_name(kind: str) -> str:
    """Return the default name of a kind in ``defaults.toml``."""
    return str(defaults()[kind])


def defaults() -> dict[str, Any]:
    """Return what ``defaults.toml`` holds, the core's only mention of plugins."""
    import tomllib  # not needed to list plugins
    from importlib import resources

    return tomllib.loads(resources.files("genflow").joinpath("defaults.toml").read_text())


@cache
def registry() -> Registry:
    """Return the registry of this process, which is built from the installed entry points on first use."""
    disabled = {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",") if name.strip()}
    return Registry(list(entry_points(group=GROUP)), disabled)
