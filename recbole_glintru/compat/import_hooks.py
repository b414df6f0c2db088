"""Changing modules while they are imported: what runs after a module's body, what stands around it, small tools.

Decorated functions fill the tables, in this folder and in `additions.py`, and the finder of `plugin.py` reads them.
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

    def add(mend):
        AFTER.setdefault(module, []).append(mend)
        return mend

    return add


def around(module: str):
    """Decorator: the function makes the context in which the body of the module runs."""

    def add(context):
        AROUND[module] = context
        return context

    return add


def rebind(old: Any, new: Any) -> None:
    """Put `new` in the place of `old` in every module that has imported it by name already."""
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is old:
                setattr(module, name, new)


def called_by_recbole() -> bool:
    """Whether the caller of the function that asks is a module of RecBole."""
    return sys._getframe(2).f_globals.get("__name__", "").partition(".")[0] == "recbole"


class Overlay(types.ModuleType):
    """A module seen through a few replaced names, for one RecBole module alone."""

    def __init__(self, module: types.ModuleType, **replaced: Any):
        super().__init__(module.__name__)
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name):
        return getattr(self.__dict__["_module"], name)


@contextlib.contextmanager
def stand_ins(modules: dict[str, types.ModuleType]):
    """Let `modules` be importable by these names inside the block, and leave `sys.modules` as it was."""
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
