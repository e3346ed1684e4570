"""Makes a vocabulary from the molecules in RDKit's data folder.

``python -m genflow_molecule.build_vocabulary --out FILE``

NCI's first 5,000 and the 10,000 molecules of the WEHI set that RDKit tests its PAINS filters on. Molecules
are cut at the acyclic single bonds that touch a ring; blocks are the pieces that most molecules have.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rdkit import Chem, RDConfig, rdBase
from rdkit.Chem import Mol

from .cutting import pieces, ring_bonds
from .vocabulary import FORMAT, MAX_STEMS, as_text

SOURCE = "NCI/first_5K.smi and Pains/test_data/wehi_mols.csv of RDKit's data folder"
DEFAULT_BLOCKS = 600
ELEMENTS = {"C", "N", "O", "S", "F", "Cl", "Br"}
#: heavy atoms of a molecule that is read
HEAVY = range(6, 51)
#: the one charged block that is kept
NITRO = "O=[NH+][O-]"
#: a kind of atom is a stem if it makes at least this share of a block's bonds; it is one k times if this
#: share of blocks bonds it k times
MIN_SHARE = 0.1


def corpus() -> Iterator[str]:
    """The SMILES of every molecule."""
    folder = Path(RDConfig.RDDataDir)
    for line in (folder / "NCI" / "first_5K.smi").read_text().splitlines():
        yield line.split()[0]
    with (folder / "Pains" / "test_data" / "wehi_mols.csv").open() as file:
        yield from (row[0] for row in csv.reader(file))


def cleaned(smiles: str) -> Mol | None:
    """The largest part of a molecule without stereochemistry; None if it is not one that is read."""
    mol = Chem.MolFromSmiles(max(smiles.split("."), key=len))
    if mol is None or mol.GetNumHeavyAtoms() not in HEAVY:
        return None
    if any(atom.GetSymbol() not in ELEMENTS or atom.GetIsotope() for atom in mol.GetAtoms()):
        return None
    Chem.RemoveStereochemistry(mol)
    return mol


def kept(smiles: str) -> bool:
    """Whether a piece may become a block: uncharged, or the nitro group."""
    return smiles == NITRO or ("+" not in smiles and "-]" not in smiles)


def block_of(smiles: str, occurrences: list[Counter[int]], count: int) -> dict[str, Any]:
    """A block as in the file.

    Stems are first one atom of each kind that makes enough of the bonds, then further atoms of these kinds,
    the most bonded kinds first.
    """
    mol = Chem.MolFromSmiles(smiles)
    kinds = list(Chem.CanonicalRankAtoms(mol, breakTies=False))
    bonds: Counter[int] = Counter()
    for uses in occurrences:
        for atom, number in uses.items():
            bonds[kinds[atom]] += number
    chosen = [kind for kind, number in bonds.most_common() if number >= MIN_SHARE * bonds.total()]
    # most_common leaves ties to the order of the corpus
    chosen.sort(key=lambda kind: (-bonds[kind], kinds.index(kind)))
    places = {kind: _places(mol, kinds, kind, occurrences) for kind in chosen}
    rounds = [places[kind][turn] for turn in range(MAX_STEMS) for kind in chosen if turn < len(places[kind])]
    stems = sorted(rounds[:MAX_STEMS])
    attachments = sorted({places[kind][0] for kind in chosen} & set(stems))
    return {"smiles": smiles, "stems": stems, "attachments": attachments, "count": count}


def _places(mol: Mol, kinds: list[int], kind: int, occurrences: list[Counter[int]]) -> list[int]:
    """Atoms of a kind, each as often as it may be bonded; all of them once before any of them twice."""
    atoms = [atom for atom, own in enumerate(kinds) if own == kind]
    most = Counter(
        max(uses[atom] for atom in atoms) for uses in occurrences if any(uses[atom] for atom in atoms)
    )
    times = max(
        k
        for k in most
        if sum(number for uses, number in most.items() if uses >= k) >= MIN_SHARE * most.total()
    )
    times = min(times, mol.GetAtomWithIdx(atoms[0]).GetTotalNumHs())
    return atoms * times


def build(n_blocks: int) -> dict[str, Any]:
    """The vocabulary file of the `n_blocks` most frequent blocks."""
    documents: Counter[str] = Counter()
    occurrences: defaultdict[str, list[Counter[int]]] = defaultdict(list)
    with rdBase.BlockLogs():
        for text in corpus():
            if (mol := cleaned(text)) is None:
                continue
            found = list(pieces(mol, ring_bonds(mol)))
            documents.update({smiles for smiles, _ in found})
            for smiles, uses in found:
                occurrences[smiles].append(uses)
    ranked = sorted(
        (smiles for smiles in documents if kept(smiles)), key=lambda smiles: (-documents[smiles], smiles)
    )
    blocks = [block_of(smiles, occurrences[smiles], documents[smiles]) for smiles in ranked[:n_blocks]]
    return {"format": FORMAT, "source": SOURCE, "blocks": blocks}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(
        description="Make a vocabulary of building blocks from the molecules in RDKit's data folder."
    )
    parser.add_argument(
        "--blocks",
        type=int,
        default=DEFAULT_BLOCKS,
        help="how many, the most frequent first (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "vocabularies" / "default.json")
    arguments = parser.parse_args()
    arguments.out.write_text(as_text(build(arguments.blocks)))


if __name__ == "__main__":
    main()
