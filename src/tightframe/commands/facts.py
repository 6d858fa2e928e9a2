"""Commands on files of facts: parse and check them, write questions, wordings and spans."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from tightframe.commands.console import Flag, Json, as_parameters, done, dumps, say, show
from tightframe.errors import UserError
from tightframe.files import check_new
from tightframe.knowledge.options import QuestionOptions, WordingOptions
from tightframe.progress import bar

if TYPE_CHECKING:
    Questions: TypeAlias = QuestionOptions
    Wordings: TypeAlias = WordingOptions
else:
    Questions, Wordings = as_parameters(QuestionOptions), as_parameters(WordingOptions)


def parse(
    *files: Path,
    out: Path,
    date: str | None = None,
    fetch: Annotated[list[str] | None, Parameter(negative="")] = None,
    api: Annotated[str | None, Parameter(name="--api")] = None,
    keep_pictured: Flag = False,
    json: Json = False,
) -> None:
    """Parse pages of "Did you know" hooks into facts, and list what is no fact with its reason.

    Pages that are parsed into the same folder later add to it, and leave its lines as they are.

    Parameters
    ----------
    files
        Wikitext files, or folders of .wikitext, .wiki, .mediawiki and .txt files.
    out
        Folder of hooks.jsonl and rejects.jsonl, e.g. knowledge/dyk.
    date
        YYYY-MM-DD, of hooks that stand under no day and no time stamp.
    fetch
        Title of a page to fetch, e.g. "Wikipedia:Recent additions/2023/January"; may be repeated.
    api
        Address of a MediaWiki's api.php to fetch from (default: that of the English Wikipedia).
    keep_pictured
        Leave "(pictured)" and similar notes in the facts.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.pages import API
    from tightframe.knowledge.pages import parse as parse_pages

    parsed = parse_pages(
        files, out, date=date, titles=fetch or (), api=api or API, keep_pictured=keep_pictured
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


def validate(file: Path, /, *, strict: Flag = False, json: Json = False) -> None:
    """Check a file of facts and questions, and print what it holds by type and year.

    words, longest  mean and largest number of words of a fact
    answer, > 8     mean number of words of an answer, and answers over 8 words
    verbatim        answers that stand in their fact letter for letter
    eligible        facts that a study can use: of at most 24 words, with a
                    verbatim answer of at most 4

    Parameters
    ----------
    file
        Facts of ours, the paper's file (WikiDYK), or question-answer records; JSON, JSON lines or
        Parquet, a .csv file with a header, or a .txt file with a sentence per line.
    strict
        Also refuse answers over 8 words, unreadable years and dates, and ids that occur twice.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.benchmark import read_benchmark
    from tightframe.knowledge.facts import summarize

    benchmark = read_benchmark(file)
    for line in benchmark.listed():
        say(line)
    benchmark.refuse(strict=strict, listed=True)
    summary = summarize(benchmark.facts)
    if json:
        fields = {"file": str(file), "format": benchmark.format, "faults": benchmark.counts()}
        show(dumps(fields | summary.to_dict()))
        return
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(benchmark.counts().items()))
    show(f"{file}: {benchmark.format}, faults to live with: {kinds or 'none'}")
    for line in summary.lines():
        show(line)


def questions(
    facts: Path,
    /,
    *,
    out: Path,
    options: Questions = Questions(),  # noqa: B008
    cloze_only: Flag = False,
    json: Json = False,
) -> None:
    """Write questions about facts, by rules or by a language model, and check every one.

    Parameters
    ----------
    facts
        A file of facts in any format; `tightframe knowledge parse` makes one.
    out
        New file, facts with their questions. Beside it is what was dropped, and why.
    cloze_only
        Write no questions; give existing questions without a cloze one: the question with its
        wh-phrase as the mask, or a statement that the endpoint makes of it.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.generate import write_clozes, write_questions

    if cloze_only:
        if options.known:
            raise UserError("--known is for new questions; leave it out with --cloze-only")
        with bar("questions"):
            clozes = write_clozes(facts, out, options)
        lines = [
            f"{out}: {clozes.facts:,} facts; {clozes.clozes:,} of {clozes.questions:,} questions"
            f" have clozes, {clozes.new:,} new",
            *_counted("no cloze", clozes.dropped),
        ]
        done("\n".join(lines), json, out=str(out), **dataclasses.asdict(clozes))
        return
    if options.backend == "rules" and "locality" in options.types and options.known is None:
        say("no locality questions: --known FILE gives the older knowledge to ask for")
    with bar("facts"):
        written = write_questions(facts, out, options)
    lines = [f"{out}: {written.facts:,} facts; questions: {_listed(written.questions)}"]
    lines += _counted("dropped", written.dropped) + _counted("warnings", written.warnings)
    if options.backend == "rules" and written.without_target:
        lines.append(
            f"{written.without_target:,} facts have no target, hence no questions by rules"
        )
    done("\n".join(lines), json, out=str(out), **dataclasses.asdict(written))


def reword(
    facts: Path,
    /,
    *,
    out: Path,
    options: Wordings = Wordings(),  # noqa: B008
    json: Json = False,
) -> None:
    """Write facts with other wordings of them, to train on: reordered by rule, others by a model.

    Parameters
    ----------
    facts
        A file of facts in any format.
    out
        New file, facts with their wordings. Beside it is what was dropped, and why.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.generate import write_wordings

    with bar("requests"):
        written = write_wordings(facts, out, options)
    lines = [f"{out}: {written.facts:,} facts; wordings: {_listed(written.wordings)}"]
    lines += _counted("dropped", written.dropped)
    if written.without_answer:
        lines.append(f"{written.without_answer:,} facts do not hold their answer: not reordered")
    done("\n".join(lines), json, out=str(out), **dataclasses.asdict(written))


def spans(
    file: Path,
    /,
    *,
    exposures: int,
    out: Path | None = None,
    max_span: int = 5,
    seed: int = 0,
    count: Flag = False,
    strict: Flag = False,
    json: Json = False,
) -> None:
    """Write the examples of span prediction: each fact, with runs of its words masked.

    `tightframe knowledge inject` makes them by itself; this command shows them,
    and writes them for use elsewhere.

    Parameters
    ----------
    file
        Facts, in any format that `tightframe knowledge validate` takes.
    exposures
        Number of examples of each fact; its variants are shown equally often, or once more.
    out
        New file, JSON lines of fact_id, cloze and span.
    max_span
        Number of words of the longest masked run; up to 5 in the published objective.
    seed
        Seed of the order; a fact's examples depend on nothing else.
    count
        Only count the examples.
    strict
        Refuse facts with any fault.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.benchmark import load_benchmark
    from tightframe.knowledge.clozes import MAX_SPAN, count_spans, span_records
    from tightframe.knowledge.data_files import write_records

    for name, value in (("--exposures", exposures), ("--max-span", max_span)):
        if value < 1:
            raise UserError(f"{name} {value}: expected a number from 1 on")
    if (out is None) != count:
        raise UserError("expected --out FILE to write the examples, or --count to count them")
    if out is not None:  # refused before the work, not after it
        check_new(out)
    if max_span > MAX_SPAN:
        say(f"--max-span {max_span}: longer than the {MAX_SPAN} words of the published objective")
    facts = load_benchmark(file, strict=strict)
    counts = count_spans(facts, exposures, max_span)
    made: dict[str, Any] = {}
    if out is not None:
        write_records(out, span_records(facts, exposures, seed=seed, max_span=max_span))
        made["out"] = str(out)
    done(
        f"{out or file}: {counts.examples:,} examples of {counts.facts:,} facts, "
        f"{counts.fewest_variants} to {counts.most_variants} variants of each "
        f"({counts.mean_variants:.1f} on average), "
        f"every variant shown {counts.least_shown} to {counts.most_shown} times",
        json,
        **made,
        **dataclasses.asdict(counts),
    )


def plant(*, n: int, out: Path, seed: int = 0, json: Json = False) -> None:
    """Make facts that pair invented names with descriptions, each to train in one order.

    Every other fact begins with its name, the others with their description. Each has a forward
    and a backward question, in its own order and in the other one; with reordered=true `inject`
    trains both orders.

    Parameters
    ----------
    n
        Number of facts.
    out
        New file, facts with their questions.
    seed
        Seed of the names and of the pairs.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.benchmark import write_facts
    from tightframe.knowledge.directions import plant as planted

    check_new(out)
    facts = planted(n, seed=seed)
    write_facts(out, facts)
    done(f"{out}: {facts.one_line}", json, out=str(out), facts=len(facts), seed=seed)


def _listed(by_name: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in by_name.items() if n) or "none"


def _counted(what: str, by_name: dict[str, int]) -> list[str]:
    """Return one line of counts by name, none where there are no counts."""
    return [f"{what}: {_listed(by_name)}"] if by_name else []
