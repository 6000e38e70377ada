"""Categorical critics and normalised values, against SciPy, NumPy and what they promise."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from support.algorithm import build

from purejaxppo import ConfigError, PPOConfig, fit, make_learner, make_train
from purejaxppo.components import make_components
from purejaxppo.policies.distributions import Categorical
from purejaxppo.policies.networks import make_policy
from purejaxppo.ppo.critics import make_bins, make_critic, renormalize, target_probabilities, units
from purejaxppo.ppo.normalize import init_stats, update_stats
from purejaxppo.ppo.rollout import collect
from purejaxppo.spaces import Box, Discrete, EnvSpec
from purejaxppo.types import Batch, Normalizers, Policy, Rollout, RunningStats

RNG = np.random.default_rng
TINY = PPOConfig(
    num_envs=4, num_steps=8, num_minibatches=2, num_epochs=2, total_timesteps=32 * 6,
    hidden_sizes=(8,),
)  # fmt: skip
BOX = Box(-np.ones(3), np.ones(3), (3,), np.dtype("float32"))
SPEC = EnvSpec(BOX, Discrete(2))
NORMAL, BINS = dict(normalize_values=True), dict(value_loss="categorical")


def stats_of(mean, var, count=100.0):
    return RunningStats(*map(jnp.float32, (mean, var, count)))


def moved_by(policy, params, stats, target):
    """The parameters and statistics after new targets."""
    norms, rollout = Normalizers(None, None, stats), rollout_of(jnp.zeros_like(target))
    params, norms, _ = renormalize(policy, params, norms, rollout, target)
    assert norms.obs is norms.reward is None
    return params, norms.value


def rollout_of(value):
    """A rollout of which only its values are read."""
    return Rollout(**{**dict.fromkeys(Rollout.__dataclass_fields__, ()), "value": value})


def batch_of(target, value=None):
    """A batch of which a critic's loss reads what it has."""
    rest = dict.fromkeys(Batch.__dataclass_fields__, ())
    return Batch(**{**rest, "target": target, "value": target if value is None else value})


# -- categorical values ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bins", "place"),
    [
        (make_bins(11, -10.0, 10.0, False, 0.75), lambda v: v),
        (make_bins(40, -2.0, 300.0, False, 1.5), lambda v: v),
        (make_bins(101, -2e4, 2e4, True, 0.75), lambda v: np.sign(v) * np.log(1 + np.abs(v))),
    ],
)
def test_targets_are_gaussians_in_bins(bins, place, variant):
    """Against the normal distribution of SciPy, in bins that are built by hand."""
    count = len(bins.values)
    low, high = {11: (-10, 10), 40: (-2, 300), 101: (-2e4, 2e4)}[count]
    ratio = 1.5 if count == 40 else 0.75
    first, last = place(np.float64(low)), place(np.float64(high))
    width = (last - first) / (count - 1)
    edges = first + width * (np.arange(count + 1) - 0.5)
    target = np.float32([[low, high, 0.0], [1.0, -1.7, 0.3 * high]])
    between = np.diff(scipy.stats.norm.cdf(edges, place(target.astype(float))[..., None],
                                           ratio * width))  # fmt: skip
    expected = between / between.sum(-1, keepdims=True)
    got = variant(partial(target_probabilities, bins))(target)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    np.testing.assert_allclose(got.sum(-1), 1.0, rtol=1e-6)


def read(bins, probabilities):
    """The value of probabilities, as SciPy's logarithms give it to the critic."""
    config = TINY.replace(
        value_loss="categorical", value_bins=len(bins.values), value_min=-100.0, value_max=100.0,
        value_symlog=bins.symlog,
    )  # fmt: skip
    return make_critic(config).value(jnp.log(jnp.asarray(probabilities) + 1e-30), None)


@pytest.mark.parametrize(("symlog", "rtol", "atol"), [(False, 0.0, 1e-4), (True, 2e-4, 6e-3)])
def test_the_mean_of_a_target_is_the_target(symlog, rtol, atol):
    """Three bins from the ends; with symlog within a hundredth of a bin around 0, too."""
    bins = make_bins(101, -100.0, 100.0, symlog, 0.75)
    inside = 70.0 if symlog else 94.0
    target = np.linspace(-inside, inside, 1001, dtype=np.float32)
    np.testing.assert_allclose(
        read(bins, target_probabilities(bins, target)), target, rtol=rtol, atol=atol
    )


@pytest.mark.parametrize(("count", "mean"), [(101, 0.302), (21, 0.36)])
def test_coarse_bins_miss_what_is_near_0_by_as_much_as_is_said(count, mean):
    bins = make_bins(count, -20_000.0, 20_000.0, True, 0.75)
    found = target_probabilities(bins, jnp.float32(0.3)) @ bins.values
    assert float(found) == pytest.approx(mean, abs=0.005 if count < 101 else 5e-4)


def test_bins_whose_values_do_not_ascend_are_refused():
    with pytest.raises(ConfigError, match=r"value_sigma=10 of value_bins=101 in symlog"):
        make_bins(101, -20_000.0, 20_000.0, True, 10.0)
    make_bins(101, -20_000.0, 20_000.0, False, 10.0)


def test_what_is_beyond_the_bins_counts_as_their_end():
    bins = make_bins(101, -100.0, 100.0, False, 0.75)
    ends = target_probabilities(bins, jnp.array([-100.0, 100.0]))
    beyond = target_probabilities(bins, jnp.array([-1e6, 3e38]))
    np.testing.assert_array_equal(beyond, ends)
    # half of the Gaussian is cut off there, which draws the mean inwards by less than a bin
    value = read(bins, ends)
    assert (np.abs(value) < 100).all() and (np.abs(value) > 98).all()
    assert np.isnan(target_probabilities(bins, jnp.array([jnp.nan]))).all()


def test_cross_entropy_and_its_gradient_by_hand():
    critic = make_critic(TINY.replace(**BINS, value_bins=21, value_symlog=False, value_max=20.0,
                                      value_min=-20.0))  # fmt: skip
    logits = RNG(0).normal(size=(5, 21)).astype(np.float32)
    target = np.float32([-21.0, -3.3, 0.0, 4.0, 17.2])
    edges = np.arange(-21, 22, 2)
    q = np.diff(scipy.stats.norm.cdf(edges, np.clip(target, -20, 20)[:, None], 0.75 * 2))
    q /= q.sum(-1, keepdims=True)

    def loss(logits):
        return critic.loss(logits, batch_of(jnp.asarray(target)), TINY.hyperparams(), None)

    expected = -(q * scipy.special.log_softmax(logits.astype(float), -1)).sum(-1)
    np.testing.assert_allclose(loss(logits), expected, rtol=1e-5)
    slope = jax.grad(lambda x: loss(x).sum())(logits)
    np.testing.assert_allclose(slope, scipy.special.softmax(logits, -1) - q, atol=1e-5)
    # no loss is below that of the target itself
    least = loss(jnp.log(jnp.asarray(q, jnp.float32) + 1e-12))
    np.testing.assert_allclose(least, scipy.stats.entropy(q, axis=-1), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(value_min=0.0, value_max=50.0, value_symlog=False, value_bins=51),
        dict(core="gru", core_size=4, shared_torso=True, compute_dtype="bfloat16"),
    ],
)
def test_a_fresh_categorical_critic_says_little(changes):
    """0 for bins on both sides of it, else no more than a tenth of them; logits are float32."""
    config = TINY.replace(**BINS, **changes)
    critic = make_critic(config)
    policy = make_policy(config, SPEC, first_value=critic.first)
    params = policy.init(jax.random.key(0))
    obs = RNG(1).normal(size=(6, 3)).astype(np.float32)
    output = policy.apply(params, policy.initial_carry((6,)), obs, jnp.ones(6, bool))[2]
    assert output.shape == (6, config.value_bins) and output.dtype == jnp.float32
    least = 0.0 if config.value_min < 0 else 50 / 10
    np.testing.assert_allclose(critic.value(output, None), 0.0, atol=1e-4 + least)


# -- normalised values -------------------------------------------------------------------------


def test_normalised_values_and_their_losses_by_hand():
    stats = stats_of(1000.0, 25.0)
    output = jnp.array([-1.0, 0.0, 2.0])
    batch = batch_of(jnp.array([1010.0, 990.0, 1010.0]), jnp.array([1000.0, 1000.0, 1020.0]))
    hyper = TINY.hyperparams().replace(value_clip_eps=0.5, huber_delta=1.0)
    of = {
        name: make_critic(TINY.replace(value_loss=name, **NORMAL))
        for name in ("squared", "clipped", "huber")
    }
    for critic in of.values():
        np.testing.assert_allclose(critic.value(output, stats), [995.0, 1000.0, 1010.0])
    # targets are 2, -2 and 2 here, the rollout's values 0, 0 and 4
    found = {name: critic.loss(output, batch, hyper, stats) for name, critic in of.items()}
    np.testing.assert_allclose(found["squared"], [4.5, 2.0, 0.0])
    np.testing.assert_allclose(found["clipped"], [4.5, 2.0, 0.5 * 1.5**2])
    np.testing.assert_allclose(found["huber"], [2.5, 1.5, 0.0])


@pytest.mark.parametrize("count", [0.0, 100.0])
def test_a_clipped_loss_keeps_near_to_what_the_head_gives_now(count):
    """At the first targets values begin at their mean; from then on they stay what they were."""
    policy = make_policy(TINY.replace(**NORMAL), SPEC)
    output = RNG(0).normal(size=(8, 4)).astype(np.float32)
    before = stats_of(0.0, 1.0, 0.0) if count == 0 else stats_of(20.0, 4.0, count)
    mean, std = (float(x) for x in units(before))
    target = (-50 + 3 * RNG(1).normal(size=(8, 4))).astype(np.float32)
    _, _, rollout = renormalize(
        policy, policy.init(jax.random.key(0)), Normalizers(None, None, before),
        rollout_of(jnp.asarray(mean + std * output)), target,
    )  # fmt: skip
    if count == 0:
        mean, std = target.mean(), target.std()
    np.testing.assert_allclose(rollout.value, mean + std * output, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, dict(core="lstm", core_size=4), dict(shared_torso=True)])
def test_outputs_stay_what_they_were_when_statistics_move(changes):
    config = TINY.replace(**NORMAL, **changes)
    critic = make_critic(config)
    policy = make_policy(config, SPEC)
    params = policy.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1, params)  # a bias that is not 0
    obs = RNG(1).normal(size=(50, 3)).astype(np.float32)
    carry = policy.initial_carry((50,))

    def value(params, stats):
        output = policy.apply(params, carry, obs, jnp.zeros(50, bool))[2]
        return critic.value(output, stats)

    # a head that has learned nothing is left as it is: its 0 is then the mean
    first = 50 + 10 * RNG(3).normal(size=(8, 4)).astype(np.float32)
    after, stats = moved_by(policy, params, init_stats(()), first)
    jax.tree.map(np.testing.assert_array_equal, after, params)
    before = value(params, stats)
    np.testing.assert_allclose(
        before, first.mean() + first.std() * value(params, init_stats(())), rtol=1e-5
    )
    for mean, std in ((5.0, 3.0), (-200.0, 90.0), (0.0, 1e-3), (1e4, 1.0)):
        target = (mean + std * RNG(2).normal(size=(8, 4))).astype(np.float32)
        params, moved = moved_by(policy, params, stats, target)
        expected = update_stats(stats, target)
        jax.tree.map(np.testing.assert_array_equal, moved, expected)
        mean, std = (float(x) for x in units(moved))
        np.testing.assert_allclose(
            value(params, moved), before, rtol=1e-6, atol=1e-6 * (std + abs(mean))
        )
        stats = moved
    assert float(stats.count) == 5 * 32


@pytest.mark.parametrize(
    ("target", "finite"),
    [
        (np.full((4, 2), 1000.0), True),
        (np.zeros((4, 2)), True),
        (np.float32([[3.0]]), True),
        (np.float32([[1.0, np.nan]]), False),
        (np.float32([[1.0, np.inf]]), False),
    ],
    ids=["constant", "zero", "one", "nan", "inf"],
)
def test_targets_that_vary_by_nothing_or_are_none(target, finite):
    config = TINY.replace(**NORMAL)
    policy = make_policy(config, SPEC)
    params, stats = policy.init(jax.random.key(0)), stats_of(0.0, 1.0, 0.0)
    after, moved = moved_by(policy, params, stats, jnp.asarray(target, jnp.float32))
    for leaf in jax.tree.leaves((after, moved)):
        assert np.isfinite(leaf).all()
    if not finite:
        jax.tree.map(np.testing.assert_array_equal, (after, moved), (params, stats))
        return
    mean, std = units(moved)
    assert mean == target.flat[0] and std > 0
    # what rounding makes of a constant stays small
    near = np.nextafter(np.float32(target.flat[0]), np.float32(1e9))
    assert abs((near - mean) / std) < 0.01


@pytest.mark.slow
def test_a_critic_of_returns_near_1000_learns_faster():
    """On one fixed set of states, by the gradient steps of an update."""
    obs = RNG(0).normal(size=(256, 3)).astype(np.float32)
    target = jnp.asarray(1000 + 50 * np.sin(2 * obs[:, 0]) + 30 * obs[:, 1], jnp.float32)

    def explained(**changes):
        config = TINY.replace(hidden_sizes=(32, 32), **changes)
        critic, policy = make_critic(config), make_policy(config, SPEC)
        params, stats = policy.init(jax.random.key(0)), None
        if config.normalize_values:
            params, stats = moved_by(policy, params, init_stats(()), target[None])
        adam = optax.adam(1e-3)

        def output(params):
            return policy.apply(params, (), obs, jnp.zeros(256, bool))[2]

        def step(loop, _):
            params, state = loop
            loss = lambda p: critic.loss(  # noqa: E731
                output(p), batch_of(target), TINY.hyperparams(), stats
            ).mean()
            updates, state = adam.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        @jax.jit
        def run(params):
            (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), length=400)
            return critic.value(output(params), stats)

        error = target - run(params)
        # the distance itself: a critic that is wrong by a constant has learned little
        return 1 - float(jnp.square(error).mean() / target.var())

    plain, normal = explained(), explained(**NORMAL)
    assert normal > 0.9 > 0 > plain


@pytest.fixture(scope="module")
def updated():
    """One update of a critic that all but stands still, and the rollout that it is made on."""

    def of(**changes):
        config = TINY.replace(**NORMAL, learning_rate=1e-12, max_grad_norm=None, **changes)
        setup, learner = build(config), make_learner(config)

        @jax.jit
        def run(key):
            state = learner.update(learner.init(key))[0]
            key = jax.random.split(state.key, 3)[0]  # as the learner does
            rollout = collect(
                setup.policy, setup.critic, setup.vec_env, 8, state, setup.env_params, key
            )[1]
            return state, rollout, *learner.update(state)

        return setup, *run(jax.random.key(0))

    return of


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        dict(advantage="td", normalize_rewards=True),
        pytest.param(
            dict(core="gru", core_size=4, advantage="monte_carlo"), marks=pytest.mark.slow
        ),
        pytest.param(
            dict(shared_torso=True, advantage="n_step", n_step=3, env="Pendulum-v1"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_update_moves_the_statistics_by_its_targets_and_no_value(updated, changes):
    setup, before, rollout, after, metrics = updated(**changes)
    hyper = setup.config.hyperparams()
    reward = rollout.reward
    if setup.config.normalize_rewards:  # by the variance that has seen this rollout, too
        reward = reward / np.sqrt(after.normalizers.reward.stats.var + 1e-8)
    target = setup.advantage(rollout.replace(reward=reward), hyper, setup.config).target
    # pooled mean and variance of 32 targets seen before and 32 new ones
    old, new = before.normalizers.value, after.normalizers.value
    mean = (float(old.mean) + np.mean(target)) / 2
    spread = (float(old.var) + np.var(target)) / 2 + ((float(old.mean) - np.mean(target)) / 2) ** 2
    np.testing.assert_allclose([new.mean, new.var, new.count], [mean, spread, 64], rtol=1e-4)
    error = np.asarray(target - rollout.value)
    np.testing.assert_allclose(
        metrics.explained_variance, 1 - error.var() / np.var(target), rtol=1e-3, atol=1e-3
    )

    def value(state):
        obs = rollout.obs
        carry = jax.tree.map(lambda x: x[0], rollout.carry)
        output = setup.policy.apply(state.params, carry, obs[0], rollout.episode_start[0])[2]
        return setup.critic.value(output, state.normalizers.value)

    np.testing.assert_allclose(value(before), rollout.value[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(value(after), value(before), rtol=1e-5, atol=1e-5)


# -- in runs -----------------------------------------------------------------------------------


def numbers(tree):
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [NORMAL, {**BINS, "value_bins": 21}], ids=["normalised", "categorical"]
)
def test_seeds_side_by_side_and_a_run_that_goes_on_to_the_bit(changes, tmp_path):
    config = TINY.replace(normalize_rewards=True, total_timesteps=32 * 16, **changes)
    options = dict(seeds=2, checkpoint_every=64)
    whole = fit(config, **options, run_dir=tmp_path / "whole")
    assert np.isfinite(whole.metrics.value_loss).all()
    assert not whole.metrics.skipped_steps.any()

    stop = lambda step, row: False  # noqa: E731
    part = fit(config, **options, run_dir=tmp_path / "part", callbacks=[stop])
    assert part.metrics.episodes.shape[1] < config.num_updates
    rest = fit(config, **options, run_dir=tmp_path / "part", resume=True)
    assert rest.resumed_at
    for a, b in zip(numbers(rest.state), numbers(whole.state), strict=True):
        np.testing.assert_array_equal(a, b)
    jax.tree.map(np.testing.assert_array_equal, rest.metrics, whole.metrics)

    # agents whose bins meant other values are not taken over
    if not config.normalize_values:
        with pytest.raises(ConfigError, match=r"value_max=20000.0, and this run 10.0"):
            fit(config.replace(value_max=10.0), init_from=str(tmp_path / "whole"))

    # each seed has statistics and a head of its own, those that it would have alone
    alone = jax.jit(make_train(config))(jax.random.split(jax.random.key(0), 2)[1]).state
    for name in ("params", "normalizers"):
        both, one = getattr(whole.state, name), getattr(alone, name)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x[1], y, rtol=1e-2, atol=1e-3), both, one
        )


class Own(nn.Module):
    """A network with a value of any shape."""

    outputs: tuple = ()

    @nn.compact
    def __call__(self, obs):
        value = nn.Dense(int(np.prod(self.outputs)) if self.outputs else 1)(obs)
        return nn.Dense(2)(obs), value.reshape(len(obs), *self.outputs)


def own_policy(outputs, rescale=None):
    """A policy of functions; its value has a scale and a shift of its own."""
    network = Own(outputs)

    def init(key):
        weights = network.init(key, jnp.zeros((2, 4)))["params"]
        return {"net": weights, "scale": jnp.float32(1), "shift": jnp.float32(0)}

    def apply(params, carry, obs, episode_start):
        logits, value = network.apply({"params": params["net"]}, obs)
        return carry, Categorical(logits), params["scale"] * value + params["shift"]

    return Policy(init, lambda batch_shape: (), apply, rescale_value=rescale)


def test_values_of_networks_of_ones_own():
    config = TINY.replace(**BINS, value_bins=21)
    assert make_components(config, policy=Own((21,))).critic.first is not None
    with pytest.raises(ConfigError, match=r"value has shape \[2\] .* must be \[2, 21\]"):
        make_components(config, policy=Own())
    with pytest.raises(ConfigError, match=r"value has shape \[2, 21\] .* must be \[2\]"):
        make_components(TINY, policy=Own((21,)))
    make_components(config, policy=own_policy((21,)))
    with pytest.raises(ConfigError, match=r"the policy's value has shape \[2\] .* \[2, 21\]"):
        make_components(config, policy=own_policy(()))


@pytest.mark.slow
def test_a_head_that_is_not_known_cannot_be_rescaled():
    config = TINY.replace(**NORMAL)
    for policy in (Own(), own_policy(())):
        with pytest.raises(ConfigError, match=r"normalize_values=True .* pass a Policy with resc"):
            make_components(config, policy=policy)

    def rescale(params, scale, shift):
        return {
            **params, "scale": scale * params["scale"], "shift": scale * params["shift"] + shift
        }  # fmt: skip

    policy = own_policy((), rescale)
    out = jax.jit(make_train(config.replace(total_timesteps=64), policy=policy))(jax.random.key(0))
    assert float(out.state.normalizers.value.count) == 64
    assert out.state.params["scale"] != 1.0
