"""The base class of adapters, and functions that several of them use."""

from __future__ import annotations

import contextlib
import copy
import importlib
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import keystr, tree_leaves_with_path, tree_map_with_path
from numpy.typing import ArrayLike, DTypeLike

from purejaxppo.config.coerce import coerce
from purejaxppo.envs.wrappers.episodes import EpisodeStatistics, TimeLimit
from purejaxppo.envs.wrappers.steps import ScaleReward
from purejaxppo.errors import ConfigError, did_you_mean, shown
from purejaxppo.spaces import Box, SpaceTree
from purejaxppo.types import Environment, EnvParams, EnvState, PyTree

RawEnv: TypeAlias = Any
"""A suite's environment as the suite makes it, of whatever class."""


class _Later(ModuleType):
    """A module that is imported when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def imported_when_used(*names: str) -> Iterator[None]:
    """Lets what is imported within the block import these modules when it uses something of them.

    Args:
        *names: of the modules; those that are imported already are left alone.
    """
    later = {name: _Later(name) for name in names if name not in sys.modules}
    sys.modules.update(later)
    try:
        yield
    finally:
        for name in later:  # whoever imports it from here on gets the module itself
            del sys.modules[name]


@contextlib.contextmanager
def downloading(name: str, downloads: bool) -> Iterator[None]:
    """Explains errors of an environment that cannot be made because its data are not there.

    Args:
        name: of the environment.
        downloads: whether it needs data; the errors of others are left alone.

    Raises:
        ConfigError: in place of whatever was raised.
    """
    try:
        yield
    except Exception as error:
        if not downloads:
            raise
        raise ConfigError(
            f"{name} downloads its data when it is made, and that failed ({error}): "
            "use it with a network, or another environment"
        ) from error


class Adapter:
    """A suite's environment: spaces that are fixed, no parameters, and no limit of its own.

    Subclasses define `reset_env` and `step_env`; `PHYSICS` where the suite's environment holds its
    physics in a model. Parameters are then fields of it by name, which are replaced.

    Args:
        env: the suite's.
        observation: its spaces.
        action: its spaces.
    """

    default_params: EnvParams = ()
    PHYSICS: str | None = None
    """The attribute of the suite's environment that is its model; None: it has none."""

    def __init__(self, env: RawEnv, observation: SpaceTree, action: SpaceTree):
        self.env = env
        self._observation, self._action = observation, action

    def observation_space(self, params: EnvParams) -> SpaceTree:
        """Describes the observations."""
        return self._observation

    def action_space(self, params: EnvParams) -> SpaceTree:
        """Describes the actions."""
        return self._action

    def is_truncated(self, state: EnvState, params: EnvParams) -> Array:
        """Says that no limit is reached: `TimeLimit` replaces the clock that a suite has."""
        return jnp.bool_(False)

    @property
    def physics(self) -> PyTree:
        """Returns the model that the physics is computed with; None where there is none."""
        return None if self.PHYSICS is None else getattr(self.env, self.PHYSICS)

    def simulator(self, params: EnvParams) -> RawEnv:
        """Returns the suite's environment with fields of its model replaced.

        Args:
            params: fields by name, such as {"geom_friction": [G, 3]}; without any it is the
                environment itself.

        Raises:
            ConfigError: there is no such field, or it has another shape.
        """
        if self.PHYSICS is None or not jax.tree.leaves(params):
            return self.env
        # a copy, for programs of other parameters are made of the same object
        env = copy.copy(self.env)
        setattr(env, self.PHYSICS, with_fields(self.physics, params))
        return env


def field_name(where: Any) -> str:
    """Returns the name of a place in parameters or in a model, such as `opt.gravity`.

    Args:
        where: its path, as `jax.tree_util` gives it.
    """
    return keystr(where, simple=True, separator=".")


def with_fields(model: PyTree, fields: Mapping[str, ArrayLike]) -> PyTree:
    """Returns a model with some of its fields replaced.

    Args:
        model: of a suite.
        fields: by name, see `field_name`.

    Raises:
        ConfigError: there is no such field, or it has another shape.
    """
    if not isinstance(fields, Mapping):
        raise ConfigError(
            f"env_params are a {type(fields).__name__}, and must be fields of the model by name: "
            "use {'opt.gravity': [0, 0, -5]}"
        )
    known = {field_name(where): np.shape(x) for where, x in tree_leaves_with_path(model)}
    for name, x in fields.items():
        if name not in known:
            near = did_you_mean(str(name), known)  # of more than a hundred
            raise ConfigError(
                f"env_params has {shown(name)}, which is no field of the model: "
                + (near if near.startswith("did") else "use another, such as opt.gravity")
            )
        if np.shape(x) != known[name]:
            raise ConfigError(
                f"env_params has {name} of the shape {list(np.shape(x))}, the model's is "
                f"{list(known[name])}: use that, behind the axis of environments if there is one"
            )

    def replaced(where: Any, x: Any) -> Any:
        value = fields.get(field_name(where))
        return x if value is None else jnp.asarray(value, x.dtype)

    return tree_map_with_path(replaced, model)


def with_limit(
    options: dict[str, Any], max_steps: int | None, name: str, per_step: int = 1
) -> dict[str, Any]:
    """Returns options with a time limit among them, under the name that a suite has for it.

    Args:
        options: of the suite.
        max_steps: the time limit; None: leave them as they are.
        name: that the suite has for it.
        per_step: what it counts in a step.

    Raises:
        ConfigError: the options have one already.
    """
    check_limit(options, max_steps, name)
    return options if max_steps is None else {**options, name: max_steps * per_step}


def check_limit(options: Mapping[str, Any], max_steps: int | None, name: str) -> None:
    """Checks that a time limit is given once.

    Args:
        options: of the suite.
        max_steps: the time limit, or None.
        name: that the suite has for it.

    Raises:
        ConfigError: it is among the options too.
    """
    if max_steps is not None and name in options:
        raise ConfigError(f"max_steps is given twice (once as {name!r}): keep one of them")


def limited(env: Environment, max_steps: int | None) -> tuple[Environment, EnvParams]:
    """Returns an environment cut off after a number of steps, and its parameters.

    Args:
        env: one environment, without parameters for a limit.
        max_steps: the time limit; None: its own, if it has one.
    """
    env = env if max_steps is None else TimeLimit(env, max_steps)
    return env, env.default_params


def scaled(env: Environment, reward_scaling: Any) -> Environment:
    """Returns an environment whose rewards are multiplied, and whose returns are not.

    Args:
        env: one environment.
        reward_scaling: the factor, as it was given.

    Raises:
        ConfigError: it is no number.
    """
    factor = coerce("reward_scaling", float, reward_scaling, 1.0)
    return env if factor == 1.0 else ScaleReward(EpisodeStatistics(env), factor)


def box(
    low: ArrayLike, high: ArrayLike, shape: tuple[int, ...], dtype: DTypeLike = np.float32
) -> Box:
    """Returns a Box with the same bounds everywhere, or with those of arrays.

    Args:
        low: broadcast to `shape`.
        high: broadcast to `shape`.
        shape: of the arrays in it.
        dtype: of the arrays in it.
    """
    dtype = np.dtype(dtype)
    low, high = (np.broadcast_to(np.asarray(bound), shape) for bound in (low, high))
    return Box(low, high, tuple(shape), dtype)


def anything(x: Any) -> Box:
    """Returns the Box of all arrays of a shape and dtype.

    Args:
        x: an array, its shape and dtype, or a specification that has both.
    """
    dtype = np.dtype(x.dtype)
    if dtype == np.bool_:
        return box(False, True, x.shape, dtype)
    if np.issubdtype(dtype, np.integer):
        return box(np.iinfo(dtype).min, np.iinfo(dtype).max, x.shape, dtype)
    return box(-np.inf, np.inf, x.shape, dtype)


def paint(channels: ArrayLike) -> np.ndarray:
    """Paints what is where: a colour for each channel, the last on top.

    Args:
        channels: [H, W, C], not zero where something is.

    Returns:
        [H, W, 3] uint8.
    """
    import matplotlib

    # colours as far apart on the map as so many channels allow
    present = np.asarray(channels) != 0
    number = present.shape[-1]
    colours = matplotlib.colormaps["turbo"](np.linspace(0.1, 0.9, number))[:, :3]
    palette = np.concatenate([np.zeros((1, 3)), colours])  # black where nothing is
    # the highest channel at each place, counted from 1, picks its colour
    top = (present * np.arange(1, number + 1)).max(-1)
    return np.round(palette[top] * 255).astype(np.uint8)
