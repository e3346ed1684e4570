"""Options of the coordinate encoder: its network, where its zoo starts, and its losses."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from genflow import Schema

from .smooth_family import Init


class CoordinateOptions(Schema):
    """Options of the network, of the zoo's starts, and of the losses."""

    renamed: ClassVar[dict[str, str]] = {"style_share": "autoencoder.options.style_variance"}

    latent_size: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="How many numbers a latent has; they are also the numbers of a style.",
    )
    style_variance: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="The fraction of the smooth family's variance that the style decides.",
    )
    hidden: int = Field(default=256, ge=1, le=8192, description="The width of the layers that read a unit.")
    embedding: int = Field(
        default=256, ge=1, le=8192, description="The size of the embedding of latent and condition."
    )
    depth: int = Field(default=2, ge=0, le=32, description="How many residual blocks read a unit.")
    matrices: int = Field(
        default=24,
        ge=1,
        le=1024,
        description="How many learned matrices make the weights between hidden units.",
    )
    rank: int = Field(
        default=4, ge=1, le=1024, description="How many directions are added to those matrices."
    )
    features: bool = Field(
        default=True,
        description="Whether units are read by their amounts; if false, by their coordinates.",
    )
    pool: bool = Field(
        default=False,
        description="Whether what a network reads in all units together is added to the condition, for tasks"
        " that are a set of things.",
    )
    readouts: bool = Field(
        default=False,
        description="Whether each value of a category of units has a last layer of its own, beside the one"
        " that all share, and the condition scales what they read.",
    )
    latent_noise: float = Field(
        default=0.2, ge=0, description="The noise on latents, which have unit scale, while training."
    )
    init: Init = Field(
        default="style",
        description='A zoo\'s members start at a style each ("style"), at the base of the family ("shared"),'
        ' or as the architecture initialises them ("independent").',
    )
    init_noise: float = Field(
        default=0.1,
        ge=0,
        description="The noise on a member's start, relative to each tensor's own spread.",
    )
    reference: Literal["member", "optimal"] = Field(
        default="member",
        description="Decoded policies are compared with each member's own policy, or with the optimal one.",
    )
    swap_probability: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="How often a step asks for the optimal policies of latents that come from other"
        " structures' members, instead of for the members' own weights.",
    )
    rehearsal_probability: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="How often such a step takes a task with a made-up reward instead, where the environment"
        " can make one up.",
    )
    length_power: float = Field(
        default=0.0,
        ge=0,
        description="A structure's KL counts by the expected length of its trajectories to this power.",
    )
    normaliser_floor: float | None = Field(
        default=None,
        gt=0,
        description="A structure's KL is taken relative to its own recent level plus this, or as it is where"
        " this is None.",
    )

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
        if self.rehearsal_probability and not self.swap_probability:
            raise ValueError(
                "rehearsal_probability needs swap_probability > 0: a made-up task takes the place of a swap"
            )
        return self
