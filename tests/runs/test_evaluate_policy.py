"""`evaluate_policy` in Gymnasium's environments whose returns are known by hand."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from support.run_folders import tiny_config

from purejaxppo import ConfigError, Policy, as_policy, evaluate_policy, make_env, make_learner
from purejaxppo.policies import Categorical

LENGTHS = (3, 1, 5)
PAID = [1 + 2 + 3, 1, 1 + 2 + 3 + 4 + 5]
"""What the episodes of `Walk` pay to who goes on: 1, 2, ... at each step."""


class Walk(gymnasium.Env):
    """Episodes of 3, 1, 5, 3, ... steps; step t pays t if the action is t mod 3, else -100.

    It shows nothing, so that only who remembers knows what to do.

    Args:
        first: which of the lengths is the first.
        truncates: episodes are cut off rather than ended.
    """

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, first=0, truncates=False):
        self.next, self.truncates, self.seeds = first, truncates, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.length, self.next, self.time = LENGTHS[self.next % 3], self.next + 1, 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.time < self.length, "stepped after its end"
        assert self.action_space.contains(action)
        reward = self.time + 1 if action == self.time % 3 else -100
        self.time += 1
        over = self.time == self.length
        ends = (False, over) if self.truncates else (over, False)
        return np.zeros(2, np.float32), float(reward), *ends, {}


def counter():
    """A policy that takes the action t mod 3 at step t of what it believes to be an episode."""

    def apply(params, carry, obs, episode_start):
        carry = jnp.where(episode_start, 0, carry)
        logits = 99.0 * jax.nn.one_hot(carry % 3, 3) + params
        return carry + 1, Categorical(logits), jnp.zeros(carry.shape)

    def initial_carry(shape):
        return jnp.zeros(shape, jnp.int32)

    return Policy(lambda key: jnp.zeros((1, 3)), initial_carry, apply)


class Shown:
    """What the policy was trained in: the spaces of `Walk`, in JAX."""

    default_params = ()

    def __init__(self, actions=spaces.Discrete(3)):  # noqa: B008
        self.actions = actions

    def reset_env(self, key, params):
        return jnp.zeros(2), jnp.int32(0)

    def step_env(self, key, state, action, params):
        return jnp.zeros(2), state, jnp.float32(0), jnp.bool_(True), {}

    def is_truncated(self, state, params):
        return jnp.bool_(False)

    def observation_space(self, params):
        return Walk.observation_space

    def action_space(self, params):
        return self.actions


@pytest.fixture(scope="module")
def counting():
    config = tiny_config(1)
    state = make_learner(config, env=Shown(), policy=counter()).init(jax.random.key(0))
    return as_policy(config, state, env=Shown(), policy=counter())


@pytest.mark.parametrize("truncates", [False, True], ids=["terminated", "truncated"])
def test_returns_and_lengths_by_hand(counting, truncates):
    env = Walk(truncates=truncates)
    scores = evaluate_policy(counting, env, episodes=4, seed=7)
    assert scores.returns.tolist() == [6, 1, 15, 6] and scores.lengths.tolist() == [3, 1, 5, 3]
    assert scores.mean == 7 and scores.std == np.std([6, 1, 15, 6])
    assert env.seeds == [7, None, None, None]
    mean, std, *_ = scores
    assert type(mean) is type(std) is float
    assert scores.returns.dtype == np.float64 and scores.lengths.dtype == np.int64


MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


def share_of(first, number):
    """Returns of so many episodes, by hand."""
    return [PAID[(first + i) % 3] for i in range(number)]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("episodes", [1, 3, 7, 12])
def test_vector_environments_play_their_shares(counting, mode, episodes):
    """Each of the 3 plays its fixed share, however short its episodes are."""
    makers = [lambda first=first: Walk(first) for first in range(3)]
    env = SyncVectorEnv(makers, autoreset_mode=mode)
    scores = evaluate_policy(counting, env, episodes)
    shares = [(episodes + i) // 3 for i in range(3)]
    expected = [x for i in range(3) for x in share_of(i, shares[i])]
    assert sum(shares) == episodes
    assert sorted(scores.returns.tolist()) == sorted(expected)
    steps = dict(zip(PAID, LENGTHS, strict=True))
    assert scores.lengths.tolist() == [steps[x] for x in scores.returns]
    env.close()


def test_short_episodes_are_not_over_represented(counting):
    """One environment of length 1, one of length 5: half of the episodes are of each."""

    class Same(Walk):
        def reset(self, *, seed=None, options=None):
            self.next = self.first
            return super().reset(seed=seed)

        def __init__(self, first):
            super().__init__()
            self.first = first

    env = SyncVectorEnv([lambda: Same(1), lambda: Same(2)])
    scores = evaluate_policy(counting, env, 8)
    assert sorted(scores.lengths.tolist()) == [1] * 4 + [5] * 4
    assert scores.mean == (1 + 15) / 2


@pytest.mark.slow
def test_environments_in_processes(counting):
    env = AsyncVectorEnv([Walk] * 2, context="spawn")
    scores = evaluate_policy(counting, env, 4)
    env.close()
    assert sorted(scores.returns.tolist()) == [1, 1, 6, 6]


def test_a_function_of_observations_will_do():
    seen = []

    def act(obs):
        seen.append(obs)
        return np.int64(0)

    scores = evaluate_policy(act, Walk(), 2)
    assert scores.returns.tolist() == [1 - 200, 1]
    assert [x.shape for x in seen] == [(2,)] * 4
    env = SyncVectorEnv([Walk] * 2)
    scores = evaluate_policy(lambda obs: np.zeros(len(obs), int), env, 2)
    assert scores.returns.tolist() == [-199, -199]


@pytest.mark.slow
def test_equal_calls_give_equal_scores(counting):
    """Sampled actions too: the policy's stream begins at the seed."""
    config = tiny_config(1)
    state = make_learner(config, env="CartPole-v1").init(jax.random.key(0))
    policy = as_policy(config.replace(env="CartPole-v1"), state)
    env = gymnasium.make("CartPole-v1")
    runs = [evaluate_policy(policy, env, 3, deterministic=False, seed=seed) for seed in (0, 0, 1)]
    assert runs[0].returns.tolist() == runs[1].returns.tolist() != runs[2].returns.tolist()
    assert runs[0].returns.tolist() == runs[0].lengths.tolist()  # a point for every step
    greedy = evaluate_policy(policy, env, 3)
    assert greedy.returns.tolist() != runs[0].returns.tolist()
    env.close()


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("CartPole-v1", "must be an environment of Gymnasium's"),
        (Walk, "must be an environment of Gymnasium's"),
        (None, "must be an environment of Gymnasium's"),
        (Shown(), "make_evaluate is for those in JAX"),
        (make_env("CartPole-v1")[0], "make_evaluate is for those in JAX"),
        (gymnasium.make("Acrobot-v1"), "observation has shape [6]: pass float32 [2]"),
        (gymnasium.make("CartPole-v1"), "takes actions Discrete(n=3), the environment Discrete"),
        (gymnasium.make("Pendulum-v1"), "takes actions Discrete(n=3), the environment Box"),
    ],
)
def test_environments_that_do_not_fit_are_refused(counting, env, words):
    with pytest.raises(ConfigError) as error:
        evaluate_policy(counting, env)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "options",
    [dict(episodes=0), dict(episodes=2.5), dict(episodes="many"), dict(seed=-1), dict(seed=2**32)],
)
def test_numbers_that_are_none_are_refused(counting, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        evaluate_policy(counting, Walk(), **options)


@pytest.mark.parametrize("policy", [None, "cartpole", 3])
def test_policies_that_are_none_are_refused(policy):
    with pytest.raises(ConfigError, match="must be what load_policy returns"):
        evaluate_policy(policy, Walk())


@pytest.mark.parametrize("mode", [None, "sometimes"])
def test_vector_environments_say_when_they_reset(counting, mode):
    env = SyncVectorEnv([Walk] * 2)
    env.metadata = dict(env.metadata, autoreset_mode=mode)
    with pytest.raises(ConfigError, match="autoreset_mode"):
        evaluate_policy(counting, env)
