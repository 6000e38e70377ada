"""Films: what they show is what the suites themselves draw, and every step is in them once."""

import base64
import io
import json
import re
import sys
import zlib
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.visualize import vis_gym
from PIL import Image

from purejaxppo import ConfigError, HostEnvironment, PPOConfig, make_env, make_learner
from purejaxppo.act import make_actor
from purejaxppo.cli import commands
from purejaxppo.envs.suites.adapter import paint
from purejaxppo.envs.wrappers import ClipReward, EpisodeStatistics, FrameStack, TimeLimit, Wrapper
from purejaxppo.rendering.gif import CAPTION, HOLD, write_gif
from purejaxppo.rendering.playback import Episode
from purejaxppo.rendering.render import FilmOptions, _pictures, film, find_artist, render
from purejaxppo.runs.agents import Agents, load_agents, save_agents

ROUNDED = 5  # levels, of 256: how far colours are moved to fit a palette
SMALL = dict(
    num_envs=4, num_steps=4, num_minibatches=1, num_epochs=1, total_timesteps=16, hidden_sizes=(8,)
)  # fmt: skip


def make_run(folder, name="CartPole-v1", env=None, seeds=2, **changes):
    """A run folder with agents that have learned nothing yet."""
    config = PPOConfig(env=name, **SMALL | changes)
    init = make_learner(config, env=env).init
    agents = [Agents.of(init(jax.random.key(i))) for i in range(seeds)]
    save_agents(folder / "agents.npz", jax.tree.map(lambda *x: jnp.stack(x), *agents))
    config.to_toml(folder / "config.toml")
    (folder / "run.json").write_text(json.dumps({"seeds": seeds, "seed": 0, "algorithm": "ppo"}))
    return folder


def shown(path):
    """Pictures [T + 1, H, W, 3] without their captions, captions, and milliseconds of each."""
    content = path.read_bytes() if isinstance(path, Path) else path.getvalue()
    image, pictures, times = Image.open(io.BytesIO(content)), [], []
    for i in range(image.n_frames):
        image.seek(i)
        pictures.append(np.asarray(image.convert("RGB")))
        times.append(image.info["duration"])
    pictures = np.stack(pictures)
    return pictures[:, CAPTION:], pictures[:, :CAPTION], times


def by_hand(run, step, reset, agent=0, env=None, limit=1000):
    """States and rewards of an episode that is stepped outside of everything, one call at a time.

    Args:
        run: the folder.
        step: (key, state, action) -> (obs, state, reward, over).
        reset: key -> (obs, state).
        agent: which.
        env: as passed to training.
        limit: steps at most.
    """
    config, agents = load_agents(run, env=env)
    actor = make_actor(config, jax.tree.map(lambda x: x[agent], agents), True, env=env)
    act, step = jax.jit(actor.act), jax.jit(step)
    key_reset, key = jax.random.split(jax.random.key(0))
    obs, state = reset(key_reset)
    states, rewards, carry, over = [state], [], actor.initial_carry(()), False
    for t, key_t in enumerate(jax.random.split(key, limit)):
        key_act, key_step = jax.random.split(key_t)
        carry, action = act(key_act, carry, obs, jnp.bool_(t == 0))
        obs, state, reward, over = step(key_step, state, action)
        states.append(state)
        rewards.append(float(reward))
        if over:
            break
    return states, rewards, bool(over)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("cartpole"), "CartPole-v1")


@pytest.fixture(scope="module")
def breakout(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("breakout"), "Breakout-MinAtar")


# -- what is in a film --------------------------------------------------------------------------


@pytest.mark.slow
def test_cartpole_is_filmed_to_its_end(cartpole, tmp_path, capsys):
    path, episode = film(cartpole, FilmOptions(out=tmp_path / "a.gif", fps=25, agent=1))
    pictures, captions, times = shown(path)
    length = len(episode.returns) - 1
    assert episode.over and 8 <= length < 100
    assert pictures.shape == (length + 1, 267, 400, 3)  # Gymnasium's are 400 x 600
    assert times == [40] * length + [40 + HOLD]
    assert all((a != b).any() for a, b in pairwise(captions))
    assert np.mean([(a != b).any() for a, b in pairwise(pictures)]) > 0.5

    # the same episode, stepped by gymnax and drawn by gymnax
    raw, params = gymnax.make("CartPole-v1")

    def step(key, state, action):
        obs, state, reward, over, _ = raw.step_env(key, state, action, params)
        return obs, state, reward, over

    states, rewards, _ = by_hand(cartpole, step, lambda key: raw.reset_env(key, params), agent=1)
    assert len(rewards) == length and episode.returns.tolist() == [*range(length + 1)]
    for t in (0, length // 2, length):
        assert episode.scenes[t].theta == pytest.approx(float(states[t].theta), abs=1e-5)
        drawn = vis_gym.render_gym_frame("CartPole-v1", states[t], params)
        small = Image.fromarray(drawn).resize((400, 267), Image.Resampling.BOX)
        difference = np.abs(pictures[t] - np.asarray(small, float))
        assert difference.mean() < 0.1
    assert np.abs(pictures[0] - np.asarray(small, float)).max() > 100

    again = ["--out", str(tmp_path / "b.gif"), "--fps", "25", "--agent", "1"]
    assert commands.render([str(cartpole), *again]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"return {length}.0 in {length} steps, {tmp_path / 'b.gif'} (")
    assert (tmp_path / "b.gif").read_bytes() == path.read_bytes()


def test_what_is_not_over_says_so(cartpole, tmp_path, capsys):
    commands.render([str(cartpole), "--out", str(tmp_path / "a.gif"), "--max-steps", "3"])
    assert capsys.readouterr().out.startswith("return 3.0 in 3 steps (not over yet: --max-steps")
    assert len(shown(tmp_path / "a.gif")[0]) == 4


@pytest.mark.slow
def test_breakout_is_painted_cell_by_cell(breakout):
    path = render(breakout, max_steps=30, overwrite=True)
    assert path == breakout / "policy.gif"
    pictures, _, _ = shown(path)
    raw, params = gymnax.make("Breakout-MinAtar")

    def step(key, state, action):
        obs, state, reward, over, _ = raw.step_env(key, state, action, params)
        return obs, state, reward, over | raw.is_truncated(state, params)

    states, rewards, _ = by_hand(breakout, step, lambda key: raw.reset_env(key, params), limit=30)
    assert len(pictures) == len(rewards) + 1
    for state, picture in zip(states, pictures, strict=True):
        cells = picture.reshape(10, 40, 10, 40, 3)
        assert (cells == cells[:, :1, :, :1]).all()
        there = np.asarray(raw.get_obs(state)).any(-1)
        np.testing.assert_array_equal((cells[:, 0, :, 0] > 0).any(-1), there)
        np.testing.assert_allclose(cells[:, 0, :, 0], paint(raw.get_obs(state)), atol=ROUNDED)


def test_channels_are_told_apart():
    painted = paint(np.eye(12)[None])[0]
    assert len(np.unique(painted, axis=0)) == 12 and painted.dtype == np.uint8
    assert (paint(np.zeros((2, 3, 4))) == 0).all()
    top = paint(np.array([[[1, 0, 1], [0, 0, 1], [1, 0, 0]]]))[0]
    assert (top[0] == top[1]).all() and (top[0] != top[2]).any()


@pytest.mark.slow
def test_gymnasium_is_filmed_as_it_draws_itself(tmp_path):
    run = make_run(tmp_path, "gymnasium/CartPole-v1", seeds=1)
    path, episode = film(run, FilmOptions(seed=3))
    config, agents = load_agents(run)
    actor = make_actor(config, jax.tree.map(lambda x: x[0], agents), True)
    raw = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    obs, _ = raw.reset(seed=3)
    drawn, total, over = [raw.render()], 0.0, False
    while not over:
        _, action = actor.act(jax.random.key(0), (), obs, jnp.bool_(False))
        obs, reward, terminated, truncated, _ = raw.step(int(action))
        total, over = total + reward, terminated or truncated
        drawn.append(raw.render())
    assert episode.returns[-1] == total and episode.over
    np.testing.assert_array_equal(episode.scenes, drawn)
    assert len(shown(path)[0]) == len(drawn)


class Undrawn:
    """Counts to nine. Its reset gives Python numbers."""

    default_params = ()

    def reset_env(self, key, params):
        return jnp.zeros(2), {"count": 0}

    def step_env(self, key, state, action, params):
        count = state["count"] + 1
        return jnp.full(2, count / 9), {"count": count}, -0.5, count == 9, {}

    def is_truncated(self, state, params):
        return jnp.bool_(False)

    def observation_space(self, params):
        return gymnax.environments.spaces.Box(0.0, 1.0, (2,), jnp.float32)

    def action_space(self, params):
        return gymnax.environments.spaces.Discrete(2)


class Counting(Undrawn):
    """Draws how far it is."""

    def frames(self, states, params):
        for state in states:
            yield np.full((5, 20, 3), 20 * state["count"], np.uint8)


@pytest.mark.slow
def test_wrappers_and_memories_and_ones_own_environment(tmp_path):
    """States are taken out of all wrappers; returns are those that training reports."""
    env = FrameStack(ClipReward(EpisodeStatistics(TimeLimit(Counting(), 7)), -0.1, 0.1), 2)
    run = make_run(tmp_path, env=env, core="gru", core_size=4)
    path, episode = film(run, FilmOptions(), env=env)
    pictures, _, times = shown(path)
    assert [s["count"] for s in episode.scenes] == [*range(8)] and episode.over
    np.testing.assert_allclose(episode.returns, -0.5 * np.arange(8))
    assert pictures.shape == (8, 100, 400, 3)
    np.testing.assert_allclose(pictures[:, 50, 200, 0], 20 * np.arange(8), atol=ROUNDED)
    assert sum(times) == 270 + HOLD  # eight at 30 per second: 266.7


TWO_STATES = Episode([0, 1], np.zeros(2), True)


def test_pictures_of_jax_will_do():
    env = SimpleNamespace(frames=lambda states, params: jnp.zeros((2, 8, 8, 3), jnp.uint8))
    assert [x.shape for x in _pictures(TWO_STATES, env, ())] == [(8, 8, 3)] * 2


def small(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(("drawn", "words"), [
    (lambda states: states["x"], r"raises TypeError: .*test_render.py, line .* a list of states"),
    (lambda states: None, "raises TypeError: .* is given a list of states"),
    (lambda states: 1 / 0, r"raises ZeroDivisionError: .* \(test_render.py, line \d+\)"),
    (lambda states: [small(8, 8, 3)], "gives fewer pictures than the 2 states: one for each"),
    (lambda states: [small(8, 8, 3)] * 3, "gives more pictures than the 2 states: one for each"),
    (lambda states: [small(8, 8, 3, dtype=float)], r"gives float64\[8, 8, 3\] as picture 0: it"),
    (lambda states: [small(8, 8, 3), small(9, 8, 3)], r"gives uint8\[9, 8, 3\] as picture 1"),
    (lambda states: [small(8, 8)], r"gives uint8\[8, 8\] as picture 0: it must be uint8 \[H, W, 3"),
])  # fmt: skip
def test_what_is_no_picture_of_each_state_is_refused(drawn, words):
    env = SimpleNamespace(frames=lambda states, params: drawn(states))
    with pytest.raises(ConfigError, match=words):
        list(_pictures(TWO_STATES, env, ()))


def test_a_wrapper_whose_state_nobody_finds_is_refused_in_words():
    class Counted(Wrapper):
        """Keeps a number beside the state, and does not say where."""

    _, inside = find_artist(Counted(TimeLimit(Counting(), 7)), "counted")
    with pytest.raises(ConfigError, match=r"TimeLimit is not found .* make that a Remembering"):
        inside(({"count": 1}, 0))


@pytest.mark.slow
def test_each_agent_is_filmed_with_the_parameters_of_its_own(tmp_path):
    make_run(tmp_path, "Pendulum-v1")
    about = {"seeds": 2, "seed": 0, "algorithm": "ppo"}
    about |= {"vary": {"env_params.max_steps_in_episode": [5, 9]}}
    (tmp_path / "run.json").write_text(json.dumps(about))
    for agent, steps in enumerate([5, 9]):
        path = render(tmp_path, agent=agent, out=tmp_path / f"{agent}.gif")
        assert len(shown(path)[0]) == steps + 1


@pytest.mark.slow
def test_a_memory_is_carried(tmp_path):
    """By the same actions as those of a loop, at each step, with a carry that matters."""
    env, params = make_env("CartPole-v1")
    run = make_run(tmp_path, core="gru", core_size=4)

    def step(key, state, action):
        obs, state, reward, over, _ = env.step_env(key, state, action, params)
        return obs, state, reward, over

    states, rewards, _ = by_hand(run, step, lambda key: env.reset_env(key, params), limit=8)
    _, episode = film(run, FilmOptions(max_steps=8))
    for mine, raw in zip(episode.scenes, states, strict=True):
        np.testing.assert_allclose(mine.x_dot, raw.x_dot, atol=1e-5)
    np.testing.assert_allclose(episode.returns[1:], np.cumsum(rewards))


@pytest.mark.parametrize("name", ["Catch-bsuite", "FourRooms-misc", "PointRobot-misc", "Pong-misc"])
def test_gymnax_draws_others(name):
    env, params = make_env(name)
    artist, inside = find_artist(env, name)
    states = [env.reset_env(jax.random.key(0), params)[1]]
    for i in range(3):
        action = env.action_space(params).sample(jax.random.key(i))
        states.append(env.step_env(jax.random.key(i), states[-1], action, params)[1])
    pictures = list(artist.frames([jax.device_get(inside(s)) for s in states], params))
    assert all(p.ndim == 3 and p.shape[-1] == 3 and p.dtype == np.uint8 for p in pictures)
    assert any((a != pictures[0]).any() for a in pictures[1:])


# -- GIFs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [1, 7, 24, 30, 33, 50])
def test_delays_keep_to_the_rate(fps, tmp_path):
    frames = [np.full((40, 40, 3), i, np.uint8) for i in range(101)]
    with open(tmp_path / "a.gif", "wb") as file:
        write_gif(file, frames, [str(i) for i in range(101)], fps)
    _, _, times = shown(tmp_path / "a.gif")
    assert all(time % 10 == 0 and time >= 20 for time in times)
    assert sum(times) - HOLD == pytest.approx(101_000 / fps, abs=5)
    assert max(times[:-1]) - min(times[:-1]) <= 10
    assert b"NETSCAPE2.0\x03\x01\x00\x00\x00" in (tmp_path / "a.gif").read_bytes()  # for ever


def test_no_colour_is_lost_that_is_there_for_a_moment_only():
    frames = np.zeros((60, 10, 10, 3), np.uint8)
    frames[:, :5] = [12, 200, 31]
    frames[41, 7, 3] = [250, 3, 77]
    file = io.BytesIO()
    write_gif(file, frames, [""] * 60, 30)
    pictures = shown(file)[0]
    # what looks the same is shown longer, and that is all
    assert len(pictures) == 3
    np.testing.assert_allclose(pictures[:, ::40, ::40], frames[[0, 41, 42]], atol=ROUNDED)
    assert len(file.getvalue()) < 4000


# -- other suites -------------------------------------------------------------------------------


@pytest.fixture
def promoting():
    """Ours do not promote ranks: the other tests see to that."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.slow
def test_navix_is_drawn_as_it_draws_itself(tmp_path, promoting):
    navix = pytest.importorskip("navix")
    run = make_run(tmp_path, "navix/Navix-DoorKey-5x5-v0", seeds=1)
    _, episode = film(run, FilmOptions(max_steps=5))
    raw = navix.make("Navix-DoorKey-5x5-v0", observation_fn=navix.observations.rgb)
    timestep = raw.reset(jax.random.split(jax.random.key(0))[0])
    artist = find_artist(make_env("navix/Navix-DoorKey-5x5-v0")[0], "")[0]
    pictures = list(artist.frames(episode.scenes, ()))
    np.testing.assert_array_equal(pictures[0], timestep.observation)
    filmed = shown(run / "policy.gif")[0][0]
    assert filmed.shape == (400, 400, 3)
    np.testing.assert_allclose(filmed[::10, ::10], pictures[0], atol=30)  # many shades


@pytest.mark.slow
def test_brax_gives_a_page_with_every_state(tmp_path, promoting):
    pytest.importorskip("brax")
    options = {"backend": "spring", "max_steps": 12}
    run = make_run(tmp_path, "brax/inverted_pendulum", seeds=1, env_options=options)
    path, episode = film(run, FilmOptions(fps=20))
    assert path == run / "policy.html" and len(episode.scenes) <= 13 and episode.over
    packed = re.search(r'"([A-Za-z0-9+/=]{500,})"', path.read_text()).group(1)
    system = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert len(system["states"]["x"]) == len(episode.scenes)
    assert system["opt"]["timestep"] == 1 / 20
    with pytest.raises(ConfigError, match=r"'a\.gif': brax/.* is filmed as \.html"):
        render(run, out="a.gif")


SUITES = {
    "pgx": ("pgx", "pgx/minatar-breakout"),
    "jumanji": ("jumanji", "jumanji/Maze-v0"),
    "craftax": ("craftax", "craftax/Craftax-Classic-Symbolic-v1"),
    "xminigrid": ("xminigrid", "xminigrid/MiniGrid-Empty-5x5"),
    "ale": ("ale_py", "ale/Pong-v5"),
    "envpool": ("envpool", "envpool/Pong-v5"),
}


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.filterwarnings("ignore")
def test_suites_that_draw(suite, tmp_path, promoting):
    module, name = SUITES[suite]
    pytest.importorskip(module)
    run = make_run(tmp_path, name, seeds=1)
    path, episode = film(run, FilmOptions(max_steps=6))
    pictures = shown(path)[0]
    assert len(pictures) == len(episode.returns)
    assert 150 < max(pictures.shape[1:3]) <= 400
    assert all(p.std() > 1 for p in pictures)


# -- refusals -----------------------------------------------------------------------------------


def test_a_file_is_not_written_over_unless_asked_to(cartpole, tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"a\.gif' exists: name another with --out, or pass"):
        render(cartpole, out=path)
    assert path.read_bytes() == b"precious"
    render(cartpole, out=path, max_steps=2, overwrite=True)
    assert len(shown(path)[0]) == 3 and [p.name for p in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent": 2}, r"agent=2 must be one of the run's 0 \.\. 1: use 0"),
        ({"agent": -1}, "agent=-1 must be 0 or greater: use 0"),
        ({"max_steps": 0}, "max_steps=0 must be at least 1: use 500"),
        ({"seed": -1}, "seed=-1 must be 0 or greater: use 0"),
        ({"fps": 0}, r"fps=0 must be within 1 \.\. 50: use 30"),
        ({"fps": 60}, "fps=60 must be"),
        ({"out": "a.mp4"}, r"out='a\.mp4': CartPole-v1 is filmed as \.gif, use policy\.gif"),
        ({"out": "nowhere/a.gif"}, "has no folder to be in: make 'nowhere' first"),
        ({"weights": "best"}, r"holds no best\.npz"),
    ],
)
def test_bad_options_are_refused(cartpole, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        render(cartpole, **{"out": "a.gif", **options})
    assert not any(tmp_path.iterdir())


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        render(tmp_path)


@pytest.mark.slow
def test_what_nothing_draws_is_refused(tmp_path):
    run = make_run(tmp_path, "DeepSea-bsuite", seeds=1)
    before = set(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="DeepSea-bsuite is not drawn by gymnax: film another"):
        render(run)
    assert set(tmp_path.iterdir()) == before
    env = TimeLimit(Undrawn(), 5)
    with pytest.raises(ConfigError, match="nothing that draws it: give it a method frames"):
        render(run, env=env)


def test_hosts_without_pictures_are_refused(tmp_path):
    def make(num_envs):
        mode = gymnasium.vector.AutoresetMode.DISABLED
        return gymnasium.make_vec(
            "CartPole-v1", num_envs, "sync", vector_kwargs={"autoreset_mode": mode}
        )

    env = HostEnvironment(make, "mine")
    run = make_run(tmp_path, env=env, seeds=1)
    with pytest.raises(ConfigError, match="mine gives no pictures: make it with render_mode"):
        render(run, env=env)


@pytest.mark.parametrize("name", ["CartPole-v1", "gymnasium/CartPole-v1"])
def test_without_pygame_the_extra_is_named(name, tmp_path, monkeypatch):
    run = make_run(tmp_path, name, seeds=1)
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ConfigError, match=r"cannot be drawn .*pip install 'purejaxppo\[viz\]'"):
        render(run, max_steps=3)
    assert not (run / "policy.gif").exists()


def test_a_suite_that_is_not_known_is_refused(tmp_path):
    run = make_run(tmp_path, "mine/Counting", env=Counting())
    assert render(run, env=Counting(), max_steps=2) == run / "policy.gif"
    with pytest.raises(ConfigError, match="unknown environment 'mine/Counting'"):
        render(run)
