"""Sampled evaluation from candidates: RecBole's batches, random numbers and metrics, to the last digit."""

import copy
import logging
import random

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import cat_interactions
from recbole.trainer.trainer import Trainer
from recbole.utils import get_model, init_seed

from recbole_glintru import evaluation
from recbole_glintru.evaluation import CandidateLoader

SPLIT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
SMALL = {
    "user_inter_num_interval": "[0,22]",
    "MAX_ITEM_LIST_LENGTH": 8,
    "hidden_size": 16,
    "n_heads": 4,
    "show_progress": False,
    "eval_batch_size": 70,  # a few users at a time, and not a divisor of their number
    "eval_args": {**SPLIT, "mode": "pop30"},
    "metrics": ["Recall", "MRR", "NDCG", "MAP", "Precision", "Hit"],
    "topk": [1, 5, 10],
    "metric_decimal_place": 12,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(trainer, validation data) of a model under `SMALL` with changes; its weights are moved at random."""
    datasets, loaders = {}, {}

    def make(name="GLINTRU", kind=Trainer, **changes):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.getbasetemp())
            patch.setattr("sys.argv", ["test"])
            config = Config(model=name, dataset="ml-100k", config_dict={**SMALL, **changes})
            logging.getLogger().setLevel(logging.ERROR)
            columns, key = str(config["load_col"]), str((name, changes))
            if columns not in datasets:
                datasets[columns] = create_dataset(config)
            if key not in loaders:
                dataset = copy.deepcopy(datasets[columns])
                dataset.config = config
                loaders[key] = data_preparation(config, dataset)
            train_data, valid_data, _ = loaders[key]
            init_seed(1, True)
            model = get_model(name)(config, train_data._dataset)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.1 * torch.randn(parameter.shape)
            return kind(config, model), valid_data

    return make


def seeded(function):
    """What the function returns under one seed, and the state of the random generators after it."""
    np.random.seed(5)
    random.seed(5)
    torch.manual_seed(5)
    outcome = function()
    return outcome, (np.random.random(), random.random(), torch.rand(()).item())


def both_ways(trainer, data):
    """The metrics of RecBole's own evaluation and of the compact one, each with the random state after it."""
    results = []
    for compact in (False, True):
        trainer.config["compact_evaluation"] = compact
        assert evaluation.replaces(trainer, data) is compact
        results.append(seeded(lambda: trainer.evaluate(data, load_best_model=False)))
    return results


# ------------------------------------------------------------------------------------------------------- the batches


@pytest.mark.parametrize(
    "name, changes",
    [
        ("GLINTRU", {}),
        ("GLINTRU", {"eval_args": {**SPLIT, "mode": "uni30"}}),
        ("GLINTRU", {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "user": ["user_id", "age"],
                                  "item": ["item_id", "class"]}}),
        ("BERT4Rec", {"accelerate": True}),
    ],
    ids=["popular", "uniform", "features", "transform"],
)  # fmt: skip
def test_batches_are_those_of_recbole(made, name, changes):
    """Every column, and every random generator, at another size of the batches."""
    trainer, data = made(name, **changes)
    loader = CandidateLoader(data, trainer)
    expected, state = seeded(lambda: cat_interactions([batch[0] for batch in data]))
    actual, state_after = seeded(lambda: cat_interactions([batch.repeated() for batch in loader]))
    assert len(loader) < len(data) and len(actual) == 31 * len(data.uid_list)
    assert sorted(actual.columns) == sorted(expected.columns)
    for column in expected.columns:
        assert torch.equal(actual[column], expected[column]), column
    assert state_after == state


def test_transforms_get_rows_of_their_own(made):
    """RecBole's copy the row, and with a view the memory that it is a view of: all of the data set, for each user."""
    trainer, data = made("BERT4Rec", accelerate=True, epochs=1)
    loader, sizes, transform = CandidateLoader(data, trainer), set(), data.transform

    def recorded(dataset, row):
        sizes.update(column.untyped_storage().nbytes() // column.element_size() for column in row.interaction.values())
        return transform(dataset, row)

    data.transform = recorded
    next(iter(loader))
    assert max(sizes) == trainer.config["MAX_ITEM_LIST_LENGTH"]


def test_the_positive_is_drawn_again(made):
    data = made()[1]
    draw = evaluation._Negatives(data._sampler, 30)
    counts, plain = [], draw._draw
    draw._draw = lambda count: counts.append(count) or plain(count)
    for positive in 4 * data._dataset.inter_feat["item_id"].tolist():
        assert positive not in draw(positive)
    assert min(counts) < 30


def test_the_positive_is_drawn_again_until_it_is_gone(made):
    draw = evaluation._Negatives(made()[1]._sampler, 4)
    drawn = iter([[5, 7, 5, 5], [5, 8, 5], [5, 9], [5], [6]])
    draw._draw = lambda count: np.array(next(drawn))
    assert draw(5).tolist() == [6, 7, 8, 9]
    assert next(drawn, None) is None


# ------------------------------------------------------------------------------------------------------- the metrics


@pytest.mark.parametrize(
    "name, changes",
    [
        ("GLINTRU", {}),
        ("GLINTRU", {"eval_args": {**SPLIT, "mode": "uni30"}}),
        ("SSEPT", {}),
        ("SASRec", {"accelerate": True, "train_neg_sample_args": None}),
        ("BERT4Rec", {"accelerate": True, "train_neg_sample_args": None}),
    ],
    ids=["GLINTRU", "uniform", "SSEPT", "SASRec", "BERT4Rec"],
)
def test_metrics_are_the_same(made, name, changes):
    trainer, data = made(name, **changes)
    (expected, state), (actual, state_after) = both_ways(trainer, data)
    assert actual == expected and state_after == state
    assert 0 < expected["recall@5"] < 1


@pytest.mark.parametrize("embedding", [0.0, 1.0, float("nan")], ids=["zero", "equal", "nan"])
def test_ties_fall_as_they_do_in_recbole(made, embedding):
    """Where the positive stands among equal scores is `torch.topk`'s choice; with all equal it is the whole result."""
    trainer, data = made()
    trainer.model.item_embedding.weight.data.fill_(embedding)
    (expected, _), (actual, _) = both_ways(trainer, data)
    assert actual == expected


def test_a_tie_in_one_row(made):
    """The positive of some users has a twin of equal embedding among the items."""
    trainer, data = made()
    weight = trainer.model.item_embedding.weight.data
    weight[1::2] = weight[2::2][: len(weight[1::2])]
    (expected, _), (actual, _) = both_ways(trainer, data)
    assert actual == expected


def test_a_negative_drawn_twice_counts_once(made):
    trainer, data = made()
    loader = CandidateLoader(data, trainer)
    batch = seeded(lambda: next(iter(loader)))[0]
    again = evaluation._comes_again(batch.items)
    assert again.any() and not again[:, 0].any()
    for row, marks in zip(batch.items.tolist(), again.tolist()):
        assert marks == [item in row[:place] for place, item in enumerate(row)]
    scores = batch.evaluated_by(trainer)[1]
    assert (scores.isneginf() == again).all()


# ------------------------------------------------------------------------------------------------------ what it saves


def test_each_history_is_encoded_once(made):
    trainer, data = made()
    rows, encode = [], trainer.model.encode
    trainer.model.encode = lambda *history: rows.append(len(history[0])) or encode(*history)
    trainer.evaluate(data, load_best_model=False)
    assert sum(rows) == len(data.uid_list) and max(rows) == trainer.test_batch_size


@pytest.mark.parametrize("name, method", [("GLINTRU", "score_items"), ("SASRec", "predict")])
def test_no_more_rows_are_scored_at_once_than_by_recbole(made, monkeypatch, name, method):
    trainer, data = made(name, accelerate=True, train_neg_sample_args=None)
    rows, score = [], getattr(trainer.model, method)
    monkeypatch.setattr(trainer.model, method, lambda *inputs: rows.append(len(inputs[-1])) or score(*inputs))
    trainer.evaluate(data, load_best_model=False)
    assert sum(rows) == 31 * len(data.uid_list) and max(rows) == 31 * data.step < trainer.test_batch_size


def test_batches_stay_small_where_the_catalogue_is_large(made, monkeypatch):
    trainer, data = made()
    monkeypatch.setattr(evaluation, "LARGEST_TABLE", 5 * data._dataset.item_num)
    assert CandidateLoader(data, trainer).users == 5
    (expected, _), (actual, _) = both_ways(trainer, data)
    assert actual == expected
    monkeypatch.setattr(evaluation, "LARGEST_TABLE", 1)
    assert CandidateLoader(data, trainer).users == data.step, "no smaller than RecBole's"


# ---------------------------------------------------------------------------------------------- where RecBole's is kept


class OwnEvaluation(Trainer):
    def _neg_sample_batch_eval(self, batched_data):
        return super()._neg_sample_batch_eval(batched_data)


@pytest.mark.parametrize(
    "changes",
    [
        {"compact_evaluation": False},
        {"eval_args": {**SPLIT, "mode": "full"}},
        {"metrics": ["Recall", "GAUC"]},
        {"metrics": ["Recall", "ItemCoverage"]},
        {"metrics": ["AUC"], "valid_metric": "AUC"},
        {"eval_args": {"split": {"RS": [0.5, 0.25, 0.25]}, "order": "TO", "group_by": "user", "mode": "uni30"}},
        {"topk": [32]},
        {"worker": 1},
        {"kind": OwnEvaluation},
        {"name": "SASRec", "train_neg_sample_args": None},
    ],
    ids=["off", "full", "GAUC", "ItemCoverage", "AUC", "several-positives", "topk", "worker", "trainer", "SASRec"],
)
def test_anything_unusual_is_left_to_recbole(made, changes):
    trainer, data = made(**changes)
    assert evaluation.candidate_loader(trainer, data) is data


def test_methods_of_the_users_own_are_left_to_recbole(made):
    for name in ("_neg_sample_batch_eval", "predict"):
        trainer, data = made()
        assert evaluation.replaces(trainer, data)
        owner = trainer if hasattr(trainer, name) else trainer.model
        setattr(owner, name, getattr(owner, name))
        assert not evaluation.replaces(trainer, data)
        delattr(owner, name)


def test_a_wrong_setting_is_named(made):
    trainer, data = made(compact_evaluation="sometimes")
    with pytest.raises(ValueError, match="compact_evaluation='sometimes': must be True or False"):
        trainer.evaluate(data, load_best_model=False)
