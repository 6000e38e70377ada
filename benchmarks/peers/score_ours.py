"""One run of time_to_score.py: purejaxppo with its preset; evaluation is part of the program."""

import json
import sys

import jax
import jax.numpy as jnp

from purejaxppo import PPOConfig, compiler_options, make_act, make_env, make_learner


def make_programs(config: PPOConfig, updates: int, episodes: int):
    """`init(key) -> state`, and `chunk(state, key) -> (state, mean return)`, both jitted."""
    learner = make_learner(config)
    env, params = make_env(config.env)

    def episode(state, key):
        act = make_act(config, state, deterministic=True)

        def step(loop):
            env_state, obs, _, total, key = loop
            key_act, key_step, key = jax.random.split(key, 3)
            obs, env_state, reward, ended, _ = env.step_env(
                key_step, env_state, act(key_act, obs), params
            )
            ended |= env.is_truncated(env_state, params)
            return env_state, obs, ended, total + reward, key

        key_reset, key = jax.random.split(key)
        obs, env_state = env.reset_env(key_reset, params)
        start = env_state, obs, jnp.array(False), jnp.float32(0), key
        return jax.lax.while_loop(lambda loop: ~loop[2], step, start)[3]

    def evaluate(state, key):
        return jax.vmap(episode, (None, 0))(state, jax.random.split(key, episodes)).mean()

    def chunk(state, key):
        state, _ = jax.lax.scan(lambda s, _: learner.update(s), state, length=updates)
        return state, evaluate(state, key)

    options = compiler_options()
    return jax.jit(learner.init), jax.jit(chunk, donate_argnums=0, compiler_options=options)


def main() -> None:
    """Trains until the score is reached or the steps are used up, and prints a line of JSON."""
    job = json.loads(sys.argv[1])
    config = PPOConfig.preset(job["env"])
    updates = max(1, round(job["eval_every"] / config.batch_size))
    budget = min(job["max_steps"], config.timesteps)
    init, chunk = make_programs(config, updates, job["episodes"])
    key, key_eval = jax.random.split(jax.random.key(job["seed"]))
    state, mean, steps = init(key), -float("inf"), 0
    while mean < job["score"] and steps < budget:
        key_eval, key_now = jax.random.split(key_eval)
        state, mean = chunk(state, key_now)
        steps += updates * config.batch_size
    reached = bool(mean >= job["score"])
    print(json.dumps({"reached": reached, "steps": steps, "return": float(mean)}), flush=True)


if __name__ == "__main__":
    main()
