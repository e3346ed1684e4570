"""A policy that diverges is kept as it was and said; the others learn on as if nothing had happened."""

from __future__ import annotations

import signal

import pytest
import torch
from oracles import by_autograd, grid, lively

from genflow import GenflowError, Population, Zoo, load_config, rollouts
from genflow.evaluation.baselines import baselines
from genflow.pipeline import evaluate_folder
from genflow.progress import Progress
from genflow.stages.autoencoder import train_autoencoder
from genflow.stages.diffusion import train_generator
from genflow.training import objectives
from genflow.training.options import PolicyOptions
from genflow.training.policies import PopulationTrainee, train_population

LOSSES = {
    "tb": "trajectory_balance",
    "db": "detailed_balance",
    "subtb": "sub_trajectory_balance",
    "distill": "distillation",
}
MEMBERS, BAD, STEPS = 3, 1, 8


@pytest.fixture(autouse=True)
def _own_noise(monkeypatch):
    """Every trajectory has noise of its own whatever the others do, so that runs can be compared."""
    monkeypatch.setattr(rollouts, "WORTHWHILE", 2)


def trained(structure, folder, start=None, checkpoints=1, **options):
    options = PolicyOptions(**{"steps": STEPS, "batch_size": 8, "lr": 0.01, "final_rate": 1.0, **options})
    start = lively(structure, MEMBERS, scale=1.0).weights if start is None else start
    return train_population(
        structure, options, start=start, seed=0, folder=folder, progress=Progress(quiet=True),
        checkpoints=checkpoints,
    )  # fmt: skip


def spoil(monkeypatch, objective, at):
    """The loss of the bad member is NaN at a step (0-based), and only there."""
    name, calls = LOSSES[objective], [0]
    own = getattr(objectives, name)

    def spoiled(*given):
        losses, calls[0] = own(*given), calls[0] + 1
        factor = torch.ones(len(losses))
        factor[min(BAD, len(losses) - 1)] = torch.nan
        return losses * factor if calls[0] == at + 1 else losses

    monkeypatch.setattr(objectives, name, spoiled)


def watched(monkeypatch):
    """The weights after each step."""
    seen, after_step = [], PopulationTrainee.after_step

    def watch(self, step):
        after_step(self, step)
        seen.append(self._flat().clone())

    monkeypatch.setattr(PopulationTrainee, "after_step", watch)
    return seen


def others(population):
    return [m for m in range(len(population)) if m != BAD]


@pytest.mark.parametrize("way", [lambda s: s, by_autograd], ids=["fast", "autograd"])
@pytest.mark.parametrize("objective", LOSSES)
def test_one_that_is_lost_from_the_start_leaves_the_others_as_they_are(tmp_path, capfd, objective, way):
    structure = way(grid(2, 4))
    start = lively(structure, MEMBERS, scale=1.0).weights
    expected = trained(structure, tmp_path / "whole", start, objective=objective)
    bad = start.clone()
    bad[BAD] = 1e30
    found = trained(structure, tmp_path / "bad", bad, objective=objective)
    rest = others(found)
    torch.testing.assert_close(found.weights[rest], expected.weights[rest], rtol=1e-6, atol=1e-6)
    assert (found.weights[rest] - start[rest]).abs().max() > 0.01
    assert found.weights[BAD].equal(bad[BAD])
    members = found.provenance["members"]
    assert members[BAD] == {"run": BAD, "seed": 0, "step": STEPS, "diverged_at": 1}
    assert all("diverged_at" not in members[m] and "js" in members[m]["metrics"] for m in rest)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and "policy 1 of 3 diverged at step 1 " in lines[0]
    # the figures are those of the others
    history = found.provenance["history"]
    assert all(value == value and value < 1e6 for points in history.values() for _, value in points)
    assert len(history["js"]) == STEPS


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw"}, {"clip": 0.1}], ids=str)
@pytest.mark.parametrize("objective", LOSSES)
def test_one_that_diverges_stays_as_it_was_before(tmp_path, monkeypatch, capfd, objective, options):
    structure, at = grid(2, 4), 3
    seen = watched(monkeypatch)
    expected = trained(structure, tmp_path / "whole", checkpoints=8, objective=objective, **options)
    before = list(seen)
    spoil(monkeypatch, objective, at)
    found = trained(structure, tmp_path / "bad", checkpoints=8, objective=objective, **options)
    for step, weights in enumerate(seen[STEPS:]):
        assert weights[BAD].equal(before[min(step, at - 1)][BAD])
        for m in (0, 2):
            torch.testing.assert_close(weights[m], before[step][m], rtol=1e-6, atol=1e-6)
    # the checkpoints before it are as good as any
    marks = [(m["run"], m["step"]) for m in found.provenance["members"] if "diverged_at" in m]
    assert marks == [(BAD, step) for step in range(STEPS, at, -1)]
    assert all(m.get("diverged_at", at + 1) == at + 1 for m in found.provenance["members"])
    assert all(("metrics" in m) != ("diverged_at" in m) for m in found.provenance["members"])
    if objective == "tb":
        log_z = [run.provenance["log_z"] for run in (found, expected)]
        assert log_z[0][BAD] != log_z[1][BAD] and log_z[0][0] == pytest.approx(log_z[1][0], rel=1e-5)
    assert capfd.readouterr().err.count("policy 1 of 3 diverged at step 4 ") == 1


def test_a_gradient_that_is_not_finite_counts_as_well(tmp_path, monkeypatch):
    structure = grid(2, 4)
    cls, calls = type(structure.arch), [0]
    backward = cls.backward

    def overflow(self, module, weights, cache, grad_logits, out_grads):
        backward(self, module, weights, cache, grad_logits, out_grads)
        calls[0] += 1
        if calls[0] == 3:
            out_grads["net.2.weight"][BAD, 0, 0] = torch.inf

    monkeypatch.setattr(cls, "backward", overflow)
    seen = watched(monkeypatch)
    found = trained(structure, tmp_path)
    assert found.provenance["members"][BAD]["diverged_at"] == 3
    assert found.weights[BAD].equal(seen[1][BAD])
    assert found.weights.isfinite().all()


@pytest.mark.parametrize("objective", LOSSES)
def test_a_stopped_run_remembers_who_has_diverged(tmp_path, monkeypatch, capfd, objective):
    structure, start = grid(2, 4), lively(grid(2, 4), MEMBERS, scale=1.0).weights
    start[BAD] = 1e30
    expected = trained(structure, tmp_path / "whole", start, objective=objective)
    after_step = PopulationTrainee.after_step
    stops = {4: signal.SIGTERM}

    def stop(self, step):
        after_step(self, step)
        if step in stops:
            signal.raise_signal(stops.pop(step))

    monkeypatch.setattr(PopulationTrainee, "after_step", stop)
    capfd.readouterr()
    with pytest.raises(KeyboardInterrupt):
        trained(structure, tmp_path / "parts", start, objective=objective)
    found = trained(structure, tmp_path / "parts", start, objective=objective)
    assert capfd.readouterr().err.count("diverged") == 1
    assert found.weights.equal(expected.weights)
    assert found.provenance["members"] == expected.provenance["members"]
    assert found.provenance["history"] == expected.provenance["history"]


def test_when_all_have_diverged_the_run_stops(tmp_path, monkeypatch, capfd):
    structure = grid(2, 4)
    start = torch.full((2, structure.layout.size), 1e30)
    with pytest.raises(
        GenflowError, match=r"ndim=2,height=4.*the loss became nan at step 1; lower the learning rate \(no"
    ) as caught:
        trained(structure, tmp_path, start)
    assert "\n" not in str(caught.value)
    # also where one follows the other
    start = lively(structure, 2, scale=1.0).weights
    start[0] = 1e30
    spoil(monkeypatch, "tb", 5)
    with pytest.raises(GenflowError, match=r"nan at step 6;"):
        trained(structure, tmp_path, start)
    assert capfd.readouterr().err.count("policy 0 of 2 diverged at step 1 ") == 1


def zoo_of(folder, weights, members):
    """A zoo of one structure, and one of another whose policies all learned."""
    for height, (own, facts) in {4: (weights, members), 5: (None, [{}, {}])}.items():
        population = lively(grid(2, height), len(facts), scale=1.0)
        weights_of = population.weights if own is None else own
        provenance = {"source": "trained", "members": facts}
        Population(population.structure, weights_of, provenance).save(folder / str(height))
    return Zoo(folder)


def test_nothing_is_learned_from_what_has_diverged(tmp_path, capfd):
    weights = lively(grid(2, 4), 3, scale=1.0).weights
    weights[BAD] *= 1e6
    marked = zoo_of(tmp_path / "marked", weights, [{}, {"diverged_at": 3}, {}])
    rest = zoo_of(tmp_path / "rest", weights[[0, 2]], [{}, {}])
    steps = {"autoencoder.steps": 2, "diffusion.steps": 2, "autoencoder.options.latent_size": 8}
    config = load_config(env="hypergrid", **steps)
    found, said = [], []
    for zoo in (marked, rest):
        out = zoo.folder.with_name(zoo.folder.name + "-run")
        train_autoencoder(config, zoo, out / "ae", Progress())
        generator = train_generator(config, zoo, out / "ae", out / "generator", Progress())
        tensors = {**generator.encoder.state_dict(), **generator.denoiser.state_dict()}
        rivals = baselines(grid(2, 4), zoo, ["mean", "perturbed"], 3, 0, 0.1)
        found.append(
            [generator.latent_mean, generator.latent_std, *tensors.values(), *(p.weights for p in rivals)]
        )
        evaluate_folder(
            config, [Population.initialised(grid(2, 4), 1, 0)], zoo, out / "evaluation", Progress()
        )
        said.append(
            capfd.readouterr().err.count("zoo: 1 of 5 policies diverged in training and are left out")
        )
    assert all(a.equal(b) for a, b in zip(*found, strict=True))
    assert said == [2, 0]  # once in training, once in evaluation


def test_a_structure_of_which_all_have_diverged_is_refused(tmp_path):
    lost = zoo_of(tmp_path / "zoo", lively(grid(2, 4), 2).weights, [{"diverged_at": 1}] * 2)
    config = load_config(env="hypergrid")
    name = grid(2, 4).name
    for learn in (
        lambda: train_autoencoder(config, lost, tmp_path / "ae", Progress(quiet=True)),
        lambda: baselines(grid(2, 4), lost, ["mean"], 3, 0, 0.1),
    ):
        with pytest.raises(GenflowError, match=f"all policies of {name} diverged in training; train them"):
            learn()
    assert not (tmp_path / "ae").exists()
