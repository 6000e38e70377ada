"""Advantage estimators, one function per equation, and the registry `ADVANTAGES`.

All read a `Rollout` [T, N] and keep three boundaries apart. With $V'_t$ = next_value, the value of
the observation that the action led to (before any reset), and $d_t$ = terminated or truncated:

    terminated        the continuation is worth 0
    truncated         the continuation is worth V', and no later reward is counted
    end of rollout    the continuation is worth V'

Where advantages are computed again (`recompute_advantages`), V and V' are those of the critic that
is trained. The actions remain those of the rollout's policy: `vtrace` alone weighs them by the
ratios of the policy that is trained to it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo import tuning
from purejaxppo.assertions import chex
from purejaxppo.hyperparams import Scalar
from purejaxppo.types import Estimate, Estimator, PyTree, Rollout


def _done(rollout: Rollout) -> Array:
    return rollout.terminated | rollout.truncated


def _one_step_return(rollout: Rollout, gamma: Scalar) -> Array:
    r"""Computes $r_t + \gamma (1 - terminated_t) V'_t$, [T, N]."""
    chex.assert_rank(rollout.reward, 2)
    chex.assert_equal_shape([rollout.reward, rollout.value, rollout.next_value])
    return rollout.reward + gamma * jnp.where(rollout.terminated, 0.0, rollout.next_value)


def td(rollout: Rollout, gamma: Scalar) -> Estimate:
    r"""Computes one-step temporal differences, $A_t = r_t + \gamma (1 - terminated_t) V'_t - V_t$.

    Args:
        rollout: [T, N].
        gamma: discount.

    Returns:
        Advantages and the one-step return as target.

    Reference: Sutton and Barto 2018, eq. 6.5.
    """
    target = _one_step_return(rollout, gamma)
    return Estimate(target - rollout.value, target)


def gae(rollout: Rollout, gamma: Scalar, gae_lambda: Scalar) -> Estimate:
    r"""Computes generalized advantages, $A_t = \delta_t + \gamma \lambda (1 - d_t) A_{t+1}$.

    $\delta_t$ is the one-step temporal difference (`td`); $A_T = 0$.

    Args:
        rollout: [T, N].
        gamma: discount.
        gae_lambda: decay; 0 gives `td`, 1 gives `monte_carlo`.

    Returns:
        Advantages, and A_t + V_t as target.

    Reference: arXiv:1506.02438, eq. 16.
    """
    delta = td(rollout, gamma).advantage

    def step(later, inputs):
        delta, done = inputs
        advantage = delta + gamma * gae_lambda * jnp.where(done, 0.0, later)
        return advantage, advantage

    advantage = _backwards(step, jnp.zeros_like(delta[0]), (delta, _done(rollout)))
    return Estimate(advantage, advantage + rollout.value)


def vtrace(
    rollout: Rollout, gamma: Scalar, gae_lambda: Scalar, rho_bar: Scalar, c_bar: Scalar
) -> Estimate:
    r"""Computes V-trace, generalized advantages of a policy other than that of the rollout.

    With $\rho_t = \min(\bar\rho, ratio_t)$, $c_t = \lambda \min(\bar c, ratio_t)$ and the one-step
    temporal difference $\delta_t$ (`td`):

    $v_t = V_t + \rho_t \delta_t + \gamma c_t (1 - d_t) (v_{t+1} - V_{t+1})$

    $A_t = \rho_t (\delta_t + \gamma \lambda (1 - d_t) (v_{t+1} - V_{t+1}))$

    As in rlax, where $\lambda$ is in the advantage too: with ratios of 1, and neither bound below
    it, advantages and targets are those of `gae`. With equal bounds $A_t = v_t - V_t$. The ratio
    of an objective is another factor, as in PufferLib.

    Args:
        rollout: [T, N], with its ratios.
        gamma: discount.
        gae_lambda: decay; 1 gives the targets of the paper's definition.
        rho_bar: bound of the ratios that weigh differences: what the critic converges to.
        c_bar: bound of the ratios that weigh later differences: how fast it does.

    Returns:
        Advantages, and v_t as target.

    Reference: arXiv:1802.01561, eq. 1, remark 2 and section 4.2.
    """
    ratio = jnp.float32(1) if rollout.ratio is None else rollout.ratio
    delta = td(rollout, gamma).advantage
    cut = [jnp.broadcast_to(jnp.minimum(ratio, bar), delta.shape) for bar in (rho_bar, c_bar)]

    def step(later, inputs):
        delta, done, rho, c = inputs
        trace = gamma * gae_lambda * jnp.where(done, 0.0, later)
        beyond_value = rho * delta + c * trace  # v_t - V_t
        return beyond_value, (rho * (delta + trace), beyond_value)

    inputs = (delta, _done(rollout), *cut)
    advantage, beyond_value = _backwards(step, jnp.zeros_like(delta[0]), inputs)
    return Estimate(advantage, beyond_value + rollout.value)


def n_step(rollout: Rollout, gamma: Scalar, n: int) -> Estimate:
    r"""Computes n-step returns minus values, $A_t = r_t + ... + \gamma^n V'_{t+n-1} - V_t$.

    The sum stops early at a boundary. Computed as n applications of the one-step backup
    $G^k_t = r_t + \gamma G^{k-1}_{t+1}$, with $G^1$ the one-step return.

    Args:
        rollout: [T, N].
        gamma: discount.
        n: number of rewards; 1 gives `td`, T or more gives `monte_carlo`.

    Returns:
        Advantages and the n-step return as target.

    Reference: arXiv:1602.01783, section 4; Sutton and Barto 2018, eq. 7.1.
    """
    first = _one_step_return(rollout, gamma)
    last_row = jnp.zeros_like(rollout.truncated).at[-1].set(True)
    stop = _done(rollout) | last_row

    def backup(_, g):
        later = jnp.concatenate([g[1:], g[-1:]])
        return jnp.where(stop, first, rollout.reward + gamma * later)

    steps = min(n, rollout.reward.shape[0]) - 1
    target = jax.lax.fori_loop(0, steps, backup, first, unroll=tuning.unroll("returns"))
    return Estimate(target - rollout.value, target)


def _reward_to_go(rollout: Rollout, gamma: Scalar) -> Array:
    r"""Computes $G_t = r_t + \gamma G_{t+1}$, with V' for $G_{t+1}$ where an episode is cut."""

    def step(later, inputs):
        reward, done, next_value, terminated = inputs
        later = jnp.where(done, jnp.where(terminated, 0.0, next_value), later)
        g = reward + gamma * later
        return g, g

    inputs = (rollout.reward, _done(rollout), rollout.next_value, rollout.terminated)
    return _backwards(step, rollout.next_value[-1], inputs)


def _backwards(step: Callable, last: Array, inputs: PyTree) -> PyTree:
    """Applies a recursion from the end of a rollout to its start: what it gives, [T, N]."""
    unroll = tuning.unroll("returns")
    return jax.lax.scan(step, last, inputs, reverse=True, unroll=unroll)[1]


def monte_carlo(rollout: Rollout, gamma: Scalar) -> Estimate:
    r"""Computes discounted reward-to-go minus the value baseline, $A_t = G_t - V_t$.

    Args:
        rollout: [T, N].
        gamma: discount.

    Returns:
        Advantages, and G_t as target.

    Reference: Williams 1992; Sutton and Barto 2018, eq. 13.11.
    """
    g = _reward_to_go(rollout, gamma)
    return Estimate(g - rollout.value, g)


def reward_to_go(rollout: Rollout, gamma: Scalar) -> Estimate:
    r"""Computes discounted reward-to-go without a baseline, $A_t = G_t = \sum_k \gamma^k r_{t+k}$.

    The critic still learns G_t: its value continues the sum where a rollout cuts an episode.

    Args:
        rollout: [T, N].
        gamma: discount.

    Returns:
        G_t as advantage and as target.

    Reference: Williams 1992; Sutton and Barto 2018, eq. 13.8.
    """
    g = _reward_to_go(rollout, gamma)
    return Estimate(g, g)


ADVANTAGES: dict[str, Estimator] = {
    "gae": lambda rollout, hyper, config: gae(rollout, hyper.gamma, hyper.gae_lambda),
    "n_step": lambda rollout, hyper, config: n_step(rollout, hyper.gamma, config.n_step),
    "monte_carlo": lambda rollout, hyper, config: monte_carlo(rollout, hyper.gamma),
    "td": lambda rollout, hyper, config: td(rollout, hyper.gamma),
    "none": lambda rollout, hyper, config: reward_to_go(rollout, hyper.gamma),
    "vtrace": lambda rollout, hyper, config: vtrace(
        rollout, hyper.gamma, hyper.gae_lambda, hyper.vtrace_rho, hyper.vtrace_c
    ),
}
"""Estimators by name: `(rollout, hyperparams, config) -> Estimate`."""
