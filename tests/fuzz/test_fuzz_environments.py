"""Environments of all kinds, sound and broken: check_env and training refuse the same ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces as gym
from gymnax.environments import spaces
from hypothesis import assume, given
from hypothesis import strategies as st
from support.fuzzing import examples

from purejaxppo import ConfigError, PPOConfig, check_env, make_learner
from purejaxppo.spaces import Discrete, MultiBinary, MultiDiscrete

CONFIG = PPOConfig(
    num_envs=2, num_steps=2, total_timesteps=8, num_epochs=1, num_minibatches=1, hidden_sizes=(4,)
)
BOUNDS = [-np.inf, -3.4e38, -300.0, -1.0, 0.0, 0.3, 0.6, 1.0, 5.0, 255.0, 2.0**31, np.inf, np.nan]
DTYPES = [np.float32, np.float64, np.float16, np.int32, np.int64, np.int8, np.uint8, np.bool_]


def mostly(sound, other):
    """Draws one of the sound five times of six: with more mistakes, nothing sound would be met."""
    return st.integers(0, 5).flatmap(lambda n: sound if n else st.one_of(sound, other))


shapes = mostly(
    st.sampled_from([(), (1,), (2,), (3, 3, 1), (2, 2)]), st.sampled_from([(0,), (2, 0), (-1,)])
)
ranges = mostly(
    st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 5.0)]),
    st.tuples(st.sampled_from(BOUNDS), st.sampled_from(BOUNDS)),
)
dtypes = mostly(st.sampled_from(DTYPES), st.sampled_from([np.uint32, np.complex64, "U2", object]))
singles = mostly(
    st.one_of(
        st.builds(lambda r, shape, dtype: spaces.Box(*r, shape, dtype), ranges, shapes, dtypes),
        st.builds(Discrete, mostly(st.integers(1, 3), st.integers(-1, 0))),
        st.builds(spaces.Discrete, st.integers(1, 3)),
        st.lists(mostly(st.integers(1, 3), st.just(0)), min_size=1, max_size=3).map(
            lambda sizes: MultiDiscrete(tuple(sizes))
        ),
        st.builds(MultiBinary, mostly(st.sampled_from([(1,), (2,), ()]), st.just((0,)))),
    ),
    st.sampled_from(
        [gym.Text(2), gym.Sequence(gym.Discrete(2)), gym.Discrete(3, start=1), None, Discrete]
    ),
)
names = mostly(st.sampled_from("abc"), st.just("action_mask"))
trees = st.recursive(
    singles,
    lambda inner: st.one_of(
        st.dictionaries(names, inner, max_size=2),
        st.lists(inner, max_size=2).map(tuple),
        st.dictionaries(names, inner, max_size=2).map(spaces.Dict),
    ),
    max_leaves=3,
)
rewards = mostly(
    st.sampled_from([0.0, 1, True, jnp.float32(1), np.float64(2), jnp.int8(1)]),
    st.sampled_from([1j, "1", None, jnp.ones(1), jax.random.key(0), object(), 2**40, [1.0]]),
)
flags = mostly(
    st.sampled_from([False, True, 0, 0.0, jnp.bool_(False), np.bool_(True), jnp.int32(1)]),
    st.sampled_from(["no", None, 1j, jnp.zeros(1, bool), jnp.zeros((2, 2)), []]),
)
infos = mostly(
    st.sampled_from(
        [{}, None, (), {"x": jnp.ones(2)}, {"why": "text"}, {"o": object(), 3: 4}, {"n": {1: 2}}]
    ),
    st.sampled_from(
        ["text", (1, 2), 3, {"action_mask": jnp.ones(2, bool)}, {"action_mask": "no"}, [{}]]
    ),
)
odd_values = st.sampled_from(["text", None, 1j, (), {}, jnp.zeros(7), 1, object()])
MISTAKES = ["raises", "one too many", "one too few", "another state", "dtypes to and fro"]
MISTAKES += [f"no {name}" for name in ("reset_env", "step_env", "is_truncated", "action_space")]
mistakes = mostly(st.none(), st.sampled_from(MISTAKES))


def sample(space):
    """Zeros that a tree of spaces would hold, as far as it is one."""
    space = getattr(space, "spaces", space)
    if isinstance(space, dict):
        return {name: sample(part) for name, part in space.items()}
    if isinstance(space, tuple | list):
        return tuple(map(sample, space))
    try:
        return jnp.zeros(space.shape, jax.dtypes.canonicalize_dtype(space.dtype))
    except (TypeError, ValueError, AttributeError):
        return jnp.zeros(1)


class Drawn:
    """An environment of two steps, as it was drawn."""

    default_params = ()

    def __init__(self, observed, acted, obs, reward, terminated, truncated, info, mistake):
        self._observed, self._acted, self._obs = observed, acted, obs
        self._reward, self._terminated, self._truncated = reward, terminated, truncated
        self._info, self._mistake = info, mistake
        if (mistake or "").startswith("no "):
            setattr(self, mistake.removeprefix("no "), None)

    def reset_env(self, key, params):
        return self._obs, jnp.int8(0)

    def step_env(self, key, state, action, params):
        if self._mistake == "raises":
            raise RuntimeError("out of order\nin two lines")
        after = state + 1
        if self._mistake == "another state":
            after = (state, state)
        if self._mistake == "dtypes to and fro":
            after = state.astype(jnp.int16 if state.dtype == jnp.int8 else jnp.int8)
        values = self._obs, after, self._reward, self._terminated, self._info
        values += (0,) * (self._mistake == "one too many")
        return values[: 4 if self._mistake == "one too few" else None]

    def is_truncated(self, state, params):
        return self._truncated

    def observation_space(self, params):
        return self._observed

    def action_space(self, params):
        return self._acted


@st.composite
def environments(draw):
    observed = draw(trees)
    obs = sample(observed) if draw(st.integers(0, 5)) else draw(odd_values)
    parts = (draw(x) for x in (rewards, flags, flags, infos, mistakes))
    return Drawn(observed, draw(trees), obs, *parts)


def refusal(attempt):
    """The words of a ConfigError; None if there is none. Whatever else is raised is a fault."""
    try:
        attempt()
    except ConfigError as error:
        return str(error)
    return None


def traced(env, config=CONFIG):
    learner = make_learner(config, env=env)
    jax.eval_shape(learner.update, jax.eval_shape(learner.init, jax.random.key(0)))


RUNTIME = ("is_truncated is True of a fresh state", "values ", "NaN or infinite", "rewards must be")
"""What is seen in values alone, which training takes as they are."""


@examples(8, 200)
@given(environments())
def test_check_env_and_training_agree_on_every_environment(env):
    said, refused = refusal(lambda: check_env(env, num_steps=2)), refusal(lambda: traced(env))
    if refused is not None:
        assert said == refused
        assert len(refused.splitlines()) == 1
    elif said is not None:
        assert all(any(words in line for words in RUNTIME) for line in said.splitlines()), said


@pytest.mark.slow
@examples(2, 20)
@given(environments())
def test_what_is_taken_trains(env):
    assume(refusal(lambda: traced(env)) is None)
    learner = make_learner(CONFIG, env=env)
    state, metrics = jax.jit(learner.update)(learner.init(jax.random.key(0)))
    assert int(state.step) == 1
    assert np.isfinite(metrics.value_loss)
