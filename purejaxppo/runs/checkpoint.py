"""Pytrees in single files: whole or not at all, checksummed, never pickled.

A file is NumPy's npz, a zip whose members carry a CRC-32 each: an array for each leaf under its
path in the tree, and a manifest in JSON with what arrays cannot say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.errors import ConfigError

FORMAT = 1
MANIFEST = "manifest"


class Damaged(Exception):
    """A file that was cut short, or of which a bit has changed."""


def save(path: Path, tree: Any, about: Mapping[str, Any]) -> None:
    """Writes a pytree of arrays and keys; another file of this name stays until this one is whole.

    Args:
        path: the file.
        tree: of arrays (any dtype of JAX) and typed keys.
        about: what to say of it, plain values.

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


def load(path: Path, template: Any) -> tuple[Any, dict[str, Any]]:
    """Reads what `save` wrote.

    Args:
        path: the file.
        template: a pytree of the same structure, whose leaves have shapes and dtypes.

    Returns:
        The pytree, its arrays on the host, and what was said of it.

    Raises:
        Damaged: the file is not whole.
        ConfigError: it holds another tree; the first difference is named.
    """
    found, about = _read(path)
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    expected = {jax.tree_util.keystr(where): leaf for where, leaf in leaves}
    for name in [*expected, *found]:
        there, here = _describe(found.get(name)), _describe(expected.get(name))
        if there != here:
            raise ConfigError(
                f"{str(path)!r} does not fit: it has {there} at {name}, and this run has {here}"
            )
    return jax.tree_util.tree_unflatten(structure, [found[name] for name in expected]), about


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file under another name, on the disk before it gets its own.

    Raises:
        OSError: it cannot be written; nothing is left of it, and what was there before stays.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_new(path: Path, overwrite: bool) -> None:
    """Raises ConfigError if a file exists and is not to be overwritten."""
    if path.exists() and not overwrite:
        raise ConfigError(f"{str(path)!r} exists: name another with --out, or pass --overwrite")


def write_new(path: Path, overwrite: bool, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file whole that somebody asked for.

    Raises:
        ConfigError: it exists and is not to be overwritten, or it cannot be written.
    """
    check_new(path, overwrite)
    try:
        write_whole(path, write)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written ({error}): name another") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes plain values, whole or not at all.

    Raises:
        OSError: see `write_whole`.
    """
    text = json.dumps(values, indent=1) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leaves by name, and what was said of them."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}  # read to the end: CRCs are checked
        manifest = json.loads(arrays.pop(MANIFEST).tobytes())
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
    except Exception as error:  # zip, zlib and JSON have their own, by the dozen
        raise Damaged(f"{str(path)!r} is damaged ({type(error).__name__})") from error


def _as_numpy(leaf: Any) -> tuple[str, np.ndarray]:
    """What it is, and an array of a kind that NumPy can write."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return f"key {jax.random.key_impl(leaf)}", np.asarray(jax.random.key_data(leaf))
    array = np.asarray(leaf)
    # bfloat16 and its like are not NumPy's own
    own = array.dtype.kind != "V"
    return array.dtype.name, array if own else array.view(f"u{array.itemsize}")


def _from_numpy(kind: str, array: np.ndarray) -> Any:
    if kind.startswith("key "):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=kind.removeprefix("key "))
    return array.view(jnp.dtype(kind))


def _describe(leaf: Any) -> str:
    return "nothing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
