"""The molecule generator that ships: its training by provenance, its card, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from genflow_molecule import build_recipe

from genflow import Generator, GenflowError, Structure
from genflow.measure import figures_of
from genflow.pretrained import shipped

(FOLDER,) = shipped("molecule")
#: policies a structure; the card's means are of sixteen
NUM = 4


@pytest.fixture(scope="module")
def generator():
    return Generator.from_pretrained(FOLDER)


def blocks_of(fields) -> set[int]:
    return set(range(fields["blocks"]) if isinstance(fields["blocks"], int) else fields["blocks"])


def test_the_committed_recipe_is_what_the_script_makes(generator):
    text = (FOLDER.parent / "molecule.toml").read_text()
    assert build_recipe.recipe() == text
    trained = [Structure.parse("molecule", each) for each in tomllib.loads(text)["structures"]]
    found = [Structure.build("molecule", fields) for fields in generator.card.training_structures]
    assert {structure.name for structure in trained} == {structure.name for structure in found} and len(
        found
    ) == len(trained)


def test_new_blocks_and_test_vocabularies_occur_nowhere_else(generator):
    card = generator.card
    tests = [entry.structure for entry in card.quality if entry.role == "test"]
    known = set().union(*map(blocks_of, card.training_structures))
    selected = set().union(*map(blocks_of, card.selection_structures))
    new = [fields for fields in tests if not blocks_of(fields) & known]
    assert len(new) >= 12 and not set().union(*map(blocks_of, new)) & selected
    used = [*card.training_structures, *card.selection_structures]
    assert not any(fields in used for fields in tests)
    # the other tests are of known blocks in company that none of them was trained in
    vocabularies = [blocks_of(fields) for fields in used]
    assert not any(blocks_of(fields) <= vocabulary for fields in tests for vocabulary in vocabularies)


def test_no_reward_that_is_measured_was_trained_or_selected_on(generator):
    card = generator.card
    tests = [entry.structure for entry in card.quality if entry.role == "test"]
    used = [*card.training_structures, *card.selection_structures]
    assert {fields["reward"] for fields in tests} == {"profile", *build_recipe.TESTED}
    assert {fields["reward"] for fields in used} == {"profile"}
    wishes = {fields["profile"] for fields in used}
    assert not wishes & {fields.get("profile") for fields in tests}
    # QED times ease of synthesis is a reward of its own
    about = [{term.split(":")[0].strip() for term in text.split(";")} for text in wishes]
    assert {"qed"} <= set().union(*about) and not any({"qed", "sa"} <= names for names in about)


def test_it_is_as_good_as_its_card_says(generator):
    tests = [entry for entry in generator.card.quality if entry.role == "test"]
    small = sorted(tests, key=lambda entry: Structure.build("molecule", entry.structure).solution.n_states)[
        :4
    ]
    for entry in small:
        population = generator.generate(Structure.build("molecule", entry.structure), NUM, seed=1)
        assert not population.seen
        assert figures_of(population)["js"] < 1.3 * entry.metrics["js"] + 1e-3, entry.name


def test_a_vocabulary_of_ones_own_is_generated_for_and_what_it_has_not_learned_is_refused(
    generator, tmp_path
):
    mine = tmp_path / "mine.json"
    block = {"smiles": "c1ccc2ncccc2c1", "stems": [0, 5], "attachments": [0, 5]}
    amine = {"smiles": "CN", "stems": [0, 1], "attachments": [1]}
    chain = {"smiles": "CCC", "stems": [0, 2], "attachments": [0]}
    mine.write_text(
        json.dumps({"format": "genflow-vocabulary-1", "source": "me", "blocks": [block, amine, chain]})
    )
    structure = Structure.build("molecule", {"vocabulary": str(mine), "blocks": 3, "max_blocks": 3})
    assert len(generator.generate(structure, 2)) == 2
    with pytest.raises(GenflowError, match="beta 1 to 64"):
        generator.check(Structure.parse("molecule", "small,beta=0.5"))


def test_straight_after_installation(tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-m", "genflow", "generate", "--env", "molecule", "--structure", "small",
            "--num", "3", "--out", "made", "--json",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (facts,) = json.loads(done.stdout)
    assert (facts["num"], facts["seen"]) == (3, False)
    assert {path.name for path in Path(tmp_path / "made").iterdir()} >= {
        "population.json",
        "population.safetensors",
    }
