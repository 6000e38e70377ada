"""The environments that a configuration describes: found, inspected once, and made many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from purejaxppo.config.coerce import parse_options
from purejaxppo.config.schema import PPOConfig
from purejaxppo.envs import registry
from purejaxppo.envs.host import HostEnvironment
from purejaxppo.envs.host_info import kinds_told
from purejaxppo.envs.host_program import make_host_vec_env
from purejaxppo.envs.info import check_info_metrics
from purejaxppo.envs.inspection import InspectedEnv, inspect_env
from purejaxppo.envs.params import (
    Draw,
    DrawnParams,
    EpisodeParams,
    axes_of,
    read_params,
    rows,
    with_drawn,
    with_shares,
)
from purejaxppo.envs.vec_env import vectorize
from purejaxppo.errors import ConfigError, did_you_mean, shown
from purejaxppo.spaces import (
    MASKS,
    EnvSpec,
    SpaceTree,
    entries,
    fields,
    is_measured,
    is_within,
    only,
    without_mask,
)
from purejaxppo.types import Environment, EnvParams, VecEnv


class Environments(NamedTuple):
    """The environments of a run.

    Attributes:
        env: one of them, as it was named or passed.
        env_params: its parameters; () where each has its own, drawn.
        default_params: those that it has by itself.
        spec: what the policy sees of it and does: None in place of entries that nobody reads.
        vectorize: `(num_envs, mesh=None) -> VecEnv`, so many of it as one, or on each device of a
            mesh that the program runs on.
        alike: as `vectorize`, but all with the default parameters, where environments have
            parameters of their own; else None.
    """

    env: Environment | HostEnvironment
    env_params: EnvParams
    default_params: EnvParams
    spec: EnvSpec
    vectorize: Callable[..., VecEnv]
    alike: Callable[..., VecEnv] | None


def find_environments(
    config: PPOConfig,
    env: Any = None,
    env_params: EnvParams = None,
    env_params_axis: Any = None,
    change_env_params: Callable[[EnvParams], EnvParams] | None = None,
) -> Environments:
    """Finds the environments of a configuration, or takes the one that is passed, and inspects it.

    Args:
        config: what is trained.
        env: an environment, or what makes one, see `envs.given.environment_of`; None: the one that
            the configuration names.
        env_params: its parameters; None: its defaults; or what draws them.
        env_params_axis: where they have an axis of environments.
        change_env_params: `(default parameters) -> parameters`, where none are passed.

    Returns:
        The environments.

    Raises:
        ConfigError: there is no such environment, it contradicts itself, or what is given has no
            effect on it.
    """
    made, default_params = _environment(config, env)
    env_params = read_params(env_params, env_params_axis)
    if env_params is None:
        env_params = change_env_params(default_params) if change_env_params else default_params
    check_taken(made, env_params, env_params_axis)
    spec, vectorize, alike = _vectorizer(config, made, env_params, env_params_axis)
    parts = jax.tree.leaves(without_mask(spec.observation))
    if config.normalize_observations and not any(map(is_measured, parts)):
        raise ConfigError(f"normalize_observations=True has no meaning for {parts}: leave it False")
    if isinstance(env_params, DrawnParams):
        env_params = ()
    return Environments(made, env_params, default_params, spec, vectorize, alike)


def _environment(config: PPOConfig, env: Any) -> tuple[Any, EnvParams]:
    """Returns the environment, passed or named, and its default parameters."""
    options = parse_options(config.env_options)
    if env is not None and options:
        raise ConfigError(
            f"env_options={list(config.env_options)} have no effect on an environment of your own: "
            "leave them out"
        )
    return registry.find_env(config.env if env is None else env, **options)


def check_taken(env: Any, env_params: EnvParams, axis: Any = None) -> None:
    """Refuses parameters that an environment does not read.

    Args:
        env: as `find_environments` gives it.
        env_params: that are passed.
        axis: of environments, where they have one.

    Raises:
        ConfigError: it reads none, or one of them has an axis that no environment reads.
    """
    if isinstance(env_params, DrawnParams):
        given = "env_params that are drawn"
    elif jax.tree.leaves(env_params):
        given = f"env_params={shown(env_params)}"
    else:
        return
    if isinstance(env, HostEnvironment):
        raise ConfigError(f"{given} have no effect on environments of the host: leave it None")
    if getattr(env, "physics", env) is None:  # of a suite's adapter
        raise ConfigError(f"{given} have no effect on this suite's environments: leave it None")
    if axis is not None or isinstance(env_params, DrawnParams):
        return
    leaves = jax.tree_util.tree_leaves_with_path
    defaults = dict(leaves(getattr(env, "default_params", None)))
    for where, x in leaves(env_params):
        # one axis more may be what the environment reads: if not, it says something else
        default = defaults.get(where)
        if default is None or np.ndim(x) != np.ndim(default) + 1:
            continue
        try:
            inspect_env(env, env_params)
        except ConfigError as error:
            raise ConfigError(
                f"env_params{jax.tree_util.keystr(where)} is an array {list(np.shape(x))}, an "
                f"environment takes {list(np.shape(default)) or 'one number'}: use jax.vmap(train, "
                "(None, None, 0))(key, None, env_params), or env_params_axis=0 where each "
                "environment has its own"
            ) from error
        return


def _vectorizer(
    config: PPOConfig, env: Any, env_params: EnvParams, axis: Any
) -> tuple[EnvSpec, Callable[..., VecEnv], Callable[..., VecEnv] | None]:
    """Inspects an environment once, and returns what makes N of it one: vmap, or a callback.

    Where each has parameters of its own, also what makes N one that are all alike.
    """
    names, num_envs = config.info_metrics, config.num_envs
    if isinstance(env, HostEnvironment):
        if config.reset_batch is not None:
            raise ConfigError(
                f"reset_batch={config.reset_batch} has no effect on environments of the host: "
                "leave it None"
            )
        if names:
            check_info_metrics(names, kinds_told(env, names))
        read = _entries_read(config, env.spec.observation)
        spec = env.spec._replace(observation=only(env.spec.observation, read))
        return spec, lambda n, mesh=None: make_host_vec_env(env, n, names, mesh, read), None

    def inspected(env: Environment, params: EnvParams) -> InspectedEnv:
        found = inspect_env(env, params)
        check_info_metrics(names, found.info)
        return found.showing(_entries_read(config, found.spec.observation))

    def many(one: InspectedEnv, n: int, axis: Any = None) -> VecEnv:
        return vectorize(one, n, config.reset_batch, names, axis)

    # parameters along an axis: those of the first stand for all where spaces are asked for
    if axis is not None:
        axes_of(env_params, axis, num_envs)
        with jax.ensure_compile_time_eval():
            entry = rows(env_params, axis, 0)
        first = inspected(env, entry)
        return (
            first.spec,
            lambda n, mesh=None: with_shares(many(first, n, axis), axis, num_envs, n, mesh),
            lambda n, mesh=None: many(inspected(env, env.default_params), n),
        )

    # drawn: inspected once with the defaults, which fix the spaces, and once with what is drawn
    drawn = isinstance(env_params, DrawnParams)
    one = inspected(env, env.default_params if drawn else env_params)
    if not drawn:
        return one.spec, lambda n, mesh=None: many(one, n), None
    draw, kept = Draw(env_params.draw), env_params.per == "environment"
    own = inspected(EpisodeParams(one.env, draw), ())

    def each_own(n: int, mesh: Mesh | None = None) -> VecEnv:
        return with_drawn(many(one, n, draw.axes), draw, n) if kept else many(own, n)

    return one.spec, each_own, lambda n, mesh=None: many(one, n)


def _entries_read(config: PPOConfig, observation: SpaceTree) -> tuple[str, ...]:
    """Returns the entries of an observation that actor or critic reads; none where all are.

    Raises:
        ConfigError: there are no such entries.
    """
    for field in ("actor_observation", "critic_observation"):
        check_entries(field, getattr(config, field), observation)
    actor, critic = config.actor_observation, config.critic_observation
    return (*actor, *critic) if actor and critic else ()


def check_entries(field: str, names: Sequence[str], observation: SpaceTree) -> None:
    """Checks that an observation has the entries that are named.

    Args:
        field: of the configuration, which names them.
        names: of the entries; none stand for the whole observation.
        observation: spaces (`EnvSpec.observation`).

    Raises:
        ConfigError: it has none with such a name, or nothing in it has a name.
    """
    if names and not fields(observation):
        raise ConfigError(
            f"{field}={shown(names)} names entries of a dictionary, and the observation is "
            f"{shown(observation)}: leave it at ()"
        )
    arrays = [name.split("/") for name, _ in entries(observation)]
    known = {"/".join(parts[:n]) for parts in arrays for n in range(1, len(parts) + 1)}
    for name in names:
        if name in MASKS and name in fields(observation):
            raise ConfigError(
                f"{field} entry {name!r} is the action mask, which is read in any case: leave it "
                "out"
            )
        if name not in known:
            raise ConfigError(
                f"{field} entry {shown(name)} is not in the observation: "
                f"{did_you_mean(name, known)}"
            )
        others = [other for other in names if other != name]
        if others and is_within(name, others):
            raise ConfigError(f"{field} entry {name!r} is in another one: leave it out")
