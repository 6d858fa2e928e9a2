"""Pages from a MediaWiki Action API: one GET a page, redirects followed, the revision kept."""

import dataclasses
from importlib.metadata import version
from typing import Any

from tightframe.errors import UserError

API = "https://en.wikipedia.org/w/api.php"
TIMEOUT = 60.0  # seconds
# The archive has had both names: what is missing under one is asked for under the other.
_FAMILIES = ("Wikipedia:Recent additions", "Wikipedia:Did you know archive")


@dataclasses.dataclass(frozen=True)
class Page:
    """A page as it stood at a revision."""

    title: str  # after redirects
    wikitext: str
    revision: int | None


class _MissingError(Exception):
    """The wiki has no page of this title."""


def fetch(title: str, *, api: str = API) -> Page:
    """The wikitext of a page, of its other name where it is filed under that.

    Raises:
        UserError: The wiki can't be reached, refuses, has no such page, or answers something else.
    """
    titles = [title]
    for name, other in (_FAMILIES, _FAMILIES[::-1]):
        if title.startswith(name + "/"):
            titles.append(other + title.removeprefix(name))
    for one in titles:
        try:
            return _page(_get(one, api), api)
        except _MissingError:
            pass
    asked = "' nor '".join(titles)
    raise UserError(f"{api}: has no page '{asked}'; check the title")


def _get(title: str, api: str) -> Any:
    import httpx

    query = {
        "action": "parse",
        "prop": "wikitext|revid",
        "page": title,
        "redirects": "1",
        "format": "json",
        "formatversion": "2",
    }
    agent = f"tightframe/{version('tightframe')} python-httpx/{httpx.__version__}"
    try:
        answer = httpx.get(
            api,
            params=query,
            headers={"User-Agent": agent},
            timeout=TIMEOUT,
            follow_redirects=True,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"{api}: no answer for '{title}' ({_printable(str(error))}); check the address and "
            "the network, or save the page and parse the file"
        ) from None
    if answer.status_code != httpx.codes.OK:
        raise UserError(
            f"{api}: HTTP status {answer.status_code} for '{title}', expected 200; try again later"
        )
    try:
        return answer.json()
    except ValueError:
        raise UserError(
            f"{api}: the answer for '{title}' is not JSON; is this the address of an api.php?"
        ) from None


def _page(answer: Any, api: str) -> Page:
    """Mistakes come with status 200 and an `error` object: they are no empty page."""
    match answer:
        case {"error": {"code": "missingtitle"}}:
            raise _MissingError
        case {"error": error}:
            told = error.get("info") or error.get("code") if isinstance(error, dict) else error
            raise UserError(f"{api}: {_printable(str(told))}")
        case {"parse": {"title": str(title), "wikitext": str(wikitext), **rest}}:
            revision = rest.get("revid")
            text = wikitext.encode(errors="replace").decode()  # JSON may hold half a character
            return Page(title, text, revision if isinstance(revision, int) else None)
    raise UserError(f"{api}: the answer holds no wikitext; expected `parse.title` and `.wikitext`")


def _printable(text: str) -> str:
    """A stranger's message on one line of a terminal."""
    line = " ".join(text.split())[:200]
    return "".join(character for character in line if character.isprintable())
