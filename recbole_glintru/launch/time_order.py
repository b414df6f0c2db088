"""Check that RecBole's order of a user's interactions is that of their times."""

import logging

import numpy as np

from recbole_glintru.launch.checks import sorts_by_time

RARE = 0.005  # share of the interactions: below the differences between seeds. For ml-100k, as RecBole scales it: 0.004
AS_PUBLISHED = ("ml-1m",)  # published results, including the paper's, use the order of the file within a step


def warn(config, dataset) -> None:
    """Warn if interactions are out of the order of their times.

    RecBole stores a float as float32, which has steps, of 128 s for current Unix timestamps, and a token as its rank by
    first appearance in the file. Its sort is stable: among equals the order of the file is kept. `additions.py` calls
    this if the settings say `check_data: True`.

    Args:
        dataset: not split yet: until then RecBole has the times, filtered and scaled, as float64; if they are one of
            the `numerical_features`, they are lists, which are not checked.
    """
    from recbole.utils import FeatureType

    field, rows = dataset.time_field, dataset.inter_feat
    if not sorts_by_time(config) or config["dataset"] in AS_PUBLISHED:
        return
    users, times = rows[dataset.uid_field].to_numpy(), rows[field].to_numpy()
    if dataset.field2type[field] == FeatureType.TOKEN:
        held, times = times, _values(dataset.field2id_token[field])[times]
    elif times.dtype == float:
        held = times.astype(np.float32)
    else:
        return
    by_recbole, by_time = np.lexsort((held, users)), np.lexsort((times, users))
    wrong = by_recbole[by_recbole != by_time]
    if len(wrong) <= RARE * len(rows):
        return
    if held.dtype == np.float32:
        steps = np.spacing(held[wrong]).max()
        why = f"stores times as float32, here in steps of {steps:g}, and keeps the order of the file within a step"
        remedy = "Sort the file by time."
    else:
        why = "puts times of type token into the order in which the file first has them"
        remedy = "Make the column's type float, or sort the file by time."
    logging.getLogger().warning(
        f"TIME_FIELD={field!r}: RecBole {why}: {len(wrong)} of {len(rows)} interactions of {dataset.dataset_name} are "
        f"not in the order of time. {remedy}"
    )


def _values(tokens: np.ndarray) -> np.ndarray:
    """What tokens are sorted by: their numbers, if all of them are some, otherwise their letters, as ISO dates are.

    The first is RecBole's padding.
    """
    try:
        return np.array([np.nan, *map(float, tokens[1:])])
    except ValueError:
        return np.array(tokens, dtype=str)
