# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""MuJoCo Playground: the DeepMind control suite, locomotion and manipulation on MJX."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from mujoco_playground import dm_control_suite, locomotion, manipulation, registry
from mujoco_playground._src.mjx_env import ensure_menagerie_exists

from purejaxppo.config.coerce import coerce
from purejaxppo.config.rules import check_choice
from purejaxppo.envs.interface import no_option
from purejaxppo.envs.suites.adapter import (
    Adapter,
    RawEnv,
    anything,
    box,
    check_limit,
    downloading,
    limited,
    scaled,
)
from purejaxppo.envs.wrappers.base import ResetReturn, StepReturn, check_count
from purejaxppo.envs.wrappers.steps import ActionRepeat
from purejaxppo.errors import ConfigError
from purejaxppo.types import Action, Environment, EnvParams, EnvState

IMPLEMENTATIONS = ("jax", "warp")
"""Of MJX: compiled by XLA for every device, or kernels of NVIDIA's Warp."""


class Playground(Adapter):
    """A raw environment; where it shows a dictionary, that is what is seen, every entry of it.

    `state` is what a robot's sensors tell, `privileged_state` what a simulator alone can know.

    Args:
        env: MuJoCo Playground's.
        buffers: what Warp computes in, of which a state needs nothing: its contacts are those of
            all environments together, and have no axis to reset them by; None under JAX.
    """

    PHYSICS = "_mjx_model"

    def __init__(self, env: RawEnv, buffers: Any = None):
        first = jax.eval_shape(env.reset, jax.random.key(0))
        spaces = jax.tree.map(anything, first.obs)
        super().__init__(env, spaces, box(-1.0, 1.0, (env.action_size,)))
        self._buffers = buffers

    def reset_env(self, key: Array, params: EnvParams) -> ResetReturn:
        """Begins an episode: (obs, state)."""
        state = self.simulator(params).reset(key)
        return state.obs, self._with_buffers(state, None)

    def step_env(
        self, key: Array, state: EnvState, action: Action, params: EnvParams
    ) -> StepReturn:
        """Steps once: (obs, state, reward, terminated, info)."""
        # tasks write into the dictionaries of the state that they are given: theirs is a copy
        state = self._with_buffers(jax.tree.map(lambda x: x, state), self._buffers)
        state = self._with_buffers(self.simulator(params).step(state, action), None)
        info = {**state.info, **state.metrics}
        return state.obs, state, state.reward, state.done > 0.5, info

    def _with_buffers(self, state: EnvState, buffers: Any) -> EnvState:
        if self._buffers is None:
            return state
        return state.replace(data=state.data.replace(_impl=buffers))

    def frames(self, states: Sequence[EnvState], params: EnvParams) -> Sequence[np.ndarray]:
        """Returns pictures of states, [H, W, 3] uint8, drawn by MuJoCo.

        Args:
            states: of the environment.
            params: none.
        """
        return self.env.render(list(states), height=300, width=400)


def names() -> list[str]:
    """Returns the environments of its three suites."""
    suites = (dm_control_suite, locomotion, manipulation)
    return [name for suite in suites for name in suite.ALL_ENVS]


def options_of(name: str) -> list[str]:
    """Returns the entries of an environment's configuration, those inside of a part as part.name.

    Args:
        name: of the environment.
    """
    return list(_entries(registry.get_default_config(name)))


def make_env(
    name: str, *, max_steps: int | None = None, reward_scaling: float = 1.0, **options: Any
) -> tuple[Environment, EnvParams]:
    """Makes one environment and its parameters, of which there are none.

    Args:
        name: such as `CartpoleBalance` or `Go1JoystickFlatTerrain`.
        max_steps: the time limit, in steps of the agent; None: its `episode_length`.
        reward_scaling: what rewards are multiplied by; the returns that are reported are not.
        **options: in place of those of its configuration, such as `impl="warp"` for jax,
            `action_repeat=4` or `{"noise_config.level": 0.5}`.

    Raises:
        ConfigError: its configuration has no such entry or one of another type, a limit is given
            twice, or its models cannot be downloaded.
    """
    # what it is made with, by its own configuration; its own default, warp, needs another package
    config = registry.get_default_config(name)
    if "impl" in config:
        config.impl = "jax"
    defaults = _entries(config)
    changes = _overrides(f"playground/{name}", defaults, options)
    settings = defaults | changes
    check_choice("impl", settings.get("impl", "jax"), IMPLEMENTATIONS)
    check_limit(options, max_steps, "episode_length")
    repeat = check_count("action_repeat", settings.get("action_repeat", 1), 1, 4)

    # the models of robots are the files of another repository
    if name not in dm_control_suite.ALL_ENVS:
        with downloading(f"playground/{name}", True), _quietly():
            ensure_menagerie_exists()
    raw = registry.load(name, config=config, config_overrides=changes)
    buffers = _buffers(raw, settings) if settings.get("impl") == "warp" else None

    # it leaves the limit, repetitions and scale to those who train
    limit = settings["episode_length"] if max_steps is None else max_steps * repeat
    env, params = limited(Playground(raw, buffers), int(limit))
    return scaled(ActionRepeat(env, repeat) if repeat > 1 else env, reward_scaling), params


def _entries(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns what a configuration holds, the entries of its parts as part.name."""
    found = {}
    for name, value in config.items():
        inner = hasattr(value, "items")
        found |= _entries(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return found


def _overrides(
    name: str, defaults: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Brings options to the types that a configuration has for them.

    Raises:
        ConfigError: there is no such entry, or it is of another type.
    """
    changes = {}
    for option, value in options.items():
        inside = [entry for entry in defaults if entry.startswith(f"{option}.")]
        if inside:
            raise ConfigError(
                f"{name} has no option {option!r}, but options inside of it: use "
                f"{inside[0]}={defaults[inside[0]]}"
            )
        if option not in defaults:
            known = [*defaults, "max_steps", "reward_scaling"]
            raise ConfigError(no_option(name, option, known))
        changes[option] = _as(option, value, defaults[option])
    return changes


def _as(option: str, value: Any, default: Any) -> Any:
    """Brings a value to the type of a default: a number, text, or a list of as many of them."""
    if default is None:
        return value
    if not isinstance(default, list | tuple):
        return coerce(option, type(default), value, default)
    texts = all(isinstance(entry, str) for entry in default)
    fits = isinstance(value, list | tuple) and (len(value) == len(default) or (texts and value))
    if not fits:
        words = "one text or more" if texts else f"{len(default)} values"
        raise ConfigError(f"{option}={value!r} must be {words}: use {list(default)}")
    return type(default)(coerce(f"{option} entry", type(default[0]), v, default[0]) for v in value)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps what a download prints to itself: of a failure one line is said."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _buffers(env: RawEnv, settings: Mapping[str, Any]) -> Any:
    """Returns what Warp computes in, and keeps it from printing a line for each of its kernels."""
    import warp
    from mujoco import mjx

    warp.config.quiet, warp.config.log_level = True, 30  # before and since 1.12: warnings alone
    sizes = {name: settings[name] for name in ("naconmax", "naccdmax", "njmax") if name in settings}
    return mjx.make_data(env.mj_model, impl="warp", **sizes)._impl
