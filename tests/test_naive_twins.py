"""What the command line says of a stored model, against definitions in plain loops.

Embeddings are those that transformers gives, in float64: no rounding hides a difference.
"""

import math

import numpy as np
import pytest
import torch

from reference.geometry import naive_measures
from tightframe import cli
from tightframe.corpus.shards import TokenShards
from tightframe.geometry.measures import DEFAULT
from tightframe.results import read_rows
from tiny_runs import PLAINLY
from tiny_tokens import write_tokens

CLASSES = 35  # the classifiers have 40 rows


def labelled(model, split):
    """What the classifier multiplies, and the next token, at every position that has one."""
    embeddings, labels = [], []
    for ids, length in zip(*split.rows(range(split.n_blocks)), strict=True):
        row = ids[:length]
        with torch.no_grad():
            found = model(row[None, :-1], output_hidden_states=True)
        embeddings += list(found.hidden_states[-1][0].numpy())
        labels += row[1:].tolist()
    return np.array(embeddings), labels


def naive_decisions(means, rows, bias, embeddings, labels):
    """Loss, and how often classifier and nearest class mean agree, position by position."""
    hits, hits_full, nearest_hits, losses = [], [], [], []
    for x, label in zip(embeddings, labels, strict=True):
        logits = rows @ x + bias
        nearest = min(means, key=lambda c: (math.dist(x, means[c]), c))
        if label in means:
            hits.append(max(means, key=lambda c: (logits[c], -c)) == nearest)
        hits_full.append(int(logits[:CLASSES].argmax()) == nearest)
        nearest_hits.append(nearest == label)
        losses.append(math.log(sum(math.exp(z - logits[label]) for z in logits)))
    return {
        "nc4_rate": np.mean(hits),
        "nc4_rate_fullv": np.mean(hits_full),
        "ncc_accuracy": np.mean(nearest_hits),
        "val_loss": np.mean(losses),
    }


@pytest.mark.parametrize("name", ["gpt2", "phi"])  # a tied classifier; one of its own, and a bias
def test_every_default_measure_of_a_stored_model_is_that_of_the_plain_loops(name, tmp_path):
    pytest.importorskip("transformers")
    from tiny_models import model_of

    model = model_of(name).double()
    model.save_pretrained(tmp_path / name)
    tokens = write_tokens(tmp_path / "tokens", vocab_size=CLASSES, block=9, train=40, val=40)
    out = tmp_path / "out"
    cli.main(
        ["measure", *PLAINLY, str(tmp_path / name), "--tokens", str(tokens), "--out", str(out)]
    )
    (path,) = (out / "results").glob("*.jsonl")
    found = {row.metric: row.value for row in read_rows(path)[1]}

    head = model.get_output_embeddings()
    rows = head.weight.detach().numpy()
    bias = np.zeros(len(rows)) if head.bias is None else head.bias.detach().numpy()
    shards = TokenShards.open(tokens)
    embeddings, labels = labelled(model, shards.split("train"))
    means = {c: embeddings[np.equal(labels, c)].mean(0) for c in set(labels)}
    assert len(means) < CLASSES  # some labels of validation have no mean
    expected = naive_measures(embeddings, labels, rows)
    expected |= naive_decisions(means, rows, bias, *labelled(model, shards.split("val")))
    assert 0 < expected["nc4_rate"] != expected["nc4_rate_fullv"]
    for measure in DEFAULT:
        if measure.endswith("_dbg"):  # they need groups of documents, and say so
            assert math.isnan(found[measure])
            continue
        assert found[measure] == pytest.approx(expected[measure], rel=1e-9), measure
    assert found["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-6)  # float32 tiles
