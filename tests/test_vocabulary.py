import json
import shutil

import pytest
from tokenizers import Tokenizer, decoders, models, processors

from tightframe.corpus import model_tokenizer
from tightframe.corpus.manifest import write_manifest
from tightframe.corpus.model_tokenizer import ModelTokenizer
from tightframe.corpus.shards import TokenShards
from tightframe.corpus.tokenizer import save
from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.lm.load import beginning_of_sequence, check_tokenizer, check_words
from tightframe.lm.runs import log_text
from tiny_tokens import write_tokens

WORDS = [f"w{i}" for i in range(23)]


def tokenizer(words):
    return Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}))


def shards_of(path, words=WORDS):
    """Random tokens that say they are of these words."""
    write_tokens(path)
    save(tokenizer(words), path / "tokenizer.json")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["tokenizer"]["sha256"] = sha256(path / "tokenizer.json")
    write_manifest(path, manifest)
    return TokenShards.open(path)


def model_of(folder, words):
    """A folder of a model: its tokenizer is all that matters here."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save(tokenizer(words), folder / "tokenizer.json")
    return folder


def run_on(folder, tokens):
    """A run directory: its settings and the first line of its log."""
    folder.mkdir()
    (folder / "config.toml").write_text(f'tokens = "{tokens.path}"\nout = "{folder}"\n')
    facts = {"kind": "start", "steps": 1, "tokens": tokens.fingerprint}
    (folder / "log.jsonl").write_text(log_text([facts]))
    return folder


def refused(source, shards, message):
    with pytest.raises(UserError, match=message) as caught:
        check_tokenizer(source, shards)
    assert str(caught.value).startswith(f"{shards.path}: not tokenized as {source} expects: token ")
    assert "\n" not in str(caught.value)


def test_tokens_of_the_model_s_own_tokenizer_are_taken(tmp_path):
    shards = shards_of(tmp_path / "tokens")
    check_tokenizer(model_of(tmp_path / "same", WORDS), shards)
    check_tokenizer(str(model_of(tmp_path / "more", [*WORDS, "<pad>"])), shards)


def test_the_first_token_of_another_id_is_named_with_both(tmp_path):
    shards = shards_of(tmp_path / "tokens")
    swapped = model_of(tmp_path / "swapped", [*WORDS[:7], "w8", "w7", *WORDS[9:]])
    refused(swapped, shards, "token 'w7' has id 7 in these tokens and id 8 in the model; build")
    fewer = model_of(tmp_path / "fewer", WORDS[:20])
    refused(fewer, shards, "token 'w20' has id 20 in these tokens and none in the model; build")


def test_a_model_without_a_tokenizer_is_believed(tmp_path):
    folder = model_of(tmp_path / "model", WORDS[::-1])
    (folder / "tokenizer.json").unlink()
    check_tokenizer(folder, shards_of(tmp_path / "tokens"))


def test_a_damaged_tokenizer_is_named(tmp_path):
    folder = model_of(tmp_path / "model", WORDS)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"model/tokenizer\.json: not a tokenizer\.json"):
        check_tokenizer(folder, shards_of(tmp_path / "tokens"))


def test_a_run_expects_the_tokenizer_of_the_tokens_it_was_trained_on(tmp_path):
    own = shards_of(tmp_path / "own")
    run = run_on(tmp_path / "run", own)
    check_tokenizer(run, own)
    check_tokenizer(run, shards_of(tmp_path / "alike"))
    other = shards_of(tmp_path / "other", WORDS[::-1])
    refused(run, other, "token 'w22' has id 0 in these tokens and id 22 in the model")
    # Nothing is known of the tokenizer once the run's tokens are others, or are gone.
    write_manifest(own.path, own.manifest | {"block": 8})
    check_tokenizer(run, other)
    shutil.rmtree(own.path)
    check_tokenizer(run, other)


def test_a_name_on_the_hub_is_asked_for_its_tokenizer(tmp_path, monkeypatch):
    shards = shards_of(tmp_path / "tokens")
    own = ModelTokenizer("someone/model", tokenizer(WORDS[::-1]), None)
    monkeypatch.setattr(model_tokenizer, "load_tokenizer", lambda _: own)
    refused("someone/model", shards, "token 'w0' has id 0 in these tokens and id 22 in the model")


def test_a_name_of_which_the_hub_gives_no_tokenizer_is_believed(tmp_path, monkeypatch):
    def none(_):
        raise UserError("someone/model: no such file, and the hub gave no tokenizer")

    monkeypatch.setattr(model_tokenizer, "load_tokenizer", none)
    check_tokenizer("someone/model", shards_of(tmp_path / "tokens"))


def test_words_are_those_of_the_model_s_own_tokenizer(tmp_path):
    model = model_of(tmp_path / "model", WORDS)
    check_words(model, [3, 22], ["w3", "w22"], what="table")
    check_words(model, [3], (), what="table")  # words that are not known are not checked
    with pytest.raises(UserError, match=r"table: .* token 22 is 'w2' here and 'w22' in the model"):
        check_words(model, [3, 22], ["w3", "w2"], what="table")
    with pytest.raises(UserError, match="token 23 is 'w3' here and None in the model; make it"):
        check_words(model, [23], ["w3"], what="table")


def test_words_may_be_text_or_as_the_tokenizer_writes_them(tmp_path):
    folder = model_of(tmp_path / "model", WORDS)
    bytewise = Tokenizer(models.WordLevel({"\u0120a": 0}))
    bytewise.decoder = decoders.ByteLevel()
    save(bytewise, folder / "tokenizer.json")
    check_words(folder, [0], [" a"], what="table")
    check_words(folder, [0], ["\u0120a"], what="table")


def test_a_model_without_a_tokenizer_is_believed_and_begins_with_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    check_words(tmp_path / "model", [0], ["any"], what="table")
    assert beginning_of_sequence(tmp_path / "model") is None


def test_what_the_model_s_tokenizer_begins_a_text_with_is_found(tmp_path):
    folder = model_of(tmp_path / "model", [*WORDS, "<s>"])
    assert beginning_of_sequence(folder) is None
    begun = tokenizer([*WORDS, "<s>"])
    begun.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 23)]
    )
    save(begun, folder / "tokenizer.json")
    assert beginning_of_sequence(folder) == 23
    tokens = shards_of(tmp_path / "tokens")
    assert beginning_of_sequence(run_on(tmp_path / "run", tokens)) is None
