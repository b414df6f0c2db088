"""Lengths on the host, and that a training step asks a GPU for no number."""

import contextlib

import numpy as np
import pytest
import torch
from fakes import make_batch, make_histories, make_model

from recbole_glintru.ops import embedding_gradients
from recbole_glintru.ops.convolution import triton_guard as convolution_guard
from recbole_glintru.ops.gru import triton_guard as gru_guard
from recbole_glintru.ops.histories import grouping, host_lengths
from recbole_glintru.ops.histories.grouping import Costs
from recbole_glintru.ops.layouts import choice
from recbole_glintru.ops.layouts.compact import Compact

LENGTHS = [5, 1, 9, 2, 20, 3]
META = torch.device("meta")  # where tensors have a shape and no values: PyTorch refuses to read one


class Launches:
    """Stands in for a Triton kernel: counts."""

    count = 0

    def __getitem__(self, grid):
        return self

    def __call__(self, *tensors, **choices):
        Launches.count += 1


def adds_sparse_tensors():
    """Without values PyTorch 2.2 cannot, which the gradients of look-ups in groups need."""
    nothing = torch.sparse_coo_tensor(size=(2, 2), device=META, check_invariants=False)
    try:
        nothing + nothing
    except NotImplementedError:
        return False
    return True


def on_meta(monkeypatch, kernels):
    """A device without values is taken for a GPU, with the package's kernels or without."""
    monkeypatch.setitem(choice._WITHOUT_PADDING, "meta", Compact)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no such device
    if adds_sparse_tensors():
        monkeypatch.setattr(embedding_gradients, "LEAST_ELEMENTS", 0)
    Launches.count = 0
    if not kernels:
        return
    triton_gru = pytest.importorskip("recbole_glintru.ops.gru.triton_gru", reason="Triton is not installed")
    from recbole_glintru.ops.convolution import triton_convolution

    for module, names in (
        (triton_gru, ("gru_forward", "gru_backward")),
        (triton_convolution, ("convolve", "tap_gradients")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, Launches())
    for chooser in (gru_guard, convolution_guard):
        monkeypatch.setattr(chooser, "are_usable", lambda *_: True)


def batch_on(device, histories, known=True):
    item_seq, item_seq_len = histories
    batch = make_batch(item_seq, item_seq_len).to(device)
    if known:
        host_lengths.remember(batch["item_length"], item_seq_len.numpy())
    return batch


CASES = {
    "one block": {},
    "padding is seen": {"mask_padding": False},
    "keys normalised over the sequence": {"key_norm": "sequence"},
    "two blocks": {"n_layers": 2},
}


@pytest.mark.parametrize("kernels", [False, True], ids=["PyTorch", "kernels"])
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_step_reads_nothing(monkeypatch, changes, kernels):
    on_meta(monkeypatch, kernels)
    model = make_model("GLINTRU", hidden_size=32, **changes).to(META)
    model.calculate_loss(batch_on(META, make_histories(LENGTHS))).backward()
    assert model.item_embedding.weight.grad.device == META
    # Two of the GRU and three of the convolution; below another block the second convolution has every position.
    assert Launches.count == (0 if not kernels else 13 if "n_layers" in changes else 5)


@pytest.mark.parametrize("changes", [{}, {"n_layers": 2}], ids=["one block", "two blocks"])
def test_groups_of_like_length_read_nothing(monkeypatch, changes):
    on_meta(monkeypatch, kernels=False)
    model = make_model("GLINTRU", **changes).to(META)
    model.packs_histories, model.length_groups = False, Costs(0, 0)
    model.calculate_loss(batch_on(META, make_histories(LENGTHS))).backward()


@pytest.mark.parametrize(
    "name", ["FMLPRec", "LinRec", "LRURec", "Mamba4Rec", "MLP4Rec", "RecMamba", "SIGMA", "SMLP4Rec", "SSEPT"]
)
def test_step_of_another_model_reads_nothing(monkeypatch, name):
    on_meta(monkeypatch, kernels=False)
    model = make_model(name, length_groups=[0, 0]).to(META)
    model.calculate_loss(batch_on(META, make_histories(LENGTHS))).backward()


def test_unknown_lengths_are_read(monkeypatch):
    """Which is refused here, and would be a wait on a GPU: the tests above can fail."""
    on_meta(monkeypatch, kernels=False)
    with pytest.raises(NotImplementedError, match="no data"):
        make_model("GLINTRU").to(META).calculate_loss(batch_on(META, make_histories(LENGTHS), known=False))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_step_waits_for_nothing_on_gpu(changes, autocast):
    device = torch.device("cuda")
    model = make_model("GLINTRU", n_items=2000, hidden_size=64, device=device, **changes).to(device)
    optimiser = torch.optim.Adam(model.parameters())
    batch = batch_on(device, make_histories([1 + row % 20 for row in range(1000)], n_items=2000))

    def step():
        with torch.autocast("cuda", autocast, enabled=autocast is not None):
            loss = model.calculate_loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    step()  # compiles, and compares the kernels with their references
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_known_lengths_travel_with_the_tensor():
    _, item_seq_len = make_histories(LENGTHS)
    known = host_lengths.remember(item_seq_len, np.array(LENGTHS))
    assert host_lengths.of(known.to("cpu", torch.int64)) is host_lengths.of(known)
    assert host_lengths.of(make_batch(known, known).to("cpu")["item_length"]) is host_lengths.of(known)
    assert host_lengths.of(known + 1).tolist() == [length + 1 for length in LENGTHS]


def test_parts_of_known_lengths_are_known():
    on_host = np.array(LENGTHS)
    known = host_lengths.remember(torch.tensor(LENGTHS, device=META), on_host)
    rows = host_lengths.remember(torch.tensor([4, 0], device=META), np.array([4, 0]))
    assert host_lengths.of(host_lengths.part(known, rows)).tolist() == [20, 5]
    assert host_lengths.part(known, slice(None)) is known
    assert torch.equal(host_lengths.part(torch.tensor(LENGTHS), torch.tensor([4, 0])), torch.tensor([20, 5]))


def test_groups_know_their_rows():
    item_seq_len = host_lengths.remember(torch.tensor(LENGTHS + LENGTHS), np.array(LENGTHS + LENGTHS))
    seen = []

    def encode(rows, longest):
        assert host_lengths.are_known(rows) and host_lengths.of(rows).tolist() == rows.tolist()
        seen.extend(rows.tolist())
        return item_seq_len[rows]

    assert torch.equal(grouping.run(encode, item_seq_len, Costs(0, 0)), item_seq_len)
    assert sorted(seen) == list(range(len(item_seq_len)))


@pytest.mark.slow
def test_groups_can_be_compiled():
    """Nothing in the way of `torch.compile`: it traces no attribute of a tensor, and need not."""
    model = make_model("LinRec").eval()
    model.length_groups = Costs(0, 0)
    histories = make_histories(LENGTHS)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(model, backend="eager")(*histories), model(*histories))


def test_lengths_that_are_changed_are_read_again():
    """A user's `calculate_loss` may append an item in place."""
    lengths = host_lengths.remember(torch.tensor(LENGTHS), np.array([7, 7, 7, 7, 7, 7]))
    assert host_lengths.of(lengths).tolist() == [7] * 6
    lengths.add_(1)
    assert not host_lengths.are_known(lengths)
    assert host_lengths.of(lengths).tolist() == [length + 1 for length in LENGTHS]
    with torch.inference_mode():  # in which nothing is counted
        fixed = host_lengths.remember(torch.tensor(LENGTHS), np.array(LENGTHS))
        assert host_lengths.are_known(fixed)
