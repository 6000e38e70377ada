"""Convolutions, torsos and custom networks against SciPy, NumPy and numbers by hand."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import struct
from support.probes import Aim, Match
from test_networks import ACTIVATIONS, box, dense, numpy_mlp

from purejaxppo import ConfigError, PPOConfig, make_act, make_learner, make_train
from purejaxppo.policies.heads import distribution
from purejaxppo.policies.layers import convolve
from purejaxppo.policies.networks import make_policy
from purejaxppo.policies.torsos import ImpalaCNN, NatureCNN
from purejaxppo.ppo.critics import make_critic
from purejaxppo.ppo.objectives import OBJECTIVES
from purejaxppo.ppo.update import loss
from purejaxppo.spaces import Box, Discrete, EnvSpec, MultiBinary, MultiDiscrete
from purejaxppo.types import Batch

RNG = np.random.default_rng


def policy_of(observation, action=None, network=None, **changes):
    action = Discrete(3) if action is None else action
    changes = {"hidden_sizes": (6,), **changes}
    return make_policy(PPOConfig(**changes), EnvSpec(observation, action), network)


def moved(params, by=0.3, seed=0):
    """The parameters moved at random, so that no bias is 0 and no head is all but 0."""
    rng = RNG(seed)
    return jax.tree.map(lambda p: p + by * rng.normal(size=p.shape).astype(np.float32), params)


def start(policy, by=0.3):
    return moved(jax.jit(policy.init)(jax.random.key(0)), by)


def answers(policy, params, obs):
    """[B, all outputs and the value], of observations [B, *O]."""
    lead = jax.tree.leaves(obs)[0].shape[:1]
    _, dist, value = jax.jit(policy.apply)(params, (), obs, jnp.zeros(lead, bool))
    return np.concatenate(
        [np.reshape(x, (*lead, -1)) for x in (*jax.tree.leaves(dist), value)], axis=-1
    )


# -- convolutions ------------------------------------------------------------------------------


def margins(sizes, kernel, strides, padding):
    """(low, high) of both axes; SAME gives ceil(size / stride) outputs, the odd zero at the end."""
    if padding == "VALID":
        return (0, 0), (0, 0)
    if padding != "SAME":
        return padding
    numbers = zip(sizes, kernel, strides, strict=True)
    both = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k, stride in numbers]
    return tuple((n // 2, n - n // 2) for n in both)


def padded(x, kernel, strides, padding):
    around = margins(x.shape[1:3], kernel.shape[:2], strides, padding)
    return np.pad(np.asarray(x, np.float64), ((0, 0), *around, (0, 0))), around


def correlated(x, kernel, strides=(1, 1), padding="VALID"):
    """[B, height, width, features] by SciPy, for each image, channel and feature."""
    images, kernel = padded(x, kernel, strides, padding)[0], np.asarray(kernel, np.float64)
    channels, features = map(range, kernel.shape[2:])
    maps = [
        [
            sum(
                scipy.signal.correlate(image[..., c], kernel[..., c, k], "valid", "direct")
                for c in channels
            )[:: strides[0], :: strides[1]]
            for k in features
        ]
        for image in images
    ]
    return np.moveaxis(np.array(maps), 1, -1)


def backward(x, kernel, strides, padding, dy):
    """Gradients of sum(dy * y), by loops over the outputs."""
    images, ((top, _), (left, _)) = padded(x, kernel, strides, padding)
    kernel, dy = np.asarray(kernel, np.float64), np.asarray(dy, np.float64)
    d_images, d_kernel = np.zeros_like(images), np.zeros_like(kernel)
    h, w = kernel.shape[:2]
    for p, q in np.ndindex(dy.shape[1:3]):
        i, j = p * strides[0], q * strides[1]
        window = np.s_[:, i : i + h, j : j + w]
        d_kernel += np.einsum("bijc,bk->ijck", images[window], dy[:, p, q])
        d_images[window] += np.einsum("ijck,bk->bijc", kernel, dy[:, p, q])
    return d_images[:, top : top + x.shape[1], left : left + x.shape[2]], d_kernel


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def all_three(strides, padding):
    """(x, kernel, dy) to (y, dx, d_kernel)."""
    options = dict(lhs_dilation=(1, 1), rhs_dilation=(1, 1), feature_group_count=1)

    def f(x, kernel, dy):
        y, back = jax.vjp(lambda x, k: convolve(x, k, strides, padding, **options), x, kernel)
        return y, *back(dy)

    return f


NEAR = dict(rtol=1e-4, atol=1e-4)
CONVOLUTIONS = [  # size, kernel, strides, padding
    ((7, 6), (3, 3), (1, 1), "SAME"),
    ((7, 6), (4, 2), (1, 1), "SAME"),
    ((4, 5), (4, 5), (1, 1), "VALID"),  # a kernel as large as the image
    ((8, 7), (3, 2), (2, 2), "VALID"),  # one row and column are left over
    ((9, 7), (4, 3), (3, 3), "VALID"),  # two rows and one column
    ((11, 9), (4, 3), (4, 4), "VALID"),  # three rows, two columns
    ((5, 4), (1, 1), (3, 3), "SAME"),
    ((7, 11), (3, 3), (2, 4), "SAME"),
    ((5, 7), (4, 3), (4, 2), "SAME"),
    ((6, 5), (3, 3), (2, 1), ((1, 0), (2, 3))),
    ((5, 4), (2, 2), (3, 2), ((3, 2), (0, 4))),  # wider than the kernel
]


@pytest.mark.parametrize(("size", "kernel_size", "strides", "padding"), CONVOLUTIONS)
def test_convolution_and_gradients_against_loops(size, kernel_size, strides, padding, variant):
    rng = RNG(0)
    x, kernel = normal(rng, 2, *size, 3), normal(rng, *kernel_size, 3, 4)
    expected = correlated(x, kernel, strides, padding)
    dy = normal(rng, *expected.shape)
    y, dx, d_kernel = variant(all_three(strides, padding))(x, kernel, dy)
    np.testing.assert_allclose(y, expected, **NEAR)
    for got, by_loops in zip(
        (dx, d_kernel), backward(x, kernel, strides, padding, dy), strict=True
    ):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, by_loops, **NEAR)


@pytest.mark.parametrize(("size", "kernel_size", "strides", "padding"), CONVOLUTIONS)
def test_loops_against_finite_differences(size, kernel_size, strides, padding):
    """The oracle's own: exact but for float64, for a convolution is linear in either argument."""
    rng = RNG(1)
    x, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(*kernel_size, 3, 4))
    dy = rng.normal(size=correlated(x, kernel, strides, padding).shape)
    dx, d_kernel = backward(x, kernel, strides, padding, dy)

    def total(x, kernel):
        return (dy * correlated(x, kernel, strides, padding)).sum()

    u, v = rng.normal(size=x.shape), rng.normal(size=kernel.shape)
    slope = (total(x + u, kernel) - total(x - u, kernel)) / 2
    np.testing.assert_allclose((dx * u).sum(), slope, rtol=1e-9)
    slope = (total(x, kernel + v) - total(x, kernel - v)) / 2
    np.testing.assert_allclose((d_kernel * v).sum(), slope, rtol=1e-9)


def descent(strides, padding):
    """(kernel, xs, dys) to the kernel after a gradient step on each, and all the dx."""
    f = all_three(strides, padding)

    def run(kernel, xs, dys):
        def step(kernel, inputs):
            _, dx, d_kernel = f(inputs[0], kernel, inputs[1])
            return kernel - 0.01 * d_kernel, dx

        return jax.lax.scan(step, kernel, (xs, dys))

    return run


def looped_descent(kernel, xs, dys, strides, padding):
    dxs = []
    for x, dy in zip(xs, dys, strict=True):
        dx, d_kernel = backward(x, kernel, strides, padding, dy)
        kernel = kernel - 0.01 * d_kernel
        dxs.append(dx)
    return kernel, np.array(dxs)


@pytest.mark.parametrize(("strides", "padding"), [((2, 3), "SAME"), ((2, 2), "VALID")])
def test_gradients_inside_a_loop_and_over_many_kernels(strides, padding):
    """As in training: within a scan, for one seed and for several side by side."""
    rng = RNG(2)
    kernels, xs = normal(rng, 2, 3, 2, 3, 4), normal(rng, 3, 2, 6, 7, 3)
    outputs = correlated(xs[0], kernels[0], strides, padding).shape
    dys = normal(rng, 3, *outputs)
    run = descent(strides, padding)
    alone = jax.jit(run)(kernels[0], xs, dys)
    shared = jax.jit(jax.vmap(run, (0, None, None)))(kernels, xs, dys)
    apart = jax.jit(jax.vmap(run))(kernels, np.stack([xs, xs[::-1]]), np.stack([dys, dys[::-1]]))
    first, second = (looped_descent(k, xs, dys, strides, padding) for k in kernels)
    turned = looped_descent(kernels[1], xs[::-1], dys[::-1], strides, padding)
    for i in range(2):
        np.testing.assert_allclose(alone[i], first[i], **NEAR)
        np.testing.assert_allclose(shared[i], [first[i], second[i]], **NEAR)
        np.testing.assert_allclose(apart[i], [first[i], turned[i]], **NEAR)


@pytest.mark.parametrize(
    ("lead", "options"),
    [
        ((2,), dict(strides=2, padding=1)),
        ((2,), dict(strides=(3, 1), padding=((0, 2), (1, 0)))),
        ((2,), dict(padding="CIRCULAR")),
        ((), dict(strides=2)),
        ((2, 3), dict(strides=2, padding="VALID", use_bias=False)),
    ],
)
def test_convolutions_as_flax_calls_them(lead, options):
    """What nn.Conv gives, forward and backward, with it and without."""
    x, results = normal(RNG(3), *lead, 7, 6, 2), []
    params = moved(nn.Conv(3, (3, 2), **options).init(jax.random.key(0), x))
    for changes in (dict(), dict(conv_general_dilated=convolve)):
        conv = nn.Conv(3, (3, 2), **options, **changes)
        results.append(
            jax.jit(
                jax.value_and_grad(lambda p, x: jnp.sin(conv.apply(p, x)).sum(), (0, 1))  # noqa: B023
            )(params, x)
        )
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, **NEAR)


@pytest.mark.parametrize(
    "options",
    [
        dict(kernel_dilation=2),
        dict(input_dilation=(1, 2)),
        dict(feature_group_count=2),
        dict(precision="highest"),
    ],
)
def test_convolutions_refuse_what_they_would_leave_out(options):
    conv = nn.Conv(4, (2, 2), conv_general_dilated=convolve, **options)
    with pytest.raises(NotImplementedError, match=r"use nn\.Conv as it is"):
        conv.init(jax.random.key(0), jnp.zeros((1, 5, 5, 2)))


# -- image torsos ------------------------------------------------------------------------------


def relu(x):
    return np.maximum(x, 0)


def numpy_conv(layer, x, stride=1, padding="VALID"):
    bias = np.asarray(layer["bias"], np.float64)
    return correlated(x, layer["kernel"], (stride, stride), padding) + bias


def numpy_nature(layers, x):
    for i, stride in enumerate((4, 2, 1)):
        x = relu(numpy_conv(layers[f"Conv_{i}"], x, stride))
    return x


def numpy_pool(x):
    """The largest of 3 x 3, at every second row and column: ceil(size / 2) of them."""
    around = margins(x.shape[1:3], (3, 3), (2, 2), "SAME")
    x = np.pad(x, ((0, 0), *around, (0, 0)), constant_values=-np.inf)
    rows, columns = (range(0, n - 2, 2) for n in x.shape[1:3])
    windows = [[x[:, i : i + 3, j : j + 3].max((1, 2)) for j in columns] for i in rows]
    return np.moveaxis(np.array(windows), 2, 0)


def numpy_impala(layers, x):
    """Each stage: a convolution, the pool, and twice x + conv(relu(conv(relu(x))))."""
    convs = iter(layers[f"Conv_{i}"] for i in range(len(layers)))
    for _ in range(3):
        x = numpy_pool(numpy_conv(next(convs), x, padding="SAME"))
        for _ in range(2):
            y = numpy_conv(next(convs), relu(x), padding="SAME")
            x = x + numpy_conv(next(convs), relu(y), padding="SAME")
    assert next(convs, None) is None
    return relu(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("torso", "oracle", "size"),
    [
        (NatureCNN, numpy_nature, (84, 84, 1)),
        (NatureCNN, numpy_nature, (47, 38, 2)),
        (ImpalaCNN, numpy_impala, (3, 3, 1)),
        (ImpalaCNN, numpy_impala, (7, 10, 2)),
    ],
)
def test_image_torsos_against_scipy(torso, oracle, size):
    x = RNG(4).uniform(size=(2, *size)).astype(np.float32)
    network = torso(nn.relu)
    params = moved(jax.jit(network.init)(jax.random.key(0), x), by=0.03)
    expected = oracle(params["params"], x)
    assert 0.1 < (expected > 0).mean() < 0.9  # some of it is cut off, some is not
    got = jax.jit(network.apply)(params, x)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize(
    ("torso", "features", "kernels"),
    [
        ("auto", 3136, [(8, 8, 4, 32), (4, 4, 32, 64), (3, 3, 64, 64)]),
        ("nature", 3136, [(8, 8, 4, 32), (4, 4, 32, 64), (3, 3, 64, 64)]),
        (
            "impala",
            3872,
            [(3, 3, c, k) for n, k in ((4, 16), (16, 32), (32, 32)) for c in (n, k, k, k, k)],
        ),
        ("cnn", 82 * 82 * 16, [(3, 3, 4, 16)]),
        ("mlp", 84 * 84 * 4, []),
    ],
)
def test_sizes_for_images_of_84_by_84(torso, features, kernels):
    policy = policy_of(box(84, 84, 4, dtype=np.uint8), torso=torso)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    for name in ("actor", "critic"):
        layers = dict(params[name])
        assert layers.pop("MLP_0")["Dense_0"]["kernel"].shape == (features, 6)
        convs = next(iter(layers.values()), {})
        assert [convs[f"Conv_{i}"]["kernel"].shape for i in range(len(convs))] == kernels


# -- what is done to an observation first ------------------------------------------------------


def bounded(high, *shape, dtype):
    return Box(np.zeros(shape), np.full(shape, high), shape, np.dtype(dtype))


@pytest.mark.parametrize("torso", ["cnn", "mlp"])
@pytest.mark.parametrize("high", [255, 15])
def test_images_of_bytes_are_scaled_by_their_bound(torso, high):
    shape = (5, 4, 2)
    policy = policy_of(bounded(high, *shape, dtype=np.uint8), torso=torso)
    plain = policy_of(bounded(1.0, *shape, dtype=np.float32), torso=torso)
    params = start(policy, by=0.1)
    obs = RNG(6).integers(0, high + 1, (3, *shape)).astype(np.uint8)
    expected = answers(plain, params, (obs / high).astype(np.float32))
    np.testing.assert_allclose(answers(policy, params, obs), expected, **NEAR)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [(np.float32, (5, 4, 2)), (np.int32, (5, 4, 2)), (np.bool_, (5, 4, 2)), (np.uint8, (6,))],
)
def test_other_observations_are_not_scaled(dtype, shape):
    policy = policy_of(bounded(3, *shape, dtype=dtype))
    plain = policy_of(bounded(1.0, *shape, dtype=np.float32))
    params = start(policy, by=0.1)
    obs = RNG(7).integers(0, 4, (3, *shape)).astype(dtype)
    expected = answers(plain, params, obs.astype(np.float32))
    np.testing.assert_allclose(answers(policy, params, obs), expected, **NEAR)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_layer_norm_against_numpy(activation):
    policy = policy_of(box(4), hidden_sizes=(7, 5), activation=activation, layer_norm=True)
    params, x = start(policy), normal(RNG(8), 6, 4)
    obs, layers = x, params["actor"]["MLP_0"]
    for i in range(2):
        x = dense(layers[f"Dense_{i}"], x)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        norm = layers[f"LayerNorm_{i}"]
        x = ACTIVATIONS[activation](x * np.asarray(norm["scale"]) + np.asarray(norm["bias"]))
    expected = dense(params["action"]["logits"], x)
    np.testing.assert_allclose(answers(policy, params, obs)[:, :3], expected, **NEAR)


# -- observations of many parts ----------------------------------------------------------------


class Seen(NamedTuple):
    """Not in the order of the alphabet."""

    speed: object
    place: object


class Masked(NamedTuple):
    """What may be done stands between what is seen."""

    speed: object
    action_mask: object
    place: object


@struct.dataclass
class Labelled:
    """With something that is no array."""

    speed: object
    action_mask: object
    label: int = struct.field(pytree_node=False, default=3)


def one_hot(x, n):
    return np.eye(n)[np.asarray(x)]


def columns(*parts):
    return np.concatenate([np.reshape(p, (4, -1)) for p in parts], -1).astype(np.float32)


def drawn():
    rng = RNG(9)
    return (
        normal(rng, 4, 2, 2), normal(rng, 4, 3), normal(rng, 4),
        rng.integers(0, 4, 4).astype(np.int32),
        rng.integers(0, (2, 3), (4, 2)).astype(np.int32),
        rng.integers(0, 2, (4, 2)).astype(np.int8),
    )  # fmt: skip


MATRIX, VECTOR, SCALAR, NUMBER, SETTINGS, BITS = drawn()
SEVERAL = {
    "vectors and a number": (
        {"b": box(3), "a": box(2, 2), "c": Discrete(4)},
        {"b": VECTOR, "a": MATRIX, "c": NUMBER},
        columns(MATRIX, VECTOR, one_hot(NUMBER, 4)),
    ),
    "of every kind": (
        (MultiDiscrete((2, 3)), MultiBinary((2,)), box(), Discrete(4)),
        (SETTINGS, BITS, SCALAR, NUMBER),
        columns(
            one_hot(SETTINGS[:, 0], 2), one_hot(SETTINGS[:, 1], 3), BITS, SCALAR,
            one_hot(NUMBER, 4),
        ),
    ),
    "a record": (
        Seen(box(3), Discrete(4)),
        Seen(VECTOR, NUMBER),
        columns(VECTOR, one_hot(NUMBER, 4)),
    ),
    "nested": (
        {"z": box(), "a": (Seen(box(3), {"k": Discrete(4)}), box(2, 2))},
        {"z": SCALAR, "a": (Seen(VECTOR, {"k": NUMBER}), MATRIX)},
        columns(VECTOR, one_hot(NUMBER, 4), MATRIX, SCALAR),
    ),
    "a record with a mask": (
        Masked(box(3), box(3, dtype=np.bool_), Discrete(4)),
        Masked(VECTOR, np.ones((4, 3), bool), NUMBER),
        columns(one_hot(NUMBER, 4), VECTOR),  # as a dictionary, by name
    ),
    "a dataclass with a mask": (
        Labelled(box(3), box(3, dtype=np.bool_)),
        Labelled(VECTOR, np.ones((4, 3), bool)),
        columns(VECTOR),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", SEVERAL)
def test_many_parts_are_one_vector(name, shared):
    """The same parameters give the same answers to the columns put together by hand."""
    spaces, obs, vector = SEVERAL[name]
    policy = policy_of(spaces, shared_torso=shared)
    plain = policy_of(box(vector.shape[-1]), shared_torso=shared)
    params = start(plain)
    shapes = [jax.eval_shape(p.init, jax.random.key(0)) for p in (policy, plain)]
    assert shapes[0] == shapes[1]
    expected = answers(plain, params, vector)
    np.testing.assert_allclose(answers(policy, params, obs), expected, **NEAR)


def test_a_mask_is_not_an_observation():
    """It moves the logits of what it forbids, and nothing else."""
    spaces, obs, _ = SEVERAL["a record with a mask"]
    policy = policy_of(spaces)
    params = start(policy)
    free = answers(policy, params, obs)
    mask = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1]], bool)
    held = answers(policy, params, obs._replace(action_mask=mask))
    kept = np.column_stack([mask, np.ones(4, bool)])
    np.testing.assert_array_equal(held[kept], free[kept])
    assert (held[~kept] < -1e30).all()


def grid_features(layers, board):
    return relu(correlated(board, layers["kernel"]) + np.asarray(layers["bias"])).reshape(4, -1)


@pytest.mark.parametrize("shared", [False, True])
def test_two_boards_and_a_vector_against_scipy(shared):
    """Each board has its convolution, bytes are scaled, and one MLP reads all features."""
    spaces = {
        "board": bounded(255, 5, 4, 2, dtype=np.uint8),
        "chart": box(3, 5, 1),
        "time": Discrete(4),
        "speed": box(3),
    }
    policy = policy_of(spaces, hidden_sizes=(7, 5), activation="relu", shared_torso=shared)
    params, rng = start(policy), RNG(10)
    board = rng.integers(0, 256, (4, 5, 4, 2)).astype(np.uint8)
    chart = normal(rng, 4, 3, 5, 1)
    obs = {"board": board, "chart": chart, "time": NUMBER, "speed": VECTOR}
    outputs = []
    for torso in ("both", "both") if shared else ("actor", "critic"):
        layers = params[torso]
        x = [
            grid_features(layers["GridCNN_0"]["Conv_0"], board / 255),
            grid_features(layers["GridCNN_1"]["Conv_0"], chart),
        ]
        x = np.concatenate([*x, VECTOR, one_hot(NUMBER, 4)], -1)
        outputs.append(numpy_mlp(layers, x, relu))
    logits, value = (
        dense(params["action"]["logits"], outputs[0]),
        dense(params["value"], outputs[1]),
    )
    expected = np.concatenate([logits, value], -1)
    np.testing.assert_allclose(answers(policy, params, obs), expected, rtol=1e-3, atol=1e-3)


# -- every parameter learns --------------------------------------------------------------------

MANY_ACTIONS = {"a": Discrete(3), "b": (box(2), MultiBinary((2,)))}
BOARD = {"board": bounded(255, 4, 4, 1, dtype=np.uint8), "speed": box(2)}
LEARNERS = {  # observation, action, configuration
    "settings": (box(3), MultiDiscrete((4, 2)), {}),
    "bits, layer norm": (box(3), MultiBinary((2, 2)), dict(layer_norm=True)),
    "spread by state, shared": (
        box(3), box(2), dict(state_dependent_std=True, shared_torso=True)),
    "squashed": (box(3), box(2), dict(squash_actions=True, state_dependent_std=True)),
    "nature": (bounded(255, 36, 36, 1, dtype=np.uint8), Discrete(3), {}),
    "impala": (
        bounded(255, 9, 9, 1, dtype=np.uint8), box(2), dict(torso="impala", shared_torso=True)),
    "cnn, gru, settings": (BOARD, MultiDiscrete((3, 2)), dict(core="gru")),
    "lstm, many actions": (
        box(3), MANY_ACTIONS, dict(core="lstm", shared_torso=True, layer_norm=True)),
    "linear, many actions": (
        box(3), MANY_ACTIONS, dict(core="linear")),
}  # fmt: skip


def observed(space, rng, lead):
    if isinstance(space, Discrete):
        return rng.integers(0, space.n, lead).astype(np.int32)
    x = rng.uniform(size=(*lead, *space.shape)) * np.asarray(space.high, np.float64)
    return (x if space.dtype == np.uint8 else 2 * x - 1).astype(space.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_every_parameter_gets_a_gradient(name):
    observation, action, changes = LEARNERS[name]
    core = dict(core_size=4) if "core" in changes else {}
    config = PPOConfig(hidden_sizes=(6, 5), entropy_coef=0.01, **changes, **core)
    policy = make_policy(config, EnvSpec(observation, action))
    params, rng = start(policy, by=0.1), RNG(11)
    lead = (4, 3) if core else (12,)
    obs = jax.tree.map(lambda space: observed(space, rng, lead), observation)
    carry = jax.tree.map(lambda x: normal(rng, *x.shape), policy.initial_carry(lead[:1]))
    starts = np.zeros(lead, bool)

    @jax.jit
    def gradient(params, key):
        _, dist, value = policy.apply(params, carry, obs, starts)
        actions = dist.sample(key)
        batch = Batch(
            obs=obs, action=actions, log_prob=dist.log_prob(actions), dist=dist, value=value,
            advantage=normal(RNG(12), *lead), target=normal(RNG(13), *lead), carry=carry,
            episode_start=starts,
        )  # fmt: skip
        batch = jax.lax.stop_gradient(batch)
        return jax.grad(
            lambda p: loss(
                p, batch, policy, OBJECTIVES["clip"], make_critic(config), config.hyperparams(), (),
            )[0]
        )(params)  # fmt: skip

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params, jax.random.key(1))):
        assert np.isfinite(leaf).all(), path
        share = np.mean(np.asarray(leaf) != 0)
        assert share > 0.9, f"{jax.tree_util.keystr(path)}: {share:.0%} of it has a gradient"


# -- a custom module ---------------------------------------------------------------------------


class Own(nn.Module):
    """Two heads on one layer; `shown` keeps the shapes of what it is called with."""

    actions: int
    shown = []  # noqa: RUF012

    @nn.compact
    def __call__(self, obs):
        self.shown.append(obs.shape)
        x = nn.relu(nn.LayerNorm()(nn.Dense(16)(obs)))
        return nn.Dense(self.actions, name="logits")(x), nn.Dense(1, name="value")(x)[:, 0]


@pytest.fixture(scope="module")
def own():
    """(configuration, what training gave, parts) of a custom module; two seeds."""
    config = PPOConfig(
        num_envs=8, num_steps=16, total_timesteps=3072, learning_rate=1e-2, gamma=0.9
    )
    parts = dict(env=Match(), policy=Own(2))
    Own.shown.clear()
    return config, jax.jit(jax.vmap(make_train(config, **parts)))(jax.random.split(KEY)), parts


KEY = jax.random.key(0)


@pytest.mark.slow
def test_a_module_of_ones_own_is_trained(own):
    """The best action is 1 where x is 1 and 0 where it is -1; both are worth 1."""
    _, out, _ = own
    assert not out.metrics.skipped_steps.any()
    assert (out.metrics.return_sum / out.metrics.episodes)[:, -1].min() > 0.9
    (params,) = out.state.params.values()
    assert params.keys() == {"Dense_0", "LayerNorm_0", "logits", "value"}


def test_a_module_sees_one_batch_axis(own):
    """In rollout, bootstrap and update, and vmapped: never [N] alone, never [T, N]."""
    assert len(Own.shown) > 4
    assert all(len(shape) == 2 and shape[1] == 1 for shape in Own.shown)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
def test_a_module_sees_one_batch_axis_for_any_leading_axes(lead):
    policy = policy_of(box(2, 2), network=Own2D())
    params = policy.init(KEY)
    obs = normal(RNG(14), *lead, 2, 2)
    _, dist, value = policy.apply(params, (), obs, jnp.zeros(lead, bool))
    (layers,) = params.values()
    expected = dense(layers["Dense_0"], obs.reshape(*lead, 4))
    np.testing.assert_allclose(dist.logits, expected[..., :3], **NEAR)
    np.testing.assert_allclose(value, expected[..., 3], **NEAR)


class Own2D(nn.Module):
    """A single layer for matrices."""

    @nn.compact
    def __call__(self, obs):
        assert obs.ndim == 3
        x = nn.Dense(4)(obs.reshape(-1, 4))
        return x[:, :3], x[:, 3]


@pytest.mark.slow
def test_acting_with_a_module_of_ones_own(own):
    config, out, parts = own
    state = jax.tree.map(lambda x: x[1], out.state)
    act = make_act(config, state, deterministic=True, **parts)
    obs = np.array([-1.0, 1.0, 1.0, -1.0], np.float32)[:, None]
    np.testing.assert_array_equal(act(KEY, obs), [0, 1, 1, 0])
    np.testing.assert_array_equal(jax.jit(act)(KEY, obs.reshape(2, 2, 1)), [[0, 1], [1, 0]])
    assert act(KEY, obs[1]) == 1
    sampled = make_act(config, state, **parts)(KEY, np.ones((1000, 1), np.float32))
    assert sampled.mean() > 0.9


def test_acting_on_numbers_in_lists():
    config = PPOConfig(num_envs=2, num_steps=2, total_timesteps=4, num_minibatches=1)
    state = jax.jit(make_learner(config, env=Match()).init)(KEY)
    act = make_act(config, state, deterministic=True, env=Match())
    for obs in ([1.0], [[-1.0], [0.5], [1.0]]):
        np.testing.assert_array_equal(act(KEY, obs), act(KEY, np.array(obs, np.float32)))


class Anything(nn.Module):
    """Returns what a function makes of the observation."""

    f: object

    @nn.compact
    def __call__(self, obs):
        return self.f(obs)


def head(size):
    return lambda obs: nn.Dense(size)(obs)


def value(obs):
    return nn.Dense(1)(obs)[:, 0]


def spread(obs):
    return nn.Dense(2)(obs), jnp.zeros(2)


GOOD = {  # action, parameters
    "logits": (Discrete(3), head(3)),
    "settings": (MultiDiscrete((3, 2)), head(5)),
    "bits": (MultiBinary((2,)), head(2)),
    "one log_std for all": (box(2), spread),
    "log_std by state": (box(2), lambda obs: (nn.Dense(2)(obs), nn.Dense(2)(obs))),
    "a matrix": (
        box(2, 2),
        lambda obs: (nn.Dense(4)(obs).reshape(-1, 2, 2), jnp.zeros((2, 2))),
    ),
    "several": (
        {"b": Discrete(3), "a": (box(2), MultiBinary((2,)))},
        lambda obs: {"b": head(3)(obs), "a": (spread(obs), head(2)(obs))},
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_a_module_returns_is_the_distribution(name):
    action, f = GOOD[name]
    module = Anything(lambda obs: (f(obs), value(obs)))
    policy = policy_of(box(3), action, module)
    params, obs = jax.jit(policy.init)(KEY), normal(RNG(15), 4, 3)
    _, dist, got = jax.jit(policy.apply)(params, (), obs, jnp.zeros(4, bool))
    (layers,) = params.values()
    parameters, expected = module.apply({"params": layers}, obs)
    np.testing.assert_allclose(got, expected, **NEAR)
    actions = dist.sample(KEY)
    direct = distribution(action, parameters, None, False).log_prob(actions)
    np.testing.assert_allclose(dist.log_prob(actions), direct, **NEAR)
    shapes = jax.tree.map(lambda space, x: (*space.shape, *x.shape), action, actions)
    assert shapes == jax.tree.map(lambda space: (*space.shape, 4, *space.shape), action)


BAD_PARAMETERS = {  # action, parameters
    "too many logits": (Discrete(3), head(4)),
    "too few logits": (Discrete(3), head(2)),
    "logits without a batch": (Discrete(3), lambda obs: head(3)(obs)[0]),
    "a pair for a number": (Discrete(3), spread),
    "too many settings": (MultiDiscrete((3, 2)), head(6)),
    "settings as a pair": (MultiDiscrete((3, 2)), lambda obs: (head(3)(obs), head(2)(obs))),
    "too many bits": (MultiBinary((2,)), head(3)),
    "a mean alone": (box(2), head(2)),
    "a mean too wide": (box(2), lambda obs: (head(3)(obs), jnp.zeros(3))),
    "a log_std too wide": (box(2), lambda obs: (head(2)(obs), jnp.zeros(3))),
    "three for a box": (box(2), lambda obs: (*spread(obs), head(2)(obs))),
    "names for a box": (box(2), lambda obs: dict(mean=head(2)(obs), log_std=head(2)(obs))),
    "one of two": ({"a": Discrete(2), "b": Discrete(3)}, lambda obs: {"a": head(2)(obs)}),
    "both in one": ({"a": Discrete(2), "b": Discrete(3)}, head(5)),
}


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_parameters_of_other_actions_are_refused(name):
    action, f = BAD_PARAMETERS[name]
    with pytest.raises(ConfigError, match=r"the network's parameters .* do not describe") as e:
        policy_of(box(3), action, Anything(lambda obs: (f(obs), value(obs))))
    assert str(action) in str(e.value)
    assert "return logits, or (mean, log_std) for a Box" in str(e.value)


BAD = {  # what is returned for Discrete(3), what the message says
    "value [B, 1]": (lambda obs: (head(3)(obs), head(1)(obs)), r"shape \[2, 1\].*value\[:, 0\]"),
    "value ()": (lambda obs: (head(3)(obs), value(obs).sum()), r"value has shape \[\]"),
    "None for a value": (lambda obs: (head(3)(obs), None), "value"),
    "no value": (head(3), "network"),
    "three things": (lambda obs: (head(3)(obs), value(obs), value(obs)), "network"),
    "statistics": (
        lambda obs: (head(3)(nn.BatchNorm(use_running_average=False)(obs)), value(obs)),
        r"variables \['batch_stats'\]: keep to params",
    ),
    "noise": (
        lambda obs: (head(3)(nn.Dropout(0.5, deterministic=False)(obs)), value(obs)),
        "network",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_module_that_returns_something_else_is_refused(name):
    f, text = BAD[name]
    with pytest.raises(ConfigError, match=text):
        policy_of(box(3), Discrete(3), Anything(f))


@pytest.mark.parametrize("policy", [Own, "mlp", 5], ids=["a class", "a name", "a number"])
def test_what_is_no_module_is_refused(policy):
    with pytest.raises(ConfigError, match=r"policy|network|module"):
        make_train(PPOConfig(), policy=policy)


@pytest.mark.parametrize(
    "changes", [dict(state_dependent_std=True), dict(core="gru", core_size=8), dict(core="lstm")]
)
def test_what_a_module_must_do_itself_is_refused(changes):
    module = Anything(lambda obs: (head(1)(obs), value(obs)))
    with pytest.raises(ConfigError, match="would have no effect on a policy of your own") as e:
        make_train(PPOConfig(**changes), env=Aim(), policy=module)
    assert all(name in str(e.value) for name in changes)
