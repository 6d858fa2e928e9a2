import pytest
from tokenizers import Tokenizer, models

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
    assert 0 not in made.encode("a<|endoftext|>").ids  # in a text it is text


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


def test_a_tokenizer_is_read_from_its_file(tmp_path):
    path = tmp_path / "tokenizer.json"
    made = tokenizers.train_bpe(TEXTS, 270)
    tokenizers.save(made, path)
    assert tokenizers.read(path).encode(TEXTS[0]).ids == made.encode(TEXTS[0]).ids
    path.write_text('{"model": ')
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer\.json, or damaged"):
        tokenizers.read(path)


def test_truncation_and_padding_of_a_file_are_switched_off(tmp_path):
    made = tokenizers.train_bpe(TEXTS, 257)
    made.enable_truncation(4)
    made.enable_padding(length=8)
    tokenizers.save(made, tmp_path / "tokenizer.json")
    # 257 tokens are bytes: the ids of a text are as many as its bytes.
    assert len(tokenizers.read(tmp_path / "tokenizer.json").encode(TEXTS[0]).ids) == len(TEXTS[0])


def test_end_of_text_goes_by_its_usual_names_among_special_tokens():
    made = tokenizers.word_level(["a", "</s>", "<eos>"])
    assert tokenizers.end_of_text(made) is None  # both are words
    made.add_special_tokens(["<eos>"])
    assert tokenizers.end_of_text(made) == 2
    made.add_special_tokens(["</s>"])
    assert tokenizers.end_of_text(made) == 1


def test_the_unknown_token_is_no_special_one():
    # A text may come to it without spelling it.
    unigram = Tokenizer(models.Unigram([("?", 0.0), ("</s>", 0.0), ("a", -1.0)], unk_id=0))
    word_piece = Tokenizer(models.WordPiece({"[UNK]": 0, "[SEP]": 1, "a": 2}, unk_token="[UNK]"))
    for made, special in ((unigram, ["?", "</s>"]), (word_piece, ["[UNK]", "[SEP]"])):
        made.add_special_tokens(special)
        assert tokenizers.special_ids(made) == {1}


def test_ids_with_gaps_count_up_to_the_largest():
    made = tokenizers.word_level(["a", "b"])
    made.model = type(made.model)({"a": 0, "b": 9}, unk_token="a")
    assert tokenizers.vocab_size(made) == 10
