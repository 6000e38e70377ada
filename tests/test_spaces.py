"""Spaces of every kind and structure, what is made of them, and environments that have them."""

import collections
import copy
import pickle
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import spaces
from support.algorithm import build
from support.probes import Endless, Params

from purejaxppo import ConfigError, PPOConfig, make_env, make_learner, make_train
from purejaxppo.envs.declared import observation_spaces, space_of, spaces_of
from purejaxppo.envs.vec_env import make_vec_env
from purejaxppo.envs.wrappers import HideIndices
from purejaxppo.policies.heads import distribution
from purejaxppo.policies.networks import make_policy
from purejaxppo.ppo.collectives import gather
from purejaxppo.ppo.normalize import init_obs_stats, normalize, obs_moments, update_obs_stats
from purejaxppo.ppo.rollout import collect
from purejaxppo.spaces import Box, Discrete, EnvSpec, MultiBinary, MultiDiscrete, to_bounds, zeros

gym = gymnasium.spaces


class Pair(NamedTuple):
    """A record, of spaces or of what is in them."""

    a: Any
    b: Any


@struct.dataclass
class Record:
    """Another, which is not a tuple."""

    a: Any
    b: Any


def box(*shape, low=0.0, high=1.0, dtype=np.float32):
    return Box(np.full(shape, low), np.full(shape, high), shape, np.dtype(dtype))


def assert_same(got, expected):
    """Pytrees of spaces are equal, boxes by what is in them."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if not isinstance(y, Box):
            assert x == y
            continue
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_array_equal(x.low, y.low)
        np.testing.assert_array_equal(x.high, y.high)
        assert x.low.shape == x.high.shape == x.shape


# -- one space ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (spaces.Discrete(5), Discrete(5)),
        (gym.Discrete(5), Discrete(5)),
        (gym.MultiDiscrete([2, 7]), MultiDiscrete((2, 7))),
        (gym.MultiBinary(4), MultiBinary((4,))),
        (gym.MultiBinary([2, 3]), MultiBinary((2, 3))),
        (spaces.Box(0.0, 1.0, (3,), jnp.float32), box(3)),
        (spaces.Box(0, 1, (), jnp.bool_), box(dtype=bool)),
        (spaces.Box(jnp.zeros(2), jnp.ones(2), (2,), jnp.float32), box(2)),
        (gym.Box(-2.0, 3.0, (2, 2)), box(2, 2, low=-2.0, high=3.0)),
        (gym.Box(0, 255, (4, 4, 3), np.uint8), box(4, 4, 3, high=255, dtype=np.uint8)),
        (gym.Box(np.zeros(2), np.ones(2), dtype=np.float64), box(2)),  # as JAX has it
        (Discrete(5), Discrete(5)),
        (MultiDiscrete((3, 3)), MultiDiscrete((3, 3))),
        (MultiBinary((2,)), MultiBinary((2,))),
        (box(3), box(3)),
    ],
)
def test_a_space_of_theirs_is_one_of_ours(theirs, ours):
    assert_same(space_of(theirs, "action"), ours)
    assert_same(spaces_of(theirs), ours)


def test_what_spaces_hold():
    """Shapes and dtypes of arrays, alone and in a batch."""
    held = {Discrete(3): ((), np.int32), MultiDiscrete((2, 3, 4)): ((3,), np.int32)}
    held |= {MultiBinary((2, 3)): ((2, 3), np.int8), box(4, dtype=np.uint8): ((4,), np.uint8)}
    for space, (shape, dtype) in held.items():
        assert (space.shape, space.dtype) == (shape, dtype)
        x = zeros({"x": (space,)}, (5,))["x"][0]
        assert (x.shape, x.dtype) == ((5, *shape), dtype)
        assert not x.any()


def refused(function, *arguments):
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


UNKNOWN = [
    None,
    3,
    gym.Text(3),
    gym.Sequence(gym.Discrete(2)),
    gym.Graph(gym.Discrete(2), None),
    gym.OneOf([gym.Discrete(2), gym.Discrete(3)]),  # one of several, not each of them
]


@pytest.mark.parametrize("space", UNKNOWN, ids=lambda space: type(space).__name__)
def test_spaces_of_other_kinds_are_refused(space):
    text = refused(spaces_of, {"move": space})
    assert text.startswith("action['move'] space ") and "is not supported" in text


def test_ranges_that_do_not_start_at_zero_are_refused():
    for space in (gym.Discrete(3, start=1), gym.MultiDiscrete([2, 2], start=[0, 5])):
        text = refused(spaces_of, (space,))
        assert text.startswith("action[0] space ") and "must start at 0" in text


def test_ranges_in_a_matrix_are_refused():
    with pytest.raises(ConfigError, match="must be a vector: flatten it"):
        space_of(gym.MultiDiscrete([[2, 3], [2, 2]]), "action")


# -- many spaces -------------------------------------------------------------------------------

D2, D3 = Discrete(2), Discrete(3)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Discrete(3)}), {"b": D2, "a": D3}),
        (gym.Dict({"b": gym.Discrete(2), "a": gym.Discrete(3)}), {"b": D2, "a": D3}),
        ({"b": D2, "a": gym.Discrete(3)}, {"b": D2, "a": D3}),
        (collections.OrderedDict(b=D2, a=D3), {"b": D2, "a": D3}),
        (spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]), (D2, D3)),
        (gym.Tuple([gym.Discrete(2), gym.Discrete(3)]), (D2, D3)),
        ((D2, D3), (D2, D3)),
        ([D2, D3], (D2, D3)),
        (Pair(D2, D3), Pair(D2, D3)),
        ((D2,), (D2,)),
        (
            gym.Dict({"x": gym.Tuple([gym.Discrete(2), gym.Dict({"y": gym.Discrete(3)})])}),
            {"x": (D2, {"y": D3})},
        ),
        (spaces.Dict({"x": (D2, Pair(D3, {"y": D2}))}), {"x": (D2, Pair(D3, {"y": D2}))}),
    ],
)
def test_actions_are_structured_as_their_spaces(theirs, ours):
    assert_same(spaces_of(theirs), ours)


def test_a_part_that_is_not_supported_is_named():
    text = refused(spaces_of, {"x": (D2, {"y": None})})
    assert text.startswith("action['x'][1]['y'] space None is not supported")


BOX, THEIR_BOX = box(3), spaces.Box(0.0, 1.0, (3,), jnp.float32)
NAMED = {"a": spaces.Discrete(2), "b": THEIR_BOX}
SEEN = (jnp.int32(0), jnp.zeros(3))


@pytest.mark.parametrize(
    ("theirs", "obs", "ours"),
    [
        (THEIR_BOX, SEEN[1], BOX),
        (gym.Box(0.0, 1.0, (3,)), SEEN[1], BOX),
        (spaces.Dict(NAMED), {"b": SEEN[1], "a": SEEN[0]}, {"a": D2, "b": BOX}),
        (spaces.Dict(NAMED), Pair(*SEEN), Pair(D2, BOX)),
        (spaces.Dict(NAMED), Record(*SEEN), Record(D2, BOX)),
        (NAMED, Record(*SEEN), Record(D2, BOX)),
        (
            gym.Dict({"b": gym.Box(0.0, 1.0, (3,)), "a": gym.Discrete(2)}),
            collections.OrderedDict(b=SEEN[1], a=SEEN[0]),
            collections.OrderedDict(b=BOX, a=D2),
        ),
        (spaces.Tuple([spaces.Discrete(2), THEIR_BOX]), SEEN, (D2, BOX)),
        (gym.Tuple([gym.Discrete(2), gym.Box(0.0, 1.0, (3,))]), SEEN, (D2, BOX)),
        ((D2, BOX), list(SEEN), [D2, BOX]),
        (Pair(D2, BOX), Pair(*SEEN), Pair(D2, BOX)),
        (Pair(D2, BOX), {"a": SEEN[0], "b": SEEN[1]}, {"a": D2, "b": BOX}),
        (
            spaces.Dict({"x": spaces.Dict(NAMED), "y": (D3, NAMED)}),
            {"x": Record(*SEEN), "y": (SEEN[0], Pair(*SEEN))},
            {"x": Record(D2, BOX), "y": (D3, Pair(D2, BOX))},
        ),
    ],
)
def test_observations_are_structured_as_they_are_seen(theirs, obs, ours):
    """Not as they are declared: a dictionary of spaces may stand for a record."""
    assert_same(observation_spaces(theirs, obs), ours)
    shapes = jax.eval_shape(lambda: obs)
    assert_same(observation_spaces(theirs, shapes), ours)


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        ({"a": SEEN[0], "b": SEEN[1], "c": SEEN[0]}, "observation['c'] is not in the space"),
        ({"a": SEEN[0], "c": SEEN[1]}, "observation['c'] is not in the space"),
        ({"a": SEEN[0], "b": {"x": SEEN[1]}}, "observation['b']['x'] is not in the space"),
        (Pair(SEEN[0], SEEN), "observation.b[0] is not in the space"),
        (SEEN, "observation[0] is not in the space"),
        ({"a": SEEN[0]}, "the observation has 1 arrays, its space"),
        ({}, "the observation has 0 arrays, its space"),
        (SEEN[1], "observation space Dict("),
    ],
)
def test_what_is_seen_must_be_declared_and_the_other_way_round(obs, words):
    assert refused(observation_spaces, spaces.Dict(NAMED), obs).startswith(words)


def test_a_part_of_an_observation_that_is_no_space():
    text = refused(observation_spaces, {"a": D2, "b": None}, Pair(*SEEN))
    assert text.startswith("observation['b'] space None is not supported")


# -- actions within their bounds ---------------------------------------------------------------


def test_each_box_of_an_action_is_clipped_in_its_own_dtype(variant):
    whole = Box(np.array([-2, 0]), np.array([2, 9]), (2,), np.dtype(np.int32))
    wide = Box(np.float32(-1.0), np.float32(0.5), (), np.dtype(np.float32))
    actions = {"whole": whole, "rest": (wide, D3, MultiDiscrete((2, 2)), MultiBinary((3,)))}
    given = {
        "whole": jnp.array([[-5.0, -5.0], [5.0, 50.0], [1.0, 3.0]]),
        "rest": (
            jnp.array([-3.0, 0.25, 3.0]),
            jnp.array([0, 7, 2], jnp.int32),
            jnp.array([[0, 1], [1, 5], [1, 1]], jnp.int32),
            jnp.array([[0, 1, 1]] * 3, jnp.int32),
        ),
    }
    got = variant(lambda a: to_bounds(actions, a))(given)
    np.testing.assert_array_equal(got["whole"], [[-2, 0], [2, 9], [1, 3]])
    number, discrete, several, bits = got["rest"]
    np.testing.assert_array_equal(number, [-1.0, 0.25, 0.5])
    np.testing.assert_array_equal(discrete, given["rest"][1])  # not a matter of bounds
    np.testing.assert_array_equal(several, given["rest"][2])
    np.testing.assert_array_equal(bits, given["rest"][3])
    dtypes = [x.dtype for x in jax.tree.leaves(got)]
    assert dtypes == [np.float32, np.int32, np.int32, np.int8, np.int32]  # rest, then whole


def test_bounds_are_of_the_last_axes():
    space = Box(np.array([[0.0, 1.0], [2.0, 3.0]]), np.full((2, 2), 3.0), (2, 2), np.dtype("f4"))
    for lead in ((), (5,), (2, 3)):
        got = to_bounds(space, jnp.full((*lead, 2, 2), -1.0))
        np.testing.assert_array_equal(got, np.broadcast_to(space.low, (*lead, 2, 2)))


def test_squashed_actions_reach_every_whole_number_within_their_bounds():
    """The ends too, which no number squashed between them equals."""
    space = Box(np.zeros(1), np.full(1, 3), (1,), np.dtype(np.int32))
    dist = distribution(space, (jnp.zeros((500, 1)), jnp.ones(1)), None, squash=True)
    action = to_bounds(space, dist.sample(jax.random.key(0)))
    assert set(np.unique(action)) == {0, 1, 2, 3}


def test_bounds_without_room_between_them_cannot_be_squashed():
    """Refused, or certain: not NaN."""
    space = Box(np.zeros(2), np.array([1.0, 0.0]), (2,), np.dtype(np.float32))
    try:
        policy = make_policy(
            PPOConfig(hidden_sizes=(4,), squash_actions=True), EnvSpec(box(2), space)
        )
    except ConfigError:
        return
    params = policy.init(jax.random.key(0))
    _, dist, _ = policy.apply(params, (), jnp.zeros((3, 2)), jnp.zeros(3, bool))
    action = dist.sample(jax.random.key(1))
    assert np.isfinite(dist.log_prob(action)).all() and np.isfinite(dist.entropy()).all()


# -- dictionaries through VecEnv ---------------------------------------------------------------


@struct.dataclass
class GameState:
    """Where a game stands."""

    x: jax.Array  # [2] float32
    time: jax.Array  # () int32
    first: jax.Array  # () int32, drawn at the reset


class Game:
    """Every part of what is seen tells the time and which episode it is; 4 steps, or cut at 6.

    Episodes whose `first` is even never end by themselves.
    """

    default_params = Params(max_steps_in_episode=6)

    def see(self, state):
        image = jnp.full((4, 4, 1), 10 * state.time, jnp.uint8)
        bits = (state.first >> jnp.arange(3)) & 1
        inner = Pair(state.first, bits.astype(jnp.int8))
        return {"x": state.x, "image": image, "inner": inner, "late": state.time > 2}

    def reset_env(self, key, params):
        key_x, key_first = jax.random.split(key)
        first = jax.random.randint(key_first, (), 0, 8)
        state = GameState(jax.random.normal(key_x, (2,)), jnp.int32(0), first)
        return self.see(state), state

    def step_env(self, key, state, action, params):
        x = state.x + action["push"]
        reward = x[0] + action["how"].move
        state = state.replace(x=x, time=state.time + 1)
        ends = (state.time == 4) & (state.first % 2 == 1)
        return self.see(state), state, reward, ends, {}

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def observation_space(self, params):
        inner = spaces.Dict({"a": spaces.Discrete(8), "b": gym.MultiBinary(3)})
        return spaces.Dict(
            {
                "x": spaces.Box(-jnp.inf, jnp.inf, (2,), jnp.float32),
                "image": spaces.Box(0, 255, (4, 4, 1), jnp.uint8),
                "inner": inner,
                "late": spaces.Box(0, 1, (), jnp.bool_),
            }
        )

    def action_space(self, params):
        return {"push": spaces.Box(-1.0, 1.0, (2,), jnp.float32), "how": How(D3, D2)}


class How(NamedTuple):
    move: Any
    other: Any


def play(steps, num_envs=6):
    """Observations before each step, actions and EnvSteps, [T, N, ...]."""
    env = Game()
    vec_env = make_vec_env(env, env.default_params, num_envs)

    def act(key):
        keys = jax.random.split(key, 3)
        move = jax.random.randint(keys[0], (num_envs,), 0, 3)
        push = 2.0 * jax.random.normal(keys[1], (num_envs, 2))  # beyond the bounds, too
        return {"push": push, "how": How(move, jnp.zeros(num_envs, jnp.int32))}

    @jax.jit
    def run(key):
        key_reset, key = jax.random.split(key)
        state, obs = vec_env.reset(key_reset, env.default_params)

        def step(loop, key):
            state, obs = loop
            key_action, key_step = jax.random.split(key)
            action = act(key_action)
            draws = vec_env.draw(key_step, env.default_params)
            state, after = vec_env.step(draws, state, action, env.default_params)
            return (state, after.obs), (obs, action, after)

        return jax.lax.scan(step, (state, obs), jax.random.split(key, steps))[1]

    return jax.tree.map(np.asarray, run(jax.random.key(0)))


def test_every_part_of_an_observation_is_reset_with_its_episode():
    """By a loop over steps and environments: obs is the new episode's, final_obs the old one's."""
    obs, action, after = play(30)
    met = set()
    for n in range(6):
        time, total = 0, 0.0
        for t in range(30):
            now, end, next_obs = (
                jax.tree.map(lambda x, t=t, n=n: x[t, n], tree)
                for tree in (obs, after.final_obs, after.obs)
            )
            first = now["inner"].a
            push = np.clip(action["push"][t, n], -1, 1)
            time, total = time + 1, total + now["x"][0] + push[0] + action["how"].move[t, n]
            np.testing.assert_allclose(end["x"], now["x"] + push, rtol=1e-6)
            assert (end["image"] == 10 * time).all() and end["image"].dtype == np.uint8
            assert end["inner"].a == first
            np.testing.assert_array_equal(end["inner"].b, [first & 1, first >> 1 & 1, first >> 2])
            assert end["late"] == (time > 2)
            ends, cut = time == 4 and first % 2 == 1, time == 6
            assert (after.terminated[t, n], after.truncated[t, n]) == (ends, cut)
            np.testing.assert_allclose(after.episode_return[t, n], total, rtol=1e-4, atol=1e-5)
            if not ends and not cut:
                for x, y in zip(jax.tree.leaves(next_obs), jax.tree.leaves(end), strict=True):
                    np.testing.assert_array_equal(x, y)
                continue
            met.add((ends, cut))
            assert not next_obs["image"].any() and not next_obs["late"]
            assert (next_obs["x"] != end["x"]).all()
            time, total = 0, 0.0
    assert met == {(True, False), (False, True)}


def test_the_spaces_of_such_an_environment():
    env = Game()
    spec = make_vec_env(env, env.default_params, 2).spec
    expected = {
        "x": box(2, low=-np.inf, high=np.inf),
        "image": box(4, 4, 1, high=255, dtype=np.uint8),
        "inner": Pair(Discrete(8), MultiBinary((3,))),
        "late": box(dtype=bool),
    }
    assert_same(spec.observation, expected)
    assert_same(spec.action, {"push": box(2, low=-1.0), "how": How(D3, D2)})


def shown_as(see, space=None):
    """An environment that shows (x, y) in another structure."""

    class Shown(Endless):
        def see(self, state, params):
            return see(state.time % 2, jnp.full(3, state.x))

        def observation_space(self, params):
            return space or spaces.Dict(NAMED)

    return Shown()


STRUCTURES = {
    "dictionary": (lambda a, b: {"a": a, "b": b}, None),
    "ordered": (lambda a, b: collections.OrderedDict(b=b, a=a), None),
    "named tuple": (Pair, None),
    "record": (Record, None),
    "tuple": (lambda a, b: (a, b), (D2, BOX)),
    "nested": (lambda a, b: {"x": Pair(a, b)}, {"x": NAMED}),
}
TINY = PPOConfig(
    num_envs=2, num_steps=4, total_timesteps=16, num_epochs=1, num_minibatches=2, hidden_sizes=(4,)
)


@pytest.mark.parametrize("name", STRUCTURES)
def test_runs_take_observations_of_any_structure(name):
    """Traced, not run: with statistics, whose structure is that of the observations."""
    see, space = STRUCTURES[name]
    train = make_train(TINY.replace(normalize_observations=True), env=shown_as(see, space))
    out = jax.eval_shape(train, jax.random.key(0))
    assert jax.tree.structure(out.state.obs) == jax.tree.structure(see(0, 0))
    kernels = out.state.params["actor"]["MLP_0"]["Dense_0"]["kernel"]
    assert kernels.shape == (2 + 3, 4)  # one-hot of two, and three numbers


def test_steps_must_show_what_resets_show():
    class Changing(Endless):
        def step_env(self, key, state, action, params):
            obs, *rest = super().step_env(key, state, action, params)
            return {"a": obs["a"], "c": obs["b"]}, *rest

        def see(self, state, params):
            return {"a": jnp.int32(0), "b": jnp.zeros(3)}

        def observation_space(self, params):
            return spaces.Dict(NAMED)

    env = Changing()
    text = refused(make_vec_env, env, env.default_params, 2)
    assert text.startswith("step_env returns an observation ")
    said, declared = text.removeprefix("step_env returns an observation ").split(
        ", its space says "
    )
    assert said != declared.rpartition(": ")[0]


def test_action_bounds_must_be_finite_in_every_part():
    class Unbounded(Endless):
        def action_space(self, params):
            return {"a": D2, "b": (box(2), box(1, high=np.inf))}

    env = Unbounded()
    assert "must be finite" in refused(make_vec_env, env, env.default_params, 2)


# -- hidden entries ----------------------------------------------------------------------------


class Four(Endless):
    """Four numbers with bounds of their own; the second counts the steps."""

    def see(self, state, params):
        return jnp.stack([state.x, state.time.astype(jnp.float32), 2 * state.x, jnp.float32(7)])

    def observation_space(self, params):
        return spaces.Box(jnp.arange(4.0) - 9, jnp.arange(4.0) + 9, (4,), jnp.float32)


@pytest.mark.parametrize(
    ("indices", "kept"),
    [([1, 3], [0, 2]), ((0,), [1, 2, 3]), ([3, 0, 3], [1, 2])],
)
def test_hidden_entries_are_not_seen(indices, kept, variant):
    env = HideIndices(Four(), indices)
    params = env.default_params
    space = env.observation_space(params)
    np.testing.assert_array_equal(space.low, np.arange(4.0)[kept] - 9)
    np.testing.assert_array_equal(space.high, np.arange(4.0)[kept] + 9)
    assert (space.shape, space.dtype) == ((len(kept),), np.float32)

    def two(action):
        obs, state = env.reset_env(jax.random.key(0), params)
        after, state, reward, terminated, _ = env.step_env(jax.random.key(1), state, action, params)
        return obs, after, reward, terminated, env.is_truncated(state, params)

    obs, after, reward, terminated, truncated = variant(two)(jnp.int32(1))
    np.testing.assert_array_equal(obs, np.array([1.0, 0.0, 2.0, 7.0])[kept])
    np.testing.assert_array_equal(after, np.array([1.0, 1.0, 2.0, 7.0])[kept])
    assert (reward, terminated, truncated) == (1.0, False, False)
    spec = make_vec_env(env, params, 3).spec
    assert_same(spec.observation, Box(space.low, space.high, space.shape, space.dtype))
    assert spec.action == D2


def test_hidden_velocities_of_a_cart():
    env, params = make_env("CartPole-v1")
    hidden = HideIndices(env, np.array([1, 3]))
    keys = jax.random.split(jax.random.key(0), 5)
    whole, part = (
        jax.jit(jax.vmap(e.reset_env, (0, None)))(keys, params)[0] for e in (env, hidden)
    )
    np.testing.assert_array_equal(part, whole[:, [0, 2]])
    assert hidden.name == "CartPole-v1"
    config = TINY.replace(normalize_observations=True)
    out = jax.eval_shape(make_train(config, env=hidden), jax.random.key(0))
    assert out.state.normalizers.obs.mean.shape == (2,)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_hiding_can_be_copied(duplicate):
    env, params = make_env("CartPole-v1")
    env = HideIndices(env, [1, 3])
    twin = duplicate(env)
    assert type(twin) is HideIndices and twin.indices == (1, 3)
    expected, obtained = (e.reset_env(jax.random.key(3), params)[0] for e in (env, twin))
    np.testing.assert_array_equal(obtained, expected)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = twin.nothing_of_the_kind


@pytest.mark.parametrize("indices", [[4], [-1], [0, 1, 2, 3], [1, 9], range(5), ["x"], []])
def test_indices_that_are_not_there_or_all_there_are(indices):
    text = refused(HideIndices, Four(), indices)
    assert text.startswith(f"indices {tuple(indices)} must be some, not all, of 0 .. 3")


@pytest.mark.parametrize(
    ("obs", "space"),
    [
        ({"a": jnp.int32(0), "b": jnp.zeros(3)}, NAMED),
        (jnp.float32(0), spaces.Box(0.0, 1.0, (), jnp.float32)),
        (jnp.int32(0), D3),
        (jnp.zeros((4, 4)), spaces.Box(0.0, 1.0, (4, 4), jnp.float32)),
        (jnp.zeros(3, jnp.int8), MultiBinary((3,))),
        (jnp.zeros(2, jnp.int32), MultiDiscrete((2, 3))),
    ],
)
def test_only_vectors_have_entries_to_hide(obs, space):
    refused(HideIndices, shown_as(lambda a, b: obs, space), [0])


# -- statistics of parts -----------------------------------------------------------------------

PARTS = {
    "vector": box(3),
    "whole": box(2, high=9, dtype=np.int32),
    "bytes": box(5, high=255, dtype=np.uint8),
    "image": box(36, 36, 1, high=255, dtype=np.uint8),
    "grid": box(4, 5, 2),
    "number": box(),
    "bools": box(3, dtype=bool),
    "kind": Discrete(4),
    "kinds": MultiDiscrete((2, 3)),
    "bits": MultiBinary((3,)),
    "inner": (box(2, 2), Discrete(2)),
    "action_mask": box(2),  # of floats, yet a mask
}
MEASURED = {"vector", "whole", "bytes", "number", "inner"}


def seen(lead, seed=0):
    """Random observations of PARTS, as NumPy arrays."""
    rng = np.random.default_rng(seed)

    def draw(space):
        top = np.max(getattr(space, "high", 1)) + 1
        if space.dtype == np.float32:
            return rng.normal(3, 2, (*lead, *space.shape)).astype(np.float32)
        return rng.integers(0, top, (*lead, *space.shape)).astype(space.dtype)

    return jax.tree.map(draw, PARTS)


def test_numbers_are_measured_and_nothing_else():
    stats = init_obs_stats(EnvSpec(PARTS, D3))
    assert stats.keys() == PARTS.keys()
    for name, part in stats.items():
        if name == "inner":
            assert part[0].mean.shape == (2, 2) and part[1] is None
        elif name in MEASURED:
            assert part.mean.shape == part.var.shape == PARTS[name].shape
        else:
            assert part is None
    assert init_obs_stats(EnvSpec(Pair(D3, box(2)), D3)).a is None
    assert init_obs_stats(EnvSpec(box(4), D3)).mean.shape == (4,)
    assert init_obs_stats(EnvSpec(D3, D3)) is None


@pytest.mark.parametrize("name", ["action_mask", "legal_action_mask"])
def test_masks_of_numbers_are_not_measured(name):
    masks = {"move": box(3), "look": box(2)}
    stats = init_obs_stats(EnvSpec({"x": box(3), name: masks}, D3))
    assert stats[name] == {"move": None, "look": None} and stats["x"] is not None


def add(stats, obs):
    """Statistics with what one device has seen."""
    return update_obs_stats(stats, gather(obs_moments(stats, obs), None))


def test_statistics_of_every_part_against_numpy():
    batches = [seen((6, 2), 1), seen((3, 4), 2)]
    stats = init_obs_stats(EnvSpec(PARTS, D3))
    for batch in batches:
        stats = jax.jit(add)(stats, batch)
    for name in MEASURED:
        got = stats[name][0] if name == "inner" else stats[name]
        of_part = (x[name][0] if name == "inner" else x[name] for x in batches)
        flat = np.concatenate([x.reshape(12, *got.mean.shape) for x in of_part]).astype(np.float64)
        np.testing.assert_allclose(got.mean, flat.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got.var, flat.var(0), rtol=1e-4)
        assert got.count == 24
    assert stats["inner"][1] is None
    assert {name for name, part in stats.items() if part is not None} == MEASURED


@pytest.mark.slow
def test_every_part_is_normalised_by_its_own():
    stats = add(init_obs_stats(EnvSpec(PARTS, D3)), seen((40,), 3))
    batch = seen((6, 2), 4)
    batch["vector"][0, 0] = 1e6
    got = jax.jit(normalize)(stats, batch)
    assert jax.tree.structure(got) == jax.tree.structure(batch)
    for name in PARTS:
        x, y = batch[name], got[name]
        s = stats[name]
        if name == "inner":
            np.testing.assert_array_equal(x[1], y[1])
            x, y, s = x[0], y[0], s[0]
        if name in MEASURED:
            expected = (x - np.float64(s.mean)) / np.sqrt(np.float64(s.var))
            np.testing.assert_allclose(y, np.clip(expected, -10, 10), rtol=1e-4, atol=1e-4)
            assert y.dtype == np.float32
        else:
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype
    np.testing.assert_array_equal(got["vector"][0, 0], 10.0)
    assert normalize(None, batch) is batch


def test_a_part_that_is_not_finite_does_not_stop_the_others():
    bad = seen((6, 2), 5)
    bad["vector"][3, 1, 0] = np.nan
    before = init_obs_stats(EnvSpec(PARTS, D3))
    after = add(before, bad)
    assert after["vector"].count == 0 and after["number"].count == 12


@pytest.mark.parametrize(
    "space", [D3, spaces.Box(0, 255, (4, 4, 1), jnp.uint8), {"a": D2, "action_mask": box(2)}]
)
def test_with_nothing_to_measure_it_is_refused(space):
    ours = spaces_of(space)
    env = shown_as(lambda a, b: zeros(ours), space)
    config = TINY.replace(normalize_observations=True)
    text = refused(lambda: make_train(config, env=env))
    assert text.startswith("normalize_observations=True has no meaning for")


# -- images in a run ---------------------------------------------------------------------------


@pytest.mark.slow
def test_images_stay_bytes_and_the_numbers_beside_them_are_measured():
    """In the rollout, where they take a quarter of the memory of floats, and when normalised.

    After each update, the statistics are NumPy's over all rollouts so far.
    """
    env = Game()
    config = TINY.replace(normalize_observations=True)
    setup, learner = build(config, env), make_learner(config, env=env)

    @jax.jit
    def update(state):
        key, _, _ = jax.random.split(state.key, 3)
        _, rollout = collect(
            setup.policy, setup.critic, setup.vec_env, 4, state, setup.env_params, key
        )
        return rollout.obs, normalize(state.normalizers.obs, rollout.obs), learner.update(state)

    state, xs = jax.jit(learner.init)(jax.random.key(0)), []
    for _ in range(2):
        seen, normalised, (state, metrics) = update(state)
        for obs in (seen, normalised):
            assert (obs["image"].shape, obs["image"].dtype) == ((4, 2, 4, 4, 1), np.uint8)
            assert obs["late"].dtype == bool and obs["inner"].a.dtype == np.int32
            assert obs["inner"].b.dtype == np.int8 and obs["x"].dtype == np.float32
        np.testing.assert_array_equal(seen["image"], normalised["image"])
        assert metrics.skipped_steps == 0 and np.isfinite(metrics.grad_norm)
        xs.append(np.asarray(seen["x"], np.float64).reshape(-1, 2))
        stats = state.normalizers.obs
        np.testing.assert_allclose(stats["x"].mean, np.concatenate(xs).mean(0), rtol=1e-4)
        np.testing.assert_allclose(stats["x"].var, np.concatenate(xs).var(0), rtol=1e-4)
        assert stats["x"].count == 8 * len(xs)
    assert (stats["image"], stats["late"], stats["inner"]) == (None, None, Pair(None, None))


@pytest.mark.parametrize(
    ("shape", "high", "torso"),
    [((5, 4, 2), 255, "auto"), ((5, 4, 2), 12, "mlp"), ((36, 36, 1), 255, "auto")],
)
def test_bytes_are_scaled_by_their_bounds(shape, high, torso):
    """A network of bytes answers as the same network of numbers in 0 .. 1 does."""
    config = PPOConfig(hidden_sizes=(4,), torso=torso)
    same = config.replace(torso="nature") if shape[0] == 36 else config
    of_bytes = make_policy(config, EnvSpec(box(*shape, high=high, dtype=np.uint8), D3))
    of_numbers = make_policy(same, EnvSpec(box(*shape), D3))
    obs = np.random.default_rng(6).integers(0, high + 1, (3, *shape)).astype(np.uint8)
    params = jax.tree.map(lambda x: 3 * x, jax.jit(of_bytes.init)(jax.random.key(0)))
    got, expected = (
        jax.jit(policy.apply)(params, (), x, jnp.zeros(3, bool))
        for policy, x in ((of_bytes, obs), (of_numbers, (obs / high).astype(np.float32)))
    )
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    assert np.ptp(np.asarray(got[2])) > 1e-3


def test_an_image_beside_numbers_is_read_by_its_own_network():
    """Its features and the numbers, one-hot where they are names, stand side by side."""
    env = Game()
    spec = make_vec_env(env, env.default_params, 2).spec
    policy = make_policy(PPOConfig(hidden_sizes=(6,)), spec)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    torso = params["actor"]
    assert torso["GridCNN_0"]["Conv_0"]["kernel"].shape == (3, 3, 1, 16)
    features = 2 * 2 * 16 + 8 + 3 + 1 + 2  # image, first, bits, late, x
    assert torso["MLP_0"]["Dense_0"]["kernel"].shape == (features, 6)
