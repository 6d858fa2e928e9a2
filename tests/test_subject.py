"""What text is measured on, and by whose tokenizer it becomes tokens."""

import json
import shutil

import pytest

from tightframe import cli
from tightframe.corpus import build
from tightframe.corpus.tokenizer import train_bpe
from tightframe.errors import UserError
from tightframe.geometry.classes import measure_classes
from tightframe.geometry.options import ClassesOptions, InputOptions
from tightframe.geometry.subject import Subject
from tightframe.lm.checkpoints import export_gpt_neo
from tightframe.lm.options import TransformerConfig
from tightframe.lm.training import train
from tightframe.lm.transformer import Transformer
from tiny_runs import tiny_settings

CONTENT = (
    "\n\n".join(f"Anne saw dog {i % 7}.\nAnd cat {i % 5} saw Anne." for i in range(120)) + "\n"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A text in several forms, and a model as `Trainer` saves it without a tokenizer."""
    place = tmp_path_factory.mktemp("place")
    (place / "novel.txt").write_text(CONTENT)
    (place / "novel.md").write_text(CONTENT)
    record = json.dumps({"content": CONTENT, "id": 3})
    (place / "novel.jsonl").write_text(record + "\n")
    tokenizer = train_bpe([CONTENT], 276)
    shape = {"width": 8, "depth": 1, "heads": 2, "positions": 32}
    model = Transformer(TransformerConfig(vocab_size=276, **shape), seed=0)
    export_gpt_neo(model, place / "base", tokenizer)
    shutil.copytree(place / "base", place / "mine" / "checkpoint-20")
    for file in (place / "mine" / "checkpoint-20").glob("tokenizer*"):
        file.unlink()
    shutil.copytree(place / "mine", place / "ours")
    for file in (place / "base").glob("tokenizer*"):
        shutil.copy(file, place / "ours")
    narrow = Transformer(TransformerConfig(vocab_size=260, **shape), seed=0)
    export_gpt_neo(narrow, place / "narrow", train_bpe([CONTENT], 260))
    return place


def _tokens(place, model, tmp_path, file="novel.txt", **options):
    subject = Subject.of(place / model, out=tmp_path)
    return subject.tokens(InputOptions(text=place / file, **options))


def _content(shards):
    """What the tokens of both splits say, with the ends of documents as they are marked."""
    text = ""
    for name in ("train", "val"):
        split = shards.split(name)
        rows, lengths = split.rows(range(len(split)))
        ids = [token for row, n in zip(rows.tolist(), lengths, strict=True) for token in row[:n]]
        text += shards.tokenizer.decode(ids, skip_special_tokens=False)
    return text


def test_a_file_is_read_as_it_is_by_default(place, tmp_path):
    shards = _tokens(place, "base", tmp_path)
    assert _content(shards) == CONTENT
    # The loss of this text by hand: bits of its tokens over bytes of it.
    split = shards.split("val")
    val = CONTENT[CONTENT.index("\n", int(0.9 * len(CONTENT))) + 1 :]
    n_tokens = len(shards.tokenizer.encode(val, add_special_tokens=False).ids)
    nats = 2.5
    bits = nats * n_tokens / 0.6931471805599453 / len(val)
    assert split.bits_per_byte(nats) == pytest.approx(bits, rel=1e-12)
    # A .md file and a record are read in the same way.
    assert _content(_tokens(place, "base", tmp_path, "novel.md")) == CONTENT
    record = _tokens(place, "base", tmp_path, "novel.jsonl", field="content")
    assert _content(record) == CONTENT


def test_paragraphs_are_parted_by_an_end_of_text(place, tmp_path):
    shards = _tokens(place, "base", tmp_path, documents="paragraphs")
    parts = _content(shards).replace("Anne.Anne", "Anne.<|endoftext|>Anne").split("<|endoftext|>")
    assert "\n\n".join(parts) + "\n" == CONTENT


@pytest.mark.parametrize("documents", ["paragraphs", "files"])
def test_a_run_reads_a_text_as_the_text_was_that_it_was_trained_on(place, tmp_path, documents):
    trained = build(
        place / "novel.txt", out=tmp_path / "x", vocab_size=276, block=32, documents=documents
    )
    run = train(tiny_settings(trained.path, tmp_path / "run", epochs=1)).path
    subject = Subject.of(run)
    text = InputOptions(text=place / "novel.txt")
    said = []
    shards = subject.tokens(text, say=said.append)
    assert shards.manifest["source"]["documents"] == documents
    ends = _content(shards).count("<|endoftext|>")
    assert ends > 110 if documents == "paragraphs" else ends <= 2
    line = (
        f"run: was trained on paragraphs, so {place / 'novel.txt'} is cut at blank lines; "
        "--documents files reads it whole"
    )
    assert said == ([line] if documents == "paragraphs" else [])
    # What is asked for is done, and not remarked upon.
    other = InputOptions(text=place / "novel.txt", documents="files")
    said.clear()
    asked = subject.tokens(other, say=said.append)
    assert asked.manifest["source"]["documents"] == "files"
    assert said == []


def test_a_field_that_is_missing_is_asked_for_by_its_option(place, tmp_path):
    with pytest.raises(UserError, match="but content, id; say with --field which one holds the"):
        _tokens(place, "base", tmp_path, "novel.jsonl")


def test_a_checkpoint_without_a_tokenizer_has_that_of_the_folder_above_or_one_given(
    place, tmp_path
):
    own = _tokens(place, "base", tmp_path / "base").fingerprint
    found = _tokens(place, "ours/checkpoint-20", tmp_path / "ours")
    assert found.fingerprint == own
    given = _tokens(place, "mine/checkpoint-20", tmp_path / "mine", tokenizer=place / "base")
    assert given.fingerprint == own
    with pytest.raises(UserError, match="checkpoint-20: holds no tokenizer; give that of the mode"):
        _tokens(place, "mine/checkpoint-20", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_model_in_memory_is_measured_with_a_tokenizer_that_is_given(place, tmp_path):
    model = Subject.of(place / "base", out=tmp_path).model
    subject = Subject.of(model, out=tmp_path)
    with pytest.raises(UserError, match="a model in memory has no tokenizer; give it with"):
        subject.tokens(InputOptions(text=place / "novel.txt"))
    shards = subject.tokens(InputOptions(text=place / "novel.txt", tokenizer=place / "base"))
    assert _content(shards) == CONTENT


def test_ids_that_the_model_does_not_know_are_refused(place, tmp_path):
    text = ClassesOptions(text=place / "novel.txt", tokenizer=place / "base", out=tmp_path)
    with pytest.raises(UserError, match=r"narrow knows 260 tokens, but the corpus has token 2[67]"):
        measure_classes(place / "narrow", text)


def test_words_are_looked_at_before_the_model_is_loaded(place, tmp_path, monkeypatch):
    monkeypatch.setattr("tightframe.geometry.subject.load_model", None)
    text = ClassesOptions(text=place / "novel.txt", words=("Lady",), out=tmp_path)
    with pytest.raises(UserError, match=r"'Lady' is no single token .*; common words here: Anne$"):
        measure_classes(place / "base", text)


def test_the_commands_take_the_options_of_a_text(place, tmp_path, capsys):
    on = ["--text", str(place / "novel.jsonl"), "--field", "content", "--out", str(tmp_path)]
    model = str(place / "ours" / "checkpoint-20")
    cli.main(
        ["measure", model, *on, "--groups", "1", "--min-count", "2", "--measures", "nc3_cos_mean"]
    )
    said = capsys.readouterr().err
    assert f"checkpoint-20: without a tokenizer of its own; that of {place / 'ours'} is" in said
    model = str(place / "mine" / "checkpoint-20")
    cli.main(["classes", model, *on, "--tokenizer", str(place / "base"), "--words", "Anne,Lady"])
    printed = capsys.readouterr()
    assert '" Anne"' in printed.out
    assert "'Lady' is no single token" in printed.err
    assert (
        len(list((tmp_path / "tokens").glob("*/manifest.json"))) == 1
    )  # of one text and tokenizer
