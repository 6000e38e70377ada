"""What a run is, in values that JSON holds: to be written down, and compared when it is resumed."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config.schema import PPOConfig
from purejaxppo.envs.params import DrawnParams, read_params
from purejaxppo.errors import ConfigError
from purejaxppo.ppo.optimizer import Optimizer
from purejaxppo.processes import everyones
from purejaxppo.run_folder import checkpoint
from purejaxppo.run_folder.env_params import numbers_of
from purejaxppo.run_folder.files import damaged
from purejaxppo.run_folder.schemas import CheckpointAbout, misfit
from purejaxppo.runs.problems import Problems
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
        are values, a description of those. Of env_params that differ between environments it is
        "own env_params": runs are loaded without them.
    """

    def location(part: Any) -> str:
        # a record of ours says nothing of the function that is in it
        part = part.make if isinstance(part, Optimizer) else part
        named = part if hasattr(part, "__qualname__") else type(part)  # a function, or an object
        return f"{named.__module__}.{named.__qualname__}"

    given = {kind: part for kind, part in passed.items() if part is not None}
    if not jax.tree.leaves(given.get("extra")):  # nothing that could differ
        given.pop("extra", None)
    axis = given.pop("env_params_axis", None)
    params = read_params(given.get("env_params"), axis)
    each = {}
    if isinstance(params, DrawnParams):
        each = {"own env_params": f"{location(params.draw)}, drawn for each {params.per}"}
    elif axis is not None:
        each = {"own env_params": f"{_description(params)}, along the axis {axis!r}"}
    if each:
        del given["env_params"]
    # of these it is the values that have to be equal, not where they are defined
    values = {
        kind: _description(given.pop(kind)) for kind in ("env_params", "extra") if kind in given
    }
    return {f"own {kind}": location(part) for kind, part in given.items()} | values | each


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


# -- compared -------------------------------------------------------------------------------------


def check_same_run(
    folder: Path | None, saved: Mapping[str, Any], ours: Mapping[str, Any], problems: Problems
) -> None:
    """Refuses to go on with another run; warns where the next bits may differ.

    Args:
        folder: where it is.
        saved: what a file of the folder says of its run.
        ours: what the run is that would go on with it: the same, but for a larger total.
        problems: where warnings go.

    Raises:
        ConfigError: it is another run; the first difference is named.
    """
    before, after = (
        {
            **run["config"],
            **run.get("own", {}),
            "seeds": run["seeds"],
            "seed": run["seed"],
            "vary": run.get("vary"),
        }
        for run in ({**saved, "config": to_plain(saved["config"])}, ours)
    )
    # parameters that are kept are compared by their numbers, not by how Python writes them
    if "env_params" in saved and "env_params" in ours:
        for texts, run in ((before, saved), (after, ours)):
            texts["env_params"] = numbers_of(run["env_params"])
    # what it was begun with may be left out when it goes on; where it is now does not matter
    if "init_from" in ours:
        for texts, run in ((before, saved), (after, ours)):
            record = run.get("init_from")
            texts["init_from"] = record and {k: x for k, x in record.items() if k != "steps"}
    for name in {**before, **after}:
        then: Any = before.get(name)
        now: Any = after.get(name)
        total = name == "total_timesteps"
        if then != now and not (total and now > then):
            how = "more of them, " if total else ""
            raise ConfigError(
                f"the run in {str(folder)!r} has {name}={then!r}, not {now!r}: go on with its "
                f"own, {how}or train into another folder"
            )
    # another version or device is no other run, but rounds otherwise
    for name in ("versions", "device"):
        for part, then in saved.get(name, {}).items():
            now = ours[name].get(part)
            if then != now:
                problems.note(
                    f"the run was begun with {part} {then} and goes on with {now}: from here on "
                    "it may differ in the last digits"
                )


def check_same_everywhere(ours: Mapping[str, Any]) -> None:
    """Refuses to train together with a process that would train something else.

    Args:
        ours: what this process would train, plain values by name.

    Raises:
        ConfigError: another process would; the first difference is named.
    """
    first, *others = everyones(dict(ours))
    for number, theirs in enumerate(others, 1):
        for name in {**first, **theirs}:
            here, there = first.get(name), theirs.get(name)
            if here != there:
                raise ConfigError(
                    f"process {number} has {name}={there!r}, and process 0 {here!r}: start all "
                    "with the same command"
                )


def checked(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Returns what a checkpoint says, with the fields that its configuration lacks.

    Args:
        path: the checkpoint.
        about: the plain values in it.

    Raises:
        Damaged: they are not what a checkpoint says.
        ConfigError: it holds no configuration.
    """
    words = misfit(about, CheckpointAbout, "the manifest", finite=False)
    if words is None and about["updates"] != int(path.stem):
        words = f"it is that of update {about['updates']}"
    if words is None and len(about["evaluation"] or ()) not in (0, about["seeds"]):
        words = f"evaluation has not {about['seeds']} entries"
    if words is not None:
        raise checkpoint.Damaged(f"{str(path)!r} is damaged ({words})")
    try:
        config = PPOConfig.from_dict(about["config"])
    except ConfigError as error:
        raise damaged(path, error) from error
    return {**about, "config": config.to_dict()}
