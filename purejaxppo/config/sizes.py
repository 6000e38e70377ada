"""The rules that a configuration keeps, and the words in which it says that one is broken.

Each message names the value, the constraint and a value that would work.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from purejaxppo.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from purejaxppo.config.schema import PPOConfig


_AT_LEAST_ONE = (
    "total_timesteps", "num_envs", "num_steps", "num_epochs", "num_minibatches", "n_step",
    "core_size",
)  # fmt: skip
_POSITIVE = (
    "learning_rate", "adam_eps", "max_grad_norm", "clip_eps", "adaptive_kl_target", "target_kl",
    "value_clip_eps", "huber_delta", "chunk_size", "sequence_length", "reset_batch",
)  # fmt: skip
_NOT_NEGATIVE = ("kl_coef", "value_coef", "entropy_coef")
_FRACTION = (
    "gamma", "gae_lambda", "learning_rate_final_scale", "clip_eps_final_scale",
    "entropy_coef_final_scale",
)  # fmt: skip

# field: (when it has an effect, in words)
_EFFECT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "gae_lambda": (lambda c: c.advantage == "gae", "advantage='gae'"),
    "n_step": (lambda c: c.advantage == "n_step", "advantage='n_step'"),
    "clip_eps": (lambda c: c.objective == "clip", "objective='clip'"),
    "clip_eps_final_scale": (lambda c: c.objective == "clip", "objective='clip'"),
    "kl_coef": (lambda c: c.objective in ("kl_penalty", "adaptive_kl"), "objective='kl_penalty'"),
    "adaptive_kl_target": (lambda c: c.objective == "adaptive_kl", "objective='adaptive_kl'"),
    "value_loss": (lambda c: c.value_coef > 0, "value_coef=0.5"),
    "value_clip_eps": (lambda c: c.value_loss == "clipped", "value_loss='clipped'"),
    "huber_delta": (lambda c: c.value_loss == "huber", "value_loss='huber'"),
    "entropy_coef_final_scale": (lambda c: c.entropy_coef > 0, "entropy_coef=0.01"),
    "core_size": (lambda c: c.core != "none", "core='gru'"),
}

# at an update's first gradient step the ratio is 1, the divergence and its gradient are 0
_AFTER_THE_FIRST_STEP = (
    "clip_eps", "clip_eps_final_scale", "kl_coef", "target_kl", "value_clip_eps",
)  # fmt: skip


def check(config: PPOConfig) -> None:
    """Raises ConfigError for the first rule that `config` breaks."""
    _check_choices(config)
    for name in _AT_LEAST_ONE:
        _require(config, name, lambda v: v >= 1, "at least 1", _default(config, name))
    for name in _POSITIVE:
        _require(
            config, name, lambda v: v is None or v > 0, "greater than 0", _default(config, name)
        )
    for name in _NOT_NEGATIVE:
        _require(config, name, lambda v: v >= 0, "0 or greater", 0.0)
    for name in _FRACTION:
        _require(config, name, lambda v: 0 <= v <= 1, "between 0 and 1", _default(config, name))
    if not config.hidden_sizes or min(config.hidden_sizes) < 1:
        raise ConfigError(
            f"hidden_sizes={config.hidden_sizes} must be one or more positive widths: use (64, 64)"
        )
    if config.core != "none":
        check_sequences(config)
    _check_sizes(config)
    several = (
        lambda c: c.num_epochs * c.num_minibatches > 1,
        "more than one gradient step per update (num_epochs=4)",
    )
    effects = [*_EFFECT.items(), *((name, several) for name in _AFTER_THE_FIRST_STEP)]
    for name, (applies, words) in effects:
        value, default = getattr(config, name), _default(config, name)
        if value != default and not applies(config):
            raise ConfigError(
                f"{name}={value!r} has no effect here: use it with {words}, or leave it at "
                f"{default!r}"
            )


def _default(config: PPOConfig, name: str) -> Any:
    return type(config).__dataclass_fields__[name].default


def _require(config: PPOConfig, name: str, ok: Callable, words: str, works: Any) -> None:
    value = getattr(config, name)
    if not ok(value):
        raise ConfigError(f"{name}={value} must be {words}: use {works}")


def _check_choices(config: PPOConfig) -> None:
    for name, declared in typing.get_type_hints(type(config)).items():
        if typing.get_origin(declared) is not typing.Literal:
            continue
        value, choices = getattr(config, name), typing.get_args(declared)
        if value not in choices:
            raise ConfigError(
                f"{name}={value!r} is not a choice: {did_you_mean(str(value), choices)}"
            )


def _check_sizes(config: PPOConfig) -> None:
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
    rows = config.minibatch_size
    chunk = config.chunk_size
    if chunk is not None and rows % chunk:
        best = min(_divisors(rows), key=lambda m: abs(m - chunk))
        raise ConfigError(f"chunk_size={chunk} must divide the minibatch of {rows}: use {best}")
    if config.total_timesteps % batch:
        below = config.total_timesteps // batch * batch
        totals = f"{below} or {below + batch}" if below else f"{batch}"
        raise ConfigError(
            f"total_timesteps={config.total_timesteps} must be a multiple of {product}: "
            f"use {totals}"
        )
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
        raise ConfigError(
            "kl_coef=0.0 stays 0 however often objective='adaptive_kl' doubles it: use 1.0"
        )


def check_sequences(config: PPOConfig) -> None:
    """Raises ConfigError where the sequences that a memory is trained on do not fit."""
    steps, length = config.num_steps, config.sequence_length or config.num_steps
    parts = config.num_minibatches
    if steps % length:
        fitting = [n for n in _divisors(steps) if config.batch_size // n % parts == 0]
        best = min(fitting or _divisors(steps), key=lambda n: abs(n - length))
        raise ConfigError(f"sequence_length={length} must divide num_steps={steps}: use {best}")
    sequences = config.batch_size // length
    if sequences % parts:
        alone = config.advantage_normalization == "minibatch" and length == 1
        fitting = [m for m in _divisors(sequences) if sequences // m > alone] or [1]
        best = min(fitting, key=lambda m: abs(m - parts))
        raise ConfigError(
            f"num_minibatches={parts} must divide the num_envs * num_steps / "
            f"sequence_length = {sequences} sequences of a rollout: use {best}"
        )
    chunk = config.chunk_size
    multiples = [length * m for m in _divisors(sequences // parts)]
    if chunk is not None and chunk not in multiples:
        best = min(multiples, key=lambda n: abs(n - chunk))
        raise ConfigError(
            f"chunk_size={chunk} must be a multiple of sequence_length={length} that divides the "
            f"minibatch of {max(multiples)}: use {best}"
        )


def _divisors(n: int) -> set[int]:
    small = [m for m in range(1, math.isqrt(n) + 1) if n % m == 0]
    return {*small, *(n // m for m in small)}
