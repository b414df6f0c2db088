"""Reading RecBole's checkpoints, and nothing else that a pickle can do.

A checkpoint of RecBole holds its `Config`, enums, tensors, and for some models whole objects (SASRecF: a layer with its
data set; ItemKNN: SciPy matrices), which `torch.load(weights_only=True)` rejects. `load` reads it with an unpickler in
which each opcode that can run code is written anew and takes only what is listed here: a file calls the functions of
`_known`, on arguments that are checked, and makes objects of the classes of `_class`, without running a constructor.

This is about reading the file. What a checkpoint says afterwards, in its `Config` as in its weights, is its author's.
"""

import contextlib
import contextvars
import enum
import functools
import importlib
import logging
import math
import os
import pathlib
import pickle
import sys
import tarfile
import types
from collections import OrderedDict, defaultdict
from typing import Any, Callable, Dict, NamedTuple, Optional

TRUST = "RECBOLE_GLINTRU_TRUST_CHECKPOINTS"
_trusted = contextvars.ContextVar("trusted", default=False)


class UntrustedCheckpoint(pickle.UnpicklingError):
    """A file holds something that no checkpoint of RecBole does; the message says what, and how to load it anyway."""


@contextlib.contextmanager
def trust():
    """Inside the block RecBole reads checkpoints with plain pickle, which runs whatever code the file holds."""
    before = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(before)


def load(load: Callable, *args: Any, **kwargs: Any) -> Any:
    """`torch.load`, given as `load`, on a checkpoint of RecBole.

    Raises:
        UntrustedCheckpoint: the file holds something else; nothing of it was run.
    """
    kwargs["weights_only"] = False
    if _trusted.get() or os.environ.get(TRUST) == "1":
        return load(*args, **kwargs)
    source = args[0] if args else kwargs["f"]
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else getattr(source, "name", None)
    if _foreign_format(source):
        raise _untrusted(name, _foreign_format(source))
    reader = type("_Reader", (_Unpickler,), {"file": name})
    kwargs["pickle_module"] = types.SimpleNamespace(
        __name__=__name__, Unpickler=reader, load=lambda file, **options: reader(file, **options).load()
    )
    return load(*args, **kwargs)


def _untrusted(file: Optional[str], what: str) -> UntrustedCheckpoint:
    return UntrustedCheckpoint(
        f"The checkpoint{f' {file}' if file else ''} was not loaded: it holds {what}, which no checkpoint of RecBole "
        "does. (A model class of your own is accepted once its module has been imported.) If you trust the file, load "
        f"it inside `with recbole_glintru.checkpoints.trust():` or set the environment variable {TRUST}=1. "
        "Reading it may then run any code."
    )


def _foreign_format(source) -> Optional[str]:
    """The format that `torch.load` would read without, or around, the unpickler it is given."""
    from torch import serialization

    with serialization._open_file_like(source, "rb") as file:
        start = file.tell()
        try:
            if not serialization._is_zipfile(file):
                return "a tar archive" if tarfile.is_tarfile(file) else None
            with serialization._open_zipfile_reader(file) as archive:
                return "a TorchScript program" if serialization._is_torchscript_zip(archive) else None
        finally:
            file.seek(start)


# ----------------------------------------------------------------------------------------------------- what it may hold


class _Sealed(NamedTuple):
    """Stands for a name of the file. Only the opcodes below open it: what it hides is never a callable in the data."""

    name: str
    call: Optional[Callable] = None
    new: Optional[type] = None


class _Refused(Exception):
    """The arguments of a listed function are not such as a checkpoint has for it."""


def _expect(fits: bool) -> None:
    if not fits:
        raise _Refused


@functools.cache
def _known() -> dict[str, Any]:
    """Full name -> what stands for it.

    The functions look at the types of their arguments: a `Config` has any attribute that its author likes, so PyTorch
    and NumPy, which ask for attributes, get none. Hooks of tensors are dropped.
    """
    import numpy as np
    import torch
    import yaml
    from recbole.config import Config
    from recbole.data.interaction import Interaction

    def tensor(storage, offset, size, stride, requires_grad, hooks, metadata=None):
        _expect(isinstance(storage, torch.storage.TypedStorage))
        return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, OrderedDict())

    def parameter(data, requires_grad, hooks):
        _expect(isinstance(data, torch.Tensor))
        return torch.nn.Parameter(data, requires_grad)

    def size(sizes):
        _expect(type(sizes) is tuple)
        return torch.Size(sizes)

    def dtype(code, *flags):
        _expect(type(code) is str)
        made = np.dtype(code)
        _expect(made.kind in "biufcSUO")  # the fields of a structured type can pass bytes off as objects
        return made

    def array(kind, shape, code):
        _expect(type(kind) is _Sealed and kind.new in (np.ndarray, np.matrix))
        return kind.new.__new__(kind.new, (0,), "b")

    def scalar(dtype, data):
        _expect(isinstance(dtype, np.dtype) and dtype.kind != "O" and type(data) is bytes)
        return np.float64().__reduce__()[0](dtype, data)

    def encode(text, encoding):  # how protocol 2 writes bytes
        _expect(type(text) is str and encoding == "latin1")
        return text.encode(encoding)

    def a_set(items):
        _expect(type(items) is list)
        return set(items)

    def dict_of_lists(factory):
        _expect(factory is known["builtins.list"])
        return defaultdict(list)

    def enum_member(kind, name):  # how Python 3.11.0 to 3.11.3 write an enum
        _expect(isinstance(kind, type) and issubclass(kind, enum.Enum) and type(name) is str)
        return kind[name]

    functions = {
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": parameter,
        "torch.Size": size,
        "torch.device": torch.device,
        "numpy.dtype": dtype,
        "_codecs.encode": encode,
        "collections.OrderedDict": lambda: OrderedDict(),
        "collections.defaultdict": dict_of_lists,
        "builtins.set": a_set,
        "builtins.list": None,
        "builtins.getattr": enum_member,
        "logging.getLogger": logging.getLogger,
    }
    for multiarray in ("numpy.core.multiarray", "numpy._core.multiarray"):  # NumPy 1, NumPy 2
        functions.update({f"{multiarray}._reconstruct": array, f"{multiarray}.scalar": scalar})
    for path in ("PosixPath", "WindowsPath"):  # a `data_path` among the settings; `_local` in Python 3.13
        functions.update({f"pathlib.{path}": pathlib.Path, f"pathlib._local.{path}": pathlib.Path})
    classes = {
        "recbole.config.configurator.Config": Config,
        "recbole.data.interaction.Interaction": Interaction,
        "numpy.ndarray": np.ndarray,
        "numpy.matrix": np.matrix,
        "numpy.matrixlib.defmatrix.matrix": np.matrix,
    }
    known = {name: _Sealed(name, call=function) for name, function in functions.items()}
    known.update({name: _Sealed(name, new=kind) for name, kind in classes.items()})
    known.update({f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)})
    known["yaml.loader.FullLoader"] = yaml.FullLoader
    return known


def _class(module: str, name: str) -> Any:
    """A class of RecBole, a plugin, `torch.nn.modules` or `scipy.sparse`, or an imported model; None for all else.

    Nothing is imported for a file but RecBole's modules and the announced ones of plugins. A class is looked up in
    the module that defines it, under its own name: by other names a module reaches everything that it imports.
    """
    from recbole.data.dataset import Dataset
    from recbole.model.abstract_recommender import AbstractRecommender
    from torch import nn

    from recbole_glintru import plugin

    if not all(part.isidentifier() for part in (*module.split("."), name)):
        return None
    if module.startswith("scipy.sparse.") and name.partition("_")[::2] in _SPARSE:
        return _Sealed(f"{module}.{name}", new=getattr(importlib.import_module("scipy.sparse"), name))
    package = module.partition(".")[0]
    plugins = {model: entry.value.partition(":")[0].partition(".")[0] for model, entry in plugin.announced_models().items()}
    if module.startswith(("recbole.data.", "recbole.model.", "recbole.utils.")):
        importlib.import_module(module)
    elif plugins.get(name) == package:
        plugin.announced_models()[name].load()
    found = vars(sys.modules[module]).get(name) if module in sys.modules else None
    if not isinstance(found, type) or (found.__module__, found.__qualname__) != (module, name):
        return None
    if package == "recbole" or package in plugins.values():
        allowed = (nn.Module, Dataset, enum.Enum)
    else:
        allowed = nn.Module if module.startswith("torch.nn.modules.") else AbstractRecommender
    return found if issubclass(found, allowed) else None


_SPARSE = {(layout, kind) for layout in ("csr", "csc", "lil") for kind in ("matrix", "array")}


# -------------------------------------------------------------------------------------------------------- how it is read


def _describe(thing: Any) -> str:
    if type(thing) is _Sealed:
        return thing.name
    kind = thing if isinstance(thing, type) else type(thing)
    return f"{'' if kind is thing else 'an object of '}{kind.__module__}.{kind.__qualname__}"


class _Unpickler(pickle._Unpickler):
    """The standard library's unpickler in Python, whose opcodes can be replaced one by one."""

    file: Optional[str] = None
    dispatch = dict(pickle._Unpickler.dispatch)

    def load(self):
        self._made: dict[int, Any] = {}  # the objects too: their ids are theirs alone while they live
        loaded = super().load()
        # at the end, because a container can be filled after it has been handed over
        for made in self._made.values():
            for key, value in vars(made).items():
                if value and (key.endswith("_hooks") or key == "_compiled_call_impl"):
                    raise self.refusal(f"{_describe(type(made))}.{key}")
            if hasattr(type(made), "check_format"):
                made.check_format(full_check=True)  # SciPy does not look whether indices lie inside the matrix
        return loaded

    def refusal(self, what: str) -> UntrustedCheckpoint:
        return _untrusted(self.file, what)

    def find_class(self, module, name):
        module = "builtins" if module == "__builtin__" else module  # protocol 2
        found = _known().get(f"{module}.{name}") or _class(module, name)
        if found is None:
            raise self.refusal(f"{module}.{name}")
        return found

    def load_reduce(self):
        arguments, called = self.stack.pop(), self.stack.pop()
        by_value = isinstance(called, type) and issubclass(called, enum.Enum) and len(arguments) == 1
        function = called if by_value else called.call if type(called) is _Sealed else None
        try:
            _expect(function is not None and type(arguments) is tuple)
            self.append(function(*arguments))
        except _Refused:
            raise self.refusal(f"a call of {_describe(called)}") from None

    def load_newobj(self):
        from torch import nn, utils

        arguments, named = self.stack.pop(), self.stack.pop()
        kind = named.new if type(named) is _Sealed else named
        bare = isinstance(named, type) and issubclass(named, (nn.Module, utils.data.Dataset))
        if not (bare or kind in _sealed) or arguments != ():
            raise self.refusal(f"an object of {_describe(named)}")
        made = kind.__new__(kind)
        self._made[id(made)] = made
        self.append(made)
