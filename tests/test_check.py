"""check_env: what it accepts, and what it says of environments with one fault each."""

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from support import probes
from support.probes import Dials, Endless, Params, Probe, Seen

from purejaxppo import ConfigError, HostEnvironment, check_env, make_env
from purejaxppo.envs.wrappers import FrameStack, StickyActions
from purejaxppo.spaces import Box, Discrete

STEPS = 12


def altered(base=Probe, **members):
    """A probe with some members replaced."""
    return type("Altered", (base,), members)()


def faults(env, *args, **kwargs):
    """The lines of the one exception that there may be."""
    with pytest.raises(ConfigError) as caught:
        check_env(env, *args, num_steps=STEPS, **kwargs)
    lines = str(caught.value).splitlines()
    assert all(lines)
    return lines


def said(env, *words, **kwargs):
    """Some line holds all of these words."""
    lines = faults(env, **kwargs)
    assert any(all(word in line for word in words) for line in lines), lines
    return lines


# -- what is accepted -------------------------------------------------------------------------


def test_cartpole():
    spec = check_env(make_env("CartPole-v1")[0], num_steps=60)
    assert spec.action == Discrete(2)
    assert isinstance(spec.observation, Box) and spec.observation.shape == (4,)


PROBES = ["Constant", "Later", "Match", "Aim", "Endless", "Marked"]  # the others are their like


@pytest.mark.parametrize("name", PROBES)
def test_probes(name):
    spec = check_env(getattr(probes, name)(), num_steps=STEPS)
    assert spec.observation.shape == (1,)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "many", 2**31])
def test_steps_are_a_count(steps):
    with pytest.raises(ConfigError, match=f"num_steps={steps!r} must be"):
        check_env(Seen(), num_steps=steps)


@pytest.mark.slow
def test_dials():
    spec = check_env(Dials(), num_steps=STEPS)
    assert spec.observation.action_mask.shape == (5,)
    assert spec.action.nvec == (3, 2)


def test_wrapped():
    spec = check_env(FrameStack(StickyActions(Seen()), 3), num_steps=STEPS)
    assert spec.observation.shape == (3,)


def test_other_parameters_than_the_defaults():
    assert "declare" in faults(Seen(), Params(obs_scale=11.0))[0]


def test_gymnasium():
    spec = check_env(make_env("gymnasium/CartPole-v1")[0], num_steps=60)
    assert spec.action == Discrete(2)
    assert spec.observation.shape == (4,) and spec.observation.dtype == np.float32


# -- planted faults, in JAX -------------------------------------------------------------------


class Nothing:
    pass


METHODS = ["reset_env", "step_env", "is_truncated", "observation_space", "action_space"]


@pytest.mark.parametrize("name", METHODS)
def test_a_missing_method(name):
    (line,) = faults(altered(**{name: None}))
    assert line.startswith(f"Altered has no {name}: define it as gymnax's 1.x environments do")


def test_everything_that_is_missing_is_named():
    (line,) = faults(Nothing(), Params())
    names = f"{', '.join(METHODS)} or default_params"
    assert line.startswith(f"Nothing has no {names}: define them") and "() for none" in line


def test_observations_of_another_dtype_or_shape():
    lines = faults(altered(see=lambda self, s, p: s.x[None].astype(jnp.int32)))
    assert "reset_env" in lines[0] and "int32[1]" in lines[0] and "float32[1]" in lines[0]
    lines = faults(altered(see=lambda self, s, p: jnp.zeros((2, 1))))
    assert "float32[2, 1]" in lines[0] and "its space says" in lines[0]
    lines = faults(altered(see=lambda self, s, p: {"x": s.x[None]}))
    assert "observation['x'] is not in the space" in lines[0]

    def step_env(self, key, state, action, params):
        _, *rest = Probe.step_env(self, key, state, action, params)
        return jnp.zeros(3), *rest

    (line,) = faults(altered(step_env=step_env))
    assert line.startswith("step_env returns an observation float32[3]")


def seen(see):
    return altered(Endless, see=lambda self, s, p: see(s.x, s.time)[None])


def test_observations_out_of_bounds():
    said(seen(lambda x, t: x + 10), "reset_env", "11.0 .. 11.0", "declare the space", "-10.0 .. 10")
    lines = said(seen(lambda x, t: x + 2.0 * t), "step_env", "25.0", "declare the space")
    assert not any("reset_env" in line for line in lines)


@pytest.mark.parametrize(
    ("low", "high", "shown", "fault"),
    [
        (0, 1e9, -5000, True),  # the slack of a bound is its own
        (-1, 1e30, -1e20, True),
        (-6283.1855, 0, -6283.186, False),  # a digit of float32 beyond
        (0, 6283.1855, 6283.186, False),
        (-np.inf, 1, -1e30, False),
    ],
)
def test_bounds_far_from_each_other(low, high, shown, fault):
    env = altered(
        see=lambda self, s, p: jnp.full((1,), shown, jnp.float32),
        observation_space=lambda self, p: gymnasium.spaces.Box(low, high, (1,), np.float32),
    )
    if fault:
        assert any("declare the space" in line for line in faults(env))
    else:
        check_env(env, num_steps=STEPS)


def test_only_the_last_observation_is_out_of_bounds():
    """An auto-reset hides it from `obs`: it is in `final_obs` alone."""
    env = altered(see=lambda self, s, p: (s.x + 99.0 * s.time)[None])  # one step to an episode
    lines = faults(env)
    assert len(lines) == 1 and lines[0].startswith("step_env") and "100.0" in lines[0]


def test_names_out_of_range():
    env = altered(
        Endless,
        see=lambda self, s, p: jnp.minimum(s.time, 3),
        observation_space=lambda self, p: gymnasium.spaces.Discrete(3),
    )
    said(env, "step_env", ".. 3", "Discrete(n=3)")


def test_one_part_of_several():
    parts = {"a": box(9), "b": box(20)}
    see = lambda self, s, p: {"a": s.x[None] + 10, "b": s.x[None] + 10}  # noqa: E731
    lines = said(
        altered(see=see, observation_space=lambda self, p: parts), "observation['a']", "11"
    )
    assert all("observation['a']" in line for line in lines)


def box(bound):
    return gymnasium.spaces.Box(-bound, bound, (1,), np.float32)


def test_no_fault_is_told_twice():
    lines = faults(altered(see=lambda self, s, p: s.x[None] + 10))
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_observations_that_are_no_numbers(bad):
    lines = said(seen(lambda x, t: jnp.where(t == 3, bad, x)), "step_env", "NaN or infinite")
    assert not any("reset_env" in line for line in lines)


def test_a_wider_space_is_no_help_against_nan():
    lines = faults(seen(lambda x, t: x + jnp.nan))
    assert not any("wider" in line for line in lines)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rewards_that_are_no_numbers(bad):
    (line,) = faults(altered(pay=lambda self, x, action: jnp.where(action == 1, bad, 1.0)))
    assert line.startswith("reward") and "finite" in line


def test_rewards_and_flags_that_are_no_scalars():
    (line,) = faults(altered(pay=lambda self, x, action: jnp.ones(1)))
    assert "reward is float32[1]" in line and "scalar" in line and "x[0]" in line
    (line,) = faults(altered(move=lambda self, x, action, time: (x, jnp.zeros(2, bool))))
    assert "terminated is bool[2]" in line and "scalar" in line
    (line,) = faults(altered(is_truncated=lambda self, s, p: jnp.zeros(1, bool)))
    assert "is_truncated is bool[1]" in line and "scalar" in line


def stateful(first, after):
    """An environment whose state is `first`, and `after` once it was stepped."""
    return altered(
        reset_env=lambda self, key, params: (jnp.zeros(1), first),
        step_env=lambda self, key, s, action, params: (jnp.zeros(1), after(s), 0.0, False, {}),
        is_truncated=lambda self, s, params: False,
    )


@pytest.mark.parametrize(
    ("first", "after"),
    [
        (jnp.zeros(2), lambda s: jnp.append(s, 0.0)),
        (jnp.zeros(2), lambda s: jnp.zeros(())),
        (jnp.zeros(2), lambda s: (s, s)),
        ({"x": jnp.zeros(2)}, lambda s: {"y": jnp.zeros(2)}),
        ({"x": jnp.zeros(2)}, lambda s: {**s, "time": jnp.int32(1)}),
        (jnp.zeros(2), lambda s: None),
    ],
)
def test_states_that_change_their_form(first, after):
    (line,) = faults(stateful(first, after))
    assert line.startswith("the state is") and "after reset_env" in line and "one form" in line


def test_states_may_begin_as_python_numbers():
    check_env(stateful({"x": 0, "y": 0.0}, lambda s: {"x": s["x"] + 1, "y": s["y"] + 0.5}))


def test_a_state_whose_flag_cannot_be_found_after_a_step():
    def step_env(self, key, state, action, params):
        obs, state, *rest = Probe.step_env(self, key, state, action, params)
        return obs, {"x": state.x, "time": state.time}, *rest

    said(altered(step_env=step_env), "the state is")


@pytest.mark.slow
def test_numpy_randomness():
    noisy = altered(move=lambda self, x, a, t: (np.random.default_rng().uniform(), jnp.bool_(True)))
    said(noisy, "draw from the key", "numpy")
    noisy = altered(first=lambda self, key: np.random.default_rng().uniform())
    said(noisy, "draw from the key", "numpy")


def test_numpy_randomness_in_arrays():
    draw = lambda: np.random.default_rng().uniform(size=1).astype(np.float32)  # noqa: E731
    env = altered(see=lambda self, s, p: s.x[None] + draw())
    said(env, "draw from the key", "numpy")


class Counting(Probe):
    """Keeps a count on the object."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def pay(self, x, action):
        self.count = self.count + 1
        return jnp.float32(1)


@pytest.mark.parametrize("start", [0, 100_000, 0.5])
def test_a_counter_on_the_object(start):
    said(Counting(start), "count", "changed while stepping", "keep it in the state")


def test_what_changed_is_named_plainly():
    lines = said(Counting(0), "count", "changed while stepping")
    assert not any("frozenset" in line or "(1" in line for line in lines)


class Traced(Counting):
    """Keeps an array of the program that was traced, which leaks."""

    def pay(self, x, action):
        self.count = x
        return x


def test_an_array_on_the_object():
    said(Traced(0), "count", "changed while stepping", "keep it in the state")


class Logging(Counting):
    def pay(self, x, action):
        self.count.append(1)
        return jnp.float32(1)


class InPlace(Counting):
    def pay(self, x, action):
        self.count[0] += 1
        return jnp.float32(1)


class OfClass(Probe):
    count = 0

    def pay(self, x, action):
        type(self).count += 1
        return jnp.float32(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FrameStack(Counting(0), 2),
        lambda: Logging([]),
        lambda: InPlace(np.zeros(1)),
        OfClass,
    ],
    ids=["within a wrapper", "a list", "an array", "on the class"],
)
def test_counters_elsewhere(make):
    said(make(), "changed while stepping")


def test_is_truncated_of_a_fresh_state():
    said(altered(is_truncated=lambda self, s, p: s.time >= 0), "is_truncated", "fresh state")


def test_spaces_that_are_not_supported():
    for which in ("observation", "action"):
        env = altered(**{f"{which}_space": lambda self, params: None})
        said(env, f"{which} space None is not supported", "Discrete")
    unbounded = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    said(altered(action_space=lambda self, params: unbounded), "action bounds", "finite")


def test_several_faults_are_told_at_once():
    env = altered(
        Endless,
        see=lambda self, s, p: s.x[None] + 10,
        pay=lambda self, x, action: jnp.nan,
        is_truncated=lambda self, s, p: s.time >= 0,
    )
    lines = faults(env)
    for words in ("declare the space", "rewards must be finite", "is_truncated is True"):
        assert any(words in line for line in lines)


# -- faults that come as exceptions -----------------------------------------------------------


def returns(name, change):
    """A probe whose method gives something else than it should."""

    def method(self, *args):
        return change(getattr(Probe, name)(self, *args))

    return altered(**{name: method})


@pytest.mark.parametrize(
    "make",
    [
        lambda: altered(pay=lambda self, x, action: 1.0 if x > 0 else 0.0),
        lambda: returns("step_env", lambda after: after[:4]),
        lambda: returns("step_env", lambda after: (*after, {})),
        lambda: returns("reset_env", lambda first: first[0]),
        lambda: altered(is_truncated=lambda self, state: False),
        lambda: altered(first=lambda self, key: np.float32(key)),
        lambda: stateful("begin", lambda s: "go on"),
    ],
    ids=[
        "a branch on an array", "four returned", "six returned", "no state returned",
        "no parameters taken", "numpy of a key", "a state of words",
    ],
)  # fmt: skip
def test_what_raises_while_it_is_traced(make):
    faults(make())


class Slots:
    """A sound environment without a dictionary of its own."""

    __slots__ = ()
    default_params = Params()
    see, first, pay, move = Probe.see, Probe.first, Probe.pay, Probe.move
    reset_env, step_env, is_truncated = Probe.reset_env, Probe.step_env, Probe.is_truncated
    observation_space, action_space = Probe.observation_space, Probe.action_space


def test_an_object_with_slots():
    check_env(Slots(), num_steps=STEPS)


# -- planted faults, on the host --------------------------------------------------------------


class Host(gymnasium.Env):
    """Five steps of two numbers, drawn as Gymnasium wishes."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.see(), {}

    def step(self, action):
        self.time += 1
        return self.see(), self.pay(), self.time >= 5, False, {}

    def see(self):
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def pay(self):
        return 1.0


def host(mode=AutoresetMode.DISABLED, **members):
    cls = type("Altered", (Host,), members)
    return HostEnvironment(lambda n: SyncVectorEnv([cls] * n, autoreset_mode=mode))


def test_a_sound_environment_on_the_host():
    spec = check_env(host(), num_steps=STEPS)
    assert spec.observation.shape == (2,) and spec.action == Discrete(2)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_another_autoreset_mode(mode):
    (line,) = faults(host(mode))
    assert "autoreset_mode" in line and mode.value in line and "AutoresetMode.DISABLED" in line


def test_an_environment_as_gymnasium_makes_it():
    env = HostEnvironment(lambda n: gymnasium.make_vec("CartPole-v1", n, "sync"))
    said(env, "autoreset_mode", "AutoresetMode.DISABLED")


@pytest.mark.parametrize(
    "members",
    [
        {"see": lambda self: np.random.default_rng().uniform(-1, 1, 2).astype(np.float32)},
        {"pay": lambda self: np.random.default_rng().uniform()},
    ],
    ids=["observations", "rewards"],
)
def test_an_environment_that_is_not_reproducible(members):
    (line,) = faults(host(**members))
    assert "two runs with equal seeds differ" in line and "seed" in line


@pytest.mark.slow
def test_values_on_the_host():
    said(host(see=lambda self: np.full(2, 2, np.float32)), "values 2.0 .. 2.0", "declare")
    env = host(see=lambda self: np.full(2, np.nan, np.float32), pay=lambda self: np.nan)
    lines = said(env, "observation", "NaN or infinite")
    assert any("rewards must be finite" in line for line in lines)


def test_spaces_on_the_host():
    said(host(observation_space=gymnasium.spaces.Text(3)), "not supported")
    said(host(action_space=gymnasium.spaces.Discrete(3, start=2**31)), "starts beyond 2**30")


def fails(self):
    raise RuntimeError("out of order")


@pytest.mark.parametrize(
    "members",
    [{"see": lambda self: np.zeros(3, np.float32)}, {"pay": fails}],
    ids=["a shape that was not declared", "a step that fails"],
)
def test_what_raises_on_the_host(members):
    faults(host(**members))


def test_an_environment_on_the_host_that_cannot_be_made():
    faults(HostEnvironment(lambda n: 1 / 0))
