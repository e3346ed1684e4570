"""Every option of the configuration and of the command line is documented, with the default that it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel

from genflow import hookspecs, load_config
from genflow.cli.main import cli
from genflow.registry import registry

DOCS = Path(__file__).parents[1] / "docs"
OPTIONS, COMMAND_LINE = DOCS / "options.md", DOCS / "cli.md"
#: where the built-in plugins' own options stand: kind -> section
PLUGINS = {"encoder": "autoencoder.options", "denoiser": "diffusion.options"}


def shown(value: Any) -> str:
    """A default as the tables write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def documented() -> dict[tuple[str, str], str]:
    """{(section, key): default} of all rows of the tables; "" is the section of keys that stand in none.

    A table with a column for each of several sections has a row for all of them.
    """
    found = {}
    for heading, text in re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", OPTIONS.read_text(), re.MULTILINE):
        own = re.sub(r"[`]|:.*", "", heading) if "`" in heading else ""
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
        names = [own if name == "default" else name for name in rows[0][1:-1]]
        for key, *defaults, meaning in rows[2:]:
            assert meaning.endswith("."), f"docs/options.md, {heading}, {key}: write a sentence"
            found |= {(name, key.strip("`")): value for name, value in zip(names, defaults, strict=True)}
    return found


def options() -> dict[tuple[str, str], Any]:
    """{(section, key): default} of the configuration, and of the options of the built-in plugins."""
    found = {}

    def walk(section: str, values: BaseModel) -> None:
        for key in type(values).model_fields:
            value = getattr(values, key)
            if isinstance(value, BaseModel):
                walk(f"{section}.{key}".strip("."), value)
            else:
                found[section, key] = value

    walk("", load_config(env="hypergrid"))
    for kind, section in PLUGINS.items():
        for name in registry().names(kind):
            walk(f"{section} of {name}", registry().load(kind, name).Config())
    for name in registry().names("tracker"):
        walk(f"tracking.options.{name}", registry().load("tracker", name).Config())
    return found


def test_every_option_is_documented_with_its_default():
    wrong, known, told = [], options(), documented()
    for (section, key), default in known.items():
        place = f"`{key}` of {f'section `{section}`' if section else 'the whole configuration'}"
        if (section, key) not in told:
            wrong.append(f"{place} is missing: add a row with a sentence")
        elif told[section, key] not in (shown(default), "required"):
            wrong.append(f"{place} has the default {shown(default)}, not {told[section, key]}")
    wrong += [
        f"`{key}` of `{section}` is no option: remove it" for section, key in told.keys() - known.keys()
    ]
    assert not wrong, "docs/options.md:\n" + "\n".join(wrong)


def commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    return {"genflow": cli} | {name: command for name, command in found.items() if command is not None}


@pytest.mark.parametrize("name", commands())
def test_every_option_of_a_command_is_documented(name):
    linked = re.findall(r"\]\((\w+\.md)", COMMAND_LINE.read_text())
    text = "".join((DOCS / each).read_text() for each in [COMMAND_LINE.name, *dict.fromkeys(linked)])
    missing = [
        word
        for option in commands()[name].params
        if isinstance(option, click.Option)
        for word in (*option.opts, *option.secondary_opts)
        if not re.search(rf"`{word}[ `]", text)
    ]
    assert not missing, f"docs/cli.md, or a guide that it links to: say in a sentence what {missing} mean"


def test_every_hook_and_every_kind_of_plugin_is_documented():
    guide, *examples = (
        (DOCS / f"{name}.md").read_text() for name in ("plugins", "plugin_examples", "tracking")
    )
    hooks = [name for name in vars(hookspecs) if name.startswith("register_")]
    assert len(hooks) > 6
    for hook in hooks:
        assert f"| `{hook}` |" in guide, f"docs/plugins.md: say in the table of hooks what {hook} does"
        assert re.search(rf"^def {hook}\(", "".join([guide, *examples]), re.MULTILINE), (
            f"docs/plugin_examples.md: an example with {hook} is missing"
        )


@pytest.mark.parametrize("name", [name for name in commands() if name != "genflow"])
def test_every_command_has_its_row_in_the_guide(name):
    row = re.search(rf"^\| `genflow {name}[ `]", COMMAND_LINE.read_text(), re.M)
    assert row, f"docs/cli.md: say in the table of commands what `genflow {name}` makes"
