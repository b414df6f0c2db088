"""Each patch of defects.py: the break is there without it, and gone with it."""

import inspect

import pytest
import torch


def test_collector_takes_numbers(monkeypatch):
    from recbole.evaluator.collector import Collector, DataStruct

    def collector():
        self = Collector.__new__(Collector)
        self.config = {"single_spec": True}
        self.data_struct = DataStruct()
        self.data_struct.set("data.num_items", 7)
        self.data_struct.set("rec.items", torch.ones(2))
        return self

    self = collector()
    struct = self.get_data_struct()
    assert struct.get("data.num_items") == 7 and struct.get("rec.items").tolist() == [1, 1]
    assert "rec.items" not in self.data_struct and self.data_struct.get("data.num_items") == 7
    monkeypatch.setattr(Collector, "get_data_struct", inspect.unwrap(Collector.get_data_struct))  # of all its patches
    with pytest.raises(AttributeError, match="cpu"):
        collector().get_data_struct()


def test_only_named_parameters_are_loaded(monkeypatch):
    from recbole.model.abstract_recommender import AbstractRecommender

    class Model(AbstractRecommender):
        other_parameter_name = ["cache"]

    def loaded(para):
        model = Model.__new__(Model)
        model.load_other_parameter(para)
        return model

    assert loaded({"cache": 1}).cache == 1 and loaded(None) and loaded({})
    for para, named in [({"cache": 1, "forward": 2}, "forward"), ([("cache", 1)], "list")]:
        with pytest.raises(ValueError, match=f"other_parameter: Model saves no {named}"):
            loaded(para)
    plain = inspect.unwrap(AbstractRecommender.load_other_parameter)
    monkeypatch.setattr(AbstractRecommender, "load_other_parameter", plain)
    assert loaded({"forward": 2}).forward == 2


def test_teachers_are_named():
    """A setting of a checkpoint is not executed."""
    from recbole.model.context_aware_recommender import kd_dagfm

    assert kd_dagfm.eval("CrossNet") is kd_dagfm.CrossNet and kd_dagfm.eval("CIN") is kd_dagfm.CIN
    for teacher in ("__import__('os').getcwd()", "torch", "ContextRecommender"):
        with pytest.raises(ValueError, match="KD_DAGFM has no network of that name"):
            kd_dagfm.eval(teacher)
    assert "eval" in kd_dagfm.KD_DAGFM.__init__.__code__.co_names, "without the patch it evaluates the setting"


def test_beyond_accuracy_metrics(workplace, tiny):
    from recbole.quick_start import run_recbole

    settings = {**tiny, "metrics": ["ItemCoverage", "GiniIndex", "Recall", "AveragePopularity"]}
    settings.update(valid_metric="Recall@10", topk=10)
    result = run_recbole(model="GLINTRU", dataset="ml-100k", config_dict=settings, saved=False)["test_result"]
    assert 0 < result["itemcoverage@10"] <= 1


def test_download_needs_no_process_group(workplace, monkeypatch):
    """A download in one process; the network is not touched."""
    import recbole.data.dataset.dataset as dataset
    from recbole.config import Config

    def downloaded():
        data = dataset.Dataset.__new__(dataset.Dataset)
        data.config = Config(model="GLINTRU", dataset="ml-100k")
        data.dataset_name, data.dataset_path, data.logger = "mine", str(workplace / "mine"), dataset.getLogger()
        data._get_download_url = lambda suffix, allow_none=False: "http://nowhere.invalid/mine.zip"
        data._download()
        return (workplace / "mine").is_dir()

    for name in ("extract_zip", "rename_atomic_files"):
        monkeypatch.setattr(dataset, name, lambda *args: None)
    monkeypatch.setattr(dataset, "decide_download", lambda url: True)
    monkeypatch.setattr(dataset, "download_url", lambda url, folder: str(workplace / "mine.zip"))
    (workplace / "mine.zip").touch()
    assert downloaded()
    (workplace / "mine.zip").touch()
    monkeypatch.setattr(dataset, "torch", torch)
    with pytest.raises(ValueError, match="process group"):
        downloaded()


def test_negatives_follow_the_loss(workplace, monkeypatch):
    from recbole.config import Config

    assert Config(model="SASRec", dataset="ml-100k")["train_neg_sample_args"]["distribution"] == "none"
    bpr = Config(model="SASRec", dataset="ml-100k", config_dict={"loss_type": "BPR"})
    assert bpr["train_neg_sample_args"]["distribution"] == "uniform"
    general = Config(model="BPR", dataset="ml-100k")
    assert general["train_neg_sample_args"]["distribution"] == "uniform"
    with pytest.raises(ValueError, match="should be None"):  # the user's own contradiction
        Config(
            model="SASRec",
            dataset="ml-100k",
            config_dict={"train_neg_sample_args": {"distribution": "uniform"}},
        )
    without_patches = inspect.unwrap(Config._get_final_config_dict)
    monkeypatch.setattr(Config, "_get_final_config_dict", without_patches)
    with pytest.raises(ValueError, match="should be None"):
        Config(model="SASRec", dataset="ml-100k")


def test_named_columns_are_read(workplace, monkeypatch):
    """A data set of one's own, under RecBole's defaults: histories in the order of time, not of the file."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    (workplace / "dataset" / "own").mkdir(parents=True)
    rows = [f"u{user}\ti{item}\t{-item}\n" for user in range(9) for item in range(9)]
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    (workplace / "dataset" / "own" / "own.inter").write_text(header + "".join(rows))

    def train_data(**settings):
        negatives = {"train_neg_sample_args": None}  # that patch is undone with this one
        config = Config(model="SASRec", dataset="own", config_dict={**negatives, **settings})
        return data_preparation(config, create_dataset(config))[0].dataset

    data = train_data()
    longest = data.inter_feat["item_length"].argmax()
    assert data.id2token("item_id", data.inter_feat["item_id_list"][longest, :3]).tolist() == ["i8", "i7", "i6"]
    with pytest.raises(ValueError, match="timestamp"):
        train_data(load_col={"inter": ["user_id", "item_id"]})  # as the user wants it
    monkeypatch.setattr(Config, "_get_final_config_dict", inspect.unwrap(Config._get_final_config_dict))
    with pytest.raises(ValueError, match="timestamp"):
        train_data()


@pytest.mark.parametrize(
    "model, settings, columns",
    [
        ("BPR", {}, {"inter": ["user_id", "item_id"]}),
        ("BPR", {"eval_args": {"order": "TO"}}, {"inter": ["user_id", "item_id", "timestamp"]}),
        ("SASRec", {"USER_ID_FIELD": "u", "ITEM_ID_FIELD": "i", "TIME_FIELD": "t"}, {"inter": ["u", "i", "t"]}),
        (
            "KGAT",
            {"ITEM_ID_FIELD": "i"},
            {"inter": ["user_id", "i", "rating", "timestamp"], "link": ["i", "entity_id"]},
        ),
        ("SASRec", {"load_col": {"inter": ["user_id"]}, "ITEM_ID_FIELD": "i"}, {"inter": ["user_id"]}),
        ("SASRec", {"unload_col": {"inter": ["rating"]}}, None),
        ("BPR", {"unload_col": {"inter": ["rating"]}}, None),
        (
            "SASRec",
            {"load_col": {"inter": ["user_id"]}, "unload_col": {"item": ["class"]}},
            {"inter": ["user_id"]},
        ),
        ("SASRec", {"benchmark_filename": ["a", "b", "c"]}, {"inter": ["user_id", "item_id", "item_id_list"]}),
        (
            "SASRec",
            {"benchmark_filename": ["a", "b", "c"], "ITEM_ID_FIELD": "i", "LIST_SUFFIX": "s"},
            {"inter": ["user_id", "i", "is"]},
        ),
        ("BPR", {"benchmark_filename": ["a", "b", "c"]}, {"inter": ["user_id", "item_id"]}),
    ],
)
def test_which_columns_are_read(workplace, model, settings, columns):
    from recbole.config import Config

    read = Config(model=model, dataset="own", config_dict=settings)["load_col"]
    assert columns == (read and {file: read[file] for file in read if file != "kg"})


def test_a_data_set_of_recboles_may_have_all_columns_read(workplace, monkeypatch):
    from recbole.config import Config

    read = Config._update_internal_config_dict

    def without_columns(self, file):
        read(self, file)
        self.internal_config_dict["load_col"] = None

    monkeypatch.setattr(Config, "_update_internal_config_dict", without_columns)
    assert Config(model="SASRec", dataset="own")["load_col"] is None


def test_histories_have_the_items_name(workplace, monkeypatch):
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.data.dataset import SequentialDataset

    (workplace / "dataset" / "own").mkdir(parents=True)
    for part in ("a", "b", "c"):
        text = "user_id:token\titems:token_seq\titem:token\nu1\ti1 i2\ti3\n"
        (workplace / "dataset" / "own" / f"own.{part}.inter").write_text(text)
    settings = {"ITEM_ID_FIELD": "item", "LIST_SUFFIX": "s", "alias_of_item_id": ["items"]}
    config = Config(model="SASRec", dataset="own", config_dict={**settings, "benchmark_filename": ["a", "b", "c"]})
    assert create_dataset(config).inter_feat["item_length"].tolist() == [2, 2, 2]
    presets = inspect.unwrap(SequentialDataset._benchmark_presets)
    monkeypatch.setattr(SequentialDataset, "_benchmark_presets", presets)
    with pytest.raises(AttributeError, match="item_id_list_field"):
        create_dataset(config)


def test_anomaly_detection_stays(monkeypatch, fresh):
    name = "recbole.model.sequential_recommender.sine"
    import recbole.model.sequential_recommender  # noqa: F401

    assert not torch.is_anomaly_enabled()
    try:
        fresh(name)
        assert not torch.is_anomaly_enabled()
        with torch.autograd.detect_anomaly(check_nan=False):
            fresh(name)
            assert torch.is_anomaly_enabled() and not torch.is_anomaly_check_nan_enabled()
        fresh(name, without="anomaly_detection_stays")
        assert torch.is_anomaly_enabled()
    finally:
        torch.autograd.set_detect_anomaly(False)
