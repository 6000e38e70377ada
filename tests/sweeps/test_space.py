"""What is varied: read as it is written, refused in one line, and turned into configurations."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import ConfigError, PPOConfig
from purejaxppo.run_folder.env_params import changed_numbers, numbers_in, with_numbers
from purejaxppo.sweeps.space import (
    Dimension,
    env_params_in,
    read_space,
    trial_of,
    with_setting,
)

CONFIG = PPOConfig(num_envs=8, num_steps=16, num_minibatches=4, total_timesteps=1024)


def read(*texts, config=CONFIG, **given):
    """The dimensions of a space by name."""
    return {d.name: d for d in read_space(given or texts, config).dimensions}


# -- ranges and choices ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gamma=0.97..0.999", Dimension("gamma", 0.97, 0.999)),
        ("learning_rate=log:1e-4..1e-2", Dimension("learning_rate", 1e-4, 1e-2, log=True)),
        ("num_steps=16..256", Dimension("num_steps", 16, 256, integer=True)),
        ("num_steps=log:16..1e2", Dimension("num_steps", 16, 100, log=True, integer=True)),
        ("huber_delta=int:1..5", Dimension("huber_delta", 1, 5, integer=True)),
        ("num_envs=8,16, 32", Dimension("num_envs", choices=(8, 16, 32))),
        ("layer_norm=true,False", Dimension("layer_norm", choices=(True, False))),
        ("activation=tanh,relu", Dimension("activation", choices=("tanh", "relu"))),
        ("hidden_sizes=64x64,128", Dimension("hidden_sizes", choices=((64, 64), (128,)))),
        ("max_grad_norm=none,0.5", Dimension("max_grad_norm", choices=(None, 0.5))),
        ("chunk_size=none,4", Dimension("chunk_size", choices=(None, 4))),
        ("gamma=0.9..0.99:2", Dimension("gamma", 0.9, 0.99, choices=(0.9, 0.99))),
        (
            "learning_rate=log:1..100:3",
            Dimension("learning_rate", 1.0, 100.0, log=True, choices=(1.0, 10.0, 100.0)),
        ),
        ("num_steps=16..18:3", Dimension("num_steps", 16, 18, False, True, (16, 17, 18))),
        ("env_options.max_steps=100,200", Dimension("env_options.max_steps", choices=(100, 200))),
        ("env_options.gravity=5..15", Dimension("env_options.gravity", 5, 15, integer=True)),
        ("env_options.gravity=5..9.5", Dimension("env_options.gravity", 5.0, 9.5)),
        ("env_params.gravity=5..15", Dimension("env_params.gravity", 5.0, 15.0)),
        (
            "env_params.max_steps_in_episode=log:5..50",
            Dimension("env_params.max_steps_in_episode", 5, 50, log=True, integer=True),
        ),
    ],
)
def test_texts_say_what_is_varied(text, expected):
    config = CONFIG.replace(value_loss="huber") if text.startswith("huber") else CONFIG
    (dimension,) = read(text, config=config).values()
    assert dimension == expected
    assert [type(x) for x in dimension.corners] == [type(x) for x in expected.corners]
    # and what is written down of it is read back, in texts and lists
    assert read_space({dimension.name: dimension.plain()}, config).dimensions == (dimension,)


def test_mappings_have_lists_for_choices_and_mappings_for_what_is_inside():
    space = read_space(
        {
            "learning_rate": "log:1e-4..1e-2",
            "hidden_sizes": [[8, 8], (16,)],
            "max_grad_norm": ["none", 1],
            "num_envs": np.array([8, 16]),
            "env_options": {"max_steps": [5, 10]},
            "env_params": {"gravity": "5..15"},
        },
        CONFIG,
    )
    assert space.names == [
        "learning_rate", "hidden_sizes", "max_grad_norm", "num_envs", "env_options.max_steps",
        "env_params.gravity",
    ]  # fmt: skip
    assert space.dimensions[1].choices == ((8, 8), (16,))
    assert space.dimensions[2].choices == (None, 1.0)
    assert read_space(space, CONFIG) == space == read_space(space.plain(), CONFIG)


def test_a_parameter_inside_of_others_has_a_name_with_dots():
    params = {"door": {"width": 1.5, "open": True}, "walls": np.ones(3), "count": np.int32(2)}
    assert numbers_in(params) == {"count": 2, "door.width": 1.5}
    space = read_space({"env_params.door.width": "1..2"}, CONFIG, params)
    assert env_params_in(space.at([0.5])) == {"door.width": 1.5}


def test_traced_is_what_one_program_serves_all_values_of():
    found = read(
        "learning_rate=log:1e-4..1e-2", "max_grad_norm=none,0.5", "num_envs=8,16",
        "env_params.gravity=5..15", "env_options.length=0.4..0.6",
    )  # fmt: skip
    assert {name: d.traced for name, d in found.items()} == {
        "learning_rate": True, "max_grad_norm": False, "num_envs": False,
        "env_params.gravity": True, "env_options.length": False,
    }  # fmt: skip
    assert read("max_grad_norm=0.1,0.5")["max_grad_norm"].traced


REFUSED = {
    "lr=1e-4..1e-2": "did you mean learning_rate?",
    "LR=1e-4..1e-2": "did you mean learning_rate?",
    "learning_rat=1e-4..1e-2": "did you mean learning_rate",
    "seed=1,2": "use the option seed",
    "env=CartPole-v1,Acrobot-v1": "use a sweep for each",
    "env_options=a,b": "use env_options.max_steps=100,200",
    "info_metrics=a,b": "changes nothing that is learned",
    "actor_observation=a,b": "lists of names: use a sweep for each",
    "critic_observation=a,b": "lists of names: use a sweep for each",
    "learning_rate": "must be NAME=VALUES",
    "": "must be NAME=VALUES",
    "learning_rate=1e-3": "learning_rate=0.001 is one value",
    "learning_rate=1e-3..1e-3": "is one value",
    "learning_rate=1e-2..1e-3": "lower end first: use 0.001..0.01",
    "learning_rate=log:0..1": "above 0 on a log scale",
    "learning_rate=0..1": "must be greater than 0",
    "learning_rate=nan..1": "must be finite",
    "learning_rate=1..1e400": "must be finite",
    "learning_rate=1e-50..1": "float32",
    "learning_rate=..": "must have numbers as ends",
    "learning_rate=log:1e-3": "must have numbers as ends",
    "learning_rate=1..2:1": "from 2 to 99999",
    "learning_rate=1..2:1e9": "from 2 to 99999",
    "gamma=0.9..1.1": "gamma=1.1 must be between 0 and 1",
    "num_envs=8..9.5": "must have whole numbers as ends",
    "num_envs=8..9:3": "whole numbers are 2 there): use int:8..9:2",
    "num_envs=8,16,8": "num_envs has 8 twice",
    "num_envs=8,x": "must be a number",
    "num_envs=8,": "must be a number",
    "num_envs=8,0": "must be at least 1",
    "num_minibatches=4,5": "num_minibatches=5 works in no combination: num_minibatches=5 must",
    "objective=clip,clup": "did you mean clip?",
    "layer_norm=true,maybe": "use True or False",
    "layer_norm=0..1": "must be choices: use true,false",
    "hidden_sizes=64..128": "use 64x64,128x128",
    "hidden_sizes=64x,8": "must be of type",
    "core_size=8,16": "use it with core='gru'",
    "n_step=3..5": "use it with advantage='n_step'",
    "env_options.nonsense=1,2": "no option 'nonsense'",
    "env_options.max_steps=5,0": "max_steps=0 must be at least 1",
    "env_params.gravit=1..2": "did you mean gravity?",
    "env_params.gravity=a..b": "must have numbers as ends",
    "env_params.=1,2": "cannot be varied",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_varied_is_refused_in_one_line(text):
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert REFUSED[text] in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), "nothing is varied"),
        ({}, "nothing is varied"),
        ("gamma=0.9..0.99", "must be values by name"),
        (3, "must be values by name"),
        ([3], "must be NAME=VALUES"),
        ({"num_envs": 8}, "must be several values: use 8..64 or 8,16,32"),
        ({"num_envs": []}, "must be several values"),
        ({"num_envs": [8]}, "is one value"),
        ({3: [1, 2]}, "'3' cannot be varied"),
        ({"gamma": [0.9, None]}, "gamma=None must be a number"),
        ({"env_options.x": [1, object()]}, "must be a value that Python writes and reads"),
        (["gamma=0.9..0.99", "gamma=0.5..0.9"], "gamma is varied twice"),
        (["env_params.gravity=5..15", "env_options.gravity=5..15"], "gravity is in env_options"),
        ({"gamma": {"min": 0.9, "max": 0.99}}, "'gamma.min' cannot be varied"),
    ],
)
def test_what_is_no_space_is_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        read_space(given, CONFIG)


# -- places in the unit interval ------------------------------------------------------------------


def test_values_are_uniform_on_the_scale():
    linear, log = Dimension("gamma", 0.5, 0.9), Dimension("learning_rate", 1e-4, 1e-2, log=True)
    assert [linear.at(u) for u in (0, 0.25)] == [0.5, 0.6]
    np.testing.assert_allclose([log.at(u) for u in (0, 0.5, 0.75)], [1e-4, 1e-3, 10**-2.5])
    choices = Dimension("num_envs", choices=(8, 16, 32, 64))
    assert [choices.at(u) for u in (0, 0.2499, 0.25, 0.999999)] == [8, 8, 16, 64]


def test_each_whole_number_has_its_share():
    """Equal shares on the linear scale; log(1 + 1/k) on the logarithmic one."""
    below_one = np.nextafter(1, 0)
    linear = Dimension("num_steps", 3, 6, integer=True)
    assert [linear.at(u) for u in (0, 0.2499, 0.25, 0.5, 0.75, below_one)] == [3, 3, 4, 5, 6, 6]
    log = Dimension("num_steps", 1, 7, log=True, integer=True)  # 1 .. 8 is three doublings
    ends = [math.log2(k) / 3 for k in range(1, 8)]
    assert [log.at(u + 1e-9) for u in ends] == [1, 2, 3, 4, 5, 6, 7]
    assert [log.at(u - 1e-9) for u in ends[1:]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("log", [False, True])
def test_unit_takes_values_back(log, integer):
    dimension = Dimension("x", 2, 40, log, integer)
    for value in range(2, 41):
        assert dimension.at(min(dimension.unit(value), 1 - 1e-12)) == pytest.approx(value)
    choices = Dimension("x", choices=(None, 0.5, (3,)))
    assert [choices.at(choices.unit(x)) for x in choices.choices] == [None, 0.5, (3,)]


# -- settings -------------------------------------------------------------------------------------


def test_a_setting_goes_over_the_configuration():
    config = CONFIG.replace(env_options={"max_steps": 50, "gravity": 5.0})
    setting = {"num_envs": 4, "env_options.max_steps": 7, "env_params.gravity": 3.0}
    made = with_setting(config, setting)
    assert made == config.replace(num_envs=4, env_options={"max_steps": 7, "gravity": 5.0})
    assert env_params_in(setting) == {"gravity": 3.0}


def test_what_has_no_effect_in_a_combination_is_left_out():
    """Of the setting and, if the configuration itself has it, of the trial's configuration."""
    config = CONFIG.replace(gae_lambda=0.9, entropy_coef=0.01, entropy_coef_final_scale=0.5)
    setting = {"advantage": "n_step", "n_step": 3, "entropy_coef": 0.0, "core_size": 8}
    trial = trial_of(7, setting, config)
    assert trial.number == 7 and trial.why is None
    assert trial.setting == {"advantage": "n_step", "n_step": 3, "entropy_coef": 0.0}
    changes = {**trial.setting, "gae_lambda": 0.95, "entropy_coef_final_scale": 1.0}
    assert trial.config == config.replace(**changes)


def test_what_gives_another_its_effect_may_have_none_itself():
    setting = {"value_coef": 0.0, "value_loss": "clipped", "value_clip_eps": 0.3}
    assert trial_of(0, setting, CONFIG).setting == {"value_coef": 0.0}


def test_a_combination_that_is_refused_is_a_trial_that_has_failed():
    trial = trial_of(3, {"num_envs": 3, "num_steps": 3}, CONFIG)
    assert trial[:3] == (3, {"num_envs": 3, "num_steps": 3}, CONFIG)
    assert "num_minibatches=4 must divide num_envs * num_steps = 3 * 3 = 9" in str(trial.why)


def test_a_dimension_needs_an_effect_in_some_combination():
    space = read_space(["core=none,gru", "core_size=8,16", "sequence_length=none,4"], CONFIG)
    assert space.names == ["core", "core_size", "sequence_length"]


def test_sizes_need_to_divide_in_some_combination():
    # of 7 or 8 environments and 1 or 2 steps, 4 minibatches have only 8 environments
    config = CONFIG.replace(num_steps=1)
    assert read("num_envs=8,12", "num_steps=1,2", config=config)
    with pytest.raises(ConfigError, match="num_envs=7 works in no combination: num_minibatches=4"):
        read("num_envs=7,8", "num_steps=1,2", config=config)
    with pytest.raises(ConfigError, match="no combination of num_envs works: num_minibatches=4"):
        read("num_envs=7,9", config=config)
    # ends that do not divide leave what is between them
    assert read("num_steps=17..127", config=CONFIG.replace(num_envs=4, num_minibatches=16))


@pytest.mark.slow
def test_many_dimensions_are_checked_in_a_moment():
    """Of half a million combinations a thousand are looked at, and no choice is blamed for it."""
    config = CONFIG.replace(value_loss="huber", entropy_coef=0.01)
    names = [
        "learning_rate", "learning_rate_final_scale", "gamma", "gae_lambda", "clip_eps",
        "clip_eps_final_scale", "value_coef", "huber_delta", "entropy_coef",
        "entropy_coef_final_scale", "adam_eps", "max_grad_norm",
    ]  # fmt: skip
    assert read_space(dict.fromkeys(names, "0.1,0.2,0.3"), config).names == names
    assert read_space(["learning_rate=1..2:5000", "gamma=0.1,0.2"], config)


def test_every_number_has_a_name_of_its_own():
    params = {"a": {"b": 1.0}, "c": [2.0, 3]}
    assert numbers_in(params) == {"a.b": 1.0, "c.0": 2.0, "c.1": 3}
    changed = with_numbers({"a.b": 5, "c.1": 7}, params)
    assert changed_numbers(changed, params) == {"a.b": 5.0, "c.1": 7}
    assert changed == {"a": {"b": 5.0}, "c": [2.0, 7]}
    arrays = with_numbers({"x": 2}, {"x": jnp.float32(1), "y": jnp.ones(3)})
    assert (arrays["x"], arrays["x"].dtype) == (2, jnp.float32)
    with pytest.raises(ConfigError, match="which is no number there: did you mean"):
        with_numbers({"a.c": 1}, params)
    with pytest.raises(ConfigError, match="must be a whole number"):
        with_numbers({"c.1": 1.5}, params)
