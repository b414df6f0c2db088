import pytest
import torch
from fakes import make_histories, make_model

LENGTH = 12
LENGTHS = (1, 12, 4, 7, 5, 6)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "gate_dropout_prob": 0.0}


def make(**changes):
    return make_model("SIGMA", **{"d_state": 4, **NO_DROPOUT, **changes})


def flipped(model, lengths=LENGTHS):
    """Which position each position of the reversed copy comes from."""
    x = torch.arange(LENGTH).expand(len(lengths), LENGTH).unsqueeze(-1)
    return model.blocks[0].mixer._flip(x, torch.tensor(lengths)).squeeze(-1).tolist()


@pytest.mark.parametrize("keep_last", [0, 5])
def test_the_last_items_stay_in_place(keep_last):
    for row, n in zip(flipped(make(keep_last=keep_last)), LENGTHS):
        end = max(n - keep_last, 0)
        assert row == [*reversed(range(end)), *range(end, LENGTH)]


@pytest.mark.parametrize("flip_prefix", [0, 3, 45])
def test_published_reversal_counts_the_padding(flip_prefix):
    end = min(flip_prefix, LENGTH)
    expected = [*reversed(range(end)), *range(end, LENGTH)]
    assert flipped(make(semantics="published", flip_prefix=flip_prefix)) == [expected] * len(LENGTHS)


@pytest.mark.parametrize("semantics", ["clean", "published"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_equals_every_position_computed(semantics, n_layers):
    model = make(semantics=semantics, n_layers=n_layers, flip_prefix=5, keep_last=2).double()
    for parameter in model.parameters():  # away from the small numbers of the initialisation
        torch.nn.init.normal_(parameter, std=0.3)
    item_seq, item_seq_len = make_histories(LENGTHS, padded_to=LENGTH)

    def plain():
        x = model.input_norm(model.item_embedding(item_seq))
        for block in model.blocks:
            x = block(x, item_seq_len)
        return x[torch.arange(len(x)), item_seq_len - 1]

    expected, actual = plain(), model(item_seq, item_seq_len)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)
    cotangent = torch.randn_like(expected)
    names, parameters = zip(*model.named_parameters())
    ours, theirs = (torch.autograd.grad((out * cotangent).sum(), parameters) for out in (actual, expected))
    for name, a, b in zip(names, ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}")


def test_clean_is_published_where_nothing_is_padded_and_nothing_was_a_mistake():
    """Full histories, the same reversal, the published gate's argument and weights put in by hand."""
    clean = make(keep_last=2).double()
    published = make(semantics="published", flip_prefix=LENGTH - 2).double()
    published.load_state_dict(clean.state_dict())
    mixer = published.blocks[0].mixer
    with torch.no_grad():
        mixer.mixing.copy_(clean.blocks[0].mixer.mixing.softmax(dim=0))
    mixer._gate = lambda silu_input, sigmoid_input: type(mixer)._gate(mixer, silu_input, silu_input)
    history = make_histories((LENGTH, LENGTH, LENGTH))
    torch.testing.assert_close(published(*history), clean(*history))


def test_the_forward_direction_starts_with_the_largest_share():
    """0.1 GRU, 0.1 reversed, 0.8 forward: set one of them to nothing, and see which part of the result goes."""
    mixer = make(semantics="published").blocks[0].mixer
    assert mixer.mixing.tolist() == pytest.approx([0.1, 0.1, 0.8])
    x = torch.ones(1, 2, mixer.projection.in_features)
    zero = torch.zeros_like(x)
    mixer.projection = torch.nn.Identity()
    gates = [gate for gate in (mixer.gate_silu, mixer.gate_sigmoid) for gate in gate.parameters()]
    with torch.no_grad():
        for parameter in gates:
            parameter.zero_()
        parts = [mixer._mix(zero, zero, *parts) for parts in ((x, zero, zero), (zero, x, zero), (zero, zero, x))]
    assert [part.mean().item() for part in parts] == pytest.approx([0.8, 0.1, 0.1])  # forward, reversed, GRU


def test_both_semantics_start_with_the_same_mixture():
    clean, published = (make(semantics=name).blocks[0].mixer.mixing for name in ("clean", "published"))
    torch.testing.assert_close(clean.softmax(dim=0), published)


def test_published_padding_reaches_the_state():
    model = make(semantics="published").eval()
    item_seq, item_seq_len = make_histories((3, 5))
    with torch.no_grad():
        wider = torch.nn.functional.pad(item_seq, (0, 10))
        assert (model(wider, item_seq_len) - model(item_seq, item_seq_len)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "key, value",
    [("semantics", "official"), ("keep_last", -1), ("flip_prefix", 1.5), ("gate_dropout_prob", 1), ("d_state", 0)],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"{key}={value!r}"):
        make(**{key: value})
