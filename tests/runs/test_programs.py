"""One program for all values: what differs in numbers alone is compiled once."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from purejaxppo import PPOConfig, fit, make_learner
from purejaxppo.components import make_components
from purejaxppo.parallel import SEEDS, make_mesh
from purejaxppo.runs import compiled as module
from purejaxppo.runs.compiled import ROWS_PER_CHUNK, compiled, given_to, lower_run
from purejaxppo.sharding import spread_over

SMALL = dict(
    num_envs=2, num_steps=4, num_minibatches=2, num_epochs=2, total_timesteps=80, hidden_sizes=(4,)
)
CLIP = PPOConfig(
    **SMALL, value_loss="clipped", entropy_coef=0.01, target_kl=0.1, clip_eps_final_scale=0.5,
    entropy_coef_final_scale=0.5,
)  # fmt: skip
ADAPTIVE = PPOConfig(
    **SMALL, objective="adaptive_kl", value_loss="huber", normalize_rewards=True,
    normalize_observations=True, max_grad_norm=None,
)  # fmt: skip


def with_other_floats(config):
    """A configuration that differs in every number that it may differ in."""
    default, changes = PPOConfig(), {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and field.name in config.hyperparams()._fields:
            changes[field.name] = value / 2 + 0.001
    while True:  # those without an effect may not be set
        try:
            return config.replace(**changes), set(changes)
        except ValueError as error:
            idle = [name for name in changes if re.search(rf"\b{name}=", str(error))]
            assert idle and all(getattr(config, n) == getattr(default, n) for n in idle), error
            del changes[idle[0]]


def spread(config, seeds=1, **parts):
    """A run over its devices."""
    return spread_over(make_components(config, **parts), make_mesh(seeds), SEEDS)


def texts(config, seeds=1):
    lowered = lower_run(spread(config, seeds), seeds, given_to(config))
    return [program.as_text() for program in lowered]


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [CLIP, *(pytest.param(c, marks=pytest.mark.slow) for c in (
        ADAPTIVE, CLIP.replace(core="gru", core_size=4, env="Pendulum-v1"),
    ))]
)  # fmt: skip
def test_configurations_that_differ_in_numbers_alone_have_one_program(config):
    other, changed = with_other_floats(config)
    assert {"learning_rate", "gamma", "gae_lambda", "adam_eps", "value_coef"} < changed
    other = other.replace(total_timesteps=20 * config.total_timesteps)
    one, two = texts(config), texts(other)
    assert one == two
    assert len(one[1]) > 10_000
    # what is switched off is another program
    assert texts(config.replace(max_grad_norm=None if config.max_grad_norm else 0.5))[1] != one[1]


@pytest.mark.slow
def test_a_second_fit_of_other_numbers_compiles_nothing(monkeypatch):
    compilations = []
    original = jax.stages.Lowered.compile

    def compile(self, *args, **options):
        compilations.append(self)
        return original(self, *args, **options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile)
    how = {"seeds": 2, "eval_every": 40, "eval_episodes": 2}
    first = fit(CLIP, **how)
    before = len(compilations)
    assert before in (0, 3)  # beginning, chunk, evaluation
    second = fit(with_other_floats(CLIP)[0].replace(total_timesteps=120), **how)
    assert len(compilations) == before
    assert (first.metrics.episodes.shape, second.metrics.episodes.shape) == ((2, 10), (2, 15))
    # they are the numbers of each configuration nonetheless
    np.testing.assert_allclose(first.metrics.learning_rate[0], CLIP.learning_rate)
    scale = second.metrics.learning_rate[0] / (CLIP.learning_rate / 2 + 0.001)
    np.testing.assert_allclose(scale, 1 - np.arange(15) / 15 * (1 - 0.501), rtol=1e-5)


@pytest.mark.slow
def test_what_an_evaluation_does_not_read_may_have_another_shape_in_the_next_fit():
    """The evaluation reads no statistics of rewards, of which the second fit has more."""
    for envs in (2, 4):
        config = CLIP.replace(num_envs=envs, normalize_rewards=True, total_timesteps=16)
        result = fit(config, eval_every=16, eval_episodes=3)
        assert np.isfinite(result.best.returns).all()


def test_arguments_that_a_program_does_not_read_are_of_one_shape():
    program = jax.jit(lambda x, y: x + 1)
    for size in (2, 3, 2):
        lowered = program.lower(jnp.float32(1), jnp.zeros(size))
        assert compiled(lowered)(jnp.float32(1), jnp.zeros(size)) == 2


def test_programs_that_call_python_are_compiled_each_time():
    heard = []

    def program(name):
        def tell(x):
            io_callback(lambda: heard.append(name), None, ordered=True)
            return x + 1

        return compiled(jax.jit(tell).lower(1.0))

    one, two = program("one"), program("two")
    one(1.0), two(1.0)
    jax.effects_barrier()
    assert heard == ["one", "two"]


def test_a_class_that_is_defined_again_is_another_program():
    def program():
        class Pair:
            def __init__(self, x):
                self.x = x

        jax.tree_util.register_pytree_node(Pair, lambda p: ((p.x,), None), lambda _, x: Pair(*x))
        lowered = jax.jit(lambda x: Pair(x * 2)).lower(1.0)
        return type(compiled(lowered)(3.0)), Pair

    for given, wanted in (program(), program()):
        assert given is wanted


@pytest.mark.slow
def test_the_last_few_programs_are_kept():
    def program(factor):
        return compiled(jax.jit(lambda x: x * factor).lower(1.0))

    first = program(0.25)
    assert program(0.25) is first
    for factor in range(module.PROGRAMS_KEPT):
        program(float(factor) + 2)
    assert len(module._kept) == module.PROGRAMS_KEPT
    assert program(0.25) is not first


def test_chunks_of_many_seeds_are_short():
    """So that the rows of a chunk, which wait on the device, are never gigabytes."""
    seeds = 2 * ROWS_PER_CHUNK // 1000
    config = PPOConfig(**SMALL)
    chunk = lower_run(spread(config, seeds), seeds, given_to(config))[1]
    assert chunk.out_info[1].episodes.shape == (seeds, ROWS_PER_CHUNK // seeds)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "updates"), [(0, 10), (5, 10), (5, 20), (30, 20)])
def test_schedules_run_over_the_number_of_updates_that_is_given(learner, step, updates):
    state = learner.init(jax.random.key(0)).replace(step=jnp.int32(step))
    _, metrics = update_of(learner)(state, num_updates=updates)
    wanted = CLIP.learning_rate * (1 - min(step / updates, 1))
    np.testing.assert_allclose(metrics.learning_rate, wanted, rtol=1e-6, atol=1e-12)


@pytest.fixture(scope="module")
def learner():
    return make_learner(CLIP.replace(learning_rate_final_scale=0.0))


UPDATES = {}


def update_of(learner):
    return UPDATES.setdefault(learner, jax.jit(learner.update))
