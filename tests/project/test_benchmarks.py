"""Every benchmark runs, at its smallest, and its JSON says where the figures come from."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL = "--total-timesteps 512"
SMOKE = {
    "speed.breakdown": "--shapes a --rounds 2",
    "speed.driver": f"--rounds 2 --checkpoints 1 {SMALL}",
    "speed.first_run": "--here --total-timesteps 2000",
    "learning.memory": "--cores none --seeds 2 --total-timesteps 4096",
    "peers.peers": f"--shapes a --peers none --rounds 2 {SMALL}",
    "speed.resets": "--env CartPole-v1 --num-envs 4 --updates 1 --batches 2 --rounds 2",
    "speed.scaling": "--kinds environments --largest-environments 16 --updates 1 --rounds 2",
    "learning.scores": "--runs CartPole-v1,\\ classic --seeds 2 --total-timesteps 4096",
    "learning.shuffle": "--presets CartPole-v1 --seeds 2 --total-timesteps 20000 --rounds 2",
    "speed.suites": "--envs CartPole-v1 gymnasium/HalfCheetah-v5 --total-timesteps 1000",
    "speed.throughput": f"--shapes --sweeps widths --largest 64 --repeats 2 {SMALL}",
    "speed.time_limits": "--shapes 4\\ x\\ 128 --total-timesteps 1024 --pairs 2",
    "peers.time_to_score": (
        "--arms ours --envs CartPole-v1 --repeats 1 --max-steps 10000 --episodes 2"
    ),
}


def run(script, *args):
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(FOLDER.parent / ".jax_cache"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # whether it runs, not how fast
    }
    command = [sys.executable, "-m", f"benchmarks.{script}", *map(str, args)]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=env, cwd=FOLDER.parent
    ).stdout


def test_every_script_has_a_smoke_run():
    scripts = {
        f"{p.parent.name}.{p.stem}" for p in FOLDER.glob("*/*.py")
        if "__main__" in p.read_text() and "parser" in p.read_text()
    }  # fmt: skip
    assert scripts == {*SMOKE, "common.plots"}


@pytest.mark.slow
@pytest.mark.parametrize("script", SMOKE)
def test_smoke(script, tmp_path):
    out = tmp_path / "result.json"
    printed = run(script, *shlex.split(SMOKE[script]), "--out", out)
    record = json.loads(out.read_text())
    assert json.loads(printed) == record
    assert {"benchmark", "date", "device", "machine", "versions", "results"} <= set(record)
    assert record["results"]


@pytest.mark.slow
def test_plots_are_those_in_the_folder(tmp_path):
    """Drawn anew from the results that are kept; without any, nothing is drawn and it says so."""
    for result in (FOLDER / "results").glob("*.json"):
        shutil.copy(result, tmp_path)
    run("common.plots", "--folder", tmp_path)
    drawn = {p.name for p in tmp_path.glob("*.png")}
    assert drawn == {p.name for p in (FOLDER / "results").glob("*.png")}
    assert drawn
    (tmp_path / "empty").mkdir()
    run("common.plots", "--folder", tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())
