"""Texts as vectors: weighted words for linear classifiers, few dense numbers for clusters.

Axes: N texts, V words and word pairs, D embedding.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from tightframe.corpus import hub
from tightframe.errors import UserError

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
        """The words of `texts`; UserError if there are none."""
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
        """The texts as rows (N, V)."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        columns = {word: column for column, word in enumerate(self.words)}
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, vocabulary=columns)
        vectorizer.idf_ = self.rarity
        return sp.csr_array(vectorizer.transform(texts))


def dimensions(n_texts: int, k: int) -> int:
    """Dimensions that so many texts in `k` clusters can fill."""
    least, most = DIMENSIONS
    return min(max(n_texts // (PER_DIMENSION * k), least), most)


def lexical_embeddings(
    texts: Sequence[str], *, dim: int, seed: int = 0
) -> Float[np.ndarray, "N D"]:
    """The leading singular directions of the texts' weighted words, each text at unit length.

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
    """Refuse an embedder that is neither weighted words nor an encoder that is there."""
    if name != LEXICAL:
        try:
            check_encoder(name)
        except UserError as error:
            raise UserError(f"embedder {error}") from None


def check_encoder(name: str) -> None:
    """Refuse a folder without a model, or a name for which nothing answers."""
    path = Path(name)
    if path.exists() and not (path / "config.json").is_file():
        raise UserError(f"{name}: holds no config.json; expected a model's folder or a hub name")
    if not path.exists() and (path.is_absolute() or name.startswith(".")):
        raise UserError(f"{name}: no such folder; expected a model's folder or a hub name")
    if not path.exists():
        hub.check_available(name, "config.json")
