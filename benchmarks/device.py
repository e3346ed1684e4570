"""The CPU beside a GPU: training populations and generating policies, in turn in one run.

python benchmarks/device.py --device cuda --threads 16 --out device.json
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import click
import torch
from genflow_side import Genflow, build
from report import processor

from genflow import Generator
from genflow.storage.files import write_json
from genflow.storage.runs import versions

#: the task of docs/performance.md
TASK = {"ndim": 4, "height": 10, "width": 128}
MEMBERS, POLICIES = (8, 64, 512), (1, 8, 100, 1000)
#: seconds of a turn of training, and turns
TURN, ROUNDS = 3.0, 3


def training(objective: str, members: int, devices: tuple[str, ...]) -> dict[str, float]:
    """Milliseconds of a training step of a population, the median over turns."""
    sides = {device: Genflow() for device in devices}
    for device, side in sides.items():
        side.prepare(TASK, {"objective": objective, "steps": 10**6}, members, device=device)
        side.iterate(TURN)  # not counted
    turns = {device: [sides[device].iterate(TURN) for _ in range(ROUNDS)] for device in devices}
    return {
        device: 1000 * statistics.median(turn["seconds"] / turn["iterations"] for turn in each)
        for device, each in turns.items()
    }


def generation(num: int, devices: tuple[str, ...]) -> dict[str, float]:
    """Milliseconds of generating policies, which come back to the CPU; the median over turns."""
    found = {}
    for device in devices:
        generator, times = Generator.from_pretrained("hypergrid", device), []
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            generator.generate(build(TASK), num)
            times.append(time.perf_counter() - began)
        found[device] = 1000 * statistics.median(times[1:])
    return found


@click.command()
@click.option("--device", default="cuda", show_default=True, help="What is compared with the CPU.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of the CPU.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File of the figures.")
def main(device: str, threads: int, out: Path) -> None:
    """Measure, print a line for each work, and write the figures."""
    torch.set_num_threads(threads)
    devices, rows = ("cpu", device), []
    works = [(f"generate {n} policies, ms", generation, (n, devices)) for n in POLICIES]
    works += [
        (f"train {n} policies, {objective}, ms a step", training, (objective, n, devices))
        for objective in ("tb", "distill")
        for n in MEMBERS
    ]
    for name, work, arguments in works:
        found = work(*arguments)
        rows.append({"work": name, **found, "ratio": found["cpu"] / found[device]})
        click.echo(
            f"{name}: {', '.join(f'{key} {value:.2f}' for key, value in rows[-1].items() if key != 'work')}"
        )
    name = torch.cuda.get_device_name() if device.startswith("cuda") else device
    about = {"device": name, "threads": threads, "processor": processor(), "versions": versions()}
    write_json(out, {"machine": about, "rows": rows})


if __name__ == "__main__":
    main()
