"""The dense checkpoints of the last steps, beside all weights that there were."""

import pytest
import torch

from genflow.training.snapshots import Snapshots


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("planned", [20, 23])
def test_they_are_the_weights_after_the_last_steps(number, every, planned):
    for taken in range((number - 1) * every + 1, planned + 1):
        snapshots = Snapshots(number, every, planned, members=2, size=3)
        assert snapshots.least_steps <= taken
        for steps in range(1, taken + 1):
            snapshots.take(steps, lambda steps=steps: torch.full((2, 3), float(steps)))
        weights, after = snapshots.finish(taken, torch.full((2, 3), float(taken)))
        earlier = [step for step in range(taken - 1, 0, -1) if (planned - step) % every == 0]
        assert after == [taken, *earlier[: number - 1]]
        assert torch.equal(weights, torch.tensor(after).float()[:, None, None].expand(-1, 2, 3))
