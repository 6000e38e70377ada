"""PPOConfig: every rule, its message and the value that it offers; the ways in and out."""

import copy
import dataclasses
import pickle
import subprocess
import sys
import time
import tomllib
import typing
from fractions import Fraction
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import ConfigError, Hyperparams, PPOConfig
from purejaxppo.config import presets
from purejaxppo.config.schema import as_config
from purejaxppo.envs import registry

FIELDS = [f.name for f in dataclasses.fields(PPOConfig)]
SCALARS = [name for name in Hyperparams._fields if name != "extra"]


def message_of(changes):
    """The one line with which a configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        PPOConfig(**changes)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


# -- rules ------------------------------------------------------------------------------------

# (what is wrong, the whole message, the change that the message offers)
RULES = [
    (dict(total_timesteps=0), "total_timesteps=0 must be at least 1: use {}", ["total_timesteps"]),
    (dict(num_envs=0), "num_envs=0 must be at least 1: use {}", ["num_envs"]),
    (dict(num_envs=-4), "num_envs=-4 must be at least 1: use {}", ["num_envs"]),
    (dict(num_steps=0), "num_steps=0 must be at least 1: use {}", ["num_steps"]),
    (dict(num_epochs=0), "num_epochs=0 must be at least 1: use {}", ["num_epochs"]),
    (dict(num_minibatches=0), "num_minibatches=0 must be at least 1: use {}", ["num_minibatches"]),
    (dict(advantage="n_step", n_step=0), "n_step=0 must be at least 1: use {}", ["n_step"]),
    (dict(learning_rate=0), "learning_rate=0.0 must be greater than 0: use {}", ["learning_rate"]),
    (dict(adam_eps=-1), "adam_eps=-1.0 must be greater than 0: use {}", ["adam_eps"]),
    (dict(max_grad_norm=0), "max_grad_norm=0.0 must be greater than 0: use {}", ["max_grad_norm"]),
    (dict(clip_eps=0), "clip_eps=0.0 must be greater than 0: use {}", ["clip_eps"]),
    (
        dict(objective="adaptive_kl", adaptive_kl_target=0),
        "adaptive_kl_target=0.0 must be greater than 0: use {}",
        ["adaptive_kl_target"],
    ),
    (dict(target_kl=0), "target_kl=0.0 must be greater than 0: use {}", ["target_kl"]),
    (
        dict(value_loss="clipped", value_clip_eps=-0.5),
        "value_clip_eps=-0.5 must be greater than 0: use {}",
        ["value_clip_eps"],
    ),
    (
        dict(value_loss="huber", huber_delta=0),
        "huber_delta=0.0 must be greater than 0: use {}",
        ["huber_delta"],
    ),
    (
        dict(value_loss="categorical", value_bins=1),
        "value_bins=1 must be 2 to 10,000: use {}",
        ["value_bins"],
    ),
    (
        dict(value_loss="categorical", value_sigma=0),
        "value_sigma=0.0 must be 0.01 to 10: use {}",
        ["value_sigma"],
    ),
    (
        dict(value_loss="categorical", value_max=1e31),
        "value_max=1e+31 must be between -1e30 and 1e30: use {}",
        ["value_max"],
    ),
    (
        dict(value_loss="categorical", value_min=3, value_max=3),
        "value_min=3.0 must be less than value_max=3.0: use {}",
        ["value_min"],
    ),
    (
        dict(value_loss="categorical", value_min=1e4, value_max=10_001),
        "value_min=10000.0 must be less than value_max=10001.0 by more than float32 rounds: use {}",
        ["value_min"],
    ),
    (
        dict(objective="kl_penalty", kl_coef=-1),
        "kl_coef=-1.0 must be 0 or greater: use {}",
        ["kl_coef"],
    ),
    (dict(value_coef=-1), "value_coef=-1.0 must be 0 or greater: use {}", ["value_coef"]),
    (dict(entropy_coef=-0.5), "entropy_coef=-0.5 must be 0 or greater: use {}", ["entropy_coef"]),
    (dict(gamma=1.01), "gamma=1.01 must be between 0 and 1: use {}", ["gamma"]),
    (dict(gamma=-0.5), "gamma=-0.5 must be between 0 and 1: use {}", ["gamma"]),
    (dict(gae_lambda=2), "gae_lambda=2.0 must be between 0 and 1: use {}", ["gae_lambda"]),
    (
        dict(learning_rate_final_scale=1.5),
        "learning_rate_final_scale=1.5 must be between 0 and 1: use {}",
        ["learning_rate_final_scale"],
    ),
    (
        dict(clip_eps_final_scale=-1),
        "clip_eps_final_scale=-1.0 must be between 0 and 1: use {}",
        ["clip_eps_final_scale"],
    ),
    (
        dict(entropy_coef=0.1, entropy_coef_final_scale=3),
        "entropy_coef_final_scale=3.0 must be between 0 and 1: use {}",
        ["entropy_coef_final_scale"],
    ),
    (
        dict(hidden_sizes=()),
        "hidden_sizes=() must be one or more positive widths: use {}",
        ["hidden_sizes"],
    ),
    (
        dict(hidden_sizes=[64, 0]),
        "hidden_sizes=(64, 0) must be one or more positive widths: use {}",
        ["hidden_sizes"],
    ),
    (
        dict(num_envs=2, num_steps=12, total_timesteps=24, num_minibatches=5),
        "num_minibatches=5 must divide num_envs * num_steps = 2 * 12 = 24: use {}",
        ["num_minibatches"],
    ),
    (
        dict(num_envs=2, num_steps=12, total_timesteps=24, num_minibatches=2, chunk_size=5),
        "chunk_size=5 must divide the minibatch of 12: use {}",
        ["chunk_size"],
    ),
    (dict(chunk_size=0), "chunk_size=0 must be at least 1: use {}", ["chunk_size"]),
    (
        dict(num_envs=2, num_steps=12, total_timesteps=24, num_minibatches=100),
        "num_minibatches=100 must divide num_envs * num_steps = 2 * 12 = 24: use {}",
        ["num_minibatches"],
    ),
    (
        dict(total_timesteps=999),
        "total_timesteps=999 must hold one update of num_envs * num_steps = 8 * 125 = 1000: use {}",
        ["total_timesteps"],
    ),
    (
        dict(total_timesteps=10),
        "total_timesteps=10 must hold one update of num_envs * num_steps = 8 * 125 = 1000: use {}",
        ["total_timesteps"],
    ),
    (
        dict(num_minibatches=1000),
        "advantage_normalization='minibatch' makes every advantage 0 with",
        ["advantage_normalization"],
    ),
    (
        dict(advantage="n_step", n_step=200),
        "n_step=200 must not exceed num_steps=125: use {}",
        ["n_step"],
    ),
    (dict(core_size=0, core="gru"), "core_size=0 must be at least 1: use {}", ["core_size"]),
    (
        dict(core="gru", sequence_length=0),
        "sequence_length=0 must be at least 1: use {}",
        ["sequence_length"],
    ),
    (
        dict(core="gru", sequence_length=30),
        "sequence_length=30 must divide num_steps=125: use {}",
        ["sequence_length"],
    ),
    (
        dict(core="lstm", num_minibatches=5),
        "num_minibatches=5 must divide the num_envs * num_steps "
        "/ sequence_length = 8 sequences of a rollout: use {}",
        ["num_minibatches"],
    ),
    (
        dict(core="linear", chunk_size=25),
        "chunk_size=25 must be a multiple of sequence_length=125: use {}",
        ["chunk_size"],
    ),
]


def offered(text, start):
    """The values after "use": "2000 or 3000" gives both."""
    said, _, words = text.rpartition(": use ")
    assert said.startswith(start)
    found = []
    for word in words.split(" or "):
        try:
            found.append(eval(word, {"__builtins__": {}}))
        except NameError:  # a bare word
            found.append(word)
    return found


@pytest.mark.parametrize(("wrong", "message", "names"), RULES, ids=lambda x: str(x)[:40])
def test_a_broken_rule_is_named_and_each_offered_value_works(wrong, message, names):
    for value in offered(message_of(wrong), message.removesuffix(": use {}")):
        repaired = PPOConfig(**{**wrong, **dict.fromkeys(names, value)})
        assert getattr(repaired, names[0]) == value


def test_offered_minibatches_are_the_nearest_divisor():
    sizes = dict(num_envs=2, num_steps=12, total_timesteps=24)
    assert message_of(dict(num_minibatches=5, **sizes)).endswith("use 4")
    assert message_of(dict(num_minibatches=7, **sizes)).endswith("use 6")


def test_an_offered_number_of_minibatches_leaves_more_than_one_row_in_each():
    # 8 divides 8, but minibatches of one row are refused under the default normalisation
    wrong = dict(num_envs=8, num_steps=1, total_timesteps=8, num_minibatches=9)
    (value,) = offered(message_of(wrong), "num_minibatches=9 must divide")
    assert PPOConfig(**{**wrong, "num_minibatches": value}).minibatch_size > 1


def test_a_batch_of_one_cannot_be_normalised_either():
    one = dict(num_envs=1, num_steps=1, num_minibatches=1, total_timesteps=1)
    assert "advantage_normalization='minibatch'" in message_of(one)
    # the batch is one row too: (A - mean) / std would be 0 for every advantage
    assert "advantage_normalization='batch'" in message_of(
        dict(advantage_normalization="batch", **one)
    )
    assert PPOConfig(advantage_normalization="none", **one).batch_size == 1


def test_large_sizes_are_refused_at_once():
    begin = time.perf_counter()
    text = message_of(dict(num_envs=2**16, num_steps=2**10, num_minibatches=3,
                           total_timesteps=2**26))  # fmt: skip
    assert "num_minibatches=3" in text
    assert time.perf_counter() - begin < 0.5


# field: (nonsense near a choice, the choice it must name)
TYPOS = {
    "advantage": ("geae", "gae"),
    "advantage_normalization": ("minibatches", "minibatch"),
    "objective": ("kl_penalti", "kl_penalty"),
    "value_loss": ("clip", "clipped"),
    "torso": ("MLP", "mlp"),
    "core": ("nonee", "none"),
    "exploration": ("rdn", "rnd"),
    "activation": ("Tanh", "tanh"),
    "compute_dtype": ("bfloat", "bfloat16"),
    "matmul_precision": ("hihgest", "highest"),
    "optimizer": ("adem", "adam"),
    "learning_rate_schedule": ("linaer", "linear"),
    "adapt_learning_rate": ("minibatches", "minibatch"),
    "clip_eps_schedule": ("linaer", "linear"),
    "entropy_coef_schedule": ("linaer", "linear"),
}


def test_typos_cover_every_choice():
    declared = typing.get_type_hints(PPOConfig)
    literal = {n for n in FIELDS if typing.get_origin(declared[n]) is typing.Literal}
    assert literal <= set(TYPOS)


@pytest.mark.parametrize("name", TYPOS)
def test_an_unknown_choice_names_the_nearest(name):
    typo, right = TYPOS[name]
    text = message_of({name: typo})
    assert text.startswith(f"{name}={typo!r} is not a choice: did you mean ")
    assert right in text.split("did you mean ")[1].removesuffix("?").split(" or ")
    assert getattr(PPOConfig(**{name: right}), name) == right


def test_a_choice_unlike_any_lists_them_all():
    text = message_of(dict(objective="zzzz"))
    for choice in ("clip", "kl_penalty", "adaptive_kl", "unclipped", "policy_gradient"):
        assert choice in text


# -- options without effect -------------------------------------------------------------------

WITH_RATIOS = dict(advantage="vtrace", recompute_advantages=True)

# field: (a value that is not the default, where it does nothing, where it works)
NO_EFFECT = [
    ("gae_lambda", 0.5, dict(advantage="n_step"), {}),
    ("gae_lambda", 0.5, dict(advantage="monte_carlo"), {}),
    ("gae_lambda", 0.5, dict(advantage="td"), {}),
    ("gae_lambda", 0.5, dict(advantage="none"), {}),
    ("n_step", 3, {}, dict(advantage="n_step")),
    ("exploration_coef", 0.1, {}, dict(exploration="rnd")),
    ("exploration_gamma", 0.9, {}, dict(exploration="rnd")),
    ("exploration_size", 8, {}, dict(exploration="rnd")),
    ("n_step", 3, dict(advantage="td"), dict(advantage="n_step")),
    ("advantage", "vtrace", {}, dict(recompute_advantages=True)),
    *(
        (name, 2.0, dict(recompute_advantages=True), WITH_RATIOS)
        for name in ("vtrace_rho", "vtrace_c")
    ),
    ("recompute_advantages", True, dict(num_epochs=1), dict(num_epochs=2)),
    ("clip_eps", 0.1, dict(objective="kl_penalty"), {}),
    ("clip_eps", 0.1, dict(objective="adaptive_kl"), {}),
    ("clip_eps", 0.1, dict(objective="unclipped"), {}),
    ("clip_eps", 0.1, dict(objective="policy_gradient"), {}),
    ("clip_eps_final_scale", 0.0, dict(objective="unclipped"), {}),
    ("kl_coef", 2.0, {}, dict(objective="kl_penalty")),
    ("kl_coef", 2.0, dict(objective="unclipped"), dict(objective="adaptive_kl")),
    ("adaptive_kl_target", 0.1, {}, dict(objective="adaptive_kl")),
    (
        "adaptive_kl_target",
        0.1,
        dict(objective="adaptive_kl", num_epochs=1, num_minibatches=1),
        dict(objective="adaptive_kl", num_epochs=1),
    ),
    ("adaptive_kl_target", 0.1, dict(objective="kl_penalty"), dict(objective="adaptive_kl")),
    ("target_kl", 0.1, dict(num_epochs=1, num_minibatches=1), dict(num_minibatches=1)),
    ("target_kl", 0.1, dict(num_epochs=1, num_minibatches=1), dict(num_epochs=1)),
    ("value_loss", "huber", dict(value_coef=0), dict(value_coef=0.1)),
    ("value_loss", "clipped", dict(value_coef=0), dict(value_coef=0.1)),
    ("value_clip_eps", 0.5, {}, dict(value_loss="clipped")),
    ("value_clip_eps", 0.5, dict(value_loss="huber"), dict(value_loss="clipped")),
    ("core_size", 32, {}, dict(core="gru")),
    ("huber_delta", 0.5, {}, dict(value_loss="huber")),
    ("huber_delta", 0.5, dict(value_loss="clipped"), dict(value_loss="huber")),
    ("entropy_coef_final_scale", 0.0, {}, dict(entropy_coef=0.01)),
    ("value_bins", 51, {}, dict(value_loss="categorical")),
    ("value_min", -10.0, dict(value_loss="huber"), dict(value_loss="categorical")),
    ("value_max", 10.0, {}, dict(value_loss="categorical")),
    ("value_symlog", False, {}, dict(value_loss="categorical")),
    ("value_sigma", 1.0, {}, dict(value_loss="categorical")),
    ("normalize_values", True, dict(value_coef=0), dict(value_coef=0.1)),
    ("normalize_values", True, dict(value_loss="categorical"), dict(value_loss="huber")),
]


@pytest.mark.parametrize(("name", "value", "idle", "active"), NO_EFFECT)
def test_an_option_without_effect_is_refused_where_it_has_none(name, value, idle, active):
    text = message_of({name: value, **idle})
    assert text.startswith(f"{name}={value!r} has no effect here: use it with ")
    default = next(f.default for f in dataclasses.fields(PPOConfig) if f.name == name)
    assert text.endswith(f", or leave it at {default!r}")
    PPOConfig(**{**idle, name: default})
    assert getattr(PPOConfig(**{name: value, **active}), name) == value
    # the words after "use it with" are a change that works
    words = text.split("use it with ")[1].split(", or leave")[0]
    field, _, chosen = words[words.find("(") + 1 :].rstrip(")").partition("=")
    PPOConfig(**{**idle, name: value, field: eval(chosen, {"__builtins__": {}})})


def test_a_penalty_that_starts_at_zero_cannot_adapt():
    assert "kl_coef" in message_of(dict(objective="adaptive_kl", kl_coef=0.0))
    assert PPOConfig(objective="kl_penalty", kl_coef=0.0).kl_coef == 0.0


@pytest.mark.parametrize(
    "changes",
    [
        dict(clip_eps=0.1),
        dict(clip_eps_final_scale=0.0),
        dict(target_kl=0.01),
        dict(objective="kl_penalty", kl_coef=3.0),
        dict(value_loss="clipped", value_clip_eps=0.1),
    ],
)
def test_what_acts_from_the_second_gradient_step_on_needs_one(changes):
    assert PPOConfig(num_epochs=1, num_minibatches=2, **changes)
    text = message_of(dict(num_epochs=1, num_minibatches=1, **changes))
    assert "has no effect here: use it with more than one gradient step" in text
    assert list(changes)[-1] in text


# -- types ------------------------------------------------------------------------------------

WRONG_TYPES = [
    (dict(num_envs=2.5), "num_envs=2.5 must be a whole number: use 2"),
    (dict(num_envs=None), "num_envs=None must be a number (int)"),
    (dict(num_envs=[8]), "num_envs=[8] must be a number (int)"),
    (dict(num_envs=np.array([8])), "num_envs=[8] must be a number (int)"),
    (dict(gamma="0.9"), "gamma='0.9' must be a number (float)"),
    (dict(gamma=None), "gamma=None must be a number (float)"),
    (dict(gamma=float("nan")), "gamma=nan must be finite"),
    (dict(learning_rate=float("inf")), "learning_rate=inf must be finite"),
    (dict(total_timesteps=float("inf")), "total_timesteps=inf must be finite"),
    (dict(gamma=0.5j), "gamma=0.5j must be a number (float)"),
    (dict(gamma=np.complex64(0.5)), "gamma="),
    (dict(max_grad_norm="never"), "max_grad_norm='never' must be a number (float)"),
    (dict(max_grad_norm=np.array([0.5, 0.5])), "max_grad_norm=[0.5, 0.5] must be a number"),
    (dict(hidden_sizes="64"), "hidden_sizes='64' must be of type tuple[int, ...]: use (64, 64)"),
    (dict(hidden_sizes=(64, 1.5)), "hidden_sizes entry=1.5 must be a whole number: use 2"),
    (dict(hidden_sizes=None), "hidden_sizes=None must be of type tuple[int, ...]"),
    (dict(shared_torso="true"), "shared_torso='true' must be of type bool"),
    (dict(shared_torso=1), "shared_torso=1 must be of type bool"),
    (dict(normalize_rewards=None), "normalize_rewards=None must be of type bool"),
    (dict(env=5), "env=5 must be of type str"),
    (dict(objective=5), "objective=5 must be of type text"),
    (dict(advantage=None), "advantage=None must be of type text"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_TYPES, ids=lambda x: str(x)[:40])
def test_a_wrong_type_is_refused(wrong, message):
    assert message_of(wrong).startswith(message)


@pytest.mark.parametrize("name", ["total_timesteps", "num_envs", "learning_rate", "gamma"])
def test_a_number_beyond_every_float_is_refused(name):
    assert message_of({name: 10**400}).startswith(f"{name}=")


def test_numbers_come_out_in_their_declared_type():
    config = PPOConfig(
        total_timesteps=5e5, num_envs=np.int32(8), num_steps=jnp.int32(125), gamma=1,
        learning_rate=np.float32(0.5), hidden_sizes=[np.int64(8), 16.0], target_kl="none",
    )  # fmt: skip
    assert config.total_timesteps == 500_000
    for name in ("total_timesteps", "num_envs", "num_steps"):
        assert type(getattr(config, name)) is int
    for name in ("gamma", "learning_rate"):
        assert type(getattr(config, name)) is float
    assert config.gamma == 1.0
    assert config.learning_rate == 0.5
    assert config.hidden_sizes == (8, 16)
    assert all(type(size) is int for size in config.hidden_sizes)
    assert config.target_kl is None
    with pytest.raises(ConfigError, match="must be a number"):
        PPOConfig(gamma=Fraction("0.9").limit_denominator)


# -- a value object ---------------------------------------------------------------------------


def test_frozen_keyword_only_hashable_equal():
    config = PPOConfig(gamma=0.9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.gamma = 0.5
    assert config == PPOConfig(gamma=0.9)
    assert hash(config) == hash(PPOConfig(gamma=0.9))
    assert config != PPOConfig(gamma=0.8)
    assert {config: 1}[PPOConfig(gamma=0.9)] == 1
    # what is written in another way is the same configuration
    assert PPOConfig(hidden_sizes=[64, 64], total_timesteps=5e5) == PPOConfig()
    assert copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_sizes_by_hand():
    config = PPOConfig(num_envs=4, num_steps=6, num_minibatches=3, total_timesteps=72)
    assert (config.batch_size, config.minibatch_size, config.num_updates) == (24, 8, 3)


def test_replace_validates_and_leaves_the_original():
    config = PPOConfig()
    changed = config.replace(gamma=0.5, LR=1e-3)
    assert (changed.gamma, changed.learning_rate) == (0.5, 1e-3)
    assert config == PPOConfig()
    assert changed.replace(gamma=0.99, learning_rate=2.5e-4) == config
    with pytest.raises(ConfigError, match=r"gamma=2\.0 must be between 0 and 1"):
        config.replace(gamma=2)
    with pytest.raises(ConfigError, match="unknown option 'gama': did you mean gamma"):
        config.replace(gama=0.5)


def test_hyperparams_are_the_fields_of_the_same_name():
    config = PPOConfig(gamma=0.5, target_kl=0.1, max_grad_norm=None)
    hyper = config.hyperparams()
    assert isinstance(hyper, Hyperparams)
    assert hyper.extra == ()
    for name in SCALARS:
        assert getattr(hyper, name) == getattr(config, name)
    assert (hyper.gamma, hyper.target_kl, hyper.max_grad_norm) == (0.5, 0.1, None)
    assert hyper.replace(gamma=0.1) == hyper._replace(gamma=0.1)
    assert hyper.replace(gamma=0.1).gamma == 0.1 and hyper.gamma == 0.5


def test_every_float_of_the_configuration_is_a_hyperparameter():
    declared = typing.get_type_hints(PPOConfig)
    floats = {n for n in FIELDS if declared[n] in (float, float | None)}
    # but for where the bins of a categorical critic lie, which its network begins with
    assert floats == {*SCALARS, "value_min", "value_max", "value_sigma"}


# -- in and out -------------------------------------------------------------------------------

VARIED = [
    {},
    dict(max_grad_norm=None, target_kl=0.015, hidden_sizes=(8,), shared_torso=True),
    dict(advantage="none", value_loss="clipped", value_clip_eps=0.1, normalize_rewards=True),
    dict(objective="adaptive_kl", kl_coef=0.1, adaptive_kl_target=0.3, env='odd "name"\n\\'),
    dict(learning_rate=1 / 3, adam_eps=1e-30, hidden_sizes=(1, 2, 3), num_minibatches=8),
]


@pytest.mark.parametrize("changes", VARIED)
def test_round_trips(changes, tmp_path):
    config = PPOConfig(**changes)
    values = config.to_dict()
    assert list(values) == FIELDS
    assert PPOConfig.from_dict(values) == config
    for path in (tmp_path / "config.toml", str(tmp_path / "again.toml")):
        config.to_toml(path)
        assert PPOConfig.from_toml(path) == config


def test_toml_on_disk_is_plain(tmp_path):
    PPOConfig(max_grad_norm=None, shared_torso=True, hidden_sizes=(8, 4)).to_toml(tmp_path / "a")
    values = tomllib.loads((tmp_path / "a").read_text())
    assert set(values) == set(FIELDS)
    assert values["max_grad_norm"] == values["target_kl"] == "none"
    assert values["shared_torso"] is True
    assert values["hidden_sizes"] == [8, 4]


def test_toml_fields_left_out_take_their_defaults(tmp_path):
    (tmp_path / "a.toml").write_text("gamma = 0.5\ntotal_timesteps = 1e6\n")
    assert PPOConfig.from_toml(tmp_path / "a.toml") == PPOConfig(
        gamma=0.5, total_timesteps=1_000_000
    )
    (tmp_path / "b.toml").write_text("gama = 0.5\n")
    with pytest.raises(ConfigError, match=r"b.toml': unknown option 'gama': did you mean gamma"):
        PPOConfig.from_toml(tmp_path / "b.toml")


def test_toml_that_is_a_presets_file_or_begins_with_a_mark(tmp_path):
    (tmp_path / "a.toml").write_text("[ppo]\ngamma = 0.5\n")
    with pytest.raises(ConfigError, match=r"'ppo' is a table, and no field: use the lines below"):
        PPOConfig.from_toml(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_text("gamma = 0.5\n", encoding="utf-8-sig")  # as on Windows
    assert PPOConfig.from_toml(tmp_path / "b.toml").gamma == 0.5


def test_to_dict_is_a_copy():
    config = PPOConfig()
    config.to_dict()["gamma"] = 0.0
    assert config.gamma == 0.99


UPPER_CASE = [
    ("LR", 1e-3, dict(learning_rate=1e-3)),
    ("NUM_ENVS", 4, dict(num_envs=4)),
    ("NUM_STEPS", 100, dict(num_steps=100)),
    ("TOTAL_TIMESTEPS", 5e3, dict(total_timesteps=5000)),
    ("UPDATE_EPOCHS", 2, dict(num_epochs=2)),
    ("NUM_MINIBATCHES", 2, dict(num_minibatches=2)),
    ("GAMMA", 0.5, dict(gamma=0.5)),
    ("GAE_LAMBDA", 0.5, dict(gae_lambda=0.5)),
    ("CLIP_EPS", 0.1, dict(clip_eps=0.1, value_loss="clipped", value_clip_eps=0.1)),
    ("ENT_COEF", 0.1, dict(entropy_coef=0.1)),
    ("VF_COEF", 0.1, dict(value_coef=0.1)),
    ("MAX_GRAD_NORM", 5, dict(max_grad_norm=5.0)),
    ("ACTIVATION", "relu", dict(activation="relu")),
    ("ENV_NAME", "Acrobot-v1", dict(env="Acrobot-v1", torso="mlp")),
    ("ANNEAL_LR", True, dict(learning_rate_final_scale=0.0)),
    ("ANNEAL_LR", False, dict(learning_rate_final_scale=1.0)),
    ("NORMALIZE_ENV", True, dict(normalize_observations=True, normalize_rewards=True)),
    ("NORMALIZE_ENV", False, dict(normalize_observations=False, normalize_rewards=False)),
    ("DEBUG", False, {}),
]


@pytest.mark.parametrize(("key", "value", "fields"), UPPER_CASE)
def test_an_upper_case_key_means_its_field(key, value, fields):
    assert PPOConfig.from_dict({key: value}) == PPOConfig(**fields)


def test_debug_says_that_it_prints_nothing():
    with pytest.warns(UserWarning, match="DEBUG prints nothing") as caught:
        assert PPOConfig.from_dict({"DEBUG": True}) == PPOConfig()
    assert len(caught) == 1


def test_a_whole_upper_case_configuration_and_the_callers_mapping_unchanged():
    theirs = {
        "LR": 2.5e-4, "NUM_ENVS": 4, "NUM_STEPS": 128, "TOTAL_TIMESTEPS": 5.12e5,
        "UPDATE_EPOCHS": 4, "NUM_MINIBATCHES": 4, "GAMMA": 0.99, "GAE_LAMBDA": 0.95,
        "CLIP_EPS": 0.2, "ENT_COEF": 0.01, "VF_COEF": 0.5, "MAX_GRAD_NORM": 0.5,
        "ACTIVATION": "tanh", "ENV_NAME": "CartPole-v1", "ANNEAL_LR": True, "DEBUG": False,
    }  # fmt: skip
    before = dict(theirs)
    config = PPOConfig.from_dict(theirs)
    assert config == PPOConfig(
        num_envs=4, num_steps=128, total_timesteps=512_000, entropy_coef=0.01,
        learning_rate_final_scale=0.0, value_loss="clipped", torso="mlp",
    )  # fmt: skip
    assert theirs == before
    assert as_config(MappingProxyType(theirs)) == config
    assert as_config(config) is config


def test_keys_that_are_not_known_or_given_twice():
    for key, hint in [
        ("gama", "did you mean gamma"),
        ("lerning_rate", "did you mean learning_rate"),
        ("NUM_ENV", "did you mean NUM_ENVS"),
        ("CLIPEPS", "did you mean CLIP_EPS"),
    ]:
        with pytest.raises(ConfigError, match=f"unknown option '{key}': {hint}"):
            PPOConfig.from_dict({key: 1})
    with pytest.raises(ConfigError, match=r"unknown option 'zzzzzz': known: .*total_timesteps"):
        PPOConfig.from_dict({"zzzzzz": 1})
    with pytest.raises(ConfigError, match="unknown option 3: "):
        PPOConfig.from_dict({3: 1})
    for twice in (
        {"LR": 1e-3, "learning_rate": 1e-3},
        {"learning_rate": 1e-3, "LR": 1e-3},
    ):
        with pytest.raises(ConfigError, match="learning_rate is given twice"):
            PPOConfig.from_dict(twice)
    with pytest.raises(ConfigError, match="learning_rate_final_scale is given twice"):
        PPOConfig.from_dict({"ANNEAL_LR": True, "learning_rate_final_scale": 0.5})


@pytest.mark.parametrize("wrong", [None, 5, "CartPole-v1", [("gamma", 0.5)]])
def test_something_else_is_no_configuration(wrong):
    with pytest.raises(ConfigError, match=f"config is a {type(wrong).__name__}: pass a PPOConfig"):
        as_config(wrong)


# -- named algorithms and presets -------------------------------------------------------------


def test_named_algorithms():
    assert PPOConfig.ppo() == PPOConfig()
    assert PPOConfig.ppo(gamma=0.5) == PPOConfig(gamma=0.5)
    assert PPOConfig.ppo_kl().objective == "kl_penalty"
    adaptive = PPOConfig.ppo_kl(objective="adaptive_kl", adaptive_kl_target=0.02)
    assert (adaptive.objective, adaptive.adaptive_kl_target) == ("adaptive_kl", 0.02)
    a2c = PPOConfig.a2c()
    assert (a2c.objective, a2c.advantage, a2c.n_step) == ("policy_gradient", "n_step", 5)
    # one gradient step on the whole rollout
    assert (a2c.num_epochs, a2c.num_minibatches, a2c.num_steps) == (1, 1, 5)
    reinforce = PPOConfig.reinforce()
    assert (reinforce.objective, reinforce.advantage) == ("policy_gradient", "monte_carlo")
    assert (reinforce.num_epochs, reinforce.num_minibatches) == (1, 1)
    for make in (PPOConfig.ppo, PPOConfig.ppo_kl, PPOConfig.a2c, PPOConfig.reinforce):
        assert make(GAMMA=0.7).gamma == 0.7
        with pytest.raises(ConfigError, match=r"gamma=7\.0 must be"):
            make(gamma=7)


TABLES = [(name, table) for name in presets.names() for table in presets.tables(name)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "table"), TABLES)
def test_every_preset_loads(name, table):
    config = PPOConfig.preset(name, table)
    for field, value in presets.load(name, table).items():
        kept = getattr(config, field)
        assert kept == (tuple(value) if isinstance(value, list) else value) or (
            kept is None and value == "none"
        )
    if name in registry.names():
        assert config.env == name


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of presets of our own."""
    (tmp_path / "Tiny-v0.toml").write_text(
        '[ppo]\nenv = "Tiny-v0"\ngamma = 0.5\n[a2c]\nenv = "Tiny-v0"\nlearning_rate = 0.25\n'
    )
    (tmp_path / "wrong.toml").write_text("[ppo]\ngama = 0.5\n")
    monkeypatch.setattr(presets.resources, "files", lambda package: tmp_path)


def test_preset_is_its_table_over_the_algorithm(shelf):
    assert presets.names() == ["Tiny-v0", "wrong"]
    assert PPOConfig.preset("Tiny-v0") == PPOConfig(env="Tiny-v0", gamma=0.5)
    assert PPOConfig.preset("Tiny-v0", "a2c") == PPOConfig.a2c(env="Tiny-v0", learning_rate=0.25)
    changed = PPOConfig.preset("Tiny-v0", gamma=0.25, num_epochs=2)
    assert changed == PPOConfig(env="Tiny-v0", gamma=0.25, num_epochs=2)


def test_a_file_is_the_preset_of_each_environment_that_it_lists(shelf, tmp_path):
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "legs.toml").write_text(
        "[ppo]\ngamma = 0.5\nnum_envs = 16\n[environments]\nOne = {}\nTwo = { gamma = 0.75 }\n"
    )
    assert presets.names() == ["Tiny-v0", "suite/One", "suite/Two", "wrong"]
    assert PPOConfig.preset("suite/One") == PPOConfig(env="suite/One", gamma=0.5, num_envs=16)
    assert PPOConfig.preset("suite/Two") == PPOConfig(env="suite/Two", gamma=0.75, num_envs=16)
    assert presets.has("suite/One", "ppo") and not presets.has("suite/One", "a2c")
    assert not any(presets.has(name, "ppo") for name in ("suite/legs", "suite/Three", "../One"))
    with pytest.raises(ConfigError, match="unknown preset 'suite/Tree': did you mean suite/"):
        PPOConfig.preset("suite/Tree")


def test_preset_errors(shelf):
    with pytest.raises(ConfigError, match="unknown preset 'tiny': did you mean Tiny-v0"):
        PPOConfig.preset("tiny")
    with pytest.raises(ConfigError, match="no table for algorithm 'reinforce': use ppo or a2c"):
        PPOConfig.preset("Tiny-v0", "reinforce")
    with pytest.raises(ConfigError, match="unknown option 'gama'"):
        PPOConfig.preset("wrong")


def test_an_upper_case_change_of_a_field_that_the_preset_sets(shelf):
    # as PPOConfig.ppo(...).replace(GAMMA=...) would do
    assert PPOConfig.preset("Tiny-v0", GAMMA=0.25).gamma == 0.25


# -- imports ----------------------------------------------------------------------------------


def test_configuration_needs_no_jax():
    """Help, mistakes and configurations are answered before jax could be imported."""
    code = """if True:
        import sys
        heavy = {"jax", "jaxlib", "flax", "optax", "chex", "gymnax", "numpy", "scipy"}
        import purejaxppo
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        import purejaxppo.config.schema, purejaxppo.config.presets
        purejaxppo.PPOConfig.a2c().to_dict()
        [purejaxppo.config.presets.tables(n) for n in purejaxppo.config.presets.names()]
        dir(purejaxppo)
        try:
            purejaxppo.PPOConfig(gamma=2)
        except purejaxppo.ConfigError:
            print("refused")
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True,
                          text=True, timeout=60)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\n", "")
