"""Check that a sequential model gives the same scores, loss and gradients when it is accelerated.

Both versions are computed on random histories, some of them repeated. The weights are perturbed at random, so that a
bias that starts at zero hides nothing. All runs on the CPU, where a wrong index raises an exception. In training mode
all dropout is off. The model and all random generators are restored afterwards.
"""

import contextlib
import random

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

TOLERANCE = 1e-5  # relative to the largest value, in float32: rounding stays below 2e-6, a real dependence is far above


class Differs(Exception):
    """Two outcomes differ; the message says what differs, and by how much."""


def check(model, plain: type, accelerated: type) -> None:
    """Compare a model of class `plain` with itself as an instance of class `accelerated`.

    Raises:
        Differs: they differ, or something cannot be compared.
    """
    with _prepared(model), torch.device("cpu"):  # whatever default device the user has set
        training, scoring = _random_batches(model)
        compared = [
            _compare(model, plain, accelerated, _scores("predict", scoring), "scores"),
            _compare(model, plain, accelerated, _scores("full_sort_predict", training), "scores of all items"),
        ]
        if not any(compared):
            raise Differs("it neither predicts nor ranks")
        _prepare_training(model)
        if not _compare(model, plain, accelerated, _loss_and_gradients(training), "loss or gradients"):
            raise Differs("it has no loss")


def _compare(model, plain, accelerated, outcome, name) -> bool:
    """Compare one outcome; False if the model does not offer it."""
    try:
        expected = _run(model, plain, outcome)
    except (NotImplementedError, AssertionError):  # RecBole's ways of saying that it does not
        return False
    except Exception as error:
        raise Differs(f"its {name} need more than histories, items and users ({_line(error)})") from error
    try:
        actual = _run(model, accelerated, outcome)
    except Exception as error:
        raise Differs(f"it fails without the padding of a history ({_line(error)})") from error
    difference = _largest_difference(expected, actual)
    if not difference <= TOLERANCE:
        raise Differs(f"its {name} change with the padding of a history, by {difference:.1g} of the largest")
    return True


def _run(model, kind, outcome) -> list[Tensor]:
    """The outcome of the model as an instance of class `kind`, under one seed."""
    before = type(model)
    torch.default_generator.manual_seed(0)  # not torch.manual_seed, which would seed the GPUs as well
    random.seed(0)
    np.random.seed(0)
    model.__class__ = kind
    try:
        return outcome(model)
    finally:
        model.__class__ = before


def _scores(method, batch):
    def outcome(model):
        with torch.no_grad():
            return [getattr(model, method)(_copy(batch))]

    return outcome


def _loss_and_gradients(batch):
    def outcome(model):
        with torch.enable_grad():
            losses = model.calculate_loss(_copy(batch))
            losses = list(losses) if isinstance(losses, tuple) else [losses]
            parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
            gradients = torch.autograd.grad(sum(losses), parameters, allow_unused=True)
        gradients = [torch.zeros(()) if gradient is None else gradient.flatten() for gradient in gradients]
        return [torch.stack(losses).detach(), torch.cat([gradient.view(-1) for gradient in gradients])]

    return outcome


def _largest_difference(expected, actual) -> float:
    """The greatest difference between two lists of tensors, relative to the largest value of each tensor."""
    differences = []
    for one, other in zip(expected, actual):
        if one.shape != other.shape:
            return float("inf")
        scale = one[one.isfinite()].abs().max() if one.isfinite().any() else torch.tensor(1.0)
        difference = torch.where(one == other, 0.0, (one - other).abs())  # -inf in both is no difference
        differences.append((difference.max() / scale.clamp(min=1e-6)).item())
    return max(differences)


def _line(error) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


# --------------------------------------------------------------------------------------------------------- the batch


def _random_batches(model) -> tuple[Interaction, Interaction]:
    """A batch to train on, and one to predict, in which each history occurs twice with different candidates."""
    generator = torch.Generator().manual_seed(0)
    width = model.max_seq_length

    def integers(low, high, *shape):
        return torch.randint(low, max(high, low + 1), shape, generator=generator)

    item_seq_len = torch.tensor([width, 1, 2, 3, width // 2, width - 1, width, 2]).clamp(1, width)
    rows = len(item_seq_len)
    item_seq = integers(1, model.n_items, rows, width) * (torch.arange(width) < item_seq_len.unsqueeze(1))
    n_users = getattr(model, "n_users", getattr(model, "n_user", 2))
    columns = {
        model.USER_ID: integers(1, n_users, rows),
        model.ITEM_SEQ: item_seq,
        model.ITEM_SEQ_LEN: item_seq_len,
        model.ITEM_ID: integers(1, model.n_items, rows),
        model.NEG_ITEM_ID: integers(1, model.n_items, rows),
    }
    if getattr(model, "INVERSE_ITEM_SEQ", None):
        columns[model.INVERSE_ITEM_SEQ] = item_seq.flip(1)
    if getattr(model, "MASK_ITEM_SEQ", None):
        columns.update(_masked(model, item_seq, item_seq_len, integers))
    training = Interaction(columns)
    scoring = training.repeat_interleave(2)
    scoring[model.ITEM_ID] = integers(1, model.n_items, len(scoring))
    return training, scoring


def _masked(model, item_seq, item_seq_len, integers):
    """The columns of RecBole's transform `mask_itemseq`: two items of each history are masked, one in the shortest."""
    rows, count = len(item_seq), max(1, model.mask_item_length)
    index = torch.zeros(rows, count, dtype=torch.int64)
    index[:, -1] = item_seq_len - 1
    if count > 1:
        index[:, -2] = item_seq_len // 2
        index[item_seq_len < 3, -2] = 0
    masked = item_seq.clone()
    masked[torch.arange(rows), item_seq_len - 1] = model.mask_token
    return {
        model.MASK_ITEM_SEQ: masked,
        model.POS_ITEMS: integers(1, model.n_items, rows, count),
        model.NEG_ITEMS: integers(1, model.n_items, rows, count),
        model.MASK_INDEX: index,
    }


def _copy(batch):
    """A copy of a batch, because some models change theirs."""
    return Interaction({key: batch[key].clone() for key in batch.columns})


# --------------------------------------------------------------------------------------------------------- the model


@contextlib.contextmanager
def _prepared(model):
    """The model in evaluation mode, on the CPU, with perturbed weights; everything is restored after the block."""
    modules = list(model.modules())
    attributes = [(module, dict(vars(module))) for module in modules]
    buffers = [(module, dict(module._buffers)) for module in modules]
    parameters = [(parameter, parameter.data, parameter.grad) for parameter in model.parameters()]
    generators = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    try:
        _perturb_weights(model)
        for module in modules:
            module.training = False
            for key, value in vars(module).items():
                if isinstance(value, torch.device):
                    setattr(module, key, torch.device("cpu"))
                elif isinstance(value, (Tensor, Interaction)):
                    setattr(module, key, value.to("cpu"))
            for key, value in module._buffers.items():
                module._buffers[key] = None if value is None else value.cpu().clone()
        yield
    finally:
        for module, values in attributes:
            vars(module).clear()
            vars(module).update(values)
        for module, values in buffers:
            module._buffers.clear()
            module._buffers.update(values)
        for parameter, data, gradient in parameters:
            parameter.data, parameter.grad = data, gradient
        torch.default_generator.set_state(generators[0])
        random.setstate(generators[1])
        np.random.set_state(generators[2])


def _perturb_weights(model):
    """Replace each weight by a perturbed copy, except for those that training does not change."""
    generator = torch.Generator().manual_seed(1)
    padding = {
        id(module.weight): module.padding_idx
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    }
    for parameter in model.parameters():
        data = parameter.data.cpu().clone()
        if parameter.requires_grad and data.is_floating_point():
            row = padding.get(id(parameter))
            kept = None if row is None else data[row].clone()
            # Less for wide matrices: above a spectral radius of about 2 a GRU is chaotic, and rounding grows with time.
            scale = 0.1 if data.dim() < 2 else 0.1 * min(1.0, 3.0 / data.shape[-1] ** 0.5)
            data += scale * torch.randn(data.shape, generator=generator, device="cpu").to(data.dtype)
            if row is not None:
                data[row] = kept
        parameter.grad = None
        parameter.data = data


def _prepare_training(model):
    """Training mode, with every dropout at zero."""
    for module in model.modules():
        module.training = True
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.RNNBase):
            module.dropout = 0.0
