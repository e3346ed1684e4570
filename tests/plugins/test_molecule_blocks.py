"""Blocks of a user's vocabulary: what is no plain molecule is refused; molecules of the others are sound."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from genflow_molecule.assembly import assemble
from genflow_molecule.block_check import MAX_ATOMS
from genflow_molecule.environment import Molecule
from genflow_molecule.vocabulary import Block, blocks_of, checked, entries_of, shipped_vocabulary
from rdkit import Chem, rdBase

from genflow import GenflowError, Structure


def block(smiles: str, stems: list[int] | None = None, attachments: list[int] | None = None) -> dict:
    stems = [0] if stems is None else stems
    return {"smiles": smiles, "stems": stems, "attachments": attachments or stems[:1]}


def write(path: Path, *blocks: dict) -> Path:
    path.write_text(json.dumps({"format": "genflow-vocabulary-1", "source": "a test", "blocks": blocks}))
    return path


AMINE = block("CN", [0, 1], [1])
TWICE = "once more, joined by the same atom, and its molecules would count twice"
#: blocks -> the number of the one that is refused, and what is said of it
REFUSED = {
    "a dummy atom": ([AMINE, block("[16*]c1ccccc1Cl", [2])], 1, "has a dummy atom, atom 0;"),
    "any atom": ([block("C*", [0])], 0, "has a dummy atom, atom 1;"),
    "a radical": ([block("[CH2]c1ccncc1")], 0, "is a radical at atom 0;"),
    "a carbene": ([block("C[CH]", [0])], 0, "is a radical at atom 1;"),
    "a metal atom": ([block("[Na]")], 0, "is a radical at atom 0;"),
    "hydrogen before": ([block("[H]OCC")], 0, "writes hydrogen as an atom, atom 0;"),
    "hydrogen within": ([AMINE, block("C([H])([H])O", [0])], 1, "writes hydrogen as an atom, atom 1;"),
    "hydrogen alone": ([block("[H][H]")], 0, "writes hydrogen as an atom, atom 0;"),
    "map numbers": (
        [block("[CH3:1]C"), block("[CH3:2]C")], 0, "has an atom map number, atom 0;",
    ),
    "one map number": ([AMINE, block("C[CH3:7]")], 1, "has an atom map number, atom 1;"),
    "an isotope": ([block("C[13CH3]")], 0, "has an isotope, atom 1;"),
    "deuterium": ([block("[2H]C", [1])], 0, "has an isotope, atom 0;"),
    "a cation": ([block("C[N+](C)(C)C")], 0, r"has a charge of \+1;"),
    "an anion": ([block("CC(=O)[O-]")], 0, "has a charge of -1;"),
    "a salt": ([block("[Na+].CC(=O)[O-]", [1])], 0, "is more than one molecule;"),
    "no molecule": ([AMINE, block("c1ccnc1")], 1, "is no molecule$"),
    "no atoms": ([block("[]")], 0, "is no molecule$"),
    "a space": ([block(" ")], 0, "is no molecule$|has no atoms"),
    "a name": ([block("CC ethane")], 0, "has text beside its SMILES;"),
    "an extension": ([block("CC |^1:0|", [1])], 0, "has text beside its SMILES;"),
    "a query bond": ([block("C~C")], 0, "has a bond that is not single"),
    "a dative bond": ([block("CN->[Zn]")], 0, "has a bond that is not single"),
    "too large": ([block("C" * (MAX_ATOMS + 1))], 0, f"has {MAX_ATOMS + 1} atoms besides hydrogen; at most"),
    "no such atom": ([block("CCO", [3])], 0, "has no atom 3; they are 0 to 2"),
    "a negative atom": ([block("CCO", [-1])], 0, "has no atom -1"),
    "no hydrogen": ([block("CC(C)(C)C", [1])], 0, "lists atom 1 as a stem 1 time, but it has 0 hydrogen"),
    "one hydrogen": ([block("CO", [1, 1], [1])], 0, "lists atom 1 as a stem 2 times, but it has 1 hydrogen"),
    "attachments alike": ([block("c1ccccc1", [0, 1, 3], [0, 3])], 0, "has attachments 0 and 3, which"),
    "the same": ([AMINE, block("C"), AMINE], 2, "is there twice"),
    "the same, Kekulé": (
        [block("c1ccccc1", [0, 3], [0]), block("C1=CC=CC=C1", [1, 4], [1])], 1,
        rf"is block 0 \('c1ccccc1'\) {TWICE}",
    ),
    "the same, turned": ([AMINE, block("CCO", [0]), block("OCC", [2])], 2, rf"is block 1 \('CCO'\) {TWICE}"),
    "the same by symmetry": ([block("c1ccncc1", [1]), block("c1ccncc1", [5])], 1, f"is block 0 .* {TWICE}"),
    "the same by one of two": (
        [block("c1ccncc1", [0, 1, 2], [0, 1]), block("n1ccccc1", [1, 2, 3], [2, 3])], 1,
        f"is block 0 .* {TWICE}",
    ),
    "the same, more open": ([block("CCO", [0]), block("CCO", [0, 1], [0])], 1, f"is block 0 .* {TWICE}"),
    "nitro in two ways": (
        [block("C[N+](=O)[O-]"), block("CN(=O)=O")], 1, rf"is block 0 \('C\[N\+\]\(=O\)\[O-\]'\) {TWICE}",
    ),
}  # fmt: skip
#: what looks alike and is not, and what may look wrong and is not
TAKEN = {
    "one molecule joined by two atoms": [block("CCO", [0]), block("OCC", [0])],
    "the mirror image": [block("C[C@H](F)Cl", [1]), block("C[C@@H](F)Cl", [1])],
    "charges that cancel": [block("C[N+](=O)[O-]"), block("[NH3+]CC(=O)[O-]", [0, 1], [0])],
    "hydrogen in brackets": [block("[CH3]c1c[nH]cn1", [0, 2, 3], [0, 3])],
    "as large as any": [block("C" * MAX_ATOMS, [0])],
    "a ring closed across a dot": [block("C1.C1")],
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_block_that_is_not_plain_is_refused_with_its_number_and_the_reason(case, tmp_path, capfd):
    blocks, number, why = REFUSED[case]
    path = write(tmp_path / "mine.json", *blocks)
    with pytest.raises(GenflowError, match=rf"is malformed: block {number} \(.*\) ({why})") as caught:
        Structure.parse("molecule", f"max_blocks=3,vocabulary={path}")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr().err == "", "RDKit explains itself"
    with pytest.raises(GenflowError, match=f"block {number} "):  # and so are a stranger's
        blocks_of(blocks, "vocabulary")


@pytest.mark.parametrize("case", TAKEN)
def test_what_only_looks_wrong_is_taken_as_it_is_written(case, tmp_path):
    path = write(tmp_path / "mine.json", *TAKEN[case])
    structure = Structure.parse("molecule", f"max_blocks=2,vocabulary={path}")
    assert [b.smiles for b in structure.environment.blocks] == [b["smiles"] for b in TAKEN[case]]


def test_the_vocabulary_that_ships_is_as_a_users_must_be():
    blocks = shipped_vocabulary("default")
    assert checked(blocks, "default") == blocks


#: molecules of many kinds of atoms: aromatic, charged within, hypervalent, bridged, with stereochemistry
MANY = """
    C CC C=C C#C C#N N NN=N OO O=C=O S SS P PP(C)C CP(C)(C)C O=P(O)O Cl Br I F [SiH4] C[Si](C)(C)C B OB(O)O
    [BH3] c1ccccc1 c1ccncc1 c1cc[nH]c1 c1c[nH]cn1 c1cn[nH]n1 c1nn[nH]n1 c1ccoc1 c1ccsc1 c1cc2ccccc2[nH]1
    c1ccc2ncccc2c1 O=[SH2]=O CS(C)=O CS(C)(=O)=O NS(N)(=O)=O C[N+](=O)[O-] O=[NH+][O-] C[N+]#[C-]
    [O-][n+]1ccccc1 [NH3+]CC(=O)[O-] C[N-][N+]#N CN=[N+]=[N-] C1CC1 C1CN1 C1CC2CCC1C2 C12C3C4C1C5C2C3C45
    C[C@H](F)Cl C[C@@H](N)C(=O)O F/C=C/Cl F/C=C\\Cl O=c1cc[nH]cc1 O=C1NC(=O)c2ccccc12 c1ccc2c(c1)Cc1ccccc1-2
    [SeH2] C[AsH2] CI(C)C S1SC=CC1=S [CH3][CH2][OH] C1=CC=CC=C1 N1C=CC=C1 [2H]C *C [CH3] [CH2]C [H]C [OH-]
    [NH4+] C.C [CH3:1]C [13CH4] C~C [Na] [Na+].[Cl-] [He] [PH5] [SH4] [SH6] O=S=O O=[ClH](=O)=O
"""


def drawn(rng: random.Random) -> list[Block]:
    """Blocks of random molecules with random stems; most of them are refused."""
    smiles = rng.choice(MANY.split())
    atoms = range(12)
    stems = [rng.choice(atoms) for _ in range(rng.randint(1, 4))]
    attachments = sorted(set(rng.sample(stems, rng.randint(1, len(stems)))))
    try:
        return list(blocks_of([block(smiles, stems, attachments)], "drawn"))
    except GenflowError:
        return []


def test_molecules_of_accepted_blocks_are_whole_and_sane():
    """Every atom of every block, two hydrogens less a joint; no radical, dummy or charge; it parses back."""
    rng, seen = random.Random(0), 0
    accepted = [one for _ in range(3_000) for one in drawn(rng)]
    entries = entries_of(tuple(accepted))
    assert len({one.smiles for one in accepted}) > 40
    assert not {"[2H]C", "*C", "[CH2]C", "[OH-]", "C.C", "[Na]", "[CH3:1]C"} & {
        one.smiles for one in accepted
    }
    while seen < 800:
        tree, open_stems = [], []
        for slot in range(rng.randint(2, 6)):
            number = rng.randrange(len(entries))
            if slot and not open_stems:
                break
            parent, stem = open_stems.pop(rng.randrange(len(open_stems))) if slot else (0, 0)
            tree.append((number + 1, parent, stem))
            # the root opens only the atom that it would be attached by
            stems = len(entries[number].stems) if slot else 1
            open_stems += [(slot, each) for each in range(stems)]
        if len(tree) < 2:
            continue
        seen += 1
        parts = [entries[number - 1].block.mol for number, _, _ in tree]
        mol = assemble(entries, tree)  # sanitises, or raises
        smiles = Chem.MolToSmiles(mol)
        assert len(Chem.GetMolFrags(mol)) == 1, smiles
        assert not any(atom.GetNumRadicalElectrons() or not atom.GetAtomicNum() for atom in mol.GetAtoms())
        assert Chem.GetFormalCharge(mol) == 0
        assert elements(mol) == sum(map(elements, parts), Counter()) - Counter(H=2 * (len(tree) - 1)), smiles
        with rdBase.BlockLogs():
            back = Chem.MolFromSmiles(smiles)
        assert back is not None and elements(back) == elements(mol), smiles


def elements(mol: Chem.Mol) -> Counter[str]:
    found = Counter(atom.GetSymbol() for atom in mol.GetAtoms())
    found["H"] += sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    return found


def test_a_preset_counts_blocks_of_what_ships_and_a_file_is_used_whole(tmp_path):
    few = write(tmp_path / "few.json", *(block("C" * size) for size in range(2, 7)))
    many = write(tmp_path / "many.json", *(block("C" * size) for size in range(2, 16)))
    for text in (
        f"small,vocabulary={few}",
        f"vocabulary={few},max_blocks=3",
        f"max_blocks=3,multiplicity=true,vocabulary={few}",
    ):
        structure = Structure.parse("molecule", text)
        assert len(structure.environment.blocks) == structure.fields()["blocks"] == 5
        assert structure.name.startswith("blocks=5,max_blocks=3,")
        assert Structure.from_json(json.loads(json.dumps(structure.to_json()))) is structure
    for preset, fields in Molecule.presets.items():
        if preset != "full":
            structure = Structure.parse("molecule", f"{preset},vocabulary={many}")
            assert structure.fields()["blocks"] == 14
            assert structure.fields()["max_blocks"] == fields["max_blocks"]
            default = Structure.parse("molecule", f"{preset},vocabulary=default")
            assert default is Structure.parse("molecule", preset)
            assert default.fields()["blocks"] == fields["blocks"]
    assert len(Structure.parse("molecule", f"small,vocabulary={many},blocks=12").environment.blocks) == 12
