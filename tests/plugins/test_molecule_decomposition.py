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

from genflow import GenflowError, sample_objects, score_objects


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
        ("CCO.CC", "is more than one molecule"),
        ("[Na+].[Cl-]", "is more than one molecule"),
        ("C1CC1[Si](C)(C)C", "has atoms where no block fits: "),
        ("[13CH3]C", "has atoms where no block fits: C 1"),
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


def test_a_molecule_that_cannot_be_made_has_a_score(tmp_path):
    population = lively(structure(8, 3), 2)
    (tmp_path / "mine.smi").write_text("c1ccccc1 benzene\nC1CC(\n\nCCO.CC\n")
    found = score_objects(population, tmp_path / "mine.smi")
    benzene, two = found.rows
    assert benzene["score"] == pytest.approx(population.structure.environment.catalogue.score("c1ccccc1"))
    assert benzene["probability"] is None
    assert two["why_not"] == "is more than one molecule"
    assert found.faults == [f"{tmp_path / 'mine.smi'}, line 2: 'C1CC(' is no molecule"]


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
