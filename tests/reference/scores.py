# ruff: noqa: RUF001 (characters that look alike are what is scored)
"""Scores of one answer by the page: word by word, nothing shared with the package."""

import itertools
import string
import unicodedata

ARTICLES = ("a", "an", "the")


def words(text):
    """Of the published normalised text."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    runs = itertools.groupby(bare, lambda letter: letter.isalnum() or letter == "_")
    kept = ("".join(run) for _, run in runs)
    return "".join(" " if run in ARTICLES else run for run in kept).split()


def spelled(text):
    """The words of the corrected scores with their articles, one character after the other."""
    parted = ""
    for i, letter in enumerate(text):
        raised = unicodedata.decomposition(letter).startswith(("<super>", "<sub>", "<fraction>"))
        if raised and unicodedata.category(letter) == "No" and text[:i][-1:].isdecimal():
            parted += " "
        parted += "'" if letter in "´ʹʻʼʽʾʿ" else letter
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", parted).casefold())
    letters = []
    for letter in plain:
        kind = unicodedata.category(letter)
        if kind == "Cf" or "VARIATION SELECTOR-" in unicodedata.name(letter, ""):
            continue
        if kind == "Pd" or letter == "−":
            letter = "-"
        elif letter.isdecimal():
            letter = str(unicodedata.digit(letter))
        elif (kind.startswith("P") and letter not in ".,٫٬") or letter in "$<=>^`|~⁄":
            letter = "'"
        letters.append({"٫": ".", "٬": ","}.get(letter, letter))
    said = ""
    i = 0
    while i < len(letters):
        end = i
        while end < len(letters) and letters[end] in "-+.,'":
            end += 1
        run = "".join(letters[i:end])
        before = letters[i - 1] if i else " "
        after = "".join(letters[end : end + 4])
        number = after[:1].isdigit()
        if not run:
            said += letters[i]
            end = i + 1
        elif before.isdigit() and number:
            thousands = run == "," and after[:3].isdigit() and len(after[:3]) == 3
            thousands = thousands and not after[3:].isdigit()
            said += "." if run == "." else "" if thousands else " "
        elif number:
            said += sign(run, word=before.isalnum() or before == "_", digit=before.isdigit())
        i = end
    return said.split()


def sign(run, *, word, digit):
    """What stays of the marks between something else than a digit and a digit."""
    point = "." if run.endswith(".") and run[-2:] != ".." and not (word and run == ".") else ""
    rest = run.removesuffix(".") if run.endswith(".") else run
    if rest.endswith("+"):
        return "+" + point
    dash = rest.removesuffix("'")
    if dash.endswith("-") and not (word and dash == "-"):
        return "-" + point
    return point


def corrected(text):
    """The words without the articles that stand before another word."""
    before, comma, last = text.rpartition(",")
    if comma and last.strip().lower() in ARTICLES and (before[-1:].isalnum() or before[-1:] == "_"):
        text = before
    every = spelled(text)
    left = [
        word
        for i, word in enumerate(every)
        if word not in ARTICLES or not any(later not in ARTICLES for later in every[i:])
    ]
    if left:
        return left
    raw = " ".join(text.casefold().split())
    return (raw.rstrip(".") or raw).split()


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


def stands(alias, line):
    """Whether an alias stands in a line, with its articles or without."""
    if in_a_row(corrected(alias), corrected(line)):
        return True
    every = spelled(alias)
    return any(word not in ARTICLES for word in every) and in_a_row(every, spelled(line))


def scores(answers, prediction):
    """(match_paper, f1_paper, match_norm, em_norm, f1_max)."""
    line = first_words(prediction)
    said = corrected(line)
    gold = [corrected(alias) for alias in answers]
    return (
        int(any(prediction.find(alias) != -1 for alias in answers)),
        f1(words(answers[0]), words(prediction)),
        int(any(stands(alias, line) for alias in answers)),
        int(any(alias == said for alias in gold)),
        max(f1(alias, said) for alias in gold),
    )
