import copy
import json
import math

import pytest
import torch

from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.geometry import MEASURES, metrics, rows
from tightframe.geometry.decisions import class_decisions
from tightframe.geometry.measures import DEFAULT
from tightframe.geometry.stream import class_moments
from tightframe.geometry.subject import model_facts
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.load import load_model
from tightframe.lm.loss import evaluate
from tightframe.lm.options import TrainOptions, TransformerConfig
from tightframe.lm.runs import Run
from tightframe.lm.training import train
from tightframe.lm.transformer import Transformer
from tightframe.results import gather, read_rows
from tightframe.settings import read_toml, write_toml
from tiny_runs import PLAIN, killed_at_write, measure_run, measured
from tiny_tokens import write_tokens

LOSSES = {"val_loss", "val_accuracy", "val_perplexity", "val_bits_per_byte"}
FLOORS = {"entropy_floor", "realised_floor"}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tiny")


@pytest.fixture(scope="module")
def trained(tokens, tmp_path_factory):
    """A run of 3 steps with checkpoints at 0 and 3."""
    settings = TrainOptions(
        tokens=tokens,
        out=tmp_path_factory.mktemp("runs") / "tiny-run",
        width=8,
        heads=2,
        depth=2,
        batch=8,
        checkpoints=(0.0,),
        precision="fp32",
        threads=1,
        device="cpu",
    )
    return train(settings)


@pytest.fixture
def run(trained, tmp_path):
    """The same without any results."""
    copy = tmp_path / "runs" / trained.name
    copy.mkdir(parents=True)
    for name in ("config.toml", "log.jsonl", "checkpoints"):
        (copy / name).symlink_to(trained.path / name)
    return Run.open(copy)


def model(vocab_size=23):
    config = TransformerConfig(vocab_size=vocab_size, width=8, depth=1, heads=2, positions=16)
    return Transformer(config, seed=1, name="foreign")


def values(path):
    return {row.metric: row.value for row in read_rows(path)[1]}


def test_a_run_is_measured_into_rows(run, tokens):
    path = measure_run(run.path)
    assert path.parent == run.path / "results"
    assert path.name.startswith("step-3-")
    _, rows = read_rows(path)
    assert {row.metric for row in rows} == {*DEFAULT, *LOSSES}
    found = {row.metric: row for row in rows}
    for row in rows:
        assert (row.run, row.step, row.layer) == ("tiny-run", 3, 2)
        assert (row.labels, row.subset) == ("next", "all")
        on_validation = row.metric.startswith(("nc4_", "ncc_", "val_"))
        assert row.split == ("val" if on_validation else "train")
        assert row.min_count == (2 if row.metric.endswith(("_db", "_dbg")) else 1)
    shards = TokenShards.open(tokens)
    loaded = load_model(run.path)
    moments = class_moments(loaded, shards.split("train"))
    decisions = class_decisions(loaded, shards.split("val"), moments)
    for name, value in metrics(moments, loaded.classifier, decisions).items():
        row = found[name]
        assert (row.n, row.excluded, row.reason) == (value.n, value.excluded, value.reason)
        assert row.value == pytest.approx(value.value, rel=1e-10, nan_ok=True)
    scores = evaluate(loaded, shards.split("val"))
    assert found["val_loss"].value == pytest.approx(scores.loss, rel=1e-6)
    assert found["val_accuracy"].value == scores.accuracy
    assert found["val_perplexity"].value == pytest.approx(math.exp(scores.loss), rel=1e-6)
    assert found["val_loss"].n == shards.split("val").n_labels


def test_the_header_says_what_was_measured_by_what(run, tokens):
    header, _ = read_rows(measure_run(run.path, min_count=2))
    shards = TokenShards.open(tokens)
    assert header.model["name"] == "tiny-run"
    assert header.model["n_parameters"] == load_model(run.path).n_parameters
    assert (header.model["width"], header.model["depth"], header.model["tied"]) == (8, 2, True)
    n_classes = int((shards.split("train").label_counts() >= 2).sum())
    assert header.model["n_classes"] == n_classes
    assert header.model["classes_per_dimension"] == n_classes / 8
    assert header.tokens["fingerprint"] == shards.fingerprint
    assert header.tokens["train_labels"] == shards.split("train").n_labels
    shares = shards.split("train").label_counts().numpy() / shards.split("train").n_labels
    entropy = -sum(share * math.log(share) for share in shares.tolist() if share)
    assert header.tokens["unigram_entropy"] == pytest.approx(entropy, rel=1e-12)
    assert (header.settings["seed"], header.settings["width"]) == (0, 8)
    measurement = header.measurement
    key = {"labels": "next", "min_count": 2, "groups": 1, "project": None, "matched": False}
    key |= {"skip_positions": 0, "skip_special": False, "precision": "fp32"}
    assert key.items() <= measurement.items()
    assert (measurement["dtype"], measurement["device"]) == ("float32", "cpu")
    assert measurement["threads"] == 1


def test_a_finished_measurement_is_not_done_again(run, monkeypatch):
    path = measure_run(run.path)
    before = path.read_bytes()
    monkeypatch.setattr("tightframe.geometry.study._passes", None)
    assert measure_run(run.path) == path
    assert path.read_bytes() == before


def test_further_measures_are_added_to_the_file_and_no_value_is_computed_again(run, monkeypatch):
    first = measured(run.path, measures=["nc1_cdnv", "nc1_cdnv_db"], **PLAIN)
    assert first.n_computed == len(first.rows) == 2 + len(LOSSES)
    before = first.path.read_text().splitlines()
    asked = []
    monkeypatch.setattr(
        rows, "metrics", lambda *a, **k: asked.extend(k["measures"]) or metrics(*a, **k)
    )
    names = ["nc1_cdnv", "nc1_cdnv_db", "nc1_pinv", "nc4_hits"]
    second = measured(run.path, measures=names, **PLAIN)
    assert (second.path, second.n_computed) == (first.path, 2)
    assert sorted(asked) == ["nc1_pinv", "nc4_hits"]
    assert second.path.read_text().splitlines()[1 : len(before)] == before[1:]
    assert {row.metric for row in second.rows} == {*names, *LOSSES}
    # What was not requested is in the file, but not in the result.
    third = measured(run.path, measures=["nc1_pinv"], **PLAIN)
    assert third.n_computed == 0
    assert {row.metric for row in third.rows} == {"nc1_pinv", *LOSSES}
    # Other classes are another measurement; a debiased variance needs two samples in any case.
    other = measured(run.path, measures=["nc1_cdnv", "nc1_cdnv_db"], **PLAIN | {"min_count": 2})
    assert other.path != first.path
    frame = gather([first.path, other.path])
    assert len(frame) == len(names) + len(LOSSES) + 1


def test_a_killed_writer_leaves_the_file_as_it_was(run, monkeypatch):
    path = measure_run(run.path, measures=["nc1_cdnv"])
    before = path.read_bytes()
    for number in (1, 2):
        with killed_at_write(monkeypatch, number) as died:
            measure_run(run.path, measures=["nc1_cdnv", "nc1_pinv"])
        assert path.read_bytes() == before or not died
    measure_run(run.path, measures=["nc1_cdnv", "nc1_pinv"])
    assert set(values(path)) == {"nc1_cdnv", "nc1_pinv", *LOSSES}


def test_published_columns_are_added_to_what_was_measured_before(run):
    measure_run(run.path, measures=["nc1_cdnv_p2", "nc3_cos_mean"])
    found = values(measure_run(run.path, measures=["nc1_cdnv_p2"], compat=["lc-2024-10"]))
    assert found["compat10.cdnv"] == found["nc1_cdnv_p2"]
    assert found["compat10.simcos_mean"] == found["nc3_cos_mean"]


def test_scatter_is_kept_for_the_measures_that_need_it(run):
    found = values(measure_run(run.path, measures=["all"]))
    for name in ("nc1_pinv", "nc1_pinv_tok", "rank_pr_within"):
        assert math.isfinite(found[name]), name
    assert set(found) == {*(m.name for m in MEASURES), *LOSSES}


def test_each_checkpoint_has_a_file_of_its_own(run):
    start, end = measure_run(run.path, step=0), measure_run(run.path, step=3)
    assert start.name.startswith("step-0-")
    assert values(start)["val_loss"] != values(end)["val_loss"]
    with pytest.raises(UserError, match="no checkpoint of step 2"):
        measure_run(run.path, step=2)


def test_other_tokens_have_a_file_of_their_own(run, tmp_path):
    other = write_tokens(tmp_path / "other", seed=1)
    first, second = measure_run(run.path), measure_run(run.path, other)
    assert first != second
    assert set(values(first)) == set(values(second))


def test_tokens_that_changed_since_the_training_are_refused(tmp_path, trained):
    run = tmp_path / "run"
    (run / "results").mkdir(parents=True)
    (run / "checkpoints").symlink_to(trained.path / "checkpoints")
    other = write_tokens(tmp_path / "other", seed=1)
    settings = read_toml(trained.path / "config.toml")
    write_toml(run / "config.toml", settings | {"tokens": str(other)})
    (run / "log.jsonl").write_text((trained.path / "log.jsonl").read_text())
    with pytest.raises(UserError, match=r"other: holds tokens \w+, but .*run was trained on \w+"):
        measure_run(run)


def test_the_entropy_floor_stands_beside_the_loss_where_it_is_known(run, tokens):
    assert "entropy_floor" not in values(measure_run(run.path, measures=["rank_pr"]))
    shards = TokenShards.open(tokens)
    shards.manifest["fingerprint"] = "of others"
    shards.manifest["entropy_floor"] = {
        "mean_conditional_entropy": 1.25,
        "realised_nll": 1.5,
        "positions": 20,
        "standard_error": 0.1,
    }
    _, rows = read_rows(measure_run(run.path, shards, measures=["rank_pr"]))
    found = {row.metric: (row.split, row.value, row.n) for row in rows}
    assert found["entropy_floor"] == ("val", 1.25, 20)
    assert found["realised_floor"] == ("val", 1.5, 20)


def test_a_model_from_elsewhere_goes_where_it_is_told(tokens, tmp_path):
    path = measure_run(model(), tokens, out=tmp_path / "out", measures=["nc3_cos_mean"])
    assert path.parent == tmp_path / "out" / "results"
    header, rows = read_rows(path)
    assert (header.run, header.step, header.settings) == ("foreign", 0, {})
    assert {row.run for row in rows} == {"foreign"}
    (tmp_path / "runs" / "foreign").mkdir(parents=True)
    (tmp_path / "runs" / "foreign" / "config.toml").write_text("")
    with pytest.raises(UserError, match="runs/foreign: belongs to a run; say with `out` where"):
        measure_run(model(), tokens, out=tmp_path / "runs" / "foreign")
    with pytest.raises(UserError, match="foreign: not a run directory; say on which tokens"):
        measure_run(model(), out=tmp_path / "out")


def test_precision_is_part_of_a_measurement(run):
    exact = measure_run(run.path, measures=["nc3_cos_mean"])
    rounded = measure_run(run.path, measures=["nc3_cos_mean"], precision="bf16")
    assert exact != rounded
    assert values(rounded)["nc3_cos_mean"] == pytest.approx(values(exact)["nc3_cos_mean"], abs=0.02)
    assert read_rows(rounded)[0].measurement["precision"] == "bf16"


def test_a_vocabulary_that_the_model_does_not_know_is_refused(tokens, tmp_path):
    with pytest.raises(UserError, match="foreign knows 20 tokens, but the corpus has token 22"):
        measure_run(model(vocab_size=20), tokens, out=tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_misspelt_measure_is_refused_before_anything_is_loaded():
    with pytest.raises(UserError, match="unknown measure 'rank'"):
        measure_run("runs/none", measures=["rank"])


def test_progress_goes_through_both_splits(tokens, tmp_path):
    seen = []
    measure_run(
        model(),
        tokens,
        out=tmp_path,
        measures=["rank_pr"],
        shown=lambda *step: seen.append(step[:3]),
    )
    shards = TokenShards.open(tokens)
    for name, stage in (("train", "training split"), ("val", "validation split")):
        last = [step for step in seen if step[0] == stage][-1]
        assert last[1:] == (1.0, shards.split(name).n_blocks * shards.block)


def test_rows_are_strict_json(run):
    for line in measure_run(run.path, measures=["all"]).read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(word))


def test_threads_are_those_of_the_run_and_as_before_afterwards(run):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        header, _ = read_rows(measure_run(run.path, measures=["rank_pr"]))
        assert header.measurement["threads"] == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def gpt2(tied):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=32,  # the tokens have 23
        n_embd=8,
        n_layer=3,
        n_head=2,
        n_positions=16,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=tied,
    )
    return transformers.GPT2LMHeadModel(config)


def test_weights_stored_in_16_bits_make_no_forward_pass_in_16_bits_unasked(tokens, tmp_path):
    stored = gpt2(tied=True).bfloat16()
    stored.save_pretrained(tmp_path / "half")
    wide = HuggingFaceModel(copy.deepcopy(stored).float().eval(), name="half")
    exact = values(measure_run(wide, tokens, out=tmp_path / "wide"))
    path = measure_run(tmp_path / "half", tokens, out=tmp_path / "fp32")
    assert values(path) == pytest.approx(exact, rel=1e-6, nan_ok=True)  # no groups, no `_dbg`
    assert read_rows(path)[0].model["dtype"] == "float32"
    asked = {"precision": "bf16", "out": tmp_path / "bf16"}
    rounded = measure_run(tmp_path / "half", tokens, **asked)
    assert values(rounded)["nc1_quotient"] != pytest.approx(exact["nc1_quotient"], rel=1e-6)
    assert read_rows(rounded)[0].model["dtype"] == "bfloat16"


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_of_transformers_is_described_in_the_same_words(tied, tokens):
    foreign = HuggingFaceModel(gpt2(tied), name="foreign")
    facts = model_facts(foreign.to(torch.bfloat16), TokenShards.open(tokens))
    assert facts == {
        "architecture": "GPT2LMHeadModel",
        "n_parameters": foreign.n_parameters,
        "vocab_size": 32,
        "padding_rows": 9,
        "width": 8,
        "depth": 3,
        "tied": tied,
        "dtype": "bfloat16",
    }
