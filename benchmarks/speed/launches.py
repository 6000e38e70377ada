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
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from benchmarks.common import ahead
from benchmarks.common.records import report
from benchmarks.common.shapes import CNN
from purejaxppo import PPOConfig


class Program(NamedTuple):
    """What is compiled.

    Attributes:
        config: what it trains.
        devices: H100s that share the environments.
        chunk: it is the one that `fit` calls for any number of updates; one of them is counted.
    """

    config: PPOConfig
    devices: int = 1
    chunk: bool = False


_LARGE: dict[str, Any] = dict(num_envs=2048, num_steps=128, total_timesteps=100 * 2048 * 128)
_CARTPOLE = PPOConfig(**_LARGE)
_NORMALIZED = PPOConfig(
    **_LARGE, env="Pendulum-v1", normalize_observations=True, normalize_rewards=True,
    objective="adaptive_kl", target_kl=0.01,
)  # fmt: skip
PROGRAMS = {
    "CartPole-v1": Program(_CARTPOLE),
    "Breakout-MinAtar": Program(CNN.replace(**_LARGE)),
    "CartPole-v1, gru": Program(_CARTPOLE.replace(core="gru")),
    "CartPole-v1, lstm": Program(_CARTPOLE.replace(core="lstm")),
    "CartPole-v1, linear": Program(_CARTPOLE.replace(core="linear")),
    "CartPole-v1, fit": Program(_CARTPOLE, chunk=True),
    "CartPole-v1, 4 devices": Program(_CARTPOLE, devices=4),
    "Pendulum-v1, normalized, 4 devices": Program(_NORMALIZED, devices=4),
}


def on_gpu(lowered: jax.stages.Lowered) -> dict[str, Any]:
    """Launches of a program, in all and loop by loop."""
    loops = ahead.launches_of(lowered)
    total = {
        name: sum(loop.turns * getattr(loop, name) for loop in loops)
        for name in ahead.Loop._fields
        if name != "turns"
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
    parser.add_argument("--programs", nargs="*", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--config", help="another one instead: fields of PPOConfig, as JSON")
    parser.add_argument("--devices", type=int, default=1, help="that share it, with --config")
    parser.add_argument(
        "--tpu", help="a topology such as v5e:2x2, whose TPUs are compiled for instead"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    # the platform of this process, whatever else is installed: nothing is run on it
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    programs = {name: PROGRAMS[name] for name in args.programs}
    if args.config:
        programs = {"given": Program(PPOConfig.from_dict(json.loads(args.config)), args.devices)}
    results: dict[str, Any] = {"programs": {}}
    for name, program in programs.items():
        print(name, file=sys.stderr, flush=True)
        mesh = mesh_of(args.tpu, program.devices)
        results["compiled_for"] = mesh.devices.flat[0].device_kind
        lower = ahead.lower_chunk if program.chunk else ahead.lower_update
        count = on_tpu if args.tpu else on_gpu
        counted = count(lower(program.config, mesh))
        results["programs"][name] = {"devices": program.devices} | counted
    report("launches", results, args.out)


def mesh_of(tpu: str | None, devices: int) -> Mesh:
    """Describes what a program is compiled for, or ends with a line that says what is needed."""
    try:
        return ahead.tpu_mesh(tpu, devices) if tpu else ahead.h100_mesh(devices)
    except (RuntimeError, ValueError) as error:
        needed = "libtpu" if tpu else "-e '.[launches]'"
        sys.exit(f"no compiler for this device: pip install {needed} ({error})")


if __name__ == "__main__":
    main()
