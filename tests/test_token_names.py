import pytest
from tokenizers import Tokenizer, decoders, models

import tokenizer_folders
from tightframe.corpus.tokenizer import joined_names, token_names, train_bpe, word_level

TEXT = "a café — 猫\tit's\n The lighthouse"


def _made(vocabulary, decoder, special=()):
    ids = {token: index for index, token in enumerate(vocabulary)}
    made = Tokenizer(models.WordLevel(ids, unk_token=vocabulary[0]))
    made.decoder = decoder
    made.add_special_tokens(list(special))
    return made


def test_tokens_are_called_by_their_text_with_its_space():
    bpe = train_bpe([" Anna"] * 9, 261)
    names = token_names(bpe, 263)
    assert names[0] == "<|endoftext|>"
    assert names[bpe.encode(" Anna").ids[0]] == " Anna"
    assert names[bpe.token_to_id("Ã")] == "<0xC3>"  # the first byte of many letters
    assert names[bpe.token_to_id("Ċ")] == r"\n"
    assert names[-2:] == ["<261>", "<262>"]  # padded
    assert token_names(word_level(["a", "b"]), 2) == ["a", "b"]


def test_pieces_of_sentencepiece_and_word_piece_have_the_spaces_that_they_bring():
    # Alone, a decoder drops the space of '▁the', and '▁' would be nothing.
    blanks = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    pieces = ["<unk>", "<s>", "▁the", "the", "▁", "▁▁", "<0xE2>", "<0x41>", "A", "<0x0A>"]
    decoder = decoders.Sequence([*blanks, decoders.Strip(" ", 1, 0)])
    names = token_names(_made(pieces, decoder, ["<unk>", "<s>"]), len(pieces))
    # The byte of a letter goes by what the vocabulary calls it where the letter is a token, too.
    expected = ["<unk>", "<s>", " the", "the", " ", "  ", "<0xE2>", "<0x41>", "A", r"\n"]
    assert names == expected
    pieces = ["[UNK]", "the", "##the", "##s"]
    names = token_names(_made(pieces, decoders.WordPiece(), ["[UNK]"]), 4)
    assert names == ["[UNK]", " the", "the", "s"]


def test_no_two_tokens_share_a_name():
    # A line end and a backslash with an n; a byte, and a text that spells its name.
    pieces = ["Ċ", r"\n", "Ã", "<0xC3>", "x", "<|x|>"]
    names = token_names(_made(["?", *pieces], decoders.ByteLevel(), ["<|x|>"]), 7)
    assert names == ["?", "Ċ", r"\n", "Ã", "<0xC3>", "x", "<|x|>"]
    ends = decoders.BPEDecoder(suffix="</w>")
    assert token_names(_made(["?", "the</w>", "the", "a"], ends), 4) == ["?", "the ", "the", "a"]
    # What the vocabulary calls one may be the text of another, which then takes its id along.
    assert token_names(_made(["?", "Ġ", " ", "a"], decoders.ByteLevel()), 4)[1:] == ["Ġ", " ", "a"]


@pytest.mark.parametrize("kind", tokenizer_folders.KINDS)
def test_vocabularies_of_every_kind_have_names_of_their_own(kind):
    made = Tokenizer.from_str(tokenizer_folders.trained(kind)[0])
    names = token_names(made, made.get_vocab_size())
    assert len(set(names)) == len(names)
    assert all(name.isprintable() and name for name in names)


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
def test_names_together_are_the_text(kind):
    # Bytes of one letter lie in several tokens; only together they are one.
    made = Tokenizer.from_str(tokenizer_folders.trained(kind)[0])
    names = token_names(made, made.get_vocab_size())
    ids = made.encode(TEXT, add_special_tokens=False).ids
    shown = TEXT.replace("\t", r"\t").replace("\n", r"\n")
    assert joined_names(names[index] for index in ids).strip() == shown
    # Cut within a letter, the bytes that are left stay visible.
    cat = made.encode("猫", add_special_tokens=False).ids[-3:]
    assert joined_names(names[index] for index in cat[:-1]) == "<0xE7><0x8C>"
