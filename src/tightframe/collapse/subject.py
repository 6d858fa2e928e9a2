"""What is measured: a checkpoint of a run, or a model from elsewhere, and what is known of it."""

import dataclasses
import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tightframe.corpus.tokens import TokenShards
from tightframe.errors import UserError
from tightframe.files import read_json
from tightframe.lm.hub import load_model
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.runs import Run
from tightframe.lm.transformer import Transformer
from tightframe.settings import as_dict

Model = Transformer | HuggingFaceModel


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A model that need not be loaded yet, and the folder that takes its results."""

    source: str | Path | Model
    name: str
    step: int  # 0 for a model that is not of a run
    folder: Path
    run: Run | None

    @classmethod
    def of(cls, source: str | Path | Model, step: int | None, out: str | Path | None) -> "Subject":
        """Find a run, or take a model as it comes; that needs a folder `out` for its results."""
        if isinstance(source, str | Path):
            path = Path(source).expanduser()
            if (path / "config.toml").is_file():
                run = Run.open(path)
                return cls(path, run.name, run.kept(step), Path(out or path), run)
        name = Path(source).name if isinstance(source, str | Path) else source.name
        if out is None:
            raise UserError(f"{name}: not a run directory; say with `out` where its results go")
        return cls(source, name, step or 0, Path(out), None)

    def tokens(self, given: TokenShards | str | Path | None) -> TokenShards:
        """The tokens to measure on: those given, or the ones that the run was trained on."""
        if isinstance(given, TokenShards):
            return given
        if given is not None:
            return TokenShards.open(given)
        if self.run is None:
            raise UserError(f"{self.name}: not a run directory; say on which tokens to measure it")
        shards = TokenShards.open(self.run.settings.tokens)
        if shards.fingerprint != (trained_on := self.run.facts["tokens"]):
            raise UserError(
                f"{shards.path}: holds tokens {shards.fingerprint}, but {self.run.path} was "
                f"trained on {trained_on}; say on which tokens to measure it"
            )
        return shards

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the training run; none for a model from elsewhere."""
        return as_dict(self.run.settings) if self.run else {}

    @property
    def threads(self) -> int:
        """As many as the run was trained with, so that runs side by side stay so."""
        return (self.run.settings.threads if self.run else 0) or torch.get_num_threads()

    @cached_property
    def weights(self) -> str:
        """What tells this model from another of the same name."""
        if self.run is not None:
            return str(read_json(self.run.checkpoint(self.step) / "config.json")["sha256"])
        classifier = self.model.classifier.detach().cpu().contiguous()
        return hashlib.sha256(classifier.view(torch.uint8).numpy().tobytes()).hexdigest()

    @cached_property
    def model(self) -> Model:
        """Loaded once: on the GPU if there is one and the run was not told to use the CPU."""
        if not isinstance(self.source, str | Path):
            return self.source
        wanted = self.run.settings.device if self.run else "auto"
        device = "cuda" if torch.cuda.is_available() and wanted != "cpu" else "cpu"
        return load_model(self.source, step=self.step if self.run else None, device=device)


def model_facts(model: Model, shards: TokenShards) -> dict[str, Any]:
    """What measures are read beside: kind, size, shape, and what the classifier is."""
    n_rows, width = model.classifier.shape
    return {
        "architecture": model.architecture,
        "n_parameters": model.n_parameters,
        "vocab_size": n_rows,  # rows of the classifier; those of padding included
        "padding_rows": n_rows - shards.vocab_size,  # beyond the tokenizer's largest id
        "width": width,
        "depth": model.depth,
        "tied": model.tied,
        "dtype": str(model.classifier.dtype).removeprefix("torch."),
    }


def token_facts(shards: TokenShards) -> dict[str, Any]:
    """What the tokens are, and what no model can beat on them where that is known."""
    return {
        "name": shards.name,
        "fingerprint": shards.fingerprint,
        "vocab_size": shards.vocab_size,
        "block": shards.block,
        "train_labels": shards.split("train").n_labels,
        "val_labels": shards.split("val").n_labels,
        "entropy_floor": shards.entropy_floor,
    }
