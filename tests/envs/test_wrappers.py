"""Wrappers, against Gymnasium's own where they mean the same, else against loops by hand."""

import copy
import functools
import pickle

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnasium import spaces
from support.probes import Dials, Endless, Params, Probe, Seen

from purejaxppo import ConfigError, PPOConfig, make_env, make_learner, make_train
from purejaxppo.envs.declared import observation_spaces
from purejaxppo.envs.vec_env import make_vec_env
from purejaxppo.envs.wrappers import (
    ActionRepeat,
    ClipReward,
    EpisodeStatistics,
    FlattenObservation,
    FrameStack,
    HideIndices,
    LastActionReward,
    NormalizeObservation,
    ScaleReward,
    StickyActions,
    TimeLimit,
)

wrappers = gymnasium.wrappers
STEPS = 8
ACTIONS = np.array([2, 0, 1, 1, 2, 0, 2, 1], np.int32)


def box(low, high, shape, dtype=np.float32):
    return spaces.Box(np.full(shape, low, dtype), np.full(shape, high, dtype), shape, dtype)


def vector(x, time):
    return jnp.stack([x, -time, x * time]).astype(jnp.float32)


def matrix(x, time):
    return jnp.arange(12.0).reshape(4, 3) - x + time


def image(x, time):
    return (jnp.arange(40).reshape(5, 4, 2) + 3 * time + x).astype(jnp.uint8)


def dictionary(x, time):
    return {"bits": bits(x, time), "deep": (matrix(x, time), time), "numbers": vector(x, time)}


def masked(x, time):
    mask = jnp.stack([time % 2 == 0, time > -1, x > 3])
    return {"action_mask": mask.astype(jnp.int8), "name": time, "numbers": vector(x, time)}


def bits(x, time):
    return jnp.stack([time % 2, time // 2 % 2, time // 4 % 2]).astype(jnp.int8)


VECTOR = spaces.Box(np.float32([0, -16, -9]), np.float32([30, 0, 400]), (3,), np.float32)
SHOWN = {  # what is seen of (x, time), and the space that it is in
    "vector": (vector, VECTOR),
    "integer": (lambda x, time: jnp.stack([x, time]).astype(jnp.int32), box(0, 30, (2,), np.int32)),
    "scalar": (lambda x, time: x, box(0, 30, ())),
    "matrix": (matrix, box(-30, 30, (4, 3))),
    "gray": (lambda x, time: image(x, time)[..., 1], box(0, 255, (5, 4), np.uint8)),
    "image": (image, box(0, 255, (5, 4, 2), np.uint8)),
    "name": (lambda x, time: time, spaces.Discrete(17)),
    "names": (lambda x, time: jnp.stack([time, time % 3]), spaces.MultiDiscrete([17, 3])),
    "bits": (bits, spaces.MultiBinary(3)),
    "dictionary": (
        dictionary,
        spaces.Dict(
            bits=spaces.MultiBinary(3),
            deep=spaces.Tuple((box(-30, 30, (4, 3)), spaces.Discrete(17))),
            numbers=VECTOR,
        ),
    ),
    "masked": (
        masked,
        spaces.Dict(
            action_mask=spaces.MultiBinary(3), name=spaces.Discrete(17), numbers=VECTOR
        ),
    ),
}  # fmt: skip


@struct.dataclass
class State:
    x: jax.Array
    time: jax.Array


class Script:
    """x begins at 0 .. 3 and adds up the actions; ends after `end` steps; pays of both signs."""

    default_params = Params()

    def __init__(self, shown="vector", end=6):
        self.shown, self.end = shown, end

    def see(self, state, params):
        return SHOWN[self.shown][0](state.x, state.time)

    def reset_env(self, key, params):
        state = State(jax.random.randint(key, (), 0, 4).astype(jnp.float32), jnp.int32(0))
        return self.see(state, params), state

    def step_env(self, key, state, action, params):
        state = State(state.x + action, state.time + 1)
        reward = params.reward_scale * (0.7 * state.x - state.time)
        return self.see(state, params), state, reward, state.time >= self.end, {"x": state.x}

    def is_truncated(self, state, params):
        return state.time >= params.max_steps_in_episode

    def observation_space(self, params):
        return SHOWN[self.shown][1]

    def action_space(self, params):
        return spaces.Discrete(3)


class Informed(Script):
    """Its info says which actions are allowed, from the first observation on."""

    def info(self, state):
        return {"action_mask": jnp.stack([state.time % 2 == 0, state.x >= 0, state.x > 3])}

    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        return obs, state, self.info(state)

    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, _ = super().step_env(key, state, action, params)
        return obs, state, reward, terminated, self.info(state)


class Echo(Script):
    """Shows the action that it was given, of 0 .. 99; never ends."""

    def reset_env(self, key, params):
        return jnp.float32([-1]), State(jnp.float32(0), jnp.int32(0))

    def step_env(self, key, state, action, params):
        obs = jnp.asarray(action, jnp.float32)[None]
        return obs, State(state.x, state.time + 1), 0.0, False, {}

    def observation_space(self, params):
        return box(-1, 99, (1,))

    def action_space(self, params):
        return spaces.Discrete(100)


def steps(env, params, key, actions):
    """The first observation, and what each step gives, without resets: a pure function."""
    key_reset, key = jax.random.split(key)
    keys = jax.random.split(key, len(jax.tree.leaves(actions)[0]))
    first, state, *_ = env.reset_env(key_reset, params)

    def step(state, inputs):
        obs, state, reward, terminated, info = env.step_env(inputs[1], state, inputs[0], params)
        flags = jnp.asarray(terminated), jnp.asarray(env.is_truncated(state, params))
        return state, (obs, jnp.asarray(reward, jnp.float32), *flags, info)

    return first, jax.lax.scan(step, state, (actions, keys))[1]


def play(env, actions=ACTIONS, key=0, params=None):
    """`steps` in NumPy, once what is seen was found to be within the declared space."""
    params = env.default_params if params is None else params
    run = jax.jit(lambda key, actions: steps(env, params, key, actions))
    first, after = jax.tree.map(np.asarray, run(jax.random.key(key), jnp.asarray(actions)))
    done = np.append(after[2] | after[3], True).argmax() + 1  # steps of the first episode
    contained(env, params, jax.tree.map(lambda a, b: np.stack([a, *b[:done]]), first, after[0]))
    return first, after


def contained(env, params, obs):
    """Observations [T, ...] are within the space, which is of their shape and dtype."""

    def inside(space, x):
        assert (x.shape[1:], x.dtype) == (space.shape, space.dtype)
        if hasattr(space, "low"):
            assert space.low.shape == space.high.shape == space.shape
            assert (x >= space.low - 1e-5).all() and (x <= space.high + 1e-5).all()
        else:
            sizes = np.asarray(getattr(space, "nvec", getattr(space, "n", 2)))
            assert (x >= 0).all() and (x < sizes).all()

    jax.tree.map(inside, observation_spaces(env.observation_space(params), obs), obs)


@functools.cache
def bare(shown="vector", end=6, actions=None):
    return play(Script(shown, end), ACTIONS if actions is None else np.int32(actions))


class Replay(gymnasium.Env):
    """What a bare environment did, as one of Gymnasium's."""

    def __init__(self, env, actions=ACTIONS):
        self.first, self.after = bare(
            env.shown, env.end, None if actions is ACTIONS else tuple(actions.tolist())
        )
        self.observation_space = env.observation_space(env.default_params)
        self.action_space = env.action_space(env.default_params)

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self.first, {}

    def step(self, action):
        t, self.time = self.time, self.time + 1
        obs, reward, terminated, truncated, _ = self.after
        obs = jax.tree.map(lambda x: x[t], obs)
        return obs, float(reward[t]), bool(terminated[t]), bool(truncated[t]), {}


def follow(env, num_steps=STEPS):
    """An episode of Gymnasium's: the first observation, and what each step gives, to its end."""
    first, _ = env.reset()
    after, over = [], False
    while not over and len(after) < num_steps:
        after.append(env.step(0))
        over = after[-1][2] or after[-1][3]
    return first, after


def same(ours, theirs, see=lambda obs: obs):
    """Observations, rewards and flags agree, to the end of the episode."""
    first, after = ours
    their_first, their_after = theirs
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-5), first, see(their_first))
    for t, (obs, reward, terminated, truncated, _) in enumerate(their_after):
        jax.tree.map(
            lambda x, y, t=t: np.testing.assert_allclose(x[t], y, 1e-5, 1e-5), after[0], see(obs)
        )
        assert after[1][t] == pytest.approx(reward, abs=1e-5)
        assert (after[2][t], after[3][t]) == (terminated, truncated)


# -- each against Gymnasium's -----------------------------------------------------------------


def side_by_side(frames):
    """Gymnasium's frames [n, ...] as ours: along the last axis, which some must be given first."""
    return np.concatenate([f[..., None] if f.ndim in (0, 2) else f for f in frames], -1)


@pytest.mark.parametrize("shown", ["vector", "integer", "scalar", "matrix", "gray", "image"])
def test_frame_stack(shown):
    theirs = follow(wrappers.FrameStackObservation(Replay(Script(shown)), 3))
    ours = play(FrameStack(Script(shown), 3))
    same(ours, theirs, side_by_side)
    assert ours[0].dtype == SHOWN[shown][1].dtype


@pytest.mark.parametrize("limit", [1, 5, 6, 7])
def test_time_limit(limit):
    theirs = follow(wrappers.TimeLimit(Replay(Script()), limit))
    assert len(theirs[1]) == min(limit, 6)
    same(play(TimeLimit(Script(), limit)), theirs)


def test_an_own_limit_stays_in_force():
    params = Params(max_steps_in_episode=3)
    for limit, cut in ((2, 2), (5, 3)):
        truncated = play(TimeLimit(Script(), limit), params=params)[1][3]
        np.testing.assert_array_equal(truncated, np.arange(1, STEPS + 1) >= cut)


@pytest.mark.parametrize("shown", sorted(set(SHOWN) - {"masked"}))
def test_flatten_observation(shown):
    space = SHOWN[shown][1]
    theirs = follow(Replay(Script(shown)))
    same(
        play(FlattenObservation(Script(shown))), theirs, lambda obs: spaces.flatten(space, obs)
    )  # fmt: skip
    ours, flat = (
        FlattenObservation(Script(shown)).observation_space(Params()),
        spaces.flatten_space(space),
    )
    assert (ours.shape, ours.dtype) == (flat.shape, np.float32)
    np.testing.assert_array_equal(ours.low, flat.low)
    np.testing.assert_array_equal(ours.high, flat.high)


class Sized(Probe):
    """Has as many zeros as its parameters say, which are no arrays."""

    def __init__(self):
        self.default_params = {"n": 2}

    def see(self, state, params):
        return jnp.zeros(params["n"])

    def is_truncated(self, state, params):
        return state.time >= 9

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1)
        return self.see(state, params), state, 0.0, jnp.bool_(False), {}

    def observation_space(self, params):
        return spaces.Box(-1.0, 1.0, (params["n"],), np.float32)


def test_parameters_may_say_the_shapes_of_what_is_flattened():
    env = FlattenObservation(Sized())
    config = PPOConfig(num_envs=2, num_steps=4, num_minibatches=1, hidden_sizes=(4,))
    learner = make_learner(config, env=env)
    assert jax.eval_shape(learner.init, jax.random.key(0)).obs.shape == (2, 2)


@pytest.mark.slow
def test_flatten_observation_leaves_a_mask_beside_it():
    first, (obs, *_) = play(FlattenObservation(Script("masked")))
    first_seen, (seen, *_) = bare("masked")
    one_hot = np.eye(17)[seen["name"]]
    np.testing.assert_array_equal(obs["observation"], np.concatenate([one_hot, seen["numbers"]], 1))
    np.testing.assert_array_equal(obs["action_mask"], seen["action_mask"])
    np.testing.assert_array_equal(first["action_mask"], first_seen["action_mask"])
    env = FlattenObservation(Dials())  # a record: its parts in the order of a dictionary's names
    obs, _ = env.reset_env(jax.random.key(0), Params())
    raw, _ = Dials().reset_env(jax.random.key(0), Params())
    parts = np.ravel(raw.board), np.ravel(raw.target), np.eye(5)[raw.time]
    np.testing.assert_array_equal(obs["observation"], np.concatenate(parts))
    np.testing.assert_array_equal(obs["action_mask"], raw.action_mask)
    contained(env, Params(), jax.tree.map(lambda x: np.asarray(x)[None], obs))


@pytest.mark.parametrize("shown", ["vector", "scalar", "matrix"])
def test_normalize_observation_over_the_bounds(shown):
    theirs = wrappers.RescaleObservation(Replay(Script(shown)), np.float32(-1), np.float32(1))
    same(play(NormalizeObservation(Script(shown))), follow(theirs))
    space = NormalizeObservation(Script(shown)).observation_space(Params())
    assert (space.low == -1).all() and (space.high == 1).all()


@pytest.mark.parametrize(
    ("shown", "mean", "std"),
    [("vector", 3.0, 0.5), ("integer", [3, -1], None), ("image", None, 2.0)],
)
def test_normalize_observation_with_numbers(shown, mean, std):
    low, high = (np.float64(b) for b in (SHOWN[shown][1].low, SHOWN[shown][1].high))
    middle = (low + high) / 2 if mean is None else np.array(mean)
    scale = (high - low) / 2 if std is None else std
    env = NormalizeObservation(Script(shown), None if mean is None else np.array(mean), std)
    same(play(env), follow(Replay(Script(shown))), lambda obs: (obs - middle) / scale)
    space = env.observation_space(Params())
    np.testing.assert_allclose(space.low, (low - middle) / scale, 1e-6)
    np.testing.assert_allclose(space.high, (high - middle) / scale, 1e-6)


@pytest.mark.parametrize("hidden", [[0], [2, 0], (1, 1)])
def test_hide_indices(hidden):
    see = lambda obs: np.delete(obs, hidden)  # noqa: E731
    same(play(HideIndices(Script(), hidden)), follow(Replay(Script())), see)
    space = HideIndices(Script(), hidden).observation_space(Params())
    np.testing.assert_array_equal(space.low, np.delete(VECTOR.low, hidden))
    np.testing.assert_array_equal(space.high, np.delete(VECTOR.high, hidden))


def test_hide_indices_of_integers():
    same(
        play(HideIndices(Script("integer"), [0])),
        follow(Replay(Script("integer"))),
        lambda o: o[1:],
    )


@pytest.mark.parametrize("low_high", [(), (-0.5, 2.0), (0.0, 0.1)])
def test_clip_reward(low_high):
    theirs = wrappers.ClipReward(Replay(Script()), *(low_high or (-1.0, 1.0)))
    same(play(ClipReward(Script(), *low_high)), follow(theirs))


@pytest.mark.parametrize("scale", [0.1, -2.0])
def test_scale_reward(scale):
    theirs = wrappers.TransformReward(Replay(Script()), lambda r: r * scale)
    same(play(ScaleReward(Script(), scale)), follow(theirs))


@pytest.mark.parametrize("end", [3, 6])
def test_episode_statistics(end):
    ours = play(EpisodeStatistics(Script(end=end)))
    theirs = follow(wrappers.RecordEpisodeStatistics(Replay(Script(end=end))))
    same(ours, theirs)
    info, episode = ours[1][4], theirs[1][-1][4]["episode"]
    assert info["episode_return"][end - 1] == pytest.approx(episode["r"], abs=1e-5)
    assert info["episode_length"][end - 1] == episode["l"] == end
    np.testing.assert_allclose(info["episode_return"], np.cumsum(ours[1][1]), 1e-5)
    np.testing.assert_array_equal(info["x"], bare()[1][4]["x"])  # what there was stays


@pytest.mark.parametrize(("times", "end"), [(1, 3), (2, 4), (2, 5), (4, 6), (20, 6)])
def test_action_repeat(times, end):
    """Ends between, at and within the repetitions; what would be paid after them is not."""
    actions = np.repeat(ACTIONS, times)
    theirs = follow(wrappers.RepeatAction(Replay(Script(end=end), actions), times))
    assert len(theirs[1]) == -(-end // times)
    ours = play(ActionRepeat(Script(end=end), times), ACTIONS[: len(theirs[1])])
    same(ours, theirs)
    unwrapped = bare(end=end, actions=tuple(actions.tolist()))[1][1]
    assert ours[1][1].sum() == pytest.approx(unwrapped[:end].sum(), abs=1e-4)


def test_action_repeat_is_cut_short_by_a_time_limit():
    theirs = wrappers.TimeLimit(Replay(Script(), np.repeat(ACTIONS, 3)), 4)
    theirs = follow(wrappers.RepeatAction(theirs, 3))
    assert [after[3] for after in theirs[1]] == [False, True]
    same(play(ActionRepeat(TimeLimit(Script(), 4), 3), ACTIONS[:2]), theirs)
    # counted outside, the limit is one of decisions
    theirs = wrappers.RepeatAction(Replay(Script(end=14), np.repeat(ACTIONS, 3)), 3)
    theirs = follow(wrappers.TimeLimit(theirs, 4))
    same(play(TimeLimit(ActionRepeat(Script(end=14), 3), 4), ACTIONS[:4]), theirs)


def test_action_repeat_counts_every_step_of_statistics_inside():
    unwrapped = play(Script(), np.repeat(ACTIONS, 4))[1][1]
    for inside in (True, False):
        env = Script()
        env = (
            ActionRepeat(EpisodeStatistics(env), 4)
            if inside
            else EpisodeStatistics(ActionRepeat(env, 4))
        )
        info = play(env, ACTIONS[:2])[1][4]
        assert info["episode_length"].tolist() == ([4, 6] if inside else [1, 2])
        np.testing.assert_allclose(
            info["episode_return"], [unwrapped[:4].sum(), unwrapped[:6].sum()], 1e-5
        )


class Late(Script):
    """Not a number once it is over, in whatever it gives."""

    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, info = super().step_env(key, state, action, params)
        bad = jnp.where(state.time > self.end, jnp.nan, 0.0)
        return obs + bad, State(state.x + bad, state.time), reward + bad, terminated, info


def test_action_repeat_takes_nothing_from_beyond_an_end():
    _, after = play(ActionRepeat(Late(end=2), 4), ACTIONS[:1])
    unwrapped = play(Script(end=2), ACTIONS[[0, 0]])[1]
    np.testing.assert_allclose(after[0][0], unwrapped[0][1])
    np.testing.assert_allclose(after[1][0], unwrapped[1].sum(), 1e-6)
    assert after[4]["x"][0] == unwrapped[4]["x"][1]


# -- sticky actions ---------------------------------------------------------------------------

EPISODES, LENGTH = 1000, 6


def taken(probability, env=None):
    """Actions that arrive, [EPISODES, LENGTH], where 1, 2, 3 ... were sent."""
    env = StickyActions(Echo(), probability) if env is None else env
    run = jax.jit(jax.vmap(lambda key: steps(env, Params(), key, jnp.arange(1, LENGTH + 1))[1][0]))
    return np.asarray(run(jax.random.split(jax.random.key(5), EPISODES)))[..., 0]


def taken_by_gymnasium(probability):
    class Same(gymnasium.Env):
        observation_space, action_space = box(-1, 99, (1,)), spaces.Discrete(100)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.float32([-1]), {}

        def step(self, action):
            return np.float32([action]), 0.0, False, False, {}

    env = wrappers.StickyAction(Same(), probability)
    env.reset(seed=7)
    found = []
    for _ in range(EPISODES):
        env.reset()
        found.append([env.step(a)[0][0] for a in range(1, LENGTH + 1)])
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize("probability", [0.25, 0.6])
def test_sticky_actions_repeat_as_often_as_said(probability):
    for actions in (taken(probability), taken_by_gymnasium(probability)):
        sent = np.arange(1, LENGTH + 1)
        sticks = actions != sent
        assert not sticks[:, 0].any()  # nothing to repeat yet
        previous = np.roll(actions, 1, 1)
        assert (actions == np.where(sticks, previous, sent)).all()  # of those taken, not those sent
        for happened, p in ((sticks[:, 1:], probability), (sticks[:, 1:-1] & sticks[:, 2:], None)):
            p, n = (probability**2, EPISODES * 2) if p is None else (p, happened.size)
            # pairs share a step each: half of them are counted as independent, which is too few
            assert abs(happened.mean() - p) < 4.5 * np.sqrt(p * (1 - p) / n)


def test_sticky_actions_never_and_always():
    np.testing.assert_array_equal(taken(0.0), np.tile(np.arange(1, LENGTH + 1), (EPISODES, 1)))
    np.testing.assert_array_equal(taken(1.0), np.ones((EPISODES, LENGTH)))


def test_sticky_actions_begin_every_episode_with_the_action_sent():
    env = TimeLimit(StickyActions(Echo(), 1.0), 3)
    vec_env = make_vec_env(env, Params(), 4)

    @jax.jit
    def run(key):
        state, _ = vec_env.reset(key, Params())

        def step(state, t):
            draws = vec_env.draw(jax.random.fold_in(key, t), Params())
            state, after = vec_env.step(draws, state, jnp.full(4, t), Params())
            return state, after.final_obs[:, 0]

        return jax.lax.scan(step, state, jnp.arange(9))[1]

    expected = np.arange(9) // 3 * 3
    np.testing.assert_array_equal(run(jax.random.key(0)), np.tile(expected[:, None], 4))


class TwoPart(Echo):
    """Takes a number and a name at once."""

    def step_env(self, key, state, action, params):
        obs = jnp.stack([action["name"].astype(jnp.float32), action["number"][0]])
        return obs, State(state.x, state.time + 1), 0.0, False, {}

    def reset_env(self, key, params):
        return jnp.zeros(2), State(jnp.float32(0), jnp.int32(0))

    def observation_space(self, params):
        return box(0, 99, (2,))

    def action_space(self, params):
        return spaces.Dict(name=spaces.Discrete(100), number=box(0, 99, (1,)))


def test_sticky_actions_keep_the_parts_of_an_action_together():
    sent = jnp.arange(1, 9)
    actions = {"name": sent, "number": sent[:, None].astype(jnp.float32)}
    run = jax.vmap(lambda key: steps(StickyActions(TwoPart(), 0.5), Params(), key, actions)[1][0])
    obs = np.asarray(jax.jit(run)(jax.random.split(jax.random.key(0), 20)))
    np.testing.assert_array_equal(obs[..., 0], obs[..., 1])
    assert 30 < (obs[..., 0] != np.asarray(sent)).sum() < 110


# -- what holds of every wrapper --------------------------------------------------------------

WRAP = {
    "FrameStack": lambda env: FrameStack(env, 2),
    "StickyActions": lambda env: StickyActions(env, 0.5),
    "TimeLimit": lambda env: TimeLimit(env, 3),
    "FlattenObservation": FlattenObservation,
    "NormalizeObservation": NormalizeObservation,
    "HideIndices": lambda env: HideIndices(env, [1]),
    "ActionRepeat": lambda env: ActionRepeat(env, 4),
    "ClipReward": ClipReward,
    "ScaleReward": lambda env: ScaleReward(env, 0.5),
    "EpisodeStatistics": EpisodeStatistics,
    "LastActionReward": LastActionReward,
    "a stack": lambda env: FrameStack(
        ClipReward(EpisodeStatistics(ActionRepeat(TimeLimit(StickyActions(env), 5), 2))), 3
    ),
    "another": lambda env: TimeLimit(
        ScaleReward(NormalizeObservation(FlattenObservation(HideIndices(env, [0]))), 2.0), 4
    ),
}  # fmt: skip
STACKS = ("a stack", "another")
every = pytest.mark.parametrize("wrap", WRAP)


def close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (jnp.shape(x), jnp.result_type(x)) == (jnp.shape(y), jnp.result_type(y))
        np.testing.assert_allclose(x, y, 1e-5, 1e-6)


def a_few(env):
    return lambda key, params: steps(env, params, key, jnp.asarray(ACTIONS[:3]))


REFERENCE = {}


@every
def test_eager_jit_and_vmap_agree(wrap, variant):
    env = WRAP[wrap](Script())
    args = jax.random.key(2), jax.tree.map(jnp.asarray, Params())
    if wrap not in REFERENCE:
        REFERENCE[wrap] = jax.jit(a_few(env))(*args)
    close(variant(a_few(env))(*args), REFERENCE[wrap])


@every
def test_parameters_may_be_traced(wrap):
    """And vmapped: as many environments as there are parameters, in one program."""
    env = WRAP[wrap](Script())
    run = jax.jit(a_few(env))
    several = Params(jnp.float32([1, -3]), jnp.ones(2), jnp.int32([2, 1000]))
    together = jax.jit(jax.vmap(run, (None, 0)))(jax.random.key(1), several)
    for i, params in enumerate((Params(1.0, 1.0, 2), Params(-3.0, 1.0, 1000))):
        alone = run(jax.random.key(1), jax.tree.map(jnp.asarray, params))
        close(jax.tree.map(lambda x, i=i: x[i], together), alone)
    truncated = np.asarray(together[1][3])
    assert truncated[0].any() and (truncated[0] != truncated[1]).any()


@every
def test_copies(wrap):
    env = WRAP[wrap](Script())
    twin = pickle.loads(pickle.dumps(copy.deepcopy(env)))
    assert type(twin) is type(env) and vars(twin).keys() == vars(env).keys()
    found = []
    for e in (env, twin):
        obs, state = e.reset_env(jax.random.key(3), Params())
        found.append((obs, e.step_env(jax.random.key(4), state, jnp.int32(1), Params())))
    close(*found)


class Copied(Script):
    def __deepcopy__(self, memo):
        return Copied(self.shown, self.end)


def test_copies_of_what_says_how_it_is_copied():
    assert isinstance(copy.deepcopy(FrameStack(Copied(), 2)), FrameStack)


@every
def test_a_mask_in_info_is_passed_on(wrap):
    spec = make_vec_env(WRAP[wrap](Informed()), Params(), 2).spec
    assert spec.observation.keys() == {"observation", "action_mask"}
    assert spec.observation["action_mask"].shape == (3,)


def test_a_mask_in_info_is_that_of_the_observation_shown():
    env = TimeLimit(StickyActions(ClipReward(EpisodeStatistics(Informed())), 0.0), 9)
    vec_env = make_vec_env(env, Params(), 2)
    for obs in jax.device_get(jax.jit(lambda key: step_twice(vec_env, key))(jax.random.key(0))):
        x, minus_time = obs["observation"][:, 0], obs["observation"][:, 1]
        expected = np.stack([minus_time % 2 == 0, x >= 0, x > 3], 1)
        np.testing.assert_array_equal(obs["action_mask"], expected)


def step_twice(vec_env, key):
    state, first = vec_env.reset(key, Params())
    _, after = vec_env.step(vec_env.draw(key, Params()), state, jnp.ones(2, jnp.int32), Params())
    return first, after.obs


@pytest.mark.parametrize(
    "wrap",
    ["StickyActions", "TimeLimit", "ActionRepeat", "ClipReward", "EpisodeStatistics"],
)  # fmt: skip
def test_observations_of_several_parts(wrap):
    first, after = play(WRAP[wrap](Script("masked")), ACTIONS[:2])
    assert first.keys() == after[0].keys() == SHOWN["masked"][1].spaces.keys()


@pytest.mark.parametrize("wrap", [ClipReward, lambda env: EpisodeStatistics(ClipReward(env))])
def test_returns_are_counted_where_the_statistics_are(wrap):
    vec_env = make_vec_env(wrap(Endless(reward_scale=5.0)), Params(reward_scale=5.0), 2)
    state, _ = vec_env.reset(jax.random.key(0), Params(reward_scale=5.0))
    draws = vec_env.draw(jax.random.key(1), Params(reward_scale=5.0))
    after = vec_env.step(draws, state, jnp.zeros(2, jnp.int32), Params(reward_scale=5.0))[1]
    assert after.reward.tolist() == after.episode_return.tolist() == [1, 1]


# -- combinations -----------------------------------------------------------------------------


def test_a_stack_of_ours_is_gymnasiums_stack():
    replay = Replay(Script("dictionary", end=9), np.repeat(ACTIONS, 2))
    theirs = wrappers.RepeatAction(wrappers.TimeLimit(replay, 8), 2)
    theirs = wrappers.FlattenObservation(wrappers.RecordEpisodeStatistics(theirs))
    theirs = follow(wrappers.FrameStackObservation(wrappers.ClipReward(theirs, -2.0, 1.0), 3))
    ours = ActionRepeat(TimeLimit(Script("dictionary", end=9), 8), 2)
    ours = FlattenObservation(EpisodeStatistics(ours))
    ours = play(FrameStack(ClipReward(ours, -2.0, 1.0), 3))
    same(ours, theirs, side_by_side)
    assert len(theirs[1]) == 4
    episode = theirs[1][-1][4]["episode"]
    assert ours[1][4]["episode_return"][3] == pytest.approx(episode["r"], abs=1e-4)
    assert ours[1][4]["episode_length"][3] == episode["l"]


def test_the_outermost_acts_last():
    inner, outer = ScaleReward(ClipReward(Script()), 3.0), ClipReward(ScaleReward(Script(), 3.0))
    unwrapped = bare()[1][1]
    np.testing.assert_allclose(play(inner)[1][1], 3 * unwrapped.clip(-1, 1), 1e-5)
    np.testing.assert_allclose(play(outer)[1][1], (3 * unwrapped).clip(-1, 1), 1e-5)
    frames = play(HideIndices(FrameStack(Script(), 2), [0]))[1][0]
    np.testing.assert_array_equal(frames, play(FrameStack(Script(), 2))[1][0][:, 1:])


@pytest.mark.parametrize(("limit", "outside"), [(4, True), (6, False), (9, True)])
def test_boundaries_by_hand(limit, outside):
    """Three environments, 20 steps: stacks, flags, returns, and what an episode ended with."""
    env = Script()  # ends after 6 steps
    env = TimeLimit(FrameStack(env, 2), limit) if outside else FrameStack(TimeLimit(env, limit), 2)
    vec_env = make_vec_env(ClipReward(EpisodeStatistics(env)), Params(), 3)
    sent = np.random.default_rng(0).integers(0, 3, (20, 3)).astype(np.int32)

    @jax.jit
    def run(key):
        key_reset, key = jax.random.split(key)
        state, first = vec_env.reset(key_reset, Params())

        def step(state, inputs):
            draws = vec_env.draw(inputs[1], Params())
            return vec_env.step(draws, state, inputs[0], Params())

        return first, jax.lax.scan(step, state, (sent, jax.random.split(key, 20)))[1]

    first, after = jax.device_get(run(jax.random.key(0)))
    starts = set()
    for n in range(3):
        obs, last = first[n], None
        for t in range(20):
            if last is None:  # a new episode: its first frame, twice
                np.testing.assert_array_equal(obs[:3], obs[3:])
                x, time, total, last = obs[0], 0, 0.0, obs[:3]
                assert obs.tolist() == [x, 0, 0] * 2 and x in range(4)
                starts.add(x)
            x, time = x + sent[t, n], time + 1
            frame = np.float32([x, -time, x * time])
            reward = 0.7 * x - time
            total += reward
            np.testing.assert_allclose(after.final_obs[t, n], np.concatenate([last, frame]))
            assert after.reward[t, n] == pytest.approx(np.clip(reward, -1, 1), abs=1e-5)
            assert after.episode_return[t, n] == pytest.approx(total, abs=1e-4)
            assert after.episode_length[t, n] == time
            assert after.terminated[t, n] == (time == 6)
            assert after.truncated[t, n] == (time == limit and time != 6)
            done, obs = time in (6, limit), after.obs[t, n]
            if not done:
                np.testing.assert_array_equal(obs, after.final_obs[t, n])
            last = None if done else frame
    assert len(starts) > 1


# -- training ---------------------------------------------------------------------------------

TINY = PPOConfig(
    num_envs=2, num_steps=8, total_timesteps=16, num_epochs=1, num_minibatches=1, hidden_sizes=(4,)
)  # fmt: skip


def trained(env):
    return jax.device_get(jax.jit(make_train(TINY, env=env))(jax.random.key(0)).metrics)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrap", "total"),
    [
        (lambda env: FrameStack(ScaleReward(ClipReward(EpisodeStatistics(env)), 0.5), 2), 20),
        (ClipReward, 4),
    ],
)
def test_training_reports_the_returns_that_were_counted(wrap, total):
    """Four steps that pay 5 each, clipped to 1."""
    metrics = trained(wrap(Endless(reward_scale=5.0, max_steps_in_episode=4)))
    assert metrics.episode_return.tolist() == [total]
    assert metrics.episode_length.tolist() == [4]


@pytest.mark.slow
def test_one_update_through_a_stack_of_wrappers():
    env = StickyActions(TimeLimit(Informed(end=20), 7))
    env = FrameStack(NormalizeObservation(HideIndices(env, [2])), 3)
    metrics = trained(ScaleReward(ClipReward(EpisodeStatistics(ActionRepeat(env, 2))), 0.5))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics))
    assert metrics.episode_length.tolist() == [4]  # decisions of two steps each
    assert (metrics.gradient_steps[0], metrics.skipped_steps[0]) == (1, 0)


# -- bounds that depend on parameters ---------------------------------------------------------


def traced_bounds(wrap, name="Pendulum-v1"):
    """One step of a wrapped environment of gymnax, with traced parameters."""
    env, params = make_env(name)
    vec_env = make_vec_env(wrap(env), params, 2)

    def run(key, params):
        state, _ = vec_env.reset(key, params)
        action = jnp.zeros((2, *vec_env.spec.action.shape), vec_env.spec.action.dtype)
        return vec_env.step(vec_env.draw(key, params), state, action, params)[1].final_obs

    return env, jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(0), params))


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [
        *[pytest.param(WRAP[w], id=w) for w in WRAP if w not in ("StickyActions", *STACKS)],
        StickyActions,
        lambda env: NormalizeObservation(FlattenObservation(env)),
        lambda env: NormalizeObservation(HideIndices(env, [0])),
        lambda env: NormalizeObservation(FrameStack(env, 2)),
    ],
)  # fmt: skip
def test_bounds_that_are_traced(wrap):
    _, obs = traced_bounds(wrap)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(obs))


def test_normalize_observation_takes_bounds_that_say_nothing_for_none():
    """CartPole's velocities are declared up to the largest float32 there is."""
    with pytest.raises(ConfigError, match=r"needs finite bounds, .*give mean and std"):
        NormalizeObservation(make_env("CartPole-v1")[0])


# -- what is refused --------------------------------------------------------------------------


def refused(make, *words):
    with pytest.raises(ConfigError) as caught:
        env = make()
        make_vec_env(env, env.default_params, 2)
    text = str(caught.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == []
    return text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FrameStack(Script(), 1), ("num_frames=1", "at least 2", "4")),
        (lambda: FrameStack(Script(), -3), ("num_frames=-3", "at least 2", "4")),
        (lambda: FrameStack(Script("name"), 2), ("FrameStack", "Box", "Discrete", "FlattenObs")),
        (lambda: TimeLimit(Script(), 0), ("max_steps=0", "at least 1", "1000")),
        (lambda: ActionRepeat(Script(), 0), ("times=0", "at least 1", "4")),
        (lambda: StickyActions(Script(), 1.5), ("probability=1.5", "0 .. 1", "0.25")),
        (lambda: StickyActions(Script(), -0.1), ("probability=-0.1", "0 .. 1", "0.25")),
        (lambda: StickyActions(Script(), np.nan), ("probability=nan", "0 .. 1", "0.25")),
        (lambda: ClipReward(Script(), 1.0, -1.0), ("low=1.0", "high=-1.0", "-1 and 1")),
        (lambda: ClipReward(Script(), 1.0, 1.0), ("low=1.0", "high=1.0", "-1 and 1")),
        (lambda: ClipReward(Script(), np.nan), ("low=nan", "-1 and 1")),
        (lambda: HideIndices(Script(), [3]), ("(3,)", "0 .. 2", "(0,)")),
        (lambda: HideIndices(Script(), [-1]), ("(-1,)", "0 .. 2", "(0,)")),
        (lambda: HideIndices(Script(), [0, 1, 2]), ("(0, 1, 2)", "not all", "(0,)")),
        (
            lambda: HideIndices(Script("dictionary"), [0]),
            ("HideIndices", "Box", "FlattenObservation"),
        ),
        (lambda: HideIndices(Script("matrix"), [0]), ("HideIndices", "vector")),
    ],
)
def test_refused(make, words):
    refused(make, *words)


def test_normalize_observation_needs_bounds_or_numbers():
    class Unbounded(Script):
        def observation_space(self, params):
            return spaces.Box(-np.inf, np.inf, (3,), np.float32)

    for given in ({}, {"mean": 1.0}, {"std": 1.0}):
        text = refused(lambda given=given: NormalizeObservation(Unbounded(), **given), "finite")
        assert "mean and std" in text and "normalize_observations=True" in text
    space = NormalizeObservation(Unbounded(), 1.0, 2.0).observation_space(Params())
    assert (space.low == -np.inf).all() and (space.high == np.inf).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: FrameStack(Script("dictionary"), 2), ("FrameStack", "FlattenObservation"),
        ),
        (
            lambda: NormalizeObservation(Script("dictionary")), ("NormalizeObs", "FlattenObs"),
        ),
        (
            lambda: NormalizeObservation(Script("name")), ("NormalizeObs", "FlattenObs"),
        ),
        (
            lambda: NormalizeObservation(Script(), 0.0, 0.0), ("std=0.0",),
        ),
        (
            lambda: NormalizeObservation(Script(), 0.0, -1.0), ("std=-1.0",),
        ),
        (
            lambda: NormalizeObservation(Script(), np.zeros(2), 1.0), ("mean", "3"),
        ),
        (
            lambda: HideIndices(Script(), []), ("()", "(0,)"),
        ),
        (
            lambda: FrameStack(Script(), 2.5), ("num_frames=2.5",),
        ),
        (
            lambda: ActionRepeat(Script(), 2.5), ("times=2.5",),
        ),
        (lambda: TimeLimit(Script(), np.nan), ("max_steps=nan",)),
        (lambda: ScaleReward(Script(), np.nan), ("scale=nan",)),
        (
            lambda: FrameStack(make_env("gymnasium/CartPole-v1")[0], 2), ("gymnasium",),
        ),
    ],
)  # fmt: skip
def test_refused_with_a_message_of_ones_own(make, words):
    refused(make, *words)


def test_nothing_can_be_hidden_of_a_single_number():
    refused(lambda: HideIndices(Seen(), [0]), "two numbers or more, not [1]")
