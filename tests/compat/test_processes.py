"""Several processes: the numbers of one, and one checkpoint.

What only two real processes can show is shown by one pair of them (`process_runs.py`), whose clocks differ and whose
checkpoints are written slowly; it fails without any of the patches that it is for. The others are tested in place.
"""

import inspect
import pickle
from types import SimpleNamespace

import process_runs
import pytest
import torch

from recbole_glintru import plugin
from recbole_glintru.compat import process_shares

RANKS = 2


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
@pytest.mark.parametrize("name", [*plugin.announced_models(), process_runs.ACCELERATED])
def test_gradients_of_all_models_are_averaged(two, name):
    """A share each, in groups of similar length; both get the gradients of all rows, which are those without groups."""
    expected = process_runs.gradients(name)
    first, second = (outcomes["gradients"][name] for outcomes in two[1])
    assert expected.keys() == first.keys()
    for parameter, gradient in first.items():
        assert torch.equal(gradient, second[parameter])
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-4, atol=1e-6, msg=parameter)


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
    assert Trainer._map_reduce(trainer, dict(exact), 7) == exact
    averaged = inspect.unwrap(Trainer._map_reduce)(trainer, dict(exact), 7)
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
        shares = [process_shares.TrainingShare(n, generators[rank], rank, ranks) for rank in range(ranks)]
        rows = [list(share) for share in shares]
        assert {len(share) for share in shares} == {len(part) for part in rows} == {-(-n // ranks)}
        together = [row for step in zip(*rows) for row in step]
        assert together[:n] == order and set(together[n:]) <= set(order)
    shares = [process_shares.EvaluationShare(n, rank, ranks) for rank in range(ranks)]
    assert [row for share in shares for row in share] == list(range(n))
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]


@pytest.mark.parametrize("batch_size, ranks, rows", [(64, 2, None), (64, 3, 63), (2, 3, 3), (64, 1, None)])
def test_batches_that_cannot_be_those_of_one_process(
    tiny, workplace, caplog, group, monkeypatch, batch_size, ranks, rows
):
    """Rank 0 says so; the others would repeat it."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    config = Config(model="GLINTRU", dataset="ml-100k", config_dict={**tiny, "train_batch_size": batch_size})
    config.final_config_dict.update(single_spec=False, world_size=ranks)
    for rank in range(ranks):
        monkeypatch.setattr(process_shares, "_rank_and_ranks", lambda torch, rank=rank: (rank, ranks))
        caplog.clear()
        train_data, _, _ = data_preparation(config, create_dataset(config))
        said = [message for message in caplog.messages if "train_batch_size" in message]
        assert train_data.step == max(1, batch_size // ranks)
        assert len(said) == (rows is not None and rank == 0)
        assert not said or f"train_batch_size={batch_size}: " in said[0] and f"on {rows} rows at a time" in said[0]


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
