"""Numbers that were wrong: each input, its neighbours, and the values that hold by arithmetic."""

import os
import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.probes import Aim, Choice, Constant, Endless, Match, Probe

from purejaxppo import ConfigError, Policy, PPOConfig, fit, make_learner, make_train
from purejaxppo.envs.wrappers import EpisodeStatistics
from purejaxppo.policies import Categorical
from purejaxppo.policies.networks import make_policy
from purejaxppo.ppo.collectives import moments, standardize
from purejaxppo.ppo.metrics import episode_sums
from purejaxppo.ppo.normalize import init_stats, normalize, scale_rewards, update_stats
from purejaxppo.spaces import Box, Discrete, EnvSpec, MultiBinary, MultiDiscrete
from purejaxppo.types import Metrics, RewardScaler, Rollout, RunningStats

SMALL = dict(
    num_envs=4, num_steps=8, num_minibatches=2, num_epochs=2, total_timesteps=64, hidden_sizes=(8,)
)  # fmt: skip
UPDATES, STEPS = 2, 4  # of SMALL: updates, and gradient steps of each
CONFIG = PPOConfig(**SMALL)


# -- statistics of constants, and of small spreads around large numbers --------------------------


@pytest.mark.parametrize("value", [123.456, -0.1, 1e7 + 1, 3e-30, 65504.0])
@pytest.mark.parametrize("batches", [1, 3])
def test_statistics_of_a_constant_are_the_constant_and_zero(value, batches):
    x = jnp.full((125, 8, 1), value, jnp.float32)
    stats = init_stats((1,))
    for _ in range(batches):
        stats = jax.jit(update_stats)(stats, x)
    assert stats.mean == np.float32(value)
    assert stats.var == 0.0
    np.testing.assert_array_equal(normalize(stats, x), jnp.zeros_like(x))


@pytest.mark.parametrize(("centre", "spread"), [(123.456, 1e-4), (1e7, 1.0), (-3e4, 0.01)])
def test_statistics_keep_a_small_spread_around_a_large_number(centre, spread):
    """Half above, half below; against NumPy in float64, of the numbers as float32 has them."""
    signs = np.random.default_rng(0).permuted(np.tile([-1, 1], (4, 500)), axis=1)
    x = (centre + spread * signs).astype(np.float32).reshape(4, 125, 8, 1)
    stats = init_stats((1,))
    for batch in x:
        stats = update_stats(stats, jnp.asarray(batch))
    # a mean of float32 can be off by half of its last digit, and by no more
    exact, digit = x.astype(np.float64), np.spacing(np.float32(abs(centre)))
    assert abs(float(stats.mean[0]) - exact.mean()) <= digit / 2
    np.testing.assert_allclose(stats.var, exact.var(), rtol=1e-4)
    standard = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-8)
    np.testing.assert_allclose(normalize(stats, x), standard, atol=digit / 2 / spread + 1e-4)


def test_statistics_of_integers_and_of_single_numbers_are_exact():
    stats = update_stats(init_stats((2,)), jnp.full((5, 3, 2), 255, jnp.uint8))
    np.testing.assert_array_equal([stats.mean, stats.var], [[255, 255], [0, 0]])
    alone = update_stats(init_stats(()), jnp.float32(123.456))
    assert (alone.mean, alone.var, alone.count) == (np.float32(123.456), 0, 1)


def test_statistics_of_constant_rewards_divide_by_the_variance_of_their_returns():
    """With gamma = 0 every discounted return is the reward itself, whose variance is 0."""
    scaler = RewardScaler(jnp.zeros(8), init_stats(()))
    reward = jnp.full((125, 8), 123.456)
    scaler, scaled = scale_rewards(scaler, reward, jnp.zeros((125, 8), bool), 0.0)
    assert scaler.stats.var == 0.0
    np.testing.assert_allclose(scaled, 123.456 * 1e4, rtol=1e-5)


def test_statistics_of_large_numbers_and_counts_do_not_overflow():
    """1e15 squared fits float32; the square times a count of 1e10 would not."""
    seen = RunningStats(jnp.zeros(()), jnp.ones(()), jnp.float32(1e10))
    stats = update_stats(seen, jnp.full(4000, 1e15))
    np.testing.assert_allclose(stats.mean, 1e15 * 4e-7, rtol=1e-4)
    np.testing.assert_allclose(stats.var, 1e30 * 4e-7, rtol=1e-4)


@pytest.mark.parametrize("axis", [None, 0, (0, 1), -1])
def test_moments_and_standard_values_of_a_constant_are_exact(axis):
    x = jnp.full((7, 5, 3), 123.456)
    found = moments(x, axis)
    mean, var = found.mean, found.variance
    assert mean.shape == var.shape == np.mean(x, axis).shape
    np.testing.assert_array_equal(mean, np.full(mean.shape, np.float32(123.456)))
    np.testing.assert_array_equal(var, np.zeros(var.shape))
    np.testing.assert_array_equal(standardize(x), np.zeros(x.shape))


def test_statistics_of_a_constant_are_exact_on_several_devices():
    x = jnp.full((4, 10, 2), 123.456)
    f = jax.vmap(lambda x: update_stats(init_stats((2,)), x, "devices"), axis_name="devices")
    np.testing.assert_array_equal(f(x).mean, np.full((4, 2), np.float32(123.456)))
    np.testing.assert_array_equal(f(x).var, np.zeros((4, 2)))


# -- episodes: long returns, many lengths ---------------------------------------------------------


def episode_return(rewards, start=0.0):
    """What `EpisodeStatistics` says after an episode of these rewards [T]."""

    class Paid(Endless):
        def step_env(self, key, state, action, params):
            obs, state, _, *rest = super().step_env(key, state, jnp.int32(0), params)
            return obs, state, action, *rest

    env = EpisodeStatistics(Paid())
    _, state = env.reset_env(jax.random.key(0), env.default_params)
    state = state.replace(episode_return=jnp.float32(start))

    def step(state, reward):
        _, state, *_, info = env.step_env(jax.random.key(0), state, reward, env.default_params)
        return state, info["episode_return"]

    return jax.jit(lambda: jax.lax.scan(step, state, rewards))()[1][-1]


@pytest.mark.parametrize("reward", [0.1, -0.1, 1 / 3])
def test_the_return_of_a_million_steps_is_right_to_one_in_a_million(reward):
    returned = episode_return(jnp.full(1_000_000, reward, jnp.float32))
    np.testing.assert_allclose(returned, 1e6 * float(np.float32(reward)), rtol=1e-6)


def test_a_return_grows_beyond_the_whole_numbers_of_float32():
    """16,777,216 + 1 is 16,777,216 in float32; a thousand of them are 1,000 more all the same."""
    np.testing.assert_allclose(episode_return(jnp.ones(1000), 2.0**24), 2**24 + 1000, rtol=1e-7)


def test_small_rewards_among_large_ones_are_counted():
    rewards = np.tile(np.float32([1e6, 0.01, -1e6, 0.01]), 2500)
    np.testing.assert_allclose(episode_return(jnp.asarray(rewards)), 50.0, rtol=1e-3)


def rollout(length, shape, returned=0.0):
    """What `episode_sums` reads of a rollout of episodes that end in every step."""
    values = dict.fromkeys(Rollout.__dataclass_fields__)
    values |= {"episode_return": jnp.full(shape, returned, jnp.float32), "info": {}}
    values |= {"terminated": jnp.ones(shape, bool), "truncated": jnp.zeros(shape, bool)}
    return Rollout(**values | {"episode_length": jnp.full(shape, length, jnp.int32)})


@pytest.mark.parametrize(
    ("length", "shape"), [(50_000, (1, 65_536)), (2**31 - 1, (2, 3)), (20_000, (128, 2048))]
)
def test_lengths_that_add_up_beyond_int32(length, shape):
    sums = jax.jit(episode_sums)(rollout(length, shape))
    total = length * shape[0] * shape[1]
    np.testing.assert_allclose(float(sums["length_sum"]), total, rtol=1e-6)
    assert sums["episodes"] == shape[0] * shape[1]


def test_returns_of_very_many_episodes_add_up():
    sums = episode_sums(rollout(1, (128, 2048), 0.1))
    np.testing.assert_allclose(float(sums["return_sum"]), 0.1 * 128 * 2048, rtol=1e-6)


# -- gradient steps: what they lead to is looked at -----------------------------------------------


def leaves_are_equal(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def all_finite(tree):
    floats = (x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating))
    return all(bool(jnp.isfinite(x).all()) for x in floats)


@pytest.fixture(scope="module")
def trained():
    """`(learning_rates [S], adam_eps [S]) -> TrainOutput [S]` of one compiled program."""
    train, hyper = make_train(CONFIG, env=Choice()), CONFIG.hyperparams()

    def run(learning_rate, adam_eps):
        # beyond what a configuration admits: a traced value cannot be known before
        given = hyper._replace(learning_rate=learning_rate, adam_eps=adam_eps)
        return train(jax.random.key(0), given)

    return jax.jit(jax.vmap(run))


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
def test_a_bad_learning_rate_among_several_is_left_out_and_the_others_train(trained, bad):
    eps = jnp.full(3, 1e-5)
    out = trained(jnp.array([1e-3, bad, 1e-2], jnp.float32), eps)
    alone = trained(jnp.array([1e-3, 1e-3, 1e-2], jnp.float32), eps)
    assert all_finite(out.state.params) and all_finite(out.state.opt_state)
    for i in (0, 2):
        both = [
            jax.tree.map(lambda x: x[i], (o.state.params, o.metrics))  # noqa: B023
            for o in (out, alone)
        ]
        assert leaves_are_equal(*both)
    if bad != 1e38:  # which is a number: what it leads to may be one too
        np.testing.assert_array_equal(out.metrics.skipped_steps[1], [STEPS] * UPDATES)
        np.testing.assert_array_equal(out.metrics.gradient_steps[1], [0] * UPDATES)
    np.testing.assert_array_equal(out.metrics.skipped_steps[0], [0] * UPDATES)


@pytest.mark.slow
def test_an_epsilon_of_nan_is_left_out_too(trained):
    out = trained(jnp.full(2, 1e-3), jnp.array([1e-5, jnp.nan]))
    assert all_finite(out.state.params) and all_finite(out.state.opt_state)
    np.testing.assert_array_equal(out.metrics.skipped_steps, [[0] * UPDATES, [STEPS] * UPDATES])


def broken_at(count, value):
    """A custom optimizer that gives `value` in a step, and small steps else."""

    def update(grad, state, params=None):
        step = jnp.where(state == count, value, -1e-3)
        return jax.tree.map(lambda g: step * jnp.ones_like(g), grad), state + 1

    return lambda hyper: optax.GradientTransformation(lambda params: jnp.int32(0), update)


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_step_of_a_custom_optimizer_that_is_not_finite_is_left_out(value):
    """With all others of its update, and its state: it is tried again, and left out again."""
    out = jax.jit(make_train(CONFIG, env=Choice(), optimizer=broken_at(1, value)))(
        jax.random.key(0)
    )
    assert all_finite(out.state.params)
    np.testing.assert_array_equal(out.metrics.skipped_steps, [STEPS, STEPS])
    np.testing.assert_array_equal(out.metrics.gradient_steps, [0, 0])


@pytest.mark.slow
def test_an_optimizer_state_that_overflows_is_not_kept():
    """Its updates are finite all the same: 1 / inf is 0, and nothing would ever be learned."""

    def update(grad, state, params=None):
        state = state * 1e20
        return jax.tree.map(lambda g: jnp.ones_like(g) / state, grad), state

    own = optax.GradientTransformation(lambda params: jnp.float32(1), update)
    out = make_train(CONFIG, env=Choice(), optimizer=lambda hyper: own)(jax.random.key(0))
    assert float(out.state.opt_state[1]) == 1.0
    np.testing.assert_array_equal(out.metrics.gradient_steps, [0, 0])
    np.testing.assert_array_equal(out.metrics.skipped_steps, [STEPS, STEPS])


# -- networks that compute in fewer bits -----------------------------------------------------------


class Low(nn.Module):
    """A custom network for two actions, or a number with its deviation, in any dtype."""

    dtype: jnp.dtype
    param_dtype: jnp.dtype = jnp.float32
    gaussian: bool = False

    @nn.compact
    def __call__(self, obs):
        def dense(size, name):
            return nn.Dense(size, dtype=self.dtype, param_dtype=self.param_dtype, name=name)

        h = nn.tanh(dense(16, "hidden")(obs))
        value = dense(1, "value")(h)[:, 0]
        if self.gaussian:
            return (dense(1, "mean")(h), dense(1, "log_std")(h)), value
        return dense(2, "logits")(h), value


LOW = [jnp.bfloat16, jnp.float16]


class Ones(nn.Module):
    """Equal logits of three choices, in a dtype."""

    dtype: Any

    @nn.compact
    def __call__(self, obs):
        logits = self.param("logits", nn.initializers.ones, (3,), self.dtype)
        rows = len(jax.tree.leaves(obs)[0])
        return jnp.tile(logits, (rows, 1)), jnp.zeros(rows, self.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("dtype", LOW)
def test_what_a_policy_gives_is_float32_whatever_it_computes_in(dtype, gaussian):
    seen = Box(np.full(1, -1.0), np.full(1, 1.0), (1,), np.dtype(np.float32))
    spec = EnvSpec(seen, seen if gaussian else Discrete(2))
    policy = make_policy(CONFIG, spec, Low(dtype, gaussian=gaussian))
    params = policy.init(jax.random.key(0))
    obs, start = jnp.ones((3, 1)), jnp.zeros(3, bool)
    _, dist, value = policy.apply(params, (), obs, start)
    action = dist.sample(jax.random.key(1))
    given = [dist, value, dist.log_prob(action), dist.entropy(), dist.kl(dist)]
    assert {x.dtype for x in jax.tree.leaves(given)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("action", [Discrete(3), MultiDiscrete((2, 1))], ids=["mask", "ranges"])
def test_choices_that_there_are_not_are_impossible_in_few_bits(dtype, action):
    """Their logits are float32's least, which is infinite in fewer bits: 0 times that is NaN."""
    seen = Box(np.full(1, -1.0), np.full(1, 1.0), (1,), np.dtype(np.float32))
    masked = isinstance(action, Discrete)
    spec = EnvSpec({"x": seen, "action_mask": MultiBinary((3,))} if masked else seen, action)
    policy = make_policy(CONFIG, spec, Ones(dtype))
    x, mask = jnp.ones((2, 1)), jnp.array([[True, False, True]] * 2)
    obs = {"x": x, "action_mask": mask} if masked else x
    params = policy.init(jax.random.key(0))

    def outcome(params):
        dist = policy.apply(params, (), obs, jnp.zeros(2, bool))[1]
        return dist.entropy().mean() + dist.kl(dist).mean(), dist.entropy()

    gradient, entropy = jax.grad(outcome, has_aux=True)(params)
    np.testing.assert_allclose(entropy, np.log(2), rtol=1e-6)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_a_network_in_bfloat16_takes_the_steps_that_one_in_float32_takes():
    """The ratio of a step is exactly 1 before anything moves, and target_kl is met as late."""
    config = CONFIG.replace(
        num_minibatches=4, num_epochs=4, num_steps=16, total_timesteps=128, target_kl=1e-3
    )
    taken = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        train = jax.jit(jax.vmap(make_train(config, env=Match(), policy=Low(dtype))))
        metrics = train(jax.random.split(jax.random.key(0), 8)).metrics
        kinds = {x.dtype.name for x in jax.tree.leaves(metrics)}
        assert kinds == {"float32", "int32"}
        taken[dtype] = metrics.gradient_steps.mean()
    assert taken[jnp.bfloat16] == pytest.approx(float(taken[jnp.float32]), rel=0.15)


def test_what_a_policy_of_three_functions_gives_is_float32():
    zeros = {"actor": jnp.zeros((1, 2), jnp.bfloat16), "critic": jnp.zeros(1, jnp.bfloat16)}

    def apply(params, carry, obs, episode_start):
        obs = obs.astype(jnp.bfloat16)
        return carry, Categorical(obs @ params["actor"]), obs @ params["critic"]

    own = Policy(lambda key: zeros, lambda batch_shape: (), apply)
    learner = make_learner(CONFIG, env=Match(), policy=own)
    state, metrics = jax.eval_shape(learner.update, jax.eval_shape(learner.init, jax.random.key(0)))
    assert {x.dtype.name for x in jax.tree.leaves(metrics)} == {"float32", "int32"}
    assert {x.dtype.name for x in jax.tree.leaves(state.params)} == {"bfloat16"}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [None, lambda hyper: optax.adamw(hyper.learning_rate)])
@pytest.mark.parametrize("dtype", LOW)
def test_parameters_of_fewer_bits_train_with_clipping(dtype, optimizer):
    config = CONFIG.replace(learning_rate=1e-2, max_grad_norm=0.5)
    learner = make_learner(config, env=Match(), policy=Low(dtype, dtype), optimizer=optimizer)
    state = learner.init(jax.random.key(0))
    after, metrics = jax.jit(learner.update)(state)
    assert (metrics.gradient_steps, metrics.skipped_steps) == (STEPS, 0)
    for before, now in zip(*map(jax.tree.leaves, (state.params, after.params)), strict=True):
        assert before.dtype == now.dtype == dtype
    assert not leaves_are_equal(state.params, after.params)
    # Adam's averages need digits that such parameters do not have
    moments = [x for x in jax.tree.leaves(after.opt_state) if x.ndim]
    assert {x.dtype for x in moments} == {np.dtype(np.float32)}


# -- bounds ---------------------------------------------------------------------------------------


class Bounded(Aim):
    """Actions within bounds of one's choice."""

    def __init__(self, low, high):
        super().__init__()
        self.bounds = low, high

    def action_space(self, params):
        import gymnasium

        low, high = (np.asarray(b, np.float32) for b in self.bounds)
        return gymnasium.spaces.Box(low, high, low.shape, np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("low", "high"),
    [([-3.4e38], [3.4e38]), ([-1.0, -2e38], [1.0, 2e38]), ([0.0, 1.0], [1.0, 1.0])],
)
def test_squashing_needs_a_width_that_float32_has(low, high):
    config = CONFIG.replace(squash_actions=True)
    with pytest.raises(ConfigError, match="squash_actions=True needs room"):
        make_train(config, env=Bounded(low, high))
    if low[0] < 0:  # without squashing they are bounds like others
        out = make_train(CONFIG, env=Bounded(low, high))(jax.random.key(0))
        np.testing.assert_array_equal(out.metrics.skipped_steps, [0] * UPDATES)


# -- JAX's switches -------------------------------------------------------------------------------


def test_debug_nans_is_quiet_where_no_episode_ended():
    counts = dict.fromkeys(Metrics.__dataclass_fields__, jnp.zeros(3))
    counts |= {"episodes": jnp.array([0, 2, 0]), "return_sum": jnp.array([0.0, 3.0, 0.0])}
    counts |= {"length_sum": jnp.array([0.0, 8.0, 0.0]), "extra": {}}
    metrics = Metrics(**counts)
    with jax.debug_nans(True):
        np.testing.assert_array_equal(metrics.episode_return, [np.nan, 1.5, np.nan])
        np.testing.assert_array_equal(metrics.episode_length, [np.nan, 4.0, np.nan])


@pytest.mark.slow
@pytest.mark.parametrize("env", [Endless(), Aim()])
def test_fit_runs_under_debug_nans_and_debug_infs(env, tmp_path):
    """Endless ends no episode in the rollout: its returns are NaN, without a 0 / 0."""
    config = CONFIG.replace(normalize_observations=True, normalize_rewards=True)
    with jax.debug_nans(True), jax.debug_infs(True):
        result = fit(
            config, seeds=2, env=env, eval_every=32, eval_episodes=1, run_dir=tmp_path / "run"
        )
    assert result.problems == []
    assert np.isfinite(result.metrics.value_loss).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"objective": "adaptive_kl", "advantage": "n_step", "n_step": 3},
        {"core": "gru", "normalize_observations": True, "normalize_rewards": True},
        {"core": "lstm", "advantage_normalization": "batch", "target_kl": 0.01},
        {"core": "linear", "value_loss": "huber", "layer_norm": True},
    ],
    ids=str,
)
def test_strict_promotion_of_dtypes_is_kept(options):
    """All of ours is traced; what is not ours, such as optax, runs under the standard rules."""
    with jax.numpy_dtype_promotion("strict"):
        for env in (Constant(), Aim()):
            train = make_train(CONFIG.replace(**options), env=env)
            out = jax.eval_shape(train, jax.random.key(0))
            jax.eval_shape(lambda m: (m.episode_return, m.episode_length), out.metrics)


WIDE = """
import sys, jax, numpy as np
jax.config.update("jax_enable_x64", {x64})
from purejaxppo import PPOConfig, load_agents, make_learner, make_population
from support.probes import Match, Aim
kinds = []
for env, options in [
    (Match(), {{}}), (Aim(), {{"core": "lstm", "squash_actions": True, "value_loss": "clipped"}}),
    (Match(), {{"core": "linear", "objective": "adaptive_kl", "learning_rate_final_scale": 0.0}}),
    (Aim(), {{"core": "gru", "normalize_observations": True, "normalize_rewards": True}}),
    (Match(), {{"advantage": "n_step", "n_step": 3, "target_kl": 0.01, "shared_torso": True}}),
    (Match(), {{"core": "gtrxl", "core_size": 8, "core_heads": 2, "optimizer": "muon"}}),
    (Match(), {{"core": "mingru", "exploration": "rnd", "normalize_values": True}}),
]:
    learner = make_learner(PPOConfig(**{small}, **options), env=env)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    state, metrics = jax.eval_shape(learner.update, state)
    kinds += [f"{{jax.tree_util.keystr(path)}} {{x.dtype}}"
              for path, x in jax.tree_util.tree_leaves_with_path((state, metrics))]
run = make_population(PPOConfig(**{small}), {{"learning_rate": "log:1e-4..1e-2"}}, env=Match())
output = jax.eval_shape(run, jax.random.key(0))
kinds += [str(x.dtype) for x in (output.scores, *output.hyperparams.values())]
print("\\n".join(kinds))
if {run!r}:
    _, agents = load_agents({run!r}, env=Match())
    print(sorted({{str(x.dtype) for x in jax.tree.leaves(agents)}}))
"""


@pytest.mark.slow
def test_x64_changes_no_dtype_and_agents_of_float32_load_under_it(tmp_path):
    """A run that normalises observations, and has a memory, written without it."""
    config = CONFIG.replace(normalize_observations=True, core="gru")
    fit(config, env=Match(), run_dir=tmp_path / "run")
    outputs = {}
    for x64 in (False, True):
        text = WIDE.format(x64=x64, small=SMALL, run=str(tmp_path / "run") if x64 else "")
        path = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), *sys.path])
        run = subprocess.run(
            [sys.executable, "-c", text], env=os.environ | {"PYTHONPATH": path},
            capture_output=True, text=True,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        outputs[x64] = run.stdout.splitlines()
    assert outputs[True][-1] == "['float32']"
    assert outputs[True][:-1] == outputs[False]
    assert not any("64" in line.split()[-1] for line in outputs[False])


class NotANumber(Probe):
    """Pays NaN in every step."""

    def pay(self, x, action):
        return jnp.float32(jnp.nan)


def test_nan_rewards_leave_parameters_as_they_were():
    learner = make_learner(CONFIG, env=NotANumber())
    state = learner.init(jax.random.key(0))
    after, metrics = jax.jit(learner.update)(state)
    assert leaves_are_equal(state.params, after.params)
    assert (metrics.gradient_steps, metrics.skipped_steps) == (0, STEPS)
