"""The work that `engine.py` compares: inputs, and the sides that take turns on them.

A side is a generator. It sets up and warms up until its first `yield`, and then works, a step up to
each further one; what it returns is compared with the other side's.
"""

import dataclasses
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tightframe.corpus.blocks import ShardWriter
from tightframe.corpus.manifest import write_manifest
from tightframe.corpus.shards import TokenShards
from tightframe.files import sha256
from tightframe.geometry import argmax_tiles, stream
from tightframe.geometry.decisions import Decisions, class_decisions
from tightframe.geometry.measures import DEFAULT, MEASURES, metrics
from tightframe.geometry.moments import ClassMoments
from tightframe.lm.hardware import exact_float32
from tightframe.lm.interface import next_token
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer

BATCH = 4096  # positions given to the accumulators at once
MEASURED_BATCH = 8192  # tokens of a forward pass
PIECES = 4  # of the tokens to measure; the sides take turns after each
CONTEXT = 256

Size = dict[str, int]
Results = dict[str, np.ndarray]
Side = Generator[None, None, Results]


@dataclasses.dataclass(frozen=True)
class Work:
    """A row: what makes its inputs, and the sides that take turns on them."""

    title: str
    target: str
    make: Callable[[Path, str, Size], None]
    ours: Callable[[Path, str, Size], Side]
    other: str = ""  # what it is compared with: "reference", "faiss", "forward pass"
    theirs: Callable[[Path, str, Size], Side] | None = None


# Means and variances of labelled embeddings.


def make_embeddings(folder: Path, _: str, size: Size) -> None:
    rng = np.random.default_rng(0)
    labels = zipf_labels(rng, size["n"], size["classes"])
    centres = rng.normal(size=(size["classes"], size["dim"]))
    embeddings = centres[labels] + rng.normal(size=(size["n"], size["dim"]))
    save(folder, embeddings=embeddings.astype(np.float32), labels=labels)


def our_moments(folder: Path, _: str, size: Size) -> Side:
    given = load(folder)
    batches = list(zip(given["embeddings"].split(BATCH), given["labels"].split(BATCH), strict=True))
    ClassMoments(size["classes"], size["dim"]).update(*batches[0])
    yield
    moments = ClassMoments(size["classes"], size["dim"])
    for embeddings, labels in batches:
        moments.update(embeddings, labels)
    seen = moments.seen()
    return {
        "means": moments.means[seen].numpy(),
        "variances": moments.variances[seen].numpy(),
    }


def reference_moments(folder: Path, _: str, size: Size) -> Side:
    from neural_collapse.accumulate import MeanAccumulator, VarNormAccumulator

    given = load(folder)
    batches = list(zip(given["embeddings"].split(BATCH), given["labels"].split(BATCH), strict=True))
    shape = (size["classes"], size["dim"])
    MeanAccumulator(*shape, dtype=torch.float64).accumulate(*(x[:64] for x in batches[0]))
    yield
    accumulator = MeanAccumulator(*shape, dtype=torch.float64)
    for embeddings, labels in batches:
        accumulator.accumulate(embeddings, labels)
    means, _ = accumulator.compute()
    within_ss = VarNormAccumulator(*shape, dtype=torch.float64, M=means)
    for embeddings, labels in batches:
        within_ss.accumulate(embeddings, labels, means)
    variances, _ = within_ss.compute()
    seen = accumulator.ns_samples > 0
    return {"means": means[seen].numpy(), "variances": variances[seen].numpy()}


# All measures of pairs of classes.


def make_classes(folder: Path, _: str, size: Size) -> None:
    """Means and within_ss of classes whose counts follow Zipf's law, many of them singletons."""
    rng = np.random.default_rng(0)
    k, dim = size["classes"], size["dim"]
    counts = np.maximum(1, k // np.arange(1, k + 1))
    within_ss = dim * rng.random(k) * counts * (counts > 1)
    save(folder, means=rng.normal(size=(k, dim)), counts=counts, within_ss=within_ss)


def our_pairs(folder: Path, _: str, size: Size) -> Side:
    names = [one.name for one in MEASURES if one.quantity]
    if size.get("same"):
        names = ["nc1_cdnv", "gnc2_log_kernel_mean", "gnc2_log_kernel_var"]
    moments = class_moments(folder)
    classifier = torch.zeros_like(moments.means)
    k = size["compared"]
    values = metrics(first_classes(moments, k), classifier[:k], measures=names)
    yield
    metrics(moments, classifier, measures=names)
    return {  # what the other side has time for, too
        "cdnv": np.array(values["nc1_cdnv"].value),
        "log kernel": np.array(values["gnc2_log_kernel_mean"].value),
        "its variance": np.array(values["gnc2_log_kernel_var"].value),
    }


def reference_pairs(folder: Path, _: str, size: Size) -> Side:
    from neural_collapse.kernels import kernel_stats, log_kernel
    from neural_collapse.measure import variability_cdnv

    torch.set_default_dtype(torch.float64)  # of the matrices that it fills
    moments, tile = first_classes(class_moments(folder), size["compared"]), size["tile"]
    means, variances = moments.means, moments.variances
    variability_cdnv(variances[:100], means[:100], tile_size=tile)
    yield
    cdnv = variability_cdnv(variances, means, tile_size=tile)
    mean, variance = kernel_stats(means, means.mean(0), kernel=log_kernel, tile_size=tile)
    return {
        "cdnv": np.array(cdnv),
        "log kernel": np.array(mean),
        "its variance": np.array(variance),
    }


def class_moments(folder: Path) -> ClassMoments:
    given = load(folder)
    return ClassMoments.from_dense(given["counts"], given["means"], given["within_ss"])


def first_classes(moments: ClassMoments, n: int) -> ClassMoments:
    return ClassMoments.from_dense(moments.counts[:n], moments.means[:n], moments.within_ss[:n])


# The nearest class mean.


def make_points(folder: Path, _: str, size: Size) -> None:
    """Means, and points around them that lie so far out that a third is nearer to another."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(size["classes"], size["dim"]))
    labels = rng.integers(size["classes"], size=size["n"])
    points = means[labels] + 4 * rng.normal(size=(size["n"], size["dim"]))
    save(folder, means=means, points=points.astype(np.float32))


def our_nearest(folder: Path, _: str, size: Size) -> Side:
    given = load(folder)
    means, points = given["means"], given["points"]

    def decide(points: torch.Tensor) -> torch.Tensor:
        with exact_float32():
            ids = torch.arange(len(means))
            table = argmax_tiles.ScoreTable(means, ids, torch.float32, centre=means.mean(0))
            buffers = torch.empty(2, argmax_tiles.ROWS, argmax_tiles.TILE)
            tops = [
                table.sweep(part.double(), buffers[:, : len(part)])
                for part in points.split(argmax_tiles.ROWS)
            ]
            return argmax_tiles.resolve(points, [table], [argmax_tiles.Top.cat(tops)])[0]

    decide(points[:64])
    for _ in range(size["repeats"]):
        yield
        found = decide(points)
    return {"nearest": found.numpy()}


def faiss_nearest(folder: Path, _: str, size: Size) -> Side:
    import faiss

    given = load(folder)
    means, points = given["means"].float().numpy(), given["points"].numpy()
    faiss.omp_set_num_threads(torch.get_num_threads())

    def decide(points: np.ndarray) -> np.ndarray:
        index = faiss.IndexFlatL2(size["dim"])
        index.add(means)
        found: np.ndarray = index.search(points, 1)[1][:, 0]
        return found

    decide(points[:64])
    for _ in range(size["repeats"]):
        yield
        found = decide(points)
    return {"nearest": found}


def exact_nearest(folder: Path) -> np.ndarray:
    """In float64, by the whole matrix of distances."""
    given = load(folder)
    means = given["means"]
    halves = means.square().sum(1) / 2
    found = [(part.double() @ means.T - halves).argmax(1) for part in given["points"].split(1024)]
    return torch.cat(found).numpy()


# A language model, measured: two passes and the default measures.


def make_tokens(folder: Path, _: str, size: Size) -> None:
    """Pieces of random tokens, each a folder of tokens with a training and a validation split."""
    rng = np.random.default_rng(0)
    for piece in range(PIECES):
        path = folder / f"tokens-{piece}"
        path.mkdir()
        (path / "tokenizer.json").write_text("{}")
        splits = {}
        for name in ("train", "val"):
            rows = -(-size[name] // (PIECES * CONTEXT))
            tokens = zipf_labels(rng, rows * CONTEXT, size["vocabulary"])
            writer = ShardWriter(path, name, CONTEXT)
            writer.write(
                tokens.reshape(rows, CONTEXT).astype(np.int32),
                np.full(rows, CONTEXT, np.int32),
                np.arange(rows, dtype=np.int64) * CONTEXT,
            )
            splits[name] = writer.close(n_bytes=tokens.nbytes)
        manifest = {
            "name": "zipf",
            "source": {},
            "blocks": "packed",
            "block": CONTEXT,
            "vocab_size": size["vocabulary"],
            "end_of_text": None,
            "tokenizer": {"kind": "file", "sha256": sha256(path / "tokenizer.json")},
            "splits": splits,
            "entropy_floor": None,
        }
        write_manifest(path, manifest)


def our_measuring(folder: Path, precision: str, size: Size) -> Side:
    model, pieces = model_and_pieces(folder, size)
    options: dict[str, Any] = {"precision": precision, "batch_tokens": MEASURED_BATCH}
    with exact_float32(), torch.inference_mode():
        model.embed(pieces[0].split("val").rows(range(2))[0])
    yield
    moments = ClassMoments(size["vocabulary"], size["width"])
    for piece in pieces:
        moments.merge(stream.class_moments(model, piece.split("train"), **options))
        yield
    decisions = Decisions(moments.seen())
    for piece in pieces:
        decisions.merge(class_decisions(model, piece.split("val"), moments, **options))
        yield
    metrics(moments, model.classifier, decisions, measures=DEFAULT)
    return {"positions": np.array([moments.n, decisions.n])}


def bare_passes(folder: Path, precision: str, size: Size) -> Side:
    """The forward pass in the same batches and precision; with the head on validation tokens."""
    model, pieces = model_and_pieces(folder, size)
    model.eval()
    done = {"train": 0, "val": 0}

    def forward(piece: TokenShards, name: str) -> None:
        split = piece.split(name)
        step = MEASURED_BATCH // split.block
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        for first in range(0, split.n_blocks, step):
            batch = next_token(*split.rows(range(first, min(first + step, split.n_blocks))))
            with exact_float32(), torch.inference_mode(), autocast:
                embeddings = model.embed(batch)
                if name == "val":
                    model.head(embeddings)
            done[name] += batch.targets.numel()

    with exact_float32(), torch.inference_mode():
        model.embed(pieces[0].split("val").rows(range(2))[0])
    yield
    for name in ("train", "val"):
        for piece in pieces:
            forward(piece, name)
            yield
    return {"positions": np.array([done["train"], done["val"]])}


def model_and_pieces(folder: Path, size: Size) -> tuple[Transformer, list[TokenShards]]:
    config = TransformerConfig(
        size["vocabulary"], size["width"], size["depth"], heads=16, positions=CONTEXT
    )
    pieces = [TokenShards.open(folder / f"tokens-{piece}") for piece in range(PIECES)]
    return Transformer(config), pieces


def zipf_labels(rng: np.random.Generator, n: int, classes: int) -> np.ndarray:
    shares = 1 / np.arange(1, classes + 1)
    return rng.choice(classes, size=n, p=shares / shares.sum())


def save(folder: Path, **arrays: np.ndarray) -> None:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def load(folder: Path) -> dict[str, torch.Tensor]:
    return {path.stem: torch.from_numpy(np.load(path)) for path in folder.glob("*.npy")}


# fmt: off
WORKS = {
    "moments": Work("means and variances", "100 times",
                    make_embeddings, our_moments, "reference", reference_moments),
    "pairs": Work("all pair measures", "150 times, below 512 MiB",
                  make_classes, our_pairs, "reference", reference_pairs),
    "tiles": Work("all pair measures, its tiles 512", "150 times",
                  make_classes, our_pairs, "reference", reference_pairs),
    "same": Work("CDNV and log kernel alone", "",
                 make_classes, our_pairs, "reference", reference_pairs),
    "kept": Work("all pair measures, memory kept", "",
                 make_classes, our_pairs, "reference", reference_pairs),
    "wide": Work("all pair measures", "300 s on the clock, below 3072 MiB",
                 make_classes, our_pairs),
    "nearest": Work("nearest class mean", "1.3 times",
                    make_points, our_nearest, "faiss", faiss_nearest),
    "fp32": Work("measuring a model, fp32", "at most 1.10 of it",
                 make_tokens, our_measuring, "forward pass", bare_passes),
    "bf16": Work("measuring a model, bf16", "at most 1.10 of it",
                 make_tokens, our_measuring, "forward pass", bare_passes),
}
# fmt: on

# The sizes of issue 3, and of a smoke run.
PAIRS = {"dim": 256, "classes": 20_000, "compared": 2_500, "rounds": 5}
FEW_PAIRS = {"dim": 32, "classes": 600, "compared": 300}
SIZES = {
    "moments": {"n": 200_000, "dim": 256, "classes": 20_000},
    "pairs": PAIRS | {"tile": 64},
    "tiles": PAIRS | {"tile": 512},
    "same": PAIRS | {"tile": 64, "same": 1},
    "kept": PAIRS | {"tile": 64, "keep": 1},
    "wide": {"dim": 1024, "classes": 50_000, "compared": 200},
    "nearest": {"n": 8192, "dim": 256, "classes": 30_000, "repeats": 5},
    "fp32": {"train": 2_000_000, "val": 100_000, "width": 256, "depth": 4, "vocabulary": 4096},
    "bf16": {"train": 2_000_000, "val": 100_000, "width": 256, "depth": 4, "vocabulary": 4096},
}
QUICK = {
    "moments": {"n": 5_000, "dim": 32, "classes": 500},
    "pairs": FEW_PAIRS | {"tile": 64, "rounds": 2},
    "tiles": FEW_PAIRS | {"tile": 512},
    "same": FEW_PAIRS | {"tile": 64, "same": 1},
    "kept": FEW_PAIRS | {"tile": 64, "keep": 1},
    "wide": {"dim": 64, "classes": 1_000, "compared": 200},
    "nearest": {"n": 512, "dim": 32, "classes": 1_000, "repeats": 2},
    "fp32": {"train": 20_000, "val": 5_000, "width": 32, "depth": 1, "vocabulary": 256},
    "bf16": {"train": 20_000, "val": 5_000, "width": 32, "depth": 1, "vocabulary": 256},
}
