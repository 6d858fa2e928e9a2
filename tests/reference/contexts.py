"""Contexts and their next tokens, counted in dictionaries."""

from collections import Counter, defaultdict


def count(documents, length):
    """Next tokens of each context of `length` tokens, or of each beginning of a document (all)."""
    found = defaultdict(Counter)
    for document in documents:
        for end in range(1, len(document)):
            if length == "all":
                found[tuple(document[:end])][document[end]] += 1
            elif end >= length:
                found[tuple(document[end - length : end])][document[end]] += 1
    return {context: dict(following) for context, following in found.items()}
