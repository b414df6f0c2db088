"""Settings that do not go together are named before anything runs; those that RecBole can do with are left alone."""

import math

import pytest

from recbole_glintru.launch.configuration import merged_settings
from recbole_glintru.launch.errors import UserError

SPLIT = {"order": "TO", "group_by": "user", "mode": "full"}
NEGATIVES = {"distribution": "uniform", "sample_num": 1}
PARTS = ["train", "valid", "test"]


def split(value):
    return {"eval_args": {**SPLIT, "split": value}}


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
        ("GLINTRU", {"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH=0: must be a whole number, at least 1"),
        ("BPR", {"train_batch_size": "many"}, "train_batch_size='many': must be a whole number, at least 1"),
        ("GLINTRU", {"epochs": 1.5}, "epochs=1.5: must be a whole number, at least 0"),
        ("GLINTRU", {"seed": -1}, "seed=-1: must be a whole number from 0 to"),
        ("GLINTRU", {"seed": 99999999999999}, "seed=99999999999999: must be a whole number from 0 to 4294967295"),
        ("GLINTRU", {"eval_step": "abc"}, "eval_step='abc': must be a whole number, at least -1"),
        ("SASRec", {"stopping_step": "abc"}, "stopping_step='abc': must be a whole number, at least 0"),
        ("SASRec", {"worker": -1}, "worker=-1: must be a whole number, at least 0"),
        ("SASRec", {"metric_decimal_place": "abc"}, "metric_decimal_place='abc': must be a whole number, at least 0"),
        ("SASRec", {"learning_rate": "fast"}, "learning_rate='fast': must be a finite number, at least 0"),
        ("SASRec", {"learning_rate": math.inf}, "learning_rate=inf: must be a finite number, at least 0"),
        ("SASRec", {"learning_rate": math.nan}, "learning_rate=nan"),
        ("GLINTRU", {"weight_decay": "abc"}, "weight_decay='abc': must be a finite number"),
        ("GLINTRU", {"weight_decay": -1}, "weight_decay=-1: must be a finite number, at least 0"),
        ("GLINTRU", {"learner": "foo"}, "learner='foo': must be one of adam, adamw, sgd"),
        ("GLINTRU", {"learner": None}, "learner=None: must be one of adam"),
        ("GLINTRU", {"loss_type": ["CE"]}, r"loss_type=\['CE'\]: GLINTRU can be trained with 'CE' or 'BPR'"),
        ("SASRec", {"loss_type": ["CE"]}, r"loss_type=\['CE'\]: must be CE or BPR"),
        ("GLINTRU", {"topk": "abc"}, "topk='abc': must be a positive whole number, or a list"),
        ("GLINTRU", {"topk": []}, r"topk=\[\]: must be"),
        ("GLINTRU", {"topk": [5, "ten"]}, r"topk=\[5, 'ten'\]: must be"),
        ("GLINTRU", {"topk": [0]}, r"topk=\[0\]: must be"),
        ("GLINTRU", {"metrics": 5}, "metrics=5: must be the name of a metric, or a list"),
        ("GLINTRU", {"metrics": [5]}, r"metrics=\[5\]: must be"),
        ("GLINTRU", {"metrics": []}, r"metrics=\[\]: must be"),
        ("GLINTRU", {"metrics": ["Luck"]}, r"metrics=\['Luck'\]: there is no metric named 'Luck'; RecBole has .*ndcg"),
        ("GLINTRU", {"metrics": ["Recall", "AUC"]}, r"metrics=\['Recall', 'AUC'\]: ranking metrics \(Recall\) cannot"),
        ("GLINTRU", {"valid_metric": 3}, "valid_metric=3: must be the name of a result"),
        ("GLINTRU", {"valid_metric": None}, "valid_metric=None: must be"),
        ("GLINTRU", {"eval_args": "full"}, "eval_args='full': must be a dictionary"),
        (
            "GLINTRU",
            {"eval_args": {**SPLIT, "mode": "labeled"}},
            r"mode='labeled': does not rank items, as metrics=\['Recall",
        ),
        ("GLINTRU", {"eval_args": {**SPLIT, "mode": "uni-1"}}, "eval_args: mode='uni-1': must be full, labeled, uniN"),
        (
            "GLINTRU",
            {"eval_args": {**SPLIT, "mode": {"valid": "full", "test": "uni0"}}},
            "eval_args: mode='uni0': must",
        ),
        ("GLINTRU", {"eval_args": {**SPLIT, "mode": 5}}, "eval_args: mode=5: must"),
        ("GLINTRU", {"eval_args": {**SPLIT, "group_by": "foo"}}, "eval_args: group_by='foo': must be user or none"),
        ("GLINTRU", split("LS"), "eval_args: split='LS': must be a dictionary with one of RS, LS and TS"),
        ("BPR", split(None), "eval_args: split=None: must be a dict"),
        ("BPR", split({}), "eval_args: split={}: must"),
        ("BPR", split({"XS": [1, 1, 1]}), "split={'XS'.* must be a dict"),
        ("BPR", split({"RS": [0.8, 0.1, 0.1], "LS": "test_only"}), "split={'RS'.* must be a dict"),
        ("GLINTRU", split({"LS": "leave_one_out"}), "'leave_one_out'}: LS must be one of valid_and_test, valid_only"),
        ("GLINTRU", split({"LS": ["test_only"]}), r"\['test_only'\]}: LS must be one of"),
        ("GLINTRU", split({"RS": 0.8}), "eval_args: split={'RS': 0.8}: RS must be a list of three ratios"),
        ("GLINTRU", split({"RS": [0.8, 0.2]}), r"split={'RS': \[0.8, 0.2\]}: RS must be a list of three"),
        ("BPR", split({"TS": [0.9, 0.1]}), r"split={'TS': \[0.9, 0.1\]}: TS must be a list of three"),
        ("BPR", split({"RS": [0.8, "0.1", 0.1]}), "RS must be a list of three"),
        ("BPR", split({"RS": [0.8, -0.1, 0.3]}), "RS must be a list of three"),
        ("BPR", split({"TS": [0, 0, 1]}), r"TS must be a list of three ratios: training \(above 0\)"),
        ("BPR", {"train_neg_sample_args": {**NEGATIVES, "sample_num": 0}}, "train_.*: sample_num must be a positive"),
        ("BPR", {"train_neg_sample_args": {**NEGATIVES, "sample_num": "none"}}, "sample_num must be a positive"),
        (
            "DeepFM",
            {"train_neg_sample_args": {**NEGATIVES, "sample_num": 0}},
            "sample_num must be a positive whole number",
        ),
        ("SASRec", {"clip_grad_norm": 5}, "clip_grad_norm=5: must be a dictionary like {'max_norm': 5}"),
        ("SASRec", {"clip_grad_norm": {"max": 5}}, "clip_grad_norm={'max': 5}: must be a dict"),
        ("SASRec", {"load_col": "{inter: [user_id]}"}, r"load_col='{inter: \[user_id\]}': must be a dictionary like"),
        ("SASRec", {"unload_col": ["rating"]}, r"unload_col=\['rating'\]: must be a dictionary like"),
        ("SASRec", {"load_col": {"inter": "user_id"}}, "load_col={'inter': 'user_id'}: must have a list of columns"),
        ("SASRec", {"unload_col": {"inter": "*"}}, r"unload_col={'inter': '\*'}: must have a list of columns"),
        (
            "SASRec",
            {"load_col": {"inter": ["user_id"]}, "unload_col": {"inter": ["rating"]}},
            "unload_col={'inter': .*: cannot go with load_col={'inter': .* both name columns of 'inter'",
        ),
        ("BPR", {"val_interval": "rating>3"}, "val_interval='rating>3': must be a dict"),
        ("BPR", {"alias_of_item_id": "item_id_list"}, "alias_of_item_id='item_id_list': must be a list of names"),
        ("BPR", {"numerical_features": [1]}, r"numerical_features=\[1\]: must be a list of names"),
        ("BPR", {"benchmark_filename": "train,valid,test"}, "benchmark_filename='train,valid,test': must be a list of"),
        (
            "BPR",
            {"benchmark_filename": ["train", "test"]},
            r"benchmark_filename=\['train', 'test'\]: must be a list",
        ),
        (
            "SASRec",
            {"benchmark_filename": PARTS, "alias_of_item_id": ["other"]},
            r"alias_of_item_id=\['other'\]: must have 'item_id_list', the histories of benchmark_filename=\['train",
        ),
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
        ("SASRec", {"learner": "AdamW", "weight_decay": 0, "seed": 2**32 - 1, "stopping_step": 0}),
        ("GLINTRU", {"metrics": ("Recall", "ndcg"), "valid_metric": "NDCG@10"}),
        ("GLINTRU", {"metrics": "AUC", "valid_metric": "AUC", "eval_args": {**SPLIT, "mode": "labeled"}}),
        ("BPR", {"eval_args": {"group_by": None, "mode": {"valid": "uni100", "test": "pop1"}}}),
        ("BPR", {"eval_args": {"group_by": "None"}}),
        ("GLINTRU", {"metrics": ["Recall"], "eval_step": -1}),
        ("BPR", {"eval_args": {**SPLIT, "split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO"}}),
        # never validated, so that the metric is not asked for
        ("GLINTRU", {"metrics": ["Recall"], "epochs": 0}),
        ("GLINTRU", {"metrics": ["Recall"], "eval_step": 0}),
        ("GLINTRU", {"metrics": ["Recall"], "eval_args": {**SPLIT, "split": {"LS": "test_only"}}}),
        ("GLINTRU", {"metrics": ["Recall"], "eval_args": {**SPLIT, "split": {"RS": [0.9, 0, 0.1]}}}),
        ("BPR", {"metrics": ["Recall"], "eval_args": {**SPLIT, "split": {"TS": [0.8, 0, 0.2]}}}),
        # as RecBole has it
        ("DeepFM", {"train_neg_sample_args": {**NEGATIVES, "sample_num": "none"}}),
        ("SASRec", {"clip_grad_norm": {"max_norm": 5.0}}),
        ("SASRec", {"load_col": {"inter": "*"}, "unload_col": {"inter": ["rating"]}}),
        ("SASRec", {"load_col": {"item": []}, "unload_col": {"item": ["class"]}}),
        ("SASRec", {"load_col": {"item": ["class"]}, "unload_col": {"item": []}}),
        ("SASRec", {"load_col": {"inter": ["user_id"]}, "unload_col": {"item": ["class"]}}),
        ("BPR", {"benchmark_filename": PARTS}),
        ("SASRec", {"benchmark_filename": PARTS, "alias_of_item_id": ["item_id_list"], **split(None)}),
    ],
)
def test_what_works_is_left_alone(model, settings):
    assert merged_settings(model, "ml-100k", [], settings)["model"] == model
