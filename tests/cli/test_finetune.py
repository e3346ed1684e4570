"""`genflow finetune POPULATION`: every option beside it is followed or refused, none is ignored."""

from __future__ import annotations

import json

import pytest
from genflow_metrics.divergence import JS

from genflow import GenflowError, Population, Structure
from genflow.cli.main import main
from genflow.evaluation.evaluate import table
from genflow.measure import values_of
from genflow.training.finetune import transfer

GRID, BLOCKS = "ndim=2,height=4,width=8", "blocks=3,max_blocks=3,width=8"
#: one step that leaves the weights where they were
STEP = ["-o", "finetune.steps=1", "-o", "finetune.batch_size=4", "-o", "finetune.lr=1e-30"]


@pytest.fixture
def finetune(tmp_path, monkeypatch, capsys):
    """Run the command on three policies of a structure: exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(env: str, structure: str, *args: str) -> tuple[int, str, str]:
        population = Population.initialised(Structure.parse(env, structure), 3, 5)
        population.save(tmp_path / "policies")
        status = 0
        try:
            main(["finetune", "policies", "--out", "made", *STEP, *args])
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("env", "structure", "wanted"),
    [
        ("hypergrid", GRID, f"{GRID},R0=0.01"),
        ("hypergrid", GRID, f"{GRID},reward=cosine"),
        ("hypergrid", f"{GRID},reward=cosine", f"{GRID},reward=original"),
        ("molecule", BLOCKS, f"{BLOCKS},reward=logp_window"),
        ("molecule", BLOCKS, f"{BLOCKS},reward=logp_window,logp_centre=1,beta=4"),
        ("molecule", BLOCKS, f"{BLOCKS},multiplicity=true"),
    ],
)
def test_policies_are_trained_on_another_reward(finetune, tmp_path, env, structure, wanted):
    status, out, err = finetune(env, structure, "--structure", wanted, "--json")
    assert status == 0, err
    assert {entry["name"] for entry in json.loads(out)} == {"finetuned", "from_random"}
    before, after = (Population.load(tmp_path / name) for name in ("policies", "made/finetuned"))
    asked = Structure.parse(env, wanted)
    assert after.structure is asked and before.structure is not asked
    assert after.weights.allclose(before.weights, atol=1e-6)
    assert after.provenance["started_from"] == "random"
    assert after.provenance["started_from_structure"] == before.structure.fields()
    assert after.provenance["training_structures"] == [asked.fields()]
    beside = Population.load(tmp_path / "made" / "from_random")
    assert beside.structure is asked and "started_from_structure" not in beside.provenance
    assert not beside.weights.allclose(before.weights, atol=1e-3)


def test_other_weights_of_the_same_task_are_another_run(finetune):
    assert finetune("hypergrid", GRID, "--structure", f"{GRID},R0=0.01")[0] == 0
    status, _, err = finetune("hypergrid", GRID)
    assert status == 2 and "made holds another run (structure.structure.R0 is" in err


def test_learning_rates_are_told_apart_by_their_folders(finetune, tmp_path, capsys):
    for rate in ("0.1", "0.01"):
        finetune("hypergrid", GRID, "--out", f"tuned/{rate}", "-o", f"finetune.lr={rate}")
    older = tmp_path / "tuned" / "0.1" / "finetuned" / "population.json"
    facts = json.loads(older.read_text())
    # as it was written before there were these names
    facts["provenance"] |= {"source": "trained", "started_from": "generated"}
    older.write_text(json.dumps(facts))
    capsys.readouterr()
    main(["evaluate", "tuned", "--baseline", "none", "--metric", "js", "--json"])
    entries = json.loads(capsys.readouterr().out)
    assert {(e["source"], e["folder"]): e["metrics"]["js"]["mean"] for e in entries} == {
        (name, f"{rate}/{name}"): pytest.approx(measured(tmp_path / "tuned" / rate / name), rel=1e-6)
        for rate in ("0.1", "0.01")
        for name in ("finetuned", "from_random")
    }
    header, rows = table(entries, ["js"])
    assert header[2:4] == ["source", "folder"] and {row[3] for row in rows} == {e["folder"] for e in entries}
    # nothing to tell apart: no column
    header, rows = table([e for e in entries if e["folder"].startswith("0.1/")], ["js"])
    assert "folder" not in header and [len(row) for row in rows] == [len(header)] * 2
    main(["evaluate", "tuned", "--baseline", "none", "--metric", "js", "--out", "compared"])
    main(["report", "compared"])
    page = (tmp_path / "compared" / "report.html").read_text()
    assert all(f"{e['source']} in {e['folder']}" in page for e in entries)


def measured(folder) -> float:
    return float(values_of(Population.load(folder), {"js": JS.from_config({}, "js")})["js"].mean())


@pytest.mark.parametrize(
    ("env", "structure", "given", "wanted", "kept"),
    [
        ("hypergrid", f"{GRID},R0=0.02", "R1=0.3", f"{GRID},R0=0.02,R1=0.3", "ndim, height, R0, width"),
        ("hypergrid", f"{GRID},R0=0.02", "reward=cosine", f"{GRID},reward=cosine", "ndim, height, width"),
        (
            "molecule", f"{BLOCKS},beta=4,reward=logp_window,logp_centre=1", "logp_width=2",
            f"{BLOCKS},beta=4,reward=logp_window,logp_centre=1,logp_width=2",
            "blocks, max_blocks, reward, beta, logp_centre, width",
        ),
        (
            "molecule", f"{BLOCKS},beta=4,reward=logp_window,logp_centre=1", "reward=docking",
            f"{BLOCKS},beta=4,reward=docking", "blocks, max_blocks, beta, width",
        ),
    ],
)  # fmt: skip
def test_fields_that_are_not_given_are_those_of_the_population(
    finetune, tmp_path, env, structure, given, wanted, kept
):
    status, _, err = finetune(env, structure, "--structure", given)
    assert status == 0, err
    asked = Structure.parse(env, wanted)
    assert f"are trained on {asked.name}; {kept} as in policies" in err
    assert Population.load(tmp_path / "made" / "finetuned").structure is asked


def test_a_vocabulary_of_ones_own_is_kept(finetune, tmp_path):
    blocks = [{"smiles": each, "stems": [0], "attachments": [0]} for each in ("C", "CC", "CCC")]
    text = json.dumps({"format": "genflow-vocabulary-1", "source": "", "blocks": blocks})
    (tmp_path / "mine.json").write_text(text)
    structure = "vocabulary=mine.json,max_blocks=2,width=8"
    profile = 'reward=profile,profile="mw:<50~20; similar:<1 to {CCO}"'
    status, _, err = finetune("molecule", structure, "--structure", profile)
    assert status == 0, err
    asked = Structure.parse("molecule", f"{structure},{profile}")
    assert Population.load(tmp_path / "made" / "finetuned").structure is asked


def test_its_own_structure_is_no_other(finetune, tmp_path):
    status, _, err = finetune("hypergrid", GRID, "--structure", "height=4,ndim=2,width=8", "--num", "2")
    assert status == 0 and "are trained on" not in err
    made = Population.load(tmp_path / "made" / "finetuned")
    assert len(made) == 2 and "started_from_structure" not in made.provenance


REFUSED = {
    "another size": ([GRID, "--structure", "ndim=2,height=5,width=8"], "they are of height 4, not 5; only"),
    "as many inputs": (
        [GRID, "--structure", "ndim=4,height=2,width=8"], "they are of ndim 2, not 4; height 4, not 2; only",
    ),
    "another width": ([GRID, "--structure", "width=128"], "they are of width 8, not 128; only"),
    "two": ([GRID, "--structure", GRID, "--structure", f"{GRID},R0=0.01"], "name one --structure, not 2"),
    "an impossible one": ([GRID, "--structure", "ndim=2,hieght=4"], "did you mean 'height'"),
    "by -o": ([GRID, "-o", "structures=['A']"], "they are of ndim 2, not 4;"),
    "more policies": ([GRID, "--num", "4"], "policies has 3 policies, not 4; give --num 3 or less"),
    "no policies": ([GRID, "--num", "0"], "generate.num must be greater than or equal to 1"),
    "a generator": ([GRID, "--generator", "mine"], "--generator would generate policies, and"),
    "how to generate": ([GRID, "-o", "generate.steps=3"], "generate.steps is for generating policies"),
    "another environment": ([GRID, "--env", "molecule"], "is of environment 'hypergrid', not 'molecule'"),
    "the same by -o": ([GRID, "-o", "env=molecule"], "is of environment 'hypergrid', not 'molecule'"),
    "another architecture": ([GRID, "-o", "policy=mlp5"], "is of architecture 'mlp3', not 'mlp5'"),
    "other blocks": (
        [BLOCKS, "--structure", "blocks=0+1+8,max_blocks=3,width=8,reward=logp_window"],
        "they are of blocks 3, not [0, 1, 8]; only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_followed_is_refused_in_one_line(finetune, tmp_path, case):
    (structure, *args), says = REFUSED[case]
    status, out, err = finetune("molecule" if structure == BLOCKS else "hypergrid", structure, *args)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert says in err and not (tmp_path / "made").exists()


def test_blocks_of_the_same_number_are_other_actions():
    """Layers of the same sizes do not make the same task."""
    one, other = (Structure.parse("molecule", f"blocks={b},max_blocks=2,width=8") for b in ("0+2", "0+8"))
    assert one.layout.shapes == other.layout.shapes
    with pytest.raises(GenflowError, match=r"they are of blocks \[0, 2\], not \[0, 8\]; only what is paid"):
        transfer(Population.initialised(one, 2, 0), other)
