"""One training run over the devices of a mesh: each steps its share of the environments.

Parameters are equal everywhere, for gradients and statistics are averaged. The state has the shapes
that it has on one device, so that it can be saved on one mesh and loaded on another.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from purejaxppo.components import (
    Components,
    CustomEnv,
    CustomObjective,
    CustomOptimizer,
    CustomPolicy,
    make_components,
)
from purejaxppo.config.schema import PPOConfig
from purejaxppo.config.sizes import check_shares
from purejaxppo.errors import ConfigError, shown
from purejaxppo.parallel import ENVS, platform_of, where
from purejaxppo.train import learner_of
from purejaxppo.tuning import compiled_for
from purejaxppo.types import EnvParams, Estimator, Learner, LearnerState, Schedule


def shard_environments(
    config: PPOConfig | Mapping[str, Any],
    mesh: Mesh,
    *,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
    objective: CustomObjective = None,
    advantage: Estimator | None = None,
    optimizer: CustomOptimizer = None,
    schedule: Schedule | None = None,
    env_params_axis: Any = None,
) -> Learner:
    """Makes a training run over the devices of a mesh, for those who drive the updates themselves.

    Args:
        config: what to train, its num_envs those of all devices together; a mapping is read by
            `PPOConfig.from_dict`.
        mesh: devices; along its axis "envs" the environments are spread, see `make_mesh`.
        env: as in `make_learner`, and so are all others.
        env_params: its parameters; those with an axis are of all environments together.
        policy: a policy, or a linen module.
        objective: an `Objective`, or its loss alone.
        advantage: `(rollout, hyperparams, config) -> Estimate`.
        optimizer: `(hyperparams) -> optax.GradientTransformation`, or an `Optimizer`.
        schedule: `(hyperparams, progress) -> hyperparams`.
        env_params_axis: of environments, in env_params.

    Returns:
        `init`, `update` and `close` as `make_learner` gives them, of whole arrays.

    Raises:
        ConfigError: see `make_learner`; the mesh has no such axis, the environments or their
            minibatches cannot be shared out equally; or they run on the host, and the mesh has
            devices along another axis.
    """
    components = make_components(
        config, env=env, env_params=env_params, policy=policy, objective=objective,
        advantage=advantage, optimizer=optimizer, schedule=schedule,
        env_params_axis=env_params_axis,
    )  # fmt: skip
    axes = list(mesh.shape) if isinstance(mesh, Mesh) else []
    if ENVS not in axes:
        raise ConfigError(
            f"mesh={shown(mesh)} must be a mesh with an axis {ENVS!r}, among {axes} there is none: "
            "use make_mesh(devices=2)"
        )
    spread = spread_over(components, mesh)
    learner, specs = spread.learner, spread.specs
    here = partial(jax.shard_map, mesh=mesh, check_vma=False)
    init = here(learner.init, in_specs=P(), out_specs=specs)
    update = here(learner.update, in_specs=(specs, P(), P(), P()), out_specs=(specs, P()))
    return Learner(
        lambda key, hyperparams=None, env_params=None: init(key, hyperparams, env_params),
        lambda state, hyperparams=None, env_params=None, num_updates=None: update(
            state, hyperparams, env_params, num_updates
        ),
        learner.close,
    )


class Spread(NamedTuple):
    """A training run over the devices of a mesh.

    Attributes:
        learner: what each device does, to be called inside `shard_map`.
        mesh: the devices.
        specs: where on the mesh each array of the state is.
        env_params: of the environments, where `learner` is given no others.
    """

    learner: Learner
    mesh: Mesh
    specs: LearnerState
    env_params: EnvParams


def spread_over(components: Components, mesh: Mesh, *lead: str) -> Spread:
    """Spreads the environments of a run over the devices of a mesh.

    Args:
        components: what is trained, and how.
        mesh: devices, its axis "envs" those that the environments are spread over.
        *lead: the mesh axis of a leading axis that all arrays of the state have, if they have one.

    Returns:
        What each device does, and where the state is.

    Raises:
        ConfigError: what a device would have is not whole.
    """
    check_spread(components, mesh)
    whole, devices = learner_of(components), mesh.shape[ENVS]
    # whatever the default device is, programs are made for those of the mesh
    here = compiled_for(platform_of(mesh))
    specs = where(jax.eval_shape(here(whole.init), jax.random.key(0)), *lead)
    if components.hosted:  # where they are in their episodes, all devices count alike
        specs = specs.replace(env_state=P(*lead))
    if devices > 1:
        parts = components._replace(vectorize=partial(components.vectorize, mesh=mesh))
        whole = learner_of(parts, ENVS, devices)
    learner = whole._replace(init=here(whole.init), update=here(whole.update))
    return Spread(learner, mesh, specs, components.env_params)


def check_spread(components: Components, mesh: Mesh) -> None:
    """Checks that the environments of a run can be spread over a mesh; nothing is traced.

    Args:
        components: what is trained, and how.
        mesh: devices, its axis "envs" those that the environments are spread over.

    Raises:
        ConfigError: what a device would have is not whole; or they run on the host, and the mesh
            has devices along another axis.
    """
    devices = mesh.shape[ENVS]
    if components.hosted and devices < mesh.size:
        raise ConfigError(
            f"mesh has {mesh.size} devices, {devices} of them for each agent, and environments on "
            f"the host are stepped for one agent: use make_mesh(devices={mesh.size})"
        )
    if devices > 1:
        check_shares(components.config, devices, components.sequence_length)
