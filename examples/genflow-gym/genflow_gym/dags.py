"""Directed acyclic graphs over a few nodes, edge by edge, with a table of local scores.

Bayesian structure learning (Deleu et al., "Bayesian structure learning with generative flow networks", 2022)
as torchgfn's `BayesianStructure`, whose states are graphs; here a state is a flat vector of edges.

Shapes: n nodes, E = n (n - 1) possible edges (from, to), row by row, B graphs (B, E) of 0 and 1.
"""

from __future__ import annotations

import itertools
from functools import cache, cached_property
from typing import Any, ClassVar

import torch
from gfn.env import DiscreteEnv
from gfn.preprocessors import IdentityPreprocessor
from pydantic import ValidationInfo, model_validator
from torch import Tensor

import genflow
from genflow_gym.tables import Matrix, drawn, padded, read_matrix

#: nodes that units have columns for, and graphs of so many nodes
MAX_NODES, GRAPHS = 5, {2: 3, 3: 25, 4: 543, 5: 29_281}
#: of scores that are made up: samples of the data, and how many edges there are of each possible one
SAMPLES, EDGES = (5.0, 60.0), 0.5


@cache
def edges_of(nodes: int) -> tuple[Tensor, Tensor]:
    """The nodes (E,) that each edge leads from, and to."""
    ends = torch.tensor(list(itertools.permutations(range(nodes), 2)))
    return ends[:, 0], ends[:, 1]


def adjacency(graphs: Tensor, nodes: int) -> Tensor:
    """Which nodes (..., n, n) have an edge, [..., from, to], in graphs (..., E)."""
    start, end = edges_of(nodes)
    found = torch.zeros(*graphs.shape[:-1], nodes, nodes, dtype=torch.bool, device=graphs.device)
    found[..., start, end] = graphs > 0
    return found


def allowed(graphs: Tensor, nodes: int) -> Tensor:
    """Which edges (..., E) can be added to graphs (..., E) without a cycle."""
    start, end = edges_of(nodes)
    reach = adjacency(graphs, nodes)
    for via in range(nodes):
        reach = reach | (reach[..., :, via, None] & reach[..., via, None, :])
    return (graphs == 0) & ~reach[..., end, start]


class EdgeSets(DiscreteEnv):
    """The torchgfn side: action e adds edge e, the last exits."""

    def __init__(self, nodes: int, log_reward: Any, device: Any = "cpu") -> None:
        self.nodes, self._log_reward = nodes, log_reward
        size = nodes * (nodes - 1)
        super().__init__(
            n_actions=size + 1,
            s0=torch.zeros(size, dtype=torch.long, device=device),
            state_shape=(size,),
            sf=torch.full((size,), -1, dtype=torch.long, device=device),
        )

    def make_states_class(self):
        """States that know which edges can be added and removed."""
        nodes = self.nodes

        class Graphs(super().make_states_class()):
            def _compute_forward_masks(self):
                free = allowed(self.tensor, nodes)
                return torch.cat([free, torch.ones_like(free[..., :1])], dim=-1)

            def _compute_backward_masks(self):
                return self.tensor == 1

        return Graphs

    def step(self, states, actions):
        """An edge more."""
        return self.States(states.tensor.scatter(-1, actions.tensor, 1))

    def backward_step(self, states, actions):
        """An edge less."""
        return self.States(states.tensor.scatter(-1, actions.tensor, 0))

    def log_reward(self, final_states):
        """The scores of all nodes."""
        return self._log_reward(final_states.tensor)


class Dags(genflow.Environment):
    """log R(G) = sum over nodes of the score of the node with its parents in G."""

    presets: ClassVar = {
        "chain": {"scores": ((0, 1.5, -0.5, 1.0), (0, 2.0, 1.0, 2.5), (0, -0.5, 1.5, 1.0))},
        "pair": {"scores": ((0.0, 1.0), (0.5, 1.2))},
    }
    default_structures: ClassVar = ("chain", "pair")
    pretrained: ClassVar = ("genflow_gym:pretrained/dag",)

    class Config(genflow.Schema):
        """The table of scores."""

        nodes: int = genflow.size(ge=2, le=MAX_NODES, description="The number of nodes; the scores tell it.")
        scores: Matrix = genflow.told(
            description="A row a node: its score, in nats, with each set of parents, or a file of them."
            " Bit k of the column, from 0, is the k-th of the other nodes."
        )

        @model_validator(mode="before")
        @classmethod
        def _counted(cls, values: Any, info: ValidationInfo) -> Any:
            """The scores, or those of a file, say how many nodes there are."""
            if "scores" not in values:
                raise ValueError("scores is missing: give a row for each node, or a file of them")
            rows = read_matrix(values["scores"], info)
            return (
                {"nodes": len(rows), **values, "scores": rows} if isinstance(rows, list | tuple) else values
            )

        @model_validator(mode="after")
        def _fits(self) -> Dags.Config:
            columns = 2 ** (self.nodes - 1)
            if len(self.scores) != self.nodes or any(len(row) != columns for row in self.scores):
                raise ValueError(
                    f"scores must have {self.nodes} rows of {columns} numbers, a set of parents each"
                )
            return self

    @cached_property
    def scores(self) -> Tensor:
        """(n, 2^(n - 1)) float64."""
        return torch.tensor(self.config.scores, dtype=torch.float64)

    def log_reward(self, graphs: Tensor) -> Tensor:
        """log R (...) float64 of graphs (..., E)."""
        nodes, device = self.config.nodes, graphs.device
        near = adjacency(graphs, nodes).long()
        total = torch.zeros(graphs.shape[:-1], dtype=torch.float64, device=device)
        for node in range(nodes):
            others = [other for other in range(nodes) if other != node]
            column = (near[..., others, node] << torch.arange(nodes - 1, device=device)).sum(-1)
            total += self.scores[node].to(device)[column]
        return total

    def make(self, device: Any = "cpu") -> Any:
        """The environment, whose flat vectors of edges are the inputs."""
        env = EdgeSets(self.config.nodes, self.log_reward, device)
        return env, IdentityPreprocessor(output_dim=env.state_shape[0])

    def condition(self) -> dict[str, float]:
        """The number of nodes; units tell the scores."""
        return {"nodes": float(self.config.nodes)}

    def units(self) -> genflow.Units:
        """An edge, by what it adds to the score of its end with each set of other parents."""
        nodes = self.config.nodes
        rows = []
        for start, end in zip(*(each.tolist() for each in edges_of(nodes)), strict=True):
            others = [other for other in range(nodes) if other != end]
            bit = 1 << others.index(start)
            without = [column for column in range(2 ** (nodes - 1)) if not column & bit]
            gains = self.scores[end, [column | bit for column in without]] - self.scores[end, without]
            rows.append(padded(gains, 2 ** (MAX_NODES - 2)))
        start, end = edges_of(nodes)
        eye = padded(torch.eye(nodes), MAX_NODES)
        edges = torch.cat([torch.stack(rows).float(), eye[start], eye[end]], dim=1)
        leave = torch.zeros(len(edges) + 1, 1)
        leave[-1] = 1.0
        actions = torch.cat([torch.nn.functional.pad(edges, (0, 0, 0, 1)), leave], dim=1)
        return genflow.Units(genflow.UnitDescriptions(edges), genflow.UnitDescriptions(actions))

    def exact_solution(self, transitions: Any) -> genflow.ExactSolution:
        """All acyclic graphs."""
        return genflow.ExactSolution(transitions, n_states=GRAPHS[self.config.nodes])

    @cached_property
    def _graph(self) -> genflow.StateGraph:
        return self.exact_solution(self.transitions(torch.device("cpu"))).graph

    def rehearse(self, rng: torch.Generator) -> genflow.Rehearsal:
        """Scores of other data."""
        graph = self._graph
        made = self.config.model_copy(update={"scores": random_scores(self.config.nodes, rng).tolist()})
        other = Dags(made)
        flows = genflow.optimal_flows(graph, other.log_reward(graph.states))
        mask = graph.mask(torch.arange(len(graph.states)))
        units = other.units()
        expert = genflow.Expert(graph.states, flows.policy.float(), mask, flows.visit)
        return genflow.Rehearsal(units.inputs.amounts, units.actions.amounts, expert)


def random_scores(nodes: int, rng: torch.Generator) -> Tensor:
    """Local scores (n, 2^(n - 1)) of data that a random linear model makes: Gaussian likelihood less BIC.

    They are relative to the score without parents, which is the same in all graphs.
    """
    weights = torch.randn(nodes, nodes, generator=rng, dtype=torch.float64).tril(-1)
    weights *= torch.rand(nodes, nodes, generator=rng) < EDGES
    order, samples = torch.randperm(nodes, generator=rng), round(drawn(rng, *SAMPLES)) + nodes
    mixing = torch.linalg.inv(torch.eye(nodes, dtype=torch.float64) - weights)
    data = torch.randn(samples, nodes, generator=rng, dtype=torch.float64) @ mixing.T
    return bic_scores(data[:, order])


def bic_scores(data: Tensor) -> Tensor:
    """Local scores (n, 2^(n - 1)) of data (samples, n) under linear models with Gaussian noise.

    The log likelihood of the best fit, less half the log of the number of samples for each parent, relative
    to that without parents.
    """
    samples, nodes = data.shape
    data = data.double() - data.double().mean(0)
    table = torch.zeros(nodes, 2 ** (nodes - 1), dtype=torch.float64)
    for node in range(nodes):
        others = [other for other in range(nodes) if other != node]
        for column in range(1, 2 ** (nodes - 1)):
            parents = data[:, [other for k, other in enumerate(others) if column >> k & 1]]
            fit = parents @ torch.linalg.lstsq(parents, data[:, node : node + 1]).solution
            left = (data[:, node] - fit[:, 0]).square().sum() / data[:, node].square().sum()
            table[node, column] = (
                -0.5 * samples * left.log() - 0.5 * parents.shape[1] * torch.tensor(samples).log()
            )
    return table
