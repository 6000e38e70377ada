"""The names that other libraries give to what is configured here, and what they are called here.

What stands in braces is a name of ours: a field of `PPOConfig`, or an option of `fit` and `train`.
The tables of `MIGRATE.md` are these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

NOT_HERE = "not here: "
"""What the text of a name begins with that has no counterpart."""

_MINIBATCHES = "{num_minibatches} = {num_envs} * {num_steps} / "
_ANNEAL = "{learning_rate_final_scale}=0.0 for True"
_REPLAY = NOT_HERE + "PPO learns from its last rollout, and replays nothing"
_EXPLORATION = NOT_HERE + "PPO explores by sampling; its bonus for entropy is {entropy_coef}"
_TARGETS = NOT_HERE + "PPO has no target network"
_DEVICE = "the variable JAX_PLATFORMS=cpu or cuda"
_DETERMINISTIC = NOT_HERE + "equal configurations and keys give equal bits"
_DPO = "an objective of your own, make_train(config, objective=...)"
_WANDB = "`purejaxppo train ENV --wandb PROJECT`, which reads WANDB_ENTITY and WANDB_MODE"
_TORCH = NOT_HERE + "it is PyTorch's"
_FRAMES = "FrameStack of purejaxppo.envs.wrappers, around the environment that is passed as env="
_WRAPPERS = "a wrapper of purejaxppo.envs.wrappers, around the environment that is passed as env="
_SWEEP = "`purejaxppo sweep ENV --trials N`, or purejaxppo.sweeps"
_VIDEO = "`purejaxppo render RUN`, after training"
_MODEL = "nothing: what is in {run_dir} has the policy, which `load_policy` reads"

LIBRARIES: dict[str, dict[str, str]] = {
    "PureJaxRL": {
        "ENV_NAME": "{env}",
        "TOTAL_TIMESTEPS": "{total_timesteps}",
        "NUM_ENVS": "{num_envs}",
        "NUM_STEPS": "{num_steps}",
        "UPDATE_EPOCHS": "{num_epochs}",
        "NUM_MINIBATCHES": "{num_minibatches}",
        "LR": "{learning_rate}",
        "ANNEAL_LR": _ANNEAL,
        "GAMMA": "{gamma}",
        "GAE_LAMBDA": "{gae_lambda}",
        "CLIP_EPS": "{clip_eps}, with {value_loss}='clipped' and {value_clip_eps} of the same",
        "ENT_COEF": "{entropy_coef}",
        "VF_COEF": "{value_coef}",
        "MAX_GRAD_NORM": "{max_grad_norm}",
        "ACTIVATION": "{activation}",
        "NORMALIZE_ENV": "{normalize_observations} and {normalize_rewards}",
        "DEBUG": "callbacks of `fit`, and the progress of `purejaxppo train`",
        "NUM_UPDATES": NOT_HERE + "it follows: config.num_updates",
        "MINIBATCH_SIZE": NOT_HERE + "it follows: config.minibatch_size",
        "SEED": "{seed}",
        "NUM_SEEDS": "{seeds}",
        "DPO_ALPHA": _DPO,
        "DPO_BETA": _DPO,
        "WANDB_MODE": _WANDB,
        "ENTITY": _WANDB,
        "PROJECT": _WANDB,
        "BUFFER_SIZE": _REPLAY,
        "BUFFER_BATCH_SIZE": _REPLAY,
        "LEARNING_STARTS": _REPLAY,
        "TRAINING_INTERVAL": _REPLAY,
        "EPSILON_START": _EXPLORATION,
        "EPSILON_FINISH": _EXPLORATION,
        "EPSILON_ANNEAL_TIME": _EXPLORATION,
        "TARGET_UPDATE_INTERVAL": _TARGETS,
        "TAU": _TARGETS,
        "LR_LINEAR_DECAY": _ANNEAL,
    },
    "rejax": {
        "lr": "{learning_rate}",
        "ent_coef": "{entropy_coef}",
        "vf_coef": "{value_coef}",
        "agent_kwargs": "{hidden_sizes} and {activation}",
        "hidden_layer_sizes": "{hidden_sizes}",
        "eval_freq": "{eval_every}",
        "eval_callback": "{eval_every}, and callbacks of `fit`",
        "skip_initial_evaluation": NOT_HERE + "the first evaluation is after {eval_every} steps",
    },
    "Stable-Baselines3": {
        "policy": "{torso}, {core} and {hidden_sizes}: the network for the observations is chosen",
        "n_envs": "{num_envs}",
        "n_steps": "{num_steps}",
        "batch_size": _MINIBATCHES + "batch_size",
        "n_epochs": "{num_epochs}",
        "clip_range": "{clip_eps}",
        "clip_range_vf": "{value_clip_eps} with {value_loss}='clipped'",
        "normalize_advantage": "{advantage_normalization}='minibatch' for True, 'none' for False",
        "ent_coef": "{entropy_coef}",
        "vf_coef": "{value_coef} = 2 * vf_coef, whose squared errors are not halved",
        "target_kl": "{target_kl} = 1.5 * target_kl",
        "use_sde": "{state_dependent_std}, which is another exploration that depends on states",
        "sde_sample_freq": NOT_HERE + "actions are drawn anew at every step",
        "rollout_buffer_class": NOT_HERE + "a rollout is a pytree of arrays",
        "rollout_buffer_kwargs": NOT_HERE + "a rollout is a pytree of arrays",
        "stats_window_size": NOT_HERE + "a row has the episodes that ended in its update",
        "policy_kwargs": "{hidden_sizes}, {activation}, {shared_torso} and their like",
        "net_arch": "{hidden_sizes}",
        "activation_fn": "{activation}",
        "share_features_extractor": "{shared_torso}",
        "features_extractor_class": "{torso}, or a network of your own, fit(config, policy=...)",
        "features_extractor_kwargs": "{torso}, or a network of your own, fit(config, policy=...)",
        "squash_output": "{squash_actions}",
        "ortho_init": NOT_HERE + "weights begin orthogonal",
        "log_std_init": NOT_HERE + "standard deviations begin at 1",
        "optimizer_class": "{optimizer}, or one of your own, fit(config, optimizer=...)",
        "optimizer_kwargs": "{adam_eps}, {adam_b1}, {weight_decay} and their like",
        "use_rms_prop": "{optimizer}='rmsprop' for True",
        "rms_prop_eps": "{rms_eps} with {optimizer}='rmsprop'",
        "device": _DEVICE,
        "verbose": "`purejaxppo train --quiet` for 0",
        "progress_bar": "`purejaxppo train`, which shows one",
        "tensorboard_log": "`purejaxppo train --tensorboard`",
        "tb_log_name": "{run_dir}",
        "callback": "callbacks of `fit`",
        "log_interval": NOT_HERE + "every update is a row",
        "reset_num_timesteps": "{resume}",
        "eval_freq": "{eval_every} = {num_envs} * eval_freq",
        "n_eval_episodes": "{eval_episodes}",
        "deterministic": "{eval_sampled} for False",
        "save_freq": "{checkpoint_every} = {num_envs} * save_freq",
        "best_model_save_path": "{run_dir}, where best.npz is",
        "norm_obs": "{normalize_observations}",
        "norm_reward": "{normalize_rewards}",
        "norm_obs_keys": NOT_HERE + "{normalize_observations} leaves images, names and masks alone",
        "clip_obs": NOT_HERE + "normalised observations are cut off at -10 and 10",
        "clip_reward": "ClipReward of purejaxppo.envs.wrappers",
        "buffer_size": _REPLAY,
        "learning_starts": _REPLAY,
        "train_freq": _REPLAY,
        "gradient_steps": "{num_epochs} * {num_minibatches}",
        "tau": _TARGETS,
        "target_update_interval": _TARGETS,
        "exploration_fraction": _EXPLORATION,
        "exploration_final_eps": _EXPLORATION,
        "action_noise": _EXPLORATION,
    },
    "Stable-Baselines3's Zoo": {
        "env": "{env}",
        "algo": "PPOConfig.ppo() and its like, or `purejaxppo train ENV --algorithm a2c`",
        "n_timesteps": "{total_timesteps}",
        "normalize": "{normalize_observations} and {normalize_rewards}",
        "env_kwargs": "{env_options}",
        "env_wrapper": _WRAPPERS,
        "frame_stack": _FRAMES,
        "vec_env": "processes=True in {env_options}, for gymnasium's",
        "log_folder": "{run_dir}",
        "trained_agent": "{resume}, with {run_dir}",
        "conf_file": "PPOConfig.from_toml, or `purejaxppo train --config FILE`",
        "hyperparams": "the fields themselves",
        "track": _WANDB,
        "wandb_project_name": _WANDB,
        "wandb_entity": _WANDB,
        "num_threads": NOT_HERE + "seeds are spread over the cores",
        "n_eval_envs": "{eval_episodes}, which are all played side by side",
        "optimize_hyperparameters": _SWEEP,
        "n_trials": _SWEEP,
    },
    "CleanRL": {
        "env_id": "{env}",
        "anneal_lr": _ANNEAL,
        "update_epochs": "{num_epochs}",
        "norm_adv": "{advantage_normalization}='minibatch' for True, 'none' for False",
        "clip_coef": "{clip_eps}",
        "clip_vloss": "{value_loss}='clipped' with {value_clip_eps} of clip_coef, for True",
        "ent_coef": "{entropy_coef}",
        "vf_coef": "{value_coef}",
        "batch_size": NOT_HERE + "it follows: config.batch_size",
        "minibatch_size": NOT_HERE + "it follows: config.minibatch_size",
        "num_iterations": NOT_HERE + "it follows: config.num_updates",
        "num_updates": NOT_HERE + "it follows: config.num_updates",
        "exp_name": "{run_dir}",
        "track": _WANDB,
        "wandb_project_name": _WANDB,
        "wandb_entity": _WANDB,
        "capture_video": _VIDEO,
        "torch_deterministic": _DETERMINISTIC,
        "cuda": _DEVICE,
        "save_model": _MODEL,
        "upload_model": NOT_HERE + "`purejaxppo export` writes a file to share",
        "hf_entity": NOT_HERE + "`purejaxppo export` writes a file to share",
        "int_coef": "{exploration_coef} = int_coef / ext_coef, with {exploration}='rnd'",
        "int_gamma": "{exploration_gamma}, with {exploration}='rnd'",
    },
    "Brax": {
        "environment": "{env}",
        "num_timesteps": "{total_timesteps}",
        "episode_length": "max_steps=1000 in {env_options}",
        "action_repeat": "ActionRepeat of purejaxppo.envs.wrappers; of Playground in {env_options}",
        "wrap_env": NOT_HERE + "batching, resets and time limits are done for every environment",
        "wrap_env_fn": _WRAPPERS,
        "randomization_fn": "fit(env_params=randomizer(env, randomization_fn))",
        "unroll_length": "{num_steps} = unroll_length * batch_size * num_minibatches / {num_envs}",
        "batch_size": _MINIBATCHES + "(batch_size * unroll_length)",
        "num_updates_per_batch": "{num_epochs}",
        "discounting": "{gamma}",
        "entropy_cost": "{entropy_coef}",
        "clipping_epsilon": "{clip_eps}",
        "clipping_epsilon_value": "{value_clip_eps} with {value_loss}='clipped'",
        "vf_loss_coefficient": "{value_coef}",
        "reward_scaling": "ScaleReward of purejaxppo.envs.wrappers; of Brax and Playground "
        "reward_scaling=10 in {env_options}",
        "normalize_advantage": "{advantage_normalization}='minibatch' for True, 'none' for False",
        "learning_rate_schedule_min_lr": "{learning_rate_min}",
        "learning_rate_schedule_max_lr": "{learning_rate_max}",
        "bootstrap_on_timeout": NOT_HERE + "what follows a time limit always has its value",
        "network_factory": "{hidden_sizes} and their like, or fit(config, policy=...)",
        "policy_obs_key": "{actor_observation}",
        "value_obs_key": "{critic_observation}",
        "policy_hidden_layer_sizes": "{hidden_sizes}",
        "value_hidden_layer_sizes": "{critic_hidden_sizes}",
        "distribution_type": "{squash_actions} for 'tanh_normal'",
        "num_evals": "{eval_every} = {total_timesteps} / num_evals",
        "num_eval_envs": "{eval_episodes}",
        "deterministic_eval": "{eval_sampled} for False",
        "eval_env": "`make_evaluate`",
        "num_resets_per_eval": NOT_HERE + "every episode begins with a fresh reset",
        "progress_fn": "callbacks of `fit`",
        "policy_params_fn": "callbacks of `fit`",
        "log_training_metrics": NOT_HERE + "every update is a row",
        "save_checkpoint_path": "{run_dir}",
        "restore_checkpoint_path": "{resume}, with {run_dir}",
        "max_devices_per_host": NOT_HERE + "seeds are spread over all devices",
    },
    "PufferLib": {
        "env_name": "{env}",
        "anneal_lr": "{learning_rate_schedule}='cosine', {learning_rate_final_scale}=0.0 for True",
        "min_lr_ratio": "{learning_rate_final_scale}",
        "update_epochs": "{num_epochs}",
        "bptt_horizon": "{num_steps}, or with a {core} {sequence_length}",
        "minibatch_size": _MINIBATCHES + "minibatch_size",
        "max_minibatch_size": "{chunk_size}",
        "clip_coef": "{clip_eps}",
        "vf_coef": "{value_coef}",
        "vf_clip_coef": "{value_clip_eps} with {value_loss}='clipped'",
        "ent_coef": "{entropy_coef}",
        "checkpoint_interval": "{checkpoint_every}, in steps",
        "data_dir": "{run_dir}",
        "rnn_name": "{core}",
        "adam_beta1": "{adam_b1}; with {optimizer}='muon' it is {momentum}",
        "adam_beta2": "{adam_b2}",
        "vtrace_rho_clip": "{vtrace_rho} with {advantage}='vtrace' and {recompute_advantages}",
        "vtrace_c_clip": "{vtrace_c} with {advantage}='vtrace' and {recompute_advantages}",
        "prio_alpha": NOT_HERE + "every transition is in each epoch once",
        "prio_beta0": NOT_HERE + "every transition is in each epoch once",
        "num_workers": "processes=True in {env_options}, for gymnasium's",
        "torch_deterministic": _DETERMINISTIC,
        "device": _DEVICE,
        "cpu_offload": _TORCH,
        "compile": NOT_HERE + "everything is compiled",
    },
    "rsl_rl": {
        "num_steps_per_env": "{num_steps}",
        "max_iterations": "{total_timesteps} = {num_envs} * {num_steps} * max_iterations",
        "num_learning_epochs": "{num_epochs}",
        "num_mini_batches": "{num_minibatches}",
        "clip_param": "{clip_eps}",
        "lam": "{gae_lambda}",
        "value_loss_coef": "{value_coef} = 2 * value_loss_coef: squared errors are not halved",
        "use_clipped_value_loss": "{value_loss}='clipped', and {value_clip_eps} of clip_param",
        "schedule": "{learning_rate_schedule}='kl_adaptive' for 'adaptive', 'constant' for 'fixed'",
        "normalize_advantage_per_mini_batch": "{advantage_normalization}='batch' for False",
        "actor_hidden_dims": "{hidden_sizes}",
        "critic_hidden_dims": "{critic_hidden_sizes}",
        "actor_obs_normalization": "{normalize_observations}",
        "critic_obs_normalization": "{normalize_observations}",
        "init_noise_std": NOT_HERE + "standard deviations begin at 1",
        "save_interval": "{checkpoint_every} = {num_envs} * {num_steps} * save_interval",
        "experiment_name": "{run_dir}",
        "run_name": "{run_dir}",
    },
}
"""What each library's names are here, for those that are not the same."""


def meaning_of(name: str, known: Collection[str], write: Callable[[str], str]) -> str | None:
    """Says what a name of another library is called here, for the end of a message.

    Args:
        name: what was given, in any case, with hyphens or underscores.
        known: names that could have been given in its place.
        write: how a name of ours is written for whoever reads the message.

    Returns:
        "did you mean ...?", "use ... (library)", or "not here: ..." with the reason; None where
        no library has the name.
    """
    wanted = name.lower().replace("-", "_")
    found: dict[str, list[str]] = {}
    for library, table in LIBRARIES.items():
        for theirs, text in table.items():
            if theirs.lower() == wanted:
                found.setdefault(text, []).append(library)
    if not found:
        return None

    # one name for one name is a question; where there are more, each is said with whose it is
    texts = list(found)
    ours = field_of(texts[0])
    if len(texts) == 1 and ours in known:
        return f"did you mean {write(ours)}?"
    if len(texts) == 1 and (ours or texts[0].startswith(NOT_HERE)):
        return with_names(f"use {texts[0]}" if ours else texts[0], write)
    whose = [
        f"{text.removeprefix(NOT_HERE)} ({', '.join(found[text])})"
        if text.startswith(NOT_HERE)
        else f"use {text} ({', '.join(found[text])})"
        for text in texts
    ]
    return with_names("; ".join(whose), write)


def field_of(text: str) -> str:
    """Returns our name where a text is nothing but that, else "".

    Args:
        text: an entry of `LIBRARIES`.
    """
    found = re.fullmatch(r"\{(\w+)\}", text)
    return found[1] if found else ""


def with_names(text: str, write: Callable[[str], str]) -> str:
    """Writes out the names that stand in braces.

    Args:
        text: with such names.
        write: how one is written.
    """
    return re.sub(r"\{(\w+)\}", lambda found: write(found[1]), text)
