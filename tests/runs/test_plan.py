"""The memory of a run: as estimated, as compiled, and as seeds take turns where it is small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import PPOConfig
from purejaxppo.cli.main import run
from purejaxppo.components import make_components
from purejaxppo.errors import ConfigError, RunWarning
from purejaxppo.parallel import SEEDS, in_turns, make_mesh, side_by_side
from purejaxppo.runs import memory as module
from purejaxppo.runs.compiled import given_to, lower_run
from purejaxppo.runs.fit import fit_of
from purejaxppo.runs.memory import (
    USABLE,
    Footprint,
    critic_alone,
    footprint_of,
    held_by_layers,
    in_bytes,
    machine_bytes,
    memory_of,
    seen_of,
    shapes_of,
)
from purejaxppo.runs.options import FitOptions
from purejaxppo.runs.plan import plan_for, plan_of, seeds_played_at_once
from purejaxppo.sharding import spread_over
from purejaxppo.train import learner_of
from purejaxppo.tuning import compiled_for, compiler_options, nbytes

TINY = PPOConfig(
    num_envs=16, num_steps=64, num_minibatches=2, total_timesteps=1024 * 6, hidden_sizes=(8,)
)
OPTIONS = FitOptions(seeds=5, eval_every=2048, eval_episodes=2)
WIDE = dict(num_envs=64, num_minibatches=8, total_timesteps=64 * 128)


@pytest.fixture(scope="module")
def tiny():
    return make_components(TINY)


@pytest.fixture(scope="module")
def footprint(tiny):
    return footprint_of(tiny, shapes_of(tiny), OPTIONS.seeds, OPTIONS.eval_episodes)


# -- the estimate ------------------------------------------------------------------------------


def peak_of(components, seeds=1, at_once=None):
    """Bytes that the compiler sets aside for a chunk of updates."""
    spread = spread_over(components, make_mesh(seeds), SEEDS)
    chunk = lower_run(spread, seeds, given_to(components.config), at_once)[1]
    sizes = chunk.compile(compiler_options()).memory_analysis()
    taken = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    return taken - sizes.alias_size_in_bytes


def slow(*args):
    return pytest.param(*args, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "seeds"),
    [
        (PPOConfig(num_envs=64, num_steps=125, total_timesteps=8000), 1),
        slow(PPOConfig(num_steps=32, total_timesteps=256), 16),
        slow(PPOConfig(env="Breakout-MinAtar", shared_torso=True, hidden_sizes=(128,), **WIDE), 1),
        slow(
            PPOConfig(
                env="Pendulum-v1", num_envs=1024, num_steps=10, num_minibatches=32,
                hidden_sizes=(256, 256), normalize_observations=True, normalize_rewards=True,
                total_timesteps=10_240,
            ), 1,
        ),
        slow(PPOConfig(core="gru", **WIDE), 1),
        slow(PPOConfig(env="Breakout-MinAtar", recompute_advantages=True, **WIDE), 1),
        slow(PPOConfig(core="gru", sequence_length=25, recompute_advantages=True, **WIDE), 1),
        slow(PPOConfig(core="gtrxl", core_layers=1, core_window=16, **WIDE), 1),
    ],
    ids=[
        "wide", "seeds", "pictures", "large network", "memory", "pictures again", "memory again",
        "large memory",
    ],
)  # fmt: skip
def test_the_estimate_is_within_a_quarter_of_what_is_compiled(config, seeds):
    components = make_components(config)
    plan = plan_of(components, seeds, devices=1)
    assert plan.at_once is None
    np.testing.assert_allclose(plan.bytes_per_device, peak_of(components, seeds), rtol=0.25)


@pytest.mark.slow
def test_turns_take_as_little_as_is_estimated():
    components = make_components(PPOConfig(num_envs=16, num_steps=64, total_timesteps=1024))
    footprint = footprint_of(components, shapes_of(components), 9)
    few, all_at_once = (peak_of(components, 9, n) for n in (2, None))
    np.testing.assert_allclose(footprint.peak(9, 2), few, rtol=0.25)
    np.testing.assert_allclose(footprint.peak(9, 9), all_at_once, rtol=0.25)
    assert few < all_at_once / 2


def test_layers_are_held_once():
    """JAX keeps tanh(x) and 1 - tanh(x), and of a relu the mask too, in bytes."""
    for activation, number in (("tanh", 4), ("relu", 5)):
        components = make_components(PPOConfig(activation=activation))
        state = jax.eval_shape(learner_of(components).init, jax.random.key(0))
        given = (state.params, seen_of(state))
        layers = held_by_layers(components.policy, *given)
        assert layers == (4 * 64 * number, 64 * 4)  # actor and critic of two layers of 64
        assert held_by_layers(critic_alone(components.policy), *given).kept == layers.kept // 2


def test_each_of_several_devices_has_its_share_of_the_environments(tiny):
    whole, half = shapes_of(tiny), shapes_of(tiny, 2)
    assert half.rollout.reward.shape == (TINY.num_steps, TINY.num_envs // 2)
    assert nbytes(half.rollout) * 2 == nbytes(whole.rollout)
    assert nbytes(half.state.params) == nbytes(whole.state.params)
    assert footprint_of(tiny, half).working < footprint_of(tiny, whole).working


def test_the_plan_is_exact_about_updates_and_parameters():
    config = PPOConfig(num_envs=64, num_steps=125, total_timesteps=8000)
    plan = plan_of(make_components(config))
    # actor and critic of 4-64-64 with 2 actions and 1 value
    assert plan.parameters == 2 * (4 * 64 + 64 + 64 * 64 + 64) + 64 * 2 + 2 + 64 + 1
    assert (plan.updates, plan.timesteps) == (1, 8000)


# -- what there is -----------------------------------------------------------------------------


def test_a_container_may_take_less_than_the_machine_has(tmp_path, monkeypatch):
    limit, other = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    limit.write_text("12345678\n")
    other.write_text(f"{2**62}\n")
    monkeypatch.setattr(module, "CGROUPS", (str(limit), str(other)))
    assert machine_bytes() == 12_345_678
    limit.write_text("max\n")
    assert (machine_bytes() or 0) > 2**28


def test_the_devices_of_a_cpu_share_its_memory():
    whole = machine_bytes()
    assert memory_of(make_mesh()) == whole and (whole is None or whole > 2**28)


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (4_146_064, "4.15 MB"), (999_999, "1 MB"), (12e10, "120 GB"), (3e12, "3 TB")],
)
def test_bytes_in_words(count, words):
    assert in_bytes(int(count)) == words


# -- turns -------------------------------------------------------------------------------------


def test_as_many_seeds_as_fit_by_hand():
    one = Footprint(held=10, working=90)
    assert one.peak(seeds=8, at_once=8) == 800
    assert one.peak(seeds=8, at_once=2) == 80 + 2 * 10 + 2 * 90
    # four fifths of 1,000 are 800
    assert one.at_once(8, None) == one.at_once(8, 1000) == 8
    assert one.at_once(8, 999) == 7  # 799 - 80 = 719 for 100 each
    assert one.at_once(8, 350) == 2
    assert one.at_once(8, 100) == 1
    assert (one.most_seeds(99), one.most_seeds(100), one.most_seeds(1000)) == (0, 1, 90)
    assert one.peak(90, 1) <= 1000 < one.peak(91, 1)
    # where little is needed beside what is held, cutting seeds out would take more
    assert Footprint(held=100, working=10).at_once(2, 250) == 2


def test_on_a_cpu_as_many_seeds_as_stay_in_its_cache_are_updated_together():
    """Of 9 MiB: nine seeds that need one each; one of those that need more; elsewhere all."""
    small, large = Footprint(held=10, working=2**20), Footprint(held=10, working=2**24)
    with compiled_for("cpu"):
        assert [small.at_once(seeds, None) for seeds in (4, 9, 64)] == [4, 9, 9]
        assert large.at_once(64, None) == 1
        assert (
            small.at_once(64, 5 * 2**20) == 3
        )  # four fifths of the memory hold four, less what is held
    with compiled_for("cuda"):
        assert [one.at_once(64, None) for one in (small, large)] == [64, 64]


@pytest.mark.parametrize("at_once", [None, 1, 2, 3, 4, 6, 7, 9])
def test_every_row_has_one_turn(at_once):
    seen = []

    def function(rows):
        seen.append(len(rows["x"]))
        return {"x": 2 * rows["x"] + 1, "calls": rows["calls"] + 1}

    tree = {"x": jnp.arange(7.0), "calls": jnp.zeros((7, 2), jnp.int32)}
    after = jax.jit(lambda tree: in_turns(function, tree, at_once))(tree)
    np.testing.assert_array_equal(after["x"], 2 * np.arange(7) + 1)
    np.testing.assert_array_equal(after["calls"], 1)
    assert max(seen) <= (at_once or 7)
    # and what has other shapes than it is made of
    squares = side_by_side(lambda x: (x**2, x > 3), at_once)(tree["x"])
    np.testing.assert_array_equal(squares[0], np.arange(7) ** 2)
    np.testing.assert_array_equal(squares[1], np.arange(7) > 3)


@pytest.mark.slow
def test_a_run_in_turns_is_the_run_without(tiny, footprint, tmp_path):
    memory = int(footprint.peak(5, 2) / USABLE) + 1
    plan = plan_for(tiny, OPTIONS, memory)
    assert plan.at_once == 2  # of five
    assert plan.bytes_per_device == footprint.peak(5, 2)
    options = FitOptions(**{**vars(OPTIONS), "run_dir": str(tmp_path / "turns")})
    turns, together = fit_of(tiny, options, plan=plan), fit_of(tiny, OPTIONS)
    assert int(turns.state.step[4]) == TINY.num_updates
    for name in ("state", "metrics", "best"):
        jax.tree.map(close, getattr(turns, name), getattr(together, name))
    # a checkpoint is that of any run: here one goes on without turns
    longer = make_components(TINY.replace(total_timesteps=1024 * 7))
    options = FitOptions(**{**vars(options), "resume": True})
    with pytest.warns(RunWarning, match="goes on"):
        again = fit_of(longer, options)
    assert (again.resumed_at, int(again.state.step[0])) == (TINY.num_updates, 7)


def close(a, b):
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_agents_are_evaluated_in_turns_too(tiny):
    agents = {"weights": jnp.zeros((6, 100))}  # 400 bytes each
    assert seeds_played_at_once(tiny, agents, 2) == 6
    assert seeds_played_at_once(tiny, agents, 2, memory=3500) == 1


# -- what does not fit -------------------------------------------------------------------------


def test_too_many_seeds_are_refused_with_a_number_that_fits(tiny, footprint):
    memory = footprint.peak(20, 1)
    with pytest.raises(ConfigError, match=r"seeds=64 take about .* which has .*: use seeds=20$"):
        plan_of(tiny, 64, devices=1, episodes=OPTIONS.eval_episodes, memory=memory)
    # fewer seeds have longer chunks of updates, but never more than a thousand
    assert plan_of(tiny, 20, devices=1, episodes=2, memory=memory).at_once == 1


@pytest.mark.parametrize(
    ("changes", "name"), [({}, "num_envs"), slow({"num_envs": 1, "num_steps": 1024}, "num_steps")]
)
def test_too_large_a_rollout_is_refused_with_a_size_that_fits(tiny, changes, name):
    large = tiny._replace(config=TINY.replace(**changes))
    memory = int(0.6 * plan_of(large).bytes_per_device)
    wanted = f"num_envs={large.config.num_envs} takes about .* use {name}="
    with pytest.raises(ConfigError, match=wanted) as refused:
        plan_of(large, memory=memory)
    size = int(str(refused.value).rpartition("=")[2])
    smaller = large._replace(config=large.config.replace(**{name: size}))
    assert plan_of(smaller, memory=memory).bytes_per_device <= memory


@pytest.mark.slow
def test_too_large_a_network_is_refused(tiny):
    with pytest.raises(ConfigError, match="use a smaller network, such as hidden_sizes"):
        plan_of(tiny, memory=1000)


@pytest.mark.skipif(machine_bytes() is None, reason="how much there is cannot be known here")
def test_the_command_refuses_what_does_not_fit_before_it_makes_a_folder(tmp_path, capsys):
    words = ["--num-envs", str(2**20), "--num-steps", "1024", "--total-timesteps", str(2**31)]
    folder = tmp_path / "run"
    assert run("train", "CartPole-v1", *words, "--run-dir", str(folder)) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert "num_envs=1048576 takes about" in err and "use num_envs=" in err
    assert not folder.exists()
