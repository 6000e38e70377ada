"""Sweeps: settings are drawn, trained as few programs, and what comes of them is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from purejaxppo.components import Components, make_components
from purejaxppo.config.rules import types_of
from purejaxppo.config.schema import PPOConfig, as_config
from purejaxppo.errors import ConfigError, did_you_mean
from purejaxppo.parallel import make_mesh
from purejaxppo.run_folder.env_params import changed_numbers
from purejaxppo.runs.compiled import unheard
from purejaxppo.runs.identity import describe_custom
from purejaxppo.runs.signals import StopRequests
from purejaxppo.sweeps.dimensions import ENV_OPTIONS
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.retrain import retrain
from purejaxppo.sweeps.samplers import FIXED, Source, asked_at_once, drawn
from purejaxppo.sweeps.schedulers.halving import planned_rungs, train_halving
from purejaxppo.sweeps.schedulers.population import planned, train_population
from purejaxppo.sweeps.space import Space, read_space, with_setting
from purejaxppo.sweeps.storage import optuna_source
from purejaxppo.sweeps.study import Study
from purejaxppo.sweeps.training import Trainer
from purejaxppo.sweeps.trials import Result, Trial
from purejaxppo.tuning import check_compiles

PARTS = (
    "env", "env_params", "env_params_axis", "policy", "objective", "advantage", "optimizer",
    "schedule", "extra",
)  # fmt: skip
"""What may take the place of what a configuration describes, see `fit`."""


class SweepResult(NamedTuple):
    """What a sweep has found.

    Attributes:
        results: of every trial that has ended, by number.
        best: the configuration with the best score, on fresh seeds where some were trained again;
            None where none has one. Numbers of the environment are in the setting of its result
            alone.
        winner: its result; on fresh seeds where some settings were trained again.
        folder: of the study, or None.
        problems: what went wrong around the training, a line each.
        stopped: number of the signal that ended it early, or None.
    """

    results: list[Result]
    best: PPOConfig | None
    winner: Result | None
    folder: Path | None
    problems: list[str]
    stopped: int | None


def sweep(
    config: PPOConfig | Mapping[str, Any],
    space: Space | Mapping[str, Any] | Sequence[str],
    *,
    announce: Callable[[str], None] = unheard,
    on_result: Callable[[Result], None] | None = None,
    **options: Any,
) -> SweepResult:
    """Trains many settings, and ranks them.

    Settings that differ in traced values alone are agents of one compiled program, as many side by
    side as fit into memory; others are compiled once for each shape. Each setting is trained as
    `fit` would train it alone, with the same keys as every other.

    Args:
        config: what all settings have in common; a mapping is read by `PPOConfig.from_dict`.
        space: what is varied, see `read_space`: {"learning_rate": "log:1e-4..1e-2",
            "num_envs": [8, 16]}.
        announce: called with what is done next, in a word or two.
        on_result: called with every result, as trials end.
        **options: fields of `SweepOptions` (trials, sampler, scheduler, seeds, score, study_dir,
            ...); and `env`, `env_params`, `env_params_axis`, `policy`, `objective`,
            `advantage`, `optimizer`, `schedule`, `extra` as `fit` takes them.

    Returns:
        Results, the best configuration, and where they are kept.

    Raises:
        ConfigError: an option, a name or a range that is none; or what `study_dir` holds is another
            study.
    """
    known = types_of(SweepOptions)
    for name in options:
        if name not in known and name not in PARTS:
            raise ConfigError(
                f"unknown option {name!r} of sweep: {did_you_mean(name, [*known, *PARTS])}"
            )
    custom = {name: options.pop(name) for name in PARTS if name in options}
    return sweep_of(config, space, SweepOptions(**options), custom, announce, on_result)


def sweep_of(
    config: PPOConfig | Mapping[str, Any],
    space: Space | Mapping[str, Any] | Sequence[str],
    options: SweepOptions,
    custom: Mapping[str, Any] | None = None,
    announce: Callable[[str], None] = unheard,
    on_result: Callable[[Result], None] | None = None,
) -> SweepResult:
    """Trains many settings, as `sweep` does.

    Args:
        config: what all settings have in common.
        space: what is varied.
        options: of the sweep.
        custom: what takes the place of what configurations describe.
        announce: called with what is done next.
        on_result: called with every result.

    Returns:
        See `sweep`.

    Raises:
        ConfigError: see `sweep`.
    """
    check_compiles()
    config, custom = as_config(config), dict(custom or {})

    # what cannot be trained, drawn or shared is refused before a folder is begun
    make_mesh(1, options.devices)
    components, own = make_components(config, **custom), describe_custom(custom)
    space = read_space(space, config, components.env_params)
    components.check_varied(space.names)
    made = [name for name in space.names if name.startswith(ENV_OPTIONS)]
    if made and "env_params" in custom:
        raise ConfigError(
            f"{made[0]} is varied, but env_params take the place of those that it changes: vary "
            "numbers of env_params alone, or options alone"
        )
    if options.scheduler == "pbt":
        planned(components, space, options)
    elif options.scheduler != "none":
        planned_rungs(components, space, options)
    numbers = changed_numbers(components.env_params, components.default_params)
    with (
        Study.open(None, config, space, options, own=own, env_params=numbers) as nowhere,
        source_of(space, options, nowhere),
    ):
        pass

    with Study.open(
        options.study_dir, config, space, options, own=own, env_params=numbers
    ) as study:
        trainer = Trainer(options, study, custom, announce)
        with source_of(space, options, study) as source:
            for told in list(study.results.values()):
                source.tell(told)
            if options.scheduler == "none":
                results = trained(source, trainer, options)
            else:
                results = scheduled(source, trainer, components, space, options, study, announce)
            for result in results:
                study.tell(result)
                source.tell(result)
                if on_result is not None:
                    on_result(result)
        study.write()
        if options.retrain and trainer.stopped is None:
            trainer.stopped = train_again(study, custom, announce)
        winner = study.winner
        best = None if winner is None else with_setting(config, winner.setting)
        told = [study.results[number] for number in sorted(study.results)]
        return SweepResult(told, best, winner, study.folder, [*study.problems], trainer.stopped)


@contextlib.contextmanager
def source_of(space: Space, options: SweepOptions, study: Study) -> Iterator[Source]:
    """Opens the source of trials that the options name.

    Args:
        space: what is varied.
        options: of the sweep.
        study: which its trials belong to.

    Yields:
        The source; one that is shared is closed afterwards, which may tell the study of others'.

    Raises:
        ConfigError: the sampler cannot draw from this space, or the storage cannot be used.
    """
    if options.sampler in FIXED and options.storage is None:
        yield drawn(space, study.config, options)
        return
    own = {**study.own, **{f"env_params.{name}": repr(x) for name, x in study.env_params.items()}}
    source = optuna_source(space, study.config, options, study=study, own=own)
    with contextlib.closing(source):
        yield source


def train_again(
    study: Study, custom: Mapping[str, Any], announce: Callable[[str], None]
) -> int | None:
    """Trains the best settings of a study again on fresh seeds.

    Args:
        study: with results.
        custom: what takes the place of what configurations describe.
        announce: called with what is done next.

    Returns:
        The number of the signal that ended it early, or None.
    """
    trainers: list[Trainer] = []

    def train(options: SweepOptions, inner: Study, trials: Sequence[Trial]) -> Iterator[Result]:
        trainers.append(Trainer(options, inner, custom, announce))
        yield from trainers[-1].train(trials)

    retrain(study, study.options.retrain, study.options.retrain_seeds, train)
    return next((trainer.stopped for trainer in trainers), None)


def trained(source: Source, trainer: Trainer, options: SweepOptions) -> Iterator[Result]:
    """Trains trials of a source until there are no more, or a signal has ended it.

    Args:
        source: which is told what comes of them by whoever takes the results.
        trainer: of the sweep.
        options: say how many are asked for at once.

    Yields:
        What came of each.
    """
    count = asked_at_once(options)
    while trainer.stopped is None:
        trials = source.ask(count)
        if not trials:
            return
        yield from trainer.train(trials)


def scheduled(
    source: Source,
    trainer: Trainer,
    components: Components,
    space: Space,
    options: SweepOptions,
    study: Study,
    announce: Callable[[str], None],
) -> Iterator[Result]:
    """Trains what a scheduler lets go on; a signal ends it at the next rung or generation.

    Args:
        source: of trials; a population draws its own.
        trainer: which is told of the signal.
        components: what is trained, and how.
        space: what is varied.
        options: of the sweep.
        study: which keeps runs.
        announce: called with what is done next.

    Yields:
        What came of each trial, or of each agent of a population.
    """
    stop = StopRequests()
    stop.begin()
    try:
        how = components, space, options, study, announce, stop.received
        yield from (
            train_population(*how) if options.scheduler == "pbt" else train_halving(source, *how)
        )
    finally:
        stop.end()
    if stop.received:
        trainer.stopped = stop.received[0]
