"""Models that facts were injected into: train one, ask it for facts, rank its answers.

    run = inject("facts.jsonl", model="causal_span", repeats=500, out="runs/facts")
    answers = run.answer(facts, form="cloze_seen")
    run.rank(facts)
    run.ask("Who painted the bridge?")

The command line calls the same functions. Nothing here loads torch before a model is needed.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tightframe.errors import UserError
from tightframe.knowledge.answers import Answers, answer_questions, by_question
from tightframe.knowledge.asking import check_asked, left_out, prompts, with_context
from tightframe.knowledge.embedders import LEXICAL, check_embedder
from tightframe.knowledge.facts import Decoding, Fact
from tightframe.knowledge.injection_runs import (
    FACTS,
    InjectionRun,
    InjectOptions,
    check_answerable,
    check_injection,
)
from tightframe.knowledge.inquiry import Answer, ask_model
from tightframe.knowledge.model_handles import base_model, open_run
from tightframe.knowledge.options import AnswerOptions
from tightframe.knowledge.qa_models import QAModel, named_arm
from tightframe.knowledge.ranking import N_CANDIDATES, Ranks, rank_questions
from tightframe.results import ResultTable
from tightframe.settings import resolve

if TYPE_CHECKING:
    import pandas as pd

    from tightframe.lm.training import Hook


def inject(
    facts: str | Path | Sequence[Fact],
    *,
    out: str | Path,
    model: str | Path = "causal_span",
    repeats: int | None = None,
    hooks: "Sequence[Hook]" = (),
    **settings: Any,
) -> "InjectedModel":
    """Train a model on facts; an interrupted run resumes when the same arguments are given again.

    Args:
        facts: Facts, or a file of them in any format that `tightframe knowledge validate` takes.
        out: The run directory.
        model: A new network of ours: causal, causal_span, prefix_span, masked or encoder_decoder;
            or what to go on from: a run of ours, or a model of transformers by folder or hub name.
        repeats: Number of times that each fact is shown; 500 by default.
        hooks: Functions that are called with each record of the log.
        **settings: Any other field of `InjectOptions`.
    """
    arm = named_arm(str(model))
    values: dict[str, Any] = {"out": Path(out), "data": Path(out) / FACTS}
    given = None
    if isinstance(facts, str | Path):
        values["data"] = Path(facts)
    else:
        given = list(facts)
    values |= {"model": str(model)} if arm is None else {"arm": arm}
    values |= {} if repeats is None else {"exposures": repeats}
    return run_injection(resolve(InjectOptions, values | settings, source="inject"), given, hooks)


def run_injection(
    settings: InjectOptions, facts: Sequence[Fact] | None = None, hooks: "Sequence[Hook]" = ()
) -> "InjectedModel":
    """Check an injection before torch is loaded, then run it.

    Args:
        settings: All settings of the run.
        facts: Facts to choose from; by default those of `settings.data`.
        hooks: Functions that are called with each record of the log.
    """
    check_injection(settings, facts)
    from tightframe.knowledge.injection import inject as run  # imports torch

    return InjectedModel(run(settings, facts=facts, hooks=hooks).path, device=settings.device)


class InjectedModel(ResultTable):
    """The model of an injection run, or a model of transformers without any injection.

    Args:
        source: The run directory, or a folder or hub name of a model of transformers.
        device: "cpu", "cuda", or "auto".
    """

    def __init__(self, source: str | Path, *, device: str = "auto"):
        check_answerable(Path(source), device)
        self.source, self.device = Path(source), device
        injected = (self.source / "config.toml").is_file()
        self.run = InjectionRun.open(self.source) if injected else None

    @property
    def trained_on(self) -> str | None:
        """Fingerprint of the injected facts; None without injection."""
        return None if self.run is None else self.run.facts["data"]

    @property
    def one_line(self) -> str:
        """Number of facts, how often they were shown, and the final loss."""
        if self.run is None:
            return f"{self.source}, without injection"
        facts, last = self.run.facts["n_facts"], self.last_record
        shown = self.run.settings.exposures
        return (
            f"{self.source}: {facts:,} facts shown {shown:,} times, final loss "
            f"{last['loss']:.4f} nats per token"
        )

    @property
    def last_record(self) -> dict[str, Any]:
        """Last record of the training's log."""
        records = [] if self.run is None else self.run.log
        return next((one for one in reversed(records) if one["kind"] == "train"), {})

    def to_pandas(self) -> "pd.DataFrame":
        """Return the log of the training, one row per record."""
        import pandas as pd

        records = [] if self.run is None else self.run.log
        return pd.DataFrame([one for one in records if one["kind"] == "train"])

    @cached_property
    def model(self) -> QAModel:
        """The model itself, which is loaded when it is first used."""
        return self._load()

    def answer(
        self,
        facts: Sequence[Fact],
        options: AnswerOptions | None = None,
        *,
        among: Sequence[Fact] | None = None,
        **settings: Any,
    ) -> Answers:
        """Ask for facts, closed book; one answer per question, greedily.

        Args:
            facts: Facts with their questions.
            options: How to ask.
            among: With `context`: facts to retrieve from; by default `facts`.
            **settings: Fields of `AnswerOptions`, instead of `options`.
        """
        options = AnswerOptions(**settings) if options is None else options
        asking: dict[str, Any] = {"types": options.types, "reordered": options.reordered}
        asked = prompts(facts, options.form, **asking)
        check_asked(asked)
        retrieved = None
        if options.context:
            check_embedder(options.embedder)
            retrieved = with_context(
                asked,
                among or facts,
                passages=options.context,
                top=options.top,
                embedder=options.embedder,
            )
            asked = retrieved.asked
        paper = options.paper_decoding
        model = self._load(paper_format=True) if paper and self.run is None else self.model
        if getattr(model, "layout", "") == "in_place":
            model.steps = options.steps  # type: ignore[attr-defined]
        elif options.steps:
            raise UserError(f"--steps: {model.name} fills no answers in place; leave it out")
        name = f"{model.name} with {options.context}" if options.context else model.name
        decoding: Decoding = "paper" if paper else "greedy"
        outputs = answer_questions(
            model,
            asked,
            max_new_tokens=options.max_new_tokens,
            decoding=decoding,
            seed=options.seed,
            name=name,
        )
        excluded = left_out(facts, options.form, **asking)
        by_id = by_question(name, outputs)
        return Answers(name, name, self.trained_on, by_id, excluded, retrieved)

    def rank(
        self, facts: Sequence[Fact], *, candidates: int = N_CANDIDATES, seed: int = 0
    ) -> Ranks:
        """Rank the answer to each reliability question among other facts' answers.

        Args:
            facts: Facts with reliability questions, whose answers are the candidates.
            candidates: Answers to rank for a question, the right one included.
            seed: Decides with a question's id which candidates are drawn.
        """
        ranks = rank_questions(self.model, facts, n=candidates, seed=seed)
        return Ranks(tuple(ranks), self.model.name, self.trained_on, seed)

    def ask(self, question: str, *, embedder: str = LEXICAL) -> Answer:
        """Put a typed question to the model.

        Args:
            question: In words, or with one [MASK] where the answer belongs.
            embedder: Measure of nearness of facts; tf-idf, or an encoder by folder or hub name.
        """
        source = str(self.source)
        handle = base_model(source) if self.run is None else open_run(source)
        loaded = dataclasses.replace(handle, load=lambda: (self.model, self.model.objective))
        return ask_model(question, loaded, embedder=embedder)

    def _load(self, *, paper_format: bool = False) -> QAModel:
        from tightframe.knowledge.injection import load_base_model, load_qa_model  # imports torch

        if self.run is None:
            return load_base_model(self.source, device=self.device, paper_format=paper_format)
        return load_qa_model(self.source, device=self.device)
