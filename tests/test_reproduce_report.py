"""`benchmarks/reproduce.py`: its statistics and its reports, of results that are made up."""

import json
import math

import numpy as np
import pytest
from reproduce_cells import make_place  # first: it makes the benchmarks importable
from reproduction import grids, report, running, significance
from reproduction.cells import Result, cell


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path)


# -------------------------------------------------------------------------------------------------------- statistics


def test_the_paired_t_test_against_hand_computed_values():
    # Differences 1, 2, 3, 4: t = sqrt(15), three degrees of freedom, for which p has a closed form.
    x = math.sqrt(5)
    expected = 1 - 2 / math.pi * (math.atan(x) + x / (1 + x * x))
    assert significance.paired_t_test([2, 4, 6, 8], [1, 2, 3, 4]) == pytest.approx(expected)
    # Differences 1 and 3: t = 2, one degree of freedom, the Cauchy distribution.
    assert significance.paired_t_test([1, 3], [0, 0]) == pytest.approx(1 - 2 / math.pi * math.atan(2))
    assert significance.paired_t_test([1, 2], [1, 2]) == 1.0
    assert significance.paired_t_test([1], [2]) is None
    assert significance.paired_t_test([], []) is None


def test_metrics_of_a_user():
    values = significance.per_user(np.array([1, 2, 0, 10], dtype=np.uint8))
    np.testing.assert_allclose(values["Recall@10"], [1, 1, 0, 1])
    np.testing.assert_allclose(values["MRR@10"], [1, 0.5, 0, 0.1])
    np.testing.assert_allclose(values["NDCG@10"], [1, 1 / math.log2(3), 0, 1 / math.log2(11)])


def made_up(ranks, candidates="a"):
    return Result({"candidates": candidates}, {"fixed": np.array(ranks, dtype=np.uint8)})


def test_users_are_paired_over_common_seeds_alone():
    ours = {1: made_up([1, 1, 2, 0]), 2: made_up([1, 2, 0, 0]), 3: made_up([9, 9, 9, 9])}
    theirs = {1: made_up([2, 0, 0, 0]), 2: made_up([2, 2, 2, 0])}
    p, same = significance.over_users(ours, theirs, "fixed", "MRR@10")
    expected = significance.paired_t_test([1, 0.75, 0.25, 0], [0.5, 0.25, 0.25, 0])
    assert p == pytest.approx(expected) and same
    assert significance.over_users(ours, {2: made_up([1, 1, 1, 1], "b")}, "fixed", "MRR@10")[1] is False
    assert significance.over_users(ours, {4: made_up([1, 1, 1, 1])}, "fixed", "MRR@10") == (None, False)
    assert significance.over_users(ours, theirs, "test", "MRR@10") == (None, False)


# ----------------------------------------------------------------------------------------------------------- reports


def write_made_up(place, one, score, generator=None, **changes):
    """A result with NDCG@10 `score`, and the other metrics and readings in proportion."""
    generator = generator or np.random.default_rng(one.seed)
    metrics = {"recall@10": 1.5 * score, "mrr@10": 0.8 * score, "ndcg@10": score}
    readings = {
        reading: {key: value * factor for key, value in metrics.items()}
        for reading, factor in zip(running.READINGS, (1.1, 1.0, 1.0, 1.3, 0.1))
    }
    seconds = {"training": 1.0, "validation": 0.1}
    training = {"epochs": 2, "best_epoch": 1, "evaluation_batches": 10}
    for key in ("seconds_per_epoch", "cpu_seconds_per_epoch", "seconds_per_evaluation", "cpu_seconds_per_evaluation"):
        training[key] = 2.0
    record = {
        "settings": json.loads(json.dumps(one.settings())),
        "readings": readings,
        "mode": "pop100",
        "candidates": "same",
        "parameters": 12345,
        "training": training,
        "peak_memory_MiB": 100.0,
        "savings": "none",
        "package": {"commit": "0123456789abcdef"},
        "device": {"type": "cpu", "name": "A processor", "threads": 2},
        "epochs": 2 * [{"seconds": seconds, "mixing": [[0.4, 0.6]]}],
        "mixing_at_start": [[0.5, 0.5]],
        **changes,
    }
    place.store.write(one, Result(record, {"fixed": generator.integers(0, 11, 50).astype(np.uint8)}))


def write_report(place, name, dataset="amazon-beauty", seeds=(666, 667), reading="fixed"):
    return report.write(name, dataset, dataset, {}, place, grids.variants(name), list(seeds), reading)


def beauty(model, seed=666, **changes):
    return cell("amazon-beauty", "amazon-beauty", model, seed, changes)


def test_the_report_of_table_2(place):
    for seed, score in ((666, 0.29), (667, 0.31)):
        write_made_up(place, beauty("GLINTRU", seed), score)
    write_made_up(place, beauty("SASRec"), 0.32)
    write_made_up(place, beauty("GRU4Rec"), 0.2)
    write_made_up(place, beauty("LinRec"), 0.25)
    text = write_report(place, "table2")
    assert "Rank of 4: 2 by Recall@10, 2 by MRR@10, 2 by NDCG@10" in text
    assert "0.3000 ± 0.0141 | 0.2964 | +1.2 %" in text  # of NDCG@10: ours, the paper's, the difference
    assert "| -6.2 % | +5.9 % |" in text  # over SASRec: 0.30 / 0.32, and the paper's 0.2964 / 0.2798
    assert "No results yet: BERT4Rec, LightSANs, SMLP4Rec, Mamba4Rec." in text
    assert "over the three metrics and all models but GLINT-RU (GRU4Rec, SASRec, LinRec)" in text
    for label in ("validation pop100", "test pop100, RecBole's draw", "test uni100, fixed draw", "test, full ranking"):
        assert label in text
    assert "A processor, 2 threads" in text and "0123456789" in text
    assert (place.store.folder / "table2-amazon-beauty.md").read_text() == text


def test_p_values_are_those_of_the_ranks(place):
    ours, theirs = np.random.default_rng(1), np.random.default_rng(2)
    write_made_up(place, beauty("GLINTRU"), 0.3, ours)
    write_made_up(place, beauty("SASRec"), 0.3, theirs)
    ranks = [place.store.read(beauty(model)).ranks["fixed"] for model in ("GLINTRU", "SASRec")]
    p = significance.paired_t_test(*(significance.per_user(one)["NDCG@10"] for one in ranks))
    line = next(line for line in write_report(place, "table2").splitlines() if line.startswith("| SASRec | +0.0 %"))
    assert line.endswith(f"| {p:.3f} | - |")
    write_made_up(place, beauty("SASRec"), 0.3, candidates="others")
    assert "unlike draws" in write_report(place, "table2")


def test_the_report_of_an_ablation_has_the_papers_rows(place):
    write_made_up(place, beauty("GLINTRU"), 0.2964)
    write_made_up(place, beauty("GLINTRU", use_gru=False), 0.2755)
    text = write_report(place, "table9")
    assert "| use_gru=False | 1 | 0.4133 | 0.4239 | -2.5 % |" in text and "default against the others" in text
    assert "| 0.2755 | 0.2755 | +0.0 % |" in text


def test_costs_stand_beside_the_papers(place):
    write_made_up(place, beauty("GLINTRU", n_layers=2), 0.29)
    text = write_report(place, "table7")
    assert "| paper: training s per epoch |" in text
    assert "| 2 | 12,345 | 2 (1) | 2.0 (2.0) | 2.00 (2.00) | 200.0 | 100 | none | 397.00 | 6.20 | 5.17 |" in text


def test_a_report_says_what_is_unfinished_and_what_is_left_out(place):
    write_made_up(place, beauty("GLINTRU"), 0.29)
    write_made_up(place, beauty("SASRec"), 0.29, settings={**beauty("SASRec").settings(), "hidden_size": 1})
    epoch = running.folder_of(beauty("LinRec"), place.scratch) / "epoch-0"
    epoch.mkdir(parents=True)
    (epoch / "records.json").write_text(json.dumps({"epochs": [{}], "best": {"ndcg@10": 0.21}}))
    text = write_report(place, "table2")
    assert "Unfinished: LinRec,seed=666, 1 of at most 200 epochs; best validation: ndcg@10 0.21." in text
    assert "Left out:" in text and "hidden_size=1, and hidden_size=64 now" in text


def test_a_report_of_nothing_says_so(place):
    assert "No results yet." in write_report(place, "table2")


def test_another_reading_is_reported_under_its_name(place):
    write_made_up(place, beauty("GLINTRU"), 0.3)
    text = write_report(place, "table2", reading="validation")
    assert "## Accuracy: validation pop100" in text and "0.3300 | 0.2964 | +11.3 %" in text


@pytest.mark.parametrize("name", ["table2", "table9", "figure2", "figure3", "figure5", "figure6"])
def test_pictures(name, place):
    pytest.importorskip("matplotlib")
    pytest.importorskip("adjustText")
    for variant in grids.variants(name, ["GLINTRU", "SASRec"]):
        for one in grids.cells(variant, "amazon-beauty", "amazon-beauty", [666]):
            write_made_up(place, one, 0.29)
    text = report.write(
        name, "amazon-beauty", "amazon-beauty", {}, place, grids.variants(name, ["GLINTRU", "SASRec"]), [666]
    )
    picture = place.store.folder / f"{name}-amazon-beauty.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and f"]({picture.name})" in text


def test_table_1_counts_as_recbole_does(workplace, place):
    from reproduction import statistics_of_data

    text = statistics_of_data.write({"few": "amazon-beauty"}, place.data_path, workplace / "results")
    assert "| few | 61 | 61 | 600 | 10.00 | 83.88 % |" in text
    assert (workplace / "results" / "table1.md").read_text() == text


def test_the_papers_efficiency_is_printed_in_full():
    text = report.efficiency_in_the_paper()
    assert "| GLINTRU | 278 | 3.8 | 2.62 |" in text and text.count("| GLINTRU |") == 3
