"""Commands that put questions to a model that facts were injected into."""

from pathlib import Path
from typing import Any, Literal

from tightframe.commands.console import Device, Flag, Json, Names, done, dumps, say, show
from tightframe.errors import UserError
from tightframe.files import check_writable
from tightframe.knowledge.facts import Decoding
from tightframe.knowledge.options import question_types
from tightframe.progress import bar

Form = Literal["cloze_seen", "cloze_question", "raw_question", "left_context", "question", "cloze"]


def answer(
    run: Path,
    /,
    *,
    data: Path,
    form: Form | None = None,
    types: Names = None,
    cloze: Flag = False,
    reordered: Flag = False,
    context: Literal["facts", "articles"] | None = None,
    top: int = 3,
    among: Path | None = None,
    embedder: str = "tf-idf",
    out: Path | None = None,
    max_new_tokens: int | None = None,
    paper_decoding: Flag = False,
    seed: int = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Ask a model, closed book, for the facts of a benchmark; one answer a question, greedily.

    cloze_seen masks the answer in the fact; cloze_question masks the wh-phrase of its question;
    raw_question puts a mask after the question; left_context gives the words before the answer.
    These four ask reliability questions. question puts all questions in their own words (of a
    model of transformers in its chat template, where it has one), cloze their clozes where they
    have one.

    Parameters
    ----------
    run
        A run directory of `tightframe knowledge inject`, or a model of transformers as it is (a
        folder or a name on the hub), which needs --out.
    data
        The benchmark: facts with questions, in any known format.
    form
        How to ask; question by default.
    types
        Types of questions, see `tightframe knowledge questions --help`; all by default.
    cloze
        The same as --form cloze.
    reordered
        Ask by the fact's reordered wording (its answer at the end, see `tightframe knowledge
        reword`): cloze_seen and left_context.
    context
        The baseline of retrieval: put the nearest facts, or articles of facts, in front of each
        question; their first words are cut where the model has no room for all.
    top
        How many of them.
    among
        With --context: facts to retrieve from; those of --data by default.
    embedder
        With --context: what is near; tf-idf, or an encoder by folder or hub name.
    out
        The new file; RUN/answers/FORM.jsonl by default.
    max_new_tokens
        Tokens after which an answer is cut. By default 32, or the longest gold answer and 4 more;
        64 for models of the hub.
    paper_decoding
        As published, for comparison only: models that read left to right draw their tokens at
        temperature 1, up to 256; others stay greedy, up to 266 (networks of ours: as many as their
        positions leave). Every answer says so.
    seed
        With a question's id, what is drawn for it.
    device
        cpu, cuda, or auto.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.answers import check_new, empty_answers, write_answers
    from tightframe.knowledge.asking import (
        OF_THE_FACT,
        check_asked,
        left_out,
        prompts,
        with_context,
    )
    from tightframe.knowledge.benchmark import load_benchmark
    from tightframe.knowledge.embedders import check_embedder

    if among and not context:
        raise UserError("--among: needs --context, what to retrieve of these facts")
    if cloze and form not in (None, "cloze"):
        raise UserError(f"--cloze: is --form cloze, but --form is {form}; give one of them")
    form = "cloze" if cloze else form or "question"
    if reordered and form not in OF_THE_FACT:
        raise UserError(f"--reordered: needs --form {' or '.join(OF_THE_FACT)}, not {form}")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise UserError(f"--max-new-tokens: is {max_new_tokens}, expected at least 1")
    if top < 1:
        raise UserError(f"--top: is {top}, expected at least 1")
    name = f"{form}_reordered" if reordered else form
    name += f"_with_{context}" if context else ""
    name += "_paper" if paper_decoding else ""
    out = _place(run, out, f"answers/{name}.jsonl")
    check_new(out)
    facts = load_benchmark(data)
    n_questions = sum(len(fact.questions) for fact in facts)
    chosen: dict[str, Any] = {"types": question_types(types), "reordered": reordered}
    asked = prompts(facts, form, **chosen)
    excluded = left_out(facts, form, **chosen)
    for reason, n in excluded.items():
        say(f"{data}: {n:,} questions not asked: {reason}")
    check_asked(asked)
    _check(run, out, device)
    passages = load_benchmark(among) if among else facts
    if context:
        check_embedder(embedder)
    retrieved = None
    if context:
        with bar("texts"):
            retrieved = with_context(asked, passages, passages=context, top=top, embedder=embedder)
        asked = retrieved.asked
    learner, trained_on = _loaded(run, device, paper_format=paper_decoding)
    decoding: Decoding = "paper" if paper_decoding else "greedy"
    with bar("answers"):
        written = write_answers(
            out,
            learner,
            asked,
            trained_on=trained_on,
            max_new_tokens=max_new_tokens,
            decoding=decoding,
            seed=seed,
            name=f"{learner.name} with {context}" if context else None,
        )
    cut = sum(output.finish == "length" for output in written.outputs.values())
    if empty := empty_answers(written.outputs.values()):
        say(f"{out}: {empty}")
    found = ""
    if retrieved:
        found = (
            f"{context} before each question, at most {top}: its own fact's among them for "
            f"{retrieved.own:.1f} %, an answer in them for {retrieved.answered:.1f} %\n"
        )
    done(
        f"{found}{out}: {len(asked):,} answers of {written.model} ({form}, {decoding}), "
        f"{cut:,} cut; score them with `tightframe knowledge score {out} --data {data}"
        f"{' --allow-missing' if len(asked) < n_questions else ''}`",
        json,
        answers=str(out),
        model=written.model,
        trained_on=trained_on,
        form=form,
        decoding=decoding,
        questions=len(asked),
        left_out=excluded,
        cut=cut,
        empty=sum(not output.text.strip() for output in written.outputs.values()),
        **({"own_fact": retrieved.own, "answer_there": retrieved.answered} if retrieved else {}),
    )


def rank(
    run: Path,
    /,
    *,
    data: Path,
    candidates: int = 20,
    seed: int = 0,
    out: Path | None = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Rank the answer to each reliability question among other facts' answers.

    No decoding, so that it asks only what a model knows. Models that fill masks and models that
    continue sentences score candidates by different rules: don't compare their ranks.

    Parameters
    ----------
    run
        A run directory of `tightframe knowledge inject`, or a model of transformers as it is (a
        folder or a name on the hub), which needs --out.
    data
        The benchmark: facts with reliability questions, whose answers are the candidates.
    candidates
        Answers to rank for a question, the right one included; fewer where there are not so many.
    seed
        With a question's id, what its candidates depend on.
    out
        The new file; RUN/ranks.jsonl by default, with ranks.json beside it.
    device
        cpu, cuda, or auto.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.answers import check_new
    from tightframe.knowledge.benchmark import load_benchmark
    from tightframe.knowledge.ranking import rank_questions, save_ranks

    if candidates < 2:
        raise UserError(f"--candidates: is {candidates}, expected at least 2")
    out = _place(run, out, "ranks.jsonl")
    check_new(out)
    facts = load_benchmark(data)
    _check(run, out, device)
    learner, trained_on = _loaded(run, device)
    with bar("candidates"):
        ranks = rank_questions(learner, facts, n=candidates, seed=seed)
    found = save_ranks(out, ranks, model=learner.name, trained_on=trained_on, seed=seed)
    if json:
        show(dumps({"ranks": str(out)} | dict(found)))
        return
    show(
        f"{out}: {len(ranks):,} questions of {learner.name}, rule {found['rule']}, "
        f"{' or '.join(map(str, found['candidates']))} candidates"
    )
    for title, name in (
        ("first, percent", "top1"),
        ("mean of 1 / rank", "reciprocal_rank"),
        ("mean rank", "rank"),
    ):
        one = found[name]
        interval = f" [{one['low']:.3g}, {one['high']:.3g}]" if one["low"] < one["high"] else ""
        show(f"{title:<17} {one['value']:.3g}{interval}, by chance {found[f'chance_{name}']:.3g}")


def _place(model: Path, out: Path | None, name: str) -> Path:
    """Where results go: into the run, unless told."""
    if out is None and not (model / "config.toml").is_file():
        raise UserError(f"{model}: is no run directory to write into; say --out FILE")
    return out or model / name


def _check(model: Path, out: Path, device: str) -> None:
    """Refuse a model that cannot be asked, or a place that takes no answers."""
    from tightframe.knowledge.injection_runs import check_answerable

    check_answerable(model, device)
    check_writable(out.parent)


def _loaded(model: Path, device: str, *, paper_format: bool = False) -> tuple[Any, str | None]:
    """The learner of a finished run, or a model as it is; and what facts it was trained on."""
    from tightframe.knowledge.injection import load_base_model, load_qa_model
    from tightframe.knowledge.injection_runs import InjectionRun

    if not (model / "config.toml").is_file():
        return load_base_model(model, device=device, paper_format=paper_format), None
    opened = InjectionRun.open(model)
    return load_qa_model(model, device=device), opened.facts["data"]
