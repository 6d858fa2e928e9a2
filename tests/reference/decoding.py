"""Answers and their probabilities by definition: one row at a time, no padding, no batches."""

import torch

from tightframe.lm.interface import IGNORE, Batch


def logits(network, prompt, said):
    """Of every position after which something is said: (tokens said + 1, V), or all slots."""
    coder, layout = network.tokenizer, network.layout
    source = None
    if layout == "slots":
        row = [*prompt, *[coder.slot] * network.n_slots]
        prefix, first = len(row), len(prompt)
    elif layout == "encoder-decoder":
        row, prefix, first = [coder.bos, *said], 0, 0
        source = _batch(prompt, len(prompt))
    else:
        row = [*prompt, *said]
        prefix, first = len(prompt) if layout == "prefix" else 0, len(prompt) - 1
    batch = _batch(row, prefix, source)
    with torch.no_grad():
        return network.model.head(network.model.embed(batch)[0])[first:]


def greedy(network, prompt, n):
    """Tokens and whether the last is EOS."""
    said = []
    for i in range(n):
        every = logits(network, prompt, said)
        if network.layout == "slots" and i == network.n_slots:
            return said, False
        said.append(int(every[i].argmax()))
        if said[-1] == network.tokenizer.eos:
            return said[:-1], True
    return said, False


def log_probability(network, prompt, target):
    every = logits(network, prompt, target[:-1]).double().log_softmax(-1)
    return sum(float(every[i, token]) for i, token in enumerate(target))


def _batch(row, prefix, source=None):
    inputs = torch.tensor([row])
    targets = torch.full_like(inputs, IGNORE)
    return Batch(inputs, targets, torch.tensor([len(row)]), torch.tensor([prefix]), source)
