"""What classifier and nearest class mean decide at each position of a split, in one pass.

Axes: N positions of a batch in one row, D embedding.
"""

from collections.abc import Collection, Mapping, Sequence

from tightframe.corpus.tokens import Split
from tightframe.geometry.ledger import Span
from tightframe.geometry.nearest import Chooser, Extra, NearestMeans
from tightframe.geometry.reading import NEXT, Reading
from tightframe.geometry.segments import require_finite
from tightframe.geometry.state import ClassMoments, Decisions
from tightframe.geometry.stream import BATCH_TOKENS, Part, Precision, Progress, Stream
from tightframe.lm.interface import IGNORE, LanguageModel
from tightframe.lm.loss import measuring


class Tally:
    """Decisions of one stream, by layer, taken part by part.

    The classifier's decisions, losses and hits are those of the last layer; the nearest class
    mean is that of each layer. Loss and hits are also taken where the reading has no label, so
    that the loss is that of all predicted positions. Arguments as in `decide`.

    Attributes:
        stream: Gives the labelled embeddings.
        decisions: What was decided so far.
    """

    def __init__(
        self,
        stream: Stream,
        moments: Mapping[int, ClassMoments],
        *,
        min_count: int = 1,
        extras: Collection[Extra] = (),
    ) -> None:
        model = stream.model
        for layer, dim in stream.dims(list(moments)).items():
            state = moments[layer]
            if state.dim != dim or state.n_classes != stream.n_classes:
                raise ValueError(
                    f"moments of {state.n_classes} classes in {state.dim} dimensions, but the "
                    f"tokens have {stream.n_classes} and the model {dim}"
                )
        last = model.depth
        self.stream = stream
        self.decisions = {
            layer: Decisions(
                state.seen(min_count),
                stream.n_groups,
                # What comes before the nearest mean is known at the last layer only.
                [extra for extra in extras if extra != "ranks" or layer == last],
            )
            for layer, state in moments.items()
        }
        with measuring(model):
            self._chooser = Chooser(
                model.classifier,
                model.bias,
                moments[last].means,
                self.decisions[last].seen,
                finish=getattr(model, "finish", None),
                extras=extras,
            )
            device = model.classifier.device
            self._nearest = {
                layer: NearestMeans(
                    state.means.to(device),
                    self.decisions[layer].seen.to(device),
                    n_rows=len(model.classifier),
                    extras=extras,
                )
                for layer, state in moments.items()
                if layer != last
            }

    def take(self, part: Part) -> None:
        """Add the decisions at the positions of some blocks, labelled as the stream labels them."""
        last = self.stream.model.depth
        kept = (part.labels != IGNORE).nonzero().flatten()
        labels, targets = part.labels[kept], part.targets[kept]
        groups = None if part.groups is None else part.groups[kept.cpu()]
        for layer, embeddings in part.embeddings.items():
            with self.stream.naming(part, layer):
                require_finite(embeddings, part.labels, kept)
        choices = self._chooser(part.embeddings[last][kept], targets)
        self.decisions[last].update(labels, choices, groups)
        for layer, choose in self._nearest.items():
            own = choose(part.embeddings[layer][kept])
            here = choices._replace(
                nearest=own.ids, reevaluated=own.reevaluated, ranks=None, cosine=own.cosine
            )
            if choices.library is not None and own.with_origin is not None:
                here = here._replace(library=(choices.library[0], own.with_origin))
            self.decisions[layer].update(labels, here, groups)
        if len(passed := (part.passed != IGNORE).nonzero().flatten()):
            with self.stream.naming(part, last):
                require_finite(part.embeddings[last], part.passed, passed)
            targets = part.passed[passed]
            groups = None if part.groups is None else part.groups[passed.cpu()]
            choices = self._chooser(part.embeddings[last][passed], targets)
            self.decisions[last].pass_over(targets, choices, groups)
        for tallied in self.decisions.values():
            tallied.ledger.source = self.stream.split.fingerprint
            tallied.ledger.add(part.first, part.end)


def tally(
    tallies: Sequence[Tally],
    *,
    spans: Sequence[Span] | None = None,
    progress: Progress | None = None,
) -> None:
    """Take a split into tallies of one model and of the same layers, in one forward pass."""
    stream = tallies[0].stream
    wanted = [(0, stream.split.n_blocks)] if spans is None else spans
    for part in stream.parts(list(tallies[0].decisions), wanted, progress):
        for each in tallies:
            each.take(part if each.stream is stream else each.stream.relabelled(part))


def decide(
    model: LanguageModel,
    split: Split,
    moments: ClassMoments,
    *,
    min_count: int = 1,
    groups: int = 1,
    reading: Reading = NEXT,
    extras: Collection[Extra] = (),
    precision: Precision = "fp32",
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> Decisions:
    """Loss, and what classifier and nearest class mean decide at each position, in one pass.

    Args:
        model: The model that the moments are of.
        split: Usually the validation split.
        moments: Class means, of the training split.
        min_count: Embeddings that a class needs for its mean to be a candidate.
        groups: Groups of documents that are kept apart; intervals are made of them.
        reading: As the moments were read.
        extras: What else to find, see `nearest.Extra`.
        precision: Of the forward pass; decisions are those of float64 for its embeddings.
        batch_tokens: Tokens held at once; memory only.
        progress: Called after each batch.
    """
    parts = split.groups(groups) if groups > 1 else None
    stream = Stream(model, split, reading, parts, None, precision, batch_tokens)
    found = Tally(stream, {model.depth: moments}, min_count=min_count, extras=extras)
    tally([found], progress=progress)
    return found.decisions[model.depth]
