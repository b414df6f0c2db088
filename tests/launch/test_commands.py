"""The command as it is started: its help, its processes, a whole run."""

import pytest
from launches import ROOT, run_python

from recbole_glintru import plugin
from recbole_glintru.launch import command


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
