"""Weights of the authors' published code, in the models of this package.

Each model maps the parameter names of the published implementation to its own in `published_names`, and converts the
few parameters that have another shape in `convert_published`.
"""

import re
from collections.abc import Mapping
from typing import Union

import numpy as np
import torch
from torch import Tensor, nn


def translate(model: nn.Module, name: str) -> str:
    """The name that a parameter of the published code has in `model`."""
    for pattern, replacement in model.published_names:
        name = re.sub(pattern, replacement, name)
    return name


def load_published(model: nn.Module, state_dict: Mapping[str, Union[Tensor, np.ndarray]]) -> None:
    """Load a `state_dict` of the published code into `model`.

    Args:
        state_dict: tensors, or NumPy arrays, by the published names.

    Raises:
        RuntimeError: a parameter is missing, left over or of another shape; the message lists the names.
    """
    own: dict[str, Tensor] = {translate(model, name): torch.as_tensor(values) for name, values in state_dict.items()}
    model.load_state_dict({name: model.convert_published(name, tensor) for name, tensor in own.items()})
