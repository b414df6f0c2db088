"""GLINT-RU written down plainly from its equations: every position, loops over heads and steps, no shortcut."""

import torch
import torch.nn.functional as F


def encode(model, item_seq, item_seq_len):
    """What `model.encode` must give in evaluation mode: `[B, L]`, `[B]` -> `[B, d]`."""
    states = []
    for row, length in zip(item_seq, item_seq_len.tolist()):
        visible = length if model.length_invariant else len(row)
        x = model.item_embedding.weight[row[:visible]]
        for block in model.blocks:
            x = _block(block, x)
        states.append(x[length - 1])
    return torch.stack(states)


def _block(block, x):
    experts = []
    if block.recurrent_expert is not None:
        experts.append(_recurrent(block.recurrent_expert, x))
    if block.attention_expert is not None:
        experts.append(_attention(block.attention_expert, x))
    if len(experts) == 2:
        alpha = torch.softmax(block.expert_mixing.logits, 0)
        experts = [alpha[0] * experts[0] + alpha[1] * experts[1]]
    gate = block.data_aware_gate
    z = F.gelu(gate.gate(x)) * experts[0]
    z = block.gate_norm((z if gate.output is None else gate.output(z)) + x)
    if block.gated_mlp is None:
        return z
    mlp = block.gated_mlp
    norm = block.gate_norm if block.mlp_norm is None else block.mlp_norm
    return norm(mlp.output(mlp.value(z) * F.gelu(mlp.gate(z))) + z)


def _convolve(conv, x):
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


def _recurrent(expert, x):
    c = _convolve(expert.input_conv, expert.input_projection(x))
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
    return _convolve(expert.output_conv, gate.expand(gate.activation(gate.reduce(c))) * expert.channel_crossing(h))


def _attention(expert, x):
    attention = expert.attention
    heads = []
    for q, k, v in zip(*(p(x).chunk(attention.n_heads, 1) for p in (attention.query, attention.key, attention.value))):
        q, k = F.elu(q), F.elu(k)
        q = q / (q.norm(dim=1, keepdim=True) * q.shape[1] ** 0.5)
        k = k / (k.norm(dim=1, keepdim=True) if attention.key_norm == "position" else k.norm(dim=0) * len(x) ** 0.5)
        heads.append(q @ (k.T @ v))
    context = torch.cat(heads, 1)
    return expert.norm(expert.output(context) + x) if expert.output_block else context
