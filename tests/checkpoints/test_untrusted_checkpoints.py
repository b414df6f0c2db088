"""A checkpoint that holds anything but what RecBole saves is refused, and nothing of it is run."""

import contextlib
import os
import pickle
import sys
import tarfile

import numpy as np
import pytest
import torch
from opcodes import CONFIG, IDENTITY, LAYERS, SASREC, build, call, encode, name, new, save_opcodes
from scipy import sparse
from torch import nn

from recbole_glintru import checkpoints
from recbole_glintru.checkpoints import TRUST, UntrustedCheckpoint

MKDIR = name(os.mkdir.__module__, "mkdir")


def load(path):
    return checkpoints.load(torch.load, path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pth"


def refuse(path, what):
    """Loading is refused with one message: what was refused, in which file, and both ways to load it anyway."""
    with pytest.raises(UntrustedCheckpoint) as error:
        load(path)
    message = str(error.value)
    assert f"it holds {what}, which" in message
    assert str(path) in message and "checkpoints.trust()" in message and f"{TRUST}=1" in message


@pytest.fixture
def marker(tmp_path):
    """The folder that the attacks make."""
    return tmp_path / "marker"


def test_opcodes_of_a_checkpoint_load(path):
    """The helpers of `opcodes.py` write what loads where nothing is wrong with it."""
    layer = build(new(IDENTITY), {"training": False, "_modules": {}, "_forward_hooks": {}})
    loaded = load(save_opcodes(path, {"config": build(new(CONFIG), {"final_config_dict": {"a": 1}}), "layer": layer}))
    assert loaded["config"]["a"] == 1 and isinstance(loaded["layer"], nn.Identity) and not loaded["layer"].training


def code(marker):
    return f"__import__('os').mkdir({str(marker)!r})"


def checkpoint_inside(marker):
    path = save_opcodes(marker.parent / "inside.pth", call(MKDIR, str(marker)))
    return encode(path.read_bytes().decode("latin1")), encode("latin1")


# name -> (what a file holds that would make the folder, what is refused of it)
ATTACKS = {
    "os.system": (
        lambda marker: call(name(os.system.__module__, "system"), f"mkdir {marker}"),
        f"{os.system.__module__}.system",
    ),
    "eval": (lambda marker: call(name("builtins", "eval"), code(marker)), "builtins.eval"),
    "exec": (lambda marker: call(name("builtins", "exec"), code(marker)), "builtins.exec"),
    "Config": (  # evaluates its settings
        lambda marker: call(CONFIG, "SASRec", "ml-100k", None, {"x": code(marker)}),
        "a call of recbole.config.configurator.Config",
    ),
    "torch.load": (
        lambda marker: call(
            name("torch.storage", "_load_from_bytes"), call(name("_codecs", "encode"), *checkpoint_inside(marker))
        ),
        "torch.storage._load_from_bytes",
    ),
    "GraphModule": (
        lambda marker: call(
            name("torch.fx.graph_module", "reduce_graph_module"), {"_code": "forward = 1"}, code(marker) + "\n"
        ),
        "torch.fx.graph_module.reduce_graph_module",
    ),
    "tensor subclass": (
        lambda marker: call(name("torch._tensor", "_rebuild_from_type_v2"), MKDIR, None, (str(marker),), None),
        "torch._tensor._rebuild_from_type_v2",
    ),
    "dotted name": (
        lambda marker: call(name("torch.nn.modules.module", "torch.os.mkdir"), str(marker)),
        "torch.nn.modules.module.torch.os.mkdir",
    ),
    "dotted name in RecBole": (
        lambda marker: call(name("recbole.data.utils", "os.mkdir"), str(marker)),
        "recbole.data.utils.os.mkdir",
    ),
    "old class": (
        lambda marker: pickle.MARK + encode(str(marker)) + pickle.INST + b"os\nmkdir\n",
        "an opcode that PyTorch does not write",
    ),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_code_is_refused_and_not_run(path, marker, attack, zipped):
    content, refused = ATTACKS[attack]
    save_opcodes(path, {"state_dict": {}, "other_parameter": content(marker)}, zipped)
    refuse(path, refused)
    assert not marker.exists()
    with checkpoints.trust(), contextlib.suppress(Exception):
        load(path)
    assert marker.exists()  # it was an attack


def test_no_module_is_imported_for_a_file(path, marker, tmp_path, monkeypatch):
    (tmp_path / "has_side_effects.py").write_text(f"{code(marker)}\nclass Model: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    save_opcodes(path, name("has_side_effects", "Model"))
    refuse(path, "has_side_effects.Model")
    assert not marker.exists() and "has_side_effects" not in sys.modules
    with checkpoints.trust():
        load(path)
    assert marker.exists()
    del sys.modules["has_side_effects"]


@pytest.mark.parametrize(
    "module, attribute",
    [
        ("builtins", "globals"),
        ("copyreg", "_reconstructor"),
        ("fractions", "Fraction"),
        ("recbole.data.dataset.dataset", "Counter"),
        ("recbole.data.utils", "pickle"),
        ("recbole.model.sequential_recommender.sasrec", "TransformerEncoder"),  # of another module
        ("recbole.trainer.trainer", "Trainer"),
        ("recbole.model.", "layers"),
        ("test_checkpoints", "Path"),
        ("torch.jit._script", "ScriptModule"),
        ("torch.nn", "Linear"),
        ("torch.nn", "modules"),
        ("torch.nn.modules.module", "register_module_forward_hook"),
    ],
)
def test_other_names_are_refused(path, module, attribute):
    refuse(save_opcodes(path, name(module, attribute)), f"{module}.{attribute}")


LSTM = name("torch.nn.modules.rnn", "LSTM")
CSR = name(sparse.csr_matrix.__module__, "csr_matrix")
SHARED = pickle.BINPUT + b"\x00", pickle.BINGET + b"\x00"  # remember what is on top of the stack; get it back
F8 = call(name("numpy", "dtype"), "f8")
F8_CLASS = f"{type(np.dtype('f8')).__module__}.{type(np.dtype('f8')).__qualname__}"
ARRAY = call(name("numpy._core.multiarray", "_reconstruct"), name("numpy", "ndarray"), (0,), encode(None))
OPCODES = {
    # REDUCE
    "getattr of a class": (call(name("builtins", "getattr"), SASREC, "forward"), "a call of builtins.getattr"),
    "getattr of an object": (call(name("builtins", "getattr"), new(CONFIG), "a"), "a call of builtins.getattr"),
    "a model": (call(SASREC), "a call of recbole.model.sequential_recommender.sasrec.SASRec"),
    "a layer": (call(new(IDENTITY), 1), "a call of an object of torch.nn.modules.linear.Identity"),
    "a parameter of no tensor": (
        call(name("torch._utils", "_rebuild_parameter"), new(CONFIG), True, {}),
        "a call of torch._utils._rebuild_parameter",
    ),
    "a tensor of no storage": (
        call(name("torch._utils", "_rebuild_tensor_v2"), new(CONFIG), 0, (1,), (1,), False, {}),
        "a call of torch._utils._rebuild_tensor_v2",
    ),
    "a structured type": (call(name("numpy", "dtype"), "i8,O"), "a call of numpy.dtype"),
    "a new class of enum": (
        call(name("recbole.utils.enum_type", "InputType"), "Mine", ("A",)),
        "a call of recbole.utils.enum_type.InputType",
    ),
    "a member of no enum": (
        call(name("builtins", "getattr"), name("numpy", "ndarray"), "sort"),
        "a call of builtins.getattr",
    ),
    # NEWOBJ
    "an enum": (new(name("recbole.utils.enum_type", "InputType")), "an object of recbole.utils.enum_type.InputType"),
    "a model with arguments": (new(SASREC, 1), "an object of recbole.model.sequential_recommender.sasrec.SASRec"),
    "an array": (new(name("numpy", "ndarray"), (1,)), "an object of numpy.ndarray"),
    "an object of an object": (new(new(CONFIG)), "an object of an object of recbole.config.configurator.Config"),
    # BUILD
    "the layers of a layer": (  # its `__setstate__` looks into them
        build(new(LSTM), {"_modules": new(CONFIG)}),
        "attributes for an object of torch.nn.modules.rnn.LSTM",
    ),
    "the weights of a layer": (
        build(new(LSTM), {"_all_weights": new(name("recbole.data.dataset.dataset", "Dataset"))}),
        "attributes for an object of torch.nn.modules.rnn.LSTM",
    ),
    "attributes of a class": (
        build(SASREC, (None, {"a": 1})),
        "attributes for recbole.model.sequential_recommender.sasrec.SASRec",
    ),
    "attributes of a function": (build(name("torch", "device"), {"call": 1}), "attributes for torch.device"),
    "attributes of a logger": (
        build(call(name("logging", "getLogger")), {"a": 1}),
        "attributes for an object of logging.RootLogger",
    ),
    "a method": (build(new(IDENTITY), {"forward": 1}), "attributes for an object of torch.nn.modules.linear.Identity"),
    "a special attribute": (
        build(new(CONFIG), {"__setstate__": 1}),
        "attributes for an object of recbole.config.configurator.Config",
    ),
    "a method of a dictionary": (
        build(call(name("collections", "OrderedDict")), {"items": 1}),
        "attributes for an object of collections.OrderedDict",
    ),
    "fields of a type": (
        build(F8, (3, "|", None, ("a",), {"a": (F8, 0)}, 8, 8, 0)),
        f"attributes for an object of {F8_CLASS}",
    ),
    "an array with too few objects": (
        build(ARRAY, (1, (2,), call(name("numpy", "dtype"), "O"), False, encode([None]))),
        "attributes for an object of numpy.ndarray",
    ),
    # what somebody would call later
    "a class": (encode({"other_parameter": {"layer": SASREC}}), "recbole.model.sequential_recommender.sasrec.SASRec"),
    "a class as a setting": (
        build(new(CONFIG), {"final_config_dict": {"append": SASREC}}),
        "recbole.model.sequential_recommender.sasrec.SASRec",
    ),
    "a function": (encode((name("logging", "getLogger"),)), "logging.getLogger"),
    "a special setting": (
        build(new(CONFIG), {"final_config_dict": {"__deepcopy__": 1}}),
        "recbole.config.configurator.Config.__deepcopy__",
    ),
    "a special column": (
        build(new(name("recbole.data.interaction", "Interaction")), {"interaction": {"__iter__": 1}}),
        "recbole.data.interaction.Interaction.__iter__",
    ),
    "a matrix of layers": (
        build(new(CSR), {"_shape": (3, 3), "indices": new(LAYERS), "indptr": new(LAYERS), "data": new(LAYERS)}),
        f"a malformed {sparse.csr_matrix.__module__}.csr_matrix",
    ),
    "a hook": (
        # the hooks are empty until the layer has them, and are filled afterwards
        build(new(IDENTITY), {"_forward_hooks": pickle.EMPTY_DICT + SHARED[0]})
        + SHARED[1]
        + encode(0)
        + IDENTITY
        + pickle.SETITEM
        + pickle.POP,
        "torch.nn.modules.linear.Identity._forward_hooks",
    ),
    "a compiled layer": (
        build(new(IDENTITY), {"_compiled_call_impl": IDENTITY}),
        "torch.nn.modules.linear.Identity._compiled_call_impl",
    ),
    # opcodes that call methods
    "append": (
        build(new(CONFIG), {"final_config_dict": {"append": IDENTITY}}) + encode(1) + pickle.APPEND,
        "items for an object of recbole.config.configurator.Config",
    ),
    "extend": (
        new(LAYERS) + pickle.MARK + encode(1) + pickle.APPENDS,
        "items for an object of torch.nn.modules.container.ModuleList",
    ),
    "add": (
        build(new(CONFIG), {"final_config_dict": {"add": IDENTITY}}) + pickle.MARK + encode(1) + pickle.ADDITEMS,
        "items for an object of recbole.config.configurator.Config",
    ),
    "set item": (
        build(new(CONFIG), {"final_config_dict": {}}) + encode("a") + encode(1) + pickle.SETITEM,
        "items for an object of recbole.config.configurator.Config",
    ),
    # opcodes that no checkpoint has
    "keyword arguments": (
        SASREC + encode(()) + encode({}) + pickle.NEWOBJ_EX,
        "an opcode that PyTorch does not write",
    ),
    "an old object": (pickle.MARK + SASREC + pickle.OBJ, "an opcode that PyTorch does not write"),
    "an extension": (pickle.EXT1 + b"\x01", "an opcode that PyTorch does not write"),
    "a persistent name": (pickle.PERSID + b"storage\n", "an opcode that PyTorch does not write"),
    "a persistent class": (
        encode(("module", SASREC, "file", "source", 1)) + pickle.BINPERSID,
        "a reference to something other than a tensor's numbers",
    ),
    "a storage that is told where by an object": (
        encode(("storage", name("torch", "FloatStorage"), "0", new(CONFIG), 1)) + pickle.BINPERSID,
        "a reference to something other than a tensor's numbers",
    ),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("attack", OPCODES)
def test_opcodes_are_restricted(path, attack, zipped):
    content, refused = OPCODES[attack]
    refuse(save_opcodes(path, content, zipped), refused)


def test_hooks_of_tensors_are_left_out(path):
    storage = encode(("storage", name("torch", "FloatStorage"), "0", "cpu", 1)) + pickle.BINPERSID
    hooks = call(name("collections", "OrderedDict")) + encode(0) + IDENTITY + pickle.SETITEM
    tensor = call(name("torch._utils", "_rebuild_tensor_v2"), storage, 0, (1,), (1,), True, hooks)
    save_opcodes(path, tensor, **{"data/0": b"\0\0\x80\x3f"})
    loaded = load(path)
    assert loaded.item() == 1 and loaded.requires_grad and not loaded._backward_hooks
    with checkpoints.trust():
        assert load(path)._backward_hooks


def column_outside(matrix):
    matrix.indices[1] = 1000


def starts_outside(matrix):
    """SciPy itself checks none if there are no numbers."""
    matrix.indptr, matrix.indices, matrix.data = np.array([0, 50_000_000, 0, 0], "i4"), np.zeros(0, "i4"), np.zeros(0)


def too_few_numbers(matrix):
    matrix.data = matrix.data[:2]


def column_is_no_number(matrix):
    matrix.indices = np.array([0.0, np.nan, 2.0])


def row_outside(matrix):
    matrix.rows[1] = [500_000_000]


@pytest.mark.parametrize(
    "kind, spoil",
    [
        (sparse.csr_matrix, column_outside),
        (sparse.csr_matrix, starts_outside),
        (sparse.csr_matrix, too_few_numbers),
        (sparse.csc_matrix, column_is_no_number),
        (sparse.lil_matrix, row_outside),
    ],
)
def test_a_matrix_with_an_index_outside_is_refused(path, kind, spoil):
    """SciPy would read and write other memory there."""
    matrix = kind(np.eye(3))
    spoil(matrix)
    torch.save(matrix, path, pickle_protocol=4)
    refuse(path, f"a malformed {kind.__module__}.{kind.__name__}")


def test_a_tensor_larger_than_its_numbers_is_an_error(path):
    """PyTorch before 2.10 would give it other memory."""
    storage = encode(("storage", name("torch", "FloatStorage"), "0", "cpu", 100_000)) + pickle.BINPERSID
    tensor = call(name("torch._utils", "_rebuild_tensor_v2"), storage, 0, (100_000,), (1,), False, {})
    save_opcodes(path, tensor, **{"data/0": b"\0\0\x80\x3f"})
    with pytest.raises(Exception, match="larger than its numbers|size|nbytes"):
        load(path)


def test_a_model_that_is_not_imported_is_refused_with_the_way_out(path):
    with pytest.raises(UntrustedCheckpoint, match="accepted once its module has been imported"):
        load(save_opcodes(path, name("my_models", "Mine")))


def test_torchscript_is_refused(path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))
    refuse(path, "a TorchScript program")
    refuse(save_opcodes(path, {}, **{"constants.pkl": b""}), "a TorchScript program")


def test_a_tar_archive_is_refused(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    refuse(path, "a tar archive")


# ------------------------------------------------------------------------------------------------------------- trust


@pytest.fixture
def foreign(path, marker):
    """A file that makes the folder."""
    return save_opcodes(path, call(MKDIR, str(marker)))


def test_trust_lasts_for_its_block(foreign, marker):
    with checkpoints.trust():
        with checkpoints.trust():
            pass
        load(foreign)
    marker.rmdir()
    refuse(foreign, f"{os.mkdir.__module__}.mkdir")
    with contextlib.suppress(ZeroDivisionError), checkpoints.trust():
        1 / 0  # noqa: B018
    refuse(foreign, f"{os.mkdir.__module__}.mkdir")
    assert not marker.exists()


def test_a_file_that_is_no_longer_the_own_one(path, marker):
    """Of the same size and, by its own account, as old: written over in place."""
    save_opcodes(path, {"state_dict": 200 * "a"}, zipped=False)
    checkpoints.remember(path)
    before = path.stat()
    attack = save_opcodes(marker.parent / "attack.pth", call(MKDIR, str(marker)), zipped=False).read_bytes()
    path.write_bytes(attack.ljust(before.st_size, b"."))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    )
    refuse(path, f"{os.mkdir.__module__}.mkdir")
    assert not marker.exists()


def test_trust_by_the_environment(foreign, marker, monkeypatch):
    monkeypatch.setenv(TRUST, "0")
    refuse(foreign, f"{os.mkdir.__module__}.mkdir")
    monkeypatch.setenv(TRUST, "1")
    load(foreign)
    assert marker.exists()


def test_recbole_reads_through_it(foreign, marker):
    """`torch.load`, called by a module of RecBole."""
    scope = {"__name__": "recbole.trainer.trainer", "torch": torch}
    exec("def resume(file):\n    return torch.load(file, map_location='cpu')", scope)
    with pytest.raises(UntrustedCheckpoint):
        scope["resume"](foreign)
    assert not marker.exists()
    with checkpoints.trust():
        scope["resume"](foreign)
    assert marker.exists()
