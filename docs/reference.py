"""The pages of the reference, written from the code: a page a command, and the public names by subject."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator

import click

import genflow
from genflow.cli.main import cli

#: page -> (title, what it holds, modules whose public names it holds); the first that fits takes a name
SUBJECTS = {
    "use": (
        "Generate, measure, sample",
        "What most scripts need: policies in one call, and what to do with them.",
        ("generation", "evaluation.evaluate", "stages.sample", "stages.score", "pipeline"),
    ),
    "nouns": (
        "Populations, structures, generators, zoos",
        "The objects that everything else takes and returns.",
        ("population", "structure", "generator", "storage.zoo", "storage.runs", "storage.populations"),
    ),
    "train": (
        "Training",
        "A zoo, an autoencoder, a generator, in pieces.",
        ("stages", "training", "config"),
    ),
    "interfaces": (
        "Interfaces of plugins",
        "What a plugin implements, what its options are made of, and what it may hand out.",
        ("interfaces", "schema", "layout", "exact", "hookspecs", "plugin_files"),
    ),
    "testing": ("genflow.testing", "Tests that a plugin of yours inherits.", ("testing",)),
    "tools": ("Further tools", "Divergences, files, progress, pictures and pages.", ("",)),
}
#: the modules, beside genflow itself, that say in ``__all__`` what is public
PUBLIC = ("genflow.testing",)


def public_names() -> Iterator[tuple[str, str, object]]:
    """(public name, dotted place of its definition, object) of all that is public."""
    for module in (genflow.__name__, *PUBLIC):
        if importlib.util.find_spec(module) is None:
            continue
        found = importlib.import_module(module)
        lazy = getattr(found, "_LAZY", {})
        for name in found.__all__:
            value, place = getattr(found, name), lazy.get(name, module)
            if place == module and (inspect.isclass(value) or inspect.isfunction(value)):
                place = value.__module__
            place, _, own = place.partition(":")
            yield f"{module}.{name}", f"{place}.{own or name}", value


def subject_of(name: str, place: str) -> str:
    """The page of a public name."""
    own = name if name.startswith(PUBLIC) else place
    inner = own.partition(".")[2]
    return next(
        page
        for page, (_, _, modules) in SUBJECTS.items()
        if any(not each or inner == each or inner.startswith(f"{each}.") for each in modules)
    )


def first_sentence(value: object) -> str:
    """What the docstring of a class or a function begins with; of a value, the value."""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return f"`{value!r}`"
    text = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")
    return text.replace("``", "`")


def api_pages() -> dict[str, str]:
    """{page: text} of the public names: an index, and for each subject their docstrings."""
    pages: dict[str, list[tuple[str, str, object]]] = {subject: [] for subject in SUBJECTS}
    for name, place, value in public_names():
        pages[subject_of(name, place)].append((name, place, value))
    index = [
        "# Reference",
        "",
        "Everything here is written from the code. The [commands](commands/index.md) of the shell have pages"
        " of their own; below are the public names of Python, by subject.",
        "",
    ]
    texts = {}
    for subject, names in pages.items():
        if not names:
            continue
        title, about, _ = SUBJECTS[subject]
        names.sort(key=lambda each: each[0].lower())
        rows = [
            f"| [`{name}`](api/{subject}.md#{place}) | {first_sentence(value)} |"
            for name, place, value in names
        ]
        index += [f"## {title}", "", about, "", "| name | what it is |", "|---|---|", *rows, ""]
        text = [f"# {title}", "", about, ""]
        for name, place, _ in names:
            text += [
                f"::: {place}",
                "    options:",
                f'      heading: "{name}"',
                f'      toc_label: "{name}"',
                "",
            ]
        texts[f"reference/api/{subject}.md"] = "\n".join(text)
    return {"reference/index.md": "\n".join(index), **texts}


def commands() -> dict[str, click.Command]:
    """{name: command} of the built-in commands and those of the built-in plugins."""
    context = click.Context(cli, info_name="genflow")
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _written(option: click.Option) -> str:
    """How an option is written: its names, and what follows."""
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    if isinstance(option.type, click.Choice):
        value = f" {'|'.join(map(str, option.type.choices))}"
    return ", ".join(f"`{name}{value}`" for name in (*option.opts, *option.secondary_opts))


def _about(command: click.Command) -> list[str]:
    r"""The help of a command as Markdown; paragraphs after ``\b`` are examples, kept as they are."""
    found = []
    for paragraph in re.split(r"\n\n", inspect.cleandoc(command.help or "")):
        lines = paragraph.splitlines()
        if lines and lines[0].strip() == "\b":
            title, *example = lines[1:]
            found += [title.strip(), "", "```console", *(line.strip() for line in example), "```", ""]
        else:
            found += [_cell(paragraph).replace("\\|", "|"), ""]
    return found


def _options(command: click.Command) -> list[str]:
    """A table of the options of a command."""
    rows = []
    for option in (each for each in command.params if isinstance(each, click.Option)):
        several = " Repeatable." if option.multiple and "repeatable" not in (option.help or "") else ""
        rows.append(f"| {_written(option)} | {_cell(option.help or '')}{several} |")
    return ["| option | meaning |", "|---|---|", *rows, "| `--help`, `-h` | Show this and exit. |", ""]


def command_page(name: str, command: click.Command) -> str:
    """The page of a command: what it does, examples, arguments and options."""
    context = click.Context(command, info_name=f"genflow {name}")
    usage = command.get_usage(context).partition(": ")[2]
    text = [f"# `{context.info_name}`", "", *_about(command), "```text", " ".join(usage.split()), "```", ""]
    text += _options(command)
    if "structures" in {each.name for each in command.params}:
        text += ["What structures and keys of `-o` there are: [Command line](../../cli.md), "
                 "[Options](../../options.md).", ""]  # fmt: skip
    return "\n".join(text)


def command_pages() -> dict[str, str]:
    """{page: text} of all commands, and an index of them."""
    index = ["# Commands", "", "The guide is [The command line](../../cli.md). Each command has a page:", ""]
    index += ["| command | what it does |", "|---|---|"]
    found = {}
    for name, command in commands().items():
        short = command.get_short_help_str(200)
        index.append(f"| [`genflow {name}`]({name}.md) | {_cell(short)} |")
        found[f"reference/commands/{name}.md"] = command_page(name, command)
    index += ["", "`genflow` itself takes options before the command:", ""]
    index += _options(cli)
    return {"reference/commands/index.md": "\n".join(index), **found}
