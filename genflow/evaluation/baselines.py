"""Baselines that generated policies are compared with, none of which needs a generator.

- random: untrained policies.
- uniform: one policy whose weights are all 0, so that every allowed action is equally likely.
- mean: one policy whose weights are the mean of the structure's checkpoints.
- nearest: the checkpoints of the nearest other structure with the same parameters, transplanted.
- perturbed: the structure's checkpoints plus Gaussian noise.

For a structure that is not in the zoo, "mean" and "perturbed" use the transplanted nearest checkpoints.
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

#: the most pairwise distances between units that are held in memory at once
MAX_PAIRS = 2**24


def baselines(
    structure: Structure, zoo: Zoo | None, names: Sequence[str], num: int, seed: int = 0, noise: float = 0.1
) -> list[Population]:
    """Build the named baselines for a structure.

    A baseline that needs checkpoints which the zoo does not have is left out.

    Args:
        structure: the structure that the baselines are for.
        zoo: trained populations, or None.
        names: any of random, uniform, mean, nearest and perturbed.
        num: number of policies of each baseline; "mean" and "uniform" always have one.
        seed: seed of the random numbers.
        noise: standard deviation of the noise of "perturbed", relative to that of each tensor.
    """
    own, near = _population_of(structure, zoo), _transplanted_nearest(structure, zoo)
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
    """Return the populations of a zoo with the same environment and policy architecture as a structure.

    Policies that diverged in training are left out.
    """
    return (
        [
            p.without_diverged()
            for p in zoo.populations
            if (p.structure.env, p.structure.policy) == (structure.env, structure.policy)
        ]
        if zoo
        else []
    )


def reference(structure: Structure, zoo: Zoo | None) -> Population | None:
    """Return the checkpoints that policies of a structure are compared with.

    They are the structure's own, or else those of the nearest other structure, transplanted. The result is
    None if the zoo has neither.
    """
    own = _population_of(structure, zoo)
    return (
        own[:] if own else _transplanted_nearest(structure, zoo)
    )  # a copy, so that what metrics cache for it is freed with it


def _population_of(structure: Structure, zoo: Zoo | None) -> Population | None:
    return next((p for p in comparable(structure, zoo) if p.structure == structure), None)


def _transplanted_nearest(structure: Structure, zoo: Zoo | None) -> Population | None:
    axes = structure.layout.axes  # no unit of a network of another depth is known to be like one of this
    others = [p for p in comparable(structure, zoo) if p.structure != structure and p.layout.axes == axes]
    return (
        transplant(min(others, key=lambda p: distance(p.structure, structure)), structure) if others else None
    )


def perturb(population: Population, noise: float, seed: int) -> Population:
    """Add Gaussian noise with a standard deviation of `noise` times that of each tensor."""
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in population.state_dict().items():
        scale = tensor.flatten(1).std(1, correction=0).reshape(-1, *[1] * (tensor.ndim - 1))
        tensors[name] = tensor + noise * scale * torch.randn(tensor.shape, generator=rng)
    return replace(population, weights=population.layout.flatten(tensors))


def transplant(population: Population, structure: Structure) -> Population:
    """Carry policies over to another structure, where each unit copies the nearest unit of the source.

    Input and action units are matched by their coordinates, hidden units by their index. Hidden units that
    the source does not have get zero weights, which do not change the network's function.
    """
    source, target = population.layout, structure.layout
    tensors = {}
    for name, tensor in population.state_dict().items():
        for axis, label in enumerate(target.axes[name]):
            size = target.shapes[name][axis]
            if label in target.units:
                there, here = source.units[label].coordinates, target.units[label].coordinates
                # in parts, because two large grids have billions of pairs
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
    """Truncate or zero-pad one axis to a size."""
    kept = tensor.narrow(axis, 0, min(size, tensor.shape[axis]))
    if kept.shape[axis] == size:
        return kept
    shape = list(kept.shape)
    shape[axis] = size - kept.shape[axis]
    return torch.cat([kept, kept.new_zeros(shape)], dim=axis)
