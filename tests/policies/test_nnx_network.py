"""Networks of flax.nnx against the same in linen, and from training to files and back."""

import signal
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.run_folders import tiny_config

from purejaxppo import (
    ConfigError,
    PPOConfig,
    as_policy,
    export_policy,
    fit,
    load_policy,
    make_train,
)
from purejaxppo.export import numpy_policy
from purejaxppo.policies.networks import make_policy
from purejaxppo.spaces import Box, Discrete, EnvSpec

NUMBERS = Box(np.full(4, -1.0), np.full(4, 1.0), (4,), np.dtype(np.float32))
SPEC = EnvSpec(NUMBERS, Discrete(2))
KEYS = jax.random.split(jax.random.key(0), 3)


class Linen(nn.Module):
    """Two hidden layers, logits and value."""

    @nn.compact
    def __call__(self, obs):
        x = obs
        for _ in range(2):
            x = nn.tanh(nn.LayerNorm()(nn.Dense(8)(x)))
        return nn.Dense(2)(x), nn.Dense(1)(x)[:, 0]


class Nnx(nnx.Module):
    """The same."""

    def __init__(self, width=8, *, rngs):
        self.hidden = nnx.List(
            [nnx.Linear(4, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)]
        )
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.logits = nnx.Linear(width, 2, rngs=rngs)
        self.value = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, obs):
        x = obs
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = nnx.tanh(norm(layer(x)))
        return self.logits(x), self.value(x)[:, 0]


def linen_of(params):
    """Parameters of `Nnx` under the names that they have in `Linen`."""
    dense = [params["hidden"][0], params["hidden"][1], params["logits"], params["value"]]
    named = {f"Dense_{i}": layer for i, layer in enumerate(dense)}
    return {"network": named | {f"LayerNorm_{i}": params["norms"][i] for i in range(2)}}


def positional(rngs):
    """A function that makes one."""
    return Nnx(8, rngs=rngs)


def wide(rngs):
    """One that learns fast."""
    return Nnx(32, rngs=rngs)


MAKERS = {
    "class": Nnx, "function": positional, "lambda": lambda rngs: Nnx(rngs=rngs),
    "partial": partial(Nnx, 8),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_every_seed_has_parameters_of_its_own(name):
    policy = make_policy(PPOConfig(), SPEC, MAKERS[name])
    params = jax.jit(jax.vmap(policy.init))(KEYS)
    kernel = np.asarray(params["hidden"][0]["kernel"])
    assert kernel.shape == (3, 4, 8)
    assert len({row.tobytes() for row in kernel}) == 3
    alone = policy.init(KEYS[1])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[1], y, rtol=1e-6), params, alone)
    # what the class itself makes of this key
    expected = nnx.state(Nnx(rngs=nnx.Rngs(KEYS[1])), nnx.Param)
    jax.tree.map(np.testing.assert_array_equal, alone, nnx.to_pure_dict(expected))


def test_a_module_gives_every_seed_its_own_parameters():
    """It is initialised already: by hand, or by training before."""
    module = Nnx(rngs=nnx.Rngs(7))
    policy = make_policy(PPOConfig(), SPEC, module)
    params = jax.jit(jax.vmap(policy.init))(KEYS)
    own = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    for i in range(3):
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y), params, own)
    # training gives its buffers away, and these are copies
    jax.tree.map(lambda x: x.delete(), policy.init(KEYS[0]))
    assert np.isfinite(module(jnp.ones((2, 4)))[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("network", [Nnx, Nnx(rngs=nnx.Rngs(0))], ids=["class", "module"])
def test_linen_gives_the_same_numbers(network):
    config = PPOConfig()
    ours, theirs = make_policy(config, SPEC, network), make_policy(config, SPEC, Linen())
    params = ours.init(KEYS[0])
    obs = np.random.default_rng(0).normal(0, 1, (5, 4)).astype(np.float32)
    starts = jnp.ones(5, bool)

    def loss(policy, params):
        _, dist, value = policy.apply(params, (), obs, starts)
        return (dist.log_prob(jnp.zeros(5, jnp.int32)) + value**2).sum()

    assert jax.tree.structure(linen_of(params)) == jax.tree.structure(theirs.init(KEYS[0]))
    a, slopes = jax.value_and_grad(lambda p: loss(ours, p))(params)
    b, expected = jax.value_and_grad(lambda p: loss(theirs, p))(linen_of(params))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        linen_of(slopes), expected,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three seeds that have learned a little, in a folder."""
    folder = tmp_path_factory.mktemp("nnx") / "run"
    config = PPOConfig(num_envs=8, num_steps=64, total_timesteps=8 * 64 * 60, learning_rate=1e-2)
    return folder, config, fit(config, seeds=3, run_dir=folder, policy=wide)


@pytest.mark.slow
def test_it_learns(trained):
    """An untrained one stands for about 22 steps; three seeds in so short a run differ by much."""
    metrics = trained[2].metrics
    late = metrics.return_sum[:, -10:].sum(1) / metrics.episodes[:, -10:].sum(1)
    assert late.mean() > 50


@pytest.mark.slow
def test_it_is_saved_loaded_played_and_exported(trained):
    folder, config, result = trained
    obs = np.random.default_rng(0).normal(0, 1, (64, 4)).astype(np.float32)
    policy = load_policy(folder, 1, policy=wide)
    actions = policy.predict(obs)
    assert 0 < actions.mean() < 1
    np.testing.assert_array_equal(actions, as_policy(config, result, 1, policy=wide).predict(obs))
    path = export_policy(folder, "npz", agent=1, policy=wide)
    np.testing.assert_array_equal(numpy_policy.Policy(path)(obs), actions)
    # as nnx itself computes it
    module = wide(nnx.Rngs(0))
    params = jax.tree.map(lambda x: x[1], result.state.params)
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    nnx.update(module, state)
    np.testing.assert_array_equal(np.asarray(module(obs)[0]).argmax(1), actions)
    with pytest.raises(ConfigError, match=r"own policy|was trained with policy="):
        load_policy(folder)


@pytest.mark.slow
@pytest.mark.parametrize("network", [Nnx, Nnx(rngs=nnx.Rngs(3))], ids=["class", "module"])
def test_a_run_is_resumed_to_the_bit(tmp_path, network):
    """After its second update of four, as if ctrl-C had been pressed there."""
    config, options = tiny_config(4), dict(seeds=2, policy=network)
    whole = fit(config, **options)

    def stop(step, row):
        if step == 20 and row["seed"] == 0:  # a second one would end it at once
            signal.raise_signal(signal.SIGTERM)

    stopped = fit(config, run_dir=tmp_path, callbacks=[stop], checkpoint_every=10, **options)
    assert stopped.stopped == signal.SIGTERM
    resumed = fit(config, run_dir=tmp_path, resume=True, **options)
    assert resumed.resumed_at > 0
    jax.tree.map(np.testing.assert_array_equal, resumed.state.params, whole.state.params)


class Aim(nnx.Module):
    """Mean and log_std of a Box, the latter a parameter by itself."""

    def __init__(self, rngs):
        self.mean = nnx.Linear(3, 1, rngs=rngs)
        self.log_std = nnx.Param(jnp.zeros(1))

    def __call__(self, obs):
        mean = self.mean(obs)
        log_std = jnp.broadcast_to(self.log_std[...], mean.shape)
        return (mean, log_std), mean[:, 0]


@pytest.mark.slow
def test_continuous_actions():
    out = jax.jit(make_train(tiny_config(2, env="Pendulum-v1"), policy=Aim))(KEYS[0])
    assert np.isfinite(out.metrics.policy_loss).all()
    assert out.state.params["log_std"].shape == (1,)
    assert np.abs(out.state.params["log_std"]).max() > 0  # it is trained


class Batch(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.logits = nnx.BatchNorm(4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, obs):
        x = self.logits(self.norm(obs))
        return x, x[:, 0]


class Dropping(Batch):
    def __init__(self, rngs):
        self.norm, self.logits = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)


class Counting(nnx.Module):
    def __init__(self, rngs):
        self.logits, self.calls = nnx.Linear(4, 2, rngs=rngs), nnx.Variable(jnp.zeros(()))

    def __call__(self, obs):
        self.calls[...] += 1
        return self.logits(obs), obs[:, 0]


class Column(nnx.Module):
    def __init__(self, rngs):
        self.logits = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, obs):
        return self.logits(obs), obs[:, :1]


class Alone(Column):
    def __call__(self, obs):
        return self.logits(obs)


def fails(rngs):
    raise KeyError("no such layer")


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Batch, r"has variables \['BatchStat'\]: keep to nnx.Param"),
        (Batch(nnx.Rngs(0)), r"has variables \['BatchStat'\]"),
        (Dropping, r"has variables \['RngCount', 'RngKey'\]: .* no Dropout"),
        (Counting, r"has variables \['Variable'\]"),
        (Column, r"value has shape \[2, 1\] for 2 observations"),
        (Alone, r"must return \(parameters, value\)"),
        (lambda rngs: nnx.Linear, "makes a .*: let it return an nnx.Module"),
        (lambda rngs: 3, "makes a int: let it return an nnx.Module"),
        (lambda: Column(nnx.Rngs(0)), "must make an nnx.Module of rngs alone"),
        (nnx.Linear, "must make an nnx.Module of rngs alone .* lambda rngs"),
        (fails, "is called with rngs, and raises KeyError: 'no such layer'"),
        (lambda obs: obs @ np.ones((4, 2)), "is called with rngs, and raises "),
        (Linen, r"is a class: pass Linen\(\)"),
        ("mlp", r"must be a Policy, a linen module such as MyNet\(\), or a function"),
        (3, "must be a Policy"),
    ],
)
def test_what_is_no_network_is_refused(network, words):
    with pytest.raises(ConfigError, match=words):
        make_policy(PPOConfig(), SPEC, network)


def test_dropout_that_drops_nothing_is_taken():
    class Still(nnx.Module):
        def __init__(self, rngs):
            self.drop, self.logits = (
                nnx.Dropout(0.5, deterministic=True),
                nnx.Linear(4, 2, rngs=rngs),
            )

        def __call__(self, obs):
            return self.logits(self.drop(obs)), obs[:, 0]

    policy = make_policy(PPOConfig(), SPEC, Still)
    params = policy.init(KEYS[0])
    _, dist, _ = policy.apply(params, (), jnp.ones((1, 4)), jnp.ones(1, bool))
    expected = jax.nn.log_softmax(params["logits"]["kernel"].sum(0))
    np.testing.assert_allclose(dist.log_prob(jnp.ones(1, jnp.int32))[0], expected[1], rtol=1e-5)
