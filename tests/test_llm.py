"""An endpoint that answers out of order, refuses, waits, talks nonsense or is down."""

import datetime
import email.utils
import itertools
import json
import logging
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib

import pytest

from fake_endpoint import Endpoint as Fake
from fake_endpoint import completion
from tightframe import cli
from tightframe.errors import PartlyDoneError, UserError
from tightframe.knowledge import endpoint
from tightframe.knowledge.benchmark import read_facts
from tightframe.knowledge.facts import TYPES, Fact, Target, fact_id
from tightframe.knowledge.generate import write_questions
from tightframe.knowledge.options import QuestionOptions

KEY = "sk-test-0123456789"


def _facts(n):
    for i in range(n):
        text = f"Bridge{i} Castle was painted by {i} sailors in 19{i:02}"
        label = f"Bridge{i} Castle"
        yield Fact(
            fact_id("2024-01-02", text),
            *("2024-01-02", None, 2024, 1, text, f"that {text}?", f"* ... that '''{text}'''?"),
            targets=(Target(label, label, 0, len(label)),),
        )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(fact.to_dict()) + "\n" for fact in _facts(50)))
    return path


def _about(body):
    """What a good model says: all seven types, each about the fact of the request."""
    target = json.loads(body["messages"][1]["content"])["targets"][0]
    item = {"cloze": f"[MASK] has no. {target[:-7]}", "answers": ["a castle"]}
    reply = {type_: item | {"prompt": f"What is {target[:-7]}?"} for type_ in TYPES}
    reply["reliability"] |= {"cloze": "[MASK] was painted", "answers": [target]}
    reply["paraphrase"] |= {"prompt": f"By whom {target[:-7]}?", "answers": [target]}
    reply["locality"] = None
    reply["factual"] = {"prompt": f"Is {target} painted?", "cloze": None, "answers": ["True"]}
    reply["counterfactual"] = {"prompt": f"Is {target} new?", "cloze": "", "answers": ["False"]}
    return reply


def _good(number, body):
    return 200, completion(json.dumps(_about(body))), {}


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_out_of_order_rate_limits_and_broken_json_mix_nothing_up(
    file, tmp_path, monkeypatch, caplog, capfd
):
    caplog.set_level(logging.DEBUG)
    broken = []

    def say(number, body):
        if number % 5 == 0:
            return 429, "slow down", {"Retry-After": "0"}
        if not broken:
            broken.append(number)
            return 200, completion('{"reliability": {"prompt": "Wh'), {}
        return _good(number, body)

    # Every third answer comes late: others overtake it.
    fake = Fake(say, delay=lambda number: 0.03 if number % 3 == 0 else 0.0)
    with fake.running(monkeypatch, KEY):
        done = write_questions(
            file, tmp_path / "q.jsonl", QuestionOptions(backend="llm"), wait=0.01
        )
        first = len(fake.bodies)
        write_questions(file, tmp_path / "again.jsonl", QuestionOptions(backend="llm"), wait=0.01)
        assert len(fake.bodies) == first  # the second run asks for nothing
    # 50 answers, one broken; a fifth of all requests are refused: n - floor(n / 5) = 51.
    assert first == done.requests == 63
    assert fake.answered != sorted(fake.answered)
    assert 1 < fake.most_at_work <= 8
    assert all(headers["Authorization"] == f"Bearer {KEY}" for _, headers in fake.headers)
    assert {path for path, _ in fake.headers} == {"/v1/chat/completions"}
    assert (tmp_path / "q.jsonl").read_bytes() == (tmp_path / "again.jsonl").read_bytes()

    facts = read_facts(tmp_path / "q.jsonl")
    assert [fact.id for fact in facts] == [fact.id for fact in _facts(50)]
    for fact in facts:
        asked = {question.type: question for question in fact.questions}
        assert asked["reliability"].answers == (fact.targets[0].label,)
        assert f"is {fact.targets[0].label[:-7]}?" in asked["reliability"].prompt
        assert all(question.id == f"{fact.id}:{type_}" for type_, question in asked.items())
        assert {question.generator for question in fact.questions} == {"llm:fake-1"}
        assert asked["factual"].format == "boolean"
        assert asked["factual"].cloze is None
        assert "locality" not in asked
    said = capfd.readouterr()
    assert KEY not in caplog.text + said.out + said.err
    assert caplog.records  # something was listened to
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1 + 2 * 2 + 50
    assert not [path for path in files if KEY in path.read_text()]
    assert not (tmp_path / "q.left.jsonl").exists()


def test_a_server_that_goes_down_leaves_what_is_done_and_the_list_of_the_rest(
    file, tmp_path, monkeypatch
):
    out = tmp_path / "q.jsonl"
    down = Fake(lambda number, body: _good(number, body) if number <= 20 else (503, "down", {}))
    with down.running(monkeypatch), pytest.raises(PartlyDoneError) as error:
        write_questions(file, out, QuestionOptions(backend="llm"), wait=0.0)
    left = _lines(tmp_path / "q.left.jsonl")
    assert len(_lines(out)) == 20
    assert {line["fact_id"] for line in left}.isdisjoint(line["id"] for line in _lines(out))
    assert len(left) == 30
    assert {line["reason"] for line in left} >= {"status 503, 5 times"}
    assert "20 of 50 facts" in str(error.value)
    assert "run again to resume" in str(error.value)
    # Given up when 8 in a row had failed, each asked 5 times, of 30; by then 7 more may be at
    # work, and a last success that is noticed late may have begun the row anew.
    assert len(down.bodies) <= 20 + 5 * (7 + 8 + 7)
    with Fake(_good).running(monkeypatch) as up:
        write_questions(file, out, QuestionOptions(backend="llm"), wait=0.0)
        assert len(up.bodies) == 30
    assert [line["id"] for line in _lines(out)] == [fact.id for fact in _facts(50)]
    assert not (tmp_path / "q.left.jsonl").exists()


def test_nobody_at_the_address_is_exit_3(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TIGHTFRAME_LLM_BASE_URL", "http://127.0.0.1:1")  # nobody listens there
    monkeypatch.setenv("TIGHTFRAME_LLM_MODEL", "m")
    monkeypatch.setattr(endpoint, "ATTEMPTS", 1)
    with pytest.raises(SystemExit) as stop:
        cli.main(f"knowledge questions {file} --backend llm --out {tmp_path}/q.jsonl".split())
    assert stop.value.code == 3
    assert "0 of 50 facts" in capsys.readouterr().err
    assert len(_lines(tmp_path / "q.left.jsonl")) == 50


@pytest.mark.parametrize("status", [401, 403, 404, 418])
def test_a_refusal_stops_at_once_with_one_line_and_without_the_key(
    file, tmp_path, monkeypatch, capsys, status
):
    fake = Fake(lambda number, body: (status, f"wrong \x1b[31mkey {KEY}\nreally", {}))
    with fake.running(monkeypatch, KEY), pytest.raises(SystemExit) as stop:
        cli.main(f"knowledge questions {file} --backend llm --out {tmp_path}/q.jsonl".split())
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert f"127.0.0.1: status {status}" in said
    assert said.count("\n") == 1
    assert KEY not in said
    assert "\x1b" not in said
    assert len(fake.bodies) <= 8
    assert {path.name for path in tmp_path.iterdir()} == {"facts.jsonl"}


def test_a_server_without_json_mode_is_asked_without_it(file, tmp_path, monkeypatch):
    def say(number, body):
        return (400, "no response_format", {}) if "response_format" in body else _good(number, body)

    with Fake(say).running(monkeypatch) as fake:
        done = write_questions(file, tmp_path / "q.jsonl", QuestionOptions(backend="llm"), wait=0.0)
    assert done.facts == 50
    assert sum("response_format" not in body for body in fake.bodies) == 50
    assert sum("response_format" in body for body in fake.bodies) <= 8


class _Waits:
    def __init__(self):
        self.seconds = []

    def wait(self, seconds):
        self.seconds.append(seconds)

    def is_set(self):
        return False

    def set(self):
        pass


def _waits(monkeypatch, headers, status=503):
    fake = Fake(lambda number, body: (status, "", headers))
    with (
        fake.running(monkeypatch),
        endpoint._Client(endpoint.Endpoint.from_environment(), 1.0) as client,
    ):
        client.stopped = _Waits()
        with pytest.raises(endpoint._LeftError) as left:
            client.ask([{"role": "user", "content": "x"}], json.loads, "name")
    return client.stopped.seconds, len(fake.bodies), str(left.value)


def test_five_attempts_wait_twice_as_long_each_time(monkeypatch):
    waits, sent, said = _waits(monkeypatch, {})
    assert sent == 5
    assert said == "status 503, 5 times"
    for seconds, base in zip(waits, (1, 2, 4, 8), strict=True):
        assert base <= seconds <= 1.25 * base  # jitter adds at most a quarter


def test_the_server_says_how_long_to_wait(monkeypatch):
    waits, _, _ = _waits(monkeypatch, {"Retry-After": "7"}, status=429)
    assert waits[:3] == [7, 7, 7]
    assert waits[3] >= 8
    waits, sent, said = _waits(monkeypatch, {"Retry-After": "86400"}, status=429)
    assert (waits, sent) == ([], 1)
    assert "asks to wait for 86400 s" in said


def test_retry_after_is_a_number_or_a_date():
    when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    values = {"12": 12, "": 0, "soon": 0, email.utils.format_datetime(when, usegmt=True): 90}
    for value, seconds in values.items():
        assert endpoint._seconds(value) == pytest.approx(seconds, abs=2)


def test_a_slow_server_is_asked_again(file, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "TIMEOUT", 0.5)
    fake = Fake(_good, delay=lambda number: 1.0 if number == 1 else 0.0)
    with fake.running(monkeypatch):
        done = write_questions(file, tmp_path / "q.jsonl", QuestionOptions(backend="llm"), wait=0.0)
    assert done.facts == 50
    assert len(fake.bodies) == done.requests >= 51


def test_only_what_is_missing_is_asked_for(file, tmp_path, monkeypatch):
    """Types that were not asked for, a reply that is damaged, types that a fact has already."""
    with Fake(_good).running(monkeypatch) as fake:
        types = ("reliability", "factual")
        done = write_questions(
            file, tmp_path / "a.jsonl", QuestionOptions(backend="llm", types=types), wait=0.0
        )
        assert done.questions == {"reliability": 50, "factual": 50}
        asked = fake.bodies[0]["messages"]
        assert "factual" in asked[0]["content"]
        assert "portability" not in asked[0]["content"] + asked[1]["content"]
        assert fake.bodies[0]["temperature"] == 0
        assert fake.bodies[0]["model"] == "fake-1"
        reply = sorted((tmp_path / "replies").iterdir())[0]
        reply.write_text(reply.read_text()[:50])
        write_questions(
            file, tmp_path / "b.jsonl", QuestionOptions(backend="llm", types=types), wait=0.0
        )
        assert len(fake.bodies) == 51
        write_questions(
            tmp_path / "a.jsonl", tmp_path / "c.jsonl", QuestionOptions(backend="llm", types=types)
        )
        assert len(fake.bodies) == 51
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "c.jsonl").read_bytes()


def _only(tmp_path, monkeypatch, say, **options):
    """Ask for the questions of one fact; the reason why there are none, and the fake."""
    path, out = tmp_path / "facts.jsonl", tmp_path / "q.jsonl"
    path.write_text(json.dumps(next(iter(_facts(1))).to_dict()) + "\n")
    with Fake(say).running(monkeypatch, KEY) as fake:
        try:
            write_questions(path, out, QuestionOptions(backend="llm", **options), wait=0.0)
        except PartlyDoneError:
            assert not (tmp_path / "replies").exists()
            assert not [p for p in tmp_path.iterdir() if KEY in p.read_text()]
            return _lines(tmp_path / "q.left.jsonl")[0]["reason"], fake
    assert len(_lines(out)[0]["questions"]) == 5
    return "", fake


@pytest.mark.parametrize(
    ("content", "requests", "reason"),
    [
        ("[1]", 2, "no JSON object"),
        ("{}", 2, "no reliability with a prompt"),
        ('{"reliability": 3}', 2, "no reliability with a prompt"),
        ('{"reliability": {"prompt": "W?"', 2, "Expecting ',' delimiter"),
        ('{"a":' * 100_000, 2, "nested too deeply"),
        ('"\\ud800"', 2, "no JSON object"),
        ("<think>so {b}", 2, "a thought without an end"),
        ("", 1, "the reply holds no text (finish_reason 'stop')"),
        (None, 1, "the reply holds no text (finish_reason 'stop')"),
        (KEY, 1, "the reply repeats the key"),
    ],
)
def test_nonsense_is_objected_to_once_and_never_kept(
    tmp_path, monkeypatch, content, requests, reason
):
    said, fake = _only(tmp_path, monkeypatch, lambda *_: (200, completion(content), {}))
    assert reason in said
    assert len(fake.bodies) == requests
    if requests == 2:  # not the same request once more
        first, second = (body["messages"] for body in fake.bodies)
        assert second[:2] == first
        assert [turn["role"] for turn in second[2:]] == ["assistant", "user"]
        assert second[2]["content"] == content[:10_000]
        assert reason in second[3]["content"]


@pytest.mark.parametrize(
    "dress",
    [
        "<think>\nIt is {{b}} or {{}}.\n</think>\n\n{0}",
        "so {{b}}\n</think>{0}",  # a template that opens the thought itself
        '<think>{{"reliability": 3}}</think>{0}',
        "Here it is:\n```json\n{0}\n```\nIs that right?",
        "```JSON\n{0}\n```",
        "```\n{0}```",
        "{0}\n\nMore?",
        'A draft: {{"reliability": 3}}\n\nNow: {0}',
    ],
)
def test_a_reply_is_read_whatever_stands_around_its_object(tmp_path, monkeypatch, dress):
    def say(number, body):
        return 200, completion(dress.format(json.dumps(_about(body), indent=1))), {}

    reason, fake = _only(tmp_path, monkeypatch, say)
    assert (reason, len(fake.bodies)) == ("", 1)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion('{"reliability": {"pro', "length"), "the reply was cut at the server's limit"),
        (completion("<think>let me", "length"), "the reply was cut at the server's limit"),
        (completion(None, "length"), "holds no text: it was cut at the server's limit"),
        (completion(None, "content_filter"), "no text (finish_reason 'content_filter')"),
        (completion(None, refusal="I \x1b[31mwon't " + KEY), "the model refuses: I [31mwon't ..."),
    ],
)
def test_a_reply_that_was_cut_or_refused_says_so_and_is_not_asked_for_again(
    tmp_path, monkeypatch, reply, reason
):
    said, fake = _only(tmp_path, monkeypatch, lambda *_: (200, reply, {}))
    assert reason in said
    assert len(fake.bodies) == 1


def test_what_is_no_chat_completion_is_asked_for_again(tmp_path, monkeypatch):
    def say(number, body):
        return (200, "<html>Back soon", {}) if number < 3 else _good(number, body)

    reason, fake = _only(tmp_path, monkeypatch, say)
    assert (reason, len(fake.bodies)) == ("", 3)


@pytest.mark.parametrize("named", [True, False])
def test_a_refused_temperature_is_left_out_and_stays_out(file, tmp_path, monkeypatch, named):
    """As `response_format` is, alone or together with it; the server may not name which."""

    def say(number, body):
        refused = [name for name in ("temperature", "response_format") if name in body]
        return (400, f"no {refused if named else []}", {}) if refused else _good(number, body)

    with Fake(say).running(monkeypatch) as fake:
        done = write_questions(file, tmp_path / "q.jsonl", QuestionOptions(backend="llm"), wait=0.0)
    assert done.facts == 50
    good = [body for body in fake.bodies if set(body) == {"model", "messages"}]
    assert len(good) == 50
    assert len(fake.bodies) <= 50 + 8 * 2  # until the first has learned it


def test_only_the_option_that_is_refused_is_left_out(tmp_path, monkeypatch):
    def say(number, body):
        return (400, "'temperature': 1 only", {}) if "temperature" in body else _good(number, body)

    _, fake = _only(tmp_path, monkeypatch, say)
    assert len(fake.bodies) == 2
    assert "response_format" in fake.bodies[1]


def _bomb():
    """A gzip stream without end, one MiB after the other packed into a KiB."""
    packer = zlib.compressobj(wbits=31)
    while True:
        yield packer.compress(bytes(2**20)) + packer.flush(zlib.Z_SYNC_FLUSH)


def _drops():
    while True:
        time.sleep(0.01)
        yield b" "


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (_bomb, {"Content-Encoding": "gzip"}, "the reply is larger than 16 MiB"),
        (lambda: itertools.repeat(bytes(2**16)), {}, "the reply is larger than 16 MiB"),
        (_drops, {}, "the reply takes longer than 0 s"),
        (lambda: b"", {"Content-Encoding": "gzip, gzip"}, "is encoded as 'gzip, gzip'"),
    ],
)
def test_a_reply_without_end_is_cut_off(tmp_path, monkeypatch, body, headers, reason):
    if body is _drops:
        monkeypatch.setattr(endpoint, "LONGEST_REPLY", 0.2)
    tracemalloc.start()
    said, fake = _only(tmp_path, monkeypatch, lambda *_: (200, body(), headers))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reason in said
    assert len(fake.bodies) == 1
    assert peak < 200 * 2**20


@pytest.mark.parametrize("status", [200, 400])
def test_an_interrupt_ends_at_once_while_the_server_says_nothing(tmp_path, status):
    """In a process of its own, whose main thread waits for threads that wait.

    SIGTERM, since a shell may let SIGINT be ignored; both end a command in the same way.
    """
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(fact.to_dict()) + "\n" for fact in _facts(9)))
    came = threading.Event()

    def say(number, body):
        came.set()
        return status, _drops(), {}

    with pytest.MonkeyPatch.context() as patch, Fake(say).running(patch):
        words = f"knowledge questions {path} --backend llm --out {tmp_path}/q.jsonl"
        command = [sys.executable, "-m", "tightframe", *words.split()]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
        assert came.wait(60)
        begin = time.monotonic()
        process.terminate()
        said = process.communicate(timeout=30)[1].decode()
        assert time.monotonic() - begin < 10
    assert process.returncode == 143
    assert said.startswith("tightframe: interrupted")
    assert said.count("\n") == 1
    assert {one.name for one in tmp_path.iterdir()} == {"facts.jsonl"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BASE_URL", "", "TIGHTFRAME_LLM_BASE_URL is not set"),
        ("BASE_URL", "localhost:80", "begins with http"),
        ("BASE_URL", "http://me:secret@localhost", "without user name"),
        ("BASE_URL", "http://", "begins with http"),
        ("MODEL", " ", "TIGHTFRAME_LLM_MODEL is not set"),
        ("KEY", "two secret words", "TIGHTFRAME_LLM_KEY holds a blank"),
    ],
)
def test_an_environment_that_names_no_endpoint_is_refused(monkeypatch, name, value, said):
    monkeypatch.setenv("TIGHTFRAME_LLM_BASE_URL", "http://localhost")
    monkeypatch.setenv("TIGHTFRAME_LLM_MODEL", "m")
    monkeypatch.setenv(f"TIGHTFRAME_LLM_{name}", value)
    with pytest.raises(UserError, match=said) as error:
        endpoint.Endpoint.from_environment()
    assert "secret" not in str(error.value)


def test_an_endpoint_shows_no_key():
    assert KEY not in repr(endpoint.Endpoint("http://localhost", "m", KEY))
