"""What a training step spends its time on, kind of operation by kind of operation."""

from typing import Any, Callable

from torch.profiler import ProfilerActivity, profile

from measure import timing
from measure.table import Budget, Lane
from measure.workload import Workload

STEPS = 3
WARM_UP = 5  # steps until the allocator has all memory that a step needs
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


class Profile:
    """The time of a step of each candidate, by kinds of operations, as PyTorch's profiler attributes it.

    Args:
        workload: what is measured on.
        candidates: the models.
        budget: ends the measurement.
        advance: called with a text before each measurement.

    Attributes:
        rows: candidate -> kind -> milliseconds a step.
        notes: what there is to say beside them.
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
        times = dict.fromkeys([*KINDS, OTHER], 0.0)
        for event in profiler.key_averages():
            kind = _KIND_OF.get(event.key, OTHER if event.key.startswith("aten::") else OVERHEAD)
            times[kind] += _microseconds(event, device) / 1e3 / STEPS
        ordered = sorted(times.items(), key=lambda pair: -pair[1])
        return {"step alone": 1e3 * alone, "profiled": sum(times.values()), **dict(ordered)}


def _microseconds(event, device) -> float:
    """The time of an operation without those that it calls, on the device."""
    if device.type == "cpu":
        return event.self_cpu_time_total
    named = getattr(event, "self_device_time_total", None)
    return event.self_cuda_time_total if named is None else named  # PyTorch before 2.4
