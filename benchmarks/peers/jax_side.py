"""A compiled side, by the algorithm of JAX libraries for GFlowNets: our own writing, for this task alone.

See `sides` for the protocol.

A training step is one compiled function: all trajectories take the longest trajectory's steps, n (h - 1) + 1,
by `lax.scan`, with masks after their ends; many steps run in one dispatch. `members` > 1 maps it over as many
policies. float32 throughout.

Shapes: B trajectories, T steps, n dimensions, h positions each, s = n h inputs, A = n + 1 actions (the last
is exit), S = h**n states.
"""

from __future__ import annotations

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import sparse
from safetensors.numpy import load_file, save_file
from sides import Handlers, paced, serve

REWARD = {"R0": 0.1, "R1": 0.5, "R2": 2.0}
NEGATIVE_SLOPE = 0.01
#: linear layers of the policy in a ``torch.nn.Sequential`` with an activation between them
LAYERS = (0, 2, 4)
#: training steps in a dispatch, over the members
CHUNK = 32
#: states evaluated at once
ROWS = 8192
#: what is left on the way when the exact evaluation stops
LEFT = 1e-7


class Grid:
    """A hypergrid: states are int32 (..., n)."""

    def __init__(self, task: dict) -> None:
        self.n, self.h, self.width = task["ndim"], task["height"], task["width"]
        self.rewards = [task.get(key, value) for key, value in REWARD.items()]

    def masks(self, states: jax.Array) -> jax.Array:
        """(..., n) -> (..., A) allowed actions."""
        return jnp.concatenate([states < self.h - 1, jnp.ones((*states.shape[:-1], 1), bool)], -1)

    def inputs(self, states: jax.Array) -> jax.Array:
        """(..., n) -> (..., s) one-hot."""
        return jax.nn.one_hot(states, self.h).reshape(*states.shape[:-1], self.n * self.h)

    def log_reward(self, states: jax.Array) -> jax.Array:
        """(..., n) -> (...)."""
        r0, r1, r2 = self.rewards
        distance = jnp.abs(states / (self.h - 1) - 0.5)
        return jnp.log(
            r0 + r1 * jnp.all(distance > 0.25, -1) + r2 * jnp.all((distance > 0.3) & (distance < 0.4), -1)
        )

    def initial(self, key: jax.Array) -> dict[str, jax.Array]:
        """Weights (inputs, outputs) and biases as torch draws them."""
        params, inputs = {}, self.n * self.h
        for layer, outputs in zip(LAYERS, (self.width, self.width, self.n + 1), strict=True):
            key, one, two = jax.random.split(key, 3)
            bound = inputs**-0.5
            params[f"net.{layer}.weight"] = jax.random.uniform(
                one, (inputs, outputs), minval=-bound, maxval=bound
            )
            params[f"net.{layer}.bias"] = jax.random.uniform(two, (outputs,), minval=-bound, maxval=bound)
            inputs = outputs
        return params

    def logits(self, params: dict[str, jax.Array], states: jax.Array) -> jax.Array:
        """(..., n) -> (..., A), minus infinity where an action is not allowed."""
        x = self.inputs(states)
        for layer in LAYERS:
            x = x if layer == 0 else jax.nn.leaky_relu(x, NEGATIVE_SLOPE)
            x = x @ params[f"net.{layer}.weight"] + params[f"net.{layer}.bias"]
        return jnp.where(self.masks(states), x, -jnp.inf)

    def rollout(
        self, params: dict, key: jax.Array, batch: int, epsilon: float
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """States (T, B, n), actions (T, B), and whether the trajectory had ended before (T, B)."""

        def step(carry, key):
            states, ended = carry
            logits = self.logits(params, states)
            uniform = jax.random.bernoulli(jax.random.fold_in(key, 0), epsilon, (batch, 1))
            actions = jax.random.categorical(
                jax.random.fold_in(key, 1),
                jnp.where(uniform, jnp.where(jnp.isinf(logits), logits, 0.0), logits),
            )
            exits = ended | (actions == self.n)
            moved = jnp.where(
                exits[:, None], states, states + jax.nn.one_hot(actions, self.n, dtype=jnp.int32)
            )
            return (moved, exits), (states, actions, ended)

        start = jnp.zeros((batch, self.n), jnp.int32), jnp.zeros(batch, bool)
        return jax.lax.scan(step, start, jax.random.split(key, self.n * (self.h - 1) + 1))[1]

    def loss(self, params: dict, key: jax.Array, batch: int, epsilon: float) -> jax.Array:
        """Trajectory balance with a uniform backward policy."""
        states, actions, ended = jax.lax.stop_gradient(self.rollout(params, key, batch, epsilon))
        log_probs = jax.nn.log_softmax(self.logits(params, states))
        log_pf = jnp.where(ended, 0.0, jnp.take_along_axis(log_probs, actions[..., None], -1)[..., 0]).sum(0)
        # a state is entered once, but for the first one, which has no parents
        log_pb = -jnp.where(ended, 0.0, jnp.log(jnp.maximum((states > 0).sum(-1), 1))).sum(0)
        return jnp.square(params["log_z"] + log_pf - log_pb - self.log_reward(states[-1])).mean()

    def transitions(self, probs: np.ndarray) -> sparse.BCSR:
        """(S, A) -> (2 S, 2 S), from the column's state to the row's.

        The second S are the ends of the first, and lead nowhere.
        """
        count, place = self.h**self.n, self.h ** np.arange(self.n - 1, -1, -1)
        index = np.arange(count)
        targets = np.concatenate([index[:, None] + place, count + index[:, None]], 1)
        allowed = np.concatenate(
            [index[:, None] // place % self.h < self.h - 1, np.ones((count, 1), bool)], 1
        )
        rows = np.broadcast_to(index[:, None], allowed.shape)[allowed]
        pairs = np.stack([targets[allowed], rows], 1).astype(np.int32)
        matrix = sparse.BCOO((jnp.asarray(probs[allowed]), jnp.asarray(pairs)), shape=(2 * count, 2 * count))
        return sparse.BCSR.from_bcoo(matrix.sort_indices())


@jax.jit
def flow(matrix: sparse.BCSR, start: jax.Array) -> jax.Array:
    """(2 S,) the sum of start, P start, P P start and so on, until less than `LEFT` is on the way."""

    def step(carry):
        vector, total = carry
        vector = matrix @ vector
        return vector, total + vector

    return jax.lax.while_loop(lambda carry: jnp.abs(carry[0]).sum() >= LEFT, step, (start, start))[1]


class Jax(Handlers):
    """One policy, or several mapped over, in training; and the exact distribution by a sparse matrix."""

    def prepare(self, task: dict, recipe: dict, members: int = 1, seed: int = 0) -> dict[str, float]:
        """Start and compile; a recipe is {"batch_size", "epsilon", "lr", "log_z_rate"}."""
        began = time.perf_counter()
        grid = Grid(task)
        rates = {"policy": optax.adam(recipe["lr"]), "log_z": optax.adam(recipe["log_z_rate"] * recipe["lr"])}
        optimizer = optax.multi_transform(
            rates, lambda params: {name: "log_z" if name == "log_z" else "policy" for name in params}
        )
        loss = partial(grid.loss, batch=recipe["batch_size"], epsilon=recipe["epsilon"])

        def start(key):
            params = grid.initial(key) | {"log_z": jnp.zeros(())}
            return params, optimizer.init(params), key

        def step(carry, _):
            params, state, key = carry
            key, own = jax.random.split(key)
            updates, state = optimizer.update(jax.grad(loss)(params, own), state, params)
            return (optax.apply_updates(params, updates), state, key), None

        self.chunk = max(1, CHUNK // members)
        run = lambda carry: jax.lax.scan(step, carry, length=self.chunk)[0]  # noqa: E731
        key = jax.random.key(seed)
        self.single = members == 1
        self.carry = start(key) if self.single else jax.vmap(start)(jax.random.split(key, members))
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
        """Write the first member's weights, in torch's orientation."""
        params = {
            name: np.asarray(p if self.single else p[0])
            for name, p in self.carry[0].items()
            if name != "log_z"
        }
        save_file({name: np.ascontiguousarray(p.T) for name, p in params.items()}, path)

    def exact(self, task: dict, weights: str, out: str) -> dict[str, float]:
        """The exact terminal distribution (S,), to `out`. Compilation counts the first time."""
        grid, params = Grid(task), {name: jnp.asarray(p.T) for name, p in load_file(weights).items()}
        began = time.perf_counter()
        count, place = grid.h**grid.n, grid.h ** np.arange(grid.n - 1, -1, -1)
        probs = np.empty((count, grid.n + 1), np.float32)
        rows = min(ROWS, count)
        for first in range(0, count, rows):
            # the last states are repeated, so that one shape is compiled
            index = np.minimum(np.arange(first, first + rows), count - 1)
            states = (index[:, None] // place % grid.h).astype(np.int32)
            probs[first : first + rows] = self._probs(grid.n, grid.h, grid.width, params, states)[
                : count - first
            ]
        matrix = grid.transitions(probs)
        distribution = np.asarray(flow(matrix, jnp.zeros(2 * count).at[0].set(1.0))[count:])
        seconds = time.perf_counter() - began
        save_file({"distribution": distribution}, out)
        return {"seconds": seconds}

    @staticmethod
    @partial(jax.jit, static_argnums=(0, 1, 2))
    def _probs(n: int, h: int, width: int, params: dict[str, jax.Array], states: jax.Array) -> jax.Array:
        grid = Grid({"ndim": n, "height": h, "width": width})
        return jax.nn.softmax(grid.logits(params, states))


if __name__ == "__main__":
    serve(Jax())
