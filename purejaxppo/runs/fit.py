"""Training from the host: chunks of the jitted update, one in flight ahead of what the host does.

The chunks compute what `vmap(make_train(config))` computes in one program; while the device works
on one, the host logs and saves what came before.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from purejaxppo.components import (
    Components,
    CustomEnv,
    CustomObjective,
    CustomOptimizer,
    CustomPolicy,
    make_components,
)
from purejaxppo.config.schema import PPOConfig
from purejaxppo.envs.host import ONE_AT_A_TIME
from purejaxppo.errors import ConfigError
from purejaxppo.parallel import SEEDS, make_mesh
from purejaxppo.run_folder.env_params import plain_params
from purejaxppo.run_folder.rows import numeric_problems
from purejaxppo.runs.agents import Best
from purejaxppo.runs.compiled import compile_run
from purejaxppo.runs.evaluate import compile_evaluate
from purejaxppo.runs.identity import describe_custom, to_plain
from purejaxppo.runs.loop import Run
from purejaxppo.runs.options import FitOptions, fit_options
from purejaxppo.runs.signals import StopRequests
from purejaxppo.runs.writer import RunWriter
from purejaxppo.sharding import spread_over
from purejaxppo.tuning import check_compiles
from purejaxppo.types import (
    EnvParams,
    Estimator,
    Learner,
    LearnerState,
    Logger,
    Metrics,
    PyTree,
    Schedule,
)


class FitResult(NamedTuple):
    """What a run gave.

    Attributes:
        state: the learners, every leaf with a leading axis of seeds.
        metrics: every field [seeds, updates done], NumPy; of a resumed run from its beginning.
        best: the agents that evaluations scored highest; with returns of -inf if there were none.
        compile_seconds: tracing and compilation.
        run_seconds: everything after.
        resumed_at: updates that were done before.
        stopped: number of the signal that ended it before its last update, or None.
        problems: what went wrong around the training (files, callbacks), and with its numbers
            (gradient steps that were left out), a line each.
    """

    state: LearnerState
    metrics: Metrics
    best: Best
    compile_seconds: float
    run_seconds: float
    resumed_at: int
    stopped: int | None
    problems: list[str]


def fit(
    config: PPOConfig | Mapping[str, Any],
    *,
    seeds: int = 1,
    seed: int = 0,
    devices: int | Literal["all"] | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 3,
    eval_every: int | None = None,
    eval_episodes: int = 16,
    eval_sampled: bool = False,
    target_return: float | None = None,
    callbacks: Logger | Sequence[Logger] = (),
    about: Mapping[str, Any] | None = None,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
    objective: CustomObjective = None,
    advantage: Estimator | None = None,
    optimizer: CustomOptimizer = None,
    schedule: Schedule | None = None,
    extra: PyTree = (),
) -> FitResult:
    """Trains agents side by side in one program, in chunks of about half a second.

    Seed i has the key
    `jax.random.split(jax.random.key(seed), seeds)[i]`. Ctrl-C or SIGTERM ends the run after the
    chunk in hand, saved; a second one ends it at once, and so does the first one while programs are
    compiled (Python hears of it once the compilation in hand is done).

    Args:
        config: what to train; a mapping is read by `PPOConfig.from_dict`.
        seeds: agents trained side by side.
        seed: of the random key that every agent's is split from.
        devices: how many are used, or "all". Seeds are shared out among them first; where there
            are more devices than that, several have one agent together, each its share of num_envs.
            None: as many as can have an equal share of the seeds.
        run_dir: folder for the results; None: nothing is written.
        resume: go on with the run in run_dir from its last checkpoint; if there is no such folder
            or nothing in it, begin there, so that a script can be started again and again.
        checkpoint_every: steps of each agent between checkpoints, rounded up to whole updates;
            None: once a minute.
        keep_checkpoints: how many of the last checkpoints stay.
        eval_every: steps of each agent between evaluations, rounded up to whole updates; None:
            never.
        eval_episodes: episodes of an evaluation, which begin alike every time and for every agent.
        eval_sampled: evaluate sampled actions rather than the most probable ones.
        target_return: stop once the evaluations of all agents reach this mean return.
        callbacks: `(step, row)`, each called with every row that is logged, of every update and
            seed: {"step": environment steps, "seed": which, name: number}; those of evaluations
            are named eval_*. One that raises is not called again, and the run goes on; `close`,
            where it has one, is called at the end.
        about: plain values to keep in the folder's `run.json`.
        env: an environment with gymnax's 1.x interface, or a `HostEnvironment`, in place of the
            one that `config` names.
        env_params: its parameters; None: its defaults. Numbers and small arrays are kept with the
            run, and loaded with it.
        policy: a policy, or a linen module `obs [B, *O] -> (parameters, value [B])`, in place of
            the network that `config` describes.
        objective: an `Objective`, or its loss alone, `(dist, log_prob [B], batch, hyperparams,
            state) -> [B]`, in place of the one that `config` names. Values that the loss also
            returns, `([B], {name: [B]})`, are columns of the rows.
        advantage: `(rollout, hyperparams, config) -> Estimate`, in place of the estimator that
            `config` names.
        optimizer: `(hyperparams) -> optax.GradientTransformation`, or an `Optimizer`, in place of
            Adam; gradients are clipped to max_grad_norm before it.
        schedule: `(hyperparams, progress) -> hyperparams`, with progress from 0 to 1, in place of
            the linear one.
        extra: `Hyperparams.extra`, any pytree of numbers and arrays for custom parts to read.

    Returns:
        States, metrics, times, and what went wrong on the way.

    Raises:
        ConfigError: see `PPOConfig`, `components.make_components`, `FitOptions`; several seeds of
            environments that run on the host; a folder in use, or with resume=True the folder of
            another run; JAX_DISABLE_JIT is set.
        HostError: such an environment failed; its own message.
    """
    check_compiles()
    options = fit_options(
        dict(
            seeds=seeds, seed=seed, devices=devices, run_dir=run_dir, resume=resume,
            checkpoint_every=checkpoint_every, keep_checkpoints=keep_checkpoints,
            eval_every=eval_every, eval_episodes=eval_episodes, eval_sampled=eval_sampled,
            target_return=target_return,
        )
    )  # fmt: skip
    components = make_components(
        config, env=env, env_params=env_params, policy=policy, objective=objective,
        advantage=advantage, optimizer=optimizer, schedule=schedule,
    )  # fmt: skip
    return fit_of(components, options, callbacks, about, extra)


def fit_of(
    components: Components,
    options: FitOptions,
    callbacks: Logger | Sequence[Logger] = (),
    about: Mapping[str, Any] | None = None,
    extra: PyTree = (),
) -> FitResult:
    """Trains components that are built already, as `fit` does.

    Args:
        components: what is trained, and how.
        options: seeds, where results go, and what happens between updates.
        callbacks: `(step, row)`, called with every row that is logged.
        about: plain values to keep in the folder's `run.json`.
        extra: `Hyperparams.extra`.

    Returns:
        States, metrics, times, and what went wrong on the way.

    Raises:
        ConfigError: several seeds of environments that run on the host; a folder in use, or with
            `resume` the folder of another run.
        HostError: such an environment failed; its own message.
    """
    config, mesh = components.config, make_mesh(options.seeds, options.devices)
    spread = spread_over(components, mesh, SEEDS)
    learner = spread.learner
    hyper = config.hyperparams().replace(extra=extra)
    callbacks = [callbacks] if callable(callbacks) else callbacks
    custom = dict(components.custom)
    if jax.tree.leaves(extra):
        custom["extra"] = extra
    with contextlib.ExitStack() as stack:
        # environments and files are closed however it ends, and signals are left alone again
        stop = StopRequests()
        stack.callback(stop.end)
        if learner.close is not None:
            stack.callback(learner.close)
        check_seeds(learner, options.seeds)
        parts, given = describe_custom(custom), components.custom.get("env_params")
        kept = None if given is None else plain_params(given, components.default_params)
        writer = RunWriter(config, options, callbacks, to_plain(about or {}), parts, kept)
        stack.callback(writer.close)

        # everything is compiled before the first step, so that times are measured apart
        started = time.perf_counter()
        programs = compile_run(spread, options.seeds, config, hyper)
        with compile_evaluate(components, options, programs) as evaluate:
            compiled = time.perf_counter()
            # from here on a signal ends the run saved: before, there was nothing to save
            stop.begin()
            run = Run(config, options, programs, evaluate, writer)
            run.begin(learner)
            state = run.train(stop.received)
    finished = time.perf_counter()
    metrics = run.metrics()
    for problem in numeric_problems(metrics):
        writer.problems.report(problem)
    return FitResult(
        state,
        metrics,
        run.best,
        compiled - started,
        finished - compiled,
        run.begun,
        stop.received[0] if stop.received and run.going_on else None,
        writer.problems,
    )


def check_seeds(learner: Learner, seeds: int) -> None:
    """Raises ConfigError if environments on the host would be asked to run side by side."""
    if learner.close is not None and seeds > 1:
        raise ConfigError(f"seeds={seeds}: {ONE_AT_A_TIME}")
