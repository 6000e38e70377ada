"""Parameters of each environment: along an axis, drawn once, or drawn for every episode."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import struct
from gymnax.environments.spaces import Box
from support.probes import Constant, Params, Probe
from support.processes import on_devices

from purejaxppo import (
    ConfigError,
    DrawnParams,
    PPOConfig,
    RunWarning,
    as_policy,
    cli,
    fit,
    load_policy,
    make_env,
    make_evaluate,
    make_learner,
    make_train,
    randomizer,
    sweep,
)
from purejaxppo.components import make_components
from purejaxppo.envs.wrappers import StickyActions

N, LENGTH = 4, 3
CONFIG = PPOConfig(
    num_envs=N, num_steps=8, num_minibatches=2, num_epochs=1, total_timesteps=N * 8 * 4,
    hidden_sizes=(4,),
)  # fmt: skip
KEY = jax.random.key(0)


class Shown(Probe):
    """Shows `obs_scale`, pays `reward_scale` in each step; x is drawn at first. 3 steps long."""

    def first(self, key):
        return jax.random.uniform(key)

    def see(self, state, params):
        return jnp.stack([params.obs_scale + 0.0 * state.x, state.x])

    def observation_space(self, params):
        return Box(-100.0, 100.0, (2,), jnp.float32)

    def move(self, x, action, time):
        return x, time + 1 >= LENGTH


def draw(key):
    """A scale of what is seen, from the same function of a key as the first x.

    From 0 to 1: computed without rounding, and so to the same bits wherever a compiler does.
    """
    return Params(obs_scale=jax.random.uniform(key))


def rollout(num_envs, num_steps, key=KEY, env=None, act=None, config=CONFIG, **custom):
    """First states and observations, those of T steps, and what the steps gave, in NumPy."""
    config = config.replace(num_envs=num_envs, num_minibatches=1, total_timesteps=num_envs * 8)
    parts = make_components(config, env=Shown() if env is None else env, **custom)
    vec_env, params = parts.vectorize(num_envs), parts.env_params

    @jax.jit
    def run(key):
        key_reset, key = jax.random.split(key)
        first, obs = vec_env.reset(key_reset, params)

        def step(state, inputs):
            t, key = inputs
            action = jnp.zeros(num_envs, jnp.int32) if act is None else act(t)
            draws = vec_env.draw(key, params, state)
            state, after = vec_env.step(draws, state, action, params)
            return state, (state, after)

        inputs = jnp.arange(num_steps), jax.random.split(key, num_steps)
        return (first, obs), jax.lax.scan(step, first, inputs)[1]

    return jax.tree.map(np.asarray, run(key))


# -- along an axis --------------------------------------------------------------------------------

SCALES = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
SOME = Params(reward_scale=None, obs_scale=0, max_steps_in_episode=None)


@pytest.mark.parametrize(
    ("params", "axis"),
    [
        (Params(obs_scale=SCALES), SOME),
        (jax.tree.map(lambda x: jnp.full(N, x), Params()).replace(obs_scale=SCALES), 0),
        (Params(obs_scale=SCALES), Params(None, -1, None)),
    ],
)
@pytest.mark.parametrize("reset_batch", [None, 3])
def test_environment_i_has_entry_i_in_every_episode(params, axis, reset_batch):
    config = CONFIG.replace(reset_batch=reset_batch)
    given = {"env_params": params, "env_params_axis": axis}
    (_, obs), (_, after) = rollout(N, 2 * LENGTH + 1, config=config, **given)
    np.testing.assert_array_equal(obs[:, 0], SCALES)
    # across two ends, of what the actions led to and of what comes next
    assert after.terminated.sum() == 2 * N
    for seen in (after.obs, after.final_obs):
        np.testing.assert_array_equal(seen[..., 0], np.tile(SCALES, (2 * LENGTH + 1, 1)))


@pytest.mark.slow
def test_reset_batch_changes_nothing_but_the_time():
    given = {"env_params": Params(obs_scale=SCALES), "env_params_axis": SOME}
    for custom in (given, {"env_params": draw}, {"env_params": DrawnParams(draw, "environment")}):
        runs = [rollout(N, 7, config=CONFIG.replace(reset_batch=k), **custom) for k in (None, 3)]
        for a, b in zip(*map(jax.tree.leaves, runs), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_pendulums_of_another_gravity_each_are_those_of_gymnax():
    """Every trajectory is that of an environment which has these parameters alone, to the bit.

    One operation at a time: what a compiler makes of several rounds as it likes.
    """
    raw, params = make_env("Pendulum-v1")
    gravity, torque = jnp.array([1.0, 5.0, 9.81, 25.0]), jnp.linspace(-2, 2, 8)
    given = {
        "env_params": params.replace(g=gravity),
        "env_params_axis": jax.tree.map(lambda x: None, params).replace(g=0),
    }
    with jax.disable_jit():  # some seconds, of thousands of small programs
        (first, _), (_, after) = rollout(
            N, 8, env=raw, config=CONFIG.replace(env="Pendulum-v1"),
            act=lambda t: jnp.full((N, 1), torque[t]), **given,
        )  # fmt: skip
        for i in range(N):
            state = jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), first.env_state)
            alone = params.replace(g=gravity[i])
            for t in range(8):
                obs, state, reward, *_ = raw.step_env(KEY, state, torque[t][None], alone)
                np.testing.assert_array_equal(after.final_obs[t, i], obs)
                np.testing.assert_array_equal(after.reward[t, i], reward)
    # the physics do differ
    assert len(np.unique(after.final_obs[-1, :, 2])) == N


@pytest.mark.slow
def test_parameters_of_a_call_take_the_place_of_those_of_the_run():
    axes = {"env_params": Params(obs_scale=SCALES), "env_params_axis": SOME}
    train = make_train(CONFIG.replace(total_timesteps=N * 8), env=Shown(), **axes)
    # seeds may each have their own
    many = Params(obs_scale=jnp.stack([2 * SCALES, 3 * SCALES]))
    over = jax.jit(jax.vmap(train, (None, None, Params(None, 0, None))))
    np.testing.assert_array_equal(over(KEY, None, many).state.obs[..., 0], many.obs_scale)
    with pytest.raises(ConfigError, match=r"one for each of num_envs=4 is needed"):
        train(KEY, None, Params(obs_scale=jnp.ones(3)))


def refused(*args, function=make_train, **custom):
    with pytest.raises(ConfigError) as caught:
        function(*args, **custom)
    assert "\n" not in str(caught.value)
    return str(caught.value)


LONG = Params(obs_scale=np.ones(3))


@pytest.mark.parametrize(
    ("custom", "words"),
    [
        ({"env_params_axis": 0}, "env_params_axis=0 has no effect where env_params are those of"),
        ({"env_params": draw, "env_params_axis": 0}, "has no effect where env_params are drawn"),
        ({"env_params": LONG, "env_params_axis": SOME}, "env_params.obs_scale has the shape [3]"),
        ({"env_params": LONG, "env_params_axis": SOME}, "use jnp.linspace(low, high, 4)"),
        (
            {"env_params": Params(), "env_params_axis": 0},
            "env_params.reward_scale has the shape []",
        ),
        ({"env_params": Params(obs_scale=SCALES[None]), "env_params_axis": SOME}, "shape [1, 4]"),
        ({"env_params": Params(), "env_params_axis": [0]}, "has another form than env_params"),
        ({"env_params": Params(), "env_params_axis": "x"}, "has 'x', which is no axis: use 0"),
        (
            {"env_params": Params(), "env_params_axis": Params(None, None, None)},
            "names an axis of no part",
        ),
        ({"env_params": LONG}, "env_params.obs_scale is an array [3], an environment takes one"),
        ({"env_params": lambda: Params()}, "raises TypeError: "),
        ({"env_params": lambda key: 1 / 0}, "raises ZeroDivisionError: division by zero (test_env"),
        ({"env_params": lambda key: Params()}, "draws nothing with its key: pass what it returns"),
        ({"env_params": lambda key: Params(obs_scale="x")}, "env_params(key).obs_scale is a str"),
        ({"env_params": lambda key: {"obs_scale": key}}, "another form than default_params"),
        (
            {"env_params": lambda key: Params(obs_scale=jax.random.uniform(key, (2,)))},
            "reset_env raises ValueError: Cannot stack",
        ),
    ],
)
def test_what_is_no_axis_and_no_draw_is_refused_in_a_line(custom, words):
    assert words in refused(CONFIG, env=Shown(), **custom)


@struct.dataclass
class Goals:
    """Parameters with an array that is no leaf of theirs."""

    goal: Any = 0.0
    table: Any = struct.field(pytree_node=False, default_factory=lambda: np.arange(3))


class Broadcasting(Constant):
    """Takes one goal, or one for each of three coordinates."""

    def __init__(self):
        self.default_params = Goals()

    def step_env(self, key, state, action, params):
        reward = -jnp.square(jnp.zeros(3) - params.goal).sum()
        return self.see(state, params), state, reward, jnp.bool_(True), {}

    def is_truncated(self, state, params):
        return jnp.bool_(False)

    def see(self, state, params):
        return state.x[None]


@pytest.mark.parametrize("goal", [None, 1.0, np.ones(3)])
def test_an_axis_that_the_environment_reads_is_taken(goal):
    params = None if goal is None else Goals(goal)
    train = make_train(CONFIG, env=Broadcasting(), env_params=params)
    assert jax.eval_shape(train, jax.random.key(0)).state.step.shape == ()


def test_drawn_parameters_are_made_of_a_function_and_a_word():
    assert "draw=3 must be a function of a key" in refused(3, function=DrawnParams)
    said = refused(draw, "step", function=DrawnParams)
    assert said.startswith("per='step' is not a choice: known: environment, episode")


# -- drawn ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def episodes():
    """256 environments for 8 episodes each, which draw for every one."""
    return rollout(256, 8 * LENGTH, env_params=draw)


def test_every_episode_draws_anew_and_keeps_it_to_its_end(episodes):
    (_, obs), (_, after) = episodes
    # the observation before each step, and what the step led to, [episode, step, environment]
    seen = np.concatenate([obs[None], after.obs[:-1]])[..., 0].reshape(8, LENGTH, 256)
    led_to = after.final_obs[..., 0].reshape(8, LENGTH, 256)
    np.testing.assert_array_equal(seen, np.broadcast_to(seen[:, :1], seen.shape))
    np.testing.assert_array_equal(led_to, seen)
    assert len(np.unique(seen)) == 8 * 256


def test_draws_have_the_distribution_that_is_asked_for_and_are_independent(episodes):
    (_, obs), (_, after) = episodes
    begun = np.concatenate([obs[None], after.obs[LENGTH - 1 : -1 : LENGTH]])
    scales, firsts = begun[..., 0], begun[..., 1]
    for x in (scales, firsts):
        assert scipy.stats.kstest(x.ravel(), scipy.stats.uniform.cdf).pvalue > 0.01
    # of the first state, whose key is another, of the episode before, and of each other
    for a, b in ((scales, firsts), (scales[1:], scales[:-1]), (scales[:, 1:], scales[:, :-1])):
        assert scipy.stats.pearsonr(a.ravel(), b.ravel()).pvalue > 0.001


def test_drawn_once_stays_for_the_whole_run():
    given = DrawnParams(draw, per="environment")
    (_, obs), (_, after) = rollout(256, 2 * LENGTH + 1, env_params=given)
    np.testing.assert_array_equal(after.obs[..., 0], np.tile(obs[:, 0], (2 * LENGTH + 1, 1)))
    assert len(np.unique(obs[:, 0])) == 256
    assert scipy.stats.kstest(obs[:, 0], scipy.stats.uniform.cdf).pvalue > 0.01
    # first states are drawn anew
    assert len(np.unique(after.obs[..., 1])) == 3 * 256


@pytest.mark.parametrize("per", ["episode", "environment"])
def test_seeds_side_by_side_draw_their_own(per):
    init = make_learner(CONFIG, env=Shown(), env_params=DrawnParams(draw, per)).init
    state = jax.jit(jax.vmap(init))(jax.random.split(KEY, 3))
    assert len(np.unique(state.obs[..., 0])) == 3 * N
    np.testing.assert_array_equal(state.obs[..., 0], state.env_state.memory[0])


class Sized(Shown):
    """Uses a parameter in Python, as a shape."""

    def see(self, state, params):
        return super().see(state, params) * jnp.ones(int(params.max_steps_in_episode) // 500)


@pytest.mark.parametrize("per", ["episode", "environment"])
def test_what_is_not_drawn_is_not_kept_and_stays_what_it_is(per):
    given = DrawnParams(draw, per)
    parts = make_components(CONFIG, env=Sized(), env_params=given)
    state, _ = jax.eval_shape(parts.vectorize(N).reset, KEY, ())
    assert [x.shape for x in state.memory] == [(N,)]
    reset = parts.on_defaults().vectorize(N).reset
    alike, _ = jax.eval_shape(lambda key: reset(key, Params()), KEY)
    assert not hasattr(alike, "memory")


def test_parameters_beside_those_that_are_drawn_are_refused():
    train = make_train(CONFIG, env=Shown(), env_params=draw)
    words = "have no effect on environments that draw their own: leave them None"
    assert words in refused(KEY, None, Params(), function=train)
    assert "which is no hyperparameter or number in env_params" in refused(
        CONFIG, env=Shown(), env_params=draw, vary={"env_params.obs_scale": [1.0]}, function=fit
    )


def test_where_nothing_reads_parameters_they_are_refused():
    hosted = CONFIG.replace(env="gymnasium/CartPole-v1")
    for given in (draw, Params(), DrawnParams(draw, "environment")):
        assert "no effect on environments of the host" in refused(hosted, env_params=given)
    suite = CONFIG.replace(env="navix/Navix-Empty-5x5-v0")
    assert "no effect on this suite's environments" in refused(suite, env_params=draw)


def test_wrappers_read_them_as_they_do_others():
    (_, obs), (_, after) = rollout(N, 4, env=StickyActions(Shown(), 0.5), env_params=draw)
    np.testing.assert_array_equal(after.final_obs[0, :, 0], obs[:, 0])
    assert len(np.unique(obs[:, 0])) == N


# -- what is played -------------------------------------------------------------------------------


def paid(key):
    """Pays 5 to 10 in each step, in place of 1."""
    return Params(reward_scale=jax.random.uniform(key, minval=5.0, maxval=10.0))


@pytest.mark.slow
@pytest.mark.parametrize("given", [paid, DrawnParams(paid, "environment"), None])
def test_evaluations_are_played_with_the_defaults_unless_asked(given):
    custom = {"env_params": given}
    if given is None:
        axes = Params(0, None, None)
        custom = {"env_params": Params(reward_scale=5 + SCALES), "env_params_axis": axes}
    options = {"eval_every": N * 8 * 4, "eval_episodes": 3}
    result = fit(CONFIG, env=Shown(), **options, **custom)
    np.testing.assert_array_equal(result.best.returns, [LENGTH])
    assert (result.metrics.episode_return >= 5 * LENGTH).all()
    policy = as_policy(CONFIG, result, env=Shown())
    assert policy.predict(np.zeros(2, np.float32)) in (0, 1)

    # of what is asked for: drawn for each episode, or several as they are
    agents = jax.tree.map(lambda x: x[0], result.best.agents)
    if given is not None:
        evaluate, _ = make_evaluate(CONFIG, 64, env=Shown(), env_params=given)
        returns = np.asarray(jax.jit(evaluate)(agents, KEY).returns) / LENGTH
        assert len(np.unique(returns)) == 64
        assert scipy.stats.kstest(returns, scipy.stats.uniform(5, 5).cdf).pvalue > 0.01


def test_evaluations_of_several_physics_are_a_vmap():
    learner = make_learner(CONFIG, env=Shown())
    evaluate, _ = make_evaluate(CONFIG, 2, env=Shown())
    over = jax.vmap(evaluate, (None, None, Params(0, None, None)))
    returns = over(learner.init(KEY), KEY, Params(reward_scale=SCALES)).returns
    np.testing.assert_array_equal(returns, LENGTH * np.tile(SCALES[:, None], (1, 2)))


# -- runs -----------------------------------------------------------------------------------------

LONGER = CONFIG.replace(total_timesteps=N * 8 * 6, learning_rate=1e-2)
GIVEN = {
    "drawn": {"env_params": draw},
    "kept": {"env_params": DrawnParams(draw, "environment")},
    "axis": {"env_params": Params(obs_scale=SCALES), "env_params_axis": SOME},
}


def numbers(tree):
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", GIVEN)
def test_a_run_that_is_stopped_in_the_middle_goes_on_to_the_bit(kind, tmp_path, capsys):
    """An update of 8 steps is no whole number of episodes, nor are two: all are cut by the stop."""
    given = {"env": Shown(), "seeds": 2, **GIVEN[kind]}
    whole = fit(LONGER, **given)
    stop = {"checkpoint_every": N * 8 * 3, "callbacks": lambda step, row: False}
    fit(LONGER, **given, **stop, run_dir=tmp_path / "run")
    again = fit(LONGER, **given, run_dir=tmp_path / "run", resume=True)
    assert 0 < again.resumed_at < 6 and again.resumed_at * 8 % LENGTH
    for a, b in zip(numbers(whole.state.env_state), numbers(again.state.env_state), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(numbers(whole.state.params), numbers(again.state.params), strict=True):
        np.testing.assert_array_equal(a, b)

    # the folder says what it was, goes on with nothing else, and is loaded without
    about = json.loads((tmp_path / "run/run.json").read_text())
    assert "env_params" not in about["own"] and about.get("env_params") is None
    assert {"drawn": "draw, drawn for each episode", "kept": "draw, drawn for each environment",
            "axis": "along the axis Params(reward_scale=None, obs_scale=0"}[kind] in (
        about["own"]["own env_params"])  # fmt: skip
    other = {"env_params": Params(obs_scale=2.0), "env_params_axis": None}
    with pytest.raises(ConfigError, match="has own env_params="):
        fit(LONGER, **{**given, **other}, run_dir=tmp_path / "run", resume=True)
    load_policy(tmp_path / "run", env=Shown())
    with pytest.raises(ConfigError, match="an agent meets one environment"):
        load_policy(tmp_path / "run", env=Shown(), env_params=draw)


@pytest.mark.slow
def test_eval_says_that_it_plays_with_the_defaults(tmp_path, capsys):
    _, params = make_env("CartPole-v1")
    given = lambda key: params.replace(gravity=jax.random.uniform(key))  # noqa: E731
    fit(CONFIG, env_params=given, run_dir=tmp_path / "run")
    with pytest.warns(RunWarning, match="parameters that differ between environments.*the envir"):
        assert cli.COMMANDS["eval"]([str(tmp_path / "run"), "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unfinished"] == 0


@pytest.mark.slow
def test_numbers_that_are_the_same_everywhere_may_be_varied_beside():
    given = {"env": Shown(), "env_params": Params(obs_scale=SCALES), "env_params_axis": SOME}
    result = fit(CONFIG, **given, vary={"env_params.reward_scale": [1.0, 2.0]})
    np.testing.assert_array_equal(result.state.obs[..., 0], np.tile(SCALES, (2, 1)))
    returns = result.metrics.episode_return
    np.testing.assert_array_equal(returns, LENGTH * np.broadcast_to([[1.0], [2.0]], returns.shape))
    words = refused(CONFIG, **given, vary={"env_params.obs_scale": [1.0]}, function=fit)
    assert "no hyperparameter or number in env_params" in words


@pytest.mark.slow
def test_sweeps_train_with_them():
    for custom in (GIVEN["drawn"], GIVEN["axis"]):
        space = {"learning_rate": [1e-3, 1e-2]}
        found = sweep(CONFIG, space, env=Shown(), sampler="grid", seeds=1, **custom)
        assert len(found.results) == 2 and found.best is not None


@pytest.mark.slow
def test_devices_have_their_share():
    on_devices(
        2,
        """
sys.path.insert(0, "tests/envs")
from purejaxppo import fit, make_mesh, shard_environments
from test_env_params import CONFIG, GIVEN, LENGTH, N, SCALES, Params, Shown

# along an axis: what one device has; environments of both devices are in one order
given = {"env": Shown(), **GIVEN["axis"]}
alone, both = (fit(CONFIG, **given, devices=n, eval_every=32) for n in (1, 2))
for result in (alone, both):
    np.testing.assert_array_equal(result.state.obs[0, :, 0], SCALES)
    np.testing.assert_array_equal(result.best.returns, [LENGTH])

# parameters of a call are those of all devices together
learner = shard_environments(CONFIG, make_mesh(devices=2), **given)
other = Params(obs_scale=jnp.asarray(3 * SCALES))
state = jax.jit(learner.init)(jax.random.key(0), None, other)
state, _ = jax.jit(learner.update)(state, None, other)
np.testing.assert_array_equal(state.obs[:, 0], 3 * SCALES)

# drawn: every environment of both draws its own, and those drawn once are kept
for kind in ("drawn", "kept"):
    learner = shard_environments(CONFIG, make_mesh(devices=2), env=Shown(), **GIVEN[kind])
    before = jax.jit(learner.init)(jax.random.key(0))
    after, _ = jax.jit(learner.update)(before)
    assert len(np.unique(before.obs[:, 0])) == N
    for state in (before, after):
        np.testing.assert_array_equal(state.obs[:, 0], state.env_state.memory[0])
    same = np.array_equal(before.env_state.memory[0], after.env_state.memory[0])
    assert same == (kind == "kept")
""",
    )


# -- models ---------------------------------------------------------------------------------------


@pytest.fixture
def promotion():
    """What simulators are written for: tests are stricter."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def masses(system, keys):
    """Multiplies every mass by 0.5 to 2, as brax's own examples randomise."""

    @jax.vmap
    def of_one(key):
        mass = system.link.inertia.mass
        return mass * jax.random.uniform(key, mass.shape, minval=0.5, maxval=2.0)

    axes = jax.tree.map(lambda x: None, system).tree_replace({"link.inertia.mass": 0})
    return system.tree_replace({"link.inertia.mass": of_one(keys)}), axes


@pytest.mark.slow
@pytest.mark.usefixtures("promotion")
@pytest.mark.filterwarnings("ignore:Brax System")
def test_masses_of_brax_are_those_of_environments_built_with_them():
    from brax import envs

    made, _ = make_env("brax/inverted_pendulum", backend="spring")
    of_one = randomizer(made, masses)
    params = jax.vmap(of_one)(jax.random.split(KEY, 2))
    assert {name: x.shape for name, x in params.items()} == {"link.inertia.mass": (2, 2)}
    torque = jnp.linspace(-3, 3, 6)
    (first, _), (_, after) = rollout(
        2, 6, env=made, act=lambda t: jnp.full((2, 1), torque[t]), env_params=params,
        env_params_axis=0,
    )  # fmt: skip
    for i in range(2):
        env = envs.get_environment("inverted_pendulum", backend="spring")
        mass = params["link.inertia.mass"][i]
        env.sys = env.sys.tree_replace({"link.inertia.mass": mass})

        @jax.jit
        def expected(state, env=env):
            def step(state, torque):
                state = env.step(state, torque[None])
                return state, state.obs

            return jax.lax.scan(step, state, torque)[1]

        start = jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), first.env_state.env_state)
        np.testing.assert_allclose(after.final_obs[:, i], expected(start), rtol=1e-5, atol=1e-6)
    assert not np.allclose(after.final_obs[-1, 0], after.final_obs[-1, 1], atol=1e-3)

    # drawn for every episode, the masses alone are kept; the shared object has its own still
    parts = make_components(CONFIG, env=made, env_params=of_one)
    state, _ = jax.eval_shape(parts.vectorize(N).reset, KEY, ())
    assert [x.shape for x in state.memory] == [(N, 2)]
    before = envs.get_environment("inverted_pendulum", backend="spring").sys.link.inertia.mass
    np.testing.assert_array_equal(made.physics.link.inertia.mass, before)
    for given, words in [
        ({"link.inertia.masss": 1.0}, "did you mean link.inertia.mass"),
        ({"xyzzy": 1.0}, "which is no field of the model: use another, such as opt.gravity"),
        ({"link.inertia.mass": 1.0}, "of the shape [], the model's is [2]"),
        (3.0, "env_params are a "),
    ]:
        assert words in refused(CONFIG, env=made, env_params=given)


def test_what_has_no_model_cannot_have_it_randomised():
    words = refused("CartPole-v1", masses, function=randomizer)
    assert words.startswith("'CartPole-v1' has no model whose fields could be randomised: pass a")


@pytest.mark.slow
@pytest.mark.usefixtures("promotion")
def test_a_randomizer_of_playground_is_taken_as_it_is():
    pytest.importorskip("mujoco_playground")

    def frictions(model, rng):
        @jax.vmap
        def of_one(key):
            scale = jax.random.uniform(key, minval=0.5, maxval=2.0)
            return model.dof_damping * scale, model.body_mass * scale

        damping, mass = of_one(rng)
        axes = jax.tree.map(lambda x: None, model)
        axes = axes.tree_replace({"dof_damping": 0, "body_mass": 0})
        return model.tree_replace({"dof_damping": damping, "body_mass": mass}), axes

    made, _ = make_env("playground/CartpoleBalance")
    drawing = randomizer(made, frictions)
    parts = make_components(CONFIG, env=made, env_params=drawing)
    state, _ = jax.eval_shape(parts.vectorize(N).reset, KEY, ())
    shapes = {"body_mass": made.physics.body_mass, "dof_damping": made.physics.dof_damping}
    assert [x.shape for x in state.memory] == [(N, *x.shape) for x in shapes.values()]
