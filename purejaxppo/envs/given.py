"""Whatever a user gives as an environment, made one: an object, what makes it, or where it is."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from purejaxppo.envs.host import HostEnvironment
from purejaxppo.envs.interface import (
    arguments_of,
    check_interface,
    current_folder,
    making,
    without_statistics,
)
from purejaxppo.envs.wrappers.base import Wrapper
from purejaxppo.errors import ConfigError, did_you_mean


def environment_of(given: Any, options: Mapping[str, Any], name: str) -> Any:
    """Returns an environment of whatever stands for one.

    Args:
        given: an environment in JAX, also in gymnax's LogWrapper, which is taken off; a
            `HostEnvironment`; one of Gymnasium's, or what is registered there; a class or function
            that makes one of them.
        options: what the class or function is called with.
        name: of it, for messages.

    Returns:
        An `Environment`, or a `HostEnvironment`.

    Raises:
        ConfigError: it is none, cannot be made, or lacks what training calls.
    """
    if not _makes(given):
        if options:
            raise ConfigError(
                f"env_options={sorted(options)} have no effect on {name}, which is made already: "
                "leave them out, or name a class or function"
            )
        return _as_it_is(given, name)

    # what a class or function makes, for which options are
    make = functools.partial(given, **options)
    with making(name, options, lambda: arguments_of(given)):
        made = make()
    if _makes(made):
        raise ConfigError(f"{name} makes a {type(made).__name__}: let it return an environment")
    return _as_it_is(made, name, make)


def name_of(env: Any) -> str:
    """Names an environment as it does itself; without a name, as its class, wrappers left out.

    Args:
        env: made, and perhaps wrapped.
    """
    while isinstance(env, Wrapper):
        env = env.env
    name = getattr(env, "name", None)
    return name if isinstance(name, str) and name else type(env).__name__


def _makes(given: Any) -> bool:
    """Says whether something is a class or function, rather than what they make."""
    return isinstance(given, type) or (callable(given) and not hasattr(given, "step_env"))


def _as_it_is(env: Any, name: str, make: Callable[[], Any] | None = None) -> Any:
    """Returns an environment that is made, or was by `make`."""
    if isinstance(env, HostEnvironment):
        return env
    if "gymnasium" in sys.modules:  # nothing can be of its classes before
        adapter = importlib.import_module("purejaxppo.envs.suites.gymnasium")
        hosted = adapter.hosted(env, name, make)
        if hosted is not None:
            return hosted
    env = without_statistics(env)
    with making(name, {}):  # what it has may be computed when it is asked for
        check_interface(env)
    return env


# -- by where it is in Python ---------------------------------------------------------------------


def find_object(name: str) -> Any:
    """Returns what is at module:object, importing the module, also from the current folder.

    Args:
        name: such as `my_module:MyEnv`, or `package.module:Namespace.MyEnv`.

    Raises:
        ConfigError: it is of another form, the module cannot be imported, or holds no such object.
    """
    where, _, path = name.partition(":")
    if not all(where.split(".")) or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f"{name!r} must be module:object, such as my_module:MyEnv")
    try:
        with current_folder():
            found = importlib.import_module(where)
    except (Exception, SystemExit) as error:  # a module may do anything
        words = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(f"{error.name}."):
            words = "there is no such module in this folder, or installed"
        raise ConfigError(f"{name!r}: module {where!r} cannot be imported: {words}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            near = did_you_mean(part, [n for n in dir(found) if not n.startswith("_")])
            hint = near if near.startswith("did") else "define it there"
            raise ConfigError(f"{name!r}: {where} has no {part!r}: {hint}")
        found = getattr(found, part)
    return found
