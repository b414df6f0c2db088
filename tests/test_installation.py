"""The package as pip installs it: a wheel, in a clean virtual environment, used from a folder that is not the checkout.

The environment sees the libraries of the one that runs the tests, and the wheel instead of the checkout.
"""

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import recbole_glintru

ROOT = Path(recbole_glintru.__file__).resolve().parent.parent
SMALL = [
    "--user_inter_num_interval=[0,24]",
    "--epochs=1",
    "--hidden_size=16",
    "--MAX_ITEM_LIST_LENGTH=10",
    "--show_progress=False",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the sources: a build leaves files behind."""
    sources = tmp_path_factory.mktemp("sources") / "project"
    unwanted = shutil.ignore_patterns(".git", "build", "*.egg-info", "tests", "benchmarks", ".venv", "saved", "log*")
    shutil.copytree(ROOT, sources, ignore=unwanted)
    target = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(target),
        str(sources),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (file,) = target.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of a new virtual environment with the wheel in it."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True, with_pip=False)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    interpreter = scripts / Path(sys.executable).name
    interpreter = interpreter if interpreter.exists() else scripts / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(
        subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    (packages / "zz_libraries.pth").write_text("\n".join(sorted(libraries)) + "\n")
    with zipfile.ZipFile(wheel) as archive:  # what pip does with a wheel that has no scripts
        archive.extractall(packages)
    return interpreter


def run(python, arguments, cwd, **environment):
    result = subprocess.run(
        [python, *arguments],
        cwd=cwd,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **environment},
        capture_output=True,
        text=True,
    )
    return result


def test_the_wheel_has_everything(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("recbole_glintru", "properties"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml", ".hyper"):
                path = file.relative_to(ROOT).as_posix()
                path = path if folder == "recbole_glintru" else f"recbole_glintru/{path}"
                assert path in names
    assert {"recbole_glintru.pth", "recbole_glintru_startup.py"} <= names
    assert not [name for name in names if name.startswith(("tests", "properties", "benchmarks", "startup"))]


def test_the_wheel_is_what_is_imported(python, tmp_path):
    result = run(python, ["-c", "import recbole_glintru; print(recbole_glintru.__file__)"], tmp_path)
    assert str(python.parent.parent) in result.stdout, result.stderr


def test_start_up_imports_nothing(python, tmp_path):
    code = "import json, sys; print(json.dumps([sorted(sys.modules), [str(f) for f in sys.meta_path]]))"
    modules, finders = json.loads(run(python, ["-c", code], tmp_path).stdout)
    modules_off, finders_off = json.loads(run(python, ["-c", code], tmp_path, RECBOLE_GLINTRU_AUTOLOAD="0").stdout)
    assert set(modules) - set(modules_off) == {"recbole_glintru_startup"}
    assert len(finders) == len(finders_off) + 1


def test_stock_launcher(python, tmp_path):
    """A script of RecBole's own kind, with no import of ours: the start-up line makes it find the model."""
    (tmp_path / "run_recbole.py").write_text(
        "from recbole.quick_start import run\n"
        "if __name__ == '__main__':\n"
        "    result = run('GLINTRU', 'ml-100k')\n"
        "    print('recall', result['test_result']['recall@10'])\n"
    )
    result = run(python, ["run_recbole.py", *SMALL], tmp_path)
    assert result.returncode == 0 and "recall" in result.stdout, result.stderr
    result = run(python, ["run_recbole.py", *SMALL], tmp_path, RECBOLE_GLINTRU_AUTOLOAD="0")
    assert result.returncode != 0


def test_module_launcher(python, tmp_path):
    result = run(python, ["-m", "recbole_glintru", "--model=GLINTRU", "--dataset=ml-100k", *SMALL], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "test result" in result.stdout + result.stderr


def test_start_up_without_recbole(python, tmp_path):
    """Where RecBole is not installed, Python's own message stands."""
    blocked = "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p or sys.prefix in p]; "
    result = run(python, ["-c", blocked + "import recbole"], tmp_path)
    assert "No module named 'recbole'" in result.stderr
