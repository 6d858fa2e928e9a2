"""Whether tokens were made by the tokenizer that a model was trained with."""

from collections.abc import Sequence
from pathlib import Path

from tightframe.corpus.model_tokenizer import ModelTokenizer, load_tokenizer
from tightframe.corpus.tokenizer import token_names, vocab_size
from tightframe.corpus.tokens import TokenShards
from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.formats import read_json
from tightframe.lm.folders import with_tokenizer
from tightframe.lm.runs import Run


def check_tokenizer(source: str | Path, shards: TokenShards) -> None:
    """Refuse tokens whose ids mean something else to the model.

    Every token of the corpus' tokenizer must have the same id in the model's own, which may know
    more. A model that comes without a tokenizer.json is believed.

    Args:
        source: As `load_model` takes it: a run, a folder, or a name on the hub.
        shards: What the model is to be measured on.
    """
    own = own_tokenizer(source)
    if own is None or _is_file_of(own, shards):
        return
    known_own = _load(own)
    if known_own is None:
        return
    theirs = known_own.tokenizer.get_vocab(with_added_tokens=True)
    ours = shards.tokenizer.get_vocab(with_added_tokens=True)
    for token, index in sorted(ours.items(), key=lambda item: item[1]):
        known = theirs.get(token)
        if known != index:
            other = "none" if known is None else f"id {known}"
            raise UserError(
                f"{shards.path}: not tokenized as {source} expects: token {token!r} has id {index} "
                f"in these tokens and {other} in the model; build them with the model's tokenizer"
            )


def check_words(
    source: str | Path, tokens: Sequence[int], words: Sequence[str], *, what: str
) -> None:
    """Refuse token ids that mean other words to the model; one without a tokenizer is believed.

    Args:
        source: As `load_model` takes it: a run, a folder, or a name on the hub.
        tokens: Ids.
        words: What each of them is, as the tokenizer writes it or as `token_names` does; none if
            unknown.
        what: What holds them, for the message.
    """
    own = own_tokenizer(source)
    if own is None or not words:
        return
    known_own = _load(own)
    if known_own is None:
        return
    theirs = known_own.tokenizer
    names = token_names(theirs, vocab_size(theirs))
    for index, word in zip(tokens, words, strict=True):
        known = theirs.id_to_token(index)
        if known is None or word not in (known, names[index]):
            raise UserError(
                f"{what}: not tokenized as {source} expects: token {index} is {word!r} here and "
                f"{known!r} in the model; make it from tokens of the model's own tokenizer"
            )


def beginning_of_sequence(source: str | Path) -> int | None:
    """Id of the token that the model's own tokenizer puts before a text; None if it puts none."""
    own = own_tokenizer(source)
    known_own = None if own is None else _load(own)
    return None if known_own is None else known_own.beginning_of_sequence


def own_tokenizer(source: str | Path) -> Path | str | None:
    """The file beside the weights, or of the tokens that a run was trained on; a hub name."""
    folder = Path(source).expanduser()
    if (folder / "config.toml").is_file():
        return _trained_on(Run.open(folder))
    source = with_tokenizer(source)
    folder = Path(source).expanduser()
    if (folder / "tokenizer.json").is_file():
        return folder / "tokenizer.json"
    return None if folder.exists() or isinstance(source, Path) else source


def _load(own: Path | str) -> ModelTokenizer | None:
    """Load a model's tokenizer; None where the hub has none of this name, or can't be asked."""
    try:
        return load_tokenizer(own)
    except UserError:
        if isinstance(own, Path):
            raise
        return None


def _trained_on(run: Run) -> Path | None:
    """None if the run's tokens are no longer where they were, or have become others."""
    manifest, tokenizer = (
        Path(run.settings.tokens) / name for name in ("manifest.json", "tokenizer.json")
    )
    if not manifest.is_file() or not tokenizer.is_file():
        return None
    same = read_json(manifest).get("fingerprint") == run.facts["tokens"]
    return tokenizer if same else None


def _is_file_of(own: Path | str, shards: TokenShards) -> bool:
    return isinstance(own, Path) and sha256(own) == shards.manifest["tokenizer"]["sha256"]
