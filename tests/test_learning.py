"""The presets learn. `benchmarks/scores.py` gives the same runs at full length, with figures."""

import pytest

from purejaxppo import PPOConfig, fit
from purejaxppo.runs.fit import final_returns

RUNS = [  # preset, algorithm, changes, score to reach as the mean of 4 seeds
    ("CartPole-v1", "ppo", {"total_timesteps": 250_000}, 490),
    ("CartPole-v1", "ppo_kl", {}, 475),
    ("CartPole-v1", "ppo_kl", {"objective": "adaptive_kl"}, 475),
    ("CartPole-v1", "a2c", {}, 450),
    ("CartPole-v1", "reinforce", {}, 400),
    ("classic", "ppo", {}, 475),
    ("Pendulum-v1", "ppo", {"total_timesteps": 250_000}, -250),
    ("Acrobot-v1", "ppo", {}, -90),
    ("MountainCarContinuous-v0", "ppo", {"total_timesteps": 250_000}, 85),
]


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "algorithm", "changes", "score"), RUNS)
def test_preset_reaches_its_score(preset, algorithm, changes, score):
    config = PPOConfig.preset(preset, algorithm, **changes)
    assert config.total_timesteps <= 1_000_000
    result = fit(config, seeds=4, seed=1)
    returns = final_returns(result.metrics, config.num_updates)
    assert returns.mean() >= score, returns
    assert result.metrics.skipped_steps.sum() == 0
