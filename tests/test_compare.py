"""Two models on one text: paired differences, their intervals and verdicts."""

import inspect
import json
import math

import matplotlib
import numpy as np
import pytest
import torch
from scipy.stats import t as student

import tightframe as tf
from reference.worlds import Sampled
from tightframe import cli
from tightframe.corpus import build
from tightframe.corpus.shards import TokenShards
from tightframe.geometry.compare import ComparedRow, _compared, _verdict
from tightframe.geometry.intervals import plain_values, resample
from tightframe.geometry.measures import choose
from tightframe.geometry.resampling import plan_of, survivors
from tightframe.geometry.values import Geometry
from tightframe.lm.load import load_model
from tightframe.lm.options import TransformerConfig
from tightframe.lm.training import train
from tightframe.lm.transformer import Transformer
from tiny_runs import tiny_settings
from tiny_tokens import write_tokens

matplotlib.use("Agg")
GROUPS = 20
NAMES = ("nc1_cdnv_rom_dbg", "nc3_cos_mean_dbg", "nc2_equiang_std", "rank_pr")
PLAIN = {
    **{"groups": GROUPS, "min_count": 10, "skip_positions": 0, "skip_special": False},
    "measures": [*NAMES, "nc1_cdnv_p2", "nc4_rate"],
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("compare") / "tokens", train=400, val=100)


def model(seed=1, vocab_size=23, positions=16):
    config = TransformerConfig(
        vocab_size=vocab_size, width=8, depth=1, heads=2, positions=positions
    )
    return Transformer(config, seed=seed, name=f"small-{seed}")


def noisy(seed=1, size=0.003):
    copy = model(seed)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    copy.name = "noisy"
    return copy


@pytest.fixture(scope="module")
def result(tokens):
    return tf.compare(model(), noisy(), tokens=tokens, **PLAIN)


def by_metric(result):
    return {row.metric: row for row in result.rows}


def test_two_copies_of_one_model_do_not_differ_at_all(tokens):
    found = tf.compare(model(), model(), tokens=tokens, **PLAIN, layers="all")
    told = [row for row in found.rows if not math.isnan(row.low)]
    assert {row.layer for row in told} == {"0", "prenorm", "last"}
    assert all((row.difference, row.low, row.high) == (0, 0, 0) for row in told)
    assert {row.verdict for row in told} == {"no difference"}
    assert " 0 of " in found.one_line


def test_the_interval_of_a_loss_is_that_of_differences_by_hand(result, tokens):
    split = TokenShards.open(tokens).split("val")
    starts = split.groups(GROUPS).bounds.numpy()[:-1] // split.block  # each row is a document
    sums, counts = np.zeros((2, GROUPS)), np.zeros(GROUPS)
    for row, (line, length) in enumerate(zip(*split.rows(range(split.n_blocks)), strict=True)):
        group = np.searchsorted(starts, row, side="right") - 1
        inputs, labels = line[None, : length - 1].long(), line[1:length].long()
        counts[group] += length - 1
        for place, one in enumerate((model().eval(), noisy().eval())):
            with torch.no_grad():
                logits = one.head(one.embed(inputs))[0]
            sums[place, group] += float(
                torch.nn.functional.cross_entropy(logits, labels) * (length - 1)
            )
    whole = sums.sum(1) / counts.sum()
    without = (sums.sum(1, keepdims=True) - sums) / (counts.sum() - counts)
    differences = without[1] - without[0]
    error = math.sqrt((GROUPS - 1) / GROUPS * np.square(differences - differences.mean()).sum())
    reach = student.ppf(0.975, counts.sum() ** 2 / np.square(counts).sum() - 1) * error
    row = by_metric(result)["val_loss"]
    # Shown is the estimate without the bias of a ratio, by the same resamples.
    centre = GROUPS * (whole[1] - whole[0]) - (GROUPS - 1) * differences.mean()
    assert row.difference == pytest.approx(centre, abs=1e-6)
    assert (row.high - row.low) / 2 == pytest.approx(reach, rel=1e-3)


def test_swapped_models_give_the_same_with_the_other_sign(result, tokens):
    back = by_metric(tf.compare(noisy(), model(), tokens=tokens, **PLAIN))
    other = {"higher": "lower", "lower": "higher"}
    for name, row in by_metric(result).items():
        assert back[name].difference == pytest.approx(-row.difference, nan_ok=True)
        assert (back[name].low, back[name].high) == pytest.approx(
            (-row.high, -row.low), nan_ok=True
        )
        assert back[name].verdict == other.get(row.verdict, row.verdict)
        assert (back[name].a, back[name].b) == pytest.approx((row.b, row.a))


def test_pairing_takes_out_what_documents_do_to_both(result, tokens):
    alone = tf.measure(model(), tokens=tokens, **PLAIN)
    for name in ("val_loss", "nc3_cos_mean_dbg"):
        row = by_metric(result)[name]
        assert row.high - row.low < 0.4 * (alone[name].high - alone[name].low)
        assert row.b - row.a == pytest.approx(row.difference)


def test_a_measure_without_a_value_stays_in_the_table_with_its_reason(tokens):
    found = tf.compare(model(), noisy(), tokens=tokens, **PLAIN | {"measures": ["nc5_orthodev"]})
    row = by_metric(found)["nc5_orthodev"]
    assert (row.verdict, row.n) == ("inconclusive", 0)
    assert row.reason


def test_options_are_keywords_that_help_knows():
    arguments = inspect.signature(tf.compare).parameters
    assert list(arguments)[:2] == ["a", "b"]
    assert arguments["margin"].default == 0.05
    assert "margin: Share of a value" in tf.compare.__doc__


def test_a_verdict_follows_from_the_interval():
    def verdict(low, high):
        return _verdict(
            ComparedRow("next", "last", "rank_pr", 10.0, 12.0, 2.0, *map(float, (low, high))), 0.05
        )

    assert verdict(0.1, 3) == "higher"
    assert verdict(-3, -0.1) == "lower"
    assert verdict(-0.5, 0.5) == "no difference"
    assert verdict(-0.5, 0.6) == "inconclusive"
    assert verdict(math.nan, math.nan) == "inconclusive"


def test_a_comparison_is_a_table_text_and_a_picture(result, tmp_path):
    table = result.to_pandas()
    assert list(table.metric) == [row.metric for row in result.rows]
    assert "small-1" in result.summary()
    assert "noisy" in repr(result)
    assert "<table" in result._repr_html_()
    labels = [text.get_text() for text in result.plot("val_loss", "rank_pr").get_yticklabels()]
    assert sorted(labels) == ["rank_pr", "val_loss"]
    assert result.save(tmp_path / "compared.csv").exists()


def test_models_with_other_tokenizers_are_compared_on_what_both_have(tmp_path, monkeypatch):
    words = [
        "the",
        "cat",
        "saw",
        "a",
        "dog",
        "and",
        "the",
        "dog",
        "saw",
        "a",
        "cat",
        "then",
        "the",
        "old",
        "cat",
        "ran",
        "home",
    ]
    rng = np.random.default_rng(0)
    text = tmp_path / "text.jsonl"
    documents = [" ".join(rng.choice(words, 60)) + "." for _ in range(240)]
    text.write_text("".join(json.dumps({"text": one}) + "\n" for one in documents))
    folders = []
    for size in (264, 280):
        folders.append(tmp_path / f"tokens-{size}")
        build(str(text), out=folders[-1], vocab_size=size, block=32)
    sizes = [TokenShards.open(folder).vocab_size for folder in folders]
    assert sizes[0] != sizes[1]
    runs = []
    for folder in folders:
        run = tmp_path / f"run-{folder.name}"
        train(tiny_settings(folder, run, epochs=1, window=0))
        runs.append(run)
    some = {"groups": 8, "min_count": 5, "measures": NAMES}
    found = tf.compare(*runs, **some)
    rows = by_metric(found)
    assert "val_loss" not in rows
    assert not math.isnan(rows["val_bits_per_byte"].low)
    shared = tf.measure(
        runs[0], shared_with=folders[1], matched=True, groups=8, min_count=5, measures=NAMES
    )
    assert rows["rank_pr"].n == shared["rank_pr"].n
    loaded = []

    def load(source, **options):
        loaded.append(source)
        return load_model(source, **options)

    monkeypatch.setattr("tightframe.geometry.subject.load_model", load)
    again = tf.compare(*runs, text=text, groups=8, min_count=5, measures=["rank_pr"])
    assert by_metric(again)["rank_pr"].n >= 2
    assert loaded == runs  # each of them once


def test_bad_requests_are_one_line(tokens, tmp_path, capsys):
    other = write_tokens(tmp_path / "other", train=400, val=100, seed=3)
    runs = []
    for folder in (tokens, other):
        runs.append(tmp_path / f"run{len(runs)}")
        train(tiny_settings(folder, runs[-1], epochs=1))
    for words, expected in (
        ([*runs], "hold different tokens of one tokenizer"),
        ([runs[0], tmp_path / "nowhere"], "no such"),
        ([runs[0], runs[0], "--margin", "2"], "margin is 2; expected"),
        ([runs[0], runs[0], "--groups", "1"], "groups is 1; expected at least 2"),
        ([runs[0], runs[0], "--save", "table.xlsx"], "cannot be saved as '.xlsx'"),
        ([runs[0], runs[0], "--measures", "nc9"], "unknown measure 'nc9'"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["compare", *map(str, words)])
        said = capsys.readouterr().err
        assert ended.value.code == 2
        assert expected in said
        assert len(said.strip().splitlines()) == 1


def test_the_command_prints_the_rows(tokens, tmp_path, capsys):
    run = tmp_path / "run"
    train(tiny_settings(tokens, run, epochs=1))
    words = ["compare", str(run), str(run), "--min-count", "10", "--groups", "8"]
    cli.main([*words, "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["verdict"] for row in rows if row["low"] is not None} == {"no difference"}
    file = tmp_path / "x.csv"
    cli.main([*words, "--measures", *NAMES, "--save", str(file)])
    assert "no difference" in capsys.readouterr().out
    assert set(NAMES) < set(tf.read_csv(file).metric) < {row["metric"] for row in rows}


def held(draws):
    """How many paired intervals of a model and its noisy copy hold the true difference, and all."""
    rng = np.random.default_rng(0)
    n_classes, dim, n_documents = 40, 24, 300
    centres = rng.normal(size=(n_classes, dim))
    documents = np.repeat(np.arange(n_documents), 120)
    labels = rng.choice(n_classes, len(documents), p=np.arange(n_classes, 0, -1) / 820)
    shift = rng.normal(size=(n_documents, dim))
    embeddings = centres[labels] + 0.4 * shift[documents]
    embeddings = embeddings + rng.normal(size=embeddings.shape)
    other = embeddings @ (np.eye(dim) + 0.05 * rng.normal(size=(dim, dim)))
    other = other + 0.3 * rng.normal(size=other.shape)
    classifier = centres + 0.5 * rng.normal(size=centres.shape)
    both = [Sampled(x, labels, documents, classifier) for x in (embeddings, other)]
    counts = {name: [0, 0] for name in NAMES}
    for draw in draws:
        sides, truths = [], []
        for one in both:
            one.rng = np.random.default_rng([7, draw])
            moments = one.sample(120)
            weights = torch.as_tensor(one.classifier)
            geometry = Geometry(moments, weights, min_count=20)
            traits = [measure.traits for measure in choose(NAMES)]
            values = plain_values(traits, geometry)
            found = resample(values, traits, geometry, weights)
            fixed = survivors(moments.counts_by_group, plan_of(range(20)))
            truths.append(one.truth(NAMES, fixed & (moments.counts >= 20)))
            sides.append({q.name: (values[q.name].value, 40, r) for q, r in found})
        for name in NAMES:
            row = _compared("next", "last", name, sides[0][name], sides[1][name], 0.05)
            if not math.isnan(row.low):
                counts[name][1] += 1
                counts[name][0] += row.low <= truths[1][name] - truths[0][name] <= row.high
    return counts


def test_most_paired_intervals_hold_the_true_difference():
    for name, (inside, shown) in held(range(4)).items():
        assert shown >= 3, name
        assert inside >= shown - 1, name


@pytest.mark.slow
def test_ninety_five_percent_of_paired_intervals_hold_the_true_difference():
    # `pytest -m slow -s --timeout 1800 tests/test_compare.py` prints the shares.
    for name, (inside, shown) in held(range(300)).items():
        print(f"{name}: {inside / shown:.3f} of {shown}")
        error = 2 * math.sqrt(0.95 * 0.05 / shown)
        assert 0.93 - error <= inside / shown <= 0.97 + error, (name, inside, shown)
