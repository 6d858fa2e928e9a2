"""Options of the commands on facts, each documented here alone.

The command line and the Python functions take these classes. They check all that can be checked
without a file, and import no numerical library.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from annotated_types import Ge, Gt  # pydantic's own, without importing pydantic

from tightframe.errors import UserError, nearest

Type: TypeAlias = Literal[
    "reliability",
    "generality",
    "paraphrase",
    "portability",
    "factual",
    "counterfactual",
    "locality",
    "forward",
    "backward",
]
EVERY_TYPE: tuple[Type, ...] = get_args(Type)
DIRECTIONS: tuple[Type, ...] = ("forward", "backward")
TYPES: tuple[Type, ...] = EVERY_TYPE[:7]  # written and asked by default

Rule: TypeAlias = Literal["most-probable", "lowest-index", "oracle"]
RULES: tuple[Rule, ...] = get_args(Rule)
By: TypeAlias = Literal["type", "year", "month", "day", "position"]


def question_types(names: Iterable[str] | None) -> tuple[Type, ...]:
    """Return the named types of questions in their usual order; all of them for None."""
    chosen = list(TYPES if names is None else names)
    for name in chosen:
        if name not in EVERY_TYPE:
            raise UserError(
                f"--types {name}: unknown{nearest(name, EVERY_TYPE)}; expected some of"
                f" {', '.join(EVERY_TYPE)}"
            )
    return tuple(one for one in EVERY_TYPE if one in chosen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """Options of writing questions or clozes.

    Args:
        backend: rules: offline, the same bytes from the same facts. llm: an endpoint of the OpenAI
            format at TIGHTFRAME_LLM_BASE_URL, with TIGHTFRAME_LLM_MODEL and TIGHTFRAME_LLM_KEY
            from the environment; replies are kept beside the new file, and never requested twice.
        types: Types to write: reliability (the fact's subject), generality (another part of it),
            paraphrase (the first in other words), portability (two facts at once), factual and
            counterfactual (true or false), locality (older knowledge); default: these seven. By
            rules also forward and backward (the end of a fact by its beginning, its subject by
            what follows). Types that a fact already has are kept.
        known: With rules: JSON lines of prompt and answers, older knowledge for locality
            questions.
        seed: With rules: seed for the choice of what replaces the target in an altered fact.
        strict: Drop questions whose answer does not occur in the hook, and refuse a file with any
            fault; otherwise these are warnings.
    """

    backend: Literal["rules", "llm"] = "rules"
    types: tuple[str, ...] = TYPES
    known: Path | None = None
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", question_types(self.types))
        if self.known is not None and self.backend == "llm":
            raise UserError("--known is for --backend rules; the endpoint writes its own locality")
        if self.backend == "llm" and {*DIRECTIONS} & {*self.types}:
            raise UserError("--types forward, backward: only rules write them; use --backend rules")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordingOptions:
    """Options of writing other wordings of facts; wordings that a fact already has are kept.

    Args:
        reordered: Add the fact with its answer at the end, after all its clues; offline.
        paraphrases: Number of paraphrases to request, of an endpoint as for `questions --backend
            llm`.
        generated_qas: Request question-answer pairs from the endpoint, other than the questions
            that the fact has.
        strict: Refuse a file with any fault.
    """

    reordered: bool = False
    paraphrases: int = 0
    generated_qas: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        if self.paraphrases < 0:
            raise UserError(f"--paraphrases {self.paraphrases}: expected a number from 1 on")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RouterOptions:
    """Options of training a scope classifier and routing questions by it.

    Args:
        rule: Cluster that answers among those above the threshold: the most probable, the one of
            the lowest number (as published), or, as an upper bound, the true one whatever its
            probability.
        threshold: Probability above which a cluster takes a question (default: 0.5).
        calibrate: Share, from 0 to 1, of the facts whose questions calibrate the probabilities,
            and of the negatives that do and are not trained on; the report leaves those questions
            out.
        false_accepts: With calibrate: choose the lowest threshold that accepts at most this share
            of negatives.
        seed: Seed of the choice of what to calibrate on, and of the fine-tuning.
    """

    rule: Rule = "most-probable"
    threshold: float | None = None
    calibrate: float = 0.0
    false_accepts: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.calibrate < 1:
            raise UserError(f"calibrate = {self.calibrate:g}: expected a share in [0, 1)")
        if self.false_accepts is None:
            return
        if not 0 <= self.false_accepts <= 1:
            raise UserError(f"false accepts = {self.false_accepts:g}: expected a share in [0, 1]")
        if not self.calibrate:
            raise UserError("a share of false accepts needs facts to calibrate on; set calibrate")
        if self.threshold is not None:
            raise UserError("a threshold and a share of false accepts: give one, not both")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Options of scoring outputs.

    Args:
        by: Divisions of all questions and of each type: by year, month, day, or position (whether
            the answer starts in the front half of its fact, in the back half, or is not in it).
        allow_missing: Leave out and count questions without output, instead of refusing.
        seed: Seed of the resamples of facts.
    """

    by: tuple[By, ...] = ("type",)
    allow_missing: bool = False
    seed: int = 0


QuestionForm: TypeAlias = Literal[
    "cloze_seen",
    "cloze_question",
    "raw_question",
    "left_context",
    "question",
    "cloze",
    "forward",
    "backward",
]
OF_THE_FACT: tuple[QuestionForm, ...] = ("cloze_seen", "left_context")
Passages: TypeAlias = Literal["facts", "articles"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """Options of asking a model for facts.

    Args:
        form: Form of the questions. cloze_seen masks the answer in the fact; cloze_question masks
            the wh-phrase of its question; raw_question puts a mask after the question;
            left_context gives the words before the answer. These four ask reliability questions.
            forward and backward ask the questions of that type.
            question asks all questions in their own words (of a model of transformers in its chat
            template, where it has one), cloze by their clozes where they have one.
        types: Types of questions, see `tightframe knowledge questions --help`; all by default.
        reordered: Ask by the reordered wording of the fact (its answer at the end, see `tightframe
            knowledge reword`): cloze_seen and left_context.
        context: Baseline of retrieval: put the nearest facts, or articles of facts, in front of
            each question; their first words are cut where the model has no room for all.
        top: With context: maximum number of passages.
        embedder: With context: measure of nearness; tf-idf, or an encoder by folder or hub name.
        max_new_tokens: Tokens after which an answer is cut. By default 32, or the longest gold
            answer and 4 more; 64 for models of the hub.
        paper_decoding: As published, for comparison only: models that read left to right draw their
            tokens at temperature 1, up to 256; others stay greedy, up to 266 (networks of ours: as
            many as their positions leave). Every answer records it.
        steps: Passes in which a diffusion network fills an answer; as many as it has tokens if 0.
        seed: Decides with a question's id what is drawn for it.
    """

    form: QuestionForm = "question"
    types: tuple[str, ...] = TYPES
    reordered: bool = False
    context: Passages | None = None
    top: int = 3
    embedder: str = "tf-idf"
    max_new_tokens: int | None = None
    paper_decoding: bool = False
    steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", question_types(self.types))
        if self.reordered and self.form not in OF_THE_FACT:
            raise UserError(
                f"--reordered: needs --form {' or '.join(OF_THE_FACT)}, not {self.form}"
            )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UserError(f"--max-new-tokens: is {self.max_new_tokens}, expected at least 1")
        if self.top < 1:
            raise UserError(f"--top: is {self.top}, expected at least 1")
        if self.steps < 0:
            raise UserError(f"--steps: is {self.steps}, expected at least 1, or 0 for all")

    @property
    def name(self) -> str:
        """Name of the file of answers."""
        parts = [self.form, *(["reordered"] if self.reordered else [])]
        parts += [f"with_{self.context}"] if self.context else []
        return "_".join([*parts, *(["paper"] if self.paper_decoding else [])])


@dataclasses.dataclass(frozen=True, kw_only=True)
class MainInjectOptions:
    """Settings of an injection that are options of the command line, too; `--set` takes the others.

    Args:
        arm: Network of ours, by how it reads and what it learns. clm_ntp or causal: left to right,
            whole sentences; clm_sp or causal_span: left to right, masked words; bilm_sp or
            prefix_span: the sentence both ways, masked words; bilm_mlm or masked: the same, all
            words at once; bilm_ed or encoder_decoder: the same, an encoder and a decoder;
            clm_masked or causal_masked: left to right, the sentence after a copy with words hidden;
            clm_noise or causal_noise: left to right, whole sentences with input tokens hidden;
            bilm_diffusion or diffusion: both ways, hidden tokens in their place.
        model: Model to continue from: a run or checkpoint of ours (with an arm, or as it was), or a
            model of transformers, as a folder or a name on the hub.
        objective: Training objective: whole sentences (ntp), masked words (sp), answers to
            questions (qa), masked tokens (mlm); whole sentences after a copy with words hidden
            (restore), or read with tokens hidden (noise); hidden tokens in their place (diffusion);
            auto, the default: that of the arm, or what suits the model.
        exposures: Number of times that each fact is shown; 500, if no preset says otherwise.
        n_facts: Number of facts to inject, the first ones; 0, the default, for all of them.
        preset: Published settings by name, e.g. paper-t5-large; explicit settings win.
        batch_tokens: Tokens in a step, padding included, instead of 16 examples.
        seed: Seed of the weights, the masked words and the order.
        precision: Precision of the training: bf16 multiplies in bfloat16, over float32 weights.
        device: Device to train on.
    """

    arm: str = ""
    model: str = ""
    objective: Literal["auto", "ntp", "sp", "qa", "mlm", "restore", "noise", "diffusion"] = "auto"
    exposures: Annotated[int, Gt(0)] = 500
    n_facts: Annotated[int, Ge(0)] = 0
    preset: str = ""
    batch_tokens: Annotated[int, Ge(0)] = 0
    seed: Annotated[int, Ge(0)] = 0
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyOverrides:
    """Settings of a study that replace those of its file; None is not given.

    Args:
        arms: Arms instead of the file's grid, e.g. clm_sp,bilm_sp; ARM_reordered learns reordered
            facts.
        n_facts: Numbers of facts instead of the file's grid, e.g. 80,200: the first so many.
        seeds: Seeds instead of the file's grid, e.g. 0,1,2.
        exposures: Number of times that each fact is shown.
        batch_tokens: Tokens in a step, padding included, instead of 16 examples. Arms that take as
            many tokens for an example (clm_sp and bilm_sp do) still see the same batches.
    """

    arms: tuple[str, ...] | None = None
    n_facts: tuple[int, ...] | None = None
    seeds: tuple[int, ...] | None = None
    exposures: int | None = None
    batch_tokens: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Options of dividing facts into clusters.

    Args:
        by: semantic: by content, as a Gaussian mixture over embeddings; time: by date, in runs of
            equal size.
        whole_days: With time: divide no day, so that sizes may differ.
        embedder: Embedder of the facts: tf-idf (words and pairs of words, weighted), or an encoder
            of sentence-transformers by folder or hub name.
        seed: Seed of the mixture's start.
    """

    by: Literal["semantic", "time"] = "semantic"
    whole_days: bool = False
    embedder: str = "tf-idf"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.whole_days and self.by != "time":
            raise UserError("--whole-days: needs --by time; semantic clusters know no days")
