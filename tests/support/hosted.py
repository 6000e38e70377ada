"""Environments of Gymnasium's stepped by plain loops, which those on the host must agree with."""

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode


def make_same_step(name, num_envs, **options):
    settings = {"autoreset_mode": AutoresetMode.SAME_STEP}
    return gymnasium.make_vec(name, num_envs, "sync", vector_kwargs=settings, **options)


def by_hand(envs, actions, seed):
    """A rollout by a loop over a vector environment that resets in the same step."""
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    first, _ = envs.reset(seed=seed)
    total, length = np.zeros(envs.num_envs), np.zeros(envs.num_envs, int)
    rows = []
    for action in actions:
        obs, reward, terminated, truncated, info = envs.step(action)
        final = obs.copy()
        for n in range(envs.num_envs):
            if terminated[n] or truncated[n]:
                final[n] = info["final_obs"][n]
        total, length = total + reward, length + 1
        rows.append((obs, final, reward, terminated, truncated, total.copy(), length.copy()))
        total[terminated | truncated] = 0
        length[terminated | truncated] = 0
    envs.close()
    return first, *map(np.stack, zip(*rows, strict=True))
