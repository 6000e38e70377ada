"""Trained agents in files, and back as policies."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purejaxppo.components import Components, CustomEnv, CustomPolicy, make_components
from purejaxppo.config.coerce import coerce
from purejaxppo.config.rules import check_choice
from purejaxppo.config.schema import PPOConfig
from purejaxppo.envs.params import DrawnParams, read_params
from purejaxppo.errors import ConfigError, RunWarning, shown
from purejaxppo.run_folder import checkpoint
from purejaxppo.run_folder.env_params import with_params
from purejaxppo.run_folder.files import damaged
from purejaxppo.run_folder.paths import given_path
from purejaxppo.run_folder.read import read_run
from purejaxppo.run_folder.schemas import ActingFile
from purejaxppo.runs.options import Weights
from purejaxppo.train import learner_of
from purejaxppo.trained_policy import TrainedPolicy
from purejaxppo.types import Array, EnvParams, LearnerState, Normalizers, Params, PyTree

FILES = {"final": "agents.npz", "best": "best.npz"}


class Agents(struct.PyTreeNode):
    """What acting needs of a learner; every leaf has a leading axis of seeds."""

    params: Params
    normalizers: Normalizers

    @classmethod
    def of(cls, state: LearnerState) -> Agents:
        """Extracts what acting needs from a learner state."""
        return cls(params=state.params, normalizers=state.normalizers)


class Best(struct.PyTreeNode):
    """For each seed the agent that an evaluation scored highest: the same that was scored."""

    agents: Agents  # leading axis [S]
    returns: Array  # [S] float32, mean of its evaluation; -inf before the first

    @classmethod
    def unscored(cls, state: LearnerState) -> Best:
        """Starts from the agents of learner states [S], none of which was evaluated."""
        agents = jax.tree.map(jnp.copy, Agents.of(state))  # the state's own are donated
        # of NumPy: `jax_debug_infs` raises where a program of JAX gives infinity
        unscored: Any = np.full(state.step.shape, -np.inf, np.float32)
        return cls(agents, unscored)


@jax.jit
def better(best: Best, agents: Agents, returns: Array) -> Best:
    """Chooses seed by seed the agent that scored higher.

    Args:
        best: the best so far.
        agents: with a leading axis of seeds.
        returns: [S], mean of their evaluation.

    Returns:
        The best, these included.
    """
    higher = returns > best.returns

    def choose(new, old):
        return jax.vmap(jnp.where)(higher, new, old)

    return Best(jax.tree.map(choose, agents, best.agents), choose(returns, best.returns))


def save_agents(path: Path, agents: Agents, returns: np.ndarray | None = None) -> None:
    """Writes parameters and statistics, whole or not at all.

    Args:
        path: the file.
        agents: of all seeds.
        returns: [S], by which they are the best; None: they were not chosen.
    """
    scored = {} if returns is None else {"scored": np.isfinite(returns).tolist()}
    checkpoint.save(path, agents, scored)


def tell_of_unscored(where: str, scored: Sequence[bool]) -> None:
    """Warns of agents among the best that no evaluation has chosen.

    Args:
        where: they are, in words.
        scored: of each agent, whether an evaluation of it gave a finite return.
    """
    if not all(scored):
        which = ", ".join(str(i) for i, known in enumerate(scored) if not known)
        warnings.warn(
            f"no evaluation of agent {which} of {where} gave a finite return: it is the one "
            "that its run began with",
            RunWarning,
            stacklevel=2,
        )


def with_seeds(tree: PyTree, seeds: int) -> PyTree:
    """Puts a leading axis of seeds before shapes and dtypes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype), tree)


def load_agents(
    run_dir: str | Path,
    weights: Weights = "final",
    *,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
) -> tuple[PPOConfig, Agents]:
    """Loads the configuration and the trained agents of a run folder, for `make_act`.

    Args:
        run_dir: a folder that `purejaxppo train` or `fit` wrote.
        weights: "final", at the end of the run; or "best", by evaluation.
        env: the environment, if one was passed to training.
        env_params: its parameters; None: those of the run.
        policy: the policy, if one was passed to training.

    Returns:
        The configuration, and agents with a leading axis of seeds: take one with
        `jax.tree.map(lambda x: x[i], agents)`.

    Raises:
        ConfigError: the folder holds no such agents, or those of another network.
    """
    components, agents = load_components(run_dir, weights, env, policy, env_params)
    return components.config, agents


def load_components(
    run_dir: str | Path,
    weights: Weights,
    env: CustomEnv = None,
    policy: CustomPolicy = None,
    env_params: EnvParams = None,
) -> tuple[Components, Agents]:
    """Builds the components of a run that is written, and loads its agents.

    Args:
        run_dir: a folder that `purejaxppo train` or `fit` wrote.
        weights: "final", at the end of the run; or "best", by evaluation.
        env: the environment, if one was passed to training.
        policy: the policy, if one was passed to training.
        env_params: its parameters; None: those of the run.

    Returns:
        The components, and agents with a leading axis of seeds.

    Raises:
        ConfigError: the folder holds no such agents, or those of another network.
    """
    check_choice("weights", weights, FILES)
    config, run = read_run(run_dir)
    passed = {"env": env, "policy": policy}
    for kind, part in passed.items():
        name = run.get("own", {}).get(f"own {kind}")
        if name is not None and part is None:
            raise _must_be_passed(run_dir, kind, name)

    # the file is compared with what the configuration would train
    change = env_params_of(run_dir, run, env_params)
    components = make_components(config, env=env, policy=policy, change_env_params=change)
    template = with_seeds(_template(components), run["seeds"])
    return components, read_agents(run_dir, weights, template)


def read_agents(run_dir: str | Path, weights: Weights, template: Agents) -> Agents:
    """Reads the file of a run folder that holds its agents.

    Args:
        run_dir: a folder that `purejaxppo train` or `fit` wrote.
        weights: "final", at the end of the run; or "best", by evaluation.
        template: their shapes and dtypes.

    Returns:
        The agents.

    Raises:
        ConfigError: the folder holds no such agents, or those of another network.
    """
    path = given_path(run_dir) / FILES[weights]
    if not os.path.lexists(path):
        how = "train with --eval-every" if weights == "best" else "finish it with --resume"
        raise ConfigError(f"{str(run_dir)!r} holds no {path.name}: {how}")
    try:
        agents, about = checkpoint.load(path, template)
    except checkpoint.Damaged as error:
        raise ConfigError(f"{error}: train again, or use a copy of it") from error
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read ({error.strerror})") from error
    tell_of_unscored(repr(str(path)), about.get("scored", ()))
    return jax.tree.map(jnp.asarray, agents)


def env_params_of(
    run_dir: str | Path, run: ActingFile, passed: EnvParams
) -> Callable[[EnvParams], EnvParams]:
    """Returns what makes the environment's parameters of a run of the environment's own.

    Args:
        run_dir: a folder that `purejaxppo train` or `fit` wrote.
        run: its `run.json`.
        passed: parameters to use in place of the run's; None: the run's.

    Returns:
        `(default parameters) -> parameters`.

    Raises:
        ConfigError: the run does not keep them, so that they must be passed.
    """
    kept, described = run.get("env_params"), run.get("own", {}).get("env_params")
    if isinstance(read_params(passed, None), DrawnParams):
        raise ConfigError(
            f"env_params={shown(passed)} draws parameters, and here an agent meets one "
            "environment: use env_params=draw(jax.random.key(0))"
        )
    if passed is not None:
        return lambda defaults: passed
    if kept is None and described is not None:
        raise _must_be_passed(run_dir, "env_params", described)
    if kept is None:
        return lambda defaults: defaults

    def change(defaults: EnvParams) -> EnvParams:
        try:
            return with_params(kept, defaults)
        except ConfigError as error:
            raise damaged(given_path(run_dir) / "run.json", error) from error

    return change


def tell_of_defaults(run_dir: str | Path, run: ActingFile) -> None:
    """Warns where a run is played with other parameters than its environments had in training.

    Args:
        run_dir: a folder that `purejaxppo train` or `fit` wrote.
        run: its `run.json`.
    """
    each = run.get("own", {}).get("own env_params")
    if each is not None:
        warnings.warn(
            f"{str(run_dir)!r} was trained with parameters that differ between environments "
            f"({shown(each)}): it is played with the environment's own",
            RunWarning,
            stacklevel=2,
        )


def _must_be_passed(run_dir: str | Path, kind: str, what: str) -> ConfigError:
    return ConfigError(
        f"{str(run_dir)!r} was trained with {kind}={what} in place of what its "
        f"configuration describes: pass it as {kind}=..., from Python"
    )


def load_policy(
    run_dir: str | Path,
    agent: int = 0,
    weights: Weights = "final",
    deterministic: bool = True,
    *,
    seed: int = 0,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
) -> TrainedPolicy:
    """Loads a trained policy of a run folder, compiled, statistics frozen.

    Args:
        run_dir: a folder that `purejaxppo train` or `fit` wrote.
        agent: which of the run's seeds, counted from 0.
        weights: "final", at the end of the run; or "best", by evaluation.
        deterministic: the most probable action rather than a sampled one.
        seed: of what `predict` draws.
        env: the environment, if one was passed to training.
        env_params: its parameters; None: those of the run.
        policy: the policy, if one was passed to training.

    Returns:
        The policy: `policy.predict(obs)` for NumPy and Gymnasium, one observation or a batch, with
        a memory or without; without one also `policy(key, obs [..., *O]) -> action [..., *A]`, a
        pure function of JAX. The key is consumed (and not used when deterministic).

    Raises:
        ConfigError: the folder holds no such agents, or those of another network; there is no such
            agent or seed.
    """
    components, agents = load_components(run_dir, weights, env, policy, env_params)
    return TrainedPolicy(components, agent_of(agents, agent), deterministic, seed)


def as_policy(
    config: PPOConfig | Mapping[str, Any],
    state: Any,
    agent: int = 0,
    deterministic: bool = True,
    *,
    seed: int = 0,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
) -> TrainedPolicy:
    """Makes what `load_policy` returns of a run that is still in memory.

    Args:
        config: the configuration that was trained.
        state: what `fit` or `make_train`'s function returned, its `state`, or agents
            (`load_agents`, `result.best.agents`); of one seed, or with a leading axis of them.
        agent: which of the seeds, counted from 0.
        deterministic: the most probable action rather than a sampled one.
        seed: of what `predict` draws.
        env: the environment, if one was passed to training.
        env_params: its parameters; None: its defaults.
        policy: the policy, if one was passed to training.

    Returns:
        The policy, see `load_policy`.

    Raises:
        ConfigError: the state is of another configuration, there is no such agent or seed; or see
            `components.make_components`.
    """
    components = make_components(config, env=env, env_params=env_params, policy=policy)
    trained = getattr(state, "state", state)  # of a result
    if not (hasattr(trained, "params") and hasattr(trained, "normalizers")):
        raise ConfigError(
            f"state={shown(state)} holds no agent: pass what fit or train returns, or its state"
        )
    agents, template = Agents.of(trained), _template(components)
    if _shapes(agents) == _shapes(template):
        agents = jax.tree.map(lambda x: x[None], agents)
    seeds = len(jax.tree.leaves(agents)[0]) if np.ndim(jax.tree.leaves(agents)[0]) else 1
    if _shapes(agents) != _shapes(with_seeds(template, seeds)):
        raise ConfigError(
            "state is of another network or environment than the configuration describes, or of "
            "more than one axis of seeds: pass the config, env and policy that were trained"
        )
    return TrainedPolicy(components, agent_of(agents, agent), deterministic, seed)


def _template(components: Components) -> Agents:
    """Returns shapes and dtypes of what the components would train."""
    return Agents.of(jax.eval_shape(learner_of(components).init, jax.random.key(0)))


def _shapes(tree: PyTree) -> tuple[Any, list[tuple[int, ...]]]:
    """Returns the structure of a tree, and the shapes in it."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [x.shape for x in leaves]


def agent_of(agents: Agents, agent: int) -> Agents:
    """Takes one of the agents of a run.

    Args:
        agents: with a leading axis of seeds.
        agent: which of them, counted from 0.

    Returns:
        Its parameters and statistics.

    Raises:
        ConfigError: there is no such one.
    """
    agent, seeds = coerce("agent", int, agent, 0), len(jax.tree.leaves(agents)[0])
    if not 0 <= agent < seeds:
        raise ConfigError(f"agent={shown(agent)} must be one of the run's 0 .. {seeds - 1}: use 0")
    return jax.tree.map(lambda x: x[agent], agents)
