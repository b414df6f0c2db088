"""GLINT-RU written down plainly from its equations: every position, loops over heads and steps, no shortcut."""

import torch
import torch.nn.functional as F


def encode(model, item_seq, item_seq_len):
    """What `model.encode` must give in evaluation mode: `[B, L]`, `[B]` -> `[B, d]`."""
    states = []
    for row, length in zip(item_seq, item_seq_len.tolist()):
        visible = length if model.length_invariant else len(row)
        x = model.item_embedding.weight[row[:visible]]
        for each in model.blocks:
            x = block(each, x)
        states.append(x[length - 1])
    return torch.stack(states)


def block(layer, x):
    """Eq. 10 to 12, with the published residuals and LayerNorms: one history `[L, d]` -> `[L, d]`."""
    experts = []
    if layer.recurrent_expert is not None:
        experts.append(recurrent(layer.recurrent_expert, x))
    if layer.attention_expert is not None:
        experts.append(attend(layer.attention_expert, x))
    if len(experts) == 2:
        alpha = torch.softmax(layer.expert_mixing.logits, 0)
        experts = [alpha[0] * experts[0] + alpha[1] * experts[1]]
    gate = layer.data_aware_gate
    z = F.gelu(gate.gate(x)) * experts[0]
    z = layer.gate_norm((z if gate.output is None else gate.output(z)) + x)
    if layer.gated_mlp is None:
        return z
    mlp = layer.gated_mlp
    norm = layer.gate_norm if layer.mlp_norm is None else layer.mlp_norm
    return norm(mlp.output(mlp.value(z) * F.gelu(mlp.gate(z))) + z)


def convolve(conv, x):
    """The convolution of eq. 5 and 8 over one history, tap by tap: `[L, d]` -> `[L, d]`."""
    if not hasattr(conv, "weight"):
        return x
    reach, rows = conv.weight.shape[2] // 2, []
    for t in range(len(x)):
        y = conv.bias
        for j in range(conv.weight.shape[2]):
            if 0 <= t + j - reach < len(x):
                y = y + conv.weight[:, :, j] @ x[t + j - reach]
        rows.append(y)
    return torch.stack(rows)


def recurrent(expert, x):
    """Y, eq. 5 to 9, of one history, step by step: `[L, d]` -> `[L, d]`."""
    c = convolve(expert.input_conv, expert.input_projection(x))
    h = c
    for weight_ih, weight_hh, *biases in expert.gru.all_weights:
        bias_ih, bias_hh = biases or (0.0, 0.0)
        state, states = torch.zeros(h.shape[1], dtype=x.dtype), []
        for step in h:
            i_r, i_z, i_n = (weight_ih @ step + bias_ih).chunk(3)
            h_r, h_z, h_n = (weight_hh @ state + bias_hh).chunk(3)
            r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
            state = (1 - z) * torch.tanh(i_n + r * h_n) + z * state
            states.append(state)
        h = torch.stack(states)
    gate = expert.selective_gate
    return convolve(expert.output_conv, gate.expand(gate.activation(gate.reduce(c))) * expert.channel_crossing(h))


def attend(expert, x):
    """A', eq. 2, of one history, head by head: `[L, d]` -> `[L, d]`."""
    attention = expert.attention
    heads = []
    for q, k, v in zip(*(p(x).chunk(attention.n_heads, 1) for p in (attention.query, attention.key, attention.value))):
        q, k = F.elu(q), F.elu(k)
        q = q / (q.norm(dim=1, keepdim=True) * q.shape[1] ** 0.5)
        k = k / (k.norm(dim=1, keepdim=True) if attention.key_norm == "position" else k.norm(dim=0) * len(x) ** 0.5)
        heads.append(q @ (k.T @ v))
    context = torch.cat(heads, 1)
    return expert.norm(expert.output(context) + x) if expert.output_block else context
