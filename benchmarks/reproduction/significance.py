"""Is one model better than another, or did it have luck? Two-sided paired t-tests over users and over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from reproduction.cells import Result

DECIMAL = 1e-4  # the last one of the metrics that RecBole reports


def per_user(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """What RecBole's metrics are the means of, with one target a user.

    Args:
        ranks: `[users]`, the place of the target among the first ten, from 1, or 0 if it is not there.
    """
    found = ranks > 0
    places = np.where(found, ranks, 1).astype(float)
    return {"Recall@10": found * 1.0, "MRR@10": found / places, "NDCG@10": found / np.log2(places + 1)}


def paired_t_test(ours: Sequence[float], theirs: Sequence[float], resolution: float = 0.0) -> Optional[float]:
    """p of the hypothesis that the mean of the differences is zero.

    None where there is no such p: fewer than two differences, or all of them the same, so that they have no variance.

    Args:
        resolution: differences that are no farther apart are the same.
    """
    from scipy import stats

    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if len(ours) < 2:
        return None
    differences = ours - theirs
    rounding = 1e-9 * max(np.abs(ours).max(), np.abs(theirs).max())
    if np.ptp(differences) <= resolution + rounding:
        return None
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def common_seeds(ours: Mapping[int, Result], theirs: Mapping[int, Result], reading: str) -> list[int]:
    """The seeds that both have, with that reading."""

    def has(result):
        return reading in result.ranks or bool(result.record["readings"].get(reading))

    return [seed for seed in ours if seed in theirs and has(ours[seed]) and has(theirs[seed])]


def over_users(
    ours: Mapping[int, Result], theirs: Mapping[int, Result], reading: str, metric: str
) -> tuple[Optional[float], bool]:
    """p over users, and whether both models had the same candidates.

    Of each user the mean over the seeds that both have counts.

    Args:
        ours, theirs: seed -> result.
    """
    seeds = common_seeds(ours, theirs, reading)
    found = [results[seed] for results in (ours, theirs) for seed in seeds]
    if not found or any(reading not in result.ranks for result in found):
        return None, False
    if len({len(result.ranks[reading]) for result in found}) > 1:
        return None, False
    users = [per_user(result.ranks[reading])[metric] for result in found]
    drawn = {_candidates(result, reading) for result in found}
    p = paired_t_test(np.mean(users[: len(seeds)], axis=0), np.mean(users[len(seeds) :], axis=0))
    return p, len(drawn) == 1 and None not in drawn


def _candidates(result: Result, reading: str) -> Any:
    """What is the same for two results of a reading if their candidates are."""
    drawn = result.record.get("candidates")
    if not isinstance(drawn, dict):
        return drawn  # an older result, which says it of the reading "fixed"
    return result.record.get("items") if reading == "full" else drawn.get(reading)


def over_seeds(ours: Mapping[int, Result], theirs: Mapping[int, Result], reading: str, metric: str) -> Optional[float]:
    """p over the seeds that both have; None if there are fewer than two, or their differences are the same.

    Metrics are computed from the ranks; where a reading has none, RecBole's are taken, which it rounds.
    """
    values, resolution = ([], []), 0.0
    for seed in common_seeds(ours, theirs, reading):
        for results, found in zip((ours, theirs), values):
            result = results[seed]
            if reading in result.ranks:
                found.append(float(per_user(result.ranks[reading])[metric].mean()))
            elif metric.lower() in result.record["readings"][reading]:
                found.append(result.record["readings"][reading][metric.lower()])
                resolution = DECIMAL
            else:
                return None
    return paired_t_test(*values, resolution)
