"""Commands of facts: from pages to the sentences that are injected."""

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tightframe.commands.console import Flag, Json, done, say


def parse(
    *files: Path,
    out: Path,
    date: str | None = None,
    fetch: Annotated[list[str] | None, Parameter(negative="")] = None,
    api: Annotated[str | None, Parameter(name="--api")] = None,
    keep_pictured: Flag = False,
    json: Json = False,
) -> None:
    """Parse pages of "Did you know" hooks into facts; what is no fact is listed with its reason.

    Pages that are parsed into the same folder later add to it, and leave what is there as it is.

    Parameters
    ----------
    files
        Wikitext files, or folders of .wikitext, .wiki, .mediawiki and .txt files.
    out
        The folder of hooks.jsonl and rejects.jsonl, e.g. knowledge/dyk.
    date
        YYYY-MM-DD, of hooks that stand under no day and no time stamp.
    fetch
        Title of a page to fetch, e.g. "Wikipedia:Recent additions/2023/January"; may be repeated.
    api
        Where to fetch: the address of a MediaWiki's api.php; by default the English Wikipedia's.
    keep_pictured
        Leave "(pictured)" and its like in the facts.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.pages import API
    from tightframe.knowledge.pages import parse as parse_pages

    parsed = parse_pages(
        files,
        out,
        date=date,
        titles=fetch or (),
        api=API if api is None else api,
        keep_pictured=keep_pictured,
    )
    for file, why in parsed.without_hooks.items():
        say(f"{file}: {why}")
    if parsed.reasons.get("no_date") and date is None:
        say("hooks under no day and no time stamp are rejected; --date YYYY-MM-DD dates them")
    pages = "1 page" if parsed.n_pages == 1 else f"{parsed.n_pages:,} pages"
    lines = [
        f"{out}: {parsed.n_hooks:,} hooks on {pages} = {parsed.n_facts:,} facts "
        f"({parsed.n_new_facts:,} new) + {parsed.n_hooks - parsed.n_facts:,} rejects "
        f"({parsed.n_new_rejects:,} new)"
    ]
    lines += [f"{number:9,}  {reason}" for reason, number in parsed.reasons.items()]
    done("\n".join(lines), json, **dataclasses.asdict(parsed))
