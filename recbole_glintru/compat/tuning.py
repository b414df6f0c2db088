"""Patches of RecBole 1.2.1's searches for current Ray, hyperopt and NumPy."""

import contextlib
import functools
import importlib
import inspect
import os
import sys
import types
import warnings

from recbole_glintru.compat.import_hooks import Overlay, after, around, rebind, stand_ins

# --------------------------------------------------------------------------------------------------------------- Ray


def report(**metrics) -> None:
    """Report to the trial that this process runs, if any, with the signature that the installed Ray expects."""
    tune = sys.modules.get("ray.tune")
    if tune is None or isinstance(tune, _Tune):
        return
    if next(iter(inspect.signature(tune.report).parameters)) == "metrics":  # Ray 2.7 and later
        tune.report(metrics)
    else:
        tune.report(**metrics)


class _Tune(types.ModuleType):
    """`ray.tune` as RecBole needs it: `report`, which does nothing unless Ray runs, and all else imported on demand."""

    def __init__(self):
        super().__init__("ray.tune")
        self.report = report

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module("ray.tune"), name)


@around("recbole.quick_start.quick_start")
def ray_is_not_needed():
    """`from ray import tune` (quick_start.py:20) gets a stand-in while that module is imported.

    Without: RecBole cannot be imported without Ray (as on Python 3.12 and later), with Ray 2.6.3 and setuptools 81 or
    later (no `pkg_resources`) or NumPy 2 (no `np.bool8`), or with a newer Ray that lacks its extras (pydantic). Ray is
    needed only for tuning.
    """
    if "ray.tune" in sys.modules:
        return contextlib.nullcontext()
    if "ray" in sys.modules:  # it imports without its extras, which ray.tune needs
        return stand_ins({"ray.tune": _Tune()})
    ray = types.ModuleType("ray")
    ray.tune = _Tune()
    ray.__path__ = []
    return stand_ins({"ray": ray, "ray.tune": ray.tune})


@after("recbole.quick_start.quick_start")
def ray_reports(quick_start) -> None:
    """`tune.report(**metrics)` (quick_start.py:223) works with every version of Ray, and without it.

    Without: Ray 2.7 and later accept one dictionary, `report(metrics)`: every Ray Tune search fails.
    """
    quick_start.tune = _Tune()


@after("recbole.quick_start.quick_start")
def ray_results_have_metrics(quick_start) -> None:
    """`objective_function` returns the test metrics under their own names too, where Ray Tune is loaded.

    Without: Ray treats what it returns as the trial's last result, in which a scheduler misses its metric: with every
    version of Ray, the search of RecBole's run_hyper.py ends in `did not include the specified metric(s) recall@10`.
    """
    evaluate = quick_start.objective_function

    @functools.wraps(evaluate)
    def objective_function(*args, **kwargs):
        result = evaluate(*args, **kwargs)
        return {**result["test_result"], **result} if "ray.tune" in sys.modules else result

    rebind(evaluate, objective_function)


@after("ray")
def ray_finds_numpy_bool(ray) -> None:
    """Defines `np.bool8` for Ray 2.6.3, the newest that RecBole's requirement admits (ray/tune/...: `np.bool8`).

    Without: `from ray import tune` fails with NumPy 2. Can be removed when RecBole lifts its pin of Ray.
    """
    import numpy as np

    if "bool8" not in vars(np):
        np.bool8 = np.bool_


@after("ray.tune.tune")
def ray_runs_stock_script(tune) -> None:
    """Accepts `tune.run(..., local_dir=..., resources_per_trial={"gpu": 1})`, the call in RecBole's own run_hyper.py.

    Without: newer versions of Ray refuse `local_dir`, and on a machine without a GPU the trials wait for one forever.
    Only calls that pass `local_dir` are changed.
    """
    run = tune.run
    if "storage_path" not in inspect.signature(run).parameters:
        return

    @functools.wraps(run)
    def run_here(*args, **kwargs):
        if kwargs.get("local_dir") is not None:
            kwargs.setdefault("storage_path", os.path.abspath(kwargs.pop("local_dir")))
            resources = kwargs.get("resources_per_trial")
            ray = sys.modules["ray"]
            if isinstance(resources, dict) and resources.get("gpu") and ray.is_initialized():
                if not ray.cluster_resources().get("GPU"):
                    warnings.warn("No GPU in the Ray cluster: the trials run on its CPUs.", stacklevel=2)
                    others = {name: amount for name, amount in resources.items() if name != "gpu"}
                    kwargs["resources_per_trial"] = others or {"cpu": 1}  # Ray refuses a trial that needs nothing
        return run(*args, **kwargs)

    rebind(run, run_here)


# ----------------------------------------------------------------------------------------------------------- hyperopt


@after("recbole.trainer.hyper_tuning")
def hyperopt_generator(hyper_tuning) -> None:
    """Exhaustive search passes hyperopt the random generator that it expects.

    Without: hyperopt 0.2.6 and later call `integers` of a `numpy.random.Generator`, but get a `RandomState`
    (hyper_tuning.py:117), which has no such method.
    """
    np = hyper_tuning.np

    class Generator(np.random.Generator):
        """A generator that also has the method name used by hyperopt 0.2.5."""

        randint = np.random.Generator.integers

    def random_state(seed=None):
        return Generator(np.random.PCG64(seed))

    hyper_tuning.np = Overlay(np, random=Overlay(np.random, RandomState=random_state))
