"""Exported policies in fresh processes without purejaxppo, against the policies themselves."""

import importlib
import io
import json
import pathlib
import pickle
import subprocess
import sys
import tokenize
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import flax.linen as nn
import gymnasium
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from purejaxppo import (
    ConfigError,
    HostEnvironment,
    PPOConfig,
    as_policy,
    compiler_options,
    make_act,
    make_actor,
    make_learner,
    make_train,
)
from purejaxppo.cli import commands
from purejaxppo.components import make_components
from purejaxppo.export import numpy_policy as reader
from purejaxppo.export import numpy_program as as_numpy
from purejaxppo.export.export_policy import export_policy
from purejaxppo.export.formats import use_of
from purejaxppo.runs.agents import Agents, load_agents, save_agents
from purejaxppo.spaces import Box, Discrete, MultiBinary, MultiDiscrete, zeros

SMALL = dict(
    num_envs=2, num_steps=4, num_minibatches=1, num_epochs=1, total_timesteps=8,
    hidden_sizes=(16, 16),
)  # fmt: skip
HAS_ONNX = find_spec("jax2onnx") is not None
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="needs purejaxppo[onnx]")
FORMATS = ["npz", "stablehlo", pytest.param("onnx", marks=[pytest.mark.slow, needs_onnx])]
every_format = pytest.mark.parametrize("format", FORMATS)


class Spaces:
    """An environment with any spaces, in which nothing happens."""

    default_params = ()

    def __init__(self, observation, action):
        self.observation, self.action = observation, action

    def reset_env(self, key, params):
        return zeros(self.observation), jnp.int32(0)

    def step_env(self, key, state, action, params):
        return zeros(self.observation), state + 1, jnp.float32(0), jnp.bool_(False), {}

    def is_truncated(self, state, params):
        return state >= 10

    def observation_space(self, params):
        return self.observation

    def action_space(self, params):
        return self.action


class Unusual(nn.Module):
    """A network with much of what JAX has and ours do without."""

    @nn.compact
    def __call__(self, obs):
        x = nn.gelu(nn.Dense(6)(obs[:, ::-1]))
        x = jnp.concatenate([x[:, np.array([2, 0])], x.mean(-1, keepdims=True), x[:, 3:]], -1)
        _, x = jax.lax.scan(lambda h, x: (0.5 * h + x,) * 2, x[:, 0], x.T, reverse=True)
        rows = x.T.reshape(-1, 2, 3)
        x = nn.softmax(jnp.einsum("bik,bjk->bij", rows, rows)) @ rows
        x = nn.avg_pool(jnp.pad(x, ((0, 0), (1, 2), (0, 0))), (2,)).reshape(x.shape[0], -1)
        return nn.Dense(3)(jnp.sign(x) * jnp.round(3 * x) ** 2), x[:, 0]


class Sorting(nn.Module):
    """A network that NumPy does not know."""

    @nn.compact
    def __call__(self, obs):
        x = jnp.sort(nn.Dense(2)(obs), -1)
        return x, x[:, 0]


class Seen(NamedTuple):
    """A record."""

    board: Any
    action_mask: Any


def box(*shape, low=-1, high=1, dtype=np.float32):
    return Box(np.full(shape, low), np.full(shape, high), shape, np.dtype(dtype))


def image(*shape):
    return box(*shape, low=0, high=255, dtype=np.uint8)


class Case(NamedTuple):
    changes: dict
    env: Any = None
    policy: Any = None
    steps: tuple = (1, 1000)  # of an episode, and episodes side by side


MEMORY = dict(core_size=8, normalize_observations=True)
PARTS = {"b": Discrete(4), "a": MultiDiscrete((3, 2)), "action_mask": box(9, low=0, dtype=np.int8)}
BODY = (box(3), MultiBinary((4,)))
LIMBS = {
    "bits": MultiBinary((3,)),
    "gear": box(2, low=-3, high=4, dtype=np.int32),
    "way": Discrete(3),
}
ARM = box(2, low=-9, high=9)
CASES = {
    "clipped": Case(dict(env="Pendulum-v1", normalize_observations=True)),
    "grid": Case(dict(env="Breakout-MinAtar", activation="relu")),
    "masked": Case(
        dict(normalize_observations=True),
        Spaces(Seen(box(3, 3), box(5, low=0, dtype=bool)), Discrete(5)),
    ),
    "gru": Case(dict(env="CartPole-v1", core="gru") | MEMORY, steps=(50, 20)),
    "discrete": Case(dict(env="CartPole-v1", normalize_observations=True)),
    "squashed": Case(dict(env="Pendulum-v1", squash_actions=True, activation="silu")),
    "host": Case(dict(env="gymnasium/CartPole-v1", activation="elu")),
    "many masked": Case({}, Spaces(PARTS, MultiDiscrete((2, 4, 3)))),
    "several": Case(dict(activation="relu", layer_norm=True), Spaces(BODY, LIMBS)),
    "lstm": Case(dict(env="Pendulum-v1", core="lstm", shared_torso=True) | MEMORY, steps=(50, 20)),
    "linear": Case(dict(env="CartPole-v1", core="linear") | MEMORY, steps=(50, 20)),
    "mingru": Case(
        dict(env="CartPole-v1", core="mingru", shared_torso=True) | MEMORY, steps=(50, 20)
    ),
    "gtrxl": Case(
        dict(env="CartPole-v1", core="gtrxl", core_window=6, shared_torso=True) | MEMORY,
        steps=(50, 20),
    ),
    "unusual": Case({}, Spaces(box(4), Discrete(3)), Unusual()),
    "nature": Case(dict(activation="relu"), Spaces(image(84, 84, 4), ARM), steps=(1, 50)),
    "impala": Case(dict(torso="impala"), Spaces(image(21, 20, 3), ARM), steps=(1, 50)),
    "sorting": Case({}, Spaces(box(4), Discrete(2)), Sorting()),
}
QUICK = [*CASES][:4]
OTHERS = [name for name in CASES if name not in (*QUICK, "sorting")]


# -- runs ---------------------------------------------------------------------------------------


def write_run(folder, config, agents):
    config.to_toml(folder / "config.toml")
    seeds = len(jax.tree.leaves(agents)[0])
    (folder / "run.json").write_text(json.dumps({"seeds": seeds, "seed": 0}))
    save_agents(folder / "agents.npz", agents)
    return folder


def random_agents(rng, config, **own):
    """Two agents with random parameters and statistics."""

    def draw(path, leaf):
        x = rng.normal(0, 1, (2, *leaf.shape))
        x *= np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.1
        about_one = jax.tree_util.keystr(path[-1:]) in (".var", "['scale']")
        return jnp.asarray(np.exp(x) if about_one else x, leaf.dtype)

    state = jax.eval_shape(make_learner(config, **own).init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, Agents.of(state))


def random_obs(rng, space, lead):
    shape = (*lead, *space.shape)
    match space:
        case Discrete(n):
            high = n
        case MultiDiscrete(nvec):
            high = nvec
        case MultiBinary():
            high = 2
        case Box() if space.dtype.kind == "f":
            return rng.normal(0, 1.5, shape).astype(space.dtype)
        case _:
            high = space.high + 1
    return rng.integers(0, high, shape).astype(space.dtype)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A function of a case's name: a run folder, observations in it, and the actions of agent 1."""
    made = {}

    def run_of(name):
        if name not in made:
            made[name] = make_run(name, tmp_path_factory.mktemp(name.replace(" ", "-")))
        return made[name]

    return run_of


def make_run(name, folder):
    case, rng = CASES[name], np.random.default_rng(0)
    own = dict(env=case.env, policy=case.policy)
    config = PPOConfig(**SMALL | case.changes)
    agents = random_agents(rng, config, **own)
    write_run(folder, config, agents)
    spaces = make_components(config, **own).spec.observation
    obs = jax.tree.map(lambda space: random_obs(rng, space, case.steps), spaces)
    starts = rng.random(case.steps) < 0.1
    starts[0] = True
    actor = make_actor(config, jax.tree.map(lambda x: x[1], agents), deterministic=True, **own)

    @jax.jit
    def play(obs, starts):
        def step(carry, inputs):
            return actor.act(jax.random.key(0), carry, *inputs)

        return jax.lax.scan(step, actor.initial_carry(case.steps[1:]), (obs, starts))[1]

    actions = jax.tree.map(np.asarray, play(obs, starts))
    plain = obs._asdict() if isinstance(obs, Seen) else obs
    memory = "core" in case.changes
    (folder / "data.pkl").write_bytes(pickle.dumps((plain, starts, memory)))
    return folder, actions, own


# -- fresh processes ----------------------------------------------------------------------------

BLOCK = """
import pickle, runpy, sys
from pathlib import Path
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # whoever imports it fails
import numpy as np
"""
PLAY = """
def at(tree, i):
    if isinstance(tree, dict):
        return {key: at(part, i) for key, part in tree.items()}
    return tuple(at(part, i) for part in tree) if isinstance(tree, tuple) else tree[i]

def stack(trees):
    if isinstance(trees[0], dict):
        return {key: stack([tree[key] for tree in trees]) for key in trees[0]}
    return np.stack(trees)

def alike(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            alike(a[key], b[key])
        return
    assert a.dtype == b.dtype and a.flags.writeable
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)

for folder in map(Path, sys.argv[2:]):
    obs, starts, memory = pickle.loads((folder / "data.pkl").read_bytes())
    act = load(folder, starts.shape[1], memory)
    actions = [act(at(obs, t), starts[t]) for t in range(len(starts))]
    (folder / "actions.pkl").write_bytes(pickle.dumps(actions))
"""
LOAD = {
    "npz": """
def load(folder, n, memory):
    policy = runpy.run_path(folder / "policy.py")["Policy"](folder / "policy.npz")
    carry, carries = [policy.initial_carry] * n, policy.initial_carry
    def one(i, obs, start):
        if not memory:
            return policy(obs)
        carry[i], action = policy(carry[i], obs, start)
        return action
    def act(obs, starts):
        nonlocal carries
        if memory:
            carries, batch = policy(carries, obs, starts)
        else:
            batch = policy(obs)
        alike(batch, stack([one(i, at(obs, i), starts[i]) for i in range(n)]))
        return batch
    return act
""",
    "stablehlo": """
import jax
def load(folder, n, memory):
    policy = jax.export.deserialize((folder / "policy.stablehlo").read_bytes())
    anything = [np.ones((n, *x.shape[1:]), x.dtype) for x in policy.in_avals]
    carry = policy.in_tree.unflatten(anything)[0][0]
    def act(obs, starts):
        nonlocal carry
        if not memory:
            return jax.tree.map(np.asarray, policy.call(obs))
        carry, action = policy.call(carry, obs, starts)
        return np.asarray(action)
    return act
""",
    "onnx": """
import onnxruntime
def named(name, tree):
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, tuple) else ()
    parts = [named(f"{name}.{key}", tree[key]) for key in keys]
    return {k: v for part in parts for k, v in part.items()} if keys else {name: tree}

def load(folder, n, memory):
    policy = onnxruntime.InferenceSession(folder / "policy.onnx")
    whole = {"tensor(int32)": np.int32}
    inputs = {
        x.name: np.ones((n, *x.shape[1:]), whole.get(x.type, np.float32))
        for x in policy.get_inputs()
    }
    outputs = [x.name for x in policy.get_outputs()]
    def act(obs, starts):
        inputs.update(named("obs", obs))
        if memory:
            inputs["episode_start"] = starts
        for name, x in zip(outputs, policy.run(outputs, inputs)):
            inputs[name.removeprefix("next_")] = x
        actions = {name: inputs.pop(name) for name in outputs if name.startswith("action")}
        return {k.removeprefix("action."): x for k, x in actions.items()}
    return act
""",
}
ABSENT = {
    "npz": "purejaxppo,flax,jax,jaxlib",
    "stablehlo": "purejaxppo,flax",
    "onnx": "purejaxppo,flax,jax,jax2onnx",
}


def fresh(script, *args):
    """What a script prints in a process of its own, which sees nothing of this one."""
    command = [sys.executable, "-I", "-c", script, *map(str, args)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def assert_alike(name, ours, theirs, format="stablehlo"):
    """Equal but for rounding; from NumPy alone, choices are of int64 as in Gymnasium."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert len(np.unique(a)) > 1, name
        chosen = a.dtype == np.int32 and a.min() >= 0  # `gear` is a Box of int32, from -3
        assert b.dtype == (np.int64 if chosen and format == "npz" else a.dtype), name
        if a.dtype.kind == "f":
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(b, a, err_msg=name)


@pytest.mark.slow
@every_format
@pytest.mark.parametrize(
    "names", [QUICK, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["quick", "others"]
)
def test_exported_policies_act_alike_without_purejaxppo(run_of, format, names):
    runs = [run_of(name) for name in names]
    for folder, _, own in runs:
        path = export_policy(folder, format, agent=1, overwrite=True, **own)
        assert path == folder / f"policy.{format}"
    fresh(BLOCK + LOAD[format] + PLAY, ABSENT[format], *(folder for folder, _, _ in runs))
    for name, (folder, actions, _) in zip(names, runs, strict=True):
        steps = pickle.loads((folder / "actions.pkl").read_bytes())
        theirs = jax.tree.map(lambda *xs: np.stack(xs), *steps)
        assert_alike(name, actions, theirs, format)


SCORE = """
import gymnasium
env = gymnasium.make("CartPole-v1")
total = 0.0
for seed in range(20):
    obs, done = env.reset(seed=seed)[0], False
    while not done:
        obs, reward, terminated, truncated, _ = env.step(int(act(obs)))
        total, done = total + reward, terminated or truncated
print(total / 20)
"""
ACT = {
    "npz": """
policy = runpy.run_path(sys.argv[2] + "/policy.py")["Policy"](sys.argv[2] + "/policy.npz")
act = policy
""",
    "onnx": """
import onnxruntime
policy = onnxruntime.InferenceSession(sys.argv[2] + "/policy.onnx")
act = lambda obs: policy.run(["action"], {"obs": obs[None]})[0][0]
""",
}


@pytest.mark.slow
@pytest.mark.as_shipped
def test_a_trained_policy_solves_gymnasiums_cartpole(tmp_path):
    config = PPOConfig.preset("CartPole-v1")
    train = jax.jit(jax.vmap(make_train(config)), compiler_options=compiler_options())
    state = train(jax.random.split(jax.random.key(0), 1)).state
    write_run(tmp_path, config, Agents.of(state))
    for format in ("npz", "onnx") if HAS_ONNX else ("npz",):
        export_policy(tmp_path, format)
        assert float(fresh(BLOCK + ACT[format] + SCORE, ABSENT[format], tmp_path)) >= 490


# -- files ----------------------------------------------------------------------------------------


def play_here(path, folder):
    """Actions of an npz for the observations of its run."""
    obs, _, _ = pickle.loads((folder / "data.pkl").read_bytes())
    return reader.Policy(path)(obs[0])[None]


def test_the_agent_and_the_weights_that_are_asked_for(run_of, tmp_path):
    folder, actions, _ = run_of("clipped")
    config, agents = load_agents(folder)
    write_run(tmp_path, config, jax.tree.map(lambda x: 0 * x, agents))
    swapped = jax.tree.map(lambda x: x[::-1], agents)
    save_agents(tmp_path / "best.npz", swapped)
    best = export_policy(tmp_path, "npz", weights="best", agent=0)
    assert_alike("best", actions, play_here(best, folder))
    final = export_policy(tmp_path, "npz", out=tmp_path / "final.npz", agent=1)
    assert (play_here(final, folder) == 0).all()
    assert (tmp_path / "final.py").read_bytes() == pathlib.Path(reader.__file__).read_bytes()


def test_stablehlo_is_for_every_platform_and_batch_size(run_of):
    folder, actions, own = run_of("masked")
    path = export_policy(folder, "stablehlo", agent=1, overwrite=True, **own)
    policy = jax.export.deserialize(path.read_bytes())
    assert policy.platforms == ("cpu", "cuda", "rocm", "tpu")
    obs, _, _ = pickle.loads((folder / "data.pkl").read_bytes())
    for size in (1, 7):
        few = jax.tree.map(lambda x: x[0, :size], obs)  # noqa: B023
        np.testing.assert_array_equal(policy.call(few), actions[0, :size])


def test_a_file_that_exists_stays_unless_told(run_of, tmp_path):
    folder, _, _ = run_of("discrete")
    for name, format in (("a.npz", "npz"), ("b.py", "npz"), ("c.stablehlo", "stablehlo")):
        (tmp_path / name).write_text("mine")
        out = (tmp_path / name).with_suffix(f".{format}")
        with pytest.raises(ConfigError, match=f"{name}' exists: name another"):
            export_policy(folder, format, out=out)
        assert (tmp_path / name).read_text() == "mine"
        export_policy(folder, format, out=out, overwrite=True)
        assert (tmp_path / name).read_text(errors="replace") != "mine"


def test_a_reader_of_before_is_written_over_where_python_finds_it(run_of, tmp_path, monkeypatch):
    folder, _, _ = run_of("discrete")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "policy", raising=False)  # of another test
    for name in ("policy", "other"):
        (tmp_path / f"{name}.py").write_text("# a reader of another version")
        importlib.invalidate_caches()
        export_policy(folder, "npz", out=f"{name}.npz", overwrite=True)
        assert "class Policy" in (tmp_path / f"{name}.py").read_text()
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ConfigError, match=r"in place of the module json: use policy.npz"):
        export_policy(folder, "npz", out="elsewhere/json.npz")
    (tmp_path / "policy.py").write_text("# another module")
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=r"in place of the module policy: use agent.npz"):
        export_policy(folder, "npz", out="elsewhere/policy.npz")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(agent=2), "agent=2 must be one of the run's 0 .. 1"),
        (dict(agent=-1), "agent=-1 must be one of the run's 0 .. 1"),
        (dict(weights="best"), "holds no best.npz"),
        (dict(format="npz", out="policy.onnx"), r"'policy.onnx' must end in .npz: use policy.npz"),
        (dict(format="npz", out="my-policy.npz"), "a name that Python imports: use policy.npz"),
        (dict(format="onxx"), r"format='onxx' is not a choice: did you mean onnx\?"),
        (dict(out="nowhere/policy.stablehlo"), "has no folder to be in"),
        (dict(run_dir="nowhere"), "'nowhere' holds no run"),
        (dict(out=5), "out=5 must be a path"),
        (dict(overwrite="no"), "overwrite='no' must be of type bool: use True or False"),
        (dict(format="onnx"), r"needs the package jax2onnx: pip install 'purejaxppo\[onnx\]'"),
    ],
)
def test_what_cannot_be_is_refused(run_of, tmp_path, monkeypatch, changes, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    write_run(tmp_path, *load_agents(run_of("discrete")[0]))
    with pytest.raises(ConfigError, match=words):
        export_policy(**dict(run_dir=tmp_path) | changes)
    assert not [*tmp_path.glob("*policy*")]


def test_npz_refuses_what_it_cannot_say_and_leaves_nothing(run_of):
    folder, _, own = run_of("sorting")
    with pytest.raises(ConfigError, match=r"format='npz' cannot say sort .* format='stablehlo'"):
        export_policy(folder, "npz", **own)
    assert not [*folder.glob("policy*")]


def test_a_file_that_acts_otherwise_is_not_written(run_of, tmp_path, monkeypatch):
    monkeypatch.setitem(as_numpy.RULES, "tanh", as_numpy.RULES["exp"])
    with pytest.raises(ConfigError, match=r"format='npz' cannot express this policy \(Assertion"):
        export_policy(run_of("clipped")[0], "npz", out=tmp_path / "policy.npz")
    assert not [*tmp_path.iterdir()]


class Bytes(nn.Module):
    """Differs between XLA and NumPy below 0 alone, where a byte is 0 or wraps."""

    @nn.compact
    def __call__(self, obs):
        y = obs.astype(jnp.uint8).astype(jnp.float32)
        return nn.Dense(3)(y), y[:, 0]


def test_what_is_written_is_compared_over_the_whole_space(tmp_path):
    own = dict(env=Spaces(box(4, low=-9, high=9), Discrete(3)), policy=Bytes())
    config = PPOConfig(**SMALL)
    write_run(tmp_path, config, random_agents(np.random.default_rng(0), config, **own))
    with pytest.raises(ConfigError, match=r"format='npz' cannot express this policy \(Assertion"):
        export_policy(tmp_path, "npz", **own)


@needs_onnx
@pytest.mark.slow
def test_the_converter_leaves_jax_as_it_was(run_of, tmp_path):
    before = {module: dict(vars(module)) for module in (jnp, jax.lax, jax.nn)}
    for name in ("a", "b"):  # the second time it has been patched already, and put back
        export_policy(run_of("clipped")[0], "onnx", out=tmp_path / f"{name}.onnx")
        for module, names in before.items():
            assert {n: vars(module)[n] for n in names} == names
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()

    # and what is printed of its use names what goes in and comes out
    line = use_of(tmp_path / "a.onnx", "onnx", memory=False)[1]
    assert line.startswith("action, = policy.run(None, {'obs': obs})")
    folder, _, own = run_of("several")
    path = export_policy(folder, "onnx", out=tmp_path / "several.onnx", **own)
    names = "action_bits, action_gear, action_way"
    inputs = "{'obs.0': obs_0, 'obs.1': obs_1}"
    assert use_of(path, "onnx", memory=False)[1].startswith(f"{names} = policy.run(None, {inputs})")
    assert use_of(path, "onnx", memory=True)[1].startswith(f"*carry, {names} = policy.run(")


def test_parts_of_observations_are_found_in_dictionaries_tuples_and_records():
    for tree in ({"board": 1}, Seen(1, 2)):
        assert reader.part(tree, "board") == 1
    assert reader.part((5, 6), 1) == 6


@every_format
def test_formats_without_bfloat16_compute_in_float32(tmp_path, capsys, format):
    """With the same parameters; StableHLO has it, and computes as the run did."""
    config = PPOConfig(**SMALL, env="Pendulum-v1", compute_dtype="bfloat16")
    agents = random_agents(np.random.default_rng(0), config)
    write_run(tmp_path, config, agents)
    assert commands.export([str(tmp_path), "--format", format]) == 0
    said = "in float32 (trained in bfloat16)" in capsys.readouterr().out.splitlines()[0]
    assert said == (format != "stablehlo")

    obs, agent = normal_obs(50, 3), jax.tree.map(lambda x: x[0], agents)
    narrow, wide = (
        np.asarray(jax.jit(make_act(config.replace(compute_dtype=dtype), agent, True))(None, obs))
        for dtype in ("bfloat16", "float32")
    )
    path = tmp_path / f"policy.{format}"
    if format == "npz":
        got = reader.Policy(path)(obs)
    elif format == "stablehlo":
        got = jax.export.deserialize(path.read_bytes()).call(obs)
    else:
        import onnxruntime

        (got,) = onnxruntime.InferenceSession(path).run(None, {"obs": obs})
    ours, other = (wide, narrow) if said else (narrow, wide)
    apart = np.abs(wide - narrow).max()
    assert apart > 1e-3  # of actions in -2 .. 2
    np.testing.assert_allclose(got, ours, rtol=0, atol=1e-4)
    assert np.abs(got - other).max() > apart / 2


def normal_obs(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@every_format
@pytest.mark.parametrize("name", ["clipped", "gru"])
def test_the_command_says_how_the_file_is_used(run_of, capsys, monkeypatch, format, name):
    folder, _, _ = run_of(name)
    assert commands.export([str(folder), "--format", format, "--overwrite"]) == 0
    wrote, *lines = capsys.readouterr().out.splitlines()
    assert wrote.startswith(f"wrote {folder}/policy.{format}: ")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "policy", raising=False)
    lead = () if format == "npz" else (3,)
    known: dict[str, Any] = dict(jax=jax, pathlib=pathlib)
    known |= dict(obs=np.ones((*lead, 3 if name == "clipped" else 4), np.float32))
    known |= dict(episode_start=np.ones(lead, bool))
    if format == "onnx":
        import onnxruntime

        known["onnxruntime"] = onnxruntime
    exec(lines[0].strip(), known)
    carry = {part: np.zeros((*lead, 8), np.float32) for part in ("actor", "critic")}
    known["carry"] = getattr(known["policy"], "initial_carry", carry)
    known["inputs"] = {f"carry.{part}": x for part, x in carry.items()}
    known["inputs"] |= {key: known[key] for key in ("obs", "episode_start")}
    exec(lines[1].strip(), known)
    assert known["action"].shape == ((*lead, 1) if name == "clipped" else lead)


def test_npz_takes_one_observation_or_a_batch(run_of, tmp_path):
    policy = reader.Policy(export_policy(run_of("discrete")[0], "npz", out=tmp_path / "a.npz"))
    obs = np.random.default_rng(0).normal(0, 1, (6, 4))
    batch = policy(obs)
    assert batch.shape == (6,) and batch.dtype == np.int64
    assert [policy(row.tolist()) for row in obs] == batch.tolist()
    assert type(policy(obs[0])) is np.int64
    assert policy(obs[:1]).shape == (1,) and policy(obs[:0]).shape == (0,)
    for wrong in (obs[0, :3], obs[None], obs[:, :3], 0.5):
        with pytest.raises(ValueError, match=r"obs has shape .*: pass \[4\], or more of them"):
            policy(wrong)


def test_npz_has_a_memory_for_each_row(run_of, tmp_path):
    """Rows of a batch are as rows by themselves, whichever episodes begin."""
    folder, _, _ = run_of("gru")
    policy = reader.Policy(export_policy(folder, "npz", out=tmp_path / "a.npz"))
    rng = np.random.default_rng(0)
    obs, starts = rng.normal(0, 1, (9, 3, 4)), rng.random((9, 3)) < 0.3
    carry, carries = policy.initial_carry, [policy.initial_carry] * 3
    for x, start in zip(obs, starts, strict=True):
        carry, actions = policy(carry, x, start)
        for i in range(3):
            carries[i], action = policy(carries[i], x[i], start[i])
            assert action == actions[i]
            for name in carry:
                np.testing.assert_allclose(carry[name][i], carries[i][name], atol=1e-6)
    # what is the same for all may be given once
    _, once = policy(policy.initial_carry, obs[0], True)
    assert once.tolist() == policy(carry, obs[0], np.ones(3, bool))[1].tolist()


HAND = gymnasium.spaces.Dict(
    way=gymnasium.spaces.Discrete(4, start=-1),
    push=gymnasium.spaces.Box(-0.1, 0.1, (2,), np.float64),
    bits=gymnasium.spaces.Tuple((gymnasium.spaces.MultiBinary(2),) * 2),
    more=gymnasium.spaces.MultiDiscrete([2, 3], np.int16, start=[5, 0]),
)


class Idle(gymnasium.Env):
    """Shows numbers from 3 to 5, takes `HAND`."""

    observation_space, action_space = gymnasium.spaces.Discrete(3, start=3), HAND

    def reset(self, *, seed=None, options=None):
        return 3, {}


@pytest.mark.parametrize("format", ["npz", "stablehlo"])
def test_exported_actions_are_those_of_the_environments_space(tmp_path, format):
    """float32(0.1) is more than 0.1, and integers are counted from their starts."""
    own = dict(
        env=HostEnvironment(
            lambda n: SyncVectorEnv([Idle] * n, autoreset_mode=AutoresetMode.DISABLED)
        )
    )
    config = PPOConfig(**SMALL)
    agents = random_agents(np.random.default_rng(1), config, **own)
    agents = jax.tree.map(lambda x: 3 * x, agents)
    path = export_policy(write_run(tmp_path, config, agents), format, **own)
    ours = as_policy(config, agents, **own)
    for obs in (3, 4, 5):
        expected = ours.predict(obs)
        assert HAND.contains(expected)
        if format == "npz":
            action = reader.Policy(path)(obs)
            assert HAND.contains(action)
        else:
            policy = jax.export.deserialize(path.read_bytes())
            action = jax.tree.map(lambda x: np.asarray(x)[0], policy.call(jnp.int32([obs])))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), action, expected)


def test_the_reader_is_short():
    source = pathlib.Path(reader.__file__).read_text()
    noise = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        docstring = token.type == tokenize.STRING and token.string.startswith('"""')
        if token.type not in (*noise, tokenize.ENDMARKER) and not docstring:
            lines.update(range(token.start[0], token.end[0] + 1))
    assert len(lines) <= 50
