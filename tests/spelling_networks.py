"""Tiny networks of random weights over characters, to be asked things in every layout."""

import dataclasses
from typing import Any

import torch
from torch import nn

from tightframe.knowledge.facts import MASK
from tightframe.knowledge.networks import Network
from tightframe.lm.interface import Batch
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer

PAD, BOS, EOS, MASKED, SEP, SLOT = range(6)
LETTERS = " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,'?!\"[]"
LAYOUTS = ("causal", "prefix", "slots", "encoder-decoder")


class Speller:
    """A token a character."""

    pad, bos, eos, mask, sep, slot = range(6)
    vocab_size = len(LETTERS) + 6

    def letters(self, text):
        return [LETTERS.index(letter) + 6 for letter in text]

    def prompt(self, cloze):
        before, _, after = cloze.partition(MASK)
        return [BOS, *self.letters(before), MASKED, *self.letters(after), SEP]

    words = rest = letters

    def target(self, text):
        return [*self.letters(text), EOS]

    def opening(self, text):
        return [BOS, *self.letters(text)]

    def text(self, ids):
        return "".join(LETTERS[one - 6] for one in ids if one >= 6)


class Translator(nn.Module):
    """An encoder whose mean embedding is added to what a decoder has."""

    name, depth, bias = "translator", 1, None

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.positions = encoder.positions

    @property
    def classifier(self):
        return self.decoder.classifier

    def embed(self, batch):
        source = batch.source
        assert (source.prefix == source.lengths).all()  # read both ways
        place = torch.arange(source.inputs.shape[1])
        read = (place < source.lengths[:, None])[..., None] * self.encoder.embed(source)
        mean = read.sum(1) / source.lengths[:, None]
        alone = Batch(batch.inputs, batch.targets, batch.lengths, batch.prefix)
        return self.decoder.embed(alone) + mean[:, None]

    def embed_at(self, batch, wanted):
        return self.embed(batch)[wanted]

    def embed_layers(self, batch, layers):
        raise NotImplementedError

    def head(self, embeddings):
        return self.decoder.head(embeddings)


class Untrainable:
    """What a learner has besides answers; nothing here is trained."""

    name, module, pad, objective = "untrainable", None, PAD, "sp"

    def encode(self, lesson):
        raise NotImplementedError

    loss = save = answer = log_probabilities = encode


@dataclasses.dataclass
class Spelling(Network):
    """A network over characters, which may be no network of ours."""

    name: str = "speller"
    model: Any = None
    tokenizer: Any = dataclasses.field(default_factory=Speller)
    layout: str = "causal"
    objective: str = "sp"
    n_slots: int = 12


def transformer(positions=96, seed=0):
    config = TransformerConfig(
        vocab_size=Speller.vocab_size,
        width=16,
        depth=2,
        heads=2,
        positions=positions,
        window=0,
        attention_bias=True,
        scale_attention=True,
        init_std=0.4,  # large enough for every token to matter
    )
    return Transformer(config, seed=seed, name="speller")


def network(layout, objective="sp", **sizes):
    model = transformer(**sizes)
    if layout == "encoder-decoder":
        model = Translator(model, transformer(seed=1, **sizes))
    return Spelling(model=model, layout=layout, objective=objective)
