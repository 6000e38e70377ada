"""What to train: `PPOConfig` (static choices and sizes) and `Hyperparams` (traced scalars).

Without jax, so that the command line can show its help at once.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from purejaxppo.config import presets
from purejaxppo.config import rules as validation
from purejaxppo.config.coerce import coerce
from purejaxppo.config.purejaxrl import known_fields
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import Hyperparams

Algorithm = Literal["ppo", "ppo_kl", "a2c", "reinforce"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """A training run, complete and validated: equal configurations and keys give equal bits.

    Raises:
        ConfigError: a value is out of range, sizes do not divide, or an option has no effect in
            this combination. The message names the value, the constraint and a value that works.
    """

    env: str = "CartPole-v1"
    """Name of the environment; `purejaxppo envs` lists them."""
    env_options: tuple[str, ...] = ()
    """What its suite makes it with, as name=value; in Python a mapping: {"max_steps": 50}."""
    total_timesteps: int = 500_000
    """Environment steps in all: a multiple of num_envs * num_steps."""
    num_envs: int = 8
    """Environments stepped side by side (N)."""
    num_steps: int = 125
    """Steps of each environment per update, the rollout length (T)."""
    num_epochs: int = 4
    """Passes over each rollout (E)."""
    num_minibatches: int = 4
    """Gradient steps per epoch (M): a divisor of num_envs * num_steps."""
    reset_batch: int | None = None
    """Fresh episodes drawn at once when some are needed (K); None: num_envs for every step."""
    chunk_size: int | None = None
    """Transitions per pass through the network in a gradient step; None: chosen for the device."""

    learning_rate: float = 2.5e-4
    """Step size of Adam."""
    learning_rate_final_scale: float = 1.0
    """The learning rate falls linearly to this fraction of itself (1: constant, 0: annealed)."""
    adam_eps: float = 1e-5
    """Term added to Adam's denominator."""
    max_grad_norm: float | None = 0.5
    """Gradients are scaled down to this global norm; None: never."""

    gamma: float = 0.99
    """Discount per step."""
    advantage: Literal["gae", "n_step", "monte_carlo", "td", "none"] = "gae"
    """Advantage estimator, a name in ADVANTAGES."""
    gae_lambda: float = 0.95
    """Decay of generalized advantage estimation (advantage='gae')."""
    n_step: int = 5
    """Rewards summed before bootstrapping (advantage='n_step')."""
    advantage_normalization: Literal["minibatch", "batch", "none"] = "minibatch"
    """Where advantages are brought to mean 0 and standard deviation 1."""

    objective: Literal["clip", "kl_penalty", "adaptive_kl", "unclipped", "policy_gradient"] = "clip"
    """Policy objective, a name in OBJECTIVES."""
    clip_eps: float = 0.2
    """Probability ratios are clipped to 1 - clip_eps .. 1 + clip_eps (objective='clip')."""
    clip_eps_final_scale: float = 1.0
    """clip_eps falls linearly to this fraction of itself."""
    kl_coef: float = 1.0
    """Weight of the KL penalty, beta (its first value under objective='adaptive_kl')."""
    adaptive_kl_target: float = 0.01
    """KL divergence per update that adaptive_kl aims for."""
    target_kl: float | None = None
    """Skip the rest of an update once a minibatch's approx_kl exceeds this; None: never."""

    value_loss: Literal["squared", "clipped", "huber"] = "squared"
    """Loss of the critic."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    value_clip_eps: float = 0.2
    """Values move at most this far from the rollout's (value_loss='clipped')."""
    huber_delta: float = 1.0
    """Error at which the value loss turns linear (value_loss='huber')."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    entropy_coef_final_scale: float = 1.0
    """entropy_coef falls linearly to this fraction of itself."""

    torso: Literal["auto", "mlp", "cnn", "nature", "impala"] = "auto"
    """Body of the network; auto: nature for images, cnn for smaller grids, mlp for all else."""
    core: Literal["none", "gru", "lstm", "linear"] = "none"
    """Memory of the policy, behind the torso; none: feed-forward."""
    core_size: int = 64
    """Width of the memory."""
    sequence_length: int | None = None
    """Steps that gradients flow back through a memory, a divisor of num_steps; None: num_steps."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Width of each hidden layer."""
    activation: Literal["tanh", "relu", "silu", "gelu", "elu"] = "tanh"
    """Nonlinearity of the hidden layers."""
    layer_norm: bool = False
    """Normalise each hidden layer before its activation."""
    shared_torso: bool = False
    """One torso (and memory) for actor and critic instead of one each."""
    squash_actions: bool = False
    """Continuous actions: a normal distribution squashed into the bounds by tanh, not clipped."""
    state_dependent_std: bool = False
    """Continuous actions: the network gives the standard deviation, not one parameter per axis."""
    normalize_observations: bool = False
    """Bring observations to mean 0 and variance 1 by running statistics."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""

    def __post_init__(self) -> None:
        """Brings numbers and sequences to their declared types, then checks every rule."""
        for field in dataclasses.fields(self):
            value = coerce(field.name, field.type, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        validation.check(self)

    @property
    def batch_size(self) -> int:
        """Transitions per update: num_envs * num_steps."""
        return self.num_envs * self.num_steps

    @property
    def minibatch_size(self) -> int:
        """Transitions per gradient step."""
        return self.batch_size // self.num_minibatches

    @property
    def num_updates(self) -> int:
        """Rollouts, each followed by its epochs (U)."""
        return self.total_timesteps // self.batch_size

    def hyperparams(self) -> Hyperparams:
        """The traced scalars of this configuration, as floats (or None)."""
        names = (name for name in Hyperparams._fields if name != "extra")
        return Hyperparams(**{name: getattr(self, name) for name in names})

    def replace(self, **changes: Any) -> PPOConfig:
        """The same configuration with some fields changed, validated again."""
        return dataclasses.replace(self, **known_fields(type(self), changes))

    @classmethod
    def ppo(cls, **changes: Any) -> PPOConfig:
        """PPO with the clipped surrogate (arXiv:1707.06347, eq. 7)."""
        return cls().replace(**changes)

    @classmethod
    def ppo_kl(cls, **changes: Any) -> PPOConfig:
        """PPO with a KL penalty (arXiv:1707.06347, eq. 8); objective='adaptive_kl' adapts it."""
        return cls(objective="kl_penalty").replace(**changes)

    @classmethod
    def a2c(cls, **changes: Any) -> PPOConfig:
        """Advantage actor-critic (arXiv:1602.01783): one gradient step on 5-step advantages."""
        return cls(**presets.A2C).replace(**changes)

    @classmethod
    def reinforce(cls, **changes: Any) -> PPOConfig:
        """REINFORCE (Williams 1992): reward-to-go minus a value baseline, one step per rollout."""
        return cls(**presets.REINFORCE).replace(**changes)

    @classmethod
    def preset(cls, name: str, algorithm: Algorithm = "ppo", **changes: Any) -> PPOConfig:
        """A tuned configuration by name: `PPOConfig.preset("CartPole-v1")`.

        Args:
            name: the environment's name, or another preset's (`classic`).
            algorithm: which of the file's tables; what it leaves out comes from the algorithm.
            **changes: fields to change.

        Raises:
            ConfigError: no such preset; the nearest names are given.
        """
        changes = known_fields(cls, changes)
        return getattr(cls, algorithm)(**{**presets.load(name, algorithm), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values by field name; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PPOConfig:
        """A configuration from a mapping, which is left as it is.

        Upper-case keys as used with PureJaxRL (`LR`, `NUM_ENVS`, ...) are understood.

        Raises:
            ConfigError: an unknown key (the nearest known one is named), or a bad value.
        """
        return cls(**known_fields(cls, values))

    def to_toml(self, path: str | Path) -> None:
        """Writes every field to a TOML file; None is written as "none"."""
        import tomli_w

        values = {k: "none" if v is None else v for k, v in self.to_dict().items()}
        Path(path).write_text(tomli_w.dumps(values), encoding="utf-8")

    @classmethod
    def from_toml(cls, path: str | Path) -> PPOConfig:
        """A configuration from a TOML file of fields; missing ones take their defaults."""
        return cls.from_dict(tomllib.loads(Path(path).read_text(encoding="utf-8")))


def as_config(config: PPOConfig | Mapping[str, Any]) -> PPOConfig:
    """The configuration itself, or the one that a mapping describes (see `from_dict`)."""
    if isinstance(config, PPOConfig):
        return config
    if isinstance(config, Mapping):
        return PPOConfig.from_dict(config)
    kind = type(config).__name__
    raise ConfigError(f"config is a {kind}: pass a PPOConfig or a mapping of its fields")
