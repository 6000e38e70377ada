"""Training from the host: chunks of the jitted update, one in flight ahead of what the host does.

The chunks compute what `vmap(make_train(config))` computes in one program; while the device works
on one, the host logs and saves what came before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple, TypeAlias

from purejaxppo.components import (
    Components,
    CustomEnv,
    CustomObjective,
    CustomOptimizer,
    CustomPolicy,
    make_components,
)
from purejaxppo.config.purejaxrl import with_seeds
from purejaxppo.config.rules import as_count
from purejaxppo.config.schema import PPOConfig
from purejaxppo.parallel import SEEDS
from purejaxppo.processes import agree, is_first, of_first, on_all, together, whole
from purejaxppo.run_folder.env_params import plain_params
from purejaxppo.run_folder.rows import numeric_problems
from purejaxppo.runs.agents import Agents, Best
from purejaxppo.runs.beginning import Beginning, read_beginning
from purejaxppo.runs.callbacks import GivenCallbacks, callbacks_of
from purejaxppo.runs.compiled import compile_run, unheard
from purejaxppo.runs.evaluate import compile_evaluate
from purejaxppo.runs.identity import (
    check_same_everywhere,
    describe_custom,
    to_plain,
    versions,
)
from purejaxppo.runs.loop import Run
from purejaxppo.runs.options import FitOptions, Weights, fit_options
from purejaxppo.runs.plan import Plan, plan_for
from purejaxppo.runs.signals import StopRequests
from purejaxppo.runs.summary import in_words, summarize
from purejaxppo.runs.vary import ALIKE, Variation, read_vary
from purejaxppo.runs.writer import RunWriter
from purejaxppo.sharding import spread_over
from purejaxppo.tuning import check_compiles
from purejaxppo.types import (
    EnvParams,
    Estimator,
    LearnerState,
    Metrics,
    PyTree,
    Schedule,
)

InitFrom: TypeAlias = "str | Path | FitResult | LearnerState | Agents | None"
"""What a run may begin with: a run folder, or agents themselves."""


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
        stopped_by: name of the callback that did so, or None.
        problems: what went wrong around the training (files, callbacks), and with its numbers
            (gradient steps that were left out), a line each.
        config: what was trained.
        summary: the results in plain values, as `summary.json` in the run folder has them.
    """

    state: LearnerState
    metrics: Metrics
    best: Best
    compile_seconds: float
    run_seconds: float
    resumed_at: int
    stopped: int | None
    stopped_by: str | None
    problems: list[str]
    config: PPOConfig
    summary: dict[str, Any]

    def __repr__(self) -> str:
        """Writes down in a few lines what the run has reached."""
        summary, seeds = self.summary, self.summary["seeds"]
        done, total = (f"{summary[n]:,}" for n in ("timesteps", "total_timesteps"))
        of = "" if done == total else f" of {total}"
        lines = [f"{summary['env']}: {done}{of} steps of {seeds} seed{'s' * (seeds > 1)}"]
        lines += [f"  {name:<15} {text}" for name, text in in_words(summary).items()]
        if self.stopped is not None:
            lines.append(f"  {'stopped by':<15} signal {self.stopped}")
        if self.stopped_by is not None:
            lines.append(f"  {'stopped by':<15} {self.stopped_by}")
        return "\n".join(lines + [f"  {'problem':<15} {problem}" for problem in self.problems])


def fit(
    config: PPOConfig | Mapping[str, Any],
    *,
    seeds: int = 1,
    seed: int = 0,
    vary: Mapping[str, Sequence[float]] | None = None,
    devices: int | Literal["all"] | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 3,
    eval_every: int | None = None,
    eval_episodes: int = 16,
    eval_sampled: bool = False,
    target_return: float | None = None,
    init_from: InitFrom = None,
    init_weights: Weights = "final",
    init_agent: int | None = None,
    init_optimizer: bool = False,
    callbacks: GivenCallbacks | None = (),
    about: Mapping[str, Any] | None = None,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
    objective: CustomObjective = None,
    advantage: Estimator | None = None,
    optimizer: CustomOptimizer = None,
    schedule: Schedule | None = None,
    env_params_axis: Any = None,
    extra: PyTree = None,
) -> FitResult:
    """Trains agents side by side in one program, in chunks of about half a second.

    Seed i has the key
    `jax.random.split(jax.random.key(seed), seeds)[i]`. Ctrl-C or SIGTERM ends the run after the
    chunk in hand, saved; a second one ends it at once, and so does the first one while programs are
    compiled (Python hears of it once the compilation in hand is done).

    Args:
        config: what to train; a mapping is read by `PPOConfig.from_dict`, and SEED and NUM_SEEDS
            in it are the next two.
        seeds: agents trained side by side.
        seed: of the random key that every agent's is split from.
        vary: settings that differ from those of `config`, K values of each hyperparameter by its
            name, or of numbers of the environment as env_params.NAME. So many `seeds` are trained
            of each setting, from the same keys, one setting behind the other: in what comes back,
            agent k * seeds + i is seed i of setting k.
        devices: how many are used, or "all". Seeds are shared out among them first; where there
            are more devices than that, several have one agent together, each its share of num_envs.
            None: as many as can have an equal share of the seeds.
        run_dir: folder for the results; None: nothing is written.
        resume: go on with the run in run_dir from its last checkpoint; if there is no such folder
            or nothing in it, begin there, so that a script can be started again and again. With
            more total_timesteps than before it goes on beyond its end, and schedules run over the
            new total from there on.
        checkpoint_every: steps of each agent between checkpoints, rounded up to whole updates;
            None: once a minute.
        keep_checkpoints: how many of the last checkpoints stay.
        eval_every: steps of each agent between evaluations, rounded up to whole updates; None:
            never.
        eval_episodes: episodes of an evaluation, which begin alike every time and for every agent.
        eval_sampled: evaluate sampled actions rather than the most probable ones.
        target_return: stop once the evaluations of all agents reach this mean return.
        init_from: agents that the run begins with, parameters and statistics, in place of fresh
            ones: a run folder, what `fit` returned, a state of learners, or `Agents`. They may come
            from another environment of the same spaces. With resume=True a checkpoint takes their
            place.
        init_weights: their parameters at the end of that run, or the best by evaluation.
        init_agent: which of them all seeds begin with; None: each with the one of its number, or
            all with the same if there is one.
        init_optimizer: take over the optimizer's moments too, from the last checkpoint of the
            folder, or what `fit` returned.
        callbacks: one or several, each a `Callback`, or a function `(step, row)` that is called
            with every row that is logged, of every update and seed: {"step": environment steps,
            "seed": which, name: number}; those of evaluations are named eval_*. One that returns
            False stops the run after the chunk in hand, saved. One that raises is not called again,
            and the run goes on; `close`, where it has one, is called at the end.
        about: plain values to keep in the folder's `run.json`.
        env: an environment with gymnax's 1.x interface, or a `HostEnvironment`, in place of the
            one that `config` names.
        env_params: its parameters; None: its defaults. Numbers and small arrays are kept with the
            run, and loaded with it. A function `(key) -> params`, or `DrawnParams`: each
            environment draws its own, for every episode or once. Evaluations are played, and the
            run is loaded, with the defaults then.
        policy: a policy, or a network `obs [B, *O] -> (parameters, value [B])`, of linen or nnx, in
            place of the one that `config` describes (`policies.networks.make_policy`).
        objective: an `Objective`, or its loss alone, `(dist, log_prob [B], batch, hyperparams,
            state) -> [B]`, in place of the one that `config` names. Values that the loss also
            returns, `([B], {name: [B]})`, are columns of the rows.
        advantage: `(rollout, hyperparams, config) -> Estimate`, in place of the estimator that
            `config` names.
        optimizer: `(hyperparams) -> optax.GradientTransformation`, or an `Optimizer`, in place of
            the one that `config` names; gradients are clipped to max_grad_norm before it.
        schedule: `(hyperparams, progress) -> hyperparams`, with progress from 0 to 1, in place of
            those that `config` names.
        env_params_axis: 0 where env_params have a leading axis of num_envs, one entry for each
            environment; or a pytree of axes, as `jax.vmap` takes it.
        extra: `Hyperparams.extra`, a pytree of numbers and arrays for custom parts; None: ().

    Returns:
        States, metrics, times, and what went wrong on the way.

    Raises:
        ConfigError: see `PPOConfig`, `components.make_components`, `FitOptions`; several seeds of
            environments that run on the host; a folder in use, or with resume=True the folder of
            another run; agents to begin with that do not fit; JAX_DISABLE_JIT is set.
        HostError: such an environment failed; its own message.
    """
    check_compiles()
    config, keys = with_seeds(config, seeds=seeds, seed=seed)
    components = make_components(
        config, env=env, env_params=env_params, policy=policy, objective=objective,
        advantage=advantage, optimizer=optimizer, schedule=schedule,
        env_params_axis=env_params_axis, extra=extra,
    )  # fmt: skip
    variation = None
    if vary is not None:
        count = as_count("seeds", keys.get("seeds", seeds), 1)
        variation = read_vary(vary, components, count)
        keys["seeds"] = count * variation.settings
    # a folder has a name, what is passed itself has that of its kind
    by_name = init_from is None or isinstance(init_from, str | PurePath)
    options = fit_options(
        dict(
            **keys, devices=devices, run_dir=run_dir, resume=resume,
            checkpoint_every=checkpoint_every, keep_checkpoints=keep_checkpoints,
            eval_every=eval_every, eval_episodes=eval_episodes, eval_sampled=eval_sampled,
            target_return=target_return, init_weights=init_weights, init_agent=init_agent,
            init_from=init_from if by_name else type(init_from).__name__,
            init_optimizer=init_optimizer,
        )
    )  # fmt: skip
    given = None if by_name else init_from
    settings = 1 if variation is None else variation.settings
    beginning = of_first(lambda: read_beginning(components, options, given, settings))
    return fit_of(components, options, callbacks, about, beginning, variation=variation)


def fit_of(
    components: Components,
    options: FitOptions,
    callbacks: GivenCallbacks | None = (),
    about: Mapping[str, Any] | None = None,
    beginning: Beginning | None = None,
    announce: Callable[[str], None] = unheard,
    plan: Plan | None = None,
    variation: Variation | None = None,
) -> FitResult:
    """Trains components that are built already, as `fit` does.

    Args:
        components: what is trained, and how.
        options: seeds, where results go, and what happens between updates.
        callbacks: see `fit`.
        about: plain values to keep in the folder's `run.json`.
        beginning: the agents to begin with; None: those of the keys.
        announce: called with the name of each phase as it begins: tracing, compiling, training.
        plan: of the run; None: it is made here, see `plan_of`.
        variation: settings that agents have of their own; `options.seeds` counts all agents.

    Returns:
        States, metrics, times, and what went wrong on the way.

    Raises:
        ConfigError: see `plan_of`; a folder in use, or with `resume` the folder of another run.
        HostError: such an environment failed; its own message.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(together())
        plan = plan_for(components, options) if plan is None else plan
        config, spread = components.config, spread_over(components, plan.mesh, SEEDS)
        learner = spread.learner

        # environments and files are closed however it ends, and signals are left alone again
        stop = StopRequests()
        stack.callback(stop.end)
        if learner.close is not None:
            stack.callback(learner.close)
        parts = describe_custom(components.custom)
        plain = to_plain(about or {}) | {"env": components.env_name}
        vary = None if variation is None else variation.values
        writer = _begin_writing(components, options, callbacks, plain, parts, beginning, vary)
        stack.callback(writer.release)
        stack.callback(writer.close)

        # everything is compiled before the first step, so that times are measured apart
        started = time.perf_counter()
        own = ALIKE if variation is None else variation.own(components.env_params)
        hyper = components.hyperparams()
        programs = compile_run(spread, options.seeds, config, hyper, announce, plan.at_once, own)
        with compile_evaluate(components, options, programs, own) as evaluate:
            compiled = time.perf_counter()
            # from here on a signal ends the run saved: before, there was nothing to save
            stop.begin()
            announce("training")
            run = Run(config, options, programs, evaluate, writer, beginning, variation)
            run.begin(learner)
            writer.callbacks.start(config, writer.folder)
            state = run.train(stop.received)

        # what it has come to is written while the folder is this run's
        times = {"resumed_at": run.begun, "compile_seconds": compiled - started}
        times["run_seconds"] = time.perf_counter() - compiled
        metrics, (state, best) = run.metrics(), whole((state, run.best))
        writer.close()
        for problem in numeric_problems(metrics):
            writer.problems.report(problem)
        known = {**plain, "own": parts, "run_dir": options.run_dir, "problems": writer.problems}
        known |= {} if beginning is None else {"init_from": beginning.words}
        known |= {} if vary is None else {"vary": vary}
        summary = summarize(config, state, metrics, best, known, times)
        announce("writing the results")
        writer.write_results(metrics, summary, run.begun)
        result = FitResult(
            state=state, metrics=metrics, best=best, **times,
            stopped=stop.received[0] if stop.received and run.going_on else None,
            stopped_by=of_first(lambda: writer.callbacks.stopped_by) if run.going_on else None,
            problems=writer.problems, config=config, summary=summary,
        )  # fmt: skip
        writer.callbacks.end(result)
        agree(0)  # none leaves while another needs it
    return result


def _begin_writing(
    components: Components,
    options: FitOptions,
    callbacks: GivenCallbacks | None,
    plain: dict[str, Any],
    parts: dict[str, str],
    beginning: Beginning | None,
    vary: dict[str, list[float]] | None,
) -> RunWriter:
    """Makes the writer of a run; of several processes the first one has folder and callbacks.

    Args:
        components: what is trained, and how.
        options: where results go.
        callbacks: see `fit`.
        plain: values to keep in `run.json`.
        parts: what was passed in place of what the configuration describes, in texts.
        beginning: the agents to begin with.
        vary: settings that agents have of their own.

    Raises:
        ConfigError: the folder cannot be used, or another process would train something else.
    """
    config, given = components.config, components.own_params
    ours = {
        **to_plain(config.to_dict()),
        **dataclasses.asdict(options),
        **parts,
        **versions(),
        "vary": vary,
    }
    check_same_everywhere(ours)
    if not is_first():
        options, callbacks = dataclasses.replace(options, run_dir=None, resume=False), None
    called = callbacks_of(callbacks)
    kept = None if given is None else plain_params(given, components.default_params)
    record = None if beginning is None else beginning.record
    values = {"env_params": kept, "init_from": record, "vary": vary}
    return on_all(lambda: RunWriter(config, options, called, plain, parts, values))
