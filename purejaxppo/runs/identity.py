"""What a run is, in values that JSON holds: to be written down, and compared when it is resumed."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.errors import ConfigError
from purejaxppo.ppo.optimizer import Optimizer
from purejaxppo.types import PyTree


def to_plain(about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values as JSON gives them back: tuples as lists, for example.

    Args:
        about: values by name.

    Raises:
        ConfigError: JSON cannot hold them.
    """
    try:
        return json.loads(json.dumps(dict(about)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"about={about!r} must be plain values ({error}): use texts") from error


def describe_custom(passed: Mapping[str, Any]) -> dict[str, str]:
    """Describes custom parts of a run in texts that can be compared when it is resumed.

    Args:
        passed: what was passed in place of what the configuration describes, by the name of the
            argument (env, env_params, policy, objective, ...); None where nothing was.

    Returns:
        "own <argument>": where its class or function is defined; of env_params and extra, which
        are values, a description of those.
    """

    def location(part: Any) -> str:
        # a record of ours says nothing of the function that is in it
        part = part.make if isinstance(part, Optimizer) else part
        named = part if hasattr(part, "__qualname__") else type(part)  # a function, or an object
        return f"{named.__module__}.{named.__qualname__}"

    given = {kind: part for kind, part in passed.items() if part is not None}
    # of these it is the values that have to be equal, not where they are defined
    values = {
        kind: _description(given.pop(kind)) for kind in ("env_params", "extra") if kind in given
    }
    return {f"own {kind}": location(part) for kind, part in given.items()} | values


def _description(values: PyTree) -> str:
    """Describes values: as Python writes them, and by their bits where it leaves some out."""
    leaves = jax.tree.leaves(values)
    if sum(np.size(x) for x in leaves) < np.get_printoptions()["threshold"]:
        return repr(values)
    digest = hashlib.sha256()
    for x in leaves:
        is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(x) if is_key else x)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return f"{values!r} sha256:{digest.hexdigest()[:16]}"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on, by name."""
    names = ("purejaxppo", "jax", "flax", "optax", "gymnax", "numpy")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}


def describe_device() -> dict[str, str | int]:
    """Returns platform and kind of the first device, and the number of all."""
    first = jax.devices()[0]
    return {"platform": first.platform, "kind": first.device_kind, "count": jax.device_count()}
