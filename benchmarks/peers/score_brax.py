"""One run of control_suite.py: Brax's PPO on an environment of MuJoCo Playground."""
# pyright: reportMissingImports=false

import json
import sys
from typing import Any

import brax_ppo
from mujoco_playground import registry, wrapper


def main() -> None:
    """Trains once, and prints steps and returns of its evaluations as a line of JSON."""
    job = json.loads(sys.argv[1])
    config = job["config"]
    name = config["env"].removeprefix("playground/")
    (scaling,) = (x for x in config["env_options"] if x.startswith("reward_scaling="))
    found: dict[str, list] = {"steps": [], "returns": [], "seconds": []}

    def note(steps: int, metrics: dict[str, Any]) -> None:
        found["steps"].append(int(steps))
        found["returns"].append(float(metrics["eval/episode_reward"]))
        found["seconds"].append(float(metrics.get("training/walltime", 0.0)))

    env, eval_env = (registry.load(name, config_overrides={"impl": "jax"}) for _ in range(2))
    brax_ppo.train(
        env,
        config,
        eval_env=eval_env,
        wrap_env_fn=wrapper.wrap_for_brax_training,
        seed=job["seed"],
        num_timesteps=config["total_timesteps"],
        num_evals=job["evaluations"] + 1,
        num_eval_envs=job["episodes"],
        deterministic_eval=True,
        progress_fn=note,
        episode_length=job["episode_length"],
        reward_scaling=float(scaling.partition("=")[2]),
    )
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
