"""The compiled programs of a run: how it begins, and a chunk of updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from purejaxppo.config.schema import PPOConfig
from purejaxppo.hyperparams import Hyperparams
from purejaxppo.parallel import SEEDS, seed_mesh, side_by_side
from purejaxppo.tuning import compiler_options
from purejaxppo.types import Learner, LearnerState, Metrics

UPDATES_PER_CHUNK = 1000


class Programs(NamedTuple):
    """A run, compiled ahead of time; every leaf has a leading axis of seeds.

    Attributes:
        init: `(keys [S]) -> state`.
        run_chunk: `(state, n) -> (state, metrics)`, n updates, whose metrics are the first n of
            [S, UPDATES_PER_CHUNK]. The state is donated; n may differ from call to call.
        template: the state in shapes and dtypes.
        metrics: those of a chunk in shapes and dtypes.
        mesh: the devices that the seeds are spread over.
    """

    init: Callable[[jax.Array], LearnerState]
    run_chunk: Callable[[LearnerState, int], tuple[LearnerState, Metrics]]
    template: Any
    metrics: Any
    mesh: Mesh

    def place(self, tree: Any) -> Any:
        """Puts arrays of the host, with a leading axis of seeds, on the devices of those seeds."""
        return jax.device_put(tree, NamedSharding(self.mesh, P(SEEDS)))

    def compile(self, function: Callable[[Any], Any], template: Any) -> Callable[[Any], Any]:
        """Compiles another function of what the seeds have, ahead of time as the run's own are."""
        spread, options = NamedSharding(self.mesh, P(SEEDS)), compiler_options()
        return (
            jax.jit(function, in_shardings=(spread,), compiler_options=options)
            .lower(template)
            .compile()
        )


def unheard(phase: str) -> None:
    """Tells nobody what is done from here on.

    Args:
        phase: in a word or two.
    """


def compile_run(
    learner: Learner,
    seeds: int,
    config: PPOConfig,
    hyper: Hyperparams | None = None,
    announce: Callable[[str], None] = unheard,
) -> Programs:
    """Compiles the programs of a run.

    Args:
        learner: the run.
        seeds: S.
        config: its sizes.
        hyper: its hyperparameters; None: those of the configuration.
        announce: is told what is done from here on, while it takes its time.

    Returns:
        The programs.
    """
    most = min(config.num_updates, UPDATES_PER_CHUNK)

    def updates(state, length):
        def one(i, loop):
            # within a loop of unknown length, XLA copies the state of every loop in it at each
            # step; within one of length 1 in between, it does not (2% of the time of CartPole-v1)
            state, metrics = jax.lax.scan(lambda s, _: learner.update(s, hyper), loop[0], length=1)
            return state, jax.tree.map(lambda b, m: b.at[i].set(m[0]), loop[1], metrics)

        metrics = jax.eval_shape(learner.update, state, hyper)[1]
        empty = jax.tree.map(lambda m: jnp.zeros(most, m.dtype), metrics)
        return jax.lax.fori_loop(0, length, one, (state, empty))

    def run_chunk(state, length):
        return side_by_side(lambda one: updates(one, length))(state)

    mesh, options = seed_mesh(seeds), compiler_options()
    start = jax.shard_map(
        side_by_side(lambda key: learner.init(key, hyper)),
        mesh=mesh, in_specs=P(SEEDS), out_specs=P(SEEDS), check_vma=False,
    )  # fmt: skip
    run_chunk = jax.shard_map(
        run_chunk,
        mesh=mesh, in_specs=(P(SEEDS), P()), out_specs=P(SEEDS), check_vma=False,
    )  # fmt: skip
    spread = NamedSharding(mesh, P(SEEDS))
    keys = jax.ShapeDtypeStruct((seeds,), jax.random.key(0).dtype, sharding=spread)
    announce("tracing")
    init = jax.jit(start, compiler_options=options).lower(keys)
    chunk = jax.jit(
        run_chunk, donate_argnums=0, in_shardings=(spread, None), compiler_options=options
    ).lower(init.out_info, 1)
    announce("compiling")
    return Programs(init.compile(), chunk.compile(), init.out_info, chunk.out_info[1], mesh)
