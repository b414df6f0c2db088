"""`torch.compile`: no graph break inside `encode`, and the same numbers."""

import shutil

import pytest
import torch
from fakes import all_dropouts_off, make_histories, make_model, model_settings

from recbole_glintru import plugin

NAMES = sorted(name for name, entry in plugin.announced_models().items() if entry.value.startswith("recbole_glintru."))
LENGTH = 4
QUICK_TO_BUILD = {
    "cpp.simdlen": 1,  # no vector code: for GLINT-RU's kernels g++ takes 19 s instead of 85
    "compile_threads": 1,  # in this process: no workers are started
}


def outputs_and_gradients(model, encode, *history):
    state = encode(*history)
    weights = torch.linspace(-1, 1, state.numel()).view_as(state)
    gradients = torch.autograd.grad((state * weights).sum(), list(model.parameters()), allow_unused=True)
    return [state, *(gradient for gradient in gradients if gradient is not None)]


def assert_compiles(name, backend, options=None, **changes):
    """One graph, outputs and every gradient within float32 rounding, in training mode with nothing left to chance."""
    torch.compiler.reset()
    features = {"class": torch.randint(1, 5, (30,))} if name in ("SMLP4Rec", "MLP4Rec") else None
    chance = {"sse_item_prob": 0.0, "sse_user_prob": 0.0, **all_dropouts_off(model_settings(name))}
    changes = {**changes, "selected_features": ["class"]} if features else changes
    model = make_model(name, features=features, MAX_ITEM_LIST_LENGTH=LENGTH, **chance, **changes).train()
    users = (torch.tensor([1, 2, 3, 4]),) if name == "SSEPT" else ()
    history = (*make_histories([3, LENGTH, 1, 2], padded_to=LENGTH), *users)
    # A graph break is an exception.
    compiled = torch.compile(model.encode, fullgraph=True, backend=backend, options=options)
    expected = outputs_and_gradients(model, model.encode, *history)
    actual = outputs_and_gradients(model, compiled, *history)
    assert len(actual) == len(expected) > 1
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5 * max(1.0, other.abs().max().item()))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_encode_has_no_graph_break(name):
    assert_compiles(name, "eager")


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="Inductor needs a C++ compiler")
def test_compiled_encode_gives_the_same_numbers():
    assert_compiles("LinRec", "inductor", QUICK_TO_BUILD, n_layers=1)
