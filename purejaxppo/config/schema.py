"""What to train: `PPOConfig`, every field with its rule and its text beside it.

Without jax, so that the command line can show its help at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from purejaxppo.bounds import Bound
from purejaxppo.config import effects, presets
from purejaxppo.config.coerce import read_toml
from purejaxppo.config.purejaxrl import by_field, check_derived, known_fields
from purejaxppo.config.rules import (
    COUNT,
    NAMES,
    OTHER_WIDTHS,
    STEPS,
    TEXT,
    WIDTHS,
    check_ascending,
    check_choice,
    check_effects,
    check_fields,
    option,
)
from purejaxppo.config.sizes import check_sizes
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import Hyperparams

Algorithm = Literal["ppo", "ppo_kl", "a2c", "reinforce"]
ObjectiveName = Literal["clip", "kl_penalty", "adaptive_kl", "unclipped", "policy_gradient"]
ValueLoss = Literal["squared", "clipped", "huber", "categorical"]
Advantage = Literal["gae", "n_step", "monte_carlo", "td", "none", "vtrace"]
Annealing = Literal["constant", "linear", "cosine"]
RateSchedule = Literal["constant", "linear", "cosine", "kl_adaptive"]

TABLES = ("env_params", "vary")
"""What may stand in a file beside the fields, see `config.file`."""

BINS = Bound(lambda v: 2 <= v <= 10_000, "2 to 10,000")
SIGMA = Bound(lambda v: 0.01 <= v <= 10, "0.01 to 10")
VALUE = Bound(lambda v: abs(v) <= 1e30, "between -1e30 and 1e30")


@by_field
@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """A training run, complete and validated: equal configurations and keys give equal bits.

    `purejaxppo train --help` lists its fields with their meaning, defaults and choices, and
    `purejaxppo train ENV --help` with the values of an environment's preset.

    Raises:
        ConfigError: a value is out of range, sizes do not divide, or an option has no effect in
            this combination. The message names the value, the constraint and a value that works.
    """

    env: str = option("CartPole-v1", TEXT)
    """What `purejaxppo envs` lists, or module:object, an environment or what makes one."""
    env_options: tuple[str, ...] = option((), group="what is trained")
    """What its suite makes it with, as name=value; in Python a mapping: {"max_steps": 50}."""
    info_metrics: tuple[str, ...] = option((), NAMES)
    """Numbers of its info to log, of each episode's last step; those inside a part as part/name."""
    total_timesteps: int = option(500_000, *STEPS, group="sizes")
    """Environment steps, in whole updates of num_envs * num_steps: as many as fit."""
    num_envs: int = option(8, *COUNT)
    """Environments stepped side by side (N)."""
    num_steps: int = option(125, *COUNT)
    """Steps of each environment per update, the rollout length (T)."""
    num_epochs: int = option(4, *COUNT)
    """Passes over each rollout (E)."""
    num_minibatches: int = option(4, *COUNT)
    """Gradient steps per epoch (M): a divisor of num_envs * num_steps."""
    reset_batch: int | None = option(None, *COUNT)
    """Fresh episodes drawn at once when some are needed (K); None: num_envs for every step."""
    chunk_size: int | None = option(None, *COUNT)
    """Transitions per pass through the network in a gradient step; None: chosen for the device."""

    # floats are hyperparameters: what they must be is in `hyperparams.BOUNDS`. Those of bins are
    # constants of the program, of which a network's first logits are made
    learning_rate: float = option(2.5e-4, group="optimisation")
    """Step size of the optimizer; with kl_adaptive where it begins."""
    learning_rate_schedule: RateSchedule = option(
        "linear", when=(effects.LEARNING_RATE_FORM, effects.MOVED)
    )
    """Way to learning_rate_final_scale of it; constant: stays; kl_adaptive: as desired_kl says."""
    learning_rate_final_scale: float = option(1.0, when=(effects.LEARNING_RATE_FALLS,))
    """The learning rate falls to this fraction of itself (1: constant, 0: annealed)."""
    learning_rate_warmup: float | None = option(None, when=(effects.NOT_BY_KL,))
    """Part of the run in which it first rises, from one update's share of it; None: none."""
    desired_kl: float = option(0.01, when=(effects.BY_KL,))
    """KL divergence that kl_adaptive aims for: / 1.5 beyond twice that, x 1.5 below half of it."""
    learning_rate_min: float = option(1e-5, when=(effects.BY_KL,))
    """Lowest learning rate of kl_adaptive."""
    learning_rate_max: float = option(1e-2, when=(effects.BY_KL,))
    """Highest learning rate of kl_adaptive."""
    adapt_learning_rate: Literal["minibatch", "update"] = option("minibatch", when=(effects.BY_KL,))
    """How often kl_adaptive looks: before each gradient step, or behind each update."""
    optimizer: Literal["adam", "adamw", "muon", "rmsprop", "sgd"] = "adam"
    """Optimizer, a name in OPTIMIZERS, behind clipping of gradients."""
    adam_b1: float | None = option(None, when=(effects.ADAM,))
    """Decay of Adam's mean of gradients; None: 0.9, compiled in."""
    adam_b2: float | None = option(None, when=(effects.ADAM,))
    """Decay of Adam's mean of squares; None: 0.999, compiled in."""
    adam_eps: float = option(1e-5, when=(effects.ADAM,))
    """Term added to Adam's denominator."""
    weight_decay: float = option(1e-4, when=(effects.DECAYED,))
    """Parameters shrink by this times the learning rate (adamw), or matrices alone (muon)."""
    momentum: float | None = option(None, when=(effects.MOMENTUM,))
    """Of muon, rmsprop and sgd; None: 0.95 for muon, none for the others."""
    rms_decay: float = option(0.99, when=(effects.RMSPROP,))
    """Decay of RMSProp's mean of squares."""
    rms_eps: float = option(1e-5, when=(effects.RMSPROP,))
    """Term added to it under the root."""
    max_grad_norm: float | None = 0.5
    """Gradients are scaled down to this global norm; None: never."""

    gamma: float = option(0.99, group="advantages")
    """Discount per step."""
    advantage: Advantage = option("gae", when=(effects.RATIOS,))
    """Advantage estimator, a name in ADVANTAGES."""
    gae_lambda: float = option(0.95, when=(effects.LAMBDA,))
    """Decay of generalized advantage estimation (advantage='gae' or 'vtrace')."""
    n_step: int = option(5, *COUNT, when=(effects.N_STEP,))
    """Rewards summed before bootstrapping (advantage='n_step')."""
    recompute_advantages: bool = option(False, when=(effects.SEVERAL_EPOCHS,))
    """Compute values and advantages of a rollout again before each epoch but the first."""
    vtrace_rho: float = option(1.0, when=(effects.VTRACE,))
    """Ratios that weigh temporal differences are cut off here (advantage='vtrace')."""
    vtrace_c: float = option(1.0, when=(effects.VTRACE,))
    """Ratios that weigh the trace of later differences are cut off here (advantage='vtrace')."""
    advantage_normalization: Literal["minibatch", "batch", "none"] = "minibatch"
    """Where advantages are brought to mean 0 and standard deviation 1."""

    objective: ObjectiveName = option("clip", group="objective")
    """Policy objective, a name in OBJECTIVES."""
    clip_eps: float = option(0.2, when=(effects.CLIP, effects.SEVERAL_STEPS))
    """Probability ratios are clipped to 1 - clip_eps .. 1 + clip_eps (objective='clip')."""
    clip_eps_schedule: Annealing = option(
        "linear", when=(effects.CLIP, effects.SEVERAL_STEPS, effects.CLIP_EPS_FORM)
    )
    """Way to clip_eps_final_scale of it; constant: stays."""
    clip_eps_final_scale: float = option(
        1.0, when=(effects.CLIP, effects.SEVERAL_STEPS, effects.CLIP_EPS_FALLS)
    )
    """clip_eps falls to this fraction of itself."""
    clip_eps_warmup: float | None = option(None, when=(effects.CLIP, effects.SEVERAL_STEPS))
    """Part of the run in which it first rises, from one update's share of it; None: none."""
    kl_coef: float = option(1.0, when=(effects.KL_PENALTY, effects.SEVERAL_STEPS))
    """Weight of the KL penalty, beta (its first value under objective='adaptive_kl')."""
    adaptive_kl_target: float = option(0.01, when=(effects.ADAPTIVE_KL, effects.SEVERAL_STEPS))
    """KL divergence per update that adaptive_kl aims for."""
    target_kl: float | None = option(None, when=(effects.SEVERAL_STEPS,))
    """Skip the rest of an update once a minibatch's approx_kl exceeds this; None: never."""

    value_loss: ValueLoss = option("squared", when=(effects.CRITIC,), group="value")
    """Loss of the critic."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    value_clip_eps: float = option(0.2, when=(effects.CLIPPED_VALUE, effects.SEVERAL_STEPS))
    """Values move at most this far from the rollout's (value_loss='clipped', in its units)."""
    huber_delta: float = option(1.0, when=(effects.HUBER,))
    """Error at which the value loss turns linear (value_loss='huber', in its units)."""
    value_bins: int = option(101, BINS, when=(effects.CATEGORICAL,))
    """Values that a categorical critic chooses among (value_loss='categorical')."""
    value_min: float = option(-20_000.0, VALUE, when=(effects.CATEGORICAL,))
    """Value of the lowest bin: what is below it counts as this."""
    value_max: float = option(20_000.0, VALUE, when=(effects.CATEGORICAL,))
    """Value of the highest bin: what is above it counts as this."""
    value_symlog: bool = option(True, when=(effects.CATEGORICAL,))
    """Bins are evenly spaced in sign(V) log(1 + |V|), not in V: a wide range, fine near 0."""
    value_sigma: float = option(0.75, SIGMA, when=(effects.CATEGORICAL,))
    """Standard deviation of the Gaussian that a target is spread by, in widths of a bin."""
    entropy_coef: float = option(0.0, group="objective")
    """Weight of the entropy bonus."""
    entropy_coef_schedule: Annealing = option(
        "linear", when=(effects.ENTROPY, effects.ENTROPY_FORM)
    )
    """Way to entropy_coef_final_scale of it; constant: stays."""
    entropy_coef_final_scale: float = option(1.0, when=(effects.ENTROPY, effects.ENTROPY_FALLS))
    """entropy_coef falls to this fraction of itself."""
    entropy_coef_warmup: float | None = option(None, when=(effects.ENTROPY,))
    """Part of the run in which it first rises, from one update's share of it; None: none."""

    exploration: Literal["none", "rnd"] = option("none", group="exploration")
    """Bonus for observations that are new, beside the rewards; rnd: random network distillation."""
    exploration_coef: float = option(0.5, when=(effects.EXPLORES,))
    """Weight of the bonus's advantages beside those of the rewards."""
    exploration_gamma: float = option(0.99, when=(effects.EXPLORES,))
    """Discount of bonuses per step; they are counted beyond the ends of episodes."""
    exploration_size: int = option(512, *COUNT, when=(effects.EXPLORES,))
    """Numbers that the random network makes of an observation, for another to predict."""

    torso: Literal["auto", "mlp", "cnn", "nature", "impala"] = option("auto", group="network")
    """Body of the network; auto: nature for images, cnn for smaller grids, mlp for all else."""
    core: Literal["none", "gru", "lstm", "linear", "gtrxl", "mingru"] = "none"
    """Memory of the policy, behind the torso; none: feed-forward."""
    core_size: int = option(64, *COUNT, when=(effects.CORE,))
    """Width of the memory."""
    core_layers: int = option(2, *COUNT, when=(effects.LAYERED,))
    """Layers of the memory (core='gtrxl', 'mingru')."""
    core_heads: int = option(4, *COUNT, when=(effects.GTRXL,))
    """Heads of attention, a divisor of core_size (core='gtrxl')."""
    core_window: int = option(64, *COUNT, when=(effects.GTRXL,))
    """Past steps of its episode that each step sees (core='gtrxl')."""
    sequence_length: int | None = option(None, *COUNT)
    """Steps that gradients flow back through a memory, a divisor of num_steps; None: num_steps."""
    hidden_sizes: tuple[int, ...] = option((64, 64), *WIDTHS)
    """Width of each hidden layer."""
    critic_hidden_sizes: tuple[int, ...] = option((), *OTHER_WIDTHS, when=(effects.APART,))
    """Width of each hidden layer of the critic; none: as hidden_sizes."""
    activation: Literal["tanh", "relu", "silu", "gelu", "elu"] = "tanh"
    """Nonlinearity of the hidden layers."""
    layer_norm: bool = False
    """Normalise each hidden layer before its activation."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of hidden layers' products and activations; parameters, heads and losses stay float32."""
    matmul_precision: Literal["default", "high", "highest"] = "default"
    """Of float32 products on GPUs and TPUs, the environments' too; default: as JAX is set."""
    shared_torso: bool = False
    """One torso (and memory) for actor and critic instead of one each."""
    actor_observation: tuple[str, ...] = option((), NAMES)
    """Entries of the observation that the actor reads, inner ones as part/name; (): all of it."""
    critic_observation: tuple[str, ...] = option((), NAMES, when=(effects.CRITIC,))
    """Entries that the critic reads, which acting can do without (a privileged critic); (): all."""
    squash_actions: bool = False
    """Continuous actions: a normal distribution squashed into the bounds by tanh, not clipped."""
    state_dependent_std: bool = False
    """Continuous actions: the network gives the standard deviation, not one parameter per axis."""
    normalize_observations: bool = option(False, group="normalisation")
    """Bring observations to mean 0 and variance 1 by running statistics."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    normalize_values: bool = option(False, when=(effects.CRITIC, effects.ONE_NUMBER))
    """Bring the critic's targets to mean 0 and variance 1 by running statistics, with PopArt."""

    def __post_init__(self) -> None:
        """Brings values to their declared types, then checks every rule."""
        # each field by itself, so that rules need not ask; effects last, so that they speak of
        # valid values
        check_fields(self, PPOConfig)
        check_sizes(self)
        check_effects(self, PPOConfig)
        if effects.BY_KL.applies(self):
            check_ascending(self, "learning_rate_min", "learning_rate", "learning_rate_max")

    @property
    def batch_size(self) -> int:
        """Returns the transitions per update: num_envs * num_steps."""
        return self.num_envs * self.num_steps

    @property
    def minibatch_size(self) -> int:
        """Returns the transitions per gradient step."""
        return self.batch_size // self.num_minibatches

    @property
    def num_updates(self) -> int:
        """Returns the number of rollouts, each followed by its epochs (U): as many as fit."""
        return self.total_timesteps // self.batch_size

    @property
    def timesteps(self) -> int:
        """Returns the environment steps that are done, exactly: total_timesteps or fewer."""
        return self.num_updates * self.batch_size

    def hyperparams(self) -> Hyperparams:
        """Returns the traced scalars of this configuration, as floats (or None)."""
        names = (name for name in Hyperparams._fields if name != "extra")
        return Hyperparams(**{name: getattr(self, name) for name in names})

    def replace(self, **changes: Any) -> PPOConfig:
        """Returns the same configuration with some fields changed, validated again."""
        config = dataclasses.replace(self, **known_fields(type(self), changes))
        check_derived(config, changes)
        return config

    @classmethod
    def ppo(cls, **changes: Any) -> PPOConfig:
        """Configures PPO with the clipped surrogate (arXiv:1707.06347, eq. 7)."""
        return cls().replace(**changes)

    @classmethod
    def ppo_kl(cls, **changes: Any) -> PPOConfig:
        """Configures PPO with a KL penalty (arXiv:1707.06347, eq. 8), fixed or 'adaptive_kl'."""
        return cls(objective="kl_penalty").replace(**changes)

    @classmethod
    def a2c(cls, **changes: Any) -> PPOConfig:
        """Configures advantage actor-critic (arXiv:1602.01783): one step on 5-step advantages."""
        return cls(**presets.A2C).replace(**changes)

    @classmethod
    def reinforce(cls, **changes: Any) -> PPOConfig:
        """Configures REINFORCE (Williams 1992) with a value baseline, one step per rollout."""
        return cls(**presets.REINFORCE).replace(**changes)

    @classmethod
    def preset(cls, name: str, algorithm: Algorithm = "ppo", **changes: Any) -> PPOConfig:
        """Loads a tuned configuration by name: `PPOConfig.preset("CartPole-v1")`.

        Args:
            name: the environment's name, or another preset's (`classic`).
            algorithm: which of the file's tables; what it leaves out comes from the algorithm.
            **changes: fields to change.

        Raises:
            ConfigError: no such preset or algorithm, the nearest names are given; or a change is
                refused.
        """
        check_choice("algorithm", algorithm, get_args(Algorithm))
        fields = {**presets.load(name, algorithm), **known_fields(cls, changes)}
        config = getattr(cls, algorithm)(**fields)
        check_derived(config, changes)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Returns plain Python values by field name; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PPOConfig:
        """Reads a configuration from a mapping, which is left as it is.

        Upper-case keys as used with PureJaxRL (`LR`, `NUM_ENVS`, ...) mean what they mean there:
        `ENV_NAME` may be a name of brax or NAVIX without its suite, and `CLIP_EPS` clips the value
        too, unless `value_loss` or `value_clip_eps` says otherwise.

        Raises:
            ConfigError: it is no mapping; an unknown key (the nearest known one is named, or what
                another library's name is called here), or a bad value.
        """
        if not isinstance(values, Mapping):
            kind = type(values).__name__
            raise ConfigError(f"config is a {kind}: pass a PPOConfig or a mapping of its fields")
        config = cls(**known_fields(cls, values))
        check_derived(config, values)
        return config

    def to_toml(self, path: str | Path) -> None:
        """Writes every field to a TOML file; None is written as "none".

        Raises:
            OSError: the file cannot be written.
        """
        Path(path).write_text(self.as_toml(), encoding="utf-8")

    def as_toml(self) -> str:
        """Returns every field as TOML, None as "none"."""
        import tomli_w

        return tomli_w.dumps({k: "none" if v is None else v for k, v in self.to_dict().items()})

    @classmethod
    def from_toml(cls, path: str | Path) -> PPOConfig:
        """Reads a configuration from a TOML file of fields; missing ones take their defaults.

        Raises:
            ConfigError: the file cannot be read, is no TOML, or `from_dict` refuses what it says.
        """
        values = read_toml(path)
        for name in TABLES:
            if isinstance(values.get(name), dict):
                raise ConfigError(
                    f"{str(path)!r} has a table [{name}], which is no field: leave it out, or read "
                    "both with purejaxppo.config.file.read_config_file"
                )
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{str(path)!r}: {error}") from error


def as_config(config: PPOConfig | Mapping[str, Any]) -> PPOConfig:
    """Returns the configuration itself, or the one that a mapping describes.

    Args:
        config: a configuration, or a mapping of its fields (see `PPOConfig.from_dict`).

    Raises:
        ConfigError: it is neither, or `PPOConfig.from_dict` refuses it.
    """
    return config if isinstance(config, PPOConfig) else PPOConfig.from_dict(config)
