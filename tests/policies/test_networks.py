"""Initialisers and networks against NumPy, SciPy and counts worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.special
import scipy.stats

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.policies.distributions import Categorical, DiagGaussian
from purejaxppo.policies.heads import distribution
from purejaxppo.policies.layers import orthogonal
from purejaxppo.policies.networks import make_policy
from purejaxppo.policies.torsos import torso_for
from purejaxppo.spaces import Box, Discrete, EnvSpec


def box(*shape, dtype=np.float32):
    return Box(np.zeros(shape), np.ones(shape), shape, np.dtype(dtype))


def policy_of(observation, action, **changes):
    return make_policy(PPOConfig(**changes), EnvSpec(observation, action))


def start(policy, seed=0):
    return jax.jit(policy.init)(jax.random.key(seed))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# -- orthogonal --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [(8, 3), (3, 8), (6, 6), (1, 5), (5, 1), (1, 1), (3, 3, 4, 16), (2, 2, 1, 16), (64, 64)],
)
def test_orthogonal(shape, variant):
    """As a matrix of inputs by outputs: Q'Q or QQ', whichever is smaller, is the identity."""
    key = jax.random.key_data(jax.random.key(0))
    q = variant(lambda key: orthogonal(1.0)(jax.random.wrap_key_data(key), shape))(key)
    assert q.shape == shape
    assert q.dtype == jnp.float32
    q = np.asarray(q, np.float64).reshape(-1, shape[-1])
    gram = q.T @ q if q.shape[0] >= q.shape[1] else q @ q.T
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=2e-6)


def test_orthogonal_follows_scale_key_and_dtype():
    init = orthogonal(1.0)
    for scale in (2**0.5, 0.01):
        q = orthogonal(scale)(jax.random.key(0), (4, 4))
        np.testing.assert_allclose(q, scale * init(jax.random.key(0), (4, 4)), rtol=1e-6)
    a, again, b = (init(jax.random.key(seed), (4, 4)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, again)
    assert np.abs(np.asarray(a - b)).max() > 0.1
    assert init(jax.random.key(0), (4, 4), jnp.bfloat16).dtype == jnp.bfloat16


def drawn(shape, number):
    keys = jax.random.split(jax.random.key(1), number)
    return np.asarray(jax.jit(jax.vmap(lambda key: orthogonal(1.0)(key, shape)))(keys))


@pytest.mark.parametrize("shape", [(2, 2), (4, 4), (3, 5), (5, 3)])
def test_orthogonal_is_haar_distributed(shape):
    """Entries, trace and determinant are distributed like those of SciPy's ortho_group."""
    number, size = 2000, max(shape)
    ours = drawn(shape, number)
    whole = scipy.stats.ortho_group.rvs(size, number, random_state=0)
    theirs = whole[:, : shape[0], : shape[1]]
    for i, j in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        entry = ours[:, i, j]
        assert abs(entry.mean()) < 4 / np.sqrt(number * size)  # variance 1 / size
        assert scipy.stats.ks_2samp(entry, theirs[:, i, j]).pvalue > 1e-3
        positive = int((entry > 0).sum())
        assert scipy.stats.binomtest(positive, number).pvalue > 1e-3
    few = range(min(shape))
    # rounded, because the trace of a 2 x 2 reflection is 0
    traces = (np.round(q[:, few, few].sum(1), 4) for q in (ours, theirs))
    assert scipy.stats.ks_2samp(*traces).pvalue > 1e-3
    if shape[0] == shape[1]:  # reflections as often as rotations
        reflections = int((np.linalg.det(ours) < 0).sum())
        assert scipy.stats.binomtest(reflections, number).pvalue > 1e-3


def test_orthogonal_columns_have_no_direction_of_their_own():
    """Seen from any other orthonormal basis the distribution is the same (Haar's definition)."""
    ours = drawn((3, 3), 2000)
    turn = scipy.stats.ortho_group.rvs(3, random_state=1)
    for turned in (turn @ ours, ours @ turn):
        for i, j in ((0, 0), (1, 2), (2, 2)):
            assert scipy.stats.kstest(turned[:, i, j], "uniform", (-1, 2)).pvalue > 1e-3


@pytest.mark.parametrize("core", ["none", "gru"])
def test_kernels_of_a_network_are_orthogonal_and_independent(core):
    """Made together, in groups of one size: gains as declared, no two alike; so are gates."""
    policy = policy_of(box(70), Discrete(3), hidden_sizes=(8, 80), core=core)
    leaves = jax.tree_util.tree_leaves_with_path(start(policy))
    again = jax.eval_shape(policy.init, jax.random.key(0))  # JAX remembers what it has traced
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, start(policy))
    names = ("kernel", "recurrent")
    kernels = {jax.tree_util.keystr(p): np.asarray(x) for p, x in leaves if p[-1].key in names}
    made = []
    for name, kernel in kernels.items():
        gates = 3 if "recurrent" in name else 1
        gain = 0.01 if "logits" in name else 1.0 if "value" in name or "core" in name else 2**0.5
        for q in np.split(kernel / gain, gates, -1):
            gram = q @ q.T if q.shape[0] < q.shape[1] else q.T @ q
            np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)
            made.append(q)
    for i, q in enumerate(made):
        assert not any(np.allclose(q[:1, :1], other[:1, :1]) for other in made[:i])


def solver_calls(function, *arguments):
    """Names of linear algebra libraries in the compiled program."""
    text = jax.jit(function).lower(*arguments).compile().as_text().lower()
    names = ("lapack", "geqrf", "orgqr", "cusolver", "householder")
    return [name for name in names if name in text]


def test_initialising_calls_no_solver():
    """On a CPU those calls can deadlock when vmapped."""
    init = policy_of(box(5, 5, 2), box(3), torso="cnn", hidden_sizes=(8,)).init
    assert solver_calls(jax.vmap(init), jax.random.split(jax.random.key(0), 3)) == []
    assert solver_calls(lambda key: orthogonal(1.0)(key, (4, 4)), jax.random.key(0)) == []
    assert solver_calls(jnp.linalg.qr, jnp.eye(4)) != []  # they would have been seen


# -- which torso -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "space", "torso"),
    [
        ("auto", box(4), "mlp"),
        ("auto", box(), "mlp"),
        ("auto", Discrete(5), "mlp"),
        ("auto", box(4, 6), "mlp"),
        ("auto", box(10, 10, 4), "cnn"),
        ("auto", box(3, 3, 1), "cnn"),
        ("auto", box(2, 5, 3), "mlp"),  # too small for a 3 x 3 convolution
        ("auto", box(10, 10, 4, dtype=np.uint8), "cnn"),
        ("auto", box(64, 64, 3), "cnn"),
        ("auto", box(84, 84, 4, dtype=np.uint8), "nature"),
        ("auto", box(36, 36, 1, dtype=np.uint8), "nature"),
        ("auto", box(35, 84, 1, dtype=np.uint8), "cnn"),
        ("mlp", box(10, 10, 4), "mlp"),
        ("mlp", box(84, 84, 3, dtype=np.uint8), "mlp"),
        ("cnn", box(10, 10, 4), "cnn"),
        ("cnn", box(84, 84, 3, dtype=np.uint8), "cnn"),
        ("impala", box(10, 10, 4), "impala"),
        ("impala", box(7), "mlp"),  # beside a grid, in a dictionary
    ],
)
def test_torso(name, space, torso):
    assert torso_for(name, space) == torso


@pytest.mark.parametrize("space", [box(4), box(4, 6), box(2, 5, 3), Discrete(5)])
def test_cnn_needs_a_grid(space):
    with pytest.raises(ConfigError, match=r"torso='cnn' needs .*\[height, width, channels\]") as e:
        policy_of(space, Discrete(2), torso="cnn")
    assert str(list(space.shape)) in str(e.value)
    assert "torso='mlp'" in str(e.value)


def test_the_nature_network_needs_an_image():
    with pytest.raises(ConfigError, match=r"at least 36 x 36, not \[10, 10, 4\]: use torso='cnn'"):
        policy_of(box(10, 10, 4), Discrete(2), torso="nature")


# -- forward passes in NumPy -------------------------------------------------------------------

ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * scipy.special.expit(x),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}


def noisy(params, seed=0):
    """The parameters moved at random, so that no bias is 0 and no head is all but 0."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), params)


def dense(layer, x):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def numpy_mlp(torso, x, activation):
    layers = torso["MLP_0"]
    for i in range(len(layers)):
        x = activation(dense(layers[f"Dense_{i}"], x))
    return x


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_against_numpy(activation, shared):
    """Heads read the last hidden layer of their own torso; a [2, 3] observation is flattened."""
    policy = policy_of(
        box(2, 3), Discrete(4), hidden_sizes=(7, 5), activation=activation, shared_torso=shared
    )
    params = noisy(start(policy))
    obs = np.random.default_rng(1).normal(size=(6, 2, 3)).astype(np.float32)
    carry, dist, value = policy.apply(params, (), obs, jnp.zeros(6, bool))
    assert carry == ()
    f = ACTIVATIONS[activation]
    actor = numpy_mlp(params["both" if shared else "actor"], obs.reshape(6, 6), f)
    critic = actor if shared else numpy_mlp(params["critic"], obs.reshape(6, 6), f)
    np.testing.assert_allclose(
        dist.logits, dense(params["action"]["logits"], actor), rtol=1e-4, atol=1e-5
    )
    expected = dense(params["value"], critic)[:, 0]
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.uint8])
def test_cnn_against_scipy(dtype):
    """A valid 3 x 3 cross-correlation, flattened as [height, width, features]."""
    policy = policy_of(
        box(5, 4, 2, dtype=dtype), Discrete(3), torso="cnn", hidden_sizes=(6,), activation="relu"
    )
    params = noisy(start(policy))
    obs = np.random.default_rng(2).integers(0, 2, (3, 5, 4, 2)).astype(dtype)
    _, dist, value = policy.apply(params, (), obs, jnp.zeros(3, bool))
    layers = dict(params["actor"])
    kernel = np.asarray(layers["GridCNN_0"]["Conv_0"]["kernel"], np.float64)
    assert kernel.shape == (3, 3, 2, 16)
    for i in range(3):
        maps = np.zeros((3, 2, 16))
        for k in range(16):
            for c in range(2):
                image = obs[i, :, :, c].astype(np.float64)  # the bounds are 0 .. 1
                maps[:, :, k] += scipy.signal.correlate(image, kernel[:, :, c, k], "valid")
        maps = np.maximum(maps + np.asarray(layers["GridCNN_0"]["Conv_0"]["bias"]), 0)
        hidden = np.maximum(dense(layers["MLP_0"]["Dense_0"], maps.reshape(-1)), 0)
        expected = dense(params["action"]["logits"], hidden)
        np.testing.assert_allclose(dist.logits[i], expected, rtol=1e-4, atol=1e-5)
    assert value.shape == (3,)


@pytest.mark.slow
def test_discrete_observations_are_one_hot():
    """The k-th observation picks the k-th row of the first kernel."""
    policy = policy_of(Discrete(5), Discrete(2), hidden_sizes=(4,))
    params = noisy(start(policy))
    obs = jnp.array([[3, 0], [4, 1], [2, 2]], jnp.int32)
    _, dist, value = policy.apply(params, (), obs, jnp.zeros((3, 2), bool))
    layer = params["actor"]["MLP_0"]["Dense_0"]
    hidden = np.tanh(np.asarray(layer["kernel"])[np.asarray(obs)] + np.asarray(layer["bias"]))
    np.testing.assert_allclose(
        dist.logits, dense(params["action"]["logits"], hidden), rtol=1e-4, atol=1e-5
    )
    assert value.shape == (3, 2)


@pytest.mark.slow
def test_gaussian_head():
    """Mean from the actor, one log_std for every state, which starts at 0."""
    policy = policy_of(box(4), box(3), hidden_sizes=(5,))
    params = start(policy)
    np.testing.assert_array_equal(params["action"]["log_std"], np.zeros(3))
    params = noisy(params)
    obs = np.random.default_rng(3).normal(size=(2, 6, 4)).astype(np.float32)
    _, dist, _ = policy.apply(params, (), obs, jnp.zeros((2, 6), bool))
    assert isinstance(dist, DiagGaussian)
    expected = dense(params["action"]["mean"], numpy_mlp(params["actor"], obs, np.tanh))
    np.testing.assert_allclose(dist.mean, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        dist.log_std, np.broadcast_to(params["action"]["log_std"], (2, 6, 3))
    )


# -- shapes, counts, starts --------------------------------------------------------------------

SPACES = {
    "vector": (box(4), Discrete(3)),
    "matrix": (box(2, 3), Discrete(3)),
    "scalar": (box(), Discrete(3)),
    "number": (Discrete(6), Discrete(3)),
    "grid": (box(5, 4, 2), Discrete(3)),
    "bool grid": (box(5, 4, 2, dtype=np.bool_), Discrete(3)),
    "continuous": (box(4), box(2)),
    "one dimension": (box(4), box(1)),
    "one action": (box(4), Discrete(1)),
}
every_space = pytest.mark.parametrize("name", SPACES)


def observations(space, lead):
    rng = np.random.default_rng(4)
    if isinstance(space, Discrete):
        return jnp.asarray(rng.integers(0, space.n, lead), jnp.int32)
    return jnp.asarray(rng.normal(size=(*lead, *space.shape)) > 0.2, space.dtype)


@every_space
def test_any_leading_axes(name):
    """A single observation, a step [N] and more are answered alike."""
    observation, action = SPACES[name]
    policy = policy_of(observation, action, hidden_sizes=(6,))
    params = noisy(start(policy))
    apply = jax.jit(policy.apply)
    obs = observations(observation, (2, 3))
    together = apply(params, policy.initial_carry((2, 3)), obs, jnp.zeros((2, 3), bool))
    _, dist, value = together
    assert value.shape == (2, 3)
    assert value.dtype == jnp.float32
    outputs = (action.n,) if isinstance(action, Discrete) else action.shape
    for leaf in jax.tree.leaves(dist):
        assert leaf.shape == (2, 3, *outputs)
        assert leaf.dtype == jnp.float32
    assert isinstance(dist, Categorical if isinstance(action, Discrete) else DiagGaussian)
    for i in range(2):
        row = apply(params, (), obs[i], jnp.zeros(3, bool))
        for a, b in zip(jax.tree.leaves(row), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-5, atol=1e-6)
    alone = apply(params, (), obs[1, 2], jnp.bool_(False))
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(a, b[1, 2], rtol=1e-5, atol=1e-6)


@every_space
def test_a_new_policy_prefers_nothing(name):
    """A head of scale 0.01: all but uniform, or all but centred; and seeds differ."""
    observation, action = SPACES[name]
    policy = policy_of(observation, action, hidden_sizes=(16, 16))
    one, two = (start(policy, seed) for seed in (0, 1))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(one))
    assert np.abs(ravel(one) - ravel(two)).max() > 0.01
    _, dist, _ = policy.apply(one, (), observations(observation, (5,)), jnp.zeros(5, bool))
    if isinstance(action, Discrete):
        p = scipy.special.softmax(np.asarray(dist.logits), -1)
        np.testing.assert_allclose(p, 1 / action.n, atol=0.03)
    else:
        assert np.abs(np.asarray(dist.mean)).max() < 0.1


def ravel(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize(
    ("observation", "action", "torso", "heads"),
    [  # hidden sizes 7 and 5: weights and biases, by hand
        (box(4), Discrete(3), 4 * 7 + 7 + 7 * 5 + 5, 5 * 3 + 3 + 5 + 1),
        (box(2, 3), Discrete(3), 6 * 7 + 7 + 7 * 5 + 5, 5 * 3 + 3 + 5 + 1),
        (Discrete(6), Discrete(3), 6 * 7 + 7 + 7 * 5 + 5, 5 * 3 + 3 + 5 + 1),
        (box(4), box(2), 4 * 7 + 7 + 7 * 5 + 5, 5 * 2 + 2 + 2 + 5 + 1),
        (
            box(5, 4, 2),
            Discrete(3),
            3 * 3 * 2 * 16 + 16 + (3 * 2 * 16) * 7 + 7 + 7 * 5 + 5,
            5 * 3 + 3 + 5 + 1,
        ),
    ],
)
def test_parameter_counts(observation, action, torso, heads):
    for shared, torsos in ((False, 2), (True, 1)):
        policy = policy_of(observation, action, hidden_sizes=(7, 5), shared_torso=shared)
        params = jax.eval_shape(policy.init, jax.random.key(0))
        assert count(params) == torsos * torso + heads
        assert ("critic" in params) is not shared


def test_gains():
    """Hidden layers sqrt 2, value 1, action 0.01; biases 0 (arXiv:2006.05990)."""
    params = start(policy_of(box(4), Discrete(3), hidden_sizes=(7, 5)))
    gains = {"Dense_0": 2**0.5, "Dense_1": 2**0.5, "value": 1.0, "action": 0.01}
    heads = {"value": params["value"], "action": params["action"]["logits"]}
    layers = params["critic"]["MLP_0"] | heads
    assert layers.keys() == gains.keys()
    for name, layer in layers.items():
        singular = np.linalg.svd(np.asarray(layer["kernel"]), compute_uv=False)
        np.testing.assert_allclose(singular, gains[name], rtol=1e-5)
        np.testing.assert_array_equal(layer["bias"], 0.0)


def test_torsos_start_apart():
    """Actor and critic are not copies of each other, nor the layers of one torso."""
    params = start(policy_of(box(6), Discrete(3), hidden_sizes=(6, 6)))
    kernels = [
        params[t]["MLP_0"][f"Dense_{i}"]["kernel"] for t in ("actor", "critic") for i in (0, 1)
    ]
    for i, a in enumerate(kernels):
        for b in kernels[i + 1 :]:
            assert np.abs(np.asarray(a - b)).max() > 0.1


def test_no_memory():
    policy = policy_of(box(4), Discrete(3))
    assert policy.initial_carry((7,)) == ()


@pytest.mark.parametrize("lead", [(2,), (4, 1), (2, 2)])
def test_observations_with_other_leading_axes_than_the_starts_are_refused(lead):
    policy = policy_of(box(4), Discrete(3), hidden_sizes=(3,))
    params = jax.eval_shape(policy.init, jax.random.key(0))
    with pytest.raises(AssertionError, match="Chex"):
        jax.eval_shape(policy.apply, params, (), jnp.zeros((*lead, 4)), jnp.zeros((4, 2), bool))


def test_masks_with_other_leading_axes_than_the_logits_are_refused():
    with pytest.raises(AssertionError, match="Chex"):
        distribution(Discrete(3), jnp.zeros((4, 3)), jnp.ones((1, 3), bool), False)


# -- layers of the critic's own --------------------------------------------------------------------


@pytest.mark.parametrize("core", ["none", "gru"])
def test_a_critic_has_layers_of_its_own(core):
    """Dense layers of 4 -> 6 -> 5 for the actor, 4 -> 9 for the critic, counted by hand."""
    sizes = dict(hidden_sizes=(6, 5), critic_hidden_sizes=(9,), core=core)
    policy = policy_of(box(4), Discrete(3), **(sizes | ({"core_size": 7} if core == "gru" else {})))
    params = jax.eval_shape(policy.init, jax.random.key(0))
    shapes = jax.tree.map(lambda x: x.shape, params)
    dense = shapes["actor"]["MLP_0"], shapes["critic"]["MLP_0"]
    assert [layer["kernel"] for layer in dense[0].values()] == [(4, 6), (6, 5)]
    assert [layer["kernel"] for layer in dense[1].values()] == [(4, 9)]
    assert shapes["value"]["kernel"] == ((9, 1) if core == "none" else (7, 1))


@pytest.mark.slow
def test_values_are_those_of_the_critics_own_layers():
    policy = policy_of(box(3), Discrete(2), hidden_sizes=(4,), critic_hidden_sizes=(6, 5))
    params, obs = start(policy), np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    x = obs.astype(np.float64)
    for layer in ("Dense_0", "Dense_1"):
        weights = params["critic"]["MLP_0"][layer]
        x = np.tanh(x @ np.asarray(weights["kernel"], np.float64) + np.asarray(weights["bias"]))
    expected = (x @ np.asarray(params["value"]["kernel"], np.float64))[:, 0]  # its bias is 0
    value = policy.apply(params, (), obs, jnp.zeros(8, bool))[2]
    np.testing.assert_allclose(value, expected, atol=1e-5)


def test_layers_of_a_critic_that_has_none_are_refused():
    with pytest.raises(ConfigError, match="no effect here: use it with shared_torso=False"):
        PPOConfig(critic_hidden_sizes=(8,), shared_torso=True)
    with pytest.raises(ConfigError, match="positive widths, or none"):
        PPOConfig(critic_hidden_sizes=(8, 0))
    with pytest.raises(ConfigError, match=r"must be of type tuple\[int, \.\.\.\]"):
        PPOConfig(critic_hidden_sizes=8)
