"""What can be asked of `measure_run`: layers, labels, strata, groups, and how they are written."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tightframe.corpus import build
from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.geometry import subject
from tightframe.geometry.labels import LabelSpec
from tightframe.geometry.published import columns
from tightframe.geometry.rows import with_documents
from tightframe.geometry.subject import SharedClasses, Subject
from tightframe.lm.interface import PRENORM
from tightframe.lm.options import TransformerConfig
from tightframe.lm.training import train
from tightframe.lm.transformer import Transformer
from tightframe.results import Row, gather, read_rows
from tiny_runs import PLAIN, measure_path, measure_run, measured, tiny_settings
from tiny_tokens import write_tokens

VOCAB, BLOCK = 23, 9


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "x"
    return TokenShards.open(write_tokens(path, vocab_size=VOCAB, block=BLOCK, train=120, val=40))


@pytest.fixture(scope="module")
def model():
    config = TransformerConfig(vocab_size=VOCAB, width=8, depth=2, heads=2, positions=BLOCK)
    model = Transformer(config, seed=1, name="tiny")
    with torch.no_grad():
        model.token_embedding *= 10
    return model


def rows_of(path):
    return {(row.layer, row.subset, row.metric): row for row in read_rows(path)[1]}


def test_every_layer_has_rows_and_the_last_those_it_has_alone(model, tokens, tmp_path):
    asked = {"measures": ["nc1_cdnv", "rank_pr_head", "nc3_cos_mean", "ncc_accuracy"]}
    every = rows_of(measure_run(model, tokens, layers="all", out=tmp_path / "all", **asked))
    last = rows_of(measure_run(model, tokens, out=tmp_path / "last", **asked))
    layers = {layer for layer, *_ in every}
    assert layers == {0, 1, PRENORM, 2}
    # What is said of the classifier alone has no inner layer.
    assert {layer for layer, _, metric in every if metric == "rank_pr_head"} == {2}
    assert {key: every[key].value for key in last} == {key: row.value for key, row in last.items()}
    assert len({every[layer, "all", "nc1_cdnv"].value for layer in layers}) == 4
    named = measure_run(model, tokens, layers="prenorm,0", out=tmp_path / "some", **asked)
    assert {layer for layer, *_ in rows_of(named)} == {0, PRENORM, 2}


def test_a_layer_that_is_not_there_is_refused(model, tokens, tmp_path):
    with pytest.raises(UserError, match="unknown layer '3'; expected all, last, prenorm, or num"):
        measure_run(model, tokens, layers="3", out=tmp_path)


@pytest.mark.parametrize("labels", ["current", "shuffled"])
def test_other_labels_have_their_own_rows(model, tokens, tmp_path, labels):
    measures = ["nc1_cdnv", "nc4_rate", "ncc_accuracy"]
    plain = measure_run(model, tokens, out=tmp_path, measures=measures)
    other = measure_run(model, tokens, out=tmp_path, measures=measures, labels=labels)
    rows = rows_of(other)
    # Whether the next token is the one of the nearest mean says nothing where means are of others.
    assert {metric for *_, metric in rows} == {"nc1_cdnv", "ncc_accuracy"}
    assert {row.labels for row in rows.values()} == {labels}
    table = gather([plain, other])  # both are of one checkpoint, and no two rows are the same
    assert len(table[table["metric"] == "nc1_cdnv"]) == 2


def test_the_input_embedding_knows_the_current_token(tokens, tmp_path):
    # Its means are the rows of the token embedding (and positions scatter around them).
    config = TransformerConfig(vocab_size=VOCAB, width=64, depth=1, heads=2, positions=BLOCK)
    model = Transformer(config, seed=1, name="tiny")
    with torch.no_grad():
        model.position_embedding *= 0.1
    path = measure_run(model, tokens, layers="0", labels="current", out=tmp_path)
    assert rows_of(path)[0, "all", "ncc_accuracy"].value == 1.0


def test_groups_give_intervals_of_losses_and_measures(model, tokens, tmp_path):
    measures = ["nc1_cdnv_db", "nc3_cos_mean", "nc4_rate_fullv"]
    asked = {"measures": measures, "min_count": 16}
    bare = rows_of(measure_run(model, tokens, out=tmp_path / "a", **asked))
    known = rows_of(measure_run(model, tokens, out=tmp_path / "b", **asked, groups=12))
    for key, row in known.items():
        assert row.value == pytest.approx(bare[key].value, rel=1e-9), key
        assert math.isnan(bare[key].low)
        assert bare[key].resampled == ""
    for metric in ("nc3_cos_mean", "nc4_rate_fullv", "val_loss", "val_bits_per_byte"):
        row = known[2, "all", metric]
        assert row.low < row.high
        assert row.resampled == "documents"
    # The jackknife of a mean over groups of documents is around the mean itself, nearly.
    loss = known[2, "all", "val_loss"]
    assert loss.low < loss.value < loss.high


def test_groups_of_one_long_document_say_that_blocks_are_resampled(model, tmp_path):
    path = write_tokens(tmp_path / "x", vocab_size=VOCAB, block=BLOCK, train=60, val=24)
    shards = TokenShards.open(path)
    for split in ("train", "val"):
        assert shards.split(split).groups(12).unit == "documents"
    one = TokenShards.open(
        write_tokens(
            tmp_path / "y", vocab_size=VOCAB, block=BLOCK, train=60, val=24, documents=False
        )
    )
    rows = rows_of(measure_run(model, one, out=tmp_path, groups=12, measures=["nc3_cos_mean"]))
    assert rows[2, "all", "val_loss"].resampled == "blocks"
    assert {row.documents for row in rows.values()} == {1}


def test_rows_tell_their_documents_and_few_of_them_give_no_interval(tmp_path):
    row = Row(
        "r", 0, "train", 2, "next", "all", "nc3_cos_mean", 0.5, 9, 1, 0, resampled="documents"
    )
    row = dataclasses.replace(row, low=0.25, high=0.75, centre=0.5)
    rate = dataclasses.replace(row, split="val", metric="nc4_rate")
    bare = dataclasses.replace(row, low=math.nan, high=math.nan, centre=math.nan, resampled="")
    for n in (20, 19):
        shards = TokenShards.open(write_tokens(tmp_path / f"{n}", train=n, val=8))
        first, second, third = with_documents([row, rate, bare], shards, 8)
        assert (first.documents, second.documents, third.documents) == (n, 8, n)
        assert (second.low, second.high, second.resampled) == (0.25, 0.75, "documents")
        assert third == dataclasses.replace(bare, documents=n)
        if n == 20:
            assert first == dataclasses.replace(row, documents=20)
            continue
        assert first.resampled == ""
        assert all(math.isnan(number) for number in (first.low, first.high, first.centre))
        assert first.reason == (
            "no interval: from 19 documents, and intervals are tested from 20 on; more documents "
            "give one"
        )


def test_what_was_measured_with_more_is_not_computed_again(model, tokens, tmp_path):
    asked = {"measures": ["nc1_cdnv"], "layers": "all", "out": tmp_path}
    first = measured(model, tokens, by_frequency=True, **asked, **PLAIN)
    second = measured(model, tokens, **asked, **PLAIN)
    assert (second.path, second.n_computed) == (first.path, 0)
    assert {row.subset for row in second.rows} == {"all"}
    assert len(list((tmp_path / "results").iterdir())) == 1


def test_strata_have_rows_of_their_own_classes(model, tokens, tmp_path):
    path = measure_run(
        model, tokens, out=tmp_path, by_frequency=True, measures=["nc1_quotient", "ncc_accuracy"]
    )
    rows = rows_of(path)
    subsets = {subset for _, subset, _ in rows} - {"all"}
    assert subsets
    assert all(subset.startswith("count ") for subset in subsets)
    counts = tokens.split("train").label_counts()
    # Every class that occurs is in one stratum.
    in_strata = [rows[2, subset, "nc1_quotient"] for subset in subsets]
    assert sum(row.n + row.excluded for row in in_strata) == int((counts > 0).sum())
    whole = rows[2, "all", "ncc_accuracy"]
    parts = [rows[2, subset, "ncc_accuracy"] for subset in subsets]
    parts = [row for row in parts if row.n]
    hits = sum(row.value * row.n for row in parts)
    # Labels that training has not seen are in no stratum, and no nearest mean is theirs.
    assert hits == pytest.approx(whole.value * whole.n)


def test_skipped_positions_are_no_part_of_the_geometry_but_of_the_loss(model, tokens, tmp_path):
    rows, whole = (
        rows_of(measure_run(model, tokens, out=tmp_path / f"{n}", skip_positions=n)) for n in (2, 0)
    )
    lengths = torch.cat([tokens.split("val").rows(range(40))[1]])
    assert rows[2, "all", "nc4_rate_fullv"].n == int((lengths - 1 - 2).clamp(min=0).sum())
    n = int((lengths - 1).sum())
    for name in ("val_loss", "val_accuracy", "val_perplexity", "val_bits_per_byte"):
        row, other = rows[2, "all", name], whole[2, "all", name]
        assert row.n == other.n == n
        assert row.value == pytest.approx(other.value)
        assert row.reason == f"over all {n} predicted positions, none left out"
        assert other.reason == ""


def test_projected_layers_say_so(model, tokens, tmp_path):
    measures = ["nc1_cdnv", "nc3_cos_mean"]
    path = measure_run(model, tokens, out=tmp_path, layers="0", project=4, measures=measures)
    rows = rows_of(path)
    assert rows[0, "all", "nc1_cdnv"].reason == "randomly projected to 4 dimensions"
    assert rows[2, "all", "nc1_cdnv"].reason == ""


@pytest.mark.parametrize("order", [(4, None), (None, 4)])
def test_the_last_layer_is_written_once_whether_others_are_projected_or_not(
    model, tokens, tmp_path, order
):
    asked = {"out": tmp_path, "measures": ["rank_pr", "nc4_rate"]}
    layers = {4: "all", None: "last"}
    paths = [measure_run(model, tokens, project=p, layers=layers[p], **asked) for p in order]
    table = gather(set(paths))
    assert not table.duplicated(["layer", "metric"]).any()
    assert (table["layer"] == 2).sum() == 2 + 4  # two measures, and the losses
    assert (table["layer"] == 0).sum() == 2


def test_published_columns_are_rows(model, tokens, tmp_path):
    path = measure_run(model, tokens, out=tmp_path, compat=["lc-2024-05"], measures=["nc1_cdnv_p2"])
    rows = rows_of(path)
    names = [c for c in columns("lc-2024-05") if c != "model"]
    assert {metric for *_, metric in rows} >= {f"compat05.{name}" for name in names}
    cdnv = rows[2, "all", "nc1_cdnv_p2"].value
    assert rows[2, "all", "compat05.cdnv_mean"].value == pytest.approx(cdnv)
    with pytest.raises(UserError, match="unknown table 'lc-2024-06'"):
        measure_run(model, tokens, out=tmp_path, compat=["lc-2024-06"])


@pytest.mark.parametrize("other", [{"min_count": 2}, {"labels": "current"}])
def test_published_columns_of_other_classes_are_refused(model, tokens, tmp_path, other):
    # NC4 would be over the classes asked for, in a row that says it is over all.
    with pytest.raises(UserError, match="compat: the published tables are of next tokens and of e"):
        measure_run(model, tokens, out=tmp_path, compat=["lc-2024-05"], **other)


def test_nc5_needs_another_text(model, tokens, tmp_path):
    other = write_tokens(tmp_path / "other", vocab_size=VOCAB, block=BLOCK, seed=9)
    asked = {"measures": ["nc5_orthodev"], "out": tmp_path / "out"}
    without = rows_of(measure_run(model, tokens, **asked))[2, "all", "nc5_orthodev"]
    assert math.isnan(without.value)
    row = rows_of(measure_run(model, tokens, ood=other, **asked))[2, "all", "nc5_orthodev"]
    assert 0 <= row.value <= 1


def test_nc5_is_taken_at_every_layer(model, tokens, tmp_path):
    other = write_tokens(tmp_path / "other", vocab_size=VOCAB, block=BLOCK, seed=9)
    asked = {"measures": ["nc5_orthodev"], "out": tmp_path / "out", "layers": "all"}
    found = rows_of(measure_run(model, tokens, ood=other, **asked))

    def embeddings(shards, layer):
        split = shards.split("train")
        ids, lengths = split.rows(range(split.n_blocks))
        real = torch.arange(1, BLOCK) < lengths[:, None]  # labels that are no padding
        with torch.no_grad():
            return model.embed_layers(ids[:, :-1], [layer])[0][real].double(), ids[:, 1:][real]

    for layer in (0, 1, PRENORM, 2):
        h, labels = embeddings(tokens, layer)
        away = embeddings(TokenShards.open(other), layer)[0].mean(0)
        means = torch.stack([h[labels == c].mean(0) for c in labels.unique()])
        expected = torch.cosine_similarity(means, away[None]).abs().mean()
        row = found[layer, "all", "nc5_orthodev"]
        assert row.value == pytest.approx(float(expected), rel=1e-6), layer


def test_ranks_and_dimensions_are_kept_where_a_measure_asks(model, tokens, tmp_path):
    asked = ["nc4_rate", "nc4_top5_head", "dim_anisotropy", "rank_pr_total"]
    rows = rows_of(measure_run(model, tokens, out=tmp_path, measures=asked))
    assert rows[2, "all", "nc4_rate"].value <= rows[2, "all", "nc4_top5_head"].value <= 1
    assert -1 <= rows[2, "all", "dim_anisotropy"].value <= 1
    assert rows[2, "all", "rank_pr_total"].value >= 1


def test_other_rules_of_agreement_are_taken_where_a_measure_asks(model, tokens, tmp_path):
    # At inner layers, too; what was measured before is not measured again.
    names = ["nc4_rate", "nc4_cos_rate", "nc4_rate_lib"]
    first = rows_of(measure_run(model, tokens, out=tmp_path, measures=names[:1], groups=3))
    second = measure_run(model, tokens, out=tmp_path, measures=names, groups=3, layers="all")
    rows = rows_of(second)
    assert rows[2, "all", "nc4_rate"] == first[2, "all", "nc4_rate"]
    for layer in (0, 1, 2):
        for name in names[1:]:
            row = rows[layer, "all", name]
            assert 0 <= row.value <= 1
            assert row.low <= row.high
        assert rows[layer, "all", "nc4_rate_lib"].n >= rows[layer, "all", "nc4_cos_rate"].n


TEXT = "\n\n".join(
    f"the cat {verb} on the {thing} and the dog {verb} on a {thing} near the old {thing}."
    for verb in ("sat", "slept", "stood", "lay", "ate")
    for thing in ("mat", "bed", "roof", "table", "hill", "chair")
)


@pytest.fixture(scope="module")
def two_tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    text = folder / "text.txt"
    text.write_text(TEXT * 3)
    sizes = {"a": 290, "b": 310}
    return [build(text, out=folder / n, vocab_size=v, block=17) for n, v in sizes.items()]


@pytest.mark.parametrize("matched", [False, True])
def test_models_with_other_tokenizers_are_measured_on_what_they_share(
    two_tokenizers, tmp_path, matched
):
    subsets, samples = [], []
    for ours, theirs in (two_tokenizers, two_tokenizers[::-1]):
        config = TransformerConfig(
            vocab_size=ours.vocab_size, width=8, depth=1, heads=2, positions=17
        )
        path = measure_run(
            Transformer(config, name=ours.name),
            ours,
            shared_with=theirs,
            matched=matched,
            out=tmp_path / ours.name,
            measures=["nc1_quotient", "nc4_rate"],
        )
        rows = rows_of(path)
        (subset,) = {subset for _, subset, _ in rows}
        assert subset == f"{'matched to' if matched else 'shared with'} {theirs.name}"
        assert (1, subset, "val_bits_per_byte") not in rows
        subsets.append(rows[1, subset, "nc1_quotient"].n)
        both = SharedClasses.of(ours, theirs, LabelSpec(), matched=matched)
        counts = torch.minimum(ours.split("train").label_counts(), both.limits)
        samples.append(sorted(counts[both.classes].tolist()))
    if matched:
        assert subsets[0] == subsets[1]  # as many classes with a sample
        assert samples[0] == samples[1]  # and as many samples of each


def test_tokenizers_without_a_common_string_are_refused(two_tokenizers, tmp_path, monkeypatch):
    none = torch.empty(0, dtype=torch.int64)
    monkeypatch.setattr(subject, "shared_classes", lambda a, b: (none, none))
    with pytest.raises(UserError, match="have 0 tokens in common; expected two or more"):
        SharedClasses.of(*two_tokenizers, LabelSpec(), matched=False)
    with pytest.raises(UserError, match="say with shared_with"):
        measure_run("nowhere", two_tokenizers[0], matched=True, out=tmp_path / "out")


def test_a_quota_takes_the_first_samples_whatever_the_batches(model, tokens):
    from tightframe.geometry.labels import NEXT, LabelledBlocks

    split = tokens.split("train")
    quota = torch.full((VOCAB,), 5)
    whole = LabelledBlocks(split, NEXT, quota=quota).rows(range(len(split))).labels
    counts = torch.bincount(whole[whole >= 0], minlength=VOCAB)
    assert torch.equal(counts, split.label_counts().clamp(max=5))
    assert torch.equal(counts, LabelledBlocks(split, NEXT, quota=quota).label_counts())
    for step in (1, 7, 50):
        reader = LabelledBlocks(split, NEXT, quota=quota)
        parts = [reader.rows(range(i, min(i + step, 120))).labels for i in range(0, 120, step)]
        assert torch.equal(torch.cat(parts), whole)
    # Begun in the midst, as a process of several does.
    assert torch.equal(
        LabelledBlocks(split, NEXT, quota=quota).rows(range(60, 90)).labels, whole[60:90]
    )
    assert np.asarray(whole[:60] >= 0).any()


def test_a_model_of_the_same_name_is_never_given_another_s_numbers(model, tokens, tmp_path):
    # Two models called alike, one folder: before weights were compared, the second was told the
    # first one's measures as its own.
    other = Transformer(model.config, seed=2, name=model.name)
    path = measure_run(model, tokens, measures=["nc3_cos_mean"], out=tmp_path)
    assert measure_run(model, tokens, measures=["nc3_cos_mean"], out=tmp_path) == path
    for measures in (["nc3_cos_mean"], ["rank_pr"]):
        with pytest.raises(UserError, match=r"is of other weights .* say with `out` where"):
            measure_run(other, tokens, measures=measures, out=tmp_path)
    elsewhere = measure_run(other, tokens, measures=["nc3_cos_mean"], out=tmp_path / "other")
    assert rows_of(elsewhere) != rows_of(path)


def test_a_checkpoint_of_transformers_trainer_is_a_step_of_its_training(tmp_path, monkeypatch):
    for name in ("mine/checkpoint-50", "yours/checkpoint-50", "final"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    first, second = (Subject.of(f"{name}/checkpoint-50") for name in ("mine", "yours"))
    assert (first.name, first.step, first.folder) == ("mine", 50, Path("runs/mine"))
    assert (second.name, second.step, second.folder) == ("yours", 50, Path("runs/yours"))
    assert Subject.of("final").name == "final"
    assert Subject.of("final", out="b").folder == Path("b")
    # A name on the hub is no folder, whatever it is called.
    assert Subject.of("someone/checkpoint-7").name == "checkpoint-7"
    monkeypatch.chdir("mine/checkpoint-50")
    assert (Subject.of(".").name, Subject.of(".").step) == ("mine", 50)


def test_sinks_are_left_out_of_other_models_and_kept_in_a_run(model, tokens, tmp_path):
    def ways(path):
        measurement = read_rows(path)[0].measurement
        return measurement["skip_positions"], measurement["skip_special"]

    asked = {"measures": ["nc4_rate_fullv"], "groups": 1, "min_count": 1}
    usual = measure_path(model, tokens, out=tmp_path / "usual", **asked)
    assert ways(usual) == (1, True)
    chosen = {"skip_positions": 1, "skip_special": True}
    assert measure_path(model, tokens, out=tmp_path / "usual", **asked, **chosen) == usual
    kept = {"skip_positions": 0, "skip_special": False}
    whole = measure_path(model, tokens, out=tmp_path / "whole", **asked, **kept)
    assert ways(whole) == (0, False)
    n = {path: rows_of(path)[2, "all", "nc4_rate_fullv"].n for path in (usual, whole)}
    assert n[whole] == tokens.split("val").n_labels
    assert n[usual] == n[whole] - tokens.split("val").n_blocks
    published = measure_path(model, tokens, out=tmp_path, compat=["lc-2024-05"], **asked)
    assert ways(published) == (0, False)
    settings = tiny_settings(tokens.path, tmp_path / "run")
    assert ways(measure_path(train(settings).path, **asked)) == (0, False)


def test_a_few_positions_that_outweigh_the_rest_are_told_of(tokens, tmp_path):
    config = TransformerConfig(vocab_size=VOCAB, width=8, depth=1, heads=2, positions=BLOCK)
    model = Transformer(config, seed=1, name="sinks")
    with torch.no_grad():
        model.position_embedding[0] *= 1e4
    asked = {"measures": ["rank_pr"], "layers": "all"}
    for skip, told in ((0, True), (1, False)):
        path = measure_run(model, tokens, out=tmp_path / f"{skip}", skip_positions=skip, **asked)
        sinks = read_rows(path)[0].measurement["sinks"]
        assert (sinks is not None) == told
        if told:  # the final norm makes them like all others
            assert sinks.startswith("attention sinks: at layers 0, prenorm a few positions")


def test_several_labels_take_the_same_passes_and_give_the_same_values(model, tokens, tmp_path):
    asked = {"layers": "all", "measures": ["nc1_cdnv", "nc1_pinv", "ncc_accuracy"], "groups": 4}
    calls = []
    embed = Transformer.embed_layers

    def counted(self, batch, layers):
        if not isinstance(batch, torch.Tensor):  # a part of a pass, not a look at one token
            calls.append(batch)
        return embed(self, batch, layers)

    apart, together = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transformer, "embed_layers", counted)
        for name in ("next", "current", "shuffled"):
            path = measure_run(model, tokens, labels=name, out=tmp_path / name, **asked)
            apart.append(read_rows(path)[1])
        n_apart = len(calls)
        also = {"labels": ["next", "current", "shuffled"]}
        path = measure_run(model, tokens, out=tmp_path / "together", **also, **asked)
        assert len(calls) - n_apart == n_apart / 3
    assert measure_run(model, tokens, out=tmp_path / "together", **also, **asked) == path
    files = sorted((tmp_path / "together" / "results").glob("*.jsonl"))
    together = {rows[0].labels: rows for _, rows in map(read_rows, files)}
    assert len(files) == 3
    for rows in apart:
        assert together[rows[0].labels] == rows
    found = measured(model, tokens, out=tmp_path / "together", **also, **PLAIN | asked)
    assert found.n_computed == 0
    of_one = found.at(labels="current")
    assert of_one.header.measurement["labels"] == "current"
    assert {row.labels for row in of_one.rows} == {"current"}


def test_labels_that_were_measured_before_take_no_pass_with_others(model, tokens, tmp_path):
    asked = {"measures": ["nc1_cdnv"], "out": tmp_path}
    measure_run(model, tokens, labels="current", **asked)
    measure_run(model, tokens, labels=["next", "current"], keep_states=False, **asked)
    rows = {r[0].labels: r for _, r in map(read_rows, (tmp_path / "results").glob("*.jsonl"))}
    assert set(rows) == {"next", "current"}
