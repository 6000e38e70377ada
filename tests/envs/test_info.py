"""Numbers of the environment's info, logged of the last steps of episodes."""

from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from support.probes import Endless, Seen

from purejaxppo import (
    ConfigError,
    HostEnvironment,
    HostError,
    PPOConfig,
    Rollout,
    cli,
    fit,
    make_train,
)
from purejaxppo.check import info_numbers
from purejaxppo.components import make_components
from purejaxppo.envs.wrappers import (
    ActionRepeat,
    ClipReward,
    EpisodeStatistics,
    FlattenObservation,
    StickyActions,
    TimeLimit,
)
from purejaxppo.ppo.collectives import gather
from purejaxppo.ppo.metrics import summed, update_sums

TINY = PPOConfig(
    num_envs=4, num_steps=8, total_timesteps=4 * 8 * 2, num_minibatches=1, num_epochs=1,
    hidden_sizes=(8,),
)  # fmt: skip
KEY = jax.random.key(0)


class Parts(NamedTuple):
    """A record inside of an info."""

    twice: jax.Array
    late: jax.Array


class Clock(Endless):
    """Tells the time of each step in several kinds; a limit of 3 steps ends its episodes."""

    def __init__(self, limit=3):
        super().__init__(max_steps_in_episode=limit)

    def step_env(self, key, state, action, params):
        obs, state, *paid, _ = super().step_env(key, state, action, params)
        told = {
            "time": state.time,
            "half": state.time / 2,
            "late": state.time > 2,
            "always": 7,
            "parts": Parts(2 * state.time, {"deep": state.time + 0.25}),
            "plane": jnp.zeros((2, 2)),
            "several": (state.time, state.time),
            "text": "a",
            "mixed": {"number": state.time, "text": "b"},
        }
        return obs, state, *paid, told


KINDS = {
    "time": 3, "half": 1.5, "late": 1, "always": 7, "parts/twice": 6, "parts/late/deep": 3.25,
    "mixed/number": 3,
}  # fmt: skip
"""Numbers of a clock's third step."""


@pytest.fixture(scope="module")
def clocks():
    """Metrics of two updates of 8 steps: episodes end at steps 3 and 6, then at 9, 12 and 15."""
    train = make_train(TINY.replace(info_metrics=tuple(KINDS)), env=Clock())
    return jax.jit(train)(KEY).metrics


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_info_metrics_are_those_of_last_steps_summed(clocks, name):
    np.testing.assert_array_equal(clocks.episodes, [4 * 2, 4 * 3])
    np.testing.assert_array_equal(clocks.info_sum[name], np.float32([8, 12]) * KINDS[name])
    np.testing.assert_array_equal(clocks.episode_info[name], np.float32([KINDS[name]] * 2))
    assert clocks.info_sum[name].dtype == jnp.float32


@pytest.mark.slow
def test_where_no_episode_ends_the_sum_is_0_and_the_mean_nan():
    config = TINY.replace(info_metrics=("time",))
    metrics = jax.jit(make_train(config, env=Clock(limit=10)))(KEY).metrics
    np.testing.assert_array_equal(metrics.episodes, [0, 4])  # all end in the tenth step
    np.testing.assert_array_equal(metrics.info_sum["time"], [0, 40])
    np.testing.assert_array_equal(metrics.episode_info["time"], [np.nan, 10])


class Told(Seen):
    """Tells what it pays, x = -1 or 1, in episodes of one step."""

    def step_env(self, key, state, action, params):
        obs, after, *paid, _ = super().step_env(key, state, action, params)
        return obs, after, *paid, {"x": state.x}


@pytest.mark.slow
def test_a_random_info_of_many_seeds_is_what_was_paid():
    train = jax.vmap(make_train(TINY.replace(info_metrics=("x",)), env=Told()))
    metrics = jax.jit(train)(jax.random.split(KEY, 2)).metrics
    np.testing.assert_array_equal(metrics.info_sum["x"], metrics.return_sum)
    assert len(np.unique(metrics.return_sum)) > 1


@pytest.mark.slow
def test_off_by_default_and_without_a_trace_of_it():
    """The program costs what that of an environment costs that tells nothing."""

    class Silent(Clock):
        def step_env(self, *args):
            return *super().step_env(*args)[:4], {}

    # what is told is traced, and thrown away when the program is compiled
    metrics = jax.eval_shape(make_train(TINY, env=Clock()), KEY).metrics
    assert metrics.info_sum == {} == metrics.episode_info
    told, silent = (
        jax.jit(make_train(TINY, env=env)).lower(KEY).compile().cost_analysis()["flops"]
        for env in (Clock(), Silent())
    )
    assert told == silent


@pytest.mark.parametrize(
    ("wrap", "last"),
    [
        (lambda env: TimeLimit(env, 2), 2),
        (lambda env: ActionRepeat(env, 2), 3),  # 2 steps, then one that the limit cuts short
        (StickyActions, 3),
        (ClipReward, 3),
        (FlattenObservation, 3),
        (EpisodeStatistics, 3),
        (lambda env: ClipReward(EpisodeStatistics(TimeLimit(env, 1))), 1),
    ],
)
def test_info_passes_through_wrappers(wrap, last):
    config = TINY.replace(info_metrics=("time", "parts/twice"), total_timesteps=32)
    vec_env = make_components(config, env=wrap(Clock())).vectorize(2)

    @jax.jit
    def run():
        state, _ = vec_env.reset(KEY, Clock().default_params)

        def step(state, key):
            draws = vec_env.draw(key, Clock().default_params)
            return vec_env.step(draws, state, jnp.zeros(2, int), Clock().default_params)

        return jax.lax.scan(step, state, jax.random.split(KEY, 4))[1]

    after = run()
    ended = np.asarray(after.terminated | after.truncated)
    assert ended.any()
    np.testing.assert_array_equal(after.info["time"][ended], np.full(ended.sum(), last))
    np.testing.assert_array_equal(after.info["parts/twice"], 2 * after.info["time"])


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ["times"],
            "entry 'times' is not in the environment's info: its numbers are always, half, late",
        ),
        (["plane"], r"'plane' is float32\[2, 2\], not a number"),
        (["several"], "'several' is a tuple, not a number"),
        (["time", "parts"], "'parts' is not in the .*parts/twice, parts/late/deep"),
        (["text"], "'text' is not in the environment's info"),
        (["mixed/text"], "'mixed/text' is not in the environment's info"),
        (["episode_return"], "'episode_return' is not in"),
        (["time", "time"], "must be different names"),
        ("time", r"must be of type tuple\[str, ...\]: use \('time',\)"),
        ([3], r"must be of type tuple\[str, ...\]"),
    ],
)
def test_info_metrics_that_are_not_there_or_no_numbers_are_refused(names, words):
    with pytest.raises(ConfigError, match=words):
        make_train(TINY.replace(info_metrics=names), env=Clock())


def test_of_an_environment_that_tells_nothing_none_can_be_logged():
    with pytest.raises(ConfigError, match=r"'x' is not in .*: it has no numbers, log none"):
        make_train(TINY.replace(info_metrics=("x",)), env=Endless())


# -- on the host ----------------------------------------------------------------------------------


class Walk(gymnasium.Env):
    """Ends after as many steps as its seed says, 1 to 4; tells of them in several kinds."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(2)
    late = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.end = 0, int(self.np_random.integers(1, 5))
        return np.zeros(1, np.float32), {"first": 1.0}

    def step(self, action):
        self.time += 1
        over = self.time == self.end
        told = {
            "time": self.time,
            "ratio": np.float32(self.time / self.end),
            "over": over,
            "parts": {"twice": 2 * self.time, "word": "a"},
            "place": np.zeros(2),
            "word": "b",
        }
        if over:  # as RecordEpisodeStatistics and many tasks do
            told["episode"] = {"r": np.float64(self.time), "l": self.time}
        if over and (self.late or self.end != 3):
            told["rare"] = 1
        return np.zeros(1, np.float32), 1.0, over, False, told


class Rare(Walk):
    """Tells of something only in some of its last steps."""

    late = False


def hosted(env_class=Walk):
    def make(num_envs):
        return SyncVectorEnv([env_class] * num_envs, autoreset_mode=AutoresetMode.DISABLED)

    return HostEnvironment(make, "walk")


HOSTED = ("time", "ratio", "over", "parts/twice", "episode/r", "episode/l", "rare")


@pytest.mark.slow
def test_info_metrics_of_environments_on_the_host():
    """Rewards are 1: a return is the number of steps, which the info tells too."""
    metrics = jax.jit(make_train(TINY.replace(info_metrics=HOSTED), env=hosted()))(KEY).metrics
    assert (metrics.episodes > 0).all()
    for name in ("time", "episode/r", "episode/l"):
        np.testing.assert_array_equal(metrics.info_sum[name], metrics.return_sum)
    for name in ("ratio", "over", "rare"):
        np.testing.assert_array_equal(metrics.info_sum[name], metrics.episodes)
    np.testing.assert_array_equal(metrics.info_sum["parts/twice"], 2 * metrics.return_sum)


class Pool:
    """As EnvPool tells: columns without masks, nested ones, counts of its own."""

    def __init__(self, num_envs):
        self.envs = hosted().make(num_envs)
        self.single_observation_space = self.envs.single_observation_space
        self.single_action_space = self.envs.single_action_space
        self.num_envs = num_envs

    def reset(self, **options):
        return self.envs.reset(**options)

    def step(self, actions):
        *rest, info = self.envs.step(actions)
        told = {"elapsed_step": info["time"].astype(np.int32), "players": {"id": info["time"]}}
        return *rest, told | {"board": np.zeros((self.num_envs, 3))}

    def close(self, **options):
        self.envs.close(**options)


@pytest.mark.slow
def test_info_metrics_of_columns_without_masks():
    config = TINY.replace(info_metrics=("elapsed_step", "players/id"))
    metrics = jax.jit(make_train(config, env=HostEnvironment(Pool)))(KEY).metrics
    np.testing.assert_array_equal(metrics.info_sum["elapsed_step"], metrics.return_sum)
    np.testing.assert_array_equal(metrics.info_sum["players/id"], metrics.return_sum)
    with pytest.raises(ConfigError, match=r"'board' is float64\[3\], not a number, .* elapsed"):
        make_train(TINY.replace(info_metrics=("board",)), env=HostEnvironment(Pool))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "is not in the environment's info: its numbers are time, ratio"),
        ("place", r"is float64\[2\], not a number"),
        ("word", "is a str, not a number"),
        ("parts/word", "is a str, not a number"),
        ("parts", "is not in the environment's info"),
        ("_time", "is not in the environment's info"),
        ("first", "is not in the environment's info"),  # of resets alone
    ],
)
def test_info_metrics_on_the_host_that_are_refused(name, words):
    with pytest.raises(ConfigError, match=words):
        make_train(TINY.replace(info_metrics=("time", name)), env=hosted())


@pytest.mark.slow
def test_a_last_step_on_the_host_that_lacks_it_is_told():
    class Early(Rare):
        """Begins with an episode that tells it."""

        first = True

        def reset(self, *, seed=None, options=None):
            out = super().reset(seed=seed)
            if Early.first:
                self.end = 1
            Early.first = False
            return out

    with pytest.raises(HostError, match="an episode's last step has no number 'rare', but time"):
        fit(TINY.replace(info_metrics=("rare",)), env=hosted(Early))


def test_one_that_fails_while_it_is_looked_at_is_told():
    class Fails(Walk):
        def step(self, action):
            raise ValueError("no ground")

    with pytest.raises(HostError, match="walk: ValueError: no ground"):
        make_train(TINY.replace(info_metrics=("time",)), env=hosted(Fails))


# -- what suites tell -----------------------------------------------------------------------------


def test_info_numbers_of_an_environment_are_listed():
    assert set(info_numbers(Clock())) == set(KINDS)
    assert info_numbers(hosted()) == list(HOSTED)
    assert info_numbers(Endless()) == []


def test_check_env_prints_the_numbers_in_info(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["purejaxppo", "check-env", "CartPole-v1", "--num-steps", "3"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["info", "discount"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("CartPole-v1", {"discount"}),
        ("brax/inverted_pendulum", set()),
        ("brax/reacher", {"reward_dist", "reward_ctrl"}),
        ("jumanji/Game2048-v1", {"highest_tile"}),
        ("navix/Navix-Empty-5x5-v0", {"return"}),
        ("craftax/Craftax-Classic-Symbolic-v1", {"Achievements/collect_coal", "score"}),
        ("gymnasium/InvertedPendulum-v5", {"reward_survive"}),
        ("gymnasium/CartPole-v1", set()),
    ],
)
def test_info_numbers_of_the_suites(name, numbers):
    with jax.numpy_rank_promotion("allow"):  # which some of them need
        found = info_numbers(name)
    assert numbers <= set(found) if numbers else found == []


@pytest.mark.slow
def test_info_metrics_of_a_suite():
    """Each episode of Navix tells its return, which is what it pays."""
    config = TINY.replace(
        env="navix/Navix-Empty-5x5-v0", env_options={"max_steps": 4}, info_metrics=("return",)
    )
    with jax.numpy_rank_promotion("allow"):
        metrics = jax.jit(make_train(config))(KEY).metrics
    assert (metrics.episodes > 0).all()
    np.testing.assert_allclose(metrics.info_sum["return"], metrics.return_sum, rtol=1e-6)


def test_info_is_summed_over_devices_too():
    """Two devices: episodes that end tell 1, 2 and 4, all others 100."""
    told = jnp.array([[[1.0, 100.0], [100.0, 2.0]], [[100.0, 100.0], [4.0, 100.0]]])
    done = told < 100

    def sums(told, done):
        fields = dict.fromkeys(Rollout.__dataclass_fields__) | {"info": {"a": told}}
        fields |= {"episode_return": told, "episode_length": told.astype(int), "value": told}
        rollout = Rollout(**fields | {"terminated": done, "truncated": ~done & False})
        return summed(gather(update_sums(rollout, told), "devices"))

    found = jax.vmap(sums, axis_name="devices")(told, done)
    np.testing.assert_array_equal(found["info_sum"]["a"], [7.0, 7.0])
    np.testing.assert_array_equal(found["episodes"], [3, 3])
