"""An encoder of transformers, fine-tuned to tell which cluster a text is about.

K independent yes-or-no outputs, binary cross-entropy over all of them: a text of no cluster is
labelled no K times, and may still be given several by the model.

On disk a folder: what transformers writes of a model and its tokenizer (safetensors), and
scope.json with the clusters, threshold and calibration.

Axes: N texts, K clusters.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tightframe.errors import UserError
from tightframe.files import sha256, whole_folder
from tightframe.formats import FileName, Record, Sha256, check_digest, read_signed
from tightframe.knowledge.clusters import Clusters
from tightframe.knowledge.entries import write_report
from tightframe.knowledge.records import Fact
from tightframe.knowledge.scope import EncoderSettings, Scope, statements
from tightframe.knowledge.text_encoders import BATCH, TextEncoder, load_encoder
from tightframe.progress import tell

_SCOPE = "scope.json"
_KEYS = {"clusters", "threshold", "scale", "shift"}


@dataclasses.dataclass(frozen=True)
class EncoderClassifier:
    """A fine-tuned encoder; `loss` is its mean binary cross-entropy of each epoch, if known."""

    encoder: TextEncoder
    losses: tuple[float, ...] = ()

    @torch.no_grad()
    def logits(self, texts: Sequence[str]) -> Float[np.ndarray, "N K"]:
        """Of each text and cluster."""
        model: Any = self.encoder.model
        found = np.zeros((len(texts), model.config.num_labels))
        for rows, tokens in self.encoder.batches(texts):
            found[rows] = model(**tokens).logits.double().numpy(force=True)
        return found


def fit_scope_encoder(
    clusters: Clusters, negatives: Sequence[Fact], settings: EncoderSettings
) -> Scope:
    """Fine-tune an encoder on the facts, and on negatives that belong to no cluster.

    On a CPU the same settings give the same weights.

    Raises:
        UserError: See `scope.statements` and `text_encoders.load_encoder`.
    """
    texts, labels = statements(clusters, negatives)
    with _seeded(settings):
        encoder = load_encoder(settings.encoder, outputs=clusters.k)
        encoder.lengths(texts)
        encoder.model.to(settings.device)
        losses = _train(encoder, texts, _yes_or_no(labels, clusters.k), settings)
    return Scope(EncoderClassifier(encoder, tuple(losses)), clusters.fingerprints)


def save_scope_encoder(path: str | Path, scope: Scope) -> None:
    """Write the folder, whole or not at all; one that exists is refused."""
    classifier = scope.classifier
    assert isinstance(classifier, EncoderClassifier)
    model: Any = classifier.encoder.model
    with whole_folder(Path(path)) as folder:
        model.save_pretrained(folder)
        classifier.encoder.tokenizer.save_pretrained(folder)
        write_report(
            folder / _SCOPE,
            {
                "clusters": list(scope.clusters),
                "threshold": scope.threshold,
                "scale": scope.scale,
                "shift": scope.shift,
                "files": {one.name: sha256(one) for one in sorted(folder.iterdir())},
            },
        )


def load_scope_encoder(path: str | Path, *, device: str = "cpu") -> Scope:
    """The inverse of `save_scope_encoder`; another folder is refused by name."""
    path = Path(path)
    if not (path / _SCOPE).is_file():
        raise UserError(
            f"{path}: holds no {_SCOPE}; `tightframe knowledge scope --encoder` makes one"
        )
    about: _About = read_signed(path / _SCOPE, _About)
    for name, digest in about.files.items():
        check_digest(path / name, digest)
    encoder = load_encoder(str(path), outputs=len(about.clusters))
    encoder.model.to(device)
    return Scope(
        EncoderClassifier(encoder), about.clusters, about.threshold, about.scale, about.shift
    )


class _About(Record):
    """What scope.json holds."""

    clusters: tuple[str, ...]
    threshold: float
    scale: float
    shift: float
    files: dict[FileName, Sha256]  # the encoder and its tokenizer
    fingerprint: str


def _yes_or_no(labels: Int[np.ndarray, " N"], k: int) -> Float[Tensor, "N K"]:
    """One where the text is of the cluster; a row of zeros for a negative."""
    return torch.as_tensor(labels[:, None] == np.arange(k), dtype=torch.float32)


def _train(
    encoder: TextEncoder,
    texts: Sequence[str],
    truth: Float[Tensor, "N K"],
    settings: EncoderSettings,
) -> list[float]:
    """The mean loss of each epoch, with dropout."""
    model = encoder.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    steps = settings.epochs * -(-len(texts) // settings.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    generator = torch.Generator().manual_seed(settings.seed)
    losses, done = [], 0
    for _ in range(settings.epochs):
        total = 0.0
        order = torch.randperm(len(texts), generator=generator)
        for rows in order.split(settings.batch):
            for part in rows.split(BATCH):  # of a step's texts, as many as are held at once
                logits = model(**encoder.tokens([texts[row] for row in part.tolist()])).logits
                wanted = truth[part].to(logits.device)
                loss = nn.functional.binary_cross_entropy_with_logits(
                    logits, wanted, reduction="sum"
                )
                (loss / (len(rows) * truth.shape[1])).backward()
                total += float(loss.detach())
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            done += len(rows)
            tell("fine-tuning", done / (settings.epochs * len(texts)), done)
        losses.append(total / truth.numel())
    model.eval()
    return losses


@contextlib.contextmanager
def _seeded(settings: EncoderSettings) -> Iterator[None]:
    """Torch's own generators, which new layers and dropout draw from, as the seed says."""
    try:
        device = torch.device(settings.device)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"device {settings.device}: cannot be used ({first})") from None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        yield
