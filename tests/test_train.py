"""The whole program: pure, compiled once, the same for one run and for many side by side."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from support.probes import Aim, Choice, Constant, Endless, Params, Probe

from purejaxppo import (
    OBJECTIVES,
    ConfigError,
    Estimate,
    Hyperparams,
    Policy,
    PPOConfig,
    make_act,
    make_learner,
    make_train,
)
from purejaxppo.components import make_components
from purejaxppo.envs.registry import make_env
from purejaxppo.policies.distributions import Categorical, DiagGaussian
from purejaxppo.train import learner_of
from purejaxppo.types import RunningStats

UPDATES = 3
CONFIG = PPOConfig(
    num_envs=4, num_steps=8, total_timesteps=32 * UPDATES, num_epochs=2, num_minibatches=2,
    hidden_sizes=(8,), learning_rate=1e-2, learning_rate_final_scale=0.5, entropy_coef=0.01,
    normalize_observations=True, normalize_rewards=True,
)  # fmt: skip
PLAIN = CONFIG.replace(normalize_observations=False, normalize_rewards=False)
KEYS = jax.random.split(jax.random.key(5), 3)


def plain(tree):
    """NumPy leaves; keys as their data."""
    return jax.tree.map(
        lambda x: np.asarray(
            jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        ),
        tree,
    )


def same(a, b, **tolerance):
    """Equal to the bit, or within a tolerance."""
    a, b = plain(a), plain(b)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        if tolerance:
            np.testing.assert_allclose(x, y, **tolerance)
        else:
            np.testing.assert_array_equal(x, y)


def differs(a, b):
    pairs = zip(jax.tree.leaves(plain(a)), jax.tree.leaves(plain(b)), strict=True)
    return any((x != y).any() for x, y in pairs)


def row(tree, *index):
    return jax.tree.map(lambda x: x[index], tree)


def stack(*trees):
    return jax.tree.map(lambda *xs: jnp.stack([jnp.asarray(x) for x in xs]), *trees)


def traced(config):
    """The hyperparameters as arrays."""
    return jax.tree.map(jnp.float32, config.hyperparams())


# float32 of the same sums in another order, grown through 12 gradient steps; seen: 2e-7
CLOSE = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def run():
    """The compiled program of CONFIG."""
    return jax.jit(make_train(CONFIG))


@pytest.fixture(scope="module")
def out(run):
    return run(KEYS[0])


@pytest.fixture(scope="module")
def many():
    """All keys side by side in one program."""
    return jax.jit(jax.vmap(make_train(CONFIG)))(KEYS)


# -- compiled once ----------------------------------------------------------------------------


class Traced(Choice):
    """Counts how often Python steps it: only while a program is traced."""

    def __init__(self):
        super().__init__()
        self.traces = 0

    def step_env(self, *args):
        self.traces += 1
        return super().step_env(*args)


@pytest.mark.slow
def test_one_trace_for_every_key_and_every_hyperparameter():
    env = Traced()
    train = jax.jit(make_train(PLAIN, env=env))
    hyper = PLAIN.hyperparams()
    train(KEYS[0], hyper)
    traces = env.traces
    assert traces > 0
    first = train(KEYS[1], hyper).metrics
    second = train(KEYS[1], Hyperparams(*[x and x / 2 for x in hyper])).metrics
    assert env.traces == traces
    assert train._cache_size() == 1
    assert differs(first, second)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(normalize_observations=True, normalize_rewards=True),
        dict(objective="adaptive_kl", target_kl=0.1, max_grad_norm=None),
        dict(env="Pendulum-v1"),
        dict(env="FrozenLake-misc", shared_torso=True),
    ],
)
def test_an_update_gives_the_types_that_it_takes(changes):
    """To the weak type, so that a loop on the host compiles it once."""
    learner = make_learner(PLAIN.replace(**changes))
    state = jax.eval_shape(learner.init, KEYS[0])
    after, metrics = jax.eval_shape(learner.update, state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)
        assert not x.weak_type
    for x in jax.tree.leaves(metrics):
        assert x.shape == () and x.dtype in (jnp.float32, jnp.int32) and not x.weak_type


def primitives(jaxpr):
    """Names of the operations of a program, inside loops and branches too."""
    found = set()
    for equation in jaxpr.eqns:
        found.add(equation.primitive.name)
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= primitives(inner)
    return found


@pytest.mark.parametrize("changes", [{}, dict(env="Pendulum-v1", objective="adaptive_kl")])
def test_the_program_calls_neither_host_nor_lapack(changes):
    jaxpr = jax.make_jaxpr(make_train(CONFIG.replace(**changes)))(KEYS[0])
    assert "callback" not in str(jaxpr)
    found = primitives(jaxpr.jaxpr)
    assert {"scan", "dot_general", "random_split", "tanh", "cos"} <= found  # all of it is read
    host = {"infeed", "outfeed", "debug_print", "ffi_call"}
    lapack = {"qr", "geqrf", "householder_product", "svd", "eigh", "lu", "cholesky"}
    assert not found & (host | lapack)
    assert not [name for name in found if "callback" in name]


# -- pure -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_equal_calls_give_equal_bits(run, out):
    same(run(KEYS[0]), out)
    same(jax.jit(make_train(CONFIG))(KEYS[0]), out)
    assert differs(run(KEYS[1]).state.params, out.state.params)


def test_metrics_are_one_row_per_update_and_nothing_else_is(out):
    for x in jax.tree.leaves(out.metrics):
        assert x.shape == (UPDATES,)
    for x in jax.tree.leaves(plain(out.state)):
        assert UPDATES not in x.shape  # no other size is 3


def test_steps_and_annealing_by_hand(out):
    assert out.state.step == UPDATES
    # 0.01 (1 - p / 2) at p = 0, 1/3, 2/3
    np.testing.assert_allclose(out.metrics.learning_rate, [0.01, 0.05 / 6, 0.04 / 6], rtol=1e-5)
    np.testing.assert_array_equal(out.metrics.gradient_steps, [4] * UPDATES)
    np.testing.assert_array_equal(out.metrics.skipped_steps, [0] * UPDATES)


@pytest.mark.slow
def test_episode_sums_by_hand():
    """Every step of this environment is an episode that pays 1; twice that under its parameters."""
    metrics = jax.jit(make_train(PLAIN, env=Constant()))(KEYS[0]).metrics
    np.testing.assert_array_equal(metrics.episodes, [32] * UPDATES)
    np.testing.assert_array_equal(metrics.return_sum, [32.0] * UPDATES)
    np.testing.assert_array_equal(metrics.length_sum, [32] * UPDATES)
    np.testing.assert_array_equal(metrics.episode_return, [1.0] * UPDATES)
    np.testing.assert_array_equal(metrics.episode_length, [1.0] * UPDATES)
    twice = jax.jit(make_train(PLAIN, env=Constant(), env_params=Params(reward_scale=2.0)))
    np.testing.assert_array_equal(twice(KEYS[0]).metrics.return_sum, [64.0] * UPDATES)


@pytest.mark.slow
def test_no_episode_gives_nan_and_no_warning():
    metrics = jax.jit(make_train(PLAIN, env=Endless()))(KEYS[0]).metrics
    np.testing.assert_array_equal(metrics.episodes, [0] * UPDATES)
    assert np.isnan(metrics.episode_return).all() and np.isnan(metrics.episode_length).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics))


@pytest.mark.slow
def test_legacy_keys(many):
    legacy = jax.random.split(jax.random.PRNGKey(5), 3)
    assert (legacy.shape, legacy.dtype) == ((3, 2), jnp.uint32)
    same(jax.jit(jax.vmap(make_train(CONFIG)))(legacy), many)


@pytest.mark.slow
def test_a_mapping_is_read_and_left_alone(out):
    theirs = CONFIG.to_dict() | {"LR": CONFIG.learning_rate, "ENV_NAME": CONFIG.env}
    del theirs["learning_rate"], theirs["env"]
    before = dict(theirs)
    same(jax.jit(make_train(theirs))(KEYS[0]), out)
    make_learner(theirs)
    make_act(theirs, out.state)
    assert theirs == before
    with pytest.raises(ConfigError, match="unknown option 'gama'"):
        make_train({"gama": 0.5})


@pytest.mark.slow
def test_hyperparameters_that_are_passed_replace_those_of_the_configuration(run, out):
    """As constants of the program or as its arguments: the same numbers, rounded elsewhere."""
    same(run(KEYS[0], traced(CONFIG)).state.params, out.state.params, **CLOSE)
    other = CONFIG.replace(learning_rate=1e-3, gamma=0.9)
    passed = run(KEYS[0], traced(other))
    same(passed.state.params, jax.jit(make_train(other))(KEYS[0]).state.params, **CLOSE)


@pytest.fixture(scope="module")
def learner():
    """CONFIG's init and update, compiled."""
    init, update, _ = make_learner(CONFIG)
    return jax.jit(init), jax.jit(update)


@pytest.mark.slow
def test_draws_in_bulk_are_the_draws_of_each_step(out, monkeypatch):
    monkeypatch.setattr("purejaxppo.tuning.drawn_at_once", lambda: 0)
    same(jax.jit(make_train(CONFIG))(KEYS[0]), out, **CLOSE)


@pytest.mark.slow
@pytest.mark.as_shipped
def test_updates_one_by_one_are_the_whole_run(learner, out):
    init, update = learner
    state, rows = init(KEYS[0]), []
    for _ in range(UPDATES):
        state, metrics = update(state)
        rows.append(metrics)
    assert update._cache_size() == 1
    same(state, out.state)
    same(stack(*rows), out.metrics)


@pytest.mark.slow
def test_an_update_draws_from_the_key_of_its_state(learner):
    init, update = learner
    state = init(KEYS[0])
    first, second = update(state)[0], update(state.replace(key=jax.random.key(99)))[0]
    assert differs(first.obs, second.obs) and differs(first.params, second.params)
    keys = [state.key, first.key, second.key, update(first)[0].key]
    assert len(np.unique([jax.random.key_data(key) for key in keys], axis=0)) == 4


def test_annealing_stays_at_its_end(learner):
    """Who drives the updates may go on past num_updates: 0.01 has fallen to half of itself."""
    init, update = learner
    state = init(KEYS[0])
    for step in (UPDATES, 10 * UPDATES):
        _, metrics = update(state.replace(step=jnp.int32(step)))
        assert metrics.learning_rate == pytest.approx(0.005)


# -- side by side -----------------------------------------------------------------------------


def test_vmap_over_keys_is_each_run_by_itself(run, many):
    for i in range(3):
        same(row(many, i).metrics.episodes, run(KEYS[i]).metrics.episodes)
        same(row(many, i), run(KEYS[i]), **CLOSE)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert differs(row(many, i).state.params, row(many, j).state.params)


@pytest.mark.slow
def test_vmap_over_keys_and_hyperparameters(run):
    """[hyperparameters, keys]; each cell is the run of its own."""
    rates = jnp.array([1e-3, 1e-2])
    hyper = jax.tree.map(lambda x: jnp.full(2, x), traced(CONFIG)).replace(
        learning_rate=rates, gamma=jnp.array([0.9, 0.99])
    )
    train = make_train(CONFIG)
    grid = jax.jit(jax.vmap(jax.vmap(train, (0, None)), (None, 0)))(KEYS[:2], hyper)
    for h in range(2):
        for k in range(2):
            same(row(grid, h, k), run(KEYS[k], row(hyper, h)), **CLOSE)
    np.testing.assert_allclose(grid.metrics.learning_rate[:, 1, 0], rates)


@pytest.mark.slow
def test_vmap_over_the_parameters_of_the_environment(run):
    _, params = make_env("CartPole-v1")
    limits = (2, 5)
    variants = [params.replace(max_steps_in_episode=limit, gravity=limit) for limit in limits]
    outs = jax.jit(jax.vmap(make_train(CONFIG), (None, None, 0)))(KEYS[0], None, stack(*variants))
    for i, limit in enumerate(limits):
        same(row(outs, i), run(KEYS[0], None, variants[i]), **CLOSE)
        # 24 steps of 4 environments in 3 updates of 8, all episodes cut at the limit
        ended = [4 * ((8 * (u + 1)) // limit - 8 * u // limit) for u in range(UPDATES)]
        np.testing.assert_array_equal(outs.metrics.episodes[i], ended)
        np.testing.assert_array_equal(outs.metrics.length_sum[i], limit * np.array(ended))


# -- objectives and estimators of a user ----------------------------------------------------


def reverse(dist, log_prob, batch, hyper, state):
    """A surrogate with the other divergence: KL(pi, pi_old)."""
    return -jnp.exp(log_prob - batch.log_prob) * batch.advantage + dist.kl(batch.dist)


def clipped_surrogate(dist, log_prob, batch, hyper, state):
    ratio = jnp.exp(log_prob - batch.log_prob)
    near = jnp.clip(ratio, 1.0 - hyper.clip_eps, 1.0 + hyper.clip_eps)
    return -jnp.minimum(ratio * batch.advantage, near * batch.advantage)


def one_step(rollout, hyper, config):
    later = jnp.where(rollout.terminated, 0.0, rollout.next_value)
    target = rollout.reward + hyper.gamma * later
    return Estimate(target - rollout.value, target)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"objective": clipped_surrogate}, {"objective": "clip"}),
        ({"objective": OBJECTIVES["adaptive_kl"]}, {"objective": "adaptive_kl"}),
        ({"advantage": one_step}, {"advantage": "td"}),
    ],
)
def test_what_is_passed_takes_the_place_of_what_is_named(own, named):
    key = jax.random.key(0)
    same(make_train(PLAIN, **own)(key), make_train(PLAIN.replace(**named))(key))


@pytest.mark.slow
def test_an_objective_of_ones_own_is_what_is_trained():
    key = jax.random.key(0)
    mine, theirs = make_train(PLAIN, objective=reverse)(key), make_train(PLAIN)(key)
    assert differs(mine.state.params, theirs.state.params)
    assert np.isfinite(mine.metrics.policy_loss).all()


@pytest.mark.parametrize(
    ("own", "changes", "words"),
    [
        ({"objective": "clip"}, {}, r"objective='clip' must be a function.*PPOConfig\(objective"),
        ({"advantage": 0.95}, {}, "advantage=0.95 must be a function"),
        ({"objective": reverse}, {"objective": "unclipped"}, "no effect on an objective of your"),
        ({"advantage": one_step}, {"advantage": "td"}, "no effect on an advantage of your own"),
    ],
)
def test_what_is_passed_and_would_not_count_is_refused(own, changes, words):
    with pytest.raises(ConfigError, match=words):
        make_train(PLAIN.replace(**changes), **own)


# -- every hyperparameter does something ------------------------------------------------------

VARIED = {
    "clip": PLAIN.replace(
        clip_eps=0.02, target_kl=100.0, entropy_coef=0.1, adam_b1=0.9, adam_b2=0.999,
        learning_rate_warmup=0.3, clip_eps_warmup=0.3, entropy_coef_warmup=0.3,
    ),
    "adaptive": PLAIN.replace(
        objective="adaptive_kl", value_loss="clipped", optimizer="rmsprop", momentum=0.5,
        learning_rate_schedule="kl_adaptive", learning_rate_final_scale=1.0, desired_kl=1e-6,
    ),
    "penalty": PLAIN.replace(
        objective="kl_penalty", value_loss="huber", optimizer="adamw",
        learning_rate_schedule="kl_adaptive", learning_rate_final_scale=1.0, desired_kl=0.003,
        advantage="vtrace", recompute_advantages=True, vtrace_rho=0.5, vtrace_c=0.5,
        exploration="rnd", exploration_size=4,
    ),
}  # fmt: skip
# (configuration, field, another value)
ACTIVE = [
    ("clip", "learning_rate", 3e-3),
    ("clip", "learning_rate_final_scale", 0.1),
    ("clip", "gamma", 0.5),
    ("clip", "gae_lambda", 0.5),
    ("clip", "clip_eps", 0.3),
    ("clip", "clip_eps_final_scale", 0.1),
    ("clip", "value_coef", 2.0),
    ("clip", "entropy_coef", 0.5),
    ("clip", "entropy_coef_final_scale", 0.0),
    ("clip", "adam_eps", 0.1),
    ("clip", "max_grad_norm", 1e-3),
    ("clip", "target_kl", 1e-7),
    ("clip", "adam_b1", 0.5),
    ("clip", "adam_b2", 0.5),
    ("clip", "learning_rate_warmup", 0.9),
    ("clip", "clip_eps_warmup", 0.9),
    ("clip", "entropy_coef_warmup", 0.9),
    ("adaptive", "momentum", 0.1),
    ("adaptive", "rms_decay", 0.5),
    ("adaptive", "rms_eps", 0.1),
    ("penalty", "weight_decay", 1.0),
    ("adaptive", "desired_kl", 1.0),
    ("adaptive", "learning_rate_min", 9e-3),
    ("penalty", "learning_rate_max", 1e-4),
    ("adaptive", "kl_coef", 50.0),
    ("adaptive", "adaptive_kl_target", 1e-8),
    ("adaptive", "value_clip_eps", 1e-3),
    ("penalty", "kl_coef", 50.0),
    ("penalty", "huber_delta", 0.01),
    ("penalty", "vtrace_rho", 0.9),
    ("penalty", "vtrace_c", 0.1),
    ("penalty", "exploration_coef", 5.0),
    ("penalty", "exploration_gamma", 0.5),
]
IDLE = [
    ("clip", "kl_coef", 50.0),
    ("clip", "adaptive_kl_target", 1e-8),
    ("clip", "value_clip_eps", 1e-3),
    ("clip", "huber_delta", 0.01),
    ("clip", "weight_decay", 1.0),
    ("clip", "desired_kl", 1e-8),
    ("clip", "vtrace_rho", 0.1),
    ("clip", "exploration_coef", 5.0),
    ("adaptive", "adam_eps", 0.1),
    ("adaptive", "clip_eps", 0.3),
    ("adaptive", "huber_delta", 0.01),
    ("penalty", "adaptive_kl_target", 1e-8),
    ("penalty", "clip_eps", 0.3),
]
EXTREME = [("adaptive", "adaptive_kl_target", 1e3)]


BASELINE = (None, None)


@pytest.fixture(scope="module")
def varied():
    """What training gives with one field changed, by configuration, field and value."""
    found = {}
    for name, config in VARIED.items():
        cases = [BASELINE, *[case[1:] for case in ACTIVE + IDLE + EXTREME if case[0] == name]]
        base = config.hyperparams()
        hypers = stack(*[base.replace(**{f: v} if f else {}) for f, v in cases])
        outs = jax.jit(jax.vmap(make_train(config), (None, 0)))(KEYS[0], hypers)
        outs = jax.tree.map(np.asarray, outs._replace(state=outs.state.replace(key=None)))
        found |= {(name, *case): row(outs, i) for i, case in enumerate(cases)}
    return found


def largest_change(varied, name, field, value):
    """Of any parameter of the policy."""
    pairs = [varied[key].state.params for key in ((name, *BASELINE), (name, field, value))]
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), *pairs)))


def test_every_hyperparameter_has_its_case():
    assert {field for _, field, _ in ACTIVE} == set(Hyperparams._fields) - {"extra"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "field", "value"), ACTIVE)
def test_a_hyperparameter_changes_what_is_learned(varied, name, field, value):
    assert largest_change(varied, name, field, value) > 1e-6  # one of IDLE: exactly 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "field", "value"), IDLE)
def test_a_hyperparameter_of_something_else_changes_nothing(varied, name, field, value):
    assert largest_change(varied, name, field, value) == 0


def test_target_kl_ends_every_update_after_its_first_step(varied):
    """The first ratio of an update is 1, so its KL is 0; the second is not."""
    metrics = varied["clip", "target_kl", 1e-7].metrics
    np.testing.assert_array_equal(metrics.gradient_steps, [1] * UPDATES)
    np.testing.assert_array_equal(metrics.skipped_steps, [0] * UPDATES)
    np.testing.assert_array_equal(varied["clip", *BASELINE].metrics.gradient_steps, [4] * UPDATES)


def test_adaptive_kl_doubles_and_halves_its_coefficient(varied):
    """Far below the target beta halves with each update; far above it doubles."""
    below, above = (varied["adaptive", "adaptive_kl_target", x] for x in (1e3, 1e-8))
    np.testing.assert_array_equal(below.metrics.kl_coef, [1, 0.5, 0.25])
    np.testing.assert_array_equal(above.metrics.kl_coef, [1, 2, 4])
    assert (below.state.objective_state, above.state.objective_state) == (0.125, 8)


@pytest.mark.parametrize("algorithm", ["ppo", "ppo_kl", "a2c", "reinforce"])
def test_every_named_algorithm_trains(algorithm):
    small = dict(num_envs=4, num_steps=8, total_timesteps=96, hidden_sizes=(8,))
    config = getattr(PPOConfig, algorithm)(**small)
    learner = make_learner(config)
    start = learner.init(KEYS[0])
    out = jax.jit(make_train(config))(KEYS[0])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(out.metrics))
    steps = config.num_epochs * config.num_minibatches
    np.testing.assert_array_equal(out.metrics.gradient_steps, [steps] * UPDATES)
    for before, after in zip(
        jax.tree.leaves(start.params), jax.tree.leaves(out.state.params), strict=True
    ):
        assert (before != after).any()


# -- devices ----------------------------------------------------------------------------------


class Shifted(DiagGaussian):
    """A Gaussian whose sample is the mean and a half: the same however the batch is split."""

    def sample(self, key):
        return self.mean + 0.5


class Decay(Probe):
    """x is drawn, then moves by the action; the reward is -x^2 and there is only a time limit."""

    def first(self, key):
        return jax.random.normal(key)

    def pay(self, x, action):
        return -jnp.square(x)

    def move(self, x, action, time):
        return 0.9 * x + 0.3 * action[0], jnp.bool_(False)

    action_space = Aim.action_space


def linear_policy(dist=DiagGaussian, w=0.1, b=0.2, log_std=-0.5):
    """mean = w obs + b, value = v obs + c."""

    def init(key):
        scalars = dict(w=w, b=b, log_std=log_std, v=0.3, c=0.0)
        return {name: jnp.float32(x) for name, x in scalars.items()}

    def apply(params, carry, obs, episode_start):
        mean = params["w"] * obs + params["b"]
        value = params["v"] * obs[..., 0] + params["c"]
        return carry, dist(mean, jnp.broadcast_to(params["log_std"], mean.shape)), value

    return Policy(init, lambda batch_shape: (), apply)


@pytest.mark.slow
@pytest.mark.as_shipped
@pytest.mark.parametrize(
    "changes",
    [
        dict(advantage_normalization="minibatch", target_kl=0.5),
        dict(advantage_normalization="batch", objective="adaptive_kl"),
    ],
)
def test_two_halves_learn_what_the_whole_learns(changes):
    """Statistics, gradients and metrics over a mesh axis are those of all environments together."""
    whole = CONFIG.replace(num_minibatches=1, **changes)
    half = whole.replace(num_envs=2, total_timesteps=whole.total_timesteps // 2)
    parts = dict(env=Decay(max_steps_in_episode=30), policy=linear_policy(Shifted))
    state = jax.jit(make_learner(whole, **parts).init)(KEYS[0])
    update = jax.jit(make_learner(whole, **parts).update)
    spread = jax.jit(
        jax.vmap(learner_of(make_components(half, **parts), "devices").update, axis_name="devices")
    )
    both = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    scaler = state.normalizers.reward
    halve = lambda x: x.reshape(2, 2, *x.shape[1:])  # noqa: E731
    both = both.replace(
        env_state=jax.tree.map(halve, state.env_state),
        obs=halve(state.obs),
        episode_start=halve(state.episode_start),
        normalizers=both.normalizers.replace(
            reward=both.normalizers.reward.replace(
                discounted_return=halve(scaler.discounted_return)
            )
        ),
    )
    for _ in range(UPDATES):
        state, metrics = update(state)
        both, spread_metrics = spread(both)
        # explained_variance is 1 less a ratio near 1
        same(spread_metrics, stack(metrics, metrics), rtol=1e-3, atol=1e-4)
        for field in ("params", "opt_state", "objective_state"):
            first, second = (row(getattr(both, field), i) for i in range(2))
            same(first, second)
            # exchanging environments moves Adam's moments by 5e-6 as well
            same(first, getattr(state, field), rtol=1e-3, atol=2e-5)
        same(row(both.normalizers.obs, 0), state.normalizers.obs, rtol=1e-3, atol=1e-5)
        same(row(both.normalizers.reward.stats, 0), state.normalizers.reward.stats, rtol=1e-3)


@pytest.mark.slow
def test_devices_with_environments_of_their_own_keep_one_policy():
    learner = learner_of(make_components(CONFIG), "devices")
    both = jnp.stack([KEYS[0]] * 2)
    states = jax.jit(jax.vmap(learner.init, axis_name="devices"))(both)
    same(row(states.params, 0), row(states.params, 1))
    states, metrics = jax.jit(jax.vmap(learner.update, axis_name="devices"))(states)
    assert differs(*[row(states.obs, i) for i in range(2)])
    for tree in (states.params, states.opt_state, states.normalizers.obs, metrics):
        same(row(tree, 0), row(tree, 1))


def test_the_scale_of_rewards_begins_anew_at_a_time_limit():
    """Four steps that pay 1: what was paid before the limit is no part of the next episode."""
    learner = make_learner(CONFIG, env=Endless(max_steps_in_episode=4))
    state, _ = jax.jit(lambda key: learner.update(learner.init(key)))(KEYS[0])
    scaler, steps = state.normalizers.reward, np.arange(1, 5)
    paid = (1 - CONFIG.gamma**steps) / (1 - CONFIG.gamma)
    np.testing.assert_array_equal(scaler.discounted_return, 0)
    np.testing.assert_allclose(scaler.stats.var, paid.var(), rtol=1e-3)


# -- acting -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linear_state():
    """mean = 3 obs + 0.25 and a spread of 2, for observations of mean 2 and deviation 4."""
    config = CONFIG.replace(normalize_rewards=False)
    policy = linear_policy(w=3.0, b=0.25, log_std=float(np.log(2.0)))
    state = jax.jit(make_learner(config, env=Aim(), policy=policy).init)(KEYS[0])
    stats = RunningStats(jnp.array([2.0]), jnp.array([16.0]), jnp.float32(100))
    state = state.replace(normalizers=state.normalizers.replace(obs=stats))
    return config, state, dict(env=Aim(), policy=policy)


def test_the_mode_by_hand_with_statistics_and_bounds(linear_state):
    config, state, parts = linear_state
    act = make_act(config, state, deterministic=True, **parts)
    obs = np.array([[2.0], [2.4], [10.0], [-10.0]])
    # 3 (obs - 2) / 4 + 0.25, held within -1 .. 1
    expected = np.array([[0.25], [0.55], [1.0], [-1.0]])
    np.testing.assert_allclose(act(KEYS[0], obs), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(act)(KEYS[1], obs), expected, rtol=1e-5)
    single = act(KEYS[0], obs[1])
    assert single.shape == (1,)
    np.testing.assert_allclose(single, expected[1], rtol=1e-5)
    batched = act(KEYS[0], obs.reshape(2, 2, 1))
    np.testing.assert_allclose(batched, expected.reshape(2, 2, 1), rtol=1e-5)


def test_samples_follow_the_key_and_keep_the_bounds(linear_state):
    config, state, parts = linear_state
    act = jax.jit(make_act(config, state, **parts))
    obs = jnp.full((4000, 1), 2.0)  # mean 0.25, deviation 2
    first, second = act(KEYS[0], obs), act(KEYS[1], obs)
    np.testing.assert_array_equal(first, act(KEYS[0], obs))
    assert (first != second).any()
    assert first.min() == -1 and first.max() == 1
    # P(mean + 2 z > 1) = P(z > 0.375) = 0.3538; P(< -1) = P(z < -0.625) = 0.2660
    assert np.mean(first == 1) == pytest.approx(0.3538, abs=0.03)
    assert np.mean(first == -1) == pytest.approx(0.2660, abs=0.03)


def test_discrete_actions_by_hand():
    """Logits (0, obs): the mode is 1 where obs > 0, and P(1) = 1 / (1 + exp(-obs))."""

    def apply(params, carry, obs, episode_start):
        logits = jnp.concatenate([jnp.zeros_like(obs), params * obs], -1)
        return carry, Categorical(logits), obs[..., 0] * params

    policy = Policy(lambda key: jnp.float32(1), lambda batch_shape: (), apply)
    parts = dict(env=Choice(), policy=policy)
    state = make_learner(PLAIN, **parts).init(KEYS[0])
    mode = make_act(PLAIN, state, deterministic=True, **parts)
    np.testing.assert_array_equal(mode(KEYS[0], np.array([[-1.0], [2.0]])), [0, 1])
    assert mode(KEYS[0], np.array([2.0])).shape == ()
    act = make_act(PLAIN, state, **parts)
    chosen = act(KEYS[0], np.full((4000, 1), 1.0))
    assert chosen.mean() == pytest.approx(1 / (1 + np.exp(-1)), abs=0.03)


def test_acting_with_what_was_trained(out):
    """Frozen: the same observation gives the same action, alone or in a batch."""
    obs = jnp.linspace(-1, 1, 24).reshape(6, 4)
    act = jax.jit(make_act(CONFIG, out.state, deterministic=True))
    together = act(KEYS[0], obs)
    assert together.shape == (6,) and together.dtype == jnp.int32
    np.testing.assert_array_equal(together, [act(KEYS[1], o) for o in obs])


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_an_act_can_be_made_inside_a_program(env):
    """As those who evaluate between updates would, in one program."""
    config = PPOConfig(
        env=env, num_envs=2, num_steps=4, total_timesteps=8, num_minibatches=1, hidden_sizes=(4,)
    )
    state = jax.jit(make_learner(config).init)(KEYS[0])
    obs = jnp.ones(state.obs.shape[1:])

    def act(state):
        return make_act(config, state, deterministic=True)(KEYS[0], obs)

    same(jax.jit(act)(state), act(state), rtol=1e-6)


# -- parts of the user's own ------------------------------------------------------------------


def test_a_policy_of_ones_own_is_trained():
    policy = linear_policy()
    config = PLAIN.replace(total_timesteps=32 * 50, learning_rate=0.02, entropy_coef=0.0)
    out = jax.jit(make_train(config, env=Aim(), policy=policy))(KEYS[0])
    assert set(out.state.params) == {"w", "b", "log_std", "v", "c"}
    # the observation is 1 and the best action 0.5
    assert out.state.params["w"] + out.state.params["b"] == pytest.approx(0.5, abs=0.1)


@struct.dataclass
class Memory:
    """A policy that carries something must have it handed on and saved."""

    steps: jax.Array


def test_a_policy_that_carries_a_count():
    """The carry goes from step to step and from update to update, reset at an episode's start."""
    base = linear_policy()

    def apply(params, carry, obs, episode_start):
        _, dist, value = base.apply(params, (), obs, episode_start)

        def count(steps, start):
            return jnp.where(start, 0, steps) + 1, None

        times = episode_start.reshape(len(episode_start), -1).T  # a step is a sequence of one
        return Memory(jax.lax.scan(count, carry.steps, times)[0]), dist, value

    policy = Policy(base.init, lambda shape: Memory(jnp.zeros(shape, jnp.int32)), apply)
    env = Decay(max_steps_in_episode=11)
    out = jax.jit(make_train(PLAIN, env=env, policy=policy))(KEYS[0])
    # 24 steps: two episodes of 11 and 2 steps of the third
    np.testing.assert_array_equal(out.state.carry.steps, [2] * 4)


# -- failures ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failing():
    """Three seeds, each with an environment of its own, and where the second one starts."""
    env = Decay(max_steps_in_episode=5)
    run = jax.jit(jax.vmap(make_train(CONFIG, env=env), (0, None, 0)))
    params = jax.tree.map(lambda x: jnp.full(3, x), env.default_params)
    return run, params, jax.jit(make_learner(CONFIG, env=env).init)(KEYS[1])


@pytest.mark.slow
@pytest.mark.parametrize("field", ["reward_scale", "obs_scale"])
def test_one_seed_that_fails_leaves_the_others_untouched(failing, field):
    run, params, start = failing
    good, bad = jnp.ones(3), jnp.array([1.0, jnp.nan, 1.0])
    well = run(KEYS, None, params.replace(**{field: good}))
    ill = run(KEYS, None, params.replace(**{field: bad}))
    for i in (0, 2):
        same(row(ill, i), row(well, i))
    np.testing.assert_array_equal(ill.metrics.skipped_steps, [[0] * 3, [4] * 3, [0] * 3])
    np.testing.assert_array_equal(ill.metrics.gradient_steps, [[4] * 3, [0] * 3, [4] * 3])
    # nothing was learned, and nothing was spoilt
    same(row(ill.state.params, 1), start.params, rtol=1e-5, atol=1e-7)
    same(row(ill.state.opt_state, 1), start.opt_state)
    assert np.isfinite(ill.state.normalizers.obs.mean).all()
    assert np.isfinite(ill.state.normalizers.reward.stats.var).all()


class Hiccup(Decay):
    """Pays NaN on the third step of an episode, once: episodes do not end."""

    def step_env(self, key, state, action, params):
        obs, after, reward, terminated, info = super().step_env(key, state, action, params)
        return obs, after, jnp.where(state.time == 2, jnp.nan, reward), terminated, info


def test_one_bad_reward_costs_its_update_and_no_more():
    """Learning goes on, and so does the scaling of the rewards."""
    out = jax.jit(make_train(CONFIG.replace(num_minibatches=1), env=Hiccup()))(KEYS[0])
    np.testing.assert_array_equal(out.metrics.skipped_steps, [2, 0, 0])
    np.testing.assert_array_equal(out.metrics.gradient_steps, [0, 2, 2])
    assert out.state.normalizers.reward.stats.count >= 2 * 32
    assert np.isfinite(out.state.normalizers.reward.discounted_return).all()


SIXTEEN_SEEDS = """
import jax
from purejaxppo import PPOConfig, make_train
config = PPOConfig(num_envs=4, num_steps=128, total_timesteps=1024)
train = jax.jit(jax.vmap(make_train(config)))
for i in range(30):
    jax.block_until_ready(train(jax.random.split(jax.random.key(i), 16)))
    print(i, flush=True)
"""


@pytest.mark.as_shipped
@pytest.mark.slow
def test_sixteen_seeds_thirty_times_do_not_hang():
    """A batched LAPACK call in such a program can deadlock the CPU's thread pool."""
    cache = str(Path(__file__).parent.parent / ".jax_cache")
    settings = dict(
        JAX_COMPILATION_CACHE_DIR=cache,
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="0",
    )
    done = subprocess.run(
        [sys.executable, "-c", SIXTEEN_SEEDS],
        env={**os.environ, **settings}, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(i) for i in range(30)]
