"""Commands that train a model on facts, ask it for them, and run the controlled experiment."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tightframe.commands.console import (
    OPTIONS,
    Assignments,
    Device,
    Flag,
    Json,
    as_parameters,
    done,
    dumps,
    say,
    show,
)
from tightframe.errors import UserError
from tightframe.files import check_writable
from tightframe.jobs.slurm import SlurmOptions
from tightframe.knowledge.options import AnswerOptions, MainInjectOptions, StudyOverrides
from tightframe.progress import bar

if TYPE_CHECKING:
    Asking: TypeAlias = AnswerOptions
    Submitting: TypeAlias = SlurmOptions
    Injecting: TypeAlias = MainInjectOptions
    Overriding: TypeAlias = StudyOverrides
else:
    Asking = as_parameters(AnswerOptions)
    Injecting = as_parameters(MainInjectOptions, optional=True)
    Overriding = as_parameters(StudyOverrides)
    Submitting = as_parameters(SlurmOptions, slurm=OPTIONS)


def inject(
    data: Path,
    /,
    *,
    out: Path,
    options: Injecting = Injecting(),  # noqa: B008
    set_: Assignments = None,
    strict: Flag = False,
    track: str | None = None,
    json: Json = False,
) -> None:
    """Train a model on facts; a killed run resumes when the same command is given again.

    Parameters
    ----------
    data
        Facts, in any format that `tightframe knowledge validate` takes.
    out
        The run directory.
    set_
        Any other setting as key=value, e.g. --set width=384; may be given again. One that is not
        known is answered with all that are.
    strict
        Refuse facts with any fault.
    track
        Tracker that also gets the log: wandb, trackio or tensorboard, with :PROJECT if you like.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.benchmark import load_benchmark
    from tightframe.knowledge.clozes import MAX_SPAN
    from tightframe.knowledge.injection_runs import InjectOptions
    from tightframe.knowledge.models import run_injection
    from tightframe.settings import overrides, resolve
    from tightframe.tracking import tracker

    values = _given(options) | {"data": data, "out": out} | overrides(set_ or [])
    settings = resolve(InjectOptions, values, source="knowledge inject")
    if settings.max_span > MAX_SPAN:
        say(f"max_span {settings.max_span}: longer than the {MAX_SPAN} words published")
    if strict:
        load_benchmark(settings.data, strict=True)
    with tracker(track, out):
        injected = run_injection(settings)
    assert injected.run is not None
    last, facts = injected.last_record, injected.run.facts
    done(
        f"{injected.source}: {facts['n_facts']:,} facts shown {settings.exposures:,} times, "
        f"{facts['n_parameters']:,} parameters, {last['tokens']:,} tokens learnt, final loss "
        f"{last['loss']:.4f} nats per token, {last['seconds']:,.0f} s; lessons {facts['stream']}",
        json,
        run=str(injected.source),
        **facts | last | {"kind": "injection"},
    )


def answer(
    run: Path,
    /,
    *,
    data: Path,
    options: Asking = Asking(),  # noqa: B008
    among: Path | None = None,
    out: Path | None = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Ask a model, closed book, for the facts of a benchmark; one answer per question, greedily.

    Parameters
    ----------
    run
        A run directory of `tightframe knowledge inject`, or a model of transformers as it is (a
        folder or a name on the hub), which needs --out.
    data
        The benchmark: facts with questions, in any known format.
    among
        With --context: facts to retrieve from; those of --data by default.
    out
        The new file; RUN/answers/FORM.jsonl by default.
    device
        cpu, cuda, or auto.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.answers import check_new
    from tightframe.knowledge.asking import check_asked, left_out, prompts
    from tightframe.knowledge.benchmark import load_benchmark
    from tightframe.knowledge.models import InjectedModel
    from tightframe.knowledge.score_tables import empty_answers

    context, form = options.context, options.form
    if among and not context:
        raise UserError("--among: needs --context, what to retrieve of these facts")
    out = _place(run, out, f"answers/{options.name}.jsonl")
    check_new(out)
    facts = load_benchmark(data)
    asking: dict[str, Any] = {"types": options.types, "reordered": options.reordered}
    for reason, n in left_out(facts, form, **asking).items():
        say(f"{data}: {n:,} questions not asked: {reason}")
    check_asked(prompts(facts, form, **asking))
    check_writable(out.parent)
    model = InjectedModel(run, device=device)
    passages = load_benchmark(among) if among else facts
    with bar("answers"):
        answers = model.answer(facts, options, among=passages)
    answers.save(out)
    outputs, retrieved = answers.outputs.values(), answers.retrieved
    if empty := empty_answers(outputs):
        say(f"{out}: {empty}")
    found = ""
    if retrieved:
        found = (
            f"{context} before each question, at most {options.top}: its own fact's among them for "
            f"{retrieved.own:.1f} %, an answer in them for {retrieved.answered:.1f} %\n"
        )
    decoding = "paper" if options.paper_decoding else "greedy"
    all_asked = len(outputs) == sum(len(fact.questions) for fact in facts)
    done(
        f"{found}{out}: {len(outputs):,} answers of {answers.model} ({form}, {decoding}), "
        f"{answers.n_cut:,} cut; score them with `tightframe knowledge score {out} --data {data}"
        f"{'' if all_asked else ' --allow-missing'}`",
        json,
        answers=str(out),
        model=answers.model,
        trained_on=answers.trained_on,
        form=form,
        decoding=decoding,
        questions=len(outputs),
        left_out=answers.left_out,
        cut=answers.n_cut,
        empty=sum(not output.text.strip() for output in outputs),
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
        Decides with a question's id which candidates are drawn.
    out
        The new file; RUN/ranks.jsonl by default, with ranks.json beside it.
    device
        cpu, cuda, or auto.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.answers import check_new
    from tightframe.knowledge.benchmark import load_benchmark
    from tightframe.knowledge.models import InjectedModel

    if candidates < 2:
        raise UserError(f"--candidates: is {candidates}, expected at least 2")
    out = _place(run, out, "ranks.jsonl")
    check_new(out)
    facts = load_benchmark(data)
    check_writable(out.parent)
    model = InjectedModel(run, device=device)
    with bar("candidates"):
        ranks = model.rank(facts, candidates=candidates, seed=seed)
    ranks.save(out)
    about = ranks.about
    if json:
        show(dumps({"ranks": str(out)} | about))
        return
    show(
        f"{out}: {len(ranks.ranks):,} questions of {ranks.model}, rule {ranks.rule}, "
        f"{' or '.join(map(str, about['candidates']))} candidates"
    )
    for title, name in (
        ("first, percent", "top1"),
        ("mean of 1 / rank", "reciprocal_rank"),
        ("mean rank", "rank"),
    ):
        one = about[name]
        interval = f" [{one['low']:.3g}, {one['high']:.3g}]" if one["low"] < one["high"] else ""
        show(f"{title:<17} {one['value']:.3g}{interval}, by chance {about[f'chance_{name}']:.3g}")


def study(
    config: Path | None = None,
    /,
    *,
    data: Path | None = None,
    out: Path,
    options: Overriding = Overriding(),  # noqa: B008
    set_: Assignments = None,
    workers: int | None = None,
    submission: Submitting = Submitting(),  # noqa: B008
    json: Json = False,
) -> None:
    """Inject facts into several arms, ask for them, and decide by a rule fixed before.

    An arm is a way of reading and what it learns, see `tightframe knowledge
    inject --help`: by default the same network on the same examples, left to
    right (clm_sp) and both ways (bilm_sp). Every arm, number of facts and seed is
    a run of its own. What is finished is kept, so that the same command resumes
    after an interruption. With --slurm or --dry-run the missing runs become a Slurm
    array; once they are done, the command without it collects the results.

    Parameters
    ----------
    config
        The study's settings (TOML); see configs/knowledge-study.toml.
    data
        Facts with questions, in any format; wikidyk/dev.jsonl in TIGHTFRAME_DATA otherwise.
    out
        The study's folder.
    set_
        key=value, a setting of the study or of every injection, e.g. width=64.
    workers
        Runs at a time; by default as many as there are cores, one on a GPU.
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs.knowledge_study import run_study, study_settings, submit_study
    from tightframe.knowledge.intervals import power
    from tightframe.settings import overrides

    values = overrides(set_ or ()) | _given(options)
    facts = data if data is not None else _default_data()
    settings = study_settings(config, values)
    if submission.slurm is not None or submission.dry_run:
        array = submit_study(settings, facts, out, submission)
        done(str(array), json, **vars(array))
        return
    found = run_study(settings, facts, out, workers=workers, say=say)
    lines = []
    for one in found.decisions:
        could = power(
            one.low, one.high, one.n, level=settings.rule.level, margin=settings.rule.margin
        )
        interval = f" [{one.low:.1f}, {one.high:.1f}]" if one.low == one.low else ""
        on = f" on {one.form}" if settings.rule.forms else ""
        lines.append(
            f"{one.first} less {one.second}{on}: {one.d:+.1f}{interval} points: {one.verdict}"
            + (f" ({one.note})" if one.note else "")
        )
        if could.detectable == could.detectable:
            lines.append(
                f"  a difference of {could.detectable:.1f} points would be found in 80 %, equal "
                f"arms in {100 * could.none:.0f} % of such studies"
            )
    verdicts = [decision.to_dict() for decision in found.decisions]
    done("\n".join([*lines, f"{out}: written"]), json, out=str(out), verdicts=verdicts)


def _given(options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in vars(options).items() if value is not None}


def _place(model: Path, out: Path | None, name: str) -> Path:
    """Return where results go: into the run, unless told."""
    if out is None and not (model / "config.toml").is_file():
        raise UserError(f"{model}: is no run directory to write into; say --out FILE")
    return out or model / name


def _default_data() -> Path:
    path = Path(os.environ.get("TIGHTFRAME_DATA", "data")) / "wikidyk" / "dev.jsonl"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; name facts with --data, or the folder of the development data "
            "with TIGHTFRAME_DATA (docs/data.md says where to get it)"
        )
    return path
