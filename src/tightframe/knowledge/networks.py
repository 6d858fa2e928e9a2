"""Networks of our own that are trained on facts and answer questions.

No result depends on what else is in a batch: rows are padded on the right and no position sees
padding. A step reads its row anew, so that every layout is asked in the same way. A folder holds
network.json (what it is), tokenizer.json and model/ (the weights).

Axes: N prompts, B rows of a batch, T positions, D embedding, V vocabulary.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tightframe.errors import UserError
from tightframe.files import sha256, whole_folder
from tightframe.formats import Count, Record, Sha256, check_digest, read_signed, write_signed
from tightframe.knowledge.facts import MASK
from tightframe.knowledge.qa_models import (
    MAX_NEW_TOKENS,
    Generation,
    Generators,
    Layout,
    Objective,
    Prompt,
    TrainingExample,
)
from tightframe.knowledge.word_pieces import FILE as TOKENIZER
from tightframe.knowledge.word_pieces import ClozeTokenizer, next_tokens
from tightframe.lm.checkpoints import (
    load_checkpoint,
    save_checkpoint,
)
from tightframe.lm.encoder_decoder import (
    EncoderDecoder,
    load_encoder_decoder,
    save_encoder_decoder,
)
from tightframe.lm.interface import IGNORE, Batch, Example, collate, continued, slotted, translated
from tightframe.lm.loss import cross_entropy, score
from tightframe.lm.transformer import Transformer
from tightframe.progress import tell

ABOUT = "network.json"
MODEL = "model"
TOKENS = 8192  # held at once, with padding; memory only, never the result
SHOWN = 60  # characters of a text in a message


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
    n_slots: int  # after a prompt, where the layout has slots: the longest target in tokens

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
            self.tokenizer.save(temporary)
            write_signed(temporary / ABOUT, about | {"tokenizer": sha256(temporary / TOKENIZER)})

    @property
    def module(self) -> nn.Module:
        """Model, all of which is trained."""
        return self.model

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
        if example.objective == "mlm":
            raise ValueError("our networks learn masked spans as 'sp', not as 'mlm'")
        tokenizer = self.tokenizer
        target = tokenizer.target(example.target)
        alone = example.objective == "ntp"
        prompt = [tokenizer.bos] if alone else tokenizer.prompt(example.prompt)
        encoded = self._laid_out(prompt, target[:-1])
        longest = max(len(encoded.inputs), len(encoded.source))
        if longest > self.model.positions:
            raise UserError(
                f"fact {example.fact_id}: an example of {longest} tokens is longer than the "
                f"{self.model.positions} positions of {self.name}; leave the fact out, or train "
                "with more positions"
            )
        return encoded

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the mean cross-entropy over the labelled positions, nats per token."""
        labelled = batch.targets != IGNORE
        embeddings = self.model.embed_at(batch, labelled)
        return cross_entropy(embeddings, self.classifier, self.model.bias, batch.targets[labelled])

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
        for rows in _batches([len(ids) + max_new_tokens for ids in read], "answers"):
            chosen = [read[row] for row in rows]
            if self.layout == "slots":
                tokens = [ids[:max_new_tokens] for ids in self._filled_slots(chosen)]
            else:
                own = None if generators is None else [generators[row] for row in rows]
                tokens = self._continuations(chosen, max_new_tokens, own)
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
        if self.objective == "ntp":
            alone = list(dict.fromkeys(text for _, text in pairs))
            filled = [prompt.filled(text) for prompt, text in pairs]
            summed = self._sentences([*alone, *filled])
            of_text = dict(zip(alone, summed, strict=False))
            values = [
                total - of_text[text]
                for (_, text), total in zip(pairs, summed[len(alone) :], strict=True)
            ]
        else:
            targets = [self.tokenizer.target(text) for _, text in pairs]
            longest = max(map(len, targets), default=1)
            of_prompt = {prompt: self._read(prompt, longest) for prompt in prompts}
            read = [of_prompt[prompt] for prompt, _ in pairs]
            self._check_room([prompt.text for prompt, _ in pairs], read, [*map(len, targets)])
            for (_, text), target in zip(pairs, targets, strict=True):
                if self.layout == "slots" and len(target) > self.n_slots:
                    raise UserError(
                        f"{self.name}: candidate {_shown(text)} has {len(target)} tokens with its "
                        f"end, more than the model's {self.n_slots} slots; rank shorter ones"
                    )
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
        if self.objective == "ntp":
            prompts = [
                prompt._replace(form="continuation", text=prompt.opening) for prompt in prompts
            ]
        read = [self._read(prompt, 1) for prompt in prompts]
        self._check_room([prompt.text for prompt in prompts], read, [1] * len(read))
        found: dict[int, Tensor] = {}
        for rows in _batches([*map(len, read)], "embeddings"):
            batch = self._batch([self._laid_out(read[row], []) for row in rows])
            first = (batch.targets != IGNORE).int().argmax(1)  # of equal ones, the first
            embeddings = _at(self.model.embed(batch), first).cpu()
            found |= dict(zip(rows, embeddings, strict=True))
        return torch.stack([found[row] for row in range(len(read))])

    def _continuations(
        self, read: Sequence[list[int]], max_new_tokens: int, generators: Generators | None
    ) -> list[list[int]]:
        """Return what follows each prompt, up to and with EOS; ended rows are read no more."""
        new: list[list[int]] = [[] for _ in read]
        left = list(range(len(read)))
        for _ in range(max_new_tokens):
            batch = self._batch([self._laid_out(read[row], new[row]) for row in left])
            last = _at(self.model.embed(batch), batch.lengths - 1)
            own = None if generators is None else [generators[row] for row in left]
            chosen = next_tokens(self.model.head(last), own).tolist()
            for row, token in zip(left, chosen, strict=True):
                new[row].append(token)
            left = [row for row in left if new[row][-1] != self.tokenizer.eos]
            if not left:
                break
        return new

    def _filled_slots(self, read: Sequence[list[int]]) -> list[list[int]]:
        """Return the likeliest token of each slot."""
        batch = self._batch([self._laid_out(ids, []) for ids in read])
        embeddings = self.model.embed(batch)[batch.targets != IGNORE]  # row by row
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
        for rows in _batches(lengths, "candidates"):
            # `_laid_out` adds the EOS itself.
            batch = self._batch([self._laid_out(read[row], targets[row][:-1]) for row in rows])
            embeddings = self.model.embed(batch).flatten(0, 1)
            losses = score(
                self.model.head, embeddings, batch.targets.flatten(), n_classes=n_classes
            ).losses.double()
            labelled = (batch.targets != IGNORE).sum(1).tolist()
            for row, own in zip(rows, losses.split(labelled), strict=True):
                counted = len(targets[row]) - (not with_end)  # slots that are left over never do
                found[row] = -float(own[:counted].sum())
        return [found[row] for row in range(len(read))]

    def _laid_out(self, prompt: list[int], answer: list[int]) -> Example:
        """Lay out a prompt and an answer, with EOS after it, as this network reads them."""
        tokenizer = self.tokenizer
        target = [*answer, tokenizer.eos]
        if self.layout == "slots":
            slots = {"slot": tokenizer.slot, "n_slots": self.n_slots, "end": tokenizer.eos}
            return slotted(prompt, target, **slots)
        if self.layout == "encoder-decoder":
            return translated(prompt, target, start=tokenizer.bos)
        return continued(prompt, target, bidirectional=self.layout == "prefix")

    def _read(self, prompt: Prompt, n_new: int) -> list[int]:
        """Return the tokens of a prompt after the end of its context that leaves room to answer."""
        begin, *ids = self._prompt_tokens(prompt)
        context = self.tokenizer.opening(prompt.context)[1:] if prompt.context else []
        n_read = 1 + len(ids)
        decoder_apart = self.layout == "encoder-decoder"
        left = self.model.positions - (n_read if decoder_apart else self._needed(n_read, n_new))
        return [begin, *context[max(0, len(context) - max(0, left)) :], *ids]

    def _prompt_tokens(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt; refuse one that this objective cannot be asked."""
        if self.objective == "ntp":
            if prompt.form == "cloze":
                raise UserError(
                    f"{self.name}: continues sentences and fills no masks, but was asked "
                    f"{_shown(prompt.text)}; ask for the words after a left context "
                    "(--form left_context)"
                )
            return self.tokenizer.opening(prompt.text)
        if prompt.form == "continuation":
            raise UserError(
                f"{self.name}: fills masks and continues no sentences, but was asked "
                f"{_shown(prompt.text)}; ask clozes or questions (--form cloze_seen or question)"
            )
        masked = prompt.text if prompt.form == "cloze" else f"{prompt.text} {MASK}"
        return self.tokenizer.prompt(masked)

    def _check_room(
        self, texts: Sequence[str], read: Sequence[list[int]], new: Sequence[int]
    ) -> None:
        """Refuse what is longer than the model's positions; nothing is ever cut."""
        for text, ids, n_new in zip(texts, read, new, strict=True):
            needed = self._needed(len(ids), n_new)
            if needed > self.model.positions:
                raise UserError(
                    f"{self.name}: {_shown(text)} has {len(ids)} tokens and needs {needed} "
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


def _batches(lengths: Sequence[int], what: str) -> Iterator[list[int]]:
    """Yield row numbers, rows of similar length together, at most TOKENS with padding.

    Progress of `what` is told after each batch.
    """
    rows: list[int] = []
    done = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if rows and (len(rows) + 1) * lengths[row] > TOKENS:
            yield rows
            done += len(rows)
            tell(what, done / len(lengths), done)
            rows = []
        rows.append(row)
    if rows:
        yield rows
        tell(what, 1.0, len(lengths))


def _at(embeddings: Float[Tensor, "B T D"], place: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
    """Return the embedding at one position of each row."""
    return embeddings[torch.arange(len(place), device=place.device), place]


def _shown(text: str) -> str:
    """Return a text for a message: on one line, its beginning."""
    line = " ".join(text.split())
    return repr(line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…")
