"""Training from the host: chunks of the jitted update, one in flight ahead of what the host does.

The chunks compute what `vmap(make_train(config))` computes in one program; while the device works
on one, the host logs and saves what came before.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from purejaxppo.components import OwnAdvantage, OwnObjective, OwnPolicy
from purejaxppo.config.schema import PPOConfig, as_config
from purejaxppo.envs.host import ONE_AT_A_TIME
from purejaxppo.errors import ConfigError
from purejaxppo.runs.about import as_json, names_of
from purejaxppo.runs.compiled import compile_run
from purejaxppo.runs.evaluate import compile_evaluate
from purejaxppo.runs.loop import Best, Run
from purejaxppo.runs.options import fit_options
from purejaxppo.runs.signals import stop_requests
from purejaxppo.runs.writer import Callback, Record
from purejaxppo.train import make_learner
from purejaxppo.types import Learner, LearnerState, Metrics


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
        problems: what went wrong around the training (files, callbacks), a line each.
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
    callbacks: Callback | Sequence[Callback] = (),
    about: Mapping[str, Any] | None = None,
    env: Any = None,
    env_params: Any = None,
    policy: OwnPolicy = None,
    objective: OwnObjective = None,
    advantage: OwnAdvantage = None,
    **options: Any,
) -> FitResult:
    """Trains agents side by side in one program, in chunks of about half a second.

    They are spread over all devices among which they can be shared out equally. Seed i has the key
    `jax.random.split(jax.random.key(seed), seeds)[i]`. Ctrl-C or SIGTERM ends the run after the
    chunk in hand, saved; a second one ends it at once.

    Args:
        config: what to train.
        callbacks: `(step, row)`, each called with every row that is logged, of every update and
            seed: {"step": environment steps, "seed": which, name: number}; those of evaluations
            are named eval_*. One that raises is not called again, and the run goes on; `close`,
            where it has one, is called at the end.
        about: plain values to keep in the folder's `run.json`.
        env: as in `make_learner`.
        env_params: as in `make_learner`.
        policy: as in `make_learner`.
        objective: as in `make_learner`.
        advantage: as in `make_learner`.
        **options: fields of `FitOptions`: seeds=1, seed=0, run_dir=None (nothing is written),
            resume=False, checkpoint_every, keep_checkpoints, eval_every, eval_episodes,
            eval_sampled, target_return.

    Returns:
        States, metrics, times, and what went wrong on the way.

    Raises:
        ConfigError: see `make_learner`, `FitOptions`; several seeds of environments that run on
            the host; a folder in use, or with resume=True the folder of another run.
        HostError: such an environment failed; its own message.
    """
    config, given = as_config(config), fit_options(options)
    callbacks = [callbacks] if callable(callbacks) else callbacks
    own = {"env": env, "env_params": env_params, "policy": policy}
    method = {"objective": objective, "advantage": advantage}
    learner = make_learner(config, **own, **method)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_requests())
        stack.enter_context(closing(learner))
        check_seeds(learner, given.seeds)
        record = Record(config, given, callbacks, as_json(about or {}), names_of(own | method))
        stack.callback(record.close)
        started = time.perf_counter()
        programs = compile_run(learner, given.seeds, config)
        with compile_evaluate(config, given, programs, **own) as evaluate:
            compiled = time.perf_counter()
            run = Run(config, given, programs, evaluate, record)
            run.begin(learner)
            state = run.train(stop)
    finished = time.perf_counter()
    return FitResult(
        state,
        run.metrics(),
        run.best,
        compiled - started,
        finished - compiled,
        run.begun,
        stop[0] if stop and run.going_on else None,
        record.problems,
    )


def check_seeds(learner: Learner, seeds: int) -> None:
    """Raises ConfigError if environments on the host would be asked to run side by side."""
    if learner.close is not None and seeds > 1:
        raise ConfigError(f"seeds={seeds}: {ONE_AT_A_TIME}")


@contextlib.contextmanager
def closing(learner: Learner) -> Iterator[None]:
    """Ends the learner's environments, however the block ends."""
    try:
        yield
    finally:
        if learner.close is not None:
            learner.close()
