"""The environment of a cell: versions, device and memory, all of which go into the result's JSON."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Optional

import torch


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "pandas", "recbole", "numba", "triton", "mamba-ssm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device(used: torch.device) -> dict[str, Any]:
    if used.type == "cuda":
        return {"type": "cuda", "name": torch.cuda.get_device_name(used)}
    return {"type": used.type, "name": _processor(), "threads": torch.get_num_threads()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_memory(used: torch.device) -> Optional[float]:
    """Peak memory in MiB: of tensors on a GPU; elsewhere of the whole process, including data."""
    if used.type == "cuda":
        return torch.cuda.max_memory_allocated(used) / 2**20
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
