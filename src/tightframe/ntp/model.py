"""A model's classifier and its embedding of every context of a table, in memory and on disk.

Axes: M contexts, T tokens of a context, V tokens of the table, D embedding, B contexts of a batch.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from tightframe.errors import UserError
from tightframe.formats import TensorFormat
from tightframe.lm.interface import LanguageModel
from tightframe.lm.loss import measuring
from tightframe.ntp.table import PAD, ContextTable

BATCH_TOKENS = 8192  # tokens of a forward pass; memory only, but for its rounding
ROWS = 256  # and contexts at most: each has logits over the whole vocabulary

Progress = Callable[[int, int], None]
"""Takes the contexts that are done, and all."""


@dataclasses.dataclass(frozen=True, eq=False)
class Embedded:
    """Embeddings and classifier of a model on a table.

    Attributes:
        classifier: Rows of the table's tokens, in their order.
        embeddings: At the last position of each context, after the final norm, in table order.
        bias: Bias of the table's tokens; None if the model has none.
        outside: For each context, -log of the share that the table's tokens have in the model's
            softmax over its whole vocabulary, in nats; 0 where it knows no other token.
        finish: Last function of the model on its logits (a scale, a soft-cap), entry by entry; None
            if nothing.
    """

    classifier: Float[np.ndarray, "V D"]
    embeddings: Float[np.ndarray, "M D"]
    bias: Float[np.ndarray, " V"] | None
    outside: Float[np.ndarray, " M"]
    finish: Callable[[Float[np.ndarray, "B V"]], Float[np.ndarray, "B V"]] | None = None


@torch.no_grad()
def collect(
    model: LanguageModel,
    table: ContextTable,
    *,
    bos: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> Embedded:
    """Read a model on every context of a table: one forward pass over M short sequences.

    Contexts of one length go together, so that none is ever padded: what a shorter context gives
    is what it gives by itself.

    Args:
        model: Any language model; it stays on its device.
        table: Table whose token ids are the model's own (`lm.load.check_words`).
        bos: A token id that is put before every context that does not begin with it.
        batch_tokens: Tokens held at once; memory, and the rounding of the forward pass.
        progress: Called as the pass goes on.

    Raises:
        UserError: The table does not fit the model: unknown ids, contexts that are too long, or
            embeddings that are not finite.
        ValueError: A context of the table is empty, padded in the middle or there twice.
    """
    sequences = _sequences(table, bos)
    _check_fits(model, table, sequences)
    known = len(model.classifier)
    rows = torch.as_tensor(table.tokens, device=model.classifier.device)
    embeddings = np.empty((table.n_contexts, model.classifier.shape[1]))
    outside = np.zeros(table.n_contexts)
    done = 0
    with measuring(model):
        for contexts, inputs in _batches(sequences, batch_tokens):
            last = model.embed(inputs.to(model.classifier.device))[:, -1]  # (B, D)
            embeddings[contexts] = last.double().cpu().numpy()
            if table.vocab_size < known:
                outside[contexts] = _outside(model.head(last), rows)
            done += len(contexts)
            if progress is not None:
                progress(done, table.n_contexts)
        classifier = model.classifier[rows].double().cpu().numpy()
        bias = None if model.bias is None else model.bias[rows].double().cpu().numpy()
    _check_finite(model, embeddings, classifier)
    return Embedded(classifier, embeddings, bias, outside, _finish_of(model))


def _sequences(table: ContextTable, bos: int | None) -> list[Int[np.ndarray, " _"]]:
    """Return the token ids of each context without its padding."""
    contexts = table.contexts
    lengths = (contexts != PAD).sum(axis=1)
    width = contexts.shape[1]
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        raise ValueError(f"contexts: context {empty[0]} has no token")
    places = np.arange(width) >= (width - lengths)[:, None]
    broken = np.flatnonzero(((contexts != PAD) != places).any(axis=1))
    if len(broken):
        raise ValueError(f"contexts: context {broken[0]} has PAD ({PAD}) right of a token")
    _, first, inverse = np.unique(contexts, axis=0, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse.ravel()] != np.arange(len(contexts)))
    if len(again):
        earlier = first[inverse.ravel()[again[0]]]
        raise ValueError(f"contexts: context {again[0]} is context {earlier} again; merge them")
    kept = (row[width - n :] for row, n in zip(contexts, lengths, strict=True))
    if bos is None:
        return list(kept)
    return [row if row[0] == bos else np.concatenate([[bos], row]) for row in kept]


def _batches(
    sequences: list[Int[np.ndarray, " _"]], batch_tokens: int
) -> Iterator[tuple[Int[np.ndarray, " B"], Int[Tensor, "B T"]]]:
    """Yield contexts of equal length and their token ids, shortest first."""
    lengths = np.array([len(row) for row in sequences])
    for length in np.unique(lengths):
        contexts = np.flatnonzero(lengths == length)
        size = max(1, min(ROWS, batch_tokens // int(length)))
        for start in range(0, len(contexts), size):
            part = contexts[start : start + size]
            ids = np.stack([sequences[context] for context in part]).astype(np.int64)
            yield part, torch.from_numpy(ids)


def _outside(logits: Float[Tensor, "B N"], rows: Int[Tensor, " V"]) -> Float[np.ndarray, " B"]:
    logits = logits.double()
    missing: Float[np.ndarray, " B"] = (
        (logits.logsumexp(1) - logits[:, rows].logsumexp(1)).clamp(min=0).cpu().numpy()
    )
    return missing


def _finish_of(
    model: LanguageModel,
) -> Callable[[Float[np.ndarray, "B V"]], Float[np.ndarray, "B V"]] | None:
    finish = getattr(model, "finish", None)
    if finish is None:
        return None
    like = model.classifier

    @torch.no_grad()
    def finished(logits: Float[np.ndarray, "B V"]) -> Float[np.ndarray, "B V"]:
        given = torch.from_numpy(logits).to(like.device, like.dtype)
        with measuring(model):
            made: Float[np.ndarray, "B V"] = finish(given).double().cpu().numpy()
        return made

    return finished


def _check_fits(
    model: LanguageModel, table: ContextTable, sequences: list[Int[np.ndarray, " _"]]
) -> None:
    known = len(model.classifier)
    largest = max(int(table.tokens.max()), *(int(row.max()) for row in sequences))
    if largest >= known:
        raise UserError(
            f"model {model.name} knows {known:,} tokens, but the table has token {largest:,}; "
            "make the table of tokens from the model's own tokenizer"
        )
    positions: int | None = getattr(model, "positions", None)
    longest = max(map(len, sequences))
    if positions is not None and longest > positions:
        raise UserError(
            f"a context of the table has {longest:,} tokens, but model {model.name} has "
            f"{positions:,} positions; make a table of shorter contexts"
        )


def _check_finite(
    model: LanguageModel,
    embeddings: Float[np.ndarray, "M D"],
    classifier: Float[np.ndarray, "V D"],
) -> None:
    for what, matrix in (
        ("embedding of context", embeddings),
        ("classifier row of token", classifier),
    ):
        wrong = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if len(wrong):
            raise UserError(
                f"model {model.name}: the {what} {wrong[0]} is not finite; did training diverge, "
                "or float16 overflow?"
            )


class ModelCheckpoint(NamedTuple):
    """A model at a step; its logits are `classifier @ embeddings.T`."""

    step: int  # optimizer updates taken
    classifier: Float32[np.ndarray, "V D"]  # rows of the table's tokens
    embeddings: Float32[np.ndarray, "M D"]  # of the table's contexts, in their order

    @property
    def logits(self) -> Float[np.ndarray, "V M"]:
        """In float64: products of float32 would hide the last digits of a small loss."""
        logits: Float[np.ndarray, "V M"] = self.classifier.astype(float) @ self.embeddings.T
        return logits


FORMAT: TensorFormat[dict[str, Any]] = TensorFormat(
    "checkpoints of a model",
    dict[str, Any],
    {"step-*.classifier": "float32 V D", "step-*.embeddings": "float32 M D"},
    remedy="remove it, and train again",
)


def save_model_checkpoints(
    path: Path, checkpoints: Sequence[ModelCheckpoint], about: Mapping[str, Any]
) -> None:
    """Write a file whole or not at all; `about` (plain values) is what is known of the model."""
    tensors = {}
    for checkpoint in checkpoints:
        tensors[f"step-{checkpoint.step}.classifier"] = checkpoint.classifier
        tensors[f"step-{checkpoint.step}.embeddings"] = checkpoint.embeddings
    FORMAT.write(path, tensors, dict(about))


def load_model_checkpoints(path: Path) -> tuple[list[ModelCheckpoint], dict[str, Any]]:
    """Load the checkpoints of a file by step, and what is known about the model."""
    tensors, about = FORMAT.read(path)
    try:
        steps = sorted({int(name.split(".")[0].removeprefix("step-")) for name in tensors})
        checkpoints = [
            ModelCheckpoint(
                step,
                tensors[f"step-{step}.classifier"].numpy(),
                tensors[f"step-{step}.embeddings"].numpy(),
            )
            for step in steps
        ]
    except (KeyError, ValueError):
        raise UserError(f"{path}: holds half a checkpoint; {FORMAT.remedy}") from None
    return checkpoints, about
