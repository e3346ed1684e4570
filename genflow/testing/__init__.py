"""Checks of plugins: a pytest class to subclass for each interface, and the plain functions beneath them.

A test file of a plugin is one class::

    from genflow.testing import EnvironmentTests

    class TestBits(EnvironmentTests):
        env = "bits"
        structures = ("n=3", "n=4")

``genflow check bits`` runs the same checks. None of them needs pytest but the classes' own skips.
"""

from genflow.testing.classes import (
    DenoiserTests,
    EncoderTests,
    EnvironmentTests,
    MetricTests,
    PolicyTests,
    RewardTests,
)

__all__ = ["DenoiserTests", "EncoderTests", "EnvironmentTests", "MetricTests", "PolicyTests", "RewardTests"]
