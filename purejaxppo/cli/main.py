"""The entry point of the command line: finds the command, and turns errors into exit codes."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from purejaxppo.cli import commands
from purejaxppo.errors import ConfigError, HostError, RunWarning

USAGE = """usage: purejaxppo COMMAND ...

  train ENV           train agents on an environment; --resume goes on where a run stopped
  eval RUN            play whole episodes with what a run has trained
  plot RUN...         draw the learning curves of one run or compare many
  render RUN          film a trained policy
  report RUN...       put runs on one page that opens offline
  export RUN          write a policy that runs without purejaxppo (JAX, ONNX or NumPy)
  envs [SUITE]        list the environments that can be trained
  check-env ENV       check an environment, by name or as module:object, for what training needs

purejaxppo COMMAND --help shows every option. RUN is a run folder, as train writes it.
"""

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": commands.train,
    "eval": commands.evaluate,
    "plot": commands.plot,
    "render": commands.render,
    "report": commands.report,
    "export": commands.export,
    "envs": commands.envs,
    "check-env": commands.check_env,
}
"""What each command does with the arguments after it; it returns the exit code."""


def main() -> None:
    """Runs the command in `sys.argv`, and exits.

    Raises:
        SystemExit: always. 0: done; 1: it failed, or something could not be written; 2: bad input,
            which gets one line on stderr; 128 and the number of the signal that stopped it.
    """
    # what a run warns of is for the user: a line, without a place in the source
    warnings.simplefilter("always", RunWarning)
    show = warnings.showwarning

    def show_in_one_line(text: Warning | str, kind: type[Warning], *where: Any) -> None:
        if issubclass(kind, RunWarning):
            print(f"purejaxppo: {text}", file=sys.stderr)
        else:
            show(text, kind, *where)

    warnings.showwarning = show_in_one_line
    sys.path.append("")  # custom environments, in the folder where the user is

    command, *rest = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE, end="")
        sys.exit(0)
    try:
        if command not in COMMANDS:
            raise ConfigError(f"unknown command {command!r}: use {' or '.join(COMMANDS)}")
        code = COMMANDS[command](rest)
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # `| head` has seen enough; what is left has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ConfigError as error:
        print(f"purejaxppo: {error}", file=sys.stderr)
        sys.exit(2)
    except HostError as error:
        print(f"purejaxppo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("purejaxppo: interrupted", file=sys.stderr)
        sys.exit(130)
