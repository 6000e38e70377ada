"""What an update launches on an H100, or runs on a TPU, counted on a machine that has neither.

The compiler's own output is read, which is the same on any machine: nothing is run. Launches are
kernels and copies; those in a CUDA graph cost about a microsecond each, those outside of one more,
for the host starts every one. `pip install -e '.[launches]'` brings what compiles for an H100
(182 MB), `pip install libtpu` what compiles for a TPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax

from benchmarks.common import ahead
from benchmarks.common.timing import report
from purejaxppo import PPOConfig

_LARGE: dict[str, Any] = dict(num_envs=2048, num_steps=128, total_timesteps=100 * 2048 * 128)
CARTPOLE = PPOConfig(**_LARGE)
CONFIGS = {
    "CartPole-v1": CARTPOLE,
    "Breakout-MinAtar": PPOConfig.preset("Breakout-MinAtar", **_LARGE, num_minibatches=8),
    "CartPole-v1, gru": CARTPOLE.replace(core="gru"),
    "CartPole-v1, lstm": CARTPOLE.replace(core="lstm"),
    "CartPole-v1, linear": CARTPOLE.replace(core="linear"),
}
CHUNK = "CartPole-v1, fit"
"""The program that `fit` calls for any number of updates; one is counted."""


def on_gpu(lowered: jax.stages.Lowered) -> dict[str, Any]:
    """Launches of a program, in all and loop by loop."""
    loops = ahead.launches_of(lowered)
    total = {
        name: sum(loop.turns * getattr(loop, name) for loop in loops)
        for name in ("launches", "outside", "graphs")
    }
    return total | {"loops": [loop._asdict() for loop in loops]}


def on_tpu(lowered: jax.stages.Lowered) -> dict[str, Any]:
    """Instructions of a program, in all and loop by loop."""
    loops = ahead.instructions_of(lowered)
    total = {
        name: sum(loop["turns"] * loop[name] for loop in loops)
        for name in loops[0]
        if name != "turns"
    }
    return total | {"loops": loops}


def main() -> None:
    """Counts every program in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*CONFIGS, CHUNK]
    parser.add_argument("--programs", nargs="*", choices=names, default=names)
    parser.add_argument("--config", help="another one instead: fields of PPOConfig, as JSON")
    parser.add_argument("--devices", type=int, default=1, help="H100s that share the environments")
    parser.add_argument(
        "--tpu", help="a topology such as v5e:2x2, one of whose TPUs is compiled for"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    # the platform of this process, whatever else is installed: nothing is run on it
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    try:
        mesh = ahead.tpu_mesh(args.tpu) if args.tpu else ahead.h100_mesh(args.devices)
    except (RuntimeError, ValueError) as error:
        needed = "libtpu" if args.tpu else "-e '.[launches]'"
        sys.exit(f"no compiler for this device: pip install {needed} ({error})")
    count = on_tpu if args.tpu else on_gpu
    results: dict[str, Any] = {"compiled_for": mesh.devices.flat[0].device_kind}
    results["devices"], results["programs"] = mesh.size, {}
    given = {"given": PPOConfig.from_dict(json.loads(args.config))} if args.config else CONFIGS
    for name in given if args.config else args.programs:
        print(name, file=sys.stderr, flush=True)
        if name == CHUNK:
            lowered = ahead.lower_chunk(CARTPOLE, mesh)
        else:
            lowered = ahead.lower_update(given[name], mesh)
        results["programs"][name] = count(lowered)
    report("launches", results, args.out)


if __name__ == "__main__":
    main()
