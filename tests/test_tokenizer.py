import json

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError
from tokenizers import pre_tokenizers

from tightframe.corpus import hub
from tightframe.corpus import tokenizer as tokenizers
from tightframe.errors import UserError

TEXTS = ["the cat sat on the mat", "the dog sat on the cat", "a cat and a dog"]


def test_a_bpe_writes_any_text_and_has_the_size_asked_for():
    made = tokenizers.train_bpe(TEXTS, 270)
    assert tokenizers.vocab_size(made) == made.get_vocab_size() == 270
    for text in ["the cat", "naïve 猫 \U0001f431\x00\n\n  tabs\t", " leading and trailing  "]:
        assert made.decode(made.encode(text).ids) == text


def test_end_of_text_is_the_first_token_of_a_bpe():
    made = tokenizers.train_bpe(TEXTS, 257)
    assert tokenizers.end_of_text(made) == 0
    assert made.encode("a<|endoftext|>").ids[-1] == 0


def test_a_bpe_learns_the_same_from_the_same_texts():
    one, two = (tokenizers.train_bpe(iter(TEXTS), 275).to_str() for _ in range(2))
    assert one == two


def test_the_largest_possible_vocabulary_is_named_and_possible():
    with pytest.raises(UserError, match="larger than this text supports") as caught:
        tokenizers.train_bpe(TEXTS, 5_000)
    largest = int(str(caught.value).rpartition(" ")[2])
    assert tokenizers.vocab_size(tokenizers.train_bpe(TEXTS, largest)) == largest
    with pytest.raises(UserError, match="larger than this text supports"):
        tokenizers.train_bpe(TEXTS, largest + 1)


def test_the_smallest_vocabulary_is_the_bytes_and_end_of_text():
    assert tokenizers.vocab_size(tokenizers.train_bpe(TEXTS, 257)) == 257
    with pytest.raises(UserError, match="smallest is 257"):
        tokenizers.train_bpe(TEXTS, 256)


def test_errors_of_the_text_reach_the_reader_as_they_are():
    def broken():
        yield "fine"
        raise UserError("x.txt: not UTF-8 text")

    with pytest.raises(UserError, match=r"x\.txt: not UTF-8 text"):
        tokenizers.train_bpe(broken(), 260)


def test_word_level_ids_are_places_in_the_list():
    words = [tokenizers.END_OF_TEXT, "Anna", "said", ",", "hi"]
    made = tokenizers.word_level(words)
    assert made.encode("Anna said , hi <|endoftext|>").ids == [1, 2, 3, 4, 0]
    assert tokenizers.vocab_size(made) == 5
    assert tokenizers.end_of_text(made) == 0
    with pytest.raises(Exception, match="UNK"):
        made.encode("Bob")
    with pytest.raises(ValueError, match="3 words, but 2 distinct"):
        tokenizers.word_level(["a", "b", "a"])


def test_a_tokenizer_is_loaded_from_its_file_or_folder(tmp_path):
    made = tokenizers.train_bpe(TEXTS, 270)
    tokenizers.save(made, tmp_path / "tokenizer.json")
    for path in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        assert tokenizers.load(path).encode(TEXTS[0]).ids == made.encode(TEXTS[0]).ids


def test_truncation_and_padding_of_a_file_are_switched_off(tmp_path):
    made = tokenizers.train_bpe(TEXTS, 257)
    made.enable_truncation(4)
    made.enable_padding(length=8)
    tokenizers.save(made, tmp_path / "tokenizer.json")
    # 257 tokens are bytes: the ids of a text are as many as its bytes.
    assert len(tokenizers.load(tmp_path).encode(TEXTS[0]).ids) == len(TEXTS[0])


def test_end_of_text_goes_by_its_usual_names_or_is_none():
    assert tokenizers.end_of_text(tokenizers.word_level(["a", "</s>"])) == 1
    assert tokenizers.end_of_text(tokenizers.word_level(["a", "b"])) is None


def test_ids_with_gaps_count_up_to_the_largest():
    made = tokenizers.word_level(["a", "b"])
    made.model = type(made.model)({"a": 0, "b": 9}, unk_token="a")
    assert tokenizers.vocab_size(made) == 10


@pytest.mark.parametrize("name", ["nowhere/tokenizer.json", "./x", "a/b/c", "no such name"])
def test_what_is_neither_file_nor_name_is_refused(name):
    with pytest.raises(UserError, match="no such tokenizer; expected a tokenizer"):
        tokenizers.load(name)


def test_a_folder_without_a_tokenizer_and_a_damaged_file_are_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        tokenizers.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer\.json, or damaged"):
        tokenizers.load(tmp_path)


def test_a_folder_in_the_older_form_is_converted(tmp_path):
    pytest.importorskip("transformers")
    # As facebook/opt-125m has it: vocabulary and merges, no tokenizer.json.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", *letters])}
    vocabulary["at"] = len(vocabulary)
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na t\n")
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}
    settings |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    loaded = tokenizers.load(tmp_path)
    ids = loaded.encode("cat", add_special_tokens=False).ids
    assert ids == [vocabulary["c"], vocabulary["at"]]
    assert tokenizers.end_of_text(loaded) == 2
    assert tokenizers.vocab_size(loaded) == len(vocabulary)
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(UserError, match=r"what it has could not be converted \(") as caught:
        tokenizers.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_of_the_hub_without_a_tokenizer_json_is_converted(monkeypatch):
    def absent(*args, **kwargs):
        raise EntryNotFoundError("404")

    monkeypatch.setattr(hub, "unreachable", lambda: False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", absent)
    monkeypatch.setattr(tokenizers, "_converted", lambda name: tokenizers.word_level([name]))
    assert tokenizers.load("someone/old").get_vocab() == {"someone/old": 0}


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to host\nand a long tale")

    monkeypatch.setattr(hub, "unreachable", lambda: False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(UserError) as caught:
        tokenizers.load("someone/some-model")
    assert str(caught.value) == (
        "someone/some-model: no such file, and the Hugging Face hub gave no tokenizer of this name "
        "(ConnectionError: no route to host)"
    )


def test_a_tokenizer_that_was_fetched_before_needs_no_hub(monkeypatch, tmp_path):
    # A cache as the hub's client leaves it: a revision, and what it points to.
    cached = tmp_path / "models--someone--some-model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    (cached / "snapshots" / ("a" * 40)).mkdir(parents=True)
    made = tokenizers.train_bpe(["to be or not to be"], 260)
    tokenizers.save(made, cached / "snapshots" / ("a" * 40) / "tokenizer.json")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "unreachable", lambda: True)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waited {seconds} s"))
    assert tokenizers.load("someone/some-model").get_vocab() == made.get_vocab()
    with pytest.raises(
        UserError, match=r"^someone/other: no such file, and the .* hub does not answer$"
    ):
        tokenizers.load("someone/other")
