"""The training loop in its plainest words: whole logits, autograd's cross-entropy, no tricks."""

import math

import torch
import torch.nn.functional as F


def naive_train(model, rows_of_steps, split, settings, learning_rates):
    """Update `model` with the given rows and rates; returns the loss of each step."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()}
    losses = []
    for step, (rows, rate) in enumerate(zip(rows_of_steps, learning_rates, strict=True), 1):
        tokens, lengths = split.rows(rows)
        total, n = 0, 0
        for row, length in zip(tokens, lengths.tolist(), strict=True):
            logits = model.embed(row[None, : length - 1])[0] @ model.classifier.T
            total = total + F.cross_entropy(logits, row[1:length], reduction="sum")
            n += length - 1
        loss = total / n
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
        with torch.no_grad():
            for p in model.parameters():
                gradient = p.grad * min(1.0, settings.clip / norm)
                first, second = moments[p]
                first.lerp_(gradient, 1 - settings.betas[0])
                second.lerp_(gradient.square(), 1 - settings.betas[1])
                first_unbiased = first / (1 - settings.betas[0] ** step)
                second_unbiased = second / (1 - settings.betas[1] ** step)
                if any(p is other for other in decayed):
                    p -= rate * settings.weight_decay * p
                p -= rate * first_unbiased / (second_unbiased.sqrt() + settings.eps)
    assert others
    return losses
