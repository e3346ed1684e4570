"""The whole chain in Python: training, saving, loading, generating, refusing."""

import dataclasses
import json
import shutil

import pytest
import torch

from genflow import Generator, GenflowError, Population, Structure, Zoo, evaluate, load_config
from genflow.pipeline import check, evaluate_folder, run
from genflow.progress import Progress
from genflow.stages import load_autoencoder, train_autoencoder, train_generator, train_zoo

STRUCTURES = ["ndim=2,height=4,width=16", "ndim=2,height=6,width=16"]
QUIET = Progress(quiet=True)


def config(**more):
    options = {"zoo.num": 6, "zoo.steps": 300, "autoencoder.steps": 150, "autoencoder.options.latent_size": 32, "diffusion.steps": 600}
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
    assert torch.equal(generator.generate(structure, 3, seed=1).weights, again.generate(structure, 3, seed=1).weights)
    assert not torch.equal(generator.generate(structure, 3, seed=1).weights, generator.generate(structure, 3, seed=2).weights)


def test_sampler_and_steps_can_be_chosen_when_generating(trained):
    generator, structure = Generator.from_pretrained(trained), Structure.parse("hypergrid", STRUCTURES[0])
    for sampler in ("ddim", "dpm++"):
        assert mean_js(generator.generate(structure, 4, sampler=sampler, steps=25)) < 0.3
    with pytest.raises(GenflowError, match="samplr"):
        generator.generate(structure, 1, samplr="ddim")


def test_refusals(trained):
    generator, structure = Generator.from_pretrained(trained), Structure.parse("hypergrid", STRUCTURES[0])
    with pytest.raises(GenflowError, match="trained on environment 'hypergrid', not on 'line'"):
        generator.check(dataclasses.replace(structure, env="line"))
    with pytest.raises(GenflowError, match=r"R1 = 0\.5, not 0\.7"):
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


def test_an_autoencoder_of_another_zoo_is_refused(trained, tmp_path):
    settings = config(**{"zoo.steps": 5})
    other = train_zoo(settings, settings.training_structures(), settings.zoo, tmp_path / "zoo", QUIET)
    with pytest.raises(GenflowError, match="another zoo"):
        train_generator(settings, other, trained / "autoencoder", tmp_path / "generator", QUIET)


@pytest.mark.parametrize("behaviour", [0.0, 1.0])
def test_the_same_seed_trains_the_same_autoencoder(trained, tmp_path, behaviour):
    zoo, settings = Zoo(trained), config(**{"autoencoder.steps": 5, "autoencoder.behaviour": behaviour})
    one, two = (train_autoencoder(settings, zoo, tmp_path / name, QUIET).state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_behaviour_loss_lowers_the_divergence_of_policies(trained, tmp_path):
    """At a budget at which the weights are still badly reconstructed, comparing behaviour pays."""
    zoo = Zoo(trained)
    figures = {}
    for behaviour in (0.0, 3.0):
        settings = config(**{"autoencoder.steps": 25, "autoencoder.behaviour": behaviour})
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


def test_a_card_of_mixed_rewards_refuses_a_combination_that_was_not_trained(trained, tmp_path):
    def change(card):
        card["training_structures"][0]["R0"] = 0.2
        card["training_structures"][1]["R1"] = 0.6

    generator = Generator.from_pretrained(damaged(trained, tmp_path, change))
    with pytest.raises(GenflowError, match=r"R1 = 0\.5, not 0\.6"):
        generator.check(Structure.parse("hypergrid", STRUCTURES[0] + ",R0=0.2,R1=0.6"))


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


def test_a_run_is_repeated_from_its_own_record(tmp_path):
    small = config(**{"zoo.num": 2, "zoo.steps": 5, "autoencoder.steps": 2, "diffusion.steps": 2, "evaluation.metrics": ["js"]})
    first = run(small, tmp_path / "one", QUIET)
    again = run(load_config(tmp_path / "one" / "run.json"), tmp_path / "two", QUIET)
    assert [e["metrics"] for e in first] == [e["metrics"] for e in again]
    with pytest.raises(GenflowError, match="no configuration to repeat"):
        load_config(tmp_path / "one" / "zoo" / "run.json")


def test_a_structure_that_is_only_generated_need_not_fit_the_objective_of_the_zoo():
    large = {"structures": ["ndim=2,height=6,width=64"], "test_structures": ["ndim=9,height=20,width=4"], "zoo.objective": "distill"}
    check(config(**large, train_tests=False))
    with pytest.raises(GenflowError, match="objective 'distill' needs every state"):
        check(config(**large))
