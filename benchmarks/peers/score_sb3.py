"""One run of time_to_score.py: PPO of Stable-Baselines3 or SBX, as their zoo has tuned it."""
# pyright: reportMissingImports=false

import json
import sys

from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env

# As RL Baselines3 Zoo has them in hyperparams/ppo.yml; what is left out has the library's default.
ZOO = {
    "CartPole-v1": {
        "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
        "ent_coef": 0.0, "learning_rate": lambda left: 0.001 * left,
        "clip_range": lambda left: 0.2 * left,
    },
    "Pendulum-v1": {
        "n_steps": 1024, "gae_lambda": 0.95, "gamma": 0.9, "n_epochs": 10, "ent_coef": 0.0,
        "learning_rate": 1e-3, "clip_range": 0.2, "use_sde": True, "sde_sample_freq": 4,
    },
}  # fmt: skip
NUM_ENVS = {"CartPole-v1": 8, "Pendulum-v1": 4}
TIMESTEPS = 100_000


def main() -> None:
    """Trains until the score is reached or the steps are used up, and prints a line of JSON."""
    job = json.loads(sys.argv[1])
    options = dict(ZOO[job["env"]])
    if job["library"] == "sbx":
        from sbx import PPO

        # its PPO takes these two, and says that they are not properly implemented
        options = {k: v for k, v in options.items() if "sde" not in k}
    else:
        from stable_baselines3 import PPO

    num_envs = NUM_ENVS[job["env"]]
    stop = StopTrainingOnRewardThreshold(job["score"])
    evaluation = EvalCallback(
        make_vec_env(job["env"], job["episodes"], seed=job["seed"] + 10_000),
        callback_on_new_best=stop,
        n_eval_episodes=job["episodes"],
        eval_freq=max(1, job["eval_every"] // num_envs),
        deterministic=True,
        verbose=0,
    )
    env = make_vec_env(job["env"], num_envs, seed=job["seed"])
    model = PPO("MlpPolicy", env, seed=job["seed"], device="cpu", **options)
    model.learn(min(TIMESTEPS, job["max_steps"]), callback=evaluation)
    best = float(evaluation.best_mean_reward)
    result = {"reached": best >= job["score"], "steps": model.num_timesteps, "return": best}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
