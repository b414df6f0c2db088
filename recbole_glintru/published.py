"""Weights of the authors' published code, in the models of this package.

Each model names, in `published_names`, how a parameter of the published implementation is called here, and turns the
few that have another shape with `convert_published`.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn


def translate(model: nn.Module, name: str) -> str:
    """The name that a parameter of the published code has in `model`."""
    for pattern, replacement in model.published_names:
        name = re.sub(pattern, replacement, name)
    return name


def load_published(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load a `state_dict` of the published code into `model`.

    Raises:
        RuntimeError: a parameter is missing, is left over or has another shape; the names are in the message.
    """
    own: dict[str, Tensor] = {translate(model, name): tensor for name, tensor in state_dict.items()}
    model.load_state_dict({name: model.convert_published(name, tensor) for name, tensor in own.items()})
