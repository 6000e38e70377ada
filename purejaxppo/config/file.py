"""What a TOML file of a configuration may hold: fields, and tables beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from purejaxppo.config.coerce import coerce, read_toml
from purejaxppo.config.schema import TABLES, PPOConfig
from purejaxppo.errors import ConfigError, shown


class ConfigFile(NamedTuple):
    """What a file says.

    Attributes:
        config: its fields, and the defaults of those that it leaves out; None where it has none.
        names_env: whether it says what is trained on.
        env_params: its table of this name, as name=value.
        vary: its table of this name, as it stands there; {} without one.
    """

    config: PPOConfig | None = None
    names_env: bool = False
    env_params: tuple[str, ...] = ()
    vary: Mapping[str, Any] = {}


def read_config_file(path: str | Path) -> ConfigFile:
    """Reads a configuration from a TOML file, as `PPOConfig.to_toml` or a user writes it.

    A file with fields is the whole configuration; one that has tables alone leaves it to others.

    Args:
        path: the file.

    Returns:
        The configuration, and the tables `env_params` and `vary`.

    Raises:
        ConfigError: it cannot be read, is no TOML, holds nothing, or something that is refused.
    """
    fields = read_toml(path)
    if not fields:
        raise ConfigError(f"{str(path)!r} is empty: set a field in it, such as gamma = 0.99")
    try:
        tables = {name: _table(name, fields.pop(name, {})) for name in TABLES}
        params = _flat(tables["env_params"])
        env_params = coerce("env_params", tuple[str, ...], dict(params))
        if len(env_params) < len(params):
            raise ConfigError(f"env_params are given twice: keep one of {shown(params)}")
        config = PPOConfig.from_dict(fields) if fields else None
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r}: {error}") from error
    names_env = bool(fields.keys() & {"env", "ENV_NAME"})
    return ConfigFile(config, names_env, env_params, tables["vary"])


def _table(name: str, value: Any) -> dict[str, Any]:
    """Returns a table of a file.

    Raises:
        ConfigError: it is a value.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{name} = {shown(value)} must be a table: use [{name}]")
    return value


def _flat(table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the values of a table by name, those of tables inside it as table.name."""
    found = []
    for name, value in table.items():
        if isinstance(value, dict):
            found += [(f"{name}.{inner}", x) for inner, x in _flat(value)]
        else:
            found.append((name, value))
    return found
