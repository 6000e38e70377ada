"""What completes commands, options and their values in a shell; printed without importing jax."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import NamedTuple

import platformdirs

from purejaxppo.cli.arguments import ARGUMENTS
from purejaxppo.cli.declared import Argument, groups_of, summary_of
from purejaxppo.config import presets

ALWAYS = ("--help", "--version")
"""What may stand in place of a command."""


class Values(NamedTuple):
    """What may stand in one place of a command line.

    Attributes:
        words: all there is; none if it may be anything.
        paths: "folders" or "files" if it is a path.
    """

    words: tuple[str, ...] = ()
    paths: str = ""


def script_of(shell: str) -> str:
    """Returns what a shell runs to complete this program's commands.

    Args:
        shell: a name in `SCRIPTS`.
    """
    return SCRIPTS[shell]()


def environments() -> tuple[str, ...]:
    """Returns names of environments: those with presets, and those that were listed last."""
    rows = [row for name in presets.names() for row in presets.tables(name).values()]
    names = {row["env"] for row in rows if "env" in row}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        names.update(_listed().read_text(encoding="utf-8").split())
    return tuple(sorted(names))


def remember_environments(names: Sequence[str]) -> None:
    """Keeps the names of all environments for completion; which would take seconds to find them.

    Args:
        names: of all that are installed.
    """
    path = _listed()
    with contextlib.suppress(OSError):
        if path.is_absolute():  # without a home
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(names) + "\n", encoding="utf-8")


def _listed() -> Path:
    """Returns the file that names of environments are kept in."""
    return platformdirs.user_cache_path("purejaxppo") / "environments.txt"


def _values(argument: Argument) -> Values:
    """Returns what may stand for an argument's value."""
    if argument.choices:
        return Values(argument.choices)
    if argument.field in ("run", "runs", "run_dir", "study_dir"):
        return Values(paths="folders")
    if argument.field in ("out", "config"):
        return Values(paths="files")
    if argument.field == "env":
        return Values(environments())
    if argument.field == "preset":
        return Values((*presets.names(), "none"))
    if argument.field == "suite":
        return Values(tuple(sorted({n.partition("/")[0] for n in environments() if "/" in n})))
    return Values()


def _options(command: str) -> list[Argument]:
    """Returns the options of a command."""
    groups = groups_of(ARGUMENTS[command])
    return [argument for title in groups for argument in groups[title] if argument.flags]


def _positional(command: str) -> Values:
    """Returns what may stand where a command's options do not."""
    arguments = groups_of(ARGUMENTS[command]).get("arguments", [])
    return _values(arguments[0]) if arguments else Values()


def _flags(command: str) -> tuple[str, ...]:
    """Returns all flags of a command."""
    return (*(flag for argument in _options(command) for flag in argument.flags), "--help")


def _cases(offer: Callable[[Values], str]) -> Iterator[tuple[str, str]]:
    """Returns what is offered behind each option that takes a value.

    Args:
        offer: writes a command of the shell.

    Yields:
        Patterns of `command option`, and the shell's command for them.
    """
    patterns: dict[str, list[str]] = {}
    for command in ARGUMENTS:
        for argument in _options(command):
            if argument.value:
                pattern = quote(f"{command} {argument.flags[0]}")
                patterns.setdefault(offer(_values(argument)), []).append(pattern)
    for offered, several in patterns.items():
        yield "|".join(several), offered


def _bash() -> str:
    """Writes the script for bash, 3.2 (of macOS) and later."""

    def offer(values: Values) -> str:
        if values.words:
            return f"words={quote(' '.join(values.words))}"
        return f"_purejaxppo_{values.paths}" if values.paths else ":"

    lines = [
        "# completes the commands of purejaxppo in bash",
        "_purejaxppo_files() {",
        "    local IFS=$'\\n'",
        "    compopt -o filenames 2>/dev/null",
        '    COMPREPLY=($(compgen -f -- "$current"))',
        "}",
        "_purejaxppo_folders() {  # those in runs/ by their names alone, too",
        "    local IFS=$'\\n'",
        "    compopt -o filenames 2>/dev/null",
        '    COMPREPLY=($(compgen -d -- "$current") $(compgen -d -- "runs/$current"))',
        "}",
        "_purejaxppo() {",
        "    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=",
        "    # --option=value comes in three words",
        "    [[ $current == = ]] && current=",
        "    [[ $before == = ]] && before=${COMP_WORDS[COMP_CWORD-2]}",
        "    COMPREPLY=()",
        "    if ((COMP_CWORD == 1)); then",
        f"        words={quote(' '.join((*ARGUMENTS, *ALWAYS)))}",
        "    else",
        '        case "${COMP_WORDS[1]} $before" in',
        *(f"        {case}) {command} ;;" for case, command in _cases(offer)),
        "        *)",
        '            case "${COMP_WORDS[1]} $current" in',
    ]
    for command in ARGUMENTS:
        dashes, others = quote(f"{command} -") + "*", quote(f"{command} ") + "*"
        lines.append(f"            {dashes}) words={quote(' '.join(_flags(command)))} ;;")
        lines.append(f"            {others}) {offer(_positional(command))} ;;")
    lines += [
        "            esac ;;",
        "        esac",
        "    fi",
        '    [[ -n $words ]] && COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "    return 0",
        "}",
        "complete -F _purejaxppo purejaxppo",
    ]
    return "\n".join(lines) + "\n"


def _zsh() -> str:
    """Writes the script for zsh: to be sourced behind `compinit`, or a file `_purejaxppo`."""

    def offer(values: Values) -> str:
        if values.words:
            return f"compadd -- {' '.join(map(quote, values.words))}"
        return {"folders": "_files -/", "files": "_files", "": ":"}[values.paths]

    lines = [
        "#compdef purejaxppo",
        "# completes the commands of purejaxppo in zsh",
        "_purejaxppo() {",
        "    local before=${words[CURRENT-1]} current=${words[CURRENT]}",
        "    if ((CURRENT == 2)); then",
        f"        compadd -- {' '.join((*ARGUMENTS, *ALWAYS))}",
        "        return",
        "    fi",
        '    case "${words[2]} $before" in',
        *(f"    ({case}) {command}; return ;;" for case, command in _cases(offer)),
        "    esac",
        '    case "${words[2]} $current" in',
    ]
    for command in ARGUMENTS:
        dashes, others = quote(f"{command} -") + "*", quote(f"{command} ") + "*"
        lines.append(f"    ({dashes}) compadd -- {' '.join(_flags(command))} ;;")
        lines.append(f"    ({others}) {offer(_positional(command))} ;;")
    lines += [
        "    esac",
        "}",
        'if [[ $funcstack[1] == _purejaxppo ]]; then _purejaxppo "$@"; fi',
        "(( $+functions[compdef] )) && compdef _purejaxppo purejaxppo",
    ]
    return "\n".join(lines) + "\n"


def _fish() -> str:
    """Writes the script for fish."""

    def text(words: str) -> str:
        return "'" + words.replace("\\", "\\\\").replace("'", "\\'") + "'"

    def offer(values: Values) -> str:
        if values.paths == "folders":
            return "-x -a '(__fish_complete_directories)'"
        words = f" -a {text(' '.join(values.words))}" if values.words else ""
        return "-rF" if values.paths else f"-x{words}"

    start = "complete -c purejaxppo"
    lines = ["# completes the commands of purejaxppo in fish", f"{start} -f"]
    for command, kind in ARGUMENTS.items():
        about = text(summary_of(kind))
        lines.append(f"{start} -n __fish_use_subcommand -a {command} -d {about}")
    lines += [f"{start} -n __fish_use_subcommand -l {flag[2:]}" for flag in ALWAYS]
    for command in ARGUMENTS:
        within = f"{start} -n '__fish_seen_subcommand_from {command}'"
        lines.append(f"{within} {offer(_positional(command)).removeprefix('-x')}")
        for argument in _options(command):
            value = f" {offer(_values(argument))}" if argument.value else ""
            for flag in argument.flags:
                lines.append(f"{within} -l {flag[2:]}{value} -d {text(argument.text)}")
    return "\n".join(lines) + "\n"


SCRIPTS: dict[str, Callable[[], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
"""What is run in each shell."""
