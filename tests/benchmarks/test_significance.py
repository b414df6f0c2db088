"""`benchmarks/reproduce.py`: its tests of significance."""

import math

import numpy as np
import pytest
import reproduce_cells  # noqa: F401  first: it makes the benchmarks importable
from reproduction import significance
from reproduction.cells import Result


def test_the_paired_t_test_against_hand_computed_values():
    # Differences 1, 2, 3, 4: t = sqrt(15), three degrees of freedom, for which p has a closed form.
    x = math.sqrt(5)
    expected = 1 - 2 / math.pi * (math.atan(x) + x / (1 + x * x))
    assert significance.paired_t_test([2, 4, 6, 8], [1, 2, 3, 4]) == pytest.approx(expected)
    # Differences 1 and 3: t = 2, one degree of freedom, the Cauchy distribution.
    assert significance.paired_t_test([1, 3], [0, 0]) == pytest.approx(1 - 2 / math.pi * math.atan(2))
    assert significance.paired_t_test([1], [2]) is None
    assert significance.paired_t_test([], []) is None


@pytest.mark.parametrize("gain", [0.0, 0.01, 1 / 3])
def test_differences_that_are_all_the_same_have_no_p(gain):
    theirs = np.array([0.1, 0.2, 0.7])  # their sums with the gain are rounded in different ways
    assert significance.paired_t_test(theirs + gain, theirs) is None


def test_metrics_of_a_user():
    values = significance.per_user(np.array([1, 2, 0, 10], dtype=np.uint8))
    np.testing.assert_allclose(values["Recall@10"], [1, 1, 0, 1])
    np.testing.assert_allclose(values["MRR@10"], [1, 0.5, 0, 0.1])
    np.testing.assert_allclose(values["NDCG@10"], [1, 1 / math.log2(3), 0, 1 / math.log2(11)])


def test_places_after_the_tenth_are_none():
    """With `topk=[10, 20]`: RecBole's list is as long as the longest, and the metrics are of ten."""
    values = significance.per_user(np.array([10, 11, 20], dtype=np.uint8))
    np.testing.assert_allclose(values["Recall@10"], [1, 0, 0])
    np.testing.assert_allclose(values["MRR@10"], [0.1, 0, 0])
    np.testing.assert_allclose(values["NDCG@10"], [1 / math.log2(11), 0, 0])


def made_up(ranks, candidates="a"):
    return Result({"candidates": candidates, "readings": {}}, {"fixed": np.array(ranks, dtype=np.uint8)})


def test_users_are_paired_over_all_seeds_of_each():
    ours = {1: made_up([1, 1, 2, 0]), 2: made_up([1, 2, 0, 0]), 3: Result({"readings": {}})}
    theirs = {2: made_up([2, 0, 0, 0])}
    p, same = significance.over_users(ours, theirs, "fixed", "MRR@10")
    expected = significance.paired_t_test([1, 0.75, 0.25, 0], [0.5, 0, 0, 0])
    assert p == pytest.approx(expected) and same
    assert significance.over_users(ours, {2: made_up([1, 1, 1, 1], "b")}, "fixed", "MRR@10")[1] is False
    assert significance.over_users(ours, {}, "fixed", "MRR@10") == (None, False)
    assert significance.over_users(ours, theirs, "test", "MRR@10") == (None, False)


def test_seeds_are_compared_by_the_metrics_of_their_ranks():
    ours = {1: made_up([1, 1, 2, 0]), 2: made_up([1, 2, 0, 0]), 3: made_up([1, 0, 0, 0])}
    theirs = {1: made_up([2, 0, 0, 0]), 2: made_up([2, 2, 2, 0]), 3: made_up([9, 0, 0, 0])}
    for results in (ours, theirs):  # what RecBole reports is rounded: here to nothing
        for result in results.values():
            result.record["readings"]["fixed"] = {"mrr@10": 0.5}
    expected = significance.paired_t_test([2.5 / 4, 1.5 / 4, 1 / 4], [0.5 / 4, 1.5 / 4, 1 / 36])
    assert significance.over_seeds(ours, theirs, "fixed", "MRR@10") == pytest.approx(expected)


def test_without_ranks_differences_within_the_last_decimal_are_the_same():
    def reported(*values):
        return {seed: Result({"readings": {"test": {"mrr@10": value}}}) for seed, value in enumerate(values)}

    def p(ours, theirs):
        return significance.over_seeds(ours, theirs, "test", "MRR@10")

    assert p(reported(0.2101, 0.2202), reported(0.2, 0.21)) is None  # 0.0101 and 0.0102
    expected = significance.paired_t_test([0.2101, 0.2303], [0.2, 0.22])
    assert p(reported(0.2101, 0.2303), reported(0.2, 0.22)) == pytest.approx(expected)
    assert p(reported(0.2101, 0.2303), {0: Result({"readings": {"test": {}}})}) is None


def test_seeds_without_the_reading_do_not_count():
    ours, theirs = {1: made_up([1, 0]), 2: made_up([0, 3])}, {1: made_up([2, 0]), 2: Result({"readings": {}})}
    assert significance.seeds_with(ours, "fixed") == [1, 2] and significance.seeds_with(theirs, "fixed") == [1]
    assert significance.over_seeds(ours, theirs, "fixed", "MRR@10") is None  # one is common
    unlike = {1: made_up([2, 0, 0])}
    assert significance.over_users(ours, unlike, "fixed", "MRR@10") == (None, False)
