"""`benchmarks/reproduce.py`: whether the paper's figures can belong together."""

import numpy as np
import pytest
import reproduce_cells  # noqa: F401  first: it makes the benchmarks importable
from reproduce_cells import make_place
from reproduce_reports import beauty, write_made_up, write_report
from reproduction import consistency, grids, significance
from reproduction.cells import cell


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_a_ranking_are_within_the_range(seed):
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(generator.uniform(0.05, 2, 11))
    ranks = generator.choice(11, size=500, p=shares)  # 0: not found
    recall, mrr, ndcg = (values.mean() for values in significance.per_user(ranks).values())
    smallest, largest = consistency.ndcg_range(recall, mrr)
    assert smallest - 1e-9 <= ndcg <= largest + 1e-9


def test_the_range_is_reached():
    """The smallest with targets at the first and the last place, the largest with all at neighbouring places."""
    recall, mrr, ndcg = (values.mean() for values in significance.per_user(np.array([1, 10])).values())
    assert consistency.ndcg_range(recall, mrr)[0] == pytest.approx(ndcg)
    recall, mrr, ndcg = (values.mean() for values in significance.per_user(np.array([2, 3, 3])).values())
    assert consistency.ndcg_range(recall, mrr)[1] == pytest.approx(ndcg)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
def test_all_targets_at_one_place(share):
    assert consistency.ndcg_range(share, share) == pytest.approx((share, share))
    assert consistency.ndcg_range(share, share / 10)[1] == pytest.approx(share / np.log2(11))


def test_no_ranking_has_an_mrr_above_its_recall():
    smallest, largest = consistency.ndcg_range(0.3, 0.4)
    assert smallest > largest


def test_the_report_names_what_the_paper_contradicts(tmp_path):
    place, games = make_place(tmp_path), "amazon-video-games"
    for model in ("GLINTRU", "BERT4Rec"):
        write_made_up(place, cell(games, games, model, 666, {}), 0.3)
        write_made_up(place, beauty(model), 0.3)
    text = write_report(place, "table2", games)
    assert text.count("contradict each other") == 1
    assert (
        "The paper's figures for BERT4Rec contradict each other: with a Recall@10 of 0.5490 and an MRR@10 of 0.2541, "
        "NDCG@10 is 0.3160 to 0.3304, and 0.2916 is printed." in text
    )
    assert "contradict" not in write_report(place, "table2")


def test_all_other_figures_of_the_paper_go_together():
    """All rows but two do to the last decimal, so that a contradiction is not of the check's making."""
    tables = [grids.PAPER["table2"][data] for data in ("ml-1m", "amazon-beauty", "amazon-video-games")]
    tables += [grids.PAPER[name] for name in ("table4", "table6", "table8", "table9")]
    rows = [
        consistency.Row(label, grids.Variant(label, "GLINTRU"), paper=dict(zip(grids.METRICS, figures)))
        for table in tables
        for label, figures in table.items()
        if label not in ("columns", "dataset")
    ]
    notes = consistency.contradictions(rows)
    assert len(rows) > 40 and len(notes) == 2
    assert "use_gru=False" in notes[1] and "0.4023 is printed" in notes[1]
