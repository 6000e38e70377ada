"""What users pass in place of ours: optimizer, schedule, scalars and metrics of their own."""

import functools
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from support.probes import Aim, Match, Params

from purejaxppo import (
    ConfigError,
    Hyperparams,
    Metrics,
    Objective,
    Optimizer,
    PPOConfig,
    final_returns,
    fit,
    make_learner,
    make_population,
    make_train,
    sweep,
)
from purejaxppo.components import make_components
from purejaxppo.envs.traced_once import TracedOnce
from purejaxppo.ppo.optimizer import adam, clip_gradients
from purejaxppo.ppo.schedules import SCHEDULED, named_schedules
from purejaxppo.run_folder.rows import DERIVED
from purejaxppo.runs.identity import describe_custom

TINY = PPOConfig(
    num_envs=4, num_steps=8, num_minibatches=2, num_epochs=2, hidden_sizes=(8,),
    total_timesteps=4 * 8 * 4,
)  # fmt: skip
KEY = jax.random.key(0)


def run(config=TINY, key=KEY, hyperparams=None, **custom):
    return jax.jit(make_train(config, env=Match(), **custom))(key, hyperparams)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), a, b)


@pytest.fixture(scope="module")
def plain():
    return run()


# -- optimizer ---------------------------------------------------------------------------------


def optax_adam(hyper):
    return optax.adam(hyper.learning_rate, eps=hyper.adam_eps)


@pytest.mark.slow
def test_adam_passed_is_adam_by_default(plain):
    same(run(optimizer=Optimizer(optax_adam, elementwise=True)).state.params, plain.state.params)


@pytest.mark.slow
def test_leaf_by_leaf_is_as_good_as_on_one_vector(plain):
    close(run(optimizer=optax_adam).state.params, plain.state.params)


@pytest.mark.parametrize("elementwise", [False, True])
def test_only_elementwise_optimizers_are_given_one_vector(elementwise):
    seen = []

    def make(hyper):
        def init(params):
            seen.append(jax.tree.map(jnp.shape, params))
            return ()

        return optax.GradientTransformation(init, lambda g, state, params: (g, state))

    learner = make_learner(TINY, env=Match(), optimizer=Optimizer(make, elementwise))
    params = jax.eval_shape(learner.init, KEY).params
    shapes = jax.tree.map(lambda x: x.shape, params)
    sizes = [x.size for x in jax.tree.leaves(params)]
    assert seen == [(sum(sizes),) if elementwise else shapes]


@pytest.mark.slow
def test_the_optimizer_is_given_the_parameters():
    """Updates of -p / 10, whatever the gradient: each gradient step leaves nine tenths."""

    def shrink(hyper):
        def update(gradient, state, params):
            return jax.tree.map(lambda p: -0.1 * p, params), state

        return optax.GradientTransformation(lambda params: (), update)

    learner = make_learner(TINY, env=Match(), optimizer=shrink)
    state = learner.init(KEY)
    after, metrics = jax.jit(learner.update)(state)
    assert int(metrics.gradient_steps) == 4
    for p, q in zip(jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_allclose(q, 0.9**4 * p, rtol=1e-5)


@pytest.mark.slow
def test_gradients_are_clipped_before_it():
    def descend(hyper):
        return optax.sgd(1.0)

    config = TINY.replace(num_epochs=1, num_minibatches=1, max_grad_norm=1e-3)
    learner = make_learner(config, env=Match(), optimizer=descend)
    state = learner.init(KEY)
    after, _ = jax.jit(learner.update)(state)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, after.params, state.params))
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)
    none = clip_gradients(config.replace(max_grad_norm=None).hyperparams())
    assert none.update({"a": 1e6}, none.init({"a": 0.0}))[0] == {"a": 1e6}


def muon(hyper):
    return optax.contrib.muon(hyper.learning_rate, eps=1e-5)


def adamw(hyper):
    return optax.adamw(hyper.learning_rate, weight_decay=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("named", "optimizer"), [("muon", None), ("adam", adamw)])
def test_muon_and_optimizers_of_optax_train_cartpole(named, optimizer):
    """Random play gives about 22; one rate serves a vmapped pair of seeds, traced."""
    config = PPOConfig(
        optimizer=named, num_envs=16, num_steps=64, total_timesteps=102_400, learning_rate=2.5e-3
    )
    train = jax.vmap(make_train(config, optimizer=optimizer), in_axes=(0, None))
    metrics = jax.jit(train)(jax.random.split(KEY, 2), config.hyperparams()).metrics
    assert final_returns(metrics).min() > 120


# -- schedule ----------------------------------------------------------------------------------


def warm_up_and_cosine(hyper, progress):
    warm_up = jnp.minimum(progress / 0.25, 1.0)
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return hyper.replace(learning_rate=hyper.learning_rate * warm_up * cosine)


@pytest.mark.slow
def test_a_schedule_is_followed():
    """By hand: four updates at progress 0, 1/4, 1/2 and 3/4."""
    rates = run(schedule=warm_up_and_cosine).metrics.learning_rate
    cosine = (1 + np.cos(np.pi * np.array([0.0, 0.25, 0.5, 0.75]))) / 2
    np.testing.assert_allclose(rates, 2.5e-4 * np.array([0.0, 1, 1, 1]) * cosine, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("returned", [None, 1e-3, {"learning_rate": 1e-3}])
def test_a_schedule_that_returns_no_hyperparameters_is_refused(returned):
    train = make_train(TINY, env=Match(), schedule=lambda hyper, progress: returned)
    with pytest.raises(ConfigError, match=r"the schedule returns .*: return hyperparameters"):
        jax.eval_shape(train, jax.random.key(0))


@pytest.mark.slow
def test_the_schedule_by_default_passed_is_the_same():
    config = TINY.replace(learning_rate_final_scale=0.5)
    hyper, named = config.hyperparams(), named_schedules(dict.fromkeys(SCHEDULED, "linear"))

    def schedule(hyper, progress):
        return named.at(hyper.replace(learning_rate_final_scale=0.5), progress, 0.25, ())

    ours, default = run(schedule=schedule), run(config)
    # a number in the schedule is known to the compiler, which rounds otherwise than with arguments
    for a, b in zip(*map(jax.tree.leaves, (ours.state.params, default.state.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert isinstance(schedule(hyper, jnp.float32(1)), Hyperparams)


@pytest.mark.slow
def test_progress_stays_at_one_beyond_the_end():
    learner = make_learner(TINY, env=Match(), schedule=warm_up_and_cosine)
    state = jax.jit(learner.init)(KEY)
    _, metrics = jax.jit(learner.update)(state.replace(step=jnp.int32(9)))
    np.testing.assert_allclose(metrics.learning_rate, 0.0, atol=1e-10)


# -- scalars of a user -----------------------------------------------------------------------


def tempered(dist, log_prob, batch, hyper, state):
    ratio = jnp.exp(log_prob - batch.log_prob)
    return -hyper.extra["tau"] * ratio * batch.advantage


def with_tau(tau):
    return TINY.hyperparams().replace(extra={"tau": tau, "table": jnp.arange(3)})


@pytest.mark.slow
def test_extra_is_traced_and_vmapped():
    taus = jnp.array([0.0, 1.0, 3.0])
    traces = []

    def counted(*args):
        traces.append(1)
        return tempered(*args)

    train = make_train(TINY.replace(objective="clip"), env=Match(), objective=counted)
    together = jax.jit(jax.vmap(train, (None, 0)))(KEY, jax.vmap(with_tau)(taus))
    first = len(traces)
    one = jax.jit(train)
    for i, tau in enumerate(taus):
        alone = one(KEY, with_tau(tau))
        close(alone.state.params, jax.tree.map(lambda x, i=i: x[i], together.state.params))
    assert len(traces) == 2 * first  # one trace for three values
    actor = jax.tree.leaves(together.state.params["actor"])[-1]
    assert np.abs(actor[0] - actor[1]).max() > 1e-5 < np.abs(actor[1] - actor[2]).max()


@pytest.mark.parametrize("extra", [{}, {"tau": None}])
def test_extra_without_numbers_stays_what_it_is(extra):
    components = make_components(TINY, extra=extra)
    assert components.hyperparams().extra == extra and describe_custom(components.custom) == {}


def test_extra_keeps_its_types():
    seen = []

    def schedule(hyper, progress):
        seen.append(jax.tree.map(lambda x: x.dtype.name, hyper.extra))
        return hyper

    learner = make_learner(TINY, env=Match(), schedule=schedule)
    hyper = TINY.hyperparams().replace(extra={"a": 1, "b": 0.5, "c": True, "d": np.arange(2)})
    jax.eval_shape(learner.update, jax.eval_shape(learner.init, KEY), hyper)
    assert seen == [{"a": "int32", "b": "float32", "c": "bool", "d": "int32"}]


# -- metrics of a user -----------------------------------------------------------------------


def named(dist, log_prob, batch, hyper, state):
    ratio = jnp.exp(log_prob - batch.log_prob)
    loss = -jnp.minimum(ratio, jnp.clip(ratio, 0.8, 1.2)) * batch.advantage
    clipped = -jnp.minimum(ratio * batch.advantage, jnp.clip(ratio, 0.8, 1.2) * batch.advantage)
    return clipped, {"surrogate": clipped, "ones": jnp.ones_like(loss), "ratio": ratio}


@pytest.mark.slow
def test_named_values_are_means_over_the_steps_that_count(plain):
    out = run(objective=named)
    close(out.state.params, plain.state.params)
    extra = out.metrics.extra
    assert set(extra) == {"surrogate", "ones", "ratio"}
    np.testing.assert_allclose(extra["surrogate"], out.metrics.policy_loss, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(extra["ones"], np.ones(4, np.float32))
    assert plain.metrics.extra == {}


@pytest.mark.slow
def test_named_values_pass_through_chunks_and_seeds():
    train = make_train(TINY.replace(chunk_size=4), env=Match(), objective=named)
    extra = jax.jit(jax.vmap(train))(jax.random.split(KEY, 2)).metrics.extra
    np.testing.assert_array_equal(extra["ones"], np.ones((2, 4), np.float32))


def test_an_objective_that_never_adapts_keeps_what_it_remembers():
    weighted = Objective(
        lambda dist, log_prob, batch, hyper, state: -state["w"] * batch.advantage * log_prob,
        init=lambda hyper: {"w": jnp.float32(2)},
    )
    state = jax.eval_shape(make_train(TINY, env=Match(), objective=weighted), KEY).state
    assert state.objective_state["w"].shape == ()


def test_values_that_have_no_names_are_refused():
    with pytest.raises(ConfigError, match="beside its loss: return values by name, such as"):
        jax.eval_shape(
            make_train(TINY, env=Match(), objective=lambda d, log_prob, *_: (log_prob, log_prob)),
            KEY,
        )


@pytest.mark.parametrize("name", ["policy_loss", "extra", "seed", "episode_return"])
def test_a_name_that_is_taken_is_refused(name):
    def loss(*args):
        return named(*args)[0], {name: args[1]}

    with pytest.raises(ConfigError, match=f"{name!r}.*column of the metrics already"):
        jax.eval_shape(make_train(TINY, env=Match(), objective=loss), KEY)


def test_every_column_of_the_rows_is_taken():
    """What the rows have beside the fields of the metrics is refused as a name too."""
    for name in DERIVED:
        with pytest.raises(ConfigError, match="already"):
            loss = lambda *args, name=name: (args[1], {name: args[1]})  # noqa: E731
            jax.eval_shape(make_train(TINY, env=Match(), objective=loss), KEY)


def test_a_mean_in_place_of_losses_is_refused():
    def loss(*args):
        return named(*args)[0].mean()

    with pytest.raises(ConfigError, match=r"shape \[\] for a minibatch of \[16\]"):
        jax.eval_shape(make_train(TINY, env=Match(), objective=loss), KEY)


# -- through fit --------------------------------------------------------------------------------


def scaled(dist, log_prob, batch, hyper, state):
    loss, values = named(dist, log_prob, batch, hyper, state)
    return hyper.extra["tau"] * loss, values


CUSTOM = dict(
    optimizer=adamw, schedule=warm_up_and_cosine, objective=scaled, extra={"tau": 0.5}, env=Match()
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of everything at once, stopped by its callbacks' end: two of four updates."""
    path = tmp_path_factory.mktemp("seams") / "run"
    rows = []
    result = fit(
        TINY, seeds=2, run_dir=path, callbacks=lambda step, row: rows.append(row), **CUSTOM
    )
    return path, result, rows


@pytest.mark.slow
def test_fit_trains_what_make_train_trains(folder):
    _, result, _ = folder
    custom = {name: x for name, x in CUSTOM.items() if name != "extra"}
    train = make_train(TINY, **custom)
    hyper = TINY.hyperparams().replace(extra=CUSTOM["extra"])
    alone = jax.jit(jax.vmap(train, (0, None)))(jax.random.split(KEY, 2), hyper)
    close(alone.state.params, result.state.params)


def test_named_values_are_columns(folder):
    path, result, rows = folder
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert lines == rows and len(lines) == 8
    for line in lines:
        assert {"surrogate", "ones", "ratio"} < set(line) and line["ones"] == 1.0
    assert set(result.metrics.extra) == {"surrogate", "ones", "ratio"}
    assert result.metrics.extra["ratio"].shape == (2, 4)


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_and_reads_its_columns_back(folder):
    path, before, _ = folder
    again = fit(TINY, seeds=2, run_dir=path, resume=True, **CUSTOM)
    assert isinstance(again.metrics, Metrics)
    for name, x in before.metrics.extra.items():
        np.testing.assert_array_equal(again.metrics.extra[name], x)
    same(again.state.params, before.state.params)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": None}, "optimizer"),
        ({"optimizer": muon}, "optimizer"),
        ({"schedule": None}, "schedule"),
        ({"objective": named}, "objective"),
        ({"extra": {"tau": 0.25}}, "extra"),
    ],
)
def test_a_run_goes_on_with_nothing_else(folder, changes, words):
    path, _, _ = folder
    with pytest.raises(ConfigError, match=f"has .*{words}"):
        fit(TINY, seeds=2, run_dir=path, resume=True, **{**CUSTOM, **changes})


def test_optimizers_are_compared_by_what_makes_them():
    """Two records of one class are two optimizers."""
    first, second = ({"optimizer": Optimizer(make)} for make in (muon, adamw))
    assert describe_custom(first) != describe_custom(second)
    assert describe_custom(first) == describe_custom({"optimizer": muon})


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "custom", "words"),
    [
        ({"adam_eps": 1e-3}, {"optimizer": adam}, "adam_eps would have no effect on an optimizer"),
        (
            {"optimizer": "muon", "weight_decay": 0.1},
            {"optimizer": muon},
            r"optimizer, weight_decay would have no effect on an optimizer of your own: use "
            r"config.replace\(optimizer='adam', weight_decay=0.0001\)",
        ),
        (
            {"learning_rate_schedule": "kl_adaptive", "desired_kl": 0.1},
            {"schedule": warm_up_and_cosine},
            "learning_rate_schedule, desired_kl would have no effect on a schedule of your own",
        ),
        (
            {"learning_rate_final_scale": 0.0},
            {"schedule": warm_up_and_cosine},
            "learning_rate_final_scale would have no effect on a schedule of your own",
        ),
        ({}, {"optimizer": "muon"}, r"must be a function: pass names to PPOConfig\(optimizer"),
        ({}, {"schedule": 0.5}, "schedule=0.5 must be a function of 2 arguments: use lambda hyper"),
        (
            {},
            {"schedule": optax.linear_schedule(1.0, 0.0, 9)},
            "must be a function of 2 arguments: use lambda hyper, progress: hyper.replace",
        ),
        (
            {},
            {"optimizer": optax.adam(1e-3)},
            r"must be a function of 1 argument: use lambda hyper: optax.adam\(hyper.learning_rate",
        ),
        ({}, {"optimizer": optax.adam}, r"use lambda hyper: optax.adam\(hyper.learning_rate\)"),
        (
            {},
            {"optimizer": lambda hyper: hyper.learning_rate},
            "optimizer returns .* must be a transformation of gradients: use optimizer=lambda hyp",
        ),
        ({}, {"objective": lambda log_prob, advantage: 0}, "of 5 arguments: use lambda dist, log"),
        ({}, {"advantage": lambda rollout: rollout}, "of 3 arguments: use lambda rollout, hyper"),
    ],
)
def test_what_cannot_be_is_refused(changes, custom, words):
    with pytest.raises(ConfigError, match=words):
        jax.eval_shape(
            make_train(TINY.replace(**changes), env=Match(), **custom), jax.random.key(0)
        )


@pytest.mark.parametrize(("custom", "name"), [
    ({"optimizer": adam}, "adam_eps"),
    ({"schedule": warm_up_and_cosine}, "learning_rate_final_scale"),
])  # fmt: skip
def test_what_has_no_effect_is_not_varied(custom, name):
    """Whichever of its values comes first."""
    words = f"{name} would have no effect on an? .* of your own: leave it out"
    for values in ([getattr(TINY, name), 0.1], [0.1, getattr(TINY, name)]):
        for train in (
            lambda x: fit(TINY, env=Match(), vary={name: x}, **custom),
            lambda x: sweep(TINY, {name: x}, env=Match(), **custom),
            lambda x: make_population(TINY, {name: x}, env=Match(), population=2, **custom),
        ):
            with pytest.raises(ConfigError, match=words):
                train(values)


@pytest.mark.slow
def test_what_is_called_counts_not_what_it_is_wrapped_around():
    def loss(dist, log_prob, batch, hyper, state):
        return -batch.advantage * log_prob

    @functools.wraps(lambda log_prob: log_prob)
    def wrapped(*args):
        return loss(*args)

    for function in (loss, wrapped, jax.jit(loss), jax.checkpoint(loss)):
        jax.eval_shape(make_train(TINY, env=Match(), objective=function), KEY)


def test_whatever_has_init_and_update_transforms_gradients():
    every_second = run(optimizer=lambda hyper: optax.MultiSteps(optax.sgd(hyper.learning_rate), 2))
    assert every_second.metrics.skipped_steps.sum() == 0


def test_an_objective_with_a_memory_may_name_values_too():
    def loss(dist, log_prob, batch, hyper, state):
        return named(dist, log_prob, batch, hyper, state)[0], {"state": state * jnp.ones(())}

    counted = Objective(loss, init=lambda h: jnp.float32(1), adapt=lambda s, kl, h: 2 * s)
    extra = run(objective=counted).metrics.extra
    np.testing.assert_array_equal(extra["state"], [1, 2, 4, 8])


# -- traced once --------------------------------------------------------------------------------


class Counting(Aim):
    """Counts how often its Python runs."""

    def __init__(self):
        super().__init__()
        self.resets = self.steps = 0

    def reset_env(self, key, params):
        self.resets += 1
        return super().reset_env(key, params)

    def step_env(self, key, state, action, params):
        self.steps += 1
        return super().step_env(key, state, action, params)


@pytest.mark.slow
def test_make_train_traces_an_environment_at_most_twice():
    env = Counting()
    train = jax.jit(make_train(TINY, env=env))
    train(KEY)
    train(jax.random.key(1))
    assert 1 <= env.resets <= 2 and 1 <= env.steps <= 2


@pytest.mark.slow
def test_fit_with_evaluation_traces_an_environment_at_most_four_times(tmp_path):
    env = Counting()
    fit(TINY, env=env, run_dir=tmp_path / "run", eval_every=64, eval_episodes=2)
    assert 1 <= env.resets <= 4 and 1 <= env.steps <= 4


class Static(Aim):
    """Uses its parameters in Python: as a condition, and as a size."""

    def reset_env(self, key, params):
        assert len(range(int(params.max_steps_in_episode))) == 7
        return super().reset_env(key, params)


@pytest.mark.slow
def test_parameters_that_are_not_traced_stay_constants():
    out = jax.jit(make_train(TINY, env=Static(max_steps_in_episode=7)))(KEY)
    assert np.isfinite(out.metrics.policy_loss).all()


@struct.dataclass
class Labelled(Params):
    """Parameters whose structure cannot be hashed."""

    labels: list = struct.field(pytree_node=False, default_factory=lambda: ["a"])


class Plain(Aim):
    """Has such parameters."""

    def __init__(self):
        self.default_params = Labelled()


def test_parameters_that_cannot_be_hashed_are_traced_every_time():
    out = jax.jit(make_train(TINY, env=Plain()))(KEY)
    assert np.isfinite(out.metrics.policy_loss).all()


def test_few_programs_are_kept():
    """Of parameters that are new in every call, such as arrays made in a loop."""
    env = TracedOnce(Counting(), constant_params=True)
    made = [env.default_params.replace(reward_scale=jnp.float32(i)) for i in range(40)]
    for params in (*made, made[-1]):
        jax.eval_shape(lambda key, params=params: env.reset_env(key, params), KEY)
    assert env.resets == 40


@pytest.mark.slow
def test_parameters_that_are_traced_are_one_program():
    env = Counting()
    train = jax.jit(make_train(TINY, env=env))
    for scale in (1.0, 2.0):
        train(KEY, None, env.default_params.replace(reward_scale=jnp.float32(scale)))
    assert env.resets <= 3 and env.steps <= 3
