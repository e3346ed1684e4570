"""The maximum-entropy backward policy: flows in closed form against dynamic programming, and what follows."""

from __future__ import annotations

import json
import math

import pytest
import torch
from genflow_hypergrid import maxent
from genflow_hypergrid.maxent import MaxentExpert, MaxentFlows
from genflow_hypergrid.rehearsals import random_target
from gfn.estimators import DiscretePolicyEstimator
from gfn.gflownet import DBGFlowNet, SubTBGFlowNet, TBGFlowNet
from oracles import chi_square, lively, optimal
from processes import genflow

from genflow import Generator, GenflowError, Population, Structure
from genflow.ancestry import sample_backwards
from genflow.measure import all_metrics
from genflow.training.objectives import detailed_balance, sub_trajectory_balance, trajectory_balance


def grid(height: str = "4+5+3", **fields) -> Structure:
    """A small grid under the maximum-entropy backward policy."""
    heights = [int(each) for each in height.split("+")]
    return Structure.build("hypergrid", {"height": heights, "width": 8, "backward": "maxent", **fields})


def n_trajectories(states: torch.Tensor) -> torch.Tensor:
    """The number of trajectories to each of all states of a grid, by adding up those to its parents."""
    found: dict[tuple[int, ...], int] = {}
    for state in sorted(map(tuple, states.tolist()), key=sum):
        parents = [(*state[:i], state[i] - 1, *state[i + 1 :]) for i in range(len(state)) if state[i]]
        found[state] = sum(found[parent] for parent in parents) if parents else 1
    return torch.tensor([found[tuple(state)] for state in states.tolist()], dtype=torch.float64)


@pytest.mark.parametrize("reward", ["original", "paper", "cosine", "deceptive"])
@pytest.mark.parametrize("height", ["3+3", "4+5+3", "11", "2+3+2+4"])
def test_flows_in_closed_form_are_those_of_dynamic_programming(height, reward):
    structure = grid(height, reward=reward)
    flows = structure.solution.optimal_flows()
    log_flow, policy = MaxentFlows(structure.environment.reward.target).at(structure.solution.graph.states)
    torch.testing.assert_close(log_flow, flows.state, rtol=0, atol=1e-11)
    torch.testing.assert_close(policy, flows.policy, rtol=0, atol=1e-11)
    assert flows.log_z == pytest.approx(structure.solution.log_partition(), abs=1e-12)


def test_flows_of_tall_grids_are_as_exact_with_the_nodes_that_are_taken(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    for heights in [(60,) * 6, (100, 30, 80), (40,) * 10]:
        target = random_target(heights, rng)
        flows = MaxentFlows(target)
        states = flows.draw_visited(40, rng)
        log_flow, policy = flows.at(states)
        with monkeypatch.context() as patch:
            patch.setattr(maxent, "n_nodes", lambda heights: (sum(heights) - len(heights)) // 2 + 1)
            exact_flow, exact_policy = MaxentFlows(target).at(states)
        torch.testing.assert_close(log_flow, exact_flow, rtol=0, atol=1e-9)
        torch.testing.assert_close(policy, exact_policy, rtol=0, atol=1e-9)
        start = torch.zeros(1, len(heights), dtype=torch.long)
        assert float(flows.at(start)[0]) == pytest.approx(target.log_z, abs=1e-9)


def test_trajectories_are_counted_and_backward_probabilities_follow():
    structure = grid()
    transitions, states = structure.transitions(), structure.solution.graph.states
    counts = n_trajectories(states)
    torch.testing.assert_close(transitions.log_n_trajectories(states).exp(), counts)
    probs = transitions.backward_probs(states)
    torch.testing.assert_close(probs.sum(1), (states.sum(1) > 0).double())
    # what the interface says of any environment that counts them is what the grid says faster
    plain = super(type(transitions), transitions)
    torch.testing.assert_close(plain.backward_probs(states), probs)
    moved = states.sum(1) > 0
    parents = states[moved].clone()
    place = torch.arange(len(parents)), parents.argmax(1)
    parents[place] -= 1
    expected = probs[moved][place].log()
    torch.testing.assert_close(
        transitions.log_pb(parents, states[moved]).double(), expected, rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(plain.log_pb(parents, states[moved]), expected)


def test_all_trajectories_to_an_object_are_equally_likely():
    structure = grid("3+4")
    target = torch.tensor([[2, 2]]).expand(6000, 2)
    drawn = sample_backwards(structure.transitions(), target, torch.Generator().manual_seed(0))
    assert drawn.complete.all()
    torch.testing.assert_close(drawn.log_pb, torch.full((6000,), -math.log(6), dtype=torch.float64))
    forwards = drawn.forwards((1, 6000))
    ways = (forwards.actions[:4, 0] * (2 ** torch.arange(4))[:, None]).sum(0)
    counts = torch.bincount(ways).float()
    counts = counts[counts > 0]
    assert len(counts) == 6 and abs(chi_square(counts, torch.full((6,), 1000.0))) < 4


def maxent_estimator(structure: Structure) -> DiscretePolicyEstimator:
    """torchgfn's estimator of the maximum-entropy backward policy, whose logits are log x_i."""
    env, preprocessor = structure.transitions().env, structure.transitions().preprocessor
    heights = structure.environment.config.heights

    class Logs(torch.nn.Module):
        input_dim = sum(heights)

        def forward(self, x):
            places = [part.argmax(-1) for part in x.split(heights, dim=-1)]
            return torch.stack(places, dim=-1).to(x.dtype).log()

    return DiscretePolicyEstimator(Logs(), env.n_actions, preprocessor=preprocessor, is_backward=True)


class Flow(torch.nn.Module):
    """log F of a linear function of the inputs."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.input_dim, self.weight = n_inputs, torch.linspace(-1, 1, n_inputs)

    def forward(self, x):
        """(..., s) -> (..., 1)."""
        return (x @ self.weight)[..., None]


@pytest.mark.parametrize("heights", ["4+4+4", "4+5+3"])
def test_losses_are_torchgfns_with_its_own_backward_estimator(heights):
    from gfn.estimators import ScalarEstimator

    structure = grid(heights)
    env, preprocessor = structure.transitions().env, structure.transitions().preprocessor
    population = lively(structure, 1)
    rollouts = population.rollouts(40, 0)
    log_pf = rollouts.log_pf(rollouts.logits)
    tops = structure.environment.config.heights
    batch = _trajectories(structure, rollouts)
    forward, backward = population.to_estimator(), maxent_estimator(structure)
    balance = TBGFlowNet(forward, backward, init_logZ=0.7)
    torch.testing.assert_close(
        trajectory_balance(rollouts, log_pf, torch.tensor([0.7]))[0],
        balance.loss(env, batch, recalculate_all_logprobs=True),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    module = Flow(sum(tops))
    log_flow = module(rollouts.inputs)[..., 0]
    estimator = ScalarEstimator(module, preprocessor=preprocessor)
    db = DBGFlowNet(forward, backward, logF=estimator)
    torch.testing.assert_close(
        detailed_balance(rollouts, log_pf, log_flow)[0],
        db.loss(env, db.to_training_samples(batch), recalculate_all_logprobs=True),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    sub = SubTBGFlowNet(forward, backward, logF=estimator, weighting="geometric_within", lamda=0.9)
    torch.testing.assert_close(
        sub_trajectory_balance(rollouts, log_pf, log_flow)[0],
        sub.loss(env, batch, recalculate_all_logprobs=True),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def _trajectories(structure, rollouts):
    """The rollouts of one policy as torchgfn's trajectories."""
    from gfn.containers import Trajectories

    env, n = structure.transitions().env, structure.environment.config.ndim
    count = rollouts.log_reward.shape[1]
    states = env.sf.expand(rollouts.length + 1, count, n).clone()
    actions = torch.full((rollouts.length, count, 1), -1)
    ends = torch.zeros(count, dtype=torch.long)
    rows = rollouts.rows(rollouts.states)[0]
    for k in range(rollouts.valid.shape[1]):
        if rollouts.valid[0, k]:
            b, t = divmod(int(rollouts.places[0, k]), rollouts.length)
            states[t, b], actions[t, b, 0] = rows[k], rollouts.actions[0, k]
            ends[b] = max(int(ends[b]), t + 1)
    return Trajectories(env, env.States(states), env.actions_from_tensor(actions), ends)


def test_the_optimal_policy_is_balanced_and_both_bounds_are_zero():
    structure = grid("4+4+4")
    population = optimal(structure)
    assert population.structure.environment.backward == "maxent"
    for name in ("js", "kl_bound", "reverse_kl_bound", "log_z_gap", "log_z_error"):
        assert abs(float(all_metrics()[name](population))) < 2e-3, name
    uniform = Population(
        Structure.of(
            structure.varied({"backward": "uniform"}).environment,
            population.structure.arch,
            "hypergrid",
            "lookup",
        ),
        population.weights,
    )
    # the same policy ends in the same distribution, and is balanced under no other backward policy
    assert float(all_metrics()["js"](uniform)) < 1e-4
    assert float(all_metrics()["kl_bound"](uniform)) > 0.01


@pytest.mark.parametrize("backward", ["uniform", "maxent"])
def test_bounds_are_above_the_divergences(backward):
    structure = grid("4+4+4", backward=backward)
    population = lively(structure, 3)
    metrics = all_metrics()
    assert (metrics["kl_bound"](population) > metrics["kl"](population)).all()
    assert (metrics["reverse_kl_bound"](population) > metrics["kl_reverse"](population)).all()
    assert metrics["reverse_kl_bound"](population).equal(metrics["log_z_gap"](population))


def test_states_are_drawn_by_visits_and_uniformly():
    structure = grid("3+4")
    flows = structure.solution.optimal_flows()
    expert = MaxentExpert(MaxentFlows(structure.environment.reward.target))
    assert expert.length == pytest.approx(float(flows.visit.sum()), rel=1e-9)
    assert structure.solution.expert.length == pytest.approx(expert.length, rel=1e-9)
    for uniform, weights in ((0.0, flows.visit), (1.0, torch.ones(12, dtype=torch.float64))):
        states, masks, policy = expert.draw(20_000, uniform, torch.Generator().manual_seed(1))
        place = structure.transitions().state_ids(states)
        counts = torch.bincount(place, minlength=12)
        assert abs(chi_square(counts, 20_000 * weights / weights.sum())) < 4
        torch.testing.assert_close(policy, flows.policy[place].float(), rtol=1e-5, atol=1e-7)
        assert masks.equal(structure.transitions().forward_masks(states))


def test_what_is_not_separable_has_no_optimal_policy_beyond_enumeration():
    small = grid("5+5", reward="bitwise_xor")
    assert small.solution.expert.length > 1
    large = Structure.parse("hypergrid", "ndim=8,height=20,backward=maxent,reward=bitwise_xor")
    with pytest.raises(
        GenflowError, match=r"needs a reward that is a sum of products .* use reward=separable"
    ):
        large.solution.require_expert()
    Structure.parse("hypergrid", "ndim=8,height=20,backward=maxent,reward=cosine").solution.require_expert()
    huge = Structure.parse("hypergrid", "ndim=64,height=1024,backward=maxent")
    assert huge.solution.log_partition() > 400
    with pytest.raises(
        GenflowError, match=r"need tables of .* numbers \(the limit is .*; use a smaller grid"
    ):
        huge.solution.require_expert()


def test_an_environment_that_counts_no_trajectories_has_no_maximum_entropy_policy():
    from genflow_hypergrid.environment import Hypergrid

    from genflow import Environment

    class Uncounted(Hypergrid):
        transitions = Environment.transitions

    structure = grid("3+3")
    own = Structure.of(Uncounted(structure.environment.config, structure.environment.reward), structure.arch)
    with pytest.raises(GenflowError, match=r"needs the number of trajectories .* use backward=uniform"):
        own.transitions()


def test_a_wrong_count_of_trajectories_is_told():
    from genflow_hypergrid.environment import Hypergrid
    from genflow_hypergrid.transitions import GridTransitions

    from genflow import Transitions

    class Wrong(GridTransitions):
        log_pb, backward_probs = Transitions.log_pb, Transitions.backward_probs

        def log_n_trajectories(self, states):
            return super().log_n_trajectories(states) + 0.1 * states.sum(-1)

    class Miscounted(Hypergrid):
        def transitions(self, device):
            return Wrong(self.make, device, self.config.heights, self.reward)

    structure = grid("3+3")
    own = Structure.of(Miscounted(structure.environment.config, structure.environment.reward), structure.arch)
    with pytest.raises(GenflowError, match="log_n_trajectories must count all alike"):
        own.transitions()


RECIPE = """
env = "hypergrid"
structures = [
  "ndim=2,height=4,width=8,backward=maxent",
  "ndim=2,height=7,width=8,R0=0.01,backward=maxent",
  'height=3+5,width=8,backward=maxent,reward=separable,terms="0.1; 1: exp(-x); 1 - u; [1,0,1] | x == 2"',
  'ndim=3,height=4,width=8,backward=maxent,reward=separable,terms="0.3; u; exp(-x) | x < 2 | u; u > .4"',
  'height=9+4,width=8,backward=maxent,reward=separable,terms="0.3; exp(-x / 3) | u; u < .7; exp(-x)"',
]
[zoo]
num = 2
objective = "distill"
steps = 20
[autoencoder]
encoder = "coordinate"
kl_scale = 1.0
batch_size = 3
per_structure = 1
steps = 12
[autoencoder.options]
pool = true
reference = "optimal"
swap_probability = 0.9
rehearsal_probability = 0.7
hidden = 16
embedding = 8
[diffusion]
denoiser = "unet1d"
steps = 5
[diffusion.options]
channels = [8, 8]
patch = 1
[diffusion.sampling]
steps = 3
"""


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    root = tmp_path_factory.mktemp("maxent")
    (root / "recipe.toml").write_text(RECIPE)
    genflow("train-ldm", "--config", "recipe.toml", "--out", "run", cwd=root)
    return root


def test_a_generator_fills_in_the_backward_policy_that_is_left_open(chain):
    made = Generator.from_pretrained(chain / "run")
    population = made.generate("ndim=2,height=5,width=8", 2)
    assert population.structure.environment.backward == "maxent"
    assert population.structure == made.generate("ndim=2,height=5,width=8,backward=maxent", 2).structure
    with pytest.raises(GenflowError, match="backward=maxent, not uniform"):
        made.generate("ndim=2,height=5,width=8,backward=uniform", 1)
    with pytest.raises(
        GenflowError,
        match=r"not bitwise_xor.*: bitwise_xor is no sum of products over the dimensions; generate for",
    ):
        made.generate("ndim=2,height=16,width=8,reward=bitwise_xor", 1)


def test_any_separable_reward_and_any_heights_are_generated_for_on_the_command_line(chain):
    size, terms = "height=6+3,width=8,reward=separable", "0.2; 1: exp(-x) | u"
    arguments = ("--structure", f'{size},terms="{terms}"', "--num", "2", "--out", "made")
    genflow("generate", "--env", "hypergrid", "--generator", "run", *arguments, cwd=chain)
    (entry, *_) = json.loads(genflow("evaluate", "made", "--json", cwd=chain).stdout)
    assert entry["structure"]["backward"] == "maxent" and entry["structure"]["height"] == [6, 3]
    assert entry["metrics"]["kl_bound"]["mean"] > 0 < entry["metrics"]["js"]["mean"]
    genflow(
        "finetune",
        "made",
        "--out",
        "tuned",
        "-o",
        "finetune.steps=3",
        "-o",
        "finetune.batch_size=4",
        cwd=chain,
    )
    assert (
        Population.load(chain / "tuned" / "finetuned").structure == Population.load(chain / "made").structure
    )
    genflow("sample", "made", "--num", "5", "--out", "objects.csv", cwd=chain)
    assert len((chain / "objects.csv").read_text().splitlines()) == 6
