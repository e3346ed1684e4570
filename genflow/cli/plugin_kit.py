"""``genflow new-plugin`` and ``genflow plugin-info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from genflow.cli import completion
from genflow.cli.options import emit, json_option

#: of `genflow.new_plugin`, which imports more than --help needs
KINDS = ("environment", "reward", "policy", "metric", "encoder")


@click.command("plugin-info")
@click.argument("name")
@json_option
def plugin_info(name: str, as_json: bool) -> None:
    """Say what a plugin, or what is registered under a name, is: its options, presets, generators.

    \b
    Example:
      genflow plugin-info hypergrid
    """
    from genflow.plugin_info import info

    entries = info(name)
    lines = [line for entry in entries for line in _lines(entry)]
    alone = f"{name} adds commands alone; see `genflow --help`"
    emit(as_json, {"name": name, "entries": entries}, "\n".join(lines) or alone)


def _lines(entry: dict[str, Any]) -> list[str]:
    """Write an entry of `plugin_info.info` for people."""
    of = f" of environment {entry['environment']}" if "environment" in entry else ""
    lines = [f"{entry['kind']} {entry['name']}{of}  (plugin {entry['plugin']}, {entry['class']})"]
    lines += [f"  {entry['line']}"] * bool(entry["line"])
    for field in entry["fields"]:
        default = "required" if field["required"] else f"default {_value(field['default'])}"
        limits = [f"{name}={limit}" for name, limit in field["limits"].items()]
        facts = ", ".join([f"{field['type']}", *limits, default, *filter(None, [field.get("role")])])
        lines += [f"  {field['name']}  ({facts})", f"      {field['line'] or '(no description)'}"]
    for preset, values in entry.get("presets", {}).items():
        lines.append(f"  preset {preset}: " + ", ".join(f"{key}={_value(values[key])}" for key in values))
    for what in ("default_structures", "rewards"):
        if entry.get(what):
            lines.append(f"  {what.replace('_', ' ')}: {', '.join(entry[what])}")
    for card in entry.get("pretrained", ()):
        covers = ", ".join(f"{key} {low:g} to {high:g}" for key, (low, high) in card["coverage"].items())
        lines.append(
            f"  generator {card['name']}: {card['policy']}, trained on {card['training_structures']}"
            f" structures, covers {covers or 'what it was trained on'}"
        )
    if "better" in entry:
        marks = [key for key in ("exact", "joint", "reference") if entry[key]]
        lines.append(f"  better: {', '.join([entry['better'] or 'neither', *marks])}")
    return lines


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@click.command("new-plugin")
@click.argument("name")
@click.option("--kind", required=True, type=click.Choice(KINDS), help="What the plugin registers.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="A new folder (default: genflow-NAME)."
)
@click.option(
    "--env",
    metavar="NAME",
    shell_complete=completion.registered("environment"),
    help="Of a reward: the environment that it belongs to.",
)
@click.option(
    "--structure", "structures", multiple=True, metavar="NAME|key=value,...",
    help="Of a reward: structures of the environment to try it on; repeatable, the last one is held out.",
)  # fmt: skip
@json_option
def new_plugin(
    name: str, kind: str, out: Path | None, env: str | None, structures: tuple[str, ...], as_json: bool
) -> None:
    """Write a plugin to start from: a distribution with a class, tests, a recipe and a Makefile.

    \b
    Example:
      genflow new-plugin spin_glass --kind environment
    """
    from genflow.new_plugin import write_plugin

    folder = write_plugin(name, kind, out, env, structures)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    emit(
        as_json,
        {"name": name, "kind": kind, "folder": str(folder), "files": files},
        f"{folder} is a plugin: cd {folder} && make check, then read README.md",
    )
