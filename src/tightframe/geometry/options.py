"""Options of `tightframe measure`, `compare` and `classes`, each documented here alone.

The command line, the Python functions and the measurement key of a results file are made from
these classes. They check all that can be checked without a file and without torch.
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from tightframe.errors import UserError, nearest
from tightframe.lm.placement import LoadOptions
from tightframe.tracking import check_tracker

Labels = Literal["next", "current", "shuffled"]
Precision = Literal["fp32", "bf16"]
MinCount: TypeAlias = int | Literal["auto"]

# Python takes more than what can be typed at a command line, which is the second type.
if TYPE_CHECKING:
    from tightframe.corpus.shards import TokenShards

    Place: TypeAlias = str | Path
    TextSource: TypeAlias = str | Path
    TokenSource: TypeAlias = TokenShards | str | Path
    TokenizerSource: TypeAlias = Any  # also a tokenizer of transformers
    LabelNames: TypeAlias = Sequence[Labels]
    Names: TypeAlias = Sequence[str]
else:
    Place = TokenSource = Annotated[Any, Path]
    TextSource = TokenizerSource = Annotated[Any, str]
    LabelNames, Names = Annotated[Any, tuple[Labels, ...]], Annotated[Any, tuple[str, ...]]

# The published tables by name, and what stands before the dot in the names of their columns.
PREFIXES = {"lc-2024-05": "compat05", "lc-2024-10": "compat10"}

KEY = {"key": True}  # marks an option that changes numbers and so belongs to the measurement key


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputOptions(LoadOptions):
    """Checkpoint, text and tokens that a model is measured on, and the folder of its results.

    Args:
        tokens: Token shards; a run knows its own.
        text: Text instead of tokens: a file, a folder, or hf:NAME. The model's own tokenizer
            encodes it.
        step: Checkpoint of a run (default: the last one).
        context: With text: tokens per block (default: 1,024, or fewer if the model has fewer
            positions).
        bos: With text: whether blocks begin with the token that the tokenizer begins a text with.
        max_tokens: With text: maximum number of tokens, training and validation together.
        validation: With text: a separate source for validation.
        documents: With text: read text files as they are, or cut them at blank lines and put an
            end-of-text token between the paragraphs (default: as a run was trained; for other
            models, as they are).
        field: With text: field that holds the text in records and tables (meta.text for a nested
            one).
        tokenizer: With text: a folder, a tokenizer.json or a hub name, instead of the model's own.
        out: Folder of the results (default: the run, runs/NAME for other models, atlas/NAME for a
            series).
    """

    tokens: TokenSource | None = None
    text: TextSource | None = None
    step: int | None = None
    context: int | None = None
    bos: Literal["auto", "never"] = "auto"
    max_tokens: int | None = None
    validation: TextSource | None = None
    documents: Literal["files", "paragraphs"] | None = None
    field: str = "text"
    tokenizer: TokenizerSource | None = None
    out: Place | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text is not None and self.tokens is not None:
            raise UserError("--tokens and --text: give one of them")
        check_context(self.context)
        check_numbers(max_tokens=self.max_tokens)
        for name in ("context", "max_tokens", "validation", "tokenizer"):
            if self.text is None and getattr(self, name) is not None:
                option = name.replace("_", "-")
                raise UserError(f"--{option}: is for --text; tokens are as they were built")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassesOptions(InputOptions):
    """Options of a description by token.

    Args:
        words: Words to show beside the averages, Anna,Tim,Lily: those that are a single token.
        min_count: Minimum number of samples of a class.
    """

    words: Names = ()
    min_count: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "words", _names(self.words))
        check_numbers(min_count=self.min_count)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassOptions(InputOptions):
    """Options of the passes over a text, and of the measures that are computed from them.

    Args:
        layers: Layers to measure: last (what the classifier multiplies, after the final norm),
            all, or a list such as 0,4-6,prenorm. 0 is the input embedding, i the stream after
            block i, prenorm the stream before the final norm. The last one is always measured.
        labels: What a class is: the next token, the current one, or next tokens shuffled over the
            positions (a null). Several labels share the same passes (default: next).
        min_count: Minimum number of samples of a class (default: 20, or what intervals need
            beyond that); auto for the smallest from which enough classes are in every resample
            for the intervals of the requested measures.
        measures: Measures to compute instead of the default list; "all" for every one.
        groups: Groups of documents that are kept apart for 95 % intervals; 1 for no intervals
            (default: 20, or what text and memory allow).
        skip_positions: First positions of each block to leave out: in many models they are
            attention sinks (default: 1; 0 for a run, and with compat).
        skip_special: Leave out positions whose input is a special token, such as the end of a
            text: they are sinks, too (default: yes; no for a run, and with compat).
        project: Number of dimensions to which every layer but the last is projected at random.
        precision: Precision of the forward passes: for fp32, weights stored in 16 bits are
            widened. The statistics are float64 in any case.
        batch_tokens: Tokens per forward pass: fewer take less memory.
        keep_states: Keep the class moments on disk; further measures then need no pass.
    """

    layers: str = "last"
    labels: LabelNames = ("next",)
    min_count: MinCount | None = dataclasses.field(default=None, metadata=KEY)
    measures: Names = ()
    groups: int | None = dataclasses.field(default=None, metadata=KEY)
    skip_positions: int | None = dataclasses.field(default=None, metadata=KEY)
    skip_special: bool | None = dataclasses.field(default=None, metadata=KEY)
    project: int | None = dataclasses.field(default=None, metadata=KEY)
    precision: Precision = dataclasses.field(default="fp32", metadata=KEY)
    batch_tokens: int = 8192
    keep_states: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("labels", "measures"):
            object.__setattr__(self, name, _names(getattr(self, name)))
        least = None if self.min_count == "auto" else self.min_count
        check_numbers(min_count=least, groups=self.groups, project=self.project)
        check_numbers(batch_tokens=self.batch_tokens)
        check_numbers(least=0, skip_positions=self.skip_positions)
        layer_names(self.layers)

    @property
    def more_tokens(self) -> tuple[Any, ...]:
        """Further tokens that are given."""
        return ()

    @property
    def key(self) -> dict[str, Any]:
        """Options that change numbers, by name; labels and other tokens are added to them."""
        keys = [field.name for field in dataclasses.fields(self) if field.metadata == KEY]
        return {name: getattr(self, name) for name in keys}

    @property
    def chosen_min_count(self) -> int:
        """Minimum number of samples of a class, once "auto" is settled."""
        assert self.min_count != "auto"
        return self.min_count or 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureOptions(PassOptions):
    """Options of a measurement.

    Args:
        by_frequency: Compute every measure also for the classes of each frequency stratum.
        random_weights: Measure a randomly initialized control instead: the same architecture with
            weights drawn from this seed.
        ood: Tokens of another kind of text, for NC5.
        compat: Published tables whose columns are computed, too: lc-2024-05, lc-2024-10.
        shared_with: Same text in another model's tokens: only classes that are one token in both
            take part.
        matched: With shared_with: take as many training positions of each class as both texts
            have.
        track: Tracker that also gets the values: wandb, trackio or tensorboard, with :PROJECT if
            you like.
    """

    by_frequency: bool = False
    random_weights: int | None = None
    ood: TokenSource | None = None
    compat: Names = ()
    shared_with: TokenSource | None = None
    matched: bool = dataclasses.field(default=False, metadata=KEY)
    track: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "compat", _names(self.compat))
        check_compat(self.compat, min_count=self.min_count, labels=self.labels[0])
        if self.matched and self.shared_with is None:
            raise UserError("matched: say with shared_with to which tokens")
        check_tracker(self.track)

    @property
    def more_tokens(self) -> tuple[Any, ...]:
        """Further tokens that are given."""
        return self.ood, self.shared_with


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareModelsOptions(PassOptions):
    """Options of a comparison of two models.

    Args:
        margin: Share of a value below which a difference counts as none.
    """

    margin: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(least=2, groups=self.groups)
        if not 0 < self.margin < 1:
            raise UserError(f"margin is {self.margin:g}; expected a share between 0 and 1")

    def of_model(
        self, tokens: TokenSource, shared_with: TokenSource | None, *, default: Sequence[str]
    ) -> MeasureOptions:
        """Return the options of one of the models, on its own tokens of the text.

        Args:
            tokens: These tokens.
            shared_with: Those of the other model, if its tokenizer is another.
            default: Measures where none are named.
        """
        own = {one.name for one in dataclasses.fields(PassOptions)}
        own -= {one.name for one in dataclasses.fields(InputOptions)}
        values = {name: getattr(self, name) for name in own}
        values["measures"] = self.measures or default
        matched = shared_with is not None
        return MeasureOptions(**values, tokens=tokens, shared_with=shared_with, matched=matched)


def _names(given: Any) -> tuple[Any, ...]:
    """Return names as a tuple without repetitions; a single name and None are fine."""
    return tuple(dict.fromkeys([given] if isinstance(given, str) else given or ()))


def check_numbers(*, least: int = 1, **numbers: int | None) -> None:
    """Refuse numbers below the smallest that makes sense; None is fine."""
    for name, value in numbers.items():
        if value is not None and value < least:
            raise UserError(f"{name} is {value}; expected at least {least}")


def check_context(context: int | None) -> None:
    """Refuse blocks in which no token predicts another."""
    if context is not None and context < 2:
        raise UserError(f"context is {context}; expected 2 or more: one token predicts the next")


def check_compat(tables: Sequence[str], *, min_count: MinCount | None, labels: str) -> None:
    """Refuse unknown published tables, and those of another class set than the published one."""
    for table in tables:
        check_table(table)
    if tables and (min_count not in (None, 1) or labels != "next"):
        raise UserError(
            "compat: the published tables are of next tokens and of every class that occurs, "
            f"not of labels '{labels}' and min_count {min_count or 1}; ask for them apart"
        )


FACTS = ("model", "n_params", "val_acc", "val_loss", "perplex")

# Every column of a table, in its order; an empty name is one that no measure of ours has.
MAY = {
    **{"dists_mean": "", "dists_std": ""},  # faulty: see `_faulty_distances`
    **{"sims_mean": "nc3_cos_mean", "sims_std": ""},
    **{"norms_mean": "", "norms_std": ""},  # squared
    **{"norms_scl_mean": "", "norms_scl_std": ""},
    **{"norms_log_mean": "", "norms_log_std": ""},
    **{"norms_logscl_mean": "", "norms_logscl_std": ""},
    **{"misses": "", "matches": "nc4_hits", "matches_mean": "", "matches_std": ""},
    **{"cdnv_mean": "nc1_cdnv_p2", "cdnv_std": "nc1_cdnv_p2_std"},
    **{"interfere_mean": "nc2_equiang_mean", "interfere_std": "nc2_equiang_std"},
    **{"log_dist_mean": "gnc2_log_kernel_mean_unc", "log_dist_std": "gnc2_log_kernel_std_unc"},
}
OCTOBER = {
    "cdnv": "nc1_cdnv_p2",
    **{"norms_mean": "", "norms_var": ""},  # not squared
    "etf_error": "nc2_etf_error",
    **{"interfere_mean": "nc2_dot_mean", "interfere_var": "nc2_dot_var"},
    **{"log_kern_mean": "gnc2_log_kernel_mean", "log_kern_var": "gnc2_log_kernel_var"},
    "dual_error": "nc3_dual_error",
    **{"simdot_mean": "nc3_dot_mean", "simdot_var": "unc3_dot_var"},
    **{"simcos_mean": "nc3_cos_mean", "simcos_var": "unc3_cos_var"},
    **{"dists_mean": "nc3_dist_mean", "dists_var": "nc3_dist_var"},
    **{"hits": "nc4_hits", "misses": ""},
    **{"norms_log_mean": "", "norms_log_var": ""},
}
TABLES = {"lc-2024-05": MAY, "lc-2024-10": OCTOBER}


def check_table(name: str) -> None:
    """Refuse a name that is not that of a published table."""
    if name not in PREFIXES:
        hint = nearest(name, PREFIXES) or f"; there are {' and '.join(PREFIXES)}"
        raise UserError(f"unknown table '{name}'{hint}")


def layer_names(spec: str) -> list[str]:
    """Split a specification of layers into names: "all", "last", "prenorm" and numbers.

    A range such as 0-3 stands for each of its numbers.
    """
    names = []
    for name in map(str.strip, spec.split(",")):
        first, dash, last = (part.strip() for part in name.partition("-"))
        if dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last) < 10_000:
            names += [str(number) for number in range(int(first), int(last) + 1)]
        elif name.isdecimal() or name in ("last", "prenorm") or spec == "all":
            names.append(name)
        else:
            raise unknown_layer(name)
    return names


def unknown_layer(name: str, depth: int | None = None) -> UserError:
    """Return the error of a layer that a model does not have."""
    end = "the model's depth" if depth is None else depth
    return UserError(
        f"layers: unknown layer '{name}'; expected all, last, prenorm, or numbers from 0 (the "
        f"input embedding) to {end} and ranges such as 0-3, separated by commas"
    )


def check_depth(layers: str, depth: int | None) -> None:
    """Refuse numbers of layers beyond the last one of a model; None is not known."""
    for name in layer_names(layers):
        if depth is not None and name.isdecimal() and int(name) > depth:
            raise unknown_layer(name, depth)


def share_of(part: str) -> tuple[int, int]:
    """Return i and n of a part "i/n"."""
    i, _, n = part.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise UserError(f"part is '{part}'; expected I/N with I from 1 to N")
    return int(i), int(n)


def check_part(part: str | None, labels: Sequence[Labels]) -> None:
    """Refuse a share of a pass that is not "i/n", and one of several labels."""
    if part is not None:
        share_of(part)
        if len(labels) > 1:
            raise UserError("--part: takes one of --labels; make the parts of each apart")


def describe(function: Callable[..., Any], options: type) -> None:
    """Add the keyword arguments of the options to the signature and docstring for `help`."""
    own = inspect.signature(function).parameters.values()
    models = [one for one in own if one.kind is one.POSITIONAL_ONLY]
    given = inspect.signature(options).parameters.values()
    setattr(function, "__signature__", inspect.Signature([*models, *given]))  # noqa: B010
    arguments = "".join(
        inspect.cleandoc(cls.__doc__ or "").partition("Args:\n")[2] + "\n"
        for cls in reversed(options.__mro__[:-1])
    )
    function.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:\n{arguments}"
