"""DeepSets: what it computes, that no order matters to it, and that its weights fit every size."""

from __future__ import annotations

import json

import pytest
import torch
from genflow_policies.deepsets import grouped
from oracles import grid, holed, lively, one_by_one, same_gradients, traced
from torch.nn import functional as F

import genflow
from genflow import Generator, GenflowError, Population, Structure, UnitDescriptions, Units, load_config, run
from genflow.measure import figures_of
from genflow.progress import Progress
from genflow.registry import registry
from genflow.training.autoencoder import AutoencoderOptions
from genflow.training.options import PolicyOptions
from genflow.training.policies import train_population


def sets(ndim=2, height=5, width=6, depth=2, **fields) -> Structure:
    fields = {"ndim": ndim, "height": height, "width": width, "depth": depth, **fields}
    return Structure.build("hypergrid", fields, policy="deepsets")


def by_hand(structure: Structure, state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The logits of one state of a hypergrid, element by element, as the module's docstring says it."""
    n, (inputs, actions) = structure.environment.config.ndim, structure.environment.units()

    def linear(name, h):
        out = state[f"{name}.weight"] @ h
        return out + state[f"{name}.bias"] if f"{name}.bias" in state else out

    elements = []
    for dimension in range(n):
        total = 0
        for unit in (inputs.categories["dimension"] == dimension).nonzero()[:, 0].tolist():
            read = linear("unit.2", F.leaky_relu(linear("unit.0", inputs.amounts[unit])))
            total = total + x[unit] * read
        elements.append(total)
    for layer in range(structure.arch.config.depth):
        mean = sum(elements) / n
        elements = [
            h + F.leaky_relu(linear(f"layers.{layer}.own", h) + linear(f"layers.{layer}.pooled", mean))
            for h in elements
        ]
    pooled = linear("pooled", sum(elements) / n)
    own = [linear("own", h) for h in elements] + [torch.zeros(len(pooled))]
    heads = [own[a] + pooled + linear("action", actions.amounts[a]) for a in range(n + 1)]
    return torch.cat([linear("logit", F.leaky_relu(h)) for h in heads])


@pytest.mark.parametrize(("ndim", "height", "depth"), [(1, 4, 0), (3, 5, 2)])
def test_it_computes_what_it_says_and_the_stacked_passes_agree(ndim, height, depth):
    structure = sets(ndim, height, depth=depth)
    population = lively(structure, 3)
    states = torch.randint(height, (3, 4, ndim), generator=torch.Generator().manual_seed(3))
    inputs = structure.observe(states)
    logits, gradients = one_by_one(population, inputs, toward := holed((3, 4, ndim + 1)))
    for member in range(3):
        state = {name: tensor[member] for name, tensor in population.state_dict().items()}
        for place in range(4):
            expected = by_hand(structure, state, inputs[member, place])
            torch.testing.assert_close(logits[member, place], expected, rtol=1e-4, atol=1e-5)
    found_logits, found = traced(population, list(inputs.split([1, 3], dim=1)), toward)
    torch.testing.assert_close(found_logits, logits, rtol=1e-4, atol=1e-5)
    same_gradients(found, gradients)


def test_dimensions_in_another_order_have_their_logits_in_that_order():
    population = lively(sets(3, 5), 2)
    states = torch.randint(5, (20, 3), generator=torch.Generator().manual_seed(0))
    order = [2, 0, 1]
    logits, other = (
        population.logits(population.structure.observe(each)) for each in (states, states[:, order])
    )
    torch.testing.assert_close(other, logits[..., [*order, 3]], rtol=1e-4, atol=1e-5)
    assert not other.allclose(logits, atol=1e-2)


def test_units_are_grouped_by_the_categories_that_inputs_and_actions_share():
    def units(count, **categories):
        return UnitDescriptions(torch.rand(count, 2), {n: torch.tensor(v) for n, v in categories.items()})

    members, elements = grouped(
        Units(units(4, slot=[7, 3, 7, 3], kind=[0, 0, 0, 1]), units(3, slot=[3, 7, -1], other=[0, 0, 0]))
    )
    assert members.tolist() == [[0, 2], [1, 3]] and elements.tolist() == [1, 0, 2]
    members, elements = grouped(Units(units(3, a=[0, 0, 1]), units(2, a=[1, 0])))
    assert members.tolist() == [[0, 1], [2, 3]] and elements.tolist() == [1, 0]
    # without them all inputs are one element, which each action reads
    members, elements = grouped(Units(units(3), units(2)))
    assert members.tolist() == [[0, 1, 2]] and elements.tolist() == [0, 0]


def test_it_works_where_units_are_numbers_and_where_rewards_tell_nothing():
    module = registry().load("policy", "deepsets")().build(5, 3)
    assert module(torch.rand(2, 7, 5)).shape == (2, 7, 3)
    for structure in (sets(reward="cosine"), sets(1, 2)):
        assert float(lively(structure, 1).terminal_distribution().sum()) == pytest.approx(1)


def trained(structure: Structure, tmp_path, objective="distill", **options) -> Population:
    return train_population(
        structure,
        PolicyOptions(**{"objective": objective, "batch_size": 64, "lr": 5e-3, "steps": 60, **options}),
        start=Population.initialised(structure, 2, 0).weights,
        seed=0,
        folder=tmp_path,
        progress=Progress(quiet=True),
    )


def js(population: Population) -> float:
    return figures_of(population)["js"]


@pytest.mark.parametrize("objective", ["distill", "tb", "db", "subtb"])
def test_it_learns_by_every_objective(objective, tmp_path):
    structure = sets(2, 4, width=16, depth=1)
    population = trained(structure, tmp_path, objective)
    assert js(population) < 0.5 * js(Population.initialised(structure, 2, 0))


def test_a_policy_runs_on_other_sizes_and_is_saved(tmp_path):
    small = trained(sets(2, 6, width=24), tmp_path / "run", steps=150)
    small.save(tmp_path / "small")
    again = Population.load(tmp_path / "small")
    assert torch.equal(again.weights, small.weights)
    for ndim, height in ((2, 7), (3, 6)):
        other = sets(ndim, height, width=24)
        moved = genflow.transfer(again, other)
        assert torch.equal(moved.weights, small.weights) and moved.structure == other and not moved.seen
        # a size that it was never trained on
        assert js(moved) < 0.7 * js(Population.initialised(other, 2, 0))
    with pytest.raises(
        GenflowError, match=r"depth 2, not 1; only the task may differ \(tensors: with layers\.1\.own\.weight"
    ) as caught:
        genflow.transfer(again, sets(2, 6, width=24, depth=1))
    assert "\n" not in str(caught.value)
    with pytest.raises(
        GenflowError, match=r"height 5, not 4; .*net\.0\.weight \(8, 10\) instead of \(8, 8\)"
    ):
        genflow.transfer(lively(grid(2, 5), 1), grid(2, 4))


@pytest.mark.parametrize("depths", [(2, 2), (0, 1, 3)])
def test_the_coordinate_encoder_makes_it(depths):
    cls = registry().load("encoder", "coordinate")
    config = cls.Config(latent_size=4, hidden=16, embedding=12, depth=1, matrices=3, rank=2)
    structures = [sets(2, 4 + place, depth=depth) for place, depth in enumerate(depths)]
    starts = cls.starts(config, structures)
    zoo = [
        Population(s, starts.weights(Population.initialised(s, 4, i), i)) for i, s in enumerate(structures)
    ]
    net = cls.for_zoo(config, zoo, starts.tensors())
    net.reconstruct(zoo, lambda like: torch.zeros_like(like))[0].mean().backward()
    spec = json.loads(json.dumps(net.spec()))
    assert set(spec["described"]) == {"input_amount", "action_amount"} and ("repeats" in spec) is (
        len(depths) > 2
    )
    twin = cls.from_spec(config, spec)
    twin.load_state_dict(net.state_dict())
    for structure in (*structures, sets(3, 5, depth=2)):
        with torch.no_grad():
            weights = twin.decode(torch.randn(3, 4), structure.layout, structure.condition())
        assert torch.isfinite(Population(structure, weights).terminal_distribution()).all()
    other = Structure.of(structures[0].environment, registry().load("policy", "mlp3")(), "hypergrid", "mlp3")
    with pytest.raises(GenflowError, match=r"does not make these parameters: without unit\.0\.weight"):
        net.check(other.layout)
    objective = cls.objective()
    rehearsing = cls.Config(reference="optimal", swap_probability=0.5, rehearsal_probability=0.5)
    with pytest.raises(GenflowError, match="DeepSets reads the units of its own task"):
        objective.check(rehearsing, AutoencoderOptions(encoder="coordinate", kl_scale=1.0), structures)


CHAIN = {
    "env": "hypergrid",
    "zoo.num": 3, "zoo.objective": "distill", "zoo.steps": 12, "zoo.batch_size": 16,
    "autoencoder.encoder": "coordinate", "autoencoder.steps": 8, "autoencoder.kl_scale": 1.0,
    "autoencoder.batch_size": 4, "autoencoder.per_structure": 2,
    "autoencoder.options": {
        "latent_size": 2, "hidden": 8, "embedding": 8, "matrices": 2, "rank": 1, "reference": "optimal",
        "swap_probability": 0.5,
    },
    "diffusion.steps": 5, "diffusion.options": {"channels": [8], "patch": 1}, "generate.num": 2,
    "evaluation.metrics": ["js"], "train_tests": False,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "form", "depths", "unseen"),
    [("deepsets", "", (1, 1), 1), ("mlp", ",residual=true", (1, 3), 2)],
)
def test_the_whole_chain_takes_it(tmp_path, policy, form, depths, unseen):
    known = [f"ndim=2,height={4 + i},width=6,depth={d}{form}" for i, d in enumerate(depths)]
    asked = (
        f"ndim=2,height=4,width=6,depth={unseen}{form}"
        if policy == "mlp"
        else "ndim=2,height=6,width=6,depth=1"
    )
    config = load_config(None, policy=policy, structures=known, test_structures=[asked], **CHAIN)
    entries = run(config, tmp_path / "run", Progress(quiet=True))
    made = [each for each in entries if each["source"] == "generated"]
    assert [each["seen"] for each in made] == [True, True, False]
    assert all(0 <= each["metrics"]["js"]["mean"] < 0.7 for each in made)
    again = Generator.from_pretrained(tmp_path / "run").generate(asked, 2)
    assert torch.equal(
        again.weights, Population.load(tmp_path / "run" / "generated" / again.structure.name).weights
    )
