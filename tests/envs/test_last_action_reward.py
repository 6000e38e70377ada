"""The last action and reward beside the observation: by hand, and what a memory makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnasium import spaces
from support.probes import Params

from purejaxppo import ConfigError, PPOConfig, check_env, make_train
from purejaxppo.envs.vec_env import make_vec_env
from purejaxppo.envs.wrappers import EpisodeStatistics, LastActionReward, ScaleReward, TimeLimit


@struct.dataclass
class State:
    time: jax.Array
    best: jax.Array


class Countdown:
    """Shows the time; pays 10 * time + (sum of the action); ends after 3 steps."""

    default_params = Params()

    def __init__(self, action=None, observation=None, shown=lambda x: x):
        self.action = spaces.Discrete(4) if action is None else action
        self.observation = observation or spaces.Box(0, 3, (1,), np.float32)
        self.shown = shown

    def reset_env(self, key, params):
        return self.shown(jnp.zeros(1)), State(jnp.int32(0), jnp.int32(0))

    def step_env(self, key, state, action, params):
        time = state.time + 1
        paid = 10.0 * time + sum(jnp.sum(a) for a in jax.tree.leaves(action))
        return self.shown(time[None].astype(float)), state.replace(time=time), paid, time >= 3, {}

    def is_truncated(self, state, params):
        return False

    def observation_space(self, params):
        return self.observation

    def action_space(self, params):
        return self.action


def stepped(env, actions):
    """Observations of one environment, the first and one after each action, with auto-resets."""
    vec_env = make_vec_env(env, Params(), 1)
    state, obs = vec_env.reset(jax.random.key(0), Params())
    step, seen, finals = jax.jit(vec_env.step), [obs], []
    for i, action in enumerate(actions):
        draws = vec_env.draw(jax.random.key(i), Params())
        action = jax.tree.map(lambda a: jnp.asarray(a)[None], action)
        state, after = step(draws, state, action, Params())
        seen.append(after.obs)
        finals.append(after.final_obs)
    return jax.tree.map(lambda x: np.asarray(x[0]), (seen, finals))


def test_both_are_shown_and_zero_where_an_episode_begins():
    seen, finals = stepped(LastActionReward(Countdown()), [3, 0, 2, 1])
    first, second, third, fresh, again = seen
    for start in (first, fresh):  # the third step ends the episode
        np.testing.assert_array_equal(start["last_action"], [False] * 4)
        assert (start["last_reward"], start["observation"]) == (0, 0)
    np.testing.assert_array_equal(second["last_action"], [0, 0, 0, 1])
    np.testing.assert_array_equal(third["last_action"], [1, 0, 0, 0])
    np.testing.assert_array_equal(again["last_action"], [0, 1, 0, 0])
    assert [float(o["last_reward"]) for o in (second, third, again)] == [13, 20, 11]
    # what the ending action led to is kept, with what it was and paid
    np.testing.assert_array_equal(finals[2]["last_action"], [0, 0, 1, 0])
    assert (finals[2]["last_reward"], finals[2]["observation"]) == (32, 3)


@pytest.mark.slow
def test_actions_of_several_parts_are_shown_as_the_environment_takes_them():
    action = spaces.Dict(
        push=spaces.Box(-1, 1, (2,), np.float32),
        keys=spaces.MultiBinary(2),
        gears=spaces.MultiDiscrete([2, 3]),
    )
    env = LastActionReward(Countdown(action))
    given = {
        "push": np.float32([0.25, 5]), "keys": np.int8([1, 0]), "gears": np.int32([1, 2])
    }  # fmt: skip
    shown = stepped(env, [given])[0][1]["last_action"]
    np.testing.assert_array_equal(shown["push"], [0.25, 1])  # within its bounds
    np.testing.assert_array_equal(shown["keys"], [1, 0])
    np.testing.assert_array_equal(shown["gears"], [0, 1, 0, 0, 1])
    spec = check_env(env, num_steps=5)
    assert {n: str(s.dtype) for n, s in spec.observation["last_action"].items()} == {
        "push": "float32", "keys": "int8", "gears": "bool"
    }  # fmt: skip


MASKED = spaces.Dict(action_mask=spaces.MultiBinary(4), time=spaces.Box(0, 3, (1,), np.float32))


def masked(time):
    """Forbids all actions but the third."""
    return {"action_mask": jnp.int8([0, 0, 1, 0]), "time": time}


@pytest.mark.slow
def test_a_mask_stays_where_policies_find_it():
    env = LastActionReward(Countdown(observation=MASKED, shown=masked))
    spec = check_env(env, num_steps=4)
    assert spec.observation.keys() == {"action_mask", "time", "last_action", "last_reward"}
    config = PPOConfig(num_envs=2, num_steps=4, total_timesteps=8, num_minibatches=1)
    output = jax.jit(make_train(config, env=env))(jax.random.key(0))
    obs = jax.device_get(output.state.obs)  # after 4 steps: one of the second episode
    np.testing.assert_array_equal(obs["last_action"], [[0, 0, 1, 0]] * 2)
    np.testing.assert_array_equal(obs["last_reward"], [12, 12])


def test_rewards_are_those_of_what_is_inside():
    inner = LastActionReward(ScaleReward(Countdown(), 0.1))
    outer = ScaleReward(LastActionReward(Countdown()), 0.1)
    assert stepped(inner, [0])[0][1]["last_reward"] == pytest.approx(1)
    assert stepped(outer, [0])[0][1]["last_reward"] == 10


@pytest.mark.slow
def test_statistics_leave_bits_alone_and_count_rewards():
    config = PPOConfig(
        num_envs=2, num_steps=6, total_timesteps=12, num_minibatches=1, normalize_observations=True
    )
    env = LastActionReward(TimeLimit(EpisodeStatistics(Countdown()), 3))
    stats = jax.jit(make_train(config, env=env))(jax.random.key(0)).state.normalizers.obs
    assert stats["last_action"] is None
    assert stats["last_reward"].count == stats["observation"].count == 12


def test_a_name_that_is_taken_is_refused():
    env = LastActionReward(Countdown())
    with pytest.raises(ConfigError, match="a part 'last_action' already: leave LastActionReward"):
        LastActionReward(env)


class HiddenArm:
    """Two arms for 8 steps: one pays 1 and one 0, drawn anew for each episode; shows nothing."""

    default_params = Params()

    def reset_env(self, key, params):
        best = jax.random.bernoulli(key).astype(jnp.int32)
        return jnp.zeros(1), State(jnp.int32(0), best)

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1)
        reward = (action == state.best).astype(jnp.float32)
        return jnp.zeros(1), state, reward, state.time >= 8, {}

    def is_truncated(self, state, params):
        return False

    def observation_space(self, params):
        return spaces.Box(0, 1, (1,), np.float32)

    def action_space(self, params):
        return spaces.Discrete(2)


@pytest.mark.slow
def test_a_memory_learns_to_learn_from_what_it_did_and_got():
    """A first guess pays 1/2, all after it can be right: 7.5 of 8; blind, any policy gets 4."""
    config = PPOConfig(
        num_envs=32, num_steps=16, total_timesteps=512 * 120, num_minibatches=2, core="gru",
        core_size=16, hidden_sizes=(16,), learning_rate=5e-3,
    )  # fmt: skip

    def final_return(env):
        metrics = jax.jit(make_train(config, env=env))(jax.random.key(0)).metrics
        return float(metrics.return_sum[-20:].sum() / metrics.episodes[-20:].sum())

    blind = final_return(HiddenArm())  # of 1,280 episodes: a standard error of 0.04 at most
    assert abs(blind - 4) < 0.5
    assert final_return(LastActionReward(HiddenArm())) > 7.2
