import itertools
import json

import pytest

from tightframe.corpus import readers, splits
from tightframe.corpus.sources import open_source

SPLITS = ("train", "val")


def _made(source, share=0.1, seed=0, **options):
    return list(splits.made(open_source(source, **options), share, seed).read(set(SPLITS)))


def _texts(documents, split):
    return [document.text for name, document in documents if name == split]


def _records(path, n):
    path.write_text("".join(json.dumps({"text": f"record {index}"}) + "\n" for index in range(n)))
    return path


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.3, 0.5, 0.9])
def test_records_are_taken_whole_in_their_share(tmp_path, share):
    documents = _made(_records(tmp_path / "a.jsonl", 1_000), share)
    assert [document.text for _, document in documents] == [f"record {i}" for i in range(1_000)]
    # One of every 1 / share: exact but for the last, unfinished round.
    assert len(_texts(documents, "val")) == pytest.approx(1_000 * share, abs=1)


def test_every_round_of_records_gives_one_at_a_place_that_the_seed_draws(tmp_path):
    path = _records(tmp_path / "a.jsonl", 100)
    chosen = {}
    for seed in range(50):
        names = [name for name, _ in _made(path, 0.1, seed)]
        rounds = [names[start : start + 10] for start in range(0, 100, 10)]
        assert all(part.count("val") == 1 for part in rounds)
        chosen[seed] = tuple(part.index("val") for part in rounds)
    assert chosen[3] == tuple(
        [name for name, _ in _made(path, 0.1, 3)][start : start + 10].index("val")
        for start in range(0, 100, 10)
    )
    assert len(set(chosen.values())) == 50
    # 500 draws of 10 places: each comes 50 times, give or take 4 standard deviations of 6.7.
    draws = list(itertools.chain.from_iterable(chosen.values()))
    assert all(abs(draws.count(place) - 50) < 27 for place in range(10))


def test_a_long_file_gives_its_last_paragraphs(tmp_path):
    path = tmp_path / "a.txt"
    # 20 paragraphs of 9 bytes each, with their line ends: 180 bytes.
    path.write_text("".join(f"par {i:03d}\n\n"[:10] for i in range(20)))
    assert len(path.read_bytes()) == 180
    documents = _made(path, 0.1)
    # Paragraph i begins at byte 9 i; 162 = 0.9 * 180 is where number 18 begins.
    assert _texts(documents, "val") == ["par 018", "par 019"]
    assert _texts(documents, "train") == [f"par {i:03d}" for i in range(18)]


def test_paragraphs_of_many_files_stay_with_their_file(tmp_path):
    for file in range(40):
        (tmp_path / f"{file:02d}.txt").write_text("\n\n".join(f"{file} {i}" for i in range(5)))
    documents = _made(tmp_path, 0.1)
    files = {name: {text.split()[0] for text in _texts(documents, name)} for name in SPLITS}
    assert len(files["val"]) == 4
    assert not files["train"] & files["val"]
    assert len(documents) == 200


def test_a_long_document_is_cut_at_a_line_or_else_at_a_blank(tmp_path):
    path = tmp_path / "a.txt"
    text = "\n".join(f"line {i:02d}" for i in range(40)) + "\n"  # 40 lines of 8 characters
    path.write_text(text)
    documents = _made(path, 0.25, documents="files")
    assert [name for name, _ in documents] == ["train", "val"]
    assert "".join(document.text for _, document in documents) == text
    # Character 240 is the first of line 30; the cut is after its end, at the next line.
    assert _texts(documents, "val")[0].startswith("line 31\n")
    assert [document.n_bytes for _, document in documents] == [248, 72]
    path.write_text("word " * 20 + "\n")
    documents = _made(path, 0.25, documents="files")
    assert _texts(documents, "val") == ["word " * 4 + "\n"]
    path.write_text("w" * 100)
    assert [name for name, _ in _made(path, 0.25, documents="files")] == ["train"]


@pytest.mark.parametrize("stretch", [40, 100, 160, 2**22])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_last_share_of_a_file_in_stretches_is_in_one_piece(tmp_path, monkeypatch, stretch, end):
    monkeypatch.setattr(readers, "STRETCH_BYTES", stretch)
    path = tmp_path / "a.txt"
    text = "".join(f"l{i:02d}{end}" for i in range(80))
    path.write_text(text, newline="")
    documents = _made(path, 0.25, documents="files")
    names = [name for name, _ in documents]
    assert names == sorted(names)  # nothing of train after validation has begun
    assert "".join(document.text for _, document in documents) == text.replace("\r\n", "\n")
    # A quarter of 80 lines, from the line after the mark; or from the next stretch on where one is
    # shorter than the share.
    lines = "".join(_texts(documents, "val")).split()
    most = stretch // (3 + len(end)) if stretch < len(text) / 4 else 1
    assert 20 - most <= len(lines) <= 20
    assert lines == text.split()[-len(lines) :]


def test_of_two_long_paragraphs_the_end_of_the_second_validates(tmp_path):
    path = tmp_path / "a.txt"
    first, second = ("".join(f"{name} {i:02d}\n" for i in range(40)) for name in "ab")
    path.write_text(f"{first}\n{second}")
    documents = _made(path, 0.25)
    assert [name for name, _ in documents] == ["train", "train", "val"]
    # The mark, 3/4 of 401 bytes, is 99.75 bytes into the second one, which has lines of 5.
    assert _texts(documents, "val") == ["".join(f"b {i:02d}\n" for i in range(20, 40)).rstrip()]


def test_short_files_are_taken_whole_beside_a_long_one(tmp_path):
    for file in range(10):
        (tmp_path / f"{file}.txt").write_text(f"short {file}")
    (tmp_path / "long.txt").write_text("\n\n".join(f"paragraph {i:03d}" for i in range(100)))
    documents = _made(tmp_path, 0.1)
    held_out = _texts(documents, "val")
    assert len([text for text in held_out if text.startswith("short")]) == 1
    assert [text for text in held_out if text.startswith("par")] == [
        f"paragraph {i:03d}" for i in range(90, 100)
    ]


def test_a_given_validation_is_all_of_it(tmp_path):
    train = open_source(_records(tmp_path / "a.jsonl", 3))
    validation = open_source(_records(tmp_path / "b.jsonl", 2))
    text = splits.given(train, validation)
    documents = list(text.read(set(SPLITS)))
    assert [name for name, _ in documents] == ["train"] * 3 + ["val"] * 2
    assert text.description["validation"]["text"] == str(tmp_path / "b.jsonl")


def test_reading_stops_where_enough_was_had(tmp_path):
    path = _records(tmp_path / "a.jsonl", 100)
    path.write_text(path.read_text() + "not json\n")  # would be refused if it were reached
    wanted = {"train", "val"}
    for count, _ in enumerate(splits.made(open_source(path), 0.1, 0).read(wanted)):
        if count == 30:
            wanted.clear()
    assert count == 30
    # Of a given validation split all is read, although the training text was enough.
    train = open_source(path)
    wanted = {"train", "val"}
    seen = []
    for split, _ in splits.given(train, open_source(_records(tmp_path / "b.jsonl", 2))).read(
        wanted
    ):
        seen.append(split)
        wanted.discard("train")
    assert seen == ["train", "val", "val"]
    assert [split for split, _ in splits.made(train, 0.5, 0).read(set())] == []
