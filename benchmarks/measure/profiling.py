"""The time of a training step, by kind of operation."""

from typing import Any, Callable, NamedTuple

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from measure import timing
from measure.table import Budget, Lane
from measure.workload import Workload

STEPS = 3
WARM_UP = 5  # steps until the allocator has all the memory that a step needs
OTHER = "other arithmetic on elements"
OVERHEAD = "Python, autograd, views"
KINDS = {
    "matrix products": ("mm", "addmm", "addmm_", "bmm", "baddbmm", "mkldnn_convolution", "cudnn_convolution"),
    "random numbers": ("bernoulli_", "random_", "native_dropout", "rand"),
    "softmax of the catalogue": (
        *("_softmax", "_log_softmax", "_log_softmax_backward_data", "amax", "gather", "scatter_add_"),
        *("nll_loss_forward", "nll_loss_backward"),
    ),
    "copies, zeros, concatenations": ("copy_", "fill_", "zero_", "cat", "constant_pad_nd"),
    "look-ups and their gradients": (
        *("index", "index_select", "index_add_", "index_copy_", "_index_put_impl_", "embedding_dense_backward"),
    ),
    OVERHEAD: ("slice", "as_strided", "select", "view", "empty", "expand", "t", "transpose", "reshape", "narrow"),
}
_KIND_OF = {f"aten::{name}": kind for kind, names in KINDS.items() for name in names}
# A GPU's kernels by their names, in the order in which they are tried: the package's own begin with these ...
OWN_KERNELS = {
    "the package's GRU": ("gru_",),
    "the package's convolution": ("convolve", "tap_gradients"),
    "the package's selective scan": ("scan_",),
}
# ... and others contain these, in lower case.
GPU_KINDS = {
    "cuDNN's recurrence": ("rnn", "gru_", "lstm"),
    "attention": ("flash", "fmha", "attention"),
    "selective scan of mamba-ssm": ("selective_scan", "causal_conv1d"),
    "matrix products": ("gemm", "gemv", "nvjet", "cutlass", "splitk", "dot_kernel", "convolve", "conv2d", "wgrad"),
    "optimiser": ("multi_tensor_apply", "adam"),
    "softmax of the catalogue": ("softmax", "nll_loss"),
    "random numbers": ("distribution", "dropout", "bernoulli", "philox"),
    "sorts": ("sort", "devicescan", "deviceselect", "deviceunique"),
    "look-ups and their gradients": ("index", "gather", "scatter", "embedding"),
    "copies, zeros, concatenations": ("memcpy", "memset", "copy", "catarray", "fillfunctor", "triu_tril"),
    "sums and norms": ("reduce", "norm"),
}


class Profile:
    """The time of a step of each candidate, by kinds of operations, as PyTorch's profiler attributes it.

    Args:
        workload: the data and models.
        candidates: the models.
        budget: ends the measurement.
        advance: called with a text before each measurement.

    Attributes:
        rows: candidate -> kind -> milliseconds per step.
        notes: remarks on them.
    """

    def __init__(self, workload: Workload, candidates: list[str], budget: Budget, advance: Callable[[str], None]):
        self.workload, self.candidates, self.budget, self.advance = workload, candidates, budget, advance
        self.rows: dict[str, dict[str, Any]] = {}
        self.notes = ["The profiler itself makes a step slower: compare the kinds, and the whole with `step alone`."]

    def run(self) -> None:
        """Measure everything, into `rows`."""
        for name in self.candidates:
            if self.budget.is_spent():
                return
            self.advance(f"profile of {name}")
            self.rows[name] = self._profile(Lane(name, self.workload))

    def _profile(self, lane):
        device, step = self.workload.device, lane.step(0)
        for _ in range(WARM_UP):
            step()
        alone = min(timing.seconds(step, device) for _ in range(WARM_UP))
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        with profile(activities=activities) as profiler:
            for _ in range(STEPS):
                timing.seconds(step, device)
        if device.type == "cuda":
            times = dict.fromkeys([*OWN_KERNELS, *GPU_KINDS, OTHER], 0.0)
            kernels = gpu_kernels(profiler)
            for kernel in kernels:
                times[kind_of_kernel(kernel.name)] += kernel.milliseconds / STEPS
            launches = {"launches": sum(kernel.launches for kernel in kernels) / STEPS}
        else:
            times, launches = dict.fromkeys([*KINDS, OTHER], 0.0), {}
            for event in profiler.key_averages():
                kind = _KIND_OF.get(event.key, OTHER if event.key.startswith("aten::") else OVERHEAD)
                times[kind] += event.self_cpu_time_total / 1e3 / STEPS
        ordered = sorted(times.items(), key=lambda pair: -pair[1])
        return {"step alone": 1e3 * alone, "profiled": sum(times.values()), **launches, **dict(ordered)}


class Kernel(NamedTuple):
    """All that a GPU has run under one name."""

    name: str
    milliseconds: float
    launches: int


def gpu_kernels(profiler: profile) -> list[Kernel]:
    """Kernels, copies and fills of a profile; without the operations of the CPU, which include their kernels' time."""
    return [
        Kernel(event.key, _microseconds(event) / 1e3, event.count)
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CUDA and not _is_annotation(event) and _microseconds(event) > 0
    ]


def kind_of_kernel(name: str) -> str:
    """Which of `OWN_KERNELS` and `GPU_KINDS` a kernel is, or `OTHER`."""
    for kind, beginnings in OWN_KERNELS.items():
        if name.startswith(beginnings):
            return kind
    lower = name.lower()
    return next((kind for kind, parts in GPU_KINDS.items() if any(part in lower for part in parts)), OTHER)


def _is_annotation(event):
    """Whether it is a named span of time, such as the optimiser's step."""
    named = event.key.startswith(("Optimizer.", "ProfilerStep"))  # all there is before PyTorch 2.5
    return named or getattr(event, "is_user_annotation", False)


def _microseconds(event) -> float:
    """The time on the GPU."""
    named = getattr(event, "self_device_time_total", None)
    return event.self_cuda_time_total if named is None else named  # PyTorch before 2.4
