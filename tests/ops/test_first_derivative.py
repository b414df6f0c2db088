import pytest
import torch

from recbole_glintru.ops.cross_entropy import catalogue_cross_entropy


def test_a_second_derivative_is_refused_however_it_is_asked_for():
    """`torch.autograd.grad` of some inputs does not reach an error that was left in the graph of the others."""
    state, weight = torch.rand(3, 4, requires_grad=True), torch.rand(5, 4, requires_grad=True)
    loss = catalogue_cross_entropy(state, weight, None, torch.tensor([1, 2, 0]))
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(loss, state, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        loss.backward(create_graph=True)
    assert state.grad is None
    loss.backward()
    assert not state.grad.requires_grad
