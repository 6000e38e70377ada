"""What an environment that is written in JAX has, and where it is really defined."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from purejaxppo.errors import ConfigError, did_you_mean
from purejaxppo.types import PyTree

METHODS = ("reset_env", "step_env", "is_truncated", "observation_space", "action_space")
"""What an environment that is written in JAX must have, beside `default_params`."""

_UNUSED = {"reset": "reset_env", "step": "step_env"}
"""Methods of gymnax that training does not call, and those that it calls in their place."""

_OURS = {"FlattenObservationWrapper": "FlattenObservation", "StickyActionWrapper": "StickyActions"}
"""Wrappers here, by the name of gymnax's that do the same."""


def check_interface(env: object) -> None:
    """Checks that an environment has what training calls, and that this is what its author wrote.

    Args:
        env: one environment.

    Raises:
        ConfigError: a member is missing, or a method is overridden that training never calls.
    """
    missing = [name for name in METHODS if not callable(getattr(env, name, None))]
    missing += [] if hasattr(env, "default_params") else ["default_params"]
    if missing:
        several = f"{', '.join(missing[:-1])} or " if missing[1:] else ""
        constants = " (default_params: a pytree of constants, or () for none)"
        raise ConfigError(
            f"{type(env).__name__} has no {several}{missing[-1]}: define "
            f"{'them' if several else 'it'} as gymnax's 1.x environments do"
            + (constants if "default_params" in missing else "")
        )
    check_overrides(env)


def check_overrides(env: object) -> None:
    """Checks that no wrapper, at any depth, overrides only what training never calls.

    A wrapper that passes on what it does not define would be bypassed: training calls `step_env`
    of the environment inside, and what the wrapper does in `step` never happens.

    Args:
        env: one environment, wrapped or not.

    Raises:
        ConfigError: one does.
    """
    while env is not None:
        kind = type(env)
        idle = [a for a, b in _UNUSED.items() if _depth(env, a) < _depth(env, b)]
        if idle and not _only_counts(env):
            wanted = " and ".join(_UNUSED[name] for name in idle)
            ours = _OURS.get(kind.__name__)
            raise ConfigError(
                f"{kind.__name__} overrides {' and '.join(idle)}, which training never calls: "
                f"override {wanted}"
                + (f", or use {ours} of purejaxppo.envs.wrappers" if ours else "")
            )
        env = _inside(env)


def _depth(env: object, name: str) -> int:
    """Returns how far up its classes an environment finds a method; beyond all, if elsewhere."""
    classes, own = type(env).__mro__, getattr(env, "__dict__", {})
    if name in own:  # set on the object: a method of another is the other's
        return -1 if getattr(own[name], "__self__", env) is env else len(classes)
    return next((i for i, kind in enumerate(classes) if name in vars(kind)), len(classes))


def _inside(env: object) -> object | None:
    """Returns the environment inside of one that passes `step_env` on to it, else None.

    Wrappers of ours have looked inside when they were made; others that define `step_env` may well
    call `step` in it.
    """
    if _depth(env, "step_env") < len(type(env).__mro__):
        return None
    own = getattr(env, "__dict__", {})
    return next((inner for inner in own.values() if hasattr(inner, "step_env")), None)


def _only_counts(env: object) -> bool:
    """Says whether this is gymnax's LogWrapper itself, which changes nothing but statistics."""
    module = sys.modules.get("gymnax.wrappers.purerl")  # none of its objects exist before
    return type(env) is getattr(module, "LogWrapper", None)


def without_statistics(env: Any) -> Any:
    """Returns an environment without gymnax's LogWrapper, as episodes are counted anyway.

    Args:
        env: one environment, or anything else.
    """
    while _only_counts(env):
        env = env._env
    return env


# -- what it returns ------------------------------------------------------------------------------


def is_array(x: object) -> bool:
    """Says whether JAX takes a value: an array, a number or a key.

    Args:
        x: a leaf of a pytree.
    """
    try:
        jax.typeof(x)
    except (TypeError, OverflowError):
        return False
    return True


def check_arrays(what: str, tree: PyTree) -> None:
    """Checks that a pytree holds nothing but arrays.

    Args:
        what: it is, for messages.
        tree: of whatever an environment returns, or is given.

    Raises:
        ConfigError: it holds something else, or is no pytree.
    """
    try:
        leaves = tree_leaves_with_path(tree)
    except (TypeError, ValueError) as error:  # keys that cannot be sorted
        raise ConfigError(f"{what} is no pytree ({' '.join(str(error).split())})") from error
    for path, x in leaves:
        if not is_array(x):
            raise ConfigError(f"{what}{keystr(path)} is {kind_of(x)}: use an array or a number")


def kind_of(x: object) -> str:
    """Says in words of what kind a value is.

    Args:
        x: anything.
    """
    return f"an array of {jax.typeof(x).dtype.name}" if is_array(x) else f"a {type(x).__name__}"


def is_number(dtype: np.dtype) -> bool:
    """Says whether a dtype is of bits, whole or real numbers: not complex, no text, no key.

    Args:
        dtype: of an array.
    """
    return any(jnp.issubdtype(dtype, kind) for kind in (np.bool_, np.integer, np.floating))


# -- how it is made -------------------------------------------------------------------------------


@contextlib.contextmanager
def making(
    name: str, options: Mapping[str, Any], known: Callable[[], Iterable[str]] = tuple
) -> Iterator[None]:
    """Turns whatever is raised while an environment is made into one line.

    Args:
        name: of the environment.
        options: it is made with.
        known: options that it could be made with, as far as that can be found out; asked where one
            is refused.

    Raises:
        ConfigError: in place of another exception.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # of a simulator: about files, drivers or options
        refused = re.search(r"unexpected keyword argument '([\w.]+)'", str(error))
        if isinstance(error, TypeError) and refused and refused[1] in options:
            raise ConfigError(no_option(name, refused[1], known())) from error
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        words = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{name} cannot be made{' with ' if given else ''}{given}: {' '.join(words.split())}"
        ) from error


def no_option(name: str, option: str, known: Iterable[str]) -> str:
    """Says that an environment has no such option, and what it has.

    Args:
        name: of the environment.
        option: that was given.
        known: those that it has.
    """
    known = sorted(set(known))
    hint = did_you_mean(option, known) if known else "leave it out"
    return f"{name} has no option {option!r}: {hint}"


def arguments_of(make: Callable[..., Any]) -> list[str]:
    """Returns the names of what a class or function may be called with, as far as it says.

    Args:
        make: the class or function; of a class that hands arguments on, those of its parents too.
    """
    found: list[str] = []
    kinds = make.__mro__ if inspect.isclass(make) else ()
    for init in [vars(kind)["__init__"] for kind in kinds if "__init__" in vars(kind)] or [make]:
        try:
            parameters = inspect.signature(init).parameters.values()
        except (TypeError, ValueError):  # of what is written in C
            break
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        found += [p.name for p in parameters if p.kind in named and p.name != "self"]
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return found


@contextlib.contextmanager
def current_folder() -> Iterator[None]:
    """Lets modules be imported from the current folder, after all others."""
    folder = os.getcwd()
    sys.path.append(folder)
    importlib.invalidate_caches()  # the file may have been written a moment ago
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # a module may have removed it
            sys.path.remove(folder)
