"""Studies that Optuna keeps: its samplers learn from them, and several processes share them.

Every process that takes part asks for trials, trains them and tells what came of them; whatever
they know of each other stands in the storage. All of it is done while the others are excluded, so
that a study of 64 trials has 64 of them, however many take part. A process renews a stamp in the
study; trials of one whose stamp stays the same for `STALE` seconds are handed out again.

Needs the extra `sweep`; it is imported when the first study is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError
from purejaxppo.sweeps.dimensions import Space
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.samplers import FIXED, drawn
from purejaxppo.sweeps.study import Study

if TYPE_CHECKING:
    from purejaxppo.sweeps.storage.shared import OptunaSource

MOST = 2**31
"""More trials than any sweep has."""

JOURNAL = "optuna.journal"
"""The storage in the folder of a study that is not shared."""


def optuna_source(
    space: Space,
    config: PPOConfig,
    options: SweepOptions,
    *,
    study: Study,
    own: Mapping[str, str] | None = None,
) -> OptunaSource:
    """Opens a study, made where there is none, and returns where its trials come from.

    Without a storage, the study is a journal in the study's folder; without that too, it is gone
    with this process.

    Args:
        space: what is varied.
        config: all else.
        options: of the sweep.
        study: whose folder keeps what cannot be told; it is told what others have told, at the end.
        own: what was passed in place of what is configured, by name, in words.

    Returns:
        The source; tell it first what the folder knows, and close it at the end.

    Raises:
        ConfigError: a package is missing, the storage cannot be reached, it has another study of
            that name, or the sampler cannot draw from the space.
    """
    _import_extra(options)
    # behind the check of what it imports
    from purejaxppo.sweeps.storage.learning import check_sampler
    from purejaxppo.sweeps.storage.places import FilePlace, Place, place_of
    from purejaxppo.sweeps.storage.shared import OptunaSource

    check_sampler(space, options)
    name = options.study_name or str(config.env)
    if options.storage is not None:
        place = place_of(options.storage, name)
    elif study.folder is not None:
        path = study.folder / JOURNAL
        place = FilePlace(f"journal:{path}", path, None, shared=False)
    else:
        place = Place()
    listed = [] if options.sampler not in FIXED else drawn(space, config, options).ask(MOST)
    source = OptunaSource(space, config, options, listed, place, study)
    try:
        source.open(name, own or {})
    except ConfigError:
        place.close()
        raise
    return source


def _import_extra(options: SweepOptions) -> None:
    """Imports what the sampler and the storage need.

    Raises:
        ConfigError: it is not installed.
    """
    packages = ["optuna"]
    packages += ["cmaes"] if options.sampler == "cmaes" else []
    packages += ["psycopg"] if (options.storage or "").startswith("postgres") else []
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            what = "storage" if options.storage else f"sampler={options.sampler!r}"
            raise ConfigError(
                f"{what} needs the package {package} ({error}): pip install 'purejaxppo[sweep]'"
            ) from error
