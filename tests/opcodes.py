"""Checkpoint files put together from opcodes (`bytes`): what no pickler writes, and an attacker may."""

import pickle
import zipfile

import torch


def encode(value):
    """The opcodes of a value; those of its parts may be given as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, tuple):
        return pickle.MARK + b"".join(map(encode, value)) + pickle.TUPLE
    if isinstance(value, dict):
        pairs = (encode(key) + encode(part) + pickle.SETITEM for key, part in value.items())
        return pickle.EMPTY_DICT + b"".join(pairs)
    return pickle.dumps(value, protocol=2)[2:-1]  # without PROTO and STOP


def name(module, name):
    return encode(module) + encode(name) + pickle.STACK_GLOBAL


def call(function, *arguments):
    return function + encode(arguments) + pickle.REDUCE


def new(kind, *arguments):
    return kind + encode(arguments) + pickle.NEWOBJ


def build(made, state):
    return made + encode(state) + pickle.BUILD


def save_opcodes(path, content, zipped=True, **records):
    """A file as `torch.save` writes it, around opcodes."""
    content = pickle.PROTO + b"\x04" + encode(content) + pickle.STOP
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            for record, data in {"data.pkl": content, "version": b"3\n", "byteorder": b"little", **records}.items():
                archive.writestr(f"archive/{record}", data)
    else:
        start = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
        path.write_bytes(b"".join(map(pickle.dumps, start)) + content + pickle.dumps([]))
    return path


CONFIG = name("recbole.config.configurator", "Config")
SASREC = name("recbole.model.sequential_recommender.sasrec", "SASRec")
IDENTITY = name("torch.nn.modules.linear", "Identity")
LAYERS = name("torch.nn.modules.container", "ModuleList")
