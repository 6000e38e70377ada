"""Virtual environments for the libraries that are measured beside ours: made once, then reused."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "purejaxppo" / "peers"

# gymnax 0.0.9 is the last whose `step` returns five values, as rejax and PureJaxRL expect.
_JAX = ("jax==0.10.2", "jaxlib==0.10.2", "flax==0.12.8", "optax==0.2.8")
_GYMNAX = (*_JAX, "gymnax==0.0.9", "distrax==0.1.9")
PINS = {
    "rejax": (*_GYMNAX, "rejax==0.1.3"),
    "purejaxrl": _GYMNAX,
    # both: SBX needs Stable-Baselines3, and with it several gigabytes of PyTorch
    "sbx": (*_JAX, "sbx-rl==0.28.0", "stable-baselines3==2.9.2", "gymnasium==1.3.0"),
    "brax": (*_JAX, "brax==0.14.2", "gymnax==1.0.1", "six"),
}
"""What each environment holds, as pip takes it; versions that were measured together."""


def place_of(name: str, folder: Path, beside: bool = False) -> Path:
    """Where an environment is kept, made or not; another Python or other pins have another place.

    Args:
        name: a key of PINS.
        folder: where the environments are kept.
        beside: see `python_of`.
    """
    here = (metadata.version("jax"), sys.prefix) if beside else ()
    digest = hashlib.sha256("\n".join((sys.version, *PINS[name], *here)).encode()).hexdigest()[:8]
    return folder / f"{name}-{digest}"


def is_made(place: Path) -> bool:
    """Says whether an environment is there; one whose installation was cut short is not."""
    return (place / "complete").exists()


def python_of(name: str, folder: Path, beside: bool = False) -> str:
    """The interpreter of an environment, which is made if it is not there.

    Args:
        name: a key of PINS.
        folder: where the environments are kept.
        beside: it has the packages of this interpreter too, so that JAX is the same, with what it
            needs for this device; only what differs is installed.

    Raises:
        subprocess.CalledProcessError: the packages could not be installed.
    """
    place = place_of(name, folder, beside)
    python = place / "bin" / "python"
    if not is_made(place):
        print(f"making {place}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        pins = PINS[name]
        if beside:
            (packages,) = place.glob("lib/python*/site-packages")
            here = [path for path in sys.path if path.endswith("-packages")]
            (packages / "beside.pth").write_text("\n".join(here), encoding="utf-8")
            pins = [pin for pin in pins if pin not in _JAX]
        install = [python, "-m", "pip", "install", "--quiet", *pins]
        subprocess.run(install, check=True, stdout=sys.stderr)
        (place / "complete").touch()
    return str(python)
