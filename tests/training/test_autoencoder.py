"""What the autoencoder's training asks for, seen by an encoder that keeps the weights up to a factor."""

from __future__ import annotations

import signal

import pytest
import torch
from genflow_encoders.objective import CoordinateObjective
from genflow_encoders.options import CoordinateOptions
from genflow_encoders.smooth_family import smooth_starts
from oracles import grid, lookup, optimal
from torch import nn

from genflow import Encoder, GenflowError, Population, Rehearsal, Structure
from genflow.progress import Progress
from genflow.registry import registry
from genflow.training.autoencoder import AutoencoderOptions, AutoencoderTrainee, reconstruct
from genflow.training.averaging import moving_average
from genflow.training.loop import train

QUIET = Progress(quiet=True)


class Keeper(Encoder):
    """Latents are weights; decoding multiplies them. It remembers what it was asked for."""

    class Config(CoordinateOptions):
        """What its objective reads."""

    def __init__(self, gain: float = 1.0, **options) -> None:
        super().__init__(self.Config(**options))
        self.gain = nn.Parameter(torch.tensor(gain))
        self.batches: list[list[Population]] = []
        self.dealt: list[list[torch.Tensor]] = []

    @classmethod
    def objective(cls):
        """That of the coordinate encoder."""
        return CoordinateObjective

    @classmethod
    def for_zoo(cls, config, populations, starts=None):
        """It fits every zoo."""
        return cls()

    @classmethod
    def from_spec(cls, config, spec):
        """It has no sizes."""
        return cls()

    def spec(self):
        """Nothing."""
        return {}

    def encode(self, population):
        """The weights themselves."""
        return population.weights

    def decode(self, latents, layout, condition):
        """The factor."""
        self.dealt[-1].append(latents)
        return self.gain * latents

    def decode_all(self, items):
        """Remembered together."""
        self.dealt.append([])
        return super().decode_all(items)

    def reconstruct(self, populations, noise):
        """Mean of squares."""
        self.batches.append(populations)
        rebuilt = [self.gain * p.weights for p in populations]
        return torch.cat(
            [(w - p.weights).square().mean(1) for w, p in zip(rebuilt, populations, strict=True)]
        ), rebuilt


def experts(structure: Structure, num: int) -> Population:
    """Members that are all optimal, though each has other weights: logits may be shifted."""
    best = optimal(structure)
    return Population(best.structure, best.weights + torch.arange(num)[:, None])


def novices(structure: Structure, num: int, seed: int = 0) -> Population:
    """Random policies."""
    shape = (num, structure.solution.n_states, structure.environment.config.ndim + 1)
    return lookup(structure, torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


OWN = {"reference", "swap_probability", "rehearsal_probability", "length_power", "normaliser_floor"}


def trainee_of(populations, gain=1.0, **options) -> AutoencoderTrainee:
    own = {name: options.pop(name) for name in OWN & options.keys()}
    settings = AutoencoderOptions(**{"encoder": "keeper", "batch_size": 6, "states": 50, **options})
    return AutoencoderTrainee(Keeper(gain, **own), populations, settings, seed=0, device="cpu")


def step(trainee, seed=0):
    loss, figures = trainee.loss(0, torch.Generator().manual_seed(seed))
    return loss, {
        "loss": loss.item(),
        **{name: torch.as_tensor(figure).item() for name, figure in figures.items()},
    }


OPTIMAL = {"kl_scale": 1.0, "reference": "optimal"}
PAIR = (grid(2, 4), grid(2, 4, R0=1e-4))


def test_a_member_that_is_kept_behaves_like_itself():
    _, figures = step(trainee_of([novices(s, 4) for s in PAIR], kl_scale=1.0))
    assert figures["weight_loss"] == 0
    assert abs(figures["kl"]) < 1e-6
    # half the logits are another policy
    assert step(trainee_of([novices(s, 4) for s in PAIR], gain=0.5, kl_scale=1.0))[1]["kl"] > 0.02


def test_the_optimal_reference_asks_for_the_optimal_policy_and_not_for_the_members_own():
    assert abs(step(trainee_of([experts(s, 4) for s in PAIR], **OPTIMAL))[1]["kl"]) < 1e-5
    structure = PAIR[0]
    members = novices(structure, 3)
    _, figures = step(trainee_of([members], states=40_000, **OPTIMAL))
    assert figures["weight_loss"] == 0
    # by hand: KL at each state, three quarters of the states by visits and one quarter evenly
    flows, graph = structure.solution.optimal_flows(), structure.solution.graph
    masks = graph.mask(torch.arange(16))
    own = members.state_dict()["table"].masked_fill(~masks, -torch.inf).log_softmax(-1).masked_fill(~masks, 0)
    divergence = (torch.special.xlogy(flows.policy, flows.policy) - flows.policy * own).sum(-1)
    share = 0.75 * flows.visit / flows.visit.sum() + 0.25 / 16
    assert figures["kl"] == pytest.approx(float((share * divergence).sum(-1).mean()), rel=0.02)


@pytest.mark.parametrize("weights", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("behaviour", [0.0, 1.0, 3.0])
def test_the_loss_is_the_weighted_sum(weights, behaviour):
    if not weights + behaviour:
        with pytest.raises(ValueError, match="both 0"):
            trainee_of([novices(s, 4) for s in PAIR], weight_loss_scale=0.0, kl_scale=0.0)
        return
    trainee = trainee_of(
        [novices(s, 4) for s in PAIR], gain=0.5, weight_loss_scale=weights, kl_scale=behaviour
    )
    loss, figures = step(trainee)
    kept = torch.cat([p.weights for p in trainee.encoder.batches[0]])
    assert figures["weight_loss"] == pytest.approx(float((0.5 * kept).square().mean()), rel=1e-5)
    assert ("kl" in figures) is (behaviour > 0)
    expected = weights * figures["weight_loss"] + behaviour * figures.get("kl", 0.0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert figures["loss"] == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert bool(trainee.encoder.gain.grad) is (weights + behaviour > 0)


def test_the_optimal_policy_is_asked_for_only_where_behaviour_counts():
    huge = Population.initialised(grid(9, 20, width=1), 2, 0)
    assert torch.isfinite(step(trainee_of([huge], reference="optimal"))[0])
    with pytest.raises(GenflowError, match="the optimal policy of ndim=9, height=20"):
        step(trainee_of([huge], **OPTIMAL))


def test_long_tasks_count_by_the_power_of_their_length():
    structure = PAIR[0]
    plain, twice = (
        step(trainee_of([novices(structure, 3)], length_power=p, **OPTIMAL))[1]["kl"] for p in (0.0, 2.0)
    )
    assert structure.solution.expert.length > 1.5
    assert twice == pytest.approx(plain * structure.solution.expert.length**2, rel=1e-5)


def test_batches_are_drawn_from_the_whole_zoo_without_replacement():
    zoo = [novices(PAIR[0], 5), novices(PAIR[1], 2, seed=1)]
    trainee = trainee_of(zoo, batch_size=6)
    for seed in range(20):
        step(trainee, seed)
    for batch in trainee.encoder.batches:
        assert sum(len(population) for population in batch) == 6
        for picked in batch:
            own = next(p for p in zoo if p.structure == picked.structure).weights
            assert len(picked.weights.unique(dim=0)) == len(picked)
            assert all((own == row).all(1).any() for row in picked.weights)
    # every policy is left out at some time
    assert (
        len(
            {
                tuple(torch.cat([p.weights for p in batch]).sum(1).sort().values.tolist())
                for batch in trainee.encoder.batches
            }
        )
        == 7
    )


@pytest.mark.parametrize(("batch_size", "each", "structures"), [(6, 2, 3), (7, 3, 2), (5, 5, 1), (100, 4, 4)])
def test_so_many_policies_of_a_structure_are_picked(batch_size, each, structures):
    zoo = [novices(grid(2, height), 6, seed=height) for height in (2, 3, 4, 5)]
    trainee = trainee_of(zoo, batch_size=batch_size, per_structure=each)
    for seed in range(30):
        step(trainee, seed)
    for batch in trainee.encoder.batches:
        assert len({population.structure for population in batch}) == len(batch) == structures
        for picked in batch:
            own = next(p for p in zoo if p.structure == picked.structure).weights
            assert len(picked) == len(picked.weights.unique(dim=0)) == each
            assert all((own == row).all(1).any() for row in picked.weights)
    met = {picked.structure for batch in trainee.encoder.batches for picked in batch}
    assert len(met) == 4, "each structure gets its turn"


def test_a_step_reads_the_loss_and_its_figures_in_one_transfer(monkeypatch):
    trainee = trainee_of([novices(s, 4) for s in PAIR], gain=0.5, normaliser_floor=0.5, **OPTIMAL)
    twin = trainee_of([novices(s, 4) for s in PAIR], gain=0.5, normaliser_floor=0.5, **OPTIMAL)
    _, expected = step(twin)
    reads, tolist = [], torch.Tensor.tolist

    def counted(tensor):
        if tensor.is_floating_point():
            reads.append(len(tensor))
        return tolist(tensor)

    def fail(*_):
        raise AssertionError("a number was read alone")

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    monkeypatch.setattr(torch.Tensor, "item", fail)
    value, figures = trainee.backward(0, torch.Generator().manual_seed(0))
    assert reads == [3]
    assert figures == expected and value == expected["loss"]
    assert set(figures) == {"loss", "weight_loss", "kl"}


def test_a_structure_with_fewer_policies_gives_all_of_them():
    trainee = trainee_of([novices(PAIR[0], 2), novices(PAIR[1], 5)], batch_size=8, per_structure=4)
    step(trainee)
    assert sorted(len(population) for population in trainee.encoder.batches[0]) == [2, 4]


def test_swapped_latents_come_from_other_structures_and_are_asked_for_optimal_behaviour():
    # each policy is optimal on its own structure, and the other structure's needs another
    zoo = [experts(structure, 3) for structure in PAIR]
    kept, swapped = trainee_of(zoo, **OPTIMAL), trainee_of(zoo, swap_probability=0.999, **OPTIMAL)
    assert abs(step(kept)[1]["kl"]) < 1e-5
    loss, figures = step(swapped)
    assert figures["kl"] > 0.05
    assert loss.item() == pytest.approx(figures["kl"], rel=1e-5)
    # the members' own weights are not asked for then
    assert "weight_loss" not in figures and not swapped.encoder.batches
    # each latent is dealt out once
    dealt = torch.cat(swapped.encoder.dealt[0])
    assert dealt.sort(0).values.equal(torch.cat([p.weights for p in zoo]).sort(0).values)
    assert not dealt.equal(torch.cat([p.weights for p in zoo]))
    # a zoo of one structure has no other latents
    alone = step(trainee_of(zoo[:1], swap_probability=0.999, **OPTIMAL))[1]
    assert "weight_loss" not in alone and abs(alone["kl"]) < 1e-5


def test_a_made_up_task_takes_a_structures_place_where_latents_are_swapped(monkeypatch):
    # the made-up task is the other structure, of which the members are optimal
    here, other = PAIR
    zoo = [Population(experts(here, 3).structure, experts(other, 3).weights)]
    told = []

    def rehearse(environment, rng):
        units = here.environment.units()
        tables = (torch.rand(units.inputs.amounts.shape, generator=rng), units.actions.amounts + 1)
        told.append(tables)
        return Rehearsal(*tables, other.solution.expert)

    def decode(self, latents, layout, condition):
        seen.append([units.amounts for units in layout.units.values()])
        return latents

    monkeypatch.setattr(type(here.environment), "rehearse", rehearse)
    monkeypatch.setattr(Keeper, "decode", decode)
    options = {"swap_probability": 0.999, **OPTIMAL}
    for share, there in ((0.0, False), (1.0, True)):
        told.clear()
        seen = []
        kl = step(trainee_of(zoo, rehearsal_probability=share, **options))[1]["kl"]
        assert (abs(kl) < 1e-5) == there and bool(told) == there
        assert not there or all(a.equal(b) for a, b in zip(seen[0], told[0], strict=False))
    # in that share of the steps, and by the seed of the step
    told.clear()
    trainee = trainee_of(zoo, rehearsal_probability=0.3, states=1, **options)
    rng = torch.Generator().manual_seed(0)
    for number in range(300):
        trainee.loss(number, rng)
    assert abs(len(told) - 90) < 40  # five standard deviations of 7.9
    assert len({float(inputs.sum()) for inputs, _ in told}) == len(told)


def test_latents_are_swapped_in_that_share_of_the_steps():
    trainee = trainee_of([novices(s, 3) for s in PAIR], swap_probability=0.3, states=1, **OPTIMAL)
    rng = torch.Generator().manual_seed(0)
    swapped = sum("weight_loss" not in trainee.loss(i, rng)[1] for i in range(500))
    # five standard deviations of 10.2
    assert abs(swapped - 150) < 51
    assert len(trainee.encoder.batches) == 500 - swapped


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "swap_probability needs reference"),
        ({"kl_scale": 1.0}, "swap_probability needs reference"),
        ({"reference": "optimal"}, r"swap_probability needs autoencoder\.kl_scale > 0"),
        ({"kl_scale": 1.0, "reference": "member"}, "swap_probability needs reference"),
    ],
)
def test_swapping_without_an_optimal_reference_is_refused(options, why):
    with pytest.raises((ValueError, GenflowError), match=why):
        trainee_of([novices(PAIR[0], 3)], swap_probability=0.5, **options)


def test_made_up_tasks_without_swapped_latents_are_refused():
    with pytest.raises(ValueError, match="rehearsal_probability needs swap_probability > 0"):
        trainee_of([novices(PAIR[0], 3)], rehearsal_probability=0.5, **OPTIMAL)


def test_behaviour_is_taken_relative_to_each_structures_own_recent_level():
    # one structure is far worse than the other
    zoo = [novices(PAIR[0], 3), Population(novices(PAIR[1], 3).structure, 40 * novices(PAIR[1], 3).weights)]
    trainee = trainee_of(zoo, weight_loss_scale=0.0, normaliser_floor=0.5, **OPTIMAL)
    plain = trainee_of(zoo, weight_loss_scale=0.0, **OPTIMAL)
    parts = [trainee_of([p], weight_loss_scale=0.0, states=20_000, **OPTIMAL) for p in zoo]
    easy, hard = (step(part)[1]["kl"] for part in parts)
    assert hard > 20 * easy
    for trainees in (trainee, plain):
        trainees.objective.options = trainees.options.model_copy(update={"states": 20_000})
    first, figures = step(trainee)
    # the level of the first step is that step's
    assert first.item() == pytest.approx((easy / (easy + 0.5) + hard / (hard + 0.5)) / 2, rel=0.05)
    assert figures["kl"] == pytest.approx(step(plain)[1]["kl"], rel=1e-5)
    # the level follows slowly, so that progress shows at once
    with torch.no_grad():
        trainee.encoder.gain *= 0.5
        for part in parts:
            part.encoder.gain *= 0.5
    easier, harder = (step(part)[1]["kl"] for part in parts)
    levels = [0.9 * before + 0.1 * now for before, now in ((easy, easier), (hard, harder))]
    assert step(trainee)[0].item() == pytest.approx(
        (easier / (levels[0] + 0.5) + harder / (levels[1] + 0.5)) / 2, rel=0.05
    )


def built(**options):
    """A small encoder of the real kind, and its zoo."""
    structures = [grid(2, 4), grid(3, 3), grid(2, 6, width=4)]
    starts = smooth_starts("style", structures, 4, 0.3, 0.1, None)
    zoo = [
        Population(s, starts.weights(Population.initialised(s, 5, i), i)) for i, s in enumerate(structures)
    ]
    cls = registry().load("encoder", "coordinate")
    torch.manual_seed(0)
    return cls.for_zoo(
        cls.Config(latent_size=4, hidden=8, embedding=8, depth=1, matrices=2, rank=1, **options), zoo
    ), zoo


def trained(folder, watch=lambda trainee, step: None, **options):
    """Train it; `watch` sees the trainee after each step."""
    net, zoo = built(**{name: options.pop(name) for name in OWN & options.keys()})
    settings = AutoencoderOptions(
        **{"encoder": "coordinate", "steps": 24, "lr": 0.01, "batch_size": 6, "states": 20, **options}
    )

    class Watched(AutoencoderTrainee):
        def after_step(self, step):
            super().after_step(step)
            watch(self, step)

    trainee = Watched(net, zoo, settings, seed=0, device="cpu")
    history = train(trainee, settings, folder=folder, seed=0, progress=QUIET, label="").history
    return trainee, history


def tensors_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_the_average_over_the_steps_is_what_is_kept(tmp_path):
    steps = []
    trainee, _ = trained(
        tmp_path, lambda trainee, step: steps.append(tensors_of(trainee.encoder)), ema=0.8, final_rate=1.0
    )
    last, expected = tensors_of(trainee.encoder), tensors_of(built()[0])
    for number, state in enumerate(steps, start=1):
        # the first averages forget faster
        keep = min(0.8, number / (number + 9))
        expected = {name: keep * tensor + (1 - keep) * state[name] for name, tensor in expected.items()}
    kept = trainee.result()
    assert kept is trainee.encoder and not kept.training
    for name, tensor in kept.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
    assert sum(not tensor.allclose(last[name], atol=1e-3) for name, tensor in kept.state_dict().items()) > 10


def test_without_an_average_the_last_parameters_are_kept(tmp_path):
    trainee, _ = trained(tmp_path)
    last = tensors_of(trainee.encoder)
    assert all(tensor.equal(last[name]) for name, tensor in trainee.result().state_dict().items())


def test_an_average_takes_over_what_cannot_be_averaged():
    module = nn.BatchNorm1d(2)
    average = moving_average(module, 0.9)
    for _ in range(3):
        module(torch.randn(8, 2) + 5)
        average.update_parameters(module)
    assert average.module.state_dict()["num_batches_tracked"].item() == 3
    assert 0 < average.module.state_dict()["running_mean"].mean() < module.running_mean.mean()
    # and is no view of the module
    module.running_mean.zero_()
    assert average.module.state_dict()["running_mean"].all()


OPTIONS = [
    {},
    {"ema": 0.9, "per_structure": 2, "swap_probability": 0.4, "normaliser_floor": 0.02, **OPTIMAL},
    {"ema": 0.9, "weight_loss_scale": 0.5, "kl_scale": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path, options):
    expected, history = trained(tmp_path / "whole", **options)
    stops = {4: signal.SIGTERM, 17: signal.SIGINT}

    def stop(trainee, step):
        if step in stops:
            signal.raise_signal(stops.pop(step))

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts", stop, **options)
    found, again = trained(tmp_path / "parts", **options)
    assert not stops
    assert again == history
    assert all(tensor.equal(expected.tensors()[name]) for name, tensor in found.tensors().items())
    kept = expected.result().state_dict()
    assert all(tensor.equal(kept[name]) for name, tensor in found.result().state_dict().items())


def test_reconstruction_is_without_noise_and_keeps_the_provenance():
    members = novices(PAIR[0], 3)
    members = Population(members.structure, members.weights, {"source": "trained", "seed": 4})
    encoder = Keeper(0.5)
    encoder.dealt.append([])
    rebuilt = reconstruct(encoder, members)
    assert rebuilt.weights.equal(0.5 * members.weights)
    assert not rebuilt.weights.requires_grad
    assert rebuilt.provenance == {"source": "reconstructed", "seed": 4}
