"""Files of figures: JSON with versions, device and date, which a script may go on with."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from purejaxppo import PPOConfig
from purejaxppo.runs.identity import versions

SIZES = ("seeds", "seed", "total_timesteps", "episodes")
"""Arguments that change figures; all others choose which of them are measured."""


def report(name: str, results: Any, out: Path | None, asked: dict[str, Any] | None = None) -> None:
    """Prints a benchmark's results as JSON, and writes them where asked; see `record`."""
    print(record(name, results, out, asked))


def asked_for(args: argparse.Namespace) -> dict[str, Any]:
    """Returns what all figures of a file have in common: the sizes that a command line asks for."""
    return {name: value for name, value in vars(args).items() if name in SIZES}


def quickened(parser: argparse.ArgumentParser, **values: Any) -> argparse.Namespace:
    """Reads the command line again, with the values of `--quick` where an option is not given."""
    parser.set_defaults(**values)
    return parser.parse_args()


def results_in(file: Path | None) -> dict[str, Any]:
    """Returns the results in a file; none where there is none."""
    if file is None or not file.exists():
        return {}
    return json.loads(file.read_text(encoding="utf-8"))["results"]


def measured_before(
    out: Path | None, parser: argparse.ArgumentParser, asked: dict[str, Any]
) -> dict[str, Any]:
    """Returns the results in a file that is to be gone on with; none where there is none.

    Args:
        out: the file.
        parser: which says where the file has figures of other sizes, and exits with code 2.
        asked: the sizes that are asked for now, see `asked_for`.
    """
    if out is None or not out.exists():
        return {}
    file = json.loads(out.read_text(encoding="utf-8"))
    there = file.get("asked", asked)
    names = [name for name in asked if there.get(name) != asked[name]]
    if names:
        before, now = ({name: sizes.get(name) for name in names} for sizes in (there, asked))
        parser.error(f"--out {out}: its figures are of {before}, not {now}: name another file")
    return file["results"]


def check_same(
    config: PPOConfig, entry: Mapping[str, Any], parser: argparse.ArgumentParser
) -> None:
    """Refuses to add to an entry of a file that is of another configuration.

    Args:
        config: that is asked for.
        entry: of the file, with its `config`.
        parser: which says so, and exits with code 2.
    """
    before = PPOConfig.from_dict(entry["config"])
    if before != config:
        names = [n for n, x in config.to_dict().items() if getattr(before, n) != getattr(config, n)]
        parser.error(
            f"--out has figures of {config.env} with other settings ({', '.join(names)}): name "
            "another file"
        )


def record(name: str, results: Any, out: Path | None, asked: dict[str, Any] | None = None) -> str:
    """Writes a benchmark's results where asked; returns the JSON.

    Args:
        name: of the script.
        results: what it found.
        out: a file; None: nothing is written.
        asked: sizes that all figures have in common, of a file that can be gone on with.
    """
    record = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        **({} if asked is None else {"asked": asked}),
        "results": results,
    }
    text = json.dumps(record, indent=2)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    return text
