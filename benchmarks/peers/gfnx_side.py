"""gfnx's side: its own environment, rollouts and trajectory probabilities, put together as its baselines do.

See `sides` for the protocol; JAX_PLATFORMS says what it computes on.

A training step is one compiled function, of which many run in one dispatch. `members` > 1 maps it over as
many policies, as gfnx's baselines of several seeds do. float32 throughout: on a GPU, too, where JAX would
round the factors of products to TF32 if it were not told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial

import equinox as eqx
import gfnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from gfnx.metrics import ExactDistributionMetricsModule, ExactDistributionMetricsState
from safetensors.numpy import load_file, save_file
from sides import Handlers, paced, serve

REWARD = {"R0": 0.1, "R1": 0.5, "R2": 2.0}
#: weights and biases of the policy's linear layers in a ``torch.nn.Sequential``
NAMES = [f"net.{layer}.{part}" for layer in (0, 2, 4) for part in ("weight", "bias")]
#: trajectories of all members in a dispatch of training steps
CHUNK = 512
#: states evaluated at once by the exact evaluation
ROWS = 8192

jax.config.update("jax_default_matmul_precision", "highest")
if not hasattr(jax, "tree_map"):  # gfnx 0.0.1 calls it by its former name
    jax.tree_map = jax.tree.map


class Task:
    """gfnx's environment of a task, and its policy: genflow's MLP-3 as an equinox module."""

    def __init__(self, task: dict) -> None:
        ndim, height = task["ndim"], task["height"]
        reward = gfnx.GeneralHypergridRewardModule(
            **{key: task.get(key, value) for key, value in REWARD.items()}
        )
        self.env = gfnx.HypergridEnvironment(reward, dim=ndim, side=height)
        self.env_params = self.env.init(jax.random.key(0))
        self.sizes = ndim * height, task["width"], ndim + 1
        self.static = eqx.filter(self._module(jax.random.key(0)), eqx.is_array, inverse=True)

    def _module(self, key: jax.Array) -> eqx.nn.MLP:
        inputs, width, actions = self.sizes
        return eqx.nn.MLP(inputs, actions, width, depth=2, activation=jax.nn.leaky_relu, key=key)

    def initial(self, key: jax.Array) -> eqx.nn.MLP:
        """Parameters of an untrained policy, which equinox draws as torch does."""
        return eqx.filter(self._module(key), eqx.is_array)

    def load(self, path: str) -> eqx.nn.MLP:
        """Parameters of the policy that a side saved."""
        tensors = load_file(path)
        values = [jnp.asarray(tensors[name]) for name in NAMES]
        return eqx.tree_at(_tensors, self.initial(jax.random.key(0)), values)

    def outputs(self, params: eqx.nn.MLP, observed: jax.Array) -> dict[str, jax.Array]:
        """Logits for observations (..., s), forward (..., A) and of a uniform backward policy (..., n)."""
        policy = eqx.combine(params, self.static)
        forward = jax.vmap(policy)(observed.reshape(-1, observed.shape[-1]))
        forward = forward.reshape(*observed.shape[:-1], -1)
        return {"forward_logits": forward, "backward_logits": jnp.zeros((*forward.shape[:-1], self.env.dim))}

    def loss(self, params: dict, key: jax.Array, batch: int, epsilon: float) -> jax.Array:
        """Trajectory balance over trajectories that are sampled, then evaluated again for the gradient."""

        def explored(key, observed, policy):
            logits = self.outputs(policy, observed)["forward_logits"]
            return gfnx.utils.apply_epsilon_greedy_vmap(key, logits, epsilon), {}

        rollout, about = gfnx.utils.forward_rollout(
            key, batch, explored, jax.lax.stop_gradient(params["policy"]), self.env, self.env_params
        )
        again = rollout.replace(info=self.outputs(params["policy"], rollout.obs))
        log_pf, log_pb = gfnx.utils.forward_trajectory_log_probs(self.env, again, self.env_params)
        return jnp.square(params["log_z"] + log_pf - log_pb - about["log_gfn_reward"]).mean()


def _tensors(policy: eqx.nn.MLP) -> list[jax.Array]:
    """Weights and biases, in the order of `NAMES`."""
    return [tensor for layer in policy.layers for tensor in (layer.weight, layer.bias)]


class Gfnx(Handlers):
    """One policy, or several mapped over, in training; and the exact distribution by gfnx's metric."""

    def prepare(
        self,
        task: dict,
        recipe: dict,
        members: int = 1,
        seed: int = 0,
        weights: str | None = None,
        log_z: float = 0.0,
    ) -> dict[str, float]:
        """Start, from `weights` if given, and compile.

        A recipe is {"batch_size", "epsilon", "lr", "log_z_rate"}.
        """
        self.carry = self.run = None  # the last policies make room on the device
        began = time.perf_counter()
        own = Task(task)
        given = None if weights is None else own.load(weights)
        optimizer = optax.multi_transform(
            {"policy": optax.adam(recipe["lr"]), "log_z": optax.adam(recipe["log_z_rate"] * recipe["lr"])},
            {"policy": "policy", "log_z": "log_z"},
        )

        def start(key):
            params = {
                "policy": own.initial(key) if given is None else given,
                "log_z": jnp.asarray(log_z, jnp.float32),
            }
            return params, optimizer.init(params), key

        loss = partial(own.loss, batch=recipe["batch_size"], epsilon=recipe["epsilon"])

        def step(carry, _):
            params, state, key = carry
            key, now = jax.random.split(key)
            updates, state = optimizer.update(jax.grad(loss)(params, now), state, params)
            return (optax.apply_updates(params, updates), state, key), None

        self.chunk = max(1, CHUNK // (members * recipe["batch_size"]))
        run = lambda carry: jax.lax.scan(step, carry, length=self.chunk)[0]  # noqa: E731
        key = jax.random.key(seed)
        self.single = members == 1
        self.carry = start(key) if self.single else jax.jit(jax.vmap(start))(jax.random.split(key, members))
        self.run = (
            jax.jit(run if self.single else jax.vmap(run), donate_argnums=0).lower(self.carry).compile()
        )
        return {"seconds": time.perf_counter() - began}

    def _step(self) -> int:
        self.carry = jax.block_until_ready(self.run(self.carry))
        return self.chunk

    def iterate(self, seconds: float | None = None, limit: int | None = None) -> dict[str, float]:
        """Train on."""
        return paced(self._step, seconds, limit)

    def save(self, path: str) -> None:
        """Write the first member's weights, under torch's names."""
        tensors = _tensors(self.carry[0]["policy"])
        first = {
            name: np.asarray(tensor if self.single else tensor[0])
            for name, tensor in zip(NAMES, tensors, strict=True)
        }
        save_file(first, path)

    def exact(self, task: dict, weights: str, out: str) -> dict[str, float]:
        """The exact terminal distribution (S,), to `out`.

        Compilation, and listing all states, count the first time.
        """
        params = Task(task).load(weights)
        began = time.perf_counter()
        evaluate = _evaluate(task["ndim"], task["height"], task["width"])
        distribution = np.asarray(evaluate(params))
        seconds = time.perf_counter() - began
        save_file({"distribution": distribution.ravel()}, out)
        return {"seconds": seconds}


@cache
def _evaluate(ndim: int, height: int, width: int) -> Callable[[eqx.nn.MLP], jax.Array]:
    """gfnx's metric of an exact distribution, compiled for a grid."""
    own = Task({"ndim": ndim, "height": height, "width": width})
    metric = ExactDistributionMetricsModule(
        ["tv"],
        own.env,
        lambda key, observed, params: (own.outputs(params, observed)["forward_logits"], {}),
        batch_size=min(ROWS, height**ndim),
    )
    grid = jnp.zeros((height,) * ndim)
    empty = ExactDistributionMetricsState(true_distribution=grid, exact_distribution=grid)

    def evaluate(params: eqx.nn.MLP) -> jax.Array:
        given = metric.ProcessArgs(policy_params=params, env_params=own.env_params)
        return metric.process(empty, jax.random.key(0), given).exact_distribution

    return jax.jit(evaluate)


if __name__ == "__main__":
    serve(Gfnx())
