"""Groups of documents by their definition, with plain lists."""


def label_offsets(lengths, block):
    """Flat offsets of all labels: columns 1.. of each row within its length."""
    return [
        row * block + column for row, length in enumerate(lengths) for column in range(1, length)
    ]


def weights(starts, lengths, block):
    """Labels of each item that begins at `starts`, the first at 0, and goes on to the next."""
    ends = [*starts[1:], len(lengths) * block]
    offsets = label_offsets(lengths, block)
    return [
        sum(start <= offset < end for offset in offsets)
        for start, end in zip(starts, ends, strict=True)
    ]


def cuts(item_weights, n):
    """Where each group but the first begins: nearest to its share, every group with an item.

    Of two cuts that are as near, the later one.
    """
    total, found = sum(item_weights), []
    for group in range(1, n):
        share = group * total / n
        distance = {
            cut: abs(sum(item_weights[:cut]) - share) for cut in range(1, len(item_weights))
        }
        cut = min(distance, key=lambda cut: (distance[cut], -cut))
        cut = max(cut, found[-1] + 1 if found else 1)
        found.append(cut)
    return [min(cut, len(item_weights) - n + group) for group, cut in enumerate(found, 1)]
