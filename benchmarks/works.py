"""The works of the speed benchmark, one function each.

What is asked of which side, and how their answers are compared.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from harness import FLAT, GOOD, TINY, Bench, divergence, learn, length, named, unknown
from report import Result

from genflow.storage.files import read_tensors

#: trajectory balance, everywhere the same: constant rates, 5% of the actions at random
CONSTANT = {"epsilon": 0.05, "log_z_rate": 20.0}
#: for quality: the settings of `sgd.py`
PATIENT = {"batch_size": 64, "lr": 3e-3, **CONSTANT}
#: larger steps of larger batches, chosen on (4, 7) and (3, 13) and other seeds
BRISK = PATIENT | {"batch_size": 256, "lr": 2e-2}
#: seconds that a side may warm up
WARMUP_SECONDS = 60


#: members of genflow that others are compared with
MEMBERS = 32
#: times what another side does that is wanted, by the trajectories of an iteration
WANTED = {"torchgfn": dict.fromkeys((16, 256, 2048), 10.0), "gfnx": {16: 3.0}}


def population(bench: Bench) -> Result:
    """Iterations a second of trajectory balance, with each member of a population counted."""
    result = Result(
        "population",
        "trajectory balance on hypergrid (4, 8), two hidden layers of 256; trajectories an iteration",
    )
    task = {"ndim": 4, "height": 8, "width": 256}
    for threads in bench.threads:
        for batch in (16, 256, 2048):
            more = {f"gfnx, {MEMBERS} members": ("gfnx", MEMBERS)} if batch == 16 else {}
            setting = f"{batch:,} trajectories, {threads} thread{'s' if threads > 1 else ''}"
            _rates(bench, result, setting, task, batch, threads, more)
            for theirs in ("torchgfn", "gfnx", *more):
                target = WANTED.get(theirs, {}).get(batch)
                result.compare(setting, _ours(MEMBERS), theirs, more=True, target=target)
    return result


def scenarios(bench: Bench) -> Result:
    """The same on the grids of torchgfn's own benchmark of libraries, at its batch sizes."""
    result = Result(
        "scenarios", "trajectory balance on the grids of torchgfn's benchmark, two hidden layers of 256"
    )
    for ndim, height, batch in ((2, 8, 32), (2, 8, 256), (2, 8, 2048), (4, 16, 16), (4, 32, 16)):
        setting = f"({ndim}, {height}), {batch:,} trajectories"
        task = {"ndim": ndim, "height": height, "width": 256}
        _rates(bench, result, setting, task, batch, bench.threads[0], {})
        for ours in (_ours(1), _ours(MEMBERS)):
            for theirs in ("torchgfn", "gfnx"):
                result.compare(setting, ours, theirs, more=True)
    return result


def _ours(members: int) -> str:
    return f"genflow, {members} member{'s' * (members > 1)}"


def _rates(
    bench: Bench, result: Result, setting: str, task: dict, batch: int, threads: int, more: dict
) -> None:
    """Measure all sides in turn, and look how long their trajectories are before and after."""
    recipe = {"batch_size": batch, "lr": 1e-3, **CONSTANT}
    kinds = {"torchgfn": ("torchgfn", 1), "gfnx": ("gfnx", 1), **more}
    kinds |= {_ours(members): ("genflow", members) for members in (1, MEMBERS)}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    lengths: dict[str, list[float]] = {name: [] for name in kinds}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def look() -> None:
            for name, side in sides.items():
                side.ask("save", path=str(folder / "weights.safetensors"))
                lengths[name].append(length(task, folder / "weights.safetensors"))

        sides = {name: stack.enter_context(bench.side(kind, threads)) for name, (kind, _) in kinds.items()}
        for name, side in sides.items():
            kind, members = kinds[name]
            own = {} if kind == "torchgfn" else {"members": members}
            flat = recipe | FLAT if kind == "genflow" else recipe
            side.ask("prepare", task=task, recipe=flat, **own)
            side.ask("iterate", limit=bench.warmup, seconds=WARMUP_SECONDS)
        look()
        for _ in range(bench.rounds):
            for name, side in sides.items():
                done = side.ask("iterate", seconds=bench.turn)
                rates[name].append(kinds[name][1] * done["iterations"] / done["seconds"])
        look()
        result.facts["versions"] = {kinds[name][0]: side.ask("versions") for name, side in sides.items()}
    result.add(setting, "member-iterations/s", rates)
    result.facts[setting] = {"task": task, "recipe": recipe, "steps_before_and_after": lengths}
    steps = "; ".join(f"{name} {before:.1f}, {after:.1f}" for name, (before, after) in lengths.items())
    result.notes.append(f"{setting}: mean steps of a trajectory before and after the rounds: {steps}")


#: a planned run of distillation that ends good; found by trials on other seeds
PLANNED = {"objective": "distill", "batch_size": 128, "lr": 3e-2, "steps": 150, "decay": 1.0, "warmup": 0.05}


def quality(bench: Bench) -> Result:
    """Seconds from nothing to a good policy."""
    task = {"ndim": 4, "height": 8, "width": 128}
    result = Result(
        "quality",
        f"seconds from nothing to an exact JS of {GOOD} on hypergrid (4, 8), width 128",
        axes=("seconds", "exact JS"),
    )
    plans = {
        "genflow, distillation": (
            "genflow",
            PLANNED,
            bench.rounds,
            {"limit": PLANNED["steps"] // 10, "count": 10},
        ),
        "genflow, trajectory balance": ("genflow", BRISK | FLAT, min(3, bench.rounds), {}),
        "torchgfn, trajectory balance": ("torchgfn", PATIENT, min(3, bench.rounds), {}),
        "torchgfn, settings of genflow's": ("torchgfn", BRISK, min(3, bench.rounds), {}),
    }
    calls: dict[str, list[int]] = {name: [] for name in plans}
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    failures: dict[str, list[dict]] = {name: [] for name in plans}
    result.facts = {
        "task": task,
        "recipes": {name: recipe for name, (_, recipe, _, _) in plans.items()},
        "failures": failures,
    }
    for seed in range(bench.rounds):
        for name, (kind, recipe, seeds, slices) in plans.items():
            if seed >= seeds:
                continue
            with bench.side(kind) as side, tempfile.TemporaryDirectory() as folder:
                points = list(learn(side, task, recipe, seed, bench.cap, Path(folder), **slices))
            result.curves[f"{name}: seed {seed}"] = [point[:2] for point in points]
            calls[name].append(points[-1][2] * recipe["batch_size"])
            seconds[name].append(points[-1][0])
            if points[-1][1] > GOOD:
                failures[name].append({"seed": seed, "seconds": points[-1][0], "js": points[-1][1]})
    result.add("to a good policy", "s", seconds)
    # distillation reads the reward of every state instead
    result.facts["trajectories"] = {name: calls[name] for name in list(plans)[1:]}
    distilled, balanced, torchgfn, brisk = plans
    for ours, theirs, target in (
        (distilled, torchgfn, 20.0),
        (distilled, balanced, None),
        (balanced, torchgfn, 5.0),
        (balanced, brisk, None),
    ):
        if not failures[ours]:
            result.compare(
                "to a good policy", ours, theirs, more=False, target=target, bound=bool(failures[theirs])
            )
    result.notes = [
        f"{name}: not good at the end of {len(failed)} runs" for name, failed in failures.items() if failed
    ]
    result.notes += [
        "a planned run of distillation counts whole, with the making of its teacher; "
        "the others stop when they are good",
        "distillation reads the reward of every state, trajectory balance only of the states that it visits",
    ]
    return result


def exact(bench: Bench) -> Result:
    """Seconds and memory of the exact distribution of one policy, and how far the sides are apart."""
    result = Result("exact", "the exact distribution of one policy's terminal states, width 128")
    for text in ("D*", "H*", "ndim=2,height=64"):
        task, setting = named(text), text
        kinds = {
            "genflow": ("genflow", {}),
            "genflow, small bound": ("genflow", {"max_floats": 2**16}),
            "gfnx's metric": ("gfnx", {}),
        }
        if task["ndim"] == 2:
            kinds["torchgfn, state by state"] = ("torchgfn", {})
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        memory: dict[str, list[float]] = {}
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            sides = {name: stack.enter_context(bench.side(kind)) for name, (kind, _) in kinds.items()}
            sides["genflow"].ask("initialise", task=task, path=str(folder / "weights"))
            sides["genflow"].ask("initialise", task=TINY, path=str(folder / "tiny"))
            for name, side in sides.items():
                # the first call compiles, and shows the memory over what the libraries take
                side.ask(
                    "exact",
                    task=TINY,
                    weights=str(folder / "tiny"),
                    out=str(folder / "out"),
                    **kinds[name][1],
                )
                before = side.ask("memory", restart=True)
                side.ask(
                    "exact",
                    task=unknown(task),
                    weights=str(folder / "weights"),
                    out=str(folder / name),
                    **kinds[name][1],
                )
                memory[name] = [(side.ask("memory") - before) / 2**20]
            for _ in range(bench.rounds):
                for name, side in sides.items():
                    done = side.ask(
                        "exact",
                        task=unknown(task),
                        weights=str(folder / "weights"),
                        out=str(folder / name),
                        **kinds[name][1],
                    )
                    seconds[name].append(done["seconds"])
            found = {name: read_tensors(folder / name)[0]["distribution"].double() for name in kinds}
        result.add(setting, "s", seconds)
        result.add(f"{setting}, memory", "MiB", memory)
        for theirs in list(kinds)[2:]:
            result.compare(
                setting, "genflow", theirs, more=False, target=1.0 if text in ("D*", "H*") else None
            )
            if min(memory["genflow"] + memory[theirs]) >= 1:  # less is not told from what the libraries left
                result.compare(f"{setting}, memory", "genflow", theirs, more=False)
        apart = {name: float((found["genflow"] - other).abs().max()) for name, other in found.items()}
        result.facts[setting] = {
            "task": task,
            "states": len(found["genflow"]),
            "largest_difference_from_genflow": apart,
        }
        result.notes.append(
            f"{setting}: {len(found['genflow']):,} states; "
            f"largest difference of a probability from genflow's: {apart}"
        )
    result.notes.append(
        "genflow sums in float64, the others in float32; "
        "building the state graph or the matrix counts, compilation does not"
    )
    return result


#: seconds that the paper reports for generating, on eight GPUs: quoted, not measured
PAPER_SECONDS = (12.0, 65.0)


def generate(bench: Bench) -> Result:
    """Milliseconds of the shipped generator."""
    task, numbers = named("ndim=4,height=10"), (1, 8, 100)
    result = Result(
        "generate", "policies of hypergrid (4, 10), width 128, by the shipped generator, which is loaded"
    )
    times: dict[str, dict[str, list[float]]] = {
        f"{num} at once": {"first": [], "again": []} for num in numbers
    }
    with bench.side("genflow") as side:
        side.ask("generate", task=TINY | {"width": 64}, num=2)
        for _ in range(bench.rounds):
            for num in numbers:
                new = unknown(task)
                for kind in ("first", "again"):
                    times[f"{num} at once"][kind].append(
                        1e3 * side.ask("generate", task=new, num=num)["seconds"]
                    )
    for setting, kinds in times.items():
        result.add(setting, "ms", kinds)
        quoted = [f"{1e3 * seconds / median(kinds['first']):,.0f}" for seconds in PAPER_SECONDS]
        result.notes.append(
            f"{setting}: the paper's {PAPER_SECONDS[0]:g} to {PAPER_SECONDS[1]:g} s "
            f"are {quoted[0]} to {quoted[1]} times as long"
        )
    result.notes.append(
        "the paper's seconds are quoted; they are of eight GPUs and of its own structures, "
        "and nothing here measures them"
    )
    result.facts |= {"task": task, "paper_seconds_quoted": PAPER_SECONDS}
    return result


def unseen(bench: Bench) -> Result:
    """Seconds to a good policy of structures that the generator has not seen.

    Training one against generating it.
    """
    result = Result(
        "unseen",
        f"seconds to an exact JS of {GOOD}: torchgfn's training (lines) against generation (diamonds)",
        axes=("seconds", "exact JS"),
    )
    goods = []
    with bench.side("genflow") as ours:
        ours.ask("generate", task=TINY | {"width": 64}, num=2)
        for text in ("A*", "B*", "C*", "D*", "G*", "H*", "ndim=4,height=14"):
            task = named(text)
            with bench.side("torchgfn") as side, tempfile.TemporaryDirectory() as folder:
                points = list(learn(side, task, PATIENT, 0, bench.cap, Path(folder)))
                out, seconds, found = Path(folder) / "generated", [], []
                for seed in range(bench.rounds):
                    seconds.append(
                        ours.ask("generate", task=unknown(task), num=1, seed=seed, out=str(out))["seconds"]
                    )
                    found.append(divergence(task, out))
            spent, js, _ = points[-1]
            reached = js <= GOOD
            result.add(text, "s", {"torchgfn": [spent] * len(seconds), "generated": seconds})
            if max(found) <= GOOD:
                result.compare(text, "generated", "torchgfn", more=False, target=1000.0, bound=not reached)
            goods.append(max(found) <= GOOD)
            result.curves[f"{text}: torchgfn"] = [point[:2] for point in points]
            result.curves[f"{text}: generated"] = [(median(seconds), median(found))]
            result.facts[text] = {
                "task": task,
                "generated_js": found,
                "torchgfn_js": js,
                "torchgfn_reached": reached,
            }
            result.notes.append(
                f"{text}: generated JS {median(found):.3g} (worst {max(found):.3g}); "
                f"torchgfn {js:.3g} after {spent:.3g} s" + ("" if reached else ", stopped there")
            )
    result.notes.append(
        f"{sum(goods)} of {len(goods)} structures are generated good at every seed; "
        "no ratio is given for the others"
    )
    return result


#: what a command line with nothing behind it takes
EMPTY = "import click\n@click.group()\ndef main(): pass\nmain()"


def start(bench: Bench) -> Result:
    """Milliseconds until a command that does next to nothing is done, in processes of their own."""
    commands = {
        "an empty click group": [sys.executable, "-c", EMPTY, "--help"],
        "genflow --help": [sys.executable, "-m", "genflow", "--help"],
        "genflow list-plugins": [sys.executable, "-m", "genflow", "list-plugins"],
    }
    result = Result("start", "milliseconds from the call of a command to its end")
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(4 * bench.rounds + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if turn:  # the first one reads the files from disk
                times[name].append(1e3 * (time.perf_counter() - began))
    result.add("start", "ms", times)
    for name in list(commands)[1:]:
        result.compare("start", "an empty click group", name, more=False)
    return result
