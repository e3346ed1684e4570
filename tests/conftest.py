"""Shared by all tests: one thread, so that runs are repeatable and gentle to the machine."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed():
    """Code that draws from torch's global generator (torchgfn's sampler) is repeatable."""
    torch.manual_seed(0)
