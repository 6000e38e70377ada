"""What a rollout keeps of observations: their own dtypes, bits of MinAtar among them."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from purejaxppo import ConfigError, PPOConfig, as_policy, make_env, make_learner
from purejaxppo.components import make_components
from purejaxppo.run_folder import checkpoint
from purejaxppo.runs.memory import shapes_of
from purejaxppo.spaces import Box, Discrete, MultiBinary, MultiDiscrete, zeros

SMALL = dict(num_envs=2, num_steps=4, num_minibatches=1, total_timesteps=8, hidden_sizes=(8,))


def box(*shape, low, high, dtype):
    return Box(np.full(shape, low), np.full(shape, high), shape, np.dtype(dtype))


SPACES = {
    "bits": box(4, 3, 2, low=False, high=True, dtype=bool),
    "bytes": box(36, 36, 1, low=0, high=255, dtype=np.uint8),
    "small": box(3, low=-9, high=9, dtype=np.int8),
    "whole": box(3, low=-9, high=9, dtype=np.int32),
    "half": box(3, low=-9, high=9, dtype=np.float16),
    "binary": MultiBinary((3,)),
    "name": Discrete(3),
    "names": MultiDiscrete((3, 4)),
}


class Everything:
    """Shows an array of every kind, in which nothing happens."""

    default_params = ()

    def reset_env(self, key, params):
        return zeros(SPACES), jnp.int32(0)

    def step_env(self, key, state, action, params):
        return zeros(SPACES), state + 1, jnp.float32(0), jnp.bool_(False), {}

    def is_truncated(self, state, params):
        return state >= 10

    def observation_space(self, params):
        return SPACES

    def action_space(self, params):
        return Discrete(2)


def test_a_rollout_keeps_observations_as_they_come():
    shapes = shapes_of(make_components(PPOConfig(**SMALL), env=Everything()))
    for kept in (shapes.rollout.obs, shapes.batch.obs, shapes.state.obs):
        assert {name: x.dtype for name, x in kept.items()} == {
            name: space.dtype for name, space in SPACES.items()
        }


MINATAR = [name for name in gymnax.registered_envs if name.endswith("-MinAtar")]


def test_all_games_are_looked_at():
    assert {"Breakout-MinAtar", "Asterix-MinAtar", "SpaceInvaders-MinAtar"} <= {*MINATAR}


@pytest.mark.parametrize(
    "name",
    [n if n == "Breakout-MinAtar" else pytest.param(n, marks=pytest.mark.slow) for n in MINATAR],
)
def test_bits_are_all_that_minatar_shows(name):
    """gymnax's numbers of every step are 0 or 1, and ours are the same."""
    env, params = make_env(name)
    theirs = gymnax.make(name)[0]

    def step(loop, key):
        state, done = loop
        key_act, key, key_reset = jax.random.split(key, 3)
        action = jax.random.randint(key_act, (), 0, theirs.num_actions)
        obs, after, _, done, _ = env.step_env(key, state, action, params)
        shown = theirs.get_obs(after, params)
        again = env.reset_env(key_reset, params)[1]
        state = jax.tree.map(lambda a, b: jnp.where(done, a, b), again, after)
        return (state, done), (obs, shown)

    @jax.jit
    def play(key):
        first, state = env.reset_env(key, params)
        played = jax.lax.scan(step, (state, jnp.bool_(False)), jax.random.split(key, 300))[1]
        return first, played

    first, (ours, shown) = play(jax.random.key(0))
    assert first.dtype == ours.dtype == bool and shown.dtype == np.float32
    space = env.observation_space(params)
    assert (space.dtype, space.shape) == (np.dtype(bool), first.shape)
    np.testing.assert_array_equal(ours, shown)
    assert ours.any((0, 1, 2)).sum() >= 2  # of its channels


def test_a_policy_takes_bits_of_any_kind():
    """Bools, bytes, and floats of 0 and 1; nothing in between."""
    config = PPOConfig(env="Breakout-MinAtar", **SMALL)
    policy = as_policy(config, jax.jit(make_learner(config).init)(jax.random.key(0)))
    obs = np.random.default_rng(0).integers(0, 2, (10, 10, 4))
    actions = {int(policy.predict(obs.astype(kind))) for kind in (bool, np.uint8, np.float32)}
    assert len(actions) == 1
    with pytest.raises(ConfigError, match=r"observation is of float64: pass bool \[10, 10, 4\]"):
        policy.predict(obs / 2)


@struct.dataclass
class State:
    """What a run keeps."""

    obs: jax.Array
    other: jax.Array


def test_a_run_whose_bits_were_float32_goes_on(tmp_path):
    """Files of 0.1.0 have MinAtar's observations so; no other leaf may be of another dtype."""
    path, bits = tmp_path / "1.npz", np.array([[0, 1], [1, 0]], np.float32)
    checkpoint.save(path, {"state": State(jnp.asarray(bits), jnp.zeros(2))}, {})
    kept = jax.ShapeDtypeStruct((2, 2), bool)
    tree, _ = checkpoint.load(path, {"state": State(kept, jax.ShapeDtypeStruct((2,), np.float32))})
    assert tree["state"].obs.dtype == bool and tree["state"].other.dtype == np.float32
    np.testing.assert_array_equal(tree["state"].obs, bits == 1)
    for wrong in (
        State(jax.ShapeDtypeStruct((2, 3), bool), jax.ShapeDtypeStruct((2,), np.float32)),
        State(kept, jax.ShapeDtypeStruct((2,), bool)),
        State(jax.ShapeDtypeStruct((2, 2), np.uint8), jax.ShapeDtypeStruct((2,), np.float32)),
    ):
        with pytest.raises(ConfigError, match="does not fit"):
            checkpoint.load(path, {"state": wrong})
