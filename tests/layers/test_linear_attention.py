import pytest
import torch
import torch.nn.functional as F

from recbole_glintru.layers.linear_attention import LinearAttention
from recbole_glintru.ops.layouts.packed import Packed
from recbole_glintru.ops.layouts.padded import Padded

KEY_NORMS = pytest.mark.parametrize("key_norm", ["position", "sequence"])
LAYOUTS = pytest.mark.parametrize("kind", [Padded, Packed])
D, HEADS = 16, 2


def make(key_norm):
    torch.manual_seed(0)
    return LinearAttention(D, HEADS, key_norm)


def plain(query, key, value, key_norm):
    """One history in float64, from the projections `[L, d]`: head by head, in the order of the equations."""
    heads = (x.double().chunk(HEADS, dim=-1) for x in (F.elu(query.double()), F.elu(key.double()), value))
    outputs = []
    for q, k, v in zip(*heads):
        q = q / q.norm(dim=-1, keepdim=True) / q.shape[-1] ** 0.5
        k = k / k.norm(dim=-1, keepdim=True) if key_norm == "position" else k / k.norm(dim=0) / len(k) ** 0.5
        outputs.append(q @ (k.T @ v))
    return torch.cat(outputs, dim=-1)


@LAYOUTS
@KEY_NORMS
def test_half_precision_ends_at_the_projections(key_norm, kind):
    """Under autocast they are rounded to 8 bits; norms and the sum over 200 positions lose nothing beyond that."""
    attention, x = make(key_norm), torch.randn(1, 200, D)
    layout = kind(torch.tensor([200]), 200)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        query, key, value = (linear(x) for linear in (attention.query, attention.key, attention.value))
        every = attention(layout.arrange(x), layout)
        last = attention.at_query(*attention.keys_and_values(layout.arrange(x)), layout, x[:, -1])
    assert query.dtype == torch.bfloat16 and every.dtype == last.dtype == torch.float32
    expected = plain(query[0], key[0], value[0], key_norm).float()
    torch.testing.assert_close(layout.pad(every)[0], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last[0], expected[-1], rtol=1e-5, atol=1e-5)


@LAYOUTS
@KEY_NORMS
@pytest.mark.parametrize("at_query", [False, True])
def test_zero_keys_have_a_gradient(at_query, key_norm, kind):
    """Those of an item whose embedding was set to zero, as for a cold start: a norm of zero, and no division by it."""
    attention, x = make(key_norm), torch.zeros(1, 3, D)
    torch.nn.init.zeros_(attention.key.bias)
    layout = kind(torch.tensor([3]), 3)
    x = layout.arrange(x).requires_grad_()
    if at_query:
        y = attention.at_query(*attention.keys_and_values(x), layout, torch.ones(1, D))
    else:
        y = attention(x, layout)
    y.sum().backward()
    assert all(gradient.isfinite().all() for gradient in (x.grad, *(p.grad for p in attention.parameters())))
