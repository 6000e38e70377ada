"""The entry point of the command line: finds the command, and turns errors into exit codes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from purejaxppo import __version__
from purejaxppo.cli.signals import end_at_signals
from purejaxppo.cli.streams import forgiving_streams
from purejaxppo.errors import ConfigError, HostError, RunWarning, raised_in

USAGE = """usage: purejaxppo COMMAND ...

  train ENV           train agents on an environment; --resume goes on where a run stopped
  sweep ENV           train many settings as few programs, and say which are best
  eval RUN            play whole episodes with what a run has trained
  runs [FOLDER]       list the runs in a folder, and what each of them does
  plot RUN...         draw the learning curves of one run or compare many
  render RUN          film a trained policy
  report RUN...       put runs on one page that opens offline
  export RUN          write a policy that runs without purejaxppo (JAX, ONNX or NumPy)
  envs [SUITE]        list the environments that can be trained
  check-env ENV       check an environment, by name or as module:object, for what training needs
  completion SHELL    print what completes commands and options in bash, zsh or fish

purejaxppo COMMAND --help shows every option, train ENV --help with the values of that environment.
RUN is a run folder, as train writes it. purejaxppo --version says what is installed.
"""


def _command(function: str) -> Callable[[Sequence[str]], int]:
    """Returns a command whose module is imported when it runs: ctrl-C during that is no fault."""

    def run(argv: Sequence[str]) -> int:
        from purejaxppo.cli import commands

        return getattr(commands, function)(argv)

    return run


HELP = ("-h", "--help")
"""Asks for the help of a command wherever it stands among its arguments."""

COMMANDS = {
    "train": _command("train"),
    "sweep": _command("sweep"),
    "eval": _command("evaluate"),
    "runs": _command("runs"),
    "plot": _command("plot"),
    "render": _command("render"),
    "report": _command("report"),
    "export": _command("export"),
    "envs": _command("envs"),
    "check-env": _command("check_env"),
    "completion": _command("completion"),
}
"""What each command does with the arguments after it; it returns the exit code."""


def main() -> None:
    """Runs the command in `sys.argv`, and exits.

    Raises:
        SystemExit: always. 0: done; 1: it failed, or something could not be written or printed; 2:
            bad input, which gets one line on stderr; 128 and the number of the signal that stopped
            it.
    """
    with forgiving_streams() as lost:
        # what a run warns of is for the user: a line, without a place in the source
        warnings.simplefilter("always", RunWarning)
        show = warnings.showwarning

        def show_in_one_line(text: Warning | str, kind: type[Warning], *where: Any) -> None:
            if issubclass(kind, RunWarning):
                print(f"purejaxppo: {text}", file=sys.stderr)
            else:
                show(text, kind, *where)

        warnings.showwarning = show_in_one_line
        code = run(*sys.argv[1:])
        sys.stdout.flush()
        code = code or int(lost())
    sys.exit(code)


def run(command: str = "--help", *rest: str) -> int:
    """Runs a command, and says in one line on stderr what it fails of.

    Args:
        command: its name.
        *rest: the arguments after it.

    Returns:
        The exit code.
    """
    if command in HELP:
        print(USAGE, end="")
        return 0
    if command in ("-V", "--version"):
        print(installed())
        return 0
    try:
        if command not in COMMANDS:
            raise ConfigError(f"unknown command {command!r}: use {' or '.join(COMMANDS)}")
        with end_at_signals():
            asked = next((i for i, word in enumerate(rest) if word in HELP), None)
            if asked is not None:
                return _help(command, rest[:asked])
            return COMMANDS[command]([*rest])
    except ConfigError as error:
        return _failed(error, 2)
    except ValueError as error:
        # JAX reads variables when it is imported
        if raised_in(error) != "jax._src.config":
            raise
        return _failed(f"JAX cannot start: {error}: unset it", 2)
    except (HostError, OSError) as error:  # the latter of a disk, a folder, a network
        return _failed(error, 1)
    except KeyboardInterrupt:  # of a handler that others have set
        return _failed("interrupted", 130)
    except (RuntimeError, MemoryError) as error:
        # XLA has no class of its own for it
        known = any(words in str(error) for words in ("RESOURCE_EXHAUSTED", "Out of memory"))
        if not known and not isinstance(error, MemoryError):
            raise
        less = "make --num-envs, --num-steps, --seeds or --hidden-sizes smaller"
        return _failed(f"out of memory ({str(error) or 'MemoryError'}): {less}", 1)


def _help(command: str, argv: Sequence[str]) -> int:
    """Prints the help of a command, with values of the arguments before it; returns 0."""
    from purejaxppo.cli.help import print_help

    print_help(command, argv)
    return 0


def installed() -> str:
    """Returns the versions of this package, of jax and of Python, without importing jax."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"purejaxppo {__version__}, jax {metadata.version('jax')}, Python {python}"


def _failed(what: object, code: int) -> int:
    """Says in one line on stderr why a command has failed, and returns its exit code."""
    print("purejaxppo:", " ".join(str(what).split()), file=sys.stderr)
    return code
