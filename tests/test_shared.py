import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tightframe.corpus import tokenizer as tokenizers
from tightframe.corpus.labels import Capped, matched_counts, shared_classes
from tightframe.corpus.tokenizer import _LETTERS
from tightframe.errors import UserError


def _byte_level(tokens, *, special=(), added=()):
    """A byte-level BPE of these tokens, spaces and all, with no merges."""
    letters = {byte: letter for letter, byte in _LETTERS.items()}
    spelled = ["".join(letters[byte] for byte in token.encode()) for token in tokens]
    made = Tokenizer(models.BPE({token: index for index, token in enumerate(spelled)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(special))
    made.add_tokens([AddedToken(token, normalized=False) for token in added])
    return made


def _metaspace(tokens, *, llama=False):
    """A SentencePiece-style Unigram: '▁' for a space, bytes for what it has no letter for."""
    if not llama:
        made = Tokenizer(models.Unigram([(token, 0.0) for token in tokens], 0))
        made.decoder = decoders.Metaspace()
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        vocabulary = {token: index for index, token in enumerate(tokens)}
        made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
        made.normalizer = normalizers.Replace(" ", "▁")
        steps = [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
        made.decoder = decoders.Sequence(steps)
    made.add_special_tokens(["<unk>", "</s>"])
    return made


def _word_piece(tokens):
    vocabulary = {token: index for index, token in enumerate(["[UNK]", *tokens])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made


def _pairs(a, b):
    """Tokens of both vocabularies that are one class, in the order given."""
    ids_a, ids_b = shared_classes(a, b)
    return [
        (a.id_to_token(i), b.id_to_token(j))
        for i, j in zip(ids_a.tolist(), ids_b.tolist(), strict=True)
    ]


@pytest.mark.parametrize("llama", [False, True])
def test_strings_of_byte_level_and_sentencepiece_tokens_are_compared_as_text(llama):
    a = _byte_level([" the", "the", "é", "cat", " dog", "\n"], special=["</s>"], added=["  "])
    b = _metaspace(["<unk>", "▁the", "the", "é", "▁cat", "▁▁", "\n", "dog"], llama=llama)
    # In the order of the bytes: newline, two spaces, ' the', 'the', 'é'. 'cat' and ' cat' differ,
    # and the end of text is no string.
    expected = [("Ċ", "\n"), ("  ", "▁▁"), ("Ġthe", "▁the"), ("the", "the"), ("Ã©", "é")]
    assert _pairs(a, b) == expected
    assert _pairs(b, a) == [(mine, other) for other, mine in expected]


def test_a_byte_is_its_letter_where_the_vocabulary_has_one():
    # "A" and byte 41 are one string, and text is written with "A"; byte C3 has no letter.
    bytes_first = _metaspace(["<unk>", "<0x41>", "<0xC3>", "A"], llama=True)
    a = Tokenizer(models.BPE({"A": 0, "Ã": 1}, []))
    a.decoder = decoders.ByteLevel()
    assert _pairs(a, bytes_first) == [("A", "A"), ("Ã", "<0xC3>")]
    # Without a fallback to bytes they are six letters.
    assert _pairs(a, _metaspace(["<unk>", "<0x41>", "A"])) == [("A", "A")]


def test_word_pieces_begin_with_a_space_unless_they_go_on():
    a = _byte_level([" the", "the", "ing", " ing", ",", "[UNK]"])
    b = _word_piece(["the", "##ing", ",", "ing"])
    # The decoder closes the space before a comma.
    assert _pairs(a, b) == [("Ġing", "ing"), ("Ġthe", "the"), (",", ","), ("ing", "##ing")]


def test_whole_words_stand_behind_a_space():
    words = tokenizers.word_level([tokenizers.END_OF_TEXT, "the", "dog"])
    assert _pairs(words, _byte_level(["the", " dog"])) == [("dog", "Ġdog")]


def test_every_string_of_a_tokenizer_is_shared_with_itself():
    made = tokenizers.train_bpe(["the cat sat on the mat, naïve 猫"], 278)
    ids, same = shared_classes(made, made)
    assert torch.equal(ids, same)
    assert sorted(ids.tolist()) == list(range(1, 278))  # 0 is end-of-text
    # In the order of the bytes; the single bytes are among them.
    alone = [index for index in ids.tolist() if len(made.id_to_token(index)) == 1]
    assert [_LETTERS[made.id_to_token(index)] for index in alone] == list(range(256))


def test_letters_of_bytes_are_those_of_the_library():
    assert set(_LETTERS) == set(pre_tokenizers.ByteLevel.alphabet())
    for letter, byte in _LETTERS.items():
        if byte < 0x80:
            assert decoders.ByteLevel().decode([letter]) == chr(byte)


def test_tokenizers_without_a_common_string_share_nothing():
    ids, other = shared_classes(_byte_level(["a"]), _byte_level(["b"]))
    assert ids.shape == other.shape == (0,)


def test_a_tokenizer_that_marks_ends_of_words_is_refused():
    made = Tokenizer(models.BPE({"the</w>": 0}, []))
    made.decoder = decoders.BPEDecoder(suffix="</w>")
    with pytest.raises(UserError, match="marks the ends of words"):
        shared_classes(made, _byte_level(["the"]))


def test_matched_counts_are_the_smaller_ones_of_shared_classes():
    # Ids 3 and 1 of the one are 0 and 2 of the other.
    shared = torch.tensor([3, 1]), torch.tensor([0, 2])
    counts = torch.tensor([9, 5, 9, 2]), torch.tensor([4, 9, 3])
    matched_a, matched_b = matched_counts(*counts, shared)
    assert matched_a.tolist() == [0, 3, 0, 2]
    assert matched_b.tolist() == [2, 0, 3]


def _stream(seed, n):
    """Labels of seven classes, and some that are none."""
    labels = torch.from_numpy(np.random.default_rng(seed).integers(-1, 7, n))
    return labels.masked_fill(labels < 0, -100)


def _first_of_each(labels, quota):
    """Loops: a label is taken while its class has something left."""
    left, taken = list(quota), []
    for label in labels:
        taken.append(label >= 0 and left[label] > 0)
        if taken[-1]:
            left[label] -= 1
    return taken


@pytest.mark.parametrize("step", [1, 3, 17, 1_000])
@pytest.mark.parametrize("quota", [[0] * 7, [1, 5, 0, 1_000, 30, 2, 7]])
def test_the_first_samples_of_each_class_are_taken_whatever_the_batches(step, quota):
    labels = _stream(step, 400)
    capped = Capped(torch.tensor(quota))
    taken = torch.cat([capped.take(batch) for batch in labels.split(step)])
    assert taken.tolist() == _first_of_each(labels.tolist(), quota)
    counts = torch.bincount(labels[labels >= 0], minlength=7)
    assert torch.equal(
        torch.bincount(labels[taken], minlength=7), counts.minimum(torch.tensor(quota))
    )
    assert torch.equal(capped.remaining, (torch.tensor(quota) - counts).clamp(min=0))


def test_a_quota_is_not_changed_and_no_labels_take_nothing():
    quota = torch.tensor([2, 1], dtype=torch.int32)
    capped = Capped(quota)
    assert capped.take(torch.zeros(0, dtype=torch.int64)).shape == (0,)
    assert capped.take(torch.tensor([-100, 0, -100])).tolist() == [False, True, False]
    assert quota.tolist() == [2, 1]
    assert capped.remaining.tolist() == [1, 1]
