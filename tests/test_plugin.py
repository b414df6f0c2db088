"""How RecBole comes to the models: registration, finding by name, and what is imported for it."""

import configparser
import importlib
import sys
from pathlib import Path

import pytest
from snippets import python

import recbole_glintru
from recbole_glintru import plugin
from recbole_glintru.compat import import_hooks
from recbole_glintru.models.glintru import GLINTRU

ROOT = Path(recbole_glintru.__file__).resolve().parent.parent


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
    heavy = ["torch", "recbole", "numpy", "pandas", "ray", "numba", "triton", "mamba_ssm", "matplotlib", "hyperopt"]
    code = f"import json, sys, recbole_glintru; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    assert python(code, tmp_path) == []


def test_nothing_optional_is_ever_needed(tmp_path):
    """All of RecBole's quick start and every model import with Ray, Triton and their like blocked."""
    code = """
import sys, json
blocked = ("ray", "numba", "triton", "mamba_ssm", "causal_conv1d", "matplotlib", "hyperopt")
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


def test_the_package_of_a_model(monkeypatch):
    """That of the plugin that announces it, however deep in there it is; RecBole's own are announced by nobody."""
    entries = [("Cousin", "otherplugin.deep.models:Cousin"), ("Flat", "flatplugin:Flat")]
    announced = {name: plugin.EntryPoint(name, value, plugin.GROUP) for name, value in entries}
    monkeypatch.setattr(plugin, "announced_models", lambda: announced)
    assert list(map(plugin.package_of, ["Cousin", "Flat", "SASRec"])) == ["otherplugin", "flatplugin", "recbole"]


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


def test_patches_are_documented():
    after = [patch for patches in import_hooks.AFTER.values() for patch in patches]
    for patch in after + list(import_hooks.AROUND.values()):
        assert patch.__doc__, patch.__name__
