"""Common to the measurements of kernels: shapes, types, and the ceilings of the card."""

import torch

from measure import shapes, timing
from recbole_glintru.ops.histories import host_lengths

WIDTHS = {"ml-1m": (200, 128), "beauty": (100, 64)}  # longest history, hidden size
TYPES = {"float32 (TF32)": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def true_lengths(name, options):
    """Lengths of a batch of training histories `[B] int64`, their upper limit, and the hidden size."""
    longest, width = (12, 32) if options.small else WIDTHS[name]
    rows = 20 if options.small else options.batch_size
    on_host = shapes.training_lengths(shapes.SHAPES[name], rows, longest)
    lengths = torch.as_tensor(on_host, device=options.device)
    return host_lengths.remember(lengths, on_host), longest, width  # as in training


def ceilings(options):
    """The ceilings of the card in operations and bytes per second; products also go into `options.ceilings`."""
    device, size = options.device, 256 if options.small else 8192
    heated = torch.randn(size, size, device=device)
    timing.warm_up(lambda: heated @ heated, device)
    rows = []
    for name, dtype in TYPES.items():
        options.ceilings[dtype] = timing.product_rate(device, size, timing.MOST, dtype)
        rows.append([f"product, {name}", f"{options.ceilings[dtype] / 1e12:,.1f} TFLOP/s"])
    target = torch.empty_like(heated)
    seconds = timing.device_and_clock(lambda: target.copy_(heated), device).device
    rows.append(["copy, read and written", f"{8 * size * size / seconds / 1e12:,.2f} TB/s"])
    yield "Ceilings", ["of the card", "rate"], rows
