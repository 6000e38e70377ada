"""Environments on the host, against plain Python loops over the same environments."""

import contextlib
import functools
import multiprocessing
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from support.hosted import by_hand, make_same_step
from support.probes import Seen

from purejaxppo import (
    ConfigError,
    HostEnvironment,
    HostError,
    PPOConfig,
    cli,
    fit,
    make_act,
    make_actor,
    make_env,
    make_learner,
    make_train,
)
from purejaxppo.components import make_components
from purejaxppo.envs.host import Host
from purejaxppo.envs.host_info import kinds_told
from purejaxppo.envs.host_program import Shares, make_host_vec_env
from purejaxppo.envs.wrappers import FrameStack
from purejaxppo.errors import RunWarning

CONFIG = PPOConfig(
    num_envs=2, num_steps=4, total_timesteps=16, num_epochs=1, num_minibatches=1,
    hidden_sizes=(8,), learning_rate=1e-2,
)  # fmt: skip
KEYS = jax.random.split(jax.random.key(0), 2)
FIELDS = ("reward", "terminated", "truncated", "episode_return", "episode_length")


# -- rollouts, ours and by hand ---------------------------------------------------------------


def watched(env):
    """The environment, and a list that gets the seed of each of its runs."""
    seeds = []

    def make(num_envs):
        envs = env.make(num_envs)
        reset = envs.reset

        def noted(*, seed=None, options=None):
            if seed is not None:
                seeds.append(seed)
            return reset(seed=seed, options=options)

        envs.reset = noted
        return envs

    return HostEnvironment(make, env.name, env.clip_rewards), seeds


def roll(env, actions, key=0):
    """First observations, EnvSteps [T, N, ...] of one compiled program, and the seed it drew."""
    env, seeds = watched(env)
    num_envs = jax.tree.leaves(actions)[0].shape[1]
    vec_env = make_host_vec_env(env, num_envs)

    @jax.jit
    def run(key, actions):
        state, obs = vec_env.reset(key, ())

        def step(state, action):
            return vec_env.step(vec_env.draw(key, ()), state, action, ())

        return obs, jax.lax.scan(step, state, actions)[1]

    try:
        obs, after = jax.tree.map(np.asarray, run(jax.random.key(key), actions))
    finally:
        vec_env.close()
    (seed,) = seeds
    return obs, after, seed


def agree(ours, theirs, dtype):
    first, after, _ = ours
    obs_0, obs, final, reward, terminated, truncated, total, length = theirs
    for mine, other in ((first, obs_0), (after.obs, obs), (after.final_obs, final)):
        assert mine.dtype == dtype
        np.testing.assert_array_equal(mine, other.astype(dtype))
    np.testing.assert_array_equal(after.reward, reward.astype(np.float32))
    np.testing.assert_array_equal(after.terminated, terminated)
    np.testing.assert_array_equal(after.truncated, truncated & ~terminated)
    np.testing.assert_array_equal(after.episode_return, total.astype(np.float32))
    np.testing.assert_array_equal(after.episode_length, length)
    fixed_types(after)


def fixed_types(after):
    kinds = (np.float32, np.bool_, np.bool_, np.float32, np.int32)
    for name, dtype in zip(FIELDS, kinds, strict=True):
        assert getattr(after, name).dtype == dtype
    assert not (after.terminated & after.truncated).any()


def cartpole_actions(num_steps):
    """The first is pushed one way and falls; the second to and fro; the third by chance."""
    t = np.arange(num_steps)
    by_chance = np.random.default_rng(0).integers(0, 2, num_steps)
    return np.stack([np.ones_like(t), t % 2, by_chance], 1).astype(np.int32)


def test_cartpole_as_a_loop_over_gymnasium():
    env, _ = make_env("gymnasium/CartPole-v1", max_steps=20)
    actions = cartpole_actions(45)
    ours = roll(env, actions)
    theirs = by_hand(make_same_step("CartPole-v1", 3, max_episode_steps=20), actions, ours[2])
    agree(ours, theirs, np.float32)
    after = ours[1]
    ended = after.terminated | after.truncated
    assert after.terminated.any()
    assert after.truncated.any()
    np.testing.assert_array_equal(after.episode_length[after.truncated], 20)
    # the next observation is another episode's where one has ended, and the same elsewhere
    assert (after.obs[ended] != after.final_obs[ended]).all()
    np.testing.assert_array_equal(after.obs[~ended], after.final_obs[~ended])


def test_pendulum_as_a_loop_over_gymnasium():
    env, _ = make_env("gymnasium/Pendulum-v1", max_steps=7)
    actions = np.random.default_rng(1).uniform(-2, 2, (16, 2, 1)).astype(np.float32)
    ours = roll(env, actions)
    theirs = by_hand(make_same_step("Pendulum-v1", 2, max_episode_steps=7), actions, ours[2])
    agree(ours, theirs, np.float32)
    assert not ours[1].terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(ours[1].truncated[:, 0]), [6, 13])


def test_mujoco_as_a_loop_over_gymnasium():
    """Its float64 observations become float32, its rewards are added up in float64."""
    pytest.importorskip("mujoco")
    env, _ = make_env("gymnasium/InvertedPendulum-v5", max_steps=9)
    actions = np.random.default_rng(2).normal(0, 2, (25, 3, 1)).astype(np.float32)
    actions[:, 0] /= 100  # this one stands until it is cut off
    ours = roll(env, actions)
    envs = make_same_step("InvertedPendulum-v5", 3, max_episode_steps=9)
    assert envs.single_observation_space.dtype == np.float64
    agree(ours, by_hand(envs, np.clip(actions, -3, 3), ours[2]), np.float32)
    assert ours[1].terminated.any()
    assert ours[1].truncated.any()


def test_frozen_lake_as_a_loop_over_gymnasium():
    env, _ = make_env("gymnasium/FrozenLake-v1", max_steps=6)
    actions = np.random.default_rng(3).integers(0, 4, (40, 3)).astype(np.int32)
    ours = roll(env, actions)
    envs = make_same_step("FrozenLake-v1", 3, max_episode_steps=6)
    agree(ours, by_hand(envs, actions, ours[2]), np.int32)
    assert ours[1].terminated.any()
    assert ours[1].truncated.any()


# -- environments of our own ------------------------------------------------------------------


class Own(gymnasium.Env):
    """Counts its steps in several kinds of observation; ends by itself after `lives` of them."""

    observation_space = spaces.Dict(
        {
            "wide": spaces.Box(-np.inf, np.inf, (2,), np.float64),
            "pair": spaces.Tuple((spaces.Discrete(100), spaces.MultiBinary(3))),
            "bytes": spaces.Box(0, 255, (2,), np.uint8),
        }
    )
    action_space = spaces.Discrete(3)

    def __init__(self, lives=(3, 8), limit=6, log=None):
        self.lives, self.limit, self.log = lives, limit, log
        self.note("made")

    def note(self, what):
        if self.log is not None:
            self.log.append(what)

    def look(self):
        bits = np.array([self.time & 1, self.time & 2, self.time & 4], bool).astype(np.int8)
        wide = np.array([self.born, self.time / 3])
        return {"wide": wide, "pair": (self.time, bits), "bytes": np.full(2, self.time, np.uint8)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.born = 0, self.np_random.random()
        self.end = self.np_random.integers(*self.lives)
        return self.look(), {}

    def step(self, action):
        self.note(action)
        self.time += 1
        terminated = bool(self.time >= self.end)
        return self.look(), 3.0 * action, terminated, self.time >= self.limit, {}

    def close(self):
        self.note("closed")


class Small(Own):
    """The same, seen as two numbers."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def look(self):
        return np.array([self.born, self.time / 3], np.float32)


def hosted(env_class=Small, copy=True, clip_rewards=False, **options):
    def make(num_envs):
        makers = [lambda: env_class(**options)] * num_envs
        return SyncVectorEnv(makers, copy=copy, autoreset_mode=AutoresetMode.DISABLED)

    return HostEnvironment(make, "own", clip_rewards)


def singly(make, actions, seed):
    """By a loop over single environments: rows [T][N], a tuple each."""
    columns = []
    for n in range(actions.shape[1]):
        env = make()
        first, _ = env.reset(seed=seed + n)
        total, length, rows = 0.0, 0, []
        for action in actions[:, n]:
            final, reward, terminated, truncated, _ = env.step(action)
            total, length = total + reward, length + 1
            done = terminated or truncated
            obs = env.reset()[0] if done else final
            rows.append((obs, final, reward, terminated, truncated, total, length))
            total, length = (0.0, 0) if done else (total, length)
        columns.append((first, rows))
    return columns


def test_observations_in_dictionaries_and_tuples_as_a_loop_over_single_environments():
    actions = np.random.default_rng(4).integers(0, 3, (30, 3)).astype(np.int32)
    first, after, seed = roll(hosted(Own), actions)
    fixed_types(after)
    kinds = {"wide": np.float32, "pair": (np.int32, np.int8), "bytes": np.uint8}
    for obs in (first, after.obs, after.final_obs):
        assert jax.tree.map(lambda x: x.dtype, obs) == jax.tree.map(np.dtype, kinds)

    def same(ours, theirs):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for mine, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
            np.testing.assert_array_equal(mine, np.asarray(other).astype(mine.dtype))

    met = set()
    for n, (obs_0, rows) in enumerate(singly(Own, actions, seed)):
        same(jax.tree.map(lambda x, n=n: x[n], first), obs_0)
        for t, (obs, final, reward, terminated, truncated, total, length) in enumerate(rows):
            ours = jax.tree.map(lambda x, t=t, n=n: x[t, n], after)
            same(ours.obs, obs)
            same(ours.final_obs, final)
            assert ours.reward == reward
            assert ours.terminated == terminated
            assert ours.truncated == (truncated and not terminated)
            assert ours.episode_return == total
            assert ours.episode_length == length
            met.add((terminated, truncated))
    assert met == {(False, False), (True, False), (False, True), (True, True)}


@pytest.mark.parametrize(
    ("lives", "limit", "terminated"), [((5, 6), 9, True), ((9, 10), 5, False), ((5, 6), 5, True)]
)
def test_flags_at_a_natural_end_at_a_time_limit_and_at_both(lives, limit, terminated):
    actions = np.ones((10, 2), np.int32)
    first, after, _ = roll(hosted(lives=lives, limit=limit), actions)
    ends = np.tile((np.arange(1, 11) % 5 == 0)[:, None], 2)
    np.testing.assert_array_equal(after.terminated, ends & terminated)
    np.testing.assert_array_equal(after.truncated, ends & (not terminated))
    time = np.tile((np.arange(10) % 5 + 1)[:, None], 2)
    np.testing.assert_array_equal(after.final_obs[..., 1], (time / 3).astype(np.float32))
    np.testing.assert_array_equal(after.obs[..., 1] == 0, ends)
    np.testing.assert_array_equal(after.episode_length, time)
    np.testing.assert_array_equal(after.episode_return, 3.0 * time)
    assert len({*first[:, 0], *after.obs[ends][:, 0]}) == 6  # no two episodes begin alike


class InPlace(Small):
    """Writes each observation where the last one was."""

    def look(self):
        if not hasattr(self, "where"):
            self.where = np.zeros(2, np.float32)
        self.where[:] = super().look()
        return self.where


def test_observations_written_in_place_do_not_change_earlier_ones():
    actions = np.random.default_rng(5).integers(0, 3, (20, 2)).astype(np.int32)
    ours = roll(hosted(InPlace, copy=False), actions)
    for a, b in zip(*map(jax.tree.leaves, (ours, roll(hosted(), actions))), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (ours[1].terminated | ours[1].truncated).any()
    # and outside of a compiled program, where an observation is held while the next is made
    vec_env = make_host_vec_env(hosted(InPlace, copy=False, lives=(9, 10)), 2)
    state, obs = vec_env.reset(jax.random.key(0), ())
    for t in range(3):
        np.testing.assert_array_equal(obs[:, 1], np.float32(t / 3))
        held, before = obs, np.array(obs)
        state, after = vec_env.step((), state, jnp.ones(2, jnp.int32), ())
        np.testing.assert_array_equal(held, before)
        obs = after.obs
    vec_env.close()


def test_learning_rewards_are_clipped_and_returns_are_not():
    actions = np.array([[0, 1], [1, 2], [2, 0]], np.int32)
    clipped = roll(hosted(clip_rewards=True, lives=(9, 10)), actions)[1]
    plain = roll(hosted(lives=(9, 10)), actions)[1]
    np.testing.assert_array_equal(plain.reward, 3.0 * actions)
    np.testing.assert_array_equal(clipped.reward, np.minimum(actions, 1))
    for after in (plain, clipped):
        np.testing.assert_array_equal(after.episode_return, 3.0 * actions.cumsum(0))

    class Loss(Small):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            return obs, -reward / 4, *rest

    after = roll(hosted(Loss, clip_rewards=True, lives=(9, 10)), actions)[1]
    np.testing.assert_array_equal(after.reward, np.maximum(-0.75 * actions, -1))
    np.testing.assert_array_equal(after.episode_return, -0.75 * actions.cumsum(0))


# -- actions ----------------------------------------------------------------------------------

BIG = np.float32([[5, -5], [0.3, -0.3]])
ACTIONS = {
    "discrete": (spaces.Discrete(4), np.array([3, 1]), np.array([3, 1])),
    "multi_discrete": (
        spaces.MultiDiscrete([2, 5]), np.array([[1, 4], [0, 2]]), np.array([[1, 4], [0, 2]]),
    ),
    "multi_binary": (spaces.MultiBinary(2), np.array([[1, 0], [1, 1]]), np.array([[1, 0], [1, 1]])),
    "box": (
        spaces.Box(np.float32([-1, -2]), np.float32([1, 2])), BIG, np.array([[1, -2], [0.3, -0.3]]),
    ),
    "wide_box": (spaces.Box(-2, 2, (2,), np.float64), BIG, np.array([[2, -2], [0.3, -0.3]])),
    "whole_box": (
        spaces.Box(-3, 3, (2,), np.int64), 4 * BIG, np.array([[3, -3], [1, -1]]),
    ),
    "very_wide_box": (
        spaces.Box(-(2**40), 2**40, (2,), np.int64), 4 * BIG, np.array([[20, -20], [1, -1]]),
    ),
}  # fmt: skip
NESTED = {
    "dict": ({"a": "box", "b": "discrete"}, spaces.Dict),
    "tuple": (("multi_binary", {"z": "wide_box", "a": "multi_discrete"}), spaces.Tuple),
}


def nested(shape, which):
    """The spaces, actions or expectations at the names of a structure."""
    if isinstance(shape, str):
        return ACTIONS[shape][which]
    if isinstance(shape, dict):
        parts = {name: nested(part, which) for name, part in shape.items()}
        return spaces.Dict(parts) if which == 0 else parts
    parts = tuple(nested(part, which) for part in shape)
    return spaces.Tuple(parts) if which == 0 else parts


def check_action(space, action, expected):
    assert space.contains(action)
    if isinstance(space, spaces.Dict):
        assert type(action) is dict
        for name, part in space.spaces.items():
            check_action(part, action[name], expected[name])
    elif isinstance(space, spaces.Tuple):
        assert type(action) is tuple
        for part in zip(space.spaces, action, expected, strict=True):
            check_action(*part)
    else:
        assert isinstance(action, np.generic | np.ndarray)
        assert action.dtype == space.dtype
        assert action.shape == (space.shape or ())
        np.testing.assert_array_equal(action.astype(np.float32), np.float32(expected))


class Obeys(Small):
    def step(self, action):
        self.note(action)
        self.time += 1
        return self.look(), 0.0, False, False, {}


@pytest.mark.parametrize(
    "name",
    [
        *ACTIONS,
        *NESTED,
    ],
)
def test_actions_arrive_as_declared(name):
    shape = NESTED[name][0] if name in NESTED else name

    class Strict(Obeys):
        action_space = nested(shape, 0)

    log = []
    env = hosted(Strict, log=log)
    vec_env = make_host_vec_env(env, 2)
    state, _ = vec_env.reset(jax.random.key(0), ())
    as_sampled = {np.dtype(np.int64): jnp.int32, np.dtype(np.float32): jnp.float32}
    action = jax.tree.map(lambda x: jnp.asarray(x, as_sampled[x.dtype]), nested(shape, 1))
    state, _ = jax.jit(vec_env.step)((), state, action, ())
    vec_env.close()
    arrived = [entry for entry in log if not isinstance(entry, str)]
    assert len(arrived) == 2
    for n in range(2):
        expected = jax.tree.map(lambda x, n=n: x[n], nested(shape, 2))
        check_action(Strict.action_space, arrived[n], expected)


@pytest.mark.parametrize("bound", [0.1, 0.3, 1.1])
def test_actions_stay_within_bounds_that_float32_does_not_have(bound):
    """float32(0.1) is more than 0.1."""

    class Strict(Obeys):
        action_space = spaces.Box(-bound, bound, (2,), np.float64)

        def step(self, action):
            assert self.action_space.contains(action)
            return super().step(action)

    actions = np.tile(np.float32([9, -9]), (2, 2, 1))
    assert roll(hosted(Strict), actions)[1].episode_length[-1, 0] == 2


@pytest.mark.slow
def test_a_policy_drives_a_dictionary_of_actions():
    class Strict(Obeys):
        action_space = nested(NESTED["tuple"][0], 0)

        def step(self, action):
            assert self.action_space.contains(action)
            return super().step(action)

    result = fit(CONFIG, env=hosted(Strict))
    assert np.isfinite(result.metrics.policy_loss).all()


class Countdown(gymnasium.Env):
    """Shows the numbers 5, 6, 7 in turn, and takes what Gymnasium says its space holds."""

    def __init__(self, action_space, log):
        self.observation_space = spaces.Discrete(3, start=5)
        self.action_space, self.log = action_space, log

    def reset(self, *, seed=None, options=None):
        self.shown = 5
        return self.shown, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.log.append(np.asarray(action).tolist())
        self.shown = 5 + (self.shown - 4) % 3
        return self.shown, 0.0, False, False, {}


STARTS = {
    "Discrete": (spaces.Discrete(3, start=-1), jnp.int32([2]), [1]),
    "MultiDiscrete": (spaces.MultiDiscrete([2, 4], start=[7, 0]), jnp.int32([[1, 3]]), [8, 3]),
    "int8": (spaces.MultiDiscrete([2, 4], np.int8, start=[1, 2]), jnp.int32([[0, 3]]), [1, 5]),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_discrete_space_with_a_start_is_counted_from_zero_inside(name):
    space, inside, outside = STARTS[name]
    log = []

    def make(n):
        return SyncVectorEnv(
            [lambda: Countdown(space, log)] * n, autoreset_mode=AutoresetMode.DISABLED
        )

    vec_env = make_host_vec_env(HostEnvironment(make), 1)
    assert vec_env.spec.observation.n == 3
    state, obs = vec_env.reset(jax.random.key(0), ())
    seen = [obs.tolist()]
    for _ in range(3):
        state, after = jax.jit(vec_env.step)((), state, inside, ())
        seen.append(after.obs.tolist())
    vec_env.close()
    assert seen == [[0], [1], [2], [0]]
    assert np.ravel(log).tolist() == np.ravel([outside] * 3).tolist()


@pytest.mark.parametrize(
    ("what", "space", "words"),
    [
        ("action_space", spaces.Box(-np.inf, np.inf, (2,)), "must be finite"),
        ("action_space", spaces.Box(np.float32([-1, 0]), np.float32([1, np.inf])), "finite"),
        ("action_space", spaces.Text(5), "not supported"),
        ("action_space", spaces.Dict(a=spaces.Discrete(2), b=spaces.Text(5)), r"action\['b'\]"),
        ("action_space", spaces.OneOf((spaces.Discrete(2), spaces.Discrete(3))), "not supported"),
        ("observation_space", spaces.Text(5), "not supported"),
        ("observation_space", spaces.Dict(a=spaces.Text(5)), "not supported"),
        ("observation_space", spaces.Sequence(spaces.Discrete(3)), "observation"),
        ("observation_space", spaces.Graph(spaces.Discrete(3), None), "observation"),
        ("observation_space", spaces.OneOf((spaces.Discrete(2),)), "observation"),
    ],
)
def test_spaces_that_are_not_supported(what, space, words):
    log = []
    env = hosted(type("Odd", (Small,), {what: space}), log=log)
    with pytest.raises(ConfigError, match=words):
        make_learner(CONFIG, env=env)
    assert log.count("made") == log.count("closed")


# -- programs ---------------------------------------------------------------------------------


def numbers(tree):
    """The leaves as NumPy; keys as their data."""
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(tree)
    ]


@pytest.fixture(scope="module")
def train():
    return jax.jit(make_train(CONFIG, env=hosted(log=NOTED)))


NOTED = []


@pytest.mark.slow
def test_equal_calls_give_equal_bits_from_one_compilation_and_all_is_closed(train):
    log = NOTED
    made = log.count("made")
    assert made == log.count("closed")
    first = train(jax.random.key(0))
    second = train(jax.random.key(0))
    other = train(jax.random.key(1))
    jax.block_until_ready((first, second, other))
    jax.effects_barrier()
    assert train._cache_size() == 1
    assert log.count("made") == log.count("closed") == made + 3 * 2
    run = lambda out: numbers((out.state.replace(env_state=()), out.metrics))  # noqa: E731
    for a, b in zip(run(first), run(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.isin(first.state.obs[:, 0], other.state.obs[:, 0]).any()
    assert (first.metrics.episodes > 0).any()


@pytest.mark.slow
def test_fit_closes_and_gives_what_the_loop_gives(train):
    log = []
    result = fit(CONFIG, env=hosted(log=log), seed=3)
    assert log.count("made") == log.count("closed")
    key = jax.random.split(jax.random.key(3), 1)[0]
    out = train(key)
    for name in ("episodes", "return_sum", "length_sum"):
        np.testing.assert_array_equal(
            getattr(result.metrics, name)[0], getattr(out.metrics, name), err_msg=name
        )
    np.testing.assert_allclose(
        result.metrics.policy_loss[0], out.metrics.policy_loss, rtol=1e-4, atol=1e-6
    )


@pytest.fixture(scope="module")
def driven():
    """A learner's jitted functions, and the log of its environments."""
    log = []
    learner = make_learner(CONFIG, env=hosted(log=log))
    return jax.jit(learner.init), jax.jit(learner.update), learner.close, log


@pytest.fixture
def closed(driven):
    """The same, with nothing open and no error waiting."""
    with contextlib.suppress(HostError):
        driven[2]()
    return driven


@pytest.mark.slow
def test_a_second_init_closes_the_first_and_refuses_its_state(closed):
    init, update, close, log = closed
    old = jax.block_until_ready(init(jax.random.key(0)))
    assert log.count("made") - log.count("closed") == 2
    new = jax.block_until_ready(init(jax.random.key(1)))
    assert log.count("made") - log.count("closed") == 2
    with pytest.raises(Exception, match="cannot go back"):
        jax.block_until_ready(update(old))
    close()
    assert log.count("made") == log.count("closed")
    with pytest.raises(Exception, match="closed"):
        jax.block_until_ready(update(new))


@pytest.mark.slow
def test_a_run_after_a_refused_state_is_not_refused_too(closed):
    init, update, close, _ = closed
    old = init(jax.random.key(0))
    init(jax.random.key(1))
    with pytest.raises(Exception, match="cannot go back"):
        jax.block_until_ready(update(old))
    state = jax.block_until_ready(init(jax.random.key(2)))
    assert np.isfinite(update(state)[1].policy_loss)
    close()


# -- failures ---------------------------------------------------------------------------------


class Fails(Small):
    """Breaks down at the named place, unless it is fixed."""

    fixed = False

    def __init__(self, where, **options):
        super().__init__(**options)
        self.where = where

    def break_down(self, where):
        if where == self.where and not self.fixed:
            raise ValueError(f"broken {where} of mine")

    def reset(self, *, seed=None, options=None):
        self.break_down("reset")
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.break_down("step")
        return super().step(action)


def failing(where, log=None):
    if where != "make":
        return hosted(Fails, where=where, log=log)
    env = hosted(log=log)

    def make(num_envs):
        if num_envs > 1:
            raise ValueError("broken make of mine")
        return env.make(num_envs)

    return HostEnvironment(make, "own")


SLOW_TOO = [*(pytest.param(w, marks=pytest.mark.slow) for w in ("make", "reset")), "step"]


@pytest.mark.slow
@pytest.mark.parametrize("where", SLOW_TOO)
def test_failures_reach_the_user_of_fit(where):
    log = []
    with pytest.raises(HostError, match=f"own: ValueError: broken {where} of mine") as failure:
        fit(CONFIG, env=failing(where, log))
    assert isinstance(failure.value.__cause__, ValueError)
    assert len(str(failure.value).splitlines()) == 1
    assert log.count("made") == log.count("closed")


@functools.cache
def broken(where):
    """What a jitted run raised, the log of its environments right after, and the run."""
    log = []
    train = jax.jit(make_train(CONFIG, env=failing(where, log)))
    with pytest.raises(Exception, match="broken") as failure:
        jax.block_until_ready(train(KEYS[0]))
    return failure.value, tuple(log), train


@pytest.mark.slow
@pytest.mark.parametrize("where", SLOW_TOO)
def test_failures_reach_the_user_of_make_train(where):
    assert f"ValueError: broken {where} of mine" in str(broken(where)[0])


@pytest.mark.slow
@pytest.mark.parametrize("where", SLOW_TOO[1:])
def test_environments_that_fail_in_make_train_are_closed(where):
    log = broken(where)[1]
    assert log.count("made") == log.count("closed")


def test_a_run_after_a_failure_is_not_told_of_it(monkeypatch):
    train = broken("step")[2]
    monkeypatch.setattr(Fails, "fixed", True)
    assert np.isfinite(train(KEYS[0]).metrics.policy_loss).all()


class Masked(Small):
    """Tells what may be done, where nobody looks."""

    def reset(self, *, seed=None, options=None):
        obs, _ = super().reset(seed=seed, options=options)
        return obs, {"action_mask": np.ones(2, bool)}


def test_a_mask_that_is_not_observed_is_said_once():
    host = Host(hosted(Masked), 2)
    with pytest.warns(RunWarning, match="own has action_mask in its info, .* have it observ"):
        host.reset(0)
    host.reset(1)
    host.close()


def test_an_environment_that_cannot_be_made_at_all():
    def make(num_envs):
        raise ValueError("no such thing")

    with pytest.raises(ConfigError, match="env cannot be made: ValueError: no such thing"):
        fit(CONFIG, env=HostEnvironment(make))


# -- side by side -----------------------------------------------------------------------------


HYPER = jax.tree.map(lambda x: jnp.full(2, x, jnp.float32), CONFIG.hyperparams())


@pytest.mark.slow
@pytest.mark.parametrize(
    "run",
    [
        lambda train: jax.vmap(train)(KEYS),
        lambda train: jax.jit(jax.vmap(train))(KEYS),
        pytest.param(lambda train: jax.vmap(jax.jit(train))(KEYS), marks=pytest.mark.slow),
        lambda train: jax.vmap(train, (None, 0))(KEYS[0], HYPER),
        pytest.param(
            lambda train: jax.jit(jax.vmap(train, (None, 0)))(KEYS[0], HYPER),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda train: jax.vmap(jax.jit(train), (None, 0))(KEYS[0], HYPER),
            marks=pytest.mark.slow,
        ),
        lambda train: jax.vmap(jax.vmap(train, (None, 0)), (0, None))(KEYS, HYPER),
    ],
    ids=["seeds", "jit_vmap", "vmap_jit", "hyper", "jit_vmap_hyper", "vmap_jit_hyper", "both"],
)
def test_vmap_is_refused_with_what_to_do_instead(run):
    log = []
    with pytest.raises(ConfigError, match="one seed after the other"):
        run(make_train(CONFIG, env=hosted(log=log)))
    assert log[:2] == ["made", "closed"]
    assert set(log) == {"made", "closed"}  # nothing was stepped


def test_several_seeds_are_refused_with_what_to_do_instead():
    with pytest.raises(ConfigError, match=r"seeds=2: .*one seed after the other"):
        fit(CONFIG, env=hosted(), seeds=2)


def command_line(argv, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["purejaxppo", *argv.split()])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    return stop.value.code, err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("train gymnasium/CartPole-v1 --seeds 2", "one seed after the other"),
        ("train gymnasium/Blackjack-v0", "did you mean"),
        ("train gymnasium/CartPole-v1 --env-options color=red", "has no option 'color': known: "),
        ("train gymnasium/nowhere:CartPole-v1", "nowhere"),
    ],
)
def test_the_command_line_refuses_in_one_line(argv, words, monkeypatch, capsys, tmp_path):
    code, err = command_line(argv, monkeypatch, capsys, tmp_path)
    assert code == 2
    assert words in err


def test_options_that_are_lists():
    env, _ = make_env("gymnasium/FrozenLake-v1", desc=["SFF", "FFG"])
    assert env.spec.observation.n == 6


# -- policies ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_policy_with_a_memory_trains_and_acts():
    config = CONFIG.replace(core="gru", core_size=4, total_timesteps=8)
    env = hosted()
    out = jax.jit(make_train(config, env=env))(KEYS[0])
    assert np.isfinite(out.metrics.policy_loss).all()
    actor = make_actor(config, out.state, env=env)
    _, action = actor.act(KEYS[1], actor.initial_carry((2,)), out.state.obs, np.ones(2, bool))
    assert action.shape == (2,)


@pytest.mark.slow
def test_make_act_drives_the_environment_it_was_trained_on():
    env, _ = make_env("gymnasium/Pendulum-v1", max_steps=5)
    result = fit(CONFIG.replace(total_timesteps=8), env=env)
    act = jax.jit(make_act(CONFIG, jax.tree.map(lambda x: x[0], result.state), True, env=env))
    single = gymnasium.make("Pendulum-v1")
    obs, _ = single.reset(seed=0)
    for _ in range(3):
        action = np.asarray(act(KEYS[0], obs))
        assert single.action_space.contains(action)
        obs, *_ = single.step(action)
    single.close()


# -- processes --------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_give_the_same_rollout_and_end_with_it():
    actions = cartpole_actions(25)[:, :2]
    before = multiprocessing.active_children()
    runs = [
        roll(make_env("gymnasium/CartPole-v1", max_steps=9, processes=processes)[0], actions)
        for processes in (False, True)
    ]
    for a, b in zip(*map(jax.tree.leaves, runs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert runs[0][1].truncated.any()
    assert multiprocessing.active_children() == before


# -- ale --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pong():
    """Twenty steps of two games, ours and by hand, each cut off after 60 frames."""
    pytest.importorskip("ale_py")
    from ale_py.vector_env import AtariVectorEnv

    env, _ = make_env("ale/Pong-v5", max_num_frames_per_episode=60)
    actions = np.random.default_rng(6).integers(0, 6, (20, 2)).astype(np.int32)
    first, after, seed = roll(env, actions)
    envs = AtariVectorEnv(
        "pong", 2, max_num_frames_per_episode=60, repeat_action_probability=0.25,
        reward_clipping=False, autoreset_mode=AutoresetMode.SAME_STEP,
    )  # fmt: skip
    rows = [(envs.reset(seed=seed)[0].copy(),)]
    for action in actions:
        obs, reward, terminated, truncated, info = envs.step(action)
        done, final = terminated | truncated, obs.copy()
        if done.any():
            final[done] = info["final_obs"][done]
        rows.append(tuple(map(np.array, (obs, final, reward, terminated, truncated))))
    envs.close()
    return env, first, after, rows[0][0], [np.stack(x) for x in zip(*rows[1:], strict=True)]


def last(frames):
    """[..., 4, 84, 84] as [..., 84, 84, 4]."""
    return np.moveaxis(frames, -3, -1)


def test_atari_observations_are_frames_the_newest_last(pong):
    env, first, after, *_ = pong
    space = env.spec.observation
    assert (space.shape, space.dtype) == ((84, 84, 4), np.uint8)
    assert after.obs.shape == (20, 2, 84, 84, 4)
    assert after.obs.dtype == first.dtype == np.uint8
    before = np.concatenate([first[None], after.obs[:-1]])
    # a step moves every frame one to the front
    np.testing.assert_array_equal(after.final_obs[..., :3], before[..., 1:])
    assert (after.final_obs[..., 3] != after.final_obs[..., 2]).any()


def test_atari_as_a_loop_over_its_vector_environment(pong):
    _, first, after, obs_0, (obs, final, reward, terminated, truncated) = pong
    np.testing.assert_array_equal(first, last(obs_0))
    np.testing.assert_array_equal(after.obs, last(obs))
    np.testing.assert_array_equal(after.final_obs, last(final))
    np.testing.assert_array_equal(after.reward, reward)
    np.testing.assert_array_equal(after.terminated, terminated)
    np.testing.assert_array_equal(after.truncated, truncated)
    fixed_types(after)


def test_atari_time_limit_is_a_truncation(pong):
    _, _, after, *_ = pong
    assert after.truncated.any()
    assert not after.terminated.any()
    cut = after.truncated
    np.testing.assert_array_equal(after.obs[~cut], after.final_obs[~cut])
    assert (after.obs[cut] != after.final_obs[cut]).any((-3, -2, -1)).all()
    t, n = map(np.ravel, np.nonzero(cut))
    np.testing.assert_array_equal(after.final_obs[t, n][..., :3], after.obs[t - 1, n][..., 1:])


def test_atari_names_are_those_of_gymnasium():
    pytest.importorskip("ale_py")
    from purejaxppo.envs.suites import ale

    theirs = {name.removeprefix("ALE/") for name in gymnasium.registry if name.startswith("ALE/")}
    assert "MsPacman-v5" in theirs
    assert theirs <= set(ale.names())


# -- envpool ----------------------------------------------------------------------------------


def pool_by_hand(name, actions, seed, **options):
    """A pool stepped by hand: an environment that has ended is reset by its number."""
    import envpool

    num_envs = actions.shape[1]
    envs = envpool.make_gymnasium(name, num_envs=num_envs, seed=seed, **options)
    now = np.array(envs.reset()[0])
    first, rows = now.copy(), []
    for action in actions:
        final, reward, terminated, truncated, _ = envs.step(action)
        final, done = np.array(final), terminated | truncated
        now = final.copy()
        for n in np.flatnonzero(done):
            now[n] = envs.reset(np.array([n], np.int32))[0][0]
        rows.append(tuple(map(np.array, (now, final, reward, terminated, truncated))))
    envs.close()
    return first, [np.stack(x) for x in zip(*rows, strict=True)]


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_envpool_as_a_loop_over_its_pool(name):
    pytest.importorskip("envpool")
    env, _ = make_env(f"envpool/{name}", max_episode_steps=12)
    actions = cartpole_actions(30)
    if name == "Pendulum-v1":
        actions = 2.0 * actions[..., None].astype(np.float32) - 1
    obs_0, after, seed = roll(env, actions)
    dtype = np.int64 if name == "CartPole-v1" else np.float32
    first, rows = pool_by_hand(name, actions.astype(dtype), seed, max_episode_steps=12)
    obs, final, reward, terminated, truncated = rows
    np.testing.assert_array_equal(obs_0, first)
    np.testing.assert_array_equal(after.obs, obs)
    np.testing.assert_array_equal(after.final_obs, final)
    np.testing.assert_array_equal(after.reward, reward.astype(np.float32))
    np.testing.assert_array_equal(after.terminated, terminated)
    np.testing.assert_array_equal(after.truncated, truncated & ~terminated)
    fixed_types(after)
    assert after.truncated.any()
    assert after.terminated.any() == (name == "CartPole-v1")
    np.testing.assert_array_equal(after.episode_length[after.truncated], 12)


def test_envpool_frames_are_channels():
    pytest.importorskip("envpool")
    env, _ = make_env("envpool/Pong-v5", max_episode_steps=5)
    actions = np.random.default_rng(7).integers(0, 6, (12, 2)).astype(np.int32)
    obs_0, after, seed = roll(env, actions)
    assert (env.spec.observation.shape, env.spec.observation.dtype) == ((84, 84, 4), np.uint8)
    first, rows = pool_by_hand("Pong-v5", actions.astype(np.int64), seed, max_episode_steps=5)
    obs, final, *_ = rows
    np.testing.assert_array_equal(obs_0, last(first))
    np.testing.assert_array_equal(after.obs, last(obs))
    np.testing.assert_array_equal(after.final_obs, last(final))
    np.testing.assert_array_equal(np.flatnonzero(after.truncated[:, 0]), [4, 9])


def test_envpool_observations_in_dictionaries():
    pytest.importorskip("envpool")
    env, _ = make_env("envpool/MiniGrid-Empty-5x5-v0", max_episode_steps=3)
    _, after, _ = roll(env, np.zeros((5, 2), np.int32))
    assert after.obs["image"].shape == (5, 2, 7, 7, 3)
    np.testing.assert_array_equal(np.flatnonzero(after.truncated[:, 0]), [2])


def fast():
    return gymnasium.make("CartPole-v1", max_episode_steps=7)


def slow():
    return gymnasium.make("CartPole-v1", max_episode_steps=9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        lambda: SyncVectorEnv([fast, slow]),
        lambda: gymnasium.make_vec("CartPole-v1", 3, max_episode_steps=7),
        pytest.param(lambda: AsyncVectorEnv([fast, fast], context="spawn"), marks=pytest.mark.slow),
    ],
    ids=["several", "by name", "processes"],
)
def test_a_vector_environment_is_trained_on(given):
    """In copies of its own, num_envs of them, whatever its number and autoreset mode are."""
    envs = given()
    config = PPOConfig(num_envs=4, num_steps=9, total_timesteps=36, hidden_sizes=(4,))
    out = make_train(config.replace(num_minibatches=2), env=envs)(jax.random.key(0))
    # no pole falls in 9 steps: limits end episodes, 7 steps at most of two or all four
    assert 0 < float(out.metrics.length_sum.sum()) <= 9 * 4
    assert int(out.metrics.episodes.sum()) == 4
    envs.reset(seed=0)  # it was not touched
    envs.close()


class Level(gymnasium.Env):
    """Shows the number of its level; actions are 1 or 2, of which a mask allows the second."""

    observation_space = gymnasium.spaces.Dict({
        "level": gymnasium.spaces.Box(0, 9, (1,)),
        "action_mask": gymnasium.spaces.MultiBinary(3),
    })  # fmt: skip
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, level=0):
        self.level = level

    def _seen(self):
        return {"level": np.float32([self.level]), "action_mask": np.int8([0, 1, 1])}

    def reset(self, *, seed=None, options=None):
        return self._seen(), {}

    def step(self, action):
        assert action in (1, 2)
        return self._seen(), 0.0, True, False, {"told": 1.0}


def test_copies_that_differ_are_all_there_on_any_number_of_devices():
    """A share begins with the copy behind those of the shares before it."""
    env = make_components(
        PPOConfig(),
        env=gymnasium.vector.SyncVectorEnv([functools.partial(Level, i) for i in range(4)]),
    ).env
    seen = [Host(env, 3, first=first).reset(0)[1]["level"][:, 0].tolist() for first in (0, 3)]
    assert seen == [[0, 1, 2], [3, 0, 1]]
    shares = Shares(lambda first: Host(env, 3, first=first), 3, None)
    blank = None
    _, obs = shares.reset(blank, np.int32(1), np.int32(0), np.int32(0))
    assert obs["level"][:, 0].tolist() == [3, 0, 1]


def test_parameters_that_a_call_gives_are_refused_as_those_that_training_is_given():
    train = make_train(CONFIG, env=Level)
    with pytest.raises(ConfigError, match="have no effect on environments of the host"):
        train(jax.random.key(0), None, {"gravity": 3.0})


def test_info_is_looked_at_with_actions_that_are_allowed():
    assert kinds_told(make_components(PPOConfig(), env=Level).env) == {"told": ""}


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "name"),
    [
        (None, "CartPole-v1"),
        ("Acrobot-v1", "Acrobot-v1"),
        (lambda: gymnasium.make("Pendulum-v1"), "gymnasium/Pendulum-v1"),
        (functools.partial(gymnasium.make, "Acrobot-v1"), "gymnasium/Acrobot-v1"),
        (gymnasium.make("MountainCar-v0"), "gymnasium/MountainCar-v0"),
        (FrameStack(make_env("Pendulum-v1")[0], 2), "Pendulum-v1"),
        (FrameStack(Seen(), 2), "Seen"),
        (Seen, "Seen"),
    ],
)
def test_what_is_passed_is_named_as_it_names_itself(env, name):
    assert make_components(PPOConfig(), env=env).env_name == name
