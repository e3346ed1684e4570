"""Which states are a molecule, against a list of all states; and molecules sampled and scored."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict

import pytest
import torch
from genflow_molecule import decomposition
from genflow_molecule.descriptors import DESCRIPTORS
from oracles import lively
from rdkit import Chem, DataStructs
from rdkit.Chem import QED, Crippen, Descriptors, rdFingerprintGenerator
from test_molecule import SETS, structure

from genflow import GenflowError, Structure, sample_objects, score_objects


def states_by_molecule(task) -> dict[str, set[tuple[int, ...]]]:
    states = task.solution.graph.states[task.solution.graph.can_exit]
    found = defaultdict(set)
    for name, state in zip(task.gallery.names(states), states.tolist(), strict=True):
        if name:
            found[name].add(tuple(state))
    return found


@pytest.mark.parametrize(("blocks", "max_blocks"), [*((each, 3) for each in SETS), (SETS[0], 4), (8, 3)])
def test_all_states_of_every_molecule_are_found(blocks, max_blocks):
    task = structure(blocks, max_blocks)
    wanted = states_by_molecule(task)
    names = sorted(wanted)[:: max(1, len(wanted) // 150)]
    assert len(names) > 3
    for name in names:
        states, complete = task.gallery.states_named(name)
        found = [tuple(state) for state in states.tolist()]
        assert complete
        assert len(set(found)) == len(found)
        assert set(found) == wanted[name], name


@pytest.mark.parametrize(
    ("smiles", "said"),
    [
        ("c1ccccc1", "is one block, and molecules have two at least"),
        ("[Na+].[Cl-]", "is more than one molecule"),
        ("C1CC1[Si](C)(C)C", "has atoms where no block fits: "),
        ("C[GeH2]C", "has atoms where no block fits: "),
        ("c1ccc(-c2ccc(-c3ccc(-c4ccccc4)cc3)cc2)cc1", "needs more than 3 blocks"),
    ],
)
def test_why_a_molecule_cannot_be_made(smiles, said):
    gallery = structure(105, 3).gallery
    with pytest.raises(GenflowError) as error:
        gallery.states_named(gallery.read_name(smiles))
    assert str(error.value).startswith(said)


def test_a_search_that_is_cut_short_says_so(monkeypatch):
    task = structure(8, 3)
    name, states = max(states_by_molecule(task).items(), key=lambda item: len(item[1]))
    monkeypatch.setattr(decomposition, "MAX_FOUND", len(states) - 1)
    found, complete = task.gallery.states_named(name)
    assert len(found) == len(states) - 1
    assert not complete


def test_the_probability_of_a_molecule_is_the_sum_over_its_states(tmp_path):
    population = lively(structure(8, 3), 2, scale=1.0)
    task = population.structure
    exact = Counter()
    ends = population.terminal_distribution()
    for name, share in zip(task.gallery.names(task.solution.graph.states), ends.T, strict=True):
        if name:
            exact[name] += share
    some = sorted(exact)[::40]
    file = tmp_path / "mine.smi"
    # in other words and with titles
    file.write_text(
        "".join(
            f"{Chem.MolToSmiles(Chem.MolFromSmiles(name), doRandom=True)} title {number}\n"
            for number, name in enumerate(some)
        )
    )
    rows = score_objects(population, file).rows
    assert [row["object"] for row in rows] == some
    for row in rows:
        assert row["certainty"] == "exact"
        assert row["log_probabilities"] == pytest.approx(exact[row["object"]].log().tolist(), rel=1e-5)
        assert row["probability"] == pytest.approx(float(exact[row["object"]].mean()), rel=1e-5)
        assert row["score"] == pytest.approx(task.environment.catalogue.score(row["object"]))
        assert row["log_reward"] == pytest.approx(task.environment.config.beta * math.log(row["score"]))


def test_a_molecule_that_cannot_be_made_has_a_score_where_it_is_asked_for(tmp_path, monkeypatch):
    population = lively(structure(8, 3), 2)
    (tmp_path / "mine.smi").write_text("c1ccccc1 benzene\nC1CC(\n\n[Na+].[Cl-]\n")
    found = score_objects(population, tmp_path / "mine.smi", score_all=True)
    benzene, two = found.rows
    scorer = population.structure.environment.catalogue.score
    assert benzene["score"] == pytest.approx(scorer("c1ccccc1"))
    assert benzene["probability"] is None
    assert two["why_not"] == "is more than one molecule"
    assert found.faults == [f"{tmp_path / 'mine.smi'}, line 2: 'C1CC(' is no molecule"]
    monkeypatch.setattr(type(scorer), "scores", None)  # which cannot be asked
    unasked = score_objects(population, tmp_path / "mine.smi").rows
    assert unasked == [{**row, "score": None} for row in found.rows]


def test_salts_are_scored_as_the_molecule_that_blocks_are_cut_from(tmp_path):
    population = lively(structure(20, 5), 2)
    (tmp_path / "mine.smi").write_text(
        "O=C(O)c1ccccc1\nO=C([O-])c1ccccc1.[Na+] sodium benzoate\n"
        "NCCc1ccccc1\tphenethylamine\t3.2\nCl.[NH3+]CCc1ccccc1\n"
    )
    (tmp_path / "mine.csv").write_text("ID,smiles\nx1, O=C(O)c1ccccc1\n,O=C(O)c1ccccc1 acid\n")
    acid, salt, *amines = score_objects(population, tmp_path / "mine.smi").rows
    asked = ("object", "made", "score", "probability")
    assert acid["made"] and [salt[key] for key in asked] == [acid[key] for key in asked]
    assert [amines[0][key] for key in asked] == [amines[1][key] for key in asked]
    assert [row["name"] for row in (acid, salt, *amines)] == [None, "sodium benzoate", "phenethylamine", None]
    both = "salts or solvents left out; charges neutralised"
    assert [row["changed"] for row in (acid, salt, *amines)] == [None, both, None, both]
    assert [row["name"] for row in score_objects(population, tmp_path / "mine.csv").rows] == ["x1", "acid"]
    drawn = [Chem.MolToMolBlock(Chem.MolFromSmiles(each)) for each in ("O=C(O)c1ccccc1", "NCCc1ccccc1")]
    (tmp_path / "mine.sdf").write_text(f"acid{drawn[0]}$$$$\nspoiled\n\n\nno\n$$$$\n{drawn[1]}$$$$\n")
    found = score_objects(population, tmp_path / "mine.sdf")
    objects = [(row["name"], row["object"]) for row in found.rows]
    assert objects == [("acid", acid["object"]), (None, amines[0]["object"])]
    assert len(found.faults) == 1 and "'' is no molecule" in found.faults[0]
    (some,) = sample_objects(population, 1, filters=["charge==0"]).table["object"]
    (tmp_path / "known.smi").write_text(f"{some}.Cl\n")  # a salt of what is known is known
    assert sample_objects(population, 1, novel_to=tmp_path / "known.smi").summary["novelty"] == 0


def test_what_blocks_make_with_charges_keeps_them():
    """Glycine is neutralised, unless a block is a zwitterion that its spelling shows."""
    plain = structure(20, 5).gallery.read_line("[NH3+]CC(=O)[O-] glycine")
    assert plain == ("NCC(=O)O", "glycine", "charges neutralised")
    blocks = [
        {"smiles": smiles, "stems": [atom], "attachments": [atom]}
        for smiles, atom in (("[NH3+]CC(=O)[O-]", 1), ("c1ccccc1", 0))
    ]
    own = Structure.build("molecule", {"vocabulary": blocks, "max_blocks": 2, "width": 8})
    name = "[NH3+]C(C(=O)[O-])c1ccccc1"
    assert own.gallery.read_line(name) == (Chem.CanonSmiles(name), "", "")
    assert own.gallery.states_named(Chem.CanonSmiles(name))[1]


def test_molecules_are_sampled_described_and_filtered():
    population = lively(structure(20, 5), 2, scale=1.0)
    found = sample_objects(
        population, 300, unique=True, filters=["mw<400 and 0<=logp<=4"], columns=["qed", "mw"], top=50
    )
    assert list(found.table) == ["object", "score", "log_reward", "policy", "count", "mw", "logp", "qed"]
    mols = [Chem.MolFromSmiles(name) for name in found.table["object"]]
    assert found.table["mw"] == [Descriptors.MolWt(mol) for mol in mols]
    assert found.table["qed"] == [QED.qed(mol) for mol in mols]
    assert found.table["logp"] == pytest.approx([Crippen.MolLogP(mol) for mol in mols])
    everything = sample_objects(population, 300, unique=True).table
    wanted = [
        score
        for name, score in zip(everything["object"], everything["score"], strict=True)
        if Descriptors.MolWt(Chem.MolFromSmiles(name)) < 400
        and 0 <= Crippen.MolLogP(Chem.MolFromSmiles(name)) <= 4
    ]
    assert found.table["score"] == sorted(wanted, reverse=True)[:50]
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(mol) for mol in mols]
    distances = [1 - DataStructs.TanimotoSimilarity(a, b) for a, b in itertools.combinations(prints, 2)]
    assert found.summary["diversity"] == pytest.approx(sum(distances) / len(distances))


def test_every_descriptor_is_a_number():
    gallery = structure(8, 3).gallery
    for name in DESCRIPTORS:
        (value,) = gallery.describe(["CC(=O)Nc1ccc(O)cc1"], name)
        assert math.isfinite(value)
    assert torch.tensor(gallery.describe(["CCO", "c1ccccc1"], "heavy")).tolist() == [3, 6]
