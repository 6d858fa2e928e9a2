"""Train a model on facts: from what it starts, through its examples, to a model that answers."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tightframe.corpus.model_tokenizer import load_tokenizer
from tightframe.errors import UserError
from tightframe.files import exclusive
from tightframe.knowledge.benchmark import load_benchmark, write_facts
from tightframe.knowledge.clozes import spans
from tightframe.knowledge.facts import Fact, facts_fingerprint
from tightframe.knowledge.hub import LoRA
from tightframe.knowledge.hub_load import load_hub_model
from tightframe.knowledge.hub_masked import MaskedQAModel
from tightframe.knowledge.injection_runs import (
    FACTS,
    InjectionRun,
    InjectOptions,
    choose_facts,
    facts_digest,
)
from tightframe.knowledge.layouts import MaskingOptions
from tightframe.knowledge.lessons import ExampleStream, FactTexts, TokenBudget
from tightframe.knowledge.memorized import CHECKS, memorized, sampled
from tightframe.knowledge.networks import ABOUT, Model, Network
from tightframe.knowledge.qa_models import Arm, Objective, QAModel, TrainingExample
from tightframe.knowledge.word_pieces import ClozeTokenizer
from tightframe.lm import hardware, optimizer
from tightframe.lm.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from tightframe.lm.interface import Batch, Example, collate
from tightframe.lm.options import TransformerConfig, learning_rate, warmup_steps
from tightframe.lm.training import Hook, Loop, say
from tightframe.lm.transformer import Block, Transformer
from tightframe.settings import read_toml

ENCODED = 2**18  # examples whose tokens are kept; memory only, never the result
WITH_SLOTS = ("slots", "in_place")  # layouts with room for answers of limited length
EVERY_TEXT = FactTexts(paraphrases=True, reordered=True)


def inject(
    settings: InjectOptions,
    *,
    facts: Sequence[Fact] | None = None,
    hooks: Sequence[Hook] = (),
) -> InjectionRun:
    """Train a model on facts, or resume a run that was interrupted.

    On a CPU an interrupted run ends with the bits of an uninterrupted one; a finished one is left
    alone.

    Args:
        settings: Of the run; the same ones resume it.
        facts: Facts to choose from; by default those of `settings.data`.
        hooks: Called with each record of the log.
    """
    facts = load_benchmark(settings.data) if facts is None else facts
    facts = choose_facts(facts, settings)
    started = (settings.out / "config.toml").exists()
    earlier = InjectionRun.open(settings.out) if started else None
    settings = hardware.choose(settings, earlier.settings if earlier else None)
    with exclusive(settings.out, what="run") as lease, hardware.prepared(settings.threads):
        course = _Injection(settings, facts)
        warmup = warmup_steps(settings, course.steps)
        if course.steps <= warmup:
            raise UserError(
                f"{settings.out}: its {course.steps:,} steps end within the {warmup:,} of the "
                "warm-up, so that little is learnt; give more exposures, or warmup=0.1"
            )
        run = InjectionRun.claim(settings, course.facts())
        if not (run.path / FACTS).exists():
            write_facts(run.path / FACTS, facts)
        if run.finished:
            say(f"{run.path}: is finished already")
        else:
            Loop(run, settings, course, lease=lease, hooks=hooks).finish()
        optimizer.clear_states(run.resume_folder)
    return run


def load_qa_model(path: str | Path, *, step: int | None = None, device: str = "auto") -> QAModel:
    """Load the trained model of an injection run, ready to be asked.

    Args:
        path: The run directory.
        step: Of the checkpoint; the last one if None.
        device: "cpu", "cuda", or "auto".
    """
    run = InjectionRun.open(path)
    folder = run.checkpoint(run.kept(step))
    model = Network.load(folder) if (folder / ABOUT).is_file() else load_hub_model(folder)
    model.module.to(hardware.device_named(device)).eval()
    model.name = run.name
    return model


def load_base_model(
    source: str | Path, *, device: str = "auto", paper_format: bool = False
) -> QAModel:
    """Load a model of transformers without any injection, to compare injected ones with.

    Args:
        source: A folder, or a name on the hub.
        device: "cpu", "cuda", or "auto".
        paper_format: Ask as published, without its chat template.
    """
    where = hardware.device_named(device)
    return load_hub_model(source, device=where, paper_format=paper_format or None)


class _Injection:
    """The training of one run, as `Loop` drives it."""

    def __init__(self, settings: InjectOptions, facts: Sequence[Fact]):
        self.settings = settings
        self.injected = facts
        # The objective of a model of transformers depends on its kind: it is loaded first.
        self.model, self.objective = start(settings, facts)
        self.model.module.to(settings.device).train()
        self.stream = ExampleStream(
            facts,
            settings.exposures,
            objective=self.objective,
            seed=settings.seed,
            max_span=settings.max_span,
            texts=settings.texts,
            qa_ratio=settings.qa_ratio,
        )
        self.encode = lru_cache(ENCODED)(self.model.encode)
        # One that is too long is refused before any training.
        sizes = [_size(self._encoded(example)) for example in self.stream.distinct]
        self.batch: int | TokenBudget = settings.batch
        if settings.batch_tokens:
            self.batch = TokenBudget(settings.batch_tokens, np.array(sizes))
        self.steps = self.stream.n_batches(self.batch)
        self.checkpoints = frozenset(
            max(1, round(self.steps * exposures / settings.exposures))
            for exposures in (*settings.checkpoints, settings.exposures)
        )
        self.checks = {round(self.steps * i / CHECKS) for i in range(1, CHECKS + 1)}
        self.seen = sampled(facts, self.objective, n=settings.sample, seed=settings.seed)

    @property
    def module(self) -> nn.Module:
        return self.model.module

    def facts(self) -> dict[str, Any]:
        """Return the first line of the log."""
        parameters = [*self.module.parameters()]
        return {
            "data": facts_fingerprint(self.injected),
            "facts": facts_digest(self.injected),
            "n_facts": len(self.injected),
            "objective": self.objective,
            "stream": self.stream.digest,
            "lessons": len(self.stream),
            "steps": self.steps,
            "n_parameters": sum(one.numel() for one in parameters),
            "n_trained": sum(one.numel() for one in parameters if one.requires_grad),
            **hardware.made_by(),
        }

    def learning_rate(self, step: int) -> float:
        return learning_rate(self.settings, step, steps=self.steps)

    def batches(self, step: int) -> Iterator[Batch]:
        for examples in self.stream.batches(self.batch, first=step):
            yield collate([self._encoded(example) for example in examples], pad=self.model.pad)

    def loss(self, batch: Batch, step: int) -> Float[Tensor, ""]:
        # Dropout, where a model has some, is drawn from the step: a resumed run draws the same.
        device = self.settings.device
        with torch.random.fork_rng(devices=[device] if device == "cuda" else []):
            torch.manual_seed(self.settings.seed * 1_000_003 + step)
            return self.model.loss(batch)

    def keep(self, folder: Path) -> dict[str, Any]:
        self.model.save(folder)
        return {}

    def place(self, step: int) -> dict[str, Any]:
        return {"exposures": round(self.settings.exposures * step / self.steps, 3)}

    def examine(self, step: int) -> dict[str, Any]:
        """Ask for what was seen, at every tenth of a training that may end before."""
        if not self.settings.until or step not in self.checks:
            return {}
        share = memorized(self.model, self.seen)
        return {"memorized": share, "asked": len(self.seen), "ended": share >= self.settings.until}

    def _encoded(self, example: TrainingExample) -> Example:
        encoded: Example = self.encode(example)
        return encoded


def _size(example: Example) -> int:
    """Return the tokens of a row, those of an encoder's included."""
    return len(example.inputs) + len(example.source)


def start(settings: InjectOptions, facts: Sequence[Fact]) -> tuple[QAModel, Objective]:
    """Return the model before its first example, and what it is taught.

    Args:
        settings: Of the run.
        facts: What it will be taught: a new vocabulary is made from them.
    """
    arm, folder = settings.chosen_arm, Path(settings.model).expanduser()
    name = settings.out.resolve().name
    if not settings.model:
        assert arm is not None  # as the settings have been checked
        return _training(_new(settings, arm, facts, name), settings), arm.objective
    config = folder / "config.toml"
    if config.is_file() and "data" in read_toml(config):
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
    return _training(network, settings), network.objective


def texts_in_use(facts: Sequence[Fact], texts: FactTexts = EVERY_TEXT) -> Iterator[str]:
    """Yield what a new vocabulary is made from: facts in all wordings, questions and answers.

    Articles are among the texts only where they are trained on.
    """
    for fact in facts:
        yield from texts.of(fact)
        for pair in fact.generated_qas:
            yield from (pair.question, pair.answer)
        for question in fact.questions:
            yield from (question.prompt, *question.answers)


def new_network(
    arm: Arm,
    tokenizer: ClozeTokenizer,
    config: TransformerConfig,
    *,
    seed: int,
    n_slots: int,
    name: str,
) -> Network:
    """Return an untrained network of an arm.

    Args:
        arm: How it reads and what it learns.
        tokenizer: Its tokenizer.
        config: Its sizes; an encoder-decoder is made as large as that.
        seed: Of the weights.
        n_slots: Tokens of the longest target, its end included.
        name: Its name in results.
    """
    model: Model
    if arm.layout == "encoder-decoder":
        model = EncoderDecoder(EncoderDecoderConfig.as_large_as(config), seed=seed, name=name)
    else:
        model = Transformer(config, seed=seed, name=name)
    return Network(name, model, tokenizer, arm.layout, arm.objective, n_slots)


def with_special_tokens(model: Transformer, tokenizer: ClozeTokenizer, *, seed: int) -> Transformer:
    """Add rows to a language model for the tokens that it lacks, drawn as at its start.

    Args:
        model: Trained with a smaller vocabulary, whose ids the tokenizer keeps.
        tokenizer: The larger vocabulary.
        seed: Of the new rows.
    """
    n_known = model.config.vocab_size
    if tokenizer.vocab_size < n_known:
        raise ValueError(f"{tokenizer.vocab_size} tokens are fewer than the model's {n_known}")
    config = dataclasses.replace(model.config, vocab_size=tokenizer.vocab_size)
    extended = Transformer(config, seed=seed, name=model.name)
    tensors = extended.state_dict()
    with torch.no_grad():
        for name, known in model.state_dict().items():
            tensors[name][: len(known)] = known
    return extended


def _training(network: Network, settings: InjectOptions) -> Network:
    """Give a network what only its training has: hidden words and dropout."""
    network.masking = MaskingOptions(settings.noise, settings.loss_on == "masked")
    for part in network.module.modules():
        if isinstance(part, Block):
            part.dropout = settings.dropout
    return network


def _new(settings: InjectOptions, arm: Arm, facts: Sequence[Fact], name: str) -> Network:
    tokenizer = ClozeTokenizer.train(texts_in_use(facts, _every(settings)), settings.vocab_size)
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
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
    n_slots = _n_slots(tokenizer, facts, settings) if arm.layout in WITH_SLOTS else 0
    return new_network(arm, tokenizer, config, seed=settings.seed, n_slots=n_slots, name=name)


def _language_model(source: str, arm: Arm, *, seed: int) -> Network:
    """Return a causal language model of ours (any GPT-Neo is one) as an arm."""
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
    known = load_tokenizer(own)
    tokenizer = ClozeTokenizer.extend(known.tokenizer, end_of_text=known.end_of_text)
    extended = with_special_tokens(model.float(), tokenizer, seed=seed)
    return Network(model.name, extended, tokenizer, arm.layout, arm.objective, n_slots=0)


def _retrain(
    network: Network, arm: Arm | None, settings: InjectOptions, facts: Sequence[Fact]
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
    if network.layout in WITH_SLOTS:
        network.n_slots = max(network.n_slots, _n_slots(network.tokenizer, facts, settings))


def _n_slots(tokenizer: ClozeTokenizer, facts: Sequence[Fact], settings: InjectOptions) -> int:
    """Return the tokens of the longest span or answer, its end included."""
    texts = (text for fact in facts for text in _every(settings).of(fact))
    masked = (one.span for text in texts for one in spans(text, settings.max_span))
    return max(len(tokenizer.target(text)) for text in {*masked, *_answers(facts)})


def _answers(facts: Sequence[Fact]) -> Iterator[str]:
    for fact in facts:
        for question in fact.questions:
            yield from question.answers


def _every(settings: InjectOptions) -> FactTexts:
    """Return all texts, so that runs that show others of them have the same vocabulary."""
    return EVERY_TEXT._replace(articles=settings.articles)


def _hub(settings: InjectOptions, facts: Sequence[Fact], name: str) -> tuple[QAModel, Objective]:
    """Load a model of transformers; it is told how long answers are."""
    model = load_hub_model(
        settings.model,
        objective=None if settings.objective == "auto" else settings.objective,
        dtype=getattr(torch, settings.dtype),
        attention=settings.attention or None,
        lora="auto" if settings.lora is None else LoRA() if settings.lora else None,
        name=name,
        seed=settings.seed,
        paper_format=settings.paper_format or None,
    )
    if isinstance(model, MaskedQAModel):
        model.room_for(_answers(facts))
    return model, model.objective
