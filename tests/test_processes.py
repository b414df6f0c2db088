"""Several processes: the numbers of one, one checkpoint, and an end that names the rank when one of them dies.

What only two real processes can show is shown by one pair of them (`process_runs.py`), whose clocks differ and whose
checkpoints are written slowly; it fails without any of the mends that it is for. The others are tested in place.
"""

import datetime
import inspect
import pickle
import socket
import time
from types import SimpleNamespace

import process_runs
import pytest
import torch

from recbole_glintru import compat_processes, compat_shares, plugin, process_failures, process_options

RANKS = 2
MEMBERS = {"local_rank": 0, "nproc": 2, "world_size": 2, "ip": "localhost", "port": 5678, "offset": 0}


# ------------------------------------------------------------------------------------- two processes, and one


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What `process_runs.RUNS` come to in a single process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("one"))
        patch.setattr("sys.argv", ["one"])
        return {run: process_runs.train_and_evaluate(run) for run in process_runs.RUNS}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What they come to in each of two, with the folder that these ran in."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("two")
        patch.chdir(folder)
        patch.setattr("sys.argv", ["two"])
        ports = {run: process_runs.free_port() for run in [*process_runs.RUNS, "gradients"]}
        torch.multiprocessing.spawn(process_runs.train_in_process, (RANKS, ports), nprocs=RANKS)
    return folder, [torch.load(folder / f"rank-{rank}", weights_only=False) for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize("run", process_runs.RUNS)
def test_training_is_that_of_one_process(one, two, run):
    """Losses and parameters are the same up to the order of the sums, 1e-7 of the losses a step."""
    for outcomes in two[1]:
        assert outcomes[run]["losses"] == pytest.approx(one[run]["losses"], rel=1e-6)
        for name, parameter in one[run]["state"].items():
            torch.testing.assert_close(outcomes[run]["state"][name], parameter, rtol=0, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("run", process_runs.RUNS)
def test_parameters_are_equal_across_ranks(two, run):
    first, second = (outcomes[run]["state"] for outcomes in two[1])
    assert all(torch.equal(parameter, second[name]) for name, parameter in first.items())


@pytest.mark.slow
@pytest.mark.parametrize("run", process_runs.RUNS)
def test_metrics_are_those_of_one_process(one, two, run):
    """On every rank, of all metrics, plain means or not; sampled candidates are the same ones."""
    for outcomes in two[1]:
        for phase in ("valid", "test"):
            assert outcomes[run][phase] == pytest.approx(one[run][phase], abs=2e-6)  # RecBole rounds to 7 decimals


@pytest.mark.slow
def test_recboles_average_is_something_else(one, two):
    """121 users, two ranks: RecBole counts one twice, and averages what is no mean."""
    exact, averaged = two[1][0]["full"]["test"], two[1][0]["full"]["recbole"]
    assert one["full"]["recbole"] == one["full"]["test"]  # with one process there is nothing to be averaged
    assert abs(averaged["itemcoverage@10"] - exact["itemcoverage@10"]) > 0.01
    assert averaged["ndcg@10"] != pytest.approx(exact["ndcg@10"], abs=2e-6)


@pytest.mark.slow
def test_there_is_one_checkpoint(two, monkeypatch):
    """Under the name that rank 0 has given it; a single process can go on with it."""
    from recbole.quick_start import load_data_and_model

    folder, outcomes = two
    assert [file.name for file in (folder / "saved").iterdir()] == ["GLINTRU-clock-0.pth"]
    assert {outcome[run]["checkpoint"] for outcome in outcomes for run in process_runs.RUNS} == {
        "saved/GLINTRU-clock-0.pth"
    }
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["two"])
    config, model, *_ = load_data_and_model("saved/GLINTRU-clock-0.pth")
    assert config["single_spec"] and config["world_size"] is None
    last = list(process_runs.RUNS)[-1]
    for name, parameter in model.state_dict().items():
        assert torch.equal(parameter, outcomes[0][last]["state"][name]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", plugin.announced_models())
def test_gradients_of_all_models_are_averaged(two, name):
    """A share each, and the gradients of all rows on both."""
    expected = process_runs.gradients(name)
    for outcomes in two[1]:
        for parameter, gradient in outcomes["gradients"][name].items():
            torch.testing.assert_close(gradient, expected[parameter], rtol=1e-4, atol=1e-6, msg=parameter)


# ------------------------------------------------------------------------------------------- when a rank dies


@pytest.fixture
def fail(workplace, monkeypatch):
    """Train a model that comes to its end in rank 1; its name is announced by a distribution of its own."""
    info = workplace / "process_runs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: process_runs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recbole.models]\nFailing = process_runs:Failing\n")
    monkeypatch.syspath_prepend(str(workplace))
    plugin.announced_models.cache_clear()

    def run(failure, **settings):
        from recbole.quick_start import run

        settings = {**process_runs.COMMON, **process_runs.RUNS["full"], "failure": failure, **settings}
        start = time.monotonic()
        with pytest.raises(process_failures.RankFailed) as error:
            run("Failing", "ml-100k", config_dict=settings, nproc=RANKS, port=str(process_runs.free_port()))
        assert time.monotonic() - start < 180  # a gloo group waits 30 minutes, unless it is told otherwise
        return str(error.value)

    yield run
    plugin.announced_models.cache_clear()


@pytest.mark.slow
def test_an_error_names_its_rank(fail):
    assert "rank 1 of 2 failed: ArithmeticError: the model has had enough" in fail("error")


@pytest.mark.slow
def test_a_killed_process_is_named(fail):
    """By whoever ends first: the parent, which sees the signal, or rank 0, which gets no answer."""
    message = fail("killed")
    assert "rank 1 has ended without a word: SIGKILL" in message or "no answer from rank 1 of 2" in message


@pytest.mark.slow
def test_a_hanging_process_is_named(fail):
    assert "no answer from rank 1 of 2 (noticed by rank 0" in fail("hanging", process_timeout=15)


class Store(dict):
    """A store of PyTorch's, in this process."""

    def check(self, keys):
        return all(key in self for key in keys)

    def set(self, key, value):
        self[key] = value.encode()


LOST = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234")


@pytest.mark.parametrize(
    "rank, store, error, message",
    [
        (1, None, OSError("no disk"), "rank 1 of 3 failed: OSError: no disk"),
        (1, Store(), OSError("no disk"), "rank 1 of 3 failed: OSError: no disk"),
        (0, Store({"failed/2": b"OSError: no disk"}), LOST, "rank 2 of 3 failed: OSError: no disk (noticed by rank 0"),
        (0, Store({"left/2": b""}), LOST, "no answer from rank 1 of 3 (noticed by rank 0"),
        (0, Store({"left/1": b"", "left/2": b""}), LOST, "the 3 ranks have lost their connection, all of them being"),
        (2, SimpleNamespace(), LOST, "rank 0 of 3, which keeps the list of the ranks, has ended (noticed by rank 2"),
    ],
)
def test_last_words(monkeypatch, rank, store, error, message):
    for constant in ("ROLL_CALL", "LINGER"):
        monkeypatch.setattr(process_failures, constant, 0.0)
    monkeypatch.setattr(process_failures, "_store", lambda: store)
    assert process_failures._last_words(rank, 3, error).startswith(message)
    assert store is None or error is LOST or store["failed/1"] == b"OSError: no disk"


def test_there_is_no_store_before_the_processes_have_met():
    assert process_failures._store() is None


def test_a_started_process_is_told_its_name(monkeypatch):
    """And has nothing left of an error of the processes that RecBole's own function would raise."""
    from recbole.quick_start import quick_start

    assert quick_start.run_recboles is process_failures.run_process

    def run_recboles(local_rank, *args):
        raise ValueError("n_heads=3: must be a divisor")

    monkeypatch.setattr(process_failures.run_process, "__wrapped__", run_recboles)
    kwargs = {"config_dict": {"offset": 2, "world_size": 4}}
    with pytest.raises(process_failures.RankFailed, match="rank 3 of 4 failed: ValueError: n_heads=3"):
        process_failures.run_process(1, "GLINTRU", "ml-100k", None, kwargs)


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
    monkeypatch.setattr(compat_processes, "_GROUPS", [])
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


def test_processes_meet_on_gpus(config, meeting, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    settings = config(local_rank=1, gpu_id=(4, 6))
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


# ---------------------------------------------------------------------------------------------- a group of one


@pytest.fixture
def group():
    """A gloo group whose only process is this one."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_models_on_cpus_are_distributed(group):
    """A BatchNorm stays what it is."""
    from recbole.trainer.trainer import AbstractTrainer

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    settings = process_runs.Settings(single_spec=False, device=torch.device("cpu"), local_rank=0)
    trainer = AbstractTrainer(settings, model)
    trainer.distributed_model(torch.ones(3, 2)).sum().backward()
    assert trainer.model is model and model[0].weight.grad is not None
    with pytest.raises(ValueError, match="device_ids"):
        inspect.unwrap(AbstractTrainer.__init__)(trainer, settings, model)


def test_metrics_stand_as_they_are(group):
    """RecBole's own average of one value is another one."""
    from recbole.trainer import Trainer

    trainer = SimpleNamespace(device="cpu", config={"world_size": 1, "metric_decimal_place": 4})
    exact = {"averagepopularity@10": 3001.1237, "gauc": 0.123456789}
    assert Trainer._map_reduce(trainer, dict(exact), 3) == exact
    averaged = inspect.unwrap(Trainer._map_reduce)(trainer, dict(exact), 3)
    assert all(averaged[key] != exact[key] for key in exact)


def test_folders_may_be_there(tmp_path, monkeypatch):
    """Another process makes the folder between RecBole's look and its own attempt."""
    from recbole.utils import ensure_dir, utils

    ensure_dir(str(tmp_path / "new"))
    assert (tmp_path / "new").is_dir() and utils.ensure_dir is ensure_dir
    monkeypatch.setattr(utils.os.path, "exists", lambda path: False)
    ensure_dir(str(tmp_path))
    with pytest.raises(FileExistsError):
        inspect.unwrap(ensure_dir)(str(tmp_path))


def test_datasets_are_saved_whole(group, workplace, monkeypatch):
    """Nobody finds a file under the name before it is complete."""
    from recbole.data.dataset import dataset

    def saved_by(save):
        found = []

        def dump(value, stream):
            found.extend(file.name for file in (workplace / "saved").glob("*.pth"))
            pickle.dump(7, stream)

        monkeypatch.setattr(dataset, "pickle", SimpleNamespace(dump=dump))
        data = dataset.Dataset.__new__(dataset.Dataset)
        data.config = {"single_spec": False, "dataset": "ml-100k", "checkpoint_dir": "saved"}
        data.logger = dataset.getLogger()
        save(data)
        assert pickle.loads((workplace / "saved" / "ml-100k-Dataset.pth").read_bytes()) == 7
        for file in (workplace / "saved").iterdir():
            file.unlink()
        return found

    assert saved_by(dataset.Dataset.save) == []
    assert saved_by(inspect.unwrap(dataset.Dataset.save)) == ["ml-100k-Dataset.pth"]


# ------------------------------------------------------------------------------------------------------ shares


@pytest.mark.parametrize("n, ranks", [(10, 2), (11, 2), (11, 3), (2, 4), (1, 2)])
def test_shares(n, ranks):
    """Training: batch k of all ranks is batch k of one process, repeated rows at the end. Evaluation: each row once."""
    generators = [torch.Generator().manual_seed(3) for _ in range(ranks + 1)]
    for _ in range(2):  # epochs
        order = list(torch.utils.data.RandomSampler(range(n), generator=generators[-1]))
        shares = [compat_shares.TrainingShare(n, generators[rank], rank, ranks) for rank in range(ranks)]
        rows = [list(share) for share in shares]
        assert {len(share) for share in shares} == {len(part) for part in rows} == {-(-n // ranks)}
        together = [row for step in zip(*rows) for row in step]
        assert together[:n] == order and set(together[n:]) <= set(order)
    shares = [compat_shares.EvaluationShare(n, rank, ranks) for rank in range(ranks)]
    assert [row for share in shares for row in share] == list(range(n))
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]


def test_a_rank_without_rows_evaluates_too():
    """It would wait for nobody, and the others for it: RecBole skips loaders that are false."""
    from recbole.data.dataloader import general_dataloader

    for loader_class in (general_dataloader.FullSortEvalDataLoader, general_dataloader.NegSampleEvalDataLoader):
        loader = loader_class.__new__(loader_class)
        vars(loader).update(sample_size=1, batch_sampler=[], _dataset_kind=0)
        assert len(loader) == 0 and bool(loader)
        vars(loader).update(sample_size=0)
        assert not loader


def test_loaders_are_not_shared(workplace, tiny, monkeypatch):
    """What a single process has saved is no share; nor is a share saved for another."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation, utils

    config = Config(model="GLINTRU", dataset="ml-100k", config_dict={**tiny, "save_dataloaders": True})
    loaders = data_preparation(config, create_dataset(config))
    assert len(utils.load_split_dataloaders(config)) == 3
    config["single_spec"] = False
    assert utils.load_split_dataloaders(config) is None
    assert inspect.unwrap(utils.load_split_dataloaders)(config) is not None
    (file,) = (workplace / "saved").iterdir()
    file.unlink()
    utils.save_split_dataloaders(config, loaders)
    assert not file.exists()
