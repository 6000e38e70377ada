"""Tiny environments whose values and best actions are known, with gymnax's 1.x interface.

The five probes: constant reward; reward seen in the observation; reward one step later; reward
depends on the action; on action and observation. Each episode is one step long unless said.
"""

from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments.spaces import Box, Dict, Discrete


@struct.dataclass
class Params:
    """Constants that may be traced, and vmapped."""

    reward_scale: float = 1.0
    obs_scale: float = 1.0
    max_steps_in_episode: int = 1000


@struct.dataclass
class State:
    """What the agent sees, and the steps since the reset."""

    x: jax.Array  # ()
    time: jax.Array  # () int32
    sensors: jax.Array = struct.field(
        default_factory=lambda: jnp.zeros((0, 3), jnp.float32)
    )  # of which are none


class Probe:
    """An environment with one number x to be seen; subclasses say how it moves and what it pays."""

    def __init__(self, **constants):
        self.default_params = Params(**constants)

    def first(self, key):
        """The x of a new episode."""
        return jnp.float32(1)

    def pay(self, x, action):
        """The reward of an action."""
        return jnp.float32(1)

    def move(self, x, action, time):
        """(x after the step, terminated)."""
        return x, jnp.bool_(True)

    # -- the interface --------------------------------------------------------------------

    def see(self, state, params):
        return params.obs_scale * state.x[None]

    def reset_env(self, key, params):
        state = State(jnp.asarray(self.first(key), jnp.float32), jnp.int32(0))
        return self.see(state, params), state

    def step_env(self, key, state, action, params):
        reward = params.reward_scale * self.pay(state.x, action)
        x, terminated = self.move(state.x, action, state.time)
        state = State(jnp.asarray(x, jnp.float32), state.time + 1)
        return self.see(state, params), state, reward, terminated, {}

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def observation_space(self, params):
        return Box(-10.0, 10.0, (1,), jnp.float32)

    def action_space(self, params):
        return Discrete(2)


def sign(key):
    """-1 or 1."""
    return jax.random.rademacher(key, (), jnp.float32)


class Constant(Probe):
    """1. Reward 1 always: V = 1."""


class Seen(Probe):
    """2. x is -1 or 1 and is the reward: V(x) = x."""

    def first(self, key):
        return sign(key)

    def pay(self, x, action):
        return x


class Later(Probe):
    """3. x is 0, then 1; only the second step pays 1: V(0) = gamma, V(1) = 1."""

    def first(self, key):
        return 0.0

    def pay(self, x, action):
        return x

    def move(self, x, action, time):
        return jnp.float32(1), time == 1


class Choice(Probe):
    """4. Action 1 pays 1, action 0 pays -1: the policy takes 1, V = 1."""

    def pay(self, x, action):
        return 2.0 * action - 1.0


class Match(Probe):
    """5. x is -1 or 1; action 1 pays x, action 0 pays -x: the policy takes x's sign, V = 1."""

    def first(self, key):
        return sign(key)

    def pay(self, x, action):
        return x * (2.0 * action - 1.0)


class Aim(Probe):
    """4, continuous: the reward is 1 - (action - 0.5)^2, so the mean goes to 0.5."""

    def pay(self, x, action):
        return 1.0 - jnp.square(action[0] - 0.5)

    def action_space(self, params):
        return Box(-1.0, 1.0, (1,), jnp.float32)


class Delayed(Probe):
    """The action at x = 0 is seen next as x = -1 or 1, and paid as x then: V(x) = x, V(0) = gamma.

    Credit must flow through the second step's value or through the later reward.
    """

    def first(self, key):
        return 0.0

    def pay(self, x, action):
        return x

    def move(self, x, action, time):
        return 2.0 * action - 1.0, time == 1


class Endless(Probe):
    """Never terminates, pays 1; only the time limit cuts: V = 1 / (1 - gamma)."""

    def move(self, x, action, time):
        return x, jnp.bool_(False)


class Marked(Probe):
    """Endless, but each episode begins at x = -1, which pays -9: V(-1) = -9 + gamma V(1).

    V(1) = 1 / (1 - gamma) holds only if a cut bootstraps from the last observation (x = 1), not
    from the first one of the next episode (x = -1).
    """

    def first(self, key):
        return -1.0

    def pay(self, x, action):
        return jnp.where(x < 0, -9.0, 1.0)

    def move(self, x, action, time):
        return jnp.float32(1), jnp.bool_(False)


class Walk(Probe):
    """x moves by the action, and is to be near 0; beyond -1 .. 1 it is over, at 3 steps cut."""

    def __init__(self):
        super().__init__(max_steps_in_episode=3)

    def first(self, key):
        return jax.random.uniform(key, minval=-1.0)

    def pay(self, x, action):
        return 1.0 - jnp.abs(x)

    def move(self, x, action, time):
        x = moved_by(x, action)
        return x, jnp.abs(x) > 1.0


def moved_by(x, action):
    return 1.5 * x + 0.8 * action - 0.4


class View(NamedTuple):
    """What is seen of the dials, as jumanji's environments show things: a record with a mask."""

    target: jax.Array  # [2, 3] one-hot rows, or zeros once it is hidden
    board: jax.Array  # [4, 4, 1] uint8, noise
    time: jax.Array  # () int32
    action_mask: jax.Array  # [5] bool: 3 settings of the first dial, 2 of the second


@struct.dataclass
class DialState:
    target: jax.Array  # [2] int32
    mask: jax.Array  # [5] bool
    board: jax.Array
    time: jax.Array


class Dials:
    """Two dials of 3 and 2 settings are to be set as shown, for 4 steps; each right one pays 1.

    A wrong setting is now and then forbidden, the right one never. With `remember`, the target is
    shown in the first step only.
    """

    SIZES = (3, 2)
    default_params = Params()

    def __init__(self, remember=False):
        self.remember = remember

    def see(self, state):
        shown = jnp.stack([jax.nn.one_hot(t, 3) for t in state.target])
        if self.remember:
            shown = jnp.where(state.time == 0, shown, 0.0)
        return View(shown, state.board, state.time, state.mask)

    def chance(self, key, target):
        key_mask, key_board = jax.random.split(key)
        right = jnp.concatenate([jnp.arange(n) == target[i] for i, n in enumerate(self.SIZES)])
        mask = right | jax.random.bernoulli(key_mask, 0.7, (5,))
        board = jax.random.randint(key_board, (4, 4, 1), 0, 256).astype(jnp.uint8)
        return mask, board

    def reset_env(self, key, params):
        key_target, key = jax.random.split(key)
        target = jax.random.randint(key_target, (2,), 0, jnp.array(self.SIZES))
        state = DialState(target, *self.chance(key, target), jnp.int32(0))
        return self.see(state), state

    def step_env(self, key, state, action, params):
        reward = jnp.sum(action == state.target).astype(jnp.float32)
        allowed = state.mask[action[0]] & state.mask[3 + action[1]]
        reward = jnp.where(allowed, reward, -100.0)  # a mask that is violated is seen in returns
        state = DialState(state.target, *self.chance(key, state.target), state.time + 1)
        return self.see(state), state, reward, state.time == 4, {}

    def is_truncated(self, state, params):
        return jnp.bool_(False)

    def observation_space(self, params):
        return Dict(
            {
                "target": Box(0.0, 1.0, (2, 3), jnp.float32),
                "board": Box(0, 255, (4, 4, 1), jnp.uint8),
                "time": Discrete(5),
                "action_mask": Box(0, 1, (5,), jnp.bool_),
            }
        )

    def action_space(self, params):
        return gymnasium.spaces.MultiDiscrete(list(self.SIZES))
