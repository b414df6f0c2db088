"""The parts of a report that compare one model with the others, and the readings with the paper."""

import itertools
import math
import statistics
from typing import Optional

from reproduction import grids, significance
from reproduction.markdown import number, p, percent, table
from reproduction.rows import Row

EXPLAINED = (
    "Margins are relative to the other, of the means over all seeds of each, whose numbers are given. p is of "
    "two-sided paired t-tests: over users, of each the mean over all seeds of a model, and over the seeds that both "
    "have. There is - where nothing can be tested: one seed, differences that are all the same, or a reading that has "
    "no fixed candidates."
)
OTHER_QUANTITIES = ("uniform", "full")  # readings of other candidates than those of the paper's figures
SIGNIFICANT = 0.05  # p over users below this is significant
UNLIKE = "Not all had the same candidates: p over users is of unlike draws."


def against_one(rows: list[Row], reference: Row, reading: str, labels: dict[str, str]) -> str:
    """The reference's rank, its margin over each of the others, and p of both tests."""
    title = f"## {reference.label} against the others: {labels[reading]}"
    having = [row for row in rows if _has(row, reading)]
    if reference not in having:
        return f"{title}\n\nNo comparison: {reference.label} does not have this reading."
    if len(having) < 2:
        return f"{title}\n\nNo comparison: no other has this reading."
    places = [f"{place} by {metric}" for metric, place in _places(having, reference, reading).items()]
    others, apart = [row for row in having if row is not reference], _seeds_apart(reference, reading)
    printed = reading not in OTHER_QUANTITIES and any(row.paper for row in rows)
    return "\n\n".join(
        [
            title,
            *_verdicts(reference, others, reading, apart),
            f"Rank of {len(having)}, by the means over all seeds of each: {', '.join(places)}. {EXPLAINED}",
            *_margins([(reference, row) for row in others], reading, printed),
            *_between_seeds(reference, apart),
            *_without(rows, having),
        ]
    )


def at_each_value(rows: list[Row], model: str, what: str, reading: str, labels: dict[str, str]) -> str:
    """The model against the others at the same value of what a figure varies: its ranks, margins and p."""
    having, ranks, pairs = [row for row in rows if _has(row, reading)], [], []
    for reference in (row for row in having if row.variant.model == model):
        same = [row for row in having if row.variant.value == reference.variant.value]
        if len(same) > 1:
            places = _places(same, reference, reading)
            ranks.append([reference.label, str(len(same)), *map(str, places.values())])
            pairs += [(reference, row) for row in same if row.variant.model != model]
    title = f"## {model} against the others of the same {what}: {labels[reading]}"
    if not pairs:
        return "\n\n".join([title, "No comparison: no two with this reading.", *_without(rows, having)])
    return "\n\n".join(
        [
            title,
            table(["", "rank of", *(f"by {metric}" for metric in grids.METRICS)], ranks),
            f"Ranks by the means over all seeds of each. {EXPLAINED}",
            *_margins(pairs, reading, printed=False),
            *_without(rows, having),
        ]
    )


def _has(row: Row, reading: str) -> bool:
    return any(row.values(reading, metric) for metric in grids.METRICS)


def _without(rows: list[Row], having: list[Row]) -> list[str]:
    left_out = [row.label for row in rows if row not in having]
    return [f"Left out, without this reading: {'; '.join(left_out)}."] if left_out else []


def _places(rows: list[Row], reference: Row, reading: str) -> dict[str, int]:
    """Metric -> the reference's rank among the rows, for the metrics that it has."""
    means = {metric: reference.mean(reading, metric) for metric in grids.METRICS}
    return {
        metric: 1 + sum(row.mean(reading, metric) > mean for row in rows)
        for metric, mean in means.items()
        if not math.isnan(mean)
    }


def _margins(pairs: list[tuple[Row, Row]], reading: str, printed: bool) -> list[str]:
    """A line for each pair, and a note if their candidates differ."""
    head, lines, alike = ["against", "seeds, theirs"], [], True
    for metric in grids.METRICS:
        head += [f"{metric}: margin", *(["paper's"] if printed else []), "p users", "p seeds"]
    for ours, theirs in pairs:
        numbers = (len(significance.seeds_with(row.results, reading)) for row in (ours, theirs))
        line = [theirs.label, ", ".join(map(str, numbers))]
        for metric in grids.METRICS:
            p_users, same = significance.over_users(ours.results, theirs.results, reading, metric)
            alike = alike and (same or p_users is None)
            other = theirs.mean(reading, metric)
            line.append(percent(ours.mean(reading, metric) / other - 1 if other else None))
            if printed:
                both = metric in ours.paper and metric in theirs.paper
                line.append(percent(ours.paper[metric] / theirs.paper[metric] - 1 if both else None))
            line += [p(p_users), p(significance.over_seeds(ours.results, theirs.results, reading, metric))]
        lines.append(line)
    return [table(head, lines), *([] if alike else [UNLIKE])]


def _verdicts(reference: Row, others: list[Row], reading: str, apart: dict[str, tuple[float, float]]) -> list[str]:
    """Which models the reference is ahead of, and which it trails, by each metric, unless users or seeds explain it.

    An unfinished training gets no verdict.

    Args:
        apart: how far the reference's own seeds are apart, from `_seeds_apart`.
    """
    if reference.so_far():
        return []
    lines = []
    whose = reference.label if apart else f"the one training of {reference.label}"
    for metric in grids.METRICS:
        found: dict[str, list[str]] = {"ahead of": [], "behind": [], "not settled against": []}
        mean = reference.mean(reading, metric)
        for row in others:
            p_users, same = significance.over_users(reference.results, row.results, reading, metric)
            other = row.mean(reading, metric)
            if row.so_far() or p_users is None or not same or not other:
                continue
            chance, _ = apart.get(metric, (0.0, 1.0))
            settled = p_users < SIGNIFICANT and abs(mean / other - 1) > chance
            found[("ahead of" if mean > other else "behind") if settled else "not settled against"].append(row.label)
        said = "; ".join(f"{what} {', '.join(labels)}" for what, labels in found.items() if labels)
        if said:
            lines.append(f"* By {metric}, {whose} is {said}.")
    if not lines:
        return []
    rule = f"Settled is a margin of {reference.label}'s with p over users below {SIGNIFICANT}"
    of_seeds = " that is more than its own seeds differ by." if apart else "; another seed may say something else."
    return ["\n".join(lines), rule + of_seeds]


def _between_seeds(row: Row, apart: dict[str, tuple[float, float]]) -> list[str]:
    """How far the row's own seeds are apart, that is, the effect of chance in training."""
    if not apart:
        return []
    said = (f"{percent(margin, '')} by {metric} (p users {p(value)})" for metric, (margin, value) in apart.items())
    return [
        f"Seeds of {row.label} differ among themselves by up to {', '.join(said)}. p over users does not know of the "
        "chance in a training: where the other has one seed, a margin of that size may be no more than that."
    ]


def _seeds_apart(row: Row, reading: str) -> dict[str, tuple[float, float]]:
    """Metric -> the largest margin of one of the row's seeds over another, and p of it over users."""
    seeds = [seed for seed in significance.seeds_with(row.results, reading) if reading in row.results[seed].ranks]
    largest = {}
    for one, other in itertools.combinations(seeds, 2):
        results = {one: row.results[one]}, {other: row.results[other]}
        for metric in grids.METRICS:
            values = row.values(reading, metric, [one, other])
            p_users, _ = significance.over_users(*results, reading, metric)
            if p_users is not None and len(values) == 2 and min(values) > 0:
                margin = max(values) / min(values) - 1
                largest[metric] = max(largest.get(metric, (0.0, 1.0)), (margin, p_users))
    return largest


def every_reading(rows: list[Row], labels: dict[str, str]) -> str:
    """A table for each metric, and the reading that is nearest to the paper's figures."""
    blocks = ["## Every reading"]
    for metric in grids.METRICS:
        printed = any(metric in row.paper for row in rows)
        head = [metric, *labels.values(), *(["paper"] if printed else [])]
        lines = [
            [row.label, *(number(row.mean(reading, metric)) for reading in labels)]
            + ([number(row.paper.get(metric))] if printed else [])
            for row in rows
        ]
        blocks.append(table(head, lines))
    others = _published_others(rows)
    return "\n\n".join(blocks + (_nearest_reading(others, labels) if others else []))


def supported_reading(rows: list[Row], labels: dict[str, str]) -> Optional[str]:
    """The reading that is nearest to the paper's figures of all models but GLINT-RU; None without figures."""
    distances = _distances([row for row in _published_others(rows) if not row.so_far()], labels)
    return _nearest(distances)


def _published_others(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.variant.model != "GLINTRU" and grids.METRICS[0] in row.paper]


def _nearest_reading(rows: list[Row], labels: dict[str, str]) -> list[str]:
    """How far each model, and all together, are from the paper's figures by each reading."""
    ended = [row for row in rows if not row.so_far()]
    lines = [_distance_line(row.label, [row], labels) for row in rows]
    if len(ended) > 1:
        lines.append(_distance_line("all that have ended" if len(ended) < len(rows) else "all", ended, labels))
    return [
        f"From the paper's figures, over the three metrics and all models but GLINT-RU "
        f"({', '.join(row.label for row in rows)}): mean difference and, in brackets, mean distance. The nearest "
        "reading, of those that a model's results have, is the one that its published figures support best.",
        table(["", *labels.values(), "nearest"], lines),
    ]


def _distances(rows: list[Row], labels: dict[str, str]) -> dict[str, tuple[float, float]]:
    """Reading -> mean difference from the paper's figures and mean distance, for the readings that all results have."""
    found = {
        reading: [row.difference(reading, metric) for row in rows for metric in grids.METRICS] for reading in labels
    }
    return {
        reading: (statistics.mean(differences), statistics.mean(map(abs, differences)))
        for reading, differences in found.items()
        if differences and None not in differences  # older results do not have every reading
    }


def _distance_line(label: str, rows: list[Row], labels: dict[str, str]) -> list[str]:
    distances = _distances(rows, labels)
    cells = (
        f"{percent(distances[reading][0])} ({percent(distances[reading][1], '')})" if reading in distances else "-"
        for reading in labels
    )
    return [label, *cells, labels.get(_nearest(distances), "-")]


def _nearest(distances: dict[str, tuple[float, float]]) -> Optional[str]:
    return min(distances, key=lambda reading: distances[reading][1]) if distances else None
