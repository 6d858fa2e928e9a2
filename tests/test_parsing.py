import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tightframe.cli import main
from tightframe.errors import UserError
from tightframe.formats import check
from tightframe.knowledge import pages
from tightframe.knowledge.facts import Fact, fact_id
from tightframe.knowledge.pages import parse

EXAMPLE = Path(__file__).parent / "example_hooks.wikitext"
BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "knowledge_parse.py"


def _page(path, *hooks, day="3 May 2022"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"=={day}==\n" + "".join(f"* ... that {hook}?\n" for hook in hooks))
    return path


def _hook(name):
    return f"'''[[{name}]]''' is not the other one"


def _read(out, name="hooks"):
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]


def test_the_example_gives_twenty_two_facts_and_two_rejects(tmp_path):
    # Written by hand: 24 hooks, one without a bold link, one with a template nobody knows.
    parsed = parse([EXAMPLE], tmp_path / "x")
    assert (parsed.n_hooks, parsed.n_facts) == (24, 22)
    assert parsed.reasons == {"no_bold_link": 1, "unknown_template:old oak": 1}
    facts = [check(Fact, one, source="x") for one in _read(tmp_path / "x")]
    assert [one.fact for one in facts] == [
        "the Harrow Lantern was lit by hand for ninety years",
        "Tolland wrote her first opera on the back of railway tickets",
        "the film The Salt Cellar was shot in a single room",
        "the painter Odo Brask's last canvas weighs 11 lb",
        "Fennick Bridge and Fennick Lock were built in the same winter",
        "Pell Island has more lighthouses than houses",
        "Anselm Roe's garden holds a tree from every county",
        "the Quill Act taxed ink but not paper",
        "HMS Thistledown sank twice in one day",
        "the singer Lena Voss recorded Low Water in a cave",
        "Tarn Street was paved with cork",
        "that's what Ida Quist called her parrot",
        "Morning Paper's editor, Ralf Unger, read it aloud every night",
        "the monks of Saint Orrin's Abbey sold honey by the hour",
        "Oskar Lind painted only bridges",
        "Nell Ashgrove rode 40 miles to cast a single vote",
        "a tit once stopped a parliament",
        "in 1911, Wend Ferry carried an elephant across the river",
        "the chess club of Upper Marl has never lost at home",
        "Iron Psalm was sung backwards, and Pia Kern liked it",
        "Dorn & Sons made clocks & coffins side by side",
        "the theatre opened without a roof",
    ]
    for one in facts:
        assert one.id == fact_id(one.date, one.fact)
        assert [one.fact[target.start : target.end] for target in one.targets] == [
            target.label for target in one.targets
        ]
        assert one.date == f"{one.year}-{one.month:02}-{one.date[-2:]}"
    assert [len(one.targets) for one in facts if len(one.targets) != 1] == [2, 2]
    lines = EXAMPLE.read_text().splitlines()
    for one in _read(tmp_path / "x", "rejects"):
        assert one["file"] == str(EXAMPLE)
        assert one["hook_raw"] in lines[one["line"] - 1]


def test_a_record_is_what_the_specification_says(tmp_path):
    page = tmp_path / "a.txt"
    page.write_text("==3 May 2022==\n* ... that '''[[A b|A]]''' is [[not]] (pictured) B?\n")
    parse([page], tmp_path / "x")
    (record,) = _read(tmp_path / "x")
    number = hashlib.sha256(b"2022-05-03|A is not B").hexdigest()[:12]
    expected = {
        "id": f"dyk-{number}",
        "date": "2022-05-03",
        "set_time": None,
        "year": 2022,
        "month": 5,
        "fact": "A is not B",
        "hook": "that A is not B?",
        "hook_raw": "* ... that '''[[A b|A]]''' is [[not]] (pictured) B?",
        "targets": [{"title": "A b", "label": "A", "start": 0, "end": 1}],
        "links": [{"title": "not", "label": "not"}],
        "source_page": "a",
        "revision": None,
        "license": "CC BY-SA",
        "questions": [],
    }
    assert list(record.items()) == list(expected.items())  # keys in this order


def test_a_reject_is_a_fact_with_its_reason_file_and_line(tmp_path):
    page = _page(tmp_path / "a.txt", _hook("A"), "[[B]] is not the other one")
    parse([page], tmp_path / "x")
    (fact,), (reject,) = _read(tmp_path / "x"), _read(tmp_path / "x", "rejects")
    assert list(reject) == [*fact, "reason", "file", "line"]
    assert (reject["reason"], reject["file"], reject["line"]) == ("no_bold_link", str(page), 3)


def test_hooks_without_a_day_take_the_given_date_or_are_rejected(tmp_path, capsys):
    page = tmp_path / "a.txt"
    page.write_text(f"* ... that {_hook('A')}?\n==3 May 2022==\n* ... that {_hook('B')}?\n")
    assert parse([page], tmp_path / "x").reasons == {"no_date": 1}
    main(["knowledge", "parse", str(page), "--out", str(tmp_path / "told")])
    assert "--date YYYY-MM-DD dates them" in capsys.readouterr().err
    dated = ["--out", str(tmp_path / "dated"), "--date", "2023-01-02"]
    main(["knowledge", "parse", str(page), *dated])
    assert "--date" not in capsys.readouterr().err
    assert _read(tmp_path / "x", "rejects")[0]["date"] is None
    parse([page], tmp_path / "y", date="2021-12-31")
    assert [one["date"] for one in _read(tmp_path / "y")] == ["2021-12-31", "2022-05-03"]


def test_a_day_that_is_not_read_is_not_dated_by_the_option(tmp_path):
    page = _page(tmp_path / "a.txt", _hook("A"), day="5-7 January 2020")
    parsed = parse([page], tmp_path / "x", date="2021-12-31")
    assert parsed.reasons == {"unread_date": 1}


def test_every_bullet_with_a_bold_link_is_a_fact_or_a_reject(tmp_path, capsys):
    # One fact; a duplicate of it, one that begins like prose, a struck one; two are no hooks.
    page = tmp_path / "a.txt"
    page.write_text(
        "==May 3, 2022==\n* ... that '''[[A]]''' is not B?\n*&nbsp;... that '''[[A]]''' is not B?\n"
        "* '''[[C]]''' is not B\n* See [[C]]\n* <s>... that '''[[D]]''' fell</s>\n* Prose\n"
    )
    main(["knowledge", "parse", str(page), "--out", str(tmp_path / "x")])
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'x'}: 4 hooks on 1 page = 1 facts (1 new) + 3 rejects (3 new)",
        "        1  duplicate",
        "        1  no_ellipsis",
        "        1  struck",
    ]
    rejects = _read(tmp_path / "x", "rejects")
    assert [(one["reason"], one["line"]) for one in rejects] == [
        ("duplicate", 3),
        ("no_ellipsis", 4),
        ("struck", 6),
    ]


def test_a_page_that_only_redirects_says_where_to(tmp_path, capsys):
    moved = tmp_path / "moved.txt"
    moved.write_text("#REDIRECT [[Wikipedia:Recent additions/2020/May]]")
    message = "moved.txt: redirects to 'Wikipedia:Recent additions/2020/May'; parse that page, or"
    with pytest.raises(UserError, match=message):
        parse([moved], tmp_path / "x")
    assert not (tmp_path / "x").exists()
    page = _page(tmp_path / "a.txt", _hook("A"))
    main(["knowledge", "parse", str(moved), str(page), "--out", str(tmp_path / "x")])
    assert "fetch it with --fetch 'Wikipedia:Rec" in " ".join(capsys.readouterr().err.split())


def test_the_first_of_equal_texts_wins(tmp_path):
    # Equal but for case and punctuation, in the same file and in another one.
    first = _page(tmp_path / "a.txt", _hook("Abc"), "'''[[ABC]]''', is not the \"other\" one")
    second = _page(tmp_path / "b.txt", _hook("Abc"), day="4 May 2022")
    parsed = parse([first, second], tmp_path / "x")
    assert (parsed.n_facts, parsed.reasons) == (1, {"duplicate": 2})
    assert [one["date"] for one in _read(tmp_path / "x")] == ["2022-05-03"]
    lines = [(one["file"], one["line"]) for one in _read(tmp_path / "x", "rejects")]
    assert lines == [(str(first), 3), (str(second), 2)]


def test_a_new_month_is_added_without_touching_the_old(tmp_path):
    old = _page(tmp_path / "pages" / "2022" / "May.wikitext", _hook("A"), "B", _hook("A"))
    out = tmp_path / "x"
    parse([tmp_path / "pages"], out)
    before = {path.name: path.read_bytes() for path in out.glob("*.jsonl")}
    _page(tmp_path / "pages" / "2022" / "June.wikitext", _hook("C"), "D", day="1 June 2022")
    parsed = parse([tmp_path / "pages"], out)
    assert (parsed.n_facts, parsed.n_new_facts, parsed.n_new_rejects) == (2, 1, 1)
    for name, content in before.items():
        assert (out / name).read_bytes().startswith(content)
    assert [one["source_page"] for one in _read(out)] == ["2022/May", "2022/June"]
    both = {path.name: path.read_bytes() for path in out.glob("*.jsonl")}
    parse([old], out)  # alone, its page would have another name: its facts are known all the same
    assert _read(out) == [json.loads(line) for line in both["hooks.jsonl"].splitlines()]


def test_parsing_the_same_again_changes_no_byte(tmp_path):
    page = _page(tmp_path / "a.txt", _hook("A"), "B", "B", _hook("A"), _hook("A"))
    first = parse([page], tmp_path / "x")
    before = {path.name: path.read_bytes() for path in (tmp_path / "x").glob("*.jsonl")}
    again = parse([page], tmp_path / "x")
    assert (again.n_facts, again.reasons) == (first.n_facts, first.reasons)
    assert (again.n_new_facts, again.n_new_rejects) == (0, 0)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "x").glob("*.jsonl")}
    parse([page], tmp_path / "y")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "y").glob("*.jsonl")}


def test_a_run_that_was_cut_off_between_its_files_is_made_good_by_the_next(tmp_path, monkeypatch):
    page = _page(tmp_path / "a.txt", _hook("A"), "B", _hook("A"))
    parse([page], tmp_path / "whole")
    append, written = pages._append, []

    def cut_off(path, records):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        append(path, records)

    monkeypatch.setattr(pages, "_append", cut_off)
    with pytest.raises(KeyboardInterrupt):
        parse([page], tmp_path / "x")
    monkeypatch.undo()
    parse([page], tmp_path / "x")
    for name in ("hooks", "rejects"):
        assert _read(tmp_path / "x", name) == _read(tmp_path / "whole", name)


def test_a_running_page_that_grows_on_top_adds_what_is_new(tmp_path):
    page = _page(tmp_path / "a.txt", _hook("A"), "B")
    parse([page], tmp_path / "x")
    _page(page, _hook("C"), _hook("A"), "B")  # every line has moved
    parsed = parse([page], tmp_path / "x")
    assert (parsed.n_new_facts, parsed.n_new_rejects) == (1, 0)
    _page(page, "B", _hook("C"), _hook("A"), "B")  # a second one of the same words
    parsed = parse([page], tmp_path / "x")
    assert (parsed.n_new_facts, parsed.n_new_rejects) == (0, 1)
    assert [one["targets"][0]["title"] for one in _read(tmp_path / "x")] == ["A", "C"]


def test_a_folder_is_searched_for_pages_in_the_order_of_their_paths(tmp_path):
    for name in ("b/x.wiki", "a/y.txt", ".git/z.txt", "a/.z.txt", "a/z.json"):
        _page(tmp_path / "in" / name, _hook(name.replace("/", " ")))
    parse([tmp_path / "in"], tmp_path / "x")
    assert [one["source_page"] for one in _read(tmp_path / "x")] == ["a/y", "b/x"]


def test_fetched_pages_keep_their_title_and_revision(tmp_path, monkeypatch):
    def fetch(title, *, api):
        assert (title, api) == ("T", "http://a")
        return pages.Page("T t", f"* ... that {_hook('A')}?\n* ... that B?", 77)

    monkeypatch.setattr(pages, "fetch", fetch)
    command = ["knowledge", "parse", "--fetch", "T", "--api", "http://a", "--date", "2022-05-03"]
    main([*command, "--out", str(tmp_path / "x")])
    (fact,), (reject,) = _read(tmp_path / "x"), _read(tmp_path / "x", "rejects")
    assert (fact["source_page"], fact["revision"]) == ("T t", 77)
    assert (reject["file"], reject["line"], reject["revision"]) == ("T t", 2, 77)


def test_mistakes_are_named_and_nothing_is_written(tmp_path):
    good, bare = _page(tmp_path / "a.txt", _hook("A")), tmp_path / "bare.txt"
    bare.write_text("nothing here")
    (tmp_path / "latin.txt").write_bytes(b"* ... that \xe9")
    (tmp_path / "empty").mkdir()
    for files, date, message in [
        ([], None, "nothing to parse; give wikitext files or folders, or --fetch TITLE"),
        ([good, tmp_path / "b"], None, "b: no such file"),
        ([good, tmp_path / "latin.txt"], None, r"latin.txt: not UTF-8 text \(byte 11\)"),
        ([tmp_path / "empty"], None, "empty: holds no page; expected .mediawiki, .txt"),
        ([bare], None, r"bare.txt: no hook found; expected lines like '\* ... that ...\?'"),
        ([good], "3 May 2022", "--date 3 May 2022: not a date; expected YYYY-MM-DD"),
        ([good], "20220503", "--date 20220503: not a date"),
    ]:
        with pytest.raises(UserError, match=message):
            parse(files, tmp_path / "x", date=date)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["hooks", "rejects"])
@pytest.mark.parametrize("line", ["{", "[]", '{"id": 1}', "null"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, name, line):
    page = _page(tmp_path / "a.txt", _hook("A"), "B")
    parse([page], tmp_path / "x")
    path = tmp_path / "x" / f"{name}.jsonl"
    path.write_text(path.read_text() + line + "\n")
    before = path.read_bytes()
    with pytest.raises(UserError, match=rf"{name}.jsonl:2: not a record of `tightframe knowledge"):
        parse([_page(tmp_path / "b.txt", _hook("C"))], tmp_path / "x")
    assert path.read_bytes() == before


def test_the_command_counts_by_reason(tmp_path, capsys):
    bare = tmp_path / "bare.txt"
    bare.write_text("nothing")
    command = ["knowledge", "parse", str(EXAMPLE), str(bare), "--out", str(tmp_path / "x")]
    main(command)
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"{tmp_path / 'x'}: 24 hooks on 2 pages = 22 facts (22 new) + 2 rejects (2 new)",
        "        1  no_bold_link",
        "        1  unknown_template:old oak",
    ]
    assert printed.err.startswith(f"{bare}: no hook found")
    main([*command, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["n_facts"], found["n_new_facts"]) == (22, 0)
    assert found["without_hooks"] == {
        str(bare): "no hook found; expected lines like '* ... that ...?'"
    }


def test_the_command_can_keep_picture_notes(tmp_path):
    main(["knowledge", "parse", str(EXAMPLE), "--keep-pictured", "--out", str(tmp_path / "x")])
    assert "Tarn Street (replica pictured) was paved with cork" in [
        one["fact"] for one in _read(tmp_path / "x")
    ]


def test_twelve_thousand_hooks_take_less_than_ten_seconds():
    # A quarter of them in a quarter of that, by the benchmark: the tests' checks of types are off.
    # Of CPU time: on a machine that is busy otherwise, the clock says nothing of the parser.
    command = [sys.executable, str(BENCHMARK), "--hooks", "3000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["work"].startswith("3,000 hooks")
    assert row["cpu_seconds"] < 2.5
