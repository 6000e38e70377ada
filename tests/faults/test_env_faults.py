"""What users give as environments and is none, or a broken one: one verdict, in one line.

`BROKEN` and `SOUND` are read by `check_env` and by training alike, which must agree.
"""

import multiprocessing
import os
import signal
import sys

import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces as gym
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnax.environments import spaces
from gymnax.wrappers import purerl
from support import probes
from support.probes import Endless, Match, Probe, Seen

from purejaxppo import (
    ConfigError,
    HostEnvironment,
    HostError,
    PPOConfig,
    check_env,
    cli,
    fit,
    make_env,
    make_learner,
    make_train,
)
from purejaxppo.check import random_actions
from purejaxppo.components import make_components
from purejaxppo.envs.declared import check_actions, spaces_of
from purejaxppo.envs.host import Host
from purejaxppo.envs.interface import METHODS, check_overrides
from purejaxppo.envs.registry import find_env
from purejaxppo.envs.traced_once import TracedOnce
from purejaxppo.envs.wrappers import (
    ActionRepeat,
    ClipReward,
    FlattenObservation,
    FrameStack,
    TimeLimit,
    Wrapper,
)
from purejaxppo.policies.torsos import check_torso
from purejaxppo.spaces import Box, Discrete, EnvSpec, MultiBinary, MultiDiscrete, to_bounds

CONFIG = PPOConfig(
    num_envs=2, num_steps=4, total_timesteps=16, num_epochs=1, num_minibatches=1,
    hidden_sizes=(8,),
)  # fmt: skip


def trained(env, config=CONFIG, **custom):
    """Traces the training of an environment, without running it."""
    learner = make_learner(config, env=env, **custom)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    return jax.eval_shape(learner.update, state)


def refusals(env, **custom):
    """What check_env and training say, both in ConfigErrors."""
    said = []
    for attempt in (lambda: check_env(env, num_steps=4, **custom), lambda: trained(env, **custom)):
        with pytest.raises(ConfigError) as caught:
            attempt()
        said.append(str(caught.value))
    return said


def refused(env, *words, **custom):
    """Both refuse, with the same single line, in which these words are."""
    said, again = refusals(env, **custom)
    assert said == again
    assert len(said.splitlines()) == 1
    for word in words:
        assert word in said, said


# -- environments that are broken, and some that only look so -------------------------------------


def altered(base=Probe, **members):
    return type("Altered", (base,), members)()


def box(low, high, shape=(), dtype=np.float32):
    return spaces.Box(low, high, shape, dtype)


def acts(space):
    return altered(action_space=lambda self, params: space)


def shows(space, see):
    return altered(observation_space=lambda self, p: space, see=lambda self, s, p: see(s.x[None]))


def returns(name, change):
    def method(self, *args):
        return change(getattr(Probe, name)(self, *args))

    return altered(**{name: method})


def steps(**changed):
    """A probe whose step returns something else at some of its places."""
    names = ("obs", "state", "reward", "terminated", "info")
    return returns("step_env", lambda v: tuple(changed.get(n, x) for n, x in zip(names, v)))  # noqa: B905


def stateful(first, after):
    return altered(
        reset_env=lambda self, key, params: (jnp.zeros(1), first(key)),
        step_env=lambda self, key, s, a, params: (jnp.zeros(1), after(s), 0.0, False, {}),
        is_truncated=lambda self, s, params: False,
    )


class Sketch(gymnasium.Env):
    """Episodes of 2 to 5 steps, which end at different times."""

    observation_space = gym.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.born = 0, self.np_random.random()
        self.end = self.np_random.integers(2, 6)
        return self.look(), {}

    def look(self):
        return np.array([self.born, self.time], np.float32)

    def step(self, action):
        self.time += 1
        return self.look(), 1.0, bool(self.time >= self.end), False, {}


def several(envs):
    return SyncVectorEnv([Sketch] * envs, autoreset_mode=AutoresetMode.DISABLED)


def sketch_space(**which):
    return type("Sketch", (Sketch,), which)


class Bypassed(purerl.GymnaxWrapper):
    """Doubles rewards where training does not look."""

    def step(self, *args):
        obs, state, reward, *rest = self._env.step(*args)
        return obs, state, 2 * reward, *rest


class OurOwn(Wrapper):
    def reset(self, key, params):
        return self.env.reset_env(key, params)


class LateStep(Match):
    """Overrides further down than the method that training calls."""

    def step(self, key, state, action, params):
        return self.step_env(key, state, action, params)


class Needs(Probe):
    def __init__(self, size):
        super().__init__()


class Borrows:
    """Has the methods of another, but for its step."""

    def __init__(self, env):
        for name in (*METHODS, "default_params"):
            setattr(self, name, getattr(env, name))

    def step(self, *args):
        return args


def cartpole():
    return gymnax.make("CartPole-v1")[0]


def nothing():
    return None


HOLDS = "holds nothing"
BOUNDS = "has no numbers between low"
NO = "is not supported"
BROKEN = {
    # action spaces
    "inverted": (lambda: acts(box(1.0, -1.0)), "action space", BOUNDS, "low=1.0 and high=-1.0"),
    "one axis inverted": (
        lambda: acts(box(np.array([-1.0, 1.0]), np.array([1.0, -1.0]), (2,))), BOUNDS, "at [1]",
    ),
    "NaN bounds": (lambda: acts(box(np.nan, 1.0)), BOUNDS),
    "no whole number": (lambda: acts(box(0.3, 0.6, (), np.int32)), BOUNDS),
    "infinite whole numbers": (lambda: acts(box(-np.inf, 1, (), np.int32)), "must be finite"),
    "infinite": (lambda: acts(box(-np.inf, np.inf)), "must be finite"),
    "largest float64": (lambda: acts(box(-1e308, 1e308, (), np.float64)), "must be finite"),
    "Discrete(0)": (lambda: acts(Discrete(0)), HOLDS),
    "Discrete(-1)": (lambda: acts(Discrete(-1)), HOLDS),
    "MultiDiscrete([2, 0])": (lambda: acts(MultiDiscrete((2, 0))), HOLDS),
    "MultiDiscrete([])": (lambda: acts(MultiDiscrete(())), HOLDS),
    "MultiBinary(0)": (lambda: acts(MultiBinary((0,))), HOLDS),
    "negative size": (lambda: acts(box(-1.0, 1.0, (-2,))), HOLDS),
    "size 0": (lambda: acts(box(-1.0, 1.0, (3, 0))), HOLDS),
    "Dict({})": (lambda: acts(spaces.Dict({})), HOLDS),
    "Tuple(())": (lambda: acts(gym.Tuple(())), HOLDS),
    "complex": (lambda: acts(box(-1, 1, (), np.complex64)), "complex64", "no numbers"),
    "texts": (lambda: acts(box(-1, 1, (), "U3")), "holds no numbers"),
    "bounds that do not fit": (
        lambda: acts(box(np.zeros(3), np.ones(3), (2,))), "action space", "cannot be read",
    ),
    "a class of spaces": (lambda: acts(spaces.Box), "action space", NO),
    "OneOf": (lambda: acts({"go": gym.OneOf((gym.Discrete(2),))}), "action['go'] space OneOf", NO),
    # observation spaces
    "inverted observation": (lambda: shows(box(1.0, -1.0, (1,)), lambda x: x), "observa", BOUNDS),
    "an empty part": (
        lambda: shows(
            {"goal": box(0.0, 1.0, (0,)), "x": box(-9.0, 9.0, (1,))},
            lambda x: {"goal": jnp.zeros(0), "x": x},
        ), "observation['goal']", HOLDS,
    ),
    "nothing observed": (lambda: shows(spaces.Dict({}), lambda x: {}), "observation holds nothing"),
    "nothing but a mask": (
        lambda: shows({"action_mask": box(0, 1, (2,), bool)},
                      lambda x: {"action_mask": jnp.ones(2, bool)}), "nothing but a mask",
    ),
    "a mask of others": (
        lambda: shows({"action_mask": box(0, 1, (3,), bool), "x": box(-9.0, 9.0, (1,))},
                      lambda x: {"action_mask": jnp.ones(3, bool), "x": x}), "mask for Discrete",
    ),
    "Sequence": (lambda: shows(gym.Sequence(gym.Discrete(2)), lambda x: x), "Sequence", NO),
    "Graph": (
        lambda: shows({"g": gym.Graph(gym.Discrete(3), None)}, lambda x: {"g": x}),
        "observation['g'] space Graph", NO,
    ),
    "Text": (lambda: shows((gym.Text(3),), lambda x: (x,)), "observation[0] space Text", NO),
    # what it returns
    "six values": (lambda: returns("step_env", lambda v: (*v[:4], False, {})), "6 values",
                   "(obs, state, reward, terminated, info)", "is_truncated"),
    "four values": (lambda: returns("step_env", lambda v: v[:4]), "step_env returns 4 values"),
    "nothing returned": (lambda: returns("step_env", lambda v: None), "returns a NoneType"),
    "a reset of one": (lambda: returns("reset_env", lambda v: v[0]), "reset_env returns an array"),
    "a reset of four": (lambda: returns("reset_env", lambda v: (*v, 1, 2)), "returns 4 values"),
    "a tuple for info": (lambda: returns("reset_env", lambda v: (*v, (1, 2))),
                         "reset_env's info is a tuple"),
    "a text for info": (lambda: steps(info="fine"), "step_env's info is a str", "dictionary"),
    "an array for info": (lambda: steps(info=jnp.ones(2)), "step_env's info is an array"),
    "a text for a mask": (lambda: steps(info={"action_mask": "all"}), "action_mask", "str"),
    "a text observed": (lambda: shows(box(-9.0, 9.0, (1,)), lambda x: "a"), "observation is a str"),
    "unsortable names": (
        lambda: shows({1: box(-9.0, 9.0, (1,)), "b": Discrete(2)},
                      lambda x: {1: x, "b": jnp.int32(1)}), "is no pytree",
    ),
    "complex observations": (lambda: shows(box(-9.0, 9.0, (1,)), lambda x: 1j * x), "complex64[1]"),
    "undeclared": (lambda: shows(box(-9.0, 9.0, (1,)), lambda x: {"x": x}), "not in the space"),
    "a complex reward": (lambda: steps(reward=1j), "reward is an array of complex64"),
    "a text for a reward": (lambda: steps(reward="1"), "reward is a str"),
    "no reward": (lambda: steps(reward=None), "reward is a NoneType"),
    "a key for a reward": (lambda: steps(reward=jax.random.key(0)), "reward is an array of key"),
    "rewards of two": (lambda: steps(reward=jnp.ones(2)), "reward is float32[2]", "scalar"),
    "a text for a flag": (lambda: steps(terminated="no"), "terminated is a str"),
    "flags of two": (lambda: steps(terminated=jnp.zeros(2, bool)), "terminated is bool[2]"),
    "a truncation of None": (
        lambda: altered(is_truncated=lambda self, s, p: None), "is_truncated is a NoneType",
    ),
    "a state of texts": (lambda: stateful(lambda key: {"go": "on"}, lambda s: s),
                         "reset_env's state['go'] is a str"),
    "a state that grows": (lambda: stateful(lambda key: jnp.zeros(2), lambda s: jnp.append(s, 0.0)),
                           "give both one form"),
    "a key that becomes a number": (
        lambda: stateful(lambda key: key, lambda s: jnp.uint32(1)), "uint32[]", "one form",
    ),
    "dtypes to and fro": (
        lambda: stateful(
            lambda key: jnp.int8(0),
            lambda s: s.astype(jnp.int16 if s.dtype == jnp.int8 else jnp.int8),
        ), "int16[] after one step", "int8[] after the next",
    ),
    # what it raises
    "step_env raises": (lambda: returns("step_env", lambda v: 1 / 0),
                        "step_env raises ZeroDivisionError: division by zero",
                        "(test_env_faults.py, line "),
    "reset_env raises": (lambda: returns("reset_env", lambda v: {}["x"]),
                         "reset_env raises KeyError: 'x'"),
    "is_truncated raises": (lambda: altered(is_truncated=lambda self, s, p: s.nope),
                            "is_truncated raises AttributeError"),
    "its space raises": (lambda: altered(observation_space=lambda self, p: 1 / 0),
                         "observation_space raises ZeroDivisionError"),
    "a branch on an array": (lambda: altered(pay=lambda self, x, action: 1.0 if x > 0 else 0.0),
                             "step_env raises TracerBoolConversionError"),
    "parameters that raise": (lambda: type("P", (Endless,), dict(
        default_params=property(lambda self: 1 / 0), __init__=lambda self: None))(),
        "P cannot be made: ZeroDivisionError"),
    # what it lacks or overrides
    "no step_env": (lambda: altered(step_env=None), "Altered has no step_env: define it"),
    "a number": (lambda: 3, "int has no reset_env", "or default_params: define them"),
    "a function that returns None": (lambda: nothing, "NoneType has no reset_env"),
    "a function that returns a class": (lambda: lambda: Probe, "makes a type"),
    "a class that needs arguments": (lambda: Needs, "Needs cannot be made: TypeError", "'size'"),
    "a wrapper that overrides step": (
        lambda: Bypassed(cartpole()), "Bypassed overrides step, which training never calls",
        "override step_env",
    ),
    "a wrapper of our kind": (
        lambda: OurOwn(Match()), "OurOwn overrides reset", "override reset_env",
    ),
    "an object with borrowed methods": (lambda: Borrows(Match()), "Borrows overrides step"),
    "a subclass that overrides step": (
        lambda: type("Mine", (type(cartpole()),), {"step": LateStep.step})(),
        "Mine overrides step", "override step_env",
    ),
    "gymnax's FlattenObservationWrapper": (
        lambda: purerl.FlattenObservationWrapper(cartpole()), "overrides reset and step",
        "or use FlattenObservation of purejaxppo",
    ),
    "gymnax's StickyActionWrapper": (
        lambda: purerl.StickyActionWrapper(cartpole(), 0.2), "or use StickyActions",
    ),
    "a LogWrapper around another": (
        lambda: purerl.LogWrapper(purerl.FlattenObservationWrapper(cartpole())), "Flatten",
    ),
    "another around a LogWrapper": (
        lambda: purerl.FlattenObservationWrapper(purerl.LogWrapper(cartpole())), "Flatten",
    ),
    "a subclass of LogWrapper": (
        lambda: type("MyLog", (purerl.LogWrapper,), {})(cartpole()), "MyLog overrides reset and",
    ),
    # Gymnasium's
    "a vector environment of its own kind": (
        lambda: CartPoleVectorEnv(2), "HostEnvironment(make)", "DISABLED",
    ),
    "a vector environment in a wrapper": (
        lambda: gymnasium.wrappers.vector.ClipReward(several(2), 0, 1), "does not say how",
    ),
    "Gymnasium's without a spec": (lambda: CartPoleEnv(), "CartPoleEnv does not say", "its class"),
    "a wrapper that forgets": (
        lambda: type("Odd", (gymnasium.Wrapper,), {})(gymnasium.make("CartPole-v1")),
        "Odd does not say how it was made",
    ),
    "one that is no vector": (
        lambda: HostEnvironment(lambda n: gymnasium.make("CartPole-v1"), "mine"),
        "mine is made as a TimeLimit", "VectorEnv", "SyncVectorEnv(",
    ),
    "None made": (lambda: HostEnvironment(lambda n: None), "made as a NoneType"),
    "resets by itself": (
        lambda: HostEnvironment(lambda n: gymnasium.make_vec("CartPole-v1", n, "sync")),
        "AutoresetMode.DISABLED",
    ),
    "raises when made": (lambda: HostEnvironment(lambda n: 1 / 0), "cannot be made: ZeroDivision"),
    "Sequence on the host": (
        lambda: sketch_space(observation_space=gym.Sequence(gym.Discrete(3))),
        "observation space Sequence", NO,
    ),
    "Graph on the host": (
        lambda: sketch_space(observation_space=gym.Dict(a=gym.Graph(gym.Discrete(3), None))),
        "observation['a'] space Graph", NO,
    ),
    "OneOf on the host": (
        lambda: sketch_space(observation_space=gym.Tuple((gym.OneOf((gym.Discrete(2),)),))),
        "observation[0] space OneOf", NO,
    ),
    "Text on the host": (
        lambda: sketch_space(action_space=gym.Dict(say=gym.Text(4))), "action['say'] space", NO,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_environment_is_refused_by_check_env_and_training_in_the_same_line(name):
    make, *words = BROKEN[name]
    refused(make(), *words)


SOUND = {
    "largest float32": lambda: acts(box(-3.4e38, 3.4e38)),
    "whole numbers of int64": lambda: acts(gym.Box(-5, 5, (2,), np.int64)),
    "float64": lambda: acts(gym.Box(-5, 5, (2,), np.float64)),
    "bits": lambda: acts(box(0, 1, (), bool)),
    "bytes beyond their dtype": lambda: acts(box(0, 300, (), np.uint8)),
    "an empty part of actions": lambda: acts({"a": {}, "b": Discrete(2)}),
    "a text in info": lambda: steps(info={"why": "hungry", "steps": 1}),
    "None and objects in info": lambda: steps(info={"x": None, "o": object(), "n": {"a": "b"}}),
    "names that are numbers in info": lambda: steps(info={1: 2, "a": 3}),
    "no info": lambda: steps(info=None),
    "an empty tuple for info": lambda: steps(info=()),
    "a whole reward": lambda: steps(reward=1),
    "a flag of 0 or 1": lambda: steps(terminated=1.0),
    "numbers of Python": lambda: shows(box(-9.0, 9.0), lambda x: 1.0),
    "a class": lambda: Match,
    "a function": lambda: lambda: Match(),
    "gymnax's LogWrapper": lambda: purerl.LogWrapper(cartpole()),
    "ours around LogWrapper": lambda: FrameStack(purerl.LogWrapper(cartpole()), 2),
    "a wrapper that overrides step_env": lambda: type(
        "Half", (purerl.GymnaxWrapper,),
        {"step_env": lambda self, *args: self._env.step_env(*args), "step": LateStep.step},
    )(cartpole()),
    "step beside step_env": lambda: type(
        "Both", (Match,), {"step": LateStep.step, "step_env": Match.step_env})(),
}  # fmt: skip
QUICK = ["largest float32", "a text in info"]


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SOUND]
)
def test_every_sound_environment_is_taken_by_check_env_and_training(name):
    check_env(SOUND[name](), num_steps=4)
    trained(SOUND[name]())


# -- actions within their bounds ------------------------------------------------------------------


def bounded(space, action):
    return np.asarray(jax.jit(lambda x: to_bounds(space, x))(jnp.asarray(action, jnp.float32)))


I32 = np.iinfo(np.int32)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "sent", "got"),
    [
        # float32 has 16777216, 16777218 and 16777220, not the numbers in between
        (-(2**24) - 3, 2**24 + 3, np.int32, [3e7, 16777220.0, np.inf], 3 * [16777219]),
        (0, 255, np.uint8, [300.0, 255.4, -1.0, 1.6], [255, 255, 0, 2]),
        (-128, 127, np.int8, [300.0, -300.0, 126.6], [127, -128, 127]),
        (I32.min, I32.max, np.int32, [3e9, -3e9, np.inf, 7.0], [I32.max, I32.min, I32.max, 7]),
        (0, 2**32 - 1, np.uint32, [5e9, -1.0, 65536.0], [2**32 - 1, 0, 65536]),
        (-(2**40), 2**40, np.int64, [1e10, -1e10, 3.0], [I32.max, I32.min, 3]),
        (0.5, 2.5, np.int32, [-9.0, 9.0, 1.2], [1, 2, 1]),
        (0, 300, np.uint8, [400.0, 299.0], [255, 255]),
        (0, 1, np.bool_, [-0.2, 0.4, 0.6, 7.0], [False, False, True, True]),
        (-3.4e38, 3.4e38, np.float32, [np.inf, -np.inf, 1.0], np.float32([3.4e38, -3.4e38, 1.0])),
    ],
)  # fmt: skip
def test_actions_are_clipped_after_the_cast(low, high, dtype, sent, got):
    space = spaces_of(spaces.Box(low, high, (), dtype))
    action = bounded(space, sent)
    np.testing.assert_array_equal(action, np.asarray(got, action.dtype))
    assert action.dtype == space.dtype


def test_whole_actions_reach_gymnasium_within_bounds_that_float32_does_not_have():
    arrived = []

    class Wide(Sketch):
        action_space = gym.Box(-(2**24) - 3, 2**24 + 3, (1,), np.int64)

        def step(self, action):
            arrived.append(action)
            return super().step(action)

    env = HostEnvironment(
        lambda n: SyncVectorEnv([Wide] * n, autoreset_mode=AutoresetMode.DISABLED)
    )
    host = Host(env, 2)
    where, _ = host.reset(0)
    host.step(where, np.asarray(to_bounds(env.spec.action, jnp.float32([[3e7], [-3e7]]))))
    host.close()
    assert [int(a[0]) for a in arrived] == [2**24 + 3, -(2**24) - 3]
    assert all(Wide.action_space.contains(a) for a in arrived)


@pytest.mark.parametrize("bound", [3.4e38, 1.0, 1e-3])
def test_random_actions_of_the_widest_box_are_finite(bound):
    space = spaces_of(box(-bound, bound, (2,)))
    spec = EnvSpec(space, space)
    action = random_actions(jax.random.key(0), spec, jnp.zeros((500, 2)), 500)
    assert np.isfinite(action).all()
    assert (np.abs(action) <= np.float32(bound)).all()
    assert len(np.unique(action)) > 300  # most are within the bounds, few at them


def test_finite_bounds_are_asked_of_every_part():
    with pytest.raises(ConfigError, match="must be finite"):
        check_actions({"a": Discrete(2), "b": spaces_of(box(-1.0, np.inf))})


# -- wrappers -------------------------------------------------------------------------------------


def test_log_wrapper_is_taken_off_and_changes_nothing():
    """The environment inside is trained on: the same program."""
    inside = cartpole()
    plain, wrapped = (
        jax.make_jaxpr(make_learner(CONFIG, env=env).init)(jax.random.key(0))
        for env in (inside, purerl.LogWrapper(inside))
    )
    assert str(plain) == str(wrapped)


def test_no_environment_of_gymnax_is_taken_for_bypassed():
    for name in gymnax.registered_envs:
        if "MNIST" not in name:  # which downloads
            check_overrides(gymnax.make(name)[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda env: FrameStack(env, 2),
        lambda env: FlattenObservation(ClipReward(env)),
        lambda env: ActionRepeat(env, 2),
    ],
)
def test_wrappers_of_ours_refuse_what_is_bypassed_inside(make):
    with pytest.raises(ConfigError, match="Bypassed overrides step"):
        make(Bypassed(cartpole()))


@pytest.mark.parametrize(
    "count", [5, np.int64(5), np.uint8(5), jnp.int32(5), np.array(5), 5.0], ids=repr
)
def test_counts_may_be_of_numpy_and_jax(count):
    for env, name in (
        (TimeLimit(Probe(), count), "max_steps"),
        (FrameStack(Probe(), count), "num_frames"),
        (ActionRepeat(Probe(), count), "times"),
    ):
        assert getattr(env, name) == 5 and type(getattr(env, name)) is int


@pytest.mark.parametrize("count", [True, np.bool_(True), 2.5, "5", None, [5], np.ones(2), 0])
def test_counts_that_are_none(count):
    with pytest.raises(ConfigError, match="max_steps="):
        TimeLimit(Probe(), count)


# -- the host -------------------------------------------------------------------------------------


class Deaf(SyncVectorEnv):
    """Begins all episodes anew, whatever is masked, and does not say how it resets."""

    def __init__(self, envs, leave=False):
        super().__init__([Sketch] * envs, autoreset_mode=AutoresetMode.DISABLED)
        self.metadata, self.leave = {}, leave

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


class Lazy(Deaf):
    """Shows the last observation again in place of a new episode."""

    def reset(self, *, seed=None, options=None):
        new = super().reset(seed=seed)
        return new if options is None else (self.last, {})

    def step(self, actions):
        after = super().step(actions)
        self.last = after[0].copy()
        return after


def test_a_vector_environment_that_ignores_reset_mask_is_found_by_check_env():
    with pytest.raises(ConfigError, match=r"changed others.*reset_mask.*AutoresetMode.DISABLED"):
        check_env(HostEnvironment(Deaf), num_steps=20)


@pytest.mark.slow
def test_a_vector_environment_that_ignores_reset_mask_is_found_in_its_first_run():
    config = CONFIG.replace(num_steps=16, total_timesteps=32)
    with pytest.raises(HostError, match=r"^env: a reset of some .*AutoresetMode.DISABLED do$"):
        fit(config, env=HostEnvironment(Deaf))


@pytest.mark.slow
def test_a_vector_environment_that_never_resets_is_found_by_check_env():
    with pytest.raises(ConfigError, match="episodes do not begin anew"):
        check_env(HostEnvironment(Lazy), num_steps=20)


def test_one_environment_may_ignore_the_mask():
    """There is nothing else that its reset could change."""
    host = Host(HostEnvironment(Deaf), 1)
    where, _ = host.reset(0)
    for _ in range(20):
        where, after = host.step(where, np.zeros(1, np.int32))
    host.close()
    assert after.episode_length.max() <= 5


def test_observations_of_another_shape_on_the_host_are_named():
    class Flat(SyncVectorEnv):
        def reset(self, **options):
            obs, info = super().reset(**options)
            return obs[:, :1], info

    env = HostEnvironment(
        lambda n: Flat([Sketch] * n, autoreset_mode=AutoresetMode.DISABLED), "mine"
    )
    with pytest.raises(HostError, match=r"mine: ValueError: observation .*\[2, 1\], .*\[2, 2\]"):
        Host(env, 2).reset(0)


class Told(SyncVectorEnv):
    """Steps that return something else at one of their places."""

    def __init__(self, envs, place, change):
        super().__init__([Sketch] * envs, autoreset_mode=AutoresetMode.DISABLED)
        self.place, self.change = place, change

    def step(self, actions):
        values = list(super().step(actions))
        values[self.place] = self.change(values[self.place])
        return tuple(values)


def stepped(place, change, steps=6):
    """The EnvSteps of two environments."""
    host = Host(HostEnvironment(lambda n: Told(n, place, change), "mine"), 2)
    where, _ = host.reset(0)
    rows = []
    for _ in range(steps):
        where, after = host.step(where, np.zeros(2, np.int32))
        rows.append(after)
    host.close()
    return rows


@pytest.mark.parametrize("change", [list, lambda x: x.astype(int), lambda x: x.astype(np.float32)])
@pytest.mark.parametrize("place", [1, 2, 3], ids=["reward", "terminated", "truncated"])
def test_rewards_and_flags_on_the_host_may_be_lists_and_whole_numbers(place, change):
    for ours, plain in zip(stepped(place, change), stepped(place, np.array), strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, plain)
        assert ours.terminated.dtype == ours.truncated.dtype == bool
        assert ours.reward.dtype == np.float32


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (1, lambda x: x[:1]), (1, lambda x: x[:, None]), (1, lambda x: 1.0), (1, lambda x: None),
        (1, lambda x: x * 1j), (1, lambda x: ["1"] * 2), (2, lambda x: False),
        (3, lambda x: np.array([None, None])),
    ],
)  # fmt: skip
def test_rewards_and_flags_on_the_host_that_are_no_numbers(place, change):
    with pytest.raises(HostError, match=r"mine: ValueError: step returns .*must be 2 numbers"):
        stepped(place, change)


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        (0, lambda x: x[:, :1], r"observation of 2 environments has shape \[2, 1\], .* \[2, 2\]"),
        (1, lambda x: 1.0, "step returns an array of float32 \\[\\] .*must be 2 numbers"),
        (3, lambda x: x[:1], "step returns an array of bool .*must be 2 numbers"),
    ],
    ids=["observation", "reward", "truncated"],
)
def test_a_later_step_on_the_host_of_another_shape_is_named(place, change, words):
    calls = iter(range(100))
    with pytest.raises(HostError, match=words):
        stepped(place, lambda x: change(x) if next(calls) >= 3 else x)


def dying(happens, at):
    """CartPole in two processes, and something that happens at a step or reset."""
    inner, _ = make_env("gymnasium/CartPole-v1", processes=True)

    def make(num_envs):
        envs = inner.make(num_envs)
        call, calls = getattr(envs, at), []

        def after(*args, **kwargs):
            calls.append(at)
            if num_envs > 1:
                args = happens(envs, args) or args
            return call(*args, **kwargs)

        setattr(envs, at, after)
        return envs

    return HostEnvironment(make, "gymnasium/CartPole-v1")


def kill(envs, args):
    os.kill(envs.processes[0].pid, signal.SIGKILL)
    envs.processes[0].join()


def push_too_far(envs, args):
    return (args[0] + 7,)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
@pytest.mark.parametrize(
    ("happens", "at", "words"),
    [
        (kill, "step", "a worker process died \\(signal SIGKILL\\)"),
        (kill, "reset", "a worker process died \\(signal SIGKILL\\)"),
        (push_too_far, "step", "AssertionError: .*invalid"),
    ],
    ids=["dies in step", "dies in reset", "raises in step"],
)
def test_a_worker_process_that_dies(happens, at, words):
    before = multiprocessing.active_children()
    host = Host(dying(happens, at), 2)
    with pytest.raises(HostError, match=f"^gymnasium/CartPole-v1: {words}"):
        where, _ = host.reset(0)
        host.step(where, np.zeros(2, np.int32))
    with pytest.raises(HostError, match=words):
        host.close()
    assert multiprocessing.active_children() == before


# -- what may be given ----------------------------------------------------------------------------


def hosted(env, num_envs=3):
    """What training makes of an environment of Gymnasium's."""
    found, params = find_env(env)
    assert params == () and isinstance(found, HostEnvironment)
    envs = found.make(num_envs)
    assert envs.num_envs == num_envs and envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    return envs


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: gymnasium.make("CartPole-v1", max_episode_steps=7), id="an instance"),
        pytest.param(lambda: gymnasium.spec("CartPole-v1"), id="a spec", marks=pytest.mark.slow),
        pytest.param(lambda: CartPoleEnv, id="a class", marks=pytest.mark.slow),
        pytest.param(
            lambda: lambda: gymnasium.make("CartPole-v1"), id="a function", marks=pytest.mark.slow
        ),
        pytest.param(lambda: "gymnasium/CartPole-v1", id="a name", marks=pytest.mark.slow),
    ],
)
def test_an_environment_of_gymnasium_is_trained_on(make):
    spec = check_env(make(), num_steps=20)
    assert spec.action == Discrete(2) and spec.observation.shape == (4,)
    trained(make())


def test_copies_of_an_instance_keep_its_wrappers_and_options():
    env = gymnasium.make("CartPole-v1", max_episode_steps=7, sutton_barto_reward=True)
    envs = hosted(gymnasium.wrappers.FrameStackObservation(env, 3))
    envs.reset(seed=0)
    assert envs.single_observation_space.shape == (3, 4)
    for _ in range(7):  # 7 steps do not bring it down
        _, reward, terminated, truncated, _ = envs.step(np.array([0, 1, 0]))
    envs.close()
    assert truncated.all() and not terminated.any()
    assert (reward == 0).all()  # Sutton and Barto's: 0 until it falls


@pytest.mark.slow
def test_an_instance_of_gymnasium_trains():
    result = fit(CONFIG, env=gymnasium.make("CartPole-v1"))
    assert np.isfinite(result.metrics.policy_loss).all()


def test_a_name_may_be_passed():
    components = make_components(CONFIG, env="Pendulum-v1")
    assert components.spec.observation.shape == (3,)
    assert components.config.env == "Pendulum-v1" and components.custom == {}


def test_wrappers_of_ours_are_not_put_around_a_class():
    with pytest.raises(ConfigError, match=r"not its class: use Match\(\)"):
        FrameStack(Match, 2)


def test_options_have_no_effect_on_what_is_passed():
    with pytest.raises(ConfigError, match="no effect on an environment of your own"):
        make_train(CONFIG.replace(env_options={"size": 3}), env=Match)


@pytest.mark.parametrize("make", [3, None, "env"])
def test_what_makes_environments_on_the_host_must_be_callable(make):
    with pytest.raises(ConfigError, match=r"make\(num_envs\) returns a gymnasium.vector.VectorEnv"):
        HostEnvironment(make)


# -- module:object --------------------------------------------------------------------------------


MODULE = """
import gymnasium
import numpy as np
from support.probes import Match

class MyEnv(Match):
    def __init__(self, scale=1.0, limit=3):
        super().__init__(reward_scale=scale, max_steps_in_episode=limit)

    def frames(self, states, params):
        return [np.zeros((8, 8, 3), np.uint8) for _ in states]

class Namespace:
    Env = MyEnv

class Needs(MyEnv):
    def __init__(self, size):
        super().__init__()

def make(limit=9):
    return gymnasium.make("CartPole-v1", max_episode_steps=limit)

env = MyEnv(2.0)
number = 3

def nothing():
    pass
"""
MODULES = {
    "own_envs": MODULE,
    "divides": "1 / 0",
    "unfinished": "def (",
    "leaves": "import sys\nsys.exit(3)",
    "lacks": "import nowhere_at_all",
    "nowhere_at_all_tasks": "import nowhere_at_all",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with modules that nobody has imported."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", os.getcwd())])
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "name",
    ["own_envs:MyEnv", "own_envs:Namespace.Env", "own_envs:env", "own_envs:make"],
)
def test_an_environment_in_a_module_of_the_current_folder(folder, name):
    path = list(sys.path)
    env, params = make_env(name)
    assert sys.path == path
    again, params_again = make_env(name)
    assert env is again and params is params_again
    assert isinstance(env, HostEnvironment if name.endswith("make") else TracedOnce)
    make_learner(CONFIG.replace(env=name))


def test_options_go_to_the_class_or_function(folder):
    _, params = make_env("own_envs:MyEnv", scale=5.0)
    assert (params.reward_scale, params.max_steps_in_episode) == (5.0, 3)
    env, _ = make_env("own_envs:make", limit=2)
    envs = env.make(1)
    envs.reset(seed=0)
    flags = [envs.step(np.array([0]))[3][0] for _ in range(2)]
    envs.close()
    assert flags == [False, True]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("own_envs:Missing", {}, "own_envs has no 'Missing'"),
        ("own_envs:MyEn", {}, "did you mean MyEnv"),
        ("own_envs:Namespace.Other", {}, "has no 'Other'"),
        ("missing_module:X", {}, "there is no such module in this folder, or installed"),
        ("own_envs.deeper:X", {}, "there is no such module"),
        ("own_envs:", {}, "must be module:object, such as my_module:MyEnv"),
        (":MyEnv", {}, "must be module:object"),
        ("a:b:c", {}, "must be module:object"),
        (".own_envs:MyEnv", {}, "must be module:object"),
        ("divides:X", {}, "cannot be imported: ZeroDivisionError: division by zero"),
        ("unfinished:X", {}, "cannot be imported: SyntaxError"),
        ("leaves:X", {}, "cannot be imported: SystemExit: 3"),
        ("lacks:X", {}, "No module named 'nowhere_at_all'"),
        ("nowhere_at_all_tasks:X", {}, "No module named 'nowhere_at_all'"),
        ("own_envs:number", {}, "int has no reset_env"),
        ("own_envs:nothing", {}, "NoneType has no reset_env"),
        ("own_envs:Needs", {}, "own_envs:Needs cannot be made: TypeError"),
        ("own_envs:MyEnv", {"size": 3}, "own_envs:MyEnv has no option 'size': known: limit, scale"),
        ("own_envs:env", {"scale": 3}, "is made already"),
        ("CartPole-v1:x", {}, "did you mean CartPole-v1"),
    ],
)
def test_a_module_or_object_that_is_no_environment(folder, name, options, words):
    with pytest.raises(ConfigError) as caught:
        make_env(name, **options)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_gymnasium_imports_a_module_of_the_current_folder_too(folder):
    text = "import gymnasium\ngymnasium.register('Own-v0', 'gymnasium.envs.toy_text:FrozenLakeEnv')"
    (folder / "registers.py").write_text(text)
    path = list(sys.path)
    env, _ = make_env("gymnasium/registers:Own-v0")
    assert env.spec.observation == Discrete(16) and sys.path == path
    gymnasium.registry.pop("Own-v0")
    sys.modules.pop("registers")


def test_the_current_folder_comes_after_what_is_installed(folder):
    (folder / "gymnasium.py").write_text("raise RuntimeError('not this one')")
    make_env("own_envs:make")


@pytest.mark.slow
def test_every_command_takes_a_module_and_object(folder, monkeypatch, capsys):
    def command(line):
        monkeypatch.setattr(sys, "argv", ["purejaxppo", *line.split()])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        assert stop.value.code == 0, err
        return out

    sizes = "--num-envs 2 --num-steps 4 --total-timesteps 16 --num-minibatches 1 --num-epochs 1"
    command("check-env own_envs:MyEnv --env-options scale=3.0 --num-steps 4")
    command(f"train own_envs:MyEnv --env-options scale=3.0 {sizes}")
    (run,) = (folder / "runs").iterdir()
    assert run.name.startswith("own_envs-MyEnv-")  # ":" is in no name of a file on Windows
    command(f"train own_envs:MyEnv --resume --run-dir {run} --env-options scale=3.0 {sizes}")
    # each episode is one step, which pays 3 or -3
    assert "own_envs:MyEnv: mean return" in command(f"eval {run} --episodes 4")
    command(f"render {run} --out film.gif")
    command(f"export {run} --out policy.npz --format npz")
    assert (folder / "film.gif").exists() and (folder / "policy.npz").exists()


@pytest.mark.parametrize(
    "line",
    [
        "train CartPole-v1:x", "train leaves:X", "check-env lacks:X", "train own_envs:number",
        pytest.param("train brax/hopper --env-options backend=x", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_told_in_one_line(folder, line, monkeypatch, capsys):
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr(sys, "argv", ["purejaxppo", *line.split()])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and len(err.splitlines()) == 1
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == before


# -- options of suites ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        pytest.param("brax/hopper", {"backend": "x"}, "with backend='x': ", marks=pytest.mark.slow),
        pytest.param("brax/hopper", {"x": 1}, "hopper has no option 'x'", marks=pytest.mark.slow),
        pytest.param(
            "navix/Navix-Empty-5x5-v0", {"x": 1}, "has no option 'x'", marks=pytest.mark.slow
        ),
        pytest.param("jumanji/Snake-v1", {"num_rows": "x"}, "num_rows='x'", marks=pytest.mark.slow),
        pytest.param("jumanji/Snake-v1", {"num_rows": -1}, "num_rows=-1", marks=pytest.mark.slow),
        ("CartPole-v1", {"x": 1}, "CartPole-v1 has no option 'x': known: "),
        ("gymnasium/FrozenLake-v1", {"map_name": "x"}, "with map_name='x': KeyError: 'x'"),
        ("gymnasium/CartPole-v1", {"x": 1}, "CartPole-v1 has no option 'x': known: "),
        ("gymnasium/CartPole-v1", {"max_steps": "x"}, "max_steps='x' must be a number"),
        ("gymnasium/CartPole-v1", {"max_steps": 0}, "max_steps=0 must be at least 1"),
        ("craftax/Craftax-Classic-Symbolic-v1", {"max_steps": "x"}, "max_steps='x' must be"),
    ],
)
def test_options_that_a_suite_does_not_take_are_named(name, options, words):
    pytest.importorskip(name.split("/")[0] if "/" in name else "gymnax")
    with pytest.raises(ConfigError) as caught:
        make_learner(CONFIG.replace(env=name, env_options=options))
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# -- parameters -----------------------------------------------------------------------------------


PARAMS = gymnax.make("CartPole-v1")[1]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (gymnax.make("Pendulum-v1")[1], "x_threshold"),
        ({"gravity": 9.8}, "env_params (dict) have another form than default_params (EnvParams)"),
        (PARAMS.replace(gravity=None), "another form than default_params"),
        (PARAMS.replace(gravity="9.8"), "env_params.gravity is a str"),
        (object(), "env_params is a object"),
    ],
    ids=["of another class", "a dictionary", "None", "a text", "an object"],
)
def test_parameters_that_are_not_those_of_the_environment(params, words):
    env, _ = make_env("CartPole-v1")
    refused(env, words, env_params=params)


def test_a_dictionary_of_parameters_that_lacks_one():
    class Named(Probe):
        def __init__(self):
            self.default_params = {"reward": 1.0, "limit": 9}

        see = lambda self, s, p: s.x[None]  # noqa: E731

        def step_env(self, key, state, action, params):
            obs = self.see(state, params)
            return obs, state, params["reward"], False, {}

        def is_truncated(self, state, params):
            return state.time >= params["limit"]

    check_env(Named(), num_steps=4)
    refused(Named(), "step_env raises KeyError: 'reward'", "form", env_params={"limit": 9})


def test_other_values_of_parameters_are_taken():
    custom = {"env": Seen(), "env_params": probes.Params(obs_scale=2.0)}
    trained(**custom)
    state = jax.jit(make_learner(CONFIG, **custom).init)(jax.random.key(0))
    np.testing.assert_array_equal(np.abs(state.obs), 2)


# -- images ---------------------------------------------------------------------------------------


def image(*shape, dtype=np.uint8):
    return Box(np.zeros(shape), np.full(shape, 255), shape, np.dtype(dtype))


@pytest.mark.parametrize(
    ("torso", "shape", "dtype"),
    [
        ("nature", (4, 84, 84), np.uint8),
        ("auto", (4, 84, 84), np.uint8),
        ("cnn", (1, 84, 84), np.uint8),
        ("nature", (1, 84, 84), np.float32),
        ("cnn", (3, 64, 64), np.uint8),
        ("impala", (3, 64, 64), np.float32),
        ("auto", (3, 96, 64), np.uint8),
    ],
)
def test_images_whose_channels_come_first(torso, shape, dtype):
    last = [*shape[1:], shape[0]]
    with pytest.raises(ConfigError) as caught:
        check_torso(torso, {"camera": image(*shape, dtype=dtype), "x": Discrete(2)})
    assert f"transpose it to {last}" in str(caught.value)
    assert "height, width, channels" in str(caught.value)


@pytest.mark.parametrize(
    ("torso", "shape"),
    [
        ("nature", (84, 84, 4)), ("cnn", (3, 64, 3)), ("impala", (64, 64, 3)), ("cnn", (10, 10, 4)),
        ("mlp", (4, 84, 84)), ("auto", (1, 84, 84)), ("auto", (5, 84, 84)),
    ],
)  # fmt: skip
def test_other_shapes_are_read_as_they_are(torso, shape):
    check_torso(torso, image(*shape))
