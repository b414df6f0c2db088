"""The command line: train and evaluate one model on one data set, under the paper's protocol if it has one.

Settings come in this order, each above the one before: RecBole's defaults; the model's own YAML; the protocol
of the data set, first what it says of all models, then what it says of this one; the user's `--config_files`;
the user's `--key=value`. RecBole merges them: the protocol is the first of the files that it is handed.
"""

import argparse
import contextlib
import shutil
import sys
import urllib.error
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import yaml

from recbole_glintru import launcher_help, plugin, process_failures, process_options, protocol
from recbole_glintru.settings import raised_by_a_setting

MODEL, DATASET = "GLINTRU", "ml-100k"  # unless the user names others
USAGE = "run_recbole.py [--model=MODEL] [--dataset=DATASET] [--config_files='A.yaml B.yaml'] [--key=value ...]"


class UserError(Exception):
    """What the user can put right: it ends the program with its message alone, without a traceback."""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command line, `sys.argv` unless `arguments` are given, and return the exit status.

    0 is a finished run or a help text, 2 a mistake of the user's, named on stderr. All else is raised.
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


@contextlib.contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn the exceptions of these kinds that the block raises into UserError."""
    try:
        yield
    except kinds as error:
        raise UserError(str(error)) from None


# ------------------------------------------------------------------------------------------ the command line


class Parser(argparse.ArgumentParser):
    """The options that every command has: which model, which data, which settings. A mistake is a UserError."""

    def __init__(self, usage: str):
        super().__init__(usage=usage, add_help=False, allow_abbrev=False)
        self.add_argument("--help", "-h", action="store_true")
        self.add_argument("--model", "-m")
        self.add_argument("--dataset", "-d")
        self.add_argument("--config_files", default="")
        self.add_argument("--protocol")

    def error(self, message):
        raise UserError(f"{message}\nusage: {self.usage}")


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The launcher's own options, and the settings `--key=value` or `--key value`, which are for RecBole.

    Raises:
        UserError: an argument is no setting, has no value, or is given twice with different values.
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


def parse_settings(words: list[str], usage: str) -> dict[str, str]:
    """The settings `--key=value` or `--key value`, as they are written.

    Raises:
        UserError: a word is no setting, has no value, or is given twice with different values.
    """
    words, settings = list(words), {}
    while words:
        word = words.pop(0)
        key, equals, value = word.partition("=")
        if not key.startswith("--") or key == "--":
            raise UserError(f"'{word}' is no setting. Settings are written --key=value.\nusage: {usage}")
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"{key} has no value. Settings are written --key=value.")
            value = words.pop(0)
        if "=" in value:  # RecBole leaves such an argument out, with a warning
            raise UserError(
                f"{key}: RecBole reads no value with '=' in it here; put it into a file for --config_files."
            )
        if settings.setdefault(key[2:], value) != value:
            raise UserError(f"{key} is given twice: {settings[key[2:]]} and {value}.")
    return settings


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


def help_text(options: argparse.Namespace) -> str:
    """The help of the command, or with `--model` that of the model's settings.

    Raises:
        UserError: there is no such model or no such protocol.
    """
    if options.model is None:
        return launcher_help.command_help(USAGE, MODEL, DATASET)
    with user_errors(ValueError):
        return launcher_help.model_help(options.model, protocol.choose(options.protocol, options.dataset or ""))


# --------------------------------------------------------------------------------------------------- the run


def run(options: argparse.Namespace, settings: dict[str, str]) -> Optional[dict[str, Any]]:
    """Train and evaluate, by `recbole.quick_start.run`, and return what it returns.

    Raises:
        UserError: the model, the data set or a setting is wrong.
    """
    model, dataset, applied = choose(options)
    arguments = [f"--{key}={value}" for key, value in {"model": model, "dataset": dataset, **settings}.items()]
    with protocol.as_config_files(applied, model) as protocol_files, command_line(arguments):
        files = protocol_files + options.config_files.split()
        config = merged_settings(model, dataset, files)
        with user_errors(ValueError):
            port = process_options.port(options, config)
        find_data(config)
        from recbole.quick_start import run as run_by_recbole

        try:
            return run_by_recbole(
                model,
                dataset,
                config_file_list=files,
                nproc=options.nproc,
                world_size=options.world_size,
                ip=options.ip,
                port=port,
                group_offset=options.group_offset,
            )
        except process_failures.SettingRefused as error:  # by the model of a process
            raise UserError(str(error)) from None
        except ValueError as error:
            if raised_by_a_setting(error):
                raise UserError(str(error)) from None
            raise


def choose(options: argparse.Namespace) -> tuple[str, str, Optional[str]]:
    """The model, the data set, and the protocol to apply, which is told on stderr; all three by name.

    Raises:
        UserError: there is no such model or protocol, or a file of `--config_files` cannot be read.
    """
    files = options.config_files.split()
    from_files = {key: value for file in files for key, value in read_settings_file(file).items()}
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
        return Config(model=model, dataset=dataset, config_file_list=files, config_dict=above)


# -------------------------------------------------------------------------------------------------- the data


def find_data(config) -> None:
    """See that the interactions are where RecBole will look, and download them where it knows an address.

    RecBole would download by itself; but then a single process ends in `Default process group has not been
    initialized` (its issues 1989, 2050), and a broken connection leaves a folder behind that passes for data.

    Raises:
        UserError: the data is not there and cannot be had. The message says where it was looked for.
    """
    from recbole.utils import ModelType

    name, folder, parts = config["dataset"], Path(config["data_path"]), config["benchmark_filename"]
    files = [folder / f"{name}.inter"] if parts is None else [folder / f"{name}.{part}.inter" for part in parts]
    saved = config["dataset_save_path"] or any(Path(config["checkpoint_dir"]).glob(f"{name}-*Dataset.pth"))
    if saved or all(file.is_file() for file in files):
        return
    looked_for = f"no data for '{name}': looked for {', '.join(str(file.resolve()) for file in files)}"
    remedy = f"Put the data there, or name the folder that holds {name}/ with --data_path=DIR."
    if folder.exists():
        raise UserError(f"{looked_for}; the folder is there, the data is not. {remedy}")
    addresses = yaml.safe_load((plugin.properties("recbole") / "dataset" / "url.yaml").read_text("utf-8"))
    if name not in addresses:
        raise UserError(f"{looked_for}, and RecBole knows no download of that name. {remedy}")
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        return  # for these models RecBole downloads a knowledge graph too
    try:
        download(name, addresses[name], folder)
    except (
        OSError,
        zipfile.BadZipFile,
        RuntimeError,
    ) as error:  # RuntimeError: RecBole's, of a broken connection
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UserError(f"{looked_for}; the download of {addresses[name]} failed: {reason}. {remedy}") from None


def download(name: str, address: str, folder: Path) -> None:
    """Make `folder` from RecBole's archive of the data set `name`, whole or not at all.

    Raises:
        OSError, BadZipFile, RuntimeError: the download failed.
        UserError: it has more than 1 GB, and the user declined.
    """
    from recbole.utils import url

    if not url.decide_download(address):
        raise UserError(f"'{name}' was not downloaded.")
    print(f"Downloading {address} to {folder.resolve()}", file=sys.stderr)
    try:
        archive = Path(url.download_url(address, str(folder)))
        url.extract_zip(str(archive), str(folder))
        archive.unlink()
        url.rename_atomic_files(str(folder), archive.stem, name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
