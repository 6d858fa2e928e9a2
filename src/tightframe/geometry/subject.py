"""What is measured: a run's checkpoint or a model from elsewhere, its tokens, and shared classes.

Two models with other tokenizers are comparable on shared classes: the strings that are one token in
both and, if matched, as many samples of each as both texts hold. Class means of other strings, or
from other numbers of samples, are other things.

Axes: C classes.
"""

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tightframe.corpus.hub import Snapshot
from tightframe.corpus.labels import matched_counts, shared_classes
from tightframe.corpus.shards import Split, TokenShards
from tightframe.errors import UserError
from tightframe.geometry.checks import check_no_run, check_no_tokenizer, check_room, no_tokens
from tightframe.geometry.labels import LabelledBlocks, LabelSpec
from tightframe.geometry.options import InputOptions, Precision, check_context
from tightframe.lm.checkpoints import digest_of_weights
from tightframe.lm.folders import (
    GGUF,
    check_tokenizer_known,
    locate,
    trainer_step,
    with_tokenizer,
)
from tightframe.lm.hardware import ProcessGroup, device_named
from tightframe.lm.load import Model, check_tokenizer, digest_of, load_model, randomly_initialized
from tightframe.lm.placement import LoadOptions
from tightframe.lm.runs import Run
from tightframe.progress import tell
from tightframe.settings import as_dict

if TYPE_CHECKING:  # a run that comes with its tokens does without
    from tightframe.corpus.model_tokenizer import ModelTokenizer

HALF = (torch.bfloat16, torch.float16)
CONTEXT = 1024  # tokens of a block of text, or as many as the model has positions


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A model that need not be loaded yet, and the folder that takes its results."""

    source: str | Path | Model
    name: str
    step: int  # 0 where nothing says how long a model was trained
    folder: Path
    run: Run | None
    random_weights: int | None = None  # the seed of a twin with weights drawn anew
    loading: LoadOptions = LoadOptions()  # noqa: RUF009 - frozen
    precision: Precision = "fp32"  # of the forward passes that it will make
    snapshot: Snapshot | None = None  # of a revision on the hub
    trained_tokens: int | None = None  # that the model saw in training; None is not known
    part: str = ""  # folder of its states, where several processes measure models of one folder

    @classmethod
    def of(
        cls,
        source: str | Path | Model,
        options: InputOptions = InputOptions(),  # noqa: B008
        out: str | Path | None = None,
        *,
        random_weights: int | None = None,
        precision: Precision = "fp32",
    ) -> "Subject":
        """Find a run, or take a model as it comes, whose results go to `runs/NAME` unless told.

        A folder `checkpoint-N` as transformers' `Trainer` writes them is step N of the folder that
        it lies in: the name alone would be that of every other training's.
        """
        run, step, snapshot, named = None, options.step, None, None
        if isinstance(source, str | Path):
            where = locate(source, step, allow_bin=options.allow_bin, subfolder=options.subfolder)
            source, step, snapshot = where
            named = where.name if snapshot else None
            path = Path(source).expanduser()
            if (path / "config.toml").is_file():
                run, source, out = Run.open(path), path, out or path
        name, trained = (named, 0) if named else _named(source)
        folder = Path("runs") / name if out is None else Path(out)
        if run is None:
            check_no_run(folder, name)
        if run is not None:
            name, step = run.name, run.kept(step)
        else:
            step = trained if step is None else step
        if random_weights is not None:
            name, folder = f"{name}-random", folder / f"random-{random_weights}"
        return cls(
            source,
            name,
            step,
            folder,
            run,
            random_weights,
            options,
            precision,
            snapshot,
        )

    def tokens(
        self, options: InputOptions, say: Callable[[str], None] | None = None
    ) -> TokenShards:
        """Return the tokens to measure on: those given, or the ones that the run was trained on.

        Args:
            options: Tokens, or a text and how to read it.
            say: Takes remarks on how a text was read.
        """
        given = options.tokens
        if isinstance(given, TokenShards):
            return given
        if options.text is not None:
            shards = self._tokenized(options)
            if say is not None:
                for note in self._notes(options, shards):
                    say(note)
            return shards
        if given is not None:
            shards = TokenShards.open(given)
            if self.run is None and isinstance(self.source, str | Path):
                check_tokenizer(self.source, shards)
            return shards
        if self.run is None:
            raise no_tokens(self.name)
        shards = TokenShards.open(self.run.settings.tokens)
        if shards.fingerprint != (trained_on := self.run.facts["tokens"]):
            raise UserError(
                f"{shards.path}: holds tokens {shards.fingerprint}, but {self.run.path} was "
                f"trained on {trained_on}; say on which tokens to measure it"
            )
        return shards

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the training run; none for a model from elsewhere."""
        return as_dict(self.run.settings) if self.run else {}

    @property
    def states(self) -> Path:
        """Folder of its states."""
        return self.folder / "states" / self.part

    @property
    def threads(self) -> int:
        """Number of threads that the run was trained with."""
        return (self.run.settings.threads if self.run else 0) or torch.get_num_threads()

    @cached_property
    def weights(self) -> str:
        """Digest that tells this model from another of the same name."""
        if self.run is not None and self.random_weights is None:
            return digest_of_weights(self.run.checkpoint(self.step))
        return digest_of(self.model)

    @cached_property
    def model(self) -> Model:
        """Loaded once: on the requested device, or on the GPU if the run was not to use the CPU.

        Most weights of the hub are stored in 16 bits, and would make the forward pass in them: in
        "fp32" they are widened. A model that was given as it is stays so.
        """
        if isinstance(self.source, str | Path):
            loading, is_divided = self.loading, self.loading.device_map is not None
            model = load_model(
                self.source,
                step=self.step if self.run else None,
                device=None if is_divided else self._device,
                # What is kept on disk can't be widened afterwards.
                dtype=torch.float32 if is_divided and self.precision == "fp32" else None,
                trust_remote_code=loading.trust_remote_code,
                allow_bin=loading.allow_bin,
                device_map=loading.device_map,
            )
            if self.precision == "fp32" and any(x.dtype in HALF for x in model.parameters()):
                model = model.float()
        else:
            model = self.source
        if self.random_weights is not None:
            model = randomly_initialized(model, seed=self.random_weights)
        return model

    @property
    def _device(self) -> torch.device:
        wanted = device_named(self.loading.device) if self.loading.device != "auto" else "auto"
        if wanted == "auto" and self.run is not None and self.run.settings.device == "cpu":
            wanted = "cpu"
        return ProcessGroup().device if wanted in ("auto", "cuda") else torch.device(wanted)

    def tokenizer(self, options: InputOptions) -> "ModelTokenizer":
        """Load what makes tokens of a text: the tokenizer that is given, or the model's own."""
        from tightframe.corpus.model_tokenizer import load_tokenizer

        given = options.tokenizer
        if self.run is not None:
            check_no_tokenizer(self.run.path, given)
            return load_tokenizer(self.run.settings.tokens)
        if isinstance(given, str | Path):
            return load_tokenizer(given)
        if given is not None:  # one of transformers, which is read as its files would be
            with tempfile.TemporaryDirectory() as folder:
                given.save_pretrained(folder)
                return dataclasses.replace(load_tokenizer(folder), source="the given tokenizer")
        if not isinstance(self.source, str | Path):
            raise UserError(
                f"{self.name}: a model in memory has no tokenizer; give it with the text "
                "(tokenizer=...), or build tokens and give those"
            )
        check_tokenizer_known(self.source)
        return load_tokenizer(with_tokenizer(self.source))

    def _documents(self, options: InputOptions) -> str:
        """Return what a document is: as requested, or as in the tokens that a run has seen."""
        if options.documents is not None or self.run is None:
            return options.documents or "files"
        trained = TokenShards.open(self.run.settings.tokens)
        return str(trained.manifest["source"].get("documents", "files"))

    def _notes(self, options: InputOptions, shards: TokenShards) -> list[str]:
        """Return remarks on how a text was read, one line each."""
        notes = []
        own = self.run is None and options.tokenizer is None and isinstance(self.source, str | Path)
        if own and str(where := with_tokenizer(str(self.source))) != str(self.source):
            notes.append(f"{self.source}: without a tokenizer of its own; that of {where} is taken")
        if options.documents is None and shards.manifest["source"].get("documents") == "paragraphs":
            notes.append(
                f"{self.name}: was trained on paragraphs, so {options.text} is cut at blank lines; "
                "--documents files reads it whole"
            )
        return notes + shards.notes

    def _tokenized(self, options: InputOptions) -> TokenShards:
        """Return the text's tokens, which are made once and kept in `tokens/`."""
        from tightframe.corpus.tokenization import text_tokens

        assert options.text is not None
        tokenizer = self.tokenizer(options)
        positions = self.model.positions
        context = options.context
        if context is None:
            context = min(CONTEXT, positions or CONTEXT)
        check_context(context)
        check_room(context, positions, name=self.name)
        return text_tokens(
            options.text,
            tokenizer,
            cache=self.folder / "tokens",
            context=context,
            bos=options.bos,
            max_tokens=options.max_tokens,
            validation=options.validation,
            documents=self._documents(options),
            field=options.field,
            progress=tell,
        )


def _named(source: str | Path | Model) -> tuple[str, int]:
    """Return the name of a model in results, and the training step that its folder tells."""
    if not isinstance(source, str | Path):
        return source.name, 0
    path = Path(source).expanduser()
    path = path.resolve() if path.is_dir() else path  # "." has a name, too
    step = trainer_step(path)
    if path.suffix == GGUF and path.is_file():
        return path.stem, 0
    return (path.name, 0) if step is None else (path.parent.name, step)


def model_facts(model: Model, shards: TokenShards) -> dict[str, Any]:
    """Return the facts of a model: kind, size, shape, and what the classifier is."""
    n_rows, width = model.classifier.shape
    return {
        "architecture": model.architecture,
        "n_parameters": model.n_parameters,
        "vocab_size": n_rows,  # rows of the classifier; those of padding included
        "padding_rows": max(0, n_rows - shards.vocab_size),  # beyond the tokenizer's largest id
        "width": width,
        "depth": model.depth,
        "tied": model.tied,
        "dtype": str(model.classifier.dtype).removeprefix("torch."),
    }


def token_facts(shards: TokenShards) -> dict[str, Any]:
    """Return the facts of the tokens, with the entropy floor where it is known."""
    return {
        "name": shards.name,
        "fingerprint": shards.fingerprint,
        "vocab_size": shards.vocab_size,
        "block": shards.block,
        "train_labels": shards.split("train").n_labels,
        "val_labels": shards.split("val").n_labels,
        "entropy_floor": shards.entropy_floor,
    }


ALL = 2**62  # a quota that no text exhausts


@dataclasses.dataclass(frozen=True, eq=False)
class SharedClasses:
    """The classes of one model that another has, too."""

    subset: str  # what rows over them are called
    classes: Bool[Tensor, " C"]
    limits: Int64[Tensor, " C"]  # training positions that count, by class
    other: TokenShards  # the same text in the tokens of the other model

    @classmethod
    def of(
        cls, shards: TokenShards, other: TokenShards, reading: LabelSpec, *, matched: bool
    ) -> "SharedClasses":
        """Return the classes of `shards` that `other` has, of one text by two tokenizers.

        Args:
            shards: Tokens of the model that is measured.
            other: The same text in the tokens of the other model.
            reading: What a label is, in both.
            matched: Take as many training positions of each class as both have; the first ones.
        """
        ids = shared_classes(shards.tokenizer, other.tokenizer)
        if len(ids[0]) < 2:
            raise UserError(
                f"{shards.path} and {other.path} have {len(ids[0])} tokens in common; expected two "
                "or more that stand for the same strings"
            )
        classes = torch.zeros(shards.vocab_size, dtype=torch.bool)
        classes[ids[0]] = True
        limits = torch.where(classes, ALL, 0)
        if matched:
            ours, theirs = (
                LabelledBlocks(s.split("train"), reading).label_counts() for s in (shards, other)
            )
            limits, _ = matched_counts(ours, theirs, ids)
        verb = "matched to" if matched else "shared with"
        return cls(f"{verb} {other.name}", classes, limits, other)

    def quota(self, split: Split) -> Int64[Tensor, " C"]:
        """Return the number of positions of each class that count in a split."""
        return self.limits if split.name == "train" else torch.where(self.classes, ALL, 0)

    def beside(self, split: Split) -> Split | None:
        """Return the split in the other tokens; None where its documents are not the same."""
        other = self.other.split(split.name)
        same = len(split.document_starts()) == len(other.document_starts())
        return other if same else None

    @property
    def fingerprint(self) -> str:
        """Fingerprint that tells it from others."""
        return hashlib.sha256(self.limits.numpy().tobytes()).hexdigest()[:12]
