r"""How a population changes from one generation to the next: exploit and explore.

Reference: arXiv:1711.09846, section 4.1.1 (truncation selection; perturb, resample).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.components import Components
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.schedulers.crew import check_schedulable
from purejaxppo.sweeps.space import Dimension, Space, refused_in
from purejaxppo.types import Array, LearnerState, Metrics

COMPLEMENTS = ("gamma", "gae_lambda")
"""Hyperparameters whose distance from 1 is perturbed."""


def exploit(key: Array, scores: Array, replaced: int) -> Array:
    """Chooses for each agent whom it goes on as: itself, or one of the best.

    Args:
        key: consumed.
        scores: [P], NaN where there is none.
        replaced: how many of the worst look for another, and of the best are looked at.

    Returns:
        [P] int32, numbers of agents.

    Reference: arXiv:1711.09846, section 4.1.1, truncation selection.
    """
    known, agents = ~jnp.isnan(scores), jnp.arange(len(scores), dtype=jnp.int32)
    order = jnp.argsort(jnp.where(known, -scores, jnp.inf), stable=True)
    rank = jnp.argsort(order)

    # those without a score are none of the best, however few have one
    best = jnp.clip(known.sum(), 1, replaced)
    other = order[jax.random.randint(key, scores.shape, 0, best)].astype(jnp.int32)
    worse = known[other] & (~known | (scores < scores[other]))
    return jnp.where((rank >= len(scores) - replaced) & worse, other, agents)


def carried(scores: Array, before: Array, parents: Array) -> Array:
    """Returns the scores of a generation, where there is none those that agents came with.

    An agent whose episodes are longer than a generation is so no worse for it.

    Args:
        scores: [P], NaN where no episode ended.
        before: [P], of the generation before it.
        parents: [P], whom each agent began it as.

    Returns:
        [P], NaN where no episode has ended yet.
    """
    return jnp.where(jnp.isnan(scores), before[parents], scores)


def drawn(dimension: Dimension, u: Array) -> Array:
    """Returns the values at places of the unit interval, as `Dimension.at` does.

    Args:
        dimension: a range, or a choice among numbers.
        u: [P], from 0 up to 1, which is not reached.

    Returns:
        [P] float32.
    """
    if dimension.choices:
        table = jnp.asarray(dimension.choices, jnp.float32)
        return table[(u * len(table)).astype(jnp.int32)]
    low, high = dimension.low, dimension.high + dimension.integer
    x = low * (high / low) ** u if dimension.log else low + u * (high - low)
    return jnp.clip(jnp.floor(x) if dimension.integer else x, dimension.low, dimension.high)


def perturbed(dimension: Dimension, value: Array, up: Array, factor: float) -> Array:
    """Moves values a step up or down within their dimension.

    Args:
        dimension: a range, or a choice among numbers.
        value: [P].
        up: [P] bool, whether to multiply, or to divide.
        factor: by what.

    Returns:
        [P] float32. A whole number moves by 1 at least.
    """
    if dimension.choices:
        table = jnp.asarray(dimension.choices, jnp.float32)
        here = jnp.argmin(jnp.abs(table[None] - value[:, None]), axis=1)
        return table[jnp.clip(here + jnp.where(up, 1, -1), 0, len(table) - 1)]
    by = jnp.where(up, factor, 1 / factor)
    moved = 1 - (1 - value) * by if dimension.name in COMPLEMENTS else value * by
    if dimension.integer:
        moved = jnp.where(moved > value, jnp.ceil(moved), jnp.floor(moved))
    return jnp.clip(moved, dimension.low, dimension.high)


def explore(
    key: Array, dimension: Dimension, value: Array, factor: float, resample: float
) -> Array:
    """Changes values of a dimension: each by a step, or to one that is drawn anew.

    Args:
        key: consumed.
        dimension: a range, or a choice among numbers.
        value: [P].
        factor: that is multiplied by, or its inverse.
        resample: probability of a new one.

    Returns:
        [P] float32.

    Reference: arXiv:1711.09846, section 4.1.1, perturb and resample.
    """
    way, anew, place = jax.random.uniform(key, (3, len(value)), jnp.float32)
    moved = perturbed(dimension, value, way < 0.5, factor)
    return jnp.where(anew < resample, drawn(dimension, place), moved)


class Evolution(NamedTuple):
    """How a population changes from one generation to the next.

    Attributes:
        dimensions: what each agent has of its own.
        population: P.
        replaced: K, of the worst and of the best.
        perturb: the factor.
        resample: the probability.
        lengths: updates of each generation.
    """

    dimensions: Sequence[Dimension]
    population: int
    replaced: int
    perturb: float
    resample: float
    lengths: tuple[int, ...]

    def begin(self, key: Array) -> dict[str, Array]:
        """Draws the settings of the first generation.

        Args:
            key: consumed.

        Returns:
            By name, [P] float32.
        """
        keys = [jax.random.fold_in(key, i) for i in range(len(self.dimensions))]
        places = [jax.random.uniform(key, (self.population,), jnp.float32) for key in keys]
        return {d.name: drawn(d, u) for d, u in zip(self.dimensions, places, strict=True)}

    def evolve(
        self, key: Array, state: LearnerState, values: dict[str, Array], scores: Array
    ) -> tuple[LearnerState, dict[str, Array], Array]:
        """Makes a generation of the one before it.

        Args:
            key: consumed.
            state: the learners, [P].
            values: their settings, by name, [P].
            scores: [P]; all of them NaN before the first generation, which changes nothing.

        Returns:
            The learners, their settings, and their parents [P].
        """
        key_parents, key_explore = jax.random.split(key)
        parents = exploit(key_parents, scores, self.replaced)
        moved = parents != jnp.arange(self.population)

        # whoever takes over is the other in all but what comes next by chance
        state = jax.tree.map(lambda x: x[parents], state).replace(key=state.key)
        changed = {}
        for i, d in enumerate(self.dimensions):
            taken = values[d.name][parents]
            key = jax.random.fold_in(key_explore, i)
            new = explore(key, d, taken, self.perturb, self.resample)
            changed[d.name] = jnp.where(moved, new, taken)
        return state, changed, parents


def evolution_of(components: Components, space: Space, options: SweepOptions) -> Evolution:
    """Finds the generations of a population.

    Args:
        components: what is trained, and how.
        space: what is varied.
        options: `population`, `evolve_every`, `replaced`, `perturb`, `resample`.

    Returns:
        The evolution. A generation is whole updates; the last one has those that are left over too.

    Raises:
        ConfigError: see `check_schedulable`; there are no two agents; a generation would be longer
            than the training; a combination cannot be trained; or what is varied follows the
            divergence by itself.
    """
    check_schedulable(components, space, options)
    if "learning_rate" in space.names and components.schedule.adapts is not None:
        raise ConfigError(
            "learning_rate is only where learning_rate_schedule='kl_adaptive' begins, and agents "
            "that take over go on with the rate of another: vary desired_kl, or leave it out"
        )
    if "kl_coef" in space.names and components.config.objective == "adaptive_kl":
        raise ConfigError(
            "kl_coef is only where objective='adaptive_kl' begins, and agents that take over go on "
            "with that of another: vary adaptive_kl_target, or leave it out"
        )
    refused = refused_in(space, components.config)
    if refused is not None:
        raise ConfigError(f"agents of a population move through the whole space, and {refused}")
    config, population, every = components.config, options.population, options.evolve_every
    if population < 2:
        raise ConfigError(f"population={population} must be 2 or more to take over: use 16")
    if every is not None and every > config.timesteps:
        raise ConfigError(
            f"evolve_every={every} is longer than the training, {config.timesteps} steps: use "
            f"{max(1, config.timesteps // 20)}"
        )
    replaced = max(1, int(options.replaced * population))
    return Evolution(
        space.dimensions, population, replaced, options.perturb, options.resample,
        lengths_of(config, every),
    )  # fmt: skip


def lengths_of(config: PPOConfig, every: int | None) -> tuple[int, ...]:
    """Returns how many updates each generation has.

    Args:
        config: what is trained.
        every: steps of a generation, rounded up to whole updates; None: total_timesteps / 20.

    Returns:
        [G], the last with the updates that are left over too.
    """
    every = -(-config.total_timesteps // 20) if every is None else every
    length = -(-every // config.batch_size)
    count = max(1, config.num_updates // length)
    left = config.num_updates - count * length
    return (length,) * (count - 1) + (length + left,)


def line_of(parents: np.ndarray, agent: int, lengths: Sequence[int]) -> np.ndarray:
    """Follows an agent back to where it began.

    Args:
        parents: [G, P], the agent of the generation before that each began as.
        agent: of the last generation.
        lengths: [G], updates of each.

    Returns:
        [updates], which agent of the population it was in each of them.
    """
    line = [agent]
    for row in parents[:0:-1]:
        line.append(int(row[line[-1]]))
    return np.repeat(line[::-1], lengths)


def along(line: np.ndarray, metrics: Metrics) -> Metrics:
    """Returns what an agent has done, and before it took over those whom it was copied from.

    Args:
        line: [updates], see `line_of`.
        metrics: every field [P, updates], NumPy.

    Returns:
        Every field [1, updates].
    """
    return jax.tree.map(lambda x: x[line, np.arange(len(line))][None], metrics)
