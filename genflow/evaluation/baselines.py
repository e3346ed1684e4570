"""What generated policies are compared with: populations that need no generator.

random: untrained. uniform: all weights 0, so every allowed action is as likely. mean: the average of a
structure's checkpoints.
nearest: checkpoints of the nearest other structure. perturbed: checkpoints plus Gaussian noise. For a
structure that the zoo lacks, "mean" and "perturbed" start from the nearest structure's checkpoints too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from genflow.coverage import distance
from genflow.population import Population
from genflow.storage.zoo import Zoo
from genflow.structure import Structure

#: distances between units of two structures that are held at once
MAX_PAIRS = 2**24


def baselines(
    structure: Structure, zoo: Zoo | None, names: Sequence[str], num: int, seed: int, noise: float
) -> list[Population]:
    """Build the named baselines.

    Those that need a zoo, or another structure in it, are left out where there is none.

    Args:
        structure: the task.
        zoo: trained populations, or None.
        names: of random, uniform, mean, nearest, perturbed.
        num: policies of each (one for "mean" and "uniform").
        seed: of the randomness.
        noise: of "perturbed", relative to each tensor's standard deviation.
    """
    own, near = _own(structure, zoo), _nearest(structure, zoo)
    base = own or near
    makers: dict[str, Callable[[], Population | None]] = {
        "random": lambda: Population.initialised(structure, num, seed),
        "uniform": lambda: Population(
            structure, torch.zeros(1, structure.layout.size), {"training_structures": []}
        ),
        "mean": lambda: base and replace(base, weights=base.weights.mean(0, keepdim=True)),
        "nearest": lambda: near and near[:num],
        "perturbed": lambda: base and perturb(base[:num], noise, seed),
    }
    made = []
    for name in names:
        began = time.perf_counter()
        population = makers[name]()
        if population is not None:
            facts = {
                key: value
                for key, value in population.provenance.items()
                if key in ("training_structures", "transplanted_from")
            }
            made.append(
                replace(
                    population, provenance={**facts, "source": name, "seconds": time.perf_counter() - began}
                )
            )
    return made


def comparable(structure: Structure, zoo: Zoo | None) -> list[Population]:
    """The populations of a zoo that have the environment and the policy of a structure."""
    return (
        [
            p
            for p in zoo.populations
            if (p.structure.env, p.structure.policy) == (structure.env, structure.policy)
        ]
        if zoo
        else []
    )


def reference(structure: Structure, zoo: Zoo | None) -> Population | None:
    """The checkpoints that policies of a structure are compared with.

    Its own, else the nearest other structure's, transplanted.
    """
    own = _own(structure, zoo)
    return own[:] if own else _nearest(structure, zoo)  # a copy: what metrics keep with it goes with it


def _own(structure: Structure, zoo: Zoo | None) -> Population | None:
    return next((p for p in comparable(structure, zoo) if p.structure == structure), None)


def _nearest(structure: Structure, zoo: Zoo | None) -> Population | None:
    others = [p for p in comparable(structure, zoo) if p.structure != structure]
    return (
        transplant(min(others, key=lambda p: distance(p.structure, structure)), structure) if others else None
    )


def perturb(population: Population, noise: float, seed: int) -> Population:
    """Add Gaussian noise of `noise` times each tensor's standard deviation."""
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in population.state_dict().items():
        scale = tensor.flatten(1).std(1, correction=0).reshape(-1, *[1] * (tensor.ndim - 1))
        tensors[name] = tensor + noise * scale * torch.randn(tensor.shape, generator=rng)
    return replace(population, weights=population.layout.flatten(tensors))


def transplant(population: Population, structure: Structure) -> Population:
    """The same policies on another structure: each unit takes the weights of the nearest unit of the source.

    Input and action units are matched by their coordinates, hidden units by their index; hidden units that
    the source lacks get zero weights, which leaves the function as it is.
    """
    source, target = population.layout, structure.layout
    tensors = {}
    for name, tensor in population.state_dict().items():
        for axis, label in enumerate(target.axes[name]):
            size = target.shapes[name][axis]
            if label in target.units:
                there, here = source.units[label].coordinates, target.units[label].coordinates
                # some at a time: two large grids have billions of pairs
                index = torch.cat(
                    [
                        torch.cdist(part, there).argmin(1)
                        for part in here.split(max(1, MAX_PAIRS // len(there)))
                    ]
                )
                tensor = tensor.index_select(axis + 1, index)
            else:
                tensor = _resize(tensor, axis + 1, size)
        tensors[name] = tensor
    provenance = {**population.provenance, "transplanted_from": population.structure.fields()}
    return Population(structure, target.flatten(tensors), provenance)


def _resize(tensor: Tensor, axis: int, size: int) -> Tensor:
    """Cut or zero-pad one axis."""
    kept = tensor.narrow(axis, 0, min(size, tensor.shape[axis]))
    if kept.shape[axis] == size:
        return kept
    shape = list(kept.shape)
    shape[axis] = size - kept.shape[axis]
    return torch.cat([kept, kept.new_zeros(shape)], dim=axis)
