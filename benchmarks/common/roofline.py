"""The speed at which the matrix products of a training run alone would go."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

import purejaxppo
from benchmarks.common.timing import seconds_of
from purejaxppo import PPOConfig
from purejaxppo.components import make_components
from purejaxppo.policies.torsos import torso_for
from purejaxppo.runs.plan import plan_of
from purejaxppo.spaces import Discrete

SECONDS_PER_RATE = 0.05


def flops_per_step(config: PPOConfig) -> int:
    """Floating-point operations of the matrix products, per environment step.

    A forward pass takes 2 fan_in fan_out for each dense layer. It is done once in the rollout, and
    three times (forward, gradient of the inputs, gradient of the weights) in every epoch, but that
    the first layers need no gradient of their inputs. Values of final observations, activations and
    all else are not counted. CartPole, two times 64 wide, 4 epochs:

        actor   2 (4 x 64 + 64 x 64 + 64 x 2) = 8,960
        critic  2 (4 x 64 + 64 x 64 + 64 x 1) = 8,832     forward 17,792 (18 kFLOP)
        epoch   3 x 17,792 - 2 x 2 x 4 x 64   = 52,352    (52 kFLOP)
        step    17,792 + 4 x 52,352           = 227,200   (227 kFLOP)
    """
    spec = make_components(config).spec
    if torso_for(config.torso, spec.observation) != "mlp":
        raise ValueError("only dense layers are counted: pass a configuration with torso='mlp'")
    inputs, outputs = (
        space.n if isinstance(space, Discrete) else math.prod(space.shape)
        for space in (spec.observation, spec.action)
    )
    towers = 1 if config.shared_torso else 2
    tower = sum(a * b for a, b in pairwise((inputs, *config.hidden_sizes)))
    forward = 2 * (towers * tower + config.hidden_sizes[-1] * (outputs + 1))
    first = 2 * towers * inputs * config.hidden_sizes[0]
    return forward + config.num_epochs * (3 * forward - first)


def matrix_products(config: PPOConfig, seeds: int) -> tuple[Callable, float]:
    """A program of matrix products at a point's sizes, and its floating-point operations.

    Its rows are those that training takes through the network at once: a chunk, not a minibatch
    that leaves the cache, beside which chunks would look better than they are.

    Each product reads the one before, so none can be left out, and the matrix is orthogonal, so
    the numbers stay what they are.
    """
    rows, width = plan_of(make_components(config)).chunk, config.hidden_sizes[0]
    lead = (seeds,) if seeds > 1 else ()
    matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0]
    w = jnp.broadcast_to(jnp.float32(matrix), (*lead, width, width)).copy()
    x = jax.random.normal(jax.random.key(0), (*lead, rows, width))

    def compiled(length):
        def products(x, w):
            # unrolled, so that no copy into the loop's buffer is timed with every product
            return jax.lax.scan(lambda x, _: (x @ w, None), x, length=length, unroll=8)[0]

        program = jax.jit(products, compiler_options=purejaxppo.compiler_options())
        program = program.lower(x, w).compile()
        return lambda: program(x, w)

    length = 8
    while True:
        function = compiled(length)
        jax.block_until_ready(function())
        seconds = seconds_of(function)
        if seconds > 0.7 * SECONDS_PER_RATE:
            return function, 2.0 * length * seeds * rows * width * width
        length = 8 * math.ceil(length / 8 * min(64, 1.2 * SECONDS_PER_RATE / seconds))
