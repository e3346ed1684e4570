"""The whole chain in Python: training, saving, loading, generating, refusing."""

import hashlib
import json
import shutil
import sys

import pytest
import torch

from genflow import Generator, GenflowError, Population, Structure, Zoo, evaluate, load_config
from genflow.pipeline import check, evaluate_folder, run
from genflow.pretrained import shipped
from genflow.progress import Progress
from genflow.stages.autoencoder import load_autoencoder, train_autoencoder
from genflow.stages.common import digest, resolve_component, zoo_digest
from genflow.stages.diffusion import export_generator, measure_quality, train_generator
from genflow.stages.generate import generate, load_generators
from genflow.stages.zoo import train_zoo
from genflow.storage.files import write_json, write_tensors

STRUCTURES = ["ndim=2,height=4,width=16", "ndim=2,height=6,width=16"]
QUIET = Progress(quiet=True)


def config(**more):
    options = {
        "zoo.num": 6,
        "zoo.steps": 300,
        "autoencoder.steps": 150,
        "autoencoder.options.latent_size": 32,
        "diffusion.steps": 600,
        "device": "cpu",  # where runs are repeated to the last bit
    }
    options |= {"diffusion.options.channels": [32, 32], "diffusion.options.patch": 1}
    return load_config(**{"env": "hypergrid", "structures": STRUCTURES, **options, **more})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root, settings = tmp_path_factory.mktemp("generator"), config()
    zoo = train_zoo(settings, settings.training_structures(), settings.zoo, root / "zoo", QUIET)
    train_autoencoder(settings, zoo, root / "autoencoder", QUIET)
    train_generator(settings, zoo, root / "autoencoder", root / "generator", QUIET)
    return root


def mean_js(population):
    return evaluate(population, ["js"])["metrics"]["js"]["mean"]


def test_known_structures_are_generated_far_better_than_random(trained):
    generator = Generator.from_pretrained(trained)
    for text in STRUCTURES:
        structure = Structure.parse("hypergrid", text)
        generated = generator.generate(structure, 8)
        assert len(generated) == 8 and generated.source == "generated" and generated.seen
        assert mean_js(generated) < 0.5 * mean_js(Population.initialised(structure, 8, 0))


def test_reconstruction_keeps_behaviour(trained):
    for entry in json.loads((trained / "autoencoder" / "autoencoder.json").read_text())["reconstruction"]:
        assert entry["metrics"]["js"]["reconstructed"] < entry["metrics"]["js"]["member"] + 0.01


def test_seen_is_told_by_provenance(trained):
    generator = Generator.from_pretrained(trained)
    unseen = generator.generate(Structure.parse("hypergrid", "ndim=2,height=5,width=16"), 2)
    assert not unseen.seen
    assert [s["height"] for s in unseen.provenance["training_structures"]] == [4, 6]


def test_save_and_load_generate_the_same(trained, tmp_path):
    generator, structure = Generator.from_pretrained(trained), Structure.parse("hypergrid", STRUCTURES[0])
    generator.save_pretrained(tmp_path)
    again = Generator.from_pretrained(tmp_path)
    assert torch.equal(
        generator.generate(structure, 3, seed=1).weights, again.generate(structure, 3, seed=1).weights
    )
    assert not torch.equal(
        generator.generate(structure, 3, seed=1).weights, generator.generate(structure, 3, seed=2).weights
    )


def test_sampler_and_steps_can_be_chosen_when_generating(trained):
    generator, structure = Generator.from_pretrained(trained), Structure.parse("hypergrid", STRUCTURES[0])
    for sampler in ("ddim", "dpm++"):
        assert mean_js(generator.generate(structure, 4, sampler=sampler, steps=25)) < 0.3
    with pytest.raises(GenflowError, match="samplr"):
        generator.generate(structure, 1, samplr="ddim")


def test_refusals(trained):
    generator, structure = Generator.from_pretrained(trained), Structure.parse("hypergrid", STRUCTURES[0])
    with pytest.raises(GenflowError, match="trained on environment 'hypergrid', not on 'line'"):
        generator.check(Structure.of(structure.environment, structure.arch, "line", "mlp3"))
    with pytest.raises(
        GenflowError, match=r"trained on R1=0\.5, not 0\.7, and has not learned the difference"
    ):
        generator.check(Structure.parse("hypergrid", STRUCTURES[0] + ",R1=0.7"))
    with pytest.raises(GenflowError, match="at most"):
        generator.check(Structure.parse("hypergrid", "ndim=2,height=30,width=16"))


def test_a_finished_stage_is_loaded_and_not_trained_again(trained):
    settings, zoo = config(), Zoo(trained)
    before = (trained / "autoencoder" / "autoencoder.safetensors").stat().st_mtime_ns
    encoder = train_autoencoder(settings, zoo, trained / "autoencoder", QUIET)
    assert (trained / "autoencoder" / "autoencoder.safetensors").stat().st_mtime_ns == before
    loaded, _ = load_autoencoder(trained / "autoencoder")
    assert torch.equal(encoder.encode(zoo.populations[0]), loaded.encode(zoo.populations[0]))


def test_the_zoos_starts_are_stored_and_no_others_are_drawn(trained, tmp_path, monkeypatch):
    """A zoo that goes on, and an encoder that is sized for it, take the functions that its members started
    from.
    """
    options = {
        "autoencoder.encoder": "coordinate", "autoencoder.options": {"latent_size": 2, "hidden": 4,
        "init_noise": 0.0},
        "zoo.num": 2, "zoo.steps": 1, "zoo.lr": 1e-9,
    }  # fmt: skip
    settings = config(**options)
    structures = settings.training_structures()
    zoo = train_zoo(settings, structures, settings.zoo, tmp_path / "zoo", QUIET)
    stored = zoo.starts
    # other functions than this torch would draw
    write_tensors(zoo.folder / "starts.safetensors", {name: 2 * tensor for name, tensor in stored.items()})
    shutil.rmtree(zoo.folder / structures[1].name)
    (zoo.folder / "run.json").write_text(
        (zoo.folder / "run.json").read_text().replace('"complete": true', '"complete": false')
    )
    again = train_zoo(settings, structures, settings.zoo, zoo.folder, QUIET)
    first, second = (again.get(structure).state_dict()["net.2.weight"] for structure in structures)
    assert float(second.norm() / first.norm()) > 2
    encoder_cls, encoder_config = resolve_component(settings, "encoder")
    family = encoder_cls.for_zoo(encoder_config, again.populations, again.starts).family.state_dict()
    assert all(family[name].equal(2 * stored[name][tuple(map(slice, family[name].shape))]) for name in family)


def test_other_starts_are_another_zoo_and_one_without_keeps_its_fingerprint(trained, tmp_path):
    shutil.copytree(trained / "zoo", tmp_path / "zoo")
    path = tmp_path / "zoo" / "starts.safetensors"
    path.unlink(missing_ok=True)
    zoo = Zoo(tmp_path / "zoo")
    names = json.dumps([structure.to_json() for structure in zoo.structures], sort_keys=True)
    without = hashlib.sha256((names + digest(*(p.weights for p in zoo.populations))).encode()).hexdigest()[
        :16
    ]
    assert zoo_digest(zoo) == without  # as it was written before starts were stored
    found = [without]
    for starts in (
        {"a": torch.zeros(2)},
        {"b": torch.zeros(2)},
        {"a": torch.ones(2)},
        {"a": torch.zeros(2, 1)},
    ):
        write_tensors(path, starts)
        found.append(zoo_digest(zoo))
    assert len(set(found)) == 5


def test_an_autoencoder_of_the_first_edition_is_refused_in_a_line_that_says_what_to_do(trained, tmp_path):
    """Its manifest has no format, and its card describes units by one table."""
    zoo, folder = Zoo(trained / "zoo"), tmp_path / "old"
    write_tensors(folder / "autoencoder.safetensors", {"mean": torch.zeros(3)})
    card = {"name": "conv1d", "options": {"latent_size": 3}, "spec": {"tables": {"input": [[1.0]]}}}
    facts = {"encoder": card, "seconds": 1.0, "history": {}, "reconstruction": []}
    write_json(folder / "autoencoder.json", facts)
    manifest = {
        "stage": "autoencoder",
        "env": "hypergrid",
        "policy": "mlp3",
        "seed": 0,
        "zoo": zoo_digest(zoo),
    }
    write_json(folder / "run.json", {**manifest, "digest": "0" * 16, "versions": {}, "complete": True})
    line = r"^\S+ holds an autoencoder of the first edition, .* train another with `genflow train-ae`[^\n]*$"
    with pytest.raises(GenflowError, match=line):
        train_generator(config(), zoo, folder, tmp_path / "out", QUIET)
    with pytest.raises(GenflowError, match=r"holds a run of the first edition of genflow"):
        train_autoencoder(config(), zoo, folder, QUIET)
    assert not (tmp_path / "out").exists()


def test_where_the_members_start_belongs_to_a_zoo(trained):
    for options in ({"init": "independent"}, {"init_noise": 0.2}):
        settings = config(**{"autoencoder.options": {"latent_size": 32, **options}})
        with pytest.raises(GenflowError, match="another"):
            train_zoo(settings, settings.training_structures(), settings.zoo, trained / "zoo", QUIET)
    # what does not concern the starts does not
    settings = config(**{"autoencoder.options": {"latent_size": 8}})
    train_zoo(settings, settings.training_structures(), settings.zoo, trained / "zoo", QUIET)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_seed_gives_the_same_policies_on_every_device(trained, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    structure = Structure.parse("hypergrid", STRUCTURES[0])
    one, other = (
        Generator.from_pretrained(trained, each).generate(structure, 4, seed=5) for each in ("cpu", device)
    )
    assert other.weights.device.type == "cpu" and other.weights.dtype == torch.float32
    # roundings of all steps of sampling; weights are some 0.1
    torch.testing.assert_close(one.weights, other.weights, rtol=1e-3, atol=5e-4)


def test_weights_that_are_not_finite_are_refused(trained, monkeypatch):
    generator, structure = Generator.from_pretrained(trained), Structure.parse("hypergrid", STRUCTURES[0])
    decode = generator.encoder.decode
    for wrong in (torch.nan, torch.inf, -torch.inf):

        def decoded(latents, layout, condition, wrong=wrong):
            weights = decode(latents, layout, condition)
            weights[1, 5] = wrong
            return weights

        monkeypatch.setattr(generator.encoder, "decode", decoded)
        with pytest.raises(GenflowError, match="not finite"):
            generator.generate(structure, 2)


def test_an_autoencoder_of_another_zoo_is_refused(trained, tmp_path):
    settings = config(**{"zoo.steps": 5})
    other = train_zoo(settings, settings.training_structures(), settings.zoo, tmp_path / "zoo", QUIET)
    with pytest.raises(GenflowError, match="another zoo"):
        train_generator(settings, other, trained / "autoencoder", tmp_path / "generator", QUIET)


@pytest.mark.parametrize("behaviour", [0.0, 1.0])
def test_the_same_seed_trains_the_same_autoencoder(trained, tmp_path, behaviour):
    zoo, settings = Zoo(trained), config(**{"autoencoder.steps": 5, "autoencoder.kl_scale": behaviour})
    one, two = (
        train_autoencoder(settings, zoo, tmp_path / name, QUIET).state_dict() for name in ("one", "two")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_behaviour_loss_lowers_the_divergence_of_policies(trained, tmp_path):
    """At a budget at which the weights are still badly reconstructed, comparing behaviour pays."""
    zoo = Zoo(trained)
    figures = {}
    for behaviour in (0.0, 3.0):
        settings = config(**{"autoencoder.steps": 25, "autoencoder.kl_scale": behaviour})
        train_autoencoder(settings, zoo, tmp_path / str(behaviour), QUIET)
        facts = json.loads((tmp_path / str(behaviour) / "autoencoder.json").read_text())
        figures[behaviour] = sum(entry["metrics"]["js"]["reconstructed"] for entry in facts["reconstruction"])
    assert figures[3.0] < figures[0.0]


def test_an_impossible_run_is_refused_before_anything_is_written(tmp_path):
    for more, why in [
        ({"test_structures": ["ndim=2,height=30,width=16"]}, "at most"),
        ({"evaluation.metrics": ["jss"]}, "unknown metric 'jss'"),
        ({"diffusion.options": {"chanels": [8]}}, "did you mean 'channels'"),
        ({"structures": ["ndim=9,height=20,width=8"], "evaluation.metrics": ["js"]}, "states"),
    ]:
        with pytest.raises(GenflowError, match=why):
            run(config(**more), tmp_path / "out", QUIET)
        assert not (tmp_path / "out").exists()
    check(config())


def damaged(trained, tmp_path, change):
    """A copy of the generator whose card was changed."""
    shutil.copytree(trained / "generator", tmp_path / "damaged")
    path = tmp_path / "damaged" / "generator.json"
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))
    return tmp_path / "damaged"


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["encoder"].update(spec={}),
        lambda card: card["encoder"]["spec"].update(length="x"),
        lambda card: card["encoder"]["spec"].update(length=10**13),
        lambda card: card["encoder"]["spec"].update(names=3),
        lambda card: card["encoder"]["options"].update(levels=8, stride=8, kernel=9),
        lambda card: card["encoder"]["options"].update(latent_size=31),
        lambda card: card["denoiser_options"].update(channels=[0]),
        lambda card: card.update(latent_size=31),
        lambda card: card.update(latent_size=10**12),
        lambda card: card["noise"].update(timesteps=10**12),
        lambda card: card.update(format="genflow-generator-0"),
        lambda card: card.pop("encoder"),
        lambda card: card.update(denoiser="unet2d"),
    ],
)
def test_a_damaged_model_card_is_refused_in_one_line(trained, tmp_path, change):
    with pytest.raises(GenflowError) as caught:
        Generator.from_pretrained(damaged(trained, tmp_path, change))
    assert "\n" not in str(caught.value)


def test_reward_parameters_that_varied_in_training_can_be_asked_for_in_any_combination(trained, tmp_path):
    def change(card):
        card["training_structures"][0]["R0"] = 0.2
        card["training_structures"][1]["R1"] = 0.6

    generator = Generator.from_pretrained(damaged(trained, tmp_path, change))
    for part in ("R0=0.2,R1=0.6", "R0=0.15,R1=0.55"):
        generator.check(Structure.parse("hypergrid", f"{STRUCTURES[0]},{part}"))
    with pytest.raises(GenflowError, match=r"trained on R2=2\.0, not 3\.0, and"):
        generator.check(Structure.parse("hypergrid", STRUCTURES[0] + ",R0=0.2,R1=0.6,R2=3"))


def test_a_card_from_before_there_was_coverage_still_loads(trained, tmp_path):
    def change(card):
        for key in ("selection_structures", "coverage", "quality"):
            del card[key]

    old, structure = (
        Generator.from_pretrained(damaged(trained, tmp_path, change)),
        Structure.parse("hypergrid", STRUCTURES[0]),
    )
    assert (old.card.selection_structures, old.card.coverage, old.card.quality) == ([], {}, [])
    assert old.generate(structure, 2).weights.equal(
        Generator.from_pretrained(trained).generate(structure, 2).weights
    )
    said = old.caution(Structure.parse("hypergrid", "ndim=2,height=3,width=16"))
    assert "height 3, trained on 4 to 6; nothing comparable was measured; its encoder conv1d " in said
    with pytest.raises(GenflowError, match=r"R1=0\.5, not 0\.7"):
        old.check(Structure.parse("hypergrid", STRUCTURES[0] + ",R1=0.7"))


def test_half_precision_halves_the_file_and_hardly_changes_the_policies(trained, tmp_path):
    full = Generator.from_pretrained(trained)
    full.save_pretrained(tmp_path / "full")
    full.save_pretrained(tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "generator.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.52 * sizes[0]
    half = Generator.from_pretrained(tmp_path / "half")
    # computation stays in single precision
    stored = [
        *half.encoder.state_dict().values(),
        *half.denoiser.state_dict().values(),
        half.latent_mean,
        half.latent_std,
    ]
    assert {tensor.dtype for tensor in stored if tensor.is_floating_point()} == {torch.float32}
    for text in STRUCTURES:
        structure = Structure.parse("hypergrid", text)
        a, b = (g.generate(structure, 6, seed=1, sampler="ddim", steps=20) for g in (full, half))
        assert b.weights.dtype == torch.float32
        assert 0 < (a.weights - b.weights).norm() < 0.03 * a.weights.norm()
        assert mean_js(b) == pytest.approx(mean_js(a), rel=0.1)
    # what is rounded stays as it is
    half.save_pretrained(tmp_path / "again", half=True)
    assert (tmp_path / "again" / "generator.safetensors").read_bytes() == (
        tmp_path / "half" / "generator.safetensors"
    ).read_bytes()


def test_a_generator_for_a_range_of_structures_refuses_others(trained, tmp_path):
    folder = damaged(trained, tmp_path, lambda card: card.update(coverage={"height": [3, 5]}))
    generator = Generator.from_pretrained(folder)
    for text, height in (("ndim=2,height=6,width=16", 6), ("ndim=2,height=2,width=16", 2)):
        for refuse in (generator.check, lambda structure: generator.generate(structure, 1)):
            with pytest.raises(
                GenflowError, match=f"height={height} is outside what this generator covers: height 3 to 5"
            ):
                refuse(Structure.parse("hypergrid", text))
    assert len(generator.generate(Structure.parse("hypergrid", "ndim=2,height=3,width=16"), 1)) == 1


@pytest.fixture
def shelf(trained, tmp_path, monkeypatch):
    """A package that ships two generators, the first for heights 2 to 4 and the second for 3 to 6.

    An empty working folder.
    """
    package = tmp_path / "site" / "genflow_shelf"
    for name, heights in (("small", [2, 4]), ("large", [3, 6])):
        shutil.copytree(trained / "generator", package / name)
        card = json.loads((package / name / "generator.json").read_text())
        (package / name / "generator.json").write_text(json.dumps({**card, "coverage": {"height": heights}}))
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    environment = type(Structure.parse("hypergrid", "A").environment)
    yield lambda *names: monkeypatch.setattr(
        environment, "pretrained", tuple(f"genflow_shelf:{name}" for name in names)
    )
    sys.modules.pop("genflow_shelf", None)


def loaded(folder, *heights):
    """The coverage of the generator that serves each height."""
    structures = [Structure.parse("hypergrid", f"ndim=2,height={height},width=8") for height in heights]
    return [g.card.coverage.get("height") for g in load_generators(config(), folder, structures)]


def test_the_first_shipped_generator_that_covers_a_structure_serves_it(shelf):
    shelf("small", "large")
    assert loaded(None, 4, 6, 2) == [(2, 4), (3, 6), (2, 4)]
    shelf("large", "small")
    assert loaded(None, 4, 6, 2) == [(3, 6), (3, 6), (2, 4)]
    # one that serves two structures is loaded once
    structures = [Structure.parse("hypergrid", text) for text in STRUCTURES]
    one, other = load_generators(config(), None, structures)
    assert one is other


def test_a_generator_that_is_not_needed_is_not_read(shelf, tmp_path):
    shelf("small", "large")
    assert loaded(None, 4) == [(2, 4)]
    (large,) = [folder for folder in shipped("hypergrid") if folder.name == "large"]
    (large / "generator.safetensors").write_bytes(b"cut short")
    assert loaded(None, 4) == [(2, 4)]
    with pytest.raises(GenflowError, match="not a usable safetensors file"):
        loaded(None, 4, 6)
    shelf("large", "small")  # the card alone refuses
    assert loaded(None, 2) == [(2, 4)]


def test_if_no_shipped_generator_covers_a_structure_the_first_says_why(shelf):
    shelf("small", "large")
    with pytest.raises(GenflowError, match="height=7 is outside what this generator covers: height 2 to 4"):
        loaded(None, 4, 7)
    shelf("large", "small")
    with pytest.raises(GenflowError, match="height=7 is outside what this generator covers: height 3 to 6"):
        loaded(None, 7)


def test_a_folder_that_is_named_serves_everything(shelf, trained):
    shelf("small")
    assert loaded(trained, 6, 4) == [None, None]
    with pytest.raises(GenflowError, match="holds no generator"):
        loaded(trained / "zoo", 4)


def test_where_none_ships_the_default_run_serves(shelf, trained):
    shelf()
    with pytest.raises(
        GenflowError,
        match=r"no generator ships for 'hypergrid' and runs.hypergrid.generator holds none; .*train-ldm",
    ) as caught:
        loaded(None, 4)
    assert "\n" not in str(caught.value)
    shutil.copytree(trained / "generator", "runs/hypergrid/generator")
    assert loaded(None, 4, 6) == [None, None]


def test_a_shipped_generator_that_is_missing_is_named(shelf):
    shelf("absent")
    with pytest.raises(GenflowError, match=r"genflow_shelf.absent holds no generator"):
        loaded(None, 4)


def test_each_structure_is_generated_by_its_own_generator_with_a_warning_at_the_edge(shelf, tmp_path, capsys):
    shelf("small", "large")
    settings = config(**{"generate.num": 2, "generate.steps": 5})
    structures = [Structure.parse("hypergrid", f"ndim=2,height={height},width=16") for height in (3, 6)]
    generators = load_generators(settings, None, structures)
    populations = generate(settings, generators, structures, tmp_path / "out", Progress())
    for generator, structure, population in zip(generators, structures, populations, strict=True):
        assert population.weights.equal(generator.generate(structure, 2, settings.seed, steps=5).weights)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    # (2, 6) was trained on
    assert warnings == [f"warning: {generators[0].caution(structures[0])}"]
    assert "height=3,width=16 is outside what this generator was trained on: height 3" in warnings[0]
    assert "its encoder conv1d has not been seen to carry over" in warnings[0]
    with pytest.raises(GenflowError, match="height=6 is outside"):
        generate(settings, generators[::-1], structures, tmp_path / "refused", QUIET)
    assert not (tmp_path / "refused").exists()


SELECTED, COUNTLESS = "ndim=2,height=5,width=16", "ndim=22,height=2,width=2"


def test_quality_on_the_selection_structures_is_written_into_the_card(trained, tmp_path):
    # the second has four million states
    chosen = {"selection_structures": [SELECTED, COUNTLESS], "coverage": {"height": [2, 6]}}
    tiny = config(**{"diffusion.steps": 5, "evaluation.num": 3, **chosen})
    made = train_generator(tiny, Zoo(trained), trained / "autoencoder", tmp_path / "generator", QUIET)
    generator = Generator.from_pretrained(tmp_path / "generator")
    structure = Structure.parse("hypergrid", SELECTED)
    assert [fields["height"] for fields in generator.card.selection_structures] == [5, 2]
    assert generator.card.coverage == {"height": (2, 6)}
    entry, large = generator.card.quality
    assert made.card.quality == [entry, large]
    # the log-Z gap has a closed form where nothing can be enumerated
    assert (large.name, list(large.metrics), list(large.untrained)) == (
        COUNTLESS,
        ["kl_bound", "log_z_gap"],
        ["kl_bound", "log_z_gap"],
    )
    assert (entry.structure, entry.name, entry.role, entry.num) == (
        structure.fields(),
        structure.name,
        "selection",
        3,
    )
    for population, figures in (
        (generator.generate(structure, 3, tiny.seed), entry.metrics),
        (Population.initialised(structure, 3, tiny.seed), entry.untrained),
    ):
        found = evaluate(population, ["js", "kl_bound", "log_z_gap"])["metrics"]
        assert figures == {name: pytest.approx(found[name]["mean"], rel=1e-6) for name in found}
    # which a word of caution tells
    js, gap, other = entry.metrics["js"], entry.metrics["log_z_gap"], large.metrics["log_z_gap"]
    said = generator.caution(Structure.parse("hypergrid", "ndim=2,height=3,width=16"))
    bounds = sorted(each.metrics["kl_bound"] for each in (entry, large))
    figures = f"js {js:.2g}, kl_bound {bounds[0]:.2g} to {bounds[1]:.2g}, log_z_gap {gap:.2g} to {other:.2g}"
    assert (
        gap < other and f"; measured at 2 structures: {figures}, which is poor; its encoder conv1d " in said
    )
    # a finished training is not repeated, and another selection is another run
    assert (
        train_generator(tiny, Zoo(trained), trained / "autoencoder", tmp_path / "generator", QUIET).card
        == generator.card
    )
    for change in ({"selection_structures": [SELECTED]}, {"coverage": {"height": [2, 7]}}):
        with pytest.raises(GenflowError, match="another run"):
            other = config(**{"diffusion.steps": 5, "evaluation.num": 3, **chosen, **change})
            train_generator(other, Zoo(trained), trained / "autoencoder", tmp_path / "generator", QUIET)


def test_quality_is_measured_for_the_role_that_is_named(trained):
    generator = Generator.from_pretrained(trained)
    structures = [Structure.parse("hypergrid", text) for text in STRUCTURES]
    entries = measure_quality(generator, structures, "test", 4, 7, QUIET)
    assert [(entry.role, entry.structure["height"], entry.num) for entry in entries] == [
        ("test", 4, 4),
        ("test", 6, 4),
    ]
    for entry, structure in zip(entries, structures, strict=True):
        assert entry.metrics["js"] == pytest.approx(mean_js(generator.generate(structure, 4, 7)), rel=1e-6)
    assert measure_quality(generator, [], "test", 4, 7, QUIET) == []


def test_a_generator_ships_half_as_large_and_measured_as_it_ships(trained, tmp_path):
    settings = config(**{"test_structures": ["ndim=2,height=3,width=16"], "evaluation.num": 3})
    export_generator(settings, trained, tmp_path / "out", QUIET)
    generator = Generator.from_pretrained(tmp_path / "out")
    before, after = (
        (folder / "generator.safetensors").stat().st_size
        for folder in (trained / "generator", tmp_path / "out")
    )
    assert after < 0.52 * before
    assert "history" not in generator.card.provenance and generator.card.provenance["zoo"]
    assert [(entry.role, entry.structure["height"]) for entry in generator.card.quality] == [("test", 3)]
    for entry in generator.card.quality:
        population = generator.generate(Structure.parse("hypergrid", entry.name), 3, settings.seed)
        assert entry.metrics["js"] == pytest.approx(mean_js(population), rel=1e-6)
    # what it was trained on is no test, whatever the configuration calls training
    cheat = config(structures=[SELECTED], test_structures=[STRUCTURES[0]])
    with pytest.raises(GenflowError, match=f"test structure {STRUCTURES[0]} is also trained on"):
        export_generator(cheat, trained, tmp_path / "cheat", QUIET)
    assert not (tmp_path / "cheat").exists()
    with pytest.raises(GenflowError, match="perhaps the generator itself"):
        export_generator(settings, trained, trained / "generator", QUIET)


def test_weights_that_are_not_finite_are_not_handed_out(trained):
    generator = Generator.from_pretrained(trained)
    generator.latent_std = generator.latent_std * float("inf")
    with pytest.raises(GenflowError, match="not finite"):
        generator.generate(Structure.parse("hypergrid", STRUCTURES[0]), 2)


def test_a_failed_stage_leaves_no_folder_that_refuses_the_next_try(trained, tmp_path):
    zoo = Zoo(trained)
    with pytest.raises(GenflowError):
        train_autoencoder(config(**{"autoencoder.options.kernel": 8}), zoo, tmp_path / "autoencoder", QUIET)
    train_autoencoder(config(**{"autoencoder.steps": 2}), zoo, tmp_path / "autoencoder", QUIET)


def test_an_evaluation_does_not_overwrite_another_run(trained, tmp_path):
    settings, zoo = config(), Zoo(trained)
    evaluate_folder(settings, zoo.populations, None, tmp_path / "e", QUIET)
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["entries"]
    with pytest.raises(GenflowError, match="another run"):
        evaluate_folder(settings, zoo.populations[:1], None, tmp_path / "e", QUIET)
    with pytest.raises(GenflowError, match="another run"):
        evaluate_folder(settings, zoo.populations, None, trained / "zoo", QUIET)


def test_a_structure_that_is_only_generated_need_not_fit_the_objective_of_the_zoo():
    large = {
        "structures": ["ndim=2,height=6,width=64"],
        "test_structures": ["ndim=9,height=20,width=4"],
        "zoo.objective": "distill",
    }
    check(config(**large, train_tests=False))
    with pytest.raises(
        GenflowError, match="the optimal policy of ndim=9, height=20 needs 6,906,900 sorted states"
    ):
        check(config(**large))


def test_generated_weights_are_those_of_the_plain_loop(trained):
    """The networks as they are trained, and diffusers' sampler, one step after the other."""
    import diffusers

    generator, structure = Generator.from_pretrained(trained), Structure.parse("hypergrid", STRUCTURES[0])
    card, condition = generator.card, structure.condition()
    process = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=card.noise.timesteps,
        beta_schedule=card.noise.betas,
        prediction_type=card.noise.prediction,
        algorithm_type="dpmsolver++",
        lambda_min_clipped=-5.1,
    )
    process.set_timesteps(12)
    z = torch.randn(3, card.latent_size, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        for t in process.timesteps:
            z = process.step(generator.denoiser(z, t.expand(3), condition.expand(3, -1)), t, z).prev_sample
        weights = generator.encoder.decode(
            z * generator.latent_std + generator.latent_mean, structure.layout, condition
        )
    generated = generator.generate(structure, 3, seed=5, sampler="dpm++", steps=12).weights
    torch.testing.assert_close(generated, weights, rtol=1e-3, atol=1e-4)


def test_generated_weights_can_be_trained_further(trained):
    generated = Generator.from_pretrained(trained).generate(Structure.parse("hypergrid", STRUCTURES[0]), 2)
    weights = generated.weights.requires_grad_()
    generated.logits(torch.eye(8)).square().sum().backward()
    assert weights.grad.abs().sum() > 0


def test_a_refusal_follows_what_the_card_says_now(trained):
    generator, structure = (
        Generator.from_pretrained(trained),
        Structure.parse("hypergrid", STRUCTURES[0] + ",R1=0.7"),
    )
    with pytest.raises(GenflowError, match="has not learned"):
        generator.check(structure)
    generator.card.training_structures.append(structure.fields())
    generator.check(structure)
