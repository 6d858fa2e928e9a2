"""Parts of a training step against what torch would do in their place: CPU seconds, by turns.

float32 products by oneDNN against MKL (`lm/hardware.py`), the exponential by `exp2` against `exp`
(`lm/loss.py`), attention in chunks of queries against `scaled_dot_product_attention`, forwards and
backwards (`lm/attention.py`), and, with --compile, a step's forward and backward pass against the
same by `torch.compile`. Repeats alternate in one process of one thread, and medians of its CPU time
are compared, so that a machine that others use, too, slows both.

    python benchmarks/parts.py
    python benchmarks/parts.py --compile     needs a C++ compiler, and some minutes
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from tightframe.lm import attention, loss
from tightframe.lm.hardware import exact_float32
from tightframe.lm.loss import cross_entropy
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer

VOCABULARY, CONTEXT, ROWS = 4096, 256, 16

Row = tuple[str, float, float]  # what, and the milliseconds of torch and of ours


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [products(options), exponentials(options)]
    with exact_float32():  # as in training
        for precision in ("fp32", "bf16"):
            rows += [attend(options, precision, 256, window) for window in (0, 64)]
            rows += [attend(options, precision, 512, window) for window in (0, 256)]
        if options.compile:
            rows += [compiled(options)]
    table = Table("part of a step", "torch, ms", "ours, ms", "times as fast")
    for what, theirs, ours in rows:
        table.add_row(what, f"{theirs:.2f}", f"{ours:.2f}", f"{theirs / ours:.2f}")
    Console(width=100).print(table)


def products(options: argparse.Namespace) -> Row:
    """Logits of a chunk of the loss: (256, 128) by (128, 4096)."""
    left, right = torch.randn(256, 128), torch.randn(128, VOCABULARY)
    logits = torch.empty(256, VOCABULARY)

    def theirs() -> None:
        for _ in range(20):
            torch.mm(left, right, out=logits)

    def ours() -> None:
        with exact_float32():
            theirs()

    ours()  # whether oneDNN is exact here is found out once
    return compare("float32 products", theirs, ours, options)


def exponentials(options: argparse.Namespace) -> Row:
    """A chunk of logits, in place."""
    values = -10 * torch.rand(loss.CHUNK_LOGITS)
    again = torch.empty_like(values)
    return compare(
        "exponentials",
        lambda: again.copy_(values).exp_(),
        lambda: loss._exp(again.copy_(values)),
        options,
    )


def attend(options: argparse.Namespace, precision: str, context: int, window: int) -> Row:
    """Attention of four heads at width 128, forwards and backwards."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    projected = torch.randn(ROWS, context, 3 * 128, dtype=dtype, requires_grad=True)
    gradient = torch.randn(ROWS, context, 128, dtype=dtype)

    def ours() -> None:
        attended = attention.attend(projected, None, heads=4, scale=1.0, window=window)
        torch.autograd.grad(attended, projected, gradient)

    def theirs() -> None:
        short, attention.SHORT = attention.SHORT, 0  # no number of keys is short
        try:
            ours()
        finally:
            attention.SHORT = short

    name = f"attention, {precision}, {context} positions" + (f", window {window}" if window else "")
    return compare(name, theirs, ours, options)


def compiled(options: argparse.Namespace) -> Row:
    """Loss and gradients of a batch, in bfloat16, at width 128 and depth 2."""
    model = Transformer(TransformerConfig(VOCABULARY, 128, 2, 4, positions=CONTEXT), seed=0)
    tokens = torch.randint(VOCABULARY, (ROWS, CONTEXT + 1))
    fast = torch.compile(model.embed)

    def step(embed: Callable[[torch.Tensor], torch.Tensor]) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = embed(tokens[:, :-1]).flatten(0, 1)
            made = cross_entropy(embeddings, model.classifier, None, tokens[:, 1:].flatten())
        torch.autograd.grad(made, list(model.parameters()))

    start = time.perf_counter()
    step(fast)
    print(f"torch.compile: {time.perf_counter() - start:.0f} s before the first step")
    return compare(
        "a step by torch.compile", lambda: step(fast), lambda: step(model.embed), options
    )


def compare(
    what: str, theirs: Callable[[], object], ours: Callable[[], object], options: argparse.Namespace
) -> Row:
    """CPU milliseconds of both, by turns, after one untimed turn; a row of the table."""
    found: dict[str, list[float]] = {"torch": [], "ours": []}
    for _ in range(options.repeats + 1):
        for name, work in (("torch", theirs), ("ours", ours)):
            start = time.process_time()
            work()
            found[name].append(1000 * (time.process_time() - start))
    torch_ms, ours_ms = (statistics.median(times[1:]) for times in found.values())
    return what, torch_ms, ours_ms


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="torch.compile, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
