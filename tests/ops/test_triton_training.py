"""GLINT-RU as it trains on a GPU, by the package's kernels: against the CPU, and against itself."""

import copy
import math

import pytest
import torch
from fakes import all_dropouts_off, make_batch, make_histories, make_model, model_settings
from recbole.quick_start import run_recbole
from triton_kernels import DEVICE, NEEDS_GPU, assert_close

from recbole_glintru.ops.convolution import triton_guard as convolution_guard
from recbole_glintru.ops.gru import triton_guard as gru_guard
from recbole_glintru.ops.histories import host_lengths
from recbole_glintru.ops.layouts.choice import choose_layout
from recbole_glintru.ops.layouts.compact import Compact

pytestmark = [NEEDS_GPU, pytest.mark.filterwarnings("error:The (GRU|convolution) runs in")]
ROWS, LENGTH, ITEMS = 300, 50, 3000
# Of the largest element of each, and at least a hundredth of the largest of all: TF32 rounds factors to 2^-11, bfloat16
# to 2^-8, and errors go through the steps of the GRU, two convolutions, and sums over all positions.
TOLERANCES = {None: 2e-2, torch.bfloat16: 1e-1}


def batch_on(device):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, LENGTH + 1, (ROWS,), generator=generator)
    item_seq, item_seq_len = make_histories(lengths.tolist(), n_items=ITEMS, padded_to=LENGTH)
    batch = make_batch(item_seq, item_seq_len).to(device)
    host_lengths.remember(batch["item_length"], item_seq_len.numpy())
    return batch


def model_of(hidden_size, **changes):
    torch.manual_seed(0)
    dropouts = all_dropouts_off(model_settings("GLINTRU"))
    return make_model("GLINTRU", n_items=ITEMS, hidden_size=hidden_size, **{**dropouts, **changes})


def loss_of(model, device, autocast):
    with torch.autocast(device.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        return model.calculate_loss(batch_on(device)).float()


@pytest.fixture
def launches(monkeypatch):
    """How often the kernels of each kind were used, and tried: an objection to them is an error here."""
    for module in (gru_guard, convolution_guard):
        module._objection.cache_clear()
    counts = {"gru": 0, "convolution": 0}

    def count(module, name):
        plain = getattr(module, name)

        def counted(*arguments):
            counts[name] += 1
            return plain(*arguments)

        monkeypatch.setattr(module, name, counted)

    count(gru_guard, "gru")
    count(convolution_guard, "convolution")
    return counts


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("hidden_size, changes", [(64, {}), (32, {"n_layers": 2}), (128, {"key_norm": "sequence"})])
def test_loss_and_gradients_of_the_cpu(launches, hidden_size, changes, autocast):
    on_cpu = model_of(hidden_size, **changes)
    on_gpu = copy.deepcopy(on_cpu).to(DEVICE)
    assert isinstance(choose_layout(batch_on(DEVICE)["item_length"], LENGTH), Compact)
    expected, actual = loss_of(on_cpu, torch.device("cpu"), None), loss_of(on_gpu, DEVICE, autocast)
    assert launches["gru"] and launches["convolution"]
    assert_close("the loss", actual.cpu(), expected, TOLERANCES[autocast])
    expected.backward()
    actual.backward()
    trained = [parameter for parameter in on_cpu.parameters() if parameter.grad is not None]
    least = max(parameter.grad.abs().max().item() for parameter in trained) / 100
    for (name, plain), ours in zip(on_cpu.named_parameters(), on_gpu.parameters()):
        assert (plain.grad is None) == (ours.grad is None), name
        if plain.grad is not None:
            scale = max(plain.grad.abs().max().item(), least)
            assert_close(name, ours.grad.cpu() / scale, plain.grad / scale, TOLERANCES[autocast])


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["f32", "bf16"])
def test_training_twice_bit_by_bit(launches, autocast):
    """Three steps with dropout: nothing is added in an order of chance."""
    trained = []
    for _ in range(2):
        model = model_of(64, mlp_dropout_prob=0.2).to(DEVICE).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        torch.manual_seed(1)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = loss_of(model, DEVICE, autocast)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        trained.append((losses, model.state_dict()))
    (losses, parameters), (losses_again, parameters_again) = trained
    assert launches["gru"] >= 6 and losses == losses_again
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    for name, parameter in parameters.items():
        assert torch.equal(parameter, parameters_again[name]), name


def test_data_on_the_device_give_the_same_numbers(workplace, tiny, launches):
    """Through RecBole's trainer, at a width that the kernels take."""
    results = [
        run_recbole(
            model="GLINTRU", dataset="ml-100k", config_dict={**tiny, "hidden_size": 32, "data_on_device": switch}
        )
        for switch in (False, True)
    ]
    assert launches["gru"] and launches["convolution"] and results[0] == results[1]
