"""How fast each part is beside what one would use instead: all sides in turn, in one run, on the same cores.

Each side is a process that waits for its turn (see `sides`); the peers run in the environments that `make
bench` makes. For every work, a table of figures and of ratios (median over rounds, with the least and the
greatest) is printed and written to OUT/<work>.json, with a picture beside it. Nothing here can fail for being
slow.

    python benchmarks/speed.py --out benchmarks/results --work population --work exact --rounds 3
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import click
import torch
from first import busy, first
from growth import growth
from harness import Bench
from report import elsewhere, processor
from sides import SideError
from works import exact, generate, population, quality, scenarios, start, unseen

from genflow.distributed.launcher import cores
from genflow.storage.files import write_bytes, write_json
from genflow.storage.runs import versions

WORKS = {
    work.__name__: work
    for work in (population, scenarios, quality, exact, generate, unseen, start, first, busy, growth)
}

#: cores that other processes may keep busy before that is said
QUIET = 0.1


def machine() -> dict:
    """What was measured on."""
    return {"cores": cores(), "processor": processor(), "system": platform.system(), "versions": versions()}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option(
    "--peers",
    type=click.Path(path_type=Path),
    default=Path(".venv-peers"),
    show_default=True,
    help="The peers' environments.",
)
@click.option("--work", "works", multiple=True, type=click.Choice(list(WORKS)), help="Default: all.")
@click.option("--rounds", default=5, show_default=True, help="Turns of each side, or seeds.")
@click.option(
    "--threads",
    multiple=True,
    type=int,
    help="Of population; the others take the first.  [default: 1, then every core]",
)
@click.option("--turn", default=2.0, show_default=True, help="population: seconds of a turn.")
@click.option(
    "--warmup", default=300, show_default=True, help="population: iterations before the first turn."
)
@click.option(
    "--cap",
    default=120.0,
    show_default=True,
    help="quality, unseen: seconds after which a training is stopped.",
)
def main(out, peers, works, rounds, threads, turn, warmup, cap):
    """Measure, print and write."""
    threads = tuple(dict.fromkeys(threads or (1, cores())))
    bench = Bench(peers, rounds=rounds, threads=threads, turn=turn, warmup=warmup, cap=cap)
    options = {"rounds": rounds, "threads": threads, "turn": turn, "warmup": warmup, "cap": cap}
    torch.set_num_threads(1)  # of what judges, off the clock
    for name in works or WORKS:
        began, others = time.perf_counter(), elsewhere()
        try:
            result = WORKS[name](bench)
        except (SideError, FileNotFoundError) as error:
            raise click.ClickException(str(error)) from error
        seconds = time.perf_counter() - began
        busy = max(0.0, (elsewhere() - others) / seconds)
        if busy > QUIET:
            result.notes.append(
                f"WARNING: other processes kept {busy:.2f} cores busy meanwhile; "
                "measure again when they are done"
            )
        click.echo(result.text())
        took = {"seconds": round(seconds, 1), "cores_busy_elsewhere": round(busy, 3)}
        write_json(
            out / f"{name}.json", {"machine": machine(), "options": options, **took, **result.to_json()}
        )
        write_bytes(out / f"{name}.png", result.picture())


if __name__ == "__main__":
    main()
