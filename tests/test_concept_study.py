import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from tightframe.cli import main
from tightframe.errors import UserError
from tightframe.lm.checkpoints import save_checkpoint
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer
from tightframe.ntp.concept_study import readable, study_concepts
from tightframe.ntp.options import ConceptOptions
from tightframe.ntp.table import ContextTable, save_table

WORDS = ("ant", "bee", "cat", "dog", "eel", "fox")


@pytest.fixture
def folder(tmp_path):
    # Contexts 0-2 are followed by the first three words, 3-4 by the others, and 5 by two of each.
    counts = np.zeros((6, 6), dtype=np.int64)
    counts[:3, :3] = 1
    counts[3:5, 3:] = 2
    counts[5, [0, 1, 3, 4]] = 1
    table = ContextTable(
        np.arange(6, dtype=np.int32)[:, None],
        sp.csr_array(counts),
        np.arange(6, dtype=np.int64),
        WORDS,
        {},
        WORDS,
    )
    save_table(tmp_path / "ntp", table)
    return tmp_path / "ntp"


def test_the_tables_name_both_sides(folder):
    out = study_concepts(folder, ConceptOptions(n=2, clusters=2, words=3))
    sides = pd.read_csv(out / "concepts.csv")
    first = sides[(sides["concept"] == 1) & (sides["what"] == "token")]
    assert {frozenset(side["text"]) for _, side in first.groupby("side")} == {
        frozenset(WORDS[:3]),
        frozenset(WORDS[3:]),
    }
    tokens = pd.read_csv(out / "tokens.csv")
    assert tokens["text"].tolist() == list(WORDS)
    for column in ("orthant", "kmeans"):
        found = tokens[column].tolist()
        assert len(set(found[:3])) == len(set(found[3:])) == 1
        assert found[0] != found[3]
    facts = json.loads((out / "concepts.json").read_text())
    support = np.array(pd.DataFrame(facts["concepts"])["singular_value"].unique())
    assert support == pytest.approx(facts["singular_values"])
    assert facts["kind"] == "proxy"
    assert not (out / "model.csv").exists()


def test_the_same_question_is_worked_out_once(folder, capsys):
    main(["ntp", "concepts", str(folder), "--n", "2", "--clusters", "2", "--words", "2", "--json"])
    facts = json.loads(capsys.readouterr().out)
    main(["ntp", "concepts", str(folder), "--n", "2", "--clusters", "2", "--words", "2"])
    captured = capsys.readouterr()
    assert "made before" in captured.err
    assert "+ tokens:" in captured.out
    assert [path.name for path in (folder / "concepts").iterdir()] == [
        facts["results"].rsplit("/")[-1]
    ]


def test_blanks_at_the_ends_of_tokens_are_shown():
    sides = {"concept": 1, "singular_value": 2.5, "what": "token", "side": "+"}
    frame = pd.DataFrame([sides | {"text": text} for text in (" the", ",", "to be ", "  ")])
    assert list(readable(frame)) == [
        "1  singular value 2.5",
        "   + tokens: \N{OPEN BOX}the | , | to be\N{OPEN BOX} | \N{OPEN BOX}\N{OPEN BOX}",
    ]


def test_a_model_has_a_strength_of_each_concept(folder, tmp_path):
    # The strength is u' W H' v / s, from the model's own classifier and embeddings.
    config = TransformerConfig(
        vocab_size=6, width=8, depth=1, heads=2, positions=4, window=4, tied=False
    )
    model = Transformer(config, seed=0, name="tiny")
    save_checkpoint(model, tmp_path / "model")
    out = study_concepts(folder, ConceptOptions(n=2, clusters=2, model=str(tmp_path / "model")))
    found = pd.read_csv(out / "model.csv")
    assert found["concept"].tolist() == [1, 2]
    with torch.no_grad():
        embedded = model.embed(torch.arange(6)[:, None])[:, -1].double().numpy()
    logits = model.classifier.detach().double().numpy() @ embedded.T
    support = np.zeros((6, 6))
    support[:3, :3] = support[3:, 3:5] = support[[0, 1, 3, 4], 5] = 1
    u, s, vt = np.linalg.svd(support - support.mean(axis=0))
    strength = np.abs(u[:, 0] @ logits @ vt[0] / s[0])
    assert np.abs(found["strength"][0]) == pytest.approx(strength, rel=1e-5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n": 0}, "n: 0, expected at least 1"),
        ({"words": 0}, "words: 0, expected at least 1"),
        ({"clusters": 1}, "clusters: 1, expected at least 2"),
        ({"clusters": 7}, r"n_clusters: expected 1 to 6 \(rows\), got 7"),
    ],
)
def test_options_that_make_no_sense_are_refused(folder, asked, message):
    with pytest.raises(UserError, match=message):
        study_concepts(folder, ConceptOptions(**asked))
