"""The keys of PureJaxRL, the names of other libraries, and totals that are no whole updates."""

import re
from dataclasses import fields

import gymnax
import jax
import numpy as np
import pytest

from purejaxppo import ConfigError, PPOConfig, fit, make_train
from purejaxppo.cli.arguments import RunOptions
from purejaxppo.cli.starts import parse_train
from purejaxppo.config.libraries import LIBRARIES, meaning_of
from purejaxppo.config.purejaxrl import CONVERTED, DERIVED, OF_FIT, UPPER_CASE
from purejaxppo.envs import wrappers
from purejaxppo.runs.options import FitOptions

FIELDS = {field.name for field in fields(PPOConfig)}
OPTIONS = {field.name for field in fields(FitOptions)}


def refusal(call, *args, **options):
    """The one line with which something is refused."""
    with pytest.raises(ConfigError) as caught:
        call(*args, **options)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


# -- totals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "asked", "updates", "done"),
    [
        ((4, 128), 500_000, 976, 499_712),  # PureJaxRL's ppo.py
        ((2048, 10), 5e7, 2441, 49_991_680),  # and its ppo_continuous_action.py
        ((8, 2048), 1_000_000, 61, 999_424),
        ((1, 2048), 1e6, 488, 999_424),
        ((8, 125), 500_000, 500, 500_000),
        ((8, 125), 1999, 1, 1000),
        ((8, 125), 1000, 1, 1000),
    ],
)
def test_total_timesteps_is_what_is_asked_and_whole_updates_are_done(sizes, asked, updates, done):
    envs, steps = sizes
    config = PPOConfig(num_envs=envs, num_steps=steps, total_timesteps=asked)
    assert config.total_timesteps == asked
    assert (config.num_updates, config.timesteps) == (updates, done)
    assert 0 <= asked - done < envs * steps
    # what was asked stays with it
    assert PPOConfig.from_dict(config.to_dict()) == config


def test_a_total_without_one_update_is_refused_with_one_that_works():
    text = refusal(PPOConfig, num_envs=4, num_steps=128, total_timesteps=511)
    assert text == (
        "total_timesteps=511 must hold one update of num_envs * num_steps = 4 * 128 = 512: use 512"
    )
    assert PPOConfig(num_envs=4, num_steps=128, total_timesteps=512).num_updates == 1


@pytest.mark.slow
def test_a_schedule_ends_with_the_last_update_that_is_done():
    """The learning rate of update u of U is LR * (1 - u / U), whatever was left over."""
    config = PPOConfig(
        num_envs=2, num_steps=4, num_minibatches=1, num_epochs=1, hidden_sizes=(4,),
        total_timesteps=8 * 4 + 7, learning_rate=1.0, learning_rate_final_scale=0.0,
    )  # fmt: skip
    seen = []

    def schedule(hyper, progress):
        jax.debug.callback(lambda p: seen.append(float(p)), progress)
        return hyper

    out = jax.jit(make_train(config.replace(learning_rate_final_scale=1.0), schedule=schedule))(
        jax.random.key(0)
    )
    jax.effects_barrier()
    assert out.metrics.episodes.shape == (4,)
    np.testing.assert_allclose(sorted(set(seen)), [0.0, 0.25, 0.5, 0.75])


# -- PureJaxRL's configurations, as they are shipped ----------------------------------------------

PPO = {
    "LR": 2.5e-4,
    "NUM_ENVS": 4,
    "NUM_STEPS": 128,
    "TOTAL_TIMESTEPS": 5e5,
    "UPDATE_EPOCHS": 4,
    "NUM_MINIBATCHES": 4,
    "GAMMA": 0.99,
    "GAE_LAMBDA": 0.95,
    "CLIP_EPS": 0.2,
    "ENT_COEF": 0.01,
    "VF_COEF": 0.5,
    "MAX_GRAD_NORM": 0.5,
    "ACTIVATION": "tanh",
    "ENV_NAME": "CartPole-v1",
    "ANNEAL_LR": True,
    "DEBUG": True,
}
CONTINUOUS = {
    "LR": 3e-4,
    "NUM_ENVS": 2048,
    "NUM_STEPS": 10,
    "TOTAL_TIMESTEPS": 5e7,
    "UPDATE_EPOCHS": 4,
    "NUM_MINIBATCHES": 32,
    "GAMMA": 0.99,
    "GAE_LAMBDA": 0.95,
    "CLIP_EPS": 0.2,
    "ENT_COEF": 0.0,
    "VF_COEF": 0.5,
    "MAX_GRAD_NORM": 0.5,
    "ACTIVATION": "tanh",
    "ENV_NAME": "hopper",
    "ANNEAL_LR": False,
    "NORMALIZE_ENV": True,
    "DEBUG": True,
}
MINIGRID = {
    **PPO, "NUM_ENVS": 16, "TOTAL_TIMESTEPS": 1e6, "UPDATE_EPOCHS": 1, "NUM_MINIBATCHES": 8,
    "ENV_NAME": "Navix-DoorKey-5x5-v0",
}  # fmt: skip
RNN = {key: value for key, value in PPO.items() if key != "ACTIVATION"}
quiet = pytest.mark.filterwarnings("ignore:DEBUG prints nothing")


@quiet
def test_purejaxrls_ppo_is_accepted_as_it_is():
    before = dict(PPO)
    config = PPOConfig.from_dict(PPO)
    assert before == PPO
    assert config == PPOConfig(
        env="CartPole-v1", torso="mlp", learning_rate=2.5e-4, learning_rate_final_scale=0.0,
        num_envs=4, num_steps=128, total_timesteps=500_000, num_epochs=4, num_minibatches=4,
        gamma=0.99, gae_lambda=0.95, clip_eps=0.2, value_loss="clipped", value_clip_eps=0.2,
        entropy_coef=0.01, value_coef=0.5, max_grad_norm=0.5, activation="tanh",
        hidden_sizes=(64, 64), adam_eps=1e-5,
    )  # fmt: skip
    assert (config.num_updates, config.minibatch_size) == (976, 128)


@quiet
def test_purejaxrls_ppo_continuous_action_is_accepted_as_it_is():
    """Its environment is brax's hopper on the positional backend, its layers have 256 units."""
    assert PPOConfig.from_dict(CONTINUOUS) == PPOConfig(
        env="brax/hopper", env_options={"backend": "positional"}, torso="mlp", learning_rate=3e-4,
        num_envs=2048, num_steps=10, total_timesteps=50_000_000, num_minibatches=32,
        value_loss="clipped", hidden_sizes=(256, 256), normalize_observations=True,
        normalize_rewards=True,
    )  # fmt: skip


@quiet
@pytest.mark.parametrize(
    ("values", "env"), [(MINIGRID, "navix/Navix-DoorKey-5x5-v0"), (RNN, "CartPole-v1")]
)
def test_purejaxrls_other_scripts_are_accepted_as_they_are(values, env):
    assert PPOConfig.from_dict(values).env == env


@quiet
@pytest.mark.slow
def test_purejaxrls_ppo_trains_as_it_is():
    """With fewer steps, which are no whole updates either."""
    theirs = {**PPO, "TOTAL_TIMESTEPS": 5e3, "NUM_SEEDS": 2, "SEED": 30}
    result = fit(theirs)
    assert result.metrics.episodes.shape == (2, 9)  # of 512 steps
    ours = fit(PPOConfig.from_dict({**PPO, "TOTAL_TIMESTEPS": 5e3}), seeds=2, seed=30)
    np.testing.assert_array_equal(result.metrics.return_sum, ours.metrics.return_sum)


@quiet
@pytest.mark.slow
def test_purejaxrls_hopper_is_resolved():
    """Nothing is compiled: the shapes of a whole run, of 2441 updates."""
    pytest.importorskip("brax")
    with jax.numpy_rank_promotion("allow"):
        out = jax.eval_shape(make_train(CONTINUOUS), jax.random.key(0))
    assert out.metrics.episodes.shape == (2441,)
    assert {x.shape for x in jax.tree.leaves(out.state.params)} >= {(256, 256), (256, 3), (3,)}


def test_what_its_scripts_derive_must_agree():
    """NUM_UPDATES and MINIBATCH_SIZE, which make_train writes into its dictionary."""
    theirs = {**PPO, "DEBUG": False}
    derived = {
        "NUM_UPDATES": theirs["TOTAL_TIMESTEPS"] // theirs["NUM_STEPS"] // theirs["NUM_ENVS"],
        "MINIBATCH_SIZE": theirs["NUM_ENVS"] * theirs["NUM_STEPS"] // theirs["NUM_MINIBATCHES"],
    }
    assert derived == {"NUM_UPDATES": 976.0, "MINIBATCH_SIZE": 128}
    config = PPOConfig.from_dict({**theirs, **derived})
    assert config == PPOConfig.from_dict(theirs) == PPOConfig(**theirs, **derived)
    assert config.replace(NUM_UPDATES=976) == config
    assert PPOConfig.preset("CartPole-v1", MINIBATCH_SIZE=250).minibatch_size == 250
    # a size that was changed afterwards
    text = refusal(PPOConfig.from_dict, {**theirs, **derived, "NUM_ENVS": 8})
    assert text.startswith("NUM_UPDATES=976.0 must be what follows from num_envs=8, num_steps=128")
    assert text.endswith("use 488, or leave it out")
    for make in (config.replace, PPOConfig, lambda **c: PPOConfig.preset("Pendulum-v1", **c)):
        assert "MINIBATCH_SIZE=3 must be what follows" in refusal(make, MINIBATCH_SIZE=3)
    assert "NUM_UPDATES='x' must be a number" in refusal(PPOConfig, NUM_UPDATES="x")


@pytest.mark.slow
def test_seeds_in_a_mapping_are_those_of_fit():
    tiny = dict(NUM_ENVS=2, NUM_STEPS=4, NUM_MINIBATCHES=1, UPDATE_EPOCHS=1, TOTAL_TIMESTEPS=8,
                hidden_sizes=(4,))  # fmt: skip
    theirs = fit({**tiny, "SEED": 3, "NUM_SEEDS": 2})
    ours = fit(PPOConfig(**tiny), seed=3, seeds=2)
    for a, b in zip(jax.tree.leaves(theirs.state.params), jax.tree.leaves(ours.state.params),
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)
    assert "seed is given twice (once as 'SEED')" in refusal(fit, {**tiny, "SEED": 3}, seed=4)
    assert "seeds is given twice" in refusal(fit, {**tiny, "NUM_SEEDS": 3}, seeds=4)
    assert "seeds=0 must be at least 1" in refusal(fit, {**tiny, "NUM_SEEDS": 0})
    assert "SEED='x' must be a number" in refusal(fit, {**tiny, "SEED": "x"})
    assert "SEED=[1, 2] must be a number" in refusal(fit, {**tiny, "SEED": np.arange(1, 3)}, seed=4)


@pytest.mark.parametrize(("key", "argument"), OF_FIT.items())
def test_seeds_that_a_configuration_cannot_hold_are_pointed_to_fit(key, argument):
    for make in (PPOConfig.from_dict, lambda values: PPOConfig(**values), make_train):
        with pytest.warns(UserWarning, match=rf"{key} is no part .* fit\(config, {argument}="):
            made = make({key: 3})
        assert made is not None


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ({"CLIP_EPS": 0.1}, dict(clip_eps=0.1, value_loss="clipped", value_clip_eps=0.1)),
        ({"CLIP_EPS": 0.1, "value_loss": "squared"}, dict(clip_eps=0.1)),
        ({"value_loss": "huber", "CLIP_EPS": 0.1}, dict(clip_eps=0.1, value_loss="huber")),
        (
            {"CLIP_EPS": 0.1, "value_loss": "clipped", "value_clip_eps": 0.3},
            dict(clip_eps=0.1, value_loss="clipped", value_clip_eps=0.3),
        ),
        (
            {"CLIP_EPS": 0.1, "value_loss": "clipped"},
            dict(clip_eps=0.1, value_loss="clipped", value_clip_eps=0.1),
        ),
        (
            {"CLIP_EPS": 0.1, "value_clip_eps": 0.3},
            dict(clip_eps=0.1, value_loss="clipped", value_clip_eps=0.3),
        ),
        ({"CLIP_EPS": 0.1, "VF_COEF": 0}, dict(clip_eps=0.1, value_coef=0.0)),
        # a single gradient step has a ratio of 1, which nothing clips
        (
            {"CLIP_EPS": 0.1, "UPDATE_EPOCHS": 1, "NUM_MINIBATCHES": 1},
            dict(num_epochs=1, num_minibatches=1),
        ),
        ({"clip_eps": 0.1}, dict(clip_eps=0.1)),
    ],
)
def test_its_value_is_clipped_as_far_as_its_policy(values, changes):
    assert PPOConfig.from_dict(values) == PPOConfig(**changes)
    assert PPOConfig().replace(**values) == PPOConfig(**changes)


@pytest.mark.parametrize("key", ["VF_COEF", "UPDATE_EPOCHS", "NUM_MINIBATCHES", "CLIP_EPS"])
@pytest.mark.parametrize("value", [np.ones(2), "x", None, [1]], ids=str)
def test_values_of_keys_are_refused_before_anything_follows_from_them(key, value):
    field = UPPER_CASE[key] if key != "CLIP_EPS" else "clip_eps"
    text = refusal(PPOConfig.from_dict, {"CLIP_EPS": 0.1, key: value})
    assert text.startswith(f"{field}=") and "must be a number" in text
    with pytest.raises(ConfigError, match=f"{field} is traced"):
        jax.vmap(lambda x: PPOConfig(**{"CLIP_EPS": 0.1, key: x}))(np.ones(2))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ant", dict(env="brax/ant")),
        ("inverted_pendulum", dict(env="brax/inverted_pendulum")),
        ("walker2d", dict(env="brax/walker2d")),
    ],
)
def test_a_bare_word_is_an_environment_of_brax_as_in_its_scripts(name, changes):
    config = PPOConfig(ENV_NAME=name)
    assert config.env == changes["env"]
    assert config.env_options == ("backend=positional",)
    assert config.hidden_sizes == (256, 256)
    ours = PPOConfig(ENV_NAME=name, hidden_sizes=(8,), env_options={}, torso="auto")
    assert ours == PPOConfig(hidden_sizes=(8,), **changes)


@pytest.mark.parametrize("name", ["brax/ant", "jumanji/Snake-v1", "my_module:Env", "ale/Pong-v5"])
def test_a_name_with_a_suite_is_ours_and_says_no_more(name):
    assert PPOConfig(ENV_NAME=name) == PPOConfig(env=name)


def test_no_name_of_gymnax_is_a_bare_word_and_all_of_brax_are():
    bare = [name for name in gymnax.registered_envs if name.isidentifier()]
    assert bare == []
    envs = pytest.importorskip("brax.envs")
    assert all(name.isidentifier() and name.islower() for name in envs._envs)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("DPO_ALPHA", "objective of your own"),
        ("BUFFER_SIZE", "replays nothing"),
        ("TARGET_UPDATE_INTERVAL", "no target network"),
        ("EPSILON_START", "{entropy_coef}"),
        ("PROJECT", "--wandb PROJECT"),
        ("ENTITY", "WANDB_ENTITY"),
        ("WANDB_MODE", "WANDB_MODE"),
    ],
)
def test_keys_of_its_scripts_that_mean_nothing_here_say_why(key, words):
    text = refusal(PPOConfig.from_dict, {key: 1})
    assert text.startswith(f"unknown option {key!r}: ")
    assert words.strip("{}") in text


def test_every_key_of_its_table_is_understood_or_refused_with_a_reason():
    for key in LIBRARIES["PureJaxRL"]:
        if key in UPPER_CASE or key in DERIVED or key in OF_FIT:
            continue
        assert meaning_of(key, FIELDS, str) is not None
    assert set(CONVERTED) <= set(LIBRARIES["PureJaxRL"])
    assert set(PPO) | set(CONTINUOUS) <= set(UPPER_CASE)


# -- names of other libraries ---------------------------------------------------------------------

SAME = {
    "n_steps": "num_steps", "n_epochs": "num_epochs", "n_envs": "num_envs",
    "clip_range": "clip_eps", "net_arch": "hidden_sizes",  # Stable-Baselines3
    "n_timesteps": "total_timesteps",  # its Zoo
    "update_epochs": "num_epochs", "clip_coef": "clip_eps", "env_id": "env",  # CleanRL
    "num_timesteps": "total_timesteps", "discounting": "gamma", "entropy_cost": "entropy_coef",
    "clipping_epsilon": "clip_eps", "num_updates_per_batch": "num_epochs",  # Brax
    "lr": "learning_rate", "ent_coef": "entropy_coef",  # rejax
}  # fmt: skip
WORDS = {
    "batch_size": "num_minibatches = num_envs * num_steps / batch_size (Stable-Baselines3)",
    "clip_range_vf": "value_clip_eps with value_loss='clipped'",
    "vf_coef": "value_coef = 2 * vf_coef",
    "normalize_advantage": "advantage_normalization='minibatch'",
    "norm_adv": "'none' for False",
    "clip_vloss": "value_loss='clipped'",
    "anneal_lr": "learning_rate_final_scale=0.0",
    "use_sde": "state_dependent_std",
    "policy_kwargs": "hidden_sizes, activation",
    "normalize": "normalize_observations and normalize_rewards",
    "episode_length": "max_steps=1000 in env_options",
    "reward_scaling": "env_options",
    "num_evals": "fit's eval_every",
    "num_resets_per_eval": "not here: every episode begins with a fresh reset",
    "buffer_size": "not here: ",
    "learning_starts": "not here: ",
    "bptt_horizon": "num_steps",
    "minibatch_size": "it follows: config.minibatch_size (PureJaxRL, CleanRL)",
    "exp_name": "use fit's run_dir",
    "capture_video": "purejaxppo render",
    "cuda": "JAX_PLATFORMS",
    "seed": "use fit's seed",
    "tensorboard_log": "--tensorboard",
}


@pytest.mark.parametrize(("name", "ours"), SAME.items())
def test_a_name_of_another_library_is_answered_with_ours(name, ours):
    line = f"unknown option {name!r}: did you mean {ours}?"
    assert refusal(PPOConfig, **{name: 1}) == line
    assert refusal(PPOConfig.from_dict, {name: 1}) == line
    assert refusal(PPOConfig().replace, **{name: 1}) == line
    assert refusal(PPOConfig.preset, "CartPole-v1", **{name: 1}) == line
    assert refusal(PPOConfig.a2c, **{name: 1}) == line


@pytest.mark.parametrize(("name", "words"), WORDS.items())
def test_a_name_that_means_something_else_says_what(name, words):
    text = refusal(PPOConfig, **{name: 1})
    assert text.startswith(f"unknown option {name!r}: ")
    assert words in text
    assert refusal(PPOConfig.from_dict, {name: {"net_arch": [64]}}) == text


@pytest.mark.parametrize("name", ["gama", "hidden_size", "num_step", "CLIPEPS"])
def test_misspelt_names_are_answered_as_before(name):
    assert "did you mean" in refusal(PPOConfig.from_dict, {name: 1})
    assert meaning_of(name, FIELDS, str) is None


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_its_names_are_called_here_is_there(library):
    options = {field.name for field in fields(RunOptions)}
    for name, text in LIBRARIES[library].items():
        assert set(re.findall(r"\{(\w+)\}", text)) <= FIELDS | OPTIONS, name
        assert name not in FIELDS or name in ("target_kl", "env"), "the same name needs no line"
        for word in re.findall(r"`purejaxppo train ENV --([a-z-]+)", text):
            assert word.replace("-", "_") in options, name
        for wrapper in re.findall(r"(\w+) of purejaxppo\.envs\.wrappers", text):
            assert wrapper == "wrapper" or hasattr(wrappers, wrapper), name
        message = meaning_of(name, FIELDS, str)
        assert message and "{" not in message and "\n" not in message


# -- on the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--lr 1e-3", "unknown option --lr: did you mean --learning-rate?"),
        ("--lr=1e-3", "unknown option --lr: did you mean --learning-rate?"),
        ("--n_envs 4", "unknown option --n-envs: did you mean --num-envs?"),
        ("--update-epochs 4", "unknown option --update-epochs: did you mean --num-epochs?"),
        ("--num-timesteps 4", "unknown option --num-timesteps: did you mean --total-timesteps?"),
        ("--exp-name x", "unknown option --exp-name: did you mean --run-dir?"),
        ("--n-eval-episodes 5", "unknown option --n-eval-episodes: did you mean --eval-episodes?"),
        ("--env-id CartPole-v1", "unknown option --env-id: use ENV, as in `purejaxppo train"),
        ("--env CartPole-v1", "unknown option --env: use ENV, as in `purejaxppo train"),
        ("--no-anneal-lr", "unknown option --no-anneal-lr: use --learning-rate-final-scale=0.0"),
        ("--no-cuda", "unknown option --no-cuda: use the variable JAX_PLATFORMS"),
        ("--batch-size 64", "use --num-minibatches = --num-envs * --num-steps / batch_size"),
        ("--buffer-size 64", "unknown option --buffer-size: not here: PPO learns from"),
        ("--track", "unknown option --track: use `purejaxppo train ENV --wandb PROJECT`"),
    ],
)
def test_names_of_other_libraries_on_the_command_line(words, line):
    assert line in refusal(parse_train, ["CartPole-v1", *words.split()])


def test_options_that_another_library_has_too_are_read():
    """Those of other commands are none of them: `--seed` and the like are ours."""
    options, config = parse_train(["CartPole-v1", "--seed", "3", "--target-kl", "0.1"])
    assert (options.seed, config.target_kl) == (3, 0.1)
