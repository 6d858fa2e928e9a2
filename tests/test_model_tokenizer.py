import json
import re
import sys

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

import tokenizer_folders
from tightframe.corpus import hub
from tightframe.corpus import tokenizer as tokenizers
from tightframe.corpus.model_tokenizer import load_tokenizer
from tightframe.errors import UserError
from tokenizer_folders import write_folder

transformers = pytest.importorskip("transformers")

TEXTS = [
    "the church",
    " it",
    "The lighthouse was blue.\n\n  it's caf\N{LATIN SMALL LETTER E WITH ACUTE} 1,234",
    "a <s>goat</s> named <unk> [SEP] <extra> x<tag>y  <|im_start|>",
    "</s>",
]
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
FLAGS = ("lstrip", "rstrip", "normalized", "single_word")
ADDED = {
    "345": {"content": "<extra>", "special": False, **dict.fromkeys(FLAGS, False)},
    "346": {"content": "<|im_start|>", "special": True, **dict.fromkeys(FLAGS, False)},
}


def _combinations():
    """Kinds of tokenizer, classes that are named for them, and settings that change tokens."""
    classes = ("LlamaTokenizer", "GPT2Tokenizer", "PreTrainedTokenizerFast", "Qwen2Tokenizer")
    for kind in ("byte-level", "metaspace"):
        for its_class in (*classes, "GemmaTokenizer", "CodeLlamaTokenizer", "RobertaTokenizer"):
            yield kind, {"tokenizer_class": its_class, "template": "both", **NAMED}
        for its_class in ("LlamaTokenizer", "PreTrainedTokenizerFast"):
            for told in (True, False):
                for flag in ("add_bos_token", "add_eos_token", "add_prefix_space", "legacy"):
                    template = None if told else "both"
                    yield (
                        kind,
                        {"tokenizer_class": its_class, "template": template, flag: told} | NAMED,
                    )
        yield kind, {"template": "begins"}
        yield kind, {"config": {"eos_token_id": [2, 0]}, "template": "ends"}
        yield kind, {"config": {"model_type": "gpt2", "eos_token_id": 2}}
        yield kind, {"config": {"model_type": "gemma"}, **NAMED}
        generic = {"tokenizer_class": "TokenizersBackend", **NAMED}
        yield kind, {"added_tokens_decoder": ADDED, **generic}
        yield kind, {"added": ["<tag>"], **generic}
        yield kind, {"split_special_tokens": True, **generic}
    for its_class in ("T5Tokenizer", "PreTrainedTokenizerFast", "CamembertTokenizer"):
        yield "unigram", {"tokenizer_class": its_class, **T5}
    yield "unigram", {"tokenizer_class": "T5TokenizerFast", "extra_ids": 2, **T5}
    for its_class in ("BertTokenizer", "PreTrainedTokenizerFast", "ElectraTokenizer"):
        yield "word-piece", {"tokenizer_class": its_class, **BERT}
    yield "word-piece", {"tokenizer_class": "BertTokenizer", "do_lower_case": False, **BERT}
    for its_class in ("LlamaTokenizer", "PreTrainedTokenizerFast"):
        yield "without-bytes", {"tokenizer_class": its_class, **NAMED}
    yield "words", {"template": "begins", **NAMED}
    yield "words", {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, **NAMED}


COMBINATIONS = list(_combinations())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every combination as a folder, and what `AutoTokenizer` makes of it."""
    parent = tmp_path_factory.mktemp("tokenizers")
    made = []
    for number, (kind, settings) in enumerate(COMBINATIONS):
        folder = write_folder(parent / str(number), kind, **settings)
        made.append((folder, transformers.AutoTokenizer.from_pretrained(folder)))
    return made


def _same(own, auto):
    """The ids of a text with what is put around it are those of transformers."""
    special = tokenizers.special_ids(own.tokenizer)
    for text in TEXTS:
        theirs = auto(text, split_special_tokens=True)["input_ids"]
        ours = [*own.before, *own.tokenizer.encode(text, add_special_tokens=False).ids]
        assert theirs[: len(ours)] == ours
        assert special.issuperset(theirs[len(ours) :])  # what it puts behind a text
        assert own.tokenizer.get_vocab() == auto.get_vocab()
    expected = auto.eos_token_id
    assert own.end_of_text == expected or (expected is None and own.end_of_text in (None, 2))


def test_there_are_more_than_forty_combinations():
    assert len(COMBINATIONS) > 60


def test_the_tokens_of_a_model_are_those_of_transformers(folders):
    for folder, auto in folders:
        _same(load_tokenizer(folder), auto)


LLAMA = {"tokenizer_class": "LlamaTokenizer", **NAMED}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMED}
# Beside a tokenizer.json, add_bos_token and legacy change nothing; without one, add_bos_token does:
# see the folder in the older form below.
SETTINGS = {
    "add_prefix_space": (
        ("metaspace", LLAMA | {"add_prefix_space": True}),
        ("metaspace", LLAMA | {"add_prefix_space": False}),
    ),
    "template": (("byte-level", FAST | {"template": "both"}), ("byte-level", FAST)),
    "added tokens": (("byte-level", FAST | {"added_tokens_decoder": ADDED}), ("byte-level", FAST)),
    "byte fallback": (("metaspace", FAST), ("without-bytes", FAST)),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_settings_of_the_combinations_change_tokens(tmp_path, setting):
    tokens = []
    for number, (kind, settings) in enumerate(SETTINGS[setting]):
        folder = write_folder(tmp_path / str(number), kind, **settings)
        own = load_tokenizer(folder)
        _same(own, transformers.AutoTokenizer.from_pretrained(folder))
        bare = [own.tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
        tokens.append((own.before, bare))
        assert not tokenizers.special_ids(own.tokenizer) & set(bare[-1])  # </s> is text
    assert tokens[0] != tokens[1]


def test_without_transformers_tokens_are_the_same_or_refused(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused = []
    n_read = 0
    for folder, auto in folders:
        try:
            own = load_tokenizer(folder)
        except UserError as error:
            refused.append(str(error).removeprefix(str(folder)))
        else:
            _same(own, auto)
            n_read += 1
    assert n_read > 10
    message = re.compile(
        r": its tokenizer\.json alone doesn't tell its tokens \(see (\w+) .*beside it\), "
        r"and .* is not installed; pip install 'tightframe\[hf\]'"
    )
    doubts = {message.fullmatch(each)[1] for each in refused}
    flags = {"add_bos_token", "add_eos_token", "add_prefix_space", "added_tokens_decoder"}
    assert doubts == flags | {"tokenizer_class", "model_type"}


@pytest.mark.parametrize("folder", ["none", "odd"])
def test_without_transformers_what_is_missing_or_odd_is_refused(tmp_path, monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "transformers", None)
    path = write_folder(tmp_path / "odd", "words", added_tokens_decoder=[["x"]], config={})
    if folder == "none":
        (path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"(has no tokenizer.json|another type).*pip install"):
        load_tokenizer(path)
    with pytest.raises(UserError, match=r"^someone/model: .* needs transformers; pip install"):
        load_tokenizer("someone/model")


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
def test_a_text_that_spells_special_tokens_stays_text(tmp_path, kind):
    text = "a <s>goat</s> <unk>"
    own = load_tokenizer(write_folder(tmp_path / "model", kind, **NAMED))
    ids = own.tokenizer.encode(text, add_special_tokens=False).ids
    assert not tokenizers.special_ids(own.tokenizer) & set(ids)
    assert own.tokenizer.decode(ids) == text


def test_an_end_of_text_is_what_the_model_names(tmp_path):
    # As Gemma has it: </s> is an added token of text, the HTML tag; <eos> ends a document.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", **BERT}
    folder = write_folder(tmp_path / "model", "word-piece", added=["</s>", "<eos>"], **settings)
    for source in (folder, str(folder), folder / "tokenizer.json"):
        own = load_tokenizer(source)
        assert own.end_of_text == own.tokenizer.token_to_id("<eos>")
        # What is no special token is a token where a text spells it.
        assert own.tokenizer.encode("it</s>").tokens[-2:] == ["</s>", "[SEP]"]


def test_an_end_that_nothing_names_is_none(tmp_path):
    for number, config in enumerate([{}, {"eos_token_id": 999}, {"eos_token_id": True}]):
        folder = write_folder(tmp_path / str(number), "words", config=config)
        assert load_tokenizer(folder).end_of_text is None
    # A tokenizer.json on its own goes by usual names; the file of a tokens folder is one.
    (folder / "config.json").unlink()
    assert load_tokenizer(folder).end_of_text == 2
    (folder / "config.json").write_text("{}")
    (folder / "manifest.json").write_text("{}")
    assert load_tokenizer(folder).end_of_text == 2


@pytest.mark.parametrize(
    ("template", "expected"), [(None, None), ("begins", 1), ("both", 1), ("ends", None)]
)
def test_what_is_put_before_a_text_begins_a_sequence(tmp_path, template, expected):
    folder = write_folder(tmp_path / "model", "words", template=template)
    assert load_tokenizer(folder).beginning_of_sequence == expected
    (folder / "config.json").write_text("{}")
    assert load_tokenizer(folder).beginning_of_sequence == expected


def test_several_tokens_before_a_text_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(tokenizer_folders.TEMPLATES, "two", "<s> </s> $A")
    own = load_tokenizer(write_folder(tmp_path / "model", "words", template="two", config={}))
    with pytest.raises(UserError) as caught:
        own.beginning_of_sequence  # noqa: B018
    assert str(caught.value) == (
        f"{tmp_path}/model: its tokenizer begins a text with several tokens (<s> </s>), expected "
        "one; use bos='never'"
    )


def test_a_tokenizer_of_python_alone_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    with pytest.raises(UserError, match=r"\(ByT5Tokenizer\) has no tokenizer\.json and cannot be"):
        load_tokenizer(tmp_path)


def test_a_class_that_changes_a_text_itself_is_refused(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "model", "words", tokenizer_class="TokenizersBackend")
    backend = type(transformers.AutoTokenizer.from_pretrained(folder))
    encode = backend._encode_plus
    monkeypatch.setattr(
        backend, "_encode_plus", lambda self, text, **more: encode(self, text.upper(), **more)
    )
    with pytest.raises(UserError, match=r"changes a text in ways of its own"):
        load_tokenizer(folder)


def test_damaged_files_are_named(tmp_path):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        folder = write_folder(tmp_path / file, "words", **NAMED)
        (folder / file).write_text("{")
        with pytest.raises(UserError, match=rf"{file}/{file}: not "):
            load_tokenizer(folder)


def test_what_is_neither_file_nor_name_is_refused(tmp_path):
    for name in ("nowhere/tokenizer.json", "./x", "a/b/c", "no such name"):
        with pytest.raises(UserError, match="no such tokenizer; expected a tokenizer"):
            load_tokenizer(name)
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("told", [True, False])
def test_a_folder_in_the_older_form_is_converted(tmp_path, told):
    # As facebook/opt-125m has it: vocabulary and merges, no tokenizer.json.
    letters = sorted(tokenizer_folders.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", *letters])}
    vocabulary["at"] = len(vocabulary)
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na t\n")
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": told}
    settings |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    own = load_tokenizer(tmp_path)
    ids = own.tokenizer.encode("cat", add_special_tokens=False).ids
    assert ids == [vocabulary["c"], vocabulary["at"]]
    assert (own.end_of_text, own.before) == (2, (2,) if told else ())
    _same(own, transformers.AutoTokenizer.from_pretrained(tmp_path))
    assert tokenizers.vocab_size(own.tokenizer) == len(vocabulary)
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(UserError, match="its tokenizer cannot be loaded") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


TEMPLATE = (
    "<s>{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<|im_start|>{{ m.role }} {{ m.content }}</s>{% endfor %}"
)


def test_a_chat_is_written_by_the_models_template(tmp_path):
    named = NAMED | {"tokenizer_class": "TokenizersBackend", "added_tokens_decoder": ADDED}
    templated = write_folder(tmp_path / "a", "byte-level", chat_template=TEMPLATE, **named)
    own = load_tokenizer(templated)
    chat = [{"role": "user", "content": "it"}]
    # The token that begins a sequence is put there by the layout.
    assert own.chat_template(chat) == ("<|im_start|>user it</s>", False)
    assert own.chat_template([{"role": "user", "content": "a </s>"}])[1]
    with pytest.raises(Exception, match="no system"):
        own.chat_template([{"role": "system", "content": "x"}])
    plain = load_tokenizer(write_folder(tmp_path / "b", "byte-level", **named))
    assert plain.chat_template is None
    assert own.chat_template_text != plain.chat_template_text == ""


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache as the hub's client leaves it, and a hub that does not answer."""
    folder = tmp_path / "models--someone--some-model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "unreachable", lambda: True)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waited {seconds} s"))
    return folder


def test_a_tokenizer_that_was_fetched_before_needs_no_hub(cached):
    config = {"eos_token_id": 2, "model_type": "llama"}
    generic = {"tokenizer_class": "PreTrainedTokenizerFast"}
    write_folder(cached / "snapshots" / ("a" * 40), "words", config=config, **generic)
    own = load_tokenizer("someone/some-model")
    assert own.end_of_text == 2
    assert own.tokenizer.encode("it's").tokens
    with pytest.raises(
        UserError, match=r"^someone/other: no such file, and the .* hub does not answer$"
    ):
        load_tokenizer("someone/other")


def test_a_hub_that_gives_nothing_is_one_line(monkeypatch):
    def fails(*args, **kwargs):
        raise ConnectionError("no route to host\nand a long tale")

    monkeypatch.setattr(hub, "unreachable", lambda: False)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fails)
    with pytest.raises(UserError) as caught:
        load_tokenizer("someone/some-model")
    assert str(caught.value) == (
        "someone/some-model: no such file, and the Hugging Face hub gave no tokenizer of this name "
        "(ConnectionError: no route to host)"
    )


class _Hub:
    """Stands in for the hub: files of one model."""

    def __init__(self, folder, error=EntryNotFoundError):
        self.folder, self.error = folder, error

    def download(self, name, file, *, local_files_only):
        if not (self.folder / file).exists():
            raise self.error("404: no such file\nin a long tale")
        return str(self.folder / file)


def test_a_file_of_the_hub_is_fetched_or_known_not_to_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "unreachable", lambda: False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", _Hub(tmp_path).download)
    (tmp_path / "config.json").write_text("{}")
    assert hub.fetch("someone/model", "config.json") == tmp_path / "config.json"
    assert hub.fetch("someone/model", "other.json") is None


@pytest.mark.parametrize("error", [LocalEntryNotFoundError, ConnectionError])
@pytest.mark.parametrize("silent", [True, False])
def test_a_hub_that_was_not_reached_is_not_taken_for_a_no(tmp_path, monkeypatch, error, silent):
    monkeypatch.setattr(hub, "unreachable", lambda: silent)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", _Hub(tmp_path, error).download)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError) as caught:
        hub.fetch("someone/model", "config.json")
    why = "does not answer" if silent else f"did not give it ({error.__name__}: 404: no such file)"
    assert str(caught.value) == f"someone/model/config.json: the Hugging Face hub {why}"


def test_an_earlier_no_of_the_hub_holds(cached):
    folder = cached / ".no_exist" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    assert hub.fetch("someone/some-model", "config.json") is None
