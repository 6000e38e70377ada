"""Training from the host: chunks of the jitted update, so that a run can be watched and stopped.

The chunks compute what `vmap(make_train(config))` computes in one program.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from purejaxppo.backend import compiler_options
from purejaxppo.config import PPOConfig, as_config
from purejaxppo.envs.host import ONE_AT_A_TIME
from purejaxppo.ppo.records import Learner, LearnerState, Metrics
from purejaxppo.runs.devices import SEEDS, seed_mesh, side_by_side
from purejaxppo.setup import OwnPolicy
from purejaxppo.train import make_learner
from purejaxppo.validation import ConfigError

SECONDS_PER_CHUNK = 0.5
UPDATES_PER_CHUNK = 1000


class FitResult(NamedTuple):
    """What a run gave.

    Attributes:
        state: the learners, every leaf with a leading axis of seeds.
        metrics: every field [seeds, updates done], NumPy.
        compile_seconds: tracing and compilation.
        run_seconds: everything after.
        interrupted: ended by ctrl-C before its last update.
    """

    state: LearnerState
    metrics: Metrics
    compile_seconds: float
    run_seconds: float
    interrupted: bool


def fit(
    config: PPOConfig | Mapping[str, Any],
    *,
    seeds: int = 1,
    seed: int = 0,
    env: Any = None,
    env_params: Any = None,
    policy: OwnPolicy = None,
    on_chunk: Callable[[int, Metrics], None] = lambda first, metrics: None,
) -> FitResult:
    """Trains `seeds` agents side by side in one program, in chunks of about half a second.

    They are spread over all devices among which they can be shared out equally.

    Seed i has the key `jax.random.split(jax.random.key(seed), seeds)[i]`. Ctrl-C ends the run
    after the chunk in hand; a second one raises KeyboardInterrupt at once.

    Args:
        config: what to train.
        seeds: number of agents.
        seed: of the key that theirs are split from.
        env: as in `make_learner`.
        env_params: as in `make_learner`.
        policy: as in `make_learner`.
        on_chunk: called after each chunk with the index of its first update and its metrics, every
            field [seeds, updates in the chunk].

    Returns:
        States, metrics and times.

    Raises:
        ConfigError: see `make_learner`; or several seeds of environments that run on the host.
        HostError: such an environment failed; its own message.
    """
    config = as_config(config)
    learner = make_learner(config, env=env, env_params=env_params, policy=policy)
    check_seeds(learner, seeds)
    started = time.perf_counter()
    init, run_chunk = compile_run(learner, jax.random.split(jax.random.key(seed), seeds), config)
    compiled = time.perf_counter()

    parts: list[Metrics] = []
    done, length = 0, 1
    with stop_requests() as stop, closing(learner):
        state, buffer = init()
        while done < config.num_updates and not stop:
            length = min(length, config.num_updates - done)
            chunk_started = time.perf_counter()
            state, buffer = run_chunk(state, buffer, length)
            # sliced on the host: on the device, each length would be compiled
            part = jax.tree.map(lambda x, n=length: np.array(np.asarray(x)[:n]).T, buffer)
            seconds = time.perf_counter() - chunk_started
            on_chunk(done, part)
            parts.append(part)
            done += length
            # at most doubling: the first updates can be slower than the rest
            length = min(2 * length, max(1, round(SECONDS_PER_CHUNK * length / seconds)))
            length = min(length, UPDATES_PER_CHUNK)
    metrics = jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *parts)
    finished = time.perf_counter()
    return FitResult(
        state, metrics, compiled - started, finished - compiled, done < config.num_updates
    )


def compile_run(learner: Learner, keys: jax.Array, config: PPOConfig) -> tuple[Callable, Callable]:
    """The two programs of a run, compiled ahead of time.

    Args:
        learner: the run.
        keys: [S] typed keys.
        config: its sizes.

    Returns:
        `init() -> (state, buffer)` and `run_chunk(state, buffer, n) -> (state, buffer)`, which
        does n updates and leaves their metrics in the first n rows of the buffer. The arguments
        are donated, and n may differ from call to call without another compilation.
    """
    update = side_by_side(lambda state: learner.update(state))
    rows = min(config.num_updates, UPDATES_PER_CHUNK)

    def start(keys):
        state = side_by_side(lambda key: learner.init(key))(keys)
        row = jax.eval_shape(update, state)[1]
        return state, jax.tree.map(lambda m: jnp.zeros((rows, *m.shape), m.dtype), row)

    def run_chunk(state, buffer, length):
        def one(i, loop):
            state, metrics = update(loop[0])
            return state, jax.tree.map(lambda b, m: b.at[i].set(m), loop[1], metrics)

        return jax.lax.fori_loop(0, length, one, (state, buffer))

    mesh = seed_mesh(len(keys))
    whole = (P(SEEDS), P(None, SEEDS))  # where the seeds are in states and buffers
    start = jax.shard_map(start, mesh=mesh, in_specs=P(SEEDS), out_specs=whole, check_vma=False)
    run_chunk = jax.shard_map(
        run_chunk, mesh=mesh, in_specs=(*whole, P()), out_specs=whole, check_vma=False
    )
    options = compiler_options()
    keys = jax.device_put(keys, NamedSharding(mesh, P(SEEDS)))
    init = jax.jit(start, compiler_options=options).lower(keys)
    shapes = [
        jax.tree.map(
            lambda x, s=spec: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(mesh, s)
            ),
            part,
        )
        for part, spec in zip(init.out_info, whole, strict=True)
    ]
    chunk = jax.jit(run_chunk, donate_argnums=(0, 1), compiler_options=options).lower(*shapes, 1)
    compiled = init.compile()
    return lambda: compiled(keys), chunk.compile()


def check_seeds(learner: Learner, seeds: int) -> None:
    """Raises ConfigError if environments on the host would be asked to run side by side."""
    if learner.close is not None and seeds > 1:
        raise ConfigError(f"seeds={seeds}: {ONE_AT_A_TIME}")


@contextmanager
def closing(learner: Learner) -> Iterator[None]:
    """Ends the learner's environments, however the block ends."""
    try:
        yield
    finally:
        if learner.close is not None:
            learner.close()


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that the first ctrl-C fills; the second raises KeyboardInterrupt."""
    requests: list[int] = []

    def on_signal(number, frame):
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    try:
        previous = signal.signal(signal.SIGINT, on_signal)
    except ValueError:  # not the main thread: signals are not ours to handle
        yield requests
        return
    try:
        yield requests
    finally:
        signal.signal(signal.SIGINT, previous)


def final_returns(metrics: Metrics, num_updates: int) -> np.ndarray:
    """Mean return of the episodes that ended in the last tenth of the updates, per seed.

    Args:
        metrics: every field [seeds, updates].
        num_updates: of the whole run.

    Returns:
        [seeds] float64, NaN where no episode ended there.
    """
    last = max(1, num_updates // 10)
    episodes = np.asarray(metrics.episodes)[:, -last:].sum(1)
    returns = np.asarray(metrics.return_sum, np.float64)[:, -last:].sum(1)
    return np.where(episodes > 0, returns / np.maximum(episodes, 1), np.nan)
