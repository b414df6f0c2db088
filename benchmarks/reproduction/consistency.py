"""Whether figures that the paper prints side by side can belong to one ranking."""

import math
from itertools import combinations, product

from reproduction.rows import Row

LAST = 10  # the places that count, as in Recall@10
HALF = 5e-5  # half of the last decimal that the paper prints
ROUNDING = 1e-12


def ndcg_range(recall: float, mrr: float) -> tuple[float, float]:
    """The smallest and the largest NDCG@10 that one target for each user allows; (inf, -inf) if there is none.

    All three metrics are sums over the places 1 to 10 of the share of the users whose target is there, which counts 1,
    1 / place and 1 / log2(place + 1). With two of the sums given, the third is extreme where all targets share two
    places (the vertices of a linear programme).
    """
    smallest, largest = math.inf, -math.inf
    for first, second in combinations(range(1, LAST + 1), 2):
        at_first = (mrr - recall / second) / (1 / first - 1 / second)
        shares = (at_first, recall - at_first)
        if min(shares) < -ROUNDING:
            continue
        ndcg = sum(share / math.log2(place + 1) for share, place in zip(shares, (first, second)))
        smallest, largest = min(smallest, ndcg), max(largest, ndcg)
    return smallest, largest


def contradictions(rows: list[Row]) -> list[str]:
    """A note for each row for which the paper prints an NDCG@10 that its Recall@10 and MRR@10 exclude."""
    notes = []
    for row in rows:
        if not {"Recall@10", "MRR@10", "NDCG@10"} <= set(row.paper):
            continue
        recall, mrr, ndcg = (row.paper[metric] for metric in ("Recall@10", "MRR@10", "NDCG@10"))
        corners = [ndcg_range(recall + x, mrr + y) for x, y in product((-HALF, HALF), repeat=2)]
        smallest, largest = min(low for low, _ in corners), max(high for _, high in corners)
        if not smallest - HALF <= ndcg <= largest + HALF:
            notes.append(
                f"The paper's figures for {row.variant.label} contradict each other: with a Recall@10 of {recall:.4f} "
                f"and an MRR@10 of {mrr:.4f}, NDCG@10 is {smallest:.4f} to {largest:.4f}, and {ndcg:.4f} is printed."
            )
    return notes
