"""Policies that are played from NumPy and Gymnasium: `load_policy`, `as_policy` and `predict`."""

import time
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from support.probes import Dials
from support.run_folders import tiny_config

from purejaxppo import (
    ConfigError,
    HostEnvironment,
    Policy,
    TrainedPolicy,
    as_policy,
    fit,
    load_agents,
    load_policy,
    make_act,
    make_actor,
    make_learner,
    make_train,
)
from purejaxppo.components import make_components
from purejaxppo.policies import Categorical
from purejaxppo.runs.agents import Agents
from purejaxppo.spaces import Box, Discrete, MultiBinary, zeros

KEY = jax.random.key(0)


class Still(gymnasium.Env):
    """An environment of Gymnasium's with any spaces, in which nothing happens."""

    def __init__(self, observation, action):
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observation_space.sample(), 1.0, False, False, {}


class Spaces:
    """The same in JAX."""

    default_params = ()

    def __init__(self, observation, action):
        self.observation, self.action = observation, action

    def reset_env(self, key, params):
        return zeros(self.observation), jnp.int32(0)

    def step_env(self, key, state, action, params):
        return zeros(self.observation), state + 1, jnp.float32(0), jnp.bool_(False), {}

    def is_truncated(self, state, params):
        return state >= 10

    def observation_space(self, params):
        return self.observation

    def action_space(self, params):
        return self.action


def hosted(observation, action):
    """Copies of an environment that shows and takes these."""
    return HostEnvironment(
        lambda n: SyncVectorEnv(
            [lambda: Still(observation, action)] * n, autoreset_mode=AutoresetMode.DISABLED
        )
    )


def random_agents(env, policy=None):
    """Random parameters and statistics of one seed."""
    rng = np.random.default_rng(0)
    state = jax.eval_shape(make_learner(tiny_config(1), env=env, policy=policy).init, KEY)
    draw = lambda x: jnp.asarray(rng.normal(0, 1, x.shape), x.dtype)  # noqa: E731
    return jax.tree.map(draw, Agents.of(state))


def random_policy(env, **options):
    """A policy with random parameters."""
    return as_policy(tiny_config(1), random_agents(env), env=env, **options)


# -- actions are those of the environment's own space -----------------------------------------

VECTOR = gym.Box(-2, 2, (3,), np.float32)
ACTIONS = {
    "Discrete": gym.Discrete(3),
    "Discrete with a start": gym.Discrete(3, start=5),
    "Discrete below zero": gym.Discrete(2, start=-7),
    "MultiDiscrete": gym.MultiDiscrete([2, 5]),
    "MultiDiscrete with starts": gym.MultiDiscrete([2, 3], start=[1, -4]),
    "MultiDiscrete of int32": gym.MultiDiscrete([2, 3], dtype=np.int32),
    "MultiBinary": gym.MultiBinary(4),
    "MultiBinary in a matrix": gym.MultiBinary((2, 3)),
    "Box": gym.Box(-1, 1, (2,), np.float32),
    "Box of one number": gym.Box(-1, 1, (), np.float32),
    "Box of float64": gym.Box(-0.1, 0.1, (2, 2), np.float64),
    "Box of int64": gym.Box(-3, 3, (2,), np.int64),
    "Box of bytes": gym.Box(0, 255, (2,), np.uint8),
    "Dict": gym.Dict(
        way=gym.Discrete(4, start=1), push=gym.Box(-0.1, 0.1, (2,), np.float64),
        arm=gym.Tuple((gym.MultiBinary(2), gym.MultiDiscrete([3, 3]))),
    ),
    "Tuple": gym.Tuple((gym.Discrete(2), gym.Box(0, 1, (1,), np.float32))),
}  # fmt: skip


def types(value):
    """Classes and dtypes, in the structure of a value."""
    if isinstance(value, dict):
        return {key: types(part) for key, part in sorted(value.items())}
    if isinstance(value, tuple):
        return tuple(map(types, value))
    return type(value), np.asarray(value).dtype


@pytest.mark.parametrize("name", ACTIONS)
def test_env_step_takes_what_predict_gives(name):
    """In Gymnasium's words: the space contains it, and it is of the classes that it samples."""
    space = ACTIONS[name]
    policy = random_policy(hosted(VECTOR, space))
    batch = np.random.default_rng(1).normal(0, 1, (16, 3)).astype(np.float32)
    for deterministic in (True, False):
        for obs in batch[:4]:
            action = policy.predict(obs, deterministic)
            assert space.contains(action), action
            assert types(action) == types(space.sample())
        actions = policy.predict(batch, deterministic)
        rows = [jax.tree.map(lambda x, i=i: x[i], actions) for i in range(16)]
        assert all(map(space.contains, rows))
        assert len({str(row) for row in rows}) > 1
    # one by one they are those of the batch
    for obs, row in zip(batch, [policy.predict(obs) for obs in batch], strict=True):
        expected = jax.tree.map(lambda x: x[0], policy.predict(obs[None]))
        jax.tree.map(np.testing.assert_array_equal, row, expected)


def test_a_policy_of_a_jax_environment_plays_gymnasiums():
    """`env.step(policy.predict(obs))`, with CartPole trained in JAX."""
    policy, env = random_policy("CartPole-v1"), gymnasium.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    for _ in range(5):
        action = policy.predict(obs)
        assert type(action) is np.int64
        obs, *_ = env.step(action)
    env.close()
    policy, env = random_policy("Pendulum-v1"), gymnasium.make("Pendulum-v1")
    obs, _ = env.reset(seed=0)
    action = policy.predict(obs)
    assert action.dtype == np.float32 and env.action_space.contains(action)
    action[0] = 0  # an array of one's own
    env.close()


def test_jax_environments_give_bits_and_bytes_in_their_own_dtype():
    action = {"bits": MultiBinary((2,)), "way": Discrete(3)}
    policy = random_policy(Spaces(Discrete(4), action))
    given = policy.predict(3)
    assert types(given) == {
        "bits": (np.ndarray, np.dtype(np.int8)), "way": (np.int64, np.dtype(np.int64))
    }  # fmt: skip


# -- the right actions ------------------------------------------------------------------------


def greedy():
    """A policy that takes the place of the largest number that it sees."""

    def apply(params, carry, obs, episode_start):
        return carry, Categorical(obs * params), obs.sum(-1)

    return Policy(lambda key: jnp.ones(()), lambda batch_shape: (), apply)


def begun(env, policy):
    """What a policy begins with."""
    return Agents.of(make_learner(tiny_config(1), env=env, policy=policy).init(KEY))


def test_one_observation_or_a_batch():
    env = Spaces(Box(np.full(3, -9.0), np.full(3, 9.0), (3,), np.dtype(np.float32)), Discrete(3))
    policy = as_policy(tiny_config(1), begun(env, greedy()), env=env, policy=greedy())
    obs = np.random.default_rng(0).normal(0, 1, (7, 3))
    expected = obs.argmax(1)
    np.testing.assert_array_equal(policy.predict(obs), expected)
    assert [policy.predict(x) for x in obs] == expected.tolist()
    assert policy.predict([0, 1, 0]) == 1  # a list of integers
    assert policy.predict((0.5, 0, 2)) == 2
    assert policy.predict(obs[:1]).shape == (1,)
    assert policy.predict(obs[:0]).shape == (0,)
    assert policy.predict(jnp.asarray(obs)).tolist() == expected.tolist()
    assert policy.predict(obs.astype(np.float16)[0]) == obs[0].astype(np.float16).argmax()
    # as a function of JAX, with any leading axes
    assert policy(KEY, obs[None]).tolist() == [expected.tolist()]
    assert jax.vmap(lambda x: policy(KEY, x))(obs).tolist() == expected.tolist()


def test_sampled_actions_come_from_the_seed_and_go_on():
    env = Spaces(Box(np.full(2, -9.0), np.full(2, 9.0), (2,), np.dtype(np.float32)), Discrete(2))
    make = lambda seed: as_policy(  # noqa: E731
        tiny_config(1), begun(env, greedy()), env=env, policy=greedy(), seed=seed,
        deterministic=False,
    )  # fmt: skip
    batch = np.tile(np.float32([0, np.log(3)]), (4000, 1))
    first, second, other = make(1), make(1), make(2)
    drawn = [first.predict(batch) for _ in range(3)]
    for actions in drawn:  # each equal to its own, and to none of the others
        np.testing.assert_array_equal(actions, second.predict(batch))
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], other.predict(batch))
    # probabilities 1/4 and 3/4: 12,000 draws are within four standard errors, 0.016
    assert abs(np.mean(drawn) - 0.75) < 0.016
    # deterministic ones draw nothing
    assert first.predict(batch, deterministic=True).all()
    np.testing.assert_array_equal(first.predict(batch), second.predict(batch))
    first.reset(seed=1)
    np.testing.assert_array_equal(first.predict(batch), drawn[0])
    first.reset()
    np.testing.assert_array_equal(first.predict(batch), drawn[1])


# -- observations ------------------------------------------------------------------------------


class Record(NamedTuple):
    """Observations with names."""

    place: Any
    image: Any


PLACE = Box(np.full(2, -1.0), np.full(2, 1.0), (2,), np.dtype(np.float32))
IMAGE = Box(np.zeros((4, 4, 1)), np.full((4, 4, 1), 255.0), (4, 4, 1), np.dtype(np.uint8))


@pytest.fixture(scope="module")
def of_record():
    return random_policy(Spaces(Record(PLACE, IMAGE), Discrete(3)))


@pytest.fixture(scope="module")
def of_dictionary():
    seen = gym.Dict(
        place=gym.Box(-1, 1, (2,), np.float64), hand=gym.Tuple((gym.Discrete(3, start=4),) * 2),
        action_mask=gym.MultiBinary(6),
    )  # fmt: skip
    return seen, random_policy(hosted(seen, gym.Discrete(6, start=10)), deterministic=False)


def test_records_are_taken_as_records_or_dictionaries(of_record):
    rng = np.random.default_rng(0)
    obs = Record(rng.normal(0, 1, (5, 2)), rng.integers(0, 256, (5, 4, 4, 1)))
    batch = of_record.predict(obs)
    assert batch.tolist() == of_record.predict(obs._asdict()).tolist()
    assert batch.tolist() == of_record.predict({"more": "passed over"} | obs._asdict()).tolist()
    assert of_record.predict(Record(obs.place[0], obs.image[0].tolist())) == batch[0]


def test_masks_in_dictionaries_are_obeyed(of_dictionary):
    seen, policy = of_dictionary
    for allowed in (0, 3, 5):
        mask = np.eye(6, dtype=np.int8)[allowed]
        obs = seen.sample() | {"action_mask": mask}
        assert [policy.predict(obs) for _ in range(3)] == [10 + allowed] * 3
    masks = np.eye(6, dtype=np.int8)
    batch = {
        "place": np.zeros((6, 2)),
        "hand": (np.full(6, 4), np.full(6, 6)),
        "action_mask": masks,
    }
    assert policy.predict(batch).tolist() == [10, 11, 12, 13, 14, 15]


def test_integers_are_counted_from_their_start(of_dictionary):
    """As the networks have seen them in training: one-hot, from 0."""
    seen, policy = of_dictionary
    inside = {
        "place": jnp.zeros(2),
        "hand": (jnp.int32(0), jnp.int32(2)),
        "action_mask": jnp.ones(6),
    }
    outside = {"place": [0, 0], "hand": (4, 6), "action_mask": [1] * 6}
    env = hosted(seen, gym.Discrete(6, start=10))
    of = make_components(tiny_config(1), env=env).policy
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], inside)
    _, dist, _ = of.apply(random_agents(env).params, (), batch, jnp.ones(1, bool))
    assert policy.predict(outside, deterministic=True) == 10 + int(dist.mode()[0])
    act = policy(KEY, jax.tree.map(jnp.asarray, outside, is_leaf=lambda x: isinstance(x, list)))
    assert 10 <= int(act) < 16


REFUSED = {
    "a number less": (np.zeros(1), "observation.place has shape [1]: pass float32 [2], or [N, 2]"),
    "an axis more": (np.zeros((1, 3, 2)), "has shape [1, 3, 2]"),
    "a scalar": (0.5, "has shape []"),
    "texts": (["a", "b"], "observation.place is of <U1: pass float32 [2]"),
    "complex": (np.zeros(2, complex), "is of complex128"),
    "objects": ([None, None], "is of object"),
    "ragged": ([[1, 2], [3]], "observation.place is no array"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_observations_of_another_kind_are_refused(of_record, name):
    given, words = REFUSED[name]
    with pytest.raises(ConfigError) as error:
        of_record.predict(Record(given, np.zeros((4, 4, 1), np.uint8)))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        ({"place": np.zeros(2)}, "observation.image is missing"),
        (np.zeros(2), "observation.place is missing"),
        (Record(np.zeros(2), np.zeros((4, 4, 1))), "observation.image is of float64: pass uint8"),
        (Record(np.zeros(2), np.full((4, 4, 1), 256)), "from 256 to 256: pass uint8 [4, 4, 1]"),
        (Record(np.zeros(2), np.full((4, 4, 1), -1)), "from -1 to -1"),
        (Record(np.zeros((3, 2)), np.zeros((4, 4, 1), int)), "different numbers"),
        (Record(np.zeros((3, 2)), np.zeros((2, 4, 4, 1), int)), "(observation.place: 3, "),
    ],
)
def test_parts_that_do_not_fit_are_refused(of_record, obs, words):
    with pytest.raises(ConfigError) as error:
        of_record.predict(obs)
    assert words in str(error.value)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, "one", None, True])
def test_seeds_that_are_none_are_refused(seed):
    with pytest.raises(ConfigError, match="seed"):
        random_policy("CartPole-v1", seed=seed)


@pytest.mark.parametrize("mode", ["yes", 1, np.zeros(2), (None, None)])
def test_deterministic_is_a_bool(of_record, mode):
    """A memory, which Stable-Baselines3 takes in this place, is one's own business here."""
    obs = Record(np.zeros(2), np.zeros((4, 4, 1), np.uint8))
    with pytest.raises(ConfigError, match="must be True or False"):
        of_record.predict(obs, mode)
    assert of_record.predict(obs, np.True_) == of_record.predict(obs, None)


# -- memory ------------------------------------------------------------------------------------


def counter(n):
    """A policy that takes the action t mod n at step t of an episode, whatever it sees."""

    def apply(params, carry, obs, episode_start):
        carry = jnp.where(episode_start, 0, carry)
        logits = 9.0 * jax.nn.one_hot(carry % n, n) + params[None]
        return carry + 1, Categorical(logits), jnp.zeros(carry.shape)

    return Policy(lambda key: jnp.zeros(n), lambda shape: jnp.zeros(shape, jnp.int32), apply)


@pytest.fixture
def counting():
    env = Spaces(Discrete(2), Discrete(5))
    return as_policy(tiny_config(1), begun(env, counter(5)), env=env, policy=counter(5))


def test_memory_is_inside_and_reset_forgets_it(counting):
    assert [counting.predict(0) for _ in range(7)] == [0, 1, 2, 3, 4, 0, 1]
    counting.reset()
    assert [counting.predict(0) for _ in range(3)] == [0, 1, 2]
    assert counting.predict(0, episode_start=True) == 0
    assert counting.predict(0, episode_start=np.ones((1,), bool)) == 0  # as Stable-Baselines3
    assert counting.predict(0, episode_start=False) == 1


def test_episode_start_forgets_those_of_a_batch(counting):
    obs = np.zeros(3, int)
    assert counting.predict(obs).tolist() == [0, 0, 0]
    assert counting.predict(obs).tolist() == [1, 1, 1]
    assert counting.predict(obs, episode_start=[True, False, False]).tolist() == [0, 2, 2]
    assert counting.predict(obs, episode_start=np.array([0, 0, 1], bool)).tolist() == [1, 3, 0]
    counting.reset()
    assert counting.predict(obs).tolist() == [0, 0, 0]


def test_memory_begins_anew_with_another_batch(counting):
    assert [counting.predict(0) for _ in range(2)] == [0, 1]
    assert counting.predict(np.zeros(2, int)).tolist() == [0, 0]
    assert counting.predict(np.zeros(1, int)).tolist() == [0]
    assert counting.predict(0) == 0  # one observation is no batch of one


@pytest.mark.parametrize("start", [[True, False], True, [[True, True, True]], "yes"])
def test_episode_starts_of_another_length_are_refused(counting, start):
    with pytest.raises(ConfigError, match=r"episode_start has shape .* it must be \[3\]"):
        counting.predict(np.zeros(3, int), episode_start=start)


def test_with_a_memory_there_is_no_function_of_an_observation_alone(counting):
    with pytest.raises(ConfigError, match="has a memory: use predict"):
        counting(KEY, 0)


# -- runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gru(tmp_path_factory):
    """A run with a memory, in a folder."""
    folder = tmp_path_factory.mktemp("gru") / "run"
    config = tiny_config(2, core="gru", core_size=4, sequence_length=5)
    return folder, config, fit(config, seeds=2, run_dir=folder, eval_every=20)


@pytest.mark.slow
def test_a_run_with_a_memory_is_loaded_and_acts_as_make_actor_does(gru):
    folder, config, _ = gru
    policy = load_policy(folder, agent=1)
    _, agents = load_agents(folder)
    actor = make_actor(config, jax.tree.map(lambda x: x[1], agents), deterministic=True)
    rng = np.random.default_rng(0)
    obs, starts = rng.normal(0, 1, (8, 3, 4)), rng.random((8, 3)) < 0.3
    carry, starts[0] = actor.initial_carry((3,)), True
    for x, start in zip(obs, starts, strict=True):
        carry, action = actor.act(KEY, carry, x, start)
        np.testing.assert_array_equal(policy.predict(x, episode_start=start), action)
    with pytest.raises(ConfigError, match="has a memory"):
        policy(KEY, obs[0])


@pytest.mark.slow
def test_as_policy_takes_whatever_training_returns(gru):
    folder, config, result = gru
    obs = np.random.default_rng(0).normal(0, 1, (64, 4))
    final, best = [result, result.state, Agents.of(result.state)], [result.best.agents]
    for weights, given in (("final", final), ("best", best)):
        expected = load_policy(folder, 1, weights).predict(obs)
        for state in given:
            np.testing.assert_array_equal(as_policy(config, state, 1).predict(obs), expected)
    one = jax.tree.map(lambda x: x[1], result.state)
    expected = load_policy(folder, 1).predict(obs)
    np.testing.assert_array_equal(as_policy(config, one).predict(obs), expected)


@pytest.mark.slow
def test_as_policy_takes_the_output_of_train():
    config = tiny_config(1)
    train = jax.jit(jax.vmap(make_train(config)))
    out = train(jax.random.split(KEY, 2))
    obs = np.random.default_rng(0).normal(0, 1, (64, 4))
    for agent in (0, 1):
        state = jax.tree.map(lambda x: x[agent], out.state)  # noqa: B023
        expected = make_act(config, state, deterministic=True)(KEY, obs)
        policy = as_policy(config, out, agent)
        assert isinstance(policy, TrainedPolicy)
        np.testing.assert_array_equal(policy.predict(obs), expected)
        np.testing.assert_array_equal(policy(KEY, obs), expected)


@pytest.mark.parametrize(
    ("changes", "agent", "words"),
    [
        (dict(hidden_sizes=(8,)), 0, "another network or environment"),
        (dict(env="Acrobot-v1"), 0, "another network or environment"),
        (dict(), 2, "agent=2 must be one of the run's 0 .. 1"),
        (dict(), "one", "agent="),
    ],
)
def test_as_policy_refuses_what_is_of_another_configuration(gru, changes, agent, words):
    _, config, result = gru
    with pytest.raises(ConfigError, match=words):
        as_policy(config.replace(**changes), result, agent)


@pytest.mark.parametrize("state", [None, {"params": 1}, "cartpole", 3])
def test_as_policy_refuses_what_holds_no_agent(state):
    with pytest.raises(ConfigError, match="holds no agent"):
        as_policy(tiny_config(1), state)


def test_there_is_one_program_for_each_size_of_batch():
    policy = random_policy("CartPole-v1")
    for _ in range(2):
        for size in (None, 1, 5, 16):
            policy.predict(np.zeros(4 if size is None else (size, 4)))
    assert policy._step[True]._cache_size() == 3  # one observation is a batch of one
    assert policy._step[False]._cache_size() == 0


def test_predict_takes_far_less_than_a_millisecond():
    """Tens of microseconds for CartPole on one core; the bound is for machines under load."""
    policy, obs = random_policy("CartPole-v1"), np.zeros(4, np.float32)
    policy.predict(obs)
    best = np.inf
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(20):
            policy.predict(obs)
        best = min(best, (time.perf_counter() - begin) / 20)
    assert best < 500e-6


def test_dials_with_a_mask_are_played_from_numpy():
    """A record with a mask over two choices, of a JAX environment."""
    env = Dials()
    policy = random_policy(env, deterministic=False)
    obs, _ = env.reset_env(KEY, env.default_params)
    for _ in range(20):
        action = policy.predict(jax.tree.map(np.asarray, obs))
        mask = np.asarray(obs.action_mask)
        assert mask[action[0]] and mask[3 + action[1]] and action.dtype == np.int64
