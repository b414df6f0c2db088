"""Options that the benchmarks have in common, checked before any work starts."""

from typing import Any, Callable

import torch

from recbole_glintru.launch.errors import UserError


def positive(kind: type) -> Callable[[str], Any]:
    """An argparse type: numbers of a kind, `int` or `float`, that are positive and finite."""

    def parse_number(text):
        number = kind(text)
        if not 0 < number < float("inf"):
            raise ValueError
        return number

    parse_number.__name__ = f"positive {'whole number' if kind is int else 'number'}"
    return parse_number


def find_device(text: str) -> torch.device:
    """The device that `--device` names.

    Raises:
        UserError: there is none.
    """
    try:
        device = torch.device(text)
    except RuntimeError:
        raise UserError(f"--device {text}: must be cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {text}: must be cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {text}: PyTorch sees {torch.cuda.device_count()} such devices.")
    return device
