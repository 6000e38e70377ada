"""Processes that train one run together: equal to one with as many devices, and none goes alone."""

import json
import os
import random
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
from support.processes import in_processes
from support.several import COMMAND, Processes, environment

from purejaxppo import ConfigError, join_processes
from purejaxppo.processes import agree, everyones, of_first, on_all, whole

if os.name == "nt":
    pytest.skip("signals of POSIX, and a handler in C", allow_module_level=True)

TRAIN = [
    "train", "CartPole-v1", "--preset", "none", "--num-envs", "8", "--num-steps", "8",
    "--num-epochs", "2", "--num-minibatches", "2", "--hidden-sizes", "8",
]  # fmt: skip
EVERYTHING = [
    *TRAIN, "--seeds", "2", "--normalize-observations", "--normalize-rewards", "--core", "gru",
    "--eval-every", "256", "--eval-episodes", "4", "--total-timesteps", "1024", "--devices", "4",
]  # fmt: skip
LONG = [*TRAIN, "--total-timesteps", "100000000", "--checkpoint-every", "640"]


def rows(folder, name="metrics"):
    return (folder / f"{name}.jsonl").read_bytes()


def checkpoints(folder):
    return sorted((folder / "checkpoints").glob("*.npz"))


# -- one process ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("localhost:7777", 2, None), "name all three"),
        ((None, 2, 0), "name all three"),
        (("localhost", 2, 0), "must be HOST:PORT"),
        (("localhost:0", 2, 0), "a port of 1 .. 65535"),
        (("localhost:99999", 2, 0), "a port of 1 .. 65535"),
        (("localhost:7777", 2, 2), "must be one of 0 .. 1"),
        (("localhost:7777", 2, -1), "must be one of 0 .. 1"),
        ((None, None, None), "cannot join others"),
    ],
)
def test_who_cannot_be_joined_is_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        join_processes(*given)


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("localhost", 0)) as taken:
        where = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match="cannot listen at its port"):
            join_processes(where, 2, 0)


def test_a_process_alone_tells_itself():
    assert agree(3, -1).tolist() == [[3, -1]]
    assert everyones("x") == ["x"]
    assert of_first(lambda: 5) == on_all(lambda: 5) == 5
    tree = {"a": np.arange(3)}
    assert whole(tree)["a"] is tree["a"]


# -- what several do ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process with four devices, two for each of two seeds."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    words = [*EVERYTHING, "--run-dir", str(folder)]
    run = subprocess.run(
        [*COMMAND, *words], env=environment(4), cwd=folder.parent, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.slow
def test_they_train_what_one_with_as_many_devices_trains(alone, tmp_path):
    folder, count = tmp_path / "run", 2  # four are trained with where one is killed
    with Processes([*EVERYTHING, "--run-dir", str(folder), "--json"], count, 4) as processes:
        (code, out, _), *others = processes.ends()
    assert code == 0
    assert others == [(0, "", "")] * (count - 1)  # the first one prints, the others nothing
    plan = f"on 4 devices of {count} processes, 4 environments of an agent on each"
    assert plan in " ".join(out.split())
    assert json.loads(out.splitlines()[-1])["timesteps"] == 1024

    # optimized or not, all have the program of the one
    for name in ("metrics", "evaluations"):
        theirs, ours = (
            [json.loads(line) for line in rows(f, name).splitlines()] for f in (folder, alone)
        )
        assert [row.keys() for row in theirs] == [row.keys() for row in ours]
        for one, other in zip(theirs, ours, strict=True):
            one, other = (np.array([*row.values()], float) for row in (one, other))  # None: NaN
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert {f.name for f in folder.iterdir()} == {f.name for f in alone.iterdir()}


@pytest.mark.slow
def test_they_are_refused_by_the_name_of_what_differs(tmp_path):
    folder = tmp_path / "run"
    argv = [[*LONG, "--run-dir", str(folder), "--gamma", g] for g in ("0.9", "0.99")]
    with Processes(argv, 2, 2) as processes:
        ends = processes.ends()
    words = "process 1 has gamma=0.99, and process 0 0.9: start all with the same command"
    for code, out, err in ends:
        assert (code, err.splitlines()[-1]) == (2, f"purejaxppo: {words}")
        assert not out or "updates of" in out  # the plan
    assert not (folder / "config.toml").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [3, 0], ids=["another", "the first"])
def test_one_is_killed_and_the_run_goes_on_with_fewer(victim, tmp_path):
    folder = tmp_path / "run"
    with Processes([*LONG, "--run-dir", str(folder)], 4, 4) as processes:
        processes.wait_for(lambda: checkpoints(folder))
        time.sleep(random.random())
        processes.running[victim].send_signal(signal.SIGKILL)
        began = time.monotonic()
        ends = processes.ends()
        assert time.monotonic() - began < 15
    go_on = f"go on with: purejaxppo train CartPole-v1 --resume --run-dir {folder}"
    for number, (code, _, err) in enumerate(ends):
        if number != victim:
            words = f"process {victim} of 4 was lost: what was saved stays; {go_on}"
            assert (code, err.splitlines()[-1]) == (1, f"purejaxppo: {words}")

    # two go on where four have stopped, and end at a signal to one of them
    before = int(checkpoints(folder)[-1].stem)
    argv = ["train", "CartPole-v1", "--resume", "--run-dir", str(folder)]
    with Processes(argv, 2, 2) as processes:
        processes.wait_for(lambda: int(checkpoints(folder)[-1].stem) > before + 20)
        processes.running[1].send_signal(signal.SIGTERM)
        (code, _, err), other = processes.ends()
    assert (code, other[0]) == (128 + signal.SIGTERM,) * 2
    assert "from here on it may differ in the last digits" in err
    assert go_on in err.splitlines()[-1]
    assert "go on with" not in other[2]
    steps = [json.loads(line)["step"] for line in rows(folder).splitlines()]
    assert steps == [64 * (i + 1) for i in range(int(checkpoints(folder)[-1].stem))]


FROM_PYTHON = """
from purejaxppo import PPOConfig, fit, load_agents
from purejaxppo.processes import everyones

config = PPOConfig(
    num_envs=4, num_steps=8, num_epochs=1, num_minibatches=2, hidden_sizes=(8,),
    total_timesteps=128,
)
heard = []
first = fit(config, seeds=2, callbacks=lambda step, row: heard.append(step), run_dir=RUN)
assert len(heard) == (0 if jax.process_index() else 8), heard
for x in jax.tree.leaves((first.state, first.best)):
    assert x.shape[0] == 2
    assert not isinstance(x, jax.Array) or x.is_fully_addressable
_, agents = load_agents(RUN)
same(agents.params, first.state.params)

# agents of before, and one who stops it
longer = config.replace(total_timesteps=100_000)
second = fit(longer, devices=2, init_from=RUN, init_agent=1, callbacks=lambda step, row: step < 64)
assert 64 <= second.summary["timesteps"] < 100_000
told = everyones((second.summary["timesteps"], second.stopped_by))
assert told[0] == told[1] and told[0][1] is not None, told
"""


@pytest.mark.slow
def test_python_does_what_the_command_line_does(tmp_path):
    ends = in_processes(2, f"RUN = {str(tmp_path / 'run')!r}\n{FROM_PYTHON}")
    assert [code for code, _ in ends] == [0, 0], ends
