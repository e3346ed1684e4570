"""Amounts that add up over blocks and bonds, against RDKit on the molecules themselves."""

from __future__ import annotations

import pytest
import torch
from genflow_molecule import additive, kept
from genflow_molecule.additive import AMOUNTS, AT, PROPERTIES, SPREADS, UNITS, Sums, amounts, properties
from genflow_molecule.assembly import assemble
from genflow_molecule.rewards import drug_likeness, sa_score
from genflow_molecule.vocabulary import Block
from rdkit import Chem
from test_molecule import SETS, structure

from genflow.caching import ByteCache

EXACT = ("weight", "rings", "aromatic_rings", "carbons", "heavy", "hetero")


def trees_and_amounts(blocks, max_blocks):
    """The amounts of all trees, added up and of the molecules."""
    environment = structure(blocks, max_blocks).environment
    graph = environment.trees.graph()
    slots = environment.trees.slots(graph.states[graph.can_exit])
    added = Sums(environment.entries, environment.trees.n_stems).of(slots)
    mols = [
        assemble(environment.entries, [tuple(each) for each in tree if each[0] > 0])
        for tree in slots.tolist()
    ]
    return added, torch.stack([amounts(mol) for mol in mols])


@pytest.mark.parametrize("blocks", SETS, ids=str)
def test_what_adds_up_is_that_of_the_molecule(blocks):
    added, true = trees_and_amounts(blocks, 3)
    for name in EXACT:
        assert added[:, AT[name]].tolist() == pytest.approx(true[:, AT[name]].tolist(), abs=2e-2), name
    # a bond changes what its neighbours count by more than the two atoms that it joins
    for name, most in (("surface", 12), ("donors", 2), ("log_p", 0.3)):
        assert float((added - true)[:, AT[name]].abs().mean()) < most, name


def test_all_of_an_entry_and_a_part_is_that_of_the_molecule():
    environment = structure((0, 3, 6), 2).environment
    sums = Sums(environment.entries, environment.trees.n_stems)
    part = Chem.MolFromSmiles("COc1ccccc1")
    kinds = torch.tensor([additive.kind(part.GetAtomWithIdx(5))])
    joined = sums.joined(amounts(part)[None], additive.site_of(part, 5)[None], kinds)
    for entry, row in zip(environment.entries, joined[:, 0], strict=True):
        mol = additive.join(entry.block.mol, entry.attachment, part, 5)
        assert row[[AT[name] for name in EXACT]].tolist() == pytest.approx(
            amounts(mol)[[AT[name] for name in EXACT]].tolist(), abs=2e-2
        )


@pytest.mark.parametrize(
    "smiles", ["CC(=O)Oc1ccccc1C(=O)O", "CN1CCN(c2ccccc2)CC1", "O=[N+]([O-])c1ccc(Cl)cc1", "CCCCCCCC"]
)
def test_properties_of_a_molecule_are_rdkits(smiles):
    mol = Chem.MolFromSmiles(smiles)
    told = dict(zip(PROPERTIES, properties(amounts(mol)).tolist(), strict=True))
    assert told["qed"] == pytest.approx(drug_likeness(mol), abs=1e-5)
    assert told["sa"] == pytest.approx(sa_score(mol), abs=1e-4)
    assert told["sp3_share"] == pytest.approx(Chem.rdMolDescriptors.CalcFractionCSP3(mol), abs=1e-6)


def test_tables_of_amounts_are_equally_long():
    assert len(UNITS) == additive.N_AMOUNTS == len(AMOUNTS) + len(additive.GROUPS)
    assert len(SPREADS) == len(PROPERTIES) == additive.N_AMOUNTS - 1 + 3


def test_what_is_known_of_blocks_is_shared_by_equal_ones_and_bounded_in_bytes(monkeypatch):
    asked = []
    monkeypatch.setattr(kept, "_cache", ByteCache(2000))
    monkeypatch.setattr(additive, "amounts", lambda mol: asked.append(mol) or torch.full((30,), len(asked)))

    def block(smiles: str = "CCO") -> Block:
        return Block(smiles=smiles, stems=(0,), attachments=(0,))

    assert [int(additive.block_amounts(block())[0]) for _ in range(2)] == [1, 1]
    for size in range(1, 200):
        additive.block_amounts(block("C" * size))
    assert int(additive.block_amounts(block())[0]) == 201
