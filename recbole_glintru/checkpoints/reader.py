"""Reading RecBole's checkpoints, while refusing everything else that a pickle can do.

A checkpoint of RecBole contains its `Config`, enums, tensors, and for some models whole objects (SASRecF: a layer with
its data set; ItemKNN: SciPy matrices), which `torch.load(weights_only=True)` rejects. `load` uses an unpickler in which
each opcode that can run code is reimplemented, and accepts only what `contents.py` lists.

This protects only the reading of the file. The contents of a checkpoint, its `Config` as well as its weights, are still
those that its author chose; among the settings are the paths that RecBole reads from and writes to.
"""

import contextlib
import contextvars
import os
import pickle
import tarfile
import types
from collections import OrderedDict, defaultdict
from typing import Any, Callable, Optional, Union

from recbole_glintru.checkpoints.contents import (
    CLASSES,
    Refused,
    Sealed,
    class_named,
    describe,
    is_array_state,
    is_dtype_state,
    is_module_state,
    is_plain_state,
    is_sound_matrix,
    known_names,
)

TRUST = "RECBOLE_GLINTRU_TRUST_CHECKPOINTS"
_trusted = contextvars.ContextVar("trusted", default=False)
_own: dict[str, tuple[int, ...]] = {}  # path -> the file as this process wrote it


class UntrustedCheckpoint(pickle.UnpicklingError):
    """A file contains something that no RecBole checkpoint does; the message says what, and how to load it anyway."""


@contextlib.contextmanager
def trust():
    """Inside the block RecBole reads checkpoints with plain pickle, which runs whatever code the file holds."""
    before = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(before)


def remember(file: Union[str, os.PathLike]) -> None:
    """Note that this process has written `file`: while it is unchanged, it is read with plain pickle."""
    _own[os.path.realpath(file)] = _state_of(file)


def _state_of(file) -> tuple[int, ...]:
    found = os.stat(file)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_own(source) -> bool:
    if not isinstance(source, (str, os.PathLike)) or not os.path.exists(source):
        return False
    return _own.get(os.path.realpath(source)) == _state_of(source)


def load(load: Callable, *args: Any, **kwargs: Any) -> Any:
    """`torch.load`, given as `load`, on a checkpoint of RecBole.

    Raises:
        UntrustedCheckpoint: the file contains something else; no code of it was run.
    """
    kwargs["weights_only"] = False
    source = args[0] if args else kwargs["f"]
    if _trusted.get() or os.environ.get(TRUST) == "1" or _is_own(source):
        return load(*args, **kwargs)
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else getattr(source, "name", None)
    foreign = _foreign_format(source)
    if foreign:
        raise _untrusted(name, foreign)
    reader = type("_Reader", (_Unpickler,), {"file": name, "sizes": _record_sizes(source)})
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
    """The format of the file if `torch.load` would not read it, or not only, with the given unpickler; else None."""
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


def _record_sizes(source) -> Optional[dict[str, int]]:
    """Record of a zip archive -> its bytes; None if `torch.load` itself compares them with a tensor's size.

    PyTorch before 2.10 does not (GHSA-63cw-57p8-fm3p): a tensor larger than its record reaches into other memory.
    """
    import torch
    from torch import serialization

    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10):
        return None
    with serialization._open_file_like(source, "rb") as file:
        start = file.tell()
        try:
            if not serialization._is_zipfile(file):
                return None
            with serialization._open_zipfile_reader(file) as archive:
                return {name: len(archive.get_record(name)) for name in archive.get_all_records()}
        finally:
            file.seek(start)


def _parts(thing: Any, made: dict[int, Any]) -> list[Any]:
    """What a loaded object contains."""
    import numpy as np

    parts: list[Any] = []
    if isinstance(thing, dict):
        parts += [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple, set)):
        parts += thing
    elif isinstance(thing, np.ndarray) and thing.dtype.kind == "O":
        parts += thing.flat
    if id(thing) in made:
        parts += vars(thing).values()
    return parts


def _filling(opcode: bytes, target: Callable, *kinds: type) -> Callable:
    """An opcode that fills containers, for `kinds` only: on other objects it would call `append`, `extend` or `add`."""
    fill = pickle._Unpickler.dispatch[opcode[0]]

    def load_items(self):
        if type(target(self)) not in kinds:
            raise self.refusal(f"items for {describe(target(self))}")
        fill(self)

    return load_items


class _Unpickler(pickle._Unpickler):
    """The standard library's unpickler in pure Python, whose opcodes can be replaced one by one."""

    file: Optional[str] = None
    sizes: Optional[dict[str, int]] = None  # of the file's records, where they must be compared
    dispatch = dict(pickle._Unpickler.dispatch)

    def refusal(self, what: str) -> UntrustedCheckpoint:
        return _untrusted(self.file, what)

    def load(self):
        self._made: dict[int, Any] = {}  # id -> object: it is kept alive, so that no other object gets its id
        loaded = super().load()
        self._check_made()  # only now: a file can fill a container after using it
        self._check_unwrapped(loaded)
        return loaded

    def _check_made(self):
        from recbole.config import Config
        from recbole.data.interaction import Interaction

        for made in self._made.values():
            attributes = vars(made)
            for key, value in attributes.items():
                empty = value is None or (type(value) in (dict, OrderedDict) and not value)
                if (key.endswith("_hooks") or key == "_compiled_call_impl") and not empty:
                    raise self.refusal(f"{describe(type(made))}.{key}")
            content = {Config: "final_config_dict", Interaction: "interaction"}.get(type(made))
            for key in attributes.get(content) or ():  # becomes an attribute
                if type(key) is not str or key.startswith("__"):
                    raise self.refusal(f"{describe(type(made))}.{key}")
        for made in self._made.values():
            if type(made).__module__.startswith("scipy.") and not is_sound_matrix(made):
                raise self.refusal(f"a malformed {describe(type(made))}")

    def _check_unwrapped(self, loaded):
        """No name that the file did not use is left in the data."""
        seen, left = set(), [loaded]
        while left:
            thing = left.pop()
            if type(thing) is Sealed:
                raise self.refusal(thing.name)
            if isinstance(thing, (str, bytes, int, float)) or id(thing) in seen:
                continue
            seen.add(id(thing))
            left += _parts(thing, self._made)

    def find_class(self, module, name):
        module = "builtins" if module == "__builtin__" else module  # protocol 2
        found = known_names().get(f"{module}.{name}") or class_named(module, name)
        if found is None:
            raise self.refusal(f"{module}.{name}")
        return found

    def load_reduce(self):
        arguments, called = self.stack.pop(), self.stack.pop()
        function = called.call if type(called) is Sealed else None
        try:
            if type(arguments) is not tuple or function is None:
                raise Refused
            self.append(function(*arguments))
        except Refused:
            raise self.refusal(f"a call of {describe(called)}") from None

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self):
        arguments, named = self.stack.pop(), self.stack.pop()
        kind = named.new if type(named) is Sealed else None
        if kind is None or type(arguments) is not tuple or arguments:
            raise self.refusal(f"an object of {describe(named)}")
        made = kind.__new__(kind)
        self._made[id(made)] = made
        self.append(made)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_build(self):
        import numpy as np
        from recbole.config import Config
        from torch import nn

        state, built = self.stack.pop(), self.stack[-1]
        if id(built) in self._made and is_plain_state(type(built), state):
            if type(built) is Config:
                classes = {key: state[key].kind for key in CLASSES if type(state.get(key)) is Sealed}
                state = {**state, **{key: kind for key, kind in classes.items() if kind is not None}}
            elif isinstance(built, nn.Module) and not is_module_state(state):
                raise self.refusal(f"attributes for {describe(built)}")
            set_state = getattr(type(built), "__setstate__", lambda built, state: vars(built).update(state))
            set_state(built, state)
        elif type(built) in (np.ndarray, np.matrix) and is_array_state(state):
            built.__setstate__(state)
        elif isinstance(built, np.dtype) and is_dtype_state(state):
            pass  # it already has this state
        elif type(built) is OrderedDict and type(state) is dict and set(state) == {"_metadata"}:
            vars(built).update(state)  # a state_dict's
        else:
            raise self.refusal(f"attributes for {describe(built)}")

    dispatch[pickle.BUILD[0]] = load_build

    def load_binpersid(self):
        from torch.serialization import StorageType

        key = self.stack.pop()
        fits = type(key) is tuple and len(key) > 4 and isinstance(key[1], StorageType)
        if not fits or {type(part) for part in key[:1] + key[2:]} - {str, bytes, int, tuple, type(None)}:
            raise self.refusal("a reference to something other than a tensor's numbers")
        if self.sizes is not None and key[4] * key[1].dtype.itemsize > self.sizes.get(f"data/{key[2]}", 0):
            raise self.refusal("a tensor that is larger than its numbers")
        self.append(self.persistent_load(key))

    dispatch[pickle.BINPERSID[0]] = load_binpersid

    def load_never(self):
        raise self.refusal("an opcode that PyTorch does not write")

    for _opcode in (pickle.PERSID, pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[_opcode[0]] = load_never
    for _opcode, _target, *_kinds in (
        (pickle.APPEND, lambda self: self.stack[-2], list),
        (pickle.APPENDS, lambda self: self.metastack[-1][-1], list),
        (pickle.ADDITEMS, lambda self: self.metastack[-1][-1], set),
        (pickle.SETITEM, lambda self: self.stack[-3], dict, OrderedDict, defaultdict),
        (pickle.SETITEMS, lambda self: self.metastack[-1][-1], dict, OrderedDict, defaultdict),
    ):
        dispatch[_opcode[0]] = _filling(_opcode, _target, *_kinds)
