"""Sizes, and what else of a configuration must fit each other; each message says what does."""

from __future__ import annotations

import math
from typing import Any

from purejaxppo.errors import ConfigError, shown

MOST = 2**31  # what an int32 counts stays below it


def check_sizes(config: Any) -> None:
    """Raises ConfigError where the sizes of a `PPOConfig` do not fit each other."""
    # whatever is searched for sizes that fit is small then
    _check_indices(config)
    if config.core != "none":
        check_sequences(config)
    if config.core == "gtrxl" and config.core_size % config.core_heads:
        size, heads = config.core_size, config.core_heads
        best = min(_divisors(size), key=lambda n: abs(n - heads))
        raise ConfigError(f"core_heads={heads} must divide core_size={size}: use {best}")
    _check_batch(config)
    _check_counts(config)
    _check_entries(config)
    _check_bins(config)


def _check_indices(config: Any) -> None:
    """Checks that whatever is counted in the compiled program fits an int32."""
    envs, steps, batch = config.num_envs, config.num_steps, config.batch_size
    if batch >= MOST:
        raise ConfigError(
            f"num_envs={envs} and num_steps={steps} must make a batch below 2**31 (indices are "
            f"int32), not {batch}: use num_steps={max(1, (MOST - 1) // envs)}"
        )
    if config.num_updates >= MOST:
        raise ConfigError(
            f"total_timesteps={config.total_timesteps} must hold fewer than 2**31 updates of "
            f"num_envs * num_steps = {batch}: use {(MOST - 1) * batch}"
        )


def _check_batch(config: Any) -> None:
    """Checks what must divide the batch, or a part of it."""
    batch = config.batch_size
    product = f"num_envs * num_steps = {config.num_envs} * {config.num_steps} = {batch}"
    if batch % config.num_minibatches:
        smallest = 2 if config.advantage_normalization == "minibatch" else 1
        fitting = [m for m in _divisors(batch) if batch // m >= smallest] or [1]
        best = min(fitting, key=lambda m: abs(m - config.num_minibatches))
        raise ConfigError(
            f"num_minibatches={config.num_minibatches} must divide {product}: use {best}"
        )
    if config.reset_batch is not None and config.reset_batch > config.num_envs:
        raise ConfigError(
            f"reset_batch={config.reset_batch} must not exceed num_envs={config.num_envs}: use "
            f"{config.num_envs}"
        )
    # whole passes through the network
    rows = config.minibatch_size
    chunk = config.chunk_size
    if chunk is not None and rows % chunk:
        best = min(_divisors(rows), key=lambda m: abs(m - chunk))
        raise ConfigError(f"chunk_size={chunk} must divide the minibatch of {rows}: use {best}")
    # as many whole updates as fit, one at least
    if config.total_timesteps < batch:
        raise ConfigError(
            f"total_timesteps={config.total_timesteps} must hold one update of {product}: "
            f"use {batch}"
        )


def check_shares(config: Any, devices: int, length: int | None = None) -> None:
    """Checks that the environments of a run can be shared out equally among devices.

    Args:
        config: a `PPOConfig`.
        devices: that one agent is to be trained on.
        length: of sequences, where the policy has a memory; None: transitions stand alone.

    Raises:
        ConfigError: the environments, or the rows of a minibatch, do not divide.
    """
    envs, steps, parts = config.num_envs, config.num_steps, config.num_minibatches
    if envs % devices:
        raise ConfigError(
            f"num_envs={envs} must be a multiple of the {devices} devices that they are spread "
            f"over: use {max(1, round(envs / devices)) * devices}"
        )
    # each device takes its share of every minibatch, in whole sequences
    rows = envs // devices * (steps // (length or 1))
    if rows % parts:
        best = min(_divisors(rows), key=lambda m: abs(m - parts))
        what = "transitions" if length is None else "sequences"
        raise ConfigError(
            f"num_minibatches={parts} must divide the {rows} {what} that each of {devices} devices "
            f"has of a rollout: use {best}"
        )
    if config.reset_batch is not None and config.reset_batch > envs // devices:
        raise ConfigError(
            f"reset_batch={config.reset_batch} must not exceed the {envs // devices} environments "
            f"of each of {devices} devices: use {envs // devices}"
        )
    share = config.minibatch_size // devices
    if config.chunk_size is not None and share % config.chunk_size:
        whole = [m * (length or 1) for m in _divisors(share // (length or 1))]
        best = min(whole, key=lambda m: abs(m - config.chunk_size))
        raise ConfigError(
            f"chunk_size={config.chunk_size} must divide the {share} transitions that each of "
            f"{devices} devices has of a minibatch: use {best}"
        )


def _check_counts(config: Any) -> None:
    """Checks numbers that must be large enough for what is done with them."""
    batch = config.batch_size
    scope, other = config.advantage_normalization, "batch" if batch > 1 else "none"
    if {"minibatch": config.minibatch_size, "batch": batch}.get(scope) == 1:
        raise ConfigError(
            f"advantage_normalization={scope!r} makes every advantage 0 with {scope}es of 1: "
            f"use {other!r}"
        )
    if config.advantage == "n_step" and config.n_step > config.num_steps:
        raise ConfigError(
            f"n_step={config.n_step} must not exceed num_steps={config.num_steps}: "
            f"use {config.num_steps}"
        )
    if config.objective == "adaptive_kl" and config.kl_coef == 0:
        raise ConfigError("kl_coef=0.0 leaves objective='adaptive_kl' nothing to double: use 1.0")


def _check_entries(config: Any) -> None:
    """Checks that a torso that actor and critic share is to read the same for both."""
    actor, critic = config.actor_observation, config.critic_observation
    if config.shared_torso and set(actor) != set(critic):
        raise ConfigError(
            f"shared_torso=True cannot read actor_observation={shown(actor)} for the actor and "
            f"critic_observation={shown(critic)} for the critic: use shared_torso=False"
        )


def check_sequences(config: Any) -> None:
    """Raises ConfigError where the sequences that a memory is trained on do not fit."""
    steps, length = config.num_steps, config.sequence_length or config.num_steps
    parts = config.num_minibatches
    if steps % length:
        fitting = [n for n in _divisors(steps) if config.batch_size // n % parts == 0]
        best = min(fitting or _divisors(steps), key=lambda n: abs(n - length))
        raise ConfigError(f"sequence_length={length} must divide num_steps={steps}: use {best}")

    # whole sequences are dealt out to the minibatches
    sequences = config.batch_size // length
    if sequences % parts:
        alone = config.advantage_normalization == "minibatch" and length == 1
        fitting = [m for m in _divisors(sequences) if sequences // m > alone] or [1]
        best = min(fitting, key=lambda m: abs(m - parts))
        raise ConfigError(
            f"num_minibatches={parts} must divide the num_envs * num_steps / "
            f"sequence_length = {sequences} sequences of a rollout: use {best}"
        )

    # and a pass through the network takes whole sequences too
    chunk = config.chunk_size
    multiples = [length * m for m in _divisors(sequences // parts)]
    if chunk is not None and chunk not in multiples:
        best = min(multiples, key=lambda n: abs(n - chunk))
        raise ConfigError(
            f"chunk_size={chunk} must be a multiple of sequence_length={length} that divides the "
            f"minibatch of {max(multiples)}: use {best}"
        )


def _divisors(n: int) -> set[int]:
    """Returns all divisors of a number."""
    small = [m for m in range(1, math.isqrt(n) + 1) if n % m == 0]
    return {*small, *(n // m for m in small)}


def _check_bins(config: Any) -> None:
    """Checks that the bins of a categorical critic have room."""
    low, high, bins = config.value_min, config.value_max, config.value_bins
    apart = "" if low >= high else " by more than float32 rounds"
    if (high - low) / (bins - 1) <= 1e-5 * max(abs(low), abs(high)):
        raise ConfigError(
            f"value_min={low} must be less than value_max={high}{apart}: use {-abs(high) - 1}"
        )
