import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from recbole.config import Config

from recbole_glintru.launch import command


@pytest.fixture
def away_from_the_network(monkeypatch, tmp_path):
    """In an empty folder, too: RecBole writes and looks for files where it is started."""

    def refuse(*args, **kwargs):
        raise socket.gaierror("no network in the tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def launch(monkeypatch, away_from_the_network):
    """Run the command line; instead of training, RecBole's settings are merged and recorded."""
    from recbole import quick_start  # not before recbole_glintru, which lets it be imported without Ray

    def run(*arguments, then=lambda recorded: None):
        recorded = SimpleNamespace(ran=False)

        def record(model, dataset, config_file_list, config_dict, **processes):
            recorded.above = config_dict
            recorded.ran, recorded.argv, recorded.processes = True, sys.argv[1:], processes
            recorded.files = [Path(file) for file in config_file_list]
            recorded.were_there = all(file.is_file() for file in recorded.files)
            recorded.config = Config(model=model, dataset=dataset, config_file_list=config_file_list)
            then(recorded)

        monkeypatch.setattr(quick_start, "run", record)
        recorded.status = command.main(list(arguments))
        return recorded

    return run
