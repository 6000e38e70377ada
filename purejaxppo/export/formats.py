"""The formats of an exported policy: for any JAX, for ONNX, for NumPy alone.

Each holds the most probable action, statistics frozen: from observations as the environment gives
them (records as dictionaries) to actions within the bounds. What other programs will read is played
here and compared with the policy before it is written.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from purejaxppo.errors import ConfigError
from purejaxppo.export import numpy_policy
from purejaxppo.export.flatten_jaxpr import evaluate, flatten
from purejaxppo.export.inference import Acting
from purejaxppo.export.numpy_program import Fixed, as_numpy
from purejaxppo.runs.options import Format
from purejaxppo.spaces import Box, Space
from purejaxppo.types import PyTree

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

ROWS = 64
"""Observations for which a file is compared with the policy before it is written."""

FLOAT32_ALONE: tuple[Format, ...] = ("onnx", "npz")
"""Formats for programs that have no bfloat16, as NumPy has none, or hardly anything that reads it.
"""


def write_stablehlo(acting: Acting) -> list[bytes]:
    """Writes the program that JAX compiles, for any batch size and platform.

    Args:
        acting: the policy.

    Returns:
        The content of the file.
    """
    specs = acting.specs(*export.symbolic_shape("batch"))
    return [bytes(export.export(jax.jit(acting.act), platforms=PLATFORMS)(*specs).serialize())]


def write_onnx(acting: Acting) -> list[bytes]:
    """Writes an ONNX model for any batch size.

    Args:
        acting: the policy.

    Returns:
        The content of the file.

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
    # the converter knows simple primitives only, and takes arrays, not trees
    specs = acting.specs(*export.symbolic_shape("batch"))
    flat = flatten(acting.act, *specs)
    options, names = onnxruntime.SessionOptions(), acting.input_names()
    options.log_severity_level = 4  # errors are raised

    with _or_refuse("onnx"), _put_back(jnp, jax.lax, jax.nn):
        model = jax2onnx.to_onnx(
            lambda *leaves: evaluate(flat.jaxpr, flat.consts, *leaves), jax.tree.leaves(specs),
            return_mode="proto", model_name="policy", input_names=names,
            output_names=acting.output_names(),
        ).SerializeToString()  # fmt: skip
        session: Any = onnxruntime.InferenceSession(model, options)
        check(acting, lambda leaves: session.run(None, dict(zip(names, leaves, strict=True))))
    return [model]


def write_npz(acting: Acting) -> list[bytes]:
    """Writes calls of NumPy with their constants, for one observation or a batch.

    Args:
        acting: the policy.

    Returns:
        The content of the file, and that of the module that makes the calls.

    Raises:
        ConfigError: there are no calls for an operation.
    """

    def act(*args: PyTree) -> PyTree:  # for one observation
        outputs = acting.act(*jax.tree.map(lambda x: x[None], args))
        return jax.tree.map(lambda x: x[0], outputs)

    specs, names = acting.specs(), acting.input_names()
    program, outputs = as_numpy(flatten(act, *specs), names)
    # actions come last, in the dtypes and bounds that the environment declares
    for i, form in enumerate(acting.forms, len(outputs) - len(acting.forms)):
        outputs[i] = program.call("astype", outputs[i], options=[form.dtype.name])
        for nearest, bound in zip(("maximum", "minimum"), form.bounds or (), strict=False):
            outputs[i] = program.call(nearest, outputs[i], bound)

    # what the reader needs: where inputs are in the arguments, calls, and where outputs go
    inputs = [
        (name, [key.key if hasattr(key, "key") else key.idx for key in path], x.shape)
        for name, (path, x) in zip(names, jax.tree_util.tree_leaves_with_path(specs), strict=True)
    ]
    text = {
        "inputs": inputs,
        "calls": program.calls,
        "outputs": jax.tree.structure(jax.eval_shape(act, *specs)).unflatten(outputs),
        "initial_carry": jax.tree.map(
            lambda x: program.name(Fixed(np.asarray(x))), acting.initial_carry
        ),
    }

    # constants as arrays, calls as JSON in one more
    arrays: dict[str, Any] = dict(program.constants)
    arrays["program"] = np.frombuffer(json.dumps(text, default=int).encode(), np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)

    def play(leaves: list[np.ndarray]) -> list[np.ndarray]:
        policy = numpy_policy.Policy(io.BytesIO(file.getvalue()))
        return jax.tree.leaves(policy(*jax.tree.structure(specs).unflatten(leaves)))

    with _or_refuse("npz"):
        check(acting, play)
    return [file.getvalue(), Path(numpy_policy.__file__).read_bytes()]


def check(acting: Acting, play: Callable[[list[np.ndarray]], Sequence[np.ndarray]]) -> None:
    """Compares what was written with the policy, for observations drawn from their spaces.

    Args:
        acting: the policy.
        play: arrays that go in, with a leading axis of ROWS, to those that come out.

    Raises:
        AssertionError: it acts otherwise.
    """
    rng = np.random.default_rng(0)  # to fail alike
    args = dict(zip(acting.inputs, acting.specs(ROWS), strict=True))
    args["obs"] = jax.tree.map(partial(_drawn, rng), acting.spaces)
    if "carry" in args:
        memory = args["carry"]
        args["carry"] = jax.tree.map(lambda x: rng.uniform(0, 3, x.shape).astype(x.dtype), memory)
        args["episode_start"] = rng.random(ROWS) < 0.5
    inputs = tuple(args.values())  # in their order
    with jax.default_matmul_precision("highest"):
        ours = jax.tree.leaves(jax.jit(acting.act)(*inputs))
    for a, b in zip(ours, play(jax.tree.leaves(inputs)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3)


def _drawn(rng: np.random.Generator, space: Space) -> np.ndarray:
    """Draws [ROWS] arrays of a space: the first is the lowest, as a mask without an action."""
    shape = ROWS, *space.shape
    if not isinstance(space, Box):
        # bits have neither nvec nor n: two values
        sizes = np.asarray(getattr(space, "nvec", getattr(space, "n", 2)))
        drawn = rng.integers(0, sizes, shape)
        drawn[0] = 0
        return drawn.astype(space.dtype)
    # as much of a range as there is within what numbers of its kind usually are
    most = 10.0 if space.dtype.kind == "f" else 255.0
    low, high = (x.astype(np.float64) for x in (space.low, space.high))
    low = np.maximum(low, np.minimum(-most, high - most))
    high = np.minimum(high, np.maximum(most, low + most))
    drawn = low + (high - low) * rng.random(shape)
    drawn[0] = low
    return (drawn if space.dtype.kind == "f" else np.round(drawn)).astype(space.dtype)


@contextlib.contextmanager
def _or_refuse(format: Format) -> Iterator[None]:
    """Says that the format cannot express the policy, whatever goes wrong within the block.

    Raises:
        ConfigError: in place of any exception.
    """
    try:
        yield
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"format={format!r} cannot express this policy ({words}): use format='stablehlo'"
        ) from error


@contextlib.contextmanager
def _put_back(*modules: ModuleType) -> Iterator[None]:
    """Undoes what the block puts into modules in place of what is there, as the converter does."""
    before = [dict(vars(module)) for module in modules]
    try:
        yield
    finally:
        for module, names in zip(modules, before, strict=True):
            for name, value in names.items():
                if vars(module).get(name) is not value:
                    setattr(module, name, value)


WRITERS: dict[Format, Callable[[Acting], list[bytes]]] = {
    "stablehlo": write_stablehlo,
    "onnx": write_onnx,
    "npz": write_npz,
}
"""What writes each format: `(acting) -> [content of the file, of the module beside it]`."""


class Use(NamedTuple):
    """How a file is used, in lines of Python.

    `{path}` and `{module}` stand for the file and its name; `{inputs}` and `{outputs}`, in ONNX,
    for its arrays by name.

    Attributes:
        load: makes `policy`.
        act: calls a policy without a memory.
        act_with_memory: calls one with a memory.
    """

    load: str
    act: str
    act_with_memory: str


USES: dict[Format, Use] = {
    "stablehlo": Use(
        "policy = jax.export.deserialize(pathlib.Path({path!r}).read_bytes()).call",
        "action = policy(obs)  # a batch: every array has a leading axis",
        "carry, action = policy(carry, obs, episode_start)  # batches; first: zeros",
    ),
    "onnx": Use(
        "policy = onnxruntime.InferenceSession({path!r})",
        "{outputs} = policy.run(None, {inputs})  # a batch: every array has a leading axis",
        "*carry, {outputs} = policy.run(None, inputs)  # batches; policy.get_inputs() has names",
    ),
    "npz": Use(
        "from {module} import Policy; policy = Policy({path!r})  # {module}.py is beside it",
        "action = policy(obs)  # one observation, or a batch",
        "carry, action = policy(carry, obs, episode_start)  # first: policy.initial_carry",
    ),
}
"""How each format is used."""


def use_of(path: Path, format: Format, memory: bool) -> list[str]:
    """Returns how a file is used, in lines of Python.

    Args:
        path: the file.
        format: of it.
        memory: the policy has one.
    """
    use, about = USES[format], {"path": str(path), "module": path.stem}
    if format == "onnx":
        import onnxruntime  # pyright: ignore[reportMissingImports]

        session: Any = onnxruntime.InferenceSession(path)
        names = [x.name for x in session.get_inputs()]
        actions = [x.name for x in session.get_outputs() if x.name.split(".")[0] == "action"]
        about["inputs"] = "{" + ", ".join(f"{x!r}: {_variable(x)}" for x in names) + "}"
        alone = len(actions) == 1 and not memory
        about["outputs"] = ", ".join(map(_variable, actions)) + "," * alone
    return [line.format(**about) for line in (use.load, use.act_with_memory if memory else use.act)]


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name)
