"""Every suite against its own stepping: final observations, flags, natural ends and limits."""

import importlib.metadata
import subprocess
import sys
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import ConfigError, PPOConfig, check_env, make_env, make_train
from purejaxppo.check import random_actions
from purejaxppo.config.coerce import parse_options
from purejaxppo.envs import registry
from purejaxppo.envs.vec_env import make_vec_env
from purejaxppo.spaces import mask_of


class Raw(NamedTuple):
    """A suite stepped as its own documents say, from a state of ours."""

    inner: Any  # our state -> the suite's
    step: Any  # (key, the suite's state, action) -> (obs, reward, naturally ended)
    starts: Any = None  # the suite's state -> obs, of an episode's first


def raw_brax():
    from brax import envs

    env = envs.get_environment("inverted_pendulum", backend="spring")

    def step(key, state, action):
        state = env.step(state, action)
        return state.obs, state.reward, state.done == 1.0

    return Raw(lambda s: s.env_state, step, lambda s: s.obs)


def raw_playground():
    from mujoco_playground import registry as playground

    env = playground.load("CartpoleBalance", config_overrides={"impl": "jax"})

    def step(key, state, action):
        state = env.step(state, action)
        return state.obs, state.reward, state.done == 1.0

    return Raw(lambda s: s.env_state, step, lambda s: s.obs)


def raw_jumanji():
    import jumanji

    env = jumanji.make("Snake-v1", time_limit=10**6)  # its own end only

    def seen(obs):
        return {
            "grid": obs.grid, "step_count": obs.step_count, "action_mask": obs.action_mask
        }  # fmt: skip

    def step(key, state, action):
        state, timestep = env.step(state, action)
        return seen(timestep.observation), timestep.reward, timestep.last()

    return Raw(lambda s: s.env_state.env_state, step, lambda s: seen(env._state_to_observation(s)))


def raw_craftax():
    from craftax.craftax_env import make_craftax_env_from_name

    env = make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=False)
    params = env.default_params.replace(max_timesteps=10**6)

    def step(key, state, action):
        obs, _, reward, done, _ = env.step_env(key, state, action, params)
        return obs, reward, done

    return Raw(lambda s: s, step, env.get_obs)


def raw_navix():
    import navix

    env = navix.make("Navix-DoorKey-5x5-v0", max_steps=10**6)

    def step(key, timestep, action):
        timestep = env.step(timestep, action)
        return timestep.observation.astype(jnp.uint8), timestep.reward, timestep.step_type == 2

    def ready(timestep):  # its `step` would reset where an episode has ended, and needs pictures
        cache = env.reset(jax.random.key(0)).state.cache
        cache = jax.tree.map(lambda x: jnp.broadcast_to(x, (*timestep.t.shape, *x.shape)), cache)
        return timestep.replace(state=timestep.state.replace(cache=cache))

    return Raw(ready, step, lambda s: s.observation.astype(jnp.uint8))


def raw_xminigrid():
    import xminigrid

    env, params = xminigrid.make("MiniGrid-Empty-5x5")
    params = params.replace(max_steps=60)

    def step(key, timestep, action):
        timestep = env.step(params, timestep, action)
        return timestep.observation, timestep.reward, timestep.last() & (timestep.discount == 0.0)

    return Raw(lambda s: s, step, lambda s: s.observation)


def raw_pgx():
    import pgx

    env = pgx.make("minatar-breakout")

    def seen(state):
        return {
            "observation": state.observation, "legal_action_mask": state.legal_action_mask
        }  # fmt: skip

    def step(key, state, action):
        state = env.step(state, action, key)
        return seen(state), state.rewards[0], state.terminated

    return Raw(lambda s: s, step, seen)


class Case(NamedTuple):
    module: str  # what must be installed
    raw: Any
    env: str
    options: dict
    ends: set  # kinds of end that random play meets
    keeps_masks: bool = True


BOTH = {"terminated", "truncated"}
CASES = {
    "brax": Case(
        "brax", raw_brax, "brax/inverted_pendulum", {"backend": "spring", "max_steps": 12}, BOTH
    ),
    "jumanji": Case("jumanji", raw_jumanji, "jumanji/Snake-v1", {"max_steps": 9}, BOTH, False),
    "craftax": Case(
        "craftax", raw_craftax, "craftax/Craftax-Classic-Symbolic-v1", {"max_steps": 60}, BOTH,
    ),
    "navix": Case(
        "navix", raw_navix, "navix/Navix-DoorKey-5x5-v0", {"max_steps": 20}, {"truncated"}
    ),
    "pgx": Case("pgx", raw_pgx, "pgx/minatar-breakout", {}, {"terminated"}),
    "playground": Case(
        "mujoco_playground", raw_playground, "playground/CartpoleBalance", {"max_steps": 15},
        {"truncated"},
    ),
    "xminigrid": Case(
        "xminigrid", raw_xminigrid, "xminigrid/MiniGrid-Empty-5x5", {"max_steps": 60}, BOTH
    ),
}  # fmt: skip
NUM_ENVS, NUM_STEPS = 4, 250


@pytest.fixture(autouse=True, scope="module")
def suites_promote_ranks():
    """Ours do not: the other tests see to that."""
    with jax.numpy_rank_promotion("allow"):
        yield


def roll(env, params, keeps_masks=True):
    """1,000 random steps: states before, keys, actions and what came of them, [T, N], NumPy."""
    vec_env = make_vec_env(env, params, NUM_ENVS, reset_batch=2)

    @jax.jit
    def run(key):
        key_reset, key = jax.random.split(key)
        state, obs = vec_env.reset(key_reset, params)

        def step(loop, key):
            state, obs = loop
            key_action, key_env = jax.random.split(key)
            shown = obs if keeps_masks else ()
            action = random_actions(key_action, vec_env.spec, shown, NUM_ENVS)
            draws = vec_env.draw(key_env, params)
            after_state, after = vec_env.step(draws, state, action, params)
            return (after_state, after.obs), (state, obs, draws[0], action, after)

        return jax.lax.scan(step, (state, obs), jax.random.split(key, NUM_STEPS))[1]

    return run(jax.random.key(0))


QUICK = ("navix", "pgx")  # to compile


@pytest.fixture(
    scope="module",
    params=[c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES],
)
def played(request):
    """A suite's environment, played at random."""
    case = CASES[request.param]
    pytest.importorskip(case.module)
    env, params = make_env(case.env, **case.options)
    return case, roll(env, params, case.keeps_masks)


def flat(tree):
    """The first two axes as one."""
    return jax.tree.map(lambda x: x.reshape(NUM_STEPS * NUM_ENVS, *x.shape[2:]), tree)


@pytest.mark.slow
def test_a_thousand_steps_against_the_suites_own(played):
    case, rolled = played
    state, obs, keys, action, after = flat(rolled)
    raw = case.raw()
    inner = raw.inner(state.env_state)
    seen, reward, ended = jax.jit(jax.vmap(raw.step))(keys, inner, action)
    compare(after.final_obs, seen)
    np.testing.assert_allclose(after.reward, reward, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(after.terminated, ended)
    compare(obs, jax.jit(jax.vmap(raw.starts))(inner))


def compare(ours, theirs):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=1e-4, atol=1e-4
        ),
        ours, theirs,
    )  # fmt: skip


def test_both_kinds_of_end_are_where_they_belong(played):
    case, (_, obs, _, _, after) = played
    done = np.asarray(after.terminated | after.truncated)
    met = {kind for kind in sorted(BOTH) if np.asarray(getattr(after, kind)).any()}
    assert met == case.ends
    limit = case.options.get("max_steps")
    for n in range(NUM_ENVS):
        length = 0
        for t in range(NUM_STEPS):
            length += 1
            ended = bool(after.terminated[t, n])
            assert after.truncated[t, n] == (length == limit and not ended)
            assert after.episode_length[t, n] == length
            length = 0 if done[t, n] else length
    shown = jax.tree.map(lambda x: np.asarray(x).astype(np.float64), (obs, after))
    for a, b, c in zip(
        jax.tree.leaves(shown[0]), jax.tree.leaves(shown[1].obs),
        jax.tree.leaves(shown[1].final_obs), strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(a[1:], b[:-1])
        np.testing.assert_array_equal(b[~done], c[~done])
    # somewhere a fresh episode looks different from where the last one ended
    pairs = zip(jax.tree.leaves(shown[1].obs), jax.tree.leaves(shown[1].final_obs), strict=True)
    assert any((b[done] != c[done]).any() for b, c in pairs)


def test_freeways_clock_is_a_time_limit():
    """Its only end: 2,500 frames that nothing in the observation counts."""
    pgx = pytest.importorskip("pgx")
    env, params = make_env("pgx/minatar-freeway")
    state = pgx.make("minatar-freeway").init(jax.random.key(0))
    step = jax.jit(env.step_env)
    for left, cut in ((1, False), (0, True)):
        before = state.replace(_terminate_timer=jnp.int32(left))
        _, after, _, terminated, _ = step(jax.random.key(1), before, jnp.int32(0), params)
        assert (bool(terminated), bool(env.is_truncated(after, params))) == (False, cut)


@pytest.mark.slow
def test_jumanjis_masks_of_combinations_are_kept():
    """Minesweeper's mask is over (row, column): one choice among 100."""
    pytest.importorskip("jumanji")
    env, params = make_env("jumanji/Minesweeper-v0")
    assert env.action_space(params).n == 100
    _, obs, _, action, _ = roll(env, params)
    mask = np.asarray(mask_of(obs))
    assert np.take_along_axis(mask, np.asarray(action)[..., None], -1).all()
    state = env.reset_env(jax.random.key(0), params)[1]
    seen, *_ = env.step_env(jax.random.key(1), state, jnp.int32(37), params)
    assert seen["board"][3, 7] != -1 and (np.asarray(seen["board"]) == -1).sum() == 99
    assert not seen["action_mask"][37]


def test_several_agents_are_refused():
    pytest.importorskip("jumanji")
    with pytest.raises(ConfigError, match="pays 10 agents, one reward each"):
        make_env("jumanji/Connector-v3")


# -- names, options, packages -----------------------------------------------------------------


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError("No module named 'brax'", name="brax")

    monkeypatch.setattr(registry, "import_module", absent)
    monkeypatch.setattr(registry, "_make_env", registry._make_env.__wrapped__)
    with pytest.raises(ConfigError) as caught:
        make_env("brax/ant")
    assert str(caught.value) == (
        "brax environments need the package brax: pip install 'purejaxppo[brax]'"
    )
    assert registry.names() == []
    assert set(registry.missing()) == set(registry.SUITES)


def test_every_suite_is_an_extra():
    extras = importlib.metadata.metadata("purejaxppo").get_all("Provides-Extra")
    assert set(registry.SUITES.values()) - {"gymnax"} <= set(extras)


def test_equal_names_give_one_object():
    first, second = make_env("CartPole-v1")[0], make_env("CartPole-v1")[0]
    assert first is second


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        ((), {}),
        (("a=1", "b=x", "c='1'", "d=None", "e=[1, 2]"),
         {"a": 1, "b": "x", "c": "1", "d": None, "e": [1, 2]}),
    ],
)  # fmt: skip
def test_options_are_read_as_python_writes_them(texts, options):
    assert parse_options(texts) == options
    config = PPOConfig(env_options=options)
    assert parse_options(config.env_options) == options
    assert PPOConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("texts", [("a",), ("=1",), ("a=1", "a=2"), ("1a=2",)])
def test_options_that_make_no_sense(texts):
    with pytest.raises(ConfigError, match=r"name=value|given twice"):
        parse_options(texts)


def test_options_are_refused_for_an_environment_of_ones_own():
    env, _ = make_env("CartPole-v1")
    config = PPOConfig(env_options={"max_steps": 5})
    with pytest.raises(ConfigError, match="no effect on an environment of your own"):
        make_train(config, env=env)


# -- the contract, over everything that is installed ------------------------------------------

# suites' own faults, found by check_env: (environment, what is said of it)
THEIR_FAULTS = {
    "MemoryChain-bsuite": "declare the space",
    "GaussianBandit-misc": "declare the space",
    "MNISTBandit-bsuite": "downloads its data",
    "brax/fast": "Fast._step_count changed",  # it counts on purpose, for brax's own tests
    "jumanji/TSP-v1": "observation['position'] with values -1",  # before the first city
    "jumanji/Sokoban-v0": "downloads its data",
    **dict.fromkeys(
        (
            "jumanji/Connector-v3",
            "jumanji/LevelBasedForaging-v0",
            "jumanji/SearchAndRescue-v0",
        ),
        "one reward each",
    ),
}
SAMPLES = {  # where a suite has very many, or each takes long to compile
    "brax": ["brax/ant", "brax/fast", "brax/hopper", "brax/inverted_pendulum"],
    "craftax": ["craftax/Craftax-Classic-Symbolic-v1"],
    "navix": [
        "navix/Navix-DoorKey-5x5-v0",
        "navix/Navix-Dynamic-Obstacles-5x5-v0",
        "navix/Navix-GoToDoor-5x5-v0",
        "navix/Navix-LavaGapS5-v0",
    ],
    "jumanji": [
        f"jumanji/{name}"
        for name in (
            "BinPack-v2",
            "CVRP-v1",
            "Game2048-v1",
            "Knapsack-v1",
            "Maze-v0",
            "RubiksCube-v0",
            "SearchAndRescue-v0",
            "Snake-v1",
            "Sudoku-v0",
            "Tetris-v0",
        )
    ],
    "gymnasium": [
        f"gymnasium/{name}"
        for name in (
            "CartPole-v1",
            "Pendulum-v1",
            "Acrobot-v1",
            "MountainCar-v0",
            "MountainCarContinuous-v0",
            "FrozenLake-v1",
            "Taxi-v4",
            "CliffWalking-v1",
            "Blackjack-v1",
            "Ant-v5",
            "HalfCheetah-v5",
            "Hopper-v5",
            "Humanoid-v5",
            "HumanoidStandup-v5",
            "InvertedDoublePendulum-v5",
            "InvertedPendulum-v5",
            "Pusher-v5",
            "Reacher-v5",
            "Swimmer-v5",
            "Walker2d-v5",
        )
    ],
    "xminigrid": ["xminigrid/MiniGrid-Empty-5x5", "xminigrid/MiniGrid-MemoryS8"],
    "playground": ["playground/CartpoleBalance", "playground/HopperHop"],
    "ale": ["ale/Pong-v5", "ale/Breakout-v5", "ale/MsPacman-v5"],
    "envpool": ["envpool/CartPole-v1", "envpool/Pong-v5", "envpool/HalfCheetah-v4"],
}


@pytest.mark.slow
def test_suites_are_imported_with_their_environments_only():
    packages = {"xminigrid", "mujoco_playground", "ale_py", *registry.SUITES.values()}
    code = (
        "import sys, purejaxppo.envs, purejaxppo.policies\n"
        f"print(*sorted({packages} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.slow
@pytest.mark.parametrize("suite", list(registry.SUITES))
def test_every_environment_keeps_the_contract(suite):
    if suite in registry.missing(suite):
        pytest.skip("not installed")
    found = {}
    for name in SAMPLES.get(suite, registry.names(suite)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the suites' own
                env, params = make_env(name)
                check_env(env, params, num_steps=50)
        except ConfigError as error:
            found[name] = str(error)
    unexpected = {n: text for n, text in found.items() if THEIR_FAULTS.get(n, "\0") not in text}
    assert not unexpected


@pytest.mark.slow
def test_what_only_pictures_need_is_imported_for_pictures():
    """Seaborn, pandas and pyplot take a second, at every start."""
    code = """
import sys
import purejaxppo.envs.suites.gymnax
assert not {"seaborn", "pandas", "matplotlib.pyplot"} & set(sys.modules)
from gymnax.environments.misc import pong
assert len(pong.sns.color_palette("cubehelix", 4)) == 4 and pong.plt.figure() is not None
import seaborn, matplotlib.pyplot
assert type(seaborn) is type(sys) and pong.sns.color_palette is seaborn.color_palette
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
