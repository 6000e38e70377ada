"""Population-based training: one program, a plain loop, and a study that goes on."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.peaks import Peak

from purejaxppo import ConfigError, PPOConfig, make_learner
from purejaxppo.components import make_components
from purejaxppo.sweeps.dimensions import Dimension, Space
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.schedulers.evolution import (
    carried,
    drawn,
    evolution_of,
    exploit,
    explore,
    perturbed,
)
from purejaxppo.sweeps.schedulers.pbt import make_population, mean_episode_return
from purejaxppo.sweeps.space import read_space
from purejaxppo.types import LearnerState

CONFIG = PPOConfig(
    num_envs=2, num_steps=4, num_minibatches=2, num_epochs=2, hidden_sizes=(4,),
    total_timesteps=8 * 9, learning_rate_final_scale=0.5,
)  # fmt: skip
SPACE = Space((
    Dimension("env_params.height", 0.0, 2.0),
    Dimension("learning_rate", 1e-4, 1e-1, log=True),
    Dimension("gamma", choices=(0.5, 0.9, 0.99)),
    Dimension("env_params.rank", 1, 8, integer=True),
))  # fmt: skip
COMPONENTS = make_components(CONFIG, env=Peak())
POPULATION, LENGTHS = 8, (2, 2, 2, 3)
HOW = dict(population=POPULATION, evolve_every=2 * 8, replaced=0.25, perturb=1.3, resample=0.3)


@pytest.fixture(scope="module")
def run():
    return jax.jit(make_population(CONFIG, SPACE, env=Peak(), **HOW))


@pytest.fixture(scope="module")
def output(run):
    return run(jax.random.key(3))


# -- exploit and explore -------------------------------------------------------------------------


def test_the_worst_become_the_best():
    scores = jnp.array([5.0, 1.0, 4.0, jnp.nan, 3.0, 2.0, 6.0, 2.5])
    seen = {3: set(), 1: set()}
    for i in range(40):
        parents = np.asarray(exploit(jax.random.key(i), scores, 2))
        assert [parents[j] for j in (0, 2, 4, 5, 6, 7)] == [0, 2, 4, 5, 6, 7]
        for j in seen:
            seen[j].add(int(parents[j]))
    assert seen == {3: {6, 0}, 1: {6, 0}}


@pytest.mark.parametrize("scores", [[np.nan] * 4, [2.0] * 4], ids=["unknown", "equal"])
def test_nobody_takes_over_from_one_that_is_no_better(scores):
    for i in range(10):
        parents = exploit(jax.random.key(i), jnp.array(scores), 2)
        np.testing.assert_array_equal(parents, range(4))


def test_agents_without_a_score_are_taken_from_by_nobody():
    scores = jnp.array([np.nan, np.nan, 1.0, np.nan])
    for i in range(10):
        parents = exploit(jax.random.key(i), scores, 2)
        np.testing.assert_array_equal(parents, [0, 2, 2, 2])  # of equal ones the last are the worst


def test_a_score_is_kept_while_no_episode_ends():
    before, parents = jnp.array([1.0, 2.0, jnp.nan]), jnp.array([1, 1, 2])
    found = carried(jnp.array([jnp.nan, 5.0, jnp.nan]), before, parents)
    np.testing.assert_array_equal(found, [2.0, 5.0, np.nan])


def test_a_broken_agent_keeps_no_score_and_takes_over():
    """Its returns are not finite: that is not the same as no episode that ended."""
    episodes = jnp.array([[1, 2], [1, 2], [0, 0], [1, 2]])
    total = jnp.array([[jnp.nan, 1.0], [4.0, 5.0], [0.0, 0.0], [jnp.inf, 1.0]])
    found = mean_episode_return(SimpleNamespace(episodes=episodes, return_sum=total))
    np.testing.assert_array_equal(found, [-np.inf, 3.0, np.nan, -np.inf])
    scores = carried(found, jnp.array([100.0, 5.0, 7.0, 100.0]), jnp.arange(4))
    np.testing.assert_array_equal(scores, [-np.inf, 3.0, 7.0, -np.inf])
    parents = exploit(jax.random.key(0), scores, 2)
    assert {int(parents[0]), int(parents[3])} <= {1, 2} and parents[1:3].tolist() == [1, 2]


@pytest.mark.parametrize("dimension", [
    Dimension("env_params.x", -1.0, 3.0),
    Dimension("learning_rate", 1e-4, 1e-2, log=True),
    Dimension("env_params.n", 1, 8, integer=True),
    Dimension("env_params.n", 2, 64, log=True, integer=True),
    Dimension("gamma", choices=(0.9, 0.5, 0.99)),
], ids=str)  # fmt: skip
def test_values_are_drawn_as_the_space_says(dimension):
    us = (np.arange(64, dtype=np.float32) + 0.5) / 64
    wanted = [dimension.at(float(u)) for u in us]
    np.testing.assert_allclose(drawn(dimension, jnp.asarray(us)), wanted, rtol=1e-5)


@pytest.mark.parametrize(("dimension", "value", "up", "down"), [
    (Dimension("learning_rate", 1e-4, 1e-2, log=True), 1e-3, 1.5e-3, 1e-3 / 1.5),
    (Dimension("learning_rate", 1e-4, 1e-2, log=True), 9e-3, 1e-2, 6e-3),
    (Dimension("env_params.x", -4.0, 4.0), -1.0, -1.5, -1 / 1.5),
    (Dimension("gamma", 0.9, 0.999), 0.97, 0.955, 0.98),
    (Dimension("gae_lambda", 0.9, 0.999), 0.998, 0.997, 0.998 + 0.002 / 3),
    (Dimension("env_params.n", 1, 8, integer=True), 1, 2, 1),
    (Dimension("env_params.n", 1, 8, integer=True), 5, 8, 3),
    (Dimension("gamma", choices=(0.9, 0.5, 0.99)), 0.5, 0.99, 0.9),
    (Dimension("gamma", choices=(0.9, 0.5, 0.99)), 0.9, 0.5, 0.9),
], ids=str)  # fmt: skip
def test_a_step_multiplies_and_stays_in_range(dimension, value, up, down):
    values = jnp.full(2, value, jnp.float32)
    found = perturbed(dimension, values, jnp.array([True, False]), 1.5)
    np.testing.assert_allclose(found, [up, down], rtol=1e-6)


def test_half_go_up_and_some_are_drawn_anew():
    rate, value = Dimension("learning_rate", 1e-6, 1.0, log=True), jnp.full(4000, 1e-3)
    found = np.asarray(explore(jax.random.key(0), rate, value, 2.0, 0.25))
    up, down = (np.isclose(found, x).mean() for x in (2e-3, 5e-4))
    # three quarters take a step; 0.03 is four standard deviations of a share
    np.testing.assert_allclose([up, down], 0.375, atol=0.03)
    anew = np.log10(found[~np.isclose(found, 2e-3) & ~np.isclose(found, 5e-4)])
    np.testing.assert_allclose(np.quantile(anew, [0.25, 0.5, 0.75]), [-4.5, -3, -1.5], atol=0.4)


def test_generations_are_whole_updates_and_the_last_has_what_is_left():
    def lengths(**how):
        options = SweepOptions(scheduler="pbt", **how)
        return evolution_of(COMPONENTS, SPACE, options).lengths

    assert lengths(evolve_every=16) == LENGTHS
    assert lengths(evolve_every=17) == (3, 3, 3)
    assert lengths(evolve_every=72) == (9,)
    assert lengths() == (1,) * 9


# -- one program ---------------------------------------------------------------------------------


def plain_loop(key):
    """The same in a loop of Python: NumPy chooses, JAX draws."""
    learner = make_learner(CONFIG, env=Peak())
    params = Peak().default_params

    def one(state, height, rank, learning_rate, gamma):
        hyper = CONFIG.hyperparams().replace(learning_rate=learning_rate, gamma=gamma)
        return learner.update(state, hyper, params.replace(height=height, rank=rank))

    update = jax.jit(jax.vmap(one))
    key_agents, key_settings, key_evolve = jax.random.split(key, 3)
    state = jax.vmap(learner.init)(jax.random.split(key_agents, POPULATION))

    def unit(key, i):
        return np.asarray(jax.random.uniform(jax.random.fold_in(key, i), (POPULATION,)))

    def value(i, u):
        return SPACE.dimensions[i].at(float(u))

    values = [[value(i, u) for u in unit(key_settings, i)] for i in range(4)]
    scores, found = np.full(POPULATION, np.nan), []
    for g, length in enumerate(LENGTHS):
        key_parents, key_explore = jax.random.split(jax.random.fold_in(key_evolve, g))
        parents = list(range(POPULATION))
        if not np.isnan(scores).all():
            ranked = sorted(range(POPULATION), key=lambda i: (-scores[i], i))
            draws = np.asarray(jax.random.randint(key_parents, (POPULATION,), 0, 2))
            for i in ranked[-2:]:
                if scores[ranked[draws[i]]] > scores[i]:
                    parents[i] = ranked[draws[i]]
        state = jax.tree.map(lambda x: x[jnp.array(parents)], state).replace(key=state.key)  # noqa: B023
        changed = []
        for i, d in enumerate(SPACE.dimensions):
            key_i = jax.random.fold_in(key_explore, i)
            way, anew, place = np.asarray(jax.random.uniform(key_i, (3, POPULATION)))
            row = []
            for j, parent in enumerate(parents):
                x = values[i][parent]
                if parent != j:
                    if anew[j] < 0.3:
                        x = value(i, place[j])
                    elif d.choices:
                        at = d.choices.index(x) + (1 if way[j] < 0.5 else -1)
                        x = d.choices[min(max(at, 0), len(d.choices) - 1)]
                    else:
                        x, before = x * 1.3 if way[j] < 0.5 else x / 1.3, x
                        if d.integer:
                            x = int(np.ceil(x)) if x > before else int(np.floor(x))
                        x = min(max(x, d.low), d.high)
                row.append(x)
            changed.append(row)
        values = changed
        height, learning_rate, gamma = (jnp.array(values[i], jnp.float32) for i in (0, 1, 2))
        rank, parts = jnp.array(values[3], jnp.int32), []
        for _ in range(length):
            state, metrics = update(state, height, rank, learning_rate, gamma)
            parts.append(metrics)
        episodes = sum(np.asarray(m.episodes) for m in parts[-2:])
        scores = sum(np.asarray(m.return_sum) for m in parts[-2:]) / episodes
        found.append((parents, values, scores))
    return state, found


@pytest.mark.slow
def test_one_program_is_the_plain_loop(output):
    state, found = plain_loop(jax.random.key(3))
    np.testing.assert_array_equal(output.parents, [parents for parents, _, _ in found])
    for i, name in enumerate(SPACE.names):
        wanted = [values[i] for _, values, _ in found]
        np.testing.assert_allclose(output.hyperparams[name], wanted, rtol=1e-5)
    np.testing.assert_allclose(output.scores, [s for _, _, s in found], rtol=1e-5)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), output.state.params, state.params
    )
    np.testing.assert_array_equal(output.state.step, [9] * POPULATION)
    # some have taken over, also in the last generation
    moved = np.asarray(output.parents) != np.arange(POPULATION)
    assert not moved[0].any() and moved[1:].any(1).all()


def test_scores_are_returns_and_schedules_run_over_the_whole(output):
    height = np.asarray(output.hyperparams["env_params.height"])
    np.testing.assert_allclose(output.scores, 1 - (height - 0.7) ** 2, rtol=1e-5)
    assert output.metrics.episodes.shape == (POPULATION, 9)
    each = np.repeat(np.asarray(output.hyperparams["learning_rate"]), LENGTHS, axis=0).T
    wanted = each * (1 - 0.5 * np.arange(9) / 9)
    np.testing.assert_allclose(output.metrics.learning_rate, wanted, rtol=1e-5)


def test_two_keys_have_one_compilation_and_equal_calls_equal_bits(run, output):
    again, other = run(jax.random.key(3)), run(jax.random.key(4))
    assert run._cache_size() == 1
    jax.tree.map(np.testing.assert_array_equal, again.state.params, output.state.params)
    np.testing.assert_array_equal(again.scores, output.scores)
    assert not np.array_equal(other.scores, output.scores)


@pytest.mark.slow
def test_the_best_setting_is_found():
    """Of a return that depends on a parameter of the environment alone, 1 at 0.7."""
    config = CONFIG.replace(total_timesteps=8 * 30)
    space = Space((Dimension("env_params.height", 0.0, 2.0),))
    found = jax.jit(make_population(config, space, env=Peak(), population=8, evolve_every=8))(
        jax.random.key(0)
    )
    height = np.asarray(found.hyperparams["env_params.height"])
    error = np.abs(height - 0.7)
    assert error[-1].min() < 0.05 and np.median(error[-1]) < 0.2 < np.median(error[0])


def test_who_takes_over_is_the_parent_in_all_but_its_key():
    evolution = evolution_of(COMPONENTS, SPACE, SweepOptions(scheduler="pbt", population=8))
    learner = make_learner(CONFIG, env=Peak())
    state = jax.vmap(learner.init)(jax.random.split(jax.random.key(0), 8))
    values = evolution.begin(jax.random.key(1))
    scores = jnp.arange(8.0)
    after, changed, parents = evolution.evolve(jax.random.key(2), state, values, scores)
    assert set(np.asarray(parents)[:2]) <= {6, 7}
    np.testing.assert_array_equal(parents[2:], range(2, 8))
    np.testing.assert_array_equal(jax.random.key_data(after.key), jax.random.key_data(state.key))
    for name in ("params", "opt_state", "normalizers", "env_state", "obs", "step"):
        before = jax.tree.map(lambda x: x[parents], getattr(state, name))
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), before)
    # the settings are its own again
    for name, column in changed.items():
        np.testing.assert_array_equal(column[2:], values[name][2:])
    assert (changed["learning_rate"][:2] != values["learning_rate"][parents[:2]]).all()


@pytest.mark.parametrize(("space", "how", "words"), [
    ({"num_steps": [4, 8]}, {}, "num_steps cannot vary: leave it out"),
    ({"gamma": [0.9, 0.99]}, {"population": 1}, "population=1 must be 2 or more"),
    ({"gamma": [0.9, 0.99]}, {"evolve_every": 100}, "evolve_every=100 is longer"),
    ({"gamma": [0.9, 0.99]}, {"replaced": 0.6}, "replaced=0.6 must be within"),
    ({"gamma": [0.9, 0.99]}, {"perturb": 1.0}, "perturb=1.0 must be above 1"),
    ({"gamma": [0.9, 0.99]}, {"resample": 1.5}, "resample=1.5 must be between"),
], ids=str)  # fmt: skip
def test_what_no_population_can_be_is_refused(space, how, words):
    with pytest.raises(ConfigError, match=words):
        make_population(CONFIG, space, env=Peak(), **how)


def test_a_rate_by_divergence_goes_on_with_whoever_is_copied():
    """Where it begins cannot be varied; what it aims for can, and the rate is part of the copy."""
    config = CONFIG.replace(learning_rate_schedule="kl_adaptive", learning_rate_final_scale=1.0)
    with pytest.raises(ConfigError, match="go on with the rate of another: vary desired_kl"):
        make_population(config, {"learning_rate": "log:1e-4..1e-2"}, env=Peak(), **HOW)
    space, options = {"desired_kl": "log:1e-4..1e-1"}, SweepOptions(scheduler="pbt", population=3)
    evolution = evolution_of(
        make_components(config, env=Peak()), read_space(space, config), options
    )
    nothing = dict.fromkeys([field.name for field in dataclasses.fields(LearnerState)], ())
    state = LearnerState(**{**nothing, "schedule_state": jnp.array([1e-3, 2e-3, 3e-3])})
    values, scores = {"desired_kl": jnp.full(3, 1e-2)}, jnp.array([0.0, 1.0, 9.0])
    after, _, parents = evolution.evolve(jax.random.key(0), state, values, scores)
    assert parents.tolist() == [2, 1, 2]
    np.testing.assert_array_equal(after.schedule_state, np.float32([3e-3, 2e-3, 3e-3]))


@pytest.mark.parametrize(("changes", "space", "words"), [
    ({"learning_rate_schedule": "kl_adaptive", "learning_rate_final_scale": 1.0},
     {"learning_rate_min": "log:1e-5..1e-1"}, "learning_rate_min=0.1 must be at most"),
    ({"objective": "adaptive_kl"}, {"kl_coef": "0.5..2"}, "vary adaptive_kl_target"),
], ids=["corner", "adapted"])  # fmt: skip
def test_a_space_in_which_agents_could_not_be_trained_is_refused(changes, space, words):
    with pytest.raises(ConfigError, match=words):
        make_population(CONFIG.replace(**changes), space, env=Peak(), **HOW)


def test_a_measure_of_another_shape_is_refused():
    run = make_population(CONFIG, SPACE, env=Peak(), **HOW, measure=lambda m: m.episodes)
    with pytest.raises(ConfigError, match=r"measure gives scores \[8, 2\] for a population of 8"):
        jax.eval_shape(run, jax.random.key(0))
