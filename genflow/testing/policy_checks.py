"""Checks of a policy architecture: its layout, and its own passes against the torch module and autograd.

A check takes a `PolicyUnderTest`. Shapes: M policies, B states, s inputs, A actions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from genflow.errors import GenflowError
from genflow.interfaces.policy import PolicyArch
from genflow.interfaces.validation import kind_of, numbers_of
from genflow.population import Population
from genflow.registry import registry
from genflow.schema import brief
from genflow.seeding import seeded_cpu
from genflow.testing.encoder_checks import EncoderUnderTest
from genflow.testing.outcomes import Note, Skipped
from genflow.testing.tasks import TaskUnderTest

#: policies, and how far their weights are from the initial ones
MEMBERS, SCALE = 3, 1.5
#: absolute and relative difference of float32 that rounding explains
NEAR = 1e-4


class PolicyUnderTest(TaskUnderTest):
    """A structure, with some policies and the inputs of some states."""

    @property
    def arch(self) -> PolicyArch:
        """The architecture."""
        return self.structure.arch

    @cached_property
    def arch_name(self) -> str:
        """The name of the architecture's class."""
        return type(self.arch).__name__

    @cached_property
    def population(self) -> Population:
        """M policies far from each other.

        Raises:
            Skipped: genflow refuses the task or the layout.
        """
        self.require_use()
        start = Population.initialised(self.structure, MEMBERS, seed=0)
        return Population(self.structure, SCALE * start.weights)

    @cached_property
    def states(self) -> Tensor:
        """The states (B, *state_shape) of a short walk."""
        self.require_use()
        return torch.cat(self.walked.walk)

    @cached_property
    def inputs(self) -> Tensor:
        """The inputs (B, s) of these states."""
        _ = self.states
        return self.own.inputs(self.states)

    @cached_property
    def modules(self) -> list[nn.Module]:
        """Each policy as a torch module of its own."""
        return [each.module() for each in self.population]

    @cached_property
    def expected(self) -> Tensor:
        """The logits (M, B, A) of the modules, one after the other.

        Raises:
            Skipped: the module does not fit, which another check reports.
        """
        if next(check_module(self), None) is not None:
            raise Skipped("the module itself is at fault, see `module`; mend that first")
        with torch.no_grad():
            return torch.stack([module(self.inputs) for module in self.modules])

    @cached_property
    def passes(self) -> dict[str, Tensor]:
        """What `forward` is given: the inputs of all policies, or some for each."""
        return {"(B, s)": self.inputs, "(M, B, s)": self.inputs.expand(MEMBERS, *self.inputs.shape)}


def check_axes(task: PolicyUnderTest) -> Iterator[str]:
    """Each axis of each parameter has a label, and axes with one label have one length."""
    layout = task.structure.layout  # which says what does not fit
    sizes: dict[str, set[int]] = defaultdict(set)
    for name, shape in layout.shapes.items():
        for size, label in zip(shape, layout.axes[name], strict=True):
            sizes[label].add(size)
    for label in ("input", "action"):
        if label not in sizes and not task.arch.reads_units:
            yield (
                f"{task.arch_name}.axes(): no axis has the label {label!r}; give it to the axis that has a"
                f" unit for each {label}"
            )
    for label, found in sizes.items():
        if len(found) > 1:
            yield (
                f"{task.arch_name}.axes(): axes of {', '.join(map(str, sorted(found)))} units share the label"
                f" {label!r}; give the same label to the same units alone"
            )


def check_condition_numbers(task: PolicyUnderTest) -> Iterator[str]:
    """The architecture gives the condition finite numbers, under names that the environment does not use."""
    both = numbers_of(task.arch).keys() & numbers_of(task.environment).keys()
    if both:
        yield (
            f"{task.arch_name}.condition(): gives {brief(', '.join(sorted(both)))} as the environment does;"
            " choose other names"
        )


def check_module(task: PolicyUnderTest) -> Iterator[str]:
    """The module maps inputs (B, s) to finite logits (B, A), each row alone, and the same each time."""
    task.require_use()
    built = "build_for" if task.arch.reads_units else "build"
    name, inputs = f"{task.arch_name}.{built}()", task.inputs
    actions = task.own.n_actions
    with seeded_cpu(0):
        module = task.structure.module()
    with torch.no_grad():
        logits, again = module(inputs), module(inputs)
        alone = torch.cat([module(row) for row in inputs.split(1)])
    shape = (len(inputs), actions)
    if not isinstance(logits, Tensor) or logits.shape != shape or logits.dtype != torch.float32:
        yield f"{name}: makes {kind_of(logits)} of {len(inputs)} states; the logits must be {shape} float32"
    elif not logits.isfinite().all():
        yield f"{name}: makes logits that are not finite; leave masking to genflow"
    elif not torch.equal(logits, again):
        yield f"{name}: makes other logits each time; leave out what is random, such as dropout"
    elif not torch.allclose(logits, alone, NEAR, NEAR):
        yield (
            f"{name}: a state's logits depend on the others of its batch; leave out what mixes rows, such as"
            " batch normalisation"
        )


def check_weights(task: PolicyUnderTest) -> Iterator[str]:
    """Untrained policies differ by their seed, and by nothing else."""
    task.require_use()
    one, same, other = (Population.initialised(task.structure, 1, seed).weights for seed in (0, 0, 1))
    if not torch.equal(one, same):
        yield f"{task.arch_name}.build(): the same seed makes other weights; draw by torch's generator alone"
    if torch.equal(one, other):
        yield f"{task.arch_name}.build(): all seeds make the same weights; draw them, e.g. as nn.Linear does"


def check_forward(task: PolicyUnderTest) -> Iterator[str]:
    """`forward` of M policies at once is what each module computes."""
    expected, module, weights = task.expected, task.structure.module(), task.population.state_dict()
    for shape, x in task.passes.items():
        found = task.arch.forward(module, weights, x)
        if _differ(found, expected):
            yield _unlike(task, "forward()", shape, found)


def check_cached_forward(task: PolicyUnderTest) -> Iterator[str]:
    """`forward_with_cache` is what each module computes, of inputs and of the indices of ones."""
    expected, module, weights = task.expected, task.structure.module(), task.population.state_dict()
    forward = task.arch.forward_with_cache(module, weights)
    given = dict(task.passes)
    if task.arch.takes_one_hot_indices:
        indices = task.own.one_hot_indices(task.states)
        if indices is None:
            yield Note(f"{task.name} gives no indices of ones, so these were not tried")
        else:
            given |= {"(B, k)": indices, "(M, B, k)": indices.expand(MEMBERS, *indices.shape)}
    for shape, x in given.items():
        found, cache = forward(x)
        if _differ(found, expected):
            yield _unlike(task, "forward_with_cache()", shape, found)
        if any(each.shape[:2] != (MEMBERS, len(expected[0])) for each in cache):
            yield (
                f"{task.arch_name}.forward_with_cache(): its cache must be tensors (M, B, ...), so that those"
                " of several passes can be joined along B"
            )


def check_gradients(task: PolicyUnderTest) -> Iterator[str]:
    """`backward` writes the gradients of autograd, also of two passes together."""
    expected, module, weights = task.expected, task.structure.module(), task.population.state_dict()
    toward = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    true = defaultdict(list)
    for each, direction in zip(task.modules, toward, strict=True):
        each.zero_grad()
        (each(task.inputs) * direction).sum().backward()
        for name, parameter in each.named_parameters():
            true[name].append(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    forward, x = task.arch.forward_with_cache(module, weights), task.passes["(M, B, s)"]
    half = x.shape[1] // 2
    parts = [forward(part.contiguous())[1] for part in (x[:, :half], x[:, half:])]
    joined = tuple(torch.cat(pair, dim=1) for pair in zip(*parts, strict=True))
    found = {name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}
    task.arch.backward(module, weights, joined, toward, found)
    for name, gradients in true.items():
        exact = torch.stack(gradients)
        if _differ(found[name], exact, NEAR * float(exact.abs().max().clamp(min=1))):
            yield (
                f"{task.arch_name}.backward(): the gradient of {name} is not that of autograd; write it to"
                " out_grads[name], or leave the method out"
            )


def check_encoders(tasks: Sequence[PolicyUnderTest]) -> Iterator[str]:
    """A registered encoder takes the policies."""
    for task in tasks:
        task.require_use()
    taken = []
    for name in registry().names("encoder"):
        try:
            made = EncoderUnderTest(registry().load("encoder", name), [task.structure for task in tasks])
            if made.decoded:
                taken.append(name)
        except (GenflowError, Skipped) as error:
            yield Note(f"encoder {name} does not take it: {error}")
    yield Note(f"encoders that take it: {', '.join(taken) or 'none'}")
    if not taken:
        yield f"{tasks[0].arch_name}: no encoder takes it; label its axes so that one does"


def _differ(found: Tensor, expected: Tensor, near: float = NEAR) -> bool:
    return found.shape != expected.shape or not torch.allclose(found, expected, NEAR, near)


def _unlike(task: PolicyUnderTest, method: str, shape: str, found: Tensor) -> str:
    return (
        f"{task.arch_name}.{method}: of inputs {shape} its logits {tuple(found.shape)} are not those of the"
        " module that build() makes; compute the same, or leave the method out"
    )
