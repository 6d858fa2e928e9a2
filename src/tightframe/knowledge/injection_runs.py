"""Run directory of an injection: its settings, presets of them, and the facts that it injects.

RUN/config.toml      the settings
RUN/facts.jsonl      the injected facts, with their questions
RUN/log.jsonl        fingerprints of facts and training examples, then one record on each line
RUN/checkpoints/     the model after so many steps
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import pydantic
from annotated_types import Ge, Le
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from tightframe.errors import UserError, nearest
from tightframe.files import check_writable, fingerprint
from tightframe.knowledge.benchmark import load_benchmark, read_facts
from tightframe.knowledge.facts import Fact, facts_fingerprint, study_eligible
from tightframe.knowledge.lessons import FactTexts
from tightframe.knowledge.options import MainInjectOptions
from tightframe.knowledge.qa_models import Arm, find_arm, named_arm
from tightframe.knowledge.scores import position
from tightframe.lm.folders import check_loadable, check_model
from tightframe.lm.options import Share, TransformerConfig
from tightframe.lm.runs import (
    RunFolder,
    as_recorded,
    check_device,
    check_fits,
    check_threads,
    free_cpu_memory,
    may_have_gpu,
)
from tightframe.settings import given_settings

_COMMON = {
    "exposures": 1000,
    "schedule": "linear",
    "warmup": 0.0,
    "final_rate": 0.0,
    "weight_decay": 0.0,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "clip": 1.0,
    "seed": 42,
    "precision": "bf16",
}
_T5 = {**_COMMON, "objective": "sp", "batch": 128, "lora": False}
_CLM = {**_COMMON, "batch": 256, "lora": False}
_CLM_LORA = {**_CLM, "lora": True, "learning_rate": 2e-4}

# `batch` is what an optimizer step sees on all devices together; `lora`: rank 32, alpha 16.
PRESETS = MappingProxyType(
    {
        "paper-t5-base": {**_T5, "learning_rate": 3e-4},
        "paper-t5-large": {**_T5, "learning_rate": 1e-4},
        "paper-clm-ntp": {**_CLM, "objective": "ntp", "learning_rate": 2e-5},
        "paper-clm-ntp-lora": {**_CLM_LORA, "objective": "ntp"},
        "paper-clm-sp": {**_CLM, "objective": "sp", "learning_rate": 2e-6},
        "paper-clm-sp-1b": {**_CLM, "objective": "sp", "learning_rate": 2e-5},
        "paper-clm-sp-lora": {**_CLM_LORA, "objective": "sp"},
        "paper-clm-qa": {**_CLM, "objective": "qa", "learning_rate": 2e-5},
        "paper-clm-qa-lora": {**_CLM_LORA, "objective": "qa"},
        "paper-roberta-large": {
            **_COMMON,
            "objective": "mlm",
            "batch": 512,
            "learning_rate": 1e-5,
            "lora": False,
        },
        # One model per cluster; published with 64 rows on each of 2 to 4 devices.
        "paper-cluster-t5-base": {**_T5, "learning_rate": 3e-4},
        "paper-cluster-t5-large": {**_T5, "learning_rate": 1e-4},
    }
)


def preset(name: str) -> dict[str, Any]:
    """Return the settings of a preset, as a new dictionary each time."""
    if name not in PRESETS:
        raise UserError(
            f"unknown preset '{name}'{nearest(name, PRESETS)}; expected one of {', '.join(PRESETS)}"
        )
    return dict(PRESETS[name])


# Layouts that an objective is for; the others are for any but in_place.
OF_LAYOUT = {
    "diffusion": ("in_place",),
    "sp": ("causal", "prefix", "slots", "encoder-decoder", "in_place"),
    "restore": ("causal", "prefix"),
    "noise": ("causal", "prefix"),
}

FACTS = "facts.jsonl"
ENSEMBLE = "ensemble.toml"  # of a folder that is an ensemble of runs
NETWORK = "network.json"  # of a checkpoint of ours, beside its weights


@pydantic.dataclasses.dataclass(
    frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
)
class InjectOptions(MainInjectOptions):
    """All settings of one injection: its files (`data`, `out`), its model and its training.

    Those that are options of the command line, too, are documented in `MainInjectOptions`.
    """

    data: Path  # facts, in any format that `knowledge validate` takes
    out: Path  # the run directory

    # What learns: an arm of our own networks, a model to go on from, or both.
    lora: bool | None = (
        None  # adapters in a causal model of transformers; None: above 3B parameters
    )
    paper_format: bool = False  # no end after a sentence of such a model, as published
    dtype: Literal["float32", "bfloat16"] = (
        "float32"  # of such a model's weights; adapters: float32
    )
    attention: str = ""  # transformers' attn_implementation for it; "": its own choice

    # Which facts, and how often.
    select: Literal["all", "eligible"] = "all"  # eligible: short verbatim answer, short fact
    skip: NonNegativeInt = 0  # of the selected facts, how many are passed over
    balance_position: bool = False  # as many answers in the front half of their fact as in the back
    max_span: PositiveInt = 5  # words of the longest masked span
    noise: Share = 0.15  # share of input tokens hidden in "noise"
    loss_on: Literal["all", "masked"] = "all"  # "restore" learns the sentence, or hidden words only
    paraphrases: bool = False  # share a fact's exposures with it
    reordered: bool = False  # share a fact's exposures with it
    articles: bool = False  # instead of a fact its article, where it has one
    qa_ratio: float = -1.0  # share of question-answer examples in "qa"; -1: one per exposure

    # Our own networks, from scratch.
    vocab_size: PositiveInt = 1500  # at most, of a BPE trained on the facts and questions in use
    width: PositiveInt = 128  # length of an embedding
    depth: PositiveInt = 2  # number of blocks
    heads: PositiveInt = 4
    positions: PositiveInt = 160  # tokens of the longest example

    # The course of the training: one pass over all examples.
    batch: PositiveInt = 16  # examples in a step
    learning_rate: PositiveFloat = 2e-3  # its peak
    schedule: Literal["linear", "cosine", "constant"] = "cosine"  # decay after the warm-up
    # Below 1 a share of all steps, else steps; None: 200, or a tenth of all if that is fewer.
    warmup: NonNegativeFloat | None = None
    final_rate: Share = 0.1  # where the decay ends, as a share of the peak
    weight_decay: NonNegativeFloat = 0.01  # matrices only: neither biases nor norms
    betas: tuple[Share, Share] = (0.9, 0.98)
    eps: PositiveFloat = 1e-8
    clip: NonNegativeFloat = 1.0  # largest norm of the whole gradient; 0: not clipped
    dropout: Share = 0.0  # of what each part of a block adds, in networks of ours

    # When it ends before: once it has memorized enough, as seen at every tenth of its steps.
    until: Annotated[float, Ge(0), Le(100)] = 0.0  # percent of the facts as seen; 0: to the end
    sample: PositiveInt = 200  # facts that are asked for at such a check, at most

    # What is kept. The end of the training is always a checkpoint.
    checkpoints: tuple[PositiveInt, ...] = ()  # exposures after which the model is kept, too
    log_every: PositiveInt = 50  # steps between the records of log.jsonl
    save_every: PositiveInt = 500  # steps between states to resume from; each replaces the last

    # The machine. What is "auto" or 0 is chosen once and recorded.
    threads: NonNegativeInt = 0  # bits on a CPU depend on it; 0: as many as torch takes

    @pydantic.model_validator(mode="before")
    @classmethod
    def _supplied_by_preset(cls, values: Any) -> Any:
        given = given_settings(values)
        if isinstance(given.get("arm"), str):
            given["arm"] = named_arm(given["arm"]) or given["arm"]
        name = given.get("preset", "")
        return {**preset(name), **given} if isinstance(name, str) and name else given

    @pydantic.model_validator(mode="after")
    def _can_be_run(self) -> "InjectOptions":
        if not self.arm and not self.model:
            raise ValueError("neither arm nor model is given; name an arm, e.g. arm=bilm_sp")
        if self.arm:
            arm = find_arm(self.arm)
            if self.objective == "mlm":
                raise ValueError(
                    "objective mlm is for encoder-only models of transformers; arm bilm_mlm learns "
                    "spans in slots"
                )
            if arm.layout == "slots" and self.objective not in ("auto", "sp"):
                raise ValueError(
                    f"arm {arm.name} reads its answers off slots, so it can't learn objective "
                    f"{self.objective}; choose another arm, or sp"
                )
            fills = arm.layout == "in_place"
            learns = OF_LAYOUT.get(self.objective, (arm.layout,) if not fills else ())
            if self.objective != "auto" and arm.layout not in learns:
                raise ValueError(
                    f"arm {arm.name} can't learn objective {self.objective}; leave objective out, "
                    "or choose another arm"
                )
        if self.articles and (self.paraphrases or self.reordered or self.objective == "qa"):
            raise ValueError(
                "articles stand in the place of facts, which paraphrases, reordered and objective "
                "qa go with; leave one of the two out"
            )
        if self.qa_ratio != -1 and not 0 < self.qa_ratio < 1:
            raise ValueError(f"qa_ratio is {self.qa_ratio:g}, expected -1 or a share in (0, 1)")
        late = [exposures for exposures in self.checkpoints if exposures > self.exposures]
        if late:
            raise ValueError(
                f"a checkpoint at {late[0]} exposures, but the run has {self.exposures}; change "
                "`checkpoints` or `exposures`"
            )
        return self

    @property
    def texts(self) -> FactTexts:
        """Texts of a fact that are shown."""
        return FactTexts(self.paraphrases, self.reordered, self.articles)

    @property
    def chosen_arm(self) -> Arm | None:
        """Arm of our own networks, with the requested objective."""
        if not self.arm:
            return None
        arm = find_arm(self.arm)
        if self.objective == "auto":
            return arm
        return dataclasses.replace(arm, objective=self.objective)


class InjectionRun(RunFolder[InjectOptions]):
    """Directory of an injection."""

    SETTINGS = InjectOptions
    MADE_BY = "tightframe knowledge inject"
    MADE_FROM = "data"

    @property
    def injected(self) -> tuple[Fact, ...]:
        """Facts that the model was trained on, with their questions."""
        facts = tuple(read_facts(self.path / FACTS))
        if self.facts.get("facts") != facts_digest(facts):
            raise UserError(
                f"{self.path / FACTS}: not the facts and questions that this run was made from; "
                "inject again elsewhere"
            )
        return facts


def check_injection(settings: InjectOptions, facts: Sequence[Fact] | None = None) -> None:
    """Refuse an injection that cannot begin, before torch is loaded.

    Args:
        settings: As they were given, with "auto" where the machine decides.
        facts: Facts to choose from; by default those of `settings.data`.
    """
    facts = load_benchmark(settings.data) if facts is None else facts
    facts = choose_facts(facts, settings)
    check_threads(settings.threads)
    check_device(settings.device)
    check_network(settings)
    check_start(settings)
    check_writable(settings.out)
    if (settings.out / "config.toml").exists():
        settings = as_recorded(settings, InjectionRun.open(settings.out).settings)
    InjectionRun.check_place(settings, {"data": facts_fingerprint(facts)})


def check_network(settings: InjectOptions) -> None:
    """Refuse sizes of a new network that are impossible, or that no memory can hold.

    Its vocabulary is trained on the facts, so that here it counts as one token.
    """
    if settings.model:
        return
    config = TransformerConfig(
        vocab_size=1,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        positions=settings.positions,
    )
    if settings.device == "cpu" or (settings.device == "auto" and not may_have_gpu()):
        sizes = f"a network of width {config.width:,} and depth {config.depth:,}"
        check_fits(config.training_bytes(1), free_cpu_memory(), "cpu", what=sizes)


def check_start(settings: InjectOptions) -> None:
    """Refuse a model to go on from that does not exist."""
    folder = Path(settings.model).expanduser()
    if not settings.model or (folder / NETWORK).is_file():
        return
    if (folder / "config.toml").is_file():
        RunFolder.open(folder).kept()
    elif settings.arm:
        check_model(settings.model)
    else:
        check_loadable(settings.model)


def check_answerable(source: Path, device: str) -> None:
    """Refuse what cannot be asked: no finished run of an injection, nor a model of transformers."""
    check_device(device)
    if not (source / "config.toml").is_file():
        check_loadable(str(source))
        return
    opened = InjectionRun.open(source)
    _ = opened.settings  # another kind of run is refused here
    if not opened.finished:
        raise UserError(
            f"{source}: its injection has not come to its end; go on with it by "
            f"`{InjectionRun.MADE_BY}`, then ask"
        )


def check_askable(path: Path, device: str) -> None:
    """Refuse what no typed question can be put to: no finished run, nor an ensemble of runs."""
    check_device(device)
    if path.is_file() or (path / ENSEMBLE).is_file():
        return
    if not (path / "config.toml").is_file():
        raise not_askable(path)
    check_answerable(path, device)


def not_askable(path: Path) -> UserError:
    """Return the error of a path that is no run of an injection, and no ensemble of runs."""
    found = "is neither" if path.exists() else "no such file or folder"
    return UserError(
        f"{path}: {found}; expected a run of `tightframe knowledge inject` (config.toml), or an "
        f"ensemble ({ENSEMBLE}: router, runs, fallback)"
    )


def facts_digest(facts: Sequence[Fact]) -> str:
    """Return twelve hexadecimal digits that change with any fact or question."""
    return fingerprint([fact.to_dict() for fact in facts])


def choose_facts(facts: Sequence[Fact], settings: InjectOptions) -> list[Fact]:
    """Choose the facts that a run injects, in the order of their file; refuse too few."""
    chosen = [fact for fact in facts if settings.select == "all" or study_eligible(fact)]
    chosen = chosen[settings.skip :]
    wanted = settings.n_facts or len(chosen)
    if settings.balance_position:
        chosen = _balanced(chosen, wanted)
    if len(chosen) < wanted or not chosen:
        kind = "facts" if settings.select == "all" else "study-eligible facts"
        after = f" after the first {settings.skip:,}" if settings.skip else ""
        balance = " or balance_position" if settings.balance_position else ""
        raise UserError(
            f"{settings.data}: {len(chosen):,} {kind}{after} are left to inject, expected "
            f"{max(1, wanted):,}; change n_facts, skip or select{balance}"
        )
    return chosen[:wanted]


def _balanced(facts: Sequence[Fact], n_facts: int) -> list[Fact]:
    """Choose the first so many, half with the answer in the front of the fact, half in the back."""
    places = {"front": n_facts - n_facts // 2, "back": n_facts // 2}
    chosen = []
    for fact in facts:
        asked = next((one for one in fact.questions if one.type == "reliability"), None)
        place = position(asked.answers, fact.fact) if asked else "not in fact"
        if places.get(place, 0) > 0:
            places[place] -= 1
            chosen.append(fact)
    return chosen
