"""What a run needs to be told beside its configuration."""

from __future__ import annotations

import dataclasses

from purejaxppo.config import Algorithm


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Seeds, and where results go."""

    algorithm: Algorithm = "ppo"
    """Where the defaults come from (a preset's table of this name, if there is one)."""
    seeds: int = 1
    """Agents trained side by side."""
    seed: int = 0
    """Of the random key that every agent's is split from."""
    run_dir: str | None = None
    """Folder for the results; default: runs/<env>-<date>-<n>."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next run starts sooner."""
    json: bool = False
    """Print one JSON object as the last line."""
