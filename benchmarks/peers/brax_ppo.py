"""Brax's PPO with the fields of a configuration of ours."""
# pyright: reportMissingImports=false

import functools
from typing import Any

import jax
import jax.numpy as jnp
from brax.training.agents.ppo import train as ppo
from brax.training.agents.ppo.networks import make_ppo_networks

ACTIVATIONS = {"silu": jax.nn.silu, "tanh": jnp.tanh}


def train(environment: Any, config: dict[str, Any], **options: Any) -> None:
    """Calls `ppo.train` with the sizes and coefficients of a configuration.

    Args:
        environment: with Brax's interface.
        config: of `PPOConfig.to_dict`.
        **options: arguments of `ppo.train` beside them.
    """
    # removed from jax 0.10, and still called by Brax 0.14.2
    jax.device_put_replicated = lambda tree, devices: jax.tree.map(
        lambda x: jnp.stack([x] * len(devices)), tree
    )
    clipped = config["value_loss"] == "clipped"
    ppo.train(
        environment,
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
        clipping_epsilon_value=config["value_clip_eps"] if clipped else None,
        vf_loss_coefficient=config["value_coef"],
        max_grad_norm=config["max_grad_norm"],
        normalize_observations=config["normalize_observations"],
        network_factory=functools.partial(
            make_ppo_networks,
            policy_hidden_layer_sizes=tuple(config["hidden_sizes"]),
            value_hidden_layer_sizes=tuple(config["critic_hidden_sizes"] or config["hidden_sizes"]),
            activation=ACTIVATIONS[config["activation"]],
        ),
        **options,
    )
