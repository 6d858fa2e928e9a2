"""Replies of a language model behind an OpenAI-compatible endpoint, each asked for once.

Every valid reply is a file of the cache, named by the SHA-256 of its request: a second run asks
for nothing, an interrupted one goes on. Replies are joined to their requests by that name, never
by order of arrival.
"""

import dataclasses
import datetime
import email.utils
import hashlib
import json
import os
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeAlias

import httpx

from tightframe.errors import UserError
from tightframe.files import write_text

Messages: TypeAlias = list[dict[str, str]]
Parse: TypeAlias = Callable[[str], Any]  # ValueError for a reply that is not what was asked for

AT_ONCE = 8  # requests
ATTEMPTS = 5  # for each request
TIMEOUT = 60.0  # seconds, for each attempt
LONGEST_WAIT = 300.0  # seconds that a server may ask for; who wants more is asked another day
_PARAMETERS: dict[str, Any] = {"temperature": 0}
_JSON = {"response_format": {"type": "json_object"}}  # not in the cache's key: not all take it


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where a language model is served, from the environment only; the key is never shown."""

    base_url: str
    model: str
    key: str = dataclasses.field(repr=False)

    @classmethod
    def from_environment(cls) -> "Endpoint":
        """TIGHTFRAME_LLM_BASE_URL, TIGHTFRAME_LLM_MODEL and, where needed, TIGHTFRAME_LLM_KEY."""
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
    """What an endpoint said to a list of requests."""

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
    progress: Callable[[int], None] = lambda done: None,
) -> Replies:
    """Ask for all replies that the cache lacks, at most `AT_ONCE` at a time.

    A request that fails for good leaves None; after `AT_ONCE` of these in a row no others are
    sent, since then the server is down.

    Args:
        requests: Chat messages.
        endpoint: Who is asked.
        parse: Reads the reply to each request.
        cache: A folder, a file a reply.
        wait: Seconds before the second attempt, then twice that, and so on.
        progress: Called with the number of requests that are answered.

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
    progress(len(found))
    with _Client(endpoint, wait) as client, ThreadPoolExecutor(AT_ONCE) as threads:
        futures = {
            threads.submit(client.ask, messages, read, name): name
            for name, (messages, read) in work.items()
            if name not in found
        }
        try:
            for future in as_completed(futures):
                name = futures[future]
                try:
                    found[name] = future.result()
                except _LeftError as error:
                    reasons[name] = str(error)
                    continue
                entry = {"model": endpoint.model, "messages": work[name][0], "reply": found[name]}
                write_text(cache / f"{name}.json", json.dumps(entry, ensure_ascii=False) + "\n")
                progress(len(found))
        finally:
            client.stopped.set()  # after a refusal or an interrupt nobody waits or asks on
            threads.shutdown(wait=True, cancel_futures=True)
    return Replies(
        tuple(found.get(name) for name in names),
        tuple(reasons.get(name, "") for name in names),
        client.sent,
    )


class _LeftError(Exception):
    """A request without a reply, and why."""


class _Client:
    """One request after another, from several threads."""

    def __init__(self, endpoint: Endpoint, wait: float) -> None:
        self.endpoint, self.wait = endpoint, wait
        self.stopped = threading.Event()
        self.sent = 0
        self._in_a_row = 0  # requests that failed for good since the last one that did not
        self._counting = threading.Lock()
        self._json = True  # until the server refuses it
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._http = httpx.Client(headers=headers, timeout=TIMEOUT)

    def __enter__(self) -> "_Client":
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def ask(self, messages: Messages, parse: Parse, name: str) -> Any:
        """The parsed reply; _LeftError if there is none after all attempts."""
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
        for attempt in range(ATTEMPTS):
            if self.stopped.is_set():
                raise _LeftError("given up: the server had stopped answering")
            pause = self.wait * 2**attempt * (1 + jitter.random() / 4)
            try:
                answer = self._post(messages, name)
            except httpx.RequestError as error:
                reason = f"{type(error).__name__} (no answer from the server)"
            else:
                if answer.status_code == 200:
                    try:
                        return parse(self._content(answer))
                    except ValueError as error:
                        reason = f"the reply is not what was asked for: {_line(str(error))}"
                elif answer.status_code == 429 or answer.status_code >= 500:
                    reason = f"status {answer.status_code}"
                    pause = max(pause, _retry_after(answer))
                else:
                    self.stopped.set()  # here, before another thread sends the same
                    raise UserError(self._refusal(answer))
            if pause > LONGEST_WAIT:
                raise _LeftError(f"{reason}; the server asks to wait for {pause:.0f} s")
            if attempt < ATTEMPTS - 1:
                self.stopped.wait(pause)
        raise _LeftError(f"{reason}, {ATTEMPTS} times")

    def _post(self, messages: Messages, name: str) -> httpx.Response:
        url = f"{self.endpoint.base_url}/chat/completions"
        body = {"model": self.endpoint.model, "messages": messages, **_PARAMETERS}
        headers = {"X-Request-Id": name}
        if self._json:
            self._count()
            answer = self._http.post(url, json=body | _JSON, headers=headers)
            if answer.status_code not in (400, 422):
                return answer
        self._count()
        answer = self._http.post(url, json=body, headers=headers)
        if answer.status_code == 200:
            self._json = False
        return answer

    def _count(self) -> None:
        with self._counting:
            self.sent += 1

    def _content(self, answer: httpx.Response) -> str:
        try:
            content = answer.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise ValueError("no chat completion") from None
        if not isinstance(content, str):
            raise ValueError("no text")
        if len(self.endpoint.key) >= 8 and self.endpoint.key in content:
            raise ValueError("it repeats the key")
        return content

    def _refusal(self, answer: httpx.Response) -> str:
        host, status = answer.request.url.host, answer.status_code
        if status in (401, 403):  # such an answer may quote the key
            return f"{host}: status {status}; check TIGHTFRAME_LLM_KEY"
        said = _line(answer.text)
        if self.endpoint.key:
            said = said.replace(self.endpoint.key, "...")
        return (
            f"{host}: status {status} ({said[:200]}); check TIGHTFRAME_LLM_BASE_URL and"
            " TIGHTFRAME_LLM_MODEL"
        )


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
    """A kept reply; None where there is none, or one that is not what is asked for today."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return parse(json.dumps(entry["reply"]))
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that the server asks to wait: a number or a date."""
    value = answer.headers.get("Retry-After", "")
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
    """A stranger's text as one line that a terminal can show."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
