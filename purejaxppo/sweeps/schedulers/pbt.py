r"""Population-based training: agents that take over from one another while they train.

A population of P agents is trained side by side in generations of n updates. At the end of a
generation each has a score, the mean return of the episodes that ended in it. Then

- *exploit*, by truncation: each of the worst K agents draws one of the best K, uniformly, and
  becomes a copy of it if that one's score is higher;
- *explore*: each hyperparameter that was taken over is, with probability `resample`, drawn anew
  from its range; else it is multiplied by $f$ or by $1 / f$, with equal chance, and clipped to its
  range.

A copy is the whole agent: parameters, the optimizer's moments, running statistics, what the
objective and the schedules remember, and the environments in the middle of their episodes with the
memory of them.
An episode that was begun by the one is so finished by the same policy in both, and its return is
theirs. The random key alone stays the agent's own, so that the two part ways at the next step.

Where no episode ended in a generation, an agent keeps the score that it came with. Agents without a
score rank last and are taken from by nobody; equal scores rank by number of the agent. One whose
returns are not finite is worse than any that has a score, and so takes over. Of `gamma` and
`gae_lambda` it is $1 - x$ that is multiplied, which is what tells values near 1 apart. A choice
among numbers moves to one of its neighbours, in the order in which they were given.

Reference: arXiv:1711.09846, algorithm 1, and section 4.1.1 (truncation; perturb, resample).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.components import (
    Components,
    CustomEnv,
    CustomObjective,
    CustomOptimizer,
    CustomPolicy,
    make_components,
)
from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.runs.compiled import chunk_of, given_to, init_of
from purejaxppo.runs.vary import own_of
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.schedulers.evolution import Evolution, carried, evolution_of
from purejaxppo.sweeps.space import read_space
from purejaxppo.train import learner_of
from purejaxppo.types import (
    Array,
    EnvParams,
    Estimator,
    LearnerState,
    Metrics,
    PyTree,
    Schedule,
)


class PopulationOutput(NamedTuple):
    """What a population has come to; G generations of P agents.

    Attributes:
        state: the learners after their last update, every leaf with a leading axis [P].
        metrics: one row per update, every field [P, U].
        hyperparams: by name, [G, P], those that were in force.
        parents: [G, P] int32, the agent of the generation before that each was copied from at the
            beginning; itself where it went on.
        scores: [G, P] float32, at the end; NaN where no episode had ended yet, and below all others
            where returns are not finite.
    """

    state: LearnerState
    metrics: Metrics
    hyperparams: dict[str, Array]
    parents: Array
    scores: Array


# -- one program -----------------------------------------------------------------------------------


def mean_episode_return(metrics: Metrics) -> Array:
    """Scores agents by the mean return of all episodes that ended.

    Args:
        metrics: every field [P, n].

    Returns:
        [P] float32, NaN where none did; less than any other where their mean is no finite number.
    """
    episodes, total = metrics.episodes.sum(1), metrics.return_sum.sum(1)
    mean = total / jnp.maximum(episodes, 1).astype(jnp.float32)
    # an agent that is broken has a score, or it would go on with the one it had when it was well
    mean = jnp.where(jnp.isfinite(mean), mean, -jnp.inf)
    return jnp.where(episodes > 0, mean, jnp.nan)


def keys_of_population(key: Array) -> Array:
    """Splits the random key of a population.

    Args:
        key: consumed.

    Returns:
        [3]: that the agents' keys are split from, that of the first settings, and that which the
        number of a generation is folded into.
    """
    return jax.random.split(key, 3)


def make_population(
    config: PPOConfig | Mapping[str, Any],
    space: Any,
    *,
    population: int = 16,
    evolve_every: int | None = None,
    replaced: float = 0.25,
    perturb: float = 1.2,
    resample: float = 0.25,
    measure: Callable[[Metrics], Array] = mean_episode_return,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
    objective: CustomObjective = None,
    advantage: Estimator | None = None,
    optimizer: CustomOptimizer = None,
    schedule: Schedule | None = None,
    env_params_axis: Any = None,
    extra: PyTree = None,
) -> Callable[[Array], PopulationOutput]:
    """Makes population-based training as one pure function.

    With `key_agents, key_settings, key_evolve = jax.random.split(key, 3)`, agent i begins as
    `make_train` does with `jax.random.split(key_agents, population)[i]`, the first settings are
    drawn from `key_settings`, and generation g, from 0, is made of the one before it with
    `jax.random.fold_in(key_evolve, g)`. Schedules run over total_timesteps, whatever is taken over.

    Args:
        config: what to train; a mapping is read by `PPOConfig.from_dict`.
        space: what each agent has of its own, within one program: hyperparameters and
            `env_params.NAME`, as `sweep` takes them, or a `Space`.
        population: P agents.
        evolve_every: steps of each agent in a generation, rounded up to whole updates; None:
            total_timesteps / 20. The last one has the updates that are left over too.
        replaced: share of the population that takes over from the best as large a share.
        perturb: factor by which, or its inverse, what is taken over is multiplied.
        resample: probability that it is drawn anew instead.
        measure: `(metrics, every field [P, n]) -> scores [P]`, of the last n updates of a
            generation, where n is the length of all but the last; larger is better, NaN is none.
        env: an environment with gymnax's 1.x interface, in place of the one that `config` names.
        env_params: its parameters; None: its defaults; or what draws them, see `make_learner`.
        policy: a policy, or a network `obs [B, *O] -> (parameters, value [B])`, of linen or nnx, in
            place of the one that `config` describes (`policies.networks.make_policy`).
        objective: an `Objective`, or its loss alone, in place of the one that `config` names.
        advantage: `(rollout, hyperparams, config) -> Estimate`, in place of the estimator that
            `config` names.
        optimizer: `(hyperparams) -> optax.GradientTransformation`, or an `Optimizer`, in place of
            the one that `config` names; gradients are clipped to max_grad_norm before it.
        schedule: `(hyperparams, progress) -> hyperparams`, with progress from 0 to 1, in place of
            those that `config` names.
        env_params_axis: where env_params have an axis of environments, see `make_learner`.
        extra: `Hyperparams.extra`, a pytree of numbers and arrays for custom parts; None: ().

    Returns:
        `run(key) -> PopulationOutput`, to be jitted, and vmapped over keys. The key is consumed;
        legacy uint32 keys are accepted.

    Raises:
        ConfigError: see `PPOConfig`, `components.make_components` and `read_space`; a dimension
            needs a program of its own for each value; environments run on the host.

    Reference: arXiv:1711.09846, algorithm 1.
    """
    components = make_components(
        config, env=env, env_params=env_params, policy=policy, objective=objective,
        advantage=advantage, optimizer=optimizer, schedule=schedule,
        env_params_axis=env_params_axis, extra=extra,
    )  # fmt: skip
    options = SweepOptions(
        scheduler="pbt", population=population, evolve_every=evolve_every, replaced=replaced,
        perturb=perturb, resample=resample,
    )  # fmt: skip
    space = read_space(space, components.config, components.env_params)
    components.check_varied(space.names)
    return population_of(components, evolution_of(components, space, options), measure)


def population_of(
    components: Components, evolution: Evolution, measure: Callable[[Metrics], Array]
) -> Callable[[Array], PopulationOutput]:
    """Makes population-based training of components that are built already.

    Args:
        components: what is trained, and how.
        evolution: its generations.
        measure: see `make_population`.

    Returns:
        `run(key) -> PopulationOutput`.
    """
    learner, env_params = learner_of(components), components.env_params
    given = given_to(components.config, components.hyperparams())
    lengths = evolution.lengths
    length, most = min(lengths), max(lengths)
    init, chunk = init_of(learner, env_params), chunk_of(learner, env_params, most)

    def run(key: Array) -> PopulationOutput:
        key_agents, key_settings, key_evolve = keys_of_population(key)

        def generation(before, now):
            number, updates = now
            key = jax.random.fold_in(key_evolve, number)
            state, values, parents = evolution.evolve(key, *before)
            state, metrics = chunk(state, updates, given, own_of(values, env_params))
            scores = _scores(measure, last_of(metrics, updates, length))
            scores = carried(scores, before[2], parents)
            return (state, values, scores), (metrics, values, parents, scores)

        # no agent has a score before the first generation, which is so trained as it begins
        values = evolution.begin(key_settings)
        keys = jax.random.split(key_agents, evolution.population)
        state = init(keys, given, own_of(values, env_params))
        none = jnp.full(evolution.population, np.nan, jnp.float32)
        numbers = jnp.arange(len(lengths)), jnp.asarray(lengths)
        (state, *_), found = jax.lax.scan(generation, (state, values, none), numbers)
        metrics, values, parents, scores = found
        return PopulationOutput(state, _in_a_row(metrics, length), values, parents, scores)

    return run


def last_of(metrics: Metrics, updates: Any, length: int) -> Metrics:
    """Returns the last of some updates.

    Args:
        metrics: every field [P, at least updates].
        updates: how many count.
        length: of these, how many to take.

    Returns:
        Every field [P, length].
    """
    return jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(x, updates - length, length, 1), metrics
    )


def _scores(measure: Callable[[Metrics], Array], metrics: Metrics) -> Array:
    """Returns the scores of agents.

    Raises:
        ConfigError: a custom measure gives something else.
    """
    scores, wanted = jnp.asarray(measure(metrics), jnp.float32), metrics.episodes.shape[:1]
    if scores.shape != wanted:
        raise ConfigError(
            f"measure gives scores {list(scores.shape)} for a population of {wanted[0]}: return "
            "one for each agent"
        )
    return scores


def _in_a_row(metrics: Metrics, length: int) -> Metrics:
    """Joins the metrics of generations, [G, P, most], whose last one alone may fill its place."""

    def join(x: Array) -> Array:
        first = jnp.moveaxis(x[:-1, :, :length], 0, 1)
        return jnp.concatenate([first.reshape(x.shape[1], -1), x[-1]], axis=1)

    return jax.tree.map(join, metrics)
