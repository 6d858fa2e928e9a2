"""Networks of our own that are trained on facts and answer questions.

No result depends on what else is in a batch: rows are padded on the right and no position sees
padding. A step reads its row anew, so that every layout is asked in the same way. A folder holds
network.json (what it is), tokenizer.json and model/ (the weights).

Axes: N prompts, B rows of a batch, T positions, D embedding, V vocabulary.
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
from tightframe.knowledge.diffusion import MaskedDiffusion
from tightframe.knowledge.facts import MASK
from tightframe.knowledge.layouts import (
    NO_OPTIONS,
    InputFormat,
    MaskingOptions,
    batches_of_rows,
    encoded,
    laid_out,
    quoted,
)
from tightframe.knowledge.qa_models import (
    MAX_NEW_TOKENS,
    Generation,
    Generators,
    Layout,
    Objective,
    Prompt,
    TrainingExample,
    continues,
)
from tightframe.knowledge.word_pieces import FILE as TOKENIZER
from tightframe.knowledge.word_pieces import ClozeTokenizer, next_tokens
from tightframe.lm.checkpoints import load_checkpoint, save_checkpoint
from tightframe.lm.encoder_decoder import (
    EncoderDecoder,
    load_encoder_decoder,
    save_encoder_decoder,
)
from tightframe.lm.interface import IGNORE, Batch, Example, collate
from tightframe.lm.loss import cross_entropy, score
from tightframe.lm.transformer import Transformer

ABOUT = "network.json"
MODEL = "model"
FOLLOWING = 3  # tokens of what follows an answer that end it, where the sentence is restored


class _NetworkFacts(Record):
    """Content of network.json."""

    name: str
    layout: Layout
    objective: Objective
    n_slots: Count
    tokenizer: Sha256  # of tokenizer.json
    fingerprint: str


Model: TypeAlias = Transformer | EncoderDecoder


@dataclasses.dataclass
class Network:
    """A network of ours, its tokenizer, and where prompt and answer stand in its input."""

    name: str
    model: Model
    tokenizer: ClozeTokenizer
    layout: Layout
    objective: Objective
    n_slots: int  # the longest target in tokens, where the layout has slots or fills in place
    masking: MaskingOptions = NO_OPTIONS  # of the training
    steps: int = 0  # passes that fill an answer in place; 0: as many as it has tokens

    @classmethod
    def load(cls, folder: Path) -> "Network":
        """Load a network that `save` wrote."""
        path = folder / ABOUT
        about: _NetworkFacts = read_signed(path, _NetworkFacts, remedy="inject again")
        check_digest(folder / TOKENIZER, about.tokenizer)
        is_pair = about.layout == "encoder-decoder"
        load = load_encoder_decoder if is_pair else load_checkpoint
        tokenizer = ClozeTokenizer.load(folder)
        model = load(folder / MODEL)
        return cls(about.name, model, tokenizer, about.layout, about.objective, about.n_slots)

    def save(self, folder: Path) -> None:
        """Write a new folder, whole."""
        names = ("name", "layout", "objective", "n_slots")
        about = {name: getattr(self, name) for name in names}
        with whole_folder(folder) as temporary:
            if isinstance(self.model, EncoderDecoder):
                save_encoder_decoder(self.model, temporary / MODEL)
            else:
                save_checkpoint(self.model, temporary / MODEL)
            self.tokenizer.save(temporary)
            write_signed(temporary / ABOUT, about | {"tokenizer": sha256(temporary / TOKENIZER)})

    @property
    def module(self) -> nn.Module:
        """Model, all of which is trained."""
        return self.model

    @property
    def format(self) -> InputFormat:
        """Layout by which it reads a text."""
        return InputFormat(self.tokenizer, self.layout, self.n_slots, self.masking)

    @property
    def diffusion(self) -> MaskedDiffusion:
        """The network as one that fills answers in place."""
        return MaskedDiffusion(self.model, self.tokenizer.mask, self.pad, self.steps)

    @property
    def pad(self) -> int:
        """Id of the token that stands in padding."""
        return self.tokenizer.pad

    @property
    def classifier(self) -> Float[Tensor, "V D"]:
        """Output matrix, one row per token."""
        return self.model.classifier

    def encode(self, example: TrainingExample) -> Example:
        """Encode a training example as tokens; refuse one that is too long, never cut it."""
        laid = encoded(example, self.format)
        longest = max(len(laid.inputs), len(laid.source))
        if longest > self.model.positions:
            raise UserError(
                f"fact {example.fact_id}: an example of {longest} tokens is longer than the "
                f"{self.model.positions} positions of {self.name}; leave the fact out, or train "
                "with more positions"
            )
        return laid

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the mean cross-entropy over the labelled positions, nats per token."""
        wanted, weights = batch.counted
        embeddings = self.model.embed_at(batch, wanted)
        targets = batch.targets[wanted]
        return cross_entropy(embeddings, self.classifier, self.model.bias, targets, weights)

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        generators: Generators | None = None,
    ) -> list[Generation]:
        """Answer prompts token by token up to EOS; slots are filled in one pass and cut there.

        See `QAModel.answer`; only a causal network draws its tokens.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        if self.layout != "causal":
            generators = None
        read = [self._read(prompt, max_new_tokens) for prompt in prompts]
        texts = [prompt.text for prompt in prompts]
        self._check_room(texts, read, [max_new_tokens] * len(read))
        end = self.tokenizer.eos
        answers: dict[int, Generation] = {}
        for rows in batches_of_rows([len(ids) + max_new_tokens for ids in read], "answers"):
            chosen = [read[row] for row in rows]
            if self.layout == "slots":
                tokens = [ids[:max_new_tokens] for ids in self._filled_slots(chosen)]
            elif self.layout == "in_place":
                longest = min(max_new_tokens, self.n_slots - 1)
                tokens = [[*ids, end] for ids in self.diffusion.fill(chosen, max(1, longest))]
            else:
                own = None if generators is None else [generators[row] for row in rows]
                ends = [self._after(prompts[row])[:FOLLOWING] or [end] for row in rows]
                tokens = self._continuations(chosen, max_new_tokens, own, ends)
            for row, ids in zip(rows, tokens, strict=True):
                ended = end in ids
                kept = ids[: ids.index(end)] if ended else ids
                text = self.tokenizer.text(kept)
                answers[row] = Generation(text, "end" if ended else "length")
        return [answers[row] for row in range(len(read))]

    def room(self, prompts: Sequence[Prompt]) -> int:
        """Return how many new tokens the longest prompt leaves positions for; at least 1."""
        positions: int = self.model.positions
        if self.layout == "encoder-decoder":
            return positions
        return max(1, positions - max(len(self._read(prompt, 1)) for prompt in prompts) + 1)

    @torch.no_grad()
    def log_probabilities(
        self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Return the log-probability of each candidate as the answer to its prompt, nats.

        A network that fills masks sums over the candidate's tokens and EOS. One that continues
        sentences returns log P(the sentence filled with the candidate) - log P(the candidate),
        both after BOS and without EOS: it has seen no candidate end there.
        """
        pairs = [
            (prompt, text)
            for prompt, texts in zip(prompts, candidates, strict=True)
            for text in texts
        ]
        if continues(self.objective):
            alone = list(dict.fromkeys(text for _, text in pairs))
            filled = [prompt.filled(text) for prompt, text in pairs]
            summed = self._sentences([*alone, *filled])
            of_text = dict(zip(alone, summed, strict=False))
            values = [
                total - of_text[text]
                for (_, text), total in zip(pairs, summed[len(alone) :], strict=True)
            ]
        else:
            end = self.tokenizer.eos
            targets = [
                [*self.tokenizer.words(text), *self._after(prompt), end] for prompt, text in pairs
            ]
            longest = max(map(len, targets), default=1)
            of_prompt = {prompt: self._read(prompt, longest) for prompt in prompts}
            read = [of_prompt[prompt] for prompt, _ in pairs]
            self._check_room([prompt.text for prompt, _ in pairs], read, [*map(len, targets)])
            for (_, text), target in zip(pairs, targets, strict=True):
                if self.layout == "slots" and len(target) > self.n_slots:
                    raise UserError(
                        f"{self.name}: candidate {quoted(text)} has {len(target)} tokens with its "
                        f"end, more than the model's {self.n_slots} slots; rank shorter ones"
                    )
            if self.layout == "in_place":
                values = self.diffusion.bounds(read, [target[:-1] for target in targets])
            else:
                values = self._summed(read, targets)
        scores = iter(values)
        return [[next(scores) for _ in texts] for texts in candidates]

    @torch.no_grad()
    def answer_embeddings(self, prompts: Sequence[Prompt]) -> Float[Tensor, "N D"]:
        """Return the embeddings that predict the first token of each answer, on the CPU.

        Where sentences are continued, that is the last position of the prompt; a cloze is read up
        to its mask.
        """
        if not prompts:
            raise ValueError("expected prompts, got none")
        if continues(self.objective):
            prompts = [
                prompt._replace(form="continuation", text=prompt.opening) for prompt in prompts
            ]
        read = [self._read(prompt, 1) for prompt in prompts]
        self._check_room([prompt.text for prompt in prompts], read, [1] * len(read))
        found: dict[int, Tensor] = {}
        for rows in batches_of_rows([*map(len, read)], "embeddings"):
            batch = self._batch([laid_out(read[row], [], self.format) for row in rows])
            labelled = batch.targets != IGNORE
            embeddings = self.model.embed_at(batch, labelled & (labelled.cumsum(1) == 1)).cpu()
            found |= dict(zip(rows, embeddings, strict=True))
        return torch.stack([found[row] for row in range(len(read))])

    def _continuations(
        self,
        read: Sequence[list[int]],
        max_new_tokens: int,
        generators: Generators | None,
        ends: Sequence[list[int]],
    ) -> list[list[int]]:
        """Return what follows each prompt, up to EOS, or tokens that end it and stand as EOS.

        Ended rows are read no more.
        """
        new: list[list[int]] = [[] for _ in read]
        left = list(range(len(read)))
        for _ in range(max_new_tokens):
            batch = self._batch([laid_out(read[row], new[row], self.format) for row in left])
            place = torch.arange(batch.inputs.shape[1], device=batch.inputs.device)
            last = self.model.embed_at(batch, place == batch.lengths[:, None] - 1)
            own = None if generators is None else [generators[row] for row in left]
            chosen = next_tokens(self.model.head(last), own).tolist()
            for row, token in zip(left, chosen, strict=True):
                new[row].append(token)
                if new[row][-len(ends[row]) :] == ends[row]:
                    new[row][-len(ends[row]) :] = [self.tokenizer.eos]
            left = [row for row in left if new[row][-1] != self.tokenizer.eos]
            if not left:
                break
        return new

    def _filled_slots(self, read: Sequence[list[int]]) -> list[list[int]]:
        """Return the likeliest token of each slot."""
        batch = self._batch([laid_out(ids, [], self.format) for ids in read])
        embeddings = self.model.embed_at(batch, batch.targets != IGNORE)  # row by row
        likeliest = self.model.head(embeddings).argmax(-1)
        filled: list[list[int]] = likeliest.view(len(read), -1).tolist()
        return filled

    def _sentences(self, texts: Sequence[str]) -> list[float]:
        """Return the log-probability of each text after BOS, whether or not it ends there."""
        openings = [self.tokenizer.opening(text) for text in texts]
        self._check_room(texts, openings, [1] * len(texts))
        targets = [[*ids[1:], self.tokenizer.eos] for ids in openings]
        return self._summed([ids[:1] for ids in openings], targets, with_end=False)

    def _summed(
        self, read: Sequence[list[int]], targets: Sequence[list[int]], *, with_end: bool = True
    ) -> list[float]:
        """Return the log-probability of each target after its prompt, summed over its tokens.

        Args:
            read: Tokens of the prompts.
            targets: Each with EOS at its end.
            with_end: Whether that EOS counts.
        """
        found: dict[int, float] = {}
        n_classes = len(self.model.classifier)
        lengths = [len(ids) + len(target) for ids, target in zip(read, targets, strict=True)]
        for rows in batches_of_rows(lengths, "candidates"):
            # `laid_out` adds the EOS itself.
            batch = self._batch(
                [laid_out(read[row], targets[row][:-1], self.format) for row in rows]
            )
            labelled = batch.targets != IGNORE
            embeddings, predicted = self.model.embed_at(batch, labelled), batch.targets[labelled]
            losses = score(self.model.head, embeddings, predicted, n_classes=n_classes).losses
            counts = labelled.sum(1).tolist()
            for row, own in zip(rows, losses.double().split(counts), strict=True):
                counted = len(targets[row]) - (not with_end)  # slots that are left over never do
                found[row] = -float(own[:counted].sum())
        return [found[row] for row in range(len(read))]

    def _read(self, prompt: Prompt, n_new: int) -> list[int]:
        """Return the tokens of a prompt after the end of its context that leaves room to answer."""
        begin, *ids = self._prompt_tokens(prompt)
        context = self.tokenizer.opening(prompt.context)[1:] if prompt.context else []
        n_read = 1 + len(ids)
        decoder_apart = self.layout == "encoder-decoder"
        left = self.model.positions - (n_read if decoder_apart else self._needed(n_read, n_new))
        before = self.tokenizer.words(prompt.opening) if self.objective == "restore" else []
        return [begin, *context[max(0, len(context) - max(0, left)) :], *ids, *before]

    def _after(self, prompt: Prompt) -> list[int]:
        """Return the tokens that a network that restores sentences writes after the answer."""
        if self.objective != "restore":
            return []
        return self.tokenizer.rest(prompt.text.partition(MASK)[2])

    def _prompt_tokens(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt; refuse one that this objective cannot be asked."""
        if continues(self.objective):
            if prompt.form == "cloze" and not prompt.text.endswith(MASK):
                raise UserError(
                    f"{self.name}: continues sentences and fills no masks, but was asked "
                    f"{quoted(prompt.text)}; ask for the words after a left context "
                    "(--form left_context)"
                )
            return self.tokenizer.opening(prompt.opening)
        if prompt.form == "continuation":
            raise UserError(
                f"{self.name}: fills masks and continues no sentences, but was asked "
                f"{quoted(prompt.text)}; ask clozes or questions (--form cloze_seen or question)"
            )
        masked = prompt.text if prompt.form == "cloze" else f"{prompt.text} {MASK}"
        ids = self.tokenizer.prompt(masked)
        return [*ids[:-1], self.tokenizer.eos] if self.layout == "in_place" else ids

    def _check_room(
        self, texts: Sequence[str], read: Sequence[list[int]], new: Sequence[int]
    ) -> None:
        """Refuse what is longer than the model's positions; nothing is ever cut."""
        for text, ids, n_new in zip(texts, read, new, strict=True):
            needed = self._needed(len(ids), n_new)
            if needed > self.model.positions:
                raise UserError(
                    f"{self.name}: {quoted(text)} has {len(ids)} tokens and needs {needed} "
                    f"positions to be answered, the model has {self.model.positions}; "
                    "leave it out, ask for fewer new tokens, or train with more positions"
                )

    def _needed(self, n_read: int, n_new: int) -> int:
        """Return the positions that a prompt of so many tokens takes with its answer."""
        if self.layout == "slots":
            return n_read + self.n_slots
        if self.layout == "encoder-decoder":
            return max(n_read, n_new)
        return n_read + n_new - 1  # the last token is predicted, not read

    def _batch(self, examples: Sequence[Example]) -> Batch:
        """Collate examples on the model's device."""
        return collate(examples, pad=self.pad).to(self.classifier.device)
