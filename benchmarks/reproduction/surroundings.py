"""Where a cell was run: versions, commit, device, memory. All of it goes into the result's JSON."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Optional

import torch

import recbole_glintru

RUN = ("recbole_glintru", "properties", ":(glob)benchmarks/**/*.py")  # what a result depends on, as git names it


def package() -> dict[str, Any]:
    """Version of the package, and the commit of the checkout; `changed` if its files are not those of the commit.

    Of what lies on disk now: to be asked before a cell's training, since the checkout may be another at its end.
    """
    home = Path(recbole_glintru.__file__).resolve().parent.parent
    commit = _git(home, "rev-parse", "HEAD")
    changed = _git(home, "status", "--porcelain", "--", *RUN)
    return {"version": recbole_glintru.__version__, "commit": commit, "changed": bool(changed)}


def _git(folder: Path, *words: str) -> Optional[str]:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


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
    """MiB: the most that tensors took on a GPU; elsewhere the most that the process took, data and all."""
    if used.type == "cuda":
        return torch.cuda.max_memory_allocated(used) / 2**20
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
