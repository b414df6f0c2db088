"""The plots, made with matplotlib and adjustText if these are installed."""

import importlib.util
import math
import sys
from pathlib import Path

from measure.plots import label_points, plain_numbers

from reproduction import grids
from reproduction.rows import Row, batch_of

VARIED = {"layers": "layers", "kernel": "kernel size", "width": "hidden size"}


def draw(experiment: grids.Experiment, rows: list[Row], reading: str, label: str, title: str, file: Path) -> bool:
    """Plot what the experiment varies, and return whether there is a picture."""
    missing = [name for name in ("matplotlib", "adjustText") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"no picture without {' and '.join(missing)}: pip install '.[bench]'", file=sys.stderr)
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if experiment.kind in VARIED:
        figure = _curves(pyplot, rows, reading, label, VARIED[experiment.kind])
    elif experiment.kind == "mixing":
        figure = _mixing(pyplot, rows[0])
    else:
        rows = [row for row in rows if all(row.values(reading, metric) for metric in grids.METRICS)]
        if not rows:
            return False
        figure = {"models": _scatter}.get(experiment.kind, _dots)(pyplot, rows, reading, label)
    figure.suptitle(title)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)
    return True


def _scatter(pyplot, rows, reading, label):
    """NDCG@10 against the time of an epoch; the area of a point is the peak memory."""
    figure, axes = pyplot.subplots(figsize=(8, 5.5))
    points = {}
    for row in rows:
        memory = 0 if math.isnan(row.peak_memory()) else row.peak_memory()
        seconds, score = row.training("cpu_seconds_per_epoch"), row.mean(reading, "NDCG@10")
        if row.one()["device"]["type"] == "cuda":
            seconds = row.training("seconds_per_epoch")
        if math.isnan(seconds):
            continue
        ours = row.variant.model == "GLINTRU"
        axes.scatter(seconds, score, s=20 + memory / 5, alpha=0.6, color="tab:red" if ours else "tab:blue")
        points[f"{row.label}, {memory:,.0f} MiB"] = (seconds, score)
    axes.set_xscale("log")
    axes.margins(0.1, 0.15)
    plain_numbers(axes.xaxis)
    axes.set_xlabel("seconds an epoch (of CPU time without a GPU); area: peak memory")
    axes.set_ylabel(f"NDCG@10, {label}")
    axes.grid(alpha=0.3)
    if points:
        label_points(axes, points)
    return figure


def _dots(pyplot, rows, reading, label):
    """Our results, and the paper's; grey is the range of the first row's seeds."""
    height = 1.8 + 0.3 * len(rows)
    figure, panels = pyplot.subplots(1, len(grids.METRICS), figsize=(4 * len(grids.METRICS), height), sharey=True)
    places = range(len(rows))
    for axes, metric in zip(panels, grids.METRICS):
        seeds = rows[0].values(reading, metric)
        if len(seeds) > 1:
            axes.axvspan(min(seeds), max(seeds), color="0.9", label=f"{len(seeds)} seeds of {rows[0].label}")
        axes.plot([row.mean(reading, metric) for row in rows], places, "o", color="tab:blue", label=label)
        printed = [(row.paper[metric], place) for place, row in enumerate(rows) if metric in row.paper]
        if printed:
            axes.plot(*zip(*printed), "D", color="tab:orange", markerfacecolor="none", label="paper")
        axes.set_yticks(list(places), [row.label for row in rows])
        axes.set_title(metric)
        axes.margins(x=0.1, y=0.6 / len(rows))
        axes.grid(alpha=0.3)
    panels[0].invert_yaxis()  # of all, which share it
    below = (0.5, -0.4 / (height - 1.2))  # 0.4 inches below the middle panel
    panels[len(panels) // 2].legend(loc="upper center", bbox_to_anchor=below, ncol=3, fontsize="small")
    return figure


def _curves(pyplot, rows, reading, label, what):
    """Accuracy, time and memory against the varied number, with a line for each model."""
    panels_of = {
        **{metric: lambda row, metric=metric: row.mean(reading, metric) for metric in grids.METRICS},
        "s an epoch": lambda row: row.training("seconds_per_epoch"),
        f"ms of a test pass per {batch_of(rows)}": Row.batch_milliseconds,
        "peak MiB": Row.peak_memory,
    }
    figure, panels = pyplot.subplots(2, 3, figsize=(12, 7))
    models = dict.fromkeys(row.variant.model for row in rows)
    for axes, (name, value) in zip(panels.flat, panels_of.items()):
        for model in models:
            own = sorted((row for row in rows if row.variant.model == model), key=lambda row: row.variant.value)
            axes.plot([row.variant.value for row in own], [value(row) for row in own], marker="o", label=model)
            for row in own:
                if row.so_far() and not math.isnan(value(row)):
                    axes.annotate(row.so_far(), (row.variant.value, value(row)), fontsize="x-small")
        axes.set_title(f"{name}, {label}" if name in grids.METRICS else name, fontsize="small")
        axes.set_xticks(sorted({row.variant.value for row in rows}))
        axes.grid(alpha=0.3)
    figure.supxlabel(what)
    panels.flat[0].legend(fontsize="small")
    return figure


def _mixing(pyplot, row):
    """The two weights after every epoch; the seeds after the first are drawn thin."""
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for rank, weights in enumerate(row.mixing().values()):
        for block in range(len(weights[0])):
            suffix = f", block {block + 1}" if len(weights[0]) > 1 else ""
            for number, expert in enumerate(("dense selective GRU", "linear attention")):
                look = {"label": expert + suffix} if rank == 0 else {"linewidth": 0.6}
                axes.plot([at[block][number] for at in weights], color=f"C{2 * block + number}", **look)
    axes.set_title(row.so_far(), fontsize="small")
    axes.set_xlabel("epoch")
    axes.set_ylabel("mixing weight")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure
