"""What is run: the model, the data set, the protocol, and RecBole's settings merged from all of them."""

import argparse
import contextlib
import difflib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Optional

import yaml

from recbole_glintru import plugin
from recbole_glintru.launch import checks, protocol
from recbole_glintru.launch.errors import UserError, user_errors

MODEL, DATASET = "GLINTRU", "ml-100k"  # unless the user names others


def choose(options: argparse.Namespace) -> tuple[str, str, Optional[str]]:
    """The model, the data set, and the protocol to apply, which is told on stderr; all three by name.

    Raises:
        UserError: there is no such model or protocol, or a file of `--config_files` cannot be read.
    """
    from_files = {key: value for file in options.config_files for key, value in read_settings_file(file).items()}
    model = str(options.model or from_files.get("model") or MODEL)
    dataset = str(options.dataset or from_files.get("dataset") or DATASET)
    with user_errors(ValueError):
        applied = protocol.choose(options.protocol, dataset)
        plugin.import_model(model)
    if applied is None:
        print("Protocol: none, RecBole's defaults.", file=sys.stderr)
    else:
        print(f"Protocol: {protocol.files()[applied]} (--protocol=none leaves it out)", file=sys.stderr)
    return model, dataset, applied


def read_settings_file(file: str) -> dict[str, Any]:
    """A user's YAML file.

    Raises:
        UserError: it cannot be read, is not YAML, or holds no settings.
    """
    try:
        settings = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=yaml.FullLoader)
    except OSError as error:
        raise UserError(f"--config_files: cannot read {file}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise UserError(f"--config_files: {file} is not YAML: {error}") from None
    if not isinstance(settings, dict):
        raise UserError(f"--config_files: {file} holds no settings (lines of the form `key: value`).")
    return settings


@contextlib.contextmanager
def command_line(arguments: list[str]) -> Iterator[None]:
    """Let RecBole, and the processes that it starts, find `arguments` in `sys.argv`."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


def merged_settings(model: str, dataset: str, files: list[str], above: Optional[dict[str, Any]] = None):
    """RecBole's merged settings, as every process of the run makes them again for itself.

    `above` lies above the files and below the command line.

    Raises:
        UserError: RecBole, or the model, refuses a setting.
    """
    from recbole.config import Config

    with user_errors(ValueError, NotImplementedError):  # what RecBole raises of a wrong setting
        config = Config(model=model, dataset=dataset, config_file_list=files, config_dict=above)
        checks.check(config)
    return config


def tell_of_misspelt(config, given: Iterable[str]) -> None:
    """Say on stderr which of the given settings nobody reads, and what they are probably meant to be.

    RecBole takes every name without a word. One that is like no other may be a model's of the user's own.
    """
    read = {*checks.SWITCHES, "length_groups", "process_timeout"}
    read.update(config.internal_config_dict, *config.parameters.values())
    read.update(getattr(config.model_class, "published_settings", {}))
    for name in sorted({*given} - read):
        for near in difflib.get_close_matches(name, read, n=1, cutoff=0.8):
            print(f"--{name}: neither RecBole nor {config['model']} reads it. Is {near} meant?", file=sys.stderr)
