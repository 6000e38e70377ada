"""One run of control_suite.py: Brax's PPO on an environment of MuJoCo Playground."""
# pyright: reportMissingImports=false

import functools
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
from brax.training.agents.ppo import train as ppo
from brax.training.agents.ppo.networks import make_ppo_networks
from mujoco_playground import registry, wrapper

ACTIVATIONS = {"silu": jax.nn.silu, "tanh": jnp.tanh}


def main() -> None:
    """Trains once, and prints steps and returns of its evaluations as a line of JSON."""
    job = json.loads(sys.argv[1])
    config = job["config"]
    name = config["env"].removeprefix("playground/")
    (scaling,) = (x for x in config["env_options"] if x.startswith("reward_scaling="))

    def load() -> Any:
        return registry.load(name, config_overrides={"impl": "jax"})

    # removed from jax 0.10, and still called by Brax 0.14.2
    jax.device_put_replicated = lambda tree, devices: jax.tree.map(
        lambda x: jnp.stack([x] * len(devices)), tree
    )
    found: dict[str, list] = {"steps": [], "returns": [], "seconds": []}

    def note(steps: int, metrics: dict[str, Any]) -> None:
        found["steps"].append(int(steps))
        found["returns"].append(float(metrics["eval/episode_reward"]))
        found["seconds"].append(float(metrics.get("training/walltime", 0.0)))

    env = load()
    ppo.train(
        env,
        eval_env=load(),
        wrap_env_fn=wrapper.wrap_for_brax_training,
        seed=job["seed"],
        num_timesteps=config["total_timesteps"],
        num_evals=job["evaluations"] + 1,
        num_eval_envs=job["episodes"],
        deterministic_eval=True,
        progress_fn=note,
        episode_length=job["episode_length"],
        num_envs=config["num_envs"],
        unroll_length=config["num_steps"],
        batch_size=config["num_envs"] // config["num_minibatches"],  # in rollouts
        num_minibatches=config["num_minibatches"],
        num_updates_per_batch=config["num_epochs"],
        learning_rate=config["learning_rate"],
        entropy_cost=config["entropy_coef"],
        discounting=config["gamma"],
        gae_lambda=config["gae_lambda"],
        clipping_epsilon=config["clip_eps"],
        vf_loss_coefficient=config["value_coef"],
        max_grad_norm=config["max_grad_norm"],
        normalize_observations=config["normalize_observations"],
        reward_scaling=float(scaling.partition("=")[2]),
        network_factory=functools.partial(
            make_ppo_networks,
            policy_hidden_layer_sizes=tuple(config["hidden_sizes"]),
            value_hidden_layer_sizes=tuple(config["critic_hidden_sizes"]),
            activation=ACTIVATIONS[config["activation"]],
        ),
    )
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
