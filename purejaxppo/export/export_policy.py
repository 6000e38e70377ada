"""Exporting a trained policy: which agent, in which format, into which files."""

from __future__ import annotations

from pathlib import Path

from purejaxppo.components import CustomEnv, CustomPolicy
from purejaxppo.config.rules import check_choice
from purejaxppo.errors import ConfigError
from purejaxppo.export.formats import WRITERS
from purejaxppo.export.inference import make_acting
from purejaxppo.runs.agents import agent_of, load_components
from purejaxppo.runs.files import check_new, write_new
from purejaxppo.runs.options import Format, Weights


def export_policy(
    run_dir: str | Path,
    format: Format = "stablehlo",
    *,
    out: str | Path | None = None,
    agent: int = 0,
    weights: Weights = "final",
    overwrite: bool = False,
    env: CustomEnv = None,
    policy: CustomPolicy = None,
) -> Path:
    """Writes a trained policy to a file that runs without purejaxppo.

    Args:
        run_dir: a folder that `purejaxppo train` or `fit` wrote.
        format: "stablehlo", for `jax.export.deserialize`; "onnx"; or "npz", for NumPy and the small
            module that is written beside it, under the same name.
        out: the file; None: policy.<format> in the run folder.
        agent: which of the run's seeds, counted from 0.
        weights: "final", at the end of the run; or "best", by evaluation.
        overwrite: write over files that exist.
        env: the environment, if one was passed to training.
        policy: the policy or linen module, if one was passed to training.

    Returns:
        The file.

    Raises:
        ConfigError: there is no such run or agent, a file exists or cannot be written, a package is
            missing, or the format cannot express this policy.
    """
    # names first: writing a policy down takes seconds, refusing a name takes none
    files = _files(run_dir, format, out, overwrite)
    components, agents = load_components(run_dir, weights, env, policy)
    acting = make_acting(components, agent_of(agents, agent))
    contents = WRITERS[format](acting)
    for file, content in zip(files, contents, strict=True):
        write_new(file, overwrite, lambda opened, content=content: opened.write(content))
    return files[0]


def _files(
    run_dir: str | Path, format: Format, out: str | Path | None, overwrite: bool
) -> list[Path]:
    """Returns what will be written: the file, and with npz the module that reads it.

    Raises:
        ConfigError: there is no such format, or a name will not do.
    """
    check_choice("format", format, WRITERS)
    path = Path(run_dir) / f"policy.{format}" if out is None else Path(out)
    if path.suffix != f".{format}":
        raise ConfigError(f"out={str(path)!r} must end in .{format}: use policy.{format}")
    if format == "npz" and not path.stem.isidentifier():
        raise ConfigError(f"out={str(path)!r} must be a name that Python imports: use policy.npz")
    files = [path, path.with_suffix(".py")] if format == "npz" else [path]
    for file in files:
        check_new(file, overwrite)
    return files
