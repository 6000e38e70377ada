"""Exporting a trained policy: which agent, in which format, into which files."""

from __future__ import annotations

import importlib.util
import keyword
import sys
from pathlib import Path

from purejaxppo.components import Components, CustomEnv, CustomPolicy
from purejaxppo.config.rules import check_choice
from purejaxppo.errors import ConfigError
from purejaxppo.export import numpy_policy
from purejaxppo.export.formats import FLOAT32_ALONE, WRITERS
from purejaxppo.export.inference import make_acting
from purejaxppo.policies.networks import make_policy
from purejaxppo.run_folder.files import write_new
from purejaxppo.run_folder.paths import given_path, new_file
from purejaxppo.run_folder.read import read_run
from purejaxppo.runs.agents import agent_of, load_components
from purejaxppo.runs.options import Format, Weights
from purejaxppo.types import EnvParams


def export_policy(
    run_dir: str | Path,
    format: Format = "stablehlo",
    *,
    out: str | Path | None = None,
    agent: int = 0,
    weights: Weights = "final",
    overwrite: bool = False,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
) -> Path:
    """Writes a trained policy to a file that runs without purejaxppo.

    Args:
        run_dir: a folder that `purejaxppo train` or `fit` wrote.
        format: "stablehlo", for `jax.export.deserialize`; "onnx"; or "npz", for NumPy and the small
            module that is written beside it, under the same name. The last two compute in float32,
            also what was trained with compute_dtype="bfloat16": with the same parameters, and more
            digits.
        out: the file; None: policy.<format> in the run folder.
        agent: which of the run's seeds, counted from 0.
        weights: "final", at the end of the run; or "best", by evaluation.
        overwrite: write over files that exist.
        env: the environment, if one was passed to training.
        env_params: its parameters; None: those of the run.
        policy: the policy or network, if one was passed to training.

    Returns:
        The file.

    Raises:
        ConfigError: there is no such run or agent, a file exists or cannot be written, a package is
            missing, or the format cannot express this policy.
    """
    # mistakes first: writing a policy down takes seconds, refusing a name takes none
    check_choice("format", format, WRITERS)
    read_run(run_dir)
    files = _files(run_dir, format, out, overwrite)
    components, agents = load_components(run_dir, weights, env, policy, env_params)
    if format in FLOAT32_ALONE:
        components = _in_float32(components)
    acting = make_acting(components, agent_of(agents, agent))
    contents = WRITERS[format](acting)
    for file, content in zip(files, contents, strict=True):
        write_new(file, overwrite, lambda opened, content=content: opened.write(content))
    return files[0]


def _in_float32(components: Components) -> Components:
    """Returns components whose network, if it is one that is configured, computes in float32."""
    config = components.config
    if config.compute_dtype == "float32":
        return components
    config = config.replace(compute_dtype="float32")
    policy = make_policy(config, components.spec, first_value=components.critic.first)
    return components._replace(config=config, policy=policy)


def _files(
    run_dir: str | Path, format: Format, out: str | Path | None, overwrite: bool
) -> list[Path]:
    """Returns what will be written: the file, and with npz the module that reads it.

    Raises:
        ConfigError: a name will not do.
    """
    wanted = given_path(run_dir) / f"policy.{format}" if out is None else given_path(out, "out")
    if wanted.suffix != f".{format}":
        raise ConfigError(f"out={str(wanted)!r} must end in .{format}: use policy.{format}")
    files = [new_file(wanted, overwrite)]
    if format == "npz":
        files.append(new_file(files[0].with_suffix(".py"), overwrite))
        _check_module(files[1], default=out is None)
    return files


def _check_module(file: Path, default: bool) -> None:
    """Refuses names under which Python would not import a module, or in place of another one.

    Raises:
        ConfigError: it is such a name.
    """
    name = file.stem
    other = "agent.npz" if name == "policy" else "policy.npz"
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ConfigError(f"out={name}.npz must be a name that Python imports: use {other}")
    # names of files may be the same whatever their case
    taken = name.lower() in {*map(str.lower, sys.stdlib_module_names), "numpy", "jax"}
    if taken or (not default and _is_another_module(file)):
        raise ConfigError(
            f"out={name}.npz would put a {name}.py beside it, in place of the module {name}: use "
            f"{other}"
        )


def _is_another_module(file: Path) -> bool:
    """Says whether Python would find a module of this name that is none of what is written here."""
    try:
        found = importlib.util.find_spec(file.stem)
    except ValueError:  # it is imported, and from no file
        return True
    if found is None or found.origin is None:  # a folder gives way to a module
        return False
    origin = Path(found.origin)
    if origin.resolve() == file.resolve():  # which may be written over, or was refused
        return False
    reader = Path(numpy_policy.__file__).read_bytes()
    return not (origin.is_file() and origin.read_bytes() == reader)
