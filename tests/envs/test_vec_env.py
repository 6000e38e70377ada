"""VecEnv: boundaries, statistics and types, and gymnax's environments against Gymnasium's."""

import copy
import pickle

import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import struct
from gymnax.environments import spaces
from support.probes import Params, Probe

from purejaxppo import ConfigError, PPOConfig, make_env, make_train
from purejaxppo.envs import registry
from purejaxppo.envs.declared import space_of
from purejaxppo.envs.vec_env import make_vec_env
from purejaxppo.keys import split_each
from purejaxppo.spaces import Discrete


def roll(env, params, num_envs, num_steps, act, key=0):
    """States before each step, actions and EnvSteps, [T, N, ...] NumPy, and the first state."""
    vec_env = make_vec_env(env, params, num_envs)

    @jax.jit
    def run(key):
        key_reset, key = jax.random.split(key)
        state, obs = vec_env.reset(key_reset, params)

        def step(loop, inputs):
            state, obs = loop
            t, key = inputs
            action = act(t, obs)
            draws = vec_env.draw(key, params)
            after_state, after = vec_env.step(draws, state, action, params)
            return (after_state, after.obs), (state, obs, action, after)

        inputs = (jnp.arange(num_steps), jax.random.split(key, num_steps))
        return jax.lax.scan(step, (state, obs), inputs)[1]

    return jax.tree.map(np.asarray, run(jax.random.key(key)))


# -- boundaries -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cartpole():
    """CartPole with a time limit of 5: 23 steps of 3 environments, pushed left and right."""
    env, params = make_env("CartPole-v1")
    params = params.replace(max_steps_in_episode=5)
    act = lambda t, obs: jnp.full(3, t % 2, jnp.int32)  # noqa: E731
    return env, params, roll(env, params, 3, 23, act)


def test_time_limit_at_exactly_max_steps(cartpole):
    _, _, (_, _, _, after) = cartpole
    steps = np.arange(1, 24)
    np.testing.assert_array_equal(after.truncated, np.tile((steps % 5 == 0)[:, None], 3))
    assert not after.terminated.any()
    np.testing.assert_array_equal(after.episode_length, np.tile(((steps - 1) % 5 + 1)[:, None], 3))
    np.testing.assert_array_equal(after.episode_return, after.episode_length)


def test_final_obs_is_before_the_reset_and_obs_after_it(cartpole):
    env, params, (state, obs, action, after) = cartpole
    raw = jax.jit(jax.vmap(env.step_env, (None, 0, 0, None)))
    for t in range(23):
        before = jax.tree.map(lambda x, t=t: x[t], state.env_state)
        expected = raw(jax.random.key(0), before, action[t], params)[0]
        np.testing.assert_allclose(after.final_obs[t], expected, atol=1e-6)
        if (t + 1) % 5:
            np.testing.assert_array_equal(after.obs[t], after.final_obs[t])
        else:  # Gymnasium's CartPole starts within 0.05; five pushes leave that range
            assert (np.abs(after.obs[t]) <= 0.05).all()
            assert (np.abs(after.final_obs[t]).max(1) > 0.05).all()
    np.testing.assert_array_equal(obs[1:], after.obs[:-1])


def test_no_two_episodes_begin_alike(cartpole):
    _, _, (_, obs, _, after) = cartpole
    starts = np.concatenate([obs[0], after.obs[after.truncated]])
    assert starts.shape == (3 + 4 * 3, 4)
    assert len(np.unique(starts.round(6), axis=0)) == len(starts)
    # no coordinate is shared either: every number is drawn afresh
    assert len(np.unique(starts)) == starts.size


def test_another_key_gives_other_episodes():
    env, params = make_env("CartPole-v1")
    vec_env = make_vec_env(env, params, 2)
    first, second = (vec_env.reset(jax.random.key(k), params)[1] for k in (0, 1))
    assert not np.isin(first, second).any()


class Counter(Probe):
    """x counts steps from `start`; pays x as an integer, and terminates once x is 6."""

    def first(self, key):
        return 3.0 * jax.random.bernoulli(key)

    def pay(self, x, action):
        return x.astype(jnp.int32) + action

    def move(self, x, action, time):
        return x + 1, x + 1 >= 6


def test_statistics_against_a_hand_loop():
    """Episodes of 6 or 3 steps that terminate, or of 4 that are cut: all three are met."""
    env = Counter(max_steps_in_episode=4)
    act = lambda t, obs: (jnp.arange(5) + t) % 2  # noqa: E731
    _, obs, action, after = roll(env, env.default_params, 5, 40, act)
    for field in ("reward", "episode_return", "episode_length", "terminated", "truncated"):
        assert getattr(after, field).shape == (40, 5)
    kinds = set()
    for n in range(5):
        total, length = 0.0, 0
        for t in range(40):
            x = obs[t, n, 0]
            total, length = total + x + action[t, n], length + 1
            ends, cut = x + 1 >= 6, length >= 4
            assert after.reward[t, n] == x + action[t, n]
            assert after.episode_return[t, n] == total
            assert after.episode_length[t, n] == length
            assert after.terminated[t, n] == ends
            assert after.truncated[t, n] == (cut and not ends)
            assert after.final_obs[t, n, 0] == x + 1
            if ends or cut:
                kinds.add((bool(ends), bool(cut)))
                total, length = 0.0, 0
                assert after.obs[t, n, 0] in (0, 3)
            else:
                assert after.obs[t, n, 0] == x + 1
    assert kinds == {(True, False), (False, True)}


def test_termination_at_the_time_limit_is_a_termination():
    env = Counter(max_steps_in_episode=3)
    act = lambda t, obs: jnp.zeros(8, jnp.int32)  # noqa: E731
    _, obs, _, after = roll(env, env.default_params, 8, 3, act)
    late = obs[0, :, 0] == 3  # begins at 3, so that it ends with its third step
    assert late.any() and not late.all()
    np.testing.assert_array_equal(after.terminated[2], late)
    np.testing.assert_array_equal(after.truncated[2], ~late)
    assert not (after.terminated & after.truncated).any()


def test_rewards_and_statistics_have_fixed_types():
    env = Counter()
    act = lambda t, obs: jnp.zeros(2, jnp.int32)  # noqa: E731
    _, _, _, after = roll(env, env.default_params, 2, 2, act)
    assert after.reward.dtype == after.episode_return.dtype == np.float32
    assert after.episode_length.dtype == np.int32
    assert after.terminated.dtype == after.truncated.dtype == bool


class Recorder(Probe):
    """Shows the action that it was given; two numbers with bounds of their own."""

    def reset_env(self, key, params):
        return jnp.zeros(2), jnp.zeros(2)

    def step_env(self, key, state, action, params):
        return action, action, 0.0, False, {}

    def is_truncated(self, state, params):
        return False

    def observation_space(self, params):
        return spaces.Box(-9.0, 9.0, (2,), jnp.float32)

    def action_space(self, params):
        low, high = jnp.array([-1.0, 0.0]), jnp.array([2.0, 0.5])
        return spaces.Box(low, high, (2,), jnp.float32)


def test_actions_reach_the_environment_within_their_bounds():
    vec_env = make_vec_env(Recorder(), Params(), 3)
    action = jnp.array([[-5.0, 5.0], [5.0, -5.0], [1.5, 0.25]])
    state, _ = vec_env.reset(jax.random.key(0), Params())
    draws = vec_env.draw(jax.random.key(1), Params())
    _, after = vec_env.step(draws, state, action, Params())
    np.testing.assert_array_equal(after.obs, [[-1.0, 0.5], [2.0, 0.0], [1.5, 0.25]])


# -- types ------------------------------------------------------------------------------------


@struct.dataclass
class Mixed:
    """A state as users write them: Python numbers, a key, an integer counter."""

    level: float
    time: int
    key: jax.Array
    flags: jax.Array


class Loose(Probe):
    """Its reset gives Python numbers, its step arrays and constants."""

    def reset_env(self, key, params):
        return jnp.zeros(1), Mixed(0, 0, key, jnp.zeros(2, bool))

    def step_env(self, key, state, action, params):
        state = Mixed(state.level + 0.5, state.time + 1, key, ~state.flags)
        return jnp.ones(1), state, 1, state.time >= 3, {}

    def is_truncated(self, state, params):
        return False


@pytest.mark.parametrize("name", ["Loose", "CartPole-v1", "Pendulum-v1", "FrozenLake-misc"])
def test_a_step_gives_the_types_that_it_takes(name):
    """To the weak type: otherwise a loop cannot carry the state, or jit compiles twice."""
    env, params = (Loose(), Params()) if name == "Loose" else make_env(name)
    vec_env = make_vec_env(env, params, 2)
    action = vec_env.spec.action
    action = jnp.zeros((2, *action.shape), action.dtype)

    def types(state):
        return [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)]

    key = jax.random.key(0)
    state, obs = jax.eval_shape(vec_env.reset, key, params)
    draws = jax.eval_shape(vec_env.draw, key, params)
    for _ in range(2):
        after_state, after = jax.eval_shape(vec_env.step, draws, state, action, params)
        assert jax.tree.structure(after_state) == jax.tree.structure(state)
        assert types(after_state) == types(state)
        assert types(after.obs) == types(after.final_obs) == types(obs)
        state = after_state


def test_a_state_that_holds_a_key_is_reset_with_the_rest():
    act = lambda t, obs: jnp.zeros(2, jnp.int32)  # noqa: E731
    vec_env = make_vec_env(Loose(), Params(), 2)
    state, _ = vec_env.reset(jax.random.key(0), Params())
    for t in range(3):
        draws = vec_env.draw(jax.random.key(t), Params())
        state, after = vec_env.step(draws, state, act(t, None), Params())
    assert after.terminated.all()
    np.testing.assert_array_equal(state.env_state.level, [0.0, 0.0])
    np.testing.assert_array_equal(state.env_state.time, [0, 0])


# -- resets in batches ------------------------------------------------------------------------


def starts(reset_batch, num_envs=5, seeds=2):
    """CartPole with a limit of 7, for two seeds under vmap: EnvSteps [S, T, N], NumPy."""
    env, params = make_env("CartPole-v1")
    params = params.replace(max_steps_in_episode=7)
    vec_env = make_vec_env(env, params, num_envs, reset_batch)

    def run(key):
        key_reset, key = jax.random.split(key)

        def step(state, key):
            key_action, key_env = jax.random.split(key)
            action = jax.random.randint(key_action, (num_envs,), 0, 2)
            return vec_env.step(vec_env.draw(key_env, params), state, action, params)

        state, _ = vec_env.reset(key_reset, params)
        return jax.lax.scan(step, state, jax.random.split(key, 60))[1]

    keys = jax.random.split(jax.random.key(3), seeds)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(keys))


@pytest.fixture(scope="module")
def all_at_once():
    return starts(None)


@pytest.mark.slow
@pytest.mark.parametrize("reset_batch", [1, 2, 5])
def test_batches_change_when_resets_are_drawn_and_not_what(all_at_once, reset_batch):
    """Also with all five ended in one step, and with a K that does not divide their number.

    Fresh states are the same to the bit; what is stepped from them to rounding.
    """
    assert all_at_once.truncated.all(-1).any()
    after, expected = starts(reset_batch), all_at_once
    done = expected.terminated | expected.truncated
    np.testing.assert_array_equal(after.obs[done], expected.obs[done])
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)  # noqa: E731
    jax.tree.map(close, after, expected)


def test_no_state_is_given_twice_and_all_are_drawn_from_the_whole():
    """CartPole begins uniformly within 0.05: Kolmogorov-Smirnov over some 700 starts."""
    after = starts(3, num_envs=20, seeds=4)
    done = after.terminated | after.truncated
    fresh = after.obs[done]
    assert len(fresh) > 500
    assert len(np.unique(fresh, axis=0)) == len(fresh)
    for column in fresh.T:
        assert scipy.stats.kstest(column, "uniform", (-0.05, 0.1)).pvalue > 1e-4
    by_env = [after.obs[:, :, n][done[:, :, n]].mean() for n in range(20)]
    assert np.ptp(by_env) < 0.03  # no environment is served from a corner


class KeyKeeper(Probe):
    """Its state holds a typed key, beside a number that the key gave."""

    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        return obs, {"state": state, "key": key, "drawn": jax.random.uniform(key)}

    def step_env(self, key, state, action, params):
        obs, inner, reward, terminated, info = super().step_env(key, state["state"], action, params)
        return obs, {**state, "state": inner}, reward, terminated, info

    def is_truncated(self, state, params):
        return jnp.bool_(False)


def test_batches_of_states_with_keys():
    env = KeyKeeper()
    vec_env = make_vec_env(env, env.default_params, 3, 2)
    state, _ = vec_env.reset(jax.random.key(0), env.default_params)
    draws = vec_env.draw(jax.random.key(1), env.default_params)
    after, _ = vec_env.step(draws, state, jnp.zeros(3, jnp.int32), env.default_params)
    inner = after.env_state
    np.testing.assert_array_equal(jax.vmap(jax.random.uniform)(inner["key"]), inner["drawn"])
    assert len(np.unique([*inner["drawn"], *state.env_state["drawn"]])) == 6


def test_a_batch_larger_than_all_environments_is_refused():
    with pytest.raises(ConfigError, match="reset_batch=9 must not exceed num_envs=8: use 8"):
        PPOConfig(reset_batch=9)


@pytest.mark.slow
@pytest.mark.parametrize("reset_batch", [1, 4])
def test_training_with_batches(reset_batch):
    config = PPOConfig(num_envs=4, num_steps=50, total_timesteps=400, hidden_sizes=(8,))
    fresh, batched = (
        jax.jit(make_train(config.replace(reset_batch=k)))(jax.random.key(0)).metrics
        for k in (None, reset_batch)
    )
    assert fresh.episodes.sum() > 0
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)  # noqa: E731
    jax.tree.map(close, fresh, batched)


# -- what is refused --------------------------------------------------------------------------


def altered(**methods):
    """A probe with some methods replaced."""
    return type("Altered", (Probe,), methods)()


def spaced(which, space):
    return altered(**{which: lambda self, params: space})


def refused(env):
    with pytest.raises(ConfigError) as caught:
        make_vec_env(env, Params(), 2)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_action_bounds_must_be_finite():
    for low, high in [(-jnp.inf, 1.0), (-1.0, jnp.array([1.0, jnp.inf]))]:
        text = refused(spaced("action_space", spaces.Box(low, high, (2,), jnp.float32)))
        assert text.startswith("action bounds [") and "inf" in text
        assert "must be finite" in text and "-1 .. 1" in text


@pytest.mark.parametrize("which", ["observation", "action"])
def test_other_spaces_are_not_supported(which):
    text = refused(spaced(f"{which}_space", None))
    assert text.startswith(f"{which} space None is not supported: use Discrete, MultiDiscrete")


def test_actions_that_do_not_begin_at_zero_are_not_passed_off_as_such():
    with pytest.raises(ConfigError, match="start"):
        space_of(gymnasium.spaces.Discrete(3, start=-1), "action")
    assert space_of(gymnasium.spaces.Discrete(3), "action") == Discrete(3)


def test_observations_must_be_as_declared():
    wide = spaces.Box(-1.0, 1.0, (3,), jnp.float32)
    text = refused(spaced("observation_space", wide))
    assert text.startswith("reset_env returns an observation float32[1], its space says float32[3]")
    whole = spaces.Box(0, 1, (1,), jnp.int32)
    text = refused(spaced("observation_space", whole))
    assert text.startswith("reset_env returns an observation float32[1], its space says int32[1]")

    def step_env(self, key, state, action, params):
        return jnp.zeros(2), state, 0.0, False, {}

    text = refused(altered(step_env=step_env))
    assert text.startswith("step_env returns an observation float32[2], its space says float32[1]")

    def see(self, state, params):
        return {"a": state.x[None], "b": state.time}

    text = refused(altered(see=see))
    assert text.startswith("observation['a'] is not in the space Box(low=-10.0")


def test_reward_and_flags_must_be_scalars():
    text = refused(altered(pay=lambda self, x, action: jnp.ones(1)))
    assert text.startswith("reward is float32[1]: it must be a scalar")
    text = refused(altered(move=lambda self, x, action, time: (x, jnp.zeros(2, bool))))
    assert text.startswith("terminated is bool[2]: it must be a scalar")
    text = refused(altered(is_truncated=lambda self, state, params: jnp.zeros(3, bool)))
    assert text.startswith("is_truncated is bool[3]: it must be a scalar")


def test_statistics_of_integers_have_no_meaning():
    config = PPOConfig(env="FrozenLake-misc", normalize_observations=True)
    with pytest.raises(ConfigError, match="normalize_observations=True has no meaning"):
        make_train(config)


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cartpole", "did you mean CartPole-v1"),
        ("CartPole-v0", "did you mean CartPole-v1"),
        ("Breakout", "Breakout-MinAtar"),
        ("nosuch/ant", "no suite 'nosuch'"),
    ],
)
def test_unknown_names(name, words):
    for make in (make_env, lambda n: make_train(PPOConfig(env=n))):
        with pytest.raises(ConfigError) as caught:
            make(name)
        assert str(caught.value).startswith(f"unknown environment {name!r}: ")
        assert words in str(caught.value)


def test_names_are_gymnax_own():
    assert set(registry.names()) >= set(gymnax.registered_envs)


def test_data_that_cannot_be_downloaded(monkeypatch):
    def offline(name):
        raise OSError("no route to host")

    monkeypatch.setattr(gymnax, "make", offline)
    monkeypatch.setattr(registry, "_make_env", registry._make_env.__wrapped__)  # not remembered
    with pytest.raises(ConfigError, match=r"MNISTBandit-bsuite downloads .*no route to host"):
        make_env("MNISTBandit-bsuite")
    # nothing else downloads: the words of the suite alone
    with pytest.raises(ConfigError, match=r"^CartPole-v1 cannot be made: OSError: no route to ho"):
        make_env("CartPole-v1")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_environments_can_be_copied(duplicate):
    env, params = make_env("CartPole-v1")
    twin = duplicate(env)
    expected, obtained = (e.reset_env(jax.random.key(3), params)[0] for e in (env, twin))
    np.testing.assert_array_equal(obtained, expected)


# -- Gymnasium's own --------------------------------------------------------------------------


def pump(t, obs):
    """Acrobot: torque along the second joint's speed, which builds up swing."""
    return jnp.where(obs[:, 5] > 0, 2, 0)


def noise(t, obs, low, high):
    key = jax.random.fold_in(jax.random.key(11), t)
    return jax.random.uniform(key, (obs.shape[0], 1), minval=low, maxval=high)


# name: (fields of the state, actions, steps, which boundaries are met)
CLASSIC = {
    "CartPole-v1": (
        ("x", "x_dot", "theta", "theta_dot"),
        lambda t, obs: (noise(t, obs, 0, 1)[:, 0] > 0.5).astype(jnp.int32),
        300,
        {"terminated"},
    ),
    "Pendulum-v1": (
        ("theta", "theta_dot"),
        lambda t, obs: noise(t, obs, -3, 3),  # beyond the bounds, which are 2
        410,
        {"truncated"},
    ),
    "Acrobot-v1": (
        ("joint_angle1", "joint_angle2", "velocity_1", "velocity_2"),
        pump,
        300,
        {"terminated"},
    ),
    "MountainCar-v0": (
        ("position", "velocity"),
        lambda t, obs: jnp.where((obs[:, 1] >= 0) & (jnp.arange(2) > 0), 2, 0),
        450,
        {"terminated", "truncated"},
    ),
}


@pytest.mark.parametrize("name", CLASSIC)
def test_step_by_step_against_gymnasium(name):
    fields, act, steps, boundaries = CLASSIC[name]
    env, params = make_env(name)
    limit = gymnasium.spec(name).max_episode_steps
    state, _, action, after = roll(env, params, 2, steps, act)
    theirs = gymnasium.make(name).unwrapped
    theirs.reset(seed=0)
    for n in range(2):
        length = 0
        for t in range(steps):
            theirs.state = np.array([getattr(state.env_state, f)[t, n] for f in fields])
            theirs.steps_beyond_terminated = None  # CartPole's own note
            given = action[t, n] if action.ndim == 3 else int(action[t, n])
            seen, reward, terminated, _, _ = theirs.step(given)
            length += 1
            np.testing.assert_allclose(after.final_obs[t, n], seen, atol=1e-5)
            np.testing.assert_allclose(after.reward[t, n], reward, atol=2e-5)
            assert after.terminated[t, n] == terminated
            assert after.truncated[t, n] == (length == limit and not terminated)
            length = 0 if terminated or length == limit else length
    for kind in ("terminated", "truncated"):
        assert getattr(after, kind).any() == (kind in boundaries)


# -- every built-in ---------------------------------------------------------------------------

BUILT_IN = [n for n in gymnax.registered_envs if n != "MNISTBandit-bsuite"]
THEIR_FAULT = {"Swimmer-misc"}  # promotes ranks inside gymnax


QUICK = {"CartPole-v1", "Pendulum-v1", "Breakout-MinAtar", "FrozenLake-misc", "Catch-bsuite"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in BUILT_IN]
)
def test_one_update_of_every_built_in(name):
    config = PPOConfig(
        env=name, num_envs=2, num_steps=4, total_timesteps=8, num_epochs=1, num_minibatches=1,
        hidden_sizes=(8,),
    )  # fmt: skip
    with jax.numpy_rank_promotion("allow" if name in THEIR_FAULT else "raise"):
        metrics = jax.jit(make_train(config))(jax.random.key(0)).metrics
    for value in jax.tree.leaves(jax.device_get(metrics)):
        assert value.shape == (1,) and np.isfinite(value).all()
    assert (metrics.gradient_steps[0], metrics.skipped_steps[0]) == (1, 0)
    # one pass of gradient over a fresh policy: nearly uniform, and ratio 1
    assert metrics.approx_kl[0] == pytest.approx(0, abs=1e-6)
    assert metrics.clip_fraction[0] == 0
    assert metrics.entropy[0] > 0
    assert metrics.grad_norm[0] > 0


# -- keys --------------------------------------------------------------------------------------


def test_keys_are_those_of_jax_split():
    keys = jax.random.split(jax.random.key(3), (2, 5))
    each = jax.vmap(jax.vmap(lambda key: jax.random.split(key, 7)))(keys)
    for given, wanted in ((keys, each), (keys[0, 0], each[0, 0])):
        split = split_each(given, 7)
        np.testing.assert_array_equal(jax.random.key_data(split), jax.random.key_data(wanted))


def test_draws_of_many_steps_are_those_of_each():
    env = Probe()
    vec_env, keys = make_vec_env(env, Params(), 3), jax.random.split(jax.random.key(0), 4)
    many = vec_env.draw(keys, Params())
    for t, key in enumerate(keys):
        of_step = vec_env.draw(key, Params())
        for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(of_step), strict=True):
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            np.testing.assert_array_equal(a[t], b)
