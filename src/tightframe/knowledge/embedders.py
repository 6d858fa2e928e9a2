"""Texts as vectors: weighted words, and encoders of transformers by folder or hub name.

Axes: N texts, V words and word pairs, D embedding.

What a sentence-transformers model is beyond its encoder (how tokens are pooled) is read from its
own files, so that its library is not needed.

Axes: N texts, B texts of a batch, T positions, D embedding.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.formats import read_json
from tightframe.progress import tell

LEXICAL = "tf-idf"  # the embedder that needs no model
PER_DIMENSION = 5  # facts of a cluster that each dimension needs, for a full covariance
DIMENSIONS = (2, 100)  # at least and at most


@dataclasses.dataclass(frozen=True)
class WeightedWords:
    """TF-IDF of words and pairs of neighbouring words, fitted on some texts.

    Lower-cased runs of two or more letters or digits; 1 + log of the count, times the rarity among
    the fitted texts; each text scaled to unit length. Words that were not fitted count nothing.
    """

    words: tuple[str, ...]  # in the order of the columns
    rarity: Float[np.ndarray, " V"]  # log((1 + texts) / (1 + texts with the word)) + 1

    @classmethod
    def fit(cls, texts: Sequence[str]) -> "WeightedWords":
        """Fit the words of `texts`; refuse texts without any."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        try:
            vectorizer.fit(texts)
        except ValueError:  # scikit-learn's word for a vocabulary that stays empty
            raise UserError(
                f"no words of two or more letters in {len(texts):,} texts; nothing to tell them "
                "apart by"
            ) from None
        return cls(tuple(vectorizer.get_feature_names_out().tolist()), vectorizer.idf_)

    def __call__(self, texts: Sequence[str]) -> sp.csr_array:
        """Return the texts as rows (N, V)."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        columns = {word: column for column, word in enumerate(self.words)}
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, vocabulary=columns)
        vectorizer.idf_ = self.rarity
        return sp.csr_array(vectorizer.transform(texts))


def dimensions(n_texts: int, k: int) -> int:
    """Return the number of dimensions that so many texts in `k` clusters can fill."""
    least, most = DIMENSIONS
    return min(max(n_texts // (PER_DIMENSION * k), least), most)


def lexical_embeddings(
    texts: Sequence[str], *, dim: int, seed: int = 0
) -> Float[np.ndarray, "N D"]:
    """Return the texts in the leading singular directions of their weighted words, at unit length.

    D is smaller than `dim` where the texts hold fewer words. A text without words is zero.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    weighted = WeightedWords.fit(texts)(texts)
    dim = min(dim, *weighted.shape)
    if dim == min(weighted.shape):  # nothing to truncate, and scikit-learn would warn
        left, values, _ = np.linalg.svd(weighted.toarray(), full_matrices=False)
        reduced = left * values
    else:
        # Its shares of the variance are 0 / 0 where all texts are alike; nobody reads them here.
        with np.errstate(divide="ignore", invalid="ignore"):
            reduced = TruncatedSVD(dim, random_state=seed).fit_transform(weighted)
    return np.asarray(normalize(reduced), dtype=np.float64)


def check_embedder(name: str) -> None:
    """Refuse an embedder that is neither weighted words nor an existing encoder."""
    if name != LEXICAL:
        try:
            check_encoder(name)
        except UserError as error:
            raise UserError(f"embedder {error}") from None


def check_encoder(name: str) -> None:
    """Refuse a folder without a model, or a name that the hub does not have."""
    path = Path(name)
    if path.exists() and not (path / "config.json").is_file():
        raise UserError(f"{name}: holds no config.json; expected a model's folder or a hub name")
    if not path.exists() and (path.is_absolute() or name.startswith(".")):
        raise UserError(f"{name}: no such folder; expected a model's folder or a hub name")
    if not path.exists():
        hub.check_available(name, "config.json")


BATCH = 32  # texts at a time; memory and speed only

Pooling: TypeAlias = Literal["mean", "cls"]


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """A network that reads whole texts, and its tokenizer."""

    name: str  # its folder or hub name, for messages
    tokenizer: Any
    model: Any  # a torch.nn.Module

    @property
    def longest(self) -> int:
        """Maximum number of tokens of a text."""
        config = self.model.config
        known = int(getattr(config, "max_position_embeddings", 0) or 1 << 30)
        if "roberta" in config.model_type:  # its positions count from behind the padding's
            known -= config.pad_token_id + 1
        return min(known, int(self.tokenizer.model_max_length))

    def batches(
        self, texts: Sequence[str], *, size: int = BATCH
    ) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Yield rows of `texts` and their tokens, texts of similar length together.

        Raises:
            UserError: A text is longer than the model can read; none is cut.
        """
        lengths = self.lengths(texts)
        order = sorted(range(len(texts)), key=lambda row: lengths[row])
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield rows, self.tokens([texts[row] for row in rows])
            done = start + len(rows)
            tell("texts", done / len(order), done)

    def tokens(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return one batch (B, T), padded on the right, on the model's device."""
        device = next(self.model.parameters()).device
        made = self.tokenizer(list(texts), padding=True, padding_side="right", return_tensors="pt")
        return {name: made[name].to(device) for name in made}

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text; refuse one that the model cannot read whole."""
        lengths = [len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]]
        for text, length in zip(texts, lengths, strict=True):
            if length > self.longest:
                raise UserError(
                    f"{self.name}: reads at most {self.longest:,} tokens, but a text has "
                    f"{length:,} ({text[:40]!r}...); texts are not cut: shorten it, or choose "
                    "another model"
                )
        return lengths


def load_encoder(name: str, *, outputs: int | None = None) -> TextEncoder:
    """Load an encoder in float32, from safetensors only; code that comes with a model is not run.

    Args:
        name: A local folder or a name of the hub.
        outputs: Put a linear classifier of so many independent yes-or-no outputs on it; what the
            folder lacks of it is drawn from torch's generator.

    Raises:
        UserError: transformers is not installed, or can't load this, or tensors are missing.
    """
    import torch

    from tightframe.knowledge.hub import quietly
    from tightframe.knowledge.hub_load import library

    transformers = library("transformers", name)
    check_encoder(name)
    where = {
        "local_files_only": not Path(name).exists() and hub.unreachable(),
        "trust_remote_code": False,
    }
    head: dict[str, Any] = {}
    loader: Any = transformers.AutoModel
    if outputs is not None:
        head = {"num_labels": outputs, "problem_type": "multi_label_classification"}
        loader = transformers.AutoModelForSequenceClassification
    try:
        with quietly():
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name, **where)
            model, report = loader.from_pretrained(
                name,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **where,
                **head,
            )
    except Exception as error:  # whatever the network, the hub or the files may raise
        raise UserError(
            f"{name}: transformers can't load this as an encoder of texts ({hub.reason(error)}); "
            "give a local folder or a name of the hub"
        ) from None
    if model.config.is_encoder_decoder:
        raise UserError(f"{name}: is an encoder-decoder ({type(model).__name__}); give an encoder")
    if tokenizer.pad_token_id is None:
        raise UserError(f"{name}: its tokenizer has no padding token; give an encoder, as BERT")
    model.config.pad_token_id = tokenizer.pad_token_id
    if missing := [key for key in sorted(report["missing_keys"]) if not _of_head(key, model)]:
        raise UserError(
            f"{name}: lacks {len(missing)} of the encoder's tensors, first {missing[0]}; the "
            "checkpoint is incomplete, or of something else"
        )
    return TextEncoder(name, tokenizer, model.eval())


def model_embeddings(
    texts: Sequence[str], name: str, *, size: int = BATCH
) -> Float[np.ndarray, "N D"]:
    """Embed texts with an encoder of sentence-transformers or transformers, at unit length.

    The mean over a text's tokens, or the embedding of its first one where the model's own
    1_Pooling/config.json says so.

    Args:
        texts: Texts of any length that the model can read.
        name: A local folder or a name of the hub.
        size: Texts at a time; memory only.

    Raises:
        UserError: The model can't be loaded, or makes vectors in a way that is not known here.
    """
    import torch

    try:
        pooling = pooling_of(name)
        encoder = load_encoder(name)
        found: dict[int, Any] = {}
        with torch.no_grad():
            for rows, tokens in encoder.batches(texts, size=size):
                states = encoder.model(**tokens).last_hidden_state.double()  # (B, T, D)
                found |= zip(rows, _pooled(states, tokens["attention_mask"], pooling), strict=True)
    except UserError as error:
        raise UserError(f"embedder {error}") from None
    return np.stack([found[row].numpy(force=True) for row in range(len(texts))])


def pooling_of(name: str) -> Pooling:
    """Return how a model pools its tokens into one vector; `mean` if it does not say."""
    modules = _json(name, "modules.json")
    if modules is None:
        return "mean"
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
        raise UserError(
            f"{name}: is made of {', '.join(kinds)}; only Transformer, Pooling and Normalize are "
            "known here: choose another model"
        )
    if modules[0].get("path"):
        raise UserError(f"{name}: keeps its encoder in {modules[0]['path']}; give that folder")
    prompts = _json(name, "config_sentence_transformers.json") or {}
    if prompts.get("default_prompt_name"):
        raise UserError(f"{name}: puts a prompt before each text, unknown here; choose another one")
    config = _json(name, f"{modules[1].get('path')}/config.json") or {}
    prefix = "pooling_mode_"
    ways = [
        key.removeprefix(prefix).removesuffix("_tokens").removesuffix("_token")
        for key, value in config.items()
        if key.startswith(prefix) and value
    ] or [str(config.get("pooling_mode"))]
    match ways:
        case ["mean"]:
            return "mean"
        case ["cls"]:
            return "cls"
    raise UserError(f"{name}: pools tokens by {' and '.join(ways)}; expected mean or cls")


def _pooled(states: Any, mask: Any, pooling: Pooling) -> Any:
    """Return one vector (B, D) of unit length per text, from those of its tokens (B, T, D)."""
    import torch

    if pooling == "cls":
        pooled = states[:, 0]
    else:
        share = mask.double() / mask.sum(dim=1, keepdim=True)  # (B, T)
        pooled = torch.einsum("bt,btd->bd", share, states)
    return torch.nn.functional.normalize(pooled, dim=1)


def _of_head(key: str, model: Any) -> bool:
    """Return whether a tensor belongs to a head on the encoder, and may be drawn anew."""
    inside = model.base_model is model or key.startswith(f"{model.base_model_prefix}.")
    return "pooler" in key or not inside


def _json(name: str, file: str) -> Any:
    """Read a JSON file of a model, None if it has none."""
    check_encoder(name)
    folder = Path(name)
    if folder.exists():
        return read_json(folder / file) if (folder / file).is_file() else None
    path = hub.fetch(name, file)
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))
