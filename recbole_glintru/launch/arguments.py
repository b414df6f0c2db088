"""What the commands of the package have in common: options, settings, help, exit status."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any, Callable, Optional

from recbole_glintru.launch.errors import UserError


def run_command(
    arguments: Optional[Sequence[str]],
    parse: Callable[[Sequence[str]], tuple[argparse.Namespace, dict[str, str]]],
    help_text: Callable[[argparse.Namespace], str],
    run: Callable[[argparse.Namespace, dict[str, str]], Any],
) -> int:
    """Run a command, and return its exit status.

    0 means a finished run or a help text, 2 a user error, reported on stderr. All other errors are raised.

    Args:
        arguments: the words of the command line; None for `sys.argv`.
        parse: turns them into options and settings.
        help_text: what `--help` prints.
        run: what to do otherwise.
    """
    try:
        options, settings = parse(sys.argv[1:] if arguments is None else arguments)
        if options.help:
            print(help_text(options))
        else:
            run(options, settings)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


class Parser(argparse.ArgumentParser):
    """The options that every command has: which model, which data, which settings. Errors are UserErrors."""

    def __init__(self, usage: str):
        super().__init__(usage=usage, add_help=False, allow_abbrev=False)
        self.register("action", None, _Once)
        self.add_argument("--help", "-h", action="store_true")
        self.add_argument("--model", "-m")
        self.add_argument("--dataset", "-d")
        self.add_argument("--config_files", type=_file_names, default=[])
        self.add_argument("--protocol")

    def error(self, message):
        raise UserError(f"{message}\nusage: {self.usage}")


class _Once(argparse.Action):
    """Stores the value of an option; refuses an empty value, and two different values."""

    _given = None

    def __call__(self, parser, namespace, values, option_string=None):
        if values == "":
            raise UserError(f"{option_string} has no value.")
        if self._given not in (None, values):
            raise UserError(f"{option_string} is given twice: {self._given} and {values}.")
        self._given = values
        setattr(namespace, self.dest, values)


def _file_names(value: str) -> list[str]:
    """Names separated by blanks; a name that contains blanks has shell quotes inside the value."""
    try:
        return shlex.split(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value}: {error}") from None


def parse_settings(words: list[str], usage: str) -> dict[str, str]:
    """The settings `--key=value` or `--key value`, as they are written.

    Raises:
        UserError: a word is not a setting, has no value, or is given twice with different values.
    """
    words, settings = list(words), {}
    while words:
        word = words.pop(0)
        key, equals, value = word.partition("=")
        if not key.startswith("--") or key == "--":
            raise UserError(f"'{word}' is not a setting. Settings are written --key=value.\nusage: {usage}")
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"{key} has no value. Settings are written --key=value.")
            value = words.pop(0)
        if "=" in value:  # RecBole ignores such an argument, with a warning
            raise UserError(f"{key}: RecBole ignores values with '=' in them here; put it into a --config_files file.")
        if settings.setdefault(key[2:], value) != value:
            raise UserError(f"{key} is given twice: {settings[key[2:]]} and {value}.")
    return settings
