"""What hidden layers compute in, beside the same by hand with every rounding where it is made."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from scipy.special import expit
from test_memory import FEATURES, SIZE, core_of, memory_like, normal
from test_networks import box
from test_torsos import correlated, numpy_pool

from purejaxppo import (
    ConfigError,
    PPOConfig,
    fit,
    load_agents,
    load_policy,
    make_actor,
    make_train,
)
from purejaxppo.act import actor_of
from purejaxppo.components import make_components
from purejaxppo.envs import make_env
from purejaxppo.envs.wrappers.base import ObservationWrapper
from purejaxppo.errors import RunWarning
from purejaxppo.policies.cores import CORES
from purejaxppo.policies.networks import make_policy
from purejaxppo.policies.torsos import IMAGE_TORSOS, MLP
from purejaxppo.runs.evaluate import evaluate_of
from purejaxppo.runs.memory import held_by_layers, seen_of
from purejaxppo.spaces import Discrete, EnvSpec
from purejaxppo.train import learner_of

BF16 = jnp.bfloat16
RNG = np.random.default_rng


def slow(*args):
    return pytest.param(*args, marks=pytest.mark.slow)


def rounded(x):
    """The nearest numbers of bfloat16, in float64."""
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


def exactly(x):
    """Numbers as they are, in float64."""
    return np.asarray(x, np.float64)


# -- torsos ------------------------------------------------------------------------------------


def mlp_by_hand(params, x, r):
    """Products, sums with the bias, norms and activations, each rounded by r; sums are exact."""
    for i in range(2):
        dense, norm = params[f"Dense_{i}"], params[f"LayerNorm_{i}"]
        x = r(r(r(x) @ r(dense["kernel"])) + exactly(dense["bias"]))
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        scale, bias = exactly(norm["scale"]), exactly(norm["bias"])
        x = r(np.tanh(r((x - mean) / np.sqrt(var + 1e-6) * scale + bias)))
    return x


def conv(layer, x, r, **options):
    product = r(correlated(r(x), r(layer["kernel"]), **options))
    return product + exactly(layer["bias"])


def cnn_by_hand(params, x, r):
    return np.maximum(r(conv(params["Conv_0"], x, r)), 0)


def nature_by_hand(params, x, r):
    for i, stride in enumerate((4, 2, 1)):
        x = np.maximum(r(conv(params[f"Conv_{i}"], x, r, strides=(stride, stride))), 0)
    return x


def impala_by_hand(params, x, r):
    layers = (params[f"Conv_{i}"] for i in range(15))
    for _ in range(3):
        x = numpy_pool(r(conv(next(layers), x, r, padding="SAME")))
        for _ in range(2):
            y = r(conv(next(layers), np.maximum(x, 0), r, padding="SAME"))
            x = r(x + conv(next(layers), np.maximum(y, 0), r, padding="SAME"))
    return np.maximum(x, 0)


def strictly(function):
    """A function in which XLA leaves no rounding out, as it may where float32 follows."""
    return jax.jit(function, compiler_options={"xla_allow_excess_precision": False})


def check_roundings(got, by_hand):
    """Ours is that with all roundings, but for sums that fall on the other side of one."""
    expected, exact = by_hand(rounded), by_hand(exactly)
    scale = np.abs(exact).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.02 * scale)
    near, far = np.abs(got - expected).mean(), np.abs(got - exact).mean()
    assert far > 1e-4 * scale and near < 0.15 * far


@pytest.mark.parametrize(
    ("name", "by_hand", "shape"),
    [
        ("mlp", mlp_by_hand, (30,)),
        ("cnn", cnn_by_hand, (6, 5, 4)),
        slow("nature", nature_by_hand, (36, 36, 2)),
        slow("impala", impala_by_hand, (7, 6, 2)),
    ],
)
def test_torsos_round_where_they_say(name, by_hand, shape):
    x, rng = RNG(0).normal(size=(8, *shape)).astype(np.float32), RNG(1)
    if name == "mlp":
        torso = MLP((24, 20), jnp.tanh, layer_norm=True, dtype=BF16)
    else:
        torso = IMAGE_TORSOS[name](jax.nn.relu, BF16)
    params = jax.eval_shape(torso.init, jax.random.key(0), x)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}

    def drawn(leaf):
        size = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.3
        return (size * rng.normal(size=leaf.shape)).astype(np.float32)

    params = jax.tree.map(drawn, params)
    got = strictly(torso.apply)({"params": params}, x)
    assert got.dtype == BF16
    check_roundings(exactly(got), lambda r: by_hand(params, x, r))


# -- cores -------------------------------------------------------------------------------------


def dense(layer, x, r):
    return r(r(x) @ r(layer["kernel"])) + exactly(layer["bias"])


def gru_step(p, h, x, r):
    none = np.zeros(SIZE)
    driven = r(dense(p["input"], x, r) + np.concatenate([none, exactly(p["keep"]), none]))
    x_r, x_z, x_n = np.split(driven, 3, -1)
    h_r, h_z, h_n = np.split(r(h) @ r(p["recurrent"]), 3, -1)
    z = expit(x_z + h_z)
    h = z * h + (1 - z) * np.tanh(x_n + expit(x_r + h_r) * h_n)
    return h, h


def lstm_step(p, carry, x, r):
    (c, h), none, keep = carry, np.zeros(SIZE), exactly(p["keep"])
    driven = r(dense(p["input"], x, r) + np.concatenate([-keep, keep, none, none]))
    i, f, o, g = np.split(driven + r(h) @ r(p["recurrent"]), 4, -1)
    c = expit(f) * c + expit(i) * np.tanh(g)
    h = expit(o) * np.tanh(c)
    return (c, h), h


def linear_step(p, h, x, r):
    forget, write = expit(dense(p["forget"], x, r)), expit(dense(p["write"], x, r))
    a = expit(exactly(p["decay"])) ** (8 * forget)
    h = a * h + np.sqrt(1 - a**2) * (write * dense(p["value"], x, r))
    return h, r(np.tanh(r(dense(p["out"], np.concatenate([h, x], -1), r))))


def mingru_step(p, carry, x, r):
    x, after = dense(p["input"], x, r), []
    for i in range(2):
        value, write, through = np.split(dense(p[f"layer_{i}"], x, r), 3, -1)
        z = expit(write - exactly(p[f"keep_{i}"]))
        value = np.where(value >= 0, value + 0.5, expit(value))
        after.append((1 - z) * carry[:, i] + z * value)
        x = x + expit(through) * (after[-1] - x)
    return np.stack(after, 1), x


STEPS = {"gru": gru_step, "lstm": lstm_step, "linear": linear_step, "mingru": mingru_step}


@pytest.mark.slow
@pytest.mark.parametrize("core", STEPS)
def test_cores_round_where_they_say(core):
    """Products alone: memory and gates are float32, which lets it last."""
    params = core_of(core)[1]["params"]
    carry, x = memory_like(core, 64), normal(2, 64, 7, FEATURES)
    starts = np.zeros(x.shape[:2], bool)
    module = CORES[core](SIZE, dtype=BF16)
    after, out = strictly(module.apply)({"params": params}, carry, x, starts)
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {np.dtype(np.float32)}
    assert out.dtype == (BF16 if core == "linear" else np.float32)

    def by_hand(r):
        state, outputs = jax.tree.map(exactly, carry), []
        for t in range(x.shape[1]):
            state, y = STEPS[core](params, state, x[:, t], r)
            outputs.append(y)
        return np.stack(outputs, 1)

    check_roundings(exactly(out), by_hand)


@pytest.mark.parametrize("core", ["gru", "lstm"])
def test_a_gate_that_is_all_but_open_is_not_taken_for_open(core):
    """1 - 1 / 1025 would be 1 in bfloat16: what is kept for 1000 steps is a 1 / e of it."""
    params = jax.tree.map(jnp.zeros_like, core_of(core)[1]["params"])
    params = dict(params) | {"keep": jnp.full(SIZE, jnp.log(1024.0))}
    ones = jnp.ones((1, SIZE))
    carry, length = (ones, ones) if core == "lstm" else ones, 1024
    x, starts = jnp.zeros((1, length, FEATURES)), jnp.zeros((1, length), bool)
    after, _ = jax.jit(CORES[core](SIZE, dtype=BF16).apply)({"params": params}, carry, x, starts)
    # log 1024 = 6.93, and bfloat16 has 6.9375 next to it: 1023 steps become 1030
    expected = expit(rounded(np.log(1024.0))) ** length
    np.testing.assert_allclose(jax.tree.leaves(after)[0], expected, rtol=1e-3)


# -- networks ----------------------------------------------------------------------------------

NETWORKS = {
    "mlp": (dict(layer_norm=True), (5,)),
    "cnn": (dict(torso="cnn"), (6, 5, 4)),
    "impala": (dict(torso="impala", shared_torso=True), (6, 5, 2)),
    "gru": (dict(core="gru"), (5,)),
    "linear": (dict(core="linear"), (5,)),
    "gtrxl": (dict(core="gtrxl", core_size=8, core_layers=1), (5,)),
}


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(getattr(inner, "jaxpr", inner))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [slow(name) if name in ("impala", "linear", "gtrxl") else name for name in NETWORKS]
)
def test_gradients_are_float32_and_so_are_their_sums(name):
    changes, shape = NETWORKS[name]
    spec, starts = EnvSpec(box(*shape), Discrete(3)), np.zeros((6, 4), bool)
    starts = starts if "core" in changes else starts[:, 0]
    obs = RNG(0).normal(size=(*starts.shape, *shape)).astype(np.float32)
    weights = RNG(1).normal(size=(*starts.shape, 3)).astype(np.float32)

    def gradient_of(dtype):
        config = PPOConfig(hidden_sizes=(16, 12), compute_dtype=dtype, **changes)
        policy = make_policy(config, spec)
        params = jax.jit(policy.init)(jax.random.key(0))

        def total(params):
            carry = policy.initial_carry(starts.shape[:1])
            _, dist, value = policy.apply(params, carry, obs, starts)
            assert dist.logits.dtype == value.dtype == jnp.float32
            return (weights * dist.logits).sum() + (weights[..., 0] * value).sum()

        traced = jax.jit(jax.grad(total)).trace(params)
        return list(equations(traced.jaxpr.jaxpr)), traced.lower().compile()(params)

    (program, ours), (_, exact) = map(gradient_of, ("bfloat16", "float32"))
    leaves, others = jax.tree.leaves(ours), jax.tree.leaves(exact)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
    # near the other, and another
    off, size = (
        np.sqrt(sum((np.asarray(x, np.float64) ** 2).sum() for x in tree))
        for tree in ([a - b for a, b in zip(leaves, others, strict=True)], others)
    )
    assert 1e-4 < off / size < (0.15 if name == "impala" else 0.03)  # maxima change places
    # sums over rows, such as those of biases; and products, but for those of the two heads: what
    # comes out, and the gradients of both that go in
    sums = {eqn.invars[0].aval.dtype for eqn in program if eqn.primitive.name == "reduce_sum"}
    assert sums == {np.dtype(np.float32)}
    products = [
        eqn.invars[0].aval.dtype
        for eqn in program
        if eqn.primitive.name in ("dot_general", "conv_general_dilated")
    ]
    assert set(products) == {np.dtype(np.float32), np.dtype(BF16)}
    assert products.count(np.dtype(np.float32)) == 2 * 3


def test_layers_hold_half_of_the_bytes():
    """Of two layers of 64 in each of actor and critic, tanh(x) and 1 - tanh(x)."""
    held = {}
    for dtype in ("float32", "bfloat16"):
        components = make_components(PPOConfig(compute_dtype=dtype))
        state = jax.eval_shape(learner_of(components).init, jax.random.key(0))
        held[dtype] = held_by_layers(components.policy, state.params, seen_of(state))
    assert held["float32"].kept == 4 * 64 * 4
    # and what the heads read of the last layers in float32
    assert held["bfloat16"].kept == 4 * 64 * 2


@pytest.mark.slow
def test_the_whole_state_is_float32():
    """Parameters, averages, memory and all that is reported."""
    config = PPOConfig(
        num_envs=4, num_steps=8, total_timesteps=64, core="gru", core_size=8, hidden_sizes=(8,),
        compute_dtype="bfloat16",
    )  # fmt: skip
    state, metrics = jax.eval_shape(make_train(config), jax.random.key(0))
    assert BF16 not in {x.dtype for x in jax.tree.leaves((state, metrics))}
    assert state.carry["actor"].dtype == metrics.policy_loss.dtype == jnp.float32


@pytest.mark.slow
def test_a_run_in_a_folder_goes_on_to_the_bit_and_acts(tmp_path):
    config = PPOConfig(
        num_envs=4, num_steps=8, total_timesteps=128, core="gru", core_size=8, hidden_sizes=(8,),
        compute_dtype="bfloat16", matmul_precision="high",
    )  # fmt: skip
    whole = fit(config, seed=1)
    part, run = config.replace(total_timesteps=64), dict(seed=1, run_dir=tmp_path / "run")
    fit(part, **run)
    with pytest.raises(ConfigError, match=r"has compute_dtype='bfloat16', not 'float32'"):
        fit(part.replace(compute_dtype="float32"), **run, resume=True)
    with pytest.warns(RunWarning, match="goes on to 128 steps"):
        result = fit(config, **run, resume=True)
    assert result.resumed_at == 2
    assert PPOConfig.from_toml(tmp_path / "run/config.toml") == config
    for a, b in zip(*(jax.tree.leaves(x.state.params) for x in (whole, result)), strict=True):
        np.testing.assert_array_equal(a, b)

    # acting goes through the same layers
    loaded, agents = load_agents(tmp_path / "run")
    actor = make_actor(loaded, jax.tree.map(lambda x: x[0], agents), deterministic=True)
    obs, policy = normal(3, 64, 4), load_policy(tmp_path / "run")
    action = actor.act(jax.random.key(0), actor.initial_carry((64,)), obs, np.ones(64, bool))[1]
    np.testing.assert_array_equal(policy.predict(obs), action)


def test_a_network_of_ones_own_has_the_dtype_that_it_has():
    class Network(MLP):
        pass

    with pytest.raises(ConfigError, match=r"^compute_dtype would have no effect on a policy"):
        make_train(PPOConfig(compute_dtype="bfloat16"), policy=Network((2,), jnp.tanh))
    with pytest.raises(ConfigError, match=r"compute_dtype='float16' is not a choice"):
        PPOConfig(compute_dtype="float16")


# -- products in float32 -----------------------------------------------------------------------


class Turned(ObservationWrapper):
    """Shows what a matrix makes of CartPole, as a grid: an environment with a product."""

    def observe(self, obs, params):
        return jnp.broadcast_to(obs @ jnp.eye(4), (3, 4))[..., None]

    def observation_space(self, params):
        return box(3, 4, 1)


CONFIG = PPOConfig(
    num_envs=2, num_steps=4, num_minibatches=1, total_timesteps=16, hidden_sizes=(8,),
    torso="cnn", core="gru", core_size=8, shared_torso=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def turned():
    return make_components(CONFIG, env=Turned(make_env("CartPole-v1")[0]))


def products_of(function, *args):
    """The precisions of what multiplies matrices, or moves a kernel over images."""
    text = jax.jit(function).lower(*args).as_text()
    lines = [line for line in text.splitlines() if "dot_general" in line or "convolution(" in line]
    words = ("DEFAULT", "HIGHEST", "HIGH")
    return [next((word for word in words if word in line), "DEFAULT") for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["highest", slow("high")])
def test_every_product_has_the_precision_that_is_asked_for(precision, turned):
    """Of the update, its gradients and the environments; of acting, and of evaluation."""
    components = turned._replace(config=turned.config.replace(matmul_precision=precision))
    learner = learner_of(components)
    state, word = jax.eval_shape(learner.init, jax.random.key(0)), precision.upper()

    def act(state, obs):
        actor = actor_of(components, state, deterministic=False)
        return actor.act(jax.random.key(0), actor.initial_carry((2,)), obs, jnp.ones(2, bool))

    update = products_of(learner.update, state)
    assert len(update) > 20 and {*update} == {word}
    # a convolution, a dense layer, the two products of a GRU and the logits
    acting = products_of(act, state, jnp.zeros((2, 3, 4, 1)))
    assert acting == [word] * 5
    if precision == "high":
        played = products_of(evaluate_of(components, 2)[0], state, jax.random.key(0))
        assert len(played) > 5 and {*played} == {word}


@pytest.mark.slow
def test_the_precision_outside_is_left_alone_by_default(turned):
    learner = learner_of(turned)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    assert {*products_of(learner.update, state)} == {"DEFAULT"}
    with jax.default_matmul_precision("highest"):
        assert {*products_of(learner.update, state)} == {"HIGHEST"}
