"""Counting the multiply-adds of matrix products as they are executed."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_FACTORS = {  # positions of the two factors among the arguments
    _aten.mm: (0, 1),
    _aten.bmm: (0, 1),
    _aten.addmm: (1, 2),
    _aten.addmm_: (1, 2),
    _aten.baddbmm: (1, 2),
}


class CountMultiplyAdds(TorchDispatchMode):
    """Inside the block, `total` grows with every matrix product and convolution, in whatever module or function.

    Causal attention counts as full attention, as if the masked half were computed.

    PyTorch's own FlopCounterMode does the same from 2.4 on; before, it fails on products into given buffers (`out=`).
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        packet = function.overloadpacket
        if packet in _FACTORS:
            left, right = (args[index] for index in _FACTORS[packet])
            self.total += left.numel() * right.shape[-1]
        elif packet.__name__.startswith("_scaled_dot_product"):  # PyTorch has one name per backend
            query, key, value = args[:3]  # [B, h, T or L, e] each
            self.total += query[..., 0].numel() * key.shape[-2] * (key.shape[-1] + value.shape[-1])
        elif packet is _aten.convolution:
            self.total += result.numel() * args[1][0].numel()
        return result
