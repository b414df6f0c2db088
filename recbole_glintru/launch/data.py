"""The data set on disk: found before the run starts, or downloaded if RecBole has an address for it."""

import shutil
import sys
import urllib.error
import zipfile
from pathlib import Path

import yaml

from recbole_glintru import plugin
from recbole_glintru.launch import columns
from recbole_glintru.launch.errors import UserError


def find_data(config) -> None:
    """Check that the interactions are where RecBole will look, or download them, and check their columns.

    RecBole would download by itself, but then a broken connection leaves a folder behind that it takes for the data.

    Raises:
        UserError: the data were not found and cannot be downloaded (the message says where), or lack a column.
    """
    name, folder, parts = config["dataset"], Path(config["data_path"]), config["benchmark_filename"]
    files = [folder / f"{name}.inter"] if parts is None else [folder / f"{name}.{part}.inter" for part in parts]
    saved = config["dataset_save_path"]  # RecBole's, already filtered
    by_default = Path(config["checkpoint_dir"]).glob("*-*Dataset.pth")
    if Path(saved).exists() if saved else any(file.stem.rpartition("-")[0] == name for file in by_default):
        return
    if not all(file.is_file() for file in files):
        _have_downloaded(config, name, folder, files)
    if all(map(Path.is_file, files)):  # RecBole's own download, for some models, comes later
        columns.check(config, files)


def _have_downloaded(config, name: str, folder: Path, files: list[Path]) -> None:
    from recbole.utils import ModelType

    looked_for = f"no data for '{name}': looked for {', '.join(str(file.resolve()) for file in files)}"
    remedy = f"Put the data there, or name the folder that holds {name}/ with --data_path=DIR."
    if folder.exists():
        raise UserError(f"{looked_for}; the folder exists, but not the data. {remedy}")
    addresses = yaml.safe_load((plugin.properties("recbole") / "dataset" / "url.yaml").read_text("utf-8"))
    if name not in addresses:
        raise UserError(f"{looked_for}, and RecBole has no download of that name. {remedy}")
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        return  # for these models RecBole also downloads a knowledge graph
    try:
        download(name, addresses[name], folder)
    except (
        OSError,
        zipfile.BadZipFile,
        RuntimeError,
    ) as error:  # RuntimeError: RecBole's, for a broken connection
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UserError(f"{looked_for}; the download of {addresses[name]} failed: {reason}. {remedy}") from None


def download(name: str, address: str, folder: Path) -> None:
    """Create `folder` from RecBole's archive of the data set `name`, completely or not at all.

    Raises:
        OSError, BadZipFile, RuntimeError: the download failed.
        UserError: it is larger than 1 GB, and the user declined or cannot be asked.
    """
    from recbole.utils import url

    try:
        agreed = url.decide_download(address)
    except EOFError:  # no standard input, as under nohup
        asks = "RecBole asks before it downloads more than 1 GB, and got no answer (`echo y | ...` gives one)"
        raise UserError(f"'{name}' was not downloaded: {asks}.") from None
    if not agreed:
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
