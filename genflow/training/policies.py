"""Training M policies of one structure together, as one stacked population.

Shapes: M policies, D parameters, B trajectories or states a step, K rows, S states, A actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from genflow.errors import GenflowError
from genflow.interfaces.encoder import Starts
from genflow.measure import figures_of, measure
from genflow.population import Population
from genflow.progress import Progress
from genflow.rollouts import sample
from genflow.structure import Structure
from genflow.training import objectives
from genflow.training.loop import Schedule, Trainee, train

#: trajectories a policy that log Z is estimated from
LOG_Z_TRAJECTORIES = 256
#: members computed together on a CPU: more spill from the cache, fewer are all overhead
CACHED_MEMBERS = 16
#: exact figures are shown while training up to this many states
CHEAP_STATES = 10_000


class PolicyOptions(Schedule):
    """How policies are trained.

    `objective`: trajectory balance ("tb"), detailed balance ("db"), sub-trajectory balance ("subtb"), or
        "distill",
    which fits the exact optimal policy where the task is enumerable. `batch_size` is trajectories a policy
    and step, or states a step for "distill". `epsilon` is the share of random actions, falling linearly to 0.
    `log_z_rate` and `flow_rate` multiply the learning rate of log Z and of the state flows. `log_z_start`:
    log Z begins at 0, or at the best value for the starting policies, estimated from their own trajectories.
    """

    steps: int = Field(default=1000, ge=1)
    lr: float = Field(default=5e-3, gt=0, allow_inf_nan=False)
    decay: float = Field(default=0.5, ge=0, le=1)
    objective: Literal["tb", "db", "subtb", "distill"] = "tb"
    batch_size: int = Field(default=64, ge=1, le=1_000_000)
    epsilon: float = Field(default=0.05, ge=0, lt=1)
    log_z_rate: float = Field(default=20.0, gt=0)
    log_z_start: Literal["zero", "estimate"] = "zero"
    flow_rate: float = Field(default=1.0, gt=0)


class ZooOptions(PolicyOptions):
    """How a zoo is collected.

    `num` members a structure come from at most `seeds` runs; what is missing is taken from dense checkpoints
    of their last steps, `checkpoint_every` apart (the paper's way: one seed, 200 checkpoints). `threads` train
    a population on a CPU; their number decides the last bits, so it is fixed, and a zoo is the same for any
    number of workers. Where the members start is the encoder's choice, see `Encoder.starts`.
    """

    renamed: ClassVar[dict[str, str]] = {
        "init": "autoencoder.options.init",
        "init_noise": "autoencoder.options.init_noise",
        "style_size": "autoencoder.options.latent_size",
        "style_share": "autoencoder.options.style_variance",
    }

    num: int = Field(default=32, ge=1, le=100_000)
    seeds: int = Field(default=8, ge=1)
    checkpoint_every: int = Field(default=5, ge=1)
    threads: int = Field(default=1, ge=1, le=1024)

    def check(self, structure: Structure) -> None:
        """Refuse, before anything is trained, a structure that these options cannot train.

        Raises:
            GenflowError: exact flows of a task that is too large, too few steps for the checkpoints, or an
                impossible task.
        """
        if self.objective == "distill":
            structure.solution.require_expert()
        _require_steps(self, self.split()[1], self.checkpoint_every)
        structure.transitions().env  # noqa: B018  builds the torchgfn environment, which refuses what it cannot be

    def split(self) -> tuple[int, int]:
        """(runs, checkpoints a run); their product is at least `num`."""
        runs = min(self.num, self.seeds)
        return runs, -(-self.num // runs)


def _require_steps(options: PolicyOptions, checkpoints: int, every: int) -> None:
    if (checkpoints - 1) * every >= options.steps:
        raise GenflowError(
            f"{checkpoints} checkpoints that are {every} steps apart need more than {options.steps} steps; raise zoo.steps"
        )


class PopulationTrainee(Trainee):
    """M policies under one objective; the losses are summed, so each learns exactly as it would alone.

    A few members at a time sample, and are back-propagated from what sampling has computed already.
    """

    def __init__(
        self,
        structure: Structure,
        weights: Tensor,
        options: PolicyOptions,
        *,
        seed: int,
        device: str,
        checkpoints: int,
        every: int,
    ) -> None:
        self.structure, self.options = structure, options
        self.transitions = structure.transitions(device)
        self.members = len(weights)
        _require_steps(options, checkpoints, every)
        self.weights = {
            n: _leaf(t.to(device).clone()) for n, t in structure.layout.unflatten(weights).items()
        }
        # on a CPU a few members at a time, whose weights and layers stay in the cache
        block = CACHED_MEMBERS if torch.device(device).type == "cpu" else self.members
        self.blocks = [
            slice(first, min(first + block, self.members)) for first in range(0, self.members, block)
        ]
        self._module = structure.module().to(device)
        self.log_z = _leaf(torch.zeros(self.members, device=device))
        if options.objective == "tb" and options.log_z_start == "estimate":
            self.log_z = _leaf(self._estimated_log_z(torch.Generator(device=device).manual_seed(seed)))
        self.flow: dict[str, Tensor] = {}
        if options.objective in objectives.WITH_STATE_FLOW:
            self.flow = {
                n: _leaf(t.to(device)) for n, t in _state_flow(structure, self.members, seed).items()
            }
            self._flow_module = _flow_module(structure).to(device)
        if options.objective == "distill":
            structure.solution.require_expert()
        # the checkpoint of step steps-1-j*every is row j
        self.snapshots = torch.zeros(checkpoints, self.members, structure.layout.size)
        self._every = every

    def groups(self) -> list[dict[str, Any]]:
        """Weights, log Z and state flows."""
        groups: list[dict[str, Any]] = [{"params": list(self.weights.values())}]
        if self.options.objective == "tb":
            groups.append({"params": [self.log_z], "lr_scale": self.options.log_z_rate})
        if self.flow:
            groups.append({"params": list(self.flow.values()), "lr_scale": self.options.flow_rate})
        return groups

    def tensors(self) -> dict[str, Tensor]:
        """Weights, log Z, state flows and the checkpoints taken so far."""
        tensors = {f"weights.{n}": t for n, t in self.weights.items()} | {
            f"flow.{n}": t for n, t in self.flow.items()
        }
        return tensors | {"log_z": self.log_z, "snapshots": self.snapshots}

    def backward(self, step: int, rng: torch.Generator) -> tuple[float, dict[str, float]]:
        """The gradient of the members' losses, summed; the figures are their means."""
        if self.options.objective == "distill":
            drawn = self._draw(rng)
            loss = sum(self._distill(own, *drawn) for own in self.blocks)
            return loss, {"loss": loss / self.members}
        losses, rewards = zip(*(self._balance(own, step, rng) for own in self.blocks), strict=True)
        return sum(losses), {"loss": sum(losses) / self.members, "reward": sum(rewards) / self.members}

    @torch.no_grad()
    def _estimated_log_z(self, rng: torch.Generator) -> Tensor:
        """(M,) what minimises the trajectory balance loss of the policies as they are."""
        trace = self.structure.tracer(self._module, self.weights)
        rollouts = sample(
            self.transitions, lambda x: (trace(x)[0], ()), (self.members, LOG_Z_TRAJECTORIES), 0.0, rng
        )
        log_pf = rollouts.log_pf(rollouts.rows(rollouts.logits))
        return (rollouts.log_reward + rollouts.total(rollouts.log_pb - log_pf)).mean(1).float()

    def _balance(self, own: slice, step: int, rng: torch.Generator) -> tuple[float, float]:
        """A block's summed loss and reward; its gradients are put in place."""
        options, arch = self.options, self.structure.arch
        weights = _values(self.weights, own)
        shape = (own.stop - own.start, options.batch_size)
        epsilon = options.epsilon * (1 - step / options.steps)
        rollouts = sample(self.transitions, self.structure.tracer(self._module, weights), shape, epsilon, rng)
        logits = rollouts.logits.requires_grad_()
        log_pf = rollouts.log_pf(rollouts.rows(logits))
        if options.objective == "tb":
            log_z = self.log_z.detach()[own].requires_grad_()
            loss = objectives.trajectory_balance(rollouts, log_pf, log_z).sum()
            by_logits, cast(Tensor, self.log_z.grad)[own] = torch.autograd.grad(loss, (logits, log_z))
        else:
            flow = _values(self.flow, own)
            log_flow, kept = self.structure.tracer(self._flow_module, flow)(rollouts.states)
            balance = (
                objectives.detailed_balance
                if options.objective == "db"
                else objectives.sub_trajectory_balance
            )
            loss = balance(rollouts, log_pf, rollouts.rows(log_flow.requires_grad_()).squeeze(-1)).sum()
            by_logits, by_flow = torch.autograd.grad(loss, (logits, log_flow))
            arch.gradients(self._flow_module, flow, kept, by_flow, _gradients(self.flow, own))
        arch.gradients(self._module, weights, rollouts.kept, by_logits, _gradients(self.weights, own))
        return loss.item(), rollouts.log_reward.exp().mean(1).sum().item()

    def _draw(self, rng: torch.Generator) -> tuple[Tensor, ...]:
        """What is observed in drawn states (B, ...), allowed actions and optimal policies (B, A)."""
        states, masks, optimal = self.structure.solution.expert.draw(
            self.options.batch_size, objectives.UNIFORM, rng
        )
        return tuple(
            tensor.to(self.log_z.device) for tensor in (self.structure.observe(states), masks, optimal)
        )

    def _distill(self, own: slice, observed: Tensor, masks: Tensor, optimal: Tensor) -> float:
        """A block's summed loss; its gradients are put in place."""
        weights = _values(self.weights, own)
        logits, kept = self.structure.arch.tracer(self._module, weights)(observed)
        loss = objectives.distillation(logits.requires_grad_(), masks, optimal).sum()
        (by_logits,) = torch.autograd.grad(loss, logits)
        self.structure.arch.gradients(self._module, weights, kept, by_logits, _gradients(self.weights, own))
        return loss.item()

    def clip(self, max_norm: float) -> None:
        """Clip each member by its own norm, so that it still learns as it would alone."""
        grads = [p.grad for group in self.groups() for p in group["params"] if p.grad is not None]
        norm_M = torch.stack([grad.reshape(self.members, -1).square().sum(1) for grad in grads]).sum(0).sqrt()
        scale_M = (max_norm / (norm_M + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(scale_M.reshape(-1, *[1] * (grad.ndim - 1)))

    def after_step(self, step: int) -> None:
        """Keep the dense checkpoints of the last steps."""
        behind = self.options.steps - 1 - step
        if behind % self._every == 0 and behind // self._every < len(self.snapshots):
            self.snapshots[behind // self._every] = self._flat()

    def figures(self) -> dict[str, float]:
        """The primary exact metric where it is cheap."""
        solution = self.structure.solution
        if not solution.enumerable or (solution.n_states or 0) > CHEAP_STATES:
            return {}
        try:
            return figures_of(Population(self.structure, self._flat()))
        except GenflowError:
            return {}  # the policy has diverged, which the loop says at the next step

    def _flat(self) -> Tensor:
        return self.structure.layout.flatten(
            {name: tensor.detach().cpu() for name, tensor in self.weights.items()}
        )


def _leaf(tensor: Tensor) -> Tensor:
    """A parameter with a place for its gradient."""
    tensor = tensor.detach().requires_grad_()
    tensor.grad = torch.zeros_like(tensor)
    return tensor


def _values(parameters: Mapping[str, Tensor], own: slice) -> dict[str, Tensor]:
    """A block's part of the parameters, without a graph."""
    return {name: parameter.detach()[own] for name, parameter in parameters.items()}


def _gradients(parameters: Mapping[str, Tensor], own: slice) -> dict[str, Tensor]:
    """Where the gradients of a block belong."""
    return {name: cast(Tensor, parameter.grad)[own] for name, parameter in parameters.items()}


def _flow_module(structure: Structure) -> torch.nn.Module:
    """The policy's architecture with one output: log F."""
    return structure.arch.build(len(structure.layout.units["input"]), 1)


def _state_flow(structure: Structure, members: int, seed: int) -> dict[str, Tensor]:
    """Weights (M, *shape) of a log-flow network a member."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        states = [_flow_module(structure).state_dict() for _ in range(members)]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def train_population(
    structure: Structure,
    options: PolicyOptions,
    *,
    start: Tensor,
    seed: int,
    folder: Path,
    progress: Progress,
    device: str = "cpu",
    checkpoints: int = 1,
    every: int = 1,
) -> Population:
    """Train (M, D) starting weights; checkpoints and the resumable state lie in `folder`.

    Returns:
        A population of M * checkpoints members, the last step's first. ``provenance`` holds seconds, budget,
        history and, for each member, its run, step and exact metrics.

    Raises:
        GenflowError: the objective does not fit the task, or the loss is not finite.
    """
    trainee = PopulationTrainee(
        structure, start, options, seed=seed, device=device, checkpoints=checkpoints, every=every
    )
    history, seconds = train(
        trainee, options, folder=folder, seed=seed, progress=progress, label=structure.name, device=device
    )
    members = [
        {"run": run, "seed": seed, "step": options.steps - row * every}
        for row in range(checkpoints)
        for run in range(trainee.members)
    ]
    provenance = {
        "source": "trained",
        "training_structures": [structure.fields()],
        "seed": seed,
        "seconds": seconds,
        "budget": {
            "objective": options.objective,
            "steps": options.steps,
            "batch_size": options.batch_size,
            "runs": trainee.members,
        },
        "log_z": trainee.log_z.tolist() if options.objective == "tb" else None,
        "history": history,
        "members": members,
    }
    population = Population(
        structure, trainee.snapshots.reshape(-1, structure.layout.size).clone(), provenance
    )
    return measure(population)


def train_members(
    structure: Structure,
    options: ZooOptions,
    starts: Starts,
    *,
    seed: int,
    folder: Path,
    progress: Progress,
    device: str = "cpu",
) -> Population:
    """Train the `options.num` members of one structure of a zoo from where the encoder has them start."""
    runs, checkpoints = options.split()
    with threads(options.threads):
        start = starts.weights(Population.initialised(structure, runs, seed), seed)
        population = train_population(
            structure, options, start=start, seed=seed, folder=folder, progress=progress, device=device,
            checkpoints=checkpoints, every=options.checkpoint_every,
        )  # fmt: skip
    return population[: options.num]


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
