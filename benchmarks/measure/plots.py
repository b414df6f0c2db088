"""Pictures of the results, where Matplotlib is installed."""

from pathlib import Path
from typing import Any


def draw(folder: Path, stem: str, sections: dict[str, dict[str, Any]]) -> dict[str, Path]:
    """Draw each section that has a picture; none without Matplotlib.

    Returns:
        Name of a section -> its picture, `<folder>/<stem>-<section>.png`.
    """
    try:
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
    figure, axes = pyplot.subplots(figsize=(7, 5))
    for name, (milliseconds, mebibytes) in points.items():
        own = name == "GLINTRU"
        axes.scatter(milliseconds, mebibytes, s=70 if own else 35, color="tab:red" if own else "tab:blue")
        axes.annotate(name, (milliseconds, mebibytes), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="training step, ms", ylabel="peak memory of a training step, MiB")
    axes.set_title(section["about"].partition(":")[0])
    axes.grid(True, which="both", alpha=0.2)
    return figure


def _curves(pyplot, section):
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4))
    for name, points in section["rows"].items():
        for axes, key in zip(panels, ("training", "mebibytes")):
            drawn = [(float(value), point.get(key)) for value, point in points.items() if point.get(key)]
            drawn = [(value, entry["ms"] if key == "training" else entry) for value, entry in drawn]
            if drawn:
                axes.plot(*zip(*sorted(drawn)), marker="o", label=name)
    for axes, label in zip(panels, ("training step, ms", "peak memory of a training step, MiB")):
        axes.set(xlabel=section["axis"], ylabel=label, yscale="log")
        if max(section["values"]) > 20 * min(section["values"]):
            axes.set_xscale("log")
        axes.grid(True, which="both", alpha=0.2)
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(fontsize=8)
    return figure


_DRAWINGS = {"efficiency": _time_against_memory, "growth": _curves}
