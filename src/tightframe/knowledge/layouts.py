"""Layout of training examples and prompts in the input of a network of ours.

`restore` hides a random share of the words of a sentence (a run of them is one mask) and learns the
whole sentence after it. `noise` is next-token prediction with a share of the input tokens hidden.
`diffusion` (MDLM, arXiv:2406.07524) hides each token with probability t, drawn uniformly, and
predicts the hidden ones where they stand, weighted by 1/t.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tightframe.knowledge.qa_models import Layout, TrainingExample, continues
from tightframe.knowledge.word_pieces import ClozeTokenizer
from tightframe.lm.interface import IGNORE, Example, continued, slotted, translated
from tightframe.progress import tell

SMALLEST_T = 1e-3  # of diffusion: no token weighs more than 1,000
SHOWN = 60  # characters of a text in a message
TOKENS = 8192  # held at once, with padding; memory only, never the result


class MaskingOptions(NamedTuple):
    """Settings of a training that hides words; a trained network is asked without them."""

    noise: float = 0.15  # share of the input tokens that `noise` hides
    masked_only: bool = False  # `restore` learns the hidden words only, not the whole sentence


NO_OPTIONS = MaskingOptions()


class InputFormat(NamedTuple):
    """Layout of a text for a network of ours: how it is read and where it is answered."""

    tokenizer: ClozeTokenizer
    layout: Layout
    n_slots: int
    masking: MaskingOptions


def encoded(example: TrainingExample, form: InputFormat) -> Example:
    """Return a training example as tokens."""
    tokenizer, objective = form.tokenizer, example.objective
    ends = {"mask": tokenizer.mask, "begin": tokenizer.bos, "end": tokenizer.eos}
    if objective == "mlm":
        raise ValueError("our networks learn masked spans as 'sp', not as 'mlm'")
    if objective == "restore":
        return restored(
            [tokenizer.words(word) for word in example.target.split()],
            example.draw,
            sep=tokenizer.sep,
            bidirectional=form.layout == "prefix",
            masked_only=form.masking.masked_only,
            **ends,
        )
    target = tokenizer.words(example.target)
    if objective == "diffusion":
        return diffused(target, example.draw, **ends)
    if not continues(objective):
        prompt = tokenizer.prompt(example.prompt)
        return laid_out(prompt, target, form)
    encoded = laid_out([tokenizer.bos], target, form)
    if objective == "noise":
        share = form.masking.noise
        return noised(encoded, example.draw, mask=tokenizer.mask, share=share)
    return encoded


def laid_out(prompt: list[int], answer: list[int], form: InputFormat) -> Example:
    """Lay out a prompt and an answer, with EOS after it, as this network reads them."""
    tokenizer = form.tokenizer
    target = [*answer, tokenizer.eos]
    if form.layout == "in_place":
        return in_place(
            [*prompt[:-1], tokenizer.eos], answer or [tokenizer.eos], mask=tokenizer.mask
        )
    if form.layout == "slots":
        slots = {"slot": tokenizer.slot, "n_slots": form.n_slots, "end": tokenizer.eos}
        return slotted(prompt, target, **slots)
    if form.layout == "encoder-decoder":
        return translated(prompt, target, start=tokenizer.bos)
    return continued(prompt, target, bidirectional=form.layout == "prefix")


def restored(
    words: Sequence[Sequence[int]], draw: int, *, mask: int, begin: int, sep: int, end: int,
    bidirectional: bool, masked_only: bool,
) -> Example:  # fmt: skip
    """Make an example of a sentence with words hidden, and the whole sentence after it.

    Args:
        words: Tokens of each word.
        draw: Seed of the share of hidden words, uniform in (0, 1), and of the choice.
        mask: Token that stands for a run of hidden words.
        begin: First token of the example.
        sep: Token between the two sentences.
        end: Token after the second one.
        bidirectional: Read the first sentence both ways.
        masked_only: Learn the hidden words and the end only.
    """
    generator = np.random.default_rng(draw)
    hidden = generator.random(len(words)) < generator.random()
    hidden[generator.integers(len(words))] |= not hidden.any()
    prompt, target, learnt = [begin], list[int](), list[bool]()
    for word, hide in zip(words, hidden.tolist(), strict=True):
        if not hide:
            prompt += word
        elif prompt[-1] != mask:
            prompt.append(mask)
        target += word
        learnt += [hide or not masked_only] * len(word)
    example = continued([*prompt, sep], [*target, end], bidirectional=bidirectional)
    first = len(prompt)
    targets = [
        token if i < first or i - first >= len(learnt) or learnt[i - first] else IGNORE
        for i, token in enumerate(example.targets)
    ]
    return example._replace(targets=tuple(targets))


def noised(example: Example, draw: int, *, mask: int, share: float) -> Example:
    """Hide a share of the inputs after the first one; the targets stay."""
    hidden = np.random.default_rng(draw).random(len(example.inputs)) < share
    hidden[0] = False
    inputs = [mask if hide else token for token, hide in zip(example.inputs, hidden, strict=True)]
    return example._replace(inputs=tuple(inputs))


def diffused(tokens: Sequence[int], draw: int, *, mask: int, begin: int, end: int) -> Example:
    """Make an example of a sentence, each token hidden with probability t ~ U(SMALLEST_T, 1)."""
    generator = np.random.default_rng(draw)
    t = SMALLEST_T + (1 - SMALLEST_T) * generator.random()
    return hidden_tokens(
        tokens, (generator.random(len(tokens)) < t).tolist(), 1 / t, mask=mask, begin=begin, end=end
    )


def hidden_tokens(
    tokens: Sequence[int], hidden: Sequence[bool], weight: float, *, mask: int, begin: int, end: int
) -> Example:
    """Make an example of a sentence in place: hidden tokens are predicted, all others read.

    All tokens are targets, so that the loss is a mean over them; those that are read weigh 0.
    """
    inputs = [mask if hide else token for token, hide in zip(tokens, hidden, strict=True)]
    return Example(
        inputs=(begin, *inputs, end),
        targets=(IGNORE, *tokens, IGNORE),
        prefix=len(tokens) + 2,
        weights=(0.0, *(weight * hide for hide in hidden), 0.0),
    )


def in_place(prompt: Sequence[int], answer: Sequence[int], *, mask: int) -> Example:
    """Make an example of a prompt whose mask is as many as the answer has tokens, all predicted."""
    at = prompt.index(mask)
    after = prompt[at + 1 :]
    return Example(
        inputs=(*prompt[:at], *[mask] * len(answer), *after),
        targets=(*[IGNORE] * at, *answer, *[IGNORE] * len(after)),
        prefix=len(prompt) - 1 + len(answer),
    )


def batches_of_rows(lengths: Sequence[int], what: str) -> Iterator[list[int]]:
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


def quoted(text: str) -> str:
    """Return a text for a message: on one line, its beginning."""
    line = " ".join(text.split())
    return repr(line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…")
