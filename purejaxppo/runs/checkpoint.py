"""Pytrees in single files: whole or not at all, checksummed, never pickled.

A file is NumPy's npz, a zip whose members carry a CRC-32 each: an array for each leaf under its
path in the tree, and a manifest in JSON with what arrays cannot say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.errors import ConfigError
from purejaxppo.runs.files import write_whole
from purejaxppo.types import PyTree

FORMAT = 1
MANIFEST = "manifest"


class Damaged(Exception):
    """A file that was cut short, or of which a bit has changed."""


def save(path: Path, tree: PyTree, about: Mapping[str, object]) -> None:
    """Writes a pytree of arrays and keys; another file of this name stays until this one is whole.

    Args:
        path: the file.
        tree: of arrays (any dtype of JAX) and typed keys.
        about: plain values to keep beside the arrays.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    kinds, arrays = {}, {}
    for where, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(where)
        kinds[name], arrays[name] = _as_numpy(leaf)
    text = json.dumps({"format": FORMAT, "about": dict(about), "kinds": kinds})
    arrays[MANIFEST] = np.frombuffer(text.encode(), np.uint8)
    write_whole(path, lambda file: np.savez(file, **arrays))


def load(path: Path, template: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Reads what `save` wrote.

    Args:
        path: the file.
        template: a pytree of the same structure, whose leaves have shapes and dtypes.

    Returns:
        The pytree, its arrays on the host, and the plain values that were kept beside them.

    Raises:
        Damaged: the file is not whole.
        OSError: it cannot be read.
        ConfigError: it holds another tree (the first difference is named), or has another format.
    """
    found, about = _read(path)
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    expected = {jax.tree_util.keystr(where): leaf for where, leaf in leaves}
    # leaves are compared by name, so that a message can say which part of the tree is another
    for name in [*expected, *found]:
        there, here = _describe(found.get(name)), _describe(expected.get(name))
        if there != here:
            raise ConfigError(
                f"{str(path)!r} does not fit: it has {there} at {name}, and this run has {here}"
            )
    return jax.tree_util.tree_unflatten(structure, [found[name] for name in expected]), about


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the leaves by name, and the plain values beside them."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}  # read to the end: CRCs are checked
        manifest = json.loads(arrays.pop(MANIFEST).tobytes())
        # the format comes first: a later one may keep its leaves otherwise
        if manifest["format"] != FORMAT:
            raise ConfigError(
                f"{str(path)!r} has format {manifest['format']}, this version reads {FORMAT}: "
                "use the version of purejaxppo that wrote it"
            )
        kinds = manifest["kinds"]
        if kinds.keys() != arrays.keys():
            raise Damaged(f"{str(path)!r} lacks arrays")
        return {name: _from_numpy(kinds[name], arrays[name]) for name in kinds}, manifest["about"]
    except (FileNotFoundError, PermissionError, ConfigError, Damaged):
        raise
    except Exception as error:  # zip, zlib and JSON raise dozens of kinds on a damaged file
        raise Damaged(f"{str(path)!r} is damaged ({type(error).__name__})") from error


def _as_numpy(leaf: Any) -> tuple[str, np.ndarray]:
    """Returns the name of a leaf's kind, and an array that NumPy can write."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return f"key {jax.random.key_impl(leaf)}", np.asarray(jax.random.key_data(leaf))
    array = np.asarray(leaf)
    # npz knows NumPy's own dtypes only: bfloat16 and its kin are written as unsigned integers
    known = array.dtype.kind != "V"
    return array.dtype.name, array if known else array.view(f"u{array.itemsize}")


def _from_numpy(kind: str, array: np.ndarray) -> Any:
    """Returns the leaf that `_as_numpy` has turned into this array."""
    if kind.startswith("key "):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=kind.removeprefix("key "))
    return array.view(jnp.dtype(kind))


def _describe(leaf: Any) -> str:
    return "nothing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
