"""Configuration: layers, suggestions, refusals."""

from typing import ClassVar

import pytest

from genflow import GenflowError, load_config
from genflow.config import parse_override
from genflow.schema import Schema, validate
from genflow.stages.common import resolve_component


def write(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_command_line_wins_over_file_wins_over_defaults(tmp_path):
    file = write(tmp_path, 'env = "hypergrid"\nseed = 3\n[zoo]\nnum = 5\nsteps = 7\n')
    config = load_config(file, **{"zoo.num": 9, "seed": None})
    assert (config.zoo.num, config.zoo.steps, config.seed) == (9, 7, 3)
    assert config.zoo.batch_size == load_config(env="hypergrid").zoo.batch_size
    assert config.policy == "mlp3"


def test_overrides_reach_nested_options_without_losing_their_neighbours(tmp_path):
    file = write(tmp_path, 'env = "hypergrid"\n[autoencoder.options]\nlatent_size = 32\n')
    config = load_config(file, **{"autoencoder.options.kernel": 7})
    assert config.autoencoder.options == {"latent_size": 32, "kernel": 7}
    assert config.autoencoder.encoder == "conv1d"


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ('env = "hypergrid"\n[zoo]\nstps = 3\n', ["zoo.stps", "did you mean 'steps'"]),
        ('env = "hypergrid"\n[zooo]\nnum = 3\n', ["zooo", "did you mean 'zoo'"]),
        ('env = "hypergrid"\n[zoo]\nnum = 0\n', ["zoo.num", "greater than or equal to 1"]),
        ('env = "hypergrid"\n[zoo]\nobjective = "tbb"\n', ["zoo.objective", "'tb'"]),
        ("seed = 1\n", ["--env"]),
        ("env = [", ["not valid TOML"]),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, fragments):
    file = write(tmp_path, text)
    with pytest.raises(GenflowError) as caught:
        load_config(file)
    message = str(caught.value)
    assert "\n" not in message
    assert all(fragment in message for fragment in fragments), message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(GenflowError, match=r"absent\.toml"):
        load_config(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("zoo.num=3", ("zoo.num", 3)),
        ("zoo.lr=1e-3", ("zoo.lr", 1e-3)),
        ("zoo.objective=db", ("zoo.objective", "db")),
        ("evaluation.metrics=['js','tv']", ("evaluation.metrics", ["js", "tv"])),
        ("train_tests=false", ("train_tests", False)),
    ],
)
def test_override_values_are_toml_or_text(text, expected):
    assert parse_override(text) == expected


def test_an_override_without_equals_is_refused():
    with pytest.raises(GenflowError, match=r"section\.key=value"):
        parse_override("zoo.num")


def test_training_and_test_structures():
    config = load_config(env="hypergrid")
    assert [s.fields()["height"] for s in config.training_structures()] == [16, 6, 5, 9]  # the paper's A to D
    both = load_config(env="hypergrid", structures=["A"], test_structures=["ndim=4,height=16"])
    with pytest.raises(GenflowError, match="also trained on"):
        both.unseen_structures(both.training_structures())
    with pytest.raises(GenflowError, match="named twice"):
        load_config(env="hypergrid", structures=["A", "A"]).training_structures()


def test_structures_that_recipes_are_chosen_on_are_neither_trained_nor_tested_on():
    named = {"structures": ["A", "B"], "selection_structures": ["C", "D"], "test_structures": ["E*", "A*"]}
    config = load_config(env="hypergrid", **named)
    known = config.training_structures()
    assert [s.fields()["height"] for s in config.validation_structures(known)] == [5, 9]
    assert [s.fields()["height"] for s in config.unseen_structures(known)] == [2, 3]
    assert load_config(env="hypergrid").validation_structures([]) == []
    # what counts is what was trained on, not what this configuration would train on
    with pytest.raises(
        GenflowError, match="selection structure ndim=5,height=5,width=128 is also trained on"
    ):
        config.validation_structures(load_config(env="hypergrid", structures=["C"]).training_structures())
    # the same structure in other words is still the same
    for change, refusal in [
        (
            {"selection_structures": ["C", "ndim=4,height=16"]},
            "selection structure ndim=4,height=16,width=128 is also trained on",
        ),
        (
            {"test_structures": ["E*", {"ndim": 5, "height": 5}]},
            "test structure ndim=5,height=5,width=128 is also selected on",
        ),
        ({"test_structures": ["B"]}, "test structure ndim=6,height=6,width=128 is also trained on"),
        ({"selection_structures": ["C", "C"]}, "named twice"),
        ({"selection_structures": ["ndim=2,height=1"]}, "height must be greater"),
    ]:
        wrong = load_config(env="hypergrid", **{**named, **change})
        with pytest.raises(GenflowError, match=refusal):
            wrong.validation_structures(known) and wrong.unseen_structures(known)


@pytest.mark.parametrize(
    "coverage",
    [
        "{height = 3}",
        "{height = [9, 2]}",
        "{height = [3]}",
        "{height = [2, 3, 4]}",
        '{height = ["low", 4]}',
        "3",
    ],
)
def test_a_coverage_is_two_numbers_a_field(tmp_path, coverage):
    file = write(tmp_path, f'env = "hypergrid"\ncoverage = {coverage}\n')
    with pytest.raises(GenflowError, match=r"run\.toml: '?coverage\b"):
        load_config(file)


def test_a_coverage_is_read_from_the_file_and_widened_on_the_command_line(tmp_path):
    file = write(tmp_path, 'env = "hypergrid"\n[coverage]\nheight = [4, 9]\nR0 = [1e-3, 0.5]\n')
    assert load_config(file, **{"coverage.height": [2, 9]}).coverage == {
        "height": (2.0, 9.0),
        "R0": (1e-3, 0.5),
    }


def test_a_device_that_is_not_there():
    with pytest.raises(GenflowError, match="nonsense"):
        load_config(env="hypergrid", device="nonsense").torch_device()


def test_a_former_name_is_refused_with_the_new_one():
    class Inner(Schema):
        renamed: ClassVar = {"swap": "inner.options.swap_probability"}

        options: int = 0

    class Outer(Schema):
        inner: Inner = Inner()

    for values, message in (
        (
            {"inner": {"swap": 0.5}},
            "FILE: 'inner.swap' has another name now: 'inner.options.swap_probability'",
        ),
        ({"inner": {"swop": 0.5}}, "FILE: unknown key 'inner.swop'; choose one of: options"),
    ):
        with pytest.raises(GenflowError) as caught:
            validate(Outer, values, "FILE")
        assert str(caught.value) == message


FORMER = {
    "swap": "autoencoder.options.swap_probability",
    "floor": "autoencoder.options.normaliser_floor",
    "behaviour": "autoencoder.kl_scale",
    "style_size": "autoencoder.options.latent_size",
    "style_share": "autoencoder.options.style_variance",
}


@pytest.mark.parametrize("encoder", ["conv1d", "coordinate"])
@pytest.mark.parametrize(("former", "now"), FORMER.items())
def test_a_former_name_among_an_encoders_options_is_refused_with_the_new_one(encoder, former, now):
    options = {"autoencoder.encoder": encoder, f"autoencoder.options.{former}": 1}
    with pytest.raises(GenflowError) as caught:
        resolve_component(load_config(env="hypergrid", **options), "encoder")
    where = f"autoencoder.options of encoder {encoder!r}"
    assert str(caught.value) == f"{where}: {former!r} has another name now: {now!r}"


def test_a_name_that_only_moved_is_no_former_name_where_it_is_now():
    class Options(Schema):
        size: int = 0

    with pytest.raises(GenflowError, match="unknown key 'init'; choose one of: size"):
        validate(Options, {"init": 1}, "FILE", renamed={"init": "autoencoder.options.init"})


@pytest.mark.parametrize("device", ["mps", "mps:0"])
def test_a_device_without_float64_is_refused_in_one_line(device):
    with pytest.raises(GenflowError, match=r"device 'mps' has no float64.*use -o device=cpu"):
        load_config(env="hypergrid", device=device).torch_device()


@pytest.mark.parametrize(
    ("text", "overrides", "origin", "reason"),
    [
        ("", {"zoo.lr": ""}, "-o zoo.lr", "zoo.lr must be a valid number"),
        ("", {"zoo.lr.x": 3}, "-o zoo.lr.x", "zoo.lr must be a valid number"),
        ("[zoo]\nlr = 3\n", {"zoo.lr": -1}, "-o zoo.lr", "zoo.lr must be greater than 0"),
        ("[zoo]\nlr = -1\n", {"zoo.steps": 5}, "FILE", "zoo.lr must be greater than 0"),
        ("", {"zoo.stps": 3}, "-o zoo.stps", "unknown key 'zoo.stps'; did you mean 'steps'?"),
        ("", {"zooo.steps": 3}, "-o zooo.steps", "unknown key 'zooo'; did you mean 'zoo'?"),
        ("", {"zoo": 3}, "-o zoo", "zoo must be"),
        ("", {"zoo.steps": 3, "zoo.num": 0}, "--num", "zoo.num must be greater than or equal to 1"),
        ("", {"structures": 3}, "--structure", "structures must be"),
        ("", {"autoencoder.init": "style"}, "-o autoencoder.init", "unknown key 'autoencoder.init'"),
        # what is wrong together is blamed on what came last, unless it was wrong before
        ("[autoencoder]\nkl_scale = 0\n", {"autoencoder.weight_loss_scale": 0},
         "-o autoencoder.weight_loss_scale", "are both 0"),
        ("[autoencoder]\nkl_scale = 0\nweight_loss_scale = 0\n", {"autoencoder.steps": 3},
         "FILE", "are both 0"),
    ],
)  # fmt: skip
def test_a_mistake_is_blamed_on_whoever_made_it(tmp_path, text, overrides, origin, reason):
    file = write(tmp_path, f'env = "hypergrid"\n{text}')
    origins = {key: f"-o {key}" for key in overrides} | {"zoo.num": "--num", "structures": "--structure"}
    with pytest.raises(GenflowError) as caught:
        load_config(file, origins=origins, **overrides)
    message = str(caught.value)
    assert message.startswith(f"{origin.replace('FILE', str(file))}: ") and reason in message, message


def test_an_override_from_python_is_named_by_its_key():
    with pytest.raises(GenflowError, match=r"^option zoo\.lr: zoo\.lr must be greater than 0 \(got -1\)$"):
        load_config(env="hypergrid", **{"zoo.lr": -1})
