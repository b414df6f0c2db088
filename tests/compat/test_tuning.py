"""Each patch of tuning.py: the break is there without it, where this stack shows it, and gone with it."""

import contextlib
import sys
import types

import numpy as np
import pytest

from recbole_glintru.compat import import_hooks, tuning


def fake_ray(monkeypatch, report):
    ray, tune = types.ModuleType("ray"), types.ModuleType("ray.tune")
    ray.tune, tune.report, tune.run_marker = tune, report, "real"
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.tune", tune)


def without_ray(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)


class NoRay:
    """A finder under which Ray cannot be imported, as where it is absent or broken."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError("no ray here", name="ray")


@pytest.mark.parametrize("imported", [False, True], ids=["no Ray", "Ray without its extras"])
def test_recbole_imports_without_ray(monkeypatch, fresh, imported):
    def break_ray():
        without_ray(monkeypatch)
        if imported:
            ray = types.ModuleType("ray")
            ray.__path__ = []
            monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setattr(sys, "meta_path", [*sys.meta_path[:1], NoRay, *sys.meta_path[1:]])

    break_ray()
    with pytest.raises(ModuleNotFoundError, match="no ray here"):
        fresh("recbole.quick_start.quick_start", without="ray_is_not_needed")
    monkeypatch.undo()
    break_ray()
    quick_start = fresh("recbole.quick_start.quick_start")
    assert quick_start.tune.report(recall=0.5) is None  # nobody to report to
    assert ("ray" in sys.modules) == imported and "ray.tune" not in sys.modules


def test_reports_in_old_and_new_dialect(monkeypatch):
    tune, seen = tuning._Tune(), []
    fake_ray(monkeypatch, lambda _metric=None, **metrics: seen.append((_metric, metrics)))
    tune.report(recall=0.5)
    fake_ray(monkeypatch, lambda metrics, *, checkpoint=None: seen.append(metrics))
    tune.report(recall=0.6)
    assert seen == [(None, {"recall": 0.5}), {"recall": 0.6}]
    assert tune.run_marker == "real"


def test_ray_results_have_metrics(monkeypatch):
    """Ray takes what `objective_function` returns for the last result; a scheduler looks for its metric there."""
    from recbole.quick_start import objective_function, quick_start

    assert hasattr(objective_function, "__wrapped__") and quick_start.objective_function is objective_function
    result = {"model": "GLINTRU", "test_result": {"recall@10": 0.5}}
    module = types.ModuleType("a_quick_start")
    module.objective_function = lambda config_dict: result
    monkeypatch.setitem(sys.modules, module.__name__, module)
    tuning.ray_results_have_metrics(module)
    without_ray(monkeypatch)
    assert module.objective_function({}) == result  # as without the patch
    fake_ray(monkeypatch, None)
    assert module.objective_function({}) == {"recall@10": 0.5, **result}


def test_numpy_bool_for_old_ray(monkeypatch):
    if "bool8" in vars(np):
        monkeypatch.delattr(np, "bool8")
    tuning.ray_finds_numpy_bool(None)
    assert np.bool8 is np.bool_
    assert tuning.ray_finds_numpy_bool in import_hooks.AFTER["ray"]


@pytest.mark.parametrize(
    "gpus, asked, expected",
    [(0, {"gpu": 1}, {"cpu": 1}), (0, {"cpu": 2, "gpu": 1}, {"cpu": 2}), (2, {"gpu": 1}, {"gpu": 1})],
)
def test_stock_search_script_runs(monkeypatch, gpus, asked, expected, tmp_path):
    """RecBole's run_hyper.py: `local_dir`, and one GPU a trial whether there is one or not."""
    calls = []

    def run(trainable, *, storage_path=None, resources_per_trial=None):
        if resources_per_trial and not any(resources_per_trial.values()):
            raise ValueError("Cannot initialize a ResourceRequest with an empty head")  # as Ray does
        calls.append((storage_path, resources_per_trial))

    fake_ray(monkeypatch, None)
    ray, tune = sys.modules["ray"], types.ModuleType("ray.tune.tune")
    ray.is_initialized, ray.cluster_resources = (lambda: True), (lambda: {"CPU": 2, "GPU": gpus})
    tune.run = run
    monkeypatch.setitem(sys.modules, "ray.tune.tune", tune)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError):
        tune.run("objective", local_dir="./ray_log", resources_per_trial=asked)
    tuning.ray_runs_stock_script(tune)
    with contextlib.nullcontext() if gpus else pytest.warns(UserWarning, match="No GPU"):
        tune.run("objective", local_dir="./ray_log", resources_per_trial=asked)
    tune.run("objective", resources_per_trial={"gpu": 1})  # a caller who knows this Ray
    assert calls == [(str(tmp_path / "ray_log"), expected), (None, {"gpu": 1})]


def test_exhaustive_search(monkeypatch):
    """The installed hyperopt tries every setting once."""
    hyperopt = pytest.importorskip("hyperopt")
    from recbole.trainer import HyperTuning, hyper_tuning

    def objective(config_dict, config_file_list):
        return {
            "model": "GLINTRU",
            "best_valid_score": config_dict["a"] + config_dict["b"],
            "valid_score_bigger": True,
            "best_valid_result": {},
            "test_result": {},
        }

    def search():
        search = HyperTuning(objective, params_dict={"choice": {"a": [1, 2], "b": [10, 20]}}, early_stop=100)
        search.run()
        return search

    searched = search()
    assert sorted(searched.score_list) == [11, 12, 21, 22] and searched.best_params == {"a": 2, "b": 20}
    if tuple(map(int, hyperopt.__version__.split(".")[:3])) >= (0, 2, 6):
        monkeypatch.setattr(hyper_tuning, "np", np)
        with pytest.raises(AttributeError, match="integers"):
            search()


def test_hyperopt_generator(fresh):
    """hyperopt 0.2.6 and later draw with `integers`, 0.2.5 with `randint`."""
    patched = fresh("recbole.trainer.hyper_tuning")
    generator = patched.np.random.RandomState(1)
    assert generator.integers(5) in range(5) and generator.randint(5) in range(5)
    assert patched.np.random.RandomState(1).integers(10**9) == patched.np.random.RandomState(1).integers(10**9)
    assert patched.np.prod([2, 3]) == 6 and np.random.RandomState is not patched.np.random.RandomState
