"""Our side: genflow's own training step, exact evaluation and generation, behind the protocol of `sides`.

    python benchmarks/genflow_side.py [DEVICE]

A task is {"ndim", "height", "width"} and possibly more fields of a hypergrid's structure; a recipe holds
`PolicyOptions`.
"""

from __future__ import annotations

import gc
import sys
import time
from functools import cached_property
from pathlib import Path

import torch
from sides import Handlers, paced, serve

from genflow import Generator, Population, Structure, threads
from genflow.pretrained import shipped
from genflow.storage.files import read_tensors, write_tensors
from genflow.threads import PRODUCTS_A_THREAD
from genflow.training.options import PolicyOptions
from genflow.training.policies import PopulationTrainee


def build(task: dict) -> Structure:
    """The structure of a task."""
    return Structure.build("hypergrid", task)


def load(task: dict, path: str) -> Population:
    """One policy of a task, from the weights that a side saved."""
    structure = build(task)
    tensors, _ = read_tensors(Path(path))
    return Population(
        structure, structure.layout.flatten({name: tensors[name][None] for name in structure.layout.shapes})
    )


class Genflow(Handlers):
    """One population in training, and what needs none."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    def prepare(
        self,
        task: dict,
        recipe: dict,
        members: int = 1,
        seed: int = 0,
        weights: str | None = None,
        log_z: float | None = None,
    ) -> dict[str, float]:
        """Start a population, of untrained policies or of copies of the one in `weights`.

        For "distill" the seconds hold the making of the teacher.
        """
        self.trainee = self.optimizer = None  # the last population makes room on the device
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()
        began = time.perf_counter()
        self.structure, self.options, self.done = build(task), PolicyOptions(**recipe), 0
        if self.options.objective == "distill":
            self.structure.solution.expert  # noqa: B018  computed here, once
        start = (
            Population.initialised(self.structure, members, seed).weights
            if weights is None
            else load(task, weights).weights.expand(members, -1)
        )
        self.trainee = PopulationTrainee(
            self.structure, start, self.options, seed=seed, device=self.device, checkpoints=1, every=1
        )
        if log_z is not None:
            with torch.no_grad():
                self.trainee.log_z.fill_(log_z)
        groups = self.trainee.groups()
        self.scales = [group.pop("lr_scale", 1.0) for group in groups]
        self.optimizer = torch.optim.Adam(groups, lr=self.options.lr, fused=True)
        self.rng = torch.Generator(self.trainee.random_device).manual_seed(seed)
        return {"seconds": time.perf_counter() - began}

    def _step(self) -> int:
        """One step as in `genflow.training.loop.train`, without its figures and checkpoints."""
        rate = self.options.lr * self.options.rate(self.done)
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            group["lr"] = rate * scale
        self.trainee.backward(self.done, self.rng)
        self.optimizer.step()
        self.done += 1
        return 1

    def iterate(self, seconds: float | None = None, limit: int | None = None) -> dict[str, float]:
        """Train on."""
        return paced(self._step, seconds, limit, self._wait)

    def save(self, path: str) -> None:
        """Write the first member's weights, under torch's names."""
        tensors = self.trainee.tensors().items()
        write_tensors(
            Path(path),
            {name.removeprefix("weights."): t[0].cpu() for name, t in tensors if name.startswith("weights.")},
        )

    def initialise(self, task: dict, path: str, seed: int = 0) -> None:
        """Write the weights of an untrained policy."""
        write_tensors(
            Path(path),
            {
                name: tensor[0]
                for name, tensor in Population.initialised(build(task), 1, seed).state_dict().items()
            },
        )

    def exact(
        self,
        task: dict,
        weights: str | None = None,
        out: str | None = None,
        members: int = 1,
        max_floats: int | None = None,
        generated: bool = False,
    ) -> dict:
        """The exact terminal distribution, (S,) to `out`, of the policy in `weights` or of untrained ones.

        The state graph is timed too. `generated`: of generated ones instead, which are made off the clock.
        """
        if generated:
            population = self._generator.generate(build(task), members)
        elif weights is None:
            population = Population.initialised(build(task), members, 0)
        else:
            population = load(task, weights)
        bound = {} if max_floats is None else {"max_floats": max_floats}
        began = time.perf_counter()
        distribution = population.terminal_distribution(**bound)
        seconds = time.perf_counter() - began
        if out is not None:
            write_tensors(Path(out), {"distribution": distribution[0]})
        return {"seconds": seconds}

    @cached_property
    def _generator(self) -> Generator:
        return Generator.from_pretrained(shipped("hypergrid")[0], self.device)

    def generate(
        self, task: dict, num: int, seed: int = 0, out: str | None = None, spread: bool = False
    ) -> dict[str, float]:
        """`num` policies for a task, building its structure included; the first one's weights to `out`.

        `spread`: on every thread, whatever the work is worth.
        """
        generator = self._generator
        threads.PRODUCTS_A_THREAD = 1 if spread else PRODUCTS_A_THREAD
        began = time.perf_counter()
        population = generator.generate(build(task), num, seed=seed)
        seconds = time.perf_counter() - began
        if out is not None:
            write_tensors(Path(out), {name: tensor[0] for name, tensor in population.state_dict().items()})
        return {"seconds": seconds}


if __name__ == "__main__":
    serve(Genflow(*sys.argv[1:]))
