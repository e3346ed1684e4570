"""Seven multi-parameter tasks of GuacaMol's under PMO's protocol: 10,000 reward calls, AUC of the top 10.

PMO: Gao et al., "Sample Efficiency Matters: A Benchmark for Practical Molecular Optimization", NeurIPS 2022.
Contenders:

    guided      an untrained policy and a genetic algorithm in turn (guided.py)
    finetune    genflow's trajectory balance alone from the same policy, as `genflow finetune` trains it
    genetic     the genetic algorithm alone (block_genetic.py)

The settings were chosen on other tasks of GuacaMol's, `--goal celecoxib` and the like, never on the seven.
Stopped and given again, the command goes on with the runs that are missing.

    python benchmarks/molecule_pmo.py --out runs/pmo
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from block_genetic import GeneticOptions, evolve
from guided import GuidedOptions, first_trees, guided
from reward_budget import Ledger, auc_top, ledger

import genflow
from genflow import Population, Structure
from genflow.config import parse_override
from genflow.progress import Progress
from genflow.schema import validate
from genflow.storage.files import read_json, write_json
from genflow.training.finetune import FinetuneOptions, finetune

HERE = Path(__file__).parent
CALLS, MAX_STEPS = 10_000, 20_000
#: AUC of the top 10, means of five runs: PMO's from its leaderboard (pmo-benchmark.github.io, a page a task),
#: Genetic GFN's from its paper (Kim et al. 2024, Table 1) as Lee et al. (2024, arXiv 2411.12078, Table 1)
#: reprint it
PUBLISHED = {
    "amlodipine": {"GFlowNet": 0.444, "GFlowNet-AL": 0.428, "Graph GA": 0.661, "REINVENT": 0.635},
    "fexofenadine": {"GFlowNet": 0.693, "GFlowNet-AL": 0.688, "Graph GA": 0.760, "REINVENT": 0.784},
    "osimertinib": {"GFlowNet": 0.784, "GFlowNet-AL": 0.787, "Graph GA": 0.831, "REINVENT": 0.837},
    "perindopril": {"GFlowNet": 0.430, "GFlowNet-AL": 0.421, "Graph GA": 0.538, "REINVENT": 0.537},
    "ranolazine": {"GFlowNet": 0.652, "GFlowNet-AL": 0.632, "Graph GA": 0.728, "REINVENT": 0.760},
    "sitagliptin": {"GFlowNet": 0.008, "GFlowNet-AL": 0.006, "Graph GA": 0.433, "REINVENT": 0.021},
    "zaleplon": {"GFlowNet": 0.035, "GFlowNet-AL": 0.010, "Graph GA": 0.346, "REINVENT": 0.358},
}
GENETIC_GFN = {
    "amlodipine": 0.761,
    "fexofenadine": 0.856,
    "osimertinib": 0.860,
    "perindopril": 0.595,
    "ranolazine": 0.819,
    "sitagliptin": 0.634,
    "zaleplon": 0.552,
}

Contender = Callable[[Population, Ledger, int, Any, Path], None]


def run_guided(start: Population, calls: Ledger, seed: int, options: Any, folder: Path) -> None:
    """Let the policy and the genetic algorithm take turns."""
    for _ in guided(start, calls, options, seed):
        pass


def run_finetune(start: Population, calls: Ledger, seed: int, options: Any, folder: Path) -> None:
    """Train the policy by trajectory balance on what it samples."""
    # which ends with the ledger's last call, as it has no calls of its own
    finetune(start, "finetuned", options, seed=seed, folder=folder, progress=Progress())


def run_genetic(start: Population, calls: Ledger, seed: int, options: Any, folder: Path) -> None:
    """Evolve trees that the policy begins with."""
    for _ in evolve(start.structure, calls, options, lambda n: first_trees(start, n, seed), seed):
        pass


#: name -> what runs it, its options, and their defaults here
CONTENDERS: dict[str, tuple[Contender, type, dict[str, Any]]] = {
    "guided": (run_guided, GuidedOptions, {}),
    "finetune": (run_finetune, FinetuneOptions, {"steps": MAX_STEPS, "batch_size": 16}),
    "genetic": (run_genetic, GeneticOptions, {}),
}


def options_of(name: str, overrides: tuple[str, ...]) -> Any:
    """The options of a contender with ``NAME.KEY=VALUE`` set."""
    given = dict(parse_override(text) for text in overrides)
    own = {key.partition(".")[2]: value for key, value in given.items() if key.partition(".")[0] == name}
    _, cls, defaults = CONTENDERS[name]
    if issubclass(cls, FinetuneOptions):
        return validate(cls, {**defaults, **own}, "the options")
    return cls(**{**defaults, **own})


def run(name: str, structure: Structure, limit: int, seed: int, options: Any, folder: Path) -> dict[str, Any]:
    """One run: the AUC, the course of the top 10, and the ten best molecules."""
    began, cpu = time.perf_counter(), time.process_time()
    start = Population.initialised(structure, 1, seed)
    with ledger(limit) as calls:
        CONTENDERS[name][0](start, calls, seed, options, folder)
        asked = calls.within()
    scores = list(asked.values())
    best = sorted(asked.items(), key=lambda pair: -pair[1])[:10]
    return {
        "seed": seed,
        "calls": len(asked),
        "auc_top_10": auc_top(scores, limit),
        "auc_top_1": auc_top(scores, limit, top=1),
        "top_10": statistics.mean(score for _, score in best),
        "course": [auc_top(scores[:at], at) for at in (1000, 2000, 5000) if at <= len(scores)],
        "best": best,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def table(report: dict[str, Any]) -> str:
    """A line for each task: ours, mean and standard deviation over the seeds, beside what is published."""
    lines = []
    for task in report["tasks"]:
        values = [run["auc_top_10"] for run in task["runs"]]
        mean, spread = statistics.mean(values), statistics.pstdev(values)
        top = statistics.mean(run["top_10"] for run in task["runs"])
        published = "  ".join(f"{name} {value:.3f}" for name, value in task["published"].items())
        cpu = statistics.mean(run["cpu_seconds"] for run in task["runs"])
        lines.append(
            f"{report['contender']} {task['goal']:>12}: AUC {mean:.3f} ({spread:.3f}), top 10 {top:.3f},"
            f" {cpu:.0f} s of a core   {published}"
        )
    return "\n".join(lines)


@click.command()
@click.option("--goal", "goals", multiple=True, help="Default: the seven.")
@click.option("--contender", "name", default="guided", show_default=True, type=click.Choice(list(CONTENDERS)))
@click.option("--structure", default="full", show_default=True, metavar="NAME|key=value,...")
@click.option("--calls", "limit", default=CALLS, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("-o", "overrides", multiple=True, metavar="CONTENDER.KEY=VALUE", help="E.g. finetune.lr=1e-3.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--results", type=click.Path(path_type=Path), help="Default: OUT/CONTENDER.json.")
def main(goals, name, structure, limit, seeds, overrides, out, results):
    """Run one contender on every task; finished runs are kept."""
    torch.set_num_threads(1)
    genflow.load_plugin(HERE / "guacamol.py")
    options = options_of(name, overrides)
    task = Structure.parse("molecule", structure).fields()
    shown = options.model_dump(mode="json") if isinstance(options, FinetuneOptions) else vars(options)
    report: dict[str, Any] = {
        "command": f"python benchmarks/molecule_pmo.py --contender {name} --out runs/pmo",
        "contender": name,
        "structure": structure,
        "calls": limit,
        "seeds": seeds,
        "options": shown,
        "tasks": [],
    }
    paths = {
        (goal, seed): out / name / goal / f"{limit}-{seed}.json"
        for seed in range(seeds)
        for goal in goals or PUBLISHED
    }
    # a seed of every task before the next, so that what was stopped says something of each
    for (goal, seed), path in paths.items():
        if not path.exists():
            paid = Structure.build("molecule", {**task, "reward": "guacamol", "goal": goal})
            scratch = out / "training" / f"{os.getpid()}-{name}-{goal}-{seed}"
            write_json(path, run(name, paid, limit, seed, options, scratch))
            click.echo(f"{goal}, seed {seed}: {read_json(path)['auc_top_10']:.3f}")
    for goal in goals or PUBLISHED:
        published = PUBLISHED.get(goal, {})
        if goal in GENETIC_GFN:
            published = {**published, "Genetic GFN": GENETIC_GFN[goal]}
        runs = [read_json(paths[goal, seed]) for seed in range(seeds)]
        report["tasks"].append({"goal": goal, "published": published, "runs": runs})
    click.echo(table(report))
    write_json(results or out / f"{name}.json", report)


if __name__ == "__main__":
    main()
