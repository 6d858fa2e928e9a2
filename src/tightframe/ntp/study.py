"""From a trained model and a table's folder to results files: one per checkpoint.

::

    ntp/<name>/results/<model>/step-N-<table>.jsonl

Rows lie beside the table and not beside the run: they have no meaning without the table, a run may
be compared with many, and `report` of a run reads no row of another study. A file that was written
before the table was solved is replaced by the union of its rows and the new ones.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tightframe.errors import UserError
from tightframe.files import exclusive
from tightframe.geometry.values import Value
from tightframe.lm.checkpoints import digest_of_weights
from tightframe.lm.hardware import device_named
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.load import beginning_of_sequence, check_words, digest_of, load_model
from tightframe.lm.runs import Run
from tightframe.lm.transformer import Transformer
from tightframe.ntp.catalogue import MEASURES
from tightframe.ntp.comparison import Comparison, References, compare_embeddings
from tightframe.ntp.model import collect
from tightframe.ntp.options import CompareOptions
from tightframe.ntp.table import ContextTable, load_table, table_fingerprint
from tightframe.results import Header, Row, read_rows, write_rows
from tightframe.settings import as_dict

Model = Transformer | HuggingFaceModel
Progress = Callable[[str, float | None, int], None]
"""Function that takes the stage, the share of it that is done, and the tokens gone through."""


def compare(
    model: str | Path | Model,
    table: str | Path,
    *,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> Comparison:
    """Compare a model with what a table predicts, at every checkpoint if it is a run.

    Checkpoints that were compared before are not read again. The model is compared with the
    solution of smallest gap in the table's `solutions/`, the proxy, and random supports.

    Args:
        model: A run directory, a checkpoint or Hugging Face folder, a hub name, or a model.
        table: The folder of a context table, of tokens of the model's own tokenizer.
        progress: Function that is called as checkpoints are done.
        say: Function that takes lines on what is going on, warnings among them.
        options: Fields of `CompareOptions`: step, bos, shuffles, seed, device, batch_tokens,
            trust_remote_code, out.

    Raises:
        UserError: Model and table don't fit, or the checkpoint was compared with a solution that
            is no longer that of smallest gap.
    """
    chosen = CompareOptions(**options)
    tell = None if say is None else _once(say)
    folder = Path(table)
    context_table, fingerprint = load_table(folder), table_fingerprint(folder)
    subject = _Subject(model, device_named(chosen.device), chosen.trust_remote_code)
    bos = None
    if isinstance(model, str | Path):
        check_words(model, context_table.tokens.tolist(), context_table.words, what=str(folder))
        bos = beginning_of_sequence(model) if chosen.bos == "auto" else None
    steps = subject.steps(chosen.step)
    with _warnings_told(tell):
        references = References.read(
            folder,
            context_table.soft_labels,
            fingerprint,
            shuffles=chosen.shuffles,
            seed=chosen.seed,
        )
    if tell is not None and references.facts["solution"]:
        tell(f"{folder}: compared with the solution {references.facts['solution']}")
    place = folder / "results" / subject.name if chosen.out is None else chosen.out
    checkpoints = [
        _Checkpoint(subject, step, folder, context_table, references, bos, place, fingerprint)
        for step in steps
    ]
    by_step = {}
    with exclusive(place, what="comparison"):
        for done, checkpoint in enumerate(checkpoints):
            if progress is not None:
                progress(f"step {checkpoint.step}", done / len(steps), 0)
            by_step[checkpoint.step] = checkpoint.compared(chosen.batch_tokens, tell)
    return Comparison(
        subject.name,
        folder.resolve().name,
        context_table.n_contexts,
        context_table.vocab_size,
        by_step,
        tuple(checkpoint.path for checkpoint in checkpoints),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Subject:
    """A run, or a model from elsewhere."""

    source: str | Path | Model
    device: str
    trust_remote_code: bool

    @cached_property
    def run(self) -> Run | None:
        if not isinstance(self.source, str | Path):
            return None
        path = Path(self.source).expanduser()
        return Run.open(path) if (path / "config.toml").is_file() else None

    @property
    def name(self) -> str:
        if self.run is not None:
            return self.run.name
        return Path(self.source).name if isinstance(self.source, str | Path) else self.source.name

    def steps(self, step: int | None) -> list[int]:
        if self.run is None:
            if step:
                raise UserError(f"{self.name}: is no run directory, so it has no step {step}")
            return [0]
        last = self.run.kept(step)
        return [last] if step is not None else self.run.steps

    def weights(self, step: int) -> str:
        if self.run is not None:
            return digest_of_weights(self.run.checkpoint(step))
        return digest_of(self.model(step))

    def model(self, step: int) -> Model:
        if self.run is None:
            return self._foreign
        return load_model(self.run.path, step=step).to(self.device)

    @cached_property
    def _foreign(self) -> Model:
        if not isinstance(self.source, str | Path):
            return self.source.to(self.device)
        model = load_model(self.source, trust_remote_code=self.trust_remote_code)
        return model.to(self.device)


@dataclasses.dataclass(frozen=True, eq=False)
class _Checkpoint:
    """One checkpoint on one table."""

    subject: _Subject
    step: int
    folder: Path
    table: ContextTable
    references: References
    bos: int | None
    place: Path
    fingerprint: str  # of the table

    @property
    def path(self) -> Path:
        return self.place / f"step-{self.step}-{self.fingerprint}.jsonl"

    @property
    def measurement(self) -> dict[str, Any]:
        weights = self.subject.weights(self.step)
        return {"study": "ntp", **self.references.facts, "bos": self.bos, "weights": weights}

    def compared(self, batch_tokens: int, say: Callable[[str], None] | None) -> dict[str, Value]:
        """Return all values, those of the results file and new ones, which are added to it."""
        rows: dict[str, Row] = {}
        if self.path.exists():
            header, earlier = read_rows(self.path)
            self._refuse_other(header)
            self._refuse_claims(earlier)
            rows = {row.metric: row for row in earlier}
        unsolved = self.references.solution is None
        names = [m.name for m in MEASURES if not (unsolved and m.reference == "solution")]
        if not rows.keys() >= set(names):
            model = self.subject.model(self.step)
            new = self._measured(model, batch_tokens, say)
            rows = {name: rows.get(name, new[name]) for name in names}
            write_rows(self.path, self._header(model), list(rows.values()))
        return {name: Value(r.value, r.n, r.excluded, r.reason) for name, r in rows.items()}

    def _measured(
        self, model: Model, batch_tokens: int, say: Callable[[str], None] | None
    ) -> dict[str, Row]:
        embedded = collect(model, self.table, bos=self.bos, batch_tokens=batch_tokens)
        with _warnings_told(say):
            values = compare_embeddings(
                embedded.classifier,
                embedded.embeddings,
                self.table.soft_labels,
                self.references.solution,
                bias=embedded.bias,
                proxy=self.references.proxy,
                shuffled=self.references.shuffled,
                finish=embedded.finish,
                outside=embedded.outside,
            ).values
        return {
            measure.name: Row(
                run=self.subject.name,
                step=self.step,
                split=str(self.table.source.get("split", "train")),
                layer=model.depth,
                labels="support",
                subset="all",
                metric=measure.name,
                value=values[measure.name].value,
                n=values[measure.name].n,
                min_count=measure.min_count,
                excluded=values[measure.name].excluded,
                reason=values[measure.name].reason,
            )
            for measure in MEASURES
            if measure.name in values
        }

    def _refuse_other(self, header: Header) -> None:
        """Refuse a file of another model, solution, or baseline: a file has one of each."""
        before, now = header.measurement, self.measurement
        if before.get("weights") != now["weights"]:
            raise UserError(
                f"{self.path}: is of another model of the name {self.subject.name}; give `out`"
            )
        if before.get("solution") and any(
            before.get(name) != now[name] for name in ("solution", "solution_sha256")
        ):
            raise UserError(
                f"{self.path}: compared with {before['solution']}, but the solution of smallest gap"
                f" is {now['solution']}; remove one of the two, or give `out`"
            )
        for name in ("bos", "seed", "shuffles"):
            if before.get(name) != now[name]:
                raise UserError(
                    f"{self.path}: measured with {name} {before.get(name)}, not {now[name]}; "
                    "remove it, or give `out`"
                )

    def _refuse_claims(self, rows: list[Row]) -> None:
        """Refuse rows that call what they were compared with better than its arrays prove."""
        references = {"solution": self.references.solution, "proxy": self.references.proxy}
        by_name = {measure.name: measure.reference for measure in MEASURES}
        for row in rows:
            reference = references.get(str(by_name.get(row.metric)))
            claimed = row.reason.partition("; ")[0]
            if reference is None or not claimed.startswith(("certified", "exact")):
                continue
            if claimed != reference.label:
                raise UserError(
                    f"{self.path}: says {row.metric} is beside what is {claimed}, but it is "
                    f"{reference.label}; remove it, and compare again"
                )

    def _header(self, model: Model) -> Header:
        classifier, labels, run = model.classifier, self.table.soft_labels, self.subject.run
        model_facts = {
            "name": self.subject.name,
            "architecture": model.architecture,
            "n_parameters": model.n_parameters,
            "vocab_size": len(classifier),
            "width": classifier.shape[1],
            "depth": model.depth,
            "tied": model.tied,
            "bias": model.bias is not None,
            "finish": getattr(model, "finish", None) is not None,
        }
        table_facts = {
            "name": self.folder.resolve().name,
            "fingerprint": self.fingerprint,
            "vocab_size": labels.vocab_size,
            "contexts": labels.n_contexts,
            "pairs": self.table.n_pairs,
            "empirical_entropy": labels.entropy,
            "density": labels.density,
            "source": self.table.source,
        }
        machine = {
            "dtype": str(classifier.dtype).removeprefix("torch."),
            "device": str(classifier.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        }
        return Header(
            run=self.subject.name,
            step=self.step,
            model=model_facts,
            tokens=table_facts,
            settings=as_dict(run.settings) if run else {},
            measurement=self.measurement | machine,
        )


@contextlib.contextmanager
def _warnings_told(say: Callable[[str], None] | None) -> Iterator[None]:
    """Turn warnings inside into lines, each once; without a function they stay warnings."""
    if say is None:
        yield
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for line in dict.fromkeys(str(warning.message) for warning in caught):
        say(line)


def _once(say: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that passes each line on once: what holds for every checkpoint."""
    told: set[str] = set()

    def tell(line: str) -> None:
        if line not in told:
            told.add(line)
            say(line)

    return tell
