"""Options of a sweep beside its space and configuration; without jax, as those of a run."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from purejaxppo.bounds import FRACTION, Bound
from purejaxppo.config.rules import (
    COUNT,
    INDEX,
    SEED,
    STEPS,
    Effect,
    check_effects,
    option,
)
from purejaxppo.runs.options import DEVICES, Options
from purejaxppo.sweeps.trials import Measure

Sampler = Literal["random", "grid", "sobol", "tpe", "cmaes", "nsga2"]
"""Where settings come from; the last three are Optuna's, and learn from what was tried."""

Scheduler = Literal["none", "halving", "asha", "pbt"]
"""What decides which trials go on: all do, the best of each rung, or the best of a population."""

FACTOR = Bound(lambda v: v >= 2, "2 or more")
ABOVE_ONE = Bound(lambda v: v > 1, "above 1")
SCORES = Bound(
    lambda v: bool(v) and len({*v}) == len(v) and {*v} <= {*get_args(Measure)},
    f"one or more of {', '.join(get_args(Measure))}",
)
SHARE = Bound(lambda v: 0 < v <= 0.5, "within 0 .. 0.5, 0 excluded")


# when options have an effect
EVALUATED = Effect(lambda o: "evaluation" in o.score, "score=('evaluation',)")
RUNGS = Effect(lambda o: o.scheduler in ("halving", "asha"), "scheduler='halving'")
PBT = Effect(lambda o: o.scheduler == "pbt", "scheduler='pbt'")
PLACES = Effect(lambda o: o.scheduler in ("pbt", "asha"), "scheduler='pbt'")
SHARED = Effect(lambda o: o.storage is not None, "storage='journal:study.log'")
RETRAINED = Effect(lambda o: o.retrain > 0, "retrain=3")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions(Options):
    """How many trials there are, what they are scored by, and where results go."""

    trials: int | None = option(None, *COUNT, group="trials")
    """Settings to be tried; None: 64, or every point of a grid."""
    sampler: Sampler = "random"
    """Where settings come from; tpe, cmaes and nsga2 need the extra `sweep`."""
    scheduler: Scheduler = "none"
    """Which trials go on: all (none), the best of each rung (halving, asha), or a population."""
    seeds: int = option(1, *COUNT)
    """Agents of each setting; its score is their mean."""
    seed: int = option(0, *SEED)
    """Of the settings that are drawn, and of the random key that agents' keys are split from."""
    score: tuple[str, ...] = option(("final_return",), SCORES)
    """final_return, mean_return, evaluation or steps_per_second; nsga2 takes several."""
    batch: int | None = option(None, *COUNT)
    """Trials trained side by side; None: all that fit into memory, 16 for samplers that learn."""
    devices: int | Literal["all"] | None = option(None, DEVICES)
    """Devices, or cores of a CPU, that trials are shared out among; None: as many as can."""
    eval_episodes: int = option(16, *COUNT, when=(EVALUATED,))
    """Episodes of the evaluation at the end (score=evaluation)."""

    min_steps: int | None = option(None, *STEPS, when=(RUNGS,), group="schedulers")
    """Steps at the first rung of halving and asha; None: total_timesteps / factor**2."""
    factor: int = option(4, FACTOR, when=(RUNGS,))
    """One trial of so many goes on from a rung to the next, with so many times its steps."""
    population: int = option(16, *COUNT, when=(PLACES,))
    """Agents of population-based training, or places of asha."""
    evolve_every: int | None = option(None, *STEPS, when=(PBT,))
    """Steps of each agent between generations of a population; None: total_timesteps / 20."""
    replaced: float = option(0.25, SHARE, when=(PBT,))
    """Share of a population that takes over agents of the best as large a share."""
    perturb: float = option(1.2, ABOVE_ONE, when=(PBT,))
    """Factor by which, or its inverse, hyperparameters that are taken over are multiplied."""
    resample: float = option(0.25, FRACTION, when=(PBT,))
    """Probability that one of them is drawn anew instead."""

    study_dir: str | None = option(None, group="study")
    """Folder of the study; the same command goes on with one that is there."""
    storage: str | None = None
    """Optuna storage that several processes share: journal:FILE, sqlite:///FILE, postgresql://..."""
    study_name: str | None = option(None, when=(SHARED,))
    """Name of the study in the storage; None: that of the environment."""
    retrain: int = option(0, *INDEX)
    """How many of the best settings are trained again, on fresh seeds."""
    retrain_seeds: int = option(8, *COUNT, when=(RETRAINED,))
    """Seeds of each of them."""

    def __post_init__(self) -> None:
        """Checks each option by itself, then whether it has an effect.

        Raises:
            ConfigError: a value of another type, one that is out of its bounds, or an option that
                has no effect without another.
        """
        super().__post_init__()
        check_effects(self, SweepOptions)
