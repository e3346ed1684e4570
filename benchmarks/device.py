"""The CPU beside a GPU: training populations and generating policies, side by side in one run.

python benchmarks/device.py --device cuda --threads 16 --out benchmarks/results/device.json
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from report import processor

from genflow import Generator, Population, Structure
from genflow.progress import Progress
from genflow.storage.files import write_json
from genflow.storage.runs import versions
from genflow.training.options import PolicyOptions
from genflow.training.policies import train_population

#: the task of docs/performance.md
TASK = {"ndim": 4, "height": 10, "width": 128}
MEMBERS, POLICIES = (8, 64, 512), (1, 8, 100, 1000)
STEPS, ROUNDS = 40, 3


def training(objective: str, members: int) -> Callable[[str], None]:
    """A few training steps of a population of the task, on a device."""
    structure = Structure.build("hypergrid", TASK)
    start = Population.initialised(structure, members, 0).weights
    options = PolicyOptions(objective=objective, steps=STEPS)

    def train(device: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            train_population(
                structure,
                options,
                start=start,
                seed=0,
                folder=Path(folder),
                progress=Progress(quiet=True),
                device=device,
            )

    return train


def generation(num: int, devices: tuple[str, ...]) -> Callable[[str], None]:
    """Generating policies of the task, on a device."""
    structure = Structure.build("hypergrid", TASK)
    generators = {device: Generator.from_pretrained("hypergrid", device) for device in devices}

    def generate(device: str) -> None:
        generators[device].generate(structure, num)  # what it returns is on the CPU again

    return generate


def seconds(work: Callable[[str], None], devices: tuple[str, ...]) -> dict[str, float]:
    """The median time of each device, which take turns, after a turn that is not counted."""
    times: dict[str, list[float]] = {device: [] for device in devices}
    for turn in range(ROUNDS + 1):
        for device in devices:
            began = time.perf_counter()
            work(device)
            if turn:
                times[device].append(time.perf_counter() - began)
    return {device: statistics.median(each) for device, each in times.items()}


@click.command()
@click.option("--device", default="cuda", show_default=True, help="What is compared with the CPU.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of the CPU.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File of the figures.")
def main(device: str, threads: int, out: Path) -> None:
    """Measure, print a line for each work, and write the figures."""
    torch.set_num_threads(threads)
    devices = ("cpu", device)
    rows = []
    works = {
        **{
            f"train {n} policies, {o}, ms a step": (training(o, n), STEPS)
            for o in ("tb", "distill")
            for n in MEMBERS
        },
        **{f"generate {n} policies, ms": (generation(n, devices), 1) for n in POLICIES},
    }
    for name, (work, divisor) in works.items():
        found = {key: 1000 * value / divisor for key, value in seconds(work, devices).items()}
        rows.append({"work": name, **found, "ratio": found["cpu"] / found[device]})
        click.echo(
            f"{name}: cpu {found['cpu']:.2f}, {device} {found[device]:.2f}, ratio {rows[-1]['ratio']:.2f}"
        )
    name = torch.cuda.get_device_name() if device.startswith("cuda") else device
    about = {"device": name, "threads": threads, "processor": processor(), "versions": versions()}
    write_json(out, {"machine": about, "rows": rows})


if __name__ == "__main__":
    main()
