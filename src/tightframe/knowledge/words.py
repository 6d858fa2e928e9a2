"""What a fact is about: the kind of its target, how to ask for it, and what no question may be."""

import dataclasses
import functools
import re
from importlib import resources
from typing import Literal, TypeAlias

from tightframe.knowledge.facts import MASK, MAX_ANSWER_WORDS, Fact, Question, Target

WORD = re.compile(r"\w+(?:[-.'\u2019]\w+)*")
_NUMBER = re.compile(r"(?<!\w)\d[\w,.]*\w|(?<!\w)\d")
_QUOTED = re.compile(r"([\"“][^\"”]*[\"”])")
_ABBREVIATED = re.compile(  # "U.S.", not the last letter of "vitamin C."
    r"\b[^\W\d]\. ?[^\W\d]\.$|\b(?:Bros|Co|Corp|Dr|Inc|Jr|Ltd|Mr|Mrs|Sr|St|etc|vs)\.$"
)


@functools.cache
def word_list(name: str) -> frozenset[str]:
    """Return a list of `words.txt`, in lower case."""
    return _lists()[name]


@functools.cache
def synonyms() -> dict[str, str]:
    """Return a replacement for each word that has one, in the same inflection."""
    return dict(line.split(" ", 1) for line in _lines("synonyms.txt"))


def contains(text: str, phrase: str) -> bool:
    """Return whether a phrase stands in a text, ignoring case, on word boundaries."""
    phrase, text = phrase.strip().casefold(), text.casefold()
    start = text.find(phrase)
    while start >= 0:
        end = start + len(phrase)
        if not _in_a_word(text[start - 1 : start]) and not _in_a_word(text[end : end + 1]):
            return True
        start = text.find(phrase, start + 1)
    return False


def without_stop(text: str) -> str:
    """Return a text without the full stop of its sentence; that of an abbreviation stays."""
    text = text.rstrip()
    stops = text.endswith(".") and not text.endswith("..") and not _ABBREVIATED.search(text)
    return text[:-1].rstrip() if stops else text


def content_words(text: str) -> list[str]:
    """Return the words without a purely grammatical function, in lower case and order."""
    return [word for word in WORD.findall(text.casefold()) if word not in word_list("functions")]


def _in_a_word(character: str) -> bool:
    return character.isalnum() or character == "_"


@functools.cache
def _lists() -> dict[str, frozenset[str]]:
    found: dict[str, list[str]] = {}
    name = ""
    for line in _lines("words.txt"):
        head, colon, tail = line.partition(":")
        name, words = (head, tail) if colon else (name, line)
        found.setdefault(name, []).extend(words.split())
    return {name: frozenset(words) for name, words in found.items()}


def _lines(file: str) -> list[str]:
    text = resources.files("tightframe.knowledge").joinpath(file).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def same_title(title: str) -> str:
    """Return an article's title in one of the many forms that a link may use."""
    bare = " ".join(title.partition("#")[0].replace("_", " ").split())
    return bare[:1].upper() + bare[1:]


def begins_a_sentence(fact: str) -> bool:
    """Return whether a fact is written as a sentence: its first word owes its capital to that."""
    first = WORD.search(fact)
    opens = first is not None and first[0].casefold() in word_list("openers")
    return opens and without_stop(fact) != fact.rstrip()


def names(text: str) -> list[tuple[int, int]]:
    """Return [start, end) of each run of capitalised words, which of, the, and, de may join."""
    runs: list[list[re.Match[str]]] = [[]]
    for word in WORD.finditer(text):
        capital = word[0][0].isupper()
        adjacent = bool(runs[-1]) and text[runs[-1][-1].end() : word.start()].isspace()
        if runs[-1] and not adjacent:
            runs.append([])
        if capital or (runs[-1] and word[0] in word_list("joiners")):
            runs[-1].append(word)
        elif runs[-1]:
            runs.append([])
    spans = []
    for run in runs:
        while run and run[-1][0] in word_list("joiners"):
            run.pop()
        if run and run[0].start() == 0 and run[0][0].casefold() in word_list("openers"):
            run.pop(0)
        while run and run[0][0] in word_list("joiners"):
            run.pop(0)
        if run:
            spans.append((run[0].start(), run[-1].end() - _genitive(run[-1][0])))
    return spans


def _genitive(word: str) -> int:
    return 2 if word.endswith(("'s", "\u2019s")) else 0


def numbers(text: str) -> list[tuple[int, int]]:
    """Return [start, end) of each number."""
    return [number.span() for number in _NUMBER.finditer(text)]


def reworded(prompt: str, kept: set[str]) -> str:
    """Replace words in lower case by their synonyms, left to right; quotations stay."""
    parts = _QUOTED.split(prompt)
    for index in range(0, len(parts), 2):
        parts[index] = WORD.sub(
            lambda word: word[0] if word[0] in kept else synonyms().get(word[0], word[0]),
            parts[index],
        )
        parts[index] = re.sub(r"\b([Aa])n?(?= [a-z])", _a_or_an, parts[index])
    return "".join(parts)


def _a_or_an(found: re.Match[str]) -> str:
    following = found.string[found.end() + 1]
    return found[1] + ("n" if following in "aeiou" else "")


Kind: TypeAlias = Literal["work", "person", "place", "thing"]
WH: dict[Kind, str] = {"work": "Which work", "person": "Who", "place": "Which place"}
WH |= {"thing": "What"}

_ARTICLE = re.compile(r"(?:^|(?<=\s))(?:the|an|a)\s+$", re.IGNORECASE)
_BEFORE_QUOTE = re.compile(r"[\"“]\s?$")
_AFTER_QUOTE = re.compile(r"^\s?[\"”]")
_LINK = re.compile(r"\[\[([^\]|]*)(?:\|([^\]]*))?\]\]")
_NEAR = 3  # words before a name in which a noun tells what it names


@dataclasses.dataclass(frozen=True)
class Gap:
    """A fact without a target: what stands before and after it.

    The name goes with its quotation marks, a preceding article and a genitive's ending.
    """

    before: str
    after: str
    wh: str  # "Who", "Which place's"; as at the start of a sentence
    genitive: bool

    @property
    def opens(self) -> bool:
        """True if the fact began with the name."""
        return not self.before.strip()

    @property
    def rest(self) -> str:
        """The fact without the name."""
        return " ".join(f"{self.before} {self.after}".split())


def found_targets(fact: Fact) -> tuple[Target, ...]:
    """Return the targets that stand in a fact.

    Where a file names none, or none where it is, the answer of its reliability question is one.
    """
    placed = tuple(
        target
        for target in fact.targets
        if target.label and fact.fact[target.start : target.end] == target.label
    )
    asked = next((one for one in fact.questions if one.type == "reliability"), None)
    if placed or asked is None:
        return placed
    for answer in asked.answers:
        place = re.search(rf"(?<!\w){re.escape(answer.strip())}(?!\w)", fact.fact)
        if place and place[0]:
            return (Target(place[0], place[0], *place.span()),)
    return ()


def gap(fact: Fact, target: Target) -> Gap:
    """Cut a target out of its fact."""
    before, after = fact.fact[: target.start], fact.fact[target.end :]
    if _quoted(before, after):
        before, after = _BEFORE_QUOTE.sub("", before), _AFTER_QUOTE.sub("", after)
    before = _ARTICLE.sub("", before)
    wh = WH[kind(fact, target)]
    ending = re.match(r"['\u2019]s\b", after) or (
        re.match(r"['\u2019](?=\s)", after) if target.label.endswith("s") else None
    )
    if ending:
        after = after[ending.end() :]
        wh = "Whose" if wh == "Who" else wh + "'s"
    return Gap(before, after, wh, ending is not None)


def kind(fact: Fact, target: Target) -> Kind:
    """Return the kind of a target by the first rule that fits the words around it."""
    before, after = fact.fact[: target.start], fact.fact[target.end :]
    words = [word.casefold() for word in WORD.findall(target.label)]
    last = set(WORD.findall(before.casefold())[-_NEAR:])
    if _italic(fact, target) or _quoted(before, after) or last & word_list("works"):
        return "work"
    if _a_persons_name(target.label) and (
        last & word_list("roles")
        or word_list("pronouns").intersection(WORD.findall(after.casefold()))
    ):
        return "person"
    located = re.search(r"\b(?:in|at|near)\s+(?:the\s+)?$", before, re.IGNORECASE)
    if words and (words[-1] in word_list("places") or (located and not words[0].isdigit())):
        return "place"
    return "thing"


def _quoted(before: str, after: str) -> bool:
    return bool(_BEFORE_QUOTE.search(before) and _AFTER_QUOTE.search(after))


def _a_persons_name(label: str) -> bool:
    """Return whether a label is two to four capitalised words that name no place or company."""
    words = label.split()
    others = word_list("places") | word_list("organisations")
    return (
        2 <= len(words) <= 4
        and all(word[0].isupper() for word in words)
        and not others.intersection(word.casefold().strip(".,") for word in words)
    )


def _italic(fact: Fact, target: Target) -> bool:
    """Return whether the page sets the whole of a target's bold link in italics too.

    A run of 2 apostrophes turns italics on or off, one of 5 bold as well, 3 and 4 bold only.
    """
    title = target.title.replace("_", " ").casefold()
    links = (link for link in _LINK.finditer(fact.hook_raw) if link[1].strip().casefold() == title)
    link = next(links, None)
    if link is None:
        return False
    runs = [len(run) for run in re.findall("'{2,}", fact.hook_raw[: link.start()])]
    around = sum(n == 2 or n >= 5 for n in runs) % 2 == 1
    label = (link[2] or "").strip()
    return around or bool(re.fullmatch(r"'{2}(?!').*(?<!')'{2}|'{5}.*'{5}", label))


Check: TypeAlias = Literal[
    "answer_length",
    "answer_in_prompt",
    "answer_in_hook",
    "too_similar",
    "locality_in_hook",
    "form",
    "punctuation",
    "duplicate",
]
_TWO_STOPS = re.compile(r"(?<!\.)\.\.(?!\.)")
SAME_WORDS = 0.80  # of a paraphrase's content words, in order, from which on it is none


def failures(question: Question, fact: Fact, *, reliability: str | None) -> list[Check]:
    """Return the checks that a question fails, by itself or beside the fact's reliability question.

    Args:
        question: The question to check.
        fact: Its fact.
        reliability: The prompt of the fact's reliability question; without one (None), nothing is
            too similar to it.
    """
    found: list[Check] = []
    if not question.answers or not all(
        0 < len(answer.split()) <= MAX_ANSWER_WORDS for answer in question.answers
    ):
        found.append("answer_length")
    answers = [answer for answer in question.answers if answer.strip()]
    texts = [question.prompt, question.cloze or ""]
    if question.format != "boolean" and any(contains(t, a) for t in texts for a in answers):
        found.append("answer_in_prompt")
    if question.type in ("reliability", "paraphrase") and not any(
        contains(fact.hook, answer) for answer in answers
    ):
        found.append("answer_in_hook")
    if (
        question.type == "paraphrase"
        and reliability is not None
        and similarity(question.prompt, reliability) >= SAME_WORDS
    ):
        found.append("too_similar")
    if question.type == "locality" and any(contains(fact.hook, answer) for answer in answers):
        found.append("locality_in_hook")
    clozed = question.cloze is None or question.cloze.count(MASK) == 1
    if not clozed or not (
        question.prompt.rstrip().endswith("?") or question.prompt.count(MASK) == 1
    ):
        found.append("form")
    asked = question.prompt.rstrip().removesuffix("?")
    if _TWO_STOPS.search(question.prompt) or (
        asked != question.prompt.rstrip() and without_stop(asked) != asked.rstrip()
    ):
        found.append("punctuation")
    return found


def is_warning(check: Check, *, strict: bool) -> bool:
    """Return whether a question that fails a check is kept, with the name of the check."""
    return check == "duplicate" or (check == "answer_in_hook" and not strict)


def similarity(paraphrase: str, reliability: str) -> float:
    """Return the share of a paraphrase's content words that the other prompt has in the same order.

    Longest common subsequence over the paraphrase's content words, in [0, 1]; 1 where it has none,
    since then it says nothing of its own.
    """
    first, second = content_words(paraphrase), content_words(reliability)
    if not first:
        return 1.0
    longest = [0] * (len(second) + 1)  # of the words of `first` so far and each start of `second`
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            above = longest[j]
            longest[j] = diagonal + 1 if word == other else max(above, longest[j - 1])
            diagonal = above
    return longest[-1] / len(first)
