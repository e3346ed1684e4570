"""Checks of an encoder, on a small zoo.

A check takes an `EncoderUnderTest`. Shapes: M policies, D parameters, Z latent size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from genflow.errors import GenflowError
from genflow.interfaces.encoder import Encoder, Starts
from genflow.interfaces.validation import kind_of
from genflow.population import Population
from genflow.precision import float32_default
from genflow.schema import brief
from genflow.seeding import seeded_cpu
from genflow.structure import Structure

#: policies of each structure
MEMBERS = 4
#: relative difference that rounding in float32 explains
NEAR = 1e-4


class EncoderUnderTest:
    """An encoder and a zoo of untrained policies from its own starts."""

    def __init__(self, cls: type[Encoder], structures: Sequence[Structure]) -> None:
        self.cls, self.structures, self.name = cls, list(structures), cls.__name__
        self.config: Any = cls.Config()

    @cached_property
    def starts(self) -> Starts:
        """Where the zoo's members start."""
        return self.cls.starts(self.config, self.structures)

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """What is stored with the zoo."""
        return dict(self.starts.tensors())

    @cached_property
    def zoo(self) -> list[Population]:
        """M policies of each structure."""
        provenance = {"source": "zoo", "training_structures": [each.fields() for each in self.structures]}
        found = []
        for number, structure in enumerate(self.structures):
            untrained = Population.initialised(structure, MEMBERS, seed=number)
            found.append(Population(structure, self.starts.weights(untrained, number), provenance))
        return found

    @cached_property
    def encoder(self) -> Encoder:
        """The untrained encoder of the zoo."""
        with seeded_cpu(0), float32_default():
            return self.cls.for_zoo(self.config, self.zoo, self.stored)

    @cached_property
    def rebuilt(self) -> Encoder:
        """The encoder from its specification and its tensors."""
        spec = json.loads(json.dumps(self.encoder.spec(), allow_nan=False))
        with seeded_cpu(1), float32_default():
            rebuilt = self.cls.from_spec(self.config, spec)
        rebuilt.load_state_dict(self.encoder.state_dict())
        return rebuilt

    @cached_property
    @torch.no_grad()
    def latents(self) -> list[Tensor]:
        """The latents (M, Z) of each population."""
        return [self.encoder.encode(each) for each in self.zoo]

    def items(self) -> list[tuple[Tensor, Any, Tensor]]:
        """Return what `decode` is given, for each population."""
        return [(z, p.layout, p.structure.condition()) for z, p in zip(self.latents, self.zoo, strict=True)]

    @cached_property
    @torch.no_grad()
    def decoded(self) -> list[Tensor]:
        """The weights (M, D) that the latents of each population are decoded to."""
        return [self.encoder.decode(*item) for item in self.items()]


def check_class(task: EncoderUnderTest) -> Iterator[str]:
    """The class says whether it reads units, and its starts are JSON, tensors and finite weights."""
    if not isinstance(task.cls.reads_units, bool):
        yield f"{task.name}.reads_units: it is {task.cls.reads_units!r}; write True or False"
    where = f"{task.name}.starts()"
    try:
        json.dumps(task.starts.facts(), allow_nan=False)
    except (TypeError, ValueError) as error:
        yield f"{where}: its facts() are no JSON ({brief(str(error))}); return texts, numbers and lists"
    if not all(isinstance(each, Tensor) for each in task.stored.values()):
        yield f"{where}: its tensors() must all be torch tensors; put other facts into facts()"
    for population in task.zoo:
        if not population.weights.isfinite().all():
            yield f"{where}: its weights() of {population.structure.name} are not finite; make finite ones"
    again = task.cls.starts(task.config, task.structures, task.stored)
    untrained = Population.initialised(task.structures[0], MEMBERS, seed=0)
    if not torch.equal(again.weights(untrained, 0), task.zoo[0].weights):
        yield (
            f"{where}: a zoo that is resumed starts elsewhere; draw weights() from the seed, and take"
            " `stored` where it is given"
        )


def check_latents(task: EncoderUnderTest) -> Iterator[str]:
    """Latents are (M, Z) float32, finite, the same each time, and each policy's alone."""
    size = task.encoder.latent_size
    for population, latents in zip(task.zoo, task.latents, strict=True):
        where = f"{task.name}.encode()"
        if latents.shape != (MEMBERS, size) or latents.dtype != torch.float32:
            yield (
                f"{where}: makes {kind_of(latents)} of {MEMBERS} policies; return ({MEMBERS},"
                f" {size}) float32, as latent_size says"
            )
            return
        if not latents.isfinite().all():
            yield f"{where}: makes latents that are not finite; give what never varies a scale of 1"
            return
        with torch.no_grad():
            again, alone = task.encoder.encode(population), task.encoder.encode(population[1])
        if not torch.equal(again, latents):
            yield f"{where}: makes other latents each time; leave noise to noisy()"
        elif not _close(alone[0], latents[1]):
            yield f"{where}: a policy's latent depends on the others of its population; encode each row alone"


def check_decoding(task: EncoderUnderTest) -> Iterator[str]:
    """Latents are decoded to finite weights (M, D) of each structure, also several structures at once."""
    for population, weights in zip(task.zoo, task.decoded, strict=True):
        where, shape = f"{task.name}.decode()", (MEMBERS, population.layout.size)
        if weights.shape != shape or weights.dtype != torch.float32 or not weights.isfinite().all():
            yield (
                f"{where}: makes {kind_of(weights)} for {population.structure.name}; return {shape} float32,"
                " finite"
            )
            return
    with torch.no_grad():
        together = task.encoder.decode_all(task.items())
    if len(together) != len(task.decoded) or not all(map(_close, together, task.decoded)):
        yield f"{task.name}.decode_all(): is not what decode() makes of each; make the same, or leave it out"
    for population in task.zoo:
        try:
            task.encoder.check(population.layout)
        except GenflowError as error:
            yield (
                f"{task.name}.check(): refuses {population.structure.name}, which it was built for ({error});"
                " accept what for_zoo() was given"
            )


def check_spec(task: EncoderUnderTest) -> Iterator[str]:
    """`from_spec` with the JSON of `spec` and the tensors of `state_dict` is the same encoder."""
    where = f"{task.name}.spec()"
    try:
        json.dumps(task.encoder.spec(), allow_nan=False)
    except (TypeError, ValueError) as error:
        yield f"{where}: is no JSON ({brief(str(error))}); return texts, numbers, lists and dicts"
        return
    try:
        rebuilt = task.rebuilt
    except RuntimeError as error:
        yield (
            f"{where}: from_spec() makes tensors of other names or shapes ({brief(str(error))}); spec() must"
            " hold what decides them"
        )
        return
    if rebuilt.latent_size != task.encoder.latent_size:
        yield f"{where}: the encoder read back has another latent_size; set it in from_spec() too"
        return
    with torch.no_grad():
        for population, item, latents, weights in zip(
            task.zoo, task.items(), task.latents, task.decoded, strict=True
        ):
            if not _close(rebuilt.encode(population), latents) or not _close(rebuilt.decode(*item), weights):
                yield (
                    f"{where}: the encoder read back encodes or decodes otherwise; keep all that both need in"
                    " spec() and in buffers"
                )
                return


def check_reconstruction(task: EncoderUnderTest) -> Iterator[str]:
    """`reconstruct` gives a loss a policy and the weights of each structure, with gradients."""
    where, total = f"{task.name}.reconstruct()", MEMBERS * len(task.zoo)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=rng)

    rng = torch.Generator().manual_seed(0)
    losses, weights = task.encoder.reconstruct(task.zoo, noise)
    rng = torch.Generator().manual_seed(0)
    again, _ = task.encoder.reconstruct(task.zoo, noise)
    if losses.shape != (total,) or not losses.isfinite().all() or (losses < 0).any():
        yield f"{where}: its losses are {kind_of(losses)}; return ({total},), finite and >= 0, one a policy"
        return
    shapes = [tuple(each.shape) for each in weights]
    if shapes != [tuple(each.weights.shape) for each in task.zoo]:
        yield (f"{where}: returns weights {brief(shapes)}; return those of each population, (M, D) each")
        return
    if not torch.equal(losses, again):
        yield f"{where}: draws noise of its own; take it from the argument `noise`, so that workers agree"
    for what, tensor in (("losses", losses), ("weights", sum(each.sum() for each in weights))):
        if not isinstance(tensor, Tensor) or not tensor.requires_grad:
            yield f"{where}: its {what} carry no gradient; compute them without no_grad() and detach()"
            return
    task.encoder.zero_grad()
    (losses.sum() + sum(each.square().sum() for each in weights)).backward()
    idle = [
        name for name, each in task.encoder.named_parameters() if each.requires_grad and each.grad is None
    ]
    if idle:
        yield (
            f"{where}: parameter {idle[0]} has no gradient, so that it never learns; use it, or make it a"
            " buffer"
        )


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, NEAR, NEAR)
