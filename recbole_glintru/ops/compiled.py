"""`torch.compile` for a part of a model whose tensors have the same shapes in nearly every batch."""

import warnings
from typing import Callable, Optional

import torch
from torch import Tensor

from recbole_glintru.ops.tracing import is_traced


class CompiledForOneShape:
    """A function of a module and tensors, compiled for the shapes of its first call; others are computed as they are.

    The last batch of an epoch is smaller than the others. Compiling for it too, or for any size, would take longer
    than it saves. Where nothing can be compiled, for want of a compiler, a warning says so once.

    Args:
        function: takes the module and the tensors, and is found by its name in its module, as pickle needs it.
    """

    def __init__(self, function: Callable):
        self._function = function
        self._compiled = self._shapes = None

    def __call__(self, module: torch.nn.Module, *tensors: Optional[Tensor]) -> Tensor:
        shapes = [None if tensor is None else tensor.shape for tensor in tensors]
        if is_traced() or shapes != (self._shapes or shapes):
            return self._function(module, *tensors)
        if self._compiled is None:
            self._compiled, self._shapes = torch.compile(self._function, dynamic=False), shapes
        try:
            return self._compiled(module, *tensors)
        except Exception as error:
            result = self._function(module, *tensors)  # whose own errors are not the compiler's
            warnings.warn(f"torch.compile cannot be used, and is not: {type(error).__name__}: {error}", stacklevel=2)
            self._compiled = self._function
            return result

    def __reduce__(self):
        """Copies begin anew: what is compiled belongs to the module that it was compiled for."""
        return type(self), (self._function,)
