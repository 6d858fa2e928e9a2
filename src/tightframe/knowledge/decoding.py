"""What our own networks say: answers, log-probabilities, and the embeddings behind them.

Nothing here depends on what else is in a batch: rows are padded on the right and no position sees
padding. A step reads its row anew, so that every layout is asked in the same way.

Axes: N prompts, B rows of a batch, T positions, D embedding.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tightframe.errors import UserError
from tightframe.knowledge.decodable import Decodable, next_tokens
from tightframe.knowledge.exchanges import Draws, Prompt, Said
from tightframe.knowledge.facts import MASK
from tightframe.lm.interface import IGNORE, Batch, Example, collate, continued, slotted, translated
from tightframe.lm.loss import score
from tightframe.progress import tell

TOKENS = 8192  # held at once, with padding; memory only, never the result
SHOWN = 60  # characters of a text in a message


@torch.no_grad()
def answers(
    network: Decodable,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    draws: Draws | None = None,
) -> list[Said]:
    """The likeliest token at each step up to EOS, in the order of the prompts.

    Slots are filled in one pass and cut at the first EOS.

    Args:
        network: What is asked.
        prompts: All are checked before any is answered.
        max_new_tokens: At most so many, EOS among them; `finish` tells whether EOS was said.
        draws: A generator a prompt: a causal network draws its tokens instead. The others read
            both ways, and stay as they are.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if network.layout != "causal":
        draws = None
    read = [_read(network, prompt, max_new_tokens) for prompt in prompts]
    texts = [prompt.text for prompt in prompts]
    _check_room(network, texts, read, [max_new_tokens] * len(read))
    end = network.coder.eos
    said: dict[int, Said] = {}
    for rows in _batches([len(ids) + max_new_tokens for ids in read], "answers"):
        chosen = [read[row] for row in rows]
        if network.layout == "slots":
            tokens = [ids[:max_new_tokens] for ids in _slots_filled(network, chosen)]
        else:
            own = None if draws is None else [draws[row] for row in rows]
            tokens = _continuations(network, chosen, max_new_tokens, own)
        for row, ids in zip(rows, tokens, strict=True):
            ended = end in ids
            kept = ids[: ids.index(end)] if ended else ids
            said[row] = Said(network.coder.text(kept), "end" if ended else "length")
    return [said[row] for row in range(len(read))]


def room(network: Decodable, prompts: Sequence[Prompt]) -> int:
    """How many new tokens the longest of the prompts leaves positions for; at least 1."""
    known = network.model.positions
    if network.layout == "encoder-decoder":
        return known
    return max(1, known - max(len(_read(network, prompt, 1)) for prompt in prompts) + 1)


@torch.no_grad()
def log_probabilities(
    network: Decodable, prompts: Sequence[Prompt], candidates: Sequence[Sequence[str]]
) -> list[list[float]]:
    """How likely each candidate is as the answer to its prompt; see `Learner`.

    Where masks are filled: the sum of the log-probabilities of the candidate's tokens and EOS.
    Where sentences are continued: log P(the sentence filled with the candidate) -
    log P(the candidate), both after BOS and without EOS: no model has seen a candidate end there.
    """
    pairs = [
        (prompt, text) for prompt, texts in zip(prompts, candidates, strict=True) for text in texts
    ]
    if network.objective == "ntp":
        alone = list(dict.fromkeys(text for _, text in pairs))
        whole = [_filled(prompt, text) for prompt, text in pairs]
        summed = _sentences(network, [*alone, *whole])
        of_text = dict(zip(alone, summed, strict=False))
        found = [
            total - of_text[text]
            for (_, text), total in zip(pairs, summed[len(alone) :], strict=True)
        ]
    else:
        targets = [network.coder.target(text) for _, text in pairs]
        longest = max(map(len, targets), default=1)
        asked = {prompt: _read(network, prompt, longest) for prompt in prompts}
        read = [asked[prompt] for prompt, _ in pairs]
        _check_room(network, [prompt.text for prompt, _ in pairs], read, [*map(len, targets)])
        for (_, text), target in zip(pairs, targets, strict=True):
            if network.layout == "slots" and len(target) > network.n_slots:
                raise UserError(
                    f"{network.name}: candidate {_shown(text)} has {len(target)} tokens with its "
                    f"end, more than the model's {network.n_slots} slots; rank shorter ones"
                )
        found = _summed(network, read, targets)
    scores = iter(found)
    return [[next(scores) for _ in texts] for texts in candidates]


@torch.no_grad()
def answer_embeddings(network: Decodable, prompts: Sequence[Prompt]) -> Float[Tensor, "N D"]:
    """What the classifier multiplies where the first token of the answer is predicted; on the CPU.

    Where sentences are continued, that is the last position of the prompt; a cloze is read up to
    its mask.
    """
    if not prompts:
        raise ValueError("expected prompts, got none")
    prompts = [_up_to_mask(prompt) if network.objective == "ntp" else prompt for prompt in prompts]
    read = [_read(network, prompt, 1) for prompt in prompts]
    _check_room(network, [prompt.text for prompt in prompts], read, [1] * len(read))
    found: dict[int, Tensor] = {}
    for rows in _batches([*map(len, read)], "embeddings"):
        batch = _batch(network, [laid_out(network, read[row], []) for row in rows])
        first = (batch.targets != IGNORE).int().argmax(1)  # of equal ones, the first
        embeddings = _at(network.model.embed(batch), first).cpu()
        found |= dict(zip(rows, embeddings, strict=True))
    return torch.stack([found[row] for row in range(len(read))])


def _continuations(
    network: Decodable, read: Sequence[list[int]], max_new_tokens: int, draws: Draws | None
) -> list[list[int]]:
    """What follows each prompt, up to and with EOS; rows that have ended are read no more."""
    said: list[list[int]] = [[] for _ in read]
    left = list(range(len(read)))
    for _ in range(max_new_tokens):
        batch = _batch(network, [laid_out(network, read[row], said[row]) for row in left])
        last = _at(network.model.embed(batch), batch.lengths - 1)
        own = None if draws is None else [draws[row] for row in left]
        chosen = next_tokens(network.model.head(last), own).tolist()
        for row, token in zip(left, chosen, strict=True):
            said[row].append(token)
        left = [row for row in left if said[row][-1] != network.coder.eos]
        if not left:
            break
    return said


def _slots_filled(network: Decodable, read: Sequence[list[int]]) -> list[list[int]]:
    """The likeliest token of each slot."""
    batch = _batch(network, [laid_out(network, ids, []) for ids in read])
    embeddings = network.model.embed(batch)[batch.targets != IGNORE]  # row by row
    filled: list[list[int]] = network.model.head(embeddings).argmax(-1).view(len(read), -1).tolist()
    return filled


def _sentences(network: Decodable, texts: Sequence[str]) -> list[float]:
    """The log-probability of each text after BOS, whether or not it ends there."""
    openings = [network.coder.opening(text) for text in texts]
    _check_room(network, texts, openings, [1] * len(texts))
    targets = [[*ids[1:], network.coder.eos] for ids in openings]
    return _summed(network, [ids[:1] for ids in openings], targets, ended=False)


def _summed(
    network: Decodable,
    read: Sequence[list[int]],
    targets: Sequence[list[int]],
    *,
    ended: bool = True,
) -> list[float]:
    """The log-probability of each target after its prompt, summed over its tokens.

    Args:
        network: What reads.
        read: The prompts.
        targets: Each with EOS at its end.
        ended: Whether that EOS counts.
    """
    found: dict[int, float] = {}
    n_classes = len(network.model.classifier)
    lengths = [len(ids) + len(target) for ids, target in zip(read, targets, strict=True)]
    for rows in _batches(lengths, "candidates"):
        # The last token of a target is EOS, which `laid_out` adds.
        examples = [laid_out(network, read[row], targets[row][:-1]) for row in rows]
        batch = _batch(network, examples)
        embeddings = network.model.embed(batch).flatten(0, 1)
        losses = score(
            network.model.head, embeddings, batch.targets.flatten(), n_classes=n_classes
        ).losses.double()
        labelled = (batch.targets != IGNORE).sum(1).tolist()
        for row, own in zip(rows, losses.split(labelled), strict=True):
            counted = len(targets[row]) - (not ended)  # slots that are left over never do
            found[row] = -float(own[:counted].sum())
    return [found[row] for row in range(len(read))]


def laid_out(network: Decodable, prompt: list[int], said: list[int]) -> Example:
    """A prompt and an answer, with EOS after it, as this layout reads and predicts them."""
    target = [*said, network.coder.eos]
    if network.layout == "slots":
        coder = network.coder
        return slotted(prompt, target, slot=coder.slot, n_slots=network.n_slots, end=coder.eos)
    if network.layout == "encoder-decoder":
        return translated(prompt, target, start=network.coder.bos)
    return continued(prompt, target, bidirectional=network.layout == "prefix")


def _read(network: Decodable, prompt: Prompt, n_new: int) -> list[int]:
    """The tokens of a prompt after as many of its context's last as leave room for the answer."""
    begin, *ids = _asked(network, prompt)
    context = network.coder.opening(prompt.context)[1:] if prompt.context else []
    n_read = 1 + len(ids)
    decoder_apart = network.layout == "encoder-decoder"
    left = network.model.positions - (n_read if decoder_apart else _needed(network, n_read, n_new))
    return [begin, *context[max(0, len(context) - max(0, left)) :], *ids]


def _asked(network: Decodable, prompt: Prompt) -> list[int]:
    """The tokens of a prompt; one that this objective cannot be asked is refused."""
    if network.objective == "ntp":
        if prompt.form == "cloze":
            raise UserError(
                f"{network.name}: continues sentences and fills no masks, but was asked "
                f"{_shown(prompt.text)}; ask for the words after a left context "
                "(--form left_context)"
            )
        return network.coder.opening(prompt.text)
    if prompt.form == "continuation":
        raise UserError(
            f"{network.name}: fills masks and continues no sentences, but was asked "
            f"{_shown(prompt.text)}; ask clozes or questions (--form cloze_seen or question)"
        )
    masked = prompt.text if prompt.form == "cloze" else f"{prompt.text} {MASK}"
    return network.coder.prompt(masked)


def _filled(prompt: Prompt, candidate: str) -> str:
    """The sentence that a candidate makes of a prompt."""
    if prompt.form == "cloze":
        return prompt.text.replace(MASK, candidate)
    return f"{prompt.text} {candidate}"


def _up_to_mask(prompt: Prompt) -> Prompt:
    """The words before the mask of a cloze, to be continued; another prompt as it is."""
    if prompt.form != "cloze":
        return prompt
    return prompt._replace(form="continuation", text=prompt.text.partition(MASK)[0].rstrip())


def _check_room(
    network: Decodable, texts: Sequence[str], read: Sequence[list[int]], new: Sequence[int]
) -> None:
    """Refuse what is longer than the model's positions; nothing is ever cut."""
    for text, ids, n_new in zip(texts, read, new, strict=True):
        needed = _needed(network, len(ids), n_new)
        if needed > network.model.positions:
            raise UserError(
                f"{network.name}: {_shown(text)} has {len(ids)} tokens and needs {needed} "
                f"positions to be answered, the model knows {network.model.positions}; "
                "leave it out, ask for fewer new tokens, or train with more positions"
            )


def _needed(network: Decodable, n_read: int, n_new: int) -> int:
    """Positions that a prompt of so many tokens takes with its answer."""
    if network.layout == "slots":
        return n_read + network.n_slots
    if network.layout == "encoder-decoder":
        return max(n_read, n_new)
    return n_read + n_new - 1  # the last token is said, not read


def _batches(lengths: Sequence[int], what: str) -> Iterator[list[int]]:
    """Row numbers, rows of like length together, at most TOKENS with padding.

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


def _batch(network: Decodable, examples: Sequence[Example]) -> Batch:
    """On the model's device."""
    return collate(examples, pad=network.coder.pad).to(network.model.classifier.device)


def _at(embeddings: Float[Tensor, "B T D"], place: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
    """The embedding at one position of each row."""
    return embeddings[torch.arange(len(place), device=place.device), place]


def _shown(text: str) -> str:
    """A text in a message: on one line, its beginning."""
    line = " ".join(text.split())
    return repr(line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…")
