import gzip
import http.server
import json
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from tightframe.corpus import hub, readers
from tightframe.corpus.sources import check_source, open_source
from tightframe.errors import UserError

TEXT = "".join(f"line {n} é\n\n" for n in range(300))


def _texts(source, **options):
    return [document.text for document in open_source(source, **options).read()]


def test_hidden_folders_are_not_read(tmp_path):
    # What editors keep beside a text is a copy of it: one would train on what the other validates.
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "a.txt").write_text("one")
    for hidden in (".git", "book/.ipynb_checkpoints"):
        (tmp_path / hidden).mkdir()
        (tmp_path / hidden / "a.txt").write_text("copy")
    assert _texts(tmp_path) == ["one"]


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 100_000 + "]" * 100_000])
def test_json_that_python_does_not_read_is_named_by_its_line(tmp_path, value):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "one", "n": {value}}}\n')
    with pytest.raises(UserError, match=r"a.jsonl:1: not JSON \(.*\); expected one object a line"):
        _texts(tmp_path / "a.jsonl")


def _jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def _parquet(path, texts, column="text"):
    pq.write_table(pa.table({column: texts, "id": list(range(len(texts)))}), path)
    return path


def test_paragraphs_are_what_stands_between_blank_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\ntwo\r\n\r\n \t\n\nthree \xc3\xa9\n\nfour")
    assert _texts(path) == ["one\ntwo", "three é", "four"]


def test_a_file_can_be_one_document(tmp_path):
    (tmp_path / "b.txt").write_text("one\n\ntwo\n")
    (tmp_path / "a.txt").write_text("three")
    assert _texts(tmp_path, documents="files") == ["three", "one\n\ntwo\n"]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        # A cut is behind the last blank line, else line, else space, of 40 bytes.
        ("a line\nand more\n\n\nof it\n\n" * 6, "\n\n"),
        ("no blank line\nin here\n" * 6, "\n"),
        ("no line at all " * 6, " "),
        ("猫" * 40, "猫"),
    ],
)
def test_a_long_file_is_read_in_stretches(tmp_path, monkeypatch, text, ends):
    monkeypatch.setattr(readers, "STRETCH_BYTES", 40)
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    documents = list(open_source(tmp_path, documents="files").read())
    for unit in (0, 1):
        stretches = [document for document in documents if document.unit == unit]
        assert "".join(stretch.text for stretch in stretches) == text
        assert all(stretch.text.endswith(ends) for stretch in stretches[:-1])
        assert all(20 < stretch.n_bytes <= 40 for stretch in stretches[:-1])
        # One begins where the one before ends.
        places = [stretch.place + stretch.share for stretch in stretches]
        assert [stretch.place for stretch in stretches[1:]] == pytest.approx(places[:-1])
        assert places[-1] == pytest.approx(1)


def test_what_a_document_is_has_a_name(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(UserError, match="documents: unknown 'file'; did you mean 'files'"):
        open_source(tmp_path, documents="file")


def test_jsonl_gives_the_named_field_of_every_line(tmp_path):
    path = _jsonl(
        tmp_path / "a.jsonl", [{"text": "one", "story": "x"}, {"text": "two", "story": "y"}]
    )
    path.write_text(path.read_text() + "\n")  # a blank line is no record
    assert _texts(path) == ["one", "two"]
    assert _texts(path, field="story") == ["x", "y"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_parquet_gives_the_named_column_across_row_groups(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(readers, "_PARQUET_ROWS", 3)
    texts = [f"text {index}" for index in range(10)]
    table = pa.table({"story": pa.array(texts, kind)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    assert _texts(tmp_path / "a.parquet", field="story") == texts


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    (tmp_path / "c" / "d").mkdir(parents=True)
    (tmp_path / "c" / "d" / "x.txt").write_text("3")
    (tmp_path / "e.txt").write_text("4\n\n5")
    _jsonl(tmp_path / "b.jsonl", [{"text": "1"}])
    _parquet(tmp_path / "c" / "a.parquet", ["2"])
    (tmp_path / "a.rst").write_text("not read")
    (tmp_path / ".hidden.txt").write_text("not read")
    documents = list(open_source(tmp_path).read())
    assert [document.text for document in documents] == ["1", "2", "3", "4", "5"]
    # A .txt file is a unit, each record is one.
    assert [document.unit for document in documents] == [0, 1, 2, 3, 3]
    done = [document.done for document in documents]
    assert done == sorted(done)
    assert done[0] == 0


def test_documents_know_their_bytes_and_their_place(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("éé\n\nabcd\n\n", encoding="utf-8")
    # 4 + 2 + 4 + 2 bytes: the second begins after 6 of 12.
    first, second = open_source(path).read()
    assert (first.n_bytes, first.place, first.unit_bytes) == (4, 0.0, 12)
    assert (second.n_bytes, second.place, second.unit_bytes) == (4, 0.5, 12)


def test_a_source_can_be_read_again(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    source = open_source(tmp_path)
    assert list(source.read()) == list(source.read())


def test_reading_goes_no_further_than_it_is_asked(tmp_path):
    # The second record would be refused, but only once it is read.
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\nnot json\n')
    documents = open_source(path).read()
    assert next(documents).text == "one"
    with pytest.raises(UserError):
        next(documents)


def test_a_document_that_has_no_end_is_refused_before_it_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 100)
    path = tmp_path / "a.txt"
    path.write_text("word " * 50)
    with pytest.raises(UserError, match=r"a\.txt: no blank line in"):
        _texts(path)
    path.write_text("word\n" * 50)
    with pytest.raises(UserError, match=r"a\.txt: no blank line in"):
        _texts(path)
    with pytest.raises(UserError, match=r"b\.jsonl:1: 200 bytes, longer than a document can be"):
        _texts(_jsonl(tmp_path / "b.jsonl", [{"text": "x" * 200}]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt: is empty; expected text"),
        ("a.txt", b" \n\n \n", "a.txt: holds no text"),
        ("a.txt", b"fine\n\nab\x00c", "a.txt: binary, or not UTF-8 (NUL at byte 8)"),
        ("a.txt", "\ufeffab".encode("utf-16"), "a.txt: binary, or not UTF-8 (NUL at byte"),
        ("a.txt", b"fine\n\ncaf\xe9 x", "a.txt: not UTF-8 text (byte 9); convert it first"),
        (
            "a.csv",
            b"x,y",
            "a.csv: not a kind of file that can be read; expected .txt, .md, .jsonl (each also .gz "
            "or .zst), .parquet; convert it to one",
        ),
        ("a.jsonl", b"", "a.jsonl: is empty; expected text"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "a.jsonl:2: not JSON ("),
        ("a.jsonl", b'\n["text"]\n', "a.jsonl:2: not a JSON object; expected one object a line"),
        (
            "a.jsonl",
            b'{"texts": "x", "id": 1}',
            "a.jsonl:1: no field 'text', but texts, id; did you mean 'texts'?",
        ),
        ("a.jsonl", b'{"text": null}', "a.jsonl:1: 'text' is NoneType, expected text"),
        ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl:1: not text that UTF-8 can hold"),
        ("a.jsonl", b'{"text": "\xe9"}', "a.jsonl:1: not UTF-8 text (byte 10)"),
        ("a.jsonl", b'{"text": "\x00"}', "a.jsonl:1: binary, or not UTF-8 (NUL at byte 10)"),
        ("a.parquet", b"PAR1 but not really", "a.parquet: not a .parquet file, or damaged ("),
        ("a.parquet", b"plain", "a.parquet: not a .parquet file, or damaged (its first bytes)"),
        ("a.TXT.GZ", b"plain", "a.TXT.GZ: not a .GZ file, or damaged (its first bytes)"),
        ("a.md.zst", b"plain", "a.md.zst: not a .zst file, or damaged (its first bytes)"),
        ("a.parquet.gz", b"x", "a.parquet.gz: not a kind of file that can be read"),
        ("a.gz", b"x", "a.gz: not a kind of file that can be read"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "a.txt.gz: is empty; expected text"),
        ("a.jsonl", b'{"text": " \\n"}\n', "a.jsonl: holds no text; remove it or fill it"),
    ],
)
def test_bad_files_are_refused_in_one_line_that_names_them(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        _texts(path)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(caught.value)


def _zstd(data):
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


@pytest.mark.parametrize("name", ["a.txt", "a.MD", "a.Txt.gz", "a.md.GZ", "a.txt.zst"])
def test_text_is_the_same_in_every_kind_of_file(tmp_path, name):
    pack = {".gz": gzip.compress, ".zst": _zstd}.get((tmp_path / name).suffix.lower(), bytes)
    (tmp_path / name).write_bytes(pack(TEXT.encode()))
    (tmp_path / "plain.txt").write_text(TEXT, encoding="utf-8")
    # Places and lengths are those of the text unpacked: the validation split goes by them.
    assert list(open_source(tmp_path / name).read()) == list(
        open_source(tmp_path / "plain.txt").read()
    )


def test_members_of_a_compressed_file_follow_one_another(tmp_path):
    records = [b'{"text": "one"}\n', b'{"text": "two"}\n']
    for suffix, pack in ((".gz", gzip.compress), (".zst", _zstd)):
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(b"".join(map(pack, records)))
        assert _texts(path) == ["one", "two"]


@pytest.mark.parametrize("pack", [gzip.compress, _zstd])
def test_a_compressed_file_that_is_cut_short_is_one_line(tmp_path, pack):
    path = tmp_path / ("a.txt.gz" if pack is gzip.compress else "a.txt.zst")
    path.write_bytes(pack(TEXT.encode() * 50)[:-9])
    with pytest.raises(UserError, match=r"cannot be read \(.*\); it is damaged or cut short$"):
        open_source(path)


def test_a_file_that_unpacks_to_a_thousand_times_its_size_is_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_MAX_RATIO_FROM", 2**20)
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"a\n\n" * 2**20))
    with pytest.raises(UserError, match="unpacks to more than 200 times its size"):
        open_source(path)


def test_a_nested_field_is_named_by_its_path(tmp_path):
    records = [{"meta": {"text": "one", "more": {"x.y": "two"}}, "a.b": "three", "a": {"b": 4}}]
    path = _jsonl(tmp_path / "a.jsonl", records)
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    for each in (path, tmp_path / "a.parquet"):
        assert _texts(each, field="meta.text") == ["one"]
        assert _texts(each, field="a.b") == ["three"]  # the name as it stands comes first
        with pytest.raises(UserError, match=r"no field 'meta\.txt', but meta\.text, meta\.more"):
            _texts(each, field="meta.txt")
        with pytest.raises(UserError, match=r"no field 'meta\.text\.x'"):
            _texts(each, field="meta.text.x")


CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]


def test_chats_are_joined_or_written_by_a_template(tmp_path):
    path = _jsonl(tmp_path / "a.jsonl", [{"messages": CHAT}, {"text": "plain"}])
    source = open_source(path)
    documents = list(source.read())
    assert [document.text for document in documents] == ["Who?\n\nI.", "plain"]
    assert not any(document.templated for document in documents)
    assert source.notes() == [
        f"{path}: chats: 1, their messages joined with blank lines (no chat template)"
    ]

    def template(chat):
        return "".join(f"[{message['role']}]{message['content']}" for message in chat), True

    source = open_source(path, chat_template=template)
    first, second = source.read()
    assert (first.text, first.templated) == ("[user]Who?[assistant]I.", True)
    assert (second.text, second.templated) == ("plain", False)
    assert source.notes() == [
        f"{path}: chats: 1, written by the tokenizer's chat template",
        f"{path}: chats whose messages spell special tokens, read as such: 1",
    ]


def test_a_chat_that_cannot_be_written_is_named(tmp_path):
    path = _jsonl(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": None}]}])
    with pytest.raises(UserError, match=r"a\.jsonl:1: a message of a chat has no text"):
        _texts(path)
    path = _jsonl(tmp_path / "a.jsonl", [{"messages": CHAT}])

    def template(chat):
        raise ValueError("roles must alternate")

    with pytest.raises(UserError, match=r"a\.jsonl:1: .* refuses this chat \(ValueError: roles"):
        _texts(path, chat_template=template)


def test_what_is_passed_over_is_counted(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    for name in ("empty.txt", "b.docx", "c.DOCX", "d.pdf", "README.md"):
        (tmp_path / name).write_text("")
    _jsonl(tmp_path / "e.jsonl", [{"text": " \n"}, {"text": "two"}, {"text": ""}])
    source = open_source(tmp_path)
    for _ in range(2):  # each reading counts anew
        assert [document.text for document in source.read()] == ["one", "two"]
        assert source.notes() == [
            f"{tmp_path}: other files, not read: 4 (.docx 2, README.md 1, .pdf 1)",
            f"{tmp_path}: files without text, passed over: 1",
            f"{tmp_path}: records of white space only, passed over: 2",
        ]


def test_a_folder_of_empty_files_is_refused(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(" \n")
    with pytest.raises(UserError, match="none of its 2 files holds text"):
        _texts(tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A data set of 2,500 records, and one of two splits, as the package datasets saves them."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    folder = tmp_path_factory.mktemp("saved")
    texts = [f"text {n}" for n in range(2500)]
    whole = datasets.Dataset.from_dict({"text": texts, "meta": [{"n": "x"}] * len(texts)})
    whole.save_to_disk(folder / "one", num_shards=2)
    parts = {"train": whole.select(range(2, 5)), "test": whole.select([7])}
    datasets.DatasetDict(parts).save_to_disk(folder / "parts")
    (folder / "one" / "cache-1.arrow").write_text("what the package keeps beside them")
    return folder


def test_a_saved_data_set_is_read_without_its_package(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert _texts(saved / "one") == [f"text {n}" for n in range(2500)]
    assert set(_texts(saved / "one", field="meta.n")) == {"x"}
    assert _texts(saved / "parts") == ["text 2", "text 3", "text 4"]
    assert _texts(saved / "parts" / "test") == ["text 7"]
    assert _texts(f"hf:{saved / 'parts'}@test") == ["text 7"]
    assert open_source(saved / "one").notes() == []
    documents = list(open_source(saved / "one").read())
    done = [document.done for document in documents]
    assert done == sorted(done)
    assert 0 <= done[0] < 0.1
    with pytest.raises(UserError, match="without a split 'dev', but train, test; use hf:"):
        _texts(f"hf:{saved / 'parts'}@dev")


def test_a_damaged_saved_data_set_is_one_line(saved, tmp_path):
    shutil.copytree(saved / "one", tmp_path / "one")
    path = next((tmp_path / "one").glob("data-*.arrow"))
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(UserError, match=r"not a \.arrow file, or damaged|cannot be read"):
        _texts(tmp_path / "one")
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        _texts(tmp_path / "one")
    (tmp_path / "one" / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    with pytest.raises(UserError, match=r"one/x\.arrow: cannot be read"):  # never outside
        _texts(tmp_path / "one")
    (tmp_path / "one" / "state.json").write_text('{"_data_files": [3]}')
    with pytest.raises(UserError, match="names no data files"):
        _texts(tmp_path / "one")


def test_a_source_is_checked_without_being_read(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "a.txt"
    # Only the first 64 KiB are looked at; they may end within a character.
    path.write_bytes("é".encode() * 2**16 + b"\xff")
    check_source(path)
    check_source(tmp_path)
    check_source("hf:someone/set")
    check_source("stories", generated=True)
    for wrong, message in {
        "stories": "is generated, not read",
        "hf:": "not a data set",
        str(tmp_path / "b.docx"): "no such file or folder",
        str(tmp_path / "c.docx"): r"not a kind of file that can be read; expected \.txt, .*convert",
        str(tmp_path / "d.txt"): "is empty",
        str(tmp_path / "e.txt"): "binary, or not UTF-8",
        str(tmp_path / "f.txt"): r"not UTF-8 text \(byte 1\)",
        str(tmp_path / "g.txt"): "holds no text",
        str(tmp_path / "h.jsonl"): "holds no text",
        str(tmp_path / "i.jsonl"): "i.jsonl:2: not JSON",
        str(tmp_path / "j.jsonl"): "j.jsonl:1: not a JSON object",
        str(tmp_path / "none"): r"holds no readable file; expected .*; it holds \.docx 1",
    }.items():
        (tmp_path / "c.docx").write_bytes(b"PK")
        (tmp_path / "d.txt").write_bytes(b"")
        (tmp_path / "e.txt").write_bytes(b"PK\x00")
        (tmp_path / "f.txt").write_bytes(b"a\xe9")
        (tmp_path / "g.txt").write_bytes(b"\xef\xbb\xbf \n\n\t\n")
        (tmp_path / "h.jsonl").write_bytes(b"\n \n")
        (tmp_path / "i.jsonl").write_bytes(b'\n{"text"\n')
        (tmp_path / "j.jsonl").write_bytes(b"[1]\n" + b"x" * 2**17)
        (tmp_path / "none").mkdir(exist_ok=True)
        (tmp_path / "none" / "a.docx").write_bytes(b"PK")
        with pytest.raises(UserError, match=message):
            check_source(wrong)


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.docx", "a.docx: not a kind of file"), ("a.txt", "taken: already exists; remove it")],
)
def test_a_build_is_refused_before_anything_heavy_is_imported(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"PK")
    (tmp_path / "taken").mkdir()
    arguments = ["corpus", "build", str(tmp_path / name), "--out", str(tmp_path / "taken")]
    arguments += ["--vocab-size", "300"]
    program = (
        "import sys\n"
        "from tightframe import cli\n"
        "try:\n"
        f"    cli.main({arguments!r})\n"
        "except SystemExit as stopped:\n"
        "    print(stopped.code, 'torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "2 False False\n"
    assert message in done.stderr


def test_columns_that_are_missing_or_not_text_are_refused(tmp_path):
    path = _parquet(tmp_path / "a.parquet", ["x", None])
    with pytest.raises(
        UserError, match=r"a\.parquet: no field 'tekst', but text, id; did you mean 'text'\?"
    ):
        _texts(path, field="tekst")
    with pytest.raises(UserError, match=r"a\.parquet: row 1: 'id' is int, expected text"):
        _texts(path, field="id")
    with pytest.raises(UserError, match=r"a\.parquet: row 2: 'text' is NoneType, expected text"):
        _texts(path)


def test_paths_without_text_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no such file or folder; expected a file \(\.txt"):
        open_source(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="holds no readable file"):
        open_source(tmp_path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x")
    source = open_source(path)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.txt: cannot be read \(No such file"):
        list(source.read())


@pytest.fixture
def closed_hub(monkeypatch):
    """A hub at a port that nothing listens at; waiting to try again is a failure."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waited {seconds} s"))


def test_a_hub_that_does_not_answer_is_told_without_waiting(closed_hub):
    assert hub.unreachable()
    with pytest.raises(UserError) as caught:
        _texts("hf:someone/set")
    assert str(caught.value) == (
        "hf:someone/set: the Hugging Face hub does not answer; set HF_HUB_OFFLINE=1 to read what "
        "was fetched before"
    )


def test_a_hub_that_answers_with_an_error_is_reachable(monkeypatch):
    # Its own message says more than ours could.
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(503)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert not hub.unreachable()


def test_in_offline_mode_nothing_is_asked(closed_hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: pytest.fail("asked"))
    assert not hub.unreachable()


@pytest.fixture
def open_hub(monkeypatch):
    monkeypatch.setattr(hub, "unreachable", lambda: False)


class _Hub:
    """Stands in for the package datasets; notes what it was asked for."""

    def __init__(self, records):
        self.records, self.asked = records, []

    def load_dataset(self, name, config, *, split, streaming):
        assert streaming
        self.asked.append((name, config, split))
        return iter(self.records)


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("hf:someone/set", ("someone/set", None, "train")),
        ("hf:someone/set:plain", ("someone/set", "plain", "train")),
        ("hf:someone/set@validation", ("someone/set", None, "validation")),
        ("hf:set:plain@test", ("set", "plain", "test")),
    ],
)
def test_a_data_set_is_named_with_configuration_and_split(open_hub, monkeypatch, source, asked):
    stand_in = _Hub([{"text": "one"}, {"text": "zwei é"}])
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    documents = list(open_source(source).read())
    assert stand_in.asked == [asked]
    assert [document.text for document in documents] == ["one", "zwei é"]
    assert [document.unit for document in documents] == [0, 1]
    assert documents[1].n_bytes == 7
    assert documents[1].done is None


def test_a_data_set_is_streamed(open_hub, monkeypatch):
    def endless():
        yield {"text": "one"}
        raise AssertionError("read further than asked")

    monkeypatch.setitem(sys.modules, "datasets", _Hub(endless()))
    assert next(open_source("hf:set").read()).text == "one"


def test_a_local_data_set_folder_is_read_by_the_real_package(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    _parquet(tmp_path / "set" / "train.parquet", ["one", "two"])
    _parquet(tmp_path / "set" / "test.parquet", ["three"])
    assert _texts(f"hf:{tmp_path / 'set'}") == ["one", "two"]
    assert _texts(f"hf:{tmp_path / 'set'}@test") == ["three"]


def test_data_sets_that_cannot_be_read_are_one_line(open_hub, monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to host\nand a long tale")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=unreachable))
    with pytest.raises(UserError) as caught:
        _texts("hf:someone/set")
    assert str(caught.value) == (
        "hf:someone/set: cannot be read after 0 records (ConnectionError: no route to host)"
    )
    monkeypatch.setitem(sys.modules, "datasets", _Hub([{"story": "x", "id": 1}]))
    with pytest.raises(UserError, match="record 1: no field 'text', but story, id"):
        _texts("hf:set")
    monkeypatch.setitem(sys.modules, "datasets", _Hub([]))
    with pytest.raises(UserError, match="hf:set: holds no records"):
        _texts("hf:set")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'tightframe\[hf\]'"):
        _texts("hf:set")
    with pytest.raises(UserError, match=r"expected hf:NAME\[:CONFIG\]\[@SPLIT\]"):
        _texts("hf:")


@pytest.mark.parametrize("silent", [True, False])
def test_a_data_set_whose_revision_is_not_told_is_one_line(monkeypatch, silent):
    def gone(self, name):
        raise ConnectionError("no route to host\nand a long tale")

    monkeypatch.setattr(hub, "unreachable", lambda: silent)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", gone)
    why = "does not answer" if silent else "did not give it (ConnectionError: no route to host)"
    with pytest.raises(UserError) as caught:
        hub.data_set_revision("someone/set")
    assert str(caught.value) == f"hf:someone/set: the Hugging Face hub {why}"


def test_the_revision_of_a_data_set_is_its_commit(monkeypatch):
    told = {"someone/set": SimpleNamespace(sha="abc")}
    monkeypatch.setattr(hub, "unreachable", lambda: False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name: told[name])
    assert hub.data_set_revision("someone/set") == "abc"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.data_set_revision("someone/set") is None
