"""SSE-PT: a personalised Transformer, regularised by stochastic shared embeddings."""

import math
from typing import Optional

import torch
import torch.nn.functional as F
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_glintru import settings
from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.layers.feed_forward import FeedForward
from recbole_glintru.layers.position_embedding import PositionEmbedding
from recbole_glintru.models.base import NextItemRecommender
from recbole_glintru.ops.histories.positions import at_position, valid_positions


def replace_at_random(ids: Tensor, probability: float, count: int) -> Tensor:
    """Stochastic shared embeddings (arXiv:1905.10630): replace some ids by random ones, which share embeddings thereby.

    Args:
        ids: any shape, int64; 0 is padding and stays.
        probability: that an id is replaced.
        count: the number of ids; a replacement is drawn from 1 to count-1.

    Returns:
        A tensor like `ids`.
    """
    replaced = (torch.rand(ids.shape, device=ids.device) < probability) & (ids > 0)
    return torch.where(replaced, torch.randint_like(ids, 1, count), ids)


class CausalAttention(nn.Module):
    """Multi-head softmax attention to the past; as published, without an output layer.

    Args:
        hidden_size: d.
        n_heads: h, a divisor of d.
        dropout_prob: dropout on the attention weights.
    """

    def __init__(self, hidden_size: int, n_heads: int, dropout_prob: float):
        super().__init__()
        self.n_heads = n_heads
        self.dropout = nn.Dropout(dropout_prob)  # not called: PyTorch's attention takes its probability
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)  # a key's bias has no effect on the softmax
        self.value = nn.Linear(hidden_size, hidden_size)

    def forward(self, queries: Tensor, x: Tensor, visible: Optional[Tensor] = None) -> Tensor:
        """Attend from `queries` to `x`.

        Args:
            queries: `[B, T, d]`.
            x: `[B, L, d]`.
            visible: `[B, L] bool`, the positions that all queries see; None if query t belongs to position t.

        Returns:
            `[B, T, d]`.
        """
        query, key, value = (
            projection(source).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # [B, h, T or L, d/h]
            for projection, source in ((self.query, queries), (self.key, x), (self.value, x))
        )
        context = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if visible is None else visible[:, None, None, :],
            is_causal=visible is None,
            dropout_p=self.dropout.p if self.dropout.training else 0.0,
        )
        return context.transpose(1, 2).flatten(-2)


class SSEPTBlock(nn.Module):
    """Attention and feed-forward network, each after a LayerNorm whose output is also the residual, as published."""

    def __init__(self, config, hidden_size: int):
        super().__init__()
        dropout_prob = settings.probability(config, "hidden_dropout_prob")
        layer_norm_eps = settings.number(config, "layer_norm_eps")
        self.attention_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.attention = CausalAttention(
            hidden_size,
            n_heads=settings.integer(config, "n_heads"),
            dropout_prob=settings.probability(config, "attn_dropout_prob"),
        )
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.feed_forward = FeedForward(
            hidden_size,
            inner_size=hidden_size,
            activation="relu",
            dropout_prob=dropout_prob,
            layer_norm_eps=None,
            inner_dropout_prob=dropout_prob,
        )

    def forward(self, x: Tensor, queries: Tensor, visible: Optional[Tensor] = None) -> Tensor:
        """x `[B, L, d]`; queries `[B, T, d]`, some positions of x; visible: see `CausalAttention` -> `[B, T, d]`."""
        queries = self.attention_norm(queries)  # keys and values are those of x itself
        return self.feed_forward(self.feed_forward_norm(self.attention(queries, x, visible) + queries))


class SSEPT(NextItemRecommender):
    """SSE-PT: Sequential Recommendation Via Personalized Transformer (RecSys 2020, arXiv:1908.05435).

    SASRec on tokens [item; user]: the score of an item is the dot product of [item; sqrt(d_u) user] with the last
    state, of tokens [sqrt(d) item; sqrt(d_u) user] with positions. What differs from the published code, and why:

    * Histories are padded on the right, and position 0 is the oldest item instead of the first of
      `MAX_ITEM_LIST_LENGTH` slots, so the state depends on the history alone.
    * Padding is masked by its position. The published code masks vectors that sum to zero, which includes others.
    * The losses are those of the last position of each example: RecBole's softmax over all items (`CE`), `BPR`, or
      the authors' binary cross-entropy with one negative (`BCE`). The authors train on every position of a sequence.
    * If an item of a history is replaced at random, the target is kept; the published code replaces both.
    * In the last block only the last position is a query, which does not change the results.
    * Adam is RecBole's, with beta2 = 0.999; the authors use 0.98.

    The part of a score that comes from the user alone is the same for all items: a state consists of the part for the
    items, followed by that number.

    Settings: see `properties/model/SSEPT.yaml`.
    """

    losses = {**NextItemRecommender.losses, "BCE": InputType.PAIRWISE}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.n_users = dataset.num(self.USER_ID)
        self.user_hidden_size = self.hidden_size
        if config["user_hidden_size"] is not None:
            self.user_hidden_size = settings.integer(config, "user_hidden_size")
        joint_size = self.hidden_size + self.user_hidden_size
        n_heads = settings.integer(config, "n_heads")
        if joint_size % n_heads:
            raise ValueError(f"n_heads={n_heads}: must be a divisor of hidden_size + user_hidden_size={joint_size}.")
        self.sse_item_prob = settings.probability(config, "sse_item_prob")
        self.sse_user_prob = settings.probability(config, "sse_user_prob")

        self.user_embedding = nn.Embedding(self.n_users, self.user_hidden_size)
        self.position_embedding = PositionEmbedding(settings.integer(config, "MAX_ITEM_LIST_LENGTH"), joint_size)
        self.input_dropout = Dropout(settings.probability(config, "hidden_dropout_prob"))
        self.blocks = nn.ModuleList(SSEPTBlock(config, joint_size) for _ in range(settings.integer(config, "n_layers")))
        self.output_norm = nn.LayerNorm(joint_size, eps=settings.number(config, "layer_norm_eps"))
        self.apply(self._initialise)
        nn.init.zeros_(self.item_embedding.weight[0].detach())

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def history(self, interaction):
        """`item_seq [B, L]`, `item_seq_len [B]` and the user's id `[B]`."""
        return (*super().history(interaction), interaction[self.USER_ID])

    def encode(self, item_seq: Tensor, item_seq_len: Tensor, user_id: Tensor) -> Tensor:
        """The state at the last item, and the score that comes from the user alone.

        Args:
            item_seq: `[B, L] int64`, right-padded with 0.
            item_seq_len: `[B] int64`, each from 1 to L.
            user_id: `[B] int64`.

        Returns:
            `[B, d + 1]`, with d = `hidden_size`.

        Raises:
            ValueError: L is greater than `MAX_ITEM_LIST_LENGTH`.
        """
        if self.training:
            item_seq = replace_at_random(item_seq, self.sse_item_prob, self.n_items)
            user_id = replace_at_random(user_id, self.sse_user_prob, self.n_users)
        length = item_seq.shape[1]
        items = self.item_embedding(item_seq) * math.sqrt(self.hidden_size)
        user = self.user_embedding(user_id) * math.sqrt(self.user_hidden_size)
        x = torch.cat([items, user.unsqueeze(1).expand(-1, length, -1)], dim=-1)
        x = self.input_dropout(x + self.position_embedding(length))
        *below, top = self.blocks
        for block in below:
            x = block(x, queries=x)
        last = at_position(x, item_seq_len - 1).unsqueeze(1)
        last = top(x, queries=last, visible=valid_positions(item_seq_len, length)).squeeze(1)
        for_items, for_user = self.output_norm(last).split([self.hidden_size, self.user_hidden_size], dim=-1)
        return torch.cat([for_items, (for_user * user).sum(dim=-1, keepdim=True)], dim=-1)

    def score_items(self, state: Tensor, items: Tensor) -> Tensor:
        """Scores of one item per row: state `[B, d + 1]`, items `[B]` -> `[B]`."""
        return super().score_items(state[:, :-1], items) + state[:, -1]

    def catalogue(self) -> tuple[Tensor, None]:
        """The item table with a column of ones, by which the user's part of the score is multiplied: `[V, d + 1]`."""
        items = self.item_embedding.weight
        return torch.cat([items, items.new_ones(len(items), 1)], dim=1), None
