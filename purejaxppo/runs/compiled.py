"""The compiled programs of a run: how it begins, and a chunk of updates.

Hyperparameters and the number of updates are arguments of them: runs that differ in these alone
have the same programs, which are compiled once where programs are kept.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from purejaxppo.config.schema import PPOConfig
from purejaxppo.hyperparams import Hyperparams
from purejaxppo.parallel import SEEDS, in_turns, place, platform_of, shardings_of, side_by_side
from purejaxppo.processes import process_count
from purejaxppo.runs.vary import ALIKE, Own
from purejaxppo.sharding import Spread
from purejaxppo.tuning import compiled_for, compiler_options, platform_in_use
from purejaxppo.types import Array, EnvParams, Learner, LearnerState, Metrics

UPDATES_PER_CHUNK = 1000
ROWS_PER_CHUNK = 2**20  # updates of all seeds: so many thousands of them have shorter chunks
PROGRAMS_KEPT = 64  # of this process: three of a run, and a sweep comes back to many shapes

_kept: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
_lock = threading.Lock()


class Programs(NamedTuple):
    """A run, compiled ahead of time; every leaf has a leading axis of seeds.

    Attributes:
        init: `(keys [S]) -> state`, or `(keys [S], own)` with other values of the seeds' own.
        run_chunk: `(state, n) -> (state, metrics)`, n updates, whose metrics are the first n of
            [S, the most updates of a chunk]; or `(state, n, own)`. The state is donated; n may
            differ from call to call.
        template: the state in shapes and dtypes.
        metrics: those of a chunk in shapes and dtypes.
        mesh: the devices that seeds and environments are spread over.
        specs: where on it each array of the state is.
        at_once: how many seeds of a device are computed together; None: all that it has.
    """

    init: Callable[..., LearnerState]
    run_chunk: Callable[..., tuple[LearnerState, Metrics]]
    template: Any
    metrics: Any
    mesh: Mesh
    specs: LearnerState
    at_once: int | None

    @property
    def most(self) -> int:
        """Returns the most updates of a chunk."""
        return self.metrics.episodes.shape[1]

    def place(self, tree: Any, specs: Any = None) -> Any:
        """Puts arrays of the host, with a leading axis of seeds, on the devices that have them.

        Args:
            tree: the arrays.
            specs: where each of them is; None: with its seed.
        """
        return place(tree, self.mesh, P(SEEDS) if specs is None else specs)

    def compile(self, function: Callable[[Any], Any], template: Any) -> Callable[[Any], Any]:
        """Compiles another function of what the seeds have, ahead of time as the run's own are."""
        spread = NamedSharding(self.mesh, P(SEEDS))
        to = NamedSharding(self.mesh, read_at())
        program = jax.jit(function, in_shardings=(spread,), out_shardings=to)
        with compiled_for(platform_of(self.mesh)):
            return compiled(program.lower(template))


class Given(NamedTuple):
    """What a run is given beside its keys: arguments of its programs, the same for every seed."""

    hyper: Hyperparams
    updates: Array  # () int32, of the whole run: what schedules run over


def unheard(phase: str) -> None:
    """Tells nobody what is done from here on.

    Args:
        phase: in a word or two.
    """


def read_at() -> P:
    """Says where results are that the host reads: with their seeds, or with every process."""
    return P(SEEDS) if process_count() == 1 else P()


def compile_run(
    spread: Spread,
    seeds: int,
    config: PPOConfig,
    hyper: Hyperparams | None = None,
    announce: Callable[[str], None] = unheard,
    at_once: int | None = None,
    own: Own = ALIKE,
    begins: bool = True,
) -> Programs:
    """Compiles the programs of a run.

    Args:
        spread: the run over its devices.
        seeds: S.
        config: its sizes.
        hyper: its hyperparameters; None: those of the configuration.
        announce: called with the name of each phase as it begins: tracing, compiling.
        at_once: how many seeds of a device are computed together; None: all that it has.
        own: what each seed has of its own.
        begins: seeds are to begin with them; if they only go on, `init` is not compiled.

    Returns:
        The programs.
    """
    given = place(given_to(config, hyper), spread.mesh, P())
    own = place(own, spread.mesh, P(SEEDS))
    with compiled_for(platform_of(spread.mesh)):
        announce("tracing")
        init, chunk = lower_run(spread, seeds, given, at_once, own)
        # in shapes and dtypes alone: what is compiled for it later says itself where it is
        template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), init.out_info)
        announce("compiling")
        # what is given stays on the devices from call to call
        start = compiled(init) if begins else init
        run_chunk = compiled(chunk)
    return Programs(
        lambda keys, own=own: start(keys, given, own),
        lambda state, length, own=own: run_chunk(state, length, given, own),
        template,
        chunk.out_info[1],
        spread.mesh,
        spread.specs,
        at_once,
    )


def most_updates(seeds: int) -> int:
    """Returns the most updates of a chunk.

    Args:
        seeds: of the run.
    """
    return max(1, min(UPDATES_PER_CHUNK, ROWS_PER_CHUNK // seeds))


def given_to(config: PPOConfig, hyper: Hyperparams | None = None) -> Given:
    """Returns what the programs of a run are given beside its keys.

    Args:
        config: what is trained.
        hyper: its hyperparameters; None: those of the configuration.
    """
    hyper = config.hyperparams() if hyper is None else hyper
    scalars = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hyper._replace(extra=()))
    extra = jax.tree.map(jnp.asarray, hyper.extra)
    return Given(scalars._replace(extra=extra), jnp.int32(config.num_updates))


def lower_run(
    spread: Spread, seeds: int, given: Given, at_once: int | None = None, own: Own = ALIKE
) -> tuple[Any, Any]:
    """Traces the programs of a run.

    Args:
        spread: the run over its devices.
        seeds: S.
        given: what the run is given beside its keys.
        at_once: how many seeds of a device are computed together; None: all that it has.
        own: what each seed has of its own, or its shapes.

    Returns:
        `(keys, given, own) -> state` and `(state, n, given, own) -> (state, metrics)`, lowered.
    """
    learner, mesh, specs, env_params = spread
    init = init_of(learner, env_params, at_once)
    run_chunk = chunk_of(learner, env_params, most_updates(seeds), at_once)

    shard = partial(jax.shard_map, mesh=mesh, check_vma=False)
    by_seed, everywhere = NamedSharding(mesh, P(SEEDS)), NamedSharding(mesh, P())
    keys = jax.ShapeDtypeStruct((seeds,), jax.random.key(0).dtype, sharding=by_seed)
    # said twice where the state is: arrays without an element would else be everywhere
    start = jax.jit(
        shard(init, in_specs=(P(SEEDS), P(), P(SEEDS)), out_specs=specs),
        in_shardings=(by_seed, everywhere, by_seed), out_shardings=shardings_of(mesh, specs),
    )  # fmt: skip
    init_lowered = start.lower(keys, given, own)
    chunk = jax.jit(
        shard(run_chunk, in_specs=(specs, P(), P(), P(SEEDS)), out_specs=(specs, P(SEEDS))),
        donate_argnums=0, in_shardings=(shardings_of(mesh, specs), None, everywhere, by_seed),
        out_shardings=(shardings_of(mesh, specs), NamedSharding(mesh, read_at())),
    )  # fmt: skip
    return init_lowered, chunk.lower(init_lowered.out_info, 1, given, own)


def init_of(
    learner: Learner, env_params: EnvParams, at_once: int | None = None
) -> Callable[[Array, Given, Own], LearnerState]:
    """Makes the function that begins agents side by side.

    Args:
        learner: one of them.
        env_params: of all of their environments, where they have none of their own.
        at_once: how many of them are computed together; None: all.

    Returns:
        `(keys [S], given, own) -> state`.
    """

    def init(keys, given, own):
        def one(seed):
            key, own = seed
            return learner.init(key, own.hyperparams(given.hyper), own.params(env_params))

        return side_by_side(one, at_once)((keys, own))

    return init


def chunk_of(
    learner: Learner, env_params: EnvParams, most: int, at_once: int | None = None
) -> Callable[[LearnerState, Any, Given, Own], tuple[LearnerState, Metrics]]:
    """Makes the function that updates agents side by side so many times.

    Args:
        learner: one of them.
        env_params: of all of their environments, where they have none of their own.
        most: updates at most.
        at_once: how many of them are computed together; None: all.

    Returns:
        `(state [S], n, given, own) -> (state, metrics)`, whose metrics are the first n of [S,
        most], and zeros behind them.
    """

    def run_chunk(state, length, given, own):
        def update(state, own):
            hyper, params = own.hyperparams(given.hyper), own.params(env_params)
            return learner.update(state, hyper, params, given.updates)

        def one(i, loop):
            # within a loop of unknown length, XLA copies the state of every loop in it at each
            # step; within one of length 1 in between, it does not (2% of the time of CartPole-v1)
            state, all_metrics, own = loop
            state, metrics = jax.lax.scan(lambda x, _: update(x, own), state, length=1)
            return state, jax.tree.map(lambda b, m: b.at[i].set(m[0]), all_metrics, metrics), own

        # the places of all metrics are made at once: with the states they are what every turn of
        # seeds finds and leaves behind
        of_seed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (state, own))
        metrics = jax.eval_shape(update, *of_seed)[1]
        empty = jax.tree.map(lambda m: jnp.zeros((len(state.step), most), m.dtype), metrics)
        together = side_by_side(lambda begun: jax.lax.fori_loop(0, length, one, begun))
        return in_turns(together, (state, empty, own), at_once)[:2]

    return run_chunk


def compiled(lowered: Any) -> Any:
    """Compiles a program, or returns what this process has compiled of the same text before.

    Args:
        lowered: the program.

    Returns:
        What is called. Programs that call back into Python are compiled each time: their text does
        not say what they call.
    """
    options, text = compiler_options(), lowered.as_text()
    hoisted = jax.config.jax_use_simplified_jaxpr_constants  # pyright: ignore
    if "callback" in text or hoisted:
        return lowered.compile(options)
    # what it does not read is not in its text, and must have the same shapes all the same
    given = [(x.shape, x.dtype) for x in jax.tree.leaves(lowered.args_info)]
    key = hashlib.sha256(f"{platform_in_use()} {options} {given} {text}".encode()).hexdigest()
    trees = lowered.in_tree, lowered.out_tree  # a class that is defined again is another one
    with _lock:
        before, program = _kept.get(key, (None, None))
        if before == trees:
            _kept.move_to_end(key)
            return program
    program = lowered.compile(options)
    with _lock:
        _kept[key] = trees, program
        while len(_kept) > PROGRAMS_KEPT:
            _kept.popitem(last=False)
    return program
