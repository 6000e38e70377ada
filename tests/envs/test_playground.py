"""MuJoCo Playground: its suites, dictionaries of observations, options and published settings."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import ConfigError, PPOConfig, cli, make_env, make_train
from purejaxppo.config import presets
from purejaxppo.envs import registry
from purejaxppo.envs.vec_env import make_vec_env
from purejaxppo.envs.wrappers import ActionRepeat

mujoco_playground = pytest.importorskip("mujoco_playground")
from mujoco_playground.config import (  # noqa: E402
    dm_control_suite_params,
    locomotion_params,
    manipulation_params,
)

from purejaxppo.envs.suites import playground  # noqa: E402

SUITES = {
    "dm_control_suite": (mujoco_playground.dm_control_suite, dm_control_suite_params),
    "locomotion": (mujoco_playground.locomotion, locomotion_params),
    "manipulation": (mujoco_playground.manipulation, manipulation_params),
}
NAMES = [(suite, name) for suite, (module, _) in SUITES.items() for name in module.ALL_ENVS]


@pytest.fixture(autouse=True, scope="module")
def it_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def refusal(name, **options):
    """The one line with which an environment is refused."""
    with pytest.raises(ConfigError) as caught:
        make_env(f"playground/{name}", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- names ----------------------------------------------------------------------------------------


def test_environments_of_all_three_suites_are_listed():
    listed = registry.names("playground")
    assert listed == [f"playground/{name}" for _, name in NAMES]
    kinds = {
        "playground/HopperHop",
        "playground/Go1JoystickFlatTerrain",
        "playground/PandaPickCube",
    }
    assert kinds <= set(listed)


@pytest.mark.parametrize("name", ["Go1Getup", "LeapCubeReorient"])
def test_models_that_cannot_be_downloaded_are_one_line(name, monkeypatch, capsys):
    def fails():
        print("mujoco_menagerie not found. Downloading...")
        raise subprocess.CalledProcessError(128, ["git", "clone"])

    monkeypatch.setattr(playground, "ensure_menagerie_exists", fails)
    words = ["purejaxppo", "train", f"playground/{name}", "--preset", "none", "--quiet"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert f"playground/{name} downloads its data when it is made, and that failed" in err


# -- what is seen, paid and told ------------------------------------------------------------------


class Slope:
    """A task in the form of its own: the action moves a point, which must not reach 3.

    As its tasks do, it writes into the dictionaries of the state that it is given.
    """

    action_size = 1

    def reset(self, key):
        info = {"rng": key, "moves": 0, "last": jnp.zeros(2)}
        metrics = {"reward/place": jnp.float32(0), "moves": jnp.float32(0)}
        return self.state(jnp.float32(0), info, metrics)

    def step(self, state, action):
        place = state.data + action[0]
        state.info["moves"] += 1
        state.metrics["reward/place"] = 10 * place
        state.metrics["moves"] = 100.0 * state.info["moves"]
        return self.state(place, state.info, state.metrics)

    def state(self, place, info, metrics):
        obs = {"state": place[None], "privileged_state": jnp.stack([place, -place])}
        done = jnp.float32(place >= 3)
        return mujoco_playground.State(place, obs, place, done, metrics, info)


def test_every_entry_of_a_dictionary_is_seen():
    env = playground.Playground(Slope())
    space = env.observation_space(())
    assert {name: part.shape for name, part in space.items()} == {
        "state": (1,), "privileged_state": (2,)
    }  # fmt: skip
    obs, state = env.reset_env(jax.random.key(0), ())
    obs, *_ = env.step_env(jax.random.key(0), state, jnp.array([0.5]), ())
    np.testing.assert_array_equal(obs["state"], [0.5])
    np.testing.assert_array_equal(obs["privileged_state"], [0.5, -0.5])


def test_a_state_is_left_as_it_was():
    env = playground.Playground(Slope())
    _, state = env.reset_env(jax.random.key(0), ())
    _, after, *_ = env.step_env(jax.random.key(0), state, jnp.array([1.0]), ())
    assert (state.info["moves"], state.metrics["reward/place"]) == (0, 0.0)
    assert (after.info["moves"], after.metrics["reward/place"]) == (1, 10.0)


def test_an_end_cuts_repetitions_short():
    env = ActionRepeat(playground.Playground(Slope()), 4)
    _, state = env.reset_env(jax.random.key(0), ())
    _, state, reward, ended, info = env.step_env(jax.random.key(0), state, jnp.array([0.5]), ())
    assert (reward, bool(ended), info["reward/place"]) == (0.5 + 1.0 + 1.5 + 2.0, False, 20.0)
    _, state, reward, ended, info = env.step_env(jax.random.key(0), state, jnp.array([0.5]), ())
    assert (reward, bool(ended), info["moves"]) == (2.5 + 3.0, True, 600.0)  # metrics, then info


@pytest.mark.slow
def test_metrics_and_numbers_of_info_are_logged():
    """The last step of an episode, where the place is 3 or more after as many moves."""
    config = PPOConfig(
        num_envs=4, num_steps=64, num_minibatches=1, total_timesteps=256, hidden_sizes=(4,),
        info_metrics=("moves", "reward/place"),
    )  # fmt: skip
    metrics = make_train(config, env=playground.Playground(Slope()))(jax.random.key(0)).metrics
    told = metrics.episode_info
    assert metrics.episodes[0] > 0
    np.testing.assert_allclose(told["moves"], 100 * metrics.episode_length, rtol=1e-6)
    assert 30 <= told["reward/place"][0] < 40
    with pytest.raises(ConfigError, match="its numbers are moves, reward/place"):
        make_train(config.replace(info_metrics=("last",)), env=playground.Playground(Slope()))


@pytest.mark.slow
def test_a_rollout_is_what_the_task_does_by_itself():
    """Two steps of the task for each of ours, its rewards tenfold, cut off after four of ours."""
    env, params = make_env(
        "playground/CartpoleBalance", action_repeat=2, reward_scaling=10, max_steps=4
    )
    vec_env = make_vec_env(env, params, 1, reset_batch=1)
    actions = jax.random.uniform(jax.random.key(1), (5, 1, 1), minval=-1.0)

    @jax.jit
    def rolled(key):
        def step(state, inputs):
            key, action = inputs
            state, after = vec_env.step(vec_env.draw(key, params), state, action, params)
            return state, after

        state, obs = vec_env.reset(key, params)
        return state, obs, jax.lax.scan(step, state, (jax.random.split(key, 5), actions))[1]

    first, obs, after = rolled(jax.random.key(0))
    task = mujoco_playground.registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
    inner = first
    while hasattr(inner, "env_state"):
        inner = inner.env_state
    state, step, total = jax.tree.map(lambda x: x[0], inner), jax.jit(task.step), 0.0
    np.testing.assert_allclose(obs[0], state.obs)
    for t in range(4):
        paid = 0.0
        for _ in range(2):
            state = step(state, actions[t, 0])
            paid += float(state.reward)
        total += paid
        np.testing.assert_allclose(after.final_obs[t, 0], state.obs, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(after.reward[t, 0], 10 * paid, rtol=1e-4)
        np.testing.assert_allclose(after.episode_return[t, 0], total, rtol=1e-4)
    assert after.truncated[:, 0].tolist() == [False, False, False, True, False]
    assert after.episode_length[:, 0].tolist() == [1, 2, 3, 4, 1] and not after.terminated.any()


# -- options --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("Go1Getup", {"noise_config.levl": 1}, "option 'noise_config.levl': did you mean noise_c"),
        ("Go1Getup", {"noise_config": 1}, "options inside of it: use noise_config.level=1.0"),
        ("Go1Getup", {"noise_config.level": "x"}, "must be a number (float): use 1.0"),
        ("Go1Getup", {"njmax": 1.5}, "njmax=1.5 must be a whole number: use 2"),
        ("Go1JoystickFlatTerrain", {"pert_config.enable": 1}, "must be of type bool"),
        ("Go1JoystickFlatTerrain", {"command_config.a": (1.0, 2.0)}, "must be 3 values: use [1.5"),
        ("Go1JoystickFlatTerrain", {"command_config.a": 1.0}, "must be 3 values: use [1.5, 0.8"),
        ("Go1JoystickFlatTerrain", {"command_config.a": "abc"}, "must be 3 values"),
        ("SpotJoystickGaitTracking", {"gaits": []}, "must be one text or more: use ['trot'"),
        ("SpotJoystickGaitTracking", {"gaits": [1]}, "gaits entry=1 must be of type str"),
        ("HopperHop", {"impl": "cpp"}, "impl='cpp' is not a choice: known: jax, warp"),
        ("AeroCubeRotateZAxis", {"impl": "jax"}, "has no option 'impl'"),
        ("HopperHop", {"action_repeat": 0}, "action_repeat=0 must be at least 1"),
        ("HopperHop", {"reward_scaling": "x"}, "reward_scaling='x' must be a number (float)"),
    ],
)
def test_options_that_it_does_not_take_are_refused(name, options, words):
    assert words in refusal(name, **options)


def test_options_reach_the_task():
    env, _ = playground.make_env(
        "CartpoleBalance", max_steps=5, ctrl_dt=0.02, action_repeat=3, **{"vision_config.nworld": 7}
    )
    assert (env.times, env.max_steps) == (3, 15)  # of ours, and as many of the task's
    task = env.env.env.env
    assert (task.dt, task.n_substeps, task._config.vision_config.nworld) == (0.02, 2, 7)
    assert task._config.impl == "jax"


def test_options_inside_of_a_part_are_read_and_written():
    config = PPOConfig(env_options={"noise_config.level": 0.5, "command_config.a": [1.0, 2.0]})
    assert config.env_options == ("noise_config.level=0.5", "command_config.a=[1.0, 2.0]")
    assert PPOConfig.from_dict(config.to_dict()) == config
    for text in ("noise_config.=1", ".level=1", "noise..level=1"):
        with pytest.raises(ConfigError, match="must be name=value"):
            PPOConfig(env_options=(text,))


# -- published settings ---------------------------------------------------------------------------


def converted(name, theirs, task):
    """What the settings of brax's PPO are here, by the fields of `PPOConfig`."""
    network = theirs.get("network_factory", {})
    repeat, scale = theirs.action_repeat, theirs.reward_scaling
    steps = theirs.unroll_length * theirs.batch_size * theirs.num_minibatches
    options = {"action_repeat": repeat} if repeat != task.action_repeat else {}
    options |= {"reward_scaling": scale} if scale != 1 else {}
    assert theirs.episode_length == task.episode_length and steps % theirs.num_envs == 0
    return dict(
        env=f"playground/{name}",
        env_options=tuple(f"{key}={value}" for key, value in options.items()),
        total_timesteps=theirs.num_timesteps // repeat,
        num_envs=theirs.num_envs,
        num_steps=steps // theirs.num_envs,
        num_epochs=theirs.num_updates_per_batch,
        num_minibatches=theirs.num_minibatches,
        reset_batch=theirs.num_envs // 32,  # of ours: it resets to a state that it has kept
        gamma=theirs.discounting,
        learning_rate=theirs.learning_rate,
        entropy_coef=theirs.entropy_cost,
        normalize_observations=theirs.normalize_observations,
        # the defaults of its `ppo.train` and `make_ppo_networks`, from here on
        clip_eps=theirs.get("clipping_epsilon", 0.3),
        max_grad_norm=theirs.get("max_grad_norm", None),
        hidden_sizes=tuple(network.get("policy_hidden_layer_sizes", (32,) * 4)),
        critic_hidden_sizes=tuple(network.get("value_hidden_layer_sizes", (256,) * 5)),
        gae_lambda=0.95,
        value_coef=0.5,
        adam_eps=1e-8,
        activation="silu",
        squash_actions=True,
        state_dependent_std=True,
    )


@pytest.mark.parametrize(("suite", "name"), NAMES)
def test_presets_are_the_published_settings(suite, name):
    module, params = SUITES[suite]
    theirs = params.brax_ppo_config(name)
    expected = converted(name, theirs, module.get_default_config(name))
    ours = PPOConfig.preset(f"playground/{name}")
    assert PPOConfig(**expected) == ours.replace(actor_observation=(), critic_observation=())
    # what reads a dictionary: the published names mean nothing where a task shows an array
    keys = theirs.get("network_factory", {})
    if keys.get("value_obs_key", "state") == "privileged_state":
        assert (ours.actor_observation, ours.critic_observation) == (
            (keys.policy_obs_key,), (keys.value_obs_key,),
        )  # fmt: skip
    else:
        assert ours.actor_observation == ours.critic_observation
        assert ours.actor_observation == (("state",) if "SpotFlat" in name else ())


def test_each_file_of_presets_names_its_source():
    folder = presets.resources.files("purejaxppo.config.presets").joinpath("playground")
    for suite in SUITES:
        first = folder.joinpath(f"{suite}.toml").read_text("utf-8").splitlines()[0]
        assert f"mujoco_playground/config/{suite}_params.py, playground 0.2.0" in first
