"""The models inside RecBole: by name and by class, in scripts, checkpoints, searches and other processes."""

import configparser
import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import recbole_glintru
from recbole_glintru import plugin
from recbole_glintru.compat import import_hooks
from recbole_glintru.models.glintru import GLINTRU

ROOT = Path(recbole_glintru.__file__).resolve().parent.parent


def python(code, cwd, **environment):
    """Run `code` in a new interpreter and return the last line that it printed, as JSON."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.strip().splitlines()[-1])


# ------------------------------------------------------------------------------------------------------ registration


def test_entry_points_are_the_models_that_are_there():
    """A model has properties/model/<Name>.yaml, models/<name>.py, and is announced."""
    setup = configparser.ConfigParser(delimiters="=")
    setup.optionxform = str
    setup.read(ROOT / "setup.cfg")
    written = dict(line.split(" = ") for line in setup["options.entry_points"]["recbole.models"].strip().splitlines())
    names = [file.stem for file in (ROOT / "properties" / "model").glob("*.yaml")]
    assert written == {name: f"recbole_glintru.models.{name.lower()}:{name}" for name in names}


def test_every_package_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = set(setup["options"]["packages"].split())
    folders = {file.parent.relative_to(ROOT).as_posix() for file in (ROOT / "recbole_glintru").rglob("*.py")}
    assert packages == {folder.replace("/", ".") for folder in folders} | {"recbole_glintru.properties"}


def test_registering_twice_is_harmless():
    finders = list(sys.meta_path)
    plugin.register()
    importlib.reload(recbole_glintru)
    assert sys.meta_path == finders


def test_import_is_light(tmp_path):
    """No module of RecBole, PyTorch or of anything optional is imported before it is asked for."""
    heavy = ["torch", "recbole", "numpy", "pandas", "ray", "triton", "mamba_ssm", "matplotlib", "hyperopt"]
    code = f"import json, sys, recbole_glintru; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    assert python(code, tmp_path) == []


def test_nothing_optional_is_ever_needed(tmp_path):
    """All of RecBole's quick start and every model import with Ray, Triton and their like blocked."""
    code = """
import sys, json
blocked = ("ray", "triton", "mamba_ssm", "causal_conv1d", "matplotlib", "hyperopt")
class Block:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block)
import recbole_glintru, recbole.quick_start
from recbole_glintru import plugin
for entry in plugin.announced_models().values():
    entry.load()
print(json.dumps(sorted(set(blocked) & set(sys.modules))))
"""
    assert python(code, tmp_path) == []


def test_missing_recbole_says_which_line_to_run(tmp_path):
    code = """
import json, sys, importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "recbole" else find_spec(name, package)
try:
    import recbole_glintru
except ModuleNotFoundError as error:
    print(json.dumps([error.name, str(error)]))
"""
    name, message = python(code, tmp_path)
    assert name == "recbole" and "pip install --no-deps recbole==1.2.1" in message


def test_old_recbole_says_which_line_to_run(tmp_path):
    """From Python 3.12 on `pip install recbole` takes 1.2.0, which cannot be imported."""
    code = """
import importlib.metadata, json
importlib.metadata.version = lambda name: "1.2.0"
try:
    import recbole_glintru
except ImportError as error:
    print(json.dumps(str(error)))
"""
    message = python(code, tmp_path, RECBOLE_GLINTRU_AUTOLOAD="0")
    assert "1.2.0 is installed" in message and "pip install --no-deps recbole==1.2.1" in message


def test_the_start_up_line_warns_of_an_old_recbole(tmp_path):
    """And leaves it to whoever imports it."""
    code = f"""
import importlib.metadata, json, sys, warnings
importlib.metadata.version = lambda name: "1.2.0"
sys.path.insert(0, {str(ROOT / "startup")!r})
import recbole_glintru_startup
recbole_glintru_startup.wait_for_recbole()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import recbole
print(json.dumps([str(warning.message) for warning in caught if warning.category is RuntimeWarning]))
"""
    (message,) = python(code, tmp_path, RECBOLE_GLINTRU_AUTOLOAD="0")
    assert "1.2.0 is installed" in message and "pip install --no-deps recbole==1.2.1" in message


# ------------------------------------------------------------------------------------------------------------ finding


def test_get_model_however_it_was_imported():
    import recbole.quick_start.quick_start as quick_start
    import recbole.utils
    import recbole.utils.utils

    for module in (recbole.utils, recbole.utils.utils, quick_start):
        assert module.get_model("GLINTRU") is GLINTRU
    from recbole.model.sequential_recommender import glintru

    assert glintru.GLINTRU is GLINTRU


def test_get_model_imported_before_the_plugin(tmp_path):
    code = """
import json, sys
import numpy as np
np.float_, np.bool8 = np.float64, np.bool_  # so that RecBole imports without the plugin
from recbole.utils import get_model
from recbole.utils.utils import get_model as same
import recbole_glintru
print(json.dumps([get_model("GLINTRU").__module__, same("GLINTRU").__name__]))
"""
    assert python(code, tmp_path) == ["recbole_glintru.models.glintru", "GLINTRU"]


def test_recboles_own_models_win(monkeypatch):
    """A plugin that announces a name of RecBole's does not get it."""
    entry = plugin.EntryPoint("SASRec", "recbole_glintru.models.glintru:GLINTRU", plugin.GROUP)
    monkeypatch.setattr(plugin, "announced_models", lambda: {"SASRec": entry})
    monkeypatch.delitem(sys.modules, "recbole.model.sequential_recommender.sasrec", raising=False)
    from recbole.utils import get_model

    assert get_model("SASRec").__module__ == "recbole.model.sequential_recommender.sasrec"


def test_another_package_joins(tmp_path):
    """A distribution with an entry point in the group: its model and its properties/model/<Name>.yaml are found."""
    package = tmp_path / "otherplugin"
    (package / "properties" / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text(
        "from recbole_glintru.models.glintru import GLINTRU\nclass Cousin(GLINTRU):\n    '''Another'''\n"
    )
    (package / "properties" / "model" / "Cousin.yaml").write_text("loss_type: CE\nhidden_size: 7\n")
    info = tmp_path / "otherplugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: otherplugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recbole.models]\nCousin = otherplugin.models:Cousin\n")
    code = """
import json, recbole_glintru
from recbole.config import Config
config = Config(model="Cousin", dataset="ml-100k")
print(json.dumps([config.model_class.__module__, config["hidden_size"]]))
"""
    assert python(code, tmp_path, PYTHONPATH=str(tmp_path)) == ["otherplugin.models", 7]


@pytest.mark.parametrize(
    "wrong, near",
    [("GLINT-RU", "GLINTRU"), ("glintru", "GLINTRU"), ("SasRec", "SASRec"), ("Bert4rec", "BERT4Rec")],
)
def test_unknown_names_are_named_with_the_nearest(wrong, near):
    from recbole.utils import get_model

    with pytest.raises(ValueError) as error:
        get_model(wrong)
    assert f"'{wrong}'" in str(error.value) and near in str(error.value)


def test_a_name_like_no_other_lists_what_there_is():
    assert "GLINTRU" in plugin.unknown_model_message("qqqqqqqq") and "SASRec" in plugin.unknown_model_message(
        "qqqqqqqq"
    )


def test_a_model_that_cannot_be_imported_says_why():
    """lightgbm is a model of RecBole's whose library is missing here, which is not an unknown name."""
    from recbole.utils import get_model

    with pytest.raises(ImportError, match="lightgbm|xgboost"):
        get_model("lightgbm")


# ------------------------------------------------------------------------------------------------------------ running


def test_run_recbole_by_name_and_by_class(workplace, tiny):
    from recbole.quick_start import run_recbole

    by_name = run_recbole(model="GLINTRU", dataset="ml-100k", config_dict=dict(tiny), saved=False)
    by_class = run_recbole(model=GLINTRU, dataset="ml-100k", config_dict=dict(tiny), saved=False)
    assert by_name["test_result"] and by_name == by_class


def test_bpr_trains(workplace, tiny):
    from recbole.quick_start import run_recbole

    assert run_recbole(model="GLINTRU", dataset="ml-100k", config_dict={**tiny, "loss_type": "BPR"}, saved=False)


def test_checkpoint(workplace, tiny):
    """A new process loads it, a trainer resumes from it, a case study ranks with it."""
    import numpy as np
    from recbole.quick_start import load_data_and_model, run_recbole
    from recbole.utils import get_trainer
    from recbole.utils.case_study import full_sort_topk

    settings = {**tiny, "eval_args": {**tiny["eval_args"], "mode": "full"}}
    result = run_recbole(model="GLINTRU", dataset="ml-100k", config_dict=settings)
    (checkpoint,) = (workplace / "saved").glob("*.pth")
    code = f"""
import json
from recbole_glintru import plugin  # an editable install has no start-up line
from recbole.quick_start import load_data_and_model
from recbole.utils import get_trainer
config, model, _, _, _, test_data = load_data_and_model({str(checkpoint)!r})
config["show_progress"] = False
trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
result = trainer.evaluate(test_data, load_best_model=False)
print(json.dumps([type(model).__module__, {{key: float(value) for key, value in result.items()}}]))
"""
    module, metrics = python(code, workplace)
    assert module == "recbole_glintru.models.glintru"
    assert metrics == {key: float(value) for key, value in result["test_result"].items()}

    settings, model, dataset, train_data, valid_data, test_data = load_data_and_model(str(checkpoint))
    trainer = get_trainer(settings["MODEL_TYPE"], settings["model"])(settings, model)
    trainer.resume_checkpoint(str(checkpoint))
    assert trainer.start_epoch == 1
    users = dataset.token2id(dataset.uid_field, dataset.id2token(dataset.uid_field, np.array([1, 2, 3])))
    scores, items = full_sort_topk(users, model, test_data, k=5, device=settings["device"])
    assert items.shape == (3, 5) and scores.isfinite().all() and (items > 0).all()


def test_hyper_tuning(workplace, tiny):
    pytest.importorskip("hyperopt")
    from recbole.quick_start import objective_function
    from recbole.trainer import HyperTuning

    (workplace / "fixed.yaml").write_text(yaml.safe_dump({**tiny, "model": "GLINTRU", "dataset": "ml-100k"}))
    search = HyperTuning(
        objective_function,
        params_dict={"choice": {"learning_rate": [0.01, 0.001], "kernel_size": [1, 3]}},
        fixed_config_file_list=["fixed.yaml"],
    )
    search.run()
    assert len(search.params2result) == 4 and search.best_params["kernel_size"] in (1, 3)
    search.export_result("result.txt")
    assert "learning_rate" in (workplace / "result.txt").read_text()


def test_pickled_objective(workplace, tiny):
    """The objective of a search, unpickled in a process that knows the plugin only through its start-up line."""
    from recbole.quick_start import objective_function

    (workplace / "objective").write_bytes(pickle.dumps(objective_function))
    (workplace / "fixed.yaml").write_text(yaml.safe_dump({**tiny, "model": "GLINTRU", "dataset": "ml-100k"}))
    code = f"""
import json, pickle, sys
sys.path.insert(0, {str(ROOT / "startup")!r})
import recbole_glintru_startup
recbole_glintru_startup.wait_for_recbole()
assert not {{"recbole", "recbole_glintru", "torch"}} & set(sys.modules)
objective = pickle.load(open("objective", "rb"))
print(json.dumps(objective({{"learning_rate": 0.01}}, ["fixed.yaml"])["model"]))
"""
    assert python(code, workplace) == "GLINTRU"


def test_spawned_processes(workplace):
    """Children of `torch.multiprocessing.spawn`, as RecBole's nproc starts them."""
    (workplace / "main.py").write_text(
        """
import sys
sys.path.insert(0, sys.argv[1])
import recbole_glintru_startup
recbole_glintru_startup.wait_for_recbole()

def look(rank):
    from recbole.utils import get_model
    with open(f"found-{rank}", "w") as file:
        file.write(get_model("GLINTRU").__module__)

if __name__ == "__main__":
    import torch.multiprocessing
    torch.multiprocessing.spawn(look, nprocs=2)
"""
    )
    subprocess.run([sys.executable, "main.py", str(ROOT / "startup")], cwd=workplace, check=True)
    assert {(workplace / f"found-{rank}").read_text() for rank in (0, 1)} == {"recbole_glintru.models.glintru"}


def test_flops_are_counted(workplace, tiny):
    """By RecBole's own function: the products of one history, nothing for padding."""
    from logging import getLogger

    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.data.transform import construct_transform
    from recbole.utils import get_flops

    settings = Config(model="GLINTRU", dataset="ml-100k", config_dict=tiny)
    dataset = create_dataset(settings)
    train_data, _, _ = data_preparation(settings, dataset)
    model = GLINTRU(settings, train_data.dataset)
    arguments = (dataset, torch.device("cpu"), getLogger(), construct_transform(settings))
    counted, d, length = get_flops(model, *arguments), 16, int(dataset[torch.tensor([1])]["item_length"])
    recurrent = (3 + 3 + 3) * length * d * d  # convolution, gates from the input and from the state
    behind = 2 * 2 * d * d + d * d  # selective gate, channel crossing and second convolution, at two positions at most
    gates = (2 + 3) * d * d  # data-aware gate and gated MLP
    attention = length * d * d + 3 * d * d  # keys; query, mean of values, output layer
    assert recurrent + attention < counted < 1.5 * (recurrent + behind + gates + attention) + 2 * 9 * d**3

    from recbole.utils import get_model

    sasrec = Config(model="SASRec", dataset="ml-100k", config_dict={**tiny, "inner_size": 16})
    assert get_flops(get_model("SASRec")(sasrec, train_data.dataset), *arguments) > 0


def test_mends_are_documented():
    for mend in [mend for mends in import_hooks.AFTER.values() for mend in mends] + list(import_hooks.AROUND.values()):
        assert mend.__doc__, mend.__name__
