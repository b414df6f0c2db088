"""`torch.compile` for a part of a model whose tensors have the same shapes in nearly every batch."""

import warnings
from typing import Callable, Optional

import torch
from torch import Tensor

from recbole_glintru.ops.tracing import is_traced


class CompiledForOneShape:
    """A function of a module and tensors, compiled for the shapes of its first call; other shapes run uncompiled.

    The last batch of an epoch is smaller than the others. Compiling for it too, or for any size, would take longer
    than it saves. If compiling fails, as without a compiler, one warning is given and the function runs uncompiled.

    Args:
        function: takes the module and the tensors; it must be importable by name, so that it can be pickled.
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
            result = self._function(module, *tensors)  # an error of the function itself is raised here
            warnings.warn(f"torch.compile failed and is not used: {type(error).__name__}: {error}", stacklevel=2)
            self._compiled = self._function
            return result

    def __reduce__(self):
        """Copies start uncompiled: compiled code belongs to the module that it was compiled for."""
        return type(self), (self._function,)
