"""torchgfn's side: its own environment, sampler and trajectory balance loss, as its examples combine them.

    python benchmarks/peers/torchgfn_side.py [DEVICE]

See `sides` for the protocol.

A task is {"ndim", "height", "width"}, and the rewards R0, R1 and R2 if they are not the usual ones.
"""

from __future__ import annotations

import logging
import sys
import time

import torch
from gfn.estimators import DiscretePolicyEstimator
from gfn.gflownet import TBGFlowNet
from gfn.gym import HyperGrid
from gfn.preprocessors import KHotPreprocessor
from gfn.samplers import Sampler
from safetensors.torch import load_file, save_file
from sides import Handlers, paced, serve
from torch import Tensor, nn

REWARD = {"R0": 0.1, "R1": 0.5, "R2": 2.0}
logging.getLogger("gfn.gym.hypergrid").setLevel(logging.ERROR)  # heights up to 4 are fine here


class Policy(nn.Module):
    """genflow's MLP-3, so that weights can be handed over by name."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.input_dim, self.output_dim = inputs, outputs
        hidden = [nn.Linear(inputs, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU()]
        self.net = nn.Sequential(*hidden, nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return self.net(x)


class Torchgfn(Handlers):
    """One policy in training, and the exact distribution on a plane."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    def _build(self, task: dict) -> None:
        ndim, height = task["ndim"], task["height"]
        reward = {key: task.get(key, value) for key, value in REWARD.items()}
        self.env = HyperGrid(ndim, height, "original", reward, self.device, validate_modes=False)
        preprocessor = KHotPreprocessor(height, ndim)
        preprocessor.target_dtype = (
            torch.get_default_dtype()
        )  # its one-hots are integers, which no linear layer takes
        self.module = Policy(ndim * height, task["width"], self.env.n_actions).to(self.device)
        self.forward = DiscretePolicyEstimator(
            self.module, n_actions=self.env.n_actions, preprocessor=preprocessor
        )
        self.backward = DiscretePolicyEstimator.uniform(self.env.n_actions, preprocessor=preprocessor)

    def prepare(
        self, task: dict, recipe: dict, seed: int = 0, weights: str | None = None, log_z: float = 0.0
    ) -> dict[str, float]:
        """Start a policy, from `weights` if given.

        A recipe is {"batch_size", "epsilon", "lr", "log_z_rate"}.
        """
        began = time.perf_counter()
        torch.manual_seed(seed)
        self._build(task)
        if weights is not None:
            self.module.load_state_dict(load_file(weights, self.device))
        self.gflownet, self.sampler, self.recipe = (
            TBGFlowNet(self.forward, self.backward, init_logZ=log_z).to(self.device),
            Sampler(self.forward),
            recipe,
        )
        log_z = {"params": [self.gflownet.logZ], "lr": recipe["log_z_rate"] * recipe["lr"]}
        self.optimizer = torch.optim.Adam([{"params": self.module.parameters()}, log_z], lr=recipe["lr"])
        return {"seconds": time.perf_counter() - began}

    def _step(self) -> int:
        recipe = self.recipe
        trajectories = self.sampler.sample_trajectories(
            self.env, n=recipe["batch_size"], save_logprobs=False, epsilon=recipe["epsilon"]
        )
        loss = self.gflownet.loss_from_trajectories(self.env, trajectories, recalculate_all_logprobs=True)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return 1

    def iterate(self, seconds: float | None = None, limit: int | None = None) -> dict[str, float]:
        """Train on."""
        return paced(self._step, seconds, limit, self._wait)

    def save(self, path: str) -> None:
        """Write the weights."""
        save_file({name: tensor.cpu() for name, tensor in self.module.state_dict().items()}, path)

    @torch.no_grad()
    def exact(self, task: dict, weights: str, out: str) -> dict[str, float]:
        """The exact terminal distribution (S,) on a plane, to `out`.

        As torchgfn's tutorials do it: state by state over the grid.
        """
        height = task["height"]
        if task["ndim"] != 2:
            raise ValueError("this way of evaluating is written for two dimensions")
        self._build(task)
        self.module.load_state_dict(load_file(weights))
        began = time.perf_counter()
        axis = torch.arange(height)
        states = self.env.States(torch.cartesian_prod(axis, axis))
        probs = self.forward.to_probability_distribution(states, self.forward(states)).probs.reshape(
            height, height, 3
        )
        reached = torch.zeros(height, height)
        reached[0, 0] = 1.0
        for i in range(height):
            for j in range(height):
                if i > 0:
                    reached[i, j] += reached[i - 1, j] * probs[i - 1, j, 0]
                if j > 0:
                    reached[i, j] += reached[i, j - 1] * probs[i, j - 1, 1]
        distribution = (reached * probs[..., 2]).flatten()
        seconds = time.perf_counter() - began
        save_file({"distribution": distribution}, out)
        return {"seconds": seconds}


if __name__ == "__main__":
    serve(Torchgfn(*sys.argv[1:]))
