"""What a network that makes weights is told about inputs and actions: chemistry, which means the same in every vocabulary.

An input is "the block in this slot is this entry" or "it hangs from this stem of that slot"; an action is a site and an entry, or exit.

Shapes: E entries, F features of an entry, s inputs, A actions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from rdkit import Chem
from rdkit.Chem import Mol, rdFingerprintGenerator, rdMolDescriptors
from torch import Tensor

from . import rewards
from .catalogue import Catalogue
from .trees import Trees
from .vocabulary import MAX_STEMS, Block, Entry

#: slots that a state may have
MAX_SLOTS = 8
#: stems that a slot opens beside the atom it is attached by
OPEN = MAX_STEMS - 1
FINGERPRINT_BITS = 64
ELEMENTS = ("C", "N", "O", "S")
#: Pauling's electronegativity above carbon's
POLARITY = {"N": 0.49, "O": 0.89, "S": 0.03, "F": 1.43, "Cl": 0.61, "Br": 0.41}
#: other entries that the reward is asked about together with each
PARTNERS = 8
#: what is told of an entry, in this order: of its block,
DESCRIPTORS = (
    "size", "rings", "aromatic_rings", "hetero", "halogens", "log_p", "surface", "donors", "acceptors", "charges", "rotatable",
    "drug_likeness", "ease",
)  # fmt: skip
#: and of its atoms
ATTACHED = ("carbon", "aromatic", "in_ring", "polarity", "bulk", "open_stems")
#: and what the reward says of it: alone, joined to some others on average, and at best
REWARDED = ("score", "pairs", "best_pair")
#: of all of these, those that tell how far apart two entries are
PLACED = ("size", "rings", "hetero", "log_p", "surface", "carbon", "aromatic", "polarity", "bulk", "open_stems", "pairs")
#: steps between slots, and between stems, as distances
STEP = 0.5


def describe_block(block: Block) -> dict[str, float]:
    """Numbers of about unit size; no whole ones above 1 alone, which would read as names."""
    mol = block.mol
    heavy = mol.GetNumHeavyAtoms()
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    return {
        "size": math.log(heavy) / 2,
        "rings": rdMolDescriptors.CalcNumRings(mol) / 2.5,
        "aromatic_rings": rdMolDescriptors.CalcNumAromaticRings(mol) / 2.5,
        "hetero": sum(symbol != "C" for symbol in symbols) / heavy,
        "halogens": sum(symbol in ("F", "Cl", "Br") for symbol in symbols) / 3.5,
        "log_p": rewards.log_p(mol) / 4,
        "surface": rdMolDescriptors.CalcTPSA(mol) / 60,
        "donors": rdMolDescriptors.CalcNumHBD(mol) / 3.5,
        "acceptors": rdMolDescriptors.CalcNumHBA(mol) / 3.5,
        "charges": sum(abs(atom.GetFormalCharge()) for atom in mol.GetAtoms()) / 4.5,
        "rotatable": rdMolDescriptors.CalcNumRotatableBonds(mol) / 3.5,
        "drug_likeness": rewards.drug_likeness(mol),
        "ease": rewards.ease(mol),
    }


def describe_atom(mol: Mol, index: int) -> dict[str, float]:
    """An atom and what surrounds it. `polarity` and `bulk` sum electronegativity, and atoms, over the block, the nearer the more."""
    atom = mol.GetAtomWithIdx(index)
    neighbours = list(atom.GetNeighbors())
    near = 1 / (1 + torch.tensor(Chem.GetDistanceMatrix(mol)[index]).clamp(max=100))
    polarity = torch.tensor([POLARITY.get(other.GetSymbol(), 0.0) for other in mol.GetAtoms()])
    elements = {f"is_{symbol}": float(atom.GetSymbol() == symbol) for symbol in ELEMENTS}
    return elements | {
        "carbon": float(atom.GetSymbol() == "C"),
        "aromatic": float(atom.GetIsAromatic()),
        "in_ring": float(atom.IsInRing()),
        "in_five": float(atom.IsInRingSize(5)),
        "charge": atom.GetFormalCharge() / 2.5,
        "degree": atom.GetDegree() / 4.5,
        "hydrogens": atom.GetTotalNumHs() / 4.5,
        "valence": atom.GetTotalValence() / 6.5,
        "hetero_neighbours": sum(other.GetSymbol() != "C" for other in neighbours) / 3.5,
        "aromatic_neighbours": sum(other.GetIsAromatic() for other in neighbours) / 3.5,
        "unsaturated": float(any(bond.GetBondTypeAsDouble() >= 2 for other in neighbours for bond in other.GetBonds())),
        "polarity": float((near * polarity).sum()),
        "bulk": float(near.sum()) / 4,
    }


def fingerprint(mol: Mol) -> list[float]:
    """Morgan fingerprint of radius 2, folded."""
    bits = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=FINGERPRINT_BITS).GetFingerprint(mol)
    return [float(bit) for bit in bits]


def describe_pairs(entries: Sequence[Entry], trees: Trees, catalogue: Catalogue) -> list[dict[str, float]]:
    """What the reward says of each entry: the score of its block, and those of two blocks, with others spread over what fits it."""
    described = []
    for number, entry in enumerate(entries):
        fitting = trees.fits_root[number].nonzero().flatten()
        partners = fitting[torch.linspace(0, len(fitting) - 1, min(PARTNERS, len(fitting))).round().long()]
        states = trees.step(trees.start().expand(len(partners), -1), torch.full((len(partners),), number))
        pairs = catalogue.scores(trees.step(states, partners))
        scores = [float(pairs.mean()), float(pairs.max())] if len(pairs) else [0.0, 0.0]
        described.append(dict(zip(REWARDED, [catalogue.score(entry.block.smiles), *scores], strict=True)))
    return described


def describe_entries(entries: Sequence[Entry], trees: Trees, catalogue: Catalogue) -> tuple[Tensor, dict[str, Tensor]]:
    """(E, F) everything that is told of each entry, and the columns with a name of their own, (E,) each."""
    blocks = {entry.block.smiles: describe_block(entry.block) for entry in entries}
    rows, named = [], []
    for entry, rewarded in zip(entries, describe_pairs(entries, trees, catalogue), strict=True):
        mol, block = entry.block.mol, blocks[entry.block.smiles]
        attached = describe_atom(mol, entry.attachment) | {"open_stems": len(entry.stems) / (OPEN + 0.5)}
        row = [*block.values(), *attached.values(), *rewarded.values()]
        distances = Chem.GetDistanceMatrix(mol)[entry.attachment]
        nothing = [0.0] * (2 + len(attached) - 1)
        for place in range(OPEN):
            if place < len(entry.stems):
                stem = entry.stems[place]
                row += [1.0, float(distances[stem]) / 6.5, *describe_atom(mol, stem).values()]
            else:
                row += nothing
        rows.append(row + fingerprint(mol))
        named.append(block | attached | rewarded)
    return torch.tensor(rows), {name: torch.tensor([each[name] for each in named]) for name in (*DESCRIPTORS, *ATTACHED, *REWARDED)}


class Descriptions:
    """Tables of what every input and action means, for one set of entries."""

    def __init__(self, entries: Sequence[Entry], trees: Trees, catalogue: Catalogue) -> None:
        self._trees = trees
        self.entries, self.named = describe_entries(entries, trees, catalogue)
        self.placed = torch.stack([self.named[name] for name in PLACED], dim=1)

    def inputs(self) -> Tensor:
        """(s, .) features: slot, what the input is about, parent slot and stem, entry."""
        return torch.cat([self._input(slot, about, self.entries, True) for slot, about in self._digits()])

    def input_coordinates(self) -> Tensor:
        """(s, .) places of the same."""
        return torch.cat([self._input(slot, about, self.placed, False) for slot, about in self._digits()])

    def actions(self) -> Tensor:
        """(A, .) features: is exit, is the root's site, parent slot and stem, entry; exit has no more."""
        return self._actions(self.entries, True)

    def action_coordinates(self) -> Tensor:
        """(A, .) places of the same."""
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
        sites = torch.cat([torch.zeros(1, self._site(0, 0, one_of).shape[0]), self._sites(self._trees.n_slots - 1, one_of)])
        root = torch.zeros(len(sites), 1)
        root[0] = 1.0
        where = torch.cat([root, sites], dim=1).repeat_interleave(len(table), dim=0)
        rows = torch.cat([torch.zeros(len(where), 1), where, table.repeat(len(sites), 1)], dim=1)
        leave = torch.zeros_like(rows[:1])
        leave[0, 0] = 1.0
        return torch.cat([rows, leave])

    def _sites(self, before: int, one_of: bool) -> Tensor:
        """(., .) the stems of slots 1 to `before` - 1."""
        stems = [self._site(slot, stem, one_of) for slot in range(1, before) for stem in range(self._trees.n_stems)]
        return torch.stack(stems) if stems else torch.zeros(0, self._site(0, 0, one_of).shape[0])

    def _site(self, slot: int, stem: int, one_of: bool) -> Tensor:
        return torch.cat([self._slot(slot, one_of), torch.eye(OPEN)[stem] if one_of else torch.tensor([stem * STEP])])

    def _slot(self, slot: int, one_of: bool) -> Tensor:
        """A slot as one of several, or as a distance from the first."""
        return torch.eye(MAX_SLOTS)[slot] if one_of else torch.tensor([slot * STEP])
