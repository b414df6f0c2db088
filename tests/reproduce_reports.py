"""Results that are made up, for the tests of the reports."""

import json
from dataclasses import replace

import numpy as np
import reproduce_cells  # noqa: F401  first: it makes the benchmarks importable
from reproduction import grids, report
from reproduction.cells import Result, cell

FACTORS = {"validation": 1.1, "test": 1.0, "fixed": 1.0, "uniform": 1.3, "full": 0.1}  # reading -> of the score


def write_made_up(place, one, score, generator=None, **changes):
    """A result with NDCG@10 `score`, and the other metrics and readings in proportion."""
    generator = generator or np.random.default_rng(one.seed)
    metrics = {"recall@10": 1.5 * score, "mrr@10": 0.8 * score, "ndcg@10": score}
    readings = {reading: {key: value * factor for key, value in metrics.items()} for reading, factor in FACTORS.items()}
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
        "versions": {},
        "device": {"type": "cpu", "name": "A processor", "threads": 2},
        "configuration": {"eval_batch_size": 2048},
        "epochs": 2 * [{"seconds": seconds, "mixing": [[0.4, 0.6]]}],
        "mixing_at_start": [[0.5, 0.5]],
        **changes,
    }
    place.store.write(one, Result(record, {"fixed": generator.integers(0, 11, 50).astype(np.uint8)}))


def write_report(place, name, dataset="amazon-beauty", seeds=(666, 667), reading="fixed", models=None, own=None):
    """`own`: model -> settings, as the user gives them for one model."""
    variants = [replace(one, own=(own or {}).get(one.model, {})) for one in grids.variants(name, models)]
    return report.write(name, dataset, dataset, {}, place, variants, list(seeds), reading)


def beauty(model, seed=666, **changes):
    return cell("amazon-beauty", "amazon-beauty", model, seed, changes)
