"""Action masks against SciPy on the distribution over what is left, and in runs."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from flax import struct
from gymnax.environments import spaces
from support.probes import Dials, Endless, Params

from purejaxppo import ConfigError, PPOConfig, make_act, make_learner, make_train
from purejaxppo.envs.vec_env import make_vec_env
from purejaxppo.policies.heads import distribution, empty_masks
from purejaxppo.policies.networks import make_policy
from purejaxppo.spaces import Box, Discrete, EnvSpec, MultiBinary, MultiDiscrete

B = 6


def box(*shape, dtype=np.float32):
    return Box(np.zeros(shape), np.ones(shape), shape, np.dtype(dtype))


def mask_space(*shape):
    return box(*shape, dtype=bool)


def spec_of(action, mask, name="action_mask"):
    return EnvSpec({"x": box(2), name: mask}, action)


def policy_of(action, mask, **changes):
    return make_policy(PPOConfig(hidden_sizes=(8,), **changes), spec_of(action, mask))


# -- distributions over what is left -----------------------------------------------------------

ACTIONS = {
    "one": Discrete(4),
    "several": MultiDiscrete((2, 4, 3)),
    "alike": MultiDiscrete((3, 3)),
    "dictionary": {"free": Discrete(3), "held": Discrete(4), "box": box(2)},
    "tuple": (MultiDiscrete((2, 3)), Discrete(3)),
}
every_action = pytest.mark.parametrize("name", ACTIONS)


def draw(name, seed):
    """Outputs of a network and masks that allow something, for a batch of [B]."""
    rng = np.random.default_rng(seed)

    def outputs(*shape):
        return rng.normal(0, 2, (B, *shape)).astype(np.float32)

    def mask(*nvec):
        """[B, sum of nvec], at random, but one of each range is allowed."""
        some = [rng.random((B, n)) < 0.4 for n in nvec]
        for part, n in zip(some, nvec, strict=True):
            part[np.arange(B), rng.integers(0, n, B)] = True
        return np.concatenate(some, 1)

    if name == "one":
        return outputs(4), mask(4)
    if name == "several":
        return outputs(9), mask(2, 4, 3)
    if name == "alike":
        return outputs(6), mask(3, 3).reshape(B, 2, 3)
    if name == "dictionary":
        normal = (outputs(2), outputs(2) / 4)
        return {"free": outputs(3), "held": outputs(4), "box": normal}, {"held": mask(4)}
    return (outputs(5), outputs(3)), (mask(2, 3), mask(3))


def choices(name, outputs, mask):
    """(logits, what is allowed) of each choice in turn, for one of a batch."""
    if name == "one":
        return [(outputs, mask)]
    if name == "alike":
        return list(zip(outputs.reshape(2, 3), mask, strict=True))
    if name == "dictionary":
        return [(outputs["free"], np.ones(3, bool)), (outputs["held"], mask["held"])]
    if name == "tuple":
        first, second = outputs
        return [*split((2, 3), first, mask[0]), (second, mask[1])]
    return split((2, 4, 3), outputs, mask)


def split(nvec, logits, mask):
    edges = np.cumsum(nvec)[:-1]
    return list(zip(np.split(logits, edges), np.split(mask, edges), strict=True))


def renormalised(logits, allowed):
    """P over all, by SciPy over what is allowed."""
    p = np.zeros(len(logits))
    p[allowed] = scipy.special.softmax(logits[allowed].astype(np.float64))
    return p


def at(tree, i):
    return jax.tree.map(lambda x: np.asarray(x[i]), tree)


def picked(name, action):
    """The integers of an action, as `choices` has them."""
    if name == "dictionary":
        return [action["free"], action["held"]]
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(action)])


@every_action
def test_masked_values_are_those_of_what_is_left(name, variant):
    outputs, mask = draw(name, 0)
    others, _ = draw(name, 1)

    def values(outputs, others, mask):
        p, q = (distribution(ACTIONS[name], x, mask, False) for x in (outputs, others))
        action = p.sample(jax.random.key(5))
        return p.log_prob(action), p.entropy(), p.kl(q), action, p.mode()

    log_prob, entropy, kl, action, mode = variant(values)(outputs, others, mask)
    for i in range(B):
        p, q = (
            [renormalised(*choice) for choice in choices(name, at(x, i), at(mask, i))]
            for x in (outputs, others)
        )
        expected = np.zeros(3)
        if name == "dictionary":  # what a normal distribution adds
            (mean, log_std), (other, other_std) = at(outputs["box"], i), at(others["box"], i)
            given = scipy.stats.norm(mean, np.exp(log_std))
            expected[0] = given.logpdf(action["box"][i]).sum()
            expected[1] = given.entropy().sum()
            ratio = np.exp(2 * (log_std - other_std))
            shift = ((mean - other) / np.exp(other_std)) ** 2
            expected[2] = (other_std - log_std + (ratio + shift - 1) / 2).sum()
        taken = picked(name, at(action, i))
        expected[0] += sum(np.log(row[k]) for row, k in zip(p, taken, strict=True))
        expected[1] += sum(map(scipy.stats.entropy, p))
        expected[2] += sum(scipy.special.rel_entr(*rows).sum() for rows in zip(p, q, strict=True))
        got = [log_prob[i], entropy[i], kl[i]]
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-5)
        assert list(picked(name, at(mode, i))) == [row.argmax() for row in p]


@every_action
def test_gradients_are_zero_at_what_is_forbidden(name):
    """d log p(a) / d logits = one-hot(a) - p; none of entropy and KL are but finite."""
    outputs, mask = draw(name, 2)
    others, _ = draw(name, 3)
    make = functools.partial(distribution, ACTIONS[name], mask=mask, squash=False)
    action = make(outputs).sample(jax.random.key(6))
    functions = (
        lambda x: make(x).log_prob(action),
        lambda x: make(x).entropy(),
        lambda x: make(x).kl(make(others)),
        lambda x: make(others).kl(make(x)),
    )
    slopes = jax.jit(lambda x: [jax.grad(lambda x, f=f: f(x).sum())(x) for f in functions])(outputs)
    for k, slope in enumerate(slopes):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
        for i in range(B):
            taken = picked(name, at(action, i))
            logits = choices(name, at(outputs, i), at(mask, i))
            for j, (row, allowed) in enumerate(choices(name, at(slope, i), at(mask, i))):
                np.testing.assert_array_equal(row[~allowed], 0.0)
                if k == 0:
                    expected = np.eye(len(row))[taken[j]] - renormalised(*logits[j])
                    np.testing.assert_allclose(row, expected, atol=1e-6)


def test_entropy_and_kl_slopes_by_finite_differences():
    outputs, mask = draw("several", 4)
    others, _ = draw("several", 5)

    def naive(logits, i):
        both = (choices("several", x, mask[i]) for x in (logits, others[i]))
        rows = [[renormalised(*choice) for choice in pair] for pair in zip(*both, strict=True)]
        divergence = sum(scipy.special.rel_entr(p, q).sum() for p, q in rows)
        return np.array([sum(scipy.stats.entropy(p) for p, _ in rows), divergence])

    make = functools.partial(distribution, ACTIONS["several"], mask=mask, squash=False)
    entropy = jax.grad(lambda x: make(x).entropy().sum())(outputs)
    kl = jax.grad(lambda x: make(x).kl(make(others)).sum())(outputs)
    for i in range(B):
        for j, step in enumerate(np.eye(9) * 1e-5):
            up, down = outputs[i] + step, outputs[i] - step
            expected = (naive(up, i) - naive(down, i)) / 2e-5
            np.testing.assert_allclose([entropy[i, j], kl[i, j]], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32])
@pytest.mark.parametrize("name", ["one", "several", "alike"])
def test_masks_of_numbers_are_masks(name, dtype):
    outputs, mask = draw(name, 6)
    p, q = (distribution(ACTIONS[name], outputs, m, False) for m in (mask, mask.astype(dtype)))
    np.testing.assert_array_equal(p.logits, q.logits)
    spec = spec_of(ACTIONS[name], box(*mask.shape[1:], dtype=dtype))
    mask[2:4] = False
    expected = 2 * len(getattr(ACTIONS[name], "nvec", [0]))
    assert empty_masks(spec, {"action_mask": jnp.asarray(mask, dtype)}) == expected


def test_a_full_mask_changes_nothing():
    for name in ("one", "several", "alike"):
        outputs, mask = draw(name, 7)
        p = distribution(ACTIONS[name], outputs, np.ones_like(mask), False)
        free = distribution(ACTIONS[name], outputs, None, False)
        np.testing.assert_array_equal(p.logits, free.logits)


def test_what_is_forbidden_stays_so_however_much_it_is_wanted():
    logits, mask = jnp.array([[1e4, -1e4, 0.0], [1e8, -1e8, -1e9]]), jnp.array([False, True, True])
    mask = jnp.stack([mask, mask])
    p = distribution(Discrete(3), logits, mask, False)
    assert (p.mode() == jnp.array([2, 1])).all()
    assert (jax.vmap(p.sample)(jax.random.split(jax.random.key(0), 50)) == p.mode()[None]).all()
    np.testing.assert_array_equal(p.log_prob(p.mode()), 0.0)
    np.testing.assert_array_equal(p.entropy(), 0.0)


# -- nothing is allowed ------------------------------------------------------------------------


@every_action
def test_a_mask_that_allows_nothing_is_no_mask(name):
    """Values, samples and gradients are finite, each choice is made among its own range."""
    outputs, mask = draw(name, 8)
    others, _ = draw(name, 9)
    empty = jax.tree.map(np.zeros_like, mask)

    def everything(outputs, mask):
        p, q = (distribution(ACTIONS[name], x, mask, False) for x in (outputs, others))
        action = distribution(ACTIONS[name], others, mask, False).sample(jax.random.key(7))
        return p.log_prob(action), p.entropy(), p.kl(q), q.kl(p)

    @jax.jit
    def slopes(outputs, mask):
        total = lambda x: sum(map(jnp.sum, everything(x, mask)))  # noqa: E731
        return everything(outputs, mask), jax.grad(total)(outputs)

    got = slopes(outputs, empty)
    free = slopes(outputs, jax.tree.map(np.ones_like, mask))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(free), strict=True):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)


def test_with_nothing_allowed_each_choice_is_made_within_its_range():
    """An empty mask for one range leaves the others as they were."""
    space, logits = MultiDiscrete((2, 4, 3)), jnp.zeros((3000, 9))
    mask = jnp.array([0, 0, 1, 0, 0, 1, 0, 0, 0], bool)
    dist = distribution(space, logits, jnp.broadcast_to(mask, logits.shape), False)
    action = np.asarray(dist.sample(jax.random.key(0)))
    for k, expected in enumerate(([1, 1], [1, 0, 0, 1], [1, 1, 1])):
        seen = np.bincount(action[:, k], minlength=len(expected))
        assert len(seen) == len(expected)
        expected = 3000 * np.array(expected) / sum(expected)
        assert not seen[expected == 0].any()
        seen, expected = seen[expected > 0], expected[expected > 0]
        assert scipy.stats.chisquare(seen, expected).pvalue > 1e-3
    np.testing.assert_allclose(dist.entropy(), np.log(2) + np.log(2) + np.log(3), rtol=1e-5)


def test_empty_masks_are_counted_by_choice(variant):
    flat = jnp.array([[[0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]], bool)
    rows = jnp.array([[[0, 0], [0, 0]], [[0, 1], [0, 0]], [[1, 1], [1, 0]]], bool)
    cases = [
        (MultiDiscrete((2, 3)), mask_space(5), flat, 1 + 2 + 1),
        (MultiDiscrete((2, 2)), mask_space(2, 2), rows, 2 + 1),
        (MultiDiscrete((2, 2)), mask_space(4), rows.reshape(3, 4), 2 + 1),
        (Discrete(5), mask_space(5), flat, 1),
        ((Discrete(5), MultiDiscrete((2, 3))), (mask_space(5),) * 2, (flat, flat), 1 + 4),
        ({"a": Discrete(5), "b": Discrete(9)}, {"a": mask_space(5)}, {"a": flat}, 1),
    ]
    for action, space, mask, expected in cases:
        count = variant(functools.partial(empty_masks, spec_of(action, space)))
        got = count(
            {"x": jnp.zeros((*jax.tree.leaves(mask)[0].shape[:-1], 2)), "action_mask": mask}
        )
        assert (got, got.dtype) == (expected, jnp.int32)
    assert empty_masks(EnvSpec(box(2), Discrete(2)), jnp.zeros((3, 2))) == 0


# -- in a policy -------------------------------------------------------------------------------


def violations(action, mask, nvec):
    """How many choices were forbidden, of actions [..., K] and masks [..., sum of nvec]."""
    edges = np.cumsum(nvec)[:-1]
    columns = np.split(mask, edges, -1)
    rows = (np.take_along_axis(m, action[..., [k]], -1) for k, m in enumerate(columns))
    return sum(int((~row).sum()) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("nvec", [(7,), (3, 2, 4)])
def test_no_mask_is_violated_in_very_many_steps(nvec):
    """100,000 of each of two seeds, under policies with strong preferences; nor is it by modes."""
    space = Discrete(*nvec) if len(nvec) == 1 else MultiDiscrete(nvec)
    policy = policy_of(space, mask_space(sum(nvec)))
    envs, steps = 1000, 100

    def run(key):
        key, key_params = jax.random.split(key)
        params = jax.tree.map(lambda x: 5.0 * x, policy.init(key_params))
        params["action"]["logits"]["kernel"] *= 100.0

        def step(_, key):
            keys = jax.random.split(key, 3)
            mask = jax.random.bernoulli(keys[0], 0.3, (envs, sum(nvec)))
            obs = {"x": jax.random.normal(keys[1], (envs, 2)), "action_mask": mask}
            _, dist, _ = policy.apply(params, (), obs, jnp.zeros(envs, bool))
            action = dist.sample(keys[2])
            return None, (mask, action, dist.mode(), dist.log_prob(action))

        return jax.lax.scan(step, None, jax.random.split(key, steps))[1]

    keys = jax.random.split(jax.random.key(0), 2)
    mask, action, mode, log_prob = map(np.asarray, jax.jit(jax.vmap(run))(keys))
    assert log_prob.shape == (2, steps, envs)
    filled = [m | ~m.any(-1, keepdims=True) for m in np.split(mask, np.cumsum(nvec)[:-1], -1)]
    mask = np.concatenate(filled, -1)  # with nothing allowed, everything is
    for chosen in (action, mode):
        assert violations(chosen.reshape(*log_prob.shape, -1), mask, nvec) == 0
    assert np.isfinite(log_prob).all() and (log_prob <= 1e-5).all()
    assert len(np.unique(action.reshape(-1, len(nvec)), axis=0)) == np.prod(nvec)


def test_a_mask_is_no_feature():
    """It changes what may be chosen, not values, nor preferences among what is left."""
    policy = policy_of(Discrete(3), mask_space(3))
    params = jax.jit(policy.init)(jax.random.key(0))
    assert params["actor"]["MLP_0"]["Dense_0"]["kernel"].shape == (2, 8)
    x, free = jnp.ones((2, 2)), jnp.ones((2, 3), bool)
    mask = free.at[0, 1].set(False)
    (_, p, value), (_, q, other) = (
        policy.apply(params, (), {"x": x, "action_mask": m}, jnp.zeros(2, bool))
        for m in (free, mask)
    )
    np.testing.assert_array_equal(value, other)
    np.testing.assert_array_equal(np.asarray(p.logits)[mask], np.asarray(q.logits)[mask])
    assert q.logits[0, 1] < -1e30


class Shown(NamedTuple):
    x: Any
    action_mask: Any


@struct.dataclass
class Legal:
    x: Any
    legal_action_mask: Any


@pytest.mark.parametrize(
    "make",
    [
        lambda x, mask: {"x": x, "action_mask": mask},
        lambda x, mask: {"x": x, "legal_action_mask": mask},
        Shown,
        Legal,
    ],
)
def test_a_mask_is_found_by_both_names_in_any_record(make):
    spec = EnvSpec(make(box(2), mask_space(3)), Discrete(3))
    policy = make_policy(PPOConfig(hidden_sizes=(8,)), spec)
    obs = make(jnp.zeros((4, 2)), jnp.array([[False, False, True]] * 4))
    _, dist, _ = policy.apply(policy.init(jax.random.key(0)), (), obs, jnp.zeros(4, bool))
    np.testing.assert_array_equal(dist.sample(jax.random.key(1)), 2)
    assert empty_masks(spec, make(jnp.zeros((4, 2)), jnp.zeros((4, 3), bool))) == 4


class Own(nn.Module):
    """Reads the whole record, mask and all."""

    @nn.compact
    def __call__(self, obs):
        x = nn.Dense(6)(obs.target.reshape(-1, 6))
        return x[:, :5], x[:, 5]


@pytest.mark.slow
def test_a_network_of_ones_own_is_masked_too():
    env = Dials()
    spec = make_vec_env(env, env.default_params, 2).spec
    policy = make_policy(PPOConfig(), spec, Own())
    obs = jax.vmap(env.reset_env, (0, None))(jax.random.split(jax.random.key(0), 500), None)[0]
    _, dist, _ = policy.apply(policy.init(jax.random.key(1)), (), obs, jnp.zeros(500, bool))
    mask = np.asarray(obs.action_mask)
    assert not mask.all(0).any()
    for action in (dist.sample(jax.random.key(2)), dist.mode()):
        assert violations(np.asarray(action), mask, env.SIZES) == 0


# -- in a run ----------------------------------------------------------------------------------

SMALL = PPOConfig(
    num_envs=2, num_steps=4, total_timesteps=8 * 300, num_epochs=1, num_minibatches=1,
    hidden_sizes=(8,), learning_rate=1e-2,
)  # fmt: skip


@pytest.mark.slow
def test_no_mask_is_violated_while_training():
    """A forbidden setting costs 100: two episodes of 4 steps in each update, of 0 to 8 each."""
    train = jax.jit(jax.vmap(make_train(SMALL, env=Dials())))
    metrics = train(jax.random.split(jax.random.key(0), 2)).metrics
    assert metrics.episodes.shape == (2, 300) and (metrics.episodes == 2).all()
    assert (metrics.return_sum >= 0).all() and (metrics.return_sum <= 16).all()
    assert not metrics.empty_masks.any() and not metrics.skipped_steps.any()
    assert (metrics.grad_norm > 0).all()


@pytest.mark.slow
def test_nor_when_a_policy_is_used():
    env = Dials()
    state = make_learner(SMALL, env=env).init(jax.random.key(0))
    obs = jax.vmap(env.reset_env, (0, None))(jax.random.split(jax.random.key(1), 500), None)[0]
    for deterministic in (False, True):
        act = make_act(SMALL, state, deterministic, env=env)
        action = jax.jit(act)(jax.random.key(2), obs)
        assert violations(np.asarray(action), np.asarray(obs.action_mask), env.SIZES) == 0


class Closed(Endless):
    """Every other step nothing is allowed to the first of two choices, every fourth to neither."""

    def see(self, state, params):
        first, second = state.time % 2 == 0, state.time % 4 != 3
        allowed = jnp.stack([first, first, second, second, jnp.bool_(False)])
        return Shown(state.x[None], allowed)

    def observation_space(self, params):
        one = spaces.Box(-10.0, 10.0, (1,), jnp.float32)
        return spaces.Dict({"x": one, "action_mask": spaces.Box(0, 1, (5,), jnp.bool_)})

    def action_space(self, params):
        return MultiDiscrete((2, 3))


@pytest.mark.slow
def test_empty_masks_are_counted_in_a_run():
    """Per rollout of 8 steps and 2 environments: 4 empty first choices and 2 second ones."""
    config = SMALL.replace(num_steps=8, total_timesteps=48)
    train = jax.jit(jax.vmap(make_train(config, env=Closed())))
    metrics = train(jax.random.split(jax.random.key(0), 2)).metrics
    np.testing.assert_array_equal(metrics.empty_masks, np.full((2, 3), 2 * (4 + 2)))
    assert metrics.empty_masks.dtype == jnp.int32
    assert not metrics.skipped_steps.any()
    assert all(np.isfinite(x).all() for x in (metrics.entropy, metrics.grad_norm))


# -- what is refused ---------------------------------------------------------------------------


def refused(action, mask):
    with pytest.raises(ConfigError) as caught:
        policy_of(action, mask)
    return str(caught.value)


@pytest.mark.parametrize(
    ("action", "given", "fitting"),
    [
        (Discrete(3), (2,), "[3]"),
        (Discrete(3), (1, 3), "[3]"),
        (Discrete(3), (), "[3]"),
        (MultiDiscrete((2, 3)), (2, 3), "[5]"),
        (MultiDiscrete((2, 3)), (6,), "[5]"),
        (MultiDiscrete((3, 3)), (3, 2), "[6] or [2, 3]"),
        (MultiDiscrete((4,)), (1, 4), "[4]"),
    ],
)
def test_masks_of_another_shape(action, given, fitting):
    mask = mask_space(*given)
    several = refused({"a": action, "b": Discrete(2)}, {"a": mask, "b": mask_space(2)})
    for text in (refused(action, mask), several, refused((action,), (mask,))):
        assert text.startswith(f"an action mask for {action} must have shape {fitting}, not ")
        assert str(list(given)) in text or str(given) in text
        assert "\n" not in text


@pytest.mark.parametrize(
    ("action", "mask"),
    [
        ({"a": Discrete(3), "b": Discrete(2)}, mask_space(5)),
        ((Discrete(3), Discrete(2)), mask_space(5)),
        ((Discrete(3),), (mask_space(3), mask_space(2))),
        (Discrete(3), {"a": mask_space(3)}),
    ],
)
def test_masks_of_another_structure(action, mask):
    assert "action mask" in refused(action, mask)


def test_a_mask_for_an_action_that_there_is_not():
    """Ignored, a misspelt name would let everything be chosen."""
    actions = {"move": Discrete(3), "look": Discrete(2)}
    assert "mvoe" in refused(actions, {"mvoe": mask_space(3)})


class Pair(NamedTuple):
    a: Any
    b: Any


def named(a, b):
    return {"a": a, "b": b}


@pytest.mark.parametrize(("of_actions", "of_masks"), [(Pair, named), (named, Pair), (Pair, Pair)])
def test_a_dictionary_fits_a_record_or_is_refused(of_actions, of_masks):
    action, mask = of_actions(Discrete(2), Discrete(3)), of_masks(mask_space(2), mask_space(3))
    try:
        policy = policy_of(action, mask)
    except ConfigError:
        assert of_actions is not of_masks
        return
    masks = of_masks(jnp.array([[False, True]]), jnp.array([[False, False, True]]))
    obs, starts = {"x": jnp.zeros((1, 2)), "action_mask": masks}, jnp.zeros(1, bool)
    _, dist, _ = policy.apply(policy.init(jax.random.key(0)), (), obs, starts)
    assert [int(x[0]) for x in jax.tree.leaves(dist.mode())] == [1, 2]


@pytest.mark.parametrize("action", [box(3), MultiBinary((3,))])
def test_only_choices_can_be_masked(action):
    text = refused(action, mask_space(3))
    assert text.startswith("an action mask cannot forbid part of")
    assert "leave it out" in text
    text = refused({"a": Discrete(3), "b": action}, {"a": mask_space(3), "b": mask_space(3)})
    assert text.startswith("an action mask cannot forbid part of")


def test_an_observation_that_is_nothing_but_a_mask():
    spec = EnvSpec({"action_mask": mask_space(3)}, Discrete(3))
    with pytest.raises(ConfigError, match="holds nothing but a mask"):
        make_policy(PPOConfig(), spec)


# -- masks in info -----------------------------------------------------------------------------


class Informed(Endless):
    """What is allowed changes with every step, and is given in `info`, here of int8."""

    name = "action_mask"

    def allowed(self, state):
        return {self.name: (jnp.arange(3) == state.time % 3).astype(jnp.int8), "time": state.time}

    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        return obs, state, self.allowed(state)

    def step_env(self, key, state, action, params):
        right = (action == state.time % 3).astype(jnp.float32)
        obs, state, *_ = super().step_env(key, state, action, params)
        return obs, state, right, state.time == 5, self.allowed(state)

    def action_space(self, params):
        return spaces.Discrete(3)


@pytest.mark.parametrize("name", ["action_mask", "legal_action_mask"])
def test_a_mask_in_info_goes_into_the_observation(name):
    env = Informed()
    env.name = name
    params = env.default_params
    vec_env = make_vec_env(env, params, 2)
    shape = vec_env.spec.observation["action_mask"].shape
    assert set(vec_env.spec.observation) == {"observation", "action_mask"} and shape == (3,)
    state, obs = vec_env.reset(jax.random.key(0), params)
    step = jax.jit(vec_env.step)
    for t in range(12):
        assert obs["action_mask"].dtype == bool and obs["observation"].shape == (2, 1)
        np.testing.assert_array_equal(obs["action_mask"], [np.arange(3) == t % 5 % 3] * 2)
        action = jnp.argmax(obs["action_mask"], 1)
        draws = vec_env.draw(jax.random.key(t), params)
        state, after = step(draws, state, action, params)
        final = np.arange(3) == (t % 5 + 1) % 3
        np.testing.assert_array_equal(after.final_obs["action_mask"], [final] * 2)
        np.testing.assert_array_equal(after.terminated, t % 5 == 4)
        np.testing.assert_array_equal(after.reward, 1.0)
        obs = after.obs


class Several(Informed):
    """The same for one of two actions."""

    def allowed(self, state):
        return {"action_mask": {"a": super().allowed(state)["action_mask"]}}

    def step_env(self, key, state, action, params):
        return super().step_env(key, state, action["a"], params)

    def action_space(self, params):
        return {"a": Discrete(3), "b": box(2)}


@pytest.mark.slow
def test_a_run_with_its_mask_in_info():
    """With one choice allowed the policy is right from the first step on."""
    train = make_train(SMALL.replace(total_timesteps=80), env=Several())
    metrics = jax.jit(train)(jax.random.key(0)).metrics
    np.testing.assert_array_equal(metrics.episode_return[np.asarray(metrics.episodes) > 0], 5.0)
    assert (metrics.entropy > 1).all()  # that of the box


def test_a_mask_must_be_known_from_the_first_step():
    class Late(Informed):
        def reset_env(self, key, params):
            return super().reset_env(key, params)[:2]

    class Otherwise(Informed):
        def reset_env(self, key, params):
            obs, state, _ = super().reset_env(key, params)
            return obs, state, {"time": 0}

    for env in (Late(), Otherwise()):
        with pytest.raises(ConfigError, match=r"'action_mask'.*return \(obs, state, info\)"):
            make_vec_env(env, env.default_params, 2)


def test_a_mask_in_info_of_another_shape_is_refused():
    class Wide(Informed):
        def action_space(self, params):
            return spaces.Discrete(4)

    with pytest.raises(ConfigError, match=r"must have shape \[4\]"):
        make_train(PPOConfig(), env=Wide())


def test_a_reset_may_have_an_info_that_holds_no_mask():
    class Talkative(Endless):
        def reset_env(self, key, params):
            return *super().reset_env(key, params), {}

    env = Talkative()
    _, obs = make_vec_env(env, env.default_params, 2).reset(jax.random.key(0), env.default_params)
    np.testing.assert_array_equal(obs, [[1], [1]])


@pytest.mark.parametrize("info", [None, Pair(1.0, 2.0), Params()])
def test_info_may_be_anything(info):
    class Other(Endless):
        def step_env(self, key, state, action, params):
            return *super().step_env(key, state, action, params)[:4], info

    env = Other()
    assert make_vec_env(env, env.default_params, 2).spec.action == Discrete(2)
