"""The tools with which modules are changed while they are imported."""

import copy
import sys
import types

from recbole_glintru.compat import import_hooks


def test_stand_ins_leave_no_trace():
    module = types.ModuleType("surely_not_there")
    with import_hooks.stand_ins({"surely_not_there": module}):
        import surely_not_there

        assert surely_not_there is module
    assert "surely_not_there" not in sys.modules


def test_rebind_reaches_early_imports():
    old, new = object(), object()
    early = types.ModuleType("early_importer")
    early.name = old
    sys.modules["early_importer"] = early
    try:
        import_hooks.rebind(old, new)
        assert early.name is new
    finally:
        del sys.modules["early_importer"]


def test_overlay_copies_nothing():
    overlay = import_hooks.Overlay(copy, deepcopy="replaced")
    assert overlay.deepcopy == "replaced" and overlay.copy is copy.copy and copy.deepcopy != "replaced"
