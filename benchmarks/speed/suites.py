"""One environment of every suite that is installed: what it is like, and how fast it trains.

Rollout and update together, on all cores of this machine, with the environment's preset; with the
defaults of `PPOConfig` where there is none, or where one update of it is more than all steps.
"""

from __future__ import annotations

import argparse
import datetime
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from benchmarks.common.records import report
from purejaxppo import PPOConfig, fit
from purejaxppo.components import make_components
from purejaxppo.config import presets
from purejaxppo.envs import registry
from purejaxppo.run_folder.rows import final_returns

# environment: (package, where the time limit comes from)
SHOWN = {
    "CartPole-v1": ("gymnax", "apart"),
    "brax/hopper": ("brax", "ours, 1,000"),
    "playground/CartpoleBalance": ("playground", "ours, its episode_length"),
    "jumanji/Snake-v1": ("jumanji", "ours, its time_limit"),
    "craftax/Craftax-Classic-Symbolic-v1": ("craftax", "told from deaths by us"),
    "navix/Navix-DoorKey-5x5-v0": ("navix", "apart"),
    "xminigrid/MiniGrid-Empty-5x5": ("xminigrid", "apart, by the discount"),
    "pgx/minatar-breakout": ("pgx", "apart"),
    "gymnasium/HalfCheetah-v5": ("gymnasium", "apart"),
    "ale/Pong-v5": ("ale-py", "apart"),
    "envpool/HalfCheetah-v4": ("envpool", "apart"),
}


def measure(name: str, total_timesteps: int) -> dict[str, Any]:
    """Trains on one environment; returns what there is to report."""
    tuned = PPOConfig.preset(name) if name in presets.names() else PPOConfig(env=name)
    # some are for accelerators: an update alone takes more steps
    base = tuned if tuned.batch_size <= total_timesteps else PPOConfig(env=name)
    config = base.replace(total_timesteps=total_timesteps)
    spec = make_components(config).spec
    result = fit(config)
    package, limit = SHOWN[name]
    final = float(final_returns(result.metrics)[0])
    return {
        "date": datetime.date.today().isoformat(),
        "package": package,
        "version": metadata.version(package),
        "observation": str(jax.tree.map(str, spec.observation)).replace("'", ""),
        "action": str(jax.tree.map(str, spec.action)).replace("'", ""),
        "time_limit": limit,
        "steps_per_second": config.timesteps / result.run_seconds,
        "compile_seconds": result.compile_seconds,
        "final_return": final if final == final else None,
        "config": config.to_dict(),
    }


def main() -> None:
    """Measures the suites that are installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", nargs="*", choices=SHOWN, default=list(SHOWN))
    parser.add_argument("--total-timesteps", type=int, default=50_000)
    parser.add_argument("--out", type=Path, help="JSON file to write, or to add these results to")
    args = parser.parse_args()
    absent = registry.missing()
    envs = [env for env in args.envs if env.rpartition("/")[0] not in absent]
    out: Path | None = args.out
    results = json.loads(out.read_text())["results"] if out and out.exists() else {}
    results |= {env: measure(env, args.total_timesteps) for env in envs}
    report("suites", results, out)


if __name__ == "__main__":
    main()
