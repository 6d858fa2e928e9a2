import pytest
from tokenizers import Tokenizer, models

from tightframe.corpus import tokenizer as tokenizers
from tightframe.errors import UserError
from tightframe.knowledge.word_pieces import ClozeTokenizer

TEXTS = ["The red bridge crosses the river, twice", "Ada Quill's bridge crosses a river"]


@pytest.fixture(scope="module")
def coder():
    return ClozeTokenizer.train(TEXTS * 3, 300)


def test_a_prompt_goes_from_bos_over_one_mask_to_sep(coder):
    ids = coder.prompt("The [MASK] crosses the river")
    assert (ids[0], ids[-1], ids.count(coder.mask)) == (coder.bos, coder.sep, 1)


def test_words_have_the_same_ids_wherever_they_stand(coder):
    # "bridge" as a target, after a mask, before one, and inside a sentence.
    word = coder.target("bridge")[:-1]
    sentence = coder.opening("The red bridge crosses")

    def holds(ids):
        return any(ids[i : i + len(word)] == word for i in range(len(ids)))

    assert holds(sentence)
    assert holds(coder.prompt("[MASK] bridge crosses"))
    assert holds(coder.prompt("The red bridge [MASK]"))
    assert not holds(coder.prompt("The red [MASK] crosses"))


def test_no_piece_ends_in_a_blank(coder):
    # A blank alone is a token that no sentence of the training ends a piece with.
    blank = coder.target(" ")
    assert blank == [coder.eos]
    assert coder.prompt("The [MASK]") == coder.prompt("The  [MASK] ")


def test_a_comma_after_the_mask_stands_without_a_blank(coder):
    after = coder.prompt("[MASK], twice")
    assert coder.tokenizer.decode(after, skip_special_tokens=True) == ", twice"


def test_a_target_decodes_to_its_words(coder):
    assert coder.text(coder.target("Ada Quill's bridge")) == "Ada Quill's bridge"
    ids = [*coder.target("The river"), *coder.target("crosses")]
    assert coder.text(ids) == "The river"  # up to the first EOS


def test_special_tokens_in_a_text_are_text(coder):
    ids = coder.target("<|eos|> <|mask|>")
    assert ids.count(coder.eos) == 1
    assert coder.mask not in ids
    assert coder.text(ids[:-1]) == "<|eos|> <|mask|>"


def test_saved_and_loaded_is_the_same(coder, tmp_path):
    coder.save(tmp_path)
    loaded = ClozeTokenizer.load(tmp_path)
    for text in ("The [MASK] crosses, <|sep|>", "[MASK]"):
        assert loaded.prompt(text) == coder.prompt(text)
    assert loaded.vocab_size == coder.vocab_size == 300


def test_a_language_model_s_tokenizer_keeps_its_ids(tmp_path):
    own = tokenizers.train_bpe(TEXTS * 3, 280)
    end = tokenizers.end_of_text(own)
    coder = ClozeTokenizer.extend(own, end_of_text=end)
    assert coder.bos == coder.eos == end
    assert coder.vocab_size == 280 + 4  # pad, mask, sep, slot
    assert coder.target("The river")[:-1] == own.encode(" The river").ids
    assert own.get_vocab_size() == 280
    coder.save(tmp_path)
    assert ClozeTokenizer.load(tmp_path).prompt("a [MASK]") == coder.prompt("a [MASK]")


def test_a_tokenizer_without_the_special_tokens_is_refused():
    with pytest.raises(UserError, match=r"no token <\|pad\|>"):
        ClozeTokenizer(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))


def test_a_vocabulary_smaller_than_bytes_and_special_tokens_is_refused():
    with pytest.raises(UserError, match="the smallest is 262: the bytes and special tokens"):
        ClozeTokenizer.train(TEXTS, 261)


def test_a_few_texts_support_fewer_tokens():
    coder = ClozeTokenizer.train(["ab ab ab"], 5000)
    assert 262 < coder.vocab_size < 300
