"""An environment whose return is known from its parameters, whatever the policy does."""

import jax.numpy as jnp
from flax import struct
from support.probes import Probe, State


@struct.dataclass
class Params:
    """What one step pays is 1 - (height - best)**2."""

    height: float = 0.5
    best: float = 0.7
    rank: int = 2
    max_steps_in_episode: int = 10


class Peak(Probe):
    """Episodes of one step, whose return is what the parameters say."""

    def __init__(self, **constants):
        self.default_params = Params(**constants)

    def see(self, state, params):
        return state.x[None]

    def step_env(self, key, state, action, params):
        reward = jnp.asarray(1 - (params.height - params.best) ** 2, jnp.float32)
        state = State(state.x, state.time + 1)
        return self.see(state, params), state, reward, jnp.bool_(True), {}
