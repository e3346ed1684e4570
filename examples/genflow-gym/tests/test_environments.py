"""The environments against torchgfn's own, and against sums over all objects."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from gfn.estimators import DiscretePolicyEstimator
from gfn.gflownet import TBGFlowNet
from gfn.samplers import Sampler

import genflow

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from gfn.gym.bitSequence import BitSequence
    from gfn.gym.bitSequenceNonAutoregressive import NonAutoregressiveBitSequence
    from gfn.gym.discrete_ebm import DiscreteEBM, IsingModel
    from gfn.gym.perfect_tree import PerfectBinaryTree
    from gfn.gym.set_addition import SetAddition

J = [[0, 0.5, -0.3], [0.5, 0, 0.8], [-0.3, 0.8, 0]]
TASKS = [
    ("bit_sequence", "word_size=2,modes=011010+110001,temperature=0.7"),
    ("bit_sequence_any_order", "word_size=2,modes=011010+110001,reward_exponent=5"),
    ("bit_sequence_any_order", "modes=0110"),
    ("set_addition", "n_items=5,max_items=3,values=1+0.5+-1+0.2+0"),
    ("set_addition", "n_items=4,max_items=2,fixed_length=true,values=1+0.5+-1+0.2"),
    ("discrete_ebm", "couplings=[[0,0.5,-0.3],[0.5,0,0.8],[-0.3,0.8,0]],fields=0.3+-0.1+0.4,alpha=0.5"),
    ("ising_lattice", "rows=3,columns=3,coupling=0.15"),
    ("perfect_tree", "depth=3,leaves=1+2+0.5+4+0.1+1+3+0.2"),
]


def task(env: str, text: str) -> genflow.Structure:
    return genflow.Structure.parse(env, f"{text},width=8")


@pytest.fixture(params=TASKS, ids=lambda pair: f"{pair[0]}:{pair[1][:20]}")
def structure(request) -> genflow.Structure:
    return task(*request.param)


def torchgfn_side(structure: genflow.Structure):
    """torchgfn's environment itself, without a line of ours."""
    c = structure.environment.config
    if structure.env in ("bit_sequence", "bit_sequence_any_order"):
        modes = torch.tensor([[int(bit) for bit in mode] for mode in c.modes])
        if structure.env == "bit_sequence":  # the modes as its blocks, each of them once
            return BitSequence(c.word_size, c.seq_size, len(modes), c.temperature, H=modes)
        return NonAutoregressiveBitSequence(c.word_size, c.seq_size, len(modes), c.reward_exponent, H=modes)
    if structure.env == "set_addition":
        values = torch.tensor(structure.environment.reward.config.values)
        return SetAddition(c.n_items, c.max_items, lambda x: (x @ values).exp(), c.fixed_length)
    if structure.env == "discrete_ebm":
        return DiscreteEBM(3, IsingModel(torch.tensor(J)), c.alpha)
    if structure.env == "ising_lattice":
        sites = torch.arange(9)
        near = torch.zeros(9, 9)
        for a, b in itertools.product(sites.tolist(), repeat=2):
            (i, j), (k, m) = divmod(a, 3), divmod(b, 3)
            near[a, b] = (i == k) != (j == m)  # on a torus of 3 x 3 all of a row or column are neighbours
        return DiscreteEBM(9, IsingModel(c.coupling * near))
    leaves = torch.tensor(structure.environment.reward.config.leaves)
    return PerfectBinaryTree(lambda nodes: leaves[nodes.squeeze(-1) - 7], 3)


def test_masks_and_rewards_are_torchgfns(structure):
    graph, theirs = structure.solution.graph, torchgfn_side(structure)
    transitions = structure.transitions()
    states = theirs.States(graph.states.clone())
    assert torch.equal(states.forward_masks, transitions.forward_masks(graph.states))
    assert torch.equal(states.forward_masks, graph.mask(torch.arange(len(graph.states))))
    ours = transitions.env.States(graph.states.clone())
    assert torch.equal(states.backward_masks, ours.backward_masks)
    ends = graph.states[graph.can_exit]
    paid = theirs.log_reward(theirs.States(ends.clone())).detach().double()
    if structure.env == "discrete_ebm":  # which has no fields
        fields = torch.tensor(structure.environment.config.fields, dtype=torch.float64)
        paid = paid + 0.5 * (2.0 * ends - 1).double() @ fields
    torch.testing.assert_close(transitions.log_reward(ends), paid, rtol=0, atol=1e-5)


def test_each_step_is_undone_and_changes_nothing_that_it_was_given(structure):
    graph, env = structure.solution.graph, structure.transitions().env
    rows, actions = graph.mask(torch.arange(len(graph.states)))[:, :-1].nonzero(as_tuple=True)
    before = graph.states[rows].clone()
    taken = env.actions_from_tensor(actions[:, None])
    given = env.States(before)
    after = env.step(given, taken)
    assert torch.equal(given.tensor, graph.states[rows])
    assert torch.equal(after.tensor, graph.states[graph.children[rows, actions].long()])
    # steps of trajectories of many lengths at once, as replay undoes them
    kept = after.tensor.clone()
    undone = env.backward_step(after, taken)
    assert torch.equal(after.tensor, kept)
    assert torch.equal(undone.tensor, before)
    parents = torch.zeros(len(graph.states), dtype=torch.long).index_add(
        0, graph.children[rows, actions].long(), torch.ones(len(rows), dtype=torch.long)
    )
    assert torch.equal(structure.transitions().n_parents(graph.states), parents)


def objects_of(structure: genflow.Structure) -> list[float]:
    """log R of every object, from the definition alone."""
    c = structure.environment.config
    if structure.env.startswith("bit_sequence"):
        cost = 1 / c.temperature if structure.env == "bit_sequence" else c.reward_exponent / c.seq_size
        words = ("".join(bits) for bits in itertools.product("01", repeat=c.seq_size))
        return [
            -cost * min(sum(a != b for a, b in zip(word, mode, strict=True)) for mode in c.modes)
            for word in words
        ]
    if structure.env == "set_addition":
        values = structure.environment.reward.config.values
        sizes = [c.max_items] if c.fixed_length else range(c.max_items + 1)
        return [sum(chosen) for size in sizes for chosen in itertools.combinations(values, size)]
    if structure.env == "perfect_tree":
        return [math.log(paid) for paid in structure.environment.reward.config.leaves]
    if structure.env == "discrete_ebm":
        return [
            0.5
            * (
                sum(J[i][k] * s[i] * s[k] for i in range(3) for k in range(3))
                + sum(map(math.prod, zip(c.fields, s, strict=True)))
            )
            for s in itertools.product((-1, 1), repeat=3)
        ]
    total = []
    for s in itertools.product((-1, 1), repeat=9):
        bonds = sum(
            s[3 * i + j] * (s[3 * i + (j + 1) % 3] + s[3 * ((i + 1) % 3) + j])
            for i in range(3)
            for j in range(3)
        )
        total.append(2 * c.coupling * bonds)
    return total


def test_log_z_is_a_sum_over_all_objects(structure):
    log_z = torch.tensor(objects_of(structure), dtype=torch.float64).logsumexp(0)
    solution = structure.solution
    assert float(log_z) == pytest.approx(solution.log_partition(), abs=1e-6)
    assert float(log_z) == pytest.approx(solution.optimal_flows().log_z, abs=1e-6)
    assert len(solution.graph.states) == solution.n_states
    assert int(solution.graph.can_exit.sum()) == len(objects_of(structure))


def test_torchgfn_finds_the_optimal_flows_balanced(structure):
    solution, env = structure.solution, structure.environment.make()[0]
    flows = solution.optimal_flows()
    places = {tuple(state): place for place, state in enumerate(solution.graph.states.tolist())}

    class Optimal(torch.nn.Module):
        input_dim, output_dim = 1, env.n_actions

        def forward(self, states):
            rows = [places[tuple(state)] for state in states.long().tolist()]
            return flows.policy[rows].log().float()

    from gfn.preprocessors import IdentityPreprocessor

    plain = IdentityPreprocessor(output_dim=None)
    forward = DiscretePolicyEstimator(Optimal(), n_actions=env.n_actions, preprocessor=plain)
    backward = DiscretePolicyEstimator.uniform(env.n_actions, preprocessor=plain)
    torch.manual_seed(0)
    trajectories = Sampler(forward).sample_trajectories(env, n=64, save_logprobs=False)
    balanced, off = (TBGFlowNet(forward, backward, init_logZ=flows.log_z + by) for by in (0.0, 1.0))
    for flow, loss in ((balanced, 0.0), (off, 1.0)):
        found = flow.loss(env, trajectories, recalculate_all_logprobs=True).item()
        assert found == pytest.approx(loss, abs=1e-4)


def test_what_is_made_up_is_taught_as_if_it_were_given(structure):
    """The expert of a made-up reward is the optimal policy of the task that pays it."""
    environment = structure.environment
    made, units = environment.rehearse(torch.Generator().manual_seed(3)), environment.units()
    assert made.inputs.shape == units.inputs.amounts.shape
    assert made.actions.shape == units.actions.amounts.shape
    assert not torch.equal(made.inputs, units.inputs.amounts)
    states, mask, policy = made.expert.draw(256, 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(mask, structure.transitions().forward_masks(states))
    torch.testing.assert_close(policy.sum(1), torch.ones(256), rtol=0, atol=1e-5)


@pytest.mark.parametrize("env, text", [TASKS[1], TASKS[5]])
def test_drawn_states_have_the_optimal_policy(env, text):
    from genflow_gym import filling

    structure = task(env, text)
    environment, solution = structure.environment, structure.solution
    places, values = solution.places, solution.values
    log_reward = environment.log_reward(filling.completed(places, values))
    rng = torch.Generator().manual_seed(0)
    expert = filling.drawn_expert(log_reward, places, values, environment.action, rng)
    states, _, policy = expert.draw(256, 0.0, rng)
    numbers = ((states + 1) * (values + 1) ** torch.arange(places - 1, -1, -1)).sum(1)
    torch.testing.assert_close(policy, solution.optimal_flows().policy[numbers].float(), rtol=0, atol=1e-5)
    assert expert.length == pytest.approx(solution.expert.length)


def test_a_file_of_couplings_is_its_content(tmp_path):
    path = tmp_path / "j.csv"
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in J))
    text = "[" + ",".join(f"[{','.join(map(str, row))}]" for row in J) + "]"
    given = genflow.Structure.parse("discrete_ebm", f"couplings={path}")
    assert given == genflow.Structure.parse("discrete_ebm", f"couplings={text}")
    assert str(path) not in str(given.fields())


@pytest.mark.parametrize(
    "env, text, said",
    [
        ("discrete_ebm", "couplings=none.csv", "file 'none.csv' cannot be read"),
        ("discrete_ebm", "couplings=[[0,1],[2,0]]", "not symmetric: row 2 has 2 where row 1 has 1"),
        ("discrete_ebm", "alpha=1", "couplings is missing"),
        ("bit_sequence", "modes=01+011", "mode 011 has 3 bits for seq_size=2"),
        ("bit_sequence", "modes=0110,word_size=3", "word_size times 1 to 12 words"),
        ("bit_sequence_any_order", "modes=01+01", "a mode stands there twice"),
        ("set_addition", "n_items=3,max_items=4", "max_items=4 is more than n_items=3"),
        ("set_addition", "n_items=3,values=1+2", "values is for 2 items, and n_items=3"),
        ("perfect_tree", "depth=2,leaves=1+2", "leaves has 2 numbers; a tree of depth=2 has 4 leaves"),
        ("perfect_tree", "depth=1,leaves=1+0", "each must be above 0"),
    ],
)
def test_mistakes_are_one_line(env, text, said):
    with pytest.raises(genflow.GenflowError, match=r"^[^\n]*$") as caught:
        genflow.Structure.parse(env, text).layout  # noqa: B018
    assert said in str(caught.value)


def test_a_reward_of_ones_own(tmp_path):
    (tmp_path / "odd.py").write_text(
        "import genflow\n\n\nclass Odd(genflow.Reward):\n    environment = 'set_addition'\n\n"
        "    def score(self, objects):  # sets (B, n) of 0 and 1 -> R(x) > 0\n"
        "        return 0.5 + objects.sum(1) % 2\n\n\n"
        "@genflow.hookimpl\ndef register_rewards(register):\n"
        "    register('odd', 'odd:Odd', environment='set_addition')\n"
    )
    genflow.load_plugin(tmp_path / "odd.py")
    structure = genflow.Structure.parse("set_addition", "n_items=4,reward=odd")
    # of sixteen sets eight are odd
    assert structure.solution.log_partition() == pytest.approx(math.log(8 * 0.5 + 8 * 1.5))
    assert "not known to be a sum" in structure.environment.untold()


def test_graphs_are_those_of_torchgfn():
    """Which edges can be added to and removed from every graph of three nodes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import numpy as np
        from gfn.gym.bayesian_structure import BayesianStructure
        from torch_geometric.data import Data

    structure = task("dag", "scores=[[0,1.5,-0.5,1],[0,2,1,2.5],[0,-0.5,1.5,1]]")
    graph, theirs = structure.solution.graph, BayesianStructure(3, lambda states: torch.zeros(len(states)))
    edges = torch.tensor(list(itertools.permutations(range(3), 2)))
    drawn = np.empty(len(graph.states), dtype=object)
    for place, state in enumerate(graph.states):
        near = edges[state == 1].T
        drawn[place] = Data(x=theirs.s0.x, edge_index=near, edge_attr=torch.ones(near.shape[1], 1))
    states, ours = theirs.States(drawn), structure.transitions().env.States(graph.states)
    flat = edges[:, 0] * 3 + edges[:, 1]
    assert torch.equal(states.forward_masks["edge_index"][:, flat], ours.forward_masks[:, :-1])
    assert torch.equal(states.backward_masks["edge_index"][:, flat], ours.backward_masks)


def test_graphs_pay_the_scores_of_their_nodes():
    table = [[0, 1.5, -0.5, 1], [0, 2, 1, 2.5], [0, -0.5, 1.5, 1]]
    structure = task("dag", "scores=[[0,1.5,-0.5,1],[0,2,1,2.5],[0,-0.5,1.5,1]]")
    edges, total = list(itertools.permutations(range(3), 2)), []
    for chosen in itertools.chain.from_iterable(itertools.combinations(edges, k) for k in range(4)):
        orders = itertools.permutations(range(3))
        if any(all(order.index(a) < order.index(b) for a, b in chosen) for order in orders):
            parents = [[a for a, b in chosen if b == node] for node in range(3)]
            others = [[other for other in range(3) if other != node] for node in range(3)]
            columns = [sum(1 << others[n].index(a) for a in parents[n]) for n in range(3)]
            total.append(sum(row[column] for row, column in zip(table, columns, strict=True)))
    assert len(total) == structure.solution.n_states == 25
    log_z = torch.tensor(total, dtype=torch.float64).logsumexp(0)
    assert float(log_z) == pytest.approx(structure.solution.log_partition())
    assert structure.solution.optimal_flows().log_z == pytest.approx(float(log_z))


def test_scores_of_data_find_its_edges():
    from genflow_gym.dags import bic_scores

    rng = torch.Generator().manual_seed(0)
    cause, apart = torch.randn(2, 400, 1, generator=rng, dtype=torch.float64)
    effect = 2 * cause + 0.3 * torch.randn(400, 1, generator=rng, dtype=torch.float64)
    scores = bic_scores(torch.cat([cause, effect, apart], dim=1))
    assert torch.equal(scores[:, 0], torch.zeros(3, dtype=torch.float64))
    # of the columns 1: the first of the others, 2: the second
    assert scores[1, 1] > 100 and scores[0, 1] > 100
    assert scores[2, 1] < 0 and scores[0, 2] < 0
    # the two directions of an edge fit as well
    assert float(scores[1, 1]) == pytest.approx(float(scores[0, 1]))


def test_what_was_put_right_is_wrong_in_torchgfn():
    """Each claim of the README; one that fails is mended there, and the subclass can go."""
    modes = torch.tensor([[0, 1, 1, 0]])
    bits = BitSequence(1, 4, 1, H=modes)
    states = bits.States(torch.tensor([[0, 1, -1, -1], [1, 1, 0, -1]]))
    undone = bits.backward_step(states, bits.actions_from_tensor(torch.tensor([[1], [0]])))
    assert undone.tensor.tolist() == [
        [0, -1, -1, -1],
        [1, -1, -1, -1],
    ]  # of the second, the third alone is last
    fresh = bits.States(torch.tensor([[0, 1, -1, -1]]))
    bits.step(fresh, bits.actions_from_tensor(torch.tensor([[1]])))
    assert fresh.tensor.tolist() == [[0, 1, 1, -1]]
    ising = DiscreteEBM(2, IsingModel(torch.tensor([[0.0, 1.0], [1.0, 0.0]])))
    start = ising.States(torch.tensor([[-1, -1]]))
    ising.step(start, ising.actions_from_tensor(torch.tensor([[0]])))
    assert start.tensor.tolist() == [[0, -1]]
    assert ising.log_reward(ising.States(torch.tensor([[0, 1]]))).requires_grad
    assert torch.equal(DiscreteEBM(3).energy.J, torch.ones(3, 3))
    sets = SetAddition(3, 1, lambda x: x.sum(-1) + 1)
    listed = sets.terminating_states.tensor
    assert len(listed) == 7 and int(listed.sum(1).max()) == 3  # of the four that there are
    torch.manual_seed(1)
    first = torch.rand(1)
    torch.manual_seed(1)
    NonAutoregressiveBitSequence(1, 4, 2)
    assert torch.rand(1) != first
    tree = PerfectBinaryTree(lambda nodes: nodes.squeeze(-1), 2)
    grid = tree.States(torch.zeros(2, 3, 1, dtype=torch.long))
    # it looks each pair of state and action up, of which a batch of two axes has none
    with pytest.raises(Exception):  # noqa: B017
        tree.step(grid, tree.actions_from_tensor(torch.zeros(2, 3, 1, dtype=torch.long)))
