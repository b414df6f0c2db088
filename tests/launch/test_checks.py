"""Settings that do not go together are named before anything runs; those that RecBole can do with are left alone."""

import pytest

from recbole_glintru.launch.configuration import merged_settings
from recbole_glintru.launch.errors import UserError

SPLIT = {"order": "TO", "group_by": "user", "mode": "full"}
NEGATIVES = {"distribution": "uniform", "sample_num": 1}


@pytest.fixture(autouse=True)
def without_arguments(monkeypatch):
    """RecBole's `Config` reads the command line, here that of pytest."""
    monkeypatch.setattr("sys.argv", ["run_recbole.py"])


@pytest.mark.parametrize(
    "model, settings, named",
    [
        ("GLINTRU", {"eval_args": {"mode": "uni100"}}, "eval_args: order='RO'.*'TO'"),
        ("SASRec", {"eval_args": {**SPLIT, "split": {"LS": "valid_and_test"}, "order": "RO"}}, "eval_args: order='RO'"),
        ("GLINTRU", {"valid_metric": "NDCG@5"}, r"valid_metric='NDCG@5'.*topk=\[10\].*recall@10, .*ndcg@10"),
        ("GLINTRU", {"metrics": ["Recall"]}, r"valid_metric='MRR@10'.*metrics=\['Recall'\].*: recall@10\."),
        ("SASRec", {"metrics": ["GAUC"], "valid_metric": "GAUC@10"}, r"valid_metric='GAUC@10'.*: gauc\."),
        ("SASRec", {"loss_type": "MSE"}, "loss_type='MSE': must be CE or BPR"),
        ("GLINTRU", {"loss_type": "BPR", "train_neg_sample_args": None}, "train_neg_sample_args=None"),
        ("FPMC", {"train_neg_sample_args": None}, "train_neg_sample_args=None"),
        ("GLINTRU", {"compact_evaluation": "maybe"}, "compact_evaluation='maybe': must be True or False"),
        ("SASRec", {"data_on_device": 1}, "data_on_device=1: must be True or False"),
        ("GLINTRU", {"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH=0: must be a whole number from 1"),
        ("BPR", {"train_batch_size": "many"}, "train_batch_size='many': must be a whole number from 1"),
        ("GLINTRU", {"epochs": 1.5}, "epochs=1.5: must be a whole number from 0"),
        ("GLINTRU", {"seed": -1}, "seed=-1: must be a whole number from 0"),
        ("SASRec", {"learning_rate": "fast"}, "learning_rate='fast': must be a number of at least 0"),
    ],
)
def test_what_cannot_work_is_named(model, settings, named):
    with pytest.raises(UserError, match=named):
        merged_settings(model, "ml-100k", [], settings)


@pytest.mark.parametrize(
    "model, settings",
    [
        ("GLINTRU", {"loss_type": "BPR"}),
        ("GLINTRU", {"loss_type": "BPR", "train_neg_sample_args": NEGATIVES}),
        ("GLINTRU", {"metrics": ["GAUC", "ItemCoverage"], "valid_metric": "itemcoverage@10"}),
        ("GLINTRU", {"metrics": "GAUC", "valid_metric": "GAUC"}),
        ("GLINTRU", {"topk": 5, "valid_metric": "ndcg@5"}),
        ("BPR", {"eval_args": {**SPLIT, "split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO"}}),
        # never validated, so that the metric is not asked for
        ("GLINTRU", {"metrics": ["Recall"], "epochs": 0}),
        ("GLINTRU", {"metrics": ["Recall"], "eval_step": 0}),
        ("GLINTRU", {"metrics": ["Recall"], "eval_args": {**SPLIT, "split": {"LS": "test_only"}}}),
        ("GLINTRU", {"metrics": ["Recall"], "eval_args": {**SPLIT, "split": {"RS": [0.9, 0, 0.1]}}}),
    ],
)
def test_what_works_is_left_alone(model, settings):
    assert merged_settings(model, "ml-100k", [], settings)["model"] == model
