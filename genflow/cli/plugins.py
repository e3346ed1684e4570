"""``genflow list-plugins``, which does not import torch unless ``--check`` is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from genflow.registry import Plugin


@click.command("list-plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--check",
    is_flag=True,
    help="Import every class that is registered, make the checks that are quick, and list what fails.",
)
@click.pass_context
def list_plugins(context: click.Context, as_json: bool, check: bool) -> None:
    """List the installed plugins, what they provide, and why one cannot be used.

    \b
    Example:
      genflow list-plugins --json
    """
    from genflow.registry import DISABLE_VARIABLE, registry

    root = context.find_root().command
    if isinstance(root, click.Group):
        root.list_commands(context)  # runs register_commands, so that its failures are listed too
    found = _findings() if check else []
    for name in registry().unknown_disabled:
        click.echo(f"genflow: {DISABLE_VARIABLE} names {name!r}, which is no installed plugin", err=True)
    if as_json:
        import json

        plugins = registry().plugins
        told = {"plugins": [plugin.as_json() for plugin in plugins], "lines": _lines_on(plugins)}
        click.echo(json.dumps(told | ({"findings": found} if check else {}), indent=1))
        return
    for plugin in registry().plugins:
        origin = f"{plugin.distribution} {plugin.version}" if plugin.distribution else "of this run"
        click.echo(f"{plugin.name}  ({origin})")
        for kind, lines in _lines_on([plugin]).items():
            width = max(map(len, lines))
            for name, line in lines.items():
                click.echo(f"  {kind}: {name:{width}}  {line}".rstrip())
        if plugin.error:
            click.echo(f"  not usable: {plugin.error}")
        for each in found:
            if each["plugin"] == plugin.name:
                click.echo(f"  finding: {each['kind']} {each['name']}: {each['finding']}")


def _lines_on(plugins: list[Plugin]) -> dict[str, dict[str, str]]:
    """Say of each name that plugins provide what it is, in one line: {kind: {name: line}}."""
    from genflow.class_lines import line_of

    lines: dict[str, dict[str, str]] = {}
    for plugin in plugins:
        for kind, names in plugin.provides().items():
            lines.setdefault(kind, {}).update({each: line_of(plugin.targets[kind][each]) for each in names})
    return lines


def _findings() -> list[dict[str, str]]:
    """Import every class, make those checks of it that are quick, and return what they find."""
    from genflow.registry import registry, stdout_to_stderr
    from genflow.testing.plans import quick_findings

    registry().check()
    found = []
    for plugin in registry().plugins:
        for kind, names in plugin.provides().items():
            for name in names:
                with stdout_to_stderr():
                    findings = quick_findings(kind, name)
                where = {"plugin": plugin.name, "kind": kind, "name": name}
                found += [where | {"finding": " ".join(each.split())} for each in findings]
    return found
