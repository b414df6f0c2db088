"""The models in RecBole's own scripts: by name and by class, in checkpoints, searches and other processes."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from snippets import python

import recbole_glintru
from recbole_glintru.models.glintru import GLINTRU

ROOT = Path(recbole_glintru.__file__).resolve().parent.parent


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
    after = 2 * 2 * d * d + d * d  # selective gate, channel crossing and second convolution, at two positions at most
    gates = (2 + 3) * d * d  # data-aware gate and gated MLP
    attention = length * d * d + 3 * d * d  # keys; query, mean of values, output layer
    assert recurrent + attention < counted < 1.5 * (recurrent + after + gates + attention) + 2 * 9 * d**3

    from recbole.utils import get_model

    sasrec = Config(model="SASRec", dataset="ml-100k", config_dict={**tiny, "inner_size": 16})
    assert get_flops(get_model("SASRec")(sasrec, train_data.dataset), *arguments) > 0
