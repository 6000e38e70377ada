"""Any space is read or refused in one line, at once; what is read gives settings that are right."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ranges
from support.fuzzing import examples
from support.values import EDGES, hidden, one_of
from support.values import values as odd

from purejaxppo import ConfigError, PPOConfig
from purejaxppo.envs import registry
from purejaxppo.sweeps.space import env_params_in, read_space, trial_of, with_setting

CONFIG = PPOConfig(num_envs=8, num_steps=16, num_minibatches=4, total_timesteps=10**6)


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Imported before times are taken."""
    registry.find_env(CONFIG.env)


def outcome(given):
    """The space, None where it is refused in one line. Either takes a moment."""
    begin = time.process_time()
    try:
        space = read_space(given, CONFIG)
    except ConfigError as error:
        space, text = None, str(error)
        assert text and len(text.splitlines()) == 1, text
        assert len(text) < 1500
    assert time.process_time() - begin < 3
    return space


def right(space):
    """Asserts what holds of every space that was accepted."""
    assert read_space(space.plain(), CONFIG) == space
    for dimension in space.dimensions:
        assert len({*map(repr, dimension.corners)}) == len(dimension.corners) >= 2
        for u in (0.0, 0.25, 0.5, 1 - 2**-53):
            value = dimension.at(u)
            assert value in dimension.choices or dimension.low <= value <= dimension.high
            assert dimension.choices or isinstance(value, int) == dimension.integer
    for u in (0.0, 0.3, 1 - 2**-53):
        setting = space.at([u] * len(space.dimensions))
        trial = trial_of(0, setting, CONFIG)
        assert trial.setting.keys() <= setting.keys()
        assert env_params_in(setting).keys() == {
            name[len("env_params.") :] for name in setting if name.startswith("env_params.")
        }
        if trial.why is None:
            assert with_setting(CONFIG, setting) == with_setting(CONFIG, trial.setting)
            assert trial.config == with_setting(CONFIG, setting)
        else:
            assert trial.config == CONFIG and len(trial.why.splitlines()) == 1


@examples(60, 3000)
@given(texts=st.lists(ranges.varied(), min_size=1, max_size=3))
def test_any_texts_are_a_space_or_one_line(texts):
    space = outcome(texts)
    if space is not None:
        right(space)


RIGHT = {
    "gamma": ["0.9..0.99", [0.5, 0.9], "0.9..0.99:4"],
    "learning_rate": ["log:1e-4..1e-2", "1e-4,1e-3"],
    "num_envs": ["log:4..64", [8, 16], "8,16,32"],
    "num_steps": ["16..128", [16, 24]],
    "core": [["none", "gru"], "gru,lstm"],
    "core_size": ["8,16", "int:8..16"],
    "objective": [["clip", "kl_penalty"]],
    "clip_eps": ["0.1..0.3"],
    "max_grad_norm": [["none", 0.5], [None, 1]],
    "hidden_sizes": ["64x64,8", [[8], [8, 8]]],
    "layer_norm": [[True, False], "true,false"],
    "env_params.gravity": ["5..15"],
    "env_params": [{"gravity": "5..15", "tau": [0.01, 0.02]}],
}


@examples(60, 1500)
@given(
    names=st.sets(st.sampled_from([*RIGHT]), min_size=1, max_size=5),
    pick=st.integers(0, 2),
    strange=st.none() | hidden(odd() | one_of(EDGES) | st.lists(one_of(EDGES), max_size=3)),
)
def test_any_mapping_is_a_space_or_one_line(names, pick, strange):
    given = {name: RIGHT[name][pick % len(RIGHT[name])] for name in sorted(names)}
    if strange is not None:
        given[sorted(names)[0]] = strange.value
    space = outcome(given)
    if space is not None:
        right(space)
    elif strange is None:  # two names for one thing, or nothing that core_size has an effect on
        assert {"env_params", "env_params.gravity"} <= names or {"core_size"} <= names
