"""Worker: rejax."""
# pyright: reportMissingImports=false

import optax
from arm import Arm, jax_arm
from rejax import PPO


def make(job: dict) -> Arm:
    """Rejax's PPO with the shape's sizes, in one training iteration after the other."""
    config = job["config"]
    gradient_steps = config["num_epochs"] * config["total_timesteps"]
    gradient_steps //= config["num_envs"] * config["num_steps"] // config["num_minibatches"]
    rate = config["learning_rate"]
    algorithm = PPO.create(
        env=config["env"],
        agent_kwargs={
            "activation": config["activation"],
            "hidden_layer_sizes": config["hidden_sizes"],
        },
        num_envs=config["num_envs"],
        num_steps=config["num_steps"],
        num_epochs=config["num_epochs"],
        num_minibatches=config["num_minibatches"],
        total_timesteps=config["total_timesteps"],
        eval_freq=config["total_timesteps"],
        skip_initial_evaluation=True,
        learning_rate=optax.linear_schedule(
            rate, rate * config["learning_rate_final_scale"], gradient_steps
        ),
        gamma=config["gamma"],
        gae_lambda=config["gae_lambda"],
        clip_eps=config["clip_eps"],
        vf_coef=config["value_coef"],
        ent_coef=config["entropy_coef"],
        max_grad_norm=config["max_grad_norm"],
        normalize_observations=config["normalize_observations"],
        normalize_rewards=config["normalize_rewards"],
        reward_normalization_discount=config["gamma"],
    )
    # the library's own way to a training run without evaluation
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: ())
    return jax_arm(algorithm.train, job["seeds"])
