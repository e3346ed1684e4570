"""The vocabulary file: made again from the corpus, and refused in one line where it is malformed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from genflow_molecule import build_vocabulary
from genflow_molecule.cutting import pieces, ring_bonds
from genflow_molecule.vocabulary import Entry, as_text, entries_of, read_vocabulary, shipped_vocabulary
from processes import refused
from rdkit import Chem

from genflow import GenflowError, Population, Structure

COMMITTED = Path(str(resources.files("genflow_molecule") / "vocabularies" / "default.json"))
GOOD = {"smiles": "c1ccncc1", "stems": [0, 1, 2, 4], "attachments": [0, 1, 2]}


def vocabulary(*blocks: dict, **fields) -> str:
    return json.dumps(
        {"format": "genflow-vocabulary-1", "source": "a test", "blocks": list(blocks), **fields}
    )


@pytest.mark.slow
def test_the_committed_vocabulary_is_what_the_script_makes():
    assert as_text(build_vocabulary.build(build_vocabulary.DEFAULT_BLOCKS)) == COMMITTED.read_text()


def cut_at_rings(smiles: str) -> list:
    mol = Chem.MolFromSmiles(smiles)
    return list(pieces(mol, ring_bonds(mol)))


def test_molecules_are_cut_where_acyclic_single_bonds_touch_a_ring():
    cut = dict(cut_at_rings("Clc1ccc(cc1)S(=O)(=O)N1CCC(CCc2ccccn2)CC1"))
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
    nitro = dict(cut_at_rings("O=[N+]([O-])c1ccccc1"))
    assert nitro[build_vocabulary.NITRO] == {1: 1}
    assert cut_at_rings("CCCCCC") == []


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
    ): "lists atom 3 as a stem 1 time, but it has 0 hydrogen atoms",
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


# --- a structure is the blocks of its vocabulary, not the path of a file

AMINE = {"smiles": "CN", "stems": [0, 1], "attachments": [1]}
CHAIN = {"smiles": "CCC", "stems": [0, 2], "attachments": [0]}
FOURTEEN = [
    {"smiles": "C" * size, "stems": [0, size - 1], "attachments": [0]} for size in range(2, 16)
]  # longer chains than any name holds


def of(path: Path, **fields) -> Structure:
    return Structure.build("molecule", {"vocabulary": str(path), "max_blocks": 2, "width": 8, **fields})


@pytest.fixture
def mine(tmp_path) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(vocabulary(GOOD, AMINE, CHAIN))
    return path


def smiles_of(structure: Structure) -> list[str]:
    return [block.smiles for block in structure.environment.blocks]


def test_the_vocabulary_that_ships_never_changes():
    """Structures name it by its name alone: another file needs another name."""
    digest = hashlib.sha256(COMMITTED.read_bytes()).hexdigest()
    assert digest == "62524ea12864db115e6897670c3951b52fe0965c08f67485500febf48561e5e0"


def test_blocks_that_are_swapped_are_another_structure(mine):
    before = of(mine)
    mine.write_text(vocabulary(AMINE, GOOD, CHAIN))
    after = of(mine)
    assert smiles_of(before) == ["c1ccncc1", "CN", "CCC"] and smiles_of(after) == ["CN", "c1ccncc1", "CCC"]
    assert before != after and before.name != after.name
    # a zoo that holds the old ones is not complete
    assert before not in {after} and before.fields() != after.fields()


def test_the_same_content_under_another_path_is_the_same_structure(mine, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(vocabulary(GOOD, AMINE, CHAIN, source="somewhere else"))
    assert of(other) == of(mine) and of(other).name == of(mine).name
    # and so are the same blocks out of more of them
    other.write_text(vocabulary(GOOD, {**CHAIN, "smiles": "CCCC", "stems": [0, 3]}, AMINE, CHAIN))
    assert of(other, blocks=(0, 2, 3)) == of(mine)


def test_all_blocks_of_a_file_are_used_unless_some_are_asked_for(tmp_path):
    path = tmp_path / "fourteen.json"
    path.write_text(vocabulary(*FOURTEEN))
    every = of(path)
    assert len(every.environment.blocks) == every.environment.config.blocks == every.fields()["blocks"] == 14
    assert smiles_of(of(path, blocks=3)) == ["CC", "CCC", "CCCC"]
    assert smiles_of(of(path, blocks=(13, 0))) == ["CC", "C" * 15]
    assert of(path, blocks=(13, 0)).environment.config.blocks == 2
    with pytest.raises(GenflowError, match="the vocabulary has blocks 0 to 13, and no block 14"):
        of(path, blocks=15)


def test_names_are_short_and_mean_the_same_structure_while_it_is_in_use(tmp_path):
    path = tmp_path / "fourteen.json"
    path.write_text(vocabulary(*FOURTEEN))
    structure = of(path, blocks=10)
    assert len(structure.name) < 100 and "~" in structure.name and "mine" not in structure.name
    assert Structure.parse("molecule", structure.name) is structure
    with pytest.raises(GenflowError, match="stands for a value of a structure that is not in use"):
        Structure.parse("molecule", "max_blocks=3,vocabulary=~0123456789abcdef")


def test_populations_work_when_the_file_is_changed_moved_or_gone(mine, tmp_path):
    population = Population.initialised(of(mine), 2, 0)
    population.save(tmp_path / "saved")
    assert str(mine) not in (tmp_path / "saved" / "population.json").read_text()
    for spoil in (lambda: mine.write_text("{}"), mine.unlink):
        spoil()
        loaded = Population.load(tmp_path / "saved")
        assert loaded.structure == population.structure and loaded.structure.name == population.structure.name
        assert smiles_of(loaded.structure) == ["c1ccncc1", "CN", "CCC"]
        assert loaded.weights.equal(population.weights)


def test_a_strangers_file_names_no_file_that_is_read(mine, tmp_path):
    population = Population.initialised(of(mine), 2, 0)
    population.save(tmp_path / "saved")
    card = tmp_path / "saved" / "population.json"
    facts = json.loads(card.read_text())
    for named in (str(mine), "/etc/passwd", "../mine.json"):
        facts["structure"]["vocabulary"] = named
        card.write_text(json.dumps(facts))
        with pytest.raises(GenflowError, match="is not read") as caught:
            Population.load(tmp_path / "saved")
        assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([{**GOOD, "smiles": "c1ccnc1"}], r"block 0 \('c1ccnc1'\) is no molecule"),
        ([GOOD, GOOD], "is there twice"),
        ([5], "blocks.0"),
        ([], "blocks: Tuple should have at least 1 item"),
        ([{**GOOD, "more": 1}], "more: Extra inputs"),
        ([{**GOOD, "smiles": "C" * 201}], "smiles: .*at most 200"),
        (5, "vocabulary"),
        ([GOOD] * 5000, "more than 4,096 items"),
    ],
)
def test_a_strangers_blocks_are_checked(blocks, words):
    data = {"env": "molecule", "policy": "mlp3", "structure": {"max_blocks": 2, "vocabulary": blocks}}
    with pytest.raises(GenflowError, match=words) as caught:
        Structure.from_json(data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_structures_of_a_file_are_copied_and_pickled(mine):
    import copy
    import pickle

    structure = of(mine)
    assert copy.deepcopy(structure) is structure and pickle.loads(pickle.dumps(structure)) is structure
    assert Structure.from_json(json.loads(json.dumps(structure.to_json()))) is structure


def test_mistakes_are_one_line_on_the_command_line(tmp_path):
    path = tmp_path / "blocks.json"
    path.write_text(vocabulary({**GOOD, "smiles": "c1ccnc1"}))
    for asked, said in {
        f"small,vocabulary={path},blocks=1": "is no molecule",
        "small,reward=sweetness": "sweetness",
        "small,max_blocks=1": "max_blocks",
    }.items():
        line = refused("train-zoo", "--env", "molecule", "--structure", asked, "--out", tmp_path / "zoo")
        assert said in line
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
    assert "molecule:logp_window" in done.stdout
