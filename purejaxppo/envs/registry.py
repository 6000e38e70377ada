"""Environments by name. A suite is imported when one of its environments is asked for."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from importlib import import_module
from types import ModuleType
from typing import Any

from purejaxppo.envs.host import HostEnvironment
from purejaxppo.envs.traced_once import TracedOnce
from purejaxppo.errors import ConfigError, did_you_mean, raised_in
from purejaxppo.types import Environment, EnvParams

SUITES = {
    "": "gymnax",
    "brax": "brax",
    "playground": "playground",
    "jumanji": "jumanji",
    "craftax": "craftax",
    "navix": "navix",
    "xminigrid": "xminigrid",
    "pgx": "pgx",
    "gymnasium": "gymnasium",
    "ale": "ale",
    "envpool": "envpool",
}
"""Adapter (a module in `suites`, and an extra of the package) by the prefix of a name."""


def make_env(name: str, **options: Any) -> tuple[Any, EnvParams]:
    """Makes an environment and its default parameters; the same objects for equal arguments.

    Args:
        name: a plain name (gymnax) or `suite/name`.
        **options: what the suite takes when it makes one, such as `backend="spring"` for brax or
            `max_steps=500`, a time limit, for most.

    Returns:
        An `Environment`, or a `HostEnvironment` where a suite runs in Python; and its parameters.

    Raises:
        ConfigError: no such environment (the nearest names are given), its suite is not installed,
            or it does not take these options.
    """
    arguments = tuple(sorted(options.items()))
    try:
        hash(arguments)
    except TypeError:  # a list among them, which cannot be looked up
        return _make_env.__wrapped__(name, arguments)
    return _make_env(name, arguments)


@functools.lru_cache(maxsize=256)
def _make_env(
    name: str, options: tuple[tuple[str, Any], ...]
) -> tuple[Environment | HostEnvironment, EnvParams]:
    # names without a prefix are gymnax's
    suite, _, rest = name.partition("/") if "/" in name else ("", "", name)
    if suite not in SUITES:
        raise ConfigError(
            f"unknown environment {name!r}: there is no suite {suite!r}; `purejaxppo envs` lists "
            "what there is, such as CartPole-v1"
        )
    # the suite is imported here, so that a suite that nobody asks for costs nothing
    module = _adapter(suite)
    known = module.names()
    if rest not in known and ":" not in rest:  # gymnasium: module:id imports the module first
        prefix = f"{suite}/" if suite else ""
        nearest = did_you_mean(prefix + rest, [prefix + other for other in known])
        raise ConfigError(f"unknown environment {name!r}: {nearest}")
    # a wrong option is Python's own error, of a call that the caller has never seen
    try:
        env, params = module.make_env(rest, **dict(options))
    except TypeError as error:
        if not options:
            raise
        given = ", ".join(f"{key}={value!r}" for key, value in options)
        raise ConfigError(f"{name} cannot be made with {given}: {error}") from error
    return (env if isinstance(env, HostEnvironment) else TracedOnce(env)), params


def _adapter(suite: str) -> ModuleType:
    """Imports the adapter of a suite.

    Raises:
        ConfigError: its packages are not installed.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # what they say about their own imports
            return import_module(f"purejaxppo.envs.suites.{SUITES[suite]}")
    except ModuleNotFoundError as error:
        # a module of ours that is missing is a fault of ours
        if (error.name or "").startswith("purejaxppo"):
            raise
        raise ConfigError(
            f"{suite} environments need the package {error.name}: "
            f"pip install 'purejaxppo[{SUITES[suite]}]'"
        ) from error
    except Exception as error:
        # packages may fail in other ways, where they do not know this Python or this JAX
        if raised_in(error).startswith("purejaxppo"):
            raise
        raise ConfigError(
            f"{suite or 'gymnax'} environments cannot be imported ({type(error).__name__} in "
            f"{raised_in(error)}: {error}): install versions of its packages that fit together"
        ) from error


def drawn(name: str) -> dict[str, Any]:
    """Returns options with which `make_env` makes an environment that gives pictures of itself.

    Args:
        name: as in `make_env`; one that does not exist needs none.
    """
    suite = name.partition("/")[0] if "/" in name else ""
    return getattr(_adapter(suite), "DRAWN", {}) if suite in SUITES else {}


def find_env(name: str, **options: Any) -> tuple[Environment | HostEnvironment, EnvParams]:
    """Returns an environment by name, or by module:object, and its default parameters.

    Args:
        name: as in `make_env`; or where an environment is, or what makes one, in Python.
        **options: what it is made with.

    Returns:
        The environment, and `env.default_params`.

    Raises:
        ConfigError: there is no such environment or object.
    """
    where, colon, thing = name.partition(":")
    if not colon or "/" in name:
        return make_env(name, **options)
    try:
        found = getattr(import_module(where), thing)
        # a class or a function is called, an environment is taken as it is
        if isinstance(found, type) or options or not hasattr(found, "default_params"):
            found = found(**options)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(f"{name} cannot be made: {error}") from error
    return found, found.default_params


def names(*suites: str) -> list[str]:
    """Returns every name that these suites register, in the order of the suites.

    Args:
        *suites: by the prefix of their names; none: all. Those not installed are left out.
    """
    found = []
    for suite in suites or SUITES:
        prefix = f"{suite}/" if suite else ""
        with contextlib.suppress(ConfigError):
            found += [prefix + name for name in _adapter(suite).names()]
    return found


def missing(*suites: str) -> dict[str, str]:
    """Returns what suites need that are not installed, in words, by the prefix of their names.

    Args:
        *suites: by the prefix of their names; none: all.
    """
    found = {}
    for suite in suites or SUITES:
        try:
            _adapter(suite)
        except ConfigError as error:
            found[suite] = str(error)
    return found
