"""The items of the paper that are measured again, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

from . import comparisons, drawings, latents, molecules, networks, vision
from .divergences import main_generators, main_parts
from .parts import KNOWN, MORE_UNKNOWN, UNKNOWN, Lab, Part
from .result import Result
from .scale import Scale


def _nothing(scale: Scale) -> list[Part]:
    return []


#: without policies that are trained on unknown structures
_known_parts = partial(main_parts, unknown=False)
#: generators of useful width alone
_useful_generators = partial(main_generators, widths=["useful"])


class Item(NamedTuple):
    """A table or figure.

    Attributes:
        title: one line on what it is.
        measure: measures it, once its parts are made.
        parts: what it is measured on.
        extra: the extra of the distribution that it needs, with the modules that are then there.
    """

    title: str
    measure: Callable[[Lab], Result]
    parts: Callable[[Scale], Sequence[Part]] = _nothing
    extra: tuple[str, tuple[str, ...]] | None = None

    @property
    def missing(self) -> str | None:
        """What to install before the item can be measured, None if all is there."""
        if self.extra is None or all(find_spec(module) for module in self.extra[1]):
            return None
        return f"pip install 'genflownet[{self.extra[0]}]'"


def _main(names: Sequence[str], title: str) -> Item:
    parts = _known_parts if names[0] in KNOWN else main_parts
    return Item(title, partial(comparisons.main_table, names=names), parts)


def _over_structures(letter: str) -> Item:
    return Item(
        f"The number of training structures, N = 2 to 5: {letter} and {letter}*.",
        lambda lab: comparisons.ablation(lab, letter, comparisons.by_structures(lab.scale), "N"),
        lambda scale: comparisons.ablation_parts(comparisons.by_structures(scale)),
    )


def _over_members(letter: str) -> Item:
    return Item(
        f"The number of checkpoints of a structure, M = 50 to 300: {letter} and {letter}*.",
        lambda lab: comparisons.ablation(lab, letter, comparisons.by_members(lab.scale), "M"),
        lambda scale: comparisons.ablation_parts(comparisons.by_members(scale)),
    )


def _matrices(layer: int) -> Item:
    return Item(
        f"Weight matrices of layer {layer} of several generated policies of A.",
        partial(drawings.matrices, layer=layer),
        _known_parts,
    )


ITEMS: dict[str, Item] = {
    "table1": _main(KNOWN[:4], "Known structures A to D: JS, KL, L1 and time, generated beside trained."),
    "table2": _main(UNKNOWN, "Unknown structures A* to D*: JS, KL, L1 and time, generated beside trained."),
    "table3": Item("Molecules: modes and the best 100 by iteration, from each start.", molecules.table3),
    "table4": _over_structures("A"),
    "table5": _over_members("A"),
    "table6": Item("Variance of parameters by layer and by policy.", networks.variances, main_parts),
    "table7": Item("Numbers of parameters.", networks.counts),
    "table9": _main(MORE_UNKNOWN, "More unknown structures, E* to H*."),
    "table10": _over_structures("B"),
    "table11": _over_structures("C"),
    "table12": _over_structures("D"),
    "table13": _over_members("B"),
    "table14": _over_members("C"),
    "table15": _over_members("D"),
    "table16": Item(
        "Best, average and median policy of A to D.",
        comparisons.spread,
        _known_parts,
    ),
    "figure4": Item(
        "Mean reward while training from generated and from untrained policies.",
        drawings.tuning,
        _useful_generators,
    ),
    "figure5": _matrices(2),
    "figure6a": Item(
        "How alike the layers of vision networks are (CKA).",
        vision.vision,
        extra=("vision", ("transformers", "sklearn")),
    ),
    "figure6b": Item(
        "How alike the layers of policies are, within and between structures (CKA).",
        networks.alignments,
        partial(main_parts, widths=["useful"]),
    ),
    "figure7": _matrices(1),
    "figure8": _matrices(3),
    "figure9": Item("Samples of B beside the truth.", drawings.samples, _known_parts),
    "diffusion": Item(
        "Beyond the paper: what the diffusion model is worth beside other latents.",
        latents.worth,
        _useful_generators,
    ),
    "optima": Item(
        "Beyond the paper: one condition, several optima, which only a distribution can tell.", latents.optima
    ),
}
