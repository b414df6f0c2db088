"""What a checkpoint of RecBole may contain: the functions that it may call, and the classes of its objects.

Callables are the danger: a file can store one where RecBole, PyTorch or SciPy will call it, as a hook, as a method of a
module, or as an attribute of a `Config`, which gives each of its settings as an attribute. So the data contain no class
and no function, except the two classes that a `Config` has; and nothing is called on an object that the file has made
before its attributes are known to be of the right types.
"""

import datetime
import enum
import functools
import importlib
import logging
import math
import pathlib
import sys
from collections import OrderedDict, defaultdict
from typing import Any, Callable, Optional


class Sealed:
    """A placeholder for a name in the file. Only the opcodes of `reader.py` unwrap it, so no callable enters the data.

    Args:
        call: what runs when the file calls it.
        new: the class that the file may instantiate.
        kind: the class itself, as `CLASSES` of a `Config` may have it.
    """

    def __init__(
        self, name: str, call: Optional[Callable] = None, new: Optional[type] = None, kind: Optional[type] = None
    ):
        self.name, self.call, self.new, self.kind = name, call, new, kind


class Refused(Exception):
    """A listed function is called with arguments that no checkpoint has for it."""


def describe(thing: Any) -> str:
    """The name of an object, for error messages."""
    if type(thing) is Sealed:
        return thing.name
    kind = thing if isinstance(thing, type) else type(thing)
    return f"{'' if kind is thing else 'an object of '}{kind.__module__}.{kind.__qualname__}"


def _taking(function: Callable, *kinds: type) -> Callable:
    """`function`, restricted to arguments of these types.

    PyTorch and NumPy look up attributes of an argument and call them, and a `Config` may have any attribute.
    """

    def call(*arguments):
        if len(arguments) < len(kinds) or not all(map(isinstance, arguments, kinds)):
            raise Refused
        return function(*arguments)

    return call


@functools.cache
def known_names() -> dict[str, Any]:
    """Full name -> what replaces it. Hooks of tensors are dropped."""
    import numpy as np
    import torch
    import yaml
    from recbole.config import Config
    from recbole.data.interaction import Interaction
    from torch.storage import TypedStorage

    def tensor(storage, offset, size, stride, requires_grad, hooks, metadata=None):
        made = torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, OrderedDict())
        if metadata:  # whether the numbers stand for their conjugates or negatives
            if type(metadata) is not dict or not set(metadata) <= {"conj", "neg"}:
                raise Refused
            torch._utils.set_tensor_metadata(made, {key: value is True for key, value in metadata.items()})
        return made

    def dtype(code, *flags):
        made = np.dtype(code)
        if made.kind not in "biufcSUO":  # the fields of a structured type can disguise bytes as objects
            raise Refused
        return made

    def array(kind, shape, code):
        kind = np.matrix if kind.name.endswith("matrix") else np.ndarray
        return kind.__new__(kind, (0,), "b")

    calls = {
        "torch._utils._rebuild_tensor_v2": _taking(tensor, TypedStorage),
        "torch._utils._rebuild_parameter": _taking(lambda data, grad, _: torch.nn.Parameter(data, grad), torch.Tensor),
        "torch.Size": _taking(torch.Size, tuple),
        "torch.device": torch.device,
        "numpy.dtype": _taking(dtype, str),
        "collections.OrderedDict": lambda: OrderedDict(),
        "collections.defaultdict": _taking(lambda _: defaultdict(list), Sealed),
        "builtins.complex": _taking(complex, float, float),
        "builtins.range": _taking(range, int, int, int),
        "builtins.set": _taking(set, list),
        "builtins.getattr": _taking(_member_named, Sealed, str),  # enums, Python 3.11.0 to .3
        "_codecs.encode": _taking(lambda text, _: text.encode("latin1"), str),  # bytes, protocol 2
        "logging.getLogger": logging.getLogger,
        "datetime.date": _taking(datetime.date, bytes),  # YAML makes these from text that looks like a date
        "datetime.datetime": _taking(datetime.datetime, bytes),
        "datetime.timedelta": _taking(datetime.timedelta, int, int, int),
        "datetime.timezone": _taking(datetime.timezone, datetime.timedelta),
    }
    for multiarray in ("numpy.core.multiarray", "numpy._core.multiarray"):  # NumPy 1, NumPy 2
        calls[f"{multiarray}._reconstruct"] = _taking(array, Sealed)
        calls[f"{multiarray}.scalar"] = _taking(np.float64().__reduce__()[0], np.dtype, bytes)
    for path in ("PosixPath", "WindowsPath"):  # a `data_path` among the settings; `_local` in Python 3.13
        calls[f"pathlib.{path}"] = calls[f"pathlib._local.{path}"] = pathlib.Path
    known = {name: Sealed(name, call=function) for name, function in calls.items()}
    for name in ("numpy.ndarray", "numpy.matrix", "numpy.matrixlib.defmatrix.matrix", "builtins.list"):
        known[name] = Sealed(name)  # used as an argument of the functions above
    for kind in (Config, Interaction):
        known[describe(kind)] = Sealed(describe(kind), new=kind)
    known.update({f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)})
    known["builtins.xrange"] = known["builtins.range"]  # protocol 2
    known["yaml.loader.FullLoader"] = Sealed("yaml.loader.FullLoader", kind=yaml.FullLoader)
    return known


def _member_named(named: Sealed, name: str) -> Any:
    if not isinstance(named.kind, enum.EnumMeta):
        raise Refused
    return named.kind[name]


def class_named(module: str, name: str) -> Optional[Sealed]:
    """A class of RecBole, a plugin, `torch.nn.modules` or `scipy.sparse`, or an imported model; None for all else.

    On behalf of a file only RecBole's modules and the announced ones of plugins are imported. A class is looked up in
    the module that defines it, under its own name; other names of a module reach everything that it imports.
    """
    from recbole.data.dataset import Dataset
    from recbole.model.abstract_recommender import AbstractRecommender
    from recbole.sampler.sampler import AbstractSampler
    from torch import nn

    from recbole_glintru import plugin

    if not all(part.isidentifier() for part in (*module.split("."), name)):
        return None
    if module.startswith("scipy.sparse.") and name in _SPARSE:
        return Sealed(f"{module}.{name}", new=getattr(importlib.import_module("scipy.sparse"), name))
    announced = plugin.announced_models()
    plugins = {model: plugin.package_of(model) for model in announced}
    package = module.partition(".")[0]
    if module.startswith(("recbole.data.", "recbole.model.", "recbole.sampler.", "recbole.utils.")):
        importlib.import_module(module)
    elif plugins.get(name) == package:
        announced[name].load()
    home = sys.modules.get(module)
    found = vars(home).get(name) if home else None
    if not isinstance(found, type) or (found.__module__, found.__qualname__) != (module, name):
        return None
    if package == "recbole" or package in plugins.values():
        allowed = (nn.Module, Dataset, AbstractSampler, enum.Enum)
    else:
        allowed = nn.Module if module.startswith("torch.nn.modules.") else AbstractRecommender
    if not issubclass(found, allowed):
        return None
    if issubclass(found, enum.Enum):
        return Sealed(describe(found), call=_exactly_one(found), kind=found)
    return Sealed(describe(found), new=found, kind=found)


def _exactly_one(kind: type[enum.Enum]) -> Callable:
    """A member by its value; with more arguments, an enum makes a new class."""

    def member(*arguments):
        if len(arguments) != 1:
            raise Refused
        return kind(*arguments)

    return member


_SPARSE = {f"{layout}_{kind}" for layout in ("csr", "csc", "lil") for kind in ("matrix", "array")}


def is_plain_state(kind: type, state: Any) -> bool:
    """Whether `state` contains only attributes, none of which shadows a method of the class."""
    return type(state) is dict and not any(
        type(key) is not str or key.startswith("__") or callable(getattr(kind, key, None)) for key in state
    )


CLASSES = ("model_class", "yaml_loader")  # the attributes of a `Config` that are classes


def is_module_state(state: dict[str, Any]) -> bool:
    """Whether what `__setstate__` of PyTorch's modules looks into has the types that it has there."""
    tables = all(type(state.get(name, {})) in (dict, OrderedDict) for name in ("_parameters", "_buffers", "_modules"))
    names = all(
        type(group) is list and all(type(part) is list and all(type(text) is str for text in part) for part in group)
        for group in (
            state.get("_all_weights", []),
            state.get("all_weights", []),
            [state.get("_flat_weights_names", [])],
        )
    )
    return tables and names


def is_sound_matrix(matrix: Any) -> bool:
    """Whether a SciPy matrix has exactly its parts, and no index points outside: SciPy's C++ does not check that."""
    import numpy as np

    parts = vars(matrix)
    shape = parts.get("_shape")
    if type(shape) is not tuple or not all(isinstance(size, (int, np.integer)) and size >= 0 for size in shape):
        return False
    if matrix.format == "lil":
        rows, values = parts.get("rows"), parts.get("data")
        return (
            len(shape) == 2
            and all(type(part) is np.ndarray and part.dtype == object for part in (rows, values))
            and rows.shape == values.shape == shape[:1]
            and all(map(_is_sound_row, rows, values, [shape[1]] * len(rows)))
        )
    indices, starts, values = (parts.get(name) for name in ("indices", "indptr", "data"))
    if not all(type(part) is np.ndarray and part.ndim == 1 for part in (indices, starts, values)):
        return False
    if indices.dtype.kind != "i" or starts.dtype.kind != "i" or values.dtype.kind not in "biufc" or not len(shape):
        return False
    along, across = (1, *shape)[-2:] if matrix.format == "csr" else shape[::-1]
    return (
        len(starts) == along + 1
        and starts[0] == 0
        and bool((starts[1:] >= starts[:-1]).all())
        and starts[-1] <= min(len(indices), len(values))
        and (len(indices) == 0 or bool(0 <= indices.min() and indices.max() < across))
    )


def _is_sound_row(columns, values, width):
    known = type(columns) is list and type(values) is list and len(columns) == len(values)
    return known and all(type(column) is int and 0 <= column < width for column in columns)


def is_array_state(state: Any) -> bool:
    """Whether the data of an array fill its shape: NumPy checks the number of bytes, but not that of objects."""
    if type(state) is not tuple or len(state) != 5 or type(state[1]) is not tuple:
        return False
    shape, data = state[1], state[4]
    sizes = all(type(size) is int and size >= 0 for size in shape)
    return sizes and (type(data) is bytes or (type(data) is list and len(data) == math.prod(shape)))


def is_dtype_state(state: Any) -> bool:
    """Whether a NumPy type has no fields and the byte order of this machine, as `numpy.dtype(code)` has."""
    return type(state) is tuple and state[1:5] in [(order, None, None, None) for order in ("|", "=", _NATIVE)]


_NATIVE = "<" if sys.byteorder == "little" else ">"
