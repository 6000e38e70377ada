"""What a configuration stands for, built once: environments, policy and method."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax

from purejaxppo.config.schema import PPOConfig, as_config
from purejaxppo.config.sizes import check_sequences
from purejaxppo.envs.environments import find_environments
from purejaxppo.envs.given import name_of
from purejaxppo.envs.host import HostEnvironment
from purejaxppo.errors import ConfigError, shown
from purejaxppo.hyperparams import Hyperparams
from purejaxppo.policies.checks import check_policy
from purejaxppo.policies.distillation import make_bonus
from purejaxppo.policies.networks import Network, for_any_lead, in_float32, make_policy
from purejaxppo.ppo.advantages import ADVANTAGES
from purejaxppo.ppo.critics import make_critic
from purejaxppo.ppo.exploration import Explorer
from purejaxppo.ppo.objectives import OBJECTIVES, Objective
from purejaxppo.ppo.optimizer import OPTIMIZERS, Optimizer, behind_clipping
from purejaxppo.ppo.schedules import SCHEDULED, Scheduling, custom_schedule, named_schedules
from purejaxppo.spaces import EnvSpec
from purejaxppo.types import (
    Critic,
    Environment,
    EnvParams,
    Estimator,
    MakeOptimizer,
    ObjectiveLoss,
    Policy,
    PyTree,
    Schedule,
    VecEnv,
)

# what may be passed in place of what a configuration describes
CustomEnv = Any  # see `envs.given.environment_of`
CustomPolicy = Policy | Network | None
CustomObjective = Objective | ObjectiveLoss | None
CustomOptimizer = Optimizer | MakeOptimizer | None


class Components(NamedTuple):
    """What a configuration stands for, built once for each call or command and passed on.

    Attributes:
        config: what is trained.
        env: one environment, as it was named or passed.
        env_params: its parameters.
        default_params: those that it has by itself.
        spec: what the policy sees of it and does: None in place of entries that nobody reads.
        vectorize: `(num_envs, mesh=None) -> VecEnv`, so many of it as one, or on each device of a
            mesh that the program runs on.
        policy: actor and critic.
        critic: what the policy's value stands for.
        sequence_length: L, where the policy has a memory; else None.
        objective: of the policy.
        advantage: the estimator.
        explorer: what pays for the new, or None.
        optimizer: clipping included.
        schedule: of the hyperparameters, and of the learning rate by divergence.
        custom: what was passed in place of what the configuration describes, by its name.
        alike: as `vectorize`, but all with the default parameters, where environments have
            parameters of their own; else None.
    """

    config: PPOConfig
    env: Environment | HostEnvironment
    env_params: EnvParams
    default_params: EnvParams
    spec: EnvSpec
    vectorize: Callable[..., VecEnv]
    policy: Policy
    critic: Critic
    sequence_length: int | None
    objective: Objective
    advantage: Estimator
    explorer: Explorer | None
    optimizer: Optimizer
    schedule: Scheduling
    custom: Mapping[str, Any]
    alike: Callable[..., VecEnv] | None = None

    @property
    def hosted(self) -> bool:
        """Says whether the environments run on the host."""
        return isinstance(self.env, HostEnvironment)

    def hyperparams(self) -> Hyperparams:
        """Returns those of the configuration, with the `extra` that was passed."""
        return self.config.hyperparams().replace(extra=self.custom.get("extra", ()))

    def check_varied(self, names: Iterable[str]) -> None:
        """Refuses to vary what only a part would obey that another one takes the place of.

        Args:
            names: of what is varied.

        Raises:
            ConfigError: there is such a name.
        """
        varied = {*names}
        for kind, replaced in _idle(self.custom):
            idle = [name for name in replaced if name in varied]
            if idle:
                raise ConfigError(f"{_no_effect(idle, kind)}: leave it out of what is varied")

    @property
    def env_name(self) -> str:
        """Returns the name of what is trained on: as configured, or of what was passed instead."""
        return name_of(self.env) if "env" in self.custom else self.config.env

    @property
    def keeps_final_obs(self) -> bool:
        """Says whether a rollout keeps what its actions led to, for later stages to read."""
        return self.config.recompute_advantages or self.explorer is not None

    @property
    def own_params(self) -> EnvParams:
        """Returns the parameters that were passed for all environments alike, or None."""
        return None if self.alike is not None else self.custom.get("env_params")

    def on_defaults(self) -> Components:
        """Returns components to evaluate with: where environments differ, all have the defaults."""
        if self.alike is None:
            return self
        return self._replace(env_params=self.default_params, vectorize=self.alike, alike=None)

    def in_precision(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function whose matrix products have the precision that is configured.

        Those of gradients too, and of environments: of all that is traced while it is called.

        Args:
            function: of whatever is trained, played or applied.
        """
        precision = self.config.matmul_precision
        if precision == "default":  # which may be another outside, and is left alone
            return function

        @functools.wraps(function)
        def traced(*args: Any, **named: Any) -> Any:
            with jax.default_matmul_precision(precision):
                return function(*args, **named)

        return traced


def make_components(
    config: PPOConfig | Mapping[str, Any],
    *,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
    objective: CustomObjective = None,
    advantage: Estimator | None = None,
    optimizer: CustomOptimizer = None,
    schedule: Schedule | None = None,
    env_params_axis: Any = None,
    extra: PyTree = None,
    change_env_params: Callable[[EnvParams], EnvParams] | None = None,
) -> Components:
    """Builds what a configuration describes; what is passed takes its place.

    Args:
        config: what to train; a mapping is read by `PPOConfig.from_dict`.
        env: an environment, or what makes one; see `envs.given.environment_of`.
        env_params: its parameters; None: its defaults; or what draws them, see `make_learner`.
        policy: a `Policy`, or a network `obs [B, *O] -> (parameters, value [B])`, of linen or nnx
            (`policies.networks.make_policy`).
        objective: an `Objective`, or its loss alone.
        advantage: `(rollout, hyperparams, config) -> Estimate`.
        optimizer: an `Optimizer`, or `(hyperparams) -> optax.GradientTransformation`.
        schedule: `(hyperparams, progress) -> hyperparams`.
        env_params_axis: where env_params have an axis of environments, see `make_learner`.
        extra: `Hyperparams.extra`, where a run is given no others; None: ().
        change_env_params: `(default parameters) -> parameters`, where none are passed.

    Returns:
        The components.

    Raises:
        ConfigError: the environment contradicts itself (`envs.inspection.inspect_env`), the policy
            cannot be made for it (`policies.networks.make_policy`), what is passed cannot be
            called, or an option has no effect.
    """
    # what is passed is compared with the configuration before anything is built
    config = as_config(config)
    if isinstance(env, str):  # a name describes, whichever way it comes
        config, env = config.replace(env=env), None
    given = dict(
        env=env, env_params=env_params, policy=policy, objective=objective, advantage=advantage,
        optimizer=optimizer, schedule=schedule, env_params_axis=env_params_axis, extra=extra,
    )  # fmt: skip
    custom = {name: x for name, x in given.items() if x is not None}
    _check_custom(config, custom)

    # environments first: everything else is made for their spaces
    envs = find_environments(config, env, env_params, env_params_axis, change_env_params)

    # the policy, which fixes how rollouts are cut into sequences
    critic = make_critic(config)
    policy = _policy_for(critic, config, envs.spec, policy)

    # the method: by name, or as it is passed
    if objective is None:
        objective = OBJECTIVES[config.objective]
    elif not isinstance(objective, Objective):
        objective = Objective(objective)
    if optimizer is None:
        optimizer = OPTIMIZERS[config.optimizer]
    else:
        custom_one = optimizer if isinstance(optimizer, Optimizer) else Optimizer(optimizer)
        optimizer = behind_clipping(custom_one)
    advantage = advantage or ADVANTAGES[config.advantage]
    return Components(
        **envs._asdict(),
        config=config,
        policy=policy,
        critic=critic,
        sequence_length=_sequence_length(config, policy),
        objective=objective,
        advantage=advantage,
        explorer=_explorer(config, envs.spec, advantage, optimizer),
        optimizer=optimizer,
        schedule=_scheduling(config, schedule),
        custom=custom,
    )


_NETWORK = (
    "core", "core_size", "core_layers", "core_heads", "core_window", "compute_dtype",
    "state_dependent_std", "actor_observation", "critic_observation",
)  # fmt: skip
_OPTIMIZER = (
    "optimizer", "adam_b1", "adam_b2", "adam_eps", "weight_decay", "momentum", "rms_decay",
    "rms_eps",
)  # fmt: skip
_SCHEDULE = (
    *(f"{name}_{part}" for name in SCHEDULED for part in ("schedule", "final_scale", "warmup")),
    "desired_kl", "learning_rate_min", "learning_rate_max", "adapt_learning_rate",
)  # fmt: skip
_REPLACED: dict[str, tuple[str, ...]] = {
    "policy": (*_NETWORK, "squash_actions"),
    "objective": ("objective",),
    "advantage": ("advantage",),
    "optimizer": _OPTIMIZER,
    "schedule": _SCHEDULE,
}
"""Fields of the configuration that have no effect beside what is passed, by its name."""

_FUNCTIONS: dict[str, tuple[int, str]] = {
    "objective": (5, "lambda dist, log_prob, batch, hyper, state: -batch.advantage * log_prob"),
    "advantage": (3, "lambda rollout, hyper, config: gae(rollout, hyper.gamma, 0.9)"),
    "optimizer": (1, "lambda hyper: optax.adam(hyper.learning_rate)"),
    "schedule": (2, "lambda hyper, progress: hyper.replace(learning_rate=1e-3 * (1 - progress))"),
}
"""What may be passed as a function: how many arguments it is called with, and one that works."""


def _check_custom(config: PPOConfig, custom: Mapping[str, Any]) -> None:
    """Refuses options that only what is replaced obeys, and what cannot be called."""
    default = PPOConfig()
    for kind, names in _idle(custom):
        # an option that is set, and that only what is replaced would obey
        idle = [name for name in names if getattr(config, name) != getattr(default, name)]
        if idle:
            changes = ", ".join(f"{name}={getattr(default, name)!r}" for name in idle)
            raise ConfigError(f"{_no_effect(idle, kind)}: use config.replace({changes})")
        passed = custom[kind]
        if kind in _FUNCTIONS and not isinstance(passed, Objective | Optimizer):
            _check_function(kind, passed, *_FUNCTIONS[kind])


def _idle(custom: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields what is replaced, and the fields of the configuration that nothing obeys then."""
    for kind, names in _REPLACED.items():
        if kind == "policy" and not isinstance(custom.get(kind), Policy):
            names = _NETWORK  # a module is given its distribution, which may be squashed
        if kind in custom:
            yield kind, names


def _no_effect(names: Sequence[str], kind: str) -> str:
    a = "an" if kind[0] in "aeiou" else "a"
    return f"{', '.join(names)} would have no effect on {a} {kind} of your own"


def _check_function(kind: str, passed: Any, arguments: int, works: str) -> None:
    """Refuses what cannot be called as it will be; names belong into the configuration."""
    if type(passed) is str and hasattr(PPOConfig, kind):
        works = f"pass names to PPOConfig({kind}=...)"
        raise ConfigError(f"{kind}={passed!r} must be a function: {works}")
    try:
        signature = inspect.signature(cast(Any, passed), follow_wrapped=False)
        signature.bind(*range(arguments))
        # one of optax's own would take the hyperparameters for it
        if kind == "optimizer" and next(iter(signature.parameters)) == "learning_rate":
            raise TypeError("it is called with hyperparameters, not with a learning rate")
    except TypeError as error:  # it is no function, or one of other arguments
        count = f"{arguments} argument{'s' if arguments > 1 else ''}"
        raise ConfigError(
            f"{kind}={shown(passed)} must be a function of {count}: use {works}"
        ) from error
    except ValueError:  # one that is not written in Python does not say
        pass


def _policy_for(critic: Critic, config: PPOConfig, spec: EnvSpec, policy: CustomPolicy) -> Policy:
    """Returns a policy, configured or passed, whose value is what the critic reads.

    Raises:
        ConfigError: it is not, or `normalize_values` would rescale a layer that is not known.
    """
    if isinstance(policy, Policy):
        check_policy(policy, spec, critic.first)
        policy = in_float32(for_any_lead(policy))
    else:
        policy = make_policy(config, spec, policy, first_value=critic.first)
    if config.normalize_values and policy.rescale_value is None:
        raise ConfigError(
            "normalize_values=True rescales the layer that gives the value, and which it is in a "
            "policy of your own is not known: pass a Policy with rescale_value, or use "
            "normalize_rewards=True"
        )
    return policy


def _explorer(
    config: PPOConfig, spec: EnvSpec, advantage: Estimator, optimizer: Optimizer
) -> Explorer | None:
    """Makes what pays for the new, by the same estimator and optimizer as all else."""
    if config.exploration == "none":
        return None
    return Explorer(
        bonus=make_bonus(config, spec),
        spec=spec,
        estimate=lambda rollout, hyper: advantage(rollout, hyper, config),
        optimizer=optimizer,
        num_epochs=config.num_epochs,
        num_minibatches=config.num_minibatches,
        chunk_size=config.chunk_size,
    )


def _scheduling(config: PPOConfig, schedule: Schedule | None) -> Scheduling:
    """Returns the schedules that a configuration names, or the one that is passed."""
    if schedule is not None:
        return custom_schedule(schedule)
    names = {name: getattr(config, f"{name}_schedule") for name in SCHEDULED}
    return named_schedules(names, config.adapt_learning_rate)


def _sequence_length(config: PPOConfig, policy: Policy) -> int | None:
    """Returns the steps that gradients flow back through a memory; None without one."""
    if jax.tree.leaves(jax.eval_shape(lambda: policy.initial_carry((1,)))):
        length = config.sequence_length or config.num_steps
        check_sequences(config.replace(sequence_length=length))
        return length
    if config.sequence_length is not None:
        raise ConfigError(
            f"sequence_length={config.sequence_length} has no effect without a memory: use it "
            "with core='gru', or leave it None"
        )
    return None
