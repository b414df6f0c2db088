"""The protocol files against the paper (section 4.3, table 5, appendix B), and in RecBole's hands."""

import pytest
import yaml
from recbole.config import Config
from recbole.data import create_dataset
from recbole.utils import general_arguments, training_arguments

from recbole_glintru import plugin
from recbole_glintru.launch import protocol

PAPER = ["ml-1m", "amazon-beauty", "amazon-video-games"]
ALL = [*PAPER, "ml-100k"]
LENGTH = {"ml-1m": 200, "amazon-beauty": 100, "amazon-video-games": 100, "ml-100k": 50}
WIDTH = {"ml-1m": 128, "amazon-beauty": 64, "amazon-video-games": 64, "ml-100k": 64}
DROPOUT = {"ml-1m": 0.2, "amazon-beauty": 0.5, "amazon-video-games": 0.5, "ml-100k": 0.2}
FEATURES = {
    "ml-1m": ["genre", "movie_title", "release_year"],
    "amazon-beauty": ["categories", "brand"],
    "amazon-video-games": ["categories", "brand"],
    "ml-100k": ["class", "movie_title", "release_year"],
}
LAYERS = {
    "GLINTRU": {
        "n_layers": 1,
        "n_heads": 8,
        "kernel_size": 3,
        "gate_dropout_prob": 0.3,
        "mlp_dropout_prob": 0.3,
    },
    "GRU4Rec": {"num_layers": 2},
    "NARM": {"n_layers": 1},
    "SASRec": {"n_layers": 2, "n_heads": 8, "inner_size": 256},
    "BERT4Rec": {"n_layers": 2, "n_heads": 8, "inner_size": 256, "mask_ratio": 0.2},
    "LightSANs": {"n_layers": 2, "n_heads": 8, "inner_size": 256, "k_interests": 5},
    "LinRec": {"n_layers": 2, "n_heads": 8, "inner_size": 256},
    "Mamba4Rec": {"n_layers": 2, "expand": 2, "d_conv": 3},
    "SMLP4Rec": {"n_layers": 2, "expansion": 1},
}
RECBOLES_OWN = ["GRU4Rec", "NARM", "SASRec", "BERT4Rec", "LightSANs"]


@pytest.fixture(autouse=True)
def no_command_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["run_recbole.py"])


def merged(name, model, **settings):
    """RecBole's settings for a model under a protocol."""
    with protocol.as_config_files(name, model) as files:
        return Config(model=model, dataset=name, config_file_list=files, config_dict=settings)


def test_the_papers_data_sets_and_the_bundled_one_have_a_protocol():
    assert sorted(protocol.files()) == sorted(ALL)


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("model", LAYERS)
def test_training_and_evaluation_are_the_papers_for_every_model(name, model):
    settings = protocol.settings(name, model)
    assert settings["eval_args"] == {
        "split": {"LS": "valid_and_test"},
        "order": "TO",
        "group_by": "user",
        "mode": {"valid": "pop100", "test": "pop100"},
    }
    expected = {
        "metrics": ["Recall", "MRR", "NDCG"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "train_batch_size": 2048,
        "eval_batch_size": 2048,
        "learner": "adam",
        "learning_rate": 0.001,
        "weight_decay": 0.0,
        "epochs": 200,
        "stopping_step": 10,
        "seed": 666,
        "MAX_ITEM_LIST_LENGTH": LENGTH[name],
    }
    assert {key: settings[key] for key in expected} == expected
    assert "train_neg_sample_args" not in settings  # follows the loss, RecBole-wide


def test_the_bundled_data_set_is_evaluated_as_the_papers():
    paper, bundled = protocol.settings("ml-1m", "GLINTRU"), protocol.settings("ml-100k", "GLINTRU")
    chosen = {"load_col", "normalize_all", "MAX_ITEM_LIST_LENGTH", "hidden_size", "embedding_size"}
    chosen |= {"train_batch_size", "epochs"}
    assert {key for key in {*paper, *bundled} if paper.get(key) != bundled.get(key)} == chosen


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("model", ["GLINTRU", *RECBOLES_OWN])
def test_recbole_runs_a_model_with_the_papers_sizes(name, model):
    config = merged(name, model)
    expected = {"hidden_size": WIDTH[name], "MAX_ITEM_LIST_LENGTH": LENGTH[name], **LAYERS[model]}
    own = yaml.safe_load(settings_file(model).read_text())
    if "embedding_size" in own:
        expected["embedding_size"] = WIDTH[name]
    shared_dropouts = {"dropout_prob", "hidden_dropout_prob", "attn_dropout_prob", "embedding_dropout_prob"}
    expected.update({key: DROPOUT[name] for key in shared_dropouts if key in own})
    if "dropout_probs" in own:
        expected["dropout_probs"] = [DROPOUT[name], DROPOUT[name]]
    assert {key: config[key] for key in expected} == expected
    assert config["valid_neg_sample_args"] == {"distribution": "popularity", "sample_num": 100}
    assert config["test_neg_sample_args"] == {"distribution": "popularity", "sample_num": 100}
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"} and config["eval_args"]["order"] == "TO"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("model", ["LinRec", "Mamba4Rec", "SMLP4Rec"])
def test_the_packages_baselines_have_the_papers_layers(name, model):
    settings = protocol.settings(name, model)
    assert {key: settings[key] for key in LAYERS[model]} == LAYERS[model]
    assert settings["hidden_size"] == WIDTH[name]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("model", ["FMLPRec", "LRURec"])
def test_feed_forward_networks_are_four_times_as_wide_as_the_rest(name, model):
    config = merged(name, model)
    assert config["inner_size"] == 4 * config["hidden_size"]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("model", ["SMLP4Rec", "MLP4Rec"])
def test_item_features_are_read_for_the_models_that_use_them_alone(name, model):
    settings = protocol.settings(name, model)
    assert sorted(settings["selected_features"]) == sorted(FEATURES[name])
    assert sorted(settings["load_col"]["item"]) == sorted(["item_id", *FEATURES[name]])
    assert settings["load_col"]["inter"] == ["user_id", "item_id", "timestamp"]
    assert "item" not in protocol.settings(name, "SASRec").get("load_col", {})


def settings_file(model):
    package = "recbole_glintru" if model in plugin.announced_models() else "recbole"
    return plugin.properties(package) / "model" / f"{model}.yaml"


def known_to_recbole():
    files = [plugin.properties("recbole") / file for file in ["overall.yaml", "dataset/sample.yaml"]]
    return {
        *general_arguments,
        *training_arguments,
        *(key for file in files for key in yaml.safe_load(file.read_text())),
    }


@pytest.mark.parametrize("name", ALL)
def test_every_model_and_every_key_is_known(name):
    """A key is RecBole's, or the model's that it is for; one for all models, that of one of them at least."""
    for_all = yaml.safe_load(protocol.files()[name].read_text())
    for_one = for_all.pop("models")
    assert set(for_one) <= set(plugin.model_names())
    known = {model: known_to_recbole() | set(yaml.safe_load(settings_file(model).read_text())) for model in for_one}
    unknown = {model: set(settings) - known[model] for model, settings in for_one.items()}
    assert not {model: keys for model, keys in unknown.items() if keys}
    assert set(for_all) <= set().union(*known.values())


def test_importing_the_package_applies_no_protocol():
    config = Config(model="GLINTRU", dataset="ml-100k")
    assert (config["epochs"], config["seed"], config["valid_metric"]) == (300, 2020, "MRR@10")
    assert config["eval_args"]["mode"] == {"valid": "full", "test": "full"}


def write_interactions(folder, name, pairs):
    """RecBole's file of these (user, item) pairs, a day apart, below `folder`."""
    (folder / name).mkdir(parents=True)
    lines = [f"{user}\t{item}\t{86400 * day}" for day, (user, item) in enumerate(pairs)]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / name / f"{name}.inter").write_text("\n".join([header, *lines]) + "\n")
    return str(folder)


@pytest.mark.parametrize("name", ["amazon-beauty", "amazon-video-games"])
def test_amazon_is_filtered_to_its_5_core_and_a_5_core_stays_whole(name, tmp_path):
    core = [(f"u{user}", f"i{item}") for user in range(6) for item in range(6)]
    # `once` goes first, without it `rare` has four interactions left, and without that `chained` has.
    rare = [(user, "rare") for user in ["u0", "u1", "u2", "chained", "once"]]
    chained = [("chained", f"i{item}") for item in range(4)]
    for folder, pairs in [("core", core), ("ratings", core + rare + chained)]:
        data_path = write_interactions(tmp_path / folder, name, pairs)
        dataset = create_dataset(merged(name, "SASRec", data_path=data_path))
        assert (dataset.user_num, dataset.item_num, dataset.inter_num) == (7, 7, 36)  # with the padding rows


def test_ml_1m_is_not_filtered(tmp_path):
    data_path = write_interactions(tmp_path, "ml-1m", [("u", f"i{item}") for item in range(4)])
    assert create_dataset(merged("ml-1m", "SASRec", data_path=data_path)).inter_num == 4
