"""Worker: PPO of Stable-Baselines3 or of SBX, which share an interface."""
# pyright: reportMissingImports=false

from arm import Arm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize


def make(job: dict) -> Arm:
    """One model, whose `learn` is called again and again: each call resets the environments."""
    config = job["config"]
    rate, final = config["learning_rate"], config["learning_rate_final_scale"]
    sizes = list(config["hidden_sizes"])
    options = {
        "learning_rate": lambda left: rate * (final + (1 - final) * left),
        "n_steps": config["num_steps"],
        "batch_size": config["num_envs"] * config["num_steps"] // config["num_minibatches"],
        "n_epochs": config["num_epochs"],
        "gamma": config["gamma"],
        "gae_lambda": config["gae_lambda"],
        "clip_range": config["clip_eps"],
        "ent_coef": config["entropy_coef"],
        "vf_coef": config["value_coef"] / 2,  # their squared error is not halved
        "max_grad_norm": config["max_grad_norm"],
        "policy_kwargs": {"net_arch": {"pi": sizes, "vf": sizes}, "ortho_init": True},
        "device": "cpu",
        "seed": 0,
    }
    if job["peer"] == "sbx":
        from sbx import PPO
    else:
        from stable_baselines3 import PPO

        clipped = config["value_loss"] == "clipped"
        options["clip_range_vf"] = config["value_clip_eps"] if clipped else None
    env = make_vec_env(config["env"], config["num_envs"], seed=0)
    if config["normalize_observations"]:
        env = VecNormalize(env, gamma=config["gamma"])
    model = PPO("MlpPolicy", env, **options)
    return Arm(lambda seed: model.learn(config["total_timesteps"]))
