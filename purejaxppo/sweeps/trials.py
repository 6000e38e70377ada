"""What a sweep tries, and what comes of it: the records that all parts of it share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from purejaxppo.config.schema import PPOConfig

Setting: TypeAlias = "Mapping[str, Any]"
"""Values by name: fields of `PPOConfig`, `env_options.NAME` and `env_params.NAME`."""

Status = Literal["done", "stopped", "failed"]
"""How a trial ended: at its last step, early because others were better, or without a score."""


PLAN = "plan: "
"""What a line that a sweep announces begins with where it says what will be done."""

Measure = Literal["final_return", "mean_return", "evaluation", "steps_per_second"]
"""What a trial can be scored by.

final_return      mean return of the episodes that ended in the last tenth of its training
mean_return       mean over all updates of the mean return of the episodes that ended in each
evaluation        mean return of whole episodes that the trained agents play at the end
steps_per_second  training steps of the program it was trained in, per second
"""


class Trial(NamedTuple):
    """One setting, to be trained.

    Attributes:
        number: from 0, in the order in which settings are drawn.
        setting: what is varied, and nothing else.
        config: the whole configuration with it, but for `env_params`, which are not of it.
        why: `PPOConfig` refuses the combination, in words: the trial has failed before it is
            trained, and `config` is the sweep's own; None where it can be trained.
    """

    number: int
    setting: Setting
    config: PPOConfig
    why: str | None = None


class Result(NamedTuple):
    """What has come of a trial; plain values, a line of `trials.jsonl`.

    Attributes:
        number: of the trial.
        setting: of the trial.
        status: how it ended.
        score: what the sweep asks for, the mean over its seeds; None where it failed.
        scores: of each seed; None where it has none.
        measured: every quantity that was measured, a mean over its seeds, by name (see `Measure`);
            None where it has no value.
        steps: environment steps of each seed.
        seconds: of the machine, its share of those of the program that it was trained in.
        run: folder of that program's run, below the study's; None where nothing is written.
        agents: which seeds of that run are its own.
        parent: the trial that it took its agent from, under population-based training.
        why: it failed, in words.
    """

    number: int
    setting: Setting
    status: Status
    score: float | None
    scores: list[float | None]
    measured: dict[str, float | None]
    steps: int
    seconds: float
    run: str | None = None
    agents: list[int] = []  # noqa: RUF012 (never changed)
    parent: int | None = None
    why: str | None = None
