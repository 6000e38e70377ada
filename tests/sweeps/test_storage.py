"""Studies that Optuna keeps: memory, a journal, SQLite, and a real PostgreSQL server."""

import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import uuid
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from support.sharing import (
    CONFIG,
    SPACE,
    VARIED,
    Kept,
    Postgres,
    hurry,
    result,
    source,
    take_part,
    told,
)

from purejaxppo.errors import ConfigError, RunWarning
from purejaxppo.sweeps import training
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.samplers import drawn
from purejaxppo.sweeps.space import read_space
from purejaxppo.sweeps.storage import shared
from purejaxppo.sweeps.sweep import sweep

KINDS = ("journal", "sqlite", "postgresql")
POSIX = pytest.mark.skipif(os.name == "nt", reason="files that are open stay where they are")


@pytest.fixture(scope="module")
def server():
    postgres = Postgres()
    yield postgres
    postgres.end()


@pytest.fixture(params=KINDS)
def place(request, tmp_path):
    """A storage, and how it goes away and comes back."""
    if request.param == "postgresql":
        server = request.getfixturevalue("server")
        name = f"s{uuid.uuid4().hex}"
        yield SimpleNamespace(url=server.url, name=name, away=server.stop, back=server.start)
        return
    file, hidden = tmp_path / "study", tmp_path / "hidden"
    yield SimpleNamespace(
        url=f"journal:{file}" if request.param == "journal" else f"sqlite:///{file}",
        name="study",
        away=lambda: file.rename(hidden),
        back=lambda: hidden.rename(file),
    )


def frozen(url, name="CartPole-v1"):
    """The trials of a study, read by Optuna alone."""
    if url.startswith("journal:"):
        backend = optuna.storages.journal.JournalFileBackend(url.removeprefix("journal:"))
        storage = optuna.storages.JournalStorage(backend)
    else:
        storage = optuna.storages.RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
    trials = optuna.load_study(study_name=name, storage=storage).trials
    if not url.startswith("journal:"):
        storage.engine.dispose()
    return trials


# -- several processes ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes():
    """Processes that have imported all they need: each starts from one that has."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["purejaxppo.sweeps.storage.shared"])
    return context


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
def test_two_processes_share_a_study_and_one_is_killed(place, processes):
    """Both make the storage at once; all trials are trained once, in one setting each."""
    start, turn, parts = processes.Event(), processes.Event(), []
    for stop_after in (1, None):
        here, there = processes.Pipe(duplex=False)
        # the study has the name of the environment
        args = (place.url, 10, stop_after, start, turn, there)
        process = processes.Process(target=take_part, args=args, daemon=True)
        process.start()
        there.close()
        parts.append((process, here))
    start.set()

    (killed, from_killed), (other, from_other) = parts
    (_, asked), (_, told) = from_killed.recv(), from_killed.recv()
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    while (said := from_other.recv())[0] != "ended":
        pass
    other.join(20)
    assert other.exitcode == 0

    left = asked.keys() - told.keys()
    assert len(told) == 1 and len(left) == 2
    assert told.keys() | said[1].keys() == set(range(10)) and not told.keys() & said[1].keys()
    assert {n: said[1][n] for n in left} == {n: asked[n] for n in left}
    trials = frozen(place.url)
    assert [t.number for t in trials] == list(range(10))
    assert {t.state.name for t in trials} == {"COMPLETE"}
    assert [t.value for t in trials] == [t.params["gamma"] for t in trials]


@pytest.mark.slow
def test_others_are_waited_for_and_what_they_give_back_is_free(place, monkeypatch):
    monkeypatch.setattr(shared, "POLL", 0.1)
    a = source(place.url, trials=5, study_name=place.name)
    b = source(place.url, trials=5, study_name=place.name)
    first, second = a.ask(3), b.ask(3)
    assert [t.number for t in first] == [0, 1, 2] and [t.number for t in second] == [3, 4]
    assert a.ask(1) == [] and b.ask(1) == []  # not while their own are trained
    a.tell(result(first[0])._replace(run="runs/0000", agents=[0]))
    for trial in second:
        b.tell(result(trial))
    a.close()  # which gives back two
    assert b.ask(3) == first[1:]
    for trial in first[1:]:
        b.tell(result(trial))
    assert b.ask(3) == []
    assert {n: r.setting for n, r in told(b).items()} == {
        t.number: t.setting for t in first + second
    }
    b.close()
    assert b._kept.results[0] == result(first[0])  # whose run is in another folder


@pytest.mark.slow
def test_who_was_taken_for_dead_may_tell_first(tmp_path, monkeypatch):
    hurry(monkeypatch.setattr)
    monkeypatch.setattr(shared, "BEAT", 600)  # it says nothing while it trains
    url = f"journal:{tmp_path / 'study'}"
    a, b = source(url, trials=1), source(url, trials=1)
    (trial,) = a.ask(1)
    assert b.ask(1) == [trial]
    a.tell(result(trial, score=1.0))
    b.tell(result(trial, score=2.0))
    assert told(b)[0].score == 1.0
    a.close(), b.close()


@pytest.mark.slow
def test_who_trains_for_long_is_not_taken_for_dead(tmp_path, monkeypatch):
    for name, seconds in (("BEAT", 0.1), ("STALE", 1.0), ("POLL", 0.1)):
        monkeypatch.setattr(shared, name, seconds)
    url = f"journal:{tmp_path / 'study'}"
    a, b = source(url, trials=1), source(url, trials=1)
    (trial,) = a.ask(1)
    begun = time.monotonic()
    later = threading.Timer(2.0, a.tell, [result(trial)])
    later.start()
    assert b.ask(1) == []
    assert time.monotonic() - begun > 1.5
    later.join()
    a.close(), b.close()


def test_what_was_taken_and_not_handed_out_is_free(tmp_path, monkeypatch):
    """The storage is gone while trials are asked for, or the process is before they have values."""
    monkeypatch.setattr(shared, "POLL", 0.1)
    one = source(f"journal:{tmp_path / 'study'}", trials=4)
    one._study.ask()
    make, calls = shared.trial_of, []

    def gone_at_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError("gone")
        return make(*args)

    monkeypatch.setattr(shared, "trial_of", gone_at_the_third)
    with pytest.warns(RunWarning, match="cannot be reached"):
        asked = one.ask(4)
    assert asked == drawn(SPACE, CONFIG, SweepOptions(trials=4)).ask(4)
    one.close()


# -- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "nsga2", "random"])
def test_a_study_in_a_folder_goes_on_as_if_it_had_not_been_interrupted(sampler, tmp_path):
    """As long as batches end where they ended; what was asked and not told comes first."""
    whole, parts = [], []
    options = {"trials": 12, "sampler": sampler, "batch": 4}
    one = source(**options)
    while asked := one.ask(4):
        whole += asked
        for trial in asked:
            one.tell(result(trial, score=trial.setting["gamma"]))
    one.close()

    for killed in (False, True, False, False):
        part = source(kept=Kept(tmp_path), **options)
        asked = part.ask(4)
        for trial in asked[: 2 if killed else 4]:
            part.tell(result(trial, score=trial.setting["gamma"]))
            parts.append(trial)
        (part._place if killed else part).close()
    # two of the second batch are asked for again, with two of the third
    rest = source(kept=Kept(tmp_path), **options)
    parts += rest.ask(4)
    rest.close()
    assert [t.number for t in parts] == list(range(12))
    assert parts[:8] == whole[:8]
    if sampler == "random":
        assert parts == whole


def test_a_study_without_a_folder_is_told_again():
    first = source(trials=6, sampler="tpe")
    known = [result(t) for t in first.ask(6) if t.number not in (1, 4)]
    again = source(trials=6, sampler="tpe")
    for r in known:
        again.tell(r)
    assert [t.number for t in again.ask(9)] == [1, 4]
    assert told(again) == {r.number: r for r in known}


def test_more_trials_and_fewer(tmp_path):
    url = f"journal:{tmp_path / 'study'}"
    for trials, numbers in ((3, [0, 1, 2]), (5, [3, 4]), (2, [])):
        part = source(url, trials=trials)
        asked = part.ask(9)
        assert [t.number for t in asked] == numbers
        for trial in asked:
            part.tell(result(trial))
        part.close()


# -- places that are not there --------------------------------------------------------------------


@POSIX
def test_a_storage_that_goes_away_and_comes_back(place, monkeypatch):
    monkeypatch.setattr(shared, "ABSENT", 0.0)
    options = {"trials": 6, "study_name": place.name}
    one = source(place.url, **options)
    trials = one.ask(4)
    one.tell(result(trials[0]))
    place.away()
    with pytest.warns(RunWarning, match="cannot be reached") as warned:
        one.tell(result(trials[1]))
        one.tell(result(trials[2]))
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    place.back()
    one.tell(result(trials[3]))  # and the two before it
    assert told(one).keys() == {0, 1, 2, 3}

    # it is away when more is asked for, and at the end
    (last,) = one.ask(1)
    place.away()
    with pytest.warns(RunWarning) as warned:
        one.tell(result(last))
        assert one.ask(1) == []
        one.close()
    said = [str(w.message) for w in warned]
    assert len(said) == 3 and "the same command" in said[1] and "not told 1 results" in said[2]
    assert one._kept.problems == said[1:]

    # the same command, whose folder knows of all five
    place.back()
    again = source(place.url, **options)
    for trial in (*trials, last):
        again.tell(result(trial))
    assert [t.number for t in again.ask(9)] == [5]
    assert told(again).keys() == {0, 1, 2, 3, 4}
    again.close()


@POSIX
@pytest.mark.parametrize("kind", ["journal:", "sqlite:///"])
def test_a_file_that_was_deleted_is_made_again_from_the_folder(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "ABSENT", 0.0)
    file = tmp_path / "study"
    one = source(f"{kind}{file}", trials=4)
    trials = one.ask(4)
    known = [result(t, score=float(t.number)) for t in trials]
    one.tell(known[0])
    file.unlink()
    with pytest.warns(RunWarning, match="No such file"):
        one.tell(known[2])
    assert not file.exists()  # nobody writes into a new one
    file.write_bytes(b"")
    with pytest.warns(RunWarning, match="another file is in its place"):
        one.close()
    assert file.read_bytes() == b""
    file.unlink()

    again = source(f"{kind}{file}", trials=4)
    again.tell(known[2])
    again.tell(known[0])
    assert [t.number for t in again.ask(9)] == [1, 3]
    again.close()
    assert [t.value for t in frozen(f"{kind}{file}")] == [0.0, None, 2.0, None]


def test_a_damaged_journal_is_named(tmp_path):
    file = tmp_path / "study"
    file.write_text('{"op_code": 0,\nnonsense\n')
    with pytest.raises(ConfigError, match=r"cannot be reached \(it is damaged"):
        source(f"journal:{file}")


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("journal:/no/such/folder/study", "cannot be reached"),
        ("sqlite:////no/such/folder/study", "cannot be reached"),
        ("postgresql://me:secret@127.0.0.1:1/postgres", "refused"),
        ("mysql://me:secret@host/sweeps", "use journal:FILE"),
        ("postgresql:/me:secret@host", "use journal:FILE"),
        ("sqlite://", "use journal:FILE"),
        ("nonsense", "use journal:FILE"),
        ("journal:", "must be a path"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused_in_one_line(storage, words):
    with pytest.raises(ConfigError, match=words) as error:
        source(storage)
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("package", "options"),
    [
        ("optuna", {"sampler": "tpe"}),
        ("cmaes", {"sampler": "cmaes"}),
        ("psycopg", {"storage": "postgresql://sweep@127.0.0.1/x"}),
    ],
)
def test_a_missing_package_is_named_with_its_extra(package, options, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}.*pip install 'purejaxppo\[sweep\]'"):
        source(**options)


# -- whose study it is ----------------------------------------------------------------------------


@pytest.mark.slow
def test_another_study_of_the_name_is_refused_by_its_first_difference(place):
    source(place.url, study_name=place.name).close()
    other = read_space({**VARIED, "gamma": "0.9..0.999"}, CONFIG)
    for options, words in [
        ({"space": other}, "has vary gamma='0.9..0.99', and this sweep '0.9..0.999'"),
        ({"config": CONFIG.replace(num_steps=64)}, "has num_steps=125, and this sweep 64"),
        ({"score": ("evaluation",)}, "has score=.'final_return'., and this sweep .'evaluation'."),
        ({"own": {"optimizer": "mine"}}, "has optimizer='adam', and this sweep 'mine'"),
        ({"seeds": 3}, "has seeds=1, and this sweep 3: name another with --study-name"),
    ]:
        with pytest.raises(ConfigError, match=words):
            source(place.url, study_name=place.name, **options)
    source(place.url, study_name=place.name, config=CONFIG.replace(gamma=0.5)).close()  # is varied


def test_a_study_of_another_program_is_refused(tmp_path):
    url = f"sqlite:///{tmp_path / 'study'}"
    storage = optuna.storages.RDBStorage(url)
    optuna.create_study(storage=storage, study_name="x", direction="minimize").ask()
    storage.engine.dispose()
    with pytest.raises(ConfigError, match="has vary learning_rate=None"):
        source(url, study_name="x")


def test_a_folder_of_another_study_is_refused(tmp_path):
    one = source(f"journal:{tmp_path / 'study'}", trials=2)
    trial, _ = one.ask(2)
    other = trial._replace(setting={**trial.setting, "num_epochs": 99})
    with pytest.raises(ConfigError, match="trial 0 has num_epochs=99 in the study's folder"):
        one.tell(result(other))
    one.close()


# -- what is told ---------------------------------------------------------------------------------


def test_how_a_trial_ended_is_what_optuna_calls_it(tmp_path):
    url = f"journal:{tmp_path / 'study'}"
    one = source(url, trials=4)
    done, stopped, failed, nan = one.ask(4)
    one.tell(result(done, score=1.5))
    one.tell(result(stopped, score=0.5, status="stopped"))
    one.tell(result(failed, score=None, status="failed"))
    one.tell(result(nan, score=math.nan))
    one.close()
    trials = frozen(url)
    assert [t.state.name for t in trials] == ["COMPLETE", "PRUNED", "FAIL", "FAIL"]
    assert [t.value for t in trials] == [1.5, 0.5, None, None]
    assert trials[1].intermediate_values == {100: 0.5}


def test_choices_of_all_kinds_come_back_as_they_were(tmp_path):
    varied = {"hidden_sizes": [(64,), (64, 64)], "activation": "tanh,relu", "num_envs": "8,16"}
    space = read_space(varied, CONFIG)
    url = f"journal:{tmp_path / 'study'}"
    one = source(url, space, trials=30, sampler="tpe")
    asked = one.ask(30)
    for d in space.dimensions:
        assert {t.setting[d.name] for t in asked} == set(d.choices)
    assert all(t.config.hidden_sizes == t.setting["hidden_sizes"] for t in asked)
    # a result that was read from JSON has lists for tuples
    for trial in asked:
        one.tell(result(trial)._replace(setting=json.loads(json.dumps(trial.setting))))
    one.close()


# -- samplers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["random", "sobol", "grid"])
def test_lists_of_settings_are_those_without_a_storage(sampler, tmp_path):
    varied = {k: f"{v}:3" for k, v in VARIED.items()} if sampler == "grid" else VARIED
    space = read_space(varied, CONFIG)
    options = SweepOptions(sampler=sampler, seed=3, trials=27)
    a = source(f"journal:{tmp_path / 'study'}", space, trials=27, sampler=sampler, seed=3)
    b = source(f"journal:{tmp_path / 'study'}", space, trials=27, sampler=sampler, seed=3)
    asked = [*a.ask(10), *b.ask(9), *a.ask(9)]
    assert asked == drawn(space, CONFIG, options).ask(27)
    a.close(), b.close()


def test_ranges_are_drawn_from_end_to_end():
    """Of what TPE begins with: whole numbers alike, and a logarithm that is uniform."""
    asked = source(trials=300, sampler="tpe").ask(300)
    epochs = [t.setting["num_epochs"] for t in asked]
    counts = np.bincount(epochs, minlength=9)
    assert counts[0] == 0 and len(counts) == 9
    assert ((counts[1:] - 300 / 8) ** 2 / (300 / 8)).sum() < 24.3  # chi square of 7, 1 in 1000
    logs = np.sort([math.log10(t.setting["learning_rate"]) for t in asked])
    assert logs[0] >= -4 and logs[-1] <= -2
    distance = np.abs((logs + 4) / 2 - (np.arange(300) + 0.5) / 300).max()
    assert distance < 1.95 / math.sqrt(300)  # Kolmogorov and Smirnov, 1 in 1000


def loss(setting):
    """Zero in the middle of all ranges, 1 at each end of one."""
    x = math.log10(setting["learning_rate"]) + 3
    return x**2 + ((setting["gamma"] - 0.945) / 0.045) ** 2


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_samplers_that_learn_come_nearer_than_random_ones(sampler):
    """In batches, of whose trials none is told before all are asked for."""
    space = read_space({k: VARIED[k] for k in ("learning_rate", "gamma")}, CONFIG)
    late = {}
    for name in (sampler, "random"):
        losses = []
        for seed in range(3):
            one = source(space=space, trials=48, sampler=name, seed=seed, batch=8)
            while asked := one.ask(8):
                losses += [loss(t.setting) for t in asked[-8:] if t.number >= 32]
                for trial in asked:
                    one.tell(result(trial, score=-loss(trial.setting)))
        late[name] = np.mean(losses)
    # two squares of uniform numbers: 2/3 on average
    assert late["random"] == pytest.approx(2 / 3, abs=0.2)
    assert late[sampler] < 0.4 * late["random"]


def test_several_scores_are_all_maximized():
    """Of -x^2 and -(x - 1)^2, no x within 0 .. 1 is better than another; all others are worse."""
    varied = {"learning_rate": "log:1e-4..1e-2", "gamma": "0.9..0.99"}
    space = read_space(varied, CONFIG)
    x = {}
    for sampler in ("nsga2", "random"):
        one = source(
            space=space, trials=120, sampler=sampler, score=("final_return", "mean_return")
        )
        found = []
        while asked := one.ask(10):
            for trial in asked:
                place = 2 * (math.log10(trial.setting["learning_rate"]) + 3)  # within -2 .. 2
                found.append(place)
                other = -((place - 1) ** 2)
                one.tell(result(trial, score=-(place**2), mean_return=other))
        x[sampler] = np.array(found)
        if sampler == "nsga2":
            values = np.array([t.values for t in one._study.trials])
            best = {t.number for t in one._study.best_trials}
    beaten = (values[:, None] <= values).all(-1) & (values[:, None] < values).any(-1)
    assert best == set(np.flatnonzero(~beaten.any(1)))
    inside = {k: np.mean((v[60:] >= 0) & (v[60:] <= 1)) for k, v in x.items()}
    assert inside["random"] < 0.4 and inside["nsga2"] > 0.5  # a quarter of all places


def test_cmaes_refuses_choices():
    space = read_space({**VARIED, "activation": "tanh,relu"}, CONFIG)
    with pytest.raises(ConfigError, match="activation is varied by choices: use sampler='tpe'"):
        source(space=space, sampler="cmaes")


# -- all of it ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_goes_on_in_other_batches_and_a_bad_storage_leaves_no_folder(tmp_path, monkeypatch):
    config = CONFIG.replace(
        num_envs=4, num_steps=32, total_timesteps=256, num_minibatches=2, num_epochs=1,
        hidden_sizes=(8,),
    )  # fmt: skip
    space, folder = {"learning_rate": "log:1e-3..1e-1"}, tmp_path / "study"
    options = {"trials": 4, "sampler": "tpe", "study_dir": folder}
    with pytest.raises(ConfigError, match="cannot be reached"):
        sweep(config, space, storage=f"journal:{tmp_path}/none/study", **options)
    assert not folder.exists()

    # a signal ends the first batch of three
    fit_of = training.fit_of
    monkeypatch.setattr(training, "fit_of", lambda *a, **k: fit_of(*a, **k)._replace(stopped=2))
    assert not sweep(config, space, batch=3, **options).results
    monkeypatch.setattr(training, "fit_of", fit_of)
    result = sweep(config, space, batch=2, **options)
    assert [r.status for r in result.results] == ["done"] * 4 and not result.problems
    assert [r.run for r in result.results] == ["runs/0000b"] * 2 + ["runs/0002"] * 2
    assert [t.value for t in frozen(f"journal:{folder / 'optuna.journal'}")] == [
        r.score for r in result.results
    ]
