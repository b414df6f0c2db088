"""A part of a model compiled for one shape. Inductor takes a minute here, so that other backends stand in for it."""

import copy
import functools
import pickle

import pytest
import torch
from fakes import all_dropouts_off, make_batch, make_histories, make_model, model_settings
from torch import nn

from recbole_glintru.ops.compiled import CompiledForOneShape


def scaled(module, x, shift=None):
    result = x * module.weight
    return result if shift is None else result + shift


class Scale(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))


@pytest.fixture
def calls(monkeypatch):
    """The row counts with which something compiled is called, by a backend that compiles nothing."""
    torch.compiler.reset()
    rows = []

    def backend(graph, _):
        def run(*inputs):
            rows.append(next(x.shape[0] for x in inputs if x.dim()))
            return graph(*inputs)

        return run

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    return rows


def test_other_shapes_are_computed_as_they_are(calls):
    function, module = CompiledForOneShape(scaled), Scale(2.0)
    for rows in (4, 4, 3, 4):
        x = torch.arange(float(rows))
        assert torch.equal(function(module, x, None), 2 * x)
        assert torch.equal(function(module, x, x), 3 * x)  # another shape than none
    assert calls == [4, 4, 4]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda function: pickle.loads(pickle.dumps(function))])
def test_copies_begin_anew(calls, copied):
    """Or the copy of a model would compute with the weights that the first one was compiled with."""
    function = CompiledForOneShape(scaled)
    x = torch.ones(4)
    assert function(Scale(2.0), x)[0] == 2
    other = copied(function)
    assert other(Scale(3.0), torch.ones(5))[0] == 3 and calls == [4, 5]


def test_without_a_compiler(monkeypatch, recwarn):
    torch.compiler.reset()

    def broken(graph, _):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    function, module, x = CompiledForOneShape(scaled), Scale(2.0), torch.ones(4)
    for _ in range(2):
        assert torch.equal(function(module, x), 2 * x)
    (warning,) = (one for one in recwarn if one.category is UserWarning)
    assert "torch.compile failed and is not used: " in str(warning.message)
    assert "no C++ compiler" in str(warning.message)


def test_errors_of_the_function_are_its_own(calls):
    with pytest.raises(AttributeError, match="weight"):
        CompiledForOneShape(scaled)(nn.Module(), torch.ones(4))


@pytest.mark.parametrize("changes", [{}, {"use_gru": False}, {"n_layers": 2, "use_gated_mlp": False}])
def test_glintru_trains_as_it_does_without(calls, changes):
    """Losses and gradients of full batches and a last, smaller one; evaluation is not compiled."""
    changes = {**changes, **all_dropouts_off(model_settings("GLINTRU"))}
    plain, compiled = (make_model("GLINTRU", compile_tail=switch, **changes) for switch in (False, True))
    compiled.load_state_dict(plain.state_dict())
    for lengths in ([3, 9, 1, 2], [12, 1, 1, 4], [5, 2]):
        batch = make_batch(*make_histories(lengths))
        found = []
        for model in (plain, compiled):
            loss = model.train().calculate_loss(batch)
            found.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
        for actual, expected in zip(*reversed(found)):
            torch.testing.assert_close(actual, expected)
    assert len(calls) == 2
    with torch.no_grad():
        batch = make_batch(*make_histories([3, 9, 1, 2]))
        assert torch.equal(compiled.eval().full_sort_predict(batch), plain.eval().full_sort_predict(batch))
    assert len(calls) == 2
