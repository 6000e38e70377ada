"""What is made of a study: its page, pictures, and line in the list of runs."""

import json
import re
import shutil
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.run_folders import tiny_config, write_run
from support.studies import (
    CONFIG,
    ENVS,
    GAMMA,
    LENGTH,
    OPTIMIZER,
    RATE,
    WIDTHS,
    Space,
    drawn,
    result,
    write_study,
)

from purejaxppo import ConfigError
from purejaxppo.cli import commands, watch
from purejaxppo.run_folder.find import find_studies, named_studies
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.read import read_study
from purejaxppo.sweeps.report.curves import runs_of
from purejaxppo.sweeps.report.pictures import descent_of, staircase
from purejaxppo.sweeps.retrain import retrain
from purejaxppo.sweeps.study import Study

SPACE = Space((RATE, GAMMA, ENVS, OPTIMIZER, WIDTHS, LENGTH))
UPDATES = 20
NASTY = "<img src=x onerror=alert(1)>&\"'$body$"  # a fair name for a folder


def score(setting, rng):
    """Learning rates around 1e-3 are good, and the largest fail at times."""
    if setting["learning_rate"] > 4e-3 and rng.uniform() < 0.5:
        return None
    return float(400 - 250 * np.log10(setting["learning_rate"] / 1e-3) ** 2 + rng.normal())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Studies of all kinds below a folder."""
    root = tmp_path_factory.mktemp("studies")
    write_study(root / "whole", space=SPACE, trials=40, told=36, score=score)
    rng = np.random.default_rng(1)
    with Study.open(root / "whole", CONFIG, SPACE, SweepOptions(trials=40, seeds=2)) as study:
        best = study.best(6)
        for j, one in enumerate(best[:5]):  # the sixth kept no run
            study.tell(one._replace(run="runs/0000", agents=[2 * j, 2 * j + 1]))
        returns = np.arange(10)[:, None] + np.arange(UPDATES)
        write_run(root / "whole/runs/0000", tiny_config(UPDATES), returns)

        def train(options, inner, trials):
            for trial in trials:
                scores = rng.normal(300, 10, options.seeds).tolist()
                yield result(trial.number, float(np.mean(scores)), trial.setting, scores=scores)

        retrain(study, 3, 8, train)

    one = Space((RATE,))
    write_study(root / NASTY, space=one, trials=30, score=score)
    write_study(root / "choices", space=Space((OPTIMIZER, WIDTHS)), trials=30)
    write_study(root / "single", space=Space((RATE, ENVS)), trials=1)
    write_study(root / "failed", space=Space((RATE, ENVS)), trials=9, score=lambda *_: None)
    write_study(root / "alike", space=Space((RATE, ENVS)), trials=9, score=lambda *_: 1.0)
    write_study(root / "begun", space=Space((RATE, ENVS)), trials=9, told=0)
    with Study.open(
        root / "mixed", CONFIG, SPACE,
        SweepOptions(trials=12, seeds=2, score=("final_return", "mean_return")),
    ) as study:  # fmt: skip
        for number in range(12):
            setting = drawn(SPACE, rng)
            del setting[["gamma", "optimizer"][number % 2]]  # without effect there
            more = dict(status="stopped", steps=1600) if number % 3 == 0 else {}
            study.tell(result(number, float(number % 5), setting, **more))
    write_population(root / "population")
    return root


def write_population(folder):
    """Four agents and three generations: agent 1 takes over from 0, then 2 from 1."""
    space = Space((RATE, GAMMA))
    write_study(folder, space=space, trials=4)
    parents = [[0, 1, 2, 3], [0, 0, 2, 3], [0, 1, 1, None]]
    scores = [[4.0, 1.0, 2.0, 3.0], [4.0, 5.0, 1.0, None], [4.0, 5.0, 6.0, 1.0]]
    lines = [
        {"generation": g, "agent": i, "parent": parents[g][i], "score": scores[g][i],
         "setting": {"learning_rate": 1e-3 * 2**g / (i + 1), "gamma": 0.99 - 0.01 * i}}
        for g in range(3) for i in range(4)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "lineage.jsonl").write_text(text + '{"generation": 3')


ALL = ["whole", "one", "choices", "single", "failed", "alike", "begun", "mixed", "population"]


class Texts(HTMLParser):
    """Texts of a page, whose tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.sources = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def pages(root, tmp_path_factory):
    """Texts of the page of each study."""
    found = {}
    for name in ALL:
        out = tmp_path_factory.mktemp("pages") / f"{name}.html"
        folder = root / (NASTY if name == "one" else name)
        assert commands.report([str(folder), "--out", str(out)]) == 0
        found[name] = out
    return found


def texts(path):
    return Texts(path.read_text(encoding="utf-8")).texts


def rows_of(path, head):
    """The rows below a head that begins so, as texts."""
    text = path.read_text(encoding="utf-8")
    for table in re.findall(r"<table.*?</table>", text, flags=re.DOTALL):
        rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", r) for r in re.findall(r"<tr>.*?</tr>", table)]
        if rows[0][: len(head)] == head:
            return rows[1:]
    raise AssertionError(f"no table {head}")


# -- the page --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_study_has_a_page_that_needs_nothing_else(name, pages):
    text = pages[name].read_text(encoding="utf-8")
    assert Texts(text).sources == []
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert "nan" not in re.sub(r"<path.*?/>", "", text).lower().split()


def test_the_best_settings_are_there(root, pages):
    study = read_study(root / "whole")
    rows = rows_of(pages["whole"], ["trial", "final return", "learning_rate", "gamma"])
    assert [int(row[0]) for row in rows] == [r.number for r in study.ranked[:10]]
    best = study.ranked[0]
    # of scores s - 1 and s + 1, the deviation of one seed is the root of 2
    assert rows[0][1] == f"{best.score:.1f} ± 1.41"
    assert rows[0][2] == f"{best.setting['learning_rate']:.4g}"
    assert rows[0][6] == ",".join(map(str, best.setting["hidden_sizes"]))


def test_fresh_seeds_stand_beside_the_scores_of_the_sweep(root, pages):
    study = read_study(root / "whole")
    rows = rows_of(pages["whole"], ["trial", "in the sweep", "fresh seeds, mean", "std"])
    assert [int(row[0]) for row in rows] == [r.number for r in study.retrained.ranked]
    again = study.retrained.ranked[0]
    before = study.results[again.number].score
    assert rows[0][1:4] == [
        f"{before:.1f}", f"{again.score:.1f}", f"{np.std(again.scores, ddof=1):.3g}"
        if np.std(again.scores, ddof=1) < 10 else f"{np.std(again.scores, ddof=1):.1f}",
    ]  # fmt: skip
    assert rows[0][5:] == [f"{again.score - before:.1f}", "8"]
    assert any("too high on average" in text for text in texts(pages["whole"]))


def test_how_trials_ended_is_said(root, pages):
    study = read_study(root / "whole")
    failed = study.failed
    assert failed > 0
    words = f"Stopped before the end: 36 of 40 trials: {36 - failed} done, {failed} failed."
    assert words in texts(pages["whole"])
    assert "Finished: 9 trials: 9 failed." in texts(pages["failed"])
    assert "Stopped before the end: 0 of 9 trials." in texts(pages["begun"])
    assert "Finished: 12 trials: 8 done, 4 stopped early." in texts(pages["mixed"])
    rows = rows_of(pages["whole"], ["trial", *(d.name for d in SPACE.dimensions), "why"])
    assert len(rows) == failed
    assert {row[-1] for row in rows} == {"its loss was not finite"}


def test_where_there_is_nothing_to_show_words_stand(pages):
    assert "No trial has a score." in texts(pages["failed"])
    assert "no trial has a score yet" in texts(pages["failed"])
    assert "No trial has ended yet." in texts(pages["begun"])
    assert "Too few trials have a score to say what matters." in texts(pages["single"])
    assert "too few trials to say, or all alike" in texts(pages["alike"])
    for name in ("one", "choices", "single"):
        assert "The runs of these trials were not kept." in texts(pages[name])


def test_learning_curves_are_those_of_the_trials_own_agents(root, pages):
    study = read_study(root / "whole")
    runs, missing = runs_of(study, study.ranked[:6])
    assert [run.label for run in runs] == [f"trial {r.number}" for r in study.ranked[:5]]
    assert [run.seeds for run in runs] == [2] * 5
    np.testing.assert_array_equal(
        runs[1].metrics.return_sum, np.arange(2, 4)[:, None] + np.arange(20)
    )
    assert missing == [f"trial {study.ranked[5].number} has kept no run"]
    assert f"trial {study.ranked[0].number} (2 seeds)" in texts(pages["whole"])


def test_runs_that_are_gone_are_said(root, tmp_path):
    folder = shutil.copytree(root / "whole", tmp_path / "s")
    shutil.rmtree(folder / "runs")
    runs, missing = runs_of(read_study(folder), read_study(folder).ranked[:1])
    assert not runs
    assert "holds no run" in missing[0]


def test_names_are_text_and_nothing_else(pages):
    assert "<img" not in pages["one"].read_text(encoding="utf-8")
    assert NASTY in texts(pages["one"])


def test_equal_calls_give_equal_pages(root, pages, tmp_path):
    out = tmp_path / "page.html"
    commands.report([str(root / "single"), "--out", str(out)])
    assert out.read_bytes() == pages["single"].read_bytes()


def test_several_studies_stand_on_one_page_and_runs_on_another(root, tmp_path):
    # a folder of studies stands for them, and the study of fresh seeds for itself
    for name in ("begun", "whole/retrained"):
        shutil.copytree(root / name, tmp_path / "studies" / name.replace("/", "-"))
    out = tmp_path / "page.html"
    commands.report([str(tmp_path / "studies"), "--out", str(out)])
    assert {"begun", "whole-retrained", "2 studies, 3 trials"} <= set(texts(out))
    run = write_run(tmp_path / "run", tiny_config(3), np.ones((1, 3)))
    with pytest.raises(ConfigError, match=r"is a study and .* is none: name studies, or runs"):
        commands.report([run, str(root / "begun")])
    assert named_studies([str(root)]) == find_studies(root)
    assert named_studies([run]) == []
    assert named_studies(["nowhere"]) == []


def test_a_study_that_goes_on_is_written_anew(root, tmp_path, monkeypatch):
    study = Study.open(root / "begun", CONFIG, Space((RATE, ENVS)), SweepOptions(trials=9, seeds=2))
    out, seen = tmp_path / "page.html", []

    def wait(seconds):
        seen.append(out.read_text(encoding="utf-8"))
        study.close()

    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=wait))
    commands.report([str(root / "begun"), "--out", str(out), "--watch", "5"])
    assert len(seen) == 1
    assert 'http-equiv="refresh" content="5"' in seen[0]
    assert "Running: 0 of 9 trials." in seen[0]
    assert "refresh" not in out.read_text(encoding="utf-8")


# -- pictures --------------------------------------------------------------------------------------


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn."""
    made = []
    original = Figure.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(Figure, "__init__", init)
    return made


def test_slices_show_every_trial_and_the_best(root, tmp_path, figures):
    commands.plot([str(root / "whole"), "--out", str(tmp_path / "slices.svg")])
    study = read_study(root / "whole")
    axes = {a.get_title().split(" (")[0]: a for a in figures[0].subfigs[0].axes}
    rate = axes["learning_rate"]
    assert rate.get_xscale() == "log"
    done = [r for r in study.results.values() if r.score is not None]
    points = {line.get_marker(): line for line in rate.lines if line.get_linestyle() == "None"}
    np.testing.assert_allclose(points["o"].get_xdata(), [r.setting["learning_rate"] for r in done])
    np.testing.assert_allclose(points["o"].get_ydata(), [r.score for r in done])
    assert len(points["x"].get_xdata()) == study.failed
    # the star is the one of the best mean on fresh seeds, at its score in the sweep
    best = study.winner
    assert list(points["*"].get_ydata()) == [study.results[best.number].score]
    assert axes["gamma"].get_xscale() == "linear"
    assert [t.get_text() for t in axes["hidden_sizes"].get_xticklabels()] == ["64", "64,64"]
    # the most important stands first
    assert figures[0].subfigs[0].axes[1] is rate


def test_other_measures_are_drawn_by_their_name(root, tmp_path, figures):
    out = str(tmp_path / "slices.png")
    commands.plot([str(root / NASTY), "--metric", "mean_return", "--out", out])
    axes = figures[0].subfigs[0].axes[1]
    assert axes.get_ylabel() == "mean return"
    points = next(line for line in axes.lines if line.get_marker() == "o")
    study = read_study(root / NASTY)
    scores = [r.score for r in study.results.values() if r.score is not None]
    np.testing.assert_allclose(points.get_ydata(), np.array(scores) / 2)


def test_curves_of_the_best_are_drawn_by_the_metric_of_their_rows(root, tmp_path, figures, capsys):
    out = tmp_path / "curves.png"
    commands.plot([str(root / "whole"), "--metric", "episode_return", "--out", str(out)])
    left = figures[0].subfigs[0].axes[0]
    assert len([line for line in left.lines if len(line.get_xdata()) == UPDATES]) == 5
    assert out.exists()
    with pytest.raises(ConfigError, match="unknown metric 'nonsense'"):
        commands.plot([str(root / "whole"), "--metric", "nonsense"])
    number = read_study(root / NASTY).ranked[0].number
    words = (
        rf"no run of the best trials of .* is there \(.*: trial {number} has kept no run\): draw"
    )
    capsys.readouterr()
    with pytest.raises(ConfigError, match=words):
        commands.plot([str(root / NASTY), "--metric", "entropy"])
    assert not capsys.readouterr().err  # where it is refused, that is all that is said


def test_options_that_do_nothing_are_refused_and_files_are_kept(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="x=updates has no effect on the scores of trials"):
        commands.plot([str(root / NASTY), "--x", "updates"])
    assert list(tmp_path.iterdir()) == []
    commands.plot([str(root / "begun")])
    commands.plot([str(root / NASTY), str(root / "choices"), "--title", "two"])
    assert sorted(x.name for x in tmp_path.iterdir()) == ["slices-2.png", "slices.png"]
    with pytest.raises(ConfigError, match="exists: name another"):
        commands.plot([str(root / NASTY), "--out", "slices.png"])


def test_staircases():
    points = [(3.0, 5.0), (1.0, 2.0), (2.0, 1.0), (1.0, 3.0), (4.0, 4.0)]
    assert staircase(points) == ([1.0, 3.0, 4.0], [3.0, 5.0, 5.0])
    assert staircase([(2.0, 7.0)]) == ([2.0, 2.0], [7.0, 7.0])


def test_lines_of_descent(root):
    study = read_study(root / "population")
    assert len(study.lineage) == 12  # a torn line is none
    by_place = {(x["generation"], x["agent"]): x for x in study.lineage}
    found = descent_of(by_place[2, 2], by_place)
    assert [(x["generation"], x["agent"]) for x in found] == [(2, 2), (1, 1), (0, 0)]
    found = descent_of(by_place[2, 3], by_place)  # whose parent is not said: it went on
    assert [(x["generation"], x["agent"]) for x in found] == [(2, 3), (1, 3), (0, 3)]


def test_the_page_of_a_population_shows_its_lines(pages):
    found = texts(pages["population"])
    assert {"The population", "lines of descent", "ancestors of the best at the end"} <= set(found)


def test_a_damaged_lineage_is_told(root, tmp_path):
    folder = shutil.copytree(root / "population", tmp_path / "s")
    (folder / "lineage.jsonl").write_text('{"generation": 0, "agent": "x"}\n')
    with pytest.raises(ConfigError, match=r"line 1 of .*lineage.jsonl' is damaged"):
        read_study(folder)


# -- the list --------------------------------------------------------------------------------------


def test_studies_are_listed_as_such(root, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "250")
    assert commands.runs([str(root)]) == 0
    printed = capsys.readouterr().out.splitlines()
    head, *lines = [line.split() for line in printed if line]
    assert head == ["study", "trials", "failed", "best", "state", "begun", "what"]
    assert len(lines) == len(ALL)  # and no run of them
    by_name = {line[0]: line for line in lines}
    best = read_study(root / "whole").winner.score
    failed = str(read_study(root / "whole").failed)
    assert by_name["whole"][1:5] == ["36/40", failed, f"{best:.1f}", "stopped"]
    assert by_name["failed"][1:5] == ["9", "9", "-", "finished"]
    assert "best on fresh seeds" in " ".join(by_name["whole"])
    assert "by final_return: optimizer, hidden_sizes" in " ".join(by_name["choices"])


def test_runs_of_a_study_are_listed_where_it_is_named(root, capsys):
    commands.runs([str(root / "whole"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [(x["kind"], x["folder"]) for x in found] == [
        ("run", str(root / "whole/runs/0000")), ("study", str(root / "whole")),
    ]  # fmt: skip
    study = read_study(root / "whole")
    assert found[1]["trials_done"] == 36
    assert found[1]["best_trial"] == study.winner.number
    assert found[1]["best_score"] == study.winner.score
    assert found[1]["best_setting"]["gamma"] == study.winner.setting["gamma"]
    assert found[1]["retrained"]


def test_damaged_studies_are_listed(root, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(root / NASTY, tmp_path / "s")
    (folder / "study.json").write_text("{")
    monkeypatch.setenv("COLUMNS", "300")
    commands.runs([str(tmp_path)])
    printed = capsys.readouterr().out
    assert "damaged" in printed.splitlines()[1]
    assert f"'{folder / 'study.json'}' is damaged" in printed
    commands.runs([str(tmp_path), "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["env"] is found["best_score"] is found["trials_done"] is None


def test_a_list_of_studies_imports_no_jax(root):
    code = (
        "import sys; from purejaxppo.cli import main; "
        f"sys.argv = ['purejaxppo', 'runs', {str(root)!r}]; "
        "code = main(); assert not code, code; assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- in a browser ----------------------------------------------------------------------------------

PROBE = """<script>addEventListener("load", () => {
  const seen = {
    drawings: [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect().width),
    requests: performance.getEntriesByType("resource").length,
    overflow: document.documentElement.scrollWidth - innerWidth,
    heads: [...document.querySelectorAll("h3")].map(h => h.textContent),
  };
  const out = encodeURIComponent(JSON.stringify(seen));
  document.body.innerHTML = '<pre id="probe">' + out + "</pre>";
});</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "population"])
def test_a_browser_shows_the_page(name, pages, tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"no browser: install one of {', '.join(names)}")
    copy = tmp_path / "page.html"
    text = pages[name].read_text(encoding="utf-8")
    copy.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1200,900"
    command = [browser, *flags.split(), f"--user-data-dir={tmp_path}/user", "--dump-dom"]
    dom = subprocess.run(
        [*command, copy.as_uri()], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    seen = json.loads(urllib.parse.unquote(re.findall(r'<pre id="probe">(.*?)</pre>', dom)[0]))
    assert seen["requests"] == 0
    assert seen["overflow"] <= 0
    assert all(width >= 440 for width in seen["drawings"])
    drawings = {"whole": 4, "population": 4}[name]
    assert len(seen["drawings"]) == drawings
    assert ("The population" in seen["heads"]) == (name == "population")
