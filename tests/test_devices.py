"""One agent over several devices. JAX's devices are fixed at its start: each test is a process."""

import pytest
from jax.sharding import AbstractMesh
from support.processes import on_devices

from purejaxppo import PPOConfig
from purejaxppo.components import make_components
from purejaxppo.config.sizes import check_shares
from purejaxppo.errors import ConfigError
from purejaxppo.sharding import check_spread

START = """
from functools import partial
from jax.sharding import PartitionSpec as P
from purejaxppo import PPOConfig, fit, make_learner, make_mesh, shard_environments
from purejaxppo.components import make_components
from purejaxppo.parallel import ENVS
from purejaxppo.train import learner_of

SIZES = dict(num_envs=8, num_steps=8, total_timesteps=256, num_minibatches=2, hidden_sizes=(8,))
"""

# updates on rollouts that are given: one device collects them, and rows are not shuffled, so that
# a gradient step has the same rows on any number of devices
GIVEN = (
    START
    + """
from unittest.mock import patch
import optax
from purejaxppo.ppo.objectives import Objective, clip
from purejaxppo.ppo.rollout import collect

def in_order(key, size, epochs, parts):
    return jnp.tile(jnp.arange(size, dtype=jnp.int32).reshape(parts, -1), (epochs, 1))

def two_rollouts(parts, state):
    def one_more(state, key):
        envs, steps = parts.vectorize(parts.config.num_envs), parts.config.num_steps
        here, kept = (parts.policy, parts.critic, envs, steps), parts.config.recompute_advantages
        return collect(*here, state, parts.env_params, key, keep_final_obs=kept)

    step = jax.jit(one_more)
    state, first = step(state, jax.random.key(1))
    return first, step(state, jax.random.key(2))[1]

def updates(config, state, rollouts, devices, **custom):
    learner = shard_environments(config, make_mesh(devices=devices), **custom)
    envs = config.num_envs // devices

    def update(state, rollout):
        def share(*given):
            first = jax.lax.axis_index(ENVS) * envs
            own = partial(jax.lax.dynamic_slice_in_dim, start_index=first, slice_size=envs, axis=1)
            return given[4], jax.tree.map(own, rollout)

        with (
            patch("purejaxppo.train.collect", share),
            patch("purejaxppo.ppo.update.minibatch_indices", in_order),
        ):
            return learner.update(state)

    step = jax.jit(update)
    one, metrics = step(state, rollouts[0])
    return one, metrics, *step(one, rollouts[1])
"""
)


@pytest.mark.slow
def test_gradients_and_statistics_on_several_devices_are_those_of_the_whole_batch():
    """One step of size 1 against gradients per row, and statistics against NumPy's.

    Of gradient descent without clipping: a mean that is silently a sum would be off by the number
    of devices, where Adam and clipping by the norm would hide it.
    """
    on_devices(
        8,
        GIVEN
        + """
from purejaxppo.ppo.minibatches import as_batch
from purejaxppo.train import loss_of

def logged(dist, log_prob, batch, hyper, state):
    loss = clip(log_prob, batch.log_prob, batch.advantage, hyper.clip_eps)
    return loss, {"square": batch.advantage**2, "product": batch.advantage * batch.value}

keeps_kl = Objective(
    logged, init=lambda hyper: jnp.float32(0), adapt=lambda state, kl, hyper: kl
)
config = PPOConfig(
    env="CartPole-v1", env_options=("max_steps=12",), num_envs=16, num_steps=16, num_epochs=1,
    num_minibatches=1, total_timesteps=1024, hidden_sizes=(8,), max_grad_norm=None,
    normalize_observations=True, normalize_rewards=True,
)
custom = dict(objective=keeps_kl, optimizer=lambda hyper: optax.sgd(1.0))
parts = make_components(config, **custom)
start = jax.jit(learner_of(parts).init)(jax.random.key(0))
rollouts = two_rollouts(parts, start)
found = {n: updates(config, start, rollouts, n, **custom) for n in (1, 2, 4, 8)}
for devices in (2, 4, 8):
    same(found[devices], found[1], rtol=2e-5, atol=2e-6)

# what all of them must be, by NumPy over both rollouts, [2T, N]
first, second = rollouts
whole = jax.tree.map(lambda *x: np.concatenate(x).astype(float), first, second)
one, _, two, metrics = found[8]
close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
seen = np.asarray(whole.obs).reshape(-1, 4)
close(two.normalizers.obs.count, len(seen))
close(two.normalizers.obs.mean, seen.mean(0))
close(two.normalizers.obs.var, seen.var(0))

discounted, returns = np.zeros(16), []
done = (whole.terminated + whole.truncated) > 0
for reward, ended in zip(whole.reward, done):
    discounted = 0.99 * discounted + reward
    returns.append(discounted)
    discounted = np.where(ended, 0, discounted)
close(two.normalizers.reward.stats.mean, np.mean(returns))
close(two.normalizers.reward.stats.var, np.var(returns))
close(two.normalizers.reward.discounted_return, discounted)

# the metrics of the second update
ended = done[16:]
assert whole.terminated[16:].any() and whole.truncated[16:].any()
assert metrics.episodes == ended.sum() > 8
close(metrics.return_sum, whole.episode_return[16:][ended].sum())
close(metrics.length_sum, whole.episode_length[16:][ended].sum())
scaled = whole.reward[16:] / np.sqrt(np.var(returns) + 1e-8)
value, after, stop = whole.value[16:], whole.next_value[16:], whole.terminated[16:] > 0
advantage, last = np.zeros((17, 16)), ended
for t in reversed(range(16)):
    delta = scaled[t] + 0.99 * after[t] * ~stop[t] - value[t]
    advantage[t] = delta + 0.99 * 0.95 * ~ended[t] * advantage[t + 1]
advantage = advantage[:16]
target = advantage + value
close(metrics.explained_variance, 1 - np.var(target - value) / np.var(target), atol=1e-4)
advantage = (advantage - advantage.mean()) / advantage.std()
close(metrics.extra["square"], 1)
close(metrics.extra["product"], np.mean(advantage * value), atol=1e-5)

# the gradient: the mean over rows of each row's own
old = seen[: len(seen) // 2]
obs = (whole.obs[16:] - old.mean(0)) / np.sqrt(old.var(0) + 1e-8)
f32 = lambda x: jnp.asarray(x, jnp.float32)
batch = as_batch(second, f32(obs.clip(-10, 10)), f32(advantage), f32(target))
loss = lambda params, row: loss_of(parts, config.hyperparams(), ())(
    params, jax.tree.map(lambda x: x[None], row)
)[0]
rows = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(one.params, batch)
gradient = jax.tree.map(lambda x: np.asarray(x, float).mean(0), rows)
moved = jax.tree.map(lambda a, b: np.asarray(a, float) - b, one.params, two.params)
assert max(np.abs(x).max() for x in leaves(gradient)) > 0.1
same(moved, gradient, rtol=1e-3, atol=1e-5)
norm = np.sqrt(sum((x**2).sum() for x in leaves(gradient)))
close(metrics.grad_norm, norm, rtol=1e-3)

# and how far the policy has moved
def probabilities(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)

before = probabilities(np.asarray(batch.dist.logits, float))
dist = parts.policy.apply(two.params, batch.carry, batch.obs, batch.episode_start)[1]
after = probabilities(np.asarray(dist.logits, float))
kl = (before * np.log(before / after)).sum(-1).mean()
assert kl > 1e-3
close(two.objective_state, kl, rtol=1e-3)
""",
    )


@pytest.mark.slow
def test_updates_on_several_devices_are_those_of_one():
    """With memories, masks, normalised, and with a penalty that adapts: several steps of Adam."""
    on_devices(
        8,
        GIVEN
        + """
from support.probes import Dials

for devices, env, changes in (
    (4, None, dict(
        core="gru", core_size=4, sequence_length=4, normalize_observations=True,
        normalize_rewards=True, value_loss="clipped", entropy_coef=0.01,
        recompute_advantages=True, advantage="vtrace",
    )),
    (2, Dials(), dict(
        objective="adaptive_kl", advantage_normalization="batch", chunk_size=16, target_kl=1e-4,
        recompute_advantages=True,
    )),
    (8, None, dict(
        env="Pendulum-v1", objective="kl_penalty", advantage_normalization="none",
        normalize_observations=True, state_dependent_std=True,
    )),
):
    config = PPOConfig(**SIZES | dict(learning_rate=0.01) | changes)
    parts = make_components(config, env=env)
    start = jax.jit(learner_of(parts).init)(jax.random.key(0))
    rollouts = two_rollouts(parts, start)
    one = updates(config, start, rollouts, 1, env=env)
    several = updates(config, start, rollouts, devices, env=env)
    same(several, one, rtol=1e-3, atol=1e-5)
    steps = config.num_epochs * config.num_minibatches
    taken = int(one[1].gradient_steps)
    assert taken == steps if config.target_kl is None else 0 < taken < steps, (taken, steps)
""",
    )


@pytest.mark.slow
def test_devices_speak_to_each_other_once_per_gradient_step():
    """And at most four times more per update, whatever is switched on: counted in the program.

    Once more per epoch where each has advantages of its own.
    """
    on_devices(
        2,
        START
        + """
import re

for changes in (
    {},
    {"recompute_advantages": True},
    {"normalize_observations": True, "normalize_rewards": True, "env": "Pendulum-v1",
     "value_loss": "clipped", "target_kl": 0.01, "chunk_size": 8},
    {"core": "gru", "core_size": 4, "objective": "adaptive_kl", "normalize_rewards": True,
     "normalize_observations": True, "normalize_values": True, "advantage_normalization": "batch"},
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
    loops = 2 if config.recompute_advantages else 1
    assert inside == loops and 1 <= outside <= 4, (changes, inside, outside)
""",
    )


@pytest.mark.slow
def test_every_option_works_on_several_devices():
    """In few programs, for each takes seconds to compile: fields that do not meet, together."""
    on_devices(
        2,
        START
        + """
import dataclasses
from typing import get_args, get_type_hints

VARIANTS = [
    PPOConfig(
        **SIZES, advantage="n_step", n_step=3, objective="kl_penalty", value_loss="clipped",
        target_kl=10, advantage_normalization="batch", max_grad_norm=None, reset_batch=2,
        layer_norm=True, activation="relu", info_metrics=("discount",),
        env_options=("max_steps=6",), learning_rate_final_scale=0.5, kl_coef=0.5, gamma=0.9,
        value_clip_eps=0.1, matmul_precision="high", learning_rate_schedule="cosine",
        learning_rate_warmup=0.5, optimizer="adamw", weight_decay=0.1, adam_b1=0.8, adam_b2=0.9,
        exploration="rnd", exploration_size=4,
        exploration_coef=0.1, exploration_gamma=0.9,
    ),
    PPOConfig(
        **SIZES, advantage="vtrace", recompute_advantages=True, vtrace_rho=1.5, vtrace_c=0.9,
        objective="adaptive_kl", value_loss="huber",
        advantage_normalization="none", core="gru", core_size=4, sequence_length=4, chunk_size=8,
        activation="silu", entropy_coef=0.01, entropy_coef_final_scale=0.5, huber_delta=0.5,
        adaptive_kl_target=0.02, compute_dtype="bfloat16", optimizer="muon", momentum=0.9,
        learning_rate_schedule="kl_adaptive", desired_kl=0.02, learning_rate_min=1e-4,
        learning_rate_max=1.0, entropy_coef_schedule="cosine", entropy_coef_warmup=0.5,
    ),
    PPOConfig(
        **SIZES, advantage="td", objective="unclipped", core="linear", core_size=4, torso="mlp",
        shared_torso=True, activation="gelu", env="Pendulum-v1", squash_actions=True,
        normalize_rewards=True, learning_rate=1e-3, adam_eps=1e-7, matmul_precision="highest",
        learning_rate_schedule="kl_adaptive", adapt_learning_rate="update",
    ),
    PPOConfig(
        **SIZES, core="lstm", core_size=4, activation="elu", env="Pendulum-v1",
        state_dependent_std=True, normalize_observations=True, gae_lambda=0.9, value_coef=1,
        clip_eps=0.1, clip_eps_final_scale=0.5, clip_eps_schedule="cosine", clip_eps_warmup=0.5,
        learning_rate_schedule="constant", optimizer="sgd", normalize_values=True,
    ),
    PPOConfig(
        **SIZES, env="Breakout-MinAtar", torso="cnn", advantage="none", num_epochs=1,
        optimizer="rmsprop", rms_decay=0.9, rms_eps=1e-3, entropy_coef=0.1,
        entropy_coef_schedule="constant", clip_eps_schedule="constant",
        value_loss="categorical", value_bins=21, value_min=-10, value_max=20, value_symlog=False,
        value_sigma=1,
    ),
    PPOConfig(
        **SIZES, env="support.probes:Dials", actor_observation=("target", "time"),
        critic_observation=("target", "board"), torso="mlp", normalize_observations=True,
        critic_hidden_sizes=(4,),
    ),
    PPOConfig(
        **SIZES, core="gtrxl", core_size=4, core_heads=2, core_window=3, core_layers=1,
        sequence_length=4, shared_torso=True,
    ),
    PPOConfig(**SIZES, core="mingru", core_size=4, shared_torso=True),
    PPOConfig.a2c(num_envs=4, num_steps=5, total_timesteps=20, hidden_sizes=(8,)),
    PPOConfig.reinforce(num_envs=4, num_steps=8, total_timesteps=32, hidden_sizes=(8,)),
]
# networks alone, which know nothing of devices; those of images take long to compile
ELSEWHERE = {("torso", "nature"), ("torso", "impala")}
hints = get_type_hints(PPOConfig)
for field in dataclasses.fields(PPOConfig):
    taken = {getattr(config, field.name) for config in VARIANTS}
    choices = {c for c in get_args(hints[field.name]) if isinstance(c, str)}
    missing = {(field.name, choice) for choice in choices - taken}
    assert missing <= ELSEWHERE and (choices or taken != {field.default}), (field.name, missing)

mesh = make_mesh(devices=2)
for config in VARIANTS:
    learner = shard_environments(config, mesh)

    def run(key):
        return learner.update(learner.init(key))

    # parameters and metrics are equal on both, and finite
    state, metrics = jax.jit(run)(jax.random.key(0))
    learned = () if state.exploration == () else state.exploration.params
    same = state.params, state.opt_state, state.schedule_state, learned, metrics
    for x in jax.tree.leaves(same):
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
def test_two_seeds_on_eight_devices_are_each_on_four():
    """A mesh of 2 x 4, as `fit` makes it, against each seed's own four devices.

    States of the environment have an array without an element, as those of simulators do.
    """
    on_devices(
        8,
        START
        + """
config = PPOConfig(
    **SIZES, env="support.probes:Walk", normalize_observations=True, normalize_rewards=True
)
both = fit(config, seeds=2, devices=8, seed=3)
used = {d for x in jax.tree.leaves(both.state.obs) for d in x.devices()}
assert used == set(jax.devices())
assert {x.sharding.spec for x in jax.tree.leaves(both.state.obs)} == {P("seeds", "envs")}

learner = shard_environments(config, make_mesh(devices=4))
alone = jax.jit(lambda key: jax.lax.scan(
    lambda state, _: learner.update(state), learner.init(key), length=config.num_updates
))
for i, key in enumerate(jax.random.split(jax.random.key(3), 2)):
    state, metrics = alone(key)
    same(jax.tree.map(lambda x: x[i], both.state), state, rtol=1e-3, atol=1e-5)
    same(jax.tree.map(lambda x: x[i], both.metrics), metrics, rtol=1e-3, atol=1e-5)
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

# and a run goes on there, beyond where it was
more = fit(config, devices=8, run_dir=root / "8", resume=True, **options)
assert more.metrics.policy_loss.shape == (2, 4)
same(jax.tree.map(lambda x: x[:, :2], more.metrics), first.metrics)
assert np.isfinite(more.metrics.policy_loss).all()
""",
    )


@pytest.mark.slow
def test_agents_on_two_devices_learn_as_on_one():
    """64 seeds each: returns over a run of CartPole-v1 have the same mean, and the same spread.

    Both at 0.005: in one of a hundred changes of last digits, equal ones would be taken for others.
    Over the whole run, in which episodes of every agent end: two updates at its end may see none.
    """
    on_devices(
        2,
        START
        + """
from scipy import stats

config = PPOConfig.preset("CartPole-v1", total_timesteps=20_000)
returns = []
for devices in (1, 2):
    learner = shard_environments(config, make_mesh(devices=devices))
    train = lambda key: jax.lax.scan(
        lambda state, _: learner.update(state), learner.init(key), length=config.num_updates
    )
    keys = jax.random.split(jax.random.key(devices), 64)
    metrics = jax.jit(jax.vmap(train))(keys)[1]
    returns.append(np.sum(metrics.return_sum, axis=1) / np.sum(metrics.episodes, axis=1))
assert stats.ttest_ind(*returns, equal_var=False).pvalue > 0.005, returns
assert stats.levene(*returns).pvalue > 0.005, returns
assert np.mean(returns, axis=1).min() > 60, returns  # from 20
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
        check_shares(config, devices, config.num_steps if config.core == "gru" else None)
    # what is offered works
    offered = int(words.rsplit("use ", 1)[1]) if "use " in words else None
    if offered is not None:
        check_shares(config.replace(num_envs=offered), devices)


def test_a_chunk_that_is_offered_is_whole_sequences():
    config = PPOConfig(
        core="gru", sequence_length=6, num_steps=6, num_envs=12, num_minibatches=2, chunk_size=12,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"chunk_size=12 must divide the 18 .*: use 6"):
        check_shares(config, 2, 6)
    check_shares(config.replace(chunk_size=6), 2, 6)


def test_a_memory_of_ones_own_is_shared_out_in_whole_sequences():
    config = PPOConfig(num_envs=4, num_steps=8, num_minibatches=4)
    own = make_components(config.replace(core="gru")).policy
    components = make_components(config, policy=own)
    with pytest.raises(ConfigError, match="num_minibatches=4 must divide the 1 sequences"):
        check_spread(components, AbstractMesh((1, 4), ("seeds", "envs")))


@pytest.mark.slow
def test_the_plan_says_what_is_trained_where(tmp_path):
    """Nothing is run for it; and what cannot be shared out is refused before a folder is made."""
    on_devices(
        4,
        f"""
from purejaxppo import PPOConfig
from purejaxppo.cli.main import run
from purejaxppo.cli.train import describe_mesh
from purejaxppo.components import make_components
from purejaxppo.runs.plan import plan_of

sizes = dict(num_envs=4, num_steps=8, total_timesteps=64, hidden_sizes=(4,))
parts = make_components(PPOConfig(**sizes))

def words(*asked):
    return describe_mesh(plan_of(parts, *asked).mesh, parts.config)

assert words() == "; on 1 of 4 devices"  # one agent: on one device, unless more are asked for
assert words(3) == "; on 3 of 4 devices"
assert words(4) == "; on 4 devices"
assert words(1, 2) == "; on 2 of 4 devices, 2 environments of an agent on each"
assert words(2, "all") == "; on 4 devices, 2 environments of an agent on each"

for more in (["--devices", "3"], ["--devices", "9"], ["--devices", "4", "--num-minibatches", "16"]):
    folder = {str(tmp_path)!r} + "/refused"
    given = "CartPole-v1 --num-envs 4 --num-steps 8 --total-timesteps 64 --hidden-sizes 4"
    assert run("train", *given.split(), *more, "--run-dir", folder) == 2
    assert not os.path.exists(folder)
""",
    )
