import pytest
import torch

from recbole_glintru.layers.axis_mlp import AxisMLP

SHAPE = (3, 5, 2, 4)


def make(axis, bias):
    return AxisMLP(SHAPE[axis], 3 * SHAPE[axis], dropout_prob=0.0, bias=bias).double()


def plain(mlp, x, axis):
    """One vector at a time."""
    output = torch.empty_like(x)
    for index in torch.cartesian_prod(*(torch.arange(n) for i, n in enumerate(x.shape) if i != axis)).tolist():
        place = (*index[:axis], slice(None), *index[axis:])
        inner = torch.nn.functional.gelu(
            mlp.expand.weight @ x[place] + (0 if mlp.expand.bias is None else mlp.expand.bias)
        )
        output[place] = mlp.reduce.weight @ inner + (0 if mlp.reduce.bias is None else mlp.reduce.bias)
    return output


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_each_vector_along_the_axis(axis, bias):
    mlp, x = make(axis, bias), torch.randn(*SHAPE, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x, axis), plain(mlp, x, axis), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_what_is_left_out_at_the_end_counts_as_zeros(axis, bias):
    """In the outputs at the entries that are there, and in every gradient."""
    mlp, x = make(axis, bias), torch.randn(*SHAPE, dtype=torch.float64)
    there = SHAPE[axis] - 1
    short = x.narrow(axis, 0, there).clone().requires_grad_()
    padded = torch.cat([short, torch.zeros_like(x.narrow(axis, there, 1))], dim=axis)
    whole = mlp(padded, axis).narrow(axis, 0, there)
    cotangent, variables = torch.randn_like(whole), (short, *mlp.parameters())
    expected = torch.autograd.grad((whole * cotangent).sum(), variables)
    last = there - 1
    for actual, weight, wanted in (
        (mlp(short, axis), cotangent, expected),
        (mlp.at(short, axis, last), cotangent.select(axis, last), None),
    ):
        torch.testing.assert_close(actual, whole if wanted else whole.select(axis, last), rtol=1e-10, atol=1e-12)
        wanted = wanted or torch.autograd.grad((mlp(padded, axis).select(axis, last) * weight).sum(), variables)
        for ours, theirs in zip(torch.autograd.grad((actual * weight).sum(), variables), wanted):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("one_a_row", [True, False], ids=["one-a-row", "one-for-all"])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_one_entry_is_that_of_the_whole(axis, one_a_row, bias):
    """In the output and in every gradient."""
    mlp = make(axis, bias)
    index = torch.tensor([0, SHAPE[axis] - 1, 1]) if one_a_row else SHAPE[axis] - 1
    x = torch.randn(*SHAPE, dtype=torch.float64, requires_grad=True)
    rows = torch.arange(SHAPE[0])
    whole = mlp(x, axis).movedim(axis, 1)[rows, index]
    alone = mlp.at(x, axis, index)
    torch.testing.assert_close(alone, whole, rtol=1e-10, atol=1e-12)
    cotangent = torch.randn_like(whole)
    variables = (x, *mlp.parameters())
    for ours, theirs in zip(
        torch.autograd.grad((alone * cotangent).sum(), variables),
        torch.autograd.grad((whole * cotangent).sum(), variables),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_dropout_at_evaluation():
    """Monte Carlo dropout: who turns on its modules alone gets both of them, not that of the output only."""
    mlp, x = make(1, False).eval(), torch.randn(*SHAPE, dtype=torch.float64)
    whole = mlp(x, 1)
    mlp.dropout.p = 0.5
    assert torch.equal(mlp(x, 1), whole)
    mlp.dropout.train()
    kept = mlp(x, 1)
    kept, whole = kept[kept != 0], whole[kept != 0]
    assert not torch.allclose(kept, 2 * whole)


def test_weights_of_a_convolution_of_kernel_one_are_loaded():
    mlp, source = make(1, True), make(1, True)
    state = {
        name: tensor.unsqueeze(-1) if tensor.dim() == 2 else tensor for name, tensor in source.state_dict().items()
    }
    mlp.load_state_dict(state)
    x = torch.randn(*SHAPE, dtype=torch.float64)
    assert torch.equal(mlp(x, 1), source(x, 1))
