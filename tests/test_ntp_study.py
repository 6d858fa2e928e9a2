"""From a run, or a model from elsewhere, and a table's folder to results files."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from tokenizers import Tokenizer, models, processors

import tiny_models
from tightframe import cli
from tightframe.corpus.manifest import write_manifest
from tightframe.corpus.shards import TokenShards
from tightframe.corpus.tokenizer import save
from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.lm.checkpoints import load_checkpoint
from tightframe.lm.options import TrainOptions
from tightframe.lm.training import train
from tightframe.ntp import study
from tightframe.ntp.catalogue import MEASURES
from tightframe.ntp.comparison import compare_embeddings
from tightframe.ntp.model import collect
from tightframe.ntp.prediction import proxy
from tightframe.ntp.solution import load_solution
from tightframe.ntp.study import compare
from tightframe.ntp.svm import solve_svm
from tightframe.ntp.table import ContextTable, load_table, save_table, table_fingerprint
from tightframe.results import gather, read_rows, write_rows
from tiny_tokens import write_tokens

VOCAB = 23
WORDS = tuple(f"w{i}" for i in range(VOCAB))

# What solver and proxy say of tables this small: tokens that never follow, equal rows.
pytestmark = pytest.mark.filterwarnings("ignore:.*support")


def tokenizer(words=WORDS):
    return Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}))


def table_of(seed=0, words=WORDS, length=3):
    """Six contexts on three supports of three tokens, all of them tokens 0 to 7."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((6, 8), dtype=np.int64)
    for i, support in enumerate([(0, 1, 2), (2, 3, 4), (5, 6, 7)]):
        for j in (2 * i, 2 * i + 1):
            counts[j, support] = rng.integers(1, 5, 3)
    contexts = np.arange(6 * length).reshape(6, length) % VOCAB
    return ContextTable(
        contexts.astype(np.int32), sp.csr_array(counts), np.arange(8), words[:8], {"split": "train"}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tiny"
    write_tokens(path, vocab_size=VOCAB)
    save(tokenizer(), path / "tokenizer.json")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["tokenizer"]["sha256"] = sha256(path / "tokenizer.json")
    write_manifest(path, manifest)
    settings = TrainOptions(
        tokens=TokenShards.open(path).path,
        out=tmp_path_factory.mktemp("runs") / "run",
        width=8,
        depth=1,
        heads=2,
        batch=8,
        epochs=3,
        precision="fp32",
        threads=1,
        checkpoint_steps=(0, 4),
    )
    train(settings)
    return settings.out


@pytest.fixture
def folder(tmp_path):
    save_table(tmp_path / "ntp" / "x", table_of())
    return tmp_path / "ntp" / "x"


def solve(folder, gap=1e-6, name="a"):
    path = folder / "solutions" / f"{name}.safetensors"
    solution = solve_svm(load_table(folder).support, gap=gap)
    solution.save(path, {"table": table_fingerprint(folder)})
    return path


def paths_of(*args, **options):
    """Compare, and return the results files."""
    return list(compare(*args, **options).paths)


def values(path):
    return {row.metric: row.value for row in read_rows(path)[1]}


def test_every_checkpoint_of_a_run_has_its_rows_beside_the_table(run, folder):
    solve(folder)
    paths = paths_of(run, folder)
    assert [path.parent for path in paths] == [folder / "results" / "run"] * 3
    assert [path.name.split("-")[1] for path in paths] == ["0", "4", "9"]
    assert not list(run.glob("results/*"))  # what `report` of the run reads
    header, rows = read_rows(paths[1])
    assert [row.metric for row in rows] == [measure.name for measure in MEASURES]
    assert {(row.run, row.step, row.labels, row.subset, row.layer) for row in rows} == {
        ("run", 4, "support", "all", 1)
    }
    assert header.tokens["fingerprint"] == table_fingerprint(folder)
    assert header.measurement["solution"] == "a.safetensors"
    assert header.settings["width"] == 8
    assert len(gather(paths)) == 3 * len(MEASURES)


def test_rows_are_those_of_the_checkpoint_s_own_embeddings(run, folder):
    (path,) = paths_of(run, folder, step=4)
    model = load_checkpoint(run / "checkpoints" / "step-4")
    table = load_table(folder)
    found = collect(model, table)
    labels = table.soft_labels
    expected = compare_embeddings(
        found.classifier, found.embeddings, labels, None, proxy=proxy(labels.support)
    ).values
    rows = values(path)
    for name, value in expected.items():
        if name != "ntp_outside":
            assert rows[name] == pytest.approx(value.value, rel=1e-12, nan_ok=True), name
    # A token that the table leaves out has a share of the softmax.
    assert rows["ntp_outside"] == pytest.approx(labels.weights @ found.outside, rel=1e-12)
    assert rows["ntp_outside"] > 0


def test_what_is_done_is_not_done_again(run, folder, monkeypatch):
    first = paths_of(run, folder, step=4)
    content = first[0].read_text()
    every = paths_of(run, folder)
    assert every[1] == first[0]
    monkeypatch.setattr(study, "collect", None)  # no model is read any more
    assert paths_of(run, folder) == every
    assert first[0].read_text() == content


def test_a_run_that_was_killed_goes_on_where_it_was(run, folder, monkeypatch):
    class Killed(BaseException):
        pass

    def dies_at_step_9(*args):
        if args[0].name.startswith("step-9"):
            raise Killed
        write(*args)

    write = study.write_rows
    monkeypatch.setattr(study, "write_rows", dies_at_step_9)
    with pytest.raises(Killed):
        paths_of(run, folder)
    place = folder / "results" / "run"
    before = {path: path.stat().st_mtime_ns for path in place.glob("*.jsonl")}
    assert len(before) == 2
    monkeypatch.setattr(study, "write_rows", write)
    assert len(paths_of(run, folder)) == 3
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_a_solution_that_comes_later_adds_its_rows(run, folder):
    # Disjoint blocks of equal size would be exact; two of these supports share a token.
    (alone,) = paths_of(run, folder, step=4)
    before = values(alone)
    assert "ntp_rest_cos" not in before
    assert "ntp_rest_cos_proxy" in before
    solve(folder)
    (added,) = paths_of(run, folder, step=4)
    assert added == alone  # the union of both replaces the file
    assert list(values(added)) == [measure.name for measure in MEASURES]
    assert {name: values(added)[name] for name in before} == pytest.approx(before, nan_ok=True)
    assert len(gather([added])) == len(MEASURES)
    assert paths_of(run, folder, step=4) == [added]


def test_another_solution_is_refused_until_one_is_removed(run, folder):
    coarse, fine = load_solution(solve(folder, gap=0.1)), load_solution(solve(folder, name="b"))
    assert fine.gap < coarse.gap
    (folder / "solutions" / "b.safetensors").unlink()
    (path,) = paths_of(run, folder, step=4)
    solve(folder, name="b")
    words = r"compared with a.safetensors, but the solution of smallest gap is b"
    with pytest.raises(UserError, match=words):
        paths_of(run, folder, step=4)
    path.unlink()
    paths_of(run, folder, step=4)


def test_a_gap_in_a_header_is_one_that_the_arrays_give(run, folder):
    path = solve(folder, gap=0.1)
    solution = load_solution(path)
    source = {"table": table_fingerprint(folder)}
    dataclasses.replace(solution, lower=solution.upper).save(path, source)
    with pytest.raises(UserError, match=r"a.safetensors: says lower .*, but its arrays give"):
        paths_of(run, folder, step=4)
    assert not list(folder.glob("results/*/*"))
    solution.save(path, source)
    (written,) = paths_of(run, folder, step=4)
    header, rows = read_rows(written)
    assert header.measurement["gap"] == solution.gap > 0
    # Nor is a row's word taken for it when it is shown again.
    assert paths_of(run, folder, step=4) == [written]
    label = f"certified (gap {solution.gap:.1e})"
    assert any(row.reason.startswith(label) for row in rows)
    better = [
        dataclasses.replace(row, reason=row.reason.replace(label, "certified (gap 1.0e-09)"))
        for row in rows
    ]
    write_rows(written, header, better)
    with pytest.raises(
        UserError, match=r"beside what is certified \(gap 1.0e-09\), but it is cert"
    ):
        paths_of(run, folder, step=4)


def test_the_solution_that_is_compared_with_is_said(run, folder):
    said = []
    solve(folder)
    paths_of(run, folder, step=4, say=said.append)
    assert f"{folder}: compared with the solution a.safetensors" in said


def test_a_solution_of_another_table_is_refused(run, folder, tmp_path):
    save_table(tmp_path / "other", table_of(seed=1))
    path = solve(tmp_path / "other")
    (folder / "solutions").mkdir()
    path.rename(folder / "solutions" / path.name)
    with pytest.raises(UserError, match=r"solved for table \w{12}, but .*x holds \w{12}; remove"):
        paths_of(run, folder)


def test_an_exact_proxy_is_a_solution(run, tmp_path):
    # Disjoint blocks of equal size: S~ is optimal (spec 1.9).
    counts = np.kron(np.eye(2, dtype=np.int64), np.array([[1, 2], [2, 1], [3, 1]]))
    contexts = np.arange(18).reshape(6, 3).astype(np.int32)
    save_table(tmp_path / "x", ContextTable(contexts, sp.csr_array(counts), np.arange(4)))
    (path,) = paths_of(run, tmp_path / "x", step=9)
    rows = {row.metric: row for row in read_rows(path)[1]}
    assert rows["ntp_rest_cos"].value == pytest.approx(rows["ntp_rest_cos_proxy"].value, rel=1e-12)
    assert rows["ntp_rest_cos"].reason == "exact"


@pytest.mark.parametrize("name", ["phi", "gemma2"])
def test_any_causal_model_is_compared(name, folder, tmp_path):
    tiny_models.save(name, tmp_path / name)
    said = []
    (path,) = paths_of(tmp_path / name, folder, say=said.append)
    header, rows = read_rows(path)
    assert path.parent == folder / "results" / name
    assert header.settings == {}
    assert header.model["bias"] == (name == "phi")
    assert header.model["finish"] == (name == "gemma2")
    assert all(np.isfinite(row.value) for row in rows)
    assert paths_of(tmp_path / name, folder) == [path]
    # Another model of the name is not taken for it.
    with torch.no_grad():
        tiny_models.save(name, tmp_path / "b" / name, seed=5)
    with pytest.raises(UserError, match=f"is of another model of the name {name}; give `out`"):
        paths_of(tmp_path / "b" / name, folder)


def test_contexts_begin_as_the_model_s_tokenizer_begins_a_text(folder, tmp_path):
    tiny_models.save("llama", tmp_path / "llama")
    words = tokenizer()
    words.add_special_tokens(["<s>"])
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", VOCAB)]
    )
    save(words, tmp_path / "llama" / "tokenizer.json")
    (begun,) = paths_of(tmp_path / "llama", folder)
    (bare,) = paths_of(tmp_path / "llama", folder, bos="never", out=tmp_path / "bare")
    assert [read_rows(path)[0].measurement["bos"] for path in (begun, bare)] == [VOCAB, None]
    assert values(begun)["ntp_excess"] != values(bare)["ntp_excess"]
    with pytest.raises(UserError, match=f"measured with bos {VOCAB}, not None; remove it, or give"):
        paths_of(tmp_path / "llama", folder, bos="never")


def test_the_seed_decides_the_baseline_alone(run, folder, tmp_path):
    (a,) = paths_of(run, folder, step=9)
    (same,) = paths_of(run, folder, step=9, out=tmp_path / "same")
    (other,) = paths_of(run, folder, step=9, seed=1, out=tmp_path / "other")
    assert values(a) == pytest.approx(values(same), nan_ok=True)
    differ = {name for name in values(a) if values(a)[name] != values(other)[name]}
    assert differ == {measure.name for measure in MEASURES if measure.reference == "shuffled"}


def test_tokens_of_another_tokenizer_are_refused(run, tmp_path):
    save_table(tmp_path / "x", table_of(words=(*WORDS[:2], "other", *WORDS[3:])))
    with pytest.raises(UserError, match="token 2 is 'other' here and 'w2' in the model; make it"):
        paths_of(run, tmp_path / "x")


def test_what_does_not_fit_is_refused_before_anything_is_written(run, folder, tmp_path):
    with pytest.raises(UserError, match="no such folder; make a table with `tightframe ntp count`"):
        paths_of(run, tmp_path / "nothing")
    with pytest.raises(UserError, match="has no checkpoint of step 5; it has 0, 4, 9"):
        paths_of(run, folder, step=5)
    tiny_models.save("gpt2", tmp_path / "gpt2")
    with pytest.raises(UserError, match="gpt2: is no run directory, so it has no step 3"):
        paths_of(tmp_path / "gpt2", folder, step=3)
    save_table(tmp_path / "long", table_of(length=12))
    with pytest.raises(UserError, match="a context of the table has 12 tokens, but model run has"):
        paths_of(run, tmp_path / "long")
    full = table_of()
    everything = sp.csr_array(np.ones(full.counts.shape, dtype=np.int64))
    save_table(tmp_path / "full", dataclasses.replace(full, counts=everything))
    with pytest.raises(UserError, match="full: support: all tokens follow every context; nothing"):
        paths_of(run, tmp_path / "full")
    assert not list(folder.rglob("*.jsonl"))
    assert not list((tmp_path / "long").rglob("*.jsonl"))


def test_the_command_prints_the_last_checkpoint(run, folder, capsys):
    cli.main(["ntp", "compare", str(run), "--table", str(folder)])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].split() == ["value", "proxy", "shuffled"]
    (cosine,) = (line for line in lines if line.startswith("ntp_rest_cos "))
    assert len(cosine.split()) == 3  # no solution: the proxy and the baseline alone
    assert "run at step 9 on x: 6 contexts, 8 tokens, 3 checkpoints" in printed.err
    cli.main(["ntp", "compare", str(run), "--table", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found["results"]) == 3
    assert {row["step"] for row in found["rows"]} == {0, 4, 9}


def test_a_mistake_is_one_line(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["ntp", "compare", str(run), "--table", str(tmp_path / "nothing")])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_model_in_memory_is_compared(run, folder):
    model = load_checkpoint(run / "checkpoints" / "step-9")
    model.name = "mine"
    (path,) = paths_of(model, folder)
    (own,) = paths_of(run, folder, step=9)
    assert path.parent.name == "mine"
    assert values(path) == pytest.approx(values(own), nan_ok=True)
    assert dataclasses.asdict(read_rows(path)[0])["step"] == 0


def test_what_is_true_of_every_checkpoint_is_said_once(run, folder, monkeypatch):
    original = study.compare_embeddings

    def warning(*given, **options):
        warnings.warn("too few dimensions", UserWarning, stacklevel=2)
        return original(*given, **options)

    monkeypatch.setattr(study, "compare_embeddings", warning)
    told = []
    assert len(paths_of(run, folder, shuffles=1, say=told.append)) > 1
    assert told.count("too few dimensions") == 1
