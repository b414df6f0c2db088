"""How several processes meet, and which options are refused before any of them is started."""

import datetime
import inspect
import os
import socket
from types import SimpleNamespace

import process_runs
import pytest
import torch

from recbole_glintru.compat import processes
from recbole_glintru.launch import process_options

MEMBERS = {"local_rank": 0, "nproc": 2, "world_size": 2, "ip": "localhost", "port": 5678, "offset": 0}


# --------------------------------------------------------------------------------------------------- the meeting


@pytest.fixture
def config(workplace):
    """RecBole's settings before a device has been chosen."""
    from recbole.config import Config

    def make(**settings):
        config = Config(model="GLINTRU", dataset="ml-100k", config_dict=process_runs.COMMON)
        config.final_config_dict.update(MEMBERS, **settings)
        return config

    return make


@pytest.fixture
def meeting(monkeypatch):
    """Records how processes would meet, without waiting for the others."""
    met = {}
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **how: met.update(how))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: met.update(device=device))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: met.update(threads=number))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(processes, "_GROUPS", [])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return met


def test_processes_meet_on_cpus(config, meeting, monkeypatch):
    settings = config(local_rank=1, offset=2, world_size=4, process_timeout=7)
    settings._init_device()
    assert (meeting["backend"], meeting["rank"], meeting["world_size"]) == ("gloo", 3, 4)
    assert meeting["timeout"] == datetime.timedelta(seconds=7) and meeting["init_method"] == "tcp://localhost:5678"
    assert settings["device"].type == "cpu" and settings["single_spec"] is False and meeting["threads"] == 2
    assert settings["state"] == "error" and settings["verbose"] is False  # rank 0 alone speaks on each host
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    del meeting["threads"]
    config()._init_device()
    assert "threads" not in meeting
    with pytest.raises(AssertionError):
        inspect.unwrap(type(settings)._init_device)(config())


@pytest.mark.parametrize("gpu_id, named", [("0", "0"), ((4, 6), "4,6"), ([4, 6], "4,6"), (3, "3")])
def test_one_process(config, meeting, monkeypatch, gpu_id, named):
    """A list comes from a YAML file; `use_gpu: False` holds without `--nproc` too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for use_gpu, device in ((True, "cuda"), (False, "cpu")):
        settings = config(gpu_id=gpu_id, use_gpu=use_gpu)
        del settings.final_config_dict["local_rank"]
        settings._init_device()
        assert settings["device"].type == device and settings["single_spec"] is True
        assert settings["gpu_id"] == os.environ["CUDA_VISIBLE_DEVICES"] == named


def test_processes_meet_on_gpus(config, meeting, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    settings = config(local_rank=1, gpu_id=[4, 6])
    settings._init_device()
    assert (meeting["backend"], meeting["device"], meeting["timeout"].total_seconds()) == ("nccl", 1, 600)
    assert settings["device"] == torch.device("cuda", 1) and settings["gpu_id"] == "4,6" and "threads" not in meeting
    for on_cpus in ({"gpu_id": ""}, {"gpu_id": "0,1", "use_gpu": False}):
        config(**on_cpus)._init_device()
        assert meeting["backend"] == "gloo"
    with pytest.raises(ValueError, match="gpu_id='0': 1 GPU for 2 processes"):
        config(gpu_id=0)._init_device()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="gpu_id='0,1': 1 GPU for 2 processes"):
        config(gpu_id="0,1")._init_device()


@pytest.mark.parametrize("value", ["soon", 0, True])
def test_a_wrong_timeout_is_refused(workplace, value):
    from recbole.config import Config

    with pytest.raises(ValueError, match="process_timeout"):
        Config(model="GLINTRU", dataset="ml-100k", config_dict={"process_timeout": value})


# ------------------------------------------------------------------------------------------------ the options


def options(**changes):
    return SimpleNamespace(**{"nproc": 1, "world_size": -1, "group_offset": 0, "port": None, **changes})


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"nproc": 0}, "--nproc=0"),
        ({"nproc": 2, "world_size": 0}, "--world_size=0"),
        ({"nproc": 3, "world_size": 2}, "--group_offset=0.*--nproc=3.*2 processes"),
        ({"nproc": 2, "group_offset": 1}, "--group_offset=1"),
        ({"nproc": 2, "world_size": 4, "group_offset": -1}, "--group_offset=-1"),
        ({"port": 65536}, "--port=65536"),
    ],
)
def test_wrong_options_are_refused(wrong, named):
    process_options.check(options())
    process_options.check(options(nproc=2, world_size=4, group_offset=2, port=6000))
    with pytest.raises(ValueError, match=named):
        process_options.check(options(**wrong))


def test_ports(config, meeting):
    """A free one for one host, the user's where it is free, RecBole's for several hosts."""
    settings = config()
    assert process_options.port(options(), settings) == "5678"
    free = int(process_options.port(options(nproc=2), settings))
    assert 1024 <= free <= 65535 and process_options.port(options(nproc=2, port=free), settings) == str(free)
    assert process_options.port(options(nproc=2, world_size=4, group_offset=2), settings) == "5678"
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port={number}: cannot be listened on"):
            process_options.port(options(nproc=2, port=number), settings)
        elsewhere = options(nproc=2, world_size=4, group_offset=2, port=number)
        assert process_options.port(elsewhere, settings) == str(number)  # the port of another host


def test_too_few_gpus_are_told_beforehand(config, meeting, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="gpu_id='0': 1 GPU for 2 processes"):
        process_options.port(options(nproc=2), config())
