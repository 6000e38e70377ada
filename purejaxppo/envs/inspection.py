"""The one boundary through which every environment in JAX enters, and which says what is wrong.

What it raises and returns is looked at while it is traced, which costs nothing when it is stepped.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from purejaxppo.envs.declared import check_actions, observation_spaces, spaces_of
from purejaxppo.envs.info import COUNTED, arrays_of, kinds_in
from purejaxppo.envs.interface import check_arrays, check_interface, is_array, is_number, kind_of
from purejaxppo.envs.traced_once import TracedOnce
from purejaxppo.envs.wrappers.action_mask import mask_in_observation
from purejaxppo.envs.wrappers.base import ResetReturn, StepReturn, Wrapper
from purejaxppo.envs.wrappers.episodes import EpisodeStatistics, counts
from purejaxppo.errors import ConfigError
from purejaxppo.spaces import DeclaredSpace, EnvSpec, fields, only, zeros
from purejaxppo.types import Action, Array, Environment, EnvParams, EnvState, Obs, PyTree


class Checked(Wrapper):
    """An environment whose faults are ConfigErrors: what it raises, and returns in another form.

    Of its `info`, which training reads for masks, returns and numbers, what is no array is left
    out.
    """

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state), and an info if the environment gives one."""
        obs, state, *infos = self._values("reset_env", (2, 3), "(obs, state)", key, params)
        return obs, state, *infos

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        form = "(obs, state, reward, terminated, info)"
        values = self._values("step_env", (5,), form, key, state, action, params)
        obs, state, reward, terminated, info = values
        return obs, state, _number("reward", reward), _number("terminated", terminated), info

    def is_truncated(self, state: EnvState, params: EnvParams) -> Array:
        """Says whether the time limit is reached."""
        return _number("is_truncated", self._called("is_truncated", state, params))

    def observation_space(self, params: EnvParams) -> DeclaredSpace:
        """Describes the observations."""
        return self._called("observation_space", params)

    def action_space(self, params: EnvParams) -> DeclaredSpace:
        """Describes the actions."""
        return self._called("action_space", params)

    def _values(self, name: str, sizes: tuple[int, ...], form: str, *args: Any) -> list[Any]:
        """Calls a method that returns observations, a state and more, and looks at all of it."""
        values = self._called(name, *args)
        if not isinstance(values, tuple | list) or len(values) not in sizes:
            several = isinstance(values, tuple | list)
            got = f"{len(values)} values" if several else kind_of(values)
            hint = ": is_truncated says what a time limit cuts off" if got == "6 values" else ""
            raise ConfigError(f"{name} returns {got}, it must be {form}{hint}")
        obs, state, *rest = values
        check_arrays(f"{name}'s observation", obs)
        check_arrays(f"{name}'s state", state)
        if len(rest) != 0:  # an info comes last
            rest[-1] = arrays_of(f"{name}'s info", rest[-1])
        return [obs, state, *rest]

    def _called(self, name: str, *args: Any) -> Any:
        """Calls a method, whose last argument are the parameters."""
        try:
            return getattr(self.env, name)(*args)
        except ConfigError:
            raise
        except Exception as error:  # whatever is raised is raised by what the user gave
            words = f"{name} raises {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise ConfigError(words + place(error) + self._about(args[-1])) from error

    def _about(self, params: EnvParams) -> str:
        """Says that parameters are of another form than the environment's own, if so."""
        own = self.env.default_params
        if jax.tree.structure(params) == jax.tree.structure(own):
            return ""
        return (
            f"; env_params ({type(params).__name__}) have another form than default_params "
            f"({type(own).__name__}): begin with those, such as default_params.replace(...)"
        )


def place(error: Exception) -> str:
    """Says where an exception comes from: the last line in a file of the user's.

    Args:
        error: raised by something of the user's.
    """
    ours = str(Path(__file__).parents[1])
    nameless = ("site-packages", "ipykernel_")  # a cell of a notebook has a number for a name
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((ours, "<"))
        and not any(part in frame.filename for part in nameless)
    ]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _number(name: str, x: Any) -> Any:
    """Returns a reward or flag, if it is a number."""
    if not is_array(x) or not is_number(jax.typeof(x).dtype):
        raise ConfigError(f"{name} is {kind_of(x)}: it must be a number, such as jnp.float32(1)")
    return x


# -- one environment, made ready ------------------------------------------------------------------


class InspectedEnv(NamedTuple):
    """One environment, made ready to be stepped N at a time.

    Attributes:
        env: the environment, its action mask in the observation, its episodes counted.
        spec: what it sees and does.
        state: its state after a step, in shapes and dtypes.
        info: what its info holds, see `info.kinds_in`.
        entries: names of the parts of an observation that are shown; none: all are.
    """

    env: Any
    spec: EnvSpec
    state: EnvState
    info: dict[str, str]
    entries: Sequence[str] = ()

    def showing(self, entries: Sequence[str]) -> InspectedEnv:
        """Returns the environment with a part of what it shows: nobody computes or keeps the rest.

        Args:
            entries: names of the parts, see `spaces.only`.
        """
        spec = self.spec._replace(observation=only(self.spec.observation, entries))
        return self._replace(spec=spec, entries=entries)


def inspect_env(env: Environment, env_params: EnvParams) -> InspectedEnv:
    """Compares what an environment returns with what it declares, and makes it ready.

    Its `reset_env` and `step_env` are traced here, once each; programs that are made of it later
    use what was traced.

    Args:
        env: one environment.
        env_params: parameters that fix the spaces; those of each call may differ in value.

    Returns:
        The environment with its spaces.

    Raises:
        ConfigError: something of it is missing, a space is not supported, one of its methods
            raises, or its values contradict its spaces.
    """
    check_interface(env)
    if not isinstance(env, TracedOnce):
        env = cast(Any, TracedOnce(Checked(env), constant_params=True))
    env = mask_in_observation(env, env_params)
    spec = check_spec(env, env_params)
    shapes = _shapes(env, env_params, spec.action)
    # episodes are counted inside of reward wrappers where the user did so, else outside of all
    if not (counts(env) and set(COUNTED) <= fields(shapes.info).keys()):
        env = cast(Any, EpisodeStatistics(env))
        shapes = _shapes(env, env_params, spec.action)
    return InspectedEnv(env, spec, shapes.state, kinds_in(shapes.info))


def check_spec(env: Environment, env_params: EnvParams) -> EnvSpec:
    """Compares the spaces that an environment declares with the values that it returns.

    Args:
        env: one environment.
        env_params: parameters that fix the spaces.

    Returns:
        Its spaces.

    Raises:
        ConfigError: an unsupported space, unbounded actions, an observation, reward or flag of
            another shape or dtype than declared, or a state that changes its form.
    """
    with jax.ensure_compile_time_eval():  # bounds are numbers, also while a program is traced
        declared = env.observation_space(env_params)
        action = spaces_of(env.action_space(env_params))
    check_actions(action)
    shapes = _shapes(env, env_params, action)
    with jax.ensure_compile_time_eval():
        observation = observation_spaces(declared, shapes.reset_obs)
    for where, obs in (("reset_env", shapes.reset_obs), ("step_env", shapes.step_obs)):
        got, said = _describe(obs), _describe(observation)
        if got != said or jax.tree.structure(obs) != jax.tree.structure(observation):
            raise ConfigError(
                f"{where} returns an observation {got}, its space says {said}: "
                "fix the one or the other"
            )
    for name in ("reward", "terminated", "is_truncated"):
        x = getattr(shapes, name)
        if x.shape != ():
            raise ConfigError(
                f"{name} is {_describe(x)}: it must be a scalar, such as x[0] or x.any()"
            )
    return EnvSpec(observation, action)


def _describe(tree: Any) -> str:
    """Dtypes and shapes of arrays, or of spaces, as they stand."""
    return str(jax.tree.map(lambda x: f"{x.dtype.name}{list(x.shape)}", tree))


class _Shapes(NamedTuple):
    """What a reset and a step return, in shapes and dtypes."""

    reset_obs: Obs
    state: EnvState  # after a step
    step_obs: Obs
    reward: Array
    terminated: Array
    is_truncated: Array
    info: PyTree


def _shapes(env: Environment, env_params: EnvParams, action: Any) -> _Shapes:
    """Finds what a reset and a step return by tracing them: nothing is run.

    Raises:
        ConfigError: the state after a step is not like that after a reset, or than the next one.
    """

    def once(key: Array) -> _Shapes:
        obs, first, *_ = env.reset_env(key, env_params)
        types = env.step_env(key, first, zeros(action), env_params)[1]
        _check_state(first, types)
        # as in training: the first state has the dtypes that a step gives
        state = with_types(first, types)
        after, state, *paid, info = env.step_env(key, state, zeros(action), env_params)
        if _describe(state) != _describe(types):
            raise ConfigError(
                f"the state is {_describe(types)} after one step, {_describe(state)} after the "
                "next: give it the same shapes and dtypes in every step"
            )
        scalars = map(jnp.asarray, (*paid, env.is_truncated(state, env_params)))
        reward, terminated, truncated = scalars
        return _Shapes(obs, state, after, reward, terminated, truncated, info)

    return jax.eval_shape(once, jax.random.key(0))


def _check_state(first: EnvState, later: EnvState) -> None:
    """Checks that the state after a step is like that after a reset, but for dtypes of numbers."""

    def form(state: EnvState) -> tuple[Any, list[list[int]]]:
        leaves, tree = jax.tree.flatten(state)
        return tree, [list(jnp.shape(x)) for x in leaves]

    if form(first) != form(later):
        (tree, shapes), (other, others) = form(first), form(later)
        raise ConfigError(
            f"the state is {tree} with shapes {shapes} after reset_env, {other} with shapes "
            f"{others} after step_env: give both one form"
        )
    # numbers can become others, but neither complex numbers nor keys
    kinds = [[jax.typeof(x).dtype for x in jax.tree.leaves(state)] for state in (first, later)]
    if any(a != b and not (is_number(a) and is_number(b)) for a, b in zip(*kinds, strict=True)):
        raise ConfigError(
            f"the state is {_describe(first)} after reset_env, {_describe(later)} after step_env: "
            "give both one form"
        )


def with_types(state: EnvState, types: EnvState) -> EnvState:
    """Returns a state in other dtypes: some resets give Python numbers, which loops do not carry.

    Args:
        state: of a reset.
        types: a state of the same form, whose dtypes are taken.
    """
    return jax.tree.map(lambda x, t: jnp.asarray(x, t.dtype), state, types)
