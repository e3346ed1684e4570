"""The front door in Python: generators by name or folder, and policies in one call."""

from __future__ import annotations

import importlib
import inspect
import types
import warnings
from pathlib import Path

import huggingface_hub
import pytest
import torch
from processes import quickly

import genflow
from genflow import Generator, GenflowError, GenflowWarning, Population, Structure, Zoo, generate
from genflow.pretrained import CARD, TENSORS, locate, shipped

DEFAULT, NARROW, _ = shipped("hypergrid")
INSIDE = "ndim=3,height=9"


@pytest.fixture(scope="module")
def generator():
    return Generator.from_pretrained("hypergrid")


def same(first: Population, second: Population) -> bool:
    return first.structure == second.structure and torch.equal(first.weights, second.weights)


def test_what_ships_is_loaded_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate("hypergrid") == locate("hypergrid/default") == DEFAULT
    assert locate("hypergrid/narrow") == NARROW != DEFAULT
    assert locate(DEFAULT) == locate(str(DEFAULT)) == DEFAULT
    (tmp_path / "hypergrid" / "narrow").mkdir(parents=True)  # a folder that exists wins
    assert locate("hypergrid/narrow") == Path("hypergrid/narrow")
    with pytest.raises(GenflowError, match="hypergrid/narrow holds no generator"):
        Generator.from_pretrained("hypergrid/narrow")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hypergrit", ["hypergrid/default", "hypergrid/narrow", "molecule/molecule", CARD, TENSORS]),
        ("runs/a/generator", ["hypergrid/default", CARD]),
        ("hypergrid/wide", ["hypergrid/default, hypergrid/narrow", "no folder"]),
        ("mine/generatr", ["mine", "is no folder", "correct the path"]),
        ("./mine/generatr", ["holds no generator"]),
    ],
)
def test_a_name_of_nothing_is_refused_with_what_there_is(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)  # nothing may be downloaded
    (tmp_path / "mine").mkdir()
    with pytest.raises(GenflowError) as caught:
        Generator.from_pretrained(name)
    assert all(word in str(caught.value) for word in words), caught.value


def test_one_call_makes_policies_of_a_structure(generator):
    expected = generator.generate(Structure.parse("hypergrid", INSIDE), 2, seed=5)
    assert len(expected) == 2
    for given in (INSIDE, {"ndim": 3, "height": 9}, Structure.parse("hypergrid", INSIDE)):
        assert same(generate("hypergrid", given, num=2, seed=5), expected)
        assert same(generator.generate(given, num=2, seed=5), expected)
    assert same(generate("hypergrid", ndim=3, height=9, num=2, seed=5), expected)
    for chosen in (generator, "hypergrid/default", DEFAULT, str(DEFAULT)):
        assert same(generate("hypergrid", INSIDE, num=2, seed=5, generator=chosen), expected)
    assert generate("hypergrid", "C*", num=1).structure == Structure.parse("hypergrid", "C*")


def test_a_list_makes_a_list(generator):
    given = [INSIDE, {"ndim": 2, "height": 8}, Structure.parse("hypergrid", "ndim=4,height=5")]
    expected = [generator.generate(each, num=3, seed=1) for each in given]
    for found in (generator.generate(given, num=3, seed=1), generate("hypergrid", given, num=3, seed=1)):
        assert all(map(same, found, expected)) and len(found) == 3
    assert generate("hypergrid", []) == []


def test_each_structure_gets_the_first_generator_that_covers_it():
    """The wide one ships first; the narrow layers of the paper are the other's."""
    first, second = generate("hypergrid", ["ndim=3,height=9", "D:paper"], num=1)
    assert first.provenance["training_structures"] != second.provenance["training_structures"]
    assert same(second, Generator.from_pretrained("hypergrid/narrow").generate("D:paper", 1))


def test_a_caution_is_one_warning_of_the_line_that_called(generator):
    calls = [
        lambda: generate("hypergrid", ndim=4, height=27, num=1),
        lambda: generate("hypergrid", ["ndim=4,height=27", INSIDE], num=1),
        lambda: generator.generate("ndim=4,height=27", 1),
        lambda: generator.generate([INSIDE, "ndim=4,height=27"], 1),
    ]
    for call in calls:
        with pytest.warns(GenflowWarning, match="resembles few of this generator's") as caught:
            call()
        assert [Path(each.filename) for each in caught] == [Path(__file__)]


def test_a_caution_can_be_made_an_error_or_be_left_out():
    with warnings.catch_warnings():
        warnings.simplefilter("error", GenflowWarning)
        with pytest.raises(GenflowWarning):
            generate("hypergrid", ndim=4, height=27, num=1)
        warnings.simplefilter("ignore", GenflowWarning)
        warnings.simplefilter("error", UserWarning, append=True)
        generate("hypergrid", ndim=4, height=27, num=1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: generate("hypergrid"), "name one structure"),
        (lambda g: generate("hypergrid", "D", ndim=3), "not both"),
        (lambda g: generate("hypergrid", ndim=3, height=9, num=0), "num"),
        (lambda g: generate("hypergrid", ndim=3, heigth=9), "did you mean 'height'"),
        (lambda g: generate("hypergird", "D"), "did you mean 'hypergrid'"),
        (lambda g: generate("molecule", "small", generator=g), "of environment 'hypergrid', not 'molecule'"),
        (lambda g: generate("hypergrid", "D", generator="nothing"), "hypergrid/default"),
        (lambda g: generate("hypergrid", 3), "not 3"),
        (lambda g: g.generate(INSIDE, num=-1), "num must be at least 1, not -1"),
        (lambda g: g.generate([INSIDE], num=0), "num must be at least 1, not 0"),
        (lambda g: g.generate("E", num=1), "no preset 'E'"),
    ],
)
def test_mistakes_are_one_line(call, words, generator):
    with pytest.raises(GenflowError) as caught:
        call(generator)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_names_of_functions_hide_no_module():
    from genflow import generate as function

    assert callable(function) and not isinstance(function, types.ModuleType)
    module = importlib.import_module("genflow.stages.generate")
    assert isinstance(module, types.ModuleType) and genflow.generate is function
    for name in genflow.__all__:
        assert not isinstance(getattr(genflow, name), types.ModuleType), name


def test_every_public_function_that_takes_a_path_takes_text():
    wrong = []
    for name in genflow.__all__:
        value = getattr(genflow, name)
        methods = inspect.getmembers(value, callable) if inspect.isclass(value) else []
        for label, function in [(name, value), *((f"{name}.{n}", m) for n, m in methods if n[0] != "_")]:
            if isinstance(value, type) and label == name:
                function = value.__init__
            if getattr(function, "__isabstractmethod__", False):  # a plugin writes it, and genflow calls it
                continue
            try:
                parameters = inspect.signature(function).parameters.values()
            except (TypeError, ValueError):
                continue
            for each in parameters:
                text = str(each.annotation)
                if "Path" in text and "StrPath" not in text and "str" not in text:
                    wrong.append(f"{label}({each.name}: {text})")
    assert not wrong


def test_what_is_written_to_a_path_as_text_is_read_from_it(tmp_path, generator):
    population = generator.generate(INSIDE, num=2)
    population.save(f"{tmp_path}/zoo/one")
    assert same(Population.load(f"{tmp_path}/zoo/one"), population)
    assert same(genflow.load_population(f"{tmp_path}/zoo/one"), population)
    assert [p.structure for p in Zoo(str(tmp_path)).populations] == [population.structure]
    generator.save_pretrained(f"{tmp_path}/generator")
    # a run's folder, whose generator is in it
    assert same(Generator.from_pretrained(str(tmp_path)).generate(INSIDE, 2), population)


def test_everything_shows_itself_in_a_line(tmp_path, generator):
    population = generator.generate("ndim=3,height=12", num=8)
    population.save(tmp_path / "p")
    assert repr(population) == (
        "Population(8 generated policies of hypergrid ndim=3,height=12,width=128; "
        f"{population.layout.size:,} parameters each)"
    )
    assert repr(population[0]).startswith("Population(1 generated policy of hypergrid ndim=3")
    assert repr(population.structure) == "Structure(hypergrid ndim=3,height=12,width=128; policy mlp3)"
    count = len(generator.card.training_structures)
    assert repr(generator) == f"Generator(hypergrid, policy mlp3, trained on {count:,} structures)"
    assert repr(Zoo(tmp_path)) == f"Zoo(1 population in {tmp_path})"
    assert repr(Zoo(tmp_path).only([])) == f"Zoo(0 populations in {tmp_path})"


SHORT = {"steps": 3, "batch_size": 8}


def test_finetuning_in_python_is_that_of_the_command(tmp_path):
    start = Population.initialised(Structure.parse("hypergrid", "ndim=2,height=4,width=8"), 2, 0)
    start.save(tmp_path / "start")
    made = genflow.finetune(start, "R0=0.02", seed=3, **SHORT)
    few = [f"-o finetune.{key}={value}" for key, value in {**SHORT, "compare": "false"}.items()]
    options = [word for text in few for word in text.split()]
    asked = ["finetune", tmp_path / "start", "--structure", "R0=0.02", "--seed", "3", *options]
    quickly(*asked, "--out", tmp_path / "made", folder=tmp_path / "said")
    assert same(made, Population.load(tmp_path / "made"))
    assert made.structure is Structure.parse("hypergrid", "ndim=2,height=4,width=8,R0=0.02")
    assert made.source == "finetuned" and not torch.equal(made.weights, start.weights)


def test_finetuning_in_python_keeps_its_folder_and_refuses_in_one_line(tmp_path):
    start = Population.initialised(Structure.parse("hypergrid", "ndim=2,height=4,width=8"), 2, 0)
    made = genflow.finetune(start, out=tmp_path / "run", compare=True, **SHORT)
    again = genflow.finetune(start, out=tmp_path / "run", compare=True, **SHORT)  # nothing is trained
    assert same(made, again) and same(made, Population.load(tmp_path / "run"))
    assert Population.load(tmp_path / "run" / "from_random").source == "from_random"
    for structure, options, said in (
        ({"height": 5}, {}, "they are of height 4, not 5"),
        (None, {"stepps": 3}, "did you mean 'steps'"),
        (None, {"out": tmp_path / "run", "steps": 4}, "holds another run"),
    ):
        with pytest.raises(GenflowError, match=said) as caught:
            genflow.finetune(start, structure, **options)
        assert "\n" not in str(caught.value)
