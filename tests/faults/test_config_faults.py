"""What a user gives is checked on its way in: configurations, hyperparameters, keys, arguments."""

import contextlib
import datetime
import enum
import io
import pickle
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import (
    ConfigError,
    Hyperparams,
    PPOConfig,
    cli,
    export_policy,
    fit,
    load_agents,
    make_learner,
    make_train,
    render,
)
from purejaxppo.bounds import LARGEST, SMALLEST
from purejaxppo.cli.starts import parse_train
from purejaxppo.config.coerce import coerce, parse_options
from purejaxppo.errors import shown
from purejaxppo.runs.options import FitOptions, fit_options

HUGE = 10**5000  # Python does not write so many digits
TINY = PPOConfig(
    num_envs=2, num_steps=4, total_timesteps=16, num_minibatches=2, num_epochs=1, hidden_sizes=(4,)
)


def named(value):
    """The name of a test's parameter."""
    return shown(value)[:60]


def refusal(call, *args, **kwargs):
    """The one line with which a call is refused, in an instant."""
    begin = time.process_time()
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    seconds = time.process_time() - begin
    assert seconds < 0.2, seconds
    text = str(caught.value)
    assert text and len(text.splitlines()) == 1
    return text


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs a command line: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["purejaxppo", *argv])
        out, err = io.StringIO(), io.StringIO()
        streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with streams[0], streams[1], pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, out.getvalue(), err.getvalue()

    return run


def one_line(result):
    """The line of a command line that was refused."""
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("purejaxppo: ") and err.endswith("\n")
    assert len(err.splitlines()) == 1
    assert len(err) < 500
    return err


# -- float32 -------------------------------------------------------------------------------------

FLOATS = [name for name in Hyperparams._fields if name != "extra"]


def test_the_range_is_that_of_float32():
    info = np.finfo(np.float32)
    assert float(info.tiny) == SMALLEST
    assert float(info.max) == LARGEST
    # what is closer to 0 than that counts as 0 in a compiled program
    assert not jax.jit(lambda x: x > 0)(np.float32(1e-40))


def test_learning_rate_1e39_is_refused():
    text = refusal(PPOConfig, learning_rate=1e39)
    assert text == "learning_rate=1e+39 must be within +-3.4e38 (float32): use 0.00025"


def test_adam_eps_1e_50_is_refused():
    text = refusal(PPOConfig, adam_eps=1e-50)
    assert text == "adam_eps=1e-50 must not be closer to 0 than 1.2e-38 (float32): use 1e-05"


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(
    "value", [1e39, -1e300, 1e-50, 1e-40, -1e-45, 10**400, 2.0**-127], ids=named
)
def test_a_number_that_float32_does_not_hold_is_refused_in_every_field(name, value):
    for call in (PPOConfig, TINY.replace, TINY.hyperparams().replace):
        assert refusal(call, **{name: value}).startswith(f"{name}=")


def test_the_ends_of_float32_are_accepted():
    config = PPOConfig(max_grad_norm=LARGEST, adam_eps=SMALLEST, entropy_coef=0.0)
    assert (config.max_grad_norm, config.adam_eps) == (LARGEST, SMALLEST)
    assert FitOptions(target_return=-LARGEST, eval_every=8).target_return == -LARGEST


@pytest.mark.parametrize("value", [1e39, -np.inf, np.nan, 1e-39])
def test_a_target_that_float32_does_not_hold_is_refused(value, command):
    assert refusal(FitOptions, target_return=value, eval_every=8).startswith("target_return=")
    words = ("train", "CartPole-v1", "--eval-every", "1000", f"--target-return={value}")
    assert "target_return=" in one_line(command(*words))


# -- hyperparameters -----------------------------------------------------------------------------


def test_replace_gamma_7_of_hyperparameters_is_refused():
    text = refusal(TINY.hyperparams().replace, gamma=7)
    assert text == "gamma=7 must be between 0 and 1: use 0.99"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(gamma=np.float32(7)), "gamma=7.0 must be between 0 and 1"),
        (dict(gamma=np.array([0.5, 7.0])), "gamma=7.0 must be between 0 and 1"),
        (dict(gamma=jnp.array([[0.5, -1.0]])), "gamma=-1.0 must be between 0 and 1"),
        (dict(gamma=jnp.array([0.5, jnp.nan])), "gamma=nan must be finite"),
        (dict(gamma=float("nan")), "gamma=nan must be finite"),
        (dict(learning_rate=jnp.array([1e-3, jnp.inf])), "learning_rate=inf must be finite"),
        (dict(learning_rate=np.array([1e-3, 1e39])), "learning_rate=1e+39 must be within"),
        (dict(learning_rate=0), "learning_rate=0 must be greater than 0: use 0.00025"),
        (dict(learning_rate=jnp.bfloat16(-1)), "learning_rate=-1.0 must be greater than 0"),
        (dict(target_kl=0.0), "target_kl=0.0 must be greater than 0: use 1.0"),
        (dict(gamma=None), "gamma=None must be a number, or an array of numbers: use 0.99"),
        (dict(gamma="0.9"), "gamma='0.9' must be a number"),
        (dict(gamma=True), "gamma=True must be a number"),
        (dict(gamma=np.array([True])), "must be a number"),
        (dict(gamma=[0.9, 0.99]), "gamma=[0.9, 0.99] must be a number, or an array of numbers"),
        (dict(gamma=0.5j), "gamma=0.5j must be a number"),
        (dict(gamma=jax.random.key(0)), "must be a number"),
        (dict(gamma={}), "gamma={} must be a number"),
        (dict(entropy_coef=-HUGE), "entropy_coef=-2**16609 or more must be within"),
        (dict(learning_rat=1), "unknown hyperparameter 'learning_rat': did you mean learning_rate"),
        (dict(env="CartPole-v1"), "unknown hyperparameter 'env': known: "),
    ],
    ids=named,
)
def test_hyperparameters_that_no_configuration_would_have_are_refused(change, words):
    assert words in refusal(TINY.hyperparams().replace, **change)


@pytest.mark.parametrize("name", FLOATS)
def test_configuration_and_hyperparameters_have_the_same_bounds(name):
    for value in (-1.0, 0.0, 0.5, 1.0, 1.5):
        outcomes = []
        for call in (PPOConfig, TINY.hyperparams().replace):
            try:
                call(**{name: value})
            except ConfigError as error:
                outcomes.append("must be" in str(error))
            else:
                outcomes.append(False)
        assert outcomes[0] == outcomes[1], (name, value)


def test_hyperparameters_that_are_right_stay_as_they_are():
    hyper, rates = TINY.hyperparams(), jnp.array([1e-3, 1e-4])
    changed = hyper.replace(learning_rate=rates, max_grad_norm=None, target_kl=1, extra={"a": "b"})
    assert changed.learning_rate is rates
    assert (changed.max_grad_norm, changed.target_kl, changed.extra) == (None, 1, {"a": "b"})
    assert hyper.replace() == hyper
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    assert hyper.replace(gamma=shape).gamma is shape
    # traced values pass: they are not known
    traced = jax.vmap(lambda rate: hyper.replace(learning_rate=rate))(jnp.array([-1.0, 1.0]))
    assert traced.learning_rate.shape == (2,)


# -- names of fields -----------------------------------------------------------------------------


def test_learning_rat_is_refused_with_a_hint():
    text = refusal(PPOConfig, learning_rat=1)
    assert text.startswith("unknown option 'learning_rat': did you mean learning_rate")


@pytest.mark.parametrize(
    ("values", "by_name", "words"),
    [
        (("CartPole-v1",), {}, "PPOConfig('CartPole-v1') must name its fields: use PPOConfig(env="),
        (({"gamma": 0.5},), {}, "must name its fields"),
        ((), {"": 1}, "unknown option ''"),
        ((), {"self": 1}, "unknown option 'self'"),
        ((), {"LR": 1e-3, "learning_rate": 1e-3}, "learning_rate is given twice"),
        ((), {"lr": 1e-3}, "unknown option 'lr'"),
    ],
)
def test_what_is_no_field_is_refused_where_a_configuration_is_made(values, by_name, words):
    assert words in refusal(PPOConfig, *values, **by_name)


def test_a_configuration_is_made_copied_and_pickled_as_before():
    config = PPOConfig(LR=1e-3, gamma=0.5)
    assert config == PPOConfig(learning_rate=1e-3, gamma=0.5)
    assert pickle.loads(pickle.dumps(config)) == config == config.replace()
    assert PPOConfig.__init__.__wrapped__.__annotations__["gamma"] == "float"


# -- files ---------------------------------------------------------------------------------------

BROKEN = {
    "broken": (b"gamma = [", "is no TOML file: 'Invalid value (at end of document)'"),
    "no_utf8": (b"gamma = 0.5 # \xff\xfe", "is no TOML file: \"'utf-8' codec can't decode"),
    "twice": (b"gamma = 0.5\ngamma = 0.6", "is no TOML file: 'Cannot overwrite a value"),
    "zeros": (b"\0\0\0\0", "is no TOML file"),
    "deep": (b"gamma = " + b"[" * 100_000, "is no TOML file"),
    "digits": (b"num_envs = " + b"9" * 5000, "is no TOML file"),
    "table": (b"[ppo]\ngamma = 0.5", "'ppo' is a table, and no field: use"),
    "tables": (b"a.b.c = 1", "unknown option 'a'"),
    "value_is_a_table": (b"gamma = {value = 0.5}", "gamma={'value': 0.5} must be a number (float)"),
    "date": (b"gamma = 1979-05-27", "gamma=datetime.date(1979, 5, 27) must be a number (float)"),
    "date_option": (b"[env_options]\na = 1979-05-27", "env_options a=datetime.date(1979, 5, 27)"),
    "infinite": (b"num_envs = inf", "num_envs=inf must be finite: use 8"),
    "mixed": (b"hidden_sizes = [64, 'a']", "hidden_sizes entry='a' must be a number (int): use 64"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_from_toml_of_a_broken_file_is_refused(name, tmp_path):
    content, words = BROKEN[name]
    (tmp_path / "config.toml").write_bytes(content)
    assert words in refusal(PPOConfig.from_toml, tmp_path / "config.toml")


def test_from_toml_of_no_file_is_refused(tmp_path):
    assert "nowhere.toml' cannot be read: No such file" in refusal(
        PPOConfig.from_toml, tmp_path / "nowhere.toml"
    )
    assert "cannot be read: Is a directory" in refusal(PPOConfig.from_toml, str(tmp_path))
    for path in (5, None, b"config.toml", ["a"]):
        assert "must be the name of a file" in refusal(PPOConfig.from_toml, path)


def test_an_empty_file_is_the_default(tmp_path):
    (tmp_path / "config.toml").touch()
    assert PPOConfig.from_toml(tmp_path / "config.toml") == PPOConfig()


def test_to_toml_into_a_missing_folder_raises_what_python_raises(tmp_path):
    """Whoever writes knows what to do about a full disk; the error names the file."""
    with pytest.raises(FileNotFoundError, match=r"nowhere/config\.toml"):
        TINY.to_toml(tmp_path / "nowhere/config.toml")
    assert not list(tmp_path.iterdir())


# -- counts --------------------------------------------------------------------------------------

COUNTS = [
    "num_envs", "num_steps", "num_epochs", "num_minibatches", "reset_batch", "chunk_size",
    "n_step", "core_size", "sequence_length",
]  # fmt: skip


def test_num_envs_of_5000_digits_is_refused():
    text = refusal(PPOConfig, num_envs=HUGE)
    assert text == "num_envs=2**16609 or more must be below 2**31 (indices are int32): use 8"


def test_num_envs_that_take_long_to_divide_are_refused_at_once():
    assert "num_envs=100000000000000001 must be below 2**31" in refusal(
        PPOConfig, num_envs=10**17 + 1
    )


@pytest.mark.parametrize("name", [*COUNTS, "hidden_sizes"])
@pytest.mark.parametrize("value", [2**31, 10**18, HUGE, 1e300], ids=named)
def test_a_count_beyond_int32_is_refused_in_every_field(name, value):
    value = (value,) if name == "hidden_sizes" else value
    text = refusal(PPOConfig, **{name: value})
    assert text.startswith(f"{name}=") and "below 2**31" in text
    assert len(text) < 200


@pytest.mark.parametrize("name", ["seeds", "keep_checkpoints", "eval_episodes"])
def test_a_count_of_a_run_beyond_int32_is_refused(name):
    for value in (2**31, HUGE):
        assert f"{name}=" in refusal(FitOptions, eval_every=8, **{name: value})


def test_a_batch_beyond_int32_is_refused():
    text = refusal(PPOConfig, num_envs=2**16, num_steps=2**15, total_timesteps=2**31)
    assert text.startswith("num_envs=65536 and num_steps=32768 must make a batch below 2**31")
    assert text.endswith("not 2147483648: use num_steps=32767")
    assert PPOConfig(num_envs=2**16, num_steps=32767, total_timesteps=2**16 * 32767)


@pytest.mark.parametrize(
    "sizes",
    [
        dict(num_envs=2**31 - 1, num_steps=1, num_minibatches=7),
        dict(num_envs=1, num_steps=2**31 - 2, num_minibatches=2**30),
        dict(core="gru", num_envs=3 * 5 * 7 * 11 * 13, num_steps=2**15, num_minibatches=10**6),
        dict(core="gru", num_envs=1, num_steps=2**30, sequence_length=3, num_minibatches=1),
        dict(num_envs=2**20, num_steps=2**10, chunk_size=3),
    ],
    ids=named,
)
def test_the_largest_sizes_are_refused_at_once(sizes):
    refusal(PPOConfig, **sizes)


def test_total_timesteps_of_3e12_are_refused_where_updates_exceed_int32():
    text = refusal(PPOConfig, total_timesteps=3 * 10**12)
    assert text == (
        "total_timesteps=3000000000000 must hold fewer than 2**31 updates of num_envs * num_steps "
        "= 1000: use 2147483647000"
    )


@pytest.mark.parametrize(
    "sizes",
    [
        dict(total_timesteps=(2**31 - 1) * 8, num_envs=2, num_steps=4),
        dict(total_timesteps=10**12, num_envs=4096, num_steps=5**6),
    ],
    ids=named,
)
def test_a_trillion_steps_can_be_traced(sizes):
    """More steps than int32 counts, in as many updates as it does."""
    config = TINY.replace(**sizes)
    out = jax.eval_shape(make_train(config), jax.random.key(0))
    assert out.metrics.episodes.shape == (config.num_updates,)
    assert config.timesteps == config.total_timesteps == sizes["total_timesteps"]


@pytest.mark.parametrize("value", [2**62, 10**30, HUGE], ids=named)
def test_more_steps_than_int64_counts_are_refused(value):
    assert "total_timesteps=" in refusal(PPOConfig, total_timesteps=value)
    assert "eval_every=" in refusal(FitOptions, eval_every=value)


# -- whole numbers -------------------------------------------------------------------------------


def test_total_timesteps_1e6_is_accepted_on_the_command_line():
    _, config = parse_train(["CartPole-v1", "--total-timesteps", "1e6"])
    assert config.total_timesteps == 1_000_000
    options, config = parse_train(
        ["CartPole-v1", "--eval-every=1e5", "--checkpoint-every", "2.5e4", "--seeds", "2e0",
         "--hidden-sizes", "1.28e2", "64", "--chunk-size", "None"]
    )  # fmt: skip
    assert (options.eval_every, options.checkpoint_every, options.seeds) == (100_000, 25_000, 2)
    assert (config.hidden_sizes, config.chunk_size) == ((128, 64), None)


@pytest.mark.parametrize(
    "text", ["1.5", "1e400", "nan", "", "x", "9" * 5000, "1e", "0x10", "é"], ids=named
)
def test_other_texts_are_no_whole_numbers(text, command):
    line = one_line(command("train", "CartPole-v1", "--total-timesteps", text))
    assert "--total-timesteps" in line
    assert "whole number, such as 1000 or 1e6" in line


# -- options of an environment -------------------------------------------------------------------


def test_a_literal_that_python_cannot_make_is_a_text():
    assert parse_options(["a={[]:1}"]) == {"a": "{[]:1}"}
    assert PPOConfig(env_options=["a={[]:1}"]).env_options == ("a={[]:1}",)


@pytest.mark.parametrize(
    "text",
    ["[" * 5000 + "]" * 5000, "-" * 100_000 + "1", "(" * 300, "1+" * 100_000, "9" * 5000, "\\0",
     "{{}}", "a" + ".a" * 50_000, "1is 2", "{**{}}", "f()", "nan"],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_whatever_is_no_literal_is_a_text(text):
    begin = time.process_time()
    assert parse_options([f"a={text}"]) == {"a": text}
    assert PPOConfig(env_options={"a": text}).env_options == (f"a={text}",)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "env_options entry '' must be name=value"),
        ([""], "env_options entry '' must be name=value"),
        (["a b=1"], "env_options entry 'a b=1' must be name=value"),
        (["a=1", "a=2"], "env_options entry 'a' is given twice: keep one of ['a=1', 'a=2']"),
        (["a=\udc80"], "env_options entry 'a=\\udc80' must be text"),
        ([5], "env_options=[5] must be a mapping: use {'max_steps': 500}"),
        (None, "env_options=None must be a mapping"),
        ({1: 2}, "env_options key 1 must be a name: use {'max_steps': 500}"),
        ({"max steps": 5}, "env_options key 'max steps' must be a name"),
        ({"": 5}, "env_options key '' must be a name"),
        ({"a": float("nan")}, "env_options a=nan must be a value that Python writes and reads"),
        ({"a": float("inf")}, "env_options a=inf must be"),
        ({"a": [1, float("nan")]}, "env_options a=[1, nan] must be"),
        ({"a": object}, "env_options a=<class 'object'> must be"),
        ({"a": HUGE}, "env_options a=2**16609 or more must be"),
        ({"a": datetime.date(2000, 1, 1)}, "env_options a=datetime.date(2000, 1, 1) must be"),
        ({"a": np.ones((2, 2))}, "env_options a=array([[1., 1.], [1., 1.]]) must be"),
    ],
    ids=named,
)
def test_options_that_would_not_be_read_back_are_refused(options, words):
    assert words in refusal(PPOConfig, env_options=options)


def test_a_list_without_an_end_is_refused():
    endless = []
    endless.append(endless)
    assert "env_options a=" in refusal(PPOConfig, env_options={"a": endless})


@pytest.mark.parametrize(
    ("value", "read"),
    [(np.int64(5), 5), (np.float64(0.5), 0.5), (np.bool_(True), True), (jnp.int32(5), 5),
     ("5", "5"), ("'a'", "'a'"), (np.str_("b"), "b"), ("", ""), (" 5", " 5"), ("a=b\n", "a=b\n"),
     ([1, {"b": (2, None)}], [1, {"b": (2, None)}]), (np.array([1, 2]), [1, 2]), (b"x", b"x")],
    ids=named,
)  # fmt: skip
def test_options_are_read_back_as_they_were(value, read):
    back = parse_options(PPOConfig(env_options={"name": value}).env_options)
    assert back == {"name": read}
    assert type(back["name"]) is type(read)


# -- presets and algorithms ----------------------------------------------------------------------


def test_a_preset_of_an_unknown_algorithm_is_refused():
    text = refusal(PPOConfig.preset, "CartPole-v1", "dqn")
    assert text == "algorithm='dqn' is not a choice: known: a2c, ppo, ppo_kl, reinforce"


@pytest.mark.parametrize(
    "algorithm", ["", "replace", "__init__", "PPO", None, 5, [], "x" * 10**6], ids=named
)
def test_an_algorithm_is_one_of_those_that_there_are(algorithm):
    assert "is not a choice" in refusal(PPOConfig.preset, "CartPole-v1", algorithm)


@pytest.mark.parametrize(
    "name", ["../x", "", "none", "/etc/passwd", None, 5, [], HUGE, "x" * 10**6], ids=named
)
def test_a_preset_is_one_of_those_that_there_are(name):
    assert refusal(PPOConfig.preset, name).startswith("unknown preset ")


@pytest.mark.parametrize("weights", ["middle", "", None, 5, [], HUGE], ids=named)
def test_weights_are_one_of_those_that_there_are(weights):
    for call in (load_agents, lambda run, weights: render(run, weights=weights)):
        assert refusal(call, "nowhere", weights).startswith("weights=")
    assert "known: best, final" in refusal(load_agents, "nowhere", "middle")


@pytest.mark.parametrize("format", ["tflite", "", None, 5, []])
def test_a_format_is_one_of_those_that_there_are(format):
    assert refusal(export_policy, "nowhere", format).startswith("format=")


# -- values of NumPy and jax ---------------------------------------------------------------------


def test_a_bool_of_numpy_is_a_bool():
    config = PPOConfig(normalize_rewards=np.bool_(True), layer_norm=jnp.bool_(False))
    assert (config.normalize_rewards, config.layer_norm) == (True, False)
    assert type(config.normalize_rewards) is bool


def test_hidden_sizes_of_numpy_are_a_tuple():
    for sizes in (
        np.array([64, 32]),
        jnp.array([64, 32]),
        np.array([64.0, 32.0]),
        [64, np.int8(32)],
    ):
        config = PPOConfig(hidden_sizes=sizes)
        assert config.hidden_sizes == (64, 32)
        assert all(type(size) is int for size in config.hidden_sizes)


class Word(enum.StrEnum):
    RELU = "relu"


class Number(enum.IntEnum):
    FOUR = 4


def test_other_scalars_are_plain_ones():
    config = PPOConfig(
        num_envs=np.uint8(4), num_steps=np.array(250), gamma=np.float16(0.5), learning_rate=
        jnp.bfloat16(0.5), activation=Word.RELU, num_epochs=Number.FOUR, env=np.str_("x"),
        env_options=np.array(["a=1"]),
    )  # fmt: skip
    assert config == PPOConfig(
        num_envs=4, num_steps=250, gamma=0.5, learning_rate=0.5, activation="relu", env="x",
        env_options=("a=1",),
    )  # fmt: skip
    plain = (int, float, str, bool, tuple, type(None))
    assert all(type(value) in plain for value in config.to_dict().values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(num_envs="8"), "num_envs='8' must be a number (int): use 8"),
        (dict(num_envs=True), "num_envs=True must be a number (int): use 8"),
        (dict(num_envs=np.bool_(True)), "num_envs=True must be a number (int): use 8"),
        (dict(gamma=np.array("0.9")), "gamma='0.9' must be a number (float): use 0.99"),
        (dict(layer_norm="yes"), "layer_norm='yes' must be of type bool: use True or False"),
        (dict(layer_norm=np.int64(1)), "layer_norm=1 must be of type bool: use True or False"),
        (dict(hidden_sizes=64), "hidden_sizes=64 must be of type tuple[int, ...]: use (64, 64)"),
        (dict(hidden_sizes=b"64"), "hidden_sizes=b'64' must be of type tuple[int, ...]: use"),
        (dict(hidden_sizes={64}), "hidden_sizes={64} must be of type tuple[int, ...]: use"),
        (dict(hidden_sizes=np.ones((2, 2))), "must be of type tuple[int, ...]: use (64, 64)"),
        (dict(hidden_sizes=np.ones(10**6)), "must be of type tuple[int, ...]: use (64, 64)"),
        (dict(hidden_sizes=[[64]]), "hidden_sizes entry=[64] must be a number (int): use 64"),
        (dict(objective=b"clip"), "objective=b'clip' must be of type text: use 'clip'"),
        (dict(env=None), "env=None must be of type str: use 'CartPole-v1'"),
        (dict(env="\udc80"), "env='\\udc80' must be text that can be written to a file"),
        (dict(num_envs=-1.5), "num_envs=-1.5 must be a whole number: use 8"),
    ],
    ids=named,
)
def test_a_value_of_another_type_is_refused_with_one_that_works(change, words):
    assert words in refusal(PPOConfig, **change)


@pytest.mark.parametrize(
    ("declared", "value", "words"),
    [
        (int, "x", "size='x' must be a number (int): use 1"),
        (float, None, "size=None must be a number (float): use 1.0"),
        (float | None, "x", "size='x' must be a number (float): use None"),
        (str, 5, "size=5 must be of type str: use 'name'"),
        (bool, 5, "size=5 must be of type bool: use True or False"),
        (tuple[int, ...], 5, "size=5 must be of type tuple[int, ...]: use (64, 64)"),
    ],
)
def test_a_value_by_itself_is_refused_with_one_of_its_type(declared, value, words):
    assert words == refusal(coerce, "size", declared, value)


# -- traced values -------------------------------------------------------------------------------


def test_a_learning_rate_that_is_traced_is_sent_to_the_hyperparameters():
    def run(rate):
        return make_train(TINY.replace(learning_rate=rate))(jax.random.key(0))

    text = refusal(jax.vmap(run), jnp.array([1e-3, 1e-4]))
    assert text.startswith("learning_rate is traced")
    way = "make_train(config)(key, config.hyperparams().replace(learning_rate=...))"
    assert text.endswith(way)
    # and that way works
    out = jax.eval_shape(
        jax.vmap(
            lambda rate: make_train(TINY)(
                jax.random.key(0), TINY.hyperparams().replace(learning_rate=rate)
            )
        ),
        jnp.array([1e-3, 1e-4]),
    )
    assert out.metrics.episodes.shape == (2, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: PPOConfig(max_grad_norm=x), "replace(max_grad_norm=...)"),
        (lambda x: TINY.replace(LR=x), "replace(learning_rate=...)"),
        (lambda x: PPOConfig.from_dict({"gamma": x}), "replace(gamma=...)"),
        (lambda x: PPOConfig(num_envs=x), "num_envs is traced, but fixes the program"),
        (lambda x: PPOConfig(hidden_sizes=(x, 4)), "hidden_sizes is traced, but fixes"),
        (lambda x: PPOConfig(hidden_sizes=x), "hidden_sizes is traced, but fixes"),
        (lambda x: PPOConfig(layer_norm=x > 0), "layer_norm is traced, but fixes"),
        (lambda x: PPOConfig(env_options={"a": x}), "env_options a is traced, but fixes"),
        (lambda x: PPOConfig.from_dict({"ANNEAL_LR": x}), "ANNEAL_LR is traced, but fixes"),
        (lambda x: FitOptions(seeds=x), "seeds is traced, but fixes"),
    ],
)
@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.make_jaxpr])
def test_whatever_is_traced_is_refused_by_a_configuration(transform, call, words):
    assert words in refusal(transform(call), jnp.ones(2))


# -- keys and hyperparameters of a run -----------------------------------------------------------


@pytest.fixture(scope="module")
def train():
    return make_train(TINY)


def test_a_mapping_is_no_hyperparameters(train):
    text = refusal(train, jax.random.key(0), {"learning_rate": 1e-3})
    assert text == (
        "hyperparams={'learning_rate': 0.001} must be Hyperparams: use "
        "config.hyperparams().replace(learning_rate=1e-3)"
    )


@pytest.mark.parametrize(
    "hyper", [TINY, 1e-3, (1e-3, 0.99), tuple(TINY.hyperparams()), "gamma", jnp.ones(3)], ids=named
)
def test_something_else_is_no_hyperparameters(train, hyper):
    for call in (train, jax.eval_shape):
        given = (
            (train,) if call is jax.eval_shape and not isinstance(hyper, PPOConfig | str) else ()
        )
        if call is train or given:
            text = refusal(call, *given, jax.random.key(0), hyper)
            assert "must be Hyperparams: use config.hyperparams()" in text


def test_hyperparameters_are_checked_once_more_where_they_are_used(train):
    hyper, key = TINY.hyperparams(), jax.random.key(0)
    assert "gamma=7 must be between 0 and 1: use 0.99" in refusal(
        train, key, hyper._replace(gamma=7)
    )
    learner = make_learner(TINY)
    assert "gamma=nan must be finite" in refusal(learner.init, key, hyper._replace(gamma=np.nan))
    state = jax.eval_shape(learner.init, key)
    assert "gamma='x' must be a number" in refusal(learner.update, state, hyper._replace(gamma="x"))


def test_several_hyperparameters_of_one_run_are_refused(train):
    hyper = TINY.hyperparams().replace(learning_rate=jnp.array([1e-3, 1e-4]))
    text = refusal(train, jax.random.key(0), hyper)
    assert text.startswith("learning_rate is an array [2], a run takes one number: use jax.vmap(")
    # traced ones too
    assert "learning_rate is an array [2]" in refusal(
        jax.eval_shape, train, jax.random.key(0), hyper
    )


@pytest.mark.parametrize(
    "key",
    [0, "x", None, 0.5, np.zeros(2), jnp.zeros(2), jnp.zeros(3, jnp.uint32), (0, 1), [0, 1], {},
     np.zeros(2, np.int64)],
    ids=named,
)  # fmt: skip
def test_something_else_is_no_key(train, key):
    text = refusal(train, key)
    assert text.startswith("key=") and text.endswith("must be a random key: use jax.random.key(0)")


@pytest.mark.filterwarnings("ignore:The default key")
def test_several_keys_of_one_run_are_refused(train):
    for keys in (
        jax.random.split(jax.random.key(0), 3),
        jax.random.split(jax.random.PRNGKey(0), 3),
        jax.random.split(jax.random.key(0), (2, 3)),
    ):
        text = refusal(train, keys)
        assert text.startswith("key is an array of keys [")
        assert text.endswith("a run takes one: use jax.vmap(train)(keys)")
    out = jax.eval_shape(jax.vmap(train), jax.random.split(jax.random.key(0), 3))
    assert out.metrics.episodes.shape == (3, 2)


def test_legacy_keys_are_accepted(train):
    legacy = jax.random.PRNGKey(0)
    new = jax.eval_shape(train, jax.random.key(0))
    for key in (legacy, np.asarray(legacy)):
        assert jax.tree.structure(jax.eval_shape(train, key)) == jax.tree.structure(new)


# -- options of commands -------------------------------------------------------------------------


def test_eval_with_a_seed_of_64_bits_is_refused(command):
    line = one_line(command("eval", "r", "--seed", str(2**63)))
    assert "seed=9223372036854775808 must be below 2**32 (a random key takes 32 bits)" in line


def test_seeds_that_keys_do_not_tell_apart_are_refused():
    """Without 64 bits, jax makes the key of 2**32 and that of 0 from the same words."""
    words = [jax.random.key_data(jax.random.key(seed)) for seed in (0, 2**32)]
    np.testing.assert_array_equal(*words)
    assert "seed=4294967296 must be below 2**32" in refusal(FitOptions, seed=2**32)
    assert "seed=4294967296 must be below 2**32" in refusal(fit, TINY, seed=2**32)
    assert FitOptions(seed=2**32 - 1).seed == 2**32 - 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("eval r --seed -1", "seed=-1 must be 0 or greater: use 0"),
        ("eval r --episodes 0", "episodes=0 must be at least 1: use 100"),
        ("eval r --episodes 1e10", "episodes=10000000000 must be below 2**31"),
        ("eval r --episodes nan", "'nan' is no whole number"),
        ("eval r --episodes many", "'many' is no whole number"),
        ("eval r --weights middle", "invalid choice 'middle'"),
        ("render r --fps 0", "fps=0 must be within 1 .. 50: use 30"),
        ("render r --fps 1e9", "fps=1000000000 must be within 1 .. 50: use 30"),
        ("render r --fps 12.5", "'12.5' is no whole number"),
        ("render r --max-steps 0", "max_steps=0 must be at least 1: use 500"),
        ("render r --seed -1", "seed=-1 must be 0 or greater: use 0"),
        ("render r --agent -1", "agent=-1 must be 0 or greater: use 0"),
        ("export r --agent -1", "agent=-1 must be 0 or greater: use 0"),
        ("export r --agent 1e30", "agent=1000000000000000019884624838656 must be below 2**31"),
        ("export r --format tflite", "invalid choice 'tflite'"),
        ("check-env CartPole-v1 --num-steps 0", "num_steps=0 must be at least 1: use 200"),
        ("check-env CartPole-v1 --num-steps 1e12", "num_steps=1000000000000 must be below 2**31"),
        ("train CartPole-v1 --seeds 0", "seeds=0 must be at least 1: use 1"),
        ("train CartPole-v1 --seed 4294967296", "seed=4294967296 must be below 2**32"),
        ("train CartPole-v1 --keep-checkpoints 0", "keep_checkpoints=0 must be at least 1: use 3"),
        ("train CartPole-v1 --checkpoint-every -5", "checkpoint_every=-5 must be at least 1"),
        ("train CartPole-v1 --eval-every 0", "eval_every=0 must be at least 1: use None"),
        ("train CartPole-v1 --algorithm dqn", "invalid choice 'dqn'"),
        ("plot", "no run is named"),
        ("report", "no run is named"),
        ("eval", "Missing from purejaxppo eval: RUN"),
    ],
)
def test_options_of_commands_have_bounds(command, words, message):
    assert message in one_line(command(*words.split()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(fps=0), "fps=0 must be within 1 .. 50: use 30"),
        (dict(fps=12.5), "fps=12.5 must be a whole number: use 12"),
        (dict(max_steps=HUGE), "max_steps=2**16609 or more must be below 2**31"),
        (dict(seed=2**63), "seed=9223372036854775808 must be below 2**32"),
        (dict(agent="first"), "agent='first' must be a number (int): use 0"),
        (dict(overwrite="yes"), "overwrite='yes' must be of type bool: use True or False"),
    ],
    ids=named,
)
def test_options_of_films_have_the_same_bounds_in_python(change, words):
    assert words in refusal(render, "nowhere", **change)


@pytest.mark.parametrize("name", ["none", "None"])
def test_a_folder_may_be_called_none(name):
    """Only where a text would not do, "none" stands for None."""
    assert fit_options({"run_dir": name, "target_return": "none"}).run_dir == name
    assert fit_options({"run_dir": Path(name)}).run_dir == str(Path(name))


# -- arguments -----------------------------------------------------------------------------------


def test_tyro_print_completion_is_refused_in_one_line(command):
    line = one_line(command("train", "--tyro-print-completion", "x"))
    assert line == (
        "purejaxppo: unknown option '--tyro-print-completion': `purejaxppo train --help` lists "
        "them\n"
    )


@pytest.mark.parametrize(
    "name", ["train", "eval", "plot", "render", "report", "export", "check-env"]
)
@pytest.mark.parametrize(
    "words",
    [
        ("--tyro-print-completion", "bash"),
        ("--tyro_print_completion", "x"),
        ("--tyro-write-completion", "bash", "written"),
        ("x", "--tyro-write-completion", "zsh", "written"),
    ],
)
def test_flags_of_tyro_are_no_options(command, name, words, tmp_path):
    assert "unknown option '--tyro-" in one_line(command(name, *words))
    assert not list(tmp_path.iterdir())


STRANGE = {
    "empty": ("",),
    "dashes": ("--", "x"),
    "unicode": ("é", "-ü"),
    "newline": ("a\nb",),
    "newline_option": ("--g\nb", "c"),
    "newline_value": ("--gamma", "0\n9"),
    "no_text": ("\udc80\udcff",),
    "no_text_value": ("--gamma", "\udc80"),
    "zero": ("--gamma", "\0"),
    "box": ("--gamma", "╭─╮ │ x"),
    "markup": ("--gamma", "[bold]x[/"),
    "colours": ("--gamma", "\x1b[31mred"),
    "help": ("--gamma", "For full helptext"),
    "long_value": ("--gamma", "x" * 100_000),
    "long_option": ("--" + "x" * 100_000,),
    "long_words": ("x",) * 1000,
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_arguments_are_refused_in_one_line(command, name):
    begin = time.process_time()
    one_line(command("train", "CartPole-v1", *STRANGE[name]))
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("utf8", [True, False])
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "train CartPole-v1 --gamma x",
            "Error parsing --gamma: could not convert string to float: 'x' Argument helptext: "
            "--gamma FLOAT Discount per step. (default: 0.99)",
        ),
        (
            "train CartPole-v1 --gama 0.9",
            "Unrecognized options: --gama, 0.9 Perhaps you meant: --gamma FLOAT Discount per "
            "step. (default: 0.99)",
        ),
        (
            "eval r --weights x",
            "invalid choice 'x' for argument '--weights'. Expected one of ('final', 'best').",
        ),
    ],
)
def test_reports_lose_their_box_whatever_it_is_drawn_with(monkeypatch, words, line, utf8):
    monkeypatch.setattr(sys, "argv", ["purejaxppo", *words.split()])
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8" if utf8 else "ascii")
    err = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit):
        cli.main()
    # lines are wrapped, where it may be before a stop
    assert err.getvalue().replace(") .", ").") == f"purejaxppo: {line}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--gamma 0.9 --gamma 0.8", "--gamma is given twice: keep one of them"),
        ("--gamma=0.9 --gamma 0.8", "--gamma is given twice"),
        ("--env-options a=1 --env-options b=2", "--env-options is given twice"),
        ("--num-envs 4 --num_envs 8", "--num-envs is given twice"),
        ("--hidden-sizes", "hidden_sizes=() must be one or more positive widths: use (64, 64)"),
        ("--hidden-sizes none", "--hidden-sizes"),
        ("--hidden-sizes 64 -1", "hidden_sizes=(64, -1) must be one or more positive widths"),
        ("--env-options max_steps", "env_options entry 'max_steps' must be name=value"),
        ("--preset ../x", "unknown preset '../x'"),
        ("--gamma", "Missing value for argument '--gamma'"),
        ("--json=True", "Unrecognized options"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_in_one_line(command, words, message):
    assert message in one_line(command("train", "CartPole-v1", *words.split()))


def test_env_options_without_values_are_none():
    _, config = parse_train(["CartPole-v1", "--env-options"])
    assert config.env_options == ()


# -- keys of PureJaxRL ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({1: 2}, "unknown option 1: known: "),
        ({(1, 2): 3}, "unknown option (1, 2): known: "),
        ({None: 3}, "unknown option None: known: "),
        ({HUGE: 3}, "unknown option 2**16609 or more: known: "),
        ({"LR": 1, "learning_rate": 1}, "learning_rate is given twice"),
        ({"NORMALIZE_ENV": True, "normalize_rewards": True}, "normalize_rewards is given twice"),
        ({"ANNEAL_LR": "yes"}, "ANNEAL_LR='yes' must be of type bool: use True or False"),
        ({"ANNEAL_LR": None}, "ANNEAL_LR=None must be of type bool"),
        ({"NORMALIZE_ENV": 1}, "NORMALIZE_ENV=1 must be of type bool"),
        ({"DEBUG": []}, "DEBUG=[] must be of type bool"),
        ({"LR": "x"}, "learning_rate='x' must be a number (float): use 0.00025"),
        ({"LR": print}, "learning_rate=<built-in function print>"),
        ({"NUM_ENVS": [4]}, "num_envs=[4] must be a number (int): use 8"),
        ({"ACTIVATION": None}, "activation=None must be of type text: use 'tanh'"),
        ({"ENV_NAME": 5}, "env=5 must be of type str: use 'CartPole-v1'"),
    ],
    ids=named,
)
def test_mappings_that_are_no_configuration_are_refused(values, words):
    assert words in refusal(PPOConfig.from_dict, values)
    assert words in refusal(make_train, values)


@pytest.mark.parametrize("values", [None, 5, "gamma", [("gamma", 0.5)], SimpleNamespace(gamma=0.5)])
def test_something_else_is_no_mapping(values):
    for call in (PPOConfig.from_dict, make_train):
        assert "pass a PPOConfig or a mapping of its fields" in refusal(call, values)


def test_bools_of_numpy_are_understood_by_upper_case_keys():
    config = PPOConfig.from_dict({"ANNEAL_LR": np.bool_(True), "NORMALIZE_ENV": np.bool_(False)})
    assert config == PPOConfig(learning_rate_final_scale=0.0)
