"""Gymnasium: any of its environments, MuJoCo's among them, on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from purejaxppo.envs.host import HostEnvironment
from purejaxppo.envs.interface import arguments_of, current_folder, making
from purejaxppo.envs.suites.adapter import with_limit
from purejaxppo.errors import ConfigError
from purejaxppo.types import EnvParams

DRAWN = {"render_mode": "rgb_array"}  # options of environments that are to be filmed


def names() -> list[str]:
    """Returns the environments that Gymnasium registers."""
    return list(gymnasium.registry)


def _options_of(name: str) -> list[str]:
    """Returns what an environment is made with, by `make_env` and by what Gymnasium calls."""
    found = gymnasium.spec(name).entry_point
    creator = load_env_creator(found) if isinstance(found, str) else found
    return ["max_steps", "processes", *(arguments_of(creator) if creator else ())]


def make_env(
    name: str, *, processes: bool = False, max_steps: int | None = None, **options: Any
) -> tuple[HostEnvironment, EnvParams]:
    """Makes one environment, N at a time.

    Args:
        name: as in `gymnasium.make`, also `module:id`.
        processes: each environment in a process of its own, for those whose steps take long.
        max_steps: a time limit in place of the environment's own.
        **options: as in `gymnasium.make`.
    """
    # what they return is copied by who steps them
    settings: dict[str, object] = {"autoreset_mode": AutoresetMode.DISABLED, "copy": False}
    if processes:
        settings["context"] = "spawn"  # a fork would inherit the threads of JAX
    options = with_limit(options, max_steps, "max_episode_steps")

    def make(num_envs: int) -> VectorEnv:
        mode = "async" if processes else "sync"
        with making(f"gymnasium/{name}", options, lambda: _options_of(name)), current_folder():
            return gymnasium.make_vec(name, num_envs, mode, vector_kwargs=dict(settings), **options)

    env = HostEnvironment(make, f"gymnasium/{name}")
    return env, env.default_params


def _hosted_vector(given: VectorEnv, name: str) -> HostEnvironment:
    """Returns a vector environment as one on the host, made anew of what each of its copies is.

    Raises:
        ConfigError: it does not say how its copies were made.
    """
    functions = getattr(given, "env_fns", None)
    if isinstance(given, SyncVectorEnv | AsyncVectorEnv) and isinstance(functions, list | tuple):
        settings: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}
        if isinstance(given, AsyncVectorEnv):
            settings["context"] = "spawn"  # a fork would inherit the threads of JAX
        kind = type(given)

        def make(num_envs: int, first: int = 0) -> VectorEnv:
            # of copies that differ, as many of each as come round, on all devices together
            numbers = range(first, first + num_envs)
            return kind([functions[i % len(functions)] for i in numbers], **settings)

        return HostEnvironment(make, name, numbered=True)
    if isinstance(given, SyncVectorEnv):  # its functions are used up, its copies know theirs
        found = hosted(given.envs[0], name)
        assert found is not None
        return found
    spec = None if isinstance(given, VectorWrapper) else given.spec
    if spec is not None and "vectorization_mode" in spec.kwargs:  # of `make_vec`, by name
        known = ("vectorization_mode", "num_envs")
        return make_env(spec.id, **{k: v for k, v in spec.kwargs.items() if k not in known})[0]
    raise ConfigError(
        f"{name} is one vector environment that does not say how it was made, and every run makes "
        "its own, of num_envs: pass HostEnvironment(make), where make(num_envs) makes it with "
        "AutoresetMode.DISABLED"
    )


def hosted(
    given: object, name: str, make: Callable[[], Any] | None = None
) -> HostEnvironment | None:
    """Returns an environment of Gymnasium's as one on the host; None of anything else.

    Args:
        given: an environment, or what it is registered as.
        name: of it, for messages.
        make: what has made it, and makes each copy; None: they are made as it was itself, from
            its `spec`, which knows its wrappers and options.

    Raises:
        ConfigError: it does not say how it was made.
    """
    if isinstance(given, VectorEnv):
        return _hosted_vector(given, name)
    if isinstance(given, gymnasium.Env) and make is not None:
        given.close()  # it has shown what is made
        if given.spec is not None and ":" not in name:  # as it is found by
            name = f"gymnasium/{given.spec.id}"
    elif isinstance(given, gymnasium.Env | EnvSpec):
        spec = given if isinstance(given, EnvSpec) else given.spec
        # a wrapper may not have kept what it was made with
        if spec is None or any(wrapper.kwargs is None for wrapper in spec.additional_wrappers):
            raise ConfigError(
                f"{name} does not say how it was made, and num_envs of it are needed: pass its "
                "class, or a function that makes it"
            )
        name, make = f"gymnasium/{spec.id}", lambda: gymnasium.make(spec)
    else:
        return None
    makers = [make]
    return HostEnvironment(
        lambda n: SyncVectorEnv(makers * n, autoreset_mode=AutoresetMode.DISABLED), name
    )
