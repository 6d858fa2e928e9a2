"""The Transformer one query at a time, from the definition of what is visible."""

import math

import torch
from torch import Tensor


def naive_embed(model, inputs: Tensor, lengths: list[int], prefix: list[int]) -> Tensor:
    """Embeddings of real positions; NaN at padding."""
    rows = [
        _row(model, inputs[b, : lengths[b]], prefix[b], inputs.shape[1]) for b in range(len(inputs))
    ]
    return torch.stack(rows)


def _row(model, tokens: Tensor, prefix: int, n_positions: int) -> Tensor:
    config = model.config
    length = len(tokens)
    stream = [model.token_embedding[tokens[t]] + model.position_embedding[t] for t in range(length)]
    for i, block in enumerate(model.blocks):
        window = config.window if i % 2 == 1 and config.window > 0 else math.inf
        normed = [block.attention_norm(x) for x in stream]
        query, key, value = zip(*(block.query_key_value(x).chunk(3) for x in normed), strict=True)
        size = config.width // config.heads
        scale = 1 / math.sqrt(size) if config.scale_attention else 1.0
        for q in range(length):
            seen = [k for k in range(length) if (k <= q or k < prefix) and abs(q - k) < window]
            parts = []
            for head in range(config.heads):
                cut = slice(head * size, (head + 1) * size)
                logits = [scale * query[q][cut] @ key[k][cut] for k in seen]
                weights = torch.stack(logits).softmax(0)
                parts.append(sum(w * value[k][cut] for w, k in zip(weights, seen, strict=True)))
            stream[q] = stream[q] + block.attention_out(torch.cat(parts))
        stream = [x + block.mlp_out(_gelu(block.mlp_in(block.mlp_norm(x)))) for x in stream]
    embeddings = torch.full((n_positions, config.width), math.nan, dtype=stream[0].dtype)
    for t in range(length):
        embeddings[t] = model.norm(stream[t])
    return embeddings


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
