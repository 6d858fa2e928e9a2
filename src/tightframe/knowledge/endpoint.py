"""Replies of a language model behind an OpenAI-compatible endpoint, each requested once.

Every valid reply is a file of the cache, named by the SHA-256 of its request: a second run sends
nothing, an interrupted one resumes. Replies are joined to their requests by that name, never by
order of arrival. A request is repeated only where the server failed; a reply that cannot be read
is answered with the reason, once, since the same request would bring the same reply.
"""

import dataclasses
import datetime
import email.utils
import hashlib
import json
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import httpx

from tightframe.errors import UserError
from tightframe.files import write_text
from tightframe.knowledge.prompts import Messages
from tightframe.progress import tell

Parse: TypeAlias = Callable[[str], Any]  # ValueError for a reply of another form

AT_ONCE = 8  # requests
ATTEMPTS = 5  # for each request
TIMEOUT = 60.0  # seconds without a byte from the server
LONGEST_REPLY = 600.0  # seconds, from the request to the reply's last byte
LARGEST_REPLY = 16 * 2**20  # bytes, decoded
LONGEST_WAIT = 300.0  # seconds that a server may ask for; who wants more is asked another day
_PARAMETERS: dict[str, Any] = {"temperature": 0}
_ENCODINGS = ("identity", "gzip", "deflate")
_GIVEN_UP = "given up: the server had stopped answering"
_CUT = 'was cut at the server\'s limit of tokens (finish_reason "length"); raise it there'
_JSON = {"response_format": {"type": "json_object"}}  # not in the cache's key


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Address of a served language model, from the environment only; the key is never shown."""

    base_url: str
    model: str
    key: str = dataclasses.field(repr=False)

    @classmethod
    def from_environment(cls) -> "Endpoint":
        """Read TIGHTFRAME_LLM_BASE_URL, TIGHTFRAME_LLM_MODEL and TIGHTFRAME_LLM_KEY."""
        base_url = os.environ.get("TIGHTFRAME_LLM_BASE_URL", "").strip().rstrip("/")
        model = os.environ.get("TIGHTFRAME_LLM_MODEL", "").strip()
        key = os.environ.get("TIGHTFRAME_LLM_KEY", "").strip()
        for name, value in (("BASE_URL", base_url), ("MODEL", model)):
            if not value:
                raise UserError(
                    f"TIGHTFRAME_LLM_{name} is not set; the endpoint is read from the environment:"
                    " TIGHTFRAME_LLM_BASE_URL, TIGHTFRAME_LLM_MODEL, TIGHTFRAME_LLM_KEY"
                )
        if not _is_plain_url(base_url):
            raise UserError(
                "TIGHTFRAME_LLM_BASE_URL: expected a URL that begins with http:// or https://,"
                " without user name and password, e.g. http://localhost:8000/v1"
            )
        if not all("!" <= character <= "~" for character in key):  # else the client's error has it
            raise UserError(
                "TIGHTFRAME_LLM_KEY holds a blank or a character that is not ASCII; set it again"
            )
        return cls(base_url, model, key)


@dataclasses.dataclass(frozen=True)
class Replies:
    """Replies of an endpoint to a list of requests."""

    parsed: tuple[Any, ...]  # one a request, in its order; None where there is none
    reasons: tuple[str, ...]  # why there is none, else ""
    requests: int  # sent in this run, repeated ones and all


def ask_all(
    requests: Sequence[Messages],
    endpoint: Endpoint,
    parse: Sequence[Parse],
    *,
    cache: Path,
    wait: float = 1.0,
) -> Replies:
    """Request all replies that the cache lacks, at most `AT_ONCE` at a time.

    A request that fails for good leaves None; after `AT_ONCE` of these in a row no others are
    sent, since then the server is down.

    Args:
        requests: Chat messages.
        endpoint: The model to ask.
        parse: Reads the reply to each request.
        cache: Folder of replies, one file each.
        wait: Seconds before the second attempt, then twice that, and so on.

    Raises:
        UserError: The server refuses the request itself (a status 4xx other than 429).
    """
    names = [_name(endpoint.model, messages) for messages in requests]
    work = dict(zip(names, zip(requests, parse, strict=True), strict=True))  # equal ones once
    found: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, (_, read) in work.items():
        kept = _cached(cache / f"{name}.json", read)
        if kept is not None:
            found[name] = kept
    tell("answered", len(found) / len(work) if work else None, len(found))
    open_ = [name for name in work if name not in found]
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in open_:
        waiting.put(name)
    answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    with _Client(endpoint, wait) as client:
        threads = [
            threading.Thread(target=client.work, args=(waiting, work, answers), daemon=True)
            for _ in range(min(AT_ONCE, len(open_)))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in open_:
                name, reply = answers.get()
                if isinstance(reply, _LeftError):
                    reasons[name] = str(reply)
                    continue
                if isinstance(reply, BaseException):
                    raise reply
                found[name] = reply
                entry = {"model": endpoint.model, "messages": work[name][0], "reply": reply}
                write_text(cache / f"{name}.json", json.dumps(entry, ensure_ascii=False) + "\n")
                tell("answered", len(found) / len(work), len(found))
        except Exception:  # an interrupt does not wait for a server
            client.stopped.set()
            for thread in threads:
                thread.join()
            raise
    return Replies(
        tuple(found.get(name) for name in names),
        tuple(reasons.get(name, "") for name in names),
        client.sent,
    )


class _LeftError(Exception):
    """The reason why a request has no reply."""


class _Response(NamedTuple):
    """An HTTP response that has been read to its end."""

    status: int
    text: str
    retry_after: str


class _Client:
    """Requests to one endpoint, from several threads."""

    def __init__(self, endpoint: Endpoint, wait: float) -> None:
        self.endpoint, self.wait = endpoint, wait
        self.stopped = threading.Event()
        self.sent = 0
        self._in_a_row = 0  # requests that failed for good since the last one that did not
        self._counting = threading.Lock()
        self._options = _JSON | _PARAMETERS  # without those that the server refused
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        headers["Accept-Encoding"] = ", ".join(_ENCODINGS)
        self._http = httpx.Client(headers=headers, timeout=TIMEOUT)

    def __enter__(self) -> "_Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()  # after a refusal or an interrupt nobody waits or sends anything
        self._http.close()

    def work(
        self,
        waiting: "queue.SimpleQueue[str]",
        work: Mapping[str, tuple[Messages, Parse]],
        answers: "queue.SimpleQueue[tuple[str, Any]]",
    ) -> None:
        """Put the reply to each name of a queue, or the error in its place, into another queue."""
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                answers.put((name, self.ask(*work[name], name)))
            except BaseException as error:
                answers.put((name, error))

    def ask(self, messages: Messages, parse: Parse, name: str) -> Any:
        """Return the parsed reply; raise _LeftError if there is none."""
        try:
            reply = self._try(messages, parse, name)
        except _LeftError:
            with self._counting:
                self._in_a_row += 1
                if self._in_a_row >= AT_ONCE:
                    self.stopped.set()
            raise
        self._in_a_row = 0
        return reply

    def _try(self, messages: Messages, parse: Parse, name: str) -> Any:
        jitter = random.Random(name)
        told = False  # the model, what is wrong with its reply
        for attempt in range(ATTEMPTS):
            if self.stopped.is_set():
                raise _LeftError(_GIVEN_UP)
            pause = self.wait * 2**attempt * (1 + jitter.random() / 4)
            try:
                answer = self._post(messages, name)
            except httpx.RequestError as error:
                reason = f"{type(error).__name__} (no answer from the server)"
            else:
                if answer.status == 200:
                    try:
                        choice = json.loads(answer.text)["choices"][0]
                        message, end = choice["message"], choice.get("finish_reason")
                    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                        reason = "the reply is no chat completion"
                    else:
                        text = self._text(message, end)
                        try:
                            return parse(text)
                        except ValueError as error:
                            reason = f"the reply is not what was requested: {_line(str(error))}"
                        if end == "length":
                            reason = f"the reply {_CUT}"
                        if told or end == "length":
                            raise _LeftError(reason)
                        messages, told = [*messages, *_objection(text, reason)], True
                        continue
                elif answer.status == 429 or answer.status >= 500:
                    reason = f"status {answer.status}"
                    pause = max(pause, _seconds(answer.retry_after))
                else:
                    self.stopped.set()  # here, before another thread sends the same
                    raise UserError(self._refusal(answer))
            if pause > LONGEST_WAIT:
                raise _LeftError(f"{reason}; the server asks to wait for {pause:.0f} s")
            if attempt < ATTEMPTS - 1:
                self.stopped.wait(pause)
        raise _LeftError(f"{reason}, {ATTEMPTS} times")

    def _post(self, messages: Messages, name: str) -> _Response:
        """Send a request, without the options that the server turns out to refuse."""
        body = {"model": self.endpoint.model, "messages": messages}
        options = dict(self._options)
        while True:
            answer = self._send(body | options, name)
            if answer.status not in (400, 422) or not options:
                break
            named = [option for option in options if option in answer.text]
            del options[next(iter(named or options))]
        if answer.status == 200:
            self._options = options
        return answer

    def _send(self, body: Mapping[str, Any], name: str) -> _Response:
        """Send one request and read its answer, bounded in size and time."""
        with self._counting:
            self.sent += 1
        url, begin = f"{self.endpoint.base_url}/chat/completions", time.monotonic()
        content = bytearray()
        with self._http.stream("POST", url, json=body, headers={"X-Request-Id": name}) as answer:
            encoding = answer.headers.get("Content-Encoding", _ENCODINGS[0])
            if encoding.strip().lower() not in _ENCODINGS:  # two in a row multiply their size
                raise _LeftError(f"the reply is encoded as {_line(encoding)[:50]!r}")
            for part in answer.iter_bytes():  # of at most 64 KiB before it is decoded
                content += part
                if len(content) > LARGEST_REPLY:
                    raise _LeftError(f"the reply is larger than {LARGEST_REPLY >> 20} MiB")
                if time.monotonic() - begin > LONGEST_REPLY:
                    raise _LeftError(f"the reply takes longer than {LONGEST_REPLY:.0f} s")
                if self.stopped.is_set():
                    raise _LeftError(_GIVEN_UP)
        text = content.decode(errors="replace")
        return _Response(answer.status_code, text, answer.headers.get("Retry-After", ""))

    def _text(self, message: Mapping[str, Any], end: str | None) -> str:
        """Return the text of a message; raise _LeftError with the reason if there is none."""
        text, refusal = message.get("content"), message.get("refusal")
        if isinstance(text, str) and text.strip():
            if len(self.endpoint.key) >= 8 and self.endpoint.key in text:
                raise _LeftError("the reply repeats the key")
            return text
        if isinstance(refusal, str) and refusal:
            raise _LeftError(f"the model refuses: {_line(self._without_key(refusal))[:200]}")
        if end == "length":
            raise _LeftError(f"the reply holds no text: it {_CUT}")
        raise _LeftError(f"the reply holds no text (finish_reason {_line(str(end))[:50]!r})")

    def _without_key(self, text: str) -> str:
        return text.replace(self.endpoint.key, "...") if self.endpoint.key else text

    def _refusal(self, answer: _Response) -> str:
        host, status = httpx.URL(self.endpoint.base_url).host, answer.status
        if status in (401, 403):  # such an answer may quote the key
            return f"{host}: status {status}; check TIGHTFRAME_LLM_KEY"
        said = _line(self._without_key(answer.text[:5000]))
        return (
            f"{host}: status {status} ({said[:200]}); check TIGHTFRAME_LLM_BASE_URL and"
            " TIGHTFRAME_LLM_MODEL"
        )


def _objection(text: str, reason: str) -> Messages:
    """Return the turns that follow a reply which cannot be read."""
    said = text[:10_000].encode(errors="replace").decode()
    wish = f"{reason}. Reply with the one JSON object that was requested, and nothing else."
    return [{"role": "assistant", "content": said}, {"role": "user", "content": wish}]


def _is_plain_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host) and not url.userinfo


def _name(model: str, messages: Messages) -> str:
    request = {"model": model, "messages": messages, "parameters": _PARAMETERS}
    text = json.dumps(request, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _cached(path: Path, parse: Parse) -> Any:
    """Return a cached reply, None if there is none or it does not fit the schema."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return parse(json.dumps(entry["reply"]))
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def _seconds(value: str) -> float:
    """Return the seconds that a server asks to wait: a number or a date."""
    try:
        return float(value)
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return (when - datetime.datetime.now(datetime.UTC)).total_seconds()


def _line(text: str) -> str:
    """Return a foreign text as one line that a terminal can show."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
