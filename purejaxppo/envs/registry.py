"""Environments by name, or as they are given. A suite is imported when one of its is asked for."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from importlib import import_module
from types import ModuleType
from typing import Any

from purejaxppo.envs.given import environment_of, find_object
from purejaxppo.envs.host import HostEnvironment
from purejaxppo.envs.inspection import Checked
from purejaxppo.envs.interface import arguments_of, making
from purejaxppo.envs.known import similar
from purejaxppo.envs.traced_once import TracedOnce
from purejaxppo.envs.wrappers.base import check_count
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


def find_env(env: Any, **options: Any) -> tuple[Any, EnvParams]:
    """Returns an environment and its default parameters, of whatever names or stands for one.

    Args:
        env: a name, as in `make_env`; or an environment, or what makes one, as in
            `given.environment_of`.
        **options: what it is made with.

    Returns:
        An `Environment`, or a `HostEnvironment`; and its default parameters.

    Raises:
        ConfigError: there is no such environment, it cannot be made, or lacks what training calls.
    """
    if isinstance(env, str):
        return make_env(env, **options)
    found = environment_of(env, options, getattr(env, "__name__", type(env).__name__))
    return found, found.default_params


def make_env(name: str, **options: Any) -> tuple[Any, EnvParams]:
    """Makes an environment and its default parameters; the same objects for equal arguments.

    Args:
        name: a plain name (gymnax), `suite/name`, or `module:object`: where an environment is in
            Python, or a class or function that makes one.
        **options: what the suite, class or function takes when it makes one, such as
            `backend="spring"` for brax or `gravity=5.0`, a parameter, for gymnax; and
            `max_steps=500`, a time limit, for all suites.

    Returns:
        An `Environment`, or a `HostEnvironment` where a suite runs in Python; and its parameters.

    Raises:
        ConfigError: no such environment (the nearest names are given), its suite is not installed,
            or it cannot be made with these options.
    """
    own = ":" in name and "/" not in name
    if not own and options.get("max_steps") is not None:  # of whatever suite, a number of steps
        options["max_steps"] = check_count("max_steps", options["max_steps"], 1, 500)
    arguments = tuple(sorted(options.items()))
    make, named = (_made, (_found(name), name)) if own else (_make_env, (name,))
    try:
        hash((named, arguments))
    except TypeError:  # a list among them, which cannot be looked up
        return make.__wrapped__(*named, arguments)
    return make(*named, arguments)


def _found(name: str) -> Any:
    """Finds module:object, or names what may have been meant in place of the module."""
    try:
        return find_object(name)
    except ConfigError as error:
        where = name.partition(":")[0]
        nearest = did_you_mean(where, names(""))
        # a name of gymnax's has a hyphen, a module in Python has none
        if "-" not in where or not nearest.startswith("did"):
            raise
        raise ConfigError(f"{error}; {nearest}") from error


@functools.lru_cache(maxsize=256)
def _made(found: Any, name: str, options: tuple[tuple[str, Any], ...]) -> tuple[Any, EnvParams]:
    """Makes the environment of an object, once for each name and options."""
    env = environment_of(found, dict(options), name)
    params = env.default_params
    if isinstance(env, HostEnvironment | TracedOnce):
        return env, params
    return TracedOnce(Checked(env), constant_params=True), params


@functools.lru_cache(maxsize=256)
def _make_env(
    name: str, options: tuple[tuple[str, Any], ...]
) -> tuple[Environment | HostEnvironment, EnvParams]:
    # names without a prefix are gymnax's
    suite, _, rest = name.partition("/") if "/" in name else ("", "", name)
    if suite not in SUITES:
        listed = "`purejaxppo envs` lists what there is, such as CartPole-v1"
        nearest = similar(name, misspelt=True) or listed
        raise ConfigError(f"unknown environment {name!r}: there is no suite {suite!r}; {nearest}")
    # the suite is imported here, so that a suite that nobody asks for costs nothing
    module = _adapter(suite)
    known = module.names()
    if rest not in known and ":" not in rest:  # gymnasium: module:id imports the module first
        raise ConfigError(f"unknown environment {name!r}: {_nearest(suite, rest, known)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says about itself is not about this environment
        with making(name, dict(options), lambda: _options_of(module, rest)):
            env, params = module.make_env(rest, **dict(options))
    return (env if isinstance(env, HostEnvironment) else TracedOnce(Checked(env))), params


def _nearest(suite: str, rest: str, known: list[str]) -> str:
    """Says which environments may have been meant: the same in any suite, or one misspelt."""
    prefix = f"{suite}/" if suite else ""
    own = did_you_mean(prefix + rest, [prefix + other for other in known])
    misspelt = own if suite and own.startswith("did") else similar(prefix + rest, misspelt=True)
    return similar(prefix + rest) or misspelt or own


def _options_of(module: ModuleType, name: str) -> list[str]:
    """Returns the options of an environment: its adapter's own, and those that it hands on."""
    own = [option for option in arguments_of(module.make_env) if option != "name"]
    return own + list(getattr(module, "options_of", lambda name: ())(name))


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
