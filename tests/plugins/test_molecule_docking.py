"""Docking, its errors, the proxy and the reward.

What needs the extra is skipped without it; the rest stands in for Vina.
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from genflow_molecule import docking, screening
from genflow_molecule.docking import Docked
from genflow_molecule.proxy import dock_data, network
from genflow_molecule.proxy import train as training
from genflow_molecule.rewards import Docking, ease
from genflow_molecule.scoring import FLOOR, scorer
from rdkit import Chem
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

from genflow import GenflowError, Population, Progress, Structure
from genflow.cli.main import main
from genflow.storage.files import read_tensors, write_tensors

ATOM = "ATOM      1  N   ASN U  35      -5.356  -8.698 -16.776  1.00  0.00    -0.057 N "
CENTRE, SIZE = (-5.0, -8.0, -16.0), (10.0, 10.0, 10.0)
QUIET = Progress(quiet=True)


def file_of(tmp_path, *lines, name="mine.pdbqt"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    return path


# --- receptors and boxes


def test_a_receptor_is_its_file_and_its_box(tmp_path):
    where = docking.receptor(file_of(tmp_path, "REMARK", ATOM), CENTRE, SIZE)
    assert (where.name, where.centre, where.size) == ("mine", CENTRE, SIZE)
    assert docking.read_atoms(where.file) == [(-5.356, -8.698, -16.776)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ROOT", "is of a ligand: line 2"),
        (ATOM.replace("-8.698", " wrong"), "line 2 has no coordinates"),
        (ATOM[:60], "line 2 has no coordinates"),
        (ATOM.replace("-8.698", "   nan"), "line 2 has a coordinate that is not finite"),
        (ATOM[:77] + "Xx", "line 2 has atom type 'Xx'"),
    ],
)
def test_a_malformed_receptor_is_refused_by_its_line(tmp_path, line, why):
    with pytest.raises(GenflowError, match=why):
        docking.receptor(file_of(tmp_path, ATOM, line), CENTRE, SIZE)


@pytest.mark.parametrize(
    ("centre", "size", "why"),
    [
        (None, SIZE, "has no box"),
        (CENTRE, None, "has no box"),
        (CENTRE, (10.0, 10.0), "three numbers"),
        (CENTRE, (10.0, math.nan, 10.0), "three numbers"),
        (CENTRE, (0.0, 10.0, 10.0), "must be 1 to 60"),
        (CENTRE, (10.0, 10.0, 600.0), "must be 1 to 60"),
        ((50.0, 0.0, 0.0), SIZE, "has no atom of the receptor"),
    ],
)
def test_a_box_that_cannot_be_docked_in_is_refused(tmp_path, centre, size, why):
    with pytest.raises(GenflowError, match=why):
        docking.receptor(file_of(tmp_path, ATOM), centre, size)


def test_files_that_are_no_receptors_are_refused(tmp_path):
    with pytest.raises(GenflowError, match="is not there"):
        docking.receptor(tmp_path / "none.pdbqt", CENTRE, SIZE)
    with pytest.raises(GenflowError, match=r"is no \.pdbqt file"):
        docking.receptor(file_of(tmp_path, ATOM, name="mine.pdb"), CENTRE, SIZE)
    with pytest.raises(GenflowError, match="has no atoms"):
        docking.receptor(file_of(tmp_path, "REMARK"), CENTRE, SIZE)


def test_a_box_is_read_as_vina_reads_it(tmp_path):
    lines = [
        "center_x = 9.25",
        "center_y=6.167 # Å",
        "center_z = -7.000",
        "",
        "size_x = 30",
        "size_y = 30",
        "size_z = 32.000",
    ]
    assert docking.read_box(file_of(tmp_path, *lines)) == ((9.25, 6.167, -7.0), (30.0, 30.0, 32.0))
    with pytest.raises(GenflowError, match="lacks size_z"):
        docking.read_box(file_of(tmp_path, *lines[:-1]))
    with pytest.raises(GenflowError, match="must be numbers"):
        docking.read_box(file_of(tmp_path, *lines[:-1], "size_z = wide"))


def test_an_unknown_target_names_the_nearest(tmp_path, monkeypatch):
    file_of(tmp_path, ATOM, name="DRD2_target.pdbqt")
    lines = [f"center_{axis} = {at}" for axis, at in zip("xyz", CENTRE, strict=True)] + [
        f"size_{axis} = 9" for axis in "xyz"
    ]
    file_of(tmp_path, *lines, name="DRD2_conf.txt")
    monkeypatch.setattr(docking, "_folder", lambda: tmp_path)
    assert docking.targets() == ["DRD2"]
    assert docking.target("DRD2").centre == CENTRE
    with pytest.raises(GenflowError, match=r"there is no target 'drd3'; did you mean 'DRD2'\?"):
        docking.target("drd3")


# --- ligands


@pytest.mark.parametrize(
    ("neutral", "expected"),
    [
        ("CN(C)C", "C[NH+](C)C"),
        ("CCN", "CC[NH3+]"),
        ("CC(=O)O", "CC(=O)[O-]"),
        ("C1CNCCN1", "C1C[NH2+]CCN1"),  # one of two neighbours
        ("NCCCCCN", "[NH3+]CCCCC[NH3+]"),
        ("CC(=O)NC", "CC(=O)NC"),
        ("Nc1ccccc1", "Nc1ccccc1"),
        ("CS(=O)(=O)NC", "CS(=O)(=O)NC"),
        ("NC=N", "NC=N"),
        ("O=[N+]([O-])c1ccccc1", "O=[N+]([O-])c1ccccc1"),
    ],
)
def test_amines_and_acids_are_charged_as_in_water(neutral, expected):
    found = docking.protonated(Chem.MolFromSmiles(neutral))
    assert Chem.MolToSmiles(found) == Chem.CanonSmiles(expected)


def test_a_conformer_depends_on_its_seed_alone():
    one, again, other = (
        docking.embedded("CCOC(=O)c1cncs1", seed).GetConformer().GetPositions() for seed in (1, 1, 2)
    )
    assert (one == again).all()
    assert not np.allclose(one, other)


@pytest.mark.parametrize(
    ("smiles", "why"), [("", "no molecule"), ("C1CC", "no molecule"), ("CC.O", "more than one")]
)
def test_what_is_no_molecule_is_undockable(smiles, why):
    with pytest.raises(docking.Undockable, match=why):
        docking.embedded(smiles, 1)


# --- the command


@pytest.fixture
def without_extra(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in docking.MODULES else found(name, *rest),
    )


@pytest.fixture
def with_extra(monkeypatch):
    monkeypatch.setattr(docking, "require_extra", lambda: None)


def fails(capsys, *args):
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, args)))
    out, err = capsys.readouterr()
    assert (exit_.value.code, out, err.count("\n")) == (2, "", 1)
    return err


def test_without_the_extra_the_command_says_what_to_install(tmp_path, without_extra, capsys):
    message = fails(capsys, "dock", tmp_path, "--target", "DRD2")
    assert "in a clone of genflow, run pip install '.[docking]'" in message
    assert "vina" in message


def test_the_command_wants_one_receptor(tmp_path, with_extra, capsys):
    assert "name one receptor" in fails(capsys, "dock", tmp_path)
    assert "name one receptor" in fails(capsys, "dock", tmp_path, "--target", "DRD2", "--receptor", "a.pdbqt")
    assert "has its own box" in fails(capsys, "dock", tmp_path, "--target", "DRD2", "--box-size", 1, 1, 1)
    assert "has no box" in fails(capsys, "dock", tmp_path, "--receptor", file_of(tmp_path, ATOM))
    box = ("--box-centre", *CENTRE, "--box-size", *SIZE)
    assert "is no folder" in fails(
        capsys, "dock", tmp_path / "none", "--receptor", file_of(tmp_path, ATOM), *box
    )


def test_the_plugin_and_its_help_import_neither_torch_nor_rdkit():
    code = (
        "import sys, genflow_molecule, genflow_molecule.cli;"
        " assert not {'torch', 'rdkit', 'vina'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class FakeDocker:
    """Affinities by the length of a SMILES; every `fails`-th cannot be docked; stops after so many."""

    def __init__(self, fails=0, stops=None):
        self.docked: list[str] = []
        self.fails, self.stops = fails, stops

    def __call__(self, smiles):
        if len(self.docked) == self.stops:
            raise KeyboardInterrupt
        self.docked.append(smiles)
        if self.fails and sum(map(ord, smiles)) % self.fails == 0:
            return Docked(smiles, fault="no pose fits the box")
        return Docked(smiles, -round(len(smiles) / 7, 3))


@pytest.fixture
def population():
    return Population.initialised(Structure.parse("molecule", "small,width=8"), 2, seed=0)


def screened(population, out, docker, tmp_path, top=12, seed=3):
    where = docking.receptor(file_of(tmp_path, ATOM), CENTRE, SIZE)
    return screening.screen(population, where, lambda: docker, {"top": top, "draws": 40}, seed, out, QUIET)


def test_the_molecules_of_the_highest_reward_are_docked_and_ranked_anew(population, tmp_path):
    docker = FakeDocker(fails=3)
    rows = screened(population, tmp_path / "out", docker, tmp_path)
    environment = population.structure.environment
    drawn = set(environment.catalogue.smiles(population.rollouts(40, 3).final.flatten(0, 1)))
    scores = sorted((environment.catalogue.score(smiles) for smiles in drawn), reverse=True)
    assert sorted((row["score"] for row in rows), reverse=True) == scores[:12]
    assert [row["smiles"] for row in rows] != docker.docked
    assert {row["smiles"] for row in rows} == set(docker.docked)
    affinities = [row["affinity"] for row in rows if row["affinity"] is not None]
    assert affinities == sorted(affinities)
    failed = [row for row in rows if row["affinity"] is None]
    assert failed and rows[-len(failed) :] == failed and all(row["fault"] for row in failed)
    table = (tmp_path / "out" / screening.TABLE).read_text().splitlines()
    assert table[0] == "smiles,score,affinity"
    assert table[-1] == f"{rows[-1]['smiles']},{rows[-1]['score']},"
    assert "no pose fits the box" in screening.as_text(rows)


def test_a_run_that_was_stopped_goes_on(population, tmp_path):
    whole, first, second = FakeDocker(), FakeDocker(stops=5), FakeDocker()
    expected = screened(population, tmp_path / "whole", whole, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        screened(population, tmp_path / "parts", first, tmp_path)
    assert not (tmp_path / "parts" / screening.TABLE).exists()
    assert screened(population, tmp_path / "parts", second, tmp_path) == expected
    assert first.docked + second.docked == whole.docked
    assert len(second.docked) == 7
    # complete: nothing is docked again
    assert screened(population, tmp_path / "parts", FakeDocker(stops=0), tmp_path) == expected


def test_a_folder_of_another_run_is_refused(population, tmp_path):
    screened(population, tmp_path / "out", FakeDocker(), tmp_path, top=2)
    other = Population.initialised(population.structure, 2, seed=1)
    for arguments in (
        {"population": other},
        {"population": population, "top": 3},
        {"population": population, "seed": 4},
    ):
        with pytest.raises(GenflowError, match="holds another run"):
            screened(
                **{
                    "out": tmp_path / "out",
                    "docker": FakeDocker(),
                    "tmp_path": tmp_path,
                    "top": 2,
                    **arguments,
                }
            )
    (tmp_path / "out" / screening.DOCKED).write_text(
        json.dumps({"docked": [{"smiles": "C", "affinity": "low", "fault": None}]})
    )
    with pytest.raises(GenflowError, match="does not hold what this run docked"):
        screened(population, tmp_path / "out", FakeDocker(), tmp_path, top=2)


def test_only_molecules_are_docked(tmp_path):
    population = Population.initialised(Structure.parse("hypergrid", "ndim=2,height=4,width=8"), 1, seed=0)
    with pytest.raises(GenflowError, match="only molecules can be docked"):
        screened(population, tmp_path / "out", FakeDocker(), tmp_path)
    assert not (tmp_path / "out").exists()


# --- the data and the proxy


def test_random_molecules_are_different_small_enough_and_the_same_for_a_seed():
    molecules = list(dock_data.random_molecules(60, 0))
    assert len(set(molecules)) == 60
    assert molecules[:20] == list(dock_data.random_molecules(20, 0))
    assert molecules != list(dock_data.random_molecules(60, 1))
    heavy = [Chem.MolFromSmiles(smiles).GetNumHeavyAtoms() for smiles in molecules]
    assert max(heavy) <= dock_data.MAX_HEAVY
    means = [np.mean(heavy[size::5]) for size in range(5)]  # two to six blocks in turn
    assert means == sorted(means)


def test_docking_of_the_data_goes_on_where_it_stopped(tmp_path):
    molecules, settings, out = (
        ["C" * (i + 1) for i in range(25)],
        {"target": "DRD2", "seed": 0},
        tmp_path / "data.csv",
    )
    first, second = FakeDocker(fails=7, stops=23), FakeDocker(fails=7)
    with pytest.raises(KeyboardInterrupt):
        dock_data.dock_all(molecules, first, settings, out, QUIET)
    assert len(dock_data.read_data(out)) == 20
    docked = dock_data.dock_all(molecules, second, settings, out, QUIET)
    assert second.docked == molecules[20:]
    assert [each.affinity for each in dock_data.read_data(out)] == [each.affinity for each in docked]
    assert any(each.affinity is None for each in docked)
    with pytest.raises(GenflowError, match="other settings"):
        dock_data.dock_all(molecules, second, {**settings, "seed": 1}, out, QUIET)
    with pytest.raises(GenflowError, match="other molecules"):
        dock_data.dock_all(molecules[1:], second, settings, out, QUIET)


@pytest.mark.parametrize("text", ["", "a,b\n", "smiles,affinity\nCC,low\n", "smiles,affinity\nCC\n"])
def test_malformed_data_are_refused(tmp_path, text):
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(GenflowError, match="is malformed"):
        dock_data.read_data(tmp_path / "data.csv")


def test_figures_are_numpys():
    predicted, measured = torch.tensor([1.0, 2.0, 2.0, 5.0, -3.0]), torch.tensor([0.5, 2.5, 1.0, 9.0, -1.0])
    found = training.figures(predicted, measured)
    assert found["mae"] == pytest.approx(np.abs(predicted.numpy() - measured.numpy()).mean())
    assert found["rmse"] == pytest.approx(np.sqrt(((predicted - measured).numpy() ** 2).mean()))
    assert found["pearson"] == pytest.approx(np.corrcoef(predicted, measured)[0, 1])
    # ranks by hand: two values share the third and fourth place from the top
    assert found["spearman"] == pytest.approx(np.corrcoef([2, 3.5, 3.5, 5, 1], [2, 4, 3, 5, 1])[0, 1])
    rng = np.random.default_rng(0)
    inputs, wanted = rng.normal(size=(30, 3)), rng.normal(size=30)
    weights = np.linalg.lstsq(np.c_[inputs, np.ones(30)], wanted, rcond=None)[0]
    ours = training.linear(torch.tensor(inputs), torch.tensor(wanted), torch.tensor(inputs[:5]))
    assert ours.numpy() == pytest.approx(np.c_[inputs[:5], np.ones(5)] @ weights, abs=1e-5)


def test_no_scaffold_is_in_two_parts():
    smiles = list(dock_data.random_molecules(120, 5))
    parts = training.split(smiles, 0)
    assert sorted(number for part in parts for number in part) == list(range(120))
    scaffolds = [{MurckoScaffoldSmiles(smiles[number]) for number in part} for part in parts]
    assert not (scaffolds[0] & scaffolds[1] or scaffolds[0] & scaffolds[2] or scaffolds[1] & scaffolds[2])
    assert min(map(len, parts)) >= 10
    assert sorted(number for part in training.folds(smiles, 3, 5) for number in part) == list(range(120))
    assert training.split(smiles, 1) != parts


@pytest.fixture
def made_up(tmp_path):
    """Affinities that grow with heavy atoms and one group, which size alone does not tell."""
    docked = []
    for smiles in dock_data.random_molecules(150, 7):
        mol = Chem.MolFromSmiles(smiles)
        docked.append(
            Docked(smiles, round(-3 - 0.2 * mol.GetNumHeavyAtoms() - 1.5 * mol.GetRingInfo().NumRings(), 3))
        )
    docked.append(Docked("CCO", None, "no pose fits the box"))
    dock_data.write_data(tmp_path / "data.csv", docked)
    return tmp_path / "data.csv"


def test_training_finds_a_rule_and_is_repeatable(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "VARIANTS", training.VARIANTS[:1])
    monkeypatch.setattr(training, "FOLDS", 3)
    cards = [training.train(made_up, tmp_path / f"{name}.safetensors", 0, QUIET) for name in "ab"]
    for suffix in (".safetensors", ".card.json"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    test = cards[0]["test"]
    assert test["proxy"]["rmse"] < 0.5 * test["heavy atoms, linear"]["rmse"] < test["mean"]["rmse"]
    assert cards[0]["data"]["docked"] == 150
    proxy = network.load(tmp_path / "a.safetensors")
    least, most = proxy.affinity[2:].tolist()
    assert least <= network.predict(["C" * 60], proxy)[0] <= most  # kept in the range of what was seen


def test_data_that_teach_nothing_are_refused(tmp_path):
    dock_data.write_data(tmp_path / "few.csv", [Docked("CCO", -1.0), Docked("CCN", -2.0)])
    with pytest.raises(GenflowError, match="too few"):
        training.train(tmp_path / "few.csv", tmp_path / "w.safetensors", 0, QUIET)
    dock_data.write_data(tmp_path / "twice.csv", [Docked("CCO", -1.0), Docked("OCC", -2.0)])
    with pytest.raises(GenflowError, match="twice"):
        training.train(tmp_path / "twice.csv", tmp_path / "w.safetensors", 0, QUIET)


def test_the_proxy_that_ships_is_as_good_as_its_card_says():
    card = json.loads(network.SHIPPED.with_suffix(".card.json").read_text())
    docked = [
        each for each in dock_data.read_data(dock_data.FOLDER / "drd2.csv") if each.affinity is not None
    ]
    assert len(docked) == card["data"]["docked"]
    own = training.split([each.smiles for each in docked], card["seed"])[2]
    assert len(own) == card["split"]["measure"]
    predicted = np.array(network.predict([docked[number].smiles for number in own]))
    truth = np.array([docked[number].affinity for number in own])
    assert np.abs(predicted - truth).mean() == pytest.approx(card["test"]["proxy"]["mae"], abs=1e-3)
    assert np.corrcoef(predicted, truth)[0, 1] == pytest.approx(card["test"]["proxy"]["pearson"], abs=1e-3)
    assert card["folds"]["proxy"]["rmse"] < min(
        card["folds"][name]["rmse"] for name in ("mean", "heavy atoms, linear")
    )


def test_a_proxy_that_is_none_is_refused(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"weights.0": torch.zeros(1, 2, 3)}, {"format": "something"})
    with pytest.raises(GenflowError, match="holds no docking proxy"):
        network.load(tmp_path / "a.safetensors")
    write_tensors(tmp_path / "b.safetensors", {"weights.0": torch.zeros(1, 2, 3)}, {"format": network.FORMAT})
    with pytest.raises(GenflowError, match="not a docking proxy's"):
        network.load(tmp_path / "b.safetensors")
    network.save(network.Proxy(1, 2, 3), tmp_path / "c.safetensors")
    tensors, facts = read_tensors(tmp_path / "c.safetensors")
    write_tensors(tmp_path / "d.safetensors", {**tensors, "columns": torch.tensor([0, 1, 10**6])}, facts)
    with pytest.raises(GenflowError, match="features that there are not"):
        network.load(tmp_path / "d.safetensors")


# --- the reward


def test_the_reward_is_monotone_in_affinity_and_pays_for_ease():
    mol = Chem.MolFromSmiles("O=C(CSc1ccc2c(c1)OCCO2)c1ccccc1")
    affinity = network.predict([Chem.MolToSmiles(mol)])[0]
    scale = 1 / (1 + math.exp(affinity + 9))
    assert Docking().score([mol]) == pytest.approx([scale * ease(mol)])
    paid = scorer(Docking())
    smiles = list(dock_data.random_molecules(40, 11))
    scores = [paid(each) for each in smiles]
    assert all(FLOOR <= score < 1 for score in scores)
    by_affinity = np.argsort(network.predict(smiles))
    eased = [scores[i] / ease(Chem.MolFromSmiles(smiles[i])) for i in by_affinity if scores[i] > FLOOR]
    assert eased == sorted(eased, reverse=True)


def test_the_environment_pays_it():
    task = Structure.parse("molecule", "small,reward=docking,multiplicity=false,beta=4")
    graph = task.solution.graph
    states = graph.states[graph.can_exit][:20]
    expected = [
        4 * math.log(max(FLOOR, *Docking().score([Chem.MolFromSmiles(s)])))
        for s in task.environment.catalogue.smiles(states)
    ]
    assert task.transitions().log_reward(states).tolist() == pytest.approx(expected)


# --- with the extra


@pytest.fixture(scope="module")
def carbonic_anhydrase():
    for name in docking.MODULES:
        pytest.importorskip(name, reason="docking itself is tested where pip install '.[docking]' was run")
    return docking.target("CA2")


def test_an_affinity_does_not_depend_on_what_was_docked_before(carbonic_anhydrase):
    docker = docking.Docker(carbonic_anhydrase, exhaustiveness=1, seed=5, evaluations=20_000)
    one, other = docker("NS(=O)(=O)c1ccc(C)cc1"), docker("CCO")
    assert one.affinity < other.affinity < 0
    assert docker("NS(=O)(=O)c1ccc(C)cc1") == one
    shared = docking.Docker(carbonic_anhydrase, exhaustiveness=1, seed=5, evaluations=20_000, cores=2)
    assert shared("CCO") == other


def test_what_cannot_be_docked_has_no_affinity(carbonic_anhydrase):
    docker = docking.Docker(carbonic_anhydrase, exhaustiveness=1, evaluations=1000)
    for smiles in ("C1CC", "CC.O", "[He]", "C[Pt]C"):
        found = docker(smiles)
        assert found.affinity is None and found.fault


def test_vinas_own_complaint_is_one_line(carbonic_anhydrase, tmp_path):
    where = docking.receptor(file_of(tmp_path, ATOM, "FLEX 1"), CENTRE, SIZE)
    with pytest.raises(GenflowError, match=r"Vina cannot use the receptor .* FLEX 1$"):
        docking.Docker(where)


def test_the_command_docks(carbonic_anhydrase, population, tmp_path, capsys):
    population.save(tmp_path / "policies")
    arguments = [
        "dock",
        tmp_path / "policies",
        "--target",
        "CA2",
        "--top",
        2,
        "--draws",
        8,
        "--exhaustiveness",
        1,
        "--out",
        tmp_path / "o",
    ]
    main([*map(str, arguments), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 2 and rows[0]["affinity"] <= rows[1]["affinity"] < 0
    main(list(map(str, arguments)))
    assert rows[0]["smiles"] in capsys.readouterr().out
