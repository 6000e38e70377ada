"""Environments on the host over devices and processes: each device steps its share of them."""

import numpy as np
import pytest
from jax.sharding import AbstractMesh
from support.processes import in_processes, on_devices

from purejaxppo import ConfigError, PPOConfig
from purejaxppo.components import make_components
from purejaxppo.sharding import check_spread

START = """
from functools import partial
import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from jax.sharding import PartitionSpec as P
from support.hosted import by_hand, make_same_step
from purejaxppo import HostEnvironment, HostError, PPOConfig, fit, make_env, make_mesh
from purejaxppo import shard_environments

CONFIG = PPOConfig(
    num_envs=8, num_steps=8, total_timesteps=192, num_minibatches=2, hidden_sizes=(4,)
)


class Log:
    # vector environments of CartPole-v1 that say when they are made, reset and closed
    def __init__(self, breaks=None):
        self.made, self.closed, self.breaks = 0, 0, breaks
        self.env = HostEnvironment(self.make, "cartpole")

    def make(self, num_envs):
        makers = [partial(gymnasium.make, "CartPole-v1", max_episode_steps=9)] * num_envs
        envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
        self.made += 1
        number, step, close, time = self.made, envs.step, envs.close, iter(range(10**9))

        def stepped(action):
            if (number, next(time)) == self.breaks:
                raise ValueError("it broke")
            return step(action)

        def closed(**how):
            self.closed += 1
            close(**how)

        envs.step, envs.close = stepped, closed
        return envs


def driven(config, devices, env=None, updates=3):
    learner = shard_environments(config, make_mesh(devices=devices), env=env)
    try:
        state = jax.jit(learner.init)(jax.random.key(0))
        update = jax.jit(learner.update, donate_argnums=0)
        metrics = []
        for _ in range(updates):
            state, one = update(state)
            metrics.append(one)
        return jax.block_until_ready((state, metrics))
    finally:
        learner.close()
"""


@pytest.mark.slow
def test_each_share_is_what_its_environments_are_when_they_are_stepped_by_hand():
    """On two and four devices, twice: seeds, observations, rewards, ends and returns, in place."""
    on_devices(
        4,
        START
        + """
from purejaxppo.envs.host_program import make_host_vec_env

T, LIMIT = 40, 15
env, _ = make_env("gymnasium/CartPole-v1", max_steps=LIMIT)
for devices, each in ((2, 3), (4, 2)):
    mesh, n = make_mesh(devices=devices), devices * each
    vec_env = make_host_vec_env(env, each, (), mesh)

    def roll(key, actions):
        state, obs = vec_env.reset(key[0], ())
        step = lambda state, action: vec_env.step((), state, action, ())
        state, after = jax.lax.scan(step, state, actions)
        return obs[None], after, vec_env.agree(state)[None]

    rows = P(None, "envs")
    run = jax.jit(jax.shard_map(
        roll, mesh=mesh, in_specs=(P("envs"), rows), out_specs=(rows, rows, P("envs")),
        check_vma=False,
    ))
    keys = jax.random.split(jax.random.key(1), devices)
    # the first of each share is pushed one way and falls, the others go by chance
    actions = np.random.default_rng(0).integers(0, 2, (T, n)).astype(np.int32)
    actions[:, ::each] = 1
    first, again = (jax.block_until_ready(run(keys, actions)) for _ in range(2))
    vec_env.close()
    same(first[:2], again[:2])  # equal calls give equal bits
    np.testing.assert_array_equal(first[2], [[1, T]] * devices)
    np.testing.assert_array_equal(again[2], [[2, T]] * devices)

    obs_0, after = jax.tree.map(np.asarray, first[:2])
    ends = set()
    for i in range(devices):
        mine = slice(i * each, (i + 1) * each)
        seed = int(jax.random.bits(keys[i]) >> 1) + i * each
        envs = make_same_step("CartPole-v1", each, max_episode_steps=LIMIT)
        start, *theirs = by_hand(envs, actions[:, mine], seed)
        np.testing.assert_array_equal(obs_0[0, mine], start)
        obs, final, reward, terminated, truncated, total, length = theirs
        ours = jax.tree.map(lambda x: x[:, mine], after)
        for mine_, other in (
            (ours.obs, obs), (ours.final_obs, final), (ours.reward, reward),
            (ours.terminated, terminated), (ours.truncated, truncated & ~terminated),
            (ours.episode_return, total), (ours.episode_length, length),
        ):
            np.testing.assert_array_equal(mine_, other)
        ends |= {*terminated.ravel(), *(2 * truncated.ravel())}
    assert ends == {0, 1, 2}, ends  # falls and time limits were met
""",
    )


@pytest.mark.slow
def test_runs_on_two_devices_are_equal_end_together_and_close_everything():
    on_devices(
        2,
        START
        + """
import time
from purejaxppo.components import make_components
from purejaxppo.runs.evaluate import NOT_FOR_TRAINING, evaluate_of

# equal bits of two runs; all devices have the same parameters, and environments of their own
log = Log()
first, again = (driven(CONFIG, 2, log.env, 12) for _ in range(2))
same(first[0].params, again[0].params)
same(first[1], again[1])
assert log.made == log.closed == 1 + 2 * 2  # one to look at
for x in jax.tree.leaves((first[0].params, first[0].env_state)):
    a, b = (np.asarray(shard.data) for shard in x.addressable_shards)
    np.testing.assert_array_equal(a, b)
obs = np.asarray(first[0].obs)
assert len(np.unique(obs, axis=0)) == 8
assert sum(int(m.episodes) for m in first[1]) >= 8 * (12 * 8 // 9)  # limits, or before

# an evaluation plays the episodes that one device plays, each device some of them
log = Log()
result = fit(CONFIG, env=log.env, devices=2, eval_every=192, eval_episodes=3)
parts = make_components(CONFIG, env=Log().env)
evaluate, close = evaluate_of(parts, 3)
agents = jax.tree.map(lambda x: jax.device_put(x, jax.devices()[0])[0], result.best.agents)
key = jax.random.fold_in(jax.random.key(0), NOT_FOR_TRAINING)
alone = jax.jit(evaluate)(agents, key)
close()
assert alone.ended.all() and (alone.lengths <= 9).all()
assert float(result.best.returns[0]) == float(alone.returns.mean())
assert log.made == log.closed == 1 + 2 + 2

# one share that fails ends the run of both, with its own words, and neither waits for the other
for breaks in ((3, 5), (2, 0)):
    log, begun = Log(breaks), time.monotonic()
    try:
        fit(CONFIG, env=log.env, devices=2)
        raise AssertionError("it went on")
    except HostError as error:
        assert str(error) == "cartpole: ValueError: it broke", error
        assert isinstance(error.__cause__, ValueError)
    assert log.made == log.closed == 3
""",
    )


@pytest.mark.slow
def test_two_processes_train_as_two_devices_of_one(tmp_path):
    """To the bit: parameters and metrics; and where one fails, each says what it knows."""
    on_devices(2, START + SAVE + f"save({str(tmp_path / 'one.npz')!r})")
    code = (
        START
        + SAVE
        + f"""
from purejaxppo.processes import agree, together

with together():
    first = jax.process_index() == 0
    save({str(tmp_path / "two.npz")!r} if first else None)
    log = Log(breaks=None if first else (3, 5))
    log.make(1).close()
    try:
        driven(CONFIG, 2, log.env)
    except HostError as error:
        print("said:", error, log.made == log.closed, file=sys.stderr)
    agree(0)  # none leaves before the other
"""
    )
    (code_0, first), (code_1, second) = in_processes(2, code)
    assert code_0 == code_1 == 0, (first, second)
    assert "said: environments of another process have failed, which says how True" in first
    assert "said: cartpole: ValueError: it broke True" in second
    one, two = (np.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert one.files == two.files
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name])


SAVE = """
def save(path):
    state, metrics = driven(CONFIG, 2, Log().env)
    kept = leaves((state.params, metrics))
    if path:
        np.savez(path, *kept)
"""


def test_environments_on_the_host_are_of_one_agent():
    parts = make_components(PPOConfig(env="gymnasium/CartPole-v1"))
    check_spread(parts, AbstractMesh((1, 2), ("seeds", "envs")))
    with pytest.raises(ConfigError, match=r"on the host are stepped for one agent: use make_mesh"):
        check_spread(parts, AbstractMesh((2, 2), ("seeds", "envs")))
