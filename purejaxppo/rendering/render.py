"""`purejaxppo render RUN`: a film of a trained policy."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import jax
import matplotlib

from purejaxppo.act import make_actor
from purejaxppo.components import OwnPolicy
from purejaxppo.config.coerce import parse_options
from purejaxppo.config.schema import PPOConfig
from purejaxppo.envs import registry
from purejaxppo.envs.host import HostEnvironment
from purejaxppo.envs.wrappers.base import Wrapper
from purejaxppo.errors import ConfigError
from purejaxppo.rendering.gif import FASTEST, write_gif
from purejaxppo.rendering.playback import Episode, play, play_on_host
from purejaxppo.runs import folder as store
from purejaxppo.runs.agents import agent_of, load_agents
from purejaxppo.runs.checkpoint import check_new, write_whole
from purejaxppo.runs.options import RenderOptions, Weights

HEADLESS = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "MUJOCO_GL": "egl"}
"""Environment variables of pygame and MuJoCo."""

NEEDS = {
    "pygame": "pip install 'purejaxppo[viz]'",
    "GL": "set MUJOCO_GL=egl or MUJOCO_GL=osmesa before Python starts",
}
"""What helps, by a word of the error that a renderer raises."""


def render(
    run_dir: str | Path,
    *,
    out: str | Path | None = None,
    agent: int = 0,
    weights: Weights = "final",
    seed: int = 0,
    max_steps: int = 500,
    fps: int = 30,
    overwrite: bool = False,
    env: Any = None,
    policy: OwnPolicy = None,
) -> Path:
    """Films one episode of a trained policy: most probable actions, statistics frozen.

    Args:
        run_dir: a folder that `purejaxppo train` or `fit` wrote.
        out: the file; None: policy.gif in the run folder (policy.html for brax, whose viewer is
            fetched from the net when the page is opened).
        agent: which of the run's seeds, counted from 0.
        weights: "final", at the end of the run; or "best", by evaluation.
        seed: of the random key that the episode is drawn from.
        max_steps: steps at most.
        fps: steps per second of the film, 1 to 50.
        overwrite: write over a file that exists.
        env: the environment, if one was passed to training. One that is written in JAX and has a
            method `frames(states, params)`, which gives a picture [H, W, 3] uint8 for each state,
            is drawn by it; one on the host must be made with `render_mode="rgb_array"`.
        policy: the policy, if one was passed to training.

    Returns:
        The file.

    Raises:
        ConfigError: the environment is not drawn by its suite, or what draws it is not installed;
            there is no such agent; the file exists; or a number is out of range.
    """
    options = RenderOptions(
        run=str(run_dir), out=None if out is None else str(out), agent=agent, weights=weights,
        seed=seed, max_steps=max_steps, fps=fps, overwrite=overwrite,
    )  # fmt: skip
    return film(options, env, policy)[0]


def film(options: RenderOptions, env: Any = None, policy: OwnPolicy = None) -> tuple[Path, Episode]:
    """As `render`: the file, and what it shows."""
    _without_display()
    _check(options)
    config, _ = store.read_run(options.run)
    name = config.env if env is None else getattr(env, "name", type(env).__name__)
    made, params = _to_film(config) if env is None else (env, env.default_params)
    artist, inside = find_artist(made, name)
    path = _destination(options, ".html" if hasattr(artist, "page") else ".gif", name)
    config, agents = load_agents(options.run, options.weights, env=env, policy=policy)
    one = agent_of(agents, options.agent)
    actor = make_actor(config, one, deterministic=True, env=env, policy=policy)
    with _drawing(name):
        if isinstance(made, HostEnvironment):
            episode = play_on_host(actor, made, options.seed, options.max_steps)
        else:
            key = jax.random.key(options.seed)
            episode = play(actor, made, params, key, options.max_steps, inside)
        write_whole(path, lambda file: _write(file, episode, artist, params, options.fps))
    return path, episode


def find_artist(env: Any, name: str) -> tuple[Any, Callable[[Any], Any]]:
    """What draws an environment: the one inside its wrappers, and what finds the state of that.

    Raises:
        ConfigError: nothing does.
    """
    wrappers = []

    def draws(env):  # a wrapper has the attributes of what it wraps, its type has not
        kind = type(env)
        return hasattr(kind, "frames") or hasattr(kind, "page") or issubclass(kind, HostEnvironment)

    while isinstance(env, Wrapper) and not draws(env):
        wrappers.append(env)
        env = env.env
    if not draws(env):
        raise ConfigError(
            f"{name} has nothing that draws it: give it a method frames(states, params), a "
            "picture [H, W, 3] uint8 for each state"
        )

    def inside(state):
        for wrapper in wrappers:
            state = wrapper.inner_state(state)
        return state

    return env, inside


def main(options: RenderOptions) -> int:
    """`purejaxppo render`: returns the exit code."""
    matplotlib.use("agg")  # no windows
    path, episode = film(options)
    steps, size = len(episode.returns) - 1, path.stat().st_size / 1e3
    going_on = "" if episode.over else " (not over yet: --max-steps shows more)"
    print(f"return {episode.returns[-1]:z.1f} in {steps} steps{going_on}, {path} ({size:,.0f} kB)")
    return 0


def _write(file: IO[bytes], episode: Episode, artist: Any, params: Any, fps: int) -> None:
    if hasattr(artist, "page"):
        file.write(artist.page(episode.scenes, fps).encode())
        return
    drawn = hasattr(artist, "frames")
    pictures = artist.frames(episode.scenes, params) if drawn else episode.scenes
    captions = [f"step {t}   return {r:z.1f}" for t, r in enumerate(episode.returns)]
    write_gif(file, pictures, captions, fps)


def _to_film(config: PPOConfig) -> tuple[Any, Any]:
    """The environment of a configuration, so made that it gives pictures."""
    options = parse_options(config.env_options)
    return registry.make_env(config.env, **options | registry.drawn(config.env))


def _check(options: RenderOptions) -> None:
    """Raises ConfigError if a number is out of range."""
    if options.max_steps < 1:
        raise ConfigError(f"max_steps={options.max_steps} is too small: use 500")
    if options.seed < 0:
        raise ConfigError(f"seed={options.seed} must not be negative: use 0")
    if not 1 <= options.fps <= FASTEST:
        raise ConfigError(f"fps={options.fps} must be within 1 .. {FASTEST}: use 30")


def _destination(options: RenderOptions, suffix: str, name: str) -> Path:
    """The file to write.

    Raises:
        ConfigError: it exists, has another kind of name, or no folder to be in.
    """
    path = Path(options.run, f"policy{suffix}") if options.out is None else Path(options.out)
    if path.suffix != suffix:
        raise ConfigError(f"out={str(path)!r}: {name} is filmed as {suffix}, use policy{suffix}")
    check_new(path, options.overwrite)
    if not path.parent.is_dir():
        raise ConfigError(f"{str(path)!r} has no folder to be in: make {str(path.parent)!r} first")
    return path


@contextlib.contextmanager
def _drawing(name: str) -> Iterator[None]:
    """Says what to do where an environment cannot be drawn because something is not there."""
    try:
        yield
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        helps = [what for word, what in NEEDS.items() if word in words]
        if isinstance(error, ConfigError) or not helps:
            raise
        raise ConfigError(f"{name} cannot be drawn ({words}): {helps[0]}") from error


def _without_display() -> None:
    """Where there is no display, what draws shall not look for one."""
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        for name, value in HEADLESS.items():
            os.environ.setdefault(name, value)
