"""Studies from numbers made by hand."""

import numpy as np

from purejaxppo import PPOConfig
from purejaxppo.sweeps.dimensions import Dimension, Space
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.study import Study
from purejaxppo.sweeps.trials import Result

CONFIG = PPOConfig(env="CartPole-v1", num_envs=4, num_steps=16, total_timesteps=6400)


RATE = Dimension("learning_rate", 1e-4, 1e-2, log=True)
GAMMA = Dimension("gamma", 0.9, 0.999)
ENVS = Dimension("num_envs", choices=(4, 8, 16))
OPTIMIZER = Dimension("optimizer", choices=("adam", "muon"))
WIDTHS = Dimension("hidden_sizes", choices=((64,), (64, 64)))
LENGTH = Dimension("env_params.length", 0.1, 2.0)
SPACE = Space((RATE, GAMMA, ENVS))


def drawn(space, rng):
    """A setting."""
    setting = {}
    for x in space.dimensions:
        setting[x.name] = x.at(rng.uniform())
    return setting


def result(number, score=1.0, setting=None, **more):
    """A result of two seeds."""
    setting = {"learning_rate": 1e-3, "gamma": 0.99, "num_envs": 4} if setting is None else setting
    scores = [None, None] if score is None else [score - 1.0, score + 1.0]
    values = dict(
        number=number, setting=setting, status="failed" if score is None else "done", score=score,
        scores=scores, measured={"final_return": score, "mean_return": score and score / 2},
        steps=6400, seconds=1.5,
    )  # fmt: skip
    return Result(**values | more)


def write_study(folder, *, space=SPACE, trials=40, told=None, score=None, options=None, seed=0):
    """Writes what a sweep of these trials leaves.

    Args:
        folder: a new one.
        space: what is varied.
        trials: how many are to be tried.
        told: of how many something has come; None: of all.
        score: `(setting, rng) -> float | None`.
        options: of the sweep.
        seed: of the settings.
    """
    rng = np.random.default_rng(seed)
    score = score or (lambda setting, rng: float(rng.normal()))
    options = options or SweepOptions(trials=trials, seeds=2)
    with Study.open(folder, CONFIG, space, options) as study:
        for number in range(trials if told is None else told):
            setting = drawn(space, rng)
            value = score(setting, rng)
            why = "its loss was not finite" if value is None else None
            study.tell(result(number, value, setting, why=why, seconds=float(rng.uniform(1, 9))))
        study.write()
    return str(folder)
