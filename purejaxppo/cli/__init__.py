"""The command line: `purejaxppo COMMAND ...`."""

from purejaxppo.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
