"""One device contract: what is where, and whose random numbers are whose.

See docs/decisions/0009-devices.md.
"""

from __future__ import annotations

import pytest
import torch
from oracles import grid, lively

from genflow import Denoiser, Population, exact, load_config, run
from genflow.progress import Progress
from genflow.rollouts import sample
from genflow.training.diffusion import DiffusionOptions, DiffusionTrainee
from genflow.training.policies import PolicyOptions, PopulationTrainee, train_population

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("device", DEVICES)
def test_transitions_compute_where_the_states_are(device):
    transitions, own = grid(3, 4).transitions(device), grid(3, 4).transitions()
    states = torch.randint(4, (5, 2, 3), generator=torch.Generator().manual_seed(0))
    actions = own.forward_masks(states).float().flatten(0, 1).argmax(-1).reshape(5, 2)
    moved = states.to(device)
    assert transitions.initial_state.device.type == device
    for found, expected in (
        (transitions.forward_masks(moved), own.forward_masks(states)),
        (transitions.step(moved, actions.to(device)), own.step(states, actions)),
        (transitions.n_parents(moved), own.n_parents(states)),
        (transitions.state_ids(moved), own.state_ids(states)),
        (transitions.one_hot_indices(moved), own.one_hot_indices(states)),
        (transitions.inputs(moved[:, 0]), own.inputs(states[:, 0])),
        (transitions.log_reward(moved[:, 0]), own.log_reward(states[:, 0])),
    ):
        assert found.device.type == device
        torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("objective", ["tb", "db", "subtb", "distill"])
def test_training_returns_float32_on_the_cpu_from_any_device(device, objective, tmp_path):
    structure = grid(2, 4)
    start = Population.initialised(structure, 3, seed=0)
    options = PolicyOptions(steps=5, batch_size=8, objective=objective)
    trained = train_population(
        structure,
        options,
        start=start.weights,
        seed=0,
        folder=tmp_path,
        progress=Progress(quiet=True),
        device=device,
    )
    assert trained.weights.device.type == "cpu" and trained.weights.dtype == torch.float32
    assert torch.isfinite(trained.weights).all()


@pytest.mark.parametrize("device", DEVICES)
def test_trajectories_are_sampled_on_a_device(device):
    population = lively(grid(2, 4), 2)
    weights = {name: tensor.to(device) for name, tensor in population.state_dict().items()}
    module = population.structure.module().to(device)
    trace = population.structure.forward_with_cache(module, weights)
    rng = torch.Generator(device=device).manual_seed(0)
    rollouts = sample(
        population.structure.transitions(device), lambda x: (trace(x)[0], ()), (2, 50), 0.0, rng
    )
    assert rollouts.final.device.type == device
    assert (rollouts.total(rollouts.valid.float()) >= 1).all()


def test_populations_are_float32_whatever_the_default_is(doubles):
    population = lively(grid(2, 4), 3)
    assert population.weights.dtype == torch.float32
    assert Population(population.structure, population.weights.double()).weights.dtype == torch.float32
    ends = population.terminal_distribution()
    torch.testing.assert_close(ends.sum(1), torch.ones(3))
    assert torch.isfinite(population.rollouts(20).log_reward).all()


def test_torchgfns_sampler_runs_on_a_policy_under_doubles(doubles):
    from gfn.samplers import Sampler

    structure = grid(2, 4)
    env, _ = structure.environment.make()
    trajectories = Sampler(lively(structure, 1).to_estimator()).sample_trajectories(
        env, n=20, save_logprobs=True
    )
    assert torch.isfinite(trajectories.log_rewards).all()


def test_the_users_cuda_random_state_is_never_seeded(monkeypatch):
    def fail(*_):
        raise AssertionError("CUDA was seeded")

    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, fail)
    before = torch.get_rng_state()
    Population.initialised(grid(2, 4), 2, seed=0)
    assert torch.get_rng_state().equal(before)


def test_the_whole_job_runs_under_doubles(doubles, tmp_path):
    config = load_config(
        env="hypergrid",
        structures=["ndim=2,height=4,width=8", "ndim=2,height=5,width=8"],
        test_structures=["ndim=2,height=6,width=8"],
        train_tests=False,
        **{
            "zoo.num": 2, "zoo.steps": 5, "zoo.objective": "distill", "autoencoder.encoder": "coordinate",
            "autoencoder.steps": 3, "autoencoder.batch_size": 2, "autoencoder.kl_scale": 1.0,
            "autoencoder.options": {"latent_size": 2, "hidden": 8, "embedding": 4, "matrices": 2},
            "diffusion.steps": 3, "diffusion.sampling.steps": 2, "generate.num": 2, "evaluation.num": 2,
        },
    )  # fmt: skip
    entries = run(config, tmp_path / "run", Progress(quiet=True))
    assert {entry["source"] for entry in entries} > {"trained", "generated"}
    made = Population.load(tmp_path / "run" / "generated" / "ndim=2,height=6,width=8")
    assert made.weights.dtype == torch.float32


@pytest.mark.parametrize("device", DEVICES)
def test_random_numbers_are_drawn_on_the_cpu_except_for_trajectories(device):
    structure = grid(2, 4)
    start = Population.initialised(structure, 2, seed=0).weights
    for objective, where in {"distill": "cpu", "tb": device, "subtb": device}.items():
        options = PolicyOptions(steps=2, batch_size=8, objective=objective)
        trainee = PopulationTrainee(structure, start, options, seed=0, device=device, checkpoints=1, every=1)
        assert torch.device(trainee.random_device).type == where


@pytest.mark.parametrize("device", DEVICES)
def test_the_denoiser_learns_from_the_same_numbers_on_any_device(device):
    def loss(where):
        class Scale(Denoiser):
            def __init__(self):
                super().__init__(None, latent_size=3, condition_size=2)
                self.factor = torch.nn.Parameter(torch.tensor(0.5))

            def forward(self, z, t, condition):
                """Depends on all that is drawn."""
                return self.factor * z * t[:, None] / 100 + condition.nan_to_num(7.0).sum(1, keepdim=True)

        rng = torch.Generator().manual_seed(0)
        latents, conditions = torch.randn(9, 3, generator=rng), torch.randn(9, 2, generator=rng)
        options = DiffusionOptions(denoiser="unet1d", batch_size=8, drop_condition=0.5)
        trainee = DiffusionTrainee(Scale(), latents, conditions, options, device=where)
        rng = torch.Generator(trainee.random_device).manual_seed(3)
        return [trainee.backward(step, rng)[0] for step in range(3)]

    assert loss(device) == pytest.approx(loss("cpu"), rel=1e-4)


@pytest.mark.parametrize("most", [0, 2**26], ids=["drawn rows move", "tables move"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reward", ["paper", "cosine"])
def test_an_expert_draws_the_same_on_any_device(device, most, reward, monkeypatch):
    monkeypatch.setattr(exact, "MOVED_BYTES", most)
    expert = grid(3, 4, reward=reward).solution.expert
    own = expert.draw(50, 0.25, torch.Generator().manual_seed(0))
    found = expert.draw(50, 0.25, torch.Generator().manual_seed(0), device)
    for there, here in zip(found, own, strict=True):
        assert there.device.type == device and there.cpu().equal(here)


@pytest.mark.parametrize("device", ["meta", *DEVICES])
def test_weights_and_owners_are_moved_once(device):
    population = lively(grid(2, 4), 2)
    moved, owners = population.weights_on(device), population.layout.owners(device)
    assert moved.device.type == owners.device.type == device
    assert population.weights_on(device) is moved and population.layout.owners(device) is owners
    assert population.weights_on("cpu") is population.weights
    sizes = [tensor.numel() for tensor in population[0].state_dict().values()]
    assert population.layout.owners().tolist() == [i for i, size in enumerate(sizes) for _ in range(size)]
