"""The command line, in this process where possible: what it prints, writes and returns."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib

import jax
import numpy as np
import pytest
from rich.console import Console

from purejaxppo import PPOConfig, cli, components
from purejaxppo.cli.starts import parse_train
from purejaxppo.cli.train import results_table
from purejaxppo.tuning import keep_compiled_programs

FILES = {
    "config.toml", "run.json", "metrics.jsonl", "evaluations.jsonl", "checkpoints", "agents.npz",
    "curve.png", "summary.json", ".lock",
}  # fmt: skip
SMALL = "--total-timesteps 64 --num-envs 4 --num-steps 8 --num-minibatches 2 --hidden-sizes 8"


def run(argv, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["purejaxppo", *argv.split()])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


@pytest.fixture
def purejaxppo(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda argv: run(argv, monkeypatch, capsys)


@pytest.mark.slow
def test_each_command_builds_its_components_once(purejaxppo, monkeypatch):
    built, original = [], components.Components

    def counted(**fields):
        built.append(fields)
        return original(**fields)

    monkeypatch.setattr(components, "Components", counted)
    train = f"train CartPole-v1 {SMALL} --run-dir r --eval-every 32 --eval-episodes 2 --quiet"
    for command in (train, "eval r --episodes 2", "export r --format npz"):
        built.clear()
        assert purejaxppo(command)[0] == 0
        assert len(built) == 1, command


@pytest.mark.slow
def test_train_writes_the_run_folder_and_one_json_object(purejaxppo, tmp_path):
    code, out, _ = purejaxppo(f"train CartPole-v1 {SMALL} --seeds 2 --seed 3 --run-dir r --json")
    assert code == 0
    lines = out.strip().splitlines()
    assert "2 updates of 32 steps = 64 steps for each of 2 seeds" in lines[0]
    summary = json.loads(lines[-1])
    for key in (
        "env", "algorithm", "seeds", "total_timesteps", "final_returns", "final_return_mean",
        "final_return_std", "steps_per_second", "compile_seconds", "run_seconds", "run_dir",
        "parameters", "versions", "device",
    ):  # fmt: skip
        assert key in summary
    assert (summary["env"], summary["seeds"], summary["total_timesteps"]) == ("CartPole-v1", 2, 64)
    assert len(summary["final_returns"]) == 2
    files = {p.name for p in (tmp_path / "r").iterdir()}
    assert files == FILES
    assert len((tmp_path / "r/metrics.jsonl").read_text().splitlines()) == 2 * 2
    saved = PPOConfig.from_toml(tmp_path / "r/config.toml")
    assert (saved.num_envs, saved.total_timesteps, saved.hidden_sizes) == (4, 64, (8,))


@pytest.mark.slow
def test_total_timesteps_that_are_no_whole_updates_are_done_as_far_as_they_fit(purejaxppo):
    """Two updates of 32 steps in 70: the plan, the results and the page say so."""
    sizes = SMALL.replace("--total-timesteps 64", "--total-timesteps 70")
    code, out, _ = purejaxppo(f"train CartPole-v1 {sizes} --run-dir r --json")
    assert code == 0
    lines = out.strip().splitlines()
    assert "2 updates of 32 steps = 64 steps (70 were asked for) for each of 1 seed;" in lines[0]
    assert json.loads(lines[-1])["timesteps"] == 64
    assert PPOConfig.from_toml("r/config.toml").total_timesteps == 70
    code, out, _ = purejaxppo("train CartPole-v1 --resume --run-dir r")
    assert (code, "nothing was left to do" in out) == (0, True)
    assert purejaxppo("report r")[0] == 0
    with open("report.html", encoding="utf-8") as page:
        assert "Finished." in page.read()


@pytest.mark.slow
def test_json_is_valid_when_no_episode_ends(purejaxppo):
    code, out, _ = purejaxppo(f"train Pendulum-v1 {SMALL} --json --preset none")
    summary = json.loads(out.strip().splitlines()[-1], parse_constant=pytest.fail)
    assert code == 0
    assert summary["final_returns"] == [None]
    assert summary["final_return_mean"] is None
    assert summary["run_dir"].startswith("runs/Pendulum-v1-")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("train CartPoel-v1", "did you mean CartPole-v1"),
        ("train nosuch/ant", "no suite 'nosuch'"),
        ("train gymnasium/CartPole-v1 --seeds 2", "cannot be vmapped"),
        ("train CartPole-v1 --env-options max_steps", "must be name=value"),
        ("train CartPole-v1 --env-options color=red", "has no option 'color': known: "),
        (
            "train gymnasium/CartPole-v1 --reset-batch 2",
            "has no effect on environments of the host",
        ),
        ("envs nosuch", "envs takes one suite or none, not 'nosuch'"),
        ("check-env CartPole-v2", "did you mean CartPole-v1"),
        ("check-env nowhere:Env", "'nowhere' cannot be imported: there is no such module"),
        ("train", "env"),
        ("trian CartPole-v1", "use train or sweep"),
        ("train CartPole-v1 --num-envs 7 --preset none", "must divide"),
        ("train CartPole-v1 --total-timesteps 500", "must hold one update"),
        ("train CartPole-v1 --learning-rate 0", "must be greater than 0"),
        ("train CartPole-v1 --learning-rate nan", "must be finite"),
        ("train CartPole-v1 --gamma inf", "must be finite"),
        ("train CartPole-v1 --gamma x", "--gamma"),
        ("train CartPole-v1 --gama 0.9", "--gamma"),
        ("train CartPole-v1 --objective clap", "clip"),
        ("train CartPole-v1 --huber-delta 2", "has no effect here"),
        ("train CartPole-v1 --torso cnn", "use torso='mlp'"),
        ("train CartPole-v1 --sequence-length 5", "no effect without a memory"),
        ("train CartPole-v1 --core gru --sequence-length 30", "must divide num_steps=125"),
        ("train CartPole-v1 --torso nature", "use torso='mlp'"),
        ("train CartPole-v1 --squash-actions", "has no effect on actions"),
        ("train CartPole-v1 --preset CartPol", "unknown preset"),
        ("train CartPole-v1 --seeds 0", "seeds=0"),
        ("train CartPole-v1 --seed -1", "seed=-1"),
        ("train FrozenLake-misc --normalize-observations", "no meaning"),
        ("train CartPole-v1 --run-dir full", "exists and is not empty"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(purejaxppo, tmp_path, argv, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thing").write_text("kept")
    code, out, err = purejaxppo(argv)
    assert code == 2
    assert out == ""
    assert err.startswith("purejaxppo: ")
    assert words in err
    assert len(err.splitlines()) == 1
    assert len(err) < 400
    assert {p.name for p in tmp_path.iterdir()} == {"full"}
    assert (tmp_path / "full/thing").read_text() == "kept"


def test_options_override_the_preset():
    preset = PPOConfig.preset("CartPole-v1")
    args, config = parse_train(["CartPole-v1", "--gamma", "0.5", "--target-kl", "0.1"])
    assert config == preset.replace(gamma=0.5, target_kl=0.1)
    _, config = parse_train(["--num-epochs", "2", "CartPole-v1", "--preset", "none"])
    assert config == PPOConfig.ppo(num_epochs=2)
    assert (args.seeds, args.seed, args.run_dir, args.json) == (1, 0, None, False)


def test_options_of_the_environment_go_over_the_presets_one_by_one():
    _, config = parse_train(["brax/hopper"])
    assert config.env_options == ("backend=spring",)
    _, config = parse_train(["brax/hopper", "--env-options", "max_steps=5"])
    assert config.env_options == ("backend=spring", "max_steps=5")
    _, config = parse_train(["brax/hopper", "--env-options", "backend=mjx", "max_steps=5"])
    assert config.env_options == ("backend=mjx", "max_steps=5")


@pytest.mark.parametrize("algorithm", ["ppo", "ppo_kl", "a2c", "reinforce"])
def test_every_algorithm_is_reachable(algorithm):
    _, config = parse_train(["Acrobot-v1", "--algorithm", algorithm, "--preset", "none"])
    assert config == getattr(PPOConfig, algorithm)(env="Acrobot-v1")


@pytest.mark.slow
def test_envs_lists_what_can_be_trained(purejaxppo):
    code, out, _ = purejaxppo("envs")
    assert code == 0
    names = [line.split()[0] for line in out.splitlines()]
    assert len([name for name in names if "/" not in name]) == 26
    assert {"CartPole-v1", "Breakout-MinAtar", "FrozenLake-misc"} <= set(names)
    assert {"gymnasium/CartPole-v1", "pgx/2048", "brax/ant"} <= set(names)
    assert "preset" in out
    _, out, _ = purejaxppo("envs pgx")
    assert all(line.startswith("pgx/") for line in out.splitlines())


@pytest.mark.slow
def test_check_env_says_what_is_right_and_what_is_not(purejaxppo, tmp_path):
    code, out, _ = purejaxppo("check-env CartPole-v1 --num-steps 20")
    assert code == 0 and "no faults" in out and "Discrete(n=2)" in out
    (tmp_path / "mine.py").write_text(
        "from purejaxppo.envs.suites.gymnax import make_env\n"
        "env = make_env('CartPole-v1')[0].env\n"
        "class Wrong(type(env)):\n"
        "    def is_truncated(self, state, params): return state.time >= 0\n"
    )
    code, _, _ = purejaxppo("check-env mine:env --num-steps 20")
    assert code == 0
    code, _, err = purejaxppo("check-env mine:Wrong --num-steps 20")
    assert code == 1
    assert err == "is_truncated is True of a fresh state: count from 0\n"


def test_help_names_every_option(purejaxppo):
    code, out, _ = purejaxppo("--help")
    assert code == 0
    assert "train ENV" in out
    code, out, _ = purejaxppo("train --help")
    assert code == 0
    assert all(
        f"--{n.replace('_', '-')}" in out for n in PPOConfig.__dataclass_fields__ if n != "env"
    )


@pytest.mark.slow
def test_ctrl_c_saves_what_was_reached(tmp_path):
    """A real process, a real signal: exit code 130, a whole run folder."""
    import signal

    command = [
        sys.executable, "-c", "from purejaxppo.cli import main; main()", "train", "CartPole-v1",
        "--preset", "none", "--num-envs", "4", "--num-steps", "8", "--num-minibatches", "2",
        "--hidden-sizes", "8", "--total-timesteps", "320000000", "--run-dir", "r", "--json",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "r/metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and metrics.stat().st_size:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    summary = json.loads(out.strip().splitlines()[-1])
    assert 0 < summary["timesteps"] < summary["total_timesteps"]
    assert {p.name for p in (tmp_path / "r").iterdir()} == FILES
    assert "go on with: purejaxppo train CartPole-v1 --resume --run-dir r" in err
    tomllib.loads((tmp_path / "r/config.toml").read_text())
    last = json.loads(metrics.read_text().splitlines()[-1])
    assert last["step"] == summary["timesteps"]


# -- results -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returns", "line"),
    [
        ([500.0], "500.0  (1 seed)"),
        ([10.0, 14.0], "12.0 ± 2  (mean ± std over 2 seeds)"),
        ([10.0, 14.0, None], "12.0 ± 2  (mean ± std over 2 of 3 seeds)"),
        ([10.0, None], "10.0  (1 of 2 seeds)"),
        ([0.977, 0.979], "0.978 ± 0.001  (mean ± std over 2 seeds)"),
        ([None], "no episode ended, or a return is not finite"),
    ],
)
def test_results_of_one_seed_have_no_spread(returns, line, capsys):
    ended = [x for x in returns if x is not None]
    summary = {
        "seeds": len(returns), "final_returns": returns, "best_evaluations": [], "episodes": 1,
        "final_return_mean": np.mean(ended) if ended else None,
        "final_return_std": np.std(ended) if ended else None,
        "steps_per_second": None, "compile_seconds": None, "run_seconds": None, "run_dir": "r",
    }  # fmt: skip
    Console(width=100).print(results_table(summary))
    rows = [row.strip() for row in capsys.readouterr().out.splitlines()]
    assert rows[0] == f"final return  {line}"


# -- starting quickly --------------------------------------------------------------------------


def process(*args, **env):
    """A command in a process of its own, which knows of no compilation cache."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    return subprocess.run(args, env=clean | env, capture_output=True, text=True, check=True)


def train_in(folder, *options, home, **env):
    argv = ["train", "CartPole-v1", *SMALL.split(), "--run-dir", str(folder), *options]
    main = "from purejaxppo.cli.main import main; main()"
    env |= {"XDG_CACHE_HOME": str(home), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return process(sys.executable, "-c", main, *argv, **env)


@pytest.mark.slow
def test_compiled_programs_are_kept(tmp_path):
    home = tmp_path / "cache"
    train_in(tmp_path / "a", home=home)
    kept = {p: p.stat().st_mtime_ns for p in home.rglob("*-cache")}
    assert any("jit_run_chunk" in p.name for p in kept)
    again = train_in(tmp_path / "b", home=home)
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*-cache")} == kept
    assert "error" not in again.stderr.lower()
    saved = [np.load(tmp_path / name / "agents.npz") for name in "ab"]
    assert all(np.array_equal(saved[0][key], saved[1][key]) for key in saved[0].files)
    # numbers are arguments of the programs: others need no program of their own
    train_in(tmp_path / "c", "--learning-rate", "0.001", "--gamma", "0.9", home=home)
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*-cache")} == kept


@pytest.mark.slow
def test_no_compiled_program_is_kept_unasked_or_where_it_cannot_be(tmp_path):
    told = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache/told")}
    told["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    train_in(tmp_path / "a", "--no-compilation-cache", home=tmp_path / "cache", **told)
    assert not list((tmp_path / "cache").rglob("*-cache"))
    (tmp_path / "file").touch()  # where a folder would have to be
    done = train_in(tmp_path / "b", home=tmp_path / "file")
    assert "purejaxppo: compiled programs are not kept: " in done.stderr
    assert (tmp_path / "b/agents.npz").exists()


def test_the_cache_folder_that_jax_was_told_of_stays():
    folder = jax.config.jax_compilation_cache_dir
    assert folder
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == folder


SECONDS = """
import time
start = time.perf_counter()
{}
print(time.perf_counter() - start)
"""


@pytest.mark.slow
def test_imports_are_quick():
    """The least of two runs each: whatever else the machine does can only add to it."""
    code = {
        "ours": "import purejaxppo; from purejaxppo import *",
        "theirs": "import jax, flax.linen, optax, gymnax",
    }
    seconds = {
        name: min(
            float(process(sys.executable, "-c", SECONDS.format(line)).stdout) for _ in range(2)
        )
        for name, line in code.items()
    }
    assert seconds["ours"] < 1.5 * seconds["theirs"]


# -- run folders -------------------------------------------------------------------------------


@pytest.mark.slow
def test_resume_takes_the_newest_run_and_its_own_configuration(purejaxppo, tmp_path):
    code, out, _ = purejaxppo(f"train CartPole-v1 {SMALL} --seeds 2 --gamma 0.9 --json")
    assert code == 0
    folder = json.loads(out.splitlines()[-1])["run_dir"]
    before = {p: p.read_bytes() for p in (tmp_path / folder).rglob("*") if p.is_file()}
    code, out, _ = purejaxppo("train CartPole-v1 --resume")
    assert code == 0
    assert f"nothing was left to do in {folder}" in out
    code, out, _ = purejaxppo(f"train CartPole-v1 {SMALL} --seeds 2 --gamma 0.9 --resume")
    assert code == 0
    for argv, words in [
        ("--gamma 0.99", "has gamma=0.9, not 0.99"),
        ("--seeds 1", "has seeds=2, not 1"),
        ("--algorithm a2c", "has "),
        ("--run-dir elsewhere/full", "holds no run to go on with and is not empty"),
    ]:
        (tmp_path / "elsewhere/full").mkdir(parents=True, exist_ok=True)
        (tmp_path / "elsewhere/full/thing").write_text("kept")
        code, _, err = purejaxppo(f"train CartPole-v1 --resume {argv}")
        assert code == 2
        assert words in err
        assert len(err.splitlines()) == 1
    assert {p: p.read_bytes() for p in (tmp_path / folder).rglob("*") if p.is_file()} == before
    code, _, err = purejaxppo("train Acrobot-v1 --resume")
    assert code == 2
    assert "no run of Acrobot-v1 in runs/ to go on with" in err
    # one that is older and damaged is not looked at; one that was moved is where it is now
    older = shutil.copytree(tmp_path / folder, tmp_path / f"{folder}0")
    (older / "run.json").write_text("{")
    os.utime(older / "run.json", (0, 0))
    moved = (tmp_path / folder).rename(tmp_path / f"{folder}1")
    code, out, _ = purejaxppo("train CartPole-v1 --resume --json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["run_dir"] == str(moved.relative_to(tmp_path))


@pytest.mark.slow
def test_resume_begins_what_was_never_begun(purejaxppo, tmp_path):
    """What a process has left that was killed before it had written its configuration."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r/run.json").write_text("{}")
    argv = f"train CartPole-v1 {SMALL} --run-dir r --resume --quiet"
    assert purejaxppo(argv)[0] == 0
    assert (tmp_path / "r/agents.npz").exists()
    assert purejaxppo(argv)[0] == 0


@pytest.mark.slow
def test_eval_plays_what_was_trained(purejaxppo, tmp_path):
    assert purejaxppo(f"train CartPole-v1 {SMALL} --seeds 2 --run-dir r --quiet")[0] == 0
    code, out, _ = purejaxppo("eval r --episodes 3 --json")
    assert code == 0
    found = json.loads(out)
    assert [row["episodes"] for row in found["seeds"]] == [3, 3]
    assert found["unfinished"] == 0
    means = [row["return_mean"] for row in found["seeds"]]
    assert found["return_mean"] == pytest.approx(sum(means) / 2)
    code, again, _ = purejaxppo("eval r --episodes 3 --json")
    assert again == out
    code, out, _ = purejaxppo("eval r --episodes 3 --sampled")
    assert "± std" in out
    assert re.search(r"CartPole-v1: mean return [\d.]+ over 2 seeds\n", out)
    assert purejaxppo(f"train CartPole-v1 {SMALL} --run-dir one --quiet")[0] == 0
    _, out, _ = purejaxppo("eval one --episodes 1")
    assert "±" not in out
    assert re.search(r"CartPole-v1: mean return [\d.]+ over 1 seed\n", out)
    for argv, words in [
        ("eval nowhere", "holds no run"),
        ("eval r --weights best", "train with --eval-every"),
        ("eval r --episodes 0", "episodes=0 must be at least 1"),
    ]:
        code, _, err = purejaxppo(argv)
        assert (code, len(err.splitlines())) == (2, 1)
        assert words in err


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name != "envs"])
def test_every_commands_help_reads_well(purejaxppo, command):
    code, out, _ = purejaxppo(f"{command} --help")
    assert code == 0
    assert f"usage: purejaxppo {command}" in out
    _, usage, _ = purejaxppo("--help")
    assert f"\n  {command} " in usage
    assert all(len(line) <= 100 for line in usage.splitlines())


@pytest.mark.parametrize("command", [pytest.param("envs", marks=pytest.mark.slow), "plot --help"])
def test_a_reader_that_goes_away_is_no_fault(command):
    program = shlex.quote("from purejaxppo import cli; cli.main()")
    script = f"{shlex.quote(sys.executable)} -c {program} {command} | true"
    run = subprocess.run(script, shell=True, capture_output=True, text=True)
    assert run.stderr == ""
