"""Our own networks as learners: a model, its tokens, and where prompt and answer stand.

A folder holds network.json (what it is), tokenizer.json and model/ (the weights).

Axes: N prompts, C candidates, D embedding, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tightframe.errors import UserError
from tightframe.files import sha256, whole_folder
from tightframe.formats import Count, Record, Sha256, check_digest, read_signed, write_signed
from tightframe.knowledge import decoding
from tightframe.knowledge.exchanges import (
    MAX_NEW_TOKENS,
    Arm,
    Draws,
    Layout,
    Lesson,
    Objective,
    Prompt,
    Said,
)
from tightframe.knowledge.word_pieces import FILE as TOKENIZER
from tightframe.knowledge.word_pieces import Coder
from tightframe.lm.encoder_decoder import (
    EncoderDecoder,
    EncoderDecoderConfig,
    load_encoder_decoder,
    save_encoder_decoder,
)
from tightframe.lm.interface import Batch, Example
from tightframe.lm.loss import cross_entropy
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer, load_checkpoint, save_checkpoint

ABOUT = "network.json"
MODEL = "model"


class _About(Record):
    """What network.json holds."""

    name: str
    layout: Layout
    objective: Objective
    n_slots: Count
    tokenizer: Sha256  # of tokenizer.json
    fingerprint: str


Model: TypeAlias = Transformer | EncoderDecoder


@dataclasses.dataclass
class Network:
    """A network of ours that facts are injected into; an `EmbeddingLearner`."""

    name: str
    model: Model
    coder: Coder
    layout: Layout
    objective: Objective
    n_slots: int  # after a prompt, where the layout has slots: the longest target in tokens

    @classmethod
    def new(
        cls,
        arm: Arm,
        coder: Coder,
        config: TransformerConfig,
        *,
        seed: int,
        n_slots: int,
        name: str,
    ) -> "Network":
        """An untrained network of an arm.

        Args:
            arm: How it reads and what it learns.
            coder: Its tokens.
            config: What it is; an encoder-decoder is made as large as that.
            seed: Of the weights.
            n_slots: Tokens of the longest target, its end included.
            name: What results call it.
        """
        model: Model
        if arm.layout == "encoder-decoder":
            sizes = EncoderDecoderConfig.as_large_as(config)
            model = EncoderDecoder(sizes, seed=seed, name=name)
        else:
            model = Transformer(config, seed=seed, name=name)
        return cls(name, model, coder, arm.layout, arm.objective, n_slots)

    @classmethod
    def load(cls, folder: Path) -> "Network":
        """The inverse of `save`."""
        path = folder / ABOUT
        about: _About = read_signed(path, _About, remedy="inject again")
        check_digest(folder / TOKENIZER, about.tokenizer)
        is_pair = about.layout == "encoder-decoder"
        load = load_encoder_decoder if is_pair else load_checkpoint
        return cls(
            name=about.name,
            model=load(folder / MODEL),
            coder=Coder.load(folder),
            layout=about.layout,
            objective=about.objective,
            n_slots=about.n_slots,
        )

    def save(self, folder: Path) -> None:
        """Write a new folder, whole."""
        about = {
            "name": self.name,
            "layout": self.layout,
            "objective": self.objective,
            "n_slots": self.n_slots,
        }
        with whole_folder(folder) as temporary:
            if isinstance(self.model, EncoderDecoder):
                save_encoder_decoder(self.model, temporary / MODEL)
            else:
                save_checkpoint(self.model, temporary / MODEL)
            self.coder.save(temporary)
            write_signed(temporary / ABOUT, about | {"tokenizer": sha256(temporary / TOKENIZER)})

    @property
    def module(self) -> nn.Module:
        """The model; all of it is trained."""
        return self.model

    @property
    def pad(self) -> int:
        """The id that stands in padding."""
        return self.coder.pad

    @property
    def classifier(self) -> Float[Tensor, "V D"]:
        """The output matrix, a row a token."""
        return self.model.classifier

    def encode(self, lesson: Lesson) -> Example:
        """What the network reads and predicts; a lesson that is too long is refused, never cut."""
        if lesson.objective == "mlm":
            raise ValueError("our networks learn masked spans as 'sp', not as 'mlm'")
        coder = self.coder
        target = coder.target(lesson.target)
        prompt = [coder.bos] if lesson.objective == "ntp" else coder.prompt(lesson.prompt)
        example = decoding.laid_out(self, prompt, target[:-1])
        longest = max(len(example.inputs), len(example.source))
        if longest > self.model.positions:
            raise UserError(
                f"fact {lesson.fact_id}: a lesson of {longest} tokens is longer than the "
                f"{self.model.positions} positions of {self.name}; leave the fact out, or train "
                "with more positions"
            )
        return example

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy over the labelled positions, nats per token; differentiable."""
        embeddings = self.model.embed(batch).flatten(0, 1)
        return cross_entropy(embeddings, self.classifier, self.model.bias, batch.targets.flatten())

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        draws: Draws | None = None,
    ) -> list[Said]:
        """Answers, in the order of the prompts; see `Learner`."""
        return decoding.answers(self, prompts, max_new_tokens=max_new_tokens, draws=draws)

    def log_probabilities(
        self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """How likely each candidate is as the answer to its prompt, nats; see `Learner`."""
        return decoding.log_probabilities(self, prompts, candidates)

    def answer_embeddings(self, prompts: Sequence[Prompt]) -> Float[Tensor, "N D"]:
        """What the classifier multiplies where the first token of the answer is predicted."""
        return decoding.answer_embeddings(self, prompts)

    def first_token(self, answer: str) -> int:
        """Id of the first token of an answer, as the network would say it."""
        return self.coder.target(answer)[0]


def with_special_tokens(model: Transformer, coder: Coder, *, seed: int) -> Transformer:
    """A language model with rows for the tokens that its vocabulary lacks, drawn as at its start.

    Args:
        model: Trained with a smaller vocabulary, whose ids the coder keeps.
        coder: The larger vocabulary.
        seed: Of the new rows.
    """
    n_known = model.config.vocab_size
    if coder.vocab_size < n_known:
        raise ValueError(f"{coder.vocab_size} tokens are fewer than the model's {n_known}")
    config = dataclasses.replace(model.config, vocab_size=coder.vocab_size)
    extended = Transformer(config, seed=seed, name=model.name)
    tensors = extended.state_dict()
    with torch.no_grad():
        for name, known in model.state_dict().items():
            tensors[name][: len(known)] = known
    return extended
