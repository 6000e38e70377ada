"""Settings that agents of one run have of their own: hyperparameters and `env_params`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.components import Components
from purejaxppo.config.coerce import check_said_once, coerce, parse_options
from purejaxppo.config.libraries import meaning_of
from purejaxppo.config.rules import types_of
from purejaxppo.config.schema import PPOConfig
from purejaxppo.envs.suites.adapter import field_name
from purejaxppo.errors import ConfigError, did_you_mean, shown
from purejaxppo.hyperparams import BOUNDS, Hyperparams
from purejaxppo.run_folder.env_params import numbers_in
from purejaxppo.run_folder.files import damaged
from purejaxppo.run_folder.paths import given_path
from purejaxppo.run_folder.read import read_run, read_summary
from purejaxppo.types import Array, EnvParams

OF_THE_ENVIRONMENT = "env_params."
"""Names of the parameters of an environment begin so."""


class Own(NamedTuple):
    """What each agent has of its own; a pytree, without leaves where agents differ in nothing.

    Attributes:
        hyper: [S] float32, by field of `Hyperparams`.
        env_params: [S], by name in the parameters of the environment, see `numbers_in`.
    """

    hyper: dict[str, Array] = {}  # noqa: RUF012 (never changed)
    env_params: dict[str, Array] = {}  # noqa: RUF012

    def hyperparams(self, hyper: Hyperparams) -> Hyperparams:
        """Returns hyperparameters with those of one agent in their places.

        Args:
            hyper: of all agents.
        """
        return hyper._replace(**self.hyper)

    def params(self, env_params: EnvParams) -> EnvParams:
        """Returns parameters of an environment with those of one agent in their places.

        Args:
            env_params: of all agents.
        """
        if not self.env_params:
            return env_params
        return jax.tree_util.tree_map_with_path(
            lambda where, x: self.env_params.get(field_name(where), x), env_params
        )


ALIKE = Own()
"""Of agents that differ in nothing but their keys."""


def own_of(values: Mapping[str, Any], env_params: EnvParams) -> Own:
    """Returns what each of some agents has of its own.

    Args:
        values: [S], by name: a hyperparameter, or `env_params.NAME`; they may be traced.
        env_params: of the environment, whose numbers have the dtypes.
    """
    leaves = {
        field_name(where): leaf for where, leaf in jax.tree_util.tree_leaves_with_path(env_params)
    }
    own = Own({}, {})
    for name, each in values.items():
        if name in BOUNDS:
            own.hyper[name] = jnp.asarray(each, jnp.float32)
        else:
            where = name.removeprefix(OF_THE_ENVIRONMENT)
            own.env_params[where] = jnp.asarray(each, jnp.asarray(leaves[where]).dtype)
    return own


class Variation(NamedTuple):
    """Settings of a run, each of which so many agents have, one behind the other.

    Attributes:
        values: K of them, by name.
        seeds: agents of each setting; their keys are the same in every setting.
    """

    values: dict[str, list[float]]
    seeds: int

    @property
    def settings(self) -> int:
        """Returns K."""
        return len(next(iter(self.values.values())))

    def own(self, env_params: EnvParams) -> Own:
        """Returns what each of the agents has of its own.

        Args:
            env_params: of the environment, whose numbers have the dtypes.
        """
        each = {n: np.repeat(np.asarray(x, np.float64), self.seeds) for n, x in self.values.items()}
        return own_of(each, env_params)

    def keys(self, key: Array) -> Array:
        """Returns the random key of each agent.

        Args:
            key: that they are split from.
        """
        return jnp.tile(jax.random.split(key, self.seeds), self.settings)


def read_vary(vary: Mapping[str, Sequence[float]], components: Components, seeds: int) -> Variation:
    """Reads the settings that agents of a run are to have of their own.

    Args:
        vary: values by name: a hyperparameter, or `env_params.NAME`.
        components: of the run.
        seeds: agents of each setting.

    Returns:
        The settings.

    Raises:
        ConfigError: there is no such number, it is switched off, there are not as many values of
            each, or one is none that a run alone could have.
    """
    if not isinstance(vary, Mapping) or not vary:
        raise ConfigError(
            f"vary={shown(vary)} must be values by name: use {{'learning_rate': [1e-4, 1e-3]}}"
        )
    config, numbers = components.config, numbers_in(components.env_params)
    values: dict[str, list[float]] = {}
    for name, given in vary.items():
        where = str(name).removeprefix(OF_THE_ENVIRONMENT)
        inside = where != name
        if name not in BOUNDS and not (inside and where in numbers):
            known = [*BOUNDS, *(OF_THE_ENVIRONMENT + x for x in numbers)]
            what = f"vary has {shown(name)}, which is no hyperparameter or number in env_params"
            hint = meaning_of(str(name), known, str) or did_you_mean(str(name), known)
            if str(name) in types_of(PPOConfig):
                hint = "each value needs a program of its own: use sweep"
            raise ConfigError(f"{what}: {hint}")
        if not inside and getattr(config, name) is None:
            raise ConfigError(
                f"vary has {name}, which is None in the configuration, and so switched off: set it"
            )
        kind = type(numbers[where]) if inside else float
        entries: Any = np.asarray(given).tolist() if hasattr(given, "dtype") else given
        if not (isinstance(entries, Sequence) and len(entries) and not isinstance(entries, str)):
            raise ConfigError(f"vary {name}={shown(given)} must be a list of numbers: use [1, 2]")
        values[name] = [coerce(name, kind, entry, 1) for entry in entries]
    lengths = {name: len(entries) for name, entries in values.items()}
    if len({*lengths.values()}) > 1:
        raise ConfigError(f"vary has lists of {lengths} values: use one length for all")

    # every setting is one that a run alone could have, and that makes a difference
    components.check_varied(values)
    varied = (n.removeprefix(OF_THE_ENVIRONMENT) for n in values if n not in BOUNDS)
    check_said_once(parse_options(config.env_options), varied)
    for row in zip(*values.values(), strict=True):
        config.replace(**{n: x for n, x in zip(values, row, strict=True) if n in BOUNDS})
    return Variation(values, seeds)


def kept_own(run_dir: str, env_params: EnvParams) -> Own:
    """Returns what each agent of a run has of its own.

    Args:
        run_dir: the run folder.
        env_params: of its environment.

    Raises:
        ConfigError: the folder holds no run, or values of another environment.
    """
    run, name = read_run(run_dir)[1], "run.json"
    values = run.get("vary")
    if run.get("scheduler") == "pbt":  # they change on the way: it has what they came to
        values, name = (read_summary(run_dir, run["seeds"]) or {}).get("vary"), "summary.json"
    if not values:
        return ALIKE
    try:
        lengths = {len(entries) for entries in values.values()}
        return Variation(values, run["seeds"] // max(lengths)).own(env_params)
    except (KeyError, ZeroDivisionError) as error:
        raise damaged(given_path(run_dir) / name, f"vary has {error}") from error
