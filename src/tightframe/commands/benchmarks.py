"""Commands on files of facts: whether they are sound, and the examples they give."""

import dataclasses
from pathlib import Path

from tightframe.commands.console import Flag, Json, done, dumps, say, show
from tightframe.errors import UserError


def validate(file: Path, /, *, strict: Flag = False, json: Json = False) -> None:
    """Check a file of facts and questions, and say what it holds by type and year.

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


def masks(
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

    `tightframe knowledge inject` makes them by itself; this is to look at them,
    or to use them elsewhere.

    Parameters
    ----------
    file
        Facts, in any format that `tightframe knowledge validate` takes.
    exposures
        Examples of each fact; its variants are shown equally often, or once more.
    out
        The new file, JSON lines of fact_id, cloze and span.
    max_span
        Words of the longest masked run; up to 5 in the published objective.
    seed
        Of the order; a fact's examples depend on nothing else.
    count
        Only say how many there would be.
    strict
        Refuse facts with any fault.
    json
        Print one JSON object on standard output.
    """
    import json as lines

    from tightframe.files import whole_file
    from tightframe.knowledge.benchmark import load_benchmark
    from tightframe.knowledge.clozes import MAX_SPAN, count_spans, span_records

    for name, value in (("--exposures", exposures), ("--max-span", max_span)):
        if value < 1:
            raise UserError(f"{name} {value}: expected a number from 1 on")
    if seed < 0:
        raise UserError(f"--seed {seed}: expected a number from 0 on")
    if (out is None) != count:
        raise UserError("expected --out FILE to write the examples, or --count to count them")
    if out is not None and out.exists():  # said before the work, not after it
        raise UserError(f"{out}: already exists; remove it or choose another name")
    if max_span > MAX_SPAN:
        say(f"--max-span {max_span}: longer than the {MAX_SPAN} words of the published objective")
    facts = load_benchmark(file, strict=strict)
    counts = count_spans(facts, exposures, max_span)
    if out is not None:
        with whole_file(out) as temporary, temporary.open("w", encoding="utf-8") as written:
            for record in span_records(facts, exposures, seed=seed, max_span=max_span):
                written.write(lines.dumps(record, ensure_ascii=False) + "\n")
    done(
        f"{out or file}: {counts.examples:,} examples of {counts.facts:,} facts, "
        f"{counts.fewest_variants} to {counts.most_variants} variants of each "
        f"({counts.mean_variants:.1f} on average), "
        f"every variant shown {counts.least_shown} to {counts.most_shown} times",
        json,
        **({} if out is None else {"out": str(out)}),
        **dataclasses.asdict(counts),
    )
