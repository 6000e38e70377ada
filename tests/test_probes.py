"""Training finds the known values and actions of the probe environments."""

import jax
import numpy as np
import pytest
from support.probes import (
    Aim,
    Choice,
    Constant,
    Delayed,
    Endless,
    Later,
    Marked,
    Match,
    Seen,
)

from purejaxppo import ADVANTAGES, OBJECTIVES, PPOConfig, make_train
from purejaxppo.components import make_components
from purejaxppo.ppo.value_losses import VALUE_LOSSES

GAMMA = 0.9
# 3,072 steps in 24 updates of 16 gradient steps
SMALL = PPOConfig(
    num_envs=8, num_steps=16, total_timesteps=3072, hidden_sizes=(16,), learning_rate=1e-2,
    gamma=GAMMA,
)  # fmt: skip


def trained(env, *xs, **changes):
    """`(value, distribution)` at each x after training on a probe."""
    config = SMALL.replace(**changes)
    train, policy = make_train(config, env=env), make_components(config, env=env).policy
    obs = np.array(xs, np.float32)[:, None]

    @jax.jit
    def run(key):
        out = train(key)
        _, dist, value = policy.apply(out.state.params, (), obs, np.ones(len(xs), bool))
        return value, dist, out.metrics.skipped_steps

    value, dist, skipped = jax.tree.map(np.asarray, run(jax.random.key(0)))
    assert not skipped.any()
    return value, dist


def chance_of_one(dist):
    """P(action 1), from two logits."""
    return 1 / (1 + np.exp(dist.logits[:, 0] - dist.logits[:, 1]))


def test_constant_reward():
    """One terminating step that pays 1 is worth 1: nothing is bootstrapped."""
    value, _ = trained(Constant(), 1)
    np.testing.assert_allclose(value, 1.0, atol=0.02)


@pytest.mark.parametrize("value_loss", VALUE_LOSSES)
def test_reward_seen_in_the_observation(value_loss):
    value, _ = trained(Seen(), -1, 1, value_loss=value_loss)
    np.testing.assert_allclose(value, [-1.0, 1.0], atol=0.05)


def test_reward_one_step_later():
    value, _ = trained(Later(), 0, 1)
    np.testing.assert_allclose(value, [GAMMA, 1.0], atol=0.03)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_reward_depends_on_the_action(objective):
    # a light penalty: with the usual one the policy would still be on its way
    penalty = dict(kl_coef=0.1) if "kl" in objective else {}
    value, dist = trained(Choice(), 1, objective=objective, **penalty)
    assert chance_of_one(dist) > 0.95
    np.testing.assert_allclose(value, 1.0, atol=0.1)


def test_reward_depends_on_action_and_observation():
    value, dist = trained(Match(), -1, 1)
    p = chance_of_one(dist)
    assert p[0] < 0.05 and p[1] > 0.95
    np.testing.assert_allclose(value, 1.0, atol=0.1)


@pytest.mark.parametrize("changes", [{}, dict(normalize_rewards=True), dict(shared_torso=True)])
def test_continuous_action(changes):
    _, dist = trained(Aim(), 1, **changes)
    np.testing.assert_allclose(dist.mean, [[0.5]], atol=0.1)
    assert np.exp(dist.log_std[0, 0]) < 0.9  # from 1: spread costs


NEEDED = {"n_step": dict(n_step=3), "vtrace": dict(recompute_advantages=True)}
"""What an estimator has no effect without."""


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_credit_for_a_reward_one_step_after_the_action(advantage):
    value, dist = trained(Delayed(), 0, -1, 1, advantage=advantage, **NEEDED.get(advantage, {}))
    assert chance_of_one(dist)[0] > 0.95
    np.testing.assert_allclose(value[[0, 2]], [GAMMA, 1.0], atol=0.1)


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_a_time_limit_is_not_an_end(advantage):
    """V(1) = 1 / (1 - gamma) = 10 although no episode is longer than 5; V(-1) = -9 + 9 = 0.

    Taken for terminations, the cuts would leave V(1) below 1 + .9 + .81 + .729 = 3.4; continued
    from the next episode's first observation they would make it negative.
    """
    env = Marked(max_steps_in_episode=5)
    needed = NEEDED.get(advantage, {})
    value, _ = trained(env, -1, 1, advantage=advantage, total_timesteps=6144, **needed)
    np.testing.assert_allclose(value, [0.0, 10.0], atol=0.5)


def test_an_endless_task_is_worth_the_sum_of_its_discounts():
    value, _ = trained(Endless(max_steps_in_episode=5), 1, total_timesteps=6144)
    np.testing.assert_allclose(value, 1 / (1 - GAMMA), atol=0.3)
