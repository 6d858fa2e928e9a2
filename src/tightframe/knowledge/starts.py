"""What an injection starts from: a new network, a run or checkpoint of ours, or others' model."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tightframe.corpus.model_tokenizer import load_tokenizer
from tightframe.errors import UserError
from tightframe.knowledge.clozes import spans
from tightframe.knowledge.exchanges import Arm, Objective
from tightframe.knowledge.facts import Fact
from tightframe.knowledge.injection_runs import InjectionRun, InjectSettings
from tightframe.knowledge.learners import Learner
from tightframe.knowledge.lessons import Wordings
from tightframe.knowledge.networks import (
    ABOUT,
    Network,
    with_special_tokens,
)
from tightframe.knowledge.word_pieces import Coder
from tightframe.lm import hardware
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer
from tightframe.settings import read_toml

EVERY_WORDING = Wordings(paraphrases=True, reordered=True)


def start(settings: InjectSettings, facts: Sequence[Fact]) -> tuple[Learner, Objective]:
    """The learner before its first lesson, and what it is taught.

    Args:
        settings: Of the run.
        facts: What it will be taught: a new vocabulary is made from them.
    """
    arm, folder = settings.asked_arm, Path(settings.model).expanduser()
    name = settings.out.resolve().name
    if not settings.model:
        assert arm is not None  # as the settings have been checked
        return _new(settings, arm, facts, name), arm.objective
    if _is_injection(folder):
        run = InjectionRun.open(folder)
        folder = run.checkpoint(run.kept())
    if (folder / ABOUT).is_file():
        network = Network.load(folder)
    elif arm is not None:
        network = _language_model(settings.model, arm, seed=settings.seed)
    else:
        return _hub(dataclasses.replace(settings, model=str(folder)), facts, name)
    _retrain(network, arm, settings, facts)
    network.name = name
    return network, network.objective


def load(folder: Path) -> Learner:
    """The learner of a checkpoint folder of an injection."""
    if (folder / ABOUT).is_file():
        return Network.load(folder)
    from tightframe.knowledge.hub_learners import load_hub_learner

    return load_hub_learner(folder)


def texts_in_use(facts: Sequence[Fact], wordings: Wordings = EVERY_WORDING) -> Iterator[str]:
    """What a new vocabulary is made from: facts in all wordings, questions and answers.

    Articles are among the wordings only where they are trained on.
    """
    for fact in facts:
        yield from wordings.of(fact)
        for pair in fact.generated_qas:
            yield from (pair.question, pair.answer)
        for question in fact.questions:
            yield from (question.prompt, *question.answers)


def _new(settings: InjectSettings, arm: Arm, facts: Sequence[Fact], name: str) -> Network:
    coder = Coder.train(texts_in_use(facts, _every(settings)), settings.vocab_size)
    config = TransformerConfig(
        vocab_size=coder.vocab_size,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        positions=settings.positions,
        window=0,
        attention_bias=True,
        scale_attention=True,
    )
    sizes = f"a network of width {config.width:,} and depth {config.depth:,}"
    hardware.check_memory(
        config.training_bytes(1), hardware.device_named(settings.device), what=sizes
    )
    n_slots = _n_slots(coder, facts, settings) if arm.layout == "slots" else 0
    return Network.new(arm, coder, config, seed=settings.seed, n_slots=n_slots, name=name)


def _is_injection(folder: Path) -> bool:
    path = folder / "config.toml"
    return path.is_file() and "data" in read_toml(path)


def _language_model(source: str, arm: Arm, *, seed: int) -> Network:
    """A causal language model of ours (any GPT-Neo is one) as an arm."""
    from tightframe.lm.load import load_model, own_tokenizer

    if arm.layout == "encoder-decoder":
        raise UserError(
            f"{source}: can't go on as arm {arm.name}: a language model has one stack of blocks, "
            "and no weights for a second one and its attention to the first; choose another arm, "
            f"or train {arm.name} from scratch (without a model) and go on from that run"
        )
    model = load_model(source)
    if not isinstance(model, Transformer):
        raise UserError(
            f"{source}: can't be trained as arm {arm.name}, which is for Transformers of ours; "
            "leave arm out"
        )
    own = own_tokenizer(source)
    if own is None:
        raise UserError(
            f"{source}: its tokenizer is not where it was; put tokenizer.json beside the weights"
        )
    tokenizer = load_tokenizer(own)
    coder = Coder.extend(tokenizer.tokenizer, end_of_text=tokenizer.end_of_text)
    extended = with_special_tokens(model.float(), coder, seed=seed)
    return Network(model.name, extended, coder, arm.layout, arm.objective, n_slots=0)


def _retrain(
    network: Network, arm: Arm | None, settings: InjectSettings, facts: Sequence[Fact]
) -> None:
    """Let a network go on as another arm of the same weights."""
    if arm is not None:
        if (arm.layout == "encoder-decoder") != (network.layout == "encoder-decoder"):
            raise UserError(
                f"{settings.model}: is {network.layout}, which can't become arm {arm.name}: an "
                "encoder-decoder has a second stack of blocks and attention to the first, which "
                "the others lack; choose an arm of its kind, or leave arm out"
            )
        network.layout, network.objective = arm.layout, arm.objective
    if network.layout == "slots":
        needed = _n_slots(network.coder, facts, settings)
        network.n_slots = max(network.n_slots, needed)


def _n_slots(coder: Coder, facts: Sequence[Fact], settings: InjectSettings) -> int:
    """Tokens of the longest span or answer, its end included."""
    texts = (text for fact in facts for text in _every(settings).of(fact))
    masked = (one.span for text in texts for one in spans(text, settings.max_span))
    answers = (
        answer for fact in facts for question in fact.questions for answer in question.answers
    )
    return max(len(coder.target(text)) for text in {*masked, *answers})


def _every(settings: InjectSettings) -> Wordings:
    """All wordings, so that runs that show others of them have the same vocabulary."""
    return EVERY_WORDING._replace(articles=settings.articles)


def _hub(settings: InjectSettings, facts: Sequence[Fact], name: str) -> tuple[Learner, Objective]:
    """A model of transformers; it is told how long answers are."""
    from tightframe.knowledge.hub_learners import LoRA, load_hub_learner
    from tightframe.knowledge.hub_masked import MaskedLearner

    learner = load_hub_learner(
        settings.model,
        objective=None if settings.objective == "auto" else settings.objective,
        dtype=getattr(torch, settings.dtype),
        attention=settings.attention or None,
        lora="auto" if settings.lora is None else LoRA() if settings.lora else None,
        name=name,
        seed=settings.seed,
        paper_format=settings.paper_format or None,
    )
    if isinstance(learner, MaskedLearner):
        learner.room_for(a for fact in facts for asked in fact.questions for a in asked.answers)
    return learner, learner.record.objective
