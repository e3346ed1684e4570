"""Whether networks compute alike inside, by centred kernel alignment of their layers.

Shapes: M policies, B states, F features of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from genflow import Metric, Population, Schema


def cka(features: Tensor) -> Tensor:
    """Linear CKA between every two of M sets of features.

    (M, B, F) -> (M, M), 0 to 1; NaN for features that do not vary.

    |Y'X|^2 / (|X'X| |Y'Y|), Frobenius norms, X and Y centred (Kornblith et al. 2019), by way of the Gram
    matrices: |Y'X|^2 = <XX', YY'>.
    """
    gram = torch.stack([_gram(each) for each in features])
    return gram @ gram.T


def cka_matrix(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Linear CKA between every layer of one network and every layer of another, as `cka`.

    Lists of (B, F) features of the same B examples, F as each layer has -> (layers of a, layers of b).
    """
    return torch.stack([_gram(each) for each in a]) @ torch.stack([_gram(each) for each in b]).T


def _gram(features: Tensor) -> Tensor:
    """The Gram matrix of features (B, F) as a vector (B * B,) of length 1; NaN where they do not vary."""
    centred = features.double() - features.double().mean(0)
    gram = (centred @ centred.T).flatten()
    # which rounding would hide
    return gram * torch.nan if (features == features[:1]).all() else gram / gram.norm()


def activations(module: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Outputs (B, F), float64, of every module without children, in the order in which they run."""
    outputs: list[Tensor] = []

    def collect(_module: nn.Module, _args: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.shape[:1] == inputs.shape[:1]:
            outputs.append(output.double().reshape(len(inputs), -1))

    hooks = [leaf.register_forward_hook(collect) for leaf in module.modules() if not list(leaf.children())]
    with torch.no_grad():
        module.eval()(inputs)
    for hook in hooks:
        hook.remove()
    return outputs


class CKA(Metric):
    """Linear centred kernel alignment with the same layer of the other policies, a mean over both."""

    #: less alike is more diverse
    better = "lower"
    joint = True

    class Config(Schema):
        """On which states networks are compared."""

        states: int = Field(default=256, ge=2, description="How many visited states are compared on.")
        draws: int = Field(default=64, ge=1, description="How many trajectories of each policy visit states.")
        seed: int = Field(default=0, description="The seed of trajectories and states.")

    def __call__(self, population: Population) -> Tensor:
        """One number a policy, (M,) float64, 0 to 1; NaN for a policy that is alone."""
        rollouts = population.rollouts(self.config.draws, self.config.seed)
        visited = rollouts.inputs[rollouts.valid]
        rng = torch.Generator().manual_seed(self.config.seed)
        inputs = visited[torch.randint(len(visited), (self.config.states,), generator=rng)]
        layers = zip(*(activations(policy.module(), inputs) for policy in population), strict=True)
        alignment = torch.stack([cka(torch.stack(layer)) for layer in layers])
        alignment.diagonal(dim1=1, dim2=2).fill_(torch.nan)
        return alignment.nanmean(dim=(0, 2))
