"""Policies with a memory: what they remember, what they forget, and what is learned from it."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import expit, log_softmax, softmax
from support.algorithm import build, optimize, pack, seen
from support.probes import Aim, Dials, Match, Probe, Walk, moved_by
from test_networks import box, dense, noisy
from test_train import CLOSE, KEYS, UPDATES, row, same, stack

from purejaxppo import (
    OBJECTIVES,
    ConfigError,
    Policy,
    PPOConfig,
    make_act,
    make_actor,
    make_learner,
    make_train,
    tuning,
)
from purejaxppo.policies.cores import CORES
from purejaxppo.policies.distributions import Categorical
from purejaxppo.policies.networks import make_policy
from purejaxppo.ppo.advantages import gae
from purejaxppo.ppo.minibatches import as_batch
from purejaxppo.ppo.optimizer import adam as optimizer
from purejaxppo.ppo.rollout import collect
from purejaxppo.spaces import Discrete, EnvSpec, MultiBinary
from purejaxppo.types import Rollout

SIZE, FEATURES, WINDOW = 6, 3, 4
OPTIONS = {"gtrxl": dict(layers=2, heads=2, window=WINDOW), "mingru": dict(layers=2)}
every_core = pytest.mark.parametrize("core", CORES)
deep_ones_later = pytest.mark.parametrize(
    "core", [pytest.param(c, marks=[pytest.mark.slow] if c in OPTIONS else []) for c in CORES]
)
NEAR = dict(rtol=1e-4, atol=1e-5)


def fields(core):
    """The fields of a configuration for a core of these tests."""
    options = {f"core_{name}": value for name, value in OPTIONS.get(core, {}).items()}
    return dict(core=core, core_size=SIZE, **options)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# -- cores, step by step in NumPy --------------------------------------------------------------


def parted(x, count):
    """Equal parts of the last axis."""
    return np.split(x, count, -1)


def gru(p, h, x, start):
    """r, z, n from one matrix each, side by side; h' = z h + (1 - z) n, z pushed up by `keep`."""
    h = np.where(start, 0.0, h)
    x_r, x_z, x_n = np.split(dense(p["input"], x), 3, -1)
    h_r, h_z, h_n = np.split(h @ p["recurrent"], 3, -1)
    z = expit(x_z + h_z + p["keep"])
    h = z * h + (1 - z) * np.tanh(x_n + expit(x_r + h_r) * h_n)
    return h, h


def lstm(p, carry, x, start):
    """Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000."""
    c, h = (np.where(start, 0.0, part) for part in carry)
    i, f, o, g = np.split(dense(p["input"], x) + h @ p["recurrent"], 4, -1)
    c = expit(f + p["keep"]) * c + expit(i - p["keep"]) * np.tanh(g)
    h = expit(o) * np.tanh(c)
    return (c, h), h


def linear(p, h, x, start):
    """arXiv:2402.19427, eq. 1 to 4, with c = 8; an episode starts as if a_t were 0."""
    r, i = expit(dense(p["forget"], x)), expit(dense(p["write"], x))
    a = np.where(start, 0.0, expit(np.asarray(p["decay"], np.float64)) ** (8 * r))
    h = a * h + np.sqrt(1 - a**2) * (i * dense(p["value"], x))
    return h, np.tanh(dense(p["out"], np.concatenate([h, x], -1)))


def mingru(p, carry, x, start):
    """arXiv:2410.01201, section 3.1, with g of appendix B and a highway around every layer."""
    x, after = dense(p["input"], x), []
    for i in range(2):
        value, write, through = np.split(dense(p[f"layer_{i}"], x), 3, -1)
        z = expit(write - p[f"keep_{i}"])
        h = np.where(start, 0.0, carry[:, i])
        h = (1 - z) * h + z * np.where(value >= 0, value + 0.5, expit(value))
        after.append(h)
        x = expit(through) * h + (1 - expit(through)) * x
    return np.stack(after, 1), x


def gtrxl(p, carry, x, start):
    """arXiv:1910.06764, row by row, step by step, head by head."""
    after = {k: np.zeros(np.shape(v)) for k, v in carry.items()}
    outputs = []
    for b, e in enumerate(dense(p["input"], x)):
        count = 0 if start[b] else round(float(carry["count"][b]))
        for i in range(2):
            past = [carry["window"][b, i, WINDOW - 1 - n] for n in range(count)]  # latest first
            known = [e, *past][:WINDOW]
            after["window"][b, i, WINDOW - len(known) :] = known[::-1]
            e = block(p[f"layer_{i}"], e, past)
        after["count"][b] = len(known)
        outputs.append(e)
    return after, np.stack(outputs)


def block(p, x, past):
    steps = [layer_norm(p["norm"], y) for y in (x, *past)]  # by distance: 0, 1, ...
    relu = functools.partial(np.maximum, 0)
    y = gate(p["gate"], x, relu(attention(p["attention"], steps)))
    z = layer_norm(p["dense_norm"], y)
    return gate(p["dense_gate"], y, relu(dense(p["narrow"], relu(dense(p["wide"], z)))))


def attention(p, steps):
    """arXiv:1901.02860, section 3.3."""
    heads, depth = p["content_bias"].shape
    out = []
    for h in range(heads):
        part = slice(h * depth, (h + 1) * depth)
        q, k, v, r = (p[name][:, part] for name in ("query", "key", "value", "place"))
        scores = []
        for distance, step in enumerate(steps):
            angles = distance / 10_000.0 ** (np.arange(0, SIZE, 2) / SIZE)
            place = np.concatenate([np.sin(angles), np.cos(angles)]) @ r
            content = (steps[0] @ q + p["content_bias"][h]) @ (step @ k)
            scores.append((content + (steps[0] @ q + p["place_bias"][h]) @ place) / depth**0.5)
        out.append(softmax(scores) @ np.stack(steps) @ v)
    return np.concatenate(out) @ p["out"]["kernel"]


def gate(p, x, y):
    """The gate of a GRU, of which x is the state and y the input."""
    r_y, z_y, h_y = np.split(y @ p["made"]["kernel"], 3, -1)
    r_x, z_x = np.split(x @ p["given"]["kernel"], 2, -1)
    z = expit(z_y + z_x - p["bias"])
    return (1 - z) * x + z * np.tanh(h_y + (expit(r_y + r_x) * x) @ p["reset"]["kernel"])


def layer_norm(p, x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * p["scale"] + p["bias"]


CELLS = {"gru": gru, "lstm": lstm, "linear": linear, "mingru": mingru, "gtrxl": gtrxl}


def in_numpy(core, params, carry, x, starts):
    """(carry after the last step, [B, L, H]) in float64."""
    cell = CELLS[core]
    in_float64 = functools.partial(jax.tree.map, lambda x: np.asarray(x, np.float64))
    p, carry, outputs = in_float64(params["params"]), in_float64(carry), []
    for t in range(x.shape[1]):
        carry, y = cell(p, carry, x[:, t].astype(np.float64), starts[:, t, None])
        outputs.append(y)
    return carry, np.stack(outputs, 1)


@functools.cache
def core_of(name):
    """(core, parameters, compiled)."""
    core = CORES[name](SIZE, **OPTIONS.get(name, {}))
    carry = core.initial_carry((2,))
    params = jax.jit(core.init)(
        jax.random.key(0), carry, jnp.zeros((2, 1, FEATURES)), jnp.zeros((2, 1), bool)
    )
    return core, noisy(params), jax.jit(core.apply)


def memory_like(name, batch, seed=1):
    return something(core_of(name)[0].initial_carry((batch,)), seed)


def something(carry, seed=1):
    """A memory of this form, of something; a window is full in the first row."""
    return jax.tree.map(
        lambda h: (
            np.resize(np.int32([WINDOW, 1, 2, 3, 0]), h.shape)
            if h.dtype == jnp.int32
            else normal(seed, *h.shape)
        ),
        carry,
    )


def floats(tree):
    """The leaves that are no counts, nor gradients by one."""
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def other(carry):
    """Another memory of the same form; a layer norm would not see what is added to all of it."""
    return jax.tree.map(lambda h: h if h.dtype == jnp.int32 else h[..., ::-1] + 1.0, carry)


# one row each: none, the first, amid, the last, every second, all
STARTS = np.array(
    [[t in at for t in range(7)] for at in ((), (0,), (3,), (6,), (1, 3, 5), range(7))]
)


@pytest.mark.slow
@every_core
def test_core_against_numpy(core):
    _, params, apply = core_of(core)
    carry, x = memory_like(core, len(STARTS)), normal(2, *STARTS.shape, FEATURES)
    got = apply(params, carry, x, STARTS)
    expected = in_numpy(core, params, carry, x, STARTS)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **NEAR)


@pytest.mark.parametrize(
    ("core", "length"),
    [*(("linear", n) for n in (1, 2, 7, 64)), ("mingru", 64), ("gtrxl", 2), ("gtrxl", 20)],
)
def test_a_sequence_of_any_length_is_its_steps(core, length):
    """Shorter than a window and longer, with episodes that start amid it."""
    _, params, apply = core_of(core)
    rng = np.random.default_rng(length)
    carry, x = memory_like(core, 3), normal(3, 3, length, FEATURES)
    starts = rng.uniform(size=(3, length)) < 0.1
    expected = in_numpy(core, params, carry, x, starts)
    whole = apply(params, carry, x, starts)
    outputs = []
    for t in range(length):
        carry, y = apply(params, carry, x[:, t : t + 1], starts[:, t : t + 1])
        outputs.append(y)
    steps = carry, np.concatenate(outputs, 1)
    same(whole, steps, **NEAR)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **NEAR)


def new_core(name, size):
    """Its first parameters."""
    core, init = CORES[name](size), jax.jit(CORES[name](size).init)
    carry = core.initial_carry((1,))
    return init(jax.random.key(0), carry, jnp.zeros((1, 1, 2)), jnp.zeros((1, 1), bool))["params"]


def test_the_linear_recurrence_begins_with_a_long_memory():
    """a^8 uniform in 0.9 .. 0.999, and each unit's its own."""
    decay = expit(np.asarray(new_core("linear", 200)["decay"], np.float64)) ** 8
    assert decay.min() >= 0.9 and decay.max() <= 0.999 + 1e-6
    assert scipy.stats.kstest(decay, "uniform", (0.9, 0.099)).pvalue > 1e-3


@pytest.mark.parametrize(("core", "blocks"), [("gru", 3), ("lstm", 4)])
def test_gates_begin_with_memories_of_1_to_100_steps(core, blocks):
    """Kept in a step: 1 - 1 / (T + 1), log T uniform; what turns the state is orthogonal."""
    params = new_core(core, 50)
    kept = expit(np.asarray(params["keep"], np.float64))
    times = 1 / (1 - kept) - 1
    assert scipy.stats.kstest(np.log(times), "uniform", (0, np.log(100))).pvalue > 1e-3
    turns = np.split(np.asarray(params["recurrent"], np.float64), blocks, -1)
    for turn in turns:
        np.testing.assert_allclose(turn @ turn.T, np.eye(50), atol=1e-5)
    assert len({turn[0, 0] for turn in turns}) == blocks
    np.testing.assert_array_equal(params["input"]["bias"], 0.0)


@deep_ones_later
def test_gradients_through_time_against_finite_differences(core):
    """Central differences of the NumPy loops in float64, in some directions of everything."""
    module, params, _ = core_of(core)
    carry, x = memory_like(core, len(STARTS)), normal(2, *STARTS.shape, FEATURES)
    weights = jax.tree.map(
        lambda s: normal(s.size, *s.shape), jax.eval_shape(module.apply, params, carry, x, STARTS)
    )

    def total(outputs, weigh=jnp):
        pairs = zip(jax.tree.leaves(weights), jax.tree.leaves(outputs), strict=True)
        return sum(weigh.sum(w * y) for w, y in pairs)

    at = (params, carry, x)
    form = jax.jit(jax.grad(lambda at: total(module.apply(*at, STARTS)), allow_int=True))
    gradient = form(at)
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda x: np.asarray(x, np.float64), at))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        direction = [rng.normal(size=leaf.shape) for leaf in leaves]

        def moved(by, direction=direction):
            there = tree.unflatten([x + by * d for x, d in zip(leaves, direction, strict=True)])
            return total(in_numpy(core, *there, STARTS), np)

        slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
        got = sum(
            (np.asarray(g, np.float64) * d).sum()
            for g, d in zip(jax.tree.leaves(gradient), direction, strict=True)
            if g.dtype != jax.dtypes.float0
        )
        np.testing.assert_allclose(got, slope, rtol=1e-3, atol=1e-3)


def step_of(core, p, carry, x, start):
    """One step in plain operations of JAX, for its own derivative through a scan."""
    carry = jax.tree.map(
        lambda h: jnp.where(jnp.expand_dims(start, range(1, h.ndim)), jnp.zeros_like(h), h), carry
    )
    sigmoid = jax.nn.sigmoid
    if core == "gtrxl":
        return gtrxl_step(p, carry, x)
    if core == "mingru":
        x, after = x @ p["input"]["kernel"] + p["input"]["bias"], []
        for i in range(2):
            driven = x @ p[f"layer_{i}"]["kernel"] + p[f"layer_{i}"]["bias"]
            value, write, through = jnp.split(driven, 3, -1)
            z = sigmoid(write - p[f"keep_{i}"])
            value = jnp.where(value >= 0, value + 0.5, sigmoid(value))
            after.append((1 - z) * carry[:, i] + z * value)
            x = x + sigmoid(through) * (after[-1] - x)
        return jnp.stack(after, 1), x
    if core == "linear":
        forget, write, value = (x @ p[k]["kernel"] + p[k]["bias"] for k in LINEAR)
        log_a = 8 * sigmoid(forget) * jax.nn.log_sigmoid(p["decay"])
        fresh = jnp.sqrt(-jnp.expm1(2 * log_a))
        # from nothing, the input is written whole
        fresh = jnp.where(start[:, None], 1.0, fresh)
        h = jnp.exp(log_a) * carry + fresh * sigmoid(write) * value
        return h, jnp.tanh(jnp.concatenate([h, x], -1) @ p["out"]["kernel"] + p["out"]["bias"])
    driven = x @ p["input"]["kernel"] + p["input"]["bias"]
    if core == "gru":
        (r_x, z_x, n_x), (r_h, z_h, n_h) = (
            jnp.split(y, 3, -1) for y in (driven, carry @ p["recurrent"])
        )
        z = sigmoid(z_x + z_h + p["keep"])
        h = z * carry + (1 - z) * jnp.tanh(n_x + sigmoid(r_x + r_h) * n_h)
        return h, h
    c, h = carry
    i, f, o, g = jnp.split(driven + h @ p["recurrent"], 4, -1)
    c = sigmoid(f + p["keep"]) * c + sigmoid(i - p["keep"]) * jnp.tanh(g)
    h = sigmoid(o) * jnp.tanh(c)
    return (c, h), h


LINEAR = ("forget", "write", "value")


def gtrxl_step(p, carry, x):
    """One step, whose window is before it: no row of distances has to be moved."""
    count, window = carry["count"], []
    seen = jnp.arange(WINDOW + 1)[None] >= WINDOW - count[:, None]
    x = x @ p["input"]["kernel"] + p["input"]["bias"]
    angles = jnp.arange(WINDOW, -1, -1)[:, None] / 10_000.0 ** (jnp.arange(0, SIZE, 2) / SIZE)
    places = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
    for i in range(2):
        q = p[f"layer_{i}"]
        steps = jnp.concatenate([carry["window"][:, i], x[:, None]], 1)
        window.append(jnp.where(seen[..., None], steps, 0.0)[:, 1:])
        normed = jax_norm(q["norm"], steps)
        a = q["attention"]
        heads = lambda name, x, a=a: (x @ a[name]).reshape(*x.shape[:-1], 2, SIZE // 2)  # noqa: E731
        query = heads("query", normed[:, -1])
        scores = jnp.einsum("bhd,bshd->bhs", query + a["content_bias"], heads("key", normed))
        scores += jnp.einsum("bhd,shd->bhs", query + a["place_bias"], heads("place", places))
        weights = jax.nn.softmax(scores / (SIZE // 2) ** 0.5, where=seen[:, None])
        y = jnp.einsum("bhs,bshd->bhd", weights, heads("value", normed)).reshape(len(x), SIZE)
        x = jax_gate(q["gate"], x, jax.nn.relu(y @ a["out"]["kernel"]))
        y = jax.nn.relu(jax_norm(q["dense_norm"], x) @ q["wide"]["kernel"] + q["wide"]["bias"])
        y = jax.nn.relu(y @ q["narrow"]["kernel"] + q["narrow"]["bias"])
        x = jax_gate(q["dense_gate"], x, y)
    return {"count": jnp.minimum(count + 1, WINDOW), "window": jnp.stack(window, 1)}, x


def jax_norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def jax_gate(p, x, y):
    r_y, z_y, h_y = jnp.split(y @ p["made"]["kernel"], 3, -1)
    r_x, z_x = jnp.split(x @ p["given"]["kernel"], 2, -1)
    z = jax.nn.sigmoid(z_y + z_x - p["bias"])
    h = jnp.tanh(h_y + (jax.nn.sigmoid(r_y + r_x) * x) @ p["reset"]["kernel"])
    return (1 - z) * x + z * h


@pytest.fixture(params=["cpu", "accelerator"])
def device(request, monkeypatch):
    """Choices of `tuning` as they are here, and as they are where operations are launches."""
    if request.param == "accelerator":
        monkeypatch.setattr(tuning, "unroll", lambda loop: 4)
        monkeypatch.setattr(tuning, "cores_side_by_side", lambda: True)
        monkeypatch.setattr(tuning, "all_steps_at_once", lambda: True)


@pytest.mark.slow
@deep_ones_later
def test_gradients_are_those_of_a_plain_scan(core, device):
    """To 1e-6 of the largest, of two sets of parameters at once, and of all that goes in.

    To 1e-5 through the many layers of a transformer.
    """
    module, params, _ = core_of(core)
    carry, x = memory_like(core, len(STARTS)), normal(2, *STARTS.shape, FEATURES)
    weights = normal(3, *STARTS.shape, SIZE)
    twins = jax.tree.map(
        lambda x: jnp.stack([x, x if x.dtype == jnp.int32 else x + 0.1]),
        (params["params"], carry, x),
    )

    def plain(p, carry, x):
        def step(carry, inputs):
            return step_of(core, p, carry, *inputs)

        return jax.lax.scan(step, carry, (x.swapaxes(0, 1), STARTS.T))

    def ours(p, carry, x):
        after, y = module.apply({"params": p}, carry, x, STARTS)
        return after, y.swapaxes(0, 1)

    def gradients(form):
        def total(*at):
            after, y = form(*at)
            ends = sum(jnp.sum(jnp.sin(h)) for h in floats(after))
            return jnp.sum(weights.swapaxes(0, 1) * y) + ends

        gradient = jax.value_and_grad(total, (0, 1, 2), allow_int=True)
        return jax.jit(jax.vmap(gradient))(*twins)

    with jax.numpy_rank_promotion("allow"):
        expected = gradients(plain)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(gradients(ours)), jax.tree.leaves(expected), strict=True
    ):
        if a.dtype != jax.dtypes.float0:
            near = (1e-5 if core == "gtrxl" else 1e-6) * np.abs(b).max()
            np.testing.assert_allclose(a, b, 0, near, err_msg=str(path))
    # the carry of a row that begins anew has no part in it, nor what is no step of an episode
    for d_carry in floats(expected[1][1]):
        there = np.broadcast_to(~STARTS[:, :1], STARTS[:, :1].shape)
        if core == "gtrxl":
            there = there & (np.arange(WINDOW)[None] >= WINDOW - carry["count"][:, None])
            d_carry = np.abs(d_carry).sum((2, 4))
        else:
            d_carry = np.abs(d_carry).reshape(2, len(STARTS), -1)
            there = np.broadcast_to(there, d_carry.shape[1:])
        assert (d_carry[:, there] != 0).all() and (d_carry[:, ~there] == 0).all()


@deep_ones_later
def test_the_backward_loop_has_one_product(core):
    """All that does not wait for the step before is outside of the loops."""
    module, params, _ = core_of(core)
    carry, x = memory_like(core, len(STARTS)), normal(2, *STARTS.shape, FEATURES)

    def total(params):
        return module.apply(params, carry, x, STARTS)[1].sum()

    products = [
        sum(eqn.primitive.name == "dot_general" for eqn in scan.params["jaxpr"].jaxpr.eqns)
        for scan in jax.make_jaxpr(jax.grad(total))(params).eqns
        if scan.primitive.name == "scan"
    ]
    assert products == {"linear": [0, 0], "mingru": [0] * 4, "gtrxl": []}.get(core, [1, 1])


@pytest.mark.parametrize("name", ["forget", "decay"])
def test_a_gate_that_is_shut_has_a_finite_gradient(name):
    """a_t = 1 in float32: nothing is forgotten or written, and sqrt has no slope there."""
    core, params, _ = core_of("linear")
    layers = dict(params["params"])
    if name == "decay":
        layers["decay"] = jnp.full(SIZE, 100.0)
    else:
        layers["forget"] = layers["forget"] | {"bias": jnp.full(SIZE, -100.0)}
    carry, x = memory_like("linear", 2), normal(4, 2, 3, FEATURES)

    def total(params):
        after, y = core.apply(params, carry, x, np.zeros((2, 3), bool))
        return y.sum(), after

    gradient, after = jax.jit(jax.grad(total, has_aux=True))({"params": layers})
    np.testing.assert_allclose(after, carry, **NEAR)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path


@pytest.mark.slow
def test_a_transformer_begins_near_the_identity():
    """The gates' biases are 2, and where they are large, the input's layer is what comes out."""
    core = CORES["gtrxl"](8, layers=1, heads=4, window=5)
    x, starts = normal(1, 2, 3, FEATURES), jnp.zeros((2, 3), bool)
    carry = core.initial_carry((2,))
    params = jax.jit(core.init)(jax.random.key(0), carry, x, starts)["params"]
    assert set(params) == {"input", "layer_0"}
    layer, square = params["layer_0"], (8, 8)
    shapes = jax.tree.map(np.shape, layer)
    assert shapes["attention"] == {
        "query": square, "key": square, "value": square, "place": square,
        "content_bias": (4, 2), "place_bias": (4, 2), "out": {"kernel": square},
    }  # fmt: skip
    gate = {"bias": (8,), "made": {"kernel": (8, 24)}, "given": {"kernel": (8, 16)},
            "reset": {"kernel": square}}  # fmt: skip
    assert shapes["gate"] == shapes["dense_gate"] == gate
    assert shapes["wide"] == {"kernel": (8, 32), "bias": (32,)}
    shut = dict(layer)
    for name in ("gate", "dense_gate"):
        np.testing.assert_array_equal(layer[name]["bias"], 2.0)
        shut[name] = layer[name] | {"bias": jnp.full(8, 100.0)}
    y = jax.jit(core.apply)({"params": params | {"layer_0": shut}}, carry, x, starts)[1]
    np.testing.assert_allclose(y, dense(params["input"], x), **NEAR)


@every_core
def test_shapes_that_would_broadcast_are_refused_while_tracing(core):
    module, params, _ = core_of(core)
    right = memory_like(core, 2), jnp.zeros((2, 3, FEATURES)), jnp.zeros((2, 3), bool)
    jax.eval_shape(module.apply, params, *right)
    carry, x, starts = right
    one = jax.tree.map(lambda c: c[:1], carry)
    for wrong in ((one, x, starts), (carry, x, starts[:1]), (carry, x, starts[..., None])):
        with pytest.raises(AssertionError, match="Chex"):
            jax.eval_shape(module.apply, params, *wrong)


# -- policies: sequences and steps -------------------------------------------------------------


@functools.cache
def remembering(core, shared=False):
    """(policy, parameters, compiled)."""
    config = PPOConfig(**fields(core), hidden_sizes=(6,), shared_torso=shared)
    policy = make_policy(config, EnvSpec(box(FEATURES), Discrete(4)))
    params = noisy(jax.jit(policy.init)(jax.random.key(0)))
    return policy, params, jax.jit(policy.apply)


def some_carry(policy, batch):
    """A memory of something."""
    return something(policy.initial_carry((batch,)), 5)


def stepped(apply, params, carry, obs, starts):
    """(carry after the last step, logits [B, L, A], value [B, L]), one step after the other."""
    logits, values = [], []
    for t in range(starts.shape[1]):
        carry, dist, value = apply(params, carry, obs[:, t], starts[:, t])
        logits.append(dist.logits)
        values.append(value)
    return carry, jnp.stack(logits, 1), jnp.stack(values, 1)


def at_once(apply, params, carry, obs, starts):
    """The same as `stepped`, as one sequence."""
    carry, dist, value = apply(params, carry, obs, starts)
    return carry, dist.logits, value


@pytest.mark.parametrize("shared", [False, True])
@deep_ones_later
def test_a_sequence_is_its_steps(core, shared):
    policy, params, apply = remembering(core, shared)
    obs, carry = normal(6, *STARTS.shape, FEATURES), some_carry(policy, len(STARTS))
    assert set(carry) == ({"both"} if shared else {"actor", "critic"})
    whole = at_once(apply, params, carry, obs, STARTS)
    assert whole[1].shape == (*STARTS.shape, 4) and whole[2].shape == STARTS.shape
    same(whole, stepped(apply, params, carry, obs, STARTS), **NEAR)


@pytest.mark.parametrize(
    "core", [pytest.param(c, marks=[pytest.mark.slow] if c != "gru" else []) for c in CORES]
)
def test_actor_and_critic_side_by_side_are_the_two(core, monkeypatch):
    """The same parameters by the same names, outputs and gradients."""
    policy, params, _ = remembering(core)
    starts = STARTS[:, :4]
    obs, carry = normal(6, *starts.shape, FEATURES), some_carry(policy, len(starts))
    weights = normal(8, *starts.shape, 4)

    def outcome():
        def total(params, carry, obs):
            after, logits, value = at_once(policy.apply, params, carry, obs, starts)
            return jnp.sum(weights * logits) + jnp.sum(weights[..., 0] * value), after

        gradient = jax.value_and_grad(total, (0, 1, 2), has_aux=True, allow_int=True)
        lowered = jax.jit(gradient).lower(params, carry, obs)
        init = jax.eval_shape(policy.init, jax.random.key(0))
        outputs = floats(lowered.compile()(params, carry, obs))
        return init, outputs, lowered.as_text().count("dot_general")

    init, apart, products = outcome()
    monkeypatch.setattr(tuning, "cores_side_by_side", lambda: True)
    again, together, fewer = outcome()
    assert init == again and fewer < products
    same(together, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_cores_of_torsos_of_other_widths_are_apart(monkeypatch):
    """On accelerators too, where those of equal shapes go side by side."""
    config = PPOConfig(core="gru", core_size=4, hidden_sizes=(6,), critic_hidden_sizes=(9,))
    policy = make_policy(config, EnvSpec(box(FEATURES), Discrete(4)))
    params, obs = noisy(policy.init(jax.random.key(0))), normal(6, *STARTS.shape, FEATURES)
    given = params, some_carry(policy, len(STARTS)), obs, STARTS
    expected = at_once(policy.apply, *given)
    monkeypatch.setattr(tuning, "cores_side_by_side", lambda: True)
    same(at_once(policy.apply, *given), expected)


def test_a_single_observation_is_a_step_of_one():
    policy, params, apply = remembering("lstm")
    obs, carry = normal(7, FEATURES), some_carry(policy, 1)
    single = apply(params, row(carry, 0), obs, jnp.bool_(False))
    batched = apply(params, carry, obs[None], np.zeros(1, bool))
    same(single, jax.tree.map(lambda x: x[0], batched), **NEAR)
    same(policy.initial_carry(()), row(policy.initial_carry((3,)), 0))


@deep_ones_later
def test_a_reset_makes_the_past_irrelevant(core):
    policy, params, apply = remembering(core)
    obs, carry = normal(6, *STARTS.shape, FEATURES), some_carry(policy, len(STARTS))
    _, logits, value = at_once(apply, params, carry, obs, STARTS)
    for i, starts in enumerate(STARTS):
        if not starts.any():
            continue
        last = np.flatnonzero(starts)[-1]
        changed = obs.copy()
        changed[i, :last] += 1.0
        after, other_logits, other_value = at_once(apply, params, other(carry), changed, STARTS)
        np.testing.assert_allclose(other_logits[i, last:], logits[i, last:], **NEAR)
        np.testing.assert_allclose(other_value[i, last:], value[i, last:], **NEAR)
        fresh = stepped(
            apply, params, policy.initial_carry((1,)), obs[i : i + 1, last:], starts[None, last:]
        )
        same(row(after, i), row(fresh[0], 0), **NEAR)
        np.testing.assert_allclose(logits[i, last:], fresh[1][0], **NEAR)


@deep_ones_later
def test_without_a_reset_the_past_matters(core):
    """Up to the last step: the first observation, and the memory before it."""
    policy, params, apply = remembering(core)
    obs, carry = normal(6, *STARTS.shape, FEATURES), some_carry(policy, len(STARTS))
    _, logits, value = at_once(apply, params, carry, obs, STARTS)
    another = obs.copy()
    another[:, 0] += 1.0
    for changed in ((carry, another), (other(carry), obs)):
        _, other_logits, other_value = at_once(apply, params, *changed, STARTS)
        assert np.abs(np.asarray(other_logits - logits))[0, -1].max() > 1e-4
        assert np.abs(np.asarray(other_value - value))[0, -1] > 1e-4


@pytest.mark.slow
@every_core
def test_a_bad_observation_is_forgotten_with_its_episode(core):
    """NaN in one episode says nothing of the next, within a sequence or at the start of one."""
    policy, params, apply = remembering(core)
    obs, carry = normal(6, *STARTS.shape, FEATURES), some_carry(policy, len(STARTS))
    bad = obs.copy()
    bad[:, 2] = np.nan
    after, logits, _ = at_once(apply, params, carry, bad, STARTS)
    _, expected, _ = at_once(apply, params, carry, obs, STARTS)
    np.testing.assert_allclose(logits[2, 3:], expected[2, 3:], **NEAR)  # the row reset at step 3
    assert np.isnan(logits[2, 2]).all()
    spoilt = jax.tree.map(lambda h: h if h.dtype == jnp.int32 else jnp.full_like(h, jnp.nan), carry)
    _, logits, _ = at_once(apply, params, spoilt, obs, STARTS)
    np.testing.assert_allclose(logits[1], expected[1], **NEAR)  # the row reset at step 0
    assert all(np.isfinite(h).all() for h in jax.tree.leaves(row(after, 5)))


@pytest.mark.slow
@deep_ones_later
def test_gradients_of_a_sequence_are_those_of_its_steps(core):
    policy, params, _ = remembering(core, shared=True)
    starts = STARTS[1:, :4]
    obs, carry = normal(6, *starts.shape, FEATURES), some_carry(policy, len(starts))
    weights = normal(8, *starts.shape, 4)

    def gradient(form):
        def total(params, carry, obs):
            after, logits, value = form(policy.apply, params, carry, obs, starts)
            ends = sum(jnp.sum(jnp.sin(h)) for h in floats(after))
            return jnp.sum(weights * logits) + jnp.sum(weights[..., 0] * value) + ends

        return floats(jax.jit(jax.grad(total, (0, 1, 2), allow_int=True))(params, carry, obs))

    same(gradient(at_once), gradient(stepped), rtol=1e-3, atol=1e-4)


# -- rollouts as sequences ---------------------------------------------------------------------


def test_rows_are_windows_of_one_environment():
    """[T, N] = [6, 2] in sequences of 3: rows 0 and 1 are of steps 0 to 2, rows 2 and 3 of 3 to 5.

    Number 10 t + n everywhere.
    """
    number = 10.0 * jnp.arange(6)[:, None] + jnp.arange(2)[None]
    rollout = Rollout(
        obs=None, action={"a": number[..., None]}, log_prob=number,
        dist=Categorical(number[..., None]), value=number, next_value=number, reward=number,
        terminated=number > 20, truncated=number > 20, episode_start=number > 20,
        carry={"h": number[..., None]}, episode_return=number, episode_length=number,
    )  # fmt: skip
    batch = as_batch(rollout, (number, number[..., None, None]), number, number, 3)
    rows = np.array([[0, 10, 20], [1, 11, 21], [30, 40, 50], [31, 41, 51]])
    np.testing.assert_array_equal(batch.carry["h"], rows[:, :1])
    np.testing.assert_array_equal(batch.episode_start, rows > 20)
    for leaf in jax.tree.leaves(batch.replace(episode_start=(), carry=())):
        np.testing.assert_array_equal(leaf.reshape(4, 3), rows)
    assert batch.obs[1].shape == (4, 3, 1, 1)


WALK = PPOConfig(
    core="gru", core_size=SIZE, hidden_sizes=(6,), num_envs=3, num_steps=8, sequence_length=4,
    total_timesteps=24 * 4, num_minibatches=3, num_epochs=2, learning_rate=0.05,
    objective="adaptive_kl", target_kl=100.0, normalize_observations=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def walk():
    """(setup, compiled update, state after two updates, its next rollout, state after that)."""
    learner, setup = make_learner(WALK, env=Walk()), build(WALK, Walk())
    update = jax.jit(learner.update)
    state = jax.jit(learner.init)(KEYS[0])
    for _ in range(2):
        state, _ = update(state)
    key = jax.random.split(state.key, 3)[0]  # as the learner does
    run = jax.jit(
        lambda state: collect(
            setup.policy, setup.critic, setup.vec_env, 8, state, setup.env_params, key
        )
    )
    after, rollout = run(state)
    return setup, update, state, rollout, after


@pytest.mark.slow
def test_a_rollout_remembers_step_by_step(walk):
    """The memory stored is that before each step; a last value counts before its reset."""
    setup, _, state, rollout, after = walk
    ends = np.asarray(rollout.terminated | rollout.truncated)
    assert rollout.terminated.any() and rollout.truncated.any()
    apply = jax.jit(setup.policy.apply)
    carry, starts = state.carry, state.episode_start
    assert max(np.abs(h).max() for h in jax.tree.leaves(carry)) > 0.01
    for t in range(8):
        same(row(rollout.carry, t), carry, **NEAR)
        np.testing.assert_array_equal(rollout.episode_start[t], starts)
        obs = rollout.obs[t]
        carry, dist, value = apply(state.params, carry, seen(state, obs), starts)
        np.testing.assert_allclose(dist.logits, rollout.dist.logits[t], **NEAR)
        np.testing.assert_allclose(value, rollout.value[t], **NEAR)
        final = moved_by(np.asarray(obs), np.asarray(rollout.action[t])[:, None])
        going_on = np.zeros(3, bool)
        _, _, value = apply(state.params, carry, seen(state, final), going_on)
        np.testing.assert_allclose(value, rollout.next_value[t], **NEAR)
        starts = ends[t]
    same(after.carry, carry, **NEAR)
    np.testing.assert_array_equal(after.episode_start, starts)


@pytest.mark.slow
def test_a_sequence_goes_on_from_the_memory_that_the_rollout_had(walk):
    """Row k of every field is of one environment and one window; evaluated, it is the rollout."""
    setup, _, state, rollout, _ = walk
    advantage, target = normal(9, 8, 3), normal(10, 8, 3)
    obs = seen(state, rollout.obs)
    batch = as_batch(rollout, jnp.asarray(obs), jnp.asarray(advantage), jnp.asarray(target), 4)
    fields = {"obs": obs, "advantage": advantage, "target": target}
    for name in ("action", "log_prob", "dist", "value", "episode_start"):
        fields[name] = getattr(rollout, name)
    for k, (window, env) in enumerate(itertools.product(range(2), range(3))):
        for name, whole in fields.items():
            there = jax.tree.map(lambda x, w=window, e=env: x[4 * w : 4 * w + 4, e], whole)
            same(row(getattr(batch, name), k), there)
        same(row(batch.carry, k), row(rollout.carry, 4 * window, env))
    _, dist, value = jax.jit(setup.policy.apply)(
        state.params, batch.carry, batch.obs, batch.episode_start
    )
    np.testing.assert_allclose(dist.log_prob(batch.action), batch.log_prob, **NEAR)
    np.testing.assert_allclose(value, batch.value, **NEAR)


@pytest.mark.slow
def test_a_large_memory_is_kept_of_each_sequence_alone():
    """All else is that of a rollout that keeps it of every step, values of last steps included."""
    changes = dict(fields("gtrxl"), core_layers=1, objective="clip", target_kl=None)
    config = WALK.replace(**changes)
    setup = build(config, Walk())
    assert setup.policy.large_carry
    state = jax.jit(make_learner(config, env=Walk()).init)(KEYS[0])

    def rollouts(policy):
        def run(state, key):
            return collect(
                policy, setup.critic, setup.vec_env, 8, state, setup.env_params, key, length=4
            )

        state_and_rollout = jax.jit(run)
        return state_and_rollout(state_and_rollout(state, KEYS[1])[0], KEYS[2])

    (state, kept), (end, whole) = (
        rollouts(setup.policy._replace(large_carry=large)) for large in (True, False)
    )
    assert whole.truncated.any() and whole.terminated.any()
    same(state, end, **NEAR)
    same(kept.replace(carry=()), whole.replace(carry=()), **NEAR)
    same(kept.carry, jax.tree.map(lambda x: x[::4], whole.carry), **NEAR)
    assert kept.carry["actor"]["count"].max() > 0
    zeros = jnp.zeros((8, 3))
    batches = [as_batch(rollout, rollout.obs, zeros, zeros, 4) for rollout in (kept, whole)]
    same(*batches, **NEAR)


@pytest.mark.slow
def test_adaptive_kl_measures_the_divergence_of_sequences(walk):
    """From the memory that the rollout had, under the new parameters, in NumPy from logits."""
    setup, update, state, rollout, _ = walk
    hyper = jax.tree.map(jnp.float32, WALK.hyperparams())
    after, _ = update(state, hyper)
    apply, obs, logits = jax.jit(setup.policy.apply), seen(state, rollout.obs), []
    for first in (0, 4):
        carry = row(rollout.carry, first)
        for t in range(first, first + 4):
            carry, dist, _ = apply(after.params, carry, obs[t], rollout.episode_start[t])
            logits.append(dist.logits)
    old, new = (log_softmax(np.asarray(x, np.float64), -1) for x in (rollout.dist.logits, logits))
    kl = (np.exp(old) * (old - new)).sum(-1).mean()
    assert kl > 1e-4
    coefficient = float(state.objective_state)
    # halved below target / 1.5, doubled above 1.5 target
    for target, factor in ((kl * 1.55, 0.5), (kl * 1.45, 1), (kl / 1.45, 1), (kl / 1.55, 2)):
        moved, metrics = update(state, hyper.replace(adaptive_kl_target=jnp.float32(target)))
        assert float(metrics.kl_coef) == coefficient
        assert float(moved.objective_state) == coefficient * factor


def test_target_kl_with_a_memory(walk):
    """The first ratio of an update is 1 whatever is remembered; the second is not."""
    _, update, state, _, _ = walk
    hyper = jax.tree.map(jnp.float32, WALK.hyperparams())
    _, metrics = update(state, hyper)
    assert (int(metrics.gradient_steps), int(metrics.skipped_steps)) == (6, 0)
    _, metrics = update(state, hyper.replace(target_kl=jnp.float32(1e-7)))
    assert (int(metrics.gradient_steps), int(metrics.skipped_steps)) == (1, 0)


@pytest.mark.slow
def test_chunks_of_sequences_change_nothing_but_rounding(walk):
    """Minibatches of 3 sequences of 4, taken one by one."""
    setup, _, state, rollout, _ = walk
    obs = jnp.asarray(seen(state, rollout.obs))
    batch = as_batch(rollout, obs, normal(11, 8, 3), normal(12, 8, 3), 4)
    results = []
    for chunk_size in (12, 4):
        config = setup.config.replace(
            num_minibatches=2, chunk_size=chunk_size, objective="kl_penalty", target_kl=None
        )
        hyper = config.hyperparams()
        opt_state = optimizer(hyper).init(pack(state.params)[0])
        objective = OBJECTIVES[config.objective]
        run = jax.jit(functools.partial(optimize, setup.policy, objective, config, hyper))
        results.append(run(state.params, opt_state, (), batch, KEYS[1]))
    same(*results, rtol=1e-3, atol=1e-5)
    assert int(results[0][2]["gradient_steps"]) == 4


@pytest.mark.slow
def test_an_actor_steps_as_training_does(walk):
    """Statistics, memory and resets: the rollout again, sampled with its keys, or its modes."""
    setup, _, state, rollout, after = walk
    keys = jax.random.split(jax.random.split(jax.random.split(state.key, 3)[0])[0], 8)
    for deterministic in (False, True):
        actor = make_actor(WALK, state, deterministic, env=Walk())
        act, carry = jax.jit(actor.act), state.carry
        for t in range(8):
            carry, action = act(keys[t], carry, rollout.obs[t], rollout.episode_start[t])
            expected = rollout.dist.mode() if deterministic else rollout.action
            np.testing.assert_array_equal(action, expected[t])
        same(carry, after.carry, **NEAR)
    alone = actor.initial_carry(())
    same(alone, row(setup.policy.initial_carry((2,)), 0))
    obs = np.float32([0.3])
    carry, action = actor.act(KEYS[0], alone, obs, np.bool_(True))
    batched = actor.act(KEYS[0], actor.initial_carry((1,)), obs[None], np.ones(1, bool))
    assert action.shape == ()
    same((carry, action), jax.tree.map(lambda x: x[0], batched), **NEAR)


@pytest.mark.slow
def test_vmap_over_seeds_is_each_run_by_itself(walk):
    _, update, state, _, _ = walk
    states = [state, state.replace(key=KEYS[1]), update(state)[0]]
    together = jax.jit(jax.vmap(make_learner(WALK, env=Walk()).update))(stack(*states))
    for i, state in enumerate(states):
        same(row(together, i), update(state), **CLOSE)
    assert np.abs(together[0].obs[0] - together[0].obs[1]).max() > 1e-3


def test_an_act_cannot_remember(walk):
    with pytest.raises(ConfigError, match="has a memory: use make_actor"):
        make_act(WALK, walk[2], env=Walk())


# -- boundaries by hand ------------------------------------------------------------------------


def counting():
    """Its memory is the number of steps seen, this one included: V = 10 steps + x."""

    def apply(params, carry, obs, episode_start):
        def one(steps, start):
            steps = jnp.where(start, 0.0, steps) + 1.0
            return steps, steps

        last, steps = jax.lax.scan(one, carry, episode_start.reshape(len(episode_start), -1).T)
        value = 10.0 * steps.T.reshape(episode_start.shape) + obs[..., 0]
        return last, Categorical(params + jnp.zeros((*value.shape, 2))), value

    return Policy(lambda key: jnp.float32(0), lambda shape: jnp.zeros(shape), apply)


class Clock(Probe):
    """x is the time in an episode, of 3 steps; each pays 1. What ends it is the limit, or not."""

    def __init__(self, terminates):
        super().__init__(max_steps_in_episode=1000 if terminates else 3)
        self.terminates = terminates

    def first(self, key):
        return 0.0

    def move(self, x, action, time):
        return x + 1.0, (time == 2) & self.terminates


@pytest.mark.parametrize("terminates", [False, True])
def test_boundaries_of_remembered_values_by_hand(terminates):
    """Five steps with gamma = lambda = 1/2: an episode of 3, and 2 steps of the next.

    After the third step x is 3 and the memory 3 steps old, so that V' = 40 + 3, whatever comes
    next: cut there, 43 is what the episode would have gone on to, 0 if it is over. The rollout
    ends with x = 2 and a memory of 2 steps: V' = 30 + 2.
    """
    env, config = Clock(terminates), PPOConfig(num_envs=2, num_steps=5, total_timesteps=10,
                                               num_minibatches=2)  # fmt: skip
    setup = build(config, env, policy=counting())
    assert setup.sequence_length == 5
    state = make_learner(config, env=env, policy=counting()).init(KEYS[0])
    run = jax.jit(
        lambda state: collect(
            setup.policy, setup.critic, setup.vec_env, 5, state, setup.env_params, KEYS[1]
        )
    )
    state, rollout = run(state)
    both = lambda *numbers: np.repeat(np.float32(numbers)[:, None], 2, 1)  # noqa: E731
    np.testing.assert_array_equal(rollout.carry, both(0, 1, 2, 3, 1))
    np.testing.assert_array_equal(rollout.episode_start, both(1, 0, 0, 1, 0))
    np.testing.assert_array_equal(rollout.value, both(10, 21, 32, 10, 21))
    np.testing.assert_array_equal(rollout.next_value, both(21, 32, 43, 21, 32))
    np.testing.assert_array_equal(rollout.terminated, both(0, 0, terminates, 0, 0))
    np.testing.assert_array_equal(rollout.truncated, both(0, 0, not terminates, 0, 0))
    # delta: 1 + 21/2 - 10, 1 + 32/2 - 21, 1 + 43/2 - 32 or 1 - 32, and the first two again
    expected = {
        False: (-0.09375, -6.375, -9.5, 0.5, -4),
        True: (-1.4375, -11.75, -31, 0.5, -4),
    }[terminates]
    np.testing.assert_array_equal(gae(rollout, 0.5, 0.5).advantage, both(*expected))
    # the next rollout goes on with the third step of the second episode
    np.testing.assert_array_equal(state.carry, [2, 2])
    _, rollout = run(state)
    np.testing.assert_array_equal(rollout.carry, both(2, 3, 1, 2, 3))
    np.testing.assert_array_equal(rollout.value, both(32, 10, 21, 32, 10))
    np.testing.assert_array_equal(rollout.next_value, both(43, 21, 32, 43, 21))


# -- every kind of policy ----------------------------------------------------------------------


class Juggle(Match):
    """Several actions at once, of every kind; the number is never 2."""

    def pay(self, x, action):
        return super().pay(x, action["hand"][0]) - jnp.square(action["arm"][0] - x)

    def see(self, state, params):
        mask = {"number": jnp.array([True, True, False])}
        return {"x": super().see(state, params), "action_mask": mask}

    def observation_space(self, params):
        return {
            "x": super().observation_space(params),
            "action_mask": {"number": box(3, dtype=np.bool_)},
        }

    def action_space(self, params):
        arm = Aim.action_space(self, params)
        return {"arm": arm, "hand": MultiBinary((2,)), "number": Discrete(3)}


class Reach(Match):
    """A continuous action is to be x."""

    def pay(self, x, action):
        return -jnp.square(action[0] - x)

    action_space = Aim.action_space


KINDS = {
    "gru, masked settings": (Dials(), dict(core="gru", normalize_observations=True)),
    "linear, everything": (
        Juggle(), dict(core="linear", state_dependent_std=True, normalize_observations=True)),
    "feed-forward, masked settings": (Dials(), dict(normalize_observations=True)),
    "feed-forward, everything": (
        Juggle(), dict(squash_actions=True, normalize_rewards=True, shared_torso=True)),
    "lstm, shared, masked settings": (Dials(), dict(core="lstm", shared_torso=True)),
    "linear, numbers": (Walk(), dict(core="linear", layer_norm=True)),
    "gru, squashed": (
        Reach(), dict(core="gru", squash_actions=True, normalize_observations=True)),
    "gtrxl, masked settings": (
        Dials(), dict(core="gtrxl", core_heads=2, core_window=3, normalize_observations=True)),
    "mingru, shared, everything": (
        Juggle(), dict(core="mingru", shared_torso=True, normalize_rewards=True)),
    "lstm, squashed by state": (
        Reach(), dict(core="lstm", squash_actions=True, state_dependent_std=True)),
}  # fmt: skip
QUICK = [*KINDS][:2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k in QUICK else pytest.mark.slow) for k in KINDS]
)
def test_the_first_ratio_is_one(kind):
    """One epoch of one minibatch, so that metrics show the first step of each update alone."""
    env, changes = KINDS[kind]
    memory = dict(core_size=SIZE, sequence_length=4) if "core" in changes else {}
    config = PPOConfig(
        num_envs=4, num_steps=8, total_timesteps=128, num_epochs=1, num_minibatches=1,
        hidden_sizes=(6,), learning_rate=0.05, entropy_coef=0.01, **changes, **memory,
    )  # fmt: skip
    metrics = jax.jit(make_train(config, env=env))(KEYS[0]).metrics
    assert np.abs(metrics.approx_kl).max() < 1e-6
    np.testing.assert_array_equal(metrics.clip_fraction, 0.0)
    np.testing.assert_array_equal(metrics.gradient_steps, 1)
    np.testing.assert_array_equal(metrics.empty_masks, 0)
    assert metrics.grad_norm.min() > 1e-3


# -- the whole program -------------------------------------------------------------------------

SMALL = PPOConfig(
    core="gru", core_size=SIZE, hidden_sizes=(6,), num_envs=4, num_steps=8, sequence_length=4,
    total_timesteps=32 * UPDATES, num_minibatches=2, num_epochs=2, learning_rate=1e-2,
    normalize_observations=True, normalize_rewards=True,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.as_shipped
def test_updates_one_by_one_are_the_whole_run():
    learner = make_learner(SMALL, env=Walk())
    state, update, rows = jax.jit(learner.init)(KEYS[0]), jax.jit(learner.update), []
    for _ in range(UPDATES):
        state, metrics = update(state)
        rows.append(metrics)
    assert update._cache_size() == 1
    out = jax.jit(make_train(SMALL, env=Walk()))(KEYS[0])
    same(state, out.state)
    same(stack(*rows), out.metrics)


@pytest.mark.slow
@pytest.mark.parametrize("core", ["lstm", "linear", "gtrxl"])
def test_an_update_gives_the_types_that_it_takes(core):
    """To the weak type, so that a loop on the host compiles it once."""
    learner = make_learner(SMALL.replace(**fields(core)), env=Walk())
    state = jax.eval_shape(learner.init, KEYS[0])
    after, _ = jax.eval_shape(learner.update, state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)


# -- what does not fit -------------------------------------------------------------------------

TINY = dict(num_envs=4, num_steps=6, total_timesteps=24, num_minibatches=1)
WRONG = [  # changes of the configuration, parts, what is said
    (dict(sequence_length=3), {}, "sequence_length=3 has no effect without a memory"),
    (dict(core="gru", sequence_length=4), {}, "must divide num_steps=6: use 3"),
    (dict(core="gru", num_minibatches=3), {}, "must divide .* = 4 sequences of a rollout: use 2"),
    (dict(core="lstm", chunk_size=4), {}, "must be a multiple of sequence_length=6 .*: use 6"),
    (dict(core="gru"), dict(policy=counting()), "core would have no effect on a policy of your"),
    (dict(squash_actions=True), dict(policy=counting()), "squash_actions would have no effect"),
    (dict(core="gtrxl", core_size=30), {}, "core_heads=4 must divide core_size=30: use 3"),
    (dict(core="gtrxl", core_size=8, core_heads=16), {}, "must divide core_size=8: use 8"),
    (dict(core="mingru", core_heads=2), {}, "core_heads=2 has no effect here: use it with .*gtrxl"),
    (dict(core="gru", core_layers=3), {}, "core_layers=3 has no effect here: use it with .*mingru"),
    (dict(core="lstm", core_window=9), {}, "core_window=9 has no effect here: use it with .*gtrxl"),
    (dict(core="gtrxl", core_window=0), {}, "core_window=0 must be at least 1: use 64"),
    (dict(core_size=32), {}, "core_size=32 has no effect here: use it with core='gru'"),
    (dict(sequence_length=4), dict(policy=counting()), "must divide num_steps=6: use 3"),
    (dict(num_minibatches=3), dict(policy=counting()), "= 4 sequences of a rollout: use 2"),
    (dict(chunk_size=4), dict(policy=counting()), "multiple of sequence_length=6 .*: use 6"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "parts", "text"), WRONG)
def test_what_does_not_fit_is_refused(changes, parts, text):
    with pytest.raises(ConfigError, match=text):
        make_train(PPOConfig(**{**TINY, **changes}), env=Walk(), **parts)


@pytest.mark.parametrize("parts", [{}, dict(policy=counting())])
def test_sequences_are_whole_rollouts_unless_said(parts):
    core = {} if parts else dict(core="gru")
    assert build(PPOConfig(**TINY, **core), Walk(), **parts).sequence_length == 6
    config = PPOConfig(**TINY, **core, sequence_length=2)
    assert build(config, Walk(), **parts).sequence_length == 2
    assert build(PPOConfig(**TINY), Walk()).sequence_length is None


def refusal(**values):
    try:
        PPOConfig(**values)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("field", ["num_minibatches", "sequence_length", "chunk_size"])
def test_what_a_message_offers_works_where_anything_would(field):
    """If only that field has to change, then to what the message says."""
    checked, chunks = 0, (1, 3, 4, 5, 8) if field == "chunk_size" else (None,)
    for envs, steps, minibatches, length, chunk in itertools.product(
        (1, 2, 3), (2, 4, 6), (1, 2, 3, 4), (None, 2, 3), chunks
    ):
        values = dict(
            core="gru", num_envs=envs, num_steps=steps, num_minibatches=minibatches,
            sequence_length=length, chunk_size=chunk, total_timesteps=envs * steps,
            advantage_normalization="none",
        )  # fmt: skip
        text = refusal(**values)
        if text is None or not text.startswith(field):
            continue
        if all(refusal(**{**values, field: other}) for other in range(1, 19)):
            continue  # nothing would
        offered = int(re.search(r"use (\d+)$", text)[1])
        assert refusal(**{**values, field: offered}) is None, (values, text)
        checked += 1
    assert checked > 10


# -- learning ----------------------------------------------------------------------------------

DIALS = PPOConfig(
    num_envs=32, num_steps=16, total_timesteps=512 * 60, learning_rate=3e-3, hidden_sizes=(32,)
)


def reached(core, remember):
    """Return of the last tenth of the updates, the mean of two seeds."""
    memory = {} if core == "none" else dict(core_size=16)
    train = make_train(DIALS.replace(core=core, **memory), env=Dials(remember))
    metrics = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 2)).metrics
    assert not metrics.skipped_steps.any() and not metrics.empty_masks.any()
    last = jax.tree.map(lambda x: x[:, -6:].sum(), (metrics.return_sum, metrics.episodes))
    return float(last[0] / last[1])


@pytest.mark.slow
def test_dials_are_set_as_shown():
    assert reached("none", remember=False) > 7.5


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
def test_dials_are_remembered(core):
    assert reached(core, remember=True) > 7.5


@pytest.mark.slow
def test_what_is_not_seen_cannot_be_set_without_a_memory():
    """Right in the first step, then by chance among what is allowed: 5.34 at best.

    With p = 0.7 for each wrong setting to be allowed, the right one of 2 is met with probability
    0.3 + 0.7 / 2 = 0.65, that of 3 with 0.09 + 0.42 / 2 + 0.49 / 3 = 0.463: 2 + 3 (0.65 + 0.463).
    """
    assert reached("none", remember=True) < 5.6
