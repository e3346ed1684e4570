"""What lies ahead of a position, counted one by one."""

import pytest
import torch
from genflow_hypergrid.features import position_features


@pytest.mark.parametrize("height", [2, 3, 9, 40])
@pytest.mark.parametrize("seed", range(4))
def test_the_outlook_is_what_walking_ahead_finds(height, seed):
    outer, band = (
        torch.rand(2, height, generator=torch.Generator().manual_seed(seed)) < (0.0, 0.3, 0.7, 1.0)[seed]
    )
    features = position_features(outer, band)
    for indicator, columns in ((outer.tolist(), features[:, -18:-9]), (band.tolist(), features[:, -9:])):
        for k in range(height):
            ahead = indicator[k:]
            none = not any(ahead)
            wait = height if none else ahead.index(True)
            run = next((i for i, rewarded in enumerate(ahead) if not rewarded), len(ahead))
            assert columns[k, 0] == none
            assert columns[k, 1].item() == pytest.approx(sum(ahead) / height)
            assert columns[k, 3].item() == pytest.approx(wait / height)
            assert columns[k, 6].item() == pytest.approx(run / height)
