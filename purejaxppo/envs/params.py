"""Parameters that environments have each of their own: along an axis, or drawn.

Domain randomisation: a policy that is trained under many physics also acts under one that it has
not met (arXiv:1703.06907, arXiv:1710.06537). Environment i either has the i-th entry of an axis; or
its parameters are drawn, once or for every episode, and are then part of its state.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh
from jax.tree_util import keystr, tree_leaves_with_path

from purejaxppo.config.rules import check_choice
from purejaxppo.envs.inspection import place
from purejaxppo.envs.interface import check_arrays
from purejaxppo.envs.registry import find_env
from purejaxppo.envs.suites.adapter import field_name
from purejaxppo.envs.wrappers.base import Remembered, RememberingWrapper, ResetReturn, StepReturn
from purejaxppo.errors import ConfigError, shown
from purejaxppo.parallel import ENVS
from purejaxppo.types import Action, Array, Environment, EnvParams, PyTree, VecEnv

Axes = Any
"""An axis, or None, for each array of parameters: a pytree of their form."""


# -- along an axis --------------------------------------------------------------------------------


def axes_of(params: EnvParams, axis: Any, num_envs: int) -> Axes:
    """Returns the axis of environments of each array of parameters, and checks its length.

    Args:
        params: of all environments together.
        axis: as `jax.vmap` takes it in `in_axes`: a number, or a pytree of numbers and None, whose
            parts stand for all that is below them.
        num_envs: N, the length that it must have.

    Returns:
        A number or None for each array.

    Raises:
        ConfigError: it does not fit the parameters, or is not so long.
    """
    try:
        axes = jax.tree.broadcast(axis, params, is_leaf=_is_none)
    except ValueError as error:
        raise ConfigError(
            f"env_params_axis={shown(axis)} has another form than env_params: use 0, or the same "
            "pytree with a number or None for each part"
        ) from error
    each = jax.tree.leaves(axes, is_leaf=_is_none)
    if all(a is None for a in each):
        raise ConfigError(
            f"env_params_axis={shown(axis)} names an axis of no part of env_params: use 0, or "
            "leave it out where all environments have the same"
        )
    leaves = tree_leaves_with_path(params, is_leaf=_is_none)
    for (where, x), a in zip(leaves, each, strict=True):
        if a is None:
            continue
        if isinstance(a, bool) or not isinstance(a, int):
            raise ConfigError(f"env_params_axis has {shown(a)}, which is no axis: use 0 or None")
        shape = np.shape(x)
        length = shape[a] if -len(shape) <= a < len(shape) else None
        if length != num_envs:
            raise ConfigError(
                f"env_params{keystr(where)} has the shape {list(shape)}, and along axis {a} one "
                f"for each of num_envs={num_envs} is needed: use jnp.linspace(low, high, "
                f"{num_envs}), or env_params_axis=None for it"
            )
    return axes


def _is_none(x: object) -> bool:
    """Says whether something is None, which is a leaf where axes are."""
    return x is None


def rows(params: EnvParams, axis: Any, which: Any) -> EnvParams:
    """Returns the parameters of some environments, or of one, which has no axis any more.

    Args:
        params: of all.
        axis: as in `axes_of`; None: they have no axis, and are those of each.
        which: their numbers, or one; those beyond the last are the last.
    """
    if axis is None:
        return params
    axes = jax.tree.broadcast(axis, params, is_leaf=_is_none)
    take = lambda a, x: x if a is None else jnp.take(x, which, a, mode="clip")  # noqa: E731
    return jax.tree.map(take, axes, params, is_leaf=_is_none)


def with_shares(
    vec_env: VecEnv, axis: Any, num_envs: int, here: int, mesh: Mesh | None = None
) -> VecEnv:
    """Gives environments their share of parameters, which are those of all devices together.

    Args:
        vec_env: some of the environments, see `vectorize`.
        axis: see `axes_of`.
        num_envs: N, all of them.
        here: how many of them `vec_env` steps.
        mesh: devices that the program runs on, each with so many; None: one, with the first.

    Returns:
        The environments, of parameters of all N.
    """

    def share(params: EnvParams) -> EnvParams:
        axes = axes_of(params, axis, num_envs)
        if here == num_envs:
            return params
        begin = here * (0 if mesh is None else jax.lax.axis_index(ENVS))
        return jax.tree.map(
            lambda a, x: x if a is None else jax.lax.dynamic_slice_in_dim(x, begin, here, a),
            axes, params, is_leaf=_is_none,
        )  # fmt: skip

    return vec_env._replace(
        reset=lambda key, params: vec_env.reset(key, share(params)),
        draw=lambda key, params, state=None: vec_env.draw(key, share(params), state),
        step=lambda draws, state, action, params: vec_env.step(draws, state, action, share(params)),
    )


# -- drawn ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DrawnParams:
    """Parameters that every environment draws for itself, passed as `env_params`.

    They are part of the environment's state: agents side by side draw their own, and a run that is
    resumed goes on with those that it had.

    Attributes:
        draw: `(key) -> params`, such as `lambda key: params.replace(g=jax.random.uniform(key))`.
            The key is consumed. What it leaves as it is, is not kept.
        per: "episode": drawn anew whenever one begins; "environment": once, and kept for the run.

    Raises:
        ConfigError: `draw` is no function, or `per` neither of them.

    Reference: arXiv:1710.06537, section IV-B, where every episode has dynamics of its own.
    """

    draw: Callable[[Array], EnvParams]
    per: Literal["episode", "environment"] = "episode"

    def __post_init__(self) -> None:
        """Checks what was given."""
        if not callable(self.draw):
            raise ConfigError(
                f"draw={shown(self.draw)} must be a function of a key: use lambda key: "
                "params.replace(...)"
            )
        check_choice("per", self.per, ("episode", "environment"))


def read_params(env_params: Any, axis: Any) -> Any:
    """Reads what was passed as `env_params`: a function stands for `DrawnParams` of it.

    Args:
        env_params: parameters, a function, `DrawnParams`, or None.
        axis: what was passed as `env_params_axis`.

    Raises:
        ConfigError: there is an axis, and nothing that has it.
    """
    drawn = isinstance(env_params, DrawnParams) or callable(env_params)
    if axis is not None and (drawn or env_params is None):
        has = "are drawn for each environment" if drawn else "are those of the environment"
        raise ConfigError(
            f"env_params_axis={shown(axis)} has no effect where env_params {has}: leave it out, or "
            "pass env_params with an axis of environments"
        )
    return DrawnParams(env_params) if callable(env_params) else env_params


class Draw:
    """A function that draws parameters, of which only what depends on its key is kept.

    The rest stays what it is: numbers that an environment uses in Python, and the large arrays of a
    model of which a field is drawn.

    Args:
        draw: `(key) -> params`.

    Raises:
        ConfigError: it raises, returns what is no array, or does not draw anything.
    """

    def __init__(self, draw: Callable[[Array], EnvParams]):
        self._draw = draw
        seen = []

        def look(key: Array) -> None:
            params = draw(key)
            check_arrays("env_params(key)", params)
            leaves, form = jax.tree.flatten(params)
            seen.append((form, [None if isinstance(x, Tracer) else x for x in leaves]))

        try:
            jax.eval_shape(look, jax.random.key(0))
        except ConfigError:
            raise
        except Exception as error:  # whatever is raised is raised by what the user gave
            words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise ConfigError(
                f"env_params, called with a key, raises {words}{place(error)}: it must be a "
                "function (key) -> params"
            ) from error
        self._form, self._fixed = seen[0]
        self._count = sum(x is None for x in self._fixed)
        if not self._count:
            raise ConfigError(
                "env_params is a function that draws nothing with its key: pass what it returns"
            )

    def __call__(self, key: Array) -> list[Array]:
        """Draws: what is to be kept. The key is consumed."""
        leaves = jax.tree.leaves(self._draw(key))
        return [x for x, fixed in zip(leaves, self._fixed, strict=True) if fixed is None]

    def params(self, drawn: list[Any], fixed: Callable[[Any], Any] = lambda x: x) -> EnvParams:
        """Returns parameters with what was drawn in its places.

        Args:
            drawn: as a call gives it.
            fixed: applied to what is not drawn.
        """
        of_key = iter(drawn)
        return self._form.unflatten(next(of_key) if x is None else fixed(x) for x in self._fixed)

    @property
    def axes(self) -> Axes:
        """Returns where parameters have an axis of environments: those that are drawn."""
        return self.params([0] * self._count, lambda x: None)


def _check_none(params: EnvParams) -> None:
    """Refuses parameters beside those that are drawn."""
    if jax.tree.leaves(params):
        raise ConfigError(
            f"env_params={shown(params)} have no effect on environments that draw their own: leave "
            "them None"
        )


class EpisodeParams(RememberingWrapper):
    """Draws the parameters of every episode at its beginning, and keeps them to its end.

    Its own parameters are none.

    Args:
        env: one environment; its spaces are those of its default parameters.
        draw: its parameters.
    """

    default_params: EnvParams = ()

    def __init__(self, env: Environment, draw: Draw):
        super().__init__(env)
        self._draw = draw

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state), and an info if the environment gives one."""
        _check_none(params)
        key_draw, key = jax.random.split(key)
        drawn = self._draw(key_draw)
        obs, state, *infos = self.env.reset_env(key, self._draw.params(drawn))
        return obs, Remembered(state, drawn), *infos

    def step_env(
        self, key: Array, state: Remembered, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        own = self._draw.params(state.memory)
        obs, inner, *rest = self.env.step_env(key, state.env_state, action, own)
        return obs, Remembered(inner, state.memory), *rest

    def is_truncated(self, state: Remembered, params: EnvParams) -> Array:
        """Says whether the time limit is reached."""
        return self.env.is_truncated(state.env_state, self._draw.params(state.memory))

    def observation_space(self, params: EnvParams) -> Any:
        """Describes the observations."""
        return self.env.observation_space(self.env.default_params)

    def action_space(self, params: EnvParams) -> Any:
        """Describes the actions."""
        return self.env.action_space(self.env.default_params)


def with_drawn(vec_env: VecEnv, draw: Draw, num_envs: int) -> VecEnv:
    """Draws the parameters of each environment at its first reset, and keeps them in its state.

    Args:
        vec_env: N environments, of parameters with the axes of `draw`.
        draw: their parameters.
        num_envs: N.

    Returns:
        The environments, which have no parameters.
    """

    def reset(key: Array, params: EnvParams) -> tuple[Remembered, PyTree]:
        _check_none(params)
        key_draw, key = jax.random.split(key)
        drawn = jax.vmap(draw)(jax.random.split(key_draw, num_envs))
        state, obs = vec_env.reset(key, draw.params(drawn))
        return Remembered(state, drawn), obs

    def step(
        draws: PyTree, state: Remembered, action: Action, params: EnvParams
    ) -> tuple[Remembered, Any]:
        own = draw.params(state.memory)
        inner, after = vec_env.step(draws, state.env_state, action, own)
        return Remembered(inner, state.memory), after

    return vec_env._replace(
        reset=reset,
        draw=lambda key, params, state: vec_env.draw(key, draw.params(state.memory)),
        step=step,
    )


def randomizer(
    env: Any, randomization_fn: Callable[[PyTree, Array], tuple[PyTree, Axes]]
) -> Callable[[Array], EnvParams]:
    """Makes the function that draws parameters of one that randomises a model.

    For environments whose physics is a model inside of them: those of brax and MuJoCo Playground.

    Args:
        env: such an environment, or its name.
        randomization_fn: `(model, keys [N]) -> (model, in_axes)`, as both libraries have it: a
            model with an axis of N in some of its fields, and a tree of its form that names the
            axis of each (None where there is none). It is called with one key at a time.

    Returns:
        `(key) -> params`, those fields by name, to be passed as `env_params`. The key is consumed.
        For environments that keep theirs, `DrawnParams` of it.

    Raises:
        ConfigError: there is no such environment, or it has no model.

    Reference: `brax.envs.wrappers.training.DomainRandomizationVmapWrapper`.
    """
    made, _ = find_env(env)
    model = getattr(made, "physics", None)
    if model is None:
        raise ConfigError(
            f"{shown(env)} has no model whose fields could be randomised: pass a function "
            "(key) -> params as env_params"
        )
    places = tree_leaves_with_path(model, is_leaf=_is_none)

    @functools.wraps(randomization_fn)  # runs are described by what they were given
    def draw(key: Array) -> EnvParams:
        found, in_axes = randomization_fn(model, key[None])
        axes = jax.tree.broadcast(in_axes, found, is_leaf=_is_none)
        drawn = (jax.tree.leaves(tree, is_leaf=_is_none) for tree in (axes, found))
        fields = {}
        for (where, before), axis, x in zip(places, *drawn, strict=True):
            if axis is not None:
                fields[field_name(where)] = jnp.take(x, 0, axis)
            elif x is not before:
                fields[field_name(where)] = x
        return fields

    return draw
