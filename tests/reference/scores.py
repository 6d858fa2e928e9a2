"""Scores of one answer by the page: word by word, nothing shared with the package."""

import string


def words(text, *, keep=True):
    """Of the normalised text; with `keep`, a text of articles and punctuation keeps them."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    left = [word for word in bare.split() if word not in ("a", "an", "the")]
    return left if left or not keep else text.lower().split()


def first_words(text):
    """The first line, up to the 32nd word."""
    line = text.strip().split("\n")[0]
    return " ".join(line.split()[:32])


def f1(gold, said):
    """In percent, from precision and recall."""
    left, common = list(said), 0
    for word in gold:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(said), common / len(gold)
    return 100 * 2 * precision * recall / (precision + recall)


def in_a_row(gold, said):
    """Whether the words stand in the other's words in a row."""
    return any(said[i : i + len(gold)] == gold for i in range(len(said) - len(gold) + 1))


def scores(answers, prediction):
    """(match_paper, f1_paper, match_norm, em_norm, f1_max)."""
    said = words(first_words(prediction))
    gold = [words(alias) for alias in answers]
    return (
        int(any(prediction.find(alias) != -1 for alias in answers)),
        f1(words(answers[0], keep=False), words(prediction, keep=False)),
        int(any(in_a_row(alias, said) for alias in gold)),
        int(any(alias == said for alias in gold)),
        max(f1(alias, said) for alias in gold),
    )
