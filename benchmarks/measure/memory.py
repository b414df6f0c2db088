"""Peak memory of a training step: parameters, gradients, optimiser and activations, without the batch itself.

On a GPU this is the peak of PyTorch's allocator in this process. On a CPU it is the resident set of a separate process,
less what that was with PyTorch warmed up and the batch loaded: memory that earlier models have left in an allocator's
free lists would hide what a model needs. That figure exists only on Linux.
"""

import gc
import multiprocessing
import pickle
import signal
import tempfile
from pathlib import Path
from typing import NamedTuple, Optional

import torch

OUT_OF_MEMORY = "out of memory"
FEW = 8  # rows
PRELOADED = [  # slow imports, done once for all processes
    "torch",
    "recbole_glintru.accelerate",
    "recbole_glintru.models.glintru",
    "recbole.config",
    "recbole.data",
    "recbole.utils",
    "recbole.model.sequential_recommender.sasrec",
]


class Peak(NamedTuple):
    """Outcome of a measurement: MiB, or None and the reason."""

    mebibytes: Optional[float]
    reason: Optional[str] = None


def training_step(model, optimiser, batch, precision: Optional[torch.dtype] = None) -> None:
    """A trainer's step on a batch, under autocast to `precision` unless that is None."""
    optimiser.zero_grad()
    device_type = next(model.parameters()).device.type
    with torch.autocast(device_type, precision, enabled=precision is not None):
        loss = model.calculate_loss(batch)
    (sum(loss) if isinstance(loss, tuple) else loss).backward()
    optimiser.step()


def new_optimiser(model):
    """RecBole's default optimiser."""
    return torch.optim.Adam(model.parameters(), lr=0.001)


def peak(
    model, batch, device: torch.device, share_of_free: float = 0.7, precision: Optional[torch.dtype] = None
) -> Peak:
    """Peak memory of a training step of a model in training mode; the model is unchanged afterwards.

    Args:
        model: without gradients and optimiser.
        batch: an `Interaction` on the device.
        device: where both are.
        share_of_free: on a CPU the step may use this share of the free memory, and is given up above it.
        precision: the type of autocast, if it is on.
    """
    if device.type == "cuda":
        return _peak_of_allocator(model, batch, device, precision)
    if _status("VmHWM") is None:
        return Peak(None, "not measured on this system")
    return _peak_of_process(model, batch, share_of_free, precision)


# --------------------------------------------------------------------------------------------------------------- GPU


def _peak_of_allocator(model, batch, device, precision):
    parameters = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    try:
        # cuBLAS allocates its workspaces, 32 MiB each, at its first products, and keeps them.
        training_step(model, new_optimiser(model), batch[:FEW], precision)
        model.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        optimiser = new_optimiser(model)
        for _ in range(2):  # the optimiser's state exists from the first step on
            training_step(model, optimiser, batch, precision)
        torch.cuda.synchronize(device)
        return Peak((torch.cuda.max_memory_allocated(device) - before + parameters) / 2**20)
    except torch.cuda.OutOfMemoryError:
        return Peak(None, OUT_OF_MEMORY)
    finally:
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


# --------------------------------------------------------------------------------------------------------------- CPU


def _peak_of_process(model, batch, share_of_free, precision):
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(PRELOADED)
    limit = int(share_of_free * _free_memory())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.pickle")
        with file.open("wb") as stream:
            pickle.dump(model, stream)
            pickle.dump(batch, stream)
        receiver, sender = context.Pipe(duplex=False)
        arguments = (sender, str(file), torch.get_num_threads(), limit, precision)
        process = context.Process(target=_measure, args=arguments, daemon=True)
        process.start()
        sender.close()
        try:
            return Peak(*receiver.recv())
        except EOFError:  # it ended without an answer
            process.join()
            killed = process.exitcode == -signal.SIGKILL
            return Peak(None, OUT_OF_MEMORY if killed else f"its process ended with status {process.exitcode}")
        finally:
            process.join()


def _measure(sender, file, threads, limit, precision):
    """In the other process: the step, its peak, sent back."""
    import resource  # not on Windows, where this is never reached

    torch.set_num_threads(threads)
    try:
        with open(file, "rb") as stream:
            start = stream.tell()
            model = pickle.load(stream)
            batch = pickle.load(stream)
            few = batch[:2]
            training_step(model, new_optimiser(model), few, precision)  # threads, workspaces, one-time loading
            del model
            gc.collect()
            _give_back_free_memory()
            before = _status("VmRSS")
            resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + limit,) * 2)
            stream.seek(start)
            model = pickle.load(stream)
        optimiser = new_optimiser(model)
        training_step(model, optimiser, few, precision)  # the optimiser's state
        training_step(model, optimiser, batch, precision)
        sender.send(((_status("VmHWM") - before) / 2**20, None))
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        sender.send((None, OUT_OF_MEMORY if not text or "memory" in text else text.partition("\n")[0][:100]))
    except KeyboardInterrupt:
        pass


def _status(key: str) -> Optional[int]:
    """A figure of this process in bytes, or None if unknown; unlike `ru_maxrss`, the peak excludes the parent's."""
    try:
        with open("/proc/self/status") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith(key + ":")), None)
    except OSError:
        return None


def _free_memory() -> int:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def _give_back_free_memory() -> None:
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # the C library does not have it
        pass
