"""What a run is begun with, in plain values."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

from purejaxppo.config import PPOConfig
from purejaxppo.validation import ConfigError


def names_of(own: Mapping[str, Any]) -> dict[str, str]:
    """What was passed in place of what the configuration describes, in words that can be compared.

    Args:
        own: env, env_params and policy, None where nothing was passed.
    """

    def name(x: Any) -> str:
        named = x if isinstance(x, type) else type(x)
        return f"{named.__module__}.{named.__qualname__}"

    said = {f"own {kind}": name(own[kind]) for kind in ("env", "policy") if own[kind] is not None}
    if own["env_params"] is not None:
        said["env_params"] = repr(own["env_params"])
    return said


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
