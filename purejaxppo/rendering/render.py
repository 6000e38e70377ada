"""Films of trained policies: what draws an environment, and into which file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from purejaxppo.act import actor_of
from purejaxppo.components import CustomEnv, CustomPolicy
from purejaxppo.config.coerce import parse_options
from purejaxppo.config.schema import PPOConfig
from purejaxppo.envs import registry
from purejaxppo.envs.given import name_of
from purejaxppo.envs.host import HostEnvironment
from purejaxppo.envs.inspection import place
from purejaxppo.envs.wrappers.base import Wrapper
from purejaxppo.errors import ConfigError
from purejaxppo.rendering.gif import write_gif
from purejaxppo.rendering.playback import Episode, play, play_on_host
from purejaxppo.run_folder.files import write_new
from purejaxppo.run_folder.paths import given_path, new_file
from purejaxppo.run_folder.read import read_run
from purejaxppo.runs.agents import agent_of, env_params_of, load_components, tell_of_defaults
from purejaxppo.runs.options import FilmOptions, Weights
from purejaxppo.runs.vary import kept_own
from purejaxppo.types import EnvParams, EnvState

HEADLESS = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "MUJOCO_GL": "egl"}
"""Environment variables of pygame and MuJoCo."""

NEEDS = {
    "pygame": "pip install 'purejaxppo[viz]'",
    "GL": "set MUJOCO_GL=egl or MUJOCO_GL=osmesa before Python starts",
}
"""What the user can do, by a word of the error that a renderer raises."""


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
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
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
        env_params: its parameters; None: those of the run.
        policy: the policy, if one was passed to training.

    Returns:
        The file.

    Raises:
        ConfigError: the environment is not drawn by its suite, or what draws it is not installed;
            there is no such agent; the file exists; or a number is out of range.
    """
    options = FilmOptions(
        out=None if out is None else str(out), agent=agent, weights=weights, seed=seed,
        max_steps=max_steps, fps=fps, overwrite=overwrite,
    )  # fmt: skip
    return film(run_dir, options, env=env, env_params=env_params, policy=policy)[0]


def film(
    run_dir: str | Path,
    options: FilmOptions,
    *,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
) -> tuple[Path, Episode]:
    """Films one episode of a trained policy, and keeps the episode.

    Args:
        run_dir: a folder that `purejaxppo train` or `fit` wrote.
        options: which agent, which episode, and how it is filmed.
        env: the environment, if one was passed to training.
        env_params: its parameters; None: those of the run.
        policy: the policy, if one was passed to training.

    Returns:
        The file, and what it shows.

    Raises:
        ConfigError: the environment is not drawn by its suite, or what draws it is not installed;
            there is no such agent; the file exists; or a number is out of range.
        HostError: an environment on the host failed.
    """
    # mistakes first: nothing is loaded for a film that cannot be made
    _use_no_display()
    config, run = read_run(run_dir)
    made, params = _make_drawn_env(config) if env is None else registry.find_env(env)
    name = config.env if env is None else name_of(made)
    artist, inside = find_artist(made, name)
    suffix = ".html" if hasattr(artist, "page") else ".gif"
    path = _destination(run_dir, options, suffix, name)
    if not isinstance(made, HostEnvironment):
        params = env_params_of(run_dir, run, env_params)(params)
        if env_params is None:
            tell_of_defaults(run_dir, run)

    # the agent plays in the environment that draws, not in the vectorised one of training
    components, agents = load_components(run_dir, options.weights, env, policy, env_params)
    actor = actor_of(components, agent_of(agents, options.agent), deterministic=True)
    if env_params is None and not isinstance(made, HostEnvironment):
        own = kept_own(str(run_dir), params)  # of each agent, where a run varies them
        params = jax.tree.map(lambda x: x[options.agent], own).params(params)
    with _explain_missing(name):
        if isinstance(made, HostEnvironment):
            episode = play_on_host(actor, made, options.seed, options.max_steps)
        else:
            key = jax.random.key(options.seed)
            episode = play(actor, made, params, key, options.max_steps, inside)
        # the file may have come up meanwhile
        writing = lambda file: _write(file, episode, artist, params, options.fps)  # noqa: E731
        write_new(path, options.overwrite, writing)
    return path, episode


def find_artist(env: Any, name: str) -> tuple[Any, Callable[[EnvState], EnvState]]:
    """Finds what draws an environment: the first one inside its wrappers that can.

    Args:
        env: one environment, with any wrappers around it.
        name: what it is called in messages.

    Returns:
        What draws: it has a method `frames` or `page`, or is a `HostEnvironment`; and a function
        from a state of `env` to the state that it draws.

    Raises:
        ConfigError: nothing does.
    """
    wrappers = []

    def draws(env: Any) -> bool:
        kind = type(env)  # the instance would say yes for all that it wraps
        return hasattr(kind, "frames") or hasattr(kind, "page") or issubclass(kind, HostEnvironment)

    # from the outside in, as a wrapper may draw what it adds
    while isinstance(env, Wrapper) and not draws(env):
        wrappers.append(env)
        env = env.env
    if not draws(env):
        raise ConfigError(
            f"{name} has nothing that draws it: give it a method frames(states, params), a "
            "picture [H, W, 3] uint8 for each state"
        )

    def inside(state: EnvState) -> EnvState:
        for wrapper in wrappers:
            try:
                state = wrapper.inner_state(state)
            except AttributeError as error:
                raise ConfigError(
                    f"the state of {type(wrapper).__name__} is not found in that of the wrapper "
                    f"around it ({error}): make that a RememberingWrapper, or give it a method "
                    "inner_state(state)"
                ) from error
        return state

    return env, inside


def _write(file: IO[bytes], episode: Episode, artist: Any, params: EnvParams, fps: int) -> None:
    """Writes a page where the suite has a viewer, else a GIF."""
    if hasattr(artist, "page"):
        file.write(artist.page(episode.scenes, fps).encode())
        return
    pictures = _pictures(episode, artist, params) if hasattr(artist, "frames") else episode.scenes
    captions = [f"step {t}   return {r:z.1f}" for t, r in enumerate(episode.returns)]
    write_gif(file, pictures, captions, fps)


def _pictures(episode: Episode, artist: Any, params: EnvParams) -> Iterator[np.ndarray]:
    """Draws an episode with the environment's own method, one picture after the other.

    Raises:
        ConfigError: it raises, or what it gives is not a picture for each state.
    """
    name, shape, count = f"{type(artist).__name__}.frames", None, 0
    try:
        for picture in map(np.asarray, artist.frames(episode.scenes, params)):
            flat = picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8
            if not flat or picture.shape != (shape or picture.shape):
                raise ConfigError(
                    f"{name} gives {picture.dtype}{[*picture.shape]} as picture {count}: it must "
                    "be uint8 [H, W, 3], and all of one size"
                )
            shape, count = picture.shape, count + 1
            if count > len(episode.scenes):
                break
            yield picture
    except ConfigError:
        raise
    except Exception as error:
        if not (place(error) or isinstance(error, TypeError | ValueError)):
            raise  # a suite's renderer lacks something, see NEEDS
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"{name} raises {words}{place(error)}: it is given a list of states, and returns a "
            "picture [H, W, 3] uint8 for each"
        ) from error
    if count != len(episode.scenes):
        other = "fewer" if count < len(episode.scenes) else "more"
        raise ConfigError(
            f"{name} gives {other} pictures than the {len(episode.scenes)} states: one for each"
        )


def _make_drawn_env(config: PPOConfig) -> tuple[Any, EnvParams]:
    """Makes the environment of a configuration with the options that let it be drawn."""
    options = parse_options(config.env_options)
    return registry.make_env(config.env, **options | registry.drawn(config.env))


def _destination(run_dir: str | Path, options: FilmOptions, suffix: str, name: str) -> Path:
    """Returns the file to write.

    Raises:
        ConfigError: it exists, has another kind of name, or no folder to be in.
    """
    out = given_path(run_dir) / f"policy{suffix}" if options.out is None else options.out
    if Path(out).suffix != suffix:
        raise ConfigError(f"out={str(out)!r}: {name} is filmed as {suffix}, use policy{suffix}")
    return new_file(out, options.overwrite)


@contextlib.contextmanager
def _explain_missing(name: str) -> Iterator[None]:
    """Says what to do where an environment cannot be drawn for want of a package or a display.

    Raises:
        ConfigError: in place of an error that `NEEDS` knows; others are raised as they are.
    """
    try:
        yield
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        helps = [what for word, what in NEEDS.items() if word in words]
        if isinstance(error, ConfigError) or not helps:
            raise
        raise ConfigError(f"{name} cannot be drawn ({words}): {helps[0]}") from error


def _use_no_display() -> None:
    """Keeps what draws from looking for a display where there is none."""
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        for name, value in HEADLESS.items():
            os.environ.setdefault(name, value)
