"""Options of environments: parameters of gymnax's, time limits of all; kept with a run."""

import json
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import ConfigError, PPOConfig, cli, load_policy, make_env, make_train
from purejaxppo.cli.starts import parse_train
from purejaxppo.envs import registry
from purejaxppo.envs.interface import arguments_of
from purejaxppo.envs.wrappers import StickyActions
from purejaxppo.export.export_policy import export_policy
from purejaxppo.rendering.render import FilmOptions, film
from purejaxppo.runs.agents import load_components


def refusal(name, **options):
    """The one line with which an environment is refused."""
    with pytest.raises(ConfigError) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suites' own
        env, _ = make_env(name, **options)
        _ = env.spec  # those on the host are made when they are asked for
    text = str(caught.value)
    assert text and "\n" not in text
    return text


# -- parameters of gymnax's environments ----------------------------------------------------------


def test_gravity_is_an_option_of_gymnax():
    """CartPole's pole, let go a little to the right, stays where it is without gravity."""
    _, usual = make_env("CartPole-v1")
    env, params = make_env("CartPole-v1", gravity=0)
    assert (usual.gravity, params.gravity) == (9.8, 0.0)
    assert type(params.gravity) is float
    assert params.replace(gravity=9.8) == usual
    _, state = env.reset_env(jax.random.key(0), params)
    state = state.replace(x=0.0, x_dot=0.0, theta=0.1, theta_dot=0.0)
    # pushed to the left and to the right in turn: the mean of both is what gravity does
    turned = [
        [env.step_env(jax.random.key(0), state, jnp.int32(a), p)[1].theta_dot for a in (0, 1)]
        for p in (usual, params)
    ]
    # the pushes are not quite opposite, as the pole leans
    assert abs(sum(map(float, turned[1]))) < 1e-3 < sum(map(float, turned[0]))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("Pendulum-v1", {"g": 5, "m": 2.5}, {"g": 5.0, "m": 2.5, "l": 1.0}),
        ("Asterix-MinAtar", {"ramping": False, "ramp_interval": 7}, {"ramping": False}),
        ("Acrobot-v1", {"available_torque": [-2, 0, 2]}, {"available_torque": [-2.0, 0.0, 2.0]}),
        ("CartPole-v1", {"max_steps_in_episode": 9}, {"max_steps_in_episode": 9}),
        ("CartPole-v1", {"max_steps": 9}, {"max_steps_in_episode": 9}),
        ("BernoulliBandit-misc", {"max_steps": 9}, {"max_steps_in_episode": 9.0}),
    ],
)
def test_parameters_have_the_types_of_their_defaults(name, options, expected):
    for env, params in (make_env(name, **options), (None, make_env(name, **options)[0])):
        params = params if env is not None else params.default_params
        for key, value in expected.items():
            np.testing.assert_array_equal(getattr(params, key), value)
            default = getattr(make_env(name)[1], key)
            assert type(getattr(params, key)) is type(default)


def test_a_constructor_takes_what_is_no_parameter():
    """DeepSea's size: as many cells in a row, and steps in an episode."""
    env, params = make_env("DeepSea-bsuite", size=5, deterministic=False)
    assert env.observation_space(params).shape == (5, 5)
    assert (params.max_steps_in_episode, params.deterministic) == (5, False)


def test_a_wrapper_keeps_the_parameters_that_were_given():
    env, _ = make_env("CartPole-v1", gravity=5.0)
    assert StickyActions(env).default_params.gravity == 5.0
    craftax = pytest.importorskip("craftax")
    assert craftax
    env, params = make_env("craftax/Craftax-Classic-Symbolic-v1", max_steps=7)
    assert env.default_params.max_timesteps == params.max_timesteps == 7


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "CartPole-v1",
            {"gravityy": 5},
            "has no option 'gravityy': did you mean gravity",
        ),
        ("CartPole-v1", {"max_step": 5}, "did you mean max_steps"),
        ("CartPole-v1", {"zzz": 5}, "CartPole-v1 has no option 'zzz': known: force_mag, gravity"),
        ("DeepSea-bsuite", {"sizes": 5}, "did you mean size?"),
        ("CartPole-v1", {"gravity": "x"}, "gravity='x' must be a number (float): use 9.8"),
        ("CartPole-v1", {"gravity": float("inf")}, "gravity=inf must be finite: use 9.8"),
        ("CartPole-v1", {"gravity": True}, "gravity=True must be a number (float): use 9.8"),
        ("CartPole-v1", {"max_steps": 1.5}, "max_steps=1.5 must be a whole number"),
        ("CartPole-v1", {"max_steps": 0}, "max_steps=0 must be at least 1"),
        ("Asterix-MinAtar", {"ramping": 1}, "ramping=1 must be of type bool: use True or False"),
        ("Asterix-MinAtar", {"ramp_interval": 1.5}, "ramp_interval=1.5 must be a whole number"),
        ("Acrobot-v1", {"available_torque": [1]}, "must be 3 numbers: use [-1.0, 0.0, 1.0]"),
        ("Acrobot-v1", {"available_torque": "x"}, "must be 3 numbers: use [-1.0, 0.0, 1.0]"),
        (
            "CartPole-v1",
            {"max_steps": 5, "max_steps_in_episode": 6},
            "max_steps is given twice (once as 'max_steps_in_episode'): keep one of them",
        ),
    ],
)
def test_parameters_that_are_none_are_refused(name, options, words):
    assert words in refusal(name, **options)


def test_options_are_refused_when_a_program_is_made_too():
    config = PPOConfig(env_options={"gravityy": 5})
    with pytest.raises(ConfigError, match="did you mean gravity"):
        make_train(config)


# -- a time limit of every suite ------------------------------------------------------------------

LIMITED = {
    "gymnax": ("CartPole-v1", 4),
    "pgx": ("pgx/minatar-breakout", 4),
    "navix": ("navix/Navix-Empty-5x5-v0", 4),
    "jumanji": ("jumanji/Maze-v0", 4),
    "craftax": ("craftax/Craftax-Classic-Symbolic-v1", 4),
    "brax": ("brax/fast", 4),
    "playground": ("playground/CartpoleBalance", 4),
    "xminigrid": ("xminigrid/MiniGrid-Empty-5x5", 4),
}
QUICK = ("gymnax", "pgx", "navix")


@pytest.mark.skipif(bool(registry.missing("jumanji")), reason="not installed")
def test_what_an_environment_makes_by_its_limit_is_made_by_max_steps():
    """Jumanji's bound counts of steps, and remember paths, by the limit that they are made with."""
    env, params = make_env("jumanji/Cleaner-v0", max_steps=150)
    assert env.observation_space(params)["step_count"].high == 150


@pytest.mark.parametrize(
    "suite", [s if s in QUICK else pytest.param(s, marks=pytest.mark.slow) for s in LIMITED]
)
def test_max_steps_is_a_time_limit_of_every_suite(suite):
    """Four steps without an end of the task: cut off at the fourth, and not before."""
    name, limit = LIMITED[suite]
    prefix = "" if suite == "gymnax" else suite
    if registry.missing(prefix):
        pytest.skip("not installed")
    with jax.numpy_rank_promotion("allow"):
        env, params = make_env(name, max_steps=limit)
        step = jax.jit(lambda state, action: env.step_env(jax.random.key(1), state, action, params))
        _, state = env.reset_env(jax.random.key(0), params)
        zero = jax.tree.map(
            lambda _: jnp.int32(0), env.action_space(params), is_leaf=lambda x: hasattr(x, "shape")
        )
        if suite in ("brax", "playground"):
            zero = jnp.zeros(env.action_space(params).shape)
        cut = []
        for _ in range(limit):
            _, state, _, terminated, _ = step(state, zero)
            assert not bool(terminated)
            cut.append(bool(env.is_truncated(state, params)))
    assert cut == [False] * (limit - 1) + [True]


@pytest.mark.slow
def test_actions_of_gymnax_may_stick():
    """With the probability that is asked for the action before acts again: counted over steps."""
    env, params = make_env("Breakout-MinAtar", sticky_actions=0.5)

    def moved(key):  # left in the second step, unless the paddle stays where it was once more
        _, state = env.reset_env(key, params)
        _, state, *_ = env.step_env(key, state, jnp.int32(0), params)
        before = state.env_state.pos
        after = env.step_env(jax.random.fold_in(key, 1), state, jnp.int32(1), params)[1]
        return after.env_state.pos != before

    moves = np.mean(jax.vmap(moved)(jax.random.split(jax.random.key(0), 400)))
    assert 0.42 < moves < 0.58  # three deviations of 0.025
    text = refusal("Breakout-MinAtar", sticky_actions=2)
    assert text == "probability=2.0 must be within 0 .. 1, such as 0.25"
    assert "sticky_actions" in refusal("Breakout-MinAtar", sticky_action=0.1)
    env, params = make_env("Breakout-MinAtar", sticky_actions=0)
    assert not hasattr(env.reset_env(jax.random.key(0), params)[1], "memory")


@pytest.mark.slow
def test_rewards_of_brax_may_be_scaled():
    """What is learned from is ten times the reward, 1 of a pole that stands; returns are brax's."""
    name = "brax/inverted_pendulum"
    with jax.numpy_rank_promotion("allow"):
        env, params = make_env(name, backend="spring", reward_scaling=10)
        state, key = env.reset_env(jax.random.key(0), params)[1], jax.random.key(1)
        _, state, reward, *_ = env.step_env(key, state, jnp.zeros(1), params)
    assert (reward, state.episode_return) == (10, 1)


HOSTED = {
    "gymnasium": "gymnasium/CartPole-v1",
    "ale": "ale/Pong-v5",
    "envpool": "envpool/CartPole-v1",
}


@pytest.mark.parametrize("suite", HOSTED)
def test_max_steps_is_a_time_limit_on_the_host(suite):
    if registry.missing(suite):
        pytest.skip("not installed")
    env, _ = make_env(HOSTED[suite], max_steps=3)
    envs = env.make(2)
    envs.reset(seed=0)
    flags = [envs.step(np.array([0, 1]))[3].tolist() for _ in range(3)]
    envs.close()
    assert flags == [[False, False], [False, False], [True, True]]


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("gymnasium/CartPole-v1", "max_episode_steps"),
        pytest.param("jumanji/Maze-v0", "time_limit", marks=pytest.mark.slow),
        ("playground/CartpoleBalance", "episode_length"),
        ("ale/Pong-v5", "max_num_frames_per_episode"),
        ("envpool/CartPole-v1", "max_episode_steps"),
    ],
)
def test_a_limit_under_the_suites_own_name_is_not_given_twice(name, theirs):
    if registry.missing(name.partition("/")[0]):
        pytest.skip("not installed")
    text = refusal(name, **{"max_steps": 3, theirs: 4})
    assert text == f"max_steps is given twice (once as {theirs!r}): keep one of them"


def test_a_limit_under_playgrounds_own_name_is_the_one_that_counts():
    if registry.missing("playground"):
        pytest.skip("not installed")
    with jax.numpy_rank_promotion("allow"):
        env, _ = make_env("playground/CartpoleBalance", episode_length=7)
    assert env.max_steps == 7


SUITES = {
    "gymnax": ("CartPole-v1", "gravitu", "gravity"),
    "pgx": ("pgx/2048", "max_stepz", "max_steps"),
    "navix": ("navix/Navix-Empty-5x5-v0", "max_stepz", "max_steps"),
    "gymnasium": ("gymnasium/CartPole-v1", "sutton_barto", "sutton_barto_reward"),
    "jumanji": ("jumanji/Snake-v1", "num_row", "num_rows"),
    "brax": ("brax/ant", "healthy_rewards", "healthy_reward"),
    "craftax": ("craftax/Craftax-Classic-Symbolic-v1", "max_stepz", "max_steps"),
    "playground": ("playground/CartpoleBalance", "episode_len", "episode_length"),
    "xminigrid": ("xminigrid/MiniGrid-Empty-5x5", "view_sizes", "view_size"),
    "ale": ("ale/Pong-v5", "frame_skip", "frameskip"),
    "envpool": ("envpool/CartPole-v1", "num_thread", "num_threads"),
}
SOON = ("gymnax", "pgx", "navix", "gymnasium")


@pytest.mark.parametrize(
    "suite", [s if s in SOON else pytest.param(s, marks=pytest.mark.slow) for s in SUITES]
)
def test_an_unknown_option_of_a_suite_names_the_nearest(suite):
    if registry.missing("" if suite == "gymnax" else suite):
        pytest.skip("not installed")
    name, wrong, right = SUITES[suite]
    text = refusal(name, **{wrong: 3})
    assert text.startswith(f"{name} has no option {wrong!r}: did you mean ")
    assert right in text.split("did you mean ")[1].removesuffix("?").split(" or ")


def test_what_a_class_takes_is_found_through_its_parents():
    class Base:
        def __init__(self, size, *, colour=1):
            pass

    class Handed(Base):
        def __init__(self, extra=0, **options):
            super().__init__(**options)

    class Closed(Base):
        def __init__(self, extra=0):
            super().__init__(3)

    class Plain:
        pass

    assert arguments_of(Handed) == ["extra", "size", "colour"]
    assert arguments_of(Closed) == ["extra"]
    assert arguments_of(Plain) == []
    assert arguments_of(lambda a, *, b=1, **c: None) == ["a", "b"]


# -- kept with the run ----------------------------------------------------------------------------

SMALL = (
    "--preset none --num-envs 2 --num-steps 10 --num-minibatches 1 --num-epochs 1 "
    "--total-timesteps 20 --hidden-sizes 4 --quiet --no-compilation-cache"
)
OWN = """
import numpy as np
from support.probes import Endless

class MyEnv(Endless):
    def __init__(self, scale=1.0, limit=3):
        super().__init__(reward_scale=scale, max_steps_in_episode=limit)

    def frames(self, states, params):
        return [np.zeros((8, 8, 3), np.uint8) for _ in states]
"""
RUNS = {
    "gymnax": ("Pendulum-v1", "g=5 max_steps=7", 7),
    "own": ("optional_envs:MyEnv", "scale=5.0 limit=6", 6),
    "gymnasium": ("gymnasium/Pendulum-v1", "g=5 max_steps=8", 8),
}


@pytest.fixture(
    scope="module",
    params=[n if n == "gymnax" else pytest.param(n, marks=pytest.mark.slow) for n in RUNS],
)
def run(request, tmp_path_factory):
    """A run with options, and what it was trained with."""
    folder = tmp_path_factory.mktemp("options")
    (folder / "optional_envs.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        name, options, limit = RUNS[request.param]
        words = ["train", name, *SMALL.split(), "--run-dir", "run", "--env-options"]
        assert cli.COMMANDS["train"]([*words[1:], *options.split()]) == 0
        jax.config.update("jax_enable_compilation_cache", True)
        yield folder / "run", limit
    sys.modules.pop("optional_envs", None)


@pytest.mark.slow
def test_env_options_are_kept_with_the_run(run):
    folder, _ = run
    config = PPOConfig.from_toml(folder / "config.toml")
    components, _ = load_components(folder, "final")
    assert components.config.env_options == config.env_options != ()
    if config.env == "Pendulum-v1":
        assert (components.env_params.g, components.env_params.max_steps_in_episode) == (5.0, 7)
    if config.env == "optional_envs:MyEnv":
        assert components.env_params.reward_scale == 5.0


def test_eval_plays_with_the_env_options_of_the_run(run, capsys):
    folder, limit = run
    assert cli.COMMANDS["eval"]([str(folder), "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seeds"][0]["length_mean"] == limit


@pytest.mark.slow
def test_render_films_with_the_env_options_of_the_run(run):
    folder, limit = run
    _, episode = film(folder, FilmOptions())
    assert len(episode.returns) == 1 + limit and episode.over


def test_export_and_load_policy_take_the_env_options_of_the_run(run):
    folder, _ = run
    assert export_policy(folder, "npz", overwrite=True).exists()
    assert load_policy(folder) is not None


def test_env_options_go_over_those_of_a_preset_one_by_one():
    _, config = parse_train(["CartPole-v1", "--env-options", "gravity=5", "max_steps=50"])
    assert config.env_options == ("gravity=5", "max_steps=50")
