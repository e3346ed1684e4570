"""The ``genflow`` command: its click group, its lazily imported subcommands and its error messages."""

from __future__ import annotations

import contextlib
import importlib
import keyword
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from genflow import __version__
from genflow.distributed.process_group import (
    INTERRUPTED,
    is_rank_zero,
    is_supervised,
    is_worker,
    report_status,
)
from genflow.distributed.world import WorkerLost
from genflow.errors import GenflowError, did_you_mean
from genflow.interrupts import interrupts_for_python

#: command -> (module, short help). A module is imported only when its command runs, so --help is fast
COMMANDS = {
    "run": ("genflow.cli.train", "Run the whole job of a TOML file."),
    "train-zoo": ("genflow.cli.train", "Train a zoo of policies from scratch."),
    "train-ae": ("genflow.cli.train", "Train the autoencoder of weights."),
    "train-ldm": ("genflow.cli.train", "Train the latent diffusion model."),
    "export": ("genflow.cli.train", "Write a generator as it ships, with a measured model card."),
    "generate": ("genflow.cli.generate", "Generate policies for a structure."),
    "finetune": ("genflow.cli.generate", "Train policies further."),
    "import": ("genflow.cli.generate", "Take policies that were made elsewhere."),
    "sample": ("genflow.cli.sample", "Sample objects and write a table of them."),
    "score": ("genflow.cli.sample", "Score objects of your own, and their probability."),
    "evaluate": ("genflow.cli.evaluate", "Measure populations beside their baselines."),
    "report": ("genflow.cli.evaluate", "Write the HTML report of a run."),
    "check": ("genflow.cli.check", "Check a component that a plugin registers."),
    "list-plugins": ("genflow.cli.plugins", "List plugins and what they provide."),
    "plugin-info": ("genflow.cli.plugin_kit", "Say what a plugin or a registered name is."),
    "new-plugin": ("genflow.cli.plugin_kit", "Write a plugin to start from."),
}


class Commands(click.Group):
    """A click group of the built-in commands, imported lazily, and the commands of plugins."""

    def _load_plugins(self) -> None:
        if not self.__dict__.get("_plugins_loaded"):
            self._plugins_loaded = True
            from genflow.registry import registry

            registry().add_commands(self)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the built-in commands in the order in which they are used, then those of plugins."""
        self._load_plugins()
        return [*COMMANDS, *sorted(set(self.commands) - set(COMMANDS))]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the module of a built-in command, or ask the plugins."""
        if name in COMMANDS:
            module = importlib.import_module(COMMANDS[name][0])
            # a command may be a keyword, as import
            return getattr(module, name.replace("-", "_") + "_" * keyword.iskeyword(name))
        self._load_plugins()
        if name not in self.commands:
            raise GenflowError(f"unknown command {name!r}{did_you_mean(name, self.list_commands(ctx))}")
        return self.commands[name]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for --help without importing the built-in ones."""
        rows = [(name, help_text) for name, (_, help_text) in COMMANDS.items()]
        extra = [name for name in self.list_commands(ctx) if name not in COMMANDS]
        rows += [(name, self.commands[name].get_short_help_str()) for name in extra]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _load_plugins(context: click.Context, option: click.Parameter, files: tuple[str, ...]) -> None:
    if files:
        from genflow.plugin_files import load_plugin

        for file in files:
            load_plugin(file)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="genflow")
@click.option(
    "--plugin",
    multiple=True,
    metavar="FILE.py",
    is_eager=True,  # the plugin may add commands, so it is loaded before they are looked up
    expose_value=False,
    callback=_load_plugins,
    help="Load a file of your own as a plugin for this run; before the command, repeatable.",
)
def cli() -> None:
    """Generate GFlowNet policies from the structure of their task, instead of training them.

    \b
    Example:
      genflow run examples/hypergrid.toml
    """


def main(args: list[str] | None = None) -> Any:
    """Run the command line.

    The exit status is 0 on success, 2 for a user error (one line on stderr), 130 after an interruption and
    1 when workers failed, standard output cannot be written, or `check` has findings.
    """
    try:
        _run(args)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flushed(stream)


def _run(args: list[str] | None) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(
            signal.SIGTERM, signal.default_int_handler
        )  # handled as Ctrl-C, so that open files and locks are released
    try:
        with interrupts_for_python():  # before anything is imported that begins threads
            cli.main(
                args=args,
                prog_name="genflow",
                standalone_mode=False,
                obj=sys.argv[1:] if args is None else args,
            )
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk is told now, not as Python exits
    except GenflowError as error:
        _fail(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        message = error.format_message()
        before = {name for each in cli.params for name in each.opts}
        if isinstance(error, click.NoSuchOption) and error.option_name in before:
            message += f" It stands before the command: genflow {error.option_name} ..."
        _fail(message)
    except (click.Abort, KeyboardInterrupt):
        if is_rank_zero() and not is_supervised():
            click.echo(INTERRUPTED, err=True)
        sys.exit(130)
    except WorkerLost as error:
        if is_rank_zero() or not is_supervised():
            click.echo(f"genflow: {error}", err=True)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        _fail("not enough memory; use fewer or smaller policies, or a smaller batch")
    except OSError as error:
        _fail_for_system(error)


def _fail_for_system(error: OSError) -> NoReturn:
    """Exit with one line for what the operating system refused: standard output, or a path."""
    innermost = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    echoed = innermost.parent.name in ("click", "rich")  # unbuffered output is not there to be flushed
    if not _flushed(sys.stdout) or echoed:
        if isinstance(error, BrokenPipeError):  # the reader, such as head, has seen enough
            sys.exit(report_status(1))
        _fail(f"cannot write to standard output: {error.strerror or error}", 1)
    if is_worker():
        raise error  # the agent starts all workers again
    if isinstance(error, BrokenPipeError):
        sys.exit(1)
    from genflow.storage.files import system_error

    _fail(str(system_error(error)), 1 if error.filename is None else 2)


def _fail(message: str, status: int = 2) -> NoReturn:
    if is_rank_zero():  # every worker raises the same error
        with contextlib.suppress(OSError):
            click.echo(f"genflow: {' '.join(message.split())}", err=True)
    sys.exit(report_status(status))


def _flushed(stream: TextIO | None) -> bool:
    """Flush a stream, or else drop what it holds, because Python would report it again as it exits."""
    if stream is None:
        return True
    try:
        stream.flush()
    except (OSError, ValueError):  # a full disk, a closed pipe, a closed stream
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return False
    return True
