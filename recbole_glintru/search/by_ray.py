"""A search with Ray Tune, on one machine or a cluster: trials run in parallel, and bad ones stop early."""

import contextlib
import json
import math
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from recbole_glintru import allocator
from recbole_glintru.compat import tuning
from recbole_glintru.launch.errors import UserError
from recbole_glintru.search.space import Parameter
from recbole_glintru.search.trial import Fixed, run_trial

METRIC, TIME = "best_valid_score", "epoch"  # what a trial reports after an epoch
DESCRIPTION, CHECKPOINTS = "search.json", "checkpoints"  # in the folder of the search


@dataclass(frozen=True)
class Resources:
    """What a search may use.

    Args:
        cpus, gpus: for one trial; trials with fractions of a GPU share it. `gpus=None` is one, if there are GPUs.
        trials: the most at a time; by default as many as the resources allow.
        address: a running cluster ("auto" for the one on this machine); by default Ray is started here.
    """

    cpus: float = 1
    gpus: Optional[float] = None
    trials: Optional[int] = None
    address: Optional[str] = None


def search(
    fixed: Fixed,
    space: list[Parameter],
    config,
    folder: Path,
    resume: bool = False,
    algo: str = "random",
    num_samples: int = 10,
    grace_period: int = 1,
    resources: Optional[Resources] = None,
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Run trials with parameters from the space, under the ASHA scheduler.

    Args:
        config: RecBole's `Config` of a trial that varies nothing.
        folder: where Ray keeps the state of the search. With `resume`, that of an interrupted one: its finished trials
            are kept, and the others are compared with them; those that were running start again.
        algo: "random", or "exhaustive" for every combination of choices once.
        num_samples: trials of a random search.
        grace_period: epochs that every trial gets; then, and at each doubling, the worse half stops.

    Returns:
        (parameters, result) of each trial that finished, as `run_trial` returns it.

    Raises:
        UserError: Ray or its resources are missing, the folder contains another search, or every trial failed.
    """
    try:
        import ray
        from ray import tune
        from ray.tune.search.basic_variant import BasicVariantGenerator
    except ImportError as error:
        hint = "the extra `tune` of this package has what it needs"
        raise UserError(f"--tool=ray: Ray Tune cannot be imported: {error}; {hint}.") from None
    resources = resources or Resources()
    grid = algo == "exhaustive"
    wanted = math.prod(len(parameter.values) for parameter in space) if grid else num_samples
    description = {**asdict(fixed), "space": list(map(asdict, space)), "trials": wanted}
    description = json.loads(json.dumps(description))  # as it will be read back
    if resume:
        _check_same(folder, description)
    with _ray(ray, resources.address):
        gpus = _gpus(ray, resources)
        if not resume:
            folder.mkdir(parents=True)
            (folder / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")
        print(f"If interrupted, continue with the same command and --resume={folder}.", file=sys.stderr)
        analysis = tune.run(
            tune.with_parameters(_trial, fixed=fixed, space=space, gpus=gpus, scratch=str(folder / CHECKPOINTS)),
            name=folder.name,
            storage_path=str(folder.parent),
            config={parameter.name: parameter.for_ray(grid) for parameter in space},
            num_samples=1 if grid else num_samples,
            search_alg=BasicVariantGenerator(max_concurrent=resources.trials or 0, random_state=config["seed"]),
            scheduler=_scheduler(config, _most_epochs(config, space), grace_period, folder),
            resources_per_trial={"cpu": resources.cpus, "gpu": gpus},
            reuse_actors=False,  # RecBole leaves its log, seed and visible GPUs behind
            raise_on_failed_trial=False,
            resume="AUTO" if resume else False,
            verbose=1,
        )
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # Ray kills bad trials, which leave theirs
        return _finished(analysis.trials, space, wanted)


def _trial(
    parameters: dict[str, Any],
    fixed: Fixed,
    space: list[Parameter],
    gpus: float,
    scratch: str,
) -> None:
    """Run by a Ray worker: a function of the package, so that the worker imports the package."""
    allocator.inherit()
    drawn = {parameter.name: parameter.plain(parameters[parameter.name]) for parameter in space}
    # RecBole overwrites CUDA_VISIBLE_DEVICES with gpu_id, by default 0: every trial would use the first GPU.
    drawn["gpu_id"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0") if gpus else ""
    epochs = []

    def report(epoch, score):
        epochs.append(epoch)
        tuning.report(**{TIME: epoch, METRIC: score})

    os.makedirs(scratch, exist_ok=True)
    result = run_trial(fixed, drawn, report, scratch)
    tuning.report(**{**result, TIME: max(epochs, default=0) + 1})


class _ImportsThePackage:
    """A base of the class that Ray makes from `_trial`: to load it, a worker first imports the package and its patches.

    Without: Ray 2.6.3 with NumPy 2 fails in the worker before `_trial` is loaded, unless there is the start-up line.
    """


_trial.__mixins__ = (_ImportsThePackage,)


def _most_epochs(config, space: list[Parameter]) -> int:
    """The epochs of the longest trial."""
    return next((math.ceil(varied.largest()) for varied in space if varied.name == "epochs"), config["epochs"])


def _scheduler(config, epochs: int, grace_period: int, folder: Path):
    """ASHA that is told what the finished trials of a resumed search have reported.

    Without: Ray restores the trials but not their scheduler, so bad trials would not be recognised.
    """
    from ray.tune.schedulers import ASHAScheduler

    class Scheduler(ASHAScheduler):
        def on_trial_add(self, controller, trial):
            super().on_trial_add(controller, trial)
            if trial.is_finished():
                for file in folder.glob(f"{trial}_*/result.json"):
                    for line in file.read_text(encoding="utf-8").splitlines():
                        self.on_trial_result(controller, trial, json.loads(line))

    return Scheduler(
        time_attr=TIME,
        metric=METRIC,
        mode="max" if config["valid_metric_bigger"] else "min",
        max_t=max(epochs, grace_period),
        grace_period=grace_period,
        reduction_factor=2,
    )


def _check_same(folder: Path, description: dict[str, Any]) -> None:
    """Check that the folder contains a search to resume, and that it is the described one.

    Raises:
        UserError: there is none, or it is another one.
    """
    try:
        before = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"--resume={folder}: no search of run_hyper.py is there.") from None
    differ = [key for key in description if description[key] != before.get(key)]
    if differ:
        raise UserError(f"--resume={folder}: that is another search; these differ: {', '.join(differ)}.")


@contextlib.contextmanager
def _ray(ray, address: Optional[str]) -> Iterator[None]:
    """Connect to a cluster, or start Ray here, for the block; leave a Ray that is already running alone."""
    if ray.is_initialized():
        yield
        return
    if address is None:
        ray.init("local", include_dashboard=False)  # without "local" it connects to any cluster it finds, dead or alive
    else:
        try:
            _reach(address)
            ray.init(address)
        except (OSError, ValueError) as error:
            raise UserError(f"--address={address}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise OSError unless something listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _gpus(ray, resources: Resources) -> float:
    """The number of GPUs for a trial.

    Raises:
        UserError: a trial would wait forever, because Ray has too few CPUs or GPUs.
    """
    there = ray.cluster_resources()
    gpus = (1 if there.get("GPU") else 0) if resources.gpus is None else resources.gpus
    if resources.address is None:  # a cluster may grow
        for option, wanted, name in (("cpus", resources.cpus, "CPU"), ("gpus", gpus, "GPU")):
            if wanted > there.get(name, 0):
                raise UserError(f"--{option}_per_trial={wanted:g}: Ray has {there.get(name, 0):g} of them here.")
    return gpus


def _finished(trials, space, wanted: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    finished = [trial for trial in trials if "test_result" in (trial.last_result or {})]
    failed = [trial for trial in trials if trial.status == "ERROR"]
    done = [trial for trial in trials if trial.status == "TERMINATED" and (trial.last_result or {}).get("done")]
    stopped = len(done) - len(finished)
    rest = wanted - len(done) - len(failed)
    print(
        f"{wanted} trials: {len(finished)} finished, {stopped} stopped early, {len(failed)} failed"
        + (f", {rest} interrupted or not started." if rest else "."),
        file=sys.stderr,
    )
    if not finished and failed:
        raise UserError(f"every trial failed; the first says: {_reason(failed[0])}")
    return [
        (
            {parameter.name: parameter.plain(trial.config[parameter.name]) for parameter in space},
            {key: trial.last_result[key] for key in ("model", METRIC, "best_valid_result", "test_result")},
        )
        for trial in finished
    ]


def _reason(trial) -> str:
    lines = Path(trial.error_file).read_text(encoding="utf-8").strip().splitlines() if trial.error_file else []
    return lines[-1] if lines else "nothing"
