import functools
import json
import os
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import tokenizer_folders
from reference import blocks as reference
from tightframe import leases
from tightframe.corpus import hub, readers, tokenization
from tightframe.corpus import tokenizer as tokenizers
from tightframe.corpus.model_tokenizer import load_tokenizer
from tightframe.corpus.shards import SPLITS
from tightframe.corpus.sources import open_source
from tightframe.corpus.splits import made
from tightframe.corpus.tokenization import text_tokens
from tightframe.errors import UserError

NAMES = ["Anna", "Tim", "Zoë", "the dog", "a 猫"]


@pytest.fixture
def text(tmp_path):
    rng = np.random.default_rng(0)
    told = [f"{NAMES[rng.integers(5)]} saw {NAMES[rng.integers(5)]}." for _ in range(200)]
    path = tmp_path / "two tales.txt"
    path.write_text("\n\n".join(told), encoding="utf-8")
    return path


@pytest.fixture
def model(tmp_path):
    """A folder as a SentencePiece model has it: '▁', bytes, a bos, an end only in the config."""
    pieces = ["<unk>", "<go>", "<over>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyzATZ.ë", "▁saw"]
    vocabulary = [(piece, -1.0 if len(piece) == 1 else -2.0) for piece in pieces]
    made_here = Tokenizer(models.Unigram(vocabulary, 0, byte_fallback=True))
    made_here.pre_tokenizer = pre_tokenizers.Metaspace()
    made_here.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    made_here.add_special_tokens(["<unk>", "<go>", "<over>"])
    made_here.post_processor = processors.TemplateProcessing(
        single="<go> $A", special_tokens=[("<go>", 1)]
    )
    folder = tmp_path / "model"
    folder.mkdir()
    tokenizers.save(made_here, folder / "tokenizer.json")
    (folder / "config.json").write_text('{"eos_token_id": 2}')
    return folder


@pytest.fixture
def tokens_of(tmp_path, text, model):
    usual = {"cache": tmp_path / "cache", "context": 16, "bos": "auto", "max_tokens": None}
    return functools.partial(text_tokens, text, model, **usual)


def _rows(shards, split):
    rows = shards.split(split)
    tokens, lengths = rows.rows(range(len(rows)))
    return [row[:n].tolist() for row, n in zip(tokens, lengths.tolist(), strict=True)]


@pytest.mark.parametrize("bos", ["auto", "never"])
def test_a_text_is_cut_as_its_model_reads_it(tokens_of, text, model, bos):
    shards = tokens_of(bos=bos)
    first = 1 if bos == "auto" else None
    assert shards.bos == shards.manifest["bos"] == first
    assert shards.end_of_text == 2
    assert shards.block == 16
    tokenizer = load_tokenizer(model).tokenizer
    documents = list(made(open_source(text), 0.1, 0).read({"train", "val"}))
    for name in ("train", "val"):
        texts = [document.text for split, document in documents if split == name]
        ids = [tokenizer.encode(each, add_special_tokens=False).ids for each in texts]
        assert _rows(shards, name) == reference.packed(ids, 16, 2, first)
        split = shards.split(name)
        # With a bos every token of the text and every end is a label.
        line = sum(map(len, ids)) + len(ids) - 1
        assert split.n_labels == line - (0 if first else split.n_blocks)
        assert split.n_tokens == line + (split.n_blocks if first else 0)
        assert split.n_bytes == sum(len(each.encode()) for each in texts)
        # So bits per byte are the same, however the text is cut.
        assert split.bits_per_byte(1.0) == pytest.approx(
            line / split.n_bytes / np.log(2), rel=1e-14
        )


@pytest.mark.parametrize("stretch", [2**22, 900])
def test_a_whole_file_is_one_text(tokens_of, text, model, monkeypatch, stretch):
    monkeypatch.setattr(readers, "STRETCH_BYTES", stretch)
    shards = tokens_of(documents="files")
    encode = load_tokenizer(model).tokenizer.encode
    content = text.read_text()
    lines = {name: [token for row in _rows(shards, name) for token in row[1:]] for name in SPLITS}
    # The last tenth, from the next line on; an end-of-text (2) stands nowhere.
    mark = int(0.9 * len(content))
    cut = content.index("\n", mark) + 1
    if stretch == 2**22:
        for name, part in (("train", content[:cut]), ("val", content[cut:])):
            assert lines[name] == encode(part, add_special_tokens=False).ids
            assert shards.split(name).n_bytes == len(part.encode())
        # 1 nat a token, by hand.
        bits = len(lines["val"]) / np.log(2) / len(content[cut:].encode())
        assert shards.split("val").bits_per_byte(1.0) == pytest.approx(bits, rel=1e-14)
    for name in ("train", "val"):
        split = shards.split(name)
        assert 2 not in lines[name]
        assert shards.manifest["splits"][name]["documents"] == 1
        assert split.groups(4).unit == "blocks"
    decode = load_tokenizer(model).tokenizer.decode
    together = decode(lines["train"]) + decode(lines["val"])
    assert together.replace(" ", "") == content.replace(" ", "")
    assert sum(shards.split(name).n_bytes for name in lines) == len(content.encode())


def test_a_whole_file_is_cut_where_there_are_tokens_enough(tokens_of, text, model):
    shards = tokens_of(documents="files", max_tokens=400)
    tokenizer = load_tokenizer(model).tokenizer
    for name, n in (("train", 360), ("val", 40)):
        split = shards.split(name)
        assert split.n_labels == n  # a bos is no label
        line = [token for row in _rows(shards, name) for token in row[1:]]
        kept = tokenizer.decode(line)
        assert kept in text.read_text()
        assert split.n_bytes == len(kept.encode())
    assert text.read_text().startswith(kept) is False  # validation is of the end


def test_files_are_parted_by_an_end_of_text(tokens_of, text, tmp_path, monkeypatch, model):
    monkeypatch.setattr(readers, "STRETCH_BYTES", 900)
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.txt").write_text(text.read_text())
    shards = text_tokens(
        folder,
        model,
        cache=tmp_path / "cache",
        context=16,
        bos="auto",
        max_tokens=None,
        documents="files",
    )
    for name in ("train", "val"):
        assert sum(row.count(2) for row in _rows(shards, name)) == 1
        assert shards.manifest["splits"][name]["documents"] == 2


def test_a_first_record_longer_than_what_is_asked_for_is_cut(model, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "the dog saw Zoë. " * 50}) + "\n")
    usual = {"cache": tmp_path / "cache", "context": 16, "bos": "auto"}
    shards = text_tokens(path, model, max_tokens=200, **usual)
    assert [shards.split(name).n_labels for name in ("train", "val")] == [180, 20]


def test_documents_of_blocks_with_a_bos_begin_where_they_begin(tokens_of):
    shards = tokens_of()
    split = shards.split("train")
    rows, columns = np.divmod(split.document_starts().numpy(), 16)
    assert (columns >= 1).all()
    tokens, _ = split.rows(range(len(split)))
    # Before a document stands the end of the one before it, or bos in front of that.
    flat = tokens[:, 1:].flatten()
    line = rows * 15 + columns - 1
    assert line[0] == 0
    assert set(flat[line[1:] - 1].tolist()) == {2}


def test_a_second_call_opens_what_the_first_one_made(tokens_of, text, monkeypatch):
    shards = tokens_of()
    assert shards.path.name.startswith("two-tales-")
    monkeypatch.setattr("tightframe.corpus.tokenization.build_shards", None)
    assert tokens_of().fingerprint == shards.fingerprint
    # The content counts: neither the name nor the age of a file.
    moved = text.rename(text.with_name("other name.txt"))
    os.utime(moved, (0, 0))
    with pytest.raises(UserError, match="no such file"):
        tokens_of()


@pytest.mark.parametrize(
    "options",
    [
        {"context": 17},
        {"bos": "never"},
        {"max_tokens": 1_000},
        {"validation_share": 0.2},
        {"documents": "files"},
    ],
)
def test_other_settings_are_made_anew(tokens_of, options):
    one, other = tokens_of(), tokens_of(**options)
    assert one.path != other.path
    assert one.fingerprint != other.fingerprint


def test_another_text_or_tokenizer_or_end_of_text_is_made_anew(tokens_of, text, model):
    paths = {tokens_of().path}
    (model / "config.json").write_text('{"eos_token_id": 0}')
    paths.add(tokens_of().path)
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"]["vocab"][-1][0] = "▁was"
    (model / "tokenizer.json").write_text(json.dumps(content))
    paths.add(tokens_of().path)
    text.write_text(text.read_text() + " And more.")
    paths.add(tokens_of().path)
    held_out = text.with_name("validation.txt")
    held_out.write_text(text.read_text())
    paths.add(tokens_of(validation=held_out).path)
    held_out.write_text(text.read_text() * 2)
    paths.add(tokens_of(validation=held_out).path)
    assert len(paths) == 6


def test_what_a_killed_process_left_is_no_cache_and_goes(tokens_of, tmp_path):
    path = tokens_of().path
    half = path.with_name(f".{path.name}.{leases.host_id()}-12345-1.part")  # of no living process
    path.rename(half)
    (half / "manifest.json").unlink()
    assert tokens_of().path == path
    assert not half.exists()


def test_a_failed_build_leaves_nothing(tokens_of, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokens_of(progress=stop)
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_processes_that_ask_at_once_wait_for_the_one_that_makes_it(tokens_of, monkeypatch):
    builds, made_here = [], []
    build_shards = tokenization.build_shards

    def counted(*arguments, **options):
        builds.append(1)
        return build_shards(*arguments, **options)

    monkeypatch.setattr("tightframe.corpus.tokenization.build_shards", counted)
    # Locks are of open files, so threads wait for each other as processes do.
    threads = [threading.Thread(target=lambda: made_here.append(tokens_of())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert len({shards.fingerprint for shards in made_here}) == 1
    assert len(made_here) == 3


def test_a_damaged_cache_says_what_to_remove(tokens_of):
    path = tokens_of().path
    (path / "train-00000.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"damaged or changed.*; remove the folder and run again"):
        tokens_of()


def test_a_data_set_goes_by_its_revision_and_is_read_at_it(tokens_of, model, tmp_path, monkeypatch):
    asked = []

    def load_dataset(name, config, *, split, streaming, revision):
        asked.append((name, split, streaming, revision))
        return iter([{"text": f"saw {revision} {index}."} for index in range(200)])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr(hub, "unreachable", lambda: False)
    paths = set()
    for revision in ("abc", "abd"):
        monkeypatch.setattr(hub, "data_set_revision", lambda name, r=revision: f"{name}@{r}")
        options = {"cache": tmp_path / "cache", "context": 8, "bos": "never", "max_tokens": 500}
        for _ in range(2):
            shards = text_tokens("hf:someone/tales", model, **options)
        assert shards.manifest["source"]["revision"] == f"someone/tales@{revision}"
        paths.add(shards.path)
    assert len(paths) == 2
    assert asked == [("someone/tales", "train", True, f"someone/tales@{r}") for r in ("abc", "abd")]
    assert all(path.name.startswith("tales-") for path in paths)


def test_a_local_data_set_goes_by_its_files(model, tmp_path, monkeypatch):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "saw"}\n')
    first = open_source(f"hf:{folder}", pinned=True)
    assert first.files == (folder / "train.jsonl",)
    assert "revision" not in first.description


def test_without_an_end_of_text_nothing_stands_between_documents(tokens_of, model):
    (model / "config.json").write_text("{}")
    shards = tokens_of()
    assert shards.end_of_text is None
    assert "no end-of-text" in shards.manifest["source"]["separator"]
    assert not any(2 in row for row in _rows(shards, "train"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 1}, "context is 1; expected 2 tokens or more"),
        ({"context": 1_000}, "a block of 1,000 is longer than the val text ("),
        ({"context": 100_000}, "smaller blocks (a smaller context) or more text"),
        ({"max_tokens": 20}, "two tales.txt: a block of 16 is longer than the val text ("),
        ({"max_tokens": 0}, "max_tokens is 0; expected 1 or more"),
    ],
)
def test_what_cannot_be_made_is_one_line(tokens_of, tmp_path, options, message):
    with pytest.raises(UserError) as caught:
        tokens_of(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path for path in tmp_path.glob("cache/*") if path.is_dir()] == []


def test_the_generated_corpus_is_not_a_text(model, tmp_path):
    with pytest.raises(UserError, match="stories: is generated, not read; make its tokens with"):
        text_tokens("stories", model, cache=tmp_path, context=8, bos="auto", max_tokens=None)


def test_special_tokens_that_a_text_spells_are_text(text, tmp_path):
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    folder = tokenizer_folders.write_folder(
        tmp_path / "model", "metaspace", template="begins", **named
    )
    text.write_text(text.read_text(encoding="utf-8").replace(" saw", "</s> <s>saw"))
    usual = {"context": 16, "bos": "auto", "max_tokens": None}
    shards = text_tokens(text, folder, cache=tmp_path / "cache", **usual)
    assert shards.notes == []
    split = shards.split("train")
    # One end between documents, and a beginning in front of each block: none of the text's own.
    rows = np.concatenate(_rows(shards, "train"))
    assert (rows == 2).sum() == len(split.document_starts()) - 1
    assert (rows == 1).sum() == len(split)
    assert "</s> <s>saw" in shards.tokenizer.decode(rows.tolist(), skip_special_tokens=False)


@pytest.fixture
def lossy(tmp_path):
    """A model whose pieces have the whole of </s> for a text that spells it, as T5's have."""
    letters = [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz.<>/"]
    made_here = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), *letters], 0))
    made_here.pre_tokenizer = pre_tokenizers.Metaspace()
    made_here.add_special_tokens(["<unk>", "</s>"])
    tokenizers.save(made_here, tmp_path / "tokenizer.json")
    return tmp_path / "tokenizer.json"


def test_special_tokens_that_cannot_be_kept_text_are_counted(lossy, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(f'{{"text": "a </s> b{"</s>" * (n == 7)}"}}\n' for n in range(20)))
    usual = {"context": 8, "bos": "auto", "max_tokens": None}
    shards = text_tokens(path, lossy, cache=tmp_path / "cache", **usual)
    assert shards.notes == [
        f"{path}: special tokens that the text spells, which this tokenizer cannot read as text: 21"
    ]


def test_special_tokens_of_a_chat_template_are_tokens(tmp_path):
    template = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"
    folder = tokenizer_folders.write_folder(
        tmp_path / "model", "byte-level", chat_template=template, bos_token="<s>", eos_token="</s>"
    )
    path = tmp_path / "chats.jsonl"
    chat = [{"role": "user", "content": "it"}, {"role": "user", "content": "</s>"}]
    path.write_text(f"{json.dumps({'messages': chat})}\n" * 20 + '{"text": "a <s>"}\n')
    usual = {"context": 8, "bos": "never", "max_tokens": None, "validation": path}
    shards = text_tokens(path, folder, cache=tmp_path / "cache", **usual)
    encode = load_tokenizer(folder).tokenizer.encode
    it, text = (encode(each, add_special_tokens=False).ids for each in ("it", "a <s>"))
    # The <s> in front of the first message goes: where blocks begin with one, the layout has it.
    documents = [[*it, 2, 1, 2, 2]] * 20 + [text]
    assert _rows(shards, "train") == reference.packed(documents, 8, 2, None)
    lines = [
        f"{path}: chats: 20, written by the tokenizer's chat template",
        f"{path}: chats whose messages spell special tokens, read as such: 20",
    ]
    assert shards.notes == lines * 2
    # Another template is another text.
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = template.replace("<s>", "")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert text_tokens(path, folder, cache=tmp_path / "cache", **usual).path != shards.path


def test_settings_beside_the_tokenizer_that_change_tokens_are_made_anew(tokens_of, model):
    paths = {tokens_of().path}
    token = {"content": "Anna", "special": False, "normalized": False, "single_word": False}
    token |= {"lstrip": False, "rstrip": False}
    for settings in ({"eos_token": "<go>"}, {"added_tokens_decoder": {"500": token}}):
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
        paths.add(tokens_of().path)
    assert len(paths) == 3
