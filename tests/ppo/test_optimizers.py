"""Optimizers by name, against their equations in NumPy, step by step."""

from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purejaxppo import OPTIMIZERS, ConfigError, PPOConfig, make_train

RATE, NORM = 0.03, 0.5
SHAPES = {"tall": (7, 3), "wide": (2, 5), "kernel": (2, 2, 3, 4), "bias": (5,), "cube": (2, 3, 4)}


def draw(seed):
    """Parameters or gradients, some of which are large."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def clipped(gradient):
    """Scaled down to the global norm."""
    norm = np.sqrt(sum((g.astype(float) ** 2).sum() for g in gradient.values()))
    return {name: g * min(1.0, NORM / norm) for name, g in gradient.items()}


# -- the equations, of one array: `(t, gradient, parameter, memory) -> step` ---------------------


def adamw(t, g, p, memory, b1=0.9, b2=0.999, decay=1e-4, eps=1e-5):
    m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
    v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
    return -RATE * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * p)


def nadam(t, g, p, memory, b1=0.9, b2=0.999, eps=1e-5):
    """Dozat 2016: the mean as it will be at the next step."""
    m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
    v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
    ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
    return -RATE * ahead / (np.sqrt(v / (1 - b2**t)) + eps)


def rmsprop(t, g, p, memory, momentum=0.0, decay=0.99, eps=1e-5):
    v = memory["v"] = decay * memory.get("v", 0) + (1 - decay) * g**2
    step = memory["step"] = momentum * memory.get("step", 0) - RATE * g / np.sqrt(v + eps)
    return step


def sgd(t, g, p, memory, momentum=0.0):
    m = memory["m"] = momentum * memory.get("m", 0) + g
    return -RATE * m


def newton_schulz(x, eps=1e-5):
    """Five steps of Jordan's polynomial, on the side with fewer rows."""
    if x.shape[0] > x.shape[1]:
        return newton_schulz(x.T).T
    x = x / (np.linalg.norm(x) + eps)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def muon(t, g, p, memory, momentum=0.95, decay=1e-4, **adam):
    if p.ndim not in (2, 4):
        return nadam(t, g, p, memory, **adam)
    m = memory["m"] = momentum * memory.get("m", 0) + (1 - momentum) * g
    ahead = momentum * m / (1 - momentum ** (t + 1)) + (1 - momentum) * g / (1 - momentum**t)
    matrix = ahead.reshape(-1, ahead.shape[-1])  # a kernel: all inputs to each output
    scale = np.sqrt(max(1, matrix.shape[1] / matrix.shape[0]))
    return -RATE * (scale * newton_schulz(matrix).reshape(p.shape) + decay * p)


CASES = {
    "adam": [("adam", {}, adamw, {"decay": 0.0})],
    "adam, its decays set": [
        ("adam", {"adam_b1": 0.5, "adam_b2": 0.9}, adamw, {"b1": 0.5, "b2": 0.9, "decay": 0.0})
    ],
    "adamw": [
        ("adamw", {}, adamw, {}),
        ("adamw", {"weight_decay": 0.3, "adam_b1": 0.8}, adamw, {"decay": 0.3, "b1": 0.8}),
    ],
    "muon": [
        ("muon", {}, muon, {}),
        (
            "muon",
            {"momentum": 0.6, "weight_decay": 0.3, "adam_b1": 0.8},
            muon,
            {"momentum": 0.6, "decay": 0.3, "b1": 0.8},
        ),
    ],
    "rmsprop": [
        ("rmsprop", {}, rmsprop, {}),
        (
            "rmsprop",
            {"momentum": 0.7, "rms_decay": 0.8, "rms_eps": 1e-2},
            rmsprop,
            {"momentum": 0.7, "decay": 0.8, "eps": 1e-2},
        ),
    ],
    "sgd": [("sgd", {}, sgd, {}), ("sgd", {"momentum": 0.7}, sgd, {"momentum": 0.7})],
}


@pytest.mark.parametrize(
    ("name", "changes", "by_hand", "constants"), [case for each in CASES.values() for case in each]
)
def test_steps_are_those_by_hand(name, changes, by_hand, constants):
    """Four steps; hyperparameters are traced, as in a sweep."""
    config = PPOConfig(optimizer=name, learning_rate=RATE, max_grad_norm=NORM, **changes)

    @jax.jit
    def step_of(hyper, gradient, state, params):
        updates, state = OPTIMIZERS[name].make(hyper).update(gradient, state, params)
        return updates, state, optax.apply_updates(params, updates)

    hyper, params = config.hyperparams(), draw(0)
    state = OPTIMIZERS[name].make(hyper).init(params)
    memories, wanted = (
        {leaf: {} for leaf in params},
        {k: p.astype(float) for k, p in params.items()},
    )
    for t in range(1, 5):
        updates, state, params = step_of(hyper, draw(t), state, params)
        for leaf, g in clipped(draw(t)).items():
            step = by_hand(t, g, wanted[leaf], memories[leaf], **constants)
            np.testing.assert_allclose(updates[leaf], step, rtol=2e-3, atol=1e-6, err_msg=leaf)
            wanted[leaf] = wanted[leaf] + step


def test_muon_moves_matrices_along_all_directions_alike():
    """The singular vectors of the gradient, with values near 1 whatever they were."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, 4)))[0] for n in (9, 6))
    gradient = {"x": jnp.asarray(left @ np.diag([1, 0.5, 0.2, 0.1]) @ right.T, jnp.float32)}
    hyper = PPOConfig(optimizer="muon", learning_rate=1.0, weight_decay=0.0).hyperparams()
    transform = OPTIMIZERS["muon"].make(hyper)
    step = transform.update(gradient, transform.init(gradient), gradient)[0]["x"]
    values = -left.T @ np.asarray(step, float) @ right
    assert ((np.diag(values) > 0.6) & (np.diag(values) < 1.25)).all()
    np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=1e-3)


def test_muon_leaves_biases_and_deviations_of_two_axes_to_adam():
    params = {
        "action": {"bias": jnp.ones((2, 3)), "log_std": jnp.ones((2, 3))},
        "log_std": {"kernel": jnp.ones((2, 3)), "content_bias": jnp.ones((2, 3))},
    }
    transform = OPTIMIZERS["muon"].make(PPOConfig(optimizer="muon").hyperparams())
    step = transform.update(params, transform.init(params), params)[0]
    adam = OPTIMIZERS["muon"].make(PPOConfig(optimizer="muon").hyperparams())
    flat = jax.tree.map(lambda x: x.reshape(-1), params)  # of which none is a matrix
    alone = adam.update(flat, adam.init(flat), flat)[0]
    for first, second in (("action", "bias"), ("action", "log_std"), ("log_std", "content_bias")):
        np.testing.assert_array_equal(step[first][second].reshape(-1), alone[first][second])
    kernel = step["log_std"]["kernel"].reshape(-1)
    assert not np.allclose(kernel, alone["log_std"]["kernel"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_has_one_structure_whatever_the_hyperparameters_are(name):
    """Templates of checkpoints and of programs are made without what an agent has of its own."""
    hyper, params = PPOConfig(optimizer=name).hyperparams(), {"w": jnp.ones((2, 3))}
    own = hyper._replace(momentum=0.5, adam_b1=0.5, adam_b2=0.5, weight_decay=0.5, rms_decay=0.5)
    before, after = (jax.eval_shape(OPTIMIZERS[name].make(h).init, params) for h in (hyper, own))
    assert before == after


def test_every_optimizer_can_be_named():
    assert get_args(get_type_hints(PPOConfig)["optimizer"]) == tuple(OPTIMIZERS)
    assert [name for name, made in OPTIMIZERS.items() if not made.elementwise] == ["muon"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight_decay": 0.1}, "use it with optimizer='adamw'"),
        ({"momentum": 0.5}, "use it with optimizer='muon'"),
        ({"optimizer": "rmsprop", "adam_b1": 0.5}, "use it with optimizer='adam'"),
        ({"optimizer": "sgd", "adam_eps": 0.5}, "use it with optimizer='adam'"),
        ({"rms_decay": 0.5}, "use it with optimizer='rmsprop'"),
        ({"adam_b2": 1.0}, "must be 0 or greater, and below 1"),
        ({"adam_b2": 1 - 1e-9}, "must be 0 or greater, and below 1"),  # 1 in float32
        ({"optimizer": "moun"}, "did you mean muon"),
    ],
)
def test_what_has_no_effect_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        PPOConfig(**changes)


def test_values_of_those_that_are_none_are_refused_with_one_that_works():
    hyper = PPOConfig(optimizer="muon").hyperparams()
    with pytest.raises(ConfigError, match=r"momentum=1.0 must be .*: use 0.9"):
        hyper.replace(momentum=1.0)
    assert hyper.replace(momentum=0.9).momentum == 0.9


# -- whole runs ---------------------------------------------------------------------------------

TINY = PPOConfig(
    num_envs=4, num_steps=8, num_minibatches=2, num_epochs=1, hidden_sizes=(8,), total_timesteps=64,
    learning_rate=3e-3,
)  # fmt: skip


@pytest.mark.slow
def test_muon_is_the_same_beside_other_seeds_and_rates():
    """Each of a vmapped pair against itself alone, with products in bfloat16."""
    config = TINY.replace(optimizer="muon", compute_dtype="bfloat16", learning_rate=0.02)
    train, keys, rates = make_train(config), jax.random.split(jax.random.key(0)), (0.02, 0.002)

    def run(key, rate):
        return train(key, config.hyperparams().replace(learning_rate=rate)).state.params

    together, alone = jax.jit(jax.vmap(run))(keys, jnp.array(rates)), jax.jit(run)
    for i, rate in enumerate(rates):
        mine = jax.tree.map(lambda x, i=i: x[i], together)
        for a, b in zip(*map(jax.tree.leaves, (mine, alone(keys[i], rate))), strict=True):
            assert a.dtype == jnp.float32
            np.testing.assert_allclose(a, b, rtol=5e-3, atol=5e-3 * rate)
