"""Random network distillation: the networks that tell what is new from what has been seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.config.schema import PPOConfig
from purejaxppo.policies.layers import init_together, orthogonal
from purejaxppo.policies.torsos import GAIN, Torso, torso_for
from purejaxppo.spaces import Box, EnvSpec, Space, without_mask, zeros
from purejaxppo.types import Bonus, Obs, Params


class Embedding(nn.Module):
    """A torso, and a linear layer behind it.

    Attributes:
        torso: makes one.
        size: numbers that an observation becomes.
        gain: scale of the linear layer's initial weights.
    """

    torso: Callable[[], Torso]
    size: int
    gain: float = GAIN

    @nn.compact
    def __call__(self, obs: Obs) -> Array:
        """Maps [B, *O] to [B, size], float32 whatever the torso computes in."""
        dense = nn.Dense(self.size, kernel_init=orthogonal(self.gain))
        return dense(self.torso()(obs)).astype(jnp.float32)


def make_bonus(config: PPOConfig, spec: EnvSpec) -> Bonus:
    r"""Makes the bonus of random network distillation, $|\hat f(x) - f(x)|^2 / K$.

    $f$ is a random network that stays as it is, and $\hat f$ one that learns to predict the K
    numbers that it gives. Where observations are like those that it has learned from it errs
    little, elsewhere more. Both have the torso of the policy with ReLU, which goes on to grow where
    tanh would be the same for all that is far away; the predictor has two hidden layers more.

    Args:
        config: torso, widths and K.
        spec: of the environment; what is measured of it is whitened before it comes here.

    Returns:
        The bonus, whose value has a network of its own.

    Reference: Burda et al. 2018, arXiv:1810.12894, sections 2.2 and A.
    """
    seen = jax.tree.leaves(without_mask(spec.observation))
    spaces = tuple(_whitened(space) for space in seen)
    # an image is one still when its bytes have become numbers around 0
    kinds = tuple(torso_for(config.torso, space) for space in seen)
    deeper = (*config.hidden_sizes, *(config.hidden_sizes[-1],) * 2)

    def torso(sizes: tuple[int, ...], activation: str) -> Callable[[], Torso]:
        return partial(
            Torso, names=(), spaces=spaces, kinds=kinds, sizes=sizes,
            activation=getattr(nn, activation), layer_norm=config.layer_norm,
            dtype=jnp.dtype(config.compute_dtype),
        )  # fmt: skip

    target: Any = Embedding(torso(config.hidden_sizes, "relu"), config.exploration_size)
    predictor: Any = Embedding(torso(deeper, "relu"), config.exploration_size)
    critic: Any = Embedding(torso(config.hidden_sizes, config.activation), 1, gain=1.0)

    def init(key: Array) -> tuple[Params, Params]:
        obs = zeros(spec.observation, (1,))  # only shapes matter
        networks = {"predictor": predictor, "value": critic, "target": target}
        keys = jax.random.split(key, len(networks))
        params = {
            name: init_together(lambda key, net=net: net.init(key, obs)["params"], key)
            for (name, net), key in zip(networks.items(), keys, strict=True)
        }
        return params, params.pop("target")

    def novelty(params: Params, fixed: Params, obs: Obs) -> Array:
        wanted = target.apply({"params": fixed}, obs)
        error = predictor.apply({"params": params["predictor"]}, obs) - wanted
        return jnp.mean(jnp.square(error), -1)

    def value(params: Params, obs: Obs) -> Array:
        return critic.apply({"params": params["value"]}, obs)[:, 0]

    return Bonus(init, novelty, value)


def _whitened(space: Space) -> Space:
    """Returns the space of what `ppo.exploration.whiten` makes of a part of an observation."""
    if not isinstance(space, Box):
        return space
    most = np.full(space.shape, 5.0, np.float32)
    return Box(-most, most, space.shape, most.dtype)
