"""Changing modules while they are imported: functions to run after or around a module's body, and small tools.

Decorators in this folder and in `additions.py` fill the tables, and the finder of `plugin.py` reads them.
"""

import contextlib
import sys
import types
from contextlib import AbstractContextManager
from typing import Any, Callable

AFTER: dict[str, list[Callable[[types.ModuleType], None]]] = {}
AROUND: dict[str, Callable[[], AbstractContextManager]] = {}


def after(module: str):
    """Decorator: run the function, with the module as its argument, once the body of the module has run."""

    def add(patch):
        AFTER.setdefault(module, []).append(patch)
        return patch

    return add


def around(module: str):
    """Decorator: the function returns the context manager in which the body of the module runs."""

    def add(context):
        AROUND[module] = context
        return context

    return add


def rebind(old: Any, new: Any) -> None:
    """Replace `old` by `new` in every module that has already imported it by name."""
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is old:
                setattr(module, name, new)


def called_by_recbole() -> bool:
    """Whether the function that calls this one was itself called from a module of RecBole."""
    return sys._getframe(2).f_globals.get("__name__", "").partition(".")[0] == "recbole"


class Overlay(types.ModuleType):
    """A module with a few names replaced, as seen by a single RecBole module."""

    def __init__(self, module: types.ModuleType, **replaced: Any):
        super().__init__(module.__name__)
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name):
        return getattr(self.__dict__["_module"], name)


@contextlib.contextmanager
def stand_ins(modules: dict[str, types.ModuleType]):
    """Make `modules` importable by these names inside the block, then restore `sys.modules`."""
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
