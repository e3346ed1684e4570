"""Options of the coordinate encoder: its network, where its zoo starts, and its losses."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from genflow import Schema

from .smooth_family import Init


class CoordinateOptions(Schema):
    """Options of the network, of the zoo's starts, and of the losses.

    `latent_size`: numbers of a latent, which are those of a style.
    `style_variance`: the part of the family's variance that the style decides.
    `hidden`, `embedding`: sizes of layers.
    `depth`: blocks that read a unit.
    `matrices`, `rank`: learned matrices, and more directions, that make the weights between hidden units.
    `features`: False reads the coordinates of units instead of their amounts.
    `pool`: adds to the condition what a network reads in all units together, for tasks that are a set of
        things.
    `latent_noise`: what is added to latents, which have unit scale, while training.
    `init`: a zoo's members start from a style each ("style"), from the base of the family ("shared"), or from
        the architecture's own initialisation ("independent").
    `init_noise`: what is added to a start for each member, relative to each tensor's own spread.
    `reference`: policies are compared with each member's own ("member"), or with the "optimal" one.
    `swap_probability`: how often a step asks for the optimal policies of latents that come from other
        structures' members, instead of for the members' own weights.
    `length_power`: a structure's KL counts by the expected length of its trajectories to this power.
    `normaliser_floor`: a structure's KL is taken relative to its own recent level plus this; None: as it is.
    """

    renamed: ClassVar[dict[str, str]] = {"style_share": "autoencoder.options.style_variance"}

    latent_size: int = Field(default=16, ge=1, le=1024)
    style_variance: float = Field(default=0.3, ge=0, le=1)
    hidden: int = Field(default=256, ge=1, le=8192)
    embedding: int = Field(default=256, ge=1, le=8192)
    depth: int = Field(default=2, ge=0, le=32)
    matrices: int = Field(default=24, ge=1, le=1024)
    rank: int = Field(default=4, ge=1, le=1024)
    features: bool = True
    pool: bool = False
    latent_noise: float = Field(default=0.2, ge=0)
    init: Init = "style"
    init_noise: float = Field(default=0.1, ge=0)
    reference: Literal["member", "optimal"] = "member"
    swap_probability: float = Field(default=0.0, ge=0, lt=1)
    length_power: float = Field(default=0.0, ge=0)
    normaliser_floor: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _losses_fit_together(self) -> CoordinateOptions:
        if self.reference == "member" and self.length_power:
            raise ValueError(
                'length_power needs reference = "optimal", which knows how long trajectories are'
            )
        if self.reference == "member" and self.swap_probability:
            raise ValueError(
                'swap_probability needs reference = "optimal": a swapped latent has no member to copy'
            )
        return self
