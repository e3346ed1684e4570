"""A generator of the first edition, converted: it makes the same policies, and holds all that it needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from genflow_encoders.convert import convert_folder, convert_generator
from genflow_encoders.smooth_family import SmoothFamily

from genflow import Generator, GenflowError, Population, Structure, Zoo
from genflow.cli.main import main
from genflow.storage.populations import FACTS

OLD = Path(__file__).parents[1] / "data" / "first_edition"
#: what the first edition generated, seed 3
WEIGHTS = json.loads((OLD / "weights.json").read_text())


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    convert_generator(OLD, folder)
    return folder


def check(generator: Generator) -> None:
    for text, expected in WEIGHTS.items():
        made = generator.generate(Structure.parse("hypergrid", text), 2, seed=3)
        torch.testing.assert_close(
            made.weights, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("describe", [True, False])
def test_a_converted_generator_makes_the_policies_that_it_made(tmp_path, describe):
    check(convert_generator(OLD, tmp_path, describe))


def test_it_does_whatever_torchs_default_type_is(new):
    torch.set_default_dtype(torch.float64)
    try:
        check(Generator.from_pretrained(new))
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_family_is_read_and_never_drawn_anew(new, monkeypatch):
    monkeypatch.setattr(SmoothFamily, "draw", lambda self: pytest.fail("drawn"))
    check(Generator.from_pretrained(new))
    # and rounding for the shelf only rounds it
    generator = Generator.from_pretrained(new)
    rounded = generator.rounded().encoder.state_dict()
    stored = {name: t for name, t in generator.encoder.state_dict().items() if name.startswith("family.")}
    assert stored and all(rounded[name].equal(tensor.half().float()) for name, tensor in stored.items())


def test_it_knows_the_categories_and_what_never_varied_in_training(new):
    encoder = Generator.from_pretrained(new).encoder
    assert encoder.units["input"].values == {"dimension": [0, 1, 2]}
    assert encoder.units["action"].values == {"dimension": [-1, 0, 1, 2]}
    standardise = encoder.units["input"].standardise
    assert 0 < int((standardise.scale == 0).sum()) < len(standardise.scale)
    with pytest.raises(GenflowError, match="covers dimension 0 to 2 of input units, not 3"):
        encoder.check(Structure.parse("hypergrid", "ndim=4,height=3,width=4").layout)


def test_the_first_edition_is_refused_with_the_command_that_converts_it():
    with pytest.raises(
        GenflowError, match=r"first edition; convert it with `genflow convert .* --out"
    ) as caught:
        Generator.from_pretrained(OLD)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_converted_is_refused_in_one_line(new, tmp_path):
    shutil.copytree(OLD, tmp_path / "damaged")
    card = json.loads((OLD / "generator.json").read_text())
    del card["encoder"]["spec"]["described"]
    (tmp_path / "damaged" / "generator.json").write_text(json.dumps(card))
    for folder, out, why in [
        (new, tmp_path / "again", "is not of the first edition"),
        (OLD, new, "holds a generator already"),
        (tmp_path / "damaged", tmp_path / "out", "damaged and cannot be converted"),
    ]:
        with pytest.raises(GenflowError, match=why) as caught:
            convert_generator(folder, out)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def old_run(tmp_path):
    """Populations as the first edition saved them: a vocabulary by its path, the fields of all rewards."""
    entries = [
        {"smiles": "c1ccncc1", "stems": [0, 1], "attachments": [0]},
        {"smiles": "CN", "stems": [0, 1], "attachments": [1]},
    ]
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"format": "genflow-vocabulary-1", "source": "a test", "blocks": entries}))
    own = {"vocabulary": str(mine), "blocks": 2, "width": 8}
    populations = {}
    for size in (2, 3):
        structure = Structure.build("molecule", {**own, "max_blocks": size})
        folder = tmp_path / "old" / "zoo" / str(size)
        fields = {**structure.fields(), **own, "logp_centre": 2.5, "logp_width": 1.0}
        made = Population.initialised(structure, 2, size)
        populations[size] = Population(
            structure, made.weights, {"source": "trained", "training_structures": [fields]}
        )
        populations[size].save(folder)
        facts = json.loads((folder / FACTS).read_text())
        (folder / FACTS).write_text(json.dumps({**facts, "structure": fields}))
    return tmp_path / "old", mine, populations


@pytest.mark.parametrize("inner", ["", "zoo", "zoo/2"], ids=["run", "zoo", "population"])
def test_populations_that_name_a_vocabulary_are_converted_and_hold_it_then(old_run, tmp_path, inner):
    folder, mine, populations = old_run
    with pytest.raises(GenflowError, match=r"mine.json, which is not read.*`genflow convert OLD --out NEW`"):
        Population.load(folder / "zoo" / "2")
    out = tmp_path / "new"
    main(["convert", str(folder / inner), "--out", str(out)])
    mine.unlink()  # nothing names it any more
    found = Zoo(out).populations
    assert [p.structure for p in found] == [
        populations[n].structure for n in ((2,) if "2" in inner else (2, 3))
    ]
    for population in found:
        assert population.weights.equal(
            populations[population.structure.environment.config.max_blocks].weights
        )
        assert population.seen
    with pytest.raises(GenflowError, match="holds populations already"):
        convert_folder(folder, out)


def test_what_holds_nothing_or_names_a_file_that_is_gone_is_refused_and_writes_nothing(old_run, tmp_path):
    folder, mine, _ = old_run
    mine.unlink()
    (tmp_path / "empty").mkdir()
    for old, why in ((folder, "mine.json"), (tmp_path / "empty", "neither a generator nor populations")):
        with pytest.raises(GenflowError, match=why):
            convert_folder(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()
