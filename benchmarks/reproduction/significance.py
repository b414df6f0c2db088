"""Is one model better than another, or did it have luck? Two-sided paired t-tests over users and over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Optional

import numpy as np

from reproduction.cells import Result


def per_user(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """What RecBole's metrics are the means of, with one target a user.

    Args:
        ranks: `[users]`, the place of the target among the first ten, from 1, or 0 if it is not there.
    """
    found = ranks > 0
    places = np.where(found, ranks, 1).astype(float)
    return {"Recall@10": found * 1.0, "MRR@10": found / places, "NDCG@10": found / np.log2(places + 1)}


def paired_t_test(ours: Sequence[float], theirs: Sequence[float]) -> Optional[float]:
    """p of the hypothesis that the mean of the differences is zero; None where there are fewer than two of them.

    The same numbers twice are no evidence of a difference: p is 1.
    """
    from scipy import stats

    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    if len(differences) < 2:
        return None
    if not differences.any():
        return 1.0
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return p if math.isfinite(p) else 0.0  # all differences the same, and not zero


def over_users(
    ours: Mapping[int, Result], theirs: Mapping[int, Result], reading: str, metric: str
) -> tuple[Optional[float], bool]:
    """p over users, and whether both models had the same candidates.

    Of each user the mean over the seeds that both have counts.

    Args:
        ours, theirs: seed -> result.
    """
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds or any(reading not in results[seed].ranks for results in (ours, theirs) for seed in seeds):
        return None, False
    means = []
    for results in (ours, theirs):
        users = [per_user(results[seed].ranks[reading])[metric] for seed in seeds]
        means.append(np.mean(users, axis=0))
    if len(means[0]) != len(means[1]):
        return None, False
    drawn = {results[seed].record["candidates"] for results in (ours, theirs) for seed in seeds}
    return paired_t_test(*means), len(drawn) == 1


def over_seeds(ours: Mapping[int, Result], theirs: Mapping[int, Result], reading: str, metric: str) -> Optional[float]:
    """p over the seeds that both have; None if there are fewer than two."""
    seeds = [seed for seed in ours if seed in theirs]
    values = [
        [results[seed].record["readings"][reading][metric.lower()] for seed in seeds] for results in (ours, theirs)
    ]
    return paired_t_test(*values)
