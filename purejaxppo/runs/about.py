"""What a run is begun with, in plain values."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError


def names_of(own: Mapping[str, Any]) -> dict[str, str]:
    """What was passed in place of what the configuration describes, in words that can be compared.

    Args:
        own: what was passed by name, None where nothing was.
    """

    def name(x: Any) -> str:
        named = x if hasattr(x, "__qualname__") else type(x)  # a class, a function
        return f"{named.__module__}.{named.__qualname__}"

    passed = {kind: x for kind, x in own.items() if x is not None}
    params = passed.pop("env_params", None)
    said = {f"own {kind}": name(x) for kind, x in passed.items()}
    return said if params is None else said | {"env_params": repr(params)}


def as_json(about: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON gives them back.

    Raises:
        ConfigError: JSON cannot hold them.
    """
    try:
        return json.loads(json.dumps(dict(about)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"about={about!r} must be plain values ({error}): use texts") from error


def plain(config: PPOConfig) -> dict[str, Any]:
    """The fields as JSON gives them back."""
    return as_json(config.to_dict())


def versions() -> dict[str, str]:
    """Versions of what a figure depends on."""
    names = ("purejaxppo", "jax", "flax", "optax", "gymnax", "numpy")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}


def device() -> dict[str, Any]:
    """What trains."""
    first = jax.devices()[0]
    return {"platform": first.platform, "kind": first.device_kind, "count": jax.device_count()}
