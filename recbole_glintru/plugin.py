"""How RecBole finds the models of this package, and of every other that announces some.

A distribution announces a model as an entry point of the group `recbole.models`::

    [options.entry_points]
    recbole.models =
        GLINTRU = recbole_glintru.models.glintru:GLINTRU

RecBole looks a model up by importing `recbole.model.<kind>_recommender.<lower-case name>`. `register` puts one finder
into `sys.meta_path` that answers for the announced names where RecBole has no such module, and that runs the mends of
`compat/` and the additions of `additions.py` right after the RecBole modules they concern. No module of RecBole or
PyTorch is imported before somebody asks for it, and RecBole's own models always win.
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
    """Install the finder, and mend the modules of RecBole that are loaded already. Calling it twice is harmless."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for name in [name for name in AFTER if name in sys.modules]:
        _mend(sys.modules[name])


@functools.cache
def announced_models() -> dict[str, EntryPoint]:
    """The models of every installed plugin: class name -> entry point.

    The models of this package are there even when it is not installed (a checkout on `PYTHONPATH`): they follow
    RecBole's own convention, `properties/model/<Name>.yaml` beside `models/<name>.py`.
    """
    own = {
        file.stem: EntryPoint(file.stem, f"recbole_glintru.models.{file.stem.lower()}:{file.stem}", GROUP)
        for file in sorted((properties("recbole_glintru") / "model").glob("*.yaml"))
    }
    every = entry_points()
    group = every.select(group=GROUP) if hasattr(every, "select") else every.get(GROUP, ())  # dict until Python 3.9
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
    """The folder `properties/` of an importable package: inside it, or beside it in a checkout."""
    home = Path(importlib.util.find_spec(package).origin).resolve().parent
    inside = home / "properties"
    return inside if inside.is_dir() else home.parent / "properties"


def default_settings_file(model_class: type) -> Optional[Path]:
    """`properties/model/<Name>.yaml` of the plugin that a model class, or else its nearest base, comes from."""
    plugins = set(map(package_of, announced_models()))
    for base in model_class.__mro__:
        package = base.__module__.partition(".")[0]
        if package in plugins:
            file = properties(package) / "model" / f"{base.__name__}.yaml"
            if file.is_file():
                return file
    return None


def unknown_model_message(name: str) -> str:
    """What to say of a name that is no model: the name and the nearest ones that are."""
    spelled = {known.lower(): known for known in model_names()}
    near = [spelled[match] for match in difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.5)]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known models: {', '.join(spelled.values())}."
    return f"There is no model named '{name}'. {hint}"


def import_model(name: str) -> type:
    """The class of a model by its name.

    Raises:
        ValueError: there is no such model; the message has the nearest names.
    """
    return importlib.import_module("recbole.utils").get_model(name)


# ---------------------------------------------------------------------------------------------------------- finding


class _Finder:
    """Stands first in `sys.meta_path`; leaves the finding to the others and adds to what they find, or do not find."""

    def find_spec(self, name, path=None, target=None):
        is_model, is_mended = name.startswith(_NAMESPACE), name in AFTER or name in AROUND
        if not (is_model or is_mended):
            return None
        spec = self._ask_the_others(name, path, target)
        if spec is not None and spec.loader is not None and is_mended:
            spec.loader = _MendingLoader(spec.loader)
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
    """Makes `recbole.model.sequential_recommender.<name>`, whose one content is the announced class itself."""

    def __init__(self, entry: EntryPoint):
        self._entry = entry

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        setattr(module, self._entry.name, self._entry.load())


class _MendingLoader:
    """Another loader, with the mends of `compat/` around and after the module's body."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        with AROUND.get(module.__name__, contextlib.nullcontext)():
            self._loader.exec_module(module)
        _mend(module)


def _mend(module):
    for mend in AFTER.get(module.__name__, ()):
        mend(module)
