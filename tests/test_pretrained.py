"""The generators that ship: what they were trained on and cover, and that they are as good as they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genflow import Generator, Structure
from genflow.measure import exact_metrics, figures_of
from genflow.pretrained import shipped

FOLDERS = shipped("hypergrid")
PAPER_UNSEEN = [(3, 3), (4, 4), (3, 12), (7, 7), (2, 2), (2, 8), (3, 27), (4, 25)]
#: policies a structure; the cards' means are of eight
NUM = 4


@pytest.fixture(scope="module")
def generators():
    return [Generator.from_pretrained(folder) for folder in FOLDERS]


def command(*args, cwd):
    return subprocess.run(
        [sys.executable, "-m", "genflow", *args], cwd=cwd, capture_output=True, text=True, timeout=300
    )


def test_they_fit_a_package():
    files = [path for folder in FOLDERS for path in folder.iterdir()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    # of which 2.7 MB are the smooth family, which was in float32 when they were exported
    assert sum(path.stat().st_size for path in files) < 22e6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["default", "narrow", "separable", "molecule"])
def test_they_make_the_policies_that_they_made_when_they_were_built(name, dtype):
    entries = json.loads((Path(__file__).parent / "data" / "shipped.json").read_text())[name]
    torch.set_default_dtype(dtype)
    try:
        generator = Generator.from_pretrained(next(f for f in shipped(entries[0]["env"]) if f.name == name))
        for entry in entries:
            structure = Structure.build(entry["env"], entry["structure"])
            made = generator.generate(structure, 4, seed=0).weights[[0, 3]][:, entry["places"]]
            expected = torch.tensor(entry["weights"], dtype=torch.float32)
            torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_papers_unknown_structures_were_neither_trained_nor_selected_on(generators):
    for generator in generators:
        card = generator.card
        used = [*card.training_structures, *card.selection_structures]
        assert len(card.training_structures) > 50 and card.selection_structures
        assert not any((fields["ndim"], fields["height"]) in PAPER_UNSEEN for fields in used)
        tested = [entry for entry in card.quality if entry.role == "test"]
        sizes = [(entry.structure["ndim"], entry.structure["height"]) for entry in tested]
        assert all(size in sizes for size in PAPER_UNSEEN)
        assert not any(entry.structure in used for entry in tested)


def test_rewards_that_are_measured_were_not_trained_on(generators):
    (card,) = [
        each.card for each in generators if "paper" in {e.structure["reward"] for e in each.card.quality}
    ]
    used = {fields["reward"] for fields in [*card.training_structures, *card.selection_structures]}
    assert used == {"original", "separable"}
    assert {entry.structure["reward"] for entry in card.quality} > used | {"cosine", "deceptive"}


@pytest.mark.parametrize("place", range(len(FOLDERS)))
def test_they_are_as_good_as_their_cards_say(generators, place):
    generator = generators[place]
    every = [(e, Structure.build("hypergrid", e.structure)) for e in generator.card.quality]
    small = [(entry, own) for entry, own in every if own.solution.n_states <= 30_000]
    assert len(small) > 8
    for entry, structure in small:
        population = generator.generate(structure, NUM, seed=1)
        assert not population.seen
        assert figures_of(population)["js"] < 1.6 * entry.metrics["js"] + 1e-4, entry.name
        assert exact_metrics()["js"](population).max() < 5 * entry.metrics["js"] + 1e-3, entry.name


def test_policies_of_one_structure_differ(generators):
    population = generators[0].generate(Structure.parse("hypergrid", "ndim=3,height=17"), 8)
    weights = population.weights
    distances = (weights[:, None] - weights).norm(dim=2)
    assert float(distances.sum() / 56 / weights.norm(dim=1).mean()) > 0.25


def test_generate_without_a_generator_uses_the_one_that_covers_the_structure(tmp_path):
    done = command(
        "generate",
        "--env",
        "hypergrid",
        "--structure",
        "C*",
        "--structure",
        "C*:paper",
        "--num",
        "2",
        "--json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    wide, narrow = json.loads(done.stdout)
    assert (wide["structure"]["width"], narrow["structure"]["width"]) == (128, 6)
    assert (wide["seen"], narrow["seen"]) == (False, False)


@pytest.mark.parametrize(
    ("structure", "says"),
    [
        ("ndim=11,height=4", "ndim=11 is outside what this generator covers: ndim 1 to 10, height 2 to 100"),
        ("ndim=2,height=101", "height=101 is outside"),
        ("A,width=200", "width=200 is outside"),
        ("A,R0=0.5,backward=uniform", "R0=0.5 is outside"),
        ("A,reward=cosine,backward=uniform", "trained on reward=original, not cosine"),
        ("A,reward=bitwise_xor", "bitwise_xor is no sum of products over the dimensions; generate for"),
        ("height=8+12,backward=uniform", "trained on one number for height, not on 8+12"),
        (
            'A,reward=separable,terms="1; u; u; u; u"',
            "Tuple should have at most 4 items",
        ),
        ("A,R3=1", "unknown key 'R3'"),
    ],
)
def test_what_they_do_not_cover_is_refused_with_the_range(structure, says, tmp_path):
    done = command("generate", "--env", "hypergrid", "--structure", structure, "--out", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_task_too_large_to_enumerate_is_generated_with_a_word_of_caution(tmp_path):
    done = command(
        "generate",
        "--env",
        "hypergrid",
        "--structure",
        "ndim=8,height=100",
        "--num",
        "2",
        "--out",
        "out",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert (
        "ndim=8,height=100,backward=maxent,width=128 resembles few of this generator's 353 training" in line
    )
    assert "; measured at ndim=8,height=100,backward=maxent,width=128: kl_bound " in line
    assert (tmp_path / "out" / "population.safetensors").exists()


def test_generating_imports_neither_diffusers_nor_the_hub_nor_the_compiler_of_torch(tmp_path):
    code = (
        "import sys; from genflow.cli.main import main\n"
        "try: main()\n"
        "finally: print([name for name in ('diffusers', 'huggingface_hub', 'torch._dynamo', 'sympy')"
        " if name in sys.modules])"
    )
    arguments = ["generate", "--env", "hypergrid", "--structure", "ndim=3,height=12", "--num", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--out", "policies"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "2 policies in policies" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
