"""Networks: torsos and heads, and `make_policy`, which makes a `Policy` of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config import PPOConfig
from purejaxppo.envs.base import Box, Discrete, EnvSpec
from purejaxppo.policies.distributions import Categorical, DiagGaussian
from purejaxppo.ppo.records import Policy
from purejaxppo.validation import ConfigError

Array = jax.Array


def orthogonal(scale: float) -> Callable[..., Array]:
    """An initialiser: `scale` times a matrix with orthonormal rows or columns, whichever are fewer.

    A Gaussian matrix made orthonormal row by row (Gram-Schmidt, each row cleaned twice) is
    Haar-distributed like the Q of a QR decomposition, and needs no LAPACK call: on a CPU those
    can deadlock when vmapped.

    Reference: Mezzadri, arXiv:math-ph/0609050; gains from arXiv:2006.05990, appendix B.
    """

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        rows, columns = int(np.prod(shape[:-1])), shape[-1]
        few, many = sorted((rows, columns))
        gaussian = jax.random.normal(key, (few, many))

        def add_row(q, i):
            row = gaussian[i]
            for _ in range(2):
                row -= (q @ row) @ q  # rows that are not filled yet are zero
            return q.at[i].set(row / jnp.linalg.norm(row)), None

        q, _ = jax.lax.scan(add_row, jnp.zeros_like(gaussian), jnp.arange(few))
        q = q if rows <= columns else q.T
        return (scale * q).reshape(shape).astype(dtype)

    return init


def narrow_dot(x: Array, kernel: Array, dimensions: Any, **options: Any) -> Array:
    """X @ kernel, with a kernel gradient that is fast for few outputs.

    As `nn.Dense(..., dot_general=narrow_dot)`. XLA's code for x.T @ dy with a narrow dy is many
    times slower on a CPU than that for dy.T @ x; the barrier keeps it from turning one into the
    other.
    """
    del dimensions  # those of a dense layer
    kernel = jax.lax.optimization_barrier(kernel.T)
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (1,)), ((), ())), **options)


class MLP(nn.Module):
    """Dense layers, each followed by the activation."""

    sizes: tuple[int, ...]
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., F] to [..., sizes[-1]]."""
        for size in self.sizes:
            x = self.activation(nn.Dense(size, kernel_init=orthogonal(2**0.5))(x))
        return x


class GridCNN(nn.Module):
    """One 3 x 3 convolution of 16 features, then an MLP: the MinAtar network (arXiv:1903.03176)."""

    sizes: tuple[int, ...]
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., height, width, channels] to [..., sizes[-1]]."""
        conv = nn.Conv(16, (3, 3), padding="VALID", kernel_init=orthogonal(2**0.5))
        x = self.activation(conv(x))
        return MLP(self.sizes, self.activation)(x.reshape(*x.shape[:-3], -1))


class ActorCritic(nn.Module):
    """Torsos and heads: observations to (parameters of the action distribution, value)."""

    spec: EnvSpec
    torso: type[MLP] | type[GridCNN]
    sizes: tuple[int, ...]
    activation: Callable[[Array], Array]
    shared: bool

    @nn.compact
    def __call__(self, obs: Array) -> tuple[Any, Array]:
        """Any leading axes; the value has just those."""
        x = self._encode(obs)
        actor = self.torso(self.sizes, self.activation, name="actor")(x)
        critic = actor
        if not self.shared:
            critic = self.torso(self.sizes, self.activation, name="critic")(x)
        value = nn.Dense(1, kernel_init=orthogonal(1.0), name="value")(critic)
        action = self.spec.action
        outputs = action.n if isinstance(action, Discrete) else int(np.prod(action.shape))
        head = nn.Dense(
            outputs, kernel_init=orthogonal(0.01), dot_general=narrow_dot, name="action"
        )(actor)
        if isinstance(action, Discrete):
            return head, value[..., 0]
        log_std = self.param("log_std", nn.initializers.zeros, action.shape)
        mean = head.reshape(*head.shape[:-1], *action.shape)
        return (mean, jnp.broadcast_to(log_std, mean.shape)), value[..., 0]

    def _encode(self, obs: Array) -> Array:
        """What the torso reads: one-hot for integers, flat for an MLP, float32 always."""
        space = self.spec.observation
        if isinstance(space, Discrete):
            return jax.nn.one_hot(obs, space.n)
        if self.torso is MLP:
            obs = obs.reshape(*obs.shape[: obs.ndim - len(space.shape)], -1)
        return obs.astype(jnp.float32)


def make_policy(config: PPOConfig, spec: EnvSpec) -> Policy:
    """The policy that a configuration describes, for the spaces of an environment.

    Raises:
        ConfigError: the torso cannot read these observations, or the action has no distribution.
    """
    torso = choose_torso(config.torso, spec.observation)
    if isinstance(spec.action, Box) and len(spec.action.shape) != 1:
        raise ConfigError(
            f"action shape {spec.action.shape} must be a vector: wrap the environment so that it "
            f"takes ({int(np.prod(spec.action.shape))},)"
        )
    activation = getattr(nn, config.activation)
    network = ActorCritic(spec, torso, config.hidden_sizes, activation, config.shared_torso)
    distribution = Categorical if isinstance(spec.action, Discrete) else DiagGaussian

    def init(key):
        obs = jnp.zeros(spec.observation.shape, spec.observation.dtype)
        return network.init(key, obs)["params"]

    def apply(params, carry, obs, episode_start):
        del episode_start  # there is no memory to reset
        outputs, value = network.apply({"params": params}, obs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return carry, distribution(*outputs), value

    return Policy(init, lambda batch_shape: (), apply)


def choose_torso(name: str, space: Discrete | Box) -> type[MLP] | type[GridCNN]:
    """The torso for these observations: `auto` takes the CNN for [height, width, channels].

    Raises:
        ConfigError: a CNN for something else, or images too large for the torsos that exist.
    """
    grid = isinstance(space, Box) and len(space.shape) == 3 and min(space.shape[:2]) >= 3
    if name == "cnn" and not grid:
        raise ConfigError(
            f"torso='cnn' needs observations [height, width, channels], not {list(space.shape)}: "
            "use torso='mlp'"
        )
    pixels = grid and space.dtype == np.uint8 and min(space.shape[:2]) >= 32
    if name == "auto" and pixels:
        raise ConfigError(
            f"a torso for uint8 images {list(space.shape)} is not built yet: use torso='cnn' to "
            "read them as a grid, or 'mlp' to flatten them"
        )
    return GridCNN if grid and name != "mlp" else MLP
