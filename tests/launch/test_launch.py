"""The command line: what is merged above what, what it says, how it ends. Nothing reaches the network."""

import logging
import sys

import pytest
import torch
import yaml
from fakes import ItemTable, model_settings
from launches import fails

from recbole_glintru import plugin
from recbole_glintru.launch import protocol

# -------------------------------------------------------------------------------------------- what is merged


def test_precedence(launch, monkeypatch, tmp_path):
    """GLINTRU.yaml < protocol < protocol of the model < first file < second file < command line."""
    dropouts = ["gate", "mix", "mlp", "hidden", "embedding"]
    keys = [*(f"{name}_dropout_prob" for name in dropouts), "learning_rate"]
    levels = [dict.fromkeys(keys[1 + level :], round(0.1 * level + 0.05, 2)) for level in range(5)]
    made_up = tmp_path / "made-up.yaml"
    made_up.write_text(yaml.safe_dump({**levels[0], "models": {"GLINTRU": levels[1], "SASRec": levels[4]}}))
    monkeypatch.setattr(protocol, "files", lambda: {"ml-100k": made_up})
    files = [tmp_path / "first.yaml", tmp_path / "second.yaml"]
    for file, settings in zip(files, levels[2:]):
        file.write_text(yaml.safe_dump(settings))
    config = launch(f"--config_files={files[0]} {files[1]}", "--learning_rate=0.45").config
    assert [config[key] for key in keys] == [0.3, 0.05, 0.15, 0.25, 0.35, 0.45]
    assert config["kernel_size"] == 3


def test_recboles_own_models_get_their_settings_too(launch):
    config = launch("--model=GRU4Rec", "--protocol=ml-1m", "--dataset=ml-100k").config
    assert (config["num_layers"], config["embedding_size"], config["hidden_size"]) == (2, 128, 128)
    assert config["dropout_prob"] == 0.2 and config["loss_type"] == "CE"
    assert launch("--model=LightSANs", "--k_interests=7").config["k_interests"] == 7


def test_a_data_set_without_a_protocol_runs_on_recboles_defaults(launch, tmp_path, capsys):
    (tmp_path / "dataset" / "own").mkdir(parents=True)
    (tmp_path / "dataset" / "own" / "own.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n")
    launched = launch("--dataset=own")
    assert launched.files == [] and "Protocol: none" in capsys.readouterr().err
    assert (launched.config["epochs"], launched.config["seed"]) == (300, 2020)
    assert launch("--dataset=own", "--protocol=amazon-beauty").config["embedding_dropout_prob"] == 0.5


def test_the_protocol_can_be_left_out(launch, capsys):
    launched = launch("--protocol=none")
    assert launched.config["metrics"] == ["Recall", "MRR", "NDCG", "Hit", "Precision"]
    assert launched.argv == ["--model=GLINTRU", "--dataset=ml-100k"]
    assert "Protocol: none" in capsys.readouterr().err
    launch()
    assert f"Protocol: {protocol.files()['ml-100k']}" in capsys.readouterr().err


def test_the_protocols_file_is_gone_after_the_run(launch):
    launched = launch()
    assert launched.were_there and not any(file.exists() for file in launched.files)

    def crash(recorded):
        files.extend(recorded.files)
        raise RuntimeError("out of memory")

    files = []
    with pytest.raises(RuntimeError, match="out of memory"):
        launch(then=crash)
    assert files and not any(file.exists() for file in files)


def test_model_and_dataset_may_come_from_a_file(launch, tmp_path):
    (tmp_path / "own.yaml").write_text("model: SASRec\ndataset: ml-100k\nn_heads: 4\n")
    launched = launch("--config_files", "own.yaml")
    assert (launched.config["model"], launched.config["n_heads"]) == ("SASRec", 4)
    assert launch("--config_files=own.yaml", "--model=NARM").config["model"] == "NARM"


def test_names_of_files_may_have_blanks(launch, tmp_path):
    (tmp_path / "my own.yaml").write_text("model: SASRec\n")
    (tmp_path / "other.yaml").write_text("n_heads: 4\n")
    config = launch("--config_files='my own.yaml' other.yaml").config
    assert (config["model"], config["n_heads"]) == ("SASRec", 4)


# ----------------------------------------------------------------------------------------- how it is written


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model=SASRec", "--dataset=ml-100k", "--learning_rate=0.01", "--topk=[5,10]"],
        ["--model", "SASRec", "--dataset", "ml-100k", "--learning_rate", "0.01", "--topk", "[5,10]"],
        ["--learning_rate", "0.01", "-m", "SASRec", "--topk=[5,10]", "-d", "ml-100k", "--protocol=ml-100k"],
    ],
)
def test_both_spellings_reach_recbole(launch, caplog, arguments):
    before = list(sys.argv)
    with caplog.at_level(logging.WARNING):
        launched = launch(*arguments)
    config = launched.config
    assert (config["model"], config["dataset"], config["learning_rate"], config["topk"]) == (
        "SASRec",
        "ml-100k",
        0.01,
        [5, 10],
    )
    assert "will not be used" not in caplog.text
    assert launched.argv == ["--model=SASRec", "--dataset=ml-100k", "--learning_rate=0.01", "--topk=[5,10]"]
    assert sys.argv == before


def test_a_notebook_calls_the_command(launch, monkeypatch):
    """RecBole ignores the words after the first one of a notebook."""
    monkeypatch.setattr(sys, "argv", ["/lib/ipykernel_launcher.py", "-f", "kernel.json"])
    assert launch("--learning_rate=0.01").config["learning_rate"] == 0.01
    assert sys.argv == ["/lib/ipykernel_launcher.py", "-f", "kernel.json"]


def test_several_processes_are_recboles_to_start(launch):
    assert launch().processes == dict(nproc=1, world_size=-1, ip="localhost", port="5678", group_offset=0)
    arguments = ["--nproc=2", "--ip", "10.0.0.1", "--port=6000", "--world_size=4", "--group_offset=2"]
    launched = launch(*arguments)
    assert launched.processes == dict(nproc=2, world_size=4, ip="10.0.0.1", port="6000", group_offset=2)
    assert launched.argv == ["--model=GLINTRU", "--dataset=ml-100k"]


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["GLINTRU"], "'GLINTRU' is not a setting"),
        (["-x"], "'-x' is not a setting"),
        (["--learning_rate"], "--learning_rate has no value"),
        (["--learning_rate", "--topk=[5]"], "--learning_rate has no value"),
        (["--topk=[5]", "--topk=[6]"], "--topk is given twice: [5] and [6]"),
        (["--numerical_features=a=b"], "--numerical_features"),
        (["--nproc=two"], "--nproc"),
        (["--nproc=0"], "--nproc=0: must be at least 1"),
        (["--model"], "--model"),
        (["--model="], "--model has no value"),
        (["-d", ""], "-d has no value"),
        (["--model=SASRec", "-m", "NARM"], "-m is given twice: SASRec and NARM"),
        (
            ["--config_files=a.yaml", "--config_files=b.yaml"],
            "--config_files is given twice: ['a.yaml'] and ['b.yaml']",
        ),
        (["--protocol=none", "--protocol=ml-1m"], "--protocol is given twice: none and ml-1m"),
        (["--nproc=1", "--nproc=2"], "--nproc is given twice: 1 and 2"),
        (["--protocol=ml-1b"], "--protocol=ml-1b: must be one of none, amazon-beauty"),
        (["--metrics=['Luck']"], "no metric named 'Luck'"),
        (["--loss_type=MSE"], "loss_type='MSE'"),
        (["--checkpoint_dir=broken.yaml/saved"], "checkpoint_dir='broken.yaml/saved': must be a folder that can be"),
        (["--checkpoint_dir=" + 300 * "a"], "written to, or made: File name too long."),
        (["--checkpoint_dir=3"], "checkpoint_dir=3: must be a folder"),
        (["--config_files='a.yaml"], "--config_files: 'a.yaml: No closing quotation"),
        (["--config_files=absent.yaml"], "cannot read absent.yaml: No such file"),
        (["--config_files=broken.yaml"], "broken.yaml is not YAML"),
        (["--config_files=empty.yaml"], "empty.yaml contains no settings"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_mistakes_are_named(launch, capsys, tmp_path, arguments, named):
    (tmp_path / "broken.yaml").write_text("topk: [5\n")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert named in fails(capsys, launch(*arguments))


@pytest.mark.parametrize(
    "model, setting, meant",
    [
        ("GLINTRU", "hiden_size", "hidden_size"),
        ("GRU4Rec", "n_layers", "num_layers"),
        ("SASRec", "acelerate", "accelerate"),
        ("Mamba4Rec", "num_layer", "num_layers"),  # its authors' name
    ],
)
def test_a_misspelt_setting_is_told_of(launch, capsys, model, setting, meant):
    assert launch(f"--model={model}", f"--{setting}=2").ran
    assert (
        f"{setting}=2: neither RecBole nor {model} reads this setting. Did you mean {meant}?\n"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "model, setting",
    [
        ("Mamba4Rec", "n_heads=3"),
        ("LinRec", "dropout_prob=0.9"),
        ("RecMamba", "n_layers=3"),
        ("GLINTRU", "foo_bar=1"),
        ("GRU4Rec", "n_heads=3"),
    ],
)
def test_a_setting_that_nobody_reads_is_told_of(launch, capsys, tmp_path, model, setting):
    """On the command line and in files, which may have it from another model."""
    said = f"{setting}: neither RecBole nor {model} reads this setting.\n"
    assert launch(f"--model={model}", f"--{setting}").ran and said in capsys.readouterr().err
    (tmp_path / "own.yaml").write_text(setting.replace("=", ": ") + f"\nmodel: {model}\n")
    assert launch("--config_files=own.yaml").ran
    assert [line for line in capsys.readouterr().err.splitlines(True) if "reads this setting" in line] == [said]


def test_a_misspelt_setting_of_a_file_is_told_of(launch, capsys, tmp_path):
    (tmp_path / "own.yaml").write_text("n_layer: 3\n")
    assert launch("--config_files=own.yaml").ran
    assert (
        "n_layer=3: neither RecBole nor GLINTRU reads this setting. Did you mean n_layers?" in capsys.readouterr().err
    )


def test_other_settings_are_not_told_of(launch, capsys, tmp_path):
    """Those of the model, of RecBole, of the package, of the authors, and the protocol's for other models."""
    names = ["kernel_size", "epochs", "seq_separator", "length_groups", "process_timeout", "num_layers", "tail_ratio"]
    (tmp_path / "own.yaml").write_text("model: GLINTRU\ndataset: ml-100k\nencoding: utf-8\n")
    assert launch("--accelerate=False", "--config_files=own.yaml", *(f"--{name}=5" for name in names)).ran
    assert launch("--model=FEARec", "--tau=1").ran  # which RecBole's FEARec.yaml leaves out
    assert "reads this setting" not in capsys.readouterr().err


@pytest.mark.parametrize("wrong, nearest", [("GLINT-RU", "GLINTRU"), ("glintru", "GLINTRU"), ("SasRec", "SASRec")])
@pytest.mark.parametrize("asked", [[], ["--help"]])
def test_an_unknown_model_suggests_the_nearest(launch, capsys, wrong, nearest, asked):
    assert f"no model named '{wrong}'. Did you mean {nearest}" in fails(capsys, launch(f"--model={wrong}", *asked))


def test_a_wrong_setting_of_a_model_is_named_without_a_traceback(launch, capsys):
    def make_the_model(recorded):
        plugin.import_model("GLINTRU")(model_settings("GLINTRU", hidden_size=16, n_heads=5), ItemTable(9))

    assert launch(then=make_the_model).status == 2
    error = capsys.readouterr().err
    assert "error: n_heads=5: must be a divisor of hidden_size=16." in error and "Traceback" not in error


def test_a_mistake_in_somebodys_own_model_keeps_its_traceback(launch, capsys):
    """But a setting that it has checked by the package's functions is refused as those of the package are."""

    class Own(plugin.import_model("GLINTRU")):
        def __init__(self, config, dataset):
            super().__init__(config, dataset)
            self.first, self.second = (1, 2, 3)

    def make(**changes):
        return lambda recorded: Own(model_settings("GLINTRU", **changes), ItemTable(9))

    with pytest.raises(ValueError, match="too many values to unpack"):
        launch(then=make())
    assert launch(then=make(n_heads=5)).status == 2
    assert "error: n_heads=5: must be a divisor of hidden_size=16." in capsys.readouterr().err


def test_other_errors_keep_their_traceback(launch):
    def multiply(recorded):
        torch.nn.functional.cross_entropy(torch.zeros(2, 3), torch.zeros(4, dtype=torch.long))

    with pytest.raises(ValueError, match="batch_size"):
        launch(then=multiply)
