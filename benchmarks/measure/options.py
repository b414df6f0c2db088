"""Options common to the benchmarks, checked before any work starts."""

import os
import signal
import threading
from typing import Any, Callable

import torch

from recbole_glintru.launch.errors import UserError


def positive(kind: type) -> Callable[[str], Any]:
    """An argparse type: positive and finite numbers of type `int` or `float`."""

    def parse_number(text):
        number = kind(text)
        if not 0 < number < float("inf"):
            raise ValueError
        return number

    parse_number.__name__ = f"positive {'whole number' if kind is int else 'number'}"
    return parse_number


def find_device(text: str) -> torch.device:
    """The device named by `--device`, a GPU with its index.

    Raises:
        UserError: there is no such device.
    """
    try:
        device = torch.device(text)
    except RuntimeError:
        raise UserError(f"--device {text}: must be cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {text}: must be cpu, cuda or cuda:N.")
    if device.type == "cpu":
        return device
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise UserError(f"--device {text}: PyTorch sees {torch.cuda.device_count()} such devices.")
    return torch.device("cuda", index)  # `torch.cuda.set_device` needs one


def obey_interrupts() -> None:
    """Let SIGINT raise KeyboardInterrupt in the main thread.

    A process that a shell script starts with `&` inherits that SIGINT is ignored, and Python keeps that.
    """
    if threading.current_thread() is threading.main_thread():  # no other thread may
        signal.signal(signal.SIGINT, signal.default_int_handler)


def cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
