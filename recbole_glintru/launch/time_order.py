"""Check that RecBole's order of a user's interactions is that of their times, which it stores as float32."""

import logging

import numpy as np

from recbole_glintru.launch.checks import sorts_by_time

RARE = 0.005  # share of the interactions: below the differences between seeds. For ml-100k, as RecBole scales it: 0.004
AS_PUBLISHED = ("ml-1m",)  # published results, including the paper's, use the order of the file within a step


def warn(config, dataset) -> None:
    """Warn if interactions are out of the order of their times.

    Float32 has steps, of 128 s for current Unix timestamps. RecBole's sort is stable: within a step the order of the
    file is kept. `additions.py` calls this if the settings say `check_data: True`.

    Args:
        dataset: not split yet: until then RecBole has the times, filtered and scaled, as float64; if they are one of
            the `numerical_features`, they are lists, which are not checked.
    """
    field, rows = dataset.time_field, dataset.inter_feat
    if not sorts_by_time(config) or config["dataset"] in AS_PUBLISHED or rows[field].dtype != float:
        return
    users, times = rows[dataset.uid_field].to_numpy(), rows[field].to_numpy()
    held = times.astype(np.float32)
    by_recbole, by_time = np.lexsort((held, users)), np.lexsort((times, users))
    wrong = by_recbole[by_recbole != by_time]
    if len(wrong) <= RARE * len(rows):
        return
    logging.getLogger().warning(
        f"TIME_FIELD={field!r}: RecBole stores times as float32, here in steps of {np.spacing(held[wrong]).max():g}, "
        f"and keeps the order of the file within a step: {len(wrong)} of {len(rows)} interactions of "
        f"{dataset.dataset_name} are not in the order of time. Sort the file by time."
    )
