"""What one would use instead of generated weights.

ONE policy that is told the structure, trained on many structures at once.

It is torchgfn's conditional policy on a conditional torchgfn environment of all the grids, which are padded
to common sizes. A state is read as its padded one-hot (`padded`) or through the features of its positions
that a generator of weights reads too (`coordinates`); the condition vector tells the rest. It learns from the
exact optimal policy (`distill`, the teacher of the generator) or by torchgfn's trajectory balance with a
learned log Z(condition) (`tb`). The clock is the process's CPU time on one thread, without the making of the
teacher (``setup_seconds``); the learning rate falls as a cosine to zero over it. Writes the exact divergence
on each --test structure, seen in training or not, and the cost of a sampling step beside that of a small
policy of one structure.

    python benchmarks/conditional.py --variant padded --structures FILE.toml --test 'A*' --test
    ndim=4,height=10 \
        --seconds 600 --out runs/conditional/padded.json

FILE.toml holds a list ``structures`` of texts such as "ndim=4,height=8,R0=0.01"; the width of a policy means
nothing here.

Shapes: N structures, n dimensions of the largest, A = n + 1 actions (the last is exit), C condition numbers,
B states, d width.
"""

from __future__ import annotations

import math
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import click
import torch
from genflow_metrics.divergence import js
from gfn.actions import Actions
from gfn.env import DiscreteEnv
from gfn.estimators import ConditionalDiscretePolicyEstimator, ConditionalLogZEstimator, Estimator
from gfn.gflownet import TBGFlowNet
from gfn.preprocessors import Preprocessor
from gfn.samplers import Sampler
from gfn.states import DiscreteStates
from gfn.utils.modules import UniformModule
from torch import Tensor, nn

from genflow import GenflowError, Population, Structure
from genflow.exact import terminal_distribution
from genflow.storage.files import write_json
from genflow.training.objectives import UNIFORM, distillation

#: below these a condition counts as nothing, on two logarithmic scales, as the generator's encoder reads it
FLOORS = (1e-3, 1e-6)
#: states evaluated at once by the exact evaluation
MAX_ROWS = 8192
#: hidden units of log Z(condition)
LOG_Z_WIDTH = 128
#: learning rates that did best in short trials
RATES = {"distill": 4e-3, "tb": 3e-3}
#: states of each structure that are drawn at once
DRAWN = 64
#: index that the preprocessors give to a missing dimension
MISSING = 0
#: states of a sampling step whose cost is measured, repeats of it in a round, and rounds
STEP_STATES, STEP_REPEATS, STEP_ROUNDS = 64, 50, 9


def load_structures(path: Path) -> list[Structure]:
    """The distinct structures of a TOML file, in its order, all of one width.

    Raises:
        GenflowError: the file cannot be read or has no list ``structures``.
    """
    try:
        texts = tomllib.loads(path.read_text())["structures"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise GenflowError(f"{path} is not a TOML file with a list 'structures': {error!r}") from error
    return list(dict.fromkeys(map(parse, texts)))


def parse(text: str) -> Structure:
    """A structure of the default width."""
    structure = Structure.parse("hypergrid", text)
    return Structure.build("hypergrid", structure.environment.config.model_dump(mode="json"))


def standardised(rows: Tensor, reference: Tensor) -> Tensor:
    """(rows - mean) / std over `reference`, both (., G); 0 in columns that do not vary there."""
    mean, std = reference.mean(0), reference.std(0, correction=0)
    return (rows - mean) * torch.where(std > 1e-5 * mean.abs().clamp(min=1), 1 / std.clamp(min=1e-9), 0.0)


class Grids(DiscreteEnv):
    """Many grids as one conditional environment.

    A grid is a row of tables, and a dimension that it lacks has height 1.

    The conditions of a state are (1 + C,): the row, which only the environment and the preprocessor read, and
    the condition vector. Conditions are sampled from the first `trained` structures.
    """

    is_conditional = True

    def __init__(self, structures: Sequence[Structure], trained: int) -> None:
        self.structures, self.trained = list(structures), trained
        configs = [structure.environment.config for structure in structures]
        self.ndim, self.height = max(c.ndim for c in configs), max(c.height for c in configs)
        self.heights = torch.ones(len(configs), self.ndim, dtype=torch.long)
        for row, config in enumerate(configs):
            self.heights[row, : config.ndim] = config.height
        raw = torch.stack([structure.condition() for structure in structures])
        scales = torch.cat([raw, *((raw.abs() + floor).log() for floor in FLOORS)], dim=1)
        rows = torch.arange(float(len(raw)))[:, None]
        self.conditions = torch.cat([rows, standardised(scales, scales[:trained])], dim=1)
        super().__init__(
            n_actions=self.ndim + 1,
            s0=torch.zeros(self.ndim, dtype=torch.long),
            sf=torch.full((self.ndim,), -1),
            state_shape=(self.ndim,),
        )

    def make_states_class(self) -> type[DiscreteStates]:
        """States whose masks depend on their conditions."""
        env = self

        class GridsStates(DiscreteStates):
            state_shape = env.state_shape
            s0 = env.s0
            sf = env.sf
            make_random_states = env.make_random_states
            n_actions = env.n_actions

            def _compute_forward_masks(self) -> Tensor:
                return nn.functional.pad(self.tensor < env.heights_of(self) - 1, (0, 1), value=True)

            def _compute_backward_masks(self) -> Tensor:
                return self.tensor > 0

        return GridsStates

    def rows_of(self, states: DiscreteStates) -> Tensor:
        """(B,) the row of each state's grid."""
        return states.conditions[..., 0].long()

    def heights_of(self, states: DiscreteStates) -> Tensor:
        """(B, n)."""
        return self.heights[self.rows_of(states)]

    def sample_conditions(self, batch_shape: int | tuple[int, ...]) -> Tensor:
        """(*batch_shape, 1 + C) of structures to train on, uniformly."""
        shape = (batch_shape,) if isinstance(batch_shape, int) else batch_shape
        return self.conditions[torch.randint(self.trained, shape)]

    def wrap(self, row: int, states: Tensor) -> DiscreteStates:
        """States (B, ndim) of one grid as padded states."""
        return self.States(
            nn.functional.pad(states, (0, self.ndim - states.shape[1])),
            self.conditions[row].expand(len(states), -1),
        )

    def step(self, states: DiscreteStates, actions: Actions) -> DiscreteStates:
        """One up in the dimension of the action."""
        return self.States(states.tensor.scatter(-1, actions.tensor, 1, reduce="add"))

    def backward_step(self, states: DiscreteStates, actions: Actions) -> DiscreteStates:
        """One down."""
        return self.States(states.tensor.scatter(-1, actions.tensor, -1, reduce="add"))

    def log_reward(self, states: DiscreteStates) -> Tensor:
        """(B,) float32, each grid's own."""
        rows = self.rows_of(states)
        log_reward = torch.empty(len(rows))
        for row in rows.unique().tolist():
            structure, mine = self.structures[row], rows == row
            positions = states.tensor[mine, : structure.environment.config.ndim]
            log_reward[mine] = structure.transitions().log_reward(positions).float()
        return log_reward


class OneHotIndex(Preprocessor):
    """(B, n) long: which entries of the padded one-hot are 1, counted from 1."""

    def __init__(self, env: Grids) -> None:
        super().__init__(output_dim=env.ndim)
        self.env, self.first = env, 1 + env.height * torch.arange(env.ndim)

    def preprocess(self, states: DiscreteStates) -> Tensor:
        """`MISSING` where the grid has no such dimension."""
        return torch.where(self.env.heights_of(states) > 1, self.first + states.tensor, MISSING)


class FeatureIndex(Preprocessor):
    """(B, n) long: rows of `features`, the standardised features of every position of every grid.

    Its row 0 is zeros.
    """

    def __init__(self, env: Grids) -> None:
        super().__init__(output_dim=env.ndim)
        self.env = env
        # dimensions differ only in their name, which is no amount
        tables = [s.layout.units["input"].amounts[: s.environment.config.height] for s in env.structures]
        lengths = torch.tensor([len(table) for table in tables])
        self.first = 1 + lengths.cumsum(0) - lengths
        features = standardised(torch.cat(tables), torch.cat(tables[: env.trained]))
        self.features = nn.functional.pad(features, (0, 0, 1, 0))

    def preprocess(self, states: DiscreteStates) -> Tensor:
        """`MISSING` where the grid has no such dimension."""
        return torch.where(
            self.env.heights_of(states) > 1,
            self.first[self.env.rows_of(states)][..., None] + states.tensor,
            MISSING,
        )


class Coordinates(nn.Module):
    """A first layer that reads the features of all positions and embeds the dimensions that there are."""

    features: Tensor

    def __init__(self, features: Tensor, ndim: int, width: int) -> None:
        super().__init__()
        self.register_buffer("features", features)
        self.linear = nn.Linear(ndim * features.shape[1], width, bias=False)
        # added behind the layer: the same as before it, without a gradient of the features
        self.dimensions = nn.Linear(ndim, width)

    def forward(self, index: Tensor) -> Tensor:
        """(B, n) rows of features -> (B, d)."""
        return self.linear(self.features[index].flatten(-2)) + self.dimensions((index != MISSING).float())


class Told(nn.Linear):
    """A linear layer on conditions (B, 1 + C) that does not read their first column, the row."""

    def __init__(self, conditions: int, outputs: int) -> None:
        super().__init__(conditions - 1, outputs)

    def forward(self, conditions: Tensor) -> Tensor:
        """(B, 1 + C) -> (B, outputs)."""
        return super().forward(conditions[..., 1:])


class LogZ(nn.Sequential):
    """log Z of a condition: (B, 1 + C) -> (B, 1)."""

    def __init__(self, conditions: int) -> None:
        super().__init__(Told(conditions, LOG_Z_WIDTH), nn.SiLU(), nn.Linear(LOG_Z_WIDTH, 1))
        self.input_dim = conditions  # torchgfn asks for it


class Summed(nn.Module):
    """Adds what torchgfn joins side by side, (B, 2d) -> (B, d), so that one first layer reads both."""

    def forward(self, x: Tensor) -> Tensor:
        """Sum of the halves."""
        state, condition = x.chunk(2, dim=-1)
        return state + condition


def make_policy(env: Grids, variant: str, width: int, depth: int) -> ConditionalDiscretePolicyEstimator:
    """A multilayer perceptron of `depth` hidden layers that reads state and condition together."""
    preprocessor: OneHotIndex | FeatureIndex
    first: nn.Module
    if variant == "padded":
        preprocessor = OneHotIndex(env)
        # a linear layer on one-hots is a sum of its columns
        first = nn.EmbeddingBag(1 + env.ndim * env.height, width, mode="sum", padding_idx=MISSING)
        nn.init.normal_(first.weight, 0, env.ndim**-0.5)
    else:
        preprocessor = FeatureIndex(env)
        first = Coordinates(preprocessor.features, env.ndim, width)
    hidden = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), nn.SiLU())]
    final = nn.Sequential(Summed(), nn.SiLU(), *hidden, nn.Linear(width, env.n_actions))
    return ConditionalDiscretePolicyEstimator(
        first, Told(env.conditions.shape[1], width), final, env.n_actions, preprocessor
    )


#: one step of training: () -> loss (scalar)
Loss = Callable[[], Tensor]


def distill(env: Grids, policy: Estimator, *, batch: int, length_power: float, rng: torch.Generator) -> Loss:
    """The KL from the optimal policy on `batch` states, drawn alike from all structures."""
    experts = [structure.solution.expert for structure in env.structures[: env.trained]]
    weights = torch.tensor([expert.length for expert in experts]) ** length_power
    weights /= weights.mean()

    def batches() -> Iterator[tuple[Tensor, ...]]:
        # drawn ahead and mixed: a draw of a few states takes as long as one of many
        shape = env.trained, DRAWN
        while True:
            states = torch.zeros(*shape, env.ndim, dtype=torch.long)
            masks = torch.zeros(*shape, env.n_actions, dtype=torch.bool)
            optimal = torch.zeros(*shape, env.n_actions)
            for row, expert in enumerate(experts):
                drawn, allowed, policies = expert.draw(DRAWN, UNIFORM, rng)
                ndim = drawn.shape[1]
                states[row, :, :ndim] = drawn
                for padded, own in ((masks, allowed), (optimal, policies)):
                    padded[row, :, :ndim], padded[row, :, -1] = own[:, :-1], own[:, -1]
            rows = torch.arange(env.trained).repeat_interleave(DRAWN)
            for index in torch.randperm(len(rows), generator=rng).split(batch):
                yield rows[index], *(tensor.flatten(0, 1)[index] for tensor in (states, masks, optimal))

    source = batches()

    def loss() -> Tensor:
        rows, tensor, masks, optimal = next(source)
        states = env.States(tensor, env.conditions[rows])
        logits = policy(states, states.conditions)
        return (weights[rows] * distillation(logits[:, None], masks[:, None], optimal[:, None])).mean()

    return loss


def balance(env: Grids, policy: Estimator, *, trajectories: int, epsilon: float) -> tuple[Loss, nn.Module]:
    """torchgfn's trajectory balance on `trajectories` of its own, each of a random structure.

    And the network of log Z.
    """
    log_z = ConditionalLogZEstimator(LogZ(env.conditions.shape[1]))
    backward = ConditionalDiscretePolicyEstimator(
        nn.Identity(),
        nn.Identity(),
        UniformModule(env.n_actions - 1),
        env.n_actions,
        policy.preprocessor,
        is_backward=True,
    )
    gflownet, sampler = TBGFlowNet(policy, backward, logZ=log_z), Sampler(policy)

    def loss() -> Tensor:
        with torch.no_grad():
            sampled = sampler.sample_trajectories(env, n=trajectories, save_logprobs=False, epsilon=epsilon)
        return gflownet.loss_from_trajectories(env, sampled, recalculate_all_logprobs=True)

    return loss, log_z


def train(loss: Loss, groups: list[dict], seconds: float) -> dict[str, float]:
    """{"seconds", "iterations", "loss"}: Adam until the CPU time is spent.

    The loss is the mean of the last tenth.
    """
    optimizer = torch.optim.Adam(groups, fused=True)
    rates = [group["lr"] for group in groups]
    spent, losses = 0.0, []
    while spent < seconds:
        began = time.process_time()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * spent / seconds))
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
        spent += time.process_time() - began
    tail = losses[-max(1, len(losses) // 10) :]
    return {"seconds": spent, "iterations": len(losses), "loss": sum(tail) / len(tail)}


@torch.no_grad()
def exact_js(env: Grids, policy: Estimator, row: int) -> float:
    """The exact Jensen-Shannon divergence, in nats, from the target on one structure."""
    structure = env.structures[row]
    graph = structure.solution.graph
    own = [*range(structure.environment.config.ndim), env.ndim]

    def logits(index: Tensor) -> Tensor:
        batch = env.wrap(row, graph.states[index])
        return policy(batch, batch.conditions)[None, :, own]

    return float(js(structure.solution.target(), terminal_distribution(graph, logits, 1, MAX_ROWS))[0])


@torch.no_grad()
def step_cost(env: Grids, policy: Estimator, rows: Sequence[int], seed: int) -> dict:
    """Microseconds of CPU a state, for batches of 64 states.

    Of the logits alone, and of a sampling step (logits, draw, next state).

    Both policies go through torchgfn's estimators, in turns; medians over rounds.
    """
    rng = torch.Generator().manual_seed(seed)
    entries = []
    for row in rows:
        structure = env.structures[row]
        small = Population.initialised(structure, 1, seed)  # the cost does not depend on the weights
        own_env, own = structure.transitions().env, small.to_estimator()
        drawn, _, _ = structure.solution.expert.draw(STEP_STATES, UNIFORM, rng)
        batches = {
            "conditional": (env, policy, env.wrap(row, drawn)),
            "generated": (own_env, own, own_env.States(drawn)),
        }
        times: dict[str, list[float]] = {}
        for _ in range(STEP_ROUNDS):
            for name, (world, estimator, states) in batches.items():
                args = (states, states.conditions) if states.has_conditions else (states,)
                for kind in ("logits", "step"):
                    began = time.process_time()
                    for _ in range(STEP_REPEATS):
                        logits = estimator(*args)
                        if kind == "step":
                            fresh = states[:]  # without cached masks
                            actions = estimator.to_probability_distribution(fresh, logits).sample()
                            world._step(fresh, world.actions_from_tensor(actions))
                    spent = time.process_time() - began
                    times.setdefault(f"{name}_{kind}", []).append(1e6 * spent / STEP_REPEATS / STEP_STATES)
        parameters = {"conditional": count(policy), "generated": count(own)}
        entries.append(
            {"structure": structure.fields(), "parameters": parameters}
            | {name: median(t) for name, t in times.items()}
        )
    return {"unit": "microseconds of CPU a state", "states": STEP_STATES, "entries": entries}


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


@click.command()
@click.option("--variant", type=click.Choice(["padded", "coordinates"]), required=True)
@click.option("--objective", type=click.Choice(["distill", "tb"]), default="distill", show_default=True)
@click.option("--structures", "path", type=click.Path(path_type=Path), required=True, metavar="FILE.toml")
@click.option("--test", "tests", multiple=True, required=True, metavar="NAME|key=value,...")
@click.option("--seconds", default=600.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--width", default=512, show_default=True)
@click.option("--depth", default=3, show_default=True, help="Hidden layers.")
@click.option("--lr", type=float, help=f"By default {RATES['distill']} for distill, {RATES['tb']} for tb.")
@click.option("--batch", default=256, show_default=True, help="distill: states a step, of all structures.")
@click.option(
    "--length-power",
    default=0.5,
    show_default=True,
    help="distill: structures count by trajectory length to this power.",
)
@click.option("--trajectories", default=192, show_default=True, help="tb: trajectories a step.")
@click.option("--epsilon", default=0.05, show_default=True, help="tb: share of random actions.")
@click.option(
    "--log-z-rate",
    default=10.0,
    show_default=True,
    help="tb: learning rate of log Z over that of the policy.",
)
def main(
    variant,
    objective,
    path,
    tests,
    seconds,
    out,
    seed,
    width,
    depth,
    lr,
    batch,
    length_power,
    trajectories,
    epsilon,
    log_z_rate,
):
    """Train one conditional policy and write its figures."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    trained = load_structures(path)
    named = {name: parse(name) for name in tests}
    for structure in named.values():
        structure.solution.require_enumerable("the exact evaluation", "test smaller ones")
    # kept alive here, with their experts
    structures = list(dict.fromkeys([*trained, *named.values()]))
    env = Grids(structures, len(trained))
    policy = make_policy(env, variant, width, depth)
    lr = RATES[objective] if lr is None else lr
    groups = [{"params": list(policy.parameters()), "lr": lr}]
    options = {"width": width, "depth": depth, "lr": lr, "seed": seed, "structures": len(trained)}
    began = time.process_time()
    if objective == "distill":
        loss = distill(
            env, policy, batch=batch, length_power=length_power, rng=torch.Generator().manual_seed(seed)
        )
        options |= {"batch": batch, "length_power": length_power}
    else:
        loss, log_z = balance(env, policy, trajectories=trajectories, epsilon=epsilon)
        groups.append({"params": list(log_z.parameters()), "lr": log_z_rate * lr})
        options |= {"trajectories": trajectories, "epsilon": epsilon, "log_z_rate": log_z_rate}
    setup = time.process_time() - began
    facts = train(loss, groups, seconds)
    click.echo(
        f"{variant}, {objective}: {facts['iterations']} steps in {facts['seconds']:.0f} s, loss"
        f" {facts['loss']:.4g}"
    )
    entries = []
    for name, structure in named.items():
        row = structures.index(structure)
        value = exact_js(env, policy, row)
        entries.append(
            {
                "structure": structure.fields(),
                "name": name,
                "seen": row < len(trained),
                "metrics": {"js": value},
            }
        )
        click.echo(f"{name}: {value:.4g}")
    cost = step_cost(env, policy, [structures.index(structure) for structure in named.values()], seed)
    result = {
        "variant": variant,
        "objective": objective,
        **facts,
        "setup_seconds": setup,
        "parameters": count(policy),
        "options": options,
    }
    write_json(out, {**result, "entries": entries, "step_cost": cost})


if __name__ == "__main__":
    main()
