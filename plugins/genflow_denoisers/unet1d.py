"""The paper's denoiser: a U-Net of 1-D convolutions over a latent, told the step and the condition.

A latent of Z numbers is cut into positions of `patch` numbers each, which are the channels of the first
convolution. The embedding of step and condition is added to the features of every block.

Sampling asks the network many times for a few latents of a handful of positions, where the overhead of a
convolution takes most of the time. So `UNet1d.prepare` computes what does not depend on the latents once, and
expresses each convolution as one matrix product over windows of three neighbouring positions.

Shapes: B latents, Z numbers in each, L positions at a level, C numbers in a condition, E in an embedding, N
steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genflow import Denoiser, Schema

#: the longest period of the sinusoids, in steps (Vaswani et al. 2017)
MAX_PERIOD = 10_000.0
#: added to conditions before the logarithm, so that 0 is allowed
FLOOR = 1e-3


def time_embedding(t: Tensor, size: int) -> Tensor:
    """Embed steps (B,) as sinusoids (B, size), as in Vaswani et al. (2017)."""
    steps = torch.arange(size // 2, device=t.device, dtype=torch.float32)
    frequencies = torch.exp(-math.log(MAX_PERIOD) * steps / (size // 2))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class StructureEncoder(nn.Module):
    """Embeds a condition, which the paper calls tau(c) with c = [s, h, n, d].

    Conditions span decades, so the network reads their logarithms. Values far below `FLOOR` count as 0.
    """

    def __init__(self, n_conditions: int, size: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n_conditions, size), nn.SiLU(), nn.Linear(size, size))
        #: embedding of "no condition", for classifier-free guidance
        self.unconditional = nn.Parameter(torch.zeros(size))

    def forward(self, condition: Tensor) -> Tensor:
        """Embed conditions (B, C) as (B, E); a row with a NaN gets the unconditional embedding."""
        missing = condition.isnan().any(1, keepdim=True)
        return torch.where(
            missing, self.unconditional, self.net((condition.nan_to_num().abs() + FLOOR).log())
        )


class Block(nn.Module):
    """A residual block of two convolutions, with the embedding added between them."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(channels_in, groups), channels_in)
        self.conv1 = nn.Conv1d(channels_in, channels_out, 3, padding=1)
        self.embed = nn.Linear(embedding, channels_out)
        self.norm2 = nn.GroupNorm(_groups(channels_out, groups), channels_out)
        self.conv2 = nn.Conv1d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Conv1d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map features (B, channels_in, L) under embeddings (B, E) to (B, channels_out, L)."""
        hidden = self.conv1(F.silu(self.norm1(x))) + self.embed(embedding)[..., None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(hidden)))

    def prepare(self, embeddings: Tensor) -> Callable[[Tensor, int], Tensor]:
        """Return a function that computes `forward` under one of several fixed embeddings.

        Args:
            embeddings: (N, E), one for each step of sampling.

        Returns:
            A function of features (B, L, channels_in), channels last, and the number of a step, that returns
            (B, L, channels_out).
        """
        taps1, taps2, skip = _taps(self.conv1), _taps(self.conv2), self.skip.weight[:, :, 0].T
        # the embedding is one more bias of the first convolution, and the skip's bias one of the second
        biases1 = (_bias(self.conv1) + self.embed(embeddings)).unbind()
        bias2 = _bias(self.conv2) + _bias(self.skip)

        def run(x: Tensor, step: int) -> Tensor:
            hidden = torch.addmm(biases1[step], _windows(_activated(self.norm1, x)), taps1)
            hidden = hidden.view(*x.shape[:2], -1)
            skipped = torch.addmm(bias2, x.flatten(0, 1), skip)
            return torch.addmm(skipped, _windows(_activated(self.norm2, hidden)), taps2).view(hidden.shape)

        return run


def _activated(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Normalise and activate features (B, L, channels), channels last."""
    return F.silu(
        torch.group_norm(x.transpose(1, 2), norm.num_groups, norm.weight, norm.bias, norm.eps)
    ).transpose(1, 2)


def _windows(x: Tensor, stride: int = 1) -> Tensor:
    """Put every position beside its two neighbours: (B, L, channels) -> (B * L / stride, 3 * channels).

    Beyond the ends there are zeros, as with the padding of a convolution of length 3.
    """
    padded = F.pad(x, (0, 0, 1, 1))
    return padded.unfold(1, 3, stride).transpose(2, 3).reshape(-1, 3 * x.shape[2])


def _taps(conv: nn.Conv1d) -> Tensor:
    """The matrix (3 * channels_in, channels_out) that makes a convolution a product with `_windows`."""
    return conv.weight.permute(2, 1, 0).flatten(0, 1)


def _grown_taps(conv: nn.ConvTranspose1d) -> Tensor:
    """The matrix (3 * channels_in, 2 * channels_out) of a transposed convolution of length 4 and stride 2.

    Each position becomes two, side by side in a row. The first reads taps 3 and 1 of the kernel, the second
    taps 2 and 0.
    """
    taps = conv.weight.new_zeros(3, conv.in_channels, 2, conv.out_channels)
    taps[[0, 1], :, 0] = conv.weight[:, :, [3, 1]].permute(2, 0, 1)
    taps[[1, 2], :, 1] = conv.weight[:, :, [2, 0]].permute(2, 0, 1)
    return taps.view(3 * conv.in_channels, -1)


def _bias(conv: nn.Conv1d | nn.ConvTranspose1d) -> Tensor:
    return cast(Tensor, conv.bias)


def _groups(channels: int, most: int) -> int:
    """The largest number of groups, up to `most`, that divides the channels and has two in each."""
    # one channel at one position has no variance to normalise by
    return max(
        groups
        for groups in range(1, most + 1)
        if channels % groups == 0 and (groups == 1 or channels // groups >= 2)
    )


class UNet1d(Denoiser):
    """A U-Net with a few levels down and up, each of which halves the length."""

    class Config(Schema):
        """The size of the network."""

        channels: tuple[Annotated[int, Field(ge=2, le=4096)], ...] = Field(
            default=(64, 64, 128, 128),
            min_length=1,
            max_length=16,
            description="The channels of each level, from the longest to the shortest.",
        )
        patch: int = Field(
            default=4,
            ge=1,
            le=1024,
            description="How many neighbouring numbers of a latent make one position.",
        )
        embedding: int = Field(
            default=128,
            ge=2,
            le=8192,
            multiple_of=2,
            description="The size of the embedding of step and condition.",
        )
        groups: int = Field(default=8, ge=1, le=4096, description="The most groups that a normalisation has.")

    def __init__(self, config: Any = None, *, latent_size: int, condition_size: int) -> None:
        super().__init__(config, latent_size=latent_size, condition_size=condition_size)
        channels, patch = self.config.channels, self.config.patch
        size, groups = self.config.embedding, self.config.groups
        self.structure = StructureEncoder(condition_size, size)
        self.time = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, size))
        # a learned channel tells positions apart: the entries of a latent have no natural order
        self.position = nn.Parameter(torch.empty(channels[0], self._length()))
        nn.init.normal_(self.position, std=0.02)
        self.first = nn.Conv1d(patch, channels[0], 3, padding=1)
        # channels of a level and of the next shorter one
        pairs = list(zip(channels, (*channels[1:], channels[-1]), strict=True))
        self.down = nn.ModuleList(Block(own, own, size, groups) for own, _ in pairs)
        self.shrink = nn.ModuleList(nn.Conv1d(own, below, 3, stride=2, padding=1) for own, below in pairs)
        self.middle = Block(channels[-1], channels[-1], size, groups)
        self.grow = nn.ModuleList(
            nn.ConvTranspose1d(below, own, 4, stride=2, padding=1) for own, below in reversed(pairs)
        )
        self.up = nn.ModuleList(Block(2 * own, own, size, groups) for own, _ in reversed(pairs))
        self.last = nn.Conv1d(channels[0], patch, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def _length(self) -> int:
        """The positions of the first level: enough for a latent, and halved evenly by every level."""
        factor = 2 ** len(self.config.channels)
        return factor * math.ceil(self.latent_size / (self.config.patch * factor))

    def forward(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Denoise latents (B, Z) at steps (B,) under conditions (B, C); returns (B, Z)."""
        embedding = self.time(time_embedding(t, self.config.embedding)) + self.structure(condition)
        padded = F.pad(z_t, (0, self._length() * self.config.patch - self.latent_size))
        x = self.first(padded.unflatten(1, (-1, self.config.patch)).transpose(1, 2)) + self.position
        skips = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = block(x, embedding)
            skips.append(x)
            x = shrink(x)
        x = self.middle(x, embedding)
        for grow, block in zip(self.grow, self.up, strict=True):
            x = block(torch.cat([grow(x), skips.pop()], dim=1), embedding)
        return self.last(x).transpose(1, 2).flatten(1)[:, : self.latent_size]

    def prepare(self, t: Tensor, condition: Tensor) -> Sequence[Callable[[Tensor], Tensor]]:
        """Return `forward` at each step of t (N,) under one condition (C,), as functions (B, Z) -> (B, Z)."""
        embeddings = self.time(time_embedding(t, self.config.embedding)) + self.structure(condition[None])
        blocks = [cast(Block, block).prepare(embeddings) for block in (*self.down, self.middle, *self.up)]
        shrink = [(_taps(cast(nn.Conv1d, conv)), _bias(cast(nn.Conv1d, conv))) for conv in self.shrink]
        grow = [
            (_grown_taps(cast(nn.ConvTranspose1d, conv)), _bias(cast(nn.ConvTranspose1d, conv)).repeat(2))
            for conv in self.grow
        ]
        first, last, levels = _taps(self.first), _taps(self.last), len(shrink)
        start = _bias(self.first) + self.position.T

        def run(z: Tensor, step: int) -> Tensor:
            count = len(z)
            x = F.pad(z, (0, self._length() * self.config.patch - self.latent_size)).view(
                count, -1, self.config.patch
            )
            x = (_windows(x) @ first).view(count, -1, self.config.channels[0]) + start
            skips = []
            for block, (taps, bias) in zip(blocks[:levels], shrink, strict=True):
                x = block(x, step)
                skips.append(x)
                x = torch.addmm(bias, _windows(x, 2), taps).view(count, x.shape[1] // 2, -1)
            x = blocks[levels](x, step)
            for block, (taps, bias) in zip(blocks[levels + 1 :], grow, strict=True):
                x = torch.addmm(bias, _windows(x), taps).view(count, 2 * x.shape[1], -1)
                x = block(torch.cat([x, skips.pop()], dim=2), step)
            return torch.addmm(_bias(self.last), _windows(x), last).view(count, -1)[:, : self.latent_size]

        return [partial(run, step=step) for step in range(len(t))]
