"""What to run: the model, the data set, the protocol, and RecBole's settings merged from all sources."""

import argparse
import contextlib
import difflib
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import yaml

from recbole_glintru import plugin
from recbole_glintru.launch import checks, protocol
from recbole_glintru.launch.errors import UserError, user_errors

MODEL, DATASET = "GLINTRU", "ml-100k"  # the defaults
NOT_LISTED = {  # keys that the package and RecBole read although their settings files do not list them
    *("length_groups", "process_timeout", "model", "dataset", "encoding", "tail_ratio"),
    *("mask_ratio", "ft_ratio", "eta", "beta"),  # of `transform`
    *("neg_sampling", "training_neg_sample_num"),  # RecBole has a message of its own for them
}


def choose(options: argparse.Namespace) -> tuple[str, str, Optional[str]]:
    """The names of the model, the data set and the protocol to apply; the protocol is reported on stderr.

    Raises:
        UserError: there is no such model or protocol, or a file of `--config_files` cannot be read.
    """
    from_files = settings_of_files(options)
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


def settings_of_files(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of the user's `--config_files`, each file overriding those before.

    Raises:
        UserError: a file cannot be read.
    """
    return {key: value for file in options.config_files for key, value in read_settings_file(file).items()}


def read_settings_file(file: str) -> dict[str, Any]:
    """A user's YAML file.

    Raises:
        UserError: it cannot be read, is not YAML, or contains no settings.
    """
    try:
        settings = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=yaml.FullLoader)
    except OSError as error:
        raise UserError(f"--config_files: cannot read {file}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise UserError(f"--config_files: {file} is not YAML: {error}") from None
    if not isinstance(settings, dict):
        raise UserError(f"--config_files: {file} contains no settings (lines of the form `key: value`).")
    return settings


@contextlib.contextmanager
def command_line(arguments: list[str]) -> Iterator[None]:
    """Let RecBole, and the processes that it starts, find `arguments` in `sys.argv`.

    The first word is always the same, because RecBole ignores the arguments of a notebook's `ipykernel_launcher`.
    """
    before = sys.argv
    sys.argv = ["run_recbole.py", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def merged_settings(model: str, dataset: str, files: list[str], above: Optional[dict[str, Any]] = None):
    """RecBole's merged settings, as each process of the run merges them for itself.

    `above` overrides the files and is overridden by the command line.

    Raises:
        UserError: RecBole, or the model, refuses a setting.
    """
    from recbole.config import Config

    refusals = (ValueError, NotImplementedError)  # what RecBole raises for a wrong setting
    with user_errors(*refusals), checks.evaluation_checked_first(Config):
        config = Config(model=model, dataset=dataset, config_file_list=files, config_dict=above)
        checks.check(config)
    return config


def report_unread(config, given: Mapping[str, Any]) -> None:
    """Report on stderr which of the given settings are never read, and which names were probably meant.

    RecBole accepts every name silently. A name unlike any known one may be read by a model of another package.
    """
    model, file = config.model_class, Path(inspect.getfile(config.model_class))
    read = {*checks.SWITCHES, *NOT_LISTED, *getattr(model, "published_settings", {})}
    read.update(config.internal_config_dict, *config.parameters.values())
    known = model.__module__.partition(".")[0] in ("recbole", "recbole_glintru")
    source = file.read_text(encoding="utf-8")  # RecBole's files omit some settings that are read: FEARec's tau
    for name, value in sorted((str(name), value) for name, value in given.items() if name not in read):
        near = difflib.get_close_matches(name, read, n=1, cutoff=0.8)
        if near or (known and f'"{name}"' not in source):
            hint = f" Did you mean {near[0]}?" if near else ""
            print(f"{name}={value}: neither RecBole nor {config['model']} reads this setting.{hint}", file=sys.stderr)
