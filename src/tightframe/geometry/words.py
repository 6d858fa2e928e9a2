"""Words that are one token: their numbers in the table of classes, beside those of their like."""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import pandas as pd
from tokenizers import Tokenizer

from tightframe.errors import UserError

# What `words` shows of a token and averages over classes.
_SHOWN = (
    *("count", "cdnv_p2", "cdnv_p2_db", "cdnv", "cdnv_db", "interference", "norm", "duality"),
    "agreement",
)
# Means over the pairs of a class, and how many these are: debiased, classes have unequally many.
_OF_PAIRS = {
    **dict.fromkeys(("cdnv", "cdnv_p2"), "cdnv_pairs"),
    **dict.fromkeys(("cdnv_db", "cdnv_p2_db"), "cdnv_db_pairs"),
}


def words(table: pd.DataFrame, names: Sequence[str], tokenizer: Tokenizer) -> pd.DataFrame:
    """Return the published Table 5: words beside the average class and classes as common.

    Args:
        table: See `class_table`.
        names: Words that are a single token, at the beginning of a text or after a space; of a
            word that is one in both places, both are shown.
        tokenizer: That the ids are of.

    Returns:
        For each token a line of itself and a line of the averages over the other classes whose
        count is within a factor of two (`of` is "token" and "like counts"); at the end the averages
        over all classes (`of` is "all classes"). `classes` is how many are averaged. CDNV are
        averaged over the pairs of these classes, so that the last line has the measures' values;
        everything else over classes.
    """
    lines = []
    for name in names:
        for index in ids_of(name, tokenizer, table["id"].tolist()):
            own = table[table["id"] == index]
            count = int(own["count"].iloc[0])
            like = table[table["count"].between(count / 2, 2 * count) & (table["id"] != index)]
            token = str(own["token"].iloc[0])
            lines.append(_average(own, word=name, token=token, id=index, of="token"))
            lines.append(_average(like, word=name, token=token, id=index, of="like counts"))
    lines.append(_average(table, word="", token="", id=None, of="all classes"))
    return pd.DataFrame(lines).astype({"id": "Int64"})


def known_words(
    names: Sequence[str],
    tokenizer: Tokenizer,
    known: Sequence[int],
    say: Callable[[str], None] | None = None,
) -> list[str]:
    """Return the words that have a class; say of each other one why it has none.

    Args:
        names: See `words`. If none of them has a class, that is refused.
        tokenizer: That the ids are of.
        known: The classes, the commonest first.
        say: Takes a line on each word that is left out.
    """
    classes = frozenset(known)
    found, lines = [], []
    for name in names:
        try:
            ids_of(name, tokenizer, classes)
            found.append(name)
        except UserError as error:
            lines.append(str(error))
    if names and not found:
        common = ", ".join(_common_words(tokenizer, known))
        raise UserError(f"{lines[0]}; common words here: {common}" if common else lines[0])
    if say is not None:
        for line in lines:
            say(f"{line}; it is left out")
    return found


def ids_of(name: str, tokenizer: Tokenizer, known: Collection[int]) -> list[int]:
    """Return the ids that a word has at the start of a text and after a space, of those `known`."""
    ways = [_encode(text, tokenizer) for text in (name, f" {name}")]
    single = list(dict.fromkeys(way[0] for way in ways if len(way) == 1))
    if not single:
        pieces = [tokenizer.decode([index]) for index in ways[1]]
        instead = f"splits into {', '.join(map(repr, pieces))}" if pieces else "is unknown to it"
        first = pieces[0].strip() if pieces and ways[1][0] in known else ""
        hint = f"try its first piece, {first}" if first else "choose words that are one token"
        raise UserError(
            f"the word {name!r} is no single token of this tokenizer: it {instead}; {hint}"
        )
    found = [index for index in single if index in known]
    if not found:
        raise UserError(
            f"the word {name!r} is token {single[0]}, which has no mean: too few positions of the "
            "training text have it as label; choose a commoner word or a smaller --min-count"
        )
    return found


def _common_words(tokenizer: Tokenizer, ids: Iterable[int], n: int = 5) -> Iterator[str]:
    """Yield the first few tokens that are a word after a space, of four letters or more."""
    pairs = ((index, tokenizer.decode([index]).strip()) for index in ids)
    words = (pair for pair in pairs if len(pair[1]) > 3 and pair[1].isalpha())
    found = (word for index, word in words if _encode(f" {word}", tokenizer) == [index])
    return itertools.islice(found, n)


def _encode(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a text; none if the tokenizer does not know a part of it."""
    try:
        encoding = tokenizer.encode(text, add_special_tokens=False)
    except Exception:  # the library raises bare Exceptions, e.g. where there is no unknown token
        return []
    unknown = getattr(tokenizer.model, "unk_token", None)
    return [] if unknown in encoding.tokens else list(encoding.ids)


def _average(some: pd.DataFrame, **facts: str | int | None) -> dict[str, object]:
    means = {name: _mean(some, name) for name in _SHOWN}
    return {**facts, "classes": len(some), **means}


def _mean(some: pd.DataFrame, name: str) -> float:
    """Return the mean of a column; of what is itself a mean over pairs, that over all its pairs."""
    values = some[name].astype(float)
    if name not in _OF_PAIRS:
        return float(values.mean())
    pairs = some[_OF_PAIRS[name]].where(values.notna(), 0).astype(float)
    total = float(pairs.sum())
    return float((values.fillna(0.0) * pairs).sum()) / total if total else math.nan
