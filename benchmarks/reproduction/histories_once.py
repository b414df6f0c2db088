"""Sampled evaluation of a model that `accelerate` refuses, as LightSANs: each history is scored once.

RecBole's `predict` receives a history again for every candidate. The padding of a model whose scores change with it
cannot be cut, but a history need not be encoded a hundred times: `full_sort_predict` scores all items for each distinct
history, and the candidates' scores are read from there.
"""

import torch
from torch import Tensor

from recbole_glintru.ops.histories.distinct_rows import distinct_rows

RELATIVE, ABSOLUTE = 1e-4, 1e-5  # float32, with the product with the item table in another order


class HistoriesOnce:
    """Replaces `model.predict`, if it gives the same scores for the first batch.

    Attributes:
        state: "unknown" before the first batch, "used", or "differs": the model's own `predict` is used.
    """

    def __init__(self, model):
        self.model, self.predict, self.state = model, model.predict, "unknown"
        model.predict = self.scores

    def scores(self, interaction) -> Tensor:
        """`[B]`, like the result of `predict`."""
        if self.state == "differs":
            return self.predict(interaction)
        model = self.model
        columns = [interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN]]
        first, inverse = distinct_rows(columns)
        all_items = model.full_sort_predict(interaction[first]).view(len(first), -1)
        scores = all_items[inverse, interaction[model.ITEM_ID]]
        if self.state == "unknown":
            plain = self.predict(interaction)
            same = torch.allclose(plain, scores, rtol=RELATIVE, atol=ABSOLUTE)
            self.state = "used" if same else "differs"
            return plain
        return scores
