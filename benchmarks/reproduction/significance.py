"""Whether one model is better than another or was lucky: two-sided paired t-tests over users and over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from reproduction.cells import Result

DECIMAL = 1e-4  # the last one of the metrics that RecBole reports


def per_user(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """The values per user whose means are RecBole's metrics, with one target per user.

    Args:
        ranks: `[users]`, the place of the target, from 1, in a list that may be longer than ten; 0 if it is not there.
    """
    found = (ranks > 0) & (ranks <= 10)
    places = np.where(found, ranks, 1).astype(float)
    return {"Recall@10": found * 1.0, "MRR@10": found / places, "NDCG@10": found / np.log2(places + 1)}


def paired_t_test(ours: Sequence[float], theirs: Sequence[float], resolution: float = 0.0) -> Optional[float]:
    """p for the hypothesis that the mean of the differences is zero.

    None if p is undefined: fewer than two differences, or all of them the same, without variance.

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


def seeds_with(results: Mapping[int, Result], reading: str) -> list[int]:
    """The seeds that have the reading."""
    return [
        seed
        for seed, result in results.items()
        if reading in result.ranks or bool(result.record["readings"].get(reading))
    ]


def over_users(
    ours: Mapping[int, Result], theirs: Mapping[int, Result], reading: str, metric: str
) -> tuple[Optional[float], bool]:
    """p over users, and whether both models had the same candidates.

    The value of a user is the mean over all seeds of a model.

    Args:
        ours, theirs: seed -> result.
    """
    found = [[results[seed] for seed in seeds_with(results, reading)] for results in (ours, theirs)]
    every = [result for results in found for result in results]
    if not all(found) or any(reading not in result.ranks for result in every):
        return None, False
    if len({len(result.ranks[reading]) for result in every}) > 1:
        return None, False
    means = [np.mean([per_user(result.ranks[reading])[metric] for result in results], axis=0) for results in found]
    drawn = {_candidates(result, reading) for result in every}
    return paired_t_test(*means), len(drawn) == 1 and None not in drawn


def _candidates(result: Result, reading: str) -> Any:
    """A value that is the same for two results of a reading if their candidates are the same."""
    drawn = result.record.get("candidates")
    if not isinstance(drawn, dict):
        return drawn  # an older result, which has it for the reading "fixed"
    return result.record.get("items") if reading == "full" else drawn.get(reading)


def over_seeds(ours: Mapping[int, Result], theirs: Mapping[int, Result], reading: str, metric: str) -> Optional[float]:
    """p over the seeds that both have; None if there are fewer than two, or their differences are the same.

    Metrics are computed from the ranks; if a reading has none, RecBole's rounded ones are used.
    """
    values, resolution = ([], []), 0.0
    common = [seed for seed in seeds_with(ours, reading) if seed in seeds_with(theirs, reading)]
    for seed in common:
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
