"""Blocks by their definitions, with plain lists."""


def published(documents, block, shards):
    """Contiguous shards, groups of 1,000 documents, no separators, remainders dropped."""
    rows = []
    for shard in contiguous(documents, shards):
        for group in chunks(shard, 1_000):
            line = [token for document in group for token in document]
            rows += [row for row in chunks(line, block) if len(row) == block]
    return rows


def packed(documents, block, end, bos=None):
    """Documents with `end` between them, each row behind `bos`; the last row may be short."""
    line = []
    for document in documents:
        if document:
            between = [end] if line and end is not None else []
            line += between + document
    first = [] if bos is None else [bos]
    return [first + row for row in chunks(line, block - len(first))]


def label_counts(rows, n_classes):
    """How often each token stands at position 1 or later of a row without its padding."""
    labels = [token for row in rows for token in row[1:]]
    return [labels.count(token) for token in range(n_classes)]


def contiguous(items, n):
    """Split in n runs, the first `len(items) % n` of them one longer."""
    runs, rest = [], list(items)
    for index in range(n):
        size = len(items) // n + (1 if index < len(items) % n else 0)
        runs.append(rest[:size])
        rest = rest[size:]
    return runs


def chunks(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]
