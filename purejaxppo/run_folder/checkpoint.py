"""Pytrees in single files: whole or not at all, checksummed, never pickled.

A file is NumPy's npz, a zip whose members carry a CRC-32 each: an array for each leaf under its
path in the tree, and a manifest in JSON with what arrays cannot say.
"""

from __future__ import annotations

import json
import math
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.errors import ConfigError
from purejaxppo.run_folder.files import write_whole
from purejaxppo.run_folder.schemas import Manifest, misfit, parse_json
from purejaxppo.types import PyTree

FORMAT = 1
MANIFEST = "manifest"
ADDED = (".rounding",)  # ends of the paths of leaves that files of 0.1.0 lack: they begin at 0
BITS = (".obs",)  # of those that are bits, and float32 in files of 0.1.0
MOMENTS = ".opt_state"  # in the paths of what an optimizer remembers
LARGEST_MANIFEST = 2**24  # bytes; a hundred for each leaf, and the configuration


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


def load(path: Path, template: PyTree, within: str = "") -> tuple[PyTree, dict[str, Any]]:
    """Reads what `save` wrote, or a part of it.

    Args:
        path: the file.
        template: a pytree of the same structure, whose leaves have shapes and dtypes.
        within: the path of a part of the tree, as `jax.tree_util.keystr` writes it, of which the
            template has some entries; "": all of the tree.

    Returns:
        The pytree, its arrays on the host, and the plain values that were kept beside them.

    Raises:
        Damaged: the file is not whole.
        OSError: it cannot be read.
        ConfigError: it holds another tree (the first difference is named), or has another format.
    """
    structure = jax.tree.structure(template)
    expected = {f"{within}{name}": leaf for name, leaf in _by_name(template).items()}
    entries = tuple({within + jax.tree_util.keystr(w[:1]) for w, _ in _with_path(template)})
    # a pipe or a device has no end
    if not stat.S_ISREG(path.stat().st_mode):
        raise Damaged(f"{str(path)!r} is no file")
    with open(path, "rb") as raw:
        try:
            with zipfile.ZipFile(raw) as file:
                manifest = _manifest(path, file)
                kinds = manifest["kinds"]
                if within:
                    kinds = {name: x for name, x in kinds.items() if name.startswith(entries)}
                arrays = _arrays(path, file, kinds, expected)
        except (ConfigError, Damaged):
            raise
        # zip, zlib and JSON raise dozens of kinds on a damaged file: OSError of places before it
        except Exception as error:
            raise Damaged(f"{str(path)!r} is damaged ({type(error).__name__})") from error
    return jax.tree_util.tree_unflatten(structure, arrays), manifest["about"]


def _arrays(
    path: Path, file: zipfile.ZipFile, kinds: Mapping[str, str], expected: Mapping[str, Any]
) -> list[Any]:
    """Reads the leaves that are expected, if the file has those and no others.

    Raises:
        Damaged: they are not whole.
        ConfigError: it has another tree.
    """
    found: dict[str, Any] = {name: _outline(file, name, kind) for name, kind in kinds.items()}
    added = {n: x for n, x in expected.items() if n not in found and n.endswith(ADDED)}
    found |= added
    older = {
        n for n, x in expected.items()
        if n.endswith(BITS) and n in found and (x.dtype, found[n].dtype) == (bool, np.float32)
    }  # fmt: skip
    found |= {n: jax.ShapeDtypeStruct(found[n].shape, bool) for n in older}
    pieces = _laid_out_as(found, expected)
    # leaves are compared by name, so that a message can say which part of the tree is another; and
    # before they are read: a small file can be packed with gigabytes
    for name, words in _differences(found, expected):
        _check_bits(file, f"{name}.npy" if name in found else None)
        raise ConfigError(f"{str(path)!r} does not fit: it has {words}")

    def read(name: str) -> Any:
        if name in pieces:
            rows = [read(part).reshape(seeds, -1)[:, where] for part, seeds, where in pieces[name]]
            return np.concatenate(rows, 1).reshape(expected[name].shape)
        leaf = _from_numpy(kinds[name], _array(file, name))
        return leaf.astype(bool) if name in older else leaf

    return [
        np.zeros(leaf.shape, leaf.dtype) if name in added else read(name)
        for name, leaf in expected.items()
    ]


def _laid_out_as(
    found: dict[str, Any], expected: Mapping[str, Any]
) -> dict[str, list[tuple[str, int, slice]]]:
    """Finds moments that a file has as one vector where an array each is expected, or the reverse.

    An optimizer holds them as is fastest on the device, and a run may go on with them on another.

    Args:
        found: leaves of the file by name, [seeds, ...]; they are replaced by those expected.
        expected: leaves by name.

    Returns:
        By name of what is expected, the leaves of the file that it is made of: name, seeds, and
        which part of each row.
    """
    pieces: dict[str, list[tuple[str, int, slice]]] = {}
    there = dict(found)
    for some, others in ((there, expected), (expected, there)):
        for name, vector in some.items():
            apart = [n for n in others if n.startswith((f"{name}[", f"{name}."))]
            if name in others or not apart or MOMENTS not in name:
                continue
            seeds = vector.shape[:1]
            ends = np.cumsum([math.prod(others[n].shape[1:]) for n in apart]).tolist()
            kinds = {others[n].dtype for n in apart} | {vector.dtype}
            if len(kinds) > 1 or vector.shape != (*seeds, ends[-1]):
                continue  # they are of other parameters
            cuts = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
            for n in [name, *apart]:
                found.pop(n, None)
            if some is there:
                pieces |= {n: [(name, *seeds, cut)] for n, cut in zip(apart, cuts, strict=True)}
                found |= {n: expected[n] for n in apart}
            else:
                pieces[name] = [(n, *seeds, slice(None)) for n in apart]
                found[name] = vector
    return pieces


def _manifest(path: Path, file: zipfile.ZipFile) -> dict[str, Any]:
    """Reads what a file says of its arrays.

    Raises:
        Damaged: it says nothing, or of others than it has.
        ConfigError: it has another format.
    """
    with file.open(f"{MANIFEST}.npy") as member:
        (size,), _ = _header(member)
        if size > LARGEST_MANIFEST:
            raise Damaged(f"{str(path)!r} has a manifest of {size:,} bytes")
    # numbers that are not finite are what evaluations may give
    manifest: Any = parse_json(_array(file, MANIFEST).tobytes(), finite=False)
    # the format comes first: a later one may keep its leaves otherwise
    if isinstance(manifest, dict) and manifest.get("format", FORMAT) != FORMAT:
        raise ConfigError(
            f"{str(path)!r} has format {manifest['format']}, this version reads {FORMAT}: "
            "use the version of purejaxppo that wrote it"
        )
    words = misfit(manifest, Manifest, "the manifest")
    if words is not None:
        raise Damaged(f"{str(path)!r} is damaged ({words})")
    if {f"{name}.npy" for name in (*manifest["kinds"], MANIFEST)} != set(file.namelist()):
        raise Damaged(f"{str(path)!r} lacks arrays")
    return manifest


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Reads shape and dtype of an array, up to where its numbers begin."""
    version = np.lib.format.read_magic(member)
    if version != (1, 0):  # that of every array that `save` writes, and short
        raise Damaged(f"{member.name!r} is damaged (version {version})")
    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    return shape, dtype


def _outline(file: zipfile.ZipFile, name: str, kind: str) -> jax.ShapeDtypeStruct:
    """Returns shape and dtype of a leaf, of which its header alone is read."""
    with file.open(f"{name}.npy") as member:
        shape, dtype = _header(member)
    stored = jax.ShapeDtypeStruct(shape, dtype)
    if kind.startswith("key "):
        return jax.eval_shape(lambda x: _from_numpy(kind, x), stored)
    if jnp.dtype(kind).itemsize != dtype.itemsize:
        raise Damaged(f"{name} is damaged ({dtype} cannot be {kind})")
    return jax.ShapeDtypeStruct(shape, jnp.dtype(kind))


def _array(file: zipfile.ZipFile, name: str) -> np.ndarray:
    """Reads an array to its end, which checks its CRC."""
    with file.open(f"{name}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):
            raise Damaged(f"{name} is longer than it says")
    return array


def _check_bits(file: zipfile.ZipFile, member: str | None) -> None:
    """Raises what zip raises where a member is damaged, which then says nothing about its tree."""
    if member is not None and file.getinfo(member).compress_type == zipfile.ZIP_STORED:
        with file.open(member) as raw:
            while raw.read(2**20):
                pass


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


def first_difference(tree: PyTree, template: PyTree) -> str | None:
    """Compares a pytree with the one that a run would have.

    Args:
        tree: of arrays and keys.
        template: of shapes and dtypes.

    Returns:
        The first leaf that differs, in words behind "it has"; None if there is none.
    """
    return next((words for _, words in _differences(_by_name(tree), _by_name(template))), None)


def _differences(
    found: Mapping[str, Any], expected: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yields the names of leaves that differ, and in which way."""
    for name in [*expected, *found]:
        there, here = _describe(found.get(name)), _describe(expected.get(name))
        if there != here:
            yield name, f"{there} at {name}, and this run has {here}"


def _with_path(tree: PyTree) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _by_name(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of a pytree by their paths."""
    return {jax.tree_util.keystr(where): leaf for where, leaf in _with_path(tree)}


def _describe(leaf: Any) -> str:
    return "nothing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
