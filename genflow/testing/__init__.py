"""Checks of plugins: a pytest class to subclass for each interface, and the plain functions beneath them.

A test file of a plugin is one class::

    from genflow.testing import EnvironmentTests

    class TestBits(EnvironmentTests):
        env = "bits"
        structures = ("n=3", "n=4")

``genflow check bits`` runs the same checks, and `check` returns what became of them. Only the classes need
pytest.
"""

from genflow.testing.classes import (
    DenoiserTests,
    EncoderTests,
    EnvironmentTests,
    MetricTests,
    PolicyTests,
    RewardTests,
)
from genflow.testing.outcomes import Outcome
from genflow.testing.plans import check

__all__ = [
    "DenoiserTests",
    "EncoderTests",
    "EnvironmentTests",
    "MetricTests",
    "Outcome",
    "PolicyTests",
    "RewardTests",
    "check",
]
