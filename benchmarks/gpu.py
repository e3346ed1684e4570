"""genflow, torchgfn and gfnx on one device, in one run: training, exact evaluation and generation.

    python benchmarks/gpu.py --device cuda --out gpu.json --budget 540

All sides train from the same good policy, so that their trajectories are as long as each other's from the
first iteration on. The rows that matter most come first, and each is written as soon as it is measured; one
that fails, for want of memory, say, is written with its reason. `--smoke` is the whole of it in seconds, on a
CPU: it shows that all of it runs, and its figures mean nothing.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from harness import FLAT, build, length, named, unknown
from report import Result, number, processor
from sides import HERE, Side, SideError
from works import CONSTANT, PLANNED

from genflow.distributed.launcher import cores
from genflow.errors import GenflowError
from genflow.storage.files import read_tensors, write_json
from genflow.storage.runs import versions

#: a side -> its script, and the folder of its environment on a GPU where that is another one than on a CPU
SCRIPTS = {"genflow": "genflow_side.py", "torchgfn": "peers/torchgfn_side.py", "gfnx": "peers/gfnx_side.py"}
ON_GPU = {"gfnx": "gfnx-cuda"}
#: what is wanted of 1,024 members, times another side's member-iterations a second
MEMBERS, WANTED = 1024, {"torchgfn": 100.0, "gfnx": 10.0}
TRAIN, EXACT, GENERATE = "member-iterations/s", "s a policy", "s"


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        task: the grid of training.
        lead: (members, trajectories) of the first rows.
        members, batches: of the rest.
        exact: grids that are evaluated exactly, of `policies` generated policies.
        grid, numbers: whose policies are generated, and how many at once.
        turn, rounds: seconds of a turn, and turns.
        steps: iterations before the first turn, and `patience` seconds at most.
    """

    task: dict
    lead: tuple[int, int]
    members: tuple[int, ...]
    batches: tuple[int, ...]
    exact: tuple[str, ...]
    policies: int
    grid: str
    numbers: tuple[int, ...]
    turn: float
    rounds: int
    steps: int = 20
    patience: float = 3.0


FULL = Size(
    task={"ndim": 4, "height": 8, "width": 256},
    lead=(MEMBERS, 16),
    members=(32, 256, 1024, 4096),
    batches=(16, 256, 2048),
    exact=("D*", "H*"),
    policies=16,
    grid="ndim=4,height=10",
    numbers=(10_000, 1_000, 100, 1),
    turn=1.5,
    rounds=3,
)
SMOKE = Size(
    task={"ndim": 2, "height": 4, "width": 8},
    lead=(2, 4),
    members=(2,),
    batches=(4,),
    exact=("ndim=2,height=6,width=64",),
    policies=2,
    grid="ndim=2,height=6,width=64",
    numbers=(2, 1),
    turn=0.02,
    rounds=1,
    steps=2,
)


@dataclass(frozen=True)
class Row:
    """One figure: what `side` did in a setting, in `unit`, by a method of `Measurement`."""

    setting: str
    side: str
    unit: str
    work: str
    arguments: dict[str, Any] = field(default_factory=dict)
    device: str | None = None

    @property
    def kind(self) -> str:
        """The side without what it did."""
        return self.side.partition(",")[0]


def trained(
    kind: str, members: int, batch: int, device: str | None = None, said: str = "", **options: Any
) -> Row:
    """A row of training, with options of genflow's that are `said` in a word."""
    name = kind if kind == "torchgfn" else f"{kind}, {members:,} member{'s' * (members > 1)}"
    if device is not None:
        said = "on the CPU"
    return Row(
        f"training, {batch:,} trajectories",
        ", ".join(filter(None, (name, said))),
        TRAIN,
        "train",
        {"members": members, "batch": batch, **options},
        device,
    )


def lowered(members: int, batch: int) -> Row:
    """A row of training whose products are bfloat16, with float32 sums."""
    return trained("genflow", members, batch, said="bfloat16", precision="bfloat16")


def rows(size: Size) -> list[Row]:
    """Everything, what matters most first; neighbours of one side share its process."""
    members, batch = size.lead
    grid = [(m, b) for b in size.batches for m in size.members if (m, b) != size.lead]
    small, large = [pair for pair in grid if pair[1] == batch], [pair for pair in grid if pair[1] != batch]
    own = f"genflow, {size.policies} policies, on the CPU"  # where genflow evaluates exactly
    generated = [
        Row(
            f"generation, {num:,} {'policy' if num == 1 else 'policies'}",
            "genflow",
            GENERATE,
            "generate",
            {"num": num},
        )
        for num in size.numbers
    ]
    exact = [
        Row(f"exact distribution, {text}", side, EXACT, "exact", {"text": text})
        for side in (own, "gfnx, 1 policy")
        for text in size.exact
    ]
    return [
        trained("genflow", members, batch),
        trained("torchgfn", 1, batch),
        trained("gfnx", members, batch),
        trained("gfnx", 1, batch),
        *(trained("gfnx", *pair) for pair in small),
        *generated,
        *exact[: len(size.exact)],
        lowered(members, batch),
        trained("genflow", members, batch, said="no CUDA graph", cuda_graph="off"),
        *(trained("genflow", *pair) for pair in small),
        *(lowered(*pair) for pair in small),
        *exact[len(size.exact) :],
        *(trained("torchgfn", 1, b) for b in size.batches if b != batch),
        *(trained("genflow", *pair) for pair in large),
        *(lowered(*pair) for pair in large),
        *(
            Row(row.setting, "genflow, on the CPU", GENERATE, "generate", row.arguments, "cpu")
            for row in generated[1:]
        ),
        trained("genflow", min(size.members), batch, "cpu"),
        *(trained("gfnx", *pair) for pair in large),
    ]


class Measurement:
    """All rows of a run: one side at a time has the device, and the file is whole after each row."""

    def __init__(self, size: Size, device: str, threads: int, peers: Path, out: Path, folder: Path) -> None:
        self.size, self.device, self.threads, self.peers = size, device, threads, peers
        self.out, self.folder = out, folder
        self.result = Result("gpu", f"training on hypergrid {_text(size.task)} and more, on {device}")
        self.steps: dict[str, tuple[float, float]] = {}
        self.failed: list[dict[str, str]] = []
        self.missing: dict[tuple[str, str], str] = {}
        self.side: Side | None = None
        self.which: tuple[str, str] | None = None
        self.over = False
        name = torch.cuda.get_device_name() if device.startswith("cuda") else processor()
        self.machine = {
            "device": name,
            "threads": threads,
            "processor": processor(),
            "versions": versions(),
        }
        self.result.facts = {
            "task": size.task,
            "trajectory_steps_before_and_after": self.steps,
            "failed": self.failed,
            "versions": {},
        }

    def stop(self) -> None:
        """End what is under way, from another thread."""
        self.over = True
        if self.side is not None:
            self.side.kill()

    def ask(self, do: str, **arguments: Any) -> Any:
        """Ask the side that has the device."""
        assert self.side is not None
        return self.side.ask(do, **arguments)

    def close(self) -> None:
        """Let the side that has the device go, and its memory with it."""
        if self.side is not None:
            self.side.__exit__()
        self.side = self.which = None

    def turn_to(self, kind: str, device: str) -> None:
        """Give the device to a side, in the peers' environment if there is one, else in ours."""
        if self.which == (kind, device):
            return
        self.close()
        own = self.peers.absolute() / (kind if device == "cpu" else ON_GPU.get(kind, kind)) / "bin" / "python"
        python = own if own.exists() else Path(sys.executable)
        platform = "cpu" if device == "cpu" else "cuda"
        command = [python, HERE / SCRIPTS[kind], *([] if kind == "gfnx" else [device])]
        self.side, self.which = Side(kind, command, self.threads, platform), (kind, device)
        if self.over:  # between two sides
            self.side.kill()
        self.result.facts["versions"][kind] = self.ask("versions")

    def begin(self) -> None:
        """Make the policy that all training starts from, and the log Z that belongs to it."""
        self.start = self.folder / "start.safetensors"
        self.log_z = build(self.size.task).solution.log_partition()
        self.turn_to("genflow", self.device)
        self.ask("prepare", task=self.size.task, recipe=PLANNED)
        self.ask("iterate", limit=PLANNED["steps"])
        self.ask("save", path=str(self.start))

    def train(self, members: int, batch: int, **options: Any) -> list[float]:
        """Member-iterations a second, one figure a turn, with further options of genflow's."""
        size, kind = self.size, self.which[0]
        recipe = {"batch_size": batch, "lr": 1e-3, **CONSTANT, **options} | (
            FLAT if kind == "genflow" else {}
        )
        several = {} if kind == "torchgfn" else {"members": members}
        self.ask(
            "prepare", task=size.task, recipe=recipe, weights=str(self.start), log_z=self.log_z, **several
        )
        self.ask("iterate", limit=1)  # at least one of them, however long it takes
        self.ask("iterate", limit=size.steps, seconds=size.patience)
        turns = [self.ask("iterate", seconds=size.turn) for _ in range(size.rounds)]
        now = self.folder / "now.safetensors"
        self.ask("save", path=str(now))
        name = ", ".join([f"{batch:,} trajectories: {kind}, {members:,}", *options.values()])
        self.steps[name] = length(size.task, self.start), length(size.task, now)
        return [members * turn["iterations"] / turn["seconds"] for turn in turns]

    def generate(self, num: int) -> list[float]:
        """Seconds, with the policies back on the CPU and a structure that is met for the first time."""
        task = named(self.size.grid)
        return self._again(lambda: self.ask("generate", task=unknown(task), num=num)["seconds"])

    def exact(self, text: str) -> list[float]:
        """Seconds a policy."""
        task, kind, num = named(text), self.which[0], self.size.policies
        weights, out = self.folder / f"{text}.policy", self.folder / f"{text}.{kind}"
        if kind == "gfnx":
            values = self._again(
                lambda: self.ask("exact", task=task, weights=str(weights), out=str(out))["seconds"]
            )
            ours, theirs = (
                read_tensors(self.folder / f"{text}.{side}")[0]["distribution"].double()
                for side in ("genflow", "gfnx")
            )
            self.result.facts[f"{text}, largest difference"] = float((ours - theirs).abs().max())
            return values
        self.ask("generate", task=task, num=num, out=str(weights))
        return self._again(
            lambda: (
                self.ask("exact", task=unknown(task), members=num, generated=True, out=str(out))["seconds"]
                / num
            )
        )

    def _again(self, work: Callable[[], float]) -> list[float]:
        """What it takes, after a first time that is not counted."""
        work()
        return [work() for _ in range(self.size.rounds)]

    def measure(self, row: Row) -> None:
        """Measure a row and write the file."""
        began, device = time.perf_counter(), row.device or self.device
        try:
            if (row.kind, device) in self.missing:
                raise SideError(self.missing[row.kind, device])
            self.turn_to(row.kind, device)
            values = getattr(self, row.work)(**row.arguments)
        except (SideError, GenflowError) as error:
            found = "stopped, as time was up" if self.over else str(error)
            self.failed.append({"setting": row.setting, "side": row.side, "error": found})
            if "during 'versions'" in found:  # it did not even start
                self.missing[row.kind, device] = found
            if self.which == (row.kind, device):  # what it holds on the device is in nobody's way then
                self.close()
        else:
            self.result.add(row.setting, row.unit, {row.side: values})
            found = f"{number(median(values))} {row.unit}"
        click.echo(
            f"{row.setting}: {row.side}: {found.splitlines()[0]} ({time.perf_counter() - began:.1f} s)"
        )
        self.write()

    def write(self) -> None:
        """Write everything that was found so far."""
        self.result.ratios.clear()
        for batch in self.size.batches:
            setting = f"training, {batch:,} trajectories"
            for members in self.size.members:
                ours = trained("genflow", members, batch).side
                for theirs in ("torchgfn", trained("gfnx", members, batch).side):
                    target = WANTED[theirs.partition(",")[0]] if members == MEMBERS else None
                    self.result.compare(setting, ours, theirs, more=True, target=target)
        write_json(self.out, {"machine": self.machine, **self.result.to_json()})


def _text(task: dict) -> str:
    return f"({task['ndim']}, {task['height']}), two hidden layers of {task['width']}"


@click.command()
@click.option("--device", default="cuda", show_default=True, help="What is measured.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File of the figures.")
@click.option("--budget", type=float, help="Seconds after which the run ends with what it has.")
@click.option("--threads", type=int, default=cores, help="Of the CPU, for each side.  [default: every core]")
@click.option(
    "--peers",
    type=click.Path(path_type=Path),
    default=Path(".venv-peers"),
    show_default=True,
    help="The peers' environments; a peer without one runs in this one.",
)
@click.option("--smoke", is_flag=True, help="All of it in seconds, at sizes that measure nothing.")
def main(device: str, out: Path, budget: float | None, threads: int, peers: Path, smoke: bool) -> None:
    """Measure, print a line for each row, and write the figures."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise click.ClickException("torch finds no GPU here; try --device cpu --smoke")
    torch.set_num_threads(1)  # of what judges, off the clock
    size = SMOKE if smoke else FULL
    with tempfile.TemporaryDirectory() as folder:
        run = Measurement(size, device, threads, peers, out, Path(folder))
        clock = threading.Timer(budget or 0.0, run.stop)
        clock.daemon = True
        if budget is not None:
            clock.start()
        try:
            run.begin()
            for row in rows(size):
                if not run.over:
                    run.measure(row)
        except SideError as error:
            raise click.ClickException("time was up" if run.over else str(error)) from error
        finally:
            clock.cancel()
            run.close()
    click.echo(run.result.text())


if __name__ == "__main__":
    main()
