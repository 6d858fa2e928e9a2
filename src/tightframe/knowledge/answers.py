"""Answers of a model to the questions of a benchmark, and the files that hold them."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.formats import Record, Sha256, check_digest, read_json, read_signed, write_signed
from tightframe.knowledge.asking import QuestionPrompt, Retrieved, check_asked
from tightframe.knowledge.clozes import fact_generator
from tightframe.knowledge.data_files import write_records
from tightframe.knowledge.facts import Decoding, Fact, Output
from tightframe.knowledge.options import ScoreOptions
from tightframe.knowledge.qa_models import HUB_NEW_TOKENS, MAX_NEW_TOKENS, QAModel
from tightframe.knowledge.score_tables import Scores, read_outputs, score
from tightframe.results import ResultTable

if TYPE_CHECKING:
    import pandas as pd

SPARE = 4  # tokens beyond the longest gold answer
PAPER_TOKENS, PAPER_TOKENS_BOTH_WAYS = 256, 266  # of an answer, as published


class _Whose(Record):
    """Content of the second file, which says whose answers these are."""

    model: str
    trained_on: str | None


class _Signed(_Whose):
    """Content of the second file where we wrote it."""

    sha256: Sha256  # of the outputs
    fingerprint: str


@dataclasses.dataclass(frozen=True, repr=False)
class Answers(ResultTable):
    """Answers of one model to the questions of a benchmark."""

    name: str  # its file, for messages
    model: str
    trained_on: str | None  # `facts_fingerprint` of the injected facts; None: nothing was injected
    outputs: Mapping[str, Output]  # by question id
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)  # questions by reason
    retrieved: Retrieved | None = None  # passages in front of the questions

    @property
    def one_line(self) -> str:
        """Number of answers, the model, and how many were cut or empty."""
        cut, empty = self.n_cut, sum(not one.text.strip() for one in self.outputs.values())
        return f"{len(self.outputs):,} answers of {self.model}, {cut:,} cut, {empty:,} empty"

    @property
    def n_cut(self) -> int:
        """Number of answers that were cut at the limit."""
        return sum(output.finish == "length" for output in self.outputs.values())

    def score(self, facts: Sequence[Fact], options: ScoreOptions | None = None) -> Scores:
        """Score the answers on the facts that were asked for.

        Args:
            facts: The benchmark.
            options: Divisions of the questions, and what to do about missing answers; by default
                questions that were not asked are left out and counted.
        """
        if options is None:
            options = ScoreOptions(allow_missing=True)
        return score({self.name: [*self.outputs.values()]}, facts, options)

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per question, with the fields of an output."""
        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(output) for output in self.outputs.values()])

    def save(self, path: str | Path) -> Path:
        """Write the answers to a new NAME.jsonl with NAME.json beside it, or a table."""
        path = Path(path)
        if path.suffix != ".jsonl":
            return super().save(path)
        check_new(path)
        save_answers(path, self)
        return path


def by_question(name: str, outputs: Sequence[Output]) -> dict[str, Output]:
    """Return the outputs by question id; refuse a question that was answered twice."""
    found: dict[str, Output] = {}
    for output in outputs:
        if output.question_id in found:
            raise UserError(
                f"{name}: two outputs for question {output.question_id}, expected one; answer it "
                "again into a new file"
            )
        found[output.question_id] = output
    return found


def save_answers(path: str | Path, answers: Answers) -> None:
    """Write the outputs, then the file that identifies the model and its facts."""
    path = Path(path)
    write_records(path, (dataclasses.asdict(output) for output in answers.outputs.values()))
    whose = {"model": answers.model, "trained_on": answers.trained_on, "sha256": sha256(path)}
    write_signed(_whose(path), whose)


def load_answers(path: str | Path) -> Answers:
    """Load answers that `save_answers` wrote."""
    path = Path(path)
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: expected a file of outputs, NAME.jsonl")
    outputs = read_outputs(path)
    if not _whose(path).is_file():
        raise UserError(
            f"{_whose(path)}: missing, so nobody can tell which facts the model of {path.name} was "
            'trained on; write {"model": NAME, "trained_on": FINGERPRINT}, that of '
            "its cluster in clusters.json, or null for a model that was trained on no facts"
        )
    written, remedy = read_json(_whose(path)), "mend it, or answer again"
    if isinstance(written, dict) and written.keys() & {"sha256", "fingerprint"}:
        whose: _Whose = read_signed(_whose(path), _Signed, remedy=remedy)
        check_digest(path, written["sha256"])
    else:
        whose = read_json(_whose(path), _Whose, remedy=remedy)
    return Answers(str(path), whose.model, whose.trained_on, by_question(str(path), outputs))


def _whose(path: Path) -> Path:
    return path.with_suffix(".json")


def check_new(path: Path) -> None:
    """Refuse what cannot become a new file of results, before the work and not after it."""
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: expected a name that ends with .jsonl")
    for one in (path, path.with_suffix(".json")):
        if one.exists():
            raise UserError(f"{one}: already exists; remove it or choose another name with --out")


def answer_questions(
    model: QAModel,
    asked: Sequence[QuestionPrompt],
    *,
    max_new_tokens: int | None = None,
    decoding: Decoding = "greedy",
    seed: int = 0,
    name: str | None = None,
) -> list[Output]:
    """Return the answers of a model, in the order of the questions.

    Args:
        model: Model to ask.
        asked: At least one; a question too long for the model is refused, never cut.
        max_new_tokens: Where an answer that does not end is cut; by default `token_limit`.
        decoding: greedy: the likeliest tokens. paper: a model that reads left to right draws them
            at temperature 1, others stay greedy; both go on for longer.
        seed: Decides with a question's id what is drawn for it.
        name: Name of the model in the outputs, where it was shown something.

    Returns:
        Outputs; their `seconds` are the time of the whole over the number of questions, since
        they are answered in batches.
    """
    check_asked(asked)
    prompts = [one.prompt for one in asked]
    limit = max_new_tokens or token_limit(model, asked, decoding=decoding)
    generators = None
    if decoding == "paper":
        generators = [fact_generator(seed, one.question_id) for one in asked]
    begun = time.perf_counter()
    generations = model.answer(prompts, max_new_tokens=limit, generators=generators)
    seconds = (time.perf_counter() - begun) / len(asked)
    return [
        Output(
            one.question_id,
            one.fact_id,
            one.type,
            name or model.name,
            found.text,
            seconds,
            found.finish,
            decoding,
            found.template,
        )
        for one, found in zip(asked, generations, strict=True)
    ]


def token_limit(
    model: QAModel, asked: Sequence[QuestionPrompt], *, decoding: Decoding = "greedy"
) -> int:
    """Return the maximum tokens of an answer: enough for every gold one.

    A network of ours gets 32, or 4 more than the longest alias with its end if that is more; other
    models get 64. With the published decoding, models that read left to right get 256, others 266.
    A network of ours gets fewer if the longest prompt leaves fewer positions; with a retrieved
    context it keeps its usual limit.
    """
    from tightframe.knowledge.networks import Network  # imports torch

    ours = isinstance(model, Network)
    if decoding == "paper" and not (ours and any(one.prompt.context for one in asked)):
        if not isinstance(model, Network):
            kind = getattr(model, "kind", "causal")
            return PAPER_TOKENS if kind == "causal" else PAPER_TOKENS_BOTH_WAYS
        wanted = PAPER_TOKENS if model.layout == "causal" else PAPER_TOKENS_BOTH_WAYS
        return min(wanted, model.room([one.prompt for one in asked]))
    if not isinstance(model, Network):
        return HUB_NEW_TOKENS
    longest = max(len(model.tokenizer.target(alias)) for one in asked for alias in one.answers)
    return max(MAX_NEW_TOKENS, longest + SPARE)


def write_answers(
    path: str | Path,
    model: QAModel,
    asked: Sequence[QuestionPrompt],
    *,
    trained_on: str | None,
    max_new_tokens: int | None = None,
    decoding: Decoding = "greedy",
    seed: int = 0,
    name: str | None = None,
) -> Answers:
    """Answer the questions into a new file, written whole; one that exists is refused.

    Args:
        path: NAME.jsonl; NAME.json beside it says whose answers these are.
        model: Model to ask.
        asked: At least one.
        trained_on: `facts_fingerprint` of the injected facts; None: nothing was injected.
        max_new_tokens: See `answer_questions`, also for what follows.
        decoding: How tokens are chosen.
        seed: Seed of what is drawn.
        name: Name of the model in the outputs.
    """
    path = Path(path)
    check_new(path)
    outputs = answer_questions(
        model, asked, max_new_tokens=max_new_tokens, decoding=decoding, seed=seed, name=name
    )
    answers = Answers(str(path), name or model.name, trained_on, by_question(str(path), outputs))
    save_answers(path, answers)
    return answers
