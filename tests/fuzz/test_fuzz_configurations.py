"""Any values give a whole configuration or one line, at once; what is whole survives all ways."""

import dataclasses
import math
import pickle
import time
import typing

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import examples
from support.values import EDGES, hidden, one_of, values

from purejaxppo import ConfigError, Hyperparams, PPOConfig
from purejaxppo.config.purejaxrl import UPPER_CASE
from purejaxppo.hyperparams import OPTIONAL

FIELDS = [field.name for field in dataclasses.fields(PPOConfig)]
SCALARS = [name for name in Hyperparams._fields if name != "extra"]
BELOW_ONE = {"adam_b1", "adam_b2", "momentum", "rms_decay"}
FRACTIONS = {"gamma", "gae_lambda", "exploration_gamma", *BELOW_ONE}
FRACTIONS |= {name for name in SCALARS if name.endswith(("final_scale", "warmup"))}
MAY_BE_ZERO = {*FRACTIONS, "kl_coef", "value_coef", "entropy_coef", "weight_decay"}
MAY_BE_ZERO |= {"exploration_coef"}

# values that a field can take, of which some do not go with others
FITTING = {
    "env": ["CartPole-v1", 'odd "name"\n\\', "é"],
    "env_options": [
        (),
        {},
        ("max_steps=5",),
        ("a.b=1",),
        {"max_steps": 5, "backend": "spring", "x": [1, {}]},
    ],
    "info_metrics": [(), ["a"], ("a/b", "é"), ("a", "a"), np.array(["a"])],
    "actor_observation": [(), ["a"], ("a/b", "é"), ("a", "a")],
    "critic_observation": [(), ["a"], ("a", "b/c"), np.array(["a"])],
    "total_timesteps": [8000, 1.6e4, 8100, 10**12],
    "reset_batch": [None, 1, 2, 9],
    "core_size": [1, 8],
    "core_layers": [1, 3],
    "core_heads": [1, 4, 8, 3],
    "core_window": [1, 64, 10**6],
    "exploration_size": [1, 8],
    "sequence_length": [None, 1, 5],
    "hidden_sizes": [(8,), [4, 4], (4, 0), np.array([8, 8])],
    "critic_hidden_sizes": [(), (8,), [4, 4], (4, 0)],
    "chunk_size": [None, 1, 2, 3],
    "n_step": [1, 5, 9],
    "value_bins": [2, 21],
    "value_min": [-10.0, -1, 30],
    "value_max": [20.0, -5, np.float32(1)],
    "value_sigma": [0.75, 2],
    **dict.fromkeys(("num_envs", "num_steps", "num_epochs", "num_minibatches"), (1, 2, 4, 8)),
    **dict.fromkeys(SCALARS, (0.0, 0.01, 0.5, 1.0, np.float32(0.5))),
    **dict.fromkeys(OPTIONAL, (None, 0.0, 0.5, "none")),
    **dict.fromkeys(("learning_rate", "learning_rate_min", "learning_rate_max"), (1e-3, 1e-2, 0.5)),
}
for name, declared in typing.get_type_hints(PPOConfig).items():
    if typing.get_origin(declared) is typing.Literal:
        FITTING[name] = typing.get_args(declared)
    if declared is bool:
        FITTING[name] = [True, False, np.bool_(True)]

ODD = values()


def value_of(name):
    """Mostly values of the right kind, some that are not."""
    fitting = one_of(FITTING[name])
    edges = one_of(EDGES)
    return st.integers(0, 9).flatmap(lambda i: [ODD, edges][i] if i < 2 else fitting)


def changes_of(names):
    """Values of a few fields."""
    return st.sets(st.sampled_from(names), max_size=6).flatmap(
        lambda chosen: st.fixed_dictionaries({name: value_of(name) for name in sorted(chosen)})
    )


CHANGES = changes_of(FIELDS)
FIELD_OF = {key: field for key, field in UPPER_CASE.items() if isinstance(field, str)}


def upper(changes):
    """The same by the keys of PureJaxRL, where it has one."""
    keys = {field: key for key, field in FIELD_OF.items()}
    return {keys.get(name, name): value for name, value in changes.items()}


def outcome(call, *args, **kwargs):
    """What a call gives; None where it is refused in one line. Either takes less than a second."""
    begin = time.process_time()
    try:
        result = call(*args, **kwargs)
    except ConfigError as error:
        result = None
        text = str(error)
        assert text and len(text.splitlines()) == 1, text
    assert time.process_time() - begin < 1
    return result


def whole(config):
    """The invariants of a configuration that was accepted."""
    assert 1 <= config.batch_size == config.num_envs * config.num_steps < 2**31
    assert config.minibatch_size * config.num_minibatches == config.batch_size
    assert 0 <= config.total_timesteps - config.timesteps < config.batch_size
    assert 1 <= config.num_updates < 2**31
    for name, declared in typing.get_type_hints(PPOConfig).items():
        if name in FIELDS:
            kinds = typing.get_args(declared) if "None" in str(declared) else (declared,)
            literal = typing.get_origin(declared) is typing.Literal
            kinds = (str,) if literal else [typing.get_origin(kind) or kind for kind in kinds]
            assert type(getattr(config, name)) in kinds, name
    assert config.hidden_sizes
    widths = (*config.hidden_sizes, *config.critic_hidden_sizes)
    assert all(type(size) is int and 1 <= size < 2**31 for size in widths)
    for name in SCALARS:
        in_range(name, getattr(config, name))
    if config.learning_rate_schedule == "kl_adaptive":
        assert config.learning_rate_min <= config.learning_rate <= config.learning_rate_max


def in_range(name, value):
    """Asserts that a number of a hyperparameter has a meaning, where float32 is computed with."""
    if value is None:
        assert name in OPTIONAL
        return
    with np.errstate(over="ignore", under="ignore"):
        single = float(np.float32(value))
    assert math.isfinite(single)
    assert single > 0 or (single == value == 0 and name in MAY_BE_ZERO)
    assert single == 0 or single >= float(np.finfo(np.float32).tiny)
    assert single <= 1 or name not in FRACTIONS
    assert single < 1 or name not in BELOW_ONE


def survives(config, folder):
    """Goes all ways out and in, and comes back as it was."""
    whole(config)
    assert PPOConfig(**config.to_dict()) == config
    assert PPOConfig.from_dict(config.to_dict()) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.replace() == config
    assert hash(config.replace()) == hash(config)
    config.to_toml(folder / "config.toml")
    assert PPOConfig.from_toml(folder / "config.toml") == config
    assert config.hyperparams().replace() == config.hyperparams()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("configurations")


@examples(100, 800)
@given(changes=hidden(CHANGES))
def test_any_values_give_a_whole_configuration_or_one_line(folder, changes):
    config = outcome(PPOConfig, **{"total_timesteps": 8000, **changes.value})
    if config is not None:
        survives(config, folder)


@examples(60, 600)
@given(changes=hidden(CHANGES), kept=hidden(CHANGES))
def test_a_configuration_that_is_changed_is_whole_or_refused(folder, changes, kept):
    first = outcome(PPOConfig, **{"total_timesteps": 8000, **kept.value}) or PPOConfig()
    before = first.to_dict()
    config = outcome(first.replace, **changes.value)
    assert first.to_dict() == before
    if config is not None:
        survives(config, folder)


KEYS = st.one_of(
    st.sampled_from([*UPPER_CASE, *FIELDS]), st.text(max_size=6), st.integers(), st.none(),
    one_of([10**5000, (1, 2), b"LR", "lr", "SEED", "learning_rat"]),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:DEBUG prints nothing")
@examples(60, 600)
@given(
    mapping=hidden(
        st.one_of(
            CHANGES.map(upper),
            st.dictionaries(st.sampled_from(list(UPPER_CASE)), ODD, max_size=3),
            st.dictionaries(KEYS, ODD, max_size=3),
            ODD,
        )
    )
)
def test_any_mapping_gives_a_whole_configuration_or_one_line(folder, mapping):
    config = outcome(PPOConfig.from_dict, mapping.value)
    if config is not None:
        survives(config, folder)


@examples(60, 600)
@given(
    changes=hidden(
        st.dictionaries(
            st.sampled_from([*SCALARS, *SCALARS, *SCALARS, "extra", "env", "nonsense"]),
            st.one_of(
                ODD,
                one_of(EDGES),
                one_of([0.5, 1, np.array([0.25, 0.5]), jnp.array([0.5, 1.0])]),
                st.lists(st.floats(width=32), min_size=1, max_size=3).map(jnp.array),
            ),
            max_size=3,
        )
    )
)
def test_any_hyperparameters_have_a_meaning_or_are_refused(changes):
    before = PPOConfig().hyperparams()
    hyper = outcome(before.replace, **changes.value)
    if hyper is None:
        return
    assert changes.value.keys() <= set(Hyperparams._fields)
    for name in SCALARS:
        value = getattr(hyper, name)
        if value is None or not hasattr(value, "__array__"):
            if name in changes.value and hasattr(value, "shape"):  # a shape alone has no numbers
                continue
            in_range(name, value)
        else:
            for number in np.asarray(value).astype(np.float64).ravel().tolist():
                in_range(name, number)


TEXT = "\n".join(
    f"{name} = {value}" for name, value in
    {"gamma": 0.5, "num_envs": 4, "hidden_sizes": [8, 8], "env": '"x"', "layer_norm": "true",
     "max_grad_norm": '"none"', "env_options": '["a=1"]', "total_timesteps": "1e6"}.items()
)  # fmt: skip
PIECES = st.sampled_from(
    ["\n", "[", "]", "[[", "{", "}", '"', "'", '"""', "=", ".", ",", "#", "\\", "\\u0000", "inf",
     "nan", "1e400", "9" * 5000, "1979-05-27T07:32:00Z", "[ppo]\n", "a.b = 1\n", "LR = 1\n",
     "DEBUG = true\n", "gamma = {a = 1}\n", "true", "\0", "\ud800".encode("utf-8", "surrogatepass"),
     b"\xff", "é"]
)  # fmt: skip


@st.composite
def toml_texts(draw):
    """A file that is right, edited here and there."""
    content = TEXT.encode()
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(content)))
        end = draw(st.integers(begin, min(len(content), begin + 10)))
        piece = draw(st.one_of(PIECES, st.text(max_size=3), st.just("")))
        piece = piece if isinstance(piece, bytes) else piece.encode("utf-8", "surrogatepass")
        content = content[:begin] + piece + content[end:]
    return content


@pytest.mark.filterwarnings("ignore:DEBUG prints nothing")
@examples(60, 600)
@given(content=st.one_of(toml_texts(), st.binary(max_size=20)))
def test_any_file_gives_a_whole_configuration_or_one_line(folder, content):
    (folder / "edited.toml").write_bytes(content)
    config = outcome(PPOConfig.from_toml, folder / "edited.toml")
    if config is not None:
        survives(config, folder)
