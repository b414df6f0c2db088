"""Table 3: the costs of the models, measured by `benchmarks/efficiency.py`, next to those in the paper.

Times and memory on another machine with other batch sizes are not comparable; their ratios to GLINT-RU's are.
"""

import json
import math
from pathlib import Path
from typing import Any

import efficiency
from measure import report
from measure.shapes import SHAPES

from recbole_glintru.launch.errors import UserError
from reproduction import grids
from reproduction.markdown import number, table

ACCELERATED = "-accelerated"
COSTS = {  # the paper's column -> its name, and where it is in a row of the benchmark
    "inference_ms_per_batch": ("ms a batch, inference", ("scoring", "ms")),
    "training_s_per_epoch": ("s an epoch, training", ("epoch", "seconds")),
    "gpu_memory_GB": ("memory, GB", ("memory", "mebibytes")),
}
MEBIBYTES_PER_GIGABYTE = 1e9 / 2**20


def run(words: list[str]) -> int:
    """The efficiency benchmark with its own options, then the table; with `--report` only the table.

    Returns:
        The benchmark's exit status.

    Raises:
        UserError: an option is wrong, or there is nothing to report.
    """
    only_report = "--report" in words
    words = [word for word in words if word != "--report"]
    status = 0 if only_report else efficiency.main(words)
    if status == 0:
        options = efficiency.parse(words)
        print(write(options.output, report.device_name(options.device)))
    return status


def write(folder: Path, device: str) -> str:
    """Write `<folder>/table3-<device>.md`, and return the Markdown.

    Raises:
        UserError: the folder has no results of the benchmark for this device.
    """
    measured = folder / f"{report.file_stem(device)}.json"
    if not measured.is_file():
        raise UserError(f"--report: there is no {measured}; without it table3 measures.")
    sections = json.loads(measured.read_text(encoding="utf-8"))["sections"]
    blocks = [
        f"# Table 3: Efficiency, {device}",
        f"From `{measured.name}`, where batches and machine are described; the paper's are of an unnamed GPU and "
        f"batches of {grids.PAPER['table3']['batch_size']}. In brackets: times GLINT-RU's of the same source.",
        *(_block(name, section) for name, section in sections.items() if _dataset(name, section)),
    ]
    text = "\n\n".join(blocks) + "\n"
    report.replace(folder / f"{report.file_stem(device, 'table3')}.md", text)
    return text


def _dataset(name: str, section: dict[str, Any]) -> str:
    """The paper's data set that a section of the benchmark is about, or an empty string."""
    source, _, kind = name.rpartition(" ")
    dataset = SHAPES[source].dataset if kind == "shape" and source in SHAPES else source
    known = section["kind"] == "efficiency" and kind in ("shape", "data") and dataset in grids.PAPER["table3"]
    return dataset if known else ""


def _block(name: str, section: dict[str, Any]) -> str:
    paper, columns = grids.PAPER["table3"][_dataset(name, section)], grids.PAPER["table3"]["columns"]
    head, lines = [""], []
    for label, _ in COSTS.values():
        head += [label, "paper"]
    for model, row in section["rows"].items():
        printed = dict(zip(columns, paper.get(model.removesuffix(ACCELERATED), ())))
        line = [model]
        for column, place in COSTS.items():
            ours, of_glintru = (_figure(one, place[1]) for one in (row, section["rows"].get("GLINTRU", {})))
            theirs = printed.get(column, math.nan)
            line += [_with_times(ours, of_glintru), _with_times(theirs, dict(zip(columns, paper["GLINTRU"]))[column])]
        lines.append(line)
    return f"## {name}\n\n{section['about']}\n\n{table(head, lines)}"


def _figure(row: dict[str, Any], place: tuple[str, str]) -> float:
    value = (row.get(place[0]) or {}).get(place[1])
    if value is None:
        return math.nan
    return value / MEBIBYTES_PER_GIGABYTE if place[1] == "mebibytes" else value


def _with_times(value: float, of_glintru: float) -> str:
    times = value / of_glintru
    return "-" if math.isnan(times) else f"{number(value, 1 if value >= 10 else 2)} ({number(times, 1)})"
