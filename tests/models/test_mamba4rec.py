import pytest
import torch
from fakes import make_batch, make_histories, make_model
from torch.nn.functional import softplus

LENGTHS = (1, 9, 4, 7, 9, 2)


def make(**changes):
    return make_model("Mamba4Rec", **{"hidden_dropout_prob": 0.0, **changes})


@pytest.mark.parametrize("n_layers", [1, 3])
def test_equals_every_position_computed(n_layers):
    """The last block's shortcut and the early stop of the scans: the same states and the same gradients."""
    model = make(n_layers=n_layers, d_state=4).double()
    item_seq, item_seq_len = make_histories(LENGTHS)

    def plain():
        x = model.input_norm(model.item_embedding(item_seq))
        for block in model.blocks:
            mixed = block.mixer(x)
            x = block.feed_forward(block.norm(mixed + x if n_layers > 1 else mixed))
        return x[torch.arange(len(x)), item_seq_len - 1]

    expected, actual = plain(), model(item_seq, item_seq_len)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)
    cotangent = torch.randn_like(expected)
    names, parameters = zip(*model.named_parameters())
    ours, theirs = (torch.autograd.grad((out * cotangent).sum(), parameters) for out in (actual, expected))
    for name, a, b in zip(names, ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


def test_scan_backends_agree():
    models = {backend: make(scan_backend=backend, n_layers=2) for backend in ("auto", "torch", "reference")}
    batch = make_batch(*make_histories(LENGTHS))
    losses = {}
    for backend, model in models.items():
        model.load_state_dict(models["reference"].state_dict())
        losses[backend] = model.calculate_loss(batch).item()
    assert losses["auto"] == pytest.approx(losses["torch"], abs=1e-6)
    assert losses["torch"] == pytest.approx(losses["reference"], abs=1e-5)


def test_mamba_init():
    published, upstream = (make(mamba_init=name).blocks[0].mixer for name in ("published", "upstream"))
    assert torch.equal(published.dt_proj.bias, torch.zeros_like(published.dt_proj.bias))
    assert softplus(upstream.dt_proj.bias).max() <= 0.1001
    assert upstream.in_proj.weight.std() > 5 * published.in_proj.weight.std()


@pytest.mark.parametrize(
    "key, value",
    [
        ("scan_backend", "cuda"),
        ("mamba_init", "official"),
        ("d_state", 0),
        ("d_conv", 2.5),
        ("expand", 0),
        ("ffn_expansion", 0),
        ("n_layers", 0),
        ("hidden_dropout_prob", 1.0),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"{key}={value!r}"):
        make(**{key: value})
