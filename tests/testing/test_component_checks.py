"""Each check of a reward, policy, encoder, denoiser or metric finds its mistake, and names the mend."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from bits import Bits, BitsEnv, Linear, Ones, always, bits
from oracles import grid
from torch import nn

from genflow import Denoiser, Encoder, Metric, PolicyArch, Schema, Starts, Structure, mean_l1
from genflow.testing import denoiser_checks as denoisers
from genflow.testing import encoder_checks as encoders
from genflow.testing import metric_checks as metrics
from genflow.testing import policy_checks as policies
from genflow.testing import reward_checks as rewards
from genflow.testing.outcomes import made
from genflow.testing.plans import DENOISER, ENCODER, METRIC, POLICY, REWARD


def found(check, subject) -> str:
    """The first finding of a check."""
    outcome = made(check, lambda: subject, "here")
    assert outcome.findings, outcome
    return outcome.findings[0]


def passes(check, subject) -> None:
    outcome = made(check, lambda: subject, "here")
    assert not outcome.findings and outcome.skipped is None, outcome


def planted(table) -> set:
    return {check for check, *_ in table.values()}


def each_of(table):
    return pytest.mark.parametrize(("check", "members", "mend"), table.values(), ids=table.keys())


# rewards


def paid(pays=None, **members) -> rewards.RewardUnderTest:
    """The task of bits with another reward, of which torchgfn's environment pays what `pays` says."""
    own = {} if pays is None else {"reward": lambda env, states: pays(env.score(states.tensor), states)}
    task = type("Bits", (Bits,), {"torchgfn": type("BitsEnv", (BitsEnv,), own)})
    config = task.Config()
    reward = type("Ones", (Ones,), members)(None, config)
    return rewards.RewardUnderTest(Structure.of(task(config, reward), Linear(), "bits", "linear"))


def alike(scores, states):
    return torch.ones(len(states))


def relative(self, objects):
    return objects.double().sum(-1) / objects.double().sum(-1).max()


REWARDS = {
    "another environment": (rewards.check_class, {"environment": "grid"}, "write environment = 'bits'"),
    "a word for a truth": (rewards.check_class, {"expensive": "no"}, "write expensive = True or"),
    "one score for all": (
        rewards.check_scores, {"score": lambda self, x: x.double().mean()[None], "pays": alike},
        "a score for each in order",
    ),
    "no number": (
        rewards.check_scores, {"score": lambda self, x: x.sum(-1) * torch.nan, "pays": alike},
        "return finite numbers",
    ),
    "scores relative to the batch": (
        rewards.check_scores_alone, {"score": relative}, "by numbers of the task, not of the batch",
    ),
    "random scores": (
        rewards.check_scores_alone, {"score": lambda self, x: torch.rand(len(x)) + 1}, "seed what is random",
    ),
    "a task that is read": (
        rewards.check_task, {"reads_task": False, "score": lambda self, x: x.sum(-1) / self.task.n},
        "write reads_task = True",
    ),
    "a task that changes scores": (
        rewards.check_task,
        {"reads_task": False, "score": lambda self, x: x.sum(-1) + (1.0 if self.task is None else 2.0)},
        "write reads_task = True",
    ),
    "modes in a list": (
        rewards.check_modes, {"is_mode": lambda self, objects: [True] * len(objects)}, "(4,) bool, or None",
    ),
}  # fmt: skip


@each_of(REWARDS)
def test_a_mistake_of_a_reward_is_found(check, members, mend):
    assert mend in found(check, paid(**members))


def test_a_slow_reward_must_say_that_it_is_expensive(monkeypatch):
    monkeypatch.setattr(rewards, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    (note,) = made(rewards.check_expensive, lambda: paid(), "here").notes
    assert "write expensive = True" in note
    passes(rewards.check_expensive, paid(expensive=True))


@pytest.mark.parametrize("check", REWARD, ids=lambda check: check.__name__)
def test_a_reward_without_a_mistake_passes(check):
    passes(check, paid())


# policies


class Spread(nn.Module):
    """A layer whose logits are relative to the batch."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.add_module("0", nn.Linear(n_inputs, n_outputs))

    def forward(self, x):
        """(B, s) -> (B, A)."""
        logits = getattr(self, "0")(x)
        return logits - logits.mean(0)


def two_widths(self, n_inputs, n_outputs):
    return nn.Sequential(nn.Linear(n_inputs, 4), nn.Linear(4, 5), nn.Linear(5, n_outputs))


def one_label(self):
    labels = [("hidden", "input"), ("hidden", "hidden"), ("action", "hidden")]
    return {
        name: own
        for i, each in enumerate(labels)
        for name, own in ((f"{i}.weight", each), (f"{i}.bias", each[:1]))
    }


def constant(self, n_inputs, n_outputs):
    module = Linear.build(self, n_inputs, n_outputs)
    for each in module.parameters():
        nn.init.ones_(each)
    return module


def doubled(self, module, weights):
    forward = PolicyArch.forward_with_cache(self, module, weights)

    def twice(x):
        logits, cache = forward(x)
        return 2 * logits, cache

    return twice


def uncached(self, module, weights):
    forward = PolicyArch.forward_with_cache(self, module, weights)
    return lambda x: (forward(x)[0], (torch.zeros(1),))


def no_gradient(self, module, weights, cache, grad_logits, out_grads):
    for each in out_grads.values():
        each.zero_()


POLICIES = {
    "no input": (
        policies.check_axes, {"axes": always({"0.weight": ("action", "in"), "0.bias": ("action",)})},
        "give it to the axis that has a unit for each input",
    ),
    "one label for two widths": (
        policies.check_axes, {"build": two_widths, "axes": one_label}, "label to the same units alone",
    ),
    "the environment's names": (
        policies.check_condition_numbers, {"condition": always({"n": 1.0})}, "choose other names",
    ),
    "three dimensions": (
        policies.check_module,
        {"build": lambda self, s, a: nn.Sequential(nn.Linear(s, a), nn.Unflatten(-1, (a, 1)))},
        "the logits must be",
    ),
    "dropout": (
        policies.check_module, {"build": lambda self, s, a: nn.Sequential(nn.Linear(s, a), nn.Dropout())},
        "leave out what is random",
    ),
    "a batch": (policies.check_module, {"build": lambda self, s, a: Spread(s, a)}, "leave out what mixes"),
    "constant weights": (policies.check_weights, {"build": constant}, "draw them"),
    "another forward": (
        policies.check_forward, {"forward": lambda self, m, w, x: 2 * PolicyArch.forward(self, m, w, x)},
        "or leave the method out",
    ),
    "another forward with a cache": (
        policies.check_cached_forward, {"forward_with_cache": doubled}, "or leave the method out",
    ),
    "a cache of no rows": (
        policies.check_cached_forward, {"forward_with_cache": uncached}, "cache must be tensors (M, B, ...)",
    ),
    "no gradient": (policies.check_gradients, {"backward": no_gradient}, "write it to out_grads[name]"),
}  # fmt: skip


@each_of(POLICIES)
def test_a_mistake_of_a_policy_is_found(check, members, mend):
    assert mend in found(check, policies.PolicyUnderTest(bits(policy=members)))


@pytest.mark.parametrize("check", POLICY, ids=lambda check: check.__name__)
def test_a_policy_without_a_mistake_passes(check):
    passes(check, policies.PolicyUnderTest(bits()))


def test_a_policy_that_no_encoder_takes_is_told(monkeypatch):
    task = policies.PolicyUnderTest(grid(2, 3))
    outcome = made(policies.check_encoders, lambda: [task], "here")
    assert outcome.notes == ("encoders that take it: conv1d, coordinate",) and not outcome.findings
    monkeypatch.setattr(policies, "registry", lambda: SimpleNamespace(names=lambda kind: []))
    assert "so that one does" in found(policies.check_encoders, [task])


# encoders


class Table(Encoder):
    """A latent is the first weights, and is decoded by a learned matrix."""

    class Config(Schema):
        """None."""

    def __init__(self, config, length):
        super().__init__(config)
        self.latent_size, self.length = 4, length
        self.table = nn.Parameter(torch.randn(4, length))
        self.register_buffer("scale", torch.rand(4))

    @classmethod
    def for_zoo(cls, config, populations, starts=None):
        """Of the largest layout."""
        return cls(config, max(each.layout.size for each in populations))

    def spec(self):
        """The largest layout."""
        return {"length": self.length}

    @classmethod
    def from_spec(cls, config, spec):
        """A table of that size."""
        return cls(config, spec["length"])

    def encode(self, population):
        """(M, 4)."""
        return population.weights[:, :4] * self.scale

    def decode(self, latents, layout, condition):
        """(M, D)."""
        return (latents @ self.table)[:, : layout.size]

    def reconstruct(self, populations, noise):
        """The squared error."""
        weights = [self.decode(noise(each.weights[:, :4]), each.layout, None) for each in populations]
        errors = [(mine - each.weights).square() for mine, each in zip(weights, populations, strict=True)]
        return torch.cat([error.mean(1) for error in errors]), weights


class Odd(Starts):
    """Starts that are no JSON."""

    def facts(self):
        """A tensor."""
        return {"scale": torch.ones(1)}


class Drawn(Starts):
    """Starts that no seed decides."""

    def weights(self, untrained, seed):
        """(M, D)."""
        return torch.rand_like(untrained.weights)


def refuses(self, layout):
    from genflow import GenflowError

    raise GenflowError("no such layout")


def reconstructed(change):
    """`reconstruct` with other losses and weights."""
    return {
        "reconstruct": lambda self, populations, noise: change(*Table.reconstruct(self, populations, noise))
    }


def with_idle(self, config, length):
    Table.__init__(self, config, length)
    self.idle = nn.Parameter(torch.ones(1))


def without_buffer(self, config, length):
    Table.__init__(self, config, length)
    del self.scale
    self.scale = torch.rand(4)


ENCODERS = {
    "a word for a truth": (encoders.check_class, {"reads_units": "yes"}, "write True or False"),
    "facts that are no JSON": (
        encoders.check_class, {"starts": classmethod(lambda *_: Odd())}, "return texts, numbers",
    ),
    "starts that nothing decides": (
        encoders.check_class, {"starts": classmethod(lambda *_: Drawn())}, "draw weights() from the seed",
    ),
    "latents of another size": (
        encoders.check_latents, {"encode": lambda self, p: p.weights[:, :3]}, "as latent_size says",
    ),
    "random latents": (
        encoders.check_latents, {"encode": lambda self, p: torch.rand(len(p), 4)}, "leave noise to noisy()",
    ),
    "latents of a population": (
        encoders.check_latents, {"encode": lambda self, p: p.weights[:, :4] - p.weights[:, :4].mean(0)},
        "encode each row alone",
    ),
    "weights of another size": (
        encoders.check_decoding, {"decode": lambda self, z, layout, c: z @ self.table}, "float32, finite",
    ),
    "other weights of several": (
        encoders.check_decoding,
        {"decode_all": lambda self, items: [2 * self.decode(*item) for item in items]}, "or leave it out",
    ),
    "its own zoo refused": (encoders.check_decoding, {"check": refuses}, "accept what for_zoo() was given"),
    "a spec that is no JSON": (
        encoders.check_spec, {"spec": lambda self: {"length": torch.ones(1)}}, "return texts, numbers",
    ),
    "a spec of another size": (
        encoders.check_spec, {"spec": lambda self: {"length": self.length + 1}}, "hold what decides them",
    ),
    "a number outside the spec": (
        encoders.check_spec, {"__init__": without_buffer}, "in spec() and in buffers",
    ),
    "one loss for all": (
        encoders.check_reconstruction, reconstructed(lambda losses, weights: (losses.mean()[None], weights)),
        "one a policy",
    ),
    "weights of one structure": (
        encoders.check_reconstruction, reconstructed(lambda losses, weights: (losses, weights[:1])),
        "those of each population",
    ),
    "noise of its own": (
        encoders.check_reconstruction,
        reconstructed(lambda losses, weights: (losses + torch.rand(len(losses)), weights)),
        "take it from the argument `noise`",
    ),
    "no gradient": (
        encoders.check_reconstruction, reconstructed(lambda losses, weights: (losses.detach(), weights)),
        "without no_grad()",
    ),
    "an idle parameter": (encoders.check_reconstruction, {"__init__": with_idle}, "or make it a buffer"),
}  # fmt: skip


def encoder(**members) -> encoders.EncoderUnderTest:
    return encoders.EncoderUnderTest(type("Own", (Table,), members), [grid(2, 3), grid(2, 4)])


@each_of(ENCODERS)
def test_a_mistake_of_an_encoder_is_found(check, members, mend):
    assert mend in found(check, encoder(**members))


@pytest.mark.parametrize("check", ENCODER, ids=lambda check: check.__name__)
def test_an_encoder_without_a_mistake_passes(check):
    passes(check, encoder())


# denoisers


class Sum(Denoiser):
    """A sum of what it is told."""

    def __init__(self, config=None, *, latent_size, condition_size):
        super().__init__(config, latent_size=latent_size, condition_size=condition_size)
        self.latent = nn.Linear(latent_size, latent_size)
        self.told = nn.Linear(condition_size + 1, latent_size)
        self.none = nn.Parameter(torch.zeros(latent_size))

    def forward(self, z_t, t, condition):
        """(B, Z)."""
        missing = condition.isnan().any(1, keepdim=True)
        told = self.told(torch.cat([condition.nan_to_num(), t[:, None] / 1000], 1))
        return self.latent(z_t) + torch.where(missing, self.none, told)


def predicted(change):
    """Another `forward`, a function of the true one and its arguments."""
    return {"forward": lambda self, z, t, c: change(Sum.forward(self, z, t, c), z, t, c)}


def unsaved(self, config=None, **sizes):
    Sum.__init__(self, config, **sizes)
    self.shift = torch.rand(1)


def idle_parameter(self, config=None, **sizes):
    Sum.__init__(self, config, **sizes)
    self.idle = nn.Parameter(torch.ones(1))


def prepared(self, t, condition):
    return [lambda z: z for _ in t]


DENOISERS = {
    "another shape": (denoisers.check_shape, predicted(lambda p, *_: p[:, :1]), "return their shape"),
    "chance": (denoisers.check_shape, predicted(lambda p, *_: p + torch.rand(1)), "leave out what is random"),
    "a batch": (denoisers.check_shape, predicted(lambda p, *_: p - p.mean(0)), "leave out what mixes"),
    "an unread condition": (
        denoisers.check_dependence, {"forward": lambda self, z, t, c: self.latent(z) + t[:, None]},
        "depend on the condition; let",
    ),
    "no condition": (
        denoisers.check_no_condition, predicted(lambda p, z, t, c: p + c[:, :1]), "replace such rows",
    ),
    "others without condition": (
        denoisers.check_no_condition, predicted(lambda p, z, t, c: p + c.isnan().any()), "each row alone",
    ),
    "another prediction": (denoisers.check_prepare, {"prepare": prepared}, "or leave it out"),
    "a number that is not saved": (
        denoisers.check_spec,
        {"__init__": unsaved, "forward": lambda self, z, t, c: Sum.forward(self, z, t, c) + self.shift},
        "in parameters and buffers",
    ),
    "an idle parameter": (denoisers.check_gradients, {"__init__": idle_parameter}, "or make it a buffer"),
}  # fmt: skip


@each_of(DENOISERS)
def test_a_mistake_of_a_denoiser_is_found(check, members, mend):
    assert mend in found(check, denoisers.DenoiserUnderTest(type("Own", (Sum,), members), 6))


@pytest.mark.parametrize("check", DENOISER, ids=lambda check: check.__name__)
def test_a_denoiser_without_a_mistake_passes(check):
    passes(check, denoisers.DenoiserUnderTest(Sum, 6))


# metrics


class Distance(Metric):
    """The L1 distance from the target."""

    better = "lower"
    exact = True

    def __call__(self, population):
        """(M,)."""
        return mean_l1(population.terminal_distribution(), population.structure.solution.target())


def measured(change):
    """Another value, a function of the true one and of the population."""
    return {"__call__": lambda self, population: change(Distance.__call__(self, population), population)}


def shifting(values, population):
    population.weights.add_(0.1)
    return values


METRICS = {
    "a word that is unknown": (metrics.check_class, {"better": "less"}, 'better = "lower"'),
    "a word for a truth": (metrics.check_class, {"exact": 1}, "write exact = True or"),
    "one number": (metrics.check_values, measured(lambda v, p: v.mean()), "return (4,) float64"),
    "single precision": (metrics.check_values, measured(lambda v, p: v.float()), "return (4,) float64"),
    "infinity": (metrics.check_values, measured(lambda v, p: v / 0), "return NaN"),
    "no value": (metrics.check_values, measured(lambda v, p: v * torch.nan), "say in fits()"),
    "changed policies": (metrics.check_values, measured(shifting), "work on copies"),
    "chance": (
        metrics.check_values, measured(lambda v, p: v + torch.rand(1, dtype=v.dtype)), "seed what is random",
    ),
    "a rank": (
        metrics.check_values_alone, measured(lambda v, p: v.argsort().argsort().double()), "joint = True",
    ),
    "the wrong way": (metrics.check_perfect_policy, {"better": "higher"}, "correct the value or `better`"),
}  # fmt: skip


def metric(**members) -> metrics.MetricUnderTest:
    return metrics.MetricUnderTest(type("Own", (Distance,), members), grid(2, 4))


@each_of(METRICS)
def test_a_mistake_of_a_metric_is_found(check, members, mend):
    assert mend in found(check, metric(**members))


@pytest.mark.parametrize("check", METRIC, ids=lambda check: check.__name__)
def test_a_metric_without_a_mistake_passes(check):
    passes(check, metric())


@pytest.mark.parametrize(
    "members", [{"better": None}, {"fidelity": False}, {"joint": True}], ids=["none", "fidelity", "joint"]
)
def test_a_metric_of_which_no_policy_is_best_is_skipped_and_says_so(members):
    outcome = made(metrics.check_perfect_policy, lambda: metric(**members), "here")
    assert outcome.skipped and not outcome.findings


def test_every_check_has_a_planted_mistake():
    own = {check for check in REWARD if check.__module__ == rewards.__name__}
    assert planted(REWARDS) | {rewards.check_expensive} == own
    assert planted(POLICIES) == {*POLICY}
    assert planted(ENCODERS) == {*ENCODER}
    assert planted(DENOISERS) == {*DENOISER}
    assert planted(METRICS) == {*METRIC}
