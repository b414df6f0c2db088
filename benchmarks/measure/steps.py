"""A training step of GLINT-RU on a GPU: its time, whether launches bound it, its tail, and a whole epoch."""

import functools
import warnings

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from measure import memory, profiling, report, shapes, timing
from measure.card import WIDTHS
from measure.workload import REFERENCE, Catalogue, Workload, empty_folder, find_settings, make_model
from recbole_glintru import device_data

MOST_LINES = 25


def step(options):
    """Where the time of a training step goes: the kernels that take the most, by name.

    If the GPU is busy for less than the step takes by the clock, the step is bound by launches.
    """
    for name in WIDTHS:
        workload, train = _trained(name, options)
        for precision in (None, torch.bfloat16):
            action = functools.partial(train, precision)
            action()
            rows, busy = _profile(action, options.device)
            seconds = timing.device_and_clock(action, options.device).clock
            rows.append(["step, by the clock", f"{1e3 * seconds:.3f}", ""])
            rows.append(["busy for so much of it", f"{100 * busy / (1e3 * seconds):.0f} %", ""])
            rate, ceiling = train.operations / seconds, options.ceilings.get(precision or torch.float32)
            rows.append(["least operations of a step, TFLOP/s", report.figure(rate / 1e12), ""])
            if ceiling is not None:
                rows.append(["of the ceiling of such products", f"{100 * rate / ceiling:.1f} %", ""])
            yield f"A training step, {workload.title}, {_named(precision)}", ["kernel", "ms", "launches"], rows


def compiled(options):
    """A training step with the part after the experts as it is, and compiled; an error if that falls back."""
    for name in WIDTHS:
        workload, train = _trained(name, options)
        for precision in (None, torch.bfloat16):
            action, times = functools.partial(train, precision), []
            for compile_tail in (False, True):
                for block in train.model.blocks:
                    block.compile_tail = compile_tail
                with warnings.catch_warnings():
                    warnings.filterwarnings("error", message="torch.compile failed")
                    action()
                times.append(timing.device_and_clock(action, options.device))
            figures = [report.milliseconds(seconds) for pair in times for seconds in pair]
            header = ["step", "GPU, ms", "clock, ms", "compiled: GPU, ms", "compiled: clock, ms"]
            yield f"compile_tail, {workload.title}, {_named(precision)}", header, [[_named(precision), *figures]]


def _named(precision):
    return "float32 (TF32)" if precision is None else str(precision).partition(".")[2]


def _trained(name, options):
    """A workload, and a training step of GLINT-RU on one of its batches."""
    with empty_folder() as folder:
        workload = _workload(name, options, folder)
        model, loader = workload.model(REFERENCE), workload.training_loader(REFERENCE)
        with device_data.on_request({"data_on_device": True}, loader, options.device):
            batch = next(iter(loader))
    return workload, _Step(workload, model, batch)


class _Step:
    """A training step, called with the type of autocast or None; `operations` is the minimum that it needs."""

    def __init__(self, workload, model, batch):
        self.model, self.batch, self.optimiser = model, batch, torch.optim.Adam(model.parameters())
        positions = int(batch["item_length"].clamp(max=workload.longest).sum())
        kernel_size, layers = (workload.settings_of_reference[key] for key in ("kernel_size", "n_layers"))
        sizes = (positions, len(batch), workload.items, workload.width)
        self.operations = timing.least_operations(*sizes, kernel_size, layers)

    def __call__(self, precision):
        memory.training_step(self.model, self.optimiser, self.batch, precision)


def _profile(train, device):
    """Rows of the table, and the milliseconds of all kernels."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu) as recorded:
        train()
        if on_gpu:
            torch.cuda.synchronize()
    if on_gpu:
        events = profiling.gpu_kernels(recorded)
    else:
        events = [(event.key, event.self_cpu_time_total / 1e3, event.count) for event in recorded.key_averages()]
    events = sorted((event for event in events if event[1] > 0), key=lambda event: -event[1])
    rows = [[key[:90], f"{time:.3f}", str(count)] for key, time, count in events[:MOST_LINES]]
    busy, launches = sum(time for _, time, _ in events), sum(count for *_, count in events)
    return [*rows, ["all", f"{busy:.3f}", str(launches)]], busy


def tail(options):
    """The part of a step after the experts, at the last positions alone: as it is, compiled, and as a CUDA graph.

    Its shapes are the same in every batch, and a graph is one launch in each direction.
    """
    device, rows = options.device, 20 if options.small else options.batch_size
    for name, (_, d) in WIDTHS.items():
        config = find_settings(REFERENCE, shapes.SHAPES[name].dataset, device, {"hidden_size": d})
        block = make_model(REFERENCE, config, Catalogue(100), device).blocks[-1]
        inputs = [torch.randn(rows, d, device=device, requires_grad=True) for _ in range(3)]
        kinds = {"as it is": lambda module, _: module}
        if device.type == "cuda":
            kinds["torch.compile"] = lambda module, _: torch.compile(module)
            kinds["CUDA graph"] = functools.partial(torch.cuda.make_graphed_callables, allow_unused_input=True)
        found = []
        for kind, make in kinds.items():
            try:
                # Without its cache, autocast casts the weights inside the graph.
                with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
                    action = functools.partial(_forward_and_backward, make(_Tail(block), tuple(inputs)), inputs)
                    action()  # compiles
                    times = timing.device_and_clock(action, device)
                    found.append([kind, *map(report.milliseconds, times)])
            except Exception as error:
                found.append([kind, f"{type(error).__name__}: {str(error)[:80]}", ""])
        yield f"Behind the experts, {rows} rows, d={d}, bfloat16", ["run", "GPU, ms", "clock, ms"], found


class _Tail(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x, recurrent, attention):
        return self.block._after_experts(x, recurrent, attention)


def _forward_and_backward(module, inputs):
    out = module(*inputs)
    wanted = [*inputs, *(weight for weight in module.parameters() if weight.requires_grad)]
    torch.autograd.grad(out.float().sum(), wanted, allow_unused=True)


def epoch(options):
    """RecBole's trainer, scaled to a whole epoch, with the training data in main memory and on the GPU."""
    for name in WIDTHS:
        rows = []
        with empty_folder() as folder:
            workload = _workload(name, options, folder)
            for switch in (False, True):
                model, loader = workload.model(REFERENCE), workload.training_loader(REFERENCE)
                trainer = workload.trainer(REFERENCE, model)
                with device_data.on_request({"data_on_device": switch}, loader, options.device):
                    train = functools.partial(trainer._train_epoch, loader, 0)
                    train()
                    seconds = timing.one_turn(train, options.device)
                share = workload.training_rows / len(loader._dataset)
                rows.append([str(switch), report.figure(1e3 * seconds / len(loader)), report.figure(seconds * share)])
        yield f"RecBole's trainer, {name} shape", ["data_on_device", "step, ms", "epoch, s"], rows


def _workload(name, options, folder):
    rows = 2000 if options.small else 10 * options.batch_size
    shape = shapes.SHAPES[name]
    shapes.write_atomic_files(shape, folder, min(shape.users, rows * shape.users // shape.training_rows + 1))
    batch_size = 64 if options.small else options.batch_size
    changes = {"hidden_size": 32, "MAX_ITEM_LIST_LENGTH": 12} if options.small else {}
    return Workload(f"{name} shape", shape.dataset, folder, options.device, batch_size, shape, (REFERENCE,), changes)
