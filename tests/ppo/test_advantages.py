"""Advantage estimators against numbers worked by hand, naive sums and published identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.config.schema import PPOConfig
from purejaxppo.ppo.advantages import (
    ADVANTAGES,
    gae,
    monte_carlo,
    n_step,
    reward_to_go,
    td,
    vtrace,
)
from purejaxppo.types import Rollout

GAMMA, LAMBDA, N_STEP = 0.9, 0.8, 3
RHO, C = 1.2, 0.7


def make_rollout(reward, value, next_value, terminated, truncated) -> Rollout:
    """A rollout [T, N] of which only what an estimator may read is filled in."""
    reward, value, next_value = (jnp.asarray(x, jnp.float32) for x in (reward, value, next_value))
    terminated, truncated = (jnp.asarray(x, bool) for x in (terminated, truncated))
    none = jnp.full(reward.shape, jnp.nan)
    return Rollout(
        obs=none,
        action=none,
        log_prob=none,
        dist=(),
        value=value,
        next_value=next_value,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        episode_start=jnp.zeros(reward.shape, bool),
        carry=(),
        episode_return=none,
        episode_length=jnp.zeros(reward.shape, jnp.int32),
    )


def random_rollout(seed: int, steps: int = 12, envs: int = 5, coherent: bool = False) -> Rollout:
    """Random numbers with every boundary in it; `coherent`: V'_t = V_{t+1} within an episode."""
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, steps, envs))
    kind = rng.integers(0, 5, size=(steps, envs))
    # one environment of each: a boundary in the middle, each boundary in the last row, none at all
    kind[:, 0] = 2
    kind[4, 0], kind[7, 0] = 0, 1
    kind[-1, 1], kind[-1, 2], kind[-1, 3] = 0, 1, 2
    kind[:, 4] = 2
    terminated, truncated = kind == 0, kind == 1
    if coherent:
        going_on = ~(terminated | truncated)[:-1]
        next_value[:-1][going_on] = value[1:][going_on]
    return make_rollout(reward, value, next_value, terminated, truncated)


def columns(rollout: Rollout):
    """Each environment: float64 reward, value, next_value, and terminated, truncated."""
    names = ("reward", "value", "next_value", "terminated", "truncated")
    arrays = [np.asarray(getattr(rollout, name)) for name in names]
    arrays = [a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays]
    for env in range(arrays[0].shape[1]):
        yield [a[:, env] for a in arrays]


def naive_return(rollout: Rollout, gamma: float, rewards: int | None = None) -> np.ndarray:
    """Rewards added up forwards from each step, at most `rewards` of them, then V'."""
    result = []
    for reward, _, next_value, terminated, truncated in columns(rollout):
        steps = len(reward)
        for t in range(steps):
            total, k = 0.0, t
            while True:
                total += gamma ** (k - t) * reward[k]
                if terminated[k]:
                    break
                if truncated[k] or k == steps - 1 or k - t + 1 == rewards:
                    total += gamma ** (k - t + 1) * next_value[k]
                    break
                k += 1
            result.append(total)
    return np.array(result).reshape(-1, rollout.reward.shape[0]).T


def naive_gae(rollout: Rollout, gamma: float, lam: float) -> np.ndarray:
    """sum_k (gamma lambda)^k delta_{t+k}, up to and with the first boundary."""
    result = []
    for reward, value, next_value, terminated, truncated in columns(rollout):
        steps = len(reward)
        for t in range(steps):
            total = 0.0
            for k in range(t, steps):
                future = 0.0 if terminated[k] else gamma * next_value[k]
                total += (gamma * lam) ** (k - t) * (reward[k] + future - value[k])
                if terminated[k] or truncated[k]:
                    break
            result.append(total)
    return np.array(result).reshape(-1, rollout.reward.shape[0]).T


def with_ratios(rollout: Rollout, seed: int = 0) -> Rollout:
    """Ratios on both sides of 1, and of what they are cut off at."""
    ratio = np.random.default_rng(seed).lognormal(0.0, 0.7, size=rollout.reward.shape)
    return rollout.replace(ratio=jnp.asarray(ratio, jnp.float32))


def naive_vtrace(rollout: Rollout, gamma: float, lam: float, rho_bar: float, c_bar: float):
    """Sums and products of eq. 1 as they stand, with lambda in c (remark 2); (advantage, target).

    v_s = V_s + sum_t gamma^(t - s) (prod_{i < t} c_i) rho_t delta_t, up to the first boundary. The
    advantage is rho_s (r_s + gamma v'_{s+1} - V_s), with v' = lambda v + (1 - lambda) V as in rlax.
    """
    ratios = np.ones(rollout.reward.shape) if rollout.ratio is None else rollout.ratio
    advantages, targets = [], []
    for env, (reward, value, next_value, terminated, truncated) in enumerate(columns(rollout)):
        ratio = np.asarray(ratios, np.float64)[:, env]
        rho, c = np.minimum(rho_bar, ratio), lam * np.minimum(c_bar, ratio)
        steps, done = len(reward), terminated | truncated
        after = np.where(terminated, 0.0, next_value)
        target = np.zeros(steps)
        for s in range(steps):
            target[s] = value[s]
            for t in range(s, steps):
                delta = rho[t] * (reward[t] + gamma * after[t] - value[t])
                target[s] += gamma ** (t - s) * np.prod(c[s:t]) * delta
                if done[t]:
                    break
        # the correction of the next value, where the episode goes on
        corrected = after.copy()
        going_on = ~done[:-1]
        corrected[:-1][going_on] += lam * (target[1:] - value[1:])[going_on]
        advantages.append(rho * (reward + gamma * corrected - value))
        targets.append(target)
    return np.array(advantages).T, np.array(targets).T


def _minus_value(returns):
    return lambda rollout: (returns(rollout) - np.asarray(rollout.value), returns(rollout))


def _naive_gae_estimate(rollout):
    advantage = naive_gae(rollout, GAMMA, LAMBDA)
    return advantage, advantage + np.asarray(rollout.value)


NAIVE = {
    "gae": _naive_gae_estimate,
    "n_step": _minus_value(lambda rollout: naive_return(rollout, GAMMA, N_STEP)),
    "monte_carlo": _minus_value(lambda rollout: naive_return(rollout, GAMMA)),
    "td": _minus_value(lambda rollout: naive_return(rollout, GAMMA, 1)),
    "none": lambda rollout: (naive_return(rollout, GAMMA), naive_return(rollout, GAMMA)),
    "vtrace": lambda rollout: naive_vtrace(rollout, GAMMA, LAMBDA, RHO, C),
}
"""(advantage, target) by the definition; a new estimator needs its definition here."""


def estimator(name: str):
    """The registered function of (rollout, hyperparams), with its static options chosen."""
    options = {
        "gae": {"gae_lambda": LAMBDA},
        "n_step": {"n_step": N_STEP},
        "vtrace": dict(
            gae_lambda=LAMBDA, vtrace_rho=RHO, vtrace_c=C, recompute_advantages=True
        ),
    }.get(name, {})  # fmt: skip
    config = PPOConfig(advantage=name, gamma=GAMMA, **options)
    hyper = config.hyperparams()
    return (lambda rollout, hyper: ADVANTAGES[name](rollout, hyper, config)), hyper


every_estimator = pytest.mark.parametrize("name", ADVANTAGES)


# -- numbers worked by hand -------------------------------------------------------------------

# gamma = lambda = 1/2; terminated at 1 (its V' of 99 counts for nothing), truncated at 3, end at 5
HAND = make_rollout(
    reward=[[1], [2], [3], [4], [5], [6]],
    value=[[10], [20], [30], [40], [50], [60]],
    next_value=[[20], [99], [40], [8], [60], [16]],
    terminated=[[0], [1], [0], [0], [0], [0]],
    truncated=[[0], [0], [0], [1], [0], [0]],
)
# delta: 1 + 10 - 10, 2 - 20, 3 + 20 - 30, 4 + 4 - 40, 5 + 30 - 50, 6 + 8 - 60
BY_HAND = {
    "td": (td, (), [1, -18, -7, -32, -15, -46], [11, 2, 23, 8, 35, 14]),
    "gae": (gae, (0.5,), [-3.5, -18, -15, -32, -26.5, -46], [6.5, 2, 15, 8, 23.5, 14]),
    "n_step": (n_step, (2,), [-8, -18, -23, -32, -38, -46], [2, 2, 7, 8, 12, 14]),
    "monte_carlo": (monte_carlo, (), [-8, -18, -23, -32, -38, -46], [2, 2, 7, 8, 12, 14]),
    "none": (reward_to_go, (), [2, 2, 7, 8, 12, 14], [2, 2, 7, 8, 12, 14]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_worked_by_hand(name, variant):
    function, arguments, advantage, target = BY_HAND[name]
    estimate = variant(lambda rollout: function(rollout, 0.5, *arguments))(HAND)
    np.testing.assert_array_equal(estimate.advantage[:, 0], advantage)
    np.testing.assert_array_equal(estimate.target[:, 0], target)


def test_two_step_return_worked_by_hand():
    rollout = make_rollout(
        reward=[[8], [4], [2], [1]],
        value=[[0], [1], [2], [3]],
        next_value=[[100], [16], [24], [32]],
        terminated=np.zeros((4, 1)),
        truncated=np.zeros((4, 1)),
    )
    # 8 + 4/2 + 16/4, 4 + 2/2 + 24/4, 2 + 1/2 + 32/4, 1 + 32/2
    estimate = n_step(rollout, 0.5, 2)
    np.testing.assert_array_equal(estimate.target[:, 0], [14, 11, 10.5, 17])
    np.testing.assert_array_equal(estimate.advantage[:, 0], [14, 10, 8.5, 14])


# -- every estimator of the registry ----------------------------------------------------------


@every_estimator
def test_agrees_with_the_naive_definition(name, variant):
    function, hyper = estimator(name)
    for seed in range(3):
        rollout = with_ratios(random_rollout(seed), seed)
        got = variant(function)(rollout, hyper)
        advantage, target = NAIVE[name](rollout)
        np.testing.assert_allclose(got.advantage, advantage, rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(got.target, target, rtol=1e-5, atol=2e-6)


@every_estimator
@pytest.mark.parametrize("boundary", ["terminated", "truncated"])
def test_nothing_crosses_a_boundary(name, boundary):
    """Other rewards and values on one side leave the estimates of the other side as they were."""
    function, hyper = estimator(name)
    rollout = random_rollout(0)
    over = np.zeros(rollout.reward.shape, bool)
    over[6] = True
    rollout = rollout.replace(
        terminated=over if boundary == "terminated" else jnp.zeros_like(rollout.terminated),
        truncated=over if boundary == "truncated" else jnp.zeros_like(rollout.truncated),
    )
    rest = {"reward": 100.0, "value": 30.0, "next_value": 50.0}
    before = function(rollout, hyper)
    for part, other in ((slice(7, None), slice(0, 7)), (slice(0, 7), slice(7, None))):
        changed = rollout.replace(
            **{k: getattr(rollout, k).at[part].add(v) for k, v in rest.items()}
        )
        after = function(changed, hyper)
        for field in ("advantage", "target"):
            old, new = getattr(before, field), getattr(after, field)
            np.testing.assert_array_equal(new[other], old[other])
            assert np.all(np.asarray(new[part]) != np.asarray(old[part]))


@every_estimator
def test_truncation_is_not_termination(name):
    """At the boundary they differ by just what the final observation is worth: gamma V'."""
    function, hyper = estimator(name)
    rollout = random_rollout(1)
    here, never = np.zeros(rollout.reward.shape, bool), np.zeros(rollout.reward.shape, bool)
    here[5] = True
    truncated = function(rollout.replace(terminated=never, truncated=here), hyper)
    terminated = function(rollout.replace(terminated=here, truncated=never), hyper)
    worth = GAMMA * np.asarray(rollout.next_value[5])
    for field in ("advantage", "target"):
        difference = np.asarray(getattr(truncated, field) - getattr(terminated, field))
        np.testing.assert_allclose(difference[5], worth, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(difference[6:], 0.0)


@every_estimator
def test_what_follows_a_termination_is_worth_nothing(name):
    """Not even NaN, which a critic may well say of a state that cannot be."""
    function, hyper = estimator(name)
    rollout = random_rollout(2)
    assert rollout.terminated.any()
    nonsense = rollout.replace(
        next_value=jnp.where(rollout.terminated, jnp.nan, rollout.next_value)
    )
    expected, got = function(rollout, hyper), function(nonsense, hyper)
    np.testing.assert_array_equal(got.advantage, expected.advantage)
    np.testing.assert_array_equal(got.target, expected.target)


@every_estimator
def test_environments_do_not_mix(name):
    function, hyper = estimator(name)
    rollout = random_rollout(3)
    whole = function(rollout, hyper)
    for env in range(rollout.reward.shape[1]):
        alone = function(jax.tree.map(lambda x, env=env: x[:, env : env + 1], rollout), hyper)
        for one, all_of_them in zip(alone, whole, strict=True):
            np.testing.assert_allclose(one[:, 0], all_of_them[:, env], rtol=1e-6, atol=1e-6)


@every_estimator
def test_one_step_rollout(name):
    """T = 1: every estimator sees one reward and one bootstrap."""
    function, hyper = estimator(name)
    rollout = make_rollout([[1, 1, 1]], [[5, 5, 5]], [[2, 2, 2]], [[0, 1, 0]], [[0, 0, 1]])
    got = function(rollout, hyper)
    returns = np.array([[1 + 2 * GAMMA, 1, 1 + 2 * GAMMA]])
    np.testing.assert_allclose(got.target, returns, rtol=1e-6)
    np.testing.assert_allclose(got.advantage, returns - (0 if name == "none" else 5), rtol=1e-6)


# -- identities -------------------------------------------------------------------------------


def assert_same(a, b):
    np.testing.assert_allclose(a.advantage, b.advantage, rtol=1e-5, atol=3e-6)
    np.testing.assert_allclose(a.target, b.target, rtol=1e-5, atol=3e-6)


def test_lambda_zero_is_temporal_difference():
    rollout = random_rollout(4)
    assert_same(gae(rollout, GAMMA, 0.0), td(rollout, GAMMA))


def test_lambda_one_is_monte_carlo():
    """The values between telescope away, if each next value is the value of the next row."""
    rollout = random_rollout(5, coherent=True)
    assert_same(gae(rollout, GAMMA, 1.0), monte_carlo(rollout, GAMMA))


def test_one_step_is_temporal_difference():
    rollout = random_rollout(6)
    assert_same(n_step(rollout, GAMMA, 1), td(rollout, GAMMA))


@pytest.mark.parametrize("n", [12, 13, 1000])
def test_as_many_steps_as_there_are_is_monte_carlo(n):
    rollout = random_rollout(7)
    assert_same(n_step(rollout, GAMMA, n), monte_carlo(rollout, GAMMA))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 11, 12, 20])
def test_every_number_of_steps(n):
    rollout = random_rollout(8)
    expected = naive_return(rollout, GAMMA, n)
    np.testing.assert_allclose(n_step(rollout, GAMMA, n).target, expected, rtol=1e-5, atol=2e-6)


def test_reward_to_go_is_monte_carlo_without_its_baseline():
    rollout = random_rollout(9)
    plain, with_baseline = reward_to_go(rollout, GAMMA), monte_carlo(rollout, GAMMA)
    expected = np.asarray(with_baseline.advantage) + np.asarray(rollout.value)
    np.testing.assert_allclose(plain.advantage, expected, rtol=1e-5, atol=3e-6)
    np.testing.assert_array_equal(plain.target, with_baseline.target)


def test_gae_is_the_exponential_average_of_n_step_advantages():
    """(1 - lambda) sum_n lambda^(n-1) A^(n), the last weight taking what is left (eq. 16)."""
    steps = 8
    rollout = random_rollout(10, steps=steps, coherent=True)
    average = LAMBDA**steps * np.asarray(n_step(rollout, GAMMA, steps).advantage)
    for n in range(1, steps + 1):
        weight = (1 - LAMBDA) * LAMBDA ** (n - 1)
        average += weight * np.asarray(n_step(rollout, GAMMA, n).advantage)
    np.testing.assert_allclose(gae(rollout, GAMMA, LAMBDA).advantage, average, rtol=1e-4, atol=1e-5)


def test_the_trace_decays_by_gamma_times_lambda():
    """One reward at the end, a critic that says 0: A_t = (gamma lambda)^(T - 1 - t)."""
    zeros = np.zeros((6, 1))
    reward = zeros.copy()
    reward[-1] = 1.0
    rollout = make_rollout(reward, zeros, zeros, zeros, zeros)
    expected = [0.72**k for k in range(5, -1, -1)]
    np.testing.assert_allclose(gae(rollout, 0.9, 0.8).advantage[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(
        monte_carlo(rollout, 0.9).advantage[:, 0], [0.9**k for k in range(5, -1, -1)], rtol=1e-6
    )


def test_a_perfect_critic_leaves_no_advantage():
    """Constant reward 1 for ever: V = 1 / (1 - gamma), also across a truncation."""
    worth = np.full((7, 2), 1 / (1 - GAMMA))
    truncated = np.zeros((7, 2), bool)
    truncated[3, 0] = True
    rollout = make_rollout(np.ones((7, 2)), worth, worth, np.zeros((7, 2)), truncated)
    for estimate in (
        td(rollout, GAMMA),
        gae(rollout, GAMMA, 0.7),
        n_step(rollout, GAMMA, 3),
        monte_carlo(rollout, GAMMA),
    ):
        np.testing.assert_allclose(estimate.advantage, 0.0, atol=1e-5)


@every_estimator
def test_gamma_and_lambda_are_traced(name):
    """One compilation serves a sweep, and each row is what it would be alone."""
    function, hyper = estimator(name)
    rollout = random_rollout(11)
    gammas, lambdas = jnp.array([0.0, 0.5, 1.0]), jnp.array([0.0, 0.9, 1.0])
    swept = jax.vmap(
        lambda g, lam: function(rollout, hyper.replace(gamma=g, gae_lambda=lam)).advantage
    )(gammas, lambdas)
    for row, (g, lam) in enumerate(zip(gammas.tolist(), lambdas.tolist(), strict=True)):
        alone = function(rollout, hyper.replace(gamma=g, gae_lambda=lam)).advantage
        np.testing.assert_allclose(swept[row], alone, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(swept[0] - swept[1])).max() > 0.1


# -- V-trace ----------------------------------------------------------------------------------


def test_vtrace_worked_by_hand():
    """gamma = lambda = 1/2, and HAND's differences: 1, -18, -7, -32, -15, -46."""
    ratio = jnp.array([[2.0], [1], [0.5], [4], [3], [0.25]])
    advantage, target = vtrace(HAND.replace(ratio=ratio), 0.5, 0.5, 2.0, 1.0)
    # rho: 2 1 .5 2 2 .25; c: .5 .5 .25 .5 .5 .125. From each end, v - V:
    # -11.5; 2 (-15) - 11.5 / 4 = -32.875 | -64; -3.5 - 64 / 8 = -11.5 | -18; 2 - 18 / 4 = -2.5
    beyond = np.array([[-2.5], [-18], [-11.5], [-64], [-32.875], [-11.5]])
    np.testing.assert_array_equal(target, beyond + HAND.value)
    # 2 (1 - 18 / 4), -18, (-7 - 64 / 4) / 2, 2 (-32), 2 (-15 - 11.5 / 4), -46 / 4
    np.testing.assert_array_equal(advantage[:, 0], [-7, -18, -11.5, -64, -35.75, -11.5])


@pytest.mark.parametrize("lam", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("bounds", [(1.0, 1.0), (3.0, 1.5)])
@pytest.mark.parametrize("ones", [True, False])
def test_with_ratios_of_one_vtrace_is_gae(lam, bounds, ones):
    """Advantages and targets: remark 1 has n-step returns of the rollout's policy for lambda 1."""
    rollout = random_rollout(3)
    ratio = jnp.ones(rollout.reward.shape) if ones else None
    got = vtrace(rollout.replace(ratio=ratio), GAMMA, lam, *bounds)
    assert_same(got, gae(rollout, GAMMA, lam))


def test_without_bounds_vtrace_weighs_returns_by_their_importance():
    """lambda 1: v_s is sum_t gamma^(t-s) (prod_{i=s..t} ratio_i) delta_t + V_s, by hand.

    For one episode of three steps that terminates, with V = 0 that is the return of which each
    reward is weighed by the ratios of all actions up to its own.
    """
    zero = [[0.0]] * 3
    rollout = make_rollout([[3.0], [5.0], [7.0]], zero, zero, [[0], [0], [1]], [[0]] * 3)
    ratio = [2.0, 0.5, 4.0]
    rollout = rollout.replace(ratio=jnp.array(ratio)[:, None])
    got = vtrace(rollout, 0.5, 1.0, jnp.inf, jnp.inf)
    expected = [
        2 * 3 + 0.5 * (2 * 0.5) * 5 + 0.25 * (2 * 0.5 * 4) * 7,
        0.5 * 5 + 0.5 * (0.5 * 4) * 7,
        4 * 7,
    ]
    np.testing.assert_allclose(got.target[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(got.advantage[:, 0], expected, rtol=1e-6)


def test_with_equal_bounds_the_advantage_is_what_the_target_adds_to_the_value():
    rollout = with_ratios(random_rollout(5))
    got = vtrace(rollout, GAMMA, LAMBDA, 1.0, 1.0)
    beyond = np.asarray(got.target) - np.asarray(rollout.value)
    np.testing.assert_allclose(got.advantage, beyond, rtol=1e-5, atol=3e-6)


@pytest.mark.slow
def test_vtrace_is_rlaxs():
    """Of one long episode: rlax knows no boundary within a rollout but a discount of 0."""
    rlax = pytest.importorskip("rlax")
    rollout = with_ratios(random_rollout(6, coherent=True))
    rollout = rollout.replace(truncated=jnp.zeros_like(rollout.truncated))
    rollout = rollout.replace(
        next_value=rollout.next_value.at[:-1].set(rollout.value[1:])
    )  # fmt: skip
    got = vtrace(rollout, GAMMA, LAMBDA, 1.5, 1.0)
    for env in range(rollout.reward.shape[1]):
        one = jax.tree.map(lambda x, env=env: x[:, env], rollout)
        discount = GAMMA * (1.0 - one.terminated)
        theirs = rlax.vtrace_td_error_and_advantage(
            one.value, one.next_value, one.reward, discount, one.ratio, LAMBDA, 1.5, 1.5
        )
        close = dict(rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.advantage[:, env], theirs.pg_advantage, **close)
        np.testing.assert_allclose(got.target[:, env] - one.value, theirs.errors, **close)


def test_bounds_of_vtrace_are_traced():
    function, hyper = estimator("vtrace")
    rollout, bounds = with_ratios(random_rollout(8)), jnp.array([0.5, 1.0, 3.0])
    swept = jax.vmap(
        lambda rho, c: function(rollout, hyper.replace(vtrace_rho=rho, vtrace_c=c))
    )(bounds, bounds[::-1])  # fmt: skip
    for row, (rho, c) in enumerate(zip([0.5, 1, 3], [3, 1, 0.5], strict=True)):
        advantage, target = naive_vtrace(rollout, GAMMA, LAMBDA, rho, c)
        np.testing.assert_allclose(swept.advantage[row], advantage, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(swept.target[row], target, rtol=1e-4, atol=1e-5)
