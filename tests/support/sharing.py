"""Studies that Optuna keeps, without training: a server, fake results, and processes that share."""

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time

import pytest
from support.processes import free_port

from purejaxppo.config.schema import PPOConfig
from purejaxppo.runs.problems import Problems
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.space import read_space
from purejaxppo.sweeps.storage import optuna_source, shared
from purejaxppo.sweeps.trials import Result

CONFIG = PPOConfig(env="CartPole-v1")
VARIED = {"learning_rate": "log:1e-4..1e-2", "gamma": "0.9..0.99", "num_epochs": "1..8"}
SPACE = read_space(VARIED, CONFIG)


class Kept:
    """A study's folder, as far as a source knows it."""

    def __init__(self, folder=None):
        self.folder, self.results, self.problems = folder, {}, Problems()

    def tell(self, result):
        self.results[result.number] = result


def source(storage=None, space=SPACE, config=CONFIG, kept=None, own=None, **options):
    """A study of this storage, opened."""
    options = SweepOptions(storage=storage, **options)
    return optuna_source(space, config, options, study=kept or Kept(), own=own)


def told(one):
    """What all have told, by number."""
    kept = [trial.user_attrs.get("result") for trial in one._study.trials]
    return {values["number"]: Result(**values) for values in kept if values is not None}


def result(trial, score=0.5, status="done", **measured):
    """What would have come of a trial."""
    measured = {"final_return": score, **measured}
    return Result(
        trial.number, trial.setting, status, score, [score], measured, steps=100, seconds=0.1
    )


def hurry(patch=setattr):
    """Shortens what processes wait for each other."""
    for name, seconds in (("BEAT", 0.1), ("STALE", 1.5), ("POLL", 0.1)):
        patch(shared, name, seconds)


def take_part(storage, trials, stop_after, start, turn, said):
    """Asks, trains and tells like `sweep` does, as a process of its own.

    Says which trials it has asked for and trained. One that stops, after so many, has the first
    turn at asking; all open the study at once.
    """
    hurry()
    start.wait()
    mine = source(storage, trials=trials, sampler="tpe")
    if stop_after is None:
        turn.wait()
    trained = {}
    while asked := mine.ask(3):
        turn.set()
        said.send(("asked", {t.number: t.setting for t in asked}))
        for trial in asked:
            if len(trained) == stop_after:
                said.send(("stopped", trained))
                time.sleep(600)
            mine.tell(result(trial, score=trial.setting["gamma"]))
            trained[trial.number] = trial.setting
    mine.close()
    said.send(("ended", trained))


# -- PostgreSQL -----------------------------------------------------------------------------------


def _binaries():
    """The folder of a server's programs: the newest of Debian's, or that of PATH."""
    found = shutil.which("initdb")
    debian = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda p: (len(p), p))
    return os.path.dirname(found or debian[-1]) if found or debian else None


class Postgres:
    """A cluster of its own on loopback, of an ordinary user: the server refuses root."""

    def __init__(self):
        folder = _binaries()
        if folder is None or os.name == "nt":
            pytest.skip("there is no PostgreSQL: apt-get install postgresql")
        self._folder, self.port = folder, free_port()
        self._data = tempfile.mkdtemp(prefix="purejaxppo-postgres-")
        self._user = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
        if self._user:
            shutil.chown(self._data, "nobody")
        words = ["--username=sweep", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        self._run("initdb", "-D", self._data, *words)
        self.start()

    @property
    def url(self):
        return f"postgresql://sweep@127.0.0.1:{self.port}/postgres"

    def _run(self, program, *words):
        command = [os.path.join(self._folder, program), *words]
        run = subprocess.run(
            command, cwd=self._data, capture_output=True, text=True, **self._user
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr

    def start(self):
        """Starts the server, and waits for it."""
        import psycopg

        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "fsync=off"]
        settings += ["unix_socket_directories=", "max_connections=20", "shared_buffers=16MB"]
        words = [word for setting in settings for word in ("-c", setting)]
        self._server = subprocess.Popen(
            [os.path.join(self._folder, "postgres"), "-D", self._data, *words],
            cwd=self._data, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._user,
        )  # fmt: skip
        for _ in range(100):
            assert self._server.poll() is None
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url):
                return
            time.sleep(0.1)
        raise TimeoutError("the server does not answer")

    def stop(self):
        """Stops the server at once: whoever is connected loses the connection."""
        self._server.send_signal(signal.SIGINT)
        self._server.wait()

    def end(self):
        """Stops the server, and removes its data."""
        if self._server.poll() is None:
            self.stop()
        shutil.rmtree(self._data)
