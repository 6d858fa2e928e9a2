import json

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import scipy.sparse as sp
from scipy.stats import chi2

from reference import contexts as reference
from reference.stories import next_token_distributions
from test_counting import as_dict, draw_documents
from tightframe.corpus.grammar import parse
from tightframe.corpus.stories import END, Grammar
from tightframe.errors import UserError
from tightframe.formats import write_listed, write_signed
from tightframe.ntp import ContextTable, count, load_table
from tightframe.ntp.table import count_supports, save_table

pytestmark = pytest.mark.filterwarnings("ignore:.*(occur, and such|single token)")

SMALL = """
== characters ==
[girl] they=she
    Ada Mia Zoe
== objects ==
[toy]
    ball doll kite drum
<story>
    3: [hero=girl] had a [thing=toy] . <end>
    [hero=girl] sat down .
<end>
    {hero.they} liked the {thing} .
    she left .
"""


@pytest.fixture
def table():
    return count(draw_documents(), 2)


@pytest.mark.parametrize("length", [2, "all"])
def test_tables_of_two_texts_merge_to_that_of_both(length):
    documents = draw_documents()
    whole = count(documents, length, vocab_size=6)
    parts = [count(part, length, vocab_size=6) for part in (documents[:9], documents[9:])]
    for first, second in (parts, parts[::-1]):
        merged = first.merged(second)
        assert np.array_equal(merged.contexts, whole.contexts)
        assert (merged.counts != whole.counts).nnz == 0
        assert merged.counts.data.dtype == np.int64


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: count(draw_documents(), 2, vocab_size=5), "its tokens are not those"),
        (lambda: count(draw_documents(), 3), "contexts of length 3, expected 2"),
        (lambda: count(draw_documents(), 2, min_count=3), "left out by min_count"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(table, other, message):
    with pytest.raises(ValueError, match=message):
        table.merged(other())


def test_a_table_of_some_contexts_and_tokens(table):
    expected = reference.count(draw_documents(), 2)
    some = table.of_contexts(np.array([3, 1]))
    assert [tuple(row) for row in some.contexts.tolist()] == [
        tuple(table.contexts[3]),
        tuple(table.contexts[1]),
    ]
    assert all(expected[context] == following for context, following in as_dict(some).items())
    two = table.of_tokens(np.array([2, 4]))
    kept = {c: {z: n for z, n in f.items() if z in (2, 4)} for c, f in expected.items()}
    assert as_dict(two) == {context: f for context, f in kept.items() if f}
    assert two.tokens.tolist() == [2, 4]
    with pytest.raises(ValueError, match="no context is followed by any of these"):
        table.of_tokens(np.array([0]))  # no document has it


def test_the_report_counts_supports_and_their_sizes(table):
    following = reference.count(draw_documents(), 2).values()
    supports = {frozenset(f) for f in following}
    report = table.report()
    assert report["n_supports"] == len(supports) == table.n_supports
    sizes = [len(f) for f in following]
    assert report["support_sizes"] == {str(k): sizes.count(k) for k in sorted(set(sizes))}
    assert report["n_tokens_used"] == 5
    assert report["density"] == pytest.approx(sum(sizes) / (len(sizes) * 6), rel=1e-14)
    assert report["empirical_entropy"] == table.empirical_entropy


def test_supports_are_counted_as_sets():
    rng = np.random.default_rng(0)
    dense = rng.integers(0, 2, (500, 6)) * rng.integers(1, 9, (500, 6))
    dense[:, 0] = 1
    assert count_supports(sp.csr_array(dense)) == len(np.unique(dense > 0, axis=0))


def test_a_context_reads_as_text():
    counts = sp.csr_array(np.array([[1, 1], [1, 0]]))
    contexts = np.array([[-1, 1], [0, 1]], dtype=np.int32)
    tokens = np.arange(2, dtype=np.int64)
    table = ContextTable(contexts, counts, tokens)
    assert [table.text(0), table.text(1)] == ["1", "0 1"]
    words = ContextTable(contexts, counts, tokens, vocabulary=("once", "upon"))
    assert [words.text(0), words.text(1)] == ["upon", "once upon"]
    pieces = ContextTable(contexts, counts, tokens, vocabulary=(" on", "ce"))
    assert pieces.text(1) == " once"


def test_a_table_comes_back_from_disk_as_it_was(table, tmp_path):
    save_table(tmp_path / "x", table)
    again = load_table(tmp_path / "x")
    assert as_dict(again) == as_dict(table)
    assert np.array_equal(again.contexts, table.contexts)
    assert (again.words, again.vocabulary) == (table.words, table.vocabulary)
    assert again.source == table.source
    read = pd.read_parquet(tmp_path / "x" / "contexts.parquet")
    assert read["n"].tolist() == table.context_counts.tolist()
    first = as_dict(table)[tuple(table.contexts[0].tolist())]
    assert read["context"][0] == " ".join(map(str, table.contexts[0]))
    assert dict(zip(map(int, read["next"][0]), read["next_n"][0], strict=True)) == first
    assert read["support"].sum() == table.counts.nnz
    assert read["entropy"].to_numpy() == pytest.approx(table.soft_labels.entropies, abs=1e-15)


def damaged(folder):
    path = folder / "table.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damaged, "table.safetensors: damaged or changed"),
        (
            lambda folder: (folder / "table.safetensors").unlink(),
            "table.safetensors: no such file; make the table",
        ),
        (lambda folder: (folder / "manifest.json").unlink(), "holds no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "revision is missing"),
        (
            lambda folder: (folder / "manifest.json").write_text('{"revision": 9, "sha256": ""}'),
            "revision is 9: expected 1; make the table again",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text(
                (folder / "manifest.json").read_text().replace('"min_count": 1', '"min_count": 2')
            ),
            "manifest.json: damaged or changed",
        ),
    ],
)
def test_a_folder_that_is_no_whole_table_is_refused(table, tmp_path, harm, message):
    save_table(tmp_path / "x", table)
    harm(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        load_table(tmp_path / "x")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("next", lambda x: np.append(x[:-1], -1), "holds next tokens -1"),
        ("next", lambda x: np.append(x[:-1], 99), "next tokens .*99 of 6"),
        ("starts", lambda x: x[::-1].copy(), "starts that don't rise from 0"),
        ("starts", lambda x: x[:-1], "starts of"),
        ("counts", lambda x: -x, "tensor 'counts' is int64"),
    ],
)
def test_a_table_signed_as_ours_with_indices_out_of_range_is_refused(
    table, tmp_path, name, values, message
):
    # scipy would follow such an index out of its arrays.
    save_table(tmp_path / "x", table)
    arrays = safetensors.numpy.load_file(tmp_path / "x" / "table.safetensors")
    arrays[name] = values(arrays[name])
    content = json.loads((tmp_path / "x" / "manifest.json").read_text())
    content["sha256"] = write_listed(tmp_path / "x" / "table.safetensors", arrays)
    write_signed(tmp_path / "x" / "manifest.json", content, besides=("version", "report"))
    with pytest.raises(UserError, match=message):
        load_table(tmp_path / "x")


def test_missing_and_existing_folders_are_refused(table, tmp_path):
    with pytest.raises(UserError, match="no such folder; make a table with"):
        load_table(tmp_path / "x")
    save_table(tmp_path / "x", table)
    with pytest.raises(UserError, match="already exists"):
        save_table(tmp_path / "x", table)


def test_counts_of_generated_stories_agree_with_the_exact_distributions():
    # After every whole beginning the counts are multinomial draws from the grammar's
    # distribution: their G statistics sum to a chi-squared with sum(k - 1) degrees of freedom,
    # and a fixed seed decides; beyond the 99.9 % quantile the distributions would be others.
    grammar = Grammar(text=SMALL)
    ids = {word: index for index, word in enumerate(grammar.words)}
    stories = [[ids[word] for word in (*s, END)] for s in grammar.generate(20_000, seed=1)]
    table = count(stories, "all", min_context=50, vocab_size=len(ids))
    every = next_token_distributions(parse(SMALL), 0)
    statistic, freedom = 0.0, 0
    for row, context in enumerate(table.contexts):
        told = [grammar.words[token] for token in context if token >= 0]
        exact = grammar.next_token_distribution(told)
        assert exact == pytest.approx(every[tuple(told)], rel=1e-12)
        observed = {grammar.words[z]: n for z, n in zip(*entries(table, row), strict=True)}
        assert observed.keys() <= exact.keys()  # nothing occurs that cannot
        n = sum(observed.values())
        statistic += 2 * sum(o * np.log(o / (n * exact[word])) for word, o in observed.items())
        freedom += len(exact) - 1
    assert freedom > 20
    assert chi2.ppf(0.001, freedom) < statistic < chi2.ppf(0.999, freedom)
    floor = weighted_floor(table, grammar)
    # Fitted distributions are surer than the true ones: lower by freedom / 2n on average.
    assert table.empirical_entropy < floor + 0.01
    assert table.empirical_entropy == pytest.approx(floor, abs=0.01)


def weighted_floor(table, grammar):
    total = 0.0
    for weight, context in zip(table.soft_labels.weights, table.contexts, strict=True):
        told = [grammar.words[token] for token in context if token >= 0]
        shares = np.array(list(grammar.next_token_distribution(told).values()))
        total -= weight * (shares * np.log(shares)).sum()
    return total


def entries(table, row):
    place = slice(table.counts.indptr[row], table.counts.indptr[row + 1])
    return table.counts.indices[place], table.counts.data[place]


def test_usual_stories_have_no_next_token_that_the_grammar_cannot_tell():
    grammar = Grammar()
    ids = {word: index for index, word in enumerate(grammar.words)}
    stories = [[ids[word] for word in (*s, END)] for s in grammar.generate(30_000, seed=3)]
    table = count(stories, "all", max_length=6, min_context=8)
    assert table.n_contexts > 10
    for row, context in enumerate(table.contexts):
        told = [grammar.words[token] for token in context if token >= 0]
        exact = grammar.next_token_distribution(told)
        assert {grammar.words[z] for z in entries(table, row)[0]} <= exact.keys()
