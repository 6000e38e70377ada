"""Presets found again: the sweep in the first line of each, and what it finds beside the preset.

The command is run as it stands in the file, in a study that goes on where it was stopped. The
setting that it finds and the preset's own are trained on seeds which the sweep has not seen, for
the same steps; the difference of their means has a 95% interval (Welch's t).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common.records import asked_for, measured_before, quickened, record, report
from benchmarks.common.returns import compared, returns_of
from benchmarks.common.runs import COMMAND, flags_of
from purejaxppo import PPOConfig, use_cores
from purejaxppo.config import presets
from purejaxppo.run_folder.read import read_config

FRESH = 20_000
"""First seed of those that settings are compared by."""


def commands() -> dict[str, str]:
    """Reads the sweeps in the first lines of the presets' files, by the environment they train."""
    found = {}
    for file in sorted(Path(presets.__file__).parent.rglob("*.toml")):
        first = file.read_text(encoding="utf-8").splitlines()[0]
        if first.startswith("# purejaxppo sweep "):
            command = first.removeprefix("# ")
            found[shlex.split(command)[2]] = command
    return found


def with_flags(command: str, **values: int) -> str:
    """Returns a command with other values of some flags."""
    words = shlex.split(command)
    for flag, value in zip(flags_of(values)[::2], values.values(), strict=True):
        if flag in words:
            words[words.index(flag) + 1] = str(value)
        else:
            words[3:3] = [flag, str(value)]
    return shlex.join(words)


def found_by(command: str, folder: Path) -> tuple[PPOConfig, dict[str, Any]]:
    """Runs a sweep, or goes on with it.

    Returns:
        The best configuration, and its setting.
    """
    words = [*shlex.split(command)[1:], "--quiet", "--study-dir", str(folder)]
    done = subprocess.run([*COMMAND, *words], stdout=subprocess.DEVNULL)
    if done.returncode != 1:  # with problems, such as masks that allow nothing: they are printed
        done.check_returncode()
    best = read_config(folder / "best.toml")
    varied = json.loads((folder / "study.json").read_text(encoding="utf-8"))["space"]
    names = [dimension["name"] for dimension in varied]
    return best, {name: getattr(best, name) for name in names if hasattr(best, name)}


def measure(name: str, command: str, folder: Path, seeds: int, steps: int | None) -> dict[str, Any]:
    """Sweeps for a preset; returns what there is to report."""
    if steps is not None:
        command = with_flags(command, total_timesteps=steps, trials=4, retrain=1, retrain_seeds=2)
    best, setting = found_by(command, folder)
    preset = PPOConfig.preset(name)
    if steps is not None:
        preset = preset.replace(total_timesteps=steps)
    use_cores(seeds)
    own = compared(returns_of(preset, seeds, FRESH), None)
    again = returns_of(best.replace(total_timesteps=preset.total_timesteps), seeds, FRESH)
    return {
        "command": command,
        "setting": setting,
        "timesteps": preset.timesteps,
        "seeds": seeds,
        "preset": own,
        "found": compared(again, own),
    }


def main() -> None:
    """Runs the sweep of every preset that has one."""
    sweeps = commands()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="*", choices=sweeps, default=list(sweeps))
    parser.add_argument("--seeds", type=int, default=8, help="that settings are compared by")
    parser.add_argument("--folder", type=Path, default=Path("runs/presets"), help="of the studies")
    parser.add_argument("--quick", action="store_true", help="CartPole-v1, 4 trials, 20,000 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write, or to go on with")
    args = parser.parse_args()
    steps = None
    if args.quick:
        args = quickened(parser, presets=["CartPole-v1"], seeds=2)
        steps = 20_000
        args.folder /= "quick"
    asked = asked_for(args) | {"steps": steps}
    results = measured_before(args.out, parser, asked)
    for name in args.presets:
        if name not in results:
            print(name, sweeps[name], file=sys.stderr, flush=True)
            folder = args.folder / name
            results[name] = measure(name, sweeps[name], folder, args.seeds, steps)
            record("presets", results, args.out, asked)
    report("presets", results, args.out, asked)


if __name__ == "__main__":
    main()
