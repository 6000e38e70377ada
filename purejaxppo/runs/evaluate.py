"""Plays whole episodes with what was trained: after a run, and while `fit` goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from purejaxppo.act import actor_of
from purejaxppo.components import Components, CustomEnv, CustomPolicy, make_components
from purejaxppo.config.rules import as_count
from purejaxppo.config.schema import PPOConfig
from purejaxppo.envs.environments import check_taken
from purejaxppo.parallel import ENVS, spread_seeds
from purejaxppo.ppo.collectives import own_key
from purejaxppo.runs.agents import Agents
from purejaxppo.runs.compiled import Programs
from purejaxppo.runs.options import FitOptions
from purejaxppo.runs.vary import ALIKE, Own
from purejaxppo.types import Array, EnvParams, PyTree

NOT_FOR_TRAINING = 2**31  # folded into keys, which are then not those that agents are trained with
LONGEST = 30_000  # steps; an episode that does not end by itself counts as it then stands


class Evaluation(struct.PyTreeNode):
    """Whole episodes, one from each of E first states."""

    returns: Array  # [E] float32, undiscounted
    lengths: Array  # [E] int32
    ended: Array  # [E] bool, False: cut off after LONGEST steps


def make_evaluate(
    config: PPOConfig,
    episodes: int,
    sampled: bool = False,
    *,
    env: CustomEnv = None,
    env_params: EnvParams = None,
    policy: CustomPolicy = None,
) -> tuple[Callable[..., Evaluation], Callable[[], None] | None]:
    """Makes evaluation a pure function: statistics frozen, episodes begun alike for equal keys.

    Args:
        config: what was trained.
        episodes: E, played side by side, one from each first state: short ones weigh no more.
        sampled: sampled actions rather than the most probable ones.
        env: the environment, if one was passed to training.
        env_params: its parameters; None: its defaults; a function `(key) -> params`, or
            `DrawnParams`: every episode has its own. For many, vmap over them.
        policy: the policy or network, if one was passed to training.

    Returns:
        `evaluate(agents of one seed, key, env_params=None) -> Evaluation` (the key is consumed),
        and what closes environments that run on the host (None without).

    Raises:
        ConfigError: see `components.make_components`; or there is no such number of episodes.
    """
    components = make_components(config, env=env, env_params=env_params, policy=policy)
    return evaluate_of(components, episodes, sampled)


def evaluate_of(
    components: Components, episodes: int, sampled: bool = False, mesh: Mesh | None = None
) -> tuple[Callable[..., Evaluation], Callable[[], None] | None]:
    """Makes the evaluation of components that are built already.

    Args:
        components: of the run.
        episodes: E, played side by side, one from each first state.
        sampled: sampled actions rather than the most probable ones.
        mesh: devices that the program runs on, over which environments on the host are spread,
            equally many on each; others are played on all of them.

    Returns:
        `evaluate(agents of one seed, key, env_params=None) -> Evaluation`, and what closes
        environments, or None.

    Raises:
        ConfigError: there is no such number of episodes.
    """
    episodes = as_count("episodes", episodes, 16)
    spread = mesh if components.hosted and mesh is not None and mesh.shape[ENVS] > 1 else None
    share = -(-episodes // (1 if spread is None else spread.shape[ENVS]))
    vec_env = components.vectorize(share, spread)

    def whole(tree: PyTree) -> PyTree:
        return tree if spread is None else jax.lax.all_gather(tree, ENVS, tiled=True)

    def evaluate(agents: Agents, key: Array, env_params: EnvParams = None) -> Evaluation:
        params = components.env_params if env_params is None else env_params
        check_taken(components.env, params, components.custom.get("env_params_axis"))
        # E first states, of which each device has its share
        actor = actor_of(components, agents, deterministic=not sampled)
        key_reset, key = jax.random.split(key)
        key = own_key(key, None if spread is None else ENVS)
        env_state, obs = vec_env.reset(key_reset, params)
        result = Evaluation(
            jnp.zeros(share, jnp.float32), jnp.zeros(share, jnp.int32), jnp.zeros(share, bool)
        )
        start = jnp.ones(share, bool)

        # one step of all; what an episode counts stands from its first end on
        def step(loop):
            t, env_state, obs, start, carry, result = loop
            key_act, key_draw = jax.random.split(jax.random.fold_in(key, t))
            carry, action = actor.act(key_act, carry, obs, start)
            draws = vec_env.draw(key_draw, params, env_state)
            env_state, after = vec_env.step(draws, env_state, action, params)
            done, playing = after.terminated | after.truncated, ~result.ended
            result = Evaluation(
                jnp.where(playing, after.episode_return, result.returns),
                jnp.where(playing, after.episode_length, result.lengths),
                result.ended | done,
            )
            return t + 1, env_state, after.obs, done, carry, result

        # no device waits for another longer than for a step: they all play until all have ended
        def going_on(loop):
            return (loop[0] < LONGEST) & ~whole(loop[-1].ended).all()

        carry = actor.initial_carry((share,))
        loop = jnp.int32(0), env_state, obs, start, carry, result
        _, env_state, *_, result = jax.lax.while_loop(going_on, step, loop)
        vec_env.agree(env_state)
        return jax.tree.map(lambda x: x[:episodes], whole(result))

    return components.in_precision(evaluate), vec_env.close


@contextlib.contextmanager
def compile_evaluate(
    components: Components, options: FitOptions, programs: Programs, own: Own = ALIKE
) -> Iterator[Callable[[Agents], Evaluation] | None]:
    """Compiles the evaluation of all agents of a run ahead of time.

    Args:
        components: of the run.
        options: how often, how many episodes, sampled or not.
        programs: of the run.
        own: what each agent has of its own: it is evaluated in its own environment.

    Yields:
        `(agents) -> Evaluation`, None if none is wanted; its environments are closed afterwards.
    """
    if options.eval_every is None:
        yield None
        return
    components = components.on_defaults()
    evaluate, close = evaluate_of(
        components, options.eval_episodes, options.eval_sampled, programs.mesh
    )
    key = jax.random.fold_in(jax.random.key(0), NOT_FOR_TRAINING)  # the same in every run

    def one(seed):
        agents, own = seed
        return evaluate(agents, key, own.params(components.env_params))

    own = programs.place(Own({}, own.env_params))
    try:
        together = spread_seeds(one, programs.mesh, programs.at_once)
        program = programs.compile(together, (Agents.of(programs.template), own))
        yield lambda agents: program((agents, own))
    finally:
        if close is not None:
            close()
