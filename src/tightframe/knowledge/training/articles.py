"""An article as passages that a model can be taught: paragraphs, long ones divided at sentences."""

import re

PASSAGE = 100  # words of a passage, at most


def passages(article: str, *, longest: int = PASSAGE) -> list[str]:
    """The text in order, every word once; a passage crosses no empty line.

    Args:
        article: Paragraphs with empty lines between them; a heading is one, too.
        longest: Words of a passage. Sentences are put together up to it; one that is longer by
            itself is cut.
    """
    made = []
    for paragraph in re.split(r"\n\s*\n", article):
        held: list[str] = []
        for sentence in re.split(r"(?<=[.!?])\s+", paragraph.strip()):
            words = sentence.split()
            if len(held) + len(words) > longest:
                made.append(held)
                held = []
            while len(words) > longest:
                made.append(words[:longest])
                words = words[longest:]
            held = [*held, *words]
        made.append(held)
    return [" ".join(words) for words in made if words]
