"""What differs between devices follows the device that is compiled for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.common.shapes import CNN, SHAPES, Shape
from purejaxppo import ConfigError, PPOConfig, compiled_for, compiler_options, make_learner, tuning
from purejaxppo.ppo.shuffle import permutations

SMALL = PPOConfig(num_envs=4, num_steps=8, num_minibatches=2, hidden_sizes=(8,), total_timesteps=64)

MEASURED = {
    "c": SHAPES["c"],
    "d": SHAPES["d"],
    "e": SHAPES["e"],
    "f": SHAPES["f"],
    "cnn": Shape(CNN),
    "gru": Shape(SHAPES["b"].config.replace(core="gru", normalize_rewards=True)),
}
"""Of the benchmarks' shapes, those that are not another one with other sizes; and two networks."""


def longest_unroll(function, *args):
    """The most turns that a scan in a program makes one of."""
    text = str(jax.make_jaxpr(function)(*args))
    return max(int(part.split()[0]) for part in text.split("unroll=")[1:])


def shuffled(key):
    return permutations(key, 2, 8)


def test_a_platform_is_chosen_for_what_is_traced_inside():
    assert tuning.unroll("shuffle") == 1
    with compiled_for("cuda"):
        assert tuning.unroll("shuffle") == 24
        with compiled_for("cpu"):
            assert tuning.unroll("shuffle") == 1
        assert tuning.unroll("shuffle") == 24
    assert tuning.unroll("shuffle") == 1


def test_a_jitted_function_is_traced_anew_for_another_platform():
    """Else it would be what it was for the first."""
    function, key = jax.jit(shuffled), jax.random.key(0)
    assert longest_unroll(function, key) == 1
    with compiled_for("tpu"):
        assert longest_unroll(function, key) == 24
    assert longest_unroll(function, key) == 1


def test_the_default_device_counts():
    with jax.default_device("tpu"):
        assert tuning.platform_in_use() == "tpu"
    with jax.default_device(jax.devices("cpu")[0]):
        assert tuning.platform_in_use() == "cpu"


def test_options_are_those_of_the_platform():
    for platform, prefix in {"cpu": "xla_cpu_", "gpu": "xla_gpu_", "cuda": "xla_gpu_"}.items():
        with compiled_for(platform):
            assert any(name.startswith(prefix) for name in compiler_options())
    with compiled_for("tpu"):
        assert compiler_options() == {}


def test_no_platform_is_refused():
    words = r"platform='cdua' must be one of cpu, gpu, .*: use 'gpu'"
    with pytest.raises(ConfigError, match=words), compiled_for("cdua"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"normalize_rewards": True, "core": "gru"}])
def test_the_program_of_a_gpu_learns_the_same(changes):
    """Run on this device: loops unrolled, draws at once, one vector, all rows in one pass."""
    learner = make_learner(SMALL.replace(**changes))
    state = jax.jit(learner.init)(jax.random.key(1))
    here, metrics = jax.jit(learner.update)(state)
    with compiled_for("cuda"):
        there, others = jax.jit(learner.update)(state)
    close = lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-5)  # noqa: E731
    jax.tree.map(close, here.params, there.params)
    jax.tree.map(close, metrics, others)
    np.testing.assert_array_equal(here.episode_start, there.episode_start)
    assert jnp.issubdtype(there.step.dtype, jnp.integer)


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_a_program_for_a_gpu_is_the_same_on_every_host(name, monkeypatch):
    """Whatever its own devices are, and whichever name the platform is called by."""
    config, seeds = MEASURED[name]

    def lowered(platform, host):
        # what was traced before would not ask for the host again
        jax.clear_caches()
        monkeypatch.setattr(jax, "default_backend", lambda: host)
        learner = make_learner(config)
        update = jax.vmap(lambda state: learner.update(state)) if seeds > 1 else learner.update
        init = jax.vmap(lambda key: learner.init(key)) if seeds > 1 else learner.init
        key = jax.random.key(0)
        with compiled_for(platform):
            state = jax.eval_shape(init, jax.random.split(key, seeds) if seeds > 1 else key)
            traced = jax.jit(update).trace(state)
            return traced.lower(lowering_platforms=("cuda",)).as_text()

    assert lowered("cuda", host="cpu") == lowered("gpu", host="tpu")


@pytest.mark.parametrize(
    ("changes", "agents", "expected"),
    [
        ({}, 1, True),  # 128 rows x 64 x 64
        ({}, 16, False),
        ({"num_envs": 64}, 1, False),
        ({"hidden_sizes": (256, 64)}, 1, False),
        ({"num_envs": 1024, "num_steps": 1, "num_minibatches": 64}, 1, False),
        ({"core": "gru", "core_size": 64, "num_envs": 16, "num_steps": 32}, 1, True),
        ({"core": "gru", "core_size": 512, "num_envs": 16, "num_steps": 32}, 1, False),
        ({"exploration": "rnd"}, 1, False),
        ({"exploration": "rnd", "exploration_size": 64}, 1, True),
        ({"env": "Breakout-MinAtar"}, 1, False),
        ({"env": "Breakout-MinAtar", "torso": "mlp"}, 1, True),
        ({"env": "craftax/Craftax-Classic-Pixels-v1"}, 1, False),
    ],
)
def test_one_thread_is_for_few_rows_of_narrow_networks(changes, agents, expected):
    config = PPOConfig(num_envs=4, num_steps=128, num_minibatches=4).replace(**changes)
    assert tuning.one_thread(config, agents) == expected
