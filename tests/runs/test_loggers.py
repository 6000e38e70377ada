"""Loggers: the same rows in TensorBoard, Weights & Biases and tables; columns of info."""

import csv
import dataclasses
import json
import math
import shutil
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from support.probes import Endless

from purejaxppo import ConfigError, CSVLogger, Metrics, PPOConfig, TensorBoard, WandB, cli, fit
from purejaxppo.errors import RunWarning
from purejaxppo.run_folder.read import read_metrics, read_rows
from purejaxppo.run_folder.rows import DERIVED, SCALARS, metrics_from_rows, metrics_rows
from purejaxppo.runs import loggers
from purejaxppo.runs.loggers import GROUPS, Speed, cut_table

CONFIG = PPOConfig(
    num_envs=4, num_steps=8, num_minibatches=1, num_epochs=1, total_timesteps=32 * 6,
    hidden_sizes=(8,), info_metrics=("third", "parts/time"),
)  # fmt: skip
OPTIONS = {"seeds": 2, "eval_every": 32 * 3, "eval_episodes": 2, "checkpoint_every": 32 * 2}


class Long(Endless):
    """Episodes of 10 steps, which tell of a number that float32 rounds, and of the time."""

    def __init__(self):
        super().__init__(max_steps_in_episode=10)

    def step_env(self, key, state, action, params):
        obs, state, *paid, _ = super().step_env(key, state, action, params)
        told = {"third": state.x * state.time / 3, "parts": {"time": state.time}}
        return obs, state, *paid, told


def named(dist, log_prob, batch, hyper, state):
    ratio = jnp.exp(log_prob - batch.log_prob)
    return -ratio * batch.advantage, {"ratio": ratio, "info_gain": ratio}


OWN = {"env": Long(), "objective": named}


def train(folder, **options):
    """A run with its tables in its folder."""
    calls = [CSVLogger(folder), *options.pop("callbacks", ())]
    return fit(CONFIG, **OPTIONS, **OWN, run_dir=folder, callbacks=calls, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with all loggers that write into its folder; result and folder."""
    folder = tmp_path_factory.mktemp("logged") / "run"
    return train(folder, callbacks=[TensorBoard(folder)]), folder


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- columns --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_column_of_metrics_has_a_group(run):
    grouped = [name for columns in GROUPS.values() for name in columns]
    assert len(grouped) == len(set(grouped))
    assert {*SCALARS, *DERIVED} - {"step", "seed"} | {"steps_per_second"} == set(grouped)
    fields = {field.name for field in dataclasses.fields(Metrics)}
    assert fields - set(grouped) == {"extra", "info_sum"}
    rows = metrics_rows(run[0].metrics, 0, CONFIG)
    others = rows[0].keys() - set(grouped) - {"step", "seed"}
    assert others == {"ratio", "info_gain", "info_third", "info_parts/time"}


def test_info_metrics_are_columns_null_where_no_episode_ends(run):
    """Episodes of 10 steps: in updates of 8 all four end in the second, third, fourth, fifth."""
    result, folder = run
    ended = [0, 4, 4, 4, 4, 0]  # at steps 10, 20, 30, 40 of 48
    rows = lines(folder / "metrics.jsonl")
    for row in rows:
        count = ended[row["step"] // 32 - 1]
        assert row["episodes"] == count
        assert row["info_parts/time"] == (10.0 if count else None)
        third = float(np.float32(10) / np.float32(3))
        assert row["info_third"] == (pytest.approx(third) if count else None)
    counts = np.array([ended] * 2)
    np.testing.assert_array_equal(result.metrics.info_sum["parts/time"], 10.0 * counts)
    np.testing.assert_array_equal(np.isnan(result.metrics.episode_info["third"]), counts == 0)


def test_columns_of_info_and_of_an_objective_are_read_back_apart_to_the_bit(run):
    result, folder = run
    read = read_metrics(folder)
    assert set(read.extra) == {"ratio", "info_gain"}
    assert set(read.info_sum) == {"third", "parts/time"}
    for name in ("extra", "info_sum"):
        for key, x in getattr(result.metrics, name).items():
            again = getattr(read, name)[key]
            assert again.dtype == x.dtype
            np.testing.assert_array_equal(again, x)


@pytest.mark.parametrize("count", [1, 3, 7, 1000, 2**31 - 1])
def test_sums_come_back_from_means_to_the_bit(count):
    """Whatever float32 they are: a mean in float64 has 29 bits more than it."""
    rng = np.random.default_rng(count)
    bits = rng.integers(0, 2**32, 5000, np.uint32).view(np.float32)
    sums = bits[np.isfinite(bits)][None]
    episodes = np.full(sums.shape, count, np.int32)
    fields = dict.fromkeys(SCALARS, np.zeros(sums.shape, np.float32)) | {"episodes": episodes}
    rows = metrics_rows(Metrics(**fields, info_sum={"x": sums}), 0, CONFIG)
    assert "info_x" in rows[0]
    rows = json.loads(json.dumps(rows).replace("NaN", "null"))
    back = metrics_from_rows(rows, 1, ["x"])
    np.testing.assert_array_equal(back.info_sum["x"], sums)
    assert back.extra == {}


@pytest.mark.slow
def test_an_objective_with_the_column_of_an_info_is_refused():
    def loss(*args):
        return named(*args)[0], {"info_third": args[1]}

    with pytest.raises(ConfigError, match="'info_third', which is the column of 'third'"):
        fit(CONFIG, env=Long(), objective=loss)


def test_a_run_folder_without_the_column_is_damaged(run, tmp_path):
    folder = shutil.copytree(run[1], tmp_path / "run")
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text.replace("info_third", "info_fourth"))
    with pytest.raises(ConfigError, match=r"line 1 of .*info_third is missing"):
        read_metrics(folder)


@pytest.mark.parametrize("names", [(), ("third",), ("parts/time", "third")])
def test_a_run_goes_on_with_its_own_info_metrics_alone(run, names):
    with pytest.raises(ConfigError, match="has info_metrics="):
        fit(CONFIG.replace(info_metrics=names), **OPTIONS, **OWN, run_dir=run[1], resume=True)


# -- tables ---------------------------------------------------------------------------------------


def test_progress_csv_has_the_rows_of_metrics_jsonl(run):
    _, folder = run
    rows, wanted = table(folder / "progress.csv"), lines(folder / "metrics.jsonl")
    assert list(rows[0]) == [*wanted[0], "steps_per_second"]
    assert len(rows) == 2 * 6
    for row, line in zip(rows, wanted, strict=True):
        assert float(row.pop("steps_per_second")) > 0
        assert {name: float(x) if x else None for name, x in row.items()} == line


def test_evaluations_csv_has_the_rows_of_evaluations_jsonl(run):
    _, folder = run
    rows, wanted = table(folder / "evaluations.csv"), lines(folder / "evaluations.jsonl")
    assert list(rows[0]) == list(wanted[0])
    assert [{name: float(x) for name, x in row.items()} for row in rows] == wanted


def without_speed(path):
    return [{n: x for n, x in row.items() if n != "steps_per_second"} for row in table(path)]


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_has_each_row_once_in_its_tables(run, tmp_path):
    """Its rows were ahead of its checkpoint, and the last one was torn."""
    folder = tmp_path / "run"

    def kill(step, row):
        if step == 32 * 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, callbacks=[kill])
    assert max(int(row["step"]) for row in table(folder / "progress.csv")) >= 32 * 5
    with open(folder / "progress.csv", "a") as file:
        file.write("192,0,1")
    with open(folder / "evaluations.csv", "a") as file:
        file.write("192,0,1,1,1,1,1\n")  # of a step that comes again
    result = train(folder, resume=True)
    assert 0 < result.resumed_at < 5
    for name in ("progress.csv", "evaluations.csv"):
        assert without_speed(folder / name) == without_speed(run[1] / name)


def test_a_finished_run_that_is_resumed_leaves_its_tables_as_they_are(run, tmp_path):
    folder = shutil.copytree(run[1], tmp_path / "run")
    before = (folder / "progress.csv").read_bytes()
    train(folder, resume=True)
    assert (folder / "progress.csv").read_bytes() == before


def rows_of(*steps):
    return [{"step": step, "seed": 0, "a": step / 3, "b": math.nan} for step in steps]


def log(folder, rows, evaluations=()):
    logger = CSVLogger(folder)
    for row in rows:
        logger.on_row(row["step"], row)
    for row in evaluations:
        logger.on_evaluation(row["step"], row)
    logger.close()


def test_tables_by_hand(tmp_path):
    log(tmp_path / "new", rows_of(8, 16), [{"step": 16, "seed": 0, "return_mean": 2.5}])
    assert (tmp_path / "new/progress.csv").read_text().splitlines() == [
        "step,seed,a,b,steps_per_second", f"8,0,{8 / 3!r},,", f"16,0,{16 / 3!r},,",
    ]  # fmt: skip
    assert (tmp_path / "new/evaluations.csv").read_text() == "step,seed,return_mean\n16,0,2.5\n"


def test_the_first_row_fixes_the_columns(tmp_path):
    rows = [{"step": 1, "seed": 0, "a": 1}, {"step": 2, "seed": 0, "c": 5}]
    log(tmp_path, rows)
    assert (tmp_path / "progress.csv").read_text().splitlines()[1:] == ["1,0,1,", "2,0,,"]


def test_rows_are_in_the_file_as_soon_as_they_are_logged(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.on_row(8, rows_of(8)[0])
    assert len(table(tmp_path / "progress.csv")) == 1
    logger.close()


def test_a_new_run_in_the_same_folder_begins_its_tables_anew(tmp_path):
    log(tmp_path, rows_of(8, 16, 24), [{"step": 24, "seed": 0, "return_mean": 1}])
    log(tmp_path, rows_of(8))
    assert [row["step"] for row in table(tmp_path / "progress.csv")] == ["8"]
    assert not (tmp_path / "evaluations.csv").exists()


def test_a_table_of_other_columns_is_left_alone(tmp_path):
    log(tmp_path, rows_of(8))
    before = (tmp_path / "progress.csv").read_bytes()
    with pytest.raises(ConfigError, match=r"has the columns step, .*, not step, seed, other"):
        log(tmp_path, [{"step": 16, "seed": 0, "other": 1}])
    assert (tmp_path / "progress.csv").read_bytes() == before


def test_tables_are_not_written_through_links(tmp_path):
    (tmp_path / "precious").write_text("step,seed,a,b,steps_per_second\n1,0,1,1,1\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/progress.csv").symlink_to(tmp_path / "precious")
    log(tmp_path / "run", rows_of(8))
    assert (tmp_path / "precious").read_text().count("\n") == 2
    assert [row["step"] for row in table(tmp_path / "run/progress.csv")] == ["1", "8"]


@pytest.mark.parametrize("text", ["step,seed\nnonsense,0\n", "step,seed\n,0\n", "a\n\n"])
def test_a_table_whose_rows_have_no_step_is_refused(tmp_path, text):
    (tmp_path / "progress.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"line 2 of .*progress.csv' is damaged"):
        cut_table(tmp_path / "progress.csv", 8)
    assert (tmp_path / "progress.csv").read_text() == text


@pytest.mark.slow
def test_a_table_that_cannot_be_written_is_reported_and_the_run_goes_on(tmp_path):
    (tmp_path / "tables").write_text("no folder")
    config = CONFIG.replace(total_timesteps=64, info_metrics=())
    with pytest.warns(RunWarning, match="callback CSVLogger is not called again: .*Error"):
        result = fit(config, env=Long(), callbacks=CSVLogger(tmp_path / "tables"))
    assert result.metrics.episodes.shape == (1, 2)


@pytest.mark.parametrize("folder", ["", 3, None])
@pytest.mark.parametrize("kind", [CSVLogger, TensorBoard])
def test_a_folder_that_is_none_is_refused(kind, folder):
    with pytest.raises(ConfigError, match="run_dir="):
        kind(folder)


def test_speed_by_hand(monkeypatch):
    now = {"seconds": 5.0}
    monkeypatch.setattr(loggers.time, "perf_counter", lambda: now["seconds"])
    speed = Speed(CONFIG)
    now["seconds"] = 7.0
    # the first row is that of an update of 32 steps; a resumed run has had 960 before
    assert speed.at(960 + 32) == 16.0
    now["seconds"] = 8.0
    assert speed.at(960 + 96) == 32.0
    assert math.isnan(Speed().at(32))


# -- TensorBoard and Weights & Biases -------------------------------------------------------------


def events(path):
    """What is in a file of TensorBoard's."""
    from tensorboardX.proto.event_pb2 import Event

    raw = path.read_bytes()
    while raw:  # length, its checksum, the event, its checksum
        size = int.from_bytes(raw[:8], "little")
        yield Event.FromString(raw[12 : 12 + size])
        raw = raw[16 + size :]


def tags(folder):
    """Values by tag and step of the one file in a folder."""
    (path,) = folder.iterdir()
    return {(v.tag, e.step): v.simple_value for e in events(path) for v in e.summary.value}


NAMES = {
    "rollout/episodes", "rollout/return_sum", "rollout/length_sum", "rollout/episode_return",
    "rollout/episode_length", "rollout/empty_masks", "rollout/info_third",
    "rollout/info_parts/time", "train/policy_loss", "train/value_loss", "train/entropy",
    "train/approx_kl", "train/clip_fraction", "train/grad_norm", "train/explained_variance",
    "train/learning_rate", "train/kl_coef", "train/gradient_steps", "train/skipped_steps",
    "train/ratio", "train/info_gain", "time/steps_per_second", "eval/return_mean",
    "eval/return_std", "eval/length_mean", "eval/episodes", "eval/unfinished",
}  # fmt: skip


def test_tensorboard_has_every_row_in_groups(run):
    result, folder = run
    for seed in range(2):
        found = tags(folder / f"tensorboard/seed_{seed}")
        assert {tag for tag, _ in found} == NAMES
        for u in range(6):
            losses = result.metrics.policy_loss
            assert found["train/policy_loss", 32 * (u + 1)] == losses[seed, u]
        steps = {step for tag, step in found if tag == "rollout/episode_return"}
        assert steps == {64, 96, 128, 160}  # where episodes ended
        assert found["rollout/info_parts/time", 64] == 10.0
        assert {step for tag, step in found if tag == "eval/return_mean"} == {96, 192}


def test_tensorboard_is_told_which_steps_come_again(tmp_path):
    """By an event that says where a session starts: it hides later steps of files before."""
    folder = tmp_path / "tensorboard/seed_0"
    for first in (32, 64):
        logger = TensorBoard(tmp_path)
        for step in range(first, 97, 32):
            logger.on_row(step, rows_of(step)[0])
        logger.close()
        if first == 32:
            (folder / next(folder.iterdir()).name).rename(folder / "events.out.tfevents.first")
    (again,) = (path for path in folder.iterdir() if path.suffix != ".first")
    starts = [e.step for e in events(again) if e.HasField("session_log")]
    assert starts == [64]
    assert {e.step for e in events(again) for v in e.summary.value} == {64, 96}


class Fake:
    """As much of wandb as is used."""

    def __init__(self):
        self.begun, self.logged, self.finished = [], [], 0

    def init(self, **about):
        self.begun.append(about)
        return SimpleNamespace(id="abc", log=self.log, finish=self.finish)

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


def test_weights_and_biases_has_the_same_groups_below_each_seed(tmp_path, monkeypatch):
    fake = Fake()
    monkeypatch.setattr(loggers, "import_extra", lambda extra: fake)
    logger = WandB(tmp_path, "project")
    logger.on_start(CONFIG, tmp_path)
    assert fake.begun == []  # where nothing is left to do, nothing is begun
    row = {"step": 8, "seed": 1, "episodes": 0, "episode_return": math.nan, "info_third": 2.0}
    logger.on_row(8, row | {"ratio": 1.5, "info_gain": 2.5})
    logger.on_evaluation(8, {"step": 8, "seed": 1, "return_mean": 3.0})
    logger.close()
    (about,) = fake.begun
    assert about["project"] == "project" and about["config"] == CONFIG.to_dict()
    (step, values), evaluation = fake.logged
    assert step == 8 and values.pop("seed_1/time/steps_per_second") > 0
    assert values == {
        "seed_1/rollout/episodes": 0, "seed_1/rollout/info_third": 2.0, "seed_1/train/ratio": 1.5,
        "seed_1/train/info_gain": 2.5,
    }  # fmt: skip
    assert evaluation == (8, {"seed_1/eval/return_mean": 3.0})
    assert fake.finished == 1
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": "abc"}


# -- from the command line ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_line_writes_tables_and_goes_on_with_them(tmp_path, monkeypatch):
    words = (
        "train CartPole-v1 --preset none --csv --info-metrics discount --num-envs 4 --num-steps 8 "
        "--total-timesteps 320 --num-epochs 1 --num-minibatches 1 --hidden-sizes 8 --quiet "
        "--eval-every 160 --eval-episodes 2 --run-dir"
    )
    folder = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["purejaxppo", *words.split(), str(folder)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    rows = table(folder / "progress.csv")
    assert len(rows) == 10 and {row["info_discount"] for row in rows} <= {"0.0", "1.0", ""}
    assert len(table(folder / "evaluations.csv")) == 2
    assert [int(row["step"]) for row in rows] == [
        row["step"] for row in read_rows(folder / "metrics.jsonl")
    ]
    # which --resume takes
    assert json.loads((folder / "run.json").read_text())["options"]["csv"] is True
