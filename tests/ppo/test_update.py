"""Minibatches, the optimizer, the loss and what stops, skips or feeds a gradient step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from jax.flatten_util import ravel_pytree
from support.algorithm import build, loss, optimize, pack, take

from purejaxppo import tuning as backend
from purejaxppo.config.schema import PPOConfig
from purejaxppo.policies.distributions import Categorical
from purejaxppo.policies.networks import make_policy
from purejaxppo.ppo.minibatches import Minibatches, as_batch, mean_over_chunks
from purejaxppo.ppo.normalize import normalize, update_stats
from purejaxppo.ppo.objectives import OBJECTIVES
from purejaxppo.ppo.optimizer import Optimizer, begin
from purejaxppo.ppo.optimizer import adam as optimizer
from purejaxppo.ppo.optimizer import pack as packed_in
from purejaxppo.ppo.rollout import collect
from purejaxppo.ppo.shuffle import minibatch_indices
from purejaxppo.ppo.update import optimize as steps
from purejaxppo.ppo.value_losses import VALUE_LOSSES
from purejaxppo.spaces import Box, Discrete, EnvSpec
from purejaxppo.train import make_learner
from purejaxppo.types import Batch, Policy, Rollout

OBS, ACTIONS = 3, 4


# -- a policy small enough to write down in NumPy ----------------------------------------------


def linear_policy() -> Policy:
    def init(key):
        actor, critic = jax.random.split(key)
        return {
            "actor": 0.5 * jax.random.normal(actor, (OBS, ACTIONS)),
            "critic": 0.5 * jax.random.normal(critic, (OBS,)),
        }

    def apply(params, carry, obs, episode_start):
        return carry, Categorical(obs @ params["actor"]), obs @ params["critic"]

    return Policy(init, lambda batch_shape: (), apply)


POLICY = linear_policy()
CLIP = OBJECTIVES["clip"]


def make_batch(params, size: int, seed: int = 0, move: float = 0.0) -> Batch:
    """Random transitions of a policy that lies `move` away from `params`."""
    rng = np.random.default_rng(seed)
    obs = jnp.asarray(rng.normal(size=(size, OBS)), jnp.float32)
    action = jnp.asarray(rng.integers(0, ACTIONS, size), jnp.int32)
    old = jax.tree.map(lambda p: p + move * rng.normal(size=p.shape).astype(np.float32), params)
    _, dist, value = POLICY.apply(old, (), obs, None)
    advantage, error = jnp.asarray(rng.normal(size=(2, size)), jnp.float32)
    return Batch(
        obs=obs,
        action=action,
        log_prob=dist.log_prob(action),
        dist=dist,
        value=value,
        advantage=advantage,
        target=value + error,
        carry=(),
        episode_start=jnp.zeros(size, bool),
    )


def make_config(batch_size=8, num_epochs=1, num_minibatches=4, **changes) -> PPOConfig:
    return PPOConfig(
        num_envs=2, num_steps=batch_size // 2, total_timesteps=batch_size,
        num_epochs=num_epochs, num_minibatches=num_minibatches, **changes,
    )  # fmt: skip


def start_of(config, seed=0):
    params = POLICY.init(jax.random.key(seed))
    return params, optimizer(config.hyperparams()).init(ravel_pytree(params)[0])


def run(config, params, opt_state, batch, key, objective_state=()):
    """`optimize`, compiled."""
    function = jax.jit(partial(optimize, POLICY, CLIP, config))
    return function(config.hyperparams(), params, opt_state, objective_state, batch, key)


def flat(params):
    return np.asarray(ravel_pytree(params)[0])


class Adam:
    """Global-norm clipping and Adam (Kingma and Ba 2015, algorithm 1), in float64 NumPy."""

    def __init__(self, hyper):
        self.hyper, self.steps, self.mean, self.square = hyper, 0, 0.0, 0.0
        self.rate = hyper.learning_rate

    def move(self, gradient):
        gradient = np.asarray(gradient, np.float64)
        norm = np.sqrt((gradient**2).sum())
        limit = self.hyper.max_grad_norm
        if limit is not None and norm > limit:
            gradient = gradient * limit / norm
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        mean = self.mean / (1 - 0.9**self.steps)
        square = self.square / (1 - 0.999**self.steps)
        return -self.rate * mean / (np.sqrt(square) + self.hyper.adam_eps)


def exact_kl(vector, unravel, minibatch):
    """The divergence of two categorical distributions, by their definition."""
    old = scipy.special.log_softmax(np.asarray(minibatch.dist.logits, np.float64), -1)
    logits = np.asarray(minibatch.obs, np.float64) @ np.asarray(unravel(vector)["actor"], float)
    return (np.exp(old) * (old - scipy.special.log_softmax(logits, -1))).sum(-1).mean()


def looped(config, params, batch, key, rates=None):
    """The steps of an update in a plain Python loop, with `break` and `continue`.

    Into `rates` go the learning rates of the minibatches that count, adapted by divergence.
    """
    hyper = config.hyperparams()
    vector, unravel = ravel_pytree(params)
    adam, taken, skipped, kls = Adam(hyper), 0, 0, []
    rows = minibatch_indices(key, config.batch_size, config.num_epochs, config.num_minibatches)
    f = jax.jit(
        jax.value_and_grad(
            lambda v, b: loss(unravel(v), b, POLICY, CLIP, config, hyper, ()), has_aux=True
        )
    )
    for indices in np.asarray(rows):
        minibatch = take(batch, indices, config)
        (total, parts), gradient = f(vector, minibatch)
        if not (np.isfinite(total) and np.isfinite(gradient).all()):
            skipped += 1
            continue
        kls.append(float(parts["approx_kl"]))
        if rates is not None:
            kl = exact_kl(vector, unravel, minibatch)
            if taken and kl > 2 * hyper.desired_kl:
                adam.rate = max(adam.rate / 1.5, hyper.learning_rate_min)
            elif taken and kl < hyper.desired_kl / 2:
                adam.rate = min(adam.rate * 1.5, hyper.learning_rate_max)
            rates.append(adam.rate)
        if hyper.target_kl is not None and kls[-1] > hyper.target_kl:
            break
        vector = vector + jnp.asarray(adam.move(gradient), jnp.float32)
        taken += 1
    return np.asarray(vector), taken, skipped, kls


# -- optimizer ---------------------------------------------------------------------------------


def test_clipping_is_of_the_global_norm():
    """Gradient (3, 4, 12), norm 13, to norm 6.5: halved. With adam_eps, Adam shows its size."""
    hyper = PPOConfig(learning_rate=0.1, adam_eps=1.0, max_grad_norm=6.5).hyperparams()
    transform = optimizer(hyper)
    gradient = {"a": jnp.array([3.0, -4.0]), "b": jnp.array(12.0)}
    updates, _ = transform.update(gradient, transform.init(gradient))
    np.testing.assert_allclose(updates["a"], [-0.1 * 1.5 / 2.5, 0.1 * 2 / 3], rtol=1e-5)
    np.testing.assert_allclose(updates["b"], -0.1 * 6 / 7, rtol=1e-5)


@pytest.mark.parametrize("max_grad_norm", [None, 13.5])
def test_no_clipping(max_grad_norm):
    hyper = PPOConfig(learning_rate=0.1, adam_eps=1.0, max_grad_norm=max_grad_norm).hyperparams()
    transform = optimizer(hyper)
    gradient = jnp.array([3.0, -4.0, 12.0])
    updates, _ = transform.update(gradient, transform.init(gradient))
    np.testing.assert_allclose(updates, [-0.1 * 3 / 4, 0.1 * 4 / 5, -0.1 * 12 / 13], rtol=1e-5)


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_adam_step_by_step(max_grad_norm):
    hyper = PPOConfig(learning_rate=0.03, adam_eps=1e-3, max_grad_norm=max_grad_norm).hyperparams()
    transform, adam = optimizer(hyper), Adam(hyper)
    state = transform.init(jnp.zeros(5))
    for gradient in np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32):
        updates, state = transform.update(jnp.asarray(gradient), state)
        np.testing.assert_allclose(updates, adam.move(gradient), rtol=1e-4)


def test_optimizer_hyperparameters_are_traced():
    """One program for a sweep over learning rates and norms, row by row what each is alone."""
    hyper = PPOConfig(adam_eps=1e-3).hyperparams()
    gradient = jnp.array([0.3, -2.0, 1e-3])

    def step(learning_rate, max_grad_norm):
        transform = optimizer(
            hyper.replace(learning_rate=learning_rate, max_grad_norm=max_grad_norm)
        )
        return transform.update(gradient, transform.init(gradient))[0]

    rates, norms = jnp.array([0.1, 0.2]), jnp.array([0.01, 100.0])
    for row, rate, norm in zip(jax.vmap(step)(rates, norms), rates, norms, strict=True):
        alone = Adam(hyper.replace(learning_rate=float(rate), max_grad_norm=float(norm)))
        np.testing.assert_allclose(row, alone.move(gradient), rtol=1e-4)


# -- loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["minibatch", "batch", "none"])
def test_loss_against_numpy(normalization, variant):
    """Equation 9, term by term; "batch" was done before, so here it changes nothing."""
    config = make_config(
        16, advantage_normalization=normalization, entropy_coef=0.03, value_coef=0.7, clip_eps=0.15
    )
    params, _ = start_of(config)
    batch = make_batch(params, 16, move=0.3)
    total, parts = variant(
        lambda params, batch: loss(
            params,
            take(batch, jnp.arange(16), config),
            POLICY,
            CLIP,
            config,
            config.hyperparams(),
            (),
        )
    )(params, batch)

    get = lambda x: np.asarray(x, np.float64)  # noqa: E731
    log_probs = scipy.special.log_softmax(get(batch.obs) @ get(params["actor"]), -1)
    value = get(batch.obs) @ get(params["critic"])
    advantage = get(batch.advantage)
    if normalization == "minibatch":
        advantage = (advantage - advantage.mean()) / advantage.std()
    ratio = np.exp(log_probs[np.arange(16), batch.action] - get(batch.log_prob))
    outside = np.abs(ratio - 1) > 0.15
    expected = {
        "policy_loss": -np.minimum(
            ratio * advantage, np.clip(ratio, 0.85, 1.15) * advantage
        ).mean(),
        "value_loss": 0.5 * ((value - get(batch.target)) ** 2).mean(),
        "entropy": scipy.stats.entropy(np.exp(log_probs), axis=-1).mean(),
        "approx_kl": (ratio - 1 - np.log(ratio)).mean(),
        "clip_fraction": outside.mean(),
    }
    assert 0 < outside.sum() < 16
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-4, err_msg=name)
    whole = expected["policy_loss"] + 0.7 * expected["value_loss"] - 0.03 * expected["entropy"]
    np.testing.assert_allclose(total, whole, rtol=1e-4)


@pytest.mark.parametrize("value_loss", VALUE_LOSSES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_is_of_the_objective_and_value_loss_asked_for(objective, value_loss):
    config = make_config(
        objective=objective, value_loss=value_loss, entropy_coef=0.01,
        advantage_normalization="none",
    )  # fmt: skip
    hyper = config.hyperparams()
    state = OBJECTIVES[objective].init(hyper)
    params, _ = start_of(config)
    batch = make_batch(params, 8, move=0.3)
    _, dist, value = POLICY.apply(params, (), batch.obs, None)
    chosen = OBJECTIVES[objective]
    total, parts = loss(params, batch, POLICY, chosen, config, hyper, state)
    each = chosen.loss(dist, dist.log_prob(batch.action), batch, hyper, state)
    np.testing.assert_allclose(parts["policy_loss"], np.mean(each), rtol=1e-5)
    each = VALUE_LOSSES[value_loss](value, batch, hyper)
    np.testing.assert_allclose(parts["value_loss"], np.mean(each), rtol=1e-5)
    expected = parts["policy_loss"] + 0.5 * parts["value_loss"] - 0.01 * parts["entropy"]
    np.testing.assert_allclose(total, expected, rtol=1e-5)


# -- gradient steps ----------------------------------------------------------------------------


def test_an_update_is_its_steps_one_by_one():
    config = make_config(24, num_epochs=3, num_minibatches=4, learning_rate=0.05)
    params, opt_state = start_of(config)
    batch = make_batch(params, 24)
    got, _, metrics = run(config, params, opt_state, batch, jax.random.key(5))
    expected, taken, skipped, kls = looped(config, params, batch, jax.random.key(5))
    assert taken == int(metrics["gradient_steps"]) == 12
    assert skipped == int(metrics["skipped_steps"]) == 0
    np.testing.assert_allclose(flat(got), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(metrics["approx_kl"], np.mean(kls), rtol=1e-2)
    assert np.abs(flat(got) - flat(params)).max() > 0.1


@pytest.mark.parametrize("normalization", ["minibatch", "none"])
def test_chunks_change_nothing_but_rounding(normalization):
    """Minibatches of 6 taken 1, 2 or 3 rows at a time; advantages are normalised over all 6."""
    config = make_config(
        24, num_epochs=2, learning_rate=0.05, entropy_coef=0.01, objective="kl_penalty",
        advantage_normalization=normalization,
    )  # fmt: skip
    params, opt_state = start_of(config)
    batch, key = make_batch(params, 24, move=0.2), jax.random.key(5)
    whole = run(config, params, opt_state, batch, key)
    assert jax.tree.leaves(whole)
    for size in (1, 2, 3, 6):
        chunked = run(config.replace(chunk_size=size), params, opt_state, batch, key)
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(chunked), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert np.abs(flat(whole[0]) - flat(params)).max() > 0.1


def test_mean_over_chunks_sees_chunks():
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    seen = []

    def function(part):
        seen.append(part.shape)
        return {"mean": jnp.square(part).mean(0), "largest": part.max()}

    means = mean_over_chunks(function, jnp.asarray(x), 4)
    assert set(seen) == {(4, 3)}
    np.testing.assert_allclose(means["mean"], np.square(x).mean(0), rtol=1e-5)
    np.testing.assert_allclose(means["largest"], x.reshape(3, -1).max(1).mean(), rtol=1e-6)


def test_gradients_in_bfloat16_are_added_up_in_float32():
    """Of 1,024 passes each has the gradient 1; in bfloat16 a sum stops at 256."""
    custom = Optimizer(lambda hyper: optax.sgd(1.0))
    params, hyper = {"w": jnp.zeros(1, jnp.bfloat16)}, make_config().hyperparams()

    def total(params, minibatch):
        return params["w"].astype(jnp.float32).sum() + 0 * minibatch.target.sum(), {}

    batch, plan = make_batch(start_of(make_config())[0], 1024), Minibatches(1, 1, 1, False)
    opt_state = begin(custom.make(hyper), packed_in(custom, params)[0])
    given = params, opt_state, batch, jax.random.key(0)
    *_, metrics = jax.jit(partial(steps, total, custom, hyper, plan))(*given)
    assert metrics["grad_norm"] == 1


@pytest.mark.parametrize(
    ("rows", "row_bytes", "chunk"),
    [
        (1, 2064, 1),
        (128, 2064, 128),
        (4096, 2064, 4096),
        (4098, 2064, 4098),
        (8196, 2064, 4098),
        (65_536, 2064, 4096),
        (12_000, 2064, 4000),
        (8_191, 2064, 8_191),  # prime
        (1_024, 12_000, 512),
        (64, 10**6, 8),
        (64, 10**9, 1),
    ],
)
def test_the_chunk_chosen_divides_the_minibatch(rows, row_bytes, chunk):
    """About 9 MiB of activations, on a CPU."""
    with backend.compiled_for("cpu"):
        assert backend.chunk_size(rows, row_bytes) == chunk
    with backend.compiled_for("cuda"):
        assert backend.chunk_size(rows, row_bytes) == rows


@pytest.mark.parametrize("changes", [{}, dict(max_grad_norm=None, target_kl=0.01)])
def test_leaf_by_leaf_is_the_same_as_on_one_vector(changes, monkeypatch):
    config = make_config(24, num_epochs=2, learning_rate=0.05, **changes)
    params, opt_state = start_of(config)
    batch, key = make_batch(params, 24, move=0.2), jax.random.key(5)
    vector = run(config, params, opt_state, batch, key)
    monkeypatch.setattr(backend, "steps_on_one_vector", lambda size: False)
    opt_state = optimizer(config.hyperparams()).init(pack(params)[0])
    assert jax.tree.structure(optax.tree.get(opt_state, "mu")) == jax.tree.structure(params)
    # all small ones on one vector, and then those of more than 8 numbers each by itself
    joined = run(config, params, opt_state, batch, key)
    monkeypatch.setattr(backend, "stepped_alone", lambda size: size > 8)
    leaves = run(config, params, opt_state, batch, key)
    assert jax.tree.structure(leaves[1]) == jax.tree.structure(opt_state)
    np.testing.assert_allclose(flat(joined[0]), flat(leaves[0]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(flat(leaves[0]), flat(vector[0]), rtol=1e-4, atol=1e-6)
    moments = [ravel_pytree(optax.tree.get(result[1], "nu"))[0] for result in (leaves, vector)]
    np.testing.assert_allclose(*moments, rtol=1e-4, atol=1e-9)
    for name, value in leaves[2].items():
        np.testing.assert_allclose(value, vector[2][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stop_after", [1, 2, 6, 10])
def test_target_kl_stops_all_that_remains(stop_after):
    """Not the rest of an epoch only: 2 is amid the first of three, 6 and 10 amid the others."""
    config = make_config(24, num_epochs=3, num_minibatches=4, learning_rate=0.05)
    params, opt_state = start_of(config)
    batch, key = make_batch(params, 24, seed=2), jax.random.key(26)
    _, _, _, kls = looped(config, params, batch, key)
    below, above = max(kls[:stop_after]), kls[stop_after]
    assert below < above  # so that a target between them stops just there
    config = config.replace(target_kl=(below + above) / 2)

    got, opt_state, metrics = run(config, params, opt_state, batch, key)
    expected, taken, _, kls = looped(config, params, batch, key)
    assert taken == stop_after
    assert int(metrics["gradient_steps"]) == stop_after
    assert int(metrics["skipped_steps"]) == 0
    np.testing.assert_allclose(flat(got), expected, rtol=1e-4, atol=1e-5)
    counts = [x for x in jax.tree.leaves(opt_state) if x.dtype == jnp.int32]
    assert [int(c) for c in counts] == [stop_after]  # Adam's own count of steps
    assert len(kls) == stop_after + 1  # the step that went too far is seen, but not taken
    np.testing.assert_allclose(metrics["approx_kl"], np.mean(kls), rtol=1e-3)


def test_a_target_already_exceeded_moves_nothing():
    config = make_config(num_epochs=2, target_kl=1e-4)
    params, opt_state = start_of(config)
    batch = make_batch(params, 8, move=0.5)
    got, after, metrics = run(config, params, opt_state, batch, jax.random.key(0))
    assert int(metrics["gradient_steps"]) == 0
    for a, b in zip(
        jax.tree.leaves((got, after)), jax.tree.leaves((params, opt_state)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert metrics["approx_kl"] > 1e-4


def test_a_tiny_target_lets_a_fresh_policy_take_one_step():
    """Nothing has moved before the first step, and the second sees that it has."""
    config = make_config(num_epochs=2, num_minibatches=2, target_kl=1e-6, learning_rate=0.1)
    params, opt_state = start_of(config)
    _, _, metrics = run(config, params, opt_state, make_batch(params, 8), jax.random.key(0))
    assert int(metrics["gradient_steps"]) == 1


def test_a_target_out_of_reach_changes_nothing():
    config = make_config(num_epochs=2)
    params, opt_state = start_of(config)
    batch, key = make_batch(params, 8), jax.random.key(0)
    without, _, _ = run(config, params, opt_state, batch, key)
    with_target, _, _ = run(config.replace(target_kl=1e6), params, opt_state, batch, key)
    np.testing.assert_array_equal(flat(with_target), flat(without))


# -- what is not finite ------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("field", ["advantage", "target", "obs", "log_prob"])
def test_a_bad_transition_costs_its_minibatch_only(field, bad):
    config = make_config(num_epochs=2, num_minibatches=4, learning_rate=0.05)
    params, opt_state = start_of(config)
    batch, key = make_batch(params, 8), jax.random.key(3)
    x = getattr(batch, field)
    broken = batch.replace(**{field: x.at[5].set(-bad if field == "log_prob" else bad)})
    got, after, metrics = run(config, params, opt_state, broken, key)
    assert int(metrics["skipped_steps"]) == 2  # once an epoch
    assert int(metrics["gradient_steps"]) == 6
    expected, taken, skipped, _ = looped(config, params, broken, key)
    assert (taken, skipped) == (6, 2)
    np.testing.assert_allclose(flat(got), expected, rtol=1e-3, atol=1e-5)
    for leaf in jax.tree.leaves((got, after, metrics)):
        assert np.isfinite(leaf).all()


def test_nothing_but_bad_transitions_leaves_everything_as_it_was():
    config = make_config(num_epochs=2)
    params, opt_state = start_of(config)
    batch = make_batch(params, 8)
    batch = batch.replace(advantage=batch.advantage * jnp.nan)
    got, after, metrics = run(config, params, opt_state, batch, jax.random.key(0))
    for a, b in zip(
        jax.tree.leaves((got, after)), jax.tree.leaves((params, opt_state)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert (int(metrics["gradient_steps"]), int(metrics["skipped_steps"])) == (0, 8)
    assert all(np.isfinite(x) for x in metrics.values())


def test_without_a_step_a_penalty_stays_what_it_was():
    """There is no divergence then, which would halve it."""
    config = PPOConfig(
        env="CartPole-v1", num_envs=2, num_steps=4, num_minibatches=2, total_timesteps=8,
        objective="adaptive_kl", hidden_sizes=(4,),
    )  # fmt: skip
    learner = make_learner(config)
    state, hyper = learner.init(jax.random.key(0)), config.hyperparams()
    update = jax.jit(learner.update)
    for rate, beta in ((np.nan, 1.0), (1e-6, 0.5)):
        after, metrics = update(state, hyper._replace(learning_rate=jnp.float32(rate)))
        assert (metrics.gradient_steps > 0) == (beta < 1)
        assert float(after.objective_state) == beta


def test_a_bad_step_is_counted_under_target_kl_too():
    """A ratio that overflows: gradient NaN and approx_kl infinite. It must not pass unseen."""
    config = make_config(num_epochs=2, target_kl=0.5)
    params, opt_state = start_of(config)
    batch = make_batch(params, 8)
    batch = batch.replace(log_prob=batch.log_prob.at[5].set(-200.0))
    got, _, metrics = run(config, params, opt_state, batch, jax.random.key(3))
    assert np.isfinite(flat(got)).all()
    assert all(np.isfinite(x) for x in metrics.values())
    assert int(metrics["skipped_steps"]) >= 1


def test_one_seed_that_fails_leaves_the_others_alone():
    config = make_config(num_epochs=2, learning_rate=0.05)
    starts = [start_of(config, seed) for seed in range(3)]
    batches = [make_batch(params, 8, seed) for seed, (params, _) in enumerate(starts)]
    batches[1] = batches[1].replace(target=batches[1].target * jnp.nan)
    keys = jax.random.split(jax.random.key(0), 3)
    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    params, opt_state = stack(starts)
    function = partial(optimize, POLICY, CLIP, config, config.hyperparams())
    together, _, metrics = jax.jit(jax.vmap(lambda p, o, b, k: function(p, o, (), b, k)))(
        params, opt_state, stack(batches), keys
    )
    np.testing.assert_array_equal(metrics["skipped_steps"], [0, 8, 0])
    for seed in (0, 1, 2):
        alone, _, _ = run(config, *starts[seed], batches[seed], keys[seed])
        mine = jax.tree.map(lambda x, seed=seed: x[seed], together)
        np.testing.assert_allclose(flat(mine), flat(alone), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(together["actor"][1], starts[1][0]["actor"])


# -- a learning rate by divergence ---------------------------------------------------------------

BY_KL = dict(
    learning_rate_schedule="kl_adaptive", learning_rate=0.05, learning_rate_max=0.1,
    desired_kl=0.01,
)  # fmt: skip


@pytest.mark.parametrize("broken", [False, True])
def test_the_rate_is_adapted_before_each_step_by_its_minibatch(broken):
    """Rises, falls and stays, in one update; a minibatch that is not finite changes nothing."""
    config = make_config(24, num_epochs=4, num_minibatches=4, **BY_KL)
    params, opt_state = start_of(config)
    batch, key, rates = make_batch(params, 24), jax.random.key(5), []
    if broken:
        batch = batch.replace(target=batch.target.at[5].set(jnp.nan))
    got, _, metrics = run(config, params, opt_state, batch, key)
    expected, taken, skipped, _ = looped(config, params, batch, key, rates)
    assert (taken, skipped) == ((12, 4) if broken else (16, 0))
    np.testing.assert_allclose(flat(got), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(metrics["learning_rate"], rates[-1], rtol=1e-5)
    assert {-1, 0, 1} == set(np.sign(np.diff(rates)))


def test_a_step_that_goes_too_far_lowers_the_rate_of_the_next_update():
    """What target_kl leaves out has been seen."""
    config = make_config(24, num_epochs=4, target_kl=1e-3, **{**BY_KL, "desired_kl": 1e-4})
    params, opt_state = start_of(config)
    batch, key, rates = make_batch(params, 24), jax.random.key(5), []
    _, _, metrics = run(config, params, opt_state, batch, key)
    _, taken, _, kls = looped(config, params, batch, key, rates)
    assert int(metrics["gradient_steps"]) == taken == len(kls) - 1
    assert rates[-1] < rates[-2]
    np.testing.assert_allclose(metrics["learning_rate"], rates[-1], rtol=1e-6)


# -- over a mesh axis --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target_kl", "more"), [(None, {}), (1e-3, {}), (None, {**BY_KL, "desired_kl": 1e-4})]
)
def test_devices_together_take_the_steps_of_one(target_kl, more):
    """Four devices with 8 transitions each, against one with 32."""
    devices = 4
    changes = dict(num_epochs=3, num_minibatches=1, target_kl=target_kl)
    changes |= {"learning_rate": 0.05, **more}
    config, whole = make_config(8, **changes), make_config(32, **changes)
    params, opt_state = start_of(config)
    batch, key = make_batch(params, 32), jax.random.key(0)
    alone, _, expected = run(whole, params, opt_state, batch, key)
    split = jax.tree.map(lambda x: x.reshape(devices, 8, *x.shape[1:]), batch)

    def one_device(batch):
        return optimize(
            POLICY, CLIP, config, config.hyperparams(), params, opt_state, (), batch, key, "devices"
        )

    together, _, metrics = jax.jit(jax.vmap(one_device, axis_name="devices"))(split)
    for device in range(devices):
        mine = jax.tree.map(lambda x, device=device: x[device], (together, metrics))
        np.testing.assert_allclose(flat(mine[0]), flat(alone), rtol=1e-4, atol=1e-5)
        for name, value in mine[1].items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert int(expected["gradient_steps"]) == (3 if target_kl is None else 1)
    rate = 0.05 / 1.5**2 if more else 0.05
    np.testing.assert_allclose(metrics["learning_rate"], [rate] * devices, rtol=1e-5)
    assert len(set(metrics["learning_rate"].tolist())) == 1


# -- with real rollouts ------------------------------------------------------------------------


def real_run(env, **changes):
    """A few updates with observation statistics, and what belongs to the run."""
    config = PPOConfig(
        env=env, num_envs=4, num_steps=16, total_timesteps=64 * 8, hidden_sizes=(8,),
        learning_rate=0.05, normalize_observations=True, normalize_rewards=True, **changes,
    )  # fmt: skip
    learner = make_learner(config)
    update = jax.jit(learner.update)
    state = learner.init(jax.random.key(0))
    for _ in range(3):
        state, metrics = update(state)
    return build(config), state, update, metrics


@pytest.mark.slow
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_the_first_ratio_is_one(env):
    """One epoch of one minibatch, so that metrics show the first step of the update alone."""
    setup, state, update, _ = real_run(env, num_epochs=1, num_minibatches=1)
    assert float(state.normalizers.obs.count) == 3 * 64
    assert np.abs(np.asarray(state.normalizers.obs.mean)).max() > 1e-3
    after, metrics = update(state)
    assert abs(float(metrics.approx_kl)) < 1e-6
    assert float(metrics.clip_fraction) == 0.0
    assert int(metrics.gradient_steps) == 1
    assert float(after.normalizers.obs.count) == 4 * 64

    moved, rollout = jax.jit(
        lambda state: collect(
            setup.policy,
            setup.critic,
            setup.vec_env,
            16,
            state,
            setup.env_params,
            jax.random.key(1),
        )
    )(state)
    assert moved.normalizers is not None
    stats = state.normalizers.obs
    seen = normalize(stats, rollout.obs)
    _, dist, value = setup.policy.apply(state.params, (), seen, rollout.episode_start)
    np.testing.assert_allclose(dist.log_prob(rollout.action), rollout.log_prob, atol=1e-5)
    np.testing.assert_allclose(value, rollout.value, rtol=1e-4, atol=1e-4)
    # the oracle is worth something: statistics one rollout later give other probabilities
    later = normalize(update_stats(stats, rollout.obs), rollout.obs)
    _, dist, _ = setup.policy.apply(state.params, (), later, rollout.episode_start)
    assert np.abs(np.asarray(dist.log_prob(rollout.action) - rollout.log_prob)).max() > 1e-3


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_target_kl_and_the_metrics_of_a_run(env):
    """The first of 8 steps is always allowed, and a tiny target allows no more."""
    _, _, _, metrics = real_run(env, num_epochs=2, num_minibatches=4, target_kl=1e-5)
    assert int(metrics.gradient_steps) == 1
    assert int(metrics.skipped_steps) == 0
    assert all(np.isfinite(x) for x in jax.tree.leaves(metrics))


def test_rows_of_a_batch_belong_together():
    """Row i of every field is of the same transition."""
    number = jnp.arange(6.0).reshape(3, 2)
    rollout = Rollout(
        obs=None, action=number[..., None], log_prob=number, dist=Categorical(number[..., None]),
        value=number, next_value=number, reward=number, terminated=number > 2,
        truncated=number > 2, episode_start=number > 2, carry={"h": number[..., None]},
        episode_return=number, episode_length=number,
    )  # fmt: skip
    batch = as_batch(rollout, jnp.stack([number, number], -1), number, number)
    for leaf in jax.tree.leaves(batch.replace(episode_start=())):
        np.testing.assert_array_equal(leaf.reshape(6, -1)[:, 0], np.arange(6.0))
    np.testing.assert_array_equal(batch.episode_start, np.arange(6) > 2)
    assert batch.obs.shape == (6, 2)


# -- every parameter learns --------------------------------------------------------------------


def box(*shape):
    return Box(np.full(shape, -1.0), np.full(shape, 1.0), shape, np.dtype(np.float32))


SPECS = {
    "mlp": (EnvSpec(box(3), Discrete(4)), {}),
    "mlp, shared": (EnvSpec(box(3), Discrete(4)), {"shared_torso": True}),
    "cnn": (EnvSpec(box(5, 5, 2), Discrete(4)), {}),
    "cnn, shared": (EnvSpec(box(5, 5, 2), Discrete(4)), {"shared_torso": True}),
    "gaussian": (EnvSpec(box(3), box(2)), {}),
    "gaussian, shared": (EnvSpec(box(3), box(2)), {"shared_torso": True}),
    "one-hot": (EnvSpec(Discrete(5), Discrete(4)), {}),
}


def network_case(name):
    spec, changes = SPECS[name]
    config = make_config(16, hidden_sizes=(6, 5), **changes)
    policy = make_policy(config, spec)
    keys = jax.random.split(jax.random.key(0), 5)
    params = jax.jit(policy.init)(keys[0])
    if isinstance(spec.observation, Discrete):
        obs = jax.random.randint(keys[1], (16,), 0, spec.observation.n)
    else:
        obs = jax.random.normal(keys[1], (16, *spec.observation.shape))
    _, dist, value = jax.jit(policy.apply)(params, (), obs, jnp.zeros(16, bool))
    action = dist.sample(keys[2])
    batch = Batch(
        obs=obs, action=action, log_prob=dist.log_prob(action), dist=dist, value=value,
        advantage=jax.random.normal(keys[3], (16,)), target=jax.random.normal(keys[4], (16,)),
        carry=(), episode_start=jnp.zeros(16, bool),
    )  # fmt: skip
    return config, policy, params, batch


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_every_parameter_gets_a_gradient(name):
    config, policy, params, batch = network_case(name)
    gradient = jax.jit(
        jax.grad(lambda p: loss(p, batch, policy, CLIP, config, config.hyperparams(), ())[0])
    )(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        share = np.mean(np.asarray(leaf) != 0)
        assert share > 0.9, f"{jax.tree_util.keystr(path)}: {share:.0%} of it has a gradient"


@pytest.mark.parametrize("name", SPECS)
def test_actor_and_critic_share_what_they_should(name):
    """Apart: each loss moves its own torso only. Shared: both move the torso."""
    config, policy, params, batch = network_case(name)

    def part(which):
        def f(p):
            return loss(p, batch, policy, CLIP, config, config.hyperparams(), ())[1][which]

        gradient = jax.jit(jax.grad(f))(params)
        return {name for name, g in gradient.items() if any(x.any() for x in jax.tree.leaves(g))}

    torsos = ("both", "both") if config.shared_torso else ("actor", "critic")
    assert part("policy_loss") == {torsos[0], "action"}
    assert part("value_loss") == {torsos[1], "value"}
