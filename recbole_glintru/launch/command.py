"""The command line: train and evaluate one model on one data set, under the paper's protocol if there is one.

Settings are read in this order, each overriding those before: RecBole's defaults; the model's own YAML; the protocol
of the data set, first its settings for all models, then those for this one; the user's `--config_files`; the user's
`--key=value`. RecBole merges them: the protocol is the first of the files passed to it.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from recbole_glintru.compat.process_failures import SettingRefused
from recbole_glintru.launch import help_texts, process_options, protocol
from recbole_glintru.launch.arguments import Parser, parse_settings, run_command
from recbole_glintru.launch.configuration import (
    DATASET,
    MODEL,
    choose,
    command_line,
    merged_settings,
    report_unread,
    settings_of_files,
)
from recbole_glintru.launch.data import find_data
from recbole_glintru.launch.errors import UserError, user_errors
from recbole_glintru.settings import raised_by_a_setting

USAGE = "run_recbole.py [--model=MODEL] [--dataset=DATASET] [--config_files='A.yaml B.yaml'] [--key=value ...]"


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command line, by default `sys.argv`, and return the exit status (see `run_command`)."""
    return run_command(arguments, parse, help_text, run)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The launcher's own options, and the settings for RecBole, `--key=value` or `--key value`.

    Raises:
        UserError: an argument is not a setting, has no value, or is given twice with different values.
    """
    parser = Parser(USAGE)
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--ip", default="localhost")
    parser.add_argument("--port", type=int)
    parser.add_argument("--world_size", type=int, default=-1)
    parser.add_argument("--group_offset", type=int, default=0)
    options, words = parser.parse_known_args(list(arguments))
    with user_errors(ValueError):
        process_options.check(options)
    return options, parse_settings(words, USAGE)


def help_text(options: argparse.Namespace) -> str:
    """The help of the command or, with `--model`, of the model's settings.

    Raises:
        UserError: there is no such model or no such protocol.
    """
    if options.model is None:
        return help_texts.command_help(USAGE, MODEL, DATASET)
    with user_errors(ValueError):
        return help_texts.model_help(options.model, protocol.choose(options.protocol, options.dataset or ""))


def run(options: argparse.Namespace, settings: dict[str, str]) -> Optional[dict[str, Any]]:
    """Train and evaluate with `recbole.quick_start.run`, and return its result.

    Raises:
        UserError: the model, the data set or a setting is wrong.
    """
    model, dataset, applied = choose(options)
    arguments = [f"--{key}={value}" for key, value in {"model": model, "dataset": dataset, **settings}.items()]
    given = {**settings_of_files(options), **settings}
    with protocol.as_config_files(applied, model, given) as protocol_files, command_line(arguments):
        files = protocol_files + options.config_files
        config = merged_settings(model, dataset, files)
        report_unread(config, given)
        with user_errors(ValueError):
            port = process_options.port(options, config)
        _check_checkpoint_dir(config["checkpoint_dir"])
        find_data(config)
        from recbole.quick_start import run as run_by_recbole

        try:
            return run_by_recbole(
                model,
                dataset,
                config_file_list=files,
                config_dict={"check_data": config["check_data"] is not False},
                nproc=options.nproc,
                world_size=options.world_size,
                ip=options.ip,
                port=port,
                group_offset=options.group_offset,
            )
        except SettingRefused as error:  # by the model in one of the processes
            raise UserError(str(error)) from None
        except ValueError as error:
            if raised_by_a_setting(error):
                raise UserError(str(error)) from None
            raise


def _check_checkpoint_dir(folder: Any) -> None:
    """Check that RecBole can write checkpoints, which it tries only after it has loaded the data.

    Raises:
        UserError: it cannot.
    """
    said = f"checkpoint_dir={folder!r}: must be a folder that can be written to, or made"
    if not isinstance(folder, str):
        raise UserError(f"{said}.")
    path = Path(folder).absolute()
    try:
        existing = next(one for one in (path, *path.parents) if one.exists())
        possible = existing.is_dir() and os.access(existing, os.W_OK)
    except OSError as error:  # a name that is too long
        raise UserError(f"{said}: {error.strerror}.") from None
    if not possible:
        raise UserError(f"{said}: {existing} is not.")
