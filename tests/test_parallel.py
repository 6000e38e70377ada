"""Seeds spread over devices. JAX's devices are fixed at its start: each test is a process."""

from pathlib import Path

import jax
import numpy as np
import pytest
from support.processes import process as run_process

from purejaxppo import ConfigError, join_processes, make_mesh, vmap_over_devices

START = """
from purejaxppo import (
    PPOConfig, compiler_options, fit, make_train, use_cores, vmap_over_devices
)

config = PPOConfig(
    num_envs=4, num_steps=8, total_timesteps=96, num_minibatches=2, hidden_sizes=(8,)
)
"""


def process(code, **env):
    run_process(START + code, **env)


@pytest.mark.slow
def test_seeds_over_devices_are_those_of_one_device():
    process(
        """
train = make_train(config)
keys = jax.random.split(jax.random.key(0), 6)
one = jax.jit(jax.vmap(train))(keys)
two = jax.jit(vmap_over_devices(train))(keys)
used = {d for x in jax.tree.leaves(two) for d in x.devices()}
assert len(used) == 3 and len(jax.devices()) == 4, used  # 6 seeds are not cut in 4
same(one, two, rtol=1e-4, atol=1e-5)
same(two, jax.jit(vmap_over_devices(train))(keys))

alone = jax.jit(vmap_over_devices(train))(keys[:1])
assert {d for x in jax.tree.leaves(alone) for d in x.devices()} == {jax.devices()[0]}

rates = jnp.array([1e-3, 1e-2])
hyper = jax.vmap(lambda r: config.hyperparams().replace(learning_rate=r))(rates)
sweep = jax.jit(vmap_over_devices(train, (None, 0)))(keys[0], hyper)
same(sweep, jax.jit(jax.vmap(train, (None, 0)))(keys[0], hyper), rtol=1e-4, atol=1e-5)
""",
        JAX_NUM_CPU_DEVICES="4",
    )


@pytest.mark.slow
def test_fit_spreads_its_seeds():
    process(
        """
result = fit(config, seeds=4, seed=7)
assert {d for x in jax.tree.leaves(result.state) for d in x.devices()} == set(jax.devices())
assert len(jax.devices()) == 2 and len(result.metrics.episodes) == 4
keys = jax.random.split(jax.random.key(7), 4)
whole = jax.jit(vmap_over_devices(make_train(config)), compiler_options=compiler_options())(keys)
same(result.state, whole.state, rtol=1e-4, atol=1e-5)
same(result.metrics, whole.metrics, rtol=1e-4, atol=1e-5)
""",
        JAX_NUM_CPU_DEVICES="2",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cores", "seeds", "devices"),
    [(1, 8, 1), (2, 8, 2), (4, 6, 3), (4, 1, 1), (8, 5, 5), (4, 7, 1)],
)
def test_cores_that_can_have_equal_shares(cores, seeds, devices):
    process(f"""
os.sched_getaffinity = lambda pid: range({cores})
use_cores({seeds})
assert len(jax.devices()) == {devices}
use_cores(16)  # JAX has its devices: too late, and no error
assert len(jax.devices()) == {devices}
""")


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("how", ["JAX_NUM_CPU_DEVICES", "XLA_FLAGS"])
def test_a_number_of_devices_that_was_chosen_stays(how, number):
    flag = "--xla_force_host_platform_device_count=" if how == "XLA_FLAGS" else ""
    code = f"""
os.sched_getaffinity = lambda pid: range(5)
use_cores(5)
assert len(jax.devices()) == {number}
"""
    process(code, **{how: f"{flag}{number}"})


@pytest.mark.parametrize("in_axes", [(None, None), (0, 1), 1, (0,), (0, None, None)])
def test_only_leading_axes_are_spread(in_axes):
    with pytest.raises(ValueError, match="must be 0 for one of 2 arguments, and 0 or None for eac"):
        vmap_over_devices(lambda x, y: x, in_axes)(np.ones(1), np.ones(1))


def test_what_has_no_axis_cannot_be_spread():
    with pytest.raises(ValueError, match="of an argument that has none: use jax"):
        vmap_over_devices(lambda key: key)(jax.random.key(0))
    assert vmap_over_devices(lambda x, y: x * y, [0, None])(np.ones(2), 3.0).tolist() == [3, 3]


@pytest.mark.parametrize(
    ("seeds", "devices", "words"),
    [
        (1.5, 1, r"seeds=1.5 must be a whole number: use 2"),
        (0, 1, "seeds=0 must be at least 1"),
        (True, 1, r"seeds=True must be a number \(int\)"),
        (1, "2", r"devices='2' must be a number \(int\): use"),
        (1, 0, "devices=0 must be 1 to"),
    ],
)
def test_a_mesh_of_nothing(seeds, devices, words):
    with pytest.raises(ConfigError, match=words):
        make_mesh(seeds, devices)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((7777, 2, 0), "coordinator=7777 must be of type str: use 'localhost:7777'"),
        (("localhost:7777", "2", 0), r"num_processes='2' must be a number \(int\): use 2"),
        (("localhost:7777", 0, 0), "num_processes=0 must be at least 1"),
        (("localhost:7777", 2, None), "belong together: name all three"),
        (("localhost:7777", 2, 2), "process_id=2 must be one of 0 .. 1"),
    ],
)
def test_processes_that_cannot_be_joined(arguments, words):
    with pytest.raises(ConfigError, match=words):
        join_processes(*arguments)


TASKS = Path("/proc/self/task")


@pytest.mark.slow
@pytest.mark.skipif(not TASKS.is_dir(), reason="threads are listed there")
@pytest.mark.parametrize(
    ("seeds", "changes", "env", "threads"),
    [
        (1, {}, {}, 1),
        (1, {}, {"NPROC": "3"}, 3),
        (1, {"hidden_sizes": (256, 256)}, {}, None),
        (7, {"num_envs": 64}, {}, None),
        (1, {}, {"JAX_NUM_CPU_DEVICES": "1"}, None),
    ],
)
def test_small_steps_have_one_thread_unless_something_was_chosen(seeds, changes, env, threads):
    """The threads of XLA's pool are counted by their name; None: as many as there are cores."""
    config = {"num_envs": 4, "num_steps": 128} | changes
    code = f"""
from pathlib import Path
cores = len(os.sched_getaffinity(0))
os.sched_getaffinity = lambda pid: range(2)
before = dict(os.environ)
use_cores({seeds}, config=PPOConfig(**{config}))
assert os.environ == before  # nothing is left for processes that are started from here
jax.devices()
names = [path.read_text().strip() for path in Path({str(TASKS)!r}).glob("*/comm")]
assert names.count("tf_XLAEigen") == ({threads} or cores), names
"""
    process(code, **env)
