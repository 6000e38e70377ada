"""Trained policies as files that run without purejaxppo: with any JAX, with ONNX, with NumPy alone.

Each holds the most probable action, statistics frozen: from observations as the environment gives
them (records as dictionaries) to actions within the bounds.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from purejaxppo.components import OwnPolicy
from purejaxppo.envs.host import HostEnvironment
from purejaxppo.errors import ConfigError, did_you_mean
from purejaxppo.export import numpy_policy as reader
from purejaxppo.export.flatten_jaxpr import evaluate, flatten
from purejaxppo.export.inference import Acting, make_acting
from purejaxppo.export.numpy_program import as_numpy
from purejaxppo.runs.agents import agent_of, load_agents
from purejaxppo.runs.checkpoint import check_new, write_new
from purejaxppo.runs.folder import read_run
from purejaxppo.runs.options import ExportOptions, Format, Weights
from purejaxppo.types import Environment

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_policy(
    run_dir: str | Path,
    format: Format = "stablehlo",
    *,
    out: str | Path | None = None,
    agent: int = 0,
    weights: Weights = "final",
    overwrite: bool = False,
    env: Environment | HostEnvironment | None = None,
    policy: OwnPolicy = None,
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
    files = _files(run_dir, format, out, overwrite)
    config, agents = load_agents(run_dir, weights, env=env, policy=policy)
    acting = make_acting(config, agent_of(agents, agent), env=env, policy=policy)
    contents = WRITERS[format](acting)
    for file, content in zip(files, contents, strict=True):
        write_new(file, overwrite, lambda opened, content=content: opened.write(content))
    return files[0]


def _files(run_dir: str | Path, format: Format, out: Any, overwrite: bool) -> list[Path]:
    """What will be written: the file, and with npz the module that reads it.

    Raises:
        ConfigError: there is no such format, or a name will not do.
    """
    if format not in WRITERS:
        raise ConfigError(f"format={format!r} is not a choice: {did_you_mean(format, WRITERS)}")
    path = Path(run_dir) / f"policy.{format}" if out is None else Path(out)
    if path.suffix != f".{format}":
        raise ConfigError(f"out={str(path)!r} must end in .{format}: use policy.{format}")
    if format == "npz" and not path.stem.isidentifier():
        raise ConfigError(f"out={str(path)!r} must be a name that Python imports: use policy.npz")
    files = [path, path.with_suffix(".py")] if format == "npz" else [path]
    for file in files:
        check_new(file, overwrite)
    return files


def main(options: ExportOptions) -> int:
    """Exports what the command line asks for, and prints how the file is used.

    Raises:
        ConfigError: see `export_policy`.
    """
    path = export_policy(
        options.run, options.format, out=options.out, agent=options.agent,
        weights=options.weights, overwrite=options.overwrite,
    )  # fmt: skip
    load, act, act_with_memory = USES[options.format]
    memory = read_run(options.run)[0].core != "none"
    print(f"wrote {path}: the most probable action, statistics frozen")
    print("    " + load.format(path=str(path), module=path.stem))
    print("    " + (act_with_memory if memory else act))
    return 0


def write_stablehlo(acting: Acting) -> list[bytes]:
    """The program that JAX compiles, for any batch size and platform."""
    specs = acting.specs(*export.symbolic_shape("batch"))
    return [bytes(export.export(jax.jit(acting.act), platforms=PLATFORMS)(*specs).serialize())]


def write_onnx(acting: Acting) -> list[bytes]:
    """An ONNX model for any batch size.

    Raises:
        ConfigError: jax2onnx is not installed, does not know an operation, or gets one wrong.
    """
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"format='onnx' needs the package {error.name}: pip install 'purejaxppo[onnx]'"
        ) from error
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # warns of inner shapes, which may vary
    specs = acting.specs(*export.symbolic_shape("batch"))
    flat = flatten(acting.act, *specs)
    options, names = onnxruntime.SessionOptions(), acting.input_names()
    options.log_severity_level = 4  # errors are raised
    with _or_refuse("onnx"):
        model = jax2onnx.to_onnx(
            lambda *leaves: evaluate(flat.jaxpr, flat.consts, *leaves), jax.tree.leaves(specs),
            return_mode="proto", model_name="policy", input_names=names,
            output_names=acting.output_names(),
        ).SerializeToString()  # fmt: skip
        session: Any = onnxruntime.InferenceSession(model, options)
        check(acting, lambda leaves: session.run(None, dict(zip(names, leaves, strict=True))))
    return [model]


def write_npz(acting: Acting) -> list[bytes]:
    """Calls of NumPy for one observation with their constants, and the module that makes them.

    Raises:
        ConfigError: there are no calls for an operation.
    """

    def act(*args):
        outputs = acting.act(*jax.tree.map(lambda x: x[None], args))
        return jax.tree.map(lambda x: x[0], outputs)

    specs, names = acting.specs(), acting.input_names()
    program, outputs = as_numpy(flatten(act, *specs), names)
    paths = [
        [key.key if hasattr(key, "key") else key.idx for key in path]
        for path, _ in jax.tree_util.tree_leaves_with_path(specs)
    ]
    text = {
        "inputs": list(zip(names, paths, strict=True)),
        "calls": program.calls,
        "outputs": jax.tree.structure(jax.eval_shape(act, *specs)).unflatten(outputs),
        "initial_carry": jax.tree.map(lambda x: program.name(np.asarray(x)), acting.initial_carry),
    }
    arrays: dict[str, Any] = dict(program.constants)
    arrays["program"] = np.frombuffer(json.dumps(text, default=int).encode(), np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)

    def play(leaves):
        policy = reader.Policy(io.BytesIO(file.getvalue()))
        batch = zip(*leaves, strict=True)
        actions = [policy(*jax.tree.structure(specs).unflatten(one)) for one in batch]
        return jax.tree.leaves(jax.tree.map(lambda *xs: np.stack(xs), *actions))

    with _or_refuse("npz"):
        check(acting, play)
    return [file.getvalue(), Path(reader.__file__).read_bytes()]


def check(acting: Acting, play: Callable[[list[np.ndarray]], Sequence[np.ndarray]]) -> None:
    """Holds what was written against the policy, for three observations.

    Args:
        acting: the policy.
        play: arrays that go in, with a leading axis of 3, to those that come out.

    Raises:
        AssertionError: it acts otherwise.
    """
    rng = np.random.default_rng(0)
    args = jax.tree.map(lambda x: rng.uniform(0, 3, x.shape).astype(x.dtype), acting.specs(3))
    with jax.default_matmul_precision("highest"):
        ours = jax.tree.leaves(jax.jit(acting.act)(*args))
    for a, b in zip(ours, play(jax.tree.leaves(args)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3)


@contextlib.contextmanager
def _or_refuse(format: Format) -> Iterator[None]:
    """Whatever goes wrong in another program's words, the policy cannot be put in them."""
    try:
        yield
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"format={format!r} cannot express this policy ({words}): use format='stablehlo'"
        ) from error


WRITERS: dict[Format, Callable[[Acting], list[bytes]]] = {
    "stablehlo": write_stablehlo,
    "onnx": write_onnx,
    "npz": write_npz,
}
"""What stands in the file, and in the module beside it."""

USES: dict[Format, tuple[str, str, str]] = {
    "stablehlo": (
        "policy = jax.export.deserialize(pathlib.Path({path!r}).read_bytes()).call",
        "action = policy(obs)  # a batch: every array has a leading axis",
        "carry, action = policy(carry, obs, episode_start)  # batches; first: zeros",
    ),
    "onnx": (
        "policy = onnxruntime.InferenceSession({path!r})",
        "action, = policy.run(None, {'obs': obs})  # a batch; policy.get_inputs() has all names",
        "*carry, action = policy.run(None, inputs)  # batches; policy.get_inputs() has all names",
    ),
    "npz": (
        "from {module} import Policy; policy = Policy({path!r})  # {module}.py is beside it",
        "action = policy(obs)  # one observation",
        "carry, action = policy(carry, obs, episode_start)  # first: policy.initial_carry",
    ),
}
"""How a policy is loaded, and how it acts without and with a memory."""
