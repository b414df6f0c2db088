"""The command line of the hyper-parameter search: RecBole's run_hyper.py, under the paper's protocol if there is one.

A trial is a run of `run_recbole.py` with the same arguments; the varied settings override the configuration files.
"""

import argparse
import importlib.util
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from recbole_glintru import plugin
from recbole_glintru.launch import protocol
from recbole_glintru.launch.arguments import Parser, parse_settings, run_command
from recbole_glintru.launch.configuration import choose, report_unread, settings_of_files
from recbole_glintru.launch.data import find_data
from recbole_glintru.launch.errors import UserError, user_errors
from recbole_glintru.search.checks import check_space, check_validation
from recbole_glintru.search.outcome import Outcome
from recbole_glintru.search.space import Parameter, read_parameters
from recbole_glintru.search.trial import Fixed, run_trial

USAGE = "run_hyper.py [--model=MODEL] [--dataset=DATASET] [--params_file=FILE] [--tool=hyperopt|ray] [--key=value ...]"
HELP = f"""\
usage: {USAGE}

Searches for the settings with which a model gets the best validation score.

  --model, --dataset, --config_files, --protocol, --key=value
                   as in run_recbole.py: what all trials share
  --params_file    what varies, one setting per line: name choice [...], name uniform low,high,
                   name quniform low,high,step or name loguniform low,high (of the logarithm); by default the
                   package's own file for the model (RecBole's models have none)
  --output_file    every finished trial, with its results; by default MODEL-DATASET.result
  --best_file      the best trial's settings, for --config_files; by default the output file's name with .yaml
  --display_file   a picture of the scores, HTML
  --tool           hyperopt (RecBole's HyperTuning, one trial after the other; the default) or ray (in parallel)
  --algo           exhaustive (hyperopt's default), random (ray's default) or bayes (hyperopt only)

With hyperopt:
  --max_evals      the most trials: by default 100, or all if exhaustive
  --early_stop     end after so many trials without a better one, by default 10

With ray:
  --num_samples    trials of a random search, by default 10
  --grace_period   epochs that every trial gets, by default 1; then and at each doubling the worse half stops
  --cpus_per_trial, --gpus_per_trial
                   by default 1 and, if Ray has GPUs, 1; two trials with 0.5 share a GPU
  --max_concurrent_trials
                   the most trials at a time; by default as many as the resources allow
  --storage_path   the folder for the states of searches, by default ray_log; shared by all machines of a cluster
  --resume         the folder there of an interrupted search: repeat the same command with this option
  --address        a running Ray cluster, HOST:PORT or auto; by default RAY_ADDRESS, or a Ray of its own.
                   Its machines need this package and, under the same path, the folder of the search

The seed of the trials (--seed) is also that of the search."""

ALGORITHMS = {"hyperopt": ("exhaustive", "random", "bayes"), "ray": ("random", "exhaustive")}  # first: the default
COUNTS = {"max_evals": "hyperopt", "early_stop": "hyperopt"}  # options of one tool alone -> that tool
COUNTS.update(dict.fromkeys(("num_samples", "grace_period", "max_concurrent_trials"), "ray"))
AMOUNTS = dict.fromkeys(("cpus_per_trial", "gpus_per_trial"), "ray")
NAMES = dict.fromkeys(("storage_path", "resume", "address"), "ray")
OF_ONE_TOOL = {**COUNTS, **AMOUNTS, **NAMES}
PROCESSES = ("nproc", "ip", "port", "world_size", "group_offset")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command line, by default `sys.argv`, and return the exit status (see `run_command`)."""
    return run_command(arguments, parse, lambda options: HELP, run)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options of the search, and the settings `--key=value` that all trials share.

    Raises:
        UserError: an argument is not a setting, has no value or a wrong one, or belongs to the other tool.
    """
    parser = Parser(USAGE)
    parser.add_argument("--tool", default="hyperopt", type=str.lower)  # RecBole writes Hyperopt and Ray
    for name in ("params_file", "output_file", "best_file", "display_file", "algo", *NAMES):
        parser.add_argument(f"--{name}")
    for name in COUNTS:
        parser.add_argument(f"--{name}", type=int)
    for name in AMOUNTS:
        parser.add_argument(f"--{name}", type=float)
    options, words = parser.parse_known_args(list(arguments))
    _check_options(options)
    settings = parse_settings(words, USAGE)
    for name in PROCESSES:
        if name in settings:
            raise UserError(f"--{name}: a trial is one process; --tool=ray runs trials in parallel.")
    return options, settings


def run(options: argparse.Namespace, settings: dict[str, str]) -> Outcome:
    """Search, and write the results.

    Raises:
        UserError: the model, the data set, a setting or the search space is wrong, or no trial finished.
    """
    model, dataset, applied = choose(options)
    with user_errors(ValueError):
        space = read_parameters(_params_file(options.params_file, model))
    from_files = settings_of_files(options)
    given = {**from_files, **settings}
    with protocol.as_config_files(applied, model, given) as files:
        texts = [Path(file).read_text(encoding="utf-8") for file in files + options.config_files]
    fixed = Fixed(model, dataset, texts, settings, str(Path.cwd()))
    config = fixed.merged({})
    report_unread(config, given)
    check_space(space, settings, from_files, config)
    check_validation(config)
    _check_tool(options, settings, space)
    output_file = Path(options.output_file or f"{model}-{dataset}.result")
    best_file = Path(options.best_file or output_file.with_suffix(".yaml"))
    _check_files(output_file=output_file, best_file=best_file, display_file=options.display_file)
    find_data(config)

    outcome = Outcome(fixed, applied, bool(config["valid_metric_bigger"]), output_file, best_file)
    if options.tool == "hyperopt":
        _by_hyperopt(options, config, space, outcome)
    else:
        _by_ray(options, config, space, outcome)
    if not outcome.trials:
        raise UserError("no trial finished.")
    outcome.show(options.display_file)
    return outcome


def _by_hyperopt(options, config, space, outcome: Outcome) -> None:
    from recbole_glintru.search import by_hyperopt

    by_hyperopt.search(
        lambda parameters: run_trial(outcome.fixed, parameters),
        space,
        options.algo,
        options.max_evals,
        options.early_stop or 10,
        config["seed"],
        finished=outcome.add,
    )


def _by_ray(options, config, space, outcome: Outcome) -> None:
    from recbole_glintru.search import by_ray

    if options.resume:
        folder = Path(options.resume).resolve()
    else:
        name = f"{config['model']}-{config['dataset']}-{time.strftime('%Y-%m-%d-%H-%M-%S')}"
        folder = Path(options.storage_path or "ray_log", name).resolve()
    cpus = 1 if options.cpus_per_trial is None else options.cpus_per_trial
    address = options.address or os.environ.get("RAY_ADDRESS")  # Ray's own way to name a cluster
    finished = by_ray.search(
        outcome.fixed,
        space,
        config,
        folder,
        resume=bool(options.resume),
        algo=options.algo,
        num_samples=options.num_samples or 10,
        grace_period=options.grace_period or 1,
        resources=by_ray.Resources(cpus, options.gpus_per_trial, options.max_concurrent_trials, address),
    )
    for parameters, result in finished:
        outcome.add(parameters, result)


def _params_file(named: Optional[str], model: str) -> Path:
    if named:
        if not Path(named).is_file():
            raise UserError(f"--params_file={named}: there is no such file.")
        return Path(named)
    file = plugin.properties(plugin.package_of(model)) / "hyper" / f"{model}.hyper"
    if not file.is_file():
        raise UserError(f"{model} has no search space of its own: name one with --params_file=FILE (see --help).")
    return file


# ------------------------------------------------------------------------------------------------ checks


def _check_options(options) -> None:
    """Set `algo`, and check that the values of the options fit each other and the tool."""
    if options.tool not in ALGORITHMS:
        raise UserError(f"--tool={options.tool}: must be one of {', '.join(ALGORITHMS)}.")
    options.algo = options.algo or ALGORITHMS[options.tool][0]
    if options.algo not in ALGORITHMS[options.tool]:
        allowed = ", ".join(ALGORITHMS[options.tool])
        raise UserError(f"--algo={options.algo}: with --tool={options.tool} it must be one of {allowed}.")
    for name, value in vars(options).items():
        if value is None:
            continue
        if OF_ONE_TOOL.get(name, options.tool) != options.tool:
            raise UserError(f"--{name}={value}: is for --tool={OF_ONE_TOOL[name]}, but the tool is {options.tool}.")
        if name in COUNTS and value < 1:
            raise UserError(f"--{name}={value}: must be at least 1.")
        if name in AMOUNTS and not (0 <= value <= 1 or value.is_integer() and value > 1):
            raise UserError(f"--{name}={value:g}: must be a whole number, or a fraction between 0 and 1.")
        if name == "cpus_per_trial" and value == 0:
            raise UserError(f"--{name}=0: must be above 0.")
    if options.algo == "exhaustive" and options.num_samples is not None:
        raise UserError(f"--num_samples={options.num_samples}: --algo=exhaustive tries every combination once.")


def _check_files(**files) -> None:
    """Check that these files, by their options, can be written."""
    paths = {option: Path(file) for option, file in files.items() if file}
    for option, file in paths.items():
        try:
            if not file.parent.is_dir() or file.is_dir():
                raise UserError(f"--{option}={file}: {file.parent} is not a folder, or {file} is one.")
            is_new = not file.exists()
            file.open("ab").close()
            if is_new:
                file.unlink()
        except OSError as error:
            raise UserError(f"--{option}={file}: cannot be written: {error.strerror}.") from None
    if len({file.resolve() for file in paths.values()}) < len(paths):
        named = ", ".join(f"--{option}={file}" for option, file in paths.items())
        raise UserError(f"{named}: must be different files.")


def _check_tool(options, settings: dict[str, str], space: list[Parameter]) -> None:
    """Check that the tool is installed and can do what is asked of it."""
    for parameter in space:
        if options.algo == "exhaustive" and parameter.kind != "choice":
            raise UserError(
                f"{parameter.name} {parameter.kind}: --algo=exhaustive needs kind choice; use --algo=random."
            )
    if options.tool == "ray" and "gpu_id" in {*settings, *(parameter.name for parameter in space)}:
        raise UserError("gpu_id: Ray assigns the GPUs, see --gpus_per_trial.")
    if importlib.util.find_spec(options.tool) is None:  # the tools are packages of these names
        raise UserError(
            f"--tool={options.tool}: {options.tool} is not installed; the extra `tune` of this package has it."
        )
