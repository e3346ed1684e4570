"""The options that commands share, and how a `Config` is built from them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genflow.cli import completion
from genflow.errors import GenflowError

if TYPE_CHECKING:
    from genflow.config import Config
    from genflow.progress import Progress
    from genflow.storage.zoo import Zoo

_FILE = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML file; the command line wins over it.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON on standard output and nothing else."
)
_OPTIONS = [
    click.option(
        "--env",
        metavar="NAME",
        is_eager=True,  # before --structure, whose completion asks for it
        shell_complete=completion.registered("environment"),
        help="Environment, e.g. hypergrid.",
    ),
    click.option(
        "--structure",
        "structures",
        multiple=True,
        metavar="NAME|key=value,...",
        shell_complete=completion.presets,
        help="Structure: a preset, key=value pairs, or both; repeatable.",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Output folder (by default one in runs/<env>).",
    ),
    click.option("--seed", type=int, metavar="N", help="Seed of everything random."),
    click.option(
        "-o",
        "overrides",
        multiple=True,
        metavar="section.key=value",
        shell_complete=completion.overrides,
        help="Set any key of the configuration; repeatable.",
    ),
    json_option,
]
track_option = click.option(
    "--track",
    "trackers",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.registered("tracker"),
    help="Log figures as they are measured, e.g. by tensorboard; repeatable.",
)
_TRAINING = [
    click.option(
        "--device",
        metavar="NAME",
        shell_complete=completion.words("auto", "cpu", "cuda"),
        help="Where to compute: auto, cpu, cuda or cuda:N; short for -o device=NAME.",
    ),
    click.option(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="End each training (of a structure, of the autoencoder, of the diffusion model) after so many"
        " seconds with what it has learned by then.",
    ),
    track_option,
]
# torchrun's names
_WORKERS = [
    click.option(
        "--nproc-per-node",
        metavar="N|gpu|auto",
        help="Workers on this machine: a number, one a GPU, or one a GPU else core.",
    ),
    click.option("--nnodes", metavar="MIN[:MAX]", help="Machines; each runs the same command."),
    click.option("--rdzv-endpoint", metavar="HOST:PORT", help="Where machines meet: a port on one of them."),
    click.option(
        "--max-restarts",
        type=click.IntRange(0),
        metavar="N",
        help="How often failed workers are started again (default: 3).",
    ),
]

#: sections of the configuration that are schedules of a training
_TRAINED = ("zoo", "autoencoder", "diffusion", "finetune")
#: keys that hold a list -> the option that adds to it
_SINGULAR = {
    "structures": "structure",
    "test_structures": "structure",
    "metrics": "metric",
    "baselines": "baseline",
    "trackers": "track",
}


@dataclass(frozen=True)
class CommandOptions:
    """The values of the shared options of one command."""

    env: str | None
    structures: tuple[str, ...]
    out: Path | None
    seed: int | None
    overrides: tuple[str, ...]
    as_json: bool
    file: Path | None = None
    device: str | None = None
    budget: float | None = None
    trackers: tuple[str, ...] = ()

    def configure(self, **more: Any) -> Config:
        """Build the configuration from the shared options and a command's own.

        Args:
            more: the command's own options by dotted key, which override the shared ones.

        Raises:
            GenflowError: see `load_config`.
        """
        from genflow.config import load_config, parse_override

        given = {"env": self.env, "seed": self.seed, "structures": list(self.structures) or None, **more}
        given |= {"device": self.device, **{f"{section}.budget": self.budget for section in _TRAINED}}
        given["tracking.trackers"] = list(self.trackers) or None
        origins = {key: option_of(key) for key in given}
        overrides = dict(parse_override(text) for text in self.overrides)
        origins |= {key: f"-o {key}" for key in overrides}
        return load_config(self.file, origins=origins, **{**given, **overrides})

    def progress(self) -> Progress:
        """Return the progress reporter, which prints nothing with --json."""
        from genflow.progress import Progress

        return Progress.current()

    def emit(self, data: Any, text: str) -> None:
        """Print the result as JSON with --json, and as text otherwise."""
        emit(self.as_json, data, text)


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the shared options to a command, which receives them as one argument named `options`."""
    return common_without_file(_FILE(function))


def trains(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that train; below `common`, which hands them on in `options`."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_TRAINING), function)


def common_without_file(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the shared options except --config, for a command that takes its TOML file as an argument."""

    @functools.wraps(function)
    def command(**arguments):
        shared = {f.name: arguments.pop(f.name) for f in fields(CommandOptions) if f.name in arguments}
        return function(options=CommandOptions(**shared), **arguments)

    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), on_workers(command))


def on_workers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of workers to a command with --json, and run it on them with its progress shown."""

    @functools.wraps(function)
    def command(nproc_per_node, nnodes, rdzv_endpoint, max_restarts, **arguments):
        from genflow.distributed.launcher import LaunchOptions, launch
        from genflow.distributed.process_group import is_worker, join_process_group
        from genflow.progress import Progress

        workers = LaunchOptions(nproc_per_node, nnodes, rdzv_endpoint, max_restarts)
        if workers.given and not is_worker():
            sys.exit(launch(workers, click.get_current_context().find_root().obj))
        with join_process_group(), Progress(quiet=arguments["as_json"], takes_workers=True).as_current():
            return function(**arguments)

    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_WORKERS), command)


def option_of(key: str) -> str:
    """Return the option that sets a key of the configuration, e.g. ``--num`` for ``zoo.num``."""
    name = key.rpartition(".")[2]
    return f"--{_SINGULAR.get(name, name).replace('_', '-')}"


def output_root(config: Config, out: Path | None) -> Path:
    """Return the output folder, in which every stage has a folder of its own.

    Raises:
        GenflowError: the path is a file, or the folder holds the run of another command.
    """
    from genflow.storage.files import read_json, told_in_one_line
    from genflow.storage.runs import MANIFEST

    root = out or Path("runs") / config.env
    with told_in_one_line():
        if root.exists() and not root.is_dir():
            raise GenflowError(f"{root} is a file; give a folder with --out")
        begun = (root / MANIFEST).exists()
    if begun and (stage := read_json(root / MANIFEST).get("stage")) != "run":
        raise GenflowError(f"{root} holds another run (stage {stage!r}); choose another --out")
    return root


def find_zoo(config: Config, folder: Path | None, root: Path, progress: Progress) -> Zoo:
    """Open the zoo that --zoo names, or train one under the output folder if none is named.

    Raises:
        GenflowError: the zoo is unusable, is of another environment, or lacks a structure that was asked for.
    """
    from genflow.stages.zoo import train_zoo
    from genflow.storage.zoo import Zoo

    if folder is None:
        return train_zoo(config, config.training_structures(), config.zoo, root / "zoo", progress)
    zoo = Zoo(folder)
    for structure in zoo.structures:
        if structure.env != config.env:
            raise GenflowError(f"the zoo {folder} is of environment {structure.env!r}, not {config.env!r}")
    if config.structures:
        wanted = config.training_structures()
        for structure in wanted:
            if structure not in zoo.structures:
                names = ", ".join(s.name for s in zoo.structures)
                raise GenflowError(f"the zoo {folder} has no structure {structure.name}; it has {names}")
        zoo = zoo.only(wanted)
    return zoo


def emit(as_json: bool, data: Any, text: str) -> None:
    """Print the result as JSON if `as_json`, and as text otherwise."""
    import json

    from genflow.storage.files import finite

    click.echo(json.dumps(finite(data), indent=1, allow_nan=False) if as_json else text)
