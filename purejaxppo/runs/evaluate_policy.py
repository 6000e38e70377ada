"""Whole episodes in Gymnasium's environments, stepped from Python: what a policy earns there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from purejaxppo.bounds import check_value
from purejaxppo.config.coerce import coerce
from purejaxppo.config.rules import SEED, as_count
from purejaxppo.envs.declared import spaces_of
from purejaxppo.errors import ConfigError, shown
from purejaxppo.spaces import Box, Space
from purejaxppo.trained_policy import TrainedPolicy

Act: TypeAlias = Callable[[Any, Any], Any]
"""`(obs, episode_start) -> action`, of one environment or of a batch."""

MODES = ("NextStep", "SameStep", "Disabled")
"""When vector environments begin the next episode: by themselves, or when `reset` is called."""


class Scores(NamedTuple):
    """What a policy earned in whole episodes.

    Attributes:
        mean: of the returns.
        std: of the returns, over episodes.
        returns: [episodes] float64, undiscounted, in the order in which the episodes ended.
        lengths: [episodes] int64, steps.
    """

    mean: float
    std: float
    returns: np.ndarray
    lengths: np.ndarray


def evaluate_policy(
    policy: TrainedPolicy | Callable[[Any], Any],
    env: Any,
    episodes: int = 10,
    *,
    deterministic: bool = True,
    seed: int = 0,
) -> Scores:
    """Plays whole episodes in an environment of Gymnasium's, or in several at once.

    Of a vector environment each of the N environments plays its fixed share of the episodes, so
    that short episodes weigh no more than long ones. Rewards are counted as the environment gives
    them. An environment that never ends an episode needs a time limit: Gymnasium's `TimeLimit`.

    Args:
        policy: what `load_policy` or `as_policy` returns, which forgets what it remembers and draws
            anew from `seed`; or any function `(obs) -> action`, of a batch for vector environments.
        env: a Gymnasium environment, or vector environment of any autoreset mode; it stays open.
        episodes: how many are counted.
        deterministic: the most probable action rather than a sampled one; a function of your own
            decides for itself.
        seed: of the environment's first reset, and of what is sampled.

    Returns:
        Mean and standard deviation, and the return and length of every episode.

    Raises:
        ConfigError: the environment is not Gymnasium's, or shows or takes something else than the
            policy does; there is no such number of episodes or seed.
    """
    episodes, seed = as_count("episodes", episodes, 10), coerce("seed", int, seed, 0)
    check_value("seed", seed, SEED, 0)
    several = hasattr(env, "num_envs") and hasattr(env, "single_action_space")
    methods = all(hasattr(env, name) for name in ("reset", "step"))
    if not methods or isinstance(env, str | type) or hasattr(env, "step_env"):
        raise ConfigError(
            f"env={shown(env)} must be an environment of Gymnasium's, such as "
            "gymnasium.make('CartPole-v1'): make_evaluate is for those in JAX"
        )

    # one function of observations, whatever the policy is
    if isinstance(policy, TrainedPolicy):
        trained = policy
        _check_actions(trained, env.single_action_space if several else env.action_space)
        trained.reset(seed)

        def act(obs: Any, start: Any) -> Any:
            return trained.predict(obs, deterministic, episode_start=start)

    elif callable(policy):

        def act(obs: Any, start: Any) -> Any:
            return policy(obs)

    else:
        raise ConfigError(
            f"policy={shown(policy)} must be what load_policy returns, or a function of "
            "observations"
        )

    played = (_play_several if several else _play_one)(act, env, episodes, seed)
    returns, lengths = (np.array(x) for x in zip(*played, strict=True))
    return Scores(float(returns.mean()), float(returns.std()), returns, lengths)


def _play_one(act: Act, env: Any, episodes: int, seed: int) -> Iterator[tuple[float, int]]:
    """Yields return and length of so many episodes of one environment."""
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed) if episode == 0 else env.reset()
        total, length, done = 0.0, 0, False
        while not done:
            action = act(obs, length == 0)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, length = total + float(reward), length + 1
            done = bool(terminated or truncated)
        yield total, length


def _play_several(act: Act, envs: Any, episodes: int, seed: int) -> Iterator[tuple[float, int]]:
    """Yields return and length of so many episodes of N environments, to each its share."""
    mode, n = _mode_of(envs), envs.num_envs
    missing = (episodes + np.arange(n)) // n  # shares differ by one at most
    total, length = np.zeros(n), np.zeros(n, np.int64)
    obs, _ = envs.reset(seed=seed)
    start, resets = np.ones(n, bool), np.zeros(n, bool)
    while missing.any():
        obs, reward, terminated, truncated, _ = envs.step(act(obs, start))
        # a step that only begins an episode belongs to none
        played = ~resets
        total += np.where(played, reward, 0.0)
        length += played
        done = (np.asarray(terminated, bool) | np.asarray(truncated, bool)) & played
        for i in np.flatnonzero(done & (missing > 0)):
            yield float(total[i]), int(length[i])
        missing -= done & (missing > 0)
        total[done], length[done] = 0.0, 0

        # where the observation is the first of an episode
        if mode == "NextStep":
            start, resets = resets, done
        else:
            start = done
        if mode == "Disabled" and done.any():
            obs, _ = envs.reset(options={"reset_mask": done.copy()})


def _mode_of(envs: Any) -> str:
    """Returns when vector environments begin the next episode, one of MODES.

    Raises:
        ConfigError: they do not say it.
    """
    mode = (getattr(envs, "metadata", None) or {}).get("autoreset_mode")
    mode = getattr(mode, "value", mode)  # an enumeration in gymnasium
    if mode not in MODES:
        raise ConfigError(
            f"the vector environment's metadata have autoreset_mode={shown(mode)}, which must be "
            f"one of {', '.join(MODES)}: set it to gymnasium.vector.AutoresetMode.NEXT_STEP, if "
            "episodes begin with the step after the last one"
        )
    return mode


def _check_actions(policy: TrainedPolicy, space: Any) -> None:
    """Checks that the policy acts as the environment is acted on.

    Raises:
        ConfigError: it does not.
    """
    ours, theirs = policy.spec.action, spaces_of(space, shifted=True)

    def differs(a: Space, b: Space) -> bool:
        boxes = isinstance(a, Box) and isinstance(b, Box)
        return a.shape != b.shape if boxes else a != b

    alike = jax.tree.structure(ours) == jax.tree.structure(theirs)
    if not alike or any(map(differs, jax.tree.leaves(ours), jax.tree.leaves(theirs))):
        raise ConfigError(
            f"the policy takes actions {ours}, the environment {theirs}: use the environment that "
            "it was trained in"
        )
