"""What a table's folder gives to compare models with: its best solution, proxies, a baseline.

::

    ntp/<name>/   table.safetensors  manifest.json  solutions/*.safetensors
                  results/<model>/step-N-<hash>.jsonl
"""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.ntp.comparison import shuffled_proxies
from tightframe.ntp.predict import Prediction, predict_geometry
from tightframe.ntp.proxies import proxy
from tightframe.ntp.soft_labels import SoftLabels
from tightframe.ntp.solutions import best_solution, load_solution

DENSE = 4_000_000  # entries of the largest support whose proxy is decomposed whole
RANK = 64  # triplets of the proxy of a larger one


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """Predictions of one table.

    Attributes:
        solution: Of L_mm, or of the centred support where that is proved to be exact; None where
            there is neither.
        proxy: Of the centred support.
        shuffled: Of supports drawn at random.
        facts: What they are, for headers.
    """

    solution: Prediction | None
    proxy: Prediction
    shuffled: tuple[Prediction, ...]
    facts: dict[str, Any]

    @classmethod
    def read(
        cls, folder: Path, labels: SoftLabels, fingerprint: str, *, shuffles: int, seed: int
    ) -> "References":
        """Of a table's folder.

        Args:
            folder: Its `solutions/` may be empty or absent.
            labels: Of the table.
            fingerprint: Of the table; solutions of other ones are passed over.
            shuffles: Draws of the baseline.
            seed: Of these draws.

        Raises:
            UserError: The table predicts nothing, or has solutions of other tables alone.
        """
        large = labels.vocab_size * labels.n_contexts > DENSE
        rank = min(RANK, labels.vocab_size, labels.n_contexts) if large else None
        try:
            stand_in = proxy(labels.support, rank=rank)
        except ValueError as error:  # nothing is to be separated
            raise UserError(f"{folder}: {error}") from None
        path = best_solution(folder, fingerprint)
        solution, name, digest = None, "", ""
        if path is not None:
            solution = predict_geometry(load_solution(path, labels.matrix))
            name, digest = path.name, sha256(path)[:12]
        elif stand_in.kind == "exact":
            solution, name, digest = stand_in, "proxy", "exact"
        facts = {
            "solution": name,
            "solution_sha256": digest,
            "solution_kind": "" if solution is None else solution.kind,
            "gap": None if solution is None else solution.gap,
            "proxy_kind": stand_in.kind,
            "proxy_rank": stand_in.rank,
            "shuffles": shuffles,
            "seed": seed,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on supports that nobody asked about
            drawn = shuffled_proxies(labels, shuffles, seed=seed, rank=rank)
        return cls(solution, stand_in, drawn, facts)
