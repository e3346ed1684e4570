"""The vocabulary file: made again from the corpus, and refused in one line where it is malformed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from genflow_molecule import build_vocabulary
from genflow_molecule.vocabulary import Entry, entries_of, read_vocabulary, shipped_vocabulary
from rdkit import Chem

from genflow import GenflowError, Structure

COMMITTED = Path(str(resources.files("genflow_molecule") / "vocabularies" / "default.json"))
GOOD = {"smiles": "c1ccncc1", "stems": [0, 1, 2, 4], "attachments": [0, 1, 2]}


def vocabulary(*blocks: dict, **fields) -> str:
    return json.dumps(
        {"format": "genflow-vocabulary-1", "source": "a test", "blocks": list(blocks), **fields}
    )


def genflow(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "genflow", *map(str, args)], capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_the_committed_vocabulary_is_what_the_script_makes():
    assert (
        build_vocabulary.as_text(build_vocabulary.build(build_vocabulary.DEFAULT_BLOCKS))
        == COMMITTED.read_text()
    )


def test_molecules_are_cut_where_acyclic_single_bonds_touch_a_ring():
    cut = dict(build_vocabulary.pieces(Chem.MolFromSmiles("Clc1ccc(cc1)S(=O)(=O)N1CCC(CCc2ccccn2)CC1")))
    assert set(cut) == {"Cl", "c1ccccc1", "O=[SH2]=O", "C1CCNCC1", "CC", "c1ccncc1"}
    # each piece has a hydrogen for every bond that was cut, and knows where
    assert {smiles: uses.total() for smiles, uses in cut.items()} == {
        "Cl": 1, "c1ccccc1": 2, "O=[SH2]=O": 2, "C1CCNCC1": 2, "CC": 2, "c1ccncc1": 1,
    }  # fmt: skip
    assert cut["O=[SH2]=O"] == {1: 2}
    assert {Chem.MolFromSmiles("C1CCNCC1").GetAtomWithIdx(atom).GetSymbol() for atom in cut["C1CCNCC1"]} == {
        "C",
        "N",
    }
    nitro = dict(build_vocabulary.pieces(Chem.MolFromSmiles("O=[N+]([O-])c1ccccc1")))
    assert nitro[build_vocabulary.NITRO] == {1: 1}
    assert list(build_vocabulary.pieces(Chem.MolFromSmiles("CCCCCC"))) == []


@pytest.mark.parametrize(
    ("smiles", "kept"),
    [
        ("c1ccccc1O", "Oc1ccccc1"),
        ("c1ccccc1O.[Na+]", "Oc1ccccc1"),
        ("CCCC", None),
        ("c1ccccc1[Si](C)C", None),
        ("C[C@H](O)c1ccccc1", "CC(O)c1ccccc1"),
        ("not", None),
    ],
)
def test_the_corpus_is_cleaned(smiles, kept):
    mol = build_vocabulary.cleaned(smiles)
    assert (Chem.MolToSmiles(mol) if mol else None) == kept


def test_the_shipped_vocabulary():
    blocks = shipped_vocabulary("default")
    assert len(blocks) == 600 and len(entries_of(blocks)) == 1_255 and len(entries_of(blocks[:72])) == 133
    assert [block.count for block in blocks] == sorted((block.count for block in blocks), reverse=True)
    assert blocks[0].smiles == "c1ccccc1"
    for block in blocks:
        assert Chem.CanonSmiles(block.smiles) == block.smiles
        assert sum(atom.GetFormalCharge() for atom in block.mol.GetAtoms()) == 0
        kinds = list(Chem.CanonicalRankAtoms(block.mol, breakTies=False))
        attached = [kinds[atom] for atom in block.attachments]
        assert len(set(attached)) == len(attached) and set(attached) == {kinds[stem] for stem in block.stems}
    assert read_vocabulary(COMMITTED) == blocks


def test_an_entry_opens_the_stems_that_its_attachment_leaves():
    chain = shipped_vocabulary("default")[1]
    assert (chain.smiles, chain.stems) == ("C", (0, 0))
    assert entries_of((chain,)) == (Entry(chain, 0, (0,)),)


MALFORMED = {
    "": "malformed: Invalid JSON",
    "[]": "malformed: .*object",
    "{}": "malformed: format: Field required",
    vocabulary(): "blocks: Tuple should have at least 1 item",
    vocabulary(GOOD, format="other"): "format: .*genflow-vocabulary-1",
    vocabulary(GOOD, more=1): "more: Extra inputs are not permitted",
    vocabulary(GOOD, GOOD): r"block 1 \('c1ccncc1'\) is there twice",
    vocabulary({**GOOD, "smiles": "c1ccnc1"}): "block 0 .* is no molecule",
    vocabulary({**GOOD, "smiles": "C.C"}): "is more than one molecule",
    vocabulary({**GOOD, "stems": [0, 9]}): "has no atom 9",
    vocabulary({**GOOD, "stems": [-1]}): "has no atom -1",
    vocabulary(
        {**GOOD, "stems": [0, 3], "attachments": [0]}
    ): "lists atom 3 as a stem 1 times, but it has 0 hydrogen atoms",
    vocabulary(
        {**GOOD, "stems": [0, 0], "attachments": [0]}
    ): "lists atom 0 as a stem 2 times, but it has 1 hydrogen",
    vocabulary({**GOOD, "attachments": [5]}): r"attachments \[5\], which must be different stems",
    vocabulary({**GOOD, "attachments": [0, 0]}): "must be different stems",
    vocabulary({**GOOD, "stems": [0, 1, 2, 4, 5]}): "blocks.0.*stems.* 4 items",
    vocabulary({**GOOD, "stems": []}): "blocks.0.*stems.*at least 1 item",
    vocabulary({"smiles": "C"}): "blocks.0.stems: Field required",
    vocabulary({**GOOD, "smiles": 5}): "blocks.0.smiles",
    vocabulary({**GOOD, "smiles": "C" * 201}): "blocks.0.smiles: .*at most 200 char",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_vocabulary_is_one_line(text, tmp_path, capfd):
    path = tmp_path / "blocks.json"
    path.write_text(text)
    with pytest.raises(GenflowError, match=MALFORMED[text]) as caught:
        Structure.build("molecule", {"vocabulary": str(path), "blocks": 1, "max_blocks": 2})
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert capfd.readouterr().err == "", "RDKit explains itself"


def test_a_name_that_a_terminal_would_obey_stays_on_one_line(tmp_path):
    path = tmp_path / "a\nb\x1b[2J.json"
    path.write_text("{}")
    for name in (str(path), "no\nsuch"):
        with pytest.raises(GenflowError) as caught:
            Structure.build("molecule", {"vocabulary": name, "blocks": 1, "max_blocks": 2})
        assert str(caught.value).isprintable()


def test_a_file_of_ones_own_is_used_and_read_anew_when_it_changes(tmp_path):
    path = tmp_path / "blocks.json"
    path.write_text(vocabulary(GOOD))
    fields = {"vocabulary": str(path), "blocks": 1, "max_blocks": 3}
    assert Structure.build("molecule", fields).environment.blocks[0].smiles == "c1ccncc1"
    path.write_text(vocabulary({"smiles": "CCC", "stems": [0, 2], "attachments": [0]}))
    assert Structure.build("molecule", {**fields, "beta": 2}).environment.blocks[0].smiles == "CCC"


def test_mistakes_are_one_line_on_the_command_line(tmp_path):
    path = tmp_path / "blocks.json"
    path.write_text(vocabulary({**GOOD, "smiles": "c1ccnc1"}))
    for asked, said in {
        f"small,vocabulary={path},blocks=1": "is no molecule",
        "small,reward=sweetness": "sweetness",
        "small,max_blocks=1": "max_blocks",
    }.items():
        done = genflow("train-zoo", "--env", "molecule", "--structure", asked, "--out", tmp_path / "zoo")
        assert (done.returncode, done.stdout, len(done.stderr.strip().splitlines())) == (2, "", 1), (
            done.stderr
        )
        assert said in done.stderr
        assert not (tmp_path / "zoo").exists()


def test_plugins_are_listed_without_chemistry():
    code = (
        "import sys; from genflow.registry import registry; "
        "print([p.provides() for p in registry().plugins if p.name == 'molecule']); "
        "sys.exit(any(name in sys.modules for name in ('rdkit', 'torch', 'gfn')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "'environment': ['molecule']" in done.stdout and "molecule_js" in done.stdout
