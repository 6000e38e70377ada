"""The page of runs: what stands on it, and that a browser shows it offline."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import urllib.parse
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.stats
from matplotlib.image import imread
from PIL import Image
from support.run_folders import tiny_config, write_run

from purejaxppo import ConfigError, PPOConfig
from purejaxppo.cli import commands

NAN = np.nan
NASTY = "<img src=x onerror=alert(1)>&\"'$body$"  # a fair name for a folder
VOID = {"meta", "img"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync"
)
PROBE = """<script>addEventListener("load", () => {
  const seen = {
    images: [...document.images].map(i => [i.naturalWidth, i.naturalHeight]),
    drawings: [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect().width),
    curves: [...document.querySelectorAll("svg path")].filter(
      p => p.getAttribute("style")?.includes("var(--accent)")
        && getComputedStyle(p).stroke === "rgb(0, 114, 178)").length,
    requests: performance.getEntriesByType("resource").map(r => r.name).filter(
      name => !name.startsWith("data:")),
    mode: document.compatMode,
    overflow: document.documentElement.scrollWidth - innerWidth,
    title: document.title,
    heads: [...document.querySelectorAll("h1, h2")].map(h => h.textContent),
    dead: [...document.querySelectorAll("a[href^='#']")].filter(
      a => !document.getElementById(a.getAttribute("href").slice(1))).length,
  };
  document.body.innerHTML = "";
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = encodeURIComponent(JSON.stringify(seen));
  document.body.append(out);
});</script>"""


class Reader(HTMLParser):
    """Tags that close in order, texts, and what attributes refer to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.references, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [v for k, v in attrs if k in ("src", "href", "srcset", "xlink:href")]
        assert not [k for k, _ in attrs if k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def gif():
    frames = [Image.new("RGB", (60, 40), (40 * i, 90, 200)) for i in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


RETURNS = np.random.default_rng(0).normal(size=(8, 30)) + np.arange(30) * 10
EVALUATIONS = {100: np.arange(8.0) * 11, 200: np.r_[np.arange(7.0) * 7, NAN], 300: np.full(8, 44.0)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root, config = tmp_path_factory.mktemp("runs"), tiny_config(30)
    evaluations = {
        step: [None if np.isnan(x) else x for x in returns] for step, returns in EVALUATIONS.items()
    }
    found = {
        "ppo": write_run(root / "ppo", config, RETURNS, evaluations=evaluations),
        "nasty": write_run(root / NASTY, config, RETURNS[:2, :10] / 2, finished=False, torn=True),
        "new": write_run(root / "new", config, np.empty((1, 0)), finished=False),
        "other": write_run(root / "other", tiny_config(30, "Acrobot-v1"), -RETURNS[:1]),
    }
    (root / "ppo" / "policy.gif").write_bytes(gif())
    (root / NASTY / "policy.html").write_text("<p>an episode</p>")
    return found


@pytest.fixture(scope="module")
def pages(runs, tmp_path_factory):
    """Paths of a page of one run and one of all."""
    root = tmp_path_factory.mktemp("pages")
    for name, folders in {"one": [runs["ppo"]], "all": [*runs.values()]}.items():
        assert commands.report([*folders, "--out", str(root / f"{name}.html")]) == 0
    return {name: root / f"{name}.html" for name in ("one", "all")}


@pytest.mark.slow
def test_the_page_is_whole_and_holds_all_it_needs(pages):
    for path in pages.values():
        text = path.read_text(encoding="utf-8")
        read = Reader(text)
        assert not re.search(r"https?:|@import|url\((?!#)", text)
        assert not {"script", "link", "iframe", "object", "embed"} & set(read.tags)
        outside = [r for r in read.references if not r.startswith(("data:", "#"))]
        assert all(r.endswith("/policy.html") for r in outside)
        assert len(outside) == (path == pages["all"])


def test_the_figures_of_a_run_are_there(pages):
    text = pages["one"].read_text(encoding="utf-8")
    texts = Reader(text).texts
    final = RETURNS[:, -3:].mean(1)  # a tenth of the updates
    assert f"{final.mean():.1f} ± {final.std(ddof=1):.3g}" in texts
    assert f"{scipy.stats.trim_mean(final, 0.25):.1f}" in texts
    interval = next(t for t in texts if " to " in t)
    low, high = map(float, interval.split(" to "))
    assert final.min() <= low < scipy.stats.trim_mean(final, 0.25) < high <= final.max()
    for words in ("Finished.", "12,346", "3.21 s", "then ran 0.5 s", "1 cpu", "300"):
        assert words in texts
    for words in ("2026-11-21 15:00", "python 3.11.2, purejaxppo 0.1.0, jax 0.10.2"):
        assert words in texts
    assert base64.b64encode(gif()).decode() in text


def rows_of(path, head):
    """The rows below a head, as texts."""
    text = path.read_text(encoding="utf-8")
    for table in re.findall(r"<table.*?</table>", text, flags=re.DOTALL):
        rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", r) for r in re.findall(r"<tr>.*?</tr>", table)]
        if rows[0] == head:
            return rows[1:]
    raise AssertionError(f"no table {head}")


def test_evaluations_over_seeds_and_of_each(pages):
    rows = rows_of(pages["one"], ["steps", "mean ± std over seeds", "lowest", "highest"])
    assert rows == [
        ["100", f"38.5 ± {EVALUATIONS[100].std(ddof=1):.1f}", "0", "77.0"],
        ["200", "21.0 ± 15.1", "0", "42.0"],
        ["300", "44.0 ± 0", "44.0", "44.0"],
    ]
    head = ["seed", "final return", "last evaluation", "best evaluation", "after steps"]
    rows = rows_of(pages["one"], head)
    assert [row[0] for row in rows] == [str(i) for i in range(8)]
    assert [row[1] for row in rows] == [f"{x:.1f}" for x in RETURNS[:, -3:].mean(1)]
    assert [row[3:] for row in rows] == [["44.0", "300"]] * 4 + [
        ["44.0", "100"], ["55.0", "100"], ["66.0", "100"], ["77.0", "100"]
    ]  # fmt: skip


def test_sample_efficiency_by_hand(tmp_path):
    returns = np.array([[0.0, 25, 50, 75, 100], [0, 0, 50, 50, 100], [0, 50, 50, 75, 100]])
    folder = write_run(tmp_path / "run", tiny_config(5), returns)
    out = tmp_path / "page.html"
    commands.report([folder, "--out", str(out)])
    assert rows_of(out, ["return", "steps"]) == [
        ["25.0", "20 (3/3)"], ["50.0", "30 (3/3)"], ["75.0", "40 (3/3)"],
        ["90.0", "50 (3/3)"], ["100.0", "50 (3/3)"],
    ]  # fmt: skip
    slow = write_run(tmp_path / "slow", tiny_config(5, gamma=0.5), returns / 2)
    commands.report([folder, slow, "--out", str(out), "--overwrite"])
    assert rows_of(out, ["return", "ppo, gamma=0.99", "ppo, gamma=0.5"])[1:3] == [
        ["50.0", "30 (3/3)", "50 (3/3)"], ["75.0", "40 (3/3)", "never (0/3)"],
    ]  # fmt: skip


def test_the_configuration_and_how_to_train_it_again(tmp_path):
    config = PPOConfig(env="Acrobot-v1", layer_norm=True, gamma=0.9, max_grad_norm=None)
    out = tmp_path / "page.html"
    commands.report([write_run(tmp_path / "run", config, RETURNS), "--out", str(out)])
    changed = rows_of(out, ["field", "value", "default"])
    assert sorted(changed) == [
        ["gamma", "0.9", "0.99"], ["layer_norm", "True", "False"], ["max_grad_norm", "None", "0.5"],
    ]  # fmt: skip
    same = rows_of(out, ["field", "value"])
    assert ["clip_eps", "0.2"] in same
    assert len(same) + len(changed) == len(config.to_dict())
    assert any(
        text.startswith("purejaxppo train Acrobot-v1 ") and "--layer-norm" in text
        for text in Reader(out.read_text(encoding="utf-8")).texts
    )


def test_names_are_text_and_nothing_else(pages, runs):
    text = pages["all"].read_text(encoding="utf-8")
    assert "<img src=x" not in text
    texts = Reader(text).texts
    assert runs["nasty"] in texts
    assert f"ppo, {NASTY}" in texts
    assert f"ppo, {NASTY} (2 seeds)" in texts  # in the drawing
    assert "100 of 300 steps: killed, or under way on another machine." in texts


@pytest.mark.slow
def test_names_that_are_no_text_do_no_harm(tmp_path):
    folders = [tmp_path / os.fsdecode(name) for name in (b"run-\xff", b"run-\xfe")]
    for folder in folders:
        write_run(folder, tiny_config(30), RETURNS[:2])
        (folder / "policy.html").write_text("<p>an episode</p>")
    runs, out = list(map(str, folders)), tmp_path / "page.html"
    commands.report([*runs, "--out", str(out)])
    assert "ppo, run-?" in Reader(out.read_text(encoding="utf-8")).texts
    assert 'href="run-%FF/policy.html"' in out.read_text(encoding="utf-8")
    commands.plot([*runs, "--out", str(tmp_path / "curves.svg")])


def test_equal_calls_give_equal_pages(runs, pages, tmp_path):
    out = tmp_path / "page.html"
    commands.report([runs["ppo"], "--out", str(out)])
    assert out.read_bytes() == pages["one"].read_bytes()


def test_long_tables_are_folded(tmp_path):
    folder = write_run(tmp_path / "run", tiny_config(30), np.tile(RETURNS, (2, 1)))
    out = tmp_path / "page.html"
    commands.report([folder, "--out", str(out)])
    assert "<summary>16 rows</summary>" in out.read_text(encoding="utf-8")


def test_mistakes_are_told(runs, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("mine")
    for folders, words in [
        ([runs["ppo"]], "exists: name another"),
        ([], "give one or more run folders"),
        (["nowhere"], "holds no run"),
    ]:
        with pytest.raises(ConfigError, match=words):
            commands.report([*folders, "--out", str(out)])
    assert out.read_text() == "mine"


# -- in a browser ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Opens a page in a browser without a window; gives what it prints."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: install one of {', '.join(BROWSERS)}")

    def run(path, *flags):
        user = tmp_path_factory.mktemp("browser")
        command = [browser, *FLAGS.split(), f"--user-data-dir={user}", *flags, path.as_uri()]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    return run


@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_everything_and_asks_for_nothing(width, pages, browse, tmp_path):
    text = pages["all"].read_text(encoding="utf-8")
    copy = tmp_path / "page.html"
    copy.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    dom = browse(copy, f"--window-size={width},900", "--dump-dom")
    seen = json.loads(urllib.parse.unquote(re.findall(r'<pre id="probe">(.*?)</pre>', dom)[0]))
    assert seen["requests"] == []
    assert seen["images"] == [[60, 40]]
    assert len(seen["drawings"]) == 5  # a comparison and four runs
    assert all(drawn >= 440 for drawn in seen["drawings"])
    assert seen["curves"] >= 4
    assert seen["mode"] == "CSS1Compat"
    assert seen["overflow"] <= 0
    assert seen["dead"] == 0
    assert seen["title"] == "CartPole-v1, Acrobot-v1"
    assert f"CartPole-v1 ppo, {NASTY}" in seen["heads"]


@pytest.mark.parametrize(("number", "paper"), [(0, (0.0, 0.15)), (1, (0.9, 1.0))])
def test_the_page_is_readable_in_the_dark_and_in_the_light(number, paper, pages, browse, tmp_path):
    shot = tmp_path / "page.png"
    scheme = f"--blink-settings=preferredColorScheme={number}"
    browse(pages["all"], scheme, "--window-size=1200,1500", f"--screenshot={shot}")
    picture = imread(shot)[..., :3]
    assert picture.shape == (1500, 1200, 3)
    assert paper[0] <= picture[2, 2].mean() <= paper[1]
    far = np.abs(picture - picture[2, 2]).max(axis=-1) > 0.5
    assert 0.01 < far.mean() < 0.3  # words and lines stand out from the paper
