"""The measurements as text for the terminal, as Markdown and as JSON."""

import json
import os
import re
from pathlib import Path
from typing import Any, Optional

HEADING = """# Efficiency on {device}

Made by `python benchmarks/efficiency.py`; the same figures, and all that is left out here, are in `{json}`.
Every model runs in turns with GLINT-RU in one process, once warm; times are medians, ratios are those of two times
taken side by side, with the range in brackets. `≈`: not measured in full but scaled from so many batches, or computed
from steps.
"""
ON_GPU = """The share of peak is against a product of float32 matrices that may round their factors to TF32, as GRU and
convolution do there; other float32 products of the models are IEEE ones, unless they are asked for otherwise.
"""


def device_name(device) -> str:
    """The name of a device in the results."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def file_stem(name: str, subject: str = "efficiency") -> str:
    """A device's name as a part of a file's name: `NVIDIA H100 80GB` -> `efficiency-nvidia-h100-80gb`."""
    return f"{subject}-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write(folder: Path, device: str, sections: dict[str, dict[str, Any]], finished: bool = True) -> list[Path]:
    """Put sections into the results of a device, replacing those of the same name.

    Args:
        folder: the folder of the results.
        device: the name of the device.
        sections: sections by name.
        finished: whether this is all; plots are made only then.

    Returns:
        The files that were written: JSON, Markdown, and plots if Matplotlib is installed.
    """
    from measure import plots

    folder.mkdir(parents=True, exist_ok=True)
    stem = file_stem(device)
    data_file, text_file = folder / f"{stem}.json", folder / f"{stem}.md"
    results = {"device": device, "sections": {}}
    if data_file.is_file():
        results["sections"] = json.loads(data_file.read_text(encoding="utf-8"))["sections"]
    results["sections"].update(sections)
    replace(data_file, json.dumps(results, indent=1) + "\n")
    pictures = plots.draw(folder, stem, results["sections"]) if finished else {}
    text = [HEADING.format(device=device, json=data_file.name) + ("" if device == "cpu" else ON_GPU)]
    for name, section in results["sections"].items():
        text.append(f"## {name[:1].upper()}{name[1:]}\n\n{render(section)}")
        if name in pictures:
            text.append(f"![{name}]({pictures[name].name})\n")
    replace(text_file, "\n".join(text))
    return [data_file, text_file, *pictures.values()]


def replace(file: Path, text: str) -> None:
    """Write a file atomically: whenever the process ends, it is the old or the new one."""
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, file)


def render(section: dict[str, Any]) -> str:
    """A section as Markdown: its subject, table and notes."""
    lines = [section["about"], "", *markdown_table(*_TABLES[section["kind"]](section)), ""]
    lines += [f"* {note}" for note in section["notes"]]
    if "package" in section:
        commit = (section["package"]["commit"] or "unknown")[:10]
        changed = " and changes to it" if section["package"]["changed"] else ""
        lines.append(f"* Measured on {section['date']}, commit {commit}{changed}.")
    if not section["finished"]:
        lines.append("* Stopped before its end: what is missing was not measured.")
    return "\n".join(lines) + "\n"


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table whose columns are aligned: the first one to the left, the others to the right."""
    widths = [max(len(cells[column]) for cells in (header, *rows)) for column in range(len(header))]

    def line(cells):
        aligned = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:])]
        return f"| {' | '.join([cells[0].ljust(widths[0]), *aligned])} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return [line(header), f"|{rule}|", *map(line, rows)]


# ------------------------------------------------------------------------------------------------- kinds of sections


def _efficiency(section):
    header = ["model", "training step, ms", "times GLINT-RU", "scoring, ms", "times GLINT-RU", "loader, ms"]
    header += ["pop100 pass, s", "times GLINT-RU", "epoch, s", "peak memory, MiB", "times GLINT-RU", "parameters"]
    header += ["share of peak"]
    rows = []
    for name, row in section["rows"].items():
        evaluation, epoch, peak = row.get("evaluation"), row.get("epoch"), row.get("memory") or {}
        cells = [
            name,
            *_time_cells(row.get("training")),
            *_time_cells(row.get("scoring")),
            figure(row.get("loader_ms")),
        ]
        if evaluation is None:
            cells += ["", ""]
        else:
            measured, batches = evaluation["measured_batches"], evaluation["batches"]
            scaled = f"≈ {figure(evaluation['seconds'])} ({measured} of {batches:,} batches)"
            cells += [scaled if measured < batches else figure(evaluation["seconds"]), figure(evaluation["ratio"])]
        cells.append("" if epoch is None else ("" if epoch.get("measured") else "≈ ") + figure(epoch["seconds"]))
        cells += [figure(peak.get("mebibytes")) or peak.get("reason") or "", figure(peak.get("ratio"))]
        cells.append(f"{row['parameters']:,}")
        cells.append(f"{100 * row['peak_share']:.0f} %" if "peak_share" in row else "")
        rows.append(cells)
    return header, rows


def _time_cells(summary):
    if not summary:
        return ["", ""]
    ratio = ""
    if "ratio" in summary:
        ratio = figure(summary["ratio"])
        if summary["turns"] > 1 and summary["lowest"] != summary["highest"]:
            ratio += f" ({figure(summary['lowest'])}–{figure(summary['highest'])})"
    return [figure(summary["ms"]), ratio]


def _growth(section):
    header = [
        section["axis"],
        *(f"{name}: {what}" for name in section["rows"] for what in ("step, ms", "score, ms", "MiB")),
    ]
    rows = []
    for value in section["values"]:
        cells = [f"{value:,}"]
        for points in section["rows"].values():
            point = points.get(str(value), {})
            cells += [figure((point.get(key) or {}).get("ms")) for key in ("training", "scoring")]
            cells.append(figure(point.get("mebibytes")) or point.get("reason") or "")
        rows.append(cells)
    return header, rows


def _loader(section):
    keys = list(next(iter(section["rows"].values()), {}))
    return ["setting", *keys], [[name, *(_cell(row[key]) for key in keys)] for name, row in section["rows"].items()]


def _profile(section):
    kinds = list(next(iter(section["rows"].values()), {}))
    names = list(section["rows"])
    return ["ms a step", *names], [[kind, *(figure(section["rows"][name][kind]) for name in names)] for kind in kinds]


def _cell(value):
    return value if isinstance(value, str) else figure(value)


_TABLES = {"efficiency": _efficiency, "growth": _growth, "loader": _loader, "profile": _profile}


def milliseconds(seconds: Optional[float]) -> str:
    """Seconds as a `figure` in milliseconds; empty for None."""
    return figure(None if seconds is None else 1e3 * seconds)


def figure(value: Optional[float]) -> str:
    """A number with three significant digits; empty for None."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
