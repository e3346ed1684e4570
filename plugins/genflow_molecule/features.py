"""What networks that make weights are told about inputs and actions: the same chemistry in every vocabulary.

An input is "the block in this slot is this entry" or "it hangs from this stem of that slot"; an action is a
site and an entry, or exit.

Shapes: E entries, F features of an entry, s inputs, A actions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property, partial

import torch
from rdkit import Chem
from torch import Tensor

from genflow import Progress

from .block_features import (
    DISTANCE,
    METHYL,
    PHENYL,
    PROBES,
    PROPERTIES,
    SLOTS,
    STEMS,
    cap_properties,
    describe_atom,
    outline_block,
    probe_score,
)
from .catalogue import Catalogue
from .trees import Trees
from .vocabulary import MAX_STEMS, Entry

#: slots that a state may have
MAX_SLOTS = 8
#: stems that a slot opens beside the atom it is attached by
OPEN = MAX_STEMS - 1
#: the probes that are tried on the stems
STEM_PROBES = (1, 2, 6, 9, 17, 21)
#: pairs and triples of the vocabulary with each entry in each place that the reward is asked about
PARTNERS = 8
#: what outlines an entry, in this order: its block,
OUTLINE = (
    "size", "weight", "rings", "aromatic_rings", "hetero", "halogens", "log_p", "surface", "donors",
    "acceptors", "charges", "rotatable", "strained",
)  # fmt: skip
#: and the atom by which it is attached
ATTACHED = ("carbon", "aromatic", "in_ring", "unsaturated", "polarity", "donation", "bulk", "open_stems")
#: of these, what tells how far apart two entries are
PLACED = (
    "size",
    "rings",
    "hetero",
    "log_p",
    "surface",
    "carbon",
    "aromatic",
    "unsaturated",
    "polarity",
    "donation",
    "bulk",
    "open_stems",
)
#: steps between slots, and between stems, as distances
STEP = 0.5


def vocabulary_scores(number: int, trees: Trees, catalogue: Catalogue, beta: float) -> list[float]:
    """What the reward says of an entry in the vocabulary: in pairs, in the middle of three, and as the third.

    Args:
        number: of the entry.
        trees: of the vocabulary.
        catalogue: molecules and scores.
        beta: of the task.
    """
    e, fits, fits_root = number, trees.fits, trees.fits_root
    pairs = [[(e, 0, 0), (other, 0, 0)] for (other,) in _spread(fits_root[e])]
    middle = fits_root[:, e, None, None] & fits[e]
    triples = [[(root, 0, 0), (e, 0, 0), (leaf, 1, stem)] for root, stem, leaf in _spread(middle)]
    last = fits_root[:, :, None] & fits[:, :, e]
    ends = [[(root, 0, 0), (between, 0, 0), (e, 1, stem)] for root, between, stem in _spread(last)]
    return [value for group in (pairs, triples, ends) for value in _summary(group, catalogue, beta)]


def _spread(allowed: Tensor) -> list[list[int]]:
    """The places of up to `PARTNERS` of what is allowed, spread over it."""
    places = allowed.nonzero()
    return places[torch.linspace(0, len(places) - 1, min(PARTNERS, len(places))).round().long()].tolist()


def _summary(trees: list[list[tuple[int, int, int]]], catalogue: Catalogue, beta: float) -> list[float]:
    """The mean of the scores of some trees, the best, and half the logarithm of the mean that `beta` makes.

    0 where there are no trees.
    """
    if not trees:
        return [0.0, 0.0, 0.0]
    scores = catalogue.scores(
        torch.tensor([[(entry + 1, *place) for entry, *place in tree] for tree in trees]).flatten(1)
    )
    soft = ((beta * scores.log()).logsumexp(0) - math.log(len(scores))) / beta
    return [float(scores.mean()), float(scores.max()), float(soft) / 2]


def outline(entries: Sequence[Entry]) -> dict[str, Tensor]:
    """What `OUTLINE` and `ATTACHED` name, of each entry: (E,) each."""
    rows = []
    for entry in entries:
        open_stems = {"open_stems": len(entry.stems) / STEMS}
        rows.append(outline_block(entry.block) | describe_atom(entry.block, entry.attachment) | open_stems)
    return {
        name: torch.tensor([row[name] for row in rows], dtype=torch.float32) for name in (*OUTLINE, *ATTACHED)
    }


def describe_entries(entries: Sequence[Entry], trees: Trees, catalogue: Catalogue, beta: float) -> Tensor:
    """Everything that is told of each entry, (E, F)."""
    rows = []
    for number, entry in enumerate(_counted(entries, "describe blocks")):
        block = entry.block
        attached = describe_atom(block, entry.attachment)
        row = [*outline_block(block).values(), *attached.values(), len(entry.stems) / STEMS]
        row += [catalogue.score(block.smiles), *vocabulary_scores(number, trees, catalogue, beta)]
        row += [probe_score(block, entry.attachment, index, catalogue.score) for index in range(len(PROBES))]
        row += [
            *cap_properties(block, ()),
            *cap_properties(block, ((entry.attachment, METHYL),)),
            *cap_properties(block, ((entry.attachment, PHENYL),)),
        ]
        distances = Chem.GetDistanceMatrix(block.mol)[entry.attachment]
        for stem in entry.stems:
            row += [1.0, float(distances[stem]) / DISTANCE, *describe_atom(block, stem).values()]
            row += cap_properties(block, ((entry.attachment, METHYL), (stem, PHENYL)))
            row += [probe_score(block, stem, index, catalogue.score) for index in STEM_PROBES]
        missing = OPEN - len(entry.stems)
        rows.append(row + [0.0] * missing * (2 + len(attached) + PROPERTIES + len(STEM_PROBES)))
    return torch.tensor(rows, dtype=torch.float32)


def _counted(entries: Sequence[Entry], label: str) -> Iterator[Entry]:
    """The entries, with a bar that counts them."""
    with Progress.current().bar(label, len(entries)) as bar:
        for entry in entries:
            yield entry
            bar.advance()


class Descriptions:
    """Tables of what every input and action means, for one set of entries."""

    def __init__(self, entries: Sequence[Entry], trees: Trees, catalogue: Catalogue, beta: float) -> None:
        self._trees = trees
        self._describe = partial(describe_entries, entries, trees, catalogue, beta)
        self.outline = outline(entries)
        self.placed = torch.stack([self.outline[name] for name in PLACED], dim=1)

    @cached_property
    def entries(self) -> Tensor:
        """Everything that is told of each entry, (E, F); the reward is asked, which takes a while."""
        return self._describe()

    def inputs(self) -> Tensor:
        """The amounts of inputs (s, .): slot, what it is about, parent slot and stem, entry."""
        return torch.cat([self._input(slot, about, self.entries, True) for slot, about in self._digits()])

    def input_coordinates(self) -> Tensor:
        """The coordinates of inputs (s, .): the same in fewer numbers."""
        return torch.cat([self._input(slot, about, self.placed, False) for slot, about in self._digits()])

    def actions(self) -> Tensor:
        """The amounts of actions (A, .): is exit, is the root's site, parent slot and stem, entry."""
        return self._actions(self.entries, True)

    def action_coordinates(self) -> Tensor:
        """The coordinates of actions (A, .): the same in fewer numbers."""
        return self._actions(self.placed, False)

    def _digits(self) -> list[tuple[int, str]]:
        digits = [(0, "entry"), (1, "entry")]
        for slot in range(2, self._trees.n_slots):
            digits += [(slot, "entry"), (slot, "place")]
        return digits

    def _input(self, slot: int, about: str, table: Tensor, one_of: bool) -> Tensor:
        """The rows of one digit; the first says that the slot is empty."""
        if about == "entry":
            rows = torch.cat([torch.zeros_like(table[:1]), table])
            where = torch.zeros(len(rows), self._site(0, 0, one_of).shape[0])
        else:
            sites = self._sites(slot, one_of)
            where = torch.cat([torch.zeros_like(sites[:1]), sites])
            rows = torch.zeros(len(where), table.shape[1])
        empty = torch.zeros(len(rows), 1)
        empty[0] = 1.0
        kind = torch.tensor([[float(about == "entry"), float(about == "place")]]).expand(len(rows), -1)
        return torch.cat([self._slot(slot, one_of).expand(len(rows), -1), empty, kind, where, rows], dim=1)

    def _actions(self, table: Tensor, one_of: bool) -> Tensor:
        sites = torch.cat(
            [torch.zeros(1, self._site(0, 0, one_of).shape[0]), self._sites(self._trees.n_slots - 1, one_of)]
        )
        root = torch.zeros(len(sites), 1)
        root[0] = 1.0
        where = torch.cat([root, sites], dim=1).repeat_interleave(len(table), dim=0)
        rows = torch.cat([torch.zeros(len(where), 1), where, table.repeat(len(sites), 1)], dim=1)
        leave = torch.zeros_like(rows[:1])
        leave[0, 0] = 1.0
        return torch.cat([rows, leave])

    def _sites(self, before: int, one_of: bool) -> Tensor:
        """The stems of slots 1 to `before` - 1, a row each."""
        stems = [
            self._site(slot, stem, one_of) for slot in range(1, before) for stem in range(self._trees.n_stems)
        ]
        return torch.stack(stems) if stems else torch.zeros(0, self._site(0, 0, one_of).shape[0])

    def _site(self, slot: int, stem: int, one_of: bool) -> Tensor:
        return torch.cat(
            [self._slot(slot, one_of), torch.eye(OPEN)[stem] if one_of else torch.tensor([stem * STEP])]
        )

    def _slot(self, slot: int, one_of: bool) -> Tensor:
        """A slot as one of several and as an amount, or as a distance from the first."""
        return (
            torch.cat([torch.eye(MAX_SLOTS)[slot], torch.tensor([slot / SLOTS])])
            if one_of
            else torch.tensor([slot * STEP])
        )
