"""What of a molecule adds up over its blocks and bonds, so that a tree is described without being made.

An atom by which a block is joined changes what its neighbours count, by what kind of atom stands there. That
is measured on caps: small molecules in the place of a neighbour.

Shapes: B trees, N slots, E entries, T stems, K kinds of atoms, Q amounts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from rdkit import Chem, rdBase
from rdkit.Chem import QED, Atom, Mol, rdMolDescriptors
from torch import Tensor

from genflow import interrupts_for_python

from . import rewards
from .assembly import join, may_bond
from .kept import kept
from .trees import ENTRY, PARENT, STEM
from .vocabulary import Block, Entry

#: groups that are counted
GROUPS = (
    "C(=O)N", "[F,Cl,Br]", "S(=O)(=O)N", "C(=O)[OH]", "[N+](=O)[O-]", "n", "[OD2]([#6])[#6]",
    "[NX3;H2,H1;!$(NC=O)]", "C#N", "c1ccccc1", "[r5]", "S",
)  # fmt: skip
#: the amounts, in this order; the groups follow
AMOUNTS = (
    "weight", "log_p", "surface", "refractivity", "donors", "acceptors", "qed_acceptors", "rotatable",
    "rings", "aromatic_rings", "sp3_carbons", "carbons", "heavy", "hetero", "stereo", "alerts", "sa_atoms",
    "strained",
)  # fmt: skip
N_AMOUNTS = len(AMOUNTS) + len(GROUPS)
AT = {name: number for number, name in enumerate(AMOUNTS)}
#: what each amount is divided by to be of about unit size; the groups by 1
UNITS = (45, 1.2, 22, 13, 1, 1, 1, 1, 1, 0.8, 2, 3.4, 3.4, 1.4, 0.5, 0.9, 10, 0.3, *[1] * len(GROUPS))
#: what stands for a neighbour of each kind: aliphatic carbon, an aromatic atom, another hetero atom
CAPS = (("CCC", 1), ("c1ccccc1", 0), ("CNC", 1))
#: QED's own parameters of these amounts
QED_AMOUNTS = {
    "MW": "weight", "ALOGP": "log_p", "HBA": "qed_acceptors", "HBD": "donors", "PSA": "surface",
    "ROTB": "rotatable", "AROM": "aromatic_rings", "ALERTS": "alerts",
}  # fmt: skip


@cache
def _groups() -> list[Mol]:
    return [Chem.MolFromSmarts(smarts) for smarts in GROUPS]


def amounts(mol: Mol) -> Tensor:
    """The amounts of a molecule, (Q,)."""
    drug = QED.properties(mol)
    atoms = list(mol.GetAtoms())
    log_p, refractivity = rdMolDescriptors.CalcCrippenDescriptors(mol)
    carbons = [atom for atom in atoms if atom.GetSymbol() == "C"]
    values = [
        drug.MW, log_p, drug.PSA, refractivity, drug.HBD, rdMolDescriptors.CalcNumHBA(mol), drug.HBA,
        drug.ROTB, rdMolDescriptors.CalcNumRings(mol), drug.AROM,
        sum(atom.GetHybridization() == Chem.HybridizationType.SP3 for atom in carbons), len(carbons),
        len(atoms), len(atoms) - len(carbons), rdMolDescriptors.CalcNumAtomStereoCenters(mol), drug.ALERTS,
        rewards.sa_score(mol) * len(atoms),
        rdMolDescriptors.CalcNumBridgeheadAtoms(mol) + rdMolDescriptors.CalcNumSpiroAtoms(mol),
    ]  # fmt: skip
    values += [len(mol.GetSubstructMatches(group)) for group in _groups()]
    return torch.tensor(values, dtype=torch.float32)


def kind(atom: Atom) -> int:
    """The number of the cap that stands for an atom."""
    return 1 if atom.GetIsAromatic() else 0 if atom.GetSymbol() == "C" else 2


@cache
@interrupts_for_python()  # what RDKit finds when it is interrupted is not kept
def _caps() -> list[tuple[Mol, int, Tensor]]:
    mols = [(Chem.MolFromSmiles(smiles), atom) for smiles, atom in CAPS]
    return [(mol, atom, amounts(mol)) for mol, atom in mols]


def site_of(mol: Mol, atom: int) -> Tensor:
    """What joining each cap to an atom adds to the sum of both, (K, Q); 0 where they may not be joined."""
    own, rows = amounts(mol), []
    for cap, at, other in _caps():
        if may_bond(mol.GetAtomWithIdx(atom), cap.GetAtomWithIdx(at)):
            rows.append(amounts(join(mol, atom, cap, at)) - own - other)
        else:
            rows.append(torch.zeros(N_AMOUNTS))
    return torch.stack(rows)


@cache
@interrupts_for_python()
def _between_caps() -> Tensor:
    """What joining two caps adds, (K, K, Q)."""
    return torch.stack([site_of(mol, atom) for mol, atom, _ in _caps()])


@kept
def block_amounts(block: Block) -> Tensor:
    """The amounts of a block alone, (Q,)."""
    return amounts(block.mol)


@kept
def site_amounts(block: Block, atom: int) -> Tensor:
    """What joining an atom of a block to a neighbour of each kind adds, (K, Q)."""
    with rdBase.BlockLogs():
        return site_of(block.mol, atom)


class Sums:
    """The amounts of trees over some entries.

    Attributes:
        blocks: (E, Q) of each entry's block alone.
        attached: (E, K, Q) what joining it by its attachment to each kind adds.
    """

    def __init__(self, entries: Sequence[Entry], n_stems: int) -> None:
        """Measure the entries, of at most `n_stems` open stems."""
        self.blocks = torch.stack([block_amounts(entry.block) for entry in entries])
        self.attached = torch.stack([site_amounts(entry.block, entry.attachment) for entry in entries])
        self._kinds = torch.tensor([_kind_of(entry.block, entry.attachment) for entry in entries])
        self._stems = torch.zeros(len(entries), n_stems, len(CAPS), N_AMOUNTS)
        self._stem_kinds = torch.zeros(len(entries), n_stems, dtype=torch.long)
        for number, entry in enumerate(entries):
            for stem, atom in enumerate(entry.stems):
                self._stems[number, stem] = site_amounts(entry.block, atom)
                self._stem_kinds[number, stem] = _kind_of(entry.block, atom)

    def of(self, slots: Tensor) -> Tensor:
        """The amounts of trees, (B, N, 3) -> (B, Q)."""
        total = slots.new_zeros(len(slots), N_AMOUNTS, dtype=torch.float32)
        rows = torch.arange(len(slots))
        for slot in range(slots.shape[1]):
            number = slots[:, slot, ENTRY]
            entry = (number - 1).clamp(min=0)
            added = self.blocks[entry]
            if slot:
                parent, stem = slots[:, slot, PARENT], slots[:, slot, STEM]
                above = (slots[rows, parent, ENTRY] - 1).clamp(min=0)
                # the root is joined by its attachment
                root = slot == 1
                theirs = self.attached[above] if root else self._stems[above, stem]
                their_kind = self._kinds[above] if root else self._stem_kinds[above, stem]
                added = added + self._bond(self.attached[entry], self._kinds[entry], theirs, their_kind, rows)
            total += added * (number > 0)[:, None]
        return total

    def joined(self, parts: Tensor, bonds: Tensor, kinds: Tensor) -> Tensor:
        """The amounts of each entry joined to parts of molecules, (E, J, Q).

        Args:
            parts: the amounts of each, (J, Q).
            bonds: what joining it to each kind adds, (J, K, Q).
            kinds: of the atoms that bear the bonds, (J,).
        """
        theirs = bonds[:, self._kinds].transpose(0, 1)
        twice = _between_caps()[kinds[None], self._kinds[:, None]]
        return self.blocks[:, None] + parts + self.attached[:, kinds] + theirs - twice

    @staticmethod
    def _bond(own: Tensor, own_kind: Tensor, theirs: Tensor, their_kind: Tensor, rows: Tensor) -> Tensor:
        """What a bond adds: each side's change by the other's cap, less what the caps count twice."""
        return own[rows, their_kind] + theirs[rows, own_kind] - _between_caps()[their_kind, own_kind]


def _kind_of(block: Block, atom: int) -> int:
    return kind(block.mol.GetAtomWithIdx(atom))


def properties(sums: Tensor) -> Tensor:
    """What rewards read, of amounts (..., Q): the amounts but SA's sum, then QED, SA's mean, share of sp3.

    QED: Bickerton et al. (2012), with RDKit's parameters.
    """
    heavy = sums[..., AT["heavy"]].clamp(min=1)
    rest = [number for number in range(N_AMOUNTS) if number != AT["sa_atoms"]]
    ratios = [
        _drug_likeness(sums),
        sums[..., AT["sa_atoms"]] / heavy,
        sums[..., AT["sp3_carbons"]] / sums[..., AT["carbons"]].clamp(min=1),
    ]
    return torch.cat([sums[..., rest], torch.stack(ratios, dim=-1)], dim=-1)


#: the properties by name, and how far each spreads over drug-like molecules
PROPERTIES = (*(name for name in AMOUNTS if name != "sa_atoms"), *GROUPS, "qed", "sa", "sp3_share")
SPREADS = (
    93, 2, 41, 28, 1.5, 1.9, 2.1, 2.1, 2.1, 1.6, 3.7, 6.6, 7.3, 2.8, 1.3, 1.5, 0.4, *[1] * len(GROUPS),
    0.2, 0.65, 0.25,
)  # fmt: skip


def _drug_likeness(sums: Tensor) -> Tensor:
    total = torch.zeros(sums.shape[:-1])
    for name, weight in zip(QED_AMOUNTS, QED.WEIGHT_MEAN, strict=True):
        p, x = QED.adsParameters[name], sums[..., AT[QED_AMOUNTS[name]]]
        rise = torch.sigmoid((x - p.C + p.D / 2) / p.E)
        fall = 1 - torch.sigmoid((x - p.C - p.D / 2) / p.F)
        total += weight * ((p.A + p.B * rise * fall) / p.DMAX).clamp(min=1e-9).log()
    return (total / sum(QED.WEIGHT_MEAN)).exp()
