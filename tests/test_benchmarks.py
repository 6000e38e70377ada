"""Every benchmark runs, at its smallest, and its JSON says where the figures come from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SMOKE = {
    "scores.py": ["--runs", "CartPole-v1, classic", "--seeds", "2", "--total-timesteps", "4096"],
    "time_limits.py": ["--shapes", "4 x 128", "--total-timesteps", "1024", "--pairs", "2"],
}


def run(script, *args):
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(FOLDER.parent / ".jax_cache")}
    command = [sys.executable, str(FOLDER / script), *map(str, args)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout


def test_every_script_has_a_smoke_run():
    scripts = {p.name for p in FOLDER.glob("*.py") if "__main__" in p.read_text()}
    assert scripts == set(SMOKE)


@pytest.mark.parametrize("script", SMOKE)
def test_smoke(script, tmp_path):
    out = tmp_path / "result.json"
    printed = run(script, *SMOKE[script], "--out", out)
    record = json.loads(out.read_text())
    assert json.loads(printed) == record
    assert {"benchmark", "date", "device", "machine", "versions", "results"} <= set(record)
    assert record["results"]


@pytest.mark.parametrize("script", SMOKE)
def test_help(script):
    assert "--out" in run(script, "--help")
