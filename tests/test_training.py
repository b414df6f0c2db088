"""GLINT-RU on the real MovieLens-100K that RecBole's wheel carries, under RecBole's trainer and evaluator."""

import pytest


@pytest.mark.slow
def test_beats_the_most_popular_items(workplace):
    """A few epochs, ranking all items: twice the NDCG of recommending what most people have watched."""
    from recbole.quick_start import run_recbole

    protocol = {
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "metrics": ["Recall", "NDCG"],
        "valid_metric": "NDCG@10",
        "topk": 10,
        "show_progress": False,
        "MAX_ITEM_LIST_LENGTH": 10,
        "hidden_size": 64,
        "train_batch_size": 1024,
        "learning_rate": 0.003,
        "eval_batch_size": 2048,
        "repeatable": True,
    }
    popular = run_recbole(model="Pop", dataset="ml-100k", config_dict={**protocol, "epochs": 1})["test_result"]
    ours = run_recbole(model="GLINTRU", dataset="ml-100k", config_dict={**protocol, "epochs": 3})["test_result"]
    print(popular, ours)
    assert ours["ndcg@10"] > 2 * popular["ndcg@10"]
    assert ours["recall@10"] > 1.5 * popular["recall@10"]
