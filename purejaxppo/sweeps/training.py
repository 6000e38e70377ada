"""Training of trials: those of one shape are agents of one run, as many at a time as fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from purejaxppo.components import Components, make_components
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.run_folder.begin import is_run
from purejaxppo.run_folder.read import read_whole_run
from purejaxppo.runs.compiled import unheard
from purejaxppo.runs.fit import FitResult, fit_of
from purejaxppo.runs.memory import in_bytes
from purejaxppo.runs.options import FitOptions
from purejaxppo.runs.plan import plan_for
from purejaxppo.runs.vary import read_vary
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.read import RETRAINED
from purejaxppo.sweeps.scores import failed, measured, scored
from purejaxppo.sweeps.shapes import by_shape, shape_of, varied_in
from purejaxppo.sweeps.study import Study
from purejaxppo.sweeps.trials import PLAN, Result, Trial
from purejaxppo.sweeps.widths import devices_for, width_that_fits
from purejaxppo.sweeps.workers import Job, Workers

RUNS = "runs"
"""Folder below a study's, with the run folders of its programs."""


class Part(NamedTuple):
    """Trials that are trained by one call of one program.

    Attributes:
        trials: each once.
        width: settings of the program; the last trial takes the places that are left over.
        name: of the folder of its run, below the study's.
    """

    trials: list[Trial]
    width: int
    name: str

    @property
    def places(self) -> list[Trial]:
        """Returns a trial for each setting of the program."""
        return self.trials + self.trials[-1:] * (self.width - len(self.trials))


class Trainer:
    """What trains trials, and remembers how many agents the program of each shape has.

    Args:
        options: of the sweep.
        study: which keeps runs; one without a folder keeps none.
        custom: what takes the place of what configurations describe, see `make_components`.
        announce: called with what is done next, in a word or two.

    Attributes:
        stopped: number of the signal that has ended it, or None.
    """

    def __init__(
        self,
        options: SweepOptions,
        study: Study,
        custom: Mapping[str, Any] | None = None,
        announce: Callable[[str], None] = unheard,
    ):
        self._options, self._study, self._announce = options, study, announce
        self._custom = dict(custom or {})
        self._widths: dict[Hashable, int] = {}
        self.stopped: int | None = None

    def train(self, trials: Sequence[Trial]) -> Iterator[Result]:
        """Trains trials; a signal ends it after the chunk in hand, saved.

        Args:
            trials: what to train.

        Yields:
            What came of each, in no order.
        """
        for trial in trials:
            if trial.why is not None:
                yield failed(trial, trial.why)
        for group in by_shape(trial for trial in trials if trial.why is None):
            if self.stopped is not None:
                return
            try:
                components = make_components(group[0].config, **self._custom)
            except ConfigError as error:  # it could not be trained alone either
                yield from (failed(trial, str(error)) for trial in group)
                continue
            if components.hosted:
                yield from self._train_apart(group)
            else:
                yield from self._train_together(group, components)

    # -- side by side, in one program -------------------------------------------------------------

    def parts(self, group: Sequence[Trial], components: Components) -> Iterator[Part]:
        """Cuts a group of one shape into parts of one width, so that it is compiled once.

        Args:
            group: trials of one shape and length.
            components: of the first.

        Yields:
            First what an earlier process has begun, as it was begun.

        Raises:
            ConfigError: the environments of an agent cannot be shared out to devices.
        """
        shape, left = shape_of(group[0].config), {trial.number: trial for trial in group}
        for name, numbers, width in self._begun():
            if numbers and left.keys() >= {*numbers}:
                self._widths.setdefault(shape, width)
                yield Part([left.pop(number) for number in numbers], width, name)
        waiting = [*left.values()]
        if waiting and shape not in self._widths:
            self._widths[shape] = width_that_fits(
                components, len(waiting), self._options, self._episodes
            )
        while waiting:
            width = self._widths[shape]
            yield Part(waiting[:width], width, self._free(waiting[0].number))
            waiting = waiting[width:]

    def _free(self, number: int) -> str:
        """Returns a name for a run of trials from a number on, which no run has.

        One was begun with other trials where `batch` was another, or others of a shared study have
        taken some.
        """
        names = (f"{RUNS}/{number:04d}" + "b" * i for i in itertools.count())
        return next(name for name in names if not is_run(self._study.run_dir(name)))

    def _begun(self) -> Iterator[tuple[str, list[int], int]]:
        """Yields name, trials and width of every run in the study's folder."""
        folder = self._study.run_dir(RUNS)
        for path in [] if folder is None else sorted(folder.glob("*")):
            if is_run(path):
                about: Mapping[str, Any] = read_whole_run(path)[1]
                name, width = f"{RUNS}/{path.name}", about["seeds"] // self._options.seeds
                yield name, about.get("trials", []), width

    def _train_together(self, group: Sequence[Trial], components: Components) -> Iterator[Result]:
        """Trains trials of one shape as agents of runs, one run after the other."""
        try:
            parts = [*self.parts(group, components)]
        except ConfigError as error:
            yield from (failed(trial, str(error)) for trial in group)
            return
        for part in parts:
            try:
                result = self._fit(part, components)
            except ConfigError as error:
                yield from (failed(trial, str(error)) for trial in part.trials)
                continue
            for problem in result.problems:
                self._study.problems.report(f"{part.name}: {problem}")
            if result.stopped is not None:
                self.stopped = result.stopped
                return
            yield from self._results(part, result)

    def _fit(self, part: Part, components: Components) -> FitResult:
        """Trains the trials of a part."""
        seeds = self._options.seeds
        options = self._options_of(part.trials[0].config, part.width * seeds, part.name)
        plan = plan_for(components, options)
        folder, count = self._study.folder, len(part.trials)
        where = f"{RETRAINED}/" if folder is not None and folder.name == RETRAINED else ""
        self._announce(
            f"{PLAN}{where}{part.name}: {count:,} trial{'s' * (count > 1)}, the first number "
            f"{part.trials[0].number}, {plan.timesteps:,} steps each; about "
            f"{in_bytes(plan.bytes_per_device)} of memory" + " per device" * (plan.mesh.size > 1)
        )
        return fit_of(
            components,
            options,
            about={"trials": [trial.number for trial in part.trials]},
            variation=read_vary(varied_in(part.places), components, seeds),
            plan=plan,
            announce=self._announce,
        )

    def _results(self, part: Part, result: FitResult) -> Iterator[Result]:
        """Yields what came of each trial of a part."""
        seconds = result.compile_seconds + result.run_seconds
        steps, seeds = result.summary["timesteps"], self._options.seeds
        values = measured(result, result.summary["steps_per_second"] or np.nan)
        for i, trial in enumerate(part.trials):
            agents = range(i * seeds, (i + 1) * seeds)
            yield scored(
                trial, {name: x[agents.start : agents.stop] for name, x in values.items()},
                self._options.score, steps=steps, seconds=seconds / len(part.trials),
                run=self._kept(part.name), agents=agents,
            )  # fmt: skip

    # -- in processes of their own ----------------------------------------------------------------

    def _train_apart(self, group: Sequence[Trial]) -> Iterator[Result]:
        """Trains agents whose environments run on the host, each in a process of its own."""
        seeds, jobs = self._options.seeds, {}
        for trial in group:
            for seed in range(seeds):
                name = f"{RUNS}/{trial.number:04d}" + (f"-{seed}" if seed else "")
                options = self._options_of(trial.config, 1, name, self._options.seed + seed)
                jobs[trial.number, seed] = Job(trial.config, options, self._custom)
        self._announce("training")
        found: dict[int, dict[int, Any]] = {trial.number: {} for trial in group}
        trials = {trial.number: trial for trial in group}
        with Workers(len(jobs)) as workers:
            for (number, seed), outcome in workers.train(jobs):
                found[number][seed] = outcome
                if len(found[number]) == seeds:
                    each = [found[number][i] for i in range(seeds)]
                    yield self._result_of(trials[number], each)
            self.stopped = workers.stopped

    def _result_of(self, trial: Trial, outcomes: Sequence[Any]) -> Result:
        """Returns what came of a trial whose seeds were trained apart."""
        for outcome in outcomes:
            if outcome.why is not None:
                return failed(trial, outcome.why)
            for problem in outcome.problems:
                self._study.problems.report(f"trial {trial.number}: {problem}")
        values = {
            name: np.concatenate([outcome.values[name] for outcome in outcomes])
            for name in outcomes[0].values
        }
        return scored(
            trial, values, self._options.score, steps=outcomes[0].steps,
            seconds=sum(outcome.seconds for outcome in outcomes),
            run=self._kept(f"{RUNS}/{trial.number:04d}"), agents=[0],
        )  # fmt: skip

    # -- both -------------------------------------------------------------------------------------

    @property
    def _episodes(self) -> int:
        """Returns the episodes of the evaluation at the end; 0: there is none."""
        return self._options.eval_episodes if "evaluation" in self._options.score else 0

    def _kept(self, name: str) -> str | None:
        return None if self._study.folder is None else name

    def _options_of(
        self, config: PPOConfig, seeds: int, name: str, seed: int | None = None
    ) -> FitOptions:
        """Returns the options of a run.

        Args:
            config: what it trains.
            seeds: its agents.
            name: of its folder below the study's, with which it goes on.
            seed: of its keys; None: the sweep's.
        """
        values: dict[str, Any] = {}
        if self._episodes:
            values |= {"eval_every": config.timesteps, "eval_episodes": self._episodes}
        folder = self._study.run_dir(name)
        if folder is not None:
            values |= {"run_dir": str(folder), "resume": True, "keep_checkpoints": 1}
        seed = self._options.seed if seed is None else seed
        devices = devices_for(seeds, self._options.devices)
        return FitOptions(seeds=seeds, seed=seed, devices=devices, **values)
