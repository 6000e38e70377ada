"""One agent over several devices. JAX's devices are fixed at its start: each test is a process."""

import pytest
from support.processes import on_devices

from purejaxppo import PPOConfig
from purejaxppo.config.sizes import check_shares
from purejaxppo.errors import ConfigError

START = """
from functools import partial
from jax.sharding import PartitionSpec as P
from purejaxppo import PPOConfig, fit, make_learner, make_mesh, shard_environments
from purejaxppo.components import make_components
from purejaxppo.parallel import ENVS
from purejaxppo.train import learner_of

SIZES = dict(num_envs=8, num_steps=8, total_timesteps=256, num_minibatches=2, hidden_sizes=(8,))
"""


@pytest.mark.slow
def test_gradient_steps_on_several_devices_are_those_of_one():
    """The same rows, in one minibatch: a mean that is silently a sum would be off by 4."""
    on_devices(
        4,
        START
        + """
from purejaxppo.ppo.minibatches import as_batch
from purejaxppo.ppo.rollout import collect
from purejaxppo.ppo.update import optimize
from purejaxppo.train import loss_of, minibatches_of

for changes in (
    {}, {"core": "gru", "core_size": 4}, {"advantage_normalization": "none"}, {"target_kl": 1e-5}
):
    config = PPOConfig(**{**SIZES, "num_minibatches": 1}, learning_rate=0.01, **changes)
    parts = make_components(config)
    learner, hyper = learner_of(parts), config.hyperparams()
    state = learner.init(jax.random.key(0))
    key = jax.random.key(1)
    vec_env = parts.vectorize(8)
    _, rollout = jax.jit(partial(collect, parts.policy, vec_env, 8))(state, parts.env_params, key)
    estimate = parts.advantage(rollout, hyper, config)
    as_rows = lambda rollout, a, t: as_batch(rollout, rollout.obs, a, t, parts.sequence_length)

    def steps(rollout, advantage, target, axis):
        batch = as_rows(rollout, advantage, target)
        return optimize(
            loss_of(parts, hyper, ()), parts.optimizer, hyper,
            minibatches_of(parts, state.params, batch), state.params, state.opt_state, batch, key,
            axis,
        )

    one = jax.jit(partial(steps, axis=None))(rollout, *estimate)
    mesh = make_mesh(devices=4)
    four = jax.jit(jax.shard_map(
        partial(steps, axis=ENVS), mesh=mesh, in_specs=P(None, ENVS), out_specs=P(),
        check_vma=False,
    ))(rollout, *estimate)
    same(one, four, rtol=1e-4, atol=1e-5)
""",
    )


@pytest.mark.slow
def test_devices_speak_to_each_other_once_per_gradient_step():
    """And at most four times more per update, whatever is switched on: counted in the program."""
    on_devices(
        2,
        START
        + """
import re

for changes in (
    {},
    {"normalize_observations": True, "normalize_rewards": True, "env": "Pendulum-v1",
     "value_loss": "clipped", "target_kl": 0.01, "chunk_size": 8},
    {"core": "gru", "core_size": 4, "objective": "adaptive_kl", "normalize_rewards": True,
     "normalize_observations": True, "advantage_normalization": "batch"},
):
    config = PPOConfig(**SIZES, **changes)
    learner = shard_environments(config, make_mesh(devices=2))
    state = jax.eval_shape(learner.init, jax.random.key(0))
    text = jax.jit(learner.update).lower(state).compile().as_text()
    # a collective stands in the body of the loop over gradient steps, or outside of all loops
    bodies = set(re.findall(r"body=%?([\\w.-]+)", text))
    inside, outside = 0, 0
    computation = ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            computation = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0]
        if re.search(r" (all-reduce|all-gather|all-to-all|reduce-scatter)(-start)?\\(", line):
            if computation in bodies:
                inside += 1
            else:
                outside += 1
    assert inside == 1 and 1 <= outside <= 4, (changes, inside, outside)
""",
    )


@pytest.mark.slow
def test_every_option_works_on_several_devices():
    """One update of each: parameters are equal on both, and finite."""
    on_devices(
        2,
        START
        + """
VARIANTS = [
    {}, {"advantage": "n_step", "n_step": 3}, {"advantage": "monte_carlo"}, {"advantage": "td"},
    {"objective": "kl_penalty"}, {"objective": "adaptive_kl"}, {"objective": "unclipped"},
    {"value_loss": "clipped", "target_kl": 0.01}, {"value_loss": "huber", "entropy_coef": 0.01},
    {"advantage_normalization": "batch", "max_grad_norm": None}, {"reset_batch": 2},
    {"advantage_normalization": "none", "chunk_size": 8}, {"layer_norm": True},
    {"core": "gru", "core_size": 4, "sequence_length": 4}, {"core": "lstm", "core_size": 4},
    {"core": "linear", "core_size": 4, "shared_torso": True}, {"env": "Breakout-MinAtar"},
    {"env": "Pendulum-v1", "squash_actions": True, "normalize_rewards": True},
    {"env": "Pendulum-v1", "state_dependent_std": True, "normalize_observations": True},
    {"env": "pgx/2048", "hidden_sizes": (4,)},
]
mesh = make_mesh(devices=2)
for config in [
    *(PPOConfig(**{**SIZES, **changes}) for changes in VARIANTS),
    PPOConfig.a2c(num_envs=4, num_steps=5, total_timesteps=20, hidden_sizes=(8,)),
    PPOConfig.reinforce(num_envs=4, num_steps=50, total_timesteps=200, hidden_sizes=(8,)),
]:
    learner = shard_environments(config, mesh)

    def run(key):
        return learner.update(learner.init(key))

    state, metrics = jax.jit(run)(jax.random.key(0))
    for x in jax.tree.leaves((state.params, state.opt_state, metrics)):
        first, second = (np.asarray(shard.data) for shard in x.addressable_shards)
        np.testing.assert_array_equal(first, second)
        assert np.isfinite(first).all(), config
    assert metrics.gradient_steps == config.num_epochs * config.num_minibatches
    # each device has environments of its own: they did not all draw alike
    obs = np.asarray(jax.tree.leaves(state.obs)[0])
    assert obs.shape[0] == config.num_envs
    assert not np.array_equal(obs[: config.num_envs // 2], obs[config.num_envs // 2 :]), config
    # a state on several devices has the shapes of one on one
    alone = jax.eval_shape(make_learner(config).init, jax.random.key(0))
    assert [x.shape for x in jax.tree.leaves(alone)] == [x.shape for x in jax.tree.leaves(state)]
""",
    )


@pytest.mark.slow
def test_a_checkpoint_of_four_devices_is_read_on_one_two_and_eight(tmp_path):
    """Parameters, statistics and best agents are the same; rows go on where they were."""
    on_devices(
        8,
        START
        + f"""
import shutil, warnings
from pathlib import Path
from purejaxppo import load_agents

root = Path({str(tmp_path)!r})
config = PPOConfig(**SIZES, normalize_observations=True, normalize_rewards=True)
options = dict(seeds=2, eval_every=64, eval_episodes=2)
first = fit(config.replace(total_timesteps=128), devices=4, run_dir=root / "four", **options)
used = {{d for x in jax.tree.leaves(first.state.obs) for d in x.devices()}}
assert used == set(jax.devices()[:4]), used
assert {{x.sharding.spec for x in jax.tree.leaves(first.state.obs)}} == {{P("seeds", "envs")}}

for devices in (1, 2, 8):
    folder = root / str(devices)
    shutil.copytree(root / "four", folder)
    # nothing is left to do: what was saved is what is loaded
    again = fit(
        config.replace(total_timesteps=128), devices=devices, run_dir=folder, resume=True, **options
    )
    same(again.state, first.state)
    same(again.best, first.best)
    same(again.metrics, first.metrics)
""",
    )


@pytest.mark.slow
def test_an_agent_on_two_devices_learns_as_on_one():
    """The returns of six seeds each: CartPole-v1 from 20 to over 80 in 40,000 steps."""
    on_devices(
        2,
        START
        + """
from purejaxppo import final_returns

config = PPOConfig.preset("CartPole-v1", total_timesteps=40_000)
one = final_returns(fit(config, seeds=6, devices=1).metrics)
several = [final_returns(fit(config, seed=i, devices=2).metrics)[0] for i in range(6)]
spread = np.sqrt((np.var(one) + np.var(several)) / 6)
assert abs(np.mean(one) - np.mean(several)) < 3 * spread, (one, several)
assert min(np.mean(one), np.mean(several)) > 80, (one, several)
""",
    )


# -- what cannot be shared out ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "devices", "words"),
    [
        ({"num_envs": 6}, 4, "num_envs=6 must be a multiple of the 4 devices .*: use 8"),
        ({"num_envs": 2}, 3, "num_envs=2 must be a multiple of the 3 devices .*: use 3"),
        ({"num_envs": 4, "num_steps": 3}, 4, "num_minibatches=4 must divide the 3 transitions"),
        ({"core": "gru", "num_envs": 4}, 2, "num_minibatches=4 must divide the 2 sequences"),
        ({"reset_batch": 4}, 4, "reset_batch=4 must not exceed the 2 environments of each"),
        ({"chunk_size": 50}, 8, "chunk_size=50 must divide the .* transitions that each of 8"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_by_name(changes, devices, words):
    config = PPOConfig(**{"num_envs": 8, "num_steps": 100, "total_timesteps": 48_000, **changes})
    with pytest.raises(ConfigError, match=words):
        check_shares(config, devices)
    # what is offered works
    offered = int(words.rsplit("use ", 1)[1]) if "use " in words else None
    if offered is not None:
        check_shares(config.replace(num_envs=offered), devices)


@pytest.mark.slow
def test_the_plan_says_what_is_trained_where(tmp_path):
    """And the command takes a number of devices, or all."""
    words = "train CartPole-v1 --num-envs 4 --num-steps 8 --total-timesteps 64 --hidden-sizes 4"
    on_devices(
        4,
        f"""
import contextlib, io, sys
from purejaxppo import cli

def plan(*more):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        folder = ["--run-dir", {str(tmp_path)!r} + "/" + "-".join(more)]
        assert cli.COMMANDS["train"]({words.split()[1:]!r} + [*more, *folder]) == 0
    return out.getvalue().splitlines()[0].partition(" of memory")[2]

assert plan() == ""
assert plan("--seeds", "4") == " per device; on 4 devices"
assert plan("--devices", "2") == " per device; on 2 devices, 2 environments of an agent on each"
both = plan("--devices", "all", "--seeds", "2")
assert both == " per device; on 4 devices, 2 environments of an agent on each", both

# what cannot be shared out is refused before a folder is made
from purejaxppo.cli.main import run
for more in (["--devices", "3"], ["--devices", "9"], ["--devices", "4", "--num-minibatches", "16"]):
    folder = {str(tmp_path)!r} + "/refused"
    assert run("train", *{words.split()[1:]!r}, *more, "--run-dir", folder) == 2
    assert not os.path.exists(folder)
""",
    )
