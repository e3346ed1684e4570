"""``genflow list-plugins``, which does not import torch unless ``--check`` is given."""

from __future__ import annotations

import click


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
    found = _findings() if check else {}
    for name in registry().unknown_disabled:
        click.echo(f"genflow: {DISABLE_VARIABLE} names {name!r}, which is no installed plugin", err=True)
    if as_json:
        import json

        entries = [plugin.as_json() for plugin in registry().plugins]
        for entry in entries if check else []:
            entry["findings"] = found.get(entry["name"], [])
        click.echo(json.dumps({"plugins": entries}, indent=1))
        return
    for plugin in registry().plugins:
        origin = f"{plugin.distribution} {plugin.version}" if plugin.distribution else "of this run"
        click.echo(f"{plugin.name}  ({origin})")
        for kind, names in plugin.provides().items():
            click.echo(f"  {kind}: {', '.join(names)}")
        if plugin.error:
            click.echo(f"  not usable: {plugin.error}")
        for finding in found.get(plugin.name, []):
            click.echo(f"  finding: {finding}")


def _findings() -> dict[str, list[str]]:
    """Import every class, and make those checks of it that are cheap: plugin -> a line for each finding."""
    from genflow.registry import registry, stdout_to_stderr
    from genflow.testing.plans import cheap_findings

    registry().check()
    found: dict[str, list[str]] = {}
    for plugin in registry().plugins:
        for kind, names in plugin.provides().items():
            for name in names:
                env, _, own = name.partition(":") if kind == "reward" else ("", "", name)
                with stdout_to_stderr():
                    findings = cheap_findings(kind, own, env or None)
                lines = [f"{kind} {name}: {' '.join(finding.split())}" for finding in findings]
                found.setdefault(plugin.name, []).extend(lines)
    return found
