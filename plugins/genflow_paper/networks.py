"""Tables 6 and 7 and Figure 6: variances and counts of parameters, and how alike layers are.

Shapes: K policies, B examples, L layers.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch
from genflow_metrics.diversity import ParameterVariance
from genflow_metrics.similarity import activations, cka_matrix
from torch import Tensor, nn

from genflow import Population, Structure

from .charts import heat_maps
from .divergences import brief_source, main_models, sources
from .parts import KNOWN, UNKNOWN, WIDTHS, Lab, structure_of
from .result import Cell, Picture, Result, Table

#: examples on which layers are compared
EXAMPLES = 512
#: from how many policies of a structure the alignment is a mean
ALIGNED = 4


def by_layer(population: Population) -> list[float]:
    """Return the variance of the weights of each layer around their mean, averaged over policies."""
    matrices = [t.double().flatten(1) for t in population.state_dict().values() if t.ndim == 3]
    return [float(each.var(1, correction=0).mean()) for each in matrices]


def variances(lab: Lab) -> Result:
    """Table 6: the variance of parameters, of each layer and of whole policies."""
    columns = ("structure", "d", "source", "layer 1", "layer 2", "layer 3", "all", "between policies")
    rows: list[list[Cell]] = []
    findings = []
    for width in WIDTHS:
        totals: dict[str, list[float]] = {}
        for name in (*KNOWN[:4], *UNKNOWN):
            for source, make in sources(lab, name, width, main_models(lab, width)).items():
                population = make()
                whole = float(ParameterVariance()(population).mean())
                between = float(population.weights.double().var(0, correction=0).mean())
                d = structure_of(name, width).fields()["width"]
                rows.append([name, d, source, *by_layer(population), whole, between])
                totals.setdefault(source, []).append(whole)
        listed = ", ".join(f"{source} {statistics.mean(each):.3g}" for source, each in totals.items())
        said = "the paper's d" if width == "paper" else "d = 128"
        findings.append(f"Variance of all parameters at {said}, mean over structures: {listed}.")
    note = (
        "Layers: the variance of a layer's weights around their mean, averaged over policies. All: the same"
        " of all parameters, the metric parameter_variance. Between policies: the variance of each parameter"
        " over the policies of the source, averaged over parameters; 0 would be copies of one policy. The"
        " paper's own numbers are lost."
    )
    return Result([Table("Variance of parameters", columns, rows, note)], findings=findings)


def resnet_parameters(blocks: Sequence[int], classes: int = 1000) -> int:
    """Return how many parameters a ResNet of basic blocks has (He et al. 2016).

    Args:
        blocks: how many blocks each of the four stages has, e.g. 2, 2, 2, 2 for ResNet-18.
        classes: the outputs of its last layer.
    """
    total, width = 3 * 64 * 7 * 7 + 2 * 64, 64
    for stage, count in enumerate(blocks):
        out = 64 * 2**stage
        for block in range(count):
            into = width if block == 0 else out
            total += 9 * into * out + 9 * out * out + 4 * out
            total += into * out + 2 * out if into != out else 0  # the shortcut where the size changes
        width = out
    return total + width * classes + classes


def counts(lab: Lab) -> Result:
    """Table 7: how many parameters networks have."""
    grids = [structure_of(name, width) for name in (*KNOWN[:4], *UNKNOWN) for width in WIDTHS]
    sizes = [grid.layout.size for grid in grids]
    resnet18 = resnet_parameters((2, 2, 2, 2))
    with torch.device("meta"):
        transformer = sum(p.numel() for p in nn.Transformer(nhead=8).parameters())
    rows: list[list[Cell]] = [[f"GFlowNet, hypergrid {g.name}", g.layout.size, "counted"] for g in grids]
    for preset in ("small", "medium", "full"):
        structure = Structure.parse("molecule", preset)
        rows.append([f"GFlowNet, molecules {preset}", structure.layout.size, "counted"])
    rows += [
        ["ResNet-18", resnet18, "by its formula (He et al. 2016)"],
        ["ResNet-34", resnet_parameters((3, 4, 6, 3)), "by its formula (He et al. 2016)"],
        ["Transformer, 4 or 8 heads", transformer, "torch's nn.Transformer; heads change no count"],
    ]
    note = "The paper's own numbers are lost."
    said = (
        f"A hypergrid policy has {min(sizes):,} to {max(sizes):,} parameters, ResNet-18 {resnet18:,}: what is"
        " generated here is small, which is part of why it can be generated."
    )
    return Result([Table("Parameters", ("network", "parameters", "how known"), rows, note)], findings=[said])


def paired_inputs(first: Structure, second: Structure, seed: int) -> tuple[Tensor, Tensor]:
    """Return the inputs (B, s) of two grids at the same relative places, in the dimensions that both have.

    CKA compares what two networks make of the same examples. Two grids have no example in common; a place
    that is as far along each dimension is the nearest to one.
    """
    rng = torch.Generator().manual_seed(seed)
    grids = [structure.fields() for structure in (first, second)]
    places = torch.rand(EXAMPLES, max(grid["ndim"] for grid in grids), generator=rng)
    inputs = []
    for structure, grid in zip((first, second), grids, strict=True):
        states = (places[:, : grid["ndim"]] * grid["height"]).long().clamp(max=grid["height"] - 1)
        inputs.append(structure.transitions().inputs(states).float())
    return inputs[0], inputs[1]


def layer_names(module: nn.Module) -> list[str]:
    """Return the names of the modules whose outputs `activations` lists."""
    kinds: dict[str, int] = {}
    names = []
    for leaf in module.modules():
        if not list(leaf.children()):
            kind = type(leaf).__name__
            kinds[kind] = kinds.get(kind, 0) + 1
            names.append(f"{kind} {kinds[kind]}")
    return names


def alignment(first: Population, second: Population, seed: int) -> Tensor:
    """Return the CKA (L, L) between the layers of policies of two structures, a mean over their pairs."""
    inputs = paired_inputs(first.structure, second.structure, seed)
    layers = [
        [activations(policy.module(), own) for policy in population]
        for population, own in zip((first, second), inputs, strict=True)
    ]
    pairs = [
        cka_matrix(a, b)
        for i, a in enumerate(layers[0])
        for j, b in enumerate(layers[1])
        if first is not second or i != j  # a policy beside itself says nothing
    ]
    return torch.stack(pairs).nanmean(0)


def aligned_table(
    maps: Mapping[str, Tensor], names: Mapping[str, tuple[Sequence[str], Sequence[str]]]
) -> Table:
    """Return all entries of matrices of CKA as rows."""
    rows: list[list[Cell]] = [
        [title, a, b, float(values[i, j])]
        for title, values in maps.items()
        for i, a in enumerate(names[title][0])
        for j, b in enumerate(names[title][1])
    ]
    note = "Linear CKA (Kornblith et al. 2019), 1 for layers that are alike up to rotation and scale."
    return Table("Centred kernel alignment", ("pair", "layer", "other layer", "CKA"), rows, note)


def alignments(lab: Lab) -> Result:
    """Figure 6 (b): CKA between the layers of policies within and between structures."""
    pairs = (("A", "A"), ("A", "B"), ("B", "B"), ("B*", "C*"), ("C*", "C*"))
    maps: dict[str, Tensor] = {}
    names: dict[str, tuple[Sequence[str], Sequence[str]]] = {}

    models = main_models(lab, "useful")
    for source in ("trained", "untrained", "generated, conv1d + unet1d, v", "generated, coordinate"):
        policies = {
            name: sources(lab, name, "useful", models)[source]()[:ALIGNED]
            for name in dict.fromkeys(name for pair in pairs for name in pair)
        }
        for first, second in pairs:
            title = f"{first} and {second}, {brief_source(source)}"
            maps[title] = alignment(policies[first], policies[second], lab.seed)
            labels = layer_names(policies[first][0].module())
            names[title] = (labels, labels)
    caption = (
        f"CKA between the layers of d = 128 policies, mean over pairs of {min(ALIGNED, lab.scale.num)}. A"
        " structure beside itself means different policies of it. Two grids are compared at the same relative"
        " places of the dimensions that both have."
    )

    def mean(first: str, second: str, source: str) -> float:
        return float(maps[f"{first} and {second}, {source}"].diagonal().mean())

    findings = [
        f"CKA of the same layer of two policies, mean over the layers, {source}: "
        + "; ".join(f"{a} and {b} {mean(a, b, source):.2f}" for a, b in pairs)
        + "."
        for source in dict.fromkeys(title.split(", ", 1)[1] for title in maps)
    ]
    return Result(
        [aligned_table(maps, names)], [Picture("cka", heat_maps(maps, names), caption, wide=True)], findings
    )
