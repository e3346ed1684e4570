"""Policies that were made elsewhere, matched to a structure's network by order and shape of its layers.

Layers are linear ones and LayerNorms: a weight and a bias.

Shapes: M policies, B states, s inputs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from genflow.errors import GenflowError
from genflow.schema import brief
from genflow.storage.files import StrPath, read_tensors
from genflow.storage.populations import finite_float
from genflow.structure import Structure

#: kinds of names whose order is looked for; their orders are tried one by one
MAX_KINDS = 6
#: random inputs on which a module and the policy that is made of it must agree, and how closely
PROBES, TOLERANCE = 16, 1e-4


def weights_of_modules(structure: Structure, modules: Sequence[nn.Module]) -> Tensor:
    """Return the weights (M, D) of networks with the layers of the structure's network, in order.

    Each must compute what the policy that is made of it does, which is tried on random inputs.

    Raises:
        GenflowError: a network has other layers, or computes something else.
    """
    states = []
    for number, module in enumerate(modules):
        where = f"module {number}" if len(modules) > 1 else "the module"
        tensors = dict(module.state_dict())
        if tensors.keys() != structure.layout.shapes.keys():
            tensors = _matched(structure, tensors, [_layers(module)], where)
        _require_shapes(structure, tensors, where)
        tensors = {name: finite_float(t, f"{where}: {name}") for name, t in tensors.items()}
        _require_same(structure, module, tensors, where)
        states.append(tensors)
    return _stacked(structure, states)


def weights_of_files(structure: Structure, files: Sequence[StrPath]) -> Tensor:
    """Return the weights (M, D) of the state dicts in safetensors files, a policy each.

    A file does not say the activation between its layers, which is taken to be that of the policy.

    Raises:
        GenflowError: a file was written by torch.save, cannot be read, or has other layers.
    """
    states = []
    for file in map(Path, files):
        _refuse_pickled(file)
        tensors, _ = read_tensors(file)
        if tensors.keys() != structure.layout.shapes.keys():
            tensors = _matched(structure, tensors, _orders(tensors), str(file))
        _require_shapes(structure, tensors, str(file))
        states.append({name: finite_float(t, f"{file}: {name}") for name, t in tensors.items()})
    return _stacked(structure, states)


def _refuse_pickled(file: Path) -> None:
    try:
        with open(file, "rb") as opened:
            start = opened.read(9) if file.is_file() else b""
    except OSError as error:
        raise GenflowError(f"cannot read {file}: {error.strerror or error}") from error
    # a zip archive, or a pickle; a safetensors file has the length of its header in 8 bytes, then the header
    if start.startswith(b"PK\x03\x04") or (start.startswith(b"\x80") and not start.endswith(b"{")):
        raise GenflowError(
            f"{file} was written by torch.save, and loading it could run code; where you trust it, convert"
            " its state dict: safetensors.torch.save_file(torch.load(FILE, weights_only=True),"
            " 'policy.safetensors')"
        )


def _layers(module: nn.Module) -> list[str]:
    """Return the prefixes of a network's layers, e.g. ``"net.0."``, in their order."""
    return [
        f"{name}." if name else ""
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | nn.LayerNorm)
    ]


def _orders(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the possible orders of the prefixes of layers, told by their names; a file keeps no order.

    Names that differ in numbers only are in the order of these numbers. Others may come in any order.
    """
    kinds: dict[str, list[str]] = {}
    for layer in sorted({name.removesuffix("weight") for name in tensors if name.endswith("weight")}):
        kinds.setdefault(re.sub(r"\d+", "#", layer), []).append(layer)
    groups = [sorted(kind, key=lambda n: [int(i) for i in re.findall(r"\d+", n)]) for kind in kinds.values()]
    if len(groups) > MAX_KINDS:
        return []
    return [[name for group in order for name in group] for order in itertools.permutations(groups)]


def _matched(
    structure: Structure, tensors: Mapping[str, Tensor], orders: Sequence[Sequence[str]], where: str
) -> dict[str, Tensor]:
    """Return the tensors under the names of the structure's network.

    Args:
        structure: the structure.
        tensors: a state dict.
        orders: the possible orders of the prefixes of its layers, from inputs to outputs.
        where: the start of messages.

    Raises:
        GenflowError: no order has the shapes of the structure's layers, or several have.
    """
    shapes = structure.layout.shapes
    expected = [(f"{layer}weight", f"{layer}bias") for layer in _layers(structure.module())]
    if {name for pair in expected for name in pair} != shapes.keys():
        raise GenflowError(
            f"{where}: policy {structure.policy!r} has other parameters than layers with a weight and a bias,"
            f" so names must be its own: {brief(', '.join(shapes))}"
        )
    layers = sorted(
        name.removesuffix("weight")
        for name, tensor in tensors.items()
        if name.endswith("weight") and tensor.ndim in (1, 2)
    )
    for layer in layers:
        if f"{layer}bias" not in tensors:
            raise GenflowError(f"{where}: layer {brief(layer.rstrip('.'))!r} has no bias")
    extra = sorted(tensors.keys() - {f"{layer}{part}" for layer in layers for part in ("weight", "bias")})
    if extra:
        raise GenflowError(f"{where}: parameter {brief(extra[0])!r} is of no layer; leave it out")
    wanted = [shapes[weight] for weight, _ in expected]
    found = [[tuple(tensors[f"{layer}weight"].shape) for layer in order] for order in orders]
    fitting = [order for order, own in zip(orders, found, strict=True) if own == wanted]
    if not fitting:
        # of several orders, the one whose layers fit each other best
        unordered = [tuple(tensors[f"{layer}weight"].shape) for layer in layers]
        own = max(found, key=lambda o: sum(a[0] == b[-1] for a, b in pairwise(o)), default=unordered)
        raise GenflowError(
            f"{where} has layers (outputs x inputs) {brief(_sizes(own))}; {structure.name} of policy"
            f" {structure.policy!r} has {brief(_sizes(wanted))}: choose its width, depth and policy to fit"
        )
    if len(fitting) > 1:
        names = ", ".join(layer.rstrip(".") for layer in fitting[0])
        raise GenflowError(
            f"{where}: layers {brief(names)} fit in more than one order; number them, e.g. net.0.weight"
        )
    return {
        name: tensors[f"{layer}{part}"]
        for layer, pair in zip(fitting[0], expected, strict=True)
        for name, part in zip(pair, ("weight", "bias"), strict=True)
    }


def _sizes(shapes: Sequence[tuple[int, ...]]) -> str:
    return " ".join("x".join(map(str, shape)) for shape in shapes)


def _require_shapes(structure: Structure, tensors: Mapping[str, Tensor], where: str) -> None:
    for name, shape in structure.layout.shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise GenflowError(
                f"{where}: {name!r} has shape {brief(tuple(tensors[name].shape))}, and {structure.name} of"
                f" policy {structure.policy!r} needs {shape}"
            )


@torch.no_grad()
def _require_same(structure: Structure, module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse a module that computes other logits than the policy of its weights, e.g. by its activation."""
    own = structure.module()
    own.load_state_dict(dict(tensors))
    first = next(module.parameters())
    inputs = len(structure.layout.units["input"])
    x = torch.randn(PROBES, inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    expected, found = own(x), module(x.to(first.device, first.dtype)).cpu().float()
    scale = float(expected.abs().max().clamp(min=1e-12))
    if expected.shape == found.shape and float((expected - found).abs().max()) <= TOLERANCE * scale:
        return
    theirs, ours = (
        {type(part).__name__ for part in each.modules() if not list(part.children())}
        - {"Linear", "LayerNorm"}
        for each in (module, own)
    )  # fmt: skip
    told = f"has {', '.join(sorted(theirs)) or 'no such layer'} between its linear layers, and policy"
    raise GenflowError(
        f"{where} {told} {structure.policy!r} of {structure.name} has {', '.join(sorted(ours))}, so it"
        " computes something else; choose one that does the same, e.g. policy mlp with activation=... and"
        " residual=..."
    )


def _stacked(structure: Structure, states: Sequence[Mapping[str, Tensor]]) -> Tensor:
    if not states:
        return torch.zeros(0, structure.layout.size)
    return structure.layout.flatten(
        {
            name: torch.stack([state[name].detach().cpu() for state in states])
            for name in structure.layout.shapes
        }
    )
