"""Whether to merge the GRU's input projection into its kernel: an upper bound on what that could save.

Separately, the product of all steps is written once and read once by the kernel. Merged, it would stay on the chip.
That traffic is all that a merged kernel could save, and it would have to hold the projection's weights on the chip too.
"""

import torch

from measure import report, timing
from measure.card import TYPES, WIDTHS, true_lengths
from recbole_glintru.ops import tensor_cores
from recbole_glintru.ops.layouts.compact import Compact

HEADER = ["pass", "products, ms", "written and read, ms", "kernel, ms", "joining saves at most"]


def projection(options):
    """Times of the products, of a copy as large as their result, and of the kernel that reads it."""
    for name in WIDTHS:
        lengths, longest, d = true_lengths(name, options)
        layout, rows = Compact(lengths, longest), []
        for kind, dtype in TYPES.items():
            with tensor_cores.tf32_products(torch.empty(0, device=options.device)):
                for direction, *actions in _passes(layout, d, dtype, options.device):
                    products, copy, kernel = (
                        timing.device_and_clock(action, options.device).device for action in actions
                    )
                    figures = [report.figure(1e3 * seconds) for seconds in (products, copy, kernel)]
                    share = copy / (products + kernel)
                    rows.append([f"{direction}, {kind}", *figures, f"{100 * share:.1f} %"])
        title = f"Input projection, {name} shape: {len(layout.ranks)} positions of {len(lengths)} histories, d={d}"
        yield title, HEADER, rows


def _passes(layout, d, dtype, device):
    """Forward and backward: the products before the kernel, a copy of what they write, and the kernel."""
    from recbole_glintru.ops.gru import triton_gru

    count, where = len(layout.ranks), triton_gru.places(layout)
    x, states, grad_states = (torch.randn(count, d, device=device).to(dtype) for _ in range(3))
    weight_ih, weight_hh = ((torch.randn(3 * d, d, device=device) * d**-0.5).to(dtype) for _ in range(2))
    for width, kernel in ((3 * d, triton_gru.gru_forward), (4 * d, triton_gru.gru_backward)):
        gates, other = (torch.zeros(count, width, device=device, dtype=dtype) for _ in range(2))
        last = (states,) if width == 3 * d else (states, grad_states)

        def forward(gates=gates):
            torch.mm(x, weight_ih.T, out=gates)

        def backward(gates=gates):  # as in `triton_gru`
            torch.mm(states, weight_hh.T, out=gates[:, : 3 * d])
            gates[:, d : 3 * d].addmm_(x, weight_ih[: 2 * d].T)
            torch.mm(x, weight_ih[2 * d :].T, out=gates[:, 3 * d :])

        def launch(kernel=kernel, tensors=(gates, weight_hh, *last)):
            triton_gru.launch(kernel, tensors, where, d)

        products = forward if width == 3 * d else backward
        products()
        yield ("forward" if width == 3 * d else "backward"), products, lambda a=gates, b=other: b.copy_(a), launch
