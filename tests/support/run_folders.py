"""Run folders from numbers made by hand."""

import contextlib
import json
from unittest import mock

import numpy as np

import purejaxppo.runs.fit as fit_module
from purejaxppo import PPOConfig, fit
from purejaxppo.run_folder.rows import SCALARS, final_returns
from purejaxppo.types import Metrics

VERSIONS = {"python": "3.11.2", "purejaxppo": "0.1.0", "jax": "0.10.2"}


def tiny_config(updates, env="CartPole-v1", algorithm="ppo", **changes):
    """Updates of 10 steps each."""
    sizes = dict(num_envs=2, num_steps=5, num_minibatches=1, total_timesteps=10 * updates)
    return getattr(PPOConfig, algorithm)(env=env, **sizes | changes)


def metrics_of(returns):
    """Metrics of one episode for each return [seeds, updates], none where it is NaN."""
    returns = np.asarray(returns, float)
    fields = dict.fromkeys(SCALARS, np.zeros_like(returns))
    fields["episodes"] = (~np.isnan(returns)).astype(int)
    fields["return_sum"] = np.nan_to_num(returns)
    return Metrics(**fields)


def write_run(
    folder, config, returns, *, algorithm="ppo", evaluations=None, finished=True, torn=False, seed=0
):
    """Writes what a run leaves.

    Args:
        folder: a new one.
        config: its `batch_size` gives the steps.
        returns: [seeds, updates], NaN where no episode ended.
        algorithm: a name; None: the run does not say.
        evaluations: returns [seeds] by step, or None.
        finished: the summary is there.
        torn: the last line was cut short.
        seed: of the key.
    """
    folder.mkdir(parents=True)
    config.to_toml(folder / "config.toml")
    returns = np.asarray(returns, float)
    seeds, updates = returns.shape
    device = {"platform": "cpu", "kind": "cpu", "count": 1}
    about = {"seeds": seeds, "seed": seed, "algorithm": algorithm, "versions": VERSIONS}
    about |= {"device": device, "created": "2026-11-21T15:00:00+00:00"}
    about = {name: value for name, value in about.items() if value is not None}
    (folder / "run.json").write_text(json.dumps(about))
    metrics = metrics_of(returns)
    rows = [
        {"step": (u + 1) * config.batch_size, "seed": s}
        | {name: float(getattr(metrics, name)[s, u]) for name in SCALARS}
        for u in range(updates)
        for s in range(seeds)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + '{"step": 9' * torn)
    if evaluations is not None:
        rows = [
            {"step": step, "seed": s, "return_mean": x, "return_std": 1.0, "episodes": 16}
            for step, scores in evaluations.items()
            for s, x in enumerate(scores)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "evaluations.jsonl").write_text(text + '{"step"' * torn)
    if finished:
        last = [None if np.isnan(x) else float(x) for x in final_returns(metrics)]
        summary = {"timesteps": updates * config.batch_size, "final_returns": last}
        summary |= {"steps_per_second": 12345.6, "compile_seconds": 3.21, "run_seconds": 0.5}
        (folder / "summary.json").write_text(json.dumps(summary))
    return str(folder)


class CompiledOnce:
    """`fit` of one configuration, again and again, with programs that are compiled once.

    Args:
        config: what is trained.
        **options: of `fit`, for every call; seeds and evaluation among them.
    """

    def __init__(self, config, **options):
        self.config, self.options = config, options
        self._made = {}

    def __call__(self, run_dir, **more):
        """As `fit` does it; more options go over those of before."""

        def once(name):
            original = getattr(fit_module, name)

            @contextlib.contextmanager
            def kept(*args):  # what is compiled stays open; without evaluations there is nothing
                if self._made.get(name) is None:
                    self._made[name] = original(*args).__enter__()
                yield self._made[name]

            def made(*args):
                if name not in self._made:
                    self._made[name] = original(*args)
                return self._made[name]

            return mock.patch.object(fit_module, name, kept if "evaluate" in name else made)

        with once("compile_run"), once("compile_evaluate"):
            return fit(self.config, **{**self.options, "run_dir": run_dir, **more})
