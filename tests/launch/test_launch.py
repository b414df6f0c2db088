"""The command line: what is merged above what, what it says, how it ends. Nothing reaches the network."""

import io
import logging
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from fakes import ItemTable, model_settings
from recbole.config import Config

import recbole_glintru
from recbole_glintru import plugin
from recbole_glintru.launch import command, protocol

ROOT = Path(recbole_glintru.__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def away_from_the_network(monkeypatch, tmp_path):
    """In an empty folder, too: RecBole writes and looks for files where it is started."""

    def refuse(*args, **kwargs):
        raise socket.gaierror("no network in the tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def launch(monkeypatch):
    """Run the command line; in the place of training, RecBole's settings are merged and recorded."""
    from recbole import quick_start  # not before recbole_glintru, which lets it be imported without Ray

    def run(*arguments, then=lambda recorded: None):
        recorded = SimpleNamespace(ran=False)

        def record(model, dataset, config_file_list, **processes):
            recorded.ran, recorded.argv, recorded.processes = True, sys.argv[1:], processes
            recorded.files = [Path(file) for file in config_file_list]
            recorded.were_there = all(file.is_file() for file in recorded.files)
            recorded.config = Config(model=model, dataset=dataset, config_file_list=config_file_list)
            then(recorded)

        monkeypatch.setattr(quick_start, "run", record)
        recorded.status = command.main(list(arguments))
        return recorded

    return run


def fails(capsys, launched):
    """The message of a mistake of the user's."""
    assert not launched.ran and launched.status == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


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


def test_several_processes_are_recboles_to_start(launch):
    assert launch().processes == dict(nproc=1, world_size=-1, ip="localhost", port="5678", group_offset=0)
    arguments = ["--nproc=2", "--ip", "10.0.0.1", "--port=6000", "--world_size=4", "--group_offset=2"]
    launched = launch(*arguments)
    assert launched.processes == dict(nproc=2, world_size=4, ip="10.0.0.1", port="6000", group_offset=2)
    assert launched.argv == ["--model=GLINTRU", "--dataset=ml-100k"]


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["GLINTRU"], "'GLINTRU' is no setting"),
        (["-x"], "'-x' is no setting"),
        (["--learning_rate"], "--learning_rate has no value"),
        (["--learning_rate", "--topk=[5]"], "--learning_rate has no value"),
        (["--topk=[5]", "--topk=[6]"], "--topk is given twice: [5] and [6]"),
        (["--numerical_features=a=b"], "--numerical_features"),
        (["--nproc=two"], "--nproc"),
        (["--nproc=0"], "--nproc=0: must be at least 1"),
        (["--model"], "--model"),
        (["--protocol=ml-1b"], "--protocol=ml-1b: must be one of none, amazon-beauty"),
        (["--metrics=['Luck']"], "no metric named 'Luck'"),
        (["--loss_type=MSE"], "loss_type='MSE'"),
        (["--config_files=absent.yaml"], "cannot read absent.yaml: No such file"),
        (["--config_files=broken.yaml"], "broken.yaml is not YAML"),
        (["--config_files=empty.yaml"], "empty.yaml holds no settings"),
    ],
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
    assert f"--{setting}: neither RecBole nor {model} reads it. Is {meant} meant?" in capsys.readouterr().err


def test_other_settings_are_not_told_of(launch, capsys):
    """Those of the model, of RecBole, of the package and of the authors, and what nobody knows."""
    names = ["kernel_size", "epochs", "seq_separator", "length_groups", "process_timeout", "num_layers", "my_own"]
    assert launch("--accelerate=False", *(f"--{name}=5" for name in names)).ran
    assert "reads it" not in capsys.readouterr().err


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


def test_other_errors_keep_their_traceback(launch):
    def multiply(recorded):
        torch.nn.functional.cross_entropy(torch.zeros(2, 3), torch.zeros(4, dtype=torch.long))

    with pytest.raises(ValueError, match="batch_size"):
        launch(then=multiply)


# -------------------------------------------------------------------------------------------------- the data


def test_an_unknown_data_set_says_where_it_was_looked_for(launch, capsys, tmp_path):
    error = fails(capsys, launch("--dataset=own", "--data_path=elsewhere"))
    assert f"looked for {tmp_path / 'elsewhere' / 'own' / 'own.inter'}" in error
    assert "knows no download" in error and "--data_path=DIR" in error
    assert str(tmp_path / "dataset" / "own" / "own.inter") in fails(capsys, launch("--dataset=own"))


def test_a_folder_without_the_data_is_no_data(launch, capsys, tmp_path):
    (tmp_path / "dataset" / "ml-1m").mkdir(parents=True)
    error = fails(capsys, launch("--dataset=ml-1m"))
    assert str(tmp_path / "dataset" / "ml-1m" / "ml-1m.inter") in error and "the folder is there" in error


def test_a_saved_data_set_stands_for_the_files(launch, capsys, tmp_path):
    """Where it is: RecBole looks for the files otherwise."""
    saved = tmp_path / "filtered.pth"
    assert "no data for 'own': looked for" in fails(capsys, launch("--dataset=own", f"--dataset_save_path={saved}"))
    saved.touch()
    assert launch("--dataset=own", f"--dataset_save_path={saved}").ran


def test_split_files_are_looked_for_by_their_names(launch, capsys, tmp_path):
    folder = tmp_path / "dataset" / "own"
    folder.mkdir(parents=True)
    parts = ["train", "valid", "test"]
    option = f"--benchmark_filename={parts}"
    assert str(folder / "own.test.inter") in fails(capsys, launch("--dataset=own", option))
    for part in parts:
        (folder / f"own.{part}.inter").touch()
    assert launch("--dataset=own", option).ran


def test_without_a_network_the_download_is_reported(launch, capsys, tmp_path):
    error = fails(capsys, launch("--dataset=ml-1m"))
    assert str(tmp_path / "dataset" / "ml-1m" / "ml-1m.inter") in error
    assert "ml-1m.zip failed: no network in the tests" in error and "--data_path=DIR" in error
    assert not (tmp_path / "dataset").exists()


def archive(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        for name, text in files.items():
            zipped.writestr(f"{name}", text)
    return content.getvalue()


def serve(monkeypatch, *responses):
    """Answer one opened address after the other with these bytes, or raise."""

    class Response(io.BytesIO):
        def info(self):
            return {"Content-Length": str(len(self.getvalue()))}

    answers = iter(responses)

    def urlopen(address):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return Response(answer)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def test_a_data_set_that_recbole_knows_is_downloaded(launch, monkeypatch, tmp_path):
    zipped = archive(
        **{"Amazon_Beauty.inter": "user_id:token\titem_id:token\n", "Amazon_Beauty.item": "item_id:token\n"}
    )
    serve(monkeypatch, zipped, zipped)  # its size is asked for, then the content
    assert launch("--dataset=amazon-beauty", "--data_path=down").ran
    there = sorted(file.name for file in (tmp_path / "down" / "amazon-beauty").iterdir())
    assert there == ["amazon-beauty.inter", "amazon-beauty.item"]


@pytest.mark.parametrize("answer", [b"<html>please log in</html>", urllib.error.URLError("connection reset")])
def test_a_broken_download_leaves_nothing_behind(launch, monkeypatch, capsys, tmp_path, answer):
    serve(monkeypatch, archive(), answer)
    error = fails(capsys, launch("--dataset=ml-1m"))
    assert "ml-1m.zip failed" in error
    assert not (tmp_path / "dataset" / "ml-1m").exists()


# -------------------------------------------------------------------------------------------------- the help


def run_python(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["-h", "--model=GLINTRU"], ["--help", "--model", "SASRec"]])
def test_help_imports_neither_torch_nor_a_model(arguments, tmp_path):
    code = (
        "import sys; from recbole_glintru.launch import command; status = command.main(sys.argv[1:]);"
        "print([name for name in sys.modules if name == 'torch' or 'recbole_glintru.models' in name]);"
        "sys.exit(status)"
    )
    done = run_python("-c", code, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_the_models(capsys):
    assert command.main(["--help"]) == 0
    text = capsys.readouterr().out
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ") and line.split()}
    for name in plugin.announced_models():
        described = plugin.import_model(name).__doc__.partition("\n")[0]
        assert described and lines[name].endswith(described)
    for name in ["SASRec", "GRU4Rec", "BERT4Rec", "LightSANs", "NARM"]:
        assert f" {name}," in text
    for option in ["--model", "--dataset", "--config_files", "--protocol", "--nproc", "--key=value"]:
        assert option in text


@pytest.mark.parametrize("name, package", [("GLINTRU", "recbole_glintru"), ("LightSANs", "recbole")])
def test_help_of_a_model_has_its_keys(capsys, name, package):
    assert command.main(["--help", f"--model={name}"]) == 0
    text = capsys.readouterr().out
    for line in (plugin.properties(package) / "model" / f"{name}.yaml").read_text().splitlines():
        assert line.strip() in text


def test_help_of_a_model_shows_what_the_protocol_makes_of_it(capsys):
    assert command.main(["--help", "--model=GRU4Rec", "--dataset=amazon-beauty"]) == 0
    text = capsys.readouterr().out
    assert "  num_layers: 2\n" in text and "  dropout_prob: 0.5\n" in text


# ------------------------------------------------------------------------------------------- the two scripts


@pytest.mark.parametrize("started_as", ["module", "script"])
def test_processes_of_nproc_know_the_models(started_as, tmp_path):
    start = {"module": "runpy.run_module('recbole_glintru', run_name='__main__', alter_sys=True)"}
    start["script"] = f"runpy.run_path({str(ROOT / 'run_recbole.py')!r}, run_name='__main__')"
    # As `python -m` and `python FILE` start it; but `main` looks into a spawned process instead of training.
    main_file = tmp_path / "start.py"
    main_file.write_text(f"""
import multiprocessing, runpy, sys
from recbole_glintru.launch import command

def look():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(eval, ("'recbole_glintru' in __import__('sys').modules",)))

command.main = look
{start[started_as]}
""")
    done = run_python("-c", f"exec(open({str(main_file)!r}).read())", cwd=tmp_path)
    assert done.stdout.splitlines() == ["True"], done.stderr


def test_a_whole_run(tmp_path):
    """One epoch on a small data set, from the command line to the test result."""
    folder = tmp_path / "dataset" / "small"
    folder.mkdir(parents=True)
    rows = [f"u{user}\ti{(3 * user + step) % 12}\t{step}" for user in range(20) for step in range(6)]
    (folder / "small.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n")
    arguments = ["--dataset=small", "--protocol=amazon-beauty", "--epochs", "1", "--hidden_size=16"]
    done = run_python(ROOT / "run_recbole.py", *arguments, "--show_progress=False", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test result" in done.stderr and "recall@10" in done.stderr
