"""Runs that go on: beyond their end, from agents of another run, with what they have written."""

import json
import shutil
import sys
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from purejaxppo import (
    ConfigError,
    PPOConfig,
    cli,
    fit,
    load_agents,
    load_policy,
    make_act,
    make_actor,
    make_env,
)
from purejaxppo.components import make_components
from purejaxppo.errors import RunWarning
from purejaxppo.run_folder.lock import FolderLock
from purejaxppo.runs.agents import Agents, save_agents
from purejaxppo.runs.beginning import read_beginning
from purejaxppo.runs.fit import FitResult
from purejaxppo.runs.options import FitOptions
from purejaxppo.types import LearnerState

STEPS = 32
CONFIG = PPOConfig(
    num_envs=4, num_steps=8, num_minibatches=2, num_epochs=2, total_timesteps=STEPS * 10,
    hidden_sizes=(8,), normalize_observations=True, normalize_rewards=True,
    learning_rate_final_scale=0.0,
)  # fmt: skip
LONGER = CONFIG.replace(total_timesteps=STEPS * 20)
OPTIONS = {"seeds": 2, "checkpoint_every": STEPS * 3, "eval_every": 160, "eval_episodes": 2}
LONGER_WORDS = "the run goes on to 640 steps (before 320): schedules run over the new total"
GRADIENT_STEPS = 2 * 2 * 10  # of a whole run


def numbers(tree):
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


def assert_same(a, b):
    for x, y in zip(numbers(a), numbers(b), strict=True):
        np.testing.assert_array_equal(x, y)


def rate(update, total):
    """What linear annealing to nothing gives."""
    return CONFIG.learning_rate * (1 - update / total)


def stop_at(step):
    def callback(at, row):
        if at >= step:
            raise KeyboardInterrupt

    return callback


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run, and its folder."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return fit(CONFIG, **OPTIONS, run_dir=folder), folder


@pytest.fixture(scope="module")
def longer(tmp_path_factory, whole):
    """The same run gone on with to twice its steps, and its folder."""
    folder = shutil.copytree(whole[1], tmp_path_factory.mktemp("longer") / "run")
    with pytest.warns(RunWarning) as warned:
        result = fit(LONGER, **OPTIONS, run_dir=folder, resume=True)
    assert [str(w.message) for w in warned] == [LONGER_WORDS]
    return result, folder


# -- beyond its end -------------------------------------------------------------------------------


@pytest.mark.slow
def test_resume_with_a_larger_total_goes_on_and_anneals_over_the_new_total(whole, longer):
    result, folder = longer
    assert (result.resumed_at, result.metrics.episodes.shape) == (10, (2, 20))
    wanted = [rate(u, 10) for u in range(10)] + [rate(u, 20) for u in range(10, 20)]
    np.testing.assert_allclose(result.metrics.learning_rate[1], wanted, rtol=1e-5)
    assert_same(result.metrics.policy_loss[:, :10], whole[0].metrics.policy_loss)
    assert int(result.state.step[0]) == 20
    # the folder says so everywhere
    with open(folder / "config.toml", "rb") as file:
        assert PPOConfig.from_dict(tomllib.load(file)) == LONGER
    before, after = (json.loads((f / "run.json").read_text()) for f in (whole[1], folder))
    assert after == {**before, "earlier_timesteps": [320]}
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["timesteps"], summary["total_timesteps"]) == (640, 640)
    assert (folder / "curve.png").read_bytes() != (whole[1] / "curve.png").read_bytes()


@pytest.mark.slow
def test_rates_and_moments_go_on_to_the_bit(tmp_path):
    """Of Muon, with a learning rate by divergence that each agent has of its own."""
    config = CONFIG.replace(
        optimizer="muon", learning_rate_schedule="kl_adaptive", learning_rate_final_scale=1.0
    )
    options = {**OPTIONS, "seeds": 1, "vary": {"desired_kl": [1e-2, 1e-12]}}
    whole = fit(config, **options, run_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(config, **options, run_dir=tmp_path / "run", callbacks=stop_at(STEPS * 6))
    again = fit(config, **options, run_dir=tmp_path / "run", resume=True)
    assert 3 <= again.resumed_at < 10
    assert_same(again.state, whole.state)
    assert_same(again.metrics, whole.metrics)
    rates = whole.metrics.learning_rate
    np.testing.assert_array_equal(whole.state.schedule_state, rates[:, -1])
    assert rates[1, -1] < 1e-4 < rates[0, -1]


@pytest.mark.slow
def test_a_run_that_was_stopped_is_extended_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, **OPTIONS, run_dir=tmp_path / "run", callbacks=stop_at(STEPS * 6))
    with pytest.warns(RunWarning, match="goes on to 640 steps"):
        result = fit(LONGER, **OPTIONS, run_dir=tmp_path / "run", resume=True)
    done = result.resumed_at
    assert 3 <= done < 10
    wanted = [rate(u, 10) for u in range(done)] + [rate(u, 20) for u in range(done, 20)]
    np.testing.assert_allclose(result.metrics.learning_rate[0], wanted, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "written",
    [("run.json", "config.toml"), *(pytest.param(w, marks=pytest.mark.slow) for w in (
        ("run.json",), (),
    ))],
)  # fmt: skip
def test_killed_while_it_was_made_longer(tmp_path, whole, longer, written):
    """Whatever was written of the new total, the checkpoint of the old one is gone on with."""
    folder = shutil.copytree(whole[1], tmp_path / "run")
    for name in written:
        shutil.copy(longer[1] / name, folder)
    if "config.toml" in written:  # then the shorter total is not that of the run
        words = "has total_timesteps=640, not 320: go on with its own, more of them, or"
        with pytest.raises(ConfigError, match=words):
            fit(CONFIG, **OPTIONS, run_dir=folder, resume=True)
        result = fit(LONGER, **OPTIONS, run_dir=folder, resume=True)
    else:
        with pytest.warns(RunWarning, match="goes on to 640 steps"):
            result = fit(LONGER, **OPTIONS, run_dir=folder, resume=True)
    assert_same(result.state, longer[0].state)
    assert_same(result.metrics, longer[0].metrics)
    for name in ("run.json", "config.toml", "metrics.jsonl"):
        assert (folder / name).read_bytes() == (longer[1] / name).read_bytes(), name


@pytest.mark.slow
def test_killed_with_rows_of_the_new_total(tmp_path, whole, longer):
    folder = shutil.copytree(whole[1], tmp_path / "run")
    with pytest.warns(RunWarning, match="goes on"), pytest.raises(KeyboardInterrupt):
        fit(LONGER, **OPTIONS, run_dir=folder, resume=True, callbacks=stop_at(STEPS * 11))
    result = fit(LONGER, **OPTIONS, run_dir=folder, resume=True)
    assert_same(result.state, longer[0].state)
    assert (folder / "metrics.jsonl").read_bytes() == (longer[1] / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("steps", [STEPS * 9, STEPS * 5])
def test_a_smaller_total_is_refused(whole, steps):
    with pytest.raises(ConfigError, match=f"has total_timesteps=320, not {steps}"):
        fit(CONFIG.replace(total_timesteps=steps), **OPTIONS, run_dir=whole[1], resume=True)


def command(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["purejaxppo"])
    before = jax.config.jax_enable_compilation_cache
    try:
        return cli.COMMANDS["train"](f"{line} --no-compilation-cache".split())
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


SIZES = (
    "--preset none --seeds 2 --num-envs 4 --num-steps 8 --num-minibatches 2 --num-epochs 2 "
    "--hidden-sizes 8 --normalize-observations --normalize-rewards --learning-rate-final-scale 0"
)


@pytest.mark.slow
def test_from_the_command_line(tmp_path, monkeypatch, whole, capsys):
    """--resume with more --total-timesteps, --resume without, and --init-from."""
    shutil.copytree(whole[1], tmp_path / "run")
    go_on = "CartPole-v1 --resume --run-dir run --quiet --eval-every 160 --eval-episodes 2"
    with pytest.warns(RunWarning, match="goes on to 640 steps"):
        assert command(f"{go_on} --total-timesteps 640", tmp_path, monkeypatch) == 0
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2 * 20
    assert command(go_on, tmp_path, monkeypatch) == 0  # it has its own total now
    capsys.readouterr()
    line = f"CartPole-v1 {SIZES} --total-timesteps 320 --run-dir new --init-from run"
    assert command(f"{line} --init-agent 1 --init-optimizer", tmp_path, monkeypatch) == 0
    told = capsys.readouterr().out
    which = "agent 1 of 'run' (final, trained 640 steps), with the optimizer's moments, for all "
    assert f"begins with {which}seeds\n" in told
    record = {"run": "run", "weights": "final", "agent": 1, "optimizer": True, "steps": 640}
    assert json.loads((tmp_path / "new/run.json").read_text())["init_from"] == record
    shutil.rmtree(tmp_path / "run")  # where it is now does not matter any more
    again = "CartPole-v1 --resume --run-dir new --quiet"
    assert command(again, tmp_path, monkeypatch) == 0


# -- from agents of another run -------------------------------------------------------------------

FROZEN = CONFIG.replace(total_timesteps=STEPS, learning_rate=1e-30)
"""One update, whose steps are too small to change a parameter."""


@pytest.mark.slow
def test_the_new_run_begins_with_the_parameters_and_statistics_of_the_other(whole):
    result, folder = whole
    for source in (str(folder), result, result.state, load_agents(folder)[1]):
        new = fit(FROZEN, seeds=2, init_from=source)
        assert_same(new.state.params, result.state.params)
        # statistics go on: 10 updates of 32 observations before, and one more
        np.testing.assert_allclose(new.state.normalizers.obs.count, STEPS * 11, rtol=1e-5)
        np.testing.assert_allclose(new.state.normalizers.reward.stats.count, STEPS * 11, rtol=1e-5)
        assert int(new.state.step[0]) == 1


@pytest.mark.slow
def test_step_0_acts_exactly_like_the_loaded_agent(whole):
    _, folder = whole
    components = make_components(CONFIG)
    for weights in ("final", "best"):
        options = FitOptions(seeds=2, init_from=str(folder), init_weights=weights)
        begun = read_beginning(components, options).tree
        _, agents = load_agents(folder, weights)
        obs = jax.random.normal(jax.random.key(1), (50, 4))
        for seed in range(2):
            ours, theirs = (
                make_act(CONFIG, jax.tree.map(lambda x, i=seed: x[i], tree))
                for tree in (begun, agents)
            )
            key = jax.random.key(2)
            np.testing.assert_array_equal(ours(key, obs), theirs(key, obs))


@pytest.mark.parametrize(
    ("seeds", "agent", "chosen", "words"),
    [
        (2, None, [0, 1], "the agents of X, each seed with that of its number"),
        (1, None, [0], "agent 0 of X"),
        (1, 1, [1], "agent 1 of X"),
        (3, 1, [1, 1, 1], "agent 1 of X, for all seeds"),
    ],
)
def test_each_seed_begins_with_the_agent_of_its_number_or_the_one_named(
    whole, seeds, agent, chosen, words
):
    options = FitOptions(seeds=seeds, init_from=str(whole[1]), init_agent=agent)
    beginning = read_beginning(make_components(CONFIG), options)
    kernel = whole[0].state.params["value"]["kernel"]
    np.testing.assert_array_equal(
        beginning.tree.params["value"]["kernel"], kernel[np.array(chosen)]
    )
    said = beginning.words.replace(f"{str(whole[1])!r} (final, trained 320 steps)", "X")
    assert said == words


def test_one_agent_begins_all_seeds_with_an_axis_or_without(whole):
    _, agents = load_agents(whole[1])
    options = FitOptions(seeds=3, init_from="Agents")
    for index in (1, slice(1, 2)):
        one = jax.tree.map(lambda x, i=index: x[i], agents)
        tree = read_beginning(make_components(CONFIG), options, one).tree
        for a, b in zip(numbers(tree.params), numbers(agents.params), strict=True):
            np.testing.assert_array_equal(a, np.stack([b[1]] * 3))


@pytest.mark.slow
def test_the_optimizer_is_taken_over_if_that_is_asked_for(whole):
    result, folder = whole
    for source in (folder, result, result.state):
        new = fit(FROZEN, seeds=2, init_from=source, init_optimizer=True)
        assert counts(new) == GRADIENT_STEPS + 4
    assert counts(fit(FROZEN, seeds=2, init_from=result)) == 4
    # a result is as it was: what was taken over is a copy
    assert counts(result) == GRADIENT_STEPS


def counts(result):
    (count,) = {int(x) for x in np.ravel(optax.tree.get(result.state.opt_state, "count"))}
    return count


@pytest.mark.slow
def test_another_environment_of_the_same_spaces_and_other_numbers_work(whole):
    env, params = make_env("CartPole-v1")
    config = CONFIG.replace(
        num_envs=2, num_minibatches=1, learning_rate=1e-30, gamma=0.9, total_timesteps=16
    )
    for source in whole:
        new = fit(config, init_from=source, env=env, env_params=params.replace(gravity=5.0))
        np.testing.assert_allclose(new.state.normalizers.obs.count, STEPS * 10 + 16, rtol=1e-5)
        assert new.state.normalizers.reward.discounted_return.shape == (1, 2)


@pytest.mark.slow
def test_an_environment_on_the_host_of_the_same_spaces_works(whole):
    pytest.importorskip("gymnasium")
    config = FROZEN.replace(env="gymnasium/CartPole-v1")
    new = fit(config, init_from=whole[1], init_agent=1)
    kernel = whole[0].state.params["value"]["kernel"]
    np.testing.assert_array_equal(new.state.params["value"]["kernel"][0], kernel[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_sizes": (9,)}, r"does not fit: it has float32\[2, 8, 2\] at .params\['action'\]"),
        ({"hidden_sizes": (8, 8)}, "does not fit: it has nothing at .params"),
        ({"normalize_observations": False}, "at .normalizers.obs.* and this run has nothing"),
        ({"normalize_values": True}, "nothing at .normalizers.value.* and this run has float32"),
        ({"normalize_rewards": False}, "at .normalizers.reward.* and this run has nothing"),
        ({"activation": "relu"}, "has activation='tanh', and this run 'relu'"),
        ({"env": "Acrobot-v1"}, r"observations are Box float32\[4\], and those of this run Box"),
        ({"core": "gru", "core_size": 8}, "does not fit: it has nothing at .params"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_first_difference(whole, changes, words):
    for source in whole:
        with pytest.raises(ConfigError, match=words) as error:
            fit(CONFIG.replace(**changes), seeds=2, init_from=source)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_bins_of_symlog_stand_for_what_the_width_of_targets_says():
    """E[exp(x)] of a Gaussian around x grows with its width, and so do the values of bins."""
    bins = CONFIG.replace(value_loss="categorical", value_bins=11, value_symlog=False)
    for config in (bins, bins.replace(value_symlog=True)):
        begun = fit(config.replace(total_timesteps=CONFIG.batch_size))
        components = make_components(config.replace(value_sigma=0.5))
        options = FitOptions(init_from="FitResult")
        if not config.value_symlog:
            read_beginning(components, options, begun)
            continue
        with pytest.raises(ConfigError, match=r"has value_sigma=0.75, and this run 0.5: use"):
            read_beginning(components, options, begun)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init_from": 3}, "init_from=3 must be a run folder, what fit has returned, or"),
        ({"init_from": "nowhere"}, "'nowhere' holds no run"),
        ({"init_from": ""}, "must be a path"),
        ({"init_agent": 1}, "init_agent=1 has no effect without init_from"),
        ({"init_optimizer": True}, "init_optimizer=True has no effect without init_from"),
        ({"init_from": "RESULT", "seeds": 3}, "seeds=3 is more than the 2 agents of the FitResult"),
        ({"init_from": "RESULT", "init_agent": 2}, "init_agent=2 must be one of the 0 .. 1 of the"),
        ({"init_from": "RESULT", "init_agent": -1}, "init_agent=-1 must"),
        ({"init_from": "STATE", "init_weights": "best"}, "has no effect on the LearnerState"),
        ({"init_from": "AGENTS", "init_optimizer": True}, "the Agents has no moments"),
        (
            {"init_from": "RESULT", "init_weights": "best", "init_optimizer": True},
            "moments are kept with the final parameters alone",
        ),
    ],
)
def test_beginnings_that_are_none_are_refused(whole, options, words):
    sources = {"RESULT": whole[0], "STATE": whole[0].state, "AGENTS": Agents.of(whole[0].state)}
    source = options.get("init_from")
    options = options | ({"init_from": sources.get(source, source)} if source else {})
    with pytest.raises(ConfigError, match=words):
        fit(CONFIG, **options)


def sgd(hyper):
    return optax.sgd(hyper.learning_rate)


def momentum(hyper):
    return optax.sgd(hyper.learning_rate, momentum=0.9)


def test_moments_of_another_optimizer_are_refused(whole, tmp_path):
    for source in whole:
        with pytest.raises(ConfigError, match=r"with optimizer Adam, and this run has .*momentum"):
            fit(CONFIG, init_from=source, init_optimizer=True, optimizer=momentum)
    with pytest.raises(ConfigError, match="no effect: this optimizer remembers nothing"):
        fit(CONFIG, init_from=whole[0], init_optimizer=True, optimizer=sgd)
    folder = shutil.copytree(whole[1], tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ConfigError, match="holds no checkpoint, where an optimizer's moments are"):
        fit(CONFIG, init_from=folder, init_optimizer=True)


@pytest.mark.slow
def test_best_agents_need_an_evaluation(whole, tmp_path):
    small = CONFIG.replace(total_timesteps=STEPS)
    result = fit(small, seeds=2, run_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match="init_weights='best' needs agents that were evaluated"):
        fit(small, seeds=2, init_from=result, init_weights="best")
    with pytest.raises(ConfigError, match=r"holds no best.npz: train with --eval-every"):
        fit(small, seeds=2, init_from=tmp_path / "run", init_weights="best")

    # each setting begins with the agents of its seeds, as a run of it alone would
    varied = {"vary": {"gamma": [0.9, 0.8, 0.7]}}
    new = fit(FROZEN, seeds=2, init_from=whole[0], init_weights="best", **varied)
    for k in range(0, 6, 2):
        own = jax.tree.map(lambda x, k=k: x[k : k + 2], new.state.params)
        assert_same(own, whole[0].best.agents.params)
    with pytest.raises(ConfigError, match="seeds=3 is more than the 2 agents"):
        fit(FROZEN, seeds=3, init_from=whole[0], **varied)


def test_best_agents_that_no_evaluation_chose_are_said(whole, tmp_path):
    """Their evaluations were not finite: what stands in their place is what the run began with."""
    result, folder = whole[0], shutil.copytree(whole[1], tmp_path / "run")
    best = result.best.replace(returns=np.float32([1.0, -np.inf]))
    save_agents(folder / "best.npz", best.agents, best.returns)
    words = "no evaluation of agent 1 of .* gave a finite return"
    with pytest.warns(RunWarning, match=words):
        load_agents(folder, "best")
    for name, given in ((str(folder), None), ("FitResult", result._replace(best=best))):
        options = FitOptions(seeds=2, init_from=name, init_weights="best")
        with pytest.warns(RunWarning, match=words):
            read_beginning(make_components(CONFIG), options, given)


@pytest.mark.slow
def test_a_run_that_began_with_agents_is_resumed_and_compared(tmp_path, whole):
    options = {**OPTIONS, "run_dir": tmp_path / "run"}
    begun = {"init_from": whole[1], "init_agent": 1}
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, **options, **begun, callbacks=stop_at(STEPS * 6))
    other = shutil.copytree(tmp_path / "run", tmp_path / "other")
    with pytest.raises(ConfigError, match=r"has init_from=.*'agent': 1.*, not .*'agent': 0"):
        fit(CONFIG, **options, **{**begun, "init_agent": 0}, resume=True)
    one = fit(CONFIG, **options, **begun, resume=True)  # its checkpoint takes their place
    two = fit(CONFIG, **{**options, "run_dir": other}, resume=True)  # which needs not be said again
    assert 3 <= one.resumed_at == two.resumed_at < 10
    assert_same(one.state, two.state)
    undisturbed = fit(CONFIG, seeds=2, **begun)
    assert_same(one.state, undisturbed.state)


@pytest.mark.slow
def test_a_run_that_began_with_agents_and_has_no_checkpoint_needs_them_again(tmp_path, whole):
    options = {**OPTIONS, "run_dir": tmp_path / "run", "resume": True}
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, **options, init_from=whole[0], callbacks=stop_at(STEPS))
    shutil.rmtree(tmp_path / "run/checkpoints", ignore_errors=True)
    for name in ("agents.npz", "best.npz"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="was begun with agents: pass the same init_from again"):
        fit(CONFIG, **options)
    result = fit(CONFIG, **options, init_from=whole[0])
    assert_same(result.state, fit(CONFIG, seeds=2, init_from=whole[0]).state)


@pytest.mark.slow
def test_a_result_goes_on_again_and_again(whole):
    more = fit(CONFIG, seeds=2, init_from=whole[0], init_optimizer=True)
    again = fit(CONFIG, seeds=2, init_from=more, init_optimizer=True)
    assert counts(again) == 3 * GRADIENT_STEPS
    assert "begun with      the agents of the FitResult (final, trained 320 steps)" in repr(again)


# -- parts that are frozen ------------------------------------------------------------------------


@pytest.mark.slow
def test_frozen_parts_keep_their_bits_while_others_move(whole):
    """By a mask that is passed with the optimizer, on the torso of a run that was trained."""

    def label(path, _):
        return "frozen" if path[0].key in ("actor", "critic") else "trained"

    def heads_alone(hyper):
        parts = {"trained": optax.adam(hyper.learning_rate), "frozen": optax.set_to_zero()}
        return optax.multi_transform(
            parts, lambda params: jax.tree_util.tree_map_with_path(label, params)
        )

    before = whole[0].state.params
    after = fit(CONFIG, seeds=2, init_from=whole[0], optimizer=heads_alone).state.params
    assert set(before) == {"actor", "critic", "action", "value"}
    for name in before:
        same = [np.array_equal(a, b) for a, b in zip(
            numbers(before[name]), numbers(after[name]), strict=True
        )]  # fmt: skip
        assert all(same) if name in ("actor", "critic") else not any(same), name


# -- what it writes and says ----------------------------------------------------------------------


def test_fit_writes_the_curve_and_the_summary(whole):
    result, folder = whole
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == result.summary
    assert (summary["timesteps"], summary["seeds"], summary["run_dir"]) == (320, 2, str(folder))
    # 4-8-2 and 4-8-1, with biases
    assert summary["parameters"] == (4 * 8 + 8 + 8 * 2 + 2) + (4 * 8 + 8 + 8 + 1)


def test_results_are_written_while_the_folder_is_locked(tmp_path, monkeypatch):
    from purejaxppo.report import plots

    tried = []

    def plot_curve(path, metrics, config, env):
        with pytest.raises(ConfigError, match="another process trains in"):
            FolderLock(path.parent)
        tried.append(path.name)

    monkeypatch.setattr(plots, "plot_curve", plot_curve)
    fit(FROZEN, seeds=2, run_dir=tmp_path / "run")
    assert tried == ["curve.png"]
    FolderLock(tmp_path / "run").release()  # and free behind it


def test_without_matplotlib_the_curve_is_left_out_with_a_note(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "purejaxppo.report.plots", None)
    with pytest.warns(RunWarning, match=r"curve\.png could not be drawn"):
        result = fit(FROZEN, seeds=2, run_dir=tmp_path / "run")
    assert len(result.problems) == len(result.summary["problems"]) == 1
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["problems"] == result.problems
    assert not (tmp_path / "run/curve.png").exists()


def result_of(**changes):
    """A result with a summary made by hand."""
    summary = {
        "env": "CartPole-v1", "seeds": 2, "total_timesteps": 1000, "timesteps": 1000,
        "final_returns": [16.0, 24.0], "final_return_mean": 20.0, "final_return_std": 4.0,
        "best_evaluations": [30.0, 31.0],
        "episodes": 1234, "steps_per_second": 9999.9, "compile_seconds": 1.25, "run_seconds": 0.5,
        "run_dir": "runs/a", "problems": [],
    }  # fmt: skip
    fields = dict.fromkeys(FitResult._fields) | {"problems": [], "summary": summary | changes}
    return FitResult(**fields)


def test_a_result_is_printed_in_a_few_lines():
    assert str(result_of()).splitlines() == [
        "CartPole-v1: 1,000 steps of 2 seeds",
        "  final return    20.0 ± 4  (mean ± std over 2 seeds)",
        "  best evaluation 30.5",
        "  episodes        1,234",
        "  steps/s         10,000",
        "  compile         1.2 s",
        "  run             0.5 s",
        "  saved in        runs/a",
    ]
    one = result_of(
        seeds=1, final_returns=[20.0], best_evaluations=[None], run_dir=None, timesteps=500
    )
    one = one._replace(stopped=2, problems=["metrics.jsonl could not be written"])
    assert repr(one).splitlines() == [
        "CartPole-v1: 500 of 1,000 steps of 1 seed",
        "  final return    20.0  (1 seed)",
        "  episodes        1,234",
        "  steps/s         10,000",
        "  compile         1.2 s",
        "  run             0.5 s",
        "  stopped by      signal 2",
        "  problem         metrics.jsonl could not be written",
    ]
    assert "final return    no episode ended" in str(
        result_of(final_return_mean=None, final_returns=[None, None], episodes=0)
    )


def test_states_and_metrics_are_printed_in_a_line(whole):
    state, metrics = whole[0].state, whole[0].metrics
    assert isinstance(state, LearnerState)
    assert repr(state) == str(state) == "LearnerState([2] of 107 parameters)"
    one = jax.eval_shape(lambda x: jax.tree.map(lambda x: x[0], x), state)
    assert repr(one) == "LearnerState(107 parameters)"
    assert repr(metrics).startswith("Metrics([2, 10] of episodes, return_sum, ")


# -- a memory ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_with_a_large_memory_goes_on_to_the_bit_and_acts(tmp_path):
    """Two seeds, stopped in the middle; what is loaded plays as the actor does."""
    config = CONFIG.replace(
        core="gtrxl", core_size=4, core_layers=1, core_window=3, sequence_length=4,
        shared_torso=True,
    )  # fmt: skip
    whole = fit(config, **OPTIONS, run_dir=tmp_path / "whole")
    run = dict(OPTIONS, run_dir=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        fit(config, **run, callbacks=stop_at(STEPS * 6))
    result = fit(config, **run, resume=True)
    assert 3 <= result.resumed_at < 10
    assert_same(result.state, whole.state)
    assert_same(result.metrics, whole.metrics)

    policy, (_, agents) = load_policy(tmp_path / "run", agent=1), load_agents(tmp_path / "run")
    actor = make_actor(config, jax.tree.map(lambda x: x[1], agents), deterministic=True)
    rng = np.random.default_rng(0)
    obs, starts = rng.normal(0, 1, (6, 3, 4)), rng.random((6, 3)) < 0.3
    carry, starts[0] = actor.initial_carry((3,)), True
    for x, start in zip(obs, starts, strict=True):
        carry, action = actor.act(jax.random.key(0), carry, x, start)
        np.testing.assert_array_equal(policy.predict(x, episode_start=start), action)
