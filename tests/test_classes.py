"""The table of classes, the heaviest pairs, and words in it."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from reference.geometry import naive_classes
from tightframe import cli
from tightframe.corpus import build
from tightframe.corpus.shards import TokenShards
from tightframe.corpus.tokenizer import token_names, train_bpe, word_level
from tightframe.errors import UserError
from tightframe.geometry import metrics
from tightframe.geometry.classes import by_token, class_table, measure_classes, readable
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.labels import LabelledBlocks, LabelSpec
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.nearest import Choices
from tightframe.geometry.options import ClassesOptions
from tightframe.geometry.words import known_words, words
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer

TEXT = [
    "Anna saw Tim . Tim saw Anna . Anna ran to Tim and Tim ran to Anna .",
    "Tim and Anna saw the dog . The dog ran .",
]


def moments_of(embeddings, labels, n_classes):
    moments = ClassMoments(n_classes, embeddings.shape[1])
    moments.update(torch.as_tensor(embeddings), torch.as_tensor(labels))
    return moments


def sample(seed=0, n_classes=12, dim=5, whole=False):
    """Class 0 is empty, the last two are single samples; whole numbers give equal means."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([rng.integers(1, n_classes - 2, 60), [n_classes - 2, n_classes - 1]])
    labels = np.concatenate([labels, [-100, -100]])
    draw = (lambda size: rng.integers(-1, 2, size).astype(float)) if whole else rng.normal
    centres = draw(size=(n_classes, dim))
    noise = 0 if whole else rng.normal(size=(len(labels), dim))
    return centres[labels.clip(0)] + noise, labels, rng.normal(size=(n_classes, dim))


@pytest.mark.parametrize("min_count", [1, 2, 6])
@pytest.mark.parametrize(("seed", "whole"), [(0, False), (1, False), (2, True), (3, True)])
def test_every_column_is_that_of_the_plain_loops(seed, whole, min_count):
    # With whole numbers and no noise, some means and directions are one.
    embeddings, labels, classifier = sample(seed, dim=3 if whole else 5, whole=whole)
    classifier[4] = 0
    moments = moments_of(embeddings, labels, 12)
    found = class_table(moments, torch.from_numpy(classifier), min_count=min_count)
    expected = naive_classes(embeddings, labels.tolist(), classifier, min_count=min_count)
    assert set(found["id"]) == set(expected)
    for line in found.to_dict("records"):
        for name, value in expected[line["id"]].items():
            if name == "nearest" and whole:
                continue  # several are as near, up to rounding
            if name == "nearest_distance" and whole:
                continue
            got = math.nan if line[name] is pd.NA else line[name]
            close = pytest.approx(value, rel=1e-9, abs=1e-7 if "angle" in name else 1e-12)
            assert got == close or (math.isnan(got) and math.isnan(value)), (name, line["id"])


def test_the_classes_of_a_simplex_are_all_alike():
    # Orthonormal means e_c of 4 classes, two samples each at e_c +- 0.1 e_c: variance 0.01, squared
    # distances 2, centred norm sqrt(3/4), cosines -1/3, so 109.47 degrees.
    e = torch.eye(4).double()
    moments = moments_of(torch.cat([1.1 * e, 0.9 * e]), torch.arange(4).repeat(2), 4)
    table = class_table(moments, e, tokens=["a", "b", "c", "d"])
    assert table["token"].tolist() == ["a", "b", "c", "d"]
    expected = {
        "norm": math.sqrt(3 / 4),
        "variance": 0.01,
        "variance_unbiased": 0.02,
        "cdnv": 0.01 / 2,
        "cdnv_p2": 0.01 / 4,
        "cdnv_db": 0.02 / (2 - 0.02),  # two noises of 0.02 / 2
        "nearest_angle": math.degrees(math.acos(-1 / 3)),
        "nearest_distance": math.sqrt(2),
        "interference": -1 / 3,
        "interference_dot": -1 / 4,
        "duality": math.sqrt(3) / 2,  # e_c against e_c - 1/4: 3/4 / sqrt(3/4)
    }
    for name, value in expected.items():
        assert table[name].tolist() == pytest.approx([value] * 4, rel=1e-12), name
    assert table["cdnv_pairs"].tolist() == [3] * 4


def decided(n_classes=12):
    """Decisions at ten positions of two labels, one of them a class without a mean."""
    seen = torch.ones(n_classes, dtype=torch.bool)
    seen[0] = False
    decisions = Decisions(seen)
    labels = torch.tensor([3] * 8 + [0] * 2)
    nearest = torch.tensor([3, 3, 3, 5, 5, 5, 5, 5, 1, 1])
    classifier = torch.tensor([3, 3, 4, 5, 3, 3, 3, 3, 0, 0])
    losses = torch.arange(10).double()
    decisions.update(
        labels,
        Choices(
            classifier=classifier,
            classifier_seen=classifier,
            nearest=nearest,
            losses=losses,
            reevaluated=0,
        ),
    )
    return decisions


def test_decisions_are_shares_of_the_positions_of_each_label():
    embeddings, labels, classifier = sample()
    table = class_table(moments_of(embeddings, labels, 12), torch.tensor(classifier), decided())
    line = table[table["id"] == 3].iloc[0]
    assert line["positions"] == 8
    # 3-3, 3-3, 5-5 agree; three means are nearest to 3; six times the classifier says 3.
    assert (line["agreement"], line["nearest_accuracy"], line["accuracy"]) == (3 / 8, 3 / 8, 6 / 8)
    assert line["loss"] == 28 / 8
    others = table[table["id"] != 3]
    assert (others["positions"] == 0).all()
    assert others[["agreement", "nearest_accuracy", "accuracy", "loss"]].isna().all(axis=None)
    undecided = class_table(moments_of(embeddings, labels, 12), torch.tensor(classifier))
    assert list(undecided) == list(table)
    assert undecided[["positions", "loss"]].isna().all(axis=None)


def test_the_columns_average_to_the_measures():
    embeddings, labels, classifier = sample(5)
    moments, classifier = moments_of(embeddings, labels, 12), torch.from_numpy(classifier)
    made = by_token(moments, classifier)
    found = metrics(moments, classifier, measures=["all"])
    table = made.classes
    means = {
        "nc1_cdnv": table["cdnv"].mean(),
        "nc1_cdnv_p2": table["cdnv_p2"].mean(),
        "nc2_equiang_mean": table["interference"].mean(),
        "nc2_equiang_nn": np.cos(np.radians(table["nearest_angle"])).mean(),
        "nc2_dot_mean": table["interference_dot"].mean(),
        "nc3_cos_mean": table["duality"].mean(),
    }
    # Of debiased pairs some have no value: classes weigh as many pairs as they have.
    pairs = table["cdnv_db_pairs"]
    means["nc1_cdnv_db"] = (table["cdnv_db"].fillna(0) * pairs).sum() / pairs.sum()
    tails = made.tails.set_index("measure")
    means["nc1_cdnv_med_db"] = tails["median"]["nc1_cdnv_db"]
    means["nc1_cdnv_p2_med"] = tails["median"]["nc1_cdnv_p2"]
    means["gnc2_log_kernel_med"] = tails["median"]["gnc2_log_kernel"]
    means["gnc2_log_kernel_mean"] = tails["mean"]["gnc2_log_kernel"]
    for name, mean in means.items():
        assert mean == pytest.approx(found[name].value, rel=1e-10), name
    for name in ("nc1_cdnv", "nc1_cdnv_db", "gnc2_log_kernel_mean"):
        line = tails.loc[name.removesuffix("_mean")]
        assert line["pairs"] == found[name].n


def test_the_heaviest_pairs_are_named_with_their_share_of_the_sum():
    # Three classes on a line, of variance 1: distances 3, 3.9 and 6.9.
    spots = torch.tensor([0.0, 0.1, 3.1, 7.0]).double()
    samples = torch.cat([spots[1:] - 1, spots[1:] + 1])[:, None]
    moments = moments_of(samples, torch.tensor([1, 2, 3, 1, 2, 3]), 4)
    made = by_token(moments, torch.ones(4, 1), tokens=["none", "x", "y", "<b>"])
    pairs = made.pairs[made.pairs["measure"] == "nc1_cdnv"]
    values = {("x", "y"): 1 / 9, ("y", "<b>"): 1 / 3.9**2, ("x", "<b>"): 1 / 6.9**2}
    assert pairs["rank"].tolist() == [1, 2, 3]
    assert list(zip(pairs["token"], pairs["other_token"], strict=True)) == list(values)
    assert (pairs["id"] < pairs["other_id"]).all()
    assert pairs["value"].tolist() == pytest.approx(list(values.values()))
    assert pairs["share"].tolist() == pytest.approx(
        [value / sum(values.values()) for value in values.values()]
    )
    assert made.tails.set_index("measure")["tail001"]["nc1_cdnv"] == pytest.approx(
        pairs["share"].iloc[0]  # 0.1 % of three pairs is one
    )
    kernel = made.pairs[made.pairs["measure"] == "gnc2_log_kernel"]
    # Seen from their middle, two of them lie in one direction; the third is opposite, at 2.
    assert len(kernel) == 2
    assert kernel["value"].tolist() == pytest.approx([-math.log(2)] * 2)
    assert kernel["share"].isna().all()


@pytest.mark.parametrize("labels", [[], [3], [3, 3], [3, 5]])
def test_hardly_any_class_gives_a_table_and_no_numbers(labels):
    embeddings = torch.arange(2.0 * len(labels)).reshape(-1, 2).double() ** 2
    moments = ClassMoments(7, 2)
    if labels:
        moments.update(embeddings, torch.tensor(labels))
    made = by_token(moments, torch.ones(7, 2))
    assert made.classes["id"].tolist() == sorted(set(labels))
    assert made.classes["cdnv_db"].isna().all()
    if len(set(labels)) < 2:
        assert made.classes[["cdnv", "interference", "nearest"]].isna().all(axis=None)
        assert made.pairs.empty
    else:  # two single samples: each other's only class, in opposite directions
        assert made.classes["nearest"].tolist() == [5, 3]
        assert made.classes["nearest_angle"].tolist() == pytest.approx([180, 180])
        assert made.classes["cdnv"].tolist() == [0, 0]
    assert len(made.tails) == 5


def test_too_few_names_are_refused():
    embeddings, labels, classifier = sample()
    moments = moments_of(embeddings, labels, 12)
    with pytest.raises(ValueError, match="3 tokens, but the moments have 12 classes"):
        class_table(moments, torch.from_numpy(classifier), tokens=["a", "b", "c"])


# Words and their spelling.


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TEXT * 40, 282)


def table_of(tokenizer, counts):
    """A table of classes as far as `words` reads it; numbers are multiples of the id."""
    n_classes = tokenizer.get_vocab_size()
    names = token_names(tokenizer, n_classes)
    lines = [
        {"id": index, "token": names[index], "count": count, "cdnv_p2": 10.0 * index}
        for index, count in counts.items()
    ]
    columns = ("cdnv_p2_db", "cdnv", "cdnv_db", "interference", "norm", "duality", "agreement")
    pairs = dict.fromkeys(("cdnv_pairs", "cdnv_db_pairs"), len(counts) - 1)
    return pd.DataFrame(lines).assign(**dict.fromkeys(columns, math.nan), **pairs)


def test_a_word_stands_beside_classes_that_are_as_common_and_beside_all(bpe):
    anna = bpe.encode(" Anna").ids
    assert len(anna) == 1  # there is enough of her in the text
    # Counts within a factor of two of 100 are 50, 200, and not 49 or 201.
    table = table_of(bpe, {anna[0]: 100, 5: 50, 6: 200, 7: 49, 8: 201})
    found = words(table, ["Anna"], bpe)
    assert found["of"].tolist() == ["token", "like counts", "all classes"]
    assert found["token"].tolist() == [" Anna", " Anna", ""]
    assert found["classes"].tolist() == [1, 2, 5]
    assert found["count"].tolist() == [100, 125, 120]
    assert found["cdnv_p2"].tolist() == [10 * anna[0], 55, 2 * (anna[0] + 5 + 6 + 7 + 8)]


def test_the_averages_over_all_classes_are_the_measures(bpe):
    # Debiased, some pairs have no value: a mean over classes that weighs each once is another.
    embeddings, labels, classifier = sample(5)
    moments, classifier = moments_of(embeddings, labels, 12), torch.from_numpy(classifier)
    table = by_token(moments, classifier).classes
    found = metrics(moments, classifier, measures=["all"])
    line = words(table, [], bpe).iloc[-1]
    assert table["cdnv_db_pairs"].nunique() > 1
    assert line["cdnv_db"] != pytest.approx(table["cdnv_db"].mean(), rel=1e-3)
    names = {"cdnv": "nc1_cdnv", "cdnv_p2": "nc1_cdnv_p2", "cdnv_db": "nc1_cdnv_db"}
    names |= {"cdnv_p2_db": "nc1_cdnv_p2_db", "interference": "nc2_equiang_mean"}
    for column, measure in names.items():
        assert line[column] == pytest.approx(found[measure].value, rel=1e-10), column


def test_a_word_that_is_one_token_in_both_places_is_shown_twice():
    tokenizer = train_bpe(["Tim", " Tim"] * 50, 260)
    ids = [tokenizer.encode(text).ids for text in ("Tim", " Tim")]
    assert [len(each) for each in ids] == [1, 1]
    table = table_of(tokenizer, {ids[0][0]: 10, ids[1][0]: 90})
    found = words(table, ["Tim"], tokenizer)
    assert found["token"].tolist() == ["Tim", "Tim", " Tim", " Tim", ""]
    assert found["classes"].tolist() == [1, 0, 1, 0, 2]  # none is as common
    # One that has no mean is left out as long as the other has one.
    assert len(words(table[1:], ["Tim"], tokenizer)) == 3


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("Lily", r"the word 'Lily' is no single token .* splits into ' ', 'L', 'i', 'l', 'y'; "),
        ("Tim", r"the word 'Tim' is token \d+, which has no mean: .* commoner word or a smaller"),
    ],
)
def test_a_word_that_cannot_be_shown_is_one_line(bpe, word, message):
    with pytest.raises(UserError, match=message) as error:
        words(table_of(bpe, {5: 1}), [word], bpe)
    assert "\n" not in str(error.value)


def test_a_word_that_the_vocabulary_lacks_is_unknown():
    tokenizer = word_level(["Anna", "ran"])
    assert words(table_of(tokenizer, {0: 3, 1: 2}), ["Anna"], tokenizer)["id"].tolist()[:1] == [0]
    with pytest.raises(UserError, match=r"'Tim' is no single token .* it is unknown to it"):
        words(table_of(tokenizer, {0: 3}), ["Tim"], tokenizer)


def test_words_that_have_no_class_are_left_out_and_told_of(bpe):
    said = []
    anna, ran = bpe.token_to_id("\u0120Anna"), bpe.token_to_id("L")
    assert known_words(["Anna", "Lily", "Tim"], bpe, [anna, ran], said.append) == ["Anna"]
    assert len(said) == 2
    assert said[0].startswith("the word 'Lily' is no single token")
    assert said[0].endswith("; it is left out")
    assert "which has no mean" in said[1]
    assert known_words(["Anna", "Lily"], bpe, [anna]) == ["Anna"]


def test_the_first_piece_of_a_word_is_named_where_it_is_a_class():
    tokenizer = train_bpe(["the Ell saw the Ell"] * 9, 266)
    ell = tokenizer.encode(" Ell").ids
    assert len(ell) == 1
    with pytest.raises(UserError, match="splits into ' Ell', 'i', 'o', 't'; try its first piece, "):
        words(table_of(tokenizer, {ell[0]: 3}), ["Elliot"], tokenizer)
    with pytest.raises(UserError, match="'t'; choose words that are one token"):
        words(table_of(tokenizer, {0: 3}), ["Elliot"], tokenizer)


def test_where_no_word_has_a_class_common_ones_are_named(bpe):
    # "Anna" at the start of a text is another token, and "Tim" has three letters.
    order = [bpe.token_to_id(token) for token in ("\u0120Anna", "Anna", "\u0120Tim")]
    assert None not in order
    with pytest.raises(UserError, match=r"the word 'Lily' .*; common words here: Anna$") as error:
        known_words(["Lily", "Zoe"], bpe, order)
    assert "\n" not in str(error.value)


# From a model to files.


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "text.txt").write_text("\n\n".join(TEXT * 30), encoding="utf-8")
    build(str(folder / "text.txt"), out=folder / "tiny", vocab_size=282, block=16)
    return TokenShards.open(folder / "tiny")


@pytest.fixture(scope="module")
def model(shards):
    config = TransformerConfig(vocab_size=282, width=8, depth=1, heads=2, positions=16)
    return Transformer(config, seed=1, name="small")


def describe(model, shards, **options):
    return measure_classes(model, ClassesOptions(tokens=shards, **options))


def test_a_model_is_described_in_files_that_can_be_read_back(model, shards, tmp_path):
    made = describe(model, shards, words=["Anna"], out=tmp_path)
    assert made.path == tmp_path / "results" / "classes.parquet"
    names = {"classes.parquet", "classes.csv", "heavy-tails.csv", "heaviest-pairs.csv"}
    assert {path.name for path in made.path.parent.iterdir()} == names
    usual = LabelSpec(skip=1, skip_special=True)  # of a model that is no run
    counts = LabelledBlocks(shards.split("train"), usual).label_counts()
    table = pd.read_parquet(made.path)
    assert dict(zip(table["id"], table["count"], strict=True)) == {
        index: int(count) for index, count in enumerate(counts) if count
    }
    assert table["count"].is_monotonic_decreasing
    facts = {"run": "small", "step": 0, "tokens": shards.fingerprint, "min_count": 1}
    assert facts.items() <= table.attrs.items()
    assert int(table["positions"].sum()) <= shards.split("val").n_labels
    as_text = pd.read_csv(made.path.with_suffix(".csv"), keep_default_na=False)
    assert as_text["token"].tolist() == table["token"].tolist()
    assert made.words["token"].iloc[0].strip() == "Anna"
    fewer = describe(model, shards, min_count=50, out=tmp_path)
    assert pd.read_parquet(fewer.path)["count"].min() >= 50


def test_mistakes_are_told_before_the_passes(model, shards, tmp_path, monkeypatch):
    monkeypatch.setattr("tightframe.geometry.classes._states", None)
    with pytest.raises(UserError, match="'Zebra' is no single token"):
        describe(model, shards, words=["Zebra"], out=tmp_path)
    with pytest.raises(UserError, match="min_count is 1000000; expected 1 or more, so that at"):
        describe(model, shards, min_count=10**6, out=tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_the_command_prints_words_or_the_heaviest_pairs(
    model, shards, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("tightframe.geometry.subject.load_model", lambda *a, **k: model)
    monkeypatch.setattr("tightframe.geometry.checks.check_model", lambda *_, **__: None)
    arguments = ["classes", "small", "--tokens", str(shards.path), "--out", str(tmp_path)]
    cli.main(arguments)
    printed = capsys.readouterr().out
    assert "nc1_cdnv_p2_db" in printed
    assert '" Anna"' in printed
    cli.main([*arguments, "--words", "Anna,Tim", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["results"] == str(tmp_path / "results" / "classes.parquet")
    assert {line["word"] for line in found["words"] if line["of"] == "token"} == {"Anna", "Tim"}
    assert found["words"][-1]["id"] is None
    assert found["words"][-1]["classes"] > 10
    cli.main([*arguments, "--words", "Anna,Zebra", "--json"])
    printed = capsys.readouterr()
    assert {line["word"] for line in json.loads(printed.out)["words"]} == {"Anna", ""}
    assert "the word 'Zebra' is no single token" in printed.err
    assert "; it is left out\n" in printed.err
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--words", "Zebra"])
    assert capsys.readouterr().err.startswith("tightframe: the word 'Zebra' is no single token")


def test_control_characters_are_not_sent_to_the_terminal():
    table = pd.DataFrame({"token": ["\x1b[2J\n", " caf\u00e9"], "norm": [1.23456, math.nan]})
    printed = readable(table)
    assert r'"\x1b[2J\n"' in printed
    assert '" caf\u00e9"' in printed
    assert "1.235" in printed
