"""`benchmarks/reproduce.py`: how its reports compare models, and the readings with the paper."""

import numpy as np
import pytest
from reproduce_cells import make_place  # first: it makes the benchmarks importable
from reproduce_reports import FACTORS, beauty, write_made_up, write_report
from reproduction import markdown, running, significance


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path)


def lines_of(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def test_a_tuned_model_is_still_the_reference(place):
    write_made_up(place, beauty("GLINTRU", n_layers=2), 0.3)
    write_made_up(place, beauty("SASRec"), 0.25)
    text = write_report(place, "table2", own={"GLINTRU": {"n_layers": 2}})
    assert "## GLINTRU (n_layers=2) against the others" in text and "Rank of 2," in text
    assert lines_of(text, "| SASRec | 1, 1 | +20.0 % |")


def test_a_tuned_ablation_has_its_reference_too(place):
    write_made_up(place, beauty("GLINTRU", mix_dropout_prob=0.1), 0.3)
    write_made_up(place, beauty("GLINTRU", mix_dropout_prob=0.1, use_gru=False), 0.25)
    text = write_report(place, "table9", own={"GLINTRU": {"mix_dropout_prob": 0.1}})
    assert "## default (mix_dropout_prob=0.1) against the others" in text
    assert lines_of(text, "| use_gru=False (mix_dropout_prob=0.1) | 1, 1 | +20.0 % |")


@pytest.mark.parametrize(
    "value, shown", [(None, "-"), (0.5, "0.500"), (0.0002, "2e-04"), (1e-299, "1e-299"), (0.0, "<1e-300")]
)
def test_p_values_are_never_zero(value, shown):
    assert markdown.p(value) == shown


def test_margins_are_of_all_seeds_of_each(place):
    for seed, score in ((666, 0.3), (667, 0.6)):
        write_made_up(place, beauty("GLINTRU", seed), score)
    write_made_up(place, beauty("SASRec"), 0.25)
    write_made_up(place, beauty("LinRec", 668), 0.5)
    text = write_report(place, "table2", seeds=(666, 667, 668))
    assert lines_of(text, "| SASRec | 2, 1 | +80.0 % |")  # 0.45 / 0.25, the means that the ranks are of
    assert lines_of(text, "| LinRec | 2, 1 | -10.0 % |")  # no common seed


def test_the_chance_in_a_training_is_told_of(place):
    """From ranks of one model with two seeds: what p over users calls significant may be another seed alone."""
    write_made_up(place, beauty("SASRec"), 0.25)
    write_made_up(place, beauty("GLINTRU"), 0.3)
    assert "among themselves" not in write_report(place, "table2")
    write_made_up(place, beauty("GLINTRU", 667), 0.33)
    write_made_up(place, beauty("GLINTRU", 668), 0.31)
    text = write_report(place, "table2", seeds=(666,))
    ranks = [place.store.read(beauty("GLINTRU", seed)).ranks["fixed"] for seed in (666, 667)]
    users = [significance.per_user(of)["NDCG@10"] for of in ranks]
    p = significance.paired_t_test(*users)
    assert "Seeds of GLINTRU differ among themselves by up to 10.0 % by Recall@10" in text
    assert f"10.0 % by NDCG@10 (p users {markdown.p(p)})" in text


def test_the_chance_in_a_training_by_the_metrics_that_there_are(place):
    """The user may have asked for others, or for other lengths of the list."""
    for model, seed, score in (("GLINTRU", 666, 0.3), ("GLINTRU", 667, 0.33), ("SASRec", 666, 0.3)):
        readings = {"fixed": {"ndcg@10": score, "recall@5": score}}
        write_made_up(place, beauty(model, seed), score, readings=readings)
    text = write_report(place, "table2")
    assert "among themselves by up to 10.0 % by NDCG@10 (p users" in text


class Drawn:
    """Instead of a generator: the ranks of 50 users, the given ones over and over."""

    def __init__(self, *ranks):
        self.ranks = np.resize(ranks, 50)

    def integers(self, *limits):
        return self.ranks


def test_a_verdict_is_for_users_and_seeds_to_agree_upon(place):
    write_made_up(place, beauty("GLINTRU"), 0.30, Drawn(2, 2, 3))
    write_made_up(place, beauty("SASRec"), 0.25, Drawn(4, 5))
    write_made_up(place, beauty("GRU4Rec"), 0.25, Drawn(2, 3, 2))
    text = write_report(place, "table2")
    assert "* By NDCG@10, the one training of GLINTRU is ahead of SASRec; not settled against GRU4Rec.\n" in text
    assert "p over users below 0.05; another seed may say something else." in text
    write_made_up(place, beauty("GLINTRU", 667), 0.33, Drawn(2, 3, 2))  # 10 % apart
    for model, score, ranks in (
        ("LinRec", 0.30, (4, 5)),
        ("SMLP4Rec", 0.40, (1, 1, 2)),
        ("Mamba4Rec", 0.34, (1, 1, 2)),
    ):
        write_made_up(place, beauty(model), score, Drawn(*ranks))
    text = write_report(place, "table2")
    said = "ahead of SASRec; behind SMLP4Rec; not settled against GRU4Rec, LinRec, Mamba4Rec"
    assert lines_of(text, f"* By NDCG@10, GLINTRU is {said}.") and "that is more than its own seeds differ by." in text


@pytest.mark.parametrize("unended", ["GLINTRU", "SASRec"])
def test_a_training_that_has_not_ended_has_no_verdict(place, unended):
    for model, score, rank in (("GLINTRU", 0.30, 2), ("SASRec", 0.25, 4)):
        write_made_up(place, beauty(model), score, Drawn(rank, rank, rank + 1, 1), partial=model == unended)
    assert not lines_of(write_report(place, "table2"), "* By")


def test_unlike_candidates_have_no_verdict(place):
    write_made_up(place, beauty("GLINTRU"), 0.30, Drawn(2, 2, 3))
    write_made_up(place, beauty("SASRec"), 0.25, Drawn(4, 5), candidates="others")
    assert not lines_of(write_report(place, "table2"), "* By")


@pytest.mark.parametrize("reading", ["uniform", "full"])
def test_other_candidates_are_not_set_beside_the_papers_figures(place, reading):
    for model, score in (("GLINTRU", 0.3), ("SASRec", 0.25)):
        write_made_up(place, beauty(model), score)
    text = write_report(place, "table2", reading=reading)
    shown = text.partition("## Accuracy")[2].partition("## Accuracy")[0].partition("## Every reading")[0]
    assert "margin" in shown and "paper" not in shown and "difference |" not in shown


def test_figures_compare_models_of_the_same_value(place):
    for value, ours, theirs in ((3, 0.3, 0.25), (5, 0.2, 0.25)):
        write_made_up(place, beauty("GLINTRU", kernel_size=value), ours)
        write_made_up(place, beauty("Mamba4Rec", d_conv=value), theirs)
    write_made_up(place, beauty("Mamba4Rec", d_conv=7), 0.25)
    text = write_report(place, "figure3")
    assert "## GLINTRU against the others of the same kernel size" in text
    assert "| GLINTRU, 3 | 2 | 1 | 1 | 1 |" in text and "| GLINTRU, 5 | 2 | 2 | 2 | 2 |" in text
    margins = text.partition("Ranks by the means")[2]
    assert [line[:34] for line in lines_of(margins.partition("##")[0], "| Mamba4Rec")] == [
        "| Mamba4Rec, 3 | 1, 1 | +20.0 % | ",
        "| Mamba4Rec, 5 | 1, 1 | -20.0 % | ",
    ]
    assert "No comparison: no two with this reading." in write_report(place, "figure3", reading="validation_fixed")


def test_widths_are_compared_with_every_model(place):
    for model, score in (("GLINTRU", 0.3), ("SASRec", 0.4), ("LinRec", 0.25)):
        write_made_up(place, beauty(model, hidden_size=32, embedding_size=32), score)
    text = write_report(place, "figure5")
    assert "of the same hidden size" in text and "| GLINTRU, 32 | 3 | 2 | 2 | 2 |" in text
    assert lines_of(text, "| SASRec, 32 | 1, 1 | -25.0 % |") and lines_of(text, "| LinRec, 32 | 1, 1 | +20.0 % |")


def test_each_baseline_says_which_reading_its_figures_support(place):
    def write(model, near):
        paper = {"SASRec": (0.4332, 0.2325, 0.2798), "GRU4Rec": (0.3851, 0.1891, 0.2351)}[model]
        keys = ("recall@10", "mrr@10", "ndcg@10")
        readings = {
            reading: {key: value * (1.02 if reading == near else 1.5) for key, value in zip(keys, paper)}
            for reading in FACTORS
        }
        write_made_up(place, beauty(model), 0.3, readings=readings)

    write_made_up(place, beauty("GLINTRU"), 0.3)
    write("SASRec", "validation")
    write("GRU4Rec", "uniform")
    text = write_report(place, "table2").partition("From the paper's figures")[2].partition("##")[0]
    for model, near in (("SASRec", "validation"), ("GRU4Rec", "uniform")):
        (line,) = lines_of(text, f"| {model} |")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1 + list(running.READINGS).index(near)] == "+2.0 % (2.0 %)"
        assert cells[-1] == running.READINGS[near].format(mode="pop100", number="100")
        assert cells[1 + list(running.READINGS).index("validation_fixed")] == "-"  # no result has it
    (line,) = lines_of(text, "| all |")
    assert "+26.0 % (26.0 %)" in line and "+50.0 % (50.0 %)" in line


def test_a_baseline_that_has_not_ended_does_not_count_among_all(place):
    write_made_up(place, beauty("SASRec"), 0.3, partial=True)
    for model in ("GRU4Rec", "LinRec"):
        write_made_up(place, beauty(model), 0.3)
    text = write_report(place, "table2")
    assert lines_of(text, "| SASRec (2 of 200 epochs) |") and lines_of(text, "| all that have ended |")
