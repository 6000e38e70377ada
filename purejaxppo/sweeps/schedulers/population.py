"""A population in a study: generation after generation, on all devices, with checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from purejaxppo.components import Components
from purejaxppo.errors import ConfigError
from purejaxppo.parallel import platform_of, shardings_of
from purejaxppo.run_folder.files import write_whole
from purejaxppo.run_folder.rows import metrics_rows
from purejaxppo.runs.agents import Best
from purejaxppo.runs.compiled import Programs, compiled, unheard
from purejaxppo.runs.vary import own_of
from purejaxppo.runs.writer import RunWriter
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.schedulers.crew import (
    advance,
    compile_agents,
    joined,
    place_state,
    returns_in,
)
from purejaxppo.sweeps.schedulers.evolution import (
    Evolution,
    along,
    carried,
    evolution_of,
    line_of,
)
from purejaxppo.sweeps.schedulers.pbt import (
    keys_of_population,
    last_of,
    mean_episode_return,
)
from purejaxppo.sweeps.schedulers.written import save, write_results, written_run
from purejaxppo.sweeps.scores import scored
from purejaxppo.sweeps.space import Dimension, Space
from purejaxppo.sweeps.study import Study
from purejaxppo.sweeps.trials import Result, Setting, Trial
from purejaxppo.tuning import compiled_for
from purejaxppo.types import Metrics

RUN = "runs/0000"
LINEAGE = "lineage.jsonl"
"""Files of a study: the run of its population, and a line for each agent of each generation."""


class Lineage(NamedTuple):
    """What a population was in each of its generations, those that are to come included.

    Attributes:
        values: settings by name, [G, P] float32.
        parents: [G, P] int32, see `PopulationOutput`.
        scores: [G, P] float32.
        seconds: [G] float64, that they took.
    """

    values: dict[str, np.ndarray]
    parents: np.ndarray
    scores: np.ndarray
    seconds: np.ndarray

    @classmethod
    def empty(cls, evolution: Evolution) -> Lineage:
        """Returns that of a population that has not begun.

        Args:
            evolution: its generations.
        """
        shape = len(evolution.lengths), evolution.population
        return cls(
            {d.name: np.zeros(shape, np.float32) for d in evolution.dimensions},
            np.zeros(shape, np.int32),
            np.full(shape, np.nan, np.float32),
            np.zeros(shape[0]),
        )

    @property
    def last(self) -> dict[str, list[float]]:
        """Returns the settings of the last generation, [P] by name."""
        return {name: each[-1].tolist() for name, each in self.values.items()}


def planned(components: Components, space: Space, options: SweepOptions) -> Evolution:
    """Finds the generations of a population in a study, see `evolution_of`.

    Args:
        components: what is trained, and how.
        space: what is varied.
        options: of the sweep.

    Raises:
        ConfigError: see `evolution_of`; or an option is set that says where trials come from.
    """
    for name in ("trials", "sampler", "seeds", "batch", "storage"):
        value, default = getattr(options, name), getattr(SweepOptions, name)
        if value != default:
            raise ConfigError(
                f"{name}={value!r} has no effect on a population of {options.population} agents, "
                f"which draw their own settings, one seed each: leave it at {default!r}"
            )
    return evolution_of(components, space, options)


def train_population(
    components: Components,
    space: Space,
    options: SweepOptions,
    study: Study,
    announce: Callable[[str], None] = unheard,
    stop: Sequence[int] = (),
) -> Iterator[Result]:
    """Trains a population; a study that was interrupted goes on from its last generation.

    What is computed is what `make_population` computes in one program with the key of `seed`, to
    rounding: here each device has its share of the agents, a checkpoint is written after every
    generation, and agents that take over are gathered from whatever device they are on.

    Args:
        components: what is trained, and how.
        space: what each agent has of its own.
        options: of the sweep; `seed`, `score` and `devices` beside those of a population.
        study: where its run and `lineage.jsonl` go, and what it was told before.
        announce: called with the name of each phase as it begins.
        stop: numbers of the signals that were heard; with one it ends after the generation in hand.

    Yields:
        A result for each agent, numbered as they are, with the setting that it ended with. It is
        scored by its own updates and, before it took over, by those of whom it was copied from.

    Raises:
        ConfigError: see `planned` and `plan_of`; the folder is in use.
    """
    evolution = planned(components, space, options)
    left = [i for i in range(evolution.population) if i not in study.results]
    if not left:
        return
    run_dir = study.run_dir(RUN)
    with written_run(components, evolution.population, options, run_dir) as writer:
        found = _train(components, evolution, options, study, writer, announce, stop)
    for problem in writer.problems:
        study.problems.report(f"{RUN}: {problem}")
    if found is not None:
        kept = run_dir is not None
        yield from (_result(i, evolution, *found, components, options, kept) for i in left)


def _train(
    components: Components,
    evolution: Evolution,
    options: SweepOptions,
    study: Study,
    writer: RunWriter,
    announce: Callable[[str], None],
    stop: Sequence[int],
) -> tuple[Lineage, Metrics] | None:
    """Trains the generations that are left, each saved before the next; None: it was stopped."""
    config, lengths = components.config, evolution.lengths
    keys = keys_of_population(jax.random.key(options.seed))
    started = time.perf_counter()
    values = evolution.begin(keys[1])
    programs = compile_agents(components, values, options, announce)
    evolve, score = compile_evolution(programs, evolution), jax.jit(mean_episode_return)
    compile_seconds = time.perf_counter() - started
    announce("training")

    # from the last generation that was saved, or from the beginning
    lineage = Lineage.empty(evolution)
    template = {"state": programs.template, "population": lineage}
    template["best"] = jax.eval_shape(Best.unscored, programs.template)
    restored = writer.restore(template)
    done = 0 if restored is None else restored[1].updates
    first = int(np.searchsorted(np.cumsum(lengths), done, "right"))
    if restored is None:
        parts = []
        own = programs.place(own_of(values, components.env_params))
        agents = jax.random.split(keys[0], evolution.population)
        state = programs.init(programs.place(agents), own)
        scores = np.full(evolution.population, np.nan, np.float32)
    else:
        state, lineage = place_state(programs, restored[0]["state"]), restored[0]["population"]
        lineage = jax.tree.map(np.array, lineage)  # to be written to
        values = {name: jnp.asarray(x[first - 1]) for name, x in lineage.values.items()}
        scores = lineage.scores[first - 1]
        logged = writer.logged_metrics(done)
        parts = [jax.tree.map(lambda x, like: x.astype(like.dtype), logged, programs.metrics)]
        _write_lineage(study, writer, evolution.dimensions, lineage, first)
    writer.open(done * config.batch_size)

    begun, started = done, time.perf_counter()
    for number in range(first, len(lengths)):
        if stop:
            return None
        clock = time.perf_counter()
        key = jax.random.fold_in(keys[2], number)
        state, values, parents = evolve(key, state, values, scores)
        own = own_of(values, components.env_params)
        state, metrics = advance(programs, state, own, lengths[number])
        found = score(last_of(metrics, lengths[number], min(lengths)))
        scores = np.asarray(carried(found, jnp.asarray(scores), parents))

        # rows, then the checkpoint, then what is made of it
        for name, column in values.items():
            lineage.values[name][number] = column
        lineage.parents[number], lineage.scores[number] = parents, scores
        lineage.seconds[number] = time.perf_counter() - clock
        parts.append(metrics)
        writer.log_metrics(metrics_rows(metrics, done, config))
        done += lengths[number]
        save(writer, state, done, {"population": lineage})
        _write_lineage(study, writer, evolution.dimensions, lineage, number + 1)
    metrics = joined(parts)
    if done > begun or not _has_results(writer):
        seconds = time.perf_counter() - started
        times = dict(resumed_at=begun, compile_seconds=compile_seconds, run_seconds=seconds)
        write_results(writer, components, state, metrics, times, lineage.last)
    return lineage, metrics


def _has_results(writer: RunWriter) -> bool:
    """Says whether a run has come to its end: one that was killed behind its checkpoint has not."""
    return writer.folder is not None and (writer.folder / "summary.json").exists()


def compile_evolution(programs: Programs, evolution: Evolution) -> Callable[..., Any]:
    """Compiles the step from one generation to the next, over the devices of a population.

    Args:
        programs: of its agents.
        evolution: how it changes.

    Returns:
        `Evolution.evolve`, whose state stays where it is, and is donated; all else is everywhere.
    """
    here, everywhere = (
        shardings_of(programs.mesh, programs.specs),
        NamedSharding(programs.mesh, P()),
    )
    column = jax.ShapeDtypeStruct((evolution.population,), jnp.float32)
    values = {d.name: column for d in evolution.dimensions}
    program = jax.jit(
        evolution.evolve, donate_argnums=1,
        in_shardings=(everywhere, here, everywhere, everywhere),
        out_shardings=(here, everywhere, everywhere),
    )  # fmt: skip
    with compiled_for(platform_of(programs.mesh)):
        return compiled(program.lower(jax.random.key(0), programs.template, values, column))


# -- what came of it -------------------------------------------------------------------------------


def plain_setting(dimensions: Sequence[Dimension], values: dict[str, float]) -> Setting:
    """Returns a setting as it is written down.

    Args:
        dimensions: of the space.
        values: by name, as programs compute with them, in float32.

    Returns:
        The choice that was meant, a whole number, or one with the digits of a float32.
    """
    setting = {}
    for d in dimensions:
        value = values[d.name]
        if d.choices:
            setting[d.name] = min(d.choices, key=lambda x: abs(np.float32(x) - value))
        else:
            setting[d.name] = int(value) if d.integer else float(str(np.float32(value)))
    return setting


def lines_of(
    dimensions: Sequence[Dimension], lineage: Lineage, generations: int
) -> list[dict[str, Any]]:
    """Returns a lineage as rows.

    Args:
        dimensions: of the space.
        lineage: of the population.
        generations: how many there are already.

    Returns:
        By generation and agent: `generation`, `agent`, `parent` (None where it went on by itself),
        `score` (None where there is none), `setting`.
    """
    return [
        {
            "generation": g,
            "agent": i,
            "parent": None if lineage.parents[g, i] == i else int(lineage.parents[g, i]),
            "score": float(lineage.scores[g, i]) if np.isfinite(lineage.scores[g, i]) else None,
            "setting": plain_setting(dimensions, {n: x[g, i] for n, x in lineage.values.items()}),
        }
        for g in range(generations)
        for i in range(lineage.parents.shape[1])
    ]


def _write_lineage(
    study: Study,
    writer: RunWriter,
    dimensions: Sequence[Dimension],
    lineage: Lineage,
    generations: int,
) -> None:
    """Writes the lineage so far, whole or not at all."""
    if study.folder is None:
        return
    lines = lines_of(dimensions, lineage, generations)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    with writer.problems.attempt(LINEAGE):
        write_whole(study.folder / LINEAGE, lambda file: file.write(text.encode()))


def _result(
    number: int,
    evolution: Evolution,
    lineage: Lineage,
    metrics: Metrics,
    components: Components,
    options: SweepOptions,
    kept: bool,
) -> Result:
    """Returns what has come of an agent."""
    own = along(line_of(lineage.parents, number, evolution.lengths), metrics)
    taken = [p for p in lineage.parents[:, number].tolist() if p != number]
    setting = plain_setting(
        evolution.dimensions, {n: x[-1, number] for n, x in lineage.values.items()}
    )
    result = scored(
        Trial(number, setting, components.config), returns_in(own), options.score,
        steps=components.config.timesteps,
        seconds=float(lineage.seconds.sum()) / evolution.population,
        run=RUN if kept else None, agents=[number],
    )  # fmt: skip
    return result._replace(parent=taken[-1] if taken else None)
