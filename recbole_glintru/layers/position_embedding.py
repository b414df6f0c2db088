"""Learned embeddings of the positions of a history, as in LinRec (arXiv:2411.01537) and SSE-PT (arXiv:1908.05435)."""

import torch
from torch import Tensor, nn


class PositionEmbedding(nn.Embedding):
    """One vector per position; position 0 is the oldest item of a right-padded history.

    Args:
        length: the largest L, `MAX_ITEM_LIST_LENGTH`.
        hidden_size: d.
    """

    def __init__(self, length: int, hidden_size: int):
        super().__init__(length, hidden_size)

    def forward(self, length: int) -> Tensor:
        """The vectors of the positions 0 to length-1: `[length, d]`.

        Raises:
            ValueError: there are fewer positions than `length`.
        """
        if length > self.num_embeddings:
            raise ValueError(
                f"histories of {length} positions: the model was built for MAX_ITEM_LIST_LENGTH={self.num_embeddings}."
            )
        return super().forward(torch.arange(length, device=self.weight.device))
