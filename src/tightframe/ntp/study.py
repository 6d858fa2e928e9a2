"""From a trained model and a table's folder to results files: every checkpoint, one file each.

Rows go to `ntp/<name>/results/<model>/step-N-<hash>.jsonl`, beside the table and not beside the
run: what is measured here has no meaning without the table, a run may be compared with many, and
`report` of a run reads no row of another study. `gather` joins the files of any models.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tightframe.errors import UserError
from tightframe.files import exclusive, fingerprint
from tightframe.geometry.values import Value
from tightframe.lm.checkpoints import digest_of_weights
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.load import beginning_of_sequence, check_words, digest_of, load_model
from tightframe.lm.runs import Run
from tightframe.lm.transformer import Transformer
from tightframe.ntp.catalogue import MEASURES, TheoryMeasure
from tightframe.ntp.comparison import References, compare
from tightframe.ntp.model import BATCH_TOKENS, collect
from tightframe.ntp.table import ContextTable, load_table, table_fingerprint
from tightframe.results import Header, Row, read_rows, write_rows
from tightframe.settings import as_dict

Model = Transformer | HuggingFaceModel
Progress = Callable[[str, float | None, int], None]
"""Called as work goes on: the stage, the share of it that is done, and the tokens gone through."""

SHUFFLES = 5


def compare_run(
    model: str | Path | Model,
    table: str | Path,
    *,
    step: int | None = None,
    bos: Literal["auto", "never"] = "auto",
    shuffles: int = SHUFFLES,
    seed: int = 0,
    device: str | None = None,
    batch_tokens: int = BATCH_TOKENS,
    trust_remote_code: bool = False,
    out: str | Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Compare a model with what a table predicts, at every checkpoint if it is a run.

    Checkpoints that were compared before are not read again. What it is compared with is the
    solution of smallest gap in the table's `solutions/`, the proxy, and supports drawn at random.

    Args:
        model: A run directory, a checkpoint or Hugging Face folder, a hub name, or a model.
        table: The folder of a context table, of tokens of the model's own tokenizer.
        step: One checkpoint of a run; all by default.
        bos: "auto": contexts begin with the token that the model's tokenizer begins a text with,
            if it has one; "never": they don't.
        shuffles: Draws of the baseline, see `shuffled_proxies`.
        seed: Of these draws.
        device: Where the model should lie; by default the GPU if there is one.
        batch_tokens: Tokens of a forward pass; memory, and the rounding of the forward pass.
        trust_remote_code: Run Python code that comes with a Hugging Face model.
        out: Folder of the results files; by default `results/<model>` in the table's folder.
        progress: Called as checkpoints are done.
        say: Takes lines on what is going on, warnings among them.

    Returns:
        The results files, a checkpoint each, in the order of their steps.

    Raises:
        UserError: Model and table don't fit, or the checkpoint was compared with a solution that
            is no longer that of smallest gap.
    """
    tell = None if say is None else _once(say)
    folder = Path(table)
    context_table = load_table(folder)
    subject = _Subject(model, device, trust_remote_code)
    first = None
    if isinstance(model, str | Path):
        check_words(model, context_table.tokens.tolist(), context_table.words, what=str(folder))
        first = beginning_of_sequence(model) if bos == "auto" else None
    steps = subject.steps(step)
    with _saying(tell):
        references = References.read(
            folder,
            context_table.soft_labels,
            table_fingerprint(folder),
            shuffles=shuffles,
            seed=seed,
        )
    if tell is not None and references.facts["solution"]:
        tell(f"{folder}: compared with the solution {references.facts['solution']}")
    place = folder / "results" / subject.name if out is None else Path(out)
    how = {"study": "ntp", **references.facts, "bos": first}
    paths = []
    with exclusive(place, what="comparison"):
        for done, each in enumerate(steps):
            if progress is not None:
                progress(f"step {each}", done / len(steps), 0)
            work = _Work(subject, each, folder, context_table, references, how, place)
            paths.append(work.done or work.do(first, batch_tokens, tell))
    return paths


def rows_at(path: Path) -> tuple[Header, list[Row]]:
    """All rows of a results file's checkpoint on its table, in the order of `MEASURES`.

    They lie in several files where it was compared again after the table was solved.
    """
    header, _ = read_rows(path)
    found: dict[str, Row] = {}
    for each in sorted(path.parent.glob(f"step-{header.step}-*.jsonl")):
        other, rows = read_rows(each)
        if other.tokens.get("fingerprint") == header.tokens.get("fingerprint"):
            found |= {row.metric: row for row in rows}
    return header, [found[measure.name] for measure in MEASURES if measure.name in found]


@dataclasses.dataclass(frozen=True, eq=False)
class _Subject:
    """A run, or a model from elsewhere."""

    source: str | Path | Model
    device: str | None
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
        return self._on_device(load_model(self.run.path, step=step))

    @cached_property
    def _foreign(self) -> Model:
        if not isinstance(self.source, str | Path):
            return self.source
        return self._on_device(load_model(self.source, trust_remote_code=self.trust_remote_code))

    def _on_device(self, model: Model) -> Model:
        wanted = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return model.to(wanted)


@dataclasses.dataclass(frozen=True, eq=False)
class _Work:
    """One checkpoint against one table."""

    subject: _Subject
    step: int
    folder: Path
    table: ContextTable
    references: References
    how: dict[str, Any]
    place: Path

    @cached_property
    def fingerprint(self) -> str:
        return table_fingerprint(self.folder)

    @cached_property
    def table_facts(self) -> dict[str, Any]:
        labels = self.table.soft_labels
        return {
            "name": self.folder.resolve().name,
            "fingerprint": self.fingerprint,
            "vocab_size": labels.vocab_size,
            "contexts": labels.n_contexts,
            "pairs": self.table.n_pairs,
            "empirical_entropy": labels.entropy,
            "density": labels.density,
            "source": self.table.source,
        }

    @cached_property
    def path(self) -> Path:
        weights = self.subject.weights(self.step)
        digest = fingerprint([self.subject.name, weights, self.fingerprint, self.how])
        return self.place / f"step-{self.step}-{digest}.jsonl"

    @cached_property
    def earlier(self) -> dict[str, Path]:
        """Measures of this checkpoint on this table that other files hold."""
        held: dict[str, Path] = {}
        for path in sorted(self.place.glob(f"step-{self.step}-*.jsonl")):
            header, rows = read_rows(path)
            if header.tokens.get("fingerprint") != self.fingerprint:
                continue
            self._refuse_other(path, header)
            self._refuse_claims(path, rows)
            held |= {row.metric: path for row in rows}
        return held

    @property
    def done(self) -> Path | None:
        """The file with the last of what there is to measure, if nothing is left."""
        held = self.earlier  # read first: what other files claim is refused
        if self.path.exists():
            return self.path
        names = [measure.name for measure in MEASURES if self._has(measure)]
        if all(name in held for name in names):
            return held[names[-1]]
        return None

    def do(self, bos: int | None, batch_tokens: int, say: Callable[[str], None] | None) -> Path:
        """Read the model on all contexts, and write what was not measured before."""
        model = self.subject.model(self.step)
        embedded = collect(model, self.table, bos=bos, batch_tokens=batch_tokens)
        with _saying(say):
            values = compare(
                embedded.classifier,
                embedded.embeddings,
                self.table.soft_labels,
                self.references.solution,
                bias=embedded.bias,
                proxy=self.references.proxy,
                shuffled=self.references.shuffled,
                finish=embedded.finish,
                outside=embedded.outside,
            )
        header = self._header(model)
        rows = [
            self._row(header, model.depth, measure, values[measure.name])
            for measure in MEASURES
            if measure.name in values and measure.name not in self.earlier
        ]
        write_rows(self.path, header, rows)
        return self.path

    def _has(self, measure: TheoryMeasure) -> bool:
        return not (measure.reference == "solution" and self.references.solution is None)

    def _refuse_other(self, path: Path, header: Header) -> None:
        """A table has one solution at a time, a name one model, a baseline one seed."""
        before = header.measurement
        if before.get("weights") != self.subject.weights(self.step):
            raise UserError(
                f"{path}: is of another model of the name {self.subject.name}; give `out`"
            )
        if before.get("solution") and any(
            before.get(name) != self.how[name] for name in ("solution", "solution_sha256")
        ):
            raise UserError(
                f"{path}: compared with {before['solution']}, but the solution of smallest gap is "
                f"{self.how['solution']}; remove one of the two, or give `out`"
            )
        for name in ("bos", "seed", "shuffles"):
            if before.get(name) != self.how[name]:
                raise UserError(
                    f"{path}: measured with {name} {before.get(name)}, not {self.how[name]}; "
                    "remove it, or give `out`"
                )

    def _refuse_claims(self, path: Path, rows: list[Row]) -> None:
        """Refuse rows that call what they were compared with better than its arrays prove."""
        references = {"solution": self.references.solution, "proxy": self.references.proxy}
        for row in rows:
            measure = next((each for each in MEASURES if each.name == row.metric), None)
            reference = references.get(str(measure.reference)) if measure else None
            claimed = row.reason.partition("; ")[0]
            if reference is None or not claimed.startswith(("certified", "exact")):
                continue
            if claimed != reference.label:
                raise UserError(
                    f"{path}: says {row.metric} is beside what is {claimed}, but it is "
                    f"{reference.label}; remove it, and compare again"
                )

    def _header(self, model: Model) -> Header:
        classifier = model.classifier
        machine = {
            "dtype": str(classifier.dtype).removeprefix("torch."),
            "device": str(classifier.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        }
        facts = {
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
        run = self.subject.run
        return Header(
            run=self.subject.name,
            step=self.step,
            model=facts,
            tokens=self.table_facts,
            settings=as_dict(run.settings) if run else {},
            measurement=self.how | {"weights": self.subject.weights(self.step)} | machine,
        )

    def _row(self, header: Header, layer: int, measure: TheoryMeasure, value: Value) -> Row:
        return Row(
            run=header.run,
            step=header.step,
            split=str(self.table.source.get("split", "train")),
            layer=layer,
            labels="support",
            subset="all",
            metric=measure.name,
            value=value.value,
            n=value.n,
            min_count=measure.min_count,
            excluded=value.excluded,
            reason=value.reason,
        )


@contextlib.contextmanager
def _saying(say: Callable[[str], None] | None) -> Iterator[None]:
    """Warnings inside become lines, each once; without a taker they stay warnings."""
    if say is None:
        yield
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for line in dict.fromkeys(str(warning.message) for warning in caught):
        say(line)


def _once(say: Callable[[str], None]) -> Callable[[str], None]:
    """What is true of every checkpoint is said of the first."""
    told: set[str] = set()

    def tell(line: str) -> None:
        if line not in told:
            told.add(line)
            say(line)

    return tell
