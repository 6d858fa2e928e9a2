"""Text to token shards.

`stories` generates text whose next-token distribution is known (`grammar` has its rules), `sources`
and `readers` read text, `splits` chooses what is for validation and encodes it, `blocks` makes
blocks of the tokens, `shards` reads them from disk, and `tokenization` is the way through, as
`options` asks for it. `model_tokenizer` loads a model's own tokenizer as transformers does.
`labels` permutes the labels of a split, and says which of them two tokenizers have in common.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tightframe.corpus.shards import TokenShards
    from tightframe.corpus.tokenization import Progress


def build(
    source: str | Path,
    *,
    out: str | Path,
    progress: "Progress | None" = None,
    **options: Any,
) -> "TokenShards":
    """Build a folder of token shards from a text, whole or not at all.

    A request that cannot be met is refused before torch is imported.

    >>> tokens = build("stories", out="tokens/stories", tokens=5_000)  # doctest: +SKIP

    Args:
        source: "stories" (the generated corpus), a file (.txt, .md, .jsonl, also .gz or .zst;
            .parquet), a folder of these, one that datasets saved, or hf:NAME.
        out: New folder for shards, tokenizer and manifest.
        progress: Called as work goes on: the stage ("tokenizer" or "tokens"), the share of the
            source read so far (None where unknown), and the tokens made so far.
        options: Fields of `tightframe.corpus.options.BuildOptions`: vocab_size, tokenizer, blocks,
            block, validation, max_tokens, seed, ...

    Returns:
        The shards, opened.
    """
    from tightframe.corpus.options import STORIES, BuildOptions
    from tightframe.corpus.sources import check_source
    from tightframe.files import check_new, check_writable

    request, out = BuildOptions(**options), Path(out)
    request.check(generated=str(source) == STORIES)
    request.check_tokenizer()
    check_source(source, field=request.field, generated=True)
    if request.validation is not None:
        check_source(request.validation, field=request.field)
    check_new(out)
    check_writable(out.parent)
    from tightframe.corpus.tokenization import build_shards  # imports torch

    return build_shards(source, request, out=out, progress=progress)
