"""What a fact is about: the kind of its target, where its name stands, and how to ask for it."""

import dataclasses
import re
from typing import Literal, TypeAlias

from tightframe.knowledge.data.records import Fact, Target
from tightframe.knowledge.making.words import WORD, word_list

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
        """Whether the fact began with the name."""
        return not self.before.strip()

    @property
    def rest(self) -> str:
        """The fact without the name."""
        return " ".join(f"{self.before} {self.after}".split())


def found_targets(fact: Fact) -> tuple[Target, ...]:
    """The targets that stand in a fact.

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
    """What a target is, by the words around it; the first rule that fires."""
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
    """Two to four capitalised words, none of which names a place or an organisation."""
    words = label.split()
    others = word_list("places") | word_list("organisations")
    return (
        2 <= len(words) <= 4
        and all(word[0].isupper() for word in words)
        and not others.intersection(word.casefold().strip(".,") for word in words)
    )


def _italic(fact: Fact, target: Target) -> bool:
    """Whether the page sets the whole of a target's bold link in italics too.

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
