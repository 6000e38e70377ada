"""What stands in the files of a run folder: the names, the types, and one check against them.

Whole numbers are never negative there, and numbers are finite; what was not finite is null.
"""

# annotations are values here: which keys a record needs is read from them

import json
import sys
import types
from collections.abc import Iterator, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NotRequired,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from purejaxppo.config.schema import Algorithm
from purejaxppo.errors import shown

if TYPE_CHECKING:  # records of JAX: a list of runs is printed without it
    from purejaxppo.types import Row

LARGEST = sys.float_info.max


class Device(TypedDict):
    """Where a run was begun."""

    platform: str
    kind: str
    count: int


class ActingFile(TypedDict):
    """What acting needs of `run.json`; whatever else is in it was put there by the user."""

    seeds: int
    env: NotRequired[str]  # the name of what was trained on
    own: NotRequired[dict[str, str]]  # what was passed in place of what is configured, see folder
    env_params: NotRequired[dict[str, Any]]  # numbers by their path, see env_params
    algorithm: NotRequired[Algorithm]
    options: NotRequired[dict[str, Any]]
    created: NotRequired[str]
    init_from: NotRequired[dict[str, Any]]  # the agents that it was begun with, see Beginning
    vary: NotRequired[dict[str, list[float]]]  # settings that agents have of their own, see fit
    earlier_timesteps: NotRequired[list[int]]  # its totals before it was made longer


class RunFile(ActingFile):
    """What going on with a run, or a page about it, needs of `run.json`."""

    seed: int
    versions: dict[str, str]
    device: Device


class SummaryFile(TypedDict):
    """The file `summary.json`; times are null where the results were made anew from the rows."""

    timesteps: int
    final_returns: list[float | None]
    steps_per_second: float | None
    compile_seconds: float | None
    run_seconds: float | None
    env: NotRequired[str]
    algorithm: NotRequired[str]
    seeds: NotRequired[int]
    total_timesteps: NotRequired[int]
    final_return_mean: NotRequired[float | None]
    final_return_std: NotRequired[float | None]
    best_evaluations: NotRequired[list[float | None]]
    episodes: NotRequired[int]
    run_dir: NotRequired[str]
    parameters: NotRequired[int]
    problems: NotRequired[list[str]]
    versions: NotRequired[dict[str, str]]
    device: NotRequired[str]
    own: NotRequired[dict[str, str]]
    init_from: NotRequired[str]
    vary: NotRequired[dict[str, list[float]]]


class CheckpointAbout(RunFile):
    """What a checkpoint says beside its arrays."""

    config: dict[str, Any]
    updates: int
    evaluation: list[float] | None
    evaluated: tuple[int, bool]


class Manifest(TypedDict):
    """What every file of arrays says of them."""

    format: int
    about: dict[str, Any]
    kinds: dict[str, str]


class WandBFile(TypedDict):
    """The file `wandb.json`: under which name Weights & Biases knows the run."""

    id: str


WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false",
    types.NoneType: "null", list: "a list", dict: "a table",
}  # fmt: skip
"""What types are called in messages."""


def parse_json(raw: bytes, finite: bool = True) -> Any:
    """Reads JSON.

    Args:
        raw: UTF-8.
        finite: refuse NaN and infinities, which Python writes and reads, and JSON has not.

    Returns:
        The value.

    Raises:
        ValueError: it is none.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    try:
        return json.loads(raw.decode(), parse_constant=refuse if finite else None)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def misfit(value: Any, declared: Any, at: str = "it", finite: bool = True) -> str | None:
    """Compares a value of JSON with a declared type.

    Args:
        value: as `parse_json` gives it.
        declared: a `TypedDict`, whose other keys are not looked at, or a type that JSON has; a
            tuple is a list of so many.
        at: what the value is called.
        finite: numbers must be finite.

    Returns:
        The first difference in words; None if there is none.
    """
    if declared is Any:
        return None
    kind = get_origin(declared)
    if kind in (types.UnionType, Union):
        found = [misfit(value, part, at, finite) for part in get_args(declared)]
        return None if None in found else found[0]
    if kind is Literal:
        known = get_args(declared)
        return None if value in known else f"{at} is {shown(value)}, not one of {known}"

    # the value itself, then what is in it
    record = declared if is_typeddict(declared) else None
    as_json: Any = dict if record else list if kind is tuple else kind or declared
    number = declared in (int, float)
    if not (_is_number(value, declared, finite) if number else isinstance(value, as_json)):
        return f"{at} is {shown(value)}, not {WORDS[as_json]}"
    missing = set() if record is None else record.__required_keys__ - value.keys()
    if missing:
        return f"{min(missing)} is missing"
    if kind is tuple and len(value) != len(get_args(declared)):
        return f"{at} is {shown(value)}, not a list of {len(get_args(declared))}"
    inside = (misfit(x, part, name, finite) for name, x, part in _entries(value, declared, at))
    return next(filter(None, inside), None)


def _is_number(value: Any, declared: type, finite: bool) -> bool:
    """Says whether a value is a number of this type; to Python, bool is an int."""
    if declared is int:
        return type(value) is int and 0 <= value < 2**63
    if type(value) not in (int, float):
        return False
    return -LARGEST <= value <= LARGEST or (type(value) is float and not finite)


def _entries(value: Any, declared: Any, at: str) -> Iterator[tuple[str, Any, Any]]:
    """Yields name, value and declared type of all that is in a list or a table."""
    kind, parts = get_origin(declared), get_args(declared)
    if is_typeddict(declared):
        hints = get_type_hints(declared)
        yield from ((name, value[name], hint) for name, hint in hints.items() if name in value)
    elif kind is dict:
        yield from ((f"{at}.{name}", x, parts[1]) for name, x in value.items())
    elif kind is list:
        yield from ((f"an entry of {at}", x, parts[0]) for x in value)
    elif kind is tuple:
        yield from ((f"an entry of {at}", x, part) for x, part in zip(value, parts, strict=True))


ENTRIES = {int, float, types.NoneType}


def parse_row(line: bytes) -> "Row":
    """Reads a line of JSON Lines: numbers by name, null where one was not finite.

    Args:
        line: UTF-8.

    Returns:
        The row, which has a step.

    Raises:
        ValueError: it is none.
    """
    row = parse_json(line)
    if not isinstance(row, dict):
        raise ValueError(f"it is {shown(row)}, not a table")
    # files have millions of numbers, so that they are not looked at one by one where all is well
    values = row.values()
    if not ENTRIES.issuperset(map(type, values)) or not all(
        x is None or -LARGEST <= x <= LARGEST for x in values
    ):
        wrong = filter(None, (misfit(x, float | None, name) for name, x in row.items()))
        raise ValueError(next(wrong))
    for name in ("step", "seed"):
        words = misfit(row.get(name), int, name) if name == "step" or name in row else None
        if words:
            raise ValueError(words)
    return row


def wrong_column(row: Mapping[str, Any], names: set[str], known: set[str]) -> str | None:
    """Compares the names in a row with those of the row before it.

    Args:
        row: a row.
        names: those of the first one.
        known: names that every row has.

    Returns:
        The first difference in words; None if there is none.
    """
    if row.keys() == names and known <= names:
        return None
    missing = sorted(known - row.keys())
    if missing:
        return f"{missing[0]} is missing"
    other = sorted((names ^ row.keys()) - known)
    return f"{other[0]} is not in every row" if other else None
