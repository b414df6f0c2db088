"""A training step of GLINT-RU on a GPU: its milliseconds, whether launches bound it, its tail, a whole epoch."""

import functools

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from measure import report, shapes, timing
from measure.workload import REFERENCE, Catalogue, Workload, empty_folder, find_settings, make_model
from recbole_glintru import device_data

WIDTHS = {"ml-1m": (200, 128), "beauty": (100, 64)}  # longest history, hidden size
MOST_LINES = 25


def step(options):
    """What each millisecond of a training step is: the kernels that take the most, as they are called.

    A step that keeps the GPU busy for less than it takes by the clock is bound by launches.
    """
    for name in WIDTHS:
        with empty_folder() as folder:
            workload = _workload(name, options, folder)
            model, loader = workload.model(REFERENCE), workload.training_loader(REFERENCE)
            with device_data.on_request({"data_on_device": True}, loader, options.device):
                batch = next(iter(loader))
        optimiser = torch.optim.Adam(model.parameters())
        for precision in (None, torch.bfloat16):
            train = functools.partial(_train, model, optimiser, batch, options.device.type, precision)
            train()
            rows, busy = _profile(train, options.device)
            clock = 1e3 * timing.one_turn(train, options.device)
            rows.append(["step, by the clock", f"{clock:.3f}", ""])
            rows.append(["busy for so much of it", f"{100 * busy / clock:.0f} %", ""])
            if options.device.type == "cuda":  # on a CPU it takes a minute, for nothing
                clock = _with_compiled_tail(model, train, options)
                rows.append(["with compile_tail, by the clock", f"{clock:.3f}", ""])
            yield f"A training step, {name} shape, {precision or 'float32'}", ["kernel", "ms", "launches"], rows


def _train(model, optimiser, batch, device_type, precision):
    with torch.autocast(device_type, precision, enabled=precision is not None):
        loss = model.calculate_loss(batch)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _with_compiled_tail(model, train, options):
    """Milliseconds of a step, once compiled."""
    for block in model.blocks:
        block.compile_tail = True
    train()
    milliseconds = 1e3 * timing.one_turn(train, options.device)
    for block in model.blocks:
        block.compile_tail = False
    return milliseconds


def _profile(train, device):
    """Rows of the table, and the milliseconds of all kernels."""
    kind = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities={ProfilerActivity.CPU, kind}) as recorded:
        train()
        if device.type == "cuda":
            torch.cuda.synchronize()
    events = [(event.key, _own_time(event, kind) / 1e3, event.count) for event in recorded.key_averages()]
    events = sorted((event for event in events if event[1] > 0), key=lambda event: -event[1])
    rows = [[key[:90], f"{time:.3f}", str(count)] for key, time, count in events[:MOST_LINES]]
    busy, launches = sum(time for _, time, _ in events), sum(count for *_, count in events)
    return [*rows, ["all", f"{busy:.3f}", str(launches)]], busy


def _own_time(event, kind):
    """Microseconds; the name of the attribute is another one before PyTorch 2.4."""
    if kind == ProfilerActivity.CPU:
        return event.self_cpu_time_total
    return getattr(event, "self_device_time_total", getattr(event, "self_cuda_time_total", 0))


def tail(options):
    """The part of a step behind the experts, at the last positions alone: as it is, compiled, and as a CUDA graph.

    Its shapes are the same in every batch, and a graph is one launch each way.
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
                # Without its cache, autocast casts the weights inside the graph too.
                with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
                    action = functools.partial(_forward_and_backward, make(_Tail(block), tuple(inputs)), inputs)
                    action()  # compiles
                    found.append([kind, report.figure(1e3 * timing.one_turn(action, device))])
            except Exception as error:
                found.append([kind, f"{type(error).__name__}: {str(error)[:80]}"])
        yield f"Behind the experts, {rows} rows, d={d}, bfloat16", ["run", "step, ms"], found


class _Tail(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x, recurrent, attention):
        return self.block._behind_experts(x, recurrent, attention)


def _forward_and_backward(module, inputs):
    out = module(*inputs)
    wanted = [*inputs, *(weight for weight in module.parameters() if weight.requires_grad)]
    torch.autograd.grad(out.float().sum(), wanted, allow_unused=True)


def epoch(options):
    """RecBole's trainer, scaled to a whole epoch, with the training data in main memory and on the card."""
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
