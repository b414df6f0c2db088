"""The cost of each model in training, scoring, evaluation and memory, compared with GLINT-RU.

    python benchmarks/efficiency.py --shape beauty                  # made-up data of the size of Amazon Beauty
    python benchmarks/efficiency.py --dataset ml-1m --data_path DIR     # real data, DIR/ml-1m/ml-1m.inter
    python benchmarks/efficiency.py --shape beauty --growth length catalogue
    python benchmarks/efficiency.py --shape ml-1m --loader
    python benchmarks/efficiency.py --shape ml-1m --profile

The table of the paper (its Table 3), with the package's models, RecBole's GRU4Rec, BERT4Rec, SASRec and LightSANs, each
as it is and `-accelerated` by `recbole_glintru.accelerate`, and `GLINTRU-plain`, a straightforward GLINT-RU. Settings
are the paper's (`properties/dataset/`); data, loaders and evaluation are RecBole's own. Results are printed, and put
into `benchmarks/results/efficiency-<device>.{json,md}`, with plots if Matplotlib is installed; a run replaces its own
sections there and keeps the others. They are written every few seconds, so an interrupted run keeps its measurements.
Ctrl-C ends it cleanly.
"""

import argparse
import datetime
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import torch
from measure import checkout, growth, profiling, report, shapes
from measure.loader import SETTINGS as LOADER_SETTINGS
from measure.loader import LoaderShare
from measure.options import find_device, obey_interrupts, positive
from measure.table import Budget, Table
from measure.workload import PLAIN, REFERENCE, Workload, all_candidates, empty_folder
from tqdm import tqdm

from recbole_glintru.allocator import keep_freed_memory
from recbole_glintru.launch.errors import UserError

SHAPE_ROWS = 40_000  # training rows made from a shape: enough for RecBole's loaders, quick to prepare
GROWTH_TURNS = 5
PROFILED = [REFERENCE, REFERENCE + PLAIN]
SECONDS_UNWRITTEN = 5.0  # the most work that may be lost
TABLE_SECONDS = 660.0  # for a table: enough for three turns of all models and the evaluation of each
RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command line, by default `sys.argv`, and return the exit status.

    0 means a finished run, 2 a user error, reported on stderr, 130 a run ended by Ctrl-C.
    """
    obey_interrupts()
    try:
        return run(parse(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors."""

    def error(self, message):
        raise UserError(message)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked before any work starts.

    Raises:
        UserError: one is wrong; the message names it and its value.
    """
    parser = Parser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--shape", choices=shapes.SHAPES, help="made-up data of this size and shape (default: beauty)")
    source.add_argument("--dataset", help="a data set of RecBole's, found in --data_path")
    parser.add_argument("--data_path", type=Path, help="the folder that holds <dataset>/<dataset>.inter")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help=f"of {', '.join(all_candidates())}")
    parser.add_argument("--growth", nargs="+", metavar="WHAT", default=[], help=f"of {', '.join(growth.AXES)}")
    parser.add_argument("--values", nargs="+", type=positive(int), metavar="N", help="of the one --growth")
    parser.add_argument("--loader", action="store_true", help="the loaders' share, and what RecBole's options change")
    parser.add_argument("--profile", action="store_true", help="where the time of a training step goes")
    parser.add_argument("--turns", type=positive(int), default=7, help="the most turns (default 7, for slow models 3)")
    parser.add_argument(
        "--budget", type=positive(float), metavar="SECONDS", help="start nothing after so long (table: 660)"
    )
    parser.add_argument("--batch_size", type=positive(int), help="default 2048 on a GPU; 1024, ml-1m 256, on a CPU")
    parser.add_argument(
        "--bfloat16", action="store_true", help="the table's steps and scoring under autocast, no evaluation pass"
    )
    parser.add_argument("--keep_memory", action="store_true", help="keep freed memory, as run_recbole.py does, for all")
    parser.add_argument("--threads", type=positive(int), default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument(
        "--evaluation_seconds", type=positive(float), default=5.0, help="a longer pass is scaled (default 5)"
    )
    parser.add_argument(
        "--epoch_seconds", type=positive(float), default=15.0, help="a longer epoch is computed (default 15)"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(list(arguments))
    _check(options)
    return options


def _check(options):
    for key, allowed in (("models", all_candidates()), ("growth", list(growth.AXES))):
        wrong = [value for value in getattr(options, key) or () if value not in allowed]
        if wrong:
            raise UserError(f"--{key} {wrong[0]}: must be among {', '.join(allowed)}.")
    options.device = find_device(options.device)
    if options.values and len(options.growth) != 1:
        raise UserError("--values needs exactly one --growth.")
    if options.growth and options.dataset:
        raise UserError(f"--growth is measured on made-up batches: name a --shape, not --dataset {options.dataset}.")
    if options.bfloat16 and (options.growth or options.loader or options.profile):
        raise UserError("--bfloat16: is for the table, without --growth, --loader and --profile.")
    if options.dataset is None:
        options.shape = options.shape or "beauty"
        if options.data_path is not None:
            raise UserError(f"--data_path {options.data_path}: needs --dataset.")
        return
    if options.dataset == "ml-100k":
        if options.data_path is not None:
            raise UserError(f"--data_path {options.data_path}: RecBole includes this data set, leave the option out.")
        options.data_path = Path()
        return
    if options.data_path is None:
        raise UserError(f"--dataset {options.dataset}: needs --data_path, the folder that holds {options.dataset}/.")
    file = options.data_path.resolve() / options.dataset / f"{options.dataset}.inter"
    if not file.is_file():
        raise UserError(f"--data_path {options.data_path}: there is no {file}.")
    options.data_path = options.data_path.resolve()


# ----------------------------------------------------------------------------------------------------- measuring


def run(options: argparse.Namespace) -> int:
    """Measure what the options ask for, print and write it, and return the exit status."""
    torch.set_num_threads(options.threads)
    options.keep_memory = options.keep_memory and keep_freed_memory()
    if options.device.type == "cuda":
        torch.cuda.set_device(options.device)
    options.output = options.output.resolve()
    sections: dict[str, dict[str, Any]] = {}
    budget = Budget(options.budget or (None if options.growth or options.loader or options.profile else TABLE_SECONDS))
    status, written, device = 0, time.monotonic(), report.device_name(options.device)
    with warnings.catch_warnings(), empty_folder() as folder, tqdm(leave=False, unit=" steps", disable=None) as bar:
        warnings.filterwarnings("ignore", module=r"recbole\.")  # RecBole with a current pandas

        def advance(text):
            bar.set_description(text)
            bar.update()
            nonlocal written
            begun = {name: section for name, section in sections.items() if section["rows"]}
            if begun and time.monotonic() - written > SECONDS_UNWRITTEN:
                report.write(options.output, device, begun, finished=False)
                written = time.monotonic()

        try:
            bar.total = measurements(options)
            if options.growth:
                for kind in options.growth:
                    run_growth(kind, options, budget, sections, advance)
            else:
                bar.set_description("data")
                workload = find_workload(options, folder)
                measure = run_loader if options.loader else run_profile if options.profile else run_table
                measure(workload, options, budget, sections, advance)
        except KeyboardInterrupt:
            status = 130
    if not any(section["rows"] for section in sections.values()):
        print("nothing was measured", file=sys.stderr)
        return status
    for name, section in sections.items():
        print(f"\n{name}\n\n{report.render(section)}")
    for file in report.write(options.output, device, sections):
        print(f"written: {file}", file=sys.stderr)
    return status


def measurements(options: argparse.Namespace) -> int:
    """The largest possible number of measurements, for the progress bar."""
    if options.loader and not options.growth:
        return LOADER_SETTINGS
    if options.profile and not options.growth:
        return len(options.models or PROFILED)
    if not options.growth:
        return len(options.models or all_candidates()) * (options.turns + 3)
    axes = [growth.AXES[kind] for kind in options.growth]
    points = (len(options.values or axis.values) * len(options.models or axis.candidates) for axis in axes)
    return sum(points) * (GROWTH_TURNS + 1)


def find_workload(options: argparse.Namespace, folder: Path) -> Workload:
    """The data set named by the options, or one made in `folder`."""
    candidates = tuple(options.models or all_candidates())
    if options.dataset:
        title = f"{options.dataset} data"
        return Workload(
            title, options.dataset, options.data_path, options.device, options.batch_size, candidates=candidates
        )
    shape = shapes.SHAPES[options.shape]
    rows = max(SHAPE_ROWS, 8 * (options.batch_size or (2048 if options.device.type == "cuda" else 1024)))
    users = min(shape.users, rows * shape.users // shape.training_rows + 1)
    shapes.write_atomic_files(shape, folder, users)
    title = f"{options.shape} shape"
    return Workload(title, shape.dataset, folder, options.device, options.batch_size, shape, candidates)


def run_table(workload, options, budget, sections, advance) -> None:
    """Measure the table of efficiency into a section of its own."""
    candidates = [REFERENCE, *(name for name in options.models or all_candidates() if name != REFERENCE)]
    about = (
        f"{workload.title}: training batches of {workload.batch_size} histories of at most {workload.longest} items, "
        f"width {workload.width}, {workload.items:,} items; {workload.training_rows:,} training rows and "
        f"{workload.users:,} users in an epoch and an evaluation pass; {_machine(options)}."
    )
    table = Table(
        workload,
        candidates,
        options.turns,
        budget,
        options.evaluation_seconds,
        options.epoch_seconds,
        advance,
        torch.bfloat16 if options.bfloat16 else None,
    )
    section = _section("efficiency", about, table)
    for key in ("batch_size", "longest", "width", "items", "training_rows", "users"):
        section[key] = getattr(workload, key)
    sections[workload.title + (", bfloat16" if options.bfloat16 else "")] = section
    try:
        table.run()
        section["finished"] = True
    finally:
        if table.product_rates:
            rate = max(table.product_rates) / 1e9
            kind = "bfloat16" if options.bfloat16 else "float32"
            tf32 = " in TF32" if options.device.type == "cuda" and not options.bfloat16 else ""
            table.notes.append(
                f"Share of peak: the least floating-point operations of a training step over its time, against the "
                f"rate of a product of {kind} matrices{tf32} right before it, {rate:,.0f} GFLOP/s at best."
            )


def run_growth(kind, options, budget, sections, advance) -> None:
    """Measure one kind of growth into a section of its own."""
    axis, shape = growth.AXES[kind], shapes.SHAPES[options.shape]
    on_gpu = options.device.type == "cuda"
    rows = options.batch_size or axis.rows[on_gpu] or (2048 if on_gpu else 1024)
    values = sorted(options.values or axis.values)
    about = (
        f"growth with the {axis.name}: batches of {rows} histories, otherwise the settings of {shape.dataset}; a "
        f"training step, the scores of all items, and the peak memory of a training step; {_machine(options)}."
    )
    candidates = options.models or axis.candidates
    measured = growth.Growth(
        axis, shape, options.device, candidates, values, min(options.turns, GROWTH_TURNS), budget, rows, advance
    )
    section = _section("growth", about, measured)
    section.update(axis=axis.name, values=values)
    sections[f"growth with {kind}, {options.shape}"] = section
    measured.run()
    section["finished"] = True


def run_loader(workload, options, budget, sections, advance) -> None:
    """Measure the loaders' share into a section of its own."""
    candidate = (options.models or [REFERENCE])[0]
    about = f"{workload.title}, {candidate}: time of an epoch and of a pop100 evaluation pass; {_machine(options)}."
    share = LoaderShare(workload, candidate, options.evaluation_seconds, budget, advance)
    section = _section("loader", about, share)
    sections[f"loader, {workload.title}"] = section
    share.run()
    section["finished"] = True


def run_profile(workload, options, budget, sections, advance) -> None:
    """Profile training steps into a section of their own."""
    about = f"{workload.title}: milliseconds of a training step, by kind of operation; {_machine(options)}."
    measured = profiling.Profile(workload, options.models or PROFILED, budget, advance)
    section = _section("profile", about, measured)
    sections[f"profile, {workload.title}"] = section
    measured.run()
    section["finished"] = True


def _section(kind, about, measured):
    return {
        "kind": kind,
        "about": about,
        "package": checkout.package(),
        "date": datetime.date.today().isoformat(),
        "rows": measured.rows,
        "notes": measured.notes,
        "finished": False,
    }


def _machine(options):
    where = report.device_name(options.device) if options.device.type == "cuda" else f"{options.threads} CPU threads"
    kept = ", freed memory kept" if options.keep_memory else ""
    kind = "bfloat16 under autocast" if options.bfloat16 else "float32"
    return f"PyTorch {torch.__version__}, {where}, {kind}{kept}"


if __name__ == "__main__":
    sys.exit(main())
