"""How RecBole finds the models of this package, and of every other package that announces models.

A distribution announces a model as an entry point of the group `recbole.models`::

    [options.entry_points]
    recbole.models =
        GLINTRU = recbole_glintru.models.glintru:GLINTRU

RecBole looks a model up by importing `recbole.model.<kind>_recommender.<lower-case name>`. `register` puts one finder
into `sys.meta_path`. It supplies the announced names for which RecBole has no module, and runs the patches of `compat/`
and `additions.py` right after the RecBole modules that they change. No module of RecBole or PyTorch is imported before
it is asked for, and RecBole's own models take precedence.
"""

import contextlib
import difflib
import functools
import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Optional

from recbole_glintru.compat.import_hooks import AFTER, AROUND

GROUP = "recbole.models"
_NAMESPACE = "recbole.model.sequential_recommender."


def register() -> None:
    """Install the finder, and patch the modules of RecBole that are already loaded. Calling it twice is harmless."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for name in [name for name in AFTER if name in sys.modules]:
        _patch(sys.modules[name])


@functools.cache
def announced_models() -> dict[str, EntryPoint]:
    """The models of every installed plugin: class name -> entry point.

    The models of this package are included even if it is not installed (a checkout on `PYTHONPATH`): they follow
    RecBole's own convention, a `properties/model/<Name>.yaml` for each `models/<name>.py`.
    """
    own = {
        file.stem: EntryPoint(file.stem, f"recbole_glintru.models.{file.stem.lower()}:{file.stem}", GROUP)
        for file in sorted((properties("recbole_glintru") / "model").glob("*.yaml"))
    }
    every = entry_points()
    group = every.select(group=GROUP) if hasattr(every, "select") else every.get(GROUP, ())  # a dict up to Python 3.9
    return {**{entry.name: entry for entry in group}, **own}


def model_names() -> list[str]:
    """The names of all models that `get_model` can return, announced and RecBole's own, sorted."""
    builtin = (file.stem for file in (properties("recbole") / "model").glob("*.yaml"))
    return sorted({*announced_models(), *builtin}, key=str.lower)


def package_of(model: str) -> str:
    """The package that a model comes from, by its name: the plugin that announces it, or RecBole."""
    entry = announced_models().get(model)
    return entry.value.partition(":")[0].partition(".")[0] if entry else "recbole"


def properties(package: str) -> Path:
    """The folder `properties/` of an importable package: inside it, or next to it in a checkout."""
    home = Path(importlib.util.find_spec(package).origin).resolve().parent
    inside = home / "properties"
    return inside if inside.is_dir() else home.parent / "properties"


def default_settings_file(model_class: type) -> Optional[Path]:
    """`properties/model/<Name>.yaml` of the plugin of a model class, or else of its nearest base that has one."""
    plugins = set(map(package_of, announced_models()))
    for base in model_class.__mro__:
        package = base.__module__.partition(".")[0]
        if package in plugins:
            file = properties(package) / "model" / f"{base.__name__}.yaml"
            if file.is_file():
                return file
    return None


def unknown_model_message(name: str) -> str:
    """The error message for an unknown model: its name, and the nearest known ones."""
    spelled = {known.lower(): known for known in model_names()}
    near = [spelled[match] for match in difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.5)]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known models: {', '.join(spelled.values())}."
    return f"There is no model named '{name}'. {hint}"


def import_model(name: str) -> type:
    """The class of the model with this name.

    Raises:
        ValueError: there is no such model; the message lists the nearest names.
    """
    return importlib.import_module("recbole.utils").get_model(name)


# ---------------------------------------------------------------------------------------------------------- finding


class _Finder:
    """First in `sys.meta_path`: asks the other finders, then patches the module found or supplies a missing model."""

    def find_spec(self, name, path=None, target=None):
        is_model, is_patched = name.startswith(_NAMESPACE), name in AFTER or name in AROUND
        if not (is_model or is_patched):
            return None
        spec = self._ask_the_others(name, path, target)
        if spec is not None and spec.loader is not None and is_patched:
            spec.loader = _PatchingLoader(spec.loader)
        if spec is None and is_model:
            wanted = name[len(_NAMESPACE) :]
            for entry in announced_models().values():
                if entry.name.lower() == wanted:
                    return ModuleSpec(name, _ModelLoader(entry), origin=entry.value)
        return spec

    def _ask_the_others(self, name, path, target):
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None


class _ModelLoader:
    """Makes `recbole.model.sequential_recommender.<name>`, which contains only the announced class."""

    def __init__(self, entry: EntryPoint):
        self._entry = entry

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        setattr(module, self._entry.name, self._entry.load())


class _PatchingLoader:
    """Wraps another loader and runs the registered patches around and after the module's body."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        with AROUND.get(module.__name__, contextlib.nullcontext)():
            self._loader.exec_module(module)
        _patch(module)


def _patch(module):
    for patch in AFTER.get(module.__name__, ()):
        patch(module)
