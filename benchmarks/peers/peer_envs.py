"""Virtual environments for the libraries that are measured beside ours: made once, then reused."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
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


def python_of(name: str, folder: Path) -> str:
    """The interpreter of an environment, which is made if it is not there.

    Args:
        name: a key of PINS.
        folder: where the environments are kept.

    Raises:
        subprocess.CalledProcessError: the packages could not be installed.
    """
    pins = PINS[name]
    digest = hashlib.sha256("\n".join((sys.version, *pins)).encode()).hexdigest()[:8]
    place = folder / f"{name}-{digest}"
    python = place / "bin" / "python"
    complete = place / "complete"  # an install that was cut short is done again
    if not complete.exists():
        print(f"making {place}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        install = [python, "-m", "pip", "install", "--quiet", *pins]
        subprocess.run(install, check=True, stdout=sys.stderr)
        complete.touch()
    return str(python)
