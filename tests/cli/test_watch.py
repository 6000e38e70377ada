"""Pages of runs that go on: half-written rows, pages that are written anew, and how that ends."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from support.run_folders import tiny_config, write_run

from purejaxppo import ConfigError
from purejaxppo.cli import commands, watch
from purejaxppo.cli.arguments import with_value
from purejaxppo.run_folder.lock import FolderLock

RETURNS = np.add.outer(np.arange(4.0), np.arange(1, 41))
RELOAD = re.compile(r'<meta http-equiv="refresh" content="([0-9.]+)">')


@pytest.mark.parametrize("cut", [1, 30, -1])
def test_report_of_a_run_while_its_last_line_is_written(cut, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "r", tiny_config(40), RETURNS[:2, :20], finished=False)
    path = tmp_path / "r" / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text + text.splitlines()[-1][:cut])
    lock = FolderLock(tmp_path / "r")
    try:
        assert commands.report([folder]) == 0
        assert commands.plot([folder]) == 0
    finally:
        lock.release()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "200 of 400 steps: running." in page
    assert not RELOAD.search(page)


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        ("r --watch", "r --watch 10"),
        ("--watch r", "--watch 10 r"),
        ("--watch 3 r", "--watch 3 r"),
        ("r --watch --overwrite", "r --watch 10 --overwrite"),
        ("r --watch=3", "r --watch=3"),
        ("r", "r"),
    ],
)
def test_watch_stands_with_a_number_or_without(argv, found):
    assert with_value(argv.split(), "--watch", "10") == found.split()


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "1e9"])
def test_watch_wants_seconds_that_make_sense(seconds, tmp_path):
    with pytest.raises(ConfigError, match="watch"):
        commands.report([str(tmp_path), f"--watch={seconds}"])


def test_watch_of_runs_that_have_ended_writes_the_page_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "r", tiny_config(40), RETURNS)
    assert commands.report([folder, "--watch"]) == 0
    assert not RELOAD.search((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert capsys.readouterr().out == "saved in report.html\n"


@pytest.mark.slow
def test_watch_writes_the_page_anew_until_the_runs_have_ended(tmp_path, monkeypatch, capsys):
    """Every time with the rows of that time, reloaded by the browser but for the last."""
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "runs" / "a", tiny_config(40), RETURNS[:, :20], finished=False)
    whole = write_run(tmp_path / "whole", tiny_config(40), RETURNS)
    lock, pages, wait = FolderLock(tmp_path / "runs" / "a"), [], time.sleep

    def sleep(seconds):
        if seconds != 2.5:  # of another, who waits for a lock
            wait(seconds)
            return
        pages.append((tmp_path / "report.html").read_text(encoding="utf-8"))
        if len(pages) == 1:  # a second run begins, and the first one ends
            write_run(tmp_path / "runs" / "b", tiny_config(30), RETURNS[:1, :30])
            for name in ("metrics.jsonl", "summary.json"):
                os.replace(f"{whole}/{name}", f"{folder}/{name}")
        else:
            lock.release()

    monkeypatch.setattr(watch.time, "sleep", sleep)
    assert commands.report(["runs", "--watch", "2.5"]) == 0
    last = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [RELOAD.findall(page) for page in [*pages, last]] == [["2.5"], ["2.5"], []]
    assert "200 of 400 steps: running." in pages[0]
    assert "1 run, 4 agents" in pages[0] and "2 runs, 5 agents" in last
    assert "Finished." in last
    out = capsys.readouterr().out
    assert out == (
        "report.html is written anew every 2.5 s until all runs have ended\nsaved in report.html\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "whole", "report.html"}


def test_watch_overwrites_nothing_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "r", tiny_config(40), RETURNS)
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(ConfigError, match="exists: name another"):
        commands.report(["r", "--watch", "--out", "mine.html"])
    assert (tmp_path / "mine.html").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_watch_and_the_reloading(number, tmp_path):
    write_run(tmp_path / "r", tiny_config(40), RETURNS[:, :20], finished=False)
    lock = FolderLock(tmp_path / "r")
    try:
        command = [sys.executable, "-c", "from purejaxppo.cli import main; main()"]
        process = subprocess.Popen(
            [*command, "report", "r", "--watch", "60"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        timer = threading.Timer(60, process.kill)
        timer.start()
        assert "written anew" in process.stdout.readline()
        page = tmp_path / "report.html"
        assert RELOAD.findall(page.read_text(encoding="utf-8")) == ["60"]
        time.sleep(0.5)
        process.send_signal(number)
        _, err = process.communicate()
        timer.cancel()
    finally:
        lock.release()
    assert process.returncode == 128 + number
    assert err == "purejaxppo: interrupted: report.html is not written anew any more\n"
    text = page.read_text(encoding="utf-8")
    assert not RELOAD.search(text)
    assert "200 of 400 steps: running." in text


# -- one seed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 1])
def test_a_single_seed_has_no_deviation_on_the_page(others, tmp_path):
    """Neither `±` nor an interval, in cards and tables; and one seed is no "1 seeds"."""
    evaluations = {200: [3.0], 400: [4.0]}
    folders = [write_run(tmp_path / "r", tiny_config(40), RETURNS[:1], evaluations=evaluations)]
    folders += [write_run(tmp_path / "s", tiny_config(40, gamma=0.9), RETURNS[:1])] * others
    out = tmp_path / "page.html"
    commands.report([*folders, "--out", str(out)])
    page = out.read_text(encoding="utf-8")
    numbers = page.replace("mean ± std", "")  # of heads
    assert "±" not in numbers
    assert not re.search(r"\b1 (seeds|runs|agents)\b", page)
    assert "(1 seed)" in page
    assert json.dumps("38.5")[1:-1] in page  # the mean of the last four updates, 37 to 40
