"""Plots of the results, if Matplotlib is installed."""

from pathlib import Path
from typing import Any

OURS = "GLINTRU"


def draw(folder: Path, stem: str, sections: dict[str, dict[str, Any]]) -> dict[str, Path]:
    """Draw each section that has a picture; none without Matplotlib and adjustText.

    Returns:
        Name of a section -> its picture, `<folder>/<stem>-<section>.png`.
    """
    try:
        import adjustText  # noqa: F401
        import matplotlib
    except ImportError:
        return {}
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pictures = {}
    for name, section in sections.items():
        figure = _DRAWINGS[section["kind"]](pyplot, section) if section["kind"] in _DRAWINGS else None
        if figure is not None:
            pictures[name] = folder / f"{stem}-{name.replace(',', '').replace(' ', '-')}.png"
            figure.savefig(pictures[name], dpi=150, bbox_inches="tight")
            pyplot.close(figure)
    return pictures


def _time_against_memory(pyplot, section):
    points = {
        name: (row["training"]["ms"], row["memory"]["mebibytes"])
        for name, row in section["rows"].items()
        if row.get("training") and (row.get("memory") or {}).get("mebibytes")
    }
    if not points:
        return None
    figure, axes = pyplot.subplots(figsize=(8, 5.5))
    for name, point in points.items():
        own = name == OURS
        axes.scatter(*point, s=70 if own else 35, color="tab:red" if own else "tab:blue")
    axes.margins(0.1)
    axes.set(xscale="log", yscale="log", xlabel="training step, ms", ylabel="peak memory of a training step, MiB")
    axes.set_title(f"Time and memory of a training step, {section['about'].partition(':')[0]}")
    axes.grid(True, which="both", alpha=0.2)
    plain_numbers(axes.xaxis, axes.yaxis)
    label_points(axes, points)
    return figure


def plain_numbers(*axes) -> None:
    """Ticks of an axis as 2,000 instead of 2 x 10^3; on a logarithmic one, at 1, 2 and 5 of each decade."""
    from matplotlib import ticker

    for axis in axes:
        if axis.get_scale() == "log":
            axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_minor_formatter(ticker.NullFormatter())
        axis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))


def label_points(axes, points: dict[str, tuple[float, float]]) -> None:
    """Write each name next to its point, where it covers no other name or point."""
    from adjustText import adjust_text

    texts = [axes.text(x, y, name, fontsize=8) for name, (x, y) in points.items()]
    line = {"arrowstyle": "-", "color": "gray", "lw": 0.5}
    adjust_text(texts, *zip(*points.values()), ax=axes, expand=(1.25, 1.9), arrowprops=line)


def _curves(pyplot, section):
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, points in section["rows"].items():
        for axes, key in zip(panels, ("training", "mebibytes")):
            drawn = [(float(value), point.get(key)) for value, point in points.items() if point.get(key)]
            drawn = [(value, entry["ms"] if key == "training" else entry) for value, entry in drawn]
            if drawn:
                own = {"color": "tab:red", "linewidth": 2.5, "zorder": 3} if name == OURS else {"linewidth": 1}
                axes.plot(*zip(*sorted(drawn)), marker="o", markersize=4, label=name, **own)
    for axes, name in zip(panels, ("training step, ms", "peak memory of a training step, MiB")):
        axes.set(xlabel=section["axis"], ylabel=name, yscale="log")
        if max(section["values"]) > 20 * min(section["values"]):
            axes.set_xscale("log")
        axes.grid(True, which="both", alpha=0.2)
        plain_numbers(axes.xaxis, axes.yaxis)
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(fontsize=8)
    return figure


_DRAWINGS = {"efficiency": _time_against_memory, "growth": _curves}
