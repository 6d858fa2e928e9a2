"""The proxy's leading singular triplets at 10^4 tokens and 10^5 contexts, in time and memory.

    python benchmarks/ntp_proxy.py        both kinds of supports, with residual and peak memory

Supports are drawn twice: tokens uniformly (the spectrum's edge is dense, so iteration is slow) and
by Zipf's law (as in a text). Deduplication is part of the time; the drawing is not.
"""

import json
import resource
import time
from typing import Any

import numpy as np
import scipy.sparse as sp

TOKENS, CONTEXTS, ENTRIES, RANK = 10_000, 100_000, 800_000, 32
SECONDS, GIGABYTES, RESIDUAL = 20, 2, 1e-3


def proxy_svd(
    tokens: int = TOKENS, contexts: int = CONTEXTS, entries: int = ENTRIES
) -> dict[str, Any]:
    """The row `proxy_svd`: seconds, largest relative residual and peak memory of this process."""
    from tightframe.ntp.proxies import proxy_triplets

    row: dict[str, Any] = {
        "row": "proxy_svd",
        "work": f"proxy's triplets: {tokens:,} x {contexts:,}, {entries:,} entries, k = {RANK}",
        "target": f"{SECONDS} s, {GIGABYTES} GB, residual {RESIDUAL:g}",
    }
    for name, exponent in (("uniform", 0.0), ("zipf", 1.0)):
        support = draw(exponent, tokens, contexts, entries)
        wall, cpu = time.perf_counter(), time.process_time()
        triplets = proxy_triplets(support, RANK)
        row[name] = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "entries": int(support.nnz),
            "residual": float(triplets.residuals.max()),
            "singular_values": [float(triplets.singular_values[i]) for i in (0, -1)],
        }
    row["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    row["met"] = row["peak_gigabytes"] < GIGABYTES and all(
        row[name]["seconds"] <= SECONDS and row[name]["residual"] <= RESIDUAL
        for name in ("uniform", "zipf")
    )
    return row


def draw(exponent: float, tokens: int, contexts: int, entries: int) -> sp.csc_array:
    """A support matrix with so many ones, tokens by rank**-exponent, no context left empty."""
    rng = np.random.default_rng(0)
    shares = np.arange(1, tokens + 1) ** -exponent
    shares /= shares.sum()
    every = np.arange(contexts)  # each context has a token before the rest is drawn
    pairs = every * tokens + rng.choice(tokens, contexts, p=shares)
    while len(pairs) < entries:
        missing = entries - len(pairs)
        columns = rng.integers(0, contexts, missing)
        pairs = np.union1d(pairs, columns * tokens + rng.choice(tokens, missing, p=shares))
    columns, rows = np.divmod(pairs, tokens)
    ones = np.ones(len(pairs), dtype=bool)
    return sp.csc_array((ones, (rows, columns)), shape=(tokens, contexts))


if __name__ == "__main__":
    print(json.dumps(proxy_svd(), indent=2))
